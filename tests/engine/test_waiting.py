"""Changes that wait: until those who use a GPU are gone, or for the window of maintenance."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpuslice.engine import Engine
from gpuslice.records.journal import Journal
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.mig import asks
from gpuslice.techniques.toolbox import Toolbox
from tests.support import consumers
from tests.support import hosts
from tests.support import pillars

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
TRAINER = {"pid": 4711, "command": "train.py", "gpu": FIRST, "slice": "7g.80gb@0"}
NIGHT = {"when": "window", "maintenance_window": {"days": ["sat"], "hours": "22:00-04:00", "zone": "Europe/Berlin"}}
HALVES = {"3g.40gb": 2}


def on(day, clock):
    """A moment of December 2026, in Berlin; its 5th is a Saturday."""
    return datetime.fromisoformat(f"2026-12-{day:02}T{clock}").replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


NOON, NIGHT_TIME, MORNING = on(5, "12:00"), on(5, "23:00"), on(6, "04:00")


class Clock(SimulatedHost):
    """A simulated machine whose clock stands, until ``ticks`` calls of programs and drivers were made; then it is ``later``."""

    def __init__(self, host, now, later=None):
        super().__init__(host.description_path, host.state_dir)
        self.moment, self.later = now, later

    def now(self):
        return self.moment

    def store_append(self, path, line):
        # A step is noted: the change runs.
        self.moment = self.later or self.moment
        super().store_append(path, line)


def engine(host, now, later=None):
    """An engine on this host at that moment."""
    made = Engine(hosts.config(host))
    made.host = Clock(host, now, later)
    made.tools = Toolbox(made.host)
    return made


def brought(host, wanted, now=NOON, later=None):
    """Bring the host to a pillar at that moment."""
    with engine(host, now, later) as made:
        return made.apply(wanted)


@pytest.fixture
def whole(simulated):
    """A DGX H100 of whose first two GPUs each has one slice of all of it; the others are left alone."""
    host = simulated("dgx-h100")
    assert hosts.apply(host, rules({"7g.80gb": 1})).ok
    return host


def rules(profiles, **management):
    """These profiles on the first two GPUs."""
    return pillars.rules(*(pillars.mig_rule(gpu, profiles) for gpu in (FIRST, SECOND)), **management)


def profiles(host):
    """The profiles of the first two GPUs."""
    found = hosts.shapes(host)
    return found[FIRST], found[SECOND]


def waits(result):
    """GPU -> why it waits."""
    return {where: why for where, _, why in result.plan.waiting}


def test_a_gpu_that_is_in_use_waits_and_the_others_are_changed_at_once(whole):
    whole.add_process(TRAINER)
    result = brought(whole, rules(HALVES, when="idle"))
    assert result.ok and profiles(whole) == (["7g.80gb"], ["3g.40gb"] * 2)
    assert waits(result) == {
        FIRST: f"GPU {FIRST}: The wanted layout needs 7g.80gb at 0 to go, which is in use by pid 4711 (train.py). It is changed "
        "when nobody uses that any more."
    }
    again = brought(whole, rules(HALVES, when="idle"))
    assert again.ok and again.generation is None and not again.changes and list(waits(again)) == [FIRST]
    whole.remove_process(4711)
    last = brought(whole, rules(HALVES, when="idle"))
    assert last.ok and not waits(last) and profiles(whole) == (["3g.40gb"] * 2, ["3g.40gb"] * 2)


def test_without_it_the_same_fails_as_before(whole):
    whole.add_process(TRAINER)
    result = brought(whole, rules(HALVES))
    assert not result.ok and not waits(result) and "in use by pid 4711" in result.errors[0]


def test_who_is_ill_does_not_wait(whole):
    whole.add_fault({"call": "nvmlDeviceGetMigMode", "gpu": FIRST, "lost": True, "times": 0})
    result = brought(whole, rules(HALVES, when="idle"))
    assert not result.ok and not waits(result)


def test_what_disrupts_waits_for_the_window(whole):
    result = brought(whole, rules(HALVES, **NIGHT))
    assert result.ok and not result.changes and result.generation is None and profiles(whole) == (["7g.80gb"], ["7g.80gb"])
    assert waits(result)[FIRST] == (
        f"GPU {FIRST}: A change is wanted that ends 7g.80gb at 0. It waits for the maintenance window, which opens "
        "Sat 2026-12-05 22:00 (Europe/Berlin)."
    )
    assert result.plan.summary() == "Nothing to do now; 2 GPUs wait for the maintenance window."
    assert brought(whole, rules(HALVES, **NIGHT), NIGHT_TIME).ok and profiles(whole) == (["3g.40gb"] * 2, ["3g.40gb"] * 2)


def test_what_only_makes_something_waits_for_nothing(whole):
    assert brought(whole, rules({"3g.40gb": 1})).ok
    result = brought(whole, rules({"3g.40gb": 1, "1g.10gb": 2}, **NIGHT))
    assert result.ok and not waits(result) and profiles(whole)[0] == ["1g.10gb", "1g.10gb", "3g.40gb"]


def test_a_mode_waits_for_the_window(simulated):
    host = simulated("dgx-h100")
    result = brought(host, rules(HALVES, **NIGHT))
    assert "A change is wanted that changes a mode of the GPU." in waits(result)[FIRST] and not profiles(host)[0]


def test_users_in_the_window_are_waited_for_and_nothing_is_forced_at_its_end(whole):
    whole.add_process(TRAINER)
    within = brought(whole, rules(HALVES, **NIGHT), NIGHT_TIME)
    assert within.ok and profiles(whole) == (["7g.80gb"], ["3g.40gb"] * 2)
    assert waits(within)[FIRST].endswith(
        "in use by pid 4711 (train.py). It is changed when nobody uses that any more, within the maintenance window, which "
        "closes Sun 2026-12-06 04:00 (Europe/Berlin)."
    )
    after = brought(whole, rules(HALVES, **NIGHT), MORNING)
    assert after.ok and waits(after)[FIRST].endswith(
        "in use by pid 4711 (train.py). It waits for the maintenance window, which opens Sat 2026-12-12 22:00 (Europe/Berlin)."
    )
    assert [process.pid for process in whole.processes()] == [4711]


def test_with_force_the_window_ends_what_is_in_use_and_outside_of_it_nothing(whole):
    whole.add_process(TRAINER)
    wanted = rules(HALVES, apply_strategy="force", **NIGHT)
    assert FIRST in waits(brought(whole, wanted)) and whole.processes()
    assert brought(whole, wanted, NIGHT_TIME).ok and not whole.processes() and profiles(whole)[0] == ["3g.40gb"] * 2


def test_a_change_that_runs_when_the_window_closes_goes_on_to_its_end(whole):
    result = brought(whole, rules(HALVES, **NIGHT), NIGHT_TIME, later=MORNING)
    assert result.ok and not waits(result) and profiles(whole) == (["3g.40gb"] * 2, ["3g.40gb"] * 2)


def test_upper_layers_of_a_running_change_go_on_too(whole):
    wanted = rules(HALVES, **NIGHT)
    for rule in wanted["containers_gpu_slicing"]["devices"]:
        rule["time_slicing"] = {"enabled": True, "max_instance_count": 2}
    result = brought(whole, wanted, NIGHT_TIME, later=MORNING)
    assert result.ok and not waits(result)
    assert {part["kind"] for part in hosts.listed(whole) if part["gpu"] in (FIRST, SECOND)} == {"replica"}


def test_what_was_interrupted_is_finished_outside_of_the_window(whole):
    journal = Journal(whole)
    with engine(whole, NIGHT_TIME) as made:
        policy = made.policy(rules(HALVES, **NIGHT))
        reconciler, targets = made.reconciler(policy), made.targets(policy)
        plan = reconciler.plan(targets)
        journal.begin(reconciler._entry(plan, targets, {}, None))
    result = brought(whole, rules(HALVES, **NIGHT), NOON)
    assert result.ok and not waits(result) and profiles(whole) == (["3g.40gb"] * 2, ["3g.40gb"] * 2)


def test_gpus_that_change_together_wait_together(simulated):
    host = simulated("mi300x-8")
    wanted = pillars.partition("CPX", "NPS4", unload_modules=["amdgpu"], **NIGHT)
    result = brought(host, wanted)
    assert result.ok and len(waits(result)) == 8
    assert brought(host, wanted, NIGHT_TIME).ok


def test_by_hand_nothing_waits(whole):
    with engine(whole, NOON) as made:
        targets = made.wanted("mig", FIRST, *asks.layout(HALVES, 1))
        assert made.reconciler(permissions=rules(HALVES, **NIGHT)).apply(targets).ok
    assert profiles(whole)[0] == ["3g.40gb"] * 2


def test_a_reboot_waits_for_the_window(simulated):
    host = simulated("dgx-h100")
    with engine(host, NOON) as made:
        policy = made.policy(rules(HALVES, **NIGHT))
        assert made.reconciler(policy).may_disrupt is False
    with engine(host, NIGHT_TIME) as made:
        assert made.reconciler(made.policy(rules(HALVES, **NIGHT))).may_disrupt is True
        assert made.reconciler(made.policy(rules(HALVES))).may_disrupt is True


class TestConsumers:
    """Those who are handed slices keep theirs, until the slices that are to be theirs are there."""

    @pytest.fixture
    def served(self, simulated):
        host = consumers.machine(simulated)
        assert hosts.apply(host, consumers.pillar(consumers.EACH)).ok
        return host

    def test_what_they_have_stays_while_theirs_waits(self, served):
        before = hosts.slices(served)
        with engine(served, NOON) as made:
            noted = made.noted("consumers")
        result = brought(served, self.smaller(consumers.pillar(consumers.EACH), NIGHT))
        assert result.ok and hosts.slices(served) == before
        assert "Who has slices keeps them until then. It waits for the maintenance window" in waits(result)["consumers"]
        with engine(served, NOON) as made:
            assert made.noted("consumers") == noted

    @staticmethod
    def smaller(wanted, management):
        return {
            **wanted,
            "containers_gpu_slicing": {**wanted["containers_gpu_slicing"], "mig": {"profiles": ["7g.80gb"]}},
            "containers_gpu_container_integration": {"consumers": {"alone": {"slice": "7g.80gb"}}},
            "containers_gpu_state_management": management,
        }

    def test_a_unit_that_has_a_slice_is_not_started_anew_outside_of_the_window(self, served):
        other = {**consumers.EACH, "web": {**consumers.EACH["web"], "image": "localhost/web:2"}}
        before = served.read(consumers.WEB_FILE)
        result = brought(served, consumers.pillar(other, **NIGHT))
        assert result.ok and served.read(consumers.WEB_FILE) == before and not result.changes
        assert waits(result) == {
            "consumers": f"A change is wanted that stops or restarts {consumers.WEB}. Who has slices keeps them until then. It "
            "waits for the maintenance window, which opens Sat 2026-12-05 22:00 (Europe/Berlin)."
        }
        assert result.plan.summary() == "Nothing to do now; consumers wait for the maintenance window."
        assert brought(served, consumers.pillar(other, **NIGHT), NIGHT_TIME).ok and served.read(consumers.WEB_FILE) != before

    def test_who_comes_new_is_served_at_once(self, served):
        more = {**consumers.EACH, "builds": {"slice": "1g.10gb"}}
        result = brought(served, consumers.pillar(more, **NIGHT))
        assert result.ok and not waits(result) and "builds" in consumers.names(served, consumers.CONSUMER)
