"""
NVIDIA vGPU: virtual GPUs of a host for its virtual machines.

The order on a GPU with virtual functions is that of the driver: MIG mode, then the functions (enabling them binds the driver
anew, which ends GPU instances and forgets the modes of the vGPU scheduler), then GPU instances, then a type for each function. A
type with a MIG instance to itself stands on MIG, so this technique, and only this one, stands on another: its plan holds steps
of :class:`gpuslice.techniques.mig.technique.Mig`.

Settings that it takes (one of): the keys of the pillar's section; ``{"remove": True}``: no vGPU and no virtual
function; ``{"layout": {...}}``: exactly this earlier layout; ``created`` besides: places of what a change to be undone made.

Differences that :meth:`Vgpus.settle` turns into such settings (one of): ``{"set_type": [function, profile]}``,
``{"remove": UUID or function}``.
"""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from typing import final

from gpuslice import addresses
from gpuslice import errors
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers import vgpu_slots
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.vgpu_slots import Vgpu
from gpuslice.inventory import discovery
from gpuslice.model import Slice
from gpuslice.model import slice_name
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.mig.technique import Mig
from gpuslice.techniques.mig.technique import MigState
from gpuslice.techniques.vgpu import goal as vgpu_goal
from gpuslice.techniques.vgpu import types as vgpu_types
from gpuslice.techniques.vgpu.difference import one_less
from gpuslice.techniques.vgpu.difference import one_more
from gpuslice.techniques.vgpu.doing import Doing
from gpuslice.techniques.vgpu.goal import Goal
from gpuslice.techniques.vgpu.instances import Instances


class VgpuState(NamedTuple):
    """
    What a GPU of a host is now.

    :ivar total: virtual functions that it can have, 0 for one that carries vGPUs itself; :ivar numvfs: those that it has.
    :ivar vgpus: :class:`gpuslice.drivers.vgpu_slots.Vgpu`, by address and UUID.
    :ivar heterogeneous: whether sizes may be mixed, None where that can't be told; :ivar scheduler: word, None likewise.
    :ivar mig: :class:`gpuslice.techniques.mig.technique.MigState`, None for a GPU without MIG.
    """

    total: int
    numvfs: int
    vgpus: tuple = ()
    heterogeneous: bool | None = None
    scheduler: str | None = None
    mig: MigState | None = None


