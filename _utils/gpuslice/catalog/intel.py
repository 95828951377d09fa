"""
Intel GPU models: PCI ids, SR-IOV limits, and the vendor's presets for virtual functions.

These are facts gathered from public sources (kernel sources, vendor tools and documentation). The driver is the authority:
what sysfs says (``sriov_totalvfs`` first of all) wins over every entry here. Intel has no compute or memory partition
modes. Columns of :data:`MODELS`:

===============  ==============================================================================================
title            product name, without "Intel"
device_ids       PCI device ids (four lower-case hex digits); virtual functions carry the id of their physical function
family           hardware family: ``ATS-M``, ``PVC``, ``DG2``, ``BMG``, ``ADL-S``, ...
class            ``datacenter``, ``arc-a``, ``arc-b``, ``arc-pro-b`` or ``igpu``
memory_gb        memory of one GPU in GB; None when it shares the system's or is unknown
tiles            tiles of one GPU; None when unknown. The number of VFs of a two-tile GPU must be 1 or even
max_ccs          compute engines of a tile that the driver's mask allows; fuses may leave fewer
capabilities     slicing technologies: ``sriov``, ``level-zero``
features         the finer words: ccs-mode, tiles, dmem-cgroup (memory limit by cgroup), sched-properties
driver           kernel drivers that can drive it
sriov_drivers    kernel drivers that can create its virtual functions: ``xe``; ``i915-backport`` (the vendor's dkms
                 package); ``i915-port`` (long-term or community port)
xe_force_probe   whether xe takes it only with ``xe.force_probe``
max_vfs          the most virtual functions; None when unknown, 0 when there are none
max_vfs_by_id    device id -> the most virtual functions, where ids of one entry differ
===============  ==============================================================================================

Columns of a :data:`SRIOV_PRESETS` entry: ``applies_to`` (device ids), ``scheduler`` (key of the scheduling formulas),
``autoprobe`` (``sriov_drivers_autoprobe`` to set), ``max_vfs``, ``by_vfs`` (number of VFs -> what each VF gets) and ``totals``
(what is divided by the number of VFs where ``by_vfs`` has no row; the contexts are by VF and not divided). A row is
(local memory, local memory with ECC, contexts, doorbells, GGTT), memory in bytes.
"""

VENDOR_ID = "8086"

#: What a model has where its entry says nothing else.
_DEFAULTS = {
    "tiles": 1,
    "max_ccs": 1,
    "capabilities": ("level-zero",),
    "features": ("level-zero", "sched-properties"),
    "sriov_drivers": (),
    "xe_force_probe": False,
    "max_vfs": 0,
    "max_vfs_by_id": {},
}

