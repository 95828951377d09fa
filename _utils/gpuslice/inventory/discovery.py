"""
The GPUs of a host, from udev, sysfs, /proc and the catalog. No device node is opened, no vendor library or program is used
(unless a policy asks for a program's detection), so this is safe at any time and quick enough for grains.
"""

import errno
import os
import re
from dataclasses import replace

from gpuslice import addresses
from gpuslice import catalog
from gpuslice import errors
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.inventory import detection
from gpuslice.inventory import machine
from gpuslice.model import Gpu
from gpuslice.printable import printable

_SYSFS = "/sys/bus/pci/devices"
#: How the names of NVIDIA's vGPU types end: ``GRID T4-2B``, ``NVIDIA A100X-40C``, ``NVIDIA H100XM-1-10CME``.
_VGPU_NAME = re.compile(r"-\d+[ABCQ]\d?(?:ME|NOME|MEALL|GFX)?\Z")

def discover(host, method="udev"):
    """
    The GPUs of a host.

    :param host: :class:`gpuslice.host.base.Host`.
    :param method: see :func:`gpuslice.inventory.detection.detect`; other methods than udev leave only what the tool sees.
    :return: list of :class:`gpuslice.model.Gpu`, sorted by PCI address. A virtual function is not a GPU of its own but is
        listed in its physical function's ``virtual_functions``.
    :raises errors.ToolMissing, errors.ToolFailed: the tool of the method can't be used.
    """
    return discover_with_errors(host, method)[0]


def discover_with_errors(host, method="udev"):
    """
    As :func:`discover`, with what went wrong.

    :return: (gpus, errors): errors are sentences on devices that vanished while they were read, and on differences between
        the system and the tool.
    """
    gpus, problems = _scan(host, machine.guest_test(host), _Udev(host, host.udev_pci()))
    kept, differences = confirmed_with_errors(host, gpus, method)
    return kept, problems + differences


def confirmed(host, gpus, method):
    """The GPUs out of ``gpus`` that the tool of a detection method sees too. Raises as :func:`discover`."""
    return confirmed_with_errors(host, gpus, method)[0]


def confirmed_with_errors(host, gpus, method):
    """As :func:`confirmed`, with sentences on the differences between the system and the tool."""
    # udev and sysfs are where the list came from.
    return (list(gpus), []) if method == "udev" else _compared(gpus, detection.detect(host, method), method)


def listed(host, guest):
    """
    As :func:`discover_with_errors`, from sysfs alone: it lists the same devices as udev, without the time that loading udev
    takes.

    :param guest: what :func:`gpuslice.inventory.machine.guest_test` returned for this host.
    """
    return _scan(host, guest, _Udev(host))


class _Udev:
    """What udev knows, asked for once and, where it was not given, only when a name is wanted: loading it takes longer than
    all the rest."""

    def __init__(self, host, devices=None):
        self._host = host
        self._devices = devices

    def candidates(self):
        """Addresses of what can be a GPU, from udev where it was asked already, else all from sysfs."""
        if self._devices is None:
            return self._host.listdir(_SYSFS)
        return [device["SYSNAME"] for device in self._devices if detection.udev_ids(device)[0] in detection.GPU_CLASSES]

    def name(self, address):
        """The name in udev's database of PCI ids, "" when it has none."""
        if self._devices is None:
            self._devices = self._host.udev_pci() or []
        names = (one.get("ID_MODEL_FROM_DATABASE", "") for one in self._devices if one["SYSNAME"] == address)
        return printable(next(names, ""))


def _scan(host, guest, udev):
    """All GPUs that the system lists, and sentences on what could not be read. :param guest: see :func:`listed`."""
    gpus, problems = [], []
    for address in udev.candidates():
        try:
            gpu = _gpu(host, address, udev, guest)
        except OSError as err:
            reason = err.strerror or err
            problems.append(f"GPU {address}: the files of this PCI device can't be read ({reason}); it is left out.")
            continue
        if gpu is not None:
            gpus.append(gpu)
    return sorted(gpus, key=lambda gpu: gpu.address), problems


