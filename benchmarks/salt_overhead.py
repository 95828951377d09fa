#!/usr/bin/env python3
"""
What ``state.apply gpu_slicing`` costs on a converged host, beside what Salt costs by itself.

The real ``salt-call --local`` runs on a simulated DGX H100 whose 8 GPUs have 7 x 1g.10gb each, as its pillar says, with the
project delivered by the file server and synchronised before. The calls take turns, so that a busy machine slows all alike:

converged   ``state.apply gpu_slicing``: discovery, slicing, validation
floor       ``state.apply floor``, one ``test.nop``, on a minion with the project
bare        the same ``floor`` on a minion that has never heard of the project

and the same three as a highstate (``state.apply`` without a name), which also synchronises all modules first and, with Salt's
default ``clean_dynamic_modules: True``, removes their bytecode each time, so that they are compiled anew in every run.

The ratio to be small is converged : floor, the median of pairs of neighbouring runs. After it come the engine's parts, the NVML
calls and the change on eight GPUs of :mod:`converged`, which needs no Salt and can be run alone.

Exit status 1 when a call fails or changes something.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import yaml

# Also when it is not run as a script.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import converged  # noqa: E402

#: Kind of call -> name -> (minion, arguments of state.apply).
CALLS = {
    "state.apply": {"converged": ("sliced", ["gpu_slicing"]), "floor": ("sliced", ["floor"]), "bare": ("bare", ["floor"])},
    "highstate": {"converged": ("sliced", []), "floor": ("idle", []), "bare": ("bare", [])},
}
#: The ratio that the project aims at.
AIM = 1.25


class Minion:
    """
    A minion without a master.

    :param place: directory of everything that is its own. :param roots: its file roots. :param top: the SLS of its highstate.
    :param config: ``gpu_slicing`` of its configuration. :param pillar: its pillar root, None for one GPU layout that all have.
    """

    def __init__(self, place, roots=(), top="floor", config=None, pillar=None):
        self._config = place / "conf"
        self._config.mkdir(parents=True)
        pillar_root, state_root = place / "pillar", place / "floor"
        _write(pillar_root / "top.sls", {"base": {"*": ["host"]}})
        _write(pillar_root / "host.sls", converged.pillar(converged.CONVERGED))
        _write(state_root / "floor.sls", {"floor": "test.nop"})
        _write(state_root / "top.sls", {"base": {"*": [top]}})
        options = {
            "id": "benchmark",
            "root_dir": str(place),
            "file_client": "local",
            "log_level": "error",
            "file_roots": {"base": [*map(str, roots), str(state_root)]},
            "pillar_roots": {"base": [str(pillar or pillar_root)]},
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


def timed(minion, arguments):
    """Seconds of one ``state.apply``; raises SystemExit when a state of it changed something."""
    seconds, states = minion.call("state.apply", *arguments)
    changed = [name for name, state in states.items() if state["changes"] or state["result"] is not True]
    if changed:
        raise SystemExit(f"{arguments or 'the highstate'} was to change nothing, but did: {', '.join(changed)}")
    return seconds


def prepare(place):
    """The minions, by name; the host of all that know the project is sliced."""
    place = pathlib.Path(place)
    root, config = converged.deliver(place), converged.describe(place)
    roots = [root, root / "states"]
    minions = {
        "sliced": Minion(place / "sliced", roots, "gpu_slicing", config),
        "idle": Minion(place / "idle", roots, "floor", config),
        "bare": Minion(place / "bare"),
    }
    for minion in minions.values():
        minion.call("saltutil.sync_all")
    minions["sliced"].call("state.apply", "gpu_slicing")
    return minions


def measure(minions, calls, runs):
    """Seconds of each of these calls in turn, ``{name: [seconds]}``."""
    found = {name: [] for name in calls}
    # The first round fills the caches of bytecode.
    for number in range(runs + 1):
        for name, (minion, arguments) in calls.items():
            seconds = timed(minions[minion], arguments)
            if number:
                found[name].append(seconds)
    return found


def report(kind, found):
    """Print the calls of one kind and their ratios."""
    print(
        f"salt-call --local, {kind}, {len(found['floor'])} runs of each in turn (s)".ljust(61) + "median   least   beside floor"
    )
    middle, least = ({name: how(values) for name, values in found.items()} for how in (statistics.median, min))
    for name in found:
        ratios = f"{middle[name] / middle['floor']:.2f} / {least[name] / least['floor']:.2f}"
        print(f"  {name:<58} {middle[name]:>6.3f}  {least[name]:>6.3f}   {ratios}")
    ratio = statistics.median(one / other for one, other in zip(found["converged"], found["floor"], strict=True))
    print(f"  RATIO converged : floor {ratio:.2f} (aim {AIM} or less: {'reached' if ratio <= AIM else 'missed'})\n")


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="What a converged host costs above Salt's own floor.")
    parser.add_argument("--runs", type=int, default=11, help="runs of each call (default 11)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gpu-slicing-") as place:
        sys.path.insert(0, str(converged.ROOT / "_utils"))
        minions = prepare(place)
        for kind, calls in CALLS.items():
            report(kind, measure(minions, calls, options.runs))
    return converged.main(["--runs", str(options.runs)])


if __name__ == "__main__":
    sys.exit(main())
