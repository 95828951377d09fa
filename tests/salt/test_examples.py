"""
The examples as a user takes them: ``examples/top.sls`` gives each host of ``examples/hosts`` its pillar, and the highstate stages
bring it about. First as a test that touches nothing, then really, then again with nothing left to do.
"""

import json

import pytest
import yaml

from gpuslice.catalog import nvidia
from gpuslice.engine import Engine
from tests.support.hosts import config

FOUR = ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]
#: Host -> the profiles of every GPU in the end, or of each by its PCI address.
EXPECTED = {
    "a30-pair": {"0000:41:00.0": ["1g.6gb", "1g.6gb", "2g.12gb"], "0000:a1:00.0": ["1g.6gb", "1g.6gb", "2g.12gb"]},
    "arc-pro-b60": ["vf1", "vf2", "vf3"],
    "dgx-a100-40gb": ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"],
    "dgx-h100": FOUR,
    "flex170": ["vf1", "vf2", "vf3", "vf4", "vf5"],
    "hgx-b200": ["1c.3g.90gb", "1c.3g.90gb", "1c.3g.90gb", "3g.90gb"],
    "hgx-h200": ["1g.18gb"] * 7,
    "l4-pair": ["NVIDIA L4"] * 4,
    "l40s-pair": ["NVIDIA L40S"] * 4,
    "max1550": ["vf1", "vf2"],
    "memory-limits": {"0000:3d:00.0": [], "0000:41:00.0": [], "0000:8a:00.0": []},
    "mi210-gim": ["vf1"],
    "mi300x-8": ["CPX/NPS4"] * 8,
    "mixed": {"0000:07:00.0": ["3g.40gb", "3g.40gb"], "0000:3b:00.0": [], "0000:82:00.0": ["1g.10gb"] * 7},
    "mixed-vendors": {"0000:1b:00.0": FOUR, "0000:3d:00.0": ["SPX/NPS1"], "0000:8a:00.0": [], "0000:9a:00.0": []},
    "no-gpu": {},
    "rtx-pro-6000": ["1g.24gb", "1g.24gb", "2g.48gb+gfx"],
    "vgpu-guest": ["H100XM-10C"],
    "vgpu-host-mdev": {
        "0000:3b:00.0": ["1g.10gb", "1g.10gb", "3g.40gb", "A100D-1-10C", "A100D-1-10C", "A100D-3-40C"],
        "0000:86:00.0": ["T4-4Q", "T4-4Q", "T4-4Q"],
    },
    "vgpu-host-vfio": ["H100XM-10C"] * 8,
}
#: Hosts that the examples change; the others have nothing to slice.
CHANGED = sorted(set(EXPECTED) - {"no-gpu"})
#: Scheduler -> what its example needs of a host, the program that is asked, and the first words of all that was asked of it, mere
#: looks left out.
_PODS = {"name": "plugin-1", "namespace": "gpu-operator", "owner": "DaemonSet",
         "labels": {"app": "nvidia-device-plugin-daemonset"}}  # fmt: skip
SCHEDULERS = {
    "slurm": ({"tools": ["nvidia-smi", "scontrol"], "slurm": {"gres": "gpu:1"}}, "show", ["update", "reconfigure", "update"]),
    "kubernetes": (
        {"tools": ["nvidia-smi", "kubectl"], "files": {"/etc/kubernetes/gpu-slicing.kubeconfig": "x"},
         "kubernetes": {"pods": [_PODS, {"name": "job"}], "offers": {"nvidia.com/gpu": "7"}}},
        "get", ["patch", "drain", "apply", "delete", "patch"],
    ),
    "nomad": ({"tools": ["nvidia-smi", "systemctl", "nomad"], "units": ["nomad.service"], "nomad": {}}, "status",
              ["drain", "eligibility"]),
}  # fmt: skip
ROOTS = ("gpu_slicing", "states.gpu_slicing")


@pytest.fixture
def example(minion, repo):
    """``example("mixed", changes)``: a minion on that host whose pillar comes from ``examples/top.sls``."""

    def make(host, changes=None):
        return minion(host, changes=changes, pillar_roots={"base": [str(repo / "examples")]})

    return make


def hardware(minion):
    """The GPUs and files of the simulated host with everything that a change could touch, as text."""
    state = minion.host.state()
    return json.dumps([state["gpus"], state["written"]], sort_keys=True)


