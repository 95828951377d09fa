"""
What is quarantined is handed to nobody: who has it moves where another slice fits, and nobody else does.
"""

import json
import pathlib
import signal
from functools import partial

import pytest

from gpuslice import errors
from gpuslice import quarantine
from gpuslice.engine import Engine
from gpuslice.techniques.consumers import asks
from gpuslice.techniques.consumers import checking
from gpuslice.techniques.consumers import views
from tests.support import consumers
from tests.support import stages
from tests.support.consumers import EACH
from tests.support.consumers import FIRST
from tests.support.consumers import SECOND
from tests.support.consumers import TRAINER
from tests.support.consumers import WEB
from tests.support.consumers import astray
from tests.support.consumers import bindings
from tests.support.consumers import pillar
from tests.support.consumers import running_with
from tests.support.consumers import start_counts
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import listed

CALLS = ("run", "store_write", "store_append", "store_remove", "write")
STOP = {"health": {"consumers": "stop"}}
#: Three slices that are all of a kind, for three consumers.
FULL = ("1g.10gb",) * 3
THREE = {name: EACH[name] for name in ("web", "trainer", "dev")}


@pytest.fixture
def host(simulated):
    """Two GPUs, cut and handed out."""
    made = consumers.machine(simulated)
    assert apply(made, pillar(EACH)).ok and astray(made) == []
    return made


@pytest.fixture
def full(simulated):
    """A GPU with as many slices as consumers."""
    made = consumers.machine(simulated, 1)
    assert apply(made, pillar(THREE, FULL)).ok and astray(made) == []
    return made


def on(host, function, *args, **more):
    """A function of the module ``quarantine`` on a host."""
    with Engine(config(host)) as engine:
        return function(engine, *args, **more)


def hold(host, names, why="odd results", **more):
    return on(host, quarantine.quarantined, names, why, **more)


def release(host, names, **more):
    return on(host, quarantine.released, names, **more)


def held(host):
    """What is quarantined, as users see it."""
    return on(host, quarantine.listed)


def record(host):
    path = pathlib.Path(host.state_dir) / "quarantine.json"
    return json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else {}


def had(host, consumer):
    [part] = bindings(host)[consumer]
    return part


# -- by hand -----------------------------------------------------------------------------------------------------------
def test_a_consumer_moves_and_nobody_else_does(host):
    before, started = bindings(host), start_counts(host)
    part = had(host, "trainer")
    answer = hold(host, part)
    assert answer["result"] is True and "odd results" in answer["comment"], answer
    now = bindings(host)
    assert {**now, "trainer": None} == {**before, "trainer": None} and part not in now["trainer"] and len(now["trainer"]) == 1
    assert {unit: count - started[unit] for unit, count in start_counts(host).items()} == {WEB: 0, TRAINER: 1}
    assert set(answer["changes"]) == {part, "consumers"} and astray(host) == []
    told = held(host)[part]
    assert (told["gpu"], told["scope"], told["by"], told["why"]) == (FIRST, "slice", "hand", "odd results")


def test_where_nobody_has_it_the_answer_says_what_was_done(host):
    part = on(host, lambda engine: next(each.name for each in engine.parts() if each.name not in engine.given()))
    for why, said in (("odd results", "is quarantined: odd results"), ("smells", "is quarantined by hand: smells")):
        answer = hold(host, part, why)
        lines = answer["comment"].splitlines()
        assert answer["result"] is True and set(answer["changes"]) == {part}
        assert (lines[0], lines[-1]) == (f"Slice {part} {said}", "No consumer moves.")
    assert release(host, part)["comment"].splitlines()[-1] == "No consumer moves."
    # Of what changes nothing, this is true.
    assert release(host, part)["comment"].splitlines()[-1] == "Nothing to do."


def test_once_more_changes_nothing_and_a_highstate_leaves_it(host):
    part = had(host, "trainer")
    hold(host, part)
    settled = stages.machine(host)
    again = hold(host, part)
    assert again["result"] is True and again["changes"] == {} and "quarantined already" in again["comment"]
    assert apply(host, pillar(EACH)).plan.empty and stages.machine(host) == settled


