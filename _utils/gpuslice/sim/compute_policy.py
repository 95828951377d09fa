"""
How the contexts of NVIDIA GPUs take turns on a simulated machine: time-slice step and compute mode. Both are lost when the driver
lets the GPU go, at a reset and at a boot.
"""

from gpuslice.host.base import Completed
from gpuslice.sim import hardware

STEPS = ("Default", "Short", "Medium", "Long")
MODES = ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process")


def now(gpu):
    """``{"epoch", "step", "mode"}`` of a GPU."""
    kept = gpu.get("compute")
    return kept if kept and kept["epoch"] == gpu["epoch"] else {"epoch": gpu["epoch"], "step": 0, "mode": 0}


def mode(gpu):
    """The compute mode. Raises :class:`gpuslice.sim.hardware.Refused`: in MIG mode only the MIG devices have one."""
    if gpu["mode"]:
        raise hardware.Refused(hardware.NOT_SUPPORTED)
    return now(gpu)["mode"]


def set_mode(gpu, wanted):
    """Set the compute mode. Raises :class:`gpuslice.sim.hardware.Refused`."""
    mode(gpu)
    if wanted not in (0, 2, 3):
        raise hardware.Refused(hardware.NOT_SUPPORTED)
    gpu["compute"] = {**now(gpu), "mode": wanted}


def run(host, rest, options, addresses, everyone):
    """
    ``nvidia-smi compute-policy``.

    :param addresses: of the GPUs that are meant; :param everyone: of all, in the order of their indices.
    """
    wanted = options.get("--set-timeslice")
    if rest in (["-l"], ["--list"]) and wanted is None:
        return _listed(host.state(), addresses, everyone)
    if rest or wanted not in ("0", "1", "2", "3"):
        return Completed(2, "Invalid combination of input arguments. Please run 'nvidia-smi compute-policy -h' for help.\n")
    if not host.state()["host"]["privileged"]:
        return Completed(4, "Insufficient Permissions\n")
    told = [_set(host, address, int(wanted), everyone.index(address)) for address in addresses]
    return Completed(max(status for status, _ in told), "".join(line for _, line in told))


def _listed(state, addresses, everyone):
    bar = f"+{'-' * 43}+"
    rows = [
        f"|  {everyone.index(address):>3}    {'Timeslice':<16} {STEPS[now(state['gpus'][address])['step']]:<15}|"
        for address in addresses
    ]
    lines = [bar, f"| {'GPU compute policies:':<42}|", f"| {'GPU     Name             Value':<42}|", f"|{'=' * 43}|", *rows, bar]
    return Completed(0, "".join(line + "\n" for line in lines))


def _set(host, address, step, index):
    with host.change() as state:
        gpu = state["gpus"][address]
        why = "GPU is lost" if gpu["health"]["lost"] else ""
        if gpu["mode"] or gpu["about"]["vgpu_guest"] or gpu["about"].get("no_timeslice"):
            why = why or "Not Supported"
        if why:
            return 3, f"Failed to set timeslice policy with value {STEPS[step]} for GPU {index} : {why}\n"
        gpu["compute"] = {**now(gpu), "step": step}
    return 0, f"Successfully set timeslice policy with value {STEPS[step]} for GPU {index}\n"
