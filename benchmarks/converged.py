#!/usr/bin/env python3
"""
What the engine itself costs on a host that is already as its pillar says, without Salt around it.

The host is a simulated DGX H100 with 8 GPUs and 7 x 1g.10gb on each. Every sample is a process of its own, with bytecode
compiled before, in which the modules that any ``salt-call`` has loaded are loaded already: what is counted is what the project
adds. Times are milliseconds, as the median and the least of all samples; the least is what the work needs when nobody
disturbs it.

The second part changes {3g, 2g, 2 x 1g} to {3g, 4 x 1g} with latencies of 0.15 s per instance created and 0.10 s per instance
destroyed, on one GPU and on eight: GPUs are independent, so that the ratio should be close to 1.

Exit status 1 when the host is not converged or a change destroys other than it must.
"""

import argparse
import copy
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "hosts" / "dgx-h100.yaml"
CONVERGED = {"1g.10gb": 7}
OLD, NEW = {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}, {"3g.40gb": 1, "1g.10gb": 4}
LATENCY = {"create_gi": 0.15, "destroy_gi": 0.10}
#: What salt-call has imported before it loads the first grain.
SALT = ("salt.cli.call", "salt.minion", "salt.state", "salt.loader", "salt.utils.event")


def pillar(profiles):
    """The pillar that asks for these MIG profiles on every GPU."""
    return {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": profiles}}}


def deliver(place, checkout=ROOT):
    """Copy what Salt delivers of a checkout to a directory, so that its bytecode can be kept there; returns it."""
    target = pathlib.Path(place) / "root"
    for folder in ("_grains", "_modules", "_states", "_utils", "states"):
        shutil.copytree(checkout / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def environment():
    """The environment of a measured process: bytecode is written, and nothing of this process's paths is handed on."""
    left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if key not in left_out}


def describe(place, gpus=8, latency=None, example=EXAMPLE):
    """Write the description of a host with so many GPUs, up to 16; returns the engine's configuration for it."""
    host = copy.deepcopy(yaml.safe_load(example.read_text(encoding="utf-8")))
    # A second board of eight, in a PCI domain of its own.
    second = [{**gpu, "address": f"0001{gpu['address'][4:]}", "uuid": f"GPU-1{gpu['uuid'][5:]}"} for gpu in host["gpus"]]
    host["gpus"] = [*host["gpus"], *second][:gpus]
    host["latency"].update(latency or {})
    place = pathlib.Path(place)
    place.mkdir(parents=True, exist_ok=True)
    path = place / "dgx-h100.yaml"
    path.write_text(yaml.safe_dump(host, sort_keys=False), encoding="utf-8")
    return {"simulate": str(path), "state_dir": str(place / "state")}


def bring(config, profiles):
    """Apply a pillar. Returns the engine's Result; raises SystemExit when the host is not as wanted afterwards."""
    from gpuslice.engine import Engine

    with Engine(config) as engine:
        result = engine.apply(pillar(profiles))
    if not result.ok:
        raise SystemExit("The change failed: " + "; ".join(result.errors))
    return result


def uuids(config):
    """UUIDs of all slices of the host."""
    from gpuslice.engine import Engine

    with Engine(config) as engine:
        return {part["uuid"] for part in engine.slices()}


class CountedReads:
    """Counts how often a host is asked for a file, a directory or a link."""

    def __init__(self, host):
        self.count = 0
        for name in ("read", "listdir", "exists", "readlink"):
            setattr(host, name, self._counted(getattr(host, name)))

    def _counted(self, function):
        def call(*args):
            self.count += 1
            return function(*args)

        return call


class Clock:
    """Milliseconds of named parts, one after the other."""

    def __init__(self):
        self.parts = {}
        self._begun = time.perf_counter()

    def lap(self, name):
        """What was done since the last lap was ``name``."""
        now = time.perf_counter()
        self.parts[name] = (now - self._begun) * 1000
        self._begun = time.perf_counter()


def load(path):
    """Execute a loader file as Salt does; returns its names."""
    names = {"__name__": f"loaded.{path.stem}", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


def sample(root, config):
    """
    The parts of one converged run in this process, which must be a fresh one.

    :return: ``{"parts": {name: ms}, "calls": {stage: {NVML function: count}}, "reads": {stage: files asked for}}``.
    """
    for name in SALT:
        try:
            __import__(name)
        except ImportError:
            break
    clock = Clock()
    grain = load(root / "_grains" / "gpu.py")
    clock.lap("grain: import")
    # Apart, as a host with real GPUs loads none of it.
    from gpuslice.host.open import open_host
    from gpuslice.sim import sysfs  # noqa: F401

    clock.lap("the simulation: import")
    open_host(config).exists("/sys")
    clock.lap("the simulation: its state file")
    grain["__opts__"] = {"gpu_slicing": config}
    grain["gpu"]()
    clock.lap("grain: run")
    from gpuslice import front  # noqa: F401
    from gpuslice.engine import Engine

    clock.lap("import of the engine")
    from gpuslice.techniques.mig import technique  # noqa: F401 as mig

    clock.lap("import of the technique")
    import pynvml  # noqa: F401

    clock.lap("import of pynvml (nvidia-ml-py's own)")
    from gpuslice.sim import nvml  # noqa: F401

    clock.lap("the simulation: import of its NVML")
    clock.parts.update(_run(config, Engine))
    return {"parts": clock.parts, **_count(config, Engine)}


def _run(config, engine_class):
    """Milliseconds of the parts of one plan, which must find nothing to do on all GPUs of the description."""
    clock = Clock()
    with engine_class(config) as engine:
        clock.lap("open the engine")
        policy = engine.policy(pillar(CONVERGED))
        clock.lap("policy")
        found = len(engine.gpus)
        clock.lap("inventory")
        targets = engine.targets(policy)
        clock.lap("targets")
        plan = engine.reconciler(policy).plan(targets)
        clock.lap("observe and plan")
    described = yaml.safe_load(pathlib.Path(config["simulate"]).read_text(encoding="utf-8"))["gpus"]
    if found != len(described) or not plan.empty:
        raise SystemExit("The host is not converged.")
    return clock.parts


def _count(config, engine_class):
    """NVML calls and reads of files of what a highstate does: the targets, then apply, then the check of the outcome."""
    calls, reads = {}, {}
    for stage in ("discovery", "slicing", "validation"):
        with engine_class(config) as engine:
            counted = CountedReads(engine.host)
            if stage == "discovery":
                engine.targets(engine.policy(pillar(CONVERGED)))
            elif stage == "slicing":
                engine.apply(pillar(CONVERGED))
            else:
                engine.plan(pillar(CONVERGED))
            calls[stage], reads[stage] = dict(engine.tools.get("mig").nvml.calls), counted.count
    return {"calls": calls, "reads": reads}


def sampled(root, config):
    """One :func:`sample`, from a process of its own."""
    argv = [sys.executable, __file__, "--sample", str(root), json.dumps(config)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"A sample failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def breakdown(place, runs):
    """Print the parts of a converged run and the NVML calls that it makes."""
    root, config = deliver(place), describe(place)
    bring(config, CONVERGED)
    # The first one compiles.
    samples = [sampled(root, config) for _ in range(runs + 1)][1:]
    rows = {name: [one["parts"][name] for one in samples] for name in samples[0]["parts"]}
    ours = [name for name in rows if "simulation" not in name]
    grain = [name for name in rows if name.startswith("grain")]
    print(f"Parts of one converged run (ms, {runs} processes)              median     least")
    for name, values in rows.items():
        print(f"  {name:<55} {statistics.median(values):>7.2f}   {min(values):>7.2f}")
    for title, names in (("the grain, import and run", grain), ("all but the simulation's own", ours)):
        sums = [sum(one["parts"][name] for name in names) for one in samples]
        print(f"  {title:<55} {statistics.median(sums):>7.2f}   {min(sums):>7.2f}")
    print("\nNVML calls of one converged highstate (8 GPUs, 56 slices)")
    calls = samples[0]["calls"]
    for name in sorted({name for stage in calls.values() for name in stage}):
        print(f"  {name:<48}" + "".join(f"{stage} {calls[stage].get(name, 0):>4}   " for stage in ("slicing", "validation")))
    print(f"  {'sum':<48}" + "".join(f"{stage} {sum(calls[stage].values()):>4}   " for stage in ("slicing", "validation")))
    if calls["discovery"]:
        raise SystemExit("The discovery stage used NVML, which it must not.")


def parallel(place, runs=3):
    """Print how long a change on eight GPUs takes beside the same on one, and what it destroys."""
    seconds = {1: [], 8: []}
    for run in range(runs):
        for gpus in (1, 8):
            config = describe(pathlib.Path(place) / f"parallel-{gpus}-{run}", gpus, LATENCY)
            bring(config, OLD)
            before = uuids(config)
            begun = time.perf_counter()
            bring(config, NEW)
            seconds[gpus].append(time.perf_counter() - begun)
            after = uuids(config)
            destroys, keeps = len(before - after), len(before & after)
            if (destroys, keeps) != (gpus, 3 * gpus):
                raise SystemExit(f"{gpus} GPUs: {destroys} destroyed and {keeps} kept, but it takes {gpus} and {3 * gpus}.")
    one, eight = (statistics.median(seconds[gpus]) for gpus in (1, 8))
    print("\n{3g, 2g, 2 x 1g} -> {3g, 4 x 1g}, 0.15 s per create and 0.10 s per destroy")
    print(f"  on 1 GPU {one:.2f} s, on 8 GPUs {eight:.2f} s: ratio {eight / one:.2f} (one after the other it would be 8)")
    print("  on 8 GPUs: destroyed 8, kept 24 with their UUIDs; clearing everything first would destroy 32")


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="What the engine costs on a converged host, without Salt.")
    parser.add_argument("--runs", type=int, default=11, help="processes to sample (default 11)")
    parser.add_argument("--sample", nargs=2, metavar=("ROOT", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.sample:
        root = pathlib.Path(options.sample[0])
        sys.path.insert(0, str(root / "_utils"))
        print(json.dumps(sample(root, json.loads(options.sample[1]))))
        return 0
    sys.path.insert(0, str(ROOT / "_utils"))
    with tempfile.TemporaryDirectory(prefix="gpu-slicing-") as place:
        breakdown(place, options.runs)
        parallel(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
