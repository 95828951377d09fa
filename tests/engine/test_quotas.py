"""
Limits of GPU memory for consumers: by the best means that a host has, read back, undone with the change, and there again after
what takes them.
"""

import signal
import subprocess
import sys

import pytest

from gpuslice import errors
from gpuslice.boot import limiting
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.inventory.grain import facts
from gpuslice.sim import cgroups
from gpuslice.sim import units
from gpuslice.techniques.consumers import checking
from gpuslice.techniques.consumers import views
from tests.conftest import ROOT
from tests.support import consumers
from tests.support import quotas
from tests.support import stages
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.quotas import limit_now
from tests.support.quotas import limited


@pytest.fixture(params=list(quotas.ALL))
def machine(request):
    return quotas.ALL[request.param]


@pytest.fixture
def host(simulated, machine):
    return simulated(machine.example, **machine.changes)


# -- the thin line -----------------------------------------------------------------------------------------------------
def test_a_limit_is_planned_set_read_back_and_stays(host, machine):
    before = host.state()
    plan = consumers.planned(host, limited(machine))
    assert host.state() == before
    [step] = [step for step in plan.steps if step.action == "limit"]
    assert step.words == f"limit trainer (gpuslicing-trainer.slice) to 8192 MiB of {machine.gpu}"
    assert f"is enforced by {machine.means}" in str(plan)
    result = apply(host, limited(machine))
    assert result.ok and not result.warnings, (result.errors, result.warnings)
    assert limit_now(host, machine) == 8192
    assert "Slice=gpuslicing-trainer.slice" in host.read(quotas.DROP_IN)
    assert f"{machine.gpu}=8192" in host.read(quotas.SETTER)
    assert consumers.planned(host, limited(machine)).empty and apply(host, limited(machine)).plan.empty


def test_a_limit_that_is_asked_no_more_goes_and_so_does_its_slice(host, machine):
    assert apply(host, limited(machine)).ok
    wanted = quotas.handing({"trainer": {"kind": "service", "unit": quotas.TRAINER, "slice": {"gpu": machine.gpu}}})
    assert apply(host, wanted).ok and apply(host, wanted).plan.empty
    assert limit_now(host, machine) is None and not host.exists(cgroups.path_of(quotas.SLICE))
    assert not host.exists(quotas.SETTER) and not host.exists(quotas.DROP_IN)


def test_another_limit_starts_nobody_anew(host, machine):
    assert apply(host, limited(machine)).ok
    before = host.state()["starts"]
    result = apply(host, limited(machine, 4096))
    assert result.ok and limit_now(host, machine) == 4096 and host.state()["starts"] == before
    told = {"old": {"trainer": f"{machine.gpu} (at most 8192 MiB)"}, "new": {"trainer": f"{machine.gpu} (at most 4096 MiB)"}}
    assert result.plan.changes()["consumers"] == told and "1 consumer with another slice or limit" in result.plan.text()
    assert f"{machine.gpu}=4096" in host.read(quotas.SETTER)
    assert apply(host, limited(machine, 4096)).plan.empty


@pytest.mark.parametrize("machine", ["intel"], indirect=True)
def test_a_limit_that_does_not_stay_is_named(host, machine):
    """Somebody else lifts it between the step and the look at the end: who has what is the same all the while."""

    class Lifted(type(host)):
        def store_write(self, path, text, *more, **named):
            super().store_write(path, text, *more, **named)
            if path.endswith("consumers.json") and limit_now(self, machine):
                self.write(f"{cgroups.path_of(quotas.SLICE)}/dmem.max", f"{machine.regions[0]} max")

    with Engine(config(host)) as engine:
        engine.host.__class__ = Lifted
        result = engine.apply(limited(machine))
    assert not result.ok
    assert f", and still to be done is: limit trainer ({quotas.SLICE}) to 8192 MiB of {machine.gpu}." in result.errors[0]


# -- what takes a limit ------------------------------------------------------------------------------------------------
def test_a_limit_that_a_driver_has_lost_is_noticed_and_set_again(host, machine):
    assert apply(host, limited(machine)).ok
    with host.change() as state:
        cgroups.forget(state, [machine.gpu])
    assert limit_now(host, machine) is None
    assert [step.action for step in consumers.planned(host, limited(machine)).steps] == ["limit"]
    assert apply(host, limited(machine)).ok and limit_now(host, machine) == 8192


