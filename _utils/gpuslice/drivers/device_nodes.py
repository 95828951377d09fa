"""
The device nodes of one GPU, as sysfs and /proc name them: what a consumer needs, who has one open, and ending that.
"""

import re

from gpuslice import errors
from gpuslice.drivers.kernel import text
from gpuslice.drivers.pci import DEVICES

#: Vendor -> what every program opens beside the nodes of its GPU. That of AMD's compute driver is one for all GPUs, of which the
#: render node decides; nvidia-uvm-tools is for profilers.
COMMON = {"nvidia": ("/dev/nvidiactl", "/dev/nvidia-uvm"), "amd": ("/dev/kfd",)}
#: What a virtual machine monitor opens beside the groups of its devices.
VFIO_CONTAINER = "/dev/vfio/vfio"
#: Who uses something where nobody is in sight.
UNSEEN = "a client that can't be seen from here"

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


def drm(host, address):
    """``/dev/dri/card<n>`` and ``/dev/dri/renderD<n>`` of a GPU, [] where no graphics driver is bound."""
    return [f"/dev/dri/{name}" for name in host.listdir(f"{DEVICES}/{address}/drm") if re.match(r"(card|renderD)\d+\Z", name)]


def render(host, address):
    """Only the render nodes: enough for compute and media, without the display."""
    return [node for node in drm(host, address) if "renderD" in node]


def with_render(host, part):
    """A virtual function (:class:`gpuslice.model.Slice`) with the nodes that its driver has made for it; all else as it is."""
    return part._replace(device_nodes=tuple(render(host, part.identity))) if part.kind == "vf" and part.identity else part


def minor(host, address):
    """N of ``/dev/nvidia<N>``, None where that driver has no such GPU."""
    for form in (address, address.upper()):
        found = re.search(r"Device Minor:\s*([0-9]{1,9})\b", text(host, f"/proc/driver/nvidia/gpus/{form}/information") or "")
        if found:
            return int(found[1])
    return None


def of_whole(host, gpu):
    """The nodes of a :class:`gpuslice.model.Gpu` that nothing cuts, by which programs compute on it."""
    number = minor(host, gpu.address) if gpu.vendor == "nvidia" else None
    return render(host, gpu.address) if number is None else [f"/dev/nvidia{number}"]


def group(host, address):
    """Number of the IOMMU group, "" where the function has none."""
    return host.readlink(f"{DEVICES}/{address}/iommu_group")


def vfio(host, address):
    """What a virtual machine monitor opens: ``/dev/vfio/<group>`` and, where the kernel has it, the node of the device itself."""
    number = group(host, address)
    names = host.listdir(f"{DEVICES}/{address}/vfio-dev")
    return ([_group_node(host, number)] if number else []) + [f"/dev/vfio/devices/{name}" for name in names]


def _group_node(host, number):
    """The node of a group; VFIO's mode without an IOMMU names it differently."""
    unsafe = f"/dev/vfio/noiommu-{number}"
    return unsafe if host.exists(unsafe) else f"/dev/vfio/{number}"


def of(host, address):
    """All device nodes that belong to this GPU alone."""
    number = minor(host, address)
    return ([] if number is None else [f"/dev/nvidia{number}"]) + drm(host, address) + vfio(host, address)


def drivers(host):
    """What the kernel says of the numbers of its drivers, for :func:`device_number` of many nodes."""
    return text(host, "/proc/devices") or ""


def device_number(host, node, known=None):
    """
    ``major:minor`` of a device node of this host, "" where nothing tells it.

    The kernel is asked for it rather than the node: where this runs in a container, a node of that name may be another GPU's.

    :param known: :func:`drivers`, where it was read already.
    """
    for pattern, path in _NUMBER_FILES:
        if found := pattern.fullmatch(node):
            return text(host, path.format(found[1])) or host.device_number(node)
    for pattern, names in _NUMBER_DRIVERS:
        if found := pattern.fullmatch(node):
            told = drivers(host) if known is None else known
            majors = re.findall(rf"^\s*(\d+) (?:{'|'.join(names)})$", told, re.MULTILINE)
            return f"{majors[0]}:{found[1]}" if majors else host.device_number(node)
    return host.device_number(node)


def wrong(host, path):
    """
    Why a path of the host can't be used, as words that follow its name: it is not there, or it is a node of another device than
    its name says. "" for one that can.
    """
    if not host.exists(path):
        return "is not there"
    there = host.device_number(path) if path.startswith("/dev/") else ""
    wanted = device_number(host, path) if there else ""
    return f"is another device, {there} and not {wanted}" if there and wanted and there != wanted else ""


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
    users = f"in use by {'; '.join(map(str, held)) or UNSEEN}"
    what = f"Could not {doing}: {users}."
    return errors.InUse(what, gpu, "Stop these and run again.", [one.as_dict() for one in held], users)


def refuse_spared(host, gpu, pid, words):
    """
    Raise errors.ResourceConflict for a process that is never ended, whatever is allowed.

    :param gpu: PCI address; :param words: the process, for people.
    """
    if why := host.why_spared(pid):
        what = f"In use by {words}, which is never ended: {why}."
        raise errors.ResourceConflict(what, gpu, "End that use by hand and run again.")


def end_process(host, gpu, pid, command):
    """
    End a process that is in the way.

    :param gpu: PCI address; :param command: what it was when it was seen. :raises errors.ResourceConflict: it did not end, or is
        never ended.
    """
    refuse_spared(host, gpu, pid, f"pid {pid} ({command})")
    if not host.end_process(pid, command):
        raise errors.ResourceConflict(f"pid {pid} ({command}) did not end.", gpu, "Stop it by hand and run again.")


#: Who has a GPU open unseen, by vendor: in another process namespace, in the kernel, or between two looks.
_USUAL = {
    "nvidia": "NVIDIA's host engine (nv-hostengine, DCGM), nvidia-persistenced, a debugger or a profiler",
    "": "a monitoring daemon or exporter, a display server, a debugger or a profiler",
}


def unseen(host, gpu):
    """Who has a GPU open where nobody is in sight: words that follow "in use by"."""
    return f"{UNSEEN}; {usually(host, gpu)}"


def usually(host, gpu):
    """Who that is in most cases, and how to look: words that follow a semicolon."""
    usual = _USUAL.get(gpu.vendor, _USUAL[""])
    nodes = " ".join(of(host, gpu.address)) or "<its device nodes>"
    return f"usually that is {usual} (look as root on the host itself: 'fuser -v {nodes}', 'lsof {nodes}')"
