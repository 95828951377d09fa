"""
Who else sets on a node what this engine sets: other tools that slice GPUs, a row each, and what units and scripts of others do.

How each of them is seen was read in its own sources and manifests: NVIDIA/mig-parted (``deployments/systemd``, ``container``),
NVIDIA/gpu-operator (its manifests), kubernetes-sigs/dra-driver-nvidia-gpu (``cmd/gpu-kubelet-plugin``, its chart),
Project-HAMi/HAMi (its chart), harvester/pcidevices (``manifests``), ROCm/device-config-manager (``helm-charts``),
mdevctl (README, Debian's package), driverctl (Debian's package), Proxmox' pve-nvidia-vgpu-helper, intel/kubevirt-gfx-sriov.

Intel's xpumd is none: it changes a GPU only where somebody calls it. nvidia-vgpud is none: it tells the driver the types of
vGPUs, and makes none.
"""

from typing import NamedTuple

NVIDIA, AMD, INTEL = ("nvidia",), ("amd",), ("intel",)
ALL = NVIDIA + AMD + INTEL

#: Where systemd links what it starts: by the administrator, and until the next boot.
WANTS = ("/etc/systemd/system", "/run/systemd/system")
#: The groups of running services, with and without version 1 beside it.
GROUPS = ("/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice")
#: The kubelet has a folder for each pod of its node here, NAMESPACE_POD_UID, and in it one for each container.
PODS = "/var/log/pods"
#: Where drivers and plugins register with the kubelet, by a socket that begins with their name.
REGISTERED = "/var/lib/kubelet/plugins_registry"
#: A folder for each parent, with a definition for each mediated device: mdevctl's, which libvirt's nodedev-autostart writes too.
DEFINITIONS = "/etc/mdevctl.d"
#: A file for each device whose driver driverctl(8) binds at each boot.
OVERRIDES = "/etc/driverctl.d"
#: Folders of files that are acted on at each boot, and what their names end in; and single files.
FOLDERS = (
    ("/etc/udev/rules.d", ".rules"), ("/run/udev/rules.d", ".rules"), ("/etc/tmpfiles.d", ".conf"), ("/etc/sysfs.d", ".conf"),
    ("/etc/cron.d", ""),
)  # fmt: skip
FILES = ("/etc/rc.local", "/etc/rc.d/rc.local", "/etc/sysfs.conf", "/etc/crontab", "/var/spool/cron/crontabs/root")

MDEVCTL, DRIVERCTL, DRA, DYNAMIC_MIG = "mdevctl", "driverctl", "nvidia-dra", "dra-dynamic-mig"


class Row(NamedTuple):
    """
    A tool that is known by name.

    :ivar name: as users type it; :ivar label: what it is, for sentences.
    :ivar sets: the technologies that it sets, by the names of :mod:`gpuslice.kinds`; :ivar vendors: of whose GPUs.
    :ivar units: of systemd; one that ends in ``@`` is a template. :ivar pods: patterns of ``NAMESPACE_POD``.
    :ivar container: the container that such a pod must have, "" for any. :ivar registered: its name with the kubelet.
    :ivar programs: names of its processes. :ivar todo: how it is stopped where no unit tells, as an imperative.
    :ivar never: why nobody can agree with it, as words that follow its name; "" for one that can be agreed with.
    """

    name: str
    label: str
    sets: tuple[str, ...]
    vendors: tuple[str, ...] = NVIDIA
    units: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    container: str = ""
    registered: str = ""
    programs: tuple[str, ...] = ()
    todo: str = ""
    never: str = ""


