"""Nodes of NVIDIA's driver: made where they are missing, looked at afterwards, and what is said where one can't be made."""

import pytest

from gpuslice import errors
from gpuslice.drivers import nvidia_modprobe
from gpuslice.host.base import Completed
from gpuslice.sim.host import SimulatedHost

GPU = "0000:1b:00.0"
TOOLS = ["lspci", "nvidia-smi", "systemctl", "modprobe", "nvidia-modprobe"]
CAPS = ["/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67"]
NODES = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", *CAPS, "/dev/dri/renderD129"]
FILES = [f"/proc/driver/nvidia/capabilities/gpu0/mig/gi7/{path}access" for path in ("", "ci0/")]


class Watched(SimulatedHost):
    """A host that notes what is run; ``instead`` says what happens then."""

    asked, instead = (), None

    def run(self, argv, timeout=60):
        self.asked = (*self.asked, argv)
        return self.instead(argv) if self.instead else super().run(argv, timeout)

    def program(self, argv):
        """What the program does for these arguments."""
        return super().run(argv)


@pytest.fixture
def made(simulated):
    """A host with one instance, of which nobody made the capability nodes."""

    def make(**changes):
        gpus = [{"model": "h100-80gb", "address": GPU, "mig": "enabled", "instances": [{"profile": "1g.10gb", "start": 0}]}]
        described = {"tools": TOOLS, "capability_nodes": "missing", "gpus": gpus, **changes}
        plain = simulated("dgx-h100", **described)
        host = Watched(plain.description_path, plain.state_dir)
        assert not any(host.exists(node) for node in CAPS) or not changes.get("capability_nodes", "missing") == "missing"
        return host

    return make


def test_what_is_missing_is_made_by_one_call(made):
    host = made()
    assert nvidia_modprobe.missing(host, NODES) == CAPS
    assert nvidia_modprobe.make(host, GPU, NODES) == CAPS
    assert host.asked == (["nvidia-modprobe", "-f", FILES[0], "-f", FILES[1]],)
    assert nvidia_modprobe.missing(host, NODES) == []


def test_where_nothing_is_missing_no_program_is_run(made):
    host = made(capability_nodes="made")
    assert nvidia_modprobe.make(host, GPU, NODES) == [] and host.asked == ()
    assert nvidia_modprobe.make(host, GPU, ["/dev/dri/renderD200"]) == []


def test_a_program_that_stops_at_each_file_is_called_for_each(made):
    """As 570.133 does where /dev/char is missing: it makes the node and ends with 1."""
    host = made()

    def stops(argv):
        assert host.program([*argv[:1], *argv[1:3]]).returncode == 0
        return Completed(1)

    host.instead = stops
    assert nvidia_modprobe.make(host, GPU, NODES) == CAPS
    assert [argv[1:] for argv in host.asked] == [["-f", FILES[0], "-f", FILES[1]], ["-f", FILES[1]]]


def test_a_node_of_another_device_is_missing(made):
    host = made(capability_nodes="made")
    number = host.device_number
    host.device_number = lambda path: "1:3" if path == CAPS[0] else number(path)
    assert nvidia_modprobe.missing(host, NODES) == [CAPS[0]]
    host.instead = lambda argv: Completed(0)
    with pytest.raises(errors.DriverError, match="nvidia-cap66 could not be made: nvidia-modprobe ended and did not do it"):
        nvidia_modprobe.make(host, GPU, NODES)


def test_other_nodes_are_made_too(made):
    host = made(capability_nodes="made")
    exists, number, lost = host.exists, host.device_number, ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    host.exists = lambda path: path not in lost and exists(path)
    host.device_number = lambda path: "" if path in lost else number(path)

    def makes(argv):
        made = {"0": "/dev/nvidia0", "255": "/dev/nvidiactl"}[argv[-1]] if "-u" not in argv else "/dev/nvidia-uvm"
        lost.remove(made)
        return Completed(0)

    host.instead = makes
    assert nvidia_modprobe.make(host, GPU, NODES) == ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert [argv[1:] for argv in host.asked] == [["-u", "-c", "0"], ["-c", "0"], ["-c", "255"]]


# -- refusals --------------------------------------------------------------------------------------------------------------
def test_without_root_it_is_said(made):
    host = made(privileged=False)
    with pytest.raises(errors.DriverError) as caught:
        nvidia_modprobe.make(host, GPU, NODES)
    assert str(caught.value) == (
        f"GPU {GPU}: The device node {CAPS[0]} and 1 more could not be made: nvidia-modprobe ended and did not do it. "
        f"Run the minion as root, and see whether /dev can be written: 'nvidia-modprobe -f {FILES[0]}'."
    )


def test_without_the_program_it_is_said(made):
    with pytest.raises(errors.ToolMissing) as caught:
        nvidia_modprobe.make(made(tools=["lspci"]), GPU, CAPS[:1])
    assert str(caught.value) == (
        f"GPU {GPU}: The device node {CAPS[0]} can't be made: nvidia-modprobe is not installed, and nothing else makes it. "
        "Install nvidia-modprobe with NVIDIA's driver."
    )


def test_a_driver_that_forbids_it_is_told(made):
    text = "DeviceFileMinor: 66\nDeviceFileMode: 292\nDeviceFileModify: 0"
    host = made(files={FILES[0]: text})
    host.instead = lambda argv: Completed(0)
    with pytest.raises(errors.DriverError, match=f"NVreg_ModifyDeviceFiles=0.* 'mknod -m 444 {CAPS[0]} c 235 66'"):
        nvidia_modprobe.make(host, GPU, CAPS[:1])


@pytest.mark.parametrize("number", [99999, 21])
def test_the_node_of_an_instance_that_is_gone_is_not_made(made, number):
    host = made()
    with pytest.raises(errors.DriverError, match=f"nvidia-cap{number} can't be made: the driver has no MIG instance"):
        nvidia_modprobe.make(host, GPU, [f"/dev/nvidia-caps/nvidia-cap{number}"])
    assert host.asked == ()
