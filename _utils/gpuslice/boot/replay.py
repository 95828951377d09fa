"""
After a boot: bring back the last verified layout of each GPU before its consumers start.

A systemd unit calls :func:`replay` without a master and without a pillar. It waits, with a bound, for GPUs that appear late,
names those that are gone, and never tries a layout again and again that fails: see :class:`Attempts`. It never reboots a host.
"""

from collections import Counter
from contextlib import nullcontext

from gpuslice import catalog
from gpuslice import errors
from gpuslice import kinds
from gpuslice import moments
from gpuslice.boot import unit
from gpuslice.change.reconcile import Reconciler
from gpuslice.inventory import discovery
from gpuslice.model import Target
from gpuslice.plan import merge
from gpuslice.records import lock
from gpuslice.records.attempts import LIMIT
from gpuslice.records.attempts import Attempts
from gpuslice.records.history import REPLAY
from gpuslice.records.journal import Journal
from gpuslice.records.verified import Verified
from gpuslice.rules import Options

#: Seconds to wait for GPUs that are not ready yet, between two looks, and for one more to come before the others are done.
PATIENCE, POLL, SETTLE = 60.0, 0.5, 3.0
#: Conditions that may pass while drivers load; any other error is told at once.
_PASSING = (errors.DriverMissing, errors.DeviceNotFound, errors.Unsupported)
#: The whole host can't be changed now, so trying GPU by GPU is in vain; of the first two, nothing was begun either.
_NOT_BEGUN = (errors.LockHeld, errors.JournalDamaged)
_HOST_WIDE = (*_NOT_BEGUN, errors.StateDirUnusable, errors.RollbackFailed)


def replay(engine, test=False, wait=PATIENCE, force=False):
    """
    Bring every GPU back to its last verified layout.

    :param engine: :class:`gpuslice.engine.Engine`; :param test: plan only, wait for nothing.
    :param wait: seconds to wait for GPUs that are not ready yet.
    :param force: try also a layout that failed too often; it does not allow to end what is in use.
    :return: dict with ``changes`` by PCI address, ``comment``, ``result`` (absent when ``test`` found something to change) and
        ``warnings`` when there are any. Raises errors.JournalDamaged, errors.StateDirUnusable.
    """
    return _Replay(engine, force).run(test, wait)


