"""
A device is known by its number, whatever the node is called: real processes with real descriptors, in which the numbers of
/dev/null, /dev/zero and /dev/full stand for those of three GPUs; and simulated hosts with containers that have other names.
"""

import os
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.engine import Engine
from gpuslice.host import holders
from gpuslice.host.real import RealHost
from gpuslice.model import Process
from tests.support import pillars
from tests.support.hosts import config

NULL, ZERO, FULL = "1:3", "1:5", "1:7"
MEMORY = {1}
#: Opens its argument, renames or removes the node as it is told to, and stays until its input ends.
HOLDER = """
import os, sys
held = open(sys.argv[1])
if sys.argv[2:]:
    os.rename(sys.argv[1], sys.argv[2]) if sys.argv[2] != "remove" else os.unlink(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(*arguments, before=()):
    """A process of ours that has a file open; yields its number."""
    argv = [*before, sys.executable, "-c", HOLDER, *map(str, arguments)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline().strip() == b"ready"
            yield child.pid
        finally:
            child.stdin.close()


@pytest.fixture
def node(tmp_path):
    """Make a node of a character device: the function of path below tmp_path and number."""

    def make(path, number):
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        major, minor = map(int, number.split(":"))
        try:
            os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(major, minor))
            with open(place, encoding="ascii"):
                return place
        except PermissionError:
            pytest.skip("making and opening device nodes takes root, and a file system that allows it")

    return make


def scanned(pid, **more):
    """What a scan tells of this process, None when it has no GPU open."""
    return next((one for one in holders.scan_proc(**{"majors": MEMORY, **more}) if one.pid == pid), None)


def test_the_number_counts_and_not_the_name(node, tmp_path):
    """A container's ``renderD128`` is the second GPU of the host."""
    inside = node("dev/dri/renderD128", ZERO)
    with holding(inside) as pid:
        found = scanned(pid, dev=str(tmp_path / "dev"))
    assert (found.nodes, found.numbers) == ((str(inside),), (ZERO,))
    assert found.has_open("/dev/dri/renderD136", ZERO) and not found.has_open("/dev/dri/renderD128", NULL)
    assert not found.has_open(str(inside), NULL)


def test_a_node_made_elsewhere_under_any_name_counts(node):
    with holding(node("hidden/innocent", FULL)) as pid:
        assert scanned(pid).has_open("/dev/nvidia0", FULL)
    assert scanned(pid) is None


@pytest.mark.parametrize("fate", ["remove", "other"])
def test_a_node_that_was_removed_or_renamed_counts(node, tmp_path, fate):
    place = node("dev/nvidia0", NULL)
    with holding(place, fate if fate == "remove" else tmp_path / "other") as pid:
        found = scanned(pid)
    assert found.has_open("/dev/nvidia0", NULL) and found.nodes == (str(place if fate == "remove" else tmp_path / "other"),)


def test_a_node_of_another_mount_namespace_counts(node, tmp_path):
    """As in a container: its /dev is a file system that only it has."""
    place = node("outside", ZERO)
    (tmp_path / "inside").mkdir()
    script = f'mount -t tmpfs none {tmp_path}/inside && cp -a {place} {tmp_path}/inside/nvidia0 && exec "$@"'
    try:
        with holding(tmp_path / "inside" / "nvidia0", before=["unshare", "--mount", "sh", "-c", script, "sh"]) as pid:
            found = scanned(pid, dev=str(tmp_path / "inside"))
    except (AssertionError, FileNotFoundError):
        pytest.skip("mounting in a namespace of one's own takes root")
    assert found.numbers == (ZERO,) and not os.path.exists(tmp_path / "inside" / "nvidia0")


def test_a_process_with_two_devices_under_one_name_has_both(node, tmp_path):
    first = node("dev/nvidia0", NULL)
    with open(first, encoding="ascii"):
        first.unlink()
        with open(node("dev/nvidia0", ZERO), encoding="ascii"):
            found = scanned(os.getpid(), dev=str(tmp_path / "dev"))
    assert {(str(first), NULL), (str(first), ZERO)} <= set(zip(found.nodes, found.numbers, strict=True))


def test_a_plain_file_of_that_name_is_no_device(tmp_path):
    (tmp_path / "nvidia0").touch()
    with holding(tmp_path / "nvidia0") as pid:
        found = scanned(pid, dev=str(tmp_path))
    assert found.numbers == ("0:0",) and not found.has_open(f"{tmp_path}/nvidia0", NULL)
    # Where the host can't tell its own number, the name is all there is.
    assert found.has_open(f"{tmp_path}/nvidia0", "")


def test_other_devices_are_no_gpus():
    with holding("/dev/null") as pid:
        assert scanned(pid, majors={226}) is None
        assert scanned(pid).nodes == ("/dev/null",)


