"""
Drop-ins of services and of login users' slice units: their text, what can't have one, and what would defeat one.
"""

import subprocess

import pytest

from gpuslice import errors
from gpuslice.outputs import service
from gpuslice.outputs import templates
from gpuslice.outputs import unit_text
from gpuslice.outputs.conflicts import conflicts
from gpuslice.outputs.conflicts import fragments
from gpuslice.outputs.conflicts import has_private_devices
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node

MIG = Device(
    "train",
    (Node("/dev/nvidia0"), Node("/dev/nvidiactl"), Node("/dev/nvidia-caps/nvidia-cap21", "r")),
    (("CUDA_VISIBLE_DEVICES", "MIG-1"), ("ODD", 'a "b" 100% $x')),
)
TRAIN = Consumer("train", "service", unit="train.service")
UNIT = """\
# /usr/lib/systemd/system/train.service
[Unit]
Description=Train
[Service]
ExecStart=/usr/bin/train
"""


def refused(call, *arguments, kind=errors.PolicyError, **more):
    with pytest.raises(kind) as caught:
        call(*arguments, **more)
    return str(caught.value)


def listed(file, key, section="Service"):
    return unit_text.values(unit_text.settings(file.text), section, key)


# -- services --------------------------------------------------------------------------------------------------------------
def test_a_service_gets_exactly_the_nodes_of_its_device():
    file = service.drop_in(TRAIN, MIG)
    assert (file.path, file.mode) == ("/etc/systemd/system/train.service.d/50-gpu-slicing.conf", 0o644)
    assert file.text == """\
# Written by Salt for the GPU consumer train; changes to this file are overwritten.
[Unit]
After=gpu-slicing.service

[Service]
# Exactly these nodes, whatever other files gave before.
DevicePolicy=closed
DeviceAllow=
DeviceAllow=/dev/nvidia0 rw
DeviceAllow=/dev/nvidiactl rw
DeviceAllow=/dev/nvidia-caps/nvidia-cap21 r
# Private devices have no GPU among them.
PrivateDevices=no
Environment=CUDA_VISIBLE_DEVICES=MIG-1
Environment="ODD=a \\"b\\" 100%% $x"
"""


def test_limits_groups_folders_and_what_private_devices_meant_are_there_where_they_are_asked_for():
    asked = TRAIN._replace(memory_gb=32, compute_units=16)
    pipe = Mount("/run/gpu-slicing/mps/a", "/run/mps")
    device = MIG._replace(mounts=(pipe, pipe._replace(options=("bind", "ro"))))
    file = service.drop_in(asked, device, groups=["render", "44"], private=True, after="boot.service")
    assert listed(file, "MemoryMax") == ["32G"]
    assert listed(file, "CPUQuota") == ["1600%"]
    assert listed(file, "SupplementaryGroups") == ["render 44"]
    assert listed(file, "BindPaths") == listed(file, "BindReadOnlyPaths") == ["/run/gpu-slicing/mps/a:/run/mps"]
    assert listed(file, "CapabilityBoundingSet") == ["~CAP_MKNOD CAP_SYS_RAWIO"]
    assert listed(file, "After", "Unit") == ["boot.service"]


def test_nothing_wants_the_boot_unit_which_would_put_back_what_a_change_replaces():
    for file in (service.drop_in(TRAIN, MIG), service.user(TRAIN, 1000, MIG)[0]):
        assert {each.key for each in unit_text.settings(file.text) if each.section == "Unit"} == {"After"}


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("train", "is no name of a unit. Write it as 'systemctl' does: train.service."),
        ("", "is no name of a unit."),
        ("a/b.service", "is no name of a unit."),
        ("a b.service", "is no name of a unit."),
        ("a%i.service", "is no name of a unit."),
        ("x" * 250 + ".service", "is no name of a unit."),
        ("data.mount", "is a .mount, and slices are for services. Name the service that opens the GPU."),
        ("train.socket", "is a .socket, and slices are for services."),
        ("user-1000.slice", "A user's slice unit is for a consumer of kind user."),
        ("train.container", "This is for kind container."),
        ("train@.service", "all its instances would share the slice. Name an instance, such as train@1.service."),
        ("gpu-slicing.service", "brings the slices back after a boot, and can't come after itself."),
        ("user@1000.service", "Use a consumer of kind user: it holds for all of that."),
    ],
)
def test_a_unit_that_can_have_no_drop_in_is_a_sentence(unit, said):
    told = refused(service.drop_in, TRAIN._replace(unit=unit), MIG)
    assert told.startswith(f"The unit {unit!r} of consumer 'train' ") and said in told


