"""What a host is in one line, whether anything of it is managed, and a plan as data for programs."""

import json
from datetime import datetime

import pytest
import yaml

from tests.support import pillars

NOTHING = "Nothing is managed here: "
WANTED = pillars.mig({"3g.40gb": 2})


@pytest.fixture
def bench(minion):
    """A DGX H100 whose pillar wants two slices of each GPU."""
    return minion("dgx-h100", WANTED)


def test_a_host_is_one_line_before_and_after_a_change(bench):
    before = bench.call("gpu_slicing.summary")
    assert before == (
        "to change; 8 x NVIDIA H100 80GB HBM3; no slices; 8 GPUs to change: keeps 0 slices, destroys 0, creates 16, changes a "
        "mode on 8 GPUs, no reset; about 1.3 s (guess and public figure)"
    )
    assert all(state.result for state in bench.apply("gpu_slicing"))
    assert bench.call("gpu_slicing.summary") == "as wanted; 8 x NVIDIA H100 80GB HBM3; 16 slices (16 x 3g.40gb); nothing to do"


@pytest.mark.parametrize(
    ("pillar", "why"),
    [
        ({}, "the pillar has no containers_gpu_slicing"),
        ({"containers_gpu_slicing": {"enabled": False}}, "containers_gpu_slicing:enabled is false"),
        (pillars.for_all("none"), "the pillar leaves every GPU of this host alone"),
    ],
)
def test_a_host_of_which_nothing_is_managed_says_so_first(minion, pillar, why):
    bench = minion("dgx-h100", pillar)
    told = f"{NOTHING}{why}."
    assert bench.call("gpu_slicing.summary") == f"{NOTHING}{why}; 8 x NVIDIA H100 80GB HBM3; no slices"
    assert bench.call("gpu_slicing.plan").splitlines()[0] == told
    checked, required = bench.call("gpu_slicing.check"), bench.call("gpu_slicing.check", require=True)
    assert (checked["result"], checked["managed"]) == (True, False) and checked["comment"].splitlines()[0] == told
    assert (required["result"], required["managed"]) == (False, False)
    assert bench.call("gpu_slicing.apply")["comment"].splitlines()[0] == told


def test_a_host_without_a_gpu_says_so(minion):
    bench = minion("no-gpu")
    assert bench.call("gpu_slicing.summary") == f"{NOTHING}this host has no GPU"
    assert bench.call("gpu_slicing.check")["managed"] is False


def test_what_is_managed_is_required_in_vain_only_where_it_is_not(bench):
    assert bench.call("gpu_slicing.check", require=True)["managed"] is True
    assert all(state.result for state in bench.apply("gpu_slicing"))
    assert bench.call("gpu_slicing.check", require=True)["result"] is True


def test_what_can_t_be_told_is_a_line_too(minion):
    bench = minion("dgx-h100", {"containers_gpu_slicing": {"enabled": True, "strategy": "migg"}})
    line = bench.call("gpu_slicing.summary")
    assert line.startswith("can't be told: The pillar has a mistake:") and "\n" not in line and "Did you mean 'mig'?" in line


def test_who_is_in_the_way_and_an_interrupted_change_are_in_the_line(minion):
    bench = minion("dgx-h100", pillars.mig(["7g.80gb"]))
    assert all(state.result for state in bench.apply("gpu_slicing"))
    bench.host.add_process({"pid": 4711, "command": "train.py", "gpu": "0000:1b:00.0", "slice": "7g.80gb@0"})
    bench.set_pillar(WANTED)
    assert bench.call("gpu_slicing.summary").startswith("not as wanted, and in the way; 8 x NVIDIA H100 80GB HBM3; 8 slices")


def test_a_plan_as_data_has_what_its_text_tells(bench):
    found = bench.call("gpu_slicing.plan", data=True)
    assert json.loads(json.dumps(found)) == found and found["format"] == 1 and found["managed"] is True
    assert len(found["parts"]) == 8 and found["summary"] in bench.call("gpu_slicing.plan")
    first = found["parts"][0]
    assert (first["technology"], first["gpus"], first["creates"]) == ("mig", ["0000:1b:00.0"], ["3g.40gb at 0", "3g.40gb at 4"])
    assert first["old"] == {"mig_mode": "disabled", "instances": []} and first["new"]["instances"] == ["3g.40gb@0", "3g.40gb@4"]
    assert [step["does"] for step in first["steps"]][:2] == ["enable MIG mode", "create GPU instance 3g.40gb at 0"]
    assert set(first["steps"][0]) == {"does", "effect", "ends", "needs", "undo", "seconds", "source"}


def test_the_history_has_iso_times_and_a_line_each(bench):
    assert all(state.result for state in bench.apply("gpu_slicing"))
    [entry] = bench.call("gpu_slicing.history")
    assert entry["summary"].startswith("8 GPUs to change: keeps 0 slices, destroys 0, creates 16")
    [full] = bench.call("gpu_slicing.history", full=True)
    assert entry["time"] == full["time"] and datetime.fromisoformat(full["time"]).tzinfo is not None
    assert full["before"] and full["after"]


def test_a_screen_of_a_dgx_is_forty_lines_at_most(salt_call, repo):
    pillar = yaml.safe_load((repo / "examples" / "pillar" / "h100.sls").read_text(encoding="utf-8"))
    shown = salt_call("dgx-h100", pillar)("--out=highstate", "state.apply", "gpu_slicing", "test=True").stdout
    assert "8 x NVIDIA H100 80GB HBM3" in shown and len(shown.splitlines()) <= 40, shown
