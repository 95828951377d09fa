"""
Time-slicing: several consumers take turns on a whole GPU, or on each of its MIG devices.

Nothing is made for it on the hardware. What there is: how long a turn lasts (NVIDIA: one of four steps, and a compute mode that
lets several programs in; Intel: the duration of each engine class), and our own record of how many consumers each slice may be
handed to. On MIG devices the driver takes no length, so there it is the record alone. Turns are equal, and advisory: nothing
enforces a share, and no memory is isolated, which every plan says.

Settings that it takes: those of the pillar (``slice_duration`` as text or in seconds), of which what is left out has the default;
or ``{"clear": True}``: nothing shared; or ``{"layout": {...}}``: exactly this.
"""

from functools import cached_property
from typing import final

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import mps
from gpuslice.drivers import pci
from gpuslice.drivers.compute_policy import ComputePolicy
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.techniques import shares
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.time_slicing.ledger import NOTHING
from gpuslice.techniques.time_slicing.ledger import ledger
from gpuslice.techniques.time_slicing.section import SECTION
from gpuslice.techniques.time_slicing.section import seconds
from gpuslice.techniques.time_slicing.section import span
from gpuslice.techniques.time_slicing.turns import IntelTurns
from gpuslice.techniques.time_slicing.turns import NvidiaTurns
from gpuslice.techniques.whole import whole_gpu

_ADVISORY = "no memory isolation; turns are equal and advisory"
_UNDER_MIG = "MIG devices take no length of their turns"


class Sharing:
    """
    What a GPU has now. The settings of the hardware are read only when they are needed: of a GPU that nobody shares, and to list
    its replicas, they are not.

    :ivar replicas: name of a slice -> consumers; :ivar profiles: those that are shared, [] for all.
    :ivar former: settings as they were before.
    """

    def __init__(self, noted, read):
        self.replicas, self.profiles, self.former = noted["replicas"], noted["profiles"], noted["former"]
        self._read = read

    @cached_property
    def now(self):
        """The settings of the hardware by name, {} where there are none."""
        return self._read()


