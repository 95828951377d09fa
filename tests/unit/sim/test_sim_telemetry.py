"""What boards of a described machine draw: meters, counters and who has drawn it."""

import ctypes

import pynvml
import pytest

from gpuslice import errors
from gpuslice.sim.host import SimulatedHost

H100, MI300, XE = "0000:1b:00.0", "0000:05:00.0", "0000:03:00.0"
HOST = """
name: meters
modules: {amdgpu: 0}
gpus:
- model: h100-80gb
  address: "0000:1b:00.0"
  mig: enabled
  instances: ["3g.40gb@0", "1g.10gb@6"]
  draw: {idle: 70, active: 700}
  load: {"3g.40gb@0": 0.5, "1g.10gb@6": 1.0, "2g.20gb@4": 1.0}
- {vendor: amd, device: "74a1", address: "0000:05:00.0", draw: {idle: 150, active: 750},
   sysfs: {current_compute_partition: SPX, available_compute_partition: "SPX, CPX"}}
- {vendor: intel, device: "e211", address: "0000:03:00.0", draw: {idle: 20, active: 100}, sriov_totalvfs: 4}
"""


def described(tmp_path, text=HOST):
    path = tmp_path / "box.yaml"
    path.write_text(text)
    return SimulatedHost(str(path), str(tmp_path / "state"))


@pytest.fixture
def host(tmp_path):
    return described(tmp_path)


def opened(host):
    lib = host.nvml()
    lib.nvmlInit()
    return lib, lib.nvmlDeviceGetHandleByPciBusId(H100)


def about(joules):
    return pytest.approx(1000 * joules, rel=1e-3)


def test_each_slice_draws_its_share_and_what_is_not_there_draws_nothing(host):
    host.let_pass(1000)
    assert host.drawn(H100) == {
        "idle": about(70_000), "3g.40gb@0": about(630_000 * 3 / 7 * 0.5), "1g.10gb@6": about(630_000 / 7),
    }  # fmt: skip


def test_what_all_have_drawn_is_what_the_counter_tells(host):
    lib, device = opened(host)
    for load in ({}, {"3g.40gb@0": 1.0}, {"1g.10gb@6": 0.25, "3g.40gb@0": 0.1}):
        host.set_load(H100, load)
        host.let_pass(500)
        counter, drawn = lib.nvmlDeviceGetTotalEnergyConsumption(device), sum(host.drawn(H100).values())
        assert counter == pytest.approx(drawn, abs=2000)


def test_time_that_passed_before_a_change_is_drawn_as_it_was_before(host):
    lib, device = opened(host)
    host.let_pass(1000)
    gi = lib.nvmlDeviceGetGpuInstanceById(device, 13)
    ci = lib.nvmlGpuInstanceGetComputeInstanceById(gi, 0)
    lib.nvmlComputeInstanceDestroy(ci)
    lib.nvmlGpuInstanceDestroy(gi)
    place = lib.c_nvmlGpuInstancePlacement_t(4, 2)
    lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 14, ctypes.byref(place))
    host.let_pass(1000)
    drawn = host.drawn(H100)
    assert drawn["1g.10gb@6"] == about(90_000) and drawn["2g.20gb@4"] == about(180_000)


def test_a_counter_begins_anew_where_the_driver_does_and_the_sum_goes_on(host):
    lib, device = opened(host)
    host.let_pass(1000)
    host.reboot()
    assert lib.nvmlDeviceGetTotalEnergyConsumption(lib.nvmlDeviceGetHandleByPciBusId(H100)) < 1_000_000
    assert host.drawn(H100)["idle"] == about(70_000)
    assert energy(host, XE) < 1_000_000 < host.drawn(XE)["idle"]


@pytest.mark.parametrize("reload", ["module", "bind"])
def test_a_driver_that_is_loaded_anew_begins_at_nothing(host, reload):
    host.let_pass(1000)
    assert energy(host, XE) == about(20_000)
    driver = f"/sys/bus/pci/drivers/{'xe' if reload == 'bind' else 'amdgpu'}"
    if reload == "module":
        for argv in (["modprobe", "-r", "amdgpu"], ["modprobe", "amdgpu"]):
            assert host.run(argv).returncode == 0
        host.let_pass(1)
        assert 0 < amd_units(host) < 2 * 2**16 * 150
    else:
        host.write(f"{driver}/unbind", XE)
        host.let_pass(1000)
        host.write(f"{driver}/bind", XE)
        assert energy(host, XE) < 1_000_000 and host.drawn(XE)["idle"] == about(40_000)


