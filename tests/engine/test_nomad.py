"""A node of Nomad around a change: drained once, told what it must not give, and taken back only by whoever drained it."""

import pytest

from gpuslice import errors
from gpuslice import quarantine
from gpuslice.drivers import nomad as control
from gpuslice.engine import Engine
from gpuslice.schedulers import nomad
from gpuslice.sim import nomad as program
from tests.support import consumers
from tests.support import hosts
from tests.support import pillars

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
GPUS = [{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": OTHER}]
FILE, UNIT = "/etc/nomad.d/gpu.hcl", "nomad.service"
HOOKS = {
    "before": [{"function": "gpu_nomad.drain", "args": ["MIG layout"], "timeout": 30}],
    "after": [{"function": "gpu_nomad.resume", "kwargs": {"path": FILE, "unit": UNIT, "within": 60}, "timeout": 30}],
}


@pytest.fixture
def node(simulated):
    """``node(eligible=False)``: a machine with two GPUs that is a node of Nomad."""

    def make(gpus=GPUS, files=None, **told):
        tools = ["nvidia-smi", "systemctl", "nomad"]
        return simulated("dgx-h100", gpus=gpus, processes=[], patience=0.01, tools=tools, units=[UNIT],
                         nomad={"node": "n1", **told}, files=files or {})  # fmt: skip

    return make


def on(host, function, *args, **more):
    """A function of the module for Nomad on a host."""
    with Engine(hosts.config(host)) as engine:
        return function(engine, *args, **more)


def asked(host):
    """What was asked of Nomad, without mere looks: what, and which way."""
    lines = host.state().get("nomad", {}).get("asked", ())
    return [" ".join(line.split()[:2]) for line in lines if not line.startswith("status")]


def known(host):
    with Engine(hosts.config(host)) as engine:
        return control.node(engine.host)


def written(host):
    return host.state()["written"].get(FILE, "")


def wanted(profiles=("1g.10gb",) * 3, **more):
    return pillars.rules(pillars.mig_rule(GPU, list(profiles)), **{**HOOKS, **more})


def apply(host, made):
    """Bring a host to a pillar whose hooks are functions of the module for Nomad."""
    own = {"gpu_nomad.drain": nomad.drain, "gpu_nomad.resume": nomad.resume}

    def call(name, args, kwargs):
        answer = on(host, own[name], *args, **kwargs)
        return {"result": None, **answer}

    with Engine(hosts.config(host)) as engine:
        engine.call = call
        return engine.apply(made)


def by_hand(host, change):
    """Somebody else does something with the node."""
    with host.change() as state:
        change(state["nomad"])


# -- around a change -------------------------------------------------------------------------------------------------------
def test_drain_cut_file_and_taking_back_come_in_this_order_once(node):
    host = node()
    result = apply(host, wanted())
    assert result.ok, result.errors
    assert asked(host) == ["drain -enable", "eligibility -enable"]
    first = next(line for line in host.state()["nomad"]["asked"] if line.startswith("drain"))
    assert first.startswith("drain -enable -yes -detach -no-deadline -m gpu-slicing: MIG layout (process ")
    assert known(host).state == "eligible" and hosts.shapes(host)[GPU] == ["1g.10gb"] * 3
    assert "ignored_gpu_ids    = []" in written(host) and set(known(host).devices) == set(on(host, nomad.told).given)
    assert host.state()["starts"][UNIT] == 1
    apply(host, wanted())
    assert len(asked(host)) == 2 and host.state()["starts"][UNIT] == 1


def test_a_cut_that_fails_takes_the_node_back_on_the_old_layout(node):
    host = node()
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    result = apply(host, wanted())
    assert not result.ok and hosts.shapes(host)[GPU] == []
    assert asked(host) == ["drain -enable", "eligibility -enable"] and known(host).eligible


def test_a_node_that_somebody_else_drained_is_cut_and_stays_drained(node):
    host = node()
    with Engine(hosts.config(host)) as engine:
        engine.host.run(["nomad", "node", "drain", "-enable", "-self", "-yes", "-m", "disk 3 is failing"])
    result = apply(host, wanted())
    assert result.ok and asked(host) == ["drain -enable"]
    assert on(host, nomad.resume)["comment"] == "Node n1 stays drained, which somebody else wants: disk 3 is failing."


def test_a_node_that_was_only_ineligible_is_drained_and_left_ineligible(node):
    host = node(eligible=False, busy=1)
    assert known(host).state == "ineligible" and not known(host).is_drained
    assert on(host, nomad.drain, within=60)["changes"] == {"n1": {"old": "ineligible", "new": "drained"}}
    answer = on(host, nomad.resume)
    assert answer["result"] and "stays drained, as it was before it was drained here" in answer["comment"]
    assert asked(host) == ["drain -enable"] and not known(host).eligible


def test_a_node_that_somebody_has_made_ineligible_after_it_was_taken_back_is_not_ours(node):
    host = node()
    on(host, nomad.drain)
    on(host, nomad.resume)
    by_hand(host, lambda told: program.mark(told, False))
    assert host.state()["nomad"]["last"]["Meta"]["gpu-slicing"]
    answer = on(host, nomad.resume)
    assert answer["result"] and "stays ineligible, which somebody else wants" in answer["comment"] and not known(host).eligible


def test_a_drain_of_ours_that_goes_on_is_ended(node):
    host = node(busy=9)
    assert not on(host, nomad.drain)["result"]
    answer = on(host, nomad.resume)
    assert answer["result"] and answer["changes"] == {"n1": {"old": "draining", "new": "eligible"}}
    assert asked(host) == ["drain -enable", "drain -disable"]


def test_jobs_are_waited_for_and_without_time_they_stop_the_change(node):
    host = node(busy=5)
    result = apply(host, wanted())
    assert not result.ok and hosts.shapes(host)[GPU] == []
    assert (
        "Node n1 was to have no jobs within 0 s, and is draining: jobs still run there. Wait longer ('within'), give a "
        "'deadline', or end them."
    ) in result.errors[0]
    assert known(host).eligible
    patient = {"before": [{"function": "gpu_nomad.drain", "kwargs": {"within": 600}, "timeout": 30}]}
    assert apply(host, wanted(**patient)).ok


def test_a_deadline_and_system_jobs_are_as_they_are_asked_for(node):
    host = node(busy=9)
    assert on(host, nomad.drain, within=60, deadline=300, system=False)["result"]
    assert "-deadline 300s -ignore-system" in next(line for line in host.state()["nomad"]["asked"] if "drain" in line)


def test_a_plugin_that_still_tells_what_is_gone_keeps_the_node_drained(node):
    host = node(period=40)
    known(host)
    result = apply(host, wanted(after=[{"function": "gpu_nomad.resume", "kwargs": {"path": FILE}, "timeout": 30}]))
    uuid = next(gpu["about"]["uuid"] for gpu in host.state()["gpus"].values() if gpu["about"]["address"] == GPU)
    assert not result.ok and hosts.shapes(host)[GPU] == ["1g.10gb"] * 3
    assert f"its plugin still tells what is gone or not to be given: {uuid}. It looks every" in result.errors[0]
    assert known(host).state == "drained"
    assert on(host, nomad.resume, within=400)["result"] and known(host).eligible


def test_what_became_quarantined_is_ignored_before_the_node_is_taken_back(node):
    host = node()
    assert apply(host, wanted()).ok
    part = hosts.listed(host)[0]
    with Engine(hosts.config(host)) as engine:
        quarantine.quarantined(engine, [part["name"]], "odd results")
    on(host, nomad.drain)
    answer = on(host, nomad.resume, path=FILE)
    assert answer["result"] is False and part["uuid"] in answer["comment"] and "start that anew ('unit')" in answer["comment"]
    assert "Nomad's agent reads it when it starts." in answer["comment"] and not known(host).eligible
    with Engine(hosts.config(host)) as engine:
        engine.host.run(["systemctl", "restart", UNIT])
    assert on(host, nomad.resume, path=FILE)["result"] and part["uuid"] not in known(host).devices


def test_an_agent_that_does_not_start_anew_or_is_no_service_is_told(node):
    host = node()
    on(host, nomad.drain)
    with pytest.raises(errors.PolicyError, match=r"unit is 'rm -rf', which is no service"):
        on(host, nomad.resume, path=FILE, unit="rm -rf")
    with pytest.raises(errors.ToolFailed, match=r"other.service was to start anew, .* not found.*call gpu_nomad.resume"):
        on(host, nomad.resume, path=FILE, unit="other.service")
    assert not known(host).eligible


def test_a_node_that_is_down_is_not_taken_back(node):
    host = node()
    on(host, nomad.drain)
    by_hand(host, lambda told: told.update(status="down"))
    answer = on(host, nomad.resume)
    assert answer["result"] is False and "is drained, down. See" in answer["comment"] and "eligibility -enable" not in asked(host)


def test_a_change_that_left_something_half_done_leaves_the_node_drained(node, monkeypatch):
    host = node()
    on(host, nomad.drain)
    monkeypatch.setenv("GPU_SLICING_RESULT", "failed")
    answer = on(host, nomad.resume)
    assert answer["result"] is False and "left something half done" in answer["comment"] and not known(host).eligible


def test_a_second_drain_and_a_second_resume_do_nothing(node):
    host = node()
    assert on(host, nomad.drain)["changes"] == {"n1": {"old": "eligible", "new": "drained"}}
    again = on(host, nomad.drain)
    assert again["result"] and not again["changes"] and "drained already (gpu-slicing: GPUs are sliced anew" in again["comment"]
    assert on(host, nomad.is_drained) and on(host, nomad.resume)["changes"] == {"n1": {"old": "drained", "new": "eligible"}}
    assert on(host, nomad.resume) == {"result": True, "changes": {}, "comment": "Node n1 takes jobs already."}
    assert not on(host, nomad.is_drained) and len(asked(host)) == 2


def test_a_test_asks_for_nothing(node):
    host = node()
    assert "result" not in on(host, nomad.drain, test=True) and asked(host) == []
    on(host, nomad.drain)
    assert "result" not in on(host, nomad.resume, path=FILE, unit=UNIT, test=True)
    assert len(asked(host)) == 1 and written(host) == ""
    assert "starts" not in host.state() or UNIT not in host.state()["starts"]
    assert on(host, nomad.drain, test=True)["result"]


FUNCTIONS = {"drain": nomad.drain, "resume": nomad.resume, "is_drained": nomad.is_drained}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("told", "kind", "said"),
    [
        ({"agent": "away"}, errors.ToolFailed, "connection refused.*Start Nomad's agent"),
        ({"agent": "server"}, errors.DeviceNotFound, "no such node: Nomad not running in client mode.*call it where Nomad's"),
        ({"agent": "garbled"}, errors.ToolFailed, "its answer describes no node"),
    ],
)
def test_an_agent_that_is_away_or_no_client_is_told_in_a_sentence(node, name, told, kind, said):
    host = node(**told)
    with pytest.raises(kind, match=said):
        on(host, FUNCTIONS[name])
    assert not host.state()["written"]


def test_an_agent_that_refuses_stops_the_change(node):
    host = node(agent="refuses")
    result = apply(host, wanted())
    assert not result.ok and hosts.shapes(host)[GPU] == [] and "Nothing was changed." in result.errors
    assert "to drain this node, and refused: Error updating drain specification" in result.errors[0]
    with pytest.raises(errors.ToolFailed, match=r"403 \(Permission denied\). Give the minion a NOMAD_TOKEN whose policy has"):
        on(host, nomad.drain)


def test_a_token_that_nomad_repeats_is_not_shown(simulated, monkeypatch):
    token = "5f2b0c7e-3c1d-4a58-9b0e-7d6a1c4e8f21"
    monkeypatch.setenv("NOMAD_TOKEN", token)
    repeats = {"nomad": {"exit": 1, "says": f"403: ACL token {token} not found"}}
    host = simulated("dgx-h100", gpus=GPUS, processes=[], programs=repeats)
    with pytest.raises(errors.ToolFailed, match=r"refused: 403: ACL token \(the token\) not found. Give the minion") as caught:
        on(host, nomad.drain)
    assert token not in str(caught.value)


def test_without_nomad_and_with_one_that_hangs_it_is_said_what_to_do(node, simulated):
    with pytest.raises(errors.ToolMissing, match=r"nomad was to be asked to know how this node is, and is not installed"):
        on(simulated("dgx-h100", gpus=GPUS, processes=[]), nomad.drain)
    host = node()
    host.add_fault({"call": "run", "error": "ETIMEDOUT"})
    with pytest.raises(errors.ToolHangs, match="did not end within 60 s"):
        on(host, nomad.drain)
    host.add_fault({"call": "run", "error": "EACCES"})
    with pytest.raises(errors.ToolFailed, match=r"^nomad was asked .*, and could not be started: Permission denied\. Mend"):
        on(host, nomad.drain)


@pytest.mark.parametrize("which", ["", "n1", "-force", "a", "00000000-0000", "g" * 36, "ab\n"])
def test_a_node_that_is_none_reaches_no_change(node, which):
    host = node()
    with pytest.raises((errors.PolicyError, errors.DeviceNotFound)):
        on(host, nomad.drain, node=which)
    assert asked(host) == []


def test_a_node_is_also_meant_by_its_id(node):
    host = node()
    assert on(host, nomad.drain, node=known(host).id)["result"] and on(host, nomad.is_drained, node=known(host).id[:8])


# -- what it is told -------------------------------------------------------------------------------------------------------
def test_what_is_quarantined_or_has_a_consumer_is_ignored(simulated):
    host = consumers.machine(simulated)
    assert hosts.apply(host, consumers.pillar(consumers.EACH)).ok
    with Engine(hosts.config(host)) as engine:
        free = next(part for part in engine.parts() if part.name not in engine.given())
        quarantine.quarantined(engine, [free.name], "odd results")
        given, uuids = engine.given(), {part.name: part.identity for part in engine.parts()}
    found = on(host, nomad.plugin_config)
    theirs = {uuids[part]: f"{part}: consumer {name} has it" for part, name in given.items()}
    assert theirs and found["ignored"] == {free.identity: f"{free.name}: quarantined: odd results", **theirs}
    assert sorted(found["ignored_gpu_ids"]) == sorted(found["ignored"]) and len(found["given"]) == 14 - len(found["ignored"])


def test_what_is_shared_is_ignored_and_a_gpu_in_mig_mode_without_devices_too(simulated, node):
    host = simulated("l4-pair")
    assert hosts.apply(host, pillars.for_gpu("0000:41:00.0", "time-slicing", {"max_instance_count": 2})).ok
    found = on(host, nomad.plugin_config)
    [why] = found["ignored"].values()
    assert why == "0000:41:00.0: 2 have shares of it by time-slicing, and Nomad gives it whole"
    assert list(found["given"].values()) == ["0000:a1:00.0"]
    found = on(node([{**GPUS[0], "mig": "enabled"}, GPUS[1]]), nomad.plugin_config)
    assert list(found["ignored"].values()) == [f"{GPU}: it has no slices, and nobody can use it as a whole"]


def test_a_gpu_whose_slices_are_for_virtual_machines_is_ignored(simulated):
    host = simulated("vgpu-host-vfio")
    assert hosts.apply(host, pillars.for_gpu("0000:41:00.0", "vgpu", {"profile": "H100XM-20C", "count": 2})).ok
    found = on(host, nomad.plugin_config)
    assert "0000:41:00.0: its slices are for virtual machines" in found["ignored"].values() and not found["given"]


@pytest.mark.parametrize(
    ("machine", "given"), [("mi300x-8", 0), ("mixed-vendors", None), ("vgpu-guest", None), ("no-gpu", 0), ("a30-pair", None)]
)
def test_every_machine_has_a_file(simulated, machine, given):
    host = simulated(machine)
    found = on(host, nomad.plugin_config)
    assert given is None or len(found["given"]) == given
    if machine == "mi300x-8":
        assert found["notes"] == ["GPUs of amd are none of this plugin's."]
    if machine == "vgpu-guest":
        assert found["given"] and not found["ignored"]
    text = on(host, nomad.text)
    assert text.startswith("# What Nomad must not give of this node") and text.endswith("  }\n}\n")


def test_a_gpu_that_can_t_be_read_is_no_file(node):
    host = node()
    with host.change() as state:
        state["gpus"][GPU]["health"]["lost"] = True
    with pytest.raises(errors.GpuSliceError, match=GPU):
        on(host, nomad.write, FILE)
    assert written(host) == ""


def test_a_file_of_somebody_else_is_not_written_over(node):
    host = node(files={FILE: 'plugin "nomad-device-nvidia" {}'})
    with pytest.raises(errors.ForeignChange, match="is a file of somebody else.*of two blocks of a plugin Nomad takes the last"):
        on(host, nomad.write, FILE)
    assert written(host) == ""


@pytest.mark.parametrize("path", ["gpu.hcl", "/etc/nomad.d/gpu.conf", "/etc/../home/x.hcl", "/tmp/x.hcl"])
def test_a_path_that_is_none_is_refused(node, path):
    with pytest.raises(errors.PolicyError, match="no path for Nomad's agent|is a simulated one"):
        on(node(), nomad.write, path)


@pytest.mark.parametrize(
    "more",
    [{"period": text} for text in ("1 minute", "0s", '1m"\n', "")] + [{"plugin": text} for text in ('a" {', "", "-x")],
)
def test_a_period_or_a_plugin_that_is_none_is_refused(node, more):
    host = node()
    with pytest.raises(errors.PolicyError, match="is no time|no name of a plugin"):
        on(host, nomad.write, FILE, **more)
    assert written(host) == ""


def test_a_disk_that_is_full_leaves_the_file(node):
    host = node()
    host.add_fault({"call": "store_write", "error": "ENOSPC"})
    with pytest.raises(errors.PermissionDenied, match=f"{FILE} was to be written for Nomad's device plugin: No space left"):
        on(host, nomad.write, FILE)
    assert written(host) == ""
