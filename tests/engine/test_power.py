"""
Power caps beside changes that take them from the board: whatever becomes of these, the cap is there when they are over.
"""

import signal

import pytest

from gpuslice import errors
from gpuslice import front
from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import shapes

GPU = "0000:07:00.0"
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CAP = {"power": {"limit_watts": 300}}
WHOLE = {"strategy": "mig", "mig": {"mode": "disabled"}}
CUT = {"strategy": "mig", "mig": {"profiles": ["1g.5gb"]}}
HAS = {"limit_mw": 300_000, "noted_mw": 300_000}


def pillar(said, **management):
    return pillars.rules(pillars.rule(GPU, **said), **management)


def cap(host):
    """What is asked of the board, and what is on record."""
    with Engine(config(host)) as engine:
        tool = engine.tools.get("power")
        return tool.layout(tool.observe(engine.gpu(GPU)))


@pytest.fixture
def capped(simulated):
    """An A100, whose MIG mode takes a reset, in one piece and capped."""
    host = simulated("dgx-a100-40gb")
    assert apply(host, pillar({**WHOLE, **CAP})).ok and cap(host) == HAS
    return host


@pytest.mark.parametrize(
    ("wanted", "call"),
    [
        ({**CUT, **CAP}, CREATE),
        ({**CUT, **CAP}, "nvmlDeviceSetMigMode"),
        ({**CUT, **CAP}, "nvmlDeviceSetPowerManagementLimit"),
        (CUT, CREATE),
        (CUT, "nvmlDeviceSetMigMode"),
    ],
)
def test_a_change_that_fails_leaves_the_cap(capped, wanted, call):
    capped.add_fault({"call": call, "error": "NVML_ERROR_UNKNOWN"})
    result = apply(capped, pillar(wanted))
    assert not result.ok and cap(capped) == HAS and shapes(capped)[GPU] == [] and closed(capped)


@pytest.mark.parametrize("wanted", [{**CUT, **CAP}, CUT], ids=["asked for", "not spoken of"])
def test_a_reset_by_a_change_that_succeeds_leaves_the_cap(capped, wanted):
    result = apply(capped, pillar(wanted))
    assert result.ok and shapes(capped)[GPU] == ["1g.5gb"] and cap(capped) == HAS and not result.warnings
    assert "power_limit" not in result.changes[GPU]["new"]
    assert apply(capped, pillar(wanted)).plan.empty


def test_a_change_by_hand_leaves_the_cap(capped):
    with Engine(config(capped)) as engine:
        target = engine.wanted("mig", GPU, {"profiles": ["1g.5gb"]})
        assert engine.reconciler(force=False).apply(engine.handed_on(target)).ok
    assert cap(capped) == HAS


@pytest.mark.parametrize("wanted", [{**CUT, **CAP}, CUT], ids=["asked for", "not spoken of"])
@pytest.mark.parametrize("call", [CREATE, "nvmlDeviceSetPowerManagementLimit"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("finish", [True, False])
def test_after_a_kill_whoever_undoes_or_finishes_it_leaves_the_cap(capped, wanted, call, when, finish):
    capped.add_fault({"call": call, "kill": when})
    assert in_child(lambda: apply(capped, pillar(wanted))) == signal.SIGKILL
    if finish:
        assert apply(capped, pillar(wanted)).ok and shapes(capped)[GPU] == ["1g.5gb"]
    else:
        with Engine(config(capped)) as engine:
            assert engine.reconciler().recover(engine.gpus).ok
        assert shapes(capped)[GPU] == []
    assert cap(capped) == HAS and closed(capped)


def test_a_cap_that_can_not_be_set_again_is_told(capped):
    capped.add_fault({"call": "nvmlDeviceSetPowerManagementLimit", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    result = apply(capped, pillar(CUT))
    [told] = result.warnings
    assert shapes(capped)[GPU] == ["1g.5gb"] and "could not be put back to a power limit of 300 W" in told


def test_a_capped_gpu_is_given_away_and_that_is_rolled_back(capped):
    result = apply(capped, pillar({"strategy": "passthrough"}))
    assert result.ok and not result.warnings
    with Engine(config(capped)) as engine:
        assert front.run(engine, engine.rollback_targets(), False, {})["result"]
    assert capped.readlink(f"/sys/bus/pci/devices/{GPU}/driver") == "nvidia"
    assert apply(capped, pillar({**WHOLE, **CAP})).ok and cap(capped) == HAS


def test_a_cap_of_the_host_leaves_out_what_is_given_away(simulated):
    host = simulated("dgx-a100-40gb")
    wanted = pillars.for_all("none", slicing=CAP, devices=[pillars.rule(GPU, strategy="passthrough")])
    result = apply(host, wanted)
    assert result.ok and len(result.changes) == 8 and host.readlink(f"/sys/bus/pci/devices/{GPU}/driver") == "vfio-pci"
    assert apply(host, wanted).plan.empty
    with pytest.raises(errors.PolicyError, match="power:enabled: is true, but .*strategy is passthrough"):
        apply(host, pillar({"strategy": "passthrough", **CAP}))
