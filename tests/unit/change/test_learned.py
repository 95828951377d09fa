"""How long steps took on this host, as far as the history can be believed."""

import math
import pathlib
import statistics

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import costs
from gpuslice.change import learned
from gpuslice.host.real import RealHost
from gpuslice.model import Key
from gpuslice.plan import Part
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.records.history import History

GPU, MODEL = "0000:07:00.0", "A board"
KIND = ("mig", "create_gi", MODEL)
SECONDS = st.floats(0, 86_000, allow_nan=False)


@pytest.fixture
def host(tmp_path):
    return RealHost(str(tmp_path / "state"))


def row(seconds, **other):
    return {"technique": "mig", "action": "create_gi", "model": MODEL, "seconds": seconds, **other}


def plan(*actions):
    steps = tuple(Step(GPU, "mig", action, {}, action, seconds=2.0, source=costs.GUESS) for action in actions)
    return Plan((Part(Key.of_gpu("mig", GPU), (GPU,), MODEL, steps),))


def recorded(host, *seconds):
    History(host).record({"result": "applied", "times": [row(each) for each in seconds]})


@given(st.lists(SECONDS, min_size=1, max_size=60))
def test_a_median_is_the_one_in_the_middle_or_the_mean_of_two(numbers):
    assert math.isclose(learned.median(numbers), statistics.median(numbers), abs_tol=1e-9)
    assert min(numbers) <= learned.median(numbers) <= max(numbers)


@given(st.lists(st.one_of(SECONDS, st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3)), max_size=20))
@example([10**400, -(10**400)])
def test_no_negative_or_endless_number_is_believed(numbers):
    believed = [seconds for _, seconds in learned._believed([row(each) for each in numbers])]
    assert all(math.isfinite(each) and 0 <= each < 86_400 for each in believed)
    assert len(believed) == sum(type(each) in (int, float) and 0 <= each < 86_400 for each in numbers)


@pytest.mark.parametrize("rows", [None, 3, "x", {}, [None, 3, [], {}], [row(1, model=None)], [row(1, action=["a"])]])
def test_rows_of_another_form_tell_nothing(rows):
    assert list(learned._believed(rows)) == []


def test_three_times_make_a_median_and_two_do_not(host):
    recorded(host, 0.5, 0.1)
    assert learned.estimated(host, plan("create_gi"), {}) == plan("create_gi")
    recorded(host, 0.4)
    [step] = learned.estimated(host, plan("create_gi"), {}).steps
    assert (step.seconds, step.source) == (0.4, costs.MEASURED)
    [kept] = learned.estimated(host, plan("destroy_gi"), {}).steps
    assert (kept.seconds, kept.source) == (2.0, costs.GUESS)


def test_the_history_is_read_once_for_what_is_asked_for_twice(host):
    known = {}
    assert learned.estimated(host, plan("create_gi"), known) == plan("create_gi")
    recorded(host, 0.1, 0.2, 0.3)
    assert learned.estimated(host, plan("create_gi"), known) == plan("create_gi") and known == {KIND: None}
    assert learned.estimated(host, plan("create_gi"), {}) != plan("create_gi")


def test_another_model_says_nothing_of_this_one(host):
    History(host).record({"times": [row(9.0, model="Another board")] * 3})
    assert learned.estimated(host, plan("create_gi"), {}) == plan("create_gi")


def test_the_newest_count_and_no_more_than_enough_are_read(host):
    recorded(host, *[9.0] * learned.ENOUGH)
    recorded(host, *[1.0] * learned.ENOUGH)
    pathlib.Path(host.state_dir, "history", "000001.json").chmod(0o777)  # which would be refused if it were read
    assert learned.times(host, {KIND}) == {KIND: [1.0] * learned.ENOUGH}


BROKEN = ["{", "[]", '{"format": 99}', '{"format": 2, "times": [{"seconds": NaN}]}', "\x00", "[" * 99999]


@pytest.mark.parametrize("text", BROKEN)
def test_a_damaged_history_keeps_no_plan_from_being_made(host, text):
    recorded(host, 0.1, 0.2, 0.3)
    pathlib.Path(host.state_dir, "history", "000002.json").write_text(text, encoding="utf-8")
    [step] = learned.estimated(host, plan("create_gi"), {}).steps
    assert step.seconds == 0.2


def test_a_history_that_another_user_can_write_keeps_none_either(host):
    recorded(host, 0.1, 0.2, 0.3)
    pathlib.Path(host.state_dir, "history").chmod(0o777)
    assert learned.estimated(host, plan("create_gi"), {}) == plan("create_gi")


def test_where_an_estimate_comes_from_is_told_by_what_most_of_it_goes_by():
    def of(**shares):
        steps = tuple(Step(GPU, "mig", "a", {}, "a", seconds=each, source=name) for name, each in shares.items())
        return Plan((Part(Key.of_gpu("mig", GPU), (GPU,), MODEL, steps),)).estimate

    assert of(guess=1.0, public=2.0) == "public and guess"
    assert of(guess=0.01, public=2.0) == "public"
    assert of(guess=0.0) == "guess" and Plan().estimate == ""


def test_every_figure_is_somebodys_or_a_guess():
    assert {costs.source(name) for name in costs.COSTS} == {costs.PUBLIC, costs.GUESS}
    assert costs.source("create_gi") == costs.PUBLIC and costs.source("reset") == costs.source("end_process") == costs.GUESS
