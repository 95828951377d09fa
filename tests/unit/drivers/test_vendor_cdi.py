"""The vendor's own CDI file, made anew by the vendor's service where that is enabled."""

import json

import pytest

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import vendor_cdi
from gpuslice.outputs import audit
from gpuslice.sim import toolkit
from gpuslice.sim.host import SimulatedHost

GPU = {"model": "h100-80gb", "address": "0000:1b:00.0"}
CHANGES = {"tools": ["nvidia-smi", "systemctl", "nvidia-ctk"], "units": [vendor_cdi.REFRESH], "gpus": [GPU]}


class Watched(SimulatedHost):
    """A host that notes what is run."""

    asked = ()

    def run(self, argv, timeout=60):
        self.asked = (*self.asked, argv)
        return super().run(argv, timeout)


@pytest.fixture
def made(simulated):
    """A host with the service, and these changes to it."""

    def make(**changes):
        plain = simulated("dgx-h100", **{**CHANGES, **changes})
        return Watched(plain.description_path, plain.state_dir)

    return make


def test_the_file_is_made_anew(made):
    host = made()
    for _ in range(2):
        with host.change() as state:
            state["written"].pop(toolkit.SPEC, None)
        assert vendor_cdi.refresh(host) == []
        assert [device["name"] for device in json.loads(host.read("/var/run/cdi/nvidia.yaml"))["devices"]][0] == "0"
    assert host.asked == (["systemctl", "restart", vendor_cdi.REFRESH],) * 2


def test_every_file_of_the_folders_is_told(made):
    host = made(files={"/etc/cdi/a.json": "{}", "/run/cdi/.b.yaml": "kind: x", "/run/cdi/deep/c.json": "1"})
    assert vendor_cdi.specs(host, ("/etc/cdi", "/var/run/cdi", "/none")) == {
        "/etc/cdi/a.json": "{}", "/var/run/cdi/.b.yaml": "kind: x", "/var/run/cdi/deep": "",
    }  # fmt: skip


def test_what_the_service_writes_is_all_right_until_slices_change(made):
    """The audit of what is really there: one file of the vendor, and a slice that is cut anew behind it."""
    host = made(gpus=[{**GPU, "mig": "enabled", "instances": [{"profile": "1g.10gb", "start": 0}]}])
    assert vendor_cdi.refresh(host) == []

    def audited():
        gis = host.state()["gpus"][GPU["address"]]["gis"]
        uuids = [ci["uuid"] for gi in gis.values() for ci in gi["cis"].values()]
        files = vendor_cdi.specs(host, audit.FOLDERS)
        return audit.problems(files, [], [], lambda path: device_nodes.wrong(host, path), uuids)

    assert audited() == []
    with host.change() as state:
        state["gpus"][GPU["address"]]["gis"] = {}
    said = audited()
    assert len(said) == 3 and said[-1].startswith("/var/run/cdi/nvidia.yaml has nvidia.com/gpu=MIG-")
    assert [line.partition(" take")[0] for line in said[:2]] == ["nvidia.com/gpu=0:0 and 2 more"] * 2


def test_where_it_is_not_enabled_nothing_is_run(made):
    host = made(units=[])
    assert vendor_cdi.refresh(host) == [] and host.asked == ()


def test_it_is_not_waited_for_where_it_waits_for_us(made):
    host = made()
    assert vendor_cdi.refresh(host, waits=False) == []
    assert host.asked == (["systemctl", "restart", "--no-block", vendor_cdi.REFRESH],)


def test_a_failure_is_told_and_the_known_one_by_its_reason(made):
    host = made(gpus=[{**GPU, "mig": "enabled"}])
    (said,) = vendor_cdi.refresh(host, empty=True)
    assert said.startswith(f"{vendor_cdi.REFRESH} failed, as it does while all GPUs are in MIG mode and nothing is cut")
    (said,) = vendor_cdi.refresh(host)
    assert said.startswith(f"{vendor_cdi.REFRESH} failed, so the names of nvidia.com/gpu are those of before: Job for ")
    assert "journalctl" in said


def test_a_service_that_hangs_is_told(made):
    host = made(patience=0.001)
    host.add_fault({"call": "run", "hang": 200, "times": 0})
    (said,) = vendor_cdi.refresh(host)
    assert "did not end within 60 s" in said


def test_a_host_without_systemctl_is_told(made):
    (said,) = vendor_cdi.refresh(made(tools=["nvidia-smi", "nvidia-ctk"]))
    assert "systemctl is not installed" in said
    with pytest.raises(errors.ToolMissing):
        made(tools=[]).run(["systemctl"])
