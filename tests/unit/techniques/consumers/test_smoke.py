"""The smoke test of a consumer on described hosts, whose units and containers open what their files really say."""

import json

import pytest

from gpuslice import errors
from gpuslice.boot.replay import replay
from gpuslice.engine import Engine
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node
from gpuslice.techniques.consumers import smoke
from tests.support import hosts
from tests.support import served as described
from tests.support.served import CONSUMERS
from tests.support.served import IMAGE

NAMES = "/run/cdi/gpu-slicing-consumer.json"
DROP_IN = "/etc/systemd/system/trainer.service.d/50-gpu-slicing.conf"


def attempt(host, name, image=""):
    with Engine(hosts.config(host)) as engine:
        return smoke.smoke_test(engine.host, engine.handed("consumers"), name, image)


def caps(nodes):
    return [node for node in nodes if "nvidia-cap" in node]


@pytest.mark.parametrize("name", CONSUMERS)
def test_each_kind_opens_its_slice_and_no_other(served, name):
    host = served()
    seen = attempt(host, name, IMAGE if name == "name" else "")
    assert seen["result"] and seen["wrong"] == [] and "unsupported" not in seen
    assert seen["opened"][:2] == ["/dev/nvidiactl", "/dev/nvidia-uvm"] and len(caps(seen["opened"])) == 2
    # The other GPU, and the capabilities of the seven other slices.
    assert len(caps(seen["refused"])) == 14 and len(seen["refused"]) == 15


def changed(host, path, change):
    with host.change() as state:
        state["written"][path] = change(state["written"][path])


def test_a_drop_in_that_opens_more_is_found_out(served):
    host = served()
    other = next(node for node in attempt(host, "daemon")["refused"] if "nvidia-cap" not in node)
    changed(host, DROP_IN, lambda text: f"{text}DeviceAllow={other} rw\n")
    seen = attempt(host, "daemon")
    assert seen["result"] is False
    todo = "Run 'salt-call gpu_consumer.check' for this consumer."
    assert seen["wrong"] == [f"{other} is of another slice, and can be opened. {todo}"]


def test_a_drop_in_that_another_one_defeats_is_found_out(served):
    host = served()
    with host.change() as state:
        state["written"]["/etc/systemd/system/trainer.service.d/override.conf"] = "[Service]\nPrivateDevices=yes\n"
    seen = attempt(host, "daemon")
    assert seen["opened"] == [] and len(seen["wrong"]) == 5
    assert seen["wrong"][0] == "/dev/nvidiactl belongs to its slice and can't be opened (rw): it is not there."


def swapped(text):
    """The names of CDI with what opens two of them exchanged."""
    spec = json.loads(text)
    first, second = (each for each in spec["devices"] if each["name"] in ("box", "name"))
    first["containerEdits"], second["containerEdits"] = second["containerEdits"], first["containerEdits"]
    return json.dumps(spec)


def test_a_name_that_opens_another_slice_is_found_out(served):
    host = served()
    changed(host, NAMES, swapped)
    wrong = attempt(host, "box")["wrong"]
    assert [sentence for sentence in wrong if "belongs to its slice" in sentence and "nvidia-cap" in sentence]
    assert [sentence for sentence in wrong if "is of another slice, and can be opened" in sentence]


def test_a_unit_that_names_somebody_else_is_found_out(served):
    host = served()
    path = "/etc/containers/systemd/gpu-slicing-box.container"
    changed(host, path, lambda text: text.replace("gpu-slicing/consumer=box", "gpu-slicing/consumer=name"))
    assert attempt(host, "box")["result"] is False


def test_what_does_not_start_is_told_in_its_own_words(served):
    host = served()
    with host.change() as state:
        del state["written"][NAMES]
    (said,) = attempt(host, "box")["wrong"]
    assert said == (
        "What was to open the nodes did not run: "
        "Error: setting up CDI devices: unresolvable CDI devices gpu-slicing/consumer=box."
    )


def test_what_can_not_be_tried_says_why(served):
    host = served()
    seen = attempt(host, "name")
    assert seen == {
        "result": False, "opened": [], "refused": [], "wrong": [],
        "unsupported": "Consumer name has no image of its own that could be started. Name one with a shell: 'image='.",
    }  # fmt: skip
    with host.change() as state:
        state["host"]["tools"] = ["lspci", "nvidia-smi", "modprobe", "systemctl"]
    assert "Podman is not installed" in attempt(host, "box")["unsupported"]
    with pytest.raises(errors.PolicyError, match="There is no consumer nobody"):
        attempt(host, "nobody")


