"""
Users of a GPU who come after a change was planned: while the run waits for the lock, while units are stopped, between two steps.
Each is named before anything of his ends. And what the driver itself calls "in use" is told with the names.
"""

import threading

import pytest

from gpuslice.change.reconcile import Reconciler
from gpuslice.drivers import device_nodes
from gpuslice.engine import Engine
from gpuslice.host import holders
from gpuslice.model import Process
from gpuslice.records import lock
from gpuslice.rules import Options
from gpuslice.rules import Rules
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import pillars
from tests.support.hosts import config

A100, H100 = "0000:07:00.0", "0000:1b:00.0"
MI300X, FLEX = "0000:05:00.0", "0000:3c:00.0"
NEWCOMER = {"pid": 900, "command": "late.py", "container": "c0ffee123456"}
#: The unit whose stop gives the newcomer his time.
TRAINER = {"pid": 4711, "command": "train.py", "unit": "trainer.service"}


class Visited(SimulatedHost):
    """A simulated machine to which somebody comes while a unit is stopped, and from which he goes when the run first waits."""

    def __init__(self, host, newcomer, stays=True):
        super().__init__(host.description_path, host.state_dir)
        self.newcomer, self.stays, self.ended = newcomer, stays, []

    def run(self, argv, timeout=60):
        done = super().run(argv, timeout)
        if argv[:2] == ["systemctl", "stop"]:
            self.add_process(self.newcomer)
        return done

    def sleep(self, seconds):
        if not self.stays:
            self.remove_process(self.newcomer["pid"])

    def end_process(self, pid, command):
        self.ended.append(pid)
        return super().end_process(pid, command)


class Busy(SimulatedHost):
    """A simulated machine that tells when it was first asked who uses its GPUs."""

    def __init__(self, host):
        super().__init__(host.description_path, host.state_dir)
        self.asked = threading.Event()

    def processes(self):
        found = super().processes()
        self.asked.set()
        return found


class Patient(SimulatedHost):
    """A simulated machine that waits without passing time, and on which somebody appears in the first pause."""

    def __init__(self, host, newcomer=None):
        super().__init__(host.description_path, host.state_dir)
        self.newcomer, self.pauses = newcomer, []

    def sleep(self, seconds):
        self.pauses.append(seconds)
        if self.newcomer:
            self.add_process(self.newcomer)
            self.newcomer = None


def apply(machine, wanted):
    """Apply a pillar on this very machine; returns the result."""
    with Engine(config(machine)) as engine:
        policy = engine.policy(wanted)
        targets = engine.targets(policy)
    options = Options(strategy=policy.apply_strategy, stop_units=policy.stop_units, unload_modules=policy.unload_modules)
    tools = Toolbox(machine)
    try:
        return Reconciler(machine, tools, options).apply(targets)
    finally:
        tools.release()


def stopping(gpu, strategy, settings=None, **management):
    """A pillar about one GPU that lets the unit of the process that was there before be stopped."""
    return pillars.for_gpu(gpu, strategy, settings, **{"stop_units": ["trainer.service"], **management})


def hardware(host):
    """The GPUs, with all that is made in them."""
    return host.state()["gpus"]


A100_MIG = {
    "gpus": [{"model": "a100-40gb", "address": A100, "mig": "enabled", "instances": ["3g.20gb@0", "2g.10gb@4"]}],
    "processes": [{**TRAINER, "gpu": A100, "slice": "2g.10gb@4"}],
}
SLICES = {"profiles": ["3g.20gb", "1g.5gb", "1g.5gb"]}
#: He has opened the device nodes of the slice, and has no context that NVML would tell of.
ON_SLICE = {**NEWCOMER, "gpu": A100, "slice": "2g.10gb@4", "type": "monitor"}


# -- after the plan ----------------------------------------------------------------------------------------------------
def refused(host, wanted, newcomer):
    """Apply while somebody comes; everything is as it was, the unit runs again and he is named."""
    machine = Visited(host, newcomer)
    before = hardware(host)
    result = apply(machine, wanted)
    said = " ".join(result.errors)
    assert not result.ok and "pid 900 (late.py, container c0ffee123456)" in said and "after the change was planned" in said, said
    assert hardware(host) == before
    assert {4711, 900} <= {process.pid for process in host.processes()}
    assert result.changes == {}
    return machine, said


