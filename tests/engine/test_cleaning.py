"""
A host is given up: whatever was done to it, everything is as it was found, and nothing of ours is left; what can't be done is
named, and another attempt goes on.
"""

import json
import pathlib
import signal

import pytest

from gpuslice import cleaning
from gpuslice import errors
from gpuslice import kinds
from gpuslice.boot import replay
from gpuslice.cleaning.belongings import Belongings
from gpuslice.engine import Engine
from gpuslice.records.history import History
from gpuslice.records.tried import Trying
from tests.support import consumers
from tests.support import pillars
from tests.support.cleaned import cleaned
from tests.support.cleaned import found
from tests.support.cleaned import records
from tests.support.cleaned import with_boot
from tests.support.consumers import EACH
from tests.support.consumers import FIRST
from tests.support.consumers import SECOND
from tests.support.crash import apply_in_child
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import shapes
from tests.support.hosts import slices
from tests.support.stages import points

NOTHING = "Nothing of ours is here."
TWO = {"trainer": EACH["trainer"], "web": EACH["web"]}
SMALL = ("1g.10gb", "1g.10gb")
CALLS = (
    "run", "store_write", "store_append", "store_remove", "nvmlGpuInstanceDestroy", "nvmlComputeInstanceDestroy",
    "nvmlDeviceSetMigMode", "write",
)  # fmt: skip
PID = 4242


def hold(host, gpu):
    """Somebody uses a slice of this GPU."""
    place = next(placement for address, _, placement in slices(host) if address == gpu)
    host.add_process({"pid": PID, "command": "python", "gpu": gpu, "slice": f"1g.10gb@{place.partition(':')[0]}"})


def rolled(host, test=False):
    with Engine(config(host)) as engine:
        return cleaning.rolled_back(engine, {}, test)


def with_mps():
    wanted = consumers.pillar({"web": TWO["web"], "dev": EACH["dev"]}, SMALL)
    wanted["containers_gpu_slicing"]["mps"] = {"enabled": True, "max_instance_count": 2}
    return wanted


@pytest.fixture
def small(simulated):
    """One GPU with two slices, two consumers, and the boot unit, as it was found and as it is now."""
    host = consumers.machine(simulated, 1)
    before = found(host)
    assert apply(host, consumers.pillar(TWO, SMALL)).ok
    with_boot(host)
    return host, before


# -- what goes back ------------------------------------------------------------------------------------------------------
def test_a_host_on_which_nothing_was_ever_done_stays_so(simulated):
    host = simulated("dgx-h100")
    for test in (True, False):
        answer = cleaned(host, test=test)
        assert answer == {"result": True, "changes": {}, "comment": NOTHING}
    assert records(host) == []
    with pytest.raises(errors.PolicyError, match="no change in the history"):
        rolled(host)


@pytest.mark.parametrize(
    ("name", "pillar"),
    [
        ("mi300x-8", pillars.example("mi300x")),
        ("flex170", pillars.example("flex170")),
        ("vgpu-host-mdev", pillars.example("vgpu_host")),
        pytest.param("vgpu-host-vfio", pillars.example("vgpu_host"), marks=pytest.mark.slow),
        pytest.param("max1550", pillars.example("max1550"), marks=pytest.mark.slow),
        pytest.param("mixed", pillars.example("mixed"), marks=pytest.mark.slow),
    ],
)
def test_each_vendor_s_gpus_go_back_to_how_they_were_found(simulated, name, pillar):
    """Those of which files tell are in ``test_paths.py``."""
    host = simulated(name)
    before = found(host)
    assert apply(host, pillar).ok and found(host) != before
    answer = cleaned(host, pillar)
    assert answer["result"] and found(host) == before and records(host) == []
    assert cleaned(host) == {"result": True, "changes": {}, "comment": NOTHING}


def test_without_the_pillar_s_permission_no_driver_is_loaded_anew_but_by_force(simulated):
    host = simulated("mi300x-8")
    before = found(host)
    assert apply(host, pillars.example("mi300x")).ok
    answer = cleaned(host)
    assert not answer["result"] and "which is not allowed" in answer["comment"] and "With force=True" in answer["comment"]
    assert cleaned(host, force=True)["result"] and found(host) == before and records(host) == []


