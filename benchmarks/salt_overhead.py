#!/usr/bin/env python3
"""
What ``state.apply gpu_slicing`` costs on a converged host, beside what Salt costs by itself.

The real ``salt-call --local`` runs on a simulated DGX H100 whose 8 GPUs have 7 x 1g.10gb each, as its pillar says, with the
project delivered by the file server and synchronised before. Three calls take turns, so that a busy machine slows all alike:

converged   ``state.apply gpu_slicing``: discovery, slicing, validation
floor       ``state.apply floor``, one ``test.nop``, on the same minion
bare        the same ``floor`` on a minion that has never heard of the project

The ratio to be small is converged : floor, both as the median and as the least of each. After it come the engine's parts, the
NVML calls and the change on eight GPUs of :mod:`converged`, which needs no Salt and can be run alone.

Exit status 1 when a call fails or changes something.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import converged
import yaml

CALLS = {"converged": ("minion", "gpu_slicing"), "floor": ("minion", "floor"), "bare": ("bare", "floor")}
#: The ratio that the project aims at.
AIM = 1.25


class Minion:
    """
    A minion without a master.

    :param place: directory of everything that is its own. :param roots: its file roots. :param config: ``gpu_slicing`` of
        its configuration.
    """

    def __init__(self, place, roots, config=None):
        self._config = place / "conf"
        self._config.mkdir(parents=True)
        pillar_root, state_root = place / "pillar", place / "floor"
        _write(pillar_root / "top.sls", {"base": {"*": ["host"]}})
        _write(pillar_root / "host.sls", converged.pillar(converged.CONVERGED))
        _write(state_root / "floor.sls", {"floor": "test.nop"})
        options = {
            "id": "benchmark",
            "root_dir": str(place),
            "file_client": "local",
            "log_level": "error",
            "file_roots": {"base": [*map(str, roots), str(state_root)]},
            "pillar_roots": {"base": [str(pillar_root)]},
            # Slow on machines without a name server, and the same for all.
            "enable_fqdns_grains": False,
            "gpu_slicing": config or {},
        }
        _write(self._config / "minion", options)

    def call(self, *args):
        """Run salt-call. Returns (seconds, what it printed as data); raises SystemExit when it failed."""
        program = pathlib.Path(sys.executable).parent / "salt-call"
        argv = [str(program), "--local", "--config-dir", str(self._config), "--out", "json", "--retcode-passthrough", *args]
        begun = time.perf_counter()
        done = subprocess.run(argv, capture_output=True, text=True, env=converged.environment(), cwd="/", check=False)
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{' '.join(args)} failed: {done.stdout}{done.stderr}")
        return seconds, json.loads(done.stdout[done.stdout.index("{") :])["local"]


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")


def timed(minion, sls):
    """Seconds of one ``state.apply``; raises SystemExit when a state of it changed something."""
    seconds, states = minion.call("state.apply", sls)
    changed = [name for name, state in states.items() if state["changes"] or state["result"] is not True]
    if changed:
        raise SystemExit(f"{sls} was to change nothing, but did: {', '.join(changed)}")
    return seconds


def measure(place, runs):
    """Seconds of each kind of call, ``{name: [seconds]}``."""
    place = pathlib.Path(place)
    root, config = converged.deliver(place), converged.describe(place)
    minions = {"minion": Minion(place / "minion", [root, root / "states"], config), "bare": Minion(place / "bare", [])}
    minions["minion"].call("saltutil.sync_all")
    minions["minion"].call("state.apply", "gpu_slicing")
    found = {name: [] for name in CALLS}
    # The first round fills the caches of bytecode.
    for number in range(runs + 1):
        for name, (minion, sls) in CALLS.items():
            seconds = timed(minions[minion], sls)
            if number:
                found[name].append(seconds)
    return found


def report(found):
    """Print the calls and their ratios."""
    print(f"salt-call --local state.apply, {len(found['floor'])} runs of each in turn (s)   median   least   beside floor")
    middle, least = ({name: how(values) for name, values in found.items()} for how in (statistics.median, min))
    for name in CALLS:
        ratios = f"{middle[name] / middle['floor']:.2f} / {least[name] / least['floor']:.2f}"
        print(f"  {name:<58} {middle[name]:>6.3f}  {least[name]:>6.3f}   {ratios}")
    pairs = statistics.median(one / other for one, other in zip(found["converged"], found["floor"], strict=True))
    verdict = "reached" if pairs <= AIM else "missed"
    print(f"  RATIO converged : floor, median of the pairs: {pairs:.2f} (aim {AIM} or less: {verdict})\n")


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="What a converged host costs above Salt's own floor.")
    parser.add_argument("--runs", type=int, default=11, help="runs of each call (default 11)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gpu-slicing-") as place:
        sys.path.insert(0, str(converged.ROOT / "_utils"))
        report(measure(place, options.runs))
    return converged.main(["--runs", str(options.runs)])


if __name__ == "__main__":
    sys.exit(main())
