"""
What every loader file does around the engine: open it with the minion's options, turn its errors into Salt's, and shape its
results as Salt shows them. Salt's classes are handed in, so that nothing here imports Salt.
"""

import functools
import hashlib
import inspect
import json
import logging
import traceback
from collections.abc import Mapping
from contextlib import contextmanager

from gpuslice import arguments
from gpuslice import errors
from gpuslice import folding
from gpuslice import secret
from gpuslice.engine import Engine
from gpuslice.host.base import WAITING
from gpuslice.plan import EACH
from gpuslice.plan import NO
from gpuslice.plan import ONE_LINE
from gpuslice.policy import fields

log = logging.getLogger(__name__)


@contextmanager
def engine(opts, refused, events=None, salt=None):
    """
    The engine for one request.

    :param opts: ``__opts__`` of the loader file.
    :param refused: Salt's exception class for a refusal that is shown as one sentence (``CommandExecutionError``).
    :param events: as of :func:`announcer`.
    :param salt: ``__salt__`` of a loader file that runs what the pillar has run before and after a change.
    """
    try:
        with Engine(opts.get("gpu_slicing"), opts.get("cachedir", ""), events=events) as made:
            if salt is not None:
                made.call = functools.partial(_called, salt)
                made.health_events = announcer(opts, salt, "health")
            yield made
    except errors.GpuSliceError as err:
        # Alone: what led to it may quote what must not be shown, and a minion's log has the whole chain.
        raise refused(str(err)) from None
    except errors.Interrupted as err:
        # The process ends with it, so that this is the only place where its user hears of it.
        log.error("%s", err.what)
        raise
    except Exception as err:
        # Ours to mend, but a user gets a sentence and the log gets the rest.
        log.error("the GPU slicing engine failed unexpectedly: %s", secret.redacted(traceback.format_exc()))
        words = secret.redacted(f"{type(err).__name__}: {err}")
        raise refused(f"The GPU slicing engine failed ({words}). Please report this with the minion's log.") from None


def _called(salt, name, args, kwargs):
    """Call a function of Salt for the engine. Raises errors.HookFailed: this minion has none of that name; and what it raises."""
    if name not in salt:
        raise errors.HookFailed("there is no such function on this minion.")
    return salt[name](*args, **kwargs)


def planned(plan, brief=False):
    """
    A plan as a dict ``changes``, ``comment``, and ``result``: True when nothing is to do, False when something can't be done.

    :param brief: for a screen: the steps of a GPU in one line, and changes as lines for people.

    There is no ``result`` when something would change: a state says None then, and Salt takes None for a failure when an
    execution function returns it.
    """
    answer = {"changes": plan.changes(), "comment": plan.text(ONE_LINE if brief else EACH, brief)}
    if brief:
        answer["changes"] = folding.changes(answer["changes"])
    if (plan.blocked or plan.empty) and not plan.freeable:
        answer["result"] = not plan.blocked
    return answer


#: Where the stages of one run leave what they have read for each other, in Salt's ``__context__``.
_LOOK, _TO_COME = "gpu_slicing.look", "gpu_slicing.to_come"
#: How many changes this process has begun.
_begun = 0


def expect(context):
    """
    What the next stage reads is to be left for a later one of this run. Where nobody expects it nothing is left: what a function
    called by hand has read would lie in a minion's ``__context__`` for as long as that runs.

    :param context: ``__context__`` of the loader file, which all stages of a run share.
    """
    context[_LOOK] = None


def leave(context, pillar, plan):
    """
    Leave what was read for a later stage of the same run, which need not read it again.

    :param context: as of :func:`expect`; :param pillar: what was asked for.
    :param plan: what the reading came to, None for one that says nothing of now.
    """
    if _LOOK in context:
        context[_LOOK] = plan and (_digest(pillar), _begun, planned(plan, brief=True))


def left(context, pillar):
    """
    What :func:`leave` left for this pillar, as :func:`planned` has it; None where nothing was, or something was changed since.
    It is there once.
    """
    wish, begun, found = context.pop(_LOOK, None) or ("", 0, None)
    return found if (wish, begun) == (_digest(pillar), _begun) else None


