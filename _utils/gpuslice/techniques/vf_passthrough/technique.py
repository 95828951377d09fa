"""
Single virtual functions of a GPU for virtual machines: each is bound to vfio-pci and given back. It stands on what makes them.

What the kernel says is what is there, whoever bound a function; only the driver that it had before is noted, by
:mod:`gpuslice.drivers.vfio`. A function of which nobody noted that is given back to no driver, as new ones have none.

Settings that it takes (one of): ``{"functions": [1, 2]}``: the functions of these numbers and no others, all where the list is
empty; ``{"only": [PCI address]}``: these and no others; ``{"layout": {...}}``: this earlier layout, as far as its functions are
there. Differences: ``{"bind": [PCI address]}``, ``{"release": [PCI address]}``.
"""

from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import pci
from gpuslice.drivers import vfio
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.model import Slice
from gpuslice.model import slice_name
from gpuslice.plan import PREPARE
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held

_WHAT = "the virtual function"


class Function(NamedTuple):
    """A virtual function: the driver that has it, its ``driver_override``, and what was noted of the driver before."""

    address: str
    driver: str = ""
    override: str = ""
    origin: str = ""

    @property
    def bound(self) -> bool:
        """Whether a VFIO driver has it."""
        return self.driver in VFIO_DRIVERS

    @property
    def had(self) -> dict:
        """What a layout keeps of it."""
        return {"driver": self.driver, "override": self.override, "origin": self.origin}


