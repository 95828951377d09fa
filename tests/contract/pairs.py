"""
Which technique is tried on which example host, and with which wish.
"""

import pathlib
import shutil

import yaml

from tests.conftest import ROOT
from tests.contract import house
from tests.support import pillars

HOSTS = sorted(path.stem for path in (ROOT / "examples" / "hosts").glob("*.yaml"))


def _slicing(**settings):
    return {"containers_gpu_slicing": {"enabled": True, **settings}}


def _level_zero(**settings):
    """For hosts that are not the one of the example, which has two GPUs of given models."""
    return _slicing(strategy="level-zero", level_zero={"partitions": ["0"], **settings})


def _time_slicing(**match):
    """Whole GPUs, of each host that has any: those that match, or of the vendors whose drivers take the length of a turn."""
    rules = [match] if match else [{"vendor": "nvidia"}, {"model": "Intel Data Center GPU Flex*"}]
    wanted = [{"match": each, "strategy": "time-slicing"} for each in rules]
    return _slicing(devices=wanted, time_slicing={"max_instance_count": 3, "slice_duration": "500us"})


def _mps(**match):
    """Whole GPUs, of each host that has any: those that match, or all of NVIDIA's."""
    wanted = {"match": match or {"vendor": "nvidia"}, "strategy": "mps"}
    return _slicing(devices=[wanted], mps={"max_instance_count": 3})


def _power(percent=90):
    """A cap for each board of a host, beside no strategy."""
    return _slicing(power={"percent": percent})


