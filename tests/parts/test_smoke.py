"""
The smoke test of consumers by the real systemd and the real Podman of this machine, in a container that is booted for it: the
engine itself starts what it tries, and nodes without a driver behind them tell what can be opened.
"""

import json
import os
import pathlib
import sys

import pytest

import gpuslice
from gpuslice.outputs import service
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node
from tests.parts import containers
from tests.parts import test_cdi_podman
from tests.support import needs

pytestmark = [
    pytest.mark.slow, needs.programs("podman", "runc", "crun", "newuidmap", "busybox", "systemd-nspawn", "unshare"),
]  # fmt: skip

COMMON = (Node("/dev/nvidiactl"), Node("/dev/nvidia0"))
A = Device("a", (*COMMON, Node("/dev/nvidia-caps/nvidia-cap21", "r")))
B = Device("b", (*COMMON, Node("/dev/nvidia-caps/nvidia-cap30", "r")))
C = Device("c", (Node("/dev/nvidiactl"), Node("/dev/nvidia1")))
MINE = [node.path for node in A.nodes]
THEIRS = ["/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia1"]
NODES = {
    "/dev/nvidiactl": "666 {major} 255", "/dev/nvidia0": "666 {major} 0", "/dev/nvidia1": "666 {major} 1",
    "/dev/nvidia-caps/nvidia-cap21": "444 {major} 21", "/dev/nvidia-caps/nvidia-cap30": "444 {major} 30",
}  # fmt: skip
#: Who is tried -> the consumer, what opens his slice, and the OCI runtime where there is one.
TRIED = {
    "service": (Consumer("plain", "service", unit="plain.service"), A, ""),
    "loose": (Consumer("loose", "service", unit="loose.service"), A, ""),
    "shut": (Consumer("shut", "service", unit="shut.service"), A, ""),
    "private": (Consumer("private", "service", unit="private.service"), A, ""),
    "user": (Consumer("ann", "user", user="ann"), A, ""),
    "runc": (Consumer("a", "device"), A, "runc"),
    "other": (Consumer("b", "device"), A, "runc"),
    "rootless": (Consumer("a", "device", user="ann"), A, "crun"),
    "gone": (Consumer("nobody", "device"), A, "runc"),
}
PLAIN = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
PROGRAM = """
import json, os, subprocess, sys
sys.path.insert(0, "/probe/lib")
from gpuslice.host.real import RealHost
from gpuslice.outputs import cdi
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device, Node
from gpuslice.techniques.consumers import smoke

def device(found):
    return Device(found[0], tuple(Node(*node) for node in found[1]))

told = json.load(open("/probe/told.json"))
os.makedirs(cdi.FOLDER, exist_ok=True)
for file in cdi.files([], [device(each) for each in told["devices"]]):
    open(file.path, "w").write(file.text)
os.makedirs("/run/user/1000", mode=0o700)
os.chown("/run/user/1000", 1000, 1000)
found = {}
for name, (consumer, mine, runtime) in told["tried"].items():
    os.environ["CONTAINERS_CONF"] = f"/probe/{runtime or 'runc'}.conf"
    consumer = Consumer(**consumer)
    if runtime:
        as_user = ["runuser", "-u", "ann", "--", "env", "HOME=/home/ann", "XDG_RUNTIME_DIR=/run/user/1000"]
        load = ["podman", "import", "-q", "/probe/image.tar", "localhost/gs:1"]
        subprocess.run([*as_user, *load] if consumer.user else load, check=False, cwd="/")
    found[name] = smoke.run(RealHost(), consumer, device(mine), map(device, told["devices"]), "localhost/gs:1")._asdict()
json.dump(found, open("/out/found.json", "w"))
"""
CONF = test_cdi_podman.CONF + 'runtime = "{runtime}"\n'
STORAGE = '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'


def of_service(name, override=""):
    file = service.drop_in(TRIED[name][0], A)
    unit = file.path.rsplit("/", 2)[1].removesuffix(".d")
    own = {f"/etc/systemd/system/{unit}": PLAIN, file.path: file.text}
    return {**own, **({f"/etc/systemd/system/{unit}.d/override.conf": override} if override else {})}