def in_compute_mode(repo):
    """The GPUs of rtx-pro-6000 after the workstation board was switched to its compute display mode."""
    description = yaml.safe_load((repo / "examples" / "hosts" / "rtx-pro-6000.yaml").read_text(encoding="utf-8"))
    assert [gpu.get("display_mode") for gpu in description["gpus"]] == [None, "graphics"]
    return [{**gpu, "display_mode": "compute"} for gpu in description["gpus"]]


def layout(minion):
    """PCI address -> sorted profile names, of every GPU."""
    found = {address: [] for address in minion.grains["gpu"]["addresses"]}
    parts = minion.call("gpu.slices", taken=True)
    # What others stand on is there, and is not offered.
    assert minion.call("gpu.slices") == [part for part in parts if not part["taken"]]
    for part in parts:
        found[part["gpu"]].append(part["profile"])
    return {address: sorted(names) for address, names in found.items()}


def wanted(host, addresses):
    """What :func:`layout` must be in the end."""
    expected = EXPECTED[host]
    return expected if isinstance(expected, dict) else dict.fromkeys(addresses, expected)


def failures(states):
    """Comments of the states that failed."""
    return [state.comment for state in states if state.result is False]


def go_through(minion):
    """A test, the change, the change again, and a test again; returns whether the change changed anything."""
    untouched = hardware(minion)
    tested = minion.apply("gpu_slicing", test=True)
    assert not failures(tested)
    assert hardware(minion) == untouched

    applied = minion.apply("gpu_slicing")
    assert not failures(applied)
    assert [bool(state.changes) for state in tested] == [bool(state.changes) for state in applied]
    for plan, done in zip(tested, applied, strict=True):
        assert plan.changes == done.changes

    settled = hardware(minion)
    for again in (minion.apply("gpu_slicing"), minion.apply("gpu_slicing", test=True)):
        assert not any(state.changes for state in again)
        assert all(state.result is True for state in again)
    assert hardware(minion) == settled
    return settled != untouched


def test_no_example_host_is_left_out(repo):
    assert {path.stem for path in (repo / "examples" / "hosts").glob("*.yaml")} == set(EXPECTED)


def test_the_instances_behind_vgpus_are_not_offered_beside_them(example):
    minion = example("vgpu-host-mdev")
    assert minion.apply("gpu_slicing")[1].result
    parts = {part["name"]: part for part in minion.call("gpu.slices", gpu="0000:3b:00.0", taken=True)}
    assert len(parts) == 6
    below = {part["of"] for part in parts.values() if part["kind"] == "vgpu"}
    assert below == {name for name, part in parts.items() if part["kind"] == "mig"} == {n for n, p in parts.items() if p["taken"]}
    assert [part["kind"] for part in minion.call("gpu.slices", gpu="0000:3b:00.0")] == ["vgpu"] * 3


@pytest.mark.parametrize("host", sorted(EXPECTED))
def test_an_example_host_is_sliced_by_the_example_pillar(example, repo, host):
    minion = example(host, {"gpus": in_compute_mode(repo)} if host == "rtx-pro-6000" else None)
    changed = go_through(minion)
    assert layout(minion) == wanted(host, minion.grains["gpu"]["addresses"])
    assert changed == (host in CHANGED)


def test_a_board_that_hides_mig_is_named_and_nothing_is_changed(example):
    minion = example("rtx-pro-6000")
    untouched = hardware(minion)
    told = " ".join(failures(minion.apply("gpu_slicing")))
    assert "0000:ac:00.0" in told and "displaymodeselector" in told
    assert hardware(minion) == untouched


@pytest.mark.parametrize("sls", ROOTS)
def test_the_stages_render_under_both_file_roots(minion, sls):
    low = minion("dgx-h100").show(sls)
    assert all(isinstance(chunk, dict) for chunk in low), low
    in_order = [chunk["fun"] for chunk in sorted(low, key=lambda chunk: chunk["order"]) if chunk["state"] == "gpu_slicing"]
    assert in_order[:3] == ["discovered", "converged", "validated"]
    assert {chunk["__sls__"].rpartition(".")[0] for chunk in low} == {sls}