#: (host, technique) -> what is wanted there: the example pillar that examples/top.sls gives it (where it is of that technique),
#: another one of examples/pillar that fits, or one of our own where none does.
WISHES = {
    ("a30-pair", "mig"): "a30",
    ("a30-pair", "mps"): _mps(pci="0000:a1:00.0"),
    ("a30-pair", "time-slicing"): _time_slicing(pci="0000:a1:00.0"),
    ("arc-pro-b60", "level-zero"): _level_zero(),
    ("arc-pro-b60", "passthrough"): "passthrough",
    ("arc-pro-b60", "sriov"): "arc_pro_b60",
    ("dgx-a100-40gb", "mig"): "a100",
    ("dgx-a100-40gb", "passthrough"): "passthrough",
    ("dgx-h100", "mig"): "h100",
    ("dgx-h100", "passthrough"): "passthrough",
    ("dgx-h100", "mps"): _mps(),
    ("dgx-h100", "time-slicing"): _time_slicing(),
    ("flex170", "level-zero"): _level_zero(),
    ("flex170", "passthrough"): "passthrough",
    ("flex170", "sriov"): "flex170",
    ("hgx-b200", "mig"): "b200",
    ("hgx-b200", "passthrough"): "passthrough",
    ("hgx-b200", "mps"): _mps(),
    ("hgx-b200", "time-slicing"): _time_slicing(),
    ("hgx-h200", "mig"): "h200",
    ("hgx-h200", "passthrough"): "passthrough",
    ("hgx-h200", "mps"): _mps(),
    ("hgx-h200", "time-slicing"): _time_slicing(),
    ("l4-pair", "mps"): _mps(),
    ("l4-pair", "time-slicing"): "time_slicing",
    ("l40s-pair", "mps"): "mps",
    ("l40s-pair", "time-slicing"): _time_slicing(),
    ("max1550", "level-zero"): _level_zero(partitions=["0", "1"]),
    ("max1550", "passthrough"): "passthrough",
    ("max1550", "sriov"): "max1550",
    ("memory-limits", "level-zero"): _level_zero(),
    ("memory-limits", "mps"): _mps(),
    ("memory-limits", "time-slicing"): _time_slicing(),
    ("mi210-gim", "sriov"): "mi210_gim",
    ("mi210-gim", "vf-passthrough"): _slicing(strategy="vf-passthrough", vf_passthrough={"functions": [1]}),
    ("mi300x-8", "partition"): "mi300x",
    ("mixed", "mig"): "mixed",
    ("mixed", "mps"): _mps(pci="0000:3b:00.0"),
    ("mixed", "time-slicing"): _time_slicing(pci="0000:3b:00.0"),
    ("mixed-vendors", "level-zero"): "level_zero",
    ("mixed-vendors", "mig"): "h100",
    ("mixed-vendors", "partition"): "mi300x",
    ("mixed-vendors", "passthrough"): "passthrough",
    ("mixed-vendors", "mps"): _mps(),
    ("mixed-vendors", "time-slicing"): _time_slicing(),
    ("rtx-pro-6000", "mig"): "rtx_pro_6000",
    ("rtx-pro-6000", "mps"): _mps(),
    ("rtx-pro-6000", "time-slicing"): _time_slicing(),
    ("vgpu-guest", "licence"): "vgpu_guest",
    ("vgpu-guest", "mps"): _mps(),
    ("vgpu-guest", "time-slicing"): _time_slicing(),
    ("vgpu-host-mdev", "mig"): "a100",
    ("vgpu-host-mdev", "passthrough"): "passthrough",
    ("vgpu-host-mdev", "vgpu"): "vgpu_host",
    ("vgpu-host-vfio", "mig"): "h100",
    ("vgpu-host-vfio", "passthrough"): "passthrough",
    ("vgpu-host-vfio", "vgpu"): "vgpu_host",
}
#: The same for tests that change a host many times: two slices of a kind, of which one is the first and one the last.
FEW = {
    ("flex170", "sriov"): _slicing(strategy="sriov", sriov={"vf_count": 2, "profile": "Flexible_30fps"}),
    ("mixed", "mig"): _slicing(
        devices=[
            {"match": {"model": "NVIDIA A100*40GB"}, "strategy": "mig", "mig": {"profiles": {"3g.20gb": 2}}},
            {"match": {"model": "NVIDIA A100*80GB*"}, "strategy": "mig", "mig": {"profiles": {"3g.40gb": 2}}},
            {"match": {"model": "NVIDIA H100*"}, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 2}}},
        ]
    ),
    ("vgpu-host-mdev", "vgpu"): _slicing(
        strategy="vgpu",
        vgpu={"profile": "T4-4Q", "count": 2},
        devices=[{"match": {"model": "NVIDIA A100*"}, "vgpu": {"profile": "", "profiles": {"A100D-1-10C": 2}}}],
    ),
    ("vgpu-host-vfio", "vgpu"): _slicing(
        strategy="vgpu", vgpu={"profile": "H100XM-10C", "count": 2, "scheduler": "equal-share"}
    ),
}  # fmt: skip
#: Where a technique only looks: what is there stands in the way of any change, and why.
LOOKS_ONLY = {
    ("dgx-a100-40gb", "mps"): "its GPUs are in MIG mode and have no MIG device that could be shared",
    ("dgx-a100-40gb", "time-slicing"): "its GPUs are in MIG mode and have no MIG device that could be shared",
    **dict.fromkeys(
        [(host, "vf-passthrough") for host in ("arc-pro-b60", "flex170", "max1550")],
        "it has no virtual function yet, and to make some is the work of another technique",
    ),
    ("mi210-gim", "passthrough"): "gim has made virtual functions, which passthrough would end",
}
#: Pairs that stand on what a driver made by default: an export writes that down, so that the driver's file is written.
ON_UNWRITTEN = {("mi210-gim", "vf-passthrough")}
#: Hosts whose description is changed, so that the example pillar can be had.
COMPUTE = {"rtx-pro-6000": {"display_mode": "compute"}}

