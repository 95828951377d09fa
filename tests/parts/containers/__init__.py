"""
Debian's own systemd and Podman for the tests of containers, which ``fetch`` makes. :func:`contain` runs containers, :func:`boot`
boots a systemd in one; their root is an overlay, so that neither that Debian nor this machine is changed.
"""

import os
import pathlib
import shlex
import subprocess

from gpuslice.host.base import Completed
from tests.support import needs

HERE = pathlib.Path(__file__).resolve().parent
MADE = HERE.parents[2] / "build" / "containers"
#: Roots to boot: this machine's own, and the Debian 13 that ``fetch`` made.
OWN, MADE_ROOT = pathlib.Path("/"), MADE / "debian"
QUADLET = MADE / "quadlet"

#: System calls beside a container's usual ones, for a systemd that holds units by device filters.
FILTERS = "--system-call-filter=add_key keyctl bpf"

#: $1 a folder of ours, $2 the root, $3 a name for a control group. The tree in $1 is put over the root; "contain" runs what it is
#: given in the container, and what is appended here says what that is.
_SCRIPT = r"""
set -eu
place=$1 lower=$2 group=$3; shift 3
mount --make-rprivate /
# Control groups of one kind, as systemd wants them; in this mount namespace only.
awk '$2 ~ /^\/sys\/fs\/cgroup\//{print $2}' /proc/mounts | sort -r | while read -r point; do umount "$point"; done
umount /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$group"
echo $$ >"/sys/fs/cgroup/$group/cgroup.procs"
# What the container manager notes about its containers stays in here too.
mount -t tmpfs none /run
mount -t tmpfs none "$place/layer"
root=$place/layer/all
mkdir "$root" "$place/layer/upper" "$place/layer/work"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$place/layer/upper,workdir=$place/layer/work" "$root"
rm -rf "$root/.dockerenv" "$root/etc/fstab" "$root"/etc/systemd/system/*.wants
cp -r --no-preserve=ownership "$place/tree/." "$root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
contain() {
    systemd-nspawn -q -D "$root" --register=no --keep-unit --private-network --link-journal=no --console=pipe "$@" \
        >>"$place/console.txt" 2>&1 </dev/null
}
"""
_SWEEP = r"""
mount -t cgroup2 none "$1" && find "$1/$2" -depth -type d -exec rmdir {} \; 2>/dev/null
"""
#: The units of a test are wanted by this one, and the last one hands the journal out.
_UNITS = {
    "test.target": "[Unit]\nRequires=basic.target multi-user.target\nAfter=basic.target\nWants={wanted} end.service\n",
    "end.service": """
[Unit]
After={wanted}
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'journalctl --sync; journalctl -b -o short-monotonic >/out/journal.txt; chmod -R a+r /out'
ExecStopPost=/bin/systemctl --no-block exit 0
""",
}


class Noting:
    """What a driver takes for the host, and runs nothing: it notes the commands, for a boot to run them."""

    def __init__(self):
        self._commands = []

    def exists(self, path):
        """Whether a driver goes on to its program: always."""
        return True

    def run(self, argv, **_):
        """Note a command."""
        self._commands.append(shlex.join(argv))
        return Completed(0, "active\n")

    def of(self, call, *arguments, **more):
        """The last command that a function of a driver runs, as a shell takes it."""
        call(self, *arguments, **more)
        return self._commands[-1]


def missing(root=MADE_ROOT):
    """Why :func:`boot` and :func:`contain` are not possible here with this root, naming what is missing; "" when they are."""
    own = ["systemctl"] if root == OWN else []
    if why := needs.lacking("systemd-nspawn", "unshare", *own):
        return why
    if os.geteuid():
        return "a boot in a container needs root"
    if root == MADE_ROOT and not (MADE / "version").exists():
        return needs.said({"mmdebstrap": "tests/parts/containers/fetch"})
    probe = 'mount -t tmpfs none "$1" && cd "$1" && mkdir u w r && mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w r'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{probe} && umount r && cd /", "x", "/mnt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return f"no overlay of / in a mount namespace of its own is allowed here: {done.stderr.strip()}" if done.returncode else ""


def no_quadlet():
    """Why Quadlet can't be run here; "" when it can."""
    return "" if QUADLET.exists() else needs.said({"mmdebstrap": "tests/parts/containers/fetch"})


def contain(place, root, files, script, *words):
    """
    Run containers whose root is an overlay with files of ours in it.

    :param place: an empty folder; :param root: of :data:`OWN` and :data:`MADE_ROOT`.
    :param files: path -> text or bytes of files in the container.
    :param script: what is run, in the shell: ``contain`` takes further options of systemd-nspawn, ``-b`` to boot and else a
        command; ``$place`` is the folder, ``$root`` the overlay. What does not end with success is a failure of the test.
    :param words: the script's arguments.
    :return: a folder ``out`` in ``place``, in which everybody may write.
    """
    for name in ("out", "layer", "tree", "sweep"):
        (place / name).mkdir()
    (place / "out").chmod(0o777)
    for path, text in files.items():
        file = place / "tree" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    group = f"gpu-slicing-test-{os.getpid()}"
    alone = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
    command = [*alone, _SCRIPT + script, "contain", place, root, group, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    finally:
        subprocess.run([*alone, _SWEEP, "sweep", place / "sweep", group], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{console(place)}"
    return place / "out"


def console(place):
    """All that containers said which :func:`contain` ran with this folder."""
    path = place / "console.txt"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def boot(place, root, files, wanted):
    """
    Boot a systemd, have it start units, and end it.

    :param place, root, files: as :func:`contain` has them. :param wanted: units to start.
    :return: the folder ``/out`` of the container, with ``journal.txt``.
    """
    units = {f"/etc/systemd/system/{name}": text.format(wanted=" ".join(wanted)) for name, text in _UNITS.items()}
    script = 'contain --capability=all "$1" "--bind=$place/out:/out" -b systemd.unit=test.target'
    out = contain(place, root, {**units, **files}, script, FILTERS)
    assert (out / "journal.txt").exists(), console(place)
    return out