def test_a_slice_that_is_stopped_has_its_limit_again_when_its_service_starts(host, machine):
    assert apply(host, limited(machine)).ok
    with host.change() as state:
        units.stop(state, quotas.TRAINER)
        cgroups.stop(state, quotas.SLICE)
    assert limit_now(host, machine) is None
    with host.change() as state:
        units.start(state, quotas.TRAINER)
    assert limit_now(host, machine) == 8192 and consumers.planned(host, limited(machine)).empty


def test_a_boot_has_it_again(host, machine):
    assert apply(host, limited(machine)).ok
    host.reboot()
    with Engine(config(host)) as engine:
        answer = replay.replay(engine)
    assert answer["result"], answer
    assert limit_now(host, machine) == 8192 and consumers.planned(host, limited(machine)).empty


def test_a_change_that_loads_the_driver_anew_ends_with_the_limit(simulated):
    machine = quotas.AMD
    host = simulated(machine.example, **machine.changes)
    assert apply(host, limited(machine)).ok
    cut = {"enabled": True, "strategy": "partition", "partition": {"compute": "CPX", "memory": "NPS4"}}
    wanted = {**limited(machine), "containers_gpu_slicing": cut}
    wanted["containers_gpu_state_management"] = {"unload_modules": ["amdgpu"]}
    plan = consumers.planned(host, wanted)
    assert "is enforced by the cgroup controller dmem" in str(plan)
    result = apply(host, wanted)
    assert result.ok, result.errors
    assert limit_now(host, machine) == 8192 and apply(host, wanted).plan.empty


# -- what goes wrong ---------------------------------------------------------------------------------------------------
CALLS = ("store_write", "store_remove", "run", "write", "nvmlDeviceSetMemoryLimits_v1")


def as_it_is(host, machine):
    """Limit, files and who has what."""
    written = {path: text for path, text in host.state()["written"].items() if path.startswith("/etc/")}
    return limit_now(host, machine), written, consumers.bindings(host)


def unlimited(machine):
    return quotas.handing({"trainer": {"kind": "service", "unit": quotas.TRAINER, "slice": {"gpu": machine.gpu}}})


BEGINNINGS = [(name, begin) for name in quotas.ALL for begin in ("nothing", "no limit", "another")]
QUICK = ("nvidia", "nothing")


@pytest.mark.parametrize(
    ("machine", "begin"),
    [pytest.param(*pair, marks=() if pair == QUICK else pytest.mark.slow) for pair in BEGINNINGS],
    indirect=["machine"],
)
def test_every_call_that_fails_or_is_killed_leaves_all_as_it_was(host, machine, begin, tmp_path):
    first = {"nothing": None, "no limit": unlimited(machine), "another": limited(machine, 4096)}[begin]
    if first:
        assert apply(host, first).ok
    copy, old = consumers.copier(tmp_path), as_it_is(host, machine)
    trial = copy(host)
    points = stages.points(trial, CALLS, lambda: apply(trial, limited(machine)))
    new = as_it_is(trial, machine)
    assert new[0] == 8192 and points
    for call, number in points:
        code = "NVML_ERROR_UNKNOWN" if call.startswith("nvml") else "EIO"
        other = copy(host)
        other.add_fault({"call": call, "nth": number, "error": code})
        told = consumers.why(other, limited(machine))
        other.clear_faults()
        there = as_it_is(other, machine)
        assert there == old or (there == new and call.startswith("store")) or not told, (call, number, told)
        assert apply(other, limited(machine)).ok and as_it_is(other, machine) == new, (call, number)
    for call, number in points:
        other = copy(host)
        other.add_fault({"call": call, "nth": number, "kill": "after"})
        assert in_child(lambda host=other: apply(host, limited(machine))) == signal.SIGKILL
        other.clear_faults()
        assert apply(other, limited(machine)).ok and as_it_is(other, machine) == new, (call, number)
        assert apply(other, limited(machine)).plan.empty


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mebibytes": 999999}, ["Consumer trainer is to have 999999 MiB", "Lower resource_limits:vram_mib"]),
        ({"mebibytes": 0}, ["vram_mib", "0"]),
        ({"mebibytes": -1}, ["vram_mib", "-1"]),
        ({"mebibytes": "8G"}, ["vram_mib"]),
    ],
)
def test_a_limit_that_can_not_be_is_a_sentence_and_changes_nothing(host, machine, more, words):
    before = host.state()
    with pytest.raises(errors.PolicyError) as told:
        apply(host, limited(machine, **more))
    assert all(word in str(told.value) for word in words) and host.state() == before


