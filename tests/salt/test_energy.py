"""
Energy by slice as a user has it: by the real ``salt-call`` on a DGX whose boards draw, with slices, loads, a cut in between and a
reboot; and what is wrong said in a sentence.
"""

import json

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from tests.conftest import ROOT
from tests.support import energy
from tests.support import pages
from tests.support import pillars

ONE = "0000:1b:00.0"
BIG, SMALL = f"{ONE}-4g.40gb-0", f"{ONE}-1g.10gb-4"
DRAWN = {"idle": 70, "active": 700}


def boards():
    """The boards of the example, which draw."""
    described = yaml.safe_load((ROOT / "examples" / "hosts" / "dgx-h100.yaml").read_text(encoding="utf-8"))
    return {"gpus": [{**gpu, "draw": DRAWN} for gpu in described["gpus"]]}


@pytest.mark.slow
def test_from_the_first_look_to_the_report_by_the_real_salt_call(salt_call):
    call = salt_call("dgx-h100", pillars.mig({"4g.40gb": 1, "1g.10gb": 2}), boards())
    assert call("gpu_slicing.apply").retcode == 0
    told = {"sentence": "What it takes is counted from now on.", "last": "", "unreadable": ""}
    assert call("gpu_energy.measure", "every=60").data == dict.fromkeys(call.host.state()["gpus"], told)
    call.host.let_pass(60)
    assert call("gpu_energy.measure").retcode == 0
    call.host.set_load(ONE, {"4g.40gb@0": 0.5, "1g.10gb@4": 1.0})
    call("gpu_energy.measure")
    call.host.let_pass(60)
    assert call("gpu_mig.destroy", f"'{ONE}'", "1g.10gb@5").data["result"] is True
    call.host.let_pass(60)
    call("gpu_energy.measure")
    found = call("gpu_energy.report").data
    assert all(energy.is_whole(found, gpu) for gpu in found["boards"]) and len(found["boards"]) == 8
    assert not any(board["dropped"] for board in found["boards"].values())
    charged = energy.figures(found, ONE)
    # Four parts at a half against one at all.
    assert charged[BIG, "activity"][0] == pytest.approx(2 * charged[SMALL, "activity"][0], rel=0.02)
    call.host.reboot()
    call("gpu_energy.measure")
    after = call("gpu_energy.report", f"gpu='{ONE}'", "since=24h").data
    assert after["boards"][ONE]["dropped"]["rebooted"]["intervals"] == 1 and energy.is_whole(after, ONE)
    assert after["boards"][ONE]["joules"] == found["boards"][ONE]["joules"]
    print(call("gpu_energy.report", f"gpu='{ONE}'", "table=True", "--out=nested").stdout)


def test_the_table_and_who_has_what(minion):
    pillar = pillars.mig({"4g.40gb": 1, "1g.10gb": 2})
    bench = minion("dgx-h100", pillar, boards())
    bench.call("gpu_slicing.apply")
    bench.call("gpu_consumer.serve", "ada", kind="user", user="ada", slice={"name": SMALL})
    for seconds in (60, 0):
        bench.call("gpu_energy.measure")
        bench.host.let_pass(seconds)
    found = bench.call("gpu_energy.report", ONE)
    assert {row["slice"]: row["consumer"] for row in found["slices"]}[SMALL] == "ada" and list(found["boards"]) == [ONE]
    shown = bench.call("gpu_energy.report", ONE, table=True)
    assert f"{ONE} not allocated" in shown and f"{ONE} board" in shown and "ada" in shown
    json.dumps(found)


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ("yesterday", "since is the text 'yesterday'; how long ago is wanted, such as 24h or 7d, or a time in ISO 8601"),
        (24, "since is the number 24; how long ago is wanted"),
        ("2999-01-01", "which is still to come"),
    ],
)
def test_a_moment_that_is_none_is_a_sentence(minion, since, said):
    bench = minion("dgx-h100", None, boards())
    bench.call("gpu_energy.measure")
    with pytest.raises(CommandExecutionError) as caught:
        bench.call("gpu_energy.report", since=since)
    assert said in str(caught.value)


def test_before_the_first_look_there_is_nothing_to_report(minion):
    bench = minion("dgx-h100", None, boards())
    with pytest.raises(CommandExecutionError) as caught:
        bench.call("gpu_energy.report")
    assert "Energy is not measured on this host yet. 'salt-call gpu_energy.measure' begins" in str(caught.value)


def test_the_page_names_what_is_told():
    page = pages.page("energy")
    for word in ("activity", "capacity", "rebooted", "gap", "layout-changed", "counter-reset", "counter-jumped", "clock"):
        assert f"`{word}`" in page, word
