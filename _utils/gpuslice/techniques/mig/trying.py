"""
What of MIG can be tried on a GPU that its owner can spare: each profile in each place, as many as fit, each divided; and what the
catalog says of the model beside what its driver says.
"""

from gpuslice.catalog import nvidia
from gpuslice.techniques.base import Fact
from gpuslice.techniques.base import Trial
from gpuslice.techniques.base import Trials

#: MIG is on and nothing is cut.
_BASE = {"layout": {"enabled": True, "instances": []}}


def trials(table):
    """
    What is tried of these profiles.

    :param table: :class:`gpuslice.catalog.mig.MigTable`.
    """
    profiles = [profile for profile in table.profiles if profile.starts]
    each = [_placed(profile, start) for profile in profiles for start in profile.starts]
    each += [_filled(profile) for profile in profiles if profile.count > 1]
    each += [_divided(profile, count) for profile in profiles if (count := _smallest(profile)) > 1]
    each.append(Trial("MIG mode off", {"enabled": False}))
    return Trials(_BASE, tuple(each), monitors=True, **_long(profiles))


def _placed(profile, start):
    return Trial(f"{profile.name} at {start}", _asked((profile.name, start, 1)))


def _filled(profile):
    return Trial(f"{profile.count} x {profile.name}", _asked((profile.name, None, profile.count)))


def _divided(profile, count):
    return Trial(f"{profile.name} with {count} compute instances", _asked((profile.name, None, 1), compute_instances=count))


def _smallest(profile):
    """How many compute instances of one slice a profile can have, 0 where it has none of these."""
    return next((ci.count for ci in profile.cis if ci.slices == 1), 0)


def _long(profiles):
    """Two of the smallest, and what takes the place of the second one."""
    smallest = min(profiles, key=lambda profile: (profile.size, profile.slices, profile.attributes), default=None)
    if smallest is None:
        return {}
    first, *others = smallest.starts
    second = next((start for start in others if start >= first + smallest.size), None)
    if second is None or smallest.count < 2:
        # The instance and its compute instance are two steps as well.
        return {"long": _placed(smallest, first)}
    both = Trial(
        f"2 x {smallest.name}, at {first} and {second}", _asked((smallest.name, first, 1), (smallest.name, second, 1))
    )
    return {"long": both, "rival": _asked((smallest.name, second, 1))}


def _asked(*entries, compute_instances=1):
    return {"entries": [list(entry) for entry in entries], "compute_instances": compute_instances}


def facts(gpu, told):
    """
    The catalog's profiles of a model beside the driver's; [] for a model that the catalog does not know.

    :param told: :class:`gpuslice.catalog.mig.MigTable` of the driver, None where it tells none.
    """
    known = nvidia.mig_table(gpu.catalog_key) if gpu.catalog_key else None
    if known is None or told is None:
        return []
    found = [Fact("memory slices", known.slots, told.slots), Fact("compute slices", known.compute, told.compute)]
    for profile in known.profiles:
        found += _of_profile(profile, told.by_id(profile.id))
    more = [profile for profile in told.profiles if known.by_id(profile.id) is None]
    return found + [Fact(f"profile of id {profile.id}", None, profile.name) for profile in more]


def _of_profile(known, told):
    if told is None:
        return [Fact(f"profile of id {known.id}", known.name, None)]
    return [
        Fact(f"{known.name}: name", known.name, told.name),
        Fact(f"{known.name}: id", known.id, told.id),
        Fact(f"{known.name}: compute slices", known.slices, told.slices),
        Fact(f"{known.name}: memory slices", known.size, told.size),
        Fact(f"{known.name}: places", list(known.starts), list(told.starts)),
        Fact(f"{known.name}: at most", known.count, told.count),
        Fact(f"{known.name}: memory in MiB", known.memory_mib, told.memory_mib),
    ]