def postpone(context):
    """In a test, a change is to come: what is so now says nothing to the next stage."""
    context[_TO_COME] = True


def postponed(context):
    """Whether :func:`postpone` was called. It says so once."""
    return context.pop(_TO_COME, False)


def changes():
    """A change is about to be made: what was read before it says nothing of what comes after it."""
    global _begun
    _begun += 1


def _digest(pillar):
    """Tells one wish from another."""
    ours = {name: pillar[name] for name in fields.TOP if name in pillar}
    return hashlib.sha256(json.dumps(ours, default=str).encode()).hexdigest()


def done(result, brief=False):
    """
    A result as a dict ``result``, ``changes``, ``comment``, and ``warnings`` when there are any.

    :param brief: as of :func:`planned`.
    """
    if result.errors:
        waiting = [f"Waits: {why}" for _, _, why in result.plan.waiting]
        comment = "\n".join([*folding.sentences([*result.errors, *waiting]), *_made_beside(result)])
    elif result.changes or (result.generation and not (result.plan.empty and result.plan.waiting)):
        done_words = _done_words(result)
        comment = f"{done_words}in {result.seconds} s, generation {result.generation}.\n{result.plan.text(NO, brief)}"
    else:
        comment = result.plan.text(ONE_LINE if brief else EACH, brief)
    if result.reboot:
        comment += f"\nReboot required: {folding.shortened(result.reboot)}."
    changed = folding.changes(result.changes) if brief else result.changes
    answer = {"result": result.ok, "changes": changed, "comment": comment}
    return {**answer, "warnings": folding.sentences(result.warnings)} if result.warnings else answer


def waited(answer, result, engine, pillar, own, salt, opts):
    """
    The answer of :func:`done`, which also says who comes back to what waits: see :func:`gpuslice.waits.settled`.

    :param own: whether ``pillar`` is the minion's own; :param salt: ``__salt__``; :param opts: ``__opts__`` of the loader file.
    """
    if not result.plan.waiting and not engine.host.has_record(WAITING):
        return answer
    # Here, as below, so that those who never wait do not load it.
    from gpuslice import waits

    return waits.settled(answer, result, engine, pillar, own, salt, opts)


def resumed(engine, fresh, test, context, salt, opts):
    """
    Try again what waits, if its time has come. Returns what :func:`planned` or :func:`done` do.

    :param fresh: function that makes the minion's pillar anew: the one that it keeps in memory may be older than the one that
        the waiting run had.
    :param context: ``__context__``, :param salt: ``__salt__``, :param opts: ``__opts__`` of the loader file.
    """
    from gpuslice import waits

    if answer := waits.why_not_yet(engine, test, salt, opts):
        return answer
    pillar = fresh()
    answer = waits.why_no_more(engine, fetched(pillar, salt), test, salt, opts)
    return answer or applied(engine, pillar, True, test, False, context, salt, opts)


def applied(engine, pillar, own, test, brief, context, salt, opts):
    """
    Bring a host to a pillar, or only plan with ``test``; returns what :func:`planned` or :func:`done` do.

    :param own: whether it is the minion's own; :param brief: as of these; the others as of :func:`resumed`.
    """
    wanted = fetched(pillar, salt)
    if test:
        found = engine.plan(wanted)
        leave(context, pillar, found)
        return planned(found, brief)
    changes()
    result = engine.apply(wanted)
    leave(context, pillar, result.found)
    return waited(done(result, brief), result, engine, wanted, own, salt, opts)


def waiting(engine):
    """What waits on this host, as a dict; {} where nothing does."""
    from gpuslice import waits

    return waits.listed(engine)


def forgotten(engine, test, salt, opts):
    """Take back what waits, as an answer; the arguments are as of :func:`resumed`."""
    from gpuslice import waits

    return waits.forgotten(engine, test, salt, opts)


def _made_beside(result):
    """A line on the GPUs that were changed where all that is wrong are others that were left as they are."""
    changing = dict.fromkeys(address for part in result.plan.changing for address in part.addresses)
    changed = [address for address in changing if address in result.changes]
    if not changed or not result.generation or result.errors != [why for _, why in result.plan.blocked]:
        return []
    return [f"{_done_words(result)}on {folding.shortened(changed)} in {result.seconds} s, generation {result.generation}."]


