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
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager

from gpuslice import arguments
from gpuslice import errors
from gpuslice import folding
from gpuslice import kinds
from gpuslice import moments
from gpuslice import policy
from gpuslice import secret
from gpuslice.engine import Engine
from gpuslice.host.base import WAITING
from gpuslice.plan import EACH
from gpuslice.plan import NO
from gpuslice.plan import ONE_LINE
from gpuslice.plan import Plan
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


def validated(pillar, opts):
    """
    A dict: ``result`` whether the pillar is valid, ``mistakes``, each a sentence with its path, and ``warnings`` where there are
    any. Which GPUs there are is read from the system's files, and what they have is not read at all.

    :param opts: ``__opts__`` of the loader file.
    """
    try:
        parsed = policy.parse(dict(pillar))
    except errors.PolicyError as err:
        return {"result": False, "mistakes": err.mistakes or [str(err)]}
    if mistakes := policy.lacking(parsed, kinds.AVAILABLE):
        return {"result": False, "mistakes": mistakes}
    answer = {"result": True, "mistakes": []}
    try:
        with Engine(opts.get("gpu_slicing")) as made:
            mistakes, odd = policy.misnamed(parsed, made.gpus), policy.unmatched(parsed, made.gpus)
    except errors.GpuSliceError as err:
        odd = [f"Whether each rule matches a GPU of this host can't be told: {err}"]
    if mistakes:
        return {"result": False, "mistakes": mistakes}
    warnings = [*parsed.warnings, *policy.switched_off(parsed), *odd]
    return {**answer, "warnings": warnings} if warnings else answer


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


def tabulated(engine, gpu=None):
    """The slices and the GPUs without any as a table for people, and what has to be known of an interrupted change."""
    slices = engine.slices(gpu)
    whole = engine.unsliced(slices, gpu)
    return "\n".join([table(slices, whole, engine.quarantined()), *engine.interrupted()])


def brief(entry):
    """A generation of the history without its plan and layouts."""
    known = {key: entry[key] for key in ("generation", "who", "jid", "result", "errors", "error", "reboot") if entry.get(key)}
    try:
        known["summary"] = Plan.from_dict(entry["plan"]).summary()
    except (KeyError, TypeError, ValueError):
        # One without a plan, or whose file somebody changed: what else there is of it is told all the same.
        pass
    return {**known, **_result(entry), **_timed(entry)}


def whole(entry):
    """A generation of the history with its plan and layouts."""
    return {**entry, **_result(entry), **_timed(entry)}


def _result(entry):
    """The result of a generation of which something was accepted and came into force at a reboot only, with that; else {}."""
    if not entry.get("result") or not entry.get("reboot"):
        return {}
    return {"result": f"{entry['result']}, to come into force at a reboot: {folding.shortened(entry['reboot'])}"}


def _timed(entry):
    """The time of a generation in ISO 8601 with its zone, {} where none is known."""
    if "time" not in entry:
        return {}
    return {"time": moments.iso(entry["time"])}


#: Number of the form of :func:`as_data`, which ``docs/usage.md`` describes.
PLAN_FORMAT = 1


def as_data(plan):
    """A plan as data for programs: what the text tells, without what the engine keeps for itself."""
    return {
        "format": PLAN_FORMAT,
        "managed": not plan.unmanaged,
        "summary": plan.summary(),
        "seconds": round(plan.seconds, 1),
        "estimate": plan.estimate,
        "parts": [_part_as_data(part) for part in plan.parts],
        "blocked": [{"gpu": gpu, "why": why} for gpu, why in plan.blocked],
        "before": list(plan.before),
        "after": list(plan.after),
        "freeable": list(plan.freeable),
        "waiting": [{"where": where, "for": what, "why": why} for where, what, why in plan.waiting],
        "notes": [*filter(None, [plan.unmanaged]), *plan.notes, *plan.remarks, *plan.untouched],
    }


