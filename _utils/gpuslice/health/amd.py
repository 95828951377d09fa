"""
What is wrong with an AMD GPU, as amdgpu's files below ``ras`` tell it (the kernel's ``amdgpu_ras.c``). The files belong to the
whole board: there are none for a partition. ``xgmi_error`` is never read, because reading it clears it.
"""

import re

from gpuslice.drivers import kernel
from gpuslice.drivers.pci import DEVICES
from gpuslice.health.finding import found

#: What a counter says instead of numbers while the GPU is reset or begins; the read itself succeeds.
_INACCESSIBLE = "query currently inaccessible"
#: Flag of a page in gpu_vram_bad_pages -> (code, what has become of these pages, what to do).
_PAGES = {
    "R": ("amd-bad-pages", "taken out of use", "Nothing has to be done; with many of them 'dmesg' asks for another board."),
    "P": ("amd-bad-pages-pending", "to be taken out of use", "They are at the next start of the driver: reboot when it is idle."),
    "F": ("amd-bad-pages-unreservable", "that could not be taken out of use", "Reboot when it is idle; see 'dmesg'."),
}


def findings(host, _sessions, gpu, _driver):
    """Findings on an AMD GPU; parameters as of :func:`gpuslice.health.board.findings`. Without the files there are none."""
    base = f"{DEVICES}/{gpu.address}/ras"
    names = host.listdir(base)
    counters = [name.removesuffix("_err_count") for name in names if name.endswith("_err_count")]
    told = {block: kernel.text(host, f"{base}/{block}_err_count") or "" for block in counters}
    return [
        *_uncorrected(gpu.address, told),
        *_unknown(gpu.address, [block for block, text in told.items() if _INACCESSIBLE in text.lower()]),
        *(_pages(gpu.address, kernel.text(host, f"{base}/gpu_vram_bad_pages") or "") if "gpu_vram_bad_pages" in names else ()),
    ]


def _uncorrected(gpu, told):
    for block, text in told.items():
        counted = re.search(r"^ue:\s*([0-9]{1,20})\b", text, re.MULTILINE)
        if counted and int(counted[1]):
            words = f"{counted[1]} uncorrected errors in {block} since the driver was loaded"
            yield found(gpu, "amd-uncorrectable-ras", words, "Drain the GPU and reboot; if it comes again, replace the board.")


def _unknown(gpu, blocks):
    if blocks:
        words = f"the driver does not tell the errors of {', '.join(blocks)} now: the GPU is being reset, or begins"
        yield found(gpu, "amd-ras-unknown", words, "Ask again when that is over; 'dmesg' tells its cause.")


def _pages(gpu, text):
    flags = re.findall(r"^\s*0x[0-9a-fA-F]+\s*:\s*0x[0-9a-fA-F]+\s*:\s*([RPF])\s*$", text, re.MULTILINE)
    for flag, (code, become, todo) in _PAGES.items():
        if count := flags.count(flag):
            yield found(gpu, code, f"{count} bad memory pages {become}", todo)
