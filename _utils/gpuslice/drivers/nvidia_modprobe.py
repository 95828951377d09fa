"""
Device nodes of NVIDIA's driver, which neither the kernel nor udev makes: ``nvidia-modprobe`` of the driver's packages does.

Where a node is not there, a runtime refuses the container, a generator of CDI files leaves it out without a word, and a unit of
systemd starts without it. So the nodes of a slice are made before anybody is told of it, and looked at afterwards: what the
program says does not count. It ends with 1 at the first file where ``/dev/char`` is missing, although it made that node
(570.133).
"""

import re

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel

PROGRAM = "nvidia-modprobe"
#: Seconds; it loads the driver where that is not there.
PATIENCE = 60

_MINORS = "/proc/driver/nvidia-caps/mig-minors"
_FILES = "/proc/driver/nvidia/capabilities"
_CAPABILITY = re.compile(r"/dev/nvidia-caps/nvidia-cap(\d+)")
_GPU = re.compile(r"/dev/nvidia(\d+)")
_UVM = ("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")


def missing(host, nodes):
    """Those of these nodes, of NVIDIA's driver, that are not there or are another device than they should be."""
    concerned = [node for node in nodes if node.startswith("/dev/nvidia")]
    known = device_nodes.drivers(host) if concerned else ""
    return [node for node in concerned if not _is_right(host, node, known)]


def _is_right(host, node, known):
    if not (_CAPABILITY.fullmatch(node) or _GPU.fullmatch(node)):
        return host.exists(node)
    there = host.device_number(node)
    return bool(there) and device_nodes.device_number(host, node, known) == there


def make(host, gpu, nodes):
    """
    Make the nodes that are missing; where none is, no program is run.

    :param gpu: PCI address for the message; :param nodes: all nodes of its slices, those of other drivers too.
    :return: the nodes that were made.
    :raises errors.ToolMissing: the program is not installed. :raises errors.ToolHangs, errors.ToolFailed: it can't be run.
    :raises errors.DriverError: a node is not there all the same; the sentence says which one and why.
    """
    wanted = missing(host, nodes)
    files = _files(host, gpu, wanted)
    for argv in _calls(wanted, files):
        _run(host, gpu, wanted, argv)
    for node in missing(host, wanted):
        # It may have stopped at the file of another one.
        if node in files:
            _run(host, gpu, wanted, ["-f", files[node]])
    if left := missing(host, wanted):
        raise errors.DriverError(
            f"{_listed(left)} could not be made: {PROGRAM} ended and did not do it.", gpu, _remedy(host, left[0], files)
        )
    return wanted


def _calls(wanted, files):
    """Arguments of the calls that make these nodes."""
    if files:
        yield [word for path in files.values() for word in ("-f", path)]
    if any(node in _UVM for node in wanted):
        yield ["-u", "-c", "0"]
    for node in wanted:
        if minor := _minor(node):
            yield ["-c", minor]


def _minor(node):
    """What ``-c`` is given for a node of a GPU or the control node, which is made with none of these (570.133); "" for others."""
    gpu = _GPU.fullmatch(node)
    return gpu[1] if gpu else {"/dev/nvidiactl": "255"}.get(node, "")


def _files(host, gpu, wanted):
    """Node -> file of the kernel for each capability among the nodes. Raises errors.DriverError where the driver has none."""
    if not any(map(_CAPABILITY.fullmatch, wanted)):
        return {}
    known = dict(re.findall(r"^(\S+/access) +(\d+)$", kernel.text(host, _MINORS) or "", re.MULTILINE))
    paths = {number: f"{_FILES}/{_with_mig(path)}" for path, number in known.items()}
    found = {}
    for node in wanted:
        if number := _CAPABILITY.fullmatch(node):
            path = paths.get(number[1], "")
            if not path or not host.exists(path):
                raise errors.DriverError(
                    f"{node} can't be made: the driver has no MIG instance to which it belongs.", gpu,
                    "See 'salt-call gpu.slices': where it is not listed there any more, run again.",
                )  # fmt: skip
            found[node] = path
    return found


def _with_mig(path):
    """``gpu0/gi1/access`` of the table is ``gpu0/mig/gi1/access`` among the files."""
    gpu, _, rest = path.partition("/")
    return f"{gpu}/mig/{rest}"


def _run(host, gpu, wanted, arguments):
    try:
        host.run([PROGRAM, *arguments], timeout=PATIENCE)
    except errors.ToolMissing as err:
        raise errors.ToolMissing(
            f"{_listed(wanted)} can't be made: {PROGRAM} is not installed, and nothing else makes it.", gpu,
            f"Install {PROGRAM} with NVIDIA's driver.",
        ) from err  # fmt: skip


def _listed(nodes):
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return f"The device node {nodes[0]}{more}"


def _remedy(host, node, files):
    if node in files and re.search(r"DeviceFileModify:\s*0\b", kernel.text(host, files[node]) or ""):
        number = device_nodes.device_number(host, node).replace(":", " ")
        return (
            "The driver is loaded with NVreg_ModifyDeviceFiles=0, so that nobody but you makes nodes: "
            f"'mknod -m 444 {node} c {number or 'MAJOR MINOR'}'."
        )
    again = f"-f {files[node]}" if node in files else f"-c {_minor(node)}" if _minor(node) else "-u -c 0"
    return f"Run the minion as root, and see whether /dev can be written: '{PROGRAM} {again}'."
