"""
How the engine and its techniques are called. All of this suite calls them from here and nowhere else, so that it holds for a
technique whose methods get other signatures: then only this file follows.
"""

import json
import os
import threading
from contextlib import contextmanager
from typing import NamedTuple

import yaml

from gpuslice import kinds
from gpuslice.engine import Engine
from gpuslice.errors import GpuSliceError as Refusal
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.plan import Plan
from gpuslice.plan import same
from gpuslice.policy.as_text import as_yaml
from gpuslice.records.journal import Journal
from gpuslice.shape import anything
from gpuslice.shape import record
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.base import Work
from gpuslice.techniques.toolbox import Toolbox

__all__ = ("NAMES", "Refusal", "same")
#: The names of all techniques.
NAMES = tuple(kind.name for kind in kinds.DOABLE)
#: Of these, what others can stand on.
SHAPES = tuple(kind.name for kind in kinds.DOABLE if kind.layer == kinds.SHAPE)
#: How the engine's own records begin, below the state directory; techniques keep notes there too.
_RECORDS = ("journal.", "verified.", "reboot.", "history")
#: Techniques that can take one slice out of what is there -> their word for it in a difference.
_LESS = {"mig": "destroy", "vgpu": "remove"}
#: What is among the arguments of programs that only look.
_LOOKS = ("is-active", "-l", "-q")


class Place(NamedTuple):
    """A simulated host on disk: its description and its state directory."""

    description: str
    state_dir: str

    @property
    def host(self):
        """The host, to be looked at and to be given faults."""
        return SimulatedHost(self.description, self.state_dir)


# -- the host as a whole ----------------------------------------------------------------------------------------------
def opened(place):
    """An engine on a host, to be used in ``with``."""
    return Engine({"simulate": place.description, "state_dir": place.state_dir})


def tool(engine, name):
    """A technique of an engine."""
    return engine.tools.get(name)


def strategy(name):
    """What the pillar calls a technique."""
    return kinds.named(name).word


def release(engine):
    """Let go of every GPU."""
    engine.tools.release()


def able(engine, name):
    """The GPUs for which a technique is at work now."""
    return [gpu for gpu in engine.gpus if name in [one.name for one in engine.techniques_of(gpu)]]


def all_slices(engine, taken=False):
    """Every slice of the host, as users get them; those on which others stand too if ``taken`` is true."""
    return engine.slices(taken=taken)


def look(engine):
    """All that is asked of a host to be shown, in one value that JSON can hold."""
    holders = [engine.holders(gpu.address) for gpu in engine.gpus]
    return through_json([engine.devices(), engine.slices(), engine.maps(), engine.health(), holders])


def export(engine):
    """The host as a pillar."""
    return engine.export()


class There(NamedTuple):
    """A change to what a pillar wants."""

    pillar: dict

    def plan(self, engine):
        """What it comes to."""
        return engine.plan(self.pillar)

    def make(self, engine):
        """Make it."""
        return engine.apply(self.pillar)


class Back(NamedTuple):
    """
    A change back to earlier layouts of a technique.

    :ivar earlier: PCI address -> layout; :ivar pillar: how it may be made; what else the pillar wants does not count.
    """

    name: str
    earlier: dict
    pillar: dict

    def plan(self, engine):
        """What it comes to."""
        return engine.reconciler(engine.policy(self.pillar)).plan(self._targets(engine))

    def make(self, engine):
        """Make it."""
        return engine.reconciler(engine.policy(self.pillar)).apply(self._targets(engine))

    def _targets(self, engine):
        technique = tool(engine, self.name)
        found = [gpu for gpu in engine.gpus if gpu.address in self.earlier]
        return [target(self.name, gpu, settings_of(technique, self.earlier[gpu.address])) for gpu in found]


class Less(NamedTuple):
    """
    A change to a GPU without one of its slices, which a technique takes out of what is there.

    :ivar part: the slice, as users get it; :ivar pillar: how it may be made; what else the pillar wants does not count.
    """

    name: str
    part: dict
    pillar: dict

    def make(self, engine):
        """Make it."""
        [gpu] = [gpu for gpu in engine.gpus if gpu.address == self.part["gpu"]]
        identity = self.part.get("uuid") or self.part["address"]
        wanted = target(self.name, gpu, {})._replace(wish={_LESS[self.name]: identity})
        return engine.reconciler(engine.policy(self.pillar)).apply([wanted])


def target(name, gpu, settings):
    """What is wanted of one GPU of a technique."""
    return Target(gpu, Key.of_gpu(name, gpu.address), settings)


