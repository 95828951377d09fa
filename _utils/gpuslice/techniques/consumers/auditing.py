"""
Whether the CDI names of a host lead to what is there.
"""

from collections.abc import Sequence

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import vendor_cdi
from gpuslice.host.base import QUARANTINE
from gpuslice.host.base import Host
from gpuslice.outputs import audit
from gpuslice.outputs import cdi
from gpuslice.outputs.audit import AGAIN
from gpuslice.outputs.device import merged
from gpuslice.techniques.base import Work
from gpuslice.techniques.consumers.programs import Programs
from gpuslice.techniques.consumers.register import NOTHING
from gpuslice.techniques.consumers.register import Noted
from gpuslice.techniques.consumers.views import devices_now

_HELD = f"What would fit may be quarantined: see 'salt-call gpu_health.quarantined'. {AGAIN}"


def problems(host: Host, works: Sequence[Work]) -> list[str]:
    """What is wrong with the CDI files of the host, as sentences; see :func:`gpuslice.outputs.audit.problems`."""
    noted = works[0].state if works else NOTHING
    slices, consumers = devices_now(works) if noted.cdi else ([], [])
    uuids = [each.identity for work in works for each in work.below.slices if each.identity.startswith("MIG-")]
    specs = vendor_cdi.specs(host, audit.FOLDERS)
    version = podman(host, noted) if specs else ""
    return audit.problems(specs, slices, consumers, lambda path: device_nodes.wrong(host, path), uuids, version)


def unreached(host: Host, noted: Noted) -> list[str]:
    """
    Which consumers lack something of what is on record, and which of our names lead nowhere, as sentences. Only files are read: a
    change has compared the record with the slices, and so does every plan.
    """
    found = []
    for name, handed in sorted(noted.consumers.items()):
        if len(handed["slices"]) < handed["instances"]:
            todo = _HELD if QUARANTINE in host.store_names(host.state_dir) else AGAIN
            found.append(f"Consumer {name} has {len(handed['slices'])} of {handed['instances']} slices. {todo}")
    if not noted.cdi:
        return found
    specs = {path: text for path in cdi.PLACES.values() if (text := kernel.text(host, path)) is not None}
    consumers = [
        merged(name, [noted.devices[part] for part in handed["slices"] if part in noted.devices])
        for name, handed in noted.consumers.items()
    ]
    return found + audit.problems(specs, noted.devices.values(), consumers, lambda path: device_nodes.wrong(host, path))


def summary(noted: Noted) -> str:
    """Who is served, in a sentence."""
    if not noted.cdi:
        return "Nothing is handed out on this host."
    count = len(noted.consumers)
    return f"{len(noted.devices)} slices have names; {count} consumer{' has its own' if count == 1 else 's have theirs'}."


def podman(host: Host, noted: Noted) -> str:
    """The version of Podman; asked for only where it is not known already."""
    try:
        return ".".join(map(str, Programs(host, noted.programs).podman()))
    except (errors.ToolMissing, errors.ToolFailed):
        return ""