class _Replay:
    """One replay, of what is on record by key. ``lines`` and ``failed`` fill up by key, ``changes`` by PCI address."""

    def __init__(self, engine, force):
        self._engine = engine
        self._host = engine.host
        self._force = force
        self._attempts = Attempts(self._host)
        self._entries = Verified(self._host).entries()
        self._lines, self._changes, self._warnings = {}, {}, []
        # What a technology of another version made is told, and keeps nothing else from coming back.
        self._failed = {key: str(_strange(key, entry)) for key, entry in self._entries.items() if not _is_known(key)}
        self._known = {key: entry for key, entry in self._entries.items() if _is_known(key)}
        self._begun = None

    def run(self, test, wait):
        """See :func:`replay`."""
        self._warnings += unit.others(self._engine)
        if test:
            return self._tested()
        self._all(wait)
        if self._changes:
            self._confirm()
        # One on GPUs of which nothing is on record is nobody's to deal with here.
        self._warnings += self._engine.interrupted()
        answer = self._answer(not self._failed)
        try:
            self._attempts.ended(answer["result"], answer["comment"])
        except errors.StateDirUnusable as err:
            answer["warnings"] = [*answer.get("warnings", []), str(err)]
        return answer

    def show(self):
        """Each GPU with its entry and what a replay would do now, for :func:`status`."""
        targets, obstacles = self._look(self._known)
        parts = self._planned(_flat(targets))
        found = {}
        for key, entry in self._entries.items():
            state = "differs" if key in parts else "as verified"
            if key in obstacles or key in self._failed:
                state = self._failed.get(key) or str(obstacles[key])
            one = {
                "technique": kinds.known(key.technique).word if _is_known(key) else key.technique,
                "layout": _layout_words(self._engine, key, entry),
                "awaits_reboot": bool(entry["awaits"]),
                "time": moments.told(entry["time"]),
                "generation": entry["generation"],
                "state": state,
                "failures": self._attempts.failures(key, entry),
            }
            # What is handed out is of no GPU, and has its own name in the place of an address.
            covered = [""] if key.hands_out else entry["addresses"]
            found.update({(address, key.technique): dict(one) for address in covered})
        several = Counter(address for address, _ in found)
        # Most GPUs have one technology; what stands on another is told beside it.
        return {
            (address if several[address] == 1 else f"{address} {name}") or name: told for (address, name), told in found.items()
        }

    def _answer(self, result):
        lines = [self._failed.get(key) or self._lines[key] for key in self._entries]
        if not lines:
            lines = ["No layout was verified on this host yet, so there is nothing to bring back."]
        answer = {"changes": self._changes, "comment": "\n".join(lines)}
        if result is not None:
            answer["result"] = result
        # One that nothing of this replay reaches is still there.
        warnings = self._warnings + self._engine.interrupted()
        return {**answer, "warnings": warnings} if warnings else answer

    def _tested(self):
        targets, obstacles = self._look(self._known)
        self._failed.update((key, str(err)) for key, err in obstacles.items())
        parts = self._planned(_flat(targets))
        for key, part in parts.items():
            for where in part.shown_under:
                merge(self._changes, where, part.old, part.new)
            self._lines[key] = f"{self._describe(key)} would be brought back."
        return self._answer(False if self._failed else None if parts else True)

    def _all(self, wait):
        """Replay what is ready; go on looking for the rest until the time is over."""
        left = dict(self._known)
        # The clock of a host that boots is often set meanwhile, by hours or years, so time is not told by it.
        end = self._host.monotonic() + wait
        grown, count = self._host.monotonic(), 0
        while left:
            targets, obstacles = self._look(left)
            over = self._host.monotonic() >= end or not any(isinstance(err, _PASSING) for err in obstacles.values())
            if not over:
                # What can't change one by one waits for each other, and what stands on another for that.
                late = {key.technique for key in obstacles if self._tool(key).joint}
                away = {address for key in obstacles for address in self._entries[key]["addresses"]}
                targets = {
                    key: found for key, found in targets.items()
                    if key.technique not in late and away.isdisjoint(self._entries[key]["addresses"])
                }  # fmt: skip
            if len(targets) != count:
                grown, count = self._host.monotonic(), len(targets)
            if targets and (over or self._host.monotonic() - grown >= SETTLE):
                self._group(_flat(targets))
                left = {key: entry for key, entry in left.items() if key not in targets}
                count = 0
            if over:
                self._failed.update((key, str(err)) for key, err in obstacles.items())
                return
            self._host.sleep(min(POLL, max(0.0, end - self._host.monotonic())))

    def _confirm(self):
        """Read everything again: what is said to be back must be there when all is over."""
        back = {key: entry for key, entry in self._known.items() if key not in self._failed}
        targets, obstacles = self._look(back)
        self._failed.update((key, str(err)) for key, err in obstacles.items())
        found = _flat(targets)
        for key, made in self._reconciler(found).plan_each(found).items():
            if isinstance(made, errors.GpuSliceError):
                self._failed[key] = str(made)
            elif made.steps:
                err = errors.ValidationFailed("It was brought back, and is not as verified when read again.", made.gpu)
                self._failed[key] = str(err)

    def _look(self, wanted):
        """(targets of what is ready, errors of what is not), each by key, read from the host anew."""
        self._engine.tools.release()
        gpus = {gpu.address: gpu for gpu in discovery.discover(self._host)}
        targets, obstacles = {}, {}
        for key, entry in wanted.items():
            try:
                covered = entry["addresses"]
                if key.hands_out:
                    # What is there goes to those who had it; who had a slice of a GPU that is gone, gets what else there is.
                    covered = [address for address in covered if address in gpus] or covered[:1]
                targets[key] = [self._target(gpus.get(address), address, key, entry) for address in covered]
            except errors.GpuSliceError as err:
                obstacles[key] = err
        return targets, obstacles

    def _tool(self, key):
        return self._engine.tools.get(key.technique)

    def _target(self, gpu, address, key, entry):
        tool = self._tool(key)
        if gpu is None:
            raise errors.DeviceNotFound(
                f"{entry['model'] or 'The GPU'} is not there, so {tool.words(entry['layout'])} can't be brought back.",
                address,
                f"Look for it with lspci; if it was taken out, run 'salt-call gpu_boot.forget {address}'.",
            )
        needs_driver = tool.needs_driver(entry["layout"])
        if not gpu.driver and needs_driver:
            raise errors.DriverMissing("No driver is bound to the GPU.", address, "Load its driver; 'dmesg' says why it is not.")
        if key.hands_out:
            return Target(gpu, key, tool.settings_of(entry["layout"]))
        if entry["model"] and not _is_same(gpu, entry["model"], gpu.catalog_key or needs_driver):
            raise errors.ForeignChange(
                f"There is {gpu.model} now where {entry['model']} was, whose layout is not put on another model.",
                address,
                "Run 'salt-call state.apply gpu_slicing' to slice it as the pillar says.",
            )
        if not tool.supports(gpu):
            word = kinds.named(key.technique).word
            raise errors.Unsupported(f"{gpu.model} can't do {word}.", address, "See 'salt-call gpu.capabilities'.")
        tool.observe(gpu)
        return Target(gpu, key, entry["awaits"] or tool.settings_of(entry["layout"]))

    def _planned(self, targets):
        """
        Key -> part of what has to change. What is right already, or can't be brought back, is noted instead.
        """
        found = {}
        for key, made in self._reconciler(targets).plan_each(targets).items():
            if isinstance(made, errors.GpuSliceError):
                self._failed[key] = str(made)
            elif not made.steps:
                self._lines.setdefault(key, f"{self._describe(key)}: {made.note if made.waits else 'there already'}.")
            elif self._given_up(key):
                self._failed[key] = str(self._given_up(key))
            else:
                found[key] = made
        return found

    def _given_up(self, key):
        """The error for a layout that failed too often, None for any other."""
        failures = self._attempts.failures(key, self._entries[key])
        if failures < LIMIT or self._force:
            return None
        return errors.ModeChangePending(
            f"Bringing it back failed {failures} times within a day, so it is not tried again by itself.",
            self._entries[key]["addresses"][0],
            "Mend the cause, then run 'salt-call gpu_boot.replay force=True' or 'salt-call state.apply gpu_slicing'.",
        )

    def _group(self, targets):
        """Replay these side by side; when that fails, one by one, so that one keeps no other from coming back."""
        changing = self._planned(targets)
        self._attempts.succeeded([target.key for target in targets if target.key in self._lines])
        # An interrupted change is finished only for one who wants all of it: what is there already is wanted too.
        wanted = [target for target in targets if target.key not in self._failed]
        interrupted = Journal(self._host).unfinished() is not None
        if not changing and not (interrupted and wanted):
            return
        begun = [target.key for target in wanted if interrupted or target.key in changing]
        self._begun = self._attempts.begin({key: self._entries[key] for key in begun})
        err = self._apply(wanted)
        sets = self._sets(wanted)
        if err is None or len(sets) == 1 or isinstance(err, _HOST_WIDE):
            return
        for target in wanted:
            self._failed.pop(target.key, None)
        for together in sets:
            if self._planned(together):
                self._apply([target for target in together if target.key not in self._failed])

    def _sets(self, targets):
        """The targets GPU by GPU; those of a technique whose GPUs can't change one by one, together."""
        found = {}
        for target in targets:
            joint = target.technique if self._tool(target.key).joint else ""
            found.setdefault(joint or target.gpu.address, []).append(target)
        return sorted(found.values(), key=lambda together: together[0].key.hands_out and together[0].key.layer)

    def _apply(self, targets):
        """Change these and note what became of each. Returns None, the error that stopped all, or True for errors in it."""
        keys = list(dict.fromkeys(target.key for target in targets))
        try:
            result = self._reconciler(targets).apply(targets)
        except errors.GpuSliceError as err:
            self._failed.update(dict.fromkeys(keys, str(err)))
            if isinstance(err, _NOT_BEGUN):
                self._withdraw(keys)
            return err
        self._warnings += [line for line in result.warnings if line not in self._warnings]
        for address, change in result.changes.items():
            merge(self._changes, address, change["old"], change["new"])
        if not result.ok:
            self._failed.update(dict.fromkeys(keys, " ".join(result.errors)))
            return True
        # Who has what is the same after it as before: that names and units lead there again tells its plan alone.
        handed = {part.key for part in result.plan.changing if part.hands_out}
        for key in keys:
            covered = self._entries[key]["addresses"]
            waits = " after one more reboot" if set(covered) & set(result.reboot) else ""
            if key in handed or not key.hands_out and set(covered) & result.changes.keys():
                self._lines[key] = f"{self._describe(key)}: brought back{waits}."
            self._lines.setdefault(key, f"{self._describe(key)}: there already.")
        self._attempts.succeeded(keys)
        return None

    def _withdraw(self, keys):
        """An attempt that met only a held lock did not fail: whoever has the lock may be bringing the slices back."""
        try:
            self._attempts.withdraw(keys, self._begun)
        except errors.StateDirUnusable as err:
            self._warnings.append(str(err))

    def _reconciler(self, targets):
        """A reconciler with the rules that were in force when these layouts were verified."""
        rules = {target.key: self._entries[target.key]["rules"] for target in targets}
        options = Options(
            who=REPLAY,
            # Units that come after us in the boot can't be running yet; started again from here, they would wait for us.
            stop_units=tuple(sorted({u for rule in rules.values() for u in rule["stop_units"] if u not in unit.BEFORE})),
            unload_modules=tuple(sorted({name for rule in rules.values() for name in rule["unload_modules"]})),
            health_check=all(rule["health_check"] for rule in rules.values()),
            agreed=unit.agreed(self._entries),
            rules_noted=rules,
            # What is started again (by an interrupted change that is undone or finished here too) may itself come after this very
            # replay in the boot: its start would wait for our end, and we for its. So it is queued. Leaving it to the boot alone
            # would not do: a replay by hand has no boot that starts anything.
            awaits_units=False,
            # What comes after an interrupted change may be functions of Salt.
            call=self._engine.call,
        )
        return Reconciler(self._host, self._engine.tools, options)

    def _describe(self, key):
        entry, tool = self._entries[key], self._tool(key)
        word = kinds.named(key.technique).word
        what = f"{word} as it was asked for before the reboot" if entry["awaits"] else tool.words(entry["layout"])
        if key.hands_out:
            return f"{word.capitalize()}: {what}"
        return f"GPU {', '.join(entry['addresses'])}: {what}"


