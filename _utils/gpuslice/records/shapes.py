"""
What is read back from the state directory is checked like any other input: the journal, the records and the history say what is
stopped, started, destroyed and made, as root.

Each function takes what a file held and raises a ValueError that says what is wrong with it.
"""

from functools import cache

from gpuslice import kinds
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.plan import EFFECTS
from gpuslice.shape import ADDRESS
from gpuslice.shape import ADDRESS_PATTERN
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
#: What a key is of: a GPU, or the host.
_SUBJECT = rf"(?:{ADDRESS_PATTERN}|{HOST})"
#: A key of this version, and one of any.
_KEY = text(rf"(?:{'|'.join(kind.name for kind in kinds.KNOWN)}):{_SUBJECT}")
_ANY_KEY = text(rf"[a-z][a-z-]*:{_SUBJECT}")
_ADDRESSES = listing(ADDRESS)
_KNOWN = text("|".join(kind.name for kind in kinds.KNOWN))
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
        "effect": text("|".join(EFFECTS)),
        "source": _TEXT,
    },
    needed=("gpu", "technique", "action", "args"),
)
_PART = parts(
    {
        "key": _KEY,
        "addresses": _ADDRESSES,
        "model": _TEXT,
        "steps": listing(_STEP),
        **dict.fromkeys(("before", "after", "old", "new"), _PLAIN),
        **dict.fromkeys(("keeps", "destroys", "creates", "destroys_empty", "creates_empty", "drawing"), _TEXTS),
        "stops": listing(UNIT),
        "unloads": listing(MODULE),
        "waits": _TEXT,
        "note": _TEXT,
        "wanted": truth,
        "group": _TEXT,
        "concerns": _ADDRESSES,
        "forecast": truth,
    },
    needed=("key", "addresses", "steps"),
)
_PLAN = parts(
    {
        "parts": listing(_PART), "untouched": _TEXTS, "blocked": listing(row(_TEXT, _TEXT)), "notes": _TEXTS,
        "remarks": _TEXTS, "unmanaged": _TEXT, "waiting": listing(row(_TEXT, _TEXT, _TEXT)),
        "before": _TEXTS, "after": _TEXTS, "freeable": _TEXTS,
    },  # fmt: skip
    needed=("parts",),
)
_PAUSE = either(row(text("kernel module"), MODULE), row(text("unit"), UNIT))
_SECONDS = whole(1, 3600)
_HOOK = either(
    record({"command": listing(_TEXT), "timeout": _SECONDS}),
    record(
        {"function": text(r"[A-Za-z0-9_]+\.[A-Za-z0-9_]+"), "args": listing(anything), "kwargs": _PLAIN, "timeout": _SECONDS},
        {"around": _KNOWN, "light": truth},
    ),
)
_OWED = parts({"after_hooks": listing(_HOOK)}, needed=("after_hooks",))
_ENTRY = parts(
    {
        "time": moment,
        "who": _TEXT,
        "jid": _TEXT,
        "pid": whole(),
        "boot_id": _TEXT,
        "plan": _PLAN,
        "before": table(_KEY, _PLAIN),
        "goal": table(_KEY, _PLAIN),
        "wishes": table(_KEY, _PLAIN),
        "addresses": table(_KEY, _ADDRESSES),
        "pauses": listing(_PAUSE),
        "earlier": listing(row(_KEY, _STEP)),
        "groups": table(_KEY, _TEXT),
        "after_hooks": listing(_HOOK),
    },
    needed=("time", "pid", "plan", "before", "goal"),
)
_RULES = parts(
    {"stop_units": listing(UNIT), "unload_modules": listing(MODULE), "health_check": truth, "share_with": _TEXTS}
)  # fmt: skip
_VERIFIED = parts(
    {"addresses": _ADDRESSES, "model": _TEXT, "layout": _PLAIN, "time": moment, "generation": maybe(whole()),
     "awaits": maybe(_PLAIN), "rules": _RULES},
    needed=("addresses", "layout"),
)  # fmt: skip
_ATTEMPTS = record(
    {
        "tried": table(_ANY_KEY, record({"digest": text(r"[0-9a-f]+"), "times": listing(moment)})),
        "last": maybe(record({"time": moment, "boot_id": _TEXT, "result": truth, "comment": _TEXT})),
    }
)
_WAITING = record({"gpus": table(ADDRESS, record({"boot_id": _TEXT, "reboots": whole()}, {"why": _TEXT}))})
_WAITS = record(
    {
        "since": moment, "until": maybe(moment), "digest": text(r"[0-9a-f]+"), "of": text("idle|window"),
        "what": listing(row(_TEXT, _TEXT)), "again": truth,
    },
    {"noted": moment},
)  # fmt: skip
_GENERATION = parts(
    {
        "time": moment,
        "who": _TEXT,
        "jid": _TEXT,
        "result": _TEXT,
        "errors": _TEXTS,
        "before": table(_ANY_KEY, _PLAIN),
        "after": table(_ANY_KEY, _PLAIN),
        "addresses": table(_ANY_KEY, _ADDRESSES),
        "reboot": listing(ADDRESS),
        "devices": table(_ANY_KEY, _TEXT),
        "since": whole(),
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


def _covers(text_of_key, addresses, where):
    """
    Refuse a key that can't cover just these GPUs: what belongs to the host all its GPUs may have in common, anything else is of
    the GPU itself. Of a technology of another version nothing is known.
    """
    key = Key.of(text_of_key)
    kind = kinds.named(key.technique)
    if not addresses:
        raise ValueError(f"{where} covers no GPU")
    if kind is None:
        return
    if kind.host_wide != (key.subject == HOST):
        raise ValueError(f"{where} is told of {key.subject}, and {kind.label} can't be")
    if len(set(addresses)) < len(addresses) or (key.subject != HOST and addresses != [key.subject]):
        raise ValueError(f"{where} covers {', '.join(addresses)}")


def owed(data):
    """What is to be called again, as :class:`gpuslice.records.owed.Owed` writes it."""
    _OWED(data, "it")
    if strange := [hook for hook in data["after_hooks"] if "around" not in hook]:
        raise ValueError(f"it:after_hooks has {len(strange)} around nothing")


def entry(data):
    """A change in progress, as :class:`gpuslice.records.journal.Entry` is written."""
    _ENTRY(data, "it")
    for text_of_key, layout in data["before"].items():
        _layout(Key.of(text_of_key).technique)(layout, f"it:before:{text_of_key}")
        subject = Key.of(text_of_key).subject
        covered = data.get("addresses", {}).get(text_of_key) or [one for one in (subject,) if one != HOST]
        _covers(text_of_key, covered, f"it:before:{text_of_key}")
    for part in data["plan"]["parts"]:
        if not part["addresses"]:
            raise ValueError("a part of its plan covers no GPU")
        for step in part["steps"]:
            _step(step, part["addresses"])
        _covers(part["key"], part["addresses"], "a part of its plan")
    for text_of_key, step in data.get("earlier", ()):
        _step(step, data.get("addresses", {}).get(text_of_key) or [Key.of(text_of_key).subject])


def _step(step, addresses):
    if step["gpu"] not in addresses:
        raise ValueError(f"a step of GPU {addresses[0]} is of another one")
    needed = kinds.section(kinds.named(step["technique"])).steps().get(step["action"], {})
    record(needed, dict.fromkeys(step["args"], anything) | needed)(step["args"], f"a step of GPU {step['gpu']}")


def has_step(plan, key, number):
    """
    Whether a plan (plain data) has such a step.

    :param key: the text of a key.
    """
    return type(number) is int and any(part["key"] == key and 1 <= number <= len(part["steps"]) for part in plan["parts"])


def verified(data):
    """The file of :class:`gpuslice.records.verified.Verified`. A technique of another version is no mistake."""
    record({"layouts": table(_ANY_KEY, _VERIFIED)})(data, "it")
    for key, each in data["layouts"].items():
        technique = Key.of(key).technique
        _layout(technique)(each["layout"], f"it:{key}:layout")
        _covers(key, each["addresses"], f"it:{key}")
        if each.get("awaits") is not None:
            _settings(technique)(each["awaits"], f"it:{key}:awaits")


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

    :param which: ``before`` or ``after``. What could not be read has the reason instead, as ``error``.
    """
    record({which: anything}, dict.fromkeys(data, anything))(data, "it")
    for key, layout in data[which].items():
        either(record({"error": _TEXT}), _layout(Key.of(key).technique))(layout, f"it:{which}:{key}")


def waits(data):
    """What waits for its time, as :class:`gpuslice.records.waits.Waits` has it."""
    _WAITS(data, "it")
