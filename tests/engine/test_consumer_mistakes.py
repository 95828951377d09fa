"""
What can't be meant, or stands in the way, is told in a sentence before anything changes; whoever was served stays served.
"""

import json
import pathlib

import pytest

from gpuslice import errors
from gpuslice import front
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.sim.host import SimulatedHost
from tests.conftest import described
from tests.support import consumers
from tests.support import odd_values
from tests.support.consumers import CONSUMER
from tests.support.consumers import EACH
from tests.support.consumers import FIRST
from tests.support.consumers import SLICE
from tests.support.consumers import TRAINER
from tests.support.consumers import TRAINER_FILE
from tests.support.consumers import WEB_FILE
from tests.support.consumers import astray
from tests.support.consumers import pillar
from tests.support.consumers import start_counts
from tests.support.hosts import apply
from tests.support.hosts import config

CONTAINER = {"kind": "container", "image": "localhost/x:1"}


@pytest.fixture
def host(simulated):
    made = consumers.machine(simulated)
    assert apply(made, pillar(EACH)).ok and astray(made) == []
    return made


@pytest.fixture(scope="module")
def simulated_once(tmp_path_factory):
    """A host that nobody changes."""
    place = tmp_path_factory.mktemp("once")
    return consumers.machine(
        lambda name, **changes: SimulatedHost(str(described(place, name, changes)), str(place / "state")), 1
    )


def refused(host, wanted, match, kind=errors.GpuSliceError):
    """A pillar is refused with these words, and changes nothing."""
    before, record = consumers.all_of(host), consumers.on_record(host)
    with pytest.raises(kind, match=match) as caught:
        apply(host, wanted)
    assert consumers.all_of(host) == before and consumers.on_record(host) == record and "Traceback" not in str(caught.value)
    return str(caught.value)


# -- files -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [SLICE.replace("/run", "/var/run"), CONSUMER, WEB_FILE, TRAINER_FILE])
def test_a_file_of_somebody_else_under_our_name_is_left_alone(simulated, path):
    host = consumers.machine(simulated)
    host.store_write(path, "[Service]\nX-Theirs=1\n")
    refused(host, pillar(EACH), "not ours. Move it away", errors.ResourceConflict)
    assert host.read(path).startswith("[Service]\nX-Theirs=1") and not any(
        part["instances"] for part in host.state()["gpus"].values() if "instances" in part
    )


def test_a_file_of_ours_that_somebody_edited_is_written_anew_and_told(host):
    started = start_counts(host)
    host.store_write(TRAINER_FILE, host.read(TRAINER_FILE) + "\n[Service]\nNice=5\n")
    plan = consumers.planned(host, pillar(EACH))
    assert "changed by somebody else" in plan.text() and "Nice=5" in host.read(TRAINER_FILE)
    assert apply(host, pillar(EACH)).ok and astray(host) == [] and "Nice" not in host.read(TRAINER_FILE)
    assert start_counts(host) == started


@pytest.mark.parametrize("path", [SLICE, CONSUMER, WEB_FILE, TRAINER_FILE])
def test_a_file_of_ours_that_somebody_removed_comes_back(host, path):
    host.store_remove(path)
    assert apply(host, pillar(EACH)).ok and astray(host) == [] and host.exists(path)


# -- the record --------------------------------------------------------------------------------------------------------
def record_of(host):
    return pathlib.Path(host.state_dir) / "consumers.json"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '{"format": 1, "cdi": 7}', "null", "\ufffd", ""])
def test_a_damaged_record_is_named_with_what_to_do(host, text):
    record_of(host).write_text(text, encoding="utf-8")
    with pytest.raises(errors.StateDirUnusable, match=r"consumers\.json, can't be used.*Remove that file"):
        apply(host, pillar(EACH))
    record_of(host).unlink()
    assert apply(host, pillar(EACH)).ok and astray(host) == []


def test_every_value_of_the_record_is_checked(host):
    sound = json.loads(record_of(host).read_text(encoding="utf-8"))
    for key in sound.keys() - {"format"}:
        for bad in (None, 7, "x", [7]):
            record_of(host).write_text(json.dumps({**sound, key: bad}), encoding="utf-8")
            with pytest.raises(errors.StateDirUnusable):
                consumers.planned(host, pillar(EACH))
        record_of(host).write_text(json.dumps({name: each for name, each in sound.items() if name != key}), encoding="utf-8")
        with pytest.raises(errors.StateDirUnusable):
            consumers.planned(host, pillar(EACH))


