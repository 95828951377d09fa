"""Power caps: what can be asked, what is read back, what takes a cap, and what a pillar may say of it."""

import pytest
from hypothesis import given
from hypothesis import strategies

from gpuslice import errors
from gpuslice import policy
from gpuslice.drivers.power import Limits
from gpuslice.engine import Engine
from gpuslice.techniques.power.technique import _refuse_beyond
from tests.support.hosts import apply
from tests.support.hosts import config

H100, T4, A100 = "0000:1b:00.0", "0000:3b:00.0", "0000:07:00.0"
MI300X, MAX = "0000:05:00.0", "0000:29:00.0"


def wanted(power, **more):
    return {"containers_gpu_slicing": {"enabled": True, "power": power, **more}}


def status(host, gpu):
    with Engine(config(host)) as engine:
        found, _ = engine.techniques("power", gpu)
        [(one, tool)] = found
        return tool.status(one, tool.observe(one))


def by_hand(host, gpu, **settings):
    with Engine(config(host)) as engine:
        return engine.reconciler().apply(engine.wanted_as("power", gpu, settings))


# -- what the pillar may say --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("power", "said"),
    [
        ({"limit_watts": 300, "percent": 50}, "power:percent: says how much, and so does limit_watts. Remove one of them."),
        ({"limit_watts": 300.5}, "power:limit_watts: is the number 300.5; whole watts of 1 to 10000 are wanted, or 'default'."),
        ({"limit_watts": "much"}, "power:limit_watts: is the text 'much'; whole watts"),
        ({"limit_watts": True}, "power:limit_watts: is"),
        ({"percent": 101}, "power:percent: is 101"),
        ({"watts": 300}, "power:watts"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_told(power, said):
    with pytest.raises(errors.PolicyError) as caught:
        policy.parse(wanted(power))
    assert said in str(caught.value)


def test_a_rule_has_the_hosts_cap_or_its_own_and_keeps_the_strategy():
    rules = [
        {"match": {"model": "A"}, "power": {"limit_watts": 200}},
        {"match": {"model": "B"}, "strategy": "none"},
        {"match": {"model": "C"}, "power": {"enabled": False}},
        {"match": {"model": "D"}, "strategy": "mps"},
    ]
    found = policy.parse(wanted({"percent": 80}, strategy="mig", mig={"profiles": {"1g.10gb": 1}}, devices=rules))
    assert [(rule.strategy, rule.beside) for rule in found.rules] == [
        ("mig", ("power",)), ("none", ("power",)), ("mig", ()), ("mps", ("power",)),
    ]  # fmt: skip
    assert found.rules[0].settings["power"] == {"limit_watts": 200, "percent": 0}
    assert found.default.settings["power"] == {"limit_watts": 0, "percent": 80} and found.default.beside == ("power",)
    assert policy.parse(wanted({"percent": 80}, strategy="auto")).default.beside == ("power",)


def test_what_shares_may_stand_beside_it():
    found = policy.parse(wanted({"percent": 80}, strategy="mig", mps={"enabled": True}, mig={"profiles": {"1g.10gb": 1}}))
    assert found.default.beside == ("mps", "power")


# -- what boards can have -----------------------------------------------------------------------------------------------
def test_a_cap_is_set_read_back_and_lifted(simulated):
    host = simulated("dgx-h100")
    assert apply(host, wanted({"limit_watts": 400})).ok
    assert status(host, H100)["enforced_watts"] == status(host, H100)["set_here_watts"] == 400
    assert apply(host, wanted({"limit_watts": 400})).plan.empty
    assert apply(host, {"containers_gpu_slicing": {"enabled": True, "strategy": "none"}}).plan.empty
    assert status(host, H100)["asked_watts"] == 400
    assert apply(host, wanted({"limit_watts": "default"})).ok
    assert status(host, H100)["asked_watts"] == 700 and status(host, H100)["set_here_watts"] is None


@pytest.mark.parametrize(
    ("host", "gpu", "power", "watts"),
    [
        ("mi300x-8", MI300X, {"percent": 33}, 247), ("max1550", MAX, {"percent": 33}, 198),
        ("dgx-h100", H100, {"percent": 33}, 231),
    ],
)  # fmt: skip
def test_percents_are_of_the_vendors_limit_in_whole_watts(simulated, host, gpu, power, watts):
    host = simulated(host)
    assert apply(host, wanted(power)).ok and status(host, gpu)["asked_watts"] == watts
    assert apply(host, wanted(power)).plan.empty


@given(
    strategies.integers(1, 10_000_000), strategies.none() | strategies.integers(0, 500_000),
    strategies.none() | strategies.integers(0, 2_000_000),
)  # fmt: skip
def test_only_what_lies_within_what_the_board_tells_is_asked(wanted_mw, least, most):
    class Board:
        address, model = H100, "A"

    within = wanted_mw >= (least or 1) and (most is None or wanted_mw <= most)
    try:
        _refuse_beyond(Board, Limits(1, None, least, most, None), wanted_mw, "")
        assert within
    except errors.PolicyError as err:
        assert not within and err.gpu == H100


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ({"limit_watts": 900}, "A power limit of 900 W is wanted, and NVIDIA H100 80GB HBM3 takes at least 200 W"),
        ({"percent": 1}, "A power limit of 7 W (1 % of 700 W) is wanted"),
    ],
)  # fmt: skip
def test_a_cap_out_of_range_is_a_sentence_with_the_range_and_changes_nothing(simulated, power, said):
    host = simulated("dgx-h100")
    before = host.state()
    with Engine(config(host)) as engine, pytest.raises(errors.PolicyError) as caught:
        engine.apply(wanted(power))
    assert said in str(caught.value) and host.state() == before


