"""The catalog: every row has the properties that the programs built on it rely on."""

import re

import pytest

from gpuslice import catalog
from gpuslice.catalog import amd
from gpuslice.catalog import intel
from gpuslice.catalog import nvidia

TABLES = {"nvidia": nvidia, "amd": amd, "intel": intel}
MIG_KEYS = sorted(key for key in nvidia.MODELS if nvidia.mig_table(key))
ENTRIES = [(vendor, key) for vendor, table in TABLES.items() for key in table.MODELS]
GI_NAME = re.compile(r"(\d)g\.(\d+)gb(\+(?:me|me\.all|gfx)|-me)?\Z")


@pytest.mark.parametrize(("vendor", "key"), ENTRIES)
def test_ids_are_lower_case_hex_of_four_digits(vendor, key):
    model = TABLES[vendor].MODELS[key]
    ids = [*model["device_ids"], *model.get("vf_device_ids", ()), *model.get("subsystem_ids", ())]
    assert ids
    assert [one for one in ids if not re.match(r"[0-9a-f]{4}\Z", one)] == []
    assert re.match(r"[a-z0-9]+(-[a-z0-9]+)*\Z", key)


@pytest.mark.parametrize("vendor", TABLES)
def test_a_device_id_names_one_board_once_the_subsystem_is_known(vendor):
    seen = {}
    for key, model in TABLES[vendor].MODELS.items():
        for device_id in model["device_ids"]:
            for subsystem in model.get("subsystem_ids", ()) or ("any",):
                assert (device_id, subsystem) not in seen, (key, seen.get((device_id, subsystem)))
                assert subsystem == "any" or (device_id, "any") not in seen
                seen[device_id, subsystem] = key


@pytest.mark.parametrize("vendor", TABLES)
def test_an_id_of_virtual_functions_is_no_id_of_a_whole_gpu(vendor):
    whole = {one for model in TABLES[vendor].MODELS.values() for one in model["device_ids"]}
    assert [one for model in TABLES[vendor].MODELS.values() for one in model.get("vf_device_ids", ()) if one in whole] == []


def test_every_vendor_has_its_sites_common_models():
    found = {key: catalog.lookup("10de", device)["key"] for key, device in {
        "a100-40gb": "20b0", "h100-80gb": "2330", "h200-141gb": "2335", "b200-180gb": "2901", "t4": "1eb8", "l4": "27b8",
        "l40": "26b5", "l40s": "26b9", "a10": "2236", "a40": "2235", "v100-16gb": "1db4", "rtx-a6000": "2230",
    }.items()}  # fmt: skip
    assert {key: value for key, value in found.items() if key != value} == {}


@pytest.mark.parametrize("key", sorted(nvidia.MODELS))
def test_mode_words_are_known(key):
    model = nvidia.MODELS[key]
    if not model["mig"]:
        assert (model["mode_change"], model["mode_survives"], nvidia.mig_table(key)) == ("", "", None)
        return
    assert model["mode_change"] in ("gpu_reset", "nothing")
    # Ampere remembers the mode on the board and needs a reset for it; later ones forget it with the driver.
    assert (model["mode_change"] == "gpu_reset") == (model["architecture"] == "ampere")
    assert (model["mode_survives"] == "reboot") == (model["architecture"] == "ampere")


@pytest.mark.parametrize("key", MIG_KEYS)
def test_names_enums_and_ids_of_profiles_are_unique_in_a_model(key):
    profiles = nvidia.mig_table(key).profiles
    for attribute in ("name", "enum", "id"):
        values = [getattr(profile, attribute) for profile in profiles]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("key", MIG_KEYS)
def test_placements_lie_inside_the_gpu_and_counts_fit(key):
    table = nvidia.mig_table(key)
    for profile in table.profiles:
        assert profile.starts == tuple(sorted(set(profile.starts)))
        assert all(0 <= start and start + profile.size <= table.slots for start in profile.starts)
        assert 1 <= profile.count <= len(profile.starts)
        assert profile.count * profile.slices <= table.compute
    whole = [profile for profile in table.profiles if profile.slices == table.compute]
    assert whole
    assert {(profile.starts, profile.size, profile.count) for profile in whole} == {((0,), table.slots, 1)}


@pytest.mark.parametrize("key", sorted(nvidia.MIG_PROFILES))
def test_profile_names_say_what_the_row_says(key):
    model = nvidia.MODELS[key]
    for name, _, _, slices, size, _, _, memory, *_ in nvidia.MIG_PROFILES[key]:
        match = GI_NAME.match(name)
        assert match, name
        assert int(match[1]) == slices
        if memory and model["slots"]:
            # The name's size follows the share of memory slices, rounded to whole GB.
            assert abs(int(match[2]) - model["memory_gb"] * size / model["slots"]) <= 1.5
            assert memory / 1024 <= int(match[2]) + 0.5


