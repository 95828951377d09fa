"""
Our CDI files and a real Podman, with runc and crun, root's and a user's: a container that is given a slice opens the nodes of
that slice and those of no other.

Behind the nodes, made by mknod, is no driver, and so the answer to an open tells who gave it: "No such device or address"
(ENXIO) came from where the driver would be, "Operation not permitted" (EPERM) from the device filter, "Permission denied"
(EACCES) from the mode of the node. All is done in a mount namespace with a /dev, /run and /etc/passwd of its own and in a process
namespace that ends with the test.
"""

import errno
import functools
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from typing import NamedTuple

import pytest

from gpuslice.outputs import audit
from gpuslice.outputs import cdi
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node
from gpuslice.outputs.device import merged
from tests.support import needs

pytestmark = [pytest.mark.slow, needs.programs("podman", "runc", "crun", "newuidmap", "busybox", "unshare")]

#: $1 a directory of ours, $2 which control groups are seen (machine, unified), $3 runtime, $4 root or user, $5 control group.
SCRIPT = r"""
set -eu
place=$1 view=$2 runtime=$3 who=$4 group=$5
mount --make-rprivate /
if [ "$view" = unified ]; then
    awk '$2 ~ /^\/sys\/fs\/cgroup\//{print $2}' /proc/mounts | sort -r | while read -r point; do umount "$point"; done
    umount /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
fi
mount -t tmpfs none /run
mkdir /run/cdi /run/lock
cp "$place"/cdi/* "$place"/cdi/.[!.]* /run/cdi/
dev=$place/dev
mount -t tmpfs none "$dev"
for node in null zero full random urandom tty fuse; do [ ! -e /dev/$node ] || cp -a /dev/$node "$dev"; done
mkdir "$dev/pts" "$dev/shm" "$dev/mqueue"
ln -s /proc/self/fd "$dev/fd"
ln -s pts/ptmx "$dev/ptmx"
mount --bind /dev/pts "$dev/pts"
mount -t tmpfs none "$dev/shm"
while read -r path mode major minor; do
    mkdir -p "$(dirname "$dev/$path")"
    mknod -m "$mode" "$dev/$path" c "$major" "$minor"
done <"$place/nodes"
mount --rbind "$dev" /dev
export CONTAINERS_CONF=$place/containers.conf place runtime view who group
if [ "$who" = root ]; then
    exec sh "$place/runs"
fi
mkdir -p /run/gs/podman "$place/user"
chmod 700 /run/gs
chown -R 12345:12345 /run/gs "$place/user"
for file in passwd group subuid subgid; do
    cat "/etc/$file" "$place/etc/$file" >"$place/etc/$file.new"
    mount --bind "$place/etc/$file.new" "/etc/$file"
done
cd /
exec setpriv --reuid 12345 --regid 12345 --clear-groups env HOME=/run/gs XDG_RUNTIME_DIR=/run/gs sh "$place/runs"
"""
#: Without limits of processes and files, which not every machine lets root raise.
CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
RUNS = r"""
# crun sets no limits where there is no controller for them; without a control group it has no device filter either.
groups="--cgroup-parent=/$group"
[ "$runtime$who" != crunroot ] || [ "$view" != unified ] || groups=--cgroups=disabled
if [ "$who" = root ]; then root=$place/root run=/run/podman; else root=$place/user run=/run/gs/podman groups=--cgroups=enabled; fi
[ "$runtime$who" != crunuser ] || groups=--cgroups=disabled
pod() { podman --root "$root" --runroot "$run" --storage-driver vfs --runtime "$runtime" "$@"; }
pod import -q "$place/image.tar" localhost/gs:1 >"$place/out/import" 2>&1
while read -r name devices; do
    code=0
    pod run --rm --network=none $groups $devices -v /dev:/host -v "$place/look:/look:ro" localhost/gs:1 sh /look \
        >"$place/out/$name" 2>"$place/out/$name.log" || code=$?
    echo "$code" >"$place/out/$name.code"
done <"$place/wishes"
"""
#: In the container: what it gets of each node, by the name that it is given and by that in the host's /dev.
LOOK = r"""
echo "variable $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES"
echo "library $(cat /driver/libcuda.so 2>&1)"
for node in {nodes}; do
    for folder in /dev /host; do
        # To open for writing would make a file where there is none.
        [ -e "$folder/$node" ] || { echo "$folder $node r : no such file"; echo "$folder $node rw : no such file"; continue; }
        said=$( (: <"$folder/$node") 2>&1) || true; echo "$folder $node r $said"
        said=$( (: <>"$folder/$node") 2>&1) || true; echo "$folder $node rw $said"
    done
done
"""
#: Beside the standard ones: what a slice of each kind opens.
SLICES = {
    "mig-a": Device(
        "0000:1b:00.0-1g.10gb-0",
        (Node("/dev/nvidiactl"), Node("/dev/nvidia0"), *(Node(f"/dev/nvidia-caps/nvidia-cap{n}", "r") for n in (66, 67))),
        (("CUDA_VISIBLE_DEVICES", "MIG-a"),),
    ),
    "mig-b": Device(
        "0000:1b:00.0-1g.10gb-1",
        (Node("/dev/nvidiactl"), Node("/dev/nvidia0"), *(Node(f"/dev/nvidia-caps/nvidia-cap{n}", "r") for n in (75, 76))),
        (("CUDA_VISIBLE_DEVICES", "MIG-b"),),
    ),
    "gpu": Device(
        "0000:43:00.0", (Node("/dev/nvidiactl"), Node("/dev/nvidia1")), (("CUDA_VISIBLE_DEVICES", "GPU-1"),)
    ),
    "partition-a": Device("0000:05:00.0-cpx-0", (Node("/dev/kfd"), Node("/dev/dri/renderD128"))),
    "partition-b": Device("0000:05:00.0-cpx-1", (Node("/dev/kfd"), Node("/dev/dri/renderD129"))),
    "vf": Device("0000:03:00.1", (Node("/dev/dri/card2"), Node("/dev/dri/renderD130"))),
    "passed": Device("0000:03:00.2", (Node("/dev/vfio/42"),)),
}  # fmt: skip
CONSUMERS = {"both": merged("trainer", [SLICES["mig-a"], SLICES["gpu"]])}
NODES = list(dict.fromkeys(node.path.removeprefix("/dev/") for device in SLICES.values() for node in device.nodes))
DEVICES = {**SLICES, **CONSUMERS}


