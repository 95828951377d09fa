#!/usr/bin/env python3
"""
The figures of a converged host on one page, for 8 and for 16 GPUs with 7 x 1g.10gb each, and beside another revision.

``--against REV`` takes the same figures of that revision of this repository, in turn with this checkout's, so that a busy
machine slows both alike. Each checkout is measured with its own simulation and its own example host.

state.apply    seconds of a converged ``state.apply gpu_slicing`` and of ``state.apply floor`` (one ``test.nop``) on the same
               minion, as medians; the ratio is the median of pairs of neighbouring runs
grain, engine  milliseconds in a fresh process: the grain with its imports, and all of the engine without the simulation's own
               part; the median and the least, which is what the work needs when nobody disturbs it
reads, NVML    files asked for and NVML calls of one highstate: discovery, slicing, validation

Exit status 1 when a call fails or changes something, and when there are more reads or NVML calls than in the other revision:
those are exact. Times are for the reader to judge.
"""

import argparse
import io
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile

# Also when it is not run as a script.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import converged  # noqa: E402
import salt_overhead  # noqa: E402

GPUS = (8, 16)
#: Figures that are the same in every run.
EXACT = ("file reads", "NVML calls")


class Checkout:
    """
    One state of the source, delivered to a minion on a converged host of each size.

    :param name: what its columns are headed with. :param source: its directory. :param place: where its minions live.
    """

    def __init__(self, name, source, place):
        self.name = name
        self.root = converged.deliver(place, source)
        example = source / "examples" / "hosts" / converged.EXAMPLE.name
        self.configs, self.minions = {}, {}
        for gpus in GPUS:
            config = converged.describe(place / f"host-{gpus}", gpus, example=example)
            minion = salt_overhead.Minion(place / f"minion-{gpus}", [self.root, self.root / "states"], "gpu_slicing", config)
            minion.call("saltutil.sync_all")
            minion.call("state.apply", "gpu_slicing")
            self.configs[gpus], self.minions[gpus] = config, minion
        self.found = {gpus: [] for gpus in GPUS}

    def measure(self, gpus):
        """Take all figures once."""
        minion = self.minions[gpus]
        apply, floor = (salt_overhead.timed(minion, [name]) for name in ("gpu_slicing", "floor"))
        sample = converged.sampled(self.root, self.configs[gpus])
        ours = {name: took for name, took in sample["parts"].items() if "simulation" not in name}
        calls = sum(sum(stage.values()) for stage in sample["calls"].values())
        self.found[gpus].append({
            "apply": apply, "floor": floor, "ratio": apply / floor,
            "grain": sum(took for name, took in ours.items() if name.startswith("grain")), "engine": sum(ours.values()),
            "file reads": sum(sample["reads"].values()), "NVML calls": calls,
        })  # fmt: skip

    def column(self, gpus):
        """The figures as text, ``{row: text}``, in the order of the page."""
        values = {name: [found[name] for found in self.found[gpus]] for name in self.found[gpus][0]}
        middle = {name: statistics.median(numbers) for name, numbers in values.items()}
        return {
            "state.apply : floor": f"{middle['ratio']:.2f}",
            "  state.apply, floor (s)": f"{middle['apply']:.3f}, {middle['floor']:.3f}",
            "grain: median, least (ms)": f"{middle['grain']:.1f}, {min(values['grain']):.1f}",
            "engine: median, least (ms)": f"{middle['engine']:.1f}, {min(values['engine']):.1f}",
            **{name: str(self.exact(gpus, name)) for name in EXACT},
        }

    def exact(self, gpus, name):
        """A figure that must be the same in every run."""
        [value] = {found[name] for found in self.found[gpus]}
        return value


def unpacked(revision, place):
    """The files of a revision of this repository, below ``place``; raises SystemExit when git doesn't know it."""
    command = ["git", "-C", str(converged.ROOT), "archive", "--format=tar", revision]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git has no revision {revision}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(place, filter="data")
    return place


def page(checkouts):
    """Print the page; returns what got worse, as sentences."""
    columns = {(gpus, checkout.name): checkout.column(gpus) for gpus in GPUS for checkout in checkouts}
    print(" " * 28 + "".join(f"{gpus} GPUs".rjust(18) for gpus, _ in columns))
    print(" " * 28 + "".join(name[:17].rjust(18) for _, name in columns))
    for row in columns[GPUS[0], checkouts[0].name]:
        print(row.ljust(28) + "".join(column[row].rjust(18) for column in columns.values()))
    if len(checkouts) == 1:
        return []
    here, there = checkouts
    pairs = [(gpus, name, here.exact(gpus, name), there.exact(gpus, name)) for gpus in GPUS for name in EXACT]
    return [f"{gpus} GPUs: {ours} {name}, and {theirs} in {there.name}" for gpus, name, ours, theirs in pairs if ours > theirs]


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="The figures of a converged host on one page.")
    parser.add_argument("--runs", type=int, default=5, help="how often each figure is taken (default 5)")
    parser.add_argument("--against", metavar="REV", help="a revision of this repository to compare with")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gpu-slicing-") as temporary:
        place = pathlib.Path(temporary)
        checkouts = [Checkout("here", converged.ROOT, place / "here")]
        if options.against:
            other = unpacked(options.against, place / "source")
            checkouts.append(Checkout(options.against, other, place / "other"))
        for number in range(options.runs + 1):
            for checkout in checkouts:
                for gpus in GPUS:
                    checkout.measure(gpus)
                    # The first round fills the caches of bytecode.
                    if not number:
                        checkout.found[gpus].clear()
        worse = page(checkouts)
    for sentence in worse:
        print(f"WORSE: {sentence}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
