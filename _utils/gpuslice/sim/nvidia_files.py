"""
The files of NVIDIA's driver on a simulated machine: its module, ``/proc/driver/nvidia``, capabilities and device nodes.
"""

from functools import cache

from gpuslice.sim import hardware


def modules(state):
    """NVIDIA's modules that are loaded."""
    if not state["host"]["driver"]["loaded"] or not state["gpus"]:
        return []
    managed = any(gpu["about"].get("vgpu") for gpu in state["gpus"].values())
    return ["nvidia", "nvidia_vgpu_vfio"] if managed else ["nvidia"]


def show(tree, state):
    """The driver's module, its files of each GPU and instance, and the device nodes."""
    driver = state["host"]["driver"]
    gpus = {a: g for a, g in state["gpus"].items() if g["about"]["driver"] == "nvidia"}
    if not driver["loaded"]:
        return
    version = driver["version"]
    tree.file("/sys/module/nvidia/version", version)
    tree.file("/sys/module/nvidia/refcnt", str(len(state["processes"])))
    tree.file("/proc/devices", "Character devices:\n195 nvidia-frontend\n235 nvidia-caps\n511 nvidia-uvm")
    tree.file("/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build")
    tree.file("/proc/driver/nvidia/params", "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileMode: 438")
    tree.file("/proc/driver/nvidia-caps/mig-minors", _mig_minors)
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap2"):
        tree.file(f"/dev/{name}", "")
    for number in state.get("made_caps", ()):
        # They stay when their instances go.
        tree.file(f"/dev/nvidia-caps/nvidia-cap{number}", "")
    _capability(tree, "mig/config", 1)
    _capability(tree, "mig/monitor", 2)
    for address, gpu in gpus.items():
        _gpu(tree, address, gpu, version)


def _gpu(tree, address, gpu, version):
    about = gpu["about"]
    minor = about["minor"]
    tree.file(f"/dev/nvidia{minor}", "")
    tree.file(
        f"/proc/driver/nvidia/gpus/{address}/information",
        f"Model: \t\t {about['name']}\nIRQ:   \t\t {64 + minor}\nGPU UUID: \t {about['uuid']}\nBus Type: \t PCIe\n"
        f"Bus Location: \t {address}\nDevice Minor: \t {minor}\nGPU Firmware: \t {version}\nGPU Excluded:\t No",
    )
    for gi_id, gi in gpu["gis"].items():
        _capability(tree, f"gpu{minor}/mig/gi{gi_id}/access", hardware.cap_minor(minor, gi_id))
        for ci_id in gi["cis"]:
            _capability(tree, f"gpu{minor}/mig/gi{gi_id}/ci{ci_id}/access", hardware.cap_minor(minor, gi_id, ci_id))


def _capability(tree, path, number):
    tree.file(f"/proc/driver/nvidia/capabilities/{path}", f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1")
    if has_node(tree.state, number):
        tree.file(f"/dev/nvidia-caps/nvidia-cap{number}", "")


def has_node(state, number):
    """Whether somebody made the node of this capability."""
    return state["host"].get("capability_nodes") != "missing" or number in state.get("made_caps", ())


@cache
def _mig_minors():
    """The driver's static table of capability numbers: 32 GPUs, 15 GIs each, 8 CIs each."""
    lines = ["config 1", "monitor 2"]
    for minor in range(32):
        for gi_id in range(15):
            lines.append(f"gpu{minor}/gi{gi_id}/access {hardware.cap_minor(minor, gi_id)}")
            lines += [f"gpu{minor}/gi{gi_id}/ci{ci_id}/access {hardware.cap_minor(minor, gi_id, ci_id)}" for ci_id in range(8)]
    return "\n".join(lines)
