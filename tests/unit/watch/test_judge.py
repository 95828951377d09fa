"""How what was seen changes what is known: worse at once, better on evidence only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.catalog import xids
from gpuslice.health.finding import SEVERITY
from gpuslice.status_words import ACTIONS
from gpuslice.status_words import STATUSES
from gpuslice.watch import judge
from gpuslice.watch import meanings
from gpuslice.watch import told
from gpuslice.watch.condition import DAY
from gpuslice.watch.condition import Condition
from gpuslice.watch.judge import Look
from gpuslice.watch.judge import Reset

GPU, SLICE, SIBLING = "0000:1b:00.0", "0000:1b:00.0-1g.10gb-0", "0000:1b:00.0-1g.10gb-1"
CLEAN = 3
ASKED = frozenset({*((GPU, each) for each in (judge.FILES, judge.LIBRARY, judge.ROWS, judge.VERDICT)), ("", judge.LOG)})
COUNTS = judge.OF_KERNEL | judge.OF_LIBRARY
BOOT, NEXT = "boot-1", "boot-2"


def one(code, **keys):
    return Condition(GPU, code, words="w", boot=keys.pop("boot", BOOT), **keys)


class Watch:
    """Looks at one board with two slices."""

    def __init__(self, treatments=None):
        self.known, self.now, self.treatments = [], 1000.0, treatments or {}

    def look(self, *seen, counts=True, **keys):
        self.now += keys.pop("later", 60)
        seen = [each._replace(since=self.now, last=self.now) if isinstance(each, Condition) else each for each in seen]
        apart, asked = COUNTS if counts else frozenset(), keys.pop("asked", ASKED)
        made = Look(keys.pop("boot", BOOT), self.now, apart, tuple(seen), asked, **keys)
        self.known = judge.judged(self.known, made, self.treatments, CLEAN)
        return self

    @property
    def board(self):
        return told.statuses([GPU], {GPU: [SLICE, SIBLING]}, self.known, self.treatments)[GPU]

    @property
    def words(self):
        return (self.board["status"], *(each["status"] for each in self.board["slices"].values()))


WELL = ("ok", "ok", "ok")


def test_an_error_of_one_slice_is_its_own():
    watch = Watch().look(one("xid-94", gi=7, ci=0, slice=SLICE))
    assert watch.words == ("ok", "degraded", "ok")
    mine = watch.board["slices"][SLICE]
    assert (mine["action"], mine["scope"], mine["codes"]) == ("restart_program", "slice", ["xid-94"])


def test_what_the_driver_asks_for_marks_all_slices_and_goes_with_a_reset_and_looks():
    watch = Watch().look(one("xid-94", gi=7, ci=0, slice=SLICE))
    watch.look(one("nvidia-recovery-action-reset"), verdicts={GPU: 1})
    assert watch.words == ("failed", "failed", "failed") and watch.board["action"] == "reset"
    for _ in range(2 * CLEAN):
        watch.look(one("nvidia-recovery-action-reset"), verdicts={GPU: 1})
    assert watch.words == ("failed", "failed", "failed")
    watch.look(Reset(GPU), verdicts={GPU: 0})
    assert watch.words[0] == "failed"
    watch.look(verdicts={GPU: 0})
    assert watch.words[0] == "failed"
    assert watch.look(verdicts={GPU: 0}).words == WELL and watch.known == []


def test_looks_that_follow_each_other_at_once_are_one():
    watch = Watch().look(one("xid-94", gi=7, ci=0, slice=SLICE))
    for _ in range(20):
        watch.look(counts=False)
    assert watch.words == ("ok", "degraded", "ok")


def test_an_error_of_one_slice_whose_action_is_the_boards_marks_the_siblings():
    watch = Watch().look(one("xid-95", gi=7, ci=0, slice=SLICE))
    assert watch.words == ("failed", "failed", "failed") and watch.board["scope"] == "board"


def test_where_the_driver_asks_for_nothing_the_programs_alone_are_concerned():
    watch = Watch().look(one("xid-95", gi=7, ci=0, slice=SLICE), verdicts={GPU: 0})
    assert watch.words == ("ok", "degraded", "ok")
    assert watch.look(verdicts={GPU: 1}).words == ("failed", "failed", "failed")


@pytest.mark.parametrize("number", [64, 79])
def test_some_errors_stand_whatever_the_driver_asks_for(number):
    watch = Watch().look(one(f"xid-{number}"), verdicts={GPU: 0})
    assert watch.board["status"] == ("lost" if number == 79 else "failed")


def test_nothing_is_over_without_what_it_needs():
    watch = Watch().look(one("xid-119"))
    for _ in range(10):
        watch.look()
    assert watch.board["status"] == "failed"
    watch.look(Reset(GPU)).look()
    assert watch.board["status"] == "failed"
    assert watch.look().board["status"] == "ok"


def test_a_boot_is_a_reset_too_and_one_of_another_gpu_is_none():
    watch = Watch().look(one("xid-119")).look(Reset("0000:43:00.0"))
    assert watch.board["status"] == "failed" and not watch.known[0].cured
    for _ in range(CLEAN):
        watch.look(boot=NEXT)
    assert watch.words == WELL


def test_a_reset_before_an_error_says_nothing_of_it():
    watch = Watch().look(one("xid-119"))
    watch.look(Reset(GPU), one("xid-119"))
    for _ in range(CLEAN + 1):
        watch.look()
    assert watch.board["status"] == "failed" and watch.known[0].count == 2


def test_what_needs_another_board_stays_through_resets_and_boots():
    watch = Watch().look(one("nvidia-row-remap-failed", uuid="GPU-1"))
    for _ in range(5):
        watch.look(Reset(GPU), boot=NEXT, uuids={GPU: "GPU-1"})
    assert watch.board["action"] == "replace"
    for _ in range(CLEAN):
        watch.look(boot=NEXT, uuids={GPU: "GPU-2"})
    assert watch.words == WELL


def test_what_is_polled_counts_when_two_looks_in_turn_saw_it():
    watch = Watch().look(one("pci-link-narrower"))
    assert watch.words == WELL
    watch.look(one("pci-link-narrower"), counts=False)
    assert watch.words == WELL
    assert watch.look(one("pci-link-narrower")).board["status"] == "degraded"
    flaps = Watch()
    for _ in range(6):
        flaps.look(one("pci-link-narrower")).look()
    assert flaps.words == WELL


def test_what_was_not_asked_for_is_not_over():
    watch = Watch().look(one("nvidia-row-remap-pending")).look(one("nvidia-row-remap-pending"))
    for _ in range(10):
        watch.look(asked=ASKED - {(GPU, judge.ROWS)})
    assert watch.board["status"] == "degraded"
    log = Watch().look(one("xid-94", slice=SLICE))
    for _ in range(10):
        log.look(asked=ASKED - {("", judge.LOG)})
    assert log.words[1] == "degraded"
    verdict = Watch().look(one("nvidia-recovery-action-reset"))
    for _ in range(10):
        verdict.look(asked=frozenset({(GPU, judge.FILES), ("", judge.LOG)}))
    assert verdict.board["status"] == "failed"


def test_errors_of_programs_are_counted_and_many_of_them_are_suspicious():
    watch = Watch()
    for _ in range(4):
        watch.look(one("xid-31", gi=7, ci=0, slice=SLICE), later=600)
    # A burst is one.
    for _ in range(10):
        watch.look(one("xid-31", gi=7, ci=0, slice=SLICE), later=1)
    assert watch.words == WELL and watch.known[0].count == 14
    watch.look(one("xid-31", gi=7, ci=0, slice=SLICE), later=600)
    assert watch.words == ("ok", "degraded", "ok") and watch.board["slices"][SLICE]["action"] == "none"
    assert "5 times within a day: look whether one program" in watch.board["slices"][SLICE]["sentence"]
    watch.look(later=DAY + 1)
    assert watch.words == WELL and watch.known == []


def test_a_clock_that_was_set_back_forgets_no_fault_and_keeps_none():
    watch = Watch().look(one("xid-119"), one("xid-31"))
    watch.look(later=-500)
    assert [each.code for each in watch.known] == ["xid-119"]
    watch.look(Reset(GPU), later=-10).look().look()
    assert watch.words == WELL


@pytest.mark.parametrize(("treatment", "words"), [("ignore", WELL), ("count", WELL), ("reset", ("failed", "failed", "failed"))])
def test_a_site_can_say_otherwise_than_the_catalog(treatment, words):
    watch = Watch({94: treatment}).look(one("xid-94", gi=7, ci=0, slice=SLICE), verdicts={GPU: 0})
    assert watch.words == words


def test_an_unknown_number_is_worth_a_look_and_nothing_is_invented():
    watch = Watch().look(one("xid-777"))
    assert (watch.board["status"], watch.board["action"]) == ("degraded", "none")
    assert meanings.of_xid(777, {})[1] == "Xid 777: this version does not know this number"


def test_an_error_of_an_instance_that_nobody_knows_is_the_boards():
    assert Watch().look(one("xid-94", gi=12, ci=0)).words == ("degraded", "ok", "ok")


def test_a_program_that_still_runs_keeps_the_mark():
    watch = Watch().look(one("xid-94", gi=7, ci=0, slice=SLICE, pid=42))
    for _ in range(10):
        watch.look()
    assert watch.words[1] == "degraded"
    for _ in range(CLEAN):
        watch.look(ended=frozenset({42}))
    assert watch.words == WELL


def test_a_slice_that_went_takes_its_own_marks_with_it_and_none_of_the_boards():
    watch = Watch().look(one("xid-94", gi=7, ci=0, slice=SLICE, pid=42), one("xid-119"))
    for _ in range(CLEAN):
        watch.look(gone=frozenset({SLICE}))
    assert [each.code for each in watch.known] == ["xid-119"] and watch.board["status"] == "failed"


def test_a_log_that_is_full_of_errors_does_not_fill_the_record():
    watch = Watch()
    watch.look(*(one("xid-94", gi=number, ci=0) for number in range(5000)))
    assert len(watch.known) == 200


CODES = [*meanings.BY_CODE, *(f"xid-{number}" for number in xids.XIDS), "xid-999"]
OF_SLICE = st.sampled_from(CODES).map(lambda code: one(code, slice=SLICE))
SEEN = st.one_of(st.just(Reset(GPU)), st.sampled_from(CODES).map(one), OF_SLICE)
LOOK = st.tuples(st.lists(SEEN, max_size=4), st.booleans(), st.sampled_from([BOOT, NEXT]), st.sampled_from([None, 0, 1]))


@given(st.lists(LOOK, max_size=8))
def test_whatever_is_seen_comes_to_words_and_comes_to_an_end(looks):
    watch = Watch()
    for seen, counts, boot, verdict in looks:
        watch.look(*seen, counts=counts, boot=boot, verdicts={} if verdict is None else {GPU: verdict}, uuids={GPU: "a"})
        for each in (watch.board, *watch.board["slices"].values()):
            assert each["status"] in STATUSES and each["action"] in ACTIONS
            assert (each["status"] == "ok") == (each["sentence"] == "") == (not each["codes"])
    watch.known = [each._replace(uuid="a") for each in watch.known]
    for _ in range(CLEAN + 1):
        watch.look(boot="boot-3", later=DAY, uuids={GPU: "b"}, verdicts={GPU: 0})
    assert watch.known == []


def test_every_code_means_something_that_is_known():
    assert list(meanings.BY_CODE) == sorted(meanings.BY_CODE)
    for meaning in meanings.BY_CODE.values():
        assert meaning.status in STATUSES and meaning.action in ACTIONS
    # A finding that means nothing for the status is told by gpu.findings all the same.
    assert {"amd-bad-pages", "mode-pending", "nvidia-not-asked"} <= SEVERITY.keys() - meanings.BY_CODE.keys()
    assert all(each.treatment in xids.TREATMENTS and each.meaning for each in xids.XIDS.values())
