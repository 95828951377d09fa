"""The pillar: what is accepted, what is refused, and in which words."""

import copy
import importlib
import importlib.util
import types

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import kinds
from gpuslice import policy
from gpuslice import secret
from gpuslice.policy import build
from gpuslice.policy import document
from gpuslice.techniques.mig import section

SLICING = "containers_gpu_slicing"
UUID = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"


def slicing(**keys):
    """The policy of a pillar with these keys under containers_gpu_slicing."""
    return policy.parse({SLICING: {"enabled": True, **keys}})


def mistakes(pillar):
    """The mistakes of a pillar that must have some."""
    with pytest.raises(errors.PolicyError) as caught:
        policy.parse(yaml.safe_load(pillar) if isinstance(pillar, str) else pillar)
    assert all(each in str(caught.value) for each in caught.value.mistakes)
    return caught.value.mistakes


def only_mistake(**keys):
    """The one mistake of a pillar with these keys under containers_gpu_slicing."""
    found = mistakes({SLICING: {"enabled": True, **keys}})
    assert len(found) == 1, found
    return found[0]


def test_an_empty_pillar_is_valid_and_does_nothing():
    made = policy.parse({})
    assert (made.enabled, made.method, made.vendor_detection, made.apply_strategy) == (False, "auto", "udev", "auto")
    assert (made.reboot_required, made.validation, made.health_check) == (False, True, True)
    assert made.integration == {
        "runtime": "crun",
        "device_plugin": "nvidia",
        "resource_limits": {"memory_gb": 8, "compute_units": 4, "gpu_instances": 1},
    }
    assert made.default.strategy == "none"
    assert (made.rules, made.warnings) == ((), [])


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("gpu_slicing", {"enabled": True}, SLICING),
        ("gpu-slicing", {"strategy": "mig", "other": 1}, SLICING),
        ("gpu_slicng", {"devices": []}, SLICING),
        ("GPU_Slicing", {"mig": {}}, SLICING),
        ("container-gpu-slicing", {}, SLICING),
        ("containers-gpu-slicing", 7, SLICING),
        ("gpu_state_management", {"boot": True}, "containers_gpu_state_management"),
        ("gpu_discovery", {"method": "auto"}, "containers_gpu_discovery"),
    ],
)
def test_a_key_without_its_first_word_is_named_as_the_mistake(key, value, near):
    assert mistakes({key: value}) == [f"{key}: is not a known key. Did you mean '{near}'?"]


@pytest.mark.parametrize("others", [{"gpu_slicing": {"simulate": "x"}}, {"gpu_burn": {"enabled": True}}, {"gpu_slicing": []}])
def test_a_key_of_somebody_else_is_none_of_ours(others):
    assert policy.parse(others).enabled is False


def test_keys_of_others_are_left_alone_and_misspelt_ones_are_not():
    assert policy.parse({"gpu_slicing": 1, "containers": {}, "users": [], 5: 6}).enabled is False
    for key in ("container_gpu_slicing", "containers_gpu_slicng", "containers_gpu_discovry", "containers_GPU_slicing"):
        near = "containers_gpu_discovery" if "disc" in key else SLICING
        assert mistakes({key: {}}) == [f"{key}: is not a known key. Did you mean '{near}'?"]


def test_every_mistake_is_reported_at_once_with_its_path():
    found = mistakes(
        """
        containers_gpu_discovery: {metod: auto, vendor_detection: lspc}
        containers_gpu_slicing:
          enabled: "yes"
          strategy: MIG
          mig: {profiles: [1g.10gb, 9x], gpu_instance_count: "8", compute_instance_count: true}
          sriov: {vf_count: -1, vf_devices: ["0000:07:00.9"]}
          time_slicing: {slice_duration: 100}
          devices:
            - match: {}
            - match: {index: 0}
            - strategy: mig
        containers_gpu_container_integration: {resource_limits: {memory_gb: 1.5}}
        containers_gpu_state_management: []
        """
    )
    paths = [each.split(": ")[0] for each in found]
    assert paths == [
        "containers_gpu_discovery:metod",
        "containers_gpu_discovery:vendor_detection",
        f"{SLICING}:enabled",
        f"{SLICING}:strategy",
        f"{SLICING}:mig:profiles:1",
        f"{SLICING}:mig:gpu_instance_count",
        f"{SLICING}:mig:compute_instance_count",
        f"{SLICING}:sriov:vf_count",
        f"{SLICING}:sriov:vf_devices:0",
        f"{SLICING}:time_slicing:slice_duration",
        f"{SLICING}:devices:0:match",
        f"{SLICING}:devices:1:match:index",
        f"{SLICING}:devices:2",
        "containers_gpu_container_integration:resource_limits:memory_gb",
        "containers_gpu_state_management",
    ]
    text = "\n".join(found)
    assert "Did you mean 'method'?" in text
    assert "Did you mean 'lspci'?" in text
    assert "Did you mean 'mig'?" in text
    assert "is the text 'yes'; true or false is wanted. Write it without quotes." in text
    assert "is the text '8'; a whole number from 1 to 64 is wanted. Write it without quotes." in text
    assert "is the truth value true" in text