@pytest.mark.parametrize(
    ("consumer", "words"),
    [
        ({"kind": "user", "user": "nosuch"}, "user nosuch, and this host has no such user"),
        ({"kind": "service", "unit": "missing.service"}, "is to be handed a slice, and systemd knows no such unit"),
    ],
)
def test_a_group_that_there_can_not_be_is_a_sentence_and_changes_nothing(host, machine, consumer, words):
    before = host.state()
    wanted = quotas.handing({"one": {**consumer, "slice": {"gpu": machine.gpu}, "resource_limits": {"vram_mib": 64}}})
    with pytest.raises(errors.PolicyError, match=words):
        apply(host, wanted)
    assert host.state() == before


def test_a_limit_that_the_driver_refuses_is_said_and_undone(simulated):
    machine = quotas.NVIDIA
    host = simulated(machine.example, **machine.changes)
    host.add_fault({"call": "nvmlDeviceSetMemoryLimits_v1", "error": "NVML_ERROR_INVALID_ARGUMENT", "times": 0})
    result = apply(host, limited(machine, 1))
    assert not result.ok and not host.exists(quotas.SETTER)
    assert "the driver takes no such limit. It may be less than the driver itself needs of the GPU" in str(result.errors)


def test_a_limit_that_its_regions_can_not_share_evenly_is_met_to_the_byte(simulated):
    tiles = [f"drm/0000:03:00.0/vram{number}" for number in range(3)]
    machine = quotas.of("0000:03:00.0", "arc-pro-b60", 24480, "the cgroup controller dmem", tuple(tiles))
    host = simulated(machine.example, **machine.changes)
    result = apply(host, limited(machine))
    assert result.ok, result.errors
    assert limit_now(host, machine) == 8192 and apply(host, limited(machine)).plan.empty


def test_a_limit_below_what_is_in_use_is_told(host, machine):
    assert apply(host, limited(machine)).ok
    group = cgroups.path_of(quotas.SLICE)
    with host.change() as state:
        state["memory_used"] = {group: 6000 * quotas.MIB}
        used = "".join(f"{region} {6000 * quotas.MIB // len(machine.regions)}\n" for region in machine.regions)
        state["written"][f"{group}/dmem.current"] = used
    plan = consumers.planned(host, limited(machine, 4096))
    assert f"{quotas.SLICE} has 6000 MiB in use, more than that: it keeps them, and gets no more" in str(plan)
    assert "in use" not in str(consumers.planned(host, limited(machine)))
    assert apply(host, limited(machine, 4096)).ok and limit_now(host, machine) == 4096


def test_limits_above_the_memory_together_are_refused_unless_they_may_come_on_top(simulated):
    machine = quotas.NVIDIA
    host = simulated(machine.example, **machine.changes)
    half = 25_000
    with pytest.raises(errors.PolicyError, match=r"come to .* \(trainer .*, infer .*\).*overcommit: true"):
        apply(host, limited(machine, half, other=half))
    assert limit_now(host, machine) is None
    wanted = limited(machine, half, other=half, overcommit=True)
    result = apply(host, wanted)
    assert result.ok, result.errors
    assert limit_now(host, machine) == limit_now(host, machine, quotas.OTHERS_SLICE) == half
    assert apply(host, wanted).plan.empty


