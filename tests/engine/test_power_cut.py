"""
What a power cut leaves of journal and records. The disk of these hosts forgets what was not synchronised: the content of a file
without its fsync, a name without that of its directory. At every moment at which something happens to the machine, what would be
left on the disk must tell of it.
"""

import json
import os
import pathlib
import resource
import signal
import threading

import pytest
import yaml

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.host import state_files
from gpuslice.model import Key
from gpuslice.records import lock
from gpuslice.records.reboot import RebootLedger
from gpuslice.records.verified import Verified
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import crash
from tests.support import pillars
from tests.support.hosts import config

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
HOPPER = [{"model": "h100-80gb", "address": address} for address in (FIRST, SECOND)]
UNIT = "trainer.service"
USER = {"pid": 4711, "command": "train.py", "unit": UNIT, "container": "", "gpu": FIRST, "slice": "2g.20gb@0"}
#: Functions of NVML of which each is one step.
STEPS = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceDestroy",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    "nvmlComputeInstanceDestroy",
)


class ForgetfulDisk(state_files.Disk):
    """
    A disk whose power can be cut at any moment: it knows which content and which names were synchronised.

    :param root: directory of which all is on the disk at the beginning.
    :param look: called with an operation and a path before each.
    """

    def __init__(self, root, look=lambda operation, path: None):
        self.root, self.look = str(root), look
        # A number of our own for each file that is made: the kernel's are used again.
        self._numbers, self._made = {}, 0
        self._content, self._names, self._directories = {}, {}, set()
        for directory, _, names in os.walk(self.root):
            self._names[directory] = self._listed(directory)
            for path in (os.path.join(directory, name) for name in names):
                self._content[self._number(os.stat(path).st_ino)] = pathlib.Path(path).read_bytes()

    def make_directory(self, path):
        super().make_directory(path)
        self._directories.add(self._number(os.stat(path).st_ino, new=True))

    def create(self, path, mode):
        self.look("create", path)
        handle = super().create(path, mode)
        self._number(os.fstat(handle).st_ino, new=True)
        return handle

    def sync(self, handle):
        super().sync(handle)
        with open(f"/proc/self/fd/{handle}", "rb") as reader:
            self._content[self._number(os.fstat(handle).st_ino)] = reader.read()

    def replace(self, old, new):
        self.look("replace", new)
        super().replace(old, new)

    def unlink(self, path):
        if os.path.exists(path):
            self.look("unlink", path)
        super().unlink(path)

    def sync_directory(self, path):
        super().sync_directory(path)
        self._names[path] = self._listed(path)

    def _listed(self, path):
        return {entry.name: self._number(entry.inode()) for entry in os.scandir(path)}

    def _number(self, inode, new=False):
        if new or inode not in self._numbers:
            self._made += 1
            self._numbers[inode] = self._made
        return self._numbers[inode]

    def left(self, directory=None):
        """Path below the root -> content of all that a power cut would leave now; what has only a name is empty."""
        directory, found = directory or self.root, {}
        for name, number in self._names.get(directory, {}).items():
            path = os.path.join(directory, name)
            if path in self._names:
                found.update(self.left(path))
            elif number in self._directories:
                continue
            else:
                found[os.path.relpath(path, self.root)] = self._content.get(number, b"").decode()
        return {name: text for name, text in found.items() if not name.startswith(("simulated", "lock"))}

    def there(self):
        """The same of what a reader sees now."""
        paths = [path for path in pathlib.Path(self.root).rglob("*") if path.is_file()]
        names = {str(path.relative_to(self.root)): path for path in paths}
        return {name: path.read_text() for name, path in names.items() if not name.startswith(("simulated", "lock"))}


