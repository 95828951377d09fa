"""
Containers that a real systemd starts from our Quadlet units, by Podman 5.4 with crun and runc, root's and a user's. Nodes without
a driver behind them tell what is open (ENXIO), what the device filter denies (EPERM), and what owner and mode deny (EACCES).
"""

import io
import json
import tarfile

import pytest

from gpuslice.drivers import systemd
from gpuslice.host.base import of_user
from gpuslice.outputs import cdi
from gpuslice.outputs import quadlet
from gpuslice.outputs import service
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node
from tests.parts import containers
from tests.support import needs

pytestmark = pytest.mark.slow

PODMAN = (5, 4, 2)
IMAGE = "localhost/probe:1"
OPENS, DENIED, FORBIDDEN = "No such device or address", "Operation not permitted", "Permission denied"
#: Of one slice, one of them for a group only, and of another: a node that somebody has put where a volume can bring it in.
OPEN, GROUPS, CAP, FOREIGN = "/dev/nvidia0", "/dev/dri/renderD128", "/dev/nvidia-caps/nvidia-cap21", "/srv/foreign"
RENDER = 2000
BOOT = """
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /probe/nodes.sh
"""
NODES = f"""
mkdir -p /dev/dri /dev/nvidia-caps /dev/net /home/ann /home/bob /home/eve
mknod -m 666 {OPEN} c 195 0
mknod -m 444 {CAP} c 510 21
mknod -m 660 {GROUPS} c 226 128
chgrp {RENDER} {GROUPS}
mknod -m 666 {FOREIGN} c 195 1
[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
chown 1000 /home/ann
chown 1001 /home/bob
chown 1002 /home/eve
"""
PROBE = f"""
for node in {OPEN} {GROUPS} {CAP} {FOREIGN}; do
    printf '%s r %s\\n' $node "$( (exec 3<$node) 2>&1 | sed 's/.*: //')"
    [ ! -e $node ] || printf '%s rw %s\\n' $node "$( (exec 3<>$node) 2>&1 | sed 's/.*: //')"
done >/out/$1.txt
cp /proc/self/status /out/$1.status
cp /proc/self/cgroup /out/$1.cgroup
cp /proc/self/environ /out/$1.environment
(: >/etc/written) 2>/dev/null || echo read-only >/out/$1.root
: >/tmp/written && echo writable >/out/$1.tmp
"""
USER = """
[Unit]
After=gpu-slicing.service systemd-user-sessions.service systemd-logind.service network-online.target
Wants=systemd-logind.service
[Service]
Type=oneshot
User={user}
PAMName=login
ExecStart=/bin/sh -c 'systemctl --user start {units}'
"""
#: Limits and ids that a container inside a container can't raise, and a file system that stands on no overlay.
CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
events_logger = "file"
"""
STORAGE = """
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""


