"""
One GPU under one technology: it is brought to settings by a change like any other, and looked at.
"""

from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import Key
from gpuslice.model import Target

#: What of a slice is compared, where it was known before.
_COMPARED = ("kind", "profile", "placement", "memory_mib", "compute")


class Applied(NamedTuple):
    """
    What came of a change.

    :ivar ok: whether the GPU was read as wanted; :ivar why: why not, in sentences; :ivar waits: it waits for a reboot.
    :ivar seconds: how long it took; :ivar estimated: how long it should have taken; :ivar steps: words of its steps.
    :ivar differences: sentences on slices that are not as they were expected.
    :ivar missing: device nodes of slices that nobody has made, as some are only made for their users.
    """

    ok: bool
    why: str = ""
    waits: bool = False
    seconds: float = 0.0
    estimated: float = 0.0
    steps: tuple = ()
    differences: tuple = ()
    missing: tuple = ()


class Bench:
    """
    One GPU under one technology.

    :param engine: :class:`gpuslice.engine.Engine`; :param tool: the technique; :param permissions: pillar of which only the units
        and modules that may be stopped count.
    """

    def __init__(self, engine, gpu, tool, permissions):
        self.engine, self.gpu, self.tool, self.permissions = engine, gpu, tool, permissions
        self.key = Key.of_gpu(tool.name, gpu.address)

    def layout(self):
        """What the GPU has now."""
        return self.tool.layout(self.tool.observe(self.gpu))

    def reconciler(self):
        """What makes changes that go again."""
        return self.engine.reconciler(permissions=self.permissions, passing=True)

    def targets(self, settings):
        """What is wanted; what was handed out of other GPUs is kept true."""
        return self.engine.handed_on([Target(self.gpu, self.key, settings)])

    def part(self, settings):
        """What a change to these settings would do, as :class:`gpuslice.plan.Part`. Raises an error of gpuslice.errors."""
        plan = self.reconciler().plan(self.targets(settings))
        if plan.blocked:
            raise errors.ResourceConflict(" ".join(why for _, why in plan.blocked), self.gpu.address)
        return next(part for part in plan.parts if part.key == self.key)

    def apply(self, settings):
        """Bring the GPU to these settings. Returns :class:`Applied`; raises errors.Interrupted."""
        begun = self.engine.host.monotonic()
        try:
            result = self.reconciler().apply(self.targets(settings))
        except errors.GpuSliceError as err:
            return Applied(False, str(err), seconds=self._since(begun))
        seconds, plan = self._since(begun), result.plan
        steps = tuple(step.words for step in plan.steps)
        if result.errors or result.reboot:
            why = " ".join(result.errors) or "It comes into force at a reboot."
            return Applied(False, why, bool(result.reboot), seconds, plan.seconds, steps)
        part = next((part for part in plan.parts if part.key == self.key), None)
        there = self.tool.slices(self.gpu, self.tool.observe(self.gpu))
        differences = tuple(self._differences(there, part.after if part else None))
        return Applied(True, "", False, seconds, plan.seconds, steps, differences, self._missing(there))

    def _since(self, begun):
        return round(self.engine.host.monotonic() - begun, 3)

    def _differences(self, slices, layout):
        """How the slices that are there differ from those that the plan said would be."""
        there = {part.name: part for part in slices}
        wanted = {part.name: part for part in self.tool.expected(self.gpu, layout)} if layout else there
        for name in [name for name in wanted if name not in there]:
            yield f"{name} was expected, and is not there"
        for name in [name for name in there if name not in wanted]:
            yield f"{name} is there, and was not expected"
        for name in [name for name in wanted if name in there]:
            yield from _unlike(wanted[name], there[name])
        identities = [part.identity for part in slices]
        if len(set(identities)) < len(identities) or "" in identities:
            yield "slices are not told apart by their identities"

    def _missing(self, slices):
        nodes = dict.fromkeys(node for part in slices for node in part.device_nodes)
        return tuple(node for node in nodes if not self.engine.host.exists(node))


def _unlike(wanted, found):
    for name in _COMPARED:
        expected, there = getattr(wanted, name), getattr(found, name)
        if expected not in (None, "") and expected != there:
            yield f"{wanted.name}: {name} is {there}, and {expected} was expected"
