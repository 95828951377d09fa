"""
Metrics as text that Prometheus and every collector of its format reads.

Source: "Exposition formats" of Prometheus' documentation, version 0.0.4. What reads a file (the textfile collector of
node_exporter) discards all of it for one line that it can't parse, for one timestamp, and for one series that is told twice: so
nothing of these is ever written.
"""

import math
import re
from collections.abc import Iterable
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from gpuslice.printable import printable

GAUGE, COUNTER = "gauge", "counter"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Sample(NamedTuple):
    """One series of a metric: its labels, name -> value, and what it is now."""

    labels: Mapping[str, str]
    value: int | float


class Family(NamedTuple):
    """
    A metric with its series.

    :ivar name: as it is written, a counter's with ``_total``; :ivar about: one sentence of help.
    :ivar kind: :data:`GAUGE` or :data:`COUNTER`.
    """

    name: str
    about: str
    kind: str
    samples: tuple[Sample, ...]


def text(families: Iterable[Family]) -> str:
    """
    The text of metrics, sorted by name and labels, so that equal metrics make equal texts.

    A family without samples is left out, and so is a value that is no number; of a series that is told twice the first stays.

    :raises ValueError: a name of a metric or label that the format does not have, or a family that is told twice.
    """
    lines: list[str] = []
    last = ""
    for family in sorted(families, key=lambda family: family.name):
        if not _NAME.fullmatch(family.name) or family.name == last:
            raise ValueError(f"{family.name!r} is no name of a metric, or the name of two")
        last = family.name
        if series := _series(family):
            lines += [f"# HELP {last} {_help(family.about)}", f"# TYPE {last} {family.kind}"]
            lines += [f"{last}{labels} {value}" for labels, value in sorted(series.items())]
    return "".join(f"{line}\n" for line in lines)


def _series(family: Family) -> dict[str, str]:
    """Labels as text -> value as text."""
    found: dict[str, str] = {}
    for labels, value in family.samples:
        if math.isfinite(value):
            found.setdefault(_labels(labels), _number(value))
    return found


def _labels(labels: Mapping[str, str]) -> str:
    if strange := _strange(tuple(labels)):
        raise ValueError(f"{strange[0]!r} is no name of a label")
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


@lru_cache(maxsize=1024)
def _strange(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not _LABEL.fullmatch(name)]


@lru_cache(maxsize=4096)
def _escaped(value: str) -> str:
    """A label's value. What firmware and users chose may have any character, of which a line break would end the line."""
    return printable(value).replace("\\", "\\\\").replace('"', '\\"')


def _help(about: str) -> str:
    return printable(about).replace("\\", "\\\\")


def _number(value: int | float) -> str:
    """As Go's ParseFloat reads it, which is what Prometheus does with it."""
    return str(int(value)) if isinstance(value, int) else repr(value)
