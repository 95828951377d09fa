"""
Our drop-ins under a real systemd with its real device filter: nodes without a driver behind them tell what a filter allows
(ENXIO) from what it denies (EPERM). The unit of the boot makes the nodes, so each that comes after it finds them.
"""

import os
import subprocess

import pytest

from gpuslice.outputs import service
from gpuslice.outputs.conflicts import conflicts
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node
from tests.parts import containers
from tests.support import needs

pytestmark = pytest.mark.slow

#: Two slices of one GPU, which share its node, and a partition of another vendor.
COMMON = (Node("/dev/nvidiactl"), Node("/dev/nvidia0"))
A = Device("a", (*COMMON, Node("/dev/nvidia-caps/nvidia-cap21", "r")), (("CUDA_VISIBLE_DEVICES", "MIG-a"),))
B = Device("b", (*COMMON, Node("/dev/nvidia-caps/nvidia-cap30", "r")), (("CUDA_VISIBLE_DEVICES", "MIG-b"),))
C = Device("c", (Node("/dev/dri/renderD128"), Node("/dev/kfd")))
NODES = {
    "/dev/nvidiactl": "195 255", "/dev/nvidia0": "195 0", "/dev/nvidia1": "195 1", "/dev/nvidia-caps/nvidia-cap21": "510 21",
    "/dev/nvidia-caps/nvidia-cap30": "510 30", "/dev/dri/renderD128": "226 128", "/dev/dri/renderD129": "226 129",
    "/dev/kfd": "511 0",
}  # fmt: skip
#: What a login, a rootless container and a shell open beside GPUs; a container does not have all of them.
USUAL = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/ptmx", "/dev/fuse", "/dev/net/tun")
MORE = {"/dev/fuse": "10 229", "/dev/net/tun": "10 200"}
#: A root of its own that has the programs of this one.
ROOT = "RootDirectory=/srv/root\nBindReadOnlyPaths=/usr /bin /lib -/lib64 /probe\nBindPaths=/out\n"
BOOT = """
[Unit]
Description=Slices are back
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /probe/nodes.sh
"""
#: Opening for reading, and for both: what each comes to, "" for open. A shell would make what is not there.
PROBE = """
for node in {nodes}; do
    printf '%s r %s\\n' $node "$( (exec 3<$node) 2>&1 | sed 's/.*: //')"
    [ ! -e $node ] || printf '%s rw %s\\n' $node "$( (exec 3<>$node) 2>&1 | sed 's/.*: //')"
done >/out/$1.txt
tr '\\0' '\\n' </proc/self/environ >/out/$1.environment
cp /proc/self/status /out/$1.status
cp /proc/self/cgroup /out/$1.cgroup
"""
OPENS, DENIED, GONE = "No such device or address", "Operation not permitted", "No such file"
#: Values that no quoting may change.
ODD = {
    "ODD1": "a b", "ODD2": "100%h", "ODD3": 'say "hi" \\n \\\\', "ODD4": "$HOME ${HOME}", "ODD5": "#;=[]'", "ODD6": "é…😀",
    "ODD7": "",
}  # fmt: skip


def unit(name, own=""):
    """A service that writes down what it can open."""
    return f"[Unit]\nDescription={name}\n[Service]\nType=oneshot\nExecStart=/bin/sh /probe/probe.sh {name}\n{own}"


def served(name, device, own="", **more):
    """Files of such a service with our drop-in."""
    file = service.drop_in(Consumer(name, "service", unit=f"{name}.service"), device, **more)
    return {f"/etc/systemd/system/{name}.service": unit(name, own), file.path: file.text}


