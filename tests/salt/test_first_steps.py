"""
What somebody meets who sets this up for the first time: a key misspelt or forgotten, a GPU named wrongly. Each is told, with what
to do, and where it could mean the wrong GPUs it is refused.
"""

import pathlib

import pytest
from salt.exceptions import CommandExecutionError

from gpuslice import errors
from gpuslice.host.open import open_host

FIRST, SECOND = "0000:41:00.0", "0000:a1:00.0"
UUID = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
BOARDS = [{"model": "h100-80gb", "address": address, "uuid": UUID, "mig": "enabled"} for address in (FIRST, SECOND)]


def written(*rules, **more):
    """A pillar that is not switched on, unless ``more`` says so."""
    return {"containers_gpu_slicing": {"strategy": "mig", "mig": {"profiles": ["7g.80gb"]}, "devices": list(rules), **more}}


def test_a_misspelt_key_of_the_minion_does_not_mean_the_real_gpus():
    with pytest.raises(errors.PolicyError, match="unknown key 'simulat'. Its keys are simulate and state_dir"):
        open_host({"simulat": "/srv/gpu-slicing/examples/hosts/dgx-h100.yaml"})


def test_the_state_directory_is_the_same_wherever_salt_is_called():
    with pytest.raises(errors.PolicyError, match="gpu_slicing:state_dir .* is 'gpu/state'.*begins with '/'"):
        open_host({"state_dir": "gpu/state"})


def test_a_pillar_that_is_not_switched_on_says_so(minion):
    on = minion(changes={"gpus": BOARDS})
    said = "containers_gpu_slicing:enabled is false, so that no GPU is sliced. Set it to true where they are to be."
    assert on.call("gpu_slicing.validate", pillar=written()) == {"result": True, "mistakes": [], "warnings": [said]}
    told = f"Nothing is managed here: {said}\nNothing to do."
    assert on.call("gpu_slicing.plan", pillar=written()) == told
    assert on.call("gpu_slicing.apply", pillar=written()) == {"result": True, "changes": {}, "comment": told}
    only_a_rule = written({"match": {"pci": FIRST}, "mig": {"profiles": []}}, strategy="none")
    assert said in on.call("gpu_slicing.plan", pillar=only_a_rule)
    assert on.call("gpu_slicing.plan", pillar={}).splitlines()[-1] == "Nothing to do."


@pytest.mark.parametrize(
    ("section", "who"),
    [
        ({"slurm": {"enabled": True}}, "/etc/slurm/gres.conf"),
        ({"kubernetes": {"enabled": True}}, "/etc/kubernetes/nvidia-device-plugin.yaml"),
        ({"consumers": {"ada": {"kind": "user", "user": "ada"}}}, "ada"),
    ],
)
@pytest.mark.parametrize("slicing", [{}, {"containers_gpu_slicing": {"strategy": "none"}}])
def test_what_is_handed_out_and_told_says_that_slicing_is_not_switched_on(minion, section, who, slicing):
    on = minion(changes={"gpus": BOARDS})
    pillar = {**slicing, "containers_gpu_container_integration": section}
    [said] = on.call("gpu_slicing.validate", pillar=pillar)["warnings"]
    assert said.startswith(f"containers_gpu_slicing:enabled is false, so that nothing is done for {who} either. Set it to true")
    assert on.call("gpu_slicing.plan", pillar=pillar) == f"Nothing is managed here: {said}\nNothing to do."
    on_it = {"containers_gpu_slicing": {"enabled": True, "strategy": "none"}}
    assert "warnings" not in on.call("gpu_slicing.validate", pillar={**pillar, **on_it})
    silent = {**slicing, "containers_gpu_container_integration": {"slurm": {"enabled": False}, "consumers": {}}}
    assert "warnings" not in on.call("gpu_slicing.validate", pillar=silent)


