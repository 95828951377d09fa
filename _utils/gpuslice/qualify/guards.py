"""
Which GPU may be tried: one that nobody uses, that is nobody's, and on which nothing stands that would not come back.
"""

from gpuslice import errors
from gpuslice import kinds
from gpuslice import wishes
from gpuslice.inventory import discovery
from gpuslice.inventory import owners
from gpuslice.rules import PLAIN

_SPARE = "Name a GPU that can be spared."


def spared(engine, named, pillar):
    """
    The GPU that a user wants to have tried, and the technologies to try on it, by which it is shaped.

    :param engine: :class:`gpuslice.engine.Engine`; :param named: as users name a GPU; :param pillar: of the minion.
    :return: (:class:`gpuslice.model.Gpu`, list of (technique, :class:`gpuslice.techniques.base.Trials`)).
    :raises errors.PolicyError: it is more than one, or somebody's by the pillar. :raises errors.ResourceConflict: it is in use.
    :raises errors.Owned: somebody else sets it. :raises errors.Unsupported: nothing can be tried on it.
    :raises errors.ModeChangePending: something else comes first.
    """
    gpu = _only(engine.chosen(named).gpus)
    _refuse_interrupted(engine, gpu)
    if discovery.is_given_away(gpu):
        raise errors.ResourceConflict(f"It is handed to virtual machines, by the driver {gpu.driver}.", gpu.address, _SPARE)
    to_try = _to_try(engine, gpu)
    _refuse_owned(engine, gpu, to_try, pillar)
    _refuse_used(engine, gpu, to_try, _may_stop(engine, pillar))
    _refuse_handed(engine, gpu)
    _refuse_promised(engine, gpu, pillar)
    return gpu, to_try


def _only(gpus):
    if len(gpus) != 1:
        raise errors.PolicyError(f"{len(gpus)} GPUs are named, and one at a time is tried.", todo="Name one of them.")
    return gpus[0]


def _refuse_interrupted(engine, gpu):
    if sentences := engine.interrupted():
        raise errors.ModeChangePending(f"Something else comes first: {' '.join(sentences)}", gpu.address)


def _may_stop(engine, pillar):
    """Names of the units that the pillar lets a change stop."""
    return engine.policy(pillar).stop_units if pillar else ()


def _refuse_owned(engine, gpu, to_try, pillar):
    agreed = wishes.agreed(engine, engine.policy(pillar)).get(gpu.address, ()) if pillar else ()
    others, key = owners.found(engine.host, engine.gpus, running=True), PLAIN.sharing()
    for tool, _ in to_try:
        if refusal := owners.refusal(others, tool.name, gpu, agreed, key):
            raise errors.Owned(refusal[0], gpu.address, refusal[1])


def _refuse_used(engine, gpu, to_try, stops):
    held = [process.as_dict() for tool, _ in to_try for process in tool.holders(gpu)]
    if not all(trials.monitors for _, trials in to_try):
        held += engine.holders(gpu.address)
    held += [holder for part in engine.slices(gpu.address, taken=True) for holder in part["in_use_by"]]
    held = [holder for holder in held if holder["unit"] not in stops]
    if held:
        names = dict.fromkeys(f"pid {holder['pid']} ({holder['command']})" for holder in held)
        todo = f"{_SPARE} What may be stopped for it is named in containers_gpu_state_management:stop_units."
        raise errors.ResourceConflict(f"It is in use by {', '.join(names)}.", gpu.address, todo, held)


def _refuse_handed(engine, gpu):
    """What a consumer has on record is his."""
    names = {gpu.address, *(part["name"] for part in engine.slices(gpu.address, taken=True))}
    if having := sorted({who for name, who in engine.given().items() if name in names}):
        raise errors.ResourceConflict(f"It is handed out to {', '.join(having)}.", gpu.address, _SPARE)


def _refuse_promised(engine, gpu, pillar):
    """What a pillar cuts for consumers is theirs, whether it is cut already or not."""
    policy = engine.policy(pillar) if pillar else None
    if policy is None or not policy.enabled:
        return
    receivers = [
        who for kind in kinds.HANDING_OUT if kind.name in policy.handed_out
        for who in kinds.section(kind).receivers(policy.handed_out[kind.name])
    ]  # fmt: skip
    cut = [target for target in engine.targets(policy) if target.gpu.address == gpu.address and target.technique]
    if receivers and any(not target.key.hands_out for target in cut):
        raise errors.PolicyError(
            f"GPU {gpu.address}: the pillar slices it, and hands slices to {', '.join(receivers)}.",
            gpu.address,
            f"{_SPARE} Or take it out of the pillar, with a rule of strategy none.",
        )


def _to_try(engine, gpu):
    found = []
    for tool in engine.techniques_of(gpu):
        try:
            trials, layout = tool.trials(gpu, tool.observe(gpu)), tool.layout(engine.seen(tool, gpu))
        except errors.Unsupported:
            # A board or driver that lacks it all the same has nothing of it that could go.
            continue
        if trials is not None:
            found.append((tool, trials))
        elif _would_end(kinds.named(tool.name)) and tool.pillar(gpu, layout) is not None:
            label = kinds.named(tool.name).label
            raise errors.ResourceConflict(
                f"It has {label} ({tool.words(layout)}), which a trial would end.", gpu.address, _SPARE
            )
    if not any(not trials.why_not for _, trials in found):
        why = "; ".join(f"{kinds.known(tool.name).label}: {trials.why_not}" for tool, trials in found)
        raise errors.Unsupported(
            f"{gpu.model} has nothing that can be tried{f' ({why})' if why else ''}.",
            gpu.address,
            "See 'salt-call gpu.capabilities' for what it can do.",
        )
    return found


def _would_end(kind):
    """Whether what a technology has may go with the slices, or with the GPU as a whole; what only tunes a GPU stays."""
    return kind.layer != kinds.TUNE or bool(kind.over)
