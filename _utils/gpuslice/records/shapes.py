"""
What is read back from the state directory is checked like any other input: the journal, the records and the history say what is
stopped, started, destroyed and made, as root.

Each function takes what a file held and raises a ValueError that says what is wrong with it.
"""

from functools import cache

from gpuslice import kinds
from gpuslice.shape import ADDRESS
from gpuslice.shape import MODULE
from gpuslice.shape import UNIT
from gpuslice.shape import anything
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import moment
from gpuslice.shape import parts
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.shape import whole

_TEXT, _TEXTS = text(), listing(text())
_NAME = text(r"[a-z][a-z-]*")
_KNOWN = text("|".join(kind.name for kind in kinds.DOABLE))
_PLAIN = table(_TEXT, anything)
_STEP = parts(
    {
        "gpu": ADDRESS,
        "technique": _KNOWN,
        "action": text(r"[a-z_]+"),
        "args": _PLAIN,
        "words": _TEXT,
        "undo": _TEXT,
        "disrupts": _TEXTS,
        "needs": _TEXTS,
        "phase": whole(0, 9),
    },
    needed=("gpu", "technique", "action", "args"),
)
_GPU_PLAN = parts(
    {
        "gpu": ADDRESS,
        "technique": _KNOWN,
        "model": _TEXT,
        "steps": listing(_STEP),
        **dict.fromkeys(("before", "after", "old", "new"), _PLAIN),
        **dict.fromkeys(("keeps", "destroys", "creates", "drawing"), _TEXTS),
        "stops": listing(UNIT),
        "unloads": listing(MODULE),
        "waits": _TEXT,
        "note": _TEXT,
        "wanted": truth,
        "group": _TEXT,
        "covers": listing(ADDRESS),
    },
    needed=("gpu", "technique", "steps"),
)
_PLAN = parts(
    {"gpus": listing(_GPU_PLAN), "untouched": _TEXTS, "blocked": listing(row(_TEXT, _TEXT)), "notes": _TEXTS},
    needed=("gpus",),
)
_PAUSE = either(row(text("kernel module"), MODULE), row(text("unit"), UNIT))
_ENTRY = parts(
    {
        "time": moment,
        "who": _TEXT,
        "jid": _TEXT,
        "pid": whole(),
        "boot_id": _TEXT,
        "plan": _PLAN,
        "before": table(ADDRESS, _PLAIN),
        "goal": table(ADDRESS, _PLAIN),
        "wishes": table(ADDRESS, _PLAIN),
        "techniques": table(ADDRESS, _KNOWN),
        "pauses": listing(_PAUSE),
        "earlier": listing(_STEP),
        "groups": table(ADDRESS, _TEXT),
    },
    needed=("time", "pid", "plan", "before", "goal", "techniques"),
)
_RULES = parts({"stop_units": listing(UNIT), "unload_modules": listing(MODULE), "health_check": truth})
_VERIFIED = parts(
    {"technique": _NAME, "model": _TEXT, "layout": _PLAIN, "time": moment, "generation": maybe(whole()), "awaits": maybe(_PLAIN),
     "rules": _RULES},
    needed=("technique", "layout"),
)  # fmt: skip
_ATTEMPTS = record(
    {
        "tried": table(ADDRESS, record({"digest": text(r"[0-9a-f]+"), "times": listing(moment)})),
        "last": maybe(record({"time": moment, "boot_id": _TEXT, "result": truth, "comment": _TEXT})),
    }
)
_WAITING = table(ADDRESS, record({"boot_id": _TEXT, "reboots": whole()}, {"why": _TEXT}))
_GENERATION = parts(
    {
        "time": moment,
        "who": _TEXT,
        "jid": _TEXT,
        "result": _TEXT,
        "errors": _TEXTS,
        "before": table(ADDRESS, _PLAIN),
        "after": table(ADDRESS, _PLAIN),
        "techniques": table(ADDRESS, _NAME),
        "reboot": listing(ADDRESS),
    }
)


@cache
def _layout(technique):
    """The shape of a layout of a technique; of one of another version nothing is known."""
    kind = kinds.named(technique)
    return kinds.section(kind).layout() if kind else anything


@cache
def _settings(technique):
    """The shape of settings of a technique that wait for a reboot."""
    kind = kinds.named(technique)
    return kinds.section(kind).settings() if kind and kind.cls else anything


def entry(data):
    """A change in progress, as :class:`gpuslice.records.journal.Entry` is written."""
    _ENTRY(data, "it")
    for gpu, layout in data["before"].items():
        if gpu not in data["techniques"]:
            raise ValueError(f"its before is incomplete: it does not say by what GPU {gpu} was sliced")
        _layout(data["techniques"][gpu])(layout, f"it:before:{gpu}")
    for made in data["plan"]["gpus"]:
        _steps(made["steps"], made["gpu"])
    for step in data.get("earlier", ()):
        _steps([step], step["gpu"])


def _steps(steps, gpu):
    for step in steps:
        if step["gpu"] != gpu:
            raise ValueError(f"a step of GPU {gpu} is of another one")
        needed = kinds.section(kinds.named(step["technique"])).steps().get(step["action"], {})
        record(needed, dict.fromkeys(step["args"], anything) | needed)(step["args"], f"a step of GPU {gpu}")


def has_step(plan, gpu, number):
    """Whether a plan (plain data) has such a step."""
    return type(number) is int and any(made["gpu"] == gpu and 1 <= number <= len(made["steps"]) for made in plan["gpus"])


def verified(data):
    """PCI address -> entry of :class:`gpuslice.records.verified.Verified`. A technique of another version is no mistake."""
    table(ADDRESS, _VERIFIED)(data, "it")
    for gpu, each in data.items():
        _layout(each["technique"])(each["layout"], f"it:{gpu}:layout")
        if each.get("awaits") is not None:
            _settings(each["technique"])(each["awaits"], f"it:{gpu}:awaits")


def attempts(data):
    """The file of :class:`gpuslice.records.attempts.Attempts`."""
    _ATTEMPTS(data, "it")


def waiting(data):
    """The file of :class:`gpuslice.records.reboot.RebootLedger`."""
    _WAITING(data, "it")


def generation(data):
    """A finished change in the history."""
    _GENERATION(data, "it")


def outcome(data, which):
    """
    The layouts of a generation that is to be brought back.

    :param which: ``before`` or ``after``. A GPU that could not be read has the reason instead, as ``error``.
    """
    record({which: anything, "techniques": anything}, dict.fromkeys(data, anything))(data, "it")
    for gpu, layout in data[which].items():
        if gpu not in data["techniques"]:
            raise ValueError(f"it does not say by what GPU {gpu} was sliced")
        either(record({"error": _TEXT}), _layout(data["techniques"][gpu]))(layout, f"it:{which}:{gpu}")
