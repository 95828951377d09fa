"""
The description of a simulated host: a YAML file, checked as a whole so that every mistake is told at once.

Only ``gpus`` is needed to try something; all the rest has defaults. Quote PCI addresses and hexadecimal ids: YAML reads
``0000:07:00.0`` as the number 420.

================  ==================================================================================================
key               meaning (default)
================  ==================================================================================================
name              name of the machine and of its state file: letters, digits, ``.``, ``_``, ``-`` (the file's name)
title             what the machine is, for people ("")
driver            ``{version, loaded, library, library_version, renames}`` of the NVIDIA driver: whether the module is loaded
                  (true), whether NVML is ``present`` or ``missing`` (present), NVML's version (that of the module;
                  another one is a mismatch), and what it calls profiles and vGPU types otherwise than the catalog,
                  ``{1g.23gb: 1g.24gb}`` ({}). A description that differs from that of a machine only in ``driver`` and
                  ``nvml_level`` is an update of the driver: the machine goes on with what it has
privileged        false: calls and writes that need root are refused (true)
reset             how an Ampere GPU changes its MIG mode: ``auto``: setting the mode resets an idle GPU; ``tool``: it
                  stays pending until ``nvidia-smi --gpu-reset``; ``never``: that is refused too, as in a VM (auto)
virtualization    bare_metal, virtual_host or virtual_guest (bare_metal)
iommu             whether devices have IOMMU groups (false)
nvml_level        what NVML can do: ``newest``, or a driver branch such as ``r535`` (the branch of driver.version)
tools             programs that are installed: lspci, nvidia-smi, rocm-smi, amd-smi, xpu-smi, systemctl, modprobe, sriov-manage
                  (lspci, nvidia-smi, systemctl, modprobe)
units             services of systemd that are installed and run, without using a GPU: ``[nvidia-gridd.service]``, the licence
                  daemon of a guest, which reads its files when it starts ([])
modules           further kernel modules that are loaded and how many use each: ``{nvidia_drm: 0}``; nvidia_drm stands in the
                  way of a GPU reset ({})
latency           seconds that operations take: init, set_mode, reset, create_gi, destroy_gi, create_ci, destroy_ci,
                  sriov_manage (0)
patience          by how much every limit of time is multiplied, so that nobody waits long for what hangs (1)
other_pci         other PCI devices: ``{address, class, vendor, device, subsystem_id, name, vendor_name, driver, numa_node}``
gpus              the GPUs, see below ([])
processes         who uses them, see below ([])
faults            what goes wrong, see :mod:`gpuslice.sim.faults` ([])
files             more files of the machine: ``{path: text}`` ({})
================  ==================================================================================================

A GPU:

================  ==================================================================================================
model             key of the catalog, such as ``a100-40gb``; or give vendor and device
vendor, device    PCI ids, four hexadecimal digits (those of the model's first board); vendor may be nvidia, amd, intel
address           PCI address, needed
uuid              ``GPU-...`` (made from the host's name and the address); two GPUs may say the same, as it happens
minor             number of the device node ``/dev/nvidia<minor>`` (position among the NVIDIA GPUs listed)
numa_node         (0)
subsystem_id      ``vvvv:dddd`` ("")
class, revision   PCI class ("0x030200" NVIDIA, "0x120000" AMD, "0x038000" Intel) and revision ("a1")
name              product name with its vendor (of the catalog); memory_mib, compute_capability likewise
driver            kernel driver, "" for none (nvidia, amdgpu or xe)
mig               enabled or disabled (disabled)
instances         GPU instances at the start: ``"3g.40gb@0"``, ``"1g.10gb"`` (driver chooses where), or ``{profile,
                  start, cis}`` with cis a list of ``["1c.3g.40gb", 0]``; without cis, one that fills it
reset             as above, for this GPU only
display_mode      compute or graphics: a workstation board hides MIG in graphics mode (compute)
no_timeslice      true: the driver refuses to set how long its contexts' turns are, as that of a Tesla P4 (false)
vgpu_guest        true: a vGPU in a guest, whose MIG mode only its host can change (false)
vgpu              NVIDIA's vGPU manager has it, and this is its interface: ``vfio`` (needs sriov_totalvfs) or ``mdev``, which
                  without sriov_totalvfs is in the GPU itself, as on Turing; see :mod:`gpuslice.sim.vgpu` ("": no manager)
sriov_totalvfs    virtual functions that it can have (0); vf_device: their PCI device id; vf_offset: distance of the
                  first one's address (1); vf_driver: who binds them (nvidia with vgpu, else "")
numvfs            virtual functions that it begins with, such as those that gim makes when it is loaded (0)
sriov_files       which files the PF driver has for its VFs, see :mod:`gpuslice.sim.xe` (sriov_admin with xe, else none)
partition_files   what amdgpu lists of its partition modes: ``supported`` as a newer driver, ``supported-early`` as the first of
                  these, ``available`` as an older one; see :mod:`gpuslice.sim.amdgpu` (supported)
health            ``{lost, ecc_uncorrected, row_remap_failed, row_remap_pending, page_retirement_pending, recovery_action}`` of an
                  NVIDIA GPU; rows are remapped from Ampere on, pages retired before; the action is none, gpu_reset,
                  node_reboot, drain_p2p or drain_and_reset. AMD's error counters are files, see ``sysfs``
sysfs             more files of its PCI directory: ``{file: text}``, such as ``{ras/umc_err_count: "ue: 3\nce: 0"}``; they can be
                  written too ({})
iommu_group       number of its IOMMU group, to share one with others (one of its own); devices in other_pci have it too
engines           what the Intel driver shows of its engines: ``{tiles, cslices, classes, layout, refuses}``: tiles (1 or 2),
                  compute slices of each (1: no ccs_mode file), engine classes (all), file layout xe or i915-backport (xe),
                  and whether a change of the CCS mode is refused because the driver is in PF mode (false); without the key
                  it shows nothing
================  ==================================================================================================

A process: ``{pid, command, unit, container, type, memory_mib, stubborn, nodes, shown_as, ancestor, gpu, slice, ci, uses}``.
It uses a whole ``gpu`` (an address), or one ``slice`` of it (``"3g.40gb@0"``) and there one compute instance ``ci`` (0);
several with ``uses: [{gpu, slice, ci}]``; or it holds just the device ``nodes`` listed. ``shown_as: {node: name}`` are nodes
that have other names where it runs, as they may in a container. ``type`` is compute, graphics or monitor (compute); a monitor
has no context on the GPU, so it blocks a reset (also the one that is a part of an Ampere mode change) and nothing else. A
``stubborn`` one does not end when it is asked to, nor when it is killed, as one that hangs in the driver (false). An
``ancestor`` is one of those by which this very run was started (false).
"""