def image():
    """An image that has a shell and little else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("bin", "etc", "tmp", "dev", "proc", "sys", "out", "probe"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add(containers.MADE_ROOT / "usr" / "bin" / "busybox", "bin/busybox")
        for name in ("sh", "sed", "cp", "sleep"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return buffer.getvalue()


def consumer(name, runtime, **more):
    """A consumer whose container writes down what it can open."""
    keys = {
        "Exec": f"sh /probe/probe.sh {name}", "Network": "none", "GlobalArgs": f"--runtime={runtime}",
        "PodmanArgs": "--cgroupns=host",
        "Volume": ["/probe:/probe:ro", "/out:/out", f"{FOREIGN}:{FOREIGN}"],
    }  # fmt: skip
    own = {"Type": "oneshot", "ExecStartPre": f"/usr/bin/podman import -q /probe/image.tar {IMAGE}"}
    return Consumer(name, "container", image=IMAGE, quadlet={"Container": keys, "Service": own}, **more)


def spec(names, opened=((OPEN, "rw"), (GROUPS, "rw"), (CAP, "r"))):
    """A CDI file of these consumers, all with the same slice."""
    nodes = [{"path": path, "hostPath": path, "permissions": how} for path, how in opened]
    edits = {"deviceNodes": nodes, "env": ["CUDA_VISIBLE_DEVICES=MIG-a"]}
    devices = [{"name": name, "containerEdits": edits} for name in names]
    return {"cdiVersion": "0.5.0", "kind": cdi.CONSUMER, "devices": devices}


def people():
    """The files in which users stand: one with a slice of his own, one without, and one who lingers."""
    names = {"ann": 1000, "bob": 1001, "eve": EVE}
    added = {
        "passwd": "".join(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/sh\n" for name, uid in names.items()),
        "group": "".join(f"{name}:x:{uid}:\n" for name, uid in names.items()) + f"ours:x:{RENDER}:ann,bob\n",
        "shadow": "".join(f"{name}:*:20000:0:99999:7:::\n" for name in names),
    }
    etc = containers.MADE_ROOT / "etc"
    found = {f"/etc/{name}": (etc / name).read_text(encoding="utf-8") + text for name, text in added.items()}
    ranges = "ann:100000:65536\nbob:200000:65536\neve:300000:65536\n"
    return {**found, "/etc/subuid": ranges, "/etc/subgid": ranges, "/var/lib/systemd/linger/eve": ""}


ROOTS = [consumer("crun", "crun", memory_gb=1, compute_units=2), consumer("runc", "runc")]
ANNS = [consumer("anncrun", "crun", user="ann"), consumer("annrunc", "runc", user="ann")]
BOBS = [consumer("bobcrun", "crun", user="bob")]
JOB = f"""
[Container]
Image={IMAGE}
Exec=sh /probe/probe.sh job
Network=none
AddDevice={FOREIGN}
Volume=/probe:/probe:ro
Volume=/out:/out
[Service]
Type=oneshot
ExecStartPre=/usr/bin/podman import -q /probe/image.tar {IMAGE}
"""
ADOPTED = Consumer("adopted", "container", unit="job.container", memory_gb=1)
#: One that runs on, of a user who lingers: his manager starts it at the boot, and is told by the commands of our driver.
STAYS = Consumer("eve", "container", image=IMAGE, user="eve", quadlet={
    "Container": {"Exec": "sh /probe/stay.sh", "Network": "none", "Volume": ["/probe:/probe:ro", "/out:/out"]},
    "Service": {"ExecStartPre": f"/usr/bin/podman import -q /probe/image.tar {IMAGE}"},
})  # fmt: skip
EVE = 1002
UNIT = of_user(quadlet.service_name(STAYS), EVE)
STAY = "sh /probe/probe.sh eve\n: >/out/eve.done\nexec sleep 1000\n"
EVE_CDI = "/etc/cdi/gpu-slicing-eve.json"
ORDER = """
[Unit]
After=gpu-slicing.service systemd-logind.service user@1002.service
Wants=systemd-logind.service user@1002.service
[Service]
Type=oneshot
ExecStart=/bin/sh /probe/order.sh
"""


def orders():
    """A shell script: the slice is cut anew, the container starts anew, and at last it goes."""
    host = containers.Noting()
    reload, stop = host.of(systemd.reload_units, EVE), host.of(systemd.end, UNIT)
    restart, active = host.of(systemd.restart, UNIT), host.of(systemd.has_manager, EVE)
    file = quadlet.unit(STAYS, PODMAN, uid=EVE).path
    return f"""
