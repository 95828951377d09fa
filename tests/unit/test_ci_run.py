"""
What the whole check leaves out where Debian's archive can't be had: its own script runs in a copy, with one program in the place
of all that it would install, build and test with.
"""

import os
import shutil
import subprocess

import pytest

PARTS = ("mmdebstrap", "nvidia-cuda-mps", "nvidia-modprobe")
#: What is built only when told, and was not in this copy.
BUILT = ("kube-apiserver", "kubernetes-client", "openssl")
WHY_NOT_BUILT = "it is built from Debian's source only when told, in some minutes: make kube-apiserver"
TITLES = ("systemd and Podman in a container", "real MPS daemon", "nvidia-modprobe")
WHY = "this is no Debian, and the package sources of this machine name no Debian"
#: What apt knows of sources: whose each is, once the lists of packages are there, and where it lies.
MIRROR, SECURITY = "Debian http://one.example/debian/", "Debian http://one.example/debian-security/"
UBUNTU, OTHER = "Ubuntu http://two.example/ubuntu/", "Tools http://three.example/debian/"
#: Does what little is asked of each program, by the name it is called with.
PROGRAM = r"""#!/bin/sh
case "${0##*/} $*" in
"apt-get indextargets --no-release-info "*) sed 's/^[^ ]*/$(ORIGIN)/' "$SOURCES" ;;
"apt-get indextargets "*) [ -z "$LISTS" ] || cat "$SOURCES" ;;
"id -u") echo 0 ;;
"dpkg --print-architecture") echo amd64 ;;
"make test "*) echo "without: $TESTS_WITHOUT" ;;
"python -m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/salt-call" ;;
"salt-call "*--versions-report) echo "Salt Extensions:" ;;
esac
"""
STANDS_FOR = ("apt-get", "id", "dpkg", "dpkg-deb", "make", "mmdebstrap", "qemu-system-x86_64", "cpio", "busybox")


@pytest.fixture
def call(repo, tmp_path):
    """``call(system, sources, *command, lists="yes")``: what a command comes to in a copy of the check, on such a system."""
    for name in (".ci/run", "requirements-dev.txt", "requirements-salt3006.txt", "tests/parts/debian"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, tmp_path / name)
    for part in ("containers", "mps", "kernel", "kube", "dmem"):
        (tmp_path / "tests" / "parts" / part).mkdir()
        shutil.copy(repo / "tests" / "parts" / part / "fetch", tmp_path / "tests" / "parts" / part)
    programs = [tmp_path / "bin" / name for name in STANDS_FOR] + [tmp_path / ".venv" / "bin" / "python"]
    for path in programs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROGRAM, encoding="utf-8")
        path.chmod(0o755)
    for part, release in (("kernel", "6.1"), ("dmem", "7.3")):
        (tmp_path / "tests" / "parts" / part / "fetch").write_text(f"#!/bin/sh\necho {release}\n", encoding="utf-8")
    debian, release = tmp_path / "tests" / "parts" / "debian", tmp_path / "os-release"
    text = debian.read_text(encoding="utf-8")
    assert "/etc/os-release" in text
    debian.write_text(text.replace("/etc/os-release", str(release)), encoding="utf-8")

    def run(system, sources, *command, lists="yes"):
        release.write_text(f"NAME=x\nID={system}\nID_LIKE=debian\n", encoding="utf-8")
        (tmp_path / "sources").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
        own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SOURCES": str(tmp_path / "sources"), "LISTS": lists}
        environment = {**os.environ, **own}
        argv = [str(tmp_path / command[0]), *command[1:]]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.parametrize(("system", "sources"), [("ubuntu", []), ('"ubuntu"', [UBUNTU, OTHER])])
def test_elsewhere_than_on_debian_the_parts_of_debian_are_left_out_by_name(call, system, sources):
    done = call(system, sources, ".ci/run")
    assert done.returncode == 0, done.stdout + done.stderr
    without = next(line for line in done.stdout.splitlines() if line.startswith("without: "))
    assert without.split()[1:] == [*PARTS, *BUILT]
    summary = done.stdout.partition("=== Summary\n")[2].splitlines()
    assert [line.strip() for line in summary if "NOT RUN" in line] == [
        *(f"{title}: NOT RUN, {WHY}" for title in TITLES), f"real kube-apiserver: NOT RUN, {WHY_NOT_BUILT}",
    ]  # fmt: skip
    assert done.stdout.count(f"    not run: {WHY}\n") == len(PARTS)


def test_what_takes_too_long_to_build_is_used_where_it_is_there_and_else_left_out_by_name(call, repo, tmp_path):
    assert "    Linux 7.3\n" in call("ubuntu", [], ".ci/run").stdout
    for name in ("fetch", "config", "amdgpu.c", "Kbuild"):
        shutil.copy(repo / "tests" / "parts" / "dmem" / name, tmp_path / "tests" / "parts" / "dmem" / name)
    done = call("ubuntu", [], ".ci/run")
    assert done.returncode == 0, done.stdout + done.stderr
    without = next(line for line in done.stdout.splitlines() if line.startswith("without: "))
    assert "linux-source" in without.split()
    told = done.stdout.partition("=== Summary\n")[2]
    assert "limits of GPU memory in a virtual machine: NOT RUN, no kernel with the cgroup controller dmem was built" in told
    assert "tests/parts/dmem/fetch --build does that" in told


@pytest.mark.parametrize(
    ("system", "sources"), [("debian", []), ('"debian"', [OTHER]), ("debian", [MIRROR]), ("ubuntu", [UBUNTU, MIRROR])]
)
def test_where_debian_can_be_had_what_fails_stops_the_check(call, system, sources):
    done = call(system, sources, ".ci/run")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith("this failed, and the tests that need it would be skipped: stopping here\n")
    assert "NOT RUN" not in done.stdout and "not run" not in done.stdout


@pytest.mark.parametrize("lists", ["yes", ""])
def test_the_mirror_is_the_one_of_this_machine(call, lists):
    done = call("debian", [SECURITY, MIRROR, OTHER], "tests/parts/debian", "mirror", lists=lists)
    assert (done.returncode, done.stdout) == (0, "http://one.example/debian/\n"), done.stderr


def test_a_source_of_others_is_no_mirror_of_debian(call):
    done = call("ubuntu", [UBUNTU, OTHER], "tests/parts/debian", "mirror")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the package sources of this machine name no Debian\n"


def test_the_keys_of_debian_are_installed_whatever_needs_them(repo):
    packages = (repo / ".ci" / "run").read_text(encoding="utf-8").partition('say "Kernel for')[0]
    assert "missing+=(debian-archive-keyring)" in packages
