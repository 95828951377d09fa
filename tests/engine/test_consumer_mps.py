"""
Consumers whose slices are shares of an MPS daemon: they reach it, none of them can end it, and they start anew with it.
"""

import pytest

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.sim import units
from gpuslice.techniques.consumers import checking
from gpuslice.techniques.consumers import views
from tests.support import consumers as support
from tests.support.hosts import apply
from tests.support.hosts import config

ONE = "0000:41:00.0"
DAEMON = "gpu-slicing-mps-0000-41-00.0.service"
SOCKETS = "/run/gpu-slicing/mps/0000-41-00.0"
TOOLS = ["lspci", "nvidia-smi", "nvidia-cuda-mps-control", "systemctl", "modprobe", "podman"]


@pytest.fixture
def host(simulated):
    files = {
        "/usr/lib/systemd/system/trainer.service": "[Service]\nUser=ml\nExecStart=/bin/true\n",
        "/usr/lib/systemd/system/rooted.service": "[Service]\nExecStart=/bin/true\n",
    }
    return simulated("l40s-pair", tools=TOOLS, units=["trainer.service", "rooted.service"], files=files)


def pillar(consumers, **settings):
    mps = {"max_instance_count": 4, **settings}
    rules = [{"match": {"pci": ONE}, "strategy": "mps", "mps": mps}]
    return {
        "containers_gpu_slicing": {"enabled": True, "strategy": "none", "devices": rules},
        "containers_gpu_container_integration": {"consumers": consumers},
    }


def container(**more):
    return {"kind": "container", "image": "localhost/web:1", "slice": {"kind": "mps"}, **more}


def test_a_container_reaches_its_daemon_and_is_not_root(host):
    wanted = pillar({"web": container(), "api": container(quadlet={"Container": {"User": "1000"}})})
    result = apply(host, wanted)
    assert result.ok and support.bindings(host) == {"web": [f"{ONE}-mps-1"], "api": [f"{ONE}-mps-2"]}
    edits = support.names(host, support.CONSUMER)["web"]
    assert support.variable(edits, "CUDA_MPS_PIPE_DIRECTORY") == SOCKETS and support.variable(edits) == ""
    assert {mount["hostPath"] for mount in edits["mounts"]} == {SOCKETS, "/dev/shm"}
    text = host.read(support.WEB_FILE)
    assert f"PartOf={DAEMON}" in text and f"After={DAEMON}" in text and "User=65534" in text
    assert "User=65534" not in host.read("/etc/containers/systemd/gpu-slicing-api.container")
    assert units.active(host.state(), support.WEB)
    assert support.planned(host, wanted).empty


def test_a_service_of_a_user_gets_its_share_and_one_of_root_does_not(host):
    service = {"kind": "service", "unit": "trainer.service", "slice": {"kind": "mps"}}
    assert apply(host, pillar({"trainer": service})).ok
    text = host.read(support.TRAINER_FILE)
    assert f"PartOf={DAEMON}" in text and f"CUDA_MPS_PIPE_DIRECTORY={SOCKETS}" in text
    before = support.all_of(host)
    with pytest.raises(errors.PolicyError, match="rooted.service runs as root, .* could end the daemon of all"):
        apply(host, pillar({"trainer": service, "rooted": {**service, "unit": "rooted.service"}}))
    assert support.all_of(host) == before


def test_a_container_can_t_have_the_name_of_a_daemon(host):
    with pytest.raises(errors.PolicyError, match="consumers:mps-1: is no name for a container"):
        apply(host, pillar({"mps-1": container()}))


def test_who_has_nothing_of_mps_keeps_its_user(host):
    wanted = pillar({"web": container(slice={"gpu": "0000:a1:00.0"})})
    assert apply(host, wanted).ok
    assert "User=" not in host.read(support.WEB_FILE) and "PartOf=" not in host.read(support.WEB_FILE)


def test_shares_of_two_daemons_are_not_for_one_consumer(host):
    wanted = pillar({"web": container(resource_limits={"gpu_instances": 2})}, max_instance_count=1)
    [rule] = wanted["containers_gpu_slicing"]["devices"]
    wanted["containers_gpu_slicing"]["devices"].append({**rule, "match": {"pci": "0000:a1:00.0"}})
    with pytest.raises(errors.PolicyError, match="Consumer web would have shares of 2 MPS daemons .* program is a client of one"):
        apply(host, wanted)


# -- by weight --------------------------------------------------------------------------------------------------------
def weighted(consumers):
    wanted = pillar(consumers, weights=[1, 2, 1])
    del wanted["containers_gpu_slicing"]["devices"][0]["mps"]["max_instance_count"]
    return wanted


def told(host):
    with Engine(config(host)) as engine:
        return views.listed(host, engine.handed("consumers"))