def test_a_test_changes_nothing_and_says_what_would_be(host):
    part, before = had(host, "trainer"), stages.machine(host)
    answer = hold(host, part, test=True)
    assert "result" not in answer and set(answer["changes"]) == {part, "consumers"}
    assert stages.machine(host) == before and record(host) == {}
    made = hold(host, part)
    assert made["changes"] == answer["changes"]
    settled = stages.machine(host)
    answer = release(host, part, test=True)
    assert "result" not in answer and set(answer["changes"]) == {part}
    assert stages.machine(host) == settled and part in record(host)


def test_released_it_is_offered_and_nobody_moves_back(host):
    part = had(host, "trainer")
    hold(host, part)
    now, started = bindings(host), start_counts(host)
    answer = release(host, part)
    assert answer["result"] is True and set(answer["changes"]) == {part}
    assert bindings(host) == now and start_counts(host) == started and held(host) == {} and record(host) == {}
    assert release(host, part)["changes"] == {}


def test_a_board_is_all_its_slices(host):
    answer = hold(host, FIRST)
    assert answer["result"] is True
    assert all(part.startswith(SECOND) for parts in bindings(host).values() for part in parts)
    assert held(host)[FIRST]["scope"] == "board" and astray(host) == []
    with Engine(config(host)) as engine:
        assert {each["gpu"] for each in views.offers(engine.handed(asks.NAME), engine.quarantined())} == {SECOND}
        assert sum(each.get("quarantined", False) for each in engine.slices()) == 7 and len(engine.slices()) == 14


def test_what_stands_on_a_quarantined_slice_is_not_handed_out_either(simulated):
    made = consumers.machine(simulated, 1)
    wanted = pillar({"dev": {"slice": {"kind": "replica"}}}, ["1g.10gb", "2g.20gb"])
    wanted["containers_gpu_slicing"]["time_slicing"] = {"enabled": True, "max_instance_count": 2}
    assert apply(made, wanted).ok
    part = had(made, "dev")
    whole = part.partition("-replica")[0]
    assert hold(made, whole)["result"] is True
    assert not had(made, "dev").startswith(whole)
    with Engine(config(made)) as engine:
        found = {each["name"] for each in engine.slices() if each.get("quarantined")}
    assert found == {f"{whole}-replica-1", f"{whole}-replica-2"}


def test_nothing_has_to_be_handed_out_for_it(simulated):
    made = consumers.machine(simulated, 1)
    assert apply(made, pillar(None, FULL)).ok
    part = min(each["name"] for each in listed(made))
    answer = hold(made, part)
    assert answer["result"] is True and set(answer["changes"]) == {part} and set(record(made)) == {part}
    with pytest.raises(errors.PolicyError, match="Quarantined"):
        apply(made, pillar(THREE, FULL))


def test_a_name_of_nothing_here_is_refused(host):
    for name in ("0000:99:00.0", f"{FIRST}-7g.80gb-0", "*B200*", 3):
        with pytest.raises(errors.GpuSliceError):
            hold(host, name)
        with pytest.raises(errors.GpuSliceError):
            release(host, name)
    assert record(host) == {}


# -- where nothing else fits -------------------------------------------------------------------------------------------
def test_where_nothing_else_fits_he_keeps_it_and_the_plan_says_so(full):
    before, started = bindings(full), start_counts(full)
    part = had(full, "trainer")
    answer = hold(full, part)
    assert answer["result"] is True and bindings(full) == before and start_counts(full) == started
    assert f"Consumer trainer stays on {part}, which is quarantined" in answer["comment"]
    plan = consumers.planned(full, pillar(THREE, FULL))
    assert plan.empty and "stays on" in plan.text()
    # Nobody else gets it.
    with pytest.raises(errors.PolicyError, match="more consumers than slices|no such slice"):
        apply(full, pillar({**THREE, "trainer": {"slice": "1g.10gb"}, "more": {"slice": "1g.10gb"}}, FULL))