@pytest.mark.parametrize("value", [None, "", "mig", 5, ["a"]])
def test_a_section_that_is_no_mapping_is_refused(value):
    for key in document.top():
        assert mistakes({key: value})[0].startswith(f"{key}: ")
    assert only_mistake(mig=value).startswith(f"{SLICING}:mig: ")


# -- profiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profiles", "count", "entries"),
    [
        (["1g.10gb", "2g.20gb"], 1, [("1g.10gb", None, 1), ("2g.20gb", None, 1)]),
        (["1g.10gb", "2g.20gb"], 3, [("1g.10gb", None, 3), ("2g.20gb", None, 3)]),
        (["1g.10gb", "3g.40gb@4", "1G.10GB"], 1, [("1g.10gb", None, 2), ("3g.40gb", 4, 1)]),
        ({"1g.10gb": 4, "MIG 3g.40gb": 1}, 7, [("1g.10gb", None, 4), ("3g.40gb", None, 1)]),
        (["1c.3g.40gb@4", "1c.3g.40gb@4"], 1, [("1c.3g.40gb", 4, 2)]),
        (["1c.3g.40gb@4"], 3, [("1c.3g.40gb", 4, 3)]),
        (["3c.3g.40gb@0"], 1, [("3g.40gb", 0, 1)]),
        ([], 1, []),
    ],
)
def test_the_forms_of_a_layout(profiles, count, entries):
    made = slicing(strategy="mig", mig={"profiles": profiles, "gpu_instance_count": count})
    assert made.default.settings["mig"] == {"entries": entries, "compute_instances": 1}
    assert section.entries(profiles, count) == entries


def test_one_name_is_a_layout_for_a_function_and_for_the_pillar():
    assert section.entries("1g.10gb") == [("1g.10gb", None, 1)]
    made = policy.parse({SLICING: {"strategy": "mig", "mig": {"profiles": "1g.10gb"}}})
    assert made.default.settings["mig"]["entries"] == [("1g.10gb", None, 1)]


@pytest.mark.parametrize(
    ("profiles", "place", "said"),
    [
        (["3g.40gb@4", "3g.40gb@4"], ":1", "pins 3g.40gb to memory slice 4"),
        (["3g.40gb@4", "1c.3g.40gb@4"], ":1", "takes already"),
        (["1c.3g.40gb@4", "1c.4g.40gb@4"], ":1", "takes already"),
        ({"3g.40gb@4": 1}, ":3g.40gb@4", "pins go with the list form"),
        ({"1g.10gb": 0}, ":1g.10gb", "has the count 0; it goes from 1 to 64"),
        ({"1g.10gb": True}, ":1g.10gb", "has the count the truth value true"),
        ({"1g.10gb": "2"}, ":1g.10gb", "Write the number without quotes"),
        ([{"1g.10gb": 2}], ":0", "write either a list of names or one mapping"),
        ([5], ":0", "not 5"),
        ([None], ":0", "not None"),
        (["1g.10gb+gfk"], ":0", "did you mean '+gfx'?"),
        (7, "", "is the number 7"),
    ],
)
def test_mistakes_in_a_layout(profiles, place, said):
    found = only_mistake(strategy="mig", mig={"profiles": profiles})
    assert found.startswith(f"{SLICING}:mig:profiles{place}: ")
    assert said in found
    assert ".." not in found and "?." not in found
    with pytest.raises(errors.PolicyError) as caught:
        section.entries(profiles, path="wanted")
    assert caught.value.mistakes == [found.replace(f"{SLICING}:mig:profiles", "wanted")]