@pytest.mark.parametrize(
    ("machine", "changes", "why"),
    [
        (quotas.NVIDIA, {"driver": {"version": "590.44.01"}}, "its driver has no memory limits (r615 and later have them)"),
        (quotas.NVIDIA, {"files": {"/sys/fs/cgroup/cgroup.controllers": None}}, "this host has no cgroup version 2"),
        (quotas.INTEL, {"files": {"/sys/fs/cgroup/dmem.capacity": None}}, "has no cgroup controller dmem"),
        (quotas.AMD, {"files": {"/sys/fs/cgroup/dmem.capacity": "drm/0000:ff:00.0/vram 1\n"}}, "its driver amdgpu offers no"),
    ],
)
def test_where_nothing_can_enforce_it_the_plan_says_advisory_and_why(simulated, machine, changes, why):
    made = {**machine.changes, **changes}
    made["files"] = {
        path: text for path, text in {**machine.changes["files"], **changes.get("files", {})}.items() if text is not None
    }
    host = simulated(machine.example, **made)
    plan = consumers.planned(host, limited(machine))
    assert "is advisory: nobody enforces it, since" in str(plan) and why in str(plan)
    assert apply(host, limited(machine)).ok and not host.exists(quotas.SETTER) and not host.exists(quotas.DROP_IN)
    assert consumers.planned(host, limited(machine)).empty


def test_a_slice_that_does_not_start_undoes_it(simulated, machine):
    host = simulated(machine.example, **machine.changes)
    with host.change() as state:
        state["broken_slices"] = [quotas.SLICE]
    result = apply(host, limited(machine))
    assert not result.ok and not host.exists(quotas.DROP_IN) and limit_now(host, machine) is None
    assert "gpuslicing-trainer.slice could not be started" in str(result.errors)


def test_a_driver_that_says_yes_and_does_nothing_is_found_out(simulated):
    machine = quotas.NVIDIA
    host = simulated(machine.example, **machine.changes)
    host.add_fault({"call": "nvmlDeviceSetMemoryLimits_v1", "lie": True, "times": 0})
    result = apply(host, limited(machine))
    assert not result.ok and "what is in force is no limit" in str(result.errors)
    assert not host.exists(quotas.DROP_IN)


def test_a_driver_that_stops_answering_keeps_the_limit_and_nobody_from_the_rest(simulated):
    machine = quotas.NVIDIA
    host = simulated(machine.example, **machine.changes)
    assert apply(host, limited(machine)).ok
    host.add_fault({"call": "nvmlDeviceGetMemoryLimits_v1", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    plan = consumers.planned(host, limited(machine))
    assert plan.empty and "its driver does not answer" in str(plan) and host.exists(quotas.SETTER)


def test_a_mig_device_is_bounded_by_the_hardware_and_its_limit_is_advisory(simulated):
    host = consumers.machine(simulated, driver={"version": "615.10.02"}, files={
        "/etc/passwd": consumers.PASSWD, "/sys/fs/cgroup/cgroup.controllers": "cpu",
    })  # fmt: skip
    each = {"trainer": {**consumers.EACH["trainer"], "resource_limits": {"vram_mib": 4096}}}
    plan = consumers.planned(host, consumers.pillar(each))
    assert "is advisory: nobody enforces it, since a MIG device has memory of its own" in str(plan)
    assert apply(host, consumers.pillar(each)).ok and consumers.planned(host, consumers.pillar(each)).empty


def test_a_user_is_limited_while_he_is_logged_in_and_whenever_he_logs_in(host, machine):
    wanted = quotas.handing({"ada": {"kind": "user", "user": "ada", "slice": {"gpu": machine.gpu},
                                     "resource_limits": {"vram_mib": 2048}}})  # fmt: skip
    assert apply(host, wanted).ok and limit_now(host, machine, "user-1000.slice") is None
    told = host.read("/etc/systemd/system/user@1000.service.d/51-gpu-slicing-memory.conf")
    assert "Wants=gpuslicing-ada.service" in told and "BindsTo=user-1000.slice" in host.read(
        "/etc/systemd/system/gpuslicing-ada.service"
    )
    assert consumers.planned(host, wanted).empty
    with host.change() as state:
        cgroups.started(state, "user@1000.service")
    assert limit_now(host, machine, "user-1000.slice") == 2048 and consumers.planned(host, wanted).empty
    with host.change() as state:
        cgroups.forget(state, [machine.gpu])
    assert apply(host, wanted).ok and limit_now(host, machine, "user-1000.slice") == 2048
    assert apply(host, quotas.handing({})).ok and limit_now(host, machine, "user-1000.slice") is None


def test_a_user_who_is_no_more_leaves_no_limit_to_who_gets_his_number(host, machine):
    wanted = {"ada": {"kind": "user", "user": "ada", "slice": {"gpu": machine.gpu}, "resource_limits": {"vram_mib": 64}}}
    with host.change() as state:
        cgroups.start(state, "user-1000.slice")
    assert apply(host, quotas.handing(wanted)).ok and limit_now(host, machine, "user-1000.slice") == 64
    with host.change() as state:
        state["host"]["files"]["/etc/passwd"] = "root:x:0:0::/root:/bin/sh\n"
    assert apply(host, quotas.handing({})).ok
    assert limit_now(host, machine, "user-1000.slice") is None


def test_the_name_of_a_consumer_leads_to_a_slice_of_its_own(host, machine):
    wanted = quotas.handing({"train-a": {"kind": "service", "unit": quotas.TRAINER, "slice": {"gpu": machine.gpu},
                                         "resource_limits": {"vram_mib": 2048}}})  # fmt: skip
    assert apply(host, wanted).ok
    assert limit_now(host, machine, "gpuslicing-train\\x2da.slice") == 2048 and consumers.planned(host, wanted).empty
    host.reboot()
    assert limit_now(host, machine, "gpuslicing-train\\x2da.slice") == 2048


# -- what the unit runs --------------------------------------------------------------------------------------------------
def test_the_unit_sets_the_limit_without_salt(host, machine):
    assert limiting.main([quotas.SLICE, f"{machine.gpu}=512"], config(host)) == 0
    assert limit_now(host, machine) == 512


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        ([], 2, "SLICE ADDRESS=MIB"),
        ([quotas.SLICE], 2, "SLICE ADDRESS=MIB"),
        ([quotas.SLICE, "0000:01:00.0=0"], 2, "SLICE ADDRESS=MIB"),
        (["../x", "0000:01:00.0=1"], 2, "SLICE ADDRESS=MIB"),
        ([quotas.SLICE, "0000:01:00.0=1"], 1, "no such GPU"),
    ],
)
def test_what_the_unit_can_not_do_is_a_sentence(simulated, capsys, argv, status, words):
    host = simulated(quotas.INTEL.example, **quotas.INTEL.changes)
    assert limiting.main(argv, config(host)) == status and words in capsys.readouterr().err


