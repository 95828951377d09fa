"""
A change ends whole, whatever ends it: a failed GPU keeps no other from its change, and signals, surprises and GPUs that are lost
end in hardware that was put back and a record that is closed, or in one that says what is left.
"""

import os
import resource
import signal
import sys
import threading
import time

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.model import Key
from gpuslice.records.history import History
from gpuslice.records.journal import Journal
from gpuslice.records.verified import Verified
from tests.support import pillars
from tests.support.a100 import A100
from tests.support.a100 import AFTER
from tests.support.a100 import BEFORE
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import HOLDER
from tests.support.a100 import NEW
from tests.support.a100 import OLD
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import listed
from tests.support.hosts import shapes


def last(host):
    return History(host).all()[-1]


# -- one GPU and the others -------------------------------------------------------------------------------------------
def test_a_gpu_that_fails_is_put_back_and_the_others_keep_their_change(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": CREATE, "gpu": SECOND, "error": "NVML_ERROR_UNKNOWN"}])
    result = apply(host, pillars.mig(AFTER))
    told = " ".join(result.errors)
    assert not result.ok and closed(host)
    assert shapes(host) == {FIRST: NEW, SECOND: OLD, THIRD: NEW}
    assert SECOND in result.errors[0] and "create GPU instance" in result.errors[0]
    assert f"What was done on {SECOND} has been undone" in told and "2 other GPUs" in told
    # Its UUIDs are others than before, but its layout is the same: it has not changed.
    assert sorted(result.changes) == [FIRST, THIRD]
    assert last(host)["result"] == "partly applied"
    # A boot brings back what was verified, and of the GPU that failed nothing that never was.
    known = Verified(host).entries()
    assert sorted(known) == [Key(FIRST, "mig"), Key(THIRD, "mig")] and known[Key(FIRST, "mig")]["layout"]["instances"] != []
    # The next run has only that GPU to do.
    with Engine(config(host)) as engine:
        assert [made.gpu for made in engine.plan(pillars.mig(AFTER)).changing] == [SECOND]
    assert apply(host, pillars.mig(AFTER)).ok and shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)


@pytest.mark.parametrize("call", [CREATE, "nvmlGpuInstanceDestroy", "nvmlGpuInstanceCreateComputeInstanceWithPlacement"])
def test_a_driver_that_lies_about_one_gpu_costs_only_that_gpu_its_change(simulated, call):
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": call, "gpu": THIRD, "lie": True}])
    wanted = ["3g.20gb", "1g.5gb"] if call == "nvmlGpuInstanceDestroy" else AFTER
    result = apply(host, pillars.mig(wanted))
    assert not result.ok and THIRD in " ".join(result.errors)
    assert shapes(host) == {FIRST: sorted(wanted), SECOND: sorted(wanted), THIRD: OLD}


def test_what_can_not_be_put_back_keeps_the_journal_open_for_that_gpu_only(simulated):
    faults = [{"call": CREATE, "gpu": SECOND, "times": 0, "error": "NVML_ERROR_UNKNOWN"}]
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=faults)
    result = apply(host, pillars.mig(AFTER))
    assert f"GPU {SECOND} could not be put back to 3g.20gb@0, 2g.10gb@4, 1g.5gb@6" in " ".join(result.errors)
    left = Journal(host).unfinished()
    assert list(left.before) == list(left.goal) == list(left.addresses) == [Key(SECOND, "mig")] and left.gpus == [SECOND]
    assert {key for key, _ in left.begun()} == {Key(SECOND, "mig")} and left.pauses == []
    host.clear_faults()
    # Another wish undoes what is left there first, and leaves alone what the others were changed to.
    kept = {(s["gpu"], s["placement"]): s["uuid"] for s in listed(host) if s["gpu"] != SECOND}
    assert apply(host, pillars.mig([*AFTER, "1g.5gb"])).ok and closed(host)
    now = {(s["gpu"], s["placement"]): s["uuid"] for s in listed(host)}
    assert kept.items() <= now.items()


def test_a_unit_that_can_not_be_stopped_costs_only_its_gpu_the_change(simulated):
    holder = {"pid": 4711, "command": "train.py", "unit": "trainer.service", "gpu": FIRST, "slice": "2g.10gb@4"}
    other = {**holder, "pid": 4712, "unit": "web.service", "gpu": SECOND}
    host = simulated(
        "dgx-a100-40gb",
        gpus=TRIO,
        processes=[holder, other],
        faults=[{"call": "run", "nth": 1, "error": "EACCES"}],
    )
    result = apply(host, pillars.mig(AFTER, stop_units=["trainer.service", "web.service"]))
    told = " ".join(result.errors)
    assert not result.ok and closed(host)
    assert "trainer.service could not be stopped" in told and "Permission denied" in told and FIRST in told
    assert shapes(host) == {FIRST: OLD, SECOND: NEW, THIRD: NEW}


