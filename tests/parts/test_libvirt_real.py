"""
Debian's libvirt: its own schema takes what we give as a ``<hostdev>``, its test driver defines a domain with it, and what that
writes of a domain is what we read of one. No daemon runs, and no virtual machine is started.
"""

import pathlib
import re
import subprocess

import pytest

from gpuslice.drivers import libvirt as files
from gpuslice.outputs import libvirt
from tests.support import needs

pytestmark = needs.programs("virsh", "xmllint")

SCHEMA = pathlib.Path("/usr/share/libvirt/schemas/domain.rng")
UUID = "5a0c2f4e-7b1d-4a63-9c58-2f7e0d91b6a4"
DEVICES = [
    libvirt.hostdev("0000:03:00.1"),
    libvirt.hostdev("0000:41:00.4", alias=libvirt.alias_of("gpu0"), notes=("quarantined: odd -- results -",)),
    libvirt.hostdev("0000:1b:00.0", managed=True, alias="ua-board"),
    libvirt.hostdev("ffff:fe:1f.7", managed=True),
    libvirt.hostdev(UUID, alias="ua-vgpu"),
]


def virsh(*commands):
    """The output of commands to one test driver, which forgets everything with its process."""
    argv = ["virsh", "-q", "-c", "test:///default", "; ".join(commands)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not done.stderr.strip(), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """A domain of the test driver with our devices in it, as a file."""
    text = virsh("dumpxml test --inactive").replace(">test<", ">ours<").replace("</devices>", "".join(DEVICES) + "</devices>")
    path = tmp_path_factory.mktemp("libvirt") / "ours.xml"
    # Each domain has a UUID and an address of its network card of its own.
    path.write_text(re.sub(r"<uuid>.*</uuid>|<interface.*</interface>", "", text, flags=re.DOTALL), encoding="utf-8")
    return path


def test_the_schema_of_libvirt_takes_every_device(domain):
    argv = ["xmllint", "--noout", "--nonet", "--relaxng", str(SCHEMA)]
    subprocess.run([*argv, str(domain)], check=True, capture_output=True)
    wrong = domain.with_name("wrong.xml")
    wrong.write_text(domain.read_text(encoding="utf-8").replace("managed='no'", "managed='perhaps'", 1), encoding="utf-8")
    assert subprocess.run([*argv, str(wrong)], check=False, capture_output=True).returncode


def test_a_domain_is_defined_with_them_and_what_libvirt_writes_is_read(domain, simulated):
    told = virsh(f"define --validate {domain}", "dumpxml ours --inactive")
    written = told[told.index("<domain") :]
    assert written.count("<hostdev") == len(DEVICES) and written.count("<alias name='ua-") == 3
    host = simulated("flex170", files={f"{files.PLACE}/ours.xml": written})
    [found] = files.defined(host).domains
    assert found.name == "ours" and not found.autostart
    assert found.devices == (
        files.Device("0000:03:00.1", False), files.Device("0000:41:00.4", False), files.Device("0000:1b:00.0", True),
        files.Device("ffff:fe:1f.7", True), files.Device(UUID, False),
    )  # fmt: skip
