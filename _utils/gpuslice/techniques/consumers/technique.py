"""
Consumers: who gets which slice of a host, and the files by which containers, services and logins open exactly that.

It belongs to the host: one part covers all GPUs. What it has below are the slices of every GPU, or the whole GPU where nothing
cuts it. Nothing of it changes a GPU, so it is never held up by one that is in use or ill; of a GPU that can't be read, what was
handed out last stays.

Settings that it takes: ``cdi`` and ``consumers`` as the pillar's section settles them; ``{"kept": True}``: those on record go on,
and nobody may be left without; ``{"layout": {...}}``: those of an earlier layout, as far as there is something for them.
``smoke_test``, beside the first: each whose slice is another one is tried at the end. ``quarantined``: what must not be handed
out, where it is not to be what is on record.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import final

from gpuslice import errors
from gpuslice.drivers import nvidia_modprobe
from gpuslice.drivers import systemd
from gpuslice.drivers import vendor_cdi
from gpuslice.host.base import QUARANTINE
from gpuslice.host.base import parted
from gpuslice.model import Gpu
from gpuslice.numbers import many
from gpuslice.outputs import cdi
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.file import File
from gpuslice.plan import CARVE
from gpuslice.plan import Step
from gpuslice.techniques.base import Leftover
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Work
from gpuslice.techniques.consumers import binding
from gpuslice.techniques.consumers.files import consumer_of
from gpuslice.techniques.consumers.files import is_unit
from gpuslice.techniques.consumers.files import reader_of
from gpuslice.techniques.consumers.files import runs_as
from gpuslice.techniques.consumers.goal import Goal
from gpuslice.techniques.consumers.goal import asked_of
from gpuslice.techniques.consumers.goal import digest
from gpuslice.techniques.consumers.goal import goal
from gpuslice.techniques.consumers.people import People
from gpuslice.techniques.consumers.register import Noted
from gpuslice.techniques.consumers.register import Register

#: What each file of ours has in it: one without it, which is not on record, is somebody else's.
MARKS = ("Written by Salt for the GPU consumer", '"kind": "gpu-slicing/')
#: Seconds that a unit may take to stop and start: systemd gives a container 90 s to stop, and an image may have to be fetched.
_PATIENCE = 300
#: States of a unit that runs, or is about to.
_RUNNING = ("active", "activating", "reloading")


@final
class Consumers(Technique):
    """Consumers of one host."""

    name = "consumers"
    effects = {
        "claim": "file", "write": "file", "remove": "file", "note": "file",
        "nodes": "file", "reload": "unit", "restart": "unit", "refresh": "unit", "refresh_vendor": "unit", "stop": "unit",
        "smoke_test": "unit", "halt": "unit", "limit": "setting", "end_slice": "unit",
    }  # fmt: skip
    joint = True

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._register = Register(host)
        # What the last plan came to, which its steps name by digests: a site's units may have secrets in them, which neither the
        # journal nor the history shall have.
        self._texts: dict[str, str] = {}
        self._goal: Goal | None = None
        self._remarks: list[str] = []
        # Of the same plan: users -> whether their managers run, and units that are not started since theirs does not.
        self._managers: dict[int, bool] = {}
        self._waiting: list[str] = []

    @cached_property
    def _people(self) -> People:
        return People(self._host)

    @cached_property
    def _noted(self) -> Noted:
        return self._register.read()

    @cached_property
    def _quarantined(self) -> dict[str, str]:
        """What is quarantined -> what becomes of its consumer; few hosts have any, and no other loads what reads it."""
        if QUARANTINE not in self._host.store_names(self._host.state_dir):
            return {}
        from gpuslice.records import quarantine

        return {name: each.consumers for name, each in quarantine.in_force(self._host).items()}

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu):
        """Every GPU can be handed out."""
        return True

    def observe(self, gpu):
        """Read the record. Raises errors.StateDirUnusable."""
        return self._noted

    def given(self, layout, by_name=False):
        """Which slice is whose."""
        consumers = layout["consumers"]
        asked = [name for name, each in consumers.items() if not by_name or "name" in consumer_of(name, each).sought]
        return {part: name for name in asked for part in consumers[name]["slices"]}

    def layout(self, state):
        """Who has what, by the names of slices: what opens them changes with every creation."""
        return {"cdi": state.cdi, "consumers": state.consumers}

    def needs_driver(self, layout):
        """What it stands on waits for its own driver."""
        return False

    def words(self, layout):
        """A layout in a few words."""
        if not layout["cdi"]:
            return "nothing handed out"
        served = {name: _shown(each) for name, each in layout["consumers"].items() if each["slices"]}
        if len(served) > 3:
            return f"{len(served)} consumers"
        return "; ".join(f"{name}: {has}" for name, has in sorted(served.items())) or "CDI names, no consumers"

    def shown(self, layout):
        """A layout as users see it in changes: consumer -> its slices, and to how much memory of each GPU it is limited."""
        return {name: _shown(each) for name, each in sorted(layout["consumers"].items())}

    def units(self, settings):
        """The units of those who have something now, and of those who are to have some."""
        specs = {**settings.get("layout", settings).get("consumers", {}), **self._noted.consumers}
        units = [runs_as(self._people, consumer_of(name, spec)) for name, spec in specs.items()]
        return tuple(dict.fromkeys(unit for unit in units if unit))

    def leftovers(self):
        """What was loaded by request: what else runs under it nobody knows here."""
        from gpuslice.techniques.consumers import shipping

        return [Leftover(path, todo) for path, todo in shipping.loaded(self._host)]

    def ended(self, before, after):
        """The containers that are ours and get nothing any more."""
        then, now = (self._having(layout["consumers"]) for layout in (before, after))
        return tuple(unit for unit, each in then.items() if _is_ours(each) and unit not in now)

    # -- planning ------------------------------------------------------------------------------------------------
    def settle(self, gpu, state, wish):
        """Settings for one consumer more (``serve``: name -> what he asks for) or less (``dismiss``: his name)."""
        specs = {name: asked_of(each) for name, each in state.consumers.items()}
        if "serve" in wish:
            return {"cdi": True, "consumers": {**specs, **wish["serve"]}}
        if not wish["missing"]:
            state.of(wish["dismiss"])
        specs.pop(wish["dismiss"], None)
        return {"cdi": state.cdi, "consumers": specs}

    def settings_of(self, layout, begun=None):
        """An undo brings back who had what, also on what is quarantined: what comes after it goes by that again."""
        if begun is None:
            return {"layout": dict(layout)}
        # Of limits that were begun no record tells yet.
        limited = [(step.args["unit"], step.args["address"]) for step in begun if step.action == "limit"]
        return {"layout": dict(layout), "undo": True, "limited": limited}

    def together(self, works):
        """All GPUs of the host: a consumer may get a slice of any of them."""
        return [works] if works else []

    def plan(self, works):
        """Raises errors.PolicyError: not all consumers can be served; errors.ResourceConflict: a file is somebody else's."""
        first = works[0]
        noted = first.state
        wanted = self._with_halted(noted, goal(self._host, self._sessions, works, noted, self._held_back(first.settings)))
        self._goal, self._texts = wanted, {digest(each.text): each.text for each in wanted.files.values()}
        self._managers, self._waiting = {}, []
        steps = tuple(self._steps(works, noted, wanted))
        before, after = self.layout(noted), self.layout(wanted.noted)
        said = ("" if steps else f"already as wanted; {self.words(before)}.", wanted.said, _unfiltered(before, after))
        note = "\n".join(filter(None, (*said, *self._waiting)))
        part = self.part(first.gpu, before, after, steps, note=note, wanted=wanted.noted.cdi)
        return [replace(part, addresses=tuple(work.gpu.address for work in works))]

    def _held_back(self, settings: Mapping) -> dict[str, str]:
        if settings.get("undo"):
            return dict.fromkeys(self._quarantined, binding.STAY)
        return settings.get("quarantined", self._quarantined)

    def _with_halted(self, noted: Noted, wanted: Goal) -> Goal:
        """What is wanted, with those of the halted units whose consumer still waits for a slice."""
        waiting = self._by_unit(consumer for consumer, device in wanted.served.values() if not device.nodes)
        return wanted._replace(noted=wanted.noted._replace(halted=tuple(unit for unit in noted.halted if unit in waiting)))

    def _steps(self, works: list[Work], noted: Noted, wanted: Goal) -> Iterator[Step]:
        work = works[0]
        gpu = work.gpu
        there = {path: self._text(path) for path in {**wanted.files, **noted.files}}
        for each in wanted.files.values():
            self._refuse_foreign(noted, each, there[each.path])
        writes = [each for each in wanted.files.values() if there[each.path] != each.text.rstrip("\n")]
        removes = [path for path in noted.files if path not in wanted.files and there[path] is not None]
        yield from self._stopping(work, noted, wanted)
        if writes:
            yield from self._nodes(work, wanted)
        # Units count as changed until systemd has read them, and the record is written: whoever goes on after a crash sees that.
        fresh = [each.path for each in writes if each.path not in noted.files]
        changing = [path for path in (*(each.path for each in writes), *removes) if is_unit(path) and noted.files.get(path)]
        if claimed := sorted([*fresh, *changing]):
            words = f"note the names of {many(len(claimed), 'file')} to write{' or remove' if removes else ''}"
            yield self._file_step(gpu, "claim", {"paths": claimed}, words, "forget them")
        for each in writes:
            args = {"path": each.path, "digest": digest(each.text), "mode": each.mode}
            known = noted.files.get(each.path)
            edited = known and there[each.path] is not None and known != digest(f"{there[each.path]}\n")
            words = f"write {each.path}{', which was changed by somebody else' if edited else ''}"
            yield self._file_step(gpu, "write", args, words, "write what was there")
        for path in removes:
            yield self._file_step(gpu, "remove", {"path": path}, f"remove {path}", "write it again")
        yield from self._reloading(work, {*_new_units(noted, wanted), *(each.path for each in writes if is_unit(each.path))})
        yield from self._limiting(wanted)
        yield from self._starting(work, noted, wanted)
        yield from self._lifting(works, noted, wanted)
        if noted.devices != wanted.noted.devices and work.rules.awaits_units and self._refreshes(noted, wanted):
            words = f"have {vendor_cdi.REFRESH} write the vendor's own CDI names anew"
            yield self.step(gpu, "refresh_vendor", {}, words, "restart_unit", CARVE, "once more")
        if work.settings.get("smoke_test") and work.rules.awaits_units:
            yield from self._smoke_tests(work, noted, wanted)
        # Last, so that a run which goes on after a crash finds all before it still to be done.
        if wanted.noted != noted or claimed:
            words = f"note who has what: {self.words(self.layout(wanted.noted))}"
            yield self._file_step(gpu, "note", {}, words, "note what was")

    def _limiting(self, wanted: Goal) -> Iterator[Step]:
        """Limits of memory that are not in force, before anybody starts with them."""
        if not wanted.limits:
            return
        from gpuslice.techniques.consumers import quotas

        for each in quotas.missing(self._host, wanted.limits):
            words = f"limit {each.consumer.name} ({each.unit}) to {each.limit} MiB of {each.gpu.address}"
            undo = "lift it" if each.now is None else f"{quotas.words(each.now)} again"
            args = {"unit": each.unit, "address": each.gpu.address, "mebibytes": each.limit}
            yield self.step(each.gpu, "limit", args, words, "sysfs_write", CARVE, undo)

    def _lifting(self, works: list[Work], noted: Noted, wanted: Goal) -> Iterator[Step]:
        """Limits that are wanted no more, when nobody starts with them any more; then their slice ends."""
        before = list(dict.fromkeys(self._limited(works, noted)))
        if not before:
            return
        from gpuslice.techniques.consumers import quotas

        for unit, gpu, found in quotas.left(self._host, self._sessions, before, wanted.limits):
            words, undo = f"lift the limit of {unit} for {gpu.address}", f"{quotas.words(found)} again"
            args = {"unit": unit, "address": gpu.address, "mebibytes": None}
            yield self.step(gpu, "limit", args, words, "sysfs_write", CARVE, undo)
        for unit in quotas.ending(self._host, [unit for unit, _ in before], wanted.limits):
            yield self.step(
                works[0].gpu, "end_slice", {"unit": unit}, f"stop {unit}, in which nothing is to run any more", "restart_unit",
                CARVE, "start it again",
            )  # fmt: skip

    def _limited(self, works: list[Work], noted: Noted) -> Iterator[tuple[str, Gpu]]:
        """(slice, GPU) of all that were to be limited by what is on record."""
        gpus = {work.gpu.address: work.gpu for work in works}
        yield from ((unit, gpus[address]) for unit, address in works[0].settings.get("limited", ()) if address in gpus)
        for name, spec in noted.consumers.items():
            if not spec.get("vram_mib"):
                continue
            from gpuslice.outputs import memory_limit

            consumer = consumer_of(name, spec)
            uid = self._people.uid(consumer.user) if consumer.kind == "user" else None
            unit = memory_limit.slice_of(consumer, uid)
            if consumer.kind == "user" and uid is None:
                # A user who is no more may still have a slice, and his number will be somebody else's.
                unit = memory_limit.slice_in(self._text(memory_limit.path_of(consumer)) or "") or unit
            for address in dict.fromkeys(noted.gpus.get(part, "") for part in spec["slices"]):
                if address in gpus:
                    yield unit, gpus[address]

    def _smoke_tests(self, work: Work, noted: Noted, wanted: Goal) -> Iterator[Step]:
        """Those who get what they did not have; who has only a name can't be tried, since nobody knows what runs with it."""
        for name, (consumer, device) in wanted.served.items():
            if device.nodes and consumer.kind != "device" and noted.digests.get(name) != wanted.noted.digests[name]:
                words = f"try whether {name} opens its slice and no other"
                yield self.step(work.gpu, "smoke_test", {"consumer": name}, words, "restart_unit", CARVE, "nothing")

    def _refreshes(self, noted: Noted, wanted: Goal) -> bool:
        devices = [*noted.devices.values(), *wanted.noted.devices.values()]
        return cdi.needs_common(devices) and vendor_cdi.refreshes(self._host)

    def _nodes(self, work: Work, wanted: Goal) -> Iterator[Step]:
        """Nodes that nobody has made yet come first: a runtime passes over one that is not there, or refuses the container."""
        named = [node.path for each in wanted.noted.devices.values() for node in each.nodes]
        if missing := sorted(set(nvidia_modprobe.missing(self._host, dict.fromkeys(named)))):
            words = f"make the device nodes {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}"
            yield self.step(work.gpu, "nodes", {"nodes": missing}, words, "load_module", CARVE, "they stay")

    def _file_step(self, gpu, action, args, words, undo):
        return self.step(gpu, action, args, words, "file_write", CARVE, undo)

    def _unit_step(self, work, action, unit, words, runs=True):
        """:param runs: whether it may run with a slice now, so that somebody notices."""
        if unit in self._host.own_units():
            raise errors.ResourceConflict(
                f"{unit} would be stopped or started anew, and this run is in that unit itself, so it would end with it.",
                todo="Choose another unit for that consumer, or run Salt outside of that one.",
            )
        args = {"unit": unit} if action in ("stop", "halt") else {"unit": unit, "waits": work.rules.awaits_units}
        undo, ended = "start it with what it had", (unit,) if runs else ()
        return self.step(work.gpu, action, args, words, "restart_unit", CARVE, undo, disrupts=ended)

    def _reloading(self, work: Work, paths: Iterable[str]) -> Iterator[Step]:
        """The system's manager reads them anew, and those of users what is for them; one that does not run will by itself."""
        if paths:
            words = "have systemd read its units anew"
            yield self.step(work.gpu, "reload", {}, words, "reload_units", CARVE, "once more")
        for uid in sorted({uid for path in paths if (uid := reader_of(path)) is not None}):
            if self._has_manager(uid):
                words = f"have the systemd of uid {uid} read its units anew"
                yield self.step(work.gpu, "reload", {"uid": uid}, words, "reload_units", CARVE, "once more")

    def _has_manager(self, uid: int | None) -> bool:
        """Whether there is a manager to take orders: the system's own, or that of a user."""
        if uid is None:
            return True
        if uid not in self._managers:
            self._managers[uid] = systemd.has_manager(self._host, uid)
        return self._managers[uid]

    def _takes_orders(self, unit: str) -> bool:
        return self._has_manager(parted(unit)[1])

    def _stopping(self, work: Work, noted: Noted, wanted: Goal) -> Iterator[Step]:
        """Containers that are ours and get nothing any more end before their unit goes."""
        staying = self._units(wanted)
        for unit, ours in self._noted_units(noted).items():
            if ours and unit not in staying and self._takes_orders(unit):
                yield self._unit_step(work, "stop", unit, f"stop {unit}, which gets no slice any more")
        for unit in self._halts(noted, wanted):
            yield self._unit_step(work, "halt", unit, f"stop {unit}, whose slice is quarantined")

    def _halts(self, noted: Noted, wanted: Goal) -> list[str]:
        """Units of others that are not to run while their slice is quarantined. Those of users are started anew without it."""
        halting = self._by_unit(wanted.served[name].consumer for name in wanted.halting)
        return [
            unit for unit, ours in self._noted_units(noted).items()
            if not ours and unit in halting and halting[unit].kind != "user" and parted(unit)[1] is None
        ]  # fmt: skip

    def _starting(self, work: Work, noted: Noted, wanted: Goal) -> Iterator[Step]:
        """Exactly the units whose device or file is another one start anew; those stopped for this change do so at its end."""
        staying = self._units(wanted)
        for unit, consumer in staying.items():
            name = consumer.name
            known = unit not in noted.units and noted.digests.get(name) == wanted.noted.digests[name]
            if known or unit in work.rules.paused:
                continue
            if not self._takes_orders(unit):
                self._waiting.append(
                    f"{unit} is not started: that user's systemd does not run, and reads the file when it starts."
                )
                continue
            why = "whose slice or unit file is another one" if name in noted.digests else f"with {name}'s slice"
            action, unit, words = _start_words(unit, _is_ours(consumer) or unit in noted.halted, why)
            yield self._unit_step(work, action, unit, words, runs=name in noted.digests or unit in noted.units)
        halts = self._halts(noted, wanted)
        for unit, ours in self._noted_units(noted).items():
            if ours or unit in staying or unit in halts:
                continue
            if unit not in work.rules.paused and self._takes_orders(unit):
                yield self._unit_step(work, *_start_words(unit, False, "without a slice"))

    def _units(self, wanted: Goal) -> dict[str, Consumer]:
        """Unit -> consumer, of those that get something."""
        return self._by_unit(consumer for consumer, device in wanted.served.values() if device.nodes)

    def _noted_units(self, noted: Noted) -> dict[str, bool]:
        """Unit -> whether it is ours, of all that have a slice or may run with one."""
        return {**{unit: _is_ours(each) for unit, each in self._having(noted.consumers).items()}, **noted.units}

    def _having(self, handed: Mapping[str, Mapping]) -> dict[str, Consumer]:
        """Unit -> consumer, of those on record who have slices."""
        return self._by_unit(consumer_of(name, spec) for name, spec in handed.items() if spec["slices"])

    def _by_unit(self, consumers: Iterable[Consumer]) -> dict[str, Consumer]:
        return {unit: each for each in consumers if (unit := runs_as(self._people, each))}

    def _refuse_foreign(self, noted: Noted, each: File, there: str | None) -> None:
        if there is None or each.path in noted.files or there == each.text.rstrip("\n") or any(mark in there for mark in MARKS):
            return
        raise errors.ResourceConflict(
            f"{each.path} is to be written for a consumer, and there is a file of that name which is not ours.",
            todo="Move it away or remove it, then run again.",
        )

    def _text(self, path: str) -> str | None:
        """A file without its last line break, None where there is none."""
        try:
            return self._host.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            todo = "Run as root; if it is no file, move it away."
            raise errors.ToolFailed(f"{path} can't be read: {err.strerror}.", todo=todo) from err

    # -- doing ---------------------------------------------------------------------------------------------------
    def carry_out(self, gpu, step):
        """Carry out a step; what the record says is read anew after it."""
        super().carry_out(gpu, step)
        self.release()

    def _run_claim(self, gpu, paths):
        noted = self._register.read()
        quadlets = {**noted.quadlets, **(self._goal.noted.quadlets if self._goal else {})}
        self._register.write(noted._replace(files={**noted.files, **dict.fromkeys(paths, "")}, quadlets=quadlets))

    def _run_write(self, gpu, path, digest, mode):
        if digest not in self._texts:
            raise errors.StepFailed(f"What is to be written to {path} was planned by another run.", todo="Run again.")
        try:
            self._host.store_write(path, self._texts[digest], mode)
        except OSError as err:
            raise errors.ToolFailed(
                f"{path} can't be written: {err.strerror}.", todo="Mend its folder or free space, then run again."
            ) from err

    def _run_remove(self, gpu, path):
        try:
            self._host.store_remove(path)
        except OSError as err:
            raise errors.ToolFailed(f"{path} can't be removed: {err.strerror}.", todo="Mend its folder, then run again.") from err

    def _run_nodes(self, gpu, nodes):
        nvidia_modprobe.make(self._host, gpu.address, nodes)

    def _run_refresh_vendor(self, gpu):
        noted = self._goal.noted if self._goal else self._register.read()
        empty = not cdi.needs_common(noted.devices.values())
        self._remarks += vendor_cdi.refresh(self._host, empty)

    def _run_limit(self, gpu, unit, address, mebibytes):
        from gpuslice.drivers import quota

        limit = None if mebibytes is None else mebibytes * quota.MIB
        quota.set_best(self._host, self._sessions, gpu, unit, limit)

    def _run_end_slice(self, gpu, unit):
        _refuse_failure("stopped", unit, systemd.end(self._host, unit, _PATIENCE))

    def _run_smoke_test(self, gpu, consumer):
        from gpuslice.techniques.consumers import smoke

        if self._goal is None:
            raise errors.StepFailed("What is to be tried was planned by another run.", todo="Run again.")
        served = self._goal.served[consumer]
        try:
            seen = smoke.run(self._host, *served, self._goal.noted.devices.values())
        except (errors.Unsupported, errors.ToolMissing) as err:
            self._remarks.append(f"Consumer {consumer} was not tried: {err}")
            return
        if seen.wrong:
            raise errors.ToolFailed(
                f"The smoke test of consumer {consumer} failed: {' '.join(seen.wrong[:4])}",
                todo=f"See 'salt-call gpu_consumer.check {consumer}', and mend what keeps it from its slice or opens more.",
            )

    def remarks(self):
        """What came of the vendor's own files, and who was not tried or not served."""
        told, self._remarks = self._remarks, []
        return told

    def _run_reload(self, gpu, uid=None):
        systemd.reload_units(self._host, uid)

    def _run_stop(self, gpu, unit):
        self._begin(unit, True)
        _refuse_failure("stopped", unit, systemd.end(self._host, unit, _PATIENCE))

    def _run_halt(self, gpu, unit):
        """Stop a unit of others, and note that it ran: it is started again with the next slice."""
        noted, state = self._register.read(), systemd.active_state(self._host, unit)
        if not state:
            raise errors.ToolFailed(f"systemd does not say whether {unit} runs.", todo="See 'systemctl status', then run again.")
        if unit not in noted.halted and state in _RUNNING:
            self._register.write(noted._replace(halted=(*noted.halted, unit)))
        self._begin(unit, False)
        _refuse_failure("stopped", unit, systemd.end(self._host, unit, _PATIENCE))

    def _run_restart(self, gpu, unit, waits):
        self._begin(unit, True)
        _refuse_failure("started", unit, systemd.restart(self._host, unit, _PATIENCE, waits))

    def _run_refresh(self, gpu, unit, waits):
        self._begin(unit, False)
        done = systemd.restart_if_active(self._host, unit, _PATIENCE, waits)
        if done.returncode == systemd.NOT_LOADED:
            # What was uninstalled while it ran can't start anew, and is not to run on with a slice that is another's.
            self._run_stop(gpu, unit)
            return
        _refuse_failure("restarted", unit, done)

    def _begin(self, unit, ours):
        """From here until the record is written anew nobody knows with what a unit runs: whoever goes on or back starts it."""
        noted = self._register.read()
        if unit not in noted.units:
            self._register.write(noted._replace(units={**noted.units, unit: ours}))

    def _run_note(self, gpu):
        if self._goal is None:
            raise errors.StepFailed("What is to be noted was planned by another run.", todo="Run again.")
        wanted, halted = self._goal.noted, self._register.read().halted
        halting = self._by_unit(self._goal.served[name].consumer for name in self._goal.halting)
        new = tuple(unit for unit in halted if unit not in wanted.halted and unit in halting)
        self._register.write(wanted._replace(halted=(*wanted.halted, *new)))
        self._remarks += self._goal.unserved

    def forget_users(self):
        """Read the record anew for the next plan."""
        self.release()

    def release(self):
        """Another run may have written the record, and another tool the files of users."""
        self.__dict__.pop("_noted", None)
        self.__dict__.pop("_people", None)
        self.__dict__.pop("_quarantined", None)


