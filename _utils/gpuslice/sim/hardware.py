"""
The rules of the GPUs: what a driver allows, what it refuses with which code, and what it remembers.

All functions work on a state (see :func:`build`) and raise :class:`Refused`. NVML, the tools and foreign changes go through
them alike, so that they can't disagree.
"""

import hashlib
import json

from gpuslice.catalog import nvidia
from gpuslice.catalog.mig import CiProfile
from gpuslice.sim import description
from gpuslice.sim import devices
from gpuslice.sim import kernel_log
from gpuslice.sim import state as state_file

# Return codes of NVML that the rules need; the simulation's rules know nothing of pynvml.
SUCCESS = 0
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INSUFFICIENT_RESOURCES = 23

#: Driver branches from which a GPU instance profile (by enum) exists; the others have always been there.
_GI_SINCE = {8: 525, 9: 525, 10: 570, 11: 570, 12: 570, 13: 575, 14: 575, 15: 575, 16: 575, 17: 575}
#: Driver branches from which the two extra compute instance profiles of the A100 are listed.
_EXTRA_CI_SINCE = 550


#: Keys of a description that an update of the driver changes.
OF_DRIVER = ("driver", "nvml_level")


class Refused(Exception):
    """The driver refuses. ``code`` is the NVML return code."""

    def __init__(self, code):
        self.code = code
        super().__init__(f"NVML return code {code}")


# -- the state -------------------------------------------------------------------------------------------------------
def build(described, digest, serial=0, boot=0):
    """
    The machine as its description says.

    :param described: result of :func:`gpuslice.sim.description.parse`.
    :param digest: what tells this text of the description from others.
    :param serial: number to go on from, so that identities are not given twice.
    :return: the state, plain data. Raises :class:`Refused` for instances that the GPU can't have (with the GPU's address
        in ``gpu``).
    """
    host = {key: value for key, value in described.items() if key not in ("gpus", "processes", "faults")}
    state = {
        "format": state_file.FORMAT,
        "digest": digest,
        "machine": machine(described),
        "host": host,
        "serial": serial,
        "boot": boot + 1,
        "boot_id": devices.made_uuid("", host["name"], "boot", boot + 1),
        "gpus": {gpu["address"]: _fresh(gpu) for gpu in described["gpus"]},
        "processes": [],
        "stopped": [],
        "modules": dict(described["modules"]),
        "faults": [dict(fault) for fault in described["faults"]],
        "written": {},
        "reboot_scheduled": "",
    }
    for about in described["gpus"]:
        for wanted in about["instances"]:
            _described_instance(state, about["address"], wanted)
    state["processes"] = described["processes"]
    return state


def machine(described):
    """What tells a described machine from another one, its driver aside."""
    rest = {key: value for key, value in described.items() if key not in OF_DRIVER}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _fresh(about):
    mode = int(about["mig"])
    return {
        "about": about,
        "mode": mode,
        "pending": mode,
        "epoch": 0,
        "gis": {},
        "numvfs": about.get("numvfs", 0),
        "autoprobe": 1,
        "health": dict(about["health"]),
    }


def _described_instance(state, address, wanted):
    try:
        profile = profile_named(state["gpus"][address], wanted["profile"])
        gi_id = create_gi(state, address, profile.id, wanted["start"])
        if wanted["cis"] is None:
            create_ci(state, address, gi_id, filling_ci(profile).id)
            return
        for name, start in wanted["cis"]:
            ci = next((ci for ci in profile.cis if ci.name == name), None)
            if ci is None:
                raise Refused(NOT_SUPPORTED)
            create_ci(state, address, gi_id, ci.id, start)
    except Refused as err:
        err.gpu, err.wanted = address, f"{wanted['profile']}@{wanted['start']}"
        raise


def next_serial(state):
    """A number that was never given before on this machine."""
    state["serial"] += 1
    return state["serial"]


# -- profiles --------------------------------------------------------------------------------------------------------
def mig_table(gpu):
    """The MIG table of a GPU that can do MIG now, else None: other boards, and workstation boards in graphics mode."""
    about = gpu["about"]
    if not about["model"] or about["display_mode"] == "graphics":
        return None
    return nvidia.mig_table(about["model"])


