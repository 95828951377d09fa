"""
Step, Part and Plan: what a change will do, as data. The same plan is what a user sees in test mode, what the journal keeps and
what is carried out, so these can't disagree.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

from gpuslice import folding
from gpuslice import kinds
from gpuslice.folding import Told
from gpuslice.model import Key
from gpuslice.numbers import many

#: Phases of a change. Steps of one phase run on all GPUs side by side before the next phase begins; in phase RESET the engine
#: holds no vendor session open, because its own handles would count as clients of the GPU.
PREPARE, RESET, CARVE = 0, 1, 2

#: How steps are told: a line each, all in one line, or not at all.
EACH, ONE_LINE, NO = "each", "one line", "no"

#: What a step changes, whatever it is called: a summary counts these, and newcomers are looked for before a process ends.
EFFECTS = ("slice", "mode", "reset", "driver", "process", "unit", "file", "setting")


#: The summary of a plan without a step.
NOTHING = "Nothing to do."
#: What may be waited for -> how it is told.
_FOR = {"idle": "until idle", "window": "for the maintenance window"}


@dataclass(frozen=True)
class Step:
    """
    One operation that either happens or does not.

    :ivar gpu: PCI address of the GPU that it is told of; :ivar technique: who carries it out; :ivar action: the operation;
    :ivar args: its arguments; :ivar effect: what kind of thing it changes, one of :data:`EFFECTS`.
    :ivar words: what it does, for people; :ivar undo: what undoes it, for people; "" when nothing can.
    :ivar disrupts: identities of existing slices that it ends; :ivar needs: idle, reset, reboot.
    :ivar seconds: estimate of its time; :ivar source: where that is known from, in words of :mod:`gpuslice.costs`.
    """

    gpu: str
    technique: str
    action: str
    args: dict
    words: str
    undo: str = ""
    disrupts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    phase: int = CARVE
    effect: str = "setting"
    source: str = ""

    @classmethod
    def from_dict(cls, data: dict) -> "Step":
        """The step that :func:`dataclasses.asdict` (and JSON) made ``data`` of."""
        return cls(**{**data, "disrupts": tuple(data["disrupts"]), "needs": tuple(data["needs"])})


@dataclass(frozen=True)
class Part:
    """
    What happens to one subject of one technology: to one GPU, or to what several have in common.

    :ivar addresses: PCI addresses of the GPUs that it covers; it is told of the first one.
    :ivar before: the technique's layout of the subject now; :ivar after: what it will be. Plain data.
    :ivar old, new: the same as users see it.
    :ivar keeps: words for each slice that stays; :ivar destroys, creates: for each that goes and comes.
    :ivar destroys_empty, creates_empty: for what goes and comes that holds no slice, such as a GPU instance without any.
    :ivar drawing: the GPU's slots now and afterwards, a line each.
    :ivar stops: systemd units stopped for the change and started again after it, but for those that a technology runs itself,
        which it starts where they are wanted; :ivar unloads: kernel modules likewise.
    :ivar waits: "reboot" when nothing more can be done before one; :ivar note: why, in words, a line for each thing.
    :ivar group: name of what changes together or not at all (GPUs that one driver is loaded anew for), "" for a GPU by itself.
    :ivar concerns: PCI addresses of further GPUs that change with it, so that their health matters too.
    :ivar wanted: whether anything is wanted of the GPU; a boot brings back only what is.
    :ivar forecast: what it stands on changes first, so that it is planned for certain only then.
    """

    key: Key
    addresses: tuple[str, ...]
    model: str = ""
    steps: tuple[Step, ...] = ()
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    old: dict = field(default_factory=dict)
    new: dict = field(default_factory=dict)
    keeps: tuple[str, ...] = ()
    destroys: tuple[str, ...] = ()
    creates: tuple[str, ...] = ()
    destroys_empty: tuple[str, ...] = ()
    creates_empty: tuple[str, ...] = ()
    drawing: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    unloads: tuple[str, ...] = ()
    waits: str = ""
    note: str = ""
    wanted: bool = True
    group: str = ""
    concerns: tuple[str, ...] = ()
    forecast: bool = False

    @property
    def gpu(self) -> str:
        """PCI address of the GPU that it is told of."""
        return self.addresses[0]

    @property
    def layer(self) -> int:
        """Its layer, from the silicon up: see :mod:`gpuslice.kinds`."""
        return kinds.known(self.key.technique).layer

    @property
    def hands_out(self) -> bool:
        """Whether it only hands out what the layers below make, so that it changes no GPU."""
        return self.key.hands_out

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of what is shown otherwise after it than before."""
        return tuple(name for name in {**self.old, **self.new} if self.old.get(name) != self.new.get(name))

    @property
    def only_sets(self) -> bool:
        """Whether it changes settings of a GPU and concerns no slice: counts of these would tell nothing of it."""
        slices = (self.keeps, self.destroys, self.creates, self.destroys_empty, self.creates_empty)
        return bool(self.changed) and not any(slices) and all(step.effect in _SETTING for step in self.steps)

    @property
    def shown_under(self) -> tuple[str, ...]:
        """Where users find it in changes: under the GPUs that it covers; what only hands them out under its own name."""
        return (self.key.technique,) if self.hands_out else self.addresses

    @property
    def pauses(self) -> list[list[str]]:
        """[kind, name] of each unit and module that is stopped for it."""
        return _pauses(self.stops, self.unloads)

    @property
    def seconds(self) -> float:
        """Estimated time in seconds."""
        return sum(step.seconds for step in self.steps)

    @classmethod
    def from_dict(cls, data: dict) -> "Part":
        """The part that :meth:`Plan.as_dict` (and JSON) made ``data`` of."""
        known = {name: tuple(data.get(name, ())) for name in _TUPLES}
        steps = tuple(Step.from_dict(step) for step in data["steps"])
        return cls(**{**data, **known, "key": Key.of(data["key"]), "steps": steps})


