"""
What each slice is charged with of the energy of its board, on simulated boards whose meters are known: to the millijoule what the
board took, whatever happens between two looks.
"""

import contextlib
import json
import pathlib
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.energy import interval
from gpuslice.energy import meter
from gpuslice.energy import record
from gpuslice.energy import report
from gpuslice.engine import Engine
from gpuslice.sim import foreign
from gpuslice.sim.host import SimulatedHost
from tests.conftest import described
from tests.support import energy
from tests.support import metrics
from tests.support import pillars
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config

GPU = energy.H100["address"]
BIG, SMALL, IDLE = f"{GPU}-4g.40gb-0", f"{GPU}-1g.10gb-4", f"{GPU}-1g.10gb-5"
PLACED = {"4g.40gb@0": 0.5, "1g.10gb@4": 0.5}
MINUTE = 60


@pytest.fixture
def host(simulated):
    """An H100 in three slices that are idle, six of seven of its parts, of which the idle power is known."""
    host = simulated("dgx-h100", gpus=[{**energy.H100, "instances": list(PLACED) + ["1g.10gb@5"]}])
    energy.measured(host)
    host.let_pass(MINUTE)
    energy.measured(host)
    return host


def board(host, gpu=GPU):
    found = energy.charges(host)
    assert energy.is_whole(found, gpu)
    return found["boards"][gpu]


def within(mj, wanted):
    """The simulated clock runs on between two looks, by what a machine at work takes for these."""
    return mj == pytest.approx(wanted, rel=0.08)


def test_while_nobody_works_the_idle_power_is_learnt_and_goes_by_size(host):
    found, known = energy.charges(host), energy.figures(energy.charges(host), GPU)
    assert found["boards"][GPU]["idle_watts"] == pytest.approx(70, rel=0.01)
    assert found["boards"][GPU]["last"] == "capacity; no slice was seen at work"
    assert {name: active for (name, _), (active, _) in known.items()} == {BIG: 0, SMALL: 0, IDLE: 0}
    assert within(known[BIG, "capacity"][1], 70_000 * MINUTE * 4 / 7) and within(known[IDLE, "capacity"][1], 70_000 * MINUTE / 7)
    assert within(found["boards"][GPU]["unallocated_joules"], 70 * MINUTE / 7) and energy.is_whole(found, GPU)


def test_what_works_takes_what_the_meter_says(host):
    before = host.drawn(GPU)
    host.set_load(GPU, PLACED)
    energy.measured(host)
    host.let_pass(10 * MINUTE)
    energy.measured(host)
    after, found = host.drawn(GPU), energy.charges(host)
    known = energy.figures(found, GPU)
    for name, placed in ((BIG, "4g.40gb@0"), (SMALL, "1g.10gb@4")):
        assert within(known[name, "activity"][0], after[placed] - before.get(placed, 0))
    assert known[IDLE, "activity"][0] == 0 and known[IDLE, "activity"][1] > 0
    assert within(known[BIG, "activity"][0], 4 * known[SMALL, "activity"][0])
    assert energy.is_whole(found, GPU) and board(host)["last"] == "activity"


def test_one_slice_at_work_alone_has_all_of_the_work(host):
    host.set_load(GPU, {"1g.10gb@4": 1.0})
    energy.measured(host)
    host.let_pass(10 * MINUTE)
    energy.measured(host)
    known = energy.figures(energy.charges(host), GPU)
    assert within(known[SMALL, "activity"][0], 630_000 / 7 * 10 * MINUTE)
    assert known[BIG, "activity"][0] == known[IDLE, "activity"][0] == 0 and board(host)


def test_a_slice_that_begins_to_work_between_two_looks_counts_by_half(host):
    host.set_load(GPU, {"1g.10gb@4": 1.0})
    energy.measured(host)
    host.set_load(GPU, {"1g.10gb@5": 1.0})
    host.let_pass(10 * MINUTE)
    energy.measured(host)
    known = energy.figures(energy.charges(host), GPU)
    assert within(known[SMALL, "activity"][0], known[IDLE, "activity"][0]) and board(host)


