"""
The contract of every technology: what the engine asks of it, and nothing else. A technique keeps nothing between two calls but
what it has read and can read again: what a plan goes by is handed to it.

A **state** is a technique's own object, a reading of the hardware. A **layout** is plain data, comparable, written into journal
and records: what would have to be there for the GPU to count as unchanged. **Settings** ask for a layout: the pillar's words,
settled.
"""

import re
from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import ClassVar
from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice.costs import seconds
from gpuslice.costs import source
from gpuslice.drivers import device_nodes
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Host
from gpuslice.model import Gpu
from gpuslice.model import Key
from gpuslice.model import Process
from gpuslice.model import Slice
from gpuslice.model import Target
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.plan import Part
from gpuslice.plan import Step
from gpuslice.rules import PLAIN
from gpuslice.rules import Rules


class Why(NamedTuple):
    """
    Why a GPU can't do a technology.

    :ivar words: a sentence or part of one, "" where there is nothing to say; :ivar mendable: whether the configuration of the
        host is to blame instead of the hardware.
    """

    words: str = ""
    mendable: bool = False


class Leftover(NamedTuple):
    """
    A file of ours that no layout tells of.

    :ivar path: where it is; :ivar todo: how to remove it, where that is for its administrator to decide; "" where it is removed.
    """

    path: str
    todo: str = ""


#: A name of a domain that needs no quotes in a shell.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Below(NamedTuple):
    """
    What a layer stands on, for one GPU.

    :ivar slices: :class:`gpuslice.model.Slice` that are there, or will be; :ivar going: names of those that are there and go.
    :ivar certain: False for a forecast: the layer below is planned and not carried out yet.
    :ivar asked: whether the same request says what the layer below is to be.
    :ivar read: False where it can't be read what there is; that is told only to what hands out, which goes on with the others.
    :ivar closed: where there are no slices, and nobody can use the GPU as a whole: the technology whose mode keeps it from that,
        "" for another reason. None where there is something. :ivar given: name of a slice -> who has it, or will have it. Both
        are told only to those above layer TUNE.
    """

    slices: tuple[Slice, ...] = ()
    going: tuple[str, ...] = ()
    certain: bool = True
    asked: bool = False
    read: bool = True
    closed: str | None = None
    given: Mapping[str, str] = {}


class Work(NamedTuple):
    """
    What is to be planned of one GPU.

    :ivar target: what is wanted; :ivar state: what the technique has observed; :ivar rules: what the change may do.
    :ivar below: what it stands on, for technologies of an upper layer.
    :ivar peers: all targets of the same technology in this request, its own among them: what is wanted elsewhere may matter
        here. None in an undo, which goes by what is there.
    """

    target: Target
    state: Any
    rules: Rules = PLAIN
    below: Below = Below()
    peers: tuple[Target, ...] = ()

    @property
    def gpu(self) -> Gpu:
        """The GPU."""
        return self.target.gpu

    @property
    def settings(self) -> dict:
        """What is asked for."""
        return self.target.settings


class Trial(NamedTuple):
    """
    Something to try on a GPU that its owner can spare.

    :ivar words: what it is, such as ``3g.40gb at 4``; :ivar settings: what asks for it.
    :ivar why_not: why it is not tried though it could be thought of, "" for what is.
    """

    words: str
    settings: dict = {}
    why_not: str = ""


class Trials(NamedTuple):
    """
    What can be tried on one GPU, from the state of now.

    :ivar base: settings from which each trial begins and to which it goes back: nothing is cut.
    :ivar each: one after the other. :ivar long: a change of two steps or more, which is stopped and killed half way; where there
        is none, what can be tried of that is tried on the first of the others.
    :ivar rival: settings with which another tool, coming in before the first step of ``long``, takes what a later step of it
        needs, so that the driver refuses that; {} where nothing does.
    :ivar monitors: whether programs that only have the GPU open, such as a vendor's daemons, may stay: who uses it is told by
        :meth:`Technique.holders` then. False where that tells less.
    :ivar why_not: why nothing can be tried on this GPU, "" where something can.
    """

    base: dict = {}
    each: tuple[Trial, ...] = ()
    long: Trial | None = None
    rival: dict = {}
    monitors: bool = False
    why_not: str = ""


class Fact(NamedTuple):
    """
    What the catalog says of a model, beside what its driver says of this GPU.

    :ivar what: such as ``3g.40gb: memory in MiB``; :ivar catalog: None where it says nothing. :ivar found: None likewise.
    """

    what: str
    catalog: Any
    found: Any