@pytest.mark.parametrize("key", MIG_KEYS)
def test_attributes_come_from_the_name(key):
    wanted = {"+me": ("me",), "+me.all": ("me.all",), "+gfx": ("gfx",), "-me": ("-me",), None: ()}
    for profile in nvidia.mig_table(key).profiles:
        assert profile.attributes == wanted[GI_NAME.match(profile.name)[3]]


@pytest.mark.parametrize("key", MIG_KEYS)
def test_compute_instances_lie_inside_their_gpu_instance_and_one_fills_it(key):
    for profile in nvidia.mig_table(key).profiles:
        assert [ci.name for ci in profile.cis if ci.slices == profile.slices] == [profile.name]
        for ci in profile.cis:
            assert all(0 <= start and start + ci.slices <= profile.slices for start in ci.starts)
            assert ci.count == len(ci.starts)
            assert ci.name in (profile.name, f"{ci.slices}c.{profile.name}")


def test_half_of_a_seven_slice_gpu_has_three_compute_slices_but_four_memory_slices():
    profile = nvidia.mig_table("h100-80gb").profile("3g.40gb")
    assert (profile.id, profile.slices, profile.size, profile.starts) == (9, 3, 4, (0, 4))


def test_a_table_that_is_not_public_is_none_but_its_names_are_told():
    assert nvidia.mig_table("rtx-pro-4500-32gb") is None
    assert "1g.16gb" in nvidia.profile_names("rtx-pro-4500-32gb")
    assert nvidia.mig_table("t4") is None
    assert nvidia.mig_table("no-such-model") is None
    assert nvidia.profile_names("no-such-model") == ()


def test_aliases_point_at_profiles_and_collide_with_none():
    assert nvidia.aliases("gb200-186gb")["1g.24gb"] == "1g.23gb"
    for key in nvidia.MODELS:
        names = nvidia.profile_names(key)
        assert set(nvidia.aliases(key).values()) <= set(names)
        assert not set(nvidia.aliases(key)) & set(names)


def test_mig_table_is_made_once():
    assert nvidia.mig_table("a100-40gb") is nvidia.mig_table("a100-40gb")


@pytest.mark.parametrize("key", sorted(amd.MODELS))
def test_amd_combinations_use_the_modes_of_the_model(key):
    model = amd.MODELS[key]
    expected = {
        (compute, memory)
        for compute in model["compute_partitions"]
        for memory in model["memory_partitions"]
        if memory in amd.memory_modes_with(compute, model["architecture"])
    }
    assert set(model["legal_combinations"]) == expected
    assert set(model["validated_combinations"]) <= set(model["legal_combinations"])
    assert ("partition" in model["capabilities"]) == bool(model["compute_partitions"])
    if model["compute_partitions"]:
        assert model["compute_partitions"] == amd.COMPUTE_MODES_BY_XCC[model["xcc"]]
        assert amd.DEFAULT_MODE in model["legal_combinations"]
    assert all(1 <= count <= model["max_vfs"] for count, *_ in model["vf_profiles"])


def test_amd_boards_of_the_newer_generation_have_smaller_parts_in_two_domains():
    assert {"QPX/NPS2", "CPX/NPS2"} <= {"/".join(pair) for pair in amd.MODELS["mi355x"]["legal_combinations"]}
    assert "NPS2" not in amd.memory_modes_with("QPX", "gfx942")
    assert "NPS2" not in amd.memory_modes_with("QPX", "gfx950", newer_driver=False)


@pytest.mark.parametrize("key", sorted(key for key, model in amd.MODELS.items() if model["compute_partitions"]))
def test_amd_partitions_share_out_the_whole_gpu(key):
    model = amd.MODELS[key]
    for mode in model["compute_partitions"]:
        size = amd.partition_size(key, mode)
        assert size["partitions"] * size["cu"] == model["cu"]
        assert size["partitions"] * size["xcc"] == model["xcc"]
        assert size["memory_gb"] is None or size["partitions"] * size["memory_gb"] == model["memory_gb"]


def test_amd_partition_sizes_of_known_boards():
    assert amd.partition_size("mi300x", "CPX") == {"partitions": 8, "cu": 38, "xcc": 1, "memory_gb": 24}
    assert amd.partition_size("mi300a", "TPX") == {"partitions": 3, "cu": 76, "xcc": 2, "memory_gb": None}
    assert amd.partition_size("mi300x", "TPX") is None
    assert amd.partition_size("mi210", "SPX") is None


