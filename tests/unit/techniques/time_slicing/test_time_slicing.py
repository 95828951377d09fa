"""Time-slicing: what a duration comes to, what is planned, set, noted and undone, and what is refused."""

import json
import pathlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies

from gpuslice import errors
from gpuslice.drivers.compute_policy import STEPS
from gpuslice.engine import Engine
from gpuslice.model import Target
from gpuslice.techniques.base import Work
from gpuslice.techniques.time_slicing import section
from gpuslice.techniques.time_slicing.turns import IntelTurns
from gpuslice.techniques.time_slicing.turns import NvidiaTurns
from gpuslice.techniques.time_slicing.turns import step_of
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed

ONE, OTHER = "0000:41:00.0", "0000:a1:00.0"
FLEX, H100 = "0000:8a:00.0", "0000:1b:00.0"
GT = f"/sys/bus/pci/devices/{FLEX}/tile0/gt0/engines"


def wanted(**settings):
    return pillars.for_all("time-slicing", settings)


def plan(host, pillar):
    with Engine(config(host)) as engine:
        return engine.plan(pillar)


def by_hand(host, gpu, settings):
    with Engine(config(host)) as engine:
        return engine.reconciler().apply(engine.wanted("time-slicing", gpu, settings))


def hardware(host, address=ONE):
    """(step, compute mode) of a GPU."""
    found = host.state()["gpus"][address].get("compute", {"step": 0, "mode": 0})
    return STEPS[found["step"]], found["mode"]


def record(host):
    path = pathlib.Path(host.state_dir) / "time-slicing.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# -- durations --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "step"),
    [("999us", "short"), ("1ms", "default"), ("10ms", "default"), ("10.1ms", "medium"), ("50ms", "medium"), ("51ms", "long"),
     ("1s", "long")],
)  # fmt: skip
def test_a_duration_comes_to_a_step_by_the_table(text, step):
    assert step_of(section.seconds(text)) == step


@given(strategies.floats(1e-6, 60), strategies.floats(1e-6, 60))
def test_a_longer_duration_never_comes_to_a_shorter_step(one, other):
    order = ("short", "default", "medium", "long")
    shorter, longer = sorted((one, other))
    assert order.index(step_of(shorter)) <= order.index(step_of(longer))


@pytest.mark.parametrize("step", range(4))
def test_a_step_is_told_by_a_duration_that_comes_back_to_it(step):
    text = section.span(NvidiaTurns(None).seconds({"timeslice": step}))
    assert STEPS.index(step_of(section.seconds(text))) == step


@given(strategies.integers(1, 10**7))
def test_a_duration_in_microseconds_survives_being_written(number):
    assert round(section.seconds(section.span(number / 1_000_000)) * 1_000_000) == number


# -- whole GPUs -------------------------------------------------------------------------------------------------------
def test_a_plan_says_the_step_and_that_nothing_is_isolated(simulated):
    host = simulated("l4-pair")
    told = plan(host, wanted(max_instance_count=2)).text()
    assert "set time slice long" in told
    assert "time slice long; the driver does not publish its length; no memory isolation; turns are equal and advisory." in told
    assert record(host) is None and hardware(host) == ("default", 0)


def test_a_gpu_is_shared_once_and_its_replicas_are_slices(simulated):
    host = simulated("l4-pair")
    assert apply(host, wanted(max_instance_count=2)).ok
    assert hardware(host) == hardware(host, OTHER) == ("long", 0)
    first = listed(host)[0]
    assert first["name"] == f"{ONE}-replica-1" and first["of"] == ONE and first["kind"] == "replica"
    assert (first["compute"], first["memory_mib"], first["device_nodes"]) == (0.5, 24576, ["/dev/nvidia0"])
    assert [part["name"] for part in listed(host)][1:] == [f"{ONE}-replica-2", f"{OTHER}-replica-1", f"{OTHER}-replica-2"]
    assert record(host)["format"] == 1
    again = apply(host, wanted(max_instance_count=2))
    assert again.plan.empty and again.generation is None


def test_only_what_differs_is_written(simulated):
    host = simulated("l4-pair")
    assert apply(host, wanted(slice_duration="5ms")).ok
    made = plan(host, wanted(slice_duration="30ms", max_instance_count=8))
    assert [step.words for step in made.steps] == ["set time slice medium"] * 2
    assert not plan(host, wanted(slice_duration="7ms")).steps


