"""
What amdgpu and the compute driver KFD show on a simulated machine, and how they react.

A GPU plays a part when its description has the driver's own files under ``sysfs``: ``current_compute_partition``,
``available_compute_partition`` and so on. A host without them has an older kernel. ``xgmi_hive_info/xgmi_hive_id`` says which
GPUs are joined. Files of the driver vanish while it is not loaded.

The description lists in ``available_compute_partition`` all modes of the board. What the machine shows there is up to its driver
(``partition_files`` of the GPU): a newer one shows those that are valid in the memory mode of now, and has all of them in
``compute_partition_config/supported_xcp_configs``; beside that, ``supported_nps_configs`` has the memory modes of the one compute
mode that ``xcp_config`` selects. An older one shows all of them always. The first of the newer ones (``supported-early``) take
NPS2 with DPX only, on every board.
"""

import errno
import hashlib
import re

from gpuslice.sim import kernel

VENDOR = "1002"
MODULE = "amdgpu"
_KFD = "/sys/class/kfd/kfd"
_COMPUTE, _MEMORY, _ALLOC = "current_compute_partition", "current_memory_partition", "compute_partition_mem_alloc_mode"
_AVAILABLE, _CONFIG = "available_compute_partition", "compute_partition_config"
_SELECTOR = f"{_CONFIG}/xcp_config"
_HIVE = "xgmi_hive_info/xgmi_hive_id"
#: Partition nodes that the driver makes for each GPU beside its own, used or not.
_SPARE_NODES = 7
_SIMD_PER_CU = 4
#: Compute mode -> memory modes, as a newer driver has them (linux, aqua_vanjaram.c); gfx950 has NPS2 with two of them besides.
_COMPATIBLE = {
    "SPX": ("NPS1",), "DPX": ("NPS1", "NPS2"), "TPX": ("NPS1", "NPS4"), "QPX": ("NPS1", "NPS4"), "CPX": ("NPS1", "NPS4"),
}  # fmt: skip
_COMPATIBLE_GFX950 = {**_COMPATIBLE, "QPX": ("NPS1", "NPS2", "NPS4"), "CPX": ("NPS1", "NPS2", "NPS4")}


def _catalog():
    """AMD's tables, imported when an AMD GPU is met: the grain of other hosts has no use for them."""
    from gpuslice.catalog import amd

    return amd


def _bound(state):
    """(address, gpu) of each GPU that the driver has."""
    return [(a, g) for a, g in state["gpus"].items() if g["about"]["vendor"] == VENDOR and g["about"]["driver"] == MODULE]


def _is_node(node):
    """Whether a device node is the driver's."""
    return node == "/dev/kfd" or node.startswith("/dev/dri/")


def _partitionable(gpu):
    return _COMPUTE in gpu["about"]["sysfs"]


def modes(gpu):
    """What a GPU has now: ``compute``, ``memory``, ``alloc``, ``requested``, the memory mode of the next load or
    "", and ``selected``, the compute mode that the driver's table shows.
    """
    files = gpu["about"]["sysfs"]
    described = {
        "compute": files.get(_COMPUTE, ""),
        "memory": files.get(_MEMORY, "NPS1"),
        "alloc": files.get(_ALLOC, ""),
        "requested": "",
        "selected": files.get(_COMPUTE, ""),
        "files": None,
    }
    return {**described, **gpu.get(MODULE, {})}


def _own(gpu):
    """The modes of a GPU to be changed."""
    return gpu.setdefault(MODULE, modes(gpu))


def _model(gpu):
    found = (m for m in _catalog().MODELS.values() if gpu["about"]["device"] in m["device_ids"])
    return next(found, {"cu": 64, "xcc": None, "memory_gb": None})


def _described(gpu, name):
    return re.findall(r"\b(?:[SDTQC]PX|NPS\d)\b", gpu["about"]["sysfs"].get(name, ""))


