"""Level Zero: environment files, CCS mode, scheduling properties and limits of memory; what is refused, and in which words."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import policy
from gpuslice.catalog import intel
from gpuslice.drivers import dmem
from gpuslice.engine import Engine
from gpuslice.model import Gpu
from gpuslice.sim import cgroups
from gpuslice.techniques.level_zero import environment
from gpuslice.techniques.level_zero import technique as level_zero
from gpuslice.techniques.level_zero.engines import why_no_ccs
from tests.support import hosts
from tests.support import quotas
from tests.support.techniques import plan_one

H100, FLEX, MAX = "0000:1b:00.0", "0000:8a:00.0", "0000:9a:00.0"
DEVICES = "/sys/bus/pci/devices"
FILES = "/etc/gpu-slicing/environment"
GT = f"{DEVICES}/{FLEX}/tile0/gt0"


@pytest.fixture
def bench(simulated):
    """``bench(**changes)``: (host, minion configuration) of a machine with a Flex 170 (xe) and a Max 1550 (vendor's i915)."""

    def make(**changes):
        host = simulated("mixed-vendors", **changes)
        return host, hosts.config(host)

    return make


def configure(config, address, force=None, **wanted):
    """Set what is given on one GPU."""
    with Engine(config) as engine:
        return engine.reconciler(force=force).apply(engine.wanted_as("level-zero", address, wanted, partitions=None))


def clear(config, address):
    with Engine(config) as engine:
        return engine.reconciler().apply(engine.wanted("level-zero", address, {"clear": True}))


def variables(host, name):
    """The variables of an environment file."""
    lines = host.read(f"{FILES}/{name}").splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def refused(host, config, address, kind, *words, **wanted):
    """Assert that a wish is refused with these words and nothing is changed."""
    before = host.state()["gpus"], host.state()["written"]
    with pytest.raises(kind) as caught:
        result = configure(config, address, **wanted)
        raise errors.ResourceConflict(" ".join(result.errors), address)
    for word in words:
        assert word in str(caught.value)
    assert (host.state()["gpus"], host.state()["written"]) == before


# -- environment files ---------------------------------------------------------------------------------------------------
def test_a_partition_is_a_file_with_the_mask_of_its_gpu(bench):
    host, config = bench()
    result = configure(config, MAX, partitions=["1.0", "1.1"])
    assert result.ok
    assert host.listdir(FILES) == [f"{MAX}-tile0.env", f"{MAX}-tile1.env"]
    assert variables(host, f"{MAX}-tile1.env") == {
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1", "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE", "ZE_AFFINITY_MASK": "1.1",
    }  # fmt: skip
    assert "not isolation" in host.read(f"{FILES}/{MAX}-tile0.env")
    assert "not isolation" in result.plan.text()
    again = configure(config, MAX, partitions=["1.0", "1.1"])
    assert again.plan.empty and "not isolation" in again.plan.text()


@pytest.mark.parametrize(
    ("hierarchy", "masks"), [("COMPOSITE", ["1", "1.0", "1.1"]), ("FLAT", ["1,2", "1", "2"]), ("COMBINED", ["1,2", "1", "2"])]
)
def test_the_mask_follows_the_hierarchy(bench, hierarchy, masks):
    host, config = bench()
    assert configure(config, MAX, partitions=["1", "1.0", "1.1"], hierarchy=hierarchy).ok
    names = [f"{MAX}.env", f"{MAX}-tile0.env", f"{MAX}-tile1.env"]
    assert [variables(host, name)["ZE_AFFINITY_MASK"] for name in names] == masks
    assert {variables(host, name)["ZE_FLAT_DEVICE_HIERARCHY"] for name in names} == {hierarchy}


def test_another_hierarchy_alone_renames_the_same_partitions(bench):
    host, config = bench()
    assert configure(config, MAX, partitions=["1.0", "1.1"]).ok
    assert configure(config, MAX, hierarchy="FLAT").ok
    assert [variables(host, f"{MAX}-tile{n}.env")["ZE_AFFINITY_MASK"] for n in (0, 1)] == ["1", "2"]
    assert configure(config, MAX, hierarchy="FLAT").plan.empty
    assert configure(config, FLEX, hierarchy="FLAT").plan.empty and len(host.listdir(FILES)) == 2


@given(st.lists(st.integers(1, 2), min_size=1, max_size=6))
def test_flat_masks_name_every_tile_once(tiles):
    parts = [(device, tile) for device, count in enumerate(tiles) for tile in range(count)]
    masks = [environment.mask(device, tile, tiles, "FLAT") for device, tile in parts]
    assert masks == [str(number) for number in range(sum(tiles))]
    wholes = ",".join(environment.mask(device, None, tiles, "COMBINED") for device in range(len(tiles)))
    assert wholes == ",".join(masks)


def test_files_of_a_gpu_that_are_not_wanted_go_and_those_of_others_stay(bench):
    host, config = bench()
    assert configure(config, FLEX, partitions=["0"]).ok
    assert configure(config, MAX, partitions=["1.0", "1.1"]).ok
    host.store_write(f"{FILES}/mine.env", "A=1\n")
    result = configure(config, MAX, partitions=["1.1"])
    assert result.plan.parts[0].destroys == (f"partition {MAX}-tile0.env",)
    assert result.plan.parts[0].keeps == (f"partition {MAX}-tile1.env",)
    assert host.listdir(FILES) == [f"{FLEX}.env", f"{MAX}-tile1.env", "mine.env"]


def test_a_file_that_was_changed_by_hand_is_written_anew(bench):
    host, config = bench()
    assert configure(config, FLEX, partitions=["0"]).ok
    host.store_write(f"{FILES}/{FLEX}.env", "ZE_AFFINITY_MASK=7\n")
    assert configure(config, FLEX, partitions=["0"]).changes[FLEX]["old"]["partitions"] == {f"{FLEX}.env": "7"}
    assert variables(host, f"{FLEX}.env")["ZE_AFFINITY_MASK"] == "0"


def test_the_numbers_of_devices_follow_the_addresses_of_those_that_a_driver_has(bench):
    host, config = bench()
    host.write(f"{DEVICES}/{FLEX}/driver/unbind", FLEX)
    assert configure(config, MAX, partitions=["0.1"]).ok
    assert variables(host, f"{MAX}-tile1.env")["ZE_AFFINITY_MASK"] == "0.1"


def test_a_gpu_that_no_partition_names_is_told(bench):
    _, config = bench()
    with Engine(config) as engine:
        made = engine.reconciler().plan(engine.wanted_as("level-zero", FLEX, {"partitions": ["1.0"]}))
    assert made.empty and "No partition names this GPU, which is device 0" in made.text()


def test_a_media_block_of_an_integrated_gpu_is_no_tile(bench):
    meteor_lake = "0000:00:02.0"
    blocks = {f"{DEVICES}/{meteor_lake}/drm/card0/gt/gt{number}/id": f"{number}" for number in (0, 1)}
    gpus = [
        {"vendor": "intel", "device": "7d55", "address": meteor_lake, "driver": "i915"},
        {"vendor": "intel", "device": "0bd5", "address": MAX, "driver": "i915",
         "engines": {"tiles": 2, "cslices": 4, "layout": "i915-backport"}},
    ]  # fmt: skip
    host, config = bench(gpus=gpus, files=blocks)
    refused(host, config, meteor_lake, errors.Unsupported, "single one", partitions=["0.1"])
    assert configure(config, MAX, partitions=["1.1"], hierarchy="FLAT").ok
    assert variables(host, f"{MAX}-tile1.env")["ZE_AFFINITY_MASK"] == "2"


def test_a_tile_of_a_gpu_that_nobody_knows_is_refused(bench):
    gpu = {"vendor": "intel", "device": "fffe", "address": FLEX, "driver": "i915"}
    host, config = bench(gpus=[gpu])
    refused(host, config, FLEX, errors.Unsupported, "neither the driver nor the catalog", partitions=["0.0"])
    assert configure(config, FLEX, partitions=["0"]).ok


def test_devices_count_by_the_numbers_of_their_addresses():
    addresses = ["0000:8a:00.0", "0000:8a:00.1", "0001:02:00.0", "1000:02:00.0", "10000:01:00.0"]
    assert sorted(sorted(addresses), key=level_zero._numbers) == addresses


def test_a_file_that_cannot_be_read_is_named(bench):
    host, config = bench(files={f"{FILES}/{FLEX}.env/inside": ""})
    with Engine(config) as engine, pytest.raises(errors.StateDirUnusable, match=f"{FLEX}.env can't be read: Is a directory"):
        [(gpu, tool)], _ = engine.techniques("level-zero", FLEX)
        tool.observe(gpu)


def test_a_layout_is_told_in_words(bench):
    _, config = bench()
    wanted = {"partitions": ["0"], "ccs_mode": 2, "engines": {"ccs": {"job_timeout_ms": 900}}}
    assert configure(config, FLEX, **wanted, vram_slice="gpu.slice", vram_max_mib=512).ok
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("level-zero", FLEX)
        told = tool.words(tool.layout(tool.observe(gpu)))
    assert told == "partitions 0; CCS mode 2; job_timeout_ms 900 of tile0/gt0/ccs; at most 512 MiB for gpu.slice"


def test_slices_are_the_partitions(bench):
    _, config = bench()
    configure(config, MAX, partitions=["1", "1.1"])
    with Engine(config) as engine:
        parts = engine.slices(MAX)
    assert [(part["kind"], part["profile"], part["compute"], part["memory_mib"]) for part in parts] == [
        ("environment", "1.1", 0.5, 65536), ("environment", "1", 1.0, 131072),
    ]  # fmt: skip
    assert all(part["device_nodes"] == ["/dev/dri/renderD132"] for part in parts)


@pytest.mark.parametrize(
    ("address", "partitions", "kind", "words"),
    [
        (MAX, ["2"], errors.PolicyError, ["'2' names device 2", f"0 is {FLEX}, 1 is {MAX}"]),
        (MAX, ["1.2"], errors.PolicyError, ["names tile 2", "has 2"]),
        (FLEX, ["0.0"], errors.Unsupported, ["names a tile", "single one", "Max 1450 and Max 1550", "'0'"]),
        (FLEX, ["first"], errors.PolicyError, ["level_zero:partitions:0", "'first'"]),
        (FLEX, ["0", "0"], errors.PolicyError, ["second time"]),
    ],
)
def test_a_partition_that_cannot_be_is_refused(bench, address, partitions, kind, words):
    host, config = bench()
    refused(host, config, address, kind, *words, partitions=partitions)


def test_a_gpu_without_a_driver_has_no_partitions(bench):
    host, config = bench()
    host.write(f"{DEVICES}/{FLEX}/driver/unbind", FLEX)
    refused(host, config, FLEX, errors.DriverMissing, "no graphics driver", "xe", partitions=["0"])


def test_a_gpu_of_another_vendor_is_refused(bench):
    host, config = bench()
    refused(host, config, H100, errors.Unsupported, "can't do level-zero", "Intel", partitions=["0"])


# -- CCS mode ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("address", "blocks"), [(FLEX, ["tile0/gt0"]), (MAX, ["drm/card4/gt/gt0", "drm/card4/gt/gt1"])])
def test_ccs_mode_is_set_on_every_tile_and_taken_back(bench, address, blocks):
    host, config = bench()
    paths = [f"{DEVICES}/{address}/{block}/ccs_mode" for block in blocks]
    result = configure(config, address, ccs_mode=4)
    assert result.ok and result.changes[address] == {
        "old": {"partitions": {}, "ccs_mode": 1}, "new": {"partitions": {}, "ccs_mode": 4},
    }  # fmt: skip
    assert [host.read(path) for path in paths] == ["4"] * len(paths)
    assert configure(config, address, ccs_mode=4).plan.empty
    assert configure(config, address, ccs_mode=0).plan.empty
    assert clear(config, address).ok and [host.read(path) for path in paths] == ["1"] * len(paths)


@pytest.mark.parametrize("mode", [3, 8])
def test_a_mode_that_does_not_divide_the_slices_is_refused(bench, mode):
    host, config = bench()
    refused(host, config, FLEX, errors.PolicyError, f"ccs_mode {mode}", "4 compute slices", "1, 2, 4", ccs_mode=mode)


def test_holders_are_named_before_anything_is_written(bench):
    host, config = bench(processes=[{"pid": 31, "command": "gnome-shell", "unit": "gdm.service", "nodes": ["/dev/dri/card3"]}])
    refused(host, config, FLEX, errors.ResourceConflict, "pid 31 (gnome-shell, unit gdm.service)", ccs_mode=2)
    assert configure(config, FLEX, engines={"ccs": {"timeslice_duration_us": 2000}}).ok
    assert configure(config, FLEX, force=True, ccs_mode=2).ok


def test_a_holder_that_comes_in_between_is_named(bench):
    host, config = bench()
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("level-zero", FLEX)
        made = plan_one(tool, gpu, tool.observe(gpu), {"ccs_mode": 2})
        host.add_process({"pid": 8, "command": "xpu-smi", "nodes": ["/dev/dri/renderD131"]})
        with pytest.raises(errors.ResourceConflict, match=r"in use by pid 8 \(xpu-smi\)") as caught:
            tool.run(gpu, made.steps[0])
    assert caught.value.holders[0]["pid"] == 8


def test_pf_mode_is_told_with_what_to_set(bench):
    gpu = {"vendor": "intel", "device": "56c0", "address": FLEX, "engines": {"cslices": 4, "refuses": True}}
    host, config = bench(gpus=[gpu])
    result = configure(config, FLEX, ccs_mode=2)
    assert not result.ok and "xe.max_vfs=0" in result.errors[0] and host.read(f"{GT}/ccs_mode") == "1"


@pytest.mark.parametrize(
    ("device", "driver", "words"),
    [
        ("56c0", "xe", ["no compute slices of Intel Data Center GPU Flex 170"]),
        ("56a0", "i915", ["driver i915 of the kernel", "one compute engine"]),
        ("4680", "i915", ["single compute engine"]),
    ],
)
def test_a_part_without_slices_is_refused_with_the_reason_of_its_family(bench, device, driver, words):
    gpu = {"vendor": "intel", "device": device, "address": FLEX, "driver": driver, "engines": {"cslices": 1}}
    host, config = bench(gpus=[gpu])
    refused(host, config, FLEX, errors.Unsupported, "ccs_mode 2", *words, ccs_mode=2)


@pytest.mark.parametrize("key", sorted(intel.MODELS))
def test_every_model_has_a_reason(key):
    gpu = Gpu(FLEX, "intel", "0000", model="Intel X", catalog_key=key, driver=intel.MODELS[key]["driver"][0])
    assert "Intel X" in why_no_ccs(gpu)


def test_settings_are_lost_with_the_driver_and_set_again(bench):
    host, config = bench()
    assert configure(config, FLEX, ccs_mode=2, engines={"bcs": {"job_timeout_ms": 900}}, partitions=["0"]).ok
    host.reboot()
    assert host.read(f"{GT}/ccs_mode") == "1" and host.listdir(FILES) == [f"{FLEX}.env"]
    assert [step.action for step in configure(config, FLEX, ccs_mode=2, partitions=["0"]).plan.steps] == ["ccs_mode"]


# -- scheduling properties -----------------------------------------------------------------------------------------------
def test_properties_are_set_and_go_back_to_what_they_were_at_boot(bench):
    host, config = bench()
    result = configure(config, FLEX, engines={"ccs": {"timeslice_duration_us": 2000, "preempt_timeout_us": 100}})
    assert result.ok
    assert result.changes[FLEX]["new"]["engines"] == {"tile0/gt0/ccs": {"timeslice_duration_us": 2000, "preempt_timeout_us": 100}}
    assert host.read(f"{GT}/engines/ccs/timeslice_duration_us") == "2000"
    assert configure(config, FLEX, engines={"ccs": {"timeslice_duration_us": 2000}}).plan.empty
    assert configure(config, FLEX, engines={"ccs": {"timeslice_duration_us": 0}}).ok
    assert host.read(f"{GT}/engines/ccs/timeslice_duration_us") == "1000"
    assert host.read(f"{GT}/engines/ccs/preempt_timeout_us") == "100"
    assert clear(config, FLEX).ok and host.read(f"{GT}/engines/ccs/preempt_timeout_us") == "640000"
    assert clear(config, FLEX).plan.empty


@pytest.mark.parametrize(
    ("engines", "kind", "words"),
    [
        ({"ccs": {"job_timeout_ms": 20000}}, errors.PolicyError, ["job_timeout_ms 20000", "tile0/gt0/ccs", "1 to 10000"]),
        ({"rcs": {"job_timeout_ms": 5}}, errors.Unsupported, ["rcs", "bcs, ccs"]),
        ({"dcs": {"job_timeout_ms": 5}}, errors.PolicyError, ["level_zero:engines:dcs", "ccs"]),
        ({"ccs": {"timeslice": 5}}, errors.PolicyError, ["level_zero:engines:ccs:timeslice", "timeslice_duration_us"]),
        ({"ccs": {"job_timeout_ms": -1}}, errors.PolicyError, ["level_zero:engines:ccs:job_timeout_ms"]),
    ],
)
def test_a_property_that_cannot_be_is_refused(bench, engines, kind, words):
    gpu = {"vendor": "intel", "device": "56c0", "address": FLEX, "engines": {"cslices": 4, "classes": ["ccs", "bcs"]}}
    host, config = bench(gpus=[gpu])
    refused(host, config, FLEX, kind, *words, engines=engines)


# -- limits of memory ----------------------------------------------------------------------------------------------------
REGION = f"drm/{FLEX}/vram0"


def test_a_slice_is_limited_and_set_free(bench):
    host, config = bench()
    path = f"{dmem.path_of('gpu-batch.slice')}/dmem.max"
    assert configure(config, FLEX, vram_slice="gpu-batch.slice", vram_max_mib=4096).ok
    assert host.read(path) == f"{REGION} {4096 * 2**20}"
    assert configure(config, FLEX, vram_slice="gpu.slice", vram_max_mib=8192).ok
    assert configure(config, FLEX, vram_slice="gpu-batch.slice", vram_max_mib=4096).plan.empty
    assert configure(config, FLEX, vram_slice="gpu-batch.slice", vram_max_mib=0).ok
    assert host.read(path) == f"{REGION} max"
    assert clear(config, FLEX).ok and host.read("/sys/fs/cgroup/gpu.slice/dmem.max") == f"{REGION} max"


def test_the_directory_of_a_slice_follows_its_name():
    assert dmem.path_of("gpu.slice") == "/sys/fs/cgroup/gpu.slice"
    assert dmem.path_of("gpu-batch-night.slice") == "/sys/fs/cgroup/gpu.slice/gpu-batch.slice/gpu-batch-night.slice"


@pytest.mark.parametrize(
    ("address", "files", "wanted", "kind", "words"),
    [
        (FLEX, {}, {"vram_slice": "gpu.slice", "vram_max_mib": 20000}, errors.PolicyError, ["20000", "16384 MiB"]),
        (FLEX, {}, {"vram_slice": "web.slice", "vram_max_mib": 1}, errors.ResourceConflict, ["web.slice could not be started"]),
        (FLEX, {}, {"vram_max_mib": 1}, errors.PolicyError, ["vram_slice"]),
        (FLEX, {}, {"vram_slice": "gpu.service", "vram_max_mib": 1}, errors.PolicyError, ["level_zero:vram_slice"]),
        (FLEX, {}, {"vram_slice": "-.slice", "vram_max_mib": 1}, errors.PolicyError, ["level_zero:vram_slice"]),
        (FLEX, {}, {"vram_slice": "a--b.slice", "vram_max_mib": 1}, errors.PolicyError, ["level_zero:vram_slice"]),
        (FLEX, {}, {"vram_slice": f"{'a' * 240}.slice", "vram_max_mib": 1}, errors.PolicyError, ["level_zero:vram_slice"]),
        (FLEX, {}, {"vram_slice": "gpuslicing-web.slice", "vram_max_mib": 1}, errors.PolicyError,
         ["gpuslicing-web.slice is that of a consumer", "resource_limits:vram_mib"]),
    ],
)
def test_a_limit_that_cannot_be_is_refused(bench, address, files, wanted, kind, words):
    host, config = bench(files=files)
    with host.change() as state:
        state["broken_slices"] = ["web.slice"]
    refused(host, config, address, kind, *words, **wanted)


def test_the_controller_is_switched_on_in_every_group_above_a_slice(bench):
    top, middle = "/sys/fs/cgroup/cgroup.subtree_control", "/sys/fs/cgroup/web.slice/cgroup.subtree_control"
    files = {top: "cpu memory", middle: "memory", "/sys/fs/cgroup/web.slice/web-shop.slice/cpu.max": "max"}
    host, config = bench(files=files)
    result = configure(config, FLEX, vram_slice="web-shop.slice", vram_max_mib=64)
    assert result.ok and [step.action for step in result.plan.steps] == ["unit", "reload", "limit"]
    assert (host.read(top), host.read(middle)) == ("cpu memory dmem", "memory dmem")
    assert host.read("/sys/fs/cgroup/web.slice/web-shop.slice/dmem.max") == f"{REGION} {64 * 2**20}"
    assert configure(config, FLEX, vram_slice="web-shop.slice", vram_max_mib=64).plan.empty


UNIFIED = {"/sys/fs/cgroup/cgroup.controllers": "cpu"}
COUNTED = {**UNIFIED, "/sys/fs/cgroup/dmem.capacity": "drm/0000:ff:00.0/vram0 1\n"}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "this host has no cgroup version 2"),
        (UNIFIED, "the kernel of this host has no cgroup controller dmem (CONFIG_CGROUP_DMEM, Linux 6.14 and later)"),
        (COUNTED, "its driver xe offers no memory of it to the cgroup controller dmem"),
    ],
)
def test_where_nothing_enforces_a_limit_it_is_advisory_as_that_of_a_consumer(simulated, files, why):
    gpu = {"vendor": "intel", "device": "56c0", "address": FLEX, "engines": {"cslices": 4}}
    host = simulated("no-gpu", gpus=[gpu], files=files)
    result = configure(hosts.config(host), FLEX, vram_slice="gpu.slice", vram_max_mib=1)
    told = f"The limit of 1 MiB for gpu.slice on {FLEX} is advisory: nobody enforces it, since {why}."
    assert result.ok and result.plan.empty and told in str(result.plan)
    assert not host.exists("/etc/systemd/system")