class PowerHost(SimulatedHost):
    """A simulated host with such a disk, which is looked at whenever something happens to the machine."""

    def __init__(self, host):
        self.steps, self.moments, self.watch, self._one_by_one = 0, [], None, threading.RLock()
        super().__init__(host.description_path, host.state_dir)
        # Calls of NVML are counted only where a fault might hit one.
        self.add_fault({"call": "nvmlInit", "nth": 10**9, "lie": True})
        self.disk = ForgetfulDisk(host.state_dir, lambda operation, path: self._look(f"{operation} {os.path.basename(path)}"))

    def hit(self, call, gpu=""):
        if call in STEPS:
            self._look(call)
        return super().hit(call, gpu)

    def run(self, argv, timeout=60):
        self._look(" ".join(argv))
        return super().run(argv, timeout)

    def mark_reboot_required(self):
        self._look("mark_reboot_required")
        super().mark_reboot_required()

    def _look(self, moment):
        # GPUs are worked on side by side.
        with self._one_by_one:
            self.moments.append(moment)
            self.steps += moment in STEPS
            if self.watch:
                self.watch(moment, self.disk.left())


def on(host, work):
    """Do ``work(engine)`` on this very host."""
    with Engine(config(host)) as engine:
        engine.tools.release()
        engine.host, engine.tools = host, Toolbox(host)
        try:
            return work(engine)
        finally:
            engine.tools.release()


def apply_on_disk(host, wanted):
    return on(host, lambda engine: engine.apply(wanted))


#: The keys of both GPUs as the records have them.
BOTH = {str(Key(gpu, "mig")) for gpu in (FIRST, SECOND)}


def journalled(left):
    """(journal, steps) as they are left on the disk."""
    assert "journal.json" in left, left.keys()
    head = json.loads(left["journal.json"])
    token = f"{head['time']}-{head['pid']}"
    lines = [json.loads(line) for line in left.get("journal.steps", "").splitlines()]
    return head, [(Key.of(text), number) for of, text, number in lines if of == token]


def layouts(left):
    return {key: entry["layout"] for key, entry in json.loads(left["verified.json"])["layouts"].items()}


@pytest.fixture
def host(simulated):
    """Two H100 with a layout and a user in a unit that may be stopped."""
    made = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply_on_disk(made, pillars.mig(["2g.20gb@0", "1g.10gb@4"])).ok
    made.add_process(USER)
    return PowerHost(made)


WANTED = pillars.mig(["3g.40gb", "1g.10gb"], stop_units=[UNIT])


def test_no_step_is_done_that_is_not_on_the_disk(host):
    def watch(moment, left):
        if moment in STEPS:
            head, steps = journalled(left)
            assert set(head["before"]) == BOTH
            assert len(set(steps)) == len(steps) >= host.steps, moment
        elif moment.startswith("systemctl"):
            assert journalled(left)[0]["pauses"] == [["unit", UNIT]], moment

    host.watch = watch
    assert apply_on_disk(host, WANTED).ok
    assert host.steps == 8 and host.moments[:3] == ["create journal.json." + f"{os.getpid()}.new", "replace journal.json",
                                                     f"systemctl stop {UNIT}"]  # fmt: skip
    assert f"systemctl start {UNIT}" in host.moments


def test_the_journal_is_closed_when_all_else_is_on_the_disk(host):
    closed = []

    def watch(moment, left):
        if moment == "unlink journal.json":
            closed.append(journalled(left))
            goal = {key: sorted(name for name, _, _ in layout["instances"]) for key, layout in layouts(left).items()}
            assert goal == dict.fromkeys(BOTH, ["1g.10gb", "3g.40gb"])

    host.watch = watch
    assert apply_on_disk(host, WANTED).ok
    assert len(closed) == 1 and host.moments.index(f"systemctl start {UNIT}") < host.moments.index("unlink journal.json")


def test_nothing_of_a_change_that_returned_is_lost(host):
    for number, wanted in enumerate((WANTED, pillars.mig(["7g.80gb"], stop_units=[UNIT]), WANTED), 2):
        assert apply_on_disk(host, wanted).ok
        left = host.disk.left()
        assert left == host.disk.there() and "journal.json" not in left and f"history/{number:06d}.json" in left