@final
class TimeSlicing(Technique):
    """Time-slicing on one host."""

    name = "time-slicing"
    effects = {"note": "file"}

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._ledger, self._policy = ledger(host), ComputePolicy(host, sessions)

    # -- facts ---------------------------------------------------------------------------------------------------
    def why_not(self, gpu):
        """Why a GPU can't."""
        if gpu.vendor == "nvidia":
            return Why("NVIDIA's vGPU manager has it for virtual machines, whose turns 'vgpu:scheduler' sets")
        if gpu.vendor == "amd":
            return Why("AMD's drivers share a GPU as they like; no length of turns can be set")
        if gpu.driver == "xe":
            return Why("its driver xe shows no tile whose engines could be set")
        return Why("it needs the driver xe, which shows how its engines are shared", mendable=not gpu.driver)

    def observe(self, gpu):
        """Read the record. Raises errors.StateDirUnusable; errors.ResourceConflict for a GPU that was given away."""
        self._host.limits.refuse(gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        return Sharing(self._ledger.read(gpu), lambda: self._turns(gpu).read(gpu))

    def standing(self, gpu, state, below):
        """Without the replicas of slices that are gone."""
        if not state.replicas:
            return state
        replicas, shared = shares.standing(gpu, state.replicas, state.profiles, below(), lambda: self._is_whole(gpu))
        if not replicas:
            return Sharing(NOTHING, dict)
        return Sharing({"replicas": replicas, "profiles": shared, "former": state.former}, lambda: state.now)

    def _is_whole(self, gpu):
        """Whether programs can use the GPU as a whole."""
        if gpu.virtual_functions.get("enabled"):
            return False
        return gpu.vendor != "nvidia" or self._policy.mode(gpu) is not None

    def layout(self, state):
        """The state as plain data; settings count only where something is shared."""
        settings = dict(state.now) if state.replicas else {}
        return _layout(state.replicas, state.profiles, settings, state.former)

    def words(self, layout):
        """A layout in a few words."""
        replicas = layout["replicas"]
        if not replicas:
            return "nothing shared"
        told = ", ".join(f"{name} among {count}" for name, count in sorted(replicas.items()))
        if len(replicas) > 3:
            told = f"{len(replicas)} slices among {max(replicas.values())} each"
        length = self._length(layout["settings"])
        return f"shared in time: {told}{f', {length}' if length else ''}"

    def shown(self, layout):
        """A layout as users see it in changes."""
        length = self._length(layout["settings"])
        return {"replicas": dict(layout["replicas"]), **({"turns": length} if length else {})}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None where nothing is shared."""
        replicas, settings = layout["replicas"], layout["settings"]
        if not replicas:
            return None
        made = {"max_instance_count": max(replicas.values())}
        if length := self._turns(gpu).seconds(settings):
            made["slice_duration"] = span(length)
        if layout["profiles"]:
            made["profiles"] = list(layout["profiles"])
        return {"strategy": "time-slicing", "time_slicing": made}

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, works):
        """
        :raises errors.PolicyError: only whole GPUs are wanted to be shared, and this one has MIG devices; a length that can't be;
            by hand, profiles of which there is none.
        :raises errors.Unsupported: there is nothing to be shared.
        """
        return self.each(works, self._part)

    def _part(self, work):
        gpu, state = work.gpu, work.state
        before = self.layout(state)
        try:
            goal = self._goal(work)
        except (errors.Unsupported, errors.ResourceConflict) as err:
            if not work.target.automatic:
                raise
            # Strategy auto never fails: nobody has asked for it here.
            return self.unchanged(gpu, before, note=f"left alone: {err.what}", wanted=False)
        shared = bool(goal["replicas"])
        noting = tuple(self._noting(gpu, before, goal))
        setting = tuple(self._setting(gpu, state, goal["settings"] if shared else state.former))
        # What was set before is known as long as the record tells it: that is written first and forgotten last.
        steps = (*noting, *setting) if shared else (*setting, *noting)
        old, new = _names(before["replicas"]), _names(goal["replicas"])
        return self.part(
            gpu, before, goal, steps,
            keeps=tuple(f"replica {name}" for name in new if name in old),
            destroys=tuple(f"replica {name}" for name in old if name not in new),
            creates=tuple(f"replica {name}" for name in new if name not in old),
            note=self._note(work, goal, steps),
        )  # fmt: skip

    def _goal(self, work):
        """The wanted layout."""
        gpu, state, settings, below = work.gpu, work.state, work.settings, work.below
        if "layout" in settings:
            return settings["layout"]
        if settings.get("clear"):
            return _layout()
        shares.refuse_other(self._host, gpu, self.name)
        settings = {**SECTION.defaults(), **settings}
        if below.slices or below.asked:
            shares.refuse_alone(work, "time-slicing")
            found = [part.name for part in shares.chosen(work, settings["profiles"])]
            replicas = dict.fromkeys(found, settings["max_instance_count"])
            return _layout(replicas, settings["profiles"] if replicas else [])
        self._refuse_whole(gpu, state)
        shares.refuse_profiles(work, settings["profiles"])
        wanted = self._turns(gpu).wanted(gpu, seconds(settings["slice_duration"]))
        self._refuse_mps(gpu, state, wanted)
        return _layout({gpu.address: settings["max_instance_count"]}, [], wanted, state.former or dict(state.now))

    @staticmethod
    def _refuse_whole(gpu, state):
        """A GPU that nobody can use as a whole has nothing to share."""
        shares.refuse_functions(gpu)
        if not state.now:
            if gpu.vendor == "nvidia":
                raise shares.no_device(gpu)
            why = "it shows no engine whose turns could be set"
            raise errors.Unsupported(
                f"Nothing of the GPU can be shared: {why}.", gpu.address, "See which driver it has: 'salt-call gpu.device'."
            )

    def _refuse_mps(self, gpu, state, wanted):
        """MPS keeps the GPU for its server alone; a compute mode changed under it would let others past its limits."""
        if all(state.now.get(name) == value for name, value in wanted.items()):
            return
        servers = [process for process in self.holders(gpu) if mps.serves(process)]
        if servers:
            raise errors.ResourceConflict(
                f"MPS shares it already: in use by {'; '.join(map(str, servers))}.",
                gpu.address,
                "Time-slicing and MPS exclude each other: end MPS first ('echo quit | nvidia-cuda-mps-control').",
                holders=[process.as_dict() for process in servers],
            )

    def _note(self, work, goal, steps):
        if not goal["replicas"]:
            return "" if work.settings.keys() & {"layout", "clear"} else shares.nothing(work, work.settings.get("profiles"))
        length = self._turns(work.gpu).note(work.gpu, goal["settings"]) if goal["settings"] else _UNDER_MIG
        return f"{'' if steps else 'already as wanted; '}{length}; {_ADVISORY}."

    def _noting(self, gpu, before, goal):
        noted = ("replicas", "profiles", "former")
        if all(before[name] == goal[name] for name in noted):
            return
        told = ", ".join(f"{name} among {count}" for name, count in sorted(goal["replicas"].items()))
        words = f"note that these are shared: {told}" if told else "forget that anything of the GPU is shared"
        args = {name: goal[name] for name in noted}
        yield self.step(gpu, "note", args, words, "file_write", PREPARE if told else CARVE, "put the former note back")

    def _setting(self, gpu, state, wanted):
        # A GPU that is not shared, and is not to be, needs no reading.
        for name, value in wanted.items():
            now = state.now.get(name)
            if now is None or now == value:
                continue
            turns = self._turns(gpu)
            yield self.step(
                gpu, "set", {"name": name, "value": value}, f"set {turns.words(name, value)}", "sysfs_write", CARVE,
                f"{turns.words(name, now)} again",
            )  # fmt: skip

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_note(self, gpu, replicas, profiles, former):
        self._ledger.write(gpu, {"replicas": replicas, "profiles": profiles, "former": former})

    def _run_set(self, gpu, name, value):
        self._turns(gpu).write(gpu, name, value)

    def forget_users(self):
        """Read the list of all GPUs anew for the next plan."""
        self._policy.forget()

    def release(self):
        """A reset or another run may have changed what was read."""
        self._policy.forget()

    # -- consumers -----------------------------------------------------------------------------------------------
    def holders(self, gpu):
        """The processes that hold the GPU open."""
        return device_nodes.holding(self._host, device_nodes.of(self._host, gpu.address))

    def slices(self, gpu, state):
        """The replicas of the whole GPU."""
        return self.slices_on(gpu, state, [])

    def slices_on(self, gpu, state, below):
        """The replicas of the MIG devices; of the whole GPU where it can be used as one."""
        replicas = self.standing(gpu, state, lambda: below).replicas
        if not replicas:
            return []
        return [one for part in below or [whole_gpu(self._host, gpu)] for one in _replicas(part, replicas.get(part.name, 0))]

    def expected_on(self, gpu, layout, below):
        """The replicas that a layout will have."""
        replicas = layout["replicas"]
        return [one for part in below or [whole_gpu(self._host, gpu)] for one in _replicas(part, replicas.get(part.name, 0))]

    def drawing(self, gpu, state):
        """How many share what."""
        return ", ".join(f"{name} among {count}" for name, count in sorted(state.replicas.items()))

    def _turns(self, gpu):
        return NvidiaTurns(self._policy) if gpu.vendor == "nvidia" else IntelTurns(self._host)

    def _length(self, settings):
        turns = IntelTurns(self._host) if any("/" in name for name in settings) else NvidiaTurns(self._policy)
        return turns.told(settings)


def _layout(replicas=(), profiles=(), settings=(), former=()):
    return {"replicas": dict(replicas), "profiles": list(profiles), "settings": dict(settings), "former": dict(former)}


def _names(replicas):
    return shares.names(replicas, "replica")


def _replicas(part, count):
    """The replicas of a slice: for each the same device nodes and memory, and an equal part of its compute, not enforced."""
    compute = None if part.compute is None or not count else round(part.compute / count, 3)
    return shares.parts_of(part, "replica", count, compute, part.memory_mib)