#: Effects of steps that concern no slice, no mode and no driver.
_SETTING = ("setting", "file")
_TUPLES = (
    "addresses", "keeps", "destroys", "creates", "destroys_empty", "creates_empty", "drawing", "stops", "unloads", "concerns",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """
    What happens to a host.

    :ivar parts: what is wanted, from the silicon up; :ivar untouched: a line for each GPU that nothing is wanted of.
    :ivar notes: sentences about the host, such as an interrupted change that comes first.
    :ivar remarks: sentences on what is odd about the pillar and no mistake, which the stage before a change tells too.
    :ivar unmanaged: why the pillar manages nothing of the host, as a sentence; "" where it does.
    :ivar blocked: (PCI address, sentence) for each GPU that is in use or ill and is therefore left as it is.
    :ivar waiting: (PCI address, or the technology that hands out; idle or window; sentence) for each that is left as it is until
        its time comes.
    :ivar before, after: words for what the site has run before the change and after it.
    :ivar freeable: PCI addresses of GPUs in use whose users what is run before may make go, after which it is planned again.
    """

    parts: tuple[Part, ...] = ()
    untouched: tuple[str, ...] = ()
    blocked: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unmanaged: str = ""
    waiting: tuple[tuple[str, str, str], ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    freeable: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, part by part."""
        return tuple(step for part in self.parts for step in part.steps)

    @property
    def changing(self) -> tuple[Part, ...]:
        """The parts that have steps."""
        return tuple(part for part in self.parts if part.steps)

    @property
    def empty(self) -> bool:
        """Nothing is to do."""
        return not self.changing

    @property
    def stops(self) -> list[str]:
        """Systemd units to stop for the change."""
        return sorted({name for part in self.changing for name in part.stops})

    @property
    def unloads(self) -> list[str]:
        """Kernel modules to unload for the change."""
        return sorted({name for part in self.changing for name in part.unloads})

    @property
    def pauses(self) -> list[list[str]]:
        """[kind, name] of each unit and module that is stopped for the change."""
        return _pauses(self.stops, self.unloads)

    @property
    def seconds(self) -> float:
        """Estimated time of the whole change in seconds: GPUs go side by side, resets one after the other."""
        resets = sum(step.seconds for step in self.steps if step.phase == RESET)
        each: dict[str, float] = Counter()  # type: ignore[assignment]  # seconds are counted
        for part in self.parts:
            each[part.gpu] += sum(step.seconds for step in part.steps if step.phase != RESET)
        return resets + max(each.values(), default=0.0)

    @property
    def estimate(self) -> str:
        """Where the estimated time is known from, in a few words: what a tenth of it or more goes by, the most first."""
        shares: dict[str, float] = Counter()  # type: ignore[assignment]  # seconds are counted
        for step in self.steps:
            shares[step.source] += step.seconds
        least = sum(shares.values()) / 10
        return " and ".join(sorted((name for name in shares if name and shares[name] >= least), key=lambda name: -shares[name]))

    def as_dict(self) -> dict:
        """Plain data, for JSON and for users."""
        return {**asdict(self), "parts": [{**asdict(part), "key": str(part.key)} for part in self.parts]}

    @classmethod
    def from_dict(cls, data: dict) -> "Plan":
        """The plan that :meth:`as_dict` (and JSON) made ``data`` of."""
        return cls(
            tuple(Part.from_dict(part) for part in data["parts"]),
            tuple(data["untouched"]),
            tuple((address, why) for address, why in data["blocked"]),
            tuple(data["notes"]),
            tuple(data.get("remarks", ())),
            data.get("unmanaged", ""),
            tuple((where, what, why) for where, what, why in data.get("waiting", ())),
            tuple(data.get("before", ())),
            tuple(data.get("after", ())),
            tuple(data.get("freeable", ())),
        )

    def changes(self) -> dict[str, dict]:
        """The planned change of each GPU in the shape of a state's ``changes``: address -> {old, new}."""
        found: dict[str, dict] = {}
        for part in self.changing:
            for where in part.shown_under:
                merge(found, where, *(differing(part.old, part.new) if part.hands_out else (part.old, part.new)))
        return found

    def summary(self) -> str:
        """One line: what is kept, destroyed, created, and how long it should take; and what waits."""
        if self.waiting:
            done = replace(self, waiting=()).summary()
            return f"{'Nothing to do now' if done == NOTHING else done.rstrip('.')}; {self.waits()}."
        if self.empty and self.blocked:
            return f"{_gpus(len(self.blocked))} can't be changed now."
        if self.empty:
            waiting = list(dict.fromkeys(part.gpu for part in self.parts if part.waits))
            return f"Nothing to do; waits for a reboot: {', '.join(waiting)}." if waiting else NOTHING
        cutting = [part for part in self.changing if not part.hands_out]
        handing = [part for part in self.changing if part.layer == kinds.HAND_OUT]
        telling = [part for part in self.changing if part.layer == kinds.TELL]
        told = [_cutting_summary(cutting)] if cutting else []
        moved = sum(len(part.changed) for part in handing)
        handed = f"{many(moved, 'consumer')} with another slice or limit" if moved else "consumers keep their slices"
        told += [handed] if handing else []
        told += [f"tells {' and '.join(kinds.known(part.key.technique).label for part in telling)} of it"] if telling else []
        known_from = f" ({self.estimate})" if self.estimate else ""
        return f"{'; '.join(told)}; about {self.seconds:.1f} s{known_from}."

    def waits(self) -> str:
        """How much waits for what, in a clause; "" where nothing does."""
        if not self.waiting:
            return ""
        handing = sorted({kinds.known(where).label for where, _, _ in self.waiting if kinds.named(where)})
        gpus = len({where for where, _, _ in self.waiting if kinds.named(where) is None})
        who = " and ".join([*([_gpus(gpus)] if gpus else []), *handing])
        return f"{who} {'waits' if gpus == 1 and not handing else 'wait'} {_FOR[self.waiting[0][1]]}"

    def text(self, steps: str = EACH, brief: bool = False) -> str:
        """
        The plan as a person reads it: a line a GPU, its slots before and after, its steps; of GPUs that do the same, once.

        :param steps: :data:`EACH`, :data:`ONE_LINE` or :data:`NO`. :param brief: without what a stage before it has told.
        """
        together, parts = _parted(self.parts)
        told = [*(_told_together(each, steps) for each in together), *(_told(part, steps, brief) for part in parts)]
        first = [self.unmanaged] if self.unmanaged else []
        lines = [*first, *folding.sentences([*self.notes, *(() if brief else self.remarks)])]
        lines += [f"Before it: {each}" for each in self.before]
        lines += ["It is planned again when that has run: those who use a GPU may be gone then."] if self.freeable else []
        lines += [*folding.folded(told), *(f"After it, whatever comes: {each}" for each in self.after)]
        waiting = [f"Waits: {why}" for _, _, why in self.waiting]
        lines += folding.sentences([*(f"Left as it is: {why}" for _, why in self.blocked), *waiting, *self.untouched])
        # Where one line tells of all GPUs it is the summary.
        is_told = brief and len(lines) > 1 and sum(not line.startswith(" ") for line in lines) == 1
        if not is_told:
            return "\n".join([*lines, self.summary()])
        source = f" ({self.estimate})" if self.estimate else ""
        return "\n".join(line if line.startswith(" ") else f"{line}{source}" for line in lines)


def _cutting_summary(parts: list[Part]) -> str:
    """What becomes of GPUs, in a clause."""
    effects = Counter(step.effect for part in parts for step in part.steps)
    setting = [part for part in parts if part.only_sets]
    clauses = [] if len(setting) == len(parts) else [_counts(parts, "slice")]
    clauses += [f"{_sets(setting)} on {_gpus(len({each for part in setting for each in part.addresses}))}"] if setting else []
    clauses += [f"changes a mode on {_gpus(modes)}"] if (modes := effects["mode"]) else []
    clauses += [f"resets {_gpus(resets)}"] if (resets := effects["reset"]) else ["no reset"]
    clauses += ["loads a driver anew"] if effects["driver"] else []
    gpus = len({address for part in parts for address in part.addresses})
    return f"{_gpus(gpus)} to change: {', '.join(clauses)}"


def _pauses(stops: Iterable[str], unloads: Iterable[str]) -> list[list[str]]:
    return [*(["unit", name] for name in stops), *(["kernel module", name] for name in unloads)]


def merge(changes: dict[str, dict], address: str, old: dict, new: dict) -> None:
    """Add what becomes of one technology of a GPU to ``changes``: address -> {old, new}. The first ``old`` stays."""
    known = changes.setdefault(address, {"old": {}, "new": {}})
    known["old"] = {**old, **known["old"]}
    known["new"] = {**known["new"], **new}


def differing(old: dict, new: dict) -> tuple[dict, dict]:
    """What is in one of two mappings and not the same in the other: of many consumers only those of whom there is news."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: old[name] for name in names if name in old}, {name: new[name] for name in names if name in new}


def _parted(parts: tuple[Part, ...]) -> tuple[list[tuple[list[Part], list[Step]]], list[Part]]:
    """
    (what is done for all GPUs of a group at once, the parts without it): a driver that is loaded anew, and what leads to that,
    are steps of all, though they stand with one of them.
    """
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if part.group and part.steps:
            groups.setdefault(part.group, []).append(part)
    together, less = [], dict[Key, Part]()
    for group in groups.values():
        leader = next((part for part in group if any(step.effect == "driver" for step in part.steps)), group[0])
        shared = _for_all(leader, [part for part in group if part is not leader])
        # Who has no other step would be told as one that is as wanted.
        if shared and len(shared) < len(leader.steps):
            together.append((group, shared))
            less[leader.key] = replace(leader, steps=tuple(step for step in leader.steps if step not in shared))
    return together, [less.get(part.key, part) for part in parts]


def _for_all(leader: Part, others: list[Part]) -> list[Step]:
    """Of what none of the others does, what ends with the driver that is loaded anew; the rest is that GPU's alone."""
    theirs = {step.words.replace(part.gpu, "") for part in others for step in part.steps}
    own = [step for step in leader.steps if step.words.replace(leader.gpu, "") not in theirs] if others else []
    ends = [place for place, step in enumerate(own, 1) if step.effect == "driver"]
    return own[: ends[-1]] if ends else []


def _told_together(shared: tuple[list[Part], list[Step]], steps: str) -> Told:
    parts, own = shared
    addresses = [address for part in parts for address in part.addresses]
    name = folding.several(addresses, parts[0].model if len({part.model for part in parts}) == 1 else "")
    seconds = sum(step.seconds for step in own)
    return Told((), "", f"about {seconds:.1f} s", tuple(_step_lines(own, steps)), word=f"{name}, together")


def _told(part: Part, steps: str, brief: bool) -> Told:
    kind = kinds.known(part.key.technique)
    # What only hands out is the host's, and makes and ends no slice.
    names, model, word = ((), "", kind.label.capitalize()) if part.hands_out else (part.addresses, part.model, kind.word)
    if not part.steps:
        first, *more = (part.note or "already as wanted").split("\n")
        return Told(names, model, first, tuple(f"  {line}" for line in more), word=word)
    counts = "" if part.hands_out else f"{_sets([part]) if part.only_sets else _counts([part])}, "
    return Told(names, model, f"{counts}about {part.seconds:.1f} s", tuple(_part_lines(part, steps, brief)), word=word)


def _part_lines(part: Part, steps: str, brief: bool) -> list[str]:
    """What is told of a part below its head."""
    lines = []
    if part.hands_out:
        told = (folding.differences(name, part.old.get(name), part.new.get(name), brief) for name in part.changed)
        lines += [f"  {line}" for each in told for line in each]
    if len(part.drawing) == 2:
        lines += [f"  now    {part.drawing[0]}", f"  after  {part.drawing[1]}"]
    lines += _step_lines(part.steps, steps)
    lines += [f"  {kind} {name} is stopped for it{_after(name)}" for kind, name in part.pauses]
    lines += ["  planned again once its slices are there"] if part.forecast else []
    return lines + [f"  {line}" for line in part.note.split("\n") if line]


def _step_lines(done: Iterable[Step], steps: str) -> list[str]:
    numbered = [f"{number}. {step.words}" for number, step in enumerate(done, 1)]
    if steps == ONE_LINE:
        return [f"  {'; '.join(numbered)}"]
    return [f"  {each}" for each in numbered] if steps == EACH else []


def _after(name: str) -> str:
    return "" if kinds.is_ours(name) else " and started again afterwards"


def _sets(parts: Iterable[Part]) -> str:
    return f"sets {', '.join(dict.fromkeys(name for part in parts for name in part.changed))}"


def _counts(parts: Iterable[Part], noun: str = "") -> str:
    """How many slices these plans keep, destroy and create, and what of it holds none: that goes and comes too."""

    def total(what: str) -> int:
        return sum(len(getattr(part, what)) for part in parts)

    def also(what: str) -> str:
        return f" and {many(empty, 'empty instance')}" if (empty := total(what)) else ""

    keeps = many(total("keeps"), noun) if noun else total("keeps")
    destroys, creates = f"{total('destroys')}{also('destroys_empty')}", f"{total('creates')}{also('creates_empty')}"
    return f"keeps {keeps}, destroys {destroys}, creates {creates}"


def _gpus(count: int) -> str:
    return many(count, "GPU")


def same(one: object, other: object) -> bool:
    """Whether two layouts or settings are equal once JSON has made lists of their tuples."""
    return json.loads(json.dumps(one)) == json.loads(json.dumps(other))