def _table(gpu):
    table = mig_table(gpu)
    if table is None:
        raise Refused(NOT_SUPPORTED)
    return table


def profile_by_id(gpu, profile_id, level=description.NEWEST):
    """The GPU instance profile with this id. Raises :class:`Refused` where there is none, or none in this driver branch."""
    profile = _table(gpu).by_id(profile_id)
    if profile is None or level < _GI_SINCE.get(profile.enum, 0):
        raise Refused(INVALID_ARGUMENT)
    return profile


def profile_named(gpu, name):
    """The GPU instance profile of this name. Raises :class:`Refused`."""
    profile = _table(gpu).profile(name)
    if profile is None:
        raise Refused(NOT_SUPPORTED)
    return profile


def enum_count(level):
    """How many GPU instance profile enums the headers of a driver branch have."""
    return 18 if level >= 575 else 13 if level >= 570 else 10 if level >= 525 else 8


def profile_by_enum(gpu, enum, level):
    """The GPU instance profile with this enum. Raises :class:`Refused`: absent ones and the end of the list differ."""
    if not 0 <= enum < enum_count(level):
        raise Refused(INVALID_ARGUMENT)
    for profile in _table(gpu).profiles:
        if profile.enum == enum and level >= _GI_SINCE.get(enum, 0):
            return profile
    raise Refused(NOT_SUPPORTED)


def ci_profiles(gpu, profile, level=description.NEWEST):
    """The compute instance profiles inside a GPU instance profile, with the doubles that recent drivers list on the A100."""
    if level < _EXTRA_CI_SINCE or not gpu["about"]["model"].startswith("a100") or profile.slices == 1:
        return profile.cis
    starts = next(ci.starts for ci in profile.cis if ci.slices == 1)
    extra = (CiProfile(f"1c.{profile.name}", 7, 7, 1, 1, starts),)
    if profile.slices == 7:
        extra += (CiProfile(profile.name, 8, 8, 7, 1, (0,)),)
    return profile.cis + extra


def filling_ci(profile):
    """The compute instance profile that fills the GPU instance."""
    return next(ci for ci in profile.cis if ci.slices == profile.slices)


# -- GPU instances ---------------------------------------------------------------------------------------------------
def gi_identity(slots, start, size):
    """The driver's id of a GPU instance, which its position decides: 0 the whole, 1-2 halves, 3-6 quarters, 7-14 eighths."""
    return slots // size - 1 + start // size


def _occupied(gpu, table):
    return [(table.by_id(gi["profile"]), gi["start"]) for gi in gpu["gis"].values()]


def _fits(table, placed, profile, start, level):
    """Whether an instance can be placed beside the ones that are there."""
    if any(start < begin + other.size and begin < start + profile.size for other, begin in placed):
        return False
    if sum(other.slices for other, _ in placed) + profile.slices > table.compute:
        return False
    if sum(other.id == profile.id for other, _ in placed) >= profile.count:
        return False
    together = [profile] + [other for other, _ in placed]
    if sum(p.engines[4] or 0 for p in together) > max(p.engines[4] or 0 for p in table.profiles):
        return False
    # Before R510 a GPU could not have a 4g and a 3g instance at once.
    if level < 510 and {3, 4} <= {p.slices for p in together}:
        return False
    takes_all = [p for p in together if "me.all" in p.attributes]
    return not takes_all or all("-me" in p.attributes for p in together if p is not takes_all[0])


