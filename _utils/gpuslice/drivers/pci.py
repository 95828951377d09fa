"""
Virtual functions of a GPU as the PCI core tells them.
"""

from gpuslice.drivers.kernel import DEVICES
from gpuslice.drivers.kernel import number
from gpuslice.numbers import whole

#: The field of the SR-IOV capability that numbers virtual functions has 16 bits (PCIe base specification).
MOST = 2**16 - 1


def there(host, gpu):
    """
    PCI addresses of the virtual functions that exist, in the order of their numbers.

    :param gpu: PCI address of the physical function.
    """
    base = f"{DEVICES}/{gpu}"
    found = (whole(name[6:]) for name in host.listdir(base) if name.startswith("virtfn"))
    linked = (host.readlink(f"{base}/virtfn{n}") for n in sorted(n for n in found if n is not None))
    return tuple(address for address in linked if address and host.exists(f"{DEVICES}/{address}"))


def possible(host, gpu, count):
    """
    PCI addresses that virtual functions will have, by the offset and stride that the device tells.

    :param gpu: PCI address of the physical function; :param count: how many there will be.
    :return: list; [] where the device does not tell: both numbers may be zero while there are no functions (PCIe base
        specification, SR-IOV capability).
    """
    offset, stride = (number(host, f"{DEVICES}/{gpu}/sriov_{name}") for name in ("offset", "stride"))
    if not offset or stride is None or (count > 1 and not stride):
        return []
    domain, bus, rest = gpu.split(":")
    device, _, function = rest.partition(".")
    first = (int(bus, 16) << 8 | int(device, 16) << 3 | int(function)) + offset
    ids = [first + stride * n for n in range(count)]
    return [f"{domain}:{i >> 8 & 0xFF:02x}:{i >> 3 & 0x1F:02x}.{i & 7}" for i in ids]
