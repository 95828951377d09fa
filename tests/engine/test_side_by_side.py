"""
Drivers that answer for none of several GPUs: whoever looks at all of them waits once, whatever is looked at.
"""

import time

import pytest

from gpuslice import errors
from gpuslice.energy import meter
from gpuslice.engine import Engine
from gpuslice.host.limits import Limits
from gpuslice.metrics import gather as metrics
from tests.support.hosts import config

#: What limits are multiplied by: 60 s become 2.4 s.
PATIENCE = 0.04
LIMIT = 60 * PATIENCE
#: Seconds that nobody waits.
NEVER = 60
GPUS = [f"0000:{bus}:00.0" for bus in ("1b", "43", "52", "9d")]
HANDLE, COUNTER, ROWS = "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetRemappedRows"
#: Who looks, and the call that does not end.
WORKS = [
    pytest.param(Engine.watch, HANDLE, id="look"),
    pytest.param(Engine.watch, ROWS, id="look, rows", marks=pytest.mark.slow),
    pytest.param(Engine.parts, HANDLE, id="readings", marks=pytest.mark.slow),
    pytest.param(Engine.health, ROWS, id="health", marks=pytest.mark.slow),
    pytest.param(Engine.findings, ROWS, id="findings", marks=pytest.mark.slow),
    pytest.param(meter.look, COUNTER, id="energy", marks=pytest.mark.slow),
    pytest.param(lambda engine: metrics.gather(engine, 60), HANDLE, id="metrics"),
    pytest.param(lambda engine: metrics.gather(engine, 60), COUNTER, id="metrics, counters", marks=pytest.mark.slow),
    pytest.param(metrics.gather, COUNTER, id="metrics by hand", marks=pytest.mark.slow),
]


def four(simulated, **more):
    boards = [{"model": "h100-80gb", "address": gpu, "mig": "enabled", "draw": {"idle": 70, "active": 700}} for gpu in GPUS]
    return simulated("dgx-h100", gpus=boards, patience=PATIENCE, **more)


@pytest.mark.parametrize(("work", "call"), WORKS)
def test_those_that_hang_are_waited_for_once(simulated, work, call):
    host = four(simulated)
    for gpu in GPUS[:3]:
        host.add_fault({"call": call, "gpu": gpu, "times": 99, "hang": NEVER})
    with Engine(config(host)) as engine:
        begun = time.monotonic()
        work(engine)
        # One after the other it were three times as long.
        assert LIMIT <= time.monotonic() - begun < 2 * LIMIT
        # What hangs is known in this process.
        begun = time.monotonic()
        assert {gpu: bool(told) for gpu, told in engine.health().items()} == {gpu: gpu != GPUS[3] for gpu in GPUS}
        assert time.monotonic() - begun < LIMIT


def test_results_come_in_order_and_errors_to_whoever_asks():
    def work(number):
        if number == 1:
            raise errors.Unhealthy("It is ill.")
        return number * 10

    first, second, third = Limits().side_by_side(work, [0, 1, 2])
    assert (first(), third()) == (0, 20)
    with pytest.raises(errors.Unhealthy, match="It is ill"):
        second()
    assert Limits().side_by_side(work, []) == []


def test_who_answers_is_done_with_before_the_next_begins():
    seen = []

    def work(number):
        seen.append(("begin", number))
        seen.append(("end", number))

    Limits().side_by_side(work, range(4))
    assert seen == [(what, number) for number in range(4) for what in ("begin", "end")]


def test_what_hangs_in_one_run_is_left_alone_by_the_one_beside_it():
    limits = Limits(lambda: 0.001)
    beside = Limits(beside=limits)
    with pytest.raises(errors.Unhealthy):
        limits.call(60, GPUS[0], "wait", time.sleep, 5)
    with pytest.raises(errors.Unhealthy, match="has not answered within 60 s"):
        beside.call(60, GPUS[0], "ask", int)
    assert beside.call(60, GPUS[1], "ask", int) == 0 and not beside.left_behind()