def _compared(gpus, seen, method):
    """The GPUs that a tool sees, and sentences on the differences."""
    known = {gpu.address for gpu in gpus}
    functions = {vf for gpu in gpus for vf in gpu.virtual_functions["addresses"]}
    missing = [
        f"GPU {gpu.address}: {method} does not see this {gpu.model}; it is left out because vendor_detection is {method}."
        for gpu in gpus
        if gpu.address not in seen
    ]
    surplus = [
        f"GPU {address}: {method} reports it, but the system has no such GPU; it is left out."
        for address in seen
        if address not in known and address not in functions
    ]
    return [gpu for gpu in gpus if gpu.address in seen], missing + surplus


def _gpu(host, address, udev, guest):
    """The GPU at an address; None when what is there is no GPU of its own. Raises OSError when its files are gone."""
    base = f"{_SYSFS}/{address}"
    # The class first: nearly all devices of a big server end here after one small file.
    if _hex(host.read(f"{base}/class"), 6)[:4] not in detection.GPU_CLASSES or host.exists(f"{base}/physfn"):
        return None
    vendor_id = _hex(host.read(f"{base}/vendor"))
    if vendor_id not in catalog.VENDORS:
        return None
    names = set(host.listdir(base))
    if not names:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), base)
    device_id = _hex(host.read(f"{base}/device"))
    subsystem_id = _subsystem(host, base)
    vendor, brand = catalog.VENDORS[vendor_id]
    known = catalog.lookup(vendor_id, device_id, subsystem_id) or {}
    told = _nvidia_information(host, address) if vendor == "nvidia" else {}
    own_name = told.get("model") or machine.text(host, f"{base}/product_name")
    if not own_name and not known:
        own_name = udev.name(address)
    gpu = Gpu(
        address=address,
        vendor=vendor,
        device_id=device_id,
        subsystem_id=subsystem_id,
        model=_model(known, told.get("model", ""), own_name, brand, device_id),
        catalog_key=known.get("key", ""),
        memory_mib=known.get("memory_mib") or _amd_memory(host, base, vendor),
        driver=host.readlink(f"{base}/driver"),
        numa_node=_numa_node(host, base),
        uuid=told.get("uuid", ""),
        virtual_functions=_virtual_functions(host, base, names),
    )
    gpu = replace(gpu, name=own_name or gpu.model, capabilities=_capabilities(host, gpu, known, names))
    if is_vgpu_name(told.get("model", "")) and guest():
        return _as_vgpu(gpu, told["model"], brand)
    return gpu


def is_vgpu_name(name):
    """Whether a product name is that of a vGPU, as a virtual machine has it, and not of a board: ``NVIDIA H100XM-10C``."""
    return _VGPU_NAME.search(name) is not None


def _as_vgpu(gpu, told, brand):
    """
    A vGPU in a virtual machine: it has the id of the board, but neither its memory nor its MIG. What the capability vgpu means
    here is that it needs a licence.
    """
    return replace(
        gpu,
        model=_model({}, told, told, brand, gpu.device_id),
        catalog_key="",
        memory_mib=None,
        capabilities=tuple(sorted({*gpu.capabilities, "vgpu"} - {"mig", "power"})),
    )


def _model(known, told, own_name, brand, device_id):
    """Product name with its vendor. The driver's word decides where the catalog does not know the board for certain."""
    if known.get("key"):
        return known["model"]
    if told:
        return told if told.startswith(brand) else f"{brand} {told}"
    if known:
        return known["model"]
    # The PCI database writes the chip, then the product in brackets.
    product = re.search(r"\[([^]]+)]\s*\Z", own_name)
    return f"{brand} {product[1] if product else own_name or 'GPU ' + device_id}"


