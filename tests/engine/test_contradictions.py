"""
Where hardware and its driver or a program contradict each other, the hardware is believed; what can't be true is a sentence.
"""

import pytest

from gpuslice import errors
from gpuslice.change.reconcile import Reconciler
from gpuslice.drivers.nvml_mig import MigNvml
from gpuslice.drivers.sessions import Sessions
from gpuslice.engine import Engine
from gpuslice.rules import Options
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.mig.technique import Mig
from gpuslice.techniques.toolbox import Toolbox
from tests.engine.test_hangs import CASES
from tests.engine.test_hangs import config
from tests.engine.test_hangs import shape
from tests.support import pillars
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import TRIO
from tests.support.hosts import apply

DEVICES = "/sys/bus/pci/devices"
VGPU, XE = "0000:41:00.0", "0000:03:00.0"
OPTIONS = "/etc/modprobe.d/gpu-slicing-gim.conf"


# -- says no, and did it -----------------------------------------------------------------------------------------------------
def reset_by_tool(simulated):
    return simulated("dgx-a100-40gb", reset="tool", gpus=[{"model": "a100-40gb", "address": FIRST}])


@pytest.mark.parametrize(("name", "call", "nth"), [
    ("partition", "write", 1), ("gim", "run", 1), ("gim", "run", 2), ("passthrough", "write", 1), ("passthrough", "write", 2),
    ("passthrough", "write", 3), ("vgpu", "run", 1), ("vgpu", "write", 1), ("vgpu", "write", 2), ("mediated vgpu", "write", 1),
])  # fmt: skip
def test_what_was_done_is_done_whatever_is_said_of_it(simulated, name, call, nth):
    example, changes, _, wanted, _ = CASES[name]
    host = simulated(example, **changes)
    host.add_fault({"call": call, "nth": nth, "late": "EIO"})
    result = apply(host, wanted)
    assert result.ok, result.errors
    assert apply(host, wanted).plan.empty


def test_virtual_functions_that_are_there_are_there(simulated):
    example, changes, _, wanted, _ = CASES["sriov"]
    host = simulated(example, **changes)
    count = next(n for n in range(1, 9) if _numvfs_is_written_at(simulated, n))
    host.add_fault({"call": "write", "nth": count, "late": "EIO"})
    result = apply(host, wanted)
    assert result.ok, result.errors
    assert host.read(f"{DEVICES}/{XE}/sriov_numvfs") == "2"


def _numvfs_is_written_at(simulated, nth):
    """Whether the nth write of the change is that of the number: without it there are no functions."""
    example, changes, _, wanted, _ = CASES["sriov"]
    host = simulated(example, **changes)
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    return "create 2 virtual functions" in " ".join(apply(host, wanted).errors)


def test_a_reset_that_worked_and_exits_with_an_error_is_a_reset(simulated):
    host = reset_by_tool(simulated)
    host.add_fault({"call": "run", "late": "EIO"})
    result = apply(host, pillars.mig(["3g.20gb"]))
    assert result.ok, result.errors
    assert shape(host, FIRST) == ["3g.20gb"] and not result.reboot


def test_a_reset_that_did_not_work_and_exits_with_an_error_is_none(simulated):
    host = reset_by_tool(simulated)
    host.add_fault({"call": "run", "lie": True, "late": "EIO"})
    result = apply(host, pillars.mig(["3g.20gb"]))
    assert not result.ok and "the reset was refused" in " ".join(result.errors)


def test_a_mode_that_is_set_though_the_driver_says_no_is_set(simulated):
    host = simulated("dgx-a100-40gb", gpus=[{"model": "a100-40gb", "address": FIRST}])
    host.add_fault({"call": "nvmlDeviceSetMigMode", "late": "NVML_ERROR_UNKNOWN"})
    result = apply(host, pillars.mig(["3g.20gb"]))
    assert result.ok, result.errors
    assert shape(host, FIRST) == ["3g.20gb"]


# -- says yes, and did something else ----------------------------------------------------------------------------------------
@pytest.fixture
def room(simulated):
    """A GPU on which one more 1g can be made at several places."""
    return simulated("dgx-a100-40gb", gpus=[{**TRIO[0], "instances": ["3g.20gb@0", "1g.5gb@6"]}])


def test_an_instance_that_the_driver_made_elsewhere_is_found_out_and_removed(room):
    before = shape(room, FIRST)
    wanted = pillars.mig(["3g.20gb@0", "1g.5gb@6", "1g.5gb@4"])
    room.add_fault({"call": CREATE, "elsewhere": 5})
    result = apply(room, wanted)
    told = " ".join(result.errors)
    assert not result.ok and "was to be made at memory slice 4, and the driver made it at 5" in told and FIRST in told
    assert "has been undone" in told and "another tool" not in told
    assert shape(room, FIRST) == before
    assert sorted(gi["start"] for gi in room.state()["gpus"][FIRST]["gis"].values()) == [0, 6]
    assert apply(room, wanted).ok


