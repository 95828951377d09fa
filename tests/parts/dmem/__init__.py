"""
Limits of GPU memory that a real kernel enforces, under a real systemd, in a virtual machine: ``fetch`` builds a small kernel with
the cgroup controller dmem, ``amdgpu.c`` is a driver that has memory to be charged, ``inside.py`` is what runs there, with this
machine's own Python and systemd, and ``charge.py`` a program that wants memory.
"""

import json
import pathlib
import shutil
import subprocess
import sys

from tests.parts import machine
from tests.support import needs

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
UNITS = "/etc/systemd/system"

#: Seconds for the whole virtual machine, which two busy processors emulate.
LIMIT = 600
#: What empties /tmp at a boot would walk through that of this machine.
_COMMAND_LINE = (
    "console=ttyS0 panic=-1 quiet loglevel=4 cgroup_no_v1=all systemd.unit=test.target systemd.show_status=false "
    "systemd.log_level=warning systemd.mask=systemd-tmpfiles-setup.service systemd.mask=systemd-tmpfiles-setup-dev.service "
    "systemd.mask=systemd-journal-flush.service systemd.mask=systemd-sysusers.service"
)
#: From the initial file system to the systemd of this machine's root, where only what is wanted here starts.
_INIT = (
    machine.MOUNT_ROOT
    + """rm -rf /new{units}/*.wants /new/etc/fstab
cp -r /new{tree}/. /new/
mount -t cgroup2 none /new/sys/fs/cgroup
exec switch_root /new /lib/systemd/systemd
"""
)
_FILES = {
    "test.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=story.service\n",
    "story.service": """
[Unit]
After=basic.target
[Service]
Type=oneshot
Environment=PYTHONPATH={code}/_utils LC_ALL=C.UTF-8
ExecStart={python} {code}/dmem/inside.py /dev/ttyS1
ExecStopPost=/bin/systemctl reboot --force --force
StandardOutput=journal+console
StandardError=journal+console
TimeoutStartSec={limit}
""",
    "trainer.service": "[Service]\nExecStart={python} -I -S {code}/dmem/charge.py trainer 160\n",
    "other.service": "[Service]\nSlice=other.slice\nExecStart={python} -I -S {code}/dmem/charge.py other 160\n",
}


def built():
    """The folder of the kernel that ``fetch`` built, None for none."""
    done = subprocess.run([HERE / "fetch"], capture_output=True, text=True, timeout=30, check=False)
    return None if done.returncode else ROOT / "build" / "dmem" / done.stdout.strip()


def missing():
    """Why it can't be booted here, naming what is missing; "" when it can."""
    if why := machine.lacking("systemctl"):
        return why
    return "" if built() else needs.said({"linux-source": "tests/parts/dmem/fetch --build makes a kernel of it in ten minutes"})


def boot(place):
    """
    Boot it and let it run to its end.

    :param place: an empty folder. :return: (answers, console): name of each case of ``inside.py`` -> what it answered, and all
        that the machine said.
    """
    code = place / "code"
    for path in (HERE, *(ROOT / name for name in ("_utils", "_modules", "_states", "_grains"))):
        shutil.copytree(path, code / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    # Ten times faster here than in there.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(code)], timeout=120, check=True)
    tree = place / "tree"
    (tree / UNITS.lstrip("/")).mkdir(parents=True)
    told = {"code": code, "python": sys.executable, "limit": LIMIT}
    for name, text in _FILES.items():
        (tree / UNITS.lstrip("/") / name).write_text(text.format(**told), encoding="utf-8")
    kernel = built()
    shutil.copy(kernel / "amdgpu.ko", code)
    machine.pack(place, _INIT.format(first="insmod /amdgpu.ko", units=UNITS, tree=tree), [kernel / "amdgpu.ko"])
    # A card of ATI's, which has neither a display nor a ROM here.
    card = ("-device", "ati-vga,model=rage128p,romfile=,addr=0x05")
    answers, console = machine.run(place, kernel / "bzImage", _COMMAND_LINE, LIMIT, *card)
    return dict(json.loads(line) for line in answers.splitlines()), f"{console}\n{answers}"
