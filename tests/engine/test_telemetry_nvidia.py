"""
Readings of NVIDIA's boards and slices: each number as the machine has it, and each that is not told left out with its reason.
"""

import pytest

from gpuslice.drivers.telemetry import Telemetry
from gpuslice.engine import Engine
from gpuslice.techniques.whole import whole_gpu
from tests.support.hosts import config
from tests.support.telemetry import fixtures
from tests.support.telemetry import looking
from tests.support.telemetry import machine
from tests.support.telemetry import why

H100, A100 = "0000:1b:00.0", "0000:1c:00.0"
HOST = """
name: telemetry
gpus:
- model: h100-80gb
  address: "0000:1b:00.0"
  mig: enabled
  instances: ["3g.40gb@0", "1g.10gb@6", {profile: 2g.20gb, start: 4, cis: [["1c.2g.20gb", 0], ["1c.2g.20gb", 1]]}]
  draw: {idle: 60, active: 760, celsius: 41}
  load: {"3g.40gb@0": 0.5, "1g.10gb@6": 1.0}
- {model: a100-40gb, address: "0000:1c:00.0", draw: {idle: 50, active: 400}, load: {whole: 0.8}}
processes:
- {pid: 100, command: train, gpu: "0000:1b:00.0", slice: "3g.40gb@0", memory_mib: 1000}
- {pid: 101, command: serve, gpu: "0000:1b:00.0", slice: "3g.40gb@0", memory_mib: 500}
- {pid: 102, command: draw, gpu: "0000:1c:00.0", memory_mib: 3000}
"""
MIB = 1 << 20
BIG, SMALL = f"{H100}-3g.40gb-0", f"{H100}-1g.10gb-6"
host, engine, telemetry = fixtures(HOST)


def look(engine, telemetry, address, before=None):
    return telemetry.uses(engine.gpu(address), engine.parts(address), before)[0]


def test_a_board_tells_what_it_draws(host, engine, telemetry):
    host.let_pass(10_000_000)
    board = telemetry.board(engine.gpu(A100))
    assert board.power_mw == 330_000 and board.utilization == 0.8 and board.temperature_c == 66
    # More than 32 bits of millijoules.
    assert board.energy_mj == pytest.approx(330_000 * 10_000_000, rel=1e-4)
    assert (board.memory_bytes, board.memory_used_bytes) == (40960 * MIB, 3000 * MIB)
    assert board.unreadable == ()


def test_a_sliced_board_tells_no_utilisation(engine, telemetry):
    board = telemetry.board(engine.gpu(H100))
    assert board.power_mw == 310_000 and board.temperature_c == 41 and board.memory_used_bytes == 1500 * MIB
    assert board.utilization is None and board.unreadable == (("utilization", "unsupported"),)


def test_the_slices_tell_memory_and_processes(engine, telemetry):
    found = look(engine, telemetry, H100)
    assert (found[BIG].memory_used_bytes, found[BIG].processes) == (1500 * MIB, 2)
    assert (found[SMALL].memory_used_bytes, found[SMALL].processes) == (0, 0)
    assert found[BIG].memory_bytes > 39_000 * MIB


def test_how_busy_slices_are_takes_two_looks(host, engine, telemetry):
    first = look(engine, telemetry, H100)
    assert first[BIG].utilization is None and why(first[BIG], "utilization") == "not-sampled-yet"
    host.let_pass(30)
    second = look(engine, telemetry, H100)
    assert second[BIG].utilization == pytest.approx(0.5, rel=0.01) and why(second[BIG], "utilization") is None
    host.set_load(H100, {"3g.40gb@0": 1.0})
    host.let_pass(30)
    third = look(engine, telemetry, H100)
    assert third[BIG].utilization == pytest.approx(1.0, rel=0.01) and third[SMALL].utilization == pytest.approx(0, abs=0.01)


