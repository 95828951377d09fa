"""What a consumer lacks: each sentence from a host that lacks just that, and none from one that has all."""

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.outputs import apparmor
from gpuslice.techniques.consumers import checking
from gpuslice.techniques.consumers import views
from tests.support import hosts
from tests.support.served import CONSUMERS
from tests.support.served import IMAGE
from tests.support.served import PEOPLE


def check(host, name, user=""):
    with Engine(hosts.config(host)) as engine:
        return checking.check(engine.host, engine.handed("consumers"), engine.tools.sessions, name, user)


def missing(host, name, user=""):
    """The only sentence of what is missing."""
    found = check(host, name, user)
    assert found["result"] is False and len(found["missing"]) == 1, found
    return found["missing"][0]


def test_nothing_is_missing_where_all_is_there(served):
    host = served()
    fine = {name: check(host, name) for name in CONSUMERS}
    assert [name for name, found in fine.items() if not found["result"] or found["missing"]] == []
    assert fine["box"]["fine"] == ["slices", "device nodes", "CDI", "files", "unit", "image"]
    assert fine["hers"]["fine"] == [
        "slices", "device nodes", "permissions", "subordinate ids", "lingering", "crun", "CDI", "files",
    ]  # fmt: skip
    assert fine["daemon"]["fine"] == ["slices", "device nodes", "files"]
    assert fine["jane"]["fine"] == ["slices", "device nodes", "permissions", "files"]
    assert check(host, "name", "jane")["fine"] == ["slices", "device nodes", "permissions", "subordinate ids", "CDI"]


def test_a_consumer_that_is_not_there_is_refused_with_those_that_are(served):
    with pytest.raises(errors.PolicyError, match="There is no consumer boxx on this host. It has box, daemon, hers, jane, name."):
        check(served(), "boxx")


@pytest.mark.parametrize("user", [5, "Jane Doe", "../x", True])
def test_what_is_no_name_of_a_user_is_refused(served, user):
    with pytest.raises(errors.PolicyError, match="which is no name of a user"):
        check(served(), "name", user)


def test_a_user_who_is_not_there_is_told(served):
    said = missing(served(), "name", "bob")
    assert said == "bob is no user in /etc/passwd, so what he may open can't be told. Make that user, or correct the name."


# -- users -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/etc/subuid", "/etc/subgid"])
def test_rootless_podman_without_subordinate_ids(served, path):
    option = path.removeprefix("/etc/")
    said = missing(served({path: "other:100000:65536\n"}), "hers")
    assert said == (
        f"jane has no range in {path}, and images want 65536. Run 'usermod --add-{option}s 165536-231071 jane', then "
        "'podman system migrate' as that user."
    )
    assert missing(served({path: "1000:100000:5000\n"}), "name", "jane").startswith(f"jane has only 5000 ids in {path}")


def test_rootless_podman_without_newuidmap_crun_or_lingering(served):
    assert missing(served({"/usr/bin/newuidmap": None}), "hers").endswith("Install uidmap.")
    assert "which no other runtime can keep. Install crun." in missing(served({"/usr/bin/crun": None}), "hers")
    said = missing(served({"/var/lib/systemd/linger/jane": None}), "hers")
    assert said == "jane's units run only while he is logged in. Run 'loginctl enable-linger jane'."


def test_a_node_that_a_user_may_not_open(served):
    shut = {"owners": {"/dev/nvidia0": "0:993:0660", "/dev/nvidiactl": "0:0:0600"}}
    found = check(served(**shut), "jane")["missing"]
    assert found == [
        "/dev/nvidiactl is of root:root with mode 0600, so jane can't open it. Set NVreg_DeviceFileMode and "
        "NVreg_DeviceFileGID of the module nvidia, or its node by chmod.",
        "/dev/nvidia0 is of root:render with mode 0660, so jane can't open it. Run 'usermod -aG render jane', and have him log "
        "in anew.",
    ]
    member = served({"/etc/group": PEOPLE["/etc/group"].replace("render:x:993:", "render:x:993:ann,jane")},
                    owners={"/dev/nvidia0": "0:993:0660"})  # fmt: skip
    assert check(member, "jane")["result"] and "permissions" in check(member, "hers")["fine"]


