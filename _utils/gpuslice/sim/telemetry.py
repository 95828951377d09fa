"""
What the boards of a simulated machine draw and how busy they are, and the files in which the drivers amdgpu, xe and i915 tell it.

A GPU plays a part when its description has ``draw``. Its meter is a function of the time: power is that of an idle board and, for
each slice that is there, its share of the rest as far as it is busy. What the counter of a driver tells begins at 0 when the
driver takes the board. Beside it the meter keeps what was drawn for whom (:func:`drawn`), which no driver knows.

Facts: NVML's header; ``drivers/gpu/drm/amd/include/kgd_pp_interface.h`` of Linux (``gpu_metrics``, whose energy is in units of
2^-16 J); ``Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon`` (``energy1`` the card, ``energy2`` the package).
"""

import errno
import struct
import time

from gpuslice.sim import hardware
from gpuslice.sim import kernel
from gpuslice.sim import pci

WHOLE = "whole"
#: Layouts of ``gpu_metrics`` by version: bytes before the energy, and bytes of all.
_METRICS = {"1.3": (24, 120), "1.4": (24, 288), "1.5": (88, 360), "1.6": (88, 384), "1.7": (88, 512)}
_HWMON = "hwmon/hwmon3"
_UNITS_OF_A_MILLIJOULE = 2**16 / 1000
_MIB = 1 << 20
#: Ticks of the clock of xe's engines in a second.
_XE_HZ = 19_200_000


def clock(state):
    """The machine's monotonic time, as its host tells it."""
    return time.monotonic() + state.get("passed", 0)


# -- who is busy -----------------------------------------------------------------------------------------------------
def parts(state, address):
    """
    Name -> share of the board's compute, of what can be busy on a GPU now: GPU instances as ``3g.20gb@0``, virtual functions by
    PCI address, partitions by number, ``whole`` where nothing cuts it.
    """
    gpu = state["gpus"][address]
    if gpu["mode"] and (table := hardware.mig_table(gpu)):
        placed = [(table.by_id(gi["profile"]), gi["start"]) for gi in gpu["gis"].values()]
        return {f"{profile.name}@{start}": profile.slices / table.compute for profile, start in placed}
    names = pci.functions_of(state, address) or [str(number) for number in range(_partitions(gpu))]
    return dict.fromkeys(names, 1 / len(names)) if len(names) > 1 or gpu["numvfs"] else {WHOLE: 1.0}


def _partitions(gpu):
    if gpu["about"]["vendor"] != "1002" or "current_compute_partition" not in gpu["about"]["sysfs"]:
        return 1
    from gpuslice.sim import amdgpu

    return amdgpu.partitions(gpu)


def _load(state, address):
    """Name -> (share, utilisation) of what can be busy."""
    gpu = state["gpus"][address]
    load = gpu["load"] if "load" in gpu else gpu["about"].get("load", {})
    return {name: (share, load.get(name, 0.0)) for name, share in parts(state, address).items()}


def utilisation(state, address):
    """How busy the board is, 0 to 1."""
    return sum(share * busy for share, busy in _load(state, address).values())


# -- the meter -------------------------------------------------------------------------------------------------------
def milliwatts(state, address):
    """What the board draws now. Raises :class:`gpuslice.sim.hardware.Refused`: it does not tell."""
    draw = _draw(state["gpus"][address])
    return 1000 * (draw["idle"] + (draw["active"] - draw["idle"]) * utilisation(state, address))


def millijoules(state, address):
    """What the driver's counter tells. Raises :class:`gpuslice.sim.hardware.Refused`: it has none."""
    _draw(state["gpus"][address])
    return meter(state, address)["counter"]


def celsius(state, address):
    """Raises :class:`gpuslice.sim.hardware.Refused`: it is not told."""
    draw = _draw(state["gpus"][address])
    return 30 + round(45 * utilisation(state, address)) if draw["celsius"] is None else draw["celsius"]


def drawn(state, address):
    """
    Millijoules that were drawn since the machine is there, for whom: ``idle``, and for each slice by its name in :func:`parts`
    what it took beyond that.
    """
    return dict(meter(state, address)["drawn"])


def _draw(gpu):
    draw = gpu["about"].get("draw")
    if not draw or gpu["about"]["vgpu_guest"]:
        raise hardware.Refused(hardware.NOT_SUPPORTED)
    return draw


def meter(state, address):
    """
    The meter at this moment: ``since`` (the moment), ``counter`` (mJ of the driver), ``drawn`` (mJ, see :func:`drawn`) and
    ``busy`` (seconds that each slice would have been busy at full load).
    """
    gpu, now = state["gpus"][address], clock(state)
    kept = state.get("meters", {}).get(address) or {"since": now, "counter": 0.0, "drawn": {"idle": 0.0}, "busy": {}}
    seconds, draw = max(0.0, now - kept["since"]), gpu["about"]["draw"]
    shares, busy = dict(kept["drawn"]), dict(kept["busy"])
    shares["idle"] += 1000 * draw["idle"] * seconds
    for name, (share, load) in _load(state, address).items():
        shares[name] = shares.get(name, 0.0) + 1000 * (draw["active"] - draw["idle"]) * share * load * seconds
        busy[name] = busy.get(name, 0.0) + load * seconds
    counted = kept["counter"] + sum(shares.values()) - sum(kept["drawn"].values()) if _has_driver(state, gpu) else 0.0
    return {"since": now, "counter": counted, "drawn": shares, "busy": busy}


