"""What Kubernetes is told of simulated hosts: device plugins, labels, and a file."""

from functools import partial

import pytest
import yaml

from gpuslice import errors
from gpuslice import quarantine
from gpuslice.engine import Engine
from gpuslice.outputs import kubernetes as plugins
from gpuslice.outputs import plugin_schema
from gpuslice.policy.as_text import as_yaml
from gpuslice.schedulers import kubernetes
from tests.conftest import ROOT
from tests.support import consumers
from tests.support import hosts
from tests.support import pages
from tests.support import pillars

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
TWO = [{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": OTHER}]
FILE = "/etc/kubernetes/nvidia-device-plugin.yaml"


def on(host, function, *args, **more):
    with Engine(hosts.config(host)) as engine:
        return function(engine, *args, **more)


def config(host, vendor, **more):
    [made] = on(host, kubernetes.plugin_config, vendor, **more).values()
    return made


def write(host, path=FILE, **more):
    return on(host, kubernetes.write, path, as_yaml, **more)


def described(name):
    """The GPUs of an example."""
    return yaml.safe_load((ROOT / "examples" / "hosts" / f"{name}.yaml").read_text(encoding="utf-8"))["gpus"]


def apply(host, made):
    result = hosts.apply(host, made)
    assert result.ok, result.errors


@pytest.fixture
def h100(simulated):
    """A machine with two H100, cut as asked."""

    def make(*rules, **more):
        host = simulated("dgx-h100", gpus=TWO, processes=[], **more)
        apply(host, pillars.rules(*rules))
        return host

    return make


# -- NVIDIA ----------------------------------------------------------------------------------------------------------------
def test_a_node_cut_alike_is_single_and_one_cut_otherwise_mixed(h100):
    alike = h100(*(pillars.mig_rule(gpu, ["1g.10gb"] * 7) for gpu in (GPU, OTHER)))
    found = config(alike, "nvidia")
    assert found["file"] == {"version": "v1", "flags": {"migStrategy": "single"}} and found["resources"] == {"nvidia.com/gpu": 14}
    apply(alike, pillars.rules(pillars.mig_rule(GPU, ["3g.40gb", "1g.10gb+me"])))
    found = config(alike, "nvidia")
    assert found["file"]["flags"] == {"migStrategy": "mixed"}
    assert found["resources"] == {"nvidia.com/mig-1g.10gb": 7, "nvidia.com/mig-1g.10gb.me": 1, "nvidia.com/mig-3g.40gb": 1}


def test_a_gpu_in_mig_mode_without_a_device_is_told(simulated):
    host = simulated("dgx-h100", gpus=[{**TWO[0], "mig": "enabled"}, TWO[1]], processes=[])
    found = config(host, "nvidia")
    assert found["file"]["flags"]["migStrategy"] == "mixed" and GPU in found["why"]
    assert found["resources"] == {"nvidia.com/gpu": 1}


def test_shares_become_replicas(simulated):
    host = simulated("l4-pair")
    apply(host, pillars.for_all("time-slicing", {"max_instance_count": 4}))
    found = config(host, "nvidia")
    assert found["file"]["sharing"]["timeSlicing"]["resources"] == [{"name": "nvidia.com/gpu", "replicas": 4}]
    assert found["resources"] == {"nvidia.com/gpu.shared": 8} and plugin_schema.check(found["file"]) == ([], [])
    assert config(host, "nvidia", rename=False)["resources"] == {"nvidia.com/gpu": 8}


def test_different_numbers_of_shares_are_refused(simulated):
    host = simulated("l4-pair")
    rules = [
        pillars.rule(gpu, strategy="time-slicing", time_slicing={"max_instance_count": count})
        for gpu, count in (("0000:41:00.0", 4), ("0000:a1:00.0", 2))
    ]
    apply(host, pillars.rules(*rules))
    with pytest.raises(errors.Unsupported, match=r"2 on 0000:a1:00\.0; 4 on 0000:41:00\.0"):
        config(host, "nvidia")


def test_mps_is_told_with_the_daemons_that_serve_it(simulated):
    host = simulated("l40s-pair")
    apply(host, pillars.for_all("mps", {"max_instance_count": 4}))
    found = config(host, "nvidia")
    assert found["file"]["flags"]["mpsRoot"] and found["file"]["sharing"]["mps"]["resources"][0]["replicas"] == 4
    assert "not by those of this host" in found["notes"][0]


def test_what_is_quarantined_or_handed_out_is_told(h100):
    host = h100(pillars.mig_rule(GPU, ["1g.10gb"] * 2))
    first, second = (part["name"] for part in hosts.listed(host))
    on(host, quarantine.quarantined, [first], why="odd results")
    [note] = config(host, "nvidia")["notes"]
    assert f"{first} (quarantined: odd results)" in note and second not in note
    assert on(host, kubernetes.labels)["gpu-slicing/quarantined"] == "1"


def test_a_consumer_s_slice_is_told(simulated):
    host = consumers.machine(simulated)
    apply(host, consumers.pillar({"trainer": consumers.EACH["trainer"]}))
    [note] = config(host, "nvidia")["notes"]
    assert "(consumer trainer has it)" in note


def test_a_gpu_that_can_t_be_read_is_an_error_and_no_smaller_node(h100):
    host = h100()
    with host.change() as state:
        state["gpus"][GPU]["health"]["lost"] = True
    for function in (kubernetes.plugin_config, kubernetes.labels):
        with pytest.raises(errors.GpuSliceError, match=GPU):
            on(host, function)


# -- other vendors ---------------------------------------------------------------------------------------------------------
def test_amd_is_single_where_all_are_alike_and_mixed_where_not(simulated):
    host = simulated("mi300x-8")
    apply(host, pillars.partition("CPX", "NPS1"))
    assert config(host, "amd")["resources"] == {"amd.com/gpu": 64}
    apply(host, pillars.rules(pillars.rule("0000:05:00.0", strategy="partition", partition={"compute": "SPX"})))
    found = config(host, "amd")
    assert found["arguments"] == ["-resource_naming_strategy=mixed"]
    assert found["resources"] == {"amd.com/cpx_nps1": 56, "amd.com/spx_nps1": 1}


def test_intel_counts_what_a_driver_of_this_host_serves(simulated):
    host = simulated("flex170")
    assert config(host, "intel")["resources"] == {"gpu.intel.com/i915": 1}
    apply(host, pillars.for_all("sriov", {"vfs": {1: {}, 2: {}}}))
    found = config(host, "intel")
    assert found["resources"] == {} and "No driver of this host serves these virtual functions" in found["notes"][0]


def test_intel_s_shares_are_one_number_for_all_gpus(simulated):
    flex, largest = (gpu for gpu in described("mixed-vendors") if gpu.get("vendor") == "intel")
    shared = pillars.for_gpu(flex["address"], "time-slicing", {"max_instance_count": 3})
    host = simulated("mixed-vendors", gpus=[flex])
    apply(host, shared)
    assert config(host, "intel")["arguments"] == ["-shared-dev-num=3"]
    host = simulated("mixed-vendors", gpus=[flex, largest])
    apply(host, shared)
    with pytest.raises(errors.Unsupported, match=f"3 on {flex['address']}, 1 on {largest['address']}"):
        config(host, "intel")


@pytest.mark.parametrize(
    ("machine", "vendors"),
    [("no-gpu", []), ("mixed-vendors", ["nvidia", "amd", "intel"]), ("vgpu-guest", ["nvidia"]), ("max1550", ["intel"]),
     ("mi210-gim", ["amd"]), ("vgpu-host-vfio", ["nvidia"]), ("arc-pro-b60", ["intel"])],
)  # fmt: skip
def test_each_vendor_that_is_here_is_told_of(simulated, machine, vendors):
    host = simulated(machine)
    found = on(host, kubernetes.plugin_config)
    assert list(found) == vendors
    for each in found.values():
        assert each["file"] is None or plugin_schema.check(each["file"]) == ([], [])
        assert each["why"] and all(number > 0 for number in each["resources"].values())


def test_of_a_vendor_that_is_not_here_a_plugin_is_told_of_nothing(simulated):
    assert config(simulated("no-gpu"), "amd")["resources"] == {}
    with pytest.raises(errors.PolicyError, match="vendor is the text 'amdd'"):
        config(simulated("no-gpu"), "amdd")


# -- labels ----------------------------------------------------------------------------------------------------------------
def test_labels_follow_layout_generation_and_the_last_look(h100):
    host = h100(pillars.mig_rule(GPU, ["1g.10gb"] * 2))
    first = on(host, kubernetes.labels)
    assert first["gpu-slicing/strategy"] == "mixed" and first["gpu-slicing/mig-1g.10gb"] == "2"
    assert first["gpu-slicing/generation"] == "1" and first["gpu-slicing/health"] == "unknown"
    on(host, Engine.statuses)
    assert on(host, kubernetes.labels) == {**first, "gpu-slicing/health": "ok"}
    apply(host, pillars.rules(pillars.mig_rule(GPU, ["1g.10gb"] * 3)))
    again = on(host, kubernetes.labels)
    assert again["gpu-slicing/generation"] == "2" and again["gpu-slicing/layout"] != first["gpu-slicing/layout"]
    assert on(host, kubernetes.labels, "mig")["nvidia.com/device-plugin.config"] == "mig"


# -- the file --------------------------------------------------------------------------------------------------------------
def test_the_file_is_written_once_and_stands_the_check(h100):
    host = h100(pillars.mig_rule(GPU, ["1g.10gb"]))
    assert "result" not in write(host, test=True) and FILE not in host.state()["written"]
    made = write(host)
    assert made["result"] and made["comment"] == f"{FILE} is written for the device plugin."
    text = host.state()["written"][FILE]
    assert text.startswith(f"{plugins.MARK}\n") and plugin_schema.check(yaml.safe_load(text)) == ([], [])
    assert write(host) == {"result": True, "changes": {}, "comment": f"{FILE} says what the device plugin is told."}


def test_a_file_of_somebody_else_a_wrong_path_and_a_full_disk_are_refused(h100):
    host = h100()
    with host.change() as state:
        state["written"][FILE] = "version: v1\n"
    with pytest.raises(errors.ForeignChange, match="is a file of somebody else"):
        write(host)
    for path in ("a.yaml", "/etc/a.json", "/etc/../x.yaml", "/tmp/x.yaml"):
        with pytest.raises(errors.PolicyError, match="is no path for a device plugin's configuration|is a simulated one"):
            write(host, path)
    host.add_fault({"call": "store_write", "error": "ENOSPC"})
    with pytest.raises(errors.PermissionDenied, match="No space left"):
        write(host, "/etc/other.yaml")
    assert host.state()["written"] == {FILE: "version: v1\n"}


def test_a_text_is_of_one_vendor(simulated):
    bench = simulated("mixed-vendors")
    with pytest.raises(errors.PolicyError, match="this host has GPUs of: nvidia, amd, intel"):
        write(bench)
    with pytest.raises(errors.PolicyError, match="this host has GPUs of: none"):
        write(simulated("no-gpu"))
    assert write(bench, "/etc/amd.yaml", vendor="amd")["result"]
    assert yaml.safe_load(bench.state()["written"]["/etc/amd.yaml"]) == {"args": ["-resource_naming_strategy=single"]}


# -- the page --------------------------------------------------------------------------------------------------------------
def test_the_page_s_examples_are_what_is_told(simulated):
    host = simulated("a30-pair")
    on(host, quarantine.quarantined, ["0000:41:00.0-1g.6gb-2"], why="odd results")
    text = partial(on, host, kubernetes.text)
    shown = pages.section("kubernetes", "What a plugin is told")
    indented = [line.removeprefix("    ") for line in shown.partition("| Here")[0].splitlines() if line.startswith("    ")]
    assert "\n".join(indented) + "\n" == as_yaml(*text("nvidia"))
    [labels, *_] = pages.blocks(pages.section("kubernetes", "Labels"))
    assert yaml.safe_load(labels) == on(host, kubernetes.labels)


def test_the_page_s_wrong_file_is_found_wrong():
    [wrong, *_] = pages.blocks(pages.section("kubernetes", "A file of your own"))
    mistakes, warnings = plugin_schema.check(yaml.safe_load(wrong))
    section = pages.section("kubernetes", "A file of your own")
    assert mistakes and warnings and all(line in section for line in (*mistakes, *warnings)), (mistakes, warnings)
