"""
What techniques that are driven by the kernel's files share: reading and writing them with errors that say what to do, and
finding out who holds a device node.
"""

import errno
import re

from gpuslice import errors
from gpuslice import numbers
from gpuslice.host import limits
from gpuslice.printable import printable
from gpuslice.printable import printable_lines
from gpuslice.techniques import refuse_spared

STOP_OR_FORCE = (
    "Stop these, name their units in containers_gpu_state_management:stop_units, "
    "or set containers_gpu_state_management:apply_strategy to force (by hand: force=True)."
)

#: Who uses something where nobody is in sight.
UNSEEN = "a client that can't be seen from here"

DEVICES = "/sys/bus/pci/devices"
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

#: What an errno means where a technique knows nothing better: (class, why, what to do).
MEANINGS = {
    errno.EACCES: (errors.PermissionDenied, "it needs root", "Run the minion (or salt-call) as root."),
    errno.EPERM: (
        errors.PermissionDenied,
        "the kernel does not allow it",
        "Run as root; in a container or with Secure Boot it may be forbidden.",
    ),
    errno.EROFS: (
        errors.PermissionDenied,
        "/sys can only be read here",
        "In a container, run the minion on its host instead, or give the container /sys for writing.",
    ),
    errno.ENOENT: (
        errors.Unsupported,
        "the kernel has no such file or no driver that answers it",
        "Check the driver and the kernel version.",
    ),
    errno.EBUSY: (errors.InUse, "it is in use", "Stop its users and run again."),
    errno.EINVAL: (errors.DriverError, "the driver refuses this value", "See 'dmesg' for the driver's own words."),
    errno.ENODEV: (errors.DeviceNotFound, "the device is gone", "See 'dmesg' for what happened to it."),
}

#: Drivers that hand a whole PCI function to user space, such as a virtual machine: nothing can be sliced under them.
VFIO_DRIVERS = ("vfio-pci", "xe-vfio-pci", "nvgrace-gpu-vfio-pci")


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


def text(host, path):
    """Printable text of a file without white space at its ends, None where it is not there or can't be read."""
    try:
        return printable_lines(host.read(path)).strip()
    except OSError:
        return None


def number(host, path, most=2**64 - 1):
    """
    Text of a file as an int, None where it is not there, can't be read or is empty.

    :param most: what it can be at most. :raises errors.DriverError: there is something else, which can't be true.
    """
    found = text(host, path)
    if not found:
        return None
    told_number = numbers.whole(found, most)
    if told_number is None:
        raise untrue(path, found, f"a whole number of at most {most}")
    return told_number


def untrue(path, found, wanted):
    """The error for a file that says what can't be true; ``wanted`` is what it should be, in words."""
    return errors.DriverError(
        f"{path} says '{printable(found[:40])}', which can't be true: it is {wanted}.",
        "".join(_ADDRESS.findall(path)[:1]),
        "See 'dmesg' for what the driver says.",
    )


def write(host, gpu, path, value, doing, meanings=None):
    """
    Write a file of the kernel, whose driver answers in a moment; for what may take longer there is :mod:`.bounded`.

    It is written in a thread that can be left behind (some hundredths of a millisecond) and not in a process (some ten
    milliseconds): there are hundreds of such files on some GPUs.

    :param gpu: PCI address for the message; :param doing: what it is for, completing "could not ...".
    :param meanings: errno -> (class, why, what to do), before :data:`MEANINGS`.
    :raises errors.Unhealthy: it is not answered. :raises errors.GpuSliceError: of the class that the errno stands for.
    """
    try:
        host.limits.call(limits.CHANGE, gpu, doing, host.write, path, f"{value}")
    except OSError as err:
        raise told(err, gpu, doing, meanings) from err


def told(err, gpu, doing, meanings=None):
    """The error of gpuslice.errors for an OSError; parameters as of :func:`write`."""
    known = {**MEANINGS, **(meanings or {})}.get(err.errno)
    unknown = (errors.DriverError, f"{err.strerror} ({errno.errorcode.get(err.errno, err.errno)})", "See 'dmesg'.")
    kind, why, todo = known or unknown
    return kind(f"Could not {doing}: {why}.", gpu, todo)


#: Where the kernel tells the device number of a node: a file of sysfs, or a driver in /proc/devices with the minor in the name.
_NUMBER_FILES = (
    (re.compile(r"/dev/dri/(\w+)"), "/sys/class/drm/{}/dev"),
    (re.compile(r"/dev/(kfd)"), "/sys/class/kfd/{}/dev"),
    (re.compile(r"/dev/vfio/devices/(\w+)"), "/sys/class/vfio-dev/{}/dev"),
    (re.compile(r"/dev/vfio/([\w-]+)"), "/sys/class/vfio/{}/dev"),
)
_NUMBER_DRIVERS = (
    (re.compile(r"/dev/nvidia(\d+)"), ("nvidia", "nvidia-frontend")),
    (re.compile(r"/dev/nvidia-caps/nvidia-cap(\d+)"), ("nvidia-caps",)),
)


def device_number(host, node):
    """
    ``major:minor`` of a device node of this host, "" where nothing tells it.

    The kernel is asked for it rather than the node: where this runs in a container, a node of that name may be another GPU's.
    """
    for pattern, path in _NUMBER_FILES:
        if found := pattern.fullmatch(node):
            return text(host, path.format(found[1])) or host.device_number(node)
    for pattern, drivers in _NUMBER_DRIVERS:
        if found := pattern.fullmatch(node):
            majors = re.findall(rf"^\s*(\d+) (?:{'|'.join(drivers)})$", text(host, "/proc/devices") or "", re.MULTILINE)
            return f"{majors[0]}:{found[1]}" if majors else host.device_number(node)
    return host.device_number(node)


def holding(host, nodes, processes=None):
    """
    The processes that hold any of these device nodes open, under whatever name.

    :param processes: all processes of the host that hold any, where they were looked for already.
    """
    wanted = [(node, device_number(host, node)) for node in nodes]
    found = host.processes() if processes is None else processes
    return [process for process in found if any(process.has_open(*device) for device in wanted)]


def in_use(gpu, doing, held):
    """
    The error for what the kernel refused as it is in use, with the names of the holders.

    :param gpu: PCI address; :param doing: completes "could not ..."; :param held: processes, [] where none can be seen.
    """
    names = "; ".join(map(str, held)) or UNSEEN
    return errors.InUse(
        f"Could not {doing}: in use by {names}.", gpu, "Stop these and run again.", [one.as_dict() for one in held]
    )


def end_process(host, gpu, pid, command):
    """
    End a process that is in the way.

    :param gpu: PCI address; :param command: what it was when it was seen. :raises errors.ResourceConflict: it did not end, or is
        never ended.
    """
    refuse_spared(host, gpu, pid, f"pid {pid} ({command})")
    if not host.end_process(pid, command):
        raise errors.ResourceConflict(f"pid {pid} ({command}) did not end.", gpu, "Stop it by hand and run again.")


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


def refuse_if_held(gpu, doing, held, rules, stops):
    """
    Let the holders be stopped where the rules allow it, else name them.

    :param held: processes; :param stops: :class:`gpuslice.techniques.Stops`, which takes note of what has to stop.
    :raises errors.ResourceConflict: somebody holds what has to be free.
    """
    if held and not rules.force and not rules.may_stop_all(held):
        raise errors.ResourceConflict(
            f"Could not {doing}: in use by {'; '.join(map(str, held))}.",
            gpu,
            STOP_OR_FORCE,
            holders=[process.as_dict() for process in held],
        )
    stops.add(held, rules)
