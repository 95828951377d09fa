"""
The drivers xe and i915 as PF drivers on a simulated machine: ``sriov_numvfs`` and the provisioning files of each layout.

A GPU plays a part when its description has ``sriov_totalvfs`` and one of these drivers. ``sriov_files`` says which kernel it is:
``sriov_admin`` (7.0), ``sriov_admin-6.19`` (without memory), ``debugfs``, ``debugfs-old``, ``prelim_iov`` or ``iov`` (the
i915 backport), ``none`` (no files; an i915 with none is the kernel's own, which makes no virtual functions), ``no-pf`` (an early
xe, which makes none either). A driver that makes some has the module option ``max_vfs``.
"""

import errno
import re

from gpuslice.sim import kernel
from gpuslice.sim import pci

VENDOR = "8086"
_BACKPORT = ("prelim_iov", "iov")
_VRAM_ALIGN = 2 * 2**20
_QUOTAS = ("vram", "ggtt", "contexts", "doorbells")
_NAMES = {
    "vram": "lmem_quota",
    "ggtt": "ggtt_quota",
    "contexts": "contexts_quota",
    "doorbells": "doorbells_quota",
    "eq": "exec_quantum_ms",
    "pt": "preempt_timeout_us",
}
#: Turn that a recent driver gives each VF when it divides by itself: quantum in ms, timeout in us. The numbers are ours.
_FAIR_TURN = {"eq": 16, "pt": 32000}


def _gpus(state):
    """(address, gpu, layout) of each GPU that plays a part."""
    for address, gpu in state["gpus"].items():
        about = gpu["about"]
        if about["vendor"] == VENDOR and about["driver"] in ("xe", "i915") and about["sriov_totalvfs"]:
            yield address, gpu, about.get("sriov_files") or ("sriov_admin" if about["driver"] == "xe" else "none")


def _tiles(gpu):
    from gpuslice.catalog import intel

    return next((m["tiles"] or 1 for m in intel.MODELS.values() if gpu["about"]["device"] in m["device_ids"]), 1)


def _now(gpu):
    """
    What was written since the driver took the GPU: ``values`` ("VF/field/part" -> number), ``custom`` (quotas were), ``normal``
    (the turn of an idle VF is kept), and ``pf``, the PF's own priority.
    """
    kept = gpu.get("xe_sriov")
    if kept and kept["epoch"] == gpu["epoch"]:
        return kept
    return {"epoch": gpu["epoch"], "values": {}, "custom": False, "normal": False, "pf": "low"}


def _get(now, *key):
    return now["values"].get("/".join(map(str, key)), 0)


def _set(now, value, *key):
    name = "/".join(map(str, key))
    if value:
        now["values"][name] = value
    else:
        now["values"].pop(name, None)


# -- which files ---------------------------------------------------------------------------------------------------------
def _card(tree, address):
    return next((name for name in tree.listdir(f"{kernel.DEVICES}/{address}/drm") if name.startswith("card")), "card0")


def _paths(tree, address, gpu, layout):
    """path -> (VF, field, part) of every file that is a number; the part is a tile or an engine block."""
    total = gpu["about"]["sriov_totalvfs"]
    owners = range(total + 1)
    if layout.startswith("sriov_admin"):
        root = f"{kernel.DEVICES}/{address}/sriov_admin"
        names = {"eq": "exec_quantum_ms", "pt": "preempt_timeout_us"}
        found = {f"{root}/{_who(n)}/profile/{name}": (n, field, 0) for n in owners for field, name in names.items()}
        if layout == "sriov_admin" and gpu["about"]["memory_mib"]:
            found.update({f"{root}/vf{n}/profile/vram_quota": (n, "vram", 0) for n in owners if n})
        return found
    if layout == "debugfs":
        return _newer(f"/sys/kernel/debug/dri/{address}/sriov", owners)
    if layout == "debugfs-old":
        root = f"/sys/kernel/debug/dri/{_card(tree, address)[4:]}"
        return {
            f"{root}/gt{gt}/{_who(n)}/{name}": (n, field, gt)
            for gt in (0, 1)
            for n in owners
            for field, name in _NAMES.items()
            if (n or field in ("eq", "pt")) and (gt == 0 or field not in ("vram", "ggtt"))
        }
    if layout in _BACKPORT:
        root = f"/sys/class/drm/{_card(tree, address)}/{layout}"
        return {
            f"{root}/{_who(n)}/gt{gt}/{name}": (n, field, gt)
            for gt in range(_tiles(gpu))
            for n in owners
            for field, name in _NAMES.items()
            if n or field in ("eq", "pt")
        }
    return {}