def test_validate_refuses_the_gpus_that_a_plan_refuses(minion):
    on = minion(changes={"gpus": BOARDS})
    for match, why in (
        ({"pci": "0000:fe:00.0"}, "names 0000:fe:00.0: this host has no such GPU. Where a GPU may be absent, say"),
        ({"uuid": UUID}, f"names {UUID}, which is the UUID of {FIRST} and {SECOND}. Name the GPU by its PCI address"),
        ({"uuid": UUID[:-1] + "0"}, f"names {UUID[:-1]}0: this host has no such GPU."),
    ):
        rule = {"match": match, "mig": {"profiles": []}}
        wanted = written(rule, enabled=True)
        answer = on.call("gpu_slicing.validate", pillar=wanted)
        assert answer["result"] is False and why in answer["mistakes"][0], answer
        with pytest.raises(CommandExecutionError):
            on.call("gpu_slicing.plan", pillar=wanted)
    rule = {"match": {"pci": "0000:fe:00.0"}, "optional": True, "mig": {"profiles": []}}
    assert on.call("gpu_slicing.validate", pillar=written(rule, enabled=True)) == {"result": True, "mistakes": []}
    # Nobody can tell of a UUID that nobody has while one of the GPUs has not told its own.
    blind = minion(changes={"gpus": [BOARDS[0], {"vendor": "amd", "device": "74a1", "address": SECOND}]})
    rule = {"match": {"uuid": UUID[:-1] + "0"}, "mig": {"profiles": []}}
    assert blind.call("gpu_slicing.validate", pillar=written(rule, enabled=True))["result"] is True


@pytest.mark.parametrize("index", [0, 7])
def test_an_index_names_no_gpu(minion, index):
    on = minion(changes={"gpus": BOARDS})
    with pytest.raises(CommandExecutionError, match=f"^{index} is the index of a GPU.*by its PCI address or its UUID"):
        on.call("gpu.device", index)


def test_by_hand_nobody_is_sent_to_the_pillar(minion):
    on = minion(changes={"gpus": BOARDS})
    with pytest.raises(CommandExecutionError) as caught:
        on.call("gpu.device", "0000:fe:00.0")
    assert str(caught.value).startswith("0000:fe:00.0 is not among the GPUs of this host")
    assert str(caught.value).endswith("Name one of these, by its PCI address or its UUID.")
    with pytest.raises(CommandExecutionError, match=f"^{UUID} is the UUID of {FIRST} and {SECOND}"):
        on.call("gpu.device", UUID)


def test_on_a_host_without_gpus_nobody_is_told_to_name_one_of_them(minion):
    with pytest.raises(CommandExecutionError) as caught:
        minion("no-gpu").call("gpu.device", "0000:fe:00.0")
    assert str(caught.value) == (
        "0000:fe:00.0 is not among the GPUs of this host: none. 'lspci -D' shows which devices the host has; GPUs are found "
        "among them with or without a driver."
    )


def test_a_layout_that_fits_on_none_of_many_gpus_is_told_once(minion):
    wanted = written(enabled=True, mig={"profiles": {"3g.40gb": 1, "1g.10gb": 7}})
    with pytest.raises(CommandExecutionError) as refused:
        minion("dgx-h100").call("gpu_slicing.plan", pillar=wanted)
    first, told = str(refused.value).splitlines()
    assert first == "Nothing was changed:"
    assert told.startswith("- 8 x GPU (0000:1b:00.0, 43, 52, 61, 9d, c3, d1, df): 3g.40gb, 7 x 1g.10gb do not fit together")


def test_what_was_done_beside_a_gpu_in_use_is_told(minion):
    users = [{"pid": 4711, "command": "python3", "gpu": FIRST, "slice": "3g.40gb@0"}]
    on = minion(changes={"gpus": [{**BOARDS[0], "instances": ["3g.40gb@0"]}, BOARDS[1]], "processes": users})
    skip = {**written(enabled=True), "containers_gpu_state_management": {"apply_strategy": "skip"}}
    assert "Applied" not in on.call("gpu_slicing.apply", pillar=skip)["comment"]
    answer = on.call("gpu_slicing.apply", pillar=written(enabled=True))
    refused, made = answer["comment"].splitlines()
    assert answer["result"] is False and refused.startswith(f"GPU {FIRST}: ")
    assert refused.endswith("containers_gpu_state_management:apply_strategy to force.")
    assert made.startswith(f"Applied and verified on {SECOND} in ") and made.endswith(" s, generation 1.")
    [again] = on.call("gpu_slicing.apply", pillar=written(enabled=True))["comment"].splitlines()
    assert again == refused


def test_an_export_has_to_say_where(minion, tmp_path, monkeypatch):
    on = minion(changes={"gpus": BOARDS})
    monkeypatch.chdir(tmp_path)
    answer = on.state("gpu_slicing.exported", name="gpus.sls")
    assert answer.result is False and "no absolute path" in answer.comment
    assert not pathlib.Path("gpus.sls").exists()
    assert on.state("gpu_slicing.exported", name=str(tmp_path / "gpus.sls")).result is True
