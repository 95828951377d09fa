"""
The suite that looks at real GPUs (``make test-gpu``) is tried on described machines, and leaves all other runs alone.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SUITE = ROOT / "tests" / "gpu"
HOSTS = sorted(path.stem for path in (ROOT / "examples" / "hosts").glob("*.yaml"))
#: The others are slow together, the one without a GPU among them, whose tests are left out.
QUICK = ("a30-pair",)


def looked_at(host):
    """What the suite prints of a described machine, and its exit status."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE / "look.py")]
    environment = {**os.environ, "GPU_SLICING_SIMULATE": str(ROOT / "examples" / "hosts" / f"{host}.yaml"), "CI": ""}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    return done.stdout, done.returncode


@pytest.mark.parametrize("host", [host if host in QUICK else pytest.param(host, marks=pytest.mark.slow) for host in HOSTS])
def test_it_passes_on_every_example_host(host):
    printed, status = looked_at(host)
    assert status == 0, printed
    assert (" passed" in printed) != ("this machine has no GPU" in printed)


def test_no_other_run_collects_it():
    assert [path.name for path in SUITE.glob("test_*.py")] == []
    assert "tests/gpu/look.py" in pathlib.Path(ROOT / "Makefile").read_text(encoding="utf-8")