def test_consumers_with_shares_of_mps_are_dismissed_and_every_file_and_unit_is_removed(simulated):
    host = consumers.machine(simulated, 1, tools=[*consumers.TOOLS, "nvidia-cuda-mps-control"])
    before = found(host)
    result = apply(host, with_mps())
    assert result.ok, result.errors
    with_boot(host)
    sliced, names = found(host), records(host)
    planned = cleaned(host, with_mps(), test=True)
    assert "result" not in planned and (found(host), records(host)) == (sliced, names)
    answer = cleaned(host, with_mps())
    assert answer["result"] and found(host) == before and records(host) == []
    assert planned["changes"].keys() == answer["changes"].keys()
    assert {FIRST, "consumers", "gpu-slicing.service", host.state_dir} <= answer["changes"].keys()
    assert not [unit for unit in consumers.running_with(host) if unit.startswith("gpu-slicing")]
    assert any("the next highstate slices again" in line for line in answer["warnings"])
    assert cleaned(host) == {"result": True, "changes": {}, "comment": NOTHING}


def test_what_was_there_first_counts_and_not_what_the_last_change_found(simulated):
    """Also a GPU that was first touched by a later change, and instances that somebody had made by hand."""
    host = simulated("mixed")
    before = found(host)
    one, other = "0000:82:00.0", "0000:07:00.0"
    for profiles in (["7g.80gb"], ["3g.40gb"], ["1g.10gb"] * 7):
        assert apply(host, pillars.rules(pillars.mig_rule(one, profiles))).ok
    assert apply(host, pillars.rules(pillars.mig_rule(other, ["7g.80gb"]))).ok
    assert cleaned(host)["result"] and found(host) == before


def test_what_can_not_be_at_work_at_a_time_goes_back_one_after_the_other(simulated):
    host, gpu = simulated("mixed-vendors"), "0000:1b:00.0"
    before = found(host)
    for strategy, settings in (("mig", {"profiles": ["3g.40gb"]}), ("mig", {"profiles": []}), ("passthrough", None)):
        assert apply(host, pillars.for_gpu(gpu, strategy, settings)).ok
    planned = cleaned(host, test=True)
    assert f"After that {gpu} goes back to: MIG disabled (mig)." in planned["comment"]
    answer = cleaned(host, brief=True)
    assert answer["result"] and found(host) == before and records(host) == []
    assert "driver: vfio-pci -> nvidia" in answer["changes"][gpu] and "mig_mode" in answer["changes"][gpu]


def test_a_rollback_to_generation_0_brings_back_how_it_was_found_and_keeps_the_history(simulated):
    host = consumers.machine(simulated, 1)
    before = shapes(host)
    for profiles in (SMALL, ("3g.40gb",)):
        assert apply(host, consumers.pillar(None, profiles)).ok
    assert "result" not in rolled(host, test=True)
    assert rolled(host)["result"] and shapes(host) == before
    with Engine(config(host)) as engine:
        assert [entry["generation"] for entry in engine.history()] == [1, 2, 3]
    assert rolled(host)["changes"] == {}


# -- what can't be done --------------------------------------------------------------------------------------------------
def test_who_is_in_the_way_is_named_and_another_attempt_goes_on(simulated):
    host = consumers.machine(simulated)
    before = found(host)
    assert apply(host, consumers.pillar(TWO, SMALL)).ok
    with_boot(host)
    hold(host, SECOND)
    assert cleaned(host, test=True)["result"] is False
    answer = cleaned(host)
    assert not answer["result"] and f"pid {PID}" in answer["comment"] and SECOND in answer["comment"]
    assert "goes on from here" in answer["comment"] and shapes(host) == {FIRST: [], SECOND: [*SMALL]}
    assert host.exists("/etc/systemd/system/gpu-slicing.service") and "history/000000.json" in records(host)
    host.remove_process(PID)
    assert cleaned(host)["result"] and found(host) == before and records(host) == []


