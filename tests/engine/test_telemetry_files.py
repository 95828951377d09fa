"""
Readings of AMD's and Intel's boards, by files of the kernel: each number as the machine has it, and each that is not told left
out with its reason.
"""

import json

import pytest

from gpuslice.drivers.telemetry import Telemetry
from gpuslice.engine import Engine
from gpuslice.model import Slice
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.whole import whole_gpu
from tests.support.hosts import config
from tests.support.telemetry import fixtures
from tests.support.telemetry import looking
from tests.support.telemetry import machine

MI300, XE, I915 = "0000:05:00.0", "0000:03:00.0", "0000:04:00.0"
DEVICES = "/sys/bus/pci/devices"
MIB = 1 << 20
HOST = """
name: telemetry
gpus:
- {vendor: amd, device: "74a1", address: "0000:05:00.0", draw: {idle: 150, active: 750}, load: {whole: 0.5, "3": 1.0},
   sysfs: {current_compute_partition: SPX, available_compute_partition: "SPX, CPX"}}
- {vendor: intel, device: "e211", address: "0000:03:00.0", driver: xe, draw: {idle: 20, active: 200}, load: {whole: 0.25}}
- {vendor: intel, device: "56c1", address: "0000:04:00.0", driver: i915, draw: {idle: 20, active: 200}, load: {whole: 0.5}}
processes:
- {pid: 50, command: a, gpu: "0000:03:00.0", memory_mib: 100}
- {pid: 51, command: b, gpu: "0000:03:00.0", memory_mib: 200}
- {pid: 52, command: c, gpu: "0000:04:00.0", memory_mib: 300}
- {pid: 53, command: d, gpu: "0000:05:00.0", memory_mib: 400}
files:
  /sys/fs/cgroup/dmem.capacity: "drm/0000:03:00.0/vram0 25769803776\\ndrm/0000:03:00.0/stolen 134217728"
  /sys/fs/cgroup/dmem.current: "drm/0000:03:00.0/vram0 314572801\\ndrm/0000:03:00.0/stolen 0"
"""
host, engine, telemetry = fixtures(HOST)


def write(host, path, text):
    with host.change() as state:
        state["written"][f"{DEVICES}/{path}" if not path.startswith("/") else path] = text


def whole(engine, address):
    return [whole_gpu(engine.host, engine.gpu(address))]


def use(engine, telemetry, address, before=None):
    found, samples = telemetry.uses(engine.gpu(address), whole(engine, address), before)
    return found[address], samples


# -- AMD ---------------------------------------------------------------------------------------------------------------
def test_an_amd_board(host, engine, telemetry):
    host.let_pass(20_000_000)
    board = telemetry.board(engine.gpu(MI300))
    assert board.power_mw == 450_000 and board.utilization == 0.5 and board.temperature_c == 52
    assert board.energy_mj == pytest.approx(450_000 * 20_000_000, rel=1e-4)
    assert (board.memory_bytes, board.memory_used_bytes, board.unreadable) == (192 * 1024 * MIB, 400 * MIB, ())


def test_an_amd_board_in_one_piece_is_a_slice(engine, telemetry):
    found, samples = use(engine, telemetry, MI300)
    assert (found.memory_used_bytes, found.utilization, samples) == (400 * MIB, 0.5, {})


def test_partitions_have_no_readings_of_their_own(host, engine, telemetry):
    host.remove_process(53)
    host.write(f"{DEVICES}/{MI300}/current_compute_partition", "CPX")
    parts = engine.parts(MI300)
    found = telemetry.uses(engine.gpu(MI300), parts)[0]
    assert len(found) == 8
    for one in found.values():
        assert one[:3] == (None, None, None) and dict(one.unreadable) == {"memory": "unsupported", "utilization": "unsupported"}
    # The board goes on, and each partition with its own part of it.
    assert telemetry.board(engine.gpu(MI300)).power_mw == 150_000 + 600_000 // 8


