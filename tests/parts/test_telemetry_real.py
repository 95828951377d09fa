"""
Readings by the real Python binding of a real dynamic library, ``tests/parts/fake_nvml``: structs, types and buffers are those
of C.
"""

from pathlib import Path

import pytest

from tests.parts import fake_nvml
from tests.parts.fake_nvml import A100
from tests.parts.fake_nvml import H100
from tests.support import needs

pytestmark = [pytest.mark.slow, needs.programs("gcc")]

ENGINE = Path(__file__).resolve().parent.parent.parent / "_utils"
#: More millijoules than 32 bits hold, which a board of 700 W has drawn after 1.7 hours.
MUCH = 123_456_789_012_345
BEGIN = f"""
sys.path.insert(0, {str(ENGINE)!r})
from gpuslice.drivers.nvml_mig import MigNvml
from gpuslice.drivers.telemetry_nvidia import NvidiaTelemetry
from gpuslice.host.real import RealHost
from gpuslice.model import Gpu
from gpuslice.model import Slice

host = RealHost()
nvml = MigNvml(host)
telemetry = NvidiaTelemetry(host, nvml)
"""
SLICED = f"""
n.nvmlInit()
h = gpu({H100!r})
n.nvmlDeviceSetMigMode(h, 1)
gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(h, 9, place(0, 4))
ci = n.nvmlComputeInstanceGetInfo(n.nvmlGpuInstanceCreateComputeInstance(gi, 2))
ids, uuid = (n.nvmlGpuInstanceGetInfo(gi).id, ci.id), n.nvmlDeviceGetUUID(ci.device)
part = Slice({H100!r}, "mig", "3g.40gb", uuid, name="one", instance=ids)
board = Gpu({H100!r}, "nvidia", "2330")
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """The library of a new driver and that of an old one."""
    return {old: fake_nvml.build(tmp_path_factory.mktemp("nvml"), old=old) for old in (False, True)}


def machine(tmp_path, built):
    settings = {"FAKE_NVML_DRAW": f"{A100}:251000:{MUCH},{H100}:700123:5000000000"}
    return fake_nvml.Machine(tmp_path, built, settings=settings)


@pytest.mark.parametrize("old", [False, True])
def test_a_board_tells_more_than_32_bits_of_energy(tmp_path, libraries, old):
    script = f"{BEGIN}out['board'] = telemetry.board(Gpu({A100!r}, 'nvidia', '20b0'))._asdict()"
    board = machine(tmp_path, libraries[old]).nvml(script)["board"]
    assert board == {
        "energy_mj": MUCH, "power_mw": 251_000, "temperature_c": 42, "memory_bytes": 40960 << 20, "memory_used_bytes": 0,
        "utilization": 0.25, "unreadable": [],
    }  # fmt: skip


def test_a_field_is_read_as_the_type_that_the_driver_says(tmp_path, libraries):
    script = f"{BEGIN}out['energy'], out['reset'] = nvml.field({A100!r}, 83), nvml.field({A100!r}, 230)"
    assert machine(tmp_path, libraries[False]).nvml(script) == {"energy": MUCH, "reset": 0}


def test_a_gpu_instance_tells_how_busy_it_was_between_two_looks(tmp_path, libraries):
    script = f"""{BEGIN}{SLICED}
telemetry.begin(board, [part])
out["waits"] = telemetry.waits()
host.sleep(max(0, telemetry.waits()))
out["uses"] = telemetry.uses(board, [part], {{}})[0]["one"]._asdict()
out["soon"] = telemetry.uses(board, [part], {{}})[0]["one"].unreadable
nvml.close()
"""
    there = machine(tmp_path, libraries[False])
    out = there.nvml(script)
    assert 0 < out["waits"] < 0.11
    assert out["uses"]["utilization"] == 0.375 and out["uses"]["unreadable"] == []
    assert out["uses"]["memory_bytes"] == 40448 << 20
    assert out["soon"] == [["utilization", "not-sampled-yet"]]
    calls = [call[0] for call in there.calls("nvmlGpmSampleAlloc", "nvmlGpmSampleFree")]
    assert sorted(calls) == ["nvmlGpmSampleAlloc"] * 2 + ["nvmlGpmSampleFree"] * 2


def test_an_old_library_has_no_samples(tmp_path, libraries):
    script = f"{BEGIN}{SLICED}out['uses'] = telemetry.uses(board, [part], {{}})[0]['one']._asdict()"
    uses = machine(tmp_path, libraries[True]).nvml(script)["uses"]
    assert uses["utilization"] is None and uses["unreadable"] == [["utilization", "unsupported"]]
