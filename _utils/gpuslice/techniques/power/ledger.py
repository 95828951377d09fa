"""
Which boards are capped, and at what: a reset or a boot takes it from the board, and nothing there tells who set it.
"""

from gpuslice.records.store import Record
from gpuslice.shape import LINE
from gpuslice.shape import record
from gpuslice.techniques.ledger import FORMAT
from gpuslice.techniques.ledger import Ledger
from gpuslice.techniques.ledger import checked
from gpuslice.techniques.power.section import MILLIWATTS

FILE, WHAT = "power.json", "the record of power caps"
_CAP = record({"device": LINE, "limit_mw": MILLIWATTS})
NOTHING = {"limit_mw": None}


def ledger(host):
    """The record: ``limit_mw`` that was set here, None for none."""
    return Ledger(Record(host, FILE, WHAT, FORMAT, checked(_CAP)), NOTHING, "limit_mw", WHAT)
