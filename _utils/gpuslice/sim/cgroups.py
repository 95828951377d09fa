"""
Slices of systemd on a simulated machine, and who limits the memory of GPUs in them: NVML's memory limits (r615), and the units
by which a limit comes back whenever its slice does.

Facts: a slice that is stopped takes its group with it, and all limits of that; a driver that is loaded anew knows none
(``kernel/cgroup/dmem.c``). The controller dmem itself is played by :mod:`.xe_ccs`.
"""

import re

from gpuslice.sim import hardware

_ROOT = "/sys/fs/cgroup"
_UNITS = "/etc/systemd/system"
_CAPACITY = f"{_ROOT}/dmem.capacity"
_DMEM = re.compile(r"/sys/fs/cgroup/.+/dmem\.max")
_SET = re.compile(r"^ExecStart=.* -m gpuslice\.boot\.limiting (\S+) (.+)$", re.MULTILINE)
_SLICE = re.compile(r"^Slice=(\S+\.slice)$", re.MULTILINE)
_NEEDS = re.compile(r"^(?:Requires|Wants)=(gpuslicing-\S+\.service)$", re.MULTILINE)
_BOUND = re.compile(r"^BindsTo=(\S+\.slice)$", re.MULTILINE)
_MIB = 2**20
#: What NVML calls no limit.
NO_LIMIT = 2**64 - 1


