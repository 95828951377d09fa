"""Slurm as Salt has it: hooks of a pillar, the state of the file, and data for the mine."""

import json

import pytest

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
    assert f"  {CONF}: 4 lines come, 0 go" in tested[1].comment.splitlines() and "known-when" not in tested[1].comment
    line = "+ NodeName=dgx-h100 Name=gpu Type=nvidia_h100_80gb_hbm3_1g.10gb File=(known-when-it-is-made)  (2 times)"
    assert [each[:4] for each in tested[1].changes["slurm"][CONF]] == ["+ # ", "+ # ", "+ No"] and not on.host.state()["written"]
    assert tested[1].changes["slurm"][CONF][-1] == line and f"    {line}" in on.call("gpu_slicing.plan")
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 3, [state.comment for state in applied]
    first, *others = asked(on)
    assert first.startswith("update NodeName=dgx-h100 State=DRAIN Reason=gpu-slicing: GPUs are sliced anew (")
    assert others == ["reconfigure", "update NodeName=dgx-h100 State=RESUME"]
    assert on.state("gpu_slurm.gres_conf", name=CONF).changes == {} and on.call("gpu_slurm.is_drained") is False
    assert [state.result for state in on.apply("gpu_slicing")] == [True] * 3 and len(asked(on)) == 3


def test_a_drain_that_can_not_be_is_told_in_words(minion):
    on = minion("dgx-h100", changes={**NODE, "tools": ["nvidia-smi"]}, pillar={**pillars.mig(["1g.10gb"] * 2), **TOLD})
    said = on.apply("gpu_slicing")[1]
    assert said.result is False and "which is to run before the change, failed: scontrol was to be asked to know" in said.comment
    assert "Error:" not in said.comment and "Nothing was changed." in said.comment


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


@pytest.fixture
def site(repo, tmp_path):
    """``site(daemon)``: a file root with the example for slurm.conf, and the file that it writes, in a folder of the test."""

    def made(daemon):
        root = tmp_path / f"site-{daemon}" / "slurm"
        root.mkdir(parents=True)
        text = (repo / "examples" / "master" / "slurm_gpu_nodes.sls").read_text(encoding="utf-8")
        # Neither the machine's own file nor its own daemon.
        text = text.replace("/etc/slurm", str(tmp_path)).replace('salt["service.available"]("slurmctld")', daemon)
        assert str(tmp_path) in text and daemon in text
        (root / "slurm_gpu_nodes.sls").write_text(text, encoding="utf-8")
        there = (repo / "examples" / "master" / "slurm_gpu_nodes.conf").read_text(encoding="utf-8")
        (root / "slurm_gpu_nodes.conf").write_text(there, encoding="utf-8")
        return root.parent, tmp_path / "gpu-nodes.conf"

    return made


def test_the_example_pillar_and_slurm_conf_from_the_mine(minion, checkout_options, site):
    wanted = {**pillars.example("slurm_mig"), "slurm_gpu_nodes": {"functional": "CPUs=64 RealMemory=515000"}}
    (root, file), (with_daemon, _) = site("false"), site("true")
    roots = {"base": [str(root), *checkout_options["file_roots"]["base"]]}
    changes = {**NODE, "tools": ["nvidia-smi", "scontrol", "systemctl"]}
    on = minion("dgx-h100", changes=changes, pillar=wanted, file_roots=roots)
    [state] = on.apply("slurm.slurm_gpu_nodes")
    assert state.result is False and not file.exists()
    assert state.name == "Nothing is in the mine from functional. Run: salt -L 'functional' mine.send gpu_slurm.gres"
    on.set_pillar(pillars.example("slurm_mig"))
    [state] = on.apply("slurm.slurm_gpu_nodes")
    assert state.result is False and "The pillar has no slurm_gpu_nodes" in state.name
    on.set_pillar(wanted)
    assert on.call("gpu_slicing.apply")["result"] is True
    on.call("mine.update")
    gres = ",".join(f"gpu:nvidia_h100_80gb_hbm3_{what}" for what in ("2g.20gb:1", "1g.10gb:1", "3g.40gb:1"))
    assert [state.result for state in on.apply("slurm.slurm_gpu_nodes")] == [True]
    first, *lines = file.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ") and lines == ["GresTypes=gpu", f"NodeName=dgx-h100 CPUs=64 RealMemory=515000 Gres={gres}"]
    assert [state.changes for state in on.apply("slurm.slurm_gpu_nodes")] == [{}]
    file.unlink()
    roots = {"base": [str(with_daemon), *checkout_options["file_roots"]["base"]]}
    controller = minion("dgx-h100", pillar=wanted, file_roots=roots)
    controller.call("mine.update")
    tested = controller.apply("slurm.slurm_gpu_nodes", test=True)
    assert [state.full_return["__id__"] for state in tested] == ["slurm_gpu_nodes", "slurmctld"] and not file.exists()
