"""
Level Zero: which Intel devices and tiles a program sees, and how their engines are shared.

Partitions are no object of the kernel. Each is a file of environment variables, ``/etc/gpu-slicing/environment/<address>.env`` or
``<address>-tile<n>.env``, that units and containers load: a convention among programs, no isolation, and every plan says so. Real
settings of the hardware go with it: CCS mode, scheduling properties, and a limit of device memory for a systemd slice, which is
that of consumers (:mod:`gpuslice.drivers.quota`) for a slice that somebody else has made.

Settings that it takes: ``partitions`` (a list such as ``["0", "1.1"]``; None leaves the files),
``hierarchy``, ``ccs_mode`` and ``engines`` (0 and {} leave them), ``vram_max_mib`` with ``vram_slice``; or ``{"clear": True}``:
nothing set; or ``{"layout": {...}}``: exactly this.
"""

import os
import re
from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import intel_engines
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers import quota
from gpuslice.drivers import systemd
from gpuslice.drivers.pci import DEVICES
from gpuslice.model import Slice
from gpuslice.plan import CARVE
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.level_zero import memory
from gpuslice.techniques.level_zero.engines import check_mode
from gpuslice.techniques.level_zero.engines import wanted_properties
from gpuslice.techniques.level_zero.environment import CONVENTION
from gpuslice.techniques.level_zero.environment import ENVIRONMENT
from gpuslice.techniques.level_zero.environment import NAME
from gpuslice.techniques.level_zero.environment import environment_of
from gpuslice.techniques.level_zero.environment import mask_of
from gpuslice.techniques.level_zero.environment import partition_of
from gpuslice.techniques.level_zero.environment import text_of
from gpuslice.techniques.level_zero.environment import variable

_VENDOR = "0x8086"
_DRIVERS = ("xe", "i915")


class LevelZeroState(NamedTuple):
    """
    What a GPU has now.

    :ivar files: name -> text of its environment files; :ivar ccs: engine block -> CCS mode.
    :ivar engines: ``<block>/<class>`` -> property -> value, only of those that differ from what they were at boot.
    :ivar vram: slice unit -> bytes to which it is limited; :ivar kept: slice unit -> MiB to which a unit of ours limits it
        whenever it is there.
    """

    files: dict
    ccs: dict
    engines: dict
    vram: dict
    kept: dict


