"""
The defects that are put into the source to see whether tests notice: what they are, and that documentation and messages are left.
"""

import textwrap

import pytest

from tests.mutation import defects


def changed(source):
    """The lines that change, as {(was, becomes)}, for all defects of a source."""
    text = textwrap.dedent(source).encode()
    found = defects.find("x.py", text, {"Unsupported", "StepFailed"})
    assert len({defect.key for defect in found}) == len(found)
    return {(defect.was, defect.becomes) for defect in found}


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("if a and b:", {"if not (a and b):", "if a or b:"}),
        ("if a == 1:", {"if not (a == 1):", "if a != 1:", "if a == 2:", "if a == 0:"}),
        ("while a < b:", {"while not (a < b):", "while a <= b:", "while a >= b:"}),
        ("if not a:", {"if not (not a):", "if (a):"}),
        ("if a not in b:", {"if not (a not in b):", "if a in b:"}),
        ("with lock():", {"if True:"}),
        ("for x in [a, b]:", {"for x in [b,]:", "for x in [a,]:"}),
    ],
)  # fmt: skip
def test_conditions_and_what_is_entered(was, becomes):
    assert {new for old, new in changed(f"{was}\n    x = 1\n") if old == was} == becomes


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("os.fsync(handle)", {"pass"}),
        ("self.done = found", {"pass"}),
        ("return found", {"return None"}),
        ('raise errors.Unsupported("no " + words, gpu)', {"pass", 'raise errors.StepFailed("no " + words, gpu)'}),
        ('KINDS = ("a", "b")', {'KINDS = ("b",)', 'KINDS = ("a",)'}),
        ("open(path, 0o644)", {"pass", "open(path, 0o666)"}),
        ('x = found["name"]', {"x = found['name_']"}),
        ("x = min(a, force=True)", {"x = max(a, force=True)", "x = min(a)", "x = min(a, force=False)"}),
    ],
)
def test_statements_and_values(was, becomes):
    assert {new for old, new in changed(f"def f():\n    {was}\n") if old == was} == becomes


def test_what_a_reader_reads_is_left_as_it_is():
    source = '''
        """Words."""
        import os
        from __future__ import annotations

        def f(a: int = None) -> list[int]:
            """Words 1 and 2."""
            log.warning("words %s", a or 1)
            x: dict[str, int] = g(f"{a or 1} words")
    '''
    assert changed(source) == set()


def test_a_defect_is_known_by_its_line_wherever_that_stands():
    [one] = [defect.key for defect in defects.find("x.py", b"def f():\n    g(a)\n")]
    below = defects.find("x.py", b"def e():\n    h = 7\n\n\ndef f():\n    g(a)\n")
    [moved] = [defect.key for defect in below if "g(a)" in defect.was]
    assert one == moved


def test_what_is_no_python_any_more_is_told():
    assert defects.compiles(b"x = 1") and not defects.compiles(b"x = = 1")