def _part_as_data(part):
    told = ("model", "keeps", "destroys", "creates", "old", "new", "stops", "unloads", "waits", "note", "group", "forecast")
    return {
        "technology": kinds.known(part.key.technique).word,
        "gpus": list(part.addresses),
        **{name: list(value) if isinstance(value := getattr(part, name), tuple) else value for name in told},
        "seconds": round(part.seconds, 1),
        "steps": [_step_as_data(step) for step in part.steps],
    }


def _step_as_data(step):
    return {
        "does": step.words, "effect": step.effect, "ends": list(step.disrupts), "needs": list(step.needs), "undo": step.undo,
        "seconds": step.seconds, "source": step.source,
    }  # fmt: skip


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


def targets(engine, pillar):
    """What the pillar wants of each GPU, as lines of text."""
    wanted = engine.targets(checked := engine.policy(pillar))
    if not engine.gpus:
        return ["This host has no GPU."]
    if not wanted:
        return ["containers_gpu_slicing:enabled is false: every GPU is left alone."]
    sliced = [t for t in wanted if not (t.key and t.key.hands_out)]
    lines = [f"{t.gpu.address} {t.gpu.model}: {t.reason if t.technique else f'left alone, {t.reason}'}" for t in sliced]
    for kind in kinds.HANDING_OUT:
        if kind.name in checked.handed_out:
            receivers = kinds.section(kind).receivers(checked.handed_out[kind.name])
            lines.append(f"{kind.label}: {', '.join(receivers) or 'nobody'}")
    return folding.sentences(lines) + engine.remarks(checked)


def summary(engine, pillar):
    """The state of a host in one line: whether it is as wanted, what it has, and what a run would do."""
    plan = engine.plan(pillar)
    said = plan.summary().rstrip(".")
    if plan.unmanaged:
        state = plan.unmanaged.rstrip(".")
    elif engine.interrupted():
        state = "a change was interrupted"
    elif plan.blocked:
        state = "not as wanted, and in the way"
    elif plan.waiting and plan.empty:
        state, said = plan.waits(), "nothing to do now"
    else:
        waits = any(part.waits for part in plan.parts)
        state = ("waits for a reboot" if waits else "as wanted") if plan.empty else "to change"
    models = Counter(gpu.model for gpu in engine.gpus)
    slices = Counter(part["profile"] or part["kind"] for part in engine.slices())
    cut = f"{sum(slices.values())} slices ({_counted(slices)})" if slices else "no slices"
    there = [_counted(models), cut] if models else []
    return "; ".join([state, *there, *([] if plan.unmanaged and plan.empty else [said[:1].lower() + said[1:]])])


def _counted(counts):
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


_COLUMNS = ("name", "GPU", "profile", "placement", "memory", "compute", "address", "UUID", "state", "in use by")


def table(slices, whole=(), quarantined=()):
    """
    Slices, and GPUs that have none, as a table for people. A column in which nothing stands is left out, and so is that of the
    GPU where each name begins with it: that of a virtual function is the function's own address.

    :param whole: :class:`gpuslice.model.Gpu` of those without slices; :param quarantined: PCI addresses, maybe among other names.
    """
    if not slices and not whole:
        return "No GPU and no slices."
    rows = sorted([*map(_row, slices), *(_row_of_gpu(gpu, gpu.address in quarantined) for gpu in whole)], key=lambda row: row[1])
    unused = {place for place in range(len(_COLUMNS)) if not any(row[place] for row in rows)}
    if all(name.startswith(gpu) for name, gpu, *_ in rows):
        unused.add(_COLUMNS.index("GPU"))
    rows = [tuple(cell for place, cell in enumerate(row) if place not in unused) for row in (_COLUMNS, *rows)]
    return folding.in_columns(rows)


def table_of_profiles(profiles):
    """MIG profiles as a table for people; :param profiles: as ``gpu_mig.profiles`` returns them."""
    head = ("profile", "free/total", "memory", "SMs", "copy", "decoder", "encoder", "jpeg", "flow", "placements")
    return folding.in_columns([head, *(_row_of_profile(name, each) for name, each in profiles.items())])


