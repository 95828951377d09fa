"""
The rules of vGPUs on a simulated host: what the vGPU manager allows, and what it remembers.

The kernel's files, NVML, ``sriov-manage`` and foreign changes go through them alike. Everything is forgotten when the driver
lets a GPU go, which its epoch tells: at a rebind, a reset and a reboot.

Without the heterogeneous mode all vGPUs that take turns on a GPU have one size of framebuffer. With it any sizes fit while their
sum does: that real boards give each size fixed places is not played here.
"""

from gpuslice.catalog import nvidia
from gpuslice.sim import hardware
from gpuslice.sim import pci
from gpuslice.sim import vgpu_types

#: Scheduler policies of NVML: best effort, equal share, fixed share; and its modes of the adaptive round robin.
POLICIES = (1, 2, 3)
ARR_DEFAULT, ARR_OFF, ARR_ON = 0, 1, 2
#: Limits of the time slice in ns, and of frequency (Hz) and averaging factor of the adaptive round robin.
TIME_SLICES, FREQUENCIES, FACTORS = (1_000_000, 30_000_000), (63, 960), (1, 60)
_DEFAULT_SLICE = 2_000_000
_FIRST_MDEV_GROUP = 1000


def manages(state, address):
    """Whether the vGPU manager has this GPU: it is there, and the driver is bound."""
    about = state["gpus"][address]["about"]
    return bool(about.get("vgpu") and about["driver"] == "nvidia" and state["host"]["driver"]["loaded"])


def managed(state):
    """(address, gpu) of the GPUs that the vGPU manager has."""
    return [(address, gpu) for address, gpu in state["gpus"].items() if manages(state, address)]


def carriers(state, address):
    """
    Functions that can carry a vGPU each, as (PCI address, IOMMU group): the VFs. On a board without SR-IOV it is the GPU, which
    carries them all.
    """
    gpu = state["gpus"][address]
    about = gpu["about"]
    if not manages(state, address):
        return []
    if not about["sriov_totalvfs"]:
        return [(address, None)]
    if about["vf_driver"] != "nvidia" or not gpu["autoprobe"]:
        return []
    return [(where, pci.vf_group(state, address, n)) for n, where in enumerate(pci.functions_of(state, address))]


def room(state, address, kind):
    """How many more vGPUs of a :class:`gpuslice.sim.vgpu_types.VgpuType` the GPU has room for, functions aside."""
    gpu = state["gpus"][address]
    if kind.profile:
        return sum(_free_instances(state, address, kind).values()) if gpu["mode"] else 0
    if gpu["mode"]:
        return 0
    board = vgpu_types.board_gb(gpu["about"])
    sizes = [vgpu_types.by_id(gpu, vgpu["type"]).gigabytes for vgpu in hardware.vgpus(gpu)]
    if hardware.vgpu_memory(gpu)["heterogeneous"]:
        return (board - sum(sizes)) // kind.gigabytes
    if any(size != kind.gigabytes for size in sizes):
        return 0
    return board // kind.gigabytes - len(sizes)