@pytest.fixture
def limited(simulated):
    """``limited()``: a machine with a GPU of xe and systemd, whose slices come and go, and where gpu-batch.slice is limited."""

    def make():
        machine = quotas.INTEL
        host = simulated(machine.example, **machine.changes)
        result = configure(hosts.config(host), machine.gpu, vram_slice="gpu-batch.slice", vram_max_mib=4096)
        assert result.ok, result.errors
        assert f"limit gpu-batch.slice to 4096 MiB of {machine.gpu}" in [step.words for step in result.plan.steps]
        assert f"The limit of 4096 MiB for gpu-batch.slice on {machine.gpu} is enforced by the cgroup" in str(result.plan)
        return host, hosts.config(host), machine

    return make


def batch_now(host, machine):
    return quotas.limit_now(host, machine, "gpu-batch.slice")


def test_a_slice_that_was_stopped_is_limited_again_when_it_starts(limited):
    host, config, machine = limited()
    for _ in range(2):
        with host.change() as state:
            cgroups.stop(state, "gpu-batch.slice")
        assert batch_now(host, machine) is None
        with host.change() as state:
            cgroups.start(state, "gpu-batch.slice")
        assert batch_now(host, machine) == 4096
    host.reboot()
    with host.change() as state:
        cgroups.start(state, "gpu-batch.slice")
    assert batch_now(host, machine) == 4096
    assert configure(config, machine.gpu, vram_slice="gpu-batch.slice", vram_max_mib=4096).plan.empty


