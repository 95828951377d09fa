"""
A virtual machine whose processors are emulated, for the tests that boot a kernel: what it starts from, and one run of it. It sees
/ of this machine for reading only, as ``host`` of 9p, and has neither a network nor a disk.
"""

import gzip
import shutil
import subprocess

from tests.support import needs

#: What all of them need: :func:`lacking`.
PROGRAMS = ("qemu-system-x86_64", "cpio", "busybox")

#: How the first process puts the machine's own root below a layer of memory.
MOUNT_ROOT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /layer /new
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
{first}
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
mount -t tmpfs none /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work none /new
rm -f /new/.dockerenv
mount -t proc none /new/proc
mount -t sysfs none /new/sys
mount -t devtmpfs none /new/dev
mount -t tmpfs none /new/run
"""


def lacking(*programs):
    """Why no virtual machine can be had here, naming what is missing of these programs and its own; "" when one can."""
    if why := needs.lacking(*PROGRAMS, *programs):
        return why
    busybox = subprocess.run(["ldd", needs.path("busybox")], capture_output=True, text=True, check=False)
    return needs.said({"busybox-static": "busybox that needs no libraries"}) if busybox.returncode == 0 else ""


def pack(place, init, files=()):
    """
    Write the initial file system ``initrd`` into a folder.

    :param init: the first process, a script of busybox; :param files: paths of what lies beside it.
    """
    content = place / "initrd.d"
    (content / "bin").mkdir(parents=True)
    shutil.copy(needs.path("busybox"), content / "bin" / "busybox")
    for path in files:
        shutil.copy(path, content)
    first = content / "init"
    first.write_text(init, encoding="utf-8")
    first.chmod(0o755)
    names = "\n".join(str(path.relative_to(content)) for path in sorted(content.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), capture_output=True, cwd=content, timeout=60, check=True
    )
    (place / "initrd").write_bytes(gzip.compress(packed.stdout, 1))


def run(place, kernel, command_line, limit, *more):
    """
    Boot it and let it run to its end.

    :param place: with ``initrd``; :param kernel: path of its image; :param limit: in seconds. :param more: options of QEMU.
    :return: (answers, console): what was written to ttyS1 and to ttyS0. Raises ``AssertionError`` with both when it did not end
        in time.
    """
    answers, console = place / "answers", place / "console"
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", f"file:{console}", "-serial", f"file:{answers}",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-kernel", str(kernel), "-initrd", str(place / "initrd"), "-append", command_line, *more,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=limit, check=False)
        ended = done.stderr
    except subprocess.TimeoutExpired:
        ended = f"it did not end within {limit} s"
    told = _text(answers), _text(console)
    assert not ended, "\n".join((ended, *told))
    return told


def _text(path):
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def answer_of(machine, case):
    """
    What a case came to in such a machine.

    :param machine: (answers by case, all that the machine said). Raises AssertionError for none, and for a traceback.
    """
    answers, told = machine
    assert case in answers, told
    assert "traceback" not in answers[case], answers[case]["traceback"]
    return answers[case]
