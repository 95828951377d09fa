"""
What is shipped for AppArmor and SELinux, by the real compilers: a profile that does not parse, or a module that can't be linked
with a distribution's policy, would be found out by the first administrator who loads it.
"""

import pathlib
import shutil
import subprocess

import pytest

from gpuslice.outputs import apparmor
from gpuslice.outputs import selinux
from tests.support import needs

pytestmark = pytest.mark.slow

#: Debian's policy has no type for containers: container-selinux brings it on other distributions.
STUBS = """
module stubs 1.0;
require { attribute domain; role system_r; }
type container_t, domain;
role system_r types container_t;
"""
STORE, POLICY, CONFIGURATION = (
    pathlib.Path("/var/lib/selinux/default"), pathlib.Path("/etc/selinux/default"), pathlib.Path("/etc/selinux/semanage.conf"),
)  # fmt: skip


def run(*argv, cwd=None):
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs.programs("apparmor_parser")
def test_the_profile_compiles(tmp_path):
    file = tmp_path / apparmor.NAME
    file.write_text(apparmor.PROFILE, encoding="utf-8")
    parser = needs.path("apparmor_parser")
    assert run(parser, "-N", file).split() == [apparmor.NAME]
    compiled = subprocess.run([parser, "-Q", "-K", "-S", file], capture_output=True, timeout=60, check=True).stdout
    assert apparmor.NAME.encode() in compiled
    file.write_text(apparmor.PROFILE.replace("  file,", "  fiel,"), encoding="utf-8")
    assert subprocess.run([parser, "-Q", "-K", file], capture_output=True, timeout=60, check=False).returncode == 1


@needs.programs("apparmor_parser")
def test_shipped_abstractions_are_read_as_they_are_meant():
    texts = {str(path): path.read_text(encoding="utf-8", errors="replace")
             for path in pathlib.Path(apparmor.FOLDER, "abstractions").rglob("*") if path.is_file()}  # fmt: skip
    includes = "  #include <abstractions/nvidia>\n  include <abstractions/dri-common>\n"
    texts["/etc/apparmor.d/x"] = f"profile x /usr/bin/x {{\n{includes}}}\n"
    nodes = [("/dev/nvidia0", "rw"), ("/dev/nvidiactl", "rw"), ("/dev/nvidia-uvm", "rw"), ("/dev/dri/renderD128", "rw")]
    assert apparmor.closed(texts, "x", nodes) == ["/dev/nvidia-uvm"]


def compiled(folder, name, text):
    (folder / f"{name}.te").write_text(text, encoding="utf-8")
    run(needs.path("checkmodule"), "-M", "-m", "-o", f"{name}.mod", f"{name}.te", cwd=folder)
    run(needs.path("semodule_package"), "-o", f"{name}.pp", "-m", f"{name}.mod", cwd=folder)
    return f"{name}.pp"


@needs.programs("checkmodule", "semodule_package")
@pytest.mark.parametrize("kinds", [(), ("/dev/nvidia",), ("/dev/dri/", "/dev/kfd"), tuple(selinux.booleans(["/dev/vfio/7"]))])
def test_the_module_compiles_for_any_vendors(tmp_path, kinds):
    assert (tmp_path / compiled(tmp_path, selinux.NAME, selinux.module(kinds))).stat().st_size > 100


@needs.programs("checkmodule", "semodule_package", "semodule", "sesearch")
def test_the_module_links_with_a_distributions_policy_and_opens_the_nodes(tmp_path):
    """Types that the policy does not have, as hsa_device_t here, are passed over; what is told to open something does."""
    needs.require("" if STORE.is_dir() else needs.said({"selinux-policy-default": str(STORE)}))
    packages = [compiled(tmp_path, "stubs", STUBS), compiled(tmp_path, selinux.NAME, selinux.module())]
    root = tmp_path / "root"
    for source in (STORE, POLICY):
        shutil.copytree(source, root / source.relative_to("/"), symlinks=True)
    shutil.copy(CONFIGURATION, root / "etc" / "selinux" / "semanage.conf")
    install = [word for package in packages for word in ("-i", package)]
    run(needs.path("semodule"), "-n", "-p", root, "-s", "default", *install, cwd=tmp_path)
    (policy,) = (root / "etc" / "selinux" / "default" / "policy").glob("policy.*")
    for kind in ("xserver_misc_device_t", "dri_device_t", "vfio_device_t"):
        (rule,) = run("sesearch", "-A", "-s", "container_t", "-t", kind, "-c", "chr_file", policy).splitlines()
        assert set(rule.partition("{")[2].split()) >= {"open", "read", "write", "ioctl", "map"}
    assert run("sesearch", "-A", "-s", "container_t", "-t", "fixed_disk_device_t", policy) == ""
