"""
What has to be said beside a plan: what is odd about the pillar on this host, what it leaves alone, and who else sets the same.
Each function is handed :class:`gpuslice.engine.Engine`.
"""

from dataclasses import replace

from gpuslice import errors
from gpuslice import kinds
from gpuslice import policy as policies
from gpuslice import wishes
from gpuslice.inventory import discovery
from gpuslice.model import Key


def of_policy(engine, policy):
    """What is odd about a policy on this host and no mistake, as sentences. No device is opened for it."""
    if not policy.enabled:
        return policies.switched_off(policy)
    odd = [*policies.unmatched(policy, engine.gpus), *policies.forgotten(policy)]
    return [f"Warning: {line}" for line in odd] + policies.absent(policy, engine.gpus)


def told(engine, plan, pillar, policy, targets):
    """The plan with what has to be said beside it; parameters as what led to it."""
    # What is switched off is told as what is not managed.
    remarks = tuple(of_policy(engine, policy)) if policy.enabled else ()
    unmanaged = policies.unmanaged(policy, pillar, engine.gpus, targets)
    return replace(plan, notes=(*plan.notes, *_left_alone(engine, targets)), remarks=remarks, unmanaged=unmanaged)


def _left_alone(engine, targets):
    """A sentence for each GPU of which something is on record that only its record tells, and of which nobody spoke."""
    asked = {target.key for target in targets}
    noting = [
        (gpu, kind) for gpu in engine.gpus for kind in kinds.concerning(gpu)
        if kind.noted and Key.of_gpu(kind.name, gpu.address) not in asked
    ]  # fmt: skip
    names = engine.host.store_names(engine.host.state_dir) if noting else ()
    return [line for gpu, kind in noting if kind.noted in names and (line := _on_record(engine, gpu, kind))]


def _on_record(engine, gpu, kind):
    tool = engine.tools.get(kind.name)
    if discovery.is_given_away(gpu) or not tool.supports(gpu):
        return ""
    try:
        drawn = tool.drawing(gpu, tool.observe(gpu))
    except errors.GpuSliceError as err:
        return str(err)
    if not drawn:
        return ""
    return (
        f"{gpu.address}: {kind.label} is on record ({drawn}), which the pillar does not ask for, so that it stays as it is. "
        f"'salt-call gpu_{kind.package}.remove {gpu.address}' ends it."
    )


def beside(engine, policy, targets, plan):
    """A sentence for each owner who sets what is wanted here and stays as it is: of what would change the plan tells."""
    blocked = {address for address, _ in plan.blocked}
    wanted = [(each.technique, each.gpu) for each in targets if each.technique and each.gpu.address not in blocked]
    if not wanted:
        return []
    # Here, so that a host of which nothing is wanted does not load it.
    from gpuslice.inventory import owners

    return owners.beside(owners.found(engine.host, engine.gpus), wanted, wishes.agreed(engine, policy))