def test_a_pin_cannot_be_multiplied_and_the_mistake_is_told_once():
    found = only_mistake(
        strategy="mig", mig={"profiles": ["3g.40gb@4"], "gpu_instance_count": 2}, devices=[{"match": {"vendor": "nvidia"}}]
    )
    assert found.startswith(f"{SLICING}:mig:profiles: pins 3g.40gb to memory slice 4, but gpu_instance_count asks for 2")


@pytest.mark.parametrize("count", [0, 65, True, "2", None])
def test_a_function_checks_the_count_too(count):
    with pytest.raises(errors.PolicyError, match="gpu_instance_count"):
        section.entries(["1g.10gb"], count)


# -- strategy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "strategy"),
    [
        ({}, "none"),
        ({"strategy": "mig", "mig": {"profiles": []}}, "mig"),
        ({"strategy": "mig", "mig": {"enabled": True, "profiles": []}}, "mig"),
        ({"strategy": "mig", "mig": {"mode": "disabled"}, "sriov": {"enabled": False}}, "mig"),
        ({"mig": {"enabled": True, "profiles": []}}, "mig"),
        ({"strategy": "none", "mig": {"enabled": True, "profiles": []}}, "mig"),
        ({"strategy": "auto", "mig": {"enabled": True}}, "auto"),
        ({"strategy": "auto", "mig": {"enabled": False}}, "auto"),
        ({"strategy": "passthrough"}, "passthrough"),
        ({"level_zero": {"enabled": True}}, "level-zero"),
    ],
)
def test_the_strategy_is_what_is_said_or_switched_on(keys, strategy):
    assert slicing(**keys).default.strategy == strategy


def test_a_switched_off_policy_may_name_a_strategy():
    made = policy.parse({SLICING: {"enabled": False, "strategy": "mig"}})
    assert (made.enabled, made.default.strategy) == (False, "mig")


@pytest.mark.parametrize("strategy", list(kinds.SECTIONS))
def test_a_strategy_that_is_switched_off_in_writing_is_a_contradiction(strategy):
    key = kinds.SECTIONS[strategy]
    found = mistakes({SLICING: {"strategy": strategy, key: {"enabled": False}}})
    assert found[0].startswith(f"{SLICING}:{key}:enabled: is false, but the strategy is {strategy}.")


@pytest.mark.parametrize("written", [{}, {"mig": {}}, {"mig": {"mode": "enabled"}}, {"mig": {"gpu_instance_count": 2}}])
def test_mig_without_a_word_on_profiles_is_a_mistake(written):
    found = only_mistake(strategy="mig", **written)
    assert found.startswith(f"{SLICING}:mig:profiles: is not given")
    assert "profiles: []" in found and "mode: disabled" in found


def test_mig_says_explicitly_that_nothing_is_wanted():
    assert slicing(strategy="mig", mig={"profiles": []}).default.settings["mig"]["entries"] == []
    assert slicing(strategy="mig", mig={"profiles": {}}).default.settings["mig"]["entries"] == []
    assert slicing(strategy="mig", mig={"mode": "disabled"}).default.settings["mig"] == {"enabled": False}
    assert slicing(strategy="auto").default.settings["mig"]["entries"] == []


def test_a_rule_inherits_the_profiles_of_the_host_and_else_needs_its_own():
    rule = {"match": {"vendor": "nvidia"}, "strategy": "mig"}
    assert slicing(mig={"profiles": ["1g.10gb"]}, devices=[rule]).rules[0].settings["mig"]["entries"] == [("1g.10gb", None, 1)]
    assert only_mistake(devices=[rule]).startswith(f"{SLICING}:devices:0:mig:profiles: is not given")
    assert slicing(devices=[{**rule, "mig": {"profiles": []}}]).rules[0].settings["mig"]["entries"] == []
    assert slicing(devices=[{**rule, "mig": {"mode": "disabled"}}]).rules[0].settings["mig"] == {"enabled": False}


