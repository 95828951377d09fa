"""
Events of changes on a real master: what the returner of the examples writes, and what their reaction makes of one that failed.
"""

import json

import pytest

from tests.fleet.conftest import eventually
from tests.fleet.conftest import failed

pytestmark = pytest.mark.slow

SECOND = "0000:0f:00.0"
GPUS = [{"model": "a100-40gb", "address": address} for address in ("0000:07:00.0", SECOND)]
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"enabled": True, "profiles": {"1g.5gb": 2}}}}
FAULT = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": SECOND, "error": "NVML_ERROR_UNKNOWN"}


def events(fleet, minion, last):
    """(kind, fields) of the events of a minion that the returner wrote; [] as long as the last one is not among them."""
    path = fleet.place / "events.json"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    found = [event for line in lines for event in (line if isinstance(line, list) else [line])]
    tag = f"gpu_slicing/{minion}/change/"
    mine = [(event["tag"].removeprefix(tag), event["data"]["data"]) for event in found if event["tag"].startswith(tag)]
    return mine if any(kind == last for kind, _ in mine) else []


def test_changes_are_written_down_and_one_that_failed_is_told_to_the_webhook(fleet, hook, new_node):
    node = new_node("told", "dgx-a100-40gb", changes={"gpus": GPUS})
    fleet.set_pillar(dgx_a100_40gb=PILLAR)
    assert failed(fleet.salt("told", "state.apply")["told"]) == []
    made = eventually(lambda: events(fleet, "told", "end"))
    kinds = [kind for kind, _ in made]
    assert kinds == ["begin", *["step"] * made[0][1]["steps"], "end"]
    begin, end = made[0][1], made[-1][1]
    assert begin["who"].startswith("state.apply by ") and begin["jid"].isdigit() and begin["gpus"] == end["changed"]
    assert end["result"] == "applied" and {fields["generation"] for _, fields in made} == {1}
    # What the reaction tells when the second change fails on one of the two GPUs.
    node.host.add_fault(FAULT)
    fleet.set_pillar(dgx_a100_40gb={**PILLAR, "containers_gpu_slicing": {
        "enabled": True, "strategy": "mig", "mig": {"enabled": True, "profiles": {"3g.20gb": 1}}
    }})  # fmt: skip
    assert failed(fleet.salt("told", "state.apply", "gpu_slicing")["told"]) != []
    told = eventually(lambda: [each for each in hook.told if each["text"].startswith("told: ")])
    assert told and told[0]["text"] == "told: generation 2 partly applied" and told[0]["left"] == []
    assert told[0]["errors"][SECOND].startswith(f"GPU {SECOND}: Step ")
    assert events(fleet, "told", "failed")[-1][1]["undone"] == [SECOND]


def test_a_change_of_health_is_told_once_by_the_beacon(fleet, hook, new_node):
    node = new_node("ill", "dgx-a100-40gb", changes={"gpus": GPUS}, beacons={"gpu_health": [{"interval": 2}]})
    fleet.set_pillar(dgx_a100_40gb=PILLAR)
    assert failed(fleet.salt("ill", "state.apply")["ill"]) == []
    assert fleet.salt("ill", "gpu_health.status")["ill"][SECOND]["status"] == "ok"
    node.host.say(f"NVRM: Xid (PCI:{SECOND[:-2]}): 79, pid=1, GPU has fallen off the bus.")
    told = eventually(lambda: [each for each in hook.told if each["text"].startswith(f"ill: {SECOND} ")])
    assert [each["text"] for each in told] == [f"ill: {SECOND} is lost, was ok"]
    assert told[0]["action"] == "reboot" and told[0]["why"].startswith(f"GPU {SECOND}: Xid 79: ")
    # Each slice of the board is told too, and none a second time.
    slices = [each["text"] for each in hook.told if each["text"].startswith(f"ill: {SECOND}-")]
    assert len(slices) == len(set(slices)) == 2
