"""
Container images: what they say of the CUDA that they need, against what a driver runs.

``NVIDIA_REQUIRE_CUDA`` is what NVIDIA's container toolkit reads: alternatives parted by blanks, each a list of conditions parted
by commas, such as ``cuda>=12.4 brand=tesla,driver>=535,driver<536``; ``NVIDIA_DISABLE_REQUIRE`` switches it off. Images without
it may say ``CUDA_VERSION``; a driver runs every minor version of the major that it has (CUDA's minor version compatibility, since
11).
"""

import json
import operator
import re
from collections.abc import Mapping

from gpuslice import errors
from gpuslice.host.base import Host
from gpuslice.outputs.cdi import numbers

_CONDITION = re.compile(r"(\w+)(>=|<=|!=|=|>|<)([\w.]+)")
_COMPARE = {">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt}


def environment(host: Host, image: str) -> dict[str, str] | None:
    """
    The variables of an image in root's storage, None where it is not there.

    :raises errors.ToolMissing: no Podman. errors.ToolFailed: its answer can't be read.
    """
    done = host.run(["podman", "image", "inspect", image])
    if done.failure:
        return None
    try:
        listed = json.loads(done.stdout)[0]["Config"].get("Env") or []
        return dict(each.partition("=")[::2] for each in listed)
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise errors.ToolFailed(
            f"What 'podman image inspect {image}' says can't be read.", todo="Run it by hand to see what it says."
        ) from err


def needs(variables: Mapping[str, str]) -> str:
    """What an image says it needs, in its own words; "" for nothing."""
    if variables.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("1", "true"):
        return ""
    if wanted := variables.get("NVIDIA_REQUIRE_CUDA", ""):
        return wanted
    version = variables.get("CUDA_VERSION", "")
    return f"cuda>={version.partition('.')[0]}.0" if version[:1].isdigit() else ""


def runs(wanted: str, cuda: str, driver: str) -> bool:
    """
    Whether a driver runs an image.

    :param wanted: :func:`needs`; :param cuda: the newest CUDA that the driver has, ``12.4``; :param driver: its version.
    """
    have = {"cuda": cuda, "driver": driver}
    return not wanted or any(all(map(_holds(have), _CONDITION.findall(way))) for way in wanted.split())


def _holds(have):
    """Conditions on what is not known here (brand, arch) are for others to judge: they hold."""

    def holds(condition):
        key, sign, value = condition
        if not have.get(key):
            return True
        mine, theirs = numbers(have[key]), numbers(value)
        length = max(len(mine), len(theirs))
        return _COMPARE[sign](*(each + (0,) * (length - len(each)) for each in (mine, theirs)))

    return holds
