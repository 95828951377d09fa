"""
The class of an error decides what it stops: a mistake of the one who asked stops everything before anything is begun, the
condition of one GPU leaves that GPU as it is, and what holds for all of a host stops them all. Each is brought about here on one
GPU of several.
"""

import errno

import pytest

from gpuslice import errors
from gpuslice.change.reconcile import Reconciler
from gpuslice.engine import Engine
from gpuslice.rules import Options
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import pillars
from tests.support.hosts import config

FIRST, SECOND, THIRD = "0000:07:00.0", "0000:0f:00.0", "0000:47:00.0"
TRIO = [{"model": "a100-40gb", "mig": "enabled", "instances": ["2g.10gb@4"], "address": each} for each in (FIRST, SECOND, THIRD)]
DEVICES = "/sys/bus/pci/devices"


class Failing(SimulatedHost):
    """A simulated machine some of whose files can't be read, or say something else."""

    def __init__(self, host, answers):
        super().__init__(host.description_path, host.state_dir)
        self.answers = answers

    def read(self, path):
        answer = self.answers.get(path)
        if isinstance(answer, int):
            raise OSError(answer, "no", path)
        return super().read(path) if answer is None else answer


MIG = pillars.for_all("mig", {"profiles": ["3g.20gb"]})


def targets(host, pillar):
    with Engine(config(host)) as engine:
        return engine.targets(engine.policy(pillar))


def apply(host, pillar):
    """Bring a host to a pillar, through the door that ``host`` is."""
    return Reconciler(host, Toolbox(host), Options()).apply(targets(host, pillar))


def changed(host, pillar):
    """PCI addresses of the GPUs that would still have to change."""
    return sorted(made.gpu for made in Reconciler(host, Toolbox(host), Options()).plan(targets(host, pillar)).changing)


#: NVML's answer when one of three GPUs is read -> what that stops.
ANSWERS = {
    "NVML_ERROR_UNKNOWN": "one",
    "NVML_ERROR_INVALID_ARGUMENT": "one",
    "NVML_ERROR_GPU_IS_LOST": "one",
    "NVML_ERROR_RESET_REQUIRED": "one",
    "NVML_ERROR_IN_USE": "one",
    "NVML_ERROR_NOT_FOUND": "one",
    "NVML_ERROR_INSUFFICIENT_RESOURCES": "one",
    "NVML_ERROR_TIMEOUT": "one",
    "NVML_ERROR_MEMORY": "one",
    "NVML_ERROR_NO_PERMISSION": "one",
    "NVML_ERROR_DRIVER_NOT_LOADED": "one",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "one",
    # Settings of the pillar that a GPU can't have are mistakes.
    "NVML_ERROR_NOT_SUPPORTED": "all",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "all",
}
CLASSES = {
    "NVML_ERROR_UNKNOWN": errors.DriverError,
    "NVML_ERROR_INVALID_ARGUMENT": errors.DriverError,
    "NVML_ERROR_TIMEOUT": errors.DriverError,
    "NVML_ERROR_MEMORY": errors.DriverError,
    "NVML_ERROR_GPU_IS_LOST": errors.Unhealthy,
    "NVML_ERROR_RESET_REQUIRED": errors.ModeChangePending,
    "NVML_ERROR_IN_USE": errors.InUse,
    "NVML_ERROR_NOT_FOUND": errors.ForeignChange,
    "NVML_ERROR_INSUFFICIENT_RESOURCES": errors.ForeignChange,
    "NVML_ERROR_NO_PERMISSION": errors.PermissionDenied,
    "NVML_ERROR_DRIVER_NOT_LOADED": errors.DriverMissing,
    "NVML_ERROR_LIBRARY_NOT_FOUND": errors.DriverMissing,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": errors.DriverMismatch,
    "NVML_ERROR_NOT_SUPPORTED": errors.Unsupported,
    "NVML_ERROR_FUNCTION_NOT_FOUND": errors.Unsupported,
}


