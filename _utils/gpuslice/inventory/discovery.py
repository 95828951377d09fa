"""
The GPUs of a host, from udev, sysfs, /proc and the catalog. No device node is opened, no vendor library or program is used
(unless a policy asks for a program's detection), so this is safe at any time and quick enough for grains.
"""

import errno
import os
import re
from dataclasses import replace
from functools import cache

from gpuslice import addresses
from gpuslice import catalog
from gpuslice import errors
from gpuslice import numbers
from gpuslice.host.base import JOURNAL
from gpuslice.host.base import REBOOT_NAME
from gpuslice.host.base import REBOOT_PACKAGES
from gpuslice.inventory import detection
from gpuslice.model import Gpu
from gpuslice.printable import printable
from gpuslice.printable import printable_lines

_SYSFS = "/sys/bus/pci/devices"
#: How the names of NVIDIA's vGPU types end: ``GRID T4-2B``, ``NVIDIA A100X-40C``, ``NVIDIA H100XM-1-10CME``.
_VGPU_NAME = re.compile(r"-\d+[ABCQ]\d?(?:ME|NOME|MEALL|GFX)?\Z")

#: Maker and product in the firmware of virtual machines.
_HYPERVISORS = re.compile(
    r"qemu|kvm|vmware|virtualbox|xen|bochs|parallels|bhyve|openstack|nutanix ahv|virtual machine|cloud hypervisor|firecracker",
    re.IGNORECASE,
)

#: The same of clouds that also rent out bare metal: believed only where the processor can't tell.
_CLOUDS = re.compile(r"amazon ec2(?!.*\bmetal)|google compute engine|alibaba cloud ecs", re.IGNORECASE)

#: What is there on a machine that gives devices to virtual machines, or manages them.
_VM_SIGNS = (
    "/sys/bus/pci/drivers/vfio-pci",
    "/sys/module/nvidia_vgpu_vfio",
    "/run/libvirt/libvirt-sock",
    "/run/libvirt/virtqemud-sock",
    "/run/qemu-server",
)


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
    gpus, problems = _scan(host, _guest_test(host), _Udev(host, host.udev_pci()))
    kept, differences = confirmed_with_errors(host, gpus, method)
    return kept, problems + differences


def confirmed(host, gpus, method):
    """The GPUs out of ``gpus`` that the tool of a detection method sees too. Raises as :func:`discover`."""
    return confirmed_with_errors(host, gpus, method)[0]


def confirmed_with_errors(host, gpus, method):
    """As :func:`confirmed`, with sentences on the differences between the system and the tool."""
    # udev and sysfs are where the list came from.
    return (list(gpus), []) if method == "udev" else _compared(gpus, detection.detect(host, method), method)


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
    """All GPUs that the system lists, and sentences on what could not be read. :param guest: see :func:`_guest_test`."""
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
    own_name = told.get("model") or _optional(host, f"{base}/product_name")
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
        capabilities=tuple(sorted({*gpu.capabilities, "vgpu"} - {"mig"})),
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
    if gpu.vendor == "nvidia":
        found |= {"time-slicing", "mps"}
    if gpu.vendor == "intel":
        found.add("level-zero")
    if gpu.virtual_functions["total"]:
        found.add("sriov")
    if "current_compute_partition" in names:
        found.add("partition")
    elif gpu.driver == "amdgpu":
        found.discard("partition")
    if _has_vgpu(host, gpu, known, names):
        found.add("vgpu")
    if "iommu_group" in names:
        found.add("passthrough")
    if known.get("virtual_function"):
        found.discard("partition")
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
    total = (_number(_optional(host, f"{base}/sriov_totalvfs")) or 0) if "sriov_totalvfs" in names else 0
    # The links are counted: to read sriov_numvfs waits, for ever perhaps, while a driver is letting the function go.
    return {"total": total, "enabled": len(links), "addresses": [address for address in found if address]}