def owners(engine, pillar):
    """
    Who else sets what is sliced on this host, as dicts: ``owner``, ``label``, ``sets`` (technologies, by the pillar's words),
    ``gpus`` (those that it is about), ``agreed`` (of which the pillar says that both may set them), ``seen`` (sentences),
    ``todo``.
    """
    try:
        agreed = engine.agreed(engine.policy(pillar))
    except errors.PolicyError:
        # A name misspelt in the pillar is looked up here; validate and plan tell of the mistake.
        agreed = {}
    return [_owner(each, engine.gpus, agreed) for each in engine.others()]


def _owner(each, gpus, agreed):
    mine = [gpu.address for gpu in gpus if gpu.vendor in each.vendors and (each.gpus is None or gpu.address in each.gpus)]
    words = dict.fromkeys(kinds.known(name).word for name in each.sets)
    never = f" It {each.never}." if each.never else ""
    return {
        "owner": each.name, "label": each.label, "sets": list(words), "gpus": mine,
        "agreed": [gpu for gpu in mine if not each.never and each.name in agreed.get(gpu, ())], "seen": list(each.seen),
        "todo": " ".join(filter(None, [f"{each.todo[:1].upper()}{each.todo[1:]}.{never}", each.unsure])),
    }  # fmt: skip


def table_of_owners(found):
    """Who else sets GPUs as a table for people; :param found: as of :func:`owners`."""
    if not found:
        return "Nobody else is known to set the GPUs of this host."
    head = ("owner", "sets", "GPUs", "agreed", "seen")
    return folding.in_columns([head, *map(_row_of_owner, found)])


def _row_of_owner(each):
    agreed = "-" if not each["agreed"] else "yes" if each["agreed"] == each["gpus"] else folding.shortened(each["agreed"])
    gpus = folding.shortened(each["gpus"]) if each["gpus"] else "none"
    return each["owner"], ", ".join(each["sets"]), gpus, agreed, "; ".join(each["seen"])


def table_of_offers(offers):
    """Slices that can be given as a table for people; :param offers: as ``gpu_consumer.offers`` returns them."""
    if not offers:
        return "No slice can be given."
    head = ("name", "kind", "memory", "share", "isolation", "weight", "consumer")
    rows = [head, *map(_row_of_offer, offers)]
    used = [place for place, _ in enumerate(head) if any(row[place] for row in rows[1:])]
    return folding.in_columns([tuple(row[place] for place in used) for row in rows])


def _row_of_offer(each):
    weight = "" if each["weight"] is None else str(each["weight"])
    share = "?" if each["compute"] is None else f"{each['compute']:.1%}"
    return each["name"], each["kind"], _gib(each["memory_mib"]), share, each["isolation"], weight, each["consumer"]


def _row_of_profile(name, each):
    engines = ["?" if count is None else str(count) for count in each["engines"].values()]
    starts = f"{{{', '.join(map(str, each['placements']))}}}:{each['memory_slices']}"
    return name, f"{each['free']}/{each['max']}", _gib(each["memory_mib"]), str(each["multiprocessors"] or "?"), *engines, starts


def _row(part):
    users = ", ".join(f"{_user(holder)} ({holder['pid']})" for holder in part["in_use_by"])
    compute = f"{part['compute']:.1%}" if part["compute"] is not None else "?"
    return (
        part["name"], part["gpu"], part["profile"], part["placement"], _gib(part["memory_mib"]), compute, part.get("address", ""),
        part.get("uuid", ""), "quarantined" if part.get("quarantined") else "", users or "-",
    )  # fmt: skip


def _user(holder):
    """Who it is in a word: the command of a virtual machine begins like that of any other."""
    return f"domain {holder['domain']}" if "domain" in holder else holder["command"]


def _row_of_gpu(gpu, quarantined):
    state = "quarantined" if quarantined else ""
    return gpu.address, gpu.address, "not sliced", "", _gib(gpu.memory_mib), "100.0%", "", gpu.uuid, state, ""


def _gib(mib):
    return f"{mib / 1024:.1f} GiB" if mib else "?"
