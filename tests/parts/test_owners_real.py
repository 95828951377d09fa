"""
What others leave on a node, written by their own programs: definitions of mdevctl, units that systemd's own systemctl enables and
masks. It is read as on a real host, in a folder that stands for its root.
"""

import os
import subprocess

from gpuslice.host.real import RealHost
from gpuslice.inventory import owners
from gpuslice.model import Gpu
from tests.support import needs

A16 = Gpu("0000:3b:00.0", "nvidia", "25b6", virtual_functions={"total": 16, "enabled": 0, "addresses": ()})
OTHER = Gpu("0000:86:00.0", "nvidia", "1eb8", virtual_functions={"total": 0, "enabled": 0, "addresses": ()})
UUID = "14c489aa-632a-43a2-b862-8db65b7bf069"
UNIT = "[Service]\nType=oneshot\nExecStart={}\n[Install]\nWantedBy=multi-user.target nvidia-gpu-reset.target\n"


class Rooted(RealHost):
    """The machine whose root is a folder: links lead to where they lead there."""

    def __init__(self, root):
        super().__init__()
        self._root = str(root)

    def _at(self, path):
        while os.path.islink(f"{self._root}{path}"):
            path = os.path.join(os.path.dirname(path), os.readlink(f"{self._root}{path}"))
        return f"{self._root}{path}"

    def read(self, path):
        return super().read(self._at(path))

    def listdir(self, path):
        return super().listdir(self._at(path))

    def exists(self, path):
        return super().exists(self._at(path))

    def stamp(self, path):
        return super().stamp(self._at(path))

    def readlink(self, path):
        return super().readlink(f"{self._root}{path}")


def found(root):
    """Name -> owner of the machine in a folder."""
    return {owner.name: owner for owner in owners.found(Rooted(root), [A16, OTHER])}


def run(*argv):
    """Run a program, which has to succeed."""
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)


def test_links_that_lead_nowhere_or_in_a_circle_are_of_nobody(tmp_path):
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "nvidia-mig-manager.service").symlink_to("/usr/lib/systemd/system/nvidia-mig-manager.service")
    (wants / "pve-nvidia-sriov@ALL.service").symlink_to("../pve-nvidia-sriov@.service")
    (wants.parent / "pve-nvidia-sriov@.service").symlink_to("/usr/lib/gone.service")
    assert owners.found(Rooted(tmp_path), [A16]) == []
    unit = tmp_path / "usr/lib/systemd/system/nvidia-mig-manager.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(UNIT.format("/bin/true"))
    assert list(found(tmp_path)) == ["mig-manager"]


def test_pipes_and_what_is_too_long_keep_nobody(tmp_path):
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    for folder in (wants, tmp_path / "etc/mdevctl.d/0000:3b:00.4", tmp_path / "etc/driverctl.d", tmp_path / "etc/udev/rules.d"):
        folder.mkdir(parents=True)
    os.mkfifo(wants / "a.service")
    for pipe in (f"mdevctl.d/0000:3b:00.4/{UUID}", "driverctl.d/pci-0000:3b:00.0", "udev/rules.d/70-x.rules"):
        os.mkfifo(tmp_path / "etc" / pipe)
    (wants / "b.service").write_bytes(b"\xff\x00ExecStart=" * 900000)
    (wants / "c.service").mkdir()
    assert found(tmp_path) == {}


def test_a_definition_that_mdevctl_writes_is_read(tmp_path):
    needs.require(needs.lacking("mdevctl", "unshare"))
    place = tmp_path / "etc" / "mdevctl.d"
    for folder in ("callouts", "notifiers"):
        # It wants the folders of its package.
        (place / "scripts.d" / folder).mkdir(parents=True)

    def mdevctl(*arguments):
        inside = 'mount --bind "$0" /etc/mdevctl.d && exec mdevctl "$@"'
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        run("unshare", *own, "--mount", "sh", "-c", inside, str(place), *arguments)

    mdevctl("define", "--uuid", UUID, "--parent", "0000:3b:00.4", "--type", "nvidia-558", "--auto")
    [owner] = found(tmp_path).values()
    assert owner.name == "mdevctl" and owner.gpus == (A16.address,) and owner.owns("vgpu", A16) and not owner.owns("vgpu", OTHER)
    assert owner.seen == (f"/etc/mdevctl.d/0000:3b:00.4/{UUID} starts at each boot",)
    mdevctl("modify", "--uuid", UUID, "--parent", "0000:3b:00.4", "--manual")
    assert found(tmp_path) == {}
    mdevctl("define", "--uuid", UUID[:-1] + "a", "--parent", OTHER.address, "--type", "nvidia-222", "--auto")
    assert found(tmp_path)["mdevctl"].gpus == (OTHER.address,)
    mdevctl("undefine", "--uuid", UUID[:-1] + "a")
    assert found(tmp_path) == {}


def test_units_are_seen_as_systemctl_leaves_them(tmp_path):
    needs.require(needs.lacking("systemctl"))
    units = tmp_path / "usr" / "lib" / "systemd" / "system"
    units.mkdir(parents=True)
    (tmp_path / "usr" / "local" / "sbin").mkdir(parents=True)
    (tmp_path / "usr" / "local" / "sbin" / "cut.sh").write_text("#!/bin/sh\nnvidia-smi mig -cgi 9,9 -C\n", encoding="utf-8")
    (tmp_path / "etc").mkdir()
    programs = {"nvidia-mig-manager": "/bin/true", "pve-nvidia-sriov@": "/bin/true %i", "g": "/usr/local/sbin/cut.sh"}
    for name, program in programs.items():
        (units / f"{name}.service").write_text(UNIT.format(program), encoding="utf-8")
    assert found(tmp_path) == {}

    def systemctl(verb, unit):
        run("systemctl", "--root", str(tmp_path), verb, unit)

    systemctl("enable", "nvidia-mig-manager.service")
    systemctl("enable", f"pve-nvidia-sriov@{A16.address}.service")
    systemctl("enable", "g.service")
    there = found(tmp_path)
    assert list(there) == ["mig-manager", "pve-nvidia-sriov", "g.service"]
    assert there["mig-manager"].seen == ("nvidia-mig-manager.service is enabled",)
    assert there["pve-nvidia-sriov"].gpus == (A16.address,)
    assert there["g.service"].seen == ("it calls /usr/local/sbin/cut.sh, which sets GPUs",)
    systemctl("mask", "nvidia-mig-manager.service")
    systemctl("disable", "g.service")
    assert list(found(tmp_path)) == ["pve-nvidia-sriov"]