def test_a_record_of_a_newer_version_is_refused(host):
    found = json.loads(record_of(host).read_text(encoding="utf-8"))
    record_of(host).write_text(json.dumps({**found, "format": 99}), encoding="utf-8")
    with pytest.raises(errors.NewerFormat, match="newer version"):
        apply(host, pillar(EACH))


def test_a_host_whose_record_was_lost_takes_its_files_for_its_own(host):
    before = consumers.all_of(host)
    record_of(host).unlink()
    assert apply(host, pillar(EACH)).ok and astray(host) == [] and consumers.all_of(host)[1] == before[1]


# -- units, users, programs --------------------------------------------------------------------------------------------
UNFIT = [
    ({"kind": "service", "unit": "nobody.service"}, "nobody.service.*no such unit"),
    ({"kind": "service", "unit": "trainer"}, "no name of a unit"),
    ({"kind": "service", "unit": "trainer.socket"}, "slices are for services"),
    ({"kind": "service", "unit": "trainer@.service"}, "template"),
    ({"kind": "service", "unit": "gpu-slicing.service"}, "can't come after itself"),
    ({"kind": "service"}, "odd:unit: is missing"),
    ({"kind": "user", "user": "nobody-here"}, "no such user"),
    ({"kind": "user", "user": "root"}, "root"),
    ({"kind": "user"}, "odd:user: is missing"),
    ({"kind": "container"}, "odd:image: is missing"),
    ({**CONTAINER, "user": "nobody-here"}, "no such user"),
    ({**CONTAINER, "user": "root"}, "root"),
    ({**CONTAINER, "image": "a b"}, "no reference"),
    ({**CONTAINER, "quadlet": {"Container": {"Nonsense": 1}}}, "no Podman has"),
    ({**CONTAINER, "quadlet": {"Container": {"AddDevice": "/dev/nvidia0"}}}, "nvidia0"),
    ({"kind": "container", "unit": "x.service"}, "no container of Quadlet"),
    ({"slice": "9g.10gb"}, "no such slice. The nearest is"),
    ({"slice": {"memory_mib": 10**6}}, "no such slice"),
    ({"slice": {"gpu": "0000:99:00.0"}}, "no such slice"),
    ({"resource_limits": {"gpu_instances": 15}}, "wants 15 slices"),
    ({"kind": "device", "resource_limits": {"memory_gb": 3}}, "no effect on kind device"),
    ({"kind": "device", "unit": "x.service"}, "no meaning for kind device"),
]


@pytest.mark.parametrize(("spec", "match"), UNFIT)
def test_a_consumer_that_can_not_be_served_changes_nothing(host, spec, match):
    told = refused(host, pillar({**EACH, "odd": spec}, rules=[(FIRST, ["7g.80gb"])]), f"(?s){match}")
    assert "odd" in told or spec.get("unit", "-") in told


def test_without_podman_a_container_is_refused_and_the_others_are_not(simulated):
    host = consumers.machine(simulated, tools=["lspci", "nvidia-smi", "systemctl"])
    refused(host, pillar(EACH), "Podman is not installed.*kind device")
    assert apply(host, pillar({name: each for name, each in EACH.items() if name != "web"})).ok and astray(host) == []


@pytest.mark.parametrize(("version", "spec", "match"), [
    ("4.3.1", CONTAINER, "has no Quadlet, which came with 4.4"),
    ("4.5.0", {**CONTAINER, "user": "ada"}, "4.6"),
    ("4.9.0", {"kind": "container", "unit": "mine.container"}, "5.0"),
    ("4.4.0", {**CONTAINER, "quadlet": {"Container": {"ShmSize": "1g"}}}, "came with Podman 4.7"),
])  # fmt: skip
def test_a_podman_that_is_too_old_is_told(simulated, version, spec, match):
    host = consumers.machine(simulated, podman=version)
    refused(host, pillar({"x": spec}), match)


def test_a_podman_that_is_another_one_by_now_is_asked_again(simulated):
    host = consumers.machine(simulated)
    assert apply(host, pillar({"x": CONTAINER})).ok
    with host.change() as state:
        state["host"]["podman"] = "4.3.1"
    refused(host, pillar({"x": CONTAINER}), "has no Quadlet")


