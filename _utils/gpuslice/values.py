"""
Any value that somebody may hand over, before its meaning is judged: in words, and whether it can be handled at all.
"""

import math
from collections.abc import Mapping

from gpuslice import errors
from gpuslice.printable import printable
from gpuslice.secret import redacted

#: Longest text that a setting may be: a client configuration token has some thousand characters.
_LONGEST = 65536
#: How deep values may lie in each other, how many there may be, and how large a number: far beyond any setting.
_DEEPEST, _MOST, LARGEST = 16, 20000, 10**15
#: How many characters of a text a message shows.
SHOWN = 80


def describe(value):
    """A value in words, with its type, so that a text '8' and a number 8 can be told apart in a message. It is never long."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number that is too large"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        # Looked at as a whole: the beginning alone may not look like what it is.
        text = redacted(str(value))
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        return f"the text '{printable(shown)}'" if text else "an empty text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a {type(value).__name__}"


def refuse_odd(value, path):
    """
    Refuse what no setting is: endless nesting, numbers of a thousand digits, texts of megabytes. What is left can be printed,
    compared and written down like any other value.

    :param path: how the value is called in the message. Raises errors.PolicyError.
    """
    left = [(value, 0)]
    for count, (each, depth) in enumerate(left, 1):
        if depth > _DEEPEST or count > _MOST:
            raise refusal(path, "goes deeper or further than any setting does")
        if isinstance(each, Mapping):
            left += [(inner, depth + 1) for pair in each.items() for inner in pair]
        elif isinstance(each, list | tuple):
            left += [(inner, depth + 1) for inner in each]
        elif why := _odd(each):
            # Where in it is not told: a key may be as odd, and a secret in the wrong place.
            raise refusal(path, f"{'is' if not depth else 'has in it'} {why}")


def _odd(value):
    """What a single value is that no setting is, "" for any other."""
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"a text of {len(value)} characters; {_LONGEST} is the most"
    if isinstance(value, int) and abs(value) > LARGEST:
        return describe(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{describe(value)}, with which nothing can be counted"
    return ""


def refusal(path, what):
    """The error for a value that can't be used: what it is called, and what is wrong with it."""
    return errors.PolicyError(f"{path} {what}.", todo="Nothing was done.")


def whole(name, value, low=0, high=LARGEST):
    """A whole number from ``low`` to ``high``. True is one to Python, and 1.5 becomes one in silence."""
    if type(value) is not int:
        raise refusal(name, f"is {describe(value)}; a whole number is wanted")
    if not low <= value <= high:
        most = f" to {high}" if high < LARGEST else " on"
        raise refusal(name, f"is {describe(value)}; a whole number from {low}{most} is wanted")
