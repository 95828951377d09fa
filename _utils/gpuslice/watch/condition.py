"""
Something that is wrong with a GPU or one of its instances, over time.
"""

from typing import NamedTuple

from gpuslice.watch import meanings
from gpuslice.watch.meanings import Meaning

#: Seconds within which errors of one kind are one burst, and the bursts of a day after which the hardware is suspected.
BURST, DAY, SUSPICIOUS = 180, 86400, 5
#: Bursts that are kept.
_KEPT = 10
#: Looks in turn that must see what is polled.
_LOOKS = 2


class Condition(NamedTuple):
    """
    :ivar gpu: PCI address, "" for all GPUs of the host; :ivar code: of a finding or an event.
    :ivar gi: :ivar ci: the GPU instance and compute instance that it was told of, None for the board.
    :ivar slice: name of the slice that these were at that time, "" where it is not known.
    :ivar words: what is wrong, as words that go on after "GPU ...:". :ivar todo: what to do, as a sentence; "" for what its
        action says.
    :ivar since: :ivar last: when it was first and last seen, in seconds since the epoch. :ivar count: how often.
    :ivar bursts: when bursts of it began, in seconds since the epoch, the newest last.
    :ivar boot: identifier of the boot in which it was last seen; :ivar pid: the program that met it, None for unknown.
    :ivar uuid: of the board that had it, "" for unknown.
    :ivar looks: looks in turn that have seen it; :ivar clean: looks in turn since then that have not.
    :ivar cured: whether what it needs was seen since. :ivar softened: whether the driver has said since that it asks for nothing.
    """

    gpu: str
    code: str
    gi: int | None = None
    ci: int | None = None
    slice: str = ""
    words: str = ""
    todo: str = ""
    since: float = 0
    last: float = 0
    count: int = 1
    bursts: tuple = ()
    boot: str = ""
    pid: int | None = None
    uuid: str = ""
    looks: int = 1
    clean: int = 0
    cured: bool = False
    softened: bool = False

    @property
    def key(self):
        """What tells it from others."""
        return self.gpu, self.code, self.gi, self.ci, self.slice

    def meaning(self, treatments):
        """
        What it means now, None for what is no matter of a status.

        :param treatments: as of :func:`gpuslice.watch.meanings.of_xid`.
        """
        found = _of(self.code, treatments)
        if found is None:
            return None
        if self.softened and not found.certain:
            return meanings.SOFTENED
        if found.status == meanings.OK:
            return meanings.SUSPECT if self.is_suspicious else found
        return found

    @property
    def in_turn(self):
        """Looks that have seen it, for one more that sees it: what counts goes on to count until it is over."""
        return self.looks if self.clean == 0 or self.looks >= _LOOKS else 0

    @property
    def is_suspicious(self):
        """Whether there were many bursts of it within a day."""
        return self.of_a_day >= SUSPICIOUS

    @property
    def of_a_day(self):
        """Bursts of it within the day before the last one."""
        return sum(0 <= self.bursts[-1] - each <= DAY for each in self.bursts)

    def again(self, **newer):
        """The same, seen once more."""
        last, bursts = newer["last"], self.bursts or (self.last,)
        # A clock that was set back begins a burst too: nothing is known of how long it was.
        if not 0 <= last - self.last <= BURST:
            bursts = (*bursts, last)[-_KEPT:]
        return self._replace(**newer, count=self.count + 1, bursts=bursts, clean=0, cured=False, softened=False)

    def is_over(self, treatments, clean, now):
        """
        Whether it was dealt with and then not seen in ``clean`` looks in turn; what is only counted is kept for a day.

        :param now: seconds since the epoch.
        """
        meaning = self.meaning(treatments)
        if meaning is None:
            return True
        if meaning.status == meanings.OK or meaning is meanings.SUSPECT:
            # One of the future is of a clock that was set back.
            return not 0 <= now - self.last <= DAY
        if meaning.polled and not self.is_certain(meaning) and self.clean:
            return True
        return self.clean >= clean and (self.cured or not meaning.needs)

    def is_certain(self, meaning):
        """Whether it was seen often enough to count."""
        return not meaning.polled or self.looks >= _LOOKS

    def as_dict(self):
        """As it is kept; what has its default is left out."""
        default = Condition("", "")
        kept = {name: value for name, value in self._asdict().items() if value != getattr(default, name)}
        return {**kept, "gpu": self.gpu, "code": self.code}


class Moment(NamedTuple):
    """
    When somebody looks.

    :ivar boot: identifier of this boot; :ivar now: seconds since the epoch; :ivar seconds: since the boot.
    :ivar uuids: PCI address -> UUID of the board that is there now, as far as it is known.
    """

    boot: str
    now: float
    seconds: float
    uuids: dict

    def condition(self, gpu, code, words, todo="", seconds=None):
        """
        What is seen of a GPU now, as :class:`Condition`.

        :param words: with the GPU's address before them or without; :param seconds: when it was, in seconds since the boot; None
            for now.
        """
        then = self.now if seconds is None else max(0, self.now - max(0, self.seconds - seconds))
        return Condition(
            gpu, code, words=words.removeprefix(f"GPU {gpu}: ").rstrip("."), todo=todo, since=then, last=then,
            boot=self.boot, uuid=self.uuids.get(gpu, ""),
        )  # fmt: skip


def _of(code, treatments) -> Meaning | None:
    if code.startswith("xid-"):
        return meanings.of_xid(int(code.removeprefix("xid-")), treatments)[0]
    return meanings.BY_CODE.get(code)
