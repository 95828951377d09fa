"""CDI files as pure functions: what stands in them, valid names, the lowest version, the same text for the same devices."""

import json
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.outputs import cdi
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node

MIG = Device(
    "0000:1b:00.0-1g.10gb.me-0",
    (Node("/dev/nvidia0"), Node("/dev/nvidiactl"), Node("/dev/nvidia-caps/nvidia-cap21", "r")),
    (("CUDA_VISIBLE_DEVICES", "MIG-1"),),
)
AMD = Device("0000:05:00.0-cpx-3", (Node("/dev/kfd"), Node("/dev/dri/renderD131")))
PASSED = Device("0000:1b:00.4", (Node("/dev/vfio/vfio"), Node("/dev/vfio/12")))
MPS = Device("trainer", MIG.nodes, (("CUDA_MPS_PIPE_DIRECTORY", "/run/p"),), (Mount("/run/p", "/run/p"),))
HOOK = {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "update-ldcache"]}
COMMON = cdi.Common(
    {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl", "permissions": "rw"}, {"path": "/dev/nvidia-uvm", "permissions": "rw"}],
        "mounts": [{"hostPath": "/l", "containerPath": "/l", "options": ["ro"]}],
        "hooks": [HOOK],
    },
    "0.5.0",
)

#: What the specification allows as a device's name, written here a second time.
VALID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
names = st.text(min_size=1, max_size=40) | st.from_regex(r"[0-9a-z_.:/+-]{1,12}", fullmatch=True)
nodes = st.builds(Node, st.sampled_from(["/dev/nvidia0", "/dev/dri/renderD128", "/dev/kfd"]), st.sampled_from(["r", "rw"]))
variables = st.tuples(st.sampled_from(["A", "B"]), st.text(max_size=5))
devices = st.builds(
    Device,
    names,
    st.lists(nodes, max_size=3).map(tuple),
    st.lists(variables, max_size=2).map(tuple),
    st.lists(st.builds(Mount, st.just("/run/a"), st.just("/a")), max_size=1).map(tuple),
)
lists = st.lists(devices, max_size=6, unique_by=lambda device: device.name)


def specs(slices=(), consumers=(), common=cdi.NONE):
    """Kind -> content of the file of that kind."""
    found = [json.loads(file.text) for file in cdi.files(slices, consumers, common)]
    return {spec["kind"]: spec for spec in found}


def edits(spec, name):
    """Container edits of the device of that name."""
    return next(device["containerEdits"] for device in spec["devices"] if device["name"] == name)


def test_a_slice_opens_exactly_its_nodes():
    assert edits(specs([MIG])[cdi.SLICE], MIG.name) == {
        "deviceNodes": [
            {"path": "/dev/nvidia0", "permissions": "rw"},
            {"path": "/dev/nvidiactl", "permissions": "rw"},
            {"path": "/dev/nvidia-caps/nvidia-cap21", "permissions": "r"},
        ],
        "env": ["CUDA_VISIBLE_DEVICES=MIG-1"],
    }


def test_a_kind_is_one_file_at_a_place_of_its_own():
    found = cdi.files([MIG, AMD], [MPS])
    assert [file.path for file in found] == ["/var/run/cdi/gpu-slicing-slice.json", "/var/run/cdi/gpu-slicing-consumer.json"]
    assert [json.loads(file.text)["kind"] for file in found] == ["gpu-slicing/slice", "gpu-slicing/consumer"]
    assert all(file.text.endswith("}\n") and file.mode == 0o644 for file in found)


def test_a_kind_without_devices_has_no_file():
    assert cdi.files([], []) == []
    assert [file.path for file in cdi.files([], [MPS])] == [cdi.PLACES[cdi.CONSUMER]]


def test_what_opens_nothing_does_not_spoil_the_file():
    """The library of the runtimes takes "empty device edits" for a mistake of the whole file."""
    assert [device["name"] for device in specs([Device("odd"), AMD])[cdi.SLICE]["devices"]] == [AMD.name]
    assert cdi.files([Device("odd")], []) == []


def test_a_folder_is_mounted_as_it_says():
    assert edits(specs([], [MPS])[cdi.CONSUMER], "trainer")["mounts"] == [
        {"hostPath": "/run/p", "containerPath": "/run/p", "options": ["bind", "rw", "nosuid", "nodev", "noexec"]}
    ]


# -- the driver's part -----------------------------------------------------------------------------------------------------
def test_the_drivers_part_stands_once_where_all_devices_need_it():
    spec = specs([MIG], common=COMMON)[cdi.SLICE]
    assert spec["containerEdits"] == COMMON.edits
    assert "hooks" not in edits(spec, MIG.name)


def test_the_drivers_part_goes_to_no_other_vendor_and_to_no_virtual_machine():
    spec = specs([MIG, AMD, PASSED], common=COMMON)[cdi.SLICE]
    assert "containerEdits" not in spec
    assert edits(spec, MIG.name)["hooks"] == [HOOK]
    assert set(edits(spec, AMD.name)) == set(edits(spec, PASSED.name)) == {"deviceNodes"}
    alone = specs([AMD], common=COMMON)[cdi.SLICE]
    assert "containerEdits" not in alone and set(edits(alone, AMD.name)) == {"deviceNodes"}


def test_who_needs_the_drivers_part():
    assert cdi.needs_common([AMD, MIG]) and not cdi.needs_common([AMD, PASSED]) and not cdi.needs_common([])


