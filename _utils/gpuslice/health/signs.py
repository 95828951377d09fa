"""
Numbers of a GPU that say something only beside those of an earlier look.
"""

from typing import NamedTuple


class Signs(NamedTuple):
    """
    :ivar counters: name -> count of errors, which only grows until the driver is loaded anew or the device is reset; and
        ``link_width``, the lanes of its PCIe link. What can't be read is left out.
    :ivar verdict: what the driver asks to be done, 0 for nothing, None where it does not tell.
    :ivar rows: (corrected, uncorrected, pending, failed) remapped memory rows, None where they can't be read.
    :ivar answered: whether a vendor's library was asked and answered.
    """

    counters: dict
    verdict: int | None = None
    rows: tuple | None = None
    answered: bool = False


NOTHING = Signs({})