def test_where_the_pillar_says_so_he_is_stopped_and_started_again(full):
    part = had(full, "trainer")
    answer = hold(full, part, permissions=pillar(THREE, FULL, **STOP))
    assert answer["result"] is True and bindings(full)["trainer"] == [] and TRAINER not in running_with(full)
    assert astray(full) == [] and consumers.on_record(full)["halted"] == [TRAINER]
    settled = stages.machine(full)
    assert apply(full, pillar(THREE, FULL, **STOP)).plan.empty and stages.machine(full) == settled
    with Engine(config(full)) as engine:
        told = checking.check(engine.host, engine.handed(asks.NAME), engine.tools.sessions, "trainer", "", engine.quarantined())
    assert any(f"{part} would fit it, and is quarantined" in each for each in told["missing"])
    answer = release(full, part)
    assert answer["result"] is True and had(full, "trainer") == part and TRAINER in running_with(full) and astray(full) == []
    assert "halted" not in consumers.on_record(full)


def test_a_container_is_stopped_and_started_too(full):
    part = had(full, "web")
    hold(full, part, permissions=pillar(THREE, FULL, **STOP))
    assert WEB not in running_with(full) and bindings(full)["web"] == []
    release(full, part)
    assert WEB in running_with(full) and had(full, "web") == part and astray(full) == []


def test_a_login_user_keeps_a_filter_that_opens_nothing(simulated):
    host = consumers.machine(simulated, 1)
    assert apply(host, pillar({"ada": EACH["ada"]}, FULL[:1])).ok
    hold(host, FIRST, permissions=pillar(THREE, FULL, **STOP))
    filtered = host.read("/etc/systemd/system/user-1000.slice.d/50-gpu-slicing.conf")
    assert bindings(host)["ada"] == [] and "nvidia" not in filtered and "DevicePolicy=closed" in filtered and astray(host) == []
    release(host, FIRST)
    assert len(bindings(host)["ada"]) == 1 and "nvidia" in host.read("/etc/systemd/system/user-1000.slice.d/50-gpu-slicing.conf")


def test_a_whole_gpu_is_quarantined_as_a_board_and_its_consumer_is_told(simulated):
    host, heard = consumers.machine(simulated), []
    assert apply(host, pillar({"dev": {}}, ())).ok and bindings(host) == {"dev": [FIRST]}
    with Engine(config(host)) as engine:
        engine.health_events = lambda kind, fields: heard.append(fields)
        quarantine.quarantined(engine, FIRST)
    assert bindings(host) == {"dev": [SECOND]} and heard[0]["consumers"] == {"dev": [SECOND]} and heard[0]["slices"] == [FIRST]


def test_what_the_pillar_says_by_now_holds_when_it_is_said_again(full):
    part = had(full, "trainer")
    hold(full, part)
    assert had(full, "trainer") == part
    again = hold(full, part, "", permissions=pillar(THREE, FULL, **STOP))
    assert set(again["changes"]) == {part, "consumers"} and bindings(full)["trainer"] == []
    assert held(full)[part]["why"] == "odd results"


def test_a_service_that_did_not_run_is_not_started(full):
    full.run(["systemctl", "stop", TRAINER])
    part = had(full, "trainer")
    hold(full, part, permissions=pillar(THREE, FULL, **STOP))
    release(full, part)
    assert had(full, "trainer") == part and TRAINER not in running_with(full)


# -- what ends it ------------------------------------------------------------------------------------------------------
def test_the_entry_of_a_slice_ends_with_the_slice_and_a_boards_stays(host):
    part = had(host, "trainer")
    hold(host, [part, SECOND])
    assert len(held(host)) == 2
    result = apply(host, pillar({}, rules=[(FIRST, ["7g.80gb"])]))
    assert result.ok and f"The quarantine of {part} ended with that slice." in result.warnings
    assert set(held(host)) == {SECOND}


def test_it_outlasts_a_reboot(host):
    from gpuslice.boot import replay

    part = had(host, "trainer")
    hold(host, part)
    now = bindings(host)
    host.reboot()
    with Engine(config(host)) as engine:
        assert replay.replay(engine, wait=0)["result"] is True
    assert set(held(host)) == {part} and bindings(host) == now and astray(host) == []