def test_what_nobody_thought_of_is_a_sentence_of_the_unit_too(host, machine, capsys):
    call = "nvmlDeviceSetMemoryLimits_v1" if machine is quotas.NVIDIA else "write"
    host.add_fault({"call": call, "unexpected": True})
    assert limiting.main([quotas.SLICE, f"{machine.gpu}=512"], config(host)) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"The memory for {quotas.SLICE} could not be limited, for something unexpected: RuntimeError: ")
    assert told.endswith("Please report this.\n")


def test_a_host_that_can_not_be_opened_is_a_sentence_of_the_unit(capsys):
    assert limiting.main([quotas.SLICE, "0000:01:00.0=1"], {"simulate": "/nowhere"}) == 1
    assert "can't be read" in capsys.readouterr().err


GOES = {"call": "write", "nth": 3, "error": "ENOENT"}


def test_a_group_that_goes_meanwhile_is_told_as_such(host, machine):
    by_nvml = {"call": "nvmlDeviceSetMemoryLimits_v1", "error": "NVML_ERROR_NOT_FOUND"}
    host.add_fault(by_nvml if machine is quotas.NVIDIA else GOES)
    [told, _] = apply(host, limited(machine)).errors
    assert "its group is gone: a slice that was stopped, or of a user who has logged out" in told and "Run again." in told
    assert apply(host, limited(machine)).ok and limit_now(host, machine) == 8192


def test_a_container_is_limited_by_its_service(simulated):
    machine = quotas.NVIDIA
    host = simulated(machine.example, **{**machine.changes, "tools": [*quotas.TOOLS, "podman"]})
    wanted = quotas.handing({"web": {"kind": "container", "image": "localhost/web:1", "slice": {"gpu": machine.gpu},
                                     "resource_limits": {"vram_mib": 4096}}})  # fmt: skip
    result = apply(host, wanted)
    assert result.ok, result.errors
    drop_in = host.read("/etc/systemd/system/gpu-slicing-web.service.d/51-gpu-slicing-memory.conf")
    assert "Slice=gpuslicing-web.slice" in drop_in and limit_now(host, machine, "gpuslicing-web.slice") == 4096
    assert consumers.planned(host, wanted).empty and consumers.astray(host) == []