def test_a_change_of_ours_closes_the_interval_and_what_it_takes_is_nobodys(host):
    host.set_load(GPU, {"1g.10gb@4": 1.0})
    energy.measured(host)
    host.let_pass(10 * MINUTE)
    assert apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
    found = energy.charges(host)
    known = energy.figures(found, GPU)
    assert within(known[SMALL, "activity"][0], 900_000 * MINUTE) and not found["boards"][GPU]["dropped"]
    assert {row["slice"]: row["there"] for row in found["slices"]}[SMALL] is False
    assert board(host)["last"] == "capacity; its slices were being changed"
    host.let_pass(MINUTE)
    energy.measured(host)
    assert energy.figures(energy.charges(host), GPU)[f"{GPU}-7g.80gb-0", "capacity"][1] > 0 and board(host)


def test_what_was_read_before_a_change_that_is_over_counts_nothing(host):
    with Engine(config(host)) as engine:
        read_at, stale = engine.host.monotonic(), engine.parts(GPU)
        host.let_pass(MINUTE)
        assert apply(host, WHOLE).ok
        before = board(host)
        host.let_pass(MINUTE)
        meter.look(engine, parts=lambda _: stale, read_at=read_at)
    assert board(host) == before
    energy.measured(host)
    found = board(host)
    assert not found["dropped"] and found["seconds"] - before["seconds"] == pytest.approx(MINUTE, rel=0.1)


def test_a_change_that_fails_and_an_undo_close_it_too(host):
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"})
    host.let_pass(MINUTE)
    assert not apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
    host.clear_faults()
    host.let_pass(MINUTE)
    energy.measured(host)
    found = energy.charges(host)
    assert not found["boards"][GPU]["dropped"] and energy.is_whole(found, GPU)
    # What was put back has other UUIDs, and is another row.
    assert len([row for row in found["slices"] if row["slice"] == SMALL and row["method"] == "capacity"]) == 2


@pytest.mark.parametrize("reset", ["auto", "tool"])
def test_a_look_keeps_no_board_from_its_reset(simulated, reset):
    gpu = energy.A100["address"]
    host = simulated("dgx-a100-40gb", gpus=[{**energy.A100, "mig": "disabled", "reset": reset}])
    energy.measured(host)
    host.let_pass(MINUTE)
    result = apply(host, pillars.rules(pillars.mig_rule(gpu, ["3g.20gb"])))
    assert result.ok and not result.reboot
    assert board(host, gpu)["seconds"] == pytest.approx(MINUTE, rel=0.1) and not board(host, gpu)["dropped"]


def test_a_change_that_was_killed_and_is_undone_is_one_of_ours(host):
    host.let_pass(MINUTE)
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "before"})
    wanted = pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))
    assert in_child(lambda: apply(host, wanted)) == signal.SIGKILL
    host.let_pass(MINUTE)
    with Engine(config(host)) as engine:
        assert engine.reconciler().recover(engine.gpus).ok
    host.let_pass(MINUTE)
    energy.measured(host)
    assert not board(host)["dropped"] and board(host)["seconds"] == pytest.approx(4 * MINUTE, rel=0.1)


@pytest.mark.parametrize(
    ("happens", "why", "is_known"),
    [
        (lambda host: host.reboot(), interval.REBOOTED, False),
        (lambda host: host.let_pass(3600), interval.GAP, True),
        (lambda host: recut(host), interval.LAYOUT, True),
        (lambda host: begin_anew(host), interval.RESET, False),
        (lambda host: jump(host), interval.ABSURD, False),
    ],
)
def test_what_can_not_be_apportioned_is_left_out_and_counted(host, happens, why, is_known):
    before = board(host)
    host.let_pass(MINUTE)
    happens(host)
    energy.measured(host)
    after = board(host)
    assert after["joules"] == before["joules"] and after["dropped"].keys() == {why}
    assert after["dropped"][why]["intervals"] == 1 and bool(after["dropped"][why]["joules"]) is is_known
    host.let_pass(MINUTE)
    energy.measured(host)
    # A reboot ends the MIG mode of this board; what it is then is measured all the same.
    assert board(host)["joules"] > after["joules"] and board(host)["dropped"] == after["dropped"]


def recut(host):
    with host.change() as state:
        foreign.act(state, {"gpu": GPU, "action": "destroy_gi", "profile": "1g.10gb", "start": 5})


def begin_anew(host):
    with host.change() as state:
        state["meters"][GPU]["counter"] = 0.0


def jump(host):
    with host.change() as state:
        state["meters"][GPU]["counter"] += 1e15