def entries(name, line):
    return pathlib.Path("/etc", name).read_text(encoding="utf-8") + f"{line}\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Who was tried -> what came of it."""
    needs.require(containers.missing(containers.OWN))
    place = tmp_path_factory.mktemp("boot")
    engine = pathlib.Path(gpuslice.__file__).parent
    lib = {f"/probe/lib/gpuslice/{path.relative_to(engine)}": path.read_text(encoding="utf-8") for path in engine.rglob("*.py")}
    told = {
        "devices": [each[:2] for each in (A, B, C)],
        "tried": {name: (consumer._asdict(), device[:2], runtime) for name, (consumer, device, runtime) in TRIED.items()},
    }
    major = test_cdi_podman.free_major()
    make = [f"mknod -m {words.split(' ', 1)[0]} {path} c {words.split(' ', 1)[1]}" for path, words in NODES.items()]
    nodes = "mkdir -p /dev/nvidia-caps /home/ann\nchown -R 1000:1000 /home/ann\n" + "\n".join(make).format(major=major)
    nodes += "\n[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229\n"
    python = os.path.realpath(sys.executable)
    trial = f"[Unit]\nAfter=nodes.service\n[Service]\nType=oneshot\nExecStart={python} /probe/program.py\n"
    files = {
        **lib, "/probe/program.py": PROGRAM, "/probe/told.json": json.dumps(told), "/probe/nodes.sh": nodes,
        "/etc/systemd/system/nodes.service": PLAIN.replace("/bin/true", "/bin/sh /probe/nodes.sh"),
        "/etc/systemd/system/gpu-slicing.service": PLAIN, "/etc/systemd/system/trial.service": trial,
        **{f"/probe/{runtime}.conf": CONF.format(runtime=runtime) for runtime in ("runc", "crun")},
        "/etc/containers/storage.conf": STORAGE,
        "/home/ann/.config/containers/storage.conf": '[storage]\ndriver = "vfs"\n',
        **of_service("service"), **of_service("loose", "[Service]\nDeviceAllow=/dev/nvidia1 rw\n"),
        **of_service("shut", "[Service]\nDeviceAllow=\nDeviceAllow=/dev/nvidiactl rw\n"),
        **of_service("private", "[Service]\nPrivateDevices=yes\n"),
        **{file.path: file.text for file in service.user(TRIED["user"][0], 1000, A)},
        "/etc/passwd": entries("passwd", "ann:x:1000:1000::/home/ann:/bin/sh"), "/etc/group": entries("group", "ann:x:1000:"),
        "/etc/subuid": "ann:100000:65536\n", "/etc/subgid": "ann:100000:65536\n",
    }  # fmt: skip
    image = tmp_path_factory.mktemp("image") / "image.tar"
    test_cdi_podman.image(image)
    files["/probe/image.tar"] = image.read_bytes()
    out = containers.boot(place, containers.OWN, files, ["nodes.service", "trial.service"])
    journal = (out / "journal.txt").read_text(encoding="utf-8", errors="replace")
    assert (out / "found.json").exists(), journal
    return json.loads((out / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["service", "user", "runc", "rootless"])
def test_who_has_a_slice_opens_it_and_no_other(found, name):
    assert found[name] == {"opened": MINE, "refused": THEIRS, "wrong": []}


def test_a_file_after_ours_that_opens_more_is_found_out(found):
    assert found["loose"]["opened"] == [*MINE, "/dev/nvidia1"] and len(found["loose"]["wrong"]) == 1
    assert found["loose"]["wrong"][0].startswith("/dev/nvidia1 is of another slice, and can be opened.")


def test_a_file_after_ours_that_closes_the_slice_is_found_out(found):
    assert found["shut"]["wrong"] == [
        "/dev/nvidia0 belongs to its slice and can't be opened (rw): the device filter denies it.",
        "/dev/nvidia-caps/nvidia-cap21 belongs to its slice and can't be opened (r): the device filter denies it.",
    ]
    assert [sentence.rpartition(": ")[2] for sentence in found["private"]["wrong"]] == ["it is not there."] * 3


def test_a_name_that_opens_another_slice_is_found_out(found):
    wrong = found["other"]["wrong"]
    assert [sentence.split(" ")[0] for sentence in wrong] == ["/dev/nvidia-caps/nvidia-cap21", "/dev/nvidia-caps/nvidia-cap30"]


def test_what_does_not_start_is_told_in_its_own_words(found):
    assert found["gone"]["opened"] == [] and len(found["gone"]["wrong"]) == 1
    assert "unresolvable CDI devices gpu-slicing/consumer=nobody" in found["gone"]["wrong"][0]
