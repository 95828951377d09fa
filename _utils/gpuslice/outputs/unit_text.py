"""
Text of unit files as systemd and Quadlet read it: how values are written so that they survive, and a small strict reader.

Sources: systemd.syntax(7), systemd.exec(5) on ``Environment=``; that what is not valid UTF-8, or has a character that Unicode
reserves, is left out line by line: ``unichar_is_valid`` in systemd's ``src/basic/utf8.c``.
"""

import re
import shlex
from typing import NamedTuple

from gpuslice import errors

#: What systemd takes for true: ``parse_boolean`` in its ``src/basic/parse-util.c``.
_TRUE = ("1", "yes", "y", "true", "t", "on")
#: Words that mean themselves without quotes.
_SIMPLE = re.compile(r"[A-Za-z0-9_./:@,=+-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: A key with its value; extensions of others begin with "X-".
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_SECTION = re.compile(r"\[([A-Za-z0-9-]+)\]")


class Setting(NamedTuple):
    """A line ``key=value`` of a unit. :ivar line: its number; of a value of several lines, that of the first."""

    section: str
    key: str
    value: str
    line: int


class Malformed(ValueError):
    """A text is no unit file. :ivar line: number of the line that is none; :ivar why: what is wrong with it."""

    def __init__(self, line: int, why: str):
        self.line, self.why = line, why
        super().__init__(f"line {line}: {why}")


def settings(text: str) -> list[Setting]:
    """
    All settings of a unit file, in its order. Stricter than systemd, which passes over what it does not know.

    :raises Malformed: a line is neither empty, comment, section nor ``key=value``.
    """
    found: list[Setting] = []
    section, begun, first = "", "", 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not begun):
            continue
        whole, first = begun + line, first if begun else number
        if whole.endswith("\\"):
            begun = whole[:-1] + " "
            continue
        begun = ""
        if header := _SECTION.fullmatch(whole):
            section = header[1]
            continue
        found.append(_setting(section, whole, first))
    if begun:
        raise Malformed(first, "it ends in a backslash, and there is no next line")
    return found


def _setting(section: str, line: str, number: int) -> Setting:
    key, equals, value = line.partition("=")
    if not equals or not _KEY.fullmatch(key.strip()):
        raise Malformed(number, "it is neither a section nor key=value")
    if not section:
        raise Malformed(number, "it stands before the first section")
    return Setting(section, key.strip(), value.strip(), number)


def values(found: list[Setting], section: str, key: str) -> list[str]:
    """What a list has in the end: an empty value forgets those before it."""
    listed: list[str] = []
    for setting in found:
        if (setting.section, setting.key) == (section, key):
            listed = [*listed, setting.value] if setting.value else []
    return listed


def is_true(value: str) -> bool:
    """Whether systemd reads this as yes."""
    return value.strip().lower() in _TRUE


def words(value: str) -> list[str]:
    """The words of a list, without their quotes; parted by blanks alone where the quotes are not closed."""
    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def raw(value: str, what: str) -> str:
    """
    A value as somebody wrote it for a unit file, specifiers (``%h``) and quotes with it.

    :param what: whose value, for the sentence.
    :raises errors.PolicyError: it would not stay one line, or not be read as it is.
    """
    if not value.isprintable():
        odd = next(sign for sign in value if not sign.isprintable())
        raise errors.PolicyError(
            f"{what} has the character {ascii(odd)}, which no unit file can hold.", todo="Leave it out."
        )
    if value.endswith("\\"):
        raise errors.PolicyError(f"{what} ends in a backslash, which would join it to the next line of a unit file.")
    if value != value.strip():
        raise errors.PolicyError(f"{what} begins or ends in a blank, which a unit file does not keep.")
    return value


def plain(value: str, what: str) -> str:
    """
    A value that means itself, for keys that take one value and no list: ``%`` begins no specifier.

    :param what: whose value, for the sentence. :raises errors.PolicyError: as :func:`raw`.
    """
    return raw(value, what).replace("%", "%%")


def quoted(word: str, what: str) -> str:
    """
    A word of a list, such as a path: blanks, quotes, backslashes and ``%`` mean themselves.

    :param what: whose word, for the sentence. :raises errors.PolicyError: it has a character that is no visible one.
    """
    if _SIMPLE.fullmatch(word):
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"')
    # In quotes nothing is left that the end of a line could take away, so this only looks at the characters.
    return plain(f'"{inner}"', what)


def assignment(name: str, value: str, what: str) -> str:
    """
    A variable for ``Environment=``. A ``$`` means itself there.

    :param what: whose variable, for the sentence. :raises errors.PolicyError: no name of a variable, or as :func:`quoted`.
    """
    if not _VARIABLE.fullmatch(name):
        raise errors.PolicyError(f"{what} can't have the variable {ascii(name)}: letters, digits and '_' make a name.")
    return quoted(f"{name}={value}", f"{what}: variable {name}")
