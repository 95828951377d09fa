"""
The guided tour: a simulated DGX H100 is sliced from a pillar with the real salt-call, and every step is checked.

    python examples/demo.py [directory]

The directory (``demo`` in the checkout by default) is made anew and stays, so that the tour can be gone on with by hand. The
exit status is 0 when every step came out as expected, and 1 at the first that did not.
"""

import argparse
import difflib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "_utils"))

from gpuslice.sim.host import SimulatedHost  # noqa: E402

DESCRIPTION = ROOT / "examples" / "hosts" / "dgx-h100.yaml"
FIRST = {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}
SECOND = {"3g.40gb": 1, "1g.10gb": 4}
THIRD = {"3g.40gb": 2}
#: Seven slices of every GPU, for consumers.
SEVENTHS = {"1g.10gb": 7}
#: The slice that is cut anew, and what it becomes: the same with the GPU's media engines.
ANEW, MEDIA = "0000:43:00.0", ["1g.10gb+me@0", *["1g.10gb"] * 6]
GPUS = 8
SLICE, CONSUMER = "/var/run/cdi/gpu-slicing-slice.json", "/var/run/cdi/gpu-slicing-consumer.json"
#: What tells the directory of an earlier tour from one that must not be deleted.
MARK = "made-by-examples-demo"

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_UUID = re.compile(r"(?:GPU|MIG)-[0-9a-f-]{36}")


class Unexpected(Exception):
    """A step did not come out as expected; the message says what is wrong."""


def expect(true, words):
    """Print ``words`` as checked if ``true``, and end the tour otherwise."""
    if not true:
        raise Unexpected(words)
    print(f"  [ok] {words}")


def heading(number, words):
    """Begin a step."""
    print(f"\n=== {number}. {words}\n")


# ---- the minion -----------------------------------------------------------------------------------------------------


def pillar(profiles, rules=None, consumers=None):
    """The pillar that wants these MIG profiles on every GPU, with rules for single GPUs, and consumers of the slices."""
    slicing = {"enabled": True, "strategy": "mig", "mig": {"profiles": profiles}}
    found = {"containers_gpu_slicing": {**slicing, "devices": rules} if rules else slicing}
    return {**found, "containers_gpu_container_integration": {"consumers": consumers}} if consumers else found


def consumers(trainer):
    """Eight consumers: a service, a login user, a CDI name, and containers; ``trainer`` is the slice that the service wants."""
    served = {"kind": "container", "image": "registry.example/infer:1", "slice": "1g.10gb"}
    return {
        **{f"infer-{number}": dict(served) for number in range(1, 6)},
        "ada": {"kind": "user", "user": "ada", "slice": "1g.10gb"},
        "builds": {"kind": "device", "slice": "1g.10gb"},
        "trainer": {"kind": "service", "unit": "trainer.service", "slice": trainer},
    }


