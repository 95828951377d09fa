"""
What a pillar comes to on a host: a target for each GPU, and how these are carried out. Each function is handed
:class:`gpuslice.engine.Engine`.
"""

import logging
from dataclasses import replace
from functools import partial

from gpuslice import addresses
from gpuslice import errors
from gpuslice import kinds
from gpuslice import policy as policies
from gpuslice.inventory import discovery
from gpuslice.inventory import machine
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.policy.fields import INTEGRATION
from gpuslice.techniques.base import Why

log = logging.getLogger(__name__)


def targets(engine, policy):
    """A target for each GPU that the policy names. Raises errors.PolicyError, DeviceNotFound, Unsupported."""
    if not policy.enabled:
        return []
    return [*_sliced(engine, policy), *_handed(engine, policy.handed_out)]


def _sliced(engine, policy):
    """A target for each GPU, and for what stands beside its strategy."""
    if policy.warnings:
        log.warning("%s", " ".join(policy.warnings))
    if _names_uuids(policy):
        engine.gpus = discovery.with_uuids(engine.gpus, engine.tools.sessions)
    gpus = engine.gpus
    # Only strategy auto asks for it, and finding out reads more of the machine than all the rest.
    environment = machine.environment(engine.host, gpus) if policy.automatic else ""
    if policy.vendor_detection != "udev":
        gpus, differences = discovery.confirmed_with_errors(engine.host, gpus, policy.vendor_detection)
        for difference in differences:
            log.warning("%s", difference)
    gpus = [_as_supported(engine, gpu) for gpu in gpus]
    return policies.targets(policy, gpus, environment, kinds.AVAILABLE, partial(_why_not, engine), engine.meant)


def _handed(engine, asked):
    """
    Targets of those who hand out slices: what is asked for; where nothing is, those on record go on.

    :param asked: technology -> settings.
    """
    found = []
    for kind in kinds.HANDING_OUT:
        if kind.name not in asked and not engine.host.has_record(kind.noted):
            continue
        settings = asked.get(kind.name, {"kept": True})
        if not engine.gpus and (receivers := kinds.section(kind).receivers(settings)):
            raise errors.PolicyError(
                f"{', '.join(receivers)}: slices are to be handed out, and this host has no GPU.",
                todo="Look for its GPUs with lspci, or leave that out of its pillar.",
            )
        path = INTEGRATION if kind.name in asked else ""
        found += [Target(gpu, Key.of_gpu(kind.name, gpu.address), settings, path, kind.label) for gpu in engine.gpus]
    return found


def handed_on(engine, targets):
    """These targets by hand, and those that keep what was handed out true: names lead to what is there then."""
    asked = {target.technique for target in targets}
    missing = [target for target in _handed(engine, {}) if target.technique not in asked]
    return [*targets, *missing]


def _as_supported(engine, gpu):
    """The GPU without capabilities whose technique can't use them: the VFs of some serve another technology only."""
    asked = [kind for kind in kinds.DOABLE if kind.last_word and kind.fits(gpu)]
    able = {kind.needs for kind in asked if kind.may_concern(gpu) and engine.tools.get(kind.name).supports(gpu)}
    refused = {kind.needs for kind in asked} - able
    return replace(gpu, capabilities=tuple(name for name in gpu.capabilities if name not in refused)) if refused else gpu


def _why_not(engine, gpu, word):
    """Why a GPU can't do what a word of the pillar means, as far as it is known."""
    return engine.tools.get(kinds.called(word).name).why_not(gpu) if word in kinds.AVAILABLE else Why()


def settle(engine, options, policy, force=None, permissions=None):
    """
    Put into the options of a request what its policy says of how it is carried out, or what a request by hand may do.

    :param options: :class:`gpuslice.rules.Options`; the others as of :meth:`gpuslice.engine.Engine.reconciler`.
    """
    options.by_hand, options.takes_force = policy is None, force is not None
    if policy is not None:
        options.strategy, options.on_failure = policy.apply_strategy, policy.on_failure
        options.validation, options.health_check = policy.validation, policy.health_check
        _take_time(policy, options)
        options.before, options.after = policy.before, policy.after
    for allowed in filter(None, (policy, _permissions(engine, permissions))):
        options.stop_units, options.unload_modules = allowed.stop_units, allowed.unload_modules
        options.agreed = agreed(engine, allowed)
    if force is not None:
        options.strategy = "force" if force else "auto"


def _take_time(policy, options):
    """Let a change wait as the policy says; one that is never made waits for nothing."""
    if policy.when == "now" or policy.apply_strategy == "skip":
        return
    # Here, so that those who never wait do not load it.
    from gpuslice import window

    options.when = policy.when
    options.window = window.of(policy.maintenance_window) if policy.when == "window" else None


def agreed(engine, policy):
    """PCI address -> names of those who may set the same GPU, as a policy has it; {} where it names nobody."""
    if not any(rule.share_with for rule in (policy.default, *policy.rules)):
        return {}
    gpus = engine.told_uuids(engine.gpus) if _names_uuids(policy) else engine.gpus
    return policies.agreed(policy, gpus)


def _permissions(engine, pillar):
    """The policy of a pillar; None where there is none, or it is wrong: what is asked for by hand must not depend on it."""
    if not pillar:
        return None
    try:
        return engine.policy(pillar)
    except errors.PolicyError as err:
        log.warning("the pillar is wrong, so that it permits nothing to be stopped: %s", err)
        return None


def _names_uuids(policy):
    named = [*policy.devices, *(rule.match.get("uuid") for rule in policy.rules)]
    return any(name and addresses.is_uuid(name) for name in named)
