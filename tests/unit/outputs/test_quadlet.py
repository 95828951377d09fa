"""
Quadlet units and drop-ins: their text by version of Podman, and what they refuse. What Quadlet itself says of them is in
``tests/parts/test_quadlet.py``.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.outputs import quadlet
from gpuslice.outputs import templates
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.quadlet_keys import KEYS

TRAIN = Consumer("train", "container", image="registry.example/train:1")
ADOPTED = TRAIN._replace(unit="job.container", image="")
OLD, NEW = (4, 4, 0), (5, 4, 2)


def refused(call, *arguments, kind=errors.PolicyError, **more):
    with pytest.raises(kind) as caught:
        call(*arguments, **more)
    return str(caught.value)


def listed(file, key, section="Container"):
    return unit_text.values(unit_text.settings(file.text), section, key)


def with_keys(section="Container", **keys):
    return TRAIN._replace(quadlet={section: keys})


# -- units of our own ------------------------------------------------------------------------------------------------------
def test_a_unit_of_root_names_its_consumer_and_no_slice():
    file = quadlet.unit(TRAIN._replace(memory_gb=32, compute_units=16), NEW)
    assert (file.path, file.mode) == ("/etc/containers/systemd/gpu-slicing-train.container", 0o644)
    assert file.text == """\
# Written by Salt for the GPU consumer train; changes to this file are overwritten.
[Unit]
Description=GPU consumer train
After=gpu-slicing.service

[Container]
Image=registry.example/train:1
ContainerName=gpu-slicing-train
AddDevice=gpu-slicing/consumer=train
DropCapability=all
NoNewPrivileges=true
ReadOnly=true

[Service]
# Images for GPUs are large, and the first start pulls them.
TimeoutStartSec=900
MemoryMax=32G
CPUQuota=1600%

