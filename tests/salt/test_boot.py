"""
What a boot brings back, as Salt does it: the stage of the highstate, the functions by hand, and a replay that is stopped at each
of its writes, by an error and by ``kill -9``.
"""

import json
import pathlib
import signal
import subprocess

import pytest
import yaml

from gpuslice.boot import replay as boot
from gpuslice.boot import unit
from gpuslice.engine import Engine
from tests.support import hosts
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.crash import in_child

GPUS = ("0000:1b:00.0", "0000:43:00.0")
HOPPER = {"gpus": [{"model": "h100-80gb", "address": address} for address in GPUS], "processes": []}
PROFILES = ["3g.40gb@4", "1g.10gb@0"]
#: How often the replay calls each function that changes hardware, for one GPU.
CALLS = {
    "nvmlDeviceSetMigMode": 1,
    "nvmlDeviceCreateGpuInstanceWithPlacement": 2,
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement": 2,
}
HARDWARE = [(call, nth) for call, times in CALLS.items() for nth in range(1, times * len(GPUS) + 1)]
#: Files that a replay writes: the count, the journal, the history, the count again, and how it ended; then steps.
FILES = [("store_write", nth) for nth in range(1, 6)] + [("store_append", nth) for nth in (1, 5, 10)]


def hardware(minion):
    return json.dumps(minion.host.state()["gpus"], sort_keys=True)


def machine(minion):
    """Everything of the machine that a state could touch."""
    state = minion.host.state()
    return json.dumps([state["gpus"], state["written"]], sort_keys=True)


def placements(engine_config):
    """PCI address -> sorted (profile, start), of every GPU."""
    with Engine(engine_config) as engine:
        mig = engine.tools.get("mig")
        found = {gpu.address: mig.layout(mig.observe(gpu)) for gpu in engine.gpus}
    return {address: sorted(tuple(one[:2]) for one in layout["instances"]) for address, layout in found.items()}


WANTED = dict.fromkeys(GPUS, [("1g.10gb", 0), ("3g.40gb", 4)])
EMPTY = {address: [] for address in GPUS}


# -- Salt ----------------------------------------------------------------------------------------------------------------
def test_the_stage_is_there_when_the_pillar_says_so(minion):
    on = minion("dgx-h100", changes=HOPPER, pillar=pillars.mig(PROFILES, boot=True))
    untouched = machine(on)
    tested = on.apply("gpu_slicing", test=True)
    assert machine(on) == untouched
    assert [bool(state.changes) for state in tested] == [False, True, False, True]
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 4, [state.comment for state in applied]
    assert [state.changes for state in applied] == [state.changes for state in tested]
    again = on.apply("gpu_slicing")
    assert [(state.result, bool(state.changes)) for state in again] == [(True, False)] * 4
    text = on.host.read(unit.UNIT_PATH)
    assert f"--config-dir {on.place} " in text and f"ConditionPathExists={on.state_dir}/verified.json" in text


@pytest.mark.parametrize("said", [False, None])
def test_the_stage_is_not_there_by_default(minion, said):
    wanted = pillars.mig(PROFILES, boot=said) if said is not None else {"containers_gpu_slicing": {}}
    on = minion("dgx-h100", changes=HOPPER, pillar=wanted)
    assert "gpu_boot" not in json.dumps(on.show("gpu_slicing"))


def test_a_wrong_word_is_a_mistake_of_the_pillar(minion):
    on = minion("dgx-h100", changes=HOPPER, pillar=pillars.mig(PROFILES, boot="yes"))
    states = on.apply("gpu_slicing")
    assert states[0].result is False and "containers_gpu_state_management:boot" in states[0].comment


def test_highstate_reboot_replay_by_hand(minion):
    on = minion("dgx-h100", changes=HOPPER, pillar=pillars.mig(PROFILES, boot=True))
    assert all(state.result for state in on.apply("gpu_slicing"))
    config = on.opts["gpu_slicing"]
    on.host.reboot()
    on.reload()
    assert placements(config) == EMPTY
    assert on.call("gpu_boot.status")["unit"] == {
        "path": unit.UNIT_PATH, "present": True, "current": True, "enabled": True,
    }  # fmt: skip
    untouched = hardware(on)
    tested = on.call("gpu_boot.replay", test=True)
    assert set(tested["changes"]) == set(GPUS) and "result" not in tested and hardware(on) == untouched
    assert on.call("gpu_boot.replay")["result"] is True
    assert placements(config) == WANTED
    assert on.call("gpu_boot.replay")["changes"] == {}
    # The highstate after it finds nothing to do.
    assert [bool(state.changes) for state in on.apply("gpu_slicing")] == [False] * 4