def _is_known(key):
    """Whether this version has the technology of a key: a record may be of another one."""
    kind = kinds.named(key.technique)
    return kind is not None and bool(kind.cls)


def _strange(key, entry):
    """The error for an entry of a technology that this version does not have."""
    return errors.Unsupported(
        f"Another version verified a layout of '{key.technique}' here, which this one does not have, so it is not brought back.",
        entry["addresses"][0],
        f"Install that version again, or run 'salt-call gpu_boot.forget {entry['addresses'][0]}'.",
    )


def _layout_words(engine, key, entry):
    """The layout of an entry in words."""
    return engine.tools.get(key.technique).words(entry["layout"]) if _is_known(key) else f"a layout of {key.technique}"


def _flat(targets):
    """The targets of all keys, in their order."""
    return [target for found in targets.values() for target in found]


def _is_same(gpu, known, is_named):
    """
    Whether a GPU is the model that is on record. A board that the catalog does not know has the name that its own driver gives
    it; where that driver need not be there, the vendor's name, its first word, has to do.
    """
    return known in catalog.names(gpu) if is_named else gpu.model.split()[:1] == known.split()[:1]


def forget(engine, gpu, test=False):
    """
    Bring a GPU back no more at a boot.

    :param gpu: PCI address, also of a GPU that is gone, or UUID.
    :return: dict as of :func:`replay`. Raises errors.DeviceNotFound when it has no verified layout, errors.LockHeld.
    """
    # The record is of all GPUs: without the lock, what another run notes meanwhile would be lost.
    with nullcontext() if test else lock.held(engine.host.state_dir, "gpu_boot.forget"):
        return _forgotten(engine, gpu, test)


