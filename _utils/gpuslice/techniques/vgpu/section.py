"""
The words of vGPU: types on a host, and the licence in a virtual machine.
"""

from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import LINE
from gpuslice.shape import WORD
from gpuslice.shape import anything
from gpuslice.shape import listing
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import table
from gpuslice.shape import truth
from gpuslice.shape import whole
from gpuslice.techniques.mig import section as mig

#: What vgpu can't do without: on a host one of the first, in a virtual machine one of the others.
TYPE_KEYS = ("profile", "profiles")
LICENCE_KEYS = ("license_server", "client_token")
_COUNT = whole(0, 65535)


class Vgpu(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Virtual GPUs for virtual machines, and their licence in a virtual machine.",
        profile=fields.Field("text", "Name of the vGPU type that each GPU of a host is divided into.", ""),
        count=fields.number("How many vGPUs of profile each GPU gets; 0: as many as fit.", 0, 0, 64),
        profiles=fields.Field(
            "counts", "vGPU types and how many of each, for GPUs that carry several; instead of profile.", {}, low=1, high=64
        ),
        scheduler=fields.choice(
            "How vGPUs take turns on a GPU; empty leaves it as it is.", "", "", "best-effort", "equal-share", "fixed-share"
        ),
        license_server=fields.Field("server", "Host name or address of the licence server, in a virtual machine.", ""),
        license_port=fields.number("Port of the licence server.", 7070, 1, 65535),
        feature=fields.choice(
            "What is licensed in a virtual machine; auto leaves it to the driver.",
            "auto", "auto", "vgpu", "workstation", "compute",
        ),
        client_token=fields.Field("secret", "Text of the client configuration token, in a virtual machine.", ""),
    )  # fmt: skip
    DECISIVE = TYPE_KEYS

    def settle(self, filled, written, notes):
        """One type or several: what a rule says of the one takes the place of what the host says of the other."""
        _check_types(written.host, written.host_path, notes)
        _check_types(written.own, written.path, notes)
        if written.own.get("profiles"):
            return {**filled, "profile": "", "count": 0}
        return {**filled, "profiles": {}} if written.own.get("profile") else filled

    def judge(self, settings, written, notes):
        """Something has to be wanted."""
        if not any(settings[key] for key in (*TYPE_KEYS, *LICENCE_KEYS)):
            notes.wrong(
                f"{written.path}:vgpu:profile",
                "is empty, but the strategy is vgpu; name the vGPU type to create, or in a virtual machine its license_server or "
                "client_token.",
            )

    def missing(self, settings, environment):
        """Types are chosen on a host, licences in its virtual machines."""
        if environment == "virtual_guest":
            given = any(settings[key] for key in LICENCE_KEYS)
            return "" if given else "neither license_server nor client_token is given"
        return "" if any(settings[key] for key in TYPE_KEYS) else "no vGPU profile is given"

    def layout(self):
        """A host's vGPUs, with the MIG layout below them."""
        return record(
            {"vgpus": listing(row(LINE, LINE, LINE)), "numvfs": _COUNT},
            {"heterogeneous": truth, "scheduler": LINE, "mig": mig.SECTION.layout()},
        )

    def asked(self):
        """As a pillar or a function asks for it."""
        return record(
            {},
            {
                "profile": LINE,
                "profiles": table(LINE, _COUNT),
                "count": _COUNT,
                "scheduler": LINE,
                "license_server": LINE,
                "license_port": _COUNT,
                "feature": WORD,
                "client_token": LINE,
                "clear": truth,
                "remove": truth,
            },
        )

    def beside(self):
        """Also what is to become of MIG below it."""
        return {**super().beside(), "mig": anything}

    def steps(self):
        """Where a vGPU was made."""
        return {"create_vgpu": {"at": LINE, "uuid": LINE}}


def _check_types(scope, path, notes):
    if scope.get("profile") and scope.get("profiles"):
        notes.wrong(f"{path}:vgpu:profiles", "is given, but so is profile; name the types in one of the two.")
    elif scope.get("count") and scope.get("profiles"):
        notes.wrong(f"{path}:vgpu:count", "is given, but profiles has a count for each type; remove it.")


SECTION = Vgpu()