def _nvidia_information(host, address):
    """What the NVIDIA driver's file says: ``model`` and ``uuid``, as far as it knows them."""
    for form in (address, address.upper()):
        text = _optional(host, f"/proc/driver/nvidia/gpus/{form}/information")
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
    vendor = _optional(host, f"{base}/subsystem_vendor")
    device = _optional(host, f"{base}/subsystem_device")
    return f"{_hex(vendor)}:{_hex(device)}" if vendor and device else ""


def _amd_memory(host, base, vendor):
    """Memory in MiB as amdgpu tells it, None when it does not."""
    size = _number(_optional(host, f"{base}/mem_info_vram_total")) if vendor == "amd" else None
    return size // 2**20 if size else None


def _numa_node(host, base):
    """NUMA node, None where the system has none for the device."""
    node = _number(_optional(host, f"{base}/numa_node"))
    return node if node is not None and node >= 0 else None


def _hex(text, digits=4):
    """``0x10de`` -> ``10de``."""
    return text.strip().lower().removeprefix("0x").rjust(digits, "0")


def _number(text):
    """A decimal number, None for anything else."""
    # One that can't be true is kept, so that whoever wants to use it meets it and says so.
    return numbers.whole(text, most=10**25)


def _optional(host, path):
    """Text of a file that need not be there, "" when it can't be read."""
    try:
        return printable_lines(host.read(path)).strip()
    except OSError:
        return ""


def virtualization(host, gpus=None):
    """
    What kind of machine this is: ``bare_metal``, ``virtual_host`` or ``virtual_guest``.

    A guest is a machine whose processor says so (the flag ``hypervisor`` in /proc/cpuinfo); where processors have no such flag
    (Arm) the firmware's maker and product decide, and under Xen /sys/hypervisor. A host is a machine that is no guest, has KVM
    (or is Xen's control domain), and is used for virtual machines. Loaded KVM alone does not say so, as distributions load it
    everywhere; one of these does: the driver vfio-pci is loaded, a GPU has virtual functions or is driven by gim, mediated
    devices exist, NVIDIA's vGPU manager is loaded, a manager of virtual machines runs (libvirt, Proxmox), or a virtual machine
    does. Most of these hold before a GPU is sliced, so that slicing it does not change the answer.

    :param gpus: the GPUs of the host where they are known already; None looks for them.
    """
    guest = _guest_test(host)
    return _virtualization(host, guest, _scan(host, guest, _Udev(host))[0] if gpus is None else gpus)


def _virtualization(host, guest, gpus):
    """As :func:`virtualization`, for what is known already."""
    if guest():
        return "virtual_guest"
    has_hypervisor = host.exists("/sys/module/kvm") or _is_xen_control_domain(host)
    return "virtual_host" if has_hypervisor and _serves_virtual_machines(host, gpus) else "bare_metal"


#: Files that container runtimes and their managers put into a container.
_CONTAINER_FILES = ("/run/.containerenv", "/.dockerenv", "/run/systemd/container")
#: Components of a control group's path that only containers have.
_CONTAINER_GROUP = re.compile(
    r"(?:^|/)(?:(?:docker|libpod|crio|cri-containerd|containerd)(?:-[0-9a-f]{12,64}(?:\.scope)?)?"
    r"|kubepods[^/]*|lxc(?:\.payload[^/]*)?)(?:/|$)"
)


def is_container(host):
    """
    Whether this runs in a container: a runtime left its file there, or the first process is in a container's control group.
    """
    if any(host.exists(path) for path in _CONTAINER_FILES):
        return True
    groups = (line.rpartition(":")[2] for line in _optional(host, "/proc/1/cgroup").splitlines())
    return any(_CONTAINER_GROUP.search(path) for path in groups)


def environment(host, gpus=None):
    """
    Where this runs, for strategy auto: ``container``, or what :func:`virtualization` says of the machine.

    :param gpus: the GPUs of the host where they are known already; None looks for them.
    """
    return "container" if is_container(host) else virtualization(host, gpus)


def _is_xen_control_domain(host):
    return "control_d" in _optional(host, "/proc/xen/capabilities")


def _guest_test(host):
    """
    A function that says whether this is a virtual machine. It looks when first called: the processor's file takes milliseconds on
    big servers, and most questions are answered without it.
    """
    return cache(lambda: _is_guest(host))


