"""
Put small defects into the source, one at a time, and print which share of them the tests notice.

Everything that is learned or made lies below build/mutation. What each test reaches is learned once for each file of tests,
which takes as long as the tests themselves.
"""

import argparse
import hashlib
import heapq
import json
import os
import pathlib
import shutil
import sys
import time

import yaml

from tests.mutation import defects
from tests.mutation import reach
from tests.mutation import trial

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "build" / "mutation"
EQUIVALENT = pathlib.Path(__file__).with_name("equivalent.yaml")
#: What changes hardware, keeps records of it, and decides who may.
FILES = ("change/*", "records/*", "boot/*", "host/holders", "drivers/*", "techniques/*", "techniques/*/*")
#: So many tests, of few files, are tried before the others: they notice most.
FIRST, FIRST_FILES = 40, 4


def named(patterns):
    """Source files, relative to the repository, by names such as "records/lock", "techniques/mig/*", "_modules/gpu"."""
    found = []
    for pattern in patterns:
        for folder in ("_utils/gpuslice/", ""):
            found += [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(f"{folder}{pattern.removesuffix('.py')}.py"))]
    return list(dict.fromkeys(found))


def all_defects(paths):
    """Every defect that can be put into these files, ``{key: Defect}``."""
    classes = defects.error_classes((ROOT / "_utils/gpuslice/errors.py").read_bytes())
    found = [defect for path in paths for defect in defects.find(path, (ROOT / path).read_bytes(), classes)]
    return {defect.key: defect for defect in found}


def sample(found, count, seed):
    """``count`` of these defects; a later run draws the same ones again as far as their lines are still there."""
    drawn = sorted(found.values(), key=lambda defect: hashlib.sha1(f"{seed}{defect.key}".encode()).digest())
    chosen = []
    for defect in drawn:
        if len(chosen) == count:
            break
        if defects.compiles(defect.apply((ROOT / defect.path).read_bytes())):
            chosen.append(defect)
    return sorted(chosen, key=lambda defect: (defect.path, defect.start))


class Equivalent:
    """The defects that change nothing that can be seen, with the reason: ``equivalent.yaml``."""

    def __init__(self):
        listed = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or []
        self._reasons = {(entry["file"], entry["was"], entry["becomes"]): entry["why"] for entry in listed}

    def why(self, defect):
        """The reason, "" for a defect that is not listed."""
        return self._reasons.get(_entry(defect), "")

    def stale(self):
        """Entries that stand for no defect any more, as text."""
        there = {_entry(defect) for defect in all_defects(reach.sources(ROOT)).values()}
        return [f"{file}: {was}" for file, was, becomes in self._reasons if (file, was, becomes) not in there]


def _entry(defect):
    return defect.path.removeprefix("_utils/gpuslice/"), defect.was, defect.becomes


class Reached:
    """
    Which tests are worth trying for a defect.

    :param most: seconds that the tests of one defect may take. :param slowest: seconds that one test may take.
    """

    def __init__(self, most, slowest):
        self._most, self._slowest = most, slowest
        self._seconds, self._by_statement, self._by_part = {}, {}, {}
        for record in reach.records(WORK / "reach").values():
            for name, test in record["tests"].items():
                if test["passed"]:
                    self._note(name, test["seconds"], [record["keys"][number] for number in test["reached"]])

    def _note(self, name, seconds, keys):
        self._seconds[name] = seconds
        for key in keys:
            path, function, _ = key.split(":", 2)
            self._by_statement.setdefault(key, set()).add(name)
            for part in {(path, function), (path, "")}:
                self._by_part.setdefault(part, set()).add(name)

    def tests(self, defect):
        """
        ``{id: seconds}`` of tests that reach the defect, quick ones first.

        What is executed when a file is loaded is reached by all tests that reach anything of it. A statement that none reaches
        may be newer than what was learned: then the tests of its function are taken, or of its file.
        """
        path, function, _ = defect.statement.split(":", 2)
        parts = ((path, function), (path, "")) if function else ((path, ""),)
        places = [self._by_statement.get(defect.statement), *(self._by_part.get(part) for part in parts)]
        return self._ordered(next(filter(None, places), ()))

    def reaches(self, defect):
        """Whether a test is known to reach the very statement, as far as that can be told."""
        return defect.statement in self._by_statement or not defect.statement.split(":", 2)[1]

    def _ordered(self, names):
        files = {}
        for name in sorted(names, key=self._seconds.get):
            if self._seconds[name] <= self._slowest:
                files.setdefault(name.partition("::")[0], []).append(name)
        # Each file of tests gets the same time: many quick tests of a part weigh as much as one of the whole.
        waiting = [(0, number, iter(listed)) for number, listed in enumerate(files.values())]
        chosen, left = {}, self._most
        while waiting and left > 0:
            spent, number, names = heapq.heappop(waiting)
            name = next(names, None)
            if name is not None:
                chosen[name] = self._seconds[name]
                left -= self._seconds[name]
                heapq.heappush(waiting, (spent + self._seconds[name], number, names))
        return chosen


