"""
What each slice is charged with of the energy of its board, on simulated boards whose meters are known: to the millijoule what the
board took, whatever happens between two looks.
"""

import pytest

from gpuslice.energy import interval
from gpuslice.engine import Engine
from gpuslice.sim import foreign
from tests.support import energy
from tests.support import pillars
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
    energy.look(host)
    host.let_pass(MINUTE)
    energy.look(host)
    return host


def board(host, gpu=GPU):
    found = energy.told(host)
    assert energy.is_whole(found, gpu)
    return found["boards"][gpu]


def within(mj, wanted):
    """The simulated clock runs on between two looks."""
    return mj == pytest.approx(wanted, rel=0.01)


def test_while_nobody_works_the_idle_power_is_learnt_and_goes_by_size(host):
    found, known = energy.told(host), energy.figures(energy.told(host), GPU)
    assert found["boards"][GPU]["idle_watts"] == pytest.approx(70, rel=0.01)
    assert found["boards"][GPU]["last"] == "capacity; no slice worked"
    assert {name: active for (name, _), (active, _) in known.items()} == {BIG: 0, SMALL: 0, IDLE: 0}
    assert within(known[BIG, "capacity"][1], 70_000 * MINUTE * 4 / 7) and within(known[IDLE, "capacity"][1], 70_000 * MINUTE / 7)
    assert within(found["boards"][GPU]["unallocated_joules"], 70 * MINUTE / 7) and energy.is_whole(found, GPU)


def test_what_works_takes_what_the_meter_says(host):
    before = host.drawn(GPU)
    host.set_load(GPU, PLACED)
    energy.look(host)
    host.let_pass(10 * MINUTE)
    energy.look(host)
    after, found = host.drawn(GPU), energy.told(host)
    known = energy.figures(found, GPU)
    for name, placed in ((BIG, "4g.40gb@0"), (SMALL, "1g.10gb@4")):
        assert within(known[name, "activity"][0], after[placed] - before.get(placed, 0))
    assert known[IDLE, "activity"][0] == 0 and known[IDLE, "activity"][1] > 0
    assert within(known[BIG, "activity"][0], 4 * known[SMALL, "activity"][0])
    assert energy.is_whole(found, GPU) and board(host)["last"] == "activity"


def test_one_slice_at_work_alone_has_all_of_the_work(host):
    host.set_load(GPU, {"1g.10gb@4": 1.0})
    energy.look(host)
    host.let_pass(MINUTE)
    energy.look(host)
    known = energy.figures(energy.told(host), GPU)
    assert within(known[SMALL, "activity"][0], 630_000 / 7 * MINUTE)
    assert known[BIG, "activity"][0] == known[IDLE, "activity"][0] == 0 and board(host)


def test_a_slice_that_begins_to_work_between_two_looks_counts_by_half(host):
    host.set_load(GPU, {"1g.10gb@4": 1.0})
    energy.look(host)
    host.set_load(GPU, {"1g.10gb@5": 1.0})
    host.let_pass(MINUTE)
    energy.look(host)
    known = energy.figures(energy.told(host), GPU)
    assert within(known[SMALL, "activity"][0], known[IDLE, "activity"][0]) and board(host)


def test_a_change_of_ours_closes_the_interval_and_what_it_takes_is_nobodys(host):
    host.set_load(GPU, {"1g.10gb@4": 1.0})
    energy.look(host)
    host.let_pass(MINUTE)
    assert apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
    found = energy.told(host)
    known = energy.figures(found, GPU)
    assert within(known[SMALL, "activity"][0], 90_000 * MINUTE) and not found["boards"][GPU]["dropped"]
    assert {row["slice"]: row["there"] for row in found["slices"]}[SMALL] is False
    assert board(host)["last"] == "capacity; its slices were being changed"
    host.let_pass(MINUTE)
    energy.look(host)
    assert energy.figures(energy.told(host), GPU)[f"{GPU}-7g.80gb-0", "capacity"][1] > 0 and board(host)


def test_a_change_that_fails_and_an_undo_close_it_too(host):
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"})
    host.let_pass(MINUTE)
    assert not apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
    host.clear_faults()
    host.let_pass(MINUTE)
    energy.look(host)
    found = energy.told(host)
    assert not found["boards"][GPU]["dropped"] and energy.is_whole(found, GPU)
    # What was put back has other UUIDs, and is another row.
    assert len([row for row in found["slices"] if row["slice"] == SMALL and row["method"] == "capacity"]) == 2


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
    energy.look(host)
    after = board(host)
    assert after["joules"] == before["joules"] and after["dropped"].keys() == {why}
    assert after["dropped"][why]["intervals"] == 1 and bool(after["dropped"][why]["joules"]) is is_known
    host.let_pass(MINUTE)
    energy.look(host)
    # A reboot ends the MIG mode of this board; what it is then is measured all the same.
    assert board(host)["joules"] > after["joules"] and board(host)["dropped"] == after["dropped"]


def recut(host):
    with host.change() as state:
        foreign.act(state, {"gpu": GPU, "action": "destroy_gi", "profile": "1g.10gb", "start": 5})