def test_force_ends_who_is_in_the_way(small):
    host, before = small
    hold(host, FIRST)
    assert not cleaned(host)["result"]
    assert cleaned(host, force=True)["result"] and found(host) == before and not host.processes()


def test_a_gpu_that_is_gone_is_named_until_it_is_back_or_forgotten(simulated):
    host = consumers.machine(simulated)
    assert apply(host, consumers.pillar(TWO, SMALL)).ok
    gone = host.state()["gpus"][SECOND]
    with host.change() as state:
        del state["gpus"][SECOND]
    answer = cleaned(host)
    assert not answer["result"] and f"GPU {SECOND}" in answer["comment"] and "no longer in this host" in answer["comment"]
    assert shapes(host) == {FIRST: []} and "force=True" in answer["comment"]
    with pytest.raises(errors.DeviceNotFound, match=SECOND):
        rolled(host)
    with host.change() as state:
        state["gpus"][SECOND] = gone
    assert cleaned(host)["result"] and shapes(host) == {FIRST: [], SECOND: []}


def test_force_forgets_a_gpu_that_is_gone(simulated):
    host = consumers.machine(simulated)
    assert apply(host, consumers.pillar(None, SMALL)).ok
    with host.change() as state:
        del state["gpus"][SECOND]
    answer = cleaned(host, force=True)
    assert answer["result"] and records(host) == [] and f"Forgotten: {SECOND}" in " ".join(answer["warnings"])


def test_without_any_gpu_those_who_have_slices_are_named(simulated):
    host = consumers.machine(simulated, 1)
    assert apply(host, consumers.pillar(TWO, SMALL)).ok
    with host.change() as state:
        state["gpus"].clear()
    answer = cleaned(host)
    assert not answer["result"] and "this host has no GPU now" in answer["comment"]


def test_where_the_beginning_is_lost_the_oldest_that_is_known_counts_and_that_is_told(small):
    host, _ = small
    assert apply(host, consumers.pillar(TWO, ("3g.40gb", *SMALL))).ok
    for number in (0, 1):
        pathlib.Path(host.state_dir, "history", f"{number:06d}.json").unlink()
    answer = cleaned(host)
    assert answer["result"] and "What was before generation 2 is not on record" in " ".join(answer["warnings"])
    # Of consumers we know without it that there were none.
    assert shapes(host) == {FIRST: [*SMALL]} and "gpu-slicing-web.service" not in consumers.running_with(host)


def test_where_all_records_are_lost_the_files_that_are_left_are_named(small):
    host, _ = small
    for name in reversed(records(host)):
        path = pathlib.Path(host.state_dir, name)
        path.rmdir() if path.is_dir() else path.unlink()
    for test in (True, False):
        answer = cleaned(host, test=test)
        assert answer["result"] is False and answer["changes"] == {}
        for path in (consumers.WEB_FILE, consumers.TRAINER_FILE, consumers.SLICE, consumers.CONSUMER):
            assert path in answer["comment"]
        assert "first found is not on record" in answer["comment"] and "daemon-reload" in answer["comment"]
    with host.change() as state:
        for path in [path for path in state["written"] if "gpu-slicing" in path and not path.endswith("gpu-slicing.service")]:
            del state["written"][path]
    assert cleaned(host)["result"] and shapes(host) == {FIRST: [*SMALL]}


def test_a_damaged_record_of_how_it_was_found_changes_nothing_and_says_what_to_do(small):
    host, _ = small
    pathlib.Path(host.state_dir, "history", "000000.json").write_text("{cut")
    before = found(host)
    with pytest.raises(errors.JournalDamaged, match="were first found can't be read.*Move that file away"):
        cleaned(host)
    assert found(host) == before


def test_what_another_version_made_is_named(small):
    host, _ = small
    path = pathlib.Path(host.state_dir, "history", "000000.json")
    told = json.loads(path.read_text())
    told["after"] = {f"warp:{FIRST}": {}, **told["after"]}
    path.write_text(json.dumps(told))
    answer = cleaned(host)
    assert not answer["result"] and "Another version made a layout of 'warp'" in answer["comment"] and shapes(host) == {FIRST: []}
    assert cleaned(host, force=True)["result"] and records(host) == []