def _newer(root, owners):
    found = {}
    for n in owners:
        for field in ("vram", "ggtt"):
            if n:
                found[f"{root}/{_who(n)}/tile0/{'vram_quota' if field == 'vram' else 'ggtt_quota'}"] = (n, field, 0)
        for gt in (0, 1):
            for field in ("contexts", "doorbells", "eq", "pt"):
                if n or field in ("eq", "pt"):
                    found[f"{root}/{_who(n)}/tile0/gt{gt}/{_NAMES[field]}"] = (n, field, gt)
    return found


def _is_pf_driver(driver, layout):
    return layout in _BACKPORT if driver == "i915" else layout != "no-pf"


def _who(number):
    return f"vf{number}" if number else "pf"


def _idle_paths(tree, address, gpu, layout):
    """Files that say 1 when a turn is kept for an idle function."""
    if layout == "debugfs":
        return [f"/sys/kernel/debug/dri/{address}/sriov/pf/tile0/gt{gt}/sched_if_idle" for gt in (0, 1)]
    if layout == "debugfs-old":
        return [f"/sys/kernel/debug/dri/{_card(tree, address)[4:]}/gt{gt}/pf/sched_if_idle" for gt in (0, 1)]
    if layout in _BACKPORT:
        root = f"/sys/class/drm/{_card(tree, address)}/{layout}"
        return [f"{root}/pf/gt{gt}/policies/sched_if_idle" for gt in range(_tiles(gpu))]
    return []


def show(tree, state):
    """Add the files of each GPU."""
    for address, gpu, layout in _gpus(state):
        now = _provisioned(gpu, layout)
        for path, key in _paths(tree, address, gpu, layout).items():
            tree.file(path, str(_get(now, *key)))
        for path in _idle_paths(tree, address, gpu, layout):
            tree.file(path, str(int(now["normal"])))
        driver = gpu["about"]["driver"]
        for name in ("force_probe", *(["max_vfs"] if _is_pf_driver(driver, layout) else [])):
            tree.file(f"/sys/module/{driver}/parameters/{name}", "")
        _show_rest(tree, address, gpu, layout, now)


def _show_rest(tree, address, gpu, layout, now):
    if layout.startswith("sriov_admin"):
        root = f"{kernel.DEVICES}/{address}/sriov_admin"
        words = "low [normal]" if now["normal"] else "[low] normal"
        own = ("low", "normal", "high")
        tree.file(f"{root}/.bulk_profile/sched_priority", "", write_only=True)
        tree.file(f"{root}/pf/profile/sched_priority", " ".join(f"[{word}]" if word == now["pf"] else word for word in own))
        tree.link(f"{root}/pf/device", f"{kernel.DEVICES}/{address}")
        for number in range(1, gpu["about"]["sriov_totalvfs"] + 1):
            tree.file(f"{root}/vf{number}/profile/sched_priority", words)
    if layout == "debugfs":
        tree.file(f"/sys/kernel/debug/dri/{address}/sriov/restore_auto_provisioning", "")
    if layout in _BACKPORT:
        root = f"/sys/class/drm/{_card(tree, address)}/{layout}"
        tree.file(f"{root}/mode", "SR-IOV PF")
        tree.file(f"{root}/pf/auto_provisioning", str(int(not now["custom"])))
        for gt in range(_tiles(gpu)):
            free = _total(gpu, layout, "vram") - sum(v for k, v in now["values"].items() if k.endswith(f"/vram/{gt}"))
            tree.file(f"{root}/pf/gt{gt}/available/lmem_free", str(free))


