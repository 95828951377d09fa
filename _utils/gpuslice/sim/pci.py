"""
The PCI functions of a simulated machine: its GPUs, their virtual functions and the other devices, with their IOMMU groups.
"""

from gpuslice.sim import kernel

_FIRST_VF_GROUP, _VF_GROUPS_EACH = 100, 256


def group_of(functions, address):
    """
    Number of the IOMMU group of a function: the described one, or one of its own.

    :param functions: all functions of the machine, see :func:`functions`.
    """
    told = {function["address"]: function.get("iommu_group") for function in functions}
    if told[address] is not None:
        return told[address]
    free = (number for number in range(2 * len(functions) + 1) if number not in told.values())
    for function in functions:
        number = next(free) if told[function["address"]] is None else None
        if function["address"] == address:
            return number
    raise KeyError(address)


def functions(state):
    """
    All PCI functions of a machine, by address: GPUs (``gpu`` true), their virtual functions and the other devices.

    :return: list of dicts with the keys of ``other_pci``, and ``files`` and ``links`` of their directories.
    """
    found = [dict(device) for device in state["host"]["other_pci"]]
    for address, gpu in state["gpus"].items():
        found += _gpu_functions(state, address, gpu)
    return sorted(found, key=lambda function: function["address"])


def _gpu_functions(state, address, gpu):
    about = gpu["about"]
    common = {key: about[key] for key in ("vendor", "subsystem_id", "class", "revision", "numa_node", "name")}
    files = dict(about["sysfs"])
    total = about["sriov_totalvfs"]
    if total:
        files.update(
            sriov_totalvfs=str(total),
            sriov_numvfs=str(gpu["numvfs"]),
            sriov_vf_device=about["vf_device"],
            sriov_drivers_autoprobe=str(gpu["autoprobe"]),
            sriov_offset=str(about["vf_offset"]),
            sriov_stride="1",
        )
    physical = {
        **common, "address": address, "device": about["device"], "driver": driver_of(state, about["driver"]), "gpu": True,
        "iommu_group": about.get("iommu_group"),
        "files": files, "links": {},
    }  # fmt: skip
    found = [physical]
    for number, where in enumerate(functions_of(state, address)):
        physical["links"][f"virtfn{number}"] = where
        found.append({
            **common, "address": where, "device": about["vf_device"], "links": {"physfn": address},
            "driver": function_driver(state, address, where), "iommu_group": vf_group(state, address, number),
        })  # fmt: skip
    return found


def functions_of(state, address):
    """PCI addresses of the virtual functions of the GPU at ``address``, in the order of their numbers."""
    gpu = state["gpus"][address]
    return [vf_address(address, gpu["about"]["vf_offset"] + number) for number in range(gpu["numvfs"])]


def function_driver(state, address, where):
    """The driver of a virtual function of the GPU at ``address``: the one it was bound to, else what took it when it was made."""
    gpu = state["gpus"][address]
    bound = gpu.get("vf_drivers", {})
    return bound[where] if where in bound else gpu["about"]["vf_driver"] if gpu["autoprobe"] else ""


def owner_of(state, where):
    """PCI address of the GPU whose virtual function that address is, None where there is none."""
    return next((address for address in state["gpus"] if where in functions_of(state, address)), None)


def forget_functions(state, address):
    """A GPU's virtual functions go, and with each its driver and its ``driver_override``."""
    gpu = state["gpus"][address]
    gpu.pop("vf_drivers", None)
    for where in functions_of(state, address):
        state["written"].pop(f"{kernel.DEVICES}/{where}/driver_override", None)
    gpu["numvfs"] = 0


def vf_group(state, address, number):
    """IOMMU group of a virtual function that may carry a vGPU, so that no other GPU's VFs change it; None for others."""
    if not state["gpus"][address]["about"].get("vgpu"):
        return None
    return _FIRST_VF_GROUP + _VF_GROUPS_EACH * list(state["gpus"]).index(address) + number


def driver_of(state, driver):
    """The driver that a function is bound to, of the one that would have it: "" while NVIDIA's is not loaded."""
    return "" if driver == "nvidia" and not state["host"]["driver"]["loaded"] else driver


def vf_address(address, offset):
    """PCI address of a virtual function ``offset`` routing ids after its physical function."""
    domain, bus, rest = address.split(":")
    slot, _, function = rest.partition(".")
    routing = (int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)) + offset
    return f"{domain}:{routing >> 8 & 0xFF:02x}:{routing >> 3 & 0x1F:02x}.{routing & 7}"
