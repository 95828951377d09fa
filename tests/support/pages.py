"""
What the documents show, for tests that hold it against what comes out. A command is looked for in all of them, so that a section
can move from page to page.
"""

import re

from tests.conftest import ROOT


def page(name):
    """The text of a document: ``README``, or one of ``docs``."""
    path = ROOT / "README.md" if name == "README" else ROOT / "docs" / f"{name}.md"
    return path.read_text(encoding="utf-8")


def section(name, heading):
    """The text under a heading of a document, ``## ...`` or ``### ...``, to the next one that is no deeper."""
    depth, rest = re.search(rf"^(##+) {re.escape(heading)}\n(.*)", page(name), re.M | re.S).groups()
    return re.split(rf"^##{{1,{len(depth) - 1}}} ", rest, maxsplit=1, flags=re.M)[0]


def blocks(text, begins=""):
    """The YAML blocks of a text, those that begin with this line."""
    begins = f"{re.escape(begins)}\n" if begins else ""
    return re.findall(rf"^```yaml\n({begins}.*?)^```$", text, re.M | re.S)


def printed(command):
    """The lines that a document has below ``$ salt-call <command>``, without its indentation and the minion's name."""
    head = f"    $ salt-call {command}\n"
    [below] = [text.split(head)[1] for text in map(page, _names()) if head in text]
    lines = []
    for line in below.splitlines():
        if not line.startswith("    ") or line.startswith("    $"):
            break
        lines.append(line[4:])
    return [line.removeprefix("    ") for line in lines[1:]] if lines[0] == "local:" else lines


def _names():
    return ["README", *sorted(path.stem for path in (ROOT / "docs").glob("*.md"))]
