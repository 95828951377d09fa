"""What a consumer lacks, its smoke test, and the files for SELinux and AppArmor, through Salt's loaders and salt-call."""

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import served
from tests.support import stages

CHANGES = {
    "driver": {"version": "580.95.05"}, "tools": served.TOOLS, "units": ["trainer.service"], "images": {served.IMAGE: {}},
    "processes": [], "files": served.READY,
}  # fmt: skip


@pytest.fixture
def ready(minion):
    """A minion whose consumers have slices."""
    made = minion("a30-pair", changes=CHANGES)
    well, comment, _ = stages.stages(made, served.pillar(smoke_test=True))
    assert well, comment
    return made


def test_a_highstate_tries_who_gets_a_slice_and_by_hand_the_same_is_found(ready):
    for name in ("box", "hers", "daemon", "jane"):
        assert ready.call("gpu_consumer.check", name)["missing"] == []
        seen = ready.call("gpu_consumer.smoke_test", name)
        assert seen["result"] is True and len(seen["opened"]) == 5 and seen["wrong"] == []
    assert "Name one with a shell" in ready.call("gpu_consumer.smoke_test", "name")["unsupported"]
    assert ready.call("gpu_consumer.smoke_test", "name", image=served.IMAGE)["result"] is True
    well, comment, changes = stages.stages(ready, served.pillar(smoke_test=True))
    assert well and changes == {}, comment


def test_what_is_missing_is_told(ready):
    host = ready.host
    with host.change() as state:
        del state["host"]["files"]["/etc/subuid"]
    found = ready.call("gpu_consumer.check", "hers")
    assert found["result"] is False and found["missing"][0].startswith("jane has no range in /etc/subuid")
    assert ready.call("gpu_consumer.check", "name")["result"] is True
    assert ready.call("gpu_consumer.check", "name", user="jane")["result"] is False


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        ("check", {"consumer": "nobody"}, "There is no consumer nobody on this host."),
        ("smoke_test", {"consumer": "nobody"}, "There is no consumer nobody on this host."),
        ("check", {"consumer": 5}, "consumer"),
        ("check", {"consumer": "box", "user": ["a"]}, "which is no name of a user"),
        ("smoke_test", {"consumer": "box", "image": ["a"]}, "image"),
        ("smoke_test", {"consumer": "box", "image": "--privileged"}, "image"),
        ("security_files", {"folder": "here"}, "folder is here, and the absolute path of a folder that is there is wanted."),
        ("security_files", {"folder": "/no/such"}, "folder is /no/such, and the absolute path of a folder"),
        ("security_files", {"folder": 7}, "folder"),
        ("load_apparmor", {"test": "yes"}, "test"),
    ],
)
def test_bad_arguments_are_sentences(ready, function, given, said):
    with pytest.raises(CommandExecutionError, match=said) as caught:
        ready.call(f"gpu_consumer.{function}", **given)
    assert "Traceback" not in str(caught.value)


def test_security_files_are_written_and_nothing_is_loaded(ready, tmp_path):
    (tmp_path / "shipped").mkdir()
    written = ready.call("gpu_consumer.security_files", str(tmp_path / "shipped"))
    assert [path.rpartition("/")[2] for path in written] == ["gpu-slicing", "gpu_slicing.te", "README"]
    assert "profile gpu-slicing " in (tmp_path / "shipped" / "gpu-slicing").read_text(encoding="utf-8")
    assert "semodule -i gpu_slicing.pp" in (tmp_path / "shipped" / "README").read_text(encoding="utf-8")
    assert "/etc/apparmor.d/gpu-slicing" not in ready.host.state()["written"]


def test_the_profile_is_loaded_when_asked_and_consumers_run_under_it(ready):
    tested = ready.call("gpu_consumer.load_apparmor", test=True)
    assert tested["changes"] and "result" not in tested and "/etc/apparmor.d/gpu-slicing" not in ready.host.state()["written"]
    assert ready.call("gpu_consumer.load_apparmor")["result"] is True
    again = ready.call("gpu_consumer.load_apparmor")
    assert again == {"result": True, "changes": {}, "comment": "The profile gpu-slicing is loaded already."}
    consumers = {**served.CONSUMERS, "box": {**served.CONSUMERS["box"], "security_profile": "gpu-slicing"}}
    well, comment, _ = stages.stages(ready, served.pillar(consumers))
    assert well, comment
    unit = ready.host.state()["written"]["/etc/containers/systemd/gpu-slicing-box.container"]
    # The key came with Podman 5.8.
    assert "PodmanArgs=--security-opt=apparmor=gpu-slicing\n" in unit
    assert ready.call("gpu_consumer.check", "box")["missing"] == []
    assert ready.call("gpu_consumer.smoke_test", "box")["result"] is True


def test_a_profile_that_can_not_be_loaded_leaves_nothing_behind(ready):
    with ready.host.change() as state:
        state["host"]["tools"] = [tool for tool in state["host"]["tools"] if tool != "apparmor_parser"]
    with pytest.raises(CommandExecutionError, match="apparmor_parser is not installed"):
        ready.call("gpu_consumer.load_apparmor")
    assert "/etc/apparmor.d/gpu-slicing" not in ready.host.state()["written"]


def test_what_fails_its_smoke_test_takes_the_highstate_back(minion):
    made = minion("a30-pair", changes={**CHANGES, "owners": {"/dev/nvidia0": "0:0:0600", "/dev/nvidia1": "0:0:0600"}})
    before = stages.machine(made.host)["gpus"]
    well, comment, _ = stages.stages(made, served.pillar(smoke_test=True))
    assert not well and "The smoke test of consumer hers failed: /dev/nvidia" in comment
    assert "Everything that was done has been undone" in comment
    shapes = {address: sorted((gi["profile"], gi["start"]) for gi in gpu["gis"].values()) for address, gpu in before.items()}
    now = stages.machine(made.host)["gpus"]
    assert {a: sorted((gi["profile"], gi["start"]) for gi in gpu["gis"].values()) for a, gpu in now.items()} == shapes
