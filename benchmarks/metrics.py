#!/usr/bin/env python3
"""
What writing the metrics of a host costs: a simulated DGX H100 whose eight boards have seven slices each, 56 in all.

A run of ``python -m gpuslice.metrics`` takes turns with a start of the same Python that does nothing, and one that only loads
the engine. The ratios are medians of pairs of neighbouring runs: what a machine and its load make of the times is in both. Beside
them stand milliseconds, the peak memory of a run, and how often NVML was called in it. The simulation's own work counts too; a
real host has a driver in its place.

Exit status 1 when a run fails.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOST = ROOT / "examples" / "hosts" / "dgx-h100.yaml"
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 7}}}}
#: Writes the metrics and tells the peak memory in KiB, and how often NVML was called.
COUNTED = """
import json, resource, sys
from gpuslice.engine import Engine
from gpuslice.metrics import writer
with Engine(json.loads(sys.argv[1])) as engine:
    writer.write(engine, sys.argv[2], 15)
    calls = sum(engine.host.nvml().calls.values())
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, calls]))
"""


def environment():
    """The variables of a run: the package of this checkout, and compiled once as under a timer."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT / "_utils")}


def cost(command):
    """(seconds, seconds of processor time) that a command took; it has to succeed."""
    begun, used = time.perf_counter(), processor()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    return time.perf_counter() - begun, processor() - used


def processor():
    """Seconds of processor time of all children so far."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def measured(commands, runs):
    """Name -> cost of each run, the commands taking turns."""
    found = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, command in commands.items():
            found[name].append(cost(command))
    # The first of each writes what Python has compiled.
    return {name: times[1:] for name, times in found.items()}


def ratio(one, other):
    """Median of pairs of neighbouring runs."""
    return statistics.median(first / second for first, second in zip(one, other, strict=True))


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="What writing the metrics of 56 slices costs.")
    parser.add_argument("--runs", type=int, default=15, help="runs of each (default 15)")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT / "_utils"))
    from gpuslice.engine import Engine

    with tempfile.TemporaryDirectory(prefix="gpu-slicing-") as temporary:
        config = {"simulate": str(HOST), "state_dir": f"{temporary}/state"}
        with Engine(config) as engine:
            assert engine.apply(PILLAR).ok
        path = f"{temporary}/gpuslice.prom"
        given = ["--textfile", path, "--simulate", str(HOST), "--state-dir", config["state_dir"]]
        found = measured(
            {
                "python": [sys.executable, "-c", "pass"],
                "engine": [sys.executable, "-c", "import gpuslice.engine"],
                "writer": [sys.executable, "-m", "gpuslice.metrics", *given, "--interval", "15"],
            },
            options.runs,
        )
        command = [sys.executable, "-c", COUNTED, json.dumps(config), path]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        peak, calls = json.loads(done.stdout)
        series = sum(not line.startswith("#") for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines())
    whole = {name: [seconds for seconds, _ in costs] for name, costs in found.items()}
    busy = {name: [seconds for _, seconds in costs] for name, costs in found.items()}
    print("                   from begin to end   processor")
    for name in found:
        print(f"{name:<16} {statistics.median(whole[name]) * 1000:>17.1f} ms {statistics.median(busy[name]) * 1000:>8.1f} ms")
    for other in ("python", "engine"):
        print(f"writer : {other:<7} {ratio(whole['writer'], whole[other]):>17.1f}    {ratio(busy['writer'], busy[other]):>8.1f}")
    print(f"{peak / 1024:.1f} MiB at most, {calls} NVML calls, {series} series")
    return 0


if __name__ == "__main__":
    sys.exit(main())