import hashlib
import os
import re

from gpuslice import errors
from gpuslice.sim import faults
from gpuslice.sim.mistakes import ADDRESS
from gpuslice.sim.mistakes import NUMBER
from gpuslice.sim.mistakes import Mistakes
from gpuslice.sim.mistakes import nearest
from gpuslice.sim.mistakes import normal_address

VENDORS = {"nvidia": "10de", "amd": "1002", "intel": "8086"}
LATENCIES = ("init", "set_mode", "reset", "create_gi", "destroy_gi", "create_ci", "destroy_ci", "sriov_manage")
TOOLS = ("lspci", "nvidia-smi", "rocm-smi", "amd-smi", "xpu-smi", "systemctl", "modprobe", "sriov-manage")
VGPU = ("mdev", "vfio")
PARTITION_FILES = ("supported", "supported-early", "available")
SRIOV_FILES = ("sriov_admin", "sriov_admin-6.19", "debugfs", "debugfs-old", "prelim_iov", "iov", "none", "no-pf")
ENGINE_CLASSES = ("rcs", "bcs", "vcs", "vecs", "ccs")
RECOVERY_ACTIONS = {"none": 0, "gpu_reset": 1, "node_reboot": 2, "drain_p2p": 3, "drain_and_reset": 4}
NEWEST = 9999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNIT = re.compile(r"[A-Za-z0-9:_.@-]+\.service")
_CLASSES = {"10de": "0x030200", "1002": "0x120000", "8086": "0x038000"}
_DRIVERS = {"10de": "nvidia", "1002": "amdgpu", "8086": "xe"}
_VENDOR_WORDS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}
_PROCESS_TYPES = ("compute", "graphics", "monitor")
#: MiB of an integrated GPU of the catalog, which has no memory of its own.
_OF_THE_HOST = 128 * 1024


