"""
What a host has now: its GPUs, their slices, who has these, and what could still be made. Nothing is changed, and whoever only
goes by a pillar does not load it. Each function is handed :class:`gpuslice.engine.Engine`.
"""

import logging
from functools import partial
from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice.inventory import discovery
from gpuslice.model import with_taken

log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """
    What one look at a GPU tells.

    :ivar slices: all of them, those that are taken too. :ivar states: technology -> what it observed.
    :ivar made_by: name of a slice -> technology that makes it. :ivar errors: technology -> why it can't be read.
    """

    slices: tuple
    states: dict
    made_by: dict
    errors: dict


def devices(engine, gpus=None):
    """
    GPUs as in the grain, with UUID and live state of each technique (or why it can't be read).

    :param gpus: the only ones that are looked at, None for all.
    """
    # Here, so that a run that lists no devices does not load it.
    from gpuslice.inventory import grain

    gpus, found = engine.gpus if gpus is None else gpus, []
    for gpu, facts in zip(gpus, grain.facts_of(gpus), strict=True):
        live = {kinds.named(tool.name).word: _live(engine, tool, gpu) for tool in engine.techniques_of(gpu)}
        found.append({**facts, "uuid": gpu.uuid, "live": live})
    return found


def _live(engine, tool, gpu):
    try:
        return tool.layout(engine.seen(tool, gpu))
    except errors.GpuSliceError as err:
        return str(err)


def slices(engine, gpu=None, taken=False):
    """What consumers can be given, as dicts, ``quarantined`` among them where that is so; parameters as of :func:`parts`."""
    found = parts(engine, gpu, taken)
    held = _barred(engine, found)
    return [{**part.as_dict(), **({"quarantined": True} if part.name in held else {})} for part in found]


def _barred(engine, parts):
    """
    Name of a slice -> what is quarantined that it is or stands on, of these :class:`gpuslice.model.Slice`. Where the record
    can't be read the log says so: whoever only looks is told all the rest.
    """
    try:
        names = engine.quarantined()
    except errors.GpuSliceError as err:
        log.warning("%s", err)
        return {}
    if not names:
        return {}
    from gpuslice.records import quarantine

    return quarantine.barred(parts, names)


def parts(engine, gpu=None, taken=False, untold=None):
    """
    What consumers can be given, as :class:`gpuslice.model.Slice`. A GPU that can't be read is told in the log and has none.

    :param taken: also the slices on which others stand. :param untold: a set that gets the addresses of GPUs of which not all
        could be read.
    """
    found, warned = [], set()
    gpus = engine.asked(gpu)
    readings = engine.host.limits.side_by_side(partial(reading, engine, strict=gpu is not None), gpus)
    for one, read in zip(gpus, readings, strict=True):
        look = read()
        for err in look.errors.values():
            if str(err) not in warned:
                log.warning("%s", err)
            warned.add(str(err))
        if look.errors and untold is not None:
            untold.add(one.address)
        found += [part for part in look.slices if taken or not part.taken]
    return found


def reading(engine, gpu, strict=False):
    """
    What one look at a GPU tells, as :class:`Reading`.

    :param gpu: :class:`gpuslice.model.Gpu`; :param strict: raise what can't be read before any slice was found.
    """
    found, states, by_name, unread, failed = [], {}, {}, set(), {}
    # Python's sort keeps the order within a layer.
    tools = engine.techniques_of(gpu, telling=True)
    for tool in sorted(tools, key=lambda tool: kinds.named(tool.name).layer == kinds.SHARE):
        try:
            below = [part for name in kinds.named(tool.name).over for part in by_name.get(name, ())]
            state = tool.observe(gpu)
            by_name[tool.name] = tool.slices_on(gpu, state, below)
            found += by_name[tool.name]
            states[tool.name] = state
        except errors.GpuSliceError as err:
            if strict and not found:
                raise
            failed[tool.name] = err
            # What stands on these can't be told, so that none of them is anybody's to give.
            unread.update(kinds.named(tool.name).over)
    held = {part.name for name in unread for part in by_name.get(name, ())}
    found = [part._replace(taken=True) if part.name in held else part for part in with_taken(found)]
    made_by = {part.name: name for name, made in by_name.items() for part in made}
    return Reading(tuple(found), states, made_by, failed)


