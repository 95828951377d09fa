"""
Limits of GPU memory of consumers: by what each can be enforced, what is in force, and what has to be set.

Which GPU a consumer has is known only when slices are handed out, so that these limits are steps of that and no technology of
their own.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import gpuslice
from gpuslice import errors
from gpuslice.drivers import quota
from gpuslice.drivers.quota import MIB
from gpuslice.drivers.quota import Means
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Host
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.outputs import memory_limit
from gpuslice.outputs import mps
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.file import File
from gpuslice.outputs.unit_names import CONSUMERS

#: The means of a GPU whose driver does not answer now: what sets the limit finds it out when it runs.
_UNKNOWN = "unknown"
#: Each program by itself, where nothing holds all of a consumer together.
MPS = "mps"
#: Kinds of slices whose memory the hardware bounds, and on which no driver limits anything.
_BOUNDED = {"mig": "a MIG device", "vf": "a virtual function"}


class Limit(NamedTuple):
    """
    A limit that is wanted.

    :ivar unit: the slice that is limited; :ivar uid: of a user, None for others. :ivar limit: in MiB; :ivar by: its means.
    :ivar now: bytes that are in force, None for no limit; :ivar used: bytes in use, read where a limit is to be set.
    :ivar share: MiB that MPS gives each program anyway, None if not told.
    """

    consumer: Consumer
    unit: str
    uid: int | None
    gpu: Gpu
    limit: int
    by: Means
    now: int | None = None
    used: int | None = None
    share: int | None = None

    @property
    def is_enforced(self) -> bool:
        """Whether anybody makes it hold for all that runs in the slice."""
        return self.by.name not in (quota.NONE, MPS)


def wanted(
    host: Host, sessions: Sessions, gpus: Mapping[str, Gpu], having: Iterable[tuple[Consumer, Sequence[Slice]]],
    uid_of: Callable[[Consumer], int | None], known_files: Container[str],
) -> list[Limit]:  # fmt: skip
    """
    The limits of those who have slices.

    :param gpus: PCI address -> GPU; :param having: each consumer that has a limit, with his slices. :param uid_of: of a user.
    :param known_files: that were written before: who was limited by a driver that does not answer now is still to be.
    """
    found, known = [], {}
    for consumer, slices in having:
        uid = uid_of(consumer) if consumer.kind == "user" else None
        unit = memory_limit.slice_of(consumer, uid)
        for address in dict.fromkeys(each.gpu for each in slices):
            own = [each for each in slices if each.gpu == address]
            kind = next(filter(None, map(_bounded, own)), "")
            if kind:
                by = Means(quota.NONE, f"{kind} has memory of its own, which the hardware bounds and no driver limits further")
            else:
                by = known[address] = known.get(address) or _means(host, sessions, gpus[address])
            share = min((each.memory_mib for each in own if each.memory_mib), default=None)
            if by.name == quota.NONE and all(mps.pins(each.environment) for each in own):
                by = by._replace(name=MPS)
            limit = _read(host, sessions, Limit(consumer, unit, uid, gpus[address], consumer.vram_mib or 0, by, share=share))
            if limit.by.name == _UNKNOWN and memory_limit.path_of(consumer) not in known_files:
                limit = limit._replace(by=Means(quota.NONE, f"its driver does not answer ({limit.by.why.rstrip('.')})"))
            found.append(limit)
    return found


def _read(host: Host, sessions: Sessions, limit: Limit) -> Limit:
    """With what is in force; one that can't be read keeps nobody from the rest."""
    if limit.by.name not in quota.LABELS:
        return limit
    try:
        where = host, sessions, limit.gpu, limit.unit, limit.by
        now = quota.read(*where)
        return limit._replace(now=now, used=None if now == limit.limit * MIB else quota.in_use(*where))
    except errors.GpuSliceError as err:
        return limit._replace(by=Means(_UNKNOWN, str(err)))


def _bounded(each: Slice) -> str:
    """What a slice is that can't be limited; shares of it likewise."""
    return _BOUNDED.get(each.kind, _BOUNDED["mig"] if each.identity.startswith("MIG-") else "")


def _means(host: Host, sessions: Sessions, gpu: Gpu) -> Means:
    try:
        return quota.means(host, sessions, gpu)
    except errors.GpuSliceError as err:
        return Means(_UNKNOWN, str(err))