@pytest.mark.parametrize(
    ("keys", "silent"),
    [
        ({}, {"mig", "sriov", "vgpu", "partition", "level-zero", "power"}),
        ({"sriov": {"profile": "fair"}}, {"mig", "sriov", "vgpu", "partition", "level-zero", "power"}),
        ({"sriov": {"vf_count": 4}}, {"mig", "vgpu", "partition", "level-zero", "power"}),
        ({"partition": {"memory": "NPS1"}}, {"mig", "sriov", "vgpu", "partition", "level-zero", "power"}),
        ({"partition": {"compute": "SPX"}, "vgpu": {"profiles": {"x": 1}}}, {"mig", "sriov", "level-zero", "power"}),
        ({"level_zero": {"partitions": []}, "mig": {"profiles": []}}, {"sriov", "vgpu", "partition", "power"}),
    ],
)
def test_a_rule_knows_which_technologies_were_not_spoken_of(keys, silent):
    assert slicing(**keys).default.silent.keys() == silent
    rule = {"match": {"model": "x"}, "strategy": "none", **keys}
    assert slicing(devices=[rule]).rules[0].silent.keys() == silent
    inherited = slicing(**keys, devices=[{"match": {"model": "x"}, "strategy": "none"}]).rules[0]
    assert inherited.silent.keys() == silent
    assert all(path.startswith(f"{SLICING}:devices:0:") for path in inherited.silent.values())


def test_two_technologies_at_once_are_a_contradiction():
    mig = {"enabled": True, "profiles": []}
    sriov = {"enabled": True}
    assert "is true, but so is containers_gpu_slicing:mig:enabled" in only_mistake(mig=mig, sriov=sriov)
    assert f"is true, but {SLICING}:strategy is mig" in only_mistake(strategy="mig", mig=mig, sriov=sriov)
    rule = {"match": {"vendor": "amd"}, "mig": mig, "sriov": sriov}
    assert only_mistake(devices=[rule]).startswith(f"{SLICING}:devices:0:sriov:enabled: ")


def test_a_slice_is_shared_in_one_way():
    mig, sharing = {"enabled": True, "profiles": []}, {"mps": {"enabled": True}, "time_slicing": {"enabled": True}}
    said = f"is true, but so is {SLICING}:time_slicing:enabled; the slices of a GPU are shared in one way only, whatever profiles"
    assert f"{SLICING}:mps:enabled: {said} say. Leave one of them out" in only_mistake(strategy="mig", mig=mig, **sharing)
    rule = {"match": {"vendor": "nvidia"}, "strategy": "mig", "mps": {"enabled": True}}
    inherited = only_mistake(strategy="mig", mig=mig, time_slicing={"enabled": True}, devices=[rule])
    assert inherited.startswith(f"{SLICING}:devices:0:mps:enabled: is true, but so is {SLICING}:devices:0:time_slicing:enabled")
    rule["time_slicing"] = {"enabled": False}
    assert slicing(strategy="mig", mig=mig, time_slicing={"enabled": True}, devices=[rule]).rules[0].beside == ("mps",)


def test_settings_that_the_technology_in_effect_needs():
    assert only_mistake(strategy="vgpu").startswith(f"{SLICING}:vgpu:profile: is empty")
    assert "SPX goes with NPS1 only" in only_mistake(strategy="partition", partition={"memory": "NPS4"})
    assert "is no time at all" in only_mistake(strategy="time-slicing", time_slicing={"slice_duration": "0ms"})
    assert slicing(strategy="mig", vgpu={"profile": ""}, mig={"profiles": []}).warnings == []


# -- vgpu ----------------------------------------------------------------------------------------------------------


def vgpu(**keys):
    """The settings of strategy vgpu with these keys."""
    return slicing(strategy="vgpu", vgpu=keys).default.settings["vgpu"]


def test_vgpu_needs_a_type_on_a_host_or_a_licence_in_a_guest():
    found = only_mistake(strategy="vgpu", vgpu={"count": 2, "scheduler": "equal-share", "license_port": 7071, "feature": "vgpu"})
    assert found.startswith(f"{SLICING}:vgpu:profile: is empty, but the strategy is vgpu")
    assert "license_server" in found and "client_token" in found
    for keys in ({"profile": "H100XM-10C"}, {"profiles": {"H100XM-10C": 1}}, {"license_server": "lic"}, {"client_token": "x"}):
        made = vgpu(**keys)
        assert {key: made[key] for key in keys} == ({"client_token": secret.Secret("x")} if "client_token" in keys else keys)
    assert vgpu(profile="x") == {
        "profile": "x", "count": 0, "profiles": {}, "scheduler": "", "license_server": "", "license_port": 7070,
        "feature": "auto", "client_token": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "server",
    ["lic", "license.example.com", "a-b.c1", "10.0.0.7", "2001:db8::1", "::1", "1.example", "x" * 63, f"{'a.' * 126}b"],
)
def test_a_licence_server_is_a_host_name_or_an_address(server):
    assert vgpu(license_server=server)["license_server"] == server


