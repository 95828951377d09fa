"""The file of metrics: written as a whole or not at all, by a process that loads no Salt and says in a sentence what is wrong."""

import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.host import state_files
from gpuslice.metrics import __main__ as program
from gpuslice.metrics import writer
from tests.conftest import ROOT
from tests.support import pillars
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.metrics import parsed

GPUS = [{"model": "h100-80gb", "address": address, "mig": "enabled"} for address in ("0000:1b:00.0", "0000:43:00.0")]
#: Writers at once, and how often each writes.
WRITERS, TIMES = 3, 4
IMPORTS = "import sys\nfrom gpuslice.metrics.__main__ import main\n"


class Disk(state_files.Disk):
    """A disk on which something happens at one of its operations."""

    def __init__(self, **happens):
        self._happens = happens

    def write(self, handle, data):
        if "write" in self._happens:
            super().write(handle, data[:100])
            self._happens["write"]()
        super().write(handle, data)

    def replace(self, old, new):
        if "replace" in self._happens:
            self._happens["replace"]()
        super().replace(old, new)


def fails(number):
    def fail():
        raise OSError(number, os.strerror(number))

    return fail


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def host(simulated):
    """Two boards in seven slices each."""
    made = simulated("dgx-h100", gpus=GPUS, processes=[])
    assert apply(made, pillars.mig({"1g.10gb": 7})).ok
    return made


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "textfile collector"
    folder.mkdir()
    return folder / "gpuslice.prom"


def write(host, path, disk=None):
    with Engine(config(host)) as engine:
        if disk:
            engine.host.disk = disk
        writer.write(engine, str(path))


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


def arguments(host, path):
    return ["--textfile", str(path), "--simulate", host.description_path, "--state-dir", host.state_dir]