came() {{
    for i in $(seq 300); do [ -e /out/eve.done ] && break; sleep 0.2; done
    cp /out/eve.txt /out/$1.txt
    rm /out/eve.done
}}
said() {{ "$@" >>/out/said.txt 2>&1; echo $? >>/out/said.txt; }}
came eve-boot
said {active}
cp /probe/after.json {EVE_CDI}
said {reload}
said {restart}
came eve-anew
said {stop}
pgrep -u {EVE} sleep >/out/eve-left.txt
rm {file}
said {reload}
said {restart}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What the containers wrote."""
    needs.require(containers.missing())
    slice_ = Device("anncrun", (Node(OPEN), Node(GROUPS), Node(CAP, "r")))
    mine = [
        *(quadlet.unit(each, PODMAN) for each in ROOTS),
        *(quadlet.unit(each, PODMAN, uid=1000, runtime=each.name.removeprefix("ann")) for each in ANNS),
        *(quadlet.unit(each, PODMAN, uid=1001) for each in BOBS),
        quadlet.unit(STAYS, PODMAN, uid=EVE), quadlet.ordered(EVE),
        quadlet.adopted(ADOPTED, PODMAN), quadlet.ordered(1000), quadlet.ordered(1001),
        *service.user(Consumer("ann", "user", user="ann"), 1000, slice_),
    ]  # fmt: skip
    units = {user: " ".join(map(quadlet.service_name, theirs)) for user, theirs in (("ann", ANNS), ("bob", BOBS))}
    files = {
        **people(), **{file.path: file.text for file in mine},
        "/probe/nodes.sh": NODES, "/probe/probe.sh": PROBE, "/probe/image.tar": image(),
        "/etc/cdi/gpu-slicing-consumer.json": json.dumps(spec([each.name for each in (*ROOTS, *ANNS, *BOBS, ADOPTED)])),
        EVE_CDI: json.dumps(spec(["eve"])), "/probe/after.json": json.dumps(spec(["eve"], ((OPEN, "rw"),))),
        "/probe/stay.sh": STAY, "/probe/order.sh": orders(), "/etc/systemd/system/order.service": ORDER,
        "/etc/containers/containers.conf": CONF, "/etc/containers/storage.conf": STORAGE,
        "/etc/containers/systemd/job.container": JOB, "/etc/systemd/system/gpu-slicing.service": BOOT,
        **{f"/etc/systemd/system/{user}.service": USER.format(user=user, units=theirs) for user, theirs in units.items()},
    }  # fmt: skip
    services = [quadlet.service_name(each) for each in (*ROOTS, ADOPTED)]
    wanted = ["gpu-slicing.service", "network-online.target", *services, "ann.service", "bob.service", "order.service"]
    return containers.boot(tmp_path_factory.mktemp("boot"), containers.MADE_ROOT, files, wanted)


def seen(out, name):
    """(node, "r" or "rw") -> what opening it came to, in a container."""
    file = out / f"{name}.txt"
    assert file.exists(), (out / "journal.txt").read_text(encoding="utf-8", errors="replace")
    return {tuple(line.split(" ")[:2]): line.split(" ", 2)[2] for line in file.read_text(encoding="utf-8").splitlines()}


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_a_container_of_root_opens_its_slice_and_nothing_else(out, name):
    assert seen(out, name) == {
        (OPEN, "r"): OPENS, (OPEN, "rw"): OPENS, (GROUPS, "r"): OPENS, (GROUPS, "rw"): OPENS,
        (CAP, "r"): OPENS, (CAP, "rw"): DENIED, (FOREIGN, "r"): DENIED, (FOREIGN, "rw"): DENIED,
    }  # fmt: skip


def test_a_user_s_container_is_held_by_his_slice_unit_where_he_has_a_slice(out):
    # What everybody may open can be brought in by a volume, and no filter of Podman denies it.
    for name, foreign in (("anncrun", DENIED), ("annrunc", DENIED), ("bobcrun", OPENS)):
        found = seen(out, name)
        assert {found[FOREIGN, how] for how in ("r", "rw")} == {foreign}
        assert (found[OPEN, "rw"], found[CAP, "r"], found[CAP, "rw"]) == (OPENS, OPENS, FORBIDDEN)


def test_groups_of_a_user_open_nodes_with_crun_and_not_with_runc(out):
    assert seen(out, "anncrun")[GROUPS, "rw"] == seen(out, "bobcrun")[GROUPS, "rw"] == OPENS
    assert seen(out, "annrunc")[GROUPS, "rw"] == FORBIDDEN


def test_a_unit_that_is_adopted_has_its_slice_and_no_more_what_it_had(out):
    found = seen(out, "job")
    assert (found[OPEN, "rw"], found[CAP, "r"], found[CAP, "rw"]) == (OPENS, OPENS, DENIED)
    assert found[FOREIGN, "r"] == "no such file" and (FOREIGN, "rw") not in found


@pytest.mark.parametrize("name", ["crun", "runc", "anncrun", "annrunc"])
def test_a_container_of_ours_has_the_least_privileges_and_the_variables(out, name):
    lines = (out / f"{name}.status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[key] for key in ("CapBnd", "CapEff", "CapPrm")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (out / f"{name}.root").exists() and (out / f"{name}.tmp").exists()
    assert "CUDA_VISIBLE_DEVICES=MIG-a" in (out / f"{name}.environment").read_text(encoding="utf-8").split("\0")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("crun", "/system.slice/gpu-slicing-crun.service/"),
        ("runc", "/system.slice/gpu-slicing-runc.service/"),
        ("anncrun", "/user.slice/user-1000.slice/user@1000.service/app.slice/gpu-slicing-anncrun.service/"),
    ],
)
def test_a_container_is_below_its_service_so_that_the_limits_of_that_hold(out, name, place):
    groups = (out / f"{name}.cgroup").read_text(encoding="utf-8").splitlines()
    assert [line for line in groups if line.startswith(f"0::{place}libpod-payload-")] != []


def test_a_container_of_a_user_who_lingers_starts_anew_by_our_commands(out):
    assert seen(out, "eve-boot")[CAP, "r"] == OPENS
    # The node that the slice has no more is not there, and the other one opens still.
    anew = seen(out, "eve-anew")
    assert anew[OPEN, "rw"] == OPENS and anew[CAP, "r"] == "no such file"
    told = (out / "said.txt").read_text(encoding="utf-8").splitlines()
    unit = quadlet.service_name(STAYS)
    assert told == ["active", "0", "0", "0", "0", "0", f"Failed to restart {unit}: Unit {unit} not found.", "5"]
    assert (out / "eve-left.txt").read_text(encoding="utf-8") == ""
