"""
Libvirt's own QEMU driver, embedded in ``virsh``: it defines a domain with our devices and adds one more, what it keeps of it is
what we read, and QEMU as it starts it is called by the name of its domain. No daemon runs, and no machine has a GPU or a disk.
"""

import glob
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from gpuslice.drivers import libvirt as files
from gpuslice.host import holders
from gpuslice.outputs import libvirt
from tests.support import needs

pytestmark = [pytest.mark.slow, needs.programs("virsh", "qemu-system-x86_64", "unshare")]

NAME = "two,b"
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>{emulator}</emulator>{devices}</devices></domain>"""
SETTINGS = """user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = "none"
cgroup_controllers = []\nnamespaces = []\nstdio_handler = "file"\n"""
#: Whom Debian's libvirt runs machines as, which another package would make.
USER, GROUPS = "libvirt-qemu:x:64055:64055::/:/bin/false\n", "libvirt-qemu:x:64055:\nkvm:x:64056:\n"
MOUNTED = 'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && shift && exec "$@"'


@pytest.fixture
def place():
    """The root of a libvirt of its own; its sockets need a short path."""
    if not glob.glob("/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so"):
        pytest.skip(needs.said({"libvirt-daemon-driver-qemu": "its QEMU driver"}))
    if os.geteuid():
        pytest.skip("needs root for a mount namespace")
    made = pathlib.Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
    (made / "etc").mkdir()
    (made / "etc" / "qemu.conf").write_text(SETTINGS, encoding="utf-8")
    for name, more in (("passwd", USER), ("group", GROUPS)):
        (made / name).write_text(pathlib.Path("/etc", name).read_text(encoding="utf-8") + more, encoding="utf-8")
    yield made
    shutil.rmtree(made)


def virsh(place, *commands):
    """Commands to the driver, in one process."""
    uri = f"qemu:///embed?root={place}"
    argv = ["unshare", "--mount", "sh", "-c", MOUNTED, "sh", str(place), "virsh", "-q", "-c", uri, "; ".join(commands)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert not done.returncode, done.stderr
    return done.stdout


def defined(place, name, *devices):
    """A domain as a file for ``virsh define``."""
    path = place / f"new-{name.replace(',', '')}.xml"
    emulator = shutil.which("qemu-system-x86_64")
    path.write_text(DOMAIN.format(name=name, emulator=emulator, devices="".join(devices)), encoding="utf-8")
    return path


def test_what_libvirt_keeps_of_our_devices_is_read_and_its_machine_is_called_by_its_domain(place, simulated):
    own = defined(place, "web", libvirt.hostdev("0000:3c:00.2", managed=True, alias="ua-gpu0", notes=("odd -- results",)))
    vgpu = place / "vgpu.xml"
    uuid = "5a0c2f4e-7b1d-4a63-9c58-2f7e0d91b6a4"
    vgpu.write_text(libvirt.hostdev(uuid, alias="ua-vgpu", notes=("a note",)), encoding="utf-8")
    virsh(place, f"define --validate {own}", f"attach-device web {vgpu} --config", "autostart web")
    kept = {path.name: path.read_text(encoding="utf-8") for path in (place / "etc" / "qemu").glob("*.xml")}
    links = [path.name for path in (place / "etc" / "qemu" / "autostart").iterdir()]
    there = {f"{files.PLACE}/{name}": text for name, text in kept.items()}
    there |= {f"{files.PLACE}/autostart/{name}": kept[name] for name in links}
    devices = (files.Device("0000:3c:00.2", True), files.Device(uuid, False))
    found = files.defined(simulated("flex170", files=there))
    assert found.domains == (files.Domain("web", f"{files.PLACE}/web.xml", devices, True),) and not found.unread

    virsh(place, f"define {defined(place, NAME)}", f"start {NAME}")
    [noted] = place.rglob(f"{NAME}.pid")
    pid = int(noted.read_text(encoding="utf-8"))
    try:
        assert holders.process(pid).domain == NAME
    finally:
        # Nobody else looks after it: its libvirt ended with virsh.
        os.kill(pid, signal.SIGKILL)
