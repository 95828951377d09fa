"""What is wrong with the CDI files of a host: each finding, its sentence, and that there is none where all is right."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.outputs import audit
from gpuslice.outputs import cdi
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node

ONE = Device("0000:1b:00.0-1g.10gb-0", (Node("/dev/nvidia0"), Node("/dev/nvidia-caps/nvidia-cap66", "r")), (("A", "1"),))
OTHER = Device("0000:1b:00.0-1g.10gb-1", (Node("/dev/nvidia0"), Node("/dev/nvidia-caps/nvidia-cap75", "r")))
TRAINER = Device("trainer", ONE.nodes)
SLICES, CONSUMERS = cdi.PLACES[cdi.SLICE], cdi.PLACES[cdi.CONSUMER]
UUID = "MIG-11111111-2222-3333-4444-555555555555"
VENDOR = "/var/run/cdi/nvidia.yaml"
AGAIN = "Run 'salt-call state.apply gpu_slicing'."
LIBRARY = {"mounts": [{"hostPath": "/l/libcuda.so", "containerPath": "/l/libcuda.so"}], "hooks": [
    {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}
]}  # fmt: skip


def ours(slices=(ONE, OTHER), consumers=(TRAINER,), common=cdi.NONE):
    """Our files as they are on the disk."""
    return {file.path: file.text for file in cdi.files(slices, consumers, common)}


def spec(*names, kind="nvidia.com/gpu", version="0.5.0", node="/dev/nvidia0"):
    """A file of somebody else."""
    edits = {"deviceNodes": [{"path": node}]}
    return yaml.safe_dump(
        {"cdiVersion": version, "kind": kind, "devices": [{"name": name, "containerEdits": edits} for name in names]}
    )


def found(more=(), slices=(ONE, OTHER), consumers=(TRAINER,), wrong=None, **rest):
    """What is found wrong with these files beside ours; ``wrong``: path -> why."""
    files = {**ours(), **dict(more)}
    files = {path: text for path, text in files.items() if text is not None}
    return audit.problems(files, slices, consumers, lambda path: (wrong or {}).get(path, ""), **rest)


def test_where_all_is_right_nothing_is_said():
    assert found() == []
    assert found({VENDOR: spec("0", UUID, "all"), "/etc/cdi/amd.json": spec("0", kind="amd.com/gpu")}, uuids=[UUID]) == []
    assert found(podman="4.3.1") == [] and audit.problems({}, [], [], lambda path: "") == []
    common = cdi.Common({**LIBRARY, "deviceNodes": [{"path": "/dev/nvidiactl", "permissions": "rw"}]})
    assert found(ours(common=common)) == []


# -- our names -------------------------------------------------------------------------------------------------------------
def test_a_slice_without_a_name_is_told():
    third = ONE._replace(name="0000:1b:00.0-2g.20gb-4")
    assert found(slices=[ONE, OTHER, third]) == [
        f"gpu-slicing/slice=0000:1b:00.0-2g.20gb-4 has no entry in {SLICES}, so nobody can be given it. {AGAIN}"
    ]
    assert len(found({SLICES: None})) == 2


def test_what_opens_nothing_needs_no_name():
    assert found(slices=[ONE, OTHER, Device("nothing")]) == []


def test_a_name_of_what_is_gone_is_told():
    assert found(slices=[ONE], consumers=[]) == [
        f"gpu-slicing/slice={OTHER.name} in {SLICES} is the name of nothing that is there any more. {AGAIN}",
        f"gpu-slicing/consumer=trainer in {CONSUMERS} is the name of nothing that is there any more. {AGAIN}",
    ]


def test_a_node_that_is_not_there_is_told_once_for_all_names():
    assert found(wrong={"/dev/nvidia0": "is not there", "/dev/nvidia-caps/nvidia-cap75": "is another device"}) == [
        f"gpu-slicing/consumer=trainer takes /dev/nvidia0, which is not there: no container that is given it starts. {AGAIN}",
        f"gpu-slicing/slice={ONE.name} and 1 more take /dev/nvidia0, which is not there: "
        f"no container that is given it starts. {AGAIN}",
        f"gpu-slicing/slice={OTHER.name} takes /dev/nvidia-caps/nvidia-cap75, which is another device: "
        f"no container that is given it starts. {AGAIN}",
    ]


@pytest.mark.parametrize("path", ["/l/libcuda.so", "/usr/bin/nvidia-cdi-hook"])
def test_a_library_or_hook_that_is_not_there_is_told(path):
    said = found(ours(common=cdi.Common(LIBRARY)), wrong={path: "is not there"})
    assert len(said) == 2 and f" and 1 more take {path}, which is not there" in said[1]


def test_a_name_that_opens_something_else_is_told():
    moved = OTHER._replace(nodes=(Node("/dev/nvidia0"), Node("/dev/nvidia-caps/nvidia-cap84", "r")))
    narrow = ONE._replace(nodes=(Node("/dev/nvidia0", "r"), *ONE.nodes[1:]))
    assert found(slices=[narrow, moved]) == [
        f"gpu-slicing/slice={ONE.name} opens /dev/nvidia0 for more than is needed. {AGAIN}",
        f"gpu-slicing/slice={OTHER.name} does not open /dev/nvidia-caps/nvidia-cap84, which belongs to it. {AGAIN}",
    ]


# -- files of others -------------------------------------------------------------------------------------------------------
def test_our_kind_in_a_file_of_somebody_else_is_told():
    said = found({"/etc/cdi/x.yaml": spec("mine", kind=cdi.SLICE)})
    assert said == ["/etc/cdi/x.yaml is of the kind gpu-slicing/slice, which is ours, and was not written by us. Remove it."]


def test_another_kind_in_our_file_is_told():
    said = found({CONSUMERS: spec("trainer", kind=cdi.SLICE)})
    assert any(line.startswith(f"{CONSUMERS} is of the kind gpu-slicing/slice") for line in said)
    assert any(line.startswith("gpu-slicing/consumer=trainer has no entry") for line in said)


def test_the_same_name_twice_in_a_folder_is_nobodys():
    said = found({VENDOR: spec("0", "1"), "/var/run/cdi/.nvidia.json": spec("0", "1")})
    assert (
        f"/var/run/cdi/.nvidia.json and {VENDOR} both have nvidia.com/gpu=0 and 1 more, so nobody can be given it. "
        "Remove one of the files."
    ) in said
    assert "/var/run/cdi/.nvidia.json is hidden, and runtimes read it all the same" in said[0]


def test_of_two_folders_the_later_one_counts():
    assert found({VENDOR: spec("0"), "/etc/cdi/nvidia.yaml": spec("0")}) == [
        f"/etc/cdi/nvidia.yaml and {VENDOR} both have nvidia.com/gpu=0, and the second counts. Remove the first if old."
    ]


def test_a_mig_device_that_is_gone_is_told():
    text = spec("0:0", UUID, UUID.replace("1", "2"))
    assert found({VENDOR: text}, uuids=[]) == [
        f"{VENDOR} has nvidia.com/gpu={UUID} and 1 more, a MIG device that is gone. Have it written anew: "
        f"'salt-call gpu_cdi.refresh', or 'nvidia-ctk cdi generate --output={VENDOR}'."
    ]
    assert found({VENDOR: text}) == [] and len(found({VENDOR: text}, uuids=[UUID])) == 1


def test_a_node_of_a_vendors_file_that_is_not_there_is_told():
    assert found({VENDOR: spec("3", node="/dev/nvidia3")}, wrong={"/dev/nvidia3": "is not there"}) == [
        f"nvidia.com/gpu=3 takes /dev/nvidia3, which is not there: no container that is given it starts. "
        f"Have {VENDOR} written anew."
    ]


@pytest.mark.parametrize(
    ("path", "todo"),
    [
        ("/etc/cdi/nvidia.yml", "Rename it to .yaml."),
        ("/etc/cdi/deeper/nvidia.yaml", "Remove it, or rename it to .json or .yaml."),
        (f"{SLICES}.123.new", "Remove it, or rename it to .json or .yaml."),
    ],
)
def test_a_file_that_no_runtime_reads_is_told(path, todo):
    assert found({path: spec("0")}) == [
        f"{path} is read by no runtime: only *.json and *.yaml directly in /etc/cdi and /var/run/cdi are. {todo}"
    ]


BROKEN = [
    "", "x", "[1]", "{", "a: [", "{}", '{"cdiVersion": "0.5.0", "kind": "a/b", "devices": []}',
    spec("a", "a"), spec(1), spec("a", kind=["x"]), spec("a", version=0.5), spec("a", node=["x"]), "[" * 100000,
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_told(text):
    assert found({"/etc/cdi/x.yaml": text}) == [
        "/etc/cdi/x.yaml is no CDI file that can be read, so none of its names is there. "
        "Mend or remove it: no runtime says a word of it."
    ]
    assert f"{SLICES} is no CDI file that can be read, so none of its names is there. {AGAIN}" in found({SLICES: text})


# -- versions --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("podman", "reads"),
    [
        ("3.4.4", ""), ("4.1.0", "0.4.0"), ("4.3.1", "0.5.0"), ("4.9.4", "0.6.0"), ("5.1.2", "0.7.0"), ("5.4.2", "0.8.0"),
        ("5.8.0", "1.0.0"), ("6.0.0", "1.1.0"), ("7.0.0-dev", "1.1.0"), ("", ""),
    ],
)  # fmt: skip
def test_what_a_podman_reads(podman, reads):
    assert audit.podman_reads(podman) == reads


def test_a_file_that_is_too_new_for_podman_is_told():
    assert found({VENDOR: spec("0", version="0.7.0")}, podman="4.9.3") == [
        f"{VENDOR} is of version 0.7.0, and Podman 4.9.3 reads 0.6.0 at most: it sees none of its names."
    ]
    assert found(podman="3.4.4") == ["Podman 3.4.4 knows no CDI: 4.1 is the first that does."]


# -- whatever lies there ---------------------------------------------------------------------------------------------------
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cdiVersion", "kind", "devices", "name", "containerEdits", "deviceNodes", "path", "mounts", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["/etc/cdi/a.json", VENDOR, SLICES, "/x"]), values | st.text(max_size=30)))
def test_whatever_lies_there_is_no_traceback(files):
    texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in files.items()}
    said = audit.problems(texts, [ONE], [TRAINER], lambda path: "", [], "4.3.1")
    assert len(said) >= 2 and all(isinstance(line, str) and line.endswith(".") for line in said)