def test_what_the_driver_made_elsewhere_is_a_fault_of_the_driver(room):
    room.add_fault({"call": CREATE, "elsewhere": 5})
    with Engine(config(room)) as engine:
        [(gpu, tool)], _ = engine.techniques("mig", FIRST)
        [made] = engine.plan(pillars.mig(["3g.20gb@0", "1g.5gb@6", "1g.5gb@4"])).changing
        step = next(step for step in made.steps if step.action == "create_gi")
        with pytest.raises(errors.DriverError) as caught:
            tool.run(gpu, step)
    assert type(caught.value) is errors.DriverError and caught.value.gpu == FIRST


def test_a_vgpu_that_the_driver_made_otherwise_is_found_out_and_removed(simulated):
    host = simulated("vgpu-host-vfio")
    wanted = pillars.for_gpu(VGPU, "vgpu", {"profile": "H100XM-20C", "count": 1})
    with Engine(config(host)) as engine:
        [(gpu, tool)], _ = engine.techniques("vgpu", VGPU)
        types = tool.types(gpu)
        other = types["H100XM-40C"].id
        before = tool.layout(tool.observe(gpu))
    host.add_fault({"call": "write", "elsewhere": other})
    result = apply(host, wanted)
    told = " ".join(result.errors)
    assert not result.ok and VGPU in told and "it made H100XM-40C" in told
    assert "has been undone" in told and "another tool" not in told.lower()
    with Engine(config(host)) as engine:
        [(gpu, tool)], _ = engine.techniques("vgpu", VGPU)
        assert tool.layout(tool.observe(gpu)) == before
    assert apply(host, wanted).ok


def test_what_the_driver_made_of_a_vgpu_fails_the_step_as_not_validated(simulated):
    host = simulated("vgpu-host-vfio")
    with Engine(config(host)) as engine:
        [(gpu, tool)], _ = engine.techniques("vgpu", VGPU)
        [made] = engine.plan(pillars.for_gpu(VGPU, "vgpu", {"profile": "H100XM-20C", "count": 1})).changing
        host.add_fault({"call": "write", "elsewhere": tool.types(gpu)["H100XM-40C"].id})
        with pytest.raises(errors.GpuSliceError) as caught:
            for step in made.steps:
                tool.run(gpu, step)
    assert type(caught.value) is errors.ValidationFailed and caught.value.gpu == VGPU


class OtherType(SimulatedHost):
    """A simulated machine whose driver makes mediated devices of another type than it was asked for."""

    def readlink(self, path):
        return "nvidia-1" if path.endswith("/mdev_type") else super().readlink(path)


def test_a_mediated_vgpu_that_the_driver_made_otherwise_is_found_out(simulated):
    host = simulated("vgpu-host-mdev")
    gpu, wanted = CASES["mediated vgpu"][2:4]
    with Engine(config(host)) as engine:
        [made] = engine.plan(wanted).changing
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        *before, create = made.steps
        for step in before:
            tool.run(one, step)
    other = OtherType(host.description_path, host.state_dir)
    tool = type(tool)(other, Sessions(other))
    with pytest.raises(errors.ValidationFailed, match="The driver took vGPU A100D-10C .*, and it made type 1") as caught:
        tool.run(one, create)
    assert caught.value.gpu == gpu


def test_a_mediated_vgpu_that_the_driver_made_otherwise_is_removed(simulated):
    host = simulated("vgpu-host-mdev")
    gpu, wanted = CASES["mediated vgpu"][2:4]
    with Engine(config(host)) as engine:
        policy = engine.policy(wanted)
        targets = engine.targets(policy)
    result = reconciled(OtherType(host.description_path, host.state_dir), policy, targets)
    told = " ".join(result.errors)
    assert not result.ok and gpu in told and "it made type 1" in told
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        assert tool.observe(one).vgpus == ()


# -- can't be true -----------------------------------------------------------------------------------------------------------
class Told(SimulatedHost):
    """A simulated machine some of whose files say something else."""

    def __init__(self, host, files):
        super().__init__(host.description_path, host.state_dir)
        self.files = files

    def read(self, path):
        return self.files[path] if path in self.files else super().read(path)


NONSENSE = ["1" + "0" * 23, "²", "٣", "9" * 5000, "-", "0x", "1 2", "4 billion"]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_number_of_functions_that_can_not_be_true_is_a_sentence(simulated, text):
    example, changes, gpu, _, _ = CASES["sriov"]
    host = simulated(example, **changes)
    for name in ("sriov_totalvfs", "sriov_numvfs"):
        told = Told(host, {f"{DEVICES}/{gpu}/{name}": text})
        with Engine(config(host)) as engine:
            [(one, tool)], _ = engine.techniques("sriov", gpu)
        with pytest.raises(errors.DriverError) as caught:
            type(tool)(told, Sessions(told)).observe(one)
        assert type(caught.value) is errors.DriverError and caught.value.gpu == gpu
        assert name in str(caught.value) and "can't be true" in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", NONSENSE)
