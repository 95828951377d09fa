"""
After a boot: bring back the last verified layout of each GPU before its consumers start.

A systemd unit calls :func:`replay` without a master and without a pillar. It waits, with a bound, for GPUs that appear late,
names those that are gone, and never tries a layout again and again that fails: see :class:`Attempts`. It never reboots a host.
"""

import time
from contextlib import nullcontext
from typing import NamedTuple

from gpuslice import catalog
from gpuslice import errors
from gpuslice.boot import unit
from gpuslice.change.reconcile import Options
from gpuslice.change.reconcile import Reconciler
from gpuslice.inventory import discovery
from gpuslice.records import lock
from gpuslice.records.attempts import LIMIT
from gpuslice.records.attempts import Attempts
from gpuslice.records.journal import Journal
from gpuslice.records.verified import Verified

#: Seconds to wait for GPUs that are not ready yet, between two looks, and for one more to come before the others are done.
PATIENCE, POLL, SETTLE = 60.0, 0.5, 3.0
#: Conditions that may pass while drivers load; any other error is told at once.
_PASSING = (errors.DriverMissing, errors.DeviceNotFound, errors.Unsupported)
#: The whole host can't be changed now, so trying GPU by GPU is in vain; of the first two, nothing was begun either.
_NOT_BEGUN = (errors.LockHeld, errors.JournalDamaged)
_HOST_WIDE = (*_NOT_BEGUN, errors.StateDirUnusable, errors.RollbackFailed)


