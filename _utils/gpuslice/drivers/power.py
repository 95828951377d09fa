"""
The power limit of a board: by NVML on NVIDIA's, by files of hwmon on AMD's and Intel's.

Facts: NVML's header and pynvml (the call of version 2 never looks at the driver's answer, so that the first one is used);
``drivers/gpu/drm/amd/pm/amdgpu_pm.c`` of Linux (a limit is cut to whole watts; a virtual function refuses it, as does a board
that sleeps or is being reset); ``Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon`` (``power1`` is the card, ``power2`` the
package; ``power1_rated_max`` is its default; 0 switches the limit off).
"""

import errno
import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.drivers.pci import DEVICES

_QUIET = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
_MICRO = 1000
#: Microwatts that no board may draw.
_MOST = 10**14
_MEANINGS = {
    errno.EINVAL: (errors.Unsupported, "the driver sets none, as on a virtual function", "Set it where the whole board is seen."),
    errno.EPERM: (errors.Unhealthy, "the board sleeps, or is being reset", "Run again when it is in use, or see 'dmesg'."),
}


class Limits(NamedTuple):
    """
    What a board tells, in milliwatts.

    :ivar asked: the limit that was asked of it; 0 where there is none. :ivar default: what its vendor gave it, None for unknown.
    :ivar least: :ivar most: what can be asked; None where that is not told.
    :ivar enforced: what is in force, which other limiters may make less; None where that is not told.
    """

    asked: int
    default: int | None
    least: int | None
    most: int | None
    enforced: int | None


class NvidiaPower:
    """By NVML, which the board answers as a whole, sliced or not."""

    def __init__(self, nvml):
        self._nvml = nvml

    def read(self, gpu):
        """:class:`Limits` of a board. Raises errors.Unsupported: it tells none; any error of NVML."""
        asked = self._ask(gpu, "nvmlDeviceGetPowerManagementLimit")
        if asked is None:
            raise errors.Unsupported(
                f"The driver tells no power limit of {gpu.model}.", gpu.address, "See 'nvidia-smi -q -d POWER'."
            )
        least, most = self._ask(gpu, "nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        default = self._ask(gpu, "nvmlDeviceGetPowerManagementDefaultLimit")
        return Limits(asked, default, least, most, self._ask(gpu, "nvmlDeviceGetEnforcedPowerLimit"))

    def _ask(self, gpu, name):
        nvml = self._nvml
        return nvml.call(name, nvml.handle(gpu.address), gpu=gpu.address, doing="read the power limit", quiet=_QUIET)

    def write(self, gpu, milliwatts):
        """Ask a limit of a board. Raises any error of NVML."""
        nvml, doing = self._nvml, f"set the power limit to {watts(milliwatts)}"
        nvml.call("nvmlDeviceSetPowerManagementLimit", nvml.handle(gpu.address), milliwatts, gpu=gpu.address, doing=doing)


class HwmonPower:
    """By files of hwmon."""

    def __init__(self, host):
        self._host = host

    def read(self, gpu):
        """
        :class:`Limits` of a board.

        :raises errors.Unsupported: its driver has no such files. :raises errors.Unhealthy: they are empty.
        """
        files = self._files(gpu)
        asked = self._number(files.asked)
        if asked is None:
            raise errors.Unhealthy(
                f"{files.asked} tells no power limit: the board sleeps, or is being reset.", gpu.address,
                "Run again when it is in use, or see 'dmesg'.",
            )  # fmt: skip
        return Limits(asked, self._number(files.default), self._number(files.least), self._number(files.most), None)

    def write(self, gpu, milliwatts):
        """Ask a limit of a board. Raises errors of gpuslice.errors."""
        doing = f"set the power limit to {watts(milliwatts)}"
        kernel.write(self._host, gpu.address, self._files(gpu).asked, milliwatts * _MICRO, doing, _MEANINGS)

    def _number(self, path):
        found = kernel.number(self._host, path) if path else None
        return None if found is None or not 0 <= found < _MOST else found // _MICRO

    def _files(self, gpu):
        place = f"{DEVICES}/{gpu.address}/hwmon"
        for name in sorted(self._host.listdir(place)):
            there = set(self._host.listdir(f"{place}/{name}")) if re.fullmatch(r"hwmon\d+", name) else set()
            for form in (_amd, _intel):
                if files := form(f"{place}/{name}", there):
                    return files
        raise errors.Unsupported(
            f"The driver {gpu.driver or '(none)'} has no file for the power limit of {gpu.model}.", gpu.address,
            "It takes amdgpu, xe or i915 on a whole board of a kernel that has these files.",
        )  # fmt: skip


class _Files(NamedTuple):
    asked: str
    default: str
    least: str
    most: str


def _amd(base, there):
    if "power1_cap" not in there:
        return None
    return _Files(f"{base}/power1_cap", f"{base}/power1_cap_default", f"{base}/power1_cap_min", f"{base}/power1_cap_max")


def _intel(base, there):
    """Of the card, or where that has none of the package. What it is rated for is its default, and the most that makes sense."""
    scope = next((scope for scope in ("power1", "power2") if f"{scope}_max" in there), "")
    rated = f"{base}/{scope}_rated_max"
    return _Files(f"{base}/{scope}_max", rated, "", rated) if scope else None


def watts(milliwatts):
    """A limit in words."""
    return f"{milliwatts / 1000:g} W" if milliwatts else "none"
