"""The journal of a change in progress, against real files."""

import json
import os

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.plan import Part
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.records.history import History
from gpuslice.records.journal import Entry
from gpuslice.records.journal import Journal

GPU, OTHER = "0000:07:00.0", "0000:0f:00.0"
KEY = Key(GPU, "mig")
STEPS = tuple(Step(GPU, "mig", "create_gi", {"profile": "1g.5gb", "start": start}, f"create at {start}") for start in (1, 2, 3))


def entry(**changes):
    plain = {
        "time": 1.5,
        "who": "gpu_slicing.apply by root",
        "jid": "20260101000000000000",
        "pid": 4711,
        "boot_id": "boot-1",
        "plan": json.loads(json.dumps(Plan((Part(KEY, (GPU,), steps=STEPS),)).as_dict())),
        "before": {KEY: {"enabled": True, "instances": [["1g.5gb", 0, [["1g.5gb", 0]]]]}},
        "goal": {KEY: {"entries": [["1g.5gb", None, 2]]}},
        "addresses": {KEY: [GPU]},
    }
    return Entry(**{**plain, **changes})


def rewrite(place, **changes):
    """Put other values into the journal that is there."""
    path = place / "journal.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def journal(place):
    return Journal(RealHost(str(place)))


# -- a change in progress ---------------------------------------------------------------------------------------------
def test_a_host_on_which_nothing_was_done_has_nothing_unfinished(journal, place):
    assert journal.unfinished() is None
    assert not place.exists()


def test_what_was_begun_is_found_by_another_process_with_its_steps(journal, place):
    made = entry()
    journal.begin(made)
    journal.step(made, KEY, 1)
    journal.step(made, KEY, 2)
    assert made.steps == [(KEY, 1), (KEY, 2)]
    found = Journal(RealHost(str(place))).unfinished()
    assert found == entry(steps=[(KEY, 1), (KEY, 2)])


def test_a_new_change_does_not_inherit_steps_of_an_earlier_one(journal):
    first = entry()
    journal.begin(first)
    journal.step(first, KEY, 1)
    journal.begin(entry(pid=4712))
    assert journal.unfinished() == entry(pid=4712)


def test_steps_that_a_crash_between_two_writes_left_belong_to_nobody(journal, place):
    first = entry()
    journal.begin(first)
    journal.step(first, KEY, 1)
    left = (place / "journal.steps").read_bytes()
    journal.begin(entry(pid=4712))
    (place / "journal.steps").write_bytes(left)
    assert journal.unfinished().steps == []


