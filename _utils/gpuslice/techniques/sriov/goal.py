"""
What is wanted of the virtual functions of a PF against what there is: pure parts of :mod:`gpuslice.techniques.sriov.technique`.
"""

from types import MappingProxyType
from typing import NamedTuple

from gpuslice.drivers.sriov_files import QUOTAS
from gpuslice.techniques.sriov import shares

#: What the kernel does with new VFs when nobody says otherwise.
AUTOPROBE = 1


class SriovState(NamedTuple):
    """
    What a PF is now.

    :ivar driver: of the PF, "" for none; :ivar total: the most VFs; :ivar numvfs: VFs now.
    :ivar autoprobe: 0 or 1; None where the kernel is too old to have it, which is as 1.
    :ivar addresses: PCI addresses of the VFs, in order.
    :ivar files: :class:`gpuslice.drivers.sriov_files.Files` or None; :ivar values: path -> value, without defaults.
    :ivar option: number of VFs in our own module option, None where it is not there.
    """

    driver: str
    total: int
    numvfs: int
    autoprobe: int | None
    addresses: tuple = ()
    files: object = None
    values: dict = MappingProxyType({})
    option: int | None = None


class Goal(NamedTuple):
    """
    What is wanted.

    :ivar provisioning: ``fair`` (the driver divides), ``custom`` (``values`` has all quotas), ``off`` (nothing is divided).
    :ivar values: path -> value of every file that matters.
    """

    numvfs: int
    autoprobe: int
    provisioning: str
    values: dict
    note: str = ""


def hosts_driver_takes(autoprobe):
    """Whether the host's driver takes new VFs: a kernel that has no file for it always lets it."""
    return autoprobe is None or bool(autoprobe)


def leftover(state, goal):
    """Files of the turns of VFs that there will be no more of: some drivers keep what was written there."""
    attributes = state.files.attributes if state.files else ()
    gone = (a for a in attributes if a.owner > goal.numvfs and a.field not in QUOTAS)
    return [a for a in gone if a.path in state.values and a.path not in goal.values]


def doubt(gpu, state, goal):
    """
    A sentence where VFs have far less than equal shares would be and the kernel does not tell who gave it to them. It is no
    reason to make them anew: the driver divides what is free at the time.
    """
    if goal.provisioning != "fair" or not state.files or not gpu.memory_mib:
        return ""
    if shares.provisioning(state.files, state.values, state.numvfs) != "unknown":
        return ""
    has = shares.shares(state.files, state.values, state.numvfs)[1].get("vram", 0) // 2**20
    share = gpu.memory_mib // state.numvfs
    if not 0 < has < share // 2:
        return ""
    return (
        f"left as it is: each has {has} MiB, where equal shares would be about {share} MiB; the kernel does not tell whether the "
        "driver or somebody else divided it. Remove the virtual functions to have it divided anew"
    )


def close(state, goal, attribute):
    """Whether a file says what is wanted of it, as far as the driver's rounding lets it."""
    return shares.close(attribute.field, state.values.get(attribute.path, attribute.default), goal.values[attribute.path])


def must_be_made_anew(state, goal):
    """Whether VFs have to go and come again: running ones keep their quotas, and one that was lost stays lost."""
    if goal.numvfs != state.numvfs or goal.numvfs != len(state.addresses):
        return True
    files = state.files
    if files is None:
        return False
    if goal.provisioning == "custom":
        return any(a.field in QUOTAS and a.path in goal.values and not close(state, goal, a) for a in files.attributes)
    now = shares.provisioning(files, state.values, state.numvfs)
    return now == "custom"


def earlier(state, layout):
    """The goal that an earlier layout is."""
    numvfs, values, files = layout["numvfs"], layout.get("values", {}), state.files
    if files is None or "provisioning" not in layout:
        return Goal(numvfs, layout.get("autoprobe", AUTOPROBE), "fair" if numvfs else "off", {})
    everything = {a.path: values.get(a.path, a.default) for a in files.attributes}
    if layout["provisioning"] == "fair":
        quotas = {a.path for a in files.attributes if a.field in QUOTAS}
        # Without functions there is no division to write again: what an interrupted change wrote of one is taken back.
        again = numvfs and numvfs == state.numvfs and any(state.values.get(p, 0) != values.get(p, 0) for p in quotas)
        if not again:
            # The driver divides anew as it did: only what it does not decide is written.
            left = {path: value for path, value in everything.items() if path not in quotas}
            return Goal(numvfs, layout["autoprobe"], "fair" if numvfs else "off", left)
    return Goal(numvfs, layout["autoprobe"], "custom", everything)


def after(state, goal, anew):
    """The values that are expected afterwards, as far as they can be known before."""
    if state.files is None:
        return {}
    by_path = state.files.by_path()
    kept = {p: v for p, v in state.values.items() if not anew or p not in by_path or not by_path[p].owner}
    kept = {p: v for p, v in kept.items() if p not in {a.path for a in leftover(state, goal)}}
    made = {**kept, **goal.values}
    if state.files.switch:
        made[state.files.switch] = int(goal.provisioning != "custom")
    return {p: v for p, v in made.items() if p not in by_path or v != by_path[p].default}


def exported(files, layout):
    """The pillar's ``vfs`` and ``scheduling`` of a layout: turns of each VF, and its quotas where they were written."""
    custom = layout.get("provisioning") == "custom"
    made = {}
    own = shares.shares(files, layout["values"], 0)[0]
    kept = own.get("priority") == "normal" or bool(own.get("sched_if_idle"))
    for number, mine in shares.shares(files, layout["values"], layout["numvfs"]).items():
        written = {field: mine[field] for field in ("exec_quantum_ms", "preempt_timeout_us") if mine.get(field)}
        if custom:
            written.update({key: mine[f] // unit for f, (key, unit) in shares.PILLAR_QUOTAS.items() if mine.get(f, 0) >= unit})
        if number and written:
            made[str(number)] = written
    return {**({"scheduling": {"priority": "normal"}} if kept else {}), **({"vfs": made} if made else {})}