def test_a_boot_hands_out_what_another_run_could_not_move(host):
    """The record was written, and the host went down before anybody moved."""
    from gpuslice.boot import replay

    part = had(host, "trainer")
    host.add_fault({"call": "store_append", "nth": 1, "kill": "before"})
    assert in_child(lambda: hold(host, part)) == signal.SIGKILL
    host.clear_faults()
    assert set(held(host)) == {part} and had(host, "trainer") == part
    host.reboot()
    with Engine(config(host)) as engine:
        replay.replay(engine, wait=0)
    assert had(host, "trainer") != part and astray(host) == []


def test_a_rollback_hands_it_to_nobody(host):
    part = had(host, "trainer")
    hold(host, part)
    with Engine(config(host)) as engine:
        from gpuslice import front

        answer = front.run(engine, engine.rollback_targets(1), False, {})
    assert answer["result"] is True and had(host, "trainer") != part and astray(host) == []


# -- failures ----------------------------------------------------------------------------------------------------------
def quarantine_points(host, part, calls, **more):
    """(call, number) of each of these calls that a quarantine makes; it is made."""

    def work():
        assert hold(host, part, **more)["result"] is True and astray(host) == []

    return stages.points(host, calls, work)


def why(host, part, function=hold, **more):
    try:
        answer = function(host, part, **more)
        return "" if answer["result"] else answer["comment"]
    except errors.GpuSliceError as err:
        return str(err)


@pytest.mark.parametrize("effect", ["error", pytest.param("late", marks=pytest.mark.slow)])
def test_what_fails_puts_all_of_it_back(host, tmp_path, effect):
    copy, part, old = consumers.copier(tmp_path), had(host, "trainer"), consumers.summary(host)
    trial = copy(host)
    tried = quarantine_points(trial, part, CALLS)
    new, wrong = consumers.summary(trial), []
    assert len(tried) > 8
    for call, number in tried:
        one = copy(host)
        one.add_fault({"call": call, "nth": number, effect: "EIO"})
        told = why(one, part)
        one.clear_faults()
        there, noted = consumers.summary(one), part in record(one)
        if closed(one) and (there, noted) not in [(old, False), (new, True)]:
            wrong.append((call, number, told, noted, astray(one)))
        if why(one, part) or consumers.summary(one) != new or part not in record(one) or astray(one):
            wrong.append((call, number, "not made by the next", astray(one)))
    assert wrong == []


@pytest.mark.parametrize("when", ["after", pytest.param("before", marks=pytest.mark.slow)])
def test_killed_anywhere_the_next_run_ends_it(host, tmp_path, when):
    copy, part = consumers.copier(tmp_path), had(host, "trainer")
    trial = copy(host)
    tried = quarantine_points(trial, part, CALLS)
    new, wrong = consumers.summary(trial), []
    for call, number in tried:
        one = copy(host)
        one.add_fault({"call": call, "nth": number, "kill": when})
        assert in_child(partial(hold, one, part)) == signal.SIGKILL
        one.clear_faults()
        noted = part in record(one)
        if not apply(one, pillar(EACH)).ok or astray(one):
            wrong.append((call, number, astray(one)))
        # What is on record is kept to by whoever comes next.
        if (part in [each for parts in bindings(one).values() for each in parts]) == noted:
            wrong.append((call, number, noted, bindings(one)))
        if noted and consumers.summary(one) != new:
            wrong.append((call, number, "another end"))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("effect", ["error", "late"])
def test_where_it_can_not_be_stopped_it_is_not_quarantined(full, tmp_path, effect):
    copy, part, old = consumers.copier(tmp_path), had(full, "trainer"), consumers.summary(full)
    asked = {"permissions": pillar(THREE, FULL, **STOP)}
    trial, wrong = copy(full), []
    for call, number in quarantine_points(trial, part, ("run", "write", "store_write", "store_append"), **asked):
        one = copy(full)
        one.add_fault({"call": call, "nth": number, effect: "EIO"})
        told = why(one, part, **asked)
        one.clear_faults()
        there, noted = consumers.summary(one), part in record(one)
        if closed(one) and (there, noted) not in [(old, False), (consumers.summary(trial), True)]:
            wrong.append((call, number, told, noted, astray(one)))
        if why(one, part, **asked) or consumers.summary(one) != consumers.summary(trial) or astray(one):
            wrong.append((call, number, "not made by the next", astray(one)))
        release(one, part)
        if consumers.summary(one) != old or astray(one):
            wrong.append((call, number, "not as before when it is released", consumers.summary(one)[2:]))
    assert wrong == []


