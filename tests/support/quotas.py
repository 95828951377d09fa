"""
Simulated hosts whose consumers have limits of GPU memory, one for each means: NVML, and dmem for xe and amdgpu.
"""

from typing import NamedTuple

from gpuslice.sim import cgroups

TRAINER, OTHER = "trainer.service", "infer.service"
SLICE, OTHERS_SLICE = "gpuslicing-trainer.slice", "gpuslicing-infer.slice"
SETTER = "/etc/systemd/system/gpuslicing-trainer.service"
DROP_IN = f"/etc/systemd/system/{TRAINER}.d/51-gpu-slicing-memory.conf"
ROOT = "/sys/fs/cgroup"
UNIFIED = {f"{ROOT}/cgroup.controllers": "cpu memory"}
MIB = 2**20
TOOLS = ["lspci", "nvidia-smi", "rocm-smi", "xpu-smi", "systemctl", "modprobe"]


class Machine(NamedTuple):
    """An example, what is laid over it, and of its first GPU: address, regions, MiB, by what its memory is limited."""

    example: str
    gpu: str
    changes: dict
    regions: tuple
    memory: int
    means: str


def _groups(*regions):
    capacity = "".join(f"{region} {size}\n" for region, size in regions)
    files = {f"{ROOT}/cgroup.controllers": "cpu memory", f"{ROOT}/cgroup.subtree_control": "cpu memory"}
    return {**files, **({f"{ROOT}/dmem.capacity": capacity} if regions else {})}


def of(gpu, example, memory, means, regions=(), **changes):
    files = _groups(*((region, memory * MIB // len(regions)) for region in regions))
    more = {"/etc/passwd": "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n"}
    plain = {"tools": TOOLS, "units": [TRAINER, OTHER], "files": {**files, **more}}
    return Machine(example, gpu, {**plain, **changes}, regions, memory, means)


_R615 = {"version": "615.10.02"}
NVIDIA = of("0000:41:00.0", "l40s-pair", 48935, "NVML's memory limits", driver=_R615)
INTEL = of("0000:03:00.0", "arc-pro-b60", 24480, "the cgroup controller dmem", ("drm/0000:03:00.0/vram0",))
AMD = of("0000:05:00.0", "mi300x-8", 196592, "the cgroup controller dmem", ("drm/0000:05:00.0/vram",))
ALL = {"nvidia": NVIDIA, "intel": INTEL, "amd": AMD}


#: Two consumers of one GPU.
SHARED = {"enabled": True, "strategy": "time-slicing", "time_slicing": {"max_instance_count": 2}}


def limited(machine, mebibytes=8192, other=None, unit=TRAINER, **more):
    """A pillar: a service that is limited on the first GPU, and a second one there where ``other`` says how much."""
    gpu = machine.gpu
    named = {"kind": "service", "unit": unit, "slice": {"gpu": gpu}, "resource_limits": {"vram_mib": mebibytes, **more}}
    consumers = {"trainer": named}
    if other is not None:
        consumers["infer"] = {"kind": "service", "unit": OTHER, "slice": {"gpu": gpu}, "resource_limits": {"vram_mib": other}}
    return handing(consumers, None if other is None else SHARED)


def handing(consumers, slicing=None):
    """A pillar with these consumers."""
    return {
        "containers_gpu_slicing": slicing or {"enabled": True, "strategy": "none"},
        "containers_gpu_container_integration": {"consumers": consumers},
    }


def limit_now(host, machine, unit=SLICE):
    """What is in force: MiB, None for no limit or no such slice."""
    group = cgroups.path_of(unit)
    if machine.means.startswith("NVML"):
        try:
            hard = cgroups.limits(host.state(), group, machine.gpu)[1]
        except Exception:
            return None
        return None if hard == cgroups.NO_LIMIT else hard // MIB
    if not host.exists(f"{group}/dmem.max"):
        return None
    rows = dict(line.split() for line in host.read(f"{group}/dmem.max").splitlines())
    sizes = [rows[region] for region in machine.regions]
    return None if "max" in sizes else sum(map(int, sizes)) // MIB