def wish(engine, pillar):
    """The plan of a pillar."""
    return There(pillar).plan(engine)


def make(place, change):
    """Make a change on a host."""
    with opened(place) as engine:
        return change.make(engine)


def apply(place, pillar):
    """Bring a host to a pillar."""
    return make(place, There(pillar))


class Listening(SimulatedHost):
    """
    A simulated host that tells of every call that a fault could hit: ``told.call(name, gpu, purpose)``, where the latter is
    ``records`` for what only keeps the engine's records, and ``look`` for a program that changes nothing; and of every step
    before it is done: ``told.step(key, number)``, of the text of a key.
    """

    def __init__(self, place, told):
        self._told, self._here = None, threading.local()
        super().__init__(place.description, place.state_dir)
        # Calls of NVML are counted only where a fault might hit one.
        self.add_fault({"call": "nvmlInit", "nth": 10**9, "lie": True})
        self._told = told

    def hit(self, call, gpu=""):
        if self._told:
            self._told.call(call, gpu, getattr(self._here, "purpose", ""))
        return super().hit(call, gpu)

    def run(self, argv, timeout=60, given="", environment=None):
        with self._for("look" if any(word in argv for word in _LOOKS) or given.startswith("get_") else ""):
            return super().run(argv, timeout, given, environment)

    def store_write(self, path, data, mode=0o644):
        with self._for(_purpose(path, self.state_dir)):
            super().store_write(path, data, mode)

    def store_remove(self, path):
        with self._for(_purpose(path, self.state_dir)):
            super().store_remove(path)

    def store_append(self, path, line):
        super().store_append(path, line)
        _, key, number = json.loads(line)
        self._told.step(key, number)

    @contextmanager
    def _for(self, purpose):
        self._here.purpose = purpose
        try:
            yield
        finally:
            self._here.purpose = ""


def _purpose(path, state_dir):
    return "records" if os.path.relpath(path, state_dir).startswith(_RECORDS) else ""


def listen(place, change, told):
    """Make a change on a host that tells ``told`` what is done, see :class:`Listening`."""
    machine = Listening(place, told)
    with opened(place) as engine:
        release(engine)
        engine.host, engine.tools = machine, Toolbox(machine)
        return change.make(engine)


def is_closed(place):
    """Whether no change is on record as begun."""
    return Journal(place.host).unfinished() is None


# -- one technique ----------------------------------------------------------------------------------------------------
def observe(tool, gpu):
    """What a GPU has now, in the technique's own form."""
    return tool.observe(gpu)


def layout(tool, state):
    """The same as plain data."""
    return tool.layout(state)


def words(tool, layout):
    return tool.words(layout)


def shown(tool, layout):
    return tool.shown(layout)


def pillar(tool, gpu, layout):
    return tool.pillar(gpu, layout)


def drawing(tool, gpu, state):
    return tool.drawing(gpu, state)


def slices(tool, gpu, state):
    return [part.as_dict() for part in tool.slices(gpu, state)]


def can_do_with_less(name):
    """Whether a technique can take one slice out of what is there."""
    return name in _LESS


def expected(tool, gpu, layout):
    """The slices that a layout will have, as far as it tells them before."""
    return [part.as_dict() for part in tool.expected(gpu, layout)]


def health(engine, gpu):
    return engine.health(gpu.address)


def holders(tool, gpu):
    return tool.holders(gpu)


def settings_of(tool, layout):
    """Settings that ask for exactly this layout."""
    return tool.settings_of(layout)


def plan(tool, wanted):
    """
    Plans for all these GPUs.

    :param wanted: a list of (GPU, state, settings).
    """
    targets = [target(tool.name, gpu, settings) for gpu, _, settings in wanted]
    works = [Work(one, state, peers=tuple(targets)) for one, (_, state, _) in zip(targets, wanted, strict=True)]
    return [part for group in tool.together(works) for part in tool.plan(group)]


# -- as it is kept on disk --------------------------------------------------------------------------------------------
def through_json(data):
    return json.loads(json.dumps(data))


def through_yaml(data):
    return yaml.safe_load(as_yaml(data))


def check_layout(name, data):
    """Raises a ValueError for a layout that could not be read back from a file."""
    kinds.section(kinds.named(name)).layout()(data, "layout")


def check_step(step):
    """Raises a ValueError for a step that could not be read back from a file."""
    needed = kinds.section(kinds.named(step.technique)).steps().get(step.action, {})
    record(needed, dict.fromkeys(step.args, anything) | needed)(step.args, step.action)


def plan_read_back(plan):
    """A plan as the journal gives it back."""
    return Plan.from_dict(through_json(plan.as_dict()))
