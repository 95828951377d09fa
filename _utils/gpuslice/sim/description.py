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
tools             programs that are installed: lspci, nvidia-smi, nvidia-cuda-mps-control, rocm-smi, amd-smi, xpu-smi, systemctl,
                  modprobe, sriov-manage, nvidia-ctk, nvidia-modprobe, podman, apparmor_parser, scontrol, nomad (lspci,
                  nvidia-smi, nvidia-cuda-mps-control, systemctl, modprobe); systemd-run is where systemctl is, and runuser
                  everywhere
podman            version of Podman ("5.4.2")
images            container images that are there: ``{reference: {variable: value}}``, with their environment ({})
owners            who has files and nodes, and their permissions: ``{/dev/dri/renderD128: "0:993:0660"}`` (root's; nodes of NVIDIA
                  0666, its capabilities 0444, those of DRM 0660 of the groups 44 and 993, /dev/kfd 0660 of 993)
toolkit           version of NVIDIA's container toolkit, to which nvidia-ctk belongs, see :mod:`gpuslice.sim.toolkit` (1.20.0)
units             services of systemd that are installed, enabled and run, without using a GPU: ``[nvidia-gridd.service]``, the
                  licence daemon of a guest, which reads its files when it starts, or ``nvidia-cdi-refresh.service``, which
                  writes the vendor's CDI file when it starts ([])
capability_nodes  missing: nobody makes the nodes in /dev/nvidia-caps of MIG instances before nvidia-modprobe is asked (made)
modules           further kernel modules that are loaded and how many use each: ``{nvidia_drm: 0}``; nvidia_drm stands in the
                  way of a GPU reset ({})
programs          programs of the site, by path: ``{/usr/bin/drain: {exit: 0, says: ""}}``; each does nothing but say that and
                  end so. What ran is in the state, as ``ran`` ({})
latency           seconds that operations take: init, set_mode, reset, create_gi, destroy_gi, create_ci, destroy_ci,
                  sriov_manage (0)
