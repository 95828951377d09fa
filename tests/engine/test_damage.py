"""
Files of the state directory that are damaged in many ways: whatever is read back is checked like any other input, so each is a
sentence or does no harm, and nothing that a file says is stopped, started or written without having the right form.
"""

import copy
import fcntl
import json
import os
import pathlib
import random
import re
import shutil
import signal

import pytest
import yaml

from gpuslice import errors
from gpuslice import front
from gpuslice import reports
from gpuslice import tables
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.host.open import open_host
from gpuslice.inventory import grain
from gpuslice.model import Key
from gpuslice.printable import printable
from gpuslice.records import lock
from gpuslice.records.attempts import Attempts
from gpuslice.records.history import History
from gpuslice.records.journal import Journal
from gpuslice.records.reboot import RebootLedger
from gpuslice.records.verified import Verified
from gpuslice.records.verified import entry
from gpuslice.sim.host import SimulatedHost
from tests.support import crash
from tests.support import hosts
from tests.support import pillars

GPU = "0000:1b:00.0"
JUNK = [None, True, -1, 0, 7, 1.5, float("nan"), 10**30, "", "x", "--help", "../../x", "\x1b[2J", [], [[]], ["x"], {}, {"x": 1}]
USES = {
    "plan": lambda engine, wanted: engine.plan(wanted).text(),
    "apply": lambda engine, wanted: engine.apply(wanted),
    "history": lambda engine, wanted: engine.history(),
    "undo the last": lambda engine, wanted: engine.reconciler().plan(engine.rollback_targets()),
    "roll back": lambda engine, wanted: engine.reconciler().plan(engine.rollback_targets(1)),
    "status": lambda engine, wanted: replay.status(engine),
    "replay": lambda engine, wanted: replay.replay(engine, wait=0),
    "forget": lambda engine, wanted: replay.forget(engine, GPU),
}


WANTED = pillars.mig(["3g.40gb", "1g.10gb"], stop_units=["dcgm.service"])
OTHER = pillars.mig(["2g.20gb"], stop_units=["dcgm.service"])


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, host_description):
    """A host with a history, a record, a count, a ledger, and a change that was killed: (configuration, copy of its state)."""
    place = tmp_path_factory.mktemp("interrupted")
    description = host_description(place, "dgx-h100", {"gpus": [{"model": "h100-80gb", "address": GPU}], "processes": []})
    host = SimulatedHost(str(description), str(place / "state"))
    config = hosts.config(host)
    for wanted in (WANTED, OTHER):
        with Engine(config) as engine:
            assert engine.apply(wanted).ok
    Attempts(host).begin(Verified(host).entries())
    Attempts(host).ended(True, "as it was")
    waits = {GPU: {"boot_id": "b", "why": "w", "reboots": 0}}
    host.store_write(f"{host.state_dir}/reboot.json", json.dumps({"format": 1, "gpus": waits}))
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "after"})
    assert crash.apply_in_child(host, WANTED) == signal.SIGKILL
    assert Journal(host).unfinished().steps
    kept = place / "kept"
    shutil.copytree(host.state_dir, kept)
    return config, kept


