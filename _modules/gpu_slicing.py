"""
Slice the GPUs of a host as its pillar says: show the plan, apply it, check it, roll it back.

The pillar is described in ``pillar.example``. Every change is planned first, journalled, verified by reading the hardware
again, and undone as a whole when a step fails.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_slicing"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_slicing needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__))


@_checked
def plan(pillar=None, data=False):
    """
    Show what would be done to bring this host to its pillar; nothing is changed.

    pillar
        A dict with the ``containers_gpu_*`` keys to plan for instead of the minion's pillar.

    data
        Give the plan as data for programs in the place of a text for people: ``docs/usage.md`` says what is in it.

    Returns the plan as text: for each GPU its memory slices now and afterwards, the steps and their estimated time; of GPUs that
    do the same, once.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.plan
        salt 'gpu*' gpu_slicing.plan data=True --out=json
    """
    with _engine() as engine:
        found = engine.plan(front.fetched(front.pillar(pillar, __pillar__), __salt__))
        return front.as_data(found) if data else found.text()


@_checked
def apply(pillar=None, test=False, brief=False):
    """
    Bring this host to its pillar.

    pillar
        A dict with the ``containers_gpu_*`` keys to apply instead of the minion's pillar.

    test
        Plan only, change nothing.

    brief
        For a screen, as ``state.apply`` has it: the steps of a GPU in one line of the comment, changes as a line for each GPU,
        and of GPUs that change alike one for all.

    Returns a dict with ``result``, ``changes`` by PCI address and ``comment``; without ``result`` when ``test`` found something
    to change.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.apply
        salt 'gpu*' gpu_slicing.apply test=True
    """
    wanted = front.pillar(pillar, __pillar__)
    with _engine() as engine:
        if test:
            found = engine.plan(front.fetched(wanted, __salt__))
            front.leave(__context__, wanted, found)
            return front.planned(found, brief)
        front.changes()
        result = engine.apply(front.fetched(wanted, __salt__))
        front.leave(__context__, wanted, result.found)
        return front.done(result, brief)


@_checked
def check(pillar=None, brief=False, require=False):
    """
    Read the hardware and compare it with the pillar; nothing is changed.

    pillar
        A dict with the ``containers_gpu_*`` keys to compare with instead of the minion's pillar.

    brief
        As of ``gpu_slicing.apply``.

    require
        Fail where the pillar manages nothing of this host: it has no such keys, ``enabled`` is false, or there is no GPU.

    Returns a dict with ``result`` (whether the host is as wanted), ``managed`` (whether the pillar wants anything of it),
    ``changes`` that would be needed, and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.check
        salt 'gpu*' gpu_slicing.check require=True
    """
    with _engine() as engine:
        plan = engine.plan(front.fetched(front.pillar(pillar, __pillar__), __salt__))
        found, managed = front.planned(plan, brief), not plan.unmanaged
        return {**found, "managed": managed, "result": found.get("result", False) and (managed or not require)}


@_checked
def summary(pillar=None):
    """
    The state of this host in one line: whether it is as wanted, what it has, and what a run would do. Nothing is changed.

    pillar
        A dict with the ``containers_gpu_*`` keys to compare with instead of the minion's pillar.

    Returns a line of text. What can't be told, such as a pillar that has a mistake, is told in that line too.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.summary --out=txt
    """
    try:
        with _engine() as engine:
            return front.summary(engine, front.fetched(front.pillar(pillar, __pillar__), __salt__))
    except CommandExecutionError as err:
        return f"can't be told: {' '.join(str(err).split())}"


@_checked
def targets(pillar=None):
    """
    What the pillar wants of each GPU of this host, and why; the slices themselves are not read.

    pillar
        A dict with the ``containers_gpu_*`` keys instead of the minion's pillar.

    Returns a list of lines.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.targets
    """
    with _engine() as engine:
        return front.targets(engine, front.pillar(pillar, __pillar__))


@_checked
def validate(pillar=None):
    """
    Check the pillar itself: every mistake at once, each with its pillar path. What the GPUs have is not read; a GPU that
    is named and not there is a mistake, a rule that matches no GPU of this host a warning.

    pillar
        A dict with the ``containers_gpu_*`` keys to check instead of the minion's pillar.

    Returns a dict with ``result``, the list ``mistakes`` and, where there are any, the list ``warnings``; ``salt-call`` exits
    with 1 for a pillar that is not valid.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.validate
    """
    return front.validated(front.pillar(pillar, __pillar__), __opts__)


@_checked
def rollback(generation=None, test=False, brief=False):
    """
    Bring back an earlier layout of the GPUs that a change touched.

    generation
        Number of the generation (see ``gpu_slicing.history``) whose outcome to bring back. The default undoes the last change
        (what a boot brought back is none); it is refused when another one comes first, as nobody has looked at that one yet.

    test
        Plan only, change nothing.

    brief
        As of ``gpu_slicing.apply``.

    Returns a dict as ``gpu_slicing.apply`` does.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.rollback
        salt gpu7 gpu_slicing.rollback 12 test=True
    """
    with _engine() as engine:
        return front.run(engine, engine.rollback_targets(generation), test, __pillar__, brief=brief)


@_checked
def recover(how="undo", test=False):
    """
    Deal with a change that was interrupted: by ``kill -9``, a crash or a power cut.

    how
        ``undo`` (default) brings its GPUs back to what they were before it, ``finish`` to what it was to make of them.

    test
        Plan only, change nothing.

    A run that changes GPUs does this by itself before anything else: it finishes the change where it wants all of it, and
    undoes it otherwise. Where ``containers_gpu_slicing:enabled`` is false or the strategy is none, only this function does.

    Returns a dict as ``gpu_slicing.apply`` does.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.recover test=True
        salt gpu7 gpu_slicing.recover finish
    """
    with _engine() as engine:
        return front.recovered(engine, how, test, __pillar__)


@_checked
def history(full=False):
    """
    The last changes of this host, oldest first; one that was interrupted is the last, without a number.

    full
        Also give the plan and the layouts of each.

    Returns a list of dicts: ``generation``, ``time`` (ISO 8601, with the zone), ``who``, ``jid``, ``result``, ``summary`` (what
    was to be done, in a line), ``errors``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.history
    """
    with _engine() as engine:
        return [front.whole(entry) if full else front.brief(entry) for entry in engine.history()]


@_checked
def export(form="pillar"):
    """
    Describe what this host has now, to adopt a host that was sliced by hand: put the pillar under version control, and the
    next highstate changes nothing.

    form
        ``pillar`` (default), or ``mig-parted`` for a configuration of NVIDIA's mig-parted.

    Returns a dict.

    CLI Example:

    .. code-block:: bash

        salt-call --out=yaml gpu_slicing.export
        salt-call --out=yaml gpu_slicing.export mig-parted
    """
    with _engine() as engine:
        return engine.export(form)