def test_a_service_that_runs_as_a_user(served):
    unit = {"/usr/lib/systemd/system/trainer.service": "[Service]\nUser=jane\n"}
    owners = {"/dev/nvidia0": "0:993:0660"}
    said = missing(served(unit, owners=owners), "daemon")
    assert said.endswith("so jane can't open it. Give trainer.service 'SupplementaryGroups=render'.")
    unit = {path: f"{text}SupplementaryGroups=render\n" for path, text in unit.items()}
    assert check(served(unit, owners=owners), "daemon")["result"]


def test_render_nodes_of_amd_belong_to_a_group(served):
    people = {"ann": {"kind": "user", "user": "jane"}}
    host = served(consumers=people, name="mi300x-8", sliced={"containers_gpu_slicing": {"enabled": True, "strategy": "none"}})
    said = missing(host, "ann")
    assert said.startswith("/dev/kfd, /dev/dri/renderD") and "Run 'usermod -aG render jane'" in said


# -- slices, nodes and files -----------------------------------------------------------------------------------------------
def test_a_node_that_went(served):
    host = served(capability_nodes="missing")
    with host.change() as state:
        state["made_caps"] = []
    said = check(host, "daemon")["missing"]
    assert said[0].startswith("/dev/nvidia-caps/nvidia-cap")
    assert said[0].endswith("is not there. Run 'salt-call state.apply gpu_slicing', which makes it.")


def test_a_slice_that_went(served):
    host = served()
    with host.change() as state:
        for gpu in state["gpus"].values():
            gpu["gis"].clear()
    said = check(host, "box")["missing"]
    assert said[0].endswith("is on record for it, and not there any more. Run 'salt-call state.apply gpu_slicing'.")
    with Engine(hosts.config(host)) as engine, pytest.raises(errors.PolicyError, match="Consumer box has no slice now."):
        views.environment(engine.handed("consumers"), "box")


def test_files_that_somebody_changed_or_removed(served):
    host = served()
    unit = "/etc/containers/systemd/gpu-slicing-box.container"
    drop_in = "/etc/systemd/system/trainer.service.d/50-gpu-slicing.conf"
    with host.change() as state:
        state["written"][unit] += "Volume=/a:/a\n"
        del state["written"][drop_in], state["written"]["/run/cdi/gpu-slicing-consumer.json"]
    found = check(host, "box")["missing"]
    assert f"{unit} is not as it should be. Run 'salt-call state.apply gpu_slicing'." in found
    assert any(each.startswith("gpu-slicing/consumer=box has no entry in") for each in found) and len(found) == 2
    assert missing(host, "daemon") == f"{drop_in} is not there. Run 'salt-call state.apply gpu_slicing'."


def test_what_defeats_a_drop_in_is_told(served):
    host = served()
    with host.change() as state:
        state["written"]["/etc/systemd/system/trainer.service.d/override.conf"] = "[Service]\nPrivateDevices=yes\n"
    assert "The unit trainer.service can't be handed a slice" in missing(host, "daemon")


def test_a_unit_that_quadlet_has_not_made(served):
    host = served()
    with host.change() as state:
        state["generated"] = []
    assert missing(host, "box").startswith("systemd knows no gpu-slicing-box.service: Quadlet has not made it.")


def test_a_podman_that_is_too_old(served):
    host = served()
    with host.change() as state:
        state["host"]["podman"] = "4.3.1"
        state["host"]["files"]["/usr/bin/podman"] = "4"
    found = check(host, "box")["missing"]
    assert any("Podman 4.3.1 has no Quadlet, which came with 4.4" in each for each in found)