def test_what_ended_is_not_unfinished(journal, place):
    made = entry()
    journal.begin(made)
    journal.step(made, KEY, 1)
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
        journal.step(entry(), KEY, number)
    path = place / "journal.steps"
    whole = path.read_bytes()
    kept = whole[: min(cut, len(whole))]
    path.write_bytes(kept)
    # A line is written at once with its end; one without counts when its JSON is whole, as its step may have begun.
    complete = [(KEY, n) for n in (1, 2, 3) if len(kept) >= n * (len(whole) // 3) - 1]
    assert journal.unfinished().steps == complete


def test_lines_of_rubbish_in_the_steps_end_what_is_believed(journal, place):
    journal.begin(entry())
    journal.step(entry(), KEY, 1)
    with open(place / "journal.steps", "ab") as handle:
        handle.write(b"\x00\x00\x00\n")
    journal.step(entry(), KEY, 2)
    assert journal.unfinished().steps == [(KEY, 1)]


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
    for key in ("plan", "before", "goal", "wishes", "addresses", "groups", "time", "pauses", "earlier")
    for value in (None, "text", 3, [3], {"key": 3})
    if (key, value) != ("time", 3)
]


@pytest.mark.parametrize(("key", "value"), OTHER_FORMS)
def test_a_journal_whose_parts_have_another_form_is_damaged(journal, place, key, value):
    journal.begin(entry())
    rewrite(place, **{key: value})
    with pytest.raises(errors.JournalDamaged, match=r"journal\.json.*remove that file"):
        journal.unfinished()


@pytest.mark.parametrize(
    "text", [GPU, "mig", f"time-slicing:{GPU}", f"another:{GPU}", f"mig:{GPU}:", f":{GPU}", "mig:0000:zz:00.0"]
)
def test_a_journal_that_does_not_tell_by_what_a_gpu_is_sliced_is_damaged(journal, place, text):
    journal.begin(entry())
    rewrite(place, before={text: entry().before[KEY]}, plan={"parts": []})
    with pytest.raises(errors.JournalDamaged, match="before"):
        journal.unfinished()


def test_a_step_of_a_gpu_that_its_part_does_not_cover_is_no_step(journal, place):
    plan = entry().plan
    plan["parts"][0]["addresses"] = [OTHER]
    journal.begin(entry(plan=plan))
    with pytest.raises(errors.JournalDamaged, match=f"a step of GPU {OTHER} is of another one"):
        journal.unfinished()
    plan["parts"][0]["addresses"] = []
    journal.begin(entry(plan=plan))
    with pytest.raises(errors.JournalDamaged, match="a part of its plan covers no GPU"):
        journal.unfinished()


def test_a_change_of_what_gpus_have_in_common_tells_them_all(journal):
    licence = Key(HOST, "licence")
    layout = {"license": {"server": "", "port": "", "feature": "", "token": "", "service": False}}
    step = Step(OTHER, "licence", "stop_service", {}, "stop nvidia-gridd")
    plan = json.loads(json.dumps(Plan((Part(licence, (GPU, OTHER), steps=(step,)),)).as_dict()))
    made = entry(plan=plan, before={licence: layout}, goal={licence: {"clear": True}}, addresses={licence: [GPU, OTHER]})
    journal.begin(made)
    journal.step(made, licence, 1)
    found = journal.unfinished()
    assert found == made and found.gpus == [GPU, OTHER] and found.covered(licence) == [GPU, OTHER]
    assert found.begun() == [(licence, step)]


def test_what_was_begun_before_comes_first(journal):
    earlier = json.loads(json.dumps(Plan((Part(KEY, (GPU,), steps=STEPS[:1]),)).as_dict()))["parts"][0]["steps"][0]
    made = entry(earlier=[(KEY, earlier)])
    journal.begin(made)
    journal.step(made, KEY, 2)
    assert journal.unfinished() == made
    assert made.begun() == [(KEY, STEPS[0]), (KEY, STEPS[1])]


@pytest.mark.parametrize(
    "content", [b'["1.5-4711", "a", 1]\n3\n', b'["a"]\n', b'{"a": 1}\n', b'["1.5-4711", 1, "c"]\n', b"\xff\xfe\n"]
)
def test_step_lines_that_are_json_but_no_steps_are_no_crash(journal, place, content):
    journal.begin(entry())
    (place / "journal.steps").write_bytes(content)
    found = journal.unfinished().steps
    assert found == []


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
        ("store_write", lambda host: Journal(host).begin(entry()), "begin a change"),
        ("store_append", lambda host: Journal(host).step(entry(), KEY, 1), "record a step"),
        ("store_remove", lambda host: Journal(host).end(), "end a change"),
        ("store_write", lambda host: History(host).record({"who": "me"}), "write the history"),
    ],
)
@pytest.mark.parametrize(("errno", "reason"), [("ENOSPC", "No space left"), ("EROFS", "Read-only"), ("EIO", "Input/output")])
def test_a_disk_that_refuses_is_named_with_the_reason(simulated, call, operation, words, errno, reason):
    host = simulated("no-gpu", faults=[{"call": call, "times": 0, "error": errno}])
    with pytest.raises(errors.StateDirUnusable) as caught:
        operation(host)
    text = str(caught.value)
    assert words in text and reason in text and host.state_dir in text
