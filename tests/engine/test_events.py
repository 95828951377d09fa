"""
Events of a change with fields, in the order in which it happens; and what its steps took, as the next plan goes by it.
"""

import json
import pathlib
import re
import signal

import pytest

from gpuslice import errors
from gpuslice import reports
from gpuslice.engine import Engine
from gpuslice.records.history import History
from gpuslice.sim.host import SimulatedHost
from tests.support import pillars
from tests.support.a100 import AFTER
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import NEW
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import shapes

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "events.md"
COMMON = {"generation", "who", "jid"}


class Heard(list):
    """Listens to events: (kind, fields) of each."""

    def __call__(self, kind, fields):
        assert json.loads(json.dumps(fields)) == fields
        self.append((kind, fields))

    def of(self, kind):
        """The fields of each event of that kind."""
        return [fields for each, fields in self if each == kind]

    def kinds(self):
        """Kinds of the events, those of steps told once for as many as follow each other."""
        return [kind for place, (kind, _) in enumerate(self) if not place or kind != self[place - 1][0]]


@pytest.fixture
def heard():
    return Heard()


def test_a_change_begins_has_steps_and_ends(simulated, heard):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    result = apply(host, pillars.mig(AFTER), events=heard)
    assert result.ok and heard.kinds() == ["begin", "step", "end"]
    [begin], steps, [end] = heard.of("begin"), heard.of("step"), heard.of("end")
    assert set(begin) == COMMON | {"summary", "gpus", "steps", "seconds", "estimate"}
    assert begin["gpus"] == [FIRST, SECOND, THIRD] and begin["steps"] == len(steps) == len(result.plan.steps)
    assert begin["summary"] == result.plan.summary() and begin["estimate"] == "public figure"
    assert begin["who"].startswith("process ") and begin["seconds"] == round(result.plan.seconds, 2)
    for part in result.plan.changing:
        mine = [step for step in steps if step["gpu"] == part.gpu]
        assert [(step["n"], step["words"]) for step in mine] == list(enumerate([step.words for step in part.steps], 1))
        assert all(set(step) == COMMON | {"gpu", "technology", "n", "of", "words", "seconds", "undo"} for step in mine)
        assert all(step["of"] == len(part.steps) and not step["undo"] and step["technology"] == "mig" for step in mine)
    assert set(end) == COMMON | {"result", "seconds", "changed", "reboot"}
    assert (end["result"], end["generation"], end["reboot"]) == ("applied", 1, [])
    assert sorted(end["changed"]) == [FIRST, SECOND, THIRD] and {each["generation"] for _, each in heard} == {1}


def test_a_host_that_is_right_and_one_that_is_refused_tell_nothing(simulated, heard):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    assert apply(host, pillars.mig(AFTER)).ok
    assert apply(host, pillars.mig(AFTER), events=heard).plan.empty
    with pytest.raises(errors.GpuSliceError):
        apply(host, pillars.mig(["7g.80gb"]), events=heard)
    assert heard == []