def test_a_mode_that_lets_one_program_in_is_changed_and_put_back_in_the_end(simulated):
    host = simulated("l4-pair")
    with host.change() as state:
        state["gpus"][ONE]["compute"] = {"epoch": state["gpus"][ONE]["epoch"], "step": 1, "mode": 3}
    assert by_hand(host, ONE, {"max_instance_count": 2}).ok and hardware(host) == ("long", 0)
    assert by_hand(host, ONE, {"max_instance_count": 3, "slice_duration": "1ms"}).ok and hardware(host) == ("default", 0)
    assert by_hand(host, ONE, {"clear": True}).ok
    assert hardware(host) == ("short", 3) and record(host) is None and listed(host) == []
    assert by_hand(host, ONE, {"clear": True}).plan.empty


def test_a_driver_that_refuses_leaves_everything_as_it_was(simulated):
    host = simulated("l4-pair")
    description = pathlib.Path(host.description_path).read_text(encoding="utf-8")
    assert "no_timeslice: true" in description
    with host.change() as state:
        state["gpus"][OTHER]["about"]["no_timeslice"] = True
    result = apply(host, wanted(max_instance_count=2))
    assert not result.ok and f"GPU {OTHER}" in result.errors[0] and "NVIDIA L4 takes no time slice" in result.errors[0]
    # The other GPU keeps its change.
    assert hardware(host) == ("long", 0) and hardware(host, OTHER) == ("default", 0)
    assert list(record(host)["gpus"]) == [ONE]


def test_a_damaged_record_is_a_sentence(simulated):
    host = simulated("l4-pair")
    (pathlib.Path(host.state_dir) / "time-slicing.json").write_text('{"format": 1, "gpus": {"x": 1}}', encoding="utf-8")
    with pytest.raises(errors.StateDirUnusable, match="record of shared slices, .*time-slicing.json, can't be used"):
        by_hand(host, ONE, {})


def test_looking_at_what_nobody_shares_runs_no_program(simulated):
    host = simulated("l4-pair", tools=["lspci"])
    assert listed(host) == []
    with Engine(config(host)) as engine:
        assert [rule["strategy"] for rule in engine.export()["containers_gpu_slicing"]["devices"]] == ["none", "none"]


# -- MIG --------------------------------------------------------------------------------------------------------------
def test_a_pillar_for_whole_gpus_is_not_meant_for_mig_devices(simulated):
    host = simulated("a30-pair")
    with pytest.raises(errors.PolicyError) as caught:
        plan(host, wanted())
    told = str(caught.value)
    assert f"{ONE}-2g.12gb-0, {ONE}-1g.6gb-2, {ONE}-1g.6gb-3" in told
    assert "write 'strategy: mig' with their profiles, and 'time_slicing: {enabled: true}' beside it" in told
    assert f"or remove them first ('salt-call gpu_mig.set_mode {ONE} False')" in told


def test_by_hand_the_mig_devices_that_are_there_are_shared(simulated):
    host = simulated("a30-pair")
    assert by_hand(host, ONE, {"max_instance_count": 2, "profiles": ["1g.6gb"]}).ok
    assert [part["name"] for part in listed(host)] == [
        f"{ONE}-2g.12gb-0", *(f"{ONE}-1g.6gb-{start}-replica-{number}" for start in (2, 3) for number in (1, 2)),
    ]  # fmt: skip
    with Engine(config(host)) as engine:
        everything = engine.slices(ONE, taken=True)
    assert {part["name"]: part["taken"] for part in everything if part["kind"] == "mig"} == {
        f"{ONE}-2g.12gb-0": False, f"{ONE}-1g.6gb-2": True, f"{ONE}-1g.6gb-3": True,
    }  # fmt: skip


def test_by_hand_a_profile_that_no_device_has_is_refused_and_changes_nothing(simulated):
    host = simulated("a30-pair")
    assert by_hand(host, ONE, {"max_instance_count": 2}).ok
    before = record(host)
    with pytest.raises(errors.PolicyError) as caught:
        by_hand(host, ONE, {"profiles": ["1g.6bg"]})
    assert str(caught.value) == (
        f"GPU {ONE}: No MIG device is one of 1g.6bg, whose devices are to be shared; there are 2g.12gb, 1g.6gb. "
        "Name some of these, or leave profiles out to share all."
    )
    assert record(host) == before


def test_by_hand_profiles_are_not_ignored_on_a_whole_gpu(simulated):
    host = simulated("l4-pair")
    with pytest.raises(errors.PolicyError, match="MIG devices of 1g.6gb are to be shared, and the GPU has none. Leave"):
        by_hand(host, ONE, {"profiles": ["1g.6gb"]})
    assert record(host) is None


