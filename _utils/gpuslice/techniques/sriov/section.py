"""
The words of SR-IOV.
"""

from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import ADDRESS
from gpuslice.shape import LINE
from gpuslice.shape import NUMBER
from gpuslice.shape import PATH
from gpuslice.shape import WORD
from gpuslice.shape import anything
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import truth
from gpuslice.shape import whole

#: What one virtual function may have of its own, and what all have in common.
_TURN = {
    "exec_quantum_ms": fields.number(
        "How long it may run before others get a turn, in milliseconds; 0 is no limit.", None, 0, 100000
    ),
    "preempt_timeout_us": fields.number(
        "Grace before it is forced off, in microseconds; 0 is no limit.", None, 0, 100000000
    ),
}  # fmt: skip
_SCHEDULING = fields.Field(
    "options",
    "Turns of all virtual functions; what is not written is as the profile has it.",
    {},
    fields={
        **_TURN,
        "priority": fields.choice("normal keeps the turn of an idle function, low gives it away.", None, "low", "normal"),
    },
)
_VF = fields.Field(
    "options",
    "What one virtual function gets.",
    {},
    fields={
        "vram_mib": fields.number("Memory of the card, in MiB.", None, 1, 16777216),
        "ggtt_mib": fields.number("Graphics address space, in MiB.", None, 1, 65536),
        "contexts": fields.number("Contexts of the scheduler.", None, 1, 65535),
        "doorbells": fields.number("Doorbells of the scheduler.", None, 1, 1024),
        **_TURN,
    },
)
#: The most virtual functions that a PCI device can have.
_COUNT = whole(0, 65535)


class Sriov(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Virtual functions of the GPU.",
        vf_count=fields.number("Virtual functions to create; 0 removes them.", 4, 0, 256),
        pf_device=fields.Field("address", "PCI address of the physical function; empty means the GPU itself.", ""),
        vf_devices=fields.Field(
            "list", "PCI addresses of the virtual functions that may be used; empty means all.", [], item=fields.PCI_ADDRESS
        ),
        profile=fields.choice(
            "How the GPU is divided: auto (the vendor's preset where there is one, else fair), fair (the driver's equal shares), "
            "or a scheduling policy of the vendor's presets.",
            "auto", "auto", "fair", "Flexible_30fps", "Fixed_30fps", "BurstableQoS",
        ),
        autoprobe=fields.flag(
            "true: the host's driver takes new virtual functions; false: they stay free for virtual machines."
        ),
        scheduling=_SCHEDULING,
        vfs=fields.Field("numbered", "What single virtual functions get, by their numbers from 1.", {}, item=_VF),
    )  # fmt: skip
    DECISIVE = ("vf_count",)

    def judge(self, settings, written, notes):
        """No virtual function is beyond the last one."""
        beyond = [number for number in settings["vfs"] if int(number) > settings["vf_count"]]
        if beyond:
            where = f"{written.path}:sriov:vfs:{beyond[0]}"
            notes.wrong(where, f"is beyond the {settings['vf_count']} virtual functions of vf_count.")

    def layout(self):
        """Functions and their shares, by the kernel's files; or the option of a module that makes them for all its GPUs."""
        option = record({"driver": WORD, "numvfs": _COUNT, "option": maybe(_COUNT)})
        functions = record(
            {"driver": WORD, "numvfs": _COUNT, "autoprobe": maybe(whole(0, 1)), "values": table(PATH, NUMBER)},
            {"files": WORD, "provisioning": WORD},
        )
        return either(option, functions)

    def asked(self):
        """An option of a module can wait for a reboot."""
        return record(
            {
                "vf_count": _COUNT,
                "profile": WORD,
                "pf_device": LINE,
                "vf_devices": listing(ADDRESS),
                "autoprobe": truth,
                "vfs": table(WORD, table(WORD, anything)),
                "scheduling": table(WORD, anything),
            },
            {"reload": truth, "remove": truth},
        )


SECTION = Sriov()