def test_a_limit_that_a_driver_has_forgotten_is_set_again_by_whatever_is_changed_next(limited):
    host, config, machine = limited()
    with host.change() as state:
        cgroups.forget(state, [machine.gpu])
    assert batch_now(host, machine) is None
    assert [step.action for step in configure(config, machine.gpu, partitions=[]).plan.steps] == ["limit"]
    assert batch_now(host, machine) == 4096


def test_a_limit_that_is_lifted_leaves_no_files(limited):
    host, config, machine = limited()
    unit = f"/etc/systemd/system/gpuslicing-vram-{machine.gpu}-gpu-batch.service"
    assert host.exists(unit)
    assert configure(config, machine.gpu, vram_slice="gpu-batch.slice", vram_max_mib=0).ok
    assert batch_now(host, machine) is None and not host.exists(unit)
    assert not host.listdir("/etc/systemd/system/gpu-batch.slice.d")
    assert configure(config, machine.gpu, vram_slice="gpu-batch.slice", vram_max_mib=0).plan.empty


def test_a_limit_of_somebody_else_is_left_as_it_is_and_gets_no_file(bench):
    host, config = bench()
    host.write("/sys/fs/cgroup/gpu.slice/dmem.max", f"{REGION} 4096")
    assert configure(config, FLEX, vram_slice="gpu-batch.slice", vram_max_mib=64).ok
    assert host.read("/sys/fs/cgroup/gpu.slice/dmem.max") == f"{REGION} 4096"
    assert host.listdir("/etc/systemd/system") == ["gpu-batch.slice.d", f"gpuslicing-vram-{FLEX}-gpu-batch.service"]


