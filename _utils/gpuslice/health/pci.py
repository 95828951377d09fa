"""
What the PCI core tells of a device, whoever drives it.

Facts: the kernel's ABI of ``aer_dev_*`` and of ``current_link_width``; a device that is off the bus answers every read of its
configuration with ones (PCI Express base specification), and so does one that sleeps without power. A link may run slower while
nothing is done, but not on fewer lanes. The configuration itself is never read: some devices don't bear that.
"""

from gpuslice.drivers import kernel
from gpuslice.drivers.pci import DEVICES
from gpuslice.health.finding import found
from gpuslice.numbers import whole

_AER = (("fatal", "aer_dev_fatal", "TOTAL_ERR_FATAL"), ("nonfatal", "aer_dev_nonfatal", "TOTAL_ERR_NONFATAL"))
#: The width of a link whose six bits are all ones: there is none so wide.
_ONES = 63
_ASLEEP = ("suspended", "suspending", "resuming")


def is_gone(host, gpu):
    """Whether the device at that PCI address has fallen off the bus."""
    base = f"{DEVICES}/{gpu}"
    if not host.exists(f"{base}/vendor"):
        return True
    return _width(host, gpu, "current") == _ONES and kernel.text(host, f"{base}/power/runtime_status") not in _ASLEEP


def _width(host, gpu, name):
    return _count(kernel.text(host, f"{DEVICES}/{gpu}/{name}_link_width") or "")


def _count(text):
    """A number that can be one of something, None for any other text."""
    found = whole(text)
    return None if found is None or found < 0 else found


def gone(gpu):
    """The finding for a device that has fallen off the bus."""
    todo = "Drain the host and power-cycle it; see 'dmesg' for what happened to it."
    return found(gpu, "pci-gone", "it has fallen off the PCI bus", todo)


def faults(host, gpu):
    """Traces of errors on the way to a GPU (:class:`gpuslice.model.Gpu`), as :class:`.finding.Finding`."""
    for kind, count in _errors(host, gpu.address):
        if count:
            words = f"{count} {'' if kind == 'fatal' else 'non-'}fatal PCIe errors since the device was found"
            yield found(gpu.address, f"pci-aer-{kind}", words, "See 'dmesg | grep AER'; check slot and risers.")


def _errors(host, gpu):
    """(kind, count) of the errors on the way to a GPU; a count is None where it is not told."""
    for kind, name, total in _AER:
        lines = (line.rpartition(" ") for line in (kernel.text(host, f"{DEVICES}/{gpu}/{name}") or "").splitlines())
        yield kind, next((_count(number) for word, _, number in lines if word.strip() == total), None)


def counters(host, gpu):
    """``aer_fatal``, ``aer_nonfatal`` and ``link_width`` of a GPU (:class:`gpuslice.model.Gpu`), as far as they are told."""
    found = {f"aer_{kind}": count for kind, count in _errors(host, gpu.address)}
    # An Intel board has a bridge of its own, and the GPU behind it tells nothing of the way to the host.
    found["link_width"] = None if gpu.vendor == "intel" else _width(host, gpu.address, "current")
    return {name: count for name, count in found.items() if count is not None}


def remarks(host, gpu):
    """What may be in order and is worth a look; as :func:`faults`."""
    # An Intel board has a bridge of its own, and the GPU behind it tells nothing of the way to the host.
    if gpu.vendor == "intel":
        return
    now, most = (_width(host, gpu.address, name) for name in ("current", "max"))
    if now and most and now < most:
        todo = "Where the slot has as many lanes, check how the board sits in it."
        yield found(gpu.address, "pci-link-degraded", f"its PCIe link has {now} of {most} lanes", todo)
