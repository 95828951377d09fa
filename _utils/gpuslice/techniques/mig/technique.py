"""
NVIDIA Multi-Instance GPU.

Settings that it takes (one of):

``{"entries": [(profile, start or None, count)], "compute_instances": n}``
    the layout as a pillar or an argument has it;
``{"layout": {...}}``
    exactly this earlier layout, placements included; ``note`` beside it is told with the plan;
``{"enabled": bool}``
    only the MIG mode; instances stay as they are where the mode does.

Differences that :meth:`Mig.settle` turns into such settings (one of): ``{"create": [profile, start or None]}``,
``{"destroy": a MIG UUID, profile@start or all}``, ``{"create_ci": [GPU instance, profile, count]}``,
``{"destroy_ci": a MIG UUID or the name of a slice}``, ``{"defrag": [profile or None, start or None]}``, ``{"reset": True}`` (the
mode that is pending). ``stays``, beside create and defrag: names of slices on which something stands, which do not move.
"""

from functools import cached_property
from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.drivers import modules
from gpuslice.drivers import pci
from gpuslice.drivers.nvml import FIELD_RESETLESS_MIG
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import profile_names
from gpuslice.techniques.mig.devices import device_words
from gpuslice.techniques.mig.devices import expected_of
from gpuslice.techniques.mig.devices import instance_of
from gpuslice.techniques.mig.devices import instance_words
from gpuslice.techniques.mig.devices import mode_word
from gpuslice.techniques.mig.devices import profiles_of
from gpuslice.techniques.mig.devices import slices_of
from gpuslice.techniques.mig.users import Users


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
        self.gi_ids = {}
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
        self.gi_ids.update({(gpu.address, gi.start): gi.id for gi in instances})
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

    def leaves_whole(self, gpu, layout):
        """In MIG mode only MIG devices can be used."""
        return not layout.get("enabled")

    def words(self, layout):
        """A layout in a few words."""
        if not layout.get("enabled"):
            return "MIG disabled"
        return ", ".join(f"{profile}@{start}" for profile, start, _ in layout["instances"]) or "MIG enabled without instances"

    def shown(self, layout):
        """A layout as users see it in changes."""
        mode = mode_word(layout.get("enabled"))
        if "pending" in layout:
            mode += f", {mode_word(layout['pending'])} after a reset or reboot"
        return {"mig_mode": mode, "instances": [instance_words(*instance) for instance in layout["instances"]]}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None while MIG is off. Raises errors.PolicyError for an odd instance."""
        if not layout["enabled"]:
            return None
        # Only exports are told in it.
        from gpuslice.techniques.mig.export import pillar_section

        return pillar_section(gpu.address, layout)

    def pinned(self, layout):
        """MIG stays off. Where its mode is about to change nobody knows what is wanted."""
        return None if layout["enabled"] or "pending" in layout else {"strategy": self.name, "mig": {"mode": "disabled"}}

    def export(self, form, gpus):
        """As a configuration of mig-parted. Raises errors.PolicyError for an odd instance."""
        from gpuslice.techniques.mig.export import mig_parted

        layouts = {gpu.address: self.layout(self.observe(gpu)) for gpu in gpus}
        return mig_parted(layouts, {address: self.nvml.index(address) for address in layouts})

    def imported(self, form, written, name, gpus):
        """From a configuration of mig-parted."""
        # Only imports read it.
        from gpuslice.techniques.mig.parted import pillar

        return pillar(written, name, gpus, self._index)

    def _index(self, gpu):
        """The index of a GPU, None where its driver tells none."""
        try:
            return self.nvml.index(gpu.address)
        except errors.GpuSliceError:
            return None

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
        # Most runs are asked for no difference.
        from gpuslice.techniques.mig.difference import settings_for

        return settings_for(self, gpu, state, difference)

    def resolve(self, gpu, name):
        """Profile and compute instance of a name as users write it, see :func:`.profile_names.resolve`."""
        return profile_names.resolve(name, self.table(gpu), _aliases(gpu), gpu.address)

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
        existing = [instance_of(gi) for gi in state.instances]
        wishes = self._wishes(gpu, settings, table, existing)
        change = self._solve(gpu, state, table, wishes, rules, stops)
        self._refuse_foreign(gpu, settings, change)
        mode_steps = self._mode_steps(gpu, state, True, rules, stops)
        if mode_steps is None:
            return self._waiting(gpu, state)
        steps = (*self.ending(gpu, stops), *mode_steps, *self._shape_steps(gpu, state, change))
        return self._gpu_plan(gpu, state, table, change, steps, {"enabled": True}, stops, settings.get("note", ""))

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
            change = placement.solve(table, [instance_of(gi) for gi in state.instances], wishes)
            if not change.destroy and not change.destroy_cis:
                return change
            users = self.users.of_instances(gpu)
            busy = {key: held for key, held in users.items() if not rules.may_stop_all(held)}
            change = placement.solve(table, [instance_of(gi, busy) for gi in state.instances], wishes, force=rules.force)
        except placement.InUse as err:
            raise self._in_use(gpu, state, set(err.cis), busy, rules) from err
        except errors.ProfileMismatch as err:
            raise type(err)(err.what, err.gpu or gpu.address, err.todo) from err
        for key in _ended(state, change):
            stops.add(users.get(key, ()), rules)
        return change

    def _in_use(self, gpu, state, cis, busy, rules):
        """The error for compute instances ``(start of the GPU instance, name, start)`` that would have to go, of those in use."""
        gone = [(gi, ci) for gi in state.instances for ci in gi.cis if (gi.start, ci.name, ci.start) in cis]
        held = [((gi.profile, gi.start, ci.name, ci.start), p) for gi, ci in gone for p in busy.get((gi.id, ci.id), ())]
        names = ", ".join(dict.fromkeys(device_words(*place) for place, _ in held))
        who = "; ".join(dict.fromkeys(str(p) for _, p in held))
        return errors.ResourceConflict(
            f"The wanted layout needs {names} to go, which is in use by {who}.",
            gpu.address,
            rules.stop_or_force(),
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
        change = placement.Change(keep=(), destroy=tuple(instance_of(gi) for gi in state.instances), create=())
        self._refuse_foreign(gpu, settings, change)
        users = self.users.of_instances(gpu) if state.instances else {}
        busy = {key: held for key, held in users.items() if not rules.may_stop_all(held)}
        if busy and not rules.force:
            every = {(gi.start, ci.name, ci.start) for gi in state.instances for ci in gi.cis}
            raise self._in_use(gpu, state, every, busy, rules)
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
        refuse_if_held(gpu.address, f"{word} MIG mode, which is {mode_word(state.current)} now", held, rules, stops)

    def _shape_steps(self, gpu, state, change, phase=CARVE):
        if change.empty:
            return []
        # Here, so that a run without a change does not load it.
        from gpuslice.techniques.mig.steps import shape_steps

        return shape_steps(self, gpu, state, change, phase)

    def _refuse_if_under_vgpus(self, gpu, steps):
        """The driver refuses that too, but late, and without a name."""
        ended = {step.args["gi"] for step in steps if step.action.startswith("destroy")}
        switching = any(step.action in ("set_mode", "reset") for step in steps)
        if self._looks_after_vgpus or not (ended or switching):
            return
        slots = self._vgpu_slots(gpu)
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

    def _vgpu_slots(self, gpu):
        # Here, so that a run without a change does not load it.
        from gpuslice.drivers import vgpu_slots

        return vgpu_slots.slots(self._host, gpu.address)

    def vgpus(self, gpu):
        """The vGPUs of a GPU, as :class:`gpuslice.drivers.vgpu_slots.Vgpu`. Raises errors.DriverError."""
        slots = self._vgpu_slots(gpu)
        return slots.vgpus() if slots else []

    def _gpu_plan(self, gpu, state, table, change, steps, after, stops, note=""):
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
            note=note,
        )  # fmt: skip

    def pending(self, gpu):
        """That a mode waits for a reset."""
        current, pending = self.nvml.mig_mode(gpu.address) or (False, False)
        return f"waits for a reset: MIG mode is {mode_word(current)} and {mode_word(pending)} after it" * (current != pending)

    def _waiting(self, gpu, state):
        now, then = mode_word(state.current), mode_word(state.pending)
        note = f"MIG mode is {now} and becomes {then} at the next reboot: this host can't reset the GPU"
        return self.unchanged(gpu, self.layout(state), waits="reboot", note=note)

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The MIG devices as slices, with who uses them."""
        return slices_of(gpu, state, self.table(gpu), self.nvml, self.users) if state.instances else []

    def expected(self, gpu, layout):
        """The MIG devices that a layout has; what only exists when it is made, such as the UUID, is left out."""
        return expected_of(gpu, layout, self.table(gpu))

    def profiles(self, gpu):
        """The profiles of a GPU for users, with how many more of each fit now."""
        return profiles_of(self.table(gpu), self.observe(gpu))

    def headroom(self, gpu, stood_on=()):
        """Whether MIG is on, what is free, and how many more of each profile fit, now and after idle instances moved."""
        state = self.observe(gpu)
        # Most looks at a GPU ask for no room.
        from gpuslice.techniques.mig.room import numbers
        from gpuslice.techniques.mig.room import room_of

        return {"enabled": state.current, **numbers(room_of(self, gpu, state, stood_on), state.current)}

    def free(self, gpu, state):
        """How many more of each profile fit beside what is there; nothing while MIG is off."""
        if not state.current:
            return {}
        from gpuslice.techniques.mig.room import as_it_lies

        return as_it_lies(self.table(gpu), [instance_of(gi) for gi in state.instances])

    def drawing(self, gpu, state):
        """The GPU's memory slices as a line of text."""
        if not state.current:
            return "MIG is off"
        # Only maps and changes are drawn, and most runs find nothing to change.
        from gpuslice.techniques.mig.drawing import draw

        return draw(self.table(gpu), [instance_of(gi) for gi in state.instances])

    # -- trying it out -------------------------------------------------------------------------------------------
    def trials(self, gpu, state):
        """Each profile in each place, as many as fit, each divided, and the mode."""
        from gpuslice.techniques.mig import trying

        return trying.trials(self.table(gpu))

    def facts(self, gpu, state):
        """The profiles of the catalog beside those of the driver, which tells all of them while MIG is on."""
        from gpuslice.techniques.mig import trying

        return trying.facts(gpu, self.nvml.table(gpu.address))

    # -- doing ---------------------------------------------------------------------------------------------------
    # What only a change needs is loaded for a change.
    @cached_property
    def _doing(self):
        from gpuslice.techniques.mig.doing import Doing

        return Doing(self._host, self)

    def carry_out(self, gpu, step):
        """Carry out a step of a change of MIG."""
        getattr(self._doing, f"run_{step.action}")(gpu, **step.args)


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


def _why_no_mig(gpu):
    if gpu.catalog_key.startswith("rtx-pro"):
        return "Workstation RTX PRO boards hide MIG until displaymodeselector sets '--gpumode=compute'."
    return "Only data-centre GPUs from A100/A30 on and RTX PRO Blackwell boards can do MIG, with a driver that knows it."
