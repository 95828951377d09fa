"""
What a refusal advises depends on who asks: a pillar is told its keys, somebody by hand what the functions take. Where only a
pillar can permit something, that is said.
"""

import re

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.rules import Rules
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config

#: Keys of a pillar, however they are written.
KEY = re.compile(r"containers_gpu_|apply_strategy|\b(?:mig|sriov|vgpu|mps|partition|time_slicing|level_zero|vf_passthrough):\w")
#: The one sentence that may name one by hand.
ONLY = re.compile(r"(?:[Oo]nly a pillar can permit|That their units[^.]*only a pillar can permit)[^)]*\)")


def hold(host, **what):
    """Somebody has a GPU (``gpu``: every device node of it and of its functions) or some nodes (``nodes``) open."""
    host.add_process({"pid": 4711, "command": "train.py", "unit": "job.service", **what})


def told(host, word, gpu, settings, wish=None, force=False):
    """What is told of a change by hand that is refused, or waits for a reboot."""
    with Engine(config(host)) as engine:
        reconciler = engine.reconciler(force=force, permissions={})
        try:
            result = reconciler.apply(engine.wanted(word, gpu, settings, wish))
        except errors.GpuSliceError as err:
            return str(err)
        return " ".join([*result.errors, *result.warnings, result.plan.text()])


def told_a_pillar(host, wanted):
    with Engine(config(host)) as engine:
        try:
            result = engine.apply(wanted)
        except errors.GpuSliceError as err:
            return str(err)
        return " ".join([*result.errors, *result.warnings])


A100, H100, MI300X, MI210, VGPU, FLEX = (
    "0000:07:00.0", "0000:1b:00.0", "0000:05:00.0", "0000:33:00.0", "0000:41:00.0", "0000:3c:00.0",
)  # fmt: skip


def _render(host, gpu):
    return [f"/dev/dri/{name}" for name in host.listdir(f"/sys/bus/pci/devices/{gpu}/drm")]


