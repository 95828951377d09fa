"""
Which rule holds for which GPU, and what that means for it.
"""

import fnmatch
from dataclasses import dataclass
from dataclasses import field

from gpuslice import addresses
from gpuslice import catalog
from gpuslice import errors
from gpuslice import kinds
from gpuslice.inventory import discovery
from gpuslice.model import Gpu
from gpuslice.policy import document
from gpuslice.policy.fields import DISCOVERY
from gpuslice.policy.fields import ENVIRONMENTS
from gpuslice.policy.fields import SLICING


@dataclass(frozen=True)
class Target:
    """
    What is wanted of one GPU.

    :ivar technique: name of the technology, None when the GPU is left alone.
    :ivar settings: the technology's settings, as in :class:`gpuslice.policy.Rule`; {} when the GPU is left alone.
    :ivar path: pillar path of the rule that decided. :ivar reason: why, in words.
    :ivar automatic: whether strategy auto chose the technology, so that nobody has written it down.
    :ivar silent: pillar path of the key that would say what is to be there, where it is not written; else "".
    """

    gpu: Gpu
    technique: str | None
    settings: dict = field(default_factory=dict)
    path: str = SLICING
    reason: str = ""
    automatic: bool = False
    silent: str = ""


_ALLOW = f"Where a GPU may be absent, say 'optional: true' in a rule of {SLICING}:devices that names it."

_CAN = ("", False)


def targets(policy, gpus, environment, available=kinds.STRATEGIES, why_not=None):
    """
    Decide what is wanted of each GPU.

    :param policy: :class:`gpuslice.policy.Policy`.
    :param gpus: all GPUs of the host, as :class:`gpuslice.model.Gpu`; those that method manual does not name are left alone.
    :param environment: ``bare_metal``, ``virtual_host``, ``virtual_guest`` or ``container``, for strategy auto; anything for a
        policy that has none (``Policy.automatic``).
    :param available: the technologies that this version can do.
    :param why_not: function of a GPU and a technology that it lacks: (why, whether the host's configuration is to blame instead
        of the hardware). Then it is a mistake also where only a host-wide strategy reached the GPU.
    :return: one :class:`Target` for each GPU, in their order. Raises :class:`errors.DeviceNotFound` when the policy names GPUs
        that are not there, :class:`errors.PolicyError` when a UUID means two of them, and :class:`errors.Unsupported` when a GPU
        that it names, or this version, can't do what is wanted.
    """
    if not policy.enabled:
        return [Target(gpu, None, reason=f"{SLICING}:enabled is false") for gpu in gpus]
    _check_present(policy, gpus)
    refused, made = [], []
    why_not = why_not or (lambda gpu, technique: _CAN)
    for gpu in gpus:
        made.append(_target(policy, gpu, environment, available, refused, why_not))
    if refused:
        address = refused[0][0] if len({gpu for gpu, _ in refused}) == 1 else ""
        sentences = dict.fromkeys(text for _, text in refused)
        raise errors.Unsupported(" ".join(sentences), address, "Change the strategy in the pillar.")
    return made


def switched_off(policy):
    """A sentence where a policy says how GPUs are sliced and is not enabled: the key may have been forgotten. Else []."""
    if policy.enabled or (policy.default.strategy == "none" and not policy.rules):
        return []
    return [f"{SLICING}:enabled is false, so that no GPU is sliced. Set it to true where they are to be."]


def unmatched(policy, gpus):
    """
    A sentence for each rule that holds for no GPU of this host: a typing mistake in it would leave its GPUs as they are.

    :param gpus: all GPUs of the host. A host without any has nothing to compare with.
    """
    if not policy.enabled or not gpus:
        return []
    blind = any(not gpu.uuid for gpu in gpus)
    here = ", ".join(dict.fromkeys(gpu.model for gpu in gpus))
    return [
        f"{rule.path} matches no GPU of this host, which has {here}."
        for rule in policy.rules
        if not rule.optional and not any(_matches(rule.match, gpu) for gpu in gpus) and not (blind and "uuid" in rule.match)
    ]


