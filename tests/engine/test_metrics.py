"""What is told as metrics of described hosts: what there is, what fails, and what is left out."""

import pathlib
import re
import time

import pytest

from gpuslice import quarantine
from gpuslice.engine import Engine
from gpuslice.metrics import labels
from gpuslice.metrics.names import NAMES
from tests.conftest import ROOT
from tests.support import consumers
from tests.support import metrics
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed
from tests.support.metrics import gathered
from tests.support.metrics import unreadable
from tests.support.metrics import values

HOSTS = sorted(path.stem for path in (ROOT / "examples" / "hosts").glob("*.yaml"))
GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
DRAWS = {"power": {"default": 700, "least": 200}, "draw": {"idle": 70, "active": 600}}
TWO = [{"model": "h100-80gb", "address": address, "mig": "enabled", **DRAWS} for address in (GPU, OTHER)]
SEVEN = pillars.mig({"1g.10gb": 7})


@pytest.fixture
def sliced(simulated):
    """Two H100 in seven slices each."""
    host = simulated("dgx-h100", gpus=TWO, processes=[])
    assert apply(host, SEVEN).ok
    return host


def test_a_sliced_host_is_told_by_boards_and_slices(sliced):
    found, there = gathered(sliced), listed(sliced)
    slices = {labels["slice"]: labels for labels, _ in found["slice_info"]}
    assert {name: each["uuid"] for name, each in slices.items()} == {part["name"]: part["uuid"] for part in there}
    assert values(found, "slice_compute_ratio", "slice") == {part["name"]: part["compute"] for part in there}
    one = slices[f"{GPU}-1g.10gb-0"]
    [board] = [labels for labels, _ in found["board_info"] if labels["pci_bus_id"] == GPU]
    assert board["pci_bus_id_long"] == one["pci_bus_id_long"] == "00000000:1B:00.0"
    assert board["parent_uuid"] == one["parent_uuid"] != ""
    assert board["vendor"] == "nvidia" and board["model"].startswith("NVIDIA H100") and board["driver"] == "nvidia"
    assert one["GPU_I_PROFILE"] == "1g.10gb" and one["GPU_I_ID"].isdigit() and one["technique"] == "mig"
    assert one["consumer"] == one["of"] == ""
    assert {labels["GPU_I_ID"] for labels, _ in found["slice_info"] if labels["pci_bus_id"] == GPU} == set("789") | {
        "10", "11", "12", "13"
    }  # fmt: skip
    assert len(found["slice_memory_bytes"]) == len(found["slice_memory_used_bytes"]) == len(found["slice_processes"]) == 14
    assert values(found, "drift", "pci_bus_id") == {GPU: 0, OTHER: 0}
    assert found["layout_generation"] == [({}, 1)]
    [(_, at)] = found["last_verified_change_timestamp_seconds"]
    [(_, now)] = found["last_run_timestamp_seconds"]
    assert 0 <= now - at < 600


def test_every_metric_is_one_of_the_table_and_none_is_told_of_with_two_sets_of_labels(sliced):
    found = gathered(sliced, every=15)
    assert set(found) <= set(NAMES)
    for name, series in found.items():
        assert len({tuple(labels) for labels, _ in series}) == 1, name


def test_what_fits_is_told_from_the_look_at_hand(simulated):
    host = simulated("dgx-h100", gpus=TWO, processes=[])
    assert apply(host, pillars.mig(["1g.10gb@0", "1g.10gb@2", "1g.10gb@4"])).ok
    found = gathered(host)
    fits = {labels["profile"]: value for labels, value in found["free_placements"] if labels["pci_bus_id"] == GPU}
    with Engine(config(host)) as engine:
        room = engine.headroom("mig", GPU)[GPU]
    assert fits == room["now"] and fits["3g.40gb"] == 0
    assert values(found, "fragmentation_ratio", "pci_bus_id")[GPU] == room["fragmentation"] > 0


def test_a_full_board_is_not_fragmented(sliced):
    assert values(gathered(sliced), "fragmentation_ratio", "pci_bus_id") == {GPU: 0, OTHER: 0}