def run(*argv, **more):
    """The program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "_utils")}
    command = [sys.executable, "-m", "gpuslice.metrics", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False, **more)


# -- the program -----------------------------------------------------------------------------------------------------------
def test_the_program_writes_the_file_and_says_nothing(host, path):
    done = run(*arguments(host, path), "--interval", "15")
    assert (done.returncode, done.stdout) == (0, "")
    found = parsed(path.read_text(encoding="utf-8"))
    assert len(found["slice_info"]) == 14 and len(found["board_info"]) == 2
    assert path.stat().st_mode & 0o7777 == 0o644 and names(path) == [path.name]


def test_the_program_loads_no_salt_and_nothing_that_only_changes_need(host, path):
    source = f"{IMPORTS}code = main(sys.argv[1:])\nprint(*sorted(sys.modules))\nsys.exit(code)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "_utils")}
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments(host, path)], capture_output=True, text=True, env=environment, check=True
    )
    loaded = set(done.stdout.split())
    assert not {"salt", "yaml", "argparse", "gpuslice.front", "gpuslice.boot", "gpuslice.change.runner"} & loaded
    assert not {name for name in loaded if name.startswith("gpuslice.cleaning")}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--textfile is missing"),
        (["--textfile", "x.prom"], "absolute path that ends in .prom"),
        (["--textfile", "/tmp/x.txt"], "absolute path that ends in .prom"),
        (["--textfile", "/tmp/\x1b.prom"], "absolute path that ends in .prom"),
        (["--textfile", "/tmp/x.prom", "more"], "nothing is wanted beside"),
        (["--textfile", "/tmp/x.prom", "--interval", "-1"], "no number of seconds"),
        (["--textfile", "/tmp/x.prom", "--interval", "9" * 30], "no number of seconds"),
        (["--odd"], "--odd"),
        (["--textfile", "/tmp/x.prom", "--state-dir", "relative"], "begins with '/'"),
        (["--textfile", "/tmp/x.prom", "--simulate", "/no/such/host.yaml"], "/no/such/host.yaml"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(argv, says, capsys):
    assert program.main(argv) == 2
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err and told.out == ""


def test_help_is_told(capsys):
    assert program.main(["--help"]) == 0
    assert "--textfile" in capsys.readouterr().out


def test_a_package_that_is_just_being_replaced_is_told_in_a_sentence(host, path, tmp_path):
    """The file server replaces one file after the other."""
    place = tmp_path / "utils"
    subprocess.run(["cp", "-r", str(ROOT / "_utils"), str(place)], check=True)
    (place / "gpuslice" / "engine.py").write_text("def broken(", encoding="utf-8")
    command = [sys.executable, "-m", "gpuslice.metrics", *arguments(host, path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(place)}, check=False)
    assert done.returncode == 1 and "SyntaxError" in done.stderr and "Traceback" not in done.stderr


def test_what_can_not_be_written_is_told_in_a_sentence_and_the_old_file_stays(host, path):
    path.write_text("old\n", encoding="utf-8")
    # A limit of the process, as a full disk to a program.
    done = run(*arguments(host, path), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert done.returncode == 1 and f"could not be written to {path}" in done.stderr and "Traceback" not in done.stderr
    assert path.read_text(encoding="utf-8") == "old\n" and names(path) == [path.name]


# -- the file --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("operation", ["write", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_whole(host, path, operation, number):
    write(host, path)
    old = path.read_bytes()
    with pytest.raises(errors.StateDirUnusable, match=f"could not be written to .*{os.strerror(number)}"):
        write(host, path, Disk(**{operation: fails(number)}))
    assert path.read_bytes() == old and names(path) == [path.name]


@pytest.mark.parametrize("operation", ["write", "replace"])
def test_a_kill_leaves_the_old_file_whole_and_the_next_run_removes_the_half(host, path, operation):
    write(host, path)
    old = path.read_bytes()
    assert in_child(lambda: write(host, path, Disk(**{operation: kill}))) == signal.SIGKILL
    left = [name for name in names(path) if name != path.name]
    assert path.read_bytes() == old and len(left) == 1 and not left[0].endswith(".prom")
    write(host, path)
    assert names(path) == [path.name] and parsed(path.read_text(encoding="utf-8"))["slice_info"]


def test_a_half_of_a_writer_that_still_runs_is_left_to_it(host, path):
    mine = path.with_name(f"{path.name}.{os.getppid()}.new")
    mine.write_text("half", encoding="utf-8")
    write(host, path)
    assert names(path) == [path.name, mine.name]


def test_a_symbolic_link_in_the_way_gives_way_and_what_it_leads_to_stays(host, path, tmp_path):
    other = tmp_path / "shadow"
    other.write_text("secret", encoding="utf-8")
    path.symlink_to(other)
    write(host, path)
    assert other.read_text(encoding="utf-8") == "secret" and not path.is_symlink() and path.is_file()


def test_a_link_where_the_half_is_to_lie_leads_nowhere(host, path, tmp_path):
    other = tmp_path / "shadow"
    other.write_text("secret", encoding="utf-8")
    path.with_name(f"{path.name}.{os.getpid()}.new").symlink_to(other)
    write(host, path)
    assert other.read_text(encoding="utf-8") == "secret" and names(path) == [path.name]


def test_a_folder_in_the_way_is_named(host, path):
    path.mkdir()
    with pytest.raises(errors.StateDirUnusable, match=r"Is a directory.*Remove that folder"):
        write(host, path)


def test_a_folder_that_is_a_file_is_named(host, path):
    path.write_text("", encoding="utf-8")
    with pytest.raises(errors.StateDirUnusable, match="could not be written"):
        write(host, path / "inner" / "x.prom")


def test_a_folder_that_is_missing_is_made(host, path):
    deeper = path.parent / "a" / "b" / "x.prom"
    write(host, deeper)
    assert deeper.is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had as root only")
def test_who_may_not_write_there_is_told_in_a_sentence(host, path, capfd):
    path.parent.chmod(0o755)

    def as_nobody():
        os.setuid(65534)
        with pytest.raises(errors.StateDirUnusable, match="Permission denied.*Run as root"):
            writer_of(host).store_or_refuse(path)
        os.write(1, b"refused")

    class writer_of:
        def __init__(self, host):
            self._engine = Engine(config(host))

        def store_or_refuse(self, path):
            writer.write(self._engine, str(path))

    # The state directory of the simulated host is root's as well, and is read only.
    engine = Engine(config(host))
    for each in pathlib.Path(host.state_dir).parents:
        if str(each) != "/tmp" and each.owner() == "root" and each != pathlib.Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    del engine
    assert in_child(as_nobody) == 0 and "refused" in capfd.readouterr().out


def test_writers_at_once_leave_one_whole_file_whenever_somebody_reads_it(host, path):
    write(host, path)
    source = f"{IMPORTS}sys.exit(max(main(sys.argv[2:]) for _ in range(int(sys.argv[1]))))"
    command = [sys.executable, "-c", source, str(TIMES), *arguments(host, path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "_utils")}
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(WRITERS)]
    seen = set()
    while any(each.poll() is None for each in writers):
        found = parsed(path.read_text(encoding="utf-8"))
        assert len(found["slice_info"]) == 14
        seen.add(found["last_run_timestamp_seconds"][0][1])
    assert [(each.wait(), each.stderr.read()) for each in writers] == [(0, "")] * WRITERS
    assert names(path) == [path.name] and seen