# A last write that is done and said to have failed leaves a service running without a slice that was stopped before.
@pytest.mark.parametrize(("effect", "calls"), [("error", ("run", "store_write")), ("late", ("run",))])
def test_where_it_can_not_be_started_it_is_not_released(full, tmp_path, effect, calls):
    copy, part = consumers.copier(tmp_path), had(full, "trainer")
    hold(full, part, permissions=pillar(THREE, FULL, **STOP))
    trial, wrong, old = copy(full), [], consumers.summary(full)
    for call, number in stages.points(trial, calls, partial(release, trial, part)):
        one = copy(full)
        one.add_fault({"call": call, "nth": number, effect: "EIO"})
        told = why(one, part, release)
        one.clear_faults()
        there, noted = consumers.summary(one), part in record(one)
        if closed(one) and (there, noted) not in [(old, True), (consumers.summary(trial), False)]:
            wrong.append((call, number, told, noted, there[2:], astray(one)))
        if why(one, part, release) or consumers.summary(one) != consumers.summary(trial) or astray(one):
            wrong.append((call, number, "not made by the next", astray(one)))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("when", ["after", "before"])
def test_a_stop_that_is_killed_anywhere_is_ended_by_the_next_run(full, tmp_path, when):
    copy, part, old = consumers.copier(tmp_path), had(full, "trainer"), consumers.summary(full)
    asked = {"permissions": pillar(THREE, FULL, **STOP)}
    trial, wrong = copy(full), []
    for call, number in quarantine_points(trial, part, ("run", "store_write", "store_append"), **asked):
        one = copy(full)
        one.add_fault({"call": call, "nth": number, "kill": when})
        assert in_child(partial(hold, one, part, **asked)) == signal.SIGKILL
        one.clear_faults()
        noted = part in record(one)
        if not apply(one, pillar(THREE, FULL, **STOP)).ok or astray(one):
            wrong.append((call, number, astray(one)))
        if consumers.summary(one) != (consumers.summary(trial) if noted else old):
            wrong.append((call, number, noted, consumers.summary(one)[2:]))
        release(one, part)
        if consumers.summary(one) != old:
            wrong.append((call, number, "not as before when it is released", consumers.summary(one)[2:]))
    assert wrong == []


def test_a_damaged_record_is_told_and_nothing_is_handed_out(host):
    path = pathlib.Path(host.state_dir) / "quarantine.json"
    before = consumers.summary(host)
    path.write_text('{"format": 1, "entries": {"x": 3}}', encoding="utf-8")
    with pytest.raises(errors.StateDirUnusable, match=r"What is quarantined can't be told: .*quarantine.json"):
        apply(host, pillar({**EACH, "more": {"slice": "1g.10gb"}}))
    assert consumers.summary(host) == before


# -- by policy ---------------------------------------------------------------------------------------------------------
def status(word, scope="board", codes=("x",), **slices):
    return {"status": word, "action": "", "scope": scope, "codes": list(codes) if word != "ok" else [], "sentence": f"It {word}.",
            "slices": slices}  # fmt: skip


ON = {"health": {"on_failed": "quarantine"}}


def policy_run(host, statuses, test=False, **management):
    return on(host, quarantine.by_policy, statuses, pillar(EACH, **(management or ON)), test)


def test_what_failed_is_quarantined_and_released_when_it_is_well(host):
    part = had(host, "trainer")
    board = {**status("failed", "slice"), "slices": {part: status("failed", "slice")}}
    assert policy_run(host, {FIRST: board}, health={"on_failed": "report"})["changes"] == {} and record(host) == {}
    tested = policy_run(host, {FIRST: board}, test=True)
    assert set(tested["changes"]) == {part, "consumers"} and "result" not in tested and record(host) == {}
    made = policy_run(host, {FIRST: board})
    assert made["result"] is True and made["changes"] == tested["changes"] and had(host, "trainer") != part
    assert policy_run(host, {FIRST: board})["changes"] == {}
    well = policy_run(host, {FIRST: status("ok")})
    assert well["result"] is True and set(well["changes"]) == {part} and held(host) == {}
    # Once more within a day: from now on only a hand releases it.
    host.let_pass(3600)
    assert policy_run(host, {FIRST: board})["result"] is True
    assert policy_run(host, {FIRST: status("ok")})["changes"] == {} and held(host)[part]["released_by"] == "hand"
    assert release(host, part)["result"] is True and held(host) == {}