class Worker:
    """
    Tries defects one after the other in a copy of the repository of its own.

    :ivar sound: tests that pass without a defect, as was seen when they first noticed one. :ivar broken: those that don't.
    """

    sound, broken = set(), set()

    def __init__(self, number, reached):
        self.place = reach.copy(ROOT, WORK / f"worker{number}")
        self._reached = reached
        self._stamp = time.time_ns()
        self._clean = {}

    def attempts(self, defect):
        """Yields each trial, to be gone on with when it is over; returns {"noticed": test or "", "reached": bool}."""
        # From the copy: somebody may go on working in the repository.
        if defect.path not in self._clean:
            self._clean[defect.path] = (self.place / defect.path).read_bytes()
        clean = self._clean[defect.path]
        tests = self._reached.tests(defect)
        for group in _groups(tests):
            left = {name: seconds for name, seconds in group.items() if not self._is_broken(name)}
            while left:
                self._write(defect.path, defect.apply(clean))
                tried = trial.Trial(str(self.place), left).start()
                yield tried
                self._write(defect.path, clean)
                if not tried.failed:
                    break
                name = tried.failed[0].removesuffix(trial.STUCK)
                if name not in self.sound:
                    alone = trial.Trial(str(self.place), {name: left.get(name, 2)}).start()
                    yield alone
                    (self.broken if alone.failed else self.sound).add(name)
                if name in self.sound:
                    return {"noticed": tried.failed[0], "reached": True}
                left = {name: seconds for name, seconds in left.items() if not self._is_broken(name)}
        return {"noticed": "", "reached": self._reached.reaches(defect)}

    def _is_broken(self, name):
        return name in self.broken or name.partition("::")[0] in self.broken

    def _write(self, path, source):
        # Bytecode is told apart by the second of the change, and the engine looks at the time too.
        self._stamp += 2_000_000_000
        (self.place / path).write_bytes(source)
        os.utime(self.place / path, ns=(self._stamp, self._stamp))


def _groups(tests):
    """The tests that are tried at first, and the others."""
    first = {}
    for name, seconds in tests.items():
        files = {known.partition("::")[0] for known in first}
        if len(first) < FIRST and (name.partition("::")[0] in files or len(files) < FIRST_FILES):
            first[name] = seconds
    return first, {name: seconds for name, seconds in tests.items() if name not in first}


def try_all(chosen, reached, jobs, note):
    """Try these defects; ``note(defect, result)`` is called for each when it is through."""
    waiting = list(reversed(chosen))
    free = [Worker(number, reached) for number in range(max(1, min(jobs, len(chosen))))]
    running = {}
    while waiting or running:
        while waiting and free:
            worker, defect = free.pop(), waiting.pop()
            running[worker] = [defect, worker.attempts(defect), None]
        for worker, (defect, attempts, tried) in list(running.items()):
            if tried and not tried.over:
                continue
            try:
                running[worker][2] = next(attempts)
            except StopIteration as ended:
                note(defect, ended.value)
                del running[worker]
                free.append(worker)
        trials = [tried for _, _, tried in running.values() if tried and not tried.over]
        if trials:
            trial.wait(trials)