def _done_words(result):
    if result.plan.empty:
        return f"An interrupted change was {'undone' if result.undone else 'finished'} "
    if result.reboot:
        return "Accepted, to come into force at a reboot, "
    return "Applied and verified " if result.verified else "Applied, and not as wanted when it was read again, "


def checked(refused, **checked_as):
    """
    A decorator for execution functions: before anything else each argument is checked by its name, see :mod:`gpuslice.arguments`.

    :param refused: Salt's exception class for a refusal.
    :param checked_as: argument -> the name by which it is checked, where that is not its own.
    """

    def decorate(function):
        signature = inspect.signature(function)

        # Salt reads the arguments of what is wrapped.
        @functools.wraps(function)
        def call(*args, **given):
            for name, value in signature.bind(*args, **given).arguments.items():
                if value is None and signature.parameters[name].default is None:
                    continue
                try:
                    arguments.check(**{checked_as.get(name, name): value})
                except errors.PolicyError as err:
                    raise refused(str(err)) from None
            return function(*args, **given)

        return call

    return decorate


def testing(opts):
    """Whether a state only says what it would do. Salt knows "not given" as well, which is no."""
    return False if opts.get("test") is None else opts["test"]


def pillar(given, own):
    """The pillar to go by: the minion's own where none was given. An empty one is one too, which wants nothing."""
    return own if given is None else given


def fetched(pillar, salt):
    """
    A pillar in which the templates that it names by URL (``salt://...``) are their texts: the engine knows no file server.

    :param salt: ``__salt__`` of the loader file. :raises errors.PolicyError: there is no such file.
    """
    section = pillar.get(fields.INTEGRATION) if isinstance(pillar, Mapping) else None
    named = section.get(fields.TEMPLATES) if isinstance(section, Mapping) else None
    if not isinstance(named, Mapping):
        return pillar
    texts = {name: _fetched(name, each, salt) for name, each in named.items()}
    return {**pillar, fields.INTEGRATION: {**section, fields.TEMPLATES: texts}}


def _fetched(name, each, salt):
    if not isinstance(each, str) or not each.startswith("salt://"):
        return each
    text = salt["cp.get_file_str"](each)
    # A text without a section is no template, and would be told to be a wrong URL.
    if not isinstance(text, str) or "[" not in text:
        there = "and the file server has no such file"
        if isinstance(text, str):
            there = "which is a file without a section such as [Service]" if text.strip() else "which is an empty file"
        raise errors.PolicyError(
            f"{fields.INTEGRATION}:{fields.TEMPLATES}:{name} is {each}, {there}.",
            todo="Put the template there, or correct its name.",
        )
    return text


def run(engine, targets, test, permissions, force=None, brief=False):
    """
    Bring targets about by hand, or only plan with ``test``; returns what :func:`planned` or :func:`done` do.

    :param permissions: the pillar, of which only the units and modules that may be stopped count. :param brief: as of these.
    """
    reconciler, targets = engine.reconciler(force=force, permissions=permissions), engine.handed_on(targets)
    if test:
        return planned(reconciler.plan(targets), brief)
    changes()
    result = reconciler.apply(targets)
    engine.forget_gone(result)
    return done(result, brief)


def without_waits(engine, answer, test, salt, opts):
    """
    The answer of a rollback, after which nothing comes back any more to what waits: that would undo it.

    :param salt: ``__salt__`` and :param opts: ``__opts__`` of the loader file.
    """
    if test or not answer["result"] or not give_up_waiting(engine, salt, opts):
        return answer
    told = "What waited is forgotten, since an earlier layout was asked for."
    return {**answer, "warnings": [*answer.get("warnings", ()), told]}


def give_up_waiting(engine, salt, opts):
    """Nothing comes back any more to what waits. Returns whether anything did."""
    noted = engine.host.has_record(WAITING)
    # The job has the name that gpuslice.waits gives it, which is loaded only where something waits.
    if noted or "gpu_slicing_waiting" in (opts.get("schedule") or ()):
        from gpuslice import waits

        waits.given_up(engine, salt, opts)
    return noted