def places(data, path=()):
    """The path of every value in plain data."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


def damaged(data, chance):
    """A copy in which one value is another, has gone, or has another name; text cut short now and then."""
    made = copy.deepcopy(data)
    *way, last = chance.choice([path for path in places(made) if path])
    holder = made
    for key in way:
        holder = holder[key]
    how = chance.randrange(4)
    if how == 0:
        del holder[last]
    elif how == 1 and isinstance(holder, dict):
        holder[chance.choice(["x", "", "../x", "\x1b"])] = holder.pop(last)
    else:
        holder[last] = chance.choice(JUNK)
    text = json.dumps(made)
    return text[: chance.randrange(len(text))] if chance.random() < 0.05 else text


def harmless(host, before):
    """Nothing was stopped or started but what may be, and nothing was written outside of the state directory."""
    state = host.state()
    assert state["written"] == before["written"]
    assert set(state["gpus"]) == set(before["gpus"])


def drive(interrupted, name, number):
    """Damage a file in ``number`` ways; each is met by one of the uses in turn."""
    config, kept = interrupted
    data = json.loads((kept / name).read_text()) if name != "journal.steps" else None
    chance, refused = random.Random(name), 0
    for turn in range(number):
        shutil.rmtree(config["state_dir"])
        shutil.copytree(kept, config["state_dir"])
        place = pathlib.Path(config["state_dir"], name)
        place.write_text(damaged(data, chance) if data is not None else broken_lines(place.read_text(), chance))
        use = list(USES)[turn % len(USES)]
        before = SimulatedHost(config["simulate"], config["state_dir"]).state()
        try:
            with Engine(config) as engine:
                USES[use](engine, WANTED if turn % 16 < 8 else OTHER)
        except errors.GpuSliceError as err:
            refused += 1
            assert len(str(err)) > 20 and "Traceback" not in str(err) and "\x1b" not in str(err), str(err)
        except Exception as err:  # what a user would see as "the engine failed"
            raise AssertionError(f"{use} with {place.read_text()!r}") from err
        harmless(SimulatedHost(config["simulate"], config["state_dir"]), before)
    return refused


def broken_lines(text, chance):
    lines = text.splitlines()
    place = chance.randrange(len(lines))
    of, gpu, number = json.loads(lines[place])
    lines[place] = json.dumps(chance.choice([[of, gpu, chance.choice(JUNK)], [of, chance.choice(JUNK), number], [], [of], "x"]))
    return "\n".join(lines) + "\n"


FILES = ["journal.json", "journal.steps", "verified.json", "boot.json", "reboot.json"]
FILES += ["history/000000.json", "history/000001.json", "history/000002.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_sentence_or_no_harm(interrupted, name):
    drive(interrupted, name, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_damaged_in_three_hundred_ways_is_a_sentence_or_no_harm(interrupted, name):
    drive(interrupted, name, 300)


# -- damage below the form: bytes, sizes, kinds of files -----------------------------------------------------------------
class Refused(Exception):
    """In the place of Salt's exception for a refusal."""


def through_the_front(work):
    """What a loader file does; whatever is no error of ours is said to be the engine's failure there."""
    return lambda config, wanted: _front(config, lambda engine: work(engine, wanted))


def _front(config, work):
    with front.engine({"gpu_slicing": config}, Refused) as engine:
        return work(engine)


FRONT_USES = {name: through_the_front(work) for name, work in USES.items()} | {
    "health": through_the_front(lambda engine, wanted: engine.health()),
    "map": through_the_front(lambda engine, wanted: engine.maps()),
    "table": through_the_front(lambda engine, wanted: tables.table(engine.slices())),
    "undo it": through_the_front(lambda engine, wanted: front.recovered(engine, "undo", False, None)),
    "finish it": through_the_front(lambda engine, wanted: front.recovered(engine, "finish", False, None)),
    "look at undoing it": through_the_front(lambda engine, wanted: front.recovered(engine, "undo", True, None)),
    "brief history": through_the_front(lambda engine, wanted: [reports.brief(entry) for entry in engine.history()]),
    "the grain": lambda config, wanted: grain.facts(open_host(config)),
}
ODD_CONTENT = [
    b"", b"\n", b"\x00", b"\x00" * 4096, b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{", b"}", b"null", b"0", b"-0", b"true", b"[]",
    b"{}", b'""', b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"-" + b"9" * 5000, b"[" * 100_000, b'{"a":' * 50_000, b"[[]]",
    b"{}{}", b'"\\ud800"',
    b'{"": null}', b'{"gpus": null}', b'{"gpus": []}', b'{"tried": 7, "last": 7}', b"#!/bin/sh\n", b'"' + b"x" * 10**6 + b'"',
]  # fmt: skip


