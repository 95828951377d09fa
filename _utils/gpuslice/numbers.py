"""
Whole numbers in what a kernel, a driver or a program says, and in our own sentences.
"""

import re

# Only these digits: int() takes those of all scripts, str.isdigit() also superscripts, at which int() fails, as it does at texts
# of some thousand digits.
_WHOLE = re.compile(r"-?[0-9]{1,25}")


def whole(text, most=2**64 - 1):
    """The number that a text is, with white space around it; None for any other text and for more than ``most``."""
    found = _WHOLE.fullmatch(text.strip())
    number = int(found[0]) if found else None
    return None if number is None or abs(number) > most else number


def many(count: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