def misnamed(policy, gpus):
    """
    A sentence for each GPU that a policy names and this host does not have, or has twice: what :func:`targets` refuses.

    :param gpus: as of :func:`unmatched`. Where the UUID of one is not known, a UUID that nobody has is not judged.
    """
    if not policy.enabled or not gpus:
        return []
    blind = any(not gpu.uuid for gpu in gpus)
    try:
        missing = _missing(policy, gpus)
    except errors.PolicyError as err:
        return [str(err)]
    return [
        f"{path} names {named}: this host has no such GPU. {_ALLOW}"
        for path, named, excused in missing
        if not excused and not (blind and addresses.is_uuid(named))
    ]


def lacking(policy, available):
    """A line with its pillar path for each strategy of an enabled policy that this version does not have."""
    if not policy.enabled:
        return []
    rules = [rule for rule in (policy.default, *policy.rules) if rule.strategy not in ("none", "auto", *available)]
    return [f"{rule.path}:strategy: {_not_in_version(rule, available)}" for rule in rules]


def _not_in_version(rule, available):
    return f"strategy {rule.strategy} is not in this version; it has {', '.join(available)}."


def _target(policy, gpu, environment, available, refused, why_not):
    if policy.method == "manual" and not _named(policy, gpu):
        return Target(gpu, None, path=f"{DISCOVERY}:devices", reason=f"not named in {DISCOVERY}:devices")
    rule = next((each for each in policy.rules if _matches(each.match, gpu)), policy.default)
    if rule.strategy == "none":
        return Target(gpu, None, path=rule.path, reason=f"strategy none ({rule.path})")
    if rule.strategy == "auto":
        return _automatic(policy, gpu, rule, environment, available, why_not)
    if rule.strategy not in available:
        refused.append(("", f"{rule.path}: {_not_in_version(rule, available)}"))
    elif not kinds.called(rule.strategy).fits(gpu):
        text, mendable = _lacks(gpu, rule.strategy, why_not), why_not(gpu, rule.strategy)[1]
        if not mendable and not rule.names_a_gpu and policy.method == "auto":
            return Target(gpu, None, path=rule.path, reason=f"not applicable: {text}")
        refused.append((gpu.address, f"GPU {gpu.address}: {rule.path} wants strategy {rule.strategy}, but {text}."))
    return _chosen(gpu, rule, rule.strategy, f"strategy {rule.strategy} ({rule.path})")


def _chosen(gpu, rule, technique, why, automatic=False):
    return Target(gpu, technique, rule.settings[technique], rule.path, why, automatic, rule.silent.get(technique, ""))


def _automatic(policy, gpu, rule, environment, available, why_not):
    """Strategy auto never fails: it names no technology, so where nothing that it may pick can be had the GPU is left alone."""
    if environment not in ENVIRONMENTS:
        raise errors.Unsupported(
            f"{rule.path}: strategy auto can't decide in the environment '{environment}'.",
            gpu.address,
            f"It knows {', '.join(ENVIRONMENTS)}; name a strategy in the pillar.",
        )
    picked = policy.auto_strategy[environment]
    why = f"auto picks {picked} on {environment} ({SLICING}:auto_strategy)"
    if picked == "none":
        return Target(gpu, None, path=rule.path, reason=why)
    obstacle = _obstacle(gpu, rule, picked, environment, available, why_not)
    if not obstacle:
        return _chosen(gpu, rule, picked, why, automatic=True)
    instead = _fallback(gpu, rule, picked, environment, available, why_not)
    if instead:
        why = f"auto picks {instead} on {environment} instead of {picked} ({SLICING}:auto_strategy), because {obstacle}"
        return _chosen(gpu, rule, instead, why, automatic=True)
    return Target(gpu, None, path=rule.path, reason=f"not applicable: {why}, but {obstacle}")


def _fallback(gpu, rule, picked, environment, available, why_not):
    """The first other technology that suits the environment, that the GPU can do, and that the pillar has settings for; or ""."""
    if kinds.called(picked).fits(gpu):
        # What it can do and was not given settings for is the wish of whoever wrote the pillar.
        return ""
    suiting = kinds.fallbacks(environment)
    found = (name for name in suiting if name != picked and not _obstacle(gpu, rule, name, environment, available, why_not))
    with_settings = (name for name in found if document.section(name).says_more(rule.settings[name]))
    return next(with_settings, "") if picked in suiting else ""


