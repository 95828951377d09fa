"""
A GPU that can be spared is tried: everything is made, verified and taken away, changes end half way, and the GPU is as before.
"""

import json
import os
import pathlib
import re
import signal
import time

import pytest

from gpuslice import errors
from gpuslice import qualify
from gpuslice.engine import Engine
from gpuslice.inventory import grain
from gpuslice.records.history import History
from gpuslice.records.tried import Trying
from tests.support import consumers
from tests.support import crash
from tests.support import pages
from tests.support import pillars
from tests.support.cleaned import cleaned
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.stages import machine

A30, MI300X, FLEX = "0000:a1:00.0", "0000:05:00.0", "0000:3c:00.0"


def tried(host, gpu, pillar=None, minutes=30):
    """Try a GPU; returns what the function returns, and the report that was written."""
    with Engine(config(host)) as engine:
        answer = qualify.carried_out(engine, config(host), gpu, pillar or {}, minutes)
    with open(answer["report"], encoding="utf-8") as file:
        return answer, json.load(file)


def what_is_there(host):
    """All that the GPUs of a host have, without the identities that each creation gives anew."""
    with Engine(config(host)) as engine:
        slices = [{key: value for key, value in each.items() if key != "uuid"} for each in engine.slices(taken=True)]
        return [engine.devices(), slices, engine.maps(), engine.health(), engine.interrupted()]


def results(found, name):
    return {each["what"]: each["result"] for each in found[name]}


def tried_whole(host, gpu):
    """The one technology of a report on a GPU of which all went well, and that is as before."""
    before = what_is_there(host)
    answer, report = tried(host, gpu)
    assert answer["result"], answer["comment"]
    assert what_is_there(host) == before
    [found] = report["technologies"]
    return found


@pytest.fixture(scope="module")
def a30(tmp_path_factory):
    """An A30 that was tried: (host, what it had before, answer, report)."""
    from gpuslice.sim.host import SimulatedHost
    from tests.conftest import described

    place = tmp_path_factory.mktemp("a30")
    host = SimulatedHost(str(described(place, "a30-pair", {})), str(place / "state"))
    before = what_is_there(host)
    return host, before, *tried(host, A30)


# -- a whole run ---------------------------------------------------------------------------------------------------------
def test_every_profile_is_made_in_every_place_and_taken_away(a30):
    _, _, answer, report = a30
    [found] = report["technologies"]
    assert answer["result"] and set(results(found, "trials").values()) == {"ok"}
    assert results(found, "trials").keys() >= {
        *(f"1g.6gb at {start}" for start in range(4)), "1g.6gb+me at 3", "2g.12gb at 2", "4g.24gb at 0", "4 x 1g.6gb",
        "4g.24gb with 4 compute instances", "MIG mode off",
    }  # fmt: skip
    placed = next(each for each in found["trials"] if each["what"] == "2g.12gb at 2")
    assert placed["steps"] == ["create GPU instance 2g.12gb at 2", "create compute instance 2g.12gb in 2g.12gb at 2"]
    assert placed["estimated"] > 0 and placed["differences"] == []


def test_changes_end_half_way_and_are_undone(a30):
    [found] = a30[3]["technologies"]
    assert [found[name]["result"] for name in ("stopped", "killed", "refused")] == ["ok"] * 3
    assert found["killed"]["at"] == "create compute instance 1g.6gb in 1g.6gb at 1"
    # The step before the one that another tool makes impossible was done, and undone.
    assert "Step 3 of 4 (create GPU instance 1g.6gb at 1) failed" in found["refused"]["said"]
    assert "what another tool made meanwhile is not destroyed" in found["refused"]["said"]


def test_the_driver_is_compared_with_the_catalog(a30):
    [found] = a30[3]["technologies"]
    facts = {each["what"]: each["found"] for each in found["facts"] if each["found"] == each["catalog"]}
    assert facts["2g.12gb: places"] == [0, 2] and facts["1g.6gb: id"] == 14 and facts["4g.24gb: memory in MiB"] > 20000
    assert len(facts) == len(found["facts"])