def _capabilities(host, gpu, known, names):
    """
    Slicing technologies of a GPU, sorted. What sysfs says wins: SR-IOV is what ``sriov_totalvfs`` says and nothing else. Where
    sysfs has no say (partition modes of a GPU without its driver) the catalog's word stands, so that a missing driver is
    reported as that and not as hardware that can't.
    """
    found = set(known.get("capabilities", ()))
    found.discard("sriov")
    has_vgpu = _has_vgpu(host, gpu, known, names)
    if gpu.vendor == "nvidia":
        shared = {"time-slicing", "mps"}
        # Under the vGPU manager no program of the host computes on a GPU.
        found = found - shared if has_vgpu else found | shared
    if gpu.vendor == "intel":
        found.add("level-zero")
        # The driver xe shows the engines of each tile, and how they are shared.
        if gpu.driver == "xe" and any(re.match(r"tile\d+\Z", name) for name in names):
            found.add("time-slicing")
    if gpu.virtual_functions["total"]:
        found.add("sriov")
    if "current_compute_partition" in names:
        found.add("partition")
    elif gpu.driver == "amdgpu":
        found.discard("partition")
    if has_vgpu:
        found.add("vgpu")
    if "iommu_group" in names:
        found.add("passthrough")
    if known.get("virtual_function"):
        found.discard("partition")
    # Of NVIDIA's only the driver tells, which is asked when a cap is wanted.
    if gpu.driver == "nvidia" if gpu.vendor == "nvidia" else "hwmon" in names:
        found.add("power")
    return tuple(sorted(found))


def _has_vgpu(host, gpu, known, names):
    """
    Whether mediated devices or the vendor's VFIO interface are there, on the GPU or on its first VF. An NVIDIA GPU whose VFs
    are not enabled yet shows neither, so there the loaded vGPU manager counts.
    """
    if "mdev_supported_types" in names:
        return True
    functions = gpu.virtual_functions["addresses"]
    if functions:
        vf = host.listdir(f"{_SYSFS}/{functions[0]}")
        return "mdev_supported_types" in vf or "nvidia" in vf
    manager = gpu.vendor == "nvidia" and gpu.virtual_functions["total"] and known.get("entry", {}).get("vgpu_prefix")
    return bool(manager) and host.exists("/sys/module/nvidia_vgpu_vfio")


def _virtual_functions(host, base, names):
    """Limits and addresses of virtual functions, in the order of their numbers."""
    links = sorted((name for name in names if re.match(r"virtfn[0-9]{1,9}\Z", name)), key=lambda name: int(name[6:]))
    found = [host.readlink(f"{base}/{link}") for link in links]
    total = (machine.number(host, f"{base}/sriov_totalvfs") or 0) if "sriov_totalvfs" in names else 0
    # The links are counted: to read sriov_numvfs waits, for ever perhaps, while a driver is letting the function go.
    return {"total": total, "enabled": len(links), "addresses": [address for address in found if address]}


def _nvidia_information(host, address):
    """What the NVIDIA driver's file says: ``model`` and ``uuid``, as far as it knows them."""
    for form in (address, address.upper()):
        text = machine.text(host, f"/proc/driver/nvidia/gpus/{form}/information")
        if text:
            break
    else:
        return {}
    rows = dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    found = {"model": rows.get("Model", ""), "uuid": rows.get("GPU UUID", "")}
    # Before anything opened the GPU the driver fills in question marks or the word Unknown.
    return {key: value for key, value in found.items() if value and "?" not in value and value != "Unknown"}


def _subsystem(host, base):
    """``vvvv:dddd``, "" when sysfs does not tell it."""
    vendor = machine.text(host, f"{base}/subsystem_vendor")
    device = machine.text(host, f"{base}/subsystem_device")
    return f"{_hex(vendor)}:{_hex(device)}" if vendor and device else ""


def _amd_memory(host, base, vendor):
    """Memory in MiB as amdgpu tells it, None when it does not."""
    size = machine.number(host, f"{base}/mem_info_vram_total") if vendor == "amd" else None
    return size // 2**20 if size else None


def _numa_node(host, base):
    """NUMA node, None where the system has none for the device."""
    node = machine.number(host, f"{base}/numa_node")
    return node if node is not None and node >= 0 else None


def _hex(text, digits=4):
    """``0x10de`` -> ``10de``."""
    return text.strip().lower().removeprefix("0x").rjust(digits, "0")