def test_the_clock_on_the_wall_has_no_say_in_lengths(host):
    before = board(host)
    host.set_clock(-86400)
    host.let_pass(MINUTE)
    energy.measured(host)
    after = board(host)
    assert not after["dropped"] and after["seconds"] - before["seconds"] == pytest.approx(MINUTE, rel=0.1)


def test_a_clock_before_its_epoch_leaves_a_record_that_is_believed(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100])
    host.set_clock(-5000 - host.now())
    for _ in range(3):
        assert not any(energy.measured(host).values())
        host.let_pass(MINUTE)
    host.set_clock(2e9)
    energy.measured(host)
    assert board(host)["joules"] > 0 and not board(host)["dropped"]


def test_who_looks_by_the_minute_says_so_and_gaps_are_told_by_that(host):
    energy.measured(host, every=60)
    host.let_pass(4 * MINUTE)
    energy.measured(host)
    assert board(host)["dropped"]["gap"]["intervals"] == 1


def test_without_utilisation_it_goes_by_capacity(simulated):
    gpu = energy.A100["address"]
    host = simulated("dgx-a100-40gb", gpus=[{**energy.A100, "instances": ["3g.20gb@0", "2g.10gb@4"]}])
    host.add_process({"pid": 7, "command": "train", "gpu": gpu, "slice": "3g.20gb@0"})
    host.set_load(gpu, {"3g.20gb@0": 1.0})
    energy.measured(host)
    host.let_pass(MINUTE)
    energy.measured(host)
    found = energy.charges(host)
    known = energy.figures(found, gpu)
    assert {method for _, method in known} == {"capacity"} and energy.is_whole(found, gpu)
    assert found["boards"][gpu]["idle_watts"] is None
    assert "the utilisation of a slice is not known; the idle power is not known yet" in found["boards"][gpu]["last"]
    three, two = known[f"{gpu}-3g.20gb-0", "capacity"][0], known[f"{gpu}-2g.10gb-4", "capacity"][0]
    assert within(three, 1.5 * two) and within(found["boards"][gpu]["unallocated_joules"] * 1000, two)


def test_compute_instances_of_one_instance_share_its_work_by_who_has_processes(simulated):
    parts = {"profile": "3g.40gb", "start": 4, "cis": [["2c.3g.40gb", 0], ["1c.3g.40gb", 2]]}
    host = simulated("dgx-h100", gpus=[{**energy.H100, "instances": [parts, "1g.10gb@0"]}])
    one, two, other = f"{GPU}-3g.40gb-4-1c-2", f"{GPU}-3g.40gb-4-2c-0", f"{GPU}-1g.10gb-0"
    for load in ({}, {"3g.40gb@4": 0.5, "1g.10gb@0": 0.5}):
        energy.measured(host)
        host.let_pass(MINUTE)
        energy.measured(host)
        host.set_load(GPU, load)
    energy.measured(host)
    host.let_pass(MINUTE)
    energy.measured(host)
    known = energy.figures(energy.charges(host), GPU)
    assert within(known[one, "activity"][0], known[other, "activity"][0])
    assert within(known[two, "activity"][0], 2 * known[one, "activity"][0])
    assert "are taken to be equally busy" in board(host)["last"]
    before = known[one, "activity"][0]
    host.add_process({"pid": 7, "command": "train", "gpu": GPU, "slice": "3g.40gb@4", "ci": 0})
    energy.measured(host)
    host.let_pass(MINUTE)
    energy.measured(host)
    after = energy.figures(energy.charges(host), GPU)
    assert after[one, "activity"][0] - before < 0.02 * after[two, "activity"][0] and board(host)


def test_while_somebody_has_a_context_no_idle_power_is_learnt(simulated):
    host = simulated("dgx-h100", gpus=[{**energy.H100, "instances": ["1g.10gb@4"]}])
    host.add_process({"pid": 7, "command": "train", "gpu": GPU, "slice": "1g.10gb@4"})
    for _ in range(3):
        energy.measured(host)
        host.let_pass(MINUTE)
    assert board(host)["idle_watts"] is None and "idle power is not known" in board(host)["last"]


def test_work_that_nobody_was_seen_at_is_no_idle_power(simulated):
    gpu = energy.A100["address"]
    host = simulated("dgx-a100-40gb", gpus=[{**energy.A100, "instances": ["3g.20gb@0"]}])
    energy.measured(host)
    host.set_load(gpu, {"3g.20gb@0": 1.0})
    host.let_pass(MINUTE)
    host.set_load(gpu, {})
    energy.measured(host)
    assert board(host, gpu)["idle_watts"] is None
    host.let_pass(MINUTE)
    energy.measured(host)
    assert board(host, gpu)["idle_watts"] == pytest.approx(50, rel=0.01)


