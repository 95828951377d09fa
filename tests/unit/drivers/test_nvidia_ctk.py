"""The driver's part of CDI files: what nvidia-ctk is asked, what is taken of it, and what is written where it fails."""

import json

import pytest

from gpuslice import errors
from gpuslice.drivers import nvidia_ctk
from gpuslice.host.base import Completed
from gpuslice.outputs import cdi
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node
from gpuslice.sim.host import SimulatedHost

TOOLS = ["lspci", "nvidia-smi", "systemctl", "modprobe", "nvidia-ctk"]
PROGRAM = "/usr/bin/nvidia-ctk"
VOID = "NVIDIA_VISIBLE_DEVICES=void"


class Watched(SimulatedHost):
    """A host that notes what is run, and on which a program answers what a test says."""

    answer, asked = None, ()

    def run(self, argv, timeout=60):
        self.asked = (*self.asked, argv)
        if self.answer is not None and "--version" not in argv:
            return self.answer
        return super().run(argv, timeout)


@pytest.fixture
def made(simulated):
    """``made(toolkit="1.18.1")``: a host with the toolkit."""

    def make(name="dgx-h100", **changes):
        plain = simulated(name, **{"tools": TOOLS, **changes})
        return Watched(plain.description_path, plain.state_dir)

    return make


def test_a_newer_tool_is_asked_for_no_device(made):
    host = made()
    found = nvidia_ctk.part(host)
    assert host.asked == (
        [PROGRAM, "--version"],
        [
            PROGRAM, "--quiet", "cdi", "generate", "--mode", "nvml", "--device-id", "none",
            "--feature-flag", "no-additional-gids-for-device-nodes", "--format", "json",
        ],
    )  # fmt: skip
    assert (found.said, found.version) == ("", "0.5.0")


def test_an_older_tool_is_asked_for_all_of_which_the_drivers_part_is_taken(made):
    host = made(toolkit="1.18.2")
    found = nvidia_ctk.part(host)
    assert host.asked[1][5:] == ["nvml", "--format", "json"]
    assert found.said == "" and found.edits == nvidia_ctk.part(made()).edits


def test_nodes_are_those_that_every_slice_needs_with_no_more_rights_than_that(made):
    edits = nvidia_ctk.part(made()).edits
    assert edits["deviceNodes"] == [
        {"path": "/dev/nvidia-uvm", "permissions": "rw"}, {"path": "/dev/nvidiactl", "permissions": "rw"}
    ]  # fmt: skip
    assert edits["env"] == [VOID, "NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu"]
    assert edits["mounts"][0]["hostPath"].endswith("libcuda.so.580.95.05")
    assert edits["hooks"][0]["path"] == "/usr/bin/nvidia-cdi-hook"


def test_no_node_of_a_gpu_and_no_empty_field_is_taken(made):
    host = made()
    paths = ["/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap1", "/dev/dri/card0", "/dev/nvidiactl"]
    nodes = [{"path": path, "hostPath": f"/run/driver{path}", "major": 195, "permissions": "rwm"} for path in paths]
    edits = {"deviceNodes": nodes, "mounts": [], "hooks": None, "additionalGids": [44]}
    host.answer = Completed(0, json.dumps({"cdiVersion": "0.7.0", "containerEdits": edits}))
    found = nvidia_ctk.part(host)
    assert found.edits == {
        "env": [VOID],
        "deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/run/driver/dev/nvidiactl", "permissions": "rw"}],
        "additionalGids": [44],
    }
    assert found.version == "0.7.0"


def test_what_it_says_makes_a_file_of_the_lowest_version(made):
    found = nvidia_ctk.part(made())
    (file,) = cdi.files([], [Device("trainer", (Node("/dev/nvidia0"),))], cdi.Common(found.edits, found.version))
    assert json.loads(file.text)["cdiVersion"] == "0.3.0"


# -- when it is asked ------------------------------------------------------------------------------------------------------
def test_a_converged_run_starts_no_program(made):
    host = made()
    first = nvidia_ctk.part(host)
    host.asked = ()
    assert nvidia_ctk.part(host, first) == first and host.asked == ()


def test_the_key_changes_with_driver_tool_and_sockets(made):
    keys = [nvidia_ctk.key(host) for host in (
        made(), made(driver={"version": "580.105.08"}), made(toolkit="1.20.1"),
        made(files={"/run/nvidia-persistenced/socket": ""}), made(files={"/run/nvidia-fabricmanager/socket": ""}),
    )]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert keys[0].startswith("580.95.05 ") and keys[3].endswith(" nvidia-persistenced")
    assert nvidia_ctk.key(made(tools=["lspci"])) == ""


