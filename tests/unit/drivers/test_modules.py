"""Modules of the kernel, as its files and modprobe show them."""

import pytest

from gpuslice import errors
from gpuslice.drivers import modules


def test_a_module_comes_and_goes(simulated):
    host = simulated("dgx-h100")
    assert "nvidia_probe" not in modules.loaded(host)
    assert modules.load(host, "nvidia-probe").failure == ""
    # The kernel writes names with underscores, whatever modprobe was given.
    assert "nvidia_probe" in modules.loaded(host)
    assert modules.unload(host, "nvidia-probe").failure == ""
    assert "nvidia_probe" not in modules.loaded(host)


def test_a_module_in_use_stays_and_the_reason_is_told(simulated):
    host = simulated("dgx-h100", modules={"nvidia_probe": 2})
    assert "nvidia_probe is in use" in modules.unload(host, "nvidia_probe").failure
    assert "nvidia_probe" in modules.loaded(host)


def test_users_of_a_module_are_counted(simulated):
    host = simulated("mi300x-8")
    assert modules.is_there(host, "amdgpu") and modules.users(host, "amdgpu") == (0, [])
    assert not modules.is_there(host, "absent") and modules.users(host, "absent") == (0, [])


def test_options_are_read_as_numbers(simulated):
    files = {"/sys/module/xe/parameters/max_vfs": "7", "/sys/module/xe/parameters/probe": "many"}
    host = simulated("arc-pro-b60", files=files)
    assert {"max_vfs", "probe"} <= set(modules.parameters(host, "xe"))
    assert modules.parameter(host, "xe", "max_vfs") == 7
    assert modules.parameter(host, "xe", "absent") is None and modules.parameters(host, "absent") == []
    with pytest.raises(errors.DriverError, match="can't be true"):
        modules.parameter(host, "xe", "probe")


def test_modprobe_takes_options_from_these_files_only(simulated):
    ours, other = "/etc/modprobe.d/a.conf", "/usr/lib/modprobe.d/b.conf"
    host = simulated("dgx-h100", files={ours: "", other: "", "/etc/modprobe.d/a.conf.bak": ""})
    assert modules.option_files(host) == [ours, other]
