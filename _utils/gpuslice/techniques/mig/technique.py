"""
NVIDIA Multi-Instance GPU.

Settings that it takes (one of):

``{"entries": [(profile, start or None, count)], "compute_instances": n}``
    the layout as a pillar or an argument has it;
``{"layout": {...}}``
    exactly this earlier layout, placements included;
``{"enabled": bool}``
    only the MIG mode; instances stay as they are where the mode does.

Differences that :meth:`Mig.settle` turns into such settings (one of): ``{"create": [profile, start or None]}``,
``{"destroy": a MIG UUID, profile@start or all}``, ``{"reset": True}`` (the mode that is pending).
"""

from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.drivers import device_nodes
from gpuslice.drivers import modules
from gpuslice.drivers import pci
from gpuslice.drivers.nvml import FIELD_RESETLESS_MIG
from gpuslice.drivers.nvml import IN_USE
from gpuslice.drivers.nvml import RESET_REQUIRED
from gpuslice.host import limits
from gpuslice.model import Slice
from gpuslice.model import slice_name
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.techniques.base import STOP_OR_FORCE
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.mig import export
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import profile_names
from gpuslice.techniques.mig.users import Users

_RESET_TIMEOUT = 120
_RESET_REFUSED = ("not supported", "not permitted in this", "unable to reset")


class MigState(NamedTuple):
    """What a GPU is now: ``current`` and ``pending`` MIG mode, and the GPU instances (``gpuslice.drivers.nvml_mig.GiState``)."""

    current: bool
    pending: bool
    instances: tuple = ()


