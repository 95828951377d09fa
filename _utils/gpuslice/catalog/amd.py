"""
AMD GPU models: PCI ids, partition modes and what is known of SR-IOV.

These are facts gathered from public sources (driver sources, vendor documentation, release notes). The driver is the
authority: what sysfs says wins over every entry here. Columns of :data:`MODELS`:

======================  =======================================================================================
title                   the boards that the entry covers, for people
device_ids              PCI device id (four lower-case hex digits) -> product name, without "AMD"
vf_device_ids           PCI device ids of its virtual functions, as a guest sees them
architecture            LLVM target of the compute units, ``gfx942``
family                  ``instinct``, ``radeon-pro-v`` (made for virtualization), ``radeon-pro-w`` (workstations), ``firepro``
memory_gb               memory of one PCI function in GB; None where boards with the same id differ
memory_gb_by_id         device id -> memory in GB, where it differs from memory_gb
cu, xcc                 compute units and accelerator dies (XCC) of one PCI function; xcc is None where there are none
functions_per_card      how many GPUs (PCI functions of their own) one card carries
capabilities            slicing technologies: ``sriov`` (with a public host driver), ``partition``
features                the finer words: sriov-legacy (out-of-tree driver of the past only), sriov-hw-only (no public host
                        driver), compute-partition, memory-partition, cu-mask (advisory), dmem-cgroup (memory limit by card)
driver                  kernel driver that a bare-metal host uses
sriov_host_driver       kernel driver that creates virtual functions: ``gim``, ``gim-legacy``, "" for none
max_vfs                 the most virtual functions; 0 when none are known
vf_profiles             (number of virtual functions, compute mode, memory mode, needs preview firmware)
compute_partitions      compute modes that the driver takes; () where the GPU can't be partitioned
memory_partitions       memory modes that the driver takes
legal_combinations      (compute mode, memory mode) that a new driver takes on bare metal, for people; the engine asks
                        :func:`memory_modes_with`, as memory modes are what the driver finds in the firmware
validated_combinations  the vendor's narrower list of them
======================  =======================================================================================
"""

VENDOR_ID = "1002"

#: What a model has where its entry says nothing else.
_DEFAULTS = {
    "vf_device_ids": (),
    "memory_gb_by_id": {},
    "xcc": None,
    "functions_per_card": 1,
    "capabilities": (),
    "features": ("cu-mask", "dmem-cgroup"),
    "driver": "amdgpu",
    "sriov_host_driver": "",
    "max_vfs": 0,
    "vf_profiles": (),
    "compute_partitions": (),
    "memory_partitions": (),
    "legal_combinations": (),
    "validated_combinations": (),
}