def path_of(unit):
    """The directory of a slice."""
    parts = unit.removesuffix(".slice").split("-")
    return "/".join([_ROOT, *("-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)))])


def plays(state):
    """Whether the machine is described with control groups of version 2."""
    return f"{_ROOT}/cgroup.controllers" in state["host"]["files"]


def _files(state):
    return {**state["host"]["files"], **state["written"]}


def is_group(state, path):
    """Whether there is such a group."""
    return path == _ROOT or any(name.startswith(f"{path}/") for name in _files(state))


def start(state, unit):
    """Start a slice and those that it lies in; inside a change."""
    path = path_of(unit)
    fresh = not is_group(state, path)
    steps = path.removeprefix(f"{_ROOT}/").split("/")
    for count in range(1, len(steps) + 1):
        group, above = "/".join([_ROOT, *steps[:count]]), "/".join([_ROOT, *steps[: count - 1]])
        files = _files(state)
        for name in ("cgroup.procs", "cgroup.subtree_control"):
            if f"{group}/{name}" not in files:
                state["written"][f"{group}/{name}"] = ""
        accounted = "dmem" in files.get(f"{above}/cgroup.subtree_control", "").split()
        if accounted and _CAPACITY in files and f"{group}/dmem.max" not in files:
            state["written"][f"{group}/dmem.max"] = _no_limits(files)
    if fresh:
        _run_needed(state, unit)


def _run_needed(state, unit):
    """What the files of a unit want or need, of what limits."""
    for path, text in sorted(state["written"].items()):
        if path.startswith(f"{_UNITS}/{unit}.d/"):
            for needed in _NEEDS.findall(text):
                run(state, needed)


def _no_limits(files):
    return "\n".join(f"{line.split()[0]} max" for line in files[_CAPACITY].splitlines() if line.strip())


def stop(state, unit):
    """Stop a slice: its group goes with all limits, and what is bound to it; inside a change."""
    path = path_of(unit)
    state["written"] = {name: text for name, text in state["written"].items() if not name.startswith(f"{path}/")}
    limits = state.get("memory_limits", {})
    state["memory_limits"] = {group: each for group, each in limits.items() if group != path and not group.startswith(f"{path}/")}
    bound = [name for name in _limiting(state) if (found := _BOUND.search(text_of(state, name))) and found[1] == unit]
    state["limiting"] = [name for name in state.get("limiting", ()) if name not in bound]


def text_of(state, unit):
    """The file of a unit that limits, "" for none."""
    return state["written"].get(f"{_UNITS}/{unit}", "")


def is_limiting(state, unit):
    """Whether it is a unit that limits, whose file was written."""
    return bool(_SET.search(text_of(state, unit)))


def _limiting(state):
    return [path.rpartition("/")[2] for path in state["written"] if path.startswith(f"{_UNITS}/gpuslicing-")]


def started(state, unit):
    """A unit starts: in its slice, after what that needs; inside a change."""
    for path, text in sorted(state["written"].items()):
        if path.startswith(f"{_UNITS}/{unit}.d/"):
            for slice_unit in _SLICE.findall(text):
                start(state, slice_unit)
    _run_needed(state, unit)


def run(state, unit):
    """A oneshot that stays: it sets its limits unless it is active already; inside a change."""
    found = _SET.search(text_of(state, unit))
    if not found or unit in state.get("limiting", ()):
        return
    # What systemd's own escape means in a command line.
    slice_unit = found[1].strip('"').replace("\\\\", "\\")
    start(state, slice_unit)
    if unit in state.get("limiting", ()):
        return
    state["limiting"] = [*state.get("limiting", ()), unit]
    for word in found[2].split():
        address, _, mebibytes = word.partition("=")
        _limit(state, path_of(slice_unit), address, int(mebibytes) * _MIB)


def _limit(state, group, address, limit):
    gpu = state["gpus"][address]
    if gpu["about"]["driver"] == "nvidia" and state["host"]["nvml_level"] >= 615:
        set_limit(state, group, address, limit)
        return
    files = _files(state)
    regions = [line.split()[0] for line in files.get(_CAPACITY, "").splitlines() if f"/{address}/vram" in line]
    if regions:
        text = files.get(f"{group}/dmem.max") or _no_limits(files)
        now = dict(line.split() for line in text.splitlines())
        now.update({region: str((limit + number) // len(regions)) for number, region in enumerate(regions)})
        state["written"][f"{group}/dmem.max"] = "\n".join(f"{region} {value}" for region, value in now.items())


def limits(state, group, address):
    """(soft, hard) of a group by NVML. Raises :class:`gpuslice.sim.hardware.Refused`: there is no such group."""
    if not is_group(state, group):
        raise hardware.Refused(hardware.INVALID_ARGUMENT)
    return tuple(state.get("memory_limits", {}).get(group, {}).get(address, (0, NO_LIMIT)))


def set_limit(state, group, address, hard, soft=0):
    """What NVML sets; where the kernel counts for the driver, it shows there too. Raises as :func:`limits`."""
    limits(state, group, address)
    state.setdefault("memory_limits", {}).setdefault(group, {})[address] = [soft, hard]
    region, path = f"nvidia/{address}/vidmem", f"{group}/dmem.max"
    text = _files(state).get(path, "")
    if f"{region} " in text:
        now = dict(line.split() for line in text.splitlines() if line.strip())
        now[region] = "max" if hard == NO_LIMIT else str(hard)
        state["written"][path] = "\n".join(f"{name} {value}" for name, value in now.items())


# -- as an extension of the kernel's files ---------------------------------------------------------------------------------
def show(tree, state):
    """What was started is among the files that were written."""


def write(state, path, text, look):
    """None of these files is written here."""
    return False


def modprobe(state, module, loading):
    """A driver that is loaded anew knows no limits, while the groups live on."""
    if not loading:
        return
    mine = [address for address, gpu in state["gpus"].items() if gpu["about"]["driver"] == module]
    forget(state, mine)


def forget(state, addresses):
    """The driver of these GPUs was loaded anew."""
    for each in state.get("memory_limits", {}).values():
        for address in addresses:
            each.pop(address, None)
    for path, text in list(state["written"].items()):
        if _DMEM.fullmatch(path):
            lines = (line.split() for line in text.splitlines() if line.strip())
            kept = {name: "max" if any(f"/{one}/" in name for one in addresses) else value for name, value in lines}
            state["written"][path] = "\n".join(f"{name} {value}" for name, value in kept.items())


def reboot(state):
    """No group is there yet, and no driver knows of any."""
    state.pop("memory_limits", None)
    state.pop("limiting", None)