def seen(out, name):
    """(node, "r" or "rw") -> what opening it came to, in a unit."""
    lines = (out / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {tuple(line.split(" ")[:2]): line.split(" ", 2)[2] for line in lines}


def allowed(found):
    """Nodes of GPUs that a unit may open, with what for; what is not allowed is denied by the filter."""
    gpus = {key: came for key, came in found.items() if key[0] in NODES}
    assert set(gpus.values()) <= {OPENS, DENIED}, gpus
    return {key for key, came in gpus.items() if came == OPENS}


def of(device):
    """What a device opens, as :func:`allowed` has it."""
    return {(node.path, how) for node in device.nodes for how in ("r", "rw") if set(how) <= set(node.permissions)}


def variables(out, name):
    lines = (out / f"{name}.environment").read_text(encoding="utf-8").splitlines()
    return dict(line.partition("=")[::2] for line in lines if "=" in line)


def files_of_all():
    nodes = "mkdir -p /dev/dri /dev/nvidia-caps /dev/net /srv/root\n"
    nodes += "".join(f"[ -e {path} ] || mknod -m 666 {path} c {number}\n" for path, number in {**NODES, **MORE}.items())
    probe = PROBE.format(nodes=" ".join((*NODES, *USUAL)))
    return {
        "/probe/nodes.sh": nodes, "/probe/probe.sh": probe, "/etc/systemd/system/gpu-slicing.service": BOOT,
    }  # fmt: skip


SERVICES = {
    **served("a", A),
    **served("b", B),
    **served("c", C, "User=1\nGroup=1\n", groups=["44"]),
    **served("private", A, "PrivateDevices=yes\n", private=True),
    **served("odd", A._replace(environment=tuple(ODD.items()))),
    **served("pipe", A._replace(mounts=(Mount("/probe", "/srv"),)), "ExecStartPre=/bin/sh -c 'ls /srv >/out/pipe.ls'\n"),
    **served("early", A),
    "/etc/systemd/system/early.service.d/10-other.conf": "[Service]\nDeviceAllow=/dev/nvidia1 rw\nPrivateDevices=yes\n",
    **served("late", A),
    "/etc/systemd/system/late.service.d/override.conf": "[Service]\nDeviceAllow=/dev/nvidia1 rw\n",
    **served("reset", A),
    "/etc/systemd/system/reset.service.d/override.conf": "[Service]\nDeviceAllow=\nDeviceAllow=/dev/nvidia1 rw\n",
    **served("shut", A),
    "/etc/systemd/system/shut.service.d/override.conf": "[Service]\nPrivateDevices=yes\n",
    **served("rooted", A, ROOT),
    **served("bare", A, f"{ROOT}MountAPIVFS=no\nBindReadOnlyPaths=/proc\n"),
    **served("hidden", A, "InaccessiblePaths=/dev/nvidia-caps\n"),
}
NAMES = sorted(path.rsplit("/", 1)[1].removesuffix(".service") for path in SERVICES if path.endswith(".service"))


@pytest.fixture(scope="module", params=[containers.OWN, containers.MADE_ROOT], ids=["own", "trixie"])
def out(request, tmp_path_factory):
    """What services wrote that were started by a systemd of this machine, and of Debian 13."""
    needs.require(containers.missing(request.param))
    wanted = ["gpu-slicing.service", *(f"{name}.service" for name in NAMES)]
    return containers.boot(tmp_path_factory.mktemp("boot"), request.param, {**files_of_all(), **SERVICES}, wanted)


def told(name):
    """What :func:`conflicts` says of a service of this file, by what systemctl would show of it."""
    ours = f"/etc/systemd/system/{name}.service.d/{service.DROP_IN}"
    parts = {path: text for path, text in SERVICES.items() if f"/{name}.service" in path}
    first = f"/etc/systemd/system/{name}.service"
    ordered = [first, *sorted(parts.keys() - {first}, key=lambda path: path.rsplit("/", 1)[1])]
    return conflicts("\n".join(f"# {path}\n{parts[path]}" for path in ordered), service.File(ours, parts[ours]))


def test_a_service_opens_its_own_nodes_and_no_others(out):
    for name, device in (("a", A), ("b", B), ("c", C)):
        assert allowed(seen(out, name)) == of(device)
        assert told(name) == ()


def test_variables_reach_a_service_as_they_are(out):
    assert variables(out, "a")["CUDA_VISIBLE_DEVICES"] == "MIG-a"
    found = variables(out, "odd")
    assert {name: found[name] for name in ODD} == ODD


def test_private_devices_of_a_unit_go_and_what_else_they_meant_stays(out):
    assert allowed(seen(out, "private")) == of(A)
    status = (out / "private.status").read_text(encoding="utf-8")
    bounding = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)
    assert not bounding & (1 << 27 | 1 << 17)  # CAP_MKNOD, CAP_SYS_RAWIO
    assert told("private") == ()


def test_what_files_before_ours_open_is_taken_back(out):
    assert allowed(seen(out, "early")) == of(A)
    assert told("early") == ()


def test_a_folder_is_bound_into_a_service(out):
    assert (out / "pipe.ls").read_text(encoding="utf-8").split() == ["nodes.sh", "probe.sh"]


def test_what_is_told_to_defeat_a_drop_in_does(out):
    more = {("/dev/nvidia1", "r"), ("/dev/nvidia1", "rw")}
    assert allowed(seen(out, "late")) == of(A) | more and "which opens more than the slice" in told("late")[0]
    assert allowed(seen(out, "reset")) == more and "which closes the nodes of the slice" in told("reset")[0]
    shut, hidden, bare = seen(out, "shut"), seen(out, "hidden"), seen(out, "bare")
    assert {came for (node, _), came in shut.items() if node in NODES} == {GONE} and "PrivateDevices=yes" in told("shut")[0]
    assert hidden["/dev/nvidia-caps/nvidia-cap21", "r"] == GONE and "hides nodes" in told("hidden")[0]
    assert set(bare.values()) == {GONE} and "MountAPIVFS=no" in told("bare")[0]


def test_a_root_of_its_own_has_the_nodes_and_needs_the_libraries(out):
    assert allowed(seen(out, "rooted")) == of(A)
    (sentence,) = told("rooted")
    assert sentence.endswith("libraries of the driver have to be in that root, with the version that this host runs.")


