"""NVIDIA's container toolkit and nvidia-modprobe on a simulated machine: what they say, make and refuse."""

import json

import pytest

from gpuslice import errors
from gpuslice.sim import toolkit

GPU = {"model": "h100-80gb", "address": "0000:1b:00.0"}
CUT = {**GPU, "mig": "enabled", "instances": [{"profile": "1g.10gb", "start": 0}]}
EMPTY = {**GPU, "mig": "enabled"}
TOOLS = {"tools": ["nvidia-ctk", "nvidia-modprobe", "systemctl"]}
CAPABILITY = "/proc/driver/nvidia/capabilities/gpu0/mig/gi7/access"
NODE = "/dev/nvidia-caps/nvidia-cap66"


def generate(host, *arguments):
    """(exit status, what it printed as a dict or its errors)."""
    done = host.run(["/usr/bin/nvidia-ctk", "--quiet", "cdi", "generate", *arguments])
    return (0, json.loads(done.stdout)) if not done.returncode else (done.returncode, done.stderr)


def nodes(spec, name):
    """The nodes of a device."""
    edits = next(device["containerEdits"] for device in spec["devices"] if device["name"] == name)
    return [node["path"] for node in edits["deviceNodes"]]


def test_devices_are_named_by_index_and_uuid(simulated):
    host = simulated("dgx-h100", gpus=[{**GPU, "uuid": "GPU-1"}, {**CUT, "address": "0000:43:00.0"}], **TOOLS)
    _, spec = generate(host)
    names = [device["name"] for device in spec["devices"]]
    assert names[:3] == ["0", "GPU-1", "1:0"] and names[3].startswith("MIG-") and names[4:] == ["all"]
    assert nodes(spec, "1:0") == ["/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap201", "/dev/nvidia-caps/nvidia-cap202"]
    assert spec["kind"] == "nvidia.com/gpu" and spec["cdiVersion"] == "0.5.0"


def test_a_node_that_is_not_there_is_left_out_without_a_word(simulated):
    host = simulated("dgx-h100", gpus=[CUT], capability_nodes="missing", **TOOLS)
    assert nodes(generate(host)[1], "0:0") == ["/dev/nvidia0"]
    assert host.run(["nvidia-modprobe", "-f", CAPABILITY]).returncode == 0
    assert nodes(generate(host)[1], "0:0") == ["/dev/nvidia0", NODE]


def test_without_any_device_it_fails_but_for_none(simulated):
    host = simulated("dgx-h100", gpus=[EMPTY], **TOOLS)
    code, said = generate(host)
    assert code == 1 and "empty device edits" in said
    _, spec = generate(host, "--device-id", "none")
    assert [device["name"] for device in spec["devices"]] == ["none"] and spec["containerEdits"]["mounts"]


def test_an_older_one_does_not_know_the_option(simulated):
    code, said = generate(simulated("dgx-h100", toolkit="1.18.1", **TOOLS), "--device-id", "none")
    assert code == 1 and "flag provided but not defined: -device-id" in said


@pytest.mark.parametrize(
    ("driver", "word"),
    [
        ({"loaded": False}, "DRIVER_NOT_LOADED"), ({"library": "missing"}, "LIBRARY_NOT_FOUND"),
        ({"library_version": "570.1"}, "LIB_RM_VERSION_MISMATCH"),
    ],
)  # fmt: skip
def test_without_nvml_it_fails(simulated, driver, word):
    code, said = generate(simulated("dgx-h100", driver=driver, **TOOLS), "--device-id", "none")
    assert code == 1 and word in said


def test_what_it_does_not_know_is_told(simulated):
    host = simulated("dgx-h100", **TOOLS)
    assert "does not know" in host.run(["nvidia-ctk", "runtime", "configure"]).stderr
    assert "does not know" in host.run(["nvidia-modprobe", "-x"]).stderr
    assert host.run(["nvidia-ctk", "--version"]).stdout.startswith("NVIDIA Container Toolkit CLI version 1.20.0\n")


def test_a_host_of_before_has_neither(simulated):
    host = simulated("mi300x-8")
    assert not host.exists("/usr/bin/nvidia-ctk")
    for program in ("nvidia-ctk", "nvidia-modprobe"):
        with pytest.raises(errors.ToolMissing):
            host.run([program, "--version"])


def test_a_toolkit_of_no_version_is_a_mistake(simulated):
    with pytest.raises(errors.PolicyError, match="toolkit: 'new' is no version such as 1.20.0"):
        simulated("dgx-h100", toolkit="new")


# -- the service -----------------------------------------------------------------------------------------------------------
def test_the_service_writes_the_vendors_file_or_fails_and_leaves_it(simulated):
    host = simulated("dgx-h100", gpus=[GPU], units=[toolkit.REFRESH], **TOOLS)
    assert host.exists(f"/etc/systemd/system/multi-user.target.wants/{toolkit.REFRESH}")
    assert host.run(["systemctl", "restart", toolkit.REFRESH]).returncode == 0
    before = host.read("/var/run/cdi/nvidia.yaml")
    assert host.read(toolkit.SPEC) == before and host.listdir("/var/run/cdi") == ["nvidia.yaml"]
    with host.change() as state:
        state["gpus"][GPU["address"]]["mode"] = 1
    done = host.run(["systemctl", "restart", toolkit.REFRESH])
    assert done.returncode == 1 and "failed because the control process exited" in done.stderr
    assert host.read(toolkit.SPEC) == before
    host.reboot()
    assert not host.exists(toolkit.SPEC)


# -- nodes -----------------------------------------------------------------------------------------------------------------
def test_a_node_stays_when_its_instance_goes_and_goes_at_a_boot(simulated):
    host = simulated("dgx-h100", gpus=[CUT], capability_nodes="missing", **TOOLS)
    assert not host.exists(NODE)
    host.run(["nvidia-modprobe", "-f", CAPABILITY])
    with host.change() as state:
        state["gpus"][GPU["address"]]["gis"] = {}
    assert host.device_number(NODE) == "235:66" and not host.exists(CAPABILITY)
    host.reboot()
    assert not host.exists(NODE)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/proc/driver/nvidia/./version", "/proc/driver/nvidia/capabilities/gpu0/mig/gi3/access"]
)
def test_a_file_that_is_no_capability_makes_no_node(simulated, path):
    host = simulated("dgx-h100", gpus=[CUT], capability_nodes="missing", **TOOLS)
    assert host.run(["nvidia-modprobe", "-f", path]).returncode == 1
    assert host.state().get("made_caps", []) == []


def test_without_root_no_node_is_made(simulated):
    host = simulated("dgx-h100", gpus=[CUT], capability_nodes="missing", privileged=False, **TOOLS)
    assert host.run(["nvidia-modprobe", "-f", CAPABILITY]).returncode == 1 and not host.exists(NODE)


def test_var_run_is_run(simulated):
    host = simulated("dgx-h100")
    host.store_write("/var/run/cdi/x.json", "{}")
    assert host.read("/run/cdi/x.json") == "{}"
    host.store_remove("/var/run/cdi/x.json")
    assert host.listdir("/run/cdi") == []


# -- stamps ----------------------------------------------------------------------------------------------------------------
def test_a_file_that_is_replaced_has_another_stamp(simulated):
    host = simulated("dgx-h100", files={"/etc/a": "1"})
    first = host.stamp("/etc/a")
    host.store_write("/etc/a", "2")
    assert first and host.stamp("/etc/a") not in ("", first)
    assert host.stamp("/etc/none") == host.stamp("/etc") == ""
