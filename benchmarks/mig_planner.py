#!/usr/bin/env python3
"""
How good and how fast the MIG planner is, for every GPU model of the catalog that has a MIG table.

Every change from a layout (non-empty) to another set of profiles (non-empty) is planned, or a sample of them with a fixed
seed where there are many, and compared with an independent brute force that is in this file: it lists all legal layouts
by plain recursion and looks which one of those with the wanted profiles has most in common with the existing one.

Rows of a model:

plain   only the profiles without attributes, and without the 1g that has double memory
all     every profile of the table
mixed   every profile, with random compute instances on both sides and some wishes pinned to a memory slice

Columns: destroyed GPU instances per change when everything is cleared first, by the planner and by the brute force; changes
that need none destroyed; sets of profiles that fit and were refused; other disagreements; the processor time of a plan in
microseconds, as its median, its worst, and the worst of first plans (all caches empty).

Exit status 1 when the planner destroys another number of GPU instances than the brute force, returns an illegal layout,
refuses a set of profiles that fits, or accepts one that does not.
"""

import argparse
import gc
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_utils"))

from gpuslice import errors  # noqa: E402
from gpuslice.catalog import nvidia  # noqa: E402
from gpuslice.techniques.mig import placement  # noqa: E402

SEED = 20
#: Changes planned per row where there are more, without --full.
SAMPLE = 3000
#: Rows of up to so many changes are never sampled: the A100's 10,692 are counted exactly.
EXHAUSTIVE = 12000
HEADER = ("model", "profiles", "layouts", "shapes", "changes", "clear-all", "ours", "brute", "none %", "failed", "wrong")
TIMES = ("median us", "worst us", "cold us")
FORMAT = "{:<18} {:<8} {:>7} {:>6} {:>8} {:>9} {:>6} {:>6} {:>6} {:>6} {:>5} {:>9} {:>8} {:>8}"


@dataclass
class Row:
    """What was counted over the changes of one row."""

    existed: int = 0
    ours: int = 0
    brute: int = 0
    undisturbed: int = 0
    refused: int = 0
    wrong: int = 0
    seconds: list = field(default_factory=list)
    cold: float = 0.0


def legal_layouts(table):
    """All legal layouts of a table as frozensets of (profile name, start): brute force, shares nothing with the planner."""
    full_flow = max(p.engines[4] for p in table.profiles if p.size == table.slots)
    options = [(p, start) for p in table.profiles for start in p.starts]
    found = []

    def allowed(chosen):
        taken = [slot for p, start in chosen for slot in range(start, start + p.size)]
        if len(taken) != len(set(taken)) or sum(p.slices for p, _ in chosen) > table.compute:
            return False
        if any([q for q, _ in chosen].count(p) > p.count for p, _ in chosen):
            return False
        if full_flow and sum(p.engines[4] for p, _ in chosen) > full_flow:
            return False
        greedy = [p for p, _ in chosen if "me.all" in p.attributes]
        modest = sum("-me" in p.attributes for p, _ in chosen)
        return not greedy or (len(greedy) == 1 and modest == len(chosen) - 1)

    def extend(index, chosen):
        found.append(frozenset((p.name, start) for p, start in chosen))
        for position in range(index, len(options)):
            if allowed([*chosen, options[position]]):
                extend(position + 1, [*chosen, options[position]])

    extend(0, [])
    return found


def shape(layout):
    """The profiles of a layout, sorted, without their places."""
    return tuple(sorted(name for name, _ in layout))


def fewest_destroyed(existing, layouts, pins=()):
    """How many instances of ``existing`` the best one of ``layouts`` has not, among those that have every pin."""
    return min(len(existing - layout) for layout in layouts if layout.issuperset(pins))


def plain(table):
    """The table with one profile per number of compute slices: the one without attributes that takes least memory."""
    names = {}
    for profile in sorted(table.profiles, key=lambda p: -p.size):
        if not profile.attributes:
            names[profile.slices] = profile.name
    return replace(table, profiles=tuple(p for p in table.profiles if p.name in names.values()))


def random_cis(rng, profile):
    """A random legal list of compute instances for a GPU instance of this profile, as (name, start), at least one."""
    taken, chosen = set(), []
    options = [(ci, start) for ci in profile.cis for start in ci.starts]
    for ci, start in rng.sample(options, len(options)):
        slots = set(range(start, start + ci.slices))
        if not slots & taken and (not chosen or rng.random() < 0.7):
            taken |= slots
            chosen.append((ci.name, start))
    return tuple(chosen)


