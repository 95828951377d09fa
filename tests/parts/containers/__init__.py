"""
Debian's own systemd and Podman for the tests of containers: ``fetch`` makes them, and :func:`boot` boots a systemd in a container
whose root is an overlay, so that neither they nor this machine are changed.
"""

import os
import pathlib
import subprocess

from tests.support import needs

HERE = pathlib.Path(__file__).resolve().parent
MADE = HERE.parents[2] / "build" / "containers"
#: Roots to boot: this machine's own, and the Debian 13 that ``fetch`` made.
OWN, MADE_ROOT = pathlib.Path("/"), MADE / "debian"
QUADLET = MADE / "quadlet"

#: $1 a folder of ours, $2 the root, $3 a name for a control group. The tree in $1 is put over the root, and out is for what the
#: units of it write.
_SCRIPT = r"""
set -eu
place=$1 lower=$2 group=$3
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
systemd-nspawn -q -D "$root" --register=no --keep-unit --private-network --link-journal=no --console=pipe --capability=all \
    --system-call-filter='add_key keyctl bpf' "--bind=$place/out:/out" -b systemd.unit=test.target \
    >"$place/console.txt" 2>&1 </dev/null
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


def missing(root=MADE_ROOT):
    """Why :func:`boot` is not possible here with this root, naming what is missing; "" when it is."""
    if why := needs.lacking("systemd-nspawn", "unshare"):
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


def boot(place, root, files, wanted):
    """
    Boot a systemd, have it start units, and end it.

    :param place: an empty folder; :param root: of :data:`OWN` and :data:`MADE_ROOT`.
    :param files: path -> text or bytes of files in it. :param wanted: units to start.
    :return: the folder ``/out`` of the container, with ``journal.txt``.
    """
    for name in ("out", "layer", "tree", "sweep"):
        (place / name).mkdir()
    (place / "out").chmod(0o777)
    units = {f"/etc/systemd/system/{name}": text.format(wanted=" ".join(wanted)) for name, text in _UNITS.items()}
    for path, text in {**units, **files}.items():
        file = place / "tree" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    group = f"gpu-slicing-test-{os.getpid()}"
    alone = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
    command = [*alone, _SCRIPT, "boot", place, root, group]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    finally:
        subprocess.run([*alone, _SWEEP, "sweep", place / "sweep", group], capture_output=True, timeout=30, check=False)
    console = place / "console.txt"
    told = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
    assert done.returncode == 0 and (place / "out" / "journal.txt").exists(), f"{done.stdout}{done.stderr}\n{told}"
    return place / "out"