def _is_ours(consumer):
    """Whether its unit is one that we write, and not one that was there."""
    return consumer.kind == "container" and not consumer.unit


def _new_units(noted: Noted, wanted: Goal) -> list[str]:
    """The files of units that systemd may know in another form than they are to have, or that are to go."""
    told, known = wanted.noted.files, noted.files
    return [path for path in {**told, **known} if is_unit(path) and known.get(path) != told.get(path)]


def _start_words(unit, ours, why):
    """(action, unit, words) of what brings a unit to its new device: one that is ours is to run, another one only if it does."""
    return ("restart", unit, f"restart {unit}, {why}") if ours else ("refresh", unit, f"restart {unit} if it runs, {why}")


def _refuse_failure(done, unit, completed):
    if why := completed.failure:
        name, uid = parted(unit)
        todo = f"See 'journalctl -u {name}'." if uid is None else f"As that user, see 'journalctl --user -u {name}'."
        raise errors.ToolFailed(f"The unit {unit} could not be {done}: {why.rstrip('.')}.", todo=todo)


def _shown(each: Mapping) -> str:
    """What a consumer has, by its entry on record."""
    limit = f" (at most {each['vram_mib']} MiB)" if each["slices"] and each.get("vram_mib") else ""
    return f"{', '.join(each['slices']) or 'nothing'}{limit}"


def _unfiltered(before: dict, after: dict) -> str:
    """A sentence on those whom nothing keeps from other GPUs any more, since they are no consumers; "" for nobody."""
    gone = sorted(
        name for name, each in before["consumers"].items()
        if each["kind"] in ("service", "user") and name not in after["consumers"]
    )  # fmt: skip
    if not gone:
        return ""
    are = "is no consumer" if len(gone) == 1 else "are no consumers"
    return f"{' and '.join(gone)} {are} any more, so that no filter keeps {'it' if len(gone) == 1 else 'them'} from any GPU."
