"""
What is found while a pillar is read: mistakes and warnings, each with the pillar path where it is.
"""

import difflib

from gpuslice import secret
from gpuslice.printable import printable


class Notes:
    """Collects ``path: sentence`` lines; the same line is kept once, because a rule inherits the host's mistakes."""

    def __init__(self):
        self.mistakes = []
        self.warnings = []

    def wrong(self, path, text):
        """Note a mistake. ``text`` goes on after the path: "is ...", "has ..."."""
        self._add(self.mistakes, path, text)

    def warn(self, path, text):
        """Note something that is allowed and probably not meant."""
        self._add(self.warnings, path, text)

    def take(self, other, warnings):
        """Note the mistakes of other notes too, and their warnings where these count."""
        self.mistakes += [line for line in other.mistakes if line not in self.mistakes]
        self.warnings += [line for line in other.warnings if warnings and line not in self.warnings]

    def mistaken(self, path):
        """Whether a mistake was noted at this path, or below it."""
        return any(line.startswith(f"{path}:") for line in self.mistakes)

    @staticmethod
    def _add(lines, path, text):
        line = secret.redacted(printable(f"{path}: {text}"))
        if line not in lines:
            lines.append(line)


def nearest(word, words, cutoff=0.6):
    """The one of ``words`` that looks most like ``word``, "" when none does; case, ``_`` and ``-`` do not matter."""
    plain = {each.lower().replace("_", "-"): each for each in words}
    near = difflib.get_close_matches(str(word).lower().replace("_", "-"), plain, 1, cutoff)
    return plain[near[0]] if near else ""


def did_you_mean(word, words):
    """The end of a sentence that names the nearest valid word and all of them."""
    near = nearest(word, words)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"{hint} Valid: {', '.join(words)}."