_MODELS: dict[str, dict] = {
    "mi100": {
        "title": "Instinct MI100", "device_ids": {"738c": "Instinct MI100", "738e": "Instinct MI100"}, "architecture": "gfx908",
        "family": "instinct", "memory_gb": 32, "cu": 120,
    },
    "mi210": {
        "title": "Instinct MI210", "device_ids": {"740f": "Instinct MI210"}, "vf_device_ids": ("7410",), "architecture": "gfx90a",
        "family": "instinct", "memory_gb": 64, "cu": 104, "capabilities": ("sriov",),
        "features": ("cu-mask", "dmem-cgroup", "sriov"), "sriov_host_driver": "gim", "max_vfs": 1,
        "vf_profiles": ((1, "", "", False),),
    },
    "mi25": {
        "title": "Radeon Instinct MI25", "device_ids": {"6860": "Radeon Instinct MI25"}, "vf_device_ids": ("686c",),
        "architecture": "gfx900", "family": "instinct", "memory_gb": 16, "cu": 64,
        "features": ("cu-mask", "dmem-cgroup", "sriov-hw-only"),
    },
    "mi250": {
        "title": "Instinct MI250 (also MI250X boards with this id)", "device_ids": {"740c": "Instinct MI250"},
        "architecture": "gfx90a", "family": "instinct", "memory_gb": 64, "cu": 104, "functions_per_card": 2,
    },
    "mi250x": {
        "title": "Instinct MI250X", "device_ids": {"7408": "Instinct MI250X"}, "architecture": "gfx90a", "family": "instinct",
        "memory_gb": 64, "cu": 110, "functions_per_card": 2,
    },
    "mi300a": {
        "title": "Instinct MI300A", "device_ids": {"74a0": "Instinct MI300A"}, "vf_device_ids": ("74b4",),
        "architecture": "gfx942", "family": "instinct", "memory_gb": 128, "cu": 228, "xcc": 6, "capabilities": ("partition",),
        "features": ("compute-partition", "cu-mask"), "compute_partitions": ("SPX", "TPX", "CPX"), "memory_partitions": ("NPS1",),
        "legal_combinations": (("SPX", "NPS1"), ("TPX", "NPS1"), ("CPX", "NPS1")), "validated_combinations": (("SPX", "NPS1"),),
    },
    "mi300x": {
        "title": "Instinct MI300X", "device_ids": {"74a1": "Instinct MI300X"}, "vf_device_ids": ("74b5",),
        "architecture": "gfx942", "family": "instinct", "memory_gb": 192, "cu": 304, "xcc": 8,
        "capabilities": ("sriov", "partition"),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition", "sriov"), "sriov_host_driver": "gim",
        "max_vfs": 8, "vf_profiles": ((1, "SPX", "NPS1", False), (8, "CPX", "NPS4", True)),
        "compute_partitions": ("SPX", "DPX", "QPX", "CPX"), "memory_partitions": ("NPS1", "NPS2", "NPS4"),
        "legal_combinations": (
            ("SPX", "NPS1"), ("DPX", "NPS1"), ("DPX", "NPS2"), ("QPX", "NPS1"), ("QPX", "NPS4"), ("CPX", "NPS1"),
            ("CPX", "NPS4"),
        ),
        "validated_combinations": (("SPX", "NPS1"), ("DPX", "NPS2"), ("CPX", "NPS1"), ("CPX", "NPS4")),
    },
    "mi300x-hf": {
        "title": "Instinct MI300X HF", "device_ids": {"74a9": "Instinct MI300X HF"}, "vf_device_ids": ("74bd",),
        "architecture": "gfx942", "family": "instinct", "memory_gb": 192, "cu": 304, "xcc": 8, "capabilities": ("partition",),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition"),
        "compute_partitions": ("SPX", "DPX", "QPX", "CPX"), "memory_partitions": ("NPS1", "NPS2", "NPS4"),
        "legal_combinations": (
            ("SPX", "NPS1"), ("DPX", "NPS1"), ("DPX", "NPS2"), ("QPX", "NPS1"), ("QPX", "NPS4"), ("CPX", "NPS1"),
            ("CPX", "NPS4"),
        ),
    },
    "mi308x": {
        "title": "Instinct MI308X", "device_ids": {"74a2": "Instinct MI308X"}, "vf_device_ids": ("74b6",),
        "architecture": "gfx942", "family": "instinct", "memory_gb": 192, "cu": 80, "xcc": 4, "capabilities": ("partition",),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition"),
        "compute_partitions": ("SPX", "DPX", "CPX"), "memory_partitions": ("NPS1", "NPS4"),
        "legal_combinations": (("SPX", "NPS1"), ("DPX", "NPS1"), ("CPX", "NPS1"), ("CPX", "NPS4")),
    },
    "mi308x-hf": {
        "title": "Instinct MI308X HF", "device_ids": {"74a8": "Instinct MI308X HF"}, "vf_device_ids": ("74bc",),
        "architecture": "gfx942", "family": "instinct", "memory_gb": 192, "cu": 80, "xcc": 4, "capabilities": ("partition",),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition"),
        "compute_partitions": ("SPX", "DPX", "CPX"), "memory_partitions": ("NPS1", "NPS4"),
        "legal_combinations": (("SPX", "NPS1"), ("DPX", "NPS1"), ("CPX", "NPS1"), ("CPX", "NPS4")),
    },
    "mi325x": {
        "title": "Instinct MI325X", "device_ids": {"74a5": "Instinct MI325X"}, "vf_device_ids": ("74b9",),
        "architecture": "gfx942", "family": "instinct", "memory_gb": 256, "cu": 304, "xcc": 8,
        "capabilities": ("sriov", "partition"),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition", "sriov"), "sriov_host_driver": "gim",
        "max_vfs": 1, "vf_profiles": ((1, "SPX", "NPS1", False),), "compute_partitions": ("SPX", "DPX", "QPX", "CPX"),
        "memory_partitions": ("NPS1", "NPS2", "NPS4"),
        "legal_combinations": (
            ("SPX", "NPS1"), ("DPX", "NPS1"), ("DPX", "NPS2"), ("QPX", "NPS1"), ("QPX", "NPS4"), ("CPX", "NPS1"),
            ("CPX", "NPS4"),
        ),
        "validated_combinations": (("SPX", "NPS1"),),
    },
    "mi350p": {
        "title": "Instinct MI350P", "device_ids": {"75a8": "Instinct MI350P"}, "vf_device_ids": ("75b8",),
        "architecture": "gfx950", "family": "instinct", "memory_gb": 144, "cu": 128, "xcc": 4,
        "capabilities": ("sriov", "partition"), "features": ("compute-partition", "cu-mask", "dmem-cgroup", "sriov"),
        "sriov_host_driver": "gim", "max_vfs": 1, "vf_profiles": ((1, "", "", False),),
        "compute_partitions": ("SPX", "DPX", "CPX"), "memory_partitions": ("NPS1",),
        "legal_combinations": (("SPX", "NPS1"), ("DPX", "NPS1"), ("CPX", "NPS1")),
    },
    "mi350x": {
        "title": "Instinct MI350X", "device_ids": {"75a0": "Instinct MI350X"}, "vf_device_ids": ("75b0",),
        "architecture": "gfx950", "family": "instinct", "memory_gb": 288, "cu": 256, "xcc": 8,
        "capabilities": ("sriov", "partition"),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition", "sriov"), "sriov_host_driver": "gim",
        "max_vfs": 8, "vf_profiles": ((1, "SPX", "NPS1", False), (2, "DPX", "NPS2", True), (8, "CPX", "NPS2", True)),
        "compute_partitions": ("SPX", "DPX", "QPX", "CPX"), "memory_partitions": ("NPS1", "NPS2"),
        "legal_combinations": (
            ("SPX", "NPS1"), ("DPX", "NPS1"), ("DPX", "NPS2"), ("QPX", "NPS1"), ("QPX", "NPS2"), ("CPX", "NPS1"),
            ("CPX", "NPS2"),
        ),
        "validated_combinations": (("SPX", "NPS1"), ("DPX", "NPS2")),
    },
    "mi355x": {
        "title": "Instinct MI355X", "device_ids": {"75a3": "Instinct MI355X"}, "vf_device_ids": ("75b3",),
        "architecture": "gfx950", "family": "instinct", "memory_gb": 288, "cu": 256, "xcc": 8,
        "capabilities": ("sriov", "partition"),
        "features": ("compute-partition", "cu-mask", "dmem-cgroup", "memory-partition", "sriov"), "sriov_host_driver": "gim",
        "max_vfs": 8, "vf_profiles": ((1, "SPX", "NPS1", False), (2, "DPX", "NPS2", True), (8, "CPX", "NPS2", True)),
        "compute_partitions": ("SPX", "DPX", "QPX", "CPX"), "memory_partitions": ("NPS1", "NPS2"),
        "legal_combinations": (
            ("SPX", "NPS1"), ("DPX", "NPS1"), ("DPX", "NPS2"), ("QPX", "NPS1"), ("QPX", "NPS2"), ("CPX", "NPS1"),
            ("CPX", "NPS2"),
        ),
        "validated_combinations": (("SPX", "NPS1"), ("DPX", "NPS2")),
    },
    "mi50-mi60": {
        "title": "Instinct MI50 and MI60, Radeon Pro VII",
        "device_ids": {"66a0": "Radeon Instinct MI50/MI60", "66a1": "Radeon Instinct MI50/MI60"}, "architecture": "gfx906",
        "family": "instinct", "memory_gb": None, "cu": None,
    },
    "pro-v340": {
        "title": "Radeon Pro V340", "device_ids": {"6864": "Radeon Pro V340"}, "vf_device_ids": ("686c",),
        "architecture": "gfx900", "family": "radeon-pro-v", "memory_gb": 16, "cu": 56, "functions_per_card": 2,
        "features": ("cu-mask", "dmem-cgroup", "sriov-hw-only"),
    },
    "pro-v520": {
        "title": "Radeon Pro V520", "device_ids": {"7362": "Radeon Pro V520", "7360": "Radeon Pro V520"},
        "architecture": "gfx1011", "family": "radeon-pro-v", "memory_gb": 8, "cu": 36,
        "features": ("cu-mask", "dmem-cgroup", "sriov-hw-only"),
    },
    "pro-v620": {
        "title": "Radeon Pro V620", "device_ids": {"73a1": "Radeon Pro V620"}, "vf_device_ids": ("73ae",),
        "architecture": "gfx1030", "family": "radeon-pro-v", "memory_gb": 32, "cu": 72,
        "features": ("cu-mask", "dmem-cgroup", "sriov-hw-only"), "max_vfs": 12,
    },
    "pro-v710": {
        "title": "Radeon Pro V710", "device_ids": {"7460": "Radeon Pro V710"}, "vf_device_ids": ("7461",),
        "architecture": "gfx1101", "family": "radeon-pro-v", "memory_gb": 28, "cu": 54, "capabilities": ("sriov",),
        "features": ("cu-mask", "dmem-cgroup", "sriov"), "sriov_host_driver": "gim", "max_vfs": 12,
        "vf_profiles": tuple((count, "", "", False) for count in range(1, 13)),
    },
    "pro-w5500": {
        "title": "Radeon Pro W5500", "device_ids": {"7341": "Radeon Pro W5500"}, "architecture": "gfx1012",
        "family": "radeon-pro-w", "memory_gb": 8, "cu": 22,
    },
    "pro-w5700": {
        "title": "Radeon Pro W5700", "device_ids": {"7312": "Radeon Pro W5700"}, "architecture": "gfx1010",
        "family": "radeon-pro-w", "memory_gb": 8, "cu": 36,
    },
    "pro-w6400": {
        "title": "Radeon Pro W6400", "device_ids": {"7422": "Radeon Pro W6400"}, "architecture": "gfx1034",
        "family": "radeon-pro-w", "memory_gb": 4, "cu": 12,
    },
    "pro-w6600": {
        "title": "Radeon Pro W6600", "device_ids": {"73e3": "Radeon Pro W6600"}, "architecture": "gfx1032",
        "family": "radeon-pro-w", "memory_gb": 8, "cu": 28,
    },
    "pro-w6800": {
        "title": "Radeon Pro W6800", "device_ids": {"73a3": "Radeon Pro W6800"}, "architecture": "gfx1030",
        "family": "radeon-pro-w", "memory_gb": 32, "cu": 60,
    },
    "pro-w6800x": {
        "title": "Radeon Pro W6800X", "device_ids": {"73ab": "Radeon Pro W6800X"}, "architecture": "gfx1030",
        "family": "radeon-pro-w", "memory_gb": 32, "cu": 60,
    },
    "pro-w6900x": {
        "title": "Radeon Pro W6900X", "device_ids": {"73a2": "Radeon Pro W6900X"}, "architecture": "gfx1030",
        "family": "radeon-pro-w", "memory_gb": 32, "cu": 80,
    },
    "pro-w7500": {
        "title": "Radeon Pro W7500", "device_ids": {"7489": "Radeon Pro W7500"}, "architecture": "gfx1102",
        "family": "radeon-pro-w", "memory_gb": 8, "cu": 28,
    },
    "pro-w7600": {
        "title": "Radeon Pro W7600", "device_ids": {"7480": "Radeon Pro W7600"}, "architecture": "gfx1102",
        "family": "radeon-pro-w", "memory_gb": 8, "cu": 32,
    },
    "pro-w7700": {
        "title": "Radeon Pro W7700", "device_ids": {"7470": "Radeon Pro W7700"}, "architecture": "gfx1101",
        "family": "radeon-pro-w", "memory_gb": 16, "cu": 48,
    },
    "pro-w7800": {
        "title": "Radeon Pro W7800", "device_ids": {"745e": "Radeon Pro W7800", "7449": "Radeon Pro W7800"},
        "architecture": "gfx1100", "family": "radeon-pro-w", "memory_gb": 32, "memory_gb_by_id": {"7449": 48}, "cu": 70,
    },
    "pro-w7900": {
        "title": "Radeon Pro W7900",
        "device_ids": {"7448": "Radeon Pro W7900", "744a": "Radeon Pro W7900", "744b": "Radeon Pro W7900"},
        "architecture": "gfx1100", "family": "radeon-pro-w", "memory_gb": 48, "cu": 96,
    },
    "s7150": {
        "title": "FirePro S7150", "device_ids": {"6929": "FirePro S7150"}, "vf_device_ids": ("692f",), "architecture": "gcn3",
        "family": "firepro", "memory_gb": 8, "cu": 32, "features": ("sriov-legacy",), "sriov_host_driver": "gim-legacy",
        "max_vfs": 16,
    },
}

