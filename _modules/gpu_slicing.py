"""
Slice the GPUs of a host as its pillar says: show the plan, apply it, check it, roll it back.

The pillar is described in ``pillar.example``. Every change is planned first, journalled, verified by reading the hardware
again, and undone as a whole when a step fails.
"""

import functools

import gpuslice

gpuslice = gpuslice.current()
import salt.pillar
import salt.utils.yaml
from salt.exceptions import CommandExecutionError

from gpuslice import cleaning
from gpuslice import front
from gpuslice import qualify as trying

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_slicing"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_slicing needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


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
        return front.reports().as_data(found) if data else found.text()


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
    to change. What waits, with ``containers_gpu_state_management:when``, is no failure; the comment and ``warnings`` tell of it.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.apply
        salt 'gpu*' gpu_slicing.apply test=True
    """
    wanted = front.pillar(pillar, __pillar__)
    with _engine() as engine:
        return front.applied(engine, wanted, pillar is None, test, brief, __context__, __salt__, __opts__)


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
    ``changes`` that would be needed, ``waiting`` (GPU -> why what is wanted of it waits), and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.check
        salt 'gpu*' gpu_slicing.check require=True
    """
    with _engine() as engine:
        plan = engine.plan(front.fetched(front.pillar(pillar, __pillar__), __salt__))
        found, managed = front.planned(plan, brief), not plan.unmanaged
        right = found.get("result", False) and not plan.waiting and (managed or not require) and not engine.owes
        return {**found, "managed": managed, "waiting": {where: why for where, _, why in plan.waiting}, "result": right}


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
            return front.reports().summary(engine, front.fetched(front.pillar(pillar, __pillar__), __salt__))
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
        return front.reports().targets(engine, front.pillar(pillar, __pillar__))


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
    return front.reports().validated(front.pillar(pillar, __pillar__), __opts__)


@_checked
def owners(pillar=None, table=False):
    """
    Who else sets what is sliced on this host: other tools, units and boot scripts, by the files that they leave and their
    processes. Nothing is changed, and no GPU is asked. ``docs/owners.md`` says who is known, and what beside them is refused.

    pillar
        A dict with the ``containers_gpu_*`` keys to go by instead of the minion's pillar.

    table
        Give a table for people in the place of data.

    Returns a list of dicts: ``owner`` (the name that ``containers_gpu_slicing:share_with`` takes), ``label``, ``sets``
    (technologies), ``gpus``, ``agreed`` (those of these GPUs of which the pillar says that both may set them), ``seen`` (how it
    was seen) and ``todo``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.owners
        salt gpu7 gpu_slicing.owners table=True
    """
    with _engine() as engine:
        found = front.reports().owners(engine, front.pillar(pillar, __pillar__))
    return front.reports().table_of_owners(found) if table else found


@_checked
def rollback(generation=None, test=False, brief=False):
    """
    Bring back an earlier layout of the GPUs that a change touched.

    generation
        Number of the generation (see ``gpu_slicing.history``) whose outcome to bring back; 0 is how every GPU was first found.
        The default undoes the last change (what a boot brought back is none); it is refused when another one comes first, as
        nobody has looked at that one yet.

    test
        Plan only, change nothing.

    brief
        As of ``gpu_slicing.apply``.

    What waits is forgotten once it is done. Returns a dict as ``gpu_slicing.apply`` does.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.rollback
        salt gpu7 gpu_slicing.rollback 12 test=True
    """
    with _engine() as engine:
        if generation == 0:
            answer = cleaning.rolled_back(engine, __pillar__, test, brief)
        else:
            answer = front.run(engine, engine.rollback_targets(generation), test, __pillar__, brief=brief)
        return front.without_waits(engine, answer, test, __salt__, __opts__)


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
        return trying.recovered(engine, how, test, __pillar__)


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
        told = front.reports().whole if full else front.reports().brief
        return [told(entry) for entry in engine.history()]


@_checked
def export(form="pillar", text=False):
    """
    Describe what this host has now, to adopt a host that was sliced by hand: put the pillar under version control, and the
    next highstate changes nothing. A GPU in one piece is described as that, so that it stays so: MIG off, SPX, no functions.

    form
        ``pillar`` (default), or ``mig-parted`` for a configuration of NVIDIA's mig-parted.

    text
        Give the text of a YAML file in the place of a dict, in which every PCI address is quoted.

    Returns a dict, or a text.

    CLI Example:

    .. code-block:: bash

        salt-call --out=yaml gpu_slicing.export
        salt-call --out=yaml gpu_slicing.export mig-parted
        salt gpu7 gpu_slicing.export text=True | sed 1d
    """
    with _engine() as engine:
        found = engine.export(form)
    return front.as_yaml(found) if text else found