@pytest.mark.parametrize(
    "server",
    [
        "-a", "a-", "a..b", ".a", "a.", "a_b", "lic:7070", "[::1]", "http://lic", "10.0.0", "10.0.0.256", "1.2.3.4.5", "7070",
        "x" * 64, f"{'a.' * 127}b", "lic server", "über.example", "2001:db8::g", "a/b",
    ],
)  # fmt: skip
def test_what_is_no_licence_server(server):
    found = only_mistake(strategy="vgpu", vgpu={"license_server": server, "profile": "x"})
    assert found.startswith(f"{SLICING}:vgpu:license_server: is ")
    assert "a host name such as 'license.example.com' or an IP address is wanted, without a port" in found


@pytest.mark.parametrize("server", [7, None, ["lic"], True, " lic", "lic\n"])
def test_a_licence_server_is_a_text(server):
    assert only_mistake(vgpu={"license_server": server}).startswith(f"{SLICING}:vgpu:license_server: ")


def test_one_type_or_several_but_not_both():
    both = {"profile": "H100XM-10C", "profiles": {"H100XM-20C": 2}}
    assert "is given, but so is profile" in only_mistake(strategy="vgpu", vgpu=both)
    inherited = only_mistake(strategy="vgpu", vgpu=both, devices=[{"match": {"vendor": "nvidia"}}])
    assert inherited.startswith(f"{SLICING}:vgpu:profiles: ")
    counted = {"count": 2, "profiles": {"H100XM-20C": 2}}
    assert only_mistake(strategy="vgpu", vgpu=counted).startswith(f"{SLICING}:vgpu:count: is given, but profiles has a count")
    rule = {"match": {"vendor": "nvidia"}, "vgpu": both}
    assert only_mistake(devices=[{**rule, "strategy": "vgpu"}]).startswith(f"{SLICING}:devices:0:vgpu:profiles: ")


@pytest.mark.parametrize(
    ("host", "rule", "expected"),
    [
        ({"profile": "a", "count": 4}, {"profiles": {"b": 1}}, ("", {"b": 1}, 0)),
        ({"profiles": {"b": 1}}, {"profile": "a"}, ("a", {}, 0)),
        ({"profiles": {"b": 1}}, {"profile": "a", "count": 2}, ("a", {}, 2)),
        ({"profile": "a", "count": 4}, {"count": 2}, ("a", {}, 2)),
        ({"profile": "a", "count": 4}, {"profile": "b"}, ("b", {}, 4)),
        ({"profile": "a"}, {"profiles": {}}, ("a", {}, 0)),
    ],
)
def test_a_rule_that_names_types_takes_the_place_of_the_hosts(host, rule, expected):
    made = slicing(strategy="vgpu", vgpu=host, devices=[{"match": {"vendor": "nvidia"}, "vgpu": rule}]).rules[0].settings["vgpu"]
    assert (made["profile"], made["profiles"], made["count"]) == expected


@pytest.mark.parametrize(
    ("profiles", "place", "said"),
    [
        ([], "", "is a list; a mapping of name to count is wanted"),
        ("H100XM-10C", "", "is the text 'H100XM-10C'; a mapping"),
        ({"H100XM-10C": 0}, ":H100XM-10C", "is 0; it goes from 1 to 64"),
        ({"H100XM-10C": "2"}, ":H100XM-10C", "Write it without quotes"),
        ({"H100XM-10C": True}, ":H100XM-10C", "is the truth value true"),
        ({5: 1}, ":5", "a name is wanted"),
        ({"": 1}, ":", "a name is wanted"),
    ],
)
def test_mistakes_in_types_and_counts(profiles, place, said):
    found = only_mistake(vgpu={"profiles": profiles})
    assert found.startswith(f"{SLICING}:vgpu:profiles{place}: ") and said in found


# -- secrets -------------------------------------------------------------------------------------------------------

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJOTFMifQ.c2lnbmF0dXJl"


def test_a_token_is_a_secret_that_no_look_at_the_policy_shows():
    made = slicing(strategy="vgpu", vgpu={"client_token": f"{TOKEN}\n"}, devices=[{"match": {"vendor": "nvidia"}}])
    assert made.default.settings["vgpu"]["client_token"].reveal() == TOKEN
    assert made.rules[0].settings["vgpu"]["client_token"].reveal() == TOKEN
    assert TOKEN not in repr(made) and secret.digest(TOKEN) in repr(made)
    other = slicing(strategy="vgpu", vgpu={"client_token": f"{TOKEN}x"}, devices=[{"match": {"vendor": "nvidia"}}])
    assert made.digest != other.digest


