"""
What opens a slice of each kind, on the hosts of the examples: its nodes with their permissions, and what names it to programs.
"""

import pytest
import yaml

from gpuslice import errors
from gpuslice.techniques.consumers import views
from tests.conftest import ROOT
from tests.contract import house
from tests.contract import pairs
from tests.support import consumers
from tests.support import pillars
from tests.support.consumers import CONSUMER
from tests.support.consumers import SLICE
from tests.support.hosts import apply
from tests.support.hosts import listed

NVIDIA = {"/dev/nvidiactl": "rw", "/dev/nvidia-uvm": "rw"}
NONE = pillars.for_all("none")


def handed(wanted, name="dev", **spec):
    """A pillar with one consumer more."""
    return {**wanted, "containers_gpu_container_integration": {"consumers": {name: spec}}}


def nodes(edits):
    """Path -> permissions."""
    return {node["path"]: node["permissions"] for node in edits.get("deviceNodes", ())}


def opened(host):
    """What the consumer opens: (its slice, nodes, environment)."""
    [name] = consumers.bindings(host)["dev"]
    edits = consumers.names(host, CONSUMER)["dev"]
    assert edits["deviceNodes"] == consumers.names(host, SLICE)[name]["deviceNodes"]
    return name, nodes(edits), dict(line.split("=", 1) for line in edits.get("env", ()))


@pytest.fixture
def example(tmp_path):
    """``example(host, wanted)``: an example host with two GPUs of a kind, brought to a pillar with a consumer."""

    def make(name, wanted, **spec):
        place = pairs.place(tmp_path / name, name, few=True)
        result = house.apply(place, handed(wanted, **spec))
        assert result.ok, result.errors
        with house.opened(place) as engine:
            assert engine.plan(handed(wanted, **spec)).empty
        return place.host

    return make


#: These make nothing that a program of the host could be given: what has no driver, what machines have, what belongs to a board.
_NOTHING_MADE = ("sriov", "vgpu", "vf-passthrough", "power")


@pytest.mark.parametrize("pair", [pair for pair in pairs.CHANGING if pair[1] not in _NOTHING_MADE], ids="/".join)
def test_every_technique_hands_out_what_it_makes(example, pair):
    host = example(pair[0], pairs.pillar(pair))
    with house.opened(house.Place(host.description_path, host.state_dir)) as engine:
        offers = views.offers(engine.handed("consumers"))
    assert {each["name"] for each in offers} == consumers.names(host, SLICE).keys()
    assert opened(host)[1] and all(each["cdi"] == f"gpu-slicing/slice={each['name']}" for each in offers)
    for edits in consumers.names(host, SLICE).values():
        assert edits["deviceNodes"] and all("m" not in permissions for permissions in nodes(edits).values())
        assert all(not path.startswith("/dev/nvidia-caps/") or how == "r" for path, how in nodes(edits).items())


def test_a_whole_gpu_of_nvidia(example):
    host = example("l4-pair", NONE)
    name, found, environment = opened(host)
    assert found == {**NVIDIA, "/dev/nvidia0": "rw"}
    assert environment == {"CUDA_VISIBLE_DEVICES": host.state()["gpus"][name]["about"]["uuid"]}


def test_a_whole_gpu_of_intel(example):
    _, found, environment = opened(example("flex170", NONE))
    assert found == {"/dev/dri/renderD128": "rw"} and environment == {}


def test_a_replica_of_time_slicing(example):
    host = example("l4-pair", pillars.for_all("time-slicing", {"max_instance_count": 2}))
    name, found, environment = opened(host)
    assert name.endswith("-replica-0") or "-replica-" in name
    assert found == {**NVIDIA, "/dev/nvidia0": "rw"}
    assert environment == {"CUDA_VISIBLE_DEVICES": host.state()["gpus"][name[:12]]["about"]["uuid"]}
    assert len(consumers.names(host, SLICE)) == 4


def test_a_partition_of_amd_is_told_apart_by_its_render_node(example):
    host = example("mi300x-8", pairs.pillar(("mi300x-8", "partition")))
    name, found, environment = opened(host)
    assert set(found) - {"/dev/kfd"} and found["/dev/kfd"] == "rw" and environment == {}
    other = [nodes(edits).keys() - {"/dev/kfd"} for each, edits in consumers.names(host, SLICE).items() if each != name]
    assert all(len(each) == 1 for each in other) and not any(each & found.keys() for each in other)


