"""
Which rule holds for which GPU, and what that means for it.
"""

import fnmatch
from collections.abc import Callable
from typing import NamedTuple

from gpuslice import addresses
from gpuslice import catalog
from gpuslice import errors
from gpuslice import kinds
from gpuslice.inventory import discovery
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.policy import document
from gpuslice.policy.fields import DISCOVERY
from gpuslice.policy.fields import ENVIRONMENTS
from gpuslice.policy.fields import MANAGEMENT
from gpuslice.policy.fields import SLICING

_ALLOW = f"Where a GPU may be absent, say 'optional: true' in a rule of {SLICING}:devices that names it."



def targets(policy, gpus, environment, available=kinds.STRATEGIES, why_not=None, meant=None):
    """
    Decide what is wanted of each GPU.

    :param policy: :class:`gpuslice.policy.Policy`.
    :param gpus: all GPUs of the host, as :class:`gpuslice.model.Gpu`; those that method manual does not name are left alone.
    :param environment: ``bare_metal``, ``virtual_host``, ``virtual_guest`` or ``container``, for strategy auto; anything for a
        policy that has none (``Policy.automatic``).
    :param available: the technologies that this version can do, by the pillar's words.
    :param meant: function of a GPU and a word of the pillar that tells the name of the technology, where more than one share it.
    :param why_not: function of a GPU and a technology that it lacks: (why, whether the host's configuration is to blame instead
        of the hardware). Then it is a mistake also where only a host-wide strategy reached the GPU.
    :return: :class:`gpuslice.model.Target` of each GPU, in their order: one, and one for each technology that stands beside.
    :raises errors.DeviceNotFound: the policy names GPUs that are not there. :raises errors.PolicyError: a UUID means two of them.
    :raises errors.Unsupported: a GPU that it names, or this version, can't do what is wanted.
    """
    if not policy.enabled:
        return [Target(gpu, path=SLICING, reason=f"{SLICING}:enabled is false") for gpu in gpus]
    _check_present(policy, gpus)
    refused = []
    world = _World(environment, available, why_not or _nothing_known, meant or _same_name)
    made = [target for gpu in gpus for target in _of_gpu(policy, gpu, world, refused)]
    if refused:
        address = refused[0][0] if len({gpu for gpu, _ in refused}) == 1 else ""
        sentences = dict.fromkeys(text for _, text in refused)
        raise errors.Unsupported(" ".join(sentences), address, "Change the strategy in the pillar.")
    return made


def agreed(policy, gpus):
    """PCI address -> names of those who may set the same GPU; without those of whom nobody is named."""
    found = {gpu.address: _rule_of(policy, gpu).share_with for gpu in gpus}
    return {address: names for address, names in found.items() if names}


def _rule_of(policy, gpu):
    return next((each for each in policy.rules if _matches(each.match, gpu)), policy.default)


class _World(NamedTuple):
    """What the host tells: parameters as of :func:`targets`."""

    environment: str
    available: tuple
    why_not: Callable
    meant: Callable


def _nothing_known(gpu, word):
    return "", False


def _same_name(gpu, word):
    return kinds.called(word).name


def unmanaged(policy, pillar, gpus, wanted):
    """
    Why a policy manages nothing of a host, as a sentence, "" where it does: a host of which nobody wants anything would look like
    one that is as wanted.

    :param pillar: what the policy was parsed from; :param gpus: of the host; :param wanted: what :func:`targets` came to.
    """
    if not gpus:
        why = "this host has no GPU"
    elif SLICING not in pillar and not wanted:
        why = " ".join(switched_off(policy)).rstrip(".") or f"the pillar has no {SLICING}"
    elif not policy.enabled:
        why = " ".join(switched_off(policy)).rstrip(".") or f"{SLICING}:enabled is false"
    elif any(target.technique for target in wanted):
        return ""
    else:
        why = "the pillar leaves every GPU of this host alone"
    return f"Nothing is managed here: {why}."