@pytest.mark.parametrize(
    "value",
    [f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", f"{TOKEN}\u00fc", f"{TOKEN}\x00", [TOKEN], {"a": TOKEN}, {TOKEN: 1}, (TOKEN,)],
)
def test_a_mistake_in_a_token_does_not_tell_it(value):
    found = only_mistake(strategy="vgpu", vgpu={"client_token": value, "profile": "x"})
    assert found.startswith(f"{SLICING}:vgpu:client_token: ") and "not shown here" in found
    assert TOKEN not in found and TOKEN[:8] not in found


def test_a_token_in_the_place_of_the_server_is_not_told_either():
    found = only_mistake(vgpu={"license_server": TOKEN * 6})
    assert TOKEN not in found and f"a text of {len(TOKEN) * 6} characters" in found


def test_the_digest_of_a_token_is_not_taken_for_the_token():
    assert "give the token itself" in only_mistake(vgpu={"client_token": secret.digest(TOKEN)})


def test_an_argument_is_as_secret_as_the_pillar():
    made = build.section("vgpu", {"client_token": TOKEN, "license_server": "lic"})
    assert made["client_token"].reveal() == TOKEN and TOKEN not in repr(made)
    assert build.section("vgpu", made) == made
    with pytest.raises(errors.PolicyError) as caught:
        build.section("vgpu", {"client_token": f"{TOKEN} x"})
    assert TOKEN not in str(caught.value)


def test_what_is_allowed_but_dangerous_is_a_warning():
    assert "no memory isolation" in slicing(strategy="time-slicing").warnings[0]
    [warning] = policy.parse({SLICING: {"enabled": False, "strategy": "mig"}}).warnings
    assert warning.startswith(f"{SLICING}:mig:profiles: is not given, and without any profile every idle instance would go.")
    rule = {"match": {"vendor": "nvidia"}, "mig": {"profiles": ["1g.10gb"]}}
    assert "its strategy is none, so they have no effect" in slicing(devices=[rule]).warnings[0]
    assert "no GPU is touched" in policy.parse({"containers_gpu_discovery": {"method": "manual"}}).warnings[0]


@pytest.mark.parametrize(("text", "seconds"), [("100ms", 0.1), ("2s", 2.0), ("500us", 0.0005), ("1.5ms", 0.0015)])
def test_durations_become_seconds(text, seconds):
    made = slicing(strategy="time-slicing", time_slicing={"slice_duration": text})
    assert made.default.settings["time-slicing"]["slice_duration"] == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["100", "100 ms", "fast", "ms", "-1ms", 0.1, True])
def test_what_is_no_duration(value):
    assert "a duration like 100ms" in only_mistake(strategy="time-slicing", time_slicing={"slice_duration": value})


# -- rules ---------------------------------------------------------------------------------------------------------


def test_a_rule_inherits_the_host_and_overrides_key_by_key():
    made = slicing(
        strategy="mig",
        mig={"profiles": ["1g.10gb"], "gpu_instance_count": 2, "compute_instance_count": 1},
        devices=[
            {"match": {"model": "NVIDIA A100*"}, "mig": {"profiles": ["1g.5gb"]}},
            {"match": {"vendor": "amd"}, "strategy": "partition", "partition": {"compute": "CPX"}},
            {"match": {"vendor": "intel"}, "mps": {"enabled": True}},
            {"match": {"name": "spare"}, "strategy": "none"},
        ],
    )
    assert [rule.strategy for rule in made.rules] == ["mig", "partition", "mps", "none"]
    assert made.rules[0].settings["mig"]["entries"] == [("1g.5gb", None, 2)]
    assert made.rules[1].settings["partition"] == {"compute": "CPX", "memory": "NPS1"}
    assert made.rules[3].path == f"{SLICING}:devices:3"
    assert made.default.settings["mig"]["entries"] == [("1g.10gb", None, 2)]


def test_a_rule_may_choose_a_technology_that_the_host_switched_off():
    made = slicing(
        strategy="sriov", mig={"enabled": False}, devices=[{"match": {"model": "x"}, "strategy": "mig", "mig": {"profiles": []}}]
    )
    assert made.rules[0].strategy == "mig"


