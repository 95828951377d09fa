"""
What is wrong with an AMD GPU, as amdgpu's files below ``ras`` tell it (the kernel's ``amdgpu_ras.c``). The files belong to the
whole board: there are none for a partition. ``xgmi_error`` is never read, because reading it clears it.
"""

import re
from functools import cached_property

from gpuslice.drivers import kernel
from gpuslice.drivers.pci import DEVICES
from gpuslice.health.finding import found
from gpuslice.health.signs import NOTHING
from gpuslice.health.signs import Signs

#: What a counter says instead of numbers while the GPU is reset or begins; the read itself succeeds.
_INACCESSIBLE = "query currently inaccessible"
_UNCORRECTED = "Drain the GPU and reboot; if it comes again, replace the board."
#: Flag of a page in gpu_vram_bad_pages -> (code, what has become of these pages, what to do).
_PAGES = {
    "R": ("amd-bad-pages", "taken out of use", "Nothing has to be done; with many of them 'dmesg' asks for another board."),
    "P": ("amd-bad-pages-pending", "to be taken out of use", "They are at the next start of the driver: reboot when it is idle."),
    "F": ("amd-bad-pages-unreservable", "that could not be taken out of use", "Reboot when it is idle; see 'dmesg'."),
}


class Health:
    """The health of one GPU; parameters as of :class:`gpuslice.health.board.Reading`. Without the files nothing is wrong."""

    def __init__(self, host, _sessions, gpu, _driver):
        self._host, self._gpu = host, gpu.address

    def faults(self):
        """What is wrong with it."""
        return [*self._uncorrected(), *self._pages("PF")]

    def remarks(self):
        """What is no fault of it."""
        return [*self._unknown(), *self._pages("R")]

    def signs(self):
        """``ras_uncorrected``, the errors in all blocks since the driver was loaded, where every block tells its number."""
        counted = [_number(text) for text in self._counters.values()]
        return Signs({"ras_uncorrected": sum(counted)}) if counted and None not in counted else NOTHING

    @cached_property
    def _counters(self):
        """Block -> what its counter says."""
        base = f"{DEVICES}/{self._gpu}/ras"
        blocks = [name.removesuffix("_err_count") for name in self._host.listdir(base) if name.endswith("_err_count")]
        return {block: kernel.text(self._host, f"{base}/{block}_err_count") or "" for block in blocks}

    @cached_property
    def _bad_pages(self):
        """The flag of each bad page."""
        text = kernel.text(self._host, f"{DEVICES}/{self._gpu}/ras/gpu_vram_bad_pages") or ""
        return re.findall(r"^\s*0x[0-9a-fA-F]+\s*:\s*0x[0-9a-fA-F]+\s*:\s*([RPF])\s*$", text, re.MULTILINE)

    def _uncorrected(self):
        for block, text in self._counters.items():
            if counted := _number(text):
                words, todo = f"{counted} uncorrected errors in {block} since the driver was loaded", _UNCORRECTED
                yield found(self._gpu, "amd-uncorrectable-ras", words, todo)

    def _unknown(self):
        if blocks := [block for block, text in self._counters.items() if _INACCESSIBLE in text.lower()]:
            words = f"the driver does not tell the errors of {', '.join(blocks)} now: the GPU is being reset, or begins"
            yield found(self._gpu, "amd-ras-unknown", words, "Ask again when that is over; 'dmesg' tells its cause.")

    def _pages(self, which):
        for flag in which:
            code, become, todo = _PAGES[flag]
            if count := self._bad_pages.count(flag):
                yield found(self._gpu, code, f"{count} bad memory pages {become}", todo)


def _number(text):
    counted = re.search(r"^ue:\s*([0-9]{1,20})\b", text, re.MULTILINE)
    return int(counted[1]) if counted else None
