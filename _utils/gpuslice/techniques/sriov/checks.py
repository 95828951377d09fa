"""
What keeps a GPU from the virtual functions that are wanted: its driver, its host, or the numbers themselves.
"""

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers import i915_sriov
from gpuslice.drivers import pci
from gpuslice.drivers import xe_sriov
from gpuslice.techniques.sriov import reasons


def mend_total(host, gpu):
    """What to do where a driver offers no VFs."""
    if gpu.driver == "xe":
        return xe_sriov.why_none(host, gpu)
    if gpu.driver == "i915":
        return f"Boot with {i915_sriov.PARAMETERS} on the kernel's command line."
    return "Load its driver."


def refuse_driver(host, gpu, state):
    """Raise errors.DriverMissing, errors.Unsupported where the driver of now makes no VFs."""
    if state.driver not in ("xe", "i915"):
        raise errors.DriverMissing(
            f"Virtual functions are made by the driver xe or i915, and the GPU has {state.driver or 'none'}.",
            gpu.address,
            "Load it ('modprobe xe'), or see 'dmesg' for why it did not take the GPU.",
        )
    if state.files is None:
        reasons.refuse_driver_without_functions(host, gpu, state.driver)
    if not state.total:
        raise errors.Unsupported(
            f"The driver {state.driver} offers no virtual functions: sriov_totalvfs is 0.", gpu.address, mend_total(host, gpu)
        )


def refuse_host(host, gpu, state, goal, rules):
    """Raise errors.Unsupported where kernel or firmware keep virtual machines from VFs."""
    if not goal.autoprobe and state.autoprobe is None:
        raise errors.Unsupported(
            "This kernel can't leave virtual functions unbound: sriov_drivers_autoprobe is of Linux 4.13.",
            gpu.address,
            f"Use a newer kernel, or {rules.setting('sriov', 'autoprobe', True)} and unbind them yourself.",
        )
    # Functions that stay with the host's own driver work without; a virtual machine's do not.
    if not goal.autoprobe and goal.numvfs != state.numvfs:
        instead = f"Virtual functions for containers need none: {rules.setting('sriov', 'autoprobe', True)}."
        pci.refuse_without_iommu(host, gpu.address, instead)


def refuse_numbers(host, gpu, state, settings, wanted, rules):
    """
    Refuse numbers and names of VFs that the GPU can't have.

    :param wanted: PCI address -> (GPU, settings) of all PFs, as one list may name the VFs of several.
    :raises errors.ProfileMismatch: too many, or an odd number for two tiles. :raises errors.PolicyError: a VF that will not be.
    """
    count = settings["vf_count"]
    if count > state.total:
        known = mend_total(host, gpu) if not state.total else "Ask for that many, or for fewer."
        raise errors.ProfileMismatch(
            f"{count} virtual functions are wanted, and {gpu.model} can have {state.total} (sriov_totalvfs).",
            gpu.address,
            known,
        )
    if gpu.vendor == "intel" and _tiles(gpu, state) > 1 and count > 1 and count % 2:
        raise errors.ProfileMismatch(
            f"{count} virtual functions are wanted, and {gpu.model} has two tiles that share them: 1 or an even number.",
            gpu.address,
            f"Ask for {count - 1} or {count + 1}.",
        )
    beyond = sorted((number for number in settings["vfs"] if int(number) > count), key=int)
    if beyond:
        raise errors.PolicyError(
            f"{rules.key('sriov', 'vfs')} has settings for {', '.join(f'vf{number}' for number in beyond)}, and there are to be "
            f"{count} virtual functions.",
            gpu.address,
        )
    _refuse_named(host, gpu, state, settings, wanted)


def _refuse_named(host, gpu, state, settings, wanted):
    own = _possible(host, gpu, settings["vf_count"], state)
    # One list may name the VFs of several PFs.
    others = [one for one in wanted.values() if one[0].address != gpu.address and one[1].get("vf_count")]
    mine = (_possible(host, one, asked["vf_count"]) for one, asked in others if not asked.get("pf_device"))
    possible = [own, *mine]
    strangers = [address for address in settings["vf_devices"] if not any(address in found for found in possible)]
    if strangers and all(possible):
        raise errors.PolicyError(
            f"sriov:vf_devices names {', '.join(strangers)}, which will not be among the virtual functions of the GPU.",
            gpu.address,
            f"They are {', '.join(own)}.",
        )


def _possible(host, gpu, count, state=None):
    """
    Addresses that VFs have, or will have; [] where the device does not tell.
    """
    if state and state.numvfs == count == len(state.addresses):
        return list(state.addresses)
    return pci.possible(host, gpu.address, count)


def _tiles(gpu, state):
    return intel.MODELS.get(gpu.catalog_key, {}).get("tiles") or (state.files.tiles if state.files else 1)