#: Pairs whose changes go as those of others do, as far as a failure of them goes: tried at each step only with the slow tests.
ALIKE = {
    ("mixed-vendors", "partition"),
    ("memory-limits", "level-zero"),
    ("memory-limits", "mps"),
    ("memory-limits", "time-slicing"),
    ("arc-pro-b60", "passthrough"),
    ("vgpu-guest", "time-slicing"),
    ("l40s-pair", "time-slicing"),
    ("l4-pair", "mps"),
    ("vgpu-guest", "mps"),
    ("mixed-vendors", "mps"),
    ("rtx-pro-6000", "mps"),
    ("mixed", "mps"),
    ("hgx-h200", "mps"),
    ("hgx-b200", "mps"),
    ("dgx-h100", "mps"),
    ("a30-pair", "mps"),
    ("a30-pair", "time-slicing"),
    ("arc-pro-b60", "level-zero"),
    ("dgx-a100-40gb", "mig"),
    ("dgx-a100-40gb", "passthrough"),
    ("dgx-h100", "mig"),
    ("dgx-h100", "passthrough"),
    ("dgx-h100", "time-slicing"),
    ("flex170", "level-zero"),
    ("flex170", "passthrough"),
    ("hgx-b200", "passthrough"),
    ("hgx-b200", "time-slicing"),
    ("hgx-h200", "mig"),
    ("hgx-h200", "passthrough"),
    ("hgx-h200", "time-slicing"),
    ("max1550", "passthrough"),
    ("max1550", "sriov"),
    ("mixed", "time-slicing"),
    ("mixed-vendors", "mig"),
    ("rtx-pro-6000", "mig"),
    ("rtx-pro-6000", "time-slicing"),
    ("hgx-b200", "mig"),
    ("vgpu-host-mdev", "mig"),
    ("vgpu-host-mdev", "passthrough"),
    ("vgpu-host-vfio", "mig"),
    ("vgpu-host-vfio", "passthrough"),
}

_CAPPED = (
    "a30-pair", "arc-pro-b60", "dgx-a100-40gb", "dgx-h100", "flex170", "hgx-b200", "hgx-h200", "l4-pair", "l40s-pair", "max1550",
    "memory-limits", "mi300x-8", "mixed", "mixed-vendors", "rtx-pro-6000", "vgpu-host-mdev", "vgpu-host-vfio",
)  # fmt: skip
WISHES |= {(host, "power"): _power() for host in _CAPPED}
ALIKE |= {(host, "power") for host in _CAPPED if host != "mixed-vendors"}

CHANGING = sorted(WISHES)
LOOKING = sorted([*WISHES, *LOOKS_ONLY])


def ids(pairs):
    """Names of tests for pairs of host and technique."""
    return ["/".join(pair) for pair in pairs]


def pillar(pair, few=False, **management):
    """
    The pillar of a pair, with more settings for how it is changed.

    :param few: for a host that :func:`place` made with few GPUs: with few slices likewise.
    """
    found = FEW.get(pair, WISHES[pair]) if few else WISHES[pair]
    if isinstance(found, str):
        found = pillars.example(found)
    how = {**found.get("containers_gpu_state_management", {}), **management}
    return {**found, "containers_gpu_state_management": how}


def _fewer(gpus):
    """Of GPUs that differ only in where they are, the first two."""
    kinds = {}
    for gpu in gpus:
        what = repr(sorted((key, value) for key, value in gpu.items() if key not in ("address", "uuid", "numa_node")))
        kinds.setdefault(what, []).append(gpu)
    kept = [gpu for alike in kinds.values() for gpu in alike[:2]]
    return [gpu for gpu in gpus if gpu in kept]


def place(directory, host, few=False):
    """
    A new example host in a directory.

    :param few: with two GPUs of those that are alike, for tests that change it many times.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    described = yaml.safe_load((ROOT / "examples" / "hosts" / f"{host}.yaml").read_text(encoding="utf-8"))
    gpus = [{**gpu, **COMPUTE.get(host, {})} for gpu in described["gpus"]]
    described["gpus"] = _fewer(gpus) if few else gpus
    written = directory / f"{host}.yaml"
    written.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    return house.Place(str(written), str(directory / "state"))


def copied(original, directory):
    """A host as another one is now."""
    shutil.copytree(original.state_dir, directory)
    return original._replace(state_dir=str(directory))


def tree(place):
    """Every file of a host, its hardware and the kernel's files among them, as bytes."""
    root = pathlib.Path(place.state_dir)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def layouts(place):
    """{technique: {PCI address: layout}} of a host, of the techniques that are at work there."""
    found = {}
    with house.opened(place) as now:
        for name in house.NAMES:
            tool = house.tool(now, name)
            found[name] = {gpu.address: house.layout(tool, house.observe(tool, gpu)) for gpu in house.able(now, name)}
    return found