def test_without_systemd_a_host_hands_out_names_and_no_units(simulated):
    host = consumers.machine(simulated, tools=["lspci", "nvidia-smi"], units=[])
    assert apply(host, pillar({"dev": EACH["dev"]})).ok and astray(host) == []
    told = apply(host, pillar({"dev": EACH["dev"], "ada": EACH["ada"]}))
    assert told.ok and astray(host) == [], told.errors


def test_without_root_nothing_is_changed(simulated):
    host = consumers.machine(simulated, 1, privileged=False)
    try:
        told = " ".join(apply(host, pillar(EACH)).errors)
    except errors.GpuSliceError as err:
        told = str(err)
    assert told and astray(host) == [] and host.state()["written"] == {}


def test_a_service_with_private_devices_gets_its_nodes(simulated):
    text = "[Service]\nPrivateDevices=yes\n"
    host = consumers.machine(simulated)
    host.store_write(f"/etc/systemd/system/{TRAINER}.d/10-hard.conf", text)
    assert apply(host, pillar(EACH)).ok and astray(host) == []
    assert "PrivateDevices=no" in host.read(TRAINER_FILE)


def test_a_service_whose_other_files_defeat_ours_is_refused(simulated):
    host = consumers.machine(simulated)
    host.store_write(f"/etc/systemd/system/{TRAINER}.d/90-late.conf", "[Service]\nDeviceAllow=/dev/nvidia1 rw\n")
    refused(host, pillar(EACH), "opens more than the slice")


def test_a_file_that_comes_later_and_defeats_ours_is_refused_by_the_next_run(host):
    host.store_write(f"/etc/systemd/system/{TRAINER}.d/60-plain.conf", "[Service]\nNice=5\n")
    assert [step.action for step in consumers.planned(host, pillar(EACH)).steps] == ["note"]
    assert apply(host, pillar(EACH)).ok and consumers.planned(host, pillar(EACH)).empty
    host.store_write(f"/etc/systemd/system/{TRAINER}.d/90-late.conf", "[Service]\nDeviceAllow=/dev/nvidia1 rw\n")
    refused(host, pillar(EACH), "opens more than the slice")


def test_a_unit_in_which_this_run_is_itself_is_refused(simulated):
    minion = {"pid": 700, "command": "salt-minion", "unit": "salt-minion.service", "ancestor": True}
    host = consumers.machine(simulated, units=[TRAINER, minion["unit"]], processes=[minion])
    wanted = pillar({"all": {"kind": "service", "unit": "salt-minion.service"}})
    refused(host, wanted, "salt-minion.service .* would end with it", errors.ResourceConflict)


def test_an_instance_of_a_template_is_asked_about_once(simulated):
    host = consumers.machine(simulated, units=["train-all@1.service"])
    wanted = pillar({"one": {"kind": "service", "unit": "train-all@1.service"}})
    assert apply(host, wanted).ok and astray(host) == []
    host.add_fault({"call": "run", "times": 0, "error": "EIO"})
    assert consumers.planned(host, wanted).empty


# -- names -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x-", "x" * 64, "é", "x\n", "a/b", "%i", "$x"])
def test_a_name_that_nothing_can_have_is_refused(simulated, name):
    host = consumers.machine(simulated, 1)
    refused(host, pillar({name: {}}), "consumers", errors.PolicyError)


@pytest.mark.parametrize("one", [
    {"kind": "service", "unit": TRAINER}, {"kind": "user", "user": "ada"}, {"kind": "container", "unit": "mine.container"},
])  # fmt: skip
def test_two_consumers_of_one_unit_or_login_are_refused(simulated, one):
    files = {"/etc/passwd": consumers.PASSWD, "/etc/containers/systemd/mine.container": "[Container]\nImage=localhost/mine:1\n"}
    host = consumers.machine(simulated, files=files)
    refused(host, pillar({"one": one, "two": one}), "one.*two|two.*one", errors.PolicyError)


@pytest.mark.parametrize("uid", ["\u00b2", "-1", "4294967295", "9" * 5000, "", "0x3e8"])
def test_users_with_an_odd_number_are_nobodys(simulated, uid):
    host = consumers.machine(simulated, files={"/etc/passwd": f"ada:x:{uid}:0::/home/ada:/bin/sh\n"})
    for one in (EACH["ada"], {**CONTAINER, "user": "ada"}):
        refused(host, pillar({"one": one}), "no such user", errors.PolicyError)