def test_a_slice_that_is_gone_has_no_series_any_more(sliced):
    assert len(gathered(sliced)["slice_info"]) == 14
    assert apply(sliced, pillars.rules(pillars.mig_rule(GPU, ["3g.40gb"]), pillars.mig_rule(OTHER, []))).ok
    found = gathered(sliced)
    assert [labels["slice"] for labels, _ in found["slice_info"]] == [f"{GPU}-3g.40gb-4"]
    assert found["layout_generation"] == [({}, 2)]


def test_another_layout_than_the_verified_one_is_drift_without_any_pillar(sliced):
    sliced.reboot()
    found = gathered(sliced)
    assert values(found, "drift", "pci_bus_id") == {GPU: 1, OTHER: 1} and "slice_info" not in found


def test_of_a_host_that_nobody_ever_changed_no_drift_is_told(simulated):
    found = gathered(simulated("dgx-h100"))
    assert "drift" not in found and "last_verified_change_timestamp_seconds" not in found
    assert found["layout_generation"] == [({}, 0)]


def test_a_board_that_was_given_away_behind_our_back_drifted(sliced):
    with sliced.change() as state:
        state["gpus"][GPU]["about"]["driver"] = "vfio-pci"
    found = gathered(sliced)
    assert values(found, "drift", "pci_bus_id") == {GPU: 1, OTHER: 0}
    [whole] = [labels for labels, _ in found["slice_info"] if labels["pci_bus_id"] == GPU]
    assert whole["technique"] == "passthrough" and whole["GPU_I_ID"] == ""


def test_who_was_handed_a_slice_is_told_of_it(simulated):
    host = consumers.machine(simulated)
    assert apply(host, consumers.pillar(consumers.EACH)).ok
    found = gathered(host)
    bound = values(found, "consumer_bound", "consumer")
    assert bound == dict.fromkeys(consumers.EACH, 1)
    by_slice = {labels["slice"]: labels["consumer"] for labels, _ in found["slice_info"]}
    assert sorted(filter(None, by_slice.values())) == sorted(consumers.EACH)


def test_shares_are_told_beside_what_they_stand_on(simulated):
    host = simulated("dgx-h100", gpus=TWO, processes=[])
    settings = {"profiles": ["1g.10gb"]}
    wanted = pillars.for_all("mig", settings, slicing={"time_slicing": {"enabled": True, "max_instance_count": 2}})
    result = apply(host, wanted)
    assert result.ok, result.errors
    found = {labels["slice"]: labels for labels, _ in gathered(host)["slice_info"] if labels["pci_bus_id"] == GPU}
    [whole] = [name for name, each in found.items() if each["technique"] == "mig"]
    shares = {f"{whole}-replica-{number}": whole for number in (1, 2)}
    assert {name: each["of"] for name, each in found.items()} == {whole: "", **shares}


