"""
Fake GPUs in the PCI core of a real kernel, in a virtual machine: ``fake_gpus.c`` is the hardware, ``amdgpu.c``, ``xe.c`` and
``nvidia.c`` are its drivers, ``fetch`` unpacks the kernel, and ``inside.py`` is what runs there, with this machine's own Python.

The machine sees / of this one for reading only, below a layer of memory, and has neither a network nor a disk.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.parts import machine
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
_INIT = (
    machine.MOUNT_ROOT
    + """mount --bind /new/{modules} /new/lib/modules
chroot /new /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C.UTF-8 PYTHONPATH={path} \\
    {python} {script} /dev/ttyS1
poweroff -f
"""
)


def release():
    """The kernel that ``fetch`` unpacked, "" for none."""
    return next((path.name for path in sorted(KERNELS.glob("*")) if list(path.glob("boot/vmlinuz-*"))), "")


def missing():
    """Why no virtual machine can be had here, naming what is missing; "" when one can."""
    if why := machine.lacking("modprobe", "depmod", "make", "gcc"):
        return why
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
    told = {
        "first": f"for module in {' '.join(os.path.basename(path) for path in early)}; do insmod /$module; done",
        "modules": place / "tree" / "lib" / "modules", "path": place / "code" / "_utils", "python": sys.executable,
        "script": place / "code" / "kernel" / "inside.py",
    }  # fmt: skip
    machine.pack(place, _INIT.format(**told), early)


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
    image = next((KERNELS / release() / "boot").glob("vmlinuz-*"))
    answers, console = machine.run(place, image, _COMMAND_LINE, LIMIT)
    return dict(json.loads(line) for line in answers.splitlines()), f"{console}\n{answers}"