def test_a_pillar_with_a_limit_for_nobody_is_refused():
    section = {"strategy": "level-zero", "level_zero": {"vram_max_mib": 5}}
    with pytest.raises(errors.PolicyError, match="vram_slice"):
        policy.parse({"containers_gpu_slicing": {"enabled": True, **section}})


# -- everything ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nth", range(1, 4))
def test_a_write_that_fails_undoes_the_change(bench, nth):
    host, config = bench()
    assert configure(config, FLEX, partitions=["0"], ccs_mode=2, engines={"ccs": {"job_timeout_ms": 900}}).ok
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("level-zero", FLEX)
        before = tool.layout(tool.observe(gpu))
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    wanted = {"partitions": [], "ccs_mode": 4, "engines": {"ccs": {"job_timeout_ms": 0}}}
    wanted.update(vram_slice="gpu.slice", vram_max_mib=9)
    result = configure(config, FLEX, **wanted)
    assert not result.ok and "undone" in result.errors[-1]
    with Engine(config) as engine:
        assert tool.layout(engine.techniques("level-zero", FLEX)[0][0][1].observe(gpu)) == before
    assert configure(config, FLEX, **wanted).ok


def test_a_full_disk_undoes_the_change(bench):
    host, config = bench()
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("level-zero", FLEX)
        made = plan_one(tool, gpu, tool.observe(gpu), {"partitions": ["0"]})
        host.add_fault({"call": "store_write", "error": "ENOSPC"})
        with pytest.raises(errors.StateDirUnusable, match=f"{FILES}/{FLEX}.env can't be written: No space left"):
            tool.run(gpu, made.steps[0])


