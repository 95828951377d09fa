"""
What is wrong with an AMD GPU, as amdgpu's files below ``ras`` tell it (the kernel's ``amdgpu_ras.c``). The files belong to the
whole board: there are none for a partition. ``xgmi_error`` is never read, because reading it clears it.
"""

import re

from gpuslice.drivers import kernel
from gpuslice.drivers.pci import DEVICES
from gpuslice.health.finding import found
from gpuslice.health.signs import NOTHING
from gpuslice.health.signs import Signs

#: What a counter says instead of numbers while the GPU is reset or begins; the read itself succeeds.
_INACCESSIBLE = "query currently inaccessible"
#: Flag of a page in gpu_vram_bad_pages -> (code, what has become of these pages, what to do).
_PAGES = {
    "R": ("amd-bad-pages", "taken out of use", "Nothing has to be done; with many of them 'dmesg' asks for another board."),
    "P": ("amd-bad-pages-pending", "to be taken out of use", "They are at the next start of the driver: reboot when it is idle."),
    "F": ("amd-bad-pages-unreservable", "that could not be taken out of use", "Reboot when it is idle; see 'dmesg'."),
}


def faults(host, _sessions, gpu, _driver):
    """What is wrong with an AMD GPU; parameters as of :func:`gpuslice.health.board.faults`. Without the files nothing is."""
    return [*_uncorrected(host, gpu.address), *_pages(host, gpu.address, "PF")]


def remarks(host, _sessions, gpu, _driver):
    """What is no fault of an AMD GPU; parameters as of :func:`gpuslice.health.board.faults`."""
    return [*_unknown(host, gpu.address), *_pages(host, gpu.address, "R")]


def signs(host, _sessions, gpu):
    """``ras_uncorrected``, the errors in all blocks since the driver was loaded, where every block tells its number."""
    counted = [_number(text) for text in _counters(host, gpu.address).values()]
    return Signs({"ras_uncorrected": sum(counted)}) if counted and None not in counted else NOTHING


def _number(text):
    counted = re.search(r"^ue:\s*([0-9]{1,20})\b", text, re.MULTILINE)
    return int(counted[1]) if counted else None


def _counters(host, gpu):
    """Block -> what its counter says."""
    base = f"{DEVICES}/{gpu}/ras"
    blocks = [name.removesuffix("_err_count") for name in host.listdir(base) if name.endswith("_err_count")]
    return {block: kernel.text(host, f"{base}/{block}_err_count") or "" for block in blocks}


def _uncorrected(host, gpu):
    for block, text in _counters(host, gpu).items():
        if counted := _number(text):
            words = f"{counted} uncorrected errors in {block} since the driver was loaded"
            yield found(gpu, "amd-uncorrectable-ras", words, "Drain the GPU and reboot; if it comes again, replace the board.")


def _unknown(host, gpu):
    if blocks := [block for block, text in _counters(host, gpu).items() if _INACCESSIBLE in text.lower()]:
        words = f"the driver does not tell the errors of {', '.join(blocks)} now: the GPU is being reset, or begins"
        yield found(gpu, "amd-ras-unknown", words, "Ask again when that is over; 'dmesg' tells its cause.")


def _pages(host, gpu, which):
    text = kernel.text(host, f"{DEVICES}/{gpu}/ras/gpu_vram_bad_pages") or ""
    flags = re.findall(r"^\s*0x[0-9a-fA-F]+\s*:\s*0x[0-9a-fA-F]+\s*:\s*([RPF])\s*$", text, re.MULTILINE)
    for flag in which:
        code, become, todo = _PAGES[flag]
        if count := flags.count(flag):
            yield found(gpu, code, f"{count} bad memory pages {become}", todo)
