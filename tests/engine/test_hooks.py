"""What a site has run before and after a change: when, with what, and what comes of a failure, a signal or a kill."""

import os
import signal
import time

import pytest

from gpuslice import errors
from gpuslice import front
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.records.journal import Journal
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import hosts
from tests.support import pillars
from tests.support.crash import in_child

GPU = "0000:1b:00.0"
DRAIN, RESUME, REFUSE = "/usr/bin/drain", "/usr/bin/undrain", "/usr/bin/refuse"
PROGRAMS = {DRAIN: {}, RESUME: {}, REFUSE: {"exit": 3, "says": "first\n\x1b[31mnode is busy\n"}}
HOOKS = {"before": [[DRAIN, "--node"]], "after": [{"command": [RESUME], "timeout": 5}]}


def wanted(profiles=("1g.10gb",), **management):
    """One GPU with these profiles."""
    return pillars.rules(pillars.mig_rule(GPU, list(profiles)), **{**HOOKS, **management})


def ran(host):
    """(program, result that it was told) of each that ran."""
    return [(each["argv"][0], each["environment"].get("GPU_SLICING_RESULT")) for each in host.state().get("ran", ())]


@pytest.fixture
def host(simulated):
    """A DGX H100 with programs of a site."""
    return simulated("dgx-h100", programs=PROGRAMS)


def test_they_run_around_a_change_and_are_told_what_of(host):
    result = hosts.apply(host, wanted())
    assert result.ok and ran(host) == [(DRAIN, None), (RESUME, "ok")]
    first = host.state()["ran"][0]
    assert first["argv"] == [DRAIN, "--node"] and first["environment"] == {"GPU_SLICING_ADDRESSES": GPU}


def test_what_was_read_after_a_change_tells_of_none(host):
    found = hosts.apply(host, wanted()).found
    assert found.empty and "Before it" not in found.text() and "After it" not in found.text()


def test_a_plan_shows_them_and_runs_none(host):
    with Engine(hosts.config(host)) as engine:
        plan = engine.plan(wanted())
    assert plan.text().splitlines()[0] == "Before it: run /usr/bin/drain --node (within 60 s)"
    assert "After it, whatever comes: run /usr/bin/undrain (within 5 s)" in plan.text() and ran(host) == []


def test_where_nothing_changes_none_runs(host):
    assert hosts.apply(host, wanted(before=[], after=[])).ok
    result = hosts.apply(host, wanted())
    assert result.ok and result.plan.empty and not result.plan.before and ran(host) == []


def test_one_that_fails_before_stops_the_change_before_anything_is_done(host):
    before = hosts.shapes(host)
    result = hosts.apply(host, wanted(before=[[DRAIN], [REFUSE, "x"], [DRAIN]]))
    assert not result.ok and hosts.shapes(host) == before and hosts.closed(host)
    assert result.errors == [
        "/usr/bin/refuse x, which is to run before the change, failed with exit status 3: first / \\x1b[31mnode is busy. "
        "Mend that, or take it out of containers_gpu_state_management:before; then run again.",
        "Nothing was changed.",
    ]
    assert ran(host) == [(DRAIN, None), (REFUSE, None), (RESUME, "undone")]


@pytest.mark.parametrize(
    ("program", "fault", "why"),
    [
        ("/usr/bin/none", None, "failed: The program /usr/bin/none is not installed."),
        (DRAIN, {"call": "run", "error": "EACCES"}, "failed: '/usr/bin/drain' failed: Permission denied."),
        (DRAIN, {"call": "run", "error": "ETIMEDOUT"}, "failed: '/usr/bin/drain' did not end within 60 s."),
        (DRAIN, {"call": "run", "unexpected": True}, "Something unexpected failed: RuntimeError"),
    ],
)
def test_one_that_can_t_be_run_stops_it_too(host, program, fault, why):
    if fault:
        host.add_fault(fault)
    result = hosts.apply(host, wanted(before=[[program]], after=[]))
    assert why in result.errors[0] and result.errors[-1] == "Nothing was changed." and not hosts.shapes(host)[GPU]


def test_after_a_step_that_failed_it_is_told_that_it_was_undone(host):
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    result = hosts.apply(host, wanted())
    assert not result.ok and ran(host) == [(DRAIN, None), (RESUME, "undone")]


def test_one_that_fails_after_it_is_told_and_the_change_stands(host):
    result = hosts.apply(host, wanted(after=[[REFUSE], [RESUME]]))
    assert not result.ok and hosts.shapes(host)[GPU] == ["1g.10gb"] and hosts.closed(host)
    assert result.errors == [
        "/usr/bin/refuse, which is to run after the change, failed with exit status 3: first / \\x1b[31mnode is busy. "
        "Run it by hand."
    ]
    assert ran(host) == [(DRAIN, None), (REFUSE, "ok"), (RESUME, "ok")]


def test_what_a_program_says_is_told_as_it_says_it(simulated):
    host = simulated("dgx-h100", programs={REFUSE: {"exit": 1, "says": "can't open ../etc/nodes: waited 1..5 s."}})
    failed = hosts.apply(host, wanted(before=[[REFUSE]], after=[])).errors[0]
    assert "failed with exit status 1: can't open ../etc/nodes: waited 1..5 s. Mend that" in failed