def test_what_is_exported_asks_for_what_is_there(bench):
    host, config = bench()
    wanted = {"partitions": ["0"], "ccs_mode": 2, "engines": {"ccs": {"job_timeout_ms": 900}}}
    assert configure(config, FLEX, **wanted, vram_slice="gpu.slice", vram_max_mib=512).ok
    assert configure(config, MAX, partitions=["1.1"], hierarchy="FLAT").ok
    with Engine(config) as engine:
        assert engine.plan(engine.export()).empty


def test_a_gpu_in_survivability_mode_is_ill(bench):
    gpu = {
        "vendor": "intel", "device": "56c0", "address": FLEX, "engines": {"cslices": 4}, "sysfs": {"survivability_mode": "1"},
    }  # fmt: skip
    host, config = bench(gpus=[gpu])
    with Engine(config) as engine:
        assert "survivability" in engine.health(FLEX)[FLEX][0]
    refused(host, config, FLEX, errors.ResourceConflict, "survivability", ccs_mode=2)


AUTO = {
    "containers_gpu_slicing": {
        "enabled": True,
        "strategy": "auto",
        "mig": {"profiles": ["3g.40gb"]},
        "level_zero": {"partitions": ["0"], "ccs_mode": 2},
    }
}


@pytest.mark.parametrize(
    ("changes", "techniques", "words"),
    [
        ({}, {H100: "mig", FLEX: "level-zero", MAX: "level-zero"}, "auto picks level-zero on bare_metal instead of mig"),
        ({"files": {"/.dockerenv": ""}}, {}, "left alone, auto picks none on container"),
        ({"files": {"/run/.containerenv": ""}, "virtualization": "virtual_guest"}, {}, "auto picks none on container"),
    ],
    ids=["bare metal", "docker", "podman in a virtual machine"],
)
def test_auto_explains_its_choice_in_the_plan(bench, changes, techniques, words):
    _, config = bench(**changes)
    with Engine(config) as engine:
        made = engine.plan(AUTO)
    assert {part.gpu: part.key.technique for part in made.parts} == techniques
    assert words in made.text()


