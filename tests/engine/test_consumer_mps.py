"""
Consumers whose slices are shares of an MPS daemon: they reach it, none of them can end it, and they start anew with it.
"""

import pytest

from gpuslice import errors
from gpuslice.sim import units
from tests.support import consumers as support
from tests.support.hosts import apply

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
