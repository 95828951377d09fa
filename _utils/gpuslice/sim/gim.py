"""
AMD's host driver gim on a simulated machine: it makes virtual functions when it is loaded, as its option ``vf_num`` says, and
removes them when it is unloaded. Neither it nor amdgpu answers ``sriov_numvfs``.

A GPU plays a part when its description has the driver gim and ``sriov_totalvfs``; ``numvfs`` says how many VFs it begins with.
"""

import errno
import re

from gpuslice.sim import kernel
from gpuslice.sim import pci

VENDOR, MODULE = "1002", "gim"
#: Numbers of VFs that the option takes, and what there is without it.
_LOW, _HIGH, _DEFAULT = 1, 31, 1


def _mine(state):
    """(address, gpu) of the GPUs that gim has or takes when it is loaded, in PCI order."""
    found = []
    for address, gpu in sorted(state["gpus"].items()):
        about = gpu["about"]
        if about["vendor"] == VENDOR and about["sriov_totalvfs"] and about["driver"] in ("", MODULE):
            found.append((address, gpu))
    return found


def show(tree, state):
    """The module's directory while it is loaded."""
    if MODULE in state["modules"]:
        tree.file(f"/sys/module/{MODULE}/version", "9.4.0.K")
        tree.dir(f"/sys/bus/pci/drivers/{MODULE}")


def write(state, path, text, look):
    """``sriov_numvfs`` of an AMD GPU is answered by no driver; False for other files. Raises OSError."""
    address, name = kernel.device_file(path)
    gpu = state["gpus"].get(address)
    if gpu is None or name != "sriov_numvfs" or gpu["about"]["vendor"] != VENDOR:
        return False
    raise kernel.error(errno.ENOENT, path)


def modprobe(state, module, loading):
    """Load or unload gim. Raises OSError: a virtual machine has a VF, or the option is one that gim does not take."""
    if module != MODULE:
        return
    if loading:
        _load(state)
        return
    if _in_use(state):
        raise kernel.error(errno.EBUSY, module)
    for address, gpu in _mine(state):
        pci.forget_functions(state, address)
        gpu["about"]["driver"] = ""
        gpu["epoch"] += 1


def _load(state):
    # Not at the top: a host without such a GPU would load the table for nothing.
    from gpuslice.catalog import amd

    if MODULE in state["modules"]:
        return
    gpus = _mine(state)
    numbers = _option(state, len(gpus))
    for (_, gpu), number in zip(gpus, numbers, strict=True):
        dies = next((m["xcc"] for m in amd.MODELS.values() if gpu["about"]["device"] in m["device_ids"]), None)
        if not _LOW <= number <= min(_HIGH, gpu["about"]["sriov_totalvfs"]) or (dies and dies % number):
            raise kernel.error(errno.EINVAL, MODULE)
    for (_, gpu), number in zip(gpus, numbers, strict=True):
        gpu["about"]["driver"], gpu["numvfs"] = MODULE, number


def _option(state, count):
    """One number for each GPU: a single one is for all, and GPUs beyond the list have the default."""
    files = {**state["host"]["files"], **state["written"]}
    text = "\n".join(files[path] for path in sorted(files) if path.startswith("/etc/modprobe.d/") and path.endswith(".conf"))
    found = re.findall(rf"^\s*options\s+{MODULE}\s.*\bvf_num=([0-9,]+)", text, re.MULTILINE)
    numbers = [int(number) for number in found[-1].split(",")] if found else [_DEFAULT]
    if len(numbers) == 1:
        return numbers * count
    return (numbers + [_DEFAULT] * count)[:count]


def _in_use(state):
    functions = pci.functions(state)
    own = {address for address, _ in _mine(state)}
    vfs = [f["address"] for f in functions if f.get("links", {}).get("physfn") in own]
    nodes = {f"/dev/vfio/{pci.group_of(functions, address)}" for address in vfs}
    return any(node in nodes for process in state["processes"] for node in process["nodes"])


def reboot(state):
    """gim is loaded again and reads its option."""
    if MODULE not in state["modules"]:
        return
    for address, gpu in _mine(state):
        pci.forget_functions(state, address)
        gpu["about"]["driver"] = ""
    del state["modules"][MODULE]
    _load(state)
    state["modules"][MODULE] = 0
