"""
Single virtual functions for virtual machines through the real loaders: by hand, as a state, and as the documents show it.
"""

import pytest

from tests.support import pages

FLEX, ONE, TWO, THREE = "0000:3c:00.0", "0000:3c:00.1", "0000:3c:00.2", "0000:3c:00.3"


@pytest.fixture
def on(minion):
    made = minion("flex170")
    assert made.call("gpu_sriov.set_vfs", FLEX, 4, autoprobe=True)["result"] is True
    return made


def driver(on, address):
    return on.host.readlink(f"/sys/bus/pci/devices/{address}/driver")


def test_by_hand_as_the_document_shows_it(on):
    shown = pages.section("usage", "One function for a virtual machine, the others for containers")
    lines = [line.strip() for line in shown.splitlines()]
    planned = on.call("gpu_passthrough.bind", TWO, test=True)
    assert "result" not in planned and driver(on, TWO) == "i915"
    steps = [line.strip() for line in planned["comment"].splitlines() if line.strip()[:1].isdigit() and ". " in line[:8]]
    assert len(steps) == 4 and set(steps) <= set(lines)
    assert on.call("gpu_passthrough.bind", TWO)["result"] is True
    assert (driver(on, ONE), driver(on, TWO)) == ("i915", "vfio-pci")
    table = on.call("gpu.table").splitlines()[2:]
    assert len(table) == 4 and {" ".join(line.split()) for line in table} <= {" ".join(line.split()) for line in lines}
    assert on.call("gpu_passthrough.bind", TWO)["changes"] == {}
    assert on.call("gpu_passthrough.release", [TWO])["result"] is True and driver(on, TWO) == "i915"


def test_status_of_functions(on):
    on.call("gpu_passthrough.bind", [TWO, THREE])
    told = on.call("gpu_passthrough.status", TWO)
    assert told["driver"] == told["driver_override"] == "vfio-pci" and told["gpu"] == FLEX
    assert list(told["group"]["members"]) == [TWO]
    several = on.call("gpu_passthrough.status", [FLEX, ONE, THREE])
    assert {address: each["driver"] for address, each in several.items()} == {FLEX: "i915", ONE: "i915", THREE: "vfio-pci"}
    [function] = [each for each in on.call("gpu_sriov.vfs", FLEX)["vfs"] if each["address"] == TWO]
    assert function["driver"] == "vfio-pci" and function["device_nodes"][0].startswith("/dev/vfio/")


def test_as_a_state(on):
    assert on.state("gpu_passthrough.bound", TWO, test=True).result is None
    assert on.state("gpu_passthrough.bound", TWO).result is True and driver(on, TWO) == "vfio-pci"
    assert on.state("gpu_passthrough.bound", TWO).changes == {}
    assert on.state("gpu_passthrough.released", TWO).result is True and driver(on, TWO) == "i915"


def test_functions_that_are_not_bound_are_refused_with_the_reason(minion):
    on = minion("vgpu-host-vfio")
    gpu = on.call("gpu.devices")[0]["address"]
    profile = next(name for name, each in on.call("gpu_vgpu.types", gpu).items() if "mig_profile" not in each)
    assert on.call("gpu_vgpu.set_vgpus", gpu, profile)["result"] is True
    function = on.call("gpu_vgpu.vgpus", gpu)[0]["name"]
    with pytest.raises(Exception, match="NVIDIA's own driver has its virtual functions .* gpu_vgpu.set_type"):
        on.call("gpu_passthrough.bind", function)