def _is_guest(host):
    """Whether this machine runs under a hypervisor and is not its control domain."""
    if _optional(host, "/sys/hypervisor/type") == "xen":
        return not _is_xen_control_domain(host)
    # Asked before the processor: on big servers the kernel needs milliseconds to write /proc/cpuinfo.
    maker = f"{_optional(host, '/sys/class/dmi/id/sys_vendor')} {_optional(host, '/sys/class/dmi/id/product_name')}"
    if _HYPERVISORS.search(maker):
        return True
    flags = re.search(r"^flags\s*:(.*)$", _optional(host, "/proc/cpuinfo"), re.MULTILINE)
    return "hypervisor" in flags[1].split() if flags else bool(_CLOUDS.search(maker))


def _serves_virtual_machines(host, gpus):
    """Whether there is a sign that virtual machines run here, or are to have GPUs."""
    if any(gpu.virtual_functions["enabled"] or gpu.driver in ("vfio-pci", "gim") for gpu in gpus):
        return True
    if any(host.exists(path) for path in _VM_SIGNS) or host.listdir("/sys/bus/mdev/devices"):
        return True
    running = (_number(_optional(host, f"/sys/module/{module}/refcnt")) for module in ("kvm_intel", "kvm_amd"))
    return any(running)


def iommu(host):
    """Whether the IOMMU is on: the kernel has made groups of devices."""
    return bool(host.listdir("/sys/kernel/iommu_groups"))


def reboot_required(host):
    """Whether a change of ours waits for a reboot; the list is in /run, so a reboot clears it."""
    return REBOOT_NAME in _optional(host, REBOOT_PACKAGES).split()


def interrupted(host):
    """Whether a change of ours did not end on this host."""
    if not os.path.exists(os.path.join(host.state_dir, JOURNAL)):
        return False
    from gpuslice.records import lock

    return not lock.is_held(host.state_dir)


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
    if any(addresses.is_uuid(device) for device in missing) and not all(gpu.uuid for gpu in gpus):
        todo = "UUIDs are known only of GPUs whose driver is loaded and tells them; name the GPU by its PCI address."
    return errors.DeviceNotFound(" ".join(parts), todo=todo)


def facts(host):
    """
    What the grain says of a host: plain data, stable between changes.

    :return: dict with ``count``, ``vendors``, ``models``, ``addresses``, ``capabilities`` (sorted lists without doubles),
        ``virtualization``, ``iommu``, ``reboot_required`` and ``interrupted`` (booleans), ``devices`` (list of dicts), and
        ``errors`` (list of sentences) where there are any.
    """
    guest = _guest_test(host)
    # From sysfs alone: it lists the same devices as udev, without the time that loading udev takes.
    gpus, problems = _scan(host, guest, _Udev(host))
    found = {
        "count": len(gpus),
        "vendors": sorted({gpu.vendor for gpu in gpus}),
        "models": sorted({gpu.model for gpu in gpus}),
        "addresses": [gpu.address for gpu in gpus],
        "capabilities": sorted({capability for gpu in gpus for capability in gpu.capabilities}),
        "virtualization": _virtualization(host, guest, gpus),
        "iommu": iommu(host),
        "reboot_required": reboot_required(host),
        "interrupted": interrupted(host),
        "devices": facts_of(gpus),
    }
    if problems:
        found["errors"] = problems
    return found


def facts_of(gpus):
    """GPUs as the grain's ``devices`` has them, a list of dicts."""
    return [_facts_of_one(gpu) for gpu in gpus]


def _facts_of_one(gpu):
    return {
        "address": gpu.address,
        "vendor": gpu.vendor,
        "model": gpu.model,
        "name": gpu.name,
        "device_id": gpu.device_id,
        "memory_mib": gpu.memory_mib,
        "driver": gpu.driver,
        "numa_node": gpu.numa_node,
        "capabilities": list(gpu.capabilities),
        "virtual_functions": {**gpu.virtual_functions, "addresses": list(gpu.virtual_functions.get("addresses", ()))},
    }