def test_an_instance_of_a_template_can_have_one():
    file = service.drop_in(TRAIN._replace(unit="train@a\\x2db.service"), MIG)
    assert file.path == "/etc/systemd/system/train@a\\x2db.service.d/50-gpu-slicing.conf"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (Device("a", (Node("/etc/passwd"),)), "'/etc/passwd' is no path of a device node. Give one below /dev, without '..'."),
        (Device("a", (Node("/dev/../etc/passwd"),)), "is no path of a device node"),
        (Device("a", (Node("/dev//nvidia0"),)), "is no path of a device node"),
        (Device("a", (Node("/dev/nvidia0", "rwm"),)), "Permissions 'rwm' of /dev/nvidia0 are not of 'r' and 'w'. Use rw."),
        (Device("a", (Node("/dev/nvidia0", ""),)), "Permissions '' of /dev/nvidia0"),
        (Device("a", (Node("/dev/a\nb"),)), "A device node has the character '\\n', which no unit file can hold."),
        (MIG._replace(environment=(("A", "b\nc"),)), "Device 'train': variable A has the character '\\n'"),
        (MIG._replace(environment=(("A B", "c"),)), "Device 'train' can't have the variable 'A B'"),
        (MIG._replace(mounts=(Mount("/a:b", "/a"),)), "'/a:b' can't be bound into a unit."),
        (MIG._replace(mounts=(Mount("/a", "b"),)), "'b' can't be bound into a unit."),
        (MIG._replace(mounts=(Mount("/a b", "/b"),)), "'/a b' can't be bound into a unit."),
    ],
)
def test_what_no_unit_can_hold_is_a_sentence(device, said):
    assert said in refused(service.drop_in, TRAIN, device)


def test_who_has_no_slice_opens_none():
    [drop_in, *_] = service.drop_in(TRAIN, Device("a")), *service.user(TRAIN, 1000, Device("a"))
    assert [line for line in drop_in.text.splitlines() if line.startswith("Device")] == ["DevicePolicy=closed", "DeviceAllow="]
    [of_user] = service.user(TRAIN, 1000, Device("a"))
    allowed = [line.removeprefix("DeviceAllow=") for line in of_user.text.splitlines() if line.startswith("DeviceAllow=")]
    assert allowed == ["", *service.LOGIN]


def test_an_odd_group_is_refused():
    assert refused(service.drop_in, TRAIN, MIG, groups=["a b"]).startswith("'a b' is no name of a group.")


# -- templates of a site ---------------------------------------------------------------------------------------------------
def test_a_template_of_the_site_may_say_more():
    own = templates.SERVICE + "Nice=5\nDeviceAllow=/dev/fuse rw\n"
    assert listed(service.drop_in(TRAIN, MIG, {"service": own}), "Nice") == ["5"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("DeviceAllow={{ device }}", "# {{ device }}", "leaves out DeviceAllow=/dev/nvidia0 rw in [Service]."),
        ("DeviceAllow=\n", "", "gives DeviceAllow=/dev/nvidia0 rw before an empty DeviceAllow=, so that other files of the unit"),
        ("PrivateDevices=no", "PrivateDevices=yes", "has PrivateDevices=yes, which takes the nodes of all GPUs away."),
        ("PrivateDevices=no", "DeviceAllow=/dev/nvidia1", "has DeviceAllow=/dev/nvidia1, which opens more than the slice."),
        ("PrivateDevices=no", "DeviceAllow=char-* rw", "has DeviceAllow=char-* rw, which opens more than the slice."),
        ("PrivateDevices=no", "DeviceAllow=", "leaves out DeviceAllow=/dev/nvidia0 rw in [Service]."),
        ("{{ memory }}", "1T", "leaves out MemoryMax=32G in [Service]."),
    ],
)
def test_a_template_of_the_site_opens_neither_less_nor_more(old, new, said):
    asked = TRAIN._replace(memory_gb=32)
    told = refused(service.drop_in, asked, MIG, {"service": templates.SERVICE.replace(old, new)})
    assert told.startswith("The template 'service' ") and said in told