def made_uuid(prefix, *parts):
    """A UUID that is always the same for the same parts, so that simulations repeat themselves."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()
    return f"{prefix}{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def quick_name(text):
    """The ``name:`` of a description without parsing it, None where that takes a parser."""
    found = re.search(r"^name:[ \t]*(['\"]?)([A-Za-z0-9][A-Za-z0-9._-]*)\1[ \t]*(?:#.*)?$", text, re.MULTILINE)
    return found.group(2) if found else None


def parse(text, path):
    """
    Check a description and fill in everything that it leaves open.

    :param text: the YAML text.
    :param path: where it comes from, for messages and for the default name.
    :return: a dict of plain data with every key of the schema. Raises :class:`errors.PolicyError` with all mistakes.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        raw = yaml.load(text, Loader=loader)
    except yaml.YAMLError as err:
        raise errors.PolicyError(
            f"The host description {path} is not valid YAML: {' '.join(str(err).split())}.", todo="Correct the file."
        ) from err
    mistakes = Mistakes()
    default_name = os.path.basename(str(path)).rsplit(".", 1)[0]
    described = _host(raw, default_name, mistakes)
    if mistakes:
        raise errors.PolicyError(
            f"The host description {path} has {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}: {'; '.join(mistakes)}.",
            todo="Correct the file.",
            mistakes=mistakes,
        )
    return described


_HOST_KEYS = (
    "name", "title", "driver", "privileged", "reset", "virtualization", "iommu", "nvml_level", "tools", "latency", "patience",
    "other_pci",
    "gpus", "processes", "faults", "files", "modules", "units",
)  # fmt: skip


def _host(raw, default_name, mistakes):
    raw = mistakes.mapping(raw, "", _HOST_KEYS)
    name = mistakes.take(raw, "", "name", str, default_name)
    if not _NAME.fullmatch(name):
        mistakes.note("name", f"{name!r} must consist of letters, digits, '.', '_' and '-'")
    driver = _driver(raw.get("driver"), mistakes)
    host = {
        "name": name,
        "title": mistakes.take(raw, "", "title", str, ""),
        "driver": driver,
        "privileged": mistakes.take(raw, "", "privileged", bool, True),
        "reset": mistakes.take(raw, "", "reset", str, "auto", ("auto", "tool", "never")),
        "virtualization": mistakes.take(
            raw, "", "virtualization", str, "bare_metal", ("bare_metal", "virtual_host", "virtual_guest")
        ),
        "iommu": mistakes.take(raw, "", "iommu", bool, False),
        "nvml_level": _level(raw, driver["version"], mistakes),
        "tools": _tools(raw, mistakes),
        "latency": _latency(raw.get("latency"), mistakes),
        "patience": mistakes.take(raw, "", "patience", NUMBER, 1),
        "files": _texts(raw.get("files"), "files", mistakes),
        "modules": _modules(raw.get("modules"), mistakes),
        "units": _units(raw.get("units"), mistakes),
    }
    host["gpus"] = _gpus(raw.get("gpus"), host, mistakes)
    listed = mistakes.listing(raw.get("other_pci"), "other_pci")
    host["other_pci"] = [_other(entry, f"other_pci[{n}]", mistakes) for n, entry in enumerate(listed)]
    _unique([g["address"] for g in host["gpus"]] + [d["address"] for d in host["other_pci"]], "PCI address", mistakes)
    known = {gpu["address"] for gpu in host["gpus"]}
    listed = mistakes.listing(raw.get("processes"), "processes")
    host["processes"] = [process(entry, f"processes[{n}]", known, mistakes) for n, entry in enumerate(listed)]
    _unique([str(p["pid"]) for p in host["processes"]], "pid", mistakes)
    listed = mistakes.listing(raw.get("faults"), "faults")
    host["faults"] = [faults.parse(entry, f"faults[{n}]", known, mistakes) for n, entry in enumerate(listed)]
    return host


def _unique(values, what, mistakes):
    for value in sorted({v for v in values if v and values.count(v) > 1}):
        mistakes.note("(top)", f"{what} {value} is given twice")


