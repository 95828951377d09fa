"""
Step and Plan: what a change will do, as data. The same plan is what a user sees in test mode, what the journal keeps and
what is carried out, so these can't disagree.
"""

import json
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field

#: Phases of a change. Steps of one phase run on all GPUs side by side before the next phase begins; in phase RESET the engine
#: holds no vendor session open, because its own handles would count as clients of the GPU.
PREPARE, RESET, SHAPE = 0, 1, 2


@dataclass(frozen=True)
class Step:
    """
    One operation that either happens or does not.

    :ivar gpu: PCI address; :ivar technique: who carries it out; :ivar action: the operation; :ivar args: its arguments.
    :ivar words: what it does, for people; :ivar undo: what undoes it, for people; "" when nothing can.
    :ivar disrupts: identities of existing slices that it ends; :ivar needs: idle, reset, reboot.
    :ivar seconds: estimate of its time.
    """

    gpu: str
    technique: str
    action: str
    args: dict
    words: str
    undo: str = ""
    disrupts: tuple = ()
    needs: tuple = ()
    seconds: float = 0.0
    phase: int = SHAPE

    @classmethod
    def from_dict(cls, data):
        """The step that :func:`dataclasses.asdict` (and JSON) made ``data`` of."""
        return cls(**{**data, "disrupts": tuple(data["disrupts"]), "needs": tuple(data["needs"])})


@dataclass(frozen=True)
class GpuPlan:
    """
    What happens to one GPU.

    :ivar before: the technique's layout of the GPU now; :ivar after: what it will be. Plain data.
    :ivar old, new: the same as users see it.
    :ivar keeps: words for each slice that stays; :ivar destroys, creates: for each that goes and comes.
    :ivar destroys_empty, creates_empty: for what goes and comes that holds no slice, such as a GPU instance without any.
    :ivar drawing: the GPU's slots now and afterwards, a line each.
    :ivar stops: systemd units stopped for the change and started again after it; :ivar unloads: kernel modules likewise.
    :ivar waits: "reboot" when nothing more can be done before one; :ivar note: why, in words.
    :ivar group: name of what changes together or not at all (GPUs that one driver is loaded anew for), "" for a GPU by itself.
    :ivar wanted: whether anything is wanted of the GPU; a boot brings back only what is.
    :ivar covers: PCI addresses of other GPUs that it touches too, whose health matters as much.
    """

    gpu: str
    technique: str
    model: str = ""
    steps: tuple = ()
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    old: dict = field(default_factory=dict)
    new: dict = field(default_factory=dict)
    keeps: tuple = ()
    destroys: tuple = ()
    creates: tuple = ()
    destroys_empty: tuple = ()
    creates_empty: tuple = ()
    drawing: tuple = ()
    stops: tuple = ()
    unloads: tuple = ()
    waits: str = ""
    note: str = ""
    wanted: bool = True
    group: str = ""
    covers: tuple = ()

    @property
    def seconds(self):
        """Estimated time for this GPU."""
        return sum(step.seconds for step in self.steps)

    @classmethod
    def unchanged(cls, gpu, technique, layout, shown, **why):
        """
        The plan of a GPU to which nothing is done.

        :param gpu: :class:`gpuslice.model.Gpu`; :param layout: of the GPU now; :param shown: the same as users see it.
        :param why: ``waits``, ``note`` and ``wanted``.
        """
        return cls(gpu.address, technique, gpu.model, before=layout, after=layout, old=shown, new=shown, **why)

    @classmethod
    def from_dict(cls, data):
        """The plan that JSON made ``data`` of."""
        tuples = {name: tuple(data[name]) for name in ("keeps", "destroys", "creates", "drawing", "stops", "unloads")}
        # An older version's journal does not have them.
        tuples.update({name: tuple(data.get(name, ())) for name in ("destroys_empty", "creates_empty", "covers")})
        return cls(**{**data, **tuples, "steps": tuple(Step.from_dict(step) for step in data["steps"])})