def is_whole(engine, gpu):
    """Whether programs can use a GPU that has no slices as a whole. Raises as its techniques do where it can't be read."""
    return closed_by(engine, gpu) is None


def closed_by(engine, gpu):
    """
    The technology whose mode keeps programs from using a GPU that has no slices as a whole, "" for another reason; None where
    they can. Raises as its techniques do where it can't be read.
    """
    if not discovery.is_for_programs(gpu):
        return ""
    tools = engine.techniques_of(gpu, telling=True)
    return next((tool.name for tool in tools if not tool.leaves_whole(gpu, tool.layout(tool.observe(gpu)))), None)


def unsliced(engine, sliced, gpu=None):
    """
    The GPUs that have no slice, with their UUIDs.

    :param sliced: as of :func:`slices`; :param gpu: the only one that is looked at, None for all.
    """
    cut = {part["gpu"] for part in sliced}
    return engine.told_uuids([one for one in engine.asked(gpu) if one.address not in cut])


def maps(engine, gpu=None):
    """PCI address -> the GPU's slots as a line of text, from the silicon up."""
    found = {}
    for one in engine.asked(gpu):
        for tool in sorted(engine.techniques_of(one, telling=True), key=lambda tool: kinds.named(tool.name).layer):
            try:
                drawing = tool.drawing(one, engine.seen(tool, one))
            except errors.GpuSliceError as err:
                drawing = str(err)
            if drawing:
                found[one.address] = "; ".join(filter(None, (found.get(one.address), drawing)))
    for address, sentence in engine.interrupted_among(found).items():
        found[address] += f"\n{sentence}"
    return found


def abilities(engine):
    """PCI address -> ``technologies`` that a GPU can do, and ``headroom`` by those that count it, or why it can't be told."""
    kept, found = stood_on(engine), {}
    for gpu in engine.gpus:
        told = {kinds.known(tool.name).word: _headroom(tool, gpu, kept) for tool in engine.techniques_of(gpu, telling=True)}
        left = {word: each for word, each in told.items() if each}
        found[gpu.address] = {"technologies": list(gpu.capabilities), **({"headroom": left} if left else {})}
    return found


def headroom(engine, word, gpu=None):
    """PCI address -> what could still be made by a technology; of a GPU that can't be read only the log tells."""
    kept, found = stood_on(engine), {}
    for one in engine.asked(gpu):
        tool = engine.tools.get(engine.meant(one, word))
        told = _headroom(tool, one, kept) if tool in engine.techniques_of(one) else {}
        if isinstance(told, str):
            log.warning("%s", told)
        elif told:
            found[one.address] = told
    return found


def stood_on(engine, gpu=None):
    """
    Names of the slices that are not to be made anew elsewhere, as far as only records tell: something stands on them, or they
    were handed out by their names.

    :param gpu: GPUs whose slices are looked at, as users name them; None for all.
    """
    found = {part for tool in _handing(engine) for part in tool.given(tool.layout(tool.observe(None)), by_name=True)}
    names = engine.host.store_names(engine.host.state_dir)
    if any(kind.noted in names for kind in kinds.DOABLE if kind.noted and kind.over):
        found.update(part["of"] for part in slices(engine, gpu, taken=True) if part["of"])
    return sorted(found)


def given(engine):
    """Name of a slice -> who was handed it."""
    return {part: name for tool in _handing(engine) for part, name in tool.given(tool.layout(tool.observe(None))).items()}


def _handing(engine):
    """The techniques that have handed out anything."""
    names = engine.host.store_names(engine.host.state_dir)
    return [engine.tools.get(kind.name) for kind in kinds.HANDING_OUT if kind.noted in names and kind.layer == kinds.HAND_OUT]


def holders(engine, gpu):
    """Who holds this GPU open: processes as dicts."""
    one = engine.gpu(gpu)
    found = {p.pid: p for tool in engine.techniques_of(one) for p in tool.holders(one)}
    return [found[pid].as_dict() for pid in sorted(found)]


def _headroom(tool, gpu, kept):
    """What a technology could still make of a GPU; a sentence where it can't be told."""
    try:
        return tool.headroom(gpu, kept)
    except errors.GpuSliceError as err:
        return str(err)
