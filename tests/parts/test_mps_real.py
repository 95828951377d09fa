"""
NVIDIA's own MPS control daemon: our words to it, what it takes and what it refuses, and our unit under a real systemd, with a
daemon that is killed. It has no GPU here, so that it has no servers and no clients.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from gpuslice import errors
from gpuslice.drivers import mps
from gpuslice.host.real import RealHost
from gpuslice.outputs.mps import VARIABLE
from gpuslice.outputs.mps import pipe_directory
from gpuslice.techniques.mps import unit
from tests.parts import containers
from tests.parts import mps as part
from tests.support import needs

pytestmark = pytest.mark.slow

GPU = "0000:41:00.0"
SPEC = unit.Spec(GPU, "GPU-0b7a3c52-4e0b-4f1d-9d34-1c1f8f0c6a11", ("/dev/nvidia0",), 12.5, 5119, False, "", "")


class Daemon:
    """One daemon in a folder of its own: ``process``, ``control`` (our driver) and ``spec``."""

    def __init__(self, name):
        self.spec = SPEC._replace(name=name, control=str(part.PROGRAM))
        self.folder = pathlib.Path(pipe_directory(name))
        self.control = mps.Control(RealHost(), name, GPU)
        self.environment = {**os.environ, VARIABLE: str(self.folder), "CUDA_MPS_LOG_DIRECTORY": str(self.folder)}
        self.process = None

    def start(self):
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [self.spec.control, "-f"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, start_new_session=True)
        for _ in range(100):
            try:
                return self.control.ask(mps.GET_THREADS)
            except errors.ToolFailed:
                time.sleep(0.05)
        raise AssertionError("the daemon does not answer")

    def readies(self, **changes):
        """Exit status of what the unit runs after the start."""
        words = unit._ready(self.spec._replace(**changes)).replace("$$", "$")
        return subprocess.run(["/bin/sh", "-ec", words], env=self.environment, timeout=60, check=False).returncode

    def end(self):
        """End it, and remove its folder."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def daemon(monkeypatch):
    """A daemon that is not started yet."""
    needs.require(part.missing())
    monkeypatch.setenv("PATH", f"{part.PROGRAM.parent}:{os.environ['PATH']}")
    made = Daemon(f"test-{os.getpid()}")
    yield made
    made.end()


def test_limits_are_set_and_read_back(daemon):
    daemon.start()
    assert daemon.control.limits() == ("100.0", "")
    with pytest.raises(errors.ValidationFailed, match=r"12.5 % .* and 4G of memory, and it gives 100.0 % .* any amount of"):
        daemon.control.check(12.5, 5119)
    assert daemon.readies() == 0
    assert daemon.control.limits() == ("12.5", "4G")
    daemon.control.check(12.5, 5119)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 48, 60])