def test_a_whole_machine_is_a_small_file():
    """Eight GPUs of seven slices: what they have in common stands there once."""
    slices = [MIG._replace(name=f"0000:{gpu:02x}:00.0-1g.10gb-{start}") for gpu in range(8) for start in range(7)]
    consumers = [MPS._replace(name=f"consumer-{number}") for number in range(8)]
    found = specs(slices, consumers, COMMON)
    assert [len(spec["devices"]) for spec in found.values()] == [56, 8]
    assert sum(file.text.count('nvidia-cdi-hook"') for file in cdi.files(slices, consumers, COMMON)) == 4


def test_a_device_keeps_its_own_permissions_and_its_variables_come_last():
    narrow = Device("x", (Node("/dev/nvidiactl", "r"),), (("NVIDIA_VISIBLE_DEVICES", "0"),))
    found = edits(specs([narrow, AMD], common=COMMON)[cdi.SLICE], "x")
    assert found["deviceNodes"] == [
        {"path": "/dev/nvidia-uvm", "permissions": "rw"}, {"path": "/dev/nvidiactl", "permissions": "r"}
    ]  # fmt: skip
    assert found["env"] == ["NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=0"]


def test_without_the_vendors_tool_the_older_hook_is_kept_off():
    assert specs([MIG])[cdi.SLICE]["containerEdits"] == {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}
    assert edits(specs([MIG, AMD])[cdi.SLICE], MIG.name)["env"] == ["NVIDIA_VISIBLE_DEVICES=void", "CUDA_VISIBLE_DEVICES=MIG-1"]


# -- versions --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("common", "version"),
    [
        ({}, "0.3.0"),
        ({"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "tmpfs"}]}, "0.4.0"),
        ({"deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/run/driver/dev/nvidiactl"}]}, "0.5.0"),
        ({"additionalGids": [44]}, "0.7.0"),
        ({"intelRdt": {"closID": "a"}}, "0.7.0"),
        ({"intelRdt": {"schemata": ["a"]}}, "1.1.0"),
        ({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}, "1.1.0"),
        ({"unheardOf": [1]}, "0.8.0"),
    ],
)
def test_the_version_is_the_lowest_that_has_all_fields(common, version):
    gpu = Device("gpu", (Node("/dev/nvidia0"),))
    for others in ([], [Device("amd", AMD.nodes)]):
        assert specs([gpu, *others], common=cdi.Common(common, "0.8.0"))[cdi.SLICE]["cdiVersion"] == version


def test_a_name_that_begins_with_a_digit_needs_a_newer_version():
    found = specs([MIG], [MPS])
    assert (found[cdi.SLICE]["cdiVersion"], found[cdi.CONSUMER]["cdiVersion"]) == ("0.5.0", "0.3.0")


def test_annotations_and_a_dot_in_the_class_need_a_newer_version():
    device = {"name": "a", "containerEdits": {"env": ["A=1"]}}
    assert cdi.lowest_version({"kind": "a/b", "devices": [device]}) == "0.3.0"
    assert cdi.lowest_version({"kind": "a/b.c", "devices": [device]}) == "0.6.0"
    assert cdi.lowest_version({"kind": "a.d/b", "devices": [{**device, "annotations": {"x": "y"}}]}) == "0.6.0"
    assert cdi.lowest_version({"kind": "a/b", "annotations": {}, "devices": [device]}) == "0.6.0"


def test_versions_compare_as_numbers():
    assert cdi.numbers("0.10.0") > cdi.numbers("0.7.0") and cdi.numbers("v1.1.0") == (1, 1, 0)


# -- names -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["0000:1b:00.0", "0000:1b:00.0-1g.10gb.me-0", "0000:1b:00.0-replica-2", "trainer", "a_b"])
def test_names_of_slices_stay_as_they_are(name):
    assert cdi.name_of(name) == name
    assert cdi.qualified(cdi.SLICE, name) == f"gpu-slicing/slice={name}"


@pytest.mark.parametrize("name", ["", "-", "a/b", "a ", "0-", "ä", "\udcff", "a\n"])
def test_any_other_name_becomes_one(name):
    assert VALID.fullmatch(cdi.name_of(name))


@given(st.lists(names, unique=True, min_size=2, max_size=20))
def test_names_are_valid_and_no_two_become_one(given_names):
    made = [cdi.name_of(name) for name in given_names]
    assert all(VALID.fullmatch(name) for name in made)
    assert len(set(made)) == len(made)
    assert [cdi.name_of(name) for name in made] == made


# -- every file ------------------------------------------------------------------------------------------------------------
@given(lists, lists, st.sampled_from([cdi.NONE, COMMON, cdi.Common({})]), st.randoms(use_true_random=False))
def test_the_same_devices_give_the_same_text_in_any_order(slices, consumers, common, random: Random):
    found = cdi.files(slices, consumers, common)
    random.shuffle(slices)
    random.shuffle(consumers)
    assert cdi.files(slices, consumers, common) == found


@given(lists, lists, st.sampled_from([cdi.NONE, COMMON, cdi.Common({})]))
def test_every_file_is_one_that_runtimes_read(slices, consumers, common):
    for file in cdi.files(slices, consumers, common):
        spec = json.loads(file.text)
        assert set(spec) - {"containerEdits"} == {"cdiVersion", "kind", "devices"}
        found = [device["name"] for device in spec["devices"]]
        assert found == sorted(set(found)) and all(VALID.fullmatch(name) for name in found)
        assert all(device["containerEdits"] for device in spec["devices"])
        assert spec["cdiVersion"] in ("0.3.0", "0.5.0")
        assert (spec["cdiVersion"] == "0.5.0") is any(name[0].isdigit() for name in found)
        for device in spec["devices"]:
            for node in device["containerEdits"].get("deviceNodes", ()):
                assert set(node) == {"path", "permissions"} and node["permissions"] in ("r", "rw")