def switched_off(policy):
    """
    A sentence where a policy says how GPUs are sliced, who is handed slices or who is told of them, and is not enabled: the key
    may have been forgotten. Else [].
    """
    if policy.enabled:
        return []
    if policy.default.strategy != "none" or policy.rules:
        return [f"{SLICING}:enabled is false, so that no GPU is sliced. Set it to true where they are to be."]
    if not (idle := _receivers(policy, kinds.HANDING_OUT)):
        return []
    return [
        f"{SLICING}:enabled is false, so that nothing is done for {', '.join(idle)} either. Set it to true, with strategy: none "
        f"where the GPUs are to stay as they are."
    ]


def _receivers(policy, handing):
    """Who is handed slices, or told of them, by a policy."""
    return [
        name for kind in handing if kind.name in policy.handed_out
        for name in kinds.section(kind).receivers(policy.handed_out[kind.name])
    ]  # fmt: skip


def forgotten(policy):
    """A sentence where what a policy hands out is gone after a reboot: part of it lies in memory. Else []."""
    handing = [kind for kind in kinds.HANDING_OUT if kind.layer == kinds.HAND_OUT]
    if not _receivers(policy, handing) or policy.boot:
        return []
    return [f"consumers have their slices until a reboot; {MANAGEMENT}:boot: true brings them back before they start."]


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


def _of_gpu(policy, gpu, world, refused):
    """What is wanted of a GPU, from the silicon up."""
    if policy.method == "manual" and not _named(policy, gpu):
        return [Target(gpu, path=f"{DISCOVERY}:devices", reason=f"not named in {DISCOVERY}:devices")]
    rule = _rule_of(policy, gpu)
    target = _target(policy, gpu, rule, world, refused)
    # Nothing stands on what is not there, but what goes with all.
    beside = [word for word in rule.beside if target.technique or kinds.goes_with_all(word)]
    standing = [_standing(policy, gpu, rule, word, world, refused) for word in beside]
    # That nothing slices it says nothing of a GPU of which something else is wanted.
    return standing if standing and not target.technique else [target, *standing]


def _standing(policy, gpu, rule, word, world, refused):
    if kinds.goes_with_all(word):
        return _asked(policy, gpu, rule, word, world, refused, f"{word} ({rule.path})")
    if not kinds.called(word).fits(gpu):
        refused.append((gpu.address, f"GPU {gpu.address}: {rule.path} wants {word}, but {_lacks(gpu, word, world)}."))
    return _chosen(gpu, rule, word, world, f"{word} on what strategy {rule.strategy} makes ({rule.path})")


def _target(policy, gpu, rule, world, refused):
    if rule.strategy == "none":
        return Target(gpu, path=rule.path, reason=f"strategy none ({rule.path})")
    if rule.strategy == "auto":
        return _automatic(policy, gpu, rule, world)
    if rule.strategy not in world.available:
        refused.append(("", f"{rule.path}: {_not_in_version(rule, world.available)}"))
        return _chosen(gpu, rule, rule.strategy, world, "")
    return _asked(policy, gpu, rule, rule.strategy, world, refused, f"strategy {rule.strategy} ({rule.path})")


def _asked(policy, gpu, rule, word, world, refused, why):
    """The target of a technology that a rule names; none where a GPU that it did not name can't."""
    if not kinds.called(word).fits(gpu):
        text, mendable = _lacks(gpu, word, world), world.why_not(gpu, word)[1]
        if not mendable and not rule.names_a_gpu and policy.method == "auto":
            return Target(gpu, path=rule.path, reason=f"not applicable: {text}")
        what = f"strategy {word}" if word == rule.strategy else word
        refused.append((gpu.address, f"GPU {gpu.address}: {rule.path} wants {what}, but {text}."))
    return _chosen(gpu, rule, word, world, why)


def _chosen(gpu, rule, word, world, why, automatic=False):
    key = Key.of_gpu(world.meant(gpu, word), gpu.address)
    silent = rule.silent.get(word, "")
    return Target(gpu, key, rule.settings[word], rule.path, why, automatic=automatic, silent=silent)


