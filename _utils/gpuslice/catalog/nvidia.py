"""
NVIDIA GPU models and their MIG profiles.

These are facts gathered from public sources (documentation, logs of real machines, published driver sources). The driver
is the authority: what it answers wins over every number here. The table serves where there is no driver to ask: grains,
checking a policy beforehand, planning offline and simulated hosts.

Columns of :data:`MODELS`:

==================  ===========================================================================================
title               the boards that the entry covers, for people
device_ids          PCI device id (four lower-case hex digits) -> product name as the driver prints it, without "NVIDIA"; the
                    subsystem may decide otherwise, see :func:`product`
subsystem_ids       device halves of the PCI subsystem id that select this entry where boards share a device id; () = any
architecture        ``volta``, ``ampere``, ``hopper``, ...
compute_capability  CUDA compute capability, ``"8.0"``
memory_gb           memory of the board as its name says it, in GB; None where it shares that of the host
total_mib           what the driver typically reports as total memory, in MiB; None when unknown
mig                 whether the board has MIG
mode_change         what a change of the MIG mode needs: ``gpu_reset`` or ``nothing``; "" without MIG
mode_survives       what a MIG mode lasts through: ``reboot`` (kept on the board), or only until ``driver_unload``
slots               memory slices of the GPU; None when unknown
compute             compute slices of the GPU; None when unknown
max_instances       the most GPU instances that can exist at once
graphics            whether there are ``+gfx`` profiles
placements          how the placements are known: ``observed`` on hardware, ``derived`` from the family's rule, ``unknown``
min_driver          first driver version with MIG on the board, "" when unknown
profile_min_driver  profile name -> first driver branch that has it, where it is later than min_driver
vgpu_prefix         PCI device id -> board code in the names of its vGPU types
==================  ===========================================================================================

Columns of :data:`MIG_PROFILES`: name, enum (the index to ask a profile's info with), id (what creation wants and the
driver reports), compute slices, memory slices, memory slices where it may start, how many the GPU can have, memory in
MiB (differs a little between drivers: never compare for equality), multiprocessors, and the engines as (copy, NVDEC,
NVENC, JPEG, optical flow). None and an empty tuple mean unknown.
"""

from functools import cache

from gpuslice.catalog.mig import CiProfile
from gpuslice.catalog.mig import GiProfile
from gpuslice.catalog.mig import MigTable

VENDOR_ID = "10de"