def limits(host):
    """Milliwatts asked of each board, and what is on record of it."""
    with Engine(config(host)) as engine:
        tool = engine.tools.get("power")
        return [tuple(tool.layout(tool.observe(gpu)).values()) for gpu in engine.gpus]


def capped(gpu, watts=250):
    return pillars.rules(pillars.rule(gpu, strategy="none", power={"limit_watts": watts}))


@pytest.mark.parametrize("give_up", [cleaned, rolled])
def test_one_board_that_is_capped_among_others_goes_back_alone(simulated, give_up):
    host = simulated("l40s-pair")
    before, (first, _) = limits(host), shapes(host)
    assert apply(host, capped(first)).ok and limits(host) == [(250_000, 250_000), before[1]]
    answer = give_up(host, test=True)
    assert list(answer["changes"])[0] == first and "result" not in answer
    assert give_up(host)["result"] and limits(host) == before


@pytest.mark.parametrize("said", [{"power": {"limit_watts": 300}}, {"strategy": "mig", "mig": {"profiles": ["1g.10gb"]}}])
@pytest.mark.parametrize("twice", [False, True])
def test_what_a_gpu_had_before_it_was_given_away_goes_back_after_it_is_given_back(simulated, said, twice):
    host = consumers.machine(simulated, 1)
    before, away = found(host), pillars.for_gpu(FIRST, "passthrough")
    free = pillars.for_gpu(FIRST, "none")
    if twice:
        assert apply(host, away).ok
        with Engine(config(host)) as engine:
            assert engine.reconciler().apply(engine.wanted("passthrough", FIRST, {"bound": False})).ok
    free["containers_gpu_slicing"]["devices"][0].update(said)
    assert apply(host, free).ok
    free["containers_gpu_slicing"]["devices"][0].update(strategy="mig", mig={"mode": "disabled"})
    assert apply(host, free).ok and apply(host, away).ok
    answer = cleaned(host)
    assert answer["result"], answer
    assert found(host) == before and records(host) == []


def test_where_it_is_lost_how_boards_were_found_caps_of_ours_are_lifted_and_those_of_others_stay(simulated):
    host = simulated("l40s-pair")
    before, (first, second) = limits(host), shapes(host)
    assert apply(host, capped(first, watts=280)).ok and apply(host, capped(first)).ok
    with Engine(config(host)) as engine:
        engine.tools.get("power")._board(engine.gpu(second)).write(engine.gpu(second), 300_000)
    for path in pathlib.Path(host.state_dir, "history").iterdir():
        path.unlink()
    assert cleaned(host)["result"] and records(host) == [] and limits(host) == [before[0], (300_000, None)]


def test_of_each_that_only_its_file_tells_of_it_is_said_how_that_goes():
    noted = [kinds.section(kind) for kind in kinds.KNOWN if kind.noted]
    assert noted and all(section.NOTHING is not None or section.FORGOTTEN is not None for section in noted)


def test_files_of_others_in_the_state_directory_stay_and_are_told(small):
    host, _ = small
    for name, text in (("notes.txt", "mine"), ("mine.json", '{"a": 1}')):
        pathlib.Path(host.state_dir, name).write_text(text)
    answer = cleaned(host)
    assert answer["result"] and records(host) == ["mine.json", "notes.txt"]
    assert "mine.json, notes.txt" in " ".join(answer["warnings"])


def test_the_profile_of_apparmor_that_was_loaded_by_request_is_told(simulated):
    host = consumers.machine(simulated, 1, tools=[*consumers.TOOLS, "apparmor_parser"])
    with host.change() as state:
        state["written"]["/etc/apparmor.d/gpu-slicing"] = "profile gpu-slicing {}"
    [told] = cleaned(host)["warnings"]
    assert "/etc/apparmor.d/gpu-slicing is left" in told and "apparmor_parser -R" in told


