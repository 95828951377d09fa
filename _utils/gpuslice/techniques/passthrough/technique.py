"""
Passthrough: a whole GPU is bound to the driver vfio-pci, so that a virtual machine can have it, and given back.

The way there is :mod:`gpuslice.drivers.vfio`'s.

Settings that it takes (one of): ``{}`` or ``{"bound": True}``; ``{"bound": False}``: back to the driver
that it came from; ``{"layout": {...}}``: exactly this earlier layout.
"""

import os
from typing import NamedTuple
from typing import final

from gpuslice import addresses
from gpuslice import errors
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import intel_engines
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers import vfio
from gpuslice.drivers import vgpu_slots
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.model import Slice
from gpuslice.numbers import many
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.techniques.base import Leftover
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held


class PassthroughState(NamedTuple):
    """
    The driver that has the GPU now ("" for none; in a goal None for whichever the kernel chooses), its ``driver_override`` and
    what was noted of the driver before.
    """

    driver: str | None
    override: str
    origin: str


@final
class Passthrough(Technique):
    """Passthrough on one host."""

    name = "passthrough"
    effects = {"note": "file"}

    # -- facts ---------------------------------------------------------------------------------------------------
    def why_not(self, gpu):
        """Why a GPU without a group has none: (sentence, True when the host is to blame)."""
        words, mendable = vfio.why_no_group(self._host)
        return Why(words, mendable)

    def observe(self, gpu):
        """Read driver and override. Raises errors.DeviceNotFound: the function is gone; errors.Unhealthy: its driver hangs."""
        bounded.refuse_if_waiting(self._host, gpu.address)
        pci.refuse_if_gone(self._host, gpu.address)
        driver = vfio.driver(self._host, gpu.address)
        override = vfio.override(self._host, gpu.address, driver)
        return PassthroughState(driver, override, vfio.origin(self._host, gpu.address))

    def needs_driver(self, layout):
        """Whether the GPU must have a driver to be brought to a layout: one that is given away may have had none before."""
        return layout["driver"] not in (*VFIO_DRIVERS, "")

    def words(self, layout):
        """A layout in a few words."""
        return f"bound to {layout['driver']}" if layout["driver"] else "bound to no driver"

    def shown(self, layout):
        """A layout as users see it in changes."""
        found = {"driver": layout["driver"] or vfio.NONE}
        return {**found, "driver_override": layout["override"]} if layout["override"] else found

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None for a GPU that is not given away."""
        return {"strategy": "passthrough"} if layout["driver"] in VFIO_DRIVERS else None

    def holders(self, gpu):
        """The processes that hold this GPU open; not this one, which closes what it has before a driver is unbound."""
        return [process for process in self._open(gpu) if process.pid != os.getpid()]

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends."""
        return self.holders(gpu) if any(step.action == "unbind" for step in steps) else []

    def _open(self, gpu):
        """All processes that hold it open."""
        return device_nodes.holding(self._host, device_nodes.of(self._host, gpu.address))

    def leftovers(self):
        """What is noted of functions that are gone, such as virtual ones that went with their number."""
        return [Leftover(path) for path in vfio.left_notes(self._host)]

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, works):
        """
        :raises errors.Unsupported: no IOMMU. :raises errors.ResourceConflict: the group has members with other drivers, the GPU
            is in use, or has slices that would be lost.
        """
        return [self._part(work.gpu, work.state, work.settings, work.rules) for work in works]

    def _part(self, gpu, state, settings, rules):
        goal, stops = _goal(state, settings), Stops(self._host, gpu.address)
        if goal.driver in VFIO_DRIVERS:
            vfio.refuse_without_group(self._host, gpu.address)
        if state.driver != goal.driver:
            self._check_change(gpu, state, goal, rules, stops)
        steps = (*self.ending(gpu, stops), *self._prepare(gpu, state, goal), *self._rebind(gpu, state, goal))
        if (state.origin or _is_unknown(state, goal)) and not goal.origin:
            steps += (self._note(gpu, state.origin or vfio.ANY, ""),)
        was, becomes = state.driver in VFIO_DRIVERS, goal.driver in VFIO_DRIVERS
        whole = (f"the whole GPU as /dev/vfio/{device_nodes.group(self._host, gpu.address)}",)
        driver = "the driver that the kernel chooses" if goal.driver is None else goal.driver
        return self.part(
            gpu, self.layout(state), {**goal._asdict(), "driver": driver}, steps, stops,
            keeps=whole if was and becomes else (),
            destroys=whole if was and not becomes else (),
            creates=whole if becomes and not was else (),
        )  # fmt: skip

    def _check_change(self, gpu, state, goal, rules, stops):
        if goal.driver in VFIO_DRIVERS:
            vfio.refuse_shared_group(self._host, gpu.address)
        if state.driver and state.driver not in VFIO_DRIVERS:
            self._check_slices(gpu, state)
        if state.driver:
            to = goal.driver or "no driver" if goal.driver is not None else "its own driver"
            doing = f"move the GPU from {state.driver} to {to}"
            refuse_if_held(gpu.address, doing, self.holders(gpu), rules, stops)

    def _check_slices(self, gpu, state):
        """Unbinding ends what the driver made, and undoing the change could not bring it back: it has to go by its own way."""
        lost = [words for words in (self._vfs(gpu), self._instances(gpu), self._vgpus(gpu), self._modes(gpu)) if words]
        if lost:
            raise errors.ResourceConflict(
                f"The GPU has {' and '.join(lost)}, which would be lost when {state.driver} lets it go.",
                gpu.address,
                "Remove that first, each with the function that made it.",
            )

    def _vfs(self, gpu):
        count = sum(1 for name in self._host.listdir(f"{DEVICES}/{gpu.address}") if name.startswith("virtfn"))
        return f"{many(count, 'virtual function')} enabled" if count else ""

    def _instances(self, gpu):
        number = device_nodes.minor(self._host, gpu.address)
        names = [] if number is None else self._host.listdir(f"/proc/driver/nvidia/capabilities/gpu{number}/mig")
        count = sum(1 for name in names if name.startswith("gi"))
        return f"{many(count, 'GPU instance')} (MIG)" if count else ""

    def _vgpus(self, gpu):
        found = vgpu_slots.slots(self._host, gpu.address) if gpu.vendor == "nvidia" else None
        names = [vgpu.identity for vgpu in found.vgpus()] if found else []
        if names:
            return f"{many(len(names), 'vGPU')} ({', '.join(names)})"
        count = sum(1 for name in self._host.listdir(f"{DEVICES}/{gpu.address}") if addresses.is_uuid(name))
        return f"{many(count, 'mediated device')} (vGPU)" if count else ""

    def _modes(self, gpu):
        mode = kernel.text(self._host, f"{DEVICES}/{gpu.address}/current_compute_partition") or "SPX"
        if mode != "SPX":
            return f"the compute partition mode {mode}"
        split = [found for found in intel_engines.modes(self._host, gpu.address).values() if found > 1]
        return f"CCS mode {split[0]}" if split else ""

    def _prepare(self, gpu, state, goal):
        if goal.driver in VFIO_DRIVERS and not vfio.is_loaded(self._host, goal.driver):
            yield self.step(
                gpu, "load", {"module": goal.driver}, f"load the kernel module {goal.driver}", "load_module", PREPARE,
                "nothing: a loaded module takes no function by itself",
            )  # fmt: skip
        if goal.origin and goal.origin != state.origin:
            yield self._note(gpu, state.origin, goal.origin)
        if _is_unknown(state, goal):
            # A crash after the unbinding would leave a GPU that looks as if nobody wanted a driver for it.
            yield self._note(gpu, state.origin, vfio.ANY)
        if goal.override != state.override:
            yield self.step(
                gpu, "override", {"driver": goal.override},
                f"reserve the function for {goal.override}" if goal.override else "let any driver take the function",
                "sysfs_write", PREPARE, "put the former driver_override back",
            )  # fmt: skip

    def _rebind(self, gpu, state, goal):
        # Without a vendor session of ours open: it would count as a user of the driver that is to let go.
        if state.driver == goal.driver:
            return
        if state.driver:
            yield self.step(
                gpu, "unbind", {"driver": state.driver}, f"unbind the GPU from {state.driver}", "unbind", RESET,
                f"bind it to {state.driver} again", needs=("idle",),
            )  # fmt: skip
        if goal.driver != "":
            words = f"bind the GPU to {goal.driver}" if goal.driver else "let the kernel choose a driver for the GPU"
            yield self.step(
                gpu, "bind", {"driver": goal.driver, "reserved": bool(goal.override)}, words, "bind", RESET, "unbind it again"
            )

    def _note(self, gpu, old, new):
        whom = {vfio.NONE: "no driver", vfio.ANY: "whatever driver the kernel chooses"}
        noted = f"note that the GPU belongs to {whom.get(new, new)}"
        words = noted if new else f"forget that the GPU was to go back to {whom.get(old, old)}"
        return self.step(
            gpu, "note", {"driver": new}, words, "file_write",
            PREPARE if new else CARVE, "put the former note back",
        )  # fmt: skip

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_load(self, gpu, module):
        vfio.load(self._host, gpu.address, module)

    def _run_note(self, gpu, driver):
        vfio.note(self._host, gpu.address, driver)

    def _run_override(self, gpu, driver):
        vfio.reserve(self._host, gpu.address, driver)

    def _run_unbind(self, gpu, driver):
        # What another program or this one opened meanwhile must not become a wait for ever: ours is closed, and the others are
        # looked for once more.
        self._sessions.release()
        vfio.unbind(self._host, gpu.address, driver, lambda: self._open(gpu))

    def _run_bind(self, gpu, driver, reserved):
        vfio.bind(self._host, gpu.address, driver, reserved)

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The whole GPU as one slice while a VFIO driver has it."""
        whole = self.expected(gpu, self.layout(state))
        nodes = device_nodes.vfio(self._host, gpu.address) if whole else []
        held = tuple(process.as_dict() for process in device_nodes.holding(self._host, nodes)) if whole else ()
        return [part._replace(device_nodes=(*nodes, device_nodes.VFIO_CONTAINER), in_use_by=held) for part in whole]

    def expected(self, gpu, layout):
        """The whole GPU where a layout gives it to a VFIO driver."""
        if layout["driver"] not in VFIO_DRIVERS:
            return []
        place = f"IOMMU group {device_nodes.group(self._host, gpu.address)}"
        return [Slice(gpu.address, self.name, layout["driver"], gpu.address, gpu.memory_mib, 1.0, place, name=gpu.address)]

    def group(self, gpu):
        """The IOMMU group of a GPU, as :func:`gpuslice.drivers.vfio.group` has it."""
        return vfio.group(self._host, gpu.address)

    def drawing(self, gpu, state):
        """The GPU in a few words while a VFIO driver has it."""
        if state.driver not in VFIO_DRIVERS:
            return ""
        return f"whole GPU for a virtual machine, IOMMU group {device_nodes.group(self._host, gpu.address)}"


def _goal(state, settings):
    """The state that settings ask for; its driver is None where the kernel is to choose one."""
    if "layout" in settings:
        return PassthroughState(**settings["layout"])
    given_away = state.driver in VFIO_DRIVERS
    if settings.get("bound", True):
        # However it came to be bound (by us, or by ids at boot): it is as wanted.
        # Without a driver, but with a note: a change was interrupted after the unbinding.
        return state if given_away else PassthroughState(vfio.DRIVER, vfio.DRIVER, state.driver or state.origin or vfio.NONE)
    # Without a driver, but with a note: the way back was begun and not ended.
    interrupted = not state.driver and state.origin
    if not given_away and state.override not in VFIO_DRIVERS and not interrupted:
        return state._replace(origin="")
    driver = {vfio.NONE: "", vfio.ANY: None}.get(state.origin, state.origin or None)
    return PassthroughState(driver if given_away or interrupted else state.driver or driver, "", "")


def _is_unknown(state, goal):
    """Whether the GPU goes back to a driver that nobody has noted."""
    return goal.driver is None and not state.origin and bool(state.driver)
