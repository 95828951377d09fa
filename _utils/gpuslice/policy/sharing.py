"""
Whom the pillar names as one that may set the same GPUs: a tool that is known, or a unit or file of somebody else. Loaded only
where that is written.
"""

import re

from gpuslice import shape
from gpuslice.catalog.owners import BY_NAME
from gpuslice.policy.check import WRONG
from gpuslice.policy.notes import did_you_mean
from gpuslice.values import describe

_NAMES = tuple(name for name, row in BY_NAME.items() if not row.never)
#: A unit, or the path of a rule or script, as gpu_slicing.owners names them.
_UNIT, _FILE = rf"{shape.UNIT_NAME}", r"/[^\x00-\x1f\x7f-\x9f]{1,250}"


def owner(value, path, notes):
    """Check the name of an owner."""
    row = BY_NAME.get(value) if isinstance(value, str) else None
    if row and row.never:
        notes.wrong(path, f"is {value}, which {row.never}: {row.todo}.")
        return WRONG
    if meant := next((name for name, each in BY_NAME.items() if value in each.units), ""):
        notes.wrong(path, f"is {value}, a unit of {meant}: write {meant}.")
        return WRONG
    if row or (isinstance(value, str) and (re.fullmatch(_FILE, value) or ("." in value and re.fullmatch(_UNIT, value)))):
        return value
    more = "Or name a unit or a file as 'salt-call gpu_slicing.owners' shows it."
    notes.wrong(path, f"is {describe(value)}, which is nobody that is known here.{did_you_mean(value, _NAMES)} {more}")
    return WRONG


def schema():
    """The name of an owner in JSON Schema's terms."""
    return {"anyOf": [{"enum": list(_NAMES)}, {"type": "string", "pattern": f"^(?:{_UNIT}|{_FILE})$"}]}