def test_a_rule_that_switches_the_inherited_strategy_off_is_a_contradiction():
    rules = [{"match": {"model": "x"}, "mig": {"enabled": False}}]
    found = only_mistake(strategy="mig", mig={"profiles": []}, devices=rules)
    assert found.startswith(f"{SLICING}:devices:0:mig:enabled: is false, but the strategy is mig.")
    assert "strategy: none" in found


def test_a_rule_keeps_its_place_when_one_before_it_is_wrong():
    found = only_mistake(devices=["x", {"match": {"pci": "0000:41:00.0"}}])
    assert found.startswith(f"{SLICING}:devices:0: is the text 'x'")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"model": "NVIDIA A100*"}, {"model": "nvidia a100*"}),
        ({"pci": "0000:c1:00.0"}, {"pci": "C1:00.0"}),
        ({"vendor": "nvidia"}, {"vendor": "nvidia", "model": "NVIDIA A100*"}),
        ({"uuid": UUID}, {"uuid": UUID.lower()}),
    ],
)
def test_a_rule_that_can_never_win_is_a_mistake(first, second):
    found = only_mistake(devices=[{"match": first, "strategy": "none"}, {"match": second, "strategy": "none"}])
    assert found.startswith(f"{SLICING}:devices:1:match: can never win: {SLICING}:devices:0 comes first")


def test_a_match_with_a_mistake_in_it_shadows_nothing():
    rules = [{"match": {"vendor": "amd", "modell": "x"}}, {"match": {"vendor": "amd", "model": "y"}}]
    assert only_mistake(devices=rules).startswith(f"{SLICING}:devices:0:match:modell: is not a known key. Did you mean 'model'?")


@pytest.mark.parametrize("match", [0, "3", {"index": 0}, {"gpu": "1"}, {"id": 2}, {"pci": 1}, {"pci": "0"}])
def test_a_bare_index_is_refused_with_the_reason(match):
    assert "indices move" in only_mistake(devices=[{"match": match, "strategy": "none"}])


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ({}, "would match every GPU"),
        ({"pcie": "0000:41:00.0"}, "Did you mean 'pci'?"),
        ({"model": ""}, "is empty"),
        ({"model": 5}, "a text is wanted"),
        ({"vendor": "Nvidia"}, "Did you mean 'nvidia'?"),
        ({"uuid": "MIG-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"}, "which is a MIG device"),
        ({"uuid": "GPU-1"}, "the UUID of a GPU is wanted"),
        ({"pci": "0000:41:00"}, "is not a PCI address"),
        ({"pci": "0000:4?:*"}, "which is a pattern; the address of one GPU is wanted"),
        ("NVIDIA A100", "a mapping with the keys pci, uuid, model, vendor, name, device_id is wanted"),
    ],
)
def test_mistakes_in_a_match(match, said):
    assert said in only_mistake(devices=[{"match": match, "strategy": "none"}])


def test_an_unquoted_address_is_understood_with_a_warning():
    made = policy.parse(yaml.safe_load("containers_gpu_slicing: {devices: [{match: {pci: 0000:41:00.0}, strategy: none}]}"))
    assert made.rules[0].match == {"pci": "0000:41:00.0"}
    assert made.warnings[0].startswith(f"{SLICING}:devices:0:match:pci: ")
    assert "quote" in made.warnings[0]


# -- discovery -----------------------------------------------------------------------------------------------------


def test_discovery_takes_addresses_and_uuids():
    made = policy.parse({"containers_gpu_discovery": {"method": "manual", "devices": ["00000000:C1:00.0", UUID]}})
    assert made.devices == ("0000:c1:00.0", UUID)


@pytest.mark.parametrize(
    ("discovery", "said"),
    [
        ({"devices": ["0000:07:00.0"]}, "the method is auto"),
        ({"method": "manual", "devices": [0]}, "indices move"),
        ({"method": "manual", "devices": ["2"]}, "indices move"),
        ({"method": "manual", "devices": ["MIG-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"]}, "which is a MIG device"),
        ({"method": "manual", "devices": ["0000:07:00.0", "07:00.0"]}, "a second time"),
        ({"method": "manual", "devices": "0000:07:00.0"}, "a list is wanted"),
    ],
)
def test_mistakes_in_discovery(discovery, said):
    found = mistakes({"containers_gpu_discovery": discovery})
    assert len(found) == 1
    assert said in found[0]