@final
class LevelZero(Technique):
    """Level Zero on one host."""

    name = "level-zero"
    effects = {"file": "file", "unit": "file", "reload": "unit", "limit": "setting"}

    # -- facts ---------------------------------------------------------------------------------------------------
    def why_not(self, gpu):
        """Why a GPU can't: another vendor made it."""
        return Why("it is the interface of Intel GPUs.")

    def observe(self, gpu):
        """Read files and settings. Raises errors.ResourceConflict for a GPU that was given away."""
        bounded.refuse_if_waiting(self._host, gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        return LevelZeroState(
            self._files(gpu.address),
            intel_engines.modes(self._host, gpu.address),
            intel_engines.differing(self._host, gpu.address),
            memory.in_force(self._host, gpu.address),
            memory.kept(self._host, gpu.address),
        )

    def _files(self, address):
        found = {}
        for name in self._host.listdir(ENVIRONMENT):
            match = NAME.match(name)
            if match and match[1] == address:
                # As store_write gets it: the host's read leaves out the last line break.
                found[name] = self._text(address, f"{ENVIRONMENT}/{name}") + "\n"
        return found

    def _text(self, address, path):
        try:
            return self._host.read(path)
        except OSError as err:
            raise errors.StateDirUnusable(
                f"The environment file {path} can't be read: {err.strerror}.", address, "Mend or remove it, then run again."
            ) from err

    def words(self, layout):
        """A layout in a few words."""
        masks = ", ".join(mask_of(text) or name for name, text in sorted(layout["files"].items()))
        modes = "/".join(str(mode) for mode in sorted(set(layout["ccs"].values())))
        found = [f"partitions {masks}" if masks else "", f"CCS mode {modes}" if modes else ""]
        for where, values in sorted(layout["engines"].items()):
            found += [f"{key} {value} of {where}" for key, value in values.items()]
        found += [f"at most {quota.words(each)} for {unit}" for unit, each in sorted(layout["vram"].items())]
        return "; ".join(filter(None, found)) or "nothing set"

    def shown(self, layout):
        """A layout as users see it in changes."""
        modes = sorted(set(layout["ccs"].values()))
        found = {"partitions": {name: mask_of(text) for name, text in layout["files"].items()}}
        if modes:
            found["ccs_mode"] = modes[0] if len(modes) == 1 else dict(layout["ccs"])
        limits = {unit: quota.words(each) for unit, each in layout["vram"].items()}
        return {**found, **{key: each for key, each in (("engines", layout["engines"]), ("vram", limits)) if each}}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None where nothing is set."""
        made = {}
        if layout["files"]:
            made["partitions"] = self._partitions(gpu.address, layout["files"])
            made["hierarchy"] = variable(next(iter(layout["files"].values())), "ZE_FLAT_DEVICE_HIERARCHY") or "COMPOSITE"
        modes = set(layout["ccs"].values())
        if len(modes) == 1 and max(modes) > 1:
            made["ccs_mode"] = modes.pop()
        engines = {where.rpartition("/")[2]: dict(values) for where, values in layout["engines"].items()}
        if engines:
            made["engines"] = engines
        limits = {unit: each // quota.MIB for unit, each in layout["vram"].items()}
        for unit, mebibytes in {**limits, **layout["kept"]}.items():
            made.update(vram_slice=unit, vram_max_mib=mebibytes)
        return {"strategy": "level-zero", "level_zero": made} if made else None

    def _partitions(self, address, files):
        """Environment files as a pillar names their partitions."""
        number = next((n for n, (one, _) in enumerate(self._devices()) if one == address), 0)
        return sorted(partition_of(name, number) for name in files)

    def holders(self, gpu):
        """The processes that hold this GPU open."""
        held = device_nodes.holding(self._host, device_nodes.drm(self._host, gpu.address))
        return [process for process in held if process.pid != os.getpid()]

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends: a CCS mode needs the whole GPU."""
        return self.holders(gpu) if any(step.action == "ccs_mode" for step in steps) else []

    def _devices(self):
        """(PCI address, tiles) of each function that Level Zero lists, in the order of PCI addresses: its device numbers."""
        found = []
        for address in sorted(self._host.listdir(DEVICES), key=_numbers):
            base = f"{DEVICES}/{address}"
            if kernel.text(self._host, f"{base}/vendor") != _VENDOR:
                continue
            is_gpu = (kernel.text(self._host, f"{base}/class") or "").startswith("0x03")
            if is_gpu and self._host.readlink(f"{base}/driver") in _DRIVERS:
                found.append((address, self._tiles(address)))
        return found

    def _tiles(self, address):
        """
        Tiles of a GPU: what the driver xe shows, else what the catalog knows; None when neither does. The engine blocks that i915
        shows tell nothing, as one may be for media only.
        """
        shown = intel_engines.tiles(self._host, address)
        if shown:
            return shown
        device = (kernel.text(self._host, f"{DEVICES}/{address}/device") or "").removeprefix("0x")
        return next((model["tiles"] for model in intel.MODELS.values() if device in model["device_ids"]), None)

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, works):
        """
        :raises errors.PolicyError: a value that the driver does not allow.
        :raises errors.Unsupported: hardware, driver or kernel can't. :raises errors.ResourceConflict: in use.
        """
        return [self._part(work.gpu, work.state, work.settings, work.rules) for work in works]

    def _part(self, gpu, state, settings, rules):
        stops = Stops(self._host, gpu.address)
        goal, remark = (LevelZeroState(**settings["layout"]), "") if "layout" in settings else self._goal(gpu, state, settings)
        changed = {block: mode for block, mode in goal.ccs.items() if state.ccs.get(block) != mode}
        if changed:
            doing = f"set CCS mode {'/'.join(str(mode) for mode in sorted(set(changed.values())))}"
            refuse_if_held(gpu.address, doing, self.holders(gpu), rules, stops)
        steps = (
            *self.ending(gpu, stops),
            *(self._ccs_step(gpu, block, state.ccs.get(block), mode) for block, mode in changed.items()),
            *self._engine_steps(gpu, state, goal),
            *self._vram_steps(gpu, state, goal),
            *self._file_steps(gpu, state, goal),
        )
        words = [] if steps or not goal.files else ["already as wanted"]
        note = ". ".join(words + [part.rstrip(".") for part in (remark, CONVENTION if goal.files else "") if part])
        return self.part(
            gpu, self.layout(state), self.layout(goal), steps, stops,
            keeps=tuple(f"partition {name}" for name in sorted(goal.files) if state.files.get(name) == goal.files[name]),
            destroys=tuple(f"partition {name}" for name in sorted(state.files) if name not in goal.files),
            creates=tuple(f"partition {name}" for name in sorted(goal.files) if name not in state.files),
            note=f"{note}." if note else "",
        )  # fmt: skip

    def _goal(self, gpu, state, settings):
        """The wanted state, and a remark for the plan."""
        if settings.get("clear"):
            return LevelZeroState({}, dict.fromkeys(state.ccs, 1), {}, {}, {}), ""
        files, remark = dict(state.files), ""
        partitions, hierarchy = settings.get("partitions"), settings.get("hierarchy")
        if partitions is None and hierarchy:
            # The same ones, called by other numbers.
            partitions = self._partitions(gpu.address, files)
        if partitions is not None:
            files, remark = self._wanted_files(gpu, partitions, hierarchy or "COMPOSITE")
        modes = dict(state.ccs)
        if settings.get("ccs_mode"):
            check_mode(self._host, gpu, modes, settings["ccs_mode"])
            modes = dict.fromkeys(modes, settings["ccs_mode"])
        engines = wanted_properties(self._host, gpu, settings.get("engines") or {}, state.engines)
        asked = settings.get("vram_slice") or "", settings.get("vram_max_mib") or 0
        vram, kept, told = memory.wanted(self._host, self._sessions, gpu, state, *asked)
        return LevelZeroState(files, modes, engines, vram, kept), " ".join(filter(None, (remark, told)))

    def _wanted_files(self, gpu, partitions, hierarchy):
        devices = self._devices()
        numbers = {address: number for number, (address, _) in enumerate(devices)}
        if partitions and gpu.address not in numbers:
            raise errors.DriverMissing(
                "Partitions are wanted, but no graphics driver has the GPU, so Level Zero does not list it.",
                gpu.address,
                f"Load one of its drivers ({' or '.join(_DRIVERS)}).",
            )
        made = {}
        for partition in partitions:
            device, _, tile = str(partition).partition(".")
            self._check_partition(gpu, partition, devices)
            if devices[int(device)][0] == gpu.address:
                name = f"{gpu.address}{f'-tile{tile}' if tile else ''}.env"
                made[name] = text_of(gpu, partition, devices, hierarchy)
        if partitions and not made:
            return made, f"No partition names this GPU, which is device {numbers[gpu.address]} in the order of PCI addresses."
        return made, ""

    def _check_partition(self, gpu, partition, devices):
        """Refuse a device or tile that is not there. Every partition is checked, as any of them may be a typing mistake."""
        device, _, tile = str(partition).partition(".")
        if int(device) >= len(devices):
            known = ", ".join(f"{number} is {address}" for number, (address, _) in enumerate(devices))
            raise errors.PolicyError(
                f"Partition '{partition}' names device {device}, which Level Zero does not have on this host: {known}.",
                gpu.address,
                "Correct partitions; devices count from 0 in the order of their PCI addresses.",
            )
        address, count = devices[int(device)]
        if not tile:
            return
        if count is None:
            raise errors.Unsupported(
                f"Partition '{partition}' names a tile, but neither the driver nor the catalog tells how many this GPU has.",
                address,
                "Name the whole device.",
            )
        if count == 1:
            raise errors.Unsupported(
                f"Partition '{partition}' names a tile, but this GPU has a single one; only Max 1450 and Max 1550 have two.",
                address,
                f"Name the whole device: '{device}'.",
            )
        if int(tile) >= count:
            raise errors.PolicyError(
                f"Partition '{partition}' names tile {tile}, but this GPU has {count}, from 0 on.", address, "Correct partitions."
            )

    def _ccs_step(self, gpu, block, old, new):
        return self.step(
            gpu, "ccs_mode", {"block": block, "mode": new}, f"divide the compute slices of {block} among {new or 'any'} engines",
            "set_ccs_mode", CARVE, f"CCS mode {old} again", needs=("idle",),
        )  # fmt: skip

    def _engine_steps(self, gpu, state, goal):
        for where in sorted({*state.engines, *goal.engines}):
            old, new = state.engines.get(where, {}), goal.engines.get(where, {})
            for key in (key for key in intel_engines.PROPERTIES if old.get(key) != new.get(key)):
                value = new.get(key)
                if value is None:
                    value = intel_engines.default(self._host, gpu.address, where, key)
                if value is None:
                    raise errors.Unsupported(f"The driver does not tell what {key} of {where} was at boot.", gpu.address)
                yield self.step(
                    gpu, "property", {"where": where, "key": key, "value": value}, f"set {key} of {where} to {value}",
                    "sysfs_write", CARVE, "the former value again",
                )  # fmt: skip

    def _vram_steps(self, gpu, state, goal):
        written = [unit for unit, each in goal.kept.items() if not memory.is_written(self._host, gpu, unit, each)]
        removed = [unit for unit in state.kept if unit not in goal.kept]
        for unit in written:
            yield self._unit_step(gpu, unit, goal.kept[unit], f"write what limits {unit} whenever it is there", "write what was")
        yield from self._reloading(gpu, written)
        for unit in sorted(unit for unit in {*state.vram, *goal.vram} if state.vram.get(unit) != goal.vram.get(unit)):
            old, new = state.vram.get(unit), goal.vram.get(unit)
            words = f"lift the limit of {unit} for {gpu.address}"
            if new is not None:
                words = f"limit {unit} to {quota.words(new)} of {gpu.address}"
            undo = "lift it" if old is None else f"{quota.words(old)} again"
            yield self.step(gpu, "limit", {"unit": unit, "limit": new}, words, "sysfs_write", CARVE, undo)
        for unit in removed:
            yield self._unit_step(gpu, unit, None, f"remove what limits {unit} whenever it is there", "write it again")
        yield from self._reloading(gpu, removed)

    def _unit_step(self, gpu, unit, mebibytes, words, undo):
        return self.step(gpu, "unit", {"unit": unit, "mebibytes": mebibytes}, words, "file_write", CARVE, undo)

    def _reloading(self, gpu, units):
        if units:
            yield self.step(gpu, "reload", {}, "have systemd read its units anew", "reload_units", CARVE, "once more")

    def _file_steps(self, gpu, state, goal):
        for name in sorted({*state.files, *goal.files}):
            old, new = state.files.get(name), goal.files.get(name)
            if old == new:
                continue
            verb = "remove" if new is None else "write" if old is None else "rewrite"
            yield self.step(
                gpu, "file", {"name": name, "text": new}, f"{verb} the environment file {ENVIRONMENT}/{name}", "file_write",
                CARVE, "the former file again",
            )  # fmt: skip

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_ccs_mode(self, gpu, block, mode):
        path, doing = f"{intel_engines.directory(self._host, gpu.address, block)}/ccs_mode", f"set CCS mode {mode} of {block}"
        try:
            kernel.write(self._host, gpu.address, path, mode, doing, intel_engines.CCS_MEANINGS)
        except errors.InUse as err:
            raise device_nodes.in_use(gpu.address, doing, self.holders(gpu)) from err

    def _run_property(self, gpu, where, key, value):
        path = intel_engines.property_path(gpu.address, where, key)
        kernel.write(self._host, gpu.address, path, value, f"set {key} of {where} to {value}", intel_engines.PROPERTY_MEANINGS)

    def _run_unit(self, gpu, unit, mebibytes):
        memory.write(self._host, gpu, unit, mebibytes)

    def _run_reload(self, gpu):
        systemd.reload_units(self._host)

    def _run_limit(self, gpu, unit, limit):
        memory.set_limit(self._host, self._sessions, gpu, unit, limit)

    def _run_file(self, gpu, name, text):
        path = f"{ENVIRONMENT}/{name}"
        try:
            self._host.store_remove(path) if text is None else self._host.store_write(path, text)
        except OSError as err:
            raise errors.StateDirUnusable(
                f"The environment file {path} can't be written: {err.strerror}.", gpu.address, "Run as root, and free space."
            ) from err

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The partitions. Who uses one is not known: they are what programs choose to read."""
        return self._as_slices(gpu, state.files)

    def expected_on(self, gpu, layout, below):
        """The partitions that a layout will have."""
        return self._as_slices(gpu, layout["files"])

    def _as_slices(self, gpu, files):
        count = self._tiles(gpu.address) or 1
        found = []
        for name, text in sorted(files.items()):
            part = NAME.match(name)
            share = 1 / count if part and part[2] else 1.0
            memory = int(gpu.memory_mib * share) if gpu.memory_mib else None
            nodes = tuple(device_nodes.render(self._host, gpu.address))
            path, called = f"{ENVIRONMENT}/{name}", name.removesuffix(".env")
            found.append(
                Slice(
                    gpu.address, "environment", mask_of(text), path, memory, share, "", nodes, name=called,
                    environment=environment_of(part[2] if part else None), isolated=False,
                )  # fmt: skip
            )
        return found

    def environment(self, state):
        """File -> the variables in it, as a dict."""
        return {
            f"{ENVIRONMENT}/{name}": dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
            for name, text in state.files.items()
        }

    def drawing(self, gpu, state):
        """CCS mode and partitions in a few words."""
        modes = "/".join(str(mode) for mode in state.ccs.values())
        parts = ", ".join(mask_of(text) for _, text in sorted(state.files.items()))
        return "; ".join(part for part in (f"CCS mode {modes}" if modes else "", f"partitions {parts}" if parts else "") if part)


def _numbers(address):
    """A PCI address as Level Zero compares them: by domain, bus, device and function."""
    return [int(part, 16) for part in re.split("[:.]", address)]