def call_for(answer):
    """A call that is made whenever a GPU is read, and to which this answer means no more than that it failed."""
    ordinary = answer in ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_INVALID_ARGUMENT")
    return "nvmlDeviceGetMigMode" if ordinary else "nvmlDeviceGetGpuInstances"


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_one_gpu_answers_stops_that_one_or_all(simulated, answer):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    host.add_fault({"call": call_for(answer), "gpu": SECOND, "times": 0, "error": answer})
    if ANSWERS[answer] == "all":
        with pytest.raises(errors.GpuSliceError, match=SECOND):
            apply(host, MIG)
        host.clear_faults()
        assert changed(host, MIG) == [FIRST, SECOND, THIRD]
        return
    result = apply(host, MIG)
    assert not result.ok and result.plan.blocked[0][0] == SECOND and len(result.plan.blocked) == 1
    assert SECOND in result.plan.blocked[0][1] and list(result.changes) == [FIRST, THIRD]
    host.clear_faults()
    assert changed(host, MIG) == [SECOND]


@pytest.mark.parametrize("answer", CLASSES)
def test_an_answer_of_nvml_has_its_class(simulated, answer):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    [gpu] = [target.gpu for target in targets(host, MIG) if target.gpu.address == SECOND]
    host.add_fault({"call": call_for(answer), "gpu": SECOND, "times": 0, "error": answer})
    with pytest.raises(CLASSES[answer]) as caught:
        Toolbox(host).get("mig").observe(gpu)
    assert type(caught.value) is CLASSES[answer] and caught.value.gpu == SECOND


@pytest.mark.parametrize("answer", [each for each, what in ANSWERS.items() if CLASSES[each].__base__ is errors.DriverError])
def test_what_every_gpu_answers_is_an_error_of_the_host(simulated, answer):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    host.add_fault({"call": "nvmlDeviceGetGpuInstances", "times": 0, "error": answer})
    with pytest.raises(CLASSES[answer]):
        apply(host, MIG)


def test_a_library_that_is_missing_stops_the_gpus_that_need_it_and_no_other(simulated):
    host = simulated("mixed-vendors", driver={"library": "missing"})
    settings = {"mig": {"profiles": ["1g.10gb"]}, "partition": {"compute": "CPX"}}
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "auto", **settings}}
    found = targets(host, wanted)
    assert {target.technique for target in found} >= {"mig", "partition"}, found
    result = apply(host, wanted)
    mig = [target.gpu.address for target in found if target.technique == "mig"]
    assert [gpu for gpu, _ in result.plan.blocked] == mig and all(gpu in why for gpu, why in result.plan.blocked)
    assert result.changes and not set(mig) & set(result.changes)


#: A file of one GPU, what the kernel answers when it is read, and the class of that.
FILES = {
    "in reset": ("current_compute_partition", errno.EPERM, errors.Unhealthy),
    "compute mode": ("current_compute_partition", errno.EIO, errors.DriverError),
    "memory mode": ("current_memory_partition", errno.EIO, errors.DriverError),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_of_one_gpu_that_can_not_be_read_leaves_that_gpu_alone(simulated, what):
    (file, answer, kind), wanted = FILES[what], pillars.for_all("partition", {"compute": "CPX"})
    host = simulated("mi300x-8")
    every = changed(host, wanted)
    odd = every[1]
    failing = Failing(host, {f"{DEVICES}/{odd}/{file}": answer})
    gpu = next(target.gpu for target in targets(host, wanted) if target.gpu.address == odd)
    with pytest.raises(kind) as caught:
        Toolbox(failing).get("partition").observe(gpu)
    assert type(caught.value) is kind and caught.value.gpu == odd
    result = apply(failing, wanted)
    assert [address for address, _ in result.plan.blocked] == [odd] and not result.ok
    assert sorted(result.changes) == [gpu for gpu in every if gpu != odd]


def test_a_physical_function_that_is_not_there_is_a_mistake(simulated):
    host = simulated("flex170")
    with pytest.raises(errors.PolicyError, match="pf_device names 0000:99:00.0, which this host does not have"):
        apply(host, pillars.for_all("sriov", {"vf_count": 2, "pf_device": "0000:99:00.0"}))
