"""
The devices in the description of a simulated host: GPUs and other PCI devices, checked, with what is left open filled in.

What their keys mean stands in :mod:`gpuslice.sim.description`.
"""

import hashlib
import re

from gpuslice.sim.mistakes import ADDRESS
from gpuslice.sim.mistakes import NUMBER
from gpuslice.sim.mistakes import nearest
from gpuslice.sim.mistakes import normal_address

VENDORS = {"nvidia": "10de", "amd": "1002", "intel": "8086"}
VGPU = ("mdev", "vfio")
PARTITION_FILES = ("supported", "supported-early", "available")
SRIOV_FILES = ("sriov_admin", "sriov_admin-6.19", "debugfs", "debugfs-old", "prelim_iov", "iov", "none", "no-pf")
METRICS = ("1.3", "1.4", "1.5", "1.6", "1.7")
ENGINE_CLASSES = ("rcs", "bcs", "vcs", "vecs", "ccs")
FABRICS = ("none", "not_started", "in_progress", "completed", "failed", "unhealthy", "limited")
RECOVERY_ACTIONS = {
    "none": 0, "gpu_reset": 1, "node_reboot": 2, "drain_p2p": 3, "drain_and_reset": 4, "recover_imex": 5, "bus_reset": 6,
    "system_reboot": 7, "unheard_of": 9,
}  # fmt: skip

_CLASSES = {"10de": "0x030200", "1002": "0x120000", "8086": "0x038000"}
_DRIVERS = {"10de": "nvidia", "1002": "amdgpu", "8086": "xe"}
_VENDOR_WORDS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}
#: MiB of an integrated GPU of the catalog, which has no memory of its own.
_OF_THE_HOST = 128 * 1024


def made_uuid(prefix, *parts):
    """A UUID that is always the same for the same parts, so that simulations repeat themselves."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()
    return f"{prefix}{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def texts(raw, path, mistakes, keys="files"):
    """A mapping of ``keys`` to texts."""
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


def other(raw, path, mistakes):
    """Check one of the other PCI devices. Returns it with every key."""
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
    "partition_files", "power", "draw", "load",
)  # fmt: skip


def gpus(raw, host, mistakes):
    """Check the GPUs of a ``host``, whose other keys are there already. Returns them with every key, by PCI address."""
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
    about["health"] = health(raw.get("health"), f"{path}.health", mistakes)
    about["sysfs"] = texts(raw.get("sysfs"), f"{path}.sysfs", mistakes)
    about["instances"] = _instances(raw, path, about, mistakes)
    about["iommu_group"] = mistakes.take(raw, path, "iommu_group", int, None)
    about["engines"] = _engines(raw.get("engines"), f"{path}.engines", mistakes) if "engines" in raw else None
    # Only where it is written: what tells one machine from another stays as it was before there was this key.
    if "power" in raw:
        about["power"] = _power(raw["power"], f"{path}.power", mistakes)
    if "draw" in raw:
        about["draw"] = _draw(raw["draw"], f"{path}.draw", mistakes)
    if "load" in raw:
        about["load"] = load(raw["load"], f"{path}.load", mistakes)
    return about


def _draw(raw, path, mistakes):
    """What the board draws, in watts, and how that is told."""
    raw = mistakes.mapping(raw, path, ("idle", "active", "celsius", "metrics"))
    idle = mistakes.take(raw, path, "idle", int, 0)
    found = {"idle": idle, "active": mistakes.take(raw, path, "active", int, idle)}
    found["celsius"] = mistakes.take(raw, path, "celsius", int, None)
    found["metrics"] = mistakes.take(raw, path, "metrics", str, "1.4", METRICS)
    if not 0 <= found["idle"] <= found["active"]:
        mistakes.note(path, "is no draw in watts: idle is at least 0, active at least idle")
    return found


def load(raw, path, mistakes):
    """Name of a slice -> how busy it is, 0 to 1."""
    if not isinstance(raw, dict):
        mistakes.note(path, "must be a mapping of slices to how busy they are")
        return {}
    for name, busy in raw.items():
        if isinstance(busy, bool) or not isinstance(busy, NUMBER) or not 0 <= busy <= 1:
            mistakes.note(f"{path}.{name}", f"{busy!r} is no number of 0 to 1")
    return {str(name): busy for name, busy in raw.items()}


def _power(raw, path, mistakes):
    """What the board may draw, in watts."""
    raw = mistakes.mapping(raw, path, ("default", "least", "most"))
    default = mistakes.take(raw, path, "default", int, 0)
    found = {"default": default, "least": mistakes.take(raw, path, "least", int, 0)}
    found["most"] = mistakes.take(raw, path, "most", int, default)
    if not found["least"] <= default <= found["most"] or default < 1:
        mistakes.note(path, "is no limit in watts between least and most")
    return found


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


def health(raw, path, mistakes):
    """What is wrong with an NVIDIA GPU; :param raw: as in the description. Returns it with every key."""
    flags = ("row_remap_failed", "row_remap_pending", "page_retirement_pending")
    raw = mistakes.mapping(raw, path, ("lost", "ecc_uncorrected", *flags, "recovery_action", "fabric"))
    return {
        "lost": mistakes.take(raw, path, "lost", bool, False),
        "ecc_uncorrected": mistakes.take(raw, path, "ecc_uncorrected", int, 0),
        **{flag: mistakes.take(raw, path, flag, bool, False) for flag in flags},
        "recovery_action": mistakes.take(raw, path, "recovery_action", str, "none", tuple(RECOVERY_ACTIONS)),
        # Only where it is written: what tells one machine from another stays as it was before there was this key.
        **({"fabric": mistakes.take(raw, path, "fabric", str, "none", FABRICS)} if "fabric" in raw else {}),
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
