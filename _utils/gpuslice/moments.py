"""
Moments, which records have in seconds since the epoch, as they are told by the clock of this host.
"""

import time
from datetime import datetime


def iso(moment: float) -> str:
    """For programs: in ISO 8601 with the zone, to the second."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def told(moment: float) -> str:
    """For people, in a sentence: day and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