@pytest.mark.parametrize("preset", sorted(intel.SRIOV_PRESETS))
def test_intel_presets_give_no_more_than_the_gpu_has(preset):
    entry = intel.SRIOV_PRESETS[preset]
    known = {device for model in intel.MODELS.values() for device in model["device_ids"]}
    assert set(entry["applies_to"]) <= known
    assert entry["scheduler"] in intel.SCHEDULERS
    for count in range(1, entry["max_vfs"] + 1):
        given = intel.preset(preset, count)
        assert given["lmem_ecc"] <= given["lmem"]
        assert count * given["lmem"] <= entry["totals"][0]
        assert count * given["doorbells"] <= entry["totals"][3]
        assert count * given["ggtt"] <= entry["totals"][4]


def test_intel_presets_where_there_is_none():
    assert intel.preset("56a0", 2) is None
    assert intel.preset("56c0", 32) is None
    assert intel.preset("56c0", 0) is None
    assert intel.preset("e216", 2) == intel.preset("e211", 2)


@pytest.mark.parametrize("policy", sorted(intel.SCHEDULERS))
def test_intel_schedules_stay_positive(policy):
    for count in range(1, 64):
        quantum, timeout = intel.vf_schedule(policy, count)
        assert quantum >= 1
        assert timeout >= 16000 or policy == "BurstableQoS"
        assert timeout > 0
    assert intel.vf_schedule("BurstableQoS", 1) == (50, 1950000)
    assert intel.vf_schedule("Flexible_30fps", 1) == (32, 128000)
    assert intel.pf_schedule("BurstableQoS", "PVC") == (64, 128000)
    assert intel.pf_schedule("BurstableQoS", "ATS-M") == (20, 20000)


def test_intel_limits_by_id():
    assert intel.max_vfs("max-other", "0bd4") == 62
    assert intel.max_vfs("max-other", "0b6e") == 63
    assert intel.max_vfs("max-other", "0be0") is None
    assert intel.max_vfs("flex-170", "56c0") == 31


def test_lookup_tells_boards_of_one_id_apart_by_subsystem_whoever_made_the_board():
    for subsystem in ("10de:204d", "1028:204D"):
        assert catalog.lookup("10de", "2BB3", subsystem)["key"] == "rtx-pro-5000-48gb"
    assert catalog.lookup("10de", "2bb3", "10de:227a")["memory_mib"] == 72 * 1024


def test_lookup_does_not_guess_between_boards_of_one_id():
    found = catalog.lookup("10de", "2bb3", "10de:ffff")
    assert (found["key"], found["memory_mib"], found["entry"]) == ("", None, {})
    assert "mig" in found["capabilities"]
    # Both boards have 16 GB, so that much is certain.
    assert catalog.lookup("10de", "25b6")["memory_mib"] == 16384


@pytest.mark.parametrize(
    ("vendor_id", "device_id", "model", "memory_mib", "capabilities"),
    [
        ("10de", "20b0", "NVIDIA A100-SXM4-40GB", 40960, ("mig", "mps", "time-slicing")),
        ("10de", "1eb8", "NVIDIA Tesla T4", 16384, ("mps", "time-slicing")),
        ("1002", "74a1", "AMD Instinct MI300X", 196608, ("partition", "sriov")),
        ("1002", "740c", "AMD Instinct MI250", 65536, ()),
        ("1002", "7449", "AMD Radeon Pro W7800", 49152, ()),
        ("8086", "56c0", "Intel Data Center GPU Flex 170", 16384, ("level-zero", "sriov")),
        ("8086", "46a0", "Intel Alder Lake-P integrated GPU", None, ("level-zero", "sriov")),
    ],
)
def test_lookup_of_known_boards(vendor_id, device_id, model, memory_mib, capabilities):
    found = catalog.lookup(vendor_id, device_id)
    assert (found["model"], found["memory_mib"], found["capabilities"]) == (model, memory_mib, capabilities)
    assert found["virtual_function"] is False
    assert found["entry"] is TABLES[found["vendor"]].MODELS[found["key"]]


def test_lookup_of_a_virtual_function_has_no_capabilities_of_the_whole():
    found = catalog.lookup("1002", "74b5")
    assert (found["key"], found["virtual_function"], found["capabilities"], found["memory_mib"]) == ("mi300x", True, (), None)


def test_lookup_of_what_is_not_in_the_catalog():
    assert catalog.lookup("10de", "ffff") is None
    assert catalog.lookup("1a03", "2000") is None