@dataclass(frozen=True)
class Plan:
    """
    What happens to a host.

    :ivar gpus: a plan for each GPU that the policy reaches; :ivar untouched: a line for each of the others.
    :ivar notes: sentences about the host, such as an interrupted change that comes first.
    :ivar blocked: (PCI address, sentence) for each GPU that is in use or ill and is therefore left as it is.
    """

    gpus: tuple = ()
    untouched: tuple = ()
    blocked: tuple = ()
    notes: tuple = ()

    @property
    def steps(self):
        """All steps, GPU by GPU."""
        return tuple(step for gpu in self.gpus for step in gpu.steps)

    @property
    def changing(self):
        """The plans of the GPUs that have steps."""
        return tuple(gpu for gpu in self.gpus if gpu.steps)

    @property
    def empty(self):
        """Nothing is to do."""
        return not self.changing

    @property
    def stops(self):
        """Systemd units to stop for the change."""
        return sorted({name for gpu in self.changing for name in gpu.stops})

    @property
    def unloads(self):
        """Kernel modules to unload for the change."""
        return sorted({name for gpu in self.changing for name in gpu.unloads})

    @property
    def seconds(self):
        """Estimated time of the whole change: GPUs go side by side, resets one after the other."""
        resets = sum(step.seconds for step in self.steps if step.phase == RESET)
        return resets + max((sum(s.seconds for s in gpu.steps if s.phase != RESET) for gpu in self.gpus), default=0.0)

    def as_dict(self):
        """Plain data, for JSON and for users."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data):
        """The plan that :meth:`as_dict` (and JSON) made ``data`` of."""
        return cls(
            tuple(GpuPlan.from_dict(gpu) for gpu in data["gpus"]),
            tuple(data["untouched"]),
            tuple(map(tuple, data["blocked"])),
            tuple(data["notes"]),
        )

    def changes(self):
        """The planned change of each GPU in the shape of a state's ``changes``: address -> {old, new}."""
        return {gpu.gpu: {"old": gpu.old, "new": gpu.new} for gpu in self.changing}

    def summary(self):
        """One line: what is kept, destroyed, created, and how long it should take."""
        if self.empty and self.blocked:
            return f"{_gpus(len(self.blocked))} can't be changed now."
        if self.empty:
            waiting = [gpu.gpu for gpu in self.gpus if gpu.waits]
            return f"Nothing to do; waits for a reboot: {', '.join(waiting)}." if waiting else "Nothing to do."
        # Drivers are unbound and bound in this phase too, which is no reset.
        resets = sum(1 for step in self.steps if step.action == "reset")
        parts = [_counts(self.changing, "slice")]
        parts += [f"changes a mode on {_gpus(modes)}"] if (modes := sum(1 for s in self.steps if s.action == "set_mode")) else []
        parts += [f"resets {_gpus(resets)}"] if resets else ["no reset"]
        parts += ["loads a driver anew"] if any(step.action in ("reload", "load_driver") for step in self.steps) else []
        return f"{_gpus(len(self.changing))} to change: {', '.join(parts)}; about {self.seconds:.1f} s."

    def text(self, steps=True):
        """The plan as a person reads it: a line a GPU, its slots before and after, its steps."""
        lines = list(self.notes)
        for gpu in self.gpus:
            lines += _gpu_lines(gpu, steps)
        lines += [f"Left as it is: {why}" for _, why in self.blocked]
        lines += list(self.untouched)
        return "\n".join([*lines, self.summary()])


def _gpu_lines(gpu, steps):
    head = f"{gpu.gpu} {gpu.model} ({gpu.technique})"
    if not gpu.steps:
        return [f"{head}: {gpu.note or 'already as wanted'}"]
    lines = [f"{head}: {_counts([gpu])}, about {gpu.seconds:.1f} s"]
    if len(gpu.drawing) == 2:
        lines += [f"  now    {gpu.drawing[0]}", f"  after  {gpu.drawing[1]}"]
    lines += [f"  {number}. {step.words}" for number, step in enumerate(gpu.steps, 1)] if steps else []
    pauses = [("unit", name) for name in gpu.stops] + [("kernel module", name) for name in gpu.unloads]
    lines += [f"  {kind} {name} is stopped for it and started again afterwards" for kind, name in pauses]
    return lines + ([f"  {gpu.note}"] if gpu.note else [])


def _counts(gpus, noun=""):
    """How many slices these plans keep, destroy and create, and what of it holds none: that goes and comes too."""

    def total(what):
        return sum(len(getattr(gpu, what)) for gpu in gpus)

    def also(what):
        return f" and {_many(empty, 'empty instance')}" if (empty := total(what)) else ""

    keeps = _many(total("keeps"), noun) if noun else total("keeps")
    destroys, creates = f"{total('destroys')}{also('destroys_empty')}", f"{total('creates')}{also('creates_empty')}"
    return f"keeps {keeps}, destroys {destroys}, creates {creates}"


def _many(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _gpus(count):
    return _many(count, "GPU")


def same(one, other):
    """Whether two layouts or settings are equal once JSON has made lists of their tuples."""
    return json.loads(json.dumps(one)) == json.loads(json.dumps(other))