def test_a_run_that_looks_once_waits_a_tenth_of_a_second_for_all(host, engine, telemetry):
    gpus = [engine.gpu(address) for address in (H100, A100)]
    for gpu in gpus:
        telemetry.begin(gpu, engine.parts(gpu.address))
    telemetry.settle()
    # A busy machine may have come to it before it is waited for.
    assert len(host.waited) <= 1 and sum(host.waited) <= 0.11
    found = look(engine, telemetry, H100)
    assert found[BIG].utilization == pytest.approx(0.5, rel=0.05) and found[SMALL].utilization == pytest.approx(1.0, rel=0.05)


def test_nothing_is_waited_for_where_nothing_was_sampled(host, engine, telemetry):
    telemetry.settle()
    telemetry.begin(engine.gpu(A100), engine.parts(A100))
    telemetry.settle()
    assert host.waited == []


def test_what_two_compute_instances_share_is_nobodys(host, engine, telemetry):
    host.set_load(H100, {"2g.20gb@4": 0.6})
    look(engine, telemetry, H100)
    host.let_pass(10)
    found = look(engine, telemetry, H100)
    both = [use for name, use in found.items() if "2g.20gb" in name]
    assert len(both) == 2 and found[SMALL].shared_utilization is None
    for use in both:
        assert use.utilization is None and why(use, "utilization") == "shared" and use.processes == 0
        assert use.shared_utilization == pytest.approx(0.6, rel=0.01)


def test_an_instance_made_anew_under_an_old_id_is_another_one(host, engine, telemetry):
    look(engine, telemetry, H100)
    host.let_pass(10)
    with host.change() as state:
        gi = state["gpus"][H100]["gis"]
        big = next(one for one in gi.values() if one["start"] == 0)
        big["serial"] += 1000
        next(iter(big["cis"].values()))["uuid"] = "MIG-00000000-0000-5000-a000-000000000000"
    found = look(engine, telemetry, H100)
    assert why(found[BIG], "utilization") == "not-sampled-yet" and found[SMALL].utilization == pytest.approx(1.0, rel=0.01)


def test_buffers_end_with_the_session(host, engine, telemetry):
    for _ in range(3):
        look(engine, telemetry, H100)
        host.let_pass(10)
    lib = engine.host.nvml()
    assert len(lib.gpm_samples) == 3
    engine.tools.sessions.release()
    assert lib.gpm_samples == {} and lib.calls["nvmlGpmSampleAlloc"] == lib.calls["nvmlGpmSampleFree"]
    assert why(look(engine, telemetry, H100)[BIG], "utilization") == "not-sampled-yet"


def test_a_slice_that_is_gone_is_told(engine, telemetry):
    parts = engine.parts(H100)
    gone = parts[0]._replace(name="gone", instance=(13, 0))
    other = parts[0]._replace(name="other", identity="MIG-another")
    found = telemetry.uses(engine.gpu(H100), [gone, other])[0]
    for use in found.values():
        assert use[:4] == (None,) * 4 and why(use, "memory") == why(use, "processes") == why(use, "utilization") == "gone"


def test_an_ampere_board_samples_nothing(tmp_path):
    host = machine(tmp_path, HOST.replace("h100-80gb", "a100-80gb"))
    with looking(host) as (engine, telemetry):
        telemetry.begin(engine.gpu(H100), engine.parts(H100))
        host.let_pass(10)
        found = look(engine, telemetry, H100)
        assert why(found[BIG], "utilization") == "unsupported" and found[BIG].memory_used_bytes == 1500 * MIB
        assert engine.host.nvml().calls["nvmlGpmSampleAlloc"] == 0


def test_the_whole_board_as_a_slice(engine, telemetry):
    gpu = engine.gpu(A100)
    use = telemetry.uses(gpu, [whole_gpu(engine.host, gpu)])[0][A100]
    assert use == (40960 * MIB, 3000 * MIB, 0.8, 1, (), None)


