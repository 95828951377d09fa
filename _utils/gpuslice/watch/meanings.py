"""
What a fault means for those who use a GPU: a status in one of four words, what to do, and what shows that it was done.

How the peers judge, and what their users suffered from, stands in ``docs/health.md``.
"""

from typing import NamedTuple

from gpuslice.catalog import xids
from gpuslice.status_words import ALL_GPUS
from gpuslice.status_words import BOARD
from gpuslice.status_words import DEGRADED
from gpuslice.status_words import FAILED
from gpuslice.status_words import LOST
from gpuslice.status_words import OK
from gpuslice.status_words import SLICE

#: What shows that something was done: nothing has to be, a program has ended, a reset, a boot, another board in its place.
PROGRAM, RESET, REBOOT, REPLACED = "program", "reset", "reboot", "replaced"


class Meaning(NamedTuple):
    """
    :ivar status: :ivar action: words of :mod:`gpuslice.status_words`; :ivar scope: slice, board or host.
    :ivar needs: what shows that it was dealt with, "" where it is enough that it is no longer seen.
    :ivar polled: whether it counts only when two looks in turn have seen it.
    :ivar certain: whether it stands although the driver says that it asks for nothing.
    """

    status: str
    action: str = "none"
    scope: str = BOARD
    needs: str = ""
    polled: bool = False
    certain: bool = True


#: Code of a finding, or of an event of the kernel's log -> what it means. What is not here is no matter of a status.
BY_CODE = {
    "amd-bad-pages-pending": Meaning(DEGRADED, "reboot", needs=REBOOT, polled=True),
    "amd-bad-pages-unreservable": Meaning(DEGRADED, "reboot", needs=REBOOT, polled=True),
    "amd-uncorrectable-ras": Meaning(FAILED, "reset", needs=RESET),
    "drm-hung": Meaning(DEGRADED, "restart_program"),
    "drm-wedged": Meaning(FAILED, "reset", needs=RESET),
    "intel-firmware": Meaning(FAILED, "drain", needs=REBOOT),
    "intel-hardware": Meaning(DEGRADED, "none"),
    "intel-survivability-mode": Meaning(FAILED, "drain", needs=REBOOT),
    "nvidia-driver-hangs": Meaning(FAILED, "reboot", polled=True),
    "nvidia-driver-mismatch": Meaning(DEGRADED, "reboot", polled=True),
    "nvidia-fabric-degraded": Meaning(DEGRADED, polled=True),
    "nvidia-fabric-not-ready": Meaning(DEGRADED, polled=True),
    "nvidia-gpu-lost": Meaning(LOST, "reboot", needs=RESET),
    "nvidia-health-unreadable": Meaning(DEGRADED, polled=True),
    "nvidia-page-retirement-pending": Meaning(DEGRADED, "reboot", polled=True),
    "nvidia-recovery-action-bus-reset": Meaning(FAILED, "reboot"),
    "nvidia-recovery-action-drain-and-reset": Meaning(FAILED, "reset"),
    "nvidia-recovery-action-drain-p2p": Meaning(DEGRADED, "drain"),
    "nvidia-recovery-action-other": Meaning(FAILED, "drain"),
    "nvidia-recovery-action-reboot": Meaning(FAILED, "reboot"),
    "nvidia-recovery-action-recover-imex": Meaning(DEGRADED, "none", ALL_GPUS),
    "nvidia-recovery-action-reset": Meaning(FAILED, "reset"),
    "nvidia-recovery-action-system-reboot": Meaning(FAILED, "reboot"),
    "nvidia-row-remap-failed": Meaning(FAILED, "replace", needs=REPLACED),
    "nvidia-row-remap-pending": Meaning(DEGRADED, "reset", polled=True),
    "nvidia-uncorrectable-ecc": Meaning(DEGRADED, "reset", needs=RESET, certain=False),
    "nvswitch-fatal": Meaning(FAILED, "reboot", ALL_GPUS, REBOOT),
    "pci-aer-fatal": Meaning(DEGRADED),
    "pci-aer-nonfatal": Meaning(DEGRADED, polled=True),
    "pci-gone": Meaning(LOST, "reboot", needs=RESET),
    "pci-link-narrower": Meaning(DEGRADED, polled=True),
}

#: A verdict of the driver, which it takes back itself when something was done.
VERDICTS = tuple(code for code in BY_CODE if code.startswith("nvidia-recovery-action-"))

#: Treatment of an Xid -> what that means; None for what is no matter of a status.
_BY_TREATMENT = {
    "ignore": None,
    "count": Meaning(OK, needs=PROGRAM),
    "restart_program": Meaning(DEGRADED, "restart_program", SLICE, PROGRAM),
    "look": Meaning(DEGRADED),
    "reset_when_idle": Meaning(DEGRADED, "reset", needs=RESET),
    "reset": Meaning(FAILED, "reset", needs=RESET),
    "reboot": Meaning(FAILED, "reboot", needs=REBOOT),
    "lost": Meaning(LOST, "reboot", needs=RESET),
}
#: What remains of an error for which the driver asks nothing: the programs that met it have to be started anew.
SOFTENED = Meaning(DEGRADED, "restart_program", SLICE, PROGRAM)
#: What many errors of programs become: the hardware may be the cause.
SUSPECT = Meaning(DEGRADED, "none", SLICE, PROGRAM)


def of_xid(number, treatments):
    """
    (meaning or None, words) of an Xid.

    :param treatments: number -> treatment that a site has chosen instead of that of the catalog.
    """
    known = xids.XIDS.get(number, xids.UNKNOWN)
    chosen = treatments.get(number)
    meaning = _BY_TREATMENT[chosen or known.treatment]
    if meaning and not chosen and meaning.status == FAILED:
        meaning = meaning._replace(certain=known.certain)
    return meaning, f"Xid {number}: {known.meaning}"


