"""
Going back: GPUs of a change are brought to what they were before it, as far as that can be had and nobody else is in the way.
"""

from gpuslice import errors
from gpuslice.change.context import Halt
from gpuslice.change.context import caught
from gpuslice.plan import same
from gpuslice.techniques import PLAIN


class Undo:
    """
    Undoes changes on one host, by their record: a :class:`gpuslice.records.journal.Entry`.

    :param runner: :class:`gpuslice.change.runner.Runner`.
    """

    def __init__(self, toolbox, runner):
        self._tools, self._runner = toolbox, runner

    def layouts(self, entry, gpus):
        """Layout of each GPU of a change as the hardware has it now; the reason where it can't be read."""
        found = {}
        for address, name in entry.techniques.items():
            technique = self._tools.get(name)
            try:
                found[address] = technique.layout(technique.observe(_present(gpus, address)))
            except Exception as err:
                found[address] = {"error": str(caught(err, address))}
        return found

    def restore(self, entry, layouts, gpus):
        """Bring GPUs of a change back to earlier layouts. Returns the errors of those that could not be, by PCI address."""
        plans, left = [], {}
        self._tools.release()
        for address, layout in layouts.items():
            try:
                plans.append(self.plan_restore(entry, address, layout, gpus))
            except Exception as err:
                left[address] = caught(err, address)
        # A GPU that can't be put back must not keep the others from it: each one runs on its own.
        for made in (p for p in plans if p.steps):
            failed, unmet = self._runner.execute([made], gpus, Halt())
            left.update(failed)
            left.update({gpu: errors.RebootNeeded(why, gpu) for gpu, why in unmet.items()})
        for made in plans:
            if made.gpu not in left and (err := self._restored(entry, made.gpu, layouts[made.gpu], gpus)):
                left[made.gpu] = err
        return left

    def plan_restore(self, entry, address, layout, gpus, rules=PLAIN):
        """The :class:`gpuslice.plan.GpuPlan` that brings one GPU of a change back to a layout. Raises errors.DeviceNotFound."""
        gpu = _present(gpus, address)
        technique = self._tools.get(entry.techniques[address])
        begun = [step for one, step in entry.begun() if one == address]
        return technique.plan(gpu, technique.observe(gpu), technique.settings_of(layout, begun), rules)

    def _restored(self, entry, address, layout, gpus):
        """The error for a GPU that is not as it was before the change, None if it is."""
        technique = self._tools.get(entry.techniques[address])
        try:
            now = technique.layout(technique.observe(gpus[address]))
            if self.is_as_before(entry, gpus, address, now):
                return None
            left = self.plan_restore(entry, address, layout, gpus).steps
        except Exception as err:
            return caught(err, address)
        if left:
            return errors.ValidationFailed(f"It has {technique.words(now)}.", address)
        return errors.ForeignChange(f"It has {technique.words(now)}: what another tool made meanwhile is not destroyed.", address)

    def is_as_before(self, entry, gpus, address, now):
        """Whether a GPU has the layout that it had before a change."""
        return self.are_same(entry.techniques[address], gpus.get(address), entry.before[address], now)

    def are_same(self, name, gpu, earlier, now):
        """Whether two layouts of a GPU are one, also where the driver calls the earlier one otherwise by now."""
        if same(earlier, now):
            return True
        technique = self._tools.get(name)
        if gpu is None or "error" in earlier or "error" in now or not hasattr(technique, "translated"):
            return False
        try:
            return same(now, technique.translated(gpu, earlier))
        except errors.GpuSliceError:
            return False

    def what_is_left(self, gpu, err, entry):
        """A sentence on a GPU that could not be put back, for the reason ``err``."""
        words = self._tools.get(entry.techniques[gpu]).words(entry.before[gpu])
        return f"GPU {gpu} could not be put back to {words}: {err}"


def _present(gpus, address):
    """The GPU at an address. Raises errors.DeviceNotFound for one that is gone."""
    if address not in gpus:
        raise errors.DeviceNotFound("This GPU is no longer there.", address, "Look for it with 'lspci' and in 'dmesg'.")
    return gpus[address]
