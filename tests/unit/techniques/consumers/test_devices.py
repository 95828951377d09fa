"""
What opens a slice is told by the slice: that of a technology nobody knows here is opened like any other.
"""

from gpuslice.model import PLACE
from gpuslice.model import Slice
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node
from gpuslice.techniques.consumers.devices import Devices
from gpuslice.techniques.consumers.devices import closed

ONE, OTHER = "0000:03:00.0", "0000:04:00.0"


def part(name="new-1", gpu=ONE, **more):
    return Slice(gpu, "new", "", f"{gpu}::1", name=name, device_nodes=("/dev/dri/card0", "/dev/dri/renderD128"), **more)


def test_a_slice_of_a_new_technology_is_opened_by_what_it_tells():
    told = part(environment=(("MASK", PLACE),), folders=("/run/new",), units=("new.service",))
    found = Devices({ONE: "intel"}).of(told, 3)
    nodes, mounts = (Node("/dev/dri/renderD128"),), (Mount("/run/new", "/run/new"),)
    assert found == Device("new-1", nodes, (("MASK", "3"),), mounts, ("new.service",))


def test_gpus_are_counted_as_the_consumer_sees_them():
    both = [part(gpu=OTHER, environment=(("ZE_AFFINITY_MASK", f"{PLACE}.1"),)), part(environment=(("ZE_AFFINITY_MASK", PLACE),))]
    assert dict(Devices({}).of_consumer("both", both).environment) == {"ZE_AFFINITY_MASK": "1.1,0"}
    assert dict(Devices({}).of_consumer("last", both[:1]).environment) == {"ZE_AFFINITY_MASK": "0.1"}


def test_what_all_gpus_of_a_vendor_have_in_common_is_opened_once_and_never_beside_vfio():
    whole = Slice(ONE, "gpu", "", ONE, name=ONE, device_nodes=("/dev/dri/renderD128", "/dev/kfd"))
    assert [node.path for node in Devices({ONE: "amd"}).of(whole).nodes] == ["/dev/dri/renderD128", "/dev/kfd"]
    passed = whole._replace(identity="GPU-1", device_nodes=("/dev/vfio/12",))
    found = Devices({ONE: "nvidia"}).of(passed)
    assert [node.path for node in found.nodes] == ["/dev/vfio/12", "/dev/vfio/vfio"] and found.environment == ()


def test_what_has_no_node_of_its_own_can_be_opened_by_nobody():
    without = part("bare")._replace(device_nodes=())
    there = [part(), without, without._replace(name="taken", taken=True), without._replace(name="coming", gpu=OTHER)]
    assert closed(there, {ONE}) == ["bare"]
