"""
Text from outside, made fit for a terminal: what a user, a program or firmware chose must not move the cursor, ring the bell,
colour the screen, or look like a line of ours.
"""

import re

#: Most text has nothing else, and is found right in one look.
_PLAIN = re.compile(r"[\n\t -~]*\Z")


def printable(text):
    """
    The text on one line: white space of any kind becomes a space, and characters that are not for printing (control characters,
    marks that turn the direction of writing, halves of surrogates) are written out, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def printable_lines(text):
    """The same, with line breaks and tabs left as they are: for the output of programs and files of several lines."""
    if _PLAIN.match(text):
        return text
    return "".join(char if char in "\n\t" else _shown(char) for char in text)


def _shown(char):
    if char.isprintable():
        return char
    return " " if char.isspace() else char.encode("unicode_escape").decode("ascii")