@pytest.mark.parametrize("fault", ["nvmlGpuInstanceDestroy", "nvmlGpuInstanceCreateComputeInstanceWithPlacement"])
def test_nothing_of_a_change_that_was_put_back_is_lost(host, fault):
    host.add_fault({"call": fault, "nth": 2, "error": "NVML_ERROR_UNKNOWN"})
    result = apply_on_disk(host, WANTED)
    assert not result.ok
    left = host.disk.left()
    assert "journal.json" not in left and "journal.steps" not in left
    assert json.loads(left["history/000002.json"])["errors"] == result.errors


def test_a_cut_at_any_moment_of_a_change_is_repaired_by_the_next_run(host, tmp_path):
    """What was left at each moment becomes a host of its own, which has the hardware of that moment after a boot."""
    cuts = []

    def watch(moment, left):
        cuts.append((moment, left, json.dumps(host.state())))

    host.watch = watch
    assert apply_on_disk(host, WANTED).ok
    for number, (moment, left, machine) in enumerate(cuts):
        place = tmp_path / f"cut{number}"
        for name, text in left.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (place / "simulated").mkdir()
        (place / "simulated" / f"{host.name}.json").write_text(machine)
        other = SimulatedHost(host.description_path, str(place))
        # MIG instances do not last: the records have to say what was meant.
        other.reboot()
        answer = on(other, lambda engine: replay.replay(engine, wait=0))
        assert answer["result"] is True, (moment, answer)
        found = {key: [name for name, _, _ in entry["layout"]["instances"]] for key, entry in Verified(other).entries().items()}
        assert set(map(tuple, map(sorted, found.values()))) <= {("1g.10gb", "2g.20gb"), ("1g.10gb", "3g.40gb")}, moment
        assert not (place / "journal.json").exists()


def test_an_attempt_of_a_boot_is_on_the_disk_before_it_begins(host):
    host.reboot()
    seen = []

    def watch(moment, left):
        if moment in STEPS:
            seen.append(json.loads(left["boot.json"])["tried"])

    host.watch = watch
    answer = on(host, lambda engine: replay.replay(engine, wait=0))
    assert answer["result"] is True and seen and all(set(tried) == BOTH for tried in seen)
    left = host.disk.left()
    assert json.loads(left["boot.json"])["tried"] == {} and json.loads(left["boot.json"])["last"]["result"] is True
    assert left["boot.json"] == host.disk.there()["boot.json"]


def awaiting(simulated, reset):
    """An A100 whose mode change needs a reset that this host can't do."""
    return PowerHost(simulated("dgx-a100-40gb", gpus=[{"model": "a100-40gb", "address": FIRST}], processes=[], **reset))


NO_RESET = {"reset": "never"}


def test_a_gpu_that_waits_for_a_reboot_is_on_the_disk_before_the_system_is_told(simulated):
    host = awaiting(simulated, NO_RESET)
    seen = []

    def watch(moment, left):
        if moment in ("mark_reboot_required", "unlink journal.json"):
            seen.append(moment)
            assert FIRST in json.loads(left["reboot.json"])["gpus"] and journalled(left)

    host.watch = watch
    assert apply_on_disk(host, pillars.mig(["3g.20gb"])).reboot == [FIRST]
    assert seen == ["mark_reboot_required", "unlink journal.json"]
    assert host.disk.left()["reboot.json"] == host.disk.there()["reboot.json"]


def test_that_a_driver_was_unloaded_is_on_the_disk_before_it_is(simulated, repo):
    wanted = yaml.safe_load((repo / "examples" / "pillar" / "mi300x.sls").read_text(encoding="utf-8"))
    host, seen = PowerHost(simulated("mi300x-8")), []

    def watch(moment, left):
        if moment.startswith("modprobe -r"):
            seen.append(json.loads(left["partition.json"])["unloaded"])

    host.watch = watch
    assert apply_on_disk(host, wanted).ok
    assert seen == [True] and "partition.json" not in host.disk.left()