def _supported(gpu):
    """All compute modes of the board; a description without any list means those of its number of dies."""
    if _AVAILABLE not in gpu["about"]["sysfs"]:
        return _catalog().COMPUTE_MODES_BY_XCC.get(_model(gpu)["xcc"], ("SPX",))
    return _described(gpu, f"{_CONFIG}/supported_xcp_configs") or _described(gpu, _AVAILABLE)


def _is_newer(gpu):
    return gpu["about"]["partition_files"] != "available"


def _is_valid(gpu, compute, memory):
    """Whether the driver takes a compute mode in a memory mode."""
    if compute not in _supported(gpu):
        return False
    if _is_newer(gpu):
        newest = gpu["about"]["partition_files"] == "supported" and _model(gpu).get("architecture") == "gfx950"
        return memory in (_COMPATIBLE_GFX950 if newest else _COMPATIBLE)[compute]
    domains = int(memory[3:])
    if compute == "CPX":
        return (_model(gpu)["xcc"] or 1) % domains == 0
    return domains in {"SPX": (1,), "DPX": (1, 2), "TPX": (1, 3), "QPX": (1, 4)}[compute]


def _count(gpu, mode):
    return _catalog().PARTITIONS.get(mode) or (_model(gpu)["xcc"] or 1)


def partitions(gpu):
    """How many partitions a GPU has now."""
    return _count(gpu, modes(gpu)["compute"])


