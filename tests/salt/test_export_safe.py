"""
What is exported is a file that Salt renders, and names of boards are whatever their firmware says: rendering it runs nothing.
"""

import os

import pytest

from gpuslice import errors
from gpuslice import policy
from gpuslice.engine import Engine
from tests.support.hosts import config

GPU = "0000:41:00.0"
EVIL = [
    "{{ salt['file.touch']('PWNED') }}",
    "x {{ 7 * 7 }} y",
    "{% set x = salt['file.touch']('PWNED') %}",
    "{# comment",
    "{% raw %}",
    "#!py\ndef run():\n    open('PWNED', 'w').close()\n    return {}",
    "#!jinja|yaml",
    "!!python/object/apply:os.system ['touch PWNED']",
    "&anchor x",
    "*anchor",
    "<<: *anchor",
    "a\nb: {{ 1 }}",
    "a\r\nb: c",
    "a\u2028b\u0085c",
    "${self.module.os.system('touch PWNED')}",
    "<% import os; os.system('touch PWNED') %>",
    "% import os",
    "## mako",
    "'\"; x: y",
    "back\\slash",
    "  spaces  ",
    "name: value",
    "- item",
    "null",
    "0000:41:00.0",
    "\x1b[2J\x00",
    "long " * 60 + "{{ 1 }}",
    "eyJhbGciOiJSUzI1NiJ9.token.signature",
]


def passed(minion, name):
    """A minion with a board of that name which was given to virtual machines, as exported."""
    gpu = {"vendor": "amd", "device": "fffe", "address": GPU, "driver": "", "sysfs": {"product_name": name}}
    on = minion("mixed-vendors", changes={"gpus": [gpu]})
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "passthrough"}}
    assert on.call("gpu_slicing.apply", wanted)["result"] is True
    return on


@pytest.mark.parametrize("name", EVIL)
def test_rendering_what_was_exported_runs_nothing_and_gives_it_back(minion, name, tmp_path):
    witness = tmp_path / "witness"
    on = passed(minion, name.replace("PWNED", str(witness)))
    file = tmp_path / "gpus.sls"
    assert on.state("gpu_slicing.exported", name=str(file)).result is True
    exported = on.call("gpu_slicing.export")
    for render in ("jinja|yaml", "yaml"):
        assert on.call("slsutil.renderer", path=str(file), default_renderer=render) == exported
    assert not witness.exists() and not os.path.exists("PWNED")
    # As a pillar it is valid, and still fits the board.
    [rule] = exported["containers_gpu_slicing"]["devices"]
    assert rule["match"]["pci"] == GPU and rule["strategy"] == "passthrough"
    tested = on.call("gpu_slicing.apply", exported, test=True)
    assert tested["result"] is True and tested["changes"] == {}


def test_a_plain_name_is_written_as_it_is(minion):
    on = passed(minion, "Radeon Pro V710 [32 GB] (rev. A1)")
    [rule] = on.call("gpu_slicing.export")["containers_gpu_slicing"]["devices"]
    assert rule["match"]["model"].endswith("Radeon Pro V710 [32 GB] (rev. A1)")


@pytest.mark.parametrize("name", ["NVIDIA {{ 1 }}-4Q", "a{%b", "x\ny", "${x}", "#!py", "<%"])
def test_a_name_that_must_be_exact_is_refused_with_the_gpu(name):
    for section in ({"vgpu": {"profile": name}}, {"vgpu": {"profiles": {name: 2}}}, {"level_zero": {"partitions": [name]}}):
        with pytest.raises(errors.PolicyError, match="renderer could take") as caught:
            policy.export_rules({GPU: {"strategy": "x", **section}}, {GPU: "NVIDIA A16"})
        assert GPU in str(caught.value) and name not in str(caught.value)


def test_names_of_units_and_profiles_are_written_as_they_are():
    section = {
        "strategy": "mig",
        "mig": {"profiles": ["1g.10gb+me@4", "1c.3g.40gb"]},
        "level_zero": {"vram_slice": "a\\x2db.slice"},
    }
    [rule] = policy.export_rules({GPU: section}, {GPU: "NVIDIA H100 80GB HBM3"})["containers_gpu_slicing"]["devices"]
    assert rule == {"match": {"pci": GPU, "model": "NVIDIA H100 80GB HBM3"}, **section}


def test_the_models_of_every_example_host_are_written_as_they_are(simulated, repo):
    for path in sorted((repo / "examples" / "hosts").glob("*.yaml")):
        host = simulated(path.stem)
        with Engine(config(host)) as engine:
            models = {gpu.address: gpu.model for gpu in engine.gpus}
        rules = policy.export_rules(dict.fromkeys(models, {"strategy": "passthrough"}), models)
        assert {rule["match"]["pci"]: rule["match"]["model"] for rule in rules["containers_gpu_slicing"]["devices"]} == models