@final
class VfPassthrough(Technique):
    """Passthrough of virtual functions on one host."""

    name = "vf-passthrough"
    effects = {"note": "file"}

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu):
        """Whether the GPU can have virtual functions that somebody is given as they are."""
        return super().supports(gpu) and gpu.vendor != "nvidia"

    def why_not(self, gpu):
        """Why its virtual functions can't be bound."""
        if gpu.vendor == "nvidia":
            return Why(
                "NVIDIA's own driver has its virtual functions and gives them to virtual machines by the type of their vGPU; "
                "bound to vfio-pci they would be of no use. Choose a type with gpu_vgpu.set_type"
            )
        return Why("it has no virtual functions")

    def observe(self, gpu):
        """
        The virtual functions as tuple of :class:`Function`, in order. Raises errors.DeviceNotFound: the GPU is gone;
        errors.ResourceConflict: it is given away as a whole.
        """
        bounded.refuse_if_waiting(self._host, gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        pci.refuse_if_gone(self._host, gpu.address)
        return tuple(self._function(address) for address in pci.there(self._host, gpu.address))

    def _function(self, address):
        driver = vfio.driver(self._host, address)
        return Function(address, driver, vfio.override(self._host, address, driver), vfio.origin(self._host, address))

    def layout(self, state):
        """The state as plain data: what virtual machines can be given."""
        return {"bound": {each.address: each.had for each in state if each.bound}}

    def words(self, layout):
        """A layout in a few words."""
        return f"for virtual machines: {', '.join(layout['bound'])}" if layout["bound"] else "none for virtual machines"

    def shown(self, layout):
        """A layout as users see it in changes."""
        return {"for_virtual_machines": {address: each["driver"] for address, each in layout["bound"].items()}}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None where no function is bound."""
        numbers = self._numbers(gpu)
        found = [numbers[address] for address in layout["bound"] if address in numbers]
        return {"strategy": self.name, "vf_passthrough": {"functions": sorted(found)}} if found else None

    def _numbers(self, gpu):
        """PCI address -> number of each virtual function, from 1."""
        return {address: number for number, address in enumerate(pci.there(self._host, gpu.address), 1)}

    def holders(self, gpu):
        """The processes that hold virtual functions of this GPU open which a VFIO driver has."""
        there = pci.there(self._host, gpu.address)
        return self._held(*(address for address in there if vfio.driver(self._host, address) in VFIO_DRIVERS))

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends."""
        return self._held(*(step.args["address"] for step in steps if step.action == "unbind"))

    def _held(self, *functions):
        nodes = [node for address in functions for node in device_nodes.of(self._host, address)]
        return device_nodes.holding(self._host, nodes) if nodes else []

    # -- planning ------------------------------------------------------------------------------------------------
    def settle(self, gpu, state, wish):
        """Settings for what a difference makes of ``state``. Raises errors.DeviceNotFound: a function is not there."""
        there = {each.address: each.bound for each in state}
        if gone := [address for asked in wish.values() for address in asked if address not in there]:
            raise errors.DeviceNotFound(
                f"{', '.join(gone)} is no virtual function of the GPU.", gpu.address, _which(there) or "It has none."
            )
        changed = {**dict.fromkeys(wish.get("bind", ()), True), **dict.fromkeys(wish.get("release", ()), False)}
        return {"only": [address for address, bound in {**there, **changed}.items() if bound]}

    def plan(self, works):
        """
        :raises errors.ProfileMismatch: there is no function of that number. :raises errors.Unsupported: no IOMMU.
        :raises errors.ResourceConflict: a function is in use, or shares its IOMMU group with one of the host.
        """
        return self.each(works, self._part)

    def _part(self, work):
        gpu, state, stops = work.gpu, work.state, Stops(self._host, work.gpu.address)
        there = self._there(work)
        wanted = self._wanted(work, there)
        free = [each for each in there.values() if each.address not in wanted and (each.bound or _was_begun(each))]
        goal = {address: _goal(there[address], earlier) for address, earlier in wanted.items()}
        steps = []
        for one in goal.values():
            steps += self._binding(gpu, there[one.address], one, work, stops, tuple(goal))
        for each in free:
            steps += self._freeing(gpu, each, work, stops)
        loads = sorted({step.args["driver"] for step in steps if step.action == "bind"} & set(VFIO_DRIVERS))
        first = [self._load(gpu, name) for name in loads if not vfio.is_loaded(self._host, name)]
        before = self.layout(state)
        after = {"bound": {address: one.had for address, one in goal.items()}}
        return self.part(
            gpu, before, after, (*self.ending(gpu, stops), *first, *steps), stops,
            keeps=tuple(_words(address) for address in goal if there[address].bound),
            destroys=tuple(_words(each.address) for each in free if each.bound),
            creates=tuple(_words(address) for address in goal if not there[address].bound),
        )  # fmt: skip

    def _there(self, work):
        """PCI address -> :class:`Function`, of those that there are or, in a forecast, will be: a new one has no driver."""
        now = {each.address: each for each in work.state}
        if work.below.certain:
            return now
        # What stays is told with its nodes, what comes by its name alone.
        return {
            each.name: now[each.name] if each.name in now and each.device_nodes else Function(each.name)
            for each in work.below.slices
        }  # fmt: skip

    def _wanted(self, work, there):
        """PCI address -> how an earlier layout had it, None for one that is asked for now."""
        gpu, settings = work.gpu, work.settings
        if "layout" in settings:
            return {address: each for address, each in settings["layout"]["bound"].items() if address in there}
        if "only" in settings:
            return {address: None for address in settings["only"] if address in there}
        listed, asked = list(there), settings.get("functions")
        if not listed and (not work.below.certain or (work.below.asked and not asked)):
            # Those to come may have no address yet; and none may be wanted.
            return {}
        numbers = asked or range(1, len(listed) + 1)
        if beyond := [number for number in numbers if number > len(listed)]:
            raise errors.ProfileMismatch(
                f"Virtual machines are to get {', '.join(f'vf{number}' for number in beyond)}, and the GPU has "
                f"{len(listed) or 'no'} virtual function{'' if len(listed) == 1 else 's'}.",
                gpu.address,
                f"Ask for those that there are, or for more of them ({_maker(work.rules)}).",
            )
        if not listed:
            raise errors.Unsupported(
                "The GPU has no virtual function that a virtual machine could be given.", gpu.address,
                f"Make some first ({_maker(work.rules)}).",
            )  # fmt: skip
        return {listed[number - 1]: None for number in numbers}

    def _binding(self, gpu, one, goal, work, stops, going):
        """Steps that bind one function; none where it is as wanted, however it came to be."""
        if one == goal:
            return
        if work.below.certain:
            vfio.refuse_without_group(self._host, one.address)
            vfio.refuse_shared_group(self._host, one.address, going)
        rebound = one.driver != goal.driver
        if rebound and one.driver:
            self._refuse_if_held(gpu, one, goal.driver, work.rules, stops)
        if goal.origin != one.origin:
            yield self._note(gpu, one, goal.origin)
        if goal.override != one.override:
            yield self._override(gpu, one, goal.override)
        if rebound and one.driver:
            yield self._unbind(gpu, one)
        if rebound:
            yield self._bind(gpu, one, goal.driver, bool(goal.override))

    def _freeing(self, gpu, one, work, stops):
        """Steps that give one function back to the driver that it had, or to none."""
        goes_to = "" if one.origin in (vfio.NONE, vfio.ANY) else one.origin
        if one.bound:
            self._refuse_if_held(gpu, one, goes_to or "no driver", work.rules, stops)
        if one.override in VFIO_DRIVERS:
            yield self._override(gpu, one, "")
        if one.bound:
            yield self._unbind(gpu, one)
        if goes_to and (one.bound or not one.driver):
            yield self._bind(gpu, one, goes_to, False)
        if one.origin:
            yield self._note(gpu, one, "")

    def _refuse_if_held(self, gpu, one, to, rules, stops):
        refuse_if_held(gpu.address, f"move {one.address} from {one.driver} to {to}", self._held(one.address), rules, stops)

    # -- steps ---------------------------------------------------------------------------------------------------
    def _load(self, gpu, name):
        words = f"load the kernel module {name}"
        undo = "nothing: a loaded module takes no function by itself"
        return self.step(gpu, "load", {"module": name}, words, "load_module", PREPARE, undo)

    def _note(self, gpu, one, name):
        whom = "no driver" if name == vfio.NONE else name
        words = f"note that {one.address} belongs to {whom}" if name else f"forget to whom {one.address} was to go back"
        args = {"address": one.address, "driver": name}
        return self.step(gpu, "note", args, words, "file_write", undo="put the former note back")

    def _override(self, gpu, one, name):
        words = f"reserve {one.address} for {name}" if name else f"let any driver take {one.address}"
        args = {"address": one.address, "driver": name}
        return self.step(gpu, "override", args, words, "sysfs_write", undo="put the former driver_override back")

    def _unbind(self, gpu, one):
        args = {"address": one.address, "driver": one.driver}
        return self.step(
            gpu, "unbind", args, f"unbind {one.address} from {one.driver}", "unbind", undo=f"bind it to {one.driver} again",
            disrupts=(one.address,), needs=("idle",),
        )  # fmt: skip

    def _bind(self, gpu, one, name, reserved):
        args = {"address": one.address, "driver": name, "reserved": reserved}
        return self.step(gpu, "bind", args, f"bind {one.address} to {name}", "bind", undo="unbind it again")

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_load(self, gpu, module):
        vfio.load(self._host, gpu.address, module)

    def _run_note(self, gpu, address, driver):
        vfio.note(self._host, address, driver)

    def _run_override(self, gpu, address, driver):
        vfio.reserve(self._host, address, driver)

    def _run_unbind(self, gpu, address, driver):
        vfio.unbind(self._host, address, driver, lambda: self._held(address), _WHAT)

    def _run_bind(self, gpu, address, driver, reserved):
        vfio.bind(self._host, address, driver, reserved, _WHAT)

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The functions that a VFIO driver has, with who uses them: they are for virtual machines and for nobody else."""
        return self.slices_on(gpu, state, [])

    def slices_on(self, gpu, state, below):
        """As :meth:`slices`; what each has of the GPU is told by the function below."""
        processes = self._host.processes() if any(each.bound for each in state) else []
        found = []
        for part in self.expected_on(gpu, self.layout(state), below):
            nodes = device_nodes.vfio(self._host, part.of)
            held = tuple(each.as_dict() for each in device_nodes.holding(self._host, nodes, processes))
            found.append(part._replace(device_nodes=(*nodes, device_nodes.VFIO_CONTAINER), in_use_by=held))
        return found

    def expected_on(self, gpu, layout, below):
        """The functions that a layout has for virtual machines."""
        memory = {part.name: part.memory_mib for part in below}
        numbers = {part.name: number for number, part in enumerate(below, 1)} or self._numbers(gpu)
        return [
            Slice(
                gpu.address, self.name, each["driver"], address, memory.get(address),
                name=slice_name(gpu.address, "vm", numbers[address]), of=address,
            )
            for address, each in layout["bound"].items() if address in numbers
        ]  # fmt: skip

    def drawing(self, gpu, state):
        """Which functions are for virtual machines."""
        layout = self.layout(state)
        return self.words(layout) if layout["bound"] else ""

    def told(self, address):
        """What users see of one function: ``driver``, ``driver_override`` where one is set, and its IOMMU ``group``."""
        one = self._function(address)
        override = {"driver_override": one.override} if one.override else {}
        return {"driver": one.driver or vfio.NONE, **override, "group": vfio.group(self._host, address)}


def _was_begun(one):
    """Whether a change of a function began and did not end: it is reserved, or a note of it is left, and no driver has it."""
    return one.override in VFIO_DRIVERS or (bool(one.origin) and not one.driver)


def _goal(one, earlier):
    """What a function is to be. However it came to be bound, a bound one is as wanted."""
    if earlier is not None:
        return Function(one.address, **earlier)
    if one.bound:
        return one
    # Reserved and without a driver: a change was interrupted after the unbinding, and the note tells the driver before it.
    before = one.origin if one.override in VFIO_DRIVERS and not one.driver else ""
    return Function(one.address, vfio.DRIVER, vfio.DRIVER, one.driver or before or vfio.NONE)


def _maker(rules):
    return "'salt-call gpu_sriov.set_vfs'" if rules.by_hand else "strategy sriov, sriov:vf_count"


def _words(address):
    return f"{address} for a virtual machine"


def _which(there):
    return f"It has {', '.join(there)}." if there else ""
