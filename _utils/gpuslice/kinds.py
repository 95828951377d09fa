"""
The technologies, a row each: what policy, inventory, engine and records have to know of one before anything of it is loaded.

Rows are data, and nothing of ours is imported for them. What a technology means is told in its package below
:mod:`gpuslice.techniques`: its words in ``section.py`` (:class:`gpuslice.policy.section.Section`), and what it does to
hardware in ``technique.py``. Both are loaded when they are asked for.
"""

import importlib
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

#: Layers, from the silicon up: what changes the shape of a GPU, what shares what there is, what only sets how it runs, what
#: hands it to somebody else, and what tells schedulers of what is left.
SHAPE, SHARE, TUNE, HAND_OUT, TELL = range(5)
#: In the place of a capability: of every GPU.
EVERY = "*"
#: What virtual machines are given of a technology: slices that are made for them and go with it, or what is on the bus all the
#: same and is only moved to a driver of VFIO.
MADE, BOUND = "made", "bound"


class Capable(Protocol):
    """What is asked here of a :class:`gpuslice.model.Gpu`, which knows this module."""

    @property
    def vendor(self) -> str:
        """Whose it is."""

    @property
    def capabilities(self) -> Sequence[str]:
        """What it can do."""


class Kind(NamedTuple):
    """
    One technology.

    :ivar name: how techniques, plans and records call it. :ivar label: how sentences do ("this GPU has no ...").
    :ivar layer: where it stands, from :data:`SHAPE` to :data:`TELL`.
    :ivar vendors: whose GPUs can have it. :ivar package: its package below :mod:`gpuslice.techniques`.
    :ivar cls: its class in ``technique.py``; "" for one that the pillar's language knows and this version can't do.
    :ivar strategy: its word in the pillar, its name when "". :ivar section: key of its settings there, "" for none.
    :ivar capability: what ``Gpu.capabilities`` must have, its name when "", :data:`EVERY` for nothing.
    :ivar last_word: whether it has to be asked although the capability is there: that may serve another one only.
    :ivar host_wide: whether it belongs to the host, so that all GPUs have it in common.
    :ivar gives_away: whether it gives the whole GPU to somebody else, of whom nothing else can be asked meanwhile.
    :ivar for_machines: whether virtual machines are given its slices: :data:`MADE` or :data:`BOUND`, "" for no.
    :ivar over: names of those that it may stand on. :ivar auto: environments in which strategy auto may fall back to it.
    :ivar goes_with_all: whether it may stand beside any strategy, or none: it sets what belongs to the board, whatever slices
        that. To write a key that says what is to be there switches it on.
    :ivar noted: name of its file in the state directory, where only that tells of it: without one there is nothing to look at.
    :ivar units: how the names of the systemd units begin that it makes and runs itself, "" for none. A change below may stop
        them: nobody else's work ends with them, and what stands on it is planned anew.
    """

    name: str
    label: str
    layer: int
    vendors: tuple[str, ...]
    package: str
    cls: str = ""
    strategy: str = ""
    section: str = ""
    capability: str = ""
    last_word: bool = False
    host_wide: bool = False
    gives_away: bool = False
    for_machines: str = ""
    over: tuple[str, ...] = ()
    goes_with_all: bool = False
    auto: tuple[str, ...] = ()
    noted: str = ""
    units: str = ""

    @property
    def word(self) -> str:
        """What the pillar calls it."""
        return self.strategy or self.name

    @property
    def needs(self) -> str:
        """The capability that a GPU must have for it."""
        return self.capability or self.name

    def fits(self, gpu: Capable) -> bool:
        """Whether a GPU has the capability for it; see ``last_word``."""
        return self.needs == EVERY or self.needs in gpu.capabilities

    def may_concern(self, gpu: Capable) -> bool:
        """Whether a GPU can have it, as far as vendor and capabilities tell."""
        return gpu.vendor in self.vendors and self.fits(gpu)