def test_forget_enable_and_disable_by_hand(minion):
    on = minion("dgx-h100", changes=HOPPER)
    assert on.call("gpu_slicing.apply", pillars.mig(PROFILES, boot=False))["result"] is True
    before = machine(on)
    assert "result" not in on.call("gpu_boot.forget", GPUS[0], test=True)
    assert "result" not in on.call("gpu_boot.enable", test=True)
    assert machine(on) == before and set(on.call("gpu_boot.status")["gpus"]) == set(GPUS)
    assert on.call("gpu_boot.forget", GPUS[0])["result"] is True
    assert set(on.call("gpu_boot.status")["gpus"]) == {GPUS[1]}
    assert on.call("gpu_boot.enable")["result"] is True
    assert on.state("gpu_boot.enabled").changes == {}
    gone = on.state("gpu_boot.disabled")
    assert gone.result is True and gone.changes and not on.host.exists(unit.UNIT_PATH)
    assert on.state("gpu_boot.disabled").changes == {}


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("gpu_boot.forget", ["0000:ff:00.0"], "0000:ff:00.0"),
        ("gpu_boot.forget", [GPUS[0]], "No layout of this GPU was verified"),
        ("gpu_boot.replay", [False, "long"], "wait must be"),
        ("gpu_boot.replay", [False, 9000], "wait must be"),
    ],
)
def test_what_can_not_be_done_by_hand_is_one_sentence(minion, function, arguments, words):
    on = minion("dgx-h100", changes=HOPPER)
    untouched = machine(on)
    with pytest.raises(Exception, match=words) as caught:
        on.call(function, *arguments)
    assert type(caught.value).__name__ == "CommandExecutionError"
    assert machine(on) == untouched


def test_states_refuse_arguments_that_they_do_not_know(minion):
    on = minion("dgx-h100", changes=HOPPER)
    for function in ("gpu_boot.enabled", "gpu_boot.disabled"):
        answer = on.state(function, unit="x")
        assert answer.result is False and "Unknown argument unit" in answer.comment


def test_a_unit_that_can_not_be_written_fails_its_stage_and_leaves_the_slices(minion):
    on = minion("dgx-h100", changes={**HOPPER, "tools": ["nvidia-smi", "lspci"]}, pillar=pillars.mig(PROFILES, boot=True))
    states = on.apply("gpu_slicing")
    assert [state.result for state in states] == [True, True, True, False]
    assert "no systemctl" in states[3].comment and "gpu_boot.replay" in states[3].comment
    assert placements(on.opts["gpu_slicing"]) == WANTED


def test_command_line(minion):
    on = minion("dgx-h100", changes=HOPPER)
    untouched = machine(on)
    assert on.call("gpu_boot.cmdline")["missing"] == []
    assert machine(on) == untouched


