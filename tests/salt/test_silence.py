"""
What a pillar does not say: no default of a technology ends what is there, and a GPU that need not be there keeps no other from
its slices.
"""

import pytest

from gpuslice import errors
from tests.support.hosts import apply
from tests.support.hosts import listed

SLICING = "containers_gpu_slicing"


def apply_slicing(host, wanted):
    """Bring a host to a pillar of which only ``containers_gpu_slicing`` says something."""
    return apply(host, {SLICING: {"enabled": True, **wanted}})


CPX = {"strategy": "partition", "partition": {"compute": "CPX"}}
#: Host, what makes slices on it, the same strategy without the word that decides, that word's path.
SILENT = {
    "vfs": ("flex170", {"strategy": "sriov", "sriov": {"vf_count": 2}}, {"strategy": "sriov"}, "sriov:vf_count"),
    "vfs by auto": (
        "flex170",
        {"strategy": "sriov", "sriov": {"vf_count": 2}},
        {"strategy": "auto", "auto_strategy": {"bare_metal": "sriov", "virtual_host": "sriov"}},
        "sriov:vf_count",
    ),
    "partitions": ("mi300x-8", CPX, {"strategy": "partition"}, "partition:compute"),
    "partitions, only memory": (
        "mi300x-8",
        CPX,
        {"strategy": "partition", "partition": {"memory": "NPS1"}},
        "partition:compute",
    ),
    "environments": (
        "max1550",
        {"strategy": "level-zero", "level_zero": {"partitions": ["0", "1"]}},
        {"strategy": "level-zero", "level_zero": {"hierarchy": "FLAT"}},
        "level_zero:partitions",
    ),
}


@pytest.mark.parametrize("what", SILENT)
def test_no_default_ends_what_is_there(simulated, what):
    name, made, silent, path = SILENT[what]
    host = simulated(name)
    assert apply_slicing(host, made).ok
    before, state = listed(host), host.state()
    with pytest.raises(errors.PolicyError, match=f"{SLICING}:{path} is not given, and its default would end what is there"):
        apply_slicing(host, silent)
    assert listed(host) == before and host.state() == state


def test_a_default_is_good_where_nothing_is_there(simulated):
    host = simulated("flex170")
    assert apply_slicing(host, {"strategy": "sriov"}).ok
    assert len(listed(host)) == 4 * len({part["gpu"] for part in listed(host)}) > 0
    assert apply_slicing(host, {"strategy": "sriov"}).plan.empty
    # In writing it may end what is there.
    assert apply_slicing(host, {"strategy": "sriov", "sriov": {"vf_count": 2}}).ok
    assert apply_slicing(host, {"strategy": "sriov", "sriov": {"vf_count": 4}}).ok


def test_mig_without_profiles_is_refused_and_an_empty_list_is_a_word(simulated):
    host = simulated("dgx-h100")
    assert apply_slicing(host, {"strategy": "mig", "mig": {"profiles": ["3g.40gb"]}}).ok
    before = listed(host)
    for silent in ({}, {"mig": {}}, {"mig": {"mode": "enabled"}}):
        with pytest.raises(errors.PolicyError, match=f"{SLICING}:mig:profiles: is not given"):
            apply_slicing(host, {"strategy": "mig", **silent})
    assert listed(host) == before != []
    assert apply_slicing(host, {"strategy": "mig", "mig": {"profiles": []}}).ok
    assert listed(host) == []


@pytest.mark.parametrize("match", [{"pci": "0000:99:00.0"}, {"uuid": "GPU-00000000-d33d-2b2c-524d-9e3d8d2b8a77"}])
def test_a_gpu_that_may_be_absent_is_reported_and_the_others_are_sliced(simulated, match):
    host = simulated("dgx-h100")
    [named] = match.values()
    wanted = {"strategy": "mig", "mig": {"profiles": ["3g.40gb"]}}
    rule = {"match": match, "strategy": "mig", "mig": {"profiles": ["7g.80gb"]}}
    with pytest.raises(errors.DeviceNotFound, match="optional: true"):
        apply_slicing(host, {**wanted, "devices": [rule]})
    assert listed(host) == []
    result = apply_slicing(host, {**wanted, "devices": [{**rule, "optional": True}]})
    line = f"{named}: absent, which {SLICING}:devices:0:optional allows"
    assert result.ok and line in result.plan.text()
    assert len(listed(host)) == len({part["gpu"] for part in listed(host)}) == 8
    again = apply_slicing(host, {**wanted, "devices": [{**rule, "optional": True}]})
    assert again.plan.empty and line in again.plan.text()


def test_what_is_absent_is_told_by_every_function_that_tells_of_the_pillar(minion):
    rule = {"match": {"pci": "0000:99:00.0"}, "strategy": "none", "optional": True}
    pillar = {SLICING: {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.40gb"]}, "devices": [rule]}}
    on = minion("dgx-h100", pillar=pillar)
    line = f"0000:99:00.0: absent, which {SLICING}:devices:0:optional allows"
    assert line in on.call("gpu_slicing.targets")
    assert line in on.call("gpu_slicing.plan").splitlines()
    assert line in on.call("gpu_slicing.apply")["comment"]
    checked = on.call("gpu_slicing.check")
    assert checked["result"] is True and line in checked["comment"]
    assert [stage.result for stage in on.apply("gpu_slicing", pillar=pillar)] == [True] * 3


def test_a_pillar_under_a_wrong_name_is_no_silence(minion):
    on = minion("dgx-h100")
    wrong = {"gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.40gb"]}}}
    assert f"Did you mean '{SLICING}'?" in on.call("gpu_slicing.validate", pillar=wrong)["mistakes"][0]
    stages = list(on.apply("gpu_slicing", pillar=wrong))
    assert stages[0].result is False and f"Did you mean '{SLICING}'?" in stages[0].comment