def test_files_on_other_than_local_file_systems_are_not_asked(tmp_path):
    """A server that is gone would keep whoever asks for ever."""
    text = "\n".join(
        f"{number} 1 0:{number} / /m{number} {options} - {kind} source rw"
        for number, (options, kind) in enumerate([
            ("rw,relatime", "ext4"), ("rw", "nfs4"), ("rw,nosuid,nodev", "tmpfs"), ("rw shared:7", "devtmpfs"),
            ("rw", "fuse.sshfs"), ("rw master:1", "overlay"), ("rw", "lustre"),
        ])
    )  # fmt: skip
    assert set(holders._local_mounts(text + "\nrubbish\n")) == {"0", "3", "5"}


def test_the_majors_of_gpu_drivers():
    text = (
        "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n226 drm\n235 nvidia-caps\n241 kfd\n243 vfio\n244 vfio-dev\n"
        "510 nvidia-uvm\n 10 misc\n\nBlock devices:\n  8 sd\n226 drm\n"
    )
    assert holders._majors(text) == {195, 226, 235, 241, 243, 244, 510}
    assert holders._majors("Block devices:\n226 drm\n") == set()


@pytest.mark.parametrize(
    ("nodes", "numbers", "found"),
    [
        (("/dev/dri/renderD128",), ("226:136",), False),
        (("/dev/dri/renderD136",), ("226:128",), True),
        (("/dev/dri/renderD128",), ("",), True),
        (("/dev/dri/renderD136",), ("",), False),
        (("/dev/dri/renderD128",), (), True),
    ],
)
def test_the_name_is_asked_only_where_no_number_is_known(nodes, numbers, found):
    assert Process(1, "one", nodes=nodes, numbers=numbers).has_open("/dev/dri/renderD128", "226:128") is found


# -- the host's own numbers ----------------------------------------------------------------------------------------------
class Files(RealHost):
    """A real host, of which some files are others."""

    def __init__(self, files):
        super().__init__()
        self.files = files

    def read(self, path):
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.files[path]


DEVICES = "Character devices:\n195 nvidia\n195 nvidia-modeset\n235 nvidia-caps\n"


@pytest.mark.parametrize(
    ("node", "files", "number"),
    [
        ("/dev/dri/renderD129", {"/sys/class/drm/renderD129/dev": "226:129"}, "226:129"),
        ("/dev/kfd", {"/sys/class/kfd/kfd/dev": "241:0"}, "241:0"),
        ("/dev/vfio/12", {"/sys/class/vfio/12/dev": "243:3"}, "243:3"),
        ("/dev/vfio/noiommu-0", {"/sys/class/vfio/noiommu-0/dev": "243:0"}, "243:0"),
        ("/dev/vfio/devices/vfio4", {"/sys/class/vfio-dev/vfio4/dev": "244:4"}, "244:4"),
        ("/dev/nvidia3", {"/proc/devices": DEVICES}, "195:3"),
        ("/dev/nvidia3", {"/proc/devices": "Character devices:\n195 nvidia-frontend\n"}, "195:3"),
        ("/dev/nvidia-caps/nvidia-cap21", {"/proc/devices": DEVICES}, "235:21"),
        ("/dev/nvidia3", {}, ""),
        ("/dev/null", {}, NULL),
        ("/etc/passwd", {}, ""),
    ],
)
def test_where_the_number_of_a_node_is_found(node, files, number):
    assert device_nodes.device_number(Files(files), node) == number


# -- as a user has it ----------------------------------------------------------------------------------------------------


def blocked(host, wanted):
    with Engine(config(host)) as engine:
        return dict(engine.plan(wanted).blocked)


def render(host, address):
    return next(f"/dev/dri/{name}" for name in host.listdir(f"/sys/bus/pci/devices/{address}/drm") if "render" in name)


def test_a_container_with_the_second_gpu_under_the_name_of_the_first(simulated):
    """The GPU in use is refused and the idle one is free, whatever both are called in the container."""
    host = simulated("mi300x-8")
    first, second = "0000:05:00.0", "0000:26:00.0"
    inside = {render(host, second): render(host, first)}
    host.add_process({"pid": 77, "command": "serve", "container": "c0ffee123456", "nodes": list(inside), "shown_as": inside})
    found = blocked(host, pillars.for_all("partition", {"compute": "CPX", "memory": "NPS1"}))
    assert set(found) == {second} and "pid 77 (serve, container c0ffee123456)" in found[second]


def test_a_mig_slice_under_another_capability_node(simulated):
    gpus = [{"model": "a100-40gb", "address": "0000:07:00.0", "mig": "enabled", "instances": ["3g.20gb@0", "2g.10gb@4"]}]
    host = simulated("dgx-a100-40gb", gpus=gpus)
    with Engine(config(host)) as engine:
        caps = [part["device_nodes"][-1] for part in engine.slices()]
    holder = {"pid": 5, "command": "job", "nodes": [caps[1]], "shown_as": {caps[1]: caps[0]}}
    host.add_process(holder)
    with Engine(config(host)) as engine:
        used = {part["profile"]: [p["pid"] for p in part["in_use_by"]] for part in engine.slices()}
    assert used == {"3g.20gb": [], "2g.10gb": [5]}
    assert "pid 5" in " ".join(blocked(host, pillars.for_all("mig", {"profiles": ["3g.20gb@0"]})).values())
    assert not blocked(host, pillars.for_all("mig", {"profiles": ["2g.10gb@4"]}))


