"""
What outlasts a change: the layouts that a boot brings back, the GPUs that wait for a reboot, and the count of replays.
"""

import logging
import os
from functools import cached_property

from gpuslice import errors
from gpuslice.change.context import caught
from gpuslice.host.base import ATTEMPTS
from gpuslice.host.base import HEALTH
from gpuslice.host.base import TRIED
from gpuslice.plan import RESET
from gpuslice.plan import same
from gpuslice.records import lock
from gpuslice.records.verified import Verified
from gpuslice.records.verified import entry as verified_entry

log = logging.getLogger(__name__)


class Memory:
    """
    The records of one host.

    :param options: :class:`gpuslice.rules.Options`; :param ledger: :class:`gpuslice.records.reboot.RebootLedger`.
    """

    def __init__(self, host, options, ledger):
        self._host, self._options, self._ledger = host, options, ledger
        self._verified = Verified(host)

    # Here as below, so that a run without a change does not load it.
    @cached_property
    def history(self):
        """The :class:`gpuslice.records.history.History` of the host."""
        from gpuslice.records.history import History

        return History(self._host)

    @cached_property
    def _attempts(self):
        from gpuslice.records.attempts import Attempts

        return Attempts(self._host)

    def note_first(self, entry, gpus):
        """
        Note how what a change touches for the first time was found, before it is begun.

        :param gpus: PCI address -> GPU, of the request. :raises errors.StateDirUnusable: it can't be written.
        """
        from gpuslice.records.first import First

        First(self._host).note(entry, gpus)

    def remember(self, change, kept, put_back, after, outcome):
        """Note what was verified, before the change is closed: a crash in between must leave the one or the other record."""
        if self._options.passing:
            return
        entry, result = change.entry, change.result
        noted = {}
        if kept or outcome == "applied":
            number = self.history.upcoming()
            found = [p for p in result.plan.parts if not p.steps and not p.waits and p.wanted]
            noted = {p.key: self._entry_of(p.key, p.addresses, p.before, p.model) for p in found}
            for key in kept:
                covered = entry.covered(key)
                awaits = entry.goal.get(key) if any(gpu in result.reboot for gpu in covered) else None
                # What stood on what went is nobody's wish in this change, and a boot must not bring it back.
                gone = key not in entry.goal and key in after and not same(entry.before[key], after[key])
                if key in change.verified or gone or (awaits and "error" not in after[key]):
                    noted[key] = self._entry_of(key, covered, after[key], _model(change.gpus, covered), number, awaits)
            result.warnings += self._clear_count(noted)
        noted.update(self.undone(entry, put_back, change.gpus))
        result.warnings += self.note_verified(noted)
        result.warnings += self._void_trial(kept)

    def _void_trial(self, kept):
        """A GPU that was being tried out is not to be what it was before that, once something else was asked of it."""
        if not os.path.exists(os.path.join(self._host.state_dir, TRIED)):
            return []
        from gpuslice.records.tried import Trying

        try:
            Trying(self._host).forget(kept)
        except errors.GpuSliceError as err:
            return [str(err)]
        return []

    def remember_found(self, plan):
        """A host that was found as wanted is verified too; one that is known as such already costs no lock and no write."""
        if self._options.passing:
            return
        right = [p for p in plan.parts if not p.waits and p.wanted]
        found = {p.key: self._entry_of(p.key, p.addresses, p.before, p.model) for p in right}
        try:
            if not self._verified.differs(found) and not self._was_tried(found):
                return
            with lock.held(self._host.state_dir, self._options.who, self._options.jid, patience=0):
                self._verified.note(found)
                self._attempts.succeeded(found)
        except (OSError, errors.GpuSliceError) as err:
            # Nobody asked for a change: who may only look, or comes while another is at work, is not refused for this.
            log.info("the verified layouts were not noted: %s", err)

    def _was_tried(self, keys):
        """Whether a boot tried any of these and did not end well."""
        return self._host.has_record(ATTEMPTS) and self._attempts.counts(keys)

    def _clear_count(self, keys):
        """What a boot tried in vain of these counts no more. Returns a sentence when that could not be written."""
        try:
            self._attempts.succeeded(keys)
        except errors.StateDirUnusable as err:
            return [str(err)]
        return []

    def undone(self, entry, layouts, gpus):
        """
        Entries for layouts (by key) that were put back, of those whose record tells the change that was undone: a crash came
        between record and journal. Any other record stays, for what it tells is still the last that was verified.
        """
        try:
            known = self._verified.entries()
        except errors.GpuSliceError:
            return {}
        number = self.history.upcoming()
        return {
            key: self._entry_of(key, entry.covered(key), layout, _model(gpus, entry.covered(key)))
            for key, layout in layouts.items()
            if key in known and known[key]["generation"] == number
        }

    def _entry_of(self, key, addresses, layout, model, generation=None, awaits=None):
        rules = self._options.rules_noted.get(key) or {
            "stop_units": list(self._options.stop_units),
            "unload_modules": list(self._options.unload_modules),
            "health_check": self._options.health_check,
            "share_with": sorted({name for address in addresses for name in self._options.agreed.get(address, ())}),
        }
        return verified_entry(addresses, layout, self._host.now(), generation, model, awaits, rules)

    def note_verified(self, entries):
        """Returns a sentence when it could not be written: the hardware is right all the same."""
        try:
            self._verified.note(entries)
        except (OSError, errors.StateDirUnusable) as err:
            place = self._verified.path
            return [f"The verified layout could not be noted in {place}, so a boot would bring back an older one: {_why(err)}."]
        return []

    def tidy(self, parts, waiting):
        """GPUs that no longer wait are struck off the ledger, so that a later wait is not taken for the same one."""
        try:
            self._ledger.remove([gpu for part in parts for gpu in part.addresses if gpu not in waiting])
        except (OSError, errors.StateDirUnusable) as err:
            log.warning("the reboot ledger in %s can't be written: %s", self._host.state_dir, _why(err))

    def note_reboot(self, gpu, why, result):
        """Note that a GPU waits for a reboot; the result gets a sentence where that can't be written."""
        try:
            self._ledger.add(gpu, why)
        except (OSError, errors.StateDirUnusable) as err:
            result.warnings.append(f"The reboot that GPU {gpu} needs could not be noted in {self._host.state_dir}: {_why(err)}.")

    def note_signs(self, gpus, sessions):
        """
        Keep, for those who look at the health of the host, what can be read of GPUs that are about to change: with GPU instances
        a driver does not tell its remapped rows. Nothing depends on it.

        :param gpus: list of :class:`gpuslice.model.Gpu`; :param sessions: :class:`gpuslice.drivers.sessions.Sessions`.
        """
        if not self._host.has_record(HEALTH):
            return
        from gpuslice.health import board
        from gpuslice.records.health import HealthRecord

        try:
            rows = {gpu.address: board.Reading(self._host, sessions, gpu).signs().rows for gpu in gpus}
            HealthRecord(self._host).note_rows({gpu: each for gpu, each in rows.items() if each is not None})
        except Exception as err:
            log.warning("remapped rows were not noted for those who look at the health of the GPUs: %s", err)

    def note_health(self, entry, gpus, tools):
        """
        Tell those who look at the health of the host which GPUs were reset, and which slices there are now: errors that the
        kernel tells of by a number are theirs. Nothing depends on it.

        :param entry: the journal's record of the change; :param gpus: PCI address -> GPU; :param tools: techniques that were
            used.
        """
        if not self._host.has_record(HEALTH):
            return
        from gpuslice.records.health import HealthRecord

        resets = sorted({step.gpu for _, step in entry.begun() if step.phase == RESET})
        touched = [gpus[address] for address in entry.gpus if address in gpus]
        try:
            HealthRecord(self._host).note_change(resets, {gpu.address: _instances(gpu, tools) for gpu in touched})
        except Exception as err:
            log.warning("what this change did was not noted for those who look at the health of the GPUs: %s", err)

    def upcoming(self):
        """The number that this change gets in the history, None for one that goes again at once, which does not get there."""
        return None if self._options.passing else self.history.upcoming()

    def record(self, result, generation):
        """Write a generation into the history; its number, or why that could not be, goes to the result."""
        if self._options.passing:
            return
        try:
            result.generation = self.history.record(generation)
        except Exception as err:
            # The hardware is in a known condition and has been told of: only the memory of it is missing.
            result.warnings.append(str(caught(err)))


def _instances(gpu, tools):
    """Name -> (GPU instance, compute instance) of the slices of a GPU, () for one that has none."""
    able = [tool for tool in tools if tool.supports(gpu)]
    return {part.name: part.instance for tool in able for part in tool.slices(gpu, tool.observe(gpu))}


def _model(gpus, addresses):
    """The model of the first of these GPUs that is there, "" for none."""
    return next((gpus[address].model for address in addresses if address in gpus), "")


def _why(err):
    """Why a record could not be written, in words without a full stop."""
    return str(getattr(err, "strerror", None) or err).rstrip(".")
