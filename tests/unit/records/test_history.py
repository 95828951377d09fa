"""The history of changes that ended, against real files."""

import pathlib

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.records.history import GENERATIONS
from gpuslice.records.history import History


@pytest.fixture
def history(place):
    return History(RealHost(str(place)))


def test_a_host_on_which_nothing_was_done_has_no_history(history, place):
    assert history.all() == [] and history.upcoming() == 1
    assert not place.exists()


def test_generations_are_numbered_and_told_oldest_first(history):
    numbers = [history.record({"who": name, "result": "applied"}) for name in ("a", "b", "c")]
    assert numbers == [1, 2, 3]
    assert [(found["generation"], found["who"]) for found in history.all()] == [(1, "a"), (2, "b"), (3, "c")]
    assert history.generation(2) == {"generation": 2, "who": "b", "result": "applied"}


def test_the_history_is_pruned_to_its_length_and_numbers_go_on(history):
    for number in range(GENERATIONS + 5):
        history.record({"who": str(number)})
    assert [found["generation"] for found in history.all()] == list(range(6, GENERATIONS + 6))
    assert history.record({"who": "next"}) == GENERATIONS + 6


def test_a_generation_that_is_not_there_says_which_are(history):
    history.record({"who": "a"})
    with pytest.raises(errors.PolicyError, match="no generation 7.*Generations: 1"):
        history.generation(7)


def test_a_damaged_generation_hides_no_other(history, place):
    for name in ("a", "b"):
        history.record({"who": name})
    (place / "history" / "000001.json").write_text("{cut")
    found = history.all()
    assert found[0]["generation"] == 1 and "can't be read" in found[0]["error"]
    assert found[1]["who"] == "b"
    with pytest.raises(errors.JournalDamaged, match="Generation 1"):
        history.generation(1)
    assert history.record({"who": "c"}) == 3


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b"\xff\xfe"])
def test_a_generation_that_is_json_but_no_generation_is_told_as_damaged(history, place, content):
    history.record({"who": "a"})
    (place / "history" / "000001.json").write_bytes(content)
    [found] = history.all()
    assert found["generation"] == 1 and found["error"]


def test_other_files_in_the_history_are_left_alone(history, place):
    history.record({"who": "a"})
    for name in ("notes.txt", "x.json", "000009.json.77.new"):
        pathlib.Path(place / "history" / name).write_text("mine")
    assert [found["generation"] for found in history.all()] == [1]
    assert history.record({"who": "b"}) == 2