class Stops:
    """
    What has to stop for a change of one GPU: units (started again later), modules (loaded again), and bare processes (ended).

    :param gpu: PCI address.
    """

    def __init__(self, host: Host, gpu: str) -> None:
        self._host, self._gpu = host, gpu
        self.units: set[str] = set()
        self.modules: set[str] = set()
        self.processes: list[Process] = []

    def add(self, processes: Iterable[Process], rules: Rules) -> None:
        """
        These hold what has to go.

        :raises errors.ResourceConflict: stopping one of them would end this very run, or the system.
        """
        for process in processes:
            if rules.may_stop(process.unit):
                self._refuse_own_unit(process)
                self.units.add(process.unit)
            elif process not in self.processes:
                device_nodes.refuse_spared(self._host, self._gpu, process.pid, str(process))
                self.processes.append(process)

    def _refuse_own_unit(self, process: Process) -> None:
        if process.unit in self._host.own_units():
            raise errors.ResourceConflict(
                f"In use by {process}, and this run is in the unit {process.unit} itself, so it would end with it.",
                self._gpu,
                "End that use, or run Salt outside of that unit.",
                [process.as_dict()],
            )


def refuse_if_held(gpu: str, doing: str, held: list[Process], rules: Rules, stops: Stops) -> None:
    """
    Let the holders be stopped where the rules allow it, else name them.

    :param gpu: PCI address; :param doing: completes "could not ..."; :param held: processes.
    :param stops: takes note of what has to stop.
    :raises errors.ResourceConflict: somebody holds what has to be free.
    """
    if held and not rules.force and not rules.may_stop_all(held):
        raise errors.ResourceConflict(
            f"Could not {doing}: in use by {'; '.join(map(str, held))}.",
            gpu,
            f"{rules.stop_or_force()}{_ending_domains(held)}",
            holders=[process.as_dict() for process in held],
        )
    stops.add(held, rules)


def _ending_domains(held: list[Process]) -> str:
    """How virtual machines among the holders are ended, as a further sentence: their unit is none that anybody names."""
    names = sorted({process.domain for process in held if _PLAIN.fullmatch(process.domain)})
    return f" A domain goes with 'virsh shutdown {names[0]}'." if names else ""


def unseen(host: Host, gpu: Gpu) -> str:
    """Who has a GPU open where nobody is in sight: words that follow "in use by"."""
    return device_nodes.unseen(host, gpu)