class Minion:
    """A masterless minion in a directory of its own, on a simulated host."""

    def __init__(self, place):
        self.place = place
        self._clear()
        # From the folders of the checkout and without a copy: a fleet gets the same files by 'saltutil.sync_all'.
        loaders = {f"{kind}_dirs": [str(ROOT / f"_{folder}")] for kind, folder in _FOLDERS.items()}
        self._write(
            "conf/minion",
            {
                "id": "demo",
                "root_dir": str(place),
                "file_client": "local",
                "file_roots": {"base": [str(ROOT / "states")]},
                "pillar_roots": {"base": [str(place / "pillar")]},
                "autoload_dynamic_modules": False,
                "enable_gpu_grains": False,
                "enable_fqdns_grains": False,
                "log_level": "error",
                "log_fmt_console": "%(message)s",
                "state_output_profile": False,
                "gpu_slicing": {"simulate": str(DESCRIPTION), "state_dir": str(place / "state")},
                **loaders,
            },
        )
        self._write("pillar/top.sls", {"base": {"*": ["gpu"]}})

    def _clear(self):
        if self.place.exists() and any(self.place.iterdir()):
            if not (self.place / MARK).exists():
                raise Unexpected(f"{self.place} is not empty and not of an earlier tour: name another directory")
            shutil.rmtree(self.place)
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / MARK).touch()

    def _write(self, name, data):
        path = self.place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    def set_pillar(self, profiles, news=False, **more):
        """Give the minion the :func:`pillar` with these profiles, and print it, or with ``news`` what is new in it."""
        path = self.place / "pillar" / "gpu.sls"
        before = path.read_text(encoding="utf-8").splitlines() if news else []
        self._write("pillar/gpu.sls", pillar(profiles, **more))
        lines = path.read_text(encoding="utf-8").splitlines()
        told = [line for line in difflib.ndiff(before, lines) if line[0] in "+-"] if news else lines
        print("\n".join([f"# {short(path)}", *told, ""]))

    @property
    def host(self):
        """The simulated host as it is now."""
        return SimulatedHost(str(DESCRIPTION), str(self.place / "state"))

    def names(self):
        """CDI name -> what a container that is given it gets, as the files of the host say."""
        found = {}
        for path in (SLICE, CONSUMER):
            spec = json.loads(self.host.read(path))
            found.update({f"{spec['kind']}={each['name']}": each["containerEdits"] for each in spec["devices"]})
        return found

    def starts(self):
        """Unit -> how often systemd has started it."""
        return dict(self.host.state().get("starts", {}))

    def break_driver(self, gpu):
        """The next GPU instance that is to be created on this GPU is refused by the driver."""
        self.host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": gpu, "error": "NVML_ERROR_UNKNOWN"})

    def command(self, *args):
        """The command line of a call, as a list."""
        program = pathlib.Path(sys.executable).parent / "salt-call"
        return [str(program), "--local", "-c", str(self.place / "conf"), *args]

    def call(self, *args, show=True):
        """Run ``salt-call --local`` as it is printed; returns (exit status, standard output, standard error)."""
        if show:
            print("$ " + shlex.join(map(short, self.command(*args))))
        sys.stdout.flush()
        # What the caller's Python is told to import must not help the program to find anything.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [*self.command(*args), "--retcode-passthrough", "--no-color"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=120)
        return done.returncode, done.stdout, done.stderr

    def shown(self, *args):
        """Run a call and print what it prints; returns (exit status, standard output)."""
        status, out, err = self.call(*args)
        _print_progress(err)
        print(out.rstrip("\n"))
        return status, out

    def data(self, *args, show=False):
        """What a call returns, as data."""
        status, out, err = self.call(*args, "--out=json", show=show)
        if status:
            raise Unexpected(f"salt-call {shlex.join(args)} ended with {status}: {out.strip()} {err.strip()}")
        return json.loads(out)["local"]


#: Kind of loader file in Salt's option -> folder of the checkout.
_FOLDERS = {"module": "modules", "states": "states", "grains": "grains", "utils": "utils"}


# ---- printing -------------------------------------------------------------------------------------------------------


def short(text):
    """A path as one types it in the checkout."""
    path = pathlib.Path(text)
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else str(text)


def _print_progress(log):
    """What the log tells of the steps on the last GPU; the GPUs are worked on side by side, so their lines are mixed."""
    lines = [line for line in log.splitlines() if line.startswith("GPU slicing: ")]
    gpus = sorted({match.group() for line in lines if (match := _ADDRESS.search(line))})
    if gpus:
        told = [line for line in lines if gpus[-1] in line]
        print("\n".join(told) + f"\n({len(lines) - len(told)} lines about the other {len(gpus) - 1} GPUs)\n")


# ---- what is looked at ----------------------------------------------------------------------------------------------


def layout(slices):
    """PCI address -> sorted profile names."""
    found = {}
    for part in slices:
        found.setdefault(part["gpu"], []).append(part["profile"])
    return {gpu: sorted(names) for gpu, names in found.items()}


def wanted(profiles):
    """The profile names that each GPU must have, sorted."""
    return sorted(name for name, count in profiles.items() for _ in range(count))


def is_everywhere(slices, profiles):
    """Whether every GPU of the host has exactly these profiles."""
    found = layout(slices)
    return len(found) == GPUS and all(names == wanted(profiles) for names in found.values())


def uuids(slices):
    """(GPU, profile, placement) -> UUID."""
    return {(part["gpu"], part["profile"], part["placement"]): part["uuid"] for part in slices}


# ---- the tour -------------------------------------------------------------------------------------------------------


def what_is_there(minion):
    """Step 1."""
    heading(1, "What the host has: the grain 'gpu'")
    grain = minion.data("grains.get", "gpu", show=True)
    brief = {key: value for key, value in grain.items() if key != "devices"}
    print("\n".join(f"  {key}: {json.dumps(value)}" for key, value in brief.items()))
    print("  (here without 'devices': driver, memory, NUMA node and more of each)\n")
    expect(grain["count"] == GPUS and len(grain["devices"]) == GPUS, f"{GPUS} GPUs were found")
    expect(all("mig" in device["capabilities"] for device in grain["devices"]), "each of them can do MIG")