class Target(NamedTuple):
    """What a GPU is brought back to; for :class:`gpuslice.change.reconcile.Reconciler`."""

    gpu: object
    technique: str
    settings: dict
    reason: str = ""


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
    """One replay. ``done``, ``failed`` and ``changes`` fill up, by PCI address."""

    def __init__(self, engine, force):
        self._engine = engine
        self._host = engine.host
        self._force = force
        self._attempts = Attempts(self._host)
        self._entries = Verified(self._host).entries()
        self._lines, self._failed, self._changes, self._warnings = {}, {}, {}, []
        self._begun = None

    def run(self, test, wait):
        """See :func:`replay`."""
        self._warnings += self._engine.rivals()
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

    def told(self):
        """Each GPU with its entry and what a replay would do now, for :func:`status`."""
        targets, obstacles = self._look(self._entries)
        plans = self._planned(list(targets.values()))
        found = {}
        for address, entry in self._entries.items():
            state = "differs" if address in plans else "as verified"
            if address in obstacles or address in self._failed:
                state = self._failed.get(address) or str(obstacles[address])
            found[address] = {
                "technique": entry["technique"],
                "layout": self._engine.tools.get(entry["technique"]).words(entry["layout"]),
                "awaits_reboot": bool(entry["awaits"]),
                "time": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time"])),
                "generation": entry["generation"],
                "state": state,
                "failures": self._attempts.failures(address, entry),
            }
        return found

    def _answer(self, result):
        lines = [self._failed.get(address) or self._lines[address] for address in self._entries]
        if not lines:
            lines = ["No layout was verified on this host yet, so there is nothing to bring back."]
        answer = {"changes": self._changes, "comment": "\n".join(lines)}
        if result is not None:
            answer["result"] = result
        # One that nothing of this replay reaches is still there.
        warnings = self._warnings + self._engine.interrupted()
        return {**answer, "warnings": warnings} if warnings else answer

    def _tested(self):
        targets, obstacles = self._look(self._entries)
        self._failed.update((address, str(err)) for address, err in obstacles.items())
        plans = self._planned(list(targets.values()))
        for address, made in plans.items():
            self._changes[address] = {"old": made.old, "new": made.new}
            self._lines[address] = f"{self._words(address)} would be brought back."
        return self._answer(False if self._failed else None if plans else True)

    def _all(self, wait):
        """Replay what is ready; go on looking for the rest until the time is over."""
        left = dict(self._entries)
        # The clock of a host that boots is often set meanwhile, by hours or years, so time is not told by it.
        end = self._host.monotonic() + wait
        grown, count = self._host.monotonic(), 0
        while left:
            targets, obstacles = self._look(left)
            over = self._host.monotonic() >= end or not any(isinstance(err, _PASSING) for err in obstacles.values())
            if not over:
                # GPUs that can't change one by one wait for each other.
                late = {self._entries[address]["technique"] for address in obstacles}
                targets = {a: t for a, t in targets.items() if t.technique not in late or not self._is_joint(t.technique)}
            if len(targets) != count:
                grown, count = self._host.monotonic(), len(targets)
            if targets and (over or self._host.monotonic() - grown >= SETTLE):
                self._group(list(targets.values()))
                left = {address: entry for address, entry in left.items() if address not in targets}
                count = 0
            if over:
                self._failed.update((address, str(err)) for address, err in obstacles.items())
                return
            self._host.sleep(min(POLL, max(0.0, end - self._host.monotonic())))

    def _confirm(self):
        """Read everything again: what is said to be back must be there when all is over."""
        back = {address: entry for address, entry in self._entries.items() if address not in self._failed}
        targets, obstacles = self._look(back)
        self._failed.update((address, str(err)) for address, err in obstacles.items())
        found = list(targets.values())
        for address, made in self._reconciler(found).plan_each(found).items():
            if isinstance(made, errors.GpuSliceError):
                self._failed[address] = str(made)
            elif made.steps:
                err = errors.ValidationFailed("It was brought back, and is not as verified when read again.", address)
                self._failed[address] = str(err)

    def _look(self, wanted):
        """(targets of the GPUs that are ready, errors of those that are not), each by PCI address, read from the host anew."""
        self._engine.tools.release()
        gpus = {gpu.address: gpu for gpu in discovery.discover(self._host)}
        targets, obstacles = {}, {}
        for address, entry in wanted.items():
            try:
                targets[address] = self._target(gpus.get(address), address, entry)
            except errors.GpuSliceError as err:
                obstacles[address] = err
        return targets, obstacles

    def _target(self, gpu, address, entry):
        tool = self._engine.tools.get(entry["technique"])
        if gpu is None:
            raise errors.DeviceNotFound(
                f"{entry['model'] or 'The GPU'} is not there, so {tool.words(entry['layout'])} can't be brought back.",
                address,
                f"Look for it with lspci; if it was taken out, run 'salt-call gpu_boot.forget {address}'.",
            )
        ask = getattr(tool, "needs_driver", None)
        needs_driver = ask(entry["layout"]) if ask else True
        if not gpu.driver and needs_driver:
            raise errors.DriverMissing("No driver is bound to the GPU.", address, "Load its driver; 'dmesg' says why it is not.")
        if entry["model"] and not _is_same(gpu, entry["model"], gpu.catalog_key or needs_driver):
            raise errors.ForeignChange(
                f"There is {gpu.model} now where {entry['model']} was, whose layout is not put on another model.",
                address,
                "Run 'salt-call state.apply gpu_slicing' to slice it as the pillar says.",
            )
        if not tool.supports(gpu):
            raise errors.Unsupported(f"{gpu.model} can't do {tool.name}.", address, "See 'salt-call gpu.capabilities'.")
        tool.observe(gpu)
        return Target(gpu, tool.name, entry["awaits"] or tool.settings_of(entry["layout"]))

    def _planned(self, targets):
        """
        PCI address -> plan of each GPU that has to change. What is right already, or can't be brought back, is noted instead.
        """
        found = {}
        for address, made in self._reconciler(targets).plan_each(targets).items():
            if isinstance(made, errors.GpuSliceError):
                self._failed[address] = str(made)
            elif not made.steps:
                self._lines.setdefault(address, f"{self._words(address)}: {made.note if made.waits else 'there already'}.")
            elif self._given_up(address):
                self._failed[address] = str(self._given_up(address))
            else:
                found[address] = made
        return found

    def _given_up(self, address):
        """The error for a layout that failed too often, None for any other."""
        failures = self._attempts.failures(address, self._entries[address])
        if failures < LIMIT or self._force:
            return None
        return errors.ModeChangePending(
            f"Bringing it back failed {failures} times within a day, so it is not tried again by itself.",
            address,
            "Mend the cause, then run 'salt-call gpu_boot.replay force=True' or 'salt-call state.apply gpu_slicing'.",
        )

    def _group(self, targets):
        """Replay these GPUs side by side; when that fails, one by one, so that one keeps no other from coming back."""
        changing = self._planned(targets)
        self._attempts.succeeded([t.gpu.address for t in targets if t.gpu.address in self._lines])
        # An interrupted change is finished only for one who wants all of it: what is there already is wanted too.
        wanted = [target for target in targets if target.gpu.address not in self._failed]
        interrupted = Journal(self._host).unfinished() is not None
        if not changing and not (interrupted and wanted):
            return
        begun = [t.gpu.address for t in wanted if interrupted or t.gpu.address in changing]
        self._begun = self._attempts.begin({address: self._entries[address] for address in begun})
        err = self._apply(wanted)
        parts = self._parts(wanted)
        if err is None or len(parts) == 1 or isinstance(err, _HOST_WIDE):
            return
        for target in wanted:
            self._failed.pop(target.gpu.address)
        for part in parts:
            if self._planned(part):
                self._apply([target for target in part if target.gpu.address not in self._failed])

    def _parts(self, targets):
        """The targets one by one; those of a technique whose GPUs can't change one by one, together."""
        joint = {name: [t for t in targets if t.technique == name] for name in sorted({t.technique for t in targets})}
        together = [part for name, part in joint.items() if self._is_joint(name)]
        return together + [[target] for target in targets if not self._is_joint(target.technique)]

    def _is_joint(self, name):
        return hasattr(self._engine.tools.get(name), "gather")

    def _apply(self, targets):
        """Change these GPUs and note what became of each. Returns None, the error that stopped all, or True for errors in it."""
        addresses = [target.gpu.address for target in targets]
        try:
            result = self._reconciler(targets).apply(targets)
        except errors.GpuSliceError as err:
            self._failed.update(dict.fromkeys(addresses, str(err)))
            if isinstance(err, _NOT_BEGUN):
                self._withdraw(addresses)
            return err
        self._warnings += [line for line in result.warnings if line not in self._warnings]
        self._changes.update(result.changes)
        if not result.ok:
            self._failed.update(dict.fromkeys(addresses, " ".join(result.errors)))
            return True
        for address in result.changes:
            waits = " after one more reboot" if address in result.reboot else ""
            self._lines[address] = f"{self._words(address)}: brought back{waits}."
        for address in addresses:
            self._lines.setdefault(address, f"{self._words(address)}: there already.")
        self._attempts.succeeded(addresses)
        return None

    def _withdraw(self, addresses):
        """An attempt that met only a held lock did not fail: whoever has the lock may be bringing the slices back."""
        try:
            self._attempts.withdraw(addresses, self._begun)
        except errors.StateDirUnusable as err:
            self._warnings.append(str(err))

    def _reconciler(self, targets):
        """A reconciler with the rules that were in force when these layouts were verified."""
        rules = {t.gpu.address: self._entries[t.gpu.address]["rules"] for t in targets}
        options = Options(
            who="gpu_boot.replay",
            # Units that come after us in the boot can't be running yet; started again from here, they would wait for us.
            stop_units=tuple(sorted({u for rule in rules.values() for u in rule["stop_units"] if u not in unit.BEFORE})),
            unload_modules=tuple(sorted({name for rule in rules.values() for name in rule["unload_modules"]})),
            health_check=all(rule["health_check"] for rule in rules.values()),
            rules_noted=rules,
            # What is started again (by an interrupted change that is undone or finished here too) may itself come after this very
            # replay in the boot: its start would wait for our end, and we for its. So it is queued. Leaving it to the boot alone
            # would not do: a replay by hand has no boot that starts anything.
            awaits_units=False,
        )
        return Reconciler(self._host, self._engine.tools, options)

    def _words(self, address):
        entry = self._entries[address]
        tool = self._engine.tools.get(entry["technique"])
        what = f"{tool.name} as it was asked for before the reboot" if entry["awaits"] else tool.words(entry["layout"])
        return f"GPU {address}: {what}"


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
    address = gpu if gpu in entries else engine.gpu(gpu).address
    if address not in entries:
        raise errors.DeviceNotFound(
            "No layout of this GPU was verified.", address, f"There are layouts of: {', '.join(entries) or 'no GPU'}."
        )
    words = engine.tools.get(entries[address]["technique"]).words(entries[address]["layout"])
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
    return {"unit": unit.unit_state(engine.host, text), "gpus": made.told(), "last": Attempts(engine.host).last(),
            "warnings": [*engine.rivals(), *engine.interrupted()]}  # fmt: skip
