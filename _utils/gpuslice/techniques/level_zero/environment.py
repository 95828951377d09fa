"""
Environment files: a partition, one device or tile, in the variables by which programs choose what Level Zero shows them.
"""

import re

from gpuslice.model import PLACE

ENVIRONMENT = "/etc/gpu-slicing/environment"
CONVENTION = "Environment files are a convention among programs, not isolation: a program may ignore or change them."
NAME = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:-tile([0-9]{1,9}))?\.env\Z")


def text_of(gpu, partition, devices, hierarchy):
    """
    The environment file of a partition.

    :param partition: ``"0"`` or ``"1.1"``; :param devices: (PCI address, tiles) of each device, in the order of their numbers.
    :param hierarchy: see :func:`mask`.
    """
    device, _, tile = str(partition).partition(".")
    what = f"tile {tile} of " if tile else ""
    return (
        f"# Made by Salt. This is {what}the GPU {gpu.address} ({gpu.model}).\n"
        "# A convention for programs that load this file, not isolation: any of them can change it.\n"
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER=1\n"
        f"ZE_FLAT_DEVICE_HIERARCHY={hierarchy}\n"
        f"ZE_AFFINITY_MASK={mask(int(device), int(tile) if tile else None, [count for _, count in devices], hierarchy)}\n"
    )


def mask(device, tile, tiles, hierarchy):
    """
    A device or tile as ``ZE_AFFINITY_MASK`` names it.

    :param tile: number of the tile, None for the whole device; :param tiles: tiles of each device (None counts as one).
    :param hierarchy: COMPOSITE counts devices; FLAT and COMBINED count tiles.
    """
    if hierarchy == "COMPOSITE":
        return str(device) if tile is None else f"{device}.{tile}"
    first = sum(count or 1 for count in tiles[:device])
    numbers = range(first, first + (tiles[device] or 1)) if tile is None else [first + tile]
    return ",".join(map(str, numbers))


def environment_of(tile):
    """
    What a program needs that sees but the devices of its slices, as (name, value) pairs.

    :param tile: number of the tile, None for the whole device. However the environment files of the host count, the mask of such
        a program counts what it sees.
    """
    return (
        ("ZE_FLAT_DEVICE_HIERARCHY", "COMPOSITE"),
        ("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1"),
        ("ZE_AFFINITY_MASK", PLACE if tile is None else f"{PLACE}.{tile}"),
    )


def variable(text, name):
    """Value of a variable in an environment file, "" where it has none."""
    found = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def mask_of(text):
    """The mask that an environment file sets, "" where it sets none."""
    return variable(text, "ZE_AFFINITY_MASK")


def partition_of(name, number):
    """The partition of an environment file by its name, as a pillar has it; ``number`` is that of its device."""
    tile = NAME.match(name)[2]
    return f"{number}.{tile}" if tile else str(number)
