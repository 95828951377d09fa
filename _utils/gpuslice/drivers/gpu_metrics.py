"""
The binary table ``gpu_metrics`` of amdgpu: the energy that a board has drawn, and how busy it is.

Facts: ``drivers/gpu/drm/amd/include/kgd_pp_interface.h`` of Linux, structures gpu_metrics_v1_4 to v1_6, the only ones whose
comments say in which unit energy is (2^-16 J). Others are refused, also where their layout is known: 1.0 to 1.3 tell no unit, and
later ones are lists of attributes. A field that is all ones was not filled in.
"""

import struct
from typing import NamedTuple

#: (format, content revision) -> (bytes of the table, offset of the energy); fields before the activity are the same in all.
_LAYOUTS = {(1, 4): (288, 24), (1, 5): (360, 88), (1, 6): (384, 88)}
_HEADER = struct.Struct("<HBB")
_ACTIVITY, _ENERGY = struct.Struct("<H"), struct.Struct("<Q")
_ACTIVITY_AT = 12


class UnknownVersion(Exception):
    """It is a table of a layout that is not read here; its argument is the version in words."""


class Truncated(Exception):
    """It is no table, or not all of one."""


class Metrics(NamedTuple):
    """
    What the table tells, None for what is not filled in.

    :ivar energy_mj: millijoules; :ivar activity_percent: of the graphics and compute engine.
    """

    energy_mj: int | None
    activity_percent: int | None


def parse(data: bytes) -> Metrics:
    """
    :param data: what is in the file.
    :raises UnknownVersion: :raises Truncated:
    """
    if len(data) < _HEADER.size:
        raise Truncated
    size, form, content = _HEADER.unpack_from(data)
    if (form, content) not in _LAYOUTS:
        raise UnknownVersion(f"{form}.{content}")
    told, energy_at = _LAYOUTS[form, content]
    if size != told or len(data) < told:
        raise Truncated
    energy = _filled(_ENERGY, data, energy_at)
    return Metrics(None if energy is None else energy * 1000 >> 16, _filled(_ACTIVITY, data, _ACTIVITY_AT))


def _filled(form, data, at):
    found = form.unpack_from(data, at)[0]
    return None if found == 2 ** (8 * form.size) - 1 else found