@pytest.mark.parametrize("two", [
    {"kind": "container", "unit": "gpu-slicing-one.container"}, {"kind": "service", "unit": "gpu-slicing-one.service"},
])  # fmt: skip
def test_a_container_and_another_consumer_that_are_one_unit_are_refused(simulated, two):
    host = consumers.machine(simulated)
    assert apply(host, pillar({"one": CONTAINER})).ok
    refused(host, pillar({"one": CONTAINER, "two": two}), "one.*two.*gpu-slicing-one.service", errors.PolicyError)


def test_two_containers_of_one_user_are_two(simulated):
    host = consumers.machine(simulated)
    own = {**CONTAINER, "user": "ada"}
    assert apply(host, pillar({"one": own, "two": own})).ok and astray(host) == []
    assert apply(host, pillar({"one": own})).ok and astray(host) == []
    assert host.exists("/etc/systemd/system/user@1000.service.d/50-gpu-slicing-containers.conf")


def test_a_consumer_that_becomes_one_of_another_kind_leaves_nothing_behind(host):
    changed = {**EACH, "web": {"kind": "service", "unit": "infer.service"}, "trainer": {**CONTAINER}}
    assert apply(host, pillar(changed)).ok and astray(host) == []
    assert not host.exists(WEB_FILE) and not host.exists(TRAINER_FILE)
    assert consumers.running_with(host)[TRAINER] == {} and "gpu-slicing-trainer.service" in consumers.running_with(host)
    assert apply(host, pillar(EACH)).ok and astray(host) == []


def test_a_consumer_whose_unit_was_uninstalled_can_go(host):
    with host.change() as state:
        state["host"]["units"].remove(TRAINER)
    left = {name: each for name, each in EACH.items() if name != "trainer"}
    assert apply(host, pillar(left)).ok and astray(host) == []
    assert TRAINER not in consumers.running_with(host) and not host.exists(TRAINER_FILE)


def test_two_services_that_change_places_both_start_anew(host):
    both = {"trainer": EACH["trainer"], "infer": {"kind": "service", "unit": "infer.service", "slice": "1g.10gb"}}
    assert apply(host, pillar(both)).ok
    before = start_counts(host)
    swapped = {"trainer": {**both["trainer"], "unit": "infer.service"}, "infer": {**both["infer"], "unit": TRAINER}}
    assert apply(host, pillar(swapped)).ok and astray(host) == []
    assert start_counts(host) == {**before, TRAINER: before[TRAINER] + 1, "infer.service": before["infer.service"] + 1}


def test_what_a_pillar_says_of_units_is_read_by_root_alone(simulated):
    host, secret = consumers.machine(simulated), {"Container": {"Environment": "TOKEN=hunter2"}}
    for number in (1, 2):
        limits = {"memory_gb": number}
        assert apply(host, pillar({"web": {**CONTAINER, "quadlet": secret, "resource_limits": limits}}, boot=True)).ok
    kept = [path for path in pathlib.Path(host.state_dir).rglob("*.json") if path.parent.name != "simulated"]
    having = {path.name for path in kept if "hunter2" in path.read_text(encoding="utf-8")}
    # All others have its digest.
    assert having == {"consumers.json"}
    assert {oct(path.stat().st_mode & 0o777) for path in kept if path.name in having} == {"0o600"}


# -- many --------------------------------------------------------------------------------------------------------------
def test_many_consumers_and_one_too_many(simulated):
    host = consumers.machine(simulated, 8)
    many = {f"c{n}": {"slice": "1g.10gb"} for n in range(56)}
    assert apply(host, pillar(many)).ok and astray(host) == []
    assert len({part for parts in consumers.bindings(host).values() for part in parts}) == 56
    told = refused(host, pillar({**many, "late": {}}), "more consumers than slices", errors.PolicyError)
    assert "late gets none" in told
    assert apply(host, pillar(many, rules=[(FIRST, ["1g.10gb"] * 7)])).plan.empty


# -- secrets -----------------------------------------------------------------------------------------------------------
def test_what_a_site_writes_into_units_is_in_no_record_of_ours(simulated):
    host = consumers.machine(simulated)
    secret = {**CONTAINER, "quadlet": {"Container": {"Environment": "TOKEN=hunter2"}}}
    host.add_fault({"call": "run", "nth": 4, "error": "EIO"})
    apply(host, pillar({"x": secret}))
    host.clear_faults()
    assert apply(host, pillar({"x": secret})).ok
    assert "hunter2" in host.read("/etc/containers/systemd/gpu-slicing-x.container")
    assert "hunter2" not in consumers.planned(host, pillar({})).text()
    root = pathlib.Path(host.state_dir)
    telling = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "hunter2" in path.read_text()]
    # Who gets what has to say it, and is root's alone to read.
    assert [path for path in telling if not path.startswith("simulated")] == ["consumers.json"]
    assert record_of(host).stat().st_mode & 0o777 == 0o600


