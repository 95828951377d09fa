"""
Files of our own that somebody else had or can have a hand in: each is refused with a sentence, wherever it is met, and nothing
is read from it or written through it.
"""

import fcntl
import json
import multiprocessing
import os
import stat

import pytest

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.host import holders
from gpuslice.host.real import RealHost
from gpuslice.records import lock
from gpuslice.records.attempts import Attempts
from gpuslice.records.history import History
from gpuslice.records.journal import Journal
from gpuslice.records.reboot import RebootLedger
from gpuslice.records.verified import Verified
from gpuslice.techniques.partition.notes import Notes
from tests.support import hosts

GPU = "0000:1b:00.0"
STRANGER = 65534
FORK = multiprocessing.get_context("fork")
#: Each file of the state directory, and what reads it.
READERS = {
    "journal.json": lambda host: Journal(host).unfinished(),
    "verified.json": lambda host: Verified(host).entries(),
    "boot.json": lambda host: Attempts(host).last(),
    "reboot.json": lambda host: RebootLedger(host).waiting(GPU),
    "partition.json": lambda host: Notes(host).unloaded,
    "history/000001.json": lambda host: History(host).generation(1),
    "lock": lambda host: is_free(host.state_dir),
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away (run the tests as root)")


def is_free(state_dir):
    with lock.held(state_dir, "me", patience=0):
        return True


@pytest.fixture
def host(tmp_path):
    """A host whose state directory has each file, empty but for JSON's sake."""
    made = RealHost(str(tmp_path / "state"))
    for name in READERS:
        made.store_write(os.path.join(made.state_dir, name), "{}")
    return made


def refused(reader, *words):
    with pytest.raises(errors.StateDirUnusable) as caught:
        reader()
    text = str(caught.value)
    assert "neither believed nor used" in text and "gpu_slicing:state_dir" in text
    assert [word for word in words if word not in text] == []


# -- files ---------------------------------------------------------------------------------------------------------------
@needs_root
@pytest.mark.parametrize("name", READERS)
def test_a_file_of_another_user_is_refused(host, name):
    path = os.path.join(host.state_dir, name)
    os.chown(path, STRANGER, 0)
    refused(lambda: READERS[name](host), path, "belongs to the user", "chown -R root")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o777])
def test_a_file_that_others_can_write_is_refused(host, name, mode):
    path = os.path.join(host.state_dir, name)
    os.chmod(path, mode)
    refused(lambda: READERS[name](host), path, f"{mode:04o}", f"chmod go-w {path}")


@pytest.mark.parametrize("name", READERS)
def test_a_link_is_not_followed_and_what_it_names_stays_as_it_is(host, tmp_path, name):
    path, other = os.path.join(host.state_dir, name), tmp_path / "passwd"
    other.write_text("{}")
    os.unlink(path)
    os.symlink(other, path)
    refused(lambda: READERS[name](host), path, "is a symbolic link")
    assert other.read_text() == "{}" and stat.S_IMODE(other.stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["journal.json", "verified.json", "lock"])
def test_a_pipe_in_place_of_a_file_is_a_sentence_and_nothing_waits_for_it(host, name):
    path = os.path.join(host.state_dir, name)
    os.unlink(path)
    os.mkfifo(path, 0o600)
    with pytest.raises(errors.GpuSliceError, match="no regular file"):
        READERS[name](host)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_longer_than_any_of_ours_is_a_sentence_and_is_not_read(host, name):
    """A file system that was damaged may say anything of a length; so much would not fit into the memory."""
    os.truncate(os.path.join(host.state_dir, name), 2**40)
    try:
        READERS[name](host)
    except errors.GpuSliceError as err:
        assert "File too large" in str(err)


def test_a_generation_that_is_not_trusted_does_not_hide_the_others(host):
    host.store_write(os.path.join(host.state_dir, "history", "000002.json"), "{}")
    os.chmod(os.path.join(host.state_dir, "history", "000001.json"), 0o666)
    first, second = History(host).all()
    assert "neither believed nor used" in first["error"] and second == {"generation": 2, "times": []}


@pytest.mark.parametrize("write", [lambda host, path: host.store_write(path, "new"),
                                   lambda host, path: host.store_append(path, "new")])  # fmt: skip
def test_nothing_is_written_through_a_link(host, tmp_path, write):
    path, other = os.path.join(host.state_dir, "journal.steps"), tmp_path / "passwd"
    other.write_text("mine")
    os.symlink(other, path)
    try:
        write(host, path)
    except OSError as err:
        assert "symbolic links" in str(err)
    assert other.read_text() == "mine"


# -- directories ---------------------------------------------------------------------------------------------------------
WRITERS = {
    "store_write": lambda host: host.store_write(f"{host.state_dir}/x", "x"),
    "store_append": lambda host: host.store_append(f"{host.state_dir}/x", "x"),
    "store_remove": lambda host: host.store_remove(f"{host.state_dir}/journal.json"),
    "a generation": lambda host: History(host).record({"who": "me"}),
}


@pytest.mark.parametrize("use", {**READERS, **WRITERS})
@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_a_state_directory_that_others_can_write_is_refused(host, use, mode):
    os.chmod(host.state_dir, mode)
    reader = {**READERS, **WRITERS}[use]
    if use == "history/000001.json":
        os.chmod(f"{host.state_dir}/history", mode)
    refused(lambda: reader(host), host.state_dir, f"{mode:04o}")