def test_a_board_that_a_rule_for_all_only_reached_is_left_alone(simulated):
    host = simulated("mi210-gim")
    with Engine(config(host)) as engine:
        told = engine.plan(wanted({"percent": 80})).text()
    assert "not applicable: AMD Instinct MI210 has no power cap (its driver gim shows no limit of a whole board)" in told
    with Engine(config(host)) as engine, pytest.raises(errors.Unsupported, match="wants power, but AMD Instinct MI210 has no"):
        engine.plan(wanted({}, devices=[{"match": {"pci": "0000:33:00.0"}, "power": {"percent": 80}}]))


def test_a_vgpu_of_a_guest_has_none(simulated):
    with Engine(config(simulated("vgpu-guest"))) as engine:
        told = engine.plan(wanted({"percent": 80})).text()
    assert "the limit is of its board, which the host of this virtual machine has" in told


# -- what goes wrong ----------------------------------------------------------------------------------------------------
def test_a_driver_that_says_yes_and_does_nothing_is_found_out(simulated):
    host = simulated("dgx-h100")
    host.add_fault({"call": "nvmlDeviceSetPowerManagementLimit", "gpu": H100, "lie": True})
    result = by_hand(host, H100, limit_watts=400)
    assert not result.ok and "read again and is not as wanted" in " ".join(result.errors), result.errors
    assert status(host, H100)["set_here_watts"] is None


@pytest.mark.parametrize(
    ("error", "said"), [("EINVAL", "as on a virtual function"), ("EPERM", "the board sleeps"), ("EACCES", "root")]
)
def test_a_kernel_that_refuses_leaves_all_as_it_was(simulated, error, said):
    host = simulated("mi300x-8")
    host.add_fault({"call": "write", "error": error})
    result = by_hand(host, MI300X, limit_watts=500)
    assert not result.ok and said in " ".join(result.errors) and MI300X in " ".join(result.errors)
    assert status(host, MI300X)["set_here_watts"] is None and status(host, MI300X)["asked_watts"] == 750


def test_a_damaged_record_is_a_sentence(simulated, state_file=None):
    host = simulated("dgx-h100")
    by_hand(host, H100, limit_watts=400)
    host.store_write(f"{host.state_dir}/power.json", '{"format": 1, "gpus": {"x": 1}}')
    with pytest.raises(errors.StateDirUnusable, match="The record of power caps, .*power.json, can't be used"):
        status(host, H100)


# -- what takes a cap ---------------------------------------------------------------------------------------------------
def test_a_reset_in_the_same_run_takes_it_and_it_is_set_again(simulated):
    host = simulated("mixed")
    assert apply(host, wanted({"limit_watts": 250}, devices=[{"match": {"pci": T4}, "power": {"enabled": False}}])).ok
    rules = [{"match": {"pci": A100}, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 1}}}]
    made = apply(host, wanted({}, devices=[{**rules[0], "power": {"limit_watts": 250}}]))
    assert made.ok, made.errors
    assert status(host, A100)["asked_watts"] == 250


def test_a_boot_takes_it_and_the_replay_brings_it_back(simulated):
    host = simulated("mi300x-8")
    assert apply(host, wanted({"limit_watts": 500})).ok
    host.reboot()
    assert status(host, MI300X)["asked_watts"] == 750
    assert "power" in apply(host, wanted({"limit_watts": 500})).changes[MI300X]["new"].__repr__()


def test_what_was_set_by_somebody_else_comes_back_with_an_undo(simulated):
    host = simulated("dgx-h100")
    with host.change() as state:
        state["gpus"][H100]["power"] = {"epoch": state["gpus"][H100]["epoch"], "milliwatts": 650_000}
    assert by_hand(host, H100, limit_watts=400).ok
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets(None)).ok
    assert status(host, H100)["asked_watts"] == 650 and status(host, H100)["set_here_watts"] is None
