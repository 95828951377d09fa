"""The tree of files of a simulated machine, and how its kernel names them."""

import errno

import pytest

from gpuslice.sim import kernel
from gpuslice.sim import sysfs
from gpuslice.sim import tree


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/sys/bus/pci/devices/0000:07:00.0/sriov_numvfs", ("0000:07:00.0", "sriov_numvfs")),
        ("/sys/bus/pci/devices/0000:07:00.0/tile0/gt0/ccs_mode", ("0000:07:00.0", "tile0/gt0/ccs_mode")),
        ("/sys/bus/pci/devices/0000:07:00.0", ("", "")),
        ("/sys/bus/pci/devices/0000:07:00.0/", ("", "")),
        ("/sys/bus/pci/devices/other/driver_override", ("", "")),
        ("/sys/bus/pci/devicesx/0000:07:00.0/reset", ("", "")),
        ("/sys/bus/pci/drivers/xe/bind", ("", "")),
        ("0000:07:00.0/reset", ("", "")),
    ],
)
def test_a_file_of_a_device_is_told_from_others(path, found):
    assert kernel.device_file(path) == found


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0x1", "one"])
def test_what_is_no_number_is_refused_as_the_kernel_does(text):
    with pytest.raises(OSError) as caught:
        kernel.number_of(text, "/sys/file")
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "/sys/file")
    assert kernel.number_of("17", "/sys/file") == 17


@pytest.mark.parametrize(
    ("node", "number"),
    [
        ("/dev/nvidia3", "195:3"),
        ("/dev/nvidia-caps/nvidia-cap12", "235:12"),
        ("/dev/dri/card0", "226:0"),
        ("/dev/dri/renderD128", "226:128"),
        ("/dev/vfio/41", "243:41"),
        ("/dev/vfio/devices/vfio7", "244:7"),
        ("/dev/kfd", "241:0"),
        ("/dev/nvidia", ""),
        ("/dev/nvidiactl", ""),
        ("/dev/vfio/vfio", ""),
    ],
)
def test_a_device_node_has_the_number_of_its_driver(node, number):
    assert tree.device_number(node) == number


def test_a_text_that_takes_long_is_made_when_it_is_read():
    made, files = [], tree.Tree({})
    files.file("/proc/long", lambda: made.append(1) or "text\n")
    assert (files.exists("/proc/long"), made) == (True, [])
    assert (files.read("/proc/long"), made) == ("text", [1])


def test_every_part_of_the_kernel_shows_writes_and_loads():
    """What each module of the list has to have; the optional ones are asked for by name."""
    for extension in sysfs.EXTENSIONS:
        assert all(callable(getattr(extension, name)) for name in ("show", "write", "modprobe")), extension.__name__
