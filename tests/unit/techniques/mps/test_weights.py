"""MPS by weight: what each client gets, in protocol v2 by its environment, in v3 by a namespace of the daemon."""

import re
import signal
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.outputs import mps as outputs
from gpuslice.policy.build import parse
from gpuslice.techniques.mps import clients
from gpuslice.techniques.mps import unit
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed

ONE = "0000:41:00.0"
FOLDER = "/run/gpu-slicing/mps/0000-41-00.0"
NEW = {"version": "615.71.05"}


def by_hand(host, settings):
    with Engine(config(host)) as engine:
        wanted = engine.wanted_as("mps", ONE, settings) if settings else engine.wanted("mps", ONE, {"clear": True})
        return engine.reconciler().apply(wanted)


def parts(host):
    with Engine(config(host)) as engine:
        one, tool = engine.technique("mps", ONE)
        return tool.slices_on(one, engine.seen(tool, one), [])


def daemon(host):
    return host.state()["mps"][FOLDER]


# -- what each gets ---------------------------------------------------------------------------------------------------
@given(strategies.lists(strategies.integers(1, 100), min_size=1, max_size=60), strategies.sampled_from([2, 3]))
def test_parts_by_weight_are_ordered_as_the_weights_and_no_more_than_the_whole(weights, protocol):
    total, heaviest, mib = sum(weights), max(weights), 49140
    one = {
        "clients": len(weights), "threads": clients.threads(heaviest, total, protocol),
        "pinned_mib": clients.memory(mib, heaviest, total), "weights": weights, "protocol": protocol,
    }  # fmt: skip
    found = clients.limits(one)
    assert len(found) == len(weights) and max(found) == (one["threads"], one["pinned_mib"])
    assert sum(memory for _, memory in found) <= mib
    if protocol == 2 and min(weights) * 1000 >= total or min(weights) * 100 >= total:
        assert sum(percent for percent, _ in found) <= 100.0001
    for (weight, mine), (other, its) in zip(
        zip(weights, found, strict=True), reversed(list(zip(weights, found, strict=True))), strict=True
    ):
        assert mine <= its or weight > other


SHARE = strategies.tuples(strategies.integers(1, 100).map(float), strategies.none() | strategies.integers(1, 300000))


@given(strategies.lists(SHARE, min_size=1, max_size=60))
def test_a_unit_of_v3_is_read_as_it_was_written(shares):
    spec = unit.Spec(ONE, "GPU-1", ("/dev/nvidia0",), 50.0, None, False, "/usr/bin/m", "", tuple(shares))
    text = unit.settings(spec)
    assert unit.read(unit.written(spec), text) == spec and unit.read(unit.written(spec), text + "x") is None


def test_the_settings_of_v3_say_what_each_namespace_gets():
    spec = unit.Spec(ONE, "GPU-1", (), 50.0, 8192, False, "/usr/bin/m", "", ((50.0, 8192), (25.0, None)))
    assert unit.settings(spec).splitlines()[1:] == [
        'schema_version = "1.0"', "",
        "[servers.shares]", 'active_thread_percentage = "50"', 'pinned_memory_limit = "8192M"', "",
        "[servers.shares.namespaces.client_1]", 'active_thread_percentage = "50"', 'pinned_memory_limit = "8192M"', "",
        "[servers.shares.namespaces.client_2]", 'active_thread_percentage = "25"',
    ]  # fmt: skip
    assert "ExecStart=/usr/bin/m -f -m -p 3 -a /run/gpu-slicing/mps-settings/gpu-slicing-mps-0000-41-00.0.toml" in unit.written(
        spec
    )


ANSWERS = """#!/bin/sh
case "$*" in
*"get client_1 shares active-thread-percentage") echo "50 %";;
*"get client_1 shares pinned-memory-limit") echo 8G;;
*"get client_2 shares active-thread-percentage") echo 25.0;;
*"get client_2 shares pinned-memory-limit") echo 5000MiB;;
*) exit 1;;
esac
"""