def _numbers_swapped(content, chance):
    """A number of the text is another one: one that no clock, counter or address has."""
    places = list(re.finditer(rb"-?[0-9]+(?:\.[0-9]+)?", content))
    if not places:
        return content + b"9"
    place = chance.choice(places)
    odd = chance.choice([b"-1", b"1e308", b"1e999", b"NaN", b"-Infinity", b"9" * 25, b"9" * 5000, b"0.5", b"null", b'"1"'])
    return content[: place.start()] + odd + content[place.end() :]


def _keys_doubled(content, chance):
    """A key is there twice, the second time with something else."""
    places = list(re.finditer(rb'"[a-z_]+": ?', content))
    if not places:
        return content * 2
    key = chance.choice(places)
    return content[: key.start()] + key[0] + json.dumps(chance.choice(JUNK)).encode() + b", " + content[key.start() :]


def _bytes_changed(content, chance):
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        made[chance.randrange(len(made))] = chance.randrange(256)
    return bytes(made)


DAMAGES = (
    lambda content, chance: content[: chance.randrange(len(content))],
    lambda content, chance: content[chance.randrange(len(content)) :],
    _bytes_changed,
    _bytes_changed,
    _numbers_swapped,
    _keys_doubled,
    lambda content, chance: content.replace(b'"', b"'", chance.randrange(1, 4)),
    lambda content, chance: chance.choice(ODD_CONTENT),
)
KINDS = {
    "directory": lambda place: place.mkdir(),
    "directory with a file": lambda place: (place.mkdir(), (place / "x").write_text("x")),
    "pipe": lambda place: os.mkfifo(place),
    "link to nothing": lambda place: place.symlink_to("/no/such/file"),
    "link to itself": lambda place: place.symlink_to(place),
    "writable for others": lambda place: (place.write_text("{}"), place.chmod(0o666)),
    "unreadable": lambda place: (place.write_text("{}"), place.chmod(0)),
}


def put_back(interrupted):
    config, kept = interrupted
    shutil.rmtree(config["state_dir"])
    shutil.copytree(kept, config["state_dir"])


def met(interrupted, name, use, wanted=WANTED):
    """Use the host; assert that the answer is ordinary or a sentence, and that nothing was done that is not allowed."""
    config, _ = interrupted
    before = SimulatedHost(config["simulate"], config["state_dir"]).state()
    try:
        FRONT_USES[use](config, wanted)
    except Refused as err:
        text = str(err)
        assert len(text) > 20 and "Traceback" not in text and "engine failed" not in text, f"{use}: {text}"
        assert all(printable(line) == line for line in text.splitlines()), f"{use}: {text!r}"
    harmless(SimulatedHost(config["simulate"], config["state_dir"]), before)


def damage_bytes(interrupted, name, number):
    config, kept = interrupted
    content = (kept / name).read_bytes() if (kept / name).exists() else b'{"pid": 1, "who": "x", "jid": "", "since": 1.0}'
    chance = random.Random(f"bytes of {name}")
    for turn in range(number):
        put_back(interrupted)
        damage = DAMAGES[turn % len(DAMAGES)](content, chance)
        pathlib.Path(config["state_dir"], name).write_bytes(damage)
        use = chance.choice(list(FRONT_USES))
        try:
            met(interrupted, name, use, chance.choice((WANTED, OTHER)))
        except AssertionError as err:
            raise AssertionError(f"turn {turn}, {use}, {name} with {damage[:3000]!r}") from err


@pytest.mark.parametrize("name", [*FILES, "lock"])
def test_bytes_that_are_damaged_are_a_sentence_or_no_harm(interrupted, name):
    damage_bytes(interrupted, name, 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "lock"])
def test_bytes_damaged_in_three_hundred_ways_are_a_sentence_or_no_harm(interrupted, name):
    damage_bytes(interrupted, name, 300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FILES, "lock", "history"])
