"""
A boot: what lived in /run is back before consumers start, and everybody has what he had.
"""

import pathlib

import pytest

from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.plan import Plan
from gpuslice.records.history import History
from tests.support import consumers
from tests.support.consumers import CONSUMER
from tests.support.consumers import EACH
from tests.support.consumers import FIRST
from tests.support.consumers import SECOND
from tests.support.consumers import SLICE
from tests.support.consumers import TRAINER
from tests.support.consumers import WEB
from tests.support.consumers import astray
from tests.support.consumers import pillar
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import shapes


@pytest.fixture
def host(simulated):
    made = consumers.machine(simulated)
    assert apply(made, pillar(EACH)).ok and astray(made) == []
    return made


def replayed(host, **more):
    with Engine(config(host)) as engine:
        return replay.replay(engine, **more)


def started(host):
    """What systemd does when the unit that brings slices back has ended: the containers that waited for it start."""
    with host.change() as state:
        state["ordered_after_us"] = []
    for unit in host.state()["generated"]:
        assert host.run(["systemctl", "start", unit]).returncode == 0


def test_a_boot_brings_back_what_was_handed_out(host):
    before = consumers.bindings(host)
    host.reboot(ordered_after_us=[WEB, TRAINER])
    assert not host.exists(SLICE) and not host.exists(CONSUMER)
    answer = replayed(host)
    assert answer["result"], answer
    assert host.exists(SLICE) and consumers.bindings(host) == before
    assert "; consumers keep their slices; about" in Plan.from_dict(History(host).all()[-1]["plan"]).summary()
    started(host)
    assert astray(host) == []
    assert replayed(host)["result"] and replayed(host)["changes"] == {} and consumers.planned(host, pillar(EACH)).empty


def test_a_boot_with_a_gpu_less_gives_its_consumers_something_else(host):
    host.reboot(ordered_after_us=[WEB, TRAINER])
    with host.change() as state:
        del state["gpus"][FIRST]
    answer = replayed(host, wait=0)
    assert FIRST in answer["comment"] and not answer["result"]
    started(host)
    assert astray(host) == []
    assert all(part.startswith(SECOND) for parts in consumers.bindings(host).values() for part in parts)
    assert all(consumers.bindings(host).values())


def test_a_boot_with_a_gpu_less_and_too_few_slices_serves_whom_it_can(simulated):
    host = consumers.machine(simulated)
    assert apply(host, pillar({f"c{n}": {"slice": "3g.40gb"} for n in range(4)}, profiles=["3g.40gb", "3g.40gb"])).ok
    host.reboot()
    with host.change() as state:
        del state["gpus"][FIRST]
    replayed(host, wait=0)
    assert astray(host) == []
    assert sorted(len(parts) for parts in consumers.bindings(host).values()) == [0, 0, 1, 1]


def test_a_service_without_a_slice_keeps_a_filter_that_opens_none(simulated):
    """Without one it could open the slices of all others."""
    host = consumers.machine(simulated)
    wanted = pillar({"trainer": {**EACH["trainer"], "slice": {"gpu": FIRST}}}, profiles=["3g.40gb", "3g.40gb"])
    assert apply(host, wanted).ok and "DeviceAllow=/dev/nvidia" in host.read(consumers.TRAINER_FILE)
    host.reboot(ordered_after_us=[TRAINER])
    gone = host.state()["gpus"][FIRST]
    with host.change() as state:
        del state["gpus"][FIRST]
    replayed(host, wait=0)
    text = host.read(consumers.TRAINER_FILE)
    assert consumers.bindings(host) == {"trainer": []} and "DevicePolicy=closed" in text and "DeviceAllow=/dev" not in text
    with host.change() as state:
        state["gpus"][FIRST] = gone
    assert apply(host, wanted).ok and "DeviceAllow=/dev/nvidia" in host.read(consumers.TRAINER_FILE)
    assert apply(host, pillar({}, profiles=["3g.40gb", "3g.40gb"])).ok and not host.exists(consumers.TRAINER_FILE)


def test_a_boot_that_can_not_cut_a_gpu_keeps_the_others_served(host):
    host.reboot(ordered_after_us=[WEB, TRAINER])
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": FIRST, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    answer = replayed(host, wait=0)
    assert not answer["result"] and FIRST in answer["comment"]
    started(host)
    assert astray(host) == [] and any(parts for parts in consumers.bindings(host).values())
    host.clear_faults()
    assert apply(host, pillar(EACH)).ok and astray(host) == [] and all(consumers.bindings(host).values())


def test_a_boot_into_which_a_change_was_cut_off_is_brought_to_an_end(host):
    host.add_fault({"call": "run", "nth": 2, "kill": "after"})
    wanted = pillar({**EACH, "more": {"slice": "1g.10gb"}}, rules=[(FIRST, ["7g.80gb"])])
    assert in_child(lambda: apply(host, wanted))
    host.clear_faults()
    host.reboot(ordered_after_us=[WEB, TRAINER])
    replayed(host)
    started(host)
    assert astray(host) == []
    assert apply(host, wanted).ok and astray(host) == []


def test_a_boot_with_a_damaged_record_of_consumers_cuts_the_gpus_and_names_it(host):
    wanted = shapes(host)
    host.reboot(ordered_after_us=[WEB, TRAINER])
    record = pathlib.Path(host.state_dir, "consumers.json")
    record.write_text("{", encoding="utf-8")
    answer = replayed(host, wait=0)
    assert not answer["result"] and f"{record}, can't be used" in answer["comment"]
    assert shapes(host) == wanted
    record.unlink()
    assert replayed(host, wait=0)["result"]
    started(host)
    assert astray(host) == [] and all(consumers.bindings(host).values())


GONE = {
    "trainer": (lambda state: state["host"]["units"].remove(TRAINER), "knows no such unit"),
    "ada": (lambda state: state["host"]["files"].update({"/etc/passwd": "root:x:0:0::/root:/bin/sh\n"}), "has no such user"),
    "web": (lambda state: state["host"]["tools"].remove("podman"), "Podman is not installed"),
}


@pytest.mark.parametrize("name", GONE)
def test_a_consumer_whose_unit_user_or_podman_is_gone_keeps_nobody_else_from_his_slice(host, name):
    go, why = GONE[name]
    host.reboot(ordered_after_us=[WEB, TRAINER])
    with host.change() as state:
        go(state)
    answer = replayed(host)
    assert answer["result"], answer
    assert any(f"Consumer {name} is not served" in line and why in line for line in answer["warnings"])
    assert set(consumers.names(host, CONSUMER)) == set(EACH) - {name}
    assert astray(host) == [] and replayed(host)["changes"] == {}


def test_what_a_boot_would_do_is_told(host):
    host.reboot()
    answer = replayed(host, test=True)
    assert "consumers" in answer["comment"].lower() and not host.exists(SLICE)
    with Engine(config(host)) as engine:
        shown = replay.status(engine)
    assert "consumers" in str(shown)