def test_a_consumer_without_nodes_can_not_be_tried(simulated):
    with pytest.raises(errors.Unsupported, match="nothing to open"):
        smoke.run(simulated("a30-pair"), Consumer("a"), Device("a"), ())


@pytest.mark.parametrize("folder", ["/run/containers/systemd", "/etc/containers/systemd", "/usr/share/containers/systemd"])
def test_an_adopted_unit_is_tried_with_its_own_image(served, folder):
    unit = {f"{folder}/job.container": f"[Container]\nImage={IMAGE}\nAddDevice=nvidia.com/gpu=all\n"}
    host = served(unit, {"job": {"kind": "container", "unit": "job.container", "slice": "1g.6gb"}})
    assert attempt(host, "job")["result"] is True


# -- in a change -----------------------------------------------------------------------------------------------------------
def tries(plan):
    return [line.strip().partition(". ")[2] for line in plan.text().splitlines() if "opens its slice and no other" in line]


def test_it_is_the_last_step_for_those_whose_slice_is_another_one(simulated):
    host = described.host(simulated)
    with Engine(hosts.config(host)) as engine:
        assert tries(engine.plan(described.pillar())) == []
        assert tries(engine.plan(described.pillar(smoke_test=True))) == [
            f"try whether {name} opens its slice and no other" for name in ("box", "hers", "daemon", "jane")
        ]
    assert hosts.apply(host, described.pillar(smoke_test=True)).errors == []
    with Engine(hosts.config(host)) as engine:
        assert engine.plan(described.pillar(smoke_test=True)).empty
        more = described.pillar({**CONSUMERS, "new": CONSUMERS["box"]}, smoke_test=True)
        assert tries(engine.plan(more)) == ["try whether new opens its slice and no other"]


def test_its_failure_undoes_the_change_to_the_top(simulated):
    host = described.host(simulated, owners={"/dev/nvidia0": "0:0:0600", "/dev/nvidia1": "0:0:0600"})
    before = hosts.slices(host)
    result = hosts.apply(host, described.pillar(smoke_test=True))
    assert "(try whether hers opens its slice and no other) failed: The smoke test of consumer hers failed" in result.errors[0]
    assert "its owner and mode, or a security profile, deny it" in result.errors[0]
    assert result.errors[-1] == "Everything that was done has been undone; the host is as it was."
    assert hosts.slices(host).keys() == before.keys() and hosts.closed(host)
    assert [path for path in host.state()["written"] if "gpu-slicing" in path] == []


def test_who_can_not_be_tried_is_told_and_holds_nothing_up(simulated):
    host = described.host(simulated)
    with host.change() as state:
        state["host"]["images"] = {}
        state["written"]["/etc/containers/systemd/job.container"] = "[Container]\nImage=localhost/job:1\n"
    consumers = {"job": {"kind": "container", "unit": "job.container", "slice": "1g.6gb"}}
    asked = described.pillar(consumers, smoke_test=True)
    result = hosts.apply(host, asked)
    assert result.errors == [] and result.warnings
    assert any("Consumer job was not tried" in each for each in result.warnings), result.warnings


def test_a_boot_tries_nothing(simulated):
    """What is tried may wait for the unit of the boot itself. Here it would fail."""
    host = described.host(simulated)
    assert hosts.apply(host, described.pillar(smoke_test=True)).errors == []
    host.reboot()
    with host.change() as state:
        state["host"]["owners"] = {f"/dev/nvidia{number}": "0:0:0600" for number in (0, 1)}
    with Engine(hosts.config(host)) as engine:
        assert replay(engine, wait=0)["result"] is True
    assert NAMES in host.state()["written"] and attempt(host, "jane")["result"] is False


# -- what is read of its answers -------------------------------------------------------------------------------------------
def test_a_driver_that_answers_was_reached(simulated):
    """A node that is busy, or behind which no device is, was opened as far as any filter is concerned."""
    own, other = [Node("/dev/vfio/7"), Node("/dev/nvidia0", "r")], [Node("/dev/vfio/8")]
    said = {
        ("/dev/vfio/7", "rw"): "Device or resource busy", ("/dev/nvidia0", "r"): "",
        ("/dev/vfio/8", "r"): "Permission denied", ("/dev/vfio/8", "rw"): "Operation not permitted",
    }  # fmt: skip
    assert smoke.judged(own, other, said) == smoke.Seen(["/dev/vfio/7", "/dev/nvidia0"], ["/dev/vfio/8"], [])
    said["/dev/vfio/8", "r"] = "Device or resource busy"
    assert "/dev/vfio/8 is of another slice" in smoke.judged(own, other, said).wrong[0]
    assert "nothing was said of it" in smoke.judged([Node("/dev/kfd")], (), {}).wrong[0]
