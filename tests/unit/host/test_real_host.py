"""
Programs that the real host runs: what they say, when they are not there, and when they do not end.
"""

import sys
import time

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost

#: Leaves a child behind that keeps the outputs open, as a program does which hangs in a driver: its end can't be waited for.
CHILD = "import subprocess, sys; subprocess.Popen(['sleep', '3']); print('begun', flush=True); sys.stdin.read()"


def test_what_a_program_says_and_how_it_ends():
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = RealHost().run([sys.executable, "-c", program])
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(errors.ToolMissing, match="no-such-program is not installed"):
        RealHost().run(["no-such-program"])


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", CHILD + "; import time; time.sleep(60)"])
def test_a_program_that_does_not_end_is_left_behind(program):
    with pytest.raises(errors.ToolFailed, match="did not end within 1 s"):
        RealHost().run([sys.executable, "-c", program], timeout=1)


def test_what_such_a_program_has_started_ends_with_it(tmp_path):
    late = tmp_path / "late"
    with pytest.raises(errors.ToolHangs):
        RealHost().run(["sh", "-c", f"(sleep 2; touch {late}); true"], timeout=1)
    time.sleep(2)
    assert not late.exists()


def test_a_program_that_ended_is_not_said_to_hang_for_what_it_left_running(tmp_path):
    done = RealHost().run(["sh", "-c", f"(sleep 3; touch {tmp_path / 'late'}) & echo out; echo err >&2; exit 3"], timeout=1)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    time.sleep(3)
    assert (tmp_path / "late").exists()


def test_a_file_that_is_replaced_has_another_stamp(tmp_path):
    place, host = tmp_path / "a", RealHost()
    assert host.stamp(str(place)) == host.stamp(str(tmp_path)) == ""
    place.write_text("1", encoding="utf-8")
    first = host.stamp(str(place))
    assert first == host.stamp(str(place)) != ""
    place.write_text("22", encoding="utf-8")
    assert host.stamp(str(place)) not in ("", first)


def test_a_program_is_given_its_input_and_its_environment():
    done = RealHost().run(["sh", "-c", "cat; echo $OURS"], given="a word\n", environment={"OURS": "there"})
    assert (done.returncode, done.stdout) == (0, "a word\nthere\n")
    # One that does not read it ends all the same.
    assert RealHost().run(["true"], given="x" * 1000000).returncode == 0