def select(gpus, method="auto", devices=()):
    """
    The GPUs that a policy is about.

    :param gpus: GPUs of the host. :param method: ``auto`` (all) or ``manual`` (only those in ``devices``).
    :param devices: PCI addresses in any form that :func:`gpuslice.addresses.normalize` takes, or UUIDs of GPUs.
    :return: (gpus in the order of the host, warnings).
    :raises errors.DeviceNotFound: one of the devices is not on the host. :raises errors.PolicyError: not an address, the UUID of
        more than one GPU, or an unknown method.
    """
    if method == "auto":
        return list(gpus), []
    if method != "manual":
        raise errors.PolicyError(f"The discovery method {method!r} is unknown.", todo="Use auto or manual.")
    wanted, warnings, missing = set(), [], []
    for device in devices:
        if addresses.is_index(device):
            raise errors.PolicyError(
                f"{device} is the index of a GPU, and indices move when a card is added, removed or lost.",
                todo="Name the GPU by its PCI address or its UUID; 'salt-call gpu.devices' lists them.",
            )
        if addresses.is_uuid(device):
            address = address_of(gpus, device)
        else:
            address, warning = addresses.normalize(device)
            warnings += [warning] if warning else []
        if any(gpu.address == address for gpu in gpus):
            wanted.add(address)
        else:
            missing.append(device if addresses.is_uuid(device) else address)
    if missing:
        raise _not_found(gpus, missing)
    return [gpu for gpu in gpus if gpu.address in wanted], warnings


def address_of(gpus, uuid, where=""):
    """
    PCI address of the GPU with that UUID, None where no GPU has it.

    :param where: pillar path of the UUID, for the message. :raises errors.PolicyError: two GPUs have it, as boards do that were
        flashed with one image, or virtual machines that were cloned: which one is meant can't be told.
    """
    found = [gpu.address for gpu in gpus if gpu.uuid and gpu.uuid.lower() == uuid.strip().lower()]
    if len(found) > 1:
        raise errors.PolicyError(
            f"{f'{where} names {uuid.strip()}, which' if where else uuid.strip()} is the UUID of {' and '.join(found)}.",
            todo="Name the GPU by its PCI address instead.",
        )
    return found[0] if found else None


def _not_found(gpus, missing):
    """The error for devices that are not on the host, with what is."""
    here = ", ".join(f"{gpu.address} ({gpu.model})" for gpu in gpus) or "none"
    parts = [f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not among the GPUs of this host: {here}."]
    for gpu in gpus:
        for address in missing:
            if address in gpu.virtual_functions.get("addresses", ()):
                parts.append(f"{address} is a virtual function of {gpu.address}.")
    todo = "Name one of these, by its PCI address or its UUID."
    if not gpus:
        todo = "'lspci -D' shows which devices the host has; GPUs are found among them with or without a driver."
    elif any(addresses.is_uuid(device) for device in missing) and not all(gpu.uuid for gpu in gpus):
        todo = "UUIDs are known only of GPUs whose driver is loaded and tells them; name the GPU by its PCI address."
    return errors.DeviceNotFound(" ".join(parts), todo=todo)


def with_uuids(gpus, sessions):
    """
    The same GPUs with their UUIDs: from the kernel's files, and where these tell none, from the vendor's library.

    :param sessions: :class:`gpuslice.drivers.sessions.Sessions`, of which one is only opened where a UUID is missing.
    """

    def is_blind(gpu):
        # The library does not know a GPU that another driver has.
        return gpu.vendor == "nvidia" and not gpu.uuid and not is_given_away(gpu)

    return [replace(gpu, uuid=sessions.nvml.uuid(gpu.address)) if is_blind(gpu) else gpu for gpu in gpus]


def is_given_away(gpu):
    """Whether a driver has the GPU that hands it to user space as a whole, such as to a virtual machine."""
    return gpu.driver in VFIO_DRIVERS


def is_for_programs(gpu):
    """Whether programs of this host could compute on the GPU as a whole, as far as its driver and functions say."""
    return bool(gpu.driver) and not is_given_away(gpu) and not gpu.virtual_functions.get("enabled")
