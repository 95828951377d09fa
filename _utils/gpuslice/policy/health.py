"""
How the health of GPUs is judged and what follows of it, in the pillar's words. Loaded only where that is written or asked.
"""

import re
from collections.abc import Mapping

from gpuslice import errors
from gpuslice.catalog.xids import TREATMENTS
from gpuslice.policy.check import WRONG
from gpuslice.policy.check import check
from gpuslice.policy.fields import MANAGEMENT
from gpuslice.policy.fields import Field
from gpuslice.policy.fields import choice
from gpuslice.policy.fields import number
from gpuslice.policy.notes import Notes
from gpuslice.policy.notes import did_you_mean
from gpuslice.values import describe

_PATH = f"{MANAGEMENT}:health"
_CLEAN_LOOKS = 3
_NUMBER = re.compile(r"[0-9]{1,5}")


def health(value, path, notes):
    """Check ``health``; every key is in what it returns, with its default where it is not written."""
    made = check(_FIELD, value, path, notes)
    if made is WRONG or len(made) < len(value):
        return WRONG
    return {**defaults(), **made}


def defaults():
    """What holds where nothing is written."""
    return {name: each.default for name, each in _FIELD.fields.items()}


def of_pillar(pillar):
    """
    What a pillar says of health, without a look at all the rest of it.

    :raises errors.PolicyError: it has mistakes.
    """
    management = pillar.get(MANAGEMENT) if isinstance(pillar, Mapping) else None
    if not isinstance(management, Mapping) or "health" not in management:
        return defaults()
    notes = Notes()
    made = health(management["health"], _PATH, notes)
    if notes.mistakes:
        raise errors.PolicyError(" ".join(notes.mistakes), todo="Correct the pillar.", mistakes=notes.mistakes)
    return made


def schema():
    """``health`` in JSON Schema's terms."""
    fields = _FIELD.fields
    words = {name: {"enum": list(fields[name].choices)} for name in ("on_failed", "consumers", "fail_on")}
    looks = {"type": "integer", "minimum": fields["clean_looks"].low, "maximum": fields["clean_looks"].high}
    treatment = {f"^{_NUMBER.pattern}$": {"enum": list(TREATMENTS)}}
    xids = {"type": "object", "patternProperties": treatment, "additionalProperties": False}
    shown = {**words, "clean_looks": looks, "xids": xids}
    told = {name: {"description": each.doc, "default": each.default} for name, each in fields.items()}
    return {
        "type": "object",
        "properties": {name: {**each, **told[name]} for name, each in shown.items()},
        "additionalProperties": False,
    }


def _xids(value, path, notes):
    """Number -> treatment; YAML makes numbers of them, JSON texts: all become texts."""
    if not isinstance(value, dict):
        notes.wrong(path, f"is {describe(value)}; a mapping of Xid numbers to {', '.join(TREATMENTS)} is wanted.")
        return WRONG
    made = {}
    for key, word in value.items():
        if type(key) is bool or not _NUMBER.fullmatch(str(key)):
            notes.wrong(f"{path}:{describe(key)}", "is no number of an Xid, which is a whole number such as 94.")
        elif word not in TREATMENTS:
            notes.wrong(f"{path}:{key}", f"is {describe(word)}, which is no treatment of an Xid.{did_you_mean(word, TREATMENTS)}")
        elif str(int(key)) in made:
            notes.wrong(f"{path}:{key}", "is given twice.")
        else:
            made[str(int(key))] = word
    return made if len(made) == len(value) else WRONG


_FIELD = Field(
    "options",
    fields={
        "on_failed": choice(
            "What becomes of a failed slice or GPU: it is told, or not handed out any more.", "report", "report", "quarantine"
        ),
        "consumers": choice("What becomes of who has a quarantined slice and can have no other.", "keep", "keep", "stop"),
        "fail_on": choice("From which status on the state gpu_health.healthy fails.", "failed", "failed", "degraded", "never"),
        "clean_looks": number("Looks in turn that must see nothing of a fault before it is over.", _CLEAN_LOOKS, 1, 1000),
        "xids": Field("own", "Number of an Xid -> what it is taken for.", {}, check=_xids),
    },
)
