"""
What is told of GPUs, folded: of several about which it says the very same it is said once.

A GPU's own address and its UUIDs tell nothing apart: in what is folded an address is ``<GPU>``, and a UUID in brackets is left
out.
"""

import re
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]"
#: A sentence on a GPU: its address, its model where that stands behind it, and what is said. A verb is no model.
_SENTENCE = re.compile(
    rf"(?P<before>(?:(?:Left as it is|Waits): )?(?:GPU )?)(?P<gpu>{_ADDRESS})(?P<model> (?![a-z])[^:\n]+)?: (?P<said>.*)",
    re.DOTALL,
)
#: Beside the name of what it is of; where it is the name itself, nothing else would tell what is meant.
_UUID = re.compile(r" \((?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\)")
#: More addresses than these are not listed.
_MOST = 16


class Told(NamedTuple):
    """
    What is told of one GPU, or of several at once.

    :ivar addresses: their PCI addresses; :ivar model: what they are, "" where that is not told.
    :ivar said: what is told in the first line; :ivar lines: further ones. :ivar before: what comes first.
    :ivar word: what it is about, "" where nothing else could be meant.
    """

    addresses: tuple[str, ...]
    model: str
    said: str
    lines: tuple[str, ...] = ()
    before: str = ""
    word: str = ""

    def likeness(self) -> tuple:
        """What those have in common of which it is told once."""
        text = "\n".join([self.said, *self.lines])
        for address in self.addresses:
            # Names of units and folders have dashes in it.
            text = text.replace(address, "<GPU>").replace(address.replace(":", "-"), "<GPU>")
        return self.model, self.word, self.before, _UUID.sub("", text)


def folded(told: Iterable[Told]) -> list[str]:
    """Lines for people; each group stands where the first of it was."""
    groups: dict[tuple, list[Told]] = {}
    for place, each in enumerate(told):
        # What covers several GPUs already, or none, stays as it is.
        key = each.likeness() if len(each.addresses) == 1 else (place,)
        groups.setdefault(key, []).append(each)
    lines: list[str] = []
    for key, group in groups.items():
        # The same of the same GPU is no news.
        lines += _alone(group[0]) if len({each.addresses for each in group}) == 1 else _together(group, key[-1])
    return lines


def _alone(told: Told) -> list[str]:
    name = " ".join(filter(None, [", ".join(told.addresses), told.model]))
    word = f" ({told.word})" if name and told.word else told.word
    return [f"{told.before}{name}{word}: {told.said}", *told.lines]


def _together(group: list[Told], text: str) -> list[str]:
    first, (said, *lines) = group[0], text.split("\n")
    name = several(dict.fromkeys(each.addresses[0] for each in group), first.model)
    word = f", {first.word}" if first.word else ""
    return [f"{first.before.replace('GPU ', '')}{name}{word}: {'each ' if lines and said[:1].islower() else ''}{said}", *lines]


def several(addresses: Iterable[str], model: str = "") -> str:
    """GPUs as a name: how many of what, and where they are."""
    addresses = list(addresses)
    return f"{len(addresses)} x {model or 'GPU'} ({shortened(addresses)})"


def shortened(addresses: Iterable[str]) -> str:
    """Addresses as a list; of one that differs from the first in its bus only, that alone."""
    first, *others = addresses
    domain, _, rest = first.partition(":")
    device = rest.partition(":")[2]
    short = []
    for each in others:
        alike = each.startswith(f"{domain}:") and each.endswith(f":{device}")
        short.append(each.split(":")[1] if alike else each)
    told = [first, *short]
    return ", ".join(told if len(told) <= _MOST else [*told[:_MOST], "..."])


def sentences(lines: Iterable[str]) -> list[str]:
    """Sentences, of which those that say the same of several GPUs are one. What tells of no GPU stays where it is."""
    found: list[str] = []
    row: list[Told] = []

    def end() -> None:
        found.extend("\n".join(folded([each])) for each in row) if len(row) == 1 else found.extend(folded(row))
        row.clear()

    for line in lines:
        told = _SENTENCE.fullmatch(line)
        if told:
            said, *more = told["said"].split("\n")
            row.append(Told((told["gpu"],), (told["model"] or "").strip(), said, tuple(more), told["before"]))
            continue
        end()
        found.append(line)
    end()
    return found


def changes(found: Mapping[str, Mapping]) -> dict[str, object]:
    """
    Changes by PCI address, as people read them: those of several GPUs that are the same are one, and each is a line.

    :param found: address, or name of what hands out -> ``old`` and ``new``, each a dict.
    """
    groups: dict[str, list[str]] = {}
    made: dict[str, object] = {}
    for name, each in found.items():
        lines = _lines(each)
        if re.fullmatch(_ADDRESS, name):
            groups.setdefault("; ".join(f"{key}: {line}" for key, line in lines.items()), []).append(name)
        else:
            made[name] = lines
    return {**{shortened(names): line for line, names in groups.items()}, **made}


def differences(name: str, old: object, new: object, brief: bool = False) -> list[str]:
    """
    What becomes of something that is handed out or told, as lines; of a file that has lines those that go and come.

    :param old: what it was; :param new: what it will be, both None for nothing. :param brief: of a file how many lines alone,
        beside which :func:`changes` has them.
    """
    if not isinstance(old or new, list):
        return [f"{name}: {'nothing' if old is None else old} -> {'nothing' if new is None else new}"]
    if brief:
        go, come = (sum(each.values()) for each in _between_files(old, new))
        return [f"{name}: {come} {'line comes' if come == 1 else 'lines come'}, {go} {'goes' if go == 1 else 'go'}"]
    return [f"{name}:", *(f"  {line}" for line in _lines_between(old, new))]


def _between_files(old: object, new: object) -> tuple[Counter[str], Counter[str]]:
    """(lines that go, lines that come)."""
    had, has = (Counter(map(str, each) if isinstance(each, list) else []) for each in (old, new))
    return had - has, has - had


def _lines_between(old: object, new: object) -> list[str]:
    """Those that are the same, such as of slices whose device nodes nobody knows yet, once."""
    go, come = _between_files(old, new)
    told = [(sign, line, number) for sign, lines in (("-", go), ("+", come)) for line, number in lines.items()]
    return [f"{sign} {line}{f'  ({number} times)' if number > 1 else ''}" for sign, line, number in told]


def _lines(change: Mapping) -> dict[str, object]:
    """What differs -> what it was and is; of a file the lines that go and come."""
    old, new = change.get("old", {}), change.get("new", {})
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return {name: _between(name, old.get(name), new.get(name)) for name in names}


def _between(name: str, old: object, new: object) -> object:
    if name.startswith("/") and isinstance(old or new, list):
        return _lines_between(old, new)
    return f"{_value(old)} -> {_value(new)}"


def _value(value: object) -> str:
    if value is None or value == [] or value == {} or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value)
    return str(value)


def in_columns(rows: list[tuple[str, ...]]) -> str:
    """Rows of text, the head first, as lines with a rule below the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