def test_a_rule_for_a_gpu_that_discovery_leaves_out_is_a_warning():
    made = policy.parse(
        {
            "containers_gpu_discovery": {"method": "manual", "devices": ["0000:c1:00.0"]},
            SLICING: {"devices": [{"match": {"pci": "0000:c2:00.0"}, "strategy": "none"}]},
        }
    )
    assert made.warnings == [
        f"{SLICING}:devices:0:match:pci: is not among containers_gpu_discovery:devices, so the rule has no effect."
    ]


# -- the whole -----------------------------------------------------------------------------------------------------


def test_the_digest_follows_the_meaning_and_not_the_spelling():
    base = {SLICING: {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.10gb", "1g.10gb"]}}}
    same = {SLICING: {"mig": {"profiles": {"1G.10GB": 2}, "compute_instance_count": 1}, "enabled": True, "strategy": "mig"}}
    other = {SLICING: {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 3}}}}
    digests = [policy.parse(each).digest for each in (base, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def _paths(fields, path=()):
    """The path of every key of the schema, rules included."""
    for name, each in fields.items():
        yield (*path, name)
        yield from _paths(each.fields, (*path, name))
        if each.kind == "rules":
            yield from _paths(each.item.fields, (*path, name, 0))


@given(st.sampled_from(list(_paths(document.top()))), anything)
def test_any_value_at_any_key_is_accepted_or_a_mistake_below_that_key(path, value):
    nested = value
    for part in reversed(path):
        nested = [{"match": {"vendor": "amd"}, **nested}] if part == 0 else {part: nested}
    before = copy.deepcopy(nested)
    try:
        policy.parse(nested)
    except errors.PolicyError as err:
        assert err.mistakes
        assert all(each.startswith(path[0]) for each in err.mistakes)
    assert nested == before


@pytest.mark.parametrize("pillar", [None, [], ["x"], 5])
def test_a_pillar_that_is_no_mapping(pillar):
    assert mistakes(pillar) == ["The pillar is not a mapping."]


def masked_by_salt(pillar):
    """A pillar as the installed Salt keeps it: since 3008 in mappings of its own, which hide their values when printed."""
    if importlib.util.find_spec("salt.utils.secret") is None:
        return pillar
    return importlib.import_module("salt.utils.secret").hide(pillar)


def test_salts_own_mappings_are_read_as_dicts_and_leave_no_trace():
    rule = {"match": {"vendor": "nvidia"}, "mig": {"profiles": {"1g.10gb": 2}}}
    pillar = {SLICING: {"enabled": True, "strategy": "sriov", "sriov": {"vf_devices": ["0000:c1:00.1"]}, "devices": [rule]}}
    masked = masked_by_salt(pillar)
    assert policy.parse(types.MappingProxyType(masked)) == policy.parse(pillar)
    assert "*****" not in str(policy.parse(masked))


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"level_zero": {"partitions": ["0.1\n"]}}, "level_zero:partitions:0"),
        ({"level_zero": {"partitions": ["9" * 5000]}}, "level_zero:partitions:0"),
        ({"level_zero": {"vram_slice": "gpu.slice\n"}}, "level_zero:vram_slice"),
        ({"time_slicing": {"slice_duration": "1ms\n"}}, "time_slicing:slice_duration"),
        ({"mig": {"profiles": ["9" * 5000 + "g.5gb"]}}, "mig:profiles:0"),
        ({"mig": {"gpu_instance_count": 10**5000}}, ""),
        ({"sriov": {"vfs": {"²": {"vram_mib": 1}}}}, "sriov:vfs:²"),
        ({"sriov": {"vfs": {"1" * 5000: {"vram_mib": 1}}}}, f"sriov:vfs:{'1' * 5000}"),
        ({"vgpu": {"profile": "\x1b[2J"}}, "vgpu:profile"),
        ({"vgpu": {"profile": "\ud800"}}, "vgpu:profile"),
    ],
    ids=["tile", "long tile", "slice", "duration", "long profile", "huge", "no digit", "long number", "control", "surrogate"],
)
def test_texts_are_looked_at_to_their_end(keys, path):
    found = only_mistake(**keys)
    assert found.startswith(f"{SLICING}:{path}: " if path else f"{SLICING} has in it a number that is too large")
    assert found.isprintable()