_MODELS: dict[str, dict] = {
    "alder-lake-n": {
        "title": "Alder Lake-N integrated GPU", "device_ids": ("46d0", "46d1", "46d2", "46d3", "46d4"), "family": "ADL-N",
        "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port", "xe"),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "alder-lake-p": {
        "title": "Alder Lake-P integrated GPU",
        "device_ids": (
            "46a0", "46a1", "46a2", "46a3", "46a6", "46a8", "46aa", "462a", "4626", "4628", "46b0", "46b1", "46b2", "46b3",
            "46c0", "46c1", "46c2", "46c3",
        ),
        "family": "ADL-P", "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port", "xe"),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "alder-lake-s": {
        "title": "Alder Lake-S integrated GPU", "device_ids": ("4680", "4682", "4688", "468a", "468b", "4690", "4692", "4693"),
        "family": "ADL-S", "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port", "xe"),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "arc-a310": {
        "title": "Arc A310", "device_ids": ("56a6",), "family": "DG2", "class": "arc-a", "memory_gb": 4, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-a380": {
        "title": "Arc A380", "device_ids": ("56a5",), "family": "DG2", "class": "arc-a", "memory_gb": 6, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-a580": {
        "title": "Arc A580", "device_ids": ("56a2",), "family": "DG2", "class": "arc-a", "memory_gb": 8, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-a750": {
        "title": "Arc A750", "device_ids": ("56a1",), "family": "DG2", "class": "arc-a", "memory_gb": 8, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-a770": {
        "title": "Arc A770", "device_ids": ("56a0",), "family": "DG2", "class": "arc-a", "memory_gb": 16, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-b570": {
        "title": "Arc B570", "device_ids": ("e20c",), "family": "BMG-G21", "class": "arc-b", "memory_gb": 10, "max_ccs": 4,
        "features": ("dmem-cgroup", "level-zero", "sched-properties"), "driver": ("xe",),
    },
    "arc-b580": {
        "title": "Arc B580", "device_ids": ("e20b",), "family": "BMG-G21", "class": "arc-b", "memory_gb": 12, "max_ccs": 4,
        "features": ("dmem-cgroup", "level-zero", "sched-properties"), "driver": ("xe",),
    },
    "arc-pro-a30m": {
        "title": "Arc Pro A30M", "device_ids": ("56b0",), "family": "DG2", "class": "arc-a", "memory_gb": 4, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-pro-a40-a50": {
        "title": "Arc Pro A40/A50", "device_ids": ("56b1",), "family": "DG2", "class": "arc-a", "memory_gb": 6, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-pro-a60": {
        "title": "Arc Pro A60", "device_ids": ("56b3",), "family": "DG2", "class": "arc-a", "memory_gb": 12, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-pro-a60m": {
        "title": "Arc Pro A60M", "device_ids": ("56b2",), "family": "DG2", "class": "arc-a", "memory_gb": 8, "max_ccs": 4,
        "features": ("ccs-mode", "level-zero", "sched-properties"), "driver": ("i915", "xe"), "xe_force_probe": True,
    },
    "arc-pro-b50": {
        "title": "Arc Pro B50", "device_ids": ("e212",), "family": "BMG", "class": "arc-pro-b", "memory_gb": 16, "max_ccs": 4,
        "capabilities": ("level-zero", "sriov"), "features": ("dmem-cgroup", "level-zero", "sched-properties", "sriov"),
        "driver": ("xe",), "sriov_drivers": ("xe",), "max_vfs": 24,
    },
    "arc-pro-b60": {
        "title": "Arc Pro B60", "device_ids": ("e211",), "family": "BMG", "class": "arc-pro-b", "memory_gb": 24, "max_ccs": 4,
        "capabilities": ("level-zero", "sriov"), "features": ("dmem-cgroup", "level-zero", "sched-properties", "sriov"),
        "driver": ("xe",), "sriov_drivers": ("xe",), "max_vfs": 24,
    },
    "arc-pro-b65": {
        "title": "Arc Pro B65", "device_ids": ("e222",), "family": "BMG", "class": "arc-pro-b", "memory_gb": 32, "max_ccs": 4,
        "capabilities": ("level-zero", "sriov"), "features": ("dmem-cgroup", "level-zero", "sched-properties", "sriov"),
        "driver": ("xe",), "sriov_drivers": ("xe",), "max_vfs": 24,
    },
    "arc-pro-b70": {
        "title": "Arc Pro B70", "device_ids": ("e223",), "family": "BMG", "class": "arc-pro-b", "memory_gb": 32, "max_ccs": 4,
        "capabilities": ("level-zero", "sriov"), "features": ("dmem-cgroup", "level-zero", "sched-properties", "sriov"),
        "driver": ("xe",), "sriov_drivers": ("xe",), "max_vfs": 12,
    },
    "arrow-lake": {
        "title": "Arrow Lake integrated GPU", "device_ids": ("7d41", "7d51", "7d67", "7dd1", "b640"), "family": "ARL",
        "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port",),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "battlemage-other": {
        "title": "Battlemage GPU", "device_ids": ("e202", "e209", "e20d", "e210", "e216", "e220", "e221"), "family": "BMG",
        "class": "arc-b", "memory_gb": None, "features": ("dmem-cgroup", "level-zero", "sched-properties"), "driver": ("xe",),
    },
    "flex-140": {
        "title": "Data Center GPU Flex 140", "device_ids": ("56c1",), "family": "ATS-M", "class": "datacenter", "memory_gb": 6,
        "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("dmem-cgroup", "level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"),
        "sriov_drivers": ("i915-backport", "xe"), "xe_force_probe": True, "max_vfs": 31,
    },
    "flex-170": {
        "title": "Data Center GPU Flex 170", "device_ids": ("56c0",), "family": "ATS-M", "class": "datacenter", "memory_gb": 16,
        "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("ccs-mode", "dmem-cgroup", "level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"),
        "sriov_drivers": ("i915-backport", "xe"), "xe_force_probe": True, "max_vfs": 31,
    },
    "flex-170g": {
        "title": "Data Center GPU Flex 170G", "device_ids": ("56c2",), "family": "ATS-M", "class": "datacenter", "memory_gb": 16,
        "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("ccs-mode", "dmem-cgroup", "level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"),
        "sriov_drivers": ("i915-backport", "xe"), "xe_force_probe": True, "max_vfs": 31,
    },
    "lunar-lake": {
        "title": "Lunar Lake integrated GPU", "device_ids": ("6420", "64a0", "64b0"), "family": "LNL", "class": "igpu",
        "memory_gb": None, "max_ccs": 4, "driver": ("xe",),
    },
    "max-1100": {
        "title": "Data Center GPU Max 1100", "device_ids": ("0bda", "0bdb", "0bd9"), "family": "PVC", "class": "datacenter",
        "memory_gb": 48, "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("ccs-mode", "level-zero", "sched-properties", "sriov"), "driver": ("i915-backport",),
        "sriov_drivers": ("i915-backport",), "max_vfs": 63,
    },
    "max-1450": {
        "title": "Data Center GPU Max 1450", "device_ids": ("0bd6",), "family": "PVC", "class": "datacenter", "memory_gb": 128,
        "tiles": 2, "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("ccs-mode", "level-zero", "sched-properties", "sriov", "tiles"), "driver": ("i915-backport",),
        "sriov_drivers": ("i915-backport",), "max_vfs": 62,
    },
    "max-1550": {
        "title": "Data Center GPU Max 1550", "device_ids": ("0bd5", "0b69", "0bd0"), "family": "PVC", "class": "datacenter",
        "memory_gb": 128, "tiles": 2, "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("ccs-mode", "level-zero", "sched-properties", "sriov", "tiles"), "driver": ("i915-backport",),
        "sriov_drivers": ("i915-backport",), "max_vfs": 62,
    },
    "max-other": {
        "title": "Data Center GPU Max", "device_ids": ("0bd4", "0bd7", "0bd8", "0b6e", "0be0", "0be1", "0be5"), "family": "PVC",
        "class": "datacenter", "memory_gb": None, "tiles": None, "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("ccs-mode", "level-zero", "sched-properties", "sriov"), "driver": ("i915-backport",),
        "sriov_drivers": ("i915-backport",), "max_vfs": None, "max_vfs_by_id": {"0bd4": 62, "0b6e": 63},
    },
    "meteor-lake": {
        "title": "Meteor Lake integrated GPU", "device_ids": ("7d40", "7d45", "7d55", "7d60", "7dd5"), "family": "MTL",
        "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port",),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "nova-lake": {
        "title": "Nova Lake integrated GPU", "device_ids": ("d740", "d750"), "family": "NVL", "class": "igpu", "memory_gb": None,
        "max_ccs": 4, "driver": ("xe",), "xe_force_probe": True, "max_vfs": None,
    },
    "panther-lake": {
        "title": "Panther Lake integrated GPU",
        "device_ids": ("b080", "b081", "b082", "b083", "b084", "b085", "b086", "b087", "b08f", "b090", "b0a0", "b0b0"),
        "family": "PTL", "class": "igpu", "memory_gb": None, "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("xe",), "sriov_drivers": ("xe",), "max_vfs": None,
    },
    "raptor-lake-p-u": {
        "title": "Raptor Lake-P/U integrated GPU",
        "device_ids": ("a720", "a7a0", "a7a8", "a7aa", "a7ab", "a721", "a7a1", "a7a9", "a7ac", "a7ad"), "family": "RPL-P",
        "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port", "xe"),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "raptor-lake-s": {
        "title": "Raptor Lake-S integrated GPU", "device_ids": ("a780", "a781", "a782", "a783", "a788", "a789", "a78a", "a78b"),
        "family": "RPL-S", "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port", "xe"),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "tiger-lake": {
        "title": "Tiger Lake integrated GPU",
        "device_ids": ("9a40", "9a49", "9a59", "9a60", "9a68", "9a70", "9a78", "9ac0", "9ac9", "9ad9", "9af8"), "family": "TGL",
        "class": "igpu", "memory_gb": None, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("i915", "xe"), "sriov_drivers": ("i915-port", "xe"),
        "xe_force_probe": True, "max_vfs": 7,
    },
    "wildcat-lake": {
        "title": "Wildcat Lake integrated GPU", "device_ids": ("fd80", "fd81"), "family": "WCL", "class": "igpu",
        "memory_gb": None, "max_ccs": 4, "capabilities": ("level-zero", "sriov"),
        "features": ("level-zero", "sched-properties", "sriov"), "driver": ("xe",), "sriov_drivers": ("xe",), "max_vfs": None,
    },
}