def test_what_is_no_file_of_ours_is_a_sentence_or_no_harm(interrupted, name, kind):
    config, _ = interrupted
    for use in chosen(f"{name} {kind}"):
        put_back(interrupted)
        place = pathlib.Path(config["state_dir"], name)
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        KINDS[kind](place)
        met(interrupted, name, use)


def chosen(seed, number=2):
    """Some of the uses, others for each seed, and applying always."""
    return ["apply", *random.Random(seed).sample(list(FRONT_USES), number)]


@pytest.mark.parametrize(
    "name",
    ["²", "١", "-1", "0", "00", "1", "0000001", "1e3", " 1", "x", "9" * 30, "000001 (copy)", "\udcff", "\x1b[2J", "²²"],
    ids=ascii,
)  # fmt: skip
def test_odd_names_in_the_history_are_no_generations(interrupted, name):
    config, _ = interrupted
    for use in chosen(ascii(name)):
        put_back(interrupted)
        # As the system hands over a name that is no UTF-8.
        encoded = os.fsdecode(f"{name}.json".encode(errors="surrogateescape"))
        pathlib.Path(config["state_dir"], "history", encoded).write_text("{}")
        met(interrupted, name, use)


WRITTEN = ("pid", "who", "jid", "since", "waits_since", "waits_for")
ODD_HOLDERS = [json.dumps(dict.fromkeys(WRITTEN, junk)).encode() for junk in JUNK]
ODD_HOLDERS += [json.dumps(dict(zip(WRITTEN, (1, "\x1b[2J", "\u202e", 1, 1, "\x07"), strict=True))).encode()]


@pytest.mark.parametrize("content", [*ODD_CONTENT, *ODD_HOLDERS], ids=lambda content: ascii(content)[:40])
def test_a_lock_that_is_held_names_nobody_by_what_is_damaged(interrupted, content):
    config, _ = interrupted
    put_back(interrupted)
    place = pathlib.Path(config["state_dir"], "lock")
    handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.truncate(place, 0)
        os.pwrite(handle, content, 0)
        with pytest.raises(errors.LockHeld) as caught, lock.held(config["state_dir"], "a test", patience=0):
            pass
    finally:
        os.close(handle)
    assert "Another change" in str(caught.value) and printable(str(caught.value)) == str(caught.value)


def test_json_that_is_nested_too_deeply_is_a_sentence(interrupted):
    config, kept = interrupted
    for name in FILES:
        shutil.rmtree(config["state_dir"])
        shutil.copytree(kept, config["state_dir"])
        pathlib.Path(config["state_dir"], name).write_text("[" * 100_000)
        for use in USES.values():
            try:
                with Engine(config) as engine:
                    use(engine, WANTED)
            except errors.GpuSliceError as err:
                assert name == "journal.steps" or "nested too deeply" in str(err) or name.startswith(("history", "journal"))