MODELS: dict[str, dict] = {key: {**_DEFAULTS, **fields} for key, fields in _MODELS.items()}

#: Compute mode -> into how many partitions it splits the GPU; CPX makes one of each accelerator die.
PARTITIONS = {"SPX": 1, "DPX": 2, "TPX": 3, "QPX": 4}

#: The mode that a GPU has when nobody asked for another.
DEFAULT_MODE = ("SPX", "NPS1")

#: Number of accelerator dies -> compute modes that the driver offers.
COMPUTE_MODES_BY_XCC = {
    1: ("SPX", "CPX"),
    2: ("SPX", "CPX"),
    4: ("SPX", "DPX", "CPX"),
    6: ("SPX", "TPX", "CPX"),
    8: ("SPX", "DPX", "QPX", "CPX"),
}

#: Compute mode -> memory modes that every version of the driver takes with it on bare metal (linux, aqua_vanjaram.c).
MEMORY_BY_COMPUTE_MODE = {
    "SPX": ("NPS1",),
    "DPX": ("NPS1", "NPS2"),
    "TPX": ("NPS1", "NPS4"),
    "QPX": ("NPS1", "NPS4"),
    "CPX": ("NPS1", "NPS4"),
}

#: Architecture -> what newer versions of the driver, those with ``compute_partition_config``, take beside that.
FURTHER_MEMORY_MODES = {"gfx950": {"QPX": ("NPS2",), "CPX": ("NPS2",)}}