def per_instance(gpu, kind):
    """How many vGPUs of a type take turns on one GPU instance."""
    model = gpu["about"]["model"]
    share = vgpu_types.board_gb(gpu["about"]) * kind.profile.size / nvidia.mig_table(model).slots
    return max(1, int(share // kind.gigabytes))


def _free_instances(state, address, kind):
    """
    Id of each GPU instance that can back a vGPU of a type -> how many more: it has a compute instance, is used by nobody, and
    backs vGPUs of this size only. Those that back some already come first.
    """
    gpu, found = state["gpus"][address], {}
    for gi_id, gi in gpu["gis"].items():
        number = int(gi_id)
        there = [vgpu_types.by_id(gpu, vgpu["type"]) for vgpu in hardware.vgpus(gpu) if vgpu["gi"] == number]
        free = per_instance(gpu, kind) - len(there)
        fits = gi["profile"] == kind.profile.id and gi["cis"] and all(other.gigabytes == kind.gigabytes for other in there)
        if fits and free > 0 and not hardware.holders(state, address, number):
            found[number] = (not there, free)
    return {number: found[number][1] for number in sorted(found, key=lambda number: (found[number][0], number))}


def available(state, address, function, kind):
    """How many vGPUs of a type this function can carry now."""
    gpu = state["gpus"][address]
    left = room(state, address, kind)
    if function == address:
        return left
    return 0 if carried(gpu, function) else min(1, left)


def most(gpu, kind):
    """How many vGPUs of a type an empty GPU can have."""
    if kind.profile:
        number = kind.profile.count * per_instance(gpu, kind)
        return min(number, gpu["about"]["sriov_totalvfs"] or number)
    number = vgpu_types.board_gb(gpu["about"]) // kind.gigabytes
    return min(number, gpu["about"]["sriov_totalvfs"] or number)


def carried(gpu, function):
    """The vGPU that a virtual function carries, None when it carries none."""
    return next((vgpu for vgpu in hardware.vgpus(gpu) if vgpu["function"] == function), None)


def named(state, uuid):
    """(GPU address, vGPU) of a mediated device, (``""``, None) when there is none of that UUID."""
    for address, gpu in managed(state):
        for vgpu in hardware.vgpus(gpu):
            if vgpu["uuid"] == uuid:
                return address, vgpu
    return "", None


def users(state, vgpu):
    """The processes that hold a vGPU: they have the node of its IOMMU group open."""
    node = f"/dev/vfio/{vgpu['group']}"
    return [process for process in state["processes"] if node in process["nodes"]]


def create(state, address, function, kind, uuid=""):
    """
    Make a vGPU; the caller has asked :func:`available`.

    :param uuid: of a mediated device, "" for the vendor's VFIO interface.
    """
    gpu = state["gpus"][address]
    kept = hardware.vgpu_memory(gpu)
    instances = list(_free_instances(state, address, kind)) if kind.profile else [None]
    places = {vgpu["place"] for vgpu in kept["vgpus"]}
    kept["vgpus"].append({
        "function": function,
        "type": kind.id,
        "uuid": uuid,
        "gi": instances[0],
        "group": _free_group(state) if uuid else dict(carriers(state, address))[function],
        "place": None if kind.profile else next(n for n in range(len(places) + 1) if n not in places),
        "serial": hardware.next_serial(state),
        "params": "",
    })  # fmt: skip
    gpu["vgpu_memory"] = kept


def _free_group(state):
    taken = {vgpu["group"] for gpu in state["gpus"].values() for vgpu in hardware.vgpus(gpu)}
    return next(n for n in range(_FIRST_MDEV_GROUP, _FIRST_MDEV_GROUP + len(taken) + 1) if n not in taken)


def remove(gpu, vgpu):
    """Remove a vGPU that nobody uses."""
    hardware.vgpus(gpu).remove(vgpu)


def no_lock(address):
    """What ``sriov-manage`` says while a client of the driver has a GPU open."""
    return f"Cannot obtain unbindLock for {address}"


def set_vfs(state, address, number):
    """
    Change the number of VFs as ``sriov-manage`` does it: the driver is taken from the GPU and bound again.

    :return: what stands in the way, "" when it is done. The caller has seen that a change is needed.
    """
    gpu = state["gpus"][address]
    if hardware.vgpus(gpu):
        return f"There are vGPUs on {address}, so the driver can't let it go"
    if hardware.holders(state, address):
        return no_lock(address)
    gpu["gis"] = {}
    gpu["numvfs"] = number
    gpu["epoch"] += 1
    return ""


# -- modes that last until the driver lets go --------------------------------------------------------------------------
def set_heterogeneous(state, address, mode):
    """Allow vGPUs of several sizes on a GPU, or forbid it. Raises :class:`gpuslice.sim.hardware.Refused`."""
    gpu = hardware.alive(state, address)
    if mode not in (0, 1):
        raise hardware.Refused(hardware.INVALID_ARGUMENT)
    if gpu["mode"] or not gpu["numvfs"]:
        raise hardware.Refused(hardware.NOT_SUPPORTED)
    _remember(gpu, "heterogeneous", mode)


def scheduler(gpu):
    """Scheduler of the vGPUs that take turns: ``{policy, arr, time_slice, factor, frequency}``, the time slice in ns."""
    default = {"policy": POLICIES[0], "arr": ARR_DEFAULT, "time_slice": _DEFAULT_SLICE, "factor": 0, "frequency": 0}
    return {**default, **hardware.vgpu_memory(gpu)["scheduler"]}


def set_scheduler(state, address, policy, arr, time_slice=0, factor=0, frequency=0):
    """
    Set the scheduler of a GPU's vGPUs.

    :param arr: mode of the adaptive round robin; with ``ARR_ON`` the factor and the frequency count, else the time slice.
    :param time_slice: in ns, 0 for the default.

    Raises :class:`gpuslice.sim.hardware.Refused`.
    """
    gpu = hardware.alive(state, address)
    if gpu["mode"]:
        raise hardware.Refused(hardware.NOT_SUPPORTED)
    wanted = {"policy": policy, "arr": arr, "factor": 0, "frequency": 0, "time_slice": time_slice or _DEFAULT_SLICE}
    good = policy in POLICIES and arr in (ARR_DEFAULT, ARR_OFF, ARR_ON)
    if good and arr == ARR_ON:
        good = _within(factor, FACTORS) and _within(frequency, FREQUENCIES)
        wanted.update(factor=factor, frequency=frequency, time_slice=_DEFAULT_SLICE)
    if not good or not _within(wanted["time_slice"], TIME_SLICES):
        raise hardware.Refused(hardware.INVALID_ARGUMENT)
    _remember(gpu, "scheduler", wanted)


def _within(number, limits):
    return limits[0] <= number <= limits[1]


def _remember(gpu, key, value):
    if hardware.vgpus(gpu):
        raise hardware.Refused(hardware.IN_USE)
    gpu["vgpu_memory"] = {**hardware.vgpu_memory(gpu), key: value}