# -- users -----------------------------------------------------------------------------------------------------------------
def test_a_user_has_his_nodes_and_what_a_login_needs():
    asked = TRAIN._replace(memory_gb=8, compute_units=2)
    file, *_ = service.user(asked, 1000, MIG, more=[Node("/dev/kvm")])
    assert file.path == "/etc/systemd/system/user-1000.slice.d/50-gpu-slicing.conf"
    assert listed(file, "DeviceAllow", "Slice") == [
        "char-tty rw", "char-ttyS rw", "/dev/fuse rw", "/dev/net/tun rw", "/dev/kvm rw",
        "/dev/nvidia0 rw", "/dev/nvidiactl rw", "/dev/nvidia-caps/nvidia-cap21 r",
    ]  # fmt: skip
    assert unit_text.settings(file.text)[1:3] == [("Slice", "DevicePolicy", "closed", 7), ("Slice", "DeviceAllow", "", 8)]
    assert listed(file, "MemoryMax", "Slice") + listed(file, "CPUQuota", "Slice") == ["8G", "200%"]
    assert listed(file, "After", "Unit") == ["gpu-slicing.service"]


def test_a_user_is_told_of_his_slices_in_the_user_manager_and_in_shells(tmp_path):
    _, manager, shell = service.user(TRAIN, 1000, MIG)
    assert manager.path == "/etc/systemd/system/user@1000.service.d/50-gpu-slicing.conf"
    assert listed(manager, "Environment") == ["CUDA_VISIBLE_DEVICES=MIG-1", '"ODD=a \\"b\\" 100%% $x"']
    assert shell.path == "/etc/profile.d/gpu-slicing-1000.sh"
    script = tmp_path / "profile.sh"
    script.write_text(shell.text, encoding="utf-8")
    command = ["sh", "-euc", 'id() { echo "$uid"; }; . "$0"; printf %s "$CUDA_VISIBLE_DEVICES|$ODD"', script]
    for uid, said in (("1000", 'MIG-1|a "b" 100% $x'), ("1001", "|")):
        variables = {"uid": uid, "ODD": "", "CUDA_VISIBLE_DEVICES": ""}
        assert subprocess.run(command, env=variables, capture_output=True, text=True, timeout=10, check=True).stdout == said


def test_a_user_whose_slices_need_no_variables_has_one_file():
    assert len(service.user(TRAIN, 1000, MIG._replace(environment=()))) == 1


@pytest.mark.parametrize(("uid", "said"), [(0, "is root: its slice unit holds all"), (-1, "uid -1"), (2**32 - 1, "nobody's")])
def test_root_and_nobody_are_no_users(uid, said):
    assert said in refused(service.user, TRAIN, uid, MIG)


def test_a_folder_can_be_elsewhere_for_no_single_user():
    same, other = Mount("/run/a", "/run/a"), Mount("/run/a", "/b")
    assert service.user(TRAIN, 1000, MIG._replace(mounts=(same,)))
    told = refused(service.user, TRAIN, 1000, MIG._replace(mounts=(other,)), kind=errors.Unsupported)
    assert told == "Consumer 'train' needs /run/a at /b, which can't be for one user alone. Use a service."


# -- what would defeat a drop-in -------------------------------------------------------------------------------------------
FILE = service.drop_in(TRAIN._replace(memory_gb=32), MIG._replace(mounts=(Mount("/run/a", "/run/a"),)), groups=["render"])


def told(text, path="/etc/systemd/system/train.service.d/override.conf", section="Service"):
    """What is said of a unit with one more file."""
    return conflicts(f"{UNIT}\n# {path}\n[{section}]\n{text}\n", FILE)


def test_a_unit_that_sets_nothing_of_this_is_no_conflict():
    assert conflicts(UNIT, FILE) == ()
    assert conflicts(f"{UNIT}\n# {FILE.path}\n{FILE.text}", FILE) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PrivateDevices=yes", "PrivateDevices=yes, which takes the nodes of all GPUs away."),
        ("DeviceAllow=", "DeviceAllow=, which closes the nodes of the slice."),
        ("DeviceAllow=/dev/nvidia1 rw", "DeviceAllow=/dev/nvidia1 rw, which opens more than the slice."),
        ("DeviceAllow=/dev/nvidia-caps/nvidia-cap21 rw", "which opens more than the slice."),
        ("DeviceAllow=/dev/nvidia0", "which opens more than the slice."),
        ("DeviceAllow=char-nvidia-caps r", "which opens more than the slice."),
        ("DeviceAllow=char-* rw", "which opens more than the slice."),
        ("DeviceAllow=/dev/dri/renderD128 rw", "which opens more than the slice."),
        ("Environment=A=1 CUDA_VISIBLE_DEVICES=0", "where CUDA_VISIBLE_DEVICES=MIG-1 is wanted."),
        ("Environment=", "which takes CUDA_VISIBLE_DEVICES, ODD away."),
        ("UnsetEnvironment=ODD", "which takes ODD away."),
        ("MemoryMax=1G", "where 32G is wanted."),
        ("SupplementaryGroups=", "which takes ours away."),
        ("BindPaths=", "which takes ours away."),
    ],
)
def test_a_file_that_comes_after_ours_and_defeats_it_is_told(text, said):
    (sentence,) = told(text)
    assert sentence.startswith("/etc/systemd/system/train.service.d/override.conf comes after our file and has ")
    assert sentence.endswith(said)
    # The same before ours is taken back by it.
    assert told(text, "/etc/systemd/system.control/train.service.d/50-DeviceAllow.conf") == ()


