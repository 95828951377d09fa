"""
The words of MPS.
"""

from gpuslice import errors
from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import LINE
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.shape import whole

#: Clients that any driver allows on a GPU; one before CUDA 13.1 allows fewer (:func:`gpuslice.drivers.mps.most_clients`).
MOST = 60
#: What the pillar calls the daemon's protocols -> their numbers; auto goes by what is asked for.
PROTOCOLS = {"auto": 0, "v2": 2, "v3": 3}
#: MiB that one limit can be, far above any GPU.
_MIB = whole(1, 2**24)
_PERCENT = whole(1, 100)
_SLICE = text(r"[A-Za-z0-9_.:-]+")
PROFILES = listing(LINE)
#: What gives all clients the same, which weights say otherwise.
_EQUAL = ("max_instance_count", "active_thread_percentage", "pinned_memory_mib")


def THREADS(value, path):  # noqa: N802 - a shape as those above
    """A percentage with one digit behind the point."""
    if type(value) not in (int, float) or not 0 < value <= 100:
        raise ValueError(f"{path} is no percentage")


_WEIGHTS = listing(whole(1, 100))
_DAEMON = {
    "clients": whole(1, MOST), "threads": THREADS, "pinned_mib": maybe(_MIB), "weights": _WEIGHTS, "protocol": whole(2, 3),
}  # fmt: skip
#: Name of a slice -> what its daemon is to do, and in a layout whether it runs.
DAEMONS = table(_SLICE, record(_DAEMON))
_RUNNING = table(_SLICE, record({**_DAEMON, "runs": truth}))


#: Templates of the site: name -> text.
TEXTS = table(text("[a-z_]+"), text())


class Mps(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    TEMPLATES = ("mps", "mps_settings")
    NOTHING = {"clear": True}
    FIELD = fields.section(
        "Multi-Process Service: consumers run side by side on a GPU or on each of its MIG devices, each with a limit of compute "
        "and memory; a daemon each, as a systemd unit.",
        max_instance_count=fields.number(
            "How many consumers may share the GPU, or each MIG device: at most 48, from driver 590 on 60; on a MIG device fewer.",
            8, 1, MOST,
        ),
        share_policy=fields.choice("How compute and memory are divided: equally, or by weights.", "equal", "equal", "weighted"),
        weights=fields.Field(
            "list", "Weights of the consumers that share, one number each, such as [2, 1, 1]; none: all get the same.", [],
            item=fields.number("Weight of one consumer.", 1, 1, 100),
        ),
        protocol=fields.choice(
            "Protocol of the daemon: v3, from driver 615 on, enforces weights; auto: v3 for these where there is such a driver.",
            "auto", *PROTOCOLS,
        ),
        active_thread_percentage=fields.number(
            "Share of the multiprocessors that each client gets at most, in percent; 0: 100 by the number of consumers.",
            0, 0, 100,
        ),
        pinned_memory_mib=fields.number(
            "Memory of the device that each client gets at most, in MiB; 0: its memory by the number of consumers.",
            0, 0, 2**24,
        ),
        exclusive=fields.flag(
            "Whole GPUs: compute mode EXCLUSIVE_PROCESS, so that no program computes beside the daemon.", default=True
        ),
        profiles=fields.Field(
            "list", "Beside MIG: profiles of the MIG devices that are shared; none: all.", [],
            item=fields.Field("text", "Name of a MIG profile, in quotes."),
        ),
    )  # fmt: skip

    def settle(self, filled, written, notes):
        """How a rule divides stands in the place of how the host does: nothing of the one counts beside the other."""
        own = written.own
        others = _EQUAL if own.get("weights") else ("weights",) if own.get("share_policy") == "equal" else ()
        return {**filled, **{key: own.get(key, self.FIELD.fields[key].default) for key in others}}

    def judge(self, settings, written, notes):
        """Note weights that say another thing than what stands beside them, and warn of what it does not part."""
        divides = "weights" in written.own or written.own.get("share_policy") == "equal"
        given = written.own if divides else {**written.host, **written.own}
        for key, what in _contradictions(given):
            notes.wrong(f"{written.path if key in written.own else written.host_path}:mps:{key}", what)
        notes.warn(
            f"{written.path}:{'mps:enabled' if written.beside else 'strategy'}",
            "MPS limits each client process, not each consumer, and a fault of one ends all clients of its GPU or MIG device; a "
            "consumer that is uid 0 of the host can end the daemon of all.",
        )
        if settings["profiles"] and written.chosen:
            notes.warn(f"{written.path}:mps:profiles", "has no effect on a whole GPU, only beside strategy mig.")

    def check_asked(self, settings):
        """Raise errors.PolicyError for weights by hand that say another thing than what is given beside them."""
        for key, what in _contradictions(settings):
            raise errors.PolicyError(f"{key} {what}")

    def defaults(self):
        """Its settings where nothing is written, as the pillar has them."""
        return {name: each.default for name, each in self.FIELD.fields.items() if name != "enabled"}

    def layout(self):
        """Which daemons there are with which limits, and what is set for them."""
        mode = maybe(whole(0, 3))
        return record({"daemons": _RUNNING, "profiles": PROFILES, "exclusive": truth, "mode": mode, "templates": TEXTS})

    def asked(self):
        """It waits for a reboot together with what it stands on."""
        zero = whole(0, 0)
        return record(
            {},
            {
                "max_instance_count": whole(1, MOST), "share_policy": LINE, "weights": _WEIGHTS, "protocol": LINE,
                "active_thread_percentage": either(zero, _PERCENT),
                "pinned_memory_mib": either(zero, _MIB), "exclusive": truth, "profiles": PROFILES,
                "templates": TEXTS,
            },
        )  # fmt: skip


def _contradictions(given):
    """(key, what is wrong) of settings, of which only those that were written are there."""
    weights = given.get("weights") or []
    if given.get("share_policy") == "weighted" and not weights:
        yield "share_policy", "is weighted, and weights are missing: one number for each consumer, such as weights: [2, 1, 1]."
    if not weights:
        return
    if given.get("share_policy") == "equal":
        yield "weights", "says who gets how much, and share_policy says that all get the same. Remove one of them."
    if len(weights) > MOST:
        yield "weights", f"has {len(weights)} numbers, and any driver allows {MOST} clients at most."
    if given.get("max_instance_count", len(weights)) != len(weights):
        what = f"is {given['max_instance_count']}, and weights has {len(weights)} numbers. Leave it out: weights says how many."
        yield "max_instance_count", what
    for key in _EQUAL[1:]:
        if given.get(key):
            yield key, "gives every client the same, and weights divides it. Remove one of them."


SECTION = Mps()