def test_a_pillar_whose_profiles_no_device_has_is_told_what_there_is(simulated):
    sharing = {"enabled": True, "profiles": ["1g.6bg"]}
    rule = {"match": {"pci": OTHER}, "strategy": "mig", "mig": {"profiles": ["2g.12gb", "1g.6gb"]}, "time_slicing": sharing}
    told = plan(simulated("a30-pair"), pillars.rules(rule)).text()
    assert "No MIG device is one of 1g.6bg, whose devices are to be shared; there are " in told


def test_a_map_begins_with_the_silicon(simulated):
    host = simulated("a30-pair")
    assert by_hand(host, ONE, {"max_instance_count": 2, "profiles": ["2g.12gb"]}).ok
    with Engine(config(host)) as engine:
        drawn = engine.maps(ONE)[ONE]
    assert drawn.startswith("[2g.12gb") and drawn.endswith(f"]; {ONE}-2g.12gb-0 among 2")


def test_a_gpu_in_mig_mode_without_devices_has_nothing_to_share(simulated):
    host = simulated("dgx-a100-40gb")
    with pytest.raises(errors.PolicyError, match="it is in MIG mode and has no MIG device"):
        plan(host, wanted())
    with pytest.raises(errors.Unsupported) as caught:
        by_hand(host, "0000:07:00.0", {"profiles": ["1g.5gb"]})
    assert str(caught.value) == (
        "GPU 0000:07:00.0: Nothing of the GPU can be shared: it is in MIG mode and has no MIG device: only these can be used. "
        "Make some ('salt-call gpu_mig.create 0000:07:00.0 <profile>'), or switch MIG mode off "
        "('salt-call gpu_mig.set_mode 0000:07:00.0 False') to share the whole GPU."
    )


# -- vGPUs, Intel, AMD ------------------------------------------------------------------------------------------------
def test_the_turns_of_a_vgpu_are_left_to_its_host(simulated):
    host = simulated("vgpu-guest")
    rules = [{"match": {"vendor": "nvidia"}, "strategy": "time-slicing"}]
    made = plan(host, pillars.rules(*rules))
    assert not [step for step in made.steps if step.action == "set"]
    assert "how long a turn lasts is for the host of this vGPU to say" in made.text()
    assert apply(host, pillars.rules(*rules)).ok


def test_on_intel_each_engine_class_gets_the_duration(simulated):
    host = simulated("mixed-vendors")
    assert by_hand(host, FLEX, {"max_instance_count": 2, "slice_duration": "20ms"}).ok
    classes = host.listdir(GT)
    assert classes and {host.read(f"{GT}/{name}/timeslice_duration_us") for name in classes} == {"20000"}
    with Engine(config(host)) as engine:
        [rule] = [rule for rule in engine.export()["containers_gpu_slicing"]["devices"] if rule["match"]["pci"] == FLEX]
    assert rule["strategy"] == "time-slicing" and rule["time_slicing"]["slice_duration"] == "20ms"
    assert by_hand(host, FLEX, {"clear": True}).ok
    assert {host.read(f"{GT}/{name}/timeslice_duration_us") for name in classes} == {"1000"}


def test_engine_classes_with_the_same_duration_are_named_together():
    tool = IntelTurns(None)
    assert tool.told({"tile0/gt0/ccs": 5, "tile0/gt0/bcs": 5}) == "timeslice_duration_us 5 of tile0/gt0/bcs, tile0/gt0/ccs"
    assert tool.told({"b": 5, "a": 7, "c": 5}) == "timeslice_duration_us 5 of b, c; timeslice_duration_us 7 of a"


def test_a_duration_that_the_driver_does_not_allow_is_refused(simulated):
    with pytest.raises(errors.PolicyError, match="slice_duration is 60000000 us, and the driver allows 1 to 10000000 us"):
        by_hand(simulated("mixed-vendors"), FLEX, {"slice_duration": "60s"})


def test_who_can_not_is_told_why(simulated):
    with Engine(config(simulated("mixed-vendors"))) as engine:
        with pytest.raises(errors.Unsupported, match="AMD's drivers share a GPU as they like"):
            engine.wanted("time-slicing", "0000:3d:00.0", {})
        with pytest.raises(errors.Unsupported, match="it needs the driver xe"):
            engine.wanted("time-slicing", "0000:9a:00.0", {})
    with Engine(config(simulated("arc-pro-b60"))) as engine:
        with pytest.raises(errors.Unsupported, match="its driver xe shows no tile whose engines could be set"):
            engine.wanted("time-slicing", "0000:03:00.0", {})


