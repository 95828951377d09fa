"""
Fake GPUs in the PCI core of a real kernel, in a virtual machine: ``fake_gpus.c`` is the hardware, ``amdgpu.c``, ``xe.c`` and
``nvidia.c`` are its drivers, ``fetch`` unpacks the kernel, and ``inside.py`` is what runs there, with this machine's own Python.

The machine sees / of this one for reading only, below a layer of memory, and has neither a network nor a disk.
"""

import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.support import needs

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
KERNELS = ROOT / "build" / "kernel"

#: Seconds for the whole virtual machine, which two busy processors emulate.
LIMIT = 900

#: What has to be there before / can be seen; all other modules are loaded from there.
_EARLY = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_OURS = ("fake_gpus", "amdgpu", "xe", "nvidia")

#: An emulated processor has nothing to guard against, and less work without the mitigations.
_COMMAND_LINE = "console=ttyS0 panic=-1 quiet loglevel=5 mitigations=off"

#: The first process: from the initial file system to a shell with the machine's own root, and off at the end.
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /layer /new
export PATH=/bin
for name in mount insmod mkdir rm sh chroot poweroff; do /bin/busybox ln -s busybox /bin/$name; done
mount -t devtmpfs none /dev
for module in {early}; do insmod /$module; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
mount -t tmpfs none /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work none /new
rm -f /new/.dockerenv
mount -t proc none /new/proc
mount -t sysfs none /new/sys
mount -t devtmpfs none /new/dev
mount -t tmpfs none /new/run
mount --bind /new/{modules} /new/lib/modules
chroot /new /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C.UTF-8 PYTHONPATH={path} \\
    {python} {script} /dev/ttyS1
poweroff -f
"""


def release():
    """The kernel that ``fetch`` unpacked, "" for none."""
    return next((path.name for path in sorted(KERNELS.glob("*")) if list(path.glob("boot/vmlinuz-*"))), "")


def missing():
    """Why no virtual machine can be had here, naming what is missing; "" when one can."""
    if why := needs.lacking("qemu-system-x86_64", "cpio", "busybox", "modprobe", "depmod", "make", "gcc"):
        return why
    busybox = subprocess.run(["ldd", needs.path("busybox")], capture_output=True, text=True, check=False)
    if busybox.returncode == 0:
        return needs.said({"busybox-static": "busybox that needs no libraries"})
    if not release():
        return needs.said(
            {"linux-headers-amd64": "of Linux 6.1; tests/parts/kernel/fetch then unpacks the kernel into build/kernel"}
        )
    return "" if _headers().is_dir() else needs.said({f"linux-headers-{release()}": str(_headers())})


def _headers():
    return pathlib.Path("/usr/src") / f"linux-headers-{release()}"


def build(place):
    """
    Compile the modules and lay out what is booted.

    :param place: an empty directory; it gets ``code``, ``tree`` (with lib/modules) and ``initrd``.
    :return: the directory. Raises ``AssertionError`` with the output of a program that failed.
    """
    # A copy, because the virtual machine does not see what is edited here while it runs.
    code, sources = place / "code", place / "code" / "kernel"
    for path in (HERE, *(ROOT / name for name in ("_utils", "_modules", "_states", "_grains"))):
        shutil.copytree(path, code / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    # Ten times faster here than in there.
    _run([sys.executable, "-m", "compileall", "-q", str(code)])
    _run(["make", "-s", "-C", str(_headers()), f"M={sources}", "modules"])
    tree = place / "tree" / "lib" / "modules"
    shutil.copytree(KERNELS / release() / "lib" / "modules", tree)
    for name in _OURS:
        target = tree / release() / "updates" / f"{name}.ko"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(sources / f"{name}.ko", target)
    _run([needs.path("depmod"), "-b", str(place / "tree"), release()])
    _pack(place, _early_modules(place / "tree"))
    return place


def _early_modules(tree):
    """Paths of the modules that are loaded first, in that order and without doubles."""
    command = [needs.path("modprobe"), "-d", str(tree), "-S", release(), "--show-depends"]
    rows = [row for name in _EARLY for row in _run([*command, name]).splitlines()]
    return list(dict.fromkeys(row.split()[1] for row in rows if row.startswith("insmod ")))


def _pack(place, early):
    """Write the initial file system."""
    content = place / "initrd.d"
    (content / "bin").mkdir(parents=True)
    shutil.copy(needs.path("busybox"), content / "bin" / "busybox")
    for path in early:
        shutil.copy(path, content)
    told = {
        "early": " ".join(os.path.basename(path) for path in early), "modules": place / "tree" / "lib" / "modules",
        "path": place / "code" / "_utils", "python": sys.executable, "script": place / "code" / "kernel" / "inside.py",
    }  # fmt: skip
    init = content / "init"
    init.write_text(_INIT.format(**told), encoding="utf-8")
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(content)) for path in sorted(content.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), capture_output=True, cwd=content, timeout=60, check=True
    )
    (place / "initrd").write_bytes(gzip.compress(packed.stdout, 1))


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def boot(place):
    """
    Boot the virtual machine and let it run to its end.

    :param place: what :func:`build` returned.
    :return: (answers, console): name of each case of ``inside.py`` -> what it answered, and all that the machine said.
        Raises ``AssertionError`` with the console when it did not end within :data:`LIMIT` seconds.
    """
    answers, console = place / "answers", place / "console"
    kernel = next((KERNELS / release() / "boot").glob("vmlinuz-*"))
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", f"file:{console}", "-serial", f"file:{answers}",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-kernel", str(kernel), "-initrd", str(place / "initrd"), "-append", _COMMAND_LINE,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False)
        ended = done.stderr
    except subprocess.TimeoutExpired:
        ended = f"it did not end within {LIMIT} s"
    told = "\n".join(_text(path) for path in (console, answers))
    assert not ended, f"{ended}\n{told}"
    return dict(json.loads(line) for line in _text(answers).splitlines()), told


def _text(path):
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
