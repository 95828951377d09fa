"""
Which test reaches which statement, learned once from a copy of the repository whose engine notes what is executed.

Each statement of the copy has a mark before it that sets one byte of a file that all processes map into memory. So threads,
forked children, a real ``salt-call`` and what is ended by ``kill -9`` leave their marks as well, and nothing but the engine gets
slower.
"""

import ast
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from tests.mutation import defects

#: What is marked; the tests and the simulated hosts are not.
MARKED = ("_utils/gpuslice", "_modules", "_states", "_grains")
UNMARKED = "_utils/gpuslice/sim/"
_PREAMBLE = """
try:
    _fd_ = __import__("os").open({path!r}, 2)
    _mark_ = __import__("mmap").mmap(_fd_, 0).__setitem__
    __import__("os").close(_fd_)
except Exception:
    def _mark_(number, byte): pass
"""


def copy(root, place):
    """Copy the files of the repository that git knows or would take to ``place``, which is emptied before."""
    shutil.rmtree(place, ignore_errors=True)
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, dict.fromkeys(names)):
        if not (root / name).is_file():
            continue
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, place / name, follow_symlinks=False)
    return place


def sources(root):
    """Paths of the files that defects can be put into, relative to ``root``."""
    found = [path for part in MARKED for path in sorted((root / part).rglob("*.py"))]
    names = [str(path.relative_to(root)) for path in found]
    return [name for name in names if not name.startswith(UNMARKED) and "__pycache__" not in name]


class _Marker:
    """Puts a mark before each statement of one file."""

    def __init__(self, keys, numbers):
        self.keys, self.numbers = keys, numbers

    def mark(self, node):
        """Mark the statements below a node."""
        for body in defects.bodies(node):
            marked = []
            for statement in body:
                self.mark(statement)
                if id(statement) in self.keys and not _must_be_first(statement):
                    number = self.numbers.setdefault(self.keys[id(statement)], len(self.numbers))
                    marked.append(ast.parse(f"_mark_({number}, 1)").body[0])
                marked.append(statement)
            body[:] = marked


def _must_be_first(statement):
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def instrument(place, marks):
    """Put marks into the sources below ``place``; returns the keys of the statements, in the order of the bytes in ``marks``."""
    numbers = {}
    for name in sources(place):
        source = (place / name).read_bytes()
        tree = ast.parse(source)
        _Marker({id(node): key for node, key in defects.statements(tree, name, source)}, numbers).mark(tree)
        first = 1 if tree.body and defects.is_text(tree.body[0]) else 0
        while first < len(tree.body) and _must_be_first(tree.body[first]):
            first += 1
        tree.body[first:first] = ast.parse(_PREAMBLE.format(path=str(marks))).body
        (place / name).write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    marks.write_bytes(bytes(len(numbers)))
    return list(numbers)


class Recorder:
    """
    A plugin of pytest that notes what each test of one file reaches.

    :param marks: the file of bytes. :param keys: see :func:`instrument`. :param target: directory for the records.
    :param digests: ``{file: digest}``, kept in the record so that a changed file is noticed.
    """

    def __init__(self, marks, keys, target, digests):
        with open(marks, "r+b") as handle:
            self._bytes = mmap.mmap(handle.fileno(), 0)
        self._keys, self._target, self._digests = keys, target, digests
        self._shared, self._tests = {}, {}
        self._seen, self._passed = set(), True

    def _take(self):
        """Keys of what was executed since the last time."""
        now = self._bytes[:]
        self._bytes[:] = bytes(len(now))
        return {self._keys[match.start()] for match in re.finditer(b"\x01", now)}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """What is made once for several tests is reached by all of them."""
        if fixturedef.scope == "function":
            return (yield)
        self._seen |= self._take()
        try:
            return (yield)
        finally:
            self._shared.setdefault(_file(request.node.nodeid), set()).update(self._take())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        """Time one test and see what it reaches."""
        self._take()
        self._seen, self._passed = set(), True
        begun = time.perf_counter()
        result = yield
        seconds = round(time.perf_counter() - begun, 4)
        file = _file(item.nodeid)
        found = {"seconds": seconds, "passed": self._passed, "reached": self._seen | self._take()}
        self._tests.setdefault(file, {})[item.nodeid] = found
        return result

    def pytest_runtest_logreport(self, report):
        """A test that fails without any defect, or that is skipped, notices none."""
        self._passed = self._passed and report.passed

    def write(self, file):
        """Keep what is known of a file of tests; it may have none that is run."""
        tests = self._tests.pop(file, {})
        for test in tests.values():
            test["reached"] |= self._shared.get(file, set())
        keys = sorted({key for test in tests.values() for key in test["reached"]})
        numbers = {key: number for number, key in enumerate(keys)}
        for test in tests.values():
            test["reached"] = sorted(numbers[key] for key in test["reached"])
        record = {"file": file, "digest": self._digests[file], "keys": keys, "tests": tests}
        scratch = self._target / "new"
        scratch.write_text(json.dumps(record), encoding="utf-8")
        os.replace(scratch, self._target / f"{file.replace('/', '-')}.json")


def _file(nodeid):
    return nodeid.partition("::")[0]


def test_files(root):
    """``{path: digest}`` of the files of tests; slow ones have tests that are not run."""
    found = sorted((root / "tests").rglob("test_*.py"))
    return {str(path.relative_to(root)): hashlib.sha1(path.read_bytes()).hexdigest() for path in found}


def records(target):
    """What is known, ``{file of tests: its record}``."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in target.glob("*.json")]
    return {record["file"]: record for record in found}


def learn(root, work, wanted=()):
    """
    Run the files of tests that are new or have changed since they were last run here, and keep what they reach.

    :param root: the repository. :param work: directory for everything that is kept. :param wanted: only these files; all if none.
    """
    target = work / "reach"
    target.mkdir(parents=True, exist_ok=True)
    digests = test_files(root)
    known = records(target)
    for file in known:
        if file not in digests:
            (target / f"{file.replace('/', '-')}.json").unlink()
    stale = [file for file, digest in digests.items() if known.get(file, {}).get("digest") != digest]
    stale = [file for file in stale if not wanted or file in wanted]
    if not stale:
        return
    place = copy(root, work / "marked")
    marks = work / "marks"
    keys = instrument(place, marks)
    (work / "keys.json").write_text(json.dumps([keys, digests]), encoding="utf-8")
    environment = {**os.environ, "CI": "true", "PYTHONDONTWRITEBYTECODE": ""}
    for file in stale:
        command = [sys.executable, "-m", "tests.mutation.reach", str(marks), str(work / "keys.json"), str(target), file]
        print(f"learning what {file} reaches", flush=True)
        subprocess.run(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main(marks, keys, target, file):
    """Run one file of tests in the marked copy."""
    keys, digests = json.loads(pathlib.Path(keys).read_text(encoding="utf-8"))
    plugin = Recorder(marks, keys, pathlib.Path(target), digests)
    place = tempfile.mkdtemp(prefix="gs-", dir="/tmp")
    try:
        pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", "--basetemp", f"{place}/t", file], plugins=[plugin])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    plugin.write(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
