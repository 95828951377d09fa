"""
The words of MPS.
"""

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
#: MiB that one limit can be, far above any GPU.
_MIB = whole(1, 2**24)
_PERCENT = whole(1, 100)
_SLICE = text(r"[A-Za-z0-9_.:-]+")
PROFILES = listing(LINE)


def THREADS(value, path):  # noqa: N802 - a shape as those above
    """A percentage with one digit behind the point."""
    if type(value) not in (int, float) or not 0 < value <= 100:
        raise ValueError(f"{path} is no percentage")


_DAEMON = {"clients": whole(1, MOST), "threads": THREADS, "pinned_mib": maybe(_MIB)}
#: Name of a slice -> what its daemon is to do, and in a layout whether it runs.
DAEMONS = table(_SLICE, record(_DAEMON))
_RUNNING = table(_SLICE, record({**_DAEMON, "runs": truth}))


class Mps(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Multi-Process Service: consumers run side by side on a GPU or on each of its MIG devices, each with a limit of compute "
        "and memory; a daemon each, as a systemd unit.",
        max_instance_count=fields.number(
            "How many consumers may share the GPU, or each MIG device: at most 48, from driver 590 on 60; on a MIG device fewer.",
            8, 1, MOST,
        ),
        share_policy=fields.choice("How compute and memory are divided.", "equal", "equal"),
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

    def judge(self, settings, written, notes):
        """Warn of what it does not part."""
        notes.warn(
            f"{written.path}:{'mps:enabled' if written.beside else 'strategy'}",
            "MPS limits each client process, not each consumer, and a fault of one ends all clients of its GPU or MIG device; a "
            "consumer that is uid 0 of the host can end the daemon of all.",
        )
        if settings["profiles"] and written.chosen:
            notes.warn(f"{written.path}:mps:profiles", "has no effect on a whole GPU, only beside strategy mig.")

    def says_more(self, settings):
        """Whether any of its settings is not the default."""
        return settings != self.defaults()

    def defaults(self):
        """Its settings where nothing is written, as the pillar has them."""
        return {name: each.default for name, each in self.FIELD.fields.items() if name != "enabled"}

    def layout(self):
        """Which daemons there are with which limits, and what is set for them."""
        return record(
            {"daemons": _RUNNING, "profiles": PROFILES, "exclusive": truth, "mode": maybe(whole(0, 3))}
        )

    def asked(self):
        """It waits for a reboot together with what it stands on."""
        zero = whole(0, 0)
        return record(
            {},
            {
                "max_instance_count": whole(1, MOST), "share_policy": LINE, "active_thread_percentage": either(zero, _PERCENT),
                "pinned_memory_mib": either(zero, _MIB), "exclusive": truth, "profiles": PROFILES,
            },
        )  # fmt: skip


SECTION = Mps()
