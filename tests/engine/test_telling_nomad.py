"""Nomad in the pillar: its file is a part of each change, the node is drained around it, and else nobody is asked."""

import pytest
import yaml

from gpuslice import errors
from gpuslice import policy
from gpuslice import quarantine
from gpuslice.engine import Engine
from gpuslice.schedulers import nomad
from tests.support import consumers
from tests.support import hosts
from tests.support import pages
from tests.support import telling
from tests.support.cleaned import cleaned
from tests.support.cleaned import records
from tests.support.consumers import planned

FIRST, FILE, UNIT = telling.FIRST, "/etc/nomad.d/gpu.hcl", "nomad.service"
THREE, TWO = {FIRST: ["1g.10gb"] * 3}, {FIRST: ["2g.20gb"] * 2}
AROUND = ["drain -enable", "eligibility -enable"]


@pytest.fixture
def host(simulated):
    return telling.machine(simulated, tools=[*consumers.TOOLS, "nomad"], nomad={"node": "n1"}, units=[UNIT])


def wanted(profiles=THREE, **more):
    return telling.pillar(profiles, slurm=None, nomad={"within": 0, **more})


def asked(host):
    lines = host.state().get("nomad", {}).get("asked", ())
    return [" ".join(line.split()[:2]) for line in lines if not line.startswith("status")]


def every(host):
    return len(host.state().get("nomad", {}).get("asked", ()))


def text(host):
    return telling.text_of(host, FILE)


def test_drain_cut_file_agent_and_taking_back_come_in_this_order_once(host):
    plan = planned(host, wanted())
    lines = plan.text().splitlines()
    assert lines[0] == "Before it: run gpu_nomad.drain (within 180 s)" and every(host) == 0
    assert "After it, whatever comes: run gpu_nomad.resume (within 240 s)" in lines
    soon = [line for line in lines if line.startswith("    + # Given: (known-when-it-is-made): ")]
    assert len(soon) == 3 and "; tells Nomad of it; about " in lines[-1]
    result = telling.converge(host, wanted())
    assert result.ok and result.warnings == [], (result.errors, result.warnings)
    assert asked(host) == AROUND and host.state()["starts"][UNIT] == 1
    with Engine(hosts.config(host)) as engine:
        assert text(host) == nomad.text(engine) and "ignored_gpu_ids    = []" in text(host)
        with pytest.raises(errors.PolicyError, match=f"{FILE} is kept by the pillar"):
            nomad.write(engine, FILE, period="5s")
    so_far = every(host)
    again = telling.converge(host, wanted())
    assert again.ok and again.plan.empty and every(host) == so_far and host.state()["starts"][UNIT] == 1


def test_the_page_s_pillar_does_it_too(host):
    [handing] = map(yaml.safe_load, pages.blocks(pages.section("nomad", "Around a change")))
    assert telling.converge(host, wanted(**handing["containers_gpu_container_integration"]["nomad"])).ok
    assert asked(host) == AROUND


def test_a_quarantine_by_hand_is_followed_and_says_that_nomad_was_not_told(host):
    assert telling.converge(host, wanted()).ok
    part, so_far = hosts.listed(host)[0], every(host)
    with Engine(hosts.config(host)) as engine:
        answer = quarantine.quarantined(engine, [part["name"]], "odd results")
    assert answer["result"] and f'ignored_gpu_ids    = ["{part["uuid"]}"]' in text(host) and every(host) == so_far
    assert planned(host, wanted()).empty


def test_a_cut_that_fails_takes_the_node_back_on_the_old_layout(host):
    assert telling.converge(host, wanted()).ok
    before = text(host)
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN", "nth": 2})
    assert not telling.converge(host, wanted(TWO)).ok
    with Engine(hosts.config(host)) as engine:
        assert text(host) == nomad.text(engine) and len(text(host)) == len(before)
    assert hosts.shapes(host)[FIRST] == ["1g.10gb"] * 3 and asked(host) == AROUND * 2
    assert planned(host, wanted()).empty


@pytest.mark.parametrize(
    ("agent", "why"), [("away", "connection refused"), ("refuses", "Permission denied"), ("server", "client")]
)
def test_an_agent_that_does_not_drain_stops_the_change(host, agent, why):
    with host.change() as state:
        state["host"]["nomad"]["agent"] = agent
    result = telling.converge(host, wanted())
    assert not result.ok and why in result.errors[0] and hosts.shapes(host)[FIRST] == [] and not text(host)
    assert "set drain of containers_gpu_container_integration:nomad to false" in result.errors[0]


def test_an_agent_that_does_not_start_anew_keeps_slices_and_drain(host):
    result = telling.converge(host, wanted(unit="other.service"))
    assert not result.ok and "other.service was to start anew" in result.errors[0] and text(host)
    assert hosts.shapes(host)[FIRST] == ["1g.10gb"] * 3 and asked(host) == ["drain -enable"]


def test_without_drain_and_unit_nobody_is_asked_and_it_is_said(host):
    result = telling.converge(host, wanted(drain=False, unit=""))
    assert result.ok and every(host) == 0 and text(host)
    assert result.warnings == [f"{FILE} is another one now: Nomad reads it when its agent starts."]


def test_it_goes_with_its_pillar_and_with_the_host(host):
    assert telling.converge(host, wanted(drain=False, unit="")).ok
    assert telling.converge(host, wanted(drain=False, unit="", enabled=False)).ok and not text(host)
    assert telling.converge(host, wanted(drain=False, unit="")).ok and text(host)
    assert cleaned(host)["result"] and not text(host) and records(host) == []


def test_a_host_of_another_vendor_is_told_in_a_sentence(simulated):
    other = simulated("mi300x-8")
    with pytest.raises(errors.PolicyError, match="Nomad's device plugin of nvidia, and this host has no such GPU"):
        telling.converge(other, telling.pillar(slurm=None, nomad=True))
    assert not other.state()["written"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", "gpu.hcl"), ("plugin", "a b"), ("period", "0s"), ("unit", "nomad"), ("within", -1), ("deadline", "x")],
)
def test_what_can_t_be_meant_is_refused(key, value):
    with pytest.raises(errors.PolicyError, match=f"containers_gpu_container_integration:nomad:{key}"):
        policy.parse(wanted(**{key: value}))


def test_a_unit_that_is_none_is_mended_in_the_pillar(host):
    assert not telling.converge(host, wanted(unit="absent.service")).ok and telling.on_record_of(host, "owed")
    result = telling.converge(host, wanted())
    assert result.ok and "was called again." in " ".join(result.warnings), result.errors
    assert asked(host) == AROUND and not telling.on_record_of(host, "owed")
    so_far = every(host)
    assert telling.converge(host, wanted()).plan.empty and every(host) == so_far


def test_a_refused_drain_starts_no_agent_anew(host):
    with host.change() as state:
        state["host"]["nomad"]["busy"] = 9
    result = telling.converge(host, wanted())
    assert not result.ok and UNIT not in host.state().get("starts", {})
