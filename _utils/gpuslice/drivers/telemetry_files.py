"""
Numbers in files of the kernel, for readings: each file that does not tell one says why.
"""

import errno
import re

from gpuslice.drivers import readings
from gpuslice.drivers.pci import DEVICES
from gpuslice.numbers import whole

#: What the error of a read means. amdgpu refuses a board that sleeps, or is being reset, with EPERM (amdgpu_pm.c of Linux).
_REASONS = {
    errno.ENOENT: readings.UNSUPPORTED,
    errno.EOPNOTSUPP: readings.UNSUPPORTED,
    errno.EINVAL: readings.UNSUPPORTED,
    errno.EACCES: readings.NO_PERMISSION,
    errno.EPERM: readings.ASLEEP,
    errno.ENODEV: readings.GONE,
}
#: Words of power/runtime_status (Documentation/ABI/testing/sysfs-devices-power of Linux).
_SLEEPING = ("suspended", "suspending")


def untold(err):
    """The :class:`.readings.Untold` of an OSError."""
    return readings.Untold(_REASONS.get(err.errno, readings.FAILED))


def number(host, path):
    """The whole number in a file. Raises :class:`.readings.Untold`."""
    try:
        text = host.read(path)
    except OSError as err:
        raise untold(err) from err
    found = whole(text)
    if found is None:
        raise readings.Untold(readings.UNTRUE if text.strip() else readings.FAILED)
    return found


def hwmon(host, gpu, name):
    """The directory of hwmon of that name of a GPU (PCI address), "" where it has none."""
    base = f"{DEVICES}/{gpu}/hwmon"
    for entry in sorted(host.listdir(base)):
        if re.fullmatch(r"hwmon[0-9]+", entry) and _text(host, f"{base}/{entry}/name") == name:
            return f"{base}/{entry}"
    return ""


def first(host, base, names):
    """The number in the first of these files that there is. Raises :class:`.readings.Untold`."""
    there = set(host.listdir(base)) if base else set()
    name = next((name for name in names if name in there), None)
    if name is None:
        raise readings.Untold(readings.UNSUPPORTED)
    return number(host, f"{base}/{name}")


def sleeps(host, gpu):
    """Whether a function (PCI address) has no power at present: most of what could be asked of it would wake it."""
    return _text(host, f"{DEVICES}/{gpu}/power/runtime_status") in _SLEEPING


def _text(host, path):
    try:
        return host.read(path).strip()
    except OSError:
        return ""
