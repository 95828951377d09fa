"""
What a run says of tests that it left out for want of a package, and what becomes of it in CI.
"""

import os
import subprocess
import sys

import pytest

from tests.support import needs

PACKAGES = {"no-such-lspci": "no-pciutils", "no-such-modprobe": "no-kmod", "no-such-depmod": "no-kmod"}
TESTS = f"""
from tests.support import needs

needs.PACKAGES.update({PACKAGES})


@needs.programs("no-such-lspci", "no-such-modprobe")
def test_marked():
    raise AssertionError


def test_asks():
    needs.require(needs.lacking("no-such-modprobe"))
    raise AssertionError


def test_runs():
    needs.require(needs.lacking())
"""


def test_reasons_are_summed_up_by_package(monkeypatch):
    for program, package in PACKAGES.items():
        monkeypatch.setitem(needs.PACKAGES, program, package)
    reasons = 3 * [needs.lacking("no-such-lspci")] + [needs.lacking("no-such-modprobe", "no-such-depmod"), "it takes root"]
    assert needs.not_run(reasons) == [
        "5 tests were not run:",
        "     3  no-pciutils (no-such-lspci)",
        "     1  no-kmod (no-such-modprobe no-such-depmod)",
        "     1  it takes root",
        "install: apt-get install no-kmod no-pciutils",
    ]
    assert needs.not_run([]) == [] and needs.not_run(["it takes root"]) == ["1 test was not run:", "     1  it takes root"]


def test_what_is_there_is_no_reason():
    assert needs.lacking("unshare" if needs.path("unshare") else "python3") == ""


def test_every_package_is_one_that_ci_installs(repo):
    text = (repo / ".ci" / "run").read_text(encoding="utf-8")
    assert [package for package in needs.PACKAGES.values() if package not in text] == []


@pytest.mark.parametrize(
    ("environment", "status"),
    [({}, 0), ({"CI": "true"}, 1), ({"CI": "true", needs.KNOWN_MISSING: "no-kmod no-pciutils"}, 0)],
)
def test_a_run_says_what_it_left_out_and_fails_for_it_in_ci(repo, tmp_path, environment, status):
    (tmp_path / "test_odd.py").write_text(TESTS, encoding="utf-8")
    left = {key: value for key, value in os.environ.items() if key not in ("CI", needs.KNOWN_MISSING, "PYTEST_ADDOPTS")}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    argv += ["-c", str(repo / "pyproject.toml"), str(tmp_path)]
    environment = {**left, **environment}
    done = subprocess.run(argv, cwd=repo, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status and "1 passed, 2 skipped" in done.stdout, done.stdout + done.stderr
    told = ["2 tests were not run:", "     2  no-kmod (no-such-modprobe)", "     1  no-pciutils (no-such-lspci)"]
    assert "\n".join([*told, "install: apt-get install no-kmod no-pciutils"]) in done.stdout
    sentence = "This run fails: CI is set, and TESTS_WITHOUT does not name no-kmod no-pciutils."
    assert (sentence in done.stdout) == bool(status)