@pytest.mark.parametrize(
    ("shares", "status"),
    [
        (((50.0, 8192), (25.0, 5000)), 0), (((50.0, None), (25.0, None)), 0), (((50.0, 8193), (25.0, 5000)), 0),
        (((51.0, 8192), (25.0, 5000)), 1), (((50.0, 8192), (25.0, 4999)), 1), (((50.0, 8192), (25.0, 5000), (1.0, 1)), 1),
    ],
)  # fmt: skip
def test_a_unit_of_v3_reads_its_limits_back_in_a_real_shell(tmp_path, shares, status):
    program = tmp_path / "control"
    program.write_text(ANSWERS, encoding="utf-8")
    program.chmod(0o755)
    spec = unit.Spec(ONE, "GPU-1", (), 50.0, 8192, False, str(program), "", shares)
    [line] = [line for line in unit.written(spec).splitlines() if line.startswith("ExecStartPost=")]
    _, shell, how, words = line.replace("ExecStartPost=", "ExecStartPost= ", 1).split(" ", 3)
    # What systemd makes of it: quotes go, and a doubled dollar is one.
    argv = [shell, how, words.removeprefix("'").removesuffix("'").replace("$$", "$").replace("%%", "%")]
    assert subprocess.run(argv, timeout=60, check=False).returncode == status


def test_the_socket_of_any_client_has_a_path_that_is_short_enough():
    longest = f"00000000:ff:1f.7-{'7g.180gb.me.all'}-0-{'1c.7g.180gb.me'}-6"
    assert len(f"{dict(outputs.namespace_environment(longest, 60))[outputs.VARIABLE]}/control") < 107


# -- v2 ---------------------------------------------------------------------------------------------------------------
def test_an_older_driver_enforces_the_heaviest_and_tells_the_others(simulated):
    host = simulated("l40s-pair")
    made = by_hand(host, {"weights": [2, 1, 1]})
    assert made.ok and (daemon(host)["threads"], daemon(host)["pinned"]) == (50.0, 24576)
    assert "enforces the share of the heaviest, and less for the others is in their environment" in made.plan.text()
    heavy, light, _ = parts(host)
    assert [(part.weight, part.compute, part.memory_mib) for part in parts(host)] == [
        (2, 0.5, 24576),
        (1, 0.25, 12288),
        (1, 0.25, 12288),
    ]
    assert heavy.environment == (("CUDA_MPS_PIPE_DIRECTORY", FOLDER),)
    assert light.environment == (
        ("CUDA_MPS_PIPE_DIRECTORY", FOLDER), ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "25.0"),
        ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=12288M"),
    )  # fmt: skip
    assert by_hand(host, {"weights": [2, 1, 1]}).plan.empty
    # The same number of clients, and other parts: the daemon starts anew.
    assert by_hand(host, {"weights": [1, 1, 1]}).ok and daemon(host)["threads"] == 33.3


def test_weights_that_are_the_same_for_all_need_no_newer_protocol(simulated):
    host = simulated("l40s-pair", driver=NEW)
    assert by_hand(host, {"weights": [3, 3]}).ok and "namespaces" not in daemon(host)


# -- v3 ---------------------------------------------------------------------------------------------------------------
def test_a_newer_driver_enforces_all_weights(simulated):
    host = simulated("l40s-pair", driver=NEW)
    made = by_hand(host, {"weights": [2, 1, 1]})
    assert made.ok and "in their environment" not in made.plan.text()
    assert "with 50.0 % of the multiprocessors and 24576 MiB; 25.0 % and 12288 MiB for its clients, and read" in made.plan.text()
    assert daemon(host)["namespaces"] == {
        "shares.default": ["50", "24576M"], "shares.client_1": ["50", "24576M"], "shares.client_2": ["25", "12288M"],
        "shares.client_3": ["25", "12288M"],
    }  # fmt: skip
    assert [part.environment for part in parts(host)] == [
        (("CUDA_MPS_PIPE_DIRECTORY", f"{FOLDER}/shares/client_{number}"),) for number in (1, 2, 3)
    ]
    assert by_hand(host, {"weights": [2, 1, 1]}).plan.empty
    with Engine(config(host)) as engine:
        one, tool = engine.technique("mps", ONE)
        told = tool.status(one, engine.seen(tool, one))
    assert told["mps"][ONE]["active_thread_percentage"] == [50.0, 25.0, 25.0] and told["mps"][ONE]["protocol"] == "v3"
    assert told["daemons"][ONE]["pinned_memory"]["client_3"] == "12288M" and told["daemons"][ONE]["clients"] == []
    assert by_hand(host, {}).ok and not [path for path in host.state()["written"] if "mps" in path]