# -- what fails ------------------------------------------------------------------------------------------------------------
def test_a_lost_board_leaves_the_others_told(sliced):
    with sliced.change() as state:
        state["gpus"][GPU]["health"]["lost"] = True
    found = gathered(sliced, every=15)
    assert {labels["pci_bus_id"] for labels, _ in found["board_info"]} == {GPU, OTHER}
    assert {labels["pci_bus_id"] for labels, _ in found["slice_info"]} == {OTHER}
    assert values(found, "drift", "pci_bus_id") == {OTHER: 0}
    missed = unreadable(found)
    assert any(what == "slices" for what, _ in missed) and missed[("drift", "unreadable")] == 1
    assert "unexpected" not in {reason for _, reason in missed}, missed


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("nvmlDeviceGetMigMode", "slices"),
        ("nvmlDeviceGetMemoryInfo", "memory"),
        ("nvmlDeviceGetPowerManagementLimit", "power-limit"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
        ("nvmlDeviceGetUtilizationRates", "utilization"),
    ],
)
@pytest.mark.parametrize("error", ["NVML_ERROR_UNKNOWN", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_NOT_SUPPORTED"])
def test_a_call_that_fails_is_counted_and_the_rest_is_told(sliced, call, what, error):
    sliced.add_fault({"call": call, "gpu": GPU, "times": 0, "error": error})
    found = gathered(sliced)
    missed = unreadable(found)
    assert any(each == what for each, _ in missed) or error == "NVML_ERROR_NOT_SUPPORTED", missed
    assert len(found["board_info"]) == 2 and {labels["pci_bus_id"] for labels, _ in found["slice_info"]} >= {OTHER}
    assert "unexpected" not in {reason for _, reason in missed}, missed


@pytest.mark.parametrize("call", ["nvmlDeviceGetMigMode", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_driver_that_does_not_answer_costs_its_board_and_no_other(simulated, call):
    host = simulated("dgx-h100", gpus=TWO, processes=[], patience=0.005)
    assert apply(host, SEVEN).ok
    host.add_fault({"call": call, "gpu": GPU, "times": 0, "hang": 3})
    begun = time.monotonic()
    found = gathered(host, every=15)
    assert time.monotonic() - begun < 30
    assert {labels["pci_bus_id"] for labels, _ in found["board_memory_bytes"]} >= {OTHER}
    assert {labels["pci_bus_id"] for labels, _ in found["slice_info"]} >= {OTHER}
    assert "not-answering" in {reason for _, reason in unreadable(found)}


def test_a_failure_that_nobody_foresaw_costs_what_it_hit_and_no_more(sliced, caplog):
    sliced.add_fault({"call": "nvmlDeviceGetMigMode", "gpu": GPU, "times": 1, "unexpected": True})
    found = gathered(sliced)
    assert {labels["pci_bus_id"] for labels, _ in found["slice_info"]} == {OTHER}
    assert unreadable(found)[("slices", "unexpected")] == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("file", "whats"),
    [("verified.json", {"records", "drift"}), ("energy.json", {"energy"}), ("consumers.json", {"consumers"}),
     ("quarantine.json", {"quarantine"})],
)
def test_a_damaged_record_is_counted_and_the_rest_is_told(sliced, file, whats):
    path = pathlib.Path(sliced.state_dir, file)
    path.write_text("{", encoding="utf-8")
    path.chmod(0o600)
    found = gathered(sliced, every=15)
    assert len(found["slice_info"]) == 14 and len(found["board_memory_bytes"]) == 2
    assert whats <= {what for what, _ in unreadable(found)}


def test_a_host_without_a_driver_still_has_its_boards(simulated):
    host = simulated("dgx-h100", gpus=TWO, processes=[], driver={"loaded": False})
    found = gathered(host, every=15)
    assert {labels["pci_bus_id"] for labels, _ in found["board_info"]} == {GPU, OTHER}
    assert "slice_info" not in found and "board_memory_bytes" not in found


def test_a_model_whose_name_is_an_attack_stays_in_its_label(simulated):
    name = 'x"} 1\ngpuslice_evil{a="\\'
    host = simulated("dgx-h100", gpus=[{**TWO[0], "name": name}], processes=[])
    found = gathered(host)
    assert "evil" not in found and len(found["board_info"]) == 1


@pytest.mark.parametrize("name", HOSTS)
def test_every_example_is_told_and_nothing_fails_in_a_way_that_nobody_foresaw(simulated, name):
    host = simulated(name)
    # The first run begins the record of energy.
    gathered(host, every=15)
    host.let_pass(15)
    found = gathered(host, every=15)
    assert len(found.get("board_info", ())) == len(host.state()["gpus"])
    missed = unreadable(found)
    assert "unexpected" not in {reason for _, reason in missed}, missed
    assert all(re.fullmatch("[a-z][a-z-]*", word) for pair in missed for word in pair), missed


def test_a_board_whose_energy_was_never_counted_has_none_told(simulated):
    host = simulated("dgx-h100", gpus=[{key: value for key, value in TWO[0].items() if key != "draw"}], processes=[])
    gathered(host, every=15)
    host.let_pass(15)
    found = gathered(host, every=15)
    assert not found.get("board_unallocated_energy_joules_total") and not found.get("slice_energy_joules_total")
    assert unreadable(found)["energy", "unsupported"] == 1


def test_energy_is_counted_from_one_run_to_the_next(sliced):
    gathered(sliced, every=15)
    sliced.let_pass(15)
    before = gathered(sliced, every=15)
    sliced.let_pass(15)
    found = gathered(sliced, every=15)
    for address in (GPU, OTHER):
        boards = [values(each, "board_energy_joules_total", "pci_bus_id")[address] for each in (before, found)]
        parts = [
            sum(value for labels, value in each["slice_energy_joules_total"] if labels["pci_bus_id"] == address)
            + values(each, "board_unallocated_energy_joules_total", "pci_bus_id")[address]
            for each in (before, found)
        ]
        assert boards[1] > boards[0] and parts[1] - parts[0] == pytest.approx(boards[1] - boards[0], abs=1)
    assert {(labels["kind"], labels["method"]) for labels, _ in found["slice_energy_joules_total"]} >= {("active", "capacity")}


def test_health_is_judged_by_each_run_and_told_as_it_was_by_hand(sliced):
    assert unreadable(gathered(sliced))[("health", "not-sampled-yet")] == 1
    first = gathered(sliced, every=15)
    assert {(labels["status"], value) for labels, value in first["board_health"]} == {
        ("ok", 1), ("degraded", 0), ("failed", 0), ("lost", 0)
    }  # fmt: skip
    assert len(first["slice_health"]) == 4 * 14 and "board_health_action" not in first
    with sliced.change() as state:
        state["gpus"][GPU]["health"]["lost"] = True
    sliced.let_pass(15)
    for found in (gathered(sliced, every=15), gathered(sliced)):
        by_board = {labels["pci_bus_id"]: labels["status"] for labels, value in found["board_health"] if value}
        assert by_board == {GPU: "lost", OTHER: "ok"}
        assert [labels["pci_bus_id"] for labels, _ in found["board_health_action"]] == [GPU]


def test_reading_by_hand_counts_and_writes_nothing(sliced):
    place = pathlib.Path(sliced.state_dir)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    gathered(sliced)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


# -- economy ---------------------------------------------------------------------------------------------------------------
def test_each_slice_is_looked_at_once_also_for_energy(sliced):
    with Engine(config(sliced)) as engine:
        metrics.gather(engine, 15)
        calls = engine.host.nvml().calls
    assert calls["nvmlInit"] == 1
    assert calls["nvmlGpuInstanceGetInfo"] == calls["nvmlComputeInstanceGetInfo"] == calls["nvmlDeviceGetUUID"] == 14
    assert calls["nvmlDeviceGetTotalEnergyConsumption"] == calls["nvmlDeviceGetMigMode"] == 2
    # Of each slice and of each board.
    assert calls["nvmlDeviceGetMemoryInfo"] == 16


@pytest.mark.parametrize(
    ("address", "long"), [("0000:1b:00.0", "00000000:1B:00.0"), ("10000:af:00.1", "00010000:AF:00.1")]
)
def test_an_address_as_nvml_has_it(address, long):
    assert labels.long_form(address) == long


def test_what_nobody_is_given_is_told_as_long_as_that_is_so(sliced):
    name = f"{GPU}-1g.10gb-0"
    assert "quarantined" not in gathered(sliced)
    with Engine(config(sliced)) as engine:
        assert quarantine.quarantined(engine, [name, OTHER])["result"]
    assert sorted((labels["name"], labels["scope"]) for labels, _ in gathered(sliced)["quarantined"]) == [
        (name, "slice"), (OTHER, "board")
    ]  # fmt: skip
    with Engine(config(sliced)) as engine:
        assert quarantine.released(engine, [name, OTHER])["result"]
    assert "quarantined" not in gathered(sliced)


@pytest.mark.parametrize("odd", ["-1000000", "-1", "18446744073709551615", "99999999999999999999"])
def test_a_power_limit_that_can_not_be_true_is_counted_and_not_told(simulated, odd):
    sysfs = {"hwmon/hwmon3/name": "amdgpu", "hwmon/hwmon3/power1_cap": odd}
    found = gathered(simulated("mi300x-8", gpus=[{"vendor": "amd", "device": "74a1", "address": "0000:2c:00.0", "sysfs": sysfs}]))
    assert "board_power_limit_watts" not in found
    assert [count for (what, _), count in unreadable(found).items() if what == "power-limit"] == [1]
