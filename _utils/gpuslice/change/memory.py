"""
What outlasts a change: the layouts that a boot brings back, the GPUs that wait for a reboot, and the count of replays.
"""

import logging

from gpuslice import errors
from gpuslice.records import lock
from gpuslice.records.attempts import Attempts
from gpuslice.records.verified import Verified
from gpuslice.records.verified import entry as verified_entry

log = logging.getLogger(__name__)


class Memory:
    """
    The records of one host.

    :param options: :class:`gpuslice.change.reconcile.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    :param ledger: :class:`gpuslice.records.reboot.RebootLedger`.
    """

    def __init__(self, host, toolbox, options, journal, ledger):
        self._host, self._tools, self._options, self._journal, self._ledger = host, toolbox, options, journal, ledger
        self._verified, self._attempts = Verified(host), Attempts(host)

    def remember(self, change, kept, put_back, after, outcome):
        """Note what was verified, before the change is closed: a crash in between must leave the one or the other record."""
        entry, result = change.entry, change.result
        noted = {}
        if kept or outcome == "applied":
            number = self._journal.upcoming()
            found = [p for p in result.plan.gpus if not p.steps and not p.waits and p.wanted]
            noted = {p.gpu: self._entry_of(p.gpu, p.technique, p.before, p) for p in found}
            for gpu in kept:
                awaits = entry.goal.get(gpu) if gpu in result.reboot else None
                if gpu in change.verified or (awaits and "error" not in after[gpu]):
                    noted[gpu] = self._entry_of(gpu, entry.techniques[gpu], after[gpu], change.gpus[gpu], number, awaits)
            result.warnings += self._clear_count(noted)
        noted.update(self.undone(entry.techniques, put_back, change.gpus))
        result.warnings += self.note_verified(self._along(noted))

    def remember_found(self, plan):
        """A host that was found as wanted is verified too; one that is known as such already costs no lock and no write."""
        right = [p for p in plan.gpus if not p.waits and p.wanted]
        found = self._along({p.gpu: self._entry_of(p.gpu, p.technique, p.before, p) for p in right})
        try:
            if not self._verified.differs(found) and not self._attempts.counts(found):
                return
            with lock.held(self._host.state_dir, self._options.who, self._options.jid, patience=0):
                self._verified.note(found)
                self._attempts.succeeded(found)
        except (OSError, errors.GpuSliceError) as err:
            # Nobody asked for a change: who may only look, or comes while another is at work, is not refused for this.
            log.info("the verified layouts were not noted: %s", err)

    def _is_shared(self, name, layout):
        """Whether a layout is by nature that of all GPUs of the host that this technique has."""
        return getattr(self._tools.get(name), "is_shared", lambda _: False)(layout)

    def _along(self, noted):
        """
        These entries, and those on record of GPUs that have a layout in common with one of them and so changed along: a boot
        would otherwise be asked to bring back the one and the other.
        """
        shared = {one["technique"]: one for one in noted.values() if self._is_shared(one["technique"], one["layout"])}
        if not shared:
            return noted
        try:
            known = self._verified.entries()
        except errors.GpuSliceError:
            return noted
        kept = ("layout", "time", "generation", "awaits")
        along = {
            gpu: {**one, **{key: shared[one["technique"]][key] for key in kept}}
            for gpu, one in known.items()
            if one["technique"] in shared and self._is_shared(one["technique"], one["layout"])
        }
        return {**along, **noted}

    def _clear_count(self, gpus):
        """What a boot tried in vain on these GPUs counts no more. Returns a sentence when that could not be written."""
        try:
            self._attempts.succeeded(gpus)
        except errors.StateDirUnusable as err:
            return [str(err)]
        return []

    def undone(self, techniques, layouts, gpus):
        """
        Entries for layouts that were put back, of the GPUs whose record tells the change that was undone: a crash came between
        record and journal. Any other record stays, for what it tells is still the last that was verified.
        """
        try:
            known = self._verified.entries()
        except errors.GpuSliceError:
            return {}
        number = self._journal.upcoming()
        return {
            gpu: self._entry_of(gpu, techniques[gpu], layout, gpus.get(gpu))
            for gpu, layout in layouts.items()
            if gpu in known and known[gpu]["generation"] == number
        }

    def _entry_of(self, address, technique, layout, gpu, generation=None, awaits=None):
        rules = self._options.rules_noted.get(address) or {
            "stop_units": list(self._options.stop_units),
            "unload_modules": list(self._options.unload_modules),
            "health_check": self._options.health_check,
        }
        model = getattr(gpu, "model", "")
        return verified_entry(technique, layout, self._host.now(), generation, model, awaits, rules)

    def note_verified(self, entries):
        """Returns a sentence when it could not be written: the hardware is right all the same."""
        try:
            self._verified.note(entries)
        except (OSError, errors.StateDirUnusable) as err:
            place = self._verified.path
            return [f"The verified layout could not be noted in {place}, so a boot would bring back an older one: {_why(err)}."]
        return []

    def tidy(self, plans, waiting):
        """GPUs that no longer wait are struck off the ledger, so that a later wait is not taken for the same one."""
        try:
            self._ledger.remove([made.gpu for made in plans if made.gpu not in waiting])
        except (OSError, errors.StateDirUnusable) as err:
            log.warning("the reboot ledger in %s can't be written: %s", self._host.state_dir, _why(err))

    def note_reboot(self, gpu, why, result):
        """Note that a GPU waits for a reboot; the result gets a sentence where that can't be written."""
        try:
            self._ledger.add(gpu, why)
        except (OSError, errors.StateDirUnusable) as err:
            result.warnings.append(f"The reboot that GPU {gpu} needs could not be noted in {self._host.state_dir}: {_why(err)}.")


def _why(err):
    """Why a record could not be written, in words without a full stop."""
    return str(getattr(err, "strerror", None) or err).rstrip(".")