slurm             the machine's node in Slurm, which scontrol (see ``tools``) asks: ``{node, gres, state, reason, busy,
                  controller}``: its name (the machine's), its Gres of slurm.conf (""), its state as scontrol tells it (IDLE),
                  why it is drained (""), after how many looks its jobs have ended once it is drained (0), and whether the
                  controller is ``up``, ``away`` or ``refuses`` (up). A machine without this key has one that is away. It is
                  in the state as ``slurm``, with all that was ``asked``
nomad             the machine's node in Nomad, which nomad (see ``tools``) asks: ``{node, eligible, busy, agent, period,
                  status}``: its name (the machine's), whether it is given jobs (true), after how many looks its jobs have ended
                  once it is drained (0), whether the agent is ``up``, ``away``, ``refuses`` changes, is a ``server`` only, or
                  tells what is ``garbled`` (up), after how many looks its device plugin looks again (0), and its status (ready).
                  What the plugin is to ignore it reads from ``/etc/nomad.d/*.hcl`` when nomad.service (see ``units``) starts. It
                  is in the state as ``nomad``, with all that was ``asked``
kubernetes        the machine's node in Kubernetes, of which kubectl (see ``tools``) asks an API server: ``{node, server,
                  contexts, user, forbidden, labels, managers, cordoned, pods, allocatable, offers}``: its name (the machine's);
                  whether the server is ``up``, ``away`` or takes us for a ``stranger`` (up); contexts of the kubeconfig beside
                  its own ([]); who asks (gpu7) and what that user may not do (``[patch nodes]``); labels and who set each
                  (kubelet); who has cordoned it (""); ``pods: [{name, namespace, labels, owner, emptydir, budget, crashes}]``, of
                  which ``owner`` is ReplicaSet, DaemonSet or none, ``budget`` keeps it from being evicted, and ``crashes`` is for
                  one that is not ready once it was made anew; what the node has for pods; and what it has once the pod of a
                  DaemonSet was made anew (the same). A machine without this key has a server that is away. It is in the state as
                  ``kubernetes``, with all that was ``asked``. The kubeconfig is one of its ``files``
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
health            ``{lost, ecc_uncorrected, row_remap_failed, row_remap_pending, page_retirement_pending, recovery_action,
                  fabric}`` of an NVIDIA GPU; fabric is none, not_started, in_progress, completed, failed, unhealthy or limited;
                  rows are remapped from Ampere on, pages retired before; the action is none, gpu_reset,
                  node_reboot, drain_p2p, drain_and_reset, recover_imex, bus_reset, system_reboot or unheard_of.
                  AMD's error counters are files, see ``sysfs``
sysfs             more files of its PCI directory: ``{file: text}``, such as ``{ras/umc_err_count: "ue: 3\nce: 0"}``; they can be
                  written too ({})
iommu_group       number of its IOMMU group, to share one with others (one of its own); devices in other_pci have it too
power             what the board may draw, in watts: ``{default, least, most}`` (least 0, most as default); without the key
                  neither NVML nor a driver tells a limit
draw              what the board draws, ``{idle, active, celsius, metrics}``: in watts while nothing is busy (0) and while all
                  is (as idle); its temperature (30, and 45 more while all is busy); version of amdgpu's ``gpu_metrics``, 1.3 to
                  1.7 (1.4). Without the key neither NVML nor a driver tells power, energy and temperature
load              how busy each slice is, 0 to 1: ``{whole: 0.5}``, ``{"3g.20gb@0": 0.9}``, virtual functions by PCI address,
                  partitions by number; what is not there is not busy. See :mod:`gpuslice.sim.telemetry` ({})
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

import os
import re

from gpuslice import errors
from gpuslice.sim import devices
from gpuslice.sim import faults
from gpuslice.sim import kubectl
from gpuslice.sim import nomad
from gpuslice.sim import slurm
from gpuslice.sim.mistakes import NUMBER
from gpuslice.sim.mistakes import Mistakes
from gpuslice.sim.mistakes import nearest
from gpuslice.sim.mistakes import normal_address

LATENCIES = ("init", "set_mode", "reset", "create_gi", "destroy_gi", "create_ci", "destroy_ci", "sriov_manage")
TOOLS = (
    "lspci", "nvidia-smi", "nvidia-cuda-mps-control", "rocm-smi", "amd-smi", "xpu-smi", "systemctl", "modprobe", "sriov-manage",
    "nvidia-ctk", "nvidia-modprobe", "podman", "apparmor_parser", "scontrol", "nomad", "kubectl",
)  # fmt: skip
NEWEST = 9999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNIT = re.compile(r"[A-Za-z0-9:_.@-]+\.service")
_PROCESS_TYPES = ("compute", "graphics", "monitor")


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
    "gpus", "processes", "faults", "files", "modules", "units", "toolkit", "capability_nodes", "podman", "images", "owners",
    "programs", "slurm", "nomad", "kubernetes",
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
        "files": devices.texts(raw.get("files"), "files", mistakes),
        "modules": _modules(raw.get("modules"), mistakes),
        "units": _units(raw.get("units"), mistakes),
    }
    # Only where they are written: what tells one machine from another stays as it was before there were these keys.
    if "podman" in raw:
        host["podman"] = mistakes.take(raw, "", "podman", str, "")
    if "images" in raw:
        host["images"] = _images(raw["images"], mistakes)
    if "owners" in raw:
        host["owners"] = _owners(raw["owners"], mistakes)
    if "programs" in raw:
        host["programs"] = _programs(raw["programs"], mistakes)
    if "slurm" in raw:
        host["slurm"] = slurm.parse(raw["slurm"], mistakes)
    if "nomad" in raw:
        host["nomad"] = nomad.parse(raw["nomad"], mistakes)
    if "kubernetes" in raw:
        host["kubernetes"] = kubectl.parse(raw["kubernetes"], mistakes)
    if "toolkit" in raw:
        host["toolkit"] = _toolkit(raw, mistakes)
    if "capability_nodes" in raw:
        host["capability_nodes"] = mistakes.take(raw, "", "capability_nodes", str, "made", ("made", "missing"))
    host["gpus"] = devices.gpus(raw.get("gpus"), host, mistakes)
    listed = mistakes.listing(raw.get("other_pci"), "other_pci")
    host["other_pci"] = [devices.other(entry, f"other_pci[{n}]", mistakes) for n, entry in enumerate(listed)]
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
        "renames": devices.texts(raw.get("renames"), "driver.renames", mistakes, "names"),
    }


def _images(raw, mistakes):
    listed = mistakes.mapping(raw, "images", raw if isinstance(raw, dict) else ())
    return {str(name): devices.texts(each, f"images.{name}", mistakes, "variables") for name, each in listed.items()}


def _owners(raw, mistakes):
    found = devices.texts(raw, "owners", mistakes)
    for path, each in found.items():
        if not re.fullmatch(r"\d+:\d+:[0-7]{3,4}", each):
            mistakes.note(f"owners.{path}", f"{each!r} is not of the form uid:gid:mode, such as 0:44:0660")
    return found


def _programs(raw, mistakes):
    listed = mistakes.mapping(raw, "programs", raw if isinstance(raw, dict) else ())
    found = {}
    for path, each in listed.items():
        where = f"programs.{path}"
        told = mistakes.mapping(each, where, ("exit", "says"))
        ends, says = mistakes.take(told, where, "exit", int, 0), mistakes.take(told, where, "says", str, "")
        found[str(path)] = {"exit": ends, "says": says}
    return found


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
        return ["lspci", "nvidia-smi", "nvidia-cuda-mps-control", "systemctl", "modprobe"]
    found = []
    for number, tool in enumerate(mistakes.listing(raw["tools"], "tools")):
        if tool not in TOOLS:
            mistakes.note(f"tools[{number}]", f"{tool!r} is none of {', '.join(TOOLS)}{nearest(tool, TOOLS)}")
        else:
            found.append(tool)
    return found


def _toolkit(raw, mistakes):
    version = mistakes.take(raw, "", "toolkit", str, "")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        mistakes.note("toolkit", f"{version!r} is no version such as 1.20.0")
    return version


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