MODELS: dict[str, dict] = {key: {**_DEFAULTS, **fields} for key, fields in _MODELS.items()}

SRIOV_PRESETS = {
    "56c0": {
        "applies_to": ("56c0", "56c2"), "scheduler": "Flexible_30fps", "autoprobe": 0, "max_vfs": 31,
        "totals": (16777216000, 14199816192, 1024, 240, 4026531840),
        "by_vfs": {
            1: (16777216000, 14199816192, 1024, 240, 4026531840),
            2: (8388608000, 7098859520, 1024, 120, 2013265920),
            4: (4194304000, 3548381184, 1024, 60, 1006632960),
            5: (3355443200, 2839543808, 1024, 48, 805306368),
            8: (2097152000, 1774190592, 1024, 30, 503316480),
            16: (1048576000, 887095296, 1024, 15, 251658240),
        },
    },
    "56c1": {
        "applies_to": ("56c1",), "scheduler": "Flexible_30fps", "autoprobe": 0, "max_vfs": 31,
        "totals": (6039797760, 4880072704, 1024, 240, 4026531840),
        "by_vfs": {
            1: (6039797760, 4880072704, 1024, 240, 4026531840),
            3: (2013265920, 1625292800, 1024, 80, 1342177280),
            6: (1006632960, 811597824, 1024, 40, 671088640),
            12: (503316480, 404750336, 1024, 20, 335544320),
        },
    },
    "0bd5": {
        "applies_to": ("0bd4", "0bd5", "0bd6"), "scheduler": "BurstableQoS", "autoprobe": 0, "max_vfs": 62,
        "totals": (128849018880, 128849018880, 1024, 480, 8053063680),
        "by_vfs": {
            1: (128849018880, 128849018880, 2048, 480, 8053063680),
            2: (64424509440, 64424509440, 1024, 240, 4026531840),
            4: (32212254720, 32212254720, 1024, 120, 2013265920),
            6: (21474836480, 21474836480, 1024, 80, 1342177280),
            8: (16106127360, 16106127360, 1024, 60, 1006632960),
            16: (8053063680, 8053063680, 1024, 30, 503316480),
            32: (4026531840, 4026531840, 1024, 15, 251658240),
            62: (2013265920, 2013265920, 1024, 7, 125829120),
        },
    },
    "0bda": {
        "applies_to": ("0bda", "0bdb", "0b6e"), "scheduler": "BurstableQoS", "autoprobe": 0, "max_vfs": 63,
        "totals": (47244640256, 47244640256, 1024, 240, 4026531840),
        "by_vfs": {
            1: (47244640256, 47244640256, 1024, 240, 4026531840),
            2: (23622320128, 23622320128, 1024, 120, 2013265920),
            3: (15748213418, 15748213418, 1024, 80, 1342177280),
            4: (11811160064, 11811160064, 1024, 60, 1006632960),
            8: (5905580032, 5905580032, 1024, 30, 503316480),
            16: (2952790016, 2952790016, 1024, 15, 251658240),
            32: (1476395008, 1476395008, 1024, 7, 125829120),
            63: (738197504, 738197504, 1024, 3, 63897600),
        },
    },
    "e211": {
        "applies_to": ("e211", "e216"), "scheduler": "BurstableQoS", "autoprobe": 0, "max_vfs": 24,
        "totals": (25367150592, 21500002304, 1024, 240, 4026531840),
        "by_vfs": {},
    },
    "e222": {
        "applies_to": ("e222",), "scheduler": "BurstableQoS", "autoprobe": 0, "max_vfs": 24,
        "totals": (33285996544, 28293097062, 1024, 256, 4171825152),
        "by_vfs": {},
    },
    "e223": {
        "applies_to": ("e223",), "scheduler": "BurstableQoS", "autoprobe": 0, "max_vfs": 12,
        "totals": (29771169792, 21500002304, 1024, 256, 4155076608),
        "by_vfs": {},
    },
    "e212": {
        "applies_to": ("e212",), "scheduler": "BurstableQoS", "autoprobe": 0, "max_vfs": 24,
        "totals": (16911433728, 14768144384, 1024, 256, 4155076608),
        "by_vfs": {},
    },
}