def test_a_gpu_that_goes_during_its_change_is_told_and_stops_no_later_run(simulated):
    """Nobody can put back what is gone: the record is closed, or every later run would stumble over it."""
    host = simulated("flex170")
    with Engine(config(host)) as engine:
        gpu = engine.gpus[0].address
    host.add_fault({"call": "write", "nth": 2, "times": 0, "error": "ENODEV"})
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "sriov", "sriov": {"vf_count": 2, "autoprobe": True}}}
    result = apply(host, wanted)
    assert not result.ok and "the device is gone" in " ".join(result.errors) and gpu in " ".join(result.errors)
    assert closed(host) and last(host)["result"] == "rolled back as far as possible"


def test_with_on_failure_host_the_others_begin_no_further_step(simulated):
    """The first GPU fails at once; what the others destroy only after that is not destroyed at all."""
    faults = [{"call": "nvmlComputeInstanceDestroy", "gpu": FIRST, "error": "NVML_ERROR_UNKNOWN"}]
    host = simulated("dgx-a100-40gb", gpus=TRIO, latency={"destroy_ci": 0.4}, faults=faults)
    begun = []
    with Engine(config(host), progress=begun.append) as engine:
        result = engine.apply(pillars.mig(AFTER, on_failure="host"))
    assert not result.ok and shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), OLD)
    forward = begun[: next(number for number, line in enumerate(begun) if line.startswith("failed"))]
    assert not [line for line in forward if "destroy GPU instance" in line], forward


def test_what_is_put_back_after_it_was_verified_is_no_foreign_change(simulated):
    """The first GPUs are verified before the last one is found wrong; then all are put back, by nobody else."""
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": "nvmlGpuInstanceDestroy", "gpu": THIRD, "lie": True}])
    result = apply(host, pillars.mig(["3g.20gb", "1g.5gb"], on_failure="host"))
    told = " ".join(result.errors)
    assert "read again" in told and THIRD in told and FIRST not in told and "manages it besides Salt" not in told
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), OLD) and not Verified(host).entries()


def test_gpus_that_change_together_are_put_back_together(simulated):
    """One reload serves a hive: the mates of a GPU that fails after it are not left in another memory mode."""
    host = simulated("mi300x-8")
    with Engine(config(host)) as engine:
        addresses = [gpu.address for gpu in engine.gpus]
        before = {gpu.address: engine.tools.get("partition").observe(gpu) for gpu in engine.gpus}
    # Not the one that carries the reload for all.
    host.add_fault({"call": "write", "gpu": addresses[-2], "error": "EIO"})
    wanted = {
        "containers_gpu_slicing": {
            "enabled": True,
            "strategy": "partition",
            "partition": {"compute": "QPX", "memory": "NPS4"},
        },
        "containers_gpu_state_management": {"unload_modules": ["amdgpu"]},
    }
    result = apply(host, wanted)
    assert not result.ok and addresses[-2] in " ".join(result.errors)
    with Engine(config(host)) as engine:
        after = {gpu.address: engine.tools.get("partition").observe(gpu) for gpu in engine.gpus}
    assert {a: (s.compute, s.memory) for a, s in after.items()} == {a: (s.compute, s.memory) for a, s in before.items()}
    assert closed(host)