def test_an_equal_part_of_any_number_of_clients_is_told_as_it_was_set(daemon, count):
    from gpuslice.techniques.mps import clients

    daemon.start()
    for mib in (1, 1023, 1024, 81559 // count):
        assert daemon.readies(threads=clients.threads(1, count, 2), pinned_mib=mib) == 0
        daemon.control.check(clients.threads(1, count, 2), mib)


@pytest.mark.parametrize("refused", [{"threads": 0.0}, {"threads": 100.1}, {"pinned_mib": 0}])
def test_what_it_refuses_with_success_fails_when_read_back(daemon, refused):
    daemon.start()
    spec = daemon.spec._replace(**refused)
    assert daemon.control.ask(mps.set_threads(spec.threads), mps.set_pinned(spec.pinned_mib)) is not None
    assert daemon.readies(**refused) != 0
    with pytest.raises(errors.ValidationFailed, match="it refused a value"):
        daemon.control.check(spec.threads, spec.pinned_mib)


def test_a_killed_daemon_is_known_and_a_new_one_begins_with_its_defaults(daemon):
    daemon.start()
    assert daemon.readies() == 0 and daemon.control.clients() == []
    assert mps.daemon_pid(RealHost(), str(daemon.folder)) == daemon.process.pid
    assert mps.serves(RealHost().process(daemon.process.pid))
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(timeout=10)
    # Its file stays; the process is gone.
    assert RealHost().process(mps.daemon_pid(RealHost(), str(daemon.folder))) is None
    with pytest.raises(errors.ToolFailed, match="does not answer: Cannot find MPS control daemon process"):
        daemon.control.limits()
    daemon.start()
    assert daemon.control.limits() == ("100.0", "") and daemon.readies() == 0 and daemon.control.limits() == ("12.5", "4G")


# -- our unit under a real systemd ----------------------------------------------------------------------------------------
STORY = """
[Unit]
Description=What becomes of the units
[Service]
Type=oneshot
ExecStart=/bin/sh {place}/story.sh
ExecStopPost=/bin/systemctl --no-block exit 0
TimeoutStartSec=90
"""
#: Writes a line for each thing that is looked at.
SCRIPT = r"""
cd {place}; exec >told.txt 2>&1
limits() {{ for word in get_default_active_thread_percentage 'get_default_device_pinned_mem_limit 0'; do
    echo "$word" | CUDA_MPS_PIPE_DIRECTORY={folder} ./nvidia-cuda-mps-control; done | tr '\n' ' '; }}
mkdir -p /run/systemd/system; cp good/* bad/* /run/systemd/system/; systemctl daemon-reload
systemctl start {unit}; echo "started $?, limits $(limits)"
pid=$(cat {folder}/nvidia-cuda-mps-control.pid)
echo "unit $(grep -o '[^/]*$' /proc/$pid/cgroup), new privileges $(awk '/NoNewPrivs/{{print $2}}' /proc/$pid/status)"
kill -9 $pid
n=0; until [ "$(cat {folder}/nvidia-cuda-mps-control.pid)" != $pid ] && [ "$(systemctl is-active {unit})" = active ]; do
    n=$((n+1)); [ $n -lt 200 ] || break; sleep 0.1; done
echo "after a kill $(systemctl is-active {unit}), limits $(limits)"
systemctl stop {unit}; echo "stopped $?, $(systemctl is-active {unit}), folder $(test -e {folder} && echo there || echo gone)"
systemctl start {bad}; echo "refused $?, $(systemctl is-active {bad})"
journalctl -b -u {unit} --no-pager -o cat
"""


def test_the_unit_is_active_with_its_limits_and_again_after_a_kill(tmp_path):
    needs.require(part.missing() or containers.missing(containers.OWN))
    shutil.copy(part.PROGRAM, tmp_path)
    for folder in ("good", "bad"):
        (tmp_path / folder).mkdir()
    good = SPEC._replace(control=f"{tmp_path}/{part.PROGRAM.name}", smi="/bin/echo", exclusive=True)
    bad = good._replace(name="0000:a1:00.0", threads=100.1)
    for folder, spec in (("good", good), ("bad", bad)):
        (tmp_path / folder / unit.unit(spec.name)).write_text(unit.written(spec), encoding="utf-8")
    names = {"place": tmp_path, "unit": unit.unit(good.name), "bad": unit.unit(bad.name), "folder": pipe_directory(good.name)}
    (tmp_path / "story.sh").write_text(SCRIPT.format(**names), encoding="utf-8")
    units = {
        "/etc/systemd/system/story.service": STORY.format(**names),
        "/etc/systemd/system/multi-user.target.d/10-test.conf": "[Unit]\nWants=story.service\n",
    }
    script = 'contain "$1" "--bind=$place" -b systemd.unit=multi-user.target'
    containers.contain(tmp_path, containers.OWN, units, script, containers.FILTERS)
    told = (tmp_path / "told.txt").read_text(encoding="utf-8")
    for line in (
        "started 0, limits 12.5 4G",
        f"unit {names['unit']}, new privileges 1",
        "after a kill active, limits 12.5 4G",
        "stopped 0, inactive, folder gone",
        # What the tool for the compute mode was given, before and after.
        f"-i {SPEC.device} -c EXCLUSIVE_PROCESS",
        f"-i {SPEC.device} -c DEFAULT",
    ):
        assert line in told, told
    assert "refused 1, " in told and "refused 1, active" not in told, told


@needs.programs("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    for exclusive in (True, False):
        spec = SPEC._replace(control="/bin/true", smi="/bin/true", exclusive=exclusive)
        path = tmp_path / unit.unit(spec.name)
        path.write_text(unit.written(spec), encoding="utf-8")
        command = ["systemd-analyze", "verify", "--man=no", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        said = [line for line in done.stderr.splitlines() if unit.unit(spec.name) in line]
        assert (done.returncode, said) == (0, []), done.stderr