def _driver(raw, mistakes):
    raw = mistakes.mapping(raw, "driver", ("version", "loaded", "library", "library_version", "renames"))
    version = mistakes.take(raw, "driver", "version", str, "580.95.05")
    return {
        "version": version,
        "loaded": mistakes.take(raw, "driver", "loaded", bool, True),
        "library": mistakes.take(raw, "driver", "library", str, "present", ("present", "missing")),
        "library_version": mistakes.take(raw, "driver", "library_version", str, version),
        "renames": _texts(raw.get("renames"), "driver.renames", mistakes, "names"),
    }


def _level(raw, version, mistakes):
    level = mistakes.take(raw, "", "nvml_level", str, "")
    if level == "newest":
        return NEWEST
    digits = re.fullmatch(r"r?(\d{3})", level) or (None if level else re.match(r"(\d{3})", version))
    if digits:
        return int(digits.group(1))
    if level:
        mistakes.note("nvml_level", f"{level!r} is neither newest nor a driver branch such as r535")
    return NEWEST


def _tools(raw, mistakes):
    if "tools" not in raw:
        return ["lspci", "nvidia-smi", "systemctl", "modprobe"]
    found = []
    for number, tool in enumerate(mistakes.listing(raw["tools"], "tools")):
        if tool not in TOOLS:
            mistakes.note(f"tools[{number}]", f"{tool!r} is none of {', '.join(TOOLS)}{nearest(tool, TOOLS)}")
        else:
            found.append(tool)
    return found


def _latency(raw, mistakes):
    raw = mistakes.mapping(raw, "latency", LATENCIES)
    found = {}
    for key in LATENCIES:
        found[key] = mistakes.take(raw, "latency", key, NUMBER, 0)
        if found[key] < 0:
            mistakes.note(f"latency.{key}", "must not be negative")
    return found


def _modules(raw, mistakes):
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(type(users) is int and users >= 0 for users in raw.values()):
        mistakes.note("modules", "must be a mapping of module names to their numbers of users")
        return {}
    return {str(name): users for name, users in raw.items()}


def _units(raw, mistakes):
    found = []
    for number, unit in enumerate(mistakes.listing(raw, "units")):
        if isinstance(unit, str) and _UNIT.fullmatch(unit):
            found.append(unit)
        else:
            mistakes.note(f"units[{number}]", f"{unit!r} is no unit such as nvidia-gridd.service")
    return found


def _texts(raw, path, mistakes, keys="files"):
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        mistakes.note(path, f"must be a mapping of {keys} to texts")
        return {}
    return {str(key): str(value) for key, value in raw.items()}


def _address(raw, path, mistakes):
    value = raw.get("address")
    if not isinstance(value, str):
        hint = "is missing" if value is None else f"{value!r} is no PCI address: YAML read it as a number, write it in quotes"
        mistakes.note(f"{path}.address", hint)
        return ""
    if not ADDRESS.fullmatch(value.strip().lower()):
        mistakes.note(f"{path}.address", f'{value!r} is no PCI address such as "0000:07:00.0"')
    return normal_address(value)


def _hex(raw, path, key, default, mistakes, digits=4):
    value = mistakes.take(raw, path, key, str, default)
    text = value.lower().removeprefix("0x")
    if value and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", text):
        mistakes.note(f"{path}.{key}", f"{value!r} is not {digits} hexadecimal digits")
    return text


def _subsystem(raw, path, mistakes):
    value = mistakes.take(raw, path, "subsystem_id", str, "").lower()
    if value and not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}", value):
        mistakes.note(f"{path}.subsystem_id", f"{value!r} is not of the form vvvv:dddd")
    return value


_OTHER_KEYS = (
    "address", "class", "vendor", "device", "subsystem_id", "name", "vendor_name", "driver", "numa_node", "revision",
    "iommu_group",
)  # fmt: skip


def _other(raw, path, mistakes):
    raw = mistakes.mapping(raw, path, _OTHER_KEYS)
    return {
        "address": _address(raw, path, mistakes),
        "class": "0x" + _hex(raw, path, "class", "0x020000", mistakes, 6),
        "vendor": _hex(raw, path, "vendor", "8086", mistakes),
        "device": _hex(raw, path, "device", "0000", mistakes),
        "subsystem_id": _subsystem(raw, path, mistakes),
        "name": mistakes.take(raw, path, "name", str, ""),
        "vendor_name": mistakes.take(raw, path, "vendor_name", str, ""),
        "driver": mistakes.take(raw, path, "driver", str, ""),
        "numa_node": mistakes.take(raw, path, "numa_node", int, 0),
        "revision": _hex(raw, path, "revision", "00", mistakes, 2),
        "iommu_group": mistakes.take(raw, path, "iommu_group", int, None),
    }


