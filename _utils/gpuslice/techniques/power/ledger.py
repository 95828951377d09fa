"""
Which boards are capped, and at what: a reset or a boot takes it from the board, and nothing there tells who set it.
"""

from gpuslice.shape import LINE
from gpuslice.shape import record
from gpuslice.techniques.ledger import Ledger
from gpuslice.techniques.power.section import MILLIWATTS

FILE = "power.json"
_CAP = record({"device": LINE, "limit_mw": MILLIWATTS})
NOTHING = {"limit_mw": None}


def ledger(host):
    """The record: ``limit_mw`` that was set here, None for none."""
    return Ledger(host, FILE, "the record of power caps", _CAP, NOTHING, "limit_mw")