def test_a_board_in_one_piece_is_charged_itself_and_one_without_instances_nobody(simulated):
    other = "0000:1d:00.0"
    host = simulated("dgx-h100", gpus=[{**energy.H100, "mig": "disabled"}, {**energy.H100, "address": other}])
    host.set_load(GPU, {"whole": 0.5})
    for _ in range(2):
        energy.measured(host)
        host.let_pass(MINUTE)
    found = energy.charges(host)
    assert [(row["slice"], row["kind"], row["method"]) for row in found["slices"]] == [(GPU, "gpu", "activity")]
    assert found["slices"][0]["active_joules"] == found["boards"][GPU]["joules"] > 0
    assert found["boards"][other]["unallocated_joules"] == found["boards"][other]["joules"] > 0


def test_a_look_says_what_became_of_what_a_board_took(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100])
    said = [energy.sentences(host)]
    host.let_pass(MINUTE)
    said.append(energy.sentences(host))
    host.reboot()
    said.append(energy.sentences(host))
    host.add_fault({"call": "nvmlDeviceGetTotalEnergyConsumption", "error": "NVML_ERROR_GPU_IS_LOST"})
    said.append(energy.sentences(host))
    assert [each[GPU] for each in said] == [
        "What it takes is counted from now on.",
        "What it took since the last look is apportioned by capacity: no slice was seen at work.",
        "What it took since the last look counts for nothing: rebooted.",
        "Its counter can't be read now: lost.",
    ]


def test_a_board_without_a_counter_is_told(simulated):
    host = simulated("dgx-h100", gpus=[{key: value for key, value in energy.H100.items() if key != "draw"}])
    assert energy.measured(host) == {GPU: "unsupported"}
    found = energy.charges(host)
    assert found["boards"][GPU]["unreadable"] == "unsupported" and found["slices"] == []
    # Not that it took nothing.
    assert report.table(found).splitlines()[-2:] == [f"{GPU} board                     -", f"{GPU} not measured now: unsupported"]


def test_a_failure_of_the_meter_fails_no_change(host, caplog):
    with open(f"{host.state_dir}/energy.json", "w", encoding="utf-8") as file:
        file.write("{")
    result = apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"])))
    assert result.ok and not result.warnings
    assert "what is counted by slice could not be read before the change" in caplog.text


def test_a_counter_over_which_the_driver_hangs_fails_no_change(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100], patience=0.02)
    energy.measured(host)
    host.add_fault({"call": "nvmlDeviceGetTotalEnergyConsumption", "hang": 3, "times": 0})
    began = time.monotonic()
    result = apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"])))
    assert result.ok and not result.warnings and time.monotonic() - began < 20
    host.clear_faults()
    energy.measured(host)
    # What the driver did not tell at either end is not estimated.
    assert board(host)["dropped"].keys() == {interval.LAYOUT}


def test_a_counter_that_hung_before_a_change_is_not_asked_after_it(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100], patience=0.02)
    energy.measured(host)
    host.add_fault({"call": "nvmlDeviceGetTotalEnergyConsumption", "nth": 1, "hang": 20})
    assert apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
    # Another call would have been answered.
    assert "the driver has not answered" in board(host)["unreadable"]
    assert energy.measured(host) == {GPU: ""}


def test_where_nothing_is_measured_a_change_measures_nothing(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100])
    with Engine(config(host)) as engine:
        assert engine.apply(pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
        assert "nvmlDeviceGetTotalEnergyConsumption" not in engine.host.nvml().calls
        assert "energy.json" not in host.store_names(host.state_dir)


def test_two_that_look_at_once_count_nothing_twice(host):
    host.set_load(GPU, PLACED)
    energy.measured(host)
    before = sum(host.drawn(GPU).values())
    already = board(host)["joules"]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            host.let_pass(MINUTE)
            list(pool.map(lambda _: energy.measured(host), range(4)))
    assert within((board(host)["joules"] - already) * 1000, sum(host.drawn(GPU).values()) - before)


def test_whoever_waits_too_long_for_another_look_is_told(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100], patience=0.02)
    with record.Energy(host).alone(), pytest.raises(errors.LockHeld) as caught:
        energy.measured(host)
    assert "Another process has been reading the energy counters for 0.1 s" in str(caught.value)


