"""
Consumers for people: what can be given, who has what, and what a program needs to use it.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from gpuslice import errors
from gpuslice.host.base import Host
from gpuslice.model import Slice
from gpuslice.model import with_taken
from gpuslice.outputs import cdi
from gpuslice.outputs import mps
from gpuslice.outputs.device import Device
from gpuslice.techniques.base import Work
from gpuslice.techniques.consumers import binding
from gpuslice.techniques.consumers.devices import closed
from gpuslice.techniques.consumers.files import consumer_of
from gpuslice.techniques.consumers.files import runs_as
from gpuslice.techniques.consumers.goal import devices_of
from gpuslice.techniques.consumers.people import People
from gpuslice.techniques.consumers.register import NOTHING


def _offers(works: Sequence[Work]) -> list[Slice]:
    there = with_taken(each for work in works for each in work.below.slices)
    nobodys = closed(there, {work.gpu.address for work in works})
    return binding.offers(each for each in there if each.name not in nobodys)


def offers(works: Sequence[Work], quarantined: Iterable[str] = ()) -> list[dict]:
    """
    Every slice that can be given, as dicts, with its consumer.

    :param quarantined: names of slices and PCI addresses of boards, of which nothing is given.
    """
    noted, found = works[0].state if works else NOTHING, []
    given, barred = noted.given(), barred_of(works, quarantined)
    for each in _offers(works):
        if each.name in barred:
            continue
        found.append(
            {
                "name": each.name,
                "gpu": each.gpu,
                "kind": each.kind,
                "profile": each.profile,
                "memory_mib": each.memory_mib,
                "compute": each.compute,
                "weight": each.weight,
                "consumer": given.get(each.name, ""),
                "cdi": cdi.qualified(cdi.SLICE, each.name) if noted.cdi else "",
                "isolation": "enforced" if each.isolated else "advisory",
            }
        )
    return found


def barred_of(works: Sequence[Work], quarantined: Iterable[str]) -> dict[str, str]:
    """Name of a slice -> what is quarantined that it is or stands on."""
    names = tuple(quarantined)
    if not names:
        return {}
    from gpuslice.records import quarantine

    return quarantine.barred((each for work in works for each in work.below.slices), names)


def listed(host: Host, works: Sequence[Work], quarantined: Iterable[str] = ()) -> dict[str, dict]:
    """Consumer -> what it has, and which of its limits somebody enforces; parameters as of :func:`offers`."""
    if not works:
        return {}
    barred = barred_of(works, quarantined)
    by_name = {each.name: each for each in _offers(works)}
    people = People(host)
    noted = works[0].state
    return {name: _told(people, name, each, by_name, barred, noted.files) for name, each in sorted(noted.consumers.items())}


def _told(people, name, handed, by_name, barred, written):
    consumer = consumer_of(name, handed)
    slices = [by_name[part] for part in handed["slices"] if part in by_name]
    missing = [part for part in handed["slices"] if part not in by_name]
    told = {
        "kind": consumer.kind,
        "slices": list(handed["slices"]),
        "cdi": cdi.qualified(cdi.CONSUMER, name) if handed["slices"] else "",
        "unit": runs_as(people, consumer),
        "user": consumer.user,
        "limits": _limits(consumer, slices, written),
    }
    held = [part for part in handed["slices"] if part in barred]
    return {**told, **({"missing": missing} if missing else {}), **({"quarantined": held} if held else {})}


def _limits(consumer, slices, written) -> dict[str, str]:
    """What limits a consumer -> how much, and by whom it is enforced."""
    shared = {each.kind for each in slices if not each.isolated}
    runs = consumer.kind != "device"
    found = {"slice": "advisory: it shares its device nodes with others" if shared else "enforced by the hardware"}
    if shared == {"mps"}:
        found["slice"] = "compute and memory of each process enforced by the MPS daemon; it shares its device nodes with others"
    found["devices"] = "enforced by the control group" if runs else "enforced by the runtime that is given the name"
    if consumer.kind == "container" and consumer.user:
        found["devices"] = "advisory: rootless containers have no device filter, only the nodes' permissions"
    if consumer.memory_gb:
        found["memory_gb"] = f"{consumer.memory_gb}, enforced by the control group"
    if consumer.compute_units:
        found["compute_units"] = f"{consumer.compute_units}, enforced by the control group"
    if consumer.vram_mib:
        found["vram_mib"] = f"{consumer.vram_mib} of each GPU, {_limited_by(consumer, slices, written)}"
    if consumer.weight != 1 or any(each.weight for each in slices):
        found["weight"] = _weight(consumer, slices)
    return found


def _limited_by(consumer, slices, written) -> str:
    """By whom its memory is limited. Files alone tell it: whether that is in force now is for the check of that consumer."""
    from gpuslice.outputs import memory_limit
    from gpuslice.outputs import mps

    if memory_limit.path_of(consumer) in written:
        return "enforced by the driver for its slice unit"
    return "enforced per process by MPS" if slices and all(mps.pins(each.environment) for each in slices) else "advisory"


def _weight(consumer, slices) -> str:
    """The weight that a consumer has, and who makes it hold."""
    weights = {each.weight for each in slices if each.weight}
    if not weights:
        return f"{consumer.weight}, advisory: nothing here is divided by weight"
    told = ", ".join(map(str, sorted(weights)))
    if mps.THREADS in dict(max(slices, key=lambda each: each.weight or 0).environment):
        return f"{told}, advisory: by its environment"
    return f"{told}, enforced by the MPS daemon for each process"


def devices_now(works: Sequence[Work]) -> tuple[list[Device], list[Device]]:
    """What opens each slice that can be given now, and what opens all those of each consumer."""
    found, there = devices_of(works), _offers(works)
    slices = [device for each in there if (device := found.of(each)).nodes]
    consumers = [
        found.of_consumer(name, [each for each in there if each.name in handed["slices"]], handed.get("vram_mib"))
        for name, handed in works[0].state.consumers.items()
    ]
    return slices, [device for device in consumers if device.nodes]


def named(works: Sequence[Work], name: str) -> Mapping[str, Any]:
    """What is on record of a consumer. Raises errors.PolicyError: there is no such one."""
    return (works[0].state if works else NOTHING).of(name)


def device_and_gone(works: Sequence[Work], name: str) -> tuple[Device, list[str]]:
    """
    What opens the slices of a consumer that are there, and names of those that are on record and not there any more.

    :raises errors.PolicyError: as :func:`named`.
    """
    handed = named(works, name)
    names = handed["slices"]
    there = {each.name: each for each in _offers(works) if each.name in names}
    device = devices_of(works).of_consumer(name, there.values(), handed.get("vram_mib"))
    return device, [each for each in names if each not in there]


def environment(works: Sequence[Work], name: str) -> dict[str, str]:
    """
    The variables that a program of a consumer needs.

    :raises errors.PolicyError: there is no such consumer, or it has nothing.
    """
    device, gone = device_and_gone(works, name)
    if gone == list(named(works, name)["slices"]):
        raise errors.PolicyError(
            f"Consumer {name} has no slice now.",
            todo="See 'salt-call gpu_consumer.list', and run 'salt-call state.apply gpu_slicing'.",
        )
    return dict(device.environment)
