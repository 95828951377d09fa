"""Writes with a limit of time, on real files: a FIFO that nobody reads keeps its writer waiting as a driver does."""

import errno
import os
import time

import pytest

from gpuslice import errors
from gpuslice.drivers import bounded
from gpuslice.host.real import RealHost

GPU = "0000:1b:00.0"
#: Seconds that the program which writes may take to start, on a busy machine.
START = 20.0


@pytest.fixture
def ask(tmp_path):
    """``ask(path, seconds)``: write to a file as a technique does."""
    host = RealHost(str(tmp_path / "state"))

    def write(path, seconds=bounded.PATIENCE, gpu=GPU, text="x"):
        bounded.write(host, gpu, str(path), text, "unbind it", seconds=seconds, locks=str(tmp_path / "locks"))

    return write


@pytest.fixture
def stuck(tmp_path):
    """A FIFO that nobody reads; it is read in the end, so that nothing is left waiting."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    time.sleep(0.2)
    os.close(handle)


def waiting(err):
    """The process that the error names."""
    return next(int(word) for word in str(err).split("process ")[1].split() if word.isdigit())


def test_what_is_written_arrives_in_one_piece(ask, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    for text in ("0000:1b:00.0", "\n", "a b'$%"):
        ask(path, text=text)
        assert path.read_text()[: len(text)] == text


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("none", errors.Unsupported, "no such file"), (".", errors.DriverError, "EISDIR")],
)
def test_the_errno_is_that_of_the_file(ask, tmp_path, name, kind, words):
    with pytest.raises(kind, match=f"GPU {GPU}: Could not unbind it: .*{words}"):
        ask(tmp_path / name)


def test_a_write_that_does_not_come_back_is_given_up_and_its_process_named(ask, stuck):
    begun = time.monotonic()
    with pytest.raises(errors.Unhealthy, match=f"GPU {GPU}: Could not unbind it: .* within 0.5 s") as caught:
        ask(stuck, seconds=0.5)
    assert time.monotonic() - begun < START
    assert os.path.exists(f"/proc/{waiting(caught.value)}") and "reboot" in str(caught.value)


def test_nothing_is_asked_of_a_function_that_has_not_answered_yet(ask, stuck, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(errors.Unhealthy) as first:
        ask(stuck, seconds=0.1)
    with pytest.raises(errors.Unhealthy, match="still waits in it, from an earlier attempt") as second:
        ask(path)
    assert waiting(first.value) == waiting(second.value) and path.read_text() == ""
    ask(path, gpu="0000:2b:00.0")
    assert path.read_text() == "x"


def test_what_is_read_comes_back_and_a_read_that_waits_is_given_up(stuck, tmp_path):
    host, locks = RealHost(str(tmp_path / "state")), str(tmp_path / "locks")
    path = tmp_path / "file"
    path.write_text("vfio-pci\n")
    assert bounded.text(host, GPU, str(path), locks=locks) == "vfio-pci"
    assert bounded.text(host, GPU, str(tmp_path / "none"), locks=locks) is None
    with pytest.raises(errors.Unhealthy, match=f"GPU {GPU}: The kernel does not tell {stuck}: .*reboot"):
        bounded.text(host, GPU, str(stuck), seconds=0.2, locks=locks)
    os.close(os.open(stuck, os.O_RDWR | os.O_NONBLOCK))


def test_it_is_asked_again_once_the_earlier_write_came_back(ask, stuck, tmp_path):
    with pytest.raises(errors.Unhealthy):
        ask(stuck, seconds=0.1)
    assert stuck.read_text() == "x"
    path = tmp_path / "file"
    path.write_text("")
    ask(path)
    assert path.read_text() == "x"


def test_a_driver_that_answers_with_a_timeout_does_not_hang(simulated):
    """The errno of a real write is the driver's own word; only a simulated kernel uses it for a write that hangs."""
    err = OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    assert "ETIMEDOUT" in str(bounded.kernel.failure(err, GPU, "bind it"))
    host = simulated("mixed-vendors")
    host.add_fault({"call": "write", "error": "ETIMEDOUT"})
    with pytest.raises(errors.Unhealthy, match="the driver waits for its users"):
        bounded.write(host, GPU, f"/sys/bus/pci/devices/{GPU}/driver/unbind", GPU, "unbind it")