def test_a_kill_between_reading_and_writing_loses_nothing(host):
    before = board(host)
    host.let_pass(MINUTE)
    host.add_fault({"call": "nvmlDeviceGetTotalEnergyConsumption", "kill": "after"})
    assert in_child(lambda: energy.measured(host)) == signal.SIGKILL
    energy.measured(host)
    after = board(host)
    assert not after["dropped"] and after["seconds"] - before["seconds"] == pytest.approx(MINUTE, rel=0.1)


@pytest.mark.parametrize("error", ["NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNKNOWN"])
def test_a_board_that_can_not_be_read_for_once_is_not_estimated(host, error):
    before = board(host)
    host.let_pass(MINUTE)
    host.add_fault({"call": "nvmlDeviceGetTotalEnergyConsumption", "error": error})
    assert energy.measured(host)[GPU]
    assert board(host)["joules"] == before["joules"] and board(host)["unreadable"]
    host.clear_faults()
    host.let_pass(MINUTE)
    energy.measured(host)
    after = board(host)
    # The interval went on meanwhile.
    assert after["seconds"] - before["seconds"] == pytest.approx(2 * MINUTE, rel=0.1) and not after["unreadable"]


def test_a_layout_that_can_not_be_read_is_no_board_in_one_piece(host):
    host.let_pass(MINUTE)
    host.add_fault({"call": "nvmlDeviceGetGpuInstances", "error": "NVML_ERROR_UNKNOWN"})
    assert energy.measured(host)[GPU]
    found = energy.charges(host)
    assert not [row for row in found["slices"] if row["kind"] == "gpu"] and found["boards"][GPU]["unreadable"]


@pytest.mark.parametrize("call", ["nvmlDeviceGetGpuInstances", "nvmlDeviceGetTotalEnergyConsumption", "nvmlGpmSampleAlloc"])
@pytest.mark.parametrize("by", ["a look", "the metrics"])
def test_what_nobody_foresaw_of_one_board_leaves_the_others_and_is_no_board_in_one_piece(simulated, call, by):
    other = {**energy.H100, "address": "0000:43:00.0", "instances": ["1g.10gb@0"]}
    host = simulated("dgx-h100", gpus=[{**energy.H100, "instances": list(PLACED)}, other])
    look = partial(energy.measured, host) if by == "a look" else partial(metrics.gathered, host, MINUTE)
    look()
    before = {gpu: board(host, gpu) for gpu in (GPU, other["address"])}
    host.let_pass(MINUTE)
    host.add_fault({"call": call, "gpu": GPU, "unexpected": True})
    look()
    host.clear_faults()
    meanwhile = board(host)
    assert board(host, other["address"])["seconds"] > before[other["address"]]["seconds"]
    host.let_pass(MINUTE)
    look()
    after = board(host)
    assert not after["unreadable"] and not after["dropped"]
    assert not [row for row in energy.charges(host)["slices"] if row["kind"] == "gpu"]
    assert after["seconds"] == pytest.approx(2 * MINUTE, rel=0.1)
    assert meanwhile["unreadable"] in ("", "unexpected", "Its slices could not be read.")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["boards"][GPU]["total"].update(mj=-1),
        lambda data: data["boards"][GPU]["total"]["rows"].update({"99": [1, 1, 1, 1]}),
        lambda data: data["boards"][GPU].update(next=1),
        lambda data: data["boards"][GPU]["last"].update(used={"x": 2}),
        lambda data: data["boards"][GPU]["last"].update(seconds="now"),
        lambda data: data.update(since=None),
        lambda data: data.clear(),
    ],
)
def test_a_damaged_record_is_a_sentence_and_is_not_overwritten(host, damage):
    path = pathlib.Path(host.state_dir, "energy.json")
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps({"format": 1, **data}))
    before = path.read_text()
    for call in (energy.measured, energy.charges, lambda host: meter.totals(host)):
        with pytest.raises(errors.JournalDamaged) as caught:
            call(host)
        assert "Move that file away" in str(caught.value) and "Traceback" not in str(caught.value)
    assert path.read_text() == before


