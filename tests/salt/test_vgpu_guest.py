"""
The licence of vGPUs in a guest, from the pillar to the files: through the stages, by hand, and with everything that can be wrong.
"""

import json

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import pillars
from tests.support.stages import stages

GUEST, FIRST, SECOND = "vgpu-guest", "0000:06:00.0", "0000:07:00.0"
CONFIGURATION = "/etc/nvidia/gridd.conf"
TOKEN_FILE = "/etc/nvidia/ClientConfigToken/client_configuration_token_gpu-slicing.tok"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.an-invented-token.c2lnbmF0dXJl"


def files(minion):
    """What was written to the machine."""
    return dict(minion.host.state()["written"])


def highstate(minion, wanted, test=False):
    """Run the stages with the pillar where a user has it; returns (all went well, comments, changes of all)."""
    minion.set_pillar(wanted)
    return stages(minion, {}, test)


def test_a_server_is_set_once_and_stays(minion):
    guest, wanted = minion(GUEST), pillars.vgpu(license_server="licence.example.com", feature="compute")
    before = files(guest)
    well, comment, planned = highstate(guest, wanted, test=True)
    assert well and files(guest) == before and "start nvidia-gridd" in comment
    well, comment, done = highstate(guest, wanted)
    assert well, comment
    assert done == planned and list(done) == [f"{FIRST}, 07"]
    text = guest.host.read(CONFIGURATION)
    assert "ServerAddress=licence.example.com" in text and "FeatureType=4" in text
    assert highstate(guest, wanted)[::2] == (True, {})
    status = guest.call("gpu_vgpu.status", SECOND)
    assert status["licensed"] is True and status["license_server"] == "licence.example.com"
    assert [part["profile"] for part in guest.call("gpu.slices")] == ["H100XM-10C"] * 2


def test_a_token_is_written_and_never_shown(minion):
    guest, wanted = minion(GUEST), pillars.vgpu(client_token=TOKEN)
    well, comment, planned = highstate(guest, wanted, test=True)
    assert well
    told = [comment, planned]
    well, comment, done = highstate(guest, wanted)
    assert well, comment
    assert guest.host.read(TOKEN_FILE) == TOKEN
    told += [comment, done, guest.call("gpu_slicing.history"), guest.call("gpu_vgpu.status", FIRST)]
    told += [guest.call("gpu_slicing.export"), guest.call("gpu.devices"), guest.call("gpu_slicing.plan")]
    kept = (path for path in guest.state_dir.rglob("*") if path.is_file() and "simulated" not in path.parts)
    told += [path.read_text(encoding="utf-8") for path in kept]
    assert TOKEN not in json.dumps(told)
    assert highstate(guest, wanted)[::2] == (True, {})
    well, _, _ = highstate(guest, pillars.vgpu(client_token=TOKEN[::-1]))
    assert well and guest.host.read(TOKEN_FILE) == TOKEN[::-1]
    back = guest.call("gpu_slicing.rollback")
    assert back["result"] and guest.host.read(TOKEN_FILE) == TOKEN


def test_by_hand_all_vgpus_of_the_guest_get_the_licence(minion):
    guest = minion(GUEST)
    planned = guest.call("gpu_vgpu.set_license", FIRST, license_server="10.1.2.3", license_port=7071, test=True)
    assert set(planned["changes"]) == {FIRST, SECOND} and not guest.host.exists(CONFIGURATION)
    assert guest.call("gpu_vgpu.set_license", FIRST, license_server="10.1.2.3", license_port=7071)["result"]
    assert guest.call("gpu_vgpu.status", SECOND)["license_port"] == 7071
    assert guest.call("gpu_vgpu.clear_license", SECOND)["result"]
    assert not guest.host.exists(CONFIGURATION)


def test_the_state_of_a_licence_settles(minion):
    guest = minion(GUEST)
    planned = guest.state("gpu_vgpu.licensed", FIRST, license_server="licence.example.com", test=True)
    assert planned.result is None and not guest.host.exists(CONFIGURATION)
    assert guest.state("gpu_vgpu.licensed", FIRST, license_server="licence.example.com").result is True
    again = guest.state("gpu_vgpu.licensed", FIRST, license_server="licence.example.com")
    assert again.result is True and not again.changes


def test_a_boot_finds_the_licence_as_it_was(minion):
    guest = minion(GUEST)
    assert highstate(guest, pillars.vgpu(license_server="licence.example.com"))[0]
    guest.host.reboot()
    assert guest.call("gpu_boot.replay")["result"]
    assert guest.call("gpu_vgpu.status", FIRST)["licensed"] is True


def test_what_a_boot_does_is_told_and_forgotten_for_each_vgpu(minion):
    guest = minion(GUEST)
    assert highstate(guest, pillars.vgpu(license_server="licence.example.com"))[0]
    told = guest.call("gpu_boot.status")["gpus"]
    assert set(told) == {FIRST, SECOND} and {one["technique"] for one in told.values()} == {"vgpu"}
    assert set(guest.call("gpu_boot.forget", FIRST)["changes"]) == {FIRST}
    assert set(guest.call("gpu_boot.status")["gpus"]) == {SECOND}
    assert guest.call("gpu_boot.replay")["result"]
    assert set(guest.call("gpu_boot.forget", SECOND)["changes"]) == {SECOND}
    assert guest.call("gpu_boot.status")["gpus"] == {}


@pytest.mark.parametrize(
    ("wanted", "changes", "words"),
    [
        (pillars.vgpu(profile="H100XM-10C"), {}, [FIRST, "host's affair"]),
        (pillars.vgpu(license_server="not a host"), {}, ["containers_gpu_slicing:vgpu:license_server"]),
        (pillars.vgpu(license_server="licence.example.com"), {"units": []}, [FIRST, "nvidia-gridd is not installed"]),
        (pillars.vgpu(license_server="licence.example.com"), {"privileged": False}, [FIRST]),
        (
            pillars.vgpu([pillars.rule(SECOND, vgpu={"license_server": "other.example.com"})], license_server="a.example.com"),
            {},
            [FIRST, SECOND, "share one licence"],
        ),
    ],
)
def test_what_can_not_be_is_a_sentence_and_changes_nothing(minion, wanted, changes, words):
    guest = minion(GUEST, changes=changes)
    before = files(guest)
    well, comment, done = highstate(guest, wanted)
    assert not well and not done
    assert "Traceback" not in comment and all(word in comment for word in words), comment
    assert files(guest) == before


def test_a_host_has_no_licence_to_set(minion):
    with pytest.raises(CommandExecutionError, match="licences are set in guests"):
        minion("vgpu-host-vfio").call("gpu_vgpu.set_license", "0000:41:00.0", license_server="licence.example.com")
    with pytest.raises(CommandExecutionError, match="made on its host"):
        minion(GUEST).call("gpu_vgpu.remove", FIRST, SECOND)
    with pytest.raises(CommandExecutionError, match="chosen on its host"):
        minion(GUEST).call("gpu_vgpu.types", FIRST)
