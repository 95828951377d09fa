"""
Statuses of GPUs and slices in the shapes that Salt's users get: by hand, in a state, and as a beacon's events.
"""

from gpuslice import checkup
from gpuslice import folding
from gpuslice import moments
from gpuslice import status_words
from gpuslice.numbers import many
from gpuslice.policy import health
from gpuslice.records.health import HealthRecord
from gpuslice.watch import told

#: Word of the pillar from which status on a state fails -> the statuses from there on.
_FAILING = {
    "degraded": (status_words.DEGRADED, *status_words.FAILING),
    "failed": status_words.FAILING,
    "never": (),
}
_TOLD = ("status", "action", "scope", "codes", "sentence")


def of(engine, pillar, gpu=None):
    """
    PCI address -> status, action, scope, codes, sentence, and ``slices``: name -> the same.

    :param gpu: whom a user means, None for all; :param pillar: what it says of health counts from now on.
    """
    return engine.statuses(gpu, health.of_pillar(pillar))


def table(statuses):
    """Statuses as a table for people: each GPU, and those of its slices that are otherwise than it."""
    rows = [("name", "status", "action", "why")]
    for gpu, board in statuses.items():
        rows.append((gpu, board["status"], board["action"], board["sentence"]))
        rows += [(name, each["status"], each["action"], each["sentence"]) for name, each in _unlike(board).items()]
    return folding.in_columns(rows) if len(rows) > 1 else "No GPU."


def _unlike(board):
    """Those slices of a board that are otherwise than it, or as it for another reason: of the others its own words are told."""
    return {name: each for name, each in board["slices"].items() if not _is_like(each, board)}


def _is_like(each, board):
    same = all(each[key] == board[key] for key in ("status", "action"))
    return same and (not each["codes"] or not set(each["codes"]).isdisjoint(board["codes"]))


def why(engine, pillar, gpu=None):
    """
    PCI address -> everything that its status comes of: ``status``, ``reasons``, ``readings`` and ``notes``, of the GPUs that a
    user means.
    """
    view = engine.watch(health.of_pillar(pillar))
    chosen = view.statuses if gpu is None else checkup.meant_among(engine, view.statuses, gpu)
    return {address: _why(engine, view, address) for address in chosen}


def forgotten(engine, gpu, test=False):
    """
    Forget what was found wrong with GPUs: it was dealt with in a way that nobody sees, or they were taken out for good. What is
    still there is found again by the next look; what only the log has told is not.

    :param gpu: whom a user means, also one that has gone. :return: dict with ``result``, ``changes`` and ``comment``.
    """
    view = engine.last_look()
    meant, here = checkup.meant_among(engine, view.statuses, gpu), {one.address for one in engine.gpus}
    found = {address: [each.words for each in view.conditions if each.gpu == address] for address in meant}
    well = "nothing is known to be wrong"
    changes = {address: {"old": "; ".join(words), "new": well} for address, words in found.items() if words}
    if not changes:
        return {"result": True, "changes": {}, "comment": f"There is nothing to forget of GPU {', '.join(meant)}."}
    if not test:
        HealthRecord(engine.host).forget(list(changes), [address for address in changes if address not in here])
    words = "would be forgotten" if test else "is forgotten"
    lines = [f"GPU {address}: {each['old']}: that {words}." for address, each in changes.items()]
    return {**({} if test else {"result": True}), "changes": changes, "comment": "\n".join(lines)}


def _why(engine, view, gpu):
    board = view.statuses[gpu]
    found = told.reasons(gpu, view.conditions, view.treatments, view.clean)
    return {
        **{key: board[key] for key in _TOLD},
        "reasons": [{**each, "since": moments.iso(each["since"]), "last": moments.iso(each["last"])} for each in found],
        "readings": _readings(engine, view, gpu),
        "notes": _notes(view),
    }


def _readings(engine, view, gpu):
    """What is compared from look to look, as sentences."""
    counts = view.data["counters"].get(gpu, {}).get("counts", {})
    found = [f"{name.replace('_', ' ')}: {count}" for name, count in sorted(counts.items())]
    if rows := view.data["rows"].get(gpu):
        corrected, uncorrected, pending, failed = (*rows["rows"], 0, 0, 0, 0)[:4]
        words = f"remapped memory rows: {corrected} corrected, {uncorrected} uncorrected, {pending} pending, {failed} failed"
        found.append(f"{words}; last read {_ago(engine.host.now() - rows['time'])}")
    elif any(each["code"] == "nvidia-row-remap-unknown" for each in engine.findings(gpu)):
        found.append("remapped memory rows: not readable while the GPU is sliced, and never read before")
    return found


