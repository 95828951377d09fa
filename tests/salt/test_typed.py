"""
Arguments as users type them: a word that is no truth value, a number that is none, a pillar that is empty. Nothing is taken for
something else, through the real loaders and states.
"""

import pytest
from salt.exceptions import CommandExecutionError

from tests.salt.conftest import Minion
from tests.salt.test_bad_input import COUNTERS
from tests.salt.test_bad_input import FIRST
from tests.salt.test_bad_input import PAIR
from tests.support import pillars
from tests.support.stages import counted
from tests.support.stages import machine

WANTED = pillars.mig(["3g.20gb"])
NO_TRUTH = (0, 1, "false", "True", "", None, [])


@pytest.fixture(scope="module")
def on(tmp_path_factory, checkout_options, host_description):
    """A minion that has made one change, generation 1, and which no test that uses it can change again."""
    place = tmp_path_factory.mktemp("typed")
    description = host_description(place, "dgx-a100-40gb", {"gpus": PAIR, "faults": COUNTERS})
    made = Minion(place, description, WANTED, checkout_options)
    made.call("gpu_slicing.apply")
    made.host.clear_faults()
    for fault in COUNTERS:
        made.host.add_fault(fault)
    return made


def refused(on, function, *args, **given):
    """Call; assert that it is refused and that nothing was done. Returns the sentence."""
    before = machine(on.host)
    with pytest.raises(CommandExecutionError) as caught:
        on.call(function, *args, **given)
    sentence = str(caught.value)
    assert "Traceback" not in sentence and "engine failed" not in sentence
    assert machine(on.host) == before and counted(on.host) == {}
    return sentence


@pytest.mark.parametrize("generation", [True, False, 1.5, "1", -1, [1], 10**400])
def test_a_generation_is_a_whole_number(on, generation):
    assert "generation" in refused(on, "gpu_slicing.rollback", generation)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("gpu_slicing.apply", ()),
        ("gpu_slicing.rollback", ()),
        ("gpu.reset", (FIRST,)),
        ("gpu_mig.create", (FIRST, "1g.5gb")),
        ("gpu_mig.destroy", (FIRST, "all")),
        ("gpu_mig.apply_layout", (FIRST, ["1g.5gb"])),
        ("gpu_mig.set_mode", (FIRST, False)),
        ("gpu_boot.forget", (FIRST,)),
        ("gpu_boot.replay", ()),
        ("gpu_boot.enable", ()),
        ("gpu_boot.disable", ()),
        ("gpu_passthrough.bind", (FIRST,)),
    ],
)
def test_only_true_and_false_say_whether_it_is_a_test(on, function, args):
    for word in NO_TRUTH:
        assert "test" in refused(on, function, *args, test=word)


def test_only_true_and_false_switch_anything(on):
    for word in NO_TRUTH:
        assert "force" in refused(on, "gpu_mig.destroy", FIRST, "all", force=word)
        assert "enabled" in refused(on, "gpu_mig.set_mode", FIRST, word)
        assert "full" in refused(on, "gpu_slicing.history", full=word)
        assert "force" in refused(on, "gpu_boot.replay", force=word)


@pytest.mark.parametrize("function", ["plan", "apply", "check", "targets", "validate"])
def test_a_pillar_that_is_none_is_refused(on, function):
    for word in ("abc", ["x"], 7, True, ""):
        assert "pillar" in refused(on, f"gpu_slicing.{function}", word)


def test_an_empty_pillar_wants_nothing_and_none_is_the_minions_own(minion):
    on = minion("dgx-a100-40gb", pillar=WANTED, changes={"gpus": PAIR})
    before = machine(on.host)
    assert "enabled is false" in " ".join(on.call("gpu_slicing.targets", pillar={}))
    said = "Nothing is managed here: the pillar has no containers_gpu_slicing.\nNothing to do."
    assert on.call("gpu_slicing.apply", pillar={}) == {"result": True, "changes": {}, "comment": said}
    assert machine(on.host) == before
    assert on.call("gpu_slicing.apply", test=True, pillar=None)["changes"]
    assert on.call("gpu_slicing.apply")["changes"]


@pytest.mark.parametrize("function", ["gpu.slices", "gpu.health", "gpu.findings", "gpu.map", "gpu.table", "gpu.holders"])
def test_an_empty_name_is_not_every_gpu(on, function):
    for name in ("", 0, [], {}, False):
        refused(on, function, name)


def test_a_state_takes_no_word_for_a_truth_value(on):
    before = machine(on.host)
    for word in NO_TRUTH[:-2]:
        answer = on.state("gpu_mig.layout", name=FIRST, profiles=[], force=word)
        assert answer.result is False and "force" in answer.comment and answer.changes == {}
        answer = on.state("gpu_mig.mode", name=FIRST, enabled=word)
        assert answer.result is False and "enabled" in answer.comment and answer.changes == {}
    assert machine(on.host) == before


@pytest.mark.parametrize(("test", "result"), [(True, None), ("false", None), (0, None), (False, True), (None, True)])
def test_a_state_run_is_a_test_or_not(minion, test, result):
    """Salt itself takes every odd word for a test run; the states go along with what it says."""
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR})
    before = machine(on.host)
    stages = list(on.apply("gpu_slicing", pillar=WANTED, test=test))
    assert stages[1].result is result, stages
    assert (machine(on.host) == before) is (result is None)


@pytest.mark.parametrize("configured", ["false", 0, 1, "yes", []])
def test_an_odd_test_in_the_minions_configuration_changes_nothing(minion, configured):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR}, test=configured)
    before = machine(on.host)
    answer = on.state("gpu_mig.layout", name=FIRST, profiles=["3g.20gb"])
    assert answer.result is not True and answer.changes == {} or answer.result is None
    assert machine(on.host) == before


@pytest.mark.parametrize("word", [True, False, 0, "true"])
def test_a_test_of_a_single_state_is_told_to_be_unknown(on, word):
    """Salt has no such argument: it would pass in silence, and the state would change the host."""
    before = machine(on.host)
    [answer] = on.call("state.high", {"gpu": {"gpu_mig": ["layout", {"name": FIRST}, {"profiles": []}, {"test": word}]}})
    assert answer.result is False and "Unknown argument test" in answer.comment
    assert machine(on.host) == before