# -- login users -----------------------------------------------------------------------------------------------------------
#: As a login does it: PAM opens a session, and systemd-logind makes its scope in the slice unit of the user.
SESSION = """
[Unit]
After=gpu-slicing.service systemd-user-sessions.service systemd-logind.service
Wants=systemd-logind.service
[Service]
Type=oneshot
User={user}
PAMName=login
Environment=SHELL=/bin/sh
ExecStart=/bin/sh -l -c 'sh /probe/probe.sh {user}-shell; systemctl --user start probe.service'
"""
PEOPLE = {"ann": 1000, "bob": 1001}


def people(root):
    """The files in which users stand, with ours added."""
    lines = {
        "passwd": "{name}:x:{uid}:{uid}::/home/{name}:/bin/sh", "group": "{name}:x:{uid}:",
        "shadow": "{name}:*:20000:0:99999:7:::",
    }  # fmt: skip
    return {
        f"/etc/{file}": (root / "etc" / file).read_text(encoding="utf-8")
        + "".join(f"{line.format(name=name, uid=uid)}\n" for name, uid in PEOPLE.items())
        for file, line in lines.items()
    }


@pytest.fixture(scope="module")
def logged_in(tmp_path_factory):
    """What two users saw of whom one has a slice, and a service of root inside the slice unit of that one."""
    needs.require(containers.missing())
    mine = service.user(Consumer("ann", "user", user="ann"), 1000, A)
    units = "/etc/systemd/system"
    files = {
        **files_of_all(), **people(containers.MADE_ROOT), **{file.path: file.text for file in mine},
        **{f"{units}/{user}.service": SESSION.format(user=user) for user in PEOPLE},
        **served("inner", B, "Slice=user-1000.slice\n"),
        "/etc/systemd/user/probe.service": "[Service]\nType=oneshot\nExecStart=/bin/sh /probe/probe.sh %u-manager\n",
    }  # fmt: skip
    homes = "".join(f"mkdir -p /home/{name}\nchown {uid} /home/{name}\n" for name, uid in PEOPLE.items())
    files["/probe/nodes.sh"] += homes
    wanted = ["gpu-slicing.service", "ann.service", "bob.service", "inner.service"]
    return containers.boot(tmp_path_factory.mktemp("boot"), containers.MADE_ROOT, files, wanted)


def test_a_login_user_opens_his_own_nodes_and_what_a_login_needs(logged_in):
    assert "/user.slice/user-1000.slice/session-" in (logged_in / "ann-shell.cgroup").read_text(encoding="utf-8")
    for name in ("ann-shell", "ann-manager"):
        found = seen(logged_in, name)
        assert allowed(found) == of(A)
        assert {found[node, "rw"] for node in USUAL} == {""}


def test_another_user_is_not_touched(logged_in):
    assert len(allowed(seen(logged_in, "bob-shell"))) == 2 * len(NODES)
    assert "CUDA_VISIBLE_DEVICES" not in variables(logged_in, "bob-shell")


def test_shells_and_the_user_manager_know_the_slice(logged_in):
    for name in ("ann-shell", "ann-manager"):
        assert variables(logged_in, name)["CUDA_VISIBLE_DEVICES"] == "MIG-a"


def test_of_two_lists_a_node_has_to_be_in_both_and_root_is_held_too(logged_in):
    assert allowed(seen(logged_in, "inner")) == {(node.path, how) for node in COMMON for how in ("r", "rw")}


# -- a reading without a boot ------------------------------------------------------------------------------------------------
def test_systemd_finds_nothing_wrong_with_any_of_our_files(tmp_path):
    needs.require(needs.lacking("systemd-analyze"))
    asked = Consumer("a", "service", unit="a.service", memory_gb=2, compute_units=3)
    device = A._replace(mounts=(Mount("/run/a", "/run/a"),), environment=tuple(ODD.items()))
    mine = [service.drop_in(asked, device, groups=["root"], private=True), *service.user(asked, 1000, device)]
    plain = "[Service]\nType=oneshot\nExecStart=/bin/sh -c true\n"
    files = {"a.service": plain, "user@1000.service": plain, "user-1000.slice": "[Slice]\n", "gpu-slicing.service": plain}
    files |= {file.path.removeprefix("/etc/systemd/system/"): file.text for file in mine if file.path.endswith(".conf")}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert verified(tmp_path) == ""
    # Unknown keys are warnings only, so that what is said counts and not the status.
    (tmp_path / "a.service.d" / "60-wrong.conf").write_text("[Service]\nDeviceAlow=/dev/null rw\n", encoding="utf-8")
    assert "Unknown key" in verified(tmp_path)


def verified(folder):
    """What ``systemd-analyze verify`` says of the units of a folder."""
    units = ["a.service", "user@1000.service", "user-1000.slice"]
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units]
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if str(folder) in line)
