"""
The vGPU types of a simulated board: ``<board>-<GB><series>`` for those that take turns on the GPU, and
``<board>-<slices>-<GB><series>`` for those that have a MIG instance to themselves.

The names follow NVIDIA's pattern and the boards' codes of the catalog. Which sizes a board has is computed and may differ from
the real list in a size or two, but for the RTX PRO 6000, whose list is that of the driver's published sources: its names are
long, its MIG instances are those that can draw, and several vGPUs of one size can take turns on one of them. The numbers of the
types are made up, and are different for each kind of board.
"""

import re
from functools import cache
from typing import NamedTuple

from gpuslice.catalog import nvidia
from gpuslice.catalog.mig import GiProfile

#: Codes of boards without MIG, which the catalog's table does not have. Their names begin with GRID.
_OLDER = {"1eb8": "T4"}
#: Boards that draw: their types have the series for workstations, desktops and applications too.
_DRAWING = ("T4",)
#: How a driver writes the code of a board in the names of its types, where it says more.
_LONG_CODES = {"DC": "RTX Pro 6000 Blackwell DC"}
#: Types of the RTX PRO 6000: compute slices (0: of the GPU without MIG) -> sizes in GB of each series.
_RTX_PRO_6000 = {
    0: {"C": (96, 48, 32, 24, 16, 12, 8), "QA": (96, 48, 32, 24, 16, 12, 8, 6, 4, 3), "B": (2,)},
    1: {"C": (24, 12, 8), "QA": (24, 12, 8, 6, 4, 3, 2), "B": (2,)},
    2: {"CQA": (48, 24, 16, 12)},
    4: {"CQA": (96, 48, 32, 24)},
}
_CLASSES = {"C": "Compute", "Q": "Quadro", "B": "NVS", "A": "NVS"}
_ATTRIBUTES = {"me": "ME", "-me": "NOME", "me.all": "MEALL", "gfx": "GFX"}
#: Into how many parts a board is divided. Whole numbers of GB come out of those that halve it again and again only by rounding.
_HALVES = (1, 2, 4, 8, 16)
_PARTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
_FIRST_NUMBER, _NUMBERS_EACH = 200, 80


class VgpuType(NamedTuple):
    """
    One type.

    :ivar id: number by which the driver knows it; :ivar name: as the driver writes it, such as ``NVIDIA A100-1-5C``.
    :ivar series: C, Q, B or A; :ivar gigabytes: framebuffer in GiB.
    :ivar profile: the :class:`gpuslice.catalog.mig.GiProfile` that backs it, None for a type that takes turns.
    """

    id: int
    name: str
    series: str
    gigabytes: int
    profile: GiProfile | None

    @property
    def klass(self):
        """What NVML calls the class of the type."""
        return _CLASSES[self.series]


def _code(model, device):
    return nvidia.MODELS.get(model, {}).get("vgpu_prefix", {}).get(device) or _OLDER.get(device, "")


@cache
def _codes():
    return sorted({code for model in nvidia.MODELS.values() for code in model["vgpu_prefix"].values()} | set(_OLDER.values()))


def board_gb(about):
    """Memory of a board in GB, as its types divide it. ``about``: the GPU as described."""
    return nvidia.MODELS[about["model"]]["memory_gb"]


def _sizes(total, least):
    return [total // n for n in _PARTS if (n in _HALVES or total % n == 0) and total // n >= least]


def _shapes(model, code):
    """(rest of the name, series, GB, profile) of each type, in the order of the numbers."""
    if code == "DC":
        return _shapes_of_rtx_pro_6000(model)
    total = nvidia.MODELS[model]["memory_gb"]
    found = [(f"{size}C", "C", size, None) for size in _sizes(total, 4)]
    if code in _DRAWING:
        found += [(f"{size}{series}", series, size, None) for series in "QA" for size in _sizes(total, 1)]
        found += [(f"{size}B", "B", size, None) for size in (2, 1)]
    table = nvidia.mig_table(model)
    newer = {ours: theirs for theirs, ours in nvidia.aliases(model).items()}
    for profile in table.profiles if table else ():
        slices, size = re.match(r"(\d+)g\.(\d+)gb", newer.get(profile.name, profile.name)).groups()
        suffix = "".join(_ATTRIBUTES[attribute] for attribute in profile.attributes)
        found.append((f"{slices}-{size}C{suffix}", "C", int(size), profile))
    return found


def _shapes_of_rtx_pro_6000(model):
    drawing = {profile.slices: profile for profile in nvidia.mig_table(model).profiles if profile.attributes == ("gfx",)}
    return [
        (f"{slices}-{size}{series}" if slices else f"{size}{series}", series, size, drawing.get(slices))
        for slices, sizes in _RTX_PRO_6000.items()
        for letters, listed in sizes.items()
        for series in letters
        for size in listed
    ]


@cache
def types_of(model, device):
    """
    The vGPU types of a board.

    :param model: key of the catalog; :param device: PCI device id.
    :return: tuple of :class:`VgpuType`, () for a board without any.
    """
    code = _code(model, device)
    if not code or not nvidia.MODELS[model]["memory_gb"]:
        return ()
    first = _FIRST_NUMBER + _NUMBERS_EACH * _codes().index(code)
    maker = "GRID" if device in _OLDER else "NVIDIA"
    board = _LONG_CODES.get(code, code)
    return tuple(
        VgpuType(first + place, f"{maker} {board}-{rest}", series, size, profile)
        for place, (rest, series, size, profile) in enumerate(_shapes(model, code))
    )


def types(gpu):
    """The vGPU types of a GPU of a state; () where no vGPU manager has it."""
    about = gpu["about"]
    return types_of(about["model"], about["device"]) if about.get("vgpu") else ()


def by_id(gpu, number):
    """The type with that number, None where the board has none."""
    return next((kind for kind in types(gpu) if kind.id == number), None)


def told(state, kind):
    """What the driver of a machine calls a type."""
    return state["host"]["driver"]["renames"].get(kind.name, kind.name)


def by_name(gpu, name):
    """The type of that name, with or without its maker and with the code of its board alone; None where the board has none."""
    return next((kind for kind in types(gpu) if name in (kind.name, kind.name.partition(" ")[2], kind.name.split()[-1])), None)