# -- what a file must not bring about ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "pause",
    [["unit", "--help"], ["unit", "-Hevil.service"], ["unit", "a b.service"], ["unit", "x"], ["unit", ""],
     ["unit", "a.service\n"],
     ["kernel module", "-r"], ["kernel module", "../x"], ["kernel module", "x.service"], ["kernel module", 3],
     ["process", "1"], ["unit"], ["unit", "a.service", "b"], "unit"],
)  # fmt: skip
def test_nothing_is_stopped_or_started_by_a_name_that_is_none(interrupted, pause):
    config, kept = interrupted
    shutil.rmtree(config["state_dir"])
    shutil.copytree(kept, config["state_dir"])
    place = pathlib.Path(config["state_dir"], "journal.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "pauses": [["unit", "dcgm.service"], pause]}))
    with Engine(config) as engine, pytest.raises(errors.JournalDamaged, match=r"journal\.json.*pauses:1.*remove that file"):
        engine.apply(WANTED)


@pytest.mark.parametrize("key", ["stop_units", "unload_modules"])
@pytest.mark.parametrize("name", ["--help", "-Hevil.service", "-r"])
def test_the_pillar_names_no_option_of_systemctl_or_modprobe_either(interrupted, key, name):
    config, _ = interrupted
    wanted = {**WANTED, "containers_gpu_state_management": {key: [name]}}
    with Engine(config) as engine, pytest.raises(errors.PolicyError, match=f"{key}:0"):
        engine.policy(wanted)


@pytest.mark.parametrize("name", ["../../cron.d/x", "/etc/cron.d/x", ".profile", "a/b"])
def test_an_environment_file_on_record_stays_in_its_directory(simulated, name):
    host = simulated("no-gpu")
    layout = {"files": {name: "x"}, "ccs": {}, "engines": {}, "vram": {}, "kept": {}}
    Verified(host).note({Key.of_gpu("level-zero", GPU): entry([GPU], layout, 0)})
    with pytest.raises(errors.JournalDamaged, match="files:a key is a text of another form"):
        Verified(host).entries()


# -- other formats ---------------------------------------------------------------------------------------------------------
def rewritten(host, name, change):
    """Write one of our files anew, as ``change`` makes it of what it says; returns what it said."""
    place = pathlib.Path(host.state_dir, name)
    said = json.loads(place.read_text())
    place.write_text(json.dumps(change(said)))
    return said


def by_address(keyed):
    """The same mapping by PCI address, as the first formats had it."""
    return {Key.of(text).subject: value for text, value in keyed.items()}


def test_a_journal_without_a_format_is_refused_as_damaged(interrupted):
    config, kept = interrupted
    shutil.rmtree(config["state_dir"])
    shutil.copytree(kept, config["state_dir"])
    host = SimulatedHost(config["simulate"], config["state_dir"])

    def first(said):
        keyed = {name: by_address(value) if name in ("before", "goal", "addresses") else value for name, value in said.items()}
        return {name: value for name, value in keyed.items() if name != "format"}

    for change in (first, lambda said: said | {"format": 0}):
        rewritten(host, "journal.json", change)
        before = SimulatedHost(config["simulate"], config["state_dir"]).state()
        told = r"journal\.json.*another form.*older version.*remove"
        with Engine(config) as engine, pytest.raises(errors.JournalDamaged, match=told):
            engine.apply(WANTED)
        assert SimulatedHost(config["simulate"], config["state_dir"]).state() == before


@pytest.fixture
def changed_twice(simulated):
    """A host on which a change was made, and then another one."""
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU}], processes=[])
    assert hosts.apply(host, WANTED).ok and hosts.apply(host, OTHER).ok
    return host


def test_a_record_of_the_first_format_is_brought_up(changed_twice):
    host = changed_twice
    known = Verified(host).entries()

    def first(said):
        found = {address: {**one, "technique": "mig"} for address, one in by_address(said["layouts"]).items()}
        for one in found.values():
            del one["addresses"]
        return {"format": 1, "gpus": found}

    rewritten(host, "verified.json", first)
    assert list(known) == [Key(GPU, "mig")] and Verified(host).entries() == known
    host.reboot()
    with Engine(hosts.config(host)) as engine:
        assert replay.replay(engine, wait=0)["result"]
    assert hosts.shapes(host) == {GPU: ["2g.20gb"]}
    # What is written is of the format of now.
    assert hosts.apply(host, WANTED).ok
    assert json.loads(pathlib.Path(host.state_dir, "verified.json").read_text())["format"] == 2


