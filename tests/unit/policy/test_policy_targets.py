"""Which rule holds for which GPU, and what is left alone for which reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import kinds
from gpuslice import policy
from gpuslice.model import Gpu
from gpuslice.policy import document
from gpuslice.policy import fields

SLICING = "containers_gpu_slicing"
H100 = Gpu(
    "0000:1b:00.0", "nvidia", "2330", model="NVIDIA H100 80GB HBM3", name="GH100 [H100 SXM5 80GB]",
    uuid="GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", capabilities=("mig", "mps", "time-slicing", "sriov"),
)  # fmt: skip
T4 = Gpu("0000:41:00.0", "nvidia", "1eb8", model="NVIDIA T4", name="TU104GL [Tesla T4]", capabilities=("mps", "time-slicing"))
MI300 = Gpu("0000:c1:00.0", "amd", "74a1", model="AMD Instinct MI300X", capabilities=("partition", "sriov"))
HOST = [H100, T4, MI300]
MIG = {"profiles": ["1g.10gb"]}


def targets(slicing, gpus=HOST, environment="bare_metal", available=kinds.STRATEGIES, discovery=None):
    """The targets of a pillar with these keys."""
    made = policy.parse({SLICING: {"enabled": True, **slicing}, "containers_gpu_discovery": discovery or {}})
    return policy.targets(made, gpus, environment, available)


def techniques(*args, **kwargs):
    """Only the technique of each GPU."""
    return [each.technique for each in targets(*args, **kwargs)]


def test_a_host_wide_strategy_reaches_what_can_do_it_and_leaves_the_rest_alone():
    made = targets({"strategy": "mig", "mig": MIG})
    assert [each.gpu for each in made] == HOST
    assert made[0].technique == "mig"
    assert made[0].settings == {"entries": [("1g.10gb", None, 1)], "compute_instances": 1}
    assert (made[1].technique, made[1].settings, made[1].reason) == (None, {}, "not applicable: NVIDIA T4 has no MIG")
    assert made[2].reason == "not applicable: AMD Instinct MI300X has no MIG"


def test_nothing_is_wanted_of_anybody_while_slicing_is_off_or_the_strategy_none():
    made = policy.targets(policy.parse({SLICING: {"strategy": "mig", "mig": MIG}}), HOST, "bare_metal")
    assert [(each.technique, each.reason) for each in made] == [(None, f"{SLICING}:enabled is false")] * 3
    assert [(each.technique, each.reason) for each in targets({})] == [(None, f"strategy none ({SLICING})")] * 3


def test_a_host_without_gpus_has_no_targets():
    assert targets({"strategy": "mig", "mig": MIG}, gpus=[]) == []


def test_the_first_matching_rule_wins():
    made = targets(
        {
            "strategy": "mig",
            "mig": MIG,
            "devices": [
                {"match": {"pci": "1B:00.0"}, "strategy": "none"},
                {"match": {"vendor": "nvidia"}, "strategy": "time-slicing"},
                {"match": {"model": "*mi300?"}, "strategy": "partition"},
            ],
        }
    )
    assert [each.technique for each in made] == [None, "time-slicing", "partition"]
    assert [each.path for each in made] == [f"{SLICING}:devices:{place}" for place in range(3)]
    assert made[1].reason == f"strategy time-slicing ({SLICING}:devices:1)"


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({"pci": "0000:1b:00.0"}, True),
        ({"uuid": "GPU-5D5BA0D6-D33D-2B2C-524D-9E3D8D2B8A77"}, True),
        ({"model": "nvidia h100*"}, True),
        ({"model": "NVIDIA H100"}, False),
        ({"name": "GH100 [H100 SXM5 80GB]"}, True),
        ({"name": "GH100 [H100*"}, True),
        ({"name": "GH100 [GH]*"}, False),
        ({"vendor": "nvidia", "model": "*A100*"}, False),
        ({"vendor": "nvidia", "pci": "0000:1b:00.0", "model": "*H100*"}, True),
    ],
)
def test_all_keys_of_a_match_must_fit(match, fits):
    rules = [{"match": match, "strategy": "mps"}]
    assert techniques({"devices": rules}, gpus=[H100]) == (["mps"] if fits else [None])


@pytest.mark.parametrize(
    "match", [{"pci": "0000:41:00.0"}, {"name": "TU104GL [Tesla T4]"}, {"pci": "0000:41:00.0", "model": "*"}]
)
def test_a_strategy_that_a_named_gpu_cannot_do_is_an_error(match):
    with pytest.raises(errors.Unsupported) as caught:
        targets({"devices": [{"match": match, "strategy": "mig", "mig": MIG}]})
    assert caught.value.gpu == "0000:41:00.0"
    assert f"GPU 0000:41:00.0: {SLICING}:devices:0 wants strategy mig, but NVIDIA T4 has no MIG." in str(caught.value)


@pytest.mark.parametrize("match", [{"model": "*T4"}, {"vendor": "nvidia"}, {"name": "*T4*"}])
def test_a_strategy_that_a_kind_of_gpu_cannot_do_is_not_applicable(match):
    made = targets({"devices": [{"match": match, "strategy": "mig", "mig": MIG}]})
    assert (made[1].technique, made[1].reason) == (None, "not applicable: NVIDIA T4 has no MIG")


def test_a_gpu_named_in_discovery_must_be_able_to_do_the_strategy():
    discovery = {"method": "manual", "devices": ["0000:41:00.0", "0000:c1:00.0"]}
    with pytest.raises(errors.Unsupported) as caught:
        targets({"strategy": "mig", "mig": MIG}, discovery=discovery)
    assert "NVIDIA T4 has no MIG" in str(caught.value)
    assert "MI300X has no MIG" in str(caught.value)
    assert caught.value.gpu == ""


def test_what_discovery_does_not_name_is_left_alone():
    discovery = {"method": "manual", "devices": [H100.uuid.lower()]}
    made = targets({"strategy": "mig", "mig": MIG}, discovery=discovery)
    assert [each.technique for each in made] == ["mig", None, None]
    assert made[1].reason == "not named in containers_gpu_discovery:devices"


def test_gpus_that_are_not_there_are_named_with_what_is():
    rules = [
        {"match": {"pci": "0000:99:00.0"}, "strategy": "none"},
        {"match": {"uuid": "GPU-00000000-d33d-2b2c-524d-9e3d8d2b8a77"}, "strategy": "none"},
    ]
    with pytest.raises(errors.DeviceNotFound) as caught:
        targets({"devices": rules})
    text = str(caught.value)
    assert f"{SLICING}:devices:0:match:pci names 0000:99:00.0" in text
    assert f"{SLICING}:devices:1:match:uuid names GPU-00000000" in text
    assert f"It has 0000:1b:00.0 (NVIDIA H100 80GB HBM3, {H100.uuid}), 0000:41:00.0 (NVIDIA T4)" in text
    assert "The UUID of 0000:41:00.0, 0000:c1:00.0 is not known" in text
    with pytest.raises(errors.DeviceNotFound, match="It has no GPU at all"):
        targets({"devices": rules}, gpus=[])
    with pytest.raises(errors.DeviceNotFound, match="containers_gpu_discovery:devices names 0000:98:00.0"):
        targets({}, discovery={"method": "manual", "devices": ["0000:98:00.0"]})


ABSENT, ABSENT_UUID = "0000:99:00.0", "GPU-00000000-d33d-2b2c-524d-9e3d8d2b8a77"


def parsed(*rules, discovery=None, **slicing):
    """The policy of a pillar with these rules."""
    made = {SLICING: {"enabled": True, "strategy": "mps", "devices": list(rules), **slicing}}
    return policy.parse({**made, "containers_gpu_discovery": discovery or {}})


@pytest.mark.parametrize("match", [{"pci": ABSENT}, {"uuid": ABSENT_UUID}, {"uuid": ABSENT_UUID.lower()}])
def test_a_gpu_that_is_optional_may_be_absent_and_is_reported(match):
    made = parsed({"match": match, "strategy": "none", "optional": True})
    found = policy.targets(made, HOST, "bare_metal")
    assert [each.technique for each in found] == ["mps", "mps", None]
    assert policy.absent(made, HOST) == [f"{list(match.values())[0]}: absent, which {SLICING}:devices:0:optional allows"]
    assert [line for line in made.warnings if "optional" in line] == []


def test_an_optional_gpu_that_is_there_is_as_any_other():
    made = parsed({"match": {"pci": H100.address}, "strategy": "mig", "mig": MIG, "optional": True})
    assert [each.technique for each in policy.targets(made, HOST, "bare_metal")] == ["mig", "mps", None]
    assert policy.absent(made, HOST) == []


@pytest.mark.parametrize("optional", [{}, {"optional": False}])
def test_any_other_gpu_must_be_there_and_the_message_says_how_it_need_not(optional):
    made = parsed({"match": {"pci": ABSENT}, "strategy": "none", **optional})
    with pytest.raises(errors.DeviceNotFound, match=f"names {ABSENT}: this host has no such GPU.*optional: true"):
        policy.targets(made, HOST, "bare_metal")
    assert policy.absent(made, HOST) == []


def test_one_gpu_that_must_be_there_is_not_excused_by_another():
    rules = [{"match": {"pci": ABSENT}, "optional": True}, {"match": {"pci": "0000:98:00.0"}}]
    with pytest.raises(errors.DeviceNotFound) as caught:
        policy.targets(parsed(*rules), HOST, "bare_metal")
    assert "0000:98:00.0" in str(caught.value) and ABSENT not in str(caught.value)


def test_what_an_optional_rule_names_may_be_absent_from_a_manual_discovery_too():
    discovery = {"method": "manual", "devices": [H100.address, ABSENT]}
    made = parsed({"match": {"pci": ABSENT}, "optional": True}, discovery=discovery)
    assert [each.technique for each in policy.targets(made, HOST, "bare_metal")] == ["mps", None, None]
    assert len(policy.absent(made, HOST)) == 1
    with pytest.raises(errors.DeviceNotFound, match=f"containers_gpu_discovery:devices names {ABSENT}"):
        policy.targets(parsed(discovery=discovery), HOST, "bare_metal")


def test_nobody_is_absent_while_slicing_is_off():
    assert policy.absent(parsed({"match": {"pci": ABSENT}, "optional": True}, enabled=False), HOST) == []


def test_optional_means_something_only_where_one_gpu_is_named():
    made = parsed({"match": {"model": "*H200*"}, "optional": True})
    wanted = f"{SLICING}:devices:0:optional: has no effect: only a GPU that match names by pci or uuid"
    assert any(line.startswith(wanted) for line in made.warnings)
    with pytest.raises(errors.PolicyError, match="optional: is the text 'yes'"):
        parsed({"match": {"pci": ABSENT}, "optional": "yes"})


def test_the_pillar_itself_tells_what_this_version_lacks():
    rules = [{"match": {"vendor": "amd"}, "strategy": "time-slicing"}, {"match": {"vendor": "intel"}, "strategy": "level-zero"}]
    found = policy.lacking(parsed(*rules), ("mig", "level-zero"))
    assert [each.split(": ")[0] for each in found] == [f"{SLICING}:strategy", f"{SLICING}:devices:0:strategy"]
    assert all("not in this version; it has mig, level-zero." in each for each in found)
    assert policy.lacking(parsed(*rules, enabled=False), ("mig",)) == []
    assert policy.lacking(policy.parse({SLICING: {"enabled": True, "strategy": "auto"}}), ("mig",)) == []


def test_a_rule_for_a_gpu_outside_a_manual_discovery_is_not_looked_for():
    discovery = {"method": "manual", "devices": ["0000:1b:00.0"]}
    rules = [{"match": {"pci": "0000:99:00.0"}, "strategy": "none"}]
    assert techniques({"strategy": "mps", "devices": rules}, discovery=discovery) == ["mps", None, None]


def test_a_technology_that_this_version_lacks_is_an_error_where_it_was_asked_for():
    with pytest.raises(errors.Unsupported, match=f"{SLICING}: strategy sriov is not in this version; it has mig.") as caught:
        targets({"strategy": "sriov"}, available=("mig",))
    assert str(caught.value).count("not in this version") == 1
    assert techniques({"strategy": "mig", "mig": MIG}, available=("mig",)) == ["mig", None, None]


# -- auto ----------------------------------------------------------------------------------------------------------


def test_auto_picks_by_environment_and_says_so():
    bare, host, guest, container = (targets({"strategy": "auto", "mig": MIG}, environment=each) for each in fields.ENVIRONMENTS)
    assert [each.technique for each in bare] == ["mig", None, None]
    assert [each.technique for each in host] == ["sriov", None, "sriov"]
    assert [each.technique for each in guest] == ["time-slicing", "time-slicing", None]
    assert [each.technique for each in container] == [None, None, None]
    assert container[0].reason == f"auto picks none on container ({SLICING}:auto_strategy)"
    assert bare[0].reason == f"auto picks mig on bare_metal ({SLICING}:auto_strategy)"
    assert bare[1].reason.startswith("not applicable: auto picks mig on bare_metal")
    assert bare[1].reason.endswith("but NVIDIA T4 has no MIG")


@pytest.mark.parametrize(
    ("slicing", "available", "said"),
    [
        ({}, ("mig",), "no profiles are given"),
        ({"mig": {"enabled": False, **MIG}}, ("mig",), "mig:enabled is false"),
        ({"mig": MIG}, ("mps",), "strategy mig is not in this version"),
        ({"auto_strategy": {"bare_metal": "none"}}, ("mig",), "auto picks none"),
        ({"auto_strategy": {"bare_metal": "vgpu"}}, ("vgpu",), "no vGPU profile is given"),
    ],
)
def test_auto_leaves_a_gpu_alone_where_its_pick_cannot_be_had(slicing, available, said):
    gpu = replace(H100, capabilities=(*H100.capabilities, "vgpu"))
    made = targets({"strategy": "auto", **slicing}, gpus=[gpu], available=available)[0]
    assert (made.technique, made.settings) == (None, {})
    assert said in made.reason


@pytest.mark.parametrize(
    ("environment", "vgpu", "obstacle"),
    [
        ("virtual_guest", {}, "neither license_server nor client_token is given"),
        ("virtual_guest", {"profile": "x"}, "neither license_server nor client_token is given"),
        ("virtual_guest", {"license_server": "lic"}, ""),
        ("virtual_guest", {"client_token": "x"}, ""),
        ("virtual_host", {"license_server": "lic"}, "no vGPU profile is given"),
        ("virtual_host", {"profile": "x"}, ""),
        ("virtual_host", {"profiles": {"x": 1}}, ""),
    ],
)
def test_auto_takes_vgpu_where_a_host_is_told_types_and_a_guest_a_licence(environment, vgpu, obstacle):
    gpu = replace(H100, capabilities=("time-slicing", "vgpu"))
    keys = {"strategy": "auto", "auto_strategy": {environment: "vgpu"}, "vgpu": vgpu}
    (made,) = targets(keys, gpus=[gpu], environment=environment)
    assert made.technique == (None if obstacle else "vgpu")
    assert obstacle in made.reason


def test_auto_shares_a_vgpu_in_time_unless_it_is_told_to_license_it():
    gpu = replace(H100, capabilities=("time-slicing", "vgpu"))
    (made,) = targets({"strategy": "auto", "vgpu": {"license_server": "lic"}}, gpus=[gpu], environment="virtual_guest")
    assert made.technique == "time-slicing"


def test_a_rule_may_give_auto_back_what_the_host_took_from_it():
    keys = {"strategy": "auto", "mig": {"enabled": False, **MIG}}
    rule = {"match": {"model": "*H100*"}, "strategy": "auto", "mig": {"enabled": True}}
    assert techniques(keys, gpus=[H100]) == [None]
    assert techniques({**keys, "devices": [rule]}, gpus=[H100]) == ["mig"]


def test_auto_with_an_environment_that_it_does_not_know():
    with pytest.raises(errors.Unsupported, match="can't decide in the environment 'moon'"):
        targets({"strategy": "auto"}, environment="moon")


MAX = Gpu("0000:9a:00.0", "intel", "0bd5", model="Intel Data Center GPU Max 1550", capabilities=("level-zero", "sriov"))
ARC = Gpu("0000:9c:00.0", "intel", "56a0", model="Intel Arc A770", capabilities=("level-zero",))
VENDORS = [H100, T4, MI300, MAX, ARC]
SETTINGS = {"mig": MIG, "partition": {"compute": "CPX"}, "level_zero": {"partitions": ["0"]}}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("bare_metal", ["mig", None, "partition", "level-zero", "level-zero"]),
        ("virtual_host", ["sriov", None, "sriov", "sriov", None]),
        ("virtual_guest", ["time-slicing", "time-slicing", None, "level-zero", "level-zero"]),
        ("container", [None] * 5),
    ],
)
def test_auto_takes_what_each_vendor_can_do_where_the_pillar_has_settings_for_it(environment, expected):
    made = targets({"strategy": "auto", **SETTINGS}, gpus=VENDORS, environment=environment)
    assert [each.technique for each in made] == expected
    assert [each.automatic for each in made] == [technique is not None for technique in expected]
    assert all(f"on {environment}" in each.reason for each in made)
    for each in made:
        if each.technique:
            assert f"auto picks {each.technique} " in each.reason


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "time-slicing"),
        ({"level_zero": {"partitions": ["0"]}}, "level-zero"),
        ({"level_zero": {"partitions": ["0"]}, "time_slicing": {"max_instance_count": 2}}, "time-slicing"),
        ({"level_zero": {"enabled": False, "partitions": ["0"]}}, "time-slicing"),
    ],
    ids=["neither", "the other one", "both", "switched off"],
)
def test_auto_goes_by_what_the_pillar_speaks_of(keys, expected):
    """Also where the GPU could do what is picked: who has settings for another technology only means that one."""
    able = replace(ARC, capabilities=("level-zero", "time-slicing"))
    (made,) = targets({"strategy": "auto", **keys}, gpus=[able], environment="virtual_guest")
    assert made.technique == expected and made.automatic
    if expected == "level-zero":
        assert made.reason == "auto picks level-zero on virtual_guest instead of time-slicing, of which the pillar says nothing"


def test_auto_says_why_it_takes_another_technology():
    (made,) = targets({"strategy": "auto", **SETTINGS}, gpus=[MI300])
    assert made.settings == {"compute": "CPX", "memory": "NPS1"}
    assert made.reason == (
        f"auto picks partition on bare_metal instead of mig ({SLICING}:auto_strategy), because {MI300.model} has no MIG"
    )


@pytest.mark.parametrize(
    ("gpu", "keys"),
    [
        (MI300, {}),
        (MI300, {"partition": {"compute": "SPX"}}),
        (ARC, {"level_zero": {"hierarchy": "COMPOSITE"}}),
        (MI300, {"partition": {"enabled": False, "compute": "CPX"}}),
        (MI300, {"auto_strategy": {"bare_metal": "vgpu"}, "vgpu": {"profile": "x"}, "partition": {"compute": "CPX"}}),
        (T4, {"time_slicing": {"max_instance_count": 4}}),
        (H100, {"partition": {"compute": "CPX"}}),
    ],
    ids=["no settings", "defaults", "nothing to do", "switched off", "another kind", "weaker isolation", "mig without profiles"],
)
def test_auto_takes_nothing_else_that_was_not_meant(gpu, keys):
    (made,) = targets({"strategy": "auto", **keys}, gpus=[gpu])
    assert made.technique is None and made.reason.startswith("not applicable: auto picks ")


@pytest.mark.parametrize("environment", fields.ENVIRONMENTS)
def test_every_environment_may_be_told_what_to_take(environment):
    keys = {"strategy": "auto", "auto_strategy": {environment: "passthrough"}}
    able = replace(H100, capabilities=(*H100.capabilities, "passthrough"))
    (made,) = targets(keys, gpus=[able], environment=environment)
    assert made.technique == "passthrough"


def test_what_the_host_is_to_blame_for_is_a_mistake_also_where_only_the_host_wide_strategy_reaches():
    made = policy.parse({SLICING: {"enabled": True, "strategy": "passthrough"}})
    with pytest.raises(errors.Unsupported, match="has no passthrough \\(the IOMMU is off\\)"):
        policy.targets(made, [T4], "bare_metal", why_not=lambda gpu, technique: ("the IOMMU is off.", True))
    made = policy.targets(made, [T4], "bare_metal", why_not=lambda gpu, technique: ("it has no group", False))
    assert made[0].reason == "not applicable: NVIDIA T4 has no passthrough (it has no group)"


gpus = st.builds(
    Gpu,
    address=st.integers(0, 255).map(lambda bus: f"0000:{bus:02x}:00.0"),
    vendor=st.sampled_from(fields.VENDORS),
    device_id=st.just("1234"),
    model=st.sampled_from(["NVIDIA T4", "NVIDIA H100", "AMD Instinct MI300X", ""]),
    capabilities=st.sets(st.sampled_from(kinds.STRATEGIES)).map(tuple),
)


@given(
    st.lists(gpus, max_size=5, unique_by=lambda gpu: gpu.address),
    st.sampled_from(document.STRATEGIES),
    st.lists(
        st.tuples(st.sampled_from(fields.VENDORS), st.sampled_from(document.STRATEGIES)), max_size=3, unique_by=lambda x: x[0]
    ),
    st.sampled_from(fields.ENVIRONMENTS),
)
def test_every_gpu_gets_what_it_can_do_or_a_reason(found, strategy, rules, environment):
    made = targets(
        {
            "strategy": strategy,
            "mig": MIG,
            "vgpu": {"profile": "x"},
            "devices": [{"match": {"vendor": vendor}, "strategy": each} for vendor, each in rules],
        },
        gpus=found,
        environment=environment,
    )
    assert [each.gpu for each in made] == found
    for each in made:
        assert each.reason
        assert each.technique is None or kinds.known(each.technique).needs in each.gpu.capabilities
        assert each.technique is not None or each.settings == {}
