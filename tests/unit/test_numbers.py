"""Whole numbers in texts of others: what is none, or can't be one, is never an exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import numbers
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers import sriov_files
from gpuslice.host.real import RealHost


@pytest.mark.parametrize(("text", "number"), [("0", 0), (" 17\n", 17), ("-1", -1), ("007", 7), (str(2**64 - 1), 2**64 - 1)])
def test_a_whole_number_is_read(text, number):
    assert numbers.whole(text) == number


@pytest.mark.parametrize(
    "text", ["", "-", "1.5", "1e3", "0x10", "²", "٣", "+1", "1_000", "1 2", "--1", str(2**64), "9" * 5000, "1" + "0" * 23]
)
def test_anything_else_is_none(text):
    assert numbers.whole(text) is None


def test_a_count_has_its_noun_in_the_right_number():
    assert [numbers.many(count, "step") for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


def test_what_it_can_be_at_most_is_the_callers():
    assert numbers.whole("65535", 65535) == 65535 and numbers.whole("65536", 65535) is None


@given(st.text())
def test_no_text_is_an_exception(text):
    found = numbers.whole(text)
    assert found is None or (isinstance(found, int) and str(abs(found)) in text)
    assert isinstance(sriov_files._value(text), int | str | None)


@pytest.fixture
def file(tmp_path):
    """``file("text")``: (host, path of a file with that text below the directory of a GPU)."""
    place = tmp_path / "0000:03:00.0"
    place.mkdir()

    def make(text):
        (place / "number").write_text(text, encoding="utf-8")
        return RealHost(str(tmp_path / "state")), str(place / "number")

    return make


def test_a_file_of_the_kernel_is_a_number_nothing_or_a_sentence(file):
    assert kernel.number(*file("4\n")) == 4
    host, path = file("")
    assert kernel.number(host, path) is None and kernel.number(host, path + "s") is None
    for text in ("²", "many", "9" * 5000):
        with pytest.raises(errors.DriverError) as caught:
            kernel.number(*file(text))
        assert caught.value.gpu == "0000:03:00.0" and path in str(caught.value) and text[:40] in str(caught.value)
    with pytest.raises(errors.DriverError, match="at most 65535"):
        kernel.number(*file("65536"), pci.MOST)


@pytest.mark.parametrize("said", ["N/A", "-1", "unlimited", "٣", "1 2", "[auto] none"])
@pytest.mark.parametrize("field", sorted({*sriov_files.QUOTAS, *sriov_files.SCHEDULING} - {"priority"}))
def test_what_a_driver_says_of_a_function_is_a_number_or_a_sentence(tmp_path, field, said):
    """It is added up and compared: a word there ended the whole run, of all GPUs, without a sentence."""
    (tmp_path / "value").write_text(said, encoding="utf-8")
    files = sriov_files.Files("made", str(tmp_path), (sriov_files.Attribute("value", 1, field),))
    with pytest.raises(errors.DriverError, match="can't be true: it is a number of 0 or more"):
        sriov_files.read(RealHost(str(tmp_path / "state")), files)
    (tmp_path / "value").write_text("0x10\n", encoding="utf-8")
    assert sriov_files.read(RealHost(str(tmp_path / "state")), files) == {"value": 16}


def test_a_priority_is_a_word(tmp_path):
    (tmp_path / "value").write_text("low [normal] high\n", encoding="utf-8")
    files = sriov_files.Files("made", str(tmp_path), (sriov_files.Attribute("value", 1, "priority"),))
    assert sriov_files.read(RealHost(str(tmp_path / "state")), files) == {"value": "normal"}
