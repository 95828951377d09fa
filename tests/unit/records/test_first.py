"""How each GPU was first found, against real files."""

import json
import pathlib

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.model import Gpu
from gpuslice.model import Key
from gpuslice.records.first import First
from gpuslice.records.history import GENERATIONS
from gpuslice.records.history import UNDID
from gpuslice.records.history import History
from gpuslice.records.journal import Entry

ONE, TWO = "0000:07:00.0", "0000:0f:00.0"
OFF = {"enabled": False, "instances": []}
ON = {"enabled": True, "instances": []}
MODES = {"compute": "SPX", "memory": "NPS1"}
GPUS = {address: Gpu(address, "nvidia", "20b0", "10de:134f") for address in (ONE, TWO)}


@pytest.fixture
def first(place):
    return First(RealHost(str(place)))


def mig(address):
    return Key(address, "mig")


def begun(before):
    return Entry(0.0, "me", "", 1, "", {"parts": []}, before, {})


def test_a_host_on_which_nothing_was_done_has_none(first, place):
    assert first.found().layouts == {} and first.found().since == 0
    assert not place.exists()


def test_the_first_layout_of_each_key_stays_in_the_order_in_which_they_were_touched(first):
    first.note(begun({mig(TWO): OFF}), GPUS)
    first.note(begun({mig(TWO): ON, mig(ONE): ON}), GPUS)
    assert list(first.found().layouts.items()) == [(mig(TWO), OFF), (mig(ONE), ON)]
    assert first.found().addresses == {mig(TWO): [TWO], mig(ONE): [ONE]}


def test_it_outlasts_the_history_and_is_no_part_of_its_list(first, place):
    first.note(begun({mig(ONE): OFF}), GPUS)
    history = History(RealHost(str(place)))
    assert history.all() == [] and history.upcoming() == 1
    for number in range(GENERATIONS + 3):
        history.record({"who": str(number), "before": {str(mig(ONE)): ON}})
    assert first.found().layouts == {mig(ONE): OFF} and first.found().since == 0
    assert history.all()[0]["generation"] == 4


def test_nothing_is_written_where_all_is_known(first, place):
    first.note(begun({mig(ONE): OFF}), GPUS)
    path = place / "history" / "000000.json"
    before = path.stat()
    first.note(begun({mig(ONE): ON}), GPUS)
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino


def test_another_model_in_a_slot_was_found_by_itself(first):
    first.note(begun({mig(ONE): OFF, mig(TWO): OFF}), GPUS)
    other = Gpu(ONE, "nvidia", "2330", "10de:16c1")
    assert not first.found().is_of(mig(ONE), other)
    first.note(begun({mig(ONE): ON}), {ONE: other})
    assert list(first.found().layouts.items()) == [(mig(TWO), OFF), (mig(ONE), ON)]
    assert first.found().is_of(mig(ONE), other) and first.found().is_of(mig(TWO), GPUS[TWO])


def test_a_host_of_an_older_version_has_it_of_its_oldest_generations(first, place):
    history = History(RealHost(str(place)))
    history.record({"before": {str(mig(ONE)): OFF}, "after": {str(mig(ONE)): ON}})
    history.record({"before": {str(mig(ONE)): ON, str(mig(TWO)): ON}, "after": {}})
    assert first.found().layouts == {mig(ONE): OFF, mig(TWO): ON} and first.found().since == 0
    first.note(begun({Key(ONE, "partition"): MODES}), GPUS)
    assert list(first.found().layouts) == [mig(ONE), mig(TWO), Key(ONE, "partition")]


def test_what_a_host_of_an_older_version_has_of_it_outlasts_its_history(first, place):
    history = History(RealHost(str(place)))
    history.record({"before": {str(mig(ONE)): OFF}, "after": {str(mig(ONE)): ON}})
    for number in range(GENERATIONS + 3):
        # Nothing that was not touched before.
        first.note(begun({mig(ONE): ON}), GPUS)
        history.record({"who": str(number), "before": {str(mig(ONE)): ON}})
    assert first.found().layouts == {mig(ONE): OFF} and first.found().since == 0


def test_what_undid_an_interrupted_change_began_half_way(first, place):
    History(RealHost(str(place))).record({"result": UNDID, "before": {str(mig(ONE)): ON}, "after": {str(mig(ONE)): OFF}})
    assert first.found().layouts == {mig(ONE): OFF}


def test_it_tells_from_where_on_something_is_known_where_the_beginning_is_lost(first, place):
    history = History(RealHost(str(place)))
    for _ in range(GENERATIONS + 2):
        history.record({"before": {str(mig(ONE)): ON}})
    assert first.found().since == 3
    first.note(begun({mig(TWO): OFF}), GPUS)
    assert first.found().since == 3


def test_it_survives_the_format_before_there_were_keys(first, place):
    (place / "history").mkdir(parents=True)
    old = {"techniques": {ONE: "mig"}, "before": {ONE: OFF}, "after": {ONE: OFF}, "generation": 0}
    (place / "history" / "000000.json").write_text(json.dumps(old))
    assert first.found().layouts == {mig(ONE): OFF}


@pytest.mark.parametrize("content", ["{cut", "[]", '{"format": 1, "after": {"mig:0000:07:00.0": {"odd": 1}}}', '{"format": 1}'])
def test_one_that_is_damaged_is_told_and_not_written_over(first, place, content):
    path = pathlib.Path(place, "history", "000000.json")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(errors.JournalDamaged, match="were first found can't be read"):
        first.found()
    first.note(begun({mig(ONE): OFF}), GPUS)
    assert path.read_text() == content
