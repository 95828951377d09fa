"""Configurations of NVIDIA's device plugin: each mistake is a sentence with its path."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.outputs import plugin_schema

FULL = {
    "version": "v1",
    "flags": {
        "migStrategy": "single", "failOnInitError": True, "mpsRoot": "/run/nvidia/mps",
        "nvidiaDriverRoot": "/", "nvidiaDevRoot": "/",
        "gdrcopyEnabled": False, "gdsEnabled": False, "mofedEnabled": False, "useNodeFeatureAPI": True,
        "deviceDiscoveryStrategy": "auto",
        "plugin": {
            "passDeviceSpecs": True, "deviceListStrategy": ["envvar", "cdi-cri"], "deviceIDStrategy": "uuid",
            "cdiAnnotationPrefix": "cdi.k8s.io/", "nvidiaCTKPath": "/usr/bin/nvidia-ctk", "containerDriverRoot": "/driver-root",
            "sharedDevicesAllocationPolicy": "packed",
        },
        "gfd": {"oneshot": False, "noTimestamp": True, "sleepInterval": "1m30.5s", "outputFile": "/f", "machineTypeFile": "/m"},
    },
    "sharing": {
        "timeSlicing": {
            "renameByDefault": True, "failRequestsGreaterThanOne": True,
            "resources": [{"name": "gpu", "replicas": 4, "devices": "all"}, {"name": "nvidia.com/mig-1g.10gb.me", "replicas": 2}],
        }
    },
    "imex": {"channelIDs": [0], "required": True},
}  # fmt: skip


def sharing(*resources, key="timeSlicing", flags=None, **more):
    return {"version": "v1", "flags": flags or {}, "sharing": {key: {"resources": list(resources), **more}}}


def gpu(**more):
    return {"name": "nvidia.com/gpu", "replicas": 4, **more}


def test_a_file_with_every_key_is_right():
    assert plugin_schema.check(FULL) == ([], [])
    assert plugin_schema.check({"version": "v1", "flags": {"plugin": {"deviceListStrategy": "envvar"}}}) == ([], [])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "config: is empty; a mapping is wanted."),
        ([], "config: is a list; a mapping is wanted."),
        ({"version": "v2"}, "version: is the text 'v2'; one of these is wanted: v1."),
        ({"version": 1}, "version: is the number 1"),
        ({"verison": "v1"}, "verison: is not a known key, and the plugin passes over it in silence. Did you mean 'version'?"),
        ({"version": "v1", "flags": {"mig-strategy": "single"}}, "flags:mig-strategy: is not.*Did you mean 'migStrategy'"),
        ({"version": "v1", "flags": {"migstrategy": "single"}}, "flags:migstrategy: is not.*Did you mean 'migStrategy'"),
        ({"version": "v1", "flags": {"x": 1}}, "flags:x: is not a known key.* Valid: migStrategy, failOnInitError"),
        ({"version": "v1", "flags": {1: 1}}, "flags:1: is not a known key"),
        ({"version": "v1", "flags": {"migStrategy": "Mixed"}}, "flags:migStrategy: is the text 'Mixed'; one of these"),
        ({"version": "v1", "flags": {"failOnInitError": "true"}}, "flags:failOnInitError: is the text 'true'; true or false"),
        ({"version": "v1", "flags": {"mpsRoot": 7}}, "flags:mpsRoot: is the number 7; a text"),
        ({"version": "v1", "flags": []}, "flags: is a list; a mapping"),
        ({"version": "v1", "flags": {"plugin": {"deviceListStrategy": ["envvar", "cdi"]}}}, "Strategy:1: is the text 'cdi'"),
        ({"version": "v1", "flags": {"gfd": {"sleepInterval": "1 minute"}}}, "flags:gfd:sleepInterval: is the text '1 minute'"),
        (sharing(), "sharing:timeSlicing:resources: is empty, and the plugin ends"),
        ({"version": "v1", "sharing": {"timeSlicing": {}}}, "sharing:timeSlicing: has no 'resources'"),
        ({"version": "v1", "sharing": {"timeSlicing": {"resources": {}}}}, "resources: is a mapping; a list"),
        ({"version": "v1", "sharing": {"timeslicing": {"resources": [gpu()]}}}, "timeslicing: .*Did you mean 'timeSlicing'"),
        (sharing(gpu(replicas=1)), "sharing:timeSlicing:resources:0:replicas: is the number 1, and the plugin ends below 2"),
        (sharing(gpu(replicas=True)), "resources:0:replicas: is the truth value true; a whole number"),
        (sharing(gpu(replicas="4")), "resources:0:replicas: is the text '4'; a whole number"),
        (sharing({"name": "gpu"}), "resources:0: has no 'replicas'"),
        (sharing({"replicas": 2}), "resources:0: has no 'name'"),
        (sharing(gpu(), {"name": "gpu", "replicas": 2}), "resources:1:name: is nvidia.com/gpu, as that of .*resources:0 is"),
        (sharing(gpu(name="mig-1g.10gb+me")), "resources:0:name: is the text 'mig-1g.10gb\\+me'; letters in lower case"),
        (sharing(gpu(name="x" * 53)), "resources:0:name: is 64 characters long"),
        (sharing(gpu(devices="some")), "resources:0:devices: is the text 'some'"),
        (sharing(gpu(devices=[-1])), "resources:0:devices: is a list"),
        (sharing(gpu(devices=True)), "resources:0:devices: is the truth value true"),
        (sharing("gpu"), "resources:0: is the text 'gpu'; a mapping"),
        (sharing(gpu(replica=2)), "resources:0:replica: is not a known key.*Did you mean 'replicas'"),
        ({"version": "v1", "sharing": {key: {"resources": [gpu()]} for key in ("mps", "timeSlicing")}}, "sharing: has both"),
        (sharing(gpu(), key="mps", flags={"migStrategy": "mixed", "mpsRoot": "/m"}), "sharing:mps: can't stand beside .*'mixed'"),
        ({"version": "v1", "resources": {"gpus": [{"pattern": "*"}]}}, "resources:gpus:0: has no 'name'"),
        ({"version": "v1", "imex": {"channelIDs": [1]}}, "imex:channelIDs: is a list; "),
        ({"version": "v1", "imex": {"channelIDs": [False]}}, "imex:channelIDs: is a list; "),
        ({"version": "v1", "imex": {"channelIDs": 7}}, "imex:channelIDs: is the number 7; "),
    ],
)
def test_mistakes(config, words):
    mistakes, _ = plugin_schema.check(config)
    assert [line for line in mistakes if re.search(words, line)], mistakes


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "version: is not given"),
        (sharing(gpu(devices=["0", 1, "0:1"])), "sharing:timeSlicing:resources:0:devices: has no effect"),
        (sharing(gpu(devices=2)), "devices: has no effect"),
        (sharing(gpu(rename="half")), "resources:0:rename: has no effect: renameByDefault alone"),
        ({"version": "v1", "resources": {"gpus": [{"pattern": "*", "name": "gpu"}]}}, "resources: has no effect"),
        (sharing(gpu(), key="mps"), "flags:mpsRoot: is not given"),
        ({"version": "v1", "flags": {"gfd": {"sleepInterval": 60}}}, "sleepInterval: is the number 60, which counts nanoseconds"),
    ],
)
def test_what_has_no_effect_is_warned_of(config, words):
    mistakes, warnings = plugin_schema.check(config)
    assert mistakes == [] and [line for line in warnings if words in line], warnings


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["all", "v1", "mixed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(
        ["version", "flags", "sharing", "mps", "timeSlicing", "resources", "name", "replicas", "devices", "plugin", "gfd", "imex",
         "channelIDs", "migStrategy", "gpus"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_anything_is_judged_in_sentences(config):
    for line in (*plugin_schema.check(config)[0], *plugin_schema.check(config)[1]):
        assert line.isprintable() and ": " in line and len(line) < 900
