"""
Virtual machines that are not running and would not start after a change as they are: libvirt knows them by their files, and what
they refer to goes with the change, or back to a driver of the host. A change is not kept from it; whoever asks for it is told.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import addresses
from gpuslice import errors
from gpuslice import kinds
from gpuslice.drivers import libvirt
from gpuslice.host.base import Host
from gpuslice.model import Gpu
from gpuslice.model import Key
from gpuslice.plan import Part
from gpuslice.techniques.toolbox import Toolbox

#: A name that needs no quotes in a shell.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: More than these are counted and not named.
_MOST = 10


class Loss(NamedTuple):
    """
    What virtual machines lose.

    :ivar key: by which technology they had it. :ivar identity: PCI address, or UUID of a mediated device.
    :ivar freed: whether it stays and goes back to a driver of the host.
    """

    key: Key
    identity: str
    freed: bool


def losses(tools: Toolbox, parts: Iterable[Part], standing: Mapping[Key, dict], gpus: Mapping[str, Gpu]) -> list[Loss]:
    """
    What virtual machines lose by a plan, as far as that can be told before it is carried out.

    :param parts: those that change something; :param standing: as of :meth:`gpuslice.change.planner.Planner.standing_on`.
    :param gpus: PCI address -> GPU.
    """
    found: dict[str, Loss] = {}
    parts = list(parts)
    for part in parts:
        if is_for_machines(part.key):
            kept = _given(tools, part.key, gpus[part.gpu], part.after)
            for identity in _given(tools, part.key, gpus[part.gpu], part.before):
                if identity not in kept:
                    _add(found, Loss(part.key, identity, _only_frees(part.key)))
    ended = {identity for part in parts for step in part.steps for identity in step.disrupts}
    for key, layout in standing.items():
        if is_for_machines(key):
            for identity in _given(tools, key, gpus[key.subject], layout):
                if identity in ended:
                    _add(found, Loss(key, identity, True))
    return list(found.values())


def _add(found: dict[str, Loss], loss: Loss) -> None:
    """What goes altogether goes back to nobody."""
    if loss.identity not in found or not loss.freed:
        found[loss.identity] = loss


def come_true(
    tools: Toolbox, expected: Iterable[Loss], after: Mapping[Key, dict], gpus: Mapping[str, Gpu]
) -> list[Loss]:  # fmt: skip
    """Those of these losses that there are once the change is over. :param after: key -> layout, as it was read then."""
    return [
        loss for loss in expected
        if "error" not in after.get(loss.key, {"error": ""})
        and loss.identity not in _given(tools, loss.key, gpus[loss.key.subject], after[loss.key])
    ]  # fmt: skip


def is_for_machines(key: Key) -> bool:
    """Whether virtual machines are given what a key tells of."""
    kind = kinds.named(key.technique)
    return kind is not None and bool(kind.for_machines)


def _only_frees(key: Key) -> bool:
    """Whether what virtual machines have of it stays on the bus without it."""
    return kinds.known(key.technique).for_machines == kinds.BOUND


def _given(tools: Toolbox, key: Key, gpu: Gpu, layout: dict) -> set[str]:
    """What virtual machines can be given by a layout, by the names that libvirt has for it."""
    try:
        slices = tools.get(key.technique).expected_on(gpu, layout, [])
    except errors.GpuSliceError:
        # It can't be told, which whoever plans or reads it says; nobody is warned of what nobody knows.
        return set()
    names = {each.identity or each.name for each in slices}
    return {name.lower() for name in names if addresses.is_pci(name) or addresses.is_uuid(name)}


def warnings(host: Host, lost: Iterable[Loss]) -> list[str]:
    """A sentence for each domain that is to be given something of it, and for each file that nobody can read."""
    by_identity = {loss.identity: loss for loss in lost}
    if not by_identity:
        return []
    known = libvirt.defined(host)
    found = [
        _told(domain, meant) for domain in known.domains
        if (meant := [(device, by_identity[device.identity]) for device in domain.devices if device.identity in by_identity])
    ]  # fmt: skip
    unread = [
        f"{path} can't be read ({why}), so that nobody knows whether its domain is to be given what goes with this change. "
        "See 'virsh list --all' and 'virsh dumpxml'."
        for path, why in known.unread.items()
    ]  # fmt: skip
    return [*_some(found, "domains of libvirt"), *_some(unread, "files of libvirt")]


def _told(domain: libvirt.Domain, meant: list[tuple[libvirt.Device, Loss]]) -> str:
    gone = [loss.identity for _, loss in meant if not loss.freed]
    freed = [loss.identity for device, loss in meant if loss.freed and not device.managed]
    taken = [loss.identity for device, loss in meant if loss.freed and device.managed]
    parts = [f"{', '.join(gone)}, which goes with this change"] if gone else []
    parts += [f"{', '.join(freed)}, which this change gives back to the host"] if freed else []
    fails = "it will not start as it is" if parts else ""
    if taken:
        parts.append(f"{', '.join(taken)}, which this change gives back to the host")
    takes = "libvirt would take that away from the host again when it starts (managed='yes')" if taken else ""
    edited = f"virsh edit {domain.name}" if _PLAIN.fullmatch(domain.name) else "virsh edit"
    also = ", and it is started with the host" if domain.autostart else ""
    return (
        f"Domain {domain.name} ({domain.path}) is to be given {'; and '.join(parts)}: {'; '.join(filter(None, (fails, takes)))}"
        f"{also}. Give it another slice ('salt-call gpu_consumer.hostdev <slice>', then '{edited}')."
    )


def _some(sentences: list[str], what: str) -> list[str]:
    more = len(sentences) - _MOST
    return [*sentences[:_MOST], f"The same is so of {more} further {what}."] if more > 0 else sentences