ROWS = (
    Row(
        "mig-manager", "NVIDIA's mig-manager", ("mig",), units=("nvidia-mig-manager.service",), pods=("*_*nvidia-mig-manager-*",),
        programs=("nvidia-mig-manager", "nvidia-mig-parted"),
        todo="label the node nvidia.com/gpu.deploy.mig-manager=false",
    ),
    Row(
        DYNAMIC_MIG, "the NVIDIA DRA driver with DynamicMIG", ("mig", "mps", "time-slicing", "vgpu", "passthrough"),
        todo="switch the feature gate DynamicMIG of the DRA driver off on this node, or leave its GPUs to it (strategy: none)",
        never="tears down MIG devices that it did not make, so that nothing can be shared with it",
    ),
    Row(
        DRA, "the NVIDIA DRA driver", ("mig", "mps", "time-slicing", "passthrough"),
        pods=("*_*dra-driver-nvidia-gpu-kubelet-plugin-*", "*_*nvidia-dra-driver-gpu-kubelet-plugin-*"), container="gpus",
        registered="gpu.nvidia.com", programs=("gpu-kubelet-plugin",),
        todo="keep the DRA driver off this node, by its chart's kubeletPlugin.nodeSelector or affinity",
    ),
    Row(
        "amd-dra", "AMD's DRA driver", ("partition",), AMD, registered="gpu.amd.com",
        todo="keep the DRA driver off this node, by its chart's node selector",
    ),
    Row(
        "intel-dra", "Intel's DRA driver", ("sriov", "vf-passthrough"), INTEL, registered="gpu.intel.com",
        todo="keep the DRA driver off this node, by its node selector",
    ),
    Row(
        "hami", "HAMi", ("mig", "mps", "time-slicing"), pods=("*_*hami-device-plugin-*",), programs=("vGPUmonitor",),
        todo="remove the node's label gpu=on, by which HAMi's device plugin chooses nodes",
    ),
    Row(
        "das", "OpenShift's Dynamic Accelerator Slicer", ("mig",), pods=("*_das-daemonset-*", "*_instaslice-*daemonset-*"),
        todo="keep its DaemonSet off this node",
    ),
    Row(
        "mps-control-daemon", "the MPS daemon of NVIDIA's device plugin", ("mps",), pods=("*_*mps-control-daemon-*",),
        programs=("mps-control-daemon",), todo="take sharing.mps out of the device plugin's configuration for this node",
    ),
    Row(
        "vgpu-device-manager", "NVIDIA's vGPU device manager", ("vgpu",), pods=("*_*nvidia-vgpu-device-manager-*",),
        todo="label the node nvidia.com/gpu.deploy.vgpu-device-manager=false",
    ),
    Row(
        "vfio-manager", "the VFIO manager of NVIDIA's GPU operator", ("passthrough",), pods=("*_*nvidia-vfio-manager-*",),
        todo="label the node nvidia.com/gpu.deploy.vfio-manager=false",
    ),
    Row(
        "harvester", "Harvester's pcidevices controller", ("passthrough", "vf-passthrough", "sriov", "vgpu", "mig"), ALL,
        pods=("harvester-system_*pcidevices-*",), programs=("pcidevices", "harvester-pcidevices-controller"),
        todo="disable the add-on pcidevices-controller",
    ),
    Row(
        "kubevirt", "KubeVirt, whose mediatedDevicesConfiguration makes and removes vGPUs", ("vgpu",), pods=("*_virt-handler-*",),
        programs=("virt-handler",), todo="keep KubeVirt off this node",
    ),
    Row(
        "device-config-manager", "AMD's device config manager", ("partition",), AMD, pods=("*_*device-config-manager-*",),
        todo="remove the node's label dcm.amd.com/gpu-config-profile, or keep its DaemonSet off this node",
    ),
    Row("gfx-virtual-func", "Intel's unit for virtual functions", ("sriov", "vf-passthrough"), INTEL,
        units=("gfx-virtual-func.service",)),
    Row("pve-nvidia-sriov", "Proxmox' unit for vGPU", ("vgpu",), units=("pve-nvidia-sriov@",)),
    Row(
        MDEVCTL, "mdevctl, which libvirt's nodedev-autostart uses too", ("vgpu",), ALL,
        todo="take its definitions back ('mdevctl undefine -u UUID')",
    ),
    Row(
        DRIVERCTL, "driverctl", ("passthrough", "vf-passthrough"), ALL,
        todo="take its override back ('driverctl unset-override ADDRESS')",
    ),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}


class Writing(NamedTuple):
    """
    What others write in units, rules and scripts.

    :ivar words: one of these is in it, which is looked for first; :ivar pattern: regular expression, of the text without its
        comments. :ivar sets: :ivar vendors: as of :class:`Row`.
    :ivar of_any: whether devices of any kind are written to in this way: then the text has to tell of a GPU too.
    """

    words: tuple[str, ...]
    pattern: str
    sets: tuple[str, ...]
    vendors: tuple[str, ...] = NVIDIA
    of_any: bool = False