_ALL = ("nvidia", "amd", "intel")
#: What makes something that somebody can be given.
_SLICING = ("mig", "sriov", "vgpu", "partition", "passthrough", "time-slicing", "mps", "vf-passthrough", "level-zero")

#: In the order of the pillar, which is also that in which strategy auto falls back to one of them. Sharing in time is no
#: fallback where the pick is stronger: weaker isolation has to be asked for by name.
KINDS = (
    Kind("mig", "MIG", SHAPE, ("nvidia",), "mig", "Mig", section="mig", auto=("bare_metal",)),
    Kind(
        "time-slicing", "time-slicing", SHARE, ("nvidia", "intel"), "time_slicing", "TimeSlicing", section="time_slicing",
        over=("mig",), auto=("virtual_guest",), noted="time-slicing.json",
    ),
    Kind(
        "mps", "MPS", SHARE, ("nvidia",), "mps", "Mps", section="mps", over=("mig",), noted="mps.json",
        units="gpu-slicing-mps-",
    ),
    Kind(
        "sriov", "SR-IOV", SHAPE, ("amd", "intel"), "sriov", "Sriov", section="sriov", last_word=True, auto=("virtual_host",),
        for_machines=MADE,
    ),
    Kind(
        "vf-passthrough", "passthrough of virtual functions", SHARE, ("amd", "intel"), "vf_passthrough", "VfPassthrough",
        section="vf_passthrough", capability="sriov", over=("sriov",), for_machines=BOUND,
    ),
    Kind(
        "vgpu", "vGPU", SHAPE, ("nvidia",), "vgpu", "Vgpus", section="vgpu", last_word=True, over=("mig",),
        auto=("virtual_host",), for_machines=MADE,
    ),
    Kind(
        "licence", "vGPU licence", TUNE, ("nvidia",), "licence", "Licence", strategy="vgpu", section="vgpu", capability="vgpu",
        last_word=True, host_wide=True,
    ),
    Kind("partition", "partition modes", SHAPE, ("amd",), "partition", "Partition", section="partition", auto=("bare_metal",)),
    Kind(
        "level-zero", "Level Zero", TUNE, ("intel",), "level_zero", "LevelZero", section="level_zero",
        auto=("bare_metal", "virtual_guest"),
    ),
    Kind(
        "power", "power cap", TUNE, ("nvidia", "amd", "intel"), "power", "Power", section="power", goes_with_all=True,
        noted="power.json",
    ),
    Kind(
        "passthrough", "passthrough", SHAPE, ("nvidia", "amd", "intel"), "passthrough", "Passthrough", gives_away=True,
        for_machines=BOUND,
    ),
    Kind(
        "consumers", "consumers", HAND_OUT, _ALL, "consumers", "Consumers", capability=EVERY, host_wide=True,
        noted="consumers.json", over=_SLICING,
    ),
    # What somebody has is not theirs to give.
    Kind(
        "slurm", "Slurm", TELL, _ALL, "slurm", "Slurm", capability=EVERY, host_wide=True, noted="slurm.json",
        over=(*_SLICING, "consumers"),
    ),
    Kind(
        "kubernetes", "Kubernetes", TELL, _ALL, "kubernetes", "Kubernetes", capability=EVERY, host_wide=True,
        noted="kubernetes.json", over=(*_SLICING, "consumers"),
    ),
    Kind(
        "nomad", "Nomad", TELL, _ALL, "nomad", "Nomad", capability=EVERY, host_wide=True, noted="nomad.json",
        over=(*_SLICING, "consumers"),
    ),
)  # fmt: skip

#: Those of this version.
KNOWN = tuple(kind for kind in KINDS if kind.cls)

#: Those that hand out what the others make, or tell of it: no strategy for a GPU, but settings of the host, which the pillar has
#: elsewhere.
HANDING_OUT = tuple(kind for kind in KINDS if kind.layer >= HAND_OUT)
_CUTTING = tuple(kind for kind in KINDS if kind.layer < HAND_OUT)