def test_what_failed_is_told_by_gpu_and_its_undo_step_by_step(simulated, heard):
    fault = {"call": CREATE, "gpu": SECOND, "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[fault])
    result = apply(host, pillars.mig(AFTER), events=heard)
    assert not result.ok and heard.kinds() == ["begin", "step", "failed"]
    [failed] = heard.of("failed")
    assert failed["result"] == "partly applied" and failed["undone"] == [SECOND] and failed["left"] == []
    assert sorted(failed["changed"]) == [FIRST, THIRD]
    assert set(failed["errors"]) == {SECOND, "host"} and failed["errors"][SECOND].startswith(f"GPU {SECOND}: Step ")
    assert {step["gpu"] for step in heard.of("step") if step["undo"]} == {SECOND}


def test_what_can_not_be_put_back_is_told_as_left(simulated, heard):
    fault = {"call": CREATE, "gpu": FIRST, "times": 0, "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[fault])
    apply(host, pillars.mig(AFTER), events=heard)
    [failed] = heard.of("failed")
    assert failed["result"] == "left" and failed["left"] == [FIRST] and failed["undone"] == []


def test_a_gpu_that_is_in_use_is_told_beside_what_was_changed(simulated, heard):
    holder = {"pid": 4711, "command": "train.py", "gpu": FIRST, "slice": "2g.10gb@4"}
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[holder])
    apply(host, pillars.mig(AFTER), events=heard)
    [failed] = heard.of("failed")
    assert list(failed["errors"]) == [FIRST] and "train.py" in failed["errors"][FIRST]
    assert failed["result"] == "applied" and sorted(failed["changed"]) == [SECOND, THIRD] and failed["undone"] == []


def test_an_interrupted_change_is_undone_as_a_change_of_its_own(simulated, heard):
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": CREATE, "nth": 2, "kill": "before"}])
    assert in_child(lambda: apply(host, pillars.mig(AFTER))) == signal.SIGKILL
    host.clear_faults()
    assert apply(host, pillars.mig(["7g.40gb"]), events=heard).ok
    assert heard.kinds() == ["begin", "step", "end", "begin", "step", "end"]
    undone, made = heard.of("end")
    assert undone["result"] == "undid an interrupted change" and made["result"] == "applied"
    assert [undone["generation"], made["generation"]] == [1, 2] and "it is undone" in heard.of("begin")[0]["summary"]
    steps = heard.of("step")
    assert {step["undo"] for step in steps if step["generation"] == 1} == {True}
    assert {step["undo"] for step in steps if step["generation"] == 2} == {False}


def test_an_undo_that_fails_is_told_too(simulated, heard):
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": CREATE, "nth": 2, "kill": "before"}])
    assert in_child(lambda: apply(host, pillars.mig(AFTER))) == signal.SIGKILL
    host.clear_faults()
    host.add_fault({"call": CREATE, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    with Engine(config(host), events=heard) as engine, pytest.raises(errors.RollbackFailed):
        engine.reconciler().recover(engine.gpus)
    assert heard.kinds()[-1] == "failed" and "could not be put back" in heard.of("failed")[0]["errors"]["host"]


def test_an_interrupted_change_that_only_has_to_be_closed_begins_and_ends(simulated, heard):
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": CREATE, "nth": 2, "kill": "before"}])
    assert in_child(lambda: apply(host, pillars.mig(AFTER))) == signal.SIGKILL
    host.clear_faults()
    assert apply(host, pillars.mig(AFTER), events=heard).ok and heard.kinds() == ["begin", "step", "end"]


def test_the_end_tells_who_waits_for_a_reboot(simulated, heard):
    host = simulated("dgx-a100-40gb", gpus=[{"model": "a100-40gb", "address": FIRST}], reset="never")
    assert apply(host, pillars.mig(["3g.20gb"]), events=heard).ok
    assert heard.of("end")[0]["reboot"] == [FIRST] and heard.of("step")[0]["words"] == "enable MIG mode"


def test_a_listener_that_fails_fails_no_change(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)

    def gone(*_):
        raise OSError("the event bus is gone")

    assert apply(host, pillars.mig(AFTER), events=gone).ok
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)


def test_the_page_tells_every_field_of_every_event(simulated, heard):
    told = {kind: set() for kind in ("begin", "step", "end", "failed")}
    rows = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| (all|`[^|]+`) \| ", re.MULTILINE)
    for name, where in rows.findall(PAGE.read_text(encoding="utf-8")):
        for kind in told if where == "all" else re.findall(r"\w+", where):
            told[kind].update(re.findall(r"\w+", name))
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    assert apply(host, pillars.mig(AFTER), events=heard).ok
    host.add_fault({"call": CREATE, "gpu": SECOND, "error": "NVML_ERROR_UNKNOWN"})
    assert not apply(host, pillars.mig(["7g.40gb"]), events=heard).ok
    assert {kind: set(heard.of(kind)[0]) for kind in told} == told


# -- how long steps take -----------------------------------------------------------------------------------------------
class Reading(SimulatedHost):
    """A simulated host that notes which of our files are read."""

    def __init__(self, host):
        self.seen = []
        super().__init__(host.description_path, host.state_dir)

    def store_load(self, path):
        self.seen.append(path)
        return super().store_load(path)


def test_the_next_plan_goes_by_what_the_steps_took_here(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    with Engine(config(host)) as engine:
        assert engine.plan(pillars.mig(AFTER)).estimate == "public figure"
        result = engine.apply(pillars.mig(AFTER))
    [entry] = History(host).all()
    assert len(entry["times"]) == len(result.plan.steps)
    assert {(row["technique"], row["model"]) for row in entry["times"]} == {("mig", "NVIDIA A100-SXM4-40GB")}
    with Engine(config(host)) as engine:
        plan = engine.plan(pillars.mig(["7g.40gb"]))
        data = reports.as_data(plan)
    assert "measured here" in plan.summary() and plan.text().count("measured here") == 1
    assert data["estimate"] == plan.estimate and {step["source"] for step in data["parts"][0]["steps"]} == {"measured here"}


def test_a_host_that_is_right_reads_no_history(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    assert apply(host, pillars.mig(AFTER)).ok
    with Engine(config(host)) as engine:
        engine.host = reading = Reading(host)
        engine.tools = type(engine.tools)(reading)
        assert engine.apply(pillars.mig(AFTER)).plan.empty
        assert not [path for path in reading.seen if "history" in path]
        assert not engine.plan(pillars.mig(["7g.40gb"])).empty
        assert len([path for path in reading.seen if "history" in path]) == 1
