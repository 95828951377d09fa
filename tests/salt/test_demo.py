"""
The guided tour, ``make demo``: it checks itself and says so by its exit status.
"""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

STEPS = 11


def run(repo, place):
    """Run the tour in the directory ``place``."""
    command = [sys.executable, str(repo / "examples" / "demo.py"), str(place)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")


def test_the_tour_comes_out_as_expected(repo, tmp_path):
    place = tmp_path / "demo"
    done = run(repo, place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^=== (\d+)\. ", done.stdout, re.MULTILINE) == [str(number) for number in range(1, STEPS + 1)]
    assert done.stdout.count("  [ok] ") >= STEPS
    assert "24 slices were kept: same UUIDs" in done.stdout
    assert "of 56 slices 55 are the same" in done.stdout and "exactly one unit was restarted, once" in done.stdout
    assert (place / "conf" / "minion").is_file()


def test_a_directory_of_somebody_else_is_not_deleted(repo, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("keep me", encoding="utf-8")
    done = run(repo, tmp_path)
    assert done.returncode == 1
    assert "name another directory" in done.stderr
    assert mine.read_text(encoding="utf-8") == "keep me"