def plan(minion):
    """Step 2."""
    heading(2, "Say what is wanted, and look at the plan: nothing is changed")
    minion.set_pillar(FIRST)
    status, out = minion.shown("state.apply", "gpu_slicing", "test=True")
    print()
    nothing_fails = status == 0 and re.search(r"Failed: +0", out)
    expect(nothing_fails and "(unchanged=" in out, "something would be changed, and nothing fails")
    expect(minion.data("gpu.slices") == [], "there is no slice: the test changed nothing")


def first_apply(minion):
    """Step 3. Returns the slices."""
    heading(3, "Do it")
    status, out = minion.shown("state.apply", "gpu_slicing", "-l", "info")
    slices = minion.data("gpu.slices")
    print()
    expect(status == 0 and "(changed=1)" in out, "one state changed something, none failed")
    expect(is_everywhere(slices, FIRST), f"read again: each of the {GPUS} GPUs has {', '.join(wanted(FIRST))}")
    return slices


def table(minion, slices):
    """Step 4."""
    heading(4, "The slices, for people")
    _, out = minion.shown("gpu.table")
    print()
    expect(all(part["uuid"] in out for part in slices), f"the table has all {len(slices)} slices")


def second_apply(minion, slices):
    """Step 5."""
    heading(5, "Do it again: nothing is to do, so nothing is done")
    status, out = minion.shown("state.apply", "gpu_slicing", "--state-output=terse")
    print()
    expect(status == 0 and "changed=" not in out, "no state changed anything")
    expect(minion.data("gpu.slices") == slices, "the slices are the same ones, with the same UUIDs")


def change(minion, slices):
    """Step 6. Returns the slices."""
    heading(6, "Another layout: what fits stays, and keeps its UUID")
    before = minion.data("gpu.map")
    minion.set_pillar(SECOND)
    status, out = minion.shown("gpu_slicing.apply", "brief=True")
    after = minion.data("gpu.map")
    now = minion.data("gpu.slices")
    print("\nThe memory slices, which are the same on all GPUs:")
    print("\n".join(dict.fromkeys(f"  before {before[gpu]}\n  after  {after[gpu]}" for gpu in before)) + "\n")
    old, new = uuids(slices), uuids(now)
    both = old.keys() & new.keys()
    expect(status == 0 and is_everywhere(now, SECOND), f"each GPU has {', '.join(wanted(SECOND))}")
    expect(all(old[place] == new[place] for place in both) and len(both) == 24, f"{len(both)} slices were kept: same UUIDs")
    gone, come = len(old.keys() - new.keys()), len(new.keys() - old.keys())
    expect((gone, come) == (8, 16), f"only {gone} were destroyed, and {come} created")
    return now


def failure(minion, slices):
    """Step 7."""
    gpu = slices[-1]["gpu"]
    heading(7, f"The driver of {gpu} fails in the middle of a change: that GPU is put back")
    minion.break_driver(gpu)
    minion.set_pillar(THIRD)
    status, out = minion.shown("gpu_slicing.apply", "brief=True", "-l", "info")
    print()
    now = minion.data("gpu.slices")
    expect(status != 0 and gpu in out, "the change failed, and the GPU is named")
    found, before = layout(now), layout(slices)
    expect(found[gpu] == before[gpu], f"{gpu} has the layout that it had before")
    others = [names for address, names in found.items() if address != gpu]
    expect(len(others) == GPUS - 1 and all(names == wanted(THIRD) for names in others), "the others have the new one")
    halves = [place for place in uuids(slices) if place[1] == "3g.40gb"]
    same = len(halves) == GPUS and all(uuids(now)[place] == uuids(slices)[place] for place in halves)
    expect(same, f"the {GPUS} slices that the change would have kept were not touched: same UUIDs")


def rollback(minion):
    """Step 8."""
    heading(8, "Back to an earlier layout: the outcome of generation 1")
    status, out = minion.shown("gpu_slicing.rollback", "1", "brief=True")
    print()
    expect(status == 0 and is_everywhere(minion.data("gpu.slices"), FIRST), f"each GPU has {', '.join(wanted(FIRST))} again")
    print("\nA rollback does not change the pillar: put that back as well, or the next highstate goes forward again.")


