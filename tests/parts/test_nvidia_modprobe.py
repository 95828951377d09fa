"""
Debian's real nvidia-modprobe makes device nodes, by files of the driver that are made here: in a mount namespace with a /dev,
/proc/driver, /proc/devices and /sys/module of its own. No driver is behind the nodes.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.support import needs

pytestmark = [pytest.mark.slow, needs.programs("unshare")]

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GPU = "0000:1b:00.0"
CAPS = {66: "gi7/access", 67: "gi7/ci0/access", 75: "gi8/access"}
#: From the release that has 570: older ones want /proc/modules, which not every kernel has.
FETCH = (str(ROOT / "tests" / "parts" / "debian"), "unpack", "nvidia-modprobe", "trixie", "contrib")
#: $1 a directory of ours, $2 whether there is a /dev/char, $3 whether the driver lets nodes be made; the rest is run.
SCRIPT = r"""
set -eu
place=$1 char=$2 modify=$3; shift 3
mount --make-rprivate /
{ echo "Character devices:"; echo "236 nvidia-caps"; echo "195 nvidia"; sed 1d /proc/devices; } >"$place/devices"
mount --bind "$place/devices" /proc/devices
mount -t tmpfs none /proc/driver
mount -t tmpfs none /sys/module
mkdir -p /proc/driver/nvidia-caps /proc/driver/nvidia/capabilities/gpu0/mig /sys/module/nvidia
echo live >/sys/module/nvidia/initstate
printf 'ModifyDeviceFiles: 1\nDeviceFileMode: 438\nDeviceFileUID: 0\nDeviceFileGID: 0\n' >/proc/driver/nvidia/params
while read -r number path; do
    echo "gpu0/$path $number" >>/proc/driver/nvidia-caps/mig-minors
    file=/proc/driver/nvidia/capabilities/gpu0/mig/$path
    mkdir -p "$(dirname "$file")"
    printf 'DeviceFileMinor: %s\nDeviceFileMode: 292\nDeviceFileModify: %s\n' "$number" "$modify" >"$file"
done <"$place/caps"
mkdir -p "$place/dev"
mount -t tmpfs none "$place/dev"
cp -a /dev/null /dev/zero /dev/urandom "$place/dev"
[ "$char" = no ] || mkdir "$place/dev/char"
mount --bind "$place/dev" /dev
exec "$@"
"""
INSIDE = r"""
import json, os, sys
from gpuslice import errors
from gpuslice.drivers import nvidia_modprobe
from gpuslice.host.real import RealHost

class Watched(RealHost):
    asked = 0
    def run(self, argv, timeout=60):
        self.asked += 1
        return super().run(argv, timeout)

host, gpu, nodes = Watched(), sys.argv[1], sys.argv[2:]
told = {"made": [], "said": "", "asked": []}
try:
    for _ in range(2):
        told["made"].append(nvidia_modprobe.make(host, gpu, nodes))
        told["asked"].append(host.asked)
except errors.GpuSliceError as err:
    told["said"] = str(err)
told["there"] = {node: [host.device_number(node), oct(os.stat(node).st_mode & 0o777)] for node in nodes if os.path.exists(node)}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The folder with the program."""
    needs.require("mounts of its own take root" if os.geteuid() else "")
    place = tmp_path_factory.mktemp("modprobe")
    done = subprocess.run([*FETCH, str(place)], capture_output=True, text=True, timeout=120, check=False)
    needs.require(needs.said({"nvidia-modprobe": "of Debian's contrib"}) if done.returncode else "")
    return str(place / "usr" / "bin")


@pytest.fixture
def make(program, tmp_path):
    """``make(nodes, char="yes", modify=1)``: what the driver file says and leaves, as a dict."""

    def run(nodes, char="yes", modify=1):
        (tmp_path / "caps").write_text("".join(f"{number} {path}\n" for number, path in CAPS.items()), encoding="utf-8")
        argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT, "x", str(tmp_path), char, str(modify)]
        environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "_utils")}
        inside = [sys.executable, "-c", INSIDE, GPU, *nodes]
        done = subprocess.run([*argv, *inside], capture_output=True, text=True, timeout=60, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def node(number):
    return f"/dev/nvidia-caps/nvidia-cap{number}"


@pytest.mark.parametrize("char", ["yes", "no"])
def test_missing_nodes_are_made_once(make, char):
    """Without /dev/char it ends with 1 at the first of them, so that there is a call for each of the others."""
    nodes = [node(number) for number in CAPS]
    found = make(nodes, char)
    assert found["said"] == "" and found["made"] == [nodes, []]
    assert found["there"] == {node(number): [f"236:{number}", "0o444"] for number in CAPS}
    assert found["asked"] == ([1, 1] if char == "yes" else [3, 3])


def test_a_driver_that_forbids_it_is_told(make):
    found = make([node(66)], modify=0)
    assert found["there"] == {}
    assert found["said"] == (
        f"GPU {GPU}: The device node {node(66)} could not be made: nvidia-modprobe ended and did not do it. The driver is "
        f"loaded with NVreg_ModifyDeviceFiles=0, so that nobody but you makes nodes: 'mknod -m 444 {node(66)} c 236 66'."
    )


def test_control_nodes_and_those_of_gpus_are_made(make):
    nodes = ["/dev/nvidia0", "/dev/nvidia3", "/dev/nvidiactl"]
    found = make(nodes)
    assert found["said"] == "" and found["made"][0] == nodes
    assert [found["there"][path][0] for path in nodes] == ["195:0", "195:3", "195:255"]
