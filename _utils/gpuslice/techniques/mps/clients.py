"""
What each client of a daemon gets: of all the same, or by weight. Pure functions of what is noted of the daemon.

``threads`` and ``pinned_mib`` of a daemon are the limits of its heaviest client, which it has as its defaults in protocol v2.
"""

from gpuslice.outputs import mps

#: What is noted of a daemon; a layout has ``runs`` beside it.
KEYS = ("clients", "threads", "pinned_mib", "weights", "protocol")


def threads(weight, total, protocol):
    """
    A part of 100 percent, rounded down as the daemon takes it: v2 has one digit behind the point, v3 whole percents from 1.

    :param weight: of the client; :param total: of all. :param protocol: 2 or 3.
    """
    if protocol == 3:
        return float(max(1, 100 * weight // total))
    return max(1, 1000 * weight // total) / 10


def memory(mib, weight, total):
    """A part of a memory of so many MiB, None where that is not known."""
    return None if not mib else max(1, mib * weight // total)


def limits(one):
    """(percent of the multiprocessors, MiB or None) of each client of a daemon."""
    weights, heaviest = one["weights"], max(one["weights"], default=1)
    if not weights:
        return [(one["threads"], one["pinned_mib"])] * one["clients"]
    total = sum(weights)
    return [(threads(each, total, one["protocol"]), memory(one["pinned_mib"], each, heaviest)) for each in weights]


def environment(name, one):
    """The environment of each client of the daemon that shares the slice of this name."""
    if one["protocol"] == 3:
        return [mps.namespace_environment(name, number) for number in range(1, one["clients"] + 1)]
    own = one["threads"], one["pinned_mib"]
    return [mps.environment(name, *(() if each == own else each)) for each in limits(one)]


def words(one):
    """What the clients of a daemon get, in a few words."""
    told = [share_words(each) for each in limits(one)]
    return f"{told[0]} each" if len(set(told)) == 1 else ", ".join(told)


def share_words(share, of=""):
    """What one client gets, in words; :param of: what the percentage is of, where that has to be said."""
    percent, mib = share
    return f"{percent:.1f} %{of}{f' and {mib} MiB' if mib else ''}"