#: The ``vf_num`` option of the gim driver: smallest, largest, default. It must divide the number of accelerator dies.
GIM_VF_NUM = (1, 31, 1)

#: Module option ``user_partt_mode`` of amdgpu -> compute mode ("" = the driver decides).
USER_PARTITION_MODE = {-2: "", 0: "SPX", 1: "DPX", 2: "TPX", 3: "QPX", 4: "CPX"}


def memory_modes_with(compute, architecture, newer_driver=True):
    """
    The memory modes that go with a compute mode, whether or not the board has them all.

    :param compute: ``SPX`` and so on. :param architecture: ``gfx942`` and so on, "" for an unknown one.
    :param newer_driver: whether amdgpu has ``compute_partition_config``; older ones know one table for all architectures.
    :return: tuple of memory modes; NPS1 alone for a compute mode that nobody knows.
    """
    further = FURTHER_MEMORY_MODES.get(architecture, {}).get(compute, ()) if newer_driver else ()
    return MEMORY_BY_COMPUTE_MODE.get(compute, ("NPS1",)) + further


def partition_size(key, mode):
    """
    What one partition has in a compute mode.

    :param key: key of :data:`MODELS`.
    :param mode: ``SPX``, ``DPX``, ``TPX``, ``QPX`` or ``CPX``.
    :return: dict with ``partitions`` (how many), ``cu``, ``xcc`` and ``memory_gb`` (its even share; None on an APU, whose
        partitions share one memory), or None where the model has no such mode.
    """
    model = MODELS.get(key)
    if not model or mode not in model["compute_partitions"]:
        return None
    count = PARTITIONS.get(mode, model["xcc"])
    shared = "memory-partition" not in model["features"] and "dmem-cgroup" not in model["features"]
    return {
        "partitions": count,
        "cu": model["cu"] // count,
        "xcc": model["xcc"] // count,
        "memory_gb": None if shared else model["memory_gb"] // count,
    }