def _obstacle(gpu, rule, picked, environment, available, why_not):
    if picked not in available:
        return f"strategy {picked} is not in this version"
    if not kinds.called(picked).fits(gpu):
        return _lacks(gpu, picked, why_not)
    if picked in rule.switched_off:
        return f"{kinds.SECTIONS[picked]}:enabled is false"
    return document.section(picked).missing(rule.settings[picked], environment)


def _lacks(gpu, technique, why_not):
    model = gpu.model or f"{gpu.vendor} device {gpu.device_id}"
    why = why_not(gpu, technique)[0].rstrip(".")
    return f"{model} has no {kinds.called(technique).label}{f' ({why})' if why else ''}"


def _named(policy, gpu):
    uuid = gpu.uuid.lower()
    return any(each == gpu.address or (uuid and each.lower() == uuid) for each in policy.devices)


def _matches(match, gpu):
    for key, wanted in match.items():
        if key == "pci" and gpu.address != wanted:
            return False
        if key == "uuid" and gpu.uuid.lower() != wanted.lower():
            return False
        if key == "vendor" and gpu.vendor != wanted:
            return False
        if key == "name" and not _like(gpu.name, wanted):
            return False
        if key == "model" and not any(_like(name, wanted) for name in catalog.names(gpu)):
            return False
    return True


def _like(text, pattern):
    # Names from the PCI database have brackets in them ("GA100 [A100 PCIe 40GB]"): they stand for themselves.
    return fnmatch.fnmatchcase(text.lower(), pattern.lower().replace("[", "[[]"))


def absent(policy, gpus):
    """A sentence for each GPU that a rule names, that is not there, and that need not be: its rule is optional."""
    if not policy.enabled:
        return []
    return [f"{named}: absent, which {path}:optional allows" for path, named, excused in _missing(policy, gpus) if excused]


def _check_present(policy, gpus):
    """Every GPU that is named by address or UUID must be there: a typing mistake would silently leave a GPU unsliced."""
    missing = [f"{path} names {named}" for path, named, excused in _missing(policy, gpus) if not excused]
    if missing:
        raise errors.DeviceNotFound(f"{'; '.join(missing)}: this host has no such GPU.", todo=f"{_inventory(gpus)} {_ALLOW}")


def _missing(policy, gpus):
    """(path, name, whether it may be absent) of each GPU that is named and not there."""
    there, found = {gpu.address for gpu in gpus}, []
    for rule in policy.rules:
        address, uuid = rule.match.get("pci"), rule.match.get("uuid")
        # In manual mode such a rule was warned about and has no effect.
        if address and address not in there and (policy.method == "auto" or address in policy.devices):
            found.append((rule, "pci"))
        if uuid and not _is_known(uuid, gpus, rule):
            found.append((rule, "uuid"))
    excused = {rule.match[key].lower() for rule, key in found if rule.optional}
    listed = [each for each in policy.devices if each.lower() not in excused and not _is_there(each, there, gpus)]
    return [(f"{DISCOVERY}:devices", each, False) for each in listed] + [
        (rule.path if rule.optional else f"{rule.path}:match:{key}", rule.match[key], rule.optional) for rule, key in found
    ]


def _is_known(uuid, gpus, rule):
    if "pci" in rule.match:
        # With an address beside it, a UUID that two GPUs have still means one of them.
        return any(gpu.uuid.lower() == uuid.lower() for gpu in gpus)
    return discovery.address_of(gpus, uuid, f"{rule.path}:match:uuid") is not None


def _is_there(device, there, gpus):
    if addresses.is_uuid(device):
        return discovery.address_of(gpus, device, f"{DISCOVERY}:devices") is not None
    return device in there


def _inventory(gpus):
    if not gpus:
        return "It has no GPU at all."
    found = ", ".join(f"{gpu.address} ({gpu.model or gpu.device_id}{', ' + gpu.uuid if gpu.uuid else ''})" for gpu in gpus)
    blind = [gpu.address for gpu in gpus if not gpu.uuid]
    note = f" The UUID of {', '.join(blind)} is not known; name it by its PCI address." if blind else ""
    return f"It has {found}.{note}"