def test_what_stands_on_a_slice_has_no_readings_of_its_own(engine, telemetry):
    part = next(part for part in engine.parts(H100) if part.name == BIG)
    replica = part._replace(kind="replica", name=f"{BIG}-replica-0", identity=f"{part.identity}::0", of=BIG)
    assert set(telemetry.uses(engine.gpu(H100), [replica])[0][replica.name].unreadable) == {
        ("memory", "shared"), ("utilization", "shared"), ("processes", "shared"),
    }  # fmt: skip


CALLS = {
    "energy": "nvmlDeviceGetTotalEnergyConsumption",
    "power": "nvmlDeviceGetPowerUsage",
    "memory": "nvmlDeviceGetMemoryInfo",
    "utilization": "nvmlDeviceGetUtilizationRates",
}
FIELDS = {"energy": "energy_mj", "power": "power_mw", "memory": "memory_used_bytes", "utilization": "utilization"}
WORDS = {
    "NVML_ERROR_NOT_SUPPORTED": "unsupported",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "unsupported",
    "NVML_ERROR_NO_PERMISSION": "no-permission",
    "NVML_ERROR_GPU_IS_LOST": "lost",
    "NVML_ERROR_UNKNOWN": "failed",
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("error", WORDS)
def test_a_reading_that_is_refused_is_left_out_and_the_others_are_told(host, engine, telemetry, what, error):
    host.add_fault({"call": CALLS[what], "error": error, "times": 0})
    board = telemetry.board(engine.gpu(A100))
    assert getattr(board, FIELDS[what]) is None and board.unreadable == ((what, WORDS[error]),)


def test_an_older_driver_tells_the_temperature_otherwise(host, engine, telemetry):
    for error in ("NVML_ERROR_FUNCTION_NOT_FOUND", "NVML_ERROR_ARGUMENT_VERSION_MISMATCH"):
        host.add_fault({"call": "nvmlDeviceGetTemperatureV", "error": error})
        assert telemetry.board(engine.gpu(A100)).temperature_c == 66


@pytest.mark.parametrize("call", ["nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet"])
@pytest.mark.parametrize(("error", "word"), [("NVML_ERROR_UNKNOWN", "failed"), ("NVML_ERROR_GPU_IS_LOST", "lost")])
def test_a_sample_that_fails_is_told_and_the_next_look_goes_on(host, engine, telemetry, call, error, word):
    look(engine, telemetry, H100)
    engine.tools.sessions.release()
    look(engine, telemetry, H100)
    host.let_pass(10)
    if call == "nvmlGpmQueryDeviceSupport":
        engine.tools.sessions.release()
    host.add_fault({"call": call, "error": error, "times": 1})
    found = look(engine, telemetry, H100)
    assert word in [why(use, "utilization") for use in found.values()]
    assert all(use.memory_bytes for use in found.values())
    for _ in range(2):
        host.let_pass(10)
        found = look(engine, telemetry, H100)
    assert found[BIG].utilization == pytest.approx(0.5, rel=0.01)
    engine.tools.sessions.release()
    assert engine.host.nvml().gpm_samples == {}


def test_a_buffer_that_is_not_taken_back_hurts_nobody(host, engine, telemetry):
    look(engine, telemetry, H100)
    host.let_pass(10)
    host.add_fault({"call": "nvmlGpmSampleFree", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    assert look(engine, telemetry, H100)[BIG].utilization == pytest.approx(0.5, rel=0.01)
    engine.tools.sessions.release()


def test_a_lost_gpu_tells_nothing_and_is_called_lost(host, engine, telemetry):
    parts = engine.parts(H100)
    with host.change() as state:
        state["gpus"][H100]["health"]["lost"] = True
    board = telemetry.board(engine.gpu(H100))
    assert board[:6] == (None,) * 6 and {word for _, word in board.unreadable} == {"lost"}
    for use in telemetry.uses(engine.gpu(H100), parts)[0].values():
        assert use[:4] == (None,) * 4 and why(use, "memory") == "lost"
    assert telemetry.board(engine.gpu(A100)).unreadable == ()


def test_a_gpu_that_does_not_answer_keeps_nobody(tmp_path):
    host = machine(tmp_path, HOST.replace("name: telemetry", "name: hangs\npatience: 0.005"))
    host.add_fault({"call": "nvmlDeviceGetPowerUsage", "gpu": A100, "hang": 3})
    with looking(host) as (engine, telemetry):
        board = telemetry.board(engine.gpu(A100))
        assert board[:6] == (None,) * 6 and {word for _, word in board.unreadable} == {"not-answering"}
        assert telemetry.board(engine.gpu(H100)).power_mw == 310_000


def test_without_a_driver_or_given_away_nothing_is_asked(host, engine, telemetry):
    gpu, parts = engine.gpu(A100), [whole_gpu(engine.host, engine.gpu(A100))]
    for driver, word in (("vfio-pci", "given-away"), ("", "no-driver")):
        with host.change() as state:
            state["gpus"][A100]["about"]["driver"] = driver
        lib = engine.host.nvml()
        before = sum(lib.calls.values())
        assert {reason for _, reason in telemetry.board(gpu).unreadable} == {word}
        assert {reason for _, reason in telemetry.uses(gpu, parts)[0][A100].unreadable} == {word}
        telemetry.begin(gpu, parts)
        assert sum(lib.calls.values()) == before


def test_a_sleeping_board_is_not_woken(host, engine, telemetry):
    with host.change() as state:
        state["written"][f"/sys/bus/pci/devices/{A100}/power/runtime_status"] = "suspended"
    before = sum(engine.host.nvml().calls.values())
    board = telemetry.board(engine.gpu(A100))
    assert {word for _, word in board.unreadable} == {"asleep"} and sum(engine.host.nvml().calls.values()) == before


def test_the_counter_begins_anew_with_the_driver(host, engine, telemetry):
    host.let_pass(1000)
    full = telemetry.board(engine.gpu(A100)).energy_mj
    engine.tools.sessions.release()
    host.reboot()
    again = telemetry.board(engine.gpu(A100)).energy_mj
    assert full >= 330_000_000 and again < 10_000_000
    assert host.drawn(A100)["whole"] + host.drawn(A100)["idle"] >= full


def test_a_vgpu_tells_its_memory_while_a_machine_has_it(simulated):
    """Only as far as the binding has bits for it."""
    host, t4 = simulated("vgpu-host-mdev"), "0000:86:00.0"
    types = f"/sys/bus/pci/devices/{t4}/mdev_supported_types"
    with Engine(config(host)) as engine:
        names = {host.read(f"{types}/{name}/name"): name for name in host.listdir(types)}
        uuid = "c8f0e3d2-5d3c-4a4b-9d57-0b6f1a2e3c4d"
        host.write(f"{types}/{names['GRID T4-2Q']}/create", uuid)
        (part,) = engine.parts(t4)
        telemetry = Telemetry(engine.host, engine.tools.sessions)

        def use():
            return telemetry.uses(engine.gpu(t4), [part])[0][part.name]

        assert use().memory_used_bytes is None and why(use(), "memory") == "not-in-use"
        held = f"/dev/vfio/{host.readlink(f'/sys/bus/mdev/devices/{uuid}/iommu_group')}"
        host.add_process({"pid": 777, "command": "qemu-kvm", "nodes": [held], "memory_mib": 1024})
        assert (use().memory_bytes, use().memory_used_bytes) == (2048 * MIB, 1024 * MIB)
        assert use().unreadable == (("utilization", "given-away"), ("processes", "given-away"))
        part = part._replace(memory_mib=8192)
        assert use().memory_used_bytes is None and why(use(), "memory") == "unsupported"