#: host, the word, GPU, settings and wish by hand, the pillar that asks for the same.
IN_USE = {
    "mig mode": ("mixed-vendors", "mig", H100, {"enabled": True}, None, pillars.for_gpu(H100, "mig", {"profiles": []})),
    "passthrough": ("mixed-vendors", "passthrough", H100, {"bound": True}, None, pillars.for_gpu(H100, "passthrough")),
    "vgpu": (
        "vgpu-host-vfio", "vgpu", VGPU, {"profile": "H100XM-10C"}, None,
        pillars.for_gpu(VGPU, "vgpu", {"profile": "H100XM-10C"}),
    ),
    "partition": (
        "mi300x-8", "partition", MI300X, {"compute": "CPX"}, None,
        pillars.for_gpu(MI300X, "partition", {"compute": "CPX"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_USE)
def test_what_is_in_use_is_ended_by_the_means_of_who_asks(simulated, case):
    name, word, gpu, settings, wish, pillar = IN_USE[case]
    host = simulated(name)
    hold(host, **({"nodes": ["/dev/kfd", *_render(host, gpu)]} if name == "mi300x-8" else {"gpu": gpu}))
    by_hand = told(host, word, gpu, settings, wish)
    assert "train.py" in by_hand and "force=True" in by_hand, by_hand
    assert not KEY.search(ONLY.sub("", by_hand)), by_hand
    highstate = told_a_pillar(host, pillar)
    assert "train.py" in highstate and "=True" not in highstate and "by hand" not in highstate
    assert "containers_gpu_state_management:apply_strategy to force" in highstate


def test_functions_of_a_gpu_that_a_virtual_machine_has(simulated):
    host = simulated("flex170")
    wanted = pillars.for_all("sriov", {"vf_count": 2}, slicing={"vf_passthrough": {"enabled": True}})
    assert apply(host, wanted).ok
    hold(host, nodes=[f"/dev/vfio/{host.readlink('/sys/bus/pci/devices/0000:3c:00.1/iommu_group')}"])
    for word, settings, wish in (
        ("sriov", {"vf_count": 0, "remove": True}, None),
        ("sriov", {"vf_count": 4}, None),
        ("vf-passthrough", {}, {"release": ["0000:3c:00.1"]}),
    ):
        by_hand = told(host, word, FLEX, settings, wish)
        assert "train.py" in by_hand and "force=True" in by_hand and not KEY.search(ONLY.sub("", by_hand)), by_hand
    assert "apply_strategy to force" in told_a_pillar(host, pillars.for_all("sriov", {"vf_count": 4}))


def test_a_reload_is_permitted_by_the_means_of_who_asks(simulated):
    host = simulated("mi300x-8")
    by_hand = told(host, "partition", "all", {"memory": "NPS4", "compute": "CPX"})
    assert "Say reload=True; all GPUs of that driver must be idle then." in by_hand and not KEY.search(by_hand), by_hand
    highstate = told_a_pillar(host, pillars.partition("CPX", "NPS4"))
    assert "Add amdgpu to containers_gpu_state_management:unload_modules; all GPUs" in highstate and "reload=" not in highstate


#: A board that can have several functions.
BOARD = {"vendor": "amd", "device": "75a0", "address": MI210, "driver": "gim", "sriov_totalvfs": 8, "numvfs": 1}


def test_a_reload_of_gim_too(simulated):
    host = simulated("mi210-gim", gpus=[BOARD])
    by_hand = told(host, "sriov", MI210, {"vf_count": 4})
    assert "gim may not be reloaded, so that this comes at a reboot. Say reload_driver=True to have it now" in by_hand, by_hand
    assert not KEY.search(by_hand)
    host = simulated("mi210-gim", gpus=[BOARD])
    with Engine(config(host)) as engine:
        result = engine.apply(pillars.for_all("sriov", {"vf_count": 4}))
    words = " ".join([*result.errors, *result.warnings, result.plan.text()])
    assert "Add gim to containers_gpu_state_management:unload_modules to have it now" in words, words
    assert "reload_driver" not in words


@pytest.mark.parametrize(
    ("host", "word", "gpu", "settings", "words"),
    [
        ("flex170", "sriov", FLEX, {"vf_count": 1, "vfs": {"2": {"vram_mib": 10}}}, "vfs has settings for vf2"),
        ("vgpu-host-vfio", "vgpu", VGPU, {}, "Name one in profile; licences"),
        ("vgpu-host-vfio", "vgpu", VGPU, {"profile": "H100XM-1-10C", "scheduler": "equal-share"}, "Leave scheduler out"),
        ("flex170", "vf-passthrough", FLEX, {"functions": [1]}, "'salt-call gpu_sriov.set_vfs'"),
    ],
)
def test_settings_are_called_by_their_arguments(simulated, host, word, gpu, settings, words):
    by_hand = told(simulated(host), word, gpu, settings)
    assert words in by_hand and not KEY.search(by_hand), by_hand


def test_without_an_iommu_the_argument_is_named(simulated):
    by_hand = told(simulated("flex170", iommu=False), "sriov", FLEX, {"vf_count": 2})
    assert "say autoprobe=True" in by_hand and not KEY.search(by_hand), by_hand
    highstate = told_a_pillar(simulated("flex170", iommu=False), pillars.for_all("sriov", {"vf_count": 2}))
    assert "set sriov:autoprobe to true" in highstate


def test_a_sick_gpu_is_mended_first(simulated):
    host = simulated("mixed-vendors")
    with host.change() as state:
        state["gpus"][H100]["health"]["row_remap_failed"] = True
    by_hand = told(host, "mig", H100, {"enabled": True})
    assert "not healthy" in by_hand and "Mend that first." in by_hand and not KEY.search(by_hand), by_hand
    assert "health_check to false" in told_a_pillar(host, pillars.for_gpu(H100, "mig", {"profiles": ["1g.10gb"]}))


def test_a_function_without_force_is_not_told_of_it():
    said = Rules(by_hand=True)
    for words in (said.stop_or_force(), said.force_it(), said.allow_reload("gim", "reload_driver")):
        assert "force=True" not in words and "reload_driver" not in words
        assert not KEY.search(ONLY.sub("", words)), words
