"""Nomad as Salt has it: hooks of a pillar, the state of the file, and data."""

from tests.support import pillars

GPU = "0000:1b:00.0"
FILE = "/etc/nomad.d/gpu.hcl"
NODE = {
    "gpus": [{"model": "h100-80gb", "address": GPU}], "processes": [], "patience": 0.01, "units": ["nomad.service"],
    "tools": ["nvidia-smi", "systemctl", "nomad"], "nomad": {},
}  # fmt: skip
HOOKS = {
    "before": [{"function": "gpu_nomad.drain", "args": ["MIG layout"]}],
    "after": [{"function": "gpu_nomad.resume", "kwargs": {"path": FILE, "unit": "nomad.service", "within": 30}}],
}


def asked(on):
    lines = on.host.state().get("nomad", {}).get("asked", ())
    return [" ".join(line.split()[:2]) for line in lines if not line.startswith("status")]


def test_a_highstate_drains_cuts_writes_and_takes_back(minion):
    on = minion("dgx-h100", changes=NODE, pillar=pillars.mig(["1g.10gb"] * 2, **HOOKS))
    tested = on.apply("gpu_slicing", test=True)
    assert [state.result for state in tested][1] is None and not asked(on)
    assert "Before it: run gpu_nomad.drain (within 60 s)" in tested[1].comment
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 3, [state.comment for state in applied]
    assert asked(on) == ["drain -enable", "eligibility -enable"]
    drained = next(line for line in on.host.state()["nomad"]["asked"] if line.startswith("drain"))
    assert "-m gpu-slicing: MIG layout (" in drained and "-meta gpu-slicing=" in drained
    assert on.state("gpu_nomad.plugin_config", name=FILE).changes == {} and on.call("gpu_nomad.is_drained") is False
    assert [state.result for state in on.apply("gpu_slicing")] == [True] * 3 and len(asked(on)) == 2


def test_the_file_is_a_state_of_its_own(minion):
    on = minion("dgx-h100", changes=NODE)
    tested = on.state("gpu_nomad.plugin_config", name=FILE, test=True)
    assert tested.result is None and tested.changes and not on.host.state()["written"]
    made = on.state("gpu_nomad.plugin_config", name=FILE, period="30s")
    assert made.result is True and made.comment == f"{FILE} is written for Nomad's device plugin."
    assert on.call("gpu_nomad.plugin_config", period="30s", text=True) == on.host.state()["written"][FILE]
    assert on.state("gpu_nomad.plugin_config", name=FILE, period="30s").changes == {}
    data = on.call("gpu_nomad.plugin_config")
    assert data["ignored_gpu_ids"] == [] and list(data["given"].values()) == [GPU] and data["plugin"] == "nomad-device-nvidia"
    for wrong in ({"name": "gpu.hcl"}, {"name": FILE, "period": "soon"}, {"name": FILE, "plugn": "x"}):
        assert on.state("gpu_nomad.plugin_config", **wrong).result is False
