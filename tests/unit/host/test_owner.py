"""Who owns a file or node, on this machine and on a described one."""

import os

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost


def test_a_real_file_and_node(tmp_path):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    file.chmod(0o640)
    assert RealHost().owner(str(file)) == (os.geteuid(), os.stat(file).st_gid, 0o640)
    assert RealHost().owner("/dev/null") == (0, 0, 0o666)
    with pytest.raises(FileNotFoundError):
        RealHost().owner(str(tmp_path / "none"))


def test_nodes_of_a_described_host_belong_to_whom_udev_gives_them(simulated):
    host = simulated("mixed-vendors", owners={"/dev/nvidia0": "0:44:0660"})
    assert host.owner("/dev/nvidia0") == (0, 44, 0o660) and host.owner("/dev/nvidiactl") == (0, 0, 0o666)
    render = next(f"/dev/dri/{name}" for name in host.listdir("/dev/dri") if name.startswith("render"))
    assert host.owner(render) == (0, 993, 0o660)
    with pytest.raises(FileNotFoundError):
        host.owner("/dev/nvidia99")


@pytest.mark.parametrize("owner", ["root", "0:0", "0:0:0899", ""])
def test_an_owner_that_is_none_is_a_mistake_of_the_description(simulated, owner):
    with pytest.raises(errors.PolicyError, match="not of the form uid:gid:mode"):
        simulated("a30-pair", owners={"/dev/nvidia0": owner})


@pytest.mark.parametrize("images", ["x", [1], {"a": "x"}])
def test_images_that_are_none_are_a_mistake_of_the_description(simulated, images):
    with pytest.raises(errors.PolicyError, match="images"):
        simulated("a30-pair", images=images)