def test_the_gpu_and_all_records_are_as_before(a30):
    host, before, _, report = a30
    assert what_is_there(host) == before
    assert report["technologies"][0]["put_back"] == ""
    assert closed(host) and History(host).all() == []
    assert not {"qualify.json", "verified.json", "journal.json"}.intersection(os.listdir(host.state_dir))
    assert sorted(name.rpartition(".")[2] for name in os.listdir(Trying(host).folder)) == ["json", "lock", "txt"]


def test_the_report_names_no_machine(a30):
    host, _, answer, _ = a30
    written = "".join(path.read_text(encoding="utf-8") for path in pathlib.Path(answer["report"]).parent.glob("*.*"))
    assert answer["comment"].startswith("NVIDIA A30") and "1g.6gb at 3: ok; made in " in written
    assert os.uname().nodename not in written and host.state_dir not in written and A30 not in written
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}|[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", written)
    assert "NVIDIA A30, device 20b7, subsystem 10de:1532 (simulated)" in written and "driver nvidia 570.172.08" in written


def test_the_documented_text_is_the_real_one(a30):
    block = pages.page("usage").split("The end of the text of an A30:\n\n")[1].split("\n\n")[0]
    told = without_times(a30[2]["comment"]).splitlines()
    assert [line for line in without_times(block).splitlines() if line.removeprefix("    ") not in told] == []


def without_times(text):
    return re.sub(r"[0-9.]+ s\b", "N s", text)


def test_partitions_are_tried_in_the_memory_mode_of_now(simulated):
    found = tried_whole(simulated("mi300x-8"), MI300X)
    assert [name for name, result in results(found, "trials").items() if result == "ok"] == ["DPX/NPS1", "QPX/NPS1", "CPX/NPS1"]
    [why] = {each["why"] for each in found["trials"] if each["result"] == "not tried"}
    assert "a reload of the driver, which restarts all GPUs" in why
    assert (found["stopped"]["result"], found["killed"]["result"]) == ("not tried", "ok")
    assert found["stopped"]["why"] == "the longest change has 1 step, and 2 are needed"


def test_numbers_of_virtual_functions_are_tried(simulated):
    found = tried_whole(simulated("flex170"), FLEX)
    assert list(results(found, "trials")) == [
        "1 virtual function", *(f"{count} virtual functions" for count in (2, 4, 8, 16, 31))
    ]  # fmt: skip
    assert [found[name]["result"] for name in ("stopped", "killed", "refused")] == ["ok"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "example, gpu, count",
    [
        ("dgx-h100", "0000:1b:00.0", 34),
        ("dgx-a100-40gb", "0000:07:00.0", 34),
        ("rtx-pro-6000", "0000:16:00.0", 20),
        ("arc-pro-b60", "0000:03:00.0", 6),
        ("max1550", "0000:29:00.0", 7),
    ],
)
def test_whole_boards(simulated, example, gpu, count):
    assert len(tried_whole(simulated(example), gpu)["trials"]) >= count


def test_a_host_that_is_given_up_keeps_nothing_of_it(simulated):
    host = simulated("mi300x-8")
    before = what_is_there(host)
    tried(host, MI300X)
    answer = cleaned(host)
    assert answer["result"] and "not known as ours" not in str(answer.get("warnings"))
    assert os.listdir(host.state_dir) == ["simulated"] and what_is_there(host) == before


# -- what goes wrong -----------------------------------------------------------------------------------------------------
def test_a_trial_that_fails_is_told_and_the_others_go_on(simulated):
    host = simulated("mi300x-8")
    before = what_is_there(host)
    # One write goes to the change that is killed, and one back from it is not needed; then come two for each trial.
    host.add_fault({"call": "write", "nth": 3, "error": "EINVAL"})
    answer, report = tried(host, MI300X)
    [found] = report["technologies"]
    assert not answer["result"] and what_is_there(host) == before
    assert list(results(found, "trials").values())[:3] == ["ok", "failed", "ok"]
    [failed] = [each for each in found["trials"] if each["result"] == "failed"]
    assert "set compute mode QPX" in failed["why"] and "has been undone" in failed["why"]
    assert "QPX/NPS1: failed; " in answer["comment"]


def test_the_gpu_is_put_back_when_time_is_over(simulated):
    host = simulated("mi300x-8")
    before = what_is_there(host)
    with Engine(config(host)) as engine:
        answer = qualify.carried_out(engine, config(host), MI300X, {}, 0)
    assert what_is_there(host) == before
    assert "not tried: the time that was given for it is over" in answer["comment"]


def test_a_signal_ends_it_and_the_gpu_is_put_back(simulated):
    host = simulated("mi300x-8")
    before = what_is_there(host)
    host.add_fault({"call": "write", "nth": 3, "signal": "SIGTERM"})

    def run():
        try:
            tried(host, MI300X)
        except errors.Interrupted as err:
            assert err.number == signal.SIGTERM and "put back: yes" in err.what
            os._exit(9)

    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert what_is_there(host) == before and closed(host) and Trying(host).read() is None


@pytest.mark.parametrize("call, nth", [("write", 3), ("store_remove", 5)])
def test_after_a_kill_recover_puts_the_gpu_back(simulated, call, nth):
    """In a change, which its journal tells; and when a change was over and the next one not begun."""
    host = simulated("mi300x-8")
    before = what_is_there(host)
    host.add_fault({"call": call, "nth": nth, "kill": "after"})
    assert crash.in_child(lambda: tried(host, MI300X)) == signal.SIGKILL
    assert closed(host) == (call == "store_remove") and what_is_there(host) != before
    with Engine(config(host)) as engine:
        assert "was not put back as it was" in engine.health()[MI300X][0] and grain.facts(host)["interrupted"]
        with pytest.raises(errors.ModeChangePending, match="gpu_slicing.recover"):
            qualify.planned(engine, MI300X, {}, 30)
        assert qualify.recovered(engine, "undo", True, {})["changes"]
        answer = qualify.recovered(engine, "undo", False, {})
    assert answer["result"] and "It was put back: compute mode SPX, memory mode NPS1." in answer["comment"]
    assert what_is_there(host) == before and Trying(host).read() is None and not grain.facts(host)["interrupted"]


def test_after_a_kill_while_another_tool_is_there_nothing_of_that_is_left(simulated):
    host = simulated("a30-pair")
    # Before it come two changes that end half way, in processes of their own.
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "nth": 4, "kill": "before"})
    assert crash.in_child(lambda: tried(host, A30)) == signal.SIGKILL
    assert os.path.exists(Trying(host).other)
    ends, done = time.monotonic() + 20, False
    while not done:
        try:
            with Engine(config(host)) as engine:
                done = qualify.recovered(engine, "undo", False, {})["result"]
        except errors.ForeignChange:
            # What the killed run had started may be ending still: run again, as the sentence says.
            assert time.monotonic() < ends
            time.sleep(0.1)
    assert not os.path.exists(Trying(host).other)
    assert cleaned(host)["result"] and os.listdir(host.state_dir) == ["simulated"]