FILES = {
    "hwmon/hwmon3/power1_average": ("power", "power_mw"),
    "hwmon/hwmon3/temp1_input": ("temperature", "temperature_c"),
    "mem_info_vram_used": ("memory", "memory_used_bytes"),
    "gpu_busy_percent": ("utilization", "utilization"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["many", "9" * 30, "-1000000000", "0x5", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_what_is_no_number_is_no_reading(host, engine, telemetry, name, text):
    what, field = FILES[name]
    write(host, f"{MI300}/{name}", text)
    board = telemetry.board(engine.gpu(MI300))
    assert getattr(board, field) is None and dict(board.unreadable) == {what: "untrue"}


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_is_no_zero(host, engine, telemetry, name):
    what, field = FILES[name]
    write(host, f"{MI300}/{name}", "")
    board = telemetry.board(engine.gpu(MI300))
    assert getattr(board, field) is None and dict(board.unreadable) == {what: "failed"}


def test_more_in_use_than_there_is_cannot_be(host, engine, telemetry):
    write(host, f"{MI300}/mem_info_vram_total", "100")
    board = telemetry.board(engine.gpu(MI300))
    assert board.memory_bytes is board.memory_used_bytes is None and dict(board.unreadable) == {"memory": "untrue"}


def test_a_board_without_its_average_tells_what_is_now(tmp_path):
    with described(tmp_path, "{vendor: amd, device: 744c, address: '0000:06:00.0', sysfs: {gpu_metrics: x}}") as engine:
        base = "0000:06:00.0/hwmon/hwmon7"
        for name, text in (("name", "amdgpu"), ("power1_input", "15000000"), ("temp2_input", "44000")):
            write(engine.host, f"{base}/{name}", text)
        board = Telemetry(engine.host, engine.tools.sessions).board(engine.gpu("0000:06:00.0"))
        assert (board.power_mw, board.temperature_c) == (15_000, 44)
        assert dict(board.unreadable) == {"energy": "untrue", "memory": "unsupported", "utilization": "untrue"}


def described(tmp_path, gpu):
    return Engine(config(machine(tmp_path, f"name: one\ngpus:\n- {gpu}\n")))


@pytest.mark.parametrize("version", ["1.3", "1.7"])
def test_a_table_of_another_version_tells_no_energy(tmp_path, version):
    gpu = f"{{vendor: amd, device: 74a1, address: '{MI300}', draw: {{idle: 50, active: 60, metrics: '{version}'}}}}"
    with described(tmp_path, gpu) as engine:
        board = Telemetry(engine.host, engine.tools.sessions).board(engine.gpu(MI300))
        assert board.energy_mj is None and board.power_mw == 50_000
        assert dict(board.unreadable) == {"energy": "unsupported-version"}


@pytest.mark.parametrize("version", ["1.4", "1.5", "1.6"])
def test_the_table_tells_how_busy_it_is_where_no_file_does(tmp_path, version):
    draw = f"draw: {{idle: 50, active: 60, metrics: '{version}'}}, load: {{whole: 0.5}}"
    gpu = f"{{vendor: amd, device: 74a1, address: '{MI300}', {draw}}}"
    with described(tmp_path, gpu) as engine:
        engine.host.let_pass(1000)
        board = Telemetry(without(engine.host, "gpu_busy_percent"), engine.tools.sessions).board(engine.gpu(MI300))
        assert board.utilization == 0.5 and board.energy_mj == pytest.approx(55_000_000, rel=1e-3)


def without(host, name):
    """The same machine with a driver that lacks a file."""

    class Lacking(SimulatedHost):
        def read(self, path):
            if path.endswith(f"/{name}"):
                raise FileNotFoundError(2, "No such file or directory", path)
            return super().read(path)

    return Lacking(host.description_path, host.state_dir)


@pytest.mark.parametrize(
    ("error", "word"),
    [("EACCES", "no-permission"), ("EPERM", "asleep"), ("EIO", "failed"), ("ENODEV", "gone"), ("EINVAL", "unsupported")],
)
def test_a_table_that_is_refused(host, engine, telemetry, error, word):
    host.add_fault({"call": "read_bytes", "error": error, "times": 0})
    board = telemetry.board(engine.gpu(MI300))
    assert board.energy_mj is None and dict(board.unreadable) == {"energy": word} and board.power_mw == 450_000


def test_a_table_of_nothing(host, engine, telemetry):
    host.add_fault({"call": "read_bytes", "lie": True})
    assert dict(telemetry.board(engine.gpu(MI300)).unreadable) == {"energy": "untrue"}


def test_a_driver_that_does_not_answer_keeps_nobody(tmp_path):
    host = machine(tmp_path, HOST.replace("name: telemetry", "name: hangs\npatience: 0.005"))
    host.add_fault({"call": "read_bytes", "gpu": MI300, "hang": 3})
    host.add_fault({"call": "gpu_clients", "gpu": XE, "hang": 3})
    with looking(host) as (engine, telemetry):
        assert {word for _, word in telemetry.board(engine.gpu(MI300)).unreadable} == {"not-answering"}
        found, samples = use(engine, telemetry, XE)
        assert {word for _, word in found.unreadable} == {"not-answering"} and samples == {}


@pytest.mark.parametrize("address", [MI300, XE, I915])
@pytest.mark.parametrize("status", ["suspended", "suspending"])
def test_a_card_that_sleeps_is_not_woken(host, engine, telemetry, address, status):
    write(host, f"{address}/power/runtime_status", status)
    board = telemetry.board(engine.gpu(address))
    assert board[:6] == (None,) * 6 and {word for _, word in board.unreadable} == {"asleep"}
    found, samples = use(engine, telemetry, address)
    assert found[:4] == (None,) * 4 and {word for _, word in found.unreadable} == {"asleep"} and samples == {}
    assert engine.host.woken == [] and telemetry.board(engine.gpu(address)).energy_mj is None


# -- Intel -------------------------------------------------------------------------------------------------------------
def test_an_intel_board(host, engine, telemetry):
    host.let_pass(1000)
    board = telemetry.board(engine.gpu(XE))
    assert board.energy_mj == pytest.approx(65_000_000, rel=1e-3) and board.temperature_c == 41
    assert (board.memory_bytes, board.memory_used_bytes) == (25769803776, 314572801)
    assert board.power_mw is None and dict(board.unreadable) == {"power": "unsupported", "utilization": "unsupported"}


def test_an_intel_board_of_an_older_kernel(host, engine, telemetry):
    board = telemetry.board(engine.gpu(I915))
    assert board.energy_mj is not None
    assert dict(board.unreadable) == dict.fromkeys(("power", "temperature", "memory", "utilization"), "unsupported")


def test_the_package_tells_where_the_card_does_not(tmp_path):
    with described(tmp_path, f"{{vendor: intel, device: e211, address: '{XE}', driver: xe}}") as engine:
        base = f"{XE}/hwmon/hwmon1"
        for name, text in (("name", "xe"), ("energy2_input", "5000000")):
            write(engine.host, f"{base}/{name}", text)
        assert Telemetry(engine.host, engine.tools.sessions).board(engine.gpu(XE)).energy_mj == 5000


@pytest.mark.parametrize(("address", "busy", "used"), [(XE, 0.25, 314572801), (I915, 0.5, 300 * MIB)])
def test_clients_tell_how_busy_a_card_was_between_two_looks(host, engine, telemetry, address, busy, used):
    first, samples = use(engine, telemetry, address)
    assert first.utilization is None and dict(first.unreadable)["utilization"] == "not-sampled-yet"
    host.let_pass(60)
    # Another process looks then, with what the first one has written down.
    second, _ = use(engine, Telemetry(engine.host, engine.tools.sessions), address, json.loads(json.dumps(samples)))
    assert second.utilization == pytest.approx(busy, rel=0.01) and second.memory_used_bytes == used
    assert "utilization" not in dict(second.unreadable)


def test_processes_are_counted_by_client(engine, telemetry):
    assert use(engine, telemetry, XE)[0].processes == 2 and use(engine, telemetry, I915)[0].processes == 1


def test_a_card_that_nobody_uses_is_not_busy(host, engine, telemetry):
    host.remove_process(52)
    _, samples = use(engine, telemetry, I915)
    host.let_pass(10)
    found, _ = use(engine, telemetry, I915, samples)
    assert (found.utilization, found.processes, found.memory_used_bytes) == (0.0, 0, 0)


def test_counters_of_another_boot_are_not_compared(host, engine, telemetry):
    _, samples = use(engine, telemetry, XE)
    host.let_pass(10)
    found, _ = use(engine, telemetry, XE, {**samples, "boot": "another"})
    assert found.utilization is None and dict(found.unreadable) == {"utilization": "not-sampled-yet"}


@pytest.mark.parametrize(
    "before",
    [
        None, {}, [], "text", {"at": "now", "clients": {}}, {"at": 1, "clients": []}, {"at": 1, "clients": {"0000:03:00.0": 5}},
        {"at": 1, "clients": {"0000:03:00.0": {"50": {"cycles-ccs": "many"}}}}, {"at": float("inf"), "clients": {}},
        {"at": float("nan"), "clients": {}}, {"at": True, "clients": {"0000:03:00.0": {"50": []}}},
    ],
)  # fmt: skip
def test_what_was_handed_in_and_is_no_sample_counts_as_none(engine, telemetry, before):
    handed = {"boot": engine.host.boot_id(), **before} if isinstance(before, dict) else before
    found, samples = use(engine, telemetry, XE, handed)
    assert found.utilization is None and dict(found.unreadable) == {"utilization": "not-sampled-yet"} and samples["clients"]


@pytest.mark.parametrize(("error", "word"), [("EACCES", "no-permission"), ("EIO", "failed")])
def test_clients_that_cannot_be_seen(host, engine, telemetry, error, word):
    host.add_fault({"call": "gpu_clients", "error": error, "times": 0})
    found, samples = use(engine, telemetry, XE)
    assert found[:4] == (None,) * 4 and {reason for _, reason in found.unreadable} == {word} and samples == {}


def test_functions_of_a_machine_tell_nothing_here(simulated):
    host = simulated("arc-pro-b60")
    with Engine(config(host)) as engine:
        host.write(f"{DEVICES}/{XE}/sriov_numvfs", "2")
        first, second = engine.parts(XE)
        host.write(f"{DEVICES}/{second.identity}/driver/unbind", second.identity)
        machine = Slice(XE, "vf-passthrough", "vfio-pci", second.identity, name="vm", of=second.identity)
        found, _ = Telemetry(host, engine.tools.sessions).uses(engine.gpu(XE), [first, second, machine])
        assert found[first.name].processes == 0
        assert dict(found[second.name].unreadable)["processes"] == "no-driver"
        assert dict(found["vm"].unreadable)["processes"] == "given-away"
