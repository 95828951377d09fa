"""
What functions tell and change nothing by: whether a pillar is valid and what it wants, a plan as data, the state of a host in a
line, its history, and who else sets its GPUs.
"""

from collections import Counter

from gpuslice import errors
from gpuslice import folding
from gpuslice import kinds
from gpuslice import moments
from gpuslice import policy
from gpuslice import remarks
from gpuslice import wishes
from gpuslice.engine import Engine
from gpuslice.inventory import owners as others
from gpuslice.plan import Plan

#: Number of the form of :func:`as_data`, which ``docs/usage.md`` describes.
PLAN_FORMAT = 1


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
    return folding.sentences(lines) + remarks.of_policy(engine, checked)


def summary(engine, pillar):
    """The state of a host in one line: whether it is as wanted, what it has, and what a run would do."""
    plan = engine.plan(pillar)
    said = plan.summary().rstrip(".")
    if plan.unmanaged:
        state = plan.unmanaged.rstrip(".")
    elif engine.interrupted():
        state = "a change was interrupted"
    elif engine.owes:
        state = "not as wanted, since what is to run after a change failed"
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


def owners(engine, pillar):
    """
    Who else sets what is sliced on this host, as dicts: ``owner``, ``label``, ``sets`` (technologies, by the pillar's words),
    ``gpus`` (those that it is about), ``agreed`` (of which the pillar says that both may set them), ``seen`` (sentences),
    ``todo``.
    """
    try:
        agreed = wishes.agreed(engine, engine.policy(pillar))
    except errors.PolicyError:
        # A name misspelt in the pillar is looked up here; validate and plan tell of the mistake.
        agreed = {}
    return [_owner(each, engine.gpus, agreed) for each in others.found(engine.host, engine.gpus, running=True)]


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
