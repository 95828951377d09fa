"""
The power limit of a board on a simulated machine: what NVML answers of it, and the files of hwmon of the drivers amdgpu, xe and
i915.

A GPU plays a part when its description has ``power``. A limit is lost when the driver lets the GPU go, and at a boot. Facts:
NVML's header; ``drivers/gpu/drm/amd/pm/amdgpu_pm.c`` (cut to whole watts, EINVAL out of range) and
``Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon`` of Linux (no least, 0 is no limit).
"""

import errno
import re

from gpuslice.sim import hardware
from gpuslice.sim import kernel

_HWMON = "hwmon/hwmon3"
_FILE = re.compile(rf"{_HWMON}/(power1_cap|power1_max)")
_DRIVERS = ("amdgpu", "xe", "i915")


def now(gpu):
    """The limit in milliwatts. Raises :class:`gpuslice.sim.hardware.Refused`: the board has none."""
    limits, kept = of(gpu), gpu.get("power")
    return kept["milliwatts"] if kept and kept["epoch"] == gpu["epoch"] else limits["default"] * 1000


def of(gpu):
    """``{least, most, default}`` in watts. Raises :class:`gpuslice.sim.hardware.Refused`: the board has no limit."""
    found = gpu["about"].get("power")
    if not found or gpu["about"]["vgpu_guest"]:
        raise hardware.Refused(hardware.NOT_SUPPORTED)
    return found


def set_limit(gpu, milliwatts):
    """Set the limit as NVML does. Raises :class:`gpuslice.sim.hardware.Refused`."""
    limits = of(gpu)
    if not limits["least"] * 1000 <= milliwatts <= limits["most"] * 1000:
        raise hardware.Refused(hardware.INVALID_ARGUMENT)
    _keep(gpu, milliwatts)


def _keep(gpu, milliwatts):
    gpu["power"] = {"epoch": gpu["epoch"], "milliwatts": milliwatts}


# -- files -----------------------------------------------------------------------------------------------------------
def _plays(gpu):
    return bool(gpu["about"].get("power")) and gpu["about"]["driver"] in _DRIVERS


def show(tree, state):
    """Add the files of each board that has its driver."""
    for address, gpu in state["gpus"].items():
        if not _plays(gpu):
            continue
        base, limits, driver = f"{kernel.DEVICES}/{address}/{_HWMON}", of(gpu), gpu["about"]["driver"]
        tree.file(f"{base}/name", driver)
        if driver == "amdgpu":
            texts = {"cap": now(gpu), "cap_default": limits["default"] * 1000, "cap_min": limits["least"] * 1000}
            texts["cap_max"] = limits["most"] * 1000
        else:
            texts = {"max": now(gpu), "rated_max": limits["default"] * 1000}
        for name, milliwatts in texts.items():
            tree.file(f"{base}/power1_{name}", str(milliwatts * 1000))


def write(state, path, text, look):
    """A limit that is written to its file."""
    address, name = kernel.device_file(path)
    found, gpu = _FILE.fullmatch(name), state["gpus"].get(address)
    if not found or gpu is None or not _plays(gpu):
        return False
    is_amd = gpu["about"]["driver"] == "amdgpu"
    if is_amd != (found[1] == "power1_cap"):
        return False
    milliwatts, limits = kernel.number_of(text, path) // 1000, of(gpu)
    if is_amd:
        milliwatts = milliwatts // 1000 * 1000
        if not limits["least"] * 1000 <= milliwatts <= limits["most"] * 1000:
            raise kernel.error(errno.EINVAL, path)
    else:
        # The hardware counts in eighths of a watt.
        milliwatts = milliwatts // 125 * 125
    _keep(gpu, milliwatts)
    return True


def modprobe(state, module, loading):
    """A driver that is loaded anew finds its boards as they come from the vendor."""
    for gpu in state["gpus"].values():
        if gpu["about"]["driver"] == module:
            gpu.pop("power", None)