def test_a_lost_board_is_quarantined_whole(host):
    policy_run(host, {FIRST: status("lost", "slice"), SECOND: status("degraded")})
    assert set(held(host)) == {FIRST}
    assert all(part.startswith(SECOND) for parts in bindings(host).values() for part in parts)


def test_all_gpus_at_once_are_rather_the_fault_of_their_driver(host):
    before = bindings(host)
    for test in (True, False):
        answer = policy_run(host, {FIRST: status("failed"), SECOND: status("failed")}, test=test)
        assert answer["result"] is False and answer["changes"] == {} and record(host) == {} and bindings(host) == before
        assert f"Policy quarantines nothing of GPU {FIRST}, {SECOND}: of the 2 GPUs of this host more than" in answer["comment"]
        assert "quarantine by hand what must not be handed out" in answer["comment"]


def test_what_a_hand_released_stays_released_for_what_stands(host):
    policy_run(host, {FIRST: status("failed")})
    release(host, FIRST)
    assert policy_run(host, {FIRST: status("failed")})["changes"] == {}
    assert set(policy_run(host, {FIRST: status("failed", codes=("x", "y"))})["changes"]) >= {FIRST}


def test_schedulers_are_told(host):
    part, heard = had(host, "trainer"), []
    with Engine(config(host)) as engine:
        engine.health_events = lambda kind, fields: heard.append((kind, fields))
        quarantine.quarantined(engine, part, "odd results")
    with Engine(config(host)) as engine:
        engine.health_events = lambda kind, fields: heard.append((kind, fields))
        quarantine.released(engine, part)
    (first, told), (second, after) = heard
    assert (first, second) == ("quarantined", "released") and told["slices"] == after["slices"] == [part]
    assert told["consumers"] == {"trainer": bindings(host)["trainer"]} and told["why"] == "odd results"
    assert told["by"] == "hand" and after["by"] == "hand"


# -- GPUs that can't be read, and runs that are asked to end ---------------------------------------------------------------
def test_consumers_leave_a_board_that_its_driver_has_lost(host):
    """Whoever has a slice of what can't be read keeps it, unless the board is quarantined."""
    with host.change() as state:
        state["gpus"][FIRST]["health"]["lost"] = True
    assert apply(host, pillar(EACH)).errors
    assert all(part.startswith(FIRST) for parts in bindings(host).values() for part in parts)
    answer = policy_run(host, {FIRST: status("lost"), SECOND: status("ok")})
    assert answer["result"] is True and set(held(host)) == {FIRST}
    assert all(part.startswith(SECOND) for parts in bindings(host).values() for part in parts)


def test_what_was_quarantined_is_released_when_it_is_gone_from_the_host(host):
    hold(host, FIRST)
    with host.change() as state:
        state["gpus"][FIRST]["health"]["lost"] = True
    assert release(host, FIRST)["result"] is True and record(host) == {}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_that_is_asked_to_end_quarantines_or_does_not(host, number):
    part, old = had(host, "trainer"), consumers.summary(host)
    host.add_fault({"call": "store_append", "nth": number, "signal": "SIGTERM"})
    with pytest.raises(errors.Interrupted):
        hold(host, part)
    host.clear_faults()
    noted = part in record(host)
    assert closed(host) and astray(host) == [] and (consumers.summary(host) == old) is not noted


def test_a_host_that_is_busy_is_left_as_it_is(host):
    from gpuslice.records import lock

    part, before = had(host, "trainer"), stages.machine(host)
    with lock.held(host.state_dir, "somebody"), pytest.raises(errors.LockHeld):
        hold(host, part)
    assert stages.machine(host) == before and record(host) == {}


def test_a_mistake_in_the_pillar_keeps_nobody_from_it(host):
    assert hold(host, had(host, "trainer"), permissions={"containers_gpu_state_management": {"health": 3}})["result"] is True