def test_a_partition_of_level_zero(example):
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "level-zero", "level_zero": {"partitions": ["0.0", "0.1"]}}}
    host = example("max1550", wanted)
    found = consumers.names(host, SLICE)
    assert all(list(nodes(edits)) == [next(iter(nodes(edits)))] for edits in found.values())
    masks = {name: consumers.variable(edits, "ZE_AFFINITY_MASK") for name, edits in found.items()}
    # The second GPU has none, and is whole.
    assert sorted(masks.values()) == ["", "0.0", "0.1"]
    modes = {consumers.variable(found[name], "ZE_FLAT_DEVICE_HIERARCHY") for name, mask in masks.items() if mask}
    assert modes == {"COMPOSITE"}


def test_a_tile_stays_a_tile_where_the_files_of_the_host_count_tiles(example):
    """A program sees the devices of its slices alone, and counts them by itself, whatever numbers others count by."""
    settings = {"partitions": ["1.0", "1.1"], "hierarchy": "FLAT"}
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "level-zero", "level_zero": settings}}
    found = consumers.names(example("max1550", wanted), SLICE)
    masks = {name: consumers.variable(edits, "ZE_AFFINITY_MASK") for name, edits in found.items()}
    assert {name.rpartition("-")[2]: mask for name, mask in masks.items() if mask} == {"tile0": "0.0", "tile1": "0.1"}


def test_a_gpu_that_is_passed_through_is_opened_by_vfio_alone(example):
    host = example("dgx-h100", yaml.safe_load((ROOT / "examples/pillar/passthrough.sls").read_text(encoding="utf-8")))
    name, found, environment = opened(host)
    assert set(found.values()) == {"rw"} and all(path.startswith("/dev/vfio/") for path in found) and len(found) > 1
    assert environment == {} and name in host.state()["gpus"]
    assert len(set(map(str, map(nodes, consumers.names(host, SLICE).values())))) == len(consumers.names(host, SLICE))


@pytest.mark.parametrize("pair", [pair for pair in pairs.CHANGING if pair[1] == "sriov"], ids="/".join)
def test_a_virtual_function_that_no_driver_has_is_nobodys(tmp_path, pair):
    place = pairs.place(tmp_path, pair[0], few=True)
    before = pairs.layouts(place)
    result = house.apply(place, handed(pairs.pillar(pair)))
    assert "Without a device node" in " ".join(result.errors)
    assert house.same(pairs.layouts(place), before) and house.is_closed(place)
    assert consumers.on_record(place.host) == {} and not consumers.names(place.host, SLICE)


@pytest.mark.parametrize("pair", [pair for pair in pairs.CHANGING if pair[1] == "vgpu"], ids="/".join)
def test_a_vgpu_is_for_its_machine(tmp_path, pair):
    place = pairs.place(tmp_path, pair[0], few=True)
    with pytest.raises(house.Refusal, match="no such slice"):
        house.apply(place, handed(pairs.pillar(pair)))
    assert house.apply(place, {**pairs.pillar(pair), "containers_gpu_container_integration": {"cdi": {"enabled": True}}}).ok
    assert not consumers.names(place.host, SLICE)


def test_a_virtual_function_that_vfio_has_is_for_machines_and_no_offer(simulated):
    host = simulated("arc-pro-b60")
    assert apply(host, pairs.pillar(("arc-pro-b60", "sriov"))).ok
    with host.change() as state:
        state["gpus"]["0000:03:00.0"]["about"]["vf_driver"] = "vfio-pci"
        state["gpus"]["0000:03:00.0"]["autoprobe"] = 1
    with pytest.raises(errors.PolicyError, match="Consumer dev wants any slice, and there is no such slice"):
        apply(host, handed(NONE))
    told = {part["kind"]: part["device_nodes"] for part in listed(host)}
    assert list(told) == ["vf-passthrough"] and told["vf-passthrough"][0].startswith("/dev/vfio/")