@pytest.mark.parametrize("environment", ["virtual_host", "virtual_guest"])
def test_auto_in_virtual_machines_and_on_their_hosts(bench, environment):
    files = {"/run/libvirt/libvirt-sock": ""} if environment == "virtual_host" else {}
    _, config = bench(virtualization=environment, files=files)
    with Engine(config) as engine:
        told = "\n".join(target.reason for target in engine.targets(engine.policy(AUTO)))
    assert f"on {environment}" in told


def test_the_kernel_answers_as_it_does(bench):
    host, _ = bench()

    def errno_of(path, text):
        with pytest.raises(OSError) as caught:
            host.write(path, text)
        return caught.value.errno

    for text in ("0", "3", "5", "x"):
        assert errno_of(f"{GT}/ccs_mode", text) == errno.EINVAL
    assert errno_of(f"{GT}/num_cslices", "1") in (errno.EACCES, errno.EPERM)
    assert errno_of(f"{GT}/engines/ccs/job_timeout_ms", "0") == errno.EINVAL
    assert errno_of(f"{GT}/engines/ccs/.defaults/job_timeout_ms", "5") in (errno.EACCES, errno.EPERM)
    assert errno_of("/sys/fs/cgroup/gpu.slice/dmem.max", "drm/none 5") == errno.EINVAL
    host.write(f"{DEVICES}/{MAX}/drm/card4/gt/gt0/ccs_mode", "0")
    assert host.read(f"{DEVICES}/{MAX}/drm/card4/gt/gt0/ccs_mode") == "0"