def _automatic(policy, gpu, rule, world):
    """Strategy auto never fails: it names no technology, so where nothing that it may pick can be had the GPU is left alone."""
    environment = world.environment
    if environment not in ENVIRONMENTS:
        raise errors.Unsupported(
            f"{rule.path}: strategy auto can't decide in the environment '{environment}'.",
            gpu.address,
            f"It knows {', '.join(ENVIRONMENTS)}; name a strategy in the pillar.",
        )
    picked = policy.auto_strategy[environment]
    why = f"auto picks {picked} on {environment} ({SLICING}:auto_strategy)"
    if picked == "none":
        return Target(gpu, path=rule.path, reason=why)
    obstacle = _obstacle(gpu, rule, picked, world)
    if not obstacle and (meant := _spoken_of(gpu, rule, picked, world)):
        why = f"auto picks {meant} on {environment} instead of {picked}, of which the pillar says nothing"
        return _chosen(gpu, rule, meant, world, why, automatic=True)
    if not obstacle:
        return _chosen(gpu, rule, picked, world, why, automatic=True)
    instead = _fallback(gpu, rule, picked, world)
    if instead:
        why = f"auto picks {instead} on {environment} instead of {picked} ({SLICING}:auto_strategy), because {obstacle}"
        return _chosen(gpu, rule, instead, world, why, automatic=True)
    return Target(gpu, path=rule.path, reason=f"not applicable: {why}, but {obstacle}")


def _spoken_of(gpu, rule, picked, world):
    """Another technology that the pillar has settings for, where it has none for the pick; "" where there is none."""
    if document.section(picked).says_more(rule.settings[picked]):
        return ""
    return _with_settings(gpu, rule, picked, world)


def _fallback(gpu, rule, picked, world):
    """The first other technology that suits the environment, that the GPU can do, and that the pillar has settings for; or ""."""
    if kinds.called(picked).fits(gpu):
        # What it can do and was not given settings for is the wish of whoever wrote the pillar.
        return ""
    return _with_settings(gpu, rule, picked, world)


def _with_settings(gpu, rule, picked, world):
    suiting = kinds.fallbacks(world.environment)
    found = (name for name in suiting if name != picked and not _obstacle(gpu, rule, name, world))
    with_settings = (name for name in found if document.section(name).says_more(rule.settings[name]))
    return next(with_settings, "") if picked in suiting else ""


def _obstacle(gpu, rule, picked, world):
    if picked not in world.available:
        return f"strategy {picked} is not in this version"
    if not kinds.called(picked).fits(gpu):
        return _lacks(gpu, picked, world)
    if picked in rule.switched_off:
        return f"{kinds.SECTIONS[picked]}:enabled is false"
    return document.section(picked).missing(rule.settings[picked], world.environment)


def _lacks(gpu, word, world):
    model = gpu.model or f"{gpu.vendor} device {gpu.device_id}"
    why = world.why_not(gpu, word)[0].rstrip(".")
    return f"{model} has no {kinds.called(word).label}{f' ({why})' if why else ''}"


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
        if key == "device_id" and not any(board in wanted for board in catalog.boards(gpu)):
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
    named = {path: named for path, named, excused in _missing(policy, gpus) if not excused}
    if named:
        missing = "; ".join(f"{path} names {name}" for path, name in named.items())
        todo = " ".join([_inventory(gpus), *_functions(named.values(), gpus), _ALLOW])
        raise errors.DeviceNotFound(f"{missing}: this host has no such GPU.", todo=todo)


def _functions(named, gpus):
    """A sentence for each of these names that is a virtual function's."""
    return [
        f"{name} is a virtual function of {gpu.address}: what becomes of it is said in a rule for that GPU."
        for name in named for gpu in gpus if name in gpu.virtual_functions.get("addresses", ())
    ]  # fmt: skip


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