_GPU_KEYS = (
    "model", "vendor", "device", "address", "uuid", "minor", "numa_node", "subsystem_id", "class", "revision", "name",
    "memory_mib", "compute_capability", "driver", "mig", "instances", "reset", "display_mode", "no_timeslice", "vgpu_guest",
    "sriov_totalvfs",
    "vf_device", "vf_offset", "vf_driver", "health", "sysfs", "numvfs", "sriov_files", "iommu_group", "engines", "vgpu",
    "partition_files",
)  # fmt: skip


def _gpus(raw, host, mistakes):
    found = []
    minor = 0
    for number, entry in enumerate(mistakes.listing(raw, "gpus")):
        gpu = _gpu(entry, f"gpus[{number}]", host, minor, mistakes)
        minor += gpu["vendor"] == "10de"
        found.append(gpu)
    return sorted(found, key=lambda g: g["address"])


def _gpu(raw, path, host, minor, mistakes):
    raw = mistakes.mapping(raw, path, _GPU_KEYS)
    address = _address(raw, path, mistakes)
    about = _board(raw, path, mistakes)
    about["address"] = address
    vendor = about["vendor"]
    about["uuid"] = mistakes.take(raw, path, "uuid", str, made_uuid("GPU-", host["name"], address))
    about["minor"] = mistakes.take(raw, path, "minor", int, minor)
    about["numa_node"] = mistakes.take(raw, path, "numa_node", int, 0)
    about["class"] = "0x" + _hex(raw, path, "class", _CLASSES.get(vendor, "0x030000"), mistakes, 6)
    about["revision"] = _hex(raw, path, "revision", "a1", mistakes, 2)
    about["driver"] = mistakes.take(raw, path, "driver", str, _DRIVERS.get(vendor, ""))
    about["mig"] = mistakes.take(raw, path, "mig", str, "disabled", ("enabled", "disabled")) == "enabled"
    about["reset"] = mistakes.take(raw, path, "reset", str, host["reset"], ("auto", "tool", "never"))
    about["display_mode"] = mistakes.take(raw, path, "display_mode", str, "compute", ("compute", "graphics"))
    about["no_timeslice"] = mistakes.take(raw, path, "no_timeslice", bool, False)
    about["vgpu_guest"] = mistakes.take(raw, path, "vgpu_guest", bool, False)
    about["sriov_totalvfs"] = mistakes.take(raw, path, "sriov_totalvfs", int, 0)
    about["vf_device"] = _hex(raw, path, "vf_device", about["device"], mistakes)
    about["vf_offset"] = mistakes.take(raw, path, "vf_offset", int, 1)
    about["numvfs"] = mistakes.take(raw, path, "numvfs", int, 0)
    if not 0 <= about["numvfs"] <= about["sriov_totalvfs"]:
        mistakes.note(f"{path}.numvfs", f"{about['numvfs']} is not 0 to sriov_totalvfs, {about['sriov_totalvfs']}")
    about["sriov_files"] = mistakes.take(raw, path, "sriov_files", str, "", SRIOV_FILES)
    about["partition_files"] = mistakes.take(raw, path, "partition_files", str, "supported", PARTITION_FILES)
    about["vgpu"] = _vgpu(raw, path, about, mistakes)
    about["vf_driver"] = mistakes.take(raw, path, "vf_driver", str, "nvidia" if about["vgpu"] else "")
    about["health"] = _health(raw.get("health"), f"{path}.health", mistakes)
    about["sysfs"] = _texts(raw.get("sysfs"), f"{path}.sysfs", mistakes)
    about["instances"] = _instances(raw, path, about, mistakes)
    about["iommu_group"] = mistakes.take(raw, path, "iommu_group", int, None)
    about["engines"] = _engines(raw.get("engines"), f"{path}.engines", mistakes) if "engines" in raw else None
    return about


def _vgpu(raw, path, about, mistakes):
    """Interface of the vGPU manager, "" where there is none."""
    interface = mistakes.take(raw, path, "vgpu", str, "", VGPU)
    if not interface:
        return ""
    from gpuslice.sim import vgpu_types

    if not vgpu_types.types_of(about["model"], about["device"]):
        mistakes.note(f"{path}.vgpu", f"no vGPU types of {about['name']} are known")
    if interface == "vfio" and not about["sriov_totalvfs"]:
        mistakes.note(f"{path}.vgpu", "vfio needs sriov_totalvfs")
    return interface