def _driver_order(table, profile):
    """Starts in the order in which the driver tries them: the upper half first, and there a slot without a neighbour."""

    def rank(start):
        alone = profile.size == 1 and start ^ 1 not in profile.starts
        return (start < table.slots // 2, not alone, start)

    return sorted(profile.starts, key=rank)


def capacity(gpu, profile, level=description.NEWEST):
    """How many more instances of a profile fit."""
    table = _table(gpu)
    placed = _occupied(gpu, table)
    count = 0
    for start in profile.starts:
        if _fits(table, placed, profile, start, level):
            placed.append((profile, start))
            count += 1
    return count


def create_gi(state, address, profile_id, start=None, size=None):
    """
    Make a GPU instance.

    :param start: memory slice where it begins; None lets the driver choose.
    :param size: memory slices of the placement, None for the profile's own.
    :return: its id. Raises :class:`Refused`.
    """
    gpu, level = alive(state, address), state["host"]["nvml_level"]
    table = _table(gpu)
    if not gpu["mode"] or gpu["about"]["vgpu_guest"]:
        raise Refused(NOT_SUPPORTED)
    profile = profile_by_id(gpu, profile_id, level)
    if start is not None and (start not in profile.starts or size not in (None, profile.size)):
        raise Refused(INVALID_ARGUMENT)
    # The hardware is partitioned when the first instance is made, so an open context on the whole GPU stops it only then.
    if not gpu["gis"] and holders(state, address, contexts=True):
        raise Refused(IN_USE)
    placed = _occupied(gpu, table)
    starts = _driver_order(table, profile) if start is None else [start]
    chosen = next((s for s in starts if _fits(table, placed, profile, s, level)), None)
    if chosen is None:
        raise Refused(INSUFFICIENT_RESOURCES)
    identity = gi_identity(table.slots, chosen, profile.size)
    gpu["gis"][str(identity)] = {
        "profile": profile.id, "start": chosen, "size": profile.size, "serial": next_serial(state), "cis": {},
    }  # fmt: skip
    return identity


def destroy_gi(state, address, gi_id):
    """Destroy an empty GPU instance. Raises :class:`Refused`."""
    gpu = alive(state, address)
    gi = gpu["gis"].get(str(gi_id))
    if gi is None:
        raise Refused(NOT_FOUND)
    if gi["cis"] or holders(state, address, gi_id) or _backs_vgpu(gpu, gi_id):
        raise Refused(IN_USE)
    del gpu["gis"][str(gi_id)]


# -- compute instances -----------------------------------------------------------------------------------------------
def _ci_fits(gi, profile, start, slices):
    cis = gi["cis"].values()
    if any(start < ci["start"] + ci["size"] and ci["start"] < start + profile.slices for ci in cis):
        return False
    if sum(ci["profile"] == profile.id for ci in cis) >= profile.count:
        return False
    return start + profile.slices <= slices


def ci_profile_by_id(gpu, gi, profile_id, level=description.NEWEST):
    """The compute instance profile with this id in a GPU instance. Raises :class:`Refused`."""
    found = next((ci for ci in ci_profiles(gpu, _gi_profile(gpu, gi), level) if ci.id == profile_id), None)
    if found is None:
        raise Refused(NOT_SUPPORTED if 0 <= profile_id < 9 else INVALID_ARGUMENT)
    return found


def _gi_profile(gpu, gi):
    return _table(gpu).by_id(gi["profile"])


def ci_capacity(gpu, gi, profile):
    """How many more compute instances of a profile fit into a GPU instance."""
    if profile.id == 8:
        return 0
    slices = _gi_profile(gpu, gi).slices
    trial = {"cis": dict(gi["cis"])}
    count = 0
    for start in profile.starts:
        if _ci_fits(trial, profile, start, slices):
            trial["cis"][f"trial {start}"] = {"profile": profile.id, "start": start, "size": profile.slices}
            count += 1
    return count


def create_ci(state, address, gi_id, profile_id, start=None, size=None):
    """
    Make a compute instance, and with it a MIG device with a new UUID.

    :param start: compute slice inside the GPU instance where it begins; None lets the driver choose.
    :return: its id. Raises :class:`Refused`.
    """
    gpu = alive(state, address)
    gi = gpu["gis"].get(str(gi_id))
    if gi is None:
        raise Refused(NOT_FOUND)
    profile = ci_profile_by_id(gpu, gi, profile_id, state["host"]["nvml_level"])
    if start is not None and (start not in profile.starts or size not in (None, profile.slices)):
        raise Refused(INVALID_ARGUMENT)
    # The NVLink kind of the full instance is listed, but can't be made.
    if profile.id == 8:
        raise Refused(INSUFFICIENT_RESOURCES)
    slices = _gi_profile(gpu, gi).slices
    starts = profile.starts if start is None else (start,)
    chosen = next((s for s in starts if _ci_fits(gi, profile, s, slices)), None)
    if chosen is None:
        raise Refused(INSUFFICIENT_RESOURCES)
    identity = _lowest_free(gi["cis"])
    serial = next_serial(state)
    gi["cis"][str(identity)] = {
        "profile": profile.id,
        "start": chosen,
        "size": profile.slices,
        "serial": serial,
        "uuid": devices.made_uuid("MIG-", gpu["about"]["uuid"], serial),
        "index": _lowest_free(str(index) for index, _, _ in mig_devices(gpu)),
    }
    return identity


def _lowest_free(taken):
    taken = set(taken)
    return next(n for n in range(len(taken) + 1) if str(n) not in taken)


def destroy_ci(state, address, gi_id, ci_id):
    """Destroy a compute instance that no process uses. Raises :class:`Refused`."""
    gpu = alive(state, address)
    gi = gpu["gis"].get(str(gi_id))
    if gi is None or str(ci_id) not in gi["cis"]:
        raise Refused(NOT_FOUND)
    if holders(state, address, gi_id, ci_id) or _backs_vgpu(gpu, gi_id):
        raise Refused(IN_USE)
    del gi["cis"][str(ci_id)]


def mig_devices(gpu):
    """The MIG devices of a GPU: (index, GI id, CI id), by index. The indices may have holes."""
    found = [(ci["index"], int(gi_id), int(ci_id)) for gi_id, gi in gpu["gis"].items() for ci_id, ci in gi["cis"].items()]
    return sorted(found)


# -- mode, reset, reboot ---------------------------------------------------------------------------------------------
def alive(state, address):
    """The GPU at an address. Raises :class:`Refused` when it fell off the bus."""
    gpu = state["gpus"][address]
    if gpu["health"]["lost"]:
        raise Refused(GPU_IS_LOST)
    return gpu


def set_mode(state, address, mode):
    """
    Change the MIG mode of a GPU.

    :param mode: 0 or 1.
    :return: the activation status, 0 when the mode is in force. Raises :class:`Refused` where the call itself fails.
    """
    gpu = alive(state, address)
    about = gpu["about"]
    _table(gpu)
    if about["vgpu_guest"]:
        raise Refused(NOT_SUPPORTED)
    if mode not in (0, 1):
        raise Refused(INVALID_ARGUMENT)
    if mode == gpu["mode"]:
        gpu["pending"] = mode
        return SUCCESS
    # The vGPU manager keeps the mode as long as virtual functions may carry what was made for it.
    if vgpus(gpu) or (about.get("vgpu") and not mode and gpu["numvfs"]):
        return IN_USE
    if about["resetless"]:
        if gpu["gis"] or holders(state, address, contexts=True):
            return IN_USE
        gpu["mode"] = gpu["pending"] = mode
        gpu["epoch"] += 1
        return SUCCESS
    gpu["pending"] = mode
    if holders(state, address):
        return IN_USE
    if about["reset"] != "auto":
        return RESET_REQUIRED
    reset(state, address)
    return SUCCESS


def reset(state, address):
    """Reset a GPU: a pending mode comes into force, every instance is gone, and handles are stale."""
    gpu = state["gpus"][address]
    gpu["mode"] = gpu["pending"]
    gpu["gis"] = {}
    gpu["epoch"] += 1
    health = gpu["health"]
    health["row_remap_pending"] = health["page_retirement_pending"] = False
    health["ecc_uncorrected"] = 0
    if health["recovery_action"] in ("gpu_reset", "drain_and_reset", "drain_p2p"):
        kernel_log.set_recovery_action(state, address, "none")


def reboot(state):
    """Boot the machine anew: no instances, no processes, no VFs; only Ampere boards remember their MIG mode."""
    state["boot"] += 1
    state["boot_id"] = devices.made_uuid("", state["host"]["name"], "boot", state["boot"])
    state["processes"] = []
    # Files of the kernel and of /run are made anew, those of the disk stay.
    state["written"] = {path: text for path, text in state["written"].items() if path.startswith("/etc/")}
    state["reboot_scheduled"] = ""
    for address, gpu in state["gpus"].items():
        reset(state, address)
        if gpu["about"]["resetless"]:
            gpu["mode"] = gpu["pending"] = 0
        gpu["numvfs"], gpu["autoprobe"] = 0, 1
        gpu.pop("vf_drivers", None)
        gpu["health"]["lost"] = False
        gpu["health"]["recovery_action"] = "none"
    kernel_log.clear(state)


# -- vGPUs -----------------------------------------------------------------------------------------------------------
def vgpu_memory(gpu):
    """
    What the vGPU manager remembers of a GPU until the driver lets it go: ``vgpus``, ``heterogeneous`` and ``scheduler``. What is
    added to it lasts when it is put into ``gpu["vgpu_memory"]``: an empty memory is not kept there.
    """
    kept = gpu.get("vgpu_memory")
    if kept and kept["epoch"] == gpu["epoch"]:
        return kept
    return {"epoch": gpu["epoch"], "vgpus": [], "heterogeneous": 0, "scheduler": {}}


def vgpus(gpu):
    """The vGPUs of a GPU, see :func:`gpuslice.sim.vgpu_rules.create`."""
    return vgpu_memory(gpu)["vgpus"]


def _backs_vgpu(gpu, gi_id):
    return any(vgpu["gi"] == int(gi_id) for vgpu in vgpus(gpu))


def taken(state, address):
    """Whether somebody or something keeps the driver from letting a GPU go: a process, or a vGPU."""
    return bool(holders(state, address) or vgpus(state["gpus"][address]))


# -- processes -------------------------------------------------------------------------------------------------------
def cap_minor(minor, gi_id, ci_id=None):
    """Number of the capability node of a GI or a CI on the GPU with this device minor: the static numbering."""
    base = 3 + minor * 135 + int(gi_id) * 9
    return base if ci_id is None else base + 1 + int(ci_id)


def uses(state, process):
    """
    What a process uses.

    :return: list of (GPU address, GI id or None, CI id or None).
    """
    found = []
    for use in process["uses"]:
        if not use["slice"]:
            found.append((use["gpu"], None, None))
            continue
        gi_id = _slice_id(state["gpus"][use["gpu"]], use["slice"])
        if gi_id is not None:
            found.append((use["gpu"], gi_id, use["ci"]))
    return found + [use for node in process["nodes"] for use in _node_uses(state, node)]


def _slice_id(gpu, text):
    name, start = devices.split_slice(text)
    table = mig_table(gpu)
    profile = table.profile(name) if table else None
    for gi_id, gi in gpu["gis"].items():
        if profile and gi["profile"] == profile.id and start in (None, gi["start"]):
            return int(gi_id)
    return None


def _node_uses(state, node):
    """What a device node stands for: a GPU, or a GI or CI of it."""
    minors = {gpu["about"]["minor"]: address for address, gpu in state["gpus"].items() if gpu["about"]["vendor"] == "10de"}
    cap = node.removeprefix("/dev/nvidia-caps/nvidia-cap")
    if cap != node and cap.isdigit() and int(cap) >= 3:
        minor, rest = divmod(int(cap) - 3, 135)
        gi_id, part = divmod(rest, 9)
        return [(minors[minor], gi_id, part - 1 if part else None)] if minor in minors else []
    minor = node.removeprefix("/dev/nvidia")
    if minor != node and minor.isdigit() and int(minor) in minors:
        return [(minors[int(minor)], None, None)]
    return []


def holders(state, address, gi_id=None, ci_id=None, contexts=False):
    """
    Who holds a GPU, a GI or a CI.

    :param contexts: leave out monitors, which have no context on the GPU.
    :return: the processes, as in the state.
    """
    found = []
    for process in state["processes"]:
        if contexts and process["type"] == "monitor":
            continue
        for where, gi, ci in uses(state, process):
            if where != address or (gi_id is not None and gi != int(gi_id)):
                continue
            if ci_id is None or ci in (None, int(ci_id)):
                found.append(process)
                break
    return found
