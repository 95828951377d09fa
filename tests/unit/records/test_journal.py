"""The journal of a change in progress, and the history of those that ended, against real files."""

import json
import os
import pathlib

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.plan import Part
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.records.journal import GENERATIONS
from gpuslice.records.journal import Entry
from gpuslice.records.journal import Journal

GPU = "0000:07:00.0"
STEPS = tuple(Step(GPU, "mig", "create_gi", {"profile": "1g.5gb", "start": start}, f"create at {start}") for start in (1, 2, 3))


def entry(**changes):
    plain = {
        "time": 1.5,
        "who": "gpu_slicing.apply by root",
        "jid": "20260101000000000000",
        "pid": 4711,
        "boot_id": "boot-1",
        "plan": json.loads(json.dumps(Plan((Part(GPU, "mig", steps=STEPS),)).as_dict())),
        "before": {GPU: {"enabled": True, "instances": [["1g.5gb", 0, [["1g.5gb", 0]]]]}},
        "goal": {GPU: {"entries": [["1g.5gb", None, 2]]}},
        "techniques": {GPU: "mig"},
    }
    return Entry(**{**plain, **changes})


@pytest.fixture
def place(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def journal(place):
    return Journal(RealHost(str(place)))


# -- a change in progress ---------------------------------------------------------------------------------------------
def test_a_host_on_which_nothing_was_done_has_nothing_unfinished(journal, place):
    assert journal.unfinished() is None
    assert history.all() == []
    assert not place.exists()


def test_what_was_begun_is_found_by_another_process_with_its_steps(journal, place):
    made = entry()
    journal.begin(made)
    journal.step(made, GPU, 1)
    journal.step(made, GPU, 2)
    assert made.steps == [(GPU, 1), (GPU, 2)]
    found = Journal(RealHost(str(place))).unfinished()
    assert found == entry(steps=[(GPU, 1), (GPU, 2)])


def test_a_new_change_does_not_inherit_steps_of_an_earlier_one(journal):
    first = entry()
    journal.begin(first)
    journal.step(first, GPU, 1)
    journal.begin(entry(pid=4712))
    assert journal.unfinished() == entry(pid=4712)


def test_steps_that_a_crash_between_two_writes_left_belong_to_nobody(journal, place):
    first = entry()
    journal.begin(first)
    journal.step(first, GPU, 1)
    left = (place / "journal.steps").read_bytes()
    journal.begin(entry(pid=4712))
    (place / "journal.steps").write_bytes(left)
    assert journal.unfinished().steps == []


def test_what_ended_is_not_unfinished(journal, place):
    made = entry()
    journal.begin(made)
    journal.step(made, GPU, 1)
    journal.end()
    assert journal.unfinished() is None
    assert list(place.iterdir()) == []
    journal.end()


@given(cut=st.integers(0, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_step_line_cut_short_by_a_crash_counts_as_not_begun(place, cut):
    journal = Journal(RealHost(str(place)))
    journal.begin(entry())
    for number in (1, 2, 3):
        journal.step(entry(), GPU, number)
    path = place / "journal.steps"
    whole = path.read_bytes()
    kept = whole[: min(cut, len(whole))]
    path.write_bytes(kept)
    # A line is written at once with its end; one without counts when its JSON is whole, as its step may have begun.
    complete = [(GPU, n) for n in (1, 2, 3) if len(kept) >= n * (len(whole) // 3) - 1]
    assert journal.unfinished().steps == complete


def test_lines_of_rubbish_in_the_steps_end_what_is_believed(journal, place):
    journal.begin(entry())
    journal.step(entry(), GPU, 1)
    with open(place / "journal.steps", "ab") as handle:
        handle.write(b"\x00\x00\x00\n")
    journal.step(entry(), GPU, 2)
    assert journal.unfinished().steps == [(GPU, 1)]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x00" * 64, b"\xff\xfe", b"[]", b'"text"', b"null", b"{}", b'{"time": 1, "unknown": 2}', b"3"],
    ids=["empty", "cut", "zeros", "no utf-8", "list", "text", "null", "no keys", "other keys", "number"],
)
def test_a_damaged_journal_is_a_sentence_that_says_what_to_do(journal, place, content):
    place.mkdir()
    (place / "journal.json").write_bytes(content)
    with pytest.raises(errors.JournalDamaged) as caught:
        journal.unfinished()
    assert str(place / "journal.json") in str(caught.value)
    assert "gpu.slices" in str(caught.value) and "remove that file" in str(caught.value)


OTHER_FORMS = [
    (key, value)
    for key in ("plan", "before", "goal", "techniques", "time", "pauses", "earlier")
    for value in (None, "text", 3, [3], {"key": 3})
    if (key, value) not in [("time", 3), ("techniques", {"key": 3}), ("goal", {"key": 3})]
]


@pytest.mark.parametrize(("key", "value"), OTHER_FORMS)
def test_a_journal_whose_parts_have_another_form_is_damaged(journal, key, value):
    journal.begin(entry(**{key: value}))
    with pytest.raises(errors.JournalDamaged, match=r"journal\.json.*remove that file"):
        journal.unfinished()


def test_a_journal_that_does_not_tell_by_what_a_gpu_is_sliced_is_damaged(journal):
    journal.begin(entry(techniques={}))
    with pytest.raises(errors.JournalDamaged, match="incomplete"):
        journal.unfinished()


@pytest.mark.parametrize(
    "content", [b'["1.5-4711", "a", 1]\n3\n', b'["a"]\n', b'{"a": 1}\n', b'["1.5-4711", 1, "c"]\n', b"\xff\xfe\n"]
)
def test_step_lines_that_are_json_but_no_steps_are_no_crash(journal, place, content):
    journal.begin(entry())
    (place / "journal.steps").write_bytes(content)
    found = journal.unfinished().steps
    assert all(isinstance(gpu, str) and isinstance(number, int) for gpu, number in found)


def test_the_begin_of_a_change_is_on_the_disk_as_a_whole_or_not_at_all(journal, place):
    journal.begin(entry())
    first = (place / "journal.json").read_text()
    assert json.loads(first)["steps"] == []
    assert [name for name in os.listdir(place) if name.endswith(".new")] == []


# -- a state directory that can't be used -----------------------------------------------------------------------------
def test_a_file_in_place_of_the_directory_is_a_sentence(journal, place):
    place.write_text("in the way")
    with pytest.raises(errors.StateDirUnusable) as caught:
        journal.begin(entry())
    assert str(place) in str(caught.value) and "begin a change" in str(caught.value)
    assert place.read_text() == "in the way"


@pytest.mark.parametrize(
    ("call", "operation", "words"),
    [
        ("store_write", lambda j: j.begin(entry()), "begin a change"),
        ("store_append", lambda j: j.step(entry(), GPU, 1), "record a step"),
        ("store_remove", lambda j: j.end(), "end a change"),
        ("store_write", lambda j: j.record({"who": "me"}), "write the history"),
    ],
)
@pytest.mark.parametrize(("errno", "reason"), [("ENOSPC", "No space left"), ("EROFS", "Read-only"), ("EIO", "Input/output")])
def test_a_disk_that_refuses_is_named_with_the_reason(simulated, call, operation, words, errno, reason):
    host = simulated("no-gpu", faults=[{"call": call, "times": 0, "error": errno}])
    with pytest.raises(errors.StateDirUnusable) as caught:
        operation(Journal(host))
    text = str(caught.value)
    assert words in text and reason in text and host.state_dir in text


# -- history ----------------------------------------------------------------------------------------------------------
def test_generations_are_numbered_and_told_oldest_first(journal):
    numbers = [journal.record({"who": name, "result": "applied"}) for name in ("a", "b", "c")]
    assert numbers == [1, 2, 3]
    assert [(found["generation"], found["who"]) for found in history.all()] == [(1, "a"), (2, "b"), (3, "c")]
    assert journal.generation(2) == {"generation": 2, "who": "b", "result": "applied"}


def test_the_history_is_pruned_to_its_length_and_numbers_go_on(journal):
    for number in range(GENERATIONS + 5):
        journal.record({"who": str(number)})
    assert [found["generation"] for found in history.all()] == list(range(6, GENERATIONS + 6))
    assert journal.record({"who": "next"}) == GENERATIONS + 6


def test_a_generation_that_is_not_there_says_which_are(journal):
    journal.record({"who": "a"})
    with pytest.raises(errors.PolicyError, match="no generation 7.*Generations: 1"):
        journal.generation(7)


def test_a_damaged_generation_hides_no_other(journal, place):
    for name in ("a", "b"):
        journal.record({"who": name})
    (place / "history" / "000001.json").write_text("{cut")
    found = history.all()
    assert found[0]["generation"] == 1 and "can't be read" in found[0]["error"]
    assert found[1]["who"] == "b"
    with pytest.raises(errors.JournalDamaged, match="Generation 1"):
        journal.generation(1)
    assert journal.record({"who": "c"}) == 3


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b"\xff\xfe"])
def test_a_generation_that_is_json_but_no_generation_is_told_as_damaged(journal, place, content):
    journal.record({"who": "a"})
    (place / "history" / "000001.json").write_bytes(content)
    [found] = history.all()
    assert found["generation"] == 1 and found["error"]


def test_other_files_in_the_history_are_left_alone(journal, place):
    journal.record({"who": "a"})
    for name in ("notes.txt", "x.json", "000009.json.77.new"):
        pathlib.Path(place / "history" / name).write_text("mine")
    assert [found["generation"] for found in history.all()] == [1]
    assert journal.record({"who": "b"}) == 2
