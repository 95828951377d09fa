"""
One defect tried: a child of a process that has loaded Salt already runs the chosen tests on a copy of the repository.

Nothing of the project is loaded before the child begins, and what its tests start reads the same copy, so that all that runs
has the defect.
"""

import importlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from dataclasses import field

import psutil
import pytest

#: A test that takes so many times its usual time, and so many seconds more, is stuck: the defect is noticed.
PATIENCE_FACTOR, PATIENCE = 10, 20
#: What is added to the name of such a test.
STUCK = " (did not end)"


def preload():
    """Load what the tests need and no defect is put into: seconds that each child would need."""
    for name in (
        "hypothesis", "jsonschema", "pynvml", "saltfactories.utils.functional", "salt.config", "salt.loader", "salt.state",
        "salt.modules.saltutil", "salt.modules.state", "salt.fileclient", "salt.pillar", "yaml",
    ):  # fmt: skip
        try:
            importlib.import_module(name)
        except ImportError:
            continue


class Chosen:
    """A plugin of pytest: runs these tests only, in this order, and tells the parent of each."""

    def __init__(self, tests, pipe):
        self._rank = {name: number for number, name in enumerate(tests)}
        self._pipe = pipe

    def _tell(self, word, name):
        os.write(self._pipe, f"{word} {name}\n".encode())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """Leave the others out."""
        items[:] = sorted((item for item in items if item.nodeid in self._rank), key=lambda item: self._rank[item.nodeid])

    def pytest_collectreport(self, report):
        """A file that can't be loaded any more notices the defect."""
        if report.failed:
            self._tell("failed", report.nodeid)

    def pytest_runtest_logstart(self, nodeid):
        """A test begins."""
        self._tell("begins", nodeid)

    def pytest_runtest_logreport(self, report):
        """A part of a test is over."""
        if report.failed:
            self._tell("failed", report.nodeid)


@dataclass
class Trial:
    """
    Some tests on a copy of the repository that has a defect.

    :ivar place: the copy. :ivar tests: ``{id: usual seconds}``, in the order in which they run.
    :ivar failed: those that failed. :ivar over: whether it has ended.
    """

    place: str
    tests: dict
    failed: list = field(default_factory=list)
    over: bool = False
    _pid: int = 0
    _pipe: int = -1
    _rest: str = ""
    _now: str = ""
    _since: float = field(default_factory=time.monotonic)

    def start(self):
        """Begin; returns self."""
        self._pipe, write = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._pipe)
            _run(self.place, list(self.tests), write)
        os.close(write)
        return self

    def fileno(self):
        """For select."""
        return self._pipe

    def read(self):
        """Take what the child told."""
        told = os.read(self._pipe, 65536).decode()
        lines = (self._rest + told).split("\n")
        self._rest = lines.pop()
        for line in lines:
            word, _, name = line.partition(" ")
            self._now, self._since = name, time.monotonic()
            if word == "failed":
                self.failed.append(name)
        if self.failed or not told:
            self.end()

    def check(self):
        """End a child whose test is stuck."""
        if time.monotonic() - self._since > PATIENCE + PATIENCE_FACTOR * self.tests.get(self._now, 2):
            self.failed.append(f"{self._now}{STUCK}")
            self.end()

    def end(self):
        """End the child and all that it started."""
        if self.over:
            return
        self.over = True
        try:
            children = psutil.Process(self._pid).children(recursive=True)
        except psutil.Error:
            children = []
        for pid in [self._pid, *(child.pid for child in children)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.waitpid(self._pid, 0)
        os.close(self._pipe)


def wait(trials):
    """Wait until something happens in one of these trials, and deal with it."""
    ready, _, _ = select.select(trials, [], [], 1)
    for trial in ready:
        trial.read()
    for trial in trials:
        if not trial.over:
            trial.check()


def _run(place, tests, pipe):
    """What the child does; it never returns."""
    os.setsid()
    scratch = tempfile.mkdtemp(prefix="gs-", dir="/tmp")
    try:
        with open(os.path.join(place, "output.txt"), "w", encoding="utf-8") as output:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (1, 2):
                os.dup2(output.fileno(), number)
        os.chdir(place)
        # Bytecode is kept in the copy: no two defects there have the same time of change.
        os.environ.update({"CI": "true", "PYTHONDONTWRITEBYTECODE": ""})
        sys.dont_write_bytecode = False
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "gpuslice")]:
            del sys.modules[name]
        # Not the repository that this very module comes from.
        outside = [path for path in sys.path if path and not os.path.exists(os.path.join(path, "tests", "mutation"))]
        sys.path[:] = [place, *outside]
        # A file of tests may be gone since it was learned what it reaches.
        files = [file for file in dict.fromkeys(name.partition("::")[0] for name in tests) if os.path.exists(file)]
        arguments = ["-q", "-x", "--tb=short", "-p", "no:cacheprovider", "--basetemp", f"{scratch}/t", "-m", "not slow"]
        pytest.main([*arguments, *(files or ["--version"])], plugins=[Chosen(tests, pipe)])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)