MODELS: dict[str, dict] = {
    "a100-40gb": {
        "title": "A100 40GB (SXM4, PCIe) and A800 40GB",
        "device_ids": {
            "20b0": "A100-SXM4-40GB",
            "20b1": "A100-PCIE-40GB",
            "20f1": "A100-PCIE-40GB",
            "20bd": "A800-SXM4-40GB",
            "20f6": "A800 40GB Active",
        },
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 40, "total_mib": 40960,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "observed",
        "min_driver": "450.80.02",
        "profile_min_driver": {},
        "vgpu_prefix": {"20b0": "A100X", "20f1": "A100", "20f6": "A800"},
    },
    "a100-64gb": {
        "title": "A100-SXM 64GB custom board",
        "device_ids": {"20b3": "A100-SXM-64GB"},
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 64, "total_mib": 65536,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "a100-80gb": {
        "title": "A100 80GB (SXM4, PCIe) and A800 80GB",
        "device_ids": {"20b2": "A100-SXM4-80GB", "20b5": "A100 80GB PCIe", "20f3": "A800-SXM4-80GB", "20f5": "A800 80GB PCIe"},
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 80, "total_mib": 81920,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "observed",
        "min_driver": "450.80.02",
        "profile_min_driver": {"1g.20gb": "R525"},
        "vgpu_prefix": {"20b2": "A100DX", "20b5": "A100D", "20f3": "A800DX", "20f5": "A800D"},
    },
    "a100-96gb-pg506": {
        "title": "PG506-232 96GB GA100 board",
        "device_ids": {"20b6": "PG506-232"},
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 96, "total_mib": 98304,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "a100x-80gb": {
        "title": "A100X / AX800 80GB converged cards",
        "device_ids": {"20b8": "A100X", "20fd": "AX800"},
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 80, "total_mib": 81920,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "a30-24gb": {
        "title": "A30 24GB",
        "device_ids": {"20b7": "A30"},
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 24, "total_mib": 24576,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 4, "compute": 4, "max_instances": 4, "graphics": False, "placements": "observed",
        "min_driver": "460.73.01",
        "profile_min_driver": {"1g.6gb+me": "R470", "2g.12gb+me": "R525"},
        "vgpu_prefix": {"20b7": "A30"},
    },
    "a30x-24gb": {
        "title": "A30X converged card",
        "device_ids": {"20b9": "A30X"},
        "subsystem_ids": (),
        "architecture": "ampere", "compute_capability": "8.0",
        "memory_gb": 24, "total_mib": 24576,
        "mig": True, "mode_change": "gpu_reset", "mode_survives": "reboot",
        "slots": 4, "compute": 4, "max_instances": 4, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {"1g.6gb+me": "R470", "2g.12gb+me": "R525"},
        "vgpu_prefix": {},
    },
    "b200-180gb": {
        "title": "B200 180GB",
        "device_ids": {"2901": "B200"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "10.0",
        "memory_gb": 180, "total_mib": 183359,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "570.133.20",
        "profile_min_driver": {},
        "vgpu_prefix": {"2901": "B200X"},
    },
    "b300-269gb": {
        "title": "B300 SXM6 269GB",
        "device_ids": {"3182": "B300 SXM6 AC"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "10.0",
        "memory_gb": 269, "total_mib": 275040,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "580.82.07",
        "profile_min_driver": {},
        "vgpu_prefix": {"3182": "B300X"},
    },
    "gb200-186gb": {
        "title": "GB200 186GB",
        "device_ids": {"2941": "GB200"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "10.0",
        "memory_gb": 186, "total_mib": 189471,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "570.133.20",
        "profile_min_driver": {},
        "vgpu_prefix": {"2941": "GB200"},
    },
    "gb300-278gb": {
        "title": "GB300 278GB",
        "device_ids": {"31c2": "GB300"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "10.0",
        "memory_gb": 278, "total_mib": 284208,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "595.58.03",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "gh200-144gb": {
        "title": "GH200 144G HBM3e",
        "device_ids": {"2348": "GH200 144G HBM3e"},
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 144, "total_mib": 147456,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {"2348": "GH200L"},
    },
    "h100-64gb": {
        "title": "H100 SXM5 64GB custom board",
        "device_ids": {"2337": "H100 64GB HBM3"},
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 64, "total_mib": 65247,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {"2337": "H100XS"},
    },
    "h100-80gb": {
        "title": "H100 80GB (SXM5, PCIe) and H800 80GB",
        "device_ids": {
            "2330": "H100 80GB HBM3",
            "2331": "H100 PCIe",
            "2336": "H100 80GB HBM2e",
            "2322": "H800 PCIe",
            "2324": "H800",
        },
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 80, "total_mib": 81559,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "observed",
        "min_driver": "525.85.12",
        "profile_min_driver": {},
        "vgpu_prefix": {"2330": "H100XM", "2331": "H100", "2322": "H800", "2324": "H800XM"},
    },
    "h100-94gb": {
        "title": "H100 NVL 94GB, H100 SXM5 94GB, H800 NVL 94GB",
        "device_ids": {"2321": "H100 NVL", "2339": "H100", "233a": "H800 NVL"},
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 94, "total_mib": 95830,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "observed",
        "min_driver": "525.85.12",
        "profile_min_driver": {},
        "vgpu_prefix": {"2321": "H100L", "2339": "H100XL", "233a": "H800L"},
    },
    "h100-96gb": {
        "title": "H100 96GB, GH200 96GB (listed as GH200 120GB/480GB), H20 96GB",
        "device_ids": {
            "2338": "H100 96GB HBM3",
            "233d": "H100 96GB",
            "2342": "GH200 120GB",
            "2345": "GH200",
            "2329": "H20",
            "230e": "H20 NVL16",
        },
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 96, "total_mib": 97871,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "525.85.12",
        "profile_min_driver": {},
        "vgpu_prefix": {"2342": "GH200", "2329": "H20"},
    },
    "h20-141gb": {
        "title": "H20-3e 141GB",
        "device_ids": {"232c": "H20-3e"},
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 141, "total_mib": 143771,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {"232c": "H20X"},
    },
    "h200-141gb": {
        "title": "H200 141GB (SXM, NVL)",
        "device_ids": {"2335": "H200", "233b": "H200 NVL"},
        "subsystem_ids": (),
        "architecture": "hopper", "compute_capability": "9.0",
        "memory_gb": 141, "total_mib": 143771,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 8, "compute": 7, "max_instances": 7, "graphics": False, "placements": "derived",
        "min_driver": "550.90.07",
        "profile_min_driver": {},
        "vgpu_prefix": {"2335": "H200X", "233b": "H200"},
    },
    "rtx-6000d-84gb": {
        "title": "RTX 6000D 84GB",
        "device_ids": {"2bb9": "RTX 6000D"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "12.0",
        "memory_gb": 84, "total_mib": None,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": None, "compute": 2, "max_instances": 2, "graphics": True, "placements": "unknown",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {"2bb9": "RTX 6000D"},
    },
    "rtx-pro-4500-32gb": {
        "title": "RTX PRO 4500 Blackwell 32GB",
        "device_ids": {"2c31": "RTX PRO 4500 Blackwell"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "12.0",
        "memory_gb": 32, "total_mib": None,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": None, "compute": 2, "max_instances": 2, "graphics": True, "placements": "unknown",
        "min_driver": "575.64",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "rtx-pro-5000-48gb": {
        "title": "RTX PRO 5000 Blackwell 48GB",
        "device_ids": {"2bb3": "RTX PRO 5000 Blackwell"},
        "subsystem_ids": ("204d",),
        "architecture": "blackwell", "compute_capability": "12.0",
        "memory_gb": 48, "total_mib": 48935,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": None, "compute": 2, "max_instances": 2, "graphics": True, "placements": "unknown",
        "min_driver": "575.57.08",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "rtx-pro-5000-72gb": {
        "title": "RTX PRO 5000 Blackwell 72GB",
        "device_ids": {"2bb3": "RTX PRO 5000 72GB Blackwell"},
        "subsystem_ids": ("227a",),
        "architecture": "blackwell", "compute_capability": "12.0",
        "memory_gb": 72, "total_mib": None,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": None, "compute": None, "max_instances": None, "graphics": True, "placements": "unknown",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
    "rtx-pro-6000-96gb": {
        "title": "RTX PRO 6000 Blackwell 96GB (Server, Workstation, Max-Q)",
        "device_ids": {
            "2bb5": "RTX PRO 6000 Blackwell Server Edition",
            "2bb1": "RTX PRO 6000 Blackwell Workstation Edition",
            "2bb4": "RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        },
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "12.0",
        "memory_gb": 96, "total_mib": 97887,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": 4, "compute": 4, "max_instances": 4, "graphics": True, "placements": "derived",
        "min_driver": "575.51.03",
        "profile_min_driver": {},
        "vgpu_prefix": {"2bb5": "DC"},
    },
    # Integrated, but a PCI device all the same (Jetson Linux from 38 on); its memory is the host's, so its profiles say 0gb.
    "thor": {
        "title": "Jetson Thor integrated GPU",
        "device_ids": {"2b00": "Thor"},
        "subsystem_ids": (),
        "architecture": "blackwell", "compute_capability": "11.0",
        "memory_gb": None, "total_mib": None,
        "mig": True, "mode_change": "nothing", "mode_survives": "driver_unload",
        "slots": None, "compute": 3, "max_instances": 2, "graphics": True, "placements": "unknown",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    },
}

#: (PCI device id, device half of the PCI subsystem id) -> product name, where the driver prints another one than for the rest of
#: the boards with that device id. GH200 are named after the memory of their processor.
_NAMES_BY_SUBSYSTEM = {
    ("1fb0", "1485"): "DGX Display",
    ("20b0", "1450"): "A100-PG509-200",
    ("20b2", "1625"): "PG509-210",
    ("20f5", "179a"): "A800 80GB PCIe LC",
    ("2342", "1809"): "GH200 480GB",
}

#: PCI device id -> names that this catalog had for it before. Pillars and records may have them.
_FORMER_NAMES = {
    "20b0": ("A100-SXM4-40GB",),
    "20b2": ("A100-SXM4-80GB",),
    "20f5": ("A800 80GB PCIe",),
    "2336": ("H100",),
    "2339": ("H100 94GB HBM3",),
    "2342": ("GH200 96GB",),
}

#: Boards without MIG: key -> (product names by device id, subsystem ids, architecture, compute capability, memory in GB).
_BOARDS_WITHOUT_MIG = {
    "a10": ({"2236": "A10"}, (), "ampere", "8.6", 24),
    "a10g": ({"2237": "A10G"}, (), "ampere", "8.6", 24),
    "a10m": ({"2238": "A10M"}, (), "ampere", "8.6", 20),
    "a16": ({"25b6": "A16"}, ("14a9",), "ampere", "8.6", 16),
    "a2": ({"25b6": "A2"}, ("157e",), "ampere", "8.6", 16),
    "a40": ({"2235": "A40"}, (), "ampere", "8.6", 48),
    "geforce-rtx-3090": ({"2204": "GeForce RTX 3090"}, (), "ampere", "8.6", 24),
    "geforce-rtx-4090": ({"2684": "GeForce RTX 4090"}, (), "ada", "8.9", 24),
    "geforce-rtx-5090": ({"2b85": "GeForce RTX 5090"}, (), "blackwell", "12.0", 32),
    "l2": ({"27b6": "L2"}, (), "ada", "8.9", 24),
    "l20": ({"26ba": "L20"}, (), "ada", "8.9", 48),
    "l4": ({"27b8": "L4"}, (), "ada", "8.9", 24),
    "l40": ({"26b5": "L40"}, (), "ada", "8.9", 48),
    "l40g": ({"26b8": "L40G"}, (), "ada", "8.9", 24),
    "l40s": ({"26b9": "L40S"}, (), "ada", "8.9", 48),
    "p100-12gb": ({"15f7": "Tesla P100-PCIE-12GB"}, (), "pascal", "6.0", 12),
    "p100-16gb": ({"15f8": "Tesla P100-PCIE-16GB", "15f9": "Tesla P100-SXM2-16GB"}, (), "pascal", "6.0", 16),
    "p4": ({"1bb3": "Tesla P4"}, (), "pascal", "6.1", 8),
    "p40": ({"1b38": "Tesla P40"}, (), "pascal", "6.1", 24),
    "quadro-gv100": ({"1dba": "Quadro GV100"}, (), "volta", "7.0", 32),
    "quadro-rtx-4000": ({"1eb1": "Quadro RTX 4000"}, (), "turing", "7.5", 8),
    "quadro-rtx-5000": ({"1eb0": "Quadro RTX 5000"}, (), "turing", "7.5", 16),
    "quadro-rtx-6000": ({"1e30": "Quadro RTX 6000"}, ("12ba",), "turing", "7.5", 24),
    "quadro-rtx-8000": ({"1e30": "Quadro RTX 8000"}, ("129e",), "turing", "7.5", 48),
    "rtx-4000-ada": ({"27b2": "RTX 4000 Ada Generation", "27b0": "RTX 4000 SFF Ada Generation"}, (), "ada", "8.9", 20),
    "rtx-4500-ada": ({"27b1": "RTX 4500 Ada Generation"}, (), "ada", "8.9", 24),
    "rtx-5000-ada": ({"26b2": "RTX 5000 Ada Generation"}, (), "ada", "8.9", 32),
    "rtx-5880-ada": ({"26b3": "RTX 5880 Ada Generation"}, (), "ada", "8.9", 48),
    "rtx-6000-ada": ({"26b1": "RTX 6000 Ada Generation"}, (), "ada", "8.9", 48),
    "rtx-a2000-12gb": ({"2571": "RTX A2000 12GB"}, (), "ampere", "8.6", 12),
    "rtx-a2000-6gb": ({"2531": "RTX A2000"}, (), "ampere", "8.6", 6),
    "rtx-a4000": ({"24b0": "RTX A4000"}, (), "ampere", "8.6", 16),
    "rtx-a4500": ({"2232": "RTX A4500"}, (), "ampere", "8.6", 20),
    "rtx-a5000": ({"2231": "RTX A5000"}, (), "ampere", "8.6", 24),
    "rtx-a5500": ({"2233": "RTX A5500"}, (), "ampere", "8.6", 24),
    "rtx-a6000": ({"2230": "RTX A6000"}, (), "ampere", "8.6", 48),
    "t1000": ({"1fb0": "T1000"}, (), "turing", "7.5", 4),
    "t4": ({"1eb8": "Tesla T4"}, (), "turing", "7.5", 16),
    "t40": ({"1e38": "Tesla T40 24GB"}, (), "turing", "7.5", 24),
    "titan-rtx": ({"1e02": "TITAN RTX"}, (), "turing", "7.5", 24),
    "titan-v": ({"1d81": "TITAN V"}, (), "volta", "7.0", 12),
    "v100-16gb": (
        {
            "1db1": "Tesla V100-SXM2-16GB",
            "1db2": "Tesla V100-DGXS-16GB",
            "1db3": "Tesla V100-FHHL-16GB",
            "1db4": "Tesla V100-PCIE-16GB",
            "1df5": "Tesla V100-SXM2-16GB",
        },
        (), "volta", "7.0", 16,
    ),
    "v100-32gb": (
        {
            "1db5": "Tesla V100-SXM2-32GB",
            "1db6": "Tesla V100-PCIE-32GB",
            "1db7": "Tesla V100-DGXS-32GB",
            "1db8": "Tesla V100-SXM3-32GB",
            "1df6": "Tesla V100S-PCIE-32GB",
        },
        (), "volta", "7.0", 32,
    ),
}

MIG_PROFILES = {
    "a100-40gb": (
        ("1g.5gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 4864, 14, (1, 0, 0, 0, 0)),
        ("1g.5gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 4864, 14, (1, 1, 0, 1, 1)),
        ("1g.10gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 9856, 14, (1, 1, 0, 0, 0)),
        ("2g.10gb", 1, 14, 2, 2, (0, 2, 4), 3, 9856, 28, (2, 1, 0, 0, 0)),
        ("3g.20gb", 2, 9, 3, 4, (0, 4), 2, 19968, 42, (3, 2, 0, 0, 0)),
        ("4g.20gb", 3, 5, 4, 4, (0,), 1, 19968, 56, (4, 2, 0, 0, 0)),
        ("7g.40gb", 4, 0, 7, 8, (0,), 1, 40192, 98, (7, 5, 0, 1, 1)),
    ),
    "a100-64gb": (
        ("1g.8gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 7936, 14, (1, 0, 0, 0, 0)),
        ("1g.8gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 7936, 14, (1, 1, 0, 1, 1)),
        ("1g.16gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 15936, 14, (1, 1, 0, 0, 0)),
        ("2g.16gb", 1, 14, 2, 2, (0, 2, 4), 3, 15936, 28, (2, 1, 0, 0, 0)),
        ("3g.32gb", 2, 9, 3, 4, (0, 4), 2, 31936, 42, (3, 2, 0, 0, 0)),
        ("4g.32gb", 3, 5, 4, 4, (0,), 1, 31936, 56, (4, 2, 0, 0, 0)),
        ("7g.64gb", 4, 0, 7, 8, (0,), 1, 63872, 98, (7, 5, 0, 1, 1)),
    ),
    "a100-80gb": (
        ("1g.10gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 9728, 14, (1, 0, 0, 0, 0)),
        ("1g.10gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 9728, 14, (1, 1, 0, 1, 1)),
        ("1g.20gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 19968, 14, (1, 1, 0, 0, 0)),
        ("2g.20gb", 1, 14, 2, 2, (0, 2, 4), 3, 19968, 28, (2, 1, 0, 0, 0)),
        ("3g.40gb", 2, 9, 3, 4, (0, 4), 2, 40192, 42, (3, 2, 0, 0, 0)),
        ("4g.40gb", 3, 5, 4, 4, (0,), 1, 40192, 56, (4, 2, 0, 0, 0)),
        ("7g.80gb", 4, 0, 7, 8, (0,), 1, 80640, 98, (7, 5, 0, 1, 1)),
    ),
    "a100-96gb-pg506": (
        ("1g.12gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 11968, 14, (1, 0, 0, 0, 0)),
        ("1g.12gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 11968, 14, (1, 1, 0, 1, 1)),
        ("1g.24gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 23936, 14, (1, 1, 0, 0, 0)),
        ("2g.24gb", 1, 14, 2, 2, (0, 2, 4), 3, 23936, 28, (2, 1, 0, 0, 0)),
        ("3g.48gb", 2, 9, 3, 4, (0, 4), 2, 47872, 42, (3, 2, 0, 0, 0)),
        ("4g.48gb", 3, 5, 4, 4, (0,), 1, 47872, 56, (4, 2, 0, 0, 0)),
        ("7g.96gb", 4, 0, 7, 8, (0,), 1, 95808, 98, (7, 5, 0, 1, 1)),
    ),
    "a100x-80gb": (
        ("1g.10gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 9728, 14, (1, 0, 0, 0, 0)),
        ("1g.10gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 9728, 14, (1, 1, 0, 1, 1)),
        ("1g.20gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 19968, 14, (1, 1, 0, 0, 0)),
        ("2g.20gb", 1, 14, 2, 2, (0, 2, 4), 3, 19968, 28, (2, 1, 0, 0, 0)),
        ("3g.40gb", 2, 9, 3, 4, (0, 4), 2, 40192, 42, (3, 2, 0, 0, 0)),
        ("4g.40gb", 3, 5, 4, 4, (0,), 1, 40192, 56, (4, 2, 0, 0, 0)),
        ("7g.80gb", 4, 0, 7, 8, (0,), 1, 80640, 98, (7, 5, 0, 1, 1)),
    ),
    "a30-24gb": (
        ("1g.6gb", 0, 14, 1, 1, (0, 1, 2, 3), 4, 5952, 14, (1, 1, 0, 0, 0)),
        ("1g.6gb+me", 7, 21, 1, 1, (0, 1, 2, 3), 1, 5952, 14, (1, 1, 0, 1, 1)),
        ("2g.12gb", 1, 5, 2, 2, (0, 2), 2, 11968, 28, (2, 2, 0, 0, 0)),
        ("2g.12gb+me", 8, 6, 2, 2, (0, 2), 1, 11968, 28, (2, 2, 0, 1, 1)),
        ("4g.24gb", 3, 0, 4, 4, (0,), 1, 24000, 56, (4, 4, 0, 1, 1)),
    ),
    "a30x-24gb": (
        ("1g.6gb", 0, 14, 1, 1, (0, 1, 2, 3), 4, 5952, 14, (1, 1, 0, 0, 0)),
        ("1g.6gb+me", 7, 21, 1, 1, (0, 1, 2, 3), 1, 5952, 14, (1, 1, 0, 1, 1)),
        ("2g.12gb", 1, 5, 2, 2, (0, 2), 2, 11968, 28, (2, 2, 0, 0, 0)),
        ("2g.12gb+me", 8, 6, 2, 2, (0, 2), 1, 11968, 28, (2, 2, 0, 1, 1)),
        ("4g.24gb", 3, 0, 4, 4, (0,), 1, 24000, 56, (4, 4, 0, 1, 1)),
    ),
    "b200-180gb": (
        ("1g.23gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 22528, 18, (2, 1, 0, 1, 0)),
        ("1g.23gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 22528, 18, (2, 1, 0, 1, 1)),
        ("1g.45gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 45312, 30, (2, 1, 0, 1, 0)),
        ("2g.45gb", 1, 14, 2, 2, (0, 2, 4), 3, 45312, 36, (4, 2, 0, 2, 0)),
        ("3g.90gb", 2, 9, 3, 4, (0, 4), 2, 91136, None, (6, 3, 0, 3, 0)),
        ("4g.90gb", 3, 5, 4, 4, (0,), 1, 91136, None, (8, 4, 0, 4, 0)),
        ("7g.180gb", 4, 0, 7, 8, (0,), 1, 182784, None, (16, 7, 0, 7, 1)),
    ),
    "b300-269gb": (
        ("1g.34gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 33472, None, None),
        ("1g.34gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 33472, None, None),
        ("1g.67gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 67008, None, None),
        ("2g.67gb", 1, 14, 2, 2, (0, 2, 4), 3, 67008, None, None),
        ("3g.135gb", 2, 9, 3, 4, (0, 4), 2, 134080, None, None),
        ("4g.135gb", 3, 5, 4, 4, (0,), 1, 134080, None, None),
        ("7g.269gb", 4, 0, 7, 8, (0,), 1, 268160, None, None),
    ),
    "gb200-186gb": (
        ("1g.23gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 22528, None, (2, 1, 0, 1, 0)),
        ("1g.23gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 22528, None, (2, 1, 0, 1, 1)),
        ("1g.47gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 46592, 32, (2, 1, 0, 1, 0)),
        ("2g.47gb", 1, 14, 2, 2, (0, 2, 4), 3, 46592, 38, (4, 2, 0, 2, 0)),
        ("3g.93gb", 2, 9, 3, 4, (0, 4), 2, 93696, None, (6, 3, 0, 3, 0)),
        ("4g.93gb", 3, 5, 4, 4, (0,), 1, 93696, None, (8, 4, 0, 4, 0)),
        ("7g.186gb", 4, 0, 7, 8, (0,), 1, 188416, None, (16, 7, 0, 7, 1)),
    ),
    "gb300-278gb": (
        ("1g.35gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 34624, None, None),
        ("1g.35gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 34624, None, None),
        ("1g.70gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 69248, None, None),
        ("2g.70gb", 1, 14, 2, 2, (0, 2, 4), 3, 69248, None, None),
        ("3g.139gb", 2, 9, 3, 4, (0, 4), 2, 138496, None, None),
        ("4g.139gb", 3, 5, 4, 4, (0,), 1, 138496, None, None),
        ("7g.278gb", 4, 0, 7, 8, (0,), 1, 277056, None, None),
    ),
    "gh200-144gb": (
        ("1g.18gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 17920, 16, (1, 1, 0, 1, 0)),
        ("1g.18gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 17920, 16, (1, 1, 0, 1, 1)),
        ("1g.36gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 36096, 26, (1, 1, 0, 1, 0)),
        ("2g.36gb", 1, 14, 2, 2, (0, 2, 4), 3, 36096, 32, (2, 2, 0, 2, 0)),
        ("3g.72gb", 2, 9, 3, 4, (0, 4), 2, 72704, 60, (3, 3, 0, 3, 0)),
        ("4g.72gb", 3, 5, 4, 4, (0,), 1, 72704, 64, (4, 4, 0, 4, 0)),
        ("7g.144gb", 4, 0, 7, 8, (0,), 1, 145408, 132, (8, 7, 0, 7, 1)),
    ),
    "h100-64gb": (
        ("1g.8gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 7936, 16, (1, 1, 0, 1, 0)),
        ("1g.8gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 7936, 16, (1, 1, 0, 1, 1)),
        ("1g.16gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 15872, 26, (1, 1, 0, 1, 0)),
        ("2g.16gb", 1, 14, 2, 2, (0, 2, 4), 3, 15872, 32, (2, 2, 0, 2, 0)),
        ("3g.32gb", 2, 9, 3, 4, (0, 4), 2, 31744, 60, (3, 3, 0, 3, 0)),
        ("4g.32gb", 3, 5, 4, 4, (0,), 1, 31744, 64, (4, 4, 0, 4, 0)),
        ("7g.64gb", 4, 0, 7, 8, (0,), 1, 63552, 132, (8, 7, 0, 7, 1)),
    ),
    "h100-80gb": (
        ("1g.10gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 9984, 16, (1, 1, 0, 1, 0)),
        ("1g.10gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 9984, 16, (1, 1, 0, 1, 1)),
        ("1g.20gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 20096, 26, (1, 1, 0, 1, 0)),
        ("2g.20gb", 1, 14, 2, 2, (0, 2, 4), 3, 20096, 32, (2, 2, 0, 2, 0)),
        ("3g.40gb", 2, 9, 3, 4, (0, 4), 2, 40448, 60, (3, 3, 0, 3, 0)),
        ("4g.40gb", 3, 5, 4, 4, (0,), 1, 40448, 64, (4, 4, 0, 4, 0)),
        ("7g.80gb", 4, 0, 7, 8, (0,), 1, 81152, 132, (8, 7, 0, 7, 1)),
    ),
    "h100-94gb": (
        ("1g.12gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 11008, 16, (1, 1, 0, 1, 0)),
        ("1g.12gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 11008, 16, (1, 1, 0, 1, 1)),
        ("1g.24gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 22144, 26, (1, 1, 0, 1, 0)),
        ("2g.24gb", 1, 14, 2, 2, (0, 2, 4), 3, 22144, 32, (2, 2, 0, 2, 0)),
        ("3g.47gb", 2, 9, 3, 4, (0, 4), 2, 47488, 60, (3, 3, 0, 3, 0)),
        ("4g.47gb", 3, 5, 4, 4, (0,), 1, 47488, 64, (4, 4, 0, 4, 0)),
        ("7g.94gb", 4, 0, 7, 8, (0,), 1, 95360, 132, (8, 7, 0, 7, 1)),
    ),
    "h100-96gb": (
        ("1g.12gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 11904, None, (1, 1, 0, 1, 0)),
        ("1g.12gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 11904, None, (1, 1, 0, 1, 1)),
        ("1g.24gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 23808, None, (1, 1, 0, 1, 0)),
        ("2g.24gb", 1, 14, 2, 2, (0, 2, 4), 3, 23808, None, (2, 2, 0, 2, 0)),
        ("3g.48gb", 2, 9, 3, 4, (0, 4), 2, 47680, None, (3, 3, 0, 3, 0)),
        ("4g.48gb", 3, 5, 4, 4, (0,), 1, 47680, None, (4, 4, 0, 4, 0)),
        ("7g.96gb", 4, 0, 7, 8, (0,), 1, 95424, None, (8, 7, 0, 7, 1)),
    ),
    "h20-141gb": (
        ("1g.18gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 16384, None, (1, 1, 0, 1, 0)),
        ("1g.18gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 16384, None, (1, 1, 0, 1, 1)),
        ("1g.35gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 33024, None, (1, 1, 0, 1, 0)),
        ("2g.35gb", 1, 14, 2, 2, (0, 2, 4), 3, 33024, None, (2, 2, 0, 2, 0)),
        ("3g.71gb", 2, 9, 3, 4, (0, 4), 2, 71168, None, (3, 3, 0, 3, 0)),
        ("4g.71gb", 3, 5, 4, 4, (0,), 1, 71168, None, (4, 4, 0, 4, 0)),
        ("7g.141gb", 4, 0, 7, 8, (0,), 1, 143104, None, (8, 7, 0, 7, 1)),
    ),
    "h200-141gb": (
        ("1g.18gb", 0, 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 16384, 16, (1, 1, 0, 1, 0)),
        ("1g.18gb+me", 7, 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 16384, 16, (1, 1, 0, 1, 1)),
        ("1g.35gb", 9, 15, 1, 2, (0, 2, 4, 6), 4, 33024, 26, (1, 1, 0, 1, 0)),
        ("2g.35gb", 1, 14, 2, 2, (0, 2, 4), 3, 33024, 32, (2, 2, 0, 2, 0)),
        ("3g.71gb", 2, 9, 3, 4, (0, 4), 2, 71168, 60, (3, 3, 0, 3, 0)),
        ("4g.71gb", 3, 5, 4, 4, (0,), 1, 71168, 64, (4, 4, 0, 4, 0)),
        ("7g.141gb", 4, 0, 7, 8, (0,), 1, 143104, 132, (8, 7, 0, 7, 1)),
    ),
    "rtx-6000d-84gb": (
        ("1g.42gb", 0, 14, 1, None, (), 2, None, None, None),
        ("2g.84gb", 1, 5, 2, None, (), 1, None, None, None),
    ),
    "rtx-pro-4500-32gb": (
        ("1g.16gb", 0, 14, 1, None, (), 2, None, None, None),
        ("1g.16gb+gfx", 10, 47, 1, None, (), 2, None, None, None),
        ("1g.16gb-me", 13, 67, 1, None, (), 2, None, None, None),
        ("1g.16gb+me.all", 15, 65, 1, None, (), 1, None, None, None),
        ("2g.32gb", 1, 5, 2, None, (), 1, None, None, None),
        ("2g.32gb+gfx", 11, 35, 2, None, (), 1, None, None, None),
    ),
    "rtx-pro-5000-48gb": (
        ("1g.24gb", 0, 14, 1, None, (), 2, None, None, (None, 1, 1, 0, 0)),
        ("1g.24gb+me", 7, 21, 1, None, (), 1, None, None, None),
        ("1g.24gb+gfx", 10, 47, 1, None, (), 2, None, None, None),
        ("1g.24gb-me", 13, 67, 1, None, (), 2, None, None, (None, 0, 0, 0, 0)),
        ("1g.24gb+me.all", 15, 65, 1, None, (), 1, None, None, (None, 3, 3, 1, 1)),
        ("2g.48gb", 1, 5, 2, None, (), 1, None, None, None),
        ("2g.48gb+gfx", 11, 35, 2, None, (), 1, None, None, None),
    ),
    "rtx-pro-6000-96gb": (
        ("1g.24gb", 0, 14, 1, 1, (0, 1, 2, 3), 4, 24192, 46, (1, 1, 1, 1, 0)),
        ("1g.24gb+me", 7, 21, 1, 1, (0, 1, 2, 3), 1, 24192, 46, (1, 1, 1, 1, 1)),
        ("1g.24gb+gfx", 10, 47, 1, 1, (0, 1, 2, 3), 4, 24192, 46, (1, 1, 1, 1, 0)),
        ("1g.24gb-me", 13, 67, 1, 1, (0, 1, 2, 3), 4, 24192, 46, (1, 0, 0, 0, 0)),
        ("1g.24gb+me.all", 15, 65, 1, 1, (0, 1, 2, 3), 1, 24192, 46, (1, 4, 4, 4, 1)),
        ("2g.48gb", 1, 5, 2, 2, (0, 2), 2, 48512, 94, (2, 2, 2, 2, 0)),
        ("2g.48gb+gfx", 11, 35, 2, 2, (0, 2), 2, 48512, 94, (2, 2, 2, 2, 0)),
        ("2g.48gb-me", 14, 66, 2, 2, (0, 2), 2, 48512, 94, (2, 0, 0, 0, 0)),
        ("2g.48gb+me.all", 16, 64, 2, 2, (0, 2), 1, 48512, 94, (2, 4, 4, 4, 1)),
        ("4g.96gb", 3, 0, 4, 4, (0,), 1, 97280, 188, (4, 4, 4, 4, 1)),
        ("4g.96gb+gfx", 12, 32, 4, 4, (0,), 1, 97280, 188, (4, 4, 4, 4, 1)),
    ),
}

#: Profile names that other driver versions use -> the name in :data:`MIG_PROFILES`.
_ALIASES = {
    "gb200-186gb": {
        "1g.24gb": "1g.23gb",
        "1g.24gb+me": "1g.23gb+me",
        "3g.95gb": "3g.93gb",
        "4g.95gb": "4g.93gb",
        "7g.189gb": "7g.186gb",
    },
}

#: Compute instances inside a GPU instance of so many compute slices: (slices, enum, id, how many, where they may start).
#: The last one fills the GPU instance. The rule was observed on A100 boards and is the same on every board seen since.
_COMPUTE_INSTANCES = {
    1: ((1, 0, 0, 1, (0,)),),
    2: ((1, 0, 0, 2, (0, 1)), (2, 1, 1, 1, (0,))),
    3: ((1, 0, 0, 3, (0, 1, 2)), (2, 1, 1, 1, (0,)), (3, 2, 2, 1, (0,))),
    4: ((1, 0, 0, 4, (0, 1, 2, 3)), (2, 1, 1, 2, (0, 2)), (4, 3, 3, 1, (0,))),
    7: (
        (1, 0, 0, 7, (0, 1, 2, 3, 4, 5, 6)),
        (2, 1, 1, 3, (0, 2, 4)),
        (3, 2, 2, 2, (0, 4)),
        (4, 3, 3, 1, (0,)),
        (7, 4, 4, 1, (0,)),
    ),
}


def _without_mig(device_ids, subsystem_ids, architecture, compute_capability, memory_gb):
    """An entry of :data:`MODELS` for a board without MIG."""
    return {
        "title": " / ".join(sorted(set(device_ids.values()))),
        "device_ids": device_ids,
        "subsystem_ids": subsystem_ids,
        "architecture": architecture,
        "compute_capability": compute_capability,
        "memory_gb": memory_gb,
        "total_mib": None,
        "mig": False,
        "mode_change": "",
        "mode_survives": "",
        "slots": None,
        "compute": None,
        "max_instances": 0,
        "graphics": False,
        "placements": "unknown",
        "min_driver": "",
        "profile_min_driver": {},
        "vgpu_prefix": {},
    }


MODELS.update({key: _without_mig(*row) for key, row in _BOARDS_WITHOUT_MIG.items()})


def _attributes(name):
    """The attributes in a profile's name: ``1g.10gb+me`` -> ("me",), ``1g.24gb-me`` -> ("-me",)."""
    if "+" in name:
        return tuple(name.partition("+")[2].split(","))
    if "-" in name:
        return ("-" + name.partition("-")[2],)
    return ()


def _compute_instances(name, slices):
    """The compute instance profiles inside the GPU instance profile ``name`` of ``slices`` compute slices."""
    return tuple(
        CiProfile(name if taken == slices else f"{taken}c.{name}", enum, identity, taken, count, starts)
        for taken, enum, identity, count, starts in _COMPUTE_INSTANCES[slices]
    )


@cache
def mig_table(key):
    """
    The MIG profiles of a model.

    :param key: key of :data:`MODELS`.
    :return: :class:`gpuslice.catalog.mig.MigTable`, None for a model without MIG or whose placements are not known publicly.
    """
    model = MODELS.get(key)
    if not model or not model["slots"] or key not in MIG_PROFILES:
        return None
    profiles = tuple(
        GiProfile(
            name=name,
            enum=enum,
            id=identity,
            slices=slices,
            size=size,
            starts=starts,
            count=count,
            memory_mib=memory or 0,
            attributes=_attributes(name),
            sm=sm or 0,
            engines=tuple(engine or 0 for engine in engines or (0, 0, 0, 0, 0)),
            cis=_compute_instances(name, slices),
        )
        for name, enum, identity, slices, size, starts, count, memory, sm, engines in MIG_PROFILES[key]
    )
    return MigTable(model["slots"], model["compute"], profiles)


def product(key, device_id, subsystem_id=""):
    """Name of a model's board as the driver prints it, without "NVIDIA"; ``subsystem_id`` is ``vvvv:dddd``, "" when unknown."""
    other = _NAMES_BY_SUBSYSTEM.get((device_id, subsystem_id.lower().rpartition(":")[2]))
    return other or MODELS[key]["device_ids"][device_id]


def former_names(device_id):
    """Names, without "NVIDIA", that earlier versions of this catalog gave the boards with that PCI device id."""
    return _FORMER_NAMES.get(device_id, ())


def profile_names(key):
    """Names of the MIG profiles of a model, also where the placements are not known; () when nothing is known."""
    return tuple(row[0] for row in MIG_PROFILES.get(key, ()))


def aliases(key):
    """What other driver versions call this model's profiles: {their name: the name here}."""
    return dict(_ALIASES.get(key, {}))