@pytest.mark.parametrize("call", ["run", "nvmlDeviceCreateGpuInstanceWithPlacement"])
def test_a_signal_undoes_the_change_and_after_runs(host, call):
    host.add_fault({"call": call, "signal": "SIGTERM"})

    def work():
        with pytest.raises(errors.Interrupted):
            hosts.apply(host, wanted(before=[[DRAIN], [DRAIN]]))

    assert in_child(work) == 0
    many = 1 if call == "run" else 2
    assert ran(host) == [(DRAIN, None)] * many + [(RESUME, "undone")] and not hosts.shapes(host)[GPU]


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_in_one_of_them_is_repaired_and_after_runs(host, nth, when):
    host.add_fault({"call": "run", "nth": nth, "kill": when})
    assert in_child(lambda: hosts.apply(host, wanted())) == signal.SIGKILL
    assert Journal(host).unfinished().after_hooks == [{"command": [RESUME], "timeout": 5}]
    killed = len(ran(host))
    assert hosts.apply(host, wanted()).ok and hosts.closed(host) and hosts.shapes(host)[GPU] == ["1g.10gb"]
    # What was killed before it ended is run again; a change of which only the end was missing needs nothing before it.
    assert ran(host)[killed:] == [(RESUME, "ok")] if nth == 2 else [(DRAIN, None), (RESUME, "ok")]


def test_who_undoes_an_interrupted_change_runs_what_comes_after_it(host):
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"})
    assert in_child(lambda: hosts.apply(host, wanted())) == signal.SIGKILL
    with Engine(hosts.config(host)) as engine:
        assert engine.reconciler().recover(engine.gpus).ok
    assert ran(host) == [(DRAIN, None), (RESUME, "undone")] and hosts.closed(host)


def test_the_journal_of_a_change_with_hooks_is_root_s_alone(host):
    host.add_fault({"call": "run", "kill": "before"})
    assert in_child(lambda: hosts.apply(host, wanted())) == signal.SIGKILL
    assert os.stat(os.path.join(host.state_dir, "journal.json")).st_mode & 0o077 == 0


def test_by_hand_none_runs(host):
    with Engine(hosts.config(host)) as engine:
        assert engine.reconciler(permissions=wanted()).apply(engine.wanted("mig", GPU, {"enabled": True})).ok
    assert ran(host) == []


class Machine(SimulatedHost):
    """A simulated machine that passes for a real one where functions of Salt are called."""

    simulated = False


def called(host, function, **hook):
    """Errors of a change before which a function of Salt is called, which is ``function``; and what it was given."""
    given = []

    def call(name, args, kwargs):
        given.append((name, args, kwargs, os.environ.get("GPU_SLICING_ADDRESSES")))
        return function()

    with Engine(hosts.config(host)) as engine:
        engine.host = Machine(host.description_path, host.state_dir)
        engine.tools, engine.call = Toolbox(engine.host), call
        hook = {"function": "slurm.drain", "args": ["n1"], "kwargs": {"reason": "gpus"}, **hook}
        return engine.apply(wanted(before=[hook], after=[])).errors, given


def test_a_function_gets_its_arguments_and_the_addresses(host):
    failed, given = called(host, lambda: None)
    assert not failed and given == [("slurm.drain", ["n1"], {"reason": "gpus"}, GPU)]


def _raises():
    raise ValueError("no node \x1b n1")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda: False, "answered that it failed."),
        (lambda: {"result": False, "comment": "no node"}, "answered that it failed: no node."),
        (lambda: {"result": False, "comment": "No node."}, "answered that it failed: No node. Mend that"),
        (_raises, "failed: ValueError: no node \\x1b n1"),
    ],
)
def test_a_function_that_fails_stops_the_change(host, function, why):
    failed, _ = called(host, function)
    assert failed[0].startswith(f"slurm.drain, which is to run before the change, {why}") and not hosts.shapes(host)[GPU]


def test_a_function_that_does_not_end_is_left_behind(host):
    failed, _ = called(host, lambda: time.sleep(3), timeout=1)
    assert "slurm.drain, which is to run before the change, did not end within 1 s, and is left behind." in failed[0]


def test_on_a_simulated_host_no_function_is_called(host):
    lines = []
    result = hosts.apply(host, wanted(before=[{"function": "slurm.drain"}], after=[]), lines.append)
    assert result.ok and "slurm.drain is not called on a simulated host" in lines


def test_a_boot_that_undoes_a_change_calls_the_function_that_comes_after_it(host):
    function = {"function": "slurm.resume", "args": ["n1"]}
    assert hosts.apply(host, wanted()).ok
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "before"})
    assert in_child(lambda: hosts.apply(host, wanted(["2g.20gb"], after=[function]))) == signal.SIGKILL
    given = []
    with Engine(hosts.config(host)) as engine:
        engine.host = Machine(host.description_path, host.state_dir)
        engine.tools, engine.call = Toolbox(engine.host), lambda *args: given.append(args)
        assert replay.replay(engine, wait=0)["result"]
    assert given == [("slurm.resume", ["n1"], {})] and hosts.closed(host)


