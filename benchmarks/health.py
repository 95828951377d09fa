#!/usr/bin/env python3
"""
What looking at the health of a host costs: a simulated DGX H100 whose eight boards have seven slices each, 56 in all.

A pass of the beacon and a look of ``gpu_health.status`` take turns with one that only lists the GPUs, in one process, as a minion
has it. The ratios are medians of pairs of neighbouring runs. How many NVML calls a look and the stage of a highstate make is told
beside them, and how long the kernel's log of this machine takes, where it can be read. The simulation's own work counts too; a
real host has a driver in its place.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOST = ROOT / "examples" / "hosts" / "dgx-h100.yaml"
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 7}}}}


def timed(config, work):
    """Seconds that a request to a fresh engine takes."""
    from gpuslice.engine import Engine

    begun = time.perf_counter()
    with Engine(config) as engine:
        work(engine)
    return time.perf_counter() - begun


def asked(config, work):
    """NVML calls that a request to a fresh engine makes."""
    from gpuslice.engine import Engine

    with Engine(config) as engine:
        work(engine)
        return sum(engine.tools.sessions.nvml.calls.values())


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="What looking at the health of 56 slices costs.")
    parser.add_argument("--runs", type=int, default=30, help="runs of each (default 30)")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT / "_utils"))
    from gpuslice import statuses
    from gpuslice.engine import Engine
    from gpuslice.host import kernel_log

    works = {"list the GPUs": lambda engine: engine.gpus, "beacon": statuses.news, "look": lambda engine: engine.watch()}

    def judge(engine):
        return statuses.judged(engine, {})

    with tempfile.TemporaryDirectory() as place:
        config = {"simulate": str(HOST), "state_dir": place}
        with Engine(config) as engine:
            if not engine.apply(PILLAR).ok:
                return 1
            engine.watch()
        calls = {name: asked(config, work) for name, work in {"look": works["look"], "stage": judge}.items()}
        times = {name: [] for name in works}
        for _ in range(options.runs):
            for name, work in works.items():
                times[name].append(timed(config, work))
    floor = times["list the GPUs"]
    for name, found in times.items():
        ratio = statistics.median(one / other for one, other in zip(found, floor, strict=True))
        print(f"{name:15} {statistics.median(found) * 1e3:7.1f} ms  {ratio:6.2f} x")
    print("NVML calls: " + ", ".join(f"{count} of a {name}" for name, count in calls.items()))
    try:
        begun = time.perf_counter()
        log = kernel_log.read()
        print(f"kernel's log of this machine, {log.last - log.first + 1} lines: {(time.perf_counter() - begun) * 1e3:.1f} ms")
    except OSError as err:
        print(f"the kernel's log can't be read here: {err.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
