"""
What a host has now in words that can be written down: as a pillar, or in the form of another tool, and a pillar from that form.
"""

import logging

from gpuslice import arguments
from gpuslice import errors
from gpuslice import kinds
from gpuslice import policy as policies

log = logging.getLogger(__name__)


def export(engine, form="pillar"):
    """
    What the host has now as a pillar (``form`` pillar) or as a mig-parted config (``form`` mig-parted).

    :param engine: :class:`gpuslice.engine.Engine`. :raises errors.PolicyError: another form.
    """
    arguments.check(form=form)
    if form == "pillar":
        sections = {gpu.address: _in_effect(engine, gpu) for gpu in engine.gpus}
        return policies.export_rules(sections, {gpu.address: gpu.model for gpu in engine.gpus})
    tool = _speaking(engine, form)
    return tool.export(form, [gpu for gpu in engine.gpus if tool.supports(gpu)])


def imported(engine, form, written, name=""):
    """
    A pillar from a configuration of another tool, as :meth:`gpuslice.techniques.base.Technique.imported` has it.

    :param form: one of those of :func:`export` that is no pillar.
    """
    return _speaking(engine, form).imported(form, written, name, engine.gpus)


def _speaking(engine, form):
    """The technique that knows a form of another tool."""
    return next(tool for tool in map(engine.tools.get, (kind.name for kind in kinds.DOABLE)) if form in tool.forms)


def _in_effect(engine, gpu):
    """
    Strategy and settings that describe what this GPU has now. Of one that nothing slices they keep that so; None where there
    are no words for it.
    """
    upper, whole = {}, None
    for tool in engine.techniques_of(gpu, telling=True):
        try:
            kind, layout = kinds.named(tool.name), tool.layout(engine.seen(tool, gpu))
        except errors.Unsupported as err:
            # What a GPU can't have as it is now, it does not have.
            log.warning("%s It is not described.", err)
            continue
        found = tool.pillar(gpu, layout)
        if not found:
            whole = whole or tool.pinned(layout)
            continue
        if kind.goes_with_all or (kind.over and kind.layer > kinds.SHAPE):
            # What it may stand on is told after it.
            upper[kind.word] = found
            continue
        standing = {word: upper[word] for word in upper if kinds.may_stand_on(word, kind.word)}
        if upper and not standing:
            break
        return _beside(found, standing)
    alone = next((upper[word] for word in upper if not kinds.goes_with_all(word)), whole)
    beside = {word: upper[word] for word in upper if kinds.goes_with_all(word)}
    return _beside(alone or {"strategy": "none"}, beside) if beside else alone


def _beside(section, upper):
    """The words of a GPU with those of what stands beside its strategy."""
    keys = {word: kinds.SECTIONS[word] for word in upper}
    return {**section, **{keys[word]: {**upper[word].get(keys[word], {}), "enabled": True} for word in upper}}
