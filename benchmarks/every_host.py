#!/usr/bin/env python3
"""
What a converged host costs, for every host of ``examples/hosts`` with the pillar that ``examples/top.sls`` gives it.

Each host is sliced once. Then ``state.apply gpu_slicing``, which has nothing left to do, takes turns with ``state.apply floor``
(one ``test.nop``) on the same minion. The ratio is the median of pairs of neighbouring runs. Beside it stand the milliseconds of
the grain and of one plan in this process, where everything is imported and the simulation's own work counts too, and how many
NVML calls and reads of files that plan made.

Exit status 1 when a call fails or changes something.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

# Also when it is not run as a script.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import converged  # noqa: E402
import salt_overhead  # noqa: E402

HOSTS = converged.ROOT / "examples" / "hosts"
CALLS = {"converged": ("host", ["gpu_slicing"]), "floor": ("host", ["floor"])}
#: Plans that the median of the time in this process is of.
PLANS = 5


def in_process(config, wanted):
    """(milliseconds of the grain, of a plan, reads of files, NVML calls) for a converged host."""
    from gpuslice.engine import Engine
    from gpuslice.inventory import grain

    grains, plans, reads, calls = [], [], 0, 0
    for _ in range(PLANS):
        with Engine(config) as engine:
            counted = converged.CountedReads(engine.host)
            begun = time.perf_counter()
            grain.facts(engine.host)
            grains.append((time.perf_counter() - begun) * 1000)
        with Engine(config) as engine:
            counted = converged.CountedReads(engine.host)
            begun = time.perf_counter()
            plan = engine.plan(wanted)
            plans.append((time.perf_counter() - begun) * 1000)
            reads, calls = counted.count, nvml_calls(engine)
        if not plan.empty:
            raise SystemExit(f"{config['simulate']} is not converged: {plan.summary()}")
    return statistics.median(grains), statistics.median(plans), reads, calls


def nvml_calls(engine):
    """NVML calls that an engine made, none where it made no use of NVML."""
    used = engine.host.__dict__.get("_nvml")
    return sum(used.calls.values()) if used else 0


def described(place, example):
    """The description of an example host, with every board in the mode in which it can be sliced; returns its path."""
    path = place / example.name
    place.mkdir()
    path.write_text(example.read_text(encoding="utf-8").replace("display_mode: graphics", "display_mode: compute"), "utf-8")
    return path


def measured(place, root, example, runs):
    """(ratio, seconds of the floor, result of :func:`in_process`, number of slices) of one host."""
    description = described(place, example)
    config = {"simulate": str(description), "state_dir": str(place / "state")}
    roots = [root, root / "states"]
    minion = salt_overhead.Minion(place / "minion", roots, "gpu_slicing", config, pillar=converged.ROOT / "examples")
    minion.call("saltutil.sync_all")
    minion.call("state.apply", "gpu_slicing")
    found = salt_overhead.measure({"host": minion}, CALLS, runs)
    ratio = statistics.median(one / other for one, other in zip(found["converged"], found["floor"], strict=True))
    slices = len(minion.call("gpu.slices")[1])
    wanted = minion.call("pillar.items", "unmask=True")[1]
    return ratio, statistics.median(found["floor"]), in_process(config, wanted), slices


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="What each example host costs once it is as its pillar says.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each call (default 5)")
    parser.add_argument("--host", action="append", help="name of a host; all when not given, can be repeated")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(converged.ROOT / "_utils"))
    print("host               slices  state.apply : floor   floor s   grain ms   plan ms   file reads   NVML calls")
    with tempfile.TemporaryDirectory(prefix="gpu-slicing-") as temporary:
        root = converged.deliver(temporary)
        for description in sorted(HOSTS.glob("*.yaml")):
            if options.host and description.stem not in options.host:
                continue
            place = pathlib.Path(temporary) / description.stem
            ratio, floor, (grain, plan, reads, calls), slices = measured(place, root, description, options.runs)
            print(
                f"{description.stem:<18} {slices:>6}  {ratio:>19.2f}   {floor:>7.2f}   {grain:>8.2f}   {plan:>7.2f}"
                f"   {reads:>10}   {calls:>10}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