class Technique(ABC):
    """
    One technology on one host; an object serves one run.

    :cvar name: a name of :data:`gpuslice.kinds.KINDS`.
    :cvar effects: action -> what its steps change, one of :data:`gpuslice.plan.EFFECTS`; a setting where there is no entry.
    :cvar forms: forms of other tools in which it can tell layouts, see :meth:`export`.
    :cvar joint: whether there are GPUs of it that can only change together, so that one waits for the others.
    """

    name: ClassVar[str]
    effects: ClassVar[dict[str, str]] = {}
    joint: ClassVar[bool] = False
    forms: ClassVar[tuple[str, ...]] = ()

    def __init__(self, host: Host, sessions: Sessions) -> None:
        self._host = host
        self._sessions = sessions

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu: Gpu) -> bool:
        """Whether the GPU can do it."""
        return kinds.known(self.name).needs in gpu.capabilities

    def why_not(self, gpu: Gpu) -> Why:
        """Why a GPU can't do it."""
        return Why()

    @abstractmethod
    def observe(self, gpu: Gpu) -> Any:
        """Read the hardware: the state of this GPU. Raises an error of gpuslice.errors that says why it can't be read."""

    def standing(self, gpu: Gpu, state: Any, below: Callable[[], list[Slice]]) -> Any:
        """
        The state without what it tells of slices that are gone, for technologies of an upper layer: what people are shown.

        :param below: function that reads the slices that there are of the technologies that it may stand on.
        """
        return state

    def layout(self, state: Any) -> dict:
        """The state as plain data, without what changes with every creation."""
        return state._asdict()

    def needs_driver(self, layout: dict) -> bool:
        """Whether a driver has to have the GPU for this layout to be brought back."""
        return True

    # -- for people ----------------------------------------------------------------------------------------------
    @abstractmethod
    def words(self, layout: dict) -> str:
        """A layout in a few words."""

    @abstractmethod
    def shown(self, layout: dict) -> dict:
        """A layout as users see it in changes."""

    def pillar(self, gpu: Gpu, layout: dict) -> dict | None:
        """Strategy and settings that describe a layout in the pillar's words, None where it slices nothing."""
        return None

    def pinned(self, layout: dict) -> dict | None:
        """
        Strategy and settings by which a pillar keeps a GPU in one piece that is in one now, None where it has no words for that.

        :param layout: one that slices nothing.
        """
        return None

    def export(self, form: str, gpus: list[Gpu]) -> dict:
        """What these GPUs have in a form of another tool, one of ``forms``."""
        raise errors.Unsupported(f"{self.name} has no form {form}.")

    def headroom(self, gpu: Gpu, stood_on: Sequence[str] = ()) -> dict:
        """
        What could still be made of a GPU, as plain data; {} where the technology counts nothing.

        :param stood_on: as of :func:`gpuslice.looks.stood_on`. Raises as :meth:`observe`.
        """
        return {}

    def free(self, gpu: Gpu, state: Any) -> dict:
        """
        What more fits on a GPU as it lies now, from a state at hand: ``placements`` (profile -> how many of it, taken alone) and
        ``fragmentation`` (0 to 1, the share of what could fit that is lost to where things lie); {} where nothing is counted.
        """
        return {}

    def given(self, layout: dict, by_name: bool = False) -> dict[str, str]:
        """Layer HAND_OUT: name of a slice -> who has it. :param by_name: only of those who asked for that very slice."""
        return {}

    def imported(self, form: str, written: Any, name: str, gpus: list[Gpu]) -> tuple[dict, list[str]]:
        """
        A pillar from a configuration in one of ``forms``, and sentences on what has to be known of it.

        :param written: the configuration as data; :param name: the one of those in it that the pillar is to apply, "" for none;
        :param gpus: all GPUs of this host. Raises errors.PolicyError with every mistake.
        """
        raise errors.Unsupported(f"{self.name} has no form {form}.")

    def drawing(self, gpu: Gpu, state: Any) -> str:
        """The GPU's slots in a line of text, "" where there is nothing to draw."""
        return ""

    # -- planning ------------------------------------------------------------------------------------------------
    def settings_of(self, layout: dict, begun: list[Step] | None = None) -> dict:
        """
        Settings that ask for exactly this layout.

        :param begun: the steps that a change to be undone has begun; None for a layout that is asked for without an undo.
        """
        return {"layout": dict(layout)}

    def translated(self, gpu: Gpu, layout: dict) -> dict:
        """An earlier layout in the words that the driver has for it now."""
        return layout

    def settle(self, gpu: Gpu, state: Any, wish: dict) -> dict:
        """Settings for what a difference makes of a state. Raises errors.Unsupported where there are no differences."""
        raise errors.Unsupported(f"{self.name} has no such difference.", gpu.address)

    def together(self, works: list[Work]) -> list[list[Work]]:
        """These works in groups of what can only change as one: each group is planned by one call of :meth:`plan`."""
        return [[work] for work in works]

    @abstractmethod
    def plan(self, works: list[Work]) -> list[Part]:
        """
        What has to be done to bring GPUs from what they are to what is wanted.

        :param works: one group of :meth:`together`. :return: at least one part, and together they cover every GPU of the works.
        :raises errors.Several: more than one GPU can't be planned; any other error of gpuslice.errors: one, or all, can't.
        """

    # -- doing ---------------------------------------------------------------------------------------------------
    def run(self, gpu: Gpu, step: Step) -> None:
        """Carry out one step of a plan. Raises an error of gpuslice.errors; the step then did not happen."""
        if step.action == "end_process":
            device_nodes.end_process(self._host, gpu.address, **step.args)
        else:
            self.carry_out(gpu, step)

    def carry_out(self, gpu: Gpu, step: Step) -> None:
        """Carry out a step of this technique's own, as :meth:`run`."""
        getattr(self, f"_run_{step.action}")(gpu, **step.args)

    # -- users ---------------------------------------------------------------------------------------------------
    def holders(self, gpu: Gpu) -> list[Process]:
        """The processes that hold what this technology has of the GPU open."""
        return []

    def in_the_way(self, gpu: Gpu, steps: list[Step]) -> list[Process]:
        """The processes that use, at this moment, what any of these steps ends."""
        return []

    def slices(self, gpu: Gpu, state: Any) -> list[Slice]:
        """What consumers can be given."""
        return []

    def slices_on(self, gpu: Gpu, state: Any, below: list[Slice]) -> list[Slice]:
        """
        What consumers can be given of what stands on these slices, for technologies of an upper layer.

        :param below: the slices that there are of the technologies that it may stand on.
        """
        return self.slices(gpu, state)

    def expected(self, gpu: Gpu, layout: dict) -> list[Slice]:
        """
        The slices that a layout will have, from which what stands on them is forecast. Every technology of layer SHAPE tells
        them; nothing stands on what the layers above make, so these need not.

        :param layout: of now, or the one that a plan leads to. :return: all slices, by the names that :meth:`slices` will give
            them, or [] where a name is not known before. What only exists when they are made (a UUID, device nodes) is left out.
        """
        return []

    def expected_on(self, gpu: Gpu, layout: dict, below: list[Slice]) -> list[Slice]:
        """
        :meth:`expected` of what stands on others, for technologies of an upper layer that make slices.

        :param below: the slices that there will be of the technologies that it may stand on.
        """
        return self.expected(gpu, layout)

    def leaves_whole(self, gpu: Gpu, layout: dict) -> bool:
        """Whether programs can use the GPU as a whole; asked only where no slice of it is told."""
        return True

    def units(self, settings: dict) -> tuple[str, ...]:
        """
        Systemd units of those who are handed slices by these settings, and who were by the last ones. A change that ends what
        they have may stop them: they are started again with what they have then.
        """
        return ()

    def remarks(self) -> list[str]:
        """What has to be said of what was done beside that it was done, as sentences; each is told once."""
        return []

    def leftovers(self) -> list[Leftover]:
        """What a host that is given up still has of ours when there is nothing of this technology: what was kept for an undo."""
        return []

    def ended(self, before: dict, after: dict) -> tuple[str, ...]:
        """Units of :meth:`units` that a change between these layouts did away with: what stopped them must not start them."""
        return ()

    def units_of(self, gpu: Gpu, state: Any, names: list[str]) -> list[str]:
        """
        The systemd units of its own that serve slices, for technologies whose row has ``units``: a change below stops them before
        it ends the slices.

        :param names: of the slices that go.
        """
        return []

    def pending(self, _gpu: Gpu) -> str:
        """
        What was accepted and is not in force yet, in words that say what it waits for; "" for nothing.

        :raises errors.GpuSliceError: it can't be read.
        """
        return ""

    # -- trying it out -------------------------------------------------------------------------------------------
    def trials(self, gpu: Gpu, state: Any) -> Trials | None:
        """What can be tried on a GPU that its owner can spare, see :mod:`gpuslice.qualify`; None where there is nothing."""
        return None

    def facts(self, gpu: Gpu, state: Any) -> list[Fact]:
        """What the catalog says of this model beside what the driver says, as far as both can be known; nothing is changed."""
        return []

    def forget_users(self) -> None:  # noqa: B027 - optional
        """Ask anew who uses what when that is needed next."""

    def release(self) -> None:  # noqa: B027 - optional
        """Forget what a reset or another run makes void."""

    def each(self, works: list[Work], plan_one: Callable[[Work], Any]) -> list:
        """
        What a function makes of each of these works by itself, which mostly is its part.

        :param plan_one: function of a work. :raises errors.Several: of the GPUs for which it raises.
        """
        parts, failed = [], []
        for work in works:
            try:
                parts.append(plan_one(work))
            except errors.GpuSliceError as err:
                failed.append((work.gpu.address, err))
        if failed:
            raise failed[0][1] if len(works) == 1 else errors.Several(failed)
        return parts

    # -- for all, once -------------------------------------------------------------------------------------------
    def step(self, gpu: Gpu, action: str, args: dict, words: str, cost: str, phase: int = CARVE, undo: str = "",
             disrupts: Iterable[str] = (), needs: Iterable[str] = ()) -> Step:  # fmt: skip
        """
        A step of this technique; arguments as of :class:`gpuslice.plan.Step`.

        :param cost: what its estimate goes by, a key of :mod:`gpuslice.costs`.
        """
        effect = "process" if action == "end_process" else self.effects.get(action, "setting")
        return Step(
            gpu.address, self.name, action, args, words, undo, tuple(disrupts), tuple(needs), seconds(cost), phase, effect,
            source(cost),
        )  # fmt: skip

    def ending(self, gpu: Gpu, stops: Stops) -> list[Step]:
        """Steps that end processes which no unit can be stopped for; only apply_strategy force gets here."""
        return [
            self.step(gpu, "end_process", {"pid": one.pid, "command": one.command}, f"end {one}", "end_process", PREPARE)
            for one in stops.processes
        ]

    def part(self, gpu: Gpu, before: dict, after: dict, steps: Iterable[Step] = (), stops: Stops | None = None,
             **more: Any) -> Part:  # fmt: skip
        """
        What happens to one GPU.

        :param before: layout now; :param after: layout that it will have; without steps it is the one of now.
        :param more: the other fields of :class:`gpuslice.plan.Part`.
        """
        steps = tuple(steps)
        after = after if steps else before
        if steps and stops:
            more = {"stops": tuple(sorted(stops.units)), "unloads": tuple(sorted(stops.modules)), **more}
        return Part(
            Key.of_gpu(self.name, gpu.address), (gpu.address,), gpu.model, steps, before, after,
            self.shown(before), self.shown(after), **more,
        )  # fmt: skip

    def unchanged(self, gpu: Gpu, layout: dict, **why: Any) -> Part:
        """
        The part of a GPU to which nothing is done.

        :param layout: of the GPU now; :param why: ``waits``, ``note`` and ``wanted`` of :class:`gpuslice.plan.Part`.
        """
        return self.part(gpu, layout, layout, **why)