def test_who_came_while_a_unit_was_stopped_is_named_and_keeps_his_slice(simulated):
    host = simulated("dgx-a100-40gb", **A100_MIG)
    _, said = refused(host, stopping(A100, "mig", SLICES), ON_SLICE)
    assert A100 in said and "run again" in said.lower() and "stop_units" in said


def test_force_ends_nobody_whom_the_plan_did_not_show(simulated):
    bystander = {"pid": 5000, "command": "shown.py", "gpu": A100, "slice": "2g.10gb@4"}
    host = simulated("dgx-a100-40gb", gpus=A100_MIG["gpus"], processes=[*A100_MIG["processes"], bystander])
    machine, _ = refused(host, stopping(A100, "mig", SLICES, apply_strategy="force"), ON_SLICE)
    # He came before the first process was ended, so none was ended in vain.
    assert machine.ended == []


class Retitling(SimulatedHost):
    """A simulated machine whose process calls itself something else after the plan, as a training program does at each step."""

    def end_process(self, pid, command):
        with self.change() as state:
            next(one for one in state["processes"] if one["pid"] == pid)["command"] = "train.py: step 2"
        return super().end_process(pid, command)


def test_one_who_took_another_name_was_not_ended_and_his_slice_stays(simulated):
    """What runs under its number is not what the plan showed, so it was left alone, and then it still uses the GPU."""
    host = simulated("dgx-a100-40gb", **A100_MIG)
    before = hardware(host)
    forced = {**stopping(A100, "mig", SLICES), "containers_gpu_state_management": {"apply_strategy": "force"}}
    result = apply(Retitling(host.description_path, host.state_dir), forced)
    said = " ".join(result.errors)
    assert not result.ok and "pid 4711 (train.py: step 2" in said and "after the change was planned" in said, said
    assert hardware(host) == before and 4711 in {process.pid for process in host.processes()}


def test_who_has_gone_again_is_no_obstacle(simulated):
    host = simulated("dgx-a100-40gb", **A100_MIG)
    result = apply(Visited(host, ON_SLICE, stays=False), stopping(A100, "mig", SLICES))
    assert result.ok, result.errors


def test_who_uses_something_that_stays_is_no_obstacle(simulated):
    host = simulated("dgx-a100-40gb", **A100_MIG)
    result = apply(Visited(host, {**ON_SLICE, "slice": "3g.20gb@0"}), stopping(A100, "mig", SLICES))
    assert result.ok, result.errors


def test_a_client_who_came_before_a_mode_change_is_named(simulated):
    host = simulated("dgx-a100-40gb", gpus=[{"model": "a100-40gb", "address": A100}], processes=[{**TRAINER, "gpu": A100}])
    refused(host, stopping(A100, "mig", {"profiles": ["7g.40gb"]}), {**NEWCOMER, "gpu": A100, "type": "monitor"})


@pytest.mark.parametrize(
    ("example", "gpu", "strategy", "section", "node"),
    [
        ("mi300x-8", MI300X, "partition", {"compute": "CPX", "memory": "NPS1"}, "/dev/kfd"),
        ("mixed-vendors", "0000:8a:00.0", "level-zero", {"ccs_mode": 4}, None),
        ("mixed-vendors", "0000:3d:00.0", "passthrough", None, None),
    ],
)
def test_every_technique_looks_again(simulated, example, gpu, strategy, section, node):
    host = simulated(example)
    node = node or next(f"/dev/dri/{name}" for name in host.listdir(f"/sys/bus/pci/devices/{gpu}/drm") if "render" in name)
    host.add_process({**TRAINER, "nodes": [node]})
    refused(host, stopping(gpu, strategy, section), {**NEWCOMER, "nodes": [node]})


def test_a_virtual_function_given_to_a_machine_meanwhile_stays(simulated):
    host = simulated("flex170")
    assert apply(host, stopping(FLEX, "sriov", {"vf_count": 2, "autoprobe": True})).ok
    nodes = device_nodes.drm(host, host.readlink(f"/sys/bus/pci/devices/{FLEX}/virtfn0"))
    assert nodes
    host.add_process({**TRAINER, "nodes": nodes})
    refused(host, stopping(FLEX, "sriov", {"vf_count": 3, "autoprobe": True}), {**NEWCOMER, "nodes": nodes})


