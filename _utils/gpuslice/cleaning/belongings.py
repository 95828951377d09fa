"""
What a host has of ours beside the layouts of its GPUs: the unit of the boot, that of metrics and their file, what was kept for an
undo, and the records.
"""

from gpuslice import errors
from gpuslice import kinds
from gpuslice.boot import unit
from gpuslice.host.base import TRIED
from gpuslice.metrics import export
from gpuslice.numbers import many
from gpuslice.records import leaving
from gpuslice.records import lock
from gpuslice.records.history import History
from gpuslice.records.journal import Journal

#: What follows the reasons for which a host could not be given up yet.
AGAIN = "The unit of the boot and the records stay until then: mend that, and 'salt-call gpu_slicing.clean' goes on from here."


class Belongings:
    """Those of one host, which is given up. :param engine: :class:`gpuslice.engine.Engine`."""

    def __init__(self, engine):
        self._engine, self._host = engine, engine.host

    def going(self):
        """What would be removed, in the shape of a state's ``changes``."""
        found, there = {}, unit.unit_state(self._host)
        if there["present"] or there["enabled"]:
            found[unit.UNIT] = {"old": "enabled" if there["enabled"] else "present", "new": "absent"}
        found.update(export.going(self._host))
        found.update({each.path: {"old": "present", "new": "absent"} for each in self.leftovers() if not each.todo})
        if count := len(leaving.files(self._host)):
            found[self._host.state_dir] = {"old": many(count, "record"), "new": "absent"}
        return found

    def leftovers(self):
        """What technologies still have beside their layouts, as :class:`gpuslice.techniques.base.Leftover`."""
        names = [kind.name for kind in kinds.KNOWN if any(kind.may_concern(gpu) for gpu in self._engine.gpus)]
        return [each for name in names for each in self._engine.tools.get(name).leftovers()]

    def strays(self):
        """Paths of files that are ours by their names, of which nothing tells when all layouts are back."""
        known = {each.path for each in self.leftovers()}
        # The unit of the boot and those of metrics, and the links that enable them, go with the records.
        mine = (unit.UNIT, *export.UNITS)
        there = [path for path in leaving.strays(self._host) if path.rpartition("/")[2] not in mine]
        return [path for path in there if path not in known]

    def remove(self, known):
        """
        Remove all of it, the records last, and return it as :meth:`going` does.

        :param known: newest generation as the caller knows it, by its :meth:`gpuslice.records.history.History.mark`.
        :raises errors.ForeignChange: another run came.
        :raises errors.PermissionDenied, errors.ToolFailed, errors.ToolMissing, errors.StateDirUnusable: it can't be removed.
        """
        with lock.held(self._host.state_dir, "gpu_slicing.clean"):
            self._refuse_if_superseded(known)
            going = self.going()
            if unit.UNIT in going:
                unit.disable(self._engine)
            export.disable(self._engine)
            for each in self.leftovers():
                if not each.todo:
                    self._remove_file(each.path)
            leaving.remove(self._host)
        return going

    def _remove_file(self, path):
        try:
            self._host.store_remove(path)
        except OSError as err:
            raise errors.PermissionDenied(f"{path} can't be removed: {err.strerror}.", todo=f"Run as root. {AGAIN}") from err

    def _refuse_if_superseded(self, known):
        """Another run may have sliced anew by now: what it noted is not ours to forget."""
        newest = History(self._host).newest()
        # Without any it was another one that gave the host up, and came first; its number alone may come again after that.
        if (newest[0] and newest != known) or Journal(self._host).unfinished():
            raise errors.ForeignChange(
                f"Another run changed this host meanwhile (generation {newest[0]}), so that its records stay.",
                todo="Look at 'salt-call gpu_slicing.history', then run again.",
            )
        if self._host.has_record(TRIED):
            raise errors.ForeignChange(
                "A GPU of this host is being tried out, or that was interrupted, so that the records stay.",
                todo="Let it end, or run 'salt-call gpu_slicing.recover'; then run again.",
            )