def _engines(raw, path, mistakes):
    """Tiles, compute slices and engine classes of a GPU whose driver shows them."""
    raw = mistakes.mapping(raw, path, ("tiles", "cslices", "classes", "layout", "refuses"))
    classes = [str(name) for name in mistakes.listing(raw.get("classes"), f"{path}.classes")] or list(ENGINE_CLASSES)
    for name in classes:
        if name not in ENGINE_CLASSES:
            mistakes.note(f"{path}.classes", f"{name!r} is none of {', '.join(ENGINE_CLASSES)}")
    return {
        "tiles": mistakes.take(raw, path, "tiles", int, 1, (1, 2)),
        "cslices": mistakes.take(raw, path, "cslices", int, 1, tuple(range(1, 17))),
        "classes": classes,
        "layout": mistakes.take(raw, path, "layout", str, "xe", ("xe", "i915-backport")),
        "refuses": mistakes.take(raw, path, "refuses", bool, False),
    }


def _board(raw, path, mistakes):
    """What kind of board it is: from the catalog's key, or from its PCI ids."""
    from gpuslice.catalog import nvidia

    key = mistakes.take(raw, path, "model", str, "")
    if key and key not in nvidia.MODELS:
        mistakes.note(f"{path}.model", f"{key!r} is not in the catalog{nearest(key, nvidia.MODELS)}")
        key = ""
    if not key and not raw.get("device"):
        mistakes.note(path, "needs a model of the catalog, or vendor and device")
    vendor_word = mistakes.take(raw, path, "vendor", str, "10de" if key else "")
    if not vendor_word and not key:
        mistakes.note(f"{path}.vendor", "is missing")
    vendor = _hex({"vendor": VENDORS.get(vendor_word.lower(), vendor_word)}, path, "vendor", "", mistakes)
    first = next(iter(nvidia.MODELS[key]["device_ids"])) if key else ""
    device = _hex(raw, path, "device", first, mistakes)
    subsystem = _subsystem(raw, path, mistakes)
    if not key and vendor == nvidia.VENDOR_ID:
        key = _key_of(nvidia.MODELS, device, subsystem)
    model = nvidia.MODELS.get(key, {})
    if model and device not in model["device_ids"]:
        mistakes.note(f"{path}.device", f"{device!r} is no board of {key}: {', '.join(model['device_ids'])}")
    product = nvidia.product(key, device, subsystem) if device in model.get("device_ids", {}) else ""
    known = {} if model else _looked_up(vendor, device, subsystem)
    default_name = f"NVIDIA {product}" if product else known.get("name") or f"{_VENDOR_WORDS.get(vendor, vendor)} {device}"
    memory = model.get("total_mib") or (model.get("memory_gb") or 0) * 1024 or known.get("memory_mib") or 0
    if model and not memory:
        memory = _OF_THE_HOST
    return {
        "model": key,
        "vendor": vendor,
        "device": device,
        "subsystem_id": subsystem,
        "name": mistakes.take(raw, path, "name", str, default_name),
        "memory_mib": mistakes.take(raw, path, "memory_mib", int, memory),
        "compute_capability": mistakes.take(raw, path, "compute_capability", str, model.get("compute_capability") or "0.0"),
        "architecture": model.get("architecture", ""),
        "resetless": model.get("mode_change") == "nothing",
    }


def _key_of(models, device, subsystem):
    """Key of the NVIDIA board with these ids, "" when the catalog does not know it."""
    keys = [key for key, model in models.items() if device in model["device_ids"]]
    exact = [key for key in keys if subsystem.partition(":")[2] in models[key].get("subsystem_ids", ())]
    return (exact or [key for key in keys if not models[key].get("subsystem_ids")] or keys or [""])[0]


def _looked_up(vendor, device, subsystem):
    """What the catalog of all vendors says about a board, {} when it does not know it."""
    from gpuslice import catalog

    return catalog.lookup(vendor, device, subsystem) or {}


