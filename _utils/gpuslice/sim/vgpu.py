"""
NVIDIA's vGPU manager on a simulated host: the kernel's files of its two interfaces.

``vfio``
    each virtual function has a directory ``nvidia``, where the number of a type is written to ``current_vgpu_type``.
``mdev``
    mediated devices of the virtual functions, or of the GPU itself on a board without SR-IOV.

A GPU plays a part when its description has ``vgpu``. Its virtual functions are made by the program ``sriov-manage``
(:mod:`gpuslice.sim.tools`).
"""

import errno
import re

from gpuslice.sim import hardware
from gpuslice.sim import kernel
from gpuslice.sim import vgpu_rules as rules
from gpuslice.sim import vgpu_types as types

PROGRAM = "/usr/lib/nvidia/sriov-manage"

_GROUPS = "/sys/kernel/iommu_groups"
_MDEVS = "/sys/bus/mdev/devices"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CREATE = re.compile(r"mdev_supported_types/nvidia-(\d+)/create")
_OF_MDEV = re.compile(rf"({_UUID.pattern})/(remove|nvidia/vgpu_params)")
#: What the files of a function say where there is nothing to name.
_NO_INSTANCE, _NO_PLACE = 0xFFFFFFFF, 0xFFFF


# -- what is shown -------------------------------------------------------------------------------------------------------
def show(tree, state):
    """The manager's module and program, and the files of every function that can carry a vGPU."""
    if "sriov-manage" in state["host"]["tools"]:
        tree.file(PROGRAM, "")
    boards = rules.managed(state)
    if not boards:
        return
    used = sum(bool(rules.users(state, vgpu)) for _, gpu in boards for vgpu in hardware.vgpus(gpu))
    tree.file("/sys/module/nvidia_vgpu_vfio/refcnt", str(used))
    for address, gpu in boards:
        for function, _ in rules.carriers(state, address):
            if gpu["about"]["vgpu"] == "vfio":
                _vfio(tree, state, address, function)
            else:
                _mdev(tree, state, address, function)


def _vfio(tree, state, address, function):
    gpu = state["gpus"][address]
    base = f"{kernel.DEVICES}/{function}/nvidia"
    vgpu = rules.carried(gpu, function)
    able = [kind for kind in types.types(gpu) if rules.available(state, address, function, kind)]
    lines = [f"{kind.id:<5} : {types.told(state, kind)}" for kind in able]
    tree.file(f"{base}/creatable_vgpu_types", "\n".join(["ID    : vGPU Name", *lines]))
    tree.file(f"{base}/current_vgpu_type", str(vgpu["type"] if vgpu else 0))
    tree.file(f"{base}/gpu_instance_id", str(_NO_INSTANCE if not vgpu or vgpu["gi"] is None else vgpu["gi"]))
    tree.file(f"{base}/placement_id", str(_NO_PLACE if not vgpu or vgpu["place"] is None else vgpu["place"]))
    tree.file(f"{base}/vgpu_params", vgpu["params"] if vgpu else "")
    if vgpu and state["host"]["iommu"]:
        _node(tree, vgpu)


def _node(tree, vgpu):
    tree.file("/dev/vfio/vfio", "")
    tree.node(f"/dev/vfio/{vgpu['group']}")


def _mdev(tree, state, address, function):
    gpu = state["gpus"][address]
    device = f"{kernel.DEVICES}/{function}"
    tree.link(f"/sys/class/mdev_bus/{function}", device)
    tree.dir(_MDEVS)
    for kind in types.types(gpu):
        base = f"{device}/mdev_supported_types/nvidia-{kind.id}"
        tree.file(f"{base}/name", types.told(state, kind))
        tree.file(f"{base}/description", f"framebuffer={kind.gigabytes * 1024}M, max_instance={rules.most(gpu, kind)}")
        tree.file(f"{base}/available_instances", str(rules.available(state, address, function, kind)))
        tree.file(f"{base}/device_api", "vfio-pci")
        tree.file(f"{base}/create", "", write_only=True)
        tree.dir(f"{base}/devices")
    for vgpu in hardware.vgpus(gpu):
        if vgpu["function"] == function:
            _mediated(tree, device, vgpu)