@final
class Mig(Technique):
    """MIG on one host. One object serves one run: it holds what was read in it."""

    name = "mig"
    forms = ("mig-parted",)
    effects = {
        "set_mode": "mode", "reset": "reset",
        **dict.fromkeys(("create_gi", "create_ci", "destroy_gi", "destroy_ci"), "slice"),
    }  # fmt: skip

    def __init__(self, host, sessions, looks_after_vgpus=False):
        super().__init__(host, sessions)
        # What manages vGPUs too removes those that stand on an instance before it; for all others they are in the way.
        self._looks_after_vgpus = looks_after_vgpus
        self.nvml = sessions.nvml
        self._tables = {}
        self._gi_ids = {}
        self.users = Users(host, self.nvml)

    # -- facts ---------------------------------------------------------------------------------------------------
    def observe(self, gpu):
        """Read the MIG mode and the instances. Raises errors.Unsupported where there is no MIG, errors.DriverError."""
        self._host.limits.refuse(gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        return self._host.limits.within(self._observe, gpu)

    def _observe(self, gpu):
        mode = self.nvml.mig_mode(gpu.address)
        if mode is None:
            raise errors.Unsupported(f"{gpu.model} reports no MIG mode.", gpu.address, _why_no_mig(gpu))
        current, pending = mode
        if not current:
            return MigState(current, pending)
        instances = self.nvml.instances(gpu.address, self.table(gpu))
        self._gi_ids.update({(gpu.address, gi.start): gi.id for gi in instances})
        return MigState(current, pending, instances)

    def table(self, gpu):
        """
        The MIG profiles of this GPU: the driver's, or the catalog's where the driver tells none while MIG is off. GPUs of one
        board type share what the first was asked. Raises errors.Unsupported when neither knows them.
        """
        key = (gpu.device_id, gpu.subsystem_id, gpu.memory_mib)
        if key not in self._tables:
            known = nvidia.mig_table(gpu.catalog_key) if gpu.catalog_key else None
            told = self.nvml.table(gpu.address, known)
            if told is None:
                # Not cached: the driver may tell them as soon as MIG is on.
                return known or self._no_table(gpu)
            self._tables[key] = told
        return self._tables[key]

    @staticmethod
    def _no_table(gpu):
        raise errors.Unsupported(
            f"The driver tells no MIG profiles for {gpu.model} (device {gpu.device_id}) and the catalog has none.",
            gpu.address,
            "Drivers around R535 tell them only once MIG is on: enable it with 'salt-call gpu_mig.set_mode' first.",
        )

    def layout(self, state):
        """The state as plain data, without ids and UUIDs, which change with every creation."""
        found = {
            "enabled": state.current,
            "instances": [[gi.profile, gi.start, [[ci.name, ci.start] for ci in gi.cis]] for gi in state.instances],
        }
        return found if state.current == state.pending else {**found, "pending": state.pending}

    def words(self, layout):
        """A layout in a few words."""
        if not layout.get("enabled"):
            return "MIG disabled"
        return ", ".join(f"{profile}@{start}" for profile, start, _ in layout["instances"]) or "MIG enabled without instances"

    def shown(self, layout):
        """A layout as users see it in changes."""
        mode = _on(layout.get("enabled"))
        if "pending" in layout:
            mode += f", {_on(layout['pending'])} after a reset or reboot"
        return {"mig_mode": mode, "instances": [_instance_words(*instance) for instance in layout["instances"]]}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None while MIG is off. Raises errors.PolicyError for an odd instance."""
        return export.pillar_section(gpu.address, layout) if layout["enabled"] else None

    def export(self, form, gpus):
        """As a configuration of mig-parted. Raises errors.PolicyError for an odd instance."""
        layouts = {gpu.address: self.layout(self.observe(gpu)) for gpu in gpus}
        return export.mig_parted(layouts, {address: self.nvml.index(address) for address in layouts})

    def settings_of(self, layout, begun=None):
        """
        Settings that ask for exactly this layout.

        :param begun: the steps that a change to be undone has begun; only what they made is destroyed then.
        """
        if begun is None:
            return {"layout": layout}
        return {"layout": layout, "created": sorted({step.args["start"] for step in begun if step.action == "create_gi"})}

    def translated(self, gpu, layout):
        """
        An earlier layout under the names that the driver has for profiles now: an update of the driver can rename them.

        Raises errors.Unsupported, errors.DriverError: the profiles can't be asked for.
        """
        if not layout.get("instances"):
            return layout
        return {**layout, "instances": profile_names.renamed(layout["instances"], self.table(gpu), _aliases(gpu))}

    def release(self):
        """End the NVML session: our own handles count as clients of the GPU."""
        self.nvml.close()
        self.users.forget()

    def forget_users(self):
        """Ask anew who uses what when that is needed next."""
        self.users.forget()

    def holders(self, gpu):
        """The processes that hold this GPU open."""
        return self._users_now().of_gpu(gpu)

    def _users_now(self):
        """The users as they are now: what was seen for the plan is shared by GPUs that change side by side, and gets old."""
        return Users(self._host, self.nvml)

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends."""
        users, actions = self._users_now(), {step.action for step in steps}
        current, pending = self.nvml.mig_mode(gpu.address) or (False, False)
        switches = any(step.action == "set_mode" and step.args["enabled"] != current for step in steps)
        # The driver may have done the reset with the mode change: nothing is left to be ended then.
        resets = "reset" in actions and (switches or current != pending)
        found = users.of_gpu(gpu, any_client=resets) if switches or resets else []
        ended = {(step.args["gi"], step.args.get("ci")) for step in steps if step.action in ("destroy_ci", "destroy_gi")}
        if ended:
            # Some may have gone by steps of this very change.
            self.nvml.mig_devices(gpu.address, anew=True)
        for (gi, ci), held in (users.of_instances(gpu) if ended else {}).items():
            if not ended.isdisjoint({(gi, ci), (gi, None)}):
                found += held
        return found

    # -- planning ------------------------------------------------------------------------------------------------
    def settle(self, gpu, state, difference):
        """
        Settings for what a difference makes of ``state``; everything else stays where it is.

        :raises errors.DeviceNotFound: what is to go is not there. :raises errors.ProfileMismatch: there is no such profile.
        :raises errors.Unsupported: MIG mode is off, or no mode change is pending.
        """
        if "reset" in difference:
            if state.current == state.pending:
                raise errors.Unsupported("No mode change is pending, so a reset is not needed and not done.", gpu.address)
            return {"enabled": state.pending}
        if not state.current:
            raise errors.Unsupported(
                "MIG mode is disabled.", gpu.address, f"Enable it first: salt-call gpu_mig.set_mode {gpu.address} True"
            )
        layout = self.layout(state)
        if "create" in difference:
            return {"layout": {**layout, "instances": [*layout["instances"], self._one_more(gpu, *difference["create"])]}}
        left = self._without(gpu, state, difference["destroy"])
        return {"layout": {**layout, "instances": self.layout(state._replace(instances=left))["instances"]}}

    def plan(self, works):
        """:raises errors.ProfileMismatch: it does not fit. :raises errors.ResourceConflict: in use. :raises errors.Unsupported"""
        return [self.plan_gpu(work.gpu, work.state, work.settings, work.rules) for work in works]

    def plan_gpu(self, gpu, state, settings, rules):
        """What has to be done on one GPU, as :meth:`plan`; for whoever stands on MIG as well."""
        wanted = _wanted_mode(settings)
        if not wanted:
            return self._plan_off(gpu, state, settings, rules)
        if not state.current and self.nvml.is_vgpu_guest(gpu.address):
            raise errors.Unsupported(
                "This is a vGPU in a guest, whose MIG mode only the host can change.", gpu.address, "Change it on the host."
            )
        table, stops = self.table(gpu), Stops(self._host, gpu.address)
        existing = [_instance(gi) for gi in state.instances]
        wishes = self._wishes(gpu, settings, table, existing)
        change = self._solve(gpu, state, table, wishes, rules, stops)
        self._refuse_foreign(gpu, settings, change)
        mode_steps = self._mode_steps(gpu, state, True, rules, stops)
        if mode_steps is None:
            return self._waiting(gpu, state)
        steps = (*self.ending(gpu, stops), *mode_steps, *self._shape_steps(gpu, state, change))
        return self._gpu_plan(gpu, state, table, change, steps, {"enabled": True}, stops)

    def _wishes(self, gpu, settings, table, existing):
        if "layout" in settings:
            earlier = self.translated(gpu, settings["layout"])["instances"]
            found = [
                # A GPU instance that had no compute instance (left by a partial create) gets none.
                placement.Wish(profile, start, tuple((name, ci_start) for name, ci_start in cis) or None)
                for profile, start, cis in earlier
            ]
            return found + (_foreign_wishes(gpu, settings["created"], earlier, table, existing) if "created" in settings else [])
        if "entries" in settings:
            entries = [tuple(entry) for entry in settings["entries"]]
            return profile_names.wishes(entries, table, _aliases(gpu), settings.get("compute_instances", 1), gpu.address)
        return [placement.Wish(i.profile, i.start, i.cis or None) for i in existing]

    def _solve(self, gpu, state, table, wishes, rules, stops):
        """Plan first as if nothing were in use: asking who uses what is dear, and needless when nothing has to go."""
        try:
            change = placement.solve(table, [_instance(gi) for gi in state.instances], wishes)
            if not change.destroy and not change.destroy_cis:
                return change
            users = self.users.of_instances(gpu)
            busy = {key: held for key, held in users.items() if not rules.may_stop_all(held)}
            change = placement.solve(table, [_instance(gi, busy) for gi in state.instances], wishes, force=rules.force)
        except placement.InUse as err:
            raise self._in_use(gpu, state, set(err.cis), busy) from err
        except errors.ProfileMismatch as err:
            raise type(err)(err.what, err.gpu or gpu.address, err.todo) from err
        for key in _ended(state, change):
            stops.add(users.get(key, ()), rules)
        return change

    def _in_use(self, gpu, state, cis, busy):
        """The error for compute instances ``(start of the GPU instance, name, start)`` that would have to go, of those in use."""
        gone = [(gi, ci) for gi in state.instances for ci in gi.cis if (gi.start, ci.name, ci.start) in cis]
        held = [((gi.profile, gi.start, ci.name, ci.start), p) for gi, ci in gone for p in busy.get((gi.id, ci.id), ())]
        names = ", ".join(dict.fromkeys(device_words(*place) for place, _ in held))
        who = "; ".join(dict.fromkeys(str(p) for _, p in held))
        return errors.ResourceConflict(
            f"The wanted layout needs {names} to go, which is in use by {who}.",
            gpu.address,
            STOP_OR_FORCE,
            holders=[p.as_dict() for _, p in held],
        )

    def _refuse_foreign(self, gpu, settings, change):
        """
        Undoing a change must not destroy what another tool made meanwhile: ``created`` names the places of this change's own
        instances; without it (a rollback that a user asked for) everything may go.
        """
        if "created" not in settings:
            return
        foreign = [i for i in change.destroy if i.start not in settings["created"]]
        if foreign:
            names = ", ".join(f"{i.profile} at {i.start}" for i in foreign)
            raise errors.ForeignChange(f"{names} was made by another tool meanwhile and is not destroyed.", gpu.address)

    def _plan_off(self, gpu, state, settings, rules):
        """MIG off: everything goes, then the mode."""
        table, stops = self.table(gpu) if state.instances else None, Stops(self._host, gpu.address)
        change = placement.Change(keep=(), destroy=tuple(_instance(gi) for gi in state.instances), create=())
        self._refuse_foreign(gpu, settings, change)
        users = self.users.of_instances(gpu) if state.instances else {}
        busy = {key: held for key, held in users.items() if not rules.may_stop_all(held)}
        if busy and not rules.force:
            raise self._in_use(gpu, state, {(gi.start, ci.name, ci.start) for gi in state.instances for ci in gi.cis}, busy)
        for held in users.values():
            stops.add(held, rules)
        mode_steps = self._mode_steps(gpu, state, False, rules, stops)
        if mode_steps is None:
            return self._waiting(gpu, state)
        steps = (*self.ending(gpu, stops), *self._shape_steps(gpu, state, change, phase=PREPARE), *mode_steps)
        return self._gpu_plan(gpu, state, table, change, steps, {"enabled": False}, stops)

    def _mode_steps(self, gpu, state, wanted, rules, stops):
        """Steps to the wanted mode: [] when it is there, None when only a reboot can bring it."""
        if state.pending == wanted == state.current:
            return []
        word = "enable" if wanted else "disable"
        set_mode = self.step(
            gpu,
            "set_mode",
            {"enabled": wanted},
            f"{word} MIG mode",
            "set_mode",
            PREPARE,
            undo=f"{'disable' if wanted else 'enable'} MIG mode",
            needs=() if state.current == wanted else ("idle",),
        )
        if state.current == wanted:
            return [set_mode]
        needs_reset = not self._resetless(gpu)
        if state.pending == wanted and rules.awaits_reboot:
            return None
        self._clear_the_way(gpu, state, needs_reset, word, rules, stops)
        if not needs_reset:
            return [set_mode]
        stops.modules.update(name for name in rules.unload_modules if name in modules.loaded(self._host))
        reset = self.step(
            gpu,
            "reset",
            {},
            "reset the GPU if the driver has not done it with the mode change",
            "reset",
            RESET,
            undo="setting the mode back, and another reset",
            needs=("idle", "reset"),
        )
        return [reset] if state.pending == wanted else [set_mode, reset]

    def _resetless(self, gpu):
        told = self.nvml.field(gpu.address, FIELD_RESETLESS_MIG)
        if told is not None:
            return told == 1
        return nvidia.MODELS.get(gpu.catalog_key, {}).get("mode_change") == "nothing"

    def _clear_the_way(self, gpu, state, needs_reset, word, rules, stops):
        """A mode change ends everything on the GPU: its users are stopped if the rules allow it, else they are named."""
        held = self.users.of_gpu(gpu, any_client=needs_reset)
        refuse_if_held(gpu.address, f"{word} MIG mode, which is {_on(state.current)} now", held, rules, stops)

    def _shape_steps(self, gpu, state, change, phase=CARVE):
        devices = self.nvml.mig_devices(gpu.address) if state.instances and not change.empty else {}
        by_start = {gi.start: gi for gi in state.instances}
        steps = []
        for instance in change.destroy:
            gi = by_start[instance.start]
            steps += [self._destroy_ci(gpu, gi, ci, devices, phase) for ci in gi.cis]
            steps.append(
                self.step(
                    gpu,
                    "destroy_gi",
                    {"gi": gi.id},
                    f"destroy GPU instance {gi.profile} at {gi.start}",
                    "destroy_gi",
                    phase,
                    undo=f"create GPU instance {gi.profile} at {gi.start}",
                    needs=("idle",),
                )
            )
        for start, name, ci_start in change.destroy_cis:
            gi = by_start[start]
            steps += [self._destroy_ci(gpu, gi, ci, devices, phase) for ci in gi.cis if (ci.name, ci.start) == (name, ci_start)]
        for placed in change.create:
            steps.append(
                self.step(
                    gpu,
                    "create_gi",
                    {"profile": placed.profile, "start": placed.start},
                    f"create GPU instance {placed.profile} at {placed.start}",
                    "create_gi",
                    phase,
                    undo=f"destroy GPU instance {placed.profile} at {placed.start}",
                )
            )
            steps += [self._create_ci(gpu, placed.profile, placed.start, name, ci_start, phase) for name, ci_start in placed.cis]
        profiles = {placed.start: placed.profile for _, placed in change.keep}
        steps += [
            self._create_ci(gpu, profiles[start], start, name, ci_start, phase) for start, name, ci_start in change.create_cis
        ]
        return steps

    def _destroy_ci(self, gpu, gi, ci, devices, phase):
        uuid = devices.get((gi.id, ci.id), (None, ""))[1]
        return self.step(
            gpu,
            "destroy_ci",
            {"gi": gi.id, "ci": ci.id},
            f"destroy compute instance {ci.name} of {gi.profile} at {gi.start}{f' ({uuid})' if uuid else ''}",
            "destroy_ci",
            phase,
            undo=f"create compute instance {ci.name} again, with a new UUID",
            disrupts=(uuid,) if uuid else (),
            needs=("idle",),
        )

    def _create_ci(self, gpu, profile, start, name, ci_start, phase):
        return self.step(
            gpu,
            "create_ci",
            {"profile": profile, "start": start, "ci": name, "ci_start": ci_start},
            f"create compute instance {name} in {profile} at {start}",
            "create_ci",
            phase,
            undo=f"destroy compute instance {name}",
        )

    def _refuse_if_under_vgpus(self, gpu, steps):
        """The driver refuses that too, but late, and without a name."""
        ended = {step.args["gi"] for step in steps if step.action.startswith("destroy")}
        switching = any(step.action in ("set_mode", "reset") for step in steps)
        if self._looks_after_vgpus or not (ended or switching):
            return
        # Here, so that a run without a change does not load it.
        from gpuslice.drivers import vgpu_slots

        slots = vgpu_slots.slots(self._host, gpu.address)
        there = [vgpu for vgpu in (slots.vgpus() if slots else ()) if switching or vgpu.gi is None or vgpu.gi in ended]
        if there:
            raise errors.ResourceConflict(
                f"A change of its MIG layout would end vGPUs of the GPU: {', '.join(vgpu.identity for vgpu in there)}.",
                gpu.address,
                f"Remove them (salt-call gpu_vgpu.remove {gpu.address}), or ask for other types with strategy vgpu.",
            )
        disabling = any(step.action == "set_mode" and not step.args["enabled"] for step in steps)
        if disabling and slots and slots.carriers() != [gpu.address]:
            raise errors.ResourceConflict(
                "The GPU has virtual functions, with which the driver does not disable MIG mode.",
                gpu.address,
                f"Disable them first: salt-call gpu_vgpu.remove {gpu.address}",
            )

    def _gpu_plan(self, gpu, state, table, change, steps, after, stops):
        self._refuse_if_under_vgpus(gpu, steps)
        after = {**after, "instances": [[p.profile, p.start, [list(ci) for ci in p.cis]] for p in change.layout]}
        drawing = _drawn(table, change) if steps and table else ()
        return self.part(
            gpu, self.layout(state), after, steps, stops,
            keeps=tuple(device_words(*ci) for ci in change.kept_cis),
            destroys=tuple(device_words(*ci) for ci in change.gone_cis),
            creates=tuple(device_words(*ci) for ci in change.new_cis),
            destroys_empty=tuple(f"{old.profile} at {old.start}" for old in change.destroy if not old.cis),
            creates_empty=tuple(f"{new.profile} at {new.start}" for new in change.create if not new.cis),
            drawing=tuple(drawing),
        )  # fmt: skip

    def _waiting(self, gpu, state):
        note = (
            f"MIG mode is {_on(state.current)} and becomes {_on(state.pending)} at the next reboot: this host can't reset the GPU"
        )
        return self.unchanged(gpu, self.layout(state), waits="reboot", note=note)

    def _one_more(self, gpu, name, start):
        """One more instance for a layout: ``name`` as users write it, ``start`` a memory slice or None."""
        profile, ci = self._resolve(gpu, name)
        return [profile.name, start, [[(ci or profile).name, None]]]

    def _without(self, gpu, state, name):
        """
        The GPU instances that are left without one, named as ``profile@start`` with all in it, or by the MIG UUID of a compute
        instance: the GPU instance around it goes with the last one in it.

        :raises errors.DeviceNotFound: the GPU has no such instance.
        """
        if name == "all":
            return ()
        uuids = self.nvml.mig_devices(gpu.address) if str(name).startswith("MIG-") else {}
        gone = {ids for ids, (_, uuid) in uuids.items() if uuid == name}
        profile, _, start = str(name).partition("@")
        place = (self._instance_name(gpu, profile), start)
        named = [gi for gi in state.instances if (gi.profile, str(gi.start)) == place or any(gi.id == of for of, _ in gone)]
        if len(named) != 1 or len(gone) > 1:
            there = ", ".join(f"{gi.profile}@{gi.start}" for gi in state.instances) or "none"
            problem = "There is no instance" if not named else "There is more than one instance"
            raise errors.DeviceNotFound(
                f"{problem} {name}; there are: {there}.", gpu.address, "Name one of these, or a MIG UUID."
            )
        [found] = named
        stay = tuple(ci for ci in found.cis if gone and (found.id, ci.id) not in gone)
        kept = (gi if gi is not found else gi._replace(cis=stay) for gi in state.instances if gi is not found or stay)
        return tuple(kept)

    def _instance_name(self, gpu, name):
        """What the driver calls the GPU instance of that name. One of a compute instance names no GPU instance, and stays."""
        try:
            profile, ci = self._resolve(gpu, name)
        except errors.ProfileMismatch:
            return name
        return name if ci else profile.name

    def _resolve(self, gpu, name):
        return profile_names.resolve(name, self.table(gpu), _aliases(gpu), gpu.address)

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The MIG devices as slices, with who uses them."""
        if not state.instances:
            return []
        table, minor = self.table(gpu), self.nvml.minor(gpu.address)
        devices, busy = self.nvml.mig_devices(gpu.address), self.users.of_instances(gpu)
        return [self._slice(gpu, table, minor, gi, ci, devices, busy) for gi in state.instances for ci in gi.cis]

    def _slice(self, gpu, table, minor, gi, ci, devices, busy):
        profile = table.profile(gi.profile)
        compute = next((c.slices for c in profile.cis if c.name == ci.name), profile.slices) if profile else 0
        nodes = (f"/dev/nvidia{minor}", *(node for node in self.users.cap_nodes(minor, gi.id, ci.id) if node))
        return Slice(
            gpu.address,
            "mig",
            ci.name,
            devices.get((gi.id, ci.id), (None, ""))[1],
            profile.memory_mib if profile else None,
            round(compute / table.compute, 3),
            f"{gi.start}:{gi.size}",
            nodes,
            tuple(p.as_dict() for p in busy.get((gi.id, ci.id), ())),
            slice_name(gpu.address, *places(gi.profile, gi.start, ci.name, ci.start)),
        )

    def expected(self, gpu, layout):
        """The MIG devices that a layout has; what only exists when it is made, such as the UUID, is left out."""
        table = self.table(gpu)
        return [
            self._expected(gpu, table, profile, start, name, ci_start)
            for profile, start, cis in layout["instances"]
            for name, ci_start in cis
        ]

    @staticmethod
    def _expected(gpu, table, profile, start, name, ci_start):
        found = table.profile(profile)
        compute = next((ci.slices for ci in found.cis if ci.name == name), found.slices) if found else 0
        place = f"{start}:{found.size}" if found else ""
        share = round(compute / table.compute, 3)
        return Slice(
            gpu.address, "mig", name, "", found.memory_mib if found else None, share, place,
            name=slice_name(gpu.address, *places(profile, start, name, ci_start)),
        )  # fmt: skip

    def profiles(self, gpu):
        """The profiles of a GPU for users, with how many more of each fit now."""
        table, state = self.table(gpu), self.observe(gpu)
        free = placement.free_room(table, [_instance(gi) for gi in state.instances])
        return {
            p.name: {
                "memory_mib": p.memory_mib,
                "compute_slices": p.slices,
                "memory_slices": p.size,
                "placements": list(p.starts),
                "max": p.count,
                "free": free[p.name],
                "compute_instances": [ci.name for ci in p.cis],
            }
            for p in table.profiles
        }

    def drawing(self, gpu, state):
        """The GPU's memory slices as a line of text."""
        if not state.current:
            return "MIG is off"
        # Only maps and changes are drawn, and most runs find nothing to change.
        from gpuslice.techniques.mig.drawing import draw

        return draw(self.table(gpu), [_instance(gi) for gi in state.instances])

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_set_mode(self, gpu, enabled):
        try:
            status = self.nvml.set_mig_mode(gpu.address, enabled)
        except errors.DriverError:
            if not self._mode_is(gpu, enabled):
                raise
            return
        current, pending = self.nvml.mig_mode(gpu.address)
        if pending == enabled and (current == enabled or status in (0, RESET_REQUIRED, IN_USE)):
            return
        word = "enable" if enabled else "disable"
        if status == IN_USE:
            what = f"Could not {word} MIG mode: {errors.IN_USE}."
            raise errors.InUse(what, gpu.address, "Stop these and run again.", users=errors.IN_USE)
        raise errors.ModeChangePending(
            f"Could not {word} MIG mode: the driver answered status {status} and it is still {_on(current)}.", gpu.address
        )

    def _run_reset(self, gpu):
        current, pending = self.nvml.mig_mode(gpu.address)
        if current == pending:
            return
        self.release()
        command = ["nvidia-smi", "--gpu-reset", "-i", gpu.address]
        try:
            done = self._host.run(command, timeout=_RESET_TIMEOUT)
        except errors.ToolMissing as err:
            raise self._reboot_needed(gpu, pending, "nvidia-smi is not installed") from err
        except errors.ToolHangs as err:
            raise self._host.limits.hangs(gpu.address, limits.hanging(gpu.address, "reset it", _RESET_TIMEOUT)) from err
        if done.returncode == 0:
            return
        # What is there counts, not what the program says of it.
        there = self._mode_is(gpu, pending)
        self.release()
        if there:
            return
        said = " ".join((done.stdout + " " + done.stderr).split())
        if any(words in said.lower() for words in _RESET_REFUSED):
            raise self._reboot_needed(gpu, pending, said)
        held = "; ".join(map(str, self.holders(gpu)))
        if not held:
            held = f"{device_nodes.unseen(self._host, gpu)}, or a loaded module nvidia_drm"
        raise errors.ModeChangePending(
            f"MIG mode is to become {_on(pending)}, and the reset was refused: {said} In use by {held}.",
            gpu.address,
            "Stop these and run again.",
        )

    def _mode_is(self, gpu, wanted):
        """Whether a mode is in force."""
        try:
            return self.nvml.mig_mode(gpu.address) == (wanted, wanted)
        except errors.DriverError:
            return False

    def _reboot_needed(self, gpu, pending, why):
        return errors.RebootNeeded(
            f"MIG mode becomes {_on(pending)} at the next reboot: the GPU can't be reset here ({why}).",
            gpu.address,
            "Reboot the host.",
        )

    def _run_destroy_ci(self, gpu, gi, ci):
        self._patiently(lambda: self.nvml.destroy_ci(gpu.address, gi, ci))

    def _run_destroy_gi(self, gpu, gi):
        self._patiently(lambda: self.nvml.destroy_gi(gpu.address, gi))

    def _patiently(self, destroy):
        """The driver can say "in use" for some tenths of a second after a process or the last compute instance went."""
        for last in self._host.tries():
            try:
                destroy()
                return
            except errors.InUse:
                if last:
                    raise

    def _run_create_gi(self, gpu, profile, start):
        found = self._live_profile(gpu, profile)
        number, place = self.nvml.create_gi(gpu.address, found, start)
        if place != start:
            # Nobody but us knows that it is ours: an undo, which goes by where it was to be, would take it for another tool's.
            self._run_destroy_gi(gpu, number)
            raise errors.DriverError(
                f"{found.name} was to be made at memory slice {start}, and the driver made it at {place}.",
                gpu.address,
                "See 'dmesg | grep NVRM' for the driver's own words.",
            )
        self._gi_ids[(gpu.address, start)] = number

    def _run_create_ci(self, gpu, profile, start, ci, ci_start):
        found = self._live_profile(gpu, profile)
        slices = profile_names.parse(ci).ci_slices or found.slices
        wanted = next((c for c in found.cis if c.slices == slices), None)
        if wanted is None:
            raise errors.ProfileMismatch(f"{profile} has no compute instance profile {ci}.", gpu.address)
        self.nvml.create_ci(gpu.address, self._gi_ids[(gpu.address, start)], wanted, ci_start)

    def _live_profile(self, gpu, name):
        """The driver's profile for a name that was planned, which may have come from the catalog while MIG was off."""
        return self.table(gpu).profile(name) or self._resolve(gpu, name)[0]


def _ended(state, change):
    """(GPU instance id, compute instance id) of each compute instance that a change ends."""
    gone = {instance.start for instance in change.destroy}
    cis = {tuple(ci) for ci in change.destroy_cis}
    return [(gi.id, ci.id) for gi in state.instances for ci in gi.cis if gi.start in gone or (gi.start, ci.name, ci.start) in cis]


def _foreign_wishes(gpu, created, earlier, table, existing):
    """When a change is undone: wishes that keep what another tool made meanwhile, where the earlier layout leaves room for it."""
    taken: set[int] = set()
    for name, start, _ in earlier:
        profile = table.profile(name)
        if profile is None:
            raise errors.ForeignChange(
                f"It had {name} before the change, which it can't have any more.",
                gpu.address,
                "If another GPU has taken its place, run 'salt-call state.apply gpu_slicing' to slice it as the pillar says.",
            )
        taken.update(range(start, start + profile.size))
    foreign = [i for i in existing if i.start not in created and taken.isdisjoint(range(i.start, i.start + i.size))]
    return [placement.Wish(i.profile, i.start, i.cis or None) for i in foreign]


def _aliases(gpu):
    """What other driver versions call the profiles of this model, as far as the catalog knows it."""
    return nvidia.aliases(gpu.catalog_key) if gpu.catalog_key else {}


def _wanted_mode(settings):
    if "layout" in settings:
        return settings["layout"].get("pending", settings["layout"]["enabled"])
    return settings.get("enabled", True)


def _drawn(table, change):
    """A change as two lines; for the import see :meth:`Mig.drawing`."""
    from gpuslice.techniques.mig.drawing import draw_change

    return draw_change(table, change)


def _instance(gi, busy=None):
    cis = tuple((ci.name, ci.start) for ci in gi.cis)
    used = tuple((ci.name, ci.start) for ci in gi.cis if busy and (gi.id, ci.id) in busy)
    return placement.Instance(gi.profile, gi.start, gi.size, cis, used)


def places(profile, start, ci, ci_start):
    """What the name of a MIG device has after the address: of a compute instance also which it is, where it does not fill all."""
    return (profile, start) if ci == profile else (profile, start, ci.partition(".")[0], ci_start)


def device_words(profile, start, ci, ci_start):
    """``3g.40gb at 4``; for a compute instance that does not fill its GPU instance ``1c.3g.40gb at 0 of 3g.40gb at 4``."""
    return f"{profile} at {start}" if ci == profile else f"{ci} at {ci_start} of {profile} at {start}"


def _instance_words(profile, start, cis):
    """``3g.40gb@4``, and its compute instances where they are not the one that fills it."""
    if len(cis) == 1 and cis[0][0] == profile:
        return f"{profile}@{start}"
    parts = ", ".join(f"{name.split('.')[0]}@{ci_start}" for name, ci_start in cis)
    return f"{profile}@{start} [{parts or 'no compute instance'}]"


def _on(enabled):
    return "enabled" if enabled else "disabled"


def _why_no_mig(gpu):
    if gpu.catalog_key.startswith("rtx-pro"):
        return "Workstation RTX PRO boards hide MIG until displaymodeselector sets '--gpumode=compute'."
    return "Only data-centre GPUs from A100/A30 on and RTX PRO Blackwell boards can do MIG, with a driver that knows it."
