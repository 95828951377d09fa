"""
The text of gridd.conf, which tells NVIDIA's licence daemon in a guest where its licence comes from: what it says, and what it
becomes when some of its keys are to have our values. Pure functions.

Our lines stand at the end, below a comment that tells them. A line of somebody else's with the same key becomes a comment while
ours is there, and comes back as it was when ours goes: every other line stays as it is.
"""

import re

SERVER, PORT, FEATURE = KEYS = ("ServerAddress", "ServerPort", "FeatureType")
#: Where the daemon looks for client configuration tokens, when it is not the usual place.
TOKEN_PATH = "ClientConfigTokenPath"
#: The port that the daemon takes without a line for it.
DEFAULT_PORT = "7070"

_HEAD = "# Set by Salt (GPU slicing):"
#: The same in a file that was not there before, so that it goes with our lines.
_HEAD_OF_OURS = "# Set by Salt (GPU slicing), which also made this file:"
_ASIDE = "# Kept by Salt (GPU slicing): "
_LINE = re.compile(rf"\s*({'|'.join((*KEYS, TOKEN_PATH))})\s*=\s*(.*?)\s*$")


def values(text):
    """
    What a configuration says.

    :param text: of the file, None where there is none.
    :return: value of each key of :data:`KEYS` and of :data:`TOKEN_PATH`, "" for one that is not set. A server without a port has
        the usual one. Lines that contradict each other are all told, so that they equal nothing that may be wanted.
    """
    told = {key: [] for key in (*KEYS, TOKEN_PATH)}
    for line in _lines(text or ""):
        key, value = _pair(line)
        if key and value not in told[key]:
            told[key].append(value)
    found = {key: " and ".join(each) for key, each in told.items()}
    if found[SERVER] and not found[PORT]:
        found[PORT] = DEFAULT_PORT
    return found


def _pair(line):
    """(key, value) of a line that sets one of the keys, ("", "") of any other."""
    found = _LINE.match(line)
    return (found[1], found[2].strip("\"'")) if found else ("", "")


def rewritten(text, template, wanted):
    """
    The file with these values.

    :param text: of the file now, None where there is none; :param template: text that a new file begins with.
    :param wanted: key of :data:`KEYS` -> value; "" where no line of ours is wanted.
    :return: its new text, None where no file is wanted. Lines of ours that are not needed go; all others stay.
    """
    lines, made = _others(text) if text is not None else (_lines(template), True)
    there = values("\n".join(lines))
    ours = [key for key in KEYS if wanted.get(key) and there[key] != wanted[key]]
    if SERVER in ours and wanted.get(PORT) and PORT not in ours:
        # A server of ours does not lean on somebody else's port, nor on the usual one.
        ours.append(PORT)
    if not ours:
        return None if text is None or (made and lines == _lines(template)) else _joined(lines)
    kept = [f"{_ASIDE}{line}" if _pair(line)[0] in ours else line for line in lines]
    return _joined([*kept, _HEAD_OF_OURS if made else _HEAD, *(f"{key}={wanted[key]}" for key in KEYS if key in ours)])


def _others(text):
    """(lines that are not ours, whether the file was made by us)."""
    found, made, ours = [], False, False
    for line in _lines(text):
        if line in (_HEAD, _HEAD_OF_OURS):
            ours, made = True, made or line == _HEAD_OF_OURS
            continue
        # Ours are those that follow the comment directly.
        ours = ours and _pair(line)[0] in KEYS
        if not ours:
            found.append(line.removeprefix(_ASIDE))
    return found, made


def _lines(text):
    """The lines of a text. Only line feeds end one, so that whatever else is in it stays."""
    return text.removesuffix("\n").split("\n") if text else []


def _joined(lines):
    return "".join(f"{line}\n" for line in lines)