def test_settings_that_somebody_changed_are_written_anew(simulated):
    host = simulated("l40s-pair", driver=NEW)
    assert by_hand(host, {"weights": [2, 1, 1]}).ok
    with host.change() as state:
        path = unit.settings_path(ONE)
        state["written"][path] = state["written"][path].replace('"25"', '"75"')
    made = by_hand(host, {"weights": [2, 1, 1]})
    assert made.ok and [step.action for step in made.plan.steps] == ["stop", "write", "start"]
    assert by_hand(host, {"weights": [2, 1, 1], "protocol": "v2"}).ok and "namespaces" not in daemon(host)
    assert unit.settings_path(ONE) not in host.state()["written"]


def test_a_client_keeps_a_daemon_of_v3_too(simulated):
    host = simulated("l40s-pair", driver=NEW)
    assert by_hand(host, {"weights": [2, 1]}).ok
    host.add_process({"pid": 4711, "command": "train.py", "gpu": ONE, "unit": "train.service"})
    refused = by_hand(host, {})
    assert f"Could not end the MPS daemon of {ONE}: in use by pid 4711 (train.py, unit train.service)." in refused.errors[0]


@pytest.mark.parametrize("call", ["mps-set", "mps-start"])
def test_a_daemon_of_v3_that_refuses_or_dies_leaves_everything_as_it_was(simulated, call):
    host = simulated("l40s-pair", driver=NEW)
    host.add_fault({"call": call, "times": 0, "lie": True})
    refused = by_hand(host, {"weights": [2, 1]})
    assert not refused.ok and listed(host) == [] and not [path for path in host.state()["written"] if "mps" in path]
    host.clear_faults()
    assert by_hand(host, {"weights": [2, 1]}).ok


def test_limits_that_a_daemon_of_v3_does_not_have_are_told(simulated):
    host = simulated("l40s-pair", driver=NEW)
    assert by_hand(host, {"weights": [2, 1]}).ok
    from gpuslice.drivers.mps import Namespaces

    control = Namespaces(host, ONE, ONE)
    control.check_shares([(66.0, 32768), (33.0, 16384)])
    with pytest.raises(errors.ValidationFailed, match=r"was to give client 2 40.0 % .* and it gives 33 % .* 16384M of memory"):
        control.check_shares([(66.0, 32768), (40.0, 16384)])
    with pytest.raises(errors.ValidationFailed, match=r"was to give client 3 .* and it gives  % "):
        control.check_shares([(66.0, 32768), (33.0, 16384), (1.0, 1)])


def test_an_older_driver_has_no_v3(simulated):
    with pytest.raises(
        errors.PolicyError, match=r"protocol v3, which came with driver 615, and the driver here is 590.*'protocol: auto'"
    ):
        by_hand(simulated("l40s-pair"), {"protocol": "v3"})


def test_equal_parts_have_v3_where_that_is_asked_for(simulated):
    host = simulated("l40s-pair", driver=NEW)
    assert by_hand(host, {"max_instance_count": 3, "protocol": "v3"}).ok
    assert [part.compute for part in parts(host)] == [0.33] * 3 and len(daemon(host)["namespaces"]) == 4


def with_driver(host, version):
    with host.change() as state:
        state["host"]["driver"].update(version=version, library_version=version)


def test_another_driver_brings_another_protocol_and_a_rollback_goes_by_the_driver_of_then(simulated):
    host = simulated("l40s-pair")
    assert by_hand(host, {"weights": [2, 1]}).ok and "namespaces" not in daemon(host)
    with_driver(host, NEW["version"])
    assert by_hand(host, {"weights": [2, 1]}).ok and "namespaces" in daemon(host)
    with_driver(host, "590.44.01")
    assert by_hand(host, {"weights": [2, 1]}).ok and daemon(host)["threads"] == 66.6
    with Engine(config(host)) as engine:
        back = engine.reconciler().apply(engine.rollback_targets())
    # What it goes back to is what is there: the same shares, by the protocol that this driver has.
    assert back.ok and daemon(host)["threads"] == 66.6 and by_hand(host, {"weights": [2, 1]}).plan.empty


