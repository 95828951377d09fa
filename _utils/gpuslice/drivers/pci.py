"""
A GPU as the PCI core tells it: who drives it, whether it can be given to a virtual machine, and its virtual functions.
"""

from gpuslice import errors
from gpuslice.drivers.kernel import number
from gpuslice.numbers import whole

DEVICES = "/sys/bus/pci/devices"

#: Drivers that hand a whole PCI function to user space, such as a virtual machine: nothing can be sliced under them.
VFIO_DRIVERS = ("vfio-pci", "xe-vfio-pci", "nvgrace-gpu-vfio-pci")

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


def refuse_if_gone(host, gpu):
    """Raise errors.DeviceNotFound when the PCI core no longer knows the function at this PCI address."""
    if not host.exists(f"{DEVICES}/{gpu}"):
        raise errors.DeviceNotFound("The PCI function is gone.", gpu, "See 'dmesg' for what happened to it.")


def refuse_if_given_away(host, gpu):
    """
    Raise errors.ResourceConflict when the GPU is bound to a VFIO driver, under which only passthrough can work with it.

    :param gpu: :class:`gpuslice.model.Gpu`; its driver is read anew, because a change may have moved it meanwhile.
    """
    driver = host.readlink(f"{DEVICES}/{gpu.address}/driver")
    if driver in VFIO_DRIVERS:
        raise errors.ResourceConflict(
            f"The GPU is bound to {driver} for passthrough, so nothing else can be done with it.",
            gpu.address,
            f"Give it back to its own driver first: salt-call gpu_passthrough.release {gpu.address}",
        )


def iommu_is_on(host):
    """Whether the kernel translates for devices, without which no virtual machine can be given one."""
    return bool(host.listdir("/sys/class/iommu")) and bool(host.listdir("/sys/kernel/iommu_groups"))


def refuse_without_iommu(host, gpu, instead=""):
    """
    Raise errors.Unsupported where no virtual machine could be given a virtual function.

    :param gpu: PCI address; :param instead: a sentence on what else may be done.
    """
    if iommu_is_on(host):
        return
    advice = "Switch VT-d or AMD-Vi on in the firmware and boot with 'intel_iommu=on' or 'amd_iommu=on'."
    raise errors.Unsupported(
        "The IOMMU of this host is off, so no virtual machine could be given a virtual function.",
        gpu,
        f"{advice} {instead}".rstrip(),
    )
