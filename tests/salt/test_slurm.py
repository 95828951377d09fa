"""Slurm as Salt has it: hooks of a pillar, the state of the file, and data for the mine."""

import json

from tests.support import pillars

GPU = "0000:1b:00.0"
CONF = "/etc/slurm/gres.conf"
NODE = {
    "gpus": [{"model": "h100-80gb", "address": GPU}], "processes": [], "patience": 0.01,
    "tools": ["nvidia-smi", "scontrol"], "slurm": {"gres": "gpu:1"},
}  # fmt: skip
TOLD = {"containers_gpu_container_integration": {"slurm": {"enabled": True}}}


def asked(on):
    return [line for line in on.host.state().get("slurm", {}).get("asked", ()) if not line.startswith("show")]


def test_a_highstate_drains_cuts_writes_reconfigures_and_resumes(minion):
    on = minion("dgx-h100", changes=NODE, pillar={**pillars.mig(["1g.10gb"] * 2), **TOLD})
    tested = on.apply("gpu_slicing", test=True)
    assert [state.result for state in tested][1] is None and not asked(on)
    assert "Before it: run gpu_slurm.drain (within 3060 s)" in tested[1].comment
    assert "    + NodeName=dgx-h100 Name=gpu Type=nvidia_h100_80gb_hbm3_1g.10gb File=(known-when-it-is-made)" in tested[1].comment
    assert [line[:2] for line in tested[1].changes["slurm"][CONF]] == ["+ "] * 4 and not on.host.state()["written"]
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 3, [state.comment for state in applied]
    first, *others = asked(on)
    assert first.startswith("update NodeName=dgx-h100 State=DRAIN Reason=gpu-slicing: GPUs are sliced anew (")
    assert others == ["reconfigure", "update NodeName=dgx-h100 State=RESUME"]
    assert on.state("gpu_slurm.gres_conf", name=CONF).changes == {} and on.call("gpu_slurm.is_drained") is False
    assert [state.result for state in on.apply("gpu_slicing")] == [True] * 3 and len(asked(on)) == 3


def test_the_file_is_a_state_of_its_own(minion):
    on = minion("dgx-h100", changes=NODE)
    tested = on.state("gpu_slurm.gres_conf", name=CONF, test=True)
    assert tested.result is None and tested.changes and not on.host.state()["written"]
    made = on.state("gpu_slurm.gres_conf", name=CONF, node="n1")
    assert made.result is True and made.comment == f"{CONF} is written for node n1."
    assert on.call("gpu_slurm.gres_conf", node="n1") == on.host.state()["written"][CONF]
    assert on.state("gpu_slurm.gres_conf", name=CONF, node="n1").changes == {}
    found = on.state("gpu_slurm.gres_conf", name=CONF, autodetect=True)
    assert found.result is True and "NodeName=dgx-h100 AutoDetect=nvml" in on.host.state()["written"][CONF]
    for wrong in ({"name": "gres.conf"}, {"name": CONF, "node": "n 1"}, {"name": CONF, "autodetct": True}):
        assert on.state("gpu_slurm.gres_conf", **wrong).result is False


def test_the_mine_has_what_slurm_conf_needs(minion):
    on = minion("dgx-h100", changes=NODE)
    found = on.call("gpu_slurm.gres")
    assert json.loads(json.dumps(found)) == {
        "node": "dgx-h100", "gres": "gpu:nvidia_h100_80gb_hbm3:1", "types": ["gpu"], "left_out": {},
        "lines": ["NodeName=dgx-h100 Name=gpu Type=nvidia_h100_80gb_hbm3 File=/dev/nvidia0"],
    }  # fmt: skip