# -- signals -----------------------------------------------------------------------------------------------------------
def ended(host, wanted):
    """Apply in a process of its own; returns (exit status, number of the signal that ended it)."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            # Ended as a terminal or a service manager would find it.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            apply(host, wanted)
            status = 0
        except errors.Interrupted as err:
            with open(f"{host.state_dir}/told", "w", encoding="utf-8") as handle:
                handle.write(err.what)
            status = err.code
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def told(host):
    with open(f"{host.state_dir}/told", encoding="utf-8") as handle:
        return handle.read()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("call", ["nvmlComputeInstanceDestroy", CREATE, "run"])
def test_a_signal_lets_the_running_call_end_and_undoes_the_change(simulated, name, call):
    host = simulated(
        "dgx-a100-40gb",
        gpus=TRIO,
        processes=[HOLDER],
        faults=[{"call": call, "signal": name}],
        latency={"create_gi": 0.2, "destroy_ci": 0.2},
    )
    status = ended(host, pillars.mig(AFTER, stop_units=["trainer.service"]))
    number = signal.Signals[name]
    assert status == 128 + number
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), OLD)
    assert closed(host) and last(host)["result"] == "rolled back"
    assert name in told(host) and "undone" in told(host) and "generation 1" in told(host)
    assert units_started(host), "what was stopped was started again"
    # Nothing is left for the next run to repair.
    assert apply(host, pillars.mig(AFTER, stop_units=["trainer.service"])).ok


def units_started(host):
    """Whether the process of the unit that was stopped runs again."""
    return [process["unit"] for process in host.state()["processes"]] == ["trainer.service"]


@pytest.mark.parametrize("call", ["nvmlDeviceGetGpuInstances", "store_remove"])
def test_a_signal_when_only_the_close_is_left_leaves_the_change_made(simulated, call):
    """Every step has run: to undo all of it would be worse than to close the record."""
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    with Engine(config(host)) as engine:
        engine.plan(pillars.mig(AFTER))
    # The last step of this GPU creates a compute instance; the next call of any kind belongs to the verification.
    host.add_fault({"call": "nvmlDeviceGetMigMode", "nth": 4, "signal": "SIGTERM"})
    status = ended(host, pillars.mig(AFTER))
    assert status == 128 + signal.SIGTERM and closed(host)
    made = shapes(host)[FIRST]
    assert made in (NEW, OLD) and last(host)["result"] == ("applied" if made == NEW else "rolled back")


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_the_next_run_repairs(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, latency={"create_gi": 3})
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            apply(host, pillars.mig(AFTER))
        finally:
            os._exit(0)
    end = time.monotonic() + 20
    while not (Journal(host).unfinished() and len(Journal(host).unfinished().steps) >= 7) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    time.sleep(1.2)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    # One that went on would have closed its record, and ended by itself.
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM and not closed(host)
    assert apply(host, pillars.mig(BEFORE)).ok and closed(host)
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), OLD)


def test_handlers_are_as_they_were_after_a_change(simulated):
    def mine(*_):
        pass

    former = signal.signal(signal.SIGTERM, mine)
    try:
        host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
        assert apply(host, pillars.mig(AFTER)).ok
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former)


def test_a_change_outside_the_main_thread_works_without_handlers(simulated):
    host, results = simulated("dgx-a100-40gb", gpus=TRIO[:1]), []
    thread = threading.Thread(target=lambda: results.append(apply(host, pillars.mig(AFTER))))
    thread.start()
    thread.join(30)
    assert results[0].ok and shapes(host)[FIRST] == NEW


# -- surprises ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("nvmlComputeInstanceDestroy", 1),
        (CREATE, 2),
        ("nvmlGpuInstanceDestroy", 3),
        ("run", 1),
        ("store_append", 5),
        ("nvmlDeviceGetMigMode", 9),
        ("nvmlDeviceGetMigMode", 12),
    ],
)
def test_what_nobody_thought_of_ends_in_a_closed_record_and_hardware_put_back(simulated, call, nth):
    host = simulated(
        "dgx-a100-40gb",
        gpus=TRIO,
        processes=[HOLDER],
        faults=[{"call": call, "nth": nth, "unexpected": True}],
    )
    wanted = pillars.mig(AFTER, stop_units=["trainer.service"])
    result = apply(host, wanted)
    assert closed(host) and units_started(host)
    found = shapes(host)
    assert all(shape in (OLD, NEW) for shape in found.values()), found
    assert result.ok == (set(map(tuple, found.values())) == {tuple(NEW)}), (result.errors, found)
    assert result.ok or "unexpected" in " ".join(result.errors) or "RuntimeError" in " ".join(result.errors)
    assert apply(host, wanted).ok and shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)


def test_a_unit_that_can_not_be_started_again_is_named(simulated):
    host = simulated(
        "dgx-a100-40gb", gpus=TRIO, processes=[HOLDER], faults=[{"call": "run", "nth": 2, "unexpected": True}]
    )
    result = apply(host, pillars.mig(AFTER, stop_units=["trainer.service"]))
    assert not result.ok and closed(host) and shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)
    assert "trainer.service was stopped for this change and could not be started again" in " ".join(result.errors)


def test_a_session_that_can_not_be_closed_fails_no_change(simulated):
    plain = [{"model": "a100-40gb", "address": FIRST}]
    fault = {"call": "nvmlShutdown", "times": 0, "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-a100-40gb", gpus=plain, reset="tool", faults=[fault])
    result = apply(host, pillars.mig(AFTER))
    assert closed(host)
    host.clear_faults()
    with Engine(config(host)) as engine:
        state = engine.tools.get("mig").observe(engine.gpus[0])
    # Its own session may keep the driver from the reset: then the mode is as it was, else as it was wanted.
    assert (state.current, state.pending) == ((True, True) if result.ok else (False, False)), result.errors


def test_progress_that_can_not_be_told_fails_no_change(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)

    def broken(_line):
        raise OSError("the event bus is gone")

    with Engine(config(host), progress=broken) as engine:
        assert engine.apply(pillars.mig(AFTER)).ok
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)


def test_without_threads_the_gpus_are_changed_one_after_the_other(simulated):
    """A machine at its limit of threads: stacks that fit nowhere keep any from being started."""
    host = simulated("dgx-a100-40gb", gpus=TRIO)

    def work():
        threading.stack_size(1 << 33)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        with pytest.raises(RuntimeError):
            threading.Thread(target=print).start()
        assert apply(host, pillars.mig(AFTER)).ok

    assert in_child(work) == 0
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW) and closed(host)


def test_a_program_that_can_not_be_started_is_a_sentence(tmp_path):
    from gpuslice.host.real import RealHost

    program = tmp_path / "systemctl"
    program.write_text("#!/nowhere/at/all\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(errors.GpuSliceError) as caught:
        RealHost(str(tmp_path)).run([str(program), "stop", "x"])
    assert str(program) in str(caught.value)
    directory = tmp_path / "modprobe"
    directory.mkdir()
    with pytest.raises(errors.ToolFailed) as caught:
        RealHost(str(tmp_path)).run([str(directory)])
    assert "Permission denied" in str(caught.value)


# -- GPUs that are lost ------------------------------------------------------------------------------------------------
def crashed(host, nth=8):
    """A change of all GPUs that a kill ended half way."""
    host.add_fault({"call": CREATE, "nth": nth, "kill": "before"})
    assert in_child(lambda: apply(host, pillars.mig([*AFTER, "1g.5gb"], on_failure="host"))) == signal.SIGKILL
    host.clear_faults()
    assert not closed(host)


@pytest.mark.parametrize("how", ["nvml", "lost"])
@pytest.mark.parametrize("wish", ["same", "other"])
def test_a_gpu_that_is_lost_after_a_crash_keeps_no_other_between_two_layouts(simulated, how, wish):
    host = simulated("dgx-a100-40gb", gpus=[*TRIO, {**A100, "address": "0000:4e:00.0"}])
    crashed(host)
    if how == "lost":
        with host.change() as state:
            state["gpus"][SECOND]["health"]["lost"] = True
    else:
        host.add_fault({"call": "nvmlDeviceGetHandleByPciBusId", "gpu": SECOND, "times": 0, "error": "NVML_ERROR_NOT_FOUND"})
    wanted = pillars.mig([*AFTER, "1g.5gb"] if wish == "same" else BEFORE)
    with Engine(config(host)) as engine:
        result = engine.apply(wanted)
    assert SECOND in " ".join([*result.errors, *result.warnings]) and closed(host)
    host.clear_faults()
    with host.change() as state:
        state["gpus"][SECOND]["health"]["lost"] = False
    found = shapes(host)
    expected = sorted([*AFTER, "1g.5gb"]) if wish == "same" else OLD
    assert {gpu: shape for gpu, shape in found.items() if gpu != SECOND} == {
        gpu: expected for gpu in found if gpu != SECOND
    }, result.errors


def test_a_gpu_that_is_named_and_gone_from_the_bus_keeps_no_other_between_two_layouts(simulated, tmp_path, host_description):
    """The pillar names all GPUs; after the crash one is no longer on the bus, so that the pillar can't be met any more."""
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    crashed(host, nth=5)
    with host.change() as state:
        gone = state["gpus"].pop(THIRD)
    rules = [{"match": {"pci": a}, "strategy": "mig", "mig": {"profiles": [*AFTER, "1g.5gb"]}} for a in (FIRST, SECOND, THIRD)]
    wanted = {"containers_gpu_slicing": {"enabled": True, "devices": rules}}
    with Engine(config(host)) as engine, pytest.raises(errors.DeviceNotFound) as caught:
        engine.apply(wanted)
    assert THIRD in str(caught.value) and "undone" in str(caught.value)
    assert gone and closed(host)
    assert shapes(host) == {FIRST: OLD, SECOND: OLD}
