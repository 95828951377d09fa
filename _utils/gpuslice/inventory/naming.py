"""
Which GPUs a user means by hand: an address, a UUID, ``all``, a pattern over addresses and models, the name of a slice, or a list
of these. An index is refused, with the table that tells what it stood for.
"""

import fnmatch
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from gpuslice import addresses
from gpuslice import errors
from gpuslice import folding
from gpuslice.inventory import discovery
from gpuslice.model import Gpu

ALL = "all"


class Chosen(NamedTuple):
    """
    What was meant.

    :ivar gpus: in the order of the host. :ivar is_one: whether exactly one was named, and not a choice that came to one.
    :ivar by_kind: whether the choice is of a kind, so that a GPU in it that can't do what is asked is not meant.
    """

    gpus: list[Gpu]
    is_one: bool
    by_kind: bool
    warnings: list[str]


def chosen(gpus: Sequence[Gpu], named: Any, slices: Callable[[], Sequence[dict]]) -> Chosen:
    """
    :param gpus: of the host, with UUIDs where one is named. :param named: what the user gave.
    :param slices: function that lists the slices of the host as dicts; asked where only a slice can be meant.
    :raises errors.DeviceNotFound: nothing is called so. :raises errors.PolicyError: it is no name, or an index.
    """
    if isinstance(named, list | tuple):
        each = [chosen(gpus, one, slices) for one in named]
        wanted = {gpu.address for one in each for gpu in one.gpus}
        warnings = [warning for one in each for warning in one.warnings]
        return Chosen([gpu for gpu in gpus if gpu.address in wanted], False, all(one.by_kind for one in each), warnings)
    if named == ALL:
        if not gpus:
            raise errors.DeviceNotFound("This host has no GPU.", todo="'lspci -D' shows which devices it has.")
        return Chosen(list(gpus), False, True, [])
    if addresses.is_pattern(named):
        return Chosen(_matching(gpus, named), False, True, [])
    if (of := _of_slice(gpus, named, slices)) is not None:
        return Chosen([of], True, False, [])
    found, warnings = discovery.select(gpus, "manual", [named])
    return Chosen(found, True, False, warnings)


def _matching(gpus: Sequence[Gpu], pattern: str) -> list[Gpu]:
    wanted = pattern.strip().lower()
    found = [
        gpu for gpu in gpus
        if any(fnmatch.fnmatchcase(text.lower(), wanted) for text in (gpu.address, gpu.model, gpu.name) if text)
    ]  # fmt: skip
    if not found:
        here = ", ".join(f"{gpu.address} ({gpu.model})" for gpu in gpus) or "none"
        raise errors.DeviceNotFound(f"No GPU of this host is called like {pattern}: {here}.", todo="Correct the pattern.")
    return found


def _of_slice(gpus: Sequence[Gpu], named: Any, slices: Callable[[], Sequence[dict]]) -> Gpu | None:
    """The GPU of which a slice of that name or UUID is a part; None where it is no such name."""
    if not isinstance(named, str) or addresses.is_index(named):
        return None
    name = named.strip()
    if not (addresses.is_place(name) or name.upper().startswith("MIG-") or functions(gpus, name)[1]):
        return None
    there = slices()
    of = next((one["gpu"] for one in there if name.lower() in (one["name"].lower(), one.get("uuid", "").lower())), None)
    if of is None and not addresses.is_pci(name):
        raise errors.DeviceNotFound(
            f"No slice of this host is called {name}; it has {len(there)}.", todo="'salt-call gpu.table' lists them."
        )
    return next((gpu for gpu in gpus if gpu.address == of), None)


def functions(gpus: Sequence[Gpu], named: Any) -> tuple[Any, dict[str, list[str]]]:
    """
    What of the names that a user gave is a virtual function.

    :return: (all other names, [] for none; PCI address of each GPU -> those of its virtual functions that are named).
    """
    of = {address: gpu.address for gpu in gpus for address in gpu.virtual_functions.get("addresses", ())}
    others: list = []
    found: dict[str, list[str]] = {}
    for name in named if isinstance(named, list | tuple) else [named]:
        address = addresses.normalize(name)[0] if addresses.is_pci(name) or isinstance(name, float) else ""
        if address in of:
            found.setdefault(of[address], []).append(address)
        else:
            others.append(name)
    return (others if found else named), found


def ids(gpus: Sequence[Gpu], sessions: Any) -> list[dict]:
    """
    Every GPU by all that it is called: ``index`` and ``minor`` (None where its driver tells none), ``address``, ``uuid`` and
    ``model``.

    :param gpus: with UUIDs; :param sessions: :class:`gpuslice.drivers.sessions.Sessions`.
    """
    return [{**_numbers(gpu, sessions), "address": gpu.address, "uuid": gpu.uuid, "model": gpu.model} for gpu in gpus]


def _numbers(gpu: Gpu, sessions: Any) -> dict[str, int | None]:
    if gpu.vendor == "nvidia" and not discovery.is_given_away(gpu):
        try:
            return {"index": sessions.nvml.index(gpu.address), "minor": sessions.nvml.minor(gpu.address)}
        except errors.GpuSliceError:
            # A GPU that can't be asked is not called so.
            pass
    return {"index": None, "minor": None}


def ids_told(found: Sequence[dict]) -> str:
    """What :func:`ids` tells, as lines of text."""
    keys = ("index", "minor", "address", "uuid", "model")
    rows = [tuple("-" if each[key] in (None, "") else str(each[key]) for key in keys) for each in found]
    return folding.in_columns([("index", "minor", "address", "UUID", "model"), *rows])