def test_a_driver_that_tells_its_version_elsewhere_is_known(made):
    host = made()
    with host.change() as state:
        state["host"]["driver"]["version"] = "570.86.15"
    assert nvidia_ctk.key(host).startswith("570.86.15 ")
    assert nvidia_ctk.key(made(driver={"loaded": False})).startswith("none ")


# -- when it fails ---------------------------------------------------------------------------------------------------------
def test_without_the_tool_the_older_hook_is_kept_off_and_it_is_said(made):
    host = made(tools=["lspci"])
    found = nvidia_ctk.part(host)
    assert found[:3] == ("", {"env": [VOID]}, "0.3.0") and host.asked == ()
    assert found.said == (
        "nvidia-ctk is not installed, so nobody tells which libraries of NVIDIA's driver a container needs. "
        "Install the package nvidia-container-toolkit-base. "
        "Until then an image has to bring the libraries of the driver itself."
    )


def test_what_it_said_before_stays_while_driver_and_tool_are_the_same(made):
    host = made()
    first = nvidia_ctk.part(host)
    host.answer = Completed(1, "", "boom")
    changed = first._replace(key=f"{first.key}nvidia-persistenced")
    found = nvidia_ctk.part(host, changed)
    assert found[:3] == changed[:3]
    assert found.said == (
        "'nvidia-ctk cdi generate' failed: boom. Run 'nvidia-ctk --debug cdi generate' to see more. "
        "What it said before, for the same driver, stays."
    )
    assert nvidia_ctk.part(host, first._replace(key="570.1 " + first.key.split(" ", 1)[1])).edits == {"env": [VOID]}


def test_the_newer_tool_needs_no_slice_and_the_older_says_what_it_needs(made):
    gpus = [{"model": "h100-80gb", "address": "0000:1b:00.0", "mig": "enabled"}]
    assert nvidia_ctk.part(made(gpus=gpus)).said == ""
    found = nvidia_ctk.part(made(gpus=gpus, toolkit="1.17.8"))
    assert found.edits == {"env": [VOID]}
    assert 'CDI spec: invalid device "all": invalid device, empty device edits. It finds no device' in found.said
    assert "install toolkit 1.19 or newer" in found.said


@pytest.mark.parametrize("driver", [{"loaded": False}, {"library": "missing"}])
def test_a_driver_that_is_not_there_is_told(made, driver):
    with pytest.raises(errors.ToolFailed, match="failed to initialize NVML: ERROR_.* See whether 'nvidia-smi' works"):
        nvidia_ctk.generate(made(driver=driver))


def test_a_tool_that_does_not_end_is_told(made):
    host = made()
    host.add_fault({"call": "run", "hang": 200, "times": 0})
    with host.change() as state:
        state["host"]["patience"] = 0.001
    found = nvidia_ctk.part(host)
    assert "did not end within 60 s" in found.said and found.edits == {"env": [VOID]}


SPEC = {"cdiVersion": "0.5.0", "containerEdits": {"env": []}}


@pytest.mark.parametrize(
    "said",
    [
        "", "no", "[]", "{}", "null", '{"cdiVersion": "0.5.0"}', json.dumps({**SPEC, "cdiVersion": 5}),
        json.dumps({**SPEC, "cdiVersion": "new"}), json.dumps({**SPEC, "containerEdits": []}),
        json.dumps({**SPEC, "containerEdits": {"mounts": "x"}}), json.dumps({**SPEC, "containerEdits": {"deviceNodes": [1]}}),
        json.dumps({**SPEC, "containerEdits": {"deviceNodes": [{"path": 1}]}}),
        json.dumps({**SPEC, "containerEdits": {"env": [1]}}), "[" * 100000,
    ],
)  # fmt: skip
def test_what_is_no_file_of_cdi_is_not_taken(made, said):
    host = made()
    host.answer = Completed(0, said)
    with pytest.raises(errors.ToolFailed, match="'nvidia-ctk cdi generate' printed what is no CDI file"):
        nvidia_ctk.generate(host)


def test_a_version_that_is_none_is_told(made):
    host = made()
    host.run = lambda argv, timeout=60: Completed(0, "hello\n")
    with pytest.raises(errors.ToolFailed, match="'nvidia-ctk --version' tells no version: hello"):
        nvidia_ctk.generate(host)
