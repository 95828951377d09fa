"""
What is known of GPU models before any driver is asked: names, memory, slicing technologies, by PCI id.

The tables are in :mod:`gpuslice.catalog.nvidia`, :mod:`gpuslice.catalog.amd` and :mod:`gpuslice.catalog.intel`. They are facts
gathered from public sources; the driver is the authority, and what a system says of itself wins over them.
"""

import importlib
from functools import cache

#: PCI vendor id -> the vendor's name in policies and grains, and as it begins a product name.
VENDORS = {"10de": ("nvidia", "NVIDIA"), "1002": ("amd", "AMD"), "8086": ("intel", "Intel")}


def _module(vendor_id):
    """
    The tables of a vendor in :data:`VENDORS`. They are imported when a device of that vendor is met: a host has the GPUs of one
    vendor or none, and the tables are most of what the grain would have to load (or to compile, as Salt removes bytecode).
    """
    return importlib.import_module(f"{__name__}.{VENDORS[vendor_id][0]}")


def _models(vendor_id):
    return _module(vendor_id).MODELS


def names(gpu):
    """
    The names under which a pillar or a record may mean a model: the catalog's, the system's own, and those that earlier versions
    of the catalog had. ``gpu``: :class:`gpuslice.model.Gpu`.
    """
    found = {gpu.model, gpu.name}
    if gpu.vendor != "nvidia" or not gpu.catalog_key:
        return found
    found.update(f"NVIDIA {name}" for name in _module("10de").former_names(gpu.device_id))
    # The driver prints these without their maker.
    return found | {name.removeprefix("NVIDIA ") for name in found if name.startswith(("NVIDIA Tesla ", "NVIDIA Quadro "))}


def boards(gpu):
    """The PCI ids by which a board may be meant: vendor and device, and the two of its subsystem after them. ``gpu`` as above."""
    vendor_id = next((each for each, (name, _) in VENDORS.items() if name == gpu.vendor), "")
    board = f"{vendor_id}:{gpu.device_id}"
    return board, f"{board}:{gpu.subsystem_id}"


@cache
def _index(vendor_id):
    """{device id: [(key, product, is it the id of virtual functions)]}, of one vendor."""
    found = {}
    for key, model in _models(vendor_id).items():
        ids = model["device_ids"]
        for device_id in ids:
            product = ids[device_id] if isinstance(ids, dict) else model["title"]
            found.setdefault(device_id, []).append((key, product, False))
        for device_id in model.get("vf_device_ids", ()):
            found.setdefault(device_id, []).append((key, model["title"], True))
    return found


def lookup(vendor_id, device_id, subsystem_id=""):
    """
    What the catalog knows of a PCI device.

    :param vendor_id: four hex digits, ``10de``; :param device_id: four hex digits, ``20b0``.
    :param subsystem_id: ``vvvv:dddd``, or "" when unknown. It tells boards apart that share a device id.
    :return: None for a device that is not in the catalog, else a dict with

        - ``key``: the entry in the vendor's ``MODELS``; "" where boards share the id and the subsystem tells none of them,
        - ``vendor``: ``nvidia``, ``amd`` or ``intel``; ``product``: name without the vendor; ``model``: name with it,
        - ``memory_mib``: memory of the GPU in MiB, None when unknown or not certain,
        - ``capabilities``: slicing technologies of the hardware, a tuple,
        - ``virtual_function``: whether the id is one that only virtual functions have,
        - ``entry``: the whole entry ({} when ``key`` is "").
    """
    vendor_id, device_id = vendor_id.lower(), device_id.lower()
    candidates = _index(vendor_id).get(device_id) if vendor_id in VENDORS else None
    if not candidates:
        return None
    module, models = _module(vendor_id), _models(vendor_id)
    key, product, is_vf = _choose(models, candidates, subsystem_id)
    if key and hasattr(module, "product"):
        product = module.product(key, device_id, subsystem_id)
    entry = models.get(key, {})
    names = [key] if key else [name for name, _, _ in candidates]
    vendor, brand = VENDORS[vendor_id]
    return {
        "key": key,
        "vendor": vendor,
        "product": product,
        "model": f"{brand} {product}",
        "memory_mib": None if is_vf else _memory([models[name] for name in names], device_id),
        # What several boards have in common is certain even where the board is not.
        "capabilities": _common([_capabilities(vendor, models[name], is_vf) for name in names]),
        "virtual_function": is_vf,
        "entry": entry,
    }


def _choose(models, candidates, subsystem_id):
    """The candidate that the subsystem selects; one with an empty key where none is selected."""
    device = subsystem_id.lower().rpartition(":")[2]
    for candidate in candidates:
        wanted = models[candidate[0]].get("subsystem_ids", ())
        if not wanted and len(candidates) == 1:
            return candidate
        if device and device in wanted:
            return candidate
    products = sorted({product for _, product, _ in candidates})
    return "", " / ".join(products), all(is_vf for _, _, is_vf in candidates)


def _memory(entries, device_id):
    """Memory in MiB that all these entries have, None when it is unknown or differs."""
    found = set()
    for entry in entries:
        gigabytes = entry.get("memory_gb_by_id", {}).get(device_id, entry["memory_gb"])
        found.add(entry.get("total_mib") or (gigabytes * 1024 if gigabytes else None))
    return found.pop() if len(found) == 1 else None


def _capabilities(vendor, entry, is_vf):
    """Slicing technologies of one entry; a virtual function has none of its own but sharing in time."""
    if vendor != "nvidia":
        return () if is_vf else entry["capabilities"]
    return ("mig", "mps", "time-slicing") if entry["mig"] else ("mps", "time-slicing")


def _common(tuples):
    """Sorted elements that all tuples have."""
    return tuple(sorted(set(tuples[0]).intersection(*tuples[1:])))