# -- images ----------------------------------------------------------------------------------------------------------------
def test_an_image_that_is_not_there(served):
    host = served()
    with host.change() as state:
        state["host"]["images"] = {}
    said = missing(host, "box")
    assert said == f"The image {IMAGE} is not on this host, so its first start has to pull it. Run 'podman pull {IMAGE}'."


def test_an_image_that_is_newer_than_the_driver(served):
    images = {IMAGE: {"NVIDIA_REQUIRE_CUDA": "cuda>=13.4 brand=tesla,driver>=535,driver<536"}}
    said = missing(served(images=images), "box")
    assert said == (
        f"The image {IMAGE} needs cuda >= 13.4 (or an older driver of some boards), and the driver 580.95.05 has CUDA 13.0. "
        "Take an older image, or update the driver."
    )


# -- SELinux and AppArmor --------------------------------------------------------------------------------------------------
BOOLEANS = "/sys/fs/selinux/booleans"


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ({}, "Load the module that"),
        ({f"{BOOLEANS}/container_use_xserver_devices": "0 1"}, "'setsebool -P container_use_xserver_devices 1' opens them"),
        ({f"{BOOLEANS}/container_use_xserver_devices": "1 1"}, ""),
        ({f"{BOOLEANS}/container_use_devices": "1 1"}, ""),
        ({"/var/lib/selinux/targeted/active/modules/400/gpu_slicing/cil": ""}, ""),
    ],
)
def test_selinux_is_told_and_never_set(served, files, lacking):
    host = served({"/sys/fs/selinux/enforce": "1", **files})
    found = check(host, "box")
    assert "SELinux" not in check(host, "daemon")["fine"]
    if not lacking:
        assert found["result"] and "SELinux" in found["fine"]
        return
    (said,) = found["missing"]
    assert said.startswith("SELinux is enforcing, and lets no container open /dev/nvidia*: container_use_xserver_devices and")
    assert lacking in said and host.state()["host"]["files"].get(f"{BOOLEANS}/container_use_xserver_devices") in (None, "0 1")


def test_selinux_that_is_permissive_denies_nothing(served):
    assert check(served({"/sys/fs/selinux/enforce": "0"}), "box")["result"]


ON = {"/sys/module/apparmor/parameters/enabled": "Y"}


def test_a_profile_that_is_not_loaded(served):
    asked = {"box": {**CONSUMERS["box"], "security_profile": "gpu-slicing"}}
    said = missing(served(ON, asked), "box")
    assert said.startswith("It is to run under the AppArmor profile gpu-slicing, which is not loaded.")
    assert said.endswith("Run 'salt-call gpu_consumer.load_apparmor'.")
    loaded = {apparmor.LOADED: "gpu-slicing (enforce)", "/etc/apparmor.d/gpu-slicing": apparmor.PROFILE}
    assert "AppArmor" in check(served({**ON, **loaded}, asked), "box")["fine"]
    assert "AppArmor" not in check(served({}, asked), "box")["fine"]


@pytest.mark.parametrize(("mode", "closes"), [("enforce", True), ("complain", False)])
def test_a_profile_of_a_unit_that_closes_a_node(served, mode, closes):
    files = {
        **ON, apparmor.LOADED: f"trainer ({mode})",
        "/usr/lib/systemd/system/trainer.service": "[Service]\nAppArmorProfile=-trainer\n",
        "/etc/apparmor.d/trainer": "profile trainer {\n  #include <abstractions/gpu>\n  /dev/nvidiactl rw,\n}\n",
        "/etc/apparmor.d/abstractions/gpu": "  /dev/nvidia[0-9]* rw,\n  /dev/nvidia-uvm rw,\n",
    }  # fmt: skip
    host = served(files)
    if not closes:
        assert check(host, "daemon")["result"]
        return
    said = missing(host, "daemon")
    assert said.startswith("It runs under the AppArmor profile trainer, whose text does not let it open /dev/nvidia-caps/")
    assert "/dev/nvidia0" not in said and said.endswith("and load it anew.")