@needs_root
@pytest.mark.parametrize("use", {**READERS, **WRITERS})
def test_a_state_directory_of_another_user_is_refused(host, use):
    os.chown(f"{host.state_dir}/history" if use == "history/000001.json" else host.state_dir, STRANGER, 0)
    refused(lambda: {**READERS, **WRITERS}[use](host), host.state_dir, "belongs to the user")


@needs_root
def test_a_link_to_the_state_directory_has_to_be_our_own(host, tmp_path):
    link = tmp_path / "link"
    os.symlink(host.state_dir, link)
    moved = RealHost(str(link))
    assert Verified(host).path != Verified(moved).path and is_free(moved.state_dir)
    moved.store_write(f"{link}/boot.json", "{}")
    os.lchown(link, STRANGER, 0)
    for reader in (*(READERS[name] for name in READERS if "/" not in name), *WRITERS.values()):
        refused(lambda reader=reader: reader(moved), str(link), "symbolic link of the user")


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o750, 0o755])
def test_directories_that_only_their_owner_can_write_stay_valid(host, mode):
    os.chmod(host.state_dir, mode)
    assert Verified(RealHost(host.state_dir)).path and is_free(host.state_dir)
    host.store_write(f"{host.state_dir}/boot.json", "{}")
    assert Attempts(host).last() is None


@pytest.mark.parametrize("masked", [0o000, 0o002, 0o022, 0o077], ids=oct)
def test_what_we_make_is_ours_alone_whatever_the_umask(tmp_path, simulated, masked):
    old = os.umask(masked)
    try:
        host = simulated("no-gpu")
        for place in (host, RealHost(str(tmp_path / "other" / "state"))):
            History(place).record({"who": "me"})
            place.store_append(f"{place.state_dir}/journal.steps", "x")
            assert is_free(place.state_dir) and History(place).all()
    finally:
        os.umask(old)


@needs_root
def test_who_is_not_root_may_read_what_root_wrote(tmp_path):
    host = RealHost(str(tmp_path / "state"))
    History(host).record({"who": "root"})
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)
    assert in_child_as(STRANGER, lambda: History(host).all()[0]["who"] == "root")
    assert in_child_as(STRANGER, lambda: refused_as_unusable(lambda: is_free(host.state_dir)))


def refused_as_unusable(work):
    try:
        work()
    except errors.StateDirUnusable as err:
        return "Run as root" in str(err)
    return False


def in_child_as(uid, work):
    """Whether ``work`` answers True in a process of that user."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setresuid(uid, uid, uid)
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- the whole engine ----------------------------------------------------------------------------------------------------
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.10gb"]}}}


@pytest.mark.parametrize("use", [
    lambda engine: engine.plan(PILLAR),
    lambda engine: engine.apply(PILLAR),
    lambda engine: engine.history(),
    lambda engine: engine.rollback_targets(),
    lambda engine: replay.replay(engine, wait=0),
    lambda engine: replay.status(engine),
    lambda engine: replay.forget(engine, GPU),
])  # fmt: skip
def test_the_engine_uses_no_state_directory_that_others_can_write(simulated, use):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU}], processes=[])
    config = hosts.config(host)
    with Engine(config) as engine:
        os.chmod(host.state_dir, 0o777)
        refused(lambda: use(engine), host.state_dir, "chmod go-w")
    with pytest.raises(errors.StateDirUnusable, match="chmod go-w"):
        Engine(config)
    os.chmod(host.state_dir, 0o755)
    assert host.state()["gpus"][GPU]["gis"] == {}


# -- the lock ------------------------------------------------------------------------------------------------------------
def test_a_history_that_others_can_write_is_found_out_before_anything_is_changed(simulated):
    """It is written last, when the hardware was changed, and the change would then stay open for ever."""
    host = simulated("dgx-a100-40gb")
    os.makedirs(os.path.join(host.state_dir, "history"))
    os.chmod(os.path.join(host.state_dir, "history"), 0o777)
    before = host.state()["gpus"]
    with Engine(hosts.config(host)) as engine:
        wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.5gb"]}}}
        refused(lambda: engine.apply(wanted), "history")
    assert host.state()["gpus"] == before and Journal(host).unfinished() is None


def test_nobody_else_can_open_the_lock_and_an_older_one_is_mended(tmp_path):
    for before in (None, 0o644, 0o600):
        if before:
            (tmp_path / "lock").chmod(before)
        assert is_free(str(tmp_path))
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def take(path, taken, end):
    """Body of a process that holds the file as any program can that has it open, and writes nothing into it."""
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    taken.set()
    end.wait(60)


def test_the_real_holder_is_named_when_the_one_who_wrote_itself_down_has_ended(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 2**22 + 7, "jid": "", "who": "a run of long ago", "since": 1.0}))
    taken, end = FORK.Event(), FORK.Event()
    process = FORK.Process(target=take, args=(path, taken, end))
    process.start()
    try:
        assert taken.wait(30)
        command = holders.process(process.pid).command
        with pytest.raises(errors.LockHeld) as caught:
            is_free(str(tmp_path))
    finally:
        end.set()
        process.join()
    assert f"pid {process.pid}" in str(caught.value) and "a run of long ago" not in str(caught.value)
    assert command in str(caught.value)