def _forgotten(engine, gpu, test):
    verified = Verified(engine.host)
    entries = verified.entries()
    known = list(dict.fromkeys(address for entry in entries.values() for address in entry["addresses"]))
    address = gpu if gpu in known else engine.gpu(gpu).address
    keys = [key for key, entry in entries.items() if address in entry["addresses"]]
    if not keys:
        raise errors.DeviceNotFound(
            "No layout of this GPU was verified.", address, f"There are layouts of: {', '.join(known) or 'no GPU'}."
        )
    words = "; ".join(_layout_words(engine, key, entries[key]) for key in keys)
    answer = {"changes": {address: {"old": words, "new": "nothing at a boot"}}}
    if test:
        return {**answer, "comment": f"GPU {address} would not be brought back to {words} at a boot any more."}
    try:
        verified.forget(address)
    except OSError as err:
        raise errors.StateDirUnusable(f"{verified.path} could not be written: {err.strerror}.") from err
    return {**answer, "result": True, "comment": f"GPU {address} is not brought back at a boot; what it has now stays."}


def status(engine, text=""):
    """
    What a boot would do, read only.

    :param text: the unit's text as it should be, "" when it is not known.
    :return: dict: ``unit`` (path, present, current, enabled), ``gpus`` by PCI address (technique, layout in words, time,
        generation, state, failures), ``last`` replay or None, and ``warnings``.
    """
    made = _Replay(engine, force=True)
    return {"unit": unit.unit_state(engine.host, text), "gpus": made.show(), "last": Attempts(engine.host).last(),
            "warnings": [*unit.others(engine), *engine.interrupted()]}  # fmt: skip
