"""
A MIG layout, or a change of one, as lines of text: the GPU's memory slices and what lies on them. Pure functions.
"""

import re

from gpuslice.techniques.mig.placement import named_slices

#: Width of a memory slice when no name needs more.
_MIN_CELL = 5


def draw(table, instances, marks=None):
    """
    One line of ASCII for the GPU's memory slices: ``[3g.40gb            |1g.10gb|1g.10gb|   -   |   -   ]``.

    Where a GI is not filled by a single CI, its compute slices follow: ``3g.40gb(1c - 1c)``.

    :param table: :class:`gpuslice.catalog.mig.MigTable`.
    :param instances: iterable of :class:`.placement.Instance` or :class:`.placement.Placed`, known to the table or not.
    :param marks: dict from ``(profile, start)`` to a character that is put before the name, and from ``(profile, start, CI
        profile name, start of the CI)`` to one that is put before the CI's.
    :return: the line. Instances that overlap one already drawn, or lie outside, are named after the bracket.
    """
    instances = tuple(instances)
    return _draw(table, instances, marks or {}, _cell_width(table, instances, marks or {}))


def draw_change(table, change):
    """
    A change as two lines: kept instances are marked ``=``, destroyed ones ``x``, created ones ``+``.

    :param table: :class:`gpuslice.catalog.mig.MigTable`.
    :param change: :class:`.placement.Change`. A kept GI is marked ``=`` also when CIs inside it change, which are marked then.
    :return: ``(before, after)``, drawn with the same width.
    """
    before = {(old.profile, old.start): "=" for old, _ in change.keep}
    before.update({(old.profile, old.start): "x" for old in change.destroy})
    after = {(new.profile, new.start): "=" for _, new in change.keep}
    after.update({(new.profile, new.start): "+" for new in change.create})
    for one, other in change.keep:
        if set(one.cis) != set(other.cis):
            before.update({(one.profile, one.start, *ci): "=" if ci in other.cis else "x" for ci in one.cis})
            after.update({(one.profile, one.start, *ci): "=" if ci in one.cis else "+" for ci in other.cis})
    old = (*(pair[0] for pair in change.keep), *change.destroy)
    width = max(_cell_width(table, old, before), _cell_width(table, change.layout, after))
    return _draw(table, old, before, width), _draw(table, change.layout, after, width)


def _label(item, marks):
    return marks.get((item.profile, item.start), "") + item.profile


def _inside(table, item, marks):
    """The compute slices of a GI with its CIs, ``(1c - 1c)``; "" for a GI that one CI fills, unless that comes or goes."""
    marked = [(name, start, marks.get((item.profile, item.start, name, start), "")) for name, start in item.cis]
    if [(name, mark) for name, _, mark in marked] == [(item.profile, "")]:
        return ""
    profile = table.profile(item.profile)
    slices = {ci.name: ci.slices for ci in profile.cis} if profile else {}
    cells, position = [], 0
    for name, start, mark in sorted(marked, key=lambda ci: ci[1]):
        cells += ["-"] * (start - position)
        size = slices.get(name) or int((re.match(r"\d+", name) or ["1"])[0])
        cells.append(f"{mark}{size}c")
        position = start + size
    cells += ["-"] * ((profile.slices if profile else named_slices(item)) - position)
    return f"({' '.join(cells)})"


def _cell_width(table, instances, marks):
    """Characters a memory slice needs so that every name fits into its slices and the bars between them."""
    texts = [(len(_label(item, marks) + _inside(table, item, marks)), max(item.size, 1)) for item in instances]
    widths = [-(-(length - size + 1) // size) for length, size in texts]
    return max([_MIN_CELL, *widths])


def _draw(table, instances, marks, width):
    cells, outside, position = [], [], 0
    for item in sorted(instances, key=lambda item: (item.start, item.profile)):
        size = max(item.size, 1)
        if item.start < position or item.start + size > table.slots:
            outside.append(f"{_label(item, marks)}@{item.start}")
            continue
        cells += ["-".center(width)] * (item.start - position)
        cells.append((_label(item, marks) + _inside(table, item, marks)).ljust(size * width + size - 1))
        position = item.start + size
    cells += ["-".center(width)] * (table.slots - position)
    line = "[" + "|".join(cells) + "]"
    return f"{line} {', '.join(outside)}" if outside else line