def test_a_gpu_that_can_not_keeps_a_pillar_for_all_from_no_other(simulated):
    """An integrated GPU under i915 is on many a host."""
    host = simulated("mixed-vendors")
    told = plan(host, wanted()).text()
    assert "0000:9a:00.0 Intel Data Center GPU Max 1550: left alone, not applicable" in told
    assert apply(host, wanted()).ok and hardware(host, H100) == ("long", 0)


@pytest.mark.parametrize(("example", "gpu"), [("vgpu-host-vfio", "0000:41:00.0"), ("vgpu-host-mdev", "0000:3b:00.0")])
def test_a_host_of_vgpus_has_nothing_to_share(simulated, example, gpu):
    host = simulated(example)
    with pytest.raises(errors.Unsupported, match="vGPU manager has it for virtual machines, whose turns 'vgpu:scheduler' sets"):
        plan(host, pillars.for_gpu(gpu, "time-slicing"))
    made = plan(host, wanted())
    assert made.empty and "left alone, not applicable" in made.text()


def test_a_gpu_whose_virtual_functions_are_in_use_is_no_whole(simulated):
    host = simulated("mixed-vendors")
    assert by_hand(host, FLEX, {"max_instance_count": 2}).ok
    with Engine(config(host)) as engine:
        tool, gpu = engine.tools.get("time-slicing"), engine.gpu(FLEX)
        cut = replace(gpu, virtual_functions={"total": 4, "enabled": 2, "addresses": []})
        assert tool.slices(gpu, tool.observe(gpu)) and tool.slices(cut, tool.observe(cut)) == []
        with pytest.raises(errors.ResourceConflict, match="2 of its virtual functions are enabled, which have parts"):
            tool.plan([Work(Target(cut, settings={}), tool.observe(cut))])
        # What is on record can be ended all the same.
        [part] = tool.plan([Work(Target(cut, settings={"clear": True}), tool.observe(cut))])
        assert part.steps


# -- who else is there ------------------------------------------------------------------------------------------------
def test_mps_keeps_its_gpu(simulated):
    host = simulated("l4-pair")
    with host.change() as state:
        gpu = state["gpus"][ONE]
        gpu["compute"] = {"epoch": gpu["epoch"], "step": 0, "mode": 3}
    host.add_process({"pid": 4711, "command": "nvidia-cuda-mps-server", "nodes": ["/dev/nvidia0"]})
    result = by_hand(host, ONE, {})
    assert not result.ok and "MPS shares it already: in use by pid 4711 (nvidia-cuda-mps-server)" in result.errors[0]
    assert hardware(host) == ("default", 3) and record(host) is None


# -- the record -------------------------------------------------------------------------------------------------------
def test_another_board_in_the_slot_has_no_part_in_what_was_noted(simulated):
    host = simulated("l4-pair")
    assert by_hand(host, ONE, {"max_instance_count": 2}).ok
    path = pathlib.Path(host.state_dir) / "time-slicing.json"
    assert record(host)["gpus"][ONE]["device"] == "nvidia 27b8"
    path.write_text(path.read_text(encoding="utf-8").replace("nvidia 27b8", "intel 56c0"), encoding="utf-8")
    with Engine(config(host)) as engine:
        assert engine.slices() == [] and engine.maps() == {}
        assert plan(host, pillars.for_all("none")).notes == ()
    assert by_hand(host, ONE, {"max_instance_count": 3}).ok and len(listed(host)) == 3


@pytest.mark.parametrize("former", [{"compute_mode": 7}, {"timeslice": 99}, {"timeslice": -1}])
def test_a_setting_that_there_is_not_is_damage(simulated, former):
    host = simulated("l4-pair")
    assert by_hand(host, ONE, {}).ok
    path = pathlib.Path(host.state_dir) / "time-slicing.json"
    kept = record(host)
    kept["gpus"][ONE]["former"] = former
    path.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(errors.StateDirUnusable, match="can't be used .*former:.* is no whole number from 0 to 3"):
        by_hand(host, ONE, {"clear": True})


# -- strategy auto ----------------------------------------------------------------------------------------------------
def test_strategy_auto_leaves_alone_what_has_nothing_to_share(simulated):
    host = simulated("dgx-a100-40gb")
    auto = pillars.for_all("auto", slicing={"auto_strategy": {"bare_metal": "time-slicing"}})
    made = plan(host, auto)
    assert made.empty and "left alone: Nothing of the GPU can be shared: it is in MIG mode and has no MIG device" in made.text()