def _into(name: str) -> str:
    """A file of that name is written: by a shell, by tee, by tmpfiles, by udev, by sysfs.conf."""
    return (
        rf">\s*\S*{name}|\btee\s[^\n;|&]*{name}|^[wf][+!=-]*\s+\S*{name}|\bATTR\{{[^}}\n]*{name}\}}\s*=[^=]"
        rf"|^[^\s=]*{name}\s*=\s*\d"
    )


#: The rest of a command, as far as words with a space behind them go.
_MORE = r"[^\n;|&]*\s"

_SMI, _FUNCTIONS = ("nvidia-smi",), ("sriov", "vf-passthrough")
WRITINGS = (
    Writing(_SMI, rf"nvidia-smi\b{_MORE}(?:-mig|--multi-instance-gpu)\b", ("mig",)),
    Writing(_SMI, rf"nvidia-smi\b{_MORE}mig\b{_MORE}-(?:cgi|dgi|cci|dci)\b", ("mig",)),
    Writing(("mig-parted",), rf"mig-parted\s(?:{_MORE})?apply\b", ("mig",)),
    Writing(("sriov-manage",), rf"sriov-manage\s(?:{_MORE})?-[ed]\b", ("vgpu",)),
    Writing(
        ("mdev", "current_vgpu_type"),
        rf"\bmdevctl\s(?:{_MORE})?(?:start|define)\b|mdev_supported_types/\S+/create|{_into('current_vgpu_type')}", ("vgpu",),
    ),
    Writing(_SMI, rf"nvidia-smi\b{_MORE}(?:-pl|--power-limit)\b", ("power",)),
    Writing(_SMI, r"nvidia-smi\s+compute-policy\b[^\n;|&]*--set-timeslice", ("time-slicing",)),
    Writing(
        ("partition",),
        rf"{_into('current_(?:compute|memory)_partition')}|amd-smi\s+set\b[^\n;|&]*partition"
        r"|rocm-smi\b[^\n;|&]*--set(?:compute|memory)partition", ("partition",), AMD,
    ),
    Writing(
        ("amd-smi", "rocm-smi"), rf"amd-smi\s+set\b{_MORE}(?:-o|--power-cap)\b|rocm-smi\b[^\n;|&]*--setpoweroverdrive",
        ("power",), AMD,
    ),
    Writing(("xpu",), rf"(?:xpu-smi|xpumcli)\s+vgpu\b{_MORE}(?:-c|--create|-r|--remove)\b", _FUNCTIONS, INTEL),
    Writing(("xpu",), rf"(?:xpu-smi|xpumcli)\s+config\b{_MORE}--powerlimit\b", ("power",), INTEL),
    Writing(("ccs_mode",), _into("ccs_mode"), ("level-zero",), INTEL),
    Writing(("sriov_numvfs",), _into("sriov_numvfs"), (*_FUNCTIONS, "vgpu"), ALL, of_any=True),
    Writing(
        ("driver_override", "vfio-pci", "driverctl", "nodedev"),
        rf"{_into('(?:driver_override|vfio-pci/(?:bind|new_id))')}|\bdriverctl\s(?:{_MORE})?set-override\b|\bnodedev-detach\b",
        ("passthrough", "vf-passthrough"), ALL, of_any=True,
    ),
)  # fmt: skip

#: What a text has none of sets no GPU.
WRITTEN = tuple(dict.fromkeys(word for each in WRITINGS for word in each.words))

#: Words of a text that tell whose GPU is meant, where it is written to as any device is.
WORDS = (
    (r"nvidia|\b(?:0x)?10de\b", NVIDIA), (r"amdgpu|\bgim\b|radeon", AMD), (r"\bxe\b|\bi915\b", INTEL),
    (r"\bgpus?\b|/drm/|\"drm\"|graphics|\b0x03[08]", ALL),
)  # fmt: skip
#: Of a text with these a network card is meant, or a disk.
OTHERS = r"/sys/class/(?:net|infiniband|block|nvme)/|\"(?:net|infiniband|block|nvme)\"|mlx[45]|ixgbe|\bi40e\b|\bice\b|bnxt|\bnvme"