@pytest.mark.parametrize("strategy", ["auto", "force"])
def test_a_virtual_machine_that_took_its_vgpu_meanwhile_keeps_it(simulated, strategy):
    host, gpu = simulated("vgpu-host-vfio"), "0000:41:00.0"
    assert apply(host, stopping(gpu, "vgpu", {"profile": "H100XM-40C", "count": 2})).ok
    with Engine(config(host)) as engine:
        nodes = [part["device_nodes"][0] for part in engine.slices(gpu)]
    host.add_process({**TRAINER, "nodes": nodes[:1]})
    wanted = stopping(gpu, "vgpu", {"profile": "H100XM-20C", "count": 4}, apply_strategy=strategy)
    refused(host, wanted, {**NEWCOMER, "nodes": nodes[1:]})


class Shifting(Visited):
    """A simulated machine whose driver says once, while a unit is stopped, that something is not there any more."""

    def add_process(self, process):
        self.add_fault({"call": "nvmlDeviceGetUUID", "times": 1, "error": "NVML_ERROR_NOT_FOUND"})


def test_a_last_look_that_fails_is_a_step_that_was_not_begun(simulated):
    host = simulated("dgx-a100-40gb", **A100_MIG)
    before = hardware(host)
    result = apply(Shifting(host, NEWCOMER), stopping(A100, "mig", SLICES))
    assert "not there any more" in " ".join(result.errors) and hardware(host) == before
    assert "Please report" not in " ".join(result.errors)


# -- while the run waits for the lock ----------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", ["auto", "force"])
def test_who_came_while_the_run_waited_for_the_lock_is_in_its_plan(simulated, strategy):
    host = simulated("dgx-a100-40gb", gpus=A100_MIG["gpus"])
    host.add_process({**ON_SLICE, "pid": 800, "command": "early.py", "unit": "trainer.service"})
    machine, found = Busy(host), []
    wanted = stopping(A100, "mig", SLICES, apply_strategy=strategy)
    with lock.held(host.state_dir, "a colleague", patience=0):
        run = threading.Thread(target=lambda: found.append(apply(machine, wanted)))
        run.start()
        assert machine.asked.wait(20)
        host.add_process(ON_SLICE)
    run.join()
    [result] = found
    if strategy == "auto":
        assert "pid 900 (late.py, container c0ffee123456)" in " ".join(result.errors)
        assert {800, 900} <= {process.pid for process in host.processes()}
        return
    assert result.ok, result.errors
    assert [step.args["pid"] for step in result.plan.steps if step.action == "end_process"] == [900]


# -- what the driver calls in use ---------------------------------------------------------------------------------------
IN_USE = "NVML_ERROR_IN_USE"
H100_MIG = [{"model": "h100-80gb", "address": H100, "mig": "enabled", "instances": ["2g.20gb@0"]}]
LAYOUT = {"profiles": ["3g.40gb@0"]}