def history(minion):
    """Step 9."""
    heading(9, "What was done on this host")
    found = minion.data("gpu_slicing.history", show=True)
    for entry in found:
        print(f"  {entry['generation']}  {entry['time']}  {entry['who']:<22} {entry['result']}")
    print()
    results = [entry["result"] for entry in found]
    expect(results == ["applied", "applied", "partly applied", "applied"], "four changes are recorded, the third applied in part")


def hand_out(minion):
    """Step 10. Returns the slices."""
    heading(10, "Consumers: each slice gets a name that containers know, and eight of them somebody who has it")
    minion.set_pillar(SEVENTHS, consumers=consumers("1g.10gb"))
    status, _ = minion.shown("gpu_slicing.apply", "brief=True")
    minion.shown("gpu_consumer.environment", "trainer")
    slices = minion.data("gpu.slices")
    names = minion.names()
    served = [name for name in names if name.startswith("gpu-slicing/consumer=")]
    print("\nWritten, beside the names:")
    print("\n".join(f"  {path}" for path in sorted(minion.host.state()["written"]) if "/cdi/" not in path) + "\n")
    expect(status == 0 and is_everywhere(slices, SEVENTHS) and len(slices) == 56, "there are 56 slices, 7 on each GPU")
    expect((len(names), len(served)) == (64, 8), "there are 64 CDI names: one for each slice, and one for each of 8 consumers")
    expect(len(minion.starts()) == 6, "5 containers were started, and the service was restarted with its slice")
    return slices


def cut_anew(minion, slices):
    """Step 11."""
    heading(11, "One slice is cut anew: the trainer wants the media engines of a GPU beside its compute slice")
    names, starts = minion.names(), minion.starts()
    rules = [{"match": {"pci": ANEW}, "mig": {"profiles": MEDIA}}]
    minion.set_pillar(SEVENTHS, news=True, rules=rules, consumers=consumers("1g.10gb+me"))
    status, _ = minion.shown("gpu_slicing.apply", "brief=True")
    now, named = minion.data("gpu.slices"), minion.names()
    kept = [part for part in slices if part in now]
    changed = sorted(name for name in {**names, **named} if names.get(name) != named.get(name))
    restarted = {unit: count - starts.get(unit, 0) for unit, count in minion.starts().items() if count != starts.get(unit)}
    print("\nNames that are new, gone, or lead elsewhere:")
    print("\n".join(f"  {name}: {led(names.get(name))} -> {led(named.get(name))}" for name in changed))
    print(f"Units that systemd has started since: {', '.join(restarted)}\n")
    expect(status == 0 and (len(now), len(kept)) == (56, 55), "of 56 slices 55 are the same: UUID, device nodes, everything")
    mine = {"gpu-slicing/slice=" + part["name"] for part in [*slices, *now] if part not in kept}
    expect(set(changed) == {*mine, "gpu-slicing/consumer=trainer"}, "exactly the names of that slice and of its consumer changed")
    expect(restarted == {"trainer.service": 1}, "exactly one unit was restarted, once: trainer.service")


def led(edits):
    """Where a CDI name leads to, in a word."""
    return next((each for line in edits["env"] for each in _UUID.findall(line)), "?") if edits else "-"


def tour(place):
    """All steps, on a new simulated host."""
    minion = Minion(place)
    print(__doc__.strip().splitlines()[0])
    what_is_there(minion)
    plan(minion)
    slices = first_apply(minion)
    table(minion, slices)
    second_apply(minion, slices)
    slices = change(minion, slices)
    failure(minion, slices)
    rollback(minion)
    history(minion)
    cut_anew(minion, hand_out(minion))
    again = shlex.join(map(short, minion.command("gpu.map")))
    print(f"\nAll steps came out as expected. The simulated host is still there; go on with it:\n\n  {again}\n")


def main():
    """Run the tour; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("directory", nargs="?", default=str(ROOT / "demo"), help="where the tour keeps its files (demo)")
    place = pathlib.Path(parser.parse_args().directory).resolve()
    begun = time.monotonic()
    try:
        tour(place)
    except Unexpected as err:
        print(f"\nNOT AS EXPECTED: {err}", file=sys.stderr)
        return 1
    print(f"This took {time.monotonic() - begun:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
