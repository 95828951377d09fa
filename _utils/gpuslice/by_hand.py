"""
What is asked for by hand and not by a pillar, as targets and settings. Each function is handed :class:`gpuslice.engine.Engine`.
"""

from gpuslice import arguments
from gpuslice import errors
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.policy.fields import INTEGRATION
from gpuslice.records import interrupted


def techniques(engine, word, gpu):
    """
    (GPU, technique) of each GPU that a user means, and whether exactly one was named. Of those that are chosen by kind only
    the ones that can do it are meant.

    :raises errors.Unsupported: none of them can do it, or one that was named.
    """
    found = engine.chosen(gpu)
    able = [one for one in found.gpus if engine.tools.get(engine.meant(one, word)).supports(one)] if found.by_kind else []
    return [_technique(engine, word, one) for one in able or found.gpus], found.is_one


def _technique(engine, word, one):
    tool = engine.tools.get(engine.meant(one, word))
    if not tool.supports(one):
        why = tool.why_not(one).words
        raise errors.Unsupported(
            f"{one.model} can't do {word}{f': {why}' if why else ''}".rstrip(".") + ".",
            one.address,
            "See 'salt-call gpu.capabilities' for what it can do.",
        )
    return one, tool


def settled(engine, technique, written):
    """
    Settings of a technology that hands out, for functions that work by hand.

    :param written: keys of the pillar's section on containers. Raises errors.PolicyError with every mistake.
    """
    try:
        return engine.policy({INTEGRATION: written}).handed_out[technique]
    except errors.PolicyError as err:
        raise errors.of_arguments(err, INTEGRATION) from err


def wanted(engine, word, gpu, settings, wish=None):
    """
    Targets of any technology, of all GPUs that a user means, for functions that work by hand. Raises as :func:`techniques`.

    :param word: what the pillar calls it; :param wish: a difference to what is there instead of settings, see
        :meth:`gpuslice.techniques.base.Technique.settle`.
    """
    found, _ = techniques(engine, word, gpu)
    return [Target(one, Key.of_gpu(tool.name, one.address), settings, wish=wish) for one, tool in found]


def wanted_as(engine, word, gpu, written, **more):
    """
    Targets as :func:`wanted` that set what is given (None leaves it), checked as the pillar's section of that technology.

    :param written: keys of the section; :param more: settings beside those. Raises errors.PolicyError: a value is wrong.
    """
    given = {key: value for key, value in written.items() if value is not None}
    from gpuslice.policy import build

    return wanted(engine, word, gpu, {**more, **build.section(word, given)})


def recovery_targets(engine):
    """
    Targets that finish the interrupted change of this host, [] when there is none.

    :raises errors.DeviceNotFound: a GPU of it is gone.
    """
    # Here, so that a run without a change does not load it.
    from gpuslice.change import earlier

    return earlier.finishing(engine.host, interrupted.found(engine.host), engine.gpus)


def rollback_targets(engine, generation=None):
    """
    Targets that bring back an earlier layout.

    :param generation: number of the generation whose outcome to bring back; None undoes the last one that changed anything
        (one that failed and was put back did not, and a boot brings back what there was).
    :raises errors.PolicyError: there is no such generation; :raises errors.DeviceNotFound: a GPU of it is gone.
    """
    if generation is not None:
        arguments.check(generation=generation)
    from gpuslice.change import earlier

    return earlier.targets(earlier.wanted(engine.host, generation), engine.tools, engine.gpus)
