"""
Compute and memory partitions of AMD Instinct GPUs (MI300 and MI350 families), through the files of amdgpu.

Settings that it takes (one of):

``{"compute": mode or None, "memory": mode or None, "reload": bool}``
    as a pillar or an argument has it. No memory mode: as it is; no compute mode: as it is, or what the driver takes by itself
    when the memory mode changes. ``reload`` allows to load the driver anew, as ``unload_modules`` in the pillar does.
``{"layout": {...}, "undo": bool}``
    exactly this earlier layout. ``undo``: an interrupted or failed change is put back, which may do what that change did.

The compute mode is each GPU's own and changes at once. The memory mode is one for all GPUs of an XGMI hive: a write is only a
request, which the driver carries out when it lets go of the GPUs, that is when the module is unloaded. A request can't be
withdrawn and a reboot forgets it, so nothing is requested before the driver may be and can be reloaded.
"""

from functools import cached_property
from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice.catalog import amd
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kfd
from gpuslice.drivers import pci
from gpuslice.drivers.amdgpu import COMPUTE
from gpuslice.drivers.amdgpu import MODULE
from gpuslice.drivers.amdgpu import Amdgpu
from gpuslice.model import Slice
from gpuslice.model import slice_name
from gpuslice.plan import CARVE
from gpuslice.plan import RESET
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.partition import hive
from gpuslice.techniques.partition.modes import Modes
from gpuslice.techniques.partition.modes import mode_of
from gpuslice.techniques.partition.notes import Notes
from gpuslice.techniques.partition.reload import Reload


class PartitionState(NamedTuple):
    """
    What a GPU is now.

    :ivar compute: ``SPX`` and so on; :ivar memory: ``NPS1`` and so on, "" when the driver does not tell it.
    :ivar alloc: ``EVEN`` or ``ALL``, how partitions share a memory domain, "" where the driver has no such choice.
    :ivar requested: memory mode that a run of ours requested and that waits for a reload, "" for none.
    :ivar loaded: False while a reload of ours is interrupted half way: then there is nothing to read.
    """

    compute: str
    memory: str
    alloc: str = ""
    requested: str = ""
    loaded: bool = True


