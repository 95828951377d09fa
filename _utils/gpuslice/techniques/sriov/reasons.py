"""
Why a GPU has no virtual functions, by family, and what the kernel's answers to ``sriov_numvfs`` mean.
"""

import errno

from gpuslice import errors
from gpuslice.catalog import amd
from gpuslice.catalog import intel
from gpuslice.drivers import i915_sriov
from gpuslice.drivers import modules


def why_not_intel(gpu):
    """Why an Intel GPU without the capability has no VFs."""
    model = intel.MODELS.get(gpu.catalog_key, {})
    if model.get("class") == "arc-a":
        return "Arc A GPUs have no SR-IOV on the chip; no driver can change that"
    if model.get("class") == "arc-b":
        return "consumer Arc B boards do not have the capability; Arc Pro B50, B60, B65 and B70 do"
    if model.get("family") == "LNL":
        return "Lunar Lake has no virtual functions"
    if model.get("family") in ("MTL", "ARL"):
        return "on Meteor Lake and Arrow Lake only the i915 of a long-term or community port makes virtual functions"
    if model.get("sriov_drivers"):
        return "the device shows no SR-IOV capability: switch SR-IOV, VT-d and Above-4G decoding on in the firmware"
    return "the device has no SR-IOV capability"


def why_not_amd(gpu):
    """Why no VFs can be made of an AMD GPU."""
    model = amd.MODELS.get(gpu.catalog_key, {})
    if "sriov-hw-only" in model.get("features", ()):
        return "its host driver is not public: clouds have it"
    if "sriov-legacy" in model.get("features", ()):
        return "its host driver was made for kernels of 2016 to 2019 only"
    if gpu.catalog_key.startswith("mi308"):
        return "no release of the host driver gim lists it"
    if gpu.catalog_key.startswith("mi") and not model.get("sriov_host_driver"):
        return "this Instinct has no virtual functions; MI210, MI300X, MI325X and the MI350 series have"
    if model.get("sriov_host_driver"):
        return "the device shows no SR-IOV capability: switch SR-IOV, ARI and the IOMMU on in the firmware"
    return "workstation and consumer Radeon boards have no virtual functions"


def refuse_driver_without_functions(host, gpu, driver):
    """
    Refuse a driver that makes no virtual functions, as its module options tell: all that do have ``max_vfs`` (xe, the vendor's
    and the community's i915), and the i915 of the Linux kernel has not. Otherwise the kernel would answer ENOENT, in the middle
    of a change. A driver whose options can't be seen is not judged.

    :param driver: ``xe`` or ``i915``. :raises errors.Unsupported:
    """
    options = modules.parameters(host, driver)
    if not options or "max_vfs" in options:
        return
    if driver == "i915":
        raise errors.Unsupported(
            "Its driver is the kernel's own i915, which makes no virtual functions.", gpu.address, i915_sriov.others(gpu)
        )
    raise errors.Unsupported(
        f"Its driver {driver} is too old to make virtual functions: it has no option max_vfs.", gpu.address, "Use a newer kernel."
    )


def answers(gpu):
    """errno of a write to ``sriov_numvfs`` -> (class, why, what to do), as :func:`gpuslice.drivers.kernel.write` takes it."""
    if gpu.vendor != "intel":
        return _NUMVFS
    kind, why, _ = _NUMVFS[errno.ENOENT]
    return {**_NUMVFS, errno.ENOENT: (kind, why, i915_sriov.others(gpu))}


_NUMVFS = {
    errno.ENOENT: (
        errors.Unsupported,
        "the driver of the GPU can't make virtual functions, or none is bound",
        "The kernel's own i915 and amdgpu can't; see 'salt-call gpu_sriov.vfs' for the driver.",
    ),
    errno.ENOMEM: (
        errors.DriverError,
        "there is not enough MMIO space, or too few bus numbers",
        "Switch Above-4G decoding and ARI on in the firmware, or boot with pci=realloc; 'dmesg' says which.",
    ),
    errno.EBUSY: (
        errors.InUse,
        "virtual functions are there already, in use, or the driver is locked",
        "Stop their users; a compute engine split (ccs_mode) other than 1 also blocks them.",
    ),
    errno.ENOSPC: (
        errors.ProfileMismatch,
        "the GPU has not enough left for an equal share of each",
        "Ask for fewer, or remove quotas that are still written ('salt-call gpu_sriov.remove_vfs').",
    ),
    errno.ENODEV: (
        errors.Unsupported,
        "the driver does not run as a PF, or a function that this one depends on is missing",
        "Boot the driver with virtual functions allowed (max_vfs); see 'dmesg'.",
    ),
    errno.EIO: (
        errors.DriverError,
        "the device or its driver failed",
        "See 'dmesg'; the firmware may tell a wrong number of virtual functions.",
    ),
    errno.ERANGE: (errors.ProfileMismatch, "it is more than sriov_totalvfs", "Ask for fewer."),
    errno.ENOSYS: (errors.Unsupported, "the function is no PF", "Name the physical function."),
    errno.EUCLEAN: (
        errors.ResourceConflict,
        "some virtual functions have quotas and others have none",
        "Remove them with 'salt-call gpu_sriov.remove_vfs' and run again.",
    ),
    errno.ECANCELED: (errors.Unhealthy, "the GPU is wedged", "Reset or reboot; see 'dmesg'."),
}