@pytest.mark.parametrize(
    "text",
    [
        "DeviceAllow=/dev/fuse rw", "DeviceAllow=char-pts rw", "DeviceAllow=/dev/nvidia0 r",
        "PrivateDevices=no", "DevicePolicy=auto", "Environment=CUDA_VISIBLE_DEVICES=MIG-1", "Environment=OTHER=1",
        "MemoryMax=32G", "CPUQuota=50%", "not a setting",
        "SupplementaryGroups=video",
    ],
)  # fmt: skip
def test_a_later_file_that_takes_nothing_away_is_no_conflict(text):
    assert told(text) == ()


def test_a_file_of_our_name_that_systemd_prefers_is_told():
    (sentence,) = told("DeviceAllow=", "/run/systemd/system.control/train.service.d/50-gpu-slicing.conf")
    assert sentence.endswith("/50-gpu-slicing.conf has the name of our file and takes its place: remove or rename it.")
    assert told("DeviceAllow=", "/usr/lib/systemd/system/train.service.d/50-gpu-slicing.conf") == ()


@pytest.mark.parametrize(
    ("section", "text", "said"),
    [
        ("Service", "RootDirectory=/srv/a\nMountAPIVFS=no", "RootDirectory=/srv/a with MountAPIVFS=no: there are no nodes"),
        ("Service", "RootImage=/srv/a.img", "RootImage=/srv/a.img: libraries of the driver have to be in that root"),
        ("Service", "InaccessiblePaths=-/dev/nvidia-caps", "InaccessiblePaths=-/dev/nvidia-caps hides nodes of the slice"),
        ("Service", "TemporaryFileSystem=/dev:ro", "TemporaryFileSystem=/dev:ro hides nodes of the slice"),
        ("Unit", "DefaultDependencies=no", "the unit starts early in the boot"),
        ("X-Container", "Image=a", "use a consumer of kind container that adopts this one"),
        ("Service", "ExecStart=-/usr/bin/docker run --rm a", "It starts containers by docker, which run outside of the unit"),
        ("Service", "ExecStart=/usr/bin/podman run a", "It starts containers by podman"),
    ],
)
def test_what_shuts_devices_out_is_told_wherever_it_stands(section, text, said):
    for path in ("/etc/systemd/system/train.service.d/override.conf", "/etc/systemd/system/train.service.d/10-a.conf"):
        (sentence,) = told(text, path, section)
        assert said in sentence


@pytest.mark.parametrize(
    "text",
    ["RootDirectory=/", "RootDirectory=/a\nRootDirectory=", "InaccessiblePaths=/devices", "ExecStart=/opt/docker/a"],
)
def test_what_only_looks_like_it_is_not(text):
    assert told(text) == ()


def test_the_text_of_systemctl_cat_is_parted_at_the_names_of_files():
    text = "\n# /etc/systemd/system/a.service\n# /etc/systemd/b.conf no\n[Service]\nodd\nNice=1\n\n# /run/systemd/x/c.conf\n"
    assert [(part.path, [each.key for each in part.settings]) for part in fragments(text)] == [
        ("/etc/systemd/system/a.service", ["Nice"]), ("/run/systemd/x/c.conf", []),
    ]  # fmt: skip


def test_private_devices_of_a_unit_are_seen_without_our_own_word():
    private = UNIT + "PrivateDevices=true\n"
    assert has_private_devices(private)
    assert has_private_devices(f"{private}\n# {FILE.path}\n{FILE.text}", FILE.path)
    assert not has_private_devices(UNIT)
    assert not has_private_devices(f"{private}\n# /etc/systemd/system/train.service.d/a.conf\n[Service]\nPrivateDevices=0\n")