def report(results, equivalent):
    """Print the shares by file, and each defect that no test noticed."""
    rows = {}
    for defect, found in results:
        row = rows.setdefault(defect.path.removeprefix("_utils/gpuslice/"), {"noticed": 0, "equivalent": 0, "unnoticed": 0})
        row["noticed" if found["noticed"] else "equivalent" if equivalent.why(defect) else "unnoticed"] += 1
    print(f"\n{'file':<34} {'defects':>8} {'equivalent':>11} {'noticed':>8} {'share':>6}")
    total = {key: sum(row[key] for row in rows.values()) for key in ("noticed", "equivalent", "unnoticed")}
    for name, row in [*rows.items(), ("all", total)]:
        counted = row["noticed"] + row["unnoticed"]
        share = f"{row['noticed'] / counted:.0%}" if counted else "-"
        print(f"{name:<34} {sum(row.values()):>8} {row['equivalent']:>11} {row['noticed']:>8} {share:>6}")
    left = [(defect, found) for defect, found in results if not found["noticed"] and not equivalent.why(defect)]
    if left:
        print("\nNoticed by no test:")
    for defect, found in left:
        print(f"{defect}{'' if found['reached'] else '    (no test reaches it)'}")


def main(argv=None):
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.strip().partition("\n")[0])
    names = f"as records/lock, techniques/mig/*, plan (default {' '.join(FILES)})"
    parser.add_argument("--files", nargs="+", default=FILES, metavar="NAME", help=names)
    parser.add_argument("--count", type=int, default=430, help="how many defects are drawn (default 430; 0: all)")
    parser.add_argument("--seed", type=int, default=1, help="which ones are drawn (default 1)")
    parser.add_argument("--jobs", type=int, default=2, help="how many are tried at the same time (default 2)")
    parser.add_argument("--seconds", type=float, default=90, help="tests of one defect may usually take so long (default 90)")
    parser.add_argument("--slowest", type=float, default=10, help="a test that usually takes longer is not tried (default 10)")
    only = "only these defects; @FILE stands for those that were not noticed according to a file of results"
    parser.add_argument("--only", nargs="+", metavar="KEY", help=only)
    parser.add_argument("--results", type=pathlib.Path, default=WORK / "results.json", help="where results are kept")
    parser.add_argument("--no-learning", action="store_true", help="take what tests reach as it was learned before")
    parser.add_argument("--list", action="store_true", help="print the drawn defects and try none")
    options = parser.parse_args(argv)
    chosen = _chosen(options)
    if options.list:
        print("\n".join(map(str, chosen)))
        return 0
    if not options.no_learning:
        reach.learn(ROOT, WORK)
    trial.preload()
    results, equivalent = [], Equivalent()

    def note(defect, found):
        results.append((defect, found))
        text = found["noticed"] or ("EQUIVALENT" if equivalent.why(defect) else "NOT NOTICED")
        print(f"{len(results):>4}/{len(chosen)}  {defect.key}  {defect.path}:{defect.line}  {defect.kind}: {text}", flush=True)
        options.results.write_text(json.dumps({done.key: told for done, told in results}, indent=1), encoding="utf-8")

    try:
        try_all(chosen, Reached(options.seconds, options.slowest), options.jobs, note)
    except KeyboardInterrupt:
        print("\nStopped.")
    for name in sorted(Worker.broken):
        print(f"Fails without a defect too, so that it notices none: {name}")
    for place in WORK.glob("worker*"):
        shutil.rmtree(place, ignore_errors=True)
    report(sorted(results, key=lambda pair: (pair[0].path, pair[0].start)), equivalent)
    for text in equivalent.stale():
        print(f"equivalent.yaml names a line that is not there any more: {text}")
    return 0


def _chosen(options):
    """The defects that the options ask for."""
    paths = named(options.files)
    if not options.only:
        found = all_defects(paths)
        return sample(found, options.count or len(found), options.seed)
    found, keys = all_defects(reach.sources(ROOT)), []
    for word in options.only:
        if word.startswith("@"):
            told = json.loads(pathlib.Path(word[1:]).read_text(encoding="utf-8"))
            keys += [key for key, result in told.items() if not result["noticed"]]
        else:
            keys.append(word)
    return [found[key] for key in keys if key in found]


if __name__ == "__main__":
    sys.exit(main())
