"""Time-slice steps by ``nvidia-smi compute-policy``, and compute modes by NVML: what is told, what is set, and every refusal."""

import pytest

from gpuslice import errors
from gpuslice.drivers.compute_policy import ComputePolicy
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Completed
from gpuslice.inventory import discovery
from gpuslice.sim.host import SimulatedHost

ONE, OTHER = "0000:41:00.0", "0000:a1:00.0"


class Answering(SimulatedHost):
    """A host on which a program answers what a test says, and that counts what is run."""

    answer, asked = None, ()

    def run(self, argv, timeout=60):
        self.asked = (*self.asked, tuple(argv))
        return self.answer or super().run(argv, timeout)


@pytest.fixture
def made(simulated):
    """``made("l4-pair", privileged=False)``: (host, compute policies, GPU by address)."""

    def make(name="l4-pair", **changes):
        plain = simulated(name, **changes)
        host = Answering(plain.description_path, plain.state_dir)
        return host, ComputePolicy(host, Sessions(host)), {gpu.address: gpu for gpu in discovery.discover(host)}

    return make


def test_the_list_is_read_once_for_all_gpus_and_anew_after_a_set(made):
    host, policy, gpus = made()
    assert [policy.step(gpus[ONE]), policy.step(gpus[OTHER])] == [0, 0]
    assert host.asked == (("nvidia-smi", "compute-policy", "-l"),)
    policy.set_step(gpus[OTHER], 3)
    assert [policy.step(gpus[ONE]), policy.step(gpus[OTHER])] == [0, 3]
    assert len(host.asked) == 3 and host.asked[1][-1] == "--set-timeslice=3"
    policy.forget()
    assert policy.step(gpus[OTHER]) == 3 and len(host.asked) == 4


@pytest.mark.parametrize(("told", "step"), [("Default", 0), ("SHORT", 1), ("medium", 2), ("Long", 3), ("2", 2)])
def test_a_step_is_understood_as_word_and_as_number(made, told, step):
    host, policy, gpus = made()
    head = "+---+\n| GPU     Name             Value            |\n"
    host.answer = Completed(0, f"{head}|   0     Timeslice        {told}          |\n+---+\n")
    assert policy.step(gpus[ONE]) == step
    with pytest.raises(errors.DriverError, match=f"GPU {OTHER}: .* tells no time slice of this GPU"):
        policy.step(gpus[OTHER])


@pytest.mark.parametrize("told", ["Eternal", "7", ""])
def test_a_step_that_nobody_knows_is_a_sentence(made, told):
    host, policy, gpus = made()
    host.answer = Completed(0, f"|   0     Timeslice        {told}          |\n")
    with pytest.raises(errors.DriverError, match="tells no time slice"):
        policy.step(gpus[ONE])


def test_a_driver_that_is_not_there_is_told(made):
    host, policy, gpus = made()
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that it is running."
    host.answer = Completed(9, said)
    with pytest.raises(errors.DriverMissing, match=f"GPU {ONE}: Could not read the time slice: NVIDIA-SMI has failed"):
        policy.step(gpus[ONE])


def test_a_host_without_the_program_is_told(made):
    _, policy, gpus = made(tools=["lspci"])
    with pytest.raises(errors.ToolMissing, match=f"GPU {ONE}: Could not read the time slice: nvidia-smi is not installed"):
        policy.step(gpus[ONE])


def test_a_driver_that_refuses_is_quoted_and_its_gpu_named(made):
    host, policy, gpus = made()
    host.answer = Completed(0, "Failed to set timeslice policy with value Long for GPU 0 : Not Supported\n")
    with pytest.raises(errors.Unsupported) as caught:
        policy.set_step(gpus[ONE], 3)
    told = str(caught.value)
    assert told.startswith(f"GPU {ONE}: NVIDIA L4 takes no time slice: its driver answered 'Failed to set timeslice policy")
    assert "found by trying" in told


def test_without_root_nothing_is_set(made):
    _, policy, gpus = made(privileged=False)
    with pytest.raises(errors.PermissionDenied, match="needs root"):
        policy.set_step(gpus[ONE], 1)
    with pytest.raises(errors.PermissionDenied, match="set the compute mode prohibited"):
        policy.set_mode(gpus[ONE], 2)


def test_a_mode_is_set_and_read_and_there_is_none_in_mig_mode(made):
    _, policy, gpus = made()
    policy.set_mode(gpus[ONE], 3)
    assert [policy.mode(gpus[ONE]), policy.mode(gpus[OTHER])] == [3, 0]
    _, policy, gpus = made(name="a30-pair")
    assert policy.mode(gpus["0000:41:00.0"]) is None and policy.mode(gpus["0000:a1:00.0"]) == 0


def test_a_list_that_was_begun_before_a_set_is_not_kept(made):
    """GPUs are changed side by side."""
    host, policy, gpus = made()
    run = host.run

    def meanwhile(argv, timeout=60):
        listed = run(argv, timeout)
        host.run = run
        policy.set_step(gpus[OTHER], 3)
        return listed

    host.run = meanwhile
    assert policy.step(gpus[ONE]) == 0
    assert policy.step(gpus[OTHER]) == 3


@pytest.mark.parametrize("why", ["GPU is lost", "Unknown Error"])
def test_a_set_that_fails_does_not_mean_that_the_gpu_has_no_steps(made, why):
    host, policy, gpus = made()
    host.answer = Completed(3, f"Failed to set timeslice policy with value Long for GPU 0 : {why}\n")
    with pytest.raises(errors.DriverError, match=f"GPU {ONE}: Could not set the time slice long: Failed to set .* : {why}"):
        policy.set_step(gpus[ONE], 3)


def test_a_mode_that_nobody_knows_is_a_sentence(made):
    host, policy, gpus = made()
    with host.change() as state:
        gpu = state["gpus"][ONE]
        gpu["compute"] = {"epoch": gpu["epoch"], "step": 0, "mode": 9}
    with pytest.raises(errors.DriverError, match="tells compute mode 9, which is not known here"):
        policy.mode(gpus[ONE])