def test_a_newer_record_is_refused(host):
    path = pathlib.Path(host.state_dir, "energy.json")
    path.write_text('{"format": 2}')
    with pytest.raises(errors.NewerFormat):
        energy.measured(host)


def test_totals_are_what_the_report_says(host):
    [told] = meter.totals(host).values()
    found = energy.charges(host)
    assert told["joules"] == found["boards"][GPU]["joules"] and told["unallocated_joules"] > 0
    assert [row["slice"] for row in told["slices"]] == [row["slice"] for row in found["slices"]]


def test_where_nothing_is_measured_there_are_no_totals(simulated):
    assert meter.totals(simulated("dgx-h100")) == {}


@pytest.mark.parametrize("example", ["mi300x-8", "flex170", "l4-pair", "mixed-vendors", "no-gpu", "vgpu-host-vfio", "a30-pair"])
def test_a_look_at_any_machine_ends_with_a_word_for_each_board(simulated, example):
    host = simulated(example)
    said = energy.measured(host)
    assert set(said) == set(host.state()["gpus"]) and all(isinstance(word, str) for word in said.values())
    energy.measured(host)
    assert energy.charges(host)["boards"].keys() == said.keys()


def test_a_board_that_is_taken_out_is_told_to_be_gone(simulated, tmp_path):
    host = simulated("dgx-h100", gpus=[energy.H100, {**energy.H100, "address": "0000:1d:00.0"}])
    for _ in range(2):
        energy.measured(host)
        host.let_pass(MINUTE)
    with host.change() as state:
        del state["gpus"]["0000:1d:00.0"]
    said = energy.measured(host)
    assert said["0000:1d:00.0"] == "this board is no longer there"
    assert energy.charges(host)["boards"]["0000:1d:00.0"]["joules"] > 0


# -- whatever happens, in any order ----------------------------------------------------------------------------------------
WHOLE = pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))
SEVEN = pillars.rules(pillars.mig_rule(GPU, ["1g.10gb"] * 7))
SHARED = pillars.rules(
    pillars.rule(
        GPU, strategy="mig", mig={"profiles": ["3g.40gb", "1g.10gb"]}, time_slicing={"enabled": True, "max_instance_count": 7}
    )
)


def killed(host):
    host.add_fault({"call": "store_write", "kill": "before", "nth": 3})
    in_child(lambda: apply(host, WHOLE))
    host.clear_faults()


def fails(host):
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"})
    apply(host, SEVEN)
    host.clear_faults()


def cut_by_another(host):
    with host.change() as state:
        for action in ("destroy_gi", "create_gi"):
            try:
                foreign.act(state, {"gpu": GPU, "action": action, "profile": "1g.10gb", "start": 5})
            except errors.GpuSliceError:
                continue


EVENTS = {
    "look": energy.measured,
    "metrics": lambda host: metrics.gathered(host, MINUTE),
    "a while": lambda host: host.let_pass(MINUTE),
    "long": lambda host: host.let_pass(100 * MINUTE),
    "whole": lambda host: apply(host, WHOLE),
    "seven": lambda host: apply(host, SEVEN),
    "shared": lambda host: apply(host, SHARED),
    "busy": lambda host: host.set_load(GPU, {f"1g.10gb@{place}": 0.5 for place in range(7)}),
    "killed": killed,
    "fails": fails,
    "another": cut_by_another,
    "reboot": lambda host: host.reboot(),
    "clock": lambda host: host.set_clock(-86400),
}


@settings(max_examples=6)
@given(st.lists(st.sampled_from(sorted(EVENTS)), min_size=6, max_size=14))
def test_whatever_happens_no_energy_is_told_twice_and_none_that_was_not_drawn(events):
    with tempfile.TemporaryDirectory() as folder:
        host = SimulatedHost(str(described(folder, "dgx-h100", {"gpus": [energy.H100]})), f"{folder}/state")
        before, told = sum(host.drawn(GPU).values()), 0
        for event in ["look", *events]:
            with contextlib.suppress(errors.GpuSliceError):
                EVENTS[event](host)
            found = board(host)
            known = found["joules"] + sum(each["joules"] for each in found["dropped"].values())
            assert told <= found["joules"] and known * 1000 <= sum(host.drawn(GPU).values()) - before + 1
            told = found["joules"]
            for ago in (MINUTE, 86400, 9 * 86400):
                assert energy.is_whole(energy.charges(host, since=host.now() - ago), GPU)
