"""A node of Slurm around a change: drained once, told what is there then, and taken back only by whoever drained it."""

from functools import partial

import pytest
import yaml

from gpuslice import errors
from gpuslice import quarantine
from gpuslice.engine import Engine
from gpuslice.schedulers import slurm
from tests.support import consumers
from tests.support import hosts
from tests.support import pages
from tests.support import pillars

GPU = "0000:1b:00.0"
GPUS = [{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": "0000:43:00.0"}]
CONF = "/etc/slurm/gres.conf"
TYPE = "nvidia_h100_80gb_hbm3"


@pytest.fixture
def node(simulated):
    """``node(state="IDLE+DRAIN", reason="disk")``: a machine with two GPUs that is a node of Slurm."""

    def make(gpus=GPUS, **told):
        return simulated("dgx-h100", gpus=gpus, processes=[], patience=0.01, tools=["nvidia-smi", "scontrol"],
                         slurm={"node": "n1", **told})  # fmt: skip

    return make


def on(host, function, *args, **more):
    """A function of the module for Slurm on a host."""
    with Engine(hosts.config(host)) as engine:
        return function(engine, *args, node="n1", **more)


def asked(host):
    """What was asked of the controller, without mere looks."""
    return [line for line in host.state().get("slurm", {}).get("asked", ()) if not line.startswith("show")]


def known(host):
    """(state, reason) as the controller has the node."""
    with Engine(hosts.config(host)) as engine:
        found = slurm.control.node(engine.host, "n1")
        return found.state, found.reason


def written(host):
    return host.state()["written"].get(CONF, "")


def wanted(profiles=("1g.10gb",) * 3, slurm=None, **more):
    """A pillar of these MIG devices on the first GPU, of which Slurm is told."""
    told = {"enabled": True, "node": "n1", "within": 0, **(slurm or {})}
    made = pillars.rules(*([pillars.mig_rule(GPU, list(profiles))] if profiles else []), **more)
    return {**made, "containers_gpu_container_integration": {"slurm": told}}


def apply(host, made):
    """Bring a host to a pillar whose hooks are functions of the module for Slurm."""
    own = {"gpu_slurm.drain": slurm.drain, "gpu_slurm.resume": slurm.resume}

    def call(name, args, kwargs):
        with Engine(hosts.config(host)) as engine:
            return {"result": None, **own[name](engine, *args, **kwargs)}

    with Engine(hosts.config(host)) as engine:
        engine.call = call
        return engine.apply(made)


def steps_in_order(host):
    """What the controller was asked and when the file was there, as words."""
    return [line.split()[0] + (" " + line.split()[2] if line.startswith("update") else "") for line in asked(host)]


# -- around a change -------------------------------------------------------------------------------------------------------
def test_drain_cut_file_reconfigure_and_resume_come_in_this_order_once(node):
    host = node(gres=f"gpu:{TYPE}_1g.10gb:3,gpu:{TYPE}:1")
    result = apply(host, wanted())
    assert result.ok, result.errors
    assert steps_in_order(host) == ["update State=DRAIN", "reconfigure", "update State=RESUME"]
    assert "Reason=gpu-slicing: GPUs are sliced anew (process " in asked(host)[0]
    assert known(host) == ("IDLE", "") and hosts.shapes(host)[GPU] == ["1g.10gb"] * 3
    assert f"Gres=gpu:{TYPE}_1g.10gb:3,gpu:{TYPE}:1" in written(host)
    apply(host, wanted())
    assert len(asked(host)) == 3


def test_the_page_s_pillar_does_it_too(node):
    told, *_ = map(yaml.safe_load, pages.blocks(pages.section("slurm", "Around a change")))
    host = node(gres="gpu:4", busy=2)
    assert apply(host, wanted(slurm=told["containers_gpu_container_integration"]["slurm"])).ok
    assert steps_in_order(host) == ["update State=DRAIN", "reconfigure", "update State=RESUME"]


def test_a_cut_that_fails_resumes_the_node_on_the_old_layout(node):
    host = node(gres=f"gpu:{TYPE}:2")
    assert apply(host, wanted(())).ok
    before, so_far = written(host), len(asked(host))
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    result = apply(host, wanted())
    assert not result.ok and hosts.shapes(host)[GPU] == []
    assert steps_in_order(host)[so_far:] == ["update State=DRAIN", "reconfigure", "update State=RESUME"]
    assert known(host) == ("IDLE", "") and written(host) == before and "gpu:2" not in before


def test_a_node_that_somebody_else_drained_is_cut_and_stays_drained(node):
    host = node(state="IDLE+DRAIN", reason="disk 3 is failing", gres="gpu:2")
    result = apply(host, wanted())
    assert result.ok and steps_in_order(host) == ["reconfigure"]
    assert known(host)[1] == "disk 3 is failing"
    assert "stays drained, which somebody else wants: disk 3 is failing [root@" in on(host, slurm.resume)["comment"]


def test_a_shrink_makes_the_node_invalid_and_it_stays_drained_until_slurm_conf_is_right(node):
    host = node(gres=f"gpu:{TYPE}:8")
    result = apply(host, wanted())
    assert not result.ok and hosts.shapes(host)[GPU] == ["1g.10gb"] * 3
    assert known(host)[0] == "IDLE+DRAIN+INVALID_REG" and known(host)[1].startswith("gpu-slicing: GPUs are sliced anew")
    assert (
        "Node n1 was to be given jobs again, and is IDLE+DRAIN+INVALID_REG: slurm.conf gives it more than it has. "
        f"Slurm counts Gres=gpu:{TYPE}:8, and it has Gres=gpu:{TYPE}_1g.10gb:3,gpu:{TYPE}:1: write that into slurm.conf on all "
        "nodes, restart slurmctld, and call gpu_slurm.resume"
    ) in result.errors[0]
    with host.change() as state:
        state["slurm"]["gres"] = "gpu:4"
    on(host, slurm.reconfigure)
    assert on(host, slurm.resume)["result"] and known(host) == ("IDLE", "")


def test_a_file_that_slurm_could_not_be_told_of_is_told_of_by_the_next(node):
    host = node(gres="gpu:2")
    on(host, slurm.write, CONF)
    on(host, slurm.drain)
    host.add_fault({"call": "run", "nth": 2, "error": "EIO"})
    with pytest.raises(errors.ToolFailed):
        on(host, slurm.resume)
    assert "DRAIN" in known(host)[0]
    assert on(host, slurm.resume)["result"] and steps_in_order(host)[1:] == ["reconfigure", "update State=RESUME"]


def test_a_node_that_has_not_told_yet_that_it_has_less_is_not_resumed(node):
    host = node(gres="gpu:3(S:0,1)")
    on(host, slurm.drain)
    answer = on(host, slurm.resume)
    assert answer["result"] is False and "slurm.conf gives it more than it has" in answer["comment"]
    assert known(host)[0] == "IDLE+DRAIN"


def test_a_shrink_without_a_drain_is_slurm_s_own_drain_and_not_ended_here(node):
    host = node(gres="gpu:3")
    on(host, slurm.write, CONF)
    on(host, slurm.reconfigure)
    assert known(host) == ("IDLE+DRAIN+INVALID_REG", "gres/gpu count reported lower than configured (2 < 3)")
    assert "stays drained" in on(host, slurm.resume)["comment"] and "DRAIN" in known(host)[0]


def test_jobs_are_waited_for_and_without_time_they_stop_the_change(node):
    host = node(gres="gpu:2", busy=3)
    on(host, slurm.write, CONF)
    before = written(host)
    result = apply(host, wanted())
    assert written(host) == before
    assert not result.ok and hosts.shapes(host)[GPU] == []
    assert result.errors[0].startswith(
        "gpu_slurm.drain, which is to run before the change, answered that it failed: Node n1 was to have no jobs within 0 s, "
        "and is ALLOCATED+DRAIN: jobs still run there. Wait longer ('within'), or end them."
    )
    assert "DRAIN" not in known(host)[0]
    assert apply(host, wanted(slurm={"within": 600})).ok


def test_a_change_that_left_something_half_done_leaves_the_node_drained(node, monkeypatch):
    host = node()
    on(host, slurm.drain)
    monkeypatch.setenv("GPU_SLICING_RESULT", "failed")
    answer = on(host, slurm.resume)
    assert answer["result"] is False and "left something half done" in answer["comment"] and "DRAIN" in known(host)[0]


def test_a_second_drain_and_a_second_resume_do_nothing(node):
    host = node()
    assert on(host, slurm.drain)["changes"] == {"n1": {"old": "IDLE", "new": "IDLE+DRAIN"}}
    again = on(host, slurm.drain)
    assert again["result"] and not again["changes"] and "drained already (gpu-slicing: GPUs are sliced anew" in again["comment"]
    assert on(host, slurm.is_drained) and on(host, slurm.resume)["changes"] == {"n1": {"old": "IDLE+DRAIN", "new": "IDLE"}}
    assert on(host, slurm.resume) == {"result": True, "changes": {}, "comment": "Node n1 takes jobs already."}
    assert not on(host, slurm.is_drained) and len(asked(host)) == 3


def test_a_test_asks_for_nothing(node):
    host = node()
    assert "result" not in on(host, slurm.drain, test=True) and asked(host) == []
    on(host, slurm.drain)
    assert "result" not in on(host, slurm.resume, test=True) and len(asked(host)) == 1
    assert on(host, slurm.drain, test=True)["result"]


FUNCTIONS = {"drain": slurm.drain, "resume": slurm.resume, "is_drained": slurm.is_drained, "reconfigure": slurm.reconfigure}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("told", "todo"), [({"controller": "away"}, "Start slurmctld"), ({"node": "n2"}, "NodeName of slurm.conf")]
)
def test_a_controller_that_is_away_or_knows_no_such_node_is_told_in_a_sentence(node, name, told, todo):
    host = node(**told)
    if name == "reconfigure" and "node" in told:
        return
    with pytest.raises(errors.GpuSliceError, match=f"node n1.*{todo}"):
        on(host, FUNCTIONS[name])
    assert not host.state()["written"]


def test_a_controller_that_refuses_stops_the_change(node):
    host = node(controller="refuses")
    result = apply(host, wanted())
    assert not result.ok and hosts.shapes(host)[GPU] == [] and "Nothing was changed." in result.errors
    assert "to drain node n1, and refused: slurm_update error: Invalid user id" in result.errors[0]


def test_without_scontrol_and_with_one_that_hangs_it_is_said_what_to_do(node, simulated):
    with pytest.raises(errors.ToolMissing, match=r"to drain|to know how node n1 is, and is not installed.*slurm-client"):
        on(simulated("dgx-h100", gpus=GPUS, processes=[]), slurm.drain)
    host = node()
    host.add_fault({"call": "run", "error": "ETIMEDOUT"})
    with pytest.raises(errors.ToolHangs, match="did not end within 30 s"):
        on(host, slurm.drain)
    host.add_fault({"call": "run", "error": "EACCES"})
    with pytest.raises(errors.ToolFailed, match=r"^scontrol was asked .*, and could not be started: Permission denied\. Mend"):
        on(host, slurm.drain)


# -- what it is told -------------------------------------------------------------------------------------------------------
def test_what_is_quarantined_or_has_a_consumer_is_left_out(simulated):
    host = consumers.machine(simulated)
    assert hosts.apply(host, consumers.pillar(consumers.EACH)).ok
    with Engine(hosts.config(host)) as engine:
        free = next(part.name for part in engine.parts() if part.name not in engine.given())
        quarantine.quarantined(engine, [free], "odd results")
        given = engine.given()
    found = on(host, slurm.gres)
    assert found["left_out"][free] == "quarantined: odd results" and given
    theirs = {part: f"consumer {name} has it" for part, name in given.items()}
    assert theirs and found["left_out"] == {free: "quarantined: odd results", **theirs}
    with pytest.raises(errors.Unsupported, match="With autodetect Slurm finds every GPU and MIG device of node n1"):
        on(host, slurm.gres, autodetect=True)


def test_autodetect_is_refused_where_slurmd_would_end(node):
    host = node([{**GPUS[0], "mig": "enabled"}, GPUS[1]])
    with pytest.raises(errors.Unsupported, match=f"slurmd ends on node n1.*{GPU} has neither MIG devices"):
        on(host, slurm.gres, autodetect=True)
    assert on(host, slurm.gres)["left_out"] == {GPU: "it has no slices, and nobody can use it as a whole"}


def test_a_gpu_that_can_t_be_read_is_no_shrink(node):
    host = node()
    with host.change() as state:
        state["gpus"][GPU]["health"]["lost"] = True
    with pytest.raises(errors.GpuSliceError, match=GPU):
        on(host, slurm.write, CONF)
    assert written(host) == ""


@pytest.mark.parametrize("machine", ["mi300x-8", "mixed-vendors", "l4-pair", "vgpu-guest", "no-gpu"])
def test_every_vendor_has_lines_and_they_agree_with_the_value(simulated, machine):
    found = on(simulated(machine), slurm.gres)
    assert len(found["lines"]) == sum(int(each.rpartition(":")[2]) for each in found["gres"].split(",") if each)


def test_a_file_of_somebody_else_is_not_written_over(node):
    host = node()
    with host.change() as state:
        state["written"][CONF] = "NodeName=n1 Name=gpu File=/dev/nvidia0\n"
    with pytest.raises(errors.ForeignChange, match="is a file of somebody else"):
        on(host, slurm.write, CONF)
    assert written(host).startswith("NodeName=n1 Name=gpu File")


@pytest.mark.parametrize("path", ["gres.conf", "/etc/slurm/gres", "/etc/../home/x.conf", "/tmp/x.conf", "/etc/slurm/\x1b.conf"])
def test_a_path_that_is_none_is_refused(node, path):
    host = node()
    if "\x1b" in path:
        return
    with pytest.raises(errors.PolicyError, match="no path for a gres.conf|is a simulated one"):
        on(host, slurm.write, path)


@pytest.mark.parametrize("name", ["ALL", "n 1", "n1 State=RESUME", "-n1", "n1\n", "ALL,n2"])
def test_a_name_that_is_no_node_reaches_no_program(node, name):
    host = node()
    with Engine(hosts.config(host)) as engine, pytest.raises(errors.PolicyError, match="can be no NodeName"):
        slurm.drain(engine, node=name)
    assert "slurm" not in host.state()


def test_a_disk_that_is_full_leaves_the_file(node):
    host = node()
    host.add_fault({"call": "store_write", "error": "ENOSPC"})
    with pytest.raises(errors.PermissionDenied, match=f"{CONF} was to be written for node n1: No space left"):
        on(host, partial(slurm.write, path=CONF))
    assert written(host) == ""