def _ago(seconds):
    if seconds < 0:
        return "at a time that is still to come: the clock was set back"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "now"


def _notes(view):
    notes = []
    if view.unread:
        notes.append(f"The kernel's log can't be read ({view.unread}), so that what only it tells is not known.")
    if view.data["lost"]:
        last = moments.told(view.data["lost"])
        notes.append(f"Lines of the kernel's log were overwritten before anybody saw them, last at {last}.")
    if view.data.get("damaged"):
        notes.append(f"What earlier looks found is lost: health.json can't be used, since {view.data['damaged']}.")
    return notes


def judged(engine, pillar, test=False):
    """
    For a state: a dict ``changes``, ``comment``, and ``result`` but where something would change in a test. What waits for a
    reset or a reboot is told and is no fault. What failed is quarantined, and what is well again is released, where the pillar
    says so.
    """
    settings = health.of_pillar(pillar)
    view = engine.watch(settings)
    found = view.statuses
    each_one = [one for board in found.values() for one in (board, *board["slices"].values())]
    bad = [one for one in each_one if one["status"] in _FAILING[settings["fail_on"]]]
    odd = [one for board in found.values() for one in (board, *_unlike(board).values())]
    lines = list(dict.fromkeys(one["sentence"] for one in odd if one["sentence"]))
    waits = [f"GPU {one.gpu}: {one.words}. {one.todo}" for one in checkup.waiting(engine, view.found)]
    well = [f"Nothing is known to be wrong with {many(len(found), 'GPU')}." if found else "This host has no GPU."]
    answer = _followed(engine, view, settings, pillar, test)
    followed = [_without(answer["comment"], lines)] if answer["changes"] or answer.get("result") is not True else []
    told_all = "\n".join([*(lines or well), *waits, *engine.interrupted(), *followed])
    return {**answer, **({"result": False} if bad else {}), "comment": told_all}


def _without(comment, lines):
    """A comment without the reasons that stand above it."""
    for line in lines:
        comment = comment.replace(f": {line}", ".")
    return comment


def _followed(engine, view, settings, pillar, test):
    """What follows of statuses by the pillar, as :func:`gpuslice.quarantine.by_policy` has it."""
    if settings["on_failed"] != "quarantine":
        return {"result": True, "changes": {}, "comment": ""}
    # Here, so that those whose pillar does not ask for it do not load it.
    from gpuslice import quarantine

    return quarantine.by_policy(engine, view.statuses, pillar, test, view.data["began"] or 0)


#: What is announced of one that is well, as it is not kept.
_WELL = f"{status_words.OK}/none"


# -- events ----------------------------------------------------------------------------------------------------------
def news(engine, settings=None):
    """
    What changed since this was last asked, on this host and over all its processes: a list of dicts, each ``tag``, ``gpu``,
    ``slice`` ("" for the board), ``status``, ``was``, ``action``, ``scope``, ``codes``, ``sentence``.

    Files of the kernel are read and no device is opened; what a library has to be asked for counts as the last look found it.
    """
    found = []

    def keep(statuses, data):
        before, now = data["announced"], _flat(statuses)
        # A subject that nobody has heard of is told only where it is not well: a slice that was made is no news of health.
        changed = [name for name, each in now.items() if before.get(name, _WELL) != _word(each)]
        found.extend(_event(name, now[name], before.get(name, _WELL)) for name in changed)
        # One that has gone is not told of: whoever removed it knows.
        data["announced"] = {name: _word(each) for name, each in now.items() if each["status"] != status_words.OK}

    engine.watch(settings, quick=True, keep=keep)
    return found


def _flat(statuses):
    """Name of a GPU or slice -> its status, with the GPU."""
    boards = {gpu: {**each, "gpu": gpu, "slice": ""} for gpu, each in statuses.items()}
    slices = [(gpu, name, each) for gpu, board in statuses.items() for name, each in board["slices"].items()]
    return {**boards, **{name: {**each, "gpu": gpu, "slice": name} for gpu, name, each in slices}}


def _word(each):
    return f"{each['status']}/{each['action']}"


def _event(name, each, before):
    was = before.partition("/")[0]
    return {"tag": name, "gpu": each["gpu"], "slice": each["slice"], "was": was, **{key: each[key] for key in _TOLD}}