@pytest.mark.parametrize(
    ("consumer", "words"),
    [
        ({"resource_limits": {"vram_mib": 1}}, "has no effect on kind device"),
        ({"kind": "container", "image": "a", "user": "ada", "resource_limits": {"vram_mib": 1}}, "use a consumer of kind user"),
        ({"kind": "user", "user": "ada", "resource_limits": {"overcommit": True}}, "overcommit and no vram_mib"),
    ],
)
def test_whom_no_limit_can_hold_is_a_mistake_of_the_pillar(simulated, consumer, words):
    host = simulated(quotas.NVIDIA.example, **quotas.NVIDIA.changes)
    with pytest.raises(errors.PolicyError, match=words):
        apply(host, quotas.handing({"one": consumer}))


@pytest.mark.parametrize("kind", ["service", "user"])
def test_level_zero_leaves_the_limits_of_consumers_alone(simulated, kind):
    machine = quotas.INTEL
    host = simulated(machine.example, **machine.changes)
    unit, who = ("gpuslicing-it.slice", {"unit": quotas.TRAINER}) if kind == "service" else ("user-1000.slice", {"user": "ada"})
    wanted = quotas.handing({"it": {"kind": kind, **who, "resource_limits": {"vram_mib": 512}}})
    with host.change() as state:
        cgroups.start(state, unit)
    assert apply(host, wanted).ok and limit_now(host, machine, unit) == 512
    with Engine(config(host)) as engine:
        tool = engine.tools.get("level-zero")
        assert tool.layout(tool.observe(engine.gpu(machine.gpu)))["vram"] == {}


# -- for people ----------------------------------------------------------------------------------------------------------
def test_the_check_of_a_consumer_tells_whether_its_limit_is_in_force(host, machine):
    assert apply(host, limited(machine)).ok

    def looked():
        with Engine(config(host)) as engine:
            works = engine.handed("consumers")
            return checking.check(host, works, engine.tools.sessions, "trainer"), views.listed(host, works)

    found, listed = looked()
    assert "memory limit" in found["fine"]
    assert listed["trainer"]["limits"]["vram_mib"] == "8192 of each GPU, enforced by the driver for its slice unit"
    with host.change() as state:
        cgroups.forget(state, [machine.gpu])
    found, _ = looked()
    [told] = [each for each in found["missing"] if "8192 MiB" in each]
    assert "what is in force is no limit" in told


def quota_of(host, address):
    """What the grain says of a GPU: by what, and why."""
    [told] = [each["vram_quota"] for each in facts(host)["devices"] if each["address"] == address]
    return told["by"], told["why"]


def test_the_grain_tells_what_files_tell_and_opens_no_gpu(host, machine):
    by, why = quota_of(host, machine.gpu)
    assert by == ("nvml" if machine is quotas.NVIDIA else "dmem") and ("no MIG mode" in why) == (by == "nvml")
    assert by in facts(host)["vram_quota"]


@pytest.mark.parametrize(
    ("example", "files", "why"),
    [
        ("dgx-h100", quotas.UNIFIED, "older than r615"),
        ("mi300x-8", quotas.UNIFIED, "no cgroup controller dmem"),
        ("arc-pro-b60", quotas.UNIFIED, "no cgroup controller dmem"),
        ("arc-pro-b60", {**quotas.UNIFIED, f"{quotas.ROOT}/dmem.capacity": "drm/0000:ff:00.0/vram0 1\n"}, "driver xe offers no"),
        ("dgx-h100", {}, "no cgroup version 2"),
    ],
)
def test_the_grain_says_why_nothing_limits_memory(simulated, example, files, why):
    found = facts(simulated(example, files=files))
    assert found["vram_quota"] == ["none"]
    assert all(each["vram_quota"]["by"] == "none" and why in each["vram_quota"]["why"] for each in found["devices"])


def test_as_a_program_it_needs_no_salt_and_tells_in_a_sentence_what_is_wrong():
    program = [sys.executable, "-m", "gpuslice.boot.limiting", quotas.SLICE, "ffff:ff:1f.7=1"]
    env = {"PYTHONPATH": str(ROOT / "_utils")}
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "no such GPU" in done.stderr and "Traceback" not in done.stderr
