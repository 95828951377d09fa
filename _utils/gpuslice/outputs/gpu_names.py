"""
What names a GPU in files of others: device nodes, classes of devices, CDI names.
"""

import fnmatch
import re

#: Nodes of GPUs, and of what is passed through.
_NODE = re.compile(r"/dev/(nvidia|dri(/|$)|kfd$|vfio(/|$)|accel(/|$))")
#: Names of their drivers in /proc/devices, which DeviceAllow=char-NAME opens with all their nodes; patterns are allowed there.
_CLASSES = (
    "drm", "accel", "kfd", "nvidia", "nvidia-frontend", "nvidiactl", "nvidia-caps", "nvidia-uvm", "nvidia-modeset", "vfio",
)  # fmt: skip
#: CDI names of the vendors and of ours.
_CDI = re.compile(r"(^|[\s=,])((\w+\.)*(nvidia|amd|intel)\.com/|gpu-slicing/)")
#: A node of a GPU, or all of /dev, anywhere in a value, such as in the source of a volume.
_PATH = re.compile(r"(^|[\s=,:\"'-])/dev/*([\s,:\"']|$|/+(nvidia|dri\b|kfd\b|vfio\b|accel\b))")
#: Arguments of Podman that open devices whatever the rest says.
_ARGUMENT = re.compile(r"(^|\s)--(privileged|gpus|device-cgroup-rule|volumes-from)\b")


def is_gpu_device(spec: str) -> bool:
    """Whether the first word of a ``DeviceAllow=`` opens a GPU: a node, or a class of devices."""
    kind, _, pattern = spec.partition("-")
    if kind == "char":
        return any(fnmatch.fnmatchcase(name, pattern) for name in _CLASSES)
    return bool(_NODE.match(spec))


def opens_gpu(value: str) -> bool:
    """Whether a value of a Quadlet unit gives a container a GPU: a node, a CDI name, an argument of Podman."""
    return bool(_CDI.search(value) or _PATH.search(value) or _ARGUMENT.search(value))