def test_a_history_of_the_first_format_is_told_and_rolled_back(changed_twice):
    host = changed_twice

    def first(said):
        kept = {name: value for name, value in said.items() if name not in ("format", "addresses")}
        return {**kept, "before": by_address(said["before"]), "after": by_address(said["after"]), "techniques": {GPU: "mig"}}

    told = History(host).all()
    for number in (1, 2):
        rewritten(host, f"history/{number:06d}.json", first)
    again = History(host).all()
    assert [[each[name] for name in ("before", "after", "result")] for each in again] == [
        [each[name] for name in ("before", "after", "result")] for each in told
    ]
    with Engine(hosts.config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert hosts.shapes(host) == {GPU: ["1g.10gb", "3g.40gb"]}


def test_a_list_of_reboots_of_the_first_format_is_brought_up(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU}], processes=[])
    waits = {"boot_id": host.boot_id(), "why": "w", "reboots": 1}
    host.store_write(f"{host.state_dir}/reboot.json", json.dumps({GPU: waits}))
    assert RebootLedger(host).waiting(GPU) and RebootLedger(host).rebooted_in_vain(GPU)
    RebootLedger(host).add("0000:ff:00.0", "x")
    said = json.loads(pathlib.Path(host.state_dir, "reboot.json").read_text())
    assert said["format"] == 1 and said["gpus"][GPU] == waits and set(said["gpus"]) == {GPU, "0000:ff:00.0"}


@pytest.mark.parametrize("name", ["journal.json", "reboot.json", "history/000001.json"])
def test_a_file_of_a_newer_format_is_named_and_not_overwritten(interrupted, name):
    config, kept = interrupted
    shutil.rmtree(config["state_dir"])
    shutil.copytree(kept, config["state_dir"])
    host = SimulatedHost(config["simulate"], config["state_dir"])
    rewritten(host, name, lambda said: {"format": 99, "whatever": said})
    left = pathlib.Path(host.state_dir, name).read_text()
    with Engine(config) as engine, pytest.raises(errors.NewerFormat, match=f"{name}.*newer version.*format 99"):
        if name.startswith("history"):
            engine.rollback_targets(1)
        else:
            engine.apply(WANTED)
    assert pathlib.Path(host.state_dir, name).read_text() == left


def test_a_record_of_a_newer_format_keeps_no_change_and_is_not_overwritten(changed_twice):
    host = changed_twice
    rewritten(host, "verified.json", lambda said: {"format": 99, "whatever": said})
    left = pathlib.Path(host.state_dir, "verified.json").read_text()
    result = hosts.apply(host, WANTED)
    assert result.ok and "newer version" in " ".join(result.warnings) and "format 99" in " ".join(result.warnings)
    assert pathlib.Path(host.state_dir, "verified.json").read_text() == left
    with Engine(hosts.config(host)) as engine, pytest.raises(errors.NewerFormat, match="newer version"):
        replay.replay(engine, wait=0)


# -- what we write ourselves ---------------------------------------------------------------------------------------------
EXAMPLES = {
    "mi300x-8": "mi300x",
    "flex170": "flex170",
    "arc-pro-b60": "arc_pro_b60",
    "hgx-b200": "b200",
    "mixed-vendors": "level_zero",
    "mixed": "mixed",
    "max1550": "max1550",
    "mi210-gim": "mi210_gim",
    "vgpu-guest": "vgpu_guest",
    "vgpu-host-mdev": "vgpu_host",
    "vgpu-host-vfio": "vgpu_host",
}


@pytest.mark.parametrize("example", [*EXAMPLES, "passthrough"])
def test_what_every_technique_writes_has_the_form_that_is_read(simulated, repo, example):
    pillar_file = EXAMPLES.get(example, example)
    wanted = yaml.safe_load((repo / "examples" / "pillar" / f"{pillar_file}.sls").read_text(encoding="utf-8"))
    host = simulated("mixed-vendors" if example == "passthrough" else example)
    config = hosts.config(host)
    seen = []

    def look(_):
        seen.append(Journal(host).unfinished())

    with Engine(config, progress=look) as engine:
        result = engine.apply(wanted)
    assert result.changes and seen and all(seen), result.errors
    assert Verified(host).entries()
    with Engine(config) as engine:
        assert "error" not in engine.history()[0]
        assert engine.reconciler().plan(engine.rollback_targets()).text()