def test_events_of_a_trial_tell_of_no_generation(simulated):
    host, told = simulated("mi300x-8"), []
    with Engine(config(host), events=lambda kind, fields: told.append((kind, fields["generation"]))) as engine:
        assert qualify.carried_out(engine, config(host), MI300X, {}, 30)["result"]
    assert {generation for _, generation in told} == {None} and {kind for kind, _ in told} == {"begin", "step", "end"}


def test_what_is_asked_of_the_gpu_after_a_kill_counts_more(simulated):
    host = simulated("mi300x-8")
    host.add_fault({"call": "write", "nth": 3, "kill": "after"})
    assert crash.in_child(lambda: tried(host, MI300X)) == signal.SIGKILL
    assert apply(host, pillars.for_gpu(MI300X, "partition", {"compute": "CPX"})).ok
    assert Trying(host).read() is None
    with Engine(config(host)) as engine:
        assert engine.interrupted() == []


def test_one_gpu_is_tried_at_a_time(simulated):
    host = simulated("a30-pair")
    with Engine(config(host)) as engine:
        with Trying(host).alone("this test"), pytest.raises(errors.LockHeld, match="one at a time"):
            qualify.carried_out(engine, config(host), A30, {}, 30)


# -- which GPU may be tried ----------------------------------------------------------------------------------------------
def refused(host, gpu, kind, words, pillar=None):
    before = machine(host)
    with Engine(config(host)) as engine, pytest.raises(kind, match=words):
        qualify.carried_out(engine, config(host), gpu, pillar or {}, 30)
    assert machine(host) == before and Trying(host).read() is None


