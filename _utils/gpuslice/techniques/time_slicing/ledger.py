"""
How many consumers each slice may be handed to: nothing of the hardware tells it, so it is kept in the state directory.
"""

from gpuslice.shape import LINE
from gpuslice.shape import record
from gpuslice.techniques.ledger import SHARES
from gpuslice.techniques.ledger import Ledger
from gpuslice.techniques.time_slicing import section

FILE = "time-slicing.json"
_SHARES = record({"device": LINE, "replicas": section.REPLICAS, "profiles": section.PROFILES, "former": section.VALUES})
NOTHING = {"replicas": {}, "profiles": [], "former": {}}


def ledger(host):
    """
    The record: ``replicas`` (name of a slice -> consumers), ``profiles`` (those that are shared, [] for all), and ``former``
    (what was set before it was shared first, which is set again at the end).
    """
    return Ledger(host, FILE, SHARES, _SHARES, NOTHING, "replicas")
