"""
Which slices MPS shares, and with which limits: what a daemon can't tell while it is not running, kept in the state directory.
"""

from gpuslice.shape import LINE
from gpuslice.shape import record
from gpuslice.shape import truth
from gpuslice.techniques.ledger import SHARES
from gpuslice.techniques.ledger import Ledger
from gpuslice.techniques.mps import section

FILE = "mps.json"
_SHARES = record(
    {
        "device": LINE, "daemons": section.DAEMONS, "profiles": section.PROFILES, "exclusive": truth, "templates": section.TEXTS,
    }
)  # fmt: skip
NOTHING = {"daemons": {}, "profiles": [], "exclusive": False, "templates": {}}


def ledger(host):
    """
    The record: ``daemons`` (name of a slice -> what :mod:`gpuslice.techniques.mps.clients` has), ``profiles`` (those that
    are shared, [] for all), ``exclusive`` (whether a whole GPU is kept for its daemon), and ``templates`` (name -> text, those
    of the site).
    """
    return Ledger(host, FILE, SHARES, _SHARES, NOTHING, "daemons")