def test_the_program_of_the_unit_answers_as_systemd_reads_its_exit_status(salt_call):
    """The very command line of the unit, in a process of its own: 0 for a replay that succeeded, else not 0."""
    call = salt_call("dgx-h100", changes=HOPPER, pillar=pillars.mig(PROFILES, boot=True))
    assert call("state.apply", "gpu_slicing").retcode == 0
    call.host.reboot()
    text = call.host.read(unit.UNIT_PATH)
    [line] = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(line.split(), capture_output=True, text=True, env=environment, cwd="/", timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "brought back" in done.stdout
    with call.host.change() as state:
        state["gpus"][GPUS[0]]["gis"] = {}
    call.host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    done = subprocess.run(line.split(), capture_output=True, text=True, env=environment, cwd="/", timeout=120, check=False)
    assert done.returncode != 0 and GPUS[0] in done.stdout and "Traceback" not in done.stdout + done.stderr


# -- faults --------------------------------------------------------------------------------------------------------------
def replay(config):
    with Engine(config) as engine:
        return boot.replay(engine, wait=0)


def replay_in_child(config):
    """Replay in a process of its own, which a fault may kill; returns the signal that ended it, 0 for none."""
    return in_child(lambda: replay(config))


@pytest.fixture
def rebooted(simulated):
    """Two H100 after the reboot that lost their slices: (host, minion configuration)."""
    host = simulated("dgx-h100", **HOPPER)
    config = hosts.config(host)
    with Engine(config) as engine:
        assert engine.apply(pillars.mig(PROFILES, boot=True)).ok
    assert placements(config) == WANTED
    host.reboot()
    return host, config


@pytest.mark.parametrize(("call", "nth"), HARDWARE)
def test_a_step_that_fails_once_costs_no_gpu_its_layout(rebooted, call, nth):
    """The common change is undone, then each GPU is tried alone: the failure was of the moment."""
    host, config = rebooted
    host.add_fault({"call": call, "nth": nth, "error": "NVML_ERROR_UNKNOWN"})
    assert replay(config)["result"] is True
    assert placements(config) == WANTED
    assert not pathlib.Path(host.state_dir, "journal.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), HARDWARE + FILES)
def test_kill_at_every_write_is_mended_by_the_next_replay(rebooted, call, nth, when):
    host, config = rebooted
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert replay_in_child(config) == signal.SIGKILL
    host.clear_faults()
    assert replay(config)["result"] is True
    assert placements(config) == WANTED
    assert not pathlib.Path(host.state_dir, "journal.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("call", "nth"), (HARDWARE + FILES)[::4])
def test_kill_and_power_loss_are_mended_by_the_next_boot(rebooted, call, nth):
    host, config = rebooted
    host.add_fault({"call": call, "nth": nth, "kill": "after"})
    assert replay_in_child(config) == signal.SIGKILL
    host.clear_faults()
    host.reboot()
    assert replay(config)["result"] is True
    assert placements(config) == WANTED


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), [("store_write", nth) for nth in (1, 2, 3)] + [("store_append", 3)])
def test_a_change_that_is_killed_is_on_record_as_old_or_new_and_a_boot_brings_that_back(simulated, call, nth, when):
    host = simulated("dgx-h100", **HOPPER)
    config = hosts.config(host)
    with Engine(config) as engine:
        assert engine.apply(pillars.mig(PROFILES, boot=True)).ok
    newer = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["7g.80gb"]}}}
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, newer) == signal.SIGKILL
    host.clear_faults()
    host.reboot()
    answer = replay(config)
    assert answer["result"] is True, answer
    assert placements(config) in (WANTED, dict.fromkeys(GPUS, [("7g.80gb", 0)]))
    with Engine(config) as engine:
        assert engine.apply(newer).ok
    assert placements(config) == dict.fromkeys(GPUS, [("7g.80gb", 0)])


@pytest.mark.parametrize(("call", "nth"), [("store_write", nth) for nth in range(1, 6)])
def test_a_disk_that_refuses_a_write_is_told_and_the_next_replay_succeeds(rebooted, call, nth):
    host, config = rebooted
    host.add_fault({"call": call, "nth": nth, "error": "EIO"})
    with Engine(config) as engine:
        try:
            told = json.dumps(boot.replay(engine, wait=0))
        except boot.errors.StateDirUnusable as err:
            told = str(err)
    assert "Input/output error" in told
    assert placements(config) in (EMPTY, WANTED)
    host.clear_faults()
    assert replay(config)["result"] is True
    assert placements(config) == WANTED


# -- every technique -----------------------------------------------------------------------------------------------------
def layouts(config):
    """(PCI address, technique) -> layout, of every GPU of which anything is on record."""
    with Engine(config) as engine:
        gpus = {gpu.address: gpu for gpu in engine.gpus}
        found = {}
        for key, entry in boot.Verified(engine.host).entries().items():
            tool = engine.tools.get(key.technique)
            for address in entry["addresses"]:
                found[address, tool.name] = json.loads(json.dumps(tool.layout(tool.observe(gpus[address]))))
        return found


@pytest.mark.parametrize(
    ("example", "pillar_file"),
    [
        ("mi300x-8", "mi300x"),
        ("flex170", "flex170"),
        ("arc-pro-b60", "arc_pro_b60"),
        ("hgx-b200", "b200"),
        ("mixed-vendors", "level_zero"),
        ("mixed-vendors", "passthrough"),
    ],
)
def test_what_the_examples_make_is_lost_at_a_reboot_and_comes_back(simulated, repo, example, pillar_file):
    wanted = yaml.safe_load((repo / "examples" / "pillar" / f"{pillar_file}.sls").read_text(encoding="utf-8"))
    host = simulated(example)
    config = hosts.config(host)
    with Engine(config) as engine:
        result = engine.apply(wanted)
    assert result.ok and result.changes, result.errors
    before = layouts(config)
    host.reboot()
    assert layouts(config) != before
    answer = replay(config)
    assert answer["result"] is True, answer
    assert layouts(config) == before
    assert replay(config)["changes"] == {}