def automatic(gpu, memory):
    """The compute mode that the driver takes by itself when it is loaded."""
    domains, dies = int(memory[3:]), _model(gpu)["xcc"] or 1
    if domains == 1:
        return "SPX"
    if domains in (dies, dies // 2):
        return "TPX" if "TPX" in _supported(gpu) else "CPX"
    return "DPX"


# -- what is shown ---------------------------------------------------------------------------------------------------
def show(tree, state):
    """Add the files of both drivers."""
    bound = _bound(state)
    if not bound:
        return
    clients = [p for p in state["processes"] if any(map(_is_node, p["nodes"]))]
    tree.file(f"/sys/module/{MODULE}/refcnt", str(state["modules"].get(MODULE, 0) + len(clients)))
    tree.dir(f"/sys/module/{MODULE}/holders")
    if MODULE not in state["modules"]:
        tree.file("/proc/modules", tree.read("/proc/modules") + f"\n{MODULE} 65536 {len(clients)} - Live 0x0\n")
    tree.node("/dev/kfd")
    tree.dir(f"{_KFD}/proc")
    for process in clients:
        if "/dev/kfd" in process["nodes"]:
            tree.file(f"{_KFD}/proc/{process['pid']}/pasid", "32770")
    for number in range(2):
        _node(tree, number, 0, {"cpu_cores_count": 64, "simd_count": 0, "drm_render_minor": 0, "hive_id": 0}, None)
    spare = 1 + max((int(n[4:]) for n in tree.listdir("/sys/class/drm") if re.fullmatch(r"card\d+", n)), default=-1)
    number, part = 2, 0
    for address, gpu in bound:
        minors = _render_minors(tree, address)
        if _partitionable(gpu):
            _partition_files(tree, address, gpu)
            for _ in range(_SPARE_NODES):
                _spare_node(tree, part, spare)
                minors.append(128 + spare)
                part, spare = part + 1, spare + 1
        number = _topology(tree, number, address, gpu, minors)


def _partition_files(tree, address, gpu):
    now = modes(gpu)
    for name, value in ((_COMPUTE, now["compute"]), (_MEMORY, now["memory"]), (_ALLOC, now["alloc"])):
        if name in gpu["about"]["sysfs"]:
            tree.file(f"{kernel.DEVICES}/{address}/{name}", value)
    if _AVAILABLE in gpu["about"]["sysfs"] and _is_newer(gpu):
        _lists(tree, f"{kernel.DEVICES}/{address}", gpu, now)


def _lists(tree, base, gpu, now):
    """What a newer driver tells of the modes that can be had."""
    valid = [mode for mode in _described(gpu, _AVAILABLE) if _is_valid(gpu, mode, now["memory"])]
    tree.file(f"{base}/{_AVAILABLE}", _list(valid))
    tree.file(f"{base}/{_CONFIG}/supported_xcp_configs", _list(_supported(gpu)))
    tree.file(f"{base}/{_SELECTOR}", now["selected"])
    switchable = _described(gpu, "available_memory_partition")
    if switchable:
        memory = [mode for mode in switchable if _is_valid(gpu, now["selected"], mode)]
        tree.file(f"{base}/{_CONFIG}/supported_nps_configs", _list(memory))


def _list(modes):
    return ", ".join(modes) or "Not supported"


def _render_minors(tree, address):
    return [int(name[7:]) for name in tree.listdir(f"{kernel.DEVICES}/{address}/drm") if name.startswith("renderD")]


def _spare_node(tree, part, card):
    base = f"/sys/devices/platform/amdgpu_xcp_{part}"
    for name in (f"card{card}", f"renderD{128 + card}"):
        tree.dir(f"{base}/drm/{name}")
        tree.file(f"/sys/class/drm/{name}/uevent", f"DEVNAME=dri/{name}\nDEVTYPE=drm_minor")
        tree.node(f"/dev/dri/{name}")


def _topology(tree, number, address, gpu, minors):
    """KFD's nodes of a GPU, one for each partition; returns the next free number."""
    now, model = modes(gpu), _model(gpu)
    count = _count(gpu, now["compute"]) if _partitionable(gpu) else 1
    domain, bus, rest = address.split(":")
    size = (model["memory_gb"] or gpu["about"]["memory_mib"] // 1024 or 16) * 2**30
    # With the mode ALL each partition may take what its whole memory domain has.
    memory = size // (int(now["memory"][3:]) if now["alloc"] == "ALL" else count)
    for part in range(count):
        properties = {
            "cpu_cores_count": 0,
            "simd_count": (model["cu"] or 64) * _SIMD_PER_CU // count,
            "simd_per_cu": _SIMD_PER_CU,
            "num_xcc": (model["xcc"] or 1) // count or 1,
            "vendor_id": int(VENDOR, 16),
            "device_id": int(gpu["about"]["device"], 16),
            "domain": int(domain, 16),
            "location_id": int(bus, 16) << 8 | int(rest.partition(".")[0], 16) << 3 | part,
            "drm_render_minor": minors[part],
            "hive_id": int(gpu["about"]["sysfs"].get(_HIVE, "0"), 0),
            "unique_id": int(re.sub("[^0-9a-f]", "", gpu["about"]["uuid"].lower())[:16] or "0", 16),
        }
        identity = int(hashlib.sha256(f"{address}/{part}".encode()).hexdigest()[:4], 16) or 1
        _node(tree, number, identity, properties, memory)
        number += 1
    return number


def _node(tree, number, identity, properties, memory):
    base = f"{_KFD}/topology/nodes/{number}"
    tree.file(f"{base}/gpu_id", str(identity))
    tree.file(f"{base}/properties", "".join(f"{key} {value}\n" for key, value in properties.items()))
    if memory is not None:
        tree.file(f"{base}/mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {memory}\nflags 0\nwidth 8192\n")


# -- what is written -------------------------------------------------------------------------------------------------
def write(state, path, text, look):
    """What the driver does with a write; False for files that are not its own. Raises OSError."""
    address, name = kernel.device_file(path)
    gpu, work = state["gpus"].get(address), _WRITERS.get(name)
    if gpu is None or work is None or gpu["about"]["driver"] != MODULE or not _has(gpu, name):
        return False
    work(state, gpu, text.upper(), path)
    return True


def _has(gpu, name):
    return name in gpu["about"]["sysfs"] or (name == _SELECTOR and _is_newer(gpu) and _AVAILABLE in gpu["about"]["sysfs"])


def _set_compute(state, gpu, wanted, path):
    now = _own(gpu)
    if not _is_valid(gpu, wanted, now["memory"]):
        raise kernel.error(errno.EINVAL, path)
    if wanted == now["compute"]:
        return
    if any("/dev/kfd" in process["nodes"] for process in state["processes"]):
        raise kernel.error(errno.EBUSY, path)
    now["compute"] = wanted
    now["alloc"] = "EVEN" if now["alloc"] else ""


def _set_memory(state, gpu, wanted, path):
    if "available_memory_partition" not in gpu["about"]["sysfs"]:
        raise kernel.error(errno.EACCES, path)
    if wanted not in _described(gpu, "available_memory_partition"):
        raise kernel.error(errno.EINVAL, path)
    # A request can't be withdrawn by asking for what is there: the driver takes that for nothing to do.
    if wanted == modes(gpu)["memory"]:
        return
    for other in _hive(state, gpu):
        _own(other)["requested"] = wanted


def _hive(state, gpu):
    hive = gpu["about"]["sysfs"].get(_HIVE)
    return [g for _, g in _bound(state) if g is gpu or (hive and g["about"]["sysfs"].get(_HIVE) == hive)]


def _select(state, gpu, wanted, path):
    if wanted not in _supported(gpu):
        raise kernel.error(errno.EINVAL, path)
    _own(gpu)["selected"] = wanted


def _set_alloc(state, gpu, wanted, path):
    if wanted not in ("EVEN", "ALL"):
        raise kernel.error(errno.EINVAL, path)
    _own(gpu)["alloc"] = wanted


# -- the module ------------------------------------------------------------------------------------------------------
_WRITERS = {_COMPUTE: _set_compute, _MEMORY: _set_memory, _ALLOC: _set_alloc, _SELECTOR: _select}


def modprobe(state, module, loading):
    """Load or unload amdgpu. Raises OSError while something has its nodes open."""
    if module != MODULE:
        return
    if loading:
        _load(state)
        return
    if any(_is_node(node) for process in state["processes"] for node in process["nodes"]) and _bound(state):
        raise kernel.error(errno.EBUSY, module)
    for _, gpu in _bound(state):
        now = _own(gpu)
        # The request is carried out when the driver lets go of the GPU.
        now["memory"], now["requested"] = now["requested"] or now["memory"], ""
        now["files"], gpu["about"]["sysfs"] = gpu["about"]["sysfs"], {}
        gpu["about"]["driver"] = ""


def _load(state):
    option = state["host"]["files"].get(f"/sys/module/{MODULE}/parameters/user_partt_mode", "")
    forced = int(option) if option.isdigit() else None
    for address, gpu in state["gpus"].items():
        override = state["written"].get(f"{kernel.DEVICES}/{address}/driver_override", "(null)")
        if gpu["about"]["vendor"] != VENDOR or gpu["about"]["driver"] or override not in ("(null)", MODULE):
            continue
        gpu["about"]["driver"] = MODULE
        now = _own(gpu)
        if now["files"] is not None:
            gpu["about"]["sysfs"], now["files"] = now["files"], None
        if _partitionable(gpu):
            now["compute"] = now["selected"] = _catalog().USER_PARTITION_MODE.get(forced) or automatic(gpu, now["memory"])
            now["alloc"] = "EVEN" if now["alloc"] else ""


def reboot(state):
    """After a boot every GPU is one partition with one memory domain, whatever was requested."""
    for _, gpu in _bound(state):
        if MODULE in gpu:
            _own(gpu).update(memory="NPS1", requested="")
            gpu["about"]["driver"] = ""
    for gpu in state["gpus"].values():
        if MODULE in gpu and gpu[MODULE]["files"] is not None:
            gpu[MODULE].update(memory="NPS1", requested="")
    _load(state)