@pytest.mark.parametrize("host", ["dgx-h100", "dgx-a100-40gb"])
def test_pillar_example_works_as_it_stands(minion, repo, host):
    pillar = yaml.safe_load((repo / "pillar.example").read_text(encoding="utf-8"))
    sliced = minion(host, pillar)
    assert go_through(sliced)
    profiles = {"dgx-h100": FOUR, "dgx-a100-40gb": ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"]}[host]
    assert layout(sliced) == dict.fromkeys(sliced.grains["gpu"]["addresses"], profiles)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_example_of_a_scheduler_tells_it_once_and_surrounds_the_change(minion, repo, scheduler):
    needs, look, order = SCHEDULERS[scheduler]
    pillar = yaml.safe_load((repo / "examples" / "pillar" / f"{scheduler}.sls").read_text(encoding="utf-8"))
    pillar["containers_gpu_slicing"] = {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 7}}}
    one = {"gpus": [{"model": "h100-80gb", "address": "0000:1b:00.0"}], "processes": [], "patience": 0.01}
    sliced = minion("dgx-h100", pillar, changes={**one, **needs})

    def asked():
        return [line.split()[0] for line in sliced.host.state().get(scheduler, {}).get("asked", ())]

    tested = sliced.apply("gpu_slicing", test=True)
    assert not failures(tested) and not asked() and scheduler in tested[1].changes
    assert f"Before it: run gpu_{scheduler}.drain" in tested[1].comment
    applied = sliced.apply("gpu_slicing")
    assert not failures(applied) and [word for word in asked() if word != look] == order
    assert layout(sliced) == {"0000:1b:00.0": ["1g.10gb"] * 7} and len(sliced.host.state()["written"]) == 1
    so_far = len(asked())
    assert not any(state.changes for state in sliced.apply("gpu_slicing")) and len(asked()) == so_far


def test_jobs_get_what_the_service_of_a_node_has_not(minion, repo):
    pillar = yaml.safe_load((repo / "examples" / "pillar" / "slurm_mig.sls").read_text(encoding="utf-8"))
    one = {"gpus": [{"model": "h100-80gb", "address": "0000:1b:00.0"}], "processes": [], "patience": 0.01}
    there = {"tools": ["nvidia-smi", "systemctl", "scontrol"], "units": ["trainer.service"], "slurm": {"gres": "gpu:1"}}
    sliced = minion("dgx-h100", pillar, changes={**one, **there})
    untouched = hardware(sliced)
    assert not failures(sliced.apply("gpu_slicing", test=True)) and hardware(sliced) == untouched
    assert not failures(sliced.apply("gpu_slicing"))
    assert not any(state.changes for state in sliced.apply("gpu_slicing"))
    assert layout(sliced) == {"0000:1b:00.0": ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]}
    lines = sliced.host.state()["written"]["/etc/slurm/gres.conf"].splitlines()
    assert len([line for line in lines if "Name=gpu" in line]) == 3 and any("consumer trainer has it" in line for line in lines)


def test_none_sls_leaves_every_gpu_alone(minion, repo):
    pillar = yaml.safe_load((repo / "examples" / "pillar" / "none.sls").read_text(encoding="utf-8"))
    assert not go_through(minion("mixed", pillar))


def test_what_one_host_exports_is_a_pillar_that_changes_nothing_there(minion, repo):
    pillar = yaml.safe_load((repo / "examples" / "pillar" / "h100.sls").read_text(encoding="utf-8"))
    sliced = minion("dgx-h100", pillar)
    assert not failures(sliced.apply("gpu_slicing"))
    exported = sliced.call("gpu_slicing.export")
    sliced.set_pillar(exported)
    assert not go_through(sliced)


def sliceable():
    """Keys of the models whose MIG placements the catalog knows."""
    return [key for key in nvidia.MODELS if nvidia.mig_table(key)]


@pytest.mark.parametrize("model", sliceable())
def test_every_model_with_known_placements_is_sliced_when_simulated(simulated, model):
    host = simulated("dgx-h100", gpus=[{"model": model, "address": "0000:1b:00.0"}])
    small = nvidia.profile_names(model)[0]
    for profiles in ({small: 2}, {small: 1}, {}):
        pillar = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": profiles}}}
        with Engine(config(host)) as engine:
            result = engine.apply(pillar)
            assert not result.errors
            assert [part["profile"] for part in engine.slices()] == [small] * profiles.get(small, 0)


def test_the_support_page_names_every_model_with_mig(repo):
    page = (repo / "docs" / "support.md").read_text(encoding="utf-8")
    for key, model in nvidia.MODELS.items():
        if model["mig"]:
            assert f"`{key}`" in page, f"docs/support.md says nothing of {key}"