def test_every_function_that_may_come_upon_an_interrupted_change_can_call_others(repo):
    opened = {path.name: path.read_text(encoding="utf-8").count("front.engine(") for path in (repo / "_modules").glob("*.py")}
    calling = {path.name: path.read_text(encoding="utf-8").count(", salt=__salt__)") for path in (repo / "_modules").glob("*.py")}
    assert opened == calling


def test_a_function_is_found_in_salt_and_one_that_is_not_there_is_named(host):
    salt = {"test.sum": lambda *args, more=0: sum(args) + more}
    with front.engine({"gpu_slicing": hosts.config(host)}, RuntimeError, salt=salt) as made:
        assert made.call("test.sum", [1, 2], {"more": 3}) == 6
        with pytest.raises(errors.HookFailed, match="there is no such function on this minion"):
            made.call("test.product", [], {})


def test_the_example_runs_around_a_change_and_waits(simulated):
    """The pillar that is shipped, over one that says what is wanted; outside of its window, and within it."""
    management = pillars.example("maintenance")
    host = simulated("dgx-h100", programs={"/usr/local/sbin/gpu-node": {}})
    made = wanted(**management["containers_gpu_state_management"])
    with Engine(hosts.config(host)) as engine:
        policy = engine.policy(made)
    always = ALWAYS["maintenance_window"]
    assert policy.when == "window" and not policy.warnings
    result = hosts.apply(host, wanted(**{**management["containers_gpu_state_management"], "maintenance_window": always}))
    assert result.ok and ran(host) == [("/usr/local/sbin/gpu-node", None), ("/usr/local/sbin/gpu-node", "ok")]


class Drained(SimulatedHost):
    """A simulated machine whose users go when its program to drain runs."""

    def run(self, argv, *args, **rest):
        done = super().run(argv, *args, **rest)
        if argv[0] == DRAIN:
            self.remove_process(4711)
        return done


def in_use(host):
    """The host, whose first GPU has a slice of all of it that is in use."""
    assert hosts.apply(host, wanted(["7g.80gb"], before=[], after=[])).ok
    host.add_process({"pid": 4711, "command": "train.py", "gpu": GPU, "slice": "7g.80gb@0"})
    return host


def apply_drained(host, made):
    """Bring a host of which the users go when it is drained to a pillar."""
    with Engine(hosts.config(host)) as engine:
        engine.host = Drained(host.description_path, host.state_dir)
        engine.tools = Toolbox(engine.host)
        return engine.apply(made)


ALWAYS = {"when": "window", "maintenance_window": {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}}


@pytest.mark.parametrize("management", [{}, ALWAYS], ids=["now", "window"])
def test_users_whom_it_makes_go_are_in_nobody_s_way(host, management):
    result = apply_drained(in_use(host), wanted(**management))
    assert result.ok and hosts.shapes(host)[GPU] == ["1g.10gb"] and hosts.closed(host) and list(result.changes) == [GPU]
    assert ran(host) == [(DRAIN, None), (RESUME, "ok")]
    assert host.state()["ran"][1]["environment"]["GPU_SLICING_ADDRESSES"] == GPU


def test_users_who_stay_are_named_and_nothing_is_done_to_them(host):
    result = hosts.apply(in_use(host), wanted())
    assert not result.ok and "in use by pid 4711" in result.errors[0] and hosts.shapes(host)[GPU] == ["7g.80gb"]
    assert ran(host) == [(DRAIN, None), (RESUME, "undone")] and hosts.closed(host) and not result.changes


def test_in_a_window_users_who_stay_are_waited_for(host):
    result = hosts.apply(in_use(host), wanted(**ALWAYS))
    assert result.ok and result.plan.waiting and hosts.shapes(host)[GPU] == ["7g.80gb"]
    assert front.done(result)["comment"].splitlines()[-1] == "Nothing to do now; 1 GPU waits for the maintenance window."


def test_who_waits_until_idle_asks_nobody_to_go(host):
    result = apply_drained(in_use(host), wanted(when="idle"))
    assert result.ok and result.plan.waiting and ran(host) == []


def test_a_test_says_that_it_is_planned_again(host):
    with Engine(hosts.config(in_use(host))) as engine:
        plan = engine.plan(wanted())
    assert "Before it: run /usr/bin/drain --node (within 60 s)\nIt is planned again when that has run" in plan.text()
    assert "result" not in front.planned(plan)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_while_users_are_made_to_go_is_repaired(host, nth):
    in_use(host).add_fault({"call": "run", "nth": nth, "kill": "after"})
    assert in_child(lambda: apply_drained(host, wanted())) == signal.SIGKILL
    assert apply_drained(host, wanted()).ok and hosts.closed(host) and hosts.shapes(host)[GPU] == ["1g.10gb"]
    assert ran(host)[-1] == (RESUME, "ok")
