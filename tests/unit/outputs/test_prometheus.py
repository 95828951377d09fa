"""Text of metrics, read back by the reference parser of Prometheus' own client."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gpuslice.outputs.prometheus import COUNTER
from gpuslice.outputs.prometheus import GAUGE
from gpuslice.outputs.prometheus import Family
from gpuslice.outputs.prometheus import Sample
from gpuslice.outputs.prometheus import text
from gpuslice.printable import printable

NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
VALUES = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=True, allow_infinity=True))
SAMPLES = st.builds(Sample, st.dictionaries(NAMES, st.text(), max_size=3), VALUES)


def parsed(told):
    """(name, labels, value) of each series that the reference parser finds."""
    found = [sample for family in text_string_to_metric_families(told) for sample in family.samples]
    assert all(sample.timestamp is None for sample in found)
    return [(sample.name, sample.labels, float(sample.value)) for sample in found]


def one(*samples, name="gpuslice_x", about="What it is.", kind=GAUGE):
    return Family(name, about, kind, tuple(samples))


@given(st.lists(SAMPLES, max_size=6), st.text())
def test_what_is_written_is_read_back(samples, about):
    told = text([one(*samples, about=about)])
    expected = {}
    for sample in samples:
        labels = {name: printable(value) for name, value in sample.labels.items()}
        if math.isfinite(sample.value):
            expected.setdefault(tuple(labels.items()), (labels, float(sample.value)))
    found = parsed(told)
    assert sorted((sorted(labels.items()), value) for _, labels, value in found) == sorted(
        (sorted(labels.items()), value) for labels, value in expected.values()
    )
    assert all(name == "gpuslice_x" for name, _, _ in found)
    assert told.endswith("\n") or not told
    told.encode()


@pytest.mark.parametrize("value", ['"quoted"', "back\\slash", "two\nlines", "\\n", 'end\\"', "\x1b[31m", "\ud800", "é", ""])
def test_labels_survive_whatever_firmware_calls_a_board(value):
    [(_, labels, _)] = parsed(text([one(Sample({"model": value}, 1))]))
    assert labels == {"model": printable(value)}


def test_the_whole_of_it():
    families = [
        one(Sample({"b": "2", "a": "x"}, 0.25), Sample({"b": "1", "a": "y"}, 3), name="z_ratio"),
        one(Sample({}, 7), name="a_total", about="Back\\slash, and\nlines.", kind=COUNTER),
        one(name="nothing"),
    ]
    assert text(families) == (
        "# HELP a_total Back\\\\slash, and lines.\n# TYPE a_total counter\na_total 7\n"
        '# HELP z_ratio What it is.\n# TYPE z_ratio gauge\nz_ratio{b="1",a="y"} 3\nz_ratio{b="2",a="x"} 0.25\n'
    )
    assert text(reversed(families)) == text(families)
    assert text([]) == ""


def test_a_series_is_told_once_since_the_whole_file_would_be_refused():
    assert parsed(text([one(Sample({"a": "x\n"}, 1), Sample({"a": "x "}, 2))])) == [("gpuslice_x", {"a": "x "}, 1.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(value):
    assert text([one(Sample({}, value))]) == ""


@pytest.mark.parametrize("value", [True, 2**80, 1e300, 1e-300, 0.1 + 0.2])
def test_every_number_comes_back_as_it_was(value):
    [(_, _, found)] = parsed(text([one(Sample({}, value))]))
    assert found == float(value)


@pytest.mark.parametrize("families", [[one(name="no-name")], [one(name="")], [one(), one()]])
def test_a_wrong_or_doubled_name_is_no_metric(families):
    with pytest.raises(ValueError, match="name"):
        text(families)


@pytest.mark.parametrize("label", ["no-name", "__own", "", "1a"])
def test_a_wrong_label_is_none(label):
    with pytest.raises(ValueError, match="label"):
        text([one(Sample({label: "x"}, 1))])
