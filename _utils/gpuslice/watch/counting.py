"""
What is counted of a GPU, from look to look: only what was added since the last one is news.
"""

from gpuslice.watch.judge import Reset

#: Counter -> (code, what is counted, whether the driver counts it).
_COUNTED = {
    "ecc_uncorrected": ("nvidia-uncorrectable-ecc", "uncorrected ECC errors", True),
    "ras_uncorrected": ("amd-uncorrectable-ras", "uncorrected errors of memory or engines", True),
    "aer_fatal": ("pci-aer-fatal", "fatal PCIe errors", False),
    "aer_nonfatal": ("pci-aer-nonfatal", "PCIe errors that were not fatal", False),
}
#: Codes of findings that are counts of errors: how many there are in all is no news.
CODES = frozenset(code for code, _, _ in _COUNTED.values())


def compared(before, signs, moment):
    """
    (counters as they are kept, what was added since the last look: :class:`.condition.Condition` and :class:`.judge.Reset`).

    :param before: as the last look left them, by PCI address; :param signs: PCI address -> :class:`gpuslice.health.signs.Signs`.
    :param moment: of this look, a :class:`.condition.Moment`.
    """
    kept, seen = dict(before), []
    for gpu, found in signs.items():
        last = kept.get(gpu)
        old = last["counts"] if last and last["boot"] == moment.boot else {}
        seen += [*_added(gpu, old, found.counters, moment), *_narrower(gpu, old, found.counters, moment)]
        # What can't be read now is compared when it can be.
        counts = {**old, **found.counters}
        if old.get("link_width", 0) > counts.get("link_width", 0):
            counts["link_width"] = old["link_width"]
        if counts:
            kept[gpu] = {"boot": moment.boot, "counts": counts}
    return kept, seen


def _added(gpu, old, now, moment):
    for name, (code, words, of_driver) in _COUNTED.items():
        if name not in now:
            continue
        # What the driver counts begins with it; what the bus counts may be of long ago, and is where we begin.
        before = old.get(name, 0 if of_driver else now[name])
        if now[name] < before:
            # It began anew: so did the driver, or the device was reset.
            yield Reset(gpu)
            before = 0
        if added := now[name] - before:
            yield moment.condition(gpu, code, f"{added} {words} since the last look, {now[name]} in all")


def _narrower(gpu, old, now, moment):
    width, widest = now.get("link_width"), old.get("link_width")
    if width and widest and width < widest:
        words = f"its PCIe link has {width} lanes, and had {widest}"
        yield moment.condition(gpu, "pci-link-narrower", words, "Check how the board sits in its slot.")


def rows(before, signs, now):
    """
    Remapped memory rows as they are kept: those that can be read now, and of the others what was read last.

    :param before: :param signs: as of :func:`compared`; :param now: seconds since the epoch.
    """
    read = {gpu: found.rows for gpu, found in signs.items() if found.rows is not None}
    return {**before, **{gpu: {"time": now, "rows": list(each)} for gpu, each in read.items()}}