def recovered(engine, how, test, permissions):
    """
    Deal with an interrupted change by hand: ``how`` is finish or undo. Returns what :func:`planned` or :func:`done` do.

    :param permissions: as of :func:`run`.
    """
    if not engine.interrupted():
        return {"result": True, "changes": {}, "comment": "No change was interrupted on this host."}
    if how == "finish":
        return run(engine, engine.recovery_targets(), test, permissions)
    reconciler = engine.reconciler(permissions=permissions)
    if test:
        return planned(reconciler.recovery(engine.gpus))
    changes()
    result = reconciler.recover(engine.gpus)
    comment = "\n".join(result.warnings) or "No change is interrupted any more."
    return {"result": result.ok, "changes": result.changes, "comment": comment}


def announcer(opts, salt, about="change"):
    """
    A function that tells on the master's event bus what becomes of a change, as ``gpu_slicing/<minion>/change/<kind>``; what is
    in each event stands in ``docs/events.md``.

    :param about: what the events are about, ``change`` or ``health``.

    None for a masterless run: it has no bus, and looking for one would cost a second a step.
    """
    if opts.get("file_client") == "local":
        return None
    made = []

    def tell(kind, fields):
        if not made:
            # Here, so that a run without a change does not load it.
            from gpuslice.announcer import Announcer

            made.append(Announcer(salt["event.send"], f"gpu_slicing/{opts['id']}/{about}"))
        made[0](kind, fields)

    return tell


def each(engine, word, gpu, read):
    """
    What a function reads of the GPUs that a user means, as :func:`by_address` has it.

    :param word: what the pillar calls the technology; :param read: function of (GPU, technique).
    """
    found, is_one = engine.techniques(word, gpu)
    return by_address({one.address: read(one, tool) for one, tool in found}, is_one)


def by_address(answers, is_one):
    """Answers by PCI address; of one GPU that was named the answer itself."""
    return next(iter(answers.values())) if is_one else answers


def reports():
    """:mod:`gpuslice.reports`, for a loader file that is loaded by runs which go by their pillar too: these have no use of it."""
    from gpuslice import reports

    return reports


def imported(engine, form, source, name, text, salt, yaml):
    """
    A pillar from a configuration of another tool: a dict ``pillar``, and ``warnings`` where there are any; or the text of a file.

    :param form: as of :meth:`gpuslice.engine.Engine.imported`; :param source: what :func:`gpuslice.sources.read` takes.
    :param name: the configuration to be applied, "" for none. :param salt: ``__salt__`` of the loader file.
    :param yaml: Salt's own module for YAML.
    """
    # Only imports read files of users.
    from gpuslice import sources

    made, warnings = engine.imported(form, sources.read(source, salt, yaml.safe_load, yaml.YAMLError), name)
    if text:
        return as_yaml(made, warnings)
    return {"pillar": made, "warnings": warnings} if warnings else {"pillar": made}


def as_yaml(data, remarks=()):
    """A mapping as the text of a YAML file, see :func:`gpuslice.policy.as_text.as_yaml`."""
    # Only who asks for a text needs it.
    from gpuslice.policy.as_text import as_yaml

    return as_yaml(data, remarks)


def strangers(kwargs):
    """A sentence that names arguments which a state does not know, "" when there are none. Salt's own never arrive here."""
    names = sorted(secret.redacted(name) for name in kwargs if not name.startswith("__"))
    return f"Unknown argument{'s' if len(names) > 1 else ''} {', '.join(names)}: nothing was done." if names else ""


def failed(name, why):
    """The return of a state that did nothing, with the reason as its comment."""
    return {"name": name, "result": False, "changes": {}, "comment": str(why)}


def state(name, kwargs, refused, function, *args, **given):
    """
    The return of a state that is one execution function.

    :param kwargs: what the state got beside its own arguments; nothing is done when a stranger is among it.
    :param refused: Salt's exception class for a refusal.
    :param function: the execution function, or one that looks at its answer, for ``args`` and ``given``.
    """
    if unknown := strangers(kwargs):
        return failed(name, unknown)
    try:
        return {"name": name, "result": None, **function(*args, **given)}
    except refused as err:
        return failed(name, err)
