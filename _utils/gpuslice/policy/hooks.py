"""
What a site has run before and after a change, in the pillar's words. Loaded only where it is written.
"""

import re

from gpuslice.policy.check import WRONG
from gpuslice.policy.notes import did_you_mean
from gpuslice.printable import printable
from gpuslice.values import describe

#: Seconds that one may take, at most and where nothing is written.
LONGEST, SECONDS = 3600, 60
_KEYS = ("command", "function", "args", "kwargs", "timeout")
_FUNCTION = r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*"
_MOST = 20
_WANTED = (
    "an argument list such as [/usr/bin/drain, --node], or a mapping with command or function, is wanted; no shell reads it."
)


def hooks(value, path, notes):
    """Check ``before`` or ``after``. Each becomes a mapping of command or of function, args and kwargs, and of timeout."""
    if not isinstance(value, list | tuple):
        notes.wrong(path, f"is {describe(value)}; a list of commands and functions is wanted.")
        return WRONG
    if len(value) > _MOST:
        notes.wrong(path, f"has {len(value)} entries; {_MOST} at most are run.")
        return WRONG
    made = [_hook(each, f"{path}:{place}", notes) for place, each in enumerate(value)]
    return WRONG if WRONG in made else made


def schema():
    """``before`` and ``after`` in JSON Schema's terms."""
    command = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    timeout = {"type": "integer", "minimum": 1, "maximum": LONGEST, "default": SECONDS}
    one = {
        "type": "object",
        "properties": {
            "command": {**command, "description": "Program and arguments; no shell reads them."},
            "function": {"type": "string", "pattern": f"^{_FUNCTION}$", "description": "Execution function of Salt."},
            "args": {"type": "array", "description": "Its arguments."},
            "kwargs": {"type": "object", "description": "Its arguments by name."},
            "timeout": {**timeout, "description": "Seconds that it may take."},
        },
        "oneOf": [{"required": ["command"]}, {"required": ["function"]}],
        "additionalProperties": False,
    }
    return {"type": "array", "items": {"anyOf": [command, one]}, "maxItems": _MOST}


def _hook(value, path, notes):
    if isinstance(value, list | tuple):
        command = _command(value, path, notes)
        return command if command is WRONG else {"command": command, "timeout": SECONDS}
    if not isinstance(value, dict):
        notes.wrong(path, f"is {describe(value)}; {_WANTED}")
        return WRONG
    if strange := [key for key in value if key not in _KEYS]:
        for key in strange:
            notes.wrong(f"{path}:{key}", f"is not a known key.{did_you_mean(key, _KEYS)}")
        return WRONG
    if ("command" in value) == ("function" in value):
        both = "command" in value
        notes.wrong(path, "has both command and function; give one of them." if both else f"says nothing to run: {_WANTED}")
        return WRONG
    timeout = value.get("timeout", SECONDS)
    if type(timeout) is not int or not 1 <= timeout <= LONGEST:
        notes.wrong(f"{path}:timeout", f"is {describe(timeout)}; a whole number of seconds from 1 to {LONGEST} is wanted.")
        return WRONG
    if "command" in value:
        return _of_command(value, timeout, path, notes)
    return _of_function(value, timeout, path, notes)


def _of_command(value, timeout, path, notes):
    if odd := [key for key in ("args", "kwargs") if key in value]:
        notes.wrong(f"{path}:{odd[0]}", "is for a function; the arguments of a command stand in its list.")
        return WRONG
    command = _command(value["command"], f"{path}:command", notes)
    return command if command is WRONG else {"command": command, "timeout": timeout}


def _of_function(value, timeout, path, notes):
    name, args, kwargs = value["function"], value.get("args", []), value.get("kwargs", {})
    if not isinstance(name, str) or not re.fullmatch(_FUNCTION, name):
        notes.wrong(f"{path}:function", f"is {describe(name)}; an execution function such as site.drain is wanted.")
        return WRONG
    if not isinstance(args, list | tuple):
        notes.wrong(f"{path}:args", f"is {describe(args)}; a list is wanted.")
        return WRONG
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        notes.wrong(f"{path}:kwargs", f"is {describe(kwargs)}; a mapping of names to values is wanted.")
        return WRONG
    return {"function": name, "args": list(args), "kwargs": dict(kwargs), "timeout": timeout}


def _command(value, path, notes):
    if not isinstance(value, list | tuple) or not value:
        notes.wrong(path, f"is {'empty' if value == [] else describe(value)}; {_WANTED}")
        return WRONG
    for place, each in enumerate(value):
        if not isinstance(each, str):
            notes.wrong(f"{path}:{place}", f"is {describe(each)}; a text is wanted. Put it in quotes.")
            return WRONG
        if "\0" in each or (not place and printable(each) != each):
            notes.wrong(f"{path}:{place}", f"is {describe(each)}, which no program can be given.")
            return WRONG
    if not value[0].startswith("/"):
        notes.wrong(f"{path}:0", f"is {describe(value[0])}; the program's whole path is wanted, which begins with '/'.")
        return WRONG
    return list(value)
