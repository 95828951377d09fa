"""
What must not be handed out: slices and whole boards, why, and since when. What is kept of those that were released says when they
may be quarantined again.

A board's entry stays whatever is cut of it, that of a slice as long as there is a slice of that name, over a boot too.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.host.base import QUARANTINE
from gpuslice.host.base import Host
from gpuslice.model import Slice
from gpuslice.printable import printable
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.shape import ADDRESS
from gpuslice.shape import LINE
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import moment
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.status_words import BOARD
from gpuslice.status_words import FAILING
from gpuslice.status_words import SLICE

_FORMAT = 1
HAND, POLICY = "hand", "policy"
#: What becomes of consumers for whom nothing else fits.
KEEP, STOP = "keep", "stop"
#: Seconds within which policy releases a thing once only; and within which what befalls many GPUs has one cause.
DAY, AT_ONCE = 86400, 3600
_ENTRY = record(
    {
        "gpu": ADDRESS, "scope": text(f"{BOARD}|{SLICE}"), "since": maybe(moment), "by": text(f"{HAND}|{POLICY}"), "who": LINE,
        "jid": LINE, "why": LINE, "codes": listing(LINE), "consumers": text(f"{KEEP}|{STOP}"), "hold": truth,
        "released": maybe(moment), "released_by": text("|hand|evidence"), "evidence": maybe(moment), "excused": listing(LINE),
    }
)  # fmt: skip
_CHECKED = record({"entries": table(either(ADDRESS, text(r"[A-Za-z0-9_.:-]+")), _ENTRY)})


class Entry(NamedTuple):
    """
    One thing that is quarantined, or was.

    :ivar gpu: PCI address of its board; :ivar scope: ``board`` or ``slice``.
    :ivar since: seconds since the epoch, None for what was released; :ivar by: ``hand`` or ``policy``.
    :ivar who: :ivar jid: function and user, and Salt's job, as far as they are known. :ivar why: a sentence.
    :ivar codes: of the findings that led to it; :ivar consumers: ``keep`` or ``stop`` those for whom nothing else fits.
    :ivar hold: only a hand releases it: it failed again within a day of its release by evidence, or what was known of its health
        is lost.
    :ivar released: when that was last, None for never; :ivar released_by: ``hand``, ``evidence``, or "".
    :ivar evidence: when evidence released it last; :ivar excused: codes with which a hand released it while they still stood.
    """

    gpu: str
    scope: str
    since: float | None = None
    by: str = HAND
    who: str = ""
    jid: str = ""
    why: str = ""
    codes: tuple[str, ...] = ()
    consumers: str = KEEP
    hold: bool = False
    released: float | None = None
    released_by: str = ""
    evidence: float | None = None
    excused: tuple[str, ...] = ()

    @property
    def in_force(self) -> bool:
        """Whether it must not be handed out now."""
        return self.since is not None


class Decision(NamedTuple):
    """
    What evidence leads to, each as name -> the entry that it gets.

    :ivar renew: nothing is handed out otherwise, and something is to be remembered.
    :ivar spared: PCI addresses of GPUs of which something failed and is not quarantined, since too many of the host did at once.
    """

    quarantine: dict[str, Entry] = {}
    release: dict[str, Entry] = {}
    renew: dict[str, Entry] = {}
    spared: tuple[str, ...] = ()

    @property
    def entries(self) -> dict[str, Entry]:
        """All of them."""
        return {**self.quarantine, **self.release, **self.renew}


class Quarantine:
    """The record of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._file = Record(host, QUARANTINE, "the record of what is quarantined", _FORMAT, lambda data: _CHECKED(data, "it"))
        self.path = self._file.path

    def entries(self) -> dict[str, Entry]:
        """Name of a slice, or PCI address of a board -> its entry. Raises errors.StateDirUnusable, errors.NewerFormat."""
        found = self._file.read_if_there(
            lambda err: errors.StateDirUnusable(
                f"What is quarantined can't be told: {self.path} can't be used ({reason(err)}).",
                todo="Remove that file, then quarantine again what must not be handed out.",
            )
        )
        entries = {} if found is None else found["entries"]
        return {name: Entry(**{key: _plain(each) for key, each in entry.items()}) for name, entry in entries.items()}

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Note these but for what needs no memory any more; where none is left the file goes. Raises errors.StateDirUnusable."""
        kept = {name: each for name, each in entries.items() if each.in_force or _remembered(each, self._host.now())}
        self._file.keep(
            {"entries": {name: each._asdict() for name, each in sorted(kept.items())}} if kept else None,
            lambda err: errors.StateDirUnusable(
                f"What is quarantined can't be noted in {self.path}: {err.strerror}.",
                todo="Free space or mend its permissions, then run again.",
            ),
        )


def in_force(host: Host) -> dict[str, Entry]:
    """What must not be handed out on a host now, by name; raises as :meth:`Quarantine.entries`."""
    return {name: each for name, each in Quarantine(host).entries().items() if each.in_force}


def forget_gone(host: Host, changed: Iterable[str], parts: Callable[[str], Iterable[Slice]], who: str, jid: str) -> list[str]:
    """
    The quarantine of a slice ends with the slice: strike those off that a change ended. Of a GPU that can't be read now, and of
    one that was not changed, they stay.

    :param changed: PCI addresses of the GPUs that a change changed. :param parts: all slices of one of these now; may raise.
    :param who: :param jid: for whoever waits for the lock meanwhile.
    :return: warnings, as sentences.
    """
    # Here, so that those who only read do not load it.
    from gpuslice.records import lock

    try:
        with lock.held(host.state_dir, who, jid):
            kept = Quarantine(host)
            entries = kept.entries()
            ours = {name: each for name, each in entries.items() if each.scope == SLICE and each.gpu in changed}
            there = {part.name for address in {each.gpu for each in ours.values()} for part in parts(address)}
            gone = [name for name in ours if name not in there]
            if gone:
                kept.write({name: each for name, each in entries.items() if name not in gone})
    except errors.GpuSliceError as err:
        return [f"Whether what is quarantined is still there could not be told: {err}"]
    ended = [name for name in gone if ours[name].in_force]
    slices = "that slice" if len(ended) == 1 else "those slices"
    return [f"The quarantine of {', '.join(ended)} ended with {slices}."] if ended else []


def barred(slices: Iterable[Slice], names: Iterable[str]) -> dict[str, str]:
    """
    Name of a slice -> what is quarantined that it is, stands on, or is a part of.

    :param slices: with all that they stand on; :param names: of slices, and PCI addresses of boards.
    """
    slices, names = list(slices), tuple(names)
    of = {each.name: each.of for each in slices}
    found = {}
    for each in slices:
        under = _under(each.name, of)
        hit = next((name for name in names if name == each.gpu or any(_is_part(one, name) for one in under)), None)
        if hit is not None:
            found[each.name] = hit
    return found


def _is_part(name: str, whole: str) -> bool:
    return name == whole or name.startswith(f"{whole}-")


def _under(name: str, of: Mapping[str, str]) -> list[str]:
    found = [name]
    while (name := of.get(name, "")) and name not in found:
        found.append(name)
    return found


# -- evidence --------------------------------------------------------------------------------------------------------------
def decide(
    entries: Mapping[str, Entry],
    statuses: Mapping[str, Mapping],
    policy: Mapping[str, str],
    now: float,
    known_since: float = 0,
) -> Decision:
    """
    What is to be quarantined and released by what is known of the health of GPUs.

    :param entries: on record, by name. :param statuses: PCI address -> ``status`` (ok, degraded, failed, lost), ``scope``,
        ``codes``, ``sentence``, and ``slices``: name -> the same.
    :param policy: ``on_failed`` (report, quarantine) and ``consumers`` (keep, stop); :param now: seconds since the epoch.
    :param known_since: when those who tell the statuses began to look: what failed before that is not known to be well.
    """
    made = Decision({}, {}, {})
    ill = _ill(statuses) if policy["on_failed"] == "quarantine" else {}
    for name, (gpu, scope, found) in ill.items():
        old = entries.get(name, Entry(gpu, scope))
        if not old.in_force and not _is_excused(old, found["codes"]):
            made.quarantine[name] = _quarantined(old, found, policy, now)
    for name, old in entries.items():
        status = _status_of(name, old, statuses)
        if old.since is not None and old.by == POLICY and not old.hold and old.since < known_since:
            made.renew[name] = _renewed(old, ill.get(name), policy)._replace(hold=True)
        elif status == "ok" and old.in_force and old.by == POLICY and not old.hold:
            made.release[name] = old._replace(
                since=None, released=now, released_by="evidence", evidence=now, codes=(), excused=(), hold=False
            )
        elif status == "ok" and old.excused:
            # What a hand let pass is over: if it comes again, it is another failure.
            made.renew[name] = old._replace(excused=())
        elif old.in_force and (changed := _renewed(old, ill.get(name), policy)) != old:
            made.renew[name] = changed
    spared = _too_many(made.quarantine, entries, len(statuses), now)
    return made._replace(quarantine={}, spared=spared) if spared else made


def _too_many(fresh: Mapping[str, Entry], entries: Mapping[str, Entry], of: int, now: float) -> tuple[str, ...]:
    """
    The GPUs that would be quarantined, where with them more than half of a host's GPUs were at once: a driver, a fabric or an
    update does that, and no GPU is better than another. () else.
    """
    lately = {each.gpu for each in entries.values() if each.by == POLICY and each.since and now - each.since < AT_ONCE}
    gpus = {each.gpu for each in fresh.values()}
    return tuple(sorted(gpus)) if gpus - lately and len(gpus | lately) > max(1, of / 2) else ()


def _ill(statuses: Mapping[str, Mapping]) -> dict[str, tuple[str, str, Mapping]]:
    """Name -> (PCI address, scope, status) of what failed: single slices where only these did."""
    found: dict[str, tuple[str, str, Mapping]] = {}
    for gpu, board in statuses.items():
        slices = {name: each for name, each in (board.get("slices") or {}).items() if each["status"] in FAILING}
        of_slices = board["status"] != "lost" and board.get("scope") == SLICE and slices
        if board["status"] in FAILING and not of_slices:
            found[gpu] = (gpu, BOARD, board)
        else:
            found.update({name: (gpu, SLICE, each) for name, each in slices.items() if name != gpu})
    return found


def _is_excused(entry: Entry, codes: Iterable[str]) -> bool:
    """Whether a hand released it with all of these standing."""
    return entry.released_by == HAND and bool(entry.excused) and set(_sorted(codes)) <= set(entry.excused)


def _status_of(name: str, entry: Entry, statuses: Mapping[str, Mapping]) -> str:
    """The status of what an entry is of; "" where nothing is known. A slice of which nothing is told is as its board."""
    board = statuses.get(entry.gpu)
    if board is None:
        return ""
    return (board.get("slices") or {}).get(name, board)["status"] if entry.scope == SLICE else board["status"]


def _quarantined(old: Entry, found: Mapping, policy: Mapping[str, str], now: float) -> Entry:
    return old._replace(
        since=now, by=POLICY, who="", jid="", why=_line(found.get("sentence", "")), codes=_sorted(found["codes"]),
        consumers=policy["consumers"], hold=is_recent(old.evidence, now), excused=(),
    )  # fmt: skip


def _renewed(old: Entry, found: tuple[str, str, Mapping] | None, policy: Mapping[str, str]) -> Entry:
    new = found[2]["codes"] if found and old.by == POLICY else ()
    return old._replace(codes=_sorted([*old.codes, *new]), consumers=policy["consumers"])


def is_recent(moment_of: float | None, now: float) -> bool:
    """Whether something was within a day. A clock that went back tells no time, so that what seems to come is recent too."""
    return moment_of is not None and now - moment_of < DAY


def _remembered(entry: Entry, now: float) -> bool:
    """Whether one that was released says anything about what may be done next."""
    return bool(entry.excused) or is_recent(entry.evidence, now)


def by_hand(old: Entry | None, gpu: str, scope: str, why: str, who: str, jid: str, consumers: str, now: float) -> Entry:
    """The entry of what somebody quarantines; one that policy quarantined is his from then on."""
    old = old or Entry(gpu, scope)
    since = old.since if old.in_force else now
    return old._replace(
        since=since, by=HAND, who=_line(who), jid=_line(jid), why=_line(why) or old.why, consumers=consumers, hold=False,
        excused=(),
    )  # fmt: skip


def let_go(old: Entry, standing: Sequence[str], now: float) -> Entry:
    """The entry of what somebody releases. :param standing: codes of failures that stand now, as far as they are known."""
    return old._replace(
        since=None, released=now, released_by=HAND, excused=_sorted([*old.codes, *standing]), codes=(), hold=False
    )


def _sorted(codes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(map(_line, codes))))


def _line(words: object) -> str:
    return printable(" ".join(str(words).split()))[:1000]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
