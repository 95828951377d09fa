"""Metrics as Salt has them: the stage of the highstate, the states and the functions by hand."""

import json

from gpuslice.metrics import unit
from tests.salt.conftest import Minion
from tests.support import pillars
from tests.support.metrics import parsed

TWO = [{"model": "h100-80gb", "address": address} for address in ("0000:1b:00.0", "0000:43:00.0")]
HOPPER = {"gpus": TWO, "processes": []}
FILE = "/var/lib/prometheus/node-exporter/gpuslice.prom"


def wanted(**said):
    return pillars.mig(["3g.40gb", "1g.10gb"], metrics={"enabled": True, **said})


def written(on: Minion):
    return on.host.state()["written"]


def test_the_stage_is_there_when_the_pillar_says_so(minion):
    on = minion("dgx-h100", changes=HOPPER, pillar=wanted(interval_seconds=20))
    tested = on.apply("gpu_slicing", test=True)
    assert [state.result for state in tested][-1] is None and not written(on)
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 4, [state.comment for state in applied]
    assert [state.changes for state in applied][-1] == [state.changes for state in tested][-1]
    assert len(parsed(written(on)[FILE])["slice_info"]) == 4 and "OnUnitActiveSec=20\n" in written(on)[unit.path_of(unit.TIMER)]
    again = on.apply("gpu_slicing")
    assert [(state.result, bool(state.changes)) for state in again] == [(True, False)] * 4
    on.host.let_pass(600)
    late = on.apply("gpu_slicing")[-1]
    assert late.result is False and "journalctl -u gpu-slicing-metrics.service" in late.comment


def test_the_stage_is_not_there_by_default(minion):
    for said in ({}, {"metrics": {"textfile": FILE}}, {"metrics": {"enabled": False}}, {"metrics": "yes"}):
        on = minion("dgx-h100", changes=HOPPER, pillar=pillars.mig(["7g.80gb"], **said))
        assert "gpu_metrics" not in json.dumps(on.show("gpu_slicing"))


def test_a_wrong_word_is_a_mistake_of_the_pillar(minion):
    on = minion("dgx-h100", changes=HOPPER, pillar=wanted(interval_seconds="often"))
    states = on.apply("gpu_slicing")
    assert states[0].result is False and "containers_gpu_state_management:metrics:interval_seconds" in states[0].comment


def test_states_and_functions_by_hand(minion, tmp_path):
    on, path = minion("dgx-h100", changes=HOPPER), tmp_path / "gpu.prom"
    assert on.call("gpu_slicing.apply", pillars.mig(["3g.40gb", "1g.10gb"]))["result"] is True
    found = on.call("gpu_metrics.read")
    assert len(found["gpuslice_slice_info"]) == 4 and json.dumps(found)
    assert set(found["gpuslice_slice_info"][0]) == {"labels", "value"}
    assert len(parsed(on.call("gpu_metrics.text"))["slice_info"]) == 4
    assert on.call("gpu_metrics.status")["textfile"] is None
    assert "result" not in on.call("gpu_metrics.enable", str(path), test=True) and not path.exists()
    made = on.state("gpu_metrics.exported", textfile=str(path), interval_seconds=30)
    assert made.result is True and made.changes and path.exists()
    assert on.state("gpu_metrics.exported", textfile=str(path), interval_seconds=30).changes == {}
    odd = on.state("gpu_metrics.exported", textfile=str(path), intervall=30)
    assert odd.result is False and "intervall" in odd.comment
    gone = on.state("gpu_metrics.disabled")
    assert gone.result is True and gone.changes and not path.exists()
    assert on.state("gpu_metrics.disabled").changes == {}