def begin_anew(host):
    with host.change() as state:
        state["gpus"][GPU]["meter"]["counter"] = 0.0


def jump(host):
    with host.change() as state:
        state["gpus"][GPU]["meter"]["counter"] += 1e15


def test_the_clock_on_the_wall_has_no_say_in_lengths(host):
    before = board(host)
    host.set_clock(-86400)
    host.let_pass(MINUTE)
    energy.look(host)
    after = board(host)
    assert not after["dropped"] and after["seconds"] - before["seconds"] == pytest.approx(MINUTE, rel=0.05)


def test_who_looks_by_the_minute_says_so_and_gaps_are_told_by_that(host):
    energy.look(host, every=60)
    host.let_pass(4 * MINUTE)
    energy.look(host)
    assert board(host)["dropped"]["gap"]["intervals"] == 1


def test_without_utilisation_it_goes_by_capacity(simulated):
    gpu = energy.A100["address"]
    host = simulated("dgx-a100-40gb", gpus=[{**energy.A100, "instances": ["3g.20gb@0", "2g.10gb@4"]}])
    host.add_process({"pid": 7, "command": "train", "gpu": gpu, "slice": "3g.20gb@0"})
    host.set_load(gpu, {"3g.20gb@0": 1.0})
    energy.look(host)
    host.let_pass(MINUTE)
    energy.look(host)
    found = energy.told(host)
    known = energy.figures(found, gpu)
    assert {method for _, method in known} == {"capacity"} and energy.is_whole(found, gpu)
    assert found["boards"][gpu]["idle_watts"] is None
    assert "the utilisation of a slice is not known; the idle power is not known yet" in found["boards"][gpu]["last"]
    three, two = known[f"{gpu}-3g.20gb-0", "capacity"][0], known[f"{gpu}-2g.10gb-4", "capacity"][0]
    assert within(three, 1.5 * two) and within(found["boards"][gpu]["unallocated_joules"] * 1000, two)


def test_while_somebody_has_a_context_no_idle_power_is_learnt(simulated):
    host = simulated("dgx-h100", gpus=[{**energy.H100, "instances": ["1g.10gb@4"]}])
    host.add_process({"pid": 7, "command": "train", "gpu": GPU, "slice": "1g.10gb@4"})
    for _ in range(3):
        energy.look(host)
        host.let_pass(MINUTE)
    assert board(host)["idle_watts"] is None and "idle power is not known" in board(host)["last"]


def test_work_that_nobody_was_seen_at_is_no_idle_power(simulated):
    gpu = energy.A100["address"]
    host = simulated("dgx-a100-40gb", gpus=[{**energy.A100, "instances": ["3g.20gb@0"]}])
    energy.look(host)
    host.set_load(gpu, {"3g.20gb@0": 1.0})
    host.let_pass(MINUTE)
    host.set_load(gpu, {})
    energy.look(host)
    assert board(host, gpu)["idle_watts"] is None
    host.let_pass(MINUTE)
    energy.look(host)
    assert board(host, gpu)["idle_watts"] == pytest.approx(50, rel=0.01)


def test_a_board_in_one_piece_is_charged_itself_and_one_without_instances_nobody(simulated):
    other = "0000:1d:00.0"
    host = simulated("dgx-h100", gpus=[{**energy.H100, "mig": "disabled"}, {**energy.H100, "address": other}])
    host.set_load(GPU, {"whole": 0.5})
    for _ in range(2):
        energy.look(host)
        host.let_pass(MINUTE)
    found = energy.told(host)
    assert [(row["slice"], row["kind"], row["method"]) for row in found["slices"]] == [(GPU, "gpu", "activity")]
    assert found["slices"][0]["active_joules"] == found["boards"][GPU]["joules"] > 0
    assert found["boards"][other]["unallocated_joules"] == found["boards"][other]["joules"] > 0


def test_a_board_without_a_counter_is_told(simulated):
    host = simulated("dgx-h100", gpus=[{key: value for key, value in energy.H100.items() if key != "draw"}])
    assert energy.look(host) == {GPU: "unsupported"}
    assert energy.told(host)["boards"][GPU]["unreadable"] == "unsupported" and energy.told(host)["slices"] == []


def test_a_failure_of_the_meter_fails_no_change(host, caplog):
    with open(f"{host.state_dir}/energy.json", "w", encoding="utf-8") as file:
        file.write("{")
    result = apply(host, pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"])))
    assert result.ok and not result.warnings
    assert "what is counted by slice could not be read before the change" in caplog.text


def test_where_nothing_is_measured_a_change_measures_nothing(simulated):
    host = simulated("dgx-h100", gpus=[energy.H100])
    with Engine(config(host)) as engine:
        assert engine.apply(pillars.rules(pillars.mig_rule(GPU, ["7g.80gb"]))).ok
        assert "nvmlDeviceGetTotalEnergyConsumption" not in engine.host.nvml().calls
        assert "energy.json" not in host.store_names(host.state_dir)