def plan(row, table, existing, wishes, expected, layouts):
    """Plan one change and count it in ``row``. ``expected``: what brute force destroys; ``layouts``: what is legal."""
    # A collection would walk the benchmark's own hundred thousands of objects: that is not the planner's time.
    gc.disable()
    begin = time.process_time()
    try:
        change = placement.solve(table, existing, wishes)
    except errors.GpuSliceError:
        row.refused += 1
        return
    finally:
        gc.enable()
    row.seconds.append(time.process_time() - begin)
    row.existed += len(existing)
    row.ours += len(change.destroy)
    row.brute += expected
    row.undisturbed += not change.destroy
    result = frozenset((placed.profile, placed.start) for placed in change.layout)
    if len(change.destroy) != expected or result not in layouts or shape(result) != tuple(sorted(w.profile for w in wishes)):
        row.wrong += 1


def measure(table, rng, sample, mixed):
    """Count all changes of a table, or ``sample`` of them (None: all). Returns (row, layouts, shapes, number of changes)."""
    layouts = legal_layouts(table)
    known = set(layouts)
    by_shape = {}
    for layout in layouts:
        by_shape.setdefault(shape(layout), []).append(layout)
    by_name = {profile.name: profile for profile in table.profiles}
    row = Row()
    for wanted in by_shape:
        forget()
        plan(row, table, [], [placement.Wish(name) for name in wanted], 0, known)
    refuse_what_does_not_fit(row, table, by_shape)
    # Changes from an empty GPU destroy nothing: they would dilute the figures, but their time is that of a first plan.
    row = Row(refused=row.refused, wrong=row.wrong, cold=max(row.seconds))
    changes = [(layout, wanted) for layout in layouts if layout for wanted in by_shape if wanted and wanted != shape(layout)]
    for layout, wanted in changes if sample is None or len(changes) <= sample else rng.sample(changes, sample):
        cis = {item: random_cis(rng, by_name[item[0]]) if mixed else () for item in sorted(layout)}
        existing = [placement.Instance(name, start, by_name[name].size, cis[name, start]) for name, start in sorted(layout)]
        pins = rng.sample(sorted(rng.choice(by_shape[wanted])), rng.randint(0, 2) if len(wanted) > 1 else 0) if mixed else []
        rest = list(wanted)
        for name, _ in pins:
            rest.remove(name)
        wishes = [placement.Wish(name, start) for name, start in pins] + [placement.Wish(name) for name in rest]
        if mixed:
            wishes = [replace(w, cis=tuple((ci, None) for ci, _ in random_cis(rng, by_name[w.profile]))) for w in wishes]
        rng.shuffle(wishes)
        plan(row, table, existing, wishes, fewest_destroyed(layout, by_shape[wanted], pins), known)
    return row, len(layouts), len(by_shape), len(changes)


def forget():
    """Empty every cache of the planner, so that the next plan is as slow as the first one of a process."""
    for thing in vars(placement).values():
        if hasattr(thing, "cache_clear"):
            thing.cache_clear()


def refuse_what_does_not_fit(row, table, by_shape):
    """Every shape with one profile more must be refused, unless it is a shape itself."""
    for wanted in by_shape:
        for profile in table.profiles:
            more = tuple(sorted((*wanted, profile.name)))
            if more in by_shape:
                continue
            try:
                placement.solve(table, [], [placement.Wish(name) for name in more])
            except errors.ProfileMismatch:
                continue
            row.wrong += 1


def main(argv=None):
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--full", action="store_true", help="plan every change instead of a sample (many minutes)")
    parser.add_argument("--model", metavar="KEY", help="one model of the catalog, such as a100-40gb")
    args = parser.parse_args(argv)
    keys = [args.model] if args.model else [key for key in nvidia.MODELS if nvidia.mig_table(key)]
    if args.model and not nvidia.mig_table(args.model):
        parser.error(f"the catalog has no MIG table for {args.model}")
    print(FORMAT.format(*HEADER, *TIMES))
    failed = False
    for key in keys:
        table = nvidia.mig_table(key)
        for label, part, mixed in (("plain", plain(table), False), ("all", table, False), ("mixed", table, True)):
            sample = None if args.full and not mixed else EXHAUSTIVE if label == "plain" else SAMPLE
            row, layouts, shapes, changes = measure(part, random.Random(SEED), sample, mixed)
            planned = len(row.seconds)
            times = [seconds * 1e6 for seconds in row.seconds]
            print(
                FORMAT.format(
                    *(key, label, layouts, shapes, changes if planned == changes else f"{planned}*"),
                    *(f"{total / planned:.2f}" for total in (row.existed, row.ours, row.brute)),
                    *(f"{100 * row.undisturbed / planned:.1f}", row.refused, row.wrong),
                    *(f"{value:.0f}" for value in (statistics.median(times), max(times), row.cold * 1e6)),
                ),
                flush=True,
            )
            failed = failed or row.wrong > 0 or row.refused > 0
    print("destroyed GPU instances are per change; layouts and shapes include the empty one; * = a sample of the changes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
