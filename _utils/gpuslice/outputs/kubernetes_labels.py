"""
Labels of a node of Kubernetes that tell how its GPUs are sliced, under a prefix of our own.

Source: the syntax of labels in the documentation of Kubernetes ("Labels and Selectors") and ``util/validation`` of its
apimachinery.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.printable import printable

#: What all labels of ours begin with, as the names of our CDI devices do. It is a DNS subdomain, as Kubernetes wants it.
PREFIX = "gpu-slicing"
#: By which NVIDIA's config-manager chooses among the files of its ConfigMap.
SELECTOR = "nvidia.com/device-plugin.config"
#: By which AMD's Device Config Manager chooses among the profiles of its ConfigMap.
DCM_PROFILE = "dcm.amd.com/gpu-config-profile"
LONGEST, LONGEST_PREFIX = 63, 253
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
#: Those that change without a change of the layout: none of them alone is worth a request to the cluster.
_MOVING = (f"{PREFIX}/generation", f"{PREFIX}/health")
_STRATEGIES = {"replica": "time-slicing", "gpu": "none"}
_PROFILED = ("mig", "partition", "vgpu")


def labels(
    slices: Iterable[Slice], health: str, generation: int, quarantined: int, config: str | None = None,
    dcm_profile: str | None = None,
) -> dict[str, str]:  # fmt: skip
    """
    The labels of a node.

    :param slices: what can be given, whole GPUs (kind ``gpu``) among them. :param health: worst word of its GPUs.
    :param generation: the newest change of the history, 0 for none. :param quarantined: how many slices and boards are.
    :param config: key of NVIDIA's ConfigMap, for :data:`SELECTOR`; None leaves that label to others.
    :param dcm_profile: likewise, for :data:`DCM_PROFILE`.
    :raises errors.PolicyError: one of these can be no value of a label.
    """
    slices = list(slices)
    strategies = sorted({_strategy(part) for part in slices})
    told = {
        "strategy": strategies[0] if len(strategies) == 1 else "mixed" if strategies else "none",
        "layout": digest(slices),
        "generation": str(generation),
        "health": health,
        "quarantined": str(quarantined),
        **_counts(slices),
    }
    found = {f"{PREFIX}/{name}": value for name, value in told.items()}
    for name, key, value in (("config", SELECTOR, config), ("dcm_profile", DCM_PROFILE, dcm_profile)):
        if value is None:
            continue
        if why := value_mistake(value):
            raise errors.PolicyError(f"{name} is {printable(value)[:80]!r}, which can be no value of a label: {why}.",
                                     todo="Give a key of the ConfigMap.")  # fmt: skip
        found[key] = value
    return found


def lasting(found: Mapping[str, str]) -> dict[str, str]:
    """Those labels that change with what the node has, and with what of it is quarantined: the others go along with them."""
    return {key: value for key, value in found.items() if key not in _MOVING}


def digest(slices: Iterable[Slice]) -> str:
    """Of how GPUs are sliced: the same for the same layout, whatever the UUIDs of its slices are."""
    layout = sorted([part.gpu, part.kind, part.profile, part.placement, part.name] for part in slices)
    return hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:16]


def key_mistake(key: str) -> str:
    """Why this is no key of a label, "" for one."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > LONGEST_PREFIX or not _SUBDOMAIN.fullmatch(prefix)):
        return f"its prefix has to be a DNS subdomain of up to {LONGEST_PREFIX} characters"
    return value_mistake(name) if name else "its name is empty"


def value_mistake(value: str) -> str:
    """Why this is no value of a label, "" for one. An empty one is."""
    if len(value) > LONGEST:
        return f"it has {len(value)} characters, and may have {LONGEST}"
    if value and not _NAME.fullmatch(value):
        return "it may have letters, digits, '-', '_' and '.', and begins and ends with a letter or digit"
    return ""


def name_of(text: str) -> str:
    """
    A name for a label that is this text where it can be, else one like it. Different texts have different names.
    """
    if text and not value_mistake(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[: LONGEST - 9].strip("_.-")
    return f"{plain or 'x'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _counts(slices: Iterable[Slice]) -> dict[str, str]:
    found = Counter(_profile(part) for part in slices)
    return {name_of(text): str(number) for text, number in sorted(found.items())}


def _profile(part: Slice) -> str:
    """``mig-1g.10gb``, ``partition-CPX_NPS4``, ``time-slicing``; characters as in names of resources of the plugins."""
    if part.kind not in _PROFILED or not part.profile:
        return "gpu" if part.kind == "gpu" else _strategy(part)
    return f"{part.kind}-{part.profile.replace('+', '.').replace('/', '_').replace(' ', '_')}"


def _strategy(part: Slice) -> str:
    in_one_piece = part.kind == "partition" and part.compute == 1.0
    return "none" if in_one_piece else _STRATEGIES.get(part.kind, part.kind)
