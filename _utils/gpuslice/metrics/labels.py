"""
Labels of boards and slices, by which their metrics are joined with those of others.
"""

import re

from gpuslice import addresses

#: A compute instance's profile begins with its own size; the GPU instance has the rest of the name.
_OF_COMPUTE = re.compile(r"\d+c\.")


def long_form(address):
    """A PCI address as NVML and DCGM have it: ``00000000:1B:00.0``."""
    domain, _, rest = address.partition(":")
    return f"{domain:0>8}:{rest}".upper()


def of_board(gpu):
    """Labels of a GPU, :class:`gpuslice.model.Gpu`."""
    return {**_place(gpu), "vendor": gpu.vendor, "model": gpu.model or gpu.name}


def of_slice(gpu, part, technique, consumer):
    """
    Labels of a slice.

    :param part: :class:`gpuslice.model.Slice`; :param technique: the pillar's word of what makes it.
    :param consumer: who was handed it, "" for nobody.
    """
    is_instance = len(part.instance) > 0
    return {
        "slice": part.name,
        "uuid": "" if addresses.is_pci(part.identity) else part.identity,
        **_place(gpu),
        "GPU_I_ID": str(part.instance[0]) if is_instance else "",
        "GPU_I_PROFILE": _OF_COMPUTE.sub("", part.profile, count=1) if is_instance else "",
        "technique": technique,
        "consumer": consumer,
    }


def _place(gpu):
    return {"parent_uuid": gpu.uuid, "pci_bus_id": gpu.address, "pci_bus_id_long": long_form(gpu.address)}
