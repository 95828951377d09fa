"""
By hand as in the pillar: every key of every section has its argument, and what the one takes the other takes too, in the same
words and types.
"""

import importlib.util
import inspect

import pytest
from salt.utils.args import yamlify_arg

from gpuslice import arguments
from gpuslice import errors
from gpuslice import kinds
from gpuslice import policy
from gpuslice.policy import build
from gpuslice.techniques.mig import asks
from gpuslice.techniques.partition.modes import mode_of
from tests.conftest import ROOT

#: Word of the pillar -> the functions that set it.
FUNCTIONS = {
    "mig": ("gpu_mig.apply_layout", "gpu_mig.set_mode"), "time-slicing": ("gpu_time_slicing.configure",),
    "mps": ("gpu_mps.configure",), "sriov": ("gpu_sriov.set_vfs",), "vgpu": ("gpu_vgpu.set_vgpus", "gpu_vgpu.set_license"),
    "partition": ("gpu_partition.set_mode",), "level-zero": ("gpu_level_zero.configure",),
    "vf-passthrough": ("gpu_passthrough.bind",), "power": ("gpu_power.configure",),
}  # fmt: skip
#: The arguments that are called otherwise: by hand a GPU is named, and its count and mode are what the function is about.
CALLED = {
    ("mig", "mode"): "enabled", ("mig", "gpu_instance_count"): "gpu_instances",
    ("mig", "compute_instance_count"): "compute_instances", ("sriov", "vf_count"): "count",
    ("sriov", "pf_device"): "gpu", ("vf-passthrough", "functions"): "gpu",
}  # fmt: skip
#: Keys that a function by hand has no use for: they choose among what a pillar reaches.
PILLAR_ONLY = {("sriov", "vf_devices")}
#: Asked for by itself it says nothing, which is a mistake by hand and a default in a pillar.
SAYS_NOTHING = {("power", "limit_watts"): "0", ("power", "percent"): "0"}
#: What is tried of every key: texts as YAML makes something of them on a command line, and values of a pillar.
WORDS = (
    "0", "1", "4", "64", "1000000", "-1", "1.5", "true", "on", "off", "yes", "y", "enabled", "Disabled", "all", "auto", "equal",
    "EQUAL", "weighted", "100ms", "0.5s", "100", "CPX", "cpx", "nps4", "NPS4", "spx", "best-effort", "Fair", "fair", "flat",
    "FLAT", "v3",
    "3g.40gb", "3g.40gb@4", '["3g.40gb", "1g.10gb"]', '{"1g.10gb": 4}', "[2, 1, 1]", '{"1": {"vram_mib": 8192}}', "[]", "{}",
    '["0", "0.1"]', '{"ccs": {"timeslice_duration_us": 2000}}', '{"priority": "LOW"}', '{"exec_quantum_ms": "20"}', "gpu.slice",
    "default", "licence.example.com", "workstation", "H100XM-10C", '{"H100XM-20C": 2}', "~",
)  # fmt: skip


def signature(function):
    module, name = function.split(".")
    spec = importlib.util.spec_from_file_location(f"_by_hand_{module}", ROOT / "_modules" / f"{module}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return inspect.signature(getattr(made, name)).parameters


def sections():
    """(word, key) of all settings of the pillar."""
    for word, key in kinds.SECTIONS.items():
        fields = kinds.section(kinds.called(word)).FIELD.fields
        yield from ((word, name) for name in fields if name != "enabled" and key)


KEYS = sorted(set(sections()) - PILLAR_ONLY)


@pytest.mark.parametrize(("word", "key"), KEYS, ids=[":".join(pair) for pair in KEYS])
def test_every_key_has_its_argument(word, key):
    wanted = CALLED.get((word, key), key)
    assert any(wanted in signature(function) for function in FUNCTIONS[word])
    assert arguments.known(wanted)


def in_a_pillar(word, key, value):
    """Whether a pillar takes a value: what is said of it alone, and not of what it lacks beside it."""
    section = kinds.SECTIONS[word]
    try:
        policy.parse({"containers_gpu_slicing": {"enabled": True, "strategy": "none", section: {key: value}}})
    except errors.PolicyError as err:
        return not any(f":{section}:{key}" in line for line in err.mistakes)
    return True


def beside(key, value):
    """What a value is asked for with: some mean nothing alone."""
    if (key, value) == ("share_policy", "weighted"):
        return {"weights": [2, 1]}
    return {"vram_slice": "gpu.slice"} if key == "vram_max_mib" else {}


def by_hand(word, key, value):
    """Whether a function by hand takes it."""
    name = CALLED.get((word, key), key)
    try:
        arguments.check(**{name: value})
        if (word, key) == ("mig", "profiles"):
            asks.layout(value)
        elif word == "partition":
            mode_of(None, key, value)
        elif word != "mig":
            build.section(word, {key: value, **beside(key, value)})
    except (errors.PolicyError, AttributeError):
        return False
    return True


SETTINGS = sorted(set(KEYS) - {key for key, name in CALLED.items() if name == "gpu"})


@pytest.mark.parametrize(("word", "key"), SETTINGS, ids=[":".join(pair) for pair in SETTINGS])
def test_the_pillar_and_a_function_take_the_same(word, key):
    values = {text: yamlify_arg(text) for text in WORDS if text not in ("~", SAYS_NOTHING.get((word, key)))}
    taken = {text: (in_a_pillar(word, key, value), by_hand(word, key, value)) for text, value in values.items()}
    different = {text: both for text, both in taken.items() if len(set(both)) > 1}
    assert not different, different
    assert any(by for _, by in taken.values())


@pytest.mark.parametrize("word", ["enabled", "ENABLED", "on", "yes", "true"])
def test_a_mode_is_switched_by_the_same_words(word):
    value = yamlify_arg(word)
    arguments.check(enabled=value)
    assert arguments.is_on(value) is True
    rule = policy.parse({"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"mode": value, "profiles": []}}})
    assert rule.default.settings["mig"]["entries"] == []
    other = {"enabled": "disabled", "ENABLED": "Disabled"}.get(word, "off")
    off = {"mode": yamlify_arg(other)}
    assert policy.parse({"containers_gpu_slicing": {"strategy": "mig", "mig": off}}).default.settings["mig"] == {"enabled": False}
    assert arguments.is_on(yamlify_arg(other)) is False