#: How the xe driver shares out its resources among N virtual functions when nobody provisions them: memory that the PF
#: keeps and the alignment of shares in bytes, and the totals of doorbells and contexts.
XE_FAIR = {"vram_spare": 134217728, "vram_align": 2097152, "doorbells": 256, "contexts": 65535}

#: Policy -> whether a virtual function's time is kept for it while it is idle.
SCHEDULERS = {"Flexible_30fps": False, "Fixed_30fps": True, "BurstableQoS": False}


def max_vfs(key, device_id):
    """The most virtual functions of a model with this device id, 0 for none, None when unknown."""
    model = MODELS[key]
    return model["max_vfs_by_id"].get(device_id, model["max_vfs"])


def preset(device_id, vfs):
    """
    What the vendor's tool gives each of ``vfs`` virtual functions of a GPU.

    :param device_id: PCI device id, four lower-case hex digits.
    :param vfs: number of virtual functions, 1 or more.
    :return: dict with ``lmem``, ``lmem_ecc`` and ``ggtt`` in bytes, ``contexts``, ``doorbells``, ``scheduler`` and ``autoprobe``;
        None where there is no preset for the GPU or so many VFs are beyond it.
    """
    entry = next((entry for entry in SRIOV_PRESETS.values() if device_id in entry["applies_to"]), None)
    if entry is None or not 1 <= vfs <= entry["max_vfs"]:
        return None
    row = entry["by_vfs"].get(vfs)
    if row is None:
        lmem, lmem_ecc, contexts, doorbells, ggtt = entry["totals"]
        row = (lmem // vfs, lmem_ecc // vfs, contexts, doorbells // vfs, ggtt // vfs)
    found = dict(zip(("lmem", "lmem_ecc", "contexts", "doorbells", "ggtt"), row, strict=True))
    return {**found, "scheduler": entry["scheduler"], "autoprobe": entry["autoprobe"]}


def vf_schedule(policy, vfs):
    """
    Time slices of each virtual function under a policy of :data:`SCHEDULERS`.

    :param vfs: number of virtual functions, 1 or more.
    :return: (execution quantum in ms, preemption timeout in µs).
    """
    if policy == "BurstableQoS":
        share = 2000 // max(vfs - 1, 1)
        quantum = min(share // 2, 50)
        return quantum, (share - quantum) * 1000
    return max(32 // vfs, 1), 128000 if vfs == 1 else max(64000 // vfs, 16000)


def pf_schedule(policy, family):
    """
    Time slice of the physical function under a policy: (execution quantum in ms, preemption timeout in µs).

    :param family: the model's ``family``. For Battlemage the newer version of the vendor's tool is followed.
    """
    if policy == "BurstableQoS" and family != "ATS-M":
        return 64, 128000
    return 20, 20000
