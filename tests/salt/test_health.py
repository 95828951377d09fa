"""
The health of GPUs as a user has it: by hand, as the beacon tells it, and from the page.
"""

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError

from tests.support import pages
from tests.support import pillars

GPU = "0000:1b:00.0"
SLICE = f"{GPU}-1g.10gb-1"


@pytest.fixture
def sliced(minion):
    """A DGX H100 of 56 slices."""
    bench = minion("dgx-h100", pillars.mig(["1g.10gb"] * 7))
    assert all(each.result for each in bench.apply("gpu_slicing"))
    return bench


def line(bench, number, gi=8):
    """The driver's line on an Xid of a GPU instance, by its number on a host that was just sliced."""
    bench.host.say(f"NVRM: Xid (PCI:{GPU[:-2]} GPU-I:{gi:02d} GPU-CI:00): {number}, pid=77, name=python3, Contained")
    bench.host.let_pass(60)


def beacon(bench):
    """What a pass of the beacon tells."""
    loaded = salt.loader.beacons(bench.opts, salt.loader.minion_mods(bench.opts))
    ok, words = loaded["gpu_health.validate"]([{"interval": 30}])
    assert ok, words
    return loaded["gpu_health.beacon"]([{"interval": 30}])


def test_an_error_of_one_slice_is_told_of_it_alone(sliced):
    line(sliced, 94)
    found = sliced.call("gpu_health.status")
    bad = {name: each["status"] for board in found.values() for name, each in board["slices"].items() if each["status"] != "ok"}
    assert {board["status"] for board in found.values()} == {"ok"} and bad == {SLICE: "degraded"} and len(found) == 8
    assert sliced.call("gpu_health.status", GPU).keys() == {GPU}
    table = sliced.call("gpu_health.status", table=True).splitlines()
    assert len(table) == 11 and any(row.startswith(SLICE) and "restart_program" in row for row in table)
    why = sliced.call("gpu_health.why", SLICE)[GPU]
    [reason] = why["reasons"]
    assert (reason["code"], reason["slice"], reason["count"]) == ("xid-94", SLICE, 1) and "end of the program" in reason["clears"]


def test_what_a_board_and_its_slice_have_in_common_is_told_once(sliced):
    line(sliced, 94)
    sliced.host.set_recovery_action(GPU, "gpu_reset")
    comment = sliced.call("gpu_health.healthy")["comment"]
    assert comment.count("asks for a GPU reset") == 1 and comment.count("\n") == 0
    assert len(sliced.call("gpu_health.status", table=True).splitlines()) == 10


def test_a_slice_that_is_ill_for_a_reason_of_its_own_is_told_beside_its_board(sliced):
    line(sliced, 94)
    sliced.host.say(f"NVRM: Xid (PCI:{GPU[:-2]}): 54, pid=1, name=x, Power supplies")
    sliced.host.let_pass(60)
    table = sliced.call("gpu_health.status", table=True)
    assert [row.split()[:3] for row in table.splitlines() if " degraded " in row] == [
        [GPU, "degraded", "none"], [SLICE, "degraded", "restart_program"],
    ]  # fmt: skip
    assert sliced.call("gpu_health.healthy")["comment"].count("Xid") == 2


def test_the_beacon_tells_a_change_once_and_with_fields(sliced):
    sliced.call("gpu_health.status")
    assert beacon(sliced) == []
    line(sliced, 94)
    [event] = beacon(sliced)
    assert event.keys() == {"tag", "gpu", "slice", "was", "status", "action", "scope", "codes", "sentence"}
    assert (event["tag"], event["gpu"], event["status"], event["was"]) == (SLICE, GPU, "degraded", "ok")
    assert beacon(sliced) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("often", "a list is wanted"),
        (["interval"], "a list of mappings"),
        ([{"intervall": 3}], "does not know intervall; it knows interval"),
    ],
)
def test_a_wrong_configuration_of_the_beacon_is_a_sentence(minion, config, words):
    bench = minion("no-gpu")
    ok, said = salt.loader.beacons(bench.opts, {})["gpu_health.validate"](config)
    assert not ok and words in said


def test_a_beacon_raises_nothing_whatever_goes_wrong(sliced):
    (sliced.state_dir / "health.json").write_text('{"format": 99}')
    assert beacon(sliced) == []
    with pytest.raises(CommandExecutionError, match="newer version"):
        sliced.call("gpu_health.status")


def test_a_pillar_that_takes_an_xid_for_something_else(sliced):
    sliced.set_pillar({"containers_gpu_state_management": {"health": {"xids": {94: "reset"}}}})
    line(sliced, 94)
    board = sliced.call("gpu_health.status", GPU)[GPU]
    assert board["status"] == "failed" and {each["status"] for each in board["slices"].values()} == {"failed"}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"xids": {94: "resett"}}, "health:xids:94: is the text 'resett', which is no treatment"),
        ({"xids": {"ninety": "reset"}}, "is no number of an Xid"),
        ({"xids": [94]}, "a mapping of Xid numbers"),
        ({"clean_looks": 0}, "health:clean_looks"),
        ({"on_fail": "quarantine"}, "health:on_fail: is not a known key"),
        ("quarantine", "containers_gpu_state_management:health"),
    ],
)
def test_what_is_wrong_in_the_pillar_is_a_sentence_and_changes_nothing(minion, written, words):
    bench = minion("dgx-h100", {"containers_gpu_state_management": {"health": written}})
    with pytest.raises(CommandExecutionError, match=words.replace("(", r"\(")):
        bench.call("gpu_health.status")
    assert not (bench.state_dir / "health.json").exists()
    assert bench.call("gpu_slicing.validate")["result"] is False


def test_a_host_without_gpus_has_nothing_to_tell(minion):
    bench = minion("no-gpu")
    assert bench.call("gpu_health.status") == {} and bench.call("gpu_health.status", table=True) == "No GPU."
    made = bench.call("gpu_health.healthy")
    assert (made["result"], made["comment"]) == (True, "This host has no GPU.") and beacon(bench) == []


def test_the_page_has_every_word(minion):
    from gpuslice.catalog.xids import TREATMENTS
    from gpuslice.status_words import ACTIONS
    from gpuslice.status_words import STATUSES
    from gpuslice.watch.meanings import BY_CODE

    page = pages.page("health")
    assert [word for word in (*STATUSES, *ACTIONS, *TREATMENTS, *BY_CODE) if f"`{word}`" not in page] == []