@final
class Partition(Technique):
    """Partition modes on one host."""

    name = "partition"
    effects = {"reload": "driver"}
    # Those of a hive, and all whose memory mode one reload changes.
    joint = True

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._driver = Amdgpu(host)
        self._modes = Modes(host, self._driver)
        self._notes = Notes(host)
        self._reload = Reload(host, self._driver, self._notes)

    # -- facts ---------------------------------------------------------------------------------------------------
    def why_not(self, gpu):
        """Why a GPU has no partition modes. An older kernel can be mended, the hardware can't."""
        if gpu.vendor != "amd":
            return Why()
        if any(gpu.device_id in model["vf_device_ids"] for model in amd.MODELS.values()):
            return Why("it is a virtual function, whose modes are set on its host")
        model = amd.MODELS.get(gpu.catalog_key)
        if model and model["compute_partitions"]:
            driver = gpu.driver or MODULE
            why = f"its driver {driver} has no file {COMPUTE}: the kernel, or AMD's own driver package, is too old"
            return Why(why, mendable=True)
        if model and model["functions_per_card"] > 1:
            return Why("only the MI300 and MI350 families have them; each half of this card is a GPU of its own already")
        return Why("only the MI300 and MI350 families have them, this GPU has a single compute die")

    def observe(self, gpu):
        """
        Read the modes.

        :raises errors.Unsupported: another driver has the GPU, or the kernel is too old; :raises errors.DriverMissing: none has.
        """
        bounded.refuse_if_waiting(self._host, gpu.address)
        driver = self._host.readlink(f"{pci.DEVICES}/{gpu.address}/driver")
        if driver != MODULE:
            return self._without_driver(gpu, driver)
        if not self._driver.has_modes(gpu.address):
            raise errors.Unsupported(
                f"{gpu.model} has no partition modes: {self.why_not(gpu).words}.", gpu.address, "Use a newer kernel or driver."
            )
        return PartitionState(
            self._driver.compute(gpu.address),
            self._driver.memory(gpu.address),
            self._driver.alloc(gpu.address),
            self._notes.requested(gpu.address),
        )

    def _without_driver(self, gpu, driver):
        if not driver and self._notes.unloaded:
            return PartitionState("", "", loaded=False)
        pci.refuse_if_given_away(self._host, gpu)
        if driver == "gim":
            raise errors.Unsupported(
                "The driver gim has this GPU, so the host is in SR-IOV mode and partition modes come with its virtual functions.",
                gpu.address,
                "Use strategy sriov, or load amdgpu instead of gim.",
            )
        if driver:
            raise errors.Unsupported(f"The driver {driver} has this GPU; partition modes need amdgpu.", gpu.address)
        raise errors.DriverMissing(
            "No driver has this GPU, and partition modes need amdgpu.", gpu.address, "Load it with 'modprobe amdgpu'."
        )

    def layout(self, state):
        """The state as plain data."""
        found = {"compute": state.compute, "memory": state.memory}
        return {**found, "alloc": state.alloc} if state.alloc == "ALL" else found

    def words(self, layout):
        """A layout in a few words."""
        if not layout["compute"]:
            return "no driver loaded"
        shared = ", each partition may use its whole memory domain" if layout.get("alloc") == "ALL" else ""
        return f"compute mode {layout['compute']}, memory mode {layout['memory'] or 'unknown'}{shared}"

    def shown(self, layout):
        """A layout as users see it in changes."""
        return {"compute": layout["compute"] or "none", "memory": layout["memory"] or "unknown", **_alloc(layout)}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None for a GPU in one piece."""
        memory = layout["memory"] or "NPS1"
        if not layout["compute"] or (layout["compute"], memory) == amd.DEFAULT_MODE:
            return None
        return {"strategy": self.name, "partition": {"compute": layout["compute"], "memory": memory}}

    def pinned(self, layout):
        """It stays in one piece, where its mode can be told."""
        compute, memory = amd.DEFAULT_MODE
        return {"strategy": self.name, "partition": {"compute": compute, "memory": memory}} if layout["compute"] else None

    def settings_of(self, layout, begun=None):
        """Settings that ask for exactly this layout; with ``begun`` (a list of steps) a change is being undone."""
        return {"layout": layout, "undo": begun is not None}

    def holders(self, gpu):
        """Processes that stand in the way of a change of the compute mode: clients of the compute driver or of this GPU."""
        return self._driver.holders(gpu.address)

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends."""
        if any(step.action in ("set_memory", "reload") for step in steps):
            return self._driver.all_holders()
        return self.holders(gpu) if any(step.action == "set_compute" for step in steps) else []

    # -- planning ------------------------------------------------------------------------------------------------
    def together(self, works):
        """Those whose memory mode changes: a hive has one, and a driver that is loaded anew brings that of all into force."""
        changing = [work for work in works if not work.state.loaded or _asked_memory(work) != work.state.memory]
        return [*([changing] if changing else []), *([work] for work in works if work not in changing)]

    def plan(self, works):
        """
        :raises errors.PolicyError: a mode is none, or a hive is to be in two. :raises errors.ProfileMismatch: the GPU does not
            have such a pair. :raises errors.ResourceConflict: it is in use. :raises errors.ModeChangePending: a reload is needed
            and not allowed.
        """
        return self.each(works, self._plan_gpu)

    def _plan_gpu(self, work):
        gpu, state, settings, rules = work.gpu, work.state, work.settings, work.rules
        asked = {peer.gpu.address: (peer.gpu, peer.settings) for peer in work.peers}
        undo, stops = bool(settings.get("undo")), Stops(self._host, gpu.address)
        wanted = self._goal(gpu, state, settings)
        if not undo:
            # What is put back was there.
            self._modes.refuse_illegal(gpu, state, wanted)
        if not state.loaded:
            return self._plan_unloaded(gpu, state, wanted, undo, asked)
        steps, now, changing = [], state.compute, {}
        if wanted.memory != state.memory:
            changing = hive.changing_memory(self._driver, asked, gpu, wanted.memory, undo, rules)
            if not undo:
                self._modes.refuse_beginning(gpu, wanted)
            self._reload.refuse(gpu, state, wanted, undo or settings.get("reload"), rules, stops)
            doubtful = [] if undo else hive.doubtful(self._driver, asked, gpu, wanted)
            steps += self._memory_steps(gpu, state, wanted, changing, doubtful)
            now = self._modes.automatic(gpu, wanted.memory)
        elif wanted.compute != state.compute:
            doing = f"change the compute mode from {state.compute} to {wanted.compute}"
            refuse_if_held(gpu.address, doing, self.holders(gpu), rules, stops)
        if wanted.compute != now:
            steps.append(self._compute_step(gpu, state, wanted.compute))
        if wanted.alloc == "ALL" and (steps or state.alloc != "ALL"):
            steps.append(self._alloc_step(gpu, "ALL"))
        elif wanted.alloc == "EVEN" and state.alloc == "ALL" and not steps:
            steps.append(self._alloc_step(gpu, "EVEN"))
        return self._part(gpu, state, wanted, [*self.ending(gpu, stops), *steps] if steps else [], stops, changing)

    def _goal(self, gpu, state, settings):
        """The state that is wanted, as a :class:`PartitionState`. Raises errors.PolicyError for words that are no modes."""
        layout = settings.get("layout")
        if layout is not None:
            # A layout that was read without a driver (a reload of ours was interrupted) asks only for the driver.
            alloc = layout.get("alloc", "EVEN") if state.alloc or "alloc" in layout else ""
            return PartitionState(layout["compute"] or state.compute, layout["memory"] or state.memory, alloc)
        modes = {kind: mode_of(gpu, kind, settings.get(kind)) for kind in ("compute", "memory")}
        memory = modes["memory"] or state.memory
        if state.loaded and not state.memory and memory == "NPS1":
            # A driver that tells no memory mode has the one that every GPU has.
            memory = state.memory
        compute = modes["compute"] or (state.compute if memory == state.memory else self._modes.automatic(gpu, memory))
        return PartitionState(compute, memory, "")

    def _memory_steps(self, gpu, state, wanted, changing, doubtful):
        """
        One GPU of a hive carries the request for all, and one GPU of the host the reload: each is the last one, as resets go in
        the order of addresses. So nothing comes between the two that could fail and leave a request behind.
        """
        mode, steps = wanted.memory, []
        if gpu.address == max(address for address in self._driver.hive(gpu.address) if address in changing):
            words = f"request memory mode {mode} for the hive (now {state.memory})"
            undo = f"requesting {state.memory} and another reload"
            args = {"memory": mode, **({"doubtful": doubtful} if doubtful else {})}
            steps.append(self._changes(gpu, "set_memory", args, words, undo, "set_memory_partition", RESET))
        if gpu.address == max(changing):
            steps.append(self._reload_step(gpu, changing))
        words = f"find memory mode {mode} in force after the reload (now {state.memory})"
        args, undo, gone = {"memory": mode}, "another reload", self._identities(gpu)
        return [*steps, self._changes(gpu, "confirm_memory", args, words, undo, "set_memory_partition", disrupts=gone)]

    def _reload_step(self, gpu, changing):
        purpose = "which an interrupted change unloaded"
        if changing:
            purpose = f"so that {', '.join(sorted(set(changing.values())))} comes into force on {', '.join(changing)}"
        words = f"reload {MODULE}, {purpose}"
        return self._changes(gpu, "reload", {"memory": changing}, words, "another reload", "reload_amdgpu", RESET)

    def _compute_step(self, gpu, state, mode):
        was = f" (now {state.compute})" if state.compute else ""
        undo = f"setting {state.compute} again" if state.compute else "loading the driver anew"
        words = f"set compute mode {mode}{was}"
        return self._changes(gpu, "set_compute", {"compute": mode}, words, undo, disrupts=self._identities(gpu))

    def _alloc_step(self, gpu, mode):
        words = f"let partitions share their memory domain as {mode}"
        return self._changes(gpu, "set_alloc", {"alloc": mode}, words, "setting the old way again")

    def _changes(self, gpu, action, args, words, undo, cost="set_compute_partition", phase=CARVE, disrupts=()):
        needs = ("idle", "driver reload") if phase == RESET else ("idle",)
        return self.step(gpu, action, args, words, cost, phase, undo, disrupts, needs)

    def _identities(self, gpu):
        return tuple(f"{gpu.address}/{part.index}" for part in kfd.parts_of(self._host, gpu.address))

    def _plan_unloaded(self, gpu, state, wanted, undo, asked):
        """A reload of ours was interrupted: the driver is loaded first, whatever is wanted."""
        memory = wanted.memory
        goals = {gpu.address: memory} if undo else hive.all_memory(self._driver, asked, gpu, memory)
        steps = [self._reload_step(gpu, {address: goal for address, goal in goals.items() if goal})]
        if wanted.compute and not (memory and wanted.compute == self._modes.automatic(gpu, memory)):
            steps.append(self._compute_step(gpu, state, wanted.compute))
        if wanted.alloc == "ALL":
            steps.append(self._alloc_step(gpu, "ALL"))
        return self._part(gpu, state, wanted, steps, Stops(self._host, gpu.address), goals)

    def _part(self, gpu, state, wanted, steps, stops, changing):
        """:param changing: PCI address -> memory mode that its reload brings into force, {} without one."""
        alloc = wanted.alloc or ("" if steps else state.alloc)
        after = self.layout(PartitionState(wanted.compute, wanted.memory, alloc))
        there = [f"partition {n} of {state.compute}" for n in range(self._modes.count(gpu, state.compute))]
        gone = there if steps else []
        made = [f"partition {n} of {wanted.compute}" for n in range(self._modes.count(gpu, wanted.compute))] if steps else []
        if (state.compute, state.memory) == (wanted.compute, wanted.memory):
            gone = made = []
        reloads = any(step.action in ("reload", "confirm_memory") for step in steps)
        return self.part(
            gpu, self.layout(state), after, steps, stops,
            keeps=() if gone else tuple(there),
            destroys=tuple(gone),
            creates=tuple(made),
            drawing=(self._draw(gpu, state), self._draw(gpu, wanted)) if steps else (),
            note=self._note(gpu, state, wanted, steps, changing),
            # One reload is for all GPUs of the driver whose memory mode changes.
            group=MODULE if reloads else "",
            # A driver that an interrupted change unloaded is loaded again, however its GPUs are.
            concerns=tuple(sorted(changing.keys() - {gpu.address})) if reloads and state.loaded else (),
        )  # fmt: skip

    def _note(self, gpu, state, wanted, steps, changing):
        if steps and state.alloc == "ALL" and wanted.alloc != "ALL":
            return "Partitions share each memory domain evenly afterwards: the driver forgets the mode ALL with every new layout."
        if any(step.action == "reload" for step in steps):
            bystanders = [a for a in self._driver.addresses() if a not in changing]
            return f"The reload also restarts {', '.join(bystanders)}, with the modes of now." if bystanders else ""
        if not steps and state.requested not in ("", state.memory):
            return (
                f"already as wanted; memory mode {state.requested} was requested in a change that failed, which can't be "
                f"withdrawn: it comes with the next reload of {MODULE}"
            )
        return ""

    def pending(self, gpu):
        """That a memory mode waits for the driver to be loaded anew."""
        if not (wanted := self._notes.requested(gpu.address)) or wanted == (now := self.observe(gpu).memory):
            return ""
        return f"waits for a reload of {MODULE}: memory mode is {now or 'unknown'} and {wanted} after it; a reboot forgets that"

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """One slice for each partition, with the render node that the compute driver names."""
        parts = kfd.parts_of(self._host, gpu.address) if state.loaded else []
        total = sum(part.compute_units for part in parts)
        processes = self._host.processes() if parts else []
        return [self._slice(gpu, state, part, total, processes) for part in parts]

    def _slice(self, gpu, state, part, total, processes):
        held = device_nodes.holding(self._host, [part.render_node] if part.render_node else [], processes)
        nodes = tuple(node for node in (kfd.NODE, part.render_node) if node)
        return _partition(gpu, state.compute, state.memory, part.index)._replace(
            memory_mib=part.memory_mib,
            compute=round(part.compute_units / total, 3),
            device_nodes=nodes,
            in_use_by=tuple(process.as_dict() for process in held),
        )

    def expected(self, gpu, layout):
        """The partitions that a layout has; the driver tells what memory each gets when it has made them."""
        count = self._modes.known_count(gpu, layout["compute"])
        each = (_partition(gpu, layout["compute"], layout["memory"], index) for index in range(count))
        return [part._replace(compute=round(1 / count, 3)) for part in each]

    def drawing(self, gpu, state):
        """The GPU's compute dies as a line of text, each with the number of its partition."""
        return self._draw(gpu, state)

    def _draw(self, gpu, state):
        if not state.compute:
            return "no driver loaded"
        dies, count = amd.MODELS.get(gpu.catalog_key, {}).get("xcc") or 0, self._modes.count(gpu, state.compute)
        if not dies or dies % count:
            return f"{state.compute}/{state.memory}"
        return f"|{'|'.join(str(n) * (dies // count) for n in range(count))}| {state.compute}/{state.memory or 'NPS1'}"

    def available(self, gpu):
        """The modes that a GPU has, see :meth:`.modes.Modes.available`."""
        return self._modes.available(gpu)

    def hive(self, address):
        """The hive of a GPU, see :meth:`gpuslice.drivers.amdgpu.Amdgpu.hive`."""
        return self._driver.hive(address)

    def modes(self, gpu):
        """Everything about the modes of a GPU for users: what is, what waits, what can be had, and the hive."""
        state = self.observe(gpu)
        return {
            "compute": state.compute,
            "memory": state.memory,
            "requested_memory": state.requested,
            "available": self._modes.available(gpu),
            "hive": self._driver.hive(gpu.address),
        }

    # -- trying it out -------------------------------------------------------------------------------------------
    def trials(self, gpu, state):
        """Each compute mode that goes with the memory mode of now."""
        from gpuslice.techniques.partition import trying

        return trying.trials(state, self._modes.available(gpu))

    def facts(self, gpu, state):
        """The modes and partitions of the catalog beside those of the driver."""
        from gpuslice.techniques.partition import trying

        return trying.facts(gpu, state, self._modes.available(gpu), len(kfd.parts_of(self._host, gpu.address)))

    # -- doing ---------------------------------------------------------------------------------------------------
    # What only a change needs is loaded for a change.
    @cached_property
    def _doing(self):
        from gpuslice.techniques.partition.doing import Doing

        return Doing(self._driver, self._reload, self._notes)

    def carry_out(self, gpu, step):
        """Carry out a step of a change of partitions."""
        getattr(self._doing, f"run_{step.action}")(gpu, **step.args)


def _asked_memory(work):
    """The memory mode that is asked for; the one of now where none is."""
    wanted = work.settings.get("layout", work.settings).get("memory")
    return wanted.upper() if isinstance(wanted, str) and wanted else work.state.memory


def _partition(gpu, compute, memory, index):
    """One partition as a slice, as far as the modes tell it. In one piece it is the GPU, and has its name."""
    place = () if compute == amd.DEFAULT_MODE[0] else (compute.lower(), index)
    return Slice(
        gpu.address, "partition", f"{compute}/{memory or amd.DEFAULT_MODE[1]}", f"{gpu.address}/{index}", placement=f"{index}:1",
        name=slice_name(gpu.address, *place),
    )  # fmt: skip


def _alloc(layout):
    return {"memory_allocation": layout["alloc"]} if "alloc" in layout else {}