def test_a_gpu_in_use_is_refused(simulated):
    refused(simulated("a30-pair"), "0000:41:00.0", errors.ResourceConflict, r"in use by pid 4711 \(jupyter-lab\)")


def test_what_only_watches_a_gpu_may_stay(simulated):
    """NVIDIA's own daemons have each GPU of a host open."""
    host, gpu = simulated("dgx-h100"), "0000:1b:00.0"
    host.add_process({"pid": 99, "command": "nvidia-persistenced", "gpu": gpu, "type": "monitor"})
    with Engine(config(host)) as engine:
        assert "34 trials" in qualify.planned(engine, gpu, {}, 30)["comment"]
    host.add_process({"pid": 100, "command": "python3", "gpu": gpu})
    refused(host, gpu, errors.ResourceConflict, r"in use by pid 100 \(python3\)\.")


def test_what_the_pillar_lets_a_change_stop_is_not_in_its_way(simulated):
    host = simulated("a30-pair")
    host.add_process({"pid": 99, "command": "nv-hostengine", "unit": "nvidia-dcgm.service", "gpu": A30, "type": "monitor"})
    refused(host, A30, errors.ResourceConflict, r"in use by pid 99 \(nv-hostengine\)\. .*stop_units")
    with Engine(config(host)) as engine:
        allowed = {"containers_gpu_state_management": {"stop_units": ["nvidia-dcgm.service"]}}
        assert "19 trials" in qualify.planned(engine, A30, allowed, 30)["comment"]


def test_an_ill_gpu_is_refused(simulated):
    gpu = {"model": "h100-80gb", "address": "0000:1b:00.0", "health": {"row_remap_failed": True}}
    refused(simulated("dgx-h100", gpus=[gpu]), "0000:1b:00.0", errors.ResourceConflict, "row")


def test_who_has_a_gpu_open_whose_users_nobody_tells_apart_is_in_its_way(simulated):
    host = simulated("flex170")
    host.add_process({"pid": 99, "command": "Xorg", "nodes": ["/dev/dri/renderD128"]})
    refused(host, FLEX, errors.ResourceConflict, r"in use by pid 99 \(Xorg\)")


def test_several_gpus_are_refused(simulated):
    refused(simulated("a30-pair"), "all", errors.PolicyError, "2 GPUs are named, and one at a time is tried")


def test_a_gpu_of_a_consumer_is_refused(simulated):
    host = consumers.machine(simulated)
    wanted = consumers.pillar(consumers.EACH)
    assert apply(host, wanted).ok
    with Engine(config(host)) as engine:
        gpu = engine.slices()[0]["gpu"]
    refused(host, gpu, errors.GpuSliceError, "is handed out to ")


def test_a_gpu_that_the_pillar_slices_for_consumers_is_refused(simulated):
    host = consumers.machine(simulated)
    with Engine(config(host)) as engine:
        gpu = engine.gpus[0].address
    refused(host, gpu, errors.PolicyError, "the pillar slices it, and hands slices to ", consumers.pillar(consumers.EACH))


def test_a_gpu_on_whose_slices_something_stands_is_refused(simulated):
    host = simulated("dgx-h100")
    gpu = "0000:1b:00.0"
    slicing = {"strategy": "mig", "mig": {"profiles": ["3g.40gb"]}, "time_slicing": {"enabled": True, "max_instance_count": 2}}
    assert apply(host, pillars.rules(pillars.rule(gpu, **slicing))).ok
    refused(host, gpu, errors.ResourceConflict, "It has time-slicing .* which a trial would end")


def test_a_gpu_with_nothing_to_try_is_refused(simulated):
    refused(simulated("l4-pair"), "0000:41:00.0", errors.Unsupported, "has nothing that can be tried")
    refused(simulated("mi210-gim"), "0000:33:00.0", errors.Unsupported, "SR-IOV: its driver makes functions while it is loaded")