def test_a_type_of_a_vgpu_that_can_not_be_true_is_a_sentence(simulated, text):
    host = simulated("vgpu-host-vfio")
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", VGPU)
        engine.apply(pillars.for_gpu(VGPU, "vgpu", {"profile": "H100XM-20C", "count": 1}))
        carrier = tool.observe(one).vgpus[0].at
    told = Told(host, {f"{DEVICES}/{carrier}/nvidia/current_vgpu_type": text})
    with pytest.raises(errors.DriverError) as caught:
        type(tool)(told, Sessions(told)).observe(one)
    assert caught.value.gpu == VGPU and carrier in str(caught.value) and len(str(caught.value)) < 300


class Answers:
    """NVML with other answers: name of a function -> function of the real answer and the arguments."""

    def __init__(self, library, instead):
        self._library, self._instead = library, instead

    def __getattr__(self, name):
        real = getattr(self._library, name)
        if name not in self._instead:
            return real
        return lambda *args, **options: self._instead[name](real(*args, **options), args)


class Lying(SimulatedHost):
    """A simulated machine whose NVML has other answers."""

    def __init__(self, host, instead):
        super().__init__(host.description_path, host.state_dir)
        self.instead = instead

    def nvml(self):
        return Answers(super().nvml(), self.instead)


def counted(number):
    """A function that fills a count which its last argument refers to: as if there were so many."""

    def fill(answer, args):
        args[-1]._obj.value = number
        return answer

    return fill


def with_field(name, value):
    """The real answer with another value in one field."""

    def change(answer, _):
        setattr(answer, name, value)
        return answer

    return change


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("nvmlDeviceGetGpuInstancePossiblePlacements", counted(100_000), "100000 legal placements"),
    ("nvmlDeviceGetGpuInstances", counted(2_000_000_000), "2000000000 GPU instances"),
    ("nvmlGpuInstanceGetComputeInstances", counted(17), "17 compute instances"),
    ("nvmlDeviceGetGpuInstanceProfileInfo", with_field("sliceCount", 4_000_000_000), "4000000000 compute slices"),
])  # fmt: skip
def test_what_nvml_tells_and_can_not_be_true_is_a_sentence(room, name, answer, words):
    with Engine(config(room)) as engine:
        gpu = engine.gpu(FIRST)
    host = Lying(room, {name: answer})
    tool = Mig(host, Sessions(host))
    with pytest.raises(errors.DriverError) as caught:
        tool.observe(gpu)
    assert type(caught.value) is errors.DriverError and caught.value.gpu == FIRST
    assert words in str(caught.value) and "can't be true" in str(caught.value)


def test_more_mig_devices_than_can_be_are_a_sentence(room):
    with pytest.raises(errors.DriverError, match="1000000 MIG devices, which can't be true"):
        MigNvml(Lying(room, {"nvmlDeviceGetMaxMigDeviceCount": lambda *_: 1_000_000})).mig_devices(FIRST)


# -- a file that can't be written --------------------------------------------------------------------------------------------
class Recording(SimulatedHost):
    """A simulated machine that remembers the programs that were run on it."""

    def __init__(self, host):
        super().__init__(host.description_path, host.state_dir)
        self.ran = []

    def run(self, argv, timeout=60):
        self.ran.append(argv)
        return super().run(argv, timeout)


@pytest.mark.parametrize("fault", ["ENOSPC", "EROFS"])
def test_without_its_options_file_gim_is_not_reloaded(simulated, fault):
    example, changes, gpu, wanted, _ = CASES["gim"]
    host = simulated(example, **changes)

    class Full(Recording):
        def store_write(self, path, data, mode=0o644):
            if path == OPTIONS:
                self.add_fault({"call": "store_write", "error": fault})
            super().store_write(path, data, mode)

    with Engine(config(host)) as engine:
        policy = engine.policy(wanted)
        targets = engine.targets(policy)
    machine = Full(host)
    result = reconciled(machine, policy, targets)
    told = " ".join(result.errors)
    assert not result.ok and gpu in told and OPTIONS in told and "undone" in told
    assert not [argv for argv in machine.ran if "modprobe" in argv]
    assert host.read(f"{DEVICES}/{gpu}/sriov_numvfs") == "1" and not host.exists(OPTIONS)


def test_an_options_file_that_can_not_be_written_is_an_unusable_place(simulated):
    example, changes, gpu, wanted, _ = CASES["gim"]
    host = simulated(example, **changes)
    with Engine(config(host)) as engine:
        [made] = engine.plan(wanted).changing
        host.add_fault({"call": "store_write", "error": "ENOSPC"})
        with pytest.raises(errors.StateDirUnusable) as caught:
            engine.tools.get("sriov").run(engine.gpu(gpu), made.steps[0])
    assert caught.value.gpu == gpu and OPTIONS in str(caught.value)


def reconciled(machine, policy, targets):
    tools = Toolbox(machine)
    try:
        return Reconciler(machine, tools, Options(unload_modules=policy.unload_modules)).apply(targets)
    finally:
        tools.release()