def refuse_too_much(limits: Sequence[Limit]) -> None:
    """Raise errors.PolicyError for a limit above the memory of its GPU, and for limits that are more than that together."""
    by_gpu: dict[str, list[Limit]] = defaultdict(list)
    for each in limits:
        if not each.is_enforced or each.by.most is None:
            continue
        quota.refuse_above(each.gpu, f"Consumer {each.consumer.name}", each.limit, each.by, "resource_limits:vram_mib")
        by_gpu[each.gpu.address] += [] if each.consumer.overcommit else [each]
    for address, each in by_gpu.items():
        total = sum(one.limit for one in each)
        if each and total > (there := each[0].by.most // MIB):
            told = ", ".join(f"{one.consumer.name} {one.limit}" for one in each)
            raise errors.PolicyError(
                f"The limits of its consumers come to {total} MiB ({told}), and {each[0].gpu.model} has {there} MiB.",
                address,
                "Lower some (resource_limits:vram_mib), or write 'overcommit: true' beside those that may come on top.",
            )


def files(limits: Sequence[Limit], unit_of: Callable[[Consumer], str]) -> tuple[dict[str, list[File]], list[File]]:
    """
    The files for limits that are enforced: (consumer -> what has his unit run with it, what sets the limits).

    :param unit_of: the unit of a consumer that is no user.
    """
    mine: dict[str, list[Limit]] = defaultdict(list)
    for each in limits:
        if each.is_enforced:
            mine[each.consumer.name].append(each)
    program = (sys.executable, "-m", memory_limit.MODULE)
    place = os.path.dirname(os.path.dirname(os.path.abspath(gpuslice.__file__)))
    own, setting = {}, []
    for name, each in mine.items():
        consumer, uid = each[0].consumer, each[0].uid
        own[name] = [memory_limit.drop_in(consumer, "" if uid is not None else unit_of(consumer), uid)]
        setting.append(memory_limit.setter(consumer, uid, [(one.gpu.address, one.limit) for one in each], program, place))
    return own, setting


def told(limits: Iterable[Limit]) -> list[str]:
    """What has to be known of limits: who makes them hold, or why nobody does."""
    found = []
    for each in limits:
        if each.by.name == MPS:
            found.append(_told_of_mps(each))
        elif each.by.name == _UNKNOWN:
            what, why = f"The limit of {each.limit} MiB for {each.consumer.name} on {each.gpu.address}", each.by.why.rstrip(".")
            found.append(f"{what} is set when {each.unit} starts: now its driver does not answer ({why}).")
        else:
            found.append(quota.told(each.gpu, each.consumer.name, each.limit, each.by))
        if each.used is not None and each.used > each.limit * MIB:
            found.append(
                f"{each.unit} has {quota.words(each.used)} in use, more than that: it keeps them, and gets no more until it has "
                "freed enough."
            )
    return found


def _told_of_mps(limit: Limit) -> str:
    """What is known of a limit that the daemon keeps: it counts each program by itself, and goes by what that asks for."""
    each = f"The limit of {limit.limit} MiB for {limit.consumer.name} on {limit.gpu.address} is enforced per process by MPS"
    if limit.share is not None and limit.share <= limit.limit:
        return f"{each}, whose daemon gives each of its programs no more than {limit.share} MiB."
    most = "what the daemon gives" if limit.share is None else f"the daemon's {limit.share} MiB"
    return (
        f"{each}: for each of its programs by itself, and one that changes its environment gets {most}. Nobody enforces it for "
        f"all of them together, since {limit.by.why}."
    )


def missing(host: Host, limits: Iterable[Limit]) -> list[Limit]:
    """
    Those that are not in force. A user's slice is there while he is logged in, and what he is limited by is set when he logs in.
    """
    return [
        each for each in limits
        if each.by.name in quota.LABELS and each.now != each.limit * MIB
        and (each.uid is None or quota.is_there(host, each.unit))
    ]  # fmt: skip


def left(
    host: Host, sessions: Sessions, before: Iterable[tuple[str, Gpu]], limits: Iterable[Limit]
) -> list[tuple[str, Gpu, int]]:  # fmt: skip
    """
    What limits of before are still there and wanted no more: slice, GPU, bytes.

    :param before: (slice, GPU) of all that were to be limited.
    """
    kept, found = {(each.unit, each.gpu.address) for each in limits if each.is_enforced}, []
    for unit, gpu in before:
        if (unit, gpu.address) in kept or not quota.is_there(host, unit):
            continue
        limit = _read(host, sessions, Limit(Consumer(""), unit, None, gpu, 0, _means(host, sessions, gpu))).now
        if limit is not None:
            found.append((unit, gpu, limit))
    return found


def ending(host: Host, units: Iterable[str], limits: Iterable[Limit]) -> list[str]:
    """Which of these slices are ours, there, and limited no more."""
    kept = {each.unit for each in limits if each.is_enforced}
    ours = (unit for unit in dict.fromkeys(units) if unit.startswith(CONSUMERS) and unit not in kept)
    return [unit for unit in ours if quota.is_there(host, unit)]


def words(limit: int | None) -> str:
    """A limit in bytes for sentences."""
    return quota.words(limit)
