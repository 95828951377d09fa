"""Files of our own: replaced as a whole, with the permissions that were asked for."""

import os
import stat

import pytest

from gpuslice.host.real import RealHost
from gpuslice.records import lock

PATH = "/etc/nvidia/ClientConfigToken/x.tok"


@pytest.fixture
def masked(request):
    """Another umask for the time of a test."""
    old = os.umask(request.param)
    yield
    os.umask(old)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("masked", [0o022, 0o077, 0o000], indirect=True, ids=oct)
@pytest.mark.parametrize("wanted", [0o600, 0o644, 0o744])
@pytest.mark.parametrize("before", [None, 0o666, 0o400])
def test_a_file_has_the_mode_that_is_asked_for_whatever_was_before(tmp_path, masked, wanted, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_text("old")
        path.chmod(before)
    RealHost(str(tmp_path)).store_write(str(path), "new\n", wanted)
    assert (mode(path), path.read_text()) == (wanted, "new\n")
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_has_the_usual_mode_where_none_is_asked_for(tmp_path):
    RealHost(str(tmp_path)).store_write(str(tmp_path / "file"), "x")
    assert mode(tmp_path / "file") == 0o644


def test_what_a_crash_left_behind_is_not_written_into(tmp_path):
    path, left = tmp_path / "file", tmp_path / f"file.{os.getpid()}.new"
    left.write_text("cut short")
    left.chmod(0o666)
    with open(left, encoding="utf-8") as reader:
        RealHost(str(tmp_path)).store_write(str(path), "secret", 0o600)
        assert reader.read() == "cut short"
    assert (mode(path), path.read_text()) == (0o600, "secret")


def test_nobody_can_open_the_file_before_it_has_its_mode(tmp_path):
    """The file is looked at from its first moment on, by an audit hook that sees every call before it is made."""
    seen = []
    done = os.fork()
    if done == 0:
        import sys

        def hook(event, args):
            for name in os.listdir(tmp_path) if event in ("os.rename", "os.chmod") else ():
                found = os.stat(tmp_path / name)
                seen.append((stat.S_IMODE(found.st_mode) & 0o077, found.st_size if event == "os.chmod" else 0))

        status = 1
        try:
            os.umask(0)
            sys.addaudithook(hook)
            RealHost(str(tmp_path)).store_write(str(tmp_path / "file"), "secret", 0o600)
            status = 0 if seen and not any(bits or size for bits, size in seen) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(done, 0)[1]) == 0


def test_a_simulated_host_notes_the_mode_and_leaves_this_machine_alone(simulated):
    host = simulated("vgpu-guest")
    host.store_write(PATH, "x", 0o744)
    assert (host.read(PATH), host.state()["modes"][PATH]) == ("x", 0o744)
    host.store_write(PATH, "y")
    assert host.state()["modes"][PATH] == 0o644
    host.store_remove(PATH)
    assert PATH not in host.state()["modes"] and not os.path.exists(PATH)
    host.store_write(f"{host.state_dir}/own", "z", 0o600)
    assert stat.S_IMODE(os.stat(f"{host.state_dir}/own").st_mode) == 0o600


# -- what killed processes leave ---------------------------------------------------------------------------------------------
DEAD = 2**22 + 7  # above the most that Linux numbers processes with


def test_what_a_killed_process_left_half_written_goes_with_the_next_run(tmp_path):
    alive, others = f"journal.{os.getpid()}.new", ["journal", "notes.new", f"{DEAD}.new.txt", "simulated.json.new"]
    (tmp_path / "history").mkdir()
    for name in (f"journal.{DEAD}.new", f"history/000012.json.{DEAD}.new", alive, *others):
        (tmp_path / name).write_text("half")
    with lock.held(str(tmp_path), "next"):
        assert {path.name for path in tmp_path.iterdir()} == {alive, *others, "history", "lock"}
        assert list((tmp_path / "history").iterdir()) == []


def test_what_can_not_be_removed_keeps_nobody_from_a_change(tmp_path):
    (tmp_path / f"journal.{DEAD}.new").mkdir()
    with lock.held(str(tmp_path), "next"):
        assert (tmp_path / f"journal.{DEAD}.new").exists()


def test_a_file_outside_of_the_state_directory_takes_its_own_along(tmp_path):
    left, other = tmp_path / f"gim.conf.{DEAD}.new", tmp_path / f"else.conf.{DEAD}.new"
    left.write_text("half")
    other.write_text("half")
    RealHost(str(tmp_path / "state")).store_write(str(tmp_path / "gim.conf"), "whole")
    assert (tmp_path / "gim.conf").read_text() == "whole" and not left.exists() and other.exists()