def foreign(kind, version="0.3.0"):
    """A CDI file of somebody else with the device x."""
    return json.dumps({"cdiVersion": version, "kind": f"example.com/{kind}", "devices": [X]})


def installed():
    """Version of Podman."""
    done = subprocess.run(["podman", "--version"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.split()[-1]


X = {"name": "x", "containerEdits": {"env": ["CUDA_VISIBLE_DEVICES=x"]}}
VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
#: Kind of a file of somebody else -> whether Podman finds its device; what the audit goes by.
RULES = {"alone": True, "hidden": True, "yml": False, "twice": False, "newest": True, "newer": False}
#: Files of others beside ours; a broken one does the rest no harm.
OTHERS = {
    "alone.json": foreign("alone"), "broken.json": "{", ".hidden.json": foreign("hidden"), "y.yml": foreign("yml"),
    "twice.json": foreign("twice"), "twice-more.json": foreign("twice"),
}  # fmt: skip
HOOK = "#!/bin/busybox sh\n/bin/busybox cat >/dev/null\n/bin/busybox echo called >>{place}/hooked/called\n"


class Way(NamedTuple):
    """One way to run containers."""

    view: str
    runtime: str
    who: str

    @property
    def filters(self):
        """Whether a device filter stands before the nodes; without one the path and the mode of a node decide alone."""
        return self.who == "root" and self.runtime == "runc"

    def __str__(self):
        return "-".join(self)


WAYS = [
    Way("machine", "runc", "root"), Way("unified", "runc", "root"), Way("unified", "crun", "root"),
    Way("machine", "runc", "user"), Way("unified", "crun", "user"),
]  # fmt: skip


class Ran(NamedTuple):
    """
    What the containers said.

    :ivar answers: name of the run -> (folder, node, mode) -> errno, 0 for an open that worked. :ivar said: name -> other lines.
    :ivar codes: name -> exit status. :ivar logs: name -> what Podman said. :ivar hooked: how often the hook was called.
    """

    way: Way
    answers: dict
    said: dict
    codes: dict
    logs: dict
    hooked: int


@pytest.fixture(scope="module")
def made():
    """``made(way)``: all runs of that way, made once."""
    needs.require("a /dev of its own takes root" if os.geteuid() else "")
    return functools.cache(run)


@pytest.fixture(params=WAYS, ids=str)
def ran(request, made):
    """All runs of one way."""
    return made(request.param)


@pytest.fixture(params=[way for way in WAYS if way.filters], ids=str)
def filtered(request, made):
    """All runs of one way with a device filter."""
    return made(request.param)


def run(way):
    """Start containers, one for each wish, and read what they say."""
    group = f"gpu-slicing-test-{os.getpid()}"
    command = ["unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c", SCRIPT]
    # Not among the directories of pytest, which are closed to all other users.
    place = pathlib.Path(tempfile.mkdtemp(prefix="gs-podman-", dir="/tmp"))
    try:
        place.chmod(0o755)
        prepare(place)
        argv = [*command, "podman", str(place), *way, group]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return read(place, way)
    finally:
        sweep = f"find /sys/fs/cgroup -depth -type d -path '*/{group}*' -exec rmdir {{}} \\; 2>/dev/null"
        subprocess.run(["sh", "-c", sweep], timeout=30, check=False)
        shutil.rmtree(place, ignore_errors=True)


def prepare(place):
    """Write all that the script takes: the CDI files, the nodes to make, an image and who asks for what."""
    for folder in ("cdi", "dev", "etc", "out", "hooked", "root"):
        (place / folder).mkdir()
    for folder in ("out", "hooked"):
        (place / folder).chmod(0o777)
    (place / "hook").write_text(HOOK.format(place=place), encoding="utf-8")
    (place / "hook").chmod(0o755)
    (place / "libcuda.so").write_text("of the driver\n", encoding="utf-8")
    mount = Mount(str(place / "libcuda.so"), "/driver/libcuda.so", ("ro", "nosuid", "nodev", "bind"))
    common = cdi.Common(
        {
            **cdi.PLAIN,
            # Beside the one that each of the devices has.
            "deviceNodes": [{"path": "/dev/nvidiactl", "permissions": "rw"}],
            "mounts": [{"hostPath": mount.source, "containerPath": mount.target, "options": list(mount.options)}],
            "hooks": [{"hookName": "createContainer", "path": str(place / "hook"), "args": ["hook"]}],
        }
    )
    for file in cdi.files(SLICES.values(), CONSUMERS.values(), common):
        (place / "cdi" / os.path.basename(file.path)).write_text(file.text, encoding="utf-8")
    newest = audit.podman_reads(installed())
    newer = VERSIONS[VERSIONS.index(newest) + 1] if newest != VERSIONS[-1] else "9.9.9"
    versions = {"newest.json": foreign("newest", newest), "newer.json": foreign("newer", newer)}
    for name, text in {**OTHERS, **versions}.items():
        (place / "cdi" / name).write_text(text, encoding="utf-8")
    major = free_major()
    modes = [444 if "caps" in node else 666 for node in NODES]
    lines = [f"{node} {mode} {major} {number}" for number, (node, mode) in enumerate(zip(NODES, modes, strict=True))]
    (place / "nodes").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    asked = {name: f"--device {cdi.qualified(cdi.SLICE, device.name)}" for name, device in SLICES.items()}
    asked |= {name: f"--device {cdi.qualified(cdi.CONSUMER, device.name)}" for name, device in CONSUMERS.items()}
    asked |= {"nothing": "", "unknown": f"--device {cdi.qualified(cdi.SLICE, 'nobody')}"}
    asked |= {name: f"--device example.com/{name}=x" for name in RULES}
    (place / "wishes").write_text("".join(f"{name} {words}\n" for name, words in asked.items()), encoding="utf-8")
    for name, text in (("containers.conf", CONF), ("runs", RUNS), ("look", LOOK.replace("{nodes}", " ".join(NODES)))):
        (place / name).write_text(text, encoding="utf-8")
    entries = {"passwd": "gs:x:12345:12345::/run/gs:/bin/sh", "group": "gs:x:12345:", **dict.fromkeys(("subuid", "subgid"), IDS)}
    for name, line in entries.items():
        (place / "etc" / name).write_text(f"{line}\n", encoding="utf-8")
    image(place / "image.tar")


#: Numbers that no other user of this machine has.
IDS = "gs:1900000000:65536"


def free_major():
    """A major number behind which is no driver."""
    taken = {int(number) for number in re.findall(r"^\s*(\d+) ", pathlib.Path("/proc/devices").read_text(encoding="utf-8"), re.M)}
    return next(number for number in range(240, 255) if number not in taken)


def image(path):
    """An image of busybox alone."""
    with tarfile.open(path, "w") as tar:
        for folder in ("bin", "dev", "proc", "sys", "tmp", "etc", "run"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(needs.path("busybox"), "bin/busybox")
        for name in ("sh", "cat"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        users = b"root:x:0:0::/:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        tar.addfile(entry, io.BytesIO(users))


WORDS = {
    "No such device or address": errno.ENXIO, "Operation not permitted": errno.EPERM, "Permission denied": errno.EACCES,
    "no such file": errno.ENOENT, "": 0,
}  # fmt: skip


def read(place, way):
    """What the runs left behind, as :class:`Ran`."""
    answers, said, codes, logs = {}, {}, {}, {}
    for path in sorted((place / "out").glob("*.code")):
        name = path.stem
        codes[name] = int(path.read_text(encoding="utf-8"))
        logs[name] = (place / "out" / f"{name}.log").read_text(encoding="utf-8")
        lines = (place / "out" / name).read_text(encoding="utf-8").splitlines()
        opened = [line.split(" ", 3) for line in lines if line.startswith(("/dev ", "/host "))]
        answers[name] = {(folder, node, mode): WORDS[text.rpartition(": ")[2]] for folder, node, mode, text in opened}
        said[name] = [line for line in lines if not line.startswith(("/dev ", "/host "))]
    called = place / "hooked" / "called"
    return Ran(way, answers, said, codes, logs, called.read_text(encoding="utf-8").count("called") if called.exists() else 0)


def permissions(name):
    """Node -> permissions of the device by that name, without /dev/."""
    return {node.path.removeprefix("/dev/"): node.permissions for node in DEVICES[name].nodes}


@pytest.mark.parametrize("name", DEVICES)
def test_a_container_opens_the_nodes_of_its_slice(ran, name):
    assert ran.codes[name] == 0, ran.logs[name]
    for node, allowed in permissions(name).items():
        assert ran.answers[name]["/dev", node, "r"] == errno.ENXIO, node
        if allowed == "rw":
            assert ran.answers[name]["/dev", node, "rw"] == errno.ENXIO, node


@pytest.mark.parametrize("name", DEVICES)
def test_a_container_has_no_node_of_any_other_slice(ran, name):
    others = [node for node in NODES if node not in permissions(name)]
    assert others
    assert {ran.answers[name]["/dev", node, mode] for node in others for mode in ("r", "rw")} == {errno.ENOENT}


@pytest.mark.parametrize("name", [*DEVICES, "nothing"])
def test_the_filter_denies_other_slices_even_to_whom_their_nodes_are_shown(filtered, name):
    """The host's /dev is mounted into the container, which a user can do: only where there is a filter this stops it."""
    mine = permissions(name) if name in DEVICES else {}
    for node in NODES:
        allowed = mine.get(node, "")
        answers = [filtered.answers[name]["/host", node, mode] for mode in ("r", "rw")]
        assert answers == [errno.ENXIO if allowed[: len(mode)] == mode else errno.EPERM for mode in ("r", "rw")], node


@pytest.mark.parametrize("name", ["mig-a", "mig-b", "both"])
def test_a_capability_can_only_be_read(filtered, name):
    for node in (node for node, allowed in permissions(name).items() if allowed == "r"):
        assert filtered.answers[name]["/dev", node, "rw"] == errno.EPERM, node


@pytest.mark.parametrize("way", [way for way in WAYS if way.who == "user"], ids=str)
def test_a_users_container_can_only_read_a_capability_by_its_mode(made, way):
    found = made(way).answers
    assert [found["mig-a"]["/dev", f"nvidia-caps/nvidia-cap{n}", "rw"] for n in (66, 67)] == [errno.EACCES] * 2


def test_the_drivers_part_goes_to_nvidias_slices_and_to_no_others(ran):
    assert ran.said["mig-a"] == ["variable MIG-a void", "library of the driver"]
    assert ran.said["both"] == ["variable MIG-a,GPU-1 void", "library of the driver"]
    others = [name for name in SLICES if name not in ("mig-a", "mig-b", "gpu")]
    for name in others:
        assert ran.said[name][0] == "variable  " and "can't open" in ran.said[name][1], name
    assert ran.hooked == len(DEVICES) - len(others)


@pytest.mark.parametrize("name", RULES)
def test_files_of_others_are_read_by_the_rules_that_the_audit_goes_by(ran, name):
    assert (ran.codes[name] == 0) is RULES[name], ran.logs[name]
    if not RULES[name]:
        assert f"unresolvable CDI devices example.com/{name}=x" in ran.logs[name]


def test_a_name_that_is_not_there_starts_nothing(ran):
    assert ran.codes["unknown"] != 0 and ran.answers["unknown"] == {}
    assert "unresolvable CDI devices gpu-slicing/slice=nobody" in ran.logs["unknown"]
    assert ran.codes["nothing"] == 0