[Install]
WantedBy=multi-user.target
"""
    assert quadlet.service_name(TRAIN) == "gpu-slicing-train.service"


def test_a_unit_of_a_user_is_his_and_keeps_his_groups():
    file = quadlet.unit(TRAIN._replace(user="ann"), NEW, uid=1000)
    assert file.path == "/etc/containers/systemd/users/1000/gpu-slicing-train.container"
    assert listed(file, "GroupAdd") == ["keep-groups"]
    assert listed(file, "After", "Unit") == []
    assert listed(file, "WantedBy", "Install") == ["default.target"]


def test_a_security_profile_is_a_key_or_the_option_that_does_the_same():
    asked = TRAIN._replace(security_profile="gpu-slicing")
    assert listed(quadlet.unit(asked, (5, 8, 0)), "AppArmor") == ["gpu-slicing"]
    assert listed(quadlet.unit(asked, NEW), "PodmanArgs") == ["--security-opt=apparmor=gpu-slicing"]
    adopted = quadlet.adopted(ADOPTED._replace(security_profile="gpu-slicing"), NEW)
    assert listed(adopted, "PodmanArgs") == ["--security-opt=apparmor=gpu-slicing"]
    assert listed(quadlet.unit(TRAIN, NEW), "PodmanArgs") == []


def test_groups_are_kept_by_crun_only_and_beside_no_others():
    assert listed(quadlet.unit(TRAIN, NEW, uid=1000, runtime="runc"), "GroupAdd") == []
    assert listed(quadlet.unit(with_keys(GroupAdd=[44, 105]), NEW, uid=1000), "GroupAdd") == ["44", "105"]
    own = quadlet.unit(with_keys(PodmanArgs="--group-add=44"), OLD[:1] + (6, 0), uid=1000)
    assert listed(own, "PodmanArgs") == ["--group-add=44"]


def test_root_s_containers_get_groups_by_number():
    assert listed(quadlet.unit(TRAIN, NEW, groups=[44, 105]), "GroupAdd") == ["44", "105"]
    old = quadlet.unit(TRAIN, OLD, groups=[44])
    assert listed(old, "GroupAdd") == [] and listed(old, "PodmanArgs") == ["--group-add=44"]


def test_users_of_an_older_podman_keep_their_groups_by_its_option():
    file = quadlet.unit(TRAIN, (4, 6, 0), uid=1000)
    assert listed(file, "PodmanArgs") == ["--group-add=keep-groups"] and listed(file, "GroupAdd") == []


def test_a_root_that_is_read_only_has_temporary_folders_with_every_podman():
    assert listed(quadlet.unit(TRAIN, (4, 7, 2)), "VolatileTmp") == ["true"]
    assert listed(quadlet.unit(TRAIN, (4, 8, 0)), "VolatileTmp") == []
    assert listed(quadlet.unit(with_keys(ReadOnly=False), (4, 7, 2)), "VolatileTmp") == []
    assert listed(quadlet.unit(with_keys(VolatileTmp=False), (4, 7, 2)), "VolatileTmp") == ["false"]


def test_the_pillar_s_keys_go_before_defaults_of_least_privilege():
    own = with_keys(ReadOnly=False, NoNewPrivileges=False, DropCapability=["NET_RAW"], AddCapability="SYS_NICE")
    file = quadlet.unit(own, NEW)
    assert listed(file, "ReadOnly") == listed(file, "NoNewPrivileges") == ["false"]
    assert listed(file, "DropCapability") == ["NET_RAW"]
    assert listed(file, "AddCapability") == ["SYS_NICE"]


def test_keys_of_other_sections_are_added():
    more = {"Unit": {"After": ["a.service", "b.service"]}, "Service": {"Restart": "always", "TimeoutStartSec": 3600},
            "Install": {"WantedBy": "train.target"}}  # fmt: skip
    file = quadlet.unit(TRAIN._replace(quadlet=more), NEW)
    assert listed(file, "After", "Unit") == ["gpu-slicing.service", "a.service", "b.service"]
    assert listed(file, "Restart", "Service") + listed(file, "TimeoutStartSec", "Service")[-1:] == ["always", "3600"]
    assert listed(file, "WantedBy", "Install") == ["train.target"]


@pytest.mark.parametrize("podman", [(4, 4, 0), (4, 5, 1), (4, 6, 2), (4, 7, 0), (4, 8, 0), (5, 0, 0), (5, 1, 0), (5, 8, 2)])
def test_no_unit_has_a_key_that_its_podman_does_not(podman):
    files = [quadlet.unit(TRAIN, podman, groups=[44])]
    files += [quadlet.unit(TRAIN, podman, uid=1000)] if podman >= (4, 6, 0) else []
    files += [quadlet.adopted(ADOPTED, podman), quadlet.adopted(ADOPTED, podman, uid=1000)] if podman >= (5, 0, 0) else []
    keys = {each.key for file in files for each in unit_text.settings(file.text) if each.section == "Container"}
    assert {key for key in keys if KEYS[key].since > podman[:2]} == set()


# -- what can't be ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("consumer", "podman", "uid", "kind", "said"),
    [
        (TRAIN, (4, 3, 1), None, errors.Unsupported, "Podman 4.3.1 has no Quadlet, which came with 4.4."),
        (TRAIN, (4, 3, 1), 1000, errors.Unsupported, "Podman 4.3.1 has no Quadlet, which came with 4.4."),
        (TRAIN, (4, 5, 1), 1000, errors.Unsupported, "Podman 4.5.1 reads no units below /etc/containers/systemd/users, "),
        (TRAIN, NEW, 0, errors.PolicyError, "is of root, whose Podman is not rootless. Leave 'user' out."),
        (TRAIN._replace(user="ann"), NEW, None, errors.PolicyError, "is of user 'ann', whom this host does not have."),
        (TRAIN._replace(image=""), NEW, None, errors.PolicyError, "has no image. Give 'image', or a 'unit' that is there."),
        (TRAIN._replace(image="a b"), NEW, None, errors.PolicyError, "has the image 'a b', which is no reference of one."),
        (TRAIN._replace(image="-a"), NEW, None, errors.PolicyError, "has the image '-a'"),
        (TRAIN._replace(image="a\nAddDevice=/dev/x"), NEW, None, errors.PolicyError, "which is no reference of one."),
        (TRAIN._replace(image="a%h${X}"), NEW, None, errors.PolicyError, "which is no reference of one."),
    ],
)
def test_what_can_be_no_unit_is_a_sentence(consumer, podman, uid, kind, said):
    assert said in refused(quadlet.unit, consumer, podman, uid=uid, kind=kind)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "a/b", "a:b", "a\n", "ä", "x" * 129])
def test_a_name_that_a_container_can_t_have_is_a_sentence(name):
    told = refused(quadlet.unit, TRAIN._replace(name=name), NEW)
    assert told.startswith("A container can't have the consumer's name ") and "with a letter or digit at both ends" in told


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("Foo", 1, "[Container] Foo is a key that no Podman has. See podman-systemd.unit(5)."),
        ("groupadd", 1, "[Container] groupadd is a key that no Podman has. Write GroupAdd."),
        ("Memory", "1g", "came with Podman 5.5, and 5.4.2 is installed. Write 'PodmanArgs: --memory=...' in its place."),
        ("ReloadCmd", "x", "came with Podman 5.5, and 5.4.2 is installed. Leave it out, or use a newer Podman."),
        ("Image", "x", "[Container] Image can't be set: the consumer's 'image' says it. Leave it out."),
        ("Pod", "x", "[Container] Pod can't be set: in a pod the limits of the unit would not hold"),
        ("CgroupsMode", "x", "[Container] CgroupsMode can't be set"),
        ("Label", None, "[Container] Label has None, which is no text, number or yes and no."),
        ("Label", "a\nAddDevice=/dev/nvidia0", "[Container] Label has the character '\\n', which no unit file can hold."),
        ("Label", "a\\", "[Container] Label ends in a backslash"),
        ("Label", " a", "[Container] Label begins or ends in a blank"),
        ("AddDevice", "", "[Container] AddDevice=gpu-slicing/consumer=train is not left in the end."),
    ],
)
def test_a_key_that_can_t_be_is_a_sentence(key, value, said):
    told = refused(quadlet.unit, with_keys(**{key: value}), NEW)
    assert told.startswith("Consumer 'train': quadlet: ") and said in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AddDevice", "gpu-slicing/slice=a"), ("AddDevice", "gpu-slicing/consumer=other"), ("AddDevice", "nvidia.com/gpu=all"),
        ("AddDevice", "/dev/nvidia1"), ("AddDevice", "-/dev/dri"), ("AddDevice", "-/dev/dri/renderD129:/dev/x:rwm"),
        ("AddDevice", "/dev/fuse /dev/kfd"), ("AddDevice", "/dev"), ("Volume", "/dev:/dev"), ("Volume", "/dev/dri:/dev/dri"),
        ("Mount", "type=bind,source=/dev/nvidia0,destination=/x"), ("Mount", "type=bind,src=/dev,dst=/x"),
        ("PodmanArgs", "--privileged"), ("PodmanArgs", "--gpus=all"), ("PodmanArgs", "--device nvidia.com/gpu=0"),
        ("PodmanArgs", "--device=/dev/nvidia0"), ("PodmanArgs", "-v /dev//dri:/a"), ("PodmanArgs", "--volume=/dev/vfio:/a"),
        ("PodmanArgs", "--device-cgroup-rule='c 195:* rwm'"), ("GlobalArgs", "--privileged"),
    ],
)  # fmt: skip
def test_nothing_opens_more_than_the_consumer_s_slices(key, value):
    own = {"Container": {key: value}}
    for call, asked in ((quadlet.unit, TRAIN), (quadlet.adopted, ADOPTED)):
        told = refused(call, asked._replace(quadlet=own), NEW)
        assert f"[Container] {key}={value} would open more than the consumer's slices. Leave it out: he gets" in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AddDevice", "/dev/fuse"), ("Volume", "/srv/dev:/dev/shm/a"), ("Volume", "/data:/data:ro"),
        ("PodmanArgs", "--tmpfs=/dev/x"),
        ("Environment", "A=/dev/nvidia0"), ("PodmanArgs", "--shm-size=1g"), ("Volume", "%h/nvidia.com:/a"),
    ],
)  # fmt: skip
def test_other_devices_and_folders_can_be_given(key, value):
    assert value in listed(quadlet.unit(with_keys(**{key: value}), NEW), key)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("User", "ann", "[Service] User=ann can't be set: a unit of Quadlet is root's, or of the consumer's 'user'. Leave "
         "it out."),
        ("ExecStart", "/bin/true", "[Service] ExecStart=/bin/true can't be set: Quadlet makes it. Leave it out."),
        ("Type", "simple", "[Service] Type=simple is not taken by Quadlet. Use notify or oneshot."),
        ("KillMode", "none", "[Service] KillMode=none is not taken by Quadlet. Use mixed or control-group."),
        ("MemoryMax", "1G", "[Service] MemoryMax=1G is not the 32G of 'resource_limits'. Set it in one place only."),
        ("A b", "1", "[Service] 'A b' is no key. Use letters, digits and '-'."),
    ],
)
def test_a_key_of_the_service_that_quadlet_or_a_limit_needs_is_refused(key, value, said):
    told = refused(quadlet.unit, with_keys("Service", **{key: value})._replace(memory_gb=32), NEW)
    assert told == f"Consumer 'train': quadlet: {said}"


def test_a_section_that_can_t_be_set_is_refused():
    told = refused(quadlet.unit, with_keys("Pod", A=1), NEW)
    assert told == "Consumer 'train': quadlet: [Pod] is no section that can be set. Use Unit, Container, Service, Install."


@given(st.text(max_size=30))
def test_any_value_of_the_pillar_is_one_line_or_refused(value):
    try:
        file = quadlet.unit(with_keys(Label=value), NEW)
    except errors.PolicyError as err:
        assert str(err).startswith("Consumer 'train': quadlet: [Container] Label ")
        return
    assert listed(file, "Label") == ([value] if value else [])


# -- units of others -------------------------------------------------------------------------------------------------------
def test_a_unit_that_is_adopted_has_the_slice_in_place_of_its_devices():
    file = quadlet.adopted(ADOPTED._replace(memory_gb=4, quadlet={"Container": {"AddDevice": "/dev/fuse"}}), NEW)
    assert file.path == "/etc/containers/systemd/job.container.d/50-gpu-slicing.conf"
    assert [each[:3] for each in unit_text.settings(file.text)] == [
        ("Unit", "After", "gpu-slicing.service"),
        ("Container", "AddDevice", ""),
        ("Container", "AddDevice", "gpu-slicing/consumer=train"),
        ("Container", "AddDevice", "/dev/fuse"),
        ("Service", "MemoryMax", "4G"),
    ]
    assert quadlet.service_name(ADOPTED) == "job.service"


def test_a_unit_of_a_user_can_be_adopted():
    file = quadlet.adopted(ADOPTED, NEW, uid=1000)
    assert file.path == "/etc/containers/systemd/users/1000/job.container.d/50-gpu-slicing.conf"
    assert listed(file, "GroupAdd") == ["keep-groups"] and listed(file, "After", "Unit") == []


def test_a_podman_without_drop_ins_can_adopt_nothing():
    told = refused(quadlet.adopted, ADOPTED, (4, 9, 5), kind=errors.Unsupported)
    assert told == (
        "Consumer 'train' can't be served: Podman 4.9.5 reads no drop-ins of Quadlet units, which came with 5.0. "
        "Give 'image' and no 'unit': then one is written."
    )


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("job", "is no container of Quadlet. Name its file, such as train.container, or use kind: service."),
        ("job.service", "is no container of Quadlet."),
        ("../job.container", "is no container of Quadlet."),
        ("job@.container", "all its instances would share the slice. Name an instance, such as job@1.container."),
    ],
)
def test_a_unit_that_can_t_be_adopted_is_a_sentence(unit, said):
    told = refused(quadlet.adopted, ADOPTED._replace(unit=unit), NEW)
    assert told.startswith(f"The unit {unit!r} of consumer 'train' ") and said in told


def test_units_of_a_user_come_after_the_slices_by_his_user_manager():
    file = quadlet.ordered(1000)
    assert file.path == "/etc/systemd/system/user@1000.service.d/50-gpu-slicing-containers.conf"
    assert listed(file, "After", "Unit") == ["gpu-slicing.service"]


# -- templates of a site ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("AddDevice={{ device }}", "", "[Container] AddDevice=gpu-slicing/consumer=train is not left in the end."),
        ("Image={{ image }}", "Image=other", "[Container] Image=registry.example/train:1 is not left in the end."),
        ("Image={{ image }}", "Image={{ image }}\nAppArmor=x", "[Container] AppArmor is a key that came with Podman 5.8"),
        ("Image={{ image }}", "Image={{ image }}\nAddDevice=/dev/nvidia1", "would open more than the consumer's slices"),
        ("MemoryMax={{ memory }}", "MemoryMax=1T", "[Service] MemoryMax=1T is not the 32G of 'resource_limits'."),
        ("MemoryMax={{ memory }}", "", "[Service] MemoryMax=32G is not left in the end."),
    ],
)
def test_a_template_of_the_site_makes_a_unit_that_gives_the_slice(old, new, said):
    own = {"quadlet": templates.QUADLET.replace(old, new)}
    assert said in refused(quadlet.unit, TRAIN._replace(memory_gb=32), NEW, own)
