"""
What plain data that comes from a file must look like. A shape is a function of a value and its path that raises a ValueError
which says where something is wrong; it never quotes the value, since nobody knows what that is. A path is a text, or a path and
what comes after it: it is only put together where something is wrong.
"""

import math
import re
from collections.abc import Callable
from typing import Any

Shape = Callable[[Any, Any], object]


def text(pattern=""):
    """A text; with a regular expression one that it fits as a whole."""

    def check(value, path):
        if not isinstance(value, str):
            raise _wrong(path, "is no text")
        # Compiled when first needed: most runs look at few of all shapes.
        if pattern and not re.fullmatch(pattern, value, re.ASCII):
            raise _wrong(path, "is a text of another form")

    return check


def whole(low=0, high=2**63):
    """A whole number in a range, both ends included."""

    def check(value, path):
        # True is an int to Python.
        if type(value) is not int or not low <= value <= high:
            raise _wrong(path, f"is no whole number from {low} to {high}")

    return check


def moment(value, path):
    """Seconds since the epoch."""
    last = 253402300799  # of the year 9999, the last that can be shown
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= last:
        raise _wrong(path, "is no time")


def truth(value, path):
    """True or False."""
    if not isinstance(value, bool):
        raise _wrong(path, "is neither true nor false")


def anything(value, path):
    """Whatever it is."""


def maybe(shape):
    """Nothing, or something of this shape."""
    return lambda value, path: None if value is None else shape(value, path)


def either(*shapes):
    """Something of one of these shapes; of the complaints the last one counts."""

    def check(value, path):
        for shape in shapes[:-1]:
            try:
                return shape(value, path)
            except ValueError:
                continue
        return shapes[-1](value, path)

    return check


def listing(shape):
    """A list of any length, each element of this shape."""

    def check(value, path):
        _is(list | tuple, value, path, "list")
        for place, each in enumerate(value):
            shape(each, (path, place))

    return check


def row(*shapes):
    """A list of as many elements as there are shapes."""

    def check(value, path):
        _is(list | tuple, value, path, "list")
        if len(value) != len(shapes):
            raise _wrong(path, f"has {len(value)} elements instead of {len(shapes)}")
        for place, (shape, each) in enumerate(zip(shapes, value, strict=True)):
            shape(each, (path, place))

    return check


def table(key, shape):
    """A mapping whose keys and values have a shape each."""

    def check(value, path):
        _is(dict, value, path, "mapping")
        for name, each in value.items():
            key(name, (path, "a key"))
            shape(each, (path, name))

    return check


def record(required, optional=None):
    """A mapping with these keys (name -> shape), and no others."""
    known = {**required, **(optional or {})}

    def check(value, path):
        _is(dict, value, path, "mapping")
        _has(required, value, path)
        for name, each in value.items():
            if name not in known:
                raise _wrong(path, "has a key that is not known")
            known[name](each, (path, name))

    return check


def parts(shapes, needed=()):
    """A mapping in which those of these keys that are there have their shape, and some are; others are not looked at."""

    def check(value, path):
        _is(dict, value, path, "mapping")
        _has(needed, value, path)
        for name, shape in shapes.items():
            if name in value:
                shape(value[name], (path, name))

    return check


def _has(names, value, path):
    if missing := [name for name in names if name not in value]:
        raise _wrong(path, f"has no {', '.join(missing)}")


def _is(kind, value, path, word):
    if not isinstance(value, kind):
        raise _wrong(path, f"is no {word}")


def _wrong(path, what):
    return ValueError(f"{_place(path)} {what}")


def _place(path):
    return path if isinstance(path, str) else f"{_place(path[0])}:{path[1]}"


# -- what several records and technologies write ---------------------------------------------------------------------
#: What is given to systemctl and modprobe; what begins with a dash would be an option to them.
UNIT_NAME = r"(?!-)[A-Za-z0-9:_.@\\-]+\.[a-z]+"
MODULE_NAME = r"(?!-)[A-Za-z0-9_-]+"

ADDRESS_PATTERN = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
ADDRESS = text(ADDRESS_PATTERN)
UNIT, MODULE = text(UNIT_NAME), text(MODULE_NAME)
LINE = text(r"[^\x00-\x1f\x7f]*")
WORD = text(r"[A-Za-z0-9_.+-]*")
#: A file below a directory that is known, which no ".." leads out of.
FILE = text(r"(?!\.)[A-Za-z0-9:_.-]+")
PATH = text(r"(?!\.)[A-Za-z0-9:_.-]+(?:/(?!\.)[A-Za-z0-9:_.-]+)*")
NUMBER = whole(-(2**31), 2**64)