def test_a_whole_gpu_under_another_number(simulated):
    host = simulated("dgx-a100-40gb")
    addresses = list(host.state()["gpus"])
    host.add_process(
        {"pid": 5, "command": "mon", "type": "monitor", "nodes": ["/dev/nvidia1"], "shown_as": {"/dev/nvidia1": "/dev/nvidia0"}}
    )
    with Engine(config(host)) as engine:
        assert engine.holders(addresses[0]) == []
        assert [one["pid"] for one in engine.holders(addresses[1])] == [5]


def test_the_group_of_a_virtual_machine_under_another_number(simulated):
    host = simulated("mixed-vendors")
    one, other = "0000:8a:00.0", "0000:9a:00.0"
    given = {"containers_gpu_slicing": {"enabled": True, "strategy": "passthrough"}}
    with Engine(config(host)) as engine:
        assert engine.apply(given).ok
    groups = [f"/dev/vfio/{host.readlink(f'/sys/bus/pci/devices/{gpu}/iommu_group')}" for gpu in (one, other)]
    host.add_process({"pid": 5, "command": "qemu", "nodes": [groups[1]], "shown_as": {groups[1]: groups[0]}})
    with Engine(config(host)) as engine:
        assert engine.holders(one) == [] and [process["pid"] for process in engine.holders(other)] == [5]
        used = {part["gpu"]: [p["pid"] for p in part["in_use_by"]] for part in engine.slices()}
    assert used[one] == [] and used[other] == [5]


def test_a_simulated_process_with_odd_names_is_told(simulated):
    host = simulated("mixed-vendors")
    with pytest.raises(errors.PolicyError, match="shown_as: must be a mapping"):
        host.add_process({"pid": 5, "nodes": ["/dev/kfd"], "shown_as": ["/dev/kfd"]})

#: Mounts a file system on its argument that its own program never answers for, and has its root open.
UNANSWERED = """
import ctypes, os, sys
mine = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"nobody", sys.argv[1].encode(), b"fuse", 0, b"fd=%d,rootmode=40000,user_id=0,group_id=0" % mine):
    sys.exit("can't be mounted")
held = os.open(sys.argv[1], os.O_PATH)
print("ready", flush=True)
sys.stdin.read()
"""
#: Prints what a scan with another /dev tells of the process.
SCAN = "print([one.numbers for one in holders.scan_proc(dev=sys.argv[2], majors={226}) if one.pid == int(sys.argv[3])])"
#: Prints who holds a lock that nobody else has open.
LOCK = "print(holders.of_lock(os.open(sys.argv[2] + '/lock', os.O_RDWR | os.O_CREAT)))"


@pytest.mark.parametrize(("looks", "tells"), [(SCAN, "[('',)]"), (LOCK, "[]")])
def test_a_file_system_that_a_user_laid_over_dev_is_not_waited_for(repo, tmp_path, looks, tells):
    """
    Any user can do that in name spaces of his own; a root that asks such a file for its kind waits as long as he likes. One that
    is called as a GPU's counts as what it is called.
    """
    place = tmp_path / "dev" / "dri" / "card0"
    place.mkdir(parents=True)
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", UNANSWERED, str(place)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            if child.stdout.readline().strip() != b"ready":
                pytest.skip("name spaces of one's own, or FUSE in them, are not allowed here")
            program = f"import os, sys; sys.path.insert(0, sys.argv[1]); from gpuslice.host import holders; {looks}"
            looking = [sys.executable, "-c", program, str(repo / "_utils"), str(tmp_path / "dev"), str(child.pid)]
            with subprocess.Popen(looking, stdout=subprocess.PIPE, text=True) as scanning:
                try:
                    assert scanning.communicate(timeout=20)[0].strip() == tells
                finally:
                    # Who waits for it is set free by its end.
                    child.kill()
                    scanning.kill()
        finally:
            child.kill()


def test_an_overlay_is_asked_only_where_the_system_mounted_it():
    """In a user's own mount name space it may lie on a file system of that kind."""
    assert holders._is_of_the_system("/proc/self/ns/mnt") and not holders._is_of_the_system("/proc/self/ns/none")
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "echo ready; read x"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        if child.stdout.readline().strip() != b"ready":
            pytest.skip("name spaces of one's own are not allowed here")
        assert not holders._is_of_the_system(f"/proc/{child.pid}/ns/mnt")
        child.stdin.close()
    line = "9 1 0:9 / / rw - overlay overlay rw"
    assert list(holders._local_mounts(line)) == ["9"] and not list(holders._local_mounts(line, {"tmpfs"}))


def test_a_process_whose_first_thread_has_ended_still_holds_its_devices():
    ends = """
import ctypes, os, threading, time
held = os.open("/dev/full", os.O_RDONLY)
threading.Thread(target=lambda: (time.sleep(0.2), print("ready", flush=True), os.read(0, 1), os._exit(0))).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", ends], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().strip() == b"ready"
        assert os.listdir(f"/proc/{child.pid}/fd") == []
        assert scanned(child.pid).has_open("/dev/nvidia0", FULL)
        child.stdin.close()
