"""
What a host that is already right costs: which modules are loaded, which files are read, which NVML functions are called.
"""

import json
import subprocess
import sys

import pytest
import yaml

from gpuslice.engine import Engine
from gpuslice.inventory import discovery
from gpuslice.inventory import grain
from gpuslice.inventory import machine
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import consumers
from tests.support import hosts
from tests.support import pillars

#: Functions of NVML that read and change nothing.
READS = {
    "nvmlInit",
    "nvmlDeviceGetHandleByPciBusId",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetGpuInstanceProfileInfo",
    "nvmlDeviceGetGpuInstancePossiblePlacements",
    "nvmlDeviceGetGpuInstances",
    "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceGetComputeInstances",
    "nvmlComputeInstanceGetInfo",
}


class Watched(SimulatedHost):
    """A simulated host that notes which files are read, and which programs are run."""

    def __init__(self, *args):
        self.seen, self.ran = [], []
        super().__init__(*args)

    def read(self, path):
        self.seen.append(path)
        return super().read(path)

    def run(self, argv, *args, **rest):
        self.ran.append(argv)
        return super().run(argv, *args, **rest)


def loaded_by_the_grain(repo, config):
    """Names of the modules that the grain loads in a fresh process, and the grain."""
    program = """
import json, sys
sys.path.insert(0, sys.argv[2])
names = {"__opts__": {"gpu_slicing": json.loads(sys.argv[3])}, "__name__": "gpu"}
exec(open(sys.argv[1], encoding="utf-8").read(), names)
found = names["gpu"]()["gpu"]
print(json.dumps([sorted(sys.modules), found]))
"""
    argv = [sys.executable, "-c", program, str(repo / "_grains" / "gpu.py"), str(repo / "_utils"), json.dumps(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_grain_loads_nothing_that_it_does_not_need(repo, simulated):
    host = simulated("dgx-h100")
    config = hosts.config(host)
    modules, found = loaded_by_the_grain(repo, config)
    assert found["count"] == 8 and "errors" not in found
    assert "gpuslice.catalog.nvidia" in modules
    unneeded = {"pynvml", "pyudev", "gpuslice.engine", "gpuslice.policy", "gpuslice.change.reconcile"}
    unneeded.add("gpuslice.techniques.mig.placement")
    assert not unneeded.intersection(modules)
    # The host has GPUs of one vendor.
    assert not {"gpuslice.catalog.amd", "gpuslice.catalog.intel"}.intersection(modules)


def techniques_loaded_for_slices(repo, host):
    """Packages of the techniques that a fresh process loads to list the slices of a host."""
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
from gpuslice.engine import Engine
with Engine(json.loads(sys.argv[2])) as engine:
    engine.slices()
print(json.dumps([name.split(".")[2] for name in sorted(sys.modules) if name.endswith(".technique")]))
"""
    config = {"simulate": host.description_path, "state_dir": host.state_dir}
    argv = [sys.executable, "-c", program, str(repo / "_utils"), json.dumps(config)]
    return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("example", "packages"),
    [
        ("dgx-h100", ["mig", "passthrough"]),
        ("mi300x-8", ["partition"]),
        ("flex170", ["level_zero", "passthrough", "sriov", "vf_passthrough"]),
    ],
)
def test_reading_loads_only_the_techniques_of_the_gpus_at_hand(repo, simulated, example, packages):
    assert techniques_loaded_for_slices(repo, simulated(example)) == packages


def test_the_processors_are_asked_only_where_the_answer_matters(simulated):
    host = simulated("dgx-h100")
    watched = Watched(host.description_path, host.state_dir)
    gpus = discovery.discover(watched)
    assert len(gpus) == 8 and "/proc/cpuinfo" not in watched.seen
    assert machine.virtualization(watched, gpus) == machine.virtualization(host, discovery.discover(host))
    assert watched.seen.count("/proc/cpuinfo") == 1
    watched.seen.clear()
    grain.facts(watched)
    assert watched.seen.count("/proc/cpuinfo") == 1
    assert watched.seen.count("/sys/bus/pci/devices/0000:1b:00.0/class") == 1


def test_a_converged_host_is_read_once_and_nothing_else(simulated):
    host = simulated("dgx-h100")
    config = hosts.config(host)
    with Engine(config) as engine:
        assert engine.apply(pillars.mig({"1g.10gb": 7})).ok
    with Engine(config) as engine:
        result = engine.apply(pillars.mig({"1g.10gb": 7}))
        calls = engine.tools.get("mig").nvml.calls
    assert result.ok and result.plan.empty and result.generation is None
    assert set(calls) <= READS
    assert calls["nvmlInit"] == 1
    assert calls["nvmlDeviceGetMigMode"] == calls["nvmlDeviceGetHandleByPciBusId"] == 8
    # 56 instances with one compute instance each, looked at once.
    assert calls["nvmlGpuInstanceGetInfo"] == calls["nvmlGpuInstanceGetComputeInstances"] == 56
    assert calls["nvmlComputeInstanceGetInfo"] == 56


def test_a_converged_host_with_consumers_asks_nothing_twice(simulated):
    """The users of each MIG device are looked at once, each file of a consumer is read once, and no program is run."""
    host = consumers.machine(simulated)
    wanted = consumers.pillar(consumers.EACH)
    with Engine(hosts.config(host)) as engine:
        assert engine.apply(wanted).ok
    with Engine(hosts.config(host)) as engine:
        engine.host = watched = Watched(host.description_path, host.state_dir)
        engine.tools = Toolbox(watched)
        assert engine.apply(wanted).plan.empty
        calls = watched.nvml().calls
    assert calls["nvmlInit"] == 1
    assert calls["nvmlDeviceGetComputeRunningProcesses"] == calls["nvmlDeviceGetUUID"] == 14
    assert watched.seen.count(consumers.WEB_FILE) == watched.seen.count(consumers.TRAINER_FILE) == 1
    assert watched.ran == []


def test_what_the_pillar_wants_is_told_without_nvml(simulated):
    host = simulated("dgx-h100")
    with Engine(hosts.config(host)) as engine:
        targets = engine.targets(engine.policy(pillars.mig({"1g.10gb": 7})))
        assert len(targets) == 8
        assert not engine.tools.get("mig").nvml.calls


def test_strategy_auto_still_learns_what_kind_of_machine_it_is(simulated):
    host = simulated("dgx-h100")
    with Engine(hosts.config(host)) as engine:
        policy = engine.policy(pillars.mig({"1g.10gb": 7}, slicing={"strategy": "auto"}))
        assert policy.automatic
        assert [target.technique for target in engine.targets(policy)] == ["mig"] * 8
        assert not engine.policy(pillars.mig({"1g.10gb": 7})).automatic


class Counting(SimulatedHost):
    """A simulated host that counts how often all of its processes are looked at."""

    looks = 0

    def processes(self):
        self.looks += 1
        return super().processes()


def test_the_processes_are_looked_at_once_for_all_vgpus_of_a_gpu(repo, simulated):
    """A look takes seconds on a host with some thousand processes, and a GPU can have 32 vGPUs."""
    host = simulated("vgpu-host-vfio")
    config = hosts.config(host)
    wanted = yaml.safe_load((repo / "examples" / "pillar" / "vgpu_host.sls").read_text(encoding="utf-8"))
    with Engine(config) as engine:
        assert engine.apply(wanted).ok
    for look in (lambda engine: engine.slices(), lambda engine: engine.reconciler().plan(engine.rollback_targets())):
        with Engine(config) as engine:
            engine.host = counting = Counting(host.description_path, host.state_dir)
            engine.tools = Toolbox(counting)
            look(engine)
            gpus = len(engine.gpus)
            vgpus = len([part for part in engine.slices() if part["kind"] == "vgpu"])
        assert 0 < counting.looks <= 3 * gpus < vgpus, (counting.looks, gpus, vgpus)


@pytest.mark.parametrize("look", ["apply", "devices", "slices", "maps", "health"])
def test_all_that_ask_the_vendors_library_share_one_session(simulated, look):
    """A session costs a second or more on a host where nothing else keeps the driver awake."""
    host = simulated("vgpu-host-vfio")
    config = hosts.config(host)
    one, other = (gpu.address for gpu in discovery.discover(host))
    rules = [
        {"match": {"pci": one}, "strategy": "vgpu", "vgpu": {"profiles": {"H100XM-1-10C": 2}}},
        {"match": {"pci": other}, "strategy": "mig", "mig": {"profiles": ["3g.40gb", "1g.10gb"]}},
    ]
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "none", "devices": rules}}
    with Engine(config) as engine:
        assert engine.apply(wanted).ok
    with Engine(config) as engine:
        if look == "apply":
            assert engine.apply(wanted).plan.empty
        else:
            assert getattr(engine, look)()
        # Of the library itself, whoever asked it.
        assert engine.host.nvml().calls["nvmlInit"] == 1


#: What is asked of a sliced host -> how many modules of the engine it may load, what it has no use for, whose work it needs.
LOADS = {
    "engine.apply(wanted)": (103, {"change.runner", "change.undo", "change.newcomers", "health", "boot"}, ["mig"]),
    "engine.slices()": (79, {"change.runner", "change.undo", "health", "boot", "policy.json_schema"}, ["mig", "passthrough"]),
}
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from gpuslice.engine import Engine
wanted = json.loads(sys.argv[3])
with Engine(json.loads(sys.argv[2])) as engine:
    {}
print(json.dumps(sorted(name.removeprefix("gpuslice.") for name in sys.modules if name.startswith("gpuslice."))))
"""


@pytest.mark.parametrize("asked", LOADS)
def test_a_sliced_host_loads_what_it_needs_and_no_more(repo, simulated, asked):
    """Each module costs some tenths of a millisecond in every salt-call: one more has to be worth that."""
    host = simulated("dgx-h100")
    wanted, (most, unneeded, techniques) = pillars.mig({"1g.10gb": 7}), LOADS[asked]
    with Engine(hosts.config(host)) as engine:
        assert engine.apply(wanted).ok
    argv = [sys.executable, "-c", PROGRAM.format(asked), str(repo / "_utils"), json.dumps(hosts.config(host)), json.dumps(wanted)]
    loaded = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    real = [name for name in loaded if name.split(".")[0] != "sim"]
    assert len(real) <= most, sorted(real)
    assert not unneeded.intersection(loaded)
    assert "techniques.mig.drawing" not in loaded
    # Of the other technologies their words, and nothing of what they do.
    assert [name.split(".")[1] for name in loaded if name.endswith(".technique")] == techniques
