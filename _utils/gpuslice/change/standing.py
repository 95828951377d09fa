"""
What an upper layer stands on: the slices that are there, or those that the layers below are going to make.
"""

from typing import Any

from gpuslice import errors
from gpuslice import kinds
from gpuslice.host.base import Host
from gpuslice.inventory import discovery
from gpuslice.kinds import Kind
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.model import Target
from gpuslice.plan import Part
from gpuslice.techniques.base import Below
from gpuslice.techniques.base import Technique
from gpuslice.techniques.toolbox import Toolbox
from gpuslice.techniques.whole import whole_gpu


class Standing:
    """What is below, on one host."""

    def __init__(self, host: Host, toolbox: Toolbox) -> None:
        self._host, self._tools = host, toolbox

    def below(self, target: Target, found: Any) -> Below:
        """
        What a target stands on.

        :param found: what planning has come to so far, as of :class:`gpuslice.change.planner.Planner`.
        :raises: what reading it raises; for what hands out, :class:`gpuslice.techniques.base.Below` says so instead.
        """
        kind = kinds.known(target.technique or "")
        if kind.goes_with_all:
            # It stands on no slice, but on the board, of which a change below may take what is set.
            return Below(certain=not any(part.steps for part in found.on(target.gpu.address) if part.layer < kind.layer))
        if not kind.over or kind.layer == kinds.SHAPE:
            return Below()
        if kind.layer < kinds.HAND_OUT:
            return self._below(kind, target.gpu, found)[0]
        below = found.belows.get(target.gpu.address)
        if below is None:
            below = found.belows[target.gpu.address] = self._all_of(kind, target.gpu, found)
        if kind.layer == kinds.HAND_OUT:
            return below
        given, certain = self._given(kind, target.gpu, found)
        return below._replace(given=given, certain=below.certain and certain)

    def _all_of(self, kind: Kind, gpu: Gpu, found: Any) -> Below:
        """What there is of a GPU to be handed out: its slices, or the whole of it."""
        try:
            below, layouts = self._below(kind, gpu, found)
        except errors.GpuSliceError:
            return Below(read=False)
        if below.slices:
            return below
        closed = self._closed_by(gpu, layouts)
        return below._replace(slices=(whole_gpu(self._host, gpu),) if closed is None else (), closed=closed)

    def _closed_by(self, gpu: Gpu, layouts: list[tuple[Technique, dict]]) -> str | None:
        """Which technology keeps programs from using the GPU as a whole, "" for another reason; None where they can."""
        if not discovery.is_for_programs(gpu):
            return ""
        return next((tool.name for tool, layout in layouts if not tool.leaves_whole(gpu, layout)), None)

    def _given(self, kind: Kind, gpu: Gpu, found: Any) -> tuple[dict[str, str], bool]:
        """Name of a slice -> who has it, or is going to; and whether that is so already."""
        given, certain = {}, True
        names = self._host.store_names(self._host.state_dir)
        for name in kind.over:
            upper = kinds.known(name)
            if upper.layer != kinds.HAND_OUT:
                continue
            tool, part = self._tools.get(name), next((part for part in found.parts if part.key.technique == name), None)
            if part is not None and part.steps:
                given.update(tool.given(part.after))
                certain = False
            elif upper.noted in names:
                given.update(tool.given(tool.layout(found.state(tool, gpu))))
        return given, certain

    def _below(self, kind: Kind, gpu: Gpu, found: Any) -> tuple[Below, list[tuple[Technique, dict]]]:
        """What is below, and the layout that each technology there has or will have."""
        planned = {part.key.technique: part for part in found.on(gpu.address)}
        there: dict[str, list[Slice]] = {}
        coming: dict[str, list[Slice]] = {}
        certain, layouts = True, []
        ended = {identity for part in planned.values() for step in part.steps for identity in step.disrupts}
        for lower in self._lower(kind, gpu, planned):
            tool = self._tools.get(lower.name)
            if any(there[name] for name in there if kinds.known(name).gives_away):
                # Nothing else can be asked of what has been given away, in this very change maybe.
                break
            if not tool.supports(gpu):
                continue
            state, part = found.state(tool, gpu), planned.get(lower.name)
            now, then = _of(lower, there), _of(lower, coming)
            there[lower.name] = tool.slices_on(gpu, state, now)
            if part is None or not part.steps:
                # Whoever tells slices looks for their users too, which is not done twice for the same answer.
                coming[lower.name] = there[lower.name] if then == now else tool.slices_on(gpu, state, then)
                layouts.append((tool, tool.layout(state)))
                continue
            certain = False
            coming[lower.name] = _expected(tool, gpu, part, there[lower.name], then, ended)
            layouts.append((tool, part.after))
        given = [name for name in coming if coming[name] and kinds.known(name).gives_away]
        slices = tuple(each for name in given or coming for each in coming[name])
        names = {each.name for each in slices}
        going = tuple(each.name for name in there for each in there[name] if each.name not in names)
        return Below(slices, going, certain, any(name in planned for name in kind.over)), layouts

    def _lower(self, kind: Kind, gpu: Gpu, planned: dict[str, Part]) -> list[Kind]:
        """Those that it may stand on and that this GPU can have, from the silicon up; not those of which there is nothing."""
        given_away = discovery.is_given_away(gpu)
        able = [found for name in kind.over if (found := kinds.known(name)).cls and found.may_concern(gpu)]
        lower = [each for each in able if each.layer < kinds.HAND_OUT]
        lower = [each for each in lower if each.gives_away or not given_away]
        noted = self._host.store_names(self._host.state_dir) if any(each.noted for each in lower) else ()
        telling = [each for each in lower if not each.noted or each.noted in noted or each.name in planned]
        # Python's sort keeps the order within a layer; what stands on another of its own layer comes after that, and first what
        # leaves nothing of the GPU to the others.
        return sorted(telling, key=lambda each: (not each.gives_away, each.layer, bool(each.over)))


def _of(kind: Kind, slices: dict[str, list[Slice]]) -> list[Slice]:
    """Those of these slices, by technology, on which a technology may stand."""
    return [each for name in kind.over for each in slices.get(name, ())]


def _expected(
    tool: Technique, gpu: Gpu, part: Part, there: list[Slice], below: list[Slice], ended: set[str]
) -> list[Slice]:  # fmt: skip
    """What a part is going to make. What stays is told as it is there; what comes has only its name."""
    kept = {each.name: each for each in there if each.device not in ended}
    return [kept.get(each.name, each) for each in tool.expected_on(gpu, part.after, below)]