# -- when something goes wrong -------------------------------------------------------------------------------------------
def attempt(host, pillar):
    """Clean a host on which something goes wrong: an ordinary answer, or a sentence."""
    try:
        return cleaned(host, pillar)["result"]
    except errors.GpuSliceError:
        return False


def tried(machine, tmp_path, every, fault, kill=False, pillar=None):
    """At each so many-th point let something go wrong; the next attempt has to come to the end."""
    host, before = machine
    copy, wrong = consumers.copier(tmp_path), []
    trial = copy(host)

    def work():
        assert cleaned(trial, pillar)["result"]

    for call, number in points(trial, CALLS, work)[::every]:
        other = copy(host)
        errno = {} if kill else {"error": "NVML_ERROR_UNKNOWN" if call.startswith("nvml") else "EIO"}
        other.add_fault({"call": call, "nth": number, **fault, **errno})
        if kill:
            assert in_child(lambda: cleaned(other, pillar)) == signal.SIGKILL  # noqa: B023
        else:
            attempt(other, pillar)
        other.clear_faults()
        again = cleaned(other, pillar)
        if not again["result"] or found(other) != before or records(other):
            wrong.append((call, number, again["comment"], records(other)))
    assert wrong == []


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_fault_at_any_step_the_next_attempt_comes_to_the_end(small, tmp_path, every):
    tried(small, tmp_path, every, {})


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_after_a_kill_at_any_step_the_next_attempt_comes_to_the_end(small, tmp_path, every, when):
    tried(small, tmp_path, every, {"kill": when}, kill=True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{}, {"kill": "before"}], ids=["fault", "kill"])
@pytest.mark.parametrize(("name", "pillar"), [("flex170", "flex170"), ("vgpu-host-mdev", "vgpu_host"), ("mi300x-8", "mi300x")])
def test_so_it_does_on_gpus_of_others(simulated, tmp_path, name, pillar, fault):
    host = simulated(name)
    before = found(host)
    assert apply(host, pillars.example(pillar)).ok
    tried((host, before), tmp_path, 4, fault, bool(fault), pillars.example(pillar))


def test_a_change_that_was_killed_is_dealt_with_first(simulated):
    host = consumers.machine(simulated, 1)
    before = found(host)
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "nth": 2, "kill": "after"})
    assert apply_in_child(host, consumers.pillar(TWO, SMALL)) == signal.SIGKILL
    host.clear_faults()
    assert not closed(host)
    assert cleaned(host)["result"] and found(host) == before and records(host) == []


def test_what_another_run_noted_since_another_one_gave_the_host_up_is_not_forgotten(small):
    host, _ = small
    known = History(host).newest()
    assert cleaned(host)["result"] and apply(host, consumers.pillar(TWO, SMALL)).ok and History(host).newest()[0] == known[0]
    with Engine(config(host)) as engine, pytest.raises(errors.ForeignChange, match="Another run changed this host meanwhile"):
        Belongings(engine).remove(known)


def test_what_another_run_noted_meanwhile_is_not_forgotten(small):
    host, _ = small
    before = records(host)
    with Engine(config(host)) as engine, pytest.raises(errors.ForeignChange, match="Another run changed this host meanwhile"):
        Belongings(engine).remove((0, None))
    assert records(host) == before


def test_what_a_gpu_that_is_tried_out_had_is_not_forgotten(small):
    host, _ = small
    Trying(host).begin("0000:ff:00.0", "mig", {"enabled": False, "instances": []})
    answer = cleaned(host)
    assert not answer["result"] and "is being tried out" in answer["comment"] and "qualify.json" in records(host)
    Trying(host).end()
    assert cleaned(host)["result"] and records(host) == []


def test_a_boot_after_it_brings_nothing_back(small):
    host, before = small
    assert cleaned(host)["result"]
    host.reboot()
    with Engine(config(host)) as engine:
        answer = replay.replay(engine, wait=0)
    assert answer["result"] and answer["changes"] == {} and "nothing to bring back" in answer["comment"]
    assert shapes(host) == {FIRST: []} and not host.exists("/etc/systemd/system/gpu-slicing.service")