@final
class Vgpus(Technique):
    """vGPU on one host."""

    name = "vgpu"
    effects = {"create_vgpu": "slice", "remove_vgpu": "slice"}

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._mig = Mig(host, sessions, looks_after_vgpus=True)
        self._doing = Doing(host, self._mig.nvml, self.holders, self._slots)
        self._types = {}
        self._instances = Instances(self._mig, self.types)

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu):
        """Whether the driver of the GPU makes vGPUs."""
        return super().supports(gpu) and gpu.vendor == "nvidia" and not discovery.is_vgpu_name(gpu.name)

    def leaves_whole(self, gpu, layout):
        """What NVIDIA's vGPU manager has is for virtual machines."""
        return False

    def why_not(self, gpu):
        """Why a GPU has no vGPUs."""
        if discovery.is_vgpu_name(gpu.name):
            return Why("this is a vGPU in a guest, and vGPUs are made on its host")
        if gpu.vendor != "nvidia":
            return Why("this technology is of NVIDIA; mediated devices of others are not managed here")
        if self._host.exists("/sys/module/nvidia_vgpu_vfio"):
            return Why("the loaded driver makes no vGPUs on this model")
        return Why("the loaded driver is not NVIDIA's vGPU host driver", mendable=True)

    def types(self, gpu):
        """The vGPU types of a GPU, as :class:`.vgpu_types.VgpuTypes`; asked once for boards of one kind."""
        key = (gpu.device_id, gpu.subsystem_id)
        if key not in self._types:
            self._types[key] = vgpu_types.VgpuTypes(self._mig.nvml, gpu.address)
        return self._types[key]

    def _slots(self, gpu):
        return vgpu_slots.slots(self._host, gpu.address, self.types(gpu).name)

    def observe(self, gpu):
        """Read functions, vGPUs, modes and GPU instances. Raises errors.DeviceNotFound, errors.DriverError."""
        bounded.refuse_if_waiting(self._host, gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        base = f"{DEVICES}/{gpu.address}"
        pci.refuse_if_gone(self._host, gpu.address)
        slots, mig = self._slots(gpu), self._mig_state(gpu)
        numvfs = kernel.number(self._host, f"{base}/sriov_numvfs", pci.MOST) or 0
        # Boards of the Turing generation have virtual functions on paper, and carry vGPUs themselves.
        carries = not numvfs and slots is not None and slots.name == "mdev"
        # Both modes are of vGPUs that take turns, which there are none of with MIG.
        takes_turns = mig is None or not mig.current
        return VgpuState(
            0 if carries else kernel.number(self._host, f"{base}/sriov_totalvfs", pci.MOST) or 0,
            numvfs,
            tuple(sorted(self._vgpus(gpu, slots, mig), key=lambda vgpu: (vgpu.at, vgpu.uuid))),
            self._doing.heterogeneous(gpu) if takes_turns else None,
            self._doing.scheduler(gpu) if takes_turns else None,
            mig,
        )

    def _vgpus(self, gpu, slots, mig):
        found = slots.vgpus() if slots else []
        if not mig or not mig.current or all(vgpu.gi is not None for vgpu in found):
            return found
        # The kernel's files of mediated devices don't name the GPU instance, and the driver does while one is in use.
        told = self._doing.instances(gpu)
        return [vgpu if vgpu.gi is not None else vgpu._replace(gi=told.get(vgpu.uuid)) for vgpu in found]

    def _mig_state(self, gpu):
        try:
            return self._mig.observe(gpu) if self._mig.supports(gpu) else None
        except errors.Unsupported:
            # A board that hides MIG, which its vGPUs do without.
            return None

    def layout(self, state):
        """The state as plain data."""
        found = {"vgpus": [[vgpu.type, vgpu.at, vgpu.uuid] for vgpu in state.vgpus], "numvfs": state.numvfs}
        modes = {"heterogeneous": state.heterogeneous, "scheduler": state.scheduler}
        found.update({name: value for name, value in modes.items() if value is not None})
        return found if state.mig is None else {**found, "mig": self._mig.layout(state.mig)}

    def words(self, layout):
        """A layout in a few words."""
        counts = _counts(layout["vgpus"])
        return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no vGPU"

    def shown(self, layout):
        """A layout as users see it in changes."""
        # A function carries one vGPU, and what its UUID will be is not known before the function is there.
        on_functions = bool(layout["numvfs"])
        listed = [f"{name} at {at if on_functions else uuid}" for name, at, uuid in layout["vgpus"]]
        found = {"vgpus": listed, "vfs": layout["numvfs"]}
        if layout.get("heterogeneous"):
            found["heterogeneous"] = True
        if layout.get("scheduler", vgpu_goal.FRESH["scheduler"]) != vgpu_goal.FRESH["scheduler"]:
            found["scheduler"] = layout["scheduler"]
        return {**found, **self._mig.shown(layout["mig"])} if "mig" in layout else found

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None for a GPU without vGPUs. Raises errors.PolicyError: a type has no name."""
        counts = _counts(layout["vgpus"])
        if not counts:
            return None
        if odd := [name for name in counts if vgpu_slots.is_numbered(name)]:
            raise errors.PolicyError(
                f"It carries a vGPU of {odd[0]}, for which the driver has no name, so that no pillar can ask for it.",
                gpu.address,
                "Remove that vGPU first: salt-call gpu_vgpu.vgpus shows where it is.",
            )
        section = {"profile": next(iter(counts)), "count": sum(counts.values())} if len(counts) == 1 else {"profiles": counts}
        if layout.get("scheduler", vgpu_goal.FRESH["scheduler"]) != vgpu_goal.FRESH["scheduler"]:
            section["scheduler"] = layout["scheduler"]
        return {"strategy": "vgpu", "vgpu": section}

    def settings_of(self, layout, begun=None):
        """Settings that ask for exactly this layout; what the ``begun`` steps of a change made may be removed to undo it."""
        found = {"layout": layout}
        if begun is not None:
            found["created"] = [[step.args["at"], step.args["uuid"]] for step in begun if step.action == "create_vgpu"]
        if "mig" in layout:
            mine = None if begun is None else [step for step in begun if step.technique == self._mig.name]
            found["mig"] = self._mig.settings_of(layout["mig"], mine)
        return found

    def translated(self, gpu, layout):
        """An earlier layout under the names that the driver has for types and MIG profiles now. Raises errors.DriverError."""
        types = self.types(gpu)
        found = {**layout, "vgpus": [[vgpu_types.renamed(name, types), *place] for name, *place in layout["vgpus"]]}
        return {**found, "mig": self._mig.translated(gpu, layout["mig"])} if "mig" in layout else found

    def holders(self, gpu):
        """The processes that hold this GPU or one of its vGPUs open."""
        found = {process.pid: process for process in self._mig.holders(gpu)}
        slots = self._slots(gpu)
        users = self._users(slots)
        for vgpu in slots.vgpus() if slots else ():
            found.update({process.pid: process for process in users(vgpu)})
        return [found[pid] for pid in sorted(found)]

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends."""
        slots, found = self._slots(gpu), self._mig.in_the_way(gpu, steps)
        if any(step.action == "set_functions" for step in steps):
            found += self._mig.holders(gpu)
        users = self._users(slots)
        for step in steps:
            if slots and step.action == "remove_vgpu":
                found += users(Vgpu(step.args["type"], step.args["at"], step.args["uuid"]))
        return found

    def _users(self, slots):
        """
        A function of a vGPU that returns the processes which use it. All processes of the host are looked at once, when it is
        first called: a host with many vGPUs has many processes too.
        """
        processes: list[list] = []

        def users(vgpu):
            if not processes:
                processes.append(self._host.processes())
            return device_nodes.holding(self._host, slots.nodes(vgpu), processes[0])

        return users

    def forget_users(self):
        """Ask anew who uses what when that is needed next."""
        self._mig.forget_users()

    def release(self):
        """End the NVML session: our own handles count as clients of the GPU."""
        self._mig.release()

    # -- planning ------------------------------------------------------------------------------------------------
    def settle(self, gpu, state, difference):
        """
        Settings for what a difference makes of ``state``; all other vGPUs stay as they are.

        Raises what :func:`.one_more` and :func:`.one_less` do.
        """
        if "remove" in difference:
            return one_less(gpu, self.layout(state), difference["remove"])
        return one_more(gpu, self.layout(state), self.types(gpu), self._slots(gpu), *difference["set_type"])

    def plan(self, works):
        """
        :raises errors.ProfileMismatch: a type is unknown, or more is wanted than fits. :raises errors.ResourceConflict: a vGPU
            that would go is in use. :raises errors.Unsupported: driver or host can't.
        """
        return [self._plan_gpu(work.gpu, work.state, work.settings, work.rules) for work in works]

    def _plan_gpu(self, gpu, state, settings, rules):
        goal = self._goal(gpu, state, settings, rules)
        if goal.create and state.total:
            pci.refuse_without_iommu(self._host, gpu.address)
        return self._planned(gpu, state, goal, rules)

    def _goal(self, gpu, state, settings, rules):
        if settings.get("remove"):
            return Goal(functions=False)
        if "layout" in settings:
            return self._earlier(gpu, state, settings)
        slots = self._slots(gpu)
        carriers = vgpu_goal.room(self._host, gpu, state, slots)
        counts = vgpu_goal.counts_of(gpu, settings, self.types(gpu), carriers, partial(self._instances.most, gpu), rules)
        stay, missing = vgpu_goal.kept(state, counts, self._users(slots))
        create = vgpu_goal.placed(self._host, gpu, state, slots, stay, missing)
        backed = counts[0][0].gi_profile is not None
        scheduler = settings.get("scheduler") or None
        vgpu_goal.refuse_scheduler(gpu, state, scheduler, backed, rules)
        mixed = not backed and len({found.memory_mib for found, _ in counts}) > 1
        if mixed and state.heterogeneous is None and vgpu_goal.tells_modes(state):
            raise errors.Unsupported(
                "vGPUs of several sizes are wanted, and this GPU or its driver has no heterogeneous mode.",
                gpu.address,
                "Ask for types of one size.",
            )
        mig = self._instances.settings_for(gpu, state, counts, stay) if backed else {"enabled": False} if state.mig else None
        return Goal(tuple(stay), create, True, True if mixed else None, scheduler, mig)

    def _earlier(self, gpu, state, settings):
        layout = self.translated(gpu, settings["layout"])
        listed = [Vgpu(*entry) for entry in layout["vgpus"]]
        there = {vgpu[:3]: vgpu for vgpu in state.vgpus}
        keep = [there[vgpu[:3]] for vgpu in listed if vgpu[:3] in there]
        create = [vgpu for vgpu in listed if vgpu[:3] not in there]
        keep += self._foreign(gpu, state, settings, listed)
        return Goal(
            tuple(keep), tuple(create), bool(layout["numvfs"]), layout.get("heterogeneous"), layout.get("scheduler"),
            settings.get("mig"),
        )  # fmt: skip

    def _foreign(self, gpu, state, settings, listed):
        """What another tool made while a change went on: an undo keeps it, or does not happen where it is in the way."""
        if "created" not in settings:
            return []
        slots = self._slots(gpu)
        places = {vgpu.at for vgpu in listed} if state.total else set()
        made = [(self._doing.function(gpu, at), uuid) for at, uuid in settings["created"]]

        def is_ours(vgpu):
            # One on a function that was not there when it was planned got its UUID when it was made.
            return (vgpu.at, vgpu.uuid) in made or ((vgpu.at, "") in made and vgpu.uuid == slots.uuid(vgpu.at, ()))

        foreign = [v for v in state.vgpus if v[:3] not in {one[:3] for one in listed} and not is_ours(v)]
        if any(vgpu.at in places for vgpu in foreign) or (foreign and state.total and not settings["layout"]["numvfs"]):
            names = ", ".join(f"{vgpu.type} at {vgpu.identity}" for vgpu in foreign)
            raise errors.ForeignChange(f"{names} was made by another tool meanwhile and is not destroyed.", gpu.address)
        return foreign

    def _planned(self, gpu, state, goal, rules):
        stops = Stops(self._host, gpu.address)
        mode = self._mig_steps(gpu, state.mig, goal.mig, rules, stops)
        if mode is not None and mode.waits:
            return self._waiting(gpu, state, mode)
        switching = mode is not None and any(step.action in ("set_mode", "reset") for step in mode.steps)
        functions = goal.functions and bool(state.total)
        off = bool(state.numvfs) and (not functions or switching)
        on = functions and (not state.numvfs or switching)
        if off or on:
            # The driver is bound anew, which ends every GPU instance: planned as what it is.
            bare, mode = self._rebinding(gpu, state, goal, rules, stops)
        else:
            bare = None
        ends = _steps(bare)
        heterogeneous, scheduler = vgpu_goal.modes(state, goal, anew=off or on)
        shaping = off or heterogeneous is not None or scheduler is not None
        keep = () if shaping else self._instances.standing(gpu, state, goal.keep, (*ends, *_steps(mode)))
        if not ends:
            self._instances.refuse_if_taken(gpu, state, goal, keep, _steps(mode), rules, stops)
        going = [vgpu for vgpu in state.vgpus if vgpu not in keep]
        self._refuse_if_used(gpu, going, rules, stops)
        steps = [
            *self._ending(gpu, stops, (*ends, *_steps(mode))),
            *(self._remove(gpu, vgpu) for vgpu in going),
            *(replace(step, phase=PREPARE) for step in (*ends, *_steps(mode)) if step.action.startswith("destroy")),
            *([self._functions(gpu, False)] if off else []),
            *(replace(step, phase=RESET) for step in _steps(mode) if step.action in ("set_mode", "reset")),
            *([self._functions(gpu, True)] if on else []),
            *([self._mode(gpu, heterogeneous)] if heterogeneous is not None else []),
            *([self._policy(gpu, scheduler, state)] if scheduler is not None else []),
            *(step for step in _steps(mode) if step.action.startswith("create")),
            *(self._create(gpu, vgpu) for vgpu in goal.vgpus if vgpu not in keep),
        ]
        return self._gpu_plan(gpu, state, goal, keep, steps, (bare, mode), stops)

    def _mig_steps(self, gpu, state, settings, rules, stops):
        if settings is None or state is None:
            return None
        made = self._mig.plan_gpu(gpu, state, settings, rules)
        stops.units.update(made.stops)
        stops.modules.update(made.unloads)
        return made

    def _rebinding(self, gpu, state, goal, rules, stops):
        """(plan that ends the GPU instances, None where there are none; plan for MIG that begins without any)."""
        held = self._mig.users.of_gpu(gpu, any_client=True)
        refuse_if_held(gpu.address, "bind its driver anew for its virtual functions", held, rules, stops)
        if state.mig is None:
            return None, None
        bare = state.mig._replace(instances=())
        cleared = {"layout": {**self._mig.layout(state.mig), "instances": []}}
        ends = self._mig_steps(gpu, state.mig, cleared, rules, stops) if state.mig.instances else None
        wanted = goal.mig or {"layout": self._mig.layout(bare)}
        return ends, self._mig_steps(gpu, bare, wanted, rules, stops)

    def _refuse_if_used(self, gpu, going, rules, stops):
        users = self._users(self._slots(gpu) if going else None)
        for vgpu in going:
            doing = f"remove vGPU {vgpu.type} at {vgpu.identity}"
            refuse_if_held(gpu.address, doing, users(vgpu), rules, stops)

    def _ending(self, gpu, stops, steps):
        """Steps that end processes: those in the way of vGPUs, and those that the plan for MIG found."""
        found = {step.args["pid"]: step for step in steps if step.action == "end_process"}
        found.update({step.args["pid"]: step for step in self.ending(gpu, stops)})
        return found.values()

    def _remove(self, gpu, vgpu):
        return self.step(
            gpu, "remove_vgpu", {"type": vgpu.type, "at": vgpu.at, "uuid": vgpu.uuid},
            f"remove vGPU {vgpu.type} at {vgpu.identity}", "remove_vgpu", PREPARE,
            f"make it again at {vgpu.identity}", (vgpu.identity,), ("idle",),
        )  # fmt: skip

    def _create(self, gpu, vgpu):
        return self.step(
            gpu, "create_vgpu", {"type": vgpu.type, "at": vgpu.at, "uuid": vgpu.uuid},
            f"make vGPU {vgpu.type} at {vgpu.identity}", "create_vgpu", CARVE, "remove it",
        )  # fmt: skip

    def _functions(self, gpu, enable):
        words = "enable" if enable else "disable"
        return self.step(
            gpu, "set_functions", {"enable": enable}, f"{words} its virtual functions (the driver is bound anew)", "sriov_manage",
            RESET, f"{'disable' if enable else 'enable'} them", (), ("idle",),
        )  # fmt: skip

    def _mode(self, gpu, enabled):
        words = f"{'allow' if enabled else 'no longer allow'} vGPUs of several sizes (heterogeneous mode)"
        return self.step(gpu, "set_heterogeneous", {"enabled": enabled}, words, "sysfs_write", CARVE, "set the mode back")

    def _policy(self, gpu, policy, state):
        words = f"set the vGPU scheduler to {policy}"
        return self.step(
            gpu, "set_scheduler", {"policy": policy}, words, "sysfs_write", CARVE, f"set it to {state.scheduler or 'best-effort'}"
        )

    def _waiting(self, gpu, state, mode):
        return self.unchanged(gpu, self.layout(state), waits=mode.waits, note=mode.note)

    def _gpu_plan(self, gpu, state, goal, keep, steps, migs, stops):
        """:param migs: plans for MIG that were taken into ``steps``, one after the other; None for one that there is not."""
        mode = migs[-1]
        before = self.layout(state)
        after = {**before, "vgpus": [list(vgpu[:3]) for vgpu in goal.vgpus]}
        if state.total:
            after["numvfs"] = (state.numvfs or state.total) if goal.functions else 0
        if any(step.action == "set_functions" for step in steps):
            after.update({name: value for name, value in vgpu_goal.FRESH.items() if name in before})
        wanted = {"heterogeneous": goal.heterogeneous, "scheduler": goal.scheduler}
        after.update({name: value for name, value in wanted.items() if value is not None})
        if mode is not None:
            after["mig"] = mode.after
        if after.get("mig", {}).get("enabled"):
            after = {name: value for name, value in after.items() if name not in vgpu_goal.FRESH}
        there = [vgpu for vgpu in state.vgpus if vgpu in keep]
        stay, go, come = self._instances.bare_devices(gpu, state, goal, keep, steps) if steps else ((), (), ())
        return self.part(
            gpu, before, after, steps, stops,
            keeps=(*(f"{vgpu.type} at {vgpu.identity}" for vgpu in there), *stay),
            destroys=(*(f"{vgpu.type} at {vgpu.identity}" for vgpu in state.vgpus if vgpu not in there), *go),
            creates=(*(f"{vgpu.type} at {vgpu.identity}" for vgpu in goal.vgpus if vgpu not in there), *come),
            destroys_empty=tuple(words for made in migs if made and steps for words in made.destroys_empty),
            creates_empty=tuple(words for made in migs if made and steps for words in made.creates_empty),
            drawing=_drawing(migs) if steps else (),
        )  # fmt: skip

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The vGPUs as slices, with who uses them."""
        slots, types = self._slots(gpu), self.types(gpu) if state.vgpus else {}
        users, below = self._users(slots), self._instances.below(gpu, state)
        return [
            self._slice(gpu, vgpu, types.get(vgpu.type), below.get(vgpu, ""))._replace(
                identity=vgpu.identity,
                device_nodes=tuple(slots.nodes(vgpu)),
                in_use_by=tuple(process.as_dict() for process in users(vgpu)),
            )
            for vgpu in state.vgpus
        ]

    def expected(self, gpu, layout):
        """
        The vGPUs that a layout has. None is told where the name of one is known only when it is made: functions that are not
        there yet may have no address. A mediated device on such a function gets its UUID, which is not told, later still.
        """
        vgpus = [Vgpu(*entry) for entry in layout["vgpus"]]
        if not all(_is_known(gpu, vgpu) for vgpu in vgpus):
            return []
        found = [(vgpu, self.types(gpu).get(vgpu.type)) for vgpu in vgpus]
        return [self._slice(gpu, vgpu, kind, self._instances.only_one(gpu, kind, layout.get("mig"))) for vgpu, kind in found]

    def _slice(self, gpu, vgpu, found, below):
        """
        A vGPU as a slice, as far as its type and its place tell it.

        :param found: its :class:`.types.VgpuType`, None for one that the driver does not know.
        :param below: name of the GPU instance behind it, "" for none.
        """
        profile = self._instances.profile(gpu, found)
        memory = found.memory_mib if found else None
        share = round(profile.slices / self._mig.table(gpu).compute, 3) if profile else None
        # On a virtual function it is the function that somebody is given.
        name = vgpu.at if vgpu.at != gpu.address else slice_name(gpu.address, vgpu.uuid)
        return Slice(gpu.address, self.name, vgpu.type, vgpu.uuid, memory, share, vgpu.at, name=name, of=below)

    def drawing(self, gpu, state):
        """What is there, as a line of text."""
        return self.words(self.layout(state))

    def status(self, gpu):
        """What users see of one GPU."""
        state, slots = self.observe(gpu), self._slots(gpu)
        interface = {"interface": slots.name} if slots else {}
        return {**interface, **self.shown(self.layout(state))}

    def creatable(self, gpu):
        """
        The types of a GPU for users: name -> ``memory_mib``, ``max``, ``mig_profile`` where it has one, ``creatable``: whether a
        vGPU of it can be made now, and ``set_vgpus``: how many there are after all that a change does first.
        """
        slots, state = self._slots(gpu), self.observe(gpu)
        now = {name for function in (slots.carriers() if slots else ()) for name in slots.creatable(function)}
        table = self._mig.table(gpu) if self._mig.supports(gpu) else None
        carriers = vgpu_goal.room(self._host, gpu, state, slots)
        # Virtual functions are refused without it, whatever type they were to carry.
        may = not state.total or pci.iommu_is_on(self._host)
        found = {}
        for name, kind in self.types(gpu).items():
            profile = table.by_id(kind.gi_profile) if table and kind.gi_profile is not None else None
            backed = {"mig_profile": profile.name} if profile else {}
            found[name] = {
                "memory_mib": kind.memory_mib, "max": kind.most, **backed, "creatable": name in now,
                "set_vgpus": self._as_many_as_fit(gpu, name, carriers) if may else 0,
            }  # fmt: skip
        return found

    def _as_many_as_fit(self, gpu, name, carriers):
        """How many vGPUs of a type a GPU has where it alone is asked for, without a number; 0 where that is refused."""
        try:
            most = partial(self._instances.most, gpu)
            counts = vgpu_goal.counts_of(gpu, {"profile": name}, self.types(gpu), carriers, most)
        except errors.Unsupported:
            return 0
        return sum(count for _, count in counts)

    # -- doing ---------------------------------------------------------------------------------------------------
    def carry_out(self, gpu, step):
        """Carry out a step of a change of vGPUs, or of MIG below them."""
        if step.technique == self._mig.name:
            self._mig.run(gpu, step)
            if step.phase == RESET:
                self.release()
            return
        getattr(self._doing, f"run_{step.action}")(gpu, **step.args)


def _is_known(gpu, vgpu):
    """Whether the name of a vGPU is known, which is there or will be."""
    return bool(vgpu.uuid) if vgpu.at == gpu.address else addresses.is_pci(vgpu.at)


def _counts(vgpus):
    """Type -> count, in order of names."""
    return dict(sorted(Counter(name for name, _, _ in vgpus).items()))


def _drawing(plans):
    """The slots before the first of these plans and after the last, of those that draw any."""
    drawn = [made.drawing for made in plans if made is not None and made.drawing]
    return (drawn[0][0], drawn[-1][1]) if drawn else ()


def _steps(mode):
    return mode.steps if mode is not None else ()
