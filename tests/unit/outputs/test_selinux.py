"""What SELinux has to let containers open; the module itself is compiled in tests/parts."""

import re

import pytest

from gpuslice.outputs import selinux


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ([], {}),
        (["/dev/null"], {}),
        (["/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap1"],
         {"/dev/nvidia": ("container_use_xserver_devices", "container_use_devices")}),
        (["/dev/kfd", "/dev/dri/renderD128"],
         {"/dev/dri/": ("container_use_dri_devices", "container_use_devices"), "/dev/kfd": ("container_use_devices",)}),
        (["/dev/vfio/7"], {"/dev/vfio/": ("container_use_devices",)}),
    ],
)  # fmt: skip
def test_booleans_go_by_the_label_of_each_node(nodes, wanted):
    assert selinux.booleans(nodes) == wanted


@pytest.mark.parametrize(("text", "on"), [("1 1", True), ("1 0", True), ("0 1", False), ("", False), ("10 1", False)])
def test_what_counts_is_the_value_now(text, on):
    assert selinux.is_on(text) is on


def test_a_module_has_a_block_for_each_kind_that_is_wanted():
    types = re.findall(r"type (\w+);", selinux.module(["/dev/nvidia", "/dev/dri/"]))
    assert types == ["container_t", "xserver_misc_device_t", "dri_device_t"]
    assert len(re.findall("^optional", selinux.module(), re.MULTILINE)) == 4