def test_a_heavier_consumer_gets_a_heavier_share_and_others_the_lighter_ones(host):
    wanted = weighted({"light": container(), "heavy": container(weight=2)})
    assert apply(host, wanted).ok
    assert support.bindings(host) == {"light": [f"{ONE}-mps-1"], "heavy": [f"{ONE}-mps-2"]}
    light, heavy = (support.names(host, support.CONSUMER)[name] for name in ("light", "heavy"))
    assert support.variable(light, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") == "25.0"
    assert support.variable(light, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") == "0=12288M"
    assert support.variable(heavy, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") == ""
    limits = {name: each["limits"]["weight"] for name, each in told(host).items()}
    assert limits == {"light": "1, advisory: by its environment", "heavy": "2, enforced by the MPS daemon for each process"}
    assert {each["limits"]["slice"] for each in told(host).values()} == {
        "compute and memory of each process enforced by the MPS daemon; it shares its device nodes with others"
    }
    before = support.all_of(host)
    said = "Consumer heavy wants kind mps, weight 3, and there is no such slice.* Correct its slice or weight, or cut"
    with pytest.raises(errors.PolicyError, match=said):
        apply(host, weighted({"light": container(), "heavy": container(weight=3)}))
    assert support.all_of(host) == before


def test_with_a_newer_driver_each_consumer_has_a_socket_of_its_own(simulated):
    host = simulated("l40s-pair", tools=TOOLS, driver={"version": "615.71.05"})
    wanted = weighted({"light": container(), "heavy": container(weight=2)})
    assert apply(host, wanted).ok and support.planned(host, wanted).empty
    for name, number in (("light", 1), ("heavy", 2)):
        edits = support.names(host, support.CONSUMER)[name]
        folder = f"{SOCKETS}/shares/client_{number}"
        assert support.variable(edits, "CUDA_MPS_PIPE_DIRECTORY") == folder
        assert {mount["hostPath"] for mount in edits["mounts"]} == {folder, "/dev/shm"}
    assert told(host)["light"]["limits"]["weight"] == "1, enforced by the MPS daemon for each process"
    other = weighted({"light": container(), "heavy": container(weight=2)})
    other["containers_gpu_slicing"]["devices"][0]["mps"]["weights"] = [1, 3, 1]
    assert apply(host, other).ok and support.bindings(host)["heavy"] == [f"{ONE}-mps-2"]


def test_a_weight_where_nothing_is_divided_by_it_is_told_as_advice(host):
    assert apply(host, pillar({"web": container(weight=3)})).ok
    assert told(host)["web"]["limits"]["weight"] == "3, advisory: nothing here is divided by weight"


def test_a_service_that_would_be_root_on_a_daemon_keeps_its_filter_after_a_boot(host):
    service = {"kind": "service", "unit": "trainer.service", "slice": {"kind": "mps"}}
    assert apply(host, pillar({"trainer": service})).ok
    host.reboot()
    with host.change() as state:
        state["host"]["files"]["/usr/lib/systemd/system/trainer.service"] = "[Service]\nExecStart=/bin/true\n"
    with Engine(config(host)) as engine:
        answer = replay.replay(engine)
    assert any("Consumer trainer is not served: The unit trainer.service runs as root" in line for line in answer["warnings"])
    text = host.read(support.TRAINER_FILE)
    assert "DevicePolicy=closed" in text and "DeviceAllow=/dev/nvidia" not in text


@pytest.mark.parametrize("version", ["590.44.01", "615.71.05"])
def test_a_consumer_of_several_shares_has_the_environment_of_the_heaviest(simulated, version):
    host = simulated("l40s-pair", tools=TOOLS, driver={"version": version})
    assert apply(host, weighted({"both": container(resource_limits={"gpu_instances": 3})})).ok
    edits, alone = support.names(host, support.CONSUMER)["both"], support.names(host, support.SLICE)[f"{ONE}-mps-2"]
    assert edits["env"] == alone["env"] and edits["mounts"] == alone["mounts"]


def limited(mebibytes, **settings):
    service = {"kind": "service", "unit": "trainer.service", "slice": {"kind": "mps"}, "resource_limits": {"vram_mib": mebibytes}}
    return pillar({"trainer": service}, **settings)


def test_a_limit_of_memory_that_nothing_else_enforces_is_kept_by_mps_for_each_program(host):
    plan = support.planned(host, limited(4096))
    told = f"The limit of 4096 MiB for trainer on {ONE} is enforced per process by MPS: for each of its programs by itself, and "
    assert told + "one that changes its environment gets the daemon's 12288 MiB." in str(plan)
    assert "Nobody enforces it for all of them together, since this host has no cgroup version 2." in str(plan)
    assert apply(host, limited(4096)).ok and support.planned(host, limited(4096)).empty
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=4096M" in host.read(support.TRAINER_FILE)
    with Engine(config(host)) as engine:
        works = engine.handed("consumers")
        assert views.listed(host, works)["trainer"]["limits"]["vram_mib"] == "4096 of each GPU, enforced per process by MPS"
        assert views.environment(works, "trainer")["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=4096M"
        found = checking.check(host, works, engine.tools.sessions, "trainer")
    assert {"files", "memory limit"} <= set(found["fine"]), found
    # Another limit is another environment, which a program has from its start.
    before = support.start_counts(host).get("trainer.service", 0)
    assert apply(host, limited(2048)).ok and support.start_counts(host)["trainer.service"] == before + 1


def test_a_limit_above_what_the_daemon_gives_asks_for_nothing(host):
    plan = support.planned(host, limited(20000))
    assert "by MPS, whose daemon gives each of its programs no more than 12288 MiB." in str(plan)
    assert apply(host, limited(20000)).ok and "PINNED" not in host.read(support.TRAINER_FILE)


def test_clients_of_protocol_v3_have_their_namespace_and_the_limit_is_advisory(simulated, host):
    files = host.state()["host"]["files"]
    newer = simulated("l40s-pair", tools=TOOLS, units=["trainer.service"], files=files, driver={"version": "615.10.02"})
    plan = support.planned(newer, limited(4096, protocol="v3"))
    assert f"The limit of 4096 MiB for trainer on {ONE} is advisory: nobody enforces it" in str(plan)