def test_a_rollback_and_a_boot_bring_back_what_a_site_wrote_into_a_unit(simulated):
    host = consumers.machine(simulated)
    first, second = ({**CONTAINER, "quadlet": {"Container": {"Environment": f"TOKEN={word}"}}} for word in ("one", "two"))
    place = "/etc/containers/systemd/gpu-slicing-x.container"
    for spec, word in ((first, "one"), (second, "two")):
        assert apply(host, pillar({"x": spec})).ok and f"TOKEN={word}" in host.read(place)
    with Engine(config(host)) as engine:
        assert front.run(engine, engine.rollback_targets(1), False, {})["result"]
    assert "TOKEN=one" in host.read(place) and astray(host) == []
    host.reboot()
    with Engine(config(host)) as engine:
        assert replay.replay(engine)["result"]
    assert "TOKEN=one" in host.read(place) and apply(host, pillar(cdi=False)).ok and not host.exists(place)
    with Engine(config(host)) as engine:
        assert front.run(engine, engine.rollback_targets(2), False, {})["result"]
    assert "TOKEN=two" in host.read(place) and astray(host) == []
    found = json.loads(record_of(host).read_text(encoding="utf-8"))
    record_of(host).write_text(json.dumps({**found, "quadlets": {}}), encoding="utf-8")
    with pytest.raises(errors.PolicyError, match="Consumer x had further keys .* not on record any more"):
        consumers.planned(host, pillar())
    assert apply(host, pillar({"x": second})).ok and astray(host) == []


# -- odd values --------------------------------------------------------------------------------------------------------
FITTING = {
    "quadlet": CONTAINER, "image": {"kind": "container"}, "user": {"kind": "user"}, "unit": {"kind": "service"},
}  # fmt: skip


def is_taken(engine, handing):
    """Whether the section on containers is taken, and not refused with a sentence."""
    try:
        engine.plan({**pillar(), "containers_gpu_container_integration": handing})
    except errors.GpuSliceError as err:
        assert str(err) and "nexpected" not in str(err)
        return False
    return True


@pytest.mark.parametrize("section", ["consumers", "cdi", "resource_limits"])
def test_odd_values_of_the_pillar_are_no_failure_of_ours(simulated_once, section):
    with Engine(config(simulated_once)) as engine:
        taken = [value for value in odd_values.POOL if is_taken(engine, {section: value})]
    assert all(value is None or value == {} for value in taken)


@pytest.mark.parametrize("key", ["kind", "slice", "unit", "image", "user", "weight", "resource_limits", "quadlet"])
def test_odd_values_of_a_consumer_are_no_failure_of_ours(simulated_once, key):
    with Engine(config(simulated_once)) as engine:
        assert is_taken(engine, {"consumers": {"x": {}}})
        fitting = FITTING.get(key, {})
        taken = [value for value in odd_values.POOL if is_taken(engine, {"consumers": {"x": {**fitting, key: value}}})]
    # Most words are names of images.
    assert len(taken) < len(odd_values.POOL) // 3


@pytest.mark.parametrize(("value", "fits"), [
    ({"profile": "*"}, True), ({"kind": "MIG"}, True), ({"gpu": "1b:00.0"}, True), ({"name": f"{FIRST}-1g.10gb-0"}, True),
    ({}, True),
    ({"profile": ""}, False), ({"memory_mib": 0}, False), ({"memory_mib": True}, False), ({"profile": "["}, False), ("", False),
])  # fmt: skip
def test_what_a_slice_must_have(simulated_once, value, fits):
    with Engine(config(simulated_once)) as engine:
        assert is_taken(engine, {"consumers": {"x": {"slice": value}}}) is fits


def test_a_unit_of_quadlet_that_is_not_there_can_t_be_adopted(simulated):
    one = {"kind": "container", "unit": "nobody.container", "slice": "1g.10gb"}
    why = "adopts the Quadlet unit nobody.container, and there is none in /run/containers/systemd, /etc/containers/systemd"
    refused(consumers.machine(simulated), pillar({"one": one}), why, errors.PolicyError)