def energy(host, address):
    """Millijoules by the file of Intel's drivers."""
    return int(host.read(f"/sys/bus/pci/devices/{address}/hwmon/hwmon3/energy1_input")) // 1000


def amd_units(host):
    data = host.read_bytes(f"/sys/bus/pci/devices/{MI300}/gpu_metrics")
    return int.from_bytes(data[24:32], "little")


def test_partitions_and_functions_have_equal_shares(host):
    host.write(f"/sys/bus/pci/devices/{MI300}/current_compute_partition", "CPX")
    host.set_load(MI300, {"0": 1.0, "7": 1.0, "whole": 1.0, "8": 1.0})
    host.write(f"/sys/bus/pci/devices/{XE}/sriov_numvfs", "2")
    host.set_load(XE, {"0000:03:00.1": 0.5, "whole": 1.0})
    host.let_pass(100)
    drawn = host.drawn(MI300)
    assert drawn["0"] == drawn["7"] == about(7_500) and drawn.get("whole", 0) < 1 and "8" not in drawn
    assert host.drawn(XE)["0000:03:00.1"] == about(80 * 100 * 0.5 / 2)


def test_a_board_without_draw_tells_nothing(tmp_path):
    lib, device = opened(described(tmp_path, f'name: none\ngpus: [{{model: h100-80gb, address: "{H100}"}}]\n'))
    for name in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates"):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            getattr(lib, name)(device)
    assert lib.nvmlDeviceGetFieldValues(device, [83])[0].nvmlReturn == 3
    assert not lib.nvmlGpmQueryDeviceSupport(device).isSupportedDevice


def test_the_field_of_energy_has_64_bits(host):
    lib, device = opened(host)
    host.let_pass(100_000_000)
    (value,) = lib.nvmlDeviceGetFieldValues(device, [83])
    assert value.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    counter = lib.nvmlDeviceGetTotalEnergyConsumption(device)
    assert counter > 2**40 and value.value.ullVal == pytest.approx(counter, rel=1e-6)


def asked(lib, first, second):
    wanted = lib.c_nvmlGpmMetricsGet_t()
    wanted.version, wanted.numMetrics, wanted.sample1, wanted.sample2 = 1, 3, first, second
    for place, metric in enumerate((2, 1, 5)):
        wanted.metrics[place].metricId = metric
    return wanted


def test_samples_tell_of_the_time_between_them(host):
    lib, device = opened(host)
    first, second, third, board = (lib.nvmlGpmSampleAlloc() for _ in range(4))
    lib.nvmlGpmMigSampleGet(device, 1, first)
    lib.nvmlGpmMigSampleGet(device, 1, second)
    told = lib.nvmlGpmMetricsGet(asked(lib, first, second)).metrics
    assert [metric.nvmlReturn for metric in told[:3]] == [21, 21, 3]
    host.let_pass(60)
    lib.nvmlGpmMigSampleGet(device, 1, second)
    told = lib.nvmlGpmMetricsGet(asked(lib, first, second)).metrics
    assert told[0].value == pytest.approx(50, rel=0.01) and told[0].nvmlReturn == told[1].nvmlReturn == 0
    lib.nvmlGpmMigSampleGet(device, 13, third)
    lib.nvmlGpmSampleGet(device, board)
    for other in (third, board, lib.nvmlGpmSampleAlloc()):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            lib.nvmlGpmMetricsGet(asked(lib, first, other))
    lib.nvmlGpmSampleFree(first)
    for call in (lib.nvmlGpmSampleFree, lambda sample: lib.nvmlGpmMigSampleGet(device, 1, sample)):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            call(first)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlGpmMigSampleGet(device, 5, second)


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("draw: {idle: -1}", "is no draw in watts"),
        ("draw: {idle: 5, active: 4}", "is no draw in watts"),
        ("draw: {idle: many}", "is not"),
        ('draw: {metrics: "9.9"}', "9.9"),
        ("load: {whole: 2}", "no number of 0 to 1"),
        ("load: {whole: true}", "no number of 0 to 1"),
        ("load: 5", "must be a mapping"),
    ],
)
def test_a_description_that_cannot_be_is_refused(tmp_path, gpu, words):
    with pytest.raises(errors.PolicyError, match=words):
        described(tmp_path, f'name: none\ngpus: [{{model: h100-80gb, address: "{H100}", {gpu}}}]\n')


def test_a_load_that_cannot_be_changes_nothing(host):
    before = host.state()["gpus"][H100]
    with pytest.raises(errors.PolicyError, match="no number"):
        host.set_load(H100, {"whole": "much"})
    assert host.state()["gpus"][H100] == before