#: Those that this version can do, but for those that hand out. What a GPU has is told by the first that knows it, so one that may
#: stand on another comes before it, and first what is shared; a GPU that is given away as a whole has nothing else to tell, so
#: that comes last.
DOABLE = tuple(
    sorted((kind for kind in reversed(_CUTTING) if kind.cls), key=lambda kind: (kind.gives_away, kind.layer != SHARE))
)

_BY_NAME = {kind.name: kind for kind in KINDS}
#: Of those that share a word, the first.
_BY_WORD = {kind.word: kind for kind in reversed(_CUTTING)}

#: The pillar's words: of every technology, of those that this version can do, and which key has the settings of which.
STRATEGIES = tuple(dict.fromkeys(kind.word for kind in _CUTTING))
AVAILABLE = tuple(dict.fromkeys(kind.word for kind in _CUTTING if kind.cls))
SECTIONS = {word: _BY_WORD[word].section for word in STRATEGIES if _BY_WORD[word].section}


def named(name: str) -> Kind | None:
    """The kind of that name; None for one of another version."""
    return _BY_NAME.get(name)


def known(name: str) -> Kind:
    """The kind of that name, which is one of this version. Raises KeyError."""
    return _BY_NAME[name]


def called(word: str) -> Kind | None:
    """The kind that a word of the pillar means, the first of those that share it; None for no technology."""
    return _BY_WORD.get(word)


def layer_of(word: str) -> int:
    """The layer of what a word of the pillar means."""
    return _BY_WORD[word].layer


def all_called(word: str) -> list[Kind]:
    """All kinds of :data:`DOABLE` that a word of the pillar can mean: which of them it does, the GPU decides."""
    return [kind for kind in _CUTTING if kind.word == word and kind.cls]


def may_stand_on(word: str, lower: str) -> bool:
    """Whether a technology of this version may share, tune or hand out what another one makes; both by the pillar's words."""
    names, layer = {kind.name for kind in _CUTTING if kind.word == lower}, _BY_WORD[lower].layer
    if goes_with_all(word):
        # What is given away can't be set: whoever has it does.
        return word != lower and not _BY_WORD[lower].gives_away
    return any(kind.layer > layer and names.intersection(kind.over) for kind in all_called(word))


def goes_with_all(word: str) -> bool:
    """Whether what a word of the pillar means may stand beside any strategy."""
    return word in _BY_WORD and _BY_WORD[word].goes_with_all


def go_together(one: str, other: str) -> bool:
    """
    Whether two technologies, by name, may be at work on a GPU at a time: one of them stands on the other, or belongs to the
    host, or goes with all. Of one of another version nothing is known, so that it may.
    """
    first, second = named(one), named(other)
    if first is None or second is None or first.host_wide or second.host_wide:
        return True
    if first.goes_with_all or second.goes_with_all:
        # What is given away can't be set meanwhile.
        return not (first.gives_away or second.gives_away)
    return first.layer != second.layer and (one in second.over or other in first.over)


def is_ours(unit: str) -> bool:
    """Whether a systemd unit of that name is one that a technology makes and runs itself."""
    return any(kind.units and unit.startswith(kind.units) for kind in KINDS)


def concerning(gpu: Capable) -> list[Kind]:
    """Those of :data:`DOABLE` that a GPU can have, as far as vendor and capabilities tell."""
    return [kind for kind in DOABLE if kind.may_concern(gpu)]


def fallbacks(environment: str) -> tuple[str, ...]:
    """The pillar's words of what strategy auto may fall back to in an environment, the first of them first."""
    return tuple(dict.fromkeys(kind.word for kind in KINDS if environment in kind.auto))


def technique(kind: Kind) -> Any:
    """The class of a kind of :data:`DOABLE`, loaded."""
    return getattr(importlib.import_module(f"gpuslice.techniques.{kind.package}.technique"), kind.cls)


def section(kind: Kind) -> Any:
    """The :class:`gpuslice.policy.section.Section` of a kind, loaded: its words in the pillar and on record."""
    return importlib.import_module(f"gpuslice.techniques.{kind.package}.section").SECTION
