"""
What tests need beside Python and its packages: programs, and the Debian package that brings each.

A test that can't run for want of a package says so in one form, "needs <package> (<what of it>)", so that the end of a run can
sum up by package what was not run, and a run in CI fails.
"""

import os
import re
import shutil

import pytest

#: Program -> the package that brings it.
PACKAGES = {
    "apparmor_parser": "apparmor",
    "busybox": "busybox-static",
    "checkmodule": "checkpolicy",
    "cpio": "cpio",
    "crun": "crun",
    "depmod": "kmod",
    "gcc": "gcc",
    "git": "git",
    "kubectl": "kubernetes-client",
    "lspci": "pciutils",
    "make": "make",
    "mdevctl": "mdevctl",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "newuidmap": "uidmap",
    "openssl": "openssl",
    "podman": "podman",
    "python3": "python3",
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "promtool": "prometheus",
    "qemu-system-x86_64": "qemu-system-x86",
    "runc": "runc",
    "scp": "openssh-client",
    "scontrol": "slurm-client",
    "semodule": "policycoreutils",
    "semodule_package": "semodule-utils",
    "sesearch": "setools",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ssh-keyscan": "openssh-client",
    "sshd": "openssh-server",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "udevadm": "udev",
    "umockdev-run": "umockdev",
    "unshare": "util-linux",
    "virsh": "libvirt-clients",
    "xmllint": "libxml2-utils",
}
#: Packages, parted by spaces, that a machine of CI is known not to have: the tests that need them may be left out there.
KNOWN_MISSING = "TESTS_WITHOUT"


def path(program):
    """Where a program lies, also in the directories that are only on root's path; None where it is not installed."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def said(parts):
    """The reason of a test that can't run: ``{package: what of it}`` as one text."""
    return "needs " + ", ".join(f"{package} ({part})" for package, part in sorted(parts.items()))


def read(reason):
    """``{package: what of it}`` of a text of :func:`said`; empty for any other reason."""
    _, begins, listed = reason.partition("needs ")
    return dict(re.findall(r"(\S+) \(([^)]*)\)", listed)) if begins else {}


def lacking(*programs):
    """Why a test can't run here that needs these programs; "" when all are there."""
    parts = {}
    for program in programs:
        if path(program) is None:
            parts.setdefault(PACKAGES[program], []).append(program)
    return said({package: " ".join(names) for package, names in parts.items()}) if parts else ""


def programs(*names):
    """A mark: the test is left out where one of these programs is missing."""
    why = lacking(*names)
    return pytest.mark.skipif(bool(why), reason=why)


def require(why):
    """Leave out the test that runs now for this reason; does nothing when it is empty."""
    if why:
        pytest.skip(why)


def not_run(reasons):
    """
    What the end of a run says of the tests that were left out.

    :param reasons: why, one for each such test.
    :return: lines of text, none when all were run.
    """
    if not reasons:
        return []
    counts = {}
    for reason in reasons:
        for what in [f"{package} ({part})" for package, part in read(reason).items()] or [reason]:
            counts[what] = counts.get(what, 0) + 1
    lines = [f"{len(reasons)} {'test was' if len(reasons) == 1 else 'tests were'} not run:"]
    lines += [f"{count:>6}  {what}" for what, count in sorted(counts.items(), key=lambda item: -item[1])]
    packages = sorted({package for reason in reasons for package in read(reason)})
    return [*lines, f"install: apt-get install {' '.join(packages)}"] if packages else lines


def breaks_ci(reasons):
    """Packages whose tests were left out although this is a run of CI that has not said that it has to do without them."""
    if not os.environ.get("CI"):
        return []
    return sorted({package for reason in reasons for package in read(reason)} - set(os.environ.get(KNOWN_MISSING, "").split()))