@_checked
def import_mig_parted(source, config=None, text=False):
    """
    Read a configuration of NVIDIA's mig-parted (version v1), such as ``/etc/nvidia-mig-manager/config.yaml`` or the ConfigMap of
    the GPU operator, and make a pillar of it. Nothing is changed, and no GPU is needed, unless the configuration counts GPUs.

    source
        Path of a file of the minion, a URL of Salt's file server (``salt://...``), the text of the file, or a mapping.

    config
        Name of the configuration that the pillar is to apply. Without it the pillar has a layout for each configuration and
        applies none.

    text
        Give the text of a pillar file, with the warnings as comments at its top.

    Returns a dict with ``pillar`` and, where there are any, the list ``warnings``: which GPUs of this host are meant by indices,
    what has no effect.

    CLI Example:

    .. code-block:: bash

        salt-call gpu_slicing.import_mig_parted /etc/nvidia-mig-manager/config.yaml
        salt gpu7 gpu_slicing.import_mig_parted salt://mig.yaml config=all-balanced text=True | sed 1d
    """
    with _engine() as engine:
        return front.imported(engine, "mig-parted", source, config or "", text, __salt__, salt.utils.yaml)


@_checked
def clean(test=False, force=False, brief=False):
    """
    Give this host up: each GPU back to how it was first found, consumers dismissed, every file and unit of ours removed, and the
    records last. What waits is forgotten first. What can't be done is named; a second call goes on where this one stopped.

    test
        Plan only, change nothing.

    force
        End processes that use what has to go, and forget GPUs that are no longer there. Without it they are named.

    brief
        As of ``gpu_slicing.apply``.

    A pillar that has ``containers_gpu_slicing:enabled: true`` is told: the next highstate would slice again.

    Returns a dict as ``gpu_slicing.apply`` does; ``changes`` has the files and units that are removed as well.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.clean test=True
        salt gpu7 gpu_slicing.clean
    """
    with _engine() as engine:
        gives_up = functools.partial(front.give_up_waiting, engine, __salt__, __opts__)
        return cleaning.clean(engine, __pillar__, test, force, brief, gives_up)


@_checked
def qualify(gpu, confirm=False, test=False, minutes=30):
    """
    Try a GPU that you can spare, and write a report that you can send in: every profile in every place (or every compute mode, or
    numbers of virtual functions) is made, verified and taken away again, with the time that each takes; a change is stopped, one
    is killed and one is refused by the driver half way, and put back; the driver is compared with the catalog. The GPU is put
    back as it was, also when this fails or is interrupted. Slices that it had come again with other UUIDs.

    A GPU that is in use, that a consumer has, or that the pillar slices for consumers is refused.

    gpu
        PCI address (quoted), UUID or name of a slice, of one GPU.

    confirm
        Do it. Without it, this only says what it would do, and how long about.

    test
        Say what it would do, whatever ``confirm`` is.

    minutes
        After so many minutes nothing further is begun; what was not tried is told so.

    Returns a dict with ``result`` (whether all that was tried went well), ``changes`` (the report), ``comment`` (the report as
    text) and ``report`` (its path). It names no serial number, no UUID, no address and no host.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.qualify '0000:1b:00.0'
        salt-call gpu_slicing.qualify '0000:1b:00.0' confirm=True minutes=10
    """
    with _engine() as engine:
        if test or not confirm:
            return trying.planned(engine, gpu, __pillar__, minutes)
        front.changes()
        return trying.carried_out(engine, __opts__.get("gpu_slicing"), gpu, __pillar__, minutes)


@_checked
def waiting():
    """
    What the pillar asks for and waits, with ``containers_gpu_state_management:when``, until its GPUs are idle or the maintenance
    window opens. It is read from the record of the run that found so; nothing else is read, and nothing is changed.

    Returns a dict: ``for`` (idle or window), ``since``, ``until`` (when the window opens, where it is closed), ``waiting``
    (GPU -> why) and ``again`` (who tries it again); {} where nothing waits.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slicing.waiting
    """
    with _engine() as engine:
        return front.waiting(engine)


def _fresh_pillar():
    # Not pillar.items, which masks values.
    return salt.pillar.get_pillar(
        __opts__, dict(__grains__), __opts__["id"], pillarenv=__opts__.get("pillarenv")
    ).compile_pillar()


@_checked
def resume(test=False):
    """
    Try again what waits, if its time has come: what the minion's job ``gpu_slicing_waiting`` calls. Where nothing waits, or the
    pillar became another one since, nothing is done and the job is ended.

    test
        Plan only, change nothing.

    Returns a dict as ``gpu_slicing.apply`` does.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.resume test=True
    """
    with _engine() as engine:
        return front.resumed(engine, _fresh_pillar, test, __context__, __salt__, __opts__)


@_checked
def forget_waiting(test=False):
    """
    Take back what waits, and end the job that would try it again. The pillar stays as it is, so that the next ``state.apply``
    asks for it again.

    test
        Only say what waits.

    Returns a dict with ``result``, ``changes`` and ``comment``; without ``result`` when ``test`` found something to forget.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slicing.forget_waiting
    """
    with _engine() as engine:
        return front.forgotten(engine, test, __salt__, __opts__)
