"""
What each virtual function is to get, and what it has: shares of a physical function as numbers, whichever driver and kernel made
the files that say them (see :mod:`gpuslice.drivers.sriov_files`).

A value is an int, or a word for a priority. Memory is in bytes.
"""

import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers.sriov_files import QUOTAS
from gpuslice.drivers.sriov_files import SCHEDULING

#: Quota -> what the pillar calls it and its unit in bytes (or pieces).
PILLAR_QUOTAS = {
    "vram": ("vram_mib", 2**20),
    "ggtt": ("ggtt_mib", 2**20),
    "contexts": ("contexts", 1),
    "doorbells": ("doorbells", 1),
}
#: How far a quota may be from what was written, as drivers round to their alignment.
_SLACK = {"vram": 4 * 2**20, "ggtt": 2**20}
#: Address space of one tile that virtual functions can share, in bytes: the vendor's presets give out no more.
_GGTT = 3840 * 2**20
#: Contexts that the vendor's presets give each VF. The driver's own division never gives so few to so few VFs.
_CONTEXTS = 1024


def provisioning(files, values, numvfs):
    """
    Who divided the GPU: ``fair`` (the driver), ``custom`` (somebody wrote quotas), ``unknown``.

    The driver gives every VF the same, and of contexts and doorbells always a power of two that its number decides; what the
    vendor's presets give of these never is that.
    """
    if files.switch:
        return "fair" if values.get(files.switch) else "custom"
    quotas = [(a, values.get(a.path, 0)) for a in files.attributes if a.field in QUOTAS]
    if not numvfs:
        return "custom" if any(value for _, value in quotas) else "fair"
    mine = [(a, value) for a, value in quotas if a.owner <= numvfs]
    per_file = {}
    for a, value in mine:
        per_file.setdefault((a.field, _part(a)), set()).add(value)
    if any(len(different) > 1 for different in per_file.values()):
        return "custom"
    if not files.telling:
        return "unknown" if any(value for _, value in mine) else "fair"
    fair = {"contexts": power_of_two(intel.XE_FAIR["contexts"] // numvfs)}
    fair["doorbells"] = power_of_two(intel.XE_FAIR["doorbells"] // (numvfs + 1))
    as_fair = [value == fair[a.field] for a, value in mine if a.field in fair]
    return "fair" if all(as_fair) else "custom"


def _part(attribute):
    """Which of several files of one field it is: the path without the VF's number."""
    return attribute.path.replace(f"vf{attribute.owner}/", "vf/")


def power_of_two(number):
    """The largest power of two up to a number from 1 on."""
    return 1 << (number.bit_length() - 1)


def close(field, value, wanted):
    """Whether a value is the wanted one, as far as the driver's rounding lets it be."""
    if field in _SLACK and wanted:
        return isinstance(value, int) and value > 0 and abs(value - wanted) <= _SLACK[field]
    return value == wanted


# -- what each VF is to get ------------------------------------------------------------------------------------------
class Wish(NamedTuple):
    """
    What a request comes to.

    :ivar quotas: VF number -> {field: value}, {} where the driver divides.
    :ivar schedule: VF number (0 the PF) -> {field: value}.
    :ivar note: a sentence for the plan.
    """

    quotas: dict
    schedule: dict
    note: str = ""


def wish(gpu, files, settings, usable):
    """
    What a pillar's ``sriov`` settings come to on one GPU.

    :param files: its :class:`Files`, None where the kernel has none. :param usable: bytes of memory that VFs can share, None when
        unknown.
    :raises errors.Unsupported: a file for something that was asked for is missing.
    :raises errors.ProfileMismatch: more than there is, or a profile that the vendor has not for this GPU.
    """
    count = settings["vf_count"]
    own = {int(number): values for number, values in settings.get("vfs", {}).items()}
    if not count:
        return Wish({}, {})
    policy, preset = _policy(gpu, settings["profile"], count)
    if files is None:
        return _without_files(gpu, settings, own)
    schedule = _schedule(gpu, files, policy, count, settings["scheduling"], own)
    quotas, note = _quotas(gpu, files, preset, count, own, usable)
    return Wish(quotas, schedule, note)


def _policy(gpu, profile, count):
    """(name of the scheduling policy or "", the vendor's preset or None) of a profile."""
    preset = intel.preset(gpu.device_id, count) if gpu.vendor == "intel" else None
    if profile == "fair" or (profile == "auto" and preset is None):
        return "", None
    if preset is None:
        raise errors.ProfileMismatch(
            f"The vendor has no preset {profile} for {gpu.model} with {count} virtual functions.",
            gpu.address,
            "Use 'profile: fair' (the driver's equal shares) and, where wanted, scheduling of your own.",
        )
    if profile == "auto":
        return preset["scheduler"], preset
    if intel.MODELS.get(gpu.catalog_key, {}).get("family") == "PVC" and profile != preset["scheduler"]:
        raise errors.ProfileMismatch(
            f"{gpu.model} takes the profile {preset['scheduler']} only, not {profile}.", gpu.address, "Use that one, or fair."
        )
    return profile, preset


def _without_files(gpu, settings, own):
    asked = [key for key, value in settings["scheduling"].items() if value is not None]
    asked += sorted({key for values in own.values() for key, value in values.items() if value is not None})
    asked += [f"profile {settings['profile']}"] if settings["profile"] not in ("auto", "fair") else []
    if asked:
        raise errors.Unsupported(
            f"The kernel has no files to set {', '.join(asked)} of virtual functions.", gpu.address, WHICH_KERNELS
        )
    return Wish({}, {}, "the driver divides the GPU equally: the kernel has no files to say otherwise")


WHICH_KERNELS = (
    "The xe driver has sriov_admin since Linux 6.19 (vram_quota since 7.0) and, before, debugfs, which Secure Boot "
    "hides; the i915 backport has prelim_iov. Without them use 'profile: fair'."
)


def _schedule(gpu, files, policy, count, common, own):
    """VF number (0 the PF) -> {field: value}; a field that no file has is an error only where it was asked for by name."""
    asked = {key: value for key, value in common.items() if value is not None}
    found = {}
    if policy:
        family = intel.MODELS.get(gpu.catalog_key, {}).get("family", "")
        pairs = {0: intel.pf_schedule(policy, family), **dict.fromkeys(range(1, count + 1), intel.vf_schedule(policy, count))}
        found = {
            owner: _known(files, owner, {"exec_quantum_ms": quantum, "preempt_timeout_us": timeout})
            for owner, (quantum, timeout) in pairs.items()
        }
        found[0].update(_idle(files, "normal" if intel.SCHEDULERS[policy] else "low"))
    for number in range(1, count + 1):
        mine = {**asked, **{key: value for key, value in own.get(number, {}).items() if value is not None and key in SCHEDULING}}
        mine.pop("priority", None)
        _need(gpu, files, mine)
        found.setdefault(number, {}).update(mine)
    if "priority" in asked:
        told = _idle(files, asked["priority"])
        if not told:
            _need(gpu, files, {"priority": asked["priority"]})
        found.setdefault(0, {}).update(told)
    return {owner: values for owner, values in found.items() if values}


def _known(files, owner, values):
    fields = files.fields(owner)
    return {field: value for field, value in values.items() if field in fields}


def _idle(files, priority):
    """Whether a turn is kept for a function that has nothing to do: the two names that drivers have for it."""
    fields = files.fields(0)
    if "priority" in fields:
        return {"priority": priority}
    return {"sched_if_idle": int(priority == "normal")} if "sched_if_idle" in fields else {}


def _need(gpu, files, values):
    missing = sorted(set(values) - files.fields())
    if missing:
        raise errors.Unsupported(
            f"The kernel's {files.layout} files have none to set {', '.join(missing)} of a virtual function.",
            gpu.address,
            WHICH_KERNELS,
        )


def _quotas(gpu, files, preset, count, own, usable):
    """(VF number -> {field: value}, note): {} where nobody asked for quotas, so that the driver divides."""
    asked = {}
    for number, values in own.items():
        given = {field: values[key] * unit for field, (key, unit) in PILLAR_QUOTAS.items() if values.get(key) is not None}
        if given:
            asked[number] = given
    _need_quotas(gpu, files, asked)
    if count == 1:
        _refuse_remainder(gpu, files, asked.get(1, {}))
    if not asked and (preset is None or not files.complete or not set(QUOTAS) - {"vram"} <= files.fields()):
        return {}, "the driver divides the GPU's memory equally" if preset else ""
    fields = files.fields() & set(QUOTAS)
    if not files.complete:
        fields = {field for values in asked.values() for field in values}
    totals = _totals(files, usable)
    found = {number: {} for number in range(1, count + 1)}
    for field in sorted(fields):
        given = {number: values[field] for number, values in asked.items() if field in values}
        for number, value in _divided(
            gpu, field, totals.get(field), count, given, _preset_value(preset, field, count, usable)
        ).items():
            found[number][field] = value
    return found, ""


def _need_quotas(gpu, files, asked):
    missing = sorted({field for values in asked.values() for field in values} - files.fields())
    if not missing:
        return
    if missing == ["vram"] and gpu.memory_mib is None:
        raise errors.Unsupported(
            f"{gpu.model} has no memory of its own that could be divided: it uses the system's.",
            gpu.address,
            "Leave out vram_mib.",
        )
    names = ", ".join(PILLAR_QUOTAS[field][0] for field in missing)
    raise errors.Unsupported(f"The kernel's {files.layout} files have none to set {names}.", gpu.address, WHICH_KERNELS)


def _refuse_remainder(gpu, files, given):
    """A single VF has every tile, and of each the same number of pieces. Memory is rounded by the driver anyway."""
    for field, value in given.items():
        if field in ("contexts", "doorbells") and value % files.tiles:
            raise errors.ProfileMismatch(
                f"vf1 is to have {value} {field}, which can't be divided equally among the {files.tiles} tiles of {gpu.model}.",
                gpu.address,
                f"Give {value - value % files.tiles} or {value - value % files.tiles + files.tiles}.",
            )


def _totals(files, usable):
    """What there is of each quota on the whole GPU; None when unknown."""
    tiles = files.tiles
    return {
        "vram": usable,
        "ggtt": _GGTT * tiles,
        "contexts": intel.XE_FAIR["contexts"] * tiles,
        "doorbells": intel.XE_FAIR["doorbells"] * tiles,
    }


def _preset_value(preset, field, count, usable):
    if preset is None:
        return None
    if field != "vram":
        return preset[field]
    # With ECC on, a part of the memory is gone: then the vendor's other number is the one that fits.
    fits = usable is None or preset["lmem"] * count <= usable
    return preset["lmem"] if fits else preset["lmem_ecc"]


def _divided(gpu, field, total, count, given, preset):
    """VF number -> value: what was given, and for the others the preset or an equal part of what is left."""
    name, unit = PILLAR_QUOTAS[field]
    rest = [number for number in range(1, count + 1) if number not in given]
    # The driver rounds each up to its alignment, so that is what they take.
    step = intel.XE_FAIR["vram_align"] if field == "vram" else 1
    taken = sum(-(-value // step) * step for value in given.values())
    if total is not None and taken > total:
        raise _too_much(gpu, name, unit, given, total)
    if not rest:
        return given
    if preset is not None and (total is None or not given):
        share = preset
    elif total is None:
        raise errors.ProfileMismatch(
            f"{name} is given for {_numbers(given)} but not for {_numbers(rest)}, and how much this GPU has is not known.",
            gpu.address,
            "Give it for every virtual function.",
        )
    else:
        share = _equal(field, (total - taken) // len(rest))
    if not share:
        raise _too_much(gpu, name, unit, given, total, rest)
    return {**dict.fromkeys(rest, share), **given}


def _equal(field, share):
    if field in ("vram", "ggtt"):
        return share // intel.XE_FAIR["vram_align"] * intel.XE_FAIR["vram_align"]
    return min(share, _CONTEXTS) if field == "contexts" else share


def _too_much(gpu, name, unit, given, total, rest=()):
    listed = " + ".join(str(value // unit) for _, value in sorted(given.items()))
    left = f", which leaves nothing for {_numbers(rest)}" if rest else ""
    return errors.ProfileMismatch(
        f"The virtual functions are to have {name} {listed} = {sum(given.values()) // unit} in all, and the GPU has "
        f"{total // unit} to give{left}.",
        gpu.address,
        "Give less.",
    )


def _numbers(numbers):
    return ", ".join(f"vf{number}" for number in sorted(numbers))


# -- from VFs to files -----------------------------------------------------------------------------------------------
def values_of(files, found, count):
    """
    path -> value of each file, out of what each VF is to get.

    A GPU with two tiles gives each VF to one of them in turn, and both to a single VF.
    """
    made = {}
    for a in files.attributes:
        mine = {**found.quotas.get(a.owner, {}), **found.schedule.get(a.owner, {})}
        if a.field not in mine:
            continue
        value = mine[a.field]
        if a.field in QUOTAS and files.tiles > 1:
            value = value // files.tiles if count == 1 else value * (a.tile == a.owner % files.tiles)
        made[a.path] = value
    return made


def shares(files, values, numvfs):
    """VF number -> {field: value} as files say it: memory of tiles added up, other values of the first file that has them."""
    made = {number: {} for number in range(numvfs + 1)}
    for a in files.attributes:
        if a.owner > numvfs:
            continue
        value, mine = values.get(a.path, a.default), made[a.owner]
        if a.field in ("vram", "ggtt"):
            mine[a.field] = mine.get(a.field, 0) + value
        elif not mine.get(a.field):
            mine[a.field] = value
    return made


_OWNER = re.compile(r"(?:^|/)(pf|vf[0-9]+|\.bulk_profile)(?:/|$)")
#: Directories that say nothing to a reader: the only tile or engine block, or the main one of several.
_PLAIN = re.compile(r"^(?:sriov|profile|policies|tile0|gt0?)$")


def describe(values):
    """
    path -> value in words by function: ``{"pf": "exec_quantum_ms 20", "vf1-vf5": "lmem_quota 3200 MiB, ..."}``.

    Functions that follow one another and have the same are told once.
    """
    found = {}
    for path, value in values.items():
        owner = _OWNER.search(path)
        who = "pf" if owner is None or owner[1].startswith(".") else owner[1]
        *places, name = _OWNER.sub("/", path, 1).strip("/").split("/")
        where = " ".join(place for place in places if not _PLAIN.match(place))
        found.setdefault(who, []).append(f"{where + ' ' if where else ''}{name} {amount(name, value)}")
    order = sorted(found, key=lambda who: int(who[2:] or 0) if who != "pf" else 0)
    return _grouped({who: ", ".join(sorted(set(found[who]))) for who in order})


def amount(name, value):
    """A value in words: memory in MiB."""
    is_memory = name in ("vram", "ggtt", "lmem_quota", "vram_quota", "ggtt_quota") and isinstance(value, int)
    return f"{value / 2**20:g} MiB" if is_memory else str(value)


def _grouped(words):
    groups = []
    for name, text in words.items():
        if groups and groups[-1][2] == text and name != "pf":
            groups[-1][1] = name
        else:
            groups.append([name, name, text])
    return {first if first == last else f"{first}-{last}": text for first, last, text in groups}