def _mediated(tree, device, vgpu):
    uuid, base = vgpu["uuid"], f"{device}/{vgpu['uuid']}"
    kind = f"{device}/mdev_supported_types/nvidia-{vgpu['type']}"
    tree.link(f"{base}/mdev_type", kind)
    tree.link(f"{kind}/devices/{uuid}", base)
    tree.file(f"{base}/remove", "", write_only=True)
    tree.file(f"{base}/nvidia/vgpu_params", vgpu["params"])
    tree.link(f"{base}/iommu_group", f"{_GROUPS}/{vgpu['group']}")
    tree.link(f"{_GROUPS}/{vgpu['group']}/devices/{uuid}", base)
    tree.link(f"{_MDEVS}/{uuid}", base)
    _node(tree, vgpu)


# -- what is written -----------------------------------------------------------------------------------------------------
def _whose(state, path, look):
    """(GPU address, function, name of its file) of a file of a managed GPU; ("", "", "") for others."""
    boards = [address for address, _ in rules.managed(state)]
    if not boards:
        return "", "", ""
    function, name = kernel.device_file(look().real(path))
    for address in boards if function else ():
        if function == address or function in dict(rules.carriers(state, address)):
            return address, function, name
    return "", "", ""


def gpu_of(state, path, look):
    """Address of the GPU that a file of its virtual functions or mediated devices concerns, "" for other files."""
    return _whose(state, path, look)[0]


def write(state, path, text, look):
    """Files of the vGPU manager; False for other files. Raises OSError as the kernel and the driver do."""
    address, function, name = _whose(state, path, look)
    if not address:
        return False
    if name == "sriov_numvfs" and state["gpus"][address]["about"]["sriov_totalvfs"]:
        _numvfs(state["gpus"][address], text, path)
        return True
    create, of_mdev = _CREATE.fullmatch(name), _OF_MDEV.fullmatch(name)
    if create and look().exists(path):
        _create(state, address, function, int(create[1]), text, path)
        return True
    if of_mdev and rules.named(state, of_mdev[1])[1]:
        _of_mdev(state, *of_mdev.groups(), text, path)
        return True
    if name in _OF_VF and look().exists(path):
        _OF_VF[name](state, address, function, text, path)
        return True
    return False


def modprobe(state, module, loading):
    """No module of this manager is loaded or unloaded by itself."""


def _numvfs(gpu, text, path):
    """
    The kernel's own checks come first. Then the driver refuses: it makes virtual functions only when its own program has taken it
    from the GPU. Which error it gives is not told publicly; EINVAL stands for it.
    """
    wanted = kernel.number_of(text, path)
    if wanted > gpu["about"]["sriov_totalvfs"]:
        raise kernel.error(errno.ERANGE, path)
    if wanted != gpu["numvfs"]:
        raise kernel.error(errno.EINVAL, path)


def _set_type(state, address, function, text, path):
    gpu = state["gpus"][address]
    number, vgpu = kernel.number_of(text, path), rules.carried(gpu, function)
    if not number:
        if vgpu:
            _remove(state, gpu, vgpu, path)
        return
    kind = types.by_id(gpu, number)
    if kind is None:
        raise kernel.error(errno.EINVAL, path)
    if vgpu:
        raise kernel.error(errno.EBUSY, path)
    if not rules.available(state, address, function, kind):
        raise kernel.error(errno.EIO if kind.profile else errno.EINVAL, path)
    rules.create(state, address, function, kind)


def _set_params(state, address, function, text, path):
    """The driver keeps parameters with the vGPU, so a function without one has nowhere to put them."""
    vgpu = rules.carried(state["gpus"][address], function)
    if vgpu is None:
        raise kernel.error(errno.EINVAL, path)
    vgpu["params"] = text


_OF_VF = {"nvidia/current_vgpu_type": _set_type, "nvidia/vgpu_params": _set_params}


def _create(state, address, function, number, text, path):
    if not _UUID.fullmatch(text):
        raise kernel.error(errno.EINVAL, path)
    uuid = text.lower()
    if rules.named(state, uuid)[1]:
        raise kernel.error(errno.EEXIST, path)
    kind = types.by_id(state["gpus"][address], number)
    if not rules.available(state, address, function, kind):
        raise kernel.error(errno.ENOSPC, path)
    rules.create(state, address, function, kind, uuid)


def _of_mdev(state, uuid, name, text, path):
    address, vgpu = rules.named(state, uuid)
    if name != "remove":
        vgpu["params"] = text
    elif kernel.number_of(text, path):
        _remove(state, state["gpus"][address], vgpu, path)


def _remove(state, gpu, vgpu, path):
    if rules.users(state, vgpu):
        raise kernel.error(errno.EBUSY, path)
    rules.remove(gpu, vgpu)