def _health(raw, path, mistakes):
    flags = ("row_remap_failed", "row_remap_pending", "page_retirement_pending")
    raw = mistakes.mapping(raw, path, ("lost", "ecc_uncorrected", *flags, "recovery_action"))
    return {
        "lost": mistakes.take(raw, path, "lost", bool, False),
        "ecc_uncorrected": mistakes.take(raw, path, "ecc_uncorrected", int, 0),
        **{flag: mistakes.take(raw, path, flag, bool, False) for flag in flags},
        "recovery_action": mistakes.take(raw, path, "recovery_action", str, "none", tuple(RECOVERY_ACTIONS)),
    }


def _instances(raw, path, about, mistakes):
    listed = mistakes.listing(raw.get("instances"), f"{path}.instances")
    if listed and not about["mig"]:
        mistakes.note(f"{path}.instances", "GPU instances need mig: enabled")
    return [_instance(entry, f"{path}.instances[{n}]", mistakes) for n, entry in enumerate(listed)]


def _instance(raw, path, mistakes):
    if isinstance(raw, str):
        profile, start = split_slice(raw)
        return {"profile": profile, "start": start, "cis": None}
    raw = mistakes.mapping(raw, path, ("profile", "start", "cis"))
    cis = None
    if raw.get("cis") is not None:
        cis = []
        for number, entry in enumerate(mistakes.listing(raw["cis"], f"{path}.cis")):
            if isinstance(entry, str):
                entry = [entry, None]
            good = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
            if not good or not isinstance(entry[1], int | None):
                mistakes.note(f"{path}.cis[{number}]", f"{entry!r} is not of the form [profile, start]")
                continue
            cis.append(entry)
    profile = mistakes.take(raw, path, "profile", str, "")
    if not profile:
        mistakes.note(f"{path}.profile", "is missing")
    return {"profile": profile, "start": mistakes.take(raw, path, "start", int, None), "cis": cis}


def split_slice(text):
    """``"3g.40gb@4"`` as ("3g.40gb", 4); the start is None where none is given."""
    profile, _, start = text.strip().partition("@")
    return profile, int(start) if start.isdigit() else None


_PROCESS_KEYS = (
    "pid", "command", "unit", "container", "type", "memory_mib", "stubborn", "nodes", "gpu", "slice", "ci", "uses",
    "shown_as", "ancestor",
)  # fmt: skip


def process(raw, path, known, mistakes):
    """
    Check one process of a description.

    :param known: the PCI addresses of the host's GPUs.
    :return: the process as a dict with every key; mistakes go to ``mistakes``.
    """
    raw = mistakes.mapping(raw, path, _PROCESS_KEYS)
    uses = [
        mistakes.mapping(entry, f"{path}.uses[{n}]", ("gpu", "slice", "ci"))
        for n, entry in enumerate(mistakes.listing(raw.get("uses"), f"{path}.uses"))
    ]
    if raw.get("gpu") is not None:
        uses.append({key: raw.get(key) for key in ("gpu", "slice", "ci")})
    found = []
    for use in uses:
        address = normal_address(use.get("gpu"))
        if address not in known:
            mistakes.note(f"{path}.gpu", f"{use.get('gpu')!r} is no GPU of this host")
        part = mistakes.take(use, path, "slice", str, "")
        found.append({"gpu": address, "slice": part, "ci": mistakes.take(use, path, "ci", int, 0)})
    shown = raw.get("shown_as") or {}
    if not isinstance(shown, dict):
        mistakes.note(f"{path}.shown_as", "must be a mapping")
        shown = {}
    pid = mistakes.take(raw, path, "pid", int, 0)
    if pid <= 0:
        mistakes.note(f"{path}.pid", "is missing")
    return {
        "pid": pid,
        "command": mistakes.take(raw, path, "command", str, "python3"),
        "unit": mistakes.take(raw, path, "unit", str, ""),
        "container": mistakes.take(raw, path, "container", str, ""),
        "type": mistakes.take(raw, path, "type", str, "compute", _PROCESS_TYPES),
        "memory_mib": mistakes.take(raw, path, "memory_mib", int, 512),
        "stubborn": mistakes.take(raw, path, "stubborn", bool, False),
        "nodes": [str(node) for node in mistakes.listing(raw.get("nodes"), f"{path}.nodes")],
        "uses": found,
        "ancestor": mistakes.take(raw, path, "ancestor", bool, False),
        "shown_as": {str(node): str(name) for node, name in shown.items()},
    }