def _has_driver(state, gpu):
    return pci.driver_of(state, gpu["about"]["driver"]) in ("nvidia", "amdgpu", "xe", "i915")


def settle(state):
    """Read all meters, before anything changes by which they go on otherwise."""
    for address, gpu in state["gpus"].items():
        if "draw" in gpu["about"]:
            state.setdefault("meters", {})[address] = meter(state, address)


def reboot(state):
    """All drivers begin anew."""
    for kept in state.get("meters", {}).values():
        kept["counter"] = 0.0


# -- files -----------------------------------------------------------------------------------------------------------
def asleep(state, path):
    """Raise OSError as a driver does that does not wake its board: the file is of one that sleeps."""
    address, _ = kernel.device_file(path)
    if sleeps(state, address):
        raise kernel.error(errno.EPERM, path)


def sleeps(state, address):
    """Whether the function at an address has no power at present."""
    path = f"{kernel.DEVICES}/{address}/power/runtime_status"
    described = state["gpus"][address]["about"]["sysfs"].get("power/runtime_status", "")
    return state["written"].get(path, described).strip() == "suspended"


def show(tree, state):
    """Add the files of each board that has its driver."""
    for address, gpu in state["gpus"].items():
        if "draw" not in gpu["about"]:
            continue
        base, driver = f"{kernel.DEVICES}/{address}", gpu["about"]["driver"]
        if driver == "amdgpu":
            _show_amd(tree, state, address, base)
        elif driver in ("xe", "i915"):
            _show_intel(tree, state, address, base, driver)


def _number(tree, state, path, tell):
    """A file that tells a number, as it is when it is read."""

    def text():
        asleep(state, path)
        return str(int(tell()))

    tree.file(path, text)


def _show_amd(tree, state, address, base):
    gpu = state["gpus"][address]
    total = gpu["about"]["memory_mib"] * _MIB
    tree.file(f"{base}/{_HWMON}/name", "amdgpu")
    _number(tree, state, f"{base}/{_HWMON}/power1_average", lambda: 1000 * milliwatts(state, address))
    _number(tree, state, f"{base}/{_HWMON}/temp1_input", lambda: 1000 * celsius(state, address))
    _number(tree, state, f"{base}/gpu_busy_percent", lambda: round(100 * utilisation(state, address)))
    _number(tree, state, f"{base}/mem_info_vram_total", lambda: total)
    _number(tree, state, f"{base}/mem_info_vram_used", lambda: min(total, memory_used(state, address)))

    def metrics():
        asleep(state, f"{base}/gpu_metrics")
        return gpu_metrics(state, address)

    tree.file(f"{base}/gpu_metrics", metrics)


def memory_used(state, address):
    """Bytes that the processes on a GPU have of its memory."""
    return sum(process["memory_mib"] for process in hardware.holders(state, address, contexts=True)) * _MIB


def gpu_metrics(state, address):
    """The table that amdgpu makes of a board: header, temperature, power, activity and energy; the rest is not told."""
    version = state["gpus"][address]["about"]["draw"]["metrics"]
    before, size = _METRICS[version]
    form, content = map(int, version.split("."))
    head = struct.pack("<HBB", size, form, content)
    hot, busy = celsius(state, address), round(100 * utilisation(state, address))
    head += struct.pack("<HHHHHH", hot, hot, hot, round(milliwatts(state, address) / 1000), busy, 0)
    energy = struct.pack("<Q", int(millijoules(state, address) * _UNITS_OF_A_MILLIJOULE))
    return (head.ljust(before, b"\xff") + energy).ljust(size, b"\xff")


def _show_intel(tree, state, address, base, driver):
    tree.file(f"{base}/{_HWMON}/name", driver)
    _number(tree, state, f"{base}/{_HWMON}/energy1_input", lambda: 1000 * millijoules(state, address))
    if driver == "xe":
        # The package is a part of the card.
        _number(tree, state, f"{base}/{_HWMON}/energy2_input", lambda: 900 * millijoules(state, address))
        _number(tree, state, f"{base}/{_HWMON}/temp2_input", lambda: 1000 * celsius(state, address))


def clients(state, functions):
    """
    What the drivers tell of the processes that use these GPUs, as :class:`gpuslice.host.clients.Client`: of what a whole board is
    busy each has an equal part.
    """
    from gpuslice.host.clients import Client

    found = []
    for address in sorted(set(functions) & set(state["gpus"])):
        gpu = state["gpus"][address]
        users = hardware.holders(state, address, contexts=True)
        for process in users:
            busy = meter(state, address)["busy"].get(WHOLE, 0.0) / len(users) if "draw" in gpu["about"] else 0.0
            numbers = {"resident-vram0": process["memory_mib"] * _MIB, "resident-system": _MIB}
            if gpu["about"]["driver"] == "xe":
                numbers.update({"cycles-ccs": int(busy * _XE_HZ), "total-cycles-ccs": int(clock(state) * _XE_HZ)})
            else:
                numbers.update({"engine-compute": int(busy * 1e9)})
            found.append(Client(address, process["pid"], (process["pid"],), numbers))
    return found


def write(state, path, text, look):
    """None of these files can be written."""
    return False


def modprobe(state, module, loading):
    """Nothing: a meter sees for itself whether its board has a driver."""