def test_directories_that_are_made_are_on_the_disk_too(tmp_path):
    disk = ForgetfulDisk(tmp_path)
    place = tmp_path / "a" / "b"
    state_files.make_directory(disk, str(place))
    state_files.write(disk, str(place / "c" / "file"), "text", 0o644)
    state_files.append(disk, str(place / "c" / "lines"), "one")
    state_files.append(disk, str(place / "c" / "lines"), "two")
    assert disk.left() == {"a/b/c/file": "text", "a/b/c/lines": "one\ntwo\n"}
    state_files.remove(disk, str(place / "c" / "file"))
    assert disk.left() == {"a/b/c/lines": "one\ntwo\n"}


def test_a_file_that_the_disk_has_no_room_for_is_refused_and_the_old_one_stays(tmp_path):
    """A write can be cut short without an error: the rest is written, or refused, and never left out."""
    path = tmp_path / "file"
    state_files.write(state_files.Disk(), str(path), "old", 0o644)

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            state_files.write(state_files.Disk(), str(path), "x" * 5000, 0o644)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)

    assert crash.in_child(fill) == signal.SIGTERM
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_the_kernel_itself_is_asked_to_synchronise():
    """By what it can't: a pipe has nothing on a disk, nor has a directory of procfs."""
    ends = os.pipe()
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            state_files.Disk().sync(ends[1])
    finally:
        for end in ends:
            os.close(end)
    with pytest.raises(OSError, match="Invalid argument"):
        state_files.Disk().sync_directory("/proc")


# -- who waits no longer ---------------------------------------------------------------------------------------------------
def ledger(host):
    path = pathlib.Path(host.state_dir, "reboot.json")
    return json.loads(path.read_text())["gpus"] if path.exists() else {}


def test_a_gpu_that_came_back_as_wanted_is_struck_off_so_that_a_later_wait_is_a_new_one(simulated):
    host = awaiting(simulated, NO_RESET)
    assert apply_on_disk(host, pillars.mig(["3g.20gb"])).reboot == [FIRST] and set(ledger(host)) == {FIRST}
    host.reboot()
    assert apply_on_disk(host, pillars.mig(["3g.20gb"])).ok and ledger(host) == {}
    # Off again: this waits for the first time.
    off = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"mode": "disabled"}}}
    assert apply_on_disk(host, off).reboot == [FIRST]
    assert not RebootLedger(host).rebooted_in_vain(FIRST) and RebootLedger(host).waiting(FIRST)


def test_one_that_is_found_as_wanted_is_struck_off_too_and_no_other(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply_on_disk(host, pillars.mig(["1g.10gb"])).ok
    waits = {"boot_id": host.boot_id(), "why": "a reset was refused", "reboots": 0}
    host.store_write(f"{host.state_dir}/reboot.json", json.dumps({FIRST: waits, "0000:ff:00.0": waits}))
    assert apply_on_disk(host, pillars.mig(["1g.10gb"])).plan.empty
    assert ledger(host) == {"0000:ff:00.0": waits}


def test_one_that_still_waits_stays_on_the_ledger(simulated):
    host = awaiting(simulated, NO_RESET)
    for _ in range(3):
        assert apply_on_disk(host, pillars.mig(["3g.20gb"])).reboot == [FIRST] and set(ledger(host)) == {FIRST}


# -- the record and the lock -----------------------------------------------------------------------------------------------
def test_what_is_found_as_wanted_is_noted_under_the_lock_only(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply_on_disk(host, pillars.mig(["1g.10gb"])).ok
    path = pathlib.Path(Verified(host).path)
    path.unlink()
    with lock.held(host.state_dir, "another change"):
        assert apply_on_disk(host, pillars.mig(["1g.10gb"])).ok
        # Whoever holds the lock may be about to change what was just found.
        assert not path.exists()
    assert apply_on_disk(host, pillars.mig(["1g.10gb"])).ok and set(map(str, Verified(host).entries())) == BOTH


def test_everything_of_a_change_is_written_under_the_lock(host):
    free = []

    def watch(moment, left):
        try:
            with lock.held(host.state_dir, "somebody else", patience=0):
                free.append(moment)
        except errors.LockHeld:
            pass

    host.watch = watch
    assert apply_on_disk(host, WANTED).ok
    assert len(host.moments) > 15 and free == []