@pytest.mark.parametrize("call", ["store_write", "store_remove"])
def test_a_kill_leaves_no_settings_that_nobody_reads(simulated, call):
    host = simulated("l40s-pair", driver=NEW)
    tried = 0
    for nth in range(1, 12):
        assert by_hand(host, {"weights": [2, 1]}).ok
        host.add_fault({"call": call, "nth": nth, "kill": "before"})
        pillar = pillars.for_all("none", devices=[pillars.rule(ONE, strategy="mps", mps={"weights": [2, 1], "protocol": "v2"})])
        killed = apply_in_child(host, pillar) == signal.SIGKILL
        host.clear_faults()
        tried += killed
        assert apply(host, pillar).ok and unit.settings_path(ONE) not in host.state()["written"]
        if not killed:
            break
    assert tried


# -- the pillar -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share_policy": "weighted"}, "share_policy: is weighted, and weights are missing"),
        (
            {"share_policy": "equal", "weights": [1, 2]},
            "weights: says who gets how much, and share_policy says that all get the same",
        ),
        ({"weights": [1, 2], "max_instance_count": 3}, "max_instance_count: is 3, and weights has 2 numbers"),
        ({"weights": [1, 2], "pinned_memory_mib": 3}, "pinned_memory_mib: gives every client the same, and weights divides it"),
        ({"weights": [1] * 61}, "weights: has 61 numbers, and any driver allows 60 clients at most"),
        ({"weights": [0]}, "it goes from 1 to 100"),
        ({"weights": 3}, "a list is wanted"),
        ({"protocol": "v4"}, "v4"),
    ],
)
def test_weights_that_can_t_be_are_mistakes_in_a_pillar_and_by_hand(simulated, settings, said):
    with pytest.raises(errors.PolicyError, match=re.escape(said)):
        parse(pillars.for_all("mps", settings))
    with pytest.raises(errors.PolicyError, match=re.escape(said.replace(": ", " ", 1) if ": " in said else said)):
        by_hand(simulated("l40s-pair"), settings)


def test_the_weights_of_a_rule_stand_in_the_place_of_what_the_host_says(simulated):
    host = simulated("l40s-pair")
    pillar = pillars.for_all(
        "mps", {"max_instance_count": 4}, devices=[pillars.rule(ONE, strategy="mps", mps={"weights": [3, 1]})]
    )
    assert apply(host, pillar).ok
    assert [part["name"] for part in listed(host) if part["gpu"] == ONE] == [f"{ONE}-mps-1", f"{ONE}-mps-2"]
    assert len(listed(host)) == 6 and apply(host, pillar).plan.empty


@pytest.mark.parametrize(
    ("whole", "own", "told"),
    [
        ({"active_thread_percentage": 20, "pinned_memory_mib": 4096}, {"weights": [3, 1]}, [(0.75, 36864), (0.25, 12288)]),
        ({"weights": [3, 1]}, {"share_policy": "equal", "max_instance_count": 3}, [(0.333, 16384)] * 3),
    ],
)
def test_of_how_the_host_divides_nothing_counts_where_a_rule_divides_otherwise(simulated, whole, own, told):
    host = simulated("l40s-pair")
    pillar = pillars.for_all("mps", whole, devices=[pillars.rule(ONE, strategy="mps", mps=own)])
    assert apply(host, pillar).ok
    assert [(part.compute, part.memory_mib) for part in parts(host)] == told
    assert daemon(host)["threads"] == round(told[0][0] * 100, 1) and daemon(host)["pinned"] == told[0][1]


@pytest.mark.parametrize("driver", [NEW, {"version": "590.44.01"}])
@pytest.mark.parametrize("settings", [{"weights": [2, 1, 1]}, {"weights": [2, 1], "protocol": "v2"}, {"max_instance_count": 3}])
def test_what_is_exported_is_what_is_there(simulated, driver, settings):
    host = simulated("l40s-pair", driver=driver)
    assert by_hand(host, settings).ok
    with Engine(config(host)) as engine:
        exported = engine.export()
    assert apply(host, exported).plan.empty
