"""
What a virtual machine of libvirt is given of a node: a slice, as the ``<hostdev>`` of its domain. No program of libvirt is asked.
"""

import logging

from gpuslice import addresses
from gpuslice import errors
from gpuslice.drivers import vfio
from gpuslice.drivers.kernel import text
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.outputs import libvirt
from gpuslice.printable import printable

log = logging.getLogger(__name__)

_BRIDGE = "0x06"
_FOR_MACHINES = ("vf", "vf-passthrough", "vgpu", "passthrough")
#: How what a machine monitor opens is called: a vGPU without such a node is one of a guest.
_VFIO = "/dev/vfio"


def hostdev(engine, named, consumer=None, managed=None, alias=None, group=False):
    """
    The ``<hostdev>`` of a slice.

    :param named: name, UUID or PCI address of the slice. :param consumer: who is to have it, where it is a consumer's.
    :param managed: whether libvirt takes it from its driver and gives it back; None for what it needs.
    :param alias: its name in the domain. :param group: also what else a whole GPU's IOMMU group has, such as its audio function.
    :return: text. Raises errors.DeviceNotFound: there is no such slice; errors.Unsupported: no virtual machine can be given it;
        errors.ResourceConflict: it is somebody else's, or quarantined; errors.PolicyError: an argument is wrong.
    """
    name = _normal(named)
    called = _alias(alias)
    part = _slice(engine, name)
    _refuse_no_device(part)
    notes = _refuse_not_given(engine, part, consumer)
    if not addresses.is_pci(part.identity):
        if managed:
            raise _not_managed(part)
        return libvirt.hostdev(part.identity, False, called, notes)
    return _functions(engine.host, part, managed, called, group, notes)


def _functions(host, part, managed, alias, group, notes):
    """The slice, and what else of its IOMMU group is to go with it."""
    vfio.refuse_without_group(host, part.identity)
    driver = vfio.driver(host, part.identity)
    managed = _managed(part, driver, managed)
    found = vfio.group(host, part.identity)
    others = [member for member in found["members"] if member != part.identity and not _is_bridge(host, member)]
    # Libvirt takes those that it is told of from their drivers itself.
    vfio.refuse_shared_group(host, part.identity, tuple(others) if group and managed else ())
    if others and not group:
        named = ", ".join(others)
        notes = (*notes, f"IOMMU group {found['number']} also has {named}: group=True gives the domain that too.")
    first = libvirt.hostdev(part.identity, managed, alias, notes)
    more = [libvirt.hostdev(member, managed, f"{alias}-{n}" if alias else "") for n, member in enumerate(others, 1)]
    return first + "".join(more if group else ())


def _is_bridge(host, address):
    return (text(host, f"{DEVICES}/{address}/class") or "").startswith(_BRIDGE)


def _managed(part, driver, managed):
    """Whether libvirt is to move it between drivers: only where no driver of VFIO has it already."""
    if part.kind == "vgpu":
        if managed:
            raise _not_managed(part)
        return False
    if driver in VFIO_DRIVERS:
        # Given back at the end of the domain it would be another slice than what this host was brought to.
        return bool(managed)
    if managed is False:
        raise errors.ResourceConflict(
            f"{part.name} was to be given with managed='no', and {driver or 'no driver'} has it: a domain starts so only with "
            "what a driver of VFIO has.",
            part.gpu,
            f"Bind it ('salt-call gpu_passthrough.bind {part.identity}'), or leave out 'managed'.",
        )
    return True


def _not_managed(part):
    return errors.PolicyError(
        f"{part.name} is a vGPU, which its own driver has to keep: managed='yes' would take it from that.",
        part.gpu,
        "Leave out 'managed'.",
    )


def _normal(named):
    """A name as slices have it: YAML reads the address of a virtual function as a number."""
    if isinstance(named, str) and not addresses.is_pci(named):
        return named.strip()
    address, warning = addresses.normalize(named)
    if warning:
        log.warning("%s", warning)
    return address


def _alias(alias):
    if alias is None:
        return ""
    if not (found := libvirt.alias_of(alias)):
        raise errors.PolicyError(
            f"alias is {printable(alias)[:80]!r}, which can be no name of a device.",
            todo="Give letters, digits, '_' and '-'; it begins with ua- in any case.",
        )
    return found


def _slice(engine, name):
    """The slice of that name, UUID or address; of several that are one function, what stands on the others."""
    untold = set()
    every = engine.parts(taken=True, untold=untold)
    meant = [part for part in every if name in (part.name, part.identity)]
    if meant:
        return min(meant, key=lambda part: part.taken)
    for gpu in engine.gpus:
        if gpu.address == name:
            what, todo = libvirt.why_no_device("cut" if any(part.gpu == name for part in every) else "gpu")
            raise errors.Unsupported(f"{name} is {what}.", name, todo)
    there = [part.name for part in every if part.kind in _FOR_MACHINES and not part.taken]
    listed = f"Those for virtual machines here are: {', '.join(there)}." if there else "This host has none for virtual machines."
    unread = f" {', '.join(sorted(untold))} can't be read (see gpu.health)." if untold else ""
    raise errors.DeviceNotFound(f"There is no slice {printable(name)[:80]}.", todo=listed + unread)


def _refuse_no_device(part):
    what, todo = libvirt.why_no_device(part.kind)
    if what:
        raise errors.Unsupported(f"{part.name} is {what}.", part.gpu, todo)
    if part.kind not in _FOR_MACHINES or (part.kind == "vgpu" and not any(node.startswith(_VFIO) for node in part.device_nodes)):
        raise errors.Unsupported(
            f"{part.name} is what this machine itself was given, and no device that it could give to another.",
            part.gpu,
            "Call it on the host of this virtual machine.",
        )
    if part.taken:
        raise errors.Unsupported(
            f"Others stand on {part.name}, so that nobody is given it.", part.gpu, "See 'salt-call gpu.slices' for these."
        )


def _refuse_not_given(engine, part, consumer):
    """Remarks on a slice that whoever asks may have. Raises errors.ResourceConflict: somebody else has it, or nobody may."""
    owner = engine.given().get(part.name, "")
    if owner and consumer != owner:
        raise errors.ResourceConflict(
            f"{part.name} was to be given to a virtual machine, and consumer {owner} has it.",
            part.gpu,
            f"Where the virtual machine is that consumer's, say consumer={owner}; else take another slice (gpu_consumer.offers).",
        )
    if consumer is not None and not owner:
        raise errors.PolicyError(
            f"{part.name} was to be that of consumer {printable(consumer)[:80]}, and nobody has it.",
            part.gpu,
            "Leave out 'consumer', or see 'salt-call gpu_consumer.list'.",
        )
    barred = engine.quarantined()
    if not barred:
        return ()
    # Few hosts have any, and no other loads what reads it.
    from gpuslice.records import quarantine

    by = quarantine.barred(engine.parts(taken=True), barred).get(part.name)
    if by is None:
        return ()
    if not owner:
        raise errors.ResourceConflict(
            f"{part.name} is quarantined and nobody is to be given it: {barred[by].why}.",
            part.gpu,
            f"Take another slice, or end that: 'salt-call gpu_health.release {by}'.",
        )
    return (f"{part.name} is quarantined: {barred[by].why}.",)