def _provisioned(gpu, layout):
    """What is written, with the driver's division of VFs that the description begins with."""
    now = _now(gpu)
    if gpu["numvfs"] and not now["values"] and not now["custom"]:
        # Who only looks must leave the machine's state as it is.
        now = {**now, "values": {}}
        _divide(gpu, layout, now, gpu["numvfs"])
    return now


# -- the driver's own division -------------------------------------------------------------------------------------------
def _total(gpu, layout, field):
    """What VFs can share of one tile or engine block."""
    memory = max(gpu["about"]["memory_mib"] * 2**20 // _tiles(gpu) - 128 * 2**20, 0)
    return {"vram": memory, "ggtt": 4 * 2**30 - 2**26, "contexts": 65535, "doorbells": 256}[field]


def _power(number):
    return 1 << (number.bit_length() - 1) if number > 0 else 0


def _divide(gpu, layout, now, count):
    """Equal shares for VFs that have none; a recent driver leaves memory alone that somebody gave out."""
    given = any(_get(now, n, "vram", 0) for n in range(1, count + 1))
    fair = {
        "vram": _total(gpu, layout, "vram") // count // _VRAM_ALIGN * _VRAM_ALIGN,
        "ggtt": _power(_total(gpu, layout, "ggtt") // 2**29 * 2**29 // count),
        "contexts": _power(65535 // count),
        "doorbells": _power(256 // (count + 1)),
    }
    parts = {"vram": range(_tiles(gpu)), "ggtt": range(_tiles(gpu))}
    blocks = range(_tiles(gpu)) if layout in _BACKPORT or layout.startswith("sriov_admin") else (0, 1)
    for n in range(1, count + 1):
        for field, share in fair.items():
            if field == "vram" and given:
                continue
            for part in parts.get(field, blocks):
                _set(now, share, n, field, part)
        if layout == "sriov_admin":
            for field, value in _FAIR_TURN.items():
                _set(now, value, n, field, 0)


def _release(now, layout):
    """
    VFs are gone: what the driver divided it takes back, with the turns of the VFs; what was written stays. Older xe drivers know
    no difference and take everything back.
    """
    if now["custom"] and layout != "debugfs-old":
        return
    now["custom"] = False
    now["values"] = {key: value for key, value in now["values"].items() if key.startswith("0/")}


# -- writing -------------------------------------------------------------------------------------------------------------
def write(state, path, text, look):
    """What the drivers do with a write; False for files that are not theirs. Raises OSError."""
    function, name = kernel.device_file(path)
    counted = name == "sriov_numvfs"
    for address, gpu, layout in _gpus(state):
        if counted and function == address:
            _set_numvfs(state, gpu, layout, text, path, look)
            return True
        admin = f"{kernel.DEVICES}/{address}/sriov_admin/"
        if counted or not path.startswith(("/sys/kernel/debug/dri/", "/sys/class/drm/", admin)):
            continue
        if _write_file(look(), address, gpu, layout, path, text):
            return True
    return False


def _write_file(tree, address, gpu, layout, path, text):
    now = _provisioned(gpu, layout)
    key = _paths(tree, address, gpu, layout).get(path)
    if key:
        _set_value(gpu, layout, now, key, kernel.number_of(text, path), path)
    elif path in _idle_paths(tree, address, gpu, layout):
        now["normal"] = bool(kernel.number_of(text, path))
    elif path.endswith("/sriov_admin/.bulk_profile/sched_priority"):
        if text not in ("low", "normal"):
            raise kernel.error(errno.EINVAL, path)
        now["normal"], now["pf"] = text == "normal", text
    elif path.endswith("/sriov_admin/pf/profile/sched_priority"):
        if text not in ("low", "normal", "high"):
            raise kernel.error(errno.EINVAL, path)
        now["pf"] = text
    elif re.search(r"/sriov_admin/vf\d+/profile/sched_priority\Z", path):
        raise kernel.error(errno.EOPNOTSUPP, path)
    elif path.endswith(f"{address}/sriov/restore_auto_provisioning"):
        _restore(gpu, now, path)
    elif layout in _BACKPORT and path == f"/sys/class/drm/{_card(tree, address)}/{layout}/pf/auto_provisioning":
        _switch(now, kernel.number_of(text, path), path)
    else:
        return False
    gpu["xe_sriov"] = now
    return True


def _set_value(gpu, layout, now, key, value, path):
    number, field, part = key
    if field in _QUOTAS:
        if gpu["numvfs"] and not layout.startswith("sriov_admin"):
            raise kernel.error(errno.EBUSY, path)
        if field == "vram":
            value = -(-value // _VRAM_ALIGN) * _VRAM_ALIGN
        others = sum(v for k, v in now["values"].items() if k.endswith(f"/{field}/{part}")) - _get(now, *key)
        if others + value > _total(gpu, layout, field) * (_tiles(gpu) if layout.startswith("sriov_admin") else 1):
            raise kernel.error(errno.ENOSPC, path)
        now["custom"] = not layout.startswith("sriov_admin")
    _set(now, value, number, field, part)


def _restore(gpu, now, path):
    if gpu["numvfs"]:
        raise kernel.error(errno.EBUSY, path)
    now["custom"] = False
    now["values"] = {k: v for k, v in now["values"].items() if k.split("/")[0] == "0" or k.split("/")[1] not in _QUOTAS}


def _switch(now, on, path):
    if on and any(key.split("/")[1] in _QUOTAS for key in now["values"]):
        raise kernel.error(errno.ESTALE, path)
    now["custom"] = not on


def _set_numvfs(state, gpu, layout, text, path, look):
    about = gpu["about"]
    wanted = kernel.number_of(text, path)
    if wanted > about["sriov_totalvfs"]:
        raise kernel.error(errno.ERANGE, path)
    if wanted == gpu["numvfs"]:
        return
    if not _is_pf_driver(about["driver"], layout):
        raise kernel.error(errno.ENOENT, path)
    if wanted and gpu["numvfs"]:
        raise kernel.error(errno.EBUSY, path)
    now = _provisioned(gpu, layout)
    if wanted:
        _enable(gpu, layout, now, wanted, path)
    else:
        # The kernel would wait here until a virtual machine lets go, for ever perhaps: a test must fail instead.
        if _held(state, gpu, look()):
            raise kernel.error(errno.EBUSY, path)
        _release(now, layout)
    gpu["xe_sriov"] = now
    pci.forget_functions(state, about["address"])
    gpu["numvfs"] = wanted


def _enable(gpu, layout, now, count, path):
    if _tiles(gpu) > 1 and count > 1 and count % 2:
        raise kernel.error(errno.EINVAL, path)
    if layout == "debugfs-old":
        # No mode is kept: a driver of that time divides where all VFs have nothing yet.
        now["custom"] = any(key.split("/")[1] in _QUOTAS for key in now["values"])
    fields = ("ggtt", "contexts", "doorbells") if layout.startswith("sriov_admin") else _QUOTAS
    full = [sum(_get(now, n, field, part) for field in fields for part in (0, 1)) for n in range(1, count + 1)]
    if now["custom"] and not all(full):
        raise kernel.error(errno.EINVAL, path)
    if not now["custom"]:
        if any(full):
            raise kernel.error(errno.EUCLEAN, path)
        _divide(gpu, layout, now, count)


def _held(state, gpu, tree):
    """Whether a process holds a node of one of the VFs."""
    base = f"{kernel.DEVICES}/{gpu['about']['address']}"
    nodes = set()
    for name in tree.listdir(base):
        if name.startswith("virtfn"):
            nodes.add(f"/dev/vfio/{tree.readlink(f'{base}/{name}/iommu_group')}")
            nodes |= {f"/dev/dri/{node}" for node in tree.listdir(f"{base}/{name}/drm")}
    return any(node in nodes for process in state["processes"] for node in process["nodes"])


def modprobe(state, module, loading):
    """Removing a PF driver is not played."""


def reboot(state):
    """The drivers forget everything."""
    for gpu in state["gpus"].values():
        gpu.pop("xe_sriov", None)
