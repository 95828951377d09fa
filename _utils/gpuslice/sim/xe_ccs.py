"""
What the Intel drivers show of engines on a simulated machine (CCS mode, scheduling properties), and the cgroup controller for
device memory.

A GPU plays a part when its description has ``engines``. What was written is lost when the driver lets the GPU go, and at a boot.
"""

import errno
import re

from gpuslice.sim import kernel

_PROPERTY = re.compile(r"(.+/engines/[a-z]+)/([a-z_]+)")
_CAP = re.compile(r"/sys/fs/cgroup/.*dmem\.max")
_CONTROL = re.compile(r"(/sys/fs/cgroup(?:/.+)?)/cgroup\.subtree_control")
_CAPACITY = "/sys/fs/cgroup/dmem.capacity"
#: Property -> (at boot, least, most).
_PROPERTIES = {
    "timeslice_duration_us": (1000, 1, 10_000_000),
    "preempt_timeout_us": (640_000, 1, 10_000_000),
    "job_timeout_ms": (5000, 1, 10_000),
}
_DRIVERS = {"xe": ("xe",), "i915-backport": ("i915",)}


def show(tree, state):
    """Add the files of each GPU that has its driver."""
    for address, gpu in state["gpus"].items():
        base = f"{kernel.DEVICES}/{address}"
        if not _plays(gpu):
            continue
        card = next((name for name in tree.listdir(f"{base}/drm") if name.startswith("card")), "card0")
        for place in _places(gpu, card):
            _show_place(tree, f"{base}/{place}", gpu, place)


def _plays(gpu):
    engines = gpu["about"].get("engines")
    return bool(engines) and gpu["about"]["driver"] in _DRIVERS[engines["layout"]]


def _places(gpu, card="card[0-9]+"):
    """Directories of the engine blocks, relative to the function's."""
    engines = gpu["about"]["engines"]
    if engines["layout"] == "xe":
        return [f"tile{tile}/gt{tile}" for tile in range(engines["tiles"])]
    return [f"drm/{card}/gt/gt{tile}" for tile in range(engines["tiles"])]


def _show_place(tree, base, gpu, place):
    engines, now = gpu["about"]["engines"], _now(gpu)
    tree.dir(base)
    if engines["cslices"] > 1:
        tree.file(f"{base}/num_cslices", str(engines["cslices"]))
        tree.file(f"{base}/ccs_mode", str(now["ccs"].get(_number(place), 1)))
    if engines["layout"] != "xe":
        return
    for name in engines["classes"]:
        where = f"{base}/engines/{name}"
        for key, (at_boot, least, most) in _PROPERTIES.items():
            tree.file(f"{where}/{key}", str(now["properties"].get(f"{place}/engines/{name}/{key}", at_boot)))
            tree.file(f"{where}/{key}_min", str(least))
            tree.file(f"{where}/{key}_max", str(most))
            tree.file(f"{where}/.defaults/{key}", str(at_boot))


def _number(place):
    return re.search(r"\d+\Z", place)[0]


def _now(gpu):
    """What was written since the driver took the GPU."""
    kept = gpu.get("xe_ccs")
    return kept if kept and kept["epoch"] == gpu["epoch"] else {"epoch": gpu["epoch"], "ccs": {}, "properties": {}}


def write(state, path, text, look):
    """What the drivers and the cgroup controller do with a write; False for files that are not theirs. Raises OSError."""
    if _CAP.fullmatch(path):
        return _set_cap(state, path, text)
    if _CONTROL.fullmatch(path):
        return _switch_on(state, path, text)
    address, name = kernel.device_file(path)
    gpu = state["gpus"].get(address)
    if gpu is None or not _plays(gpu):
        return False
    place = next((p for pattern in _places(gpu) if (p := _match(pattern, name))), None)
    if place is None:
        return False
    rest = name[len(place) + 1 :]
    now = _now(gpu)
    if rest == "ccs_mode" and gpu["about"]["engines"]["cslices"] > 1:
        now["ccs"][_number(place)] = _ccs_mode(state, gpu, path, text, look)
    elif (found := _PROPERTY.fullmatch(name)) and found[2] in _PROPERTIES:
        now["properties"][name] = _property(found[2], path, text)
    else:
        return False
    gpu["xe_ccs"] = now
    return True


def _match(pattern, path):
    found = re.match(rf"({pattern})/", path)
    return found[1] if found else None


def _ccs_mode(state, gpu, path, text, look):
    engines = gpu["about"]["engines"]
    wanted = kernel.number_of(text, path)
    dynamic = engines["layout"] != "xe" and wanted == 0
    if not dynamic and (not 1 <= wanted <= engines["cslices"] or engines["cslices"] % wanted):
        raise kernel.error(errno.EINVAL, path)
    if engines["refuses"]:
        raise kernel.error(errno.EOPNOTSUPP, path)
    nodes = _nodes(gpu, look())
    if any(node in nodes for process in state["processes"] for node in process["nodes"]):
        raise kernel.error(errno.EBUSY, path)
    return wanted


def _nodes(gpu, tree):
    names = tree.listdir(f"{kernel.DEVICES}/{gpu['about']['address']}/drm")
    return [f"/dev/dri/{name}" for name in names]


def _property(key, path, text):
    _, least, most = _PROPERTIES[key]
    wanted = kernel.number_of(text, path)
    if not least <= wanted <= most:
        raise kernel.error(errno.EINVAL, path)
    return wanted


def _set_cap(state, path, text):
    """A line ``<region> <bytes or max>`` changes that region only."""
    files = {**state["host"]["files"], **state["written"]}
    if path not in files:
        raise kernel.error(errno.ENOENT, path)
    regions = {line.split()[0] for line in files.get(_CAPACITY, "").splitlines() if line.strip()}
    now = dict(line.split() for line in files[path].splitlines() if line.strip())
    for line in text.splitlines():
        words = line.split()
        if len(words) != 2 or words[0] not in regions or not re.fullmatch(r"\d+|max", words[1]):
            raise kernel.error(errno.EINVAL, path)
        now[words[0]] = words[1]
    state["written"][path] = "\n".join(f"{region} {value}" for region, value in now.items())
    return True


def _switch_on(state, path, text):
    """``+dmem`` gives the slices in this group their files."""
    files = {**state["host"]["files"], **state["written"]}
    if path not in files or _CAPACITY not in files:
        raise kernel.error(errno.ENOENT, path)
    if text != "+dmem":
        raise kernel.error(errno.EINVAL, path)
    state["written"][path] = " ".join(dict.fromkeys([*files[path].split(), "dmem"]))
    group = _CONTROL.fullmatch(path)[1]
    inside = {found[1] for name in files if (found := re.match(rf"{re.escape(group)}/([^/]+\.slice)/", name))}
    regions = [line.split()[0] for line in files[_CAPACITY].splitlines() if line.strip()]
    for name in inside:
        state["written"].setdefault(f"{group}/{name}/dmem.max", "\n".join(f"{region} max" for region in regions))
    return True


def modprobe(state, module, loading):
    """Nothing here depends on a module that can be loaded alone."""


def reboot(state):
    """The drivers forget everything."""
    for gpu in state["gpus"].values():
        gpu.pop("xe_ccs", None)
