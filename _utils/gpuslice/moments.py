"""
Moments, which records have in seconds since the epoch, as they are told by the clock of this host.
"""

import re
import time
from datetime import datetime

_AGO = re.compile(r"([0-9]{1,6})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}


def iso(moment: float) -> str:
    """For programs: in ISO 8601 with the zone, to the second."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def meant(text: str, now: float) -> float:
    """
    The moment that a text means: ``30m``, ``24h`` or ``7d`` ago, or a time in ISO 8601, which is of this clock where it names no
    zone. Raises ValueError.

    :param now: seconds since the epoch.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return now - int(ago[1]) * _SECONDS[ago[2]]
    try:
        # Python 3.10 knows no Z.
        found = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip())).timestamp()
        # In this zone it may be a year that there is none of.
        iso(found)
        return found
    except (ValueError, OverflowError, OSError) as err:
        raise ValueError("it is no time") from err


def told(moment: float) -> str:
    """For people, in a sentence: day and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
