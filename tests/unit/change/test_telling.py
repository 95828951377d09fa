"""What is told of a change while it goes on, to whoever listens."""

import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from gpuslice.change.telling import Telling
from gpuslice.change.telling import plain
from gpuslice.plan import Plan
from gpuslice.rules import Options
from gpuslice.secret import Secret

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJsaWNlbnNlIjoiMTIzNDU2Nzg5MCJ9.abcdefgh"
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner), st.dictionaries(st.text() | st.integers(), inner)),
    max_leaves=10,
)


@given(VALUES)
def test_whatever_it_is_json_can_have_it(value):
    found = plain(value)
    assert json.dumps(found) and plain(found) == found or "nan" in json.dumps(found).lower()


def test_no_secret_is_in_an_event():
    told = json.dumps(plain({"words": f"write {TOKEN}", "more": [Secret("hush-hush")], TOKEN: 1}))
    assert TOKEN not in told and "hush" not in told and "sha256:" in told


def test_a_long_text_is_cut_and_a_line_stays_one():
    assert plain("x" * 5000) == f"{'x' * 1000}..." and plain("a\nb\x1b") == "a b\\x1b"
    assert len(plain(list(range(9999)))) == 500


def test_who_can_not_be_told_is_dropped_and_said_once(caplog):
    def gone(*_):
        raise OSError("the bus is gone")

    telling = Telling(Options(events=gone, progress=gone))
    with caplog.at_level(logging.WARNING):
        telling.begin(1, "", Plan())
        telling.line("a")
        telling.event("step", dict)
        telling.event("step", lambda: 1 / 0)
    assert [record.message for record in caplog.records] == ["progress could not be told"]
