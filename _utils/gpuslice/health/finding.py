"""
What was found on a GPU: a code for programs and words for people. ``docs/health.md`` says what each code means and where it is
read.
"""

from typing import NamedTuple

#: Worth knowing, and no fault: something can't be read in the present mode, or has been dealt with.
INFO = "info"
#: A fault, or the trace of one, that does not stand in the way of slicing.
WARNING = "warning"
#: The GPU should not be changed before this is mended; a change is refused while ``health_check`` is on.
CRITICAL = "critical"

#: Code -> severity. Codes are stable: what stands in a user's alarms keeps its name and its meaning.
SEVERITY = {
    "amd-bad-pages": INFO,
    "amd-bad-pages-pending": WARNING,
    "amd-bad-pages-unreservable": WARNING,
    "amd-ras-unknown": INFO,
    "amd-uncorrectable-ras": CRITICAL,
    "intel-survivability-mode": CRITICAL,
    "mode-pending": INFO,
    "nvidia-driver-hangs": CRITICAL,
    "nvidia-driver-mismatch": WARNING,
    "nvidia-ecc-unknown": INFO,
    "nvidia-fabric-degraded": WARNING,
    "nvidia-fabric-not-ready": WARNING,
    "nvidia-gpu-lost": CRITICAL,
    "nvidia-health-unreadable": CRITICAL,
    "nvidia-not-asked": WARNING,
    "nvidia-page-retirement-pending": WARNING,
    "nvidia-recovery-action-bus-reset": CRITICAL,
    "nvidia-recovery-action-drain-and-reset": CRITICAL,
    "nvidia-recovery-action-drain-p2p": CRITICAL,
    "nvidia-recovery-action-other": CRITICAL,
    "nvidia-recovery-action-reboot": CRITICAL,
    "nvidia-recovery-action-recover-imex": CRITICAL,
    "nvidia-recovery-action-reset": CRITICAL,
    "nvidia-recovery-action-system-reboot": CRITICAL,
    "nvidia-row-remap-failed": CRITICAL,
    "nvidia-row-remap-pending": CRITICAL,
    "nvidia-row-remap-unknown": INFO,
    # What it leads to is told by the rows that are remapped for it, and by what the driver asks for.
    "nvidia-uncorrectable-ecc": WARNING,
    "pci-aer-fatal": WARNING,
    "pci-aer-nonfatal": WARNING,
    "pci-gone": CRITICAL,
    "pci-link-degraded": INFO,
    "reboot-pending": INFO,
}


class Finding(NamedTuple):
    """
    Something about the health of one GPU.

    :ivar gpu: PCI address; :ivar code: a key of :data:`SEVERITY`; :ivar severity: info, warning or critical.
    :ivar words: what is wrong: words that go on after "GPU ...:", or, with a full stop at their end, a whole sentence.
    :ivar todo: what can be done about it, as a sentence.
    """

    gpu: str
    code: str
    severity: str
    words: str
    todo: str = ""

    @property
    def sentence(self) -> str:
        """As ``gpu.health`` tells it: the words, and after a whole sentence what to do."""
        return f"{self.words} {self.todo}".rstrip() if self.words.endswith(".") else self.words


def found(gpu: str, code: str, words: str, todo: str = "") -> Finding:
    """The finding with that code on the GPU at that PCI address."""
    return Finding(gpu, code, SEVERITY[code], words, todo)