@pytest.mark.parametrize("call", ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy"])
def test_one_passing_answer_does_not_undo_a_change(simulated, call):
    host = simulated("dgx-h100", gpus=H100_MIG, faults=[{"call": call, "nth": 1, "error": IN_USE}])
    host.add_process({"pid": 500, "command": "job", "gpu": H100, "slice": "2g.20gb@0"})
    machine = Patient(host)
    result = apply(machine, stopping(H100, "mig", LAYOUT, apply_strategy="force"))
    assert result.ok, result.errors
    assert machine.pauses == [0.1]


@pytest.mark.parametrize("call", ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy", "nvmlDeviceSetMigMode"])
def test_where_nobody_is_in_sight_it_is_said_who_usually_is(simulated, call):
    gpus = H100_MIG if "Instance" in call else [{"model": "h100-80gb", "address": H100}]
    host = simulated("dgx-h100", gpus=gpus, faults=[{"call": call, "times": 4, "error": IN_USE}])
    result = apply(Patient(host), stopping(H100, "mig", LAYOUT))
    said = " ".join(result.errors)
    for word in ("can't be seen", "nv-hostengine", "nvidia-persistenced", "debugger", "fuser -v /dev/nvidia0", H100):
        assert word in said, said


def test_who_is_in_the_way_at_the_step_is_looked_for_then(simulated):
    """He comes after the last look, in the first pause after the driver's answer."""
    faults = [{"call": "nvmlComputeInstanceDestroy", "times": 4, "error": IN_USE}]
    host = simulated("dgx-h100", gpus=H100_MIG, faults=faults)
    result = apply(Patient(host, {**NEWCOMER, "gpu": H100, "slice": "2g.20gb@0"}), stopping(H100, "mig", LAYOUT))
    said = " ".join(result.errors)
    assert "in use by pid 900 (late.py, container c0ffee123456)" in said, said


def test_a_kernel_file_that_is_busy_is_told_with_the_names_too(simulated):
    host = simulated("mi300x-8", faults=[{"call": "write", "times": 9, "error": "EBUSY", "gpu": MI300X}])
    said = " ".join(apply(Patient(host), stopping(MI300X, "partition", {"compute": "CPX", "memory": "NPS1"})).errors)
    assert "can't be seen" in said and "exporter" in said and "fuser -v /dev/dri/card1" in said, said


# -- who is never ended ------------------------------------------------------------------------------------------------
SHELL = {"pid": 50, "command": "bash", "ancestor": True}


@pytest.mark.parametrize("management", [{"apply_strategy": "force"}, {"apply_strategy": "force", "stop_units": ["mine.scope"]}])
@pytest.mark.parametrize("holder", [{**SHELL, "unit": "mine.scope"}, {"pid": 1, "command": "/sbin/init"}])
@pytest.mark.parametrize(
    ("example", "gpu", "strategy", "section", "use"),
    [
        ("dgx-a100-40gb", A100, "mig", SLICES, {"gpu": A100, "slice": "2g.10gb@4"}),
        ("dgx-a100-40gb", A100, "mig", {"profiles": []}, {"gpu": A100, "slice": "3g.20gb@0"}),
        ("mi300x-8", MI300X, "partition", {"compute": "CPX", "memory": "NPS1"}, {"nodes": ["/dev/kfd"]}),
        ("mixed-vendors", "0000:8a:00.0", "level-zero", {"ccs_mode": 4}, {"nodes": ["/dev/dri/card2"]}),
        ("mixed-vendors", "0000:3d:00.0", "passthrough", None, {"nodes": ["/dev/kfd"]}),
    ],
)
def test_force_spares_the_run_s_ancestors_and_the_first_process(
    simulated, example, gpu, strategy, section, use, holder, management
):
    host = simulated(example, **({"gpus": A100_MIG["gpus"]} if example == "dgx-a100-40gb" else {}))
    if strategy in ("level-zero", "passthrough"):
        use = {"nodes": [f"/dev/dri/{name}" for name in host.listdir(f"/sys/bus/pci/devices/{gpu}/drm")]}
    host.add_process({**holder, **use})
    before, wanted = hardware(host), stopping(gpu, strategy, section, **management)
    with Engine(config(host)) as engine:
        planned = engine.plan(wanted)
        result = engine.apply(wanted)
    for said in (dict(planned.blocked)[gpu], " ".join(result.errors)):
        assert f"pid {holder['pid']} ({holder['command']}" in said and gpu in said, said
        assert "never ended" in said or "is in the unit mine.scope itself" in said, said
    assert hardware(host) == before and [process.pid for process in host.processes()] == [holder["pid"]]


@pytest.mark.parametrize(
    "inside", [{"unit": "dcgm.service of uid 1000"}, {"unit": "dcgm.service of container web1", "container": "web1"}]
)
def test_a_unit_of_a_user_or_container_is_not_the_system_s(simulated, inside):
    """Its name is told as what it is, so that the unit of the system that is called alike is not stopped for it."""
    holder = {"pid": 5, "command": "job", "gpu": A100, "slice": "2g.10gb@4", **inside}
    host = simulated("dgx-a100-40gb", gpus=A100_MIG["gpus"], processes=[holder])
    host.add_process({"pid": 6, "command": "hostengine", "unit": "dcgm.service"})
    result = apply(host, stopping(A100, "mig", SLICES, stop_units=["dcgm.service"]))
    assert f"pid 5 (job, unit {inside['unit']})" in " ".join(result.errors)
    assert {process.pid for process in host.processes()} == {5, 6}


def test_the_cgroup_of_a_user_s_unit_is_told_so_by_the_real_host():
    path = "/user.slice/user-1000.slice/user@1000.service/app.slice/dcgm.service"
    unit, container = holders.parse_cgroup(f"0::{path}\n")
    assert not Rules(stop_units=("dcgm.service", "user@1000.service")).may_stop_all([Process(5, "job", unit, container)])
