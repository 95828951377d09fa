"""One JSON file of ours: its format, how an older one is brought up, and that a newer one is neither believed nor overwritten."""

import json
import os
import pathlib

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.records.attempts import Attempts
from gpuslice.records.history import History
from gpuslice.records.journal import Journal
from gpuslice.records.reboot import RebootLedger
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.records.verified import Verified
from gpuslice.records.verified import entry
from gpuslice.techniques.partition.notes import Notes
from tests.support import hosts
from tests.support import pillars

GPU, OTHER = "0000:07:00.0", "0000:0f:00.0"
KEY = Key(GPU, "mig")
MIG = {"enabled": True, "instances": [["1g.5gb", 0, [["1g.5gb", 0]]]]}
LICENCE = {"license": {"server": "lic.example", "port": "7070", "feature": "", "token": "", "service": True}}
DAMAGED = [b"", b"{", b"\x00" * 64, b"\xff\xfe", b"[]", b"null", b"3", b'"text"', b"[" * 100000]


@pytest.fixture
def host(tmp_path):
    return RealHost(str(tmp_path / "state"))


def place(host, name):
    return pathlib.Path(host.state_dir, name)


def put(host, name, data):
    """Put a file into the state directory. Returns its path."""
    path = place(host, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


# -- the store itself ----------------------------------------------------------------------------------------------------
def number_of(data):
    if not isinstance(data.get("number"), int):
        raise ValueError("its number is none")


def thing(host, number=3, **more):
    """A file that had a word in format 0, its length in 1, a list of that in 2, and has the number in 3."""
    upgrades = {
        0: lambda found: {"length": len(found["word"])},
        1: lambda found: {"lengths": [found["length"]]},
        2: lambda found: {"number": found["lengths"][0]},
    }
    return Record(host, "thing.json", "the thing", number, number_of, upgrades, **more)


@pytest.mark.parametrize(
    "data", [{"word": "abc"}, {"format": 1, "length": 3}, {"format": 2, "lengths": [3]}, {"format": 3, "number": 3}]
)
def test_an_older_format_is_brought_up_one_format_after_another(host, data):
    path = put(host, "thing.json", data)
    assert thing(host).read()["number"] == 3
    assert json.loads(path.read_text()) == data, "who reads writes nothing"


def test_what_is_written_tells_its_format(host):
    thing(host).write({"number": 5})
    assert json.loads(place(host, "thing.json").read_text()) == {"format": 3, "number": 5}
    assert thing(host).read()["number"] == 5
    thing(host, compact=True).write({"number": 6})
    assert place(host, "thing.json").read_text() == '{"format": 3, "number": 6}\n'
    thing(host).remove()
    thing(host).remove()
    with pytest.raises(FileNotFoundError):
        thing(host).read()


def test_who_need_not_have_a_record_says_alone_what_one_that_is_of_no_use_comes_to(host):
    def unusable(err):
        return errors.StateDirUnusable(f"no use: {reason(err)}")

    assert thing(host).read_if_there(unusable) is None
    put(host, "thing.json", {"format": 3, "number": 3})
    assert thing(host).read_if_there(unusable)["number"] == 3
    put(host, "thing.json", {"format": 3, "number": "three"})
    with pytest.raises(errors.StateDirUnusable, match="no use: its number is none"):
        thing(host).read_if_there(unusable)
    put(host, "thing.json", {"format": 4, "number": 3})
    with pytest.raises(errors.NewerFormat):
        thing(host).read_if_there(unusable)
    place(host, "thing.json").unlink()
    place(host, "thing.json").mkdir()
    with pytest.raises(errors.StateDirUnusable, match="no use: it is no regular file$"):
        thing(host).read_if_there(unusable)


def test_a_newer_format_is_refused_with_both_numbers_and_what_to_do(host):
    path = put(host, "thing.json", {"format": 4, "number": 3})
    with pytest.raises(errors.NewerFormat) as caught:
        thing(host).read()
    text = str(caught.value)
    assert str(path) in text and "the thing has format 4, and this version knows 3" in text and "newer version" in text
    assert "Install that version again" in text and "gpu_slicing.recover" in text
    assert isinstance(caught.value, errors.StateDirUnusable)


@pytest.mark.parametrize("number", ["1", 1.0, True, None, [1], -1, {}])
def test_a_format_that_is_no_number_is_damage(host, number):
    put(host, "thing.json", {"format": number, "number": 3})
    with pytest.raises(ValueError, match="its format is no number"):
        thing(host).read()


def test_a_format_that_can_not_be_brought_up_is_damage(host):
    put(host, "thing.json", {"number": 3})
    with pytest.raises(ValueError, match="another form than this version writes"):
        Record(host, "thing.json", "the thing", 1, number_of).read()


@pytest.mark.parametrize(
    "data", [{}, {"word": 3}, {"format": 1}, {"format": 2, "lengths": 3}, {"format": 2, "lengths": {"a": 1}}]
)
def test_an_older_format_of_another_form_is_damage_and_told_without_pythons_words(host, data):
    put(host, "thing.json", data)
    with pytest.raises(ValueError, match=r"^it has another form than this version writes$"):
        thing(host).read()


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"text"'])
def test_what_is_no_mapping_is_damage(host, content):
    put(host, "thing.json", content)
    with pytest.raises(ValueError, match="it is no mapping"):
        thing(host).read()


def test_what_was_brought_up_is_checked_too(host):
    put(host, "thing.json", {"format": 2, "lengths": ["three"]})
    with pytest.raises(ValueError, match="its number is none"):
        thing(host).read()


# -- what has such files ---------------------------------------------------------------------------------------------------
READERS = {
    "journal.json": lambda host: Journal(host).unfinished(),
    "history/000001.json": lambda host: History(host).generation(1),
    "verified.json": lambda host: Verified(host).entries(),
    "reboot.json": lambda host: RebootLedger(host).waiting(GPU),
    "boot.json": lambda host: Attempts(host).last(),
    "partition.json": lambda host: Notes(host).unloaded,
}
WRITERS = {
    "verified.json": [
        lambda host: Verified(host).note({KEY: entry([GPU], MIG, 1.0)}),
        lambda host: Verified(host).differs({KEY: entry([GPU], MIG, 1.0)}),
        lambda host: Verified(host).forget([KEY]),
    ],
    "reboot.json": [lambda host: RebootLedger(host).add(GPU, "why"), lambda host: RebootLedger(host).remove([GPU])],
    "boot.json": [
        lambda host: Attempts(host).begin({KEY: entry([GPU], MIG, 1.0)}),
        lambda host: Attempts(host).withdraw([KEY], 1.0),
        lambda host: Attempts(host).succeeded([KEY]),
        lambda host: Attempts(host).counts([KEY]),
        lambda host: Attempts(host).ended(True, "well"),
    ],
    "partition.json": [
        lambda host: Notes(host).request([GPU], "NPS4"),
        lambda host: Notes(host).unload({GPU: "CPX"}),
        lambda host: Notes(host).loaded(),
    ],
}


@pytest.mark.parametrize("name", READERS)
def test_each_record_of_a_newer_version_is_refused(host, name):
    path = put(host, name, {"format": 99})
    with pytest.raises(errors.NewerFormat, match="has format 99") as caught:
        READERS[name](host)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "write"), [(name, write) for name, writes in WRITERS.items() for write in writes])
def test_no_record_of_a_newer_version_is_overwritten(host, name, write):
    path = put(host, name, {"format": 99, "more": "than we know"})
    before = path.read_bytes()
    with pytest.raises(errors.NewerFormat):
        write(host)
    assert path.read_bytes() == before


def test_a_generation_of_a_newer_version_hides_no_other_and_numbers_go_on(host):
    path = put(host, "history/000001.json", {"format": 99})
    assert History(host).record({"who": "a"}) == 2
    first, second = History(host).all()
    assert first["generation"] == 1 and "has format 99" in first["error"] and second["who"] == "a"
    assert json.loads(path.read_text()) == {"format": 99}


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_a_sentence_or_nothing(host, name, content):
    put(host, name, content)
    try:
        READERS[name](host)
    except errors.JournalDamaged as err:
        assert name.split("/")[0].removesuffix(".json") in str(err)  # noqa: PT017 - some records do without


def files(host):
    """Every file of a state directory with what it says; not the lock, and not the simulated machine."""
    walked = [(folder, names) for folder, _, names in os.walk(host.state_dir) if "simulated" not in folder]
    found = [os.path.join(folder, name) for folder, names in walked for name in names if name != "lock"]
    return {path: pathlib.Path(path).read_bytes() for path in found}


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("history/000001.json", "partition.json")])
def test_a_run_that_finds_all_as_wanted_overwrites_no_record_of_a_newer_version(simulated, name):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU}], processes=[])
    wanted = pillars.mig(["1g.10gb"])
    assert hosts.apply(host, wanted).ok
    put(host, name, {"format": 99})
    before = files(host)
    try:
        assert hosts.apply(host, wanted).plan.empty
    except errors.NewerFormat as err:
        assert name in str(err)  # noqa: PT017 - what a converged run does not need keeps it from nothing
    assert files(host) == before


@pytest.mark.parametrize("name", ["journal.json", "reboot.json", "partition.json"])
def test_nothing_is_changed_where_a_record_that_a_change_goes_by_is_of_a_newer_version(simulated, name):
    """What is verified, and what was tried at boots, no change goes by: it is told, and the file is left as it is."""
    host = simulated("mi300x-8", processes=[])
    put(host, name, {"format": 99})
    before, hardware = files(host), host.state()["gpus"]
    with pytest.raises(errors.NewerFormat, match=name):
        hosts.apply(host, pillars.partition("CPX"))
    assert (files(host), host.state()["gpus"]) == (before, hardware)


@pytest.mark.parametrize("name", ["verified.json", "boot.json"])
def test_a_change_tells_of_a_record_of_a_newer_version_and_leaves_it(simulated, name):
    host = simulated("mi300x-8", processes=[])
    path = put(host, name, {"format": 99})
    result = hosts.apply(host, pillars.partition("CPX"))
    assert result.ok and "has format 99" in " ".join(result.warnings)
    assert json.loads(path.read_text()) == {"format": 99}


# -- what older versions wrote ---------------------------------------------------------------------------------------------
def test_layouts_verified_in_format_1_are_by_key_now(host):
    said = {"technique": "mig", "model": "A100", "layout": MIG, "time": 5.0, "generation": 3, "awaits": None, "rules": {}}
    put(host, "verified.json", {"format": 1, "gpus": {GPU: said, OTHER: {"technique": "mig", "layout": MIG}}})
    found = Verified(host).entries()
    assert found[KEY] == entry([GPU], MIG, 5.0, 3, "A100")
    assert found[Key(OTHER, "mig")] == entry([OTHER], MIG, 0)
    Verified(host).note({KEY: entry([GPU], {"enabled": False, "instances": []}, 6.0)})
    written = json.loads(place(host, "verified.json").read_text())
    assert written["format"] == 2 and sorted(written["layouts"]) == [f"mig:{GPU}", f"mig:{OTHER}"]


def test_what_is_verified_already_in_format_1_is_not_written_again(host):
    path = put(host, "verified.json", {"format": 1, "gpus": {GPU: {"technique": "mig", "layout": MIG}}})
    before = path.read_bytes()
    Verified(host).note({KEY: entry([GPU], MIG, 6.0)})
    assert path.read_bytes() == before


def test_the_licence_that_each_vgpu_of_a_guest_had_is_the_guests_now(host):
    told = {"technique": "vgpu", "layout": LICENCE, "model": "L4"}
    put(host, "verified.json", {"format": 1, "gpus": {GPU: told, OTHER: told}})
    assert Verified(host).entries() == {Key(HOST, "licence"): entry([GPU, OTHER], LICENCE, 0, model="L4")}
    put(host, "history/000001.json", {"before": {GPU: LICENCE, OTHER: LICENCE}, "techniques": {GPU: "vgpu", OTHER: "vgpu"}})
    found = History(host).generation(1)
    assert found["before"] == {"licence:host": LICENCE} and found["addresses"] == {"licence:host": [GPU, OTHER]}


@pytest.mark.parametrize("gpus", [None, 3, [GPU], {GPU: None}, {GPU: {"layout": MIG}}, {GPU: {"technique": 3, "layout": MIG}},
                                  {GPU: {"technique": "mig"}}, {"rubbish": {"technique": "mig", "layout": MIG}}])  # fmt: skip
def test_layouts_of_format_1_of_another_form_are_damaged(host, gpus):
    put(host, "verified.json", {"format": 1, "gpus": gpus})
    with pytest.raises(errors.JournalDamaged, match="writes the record anew"):
        Verified(host).entries()


@pytest.mark.parametrize(
    ("key", "addresses", "layout"),
    [
        ("mig:host", [GPU], MIG),
        (f"licence:{GPU}", [GPU], LICENCE),
        (f"mig:{GPU}", [OTHER], MIG),
        (f"mig:{GPU}", [GPU, OTHER], MIG),
        (f"mig:{GPU}", [], MIG),
        ("licence:host", [GPU, GPU], LICENCE),
        ("licence:host", [], LICENCE),
    ],
)
def test_a_key_that_can_not_cover_these_gpus_is_damage(host, key, addresses, layout):
    put(host, "verified.json", {"format": 2, "layouts": {key: {"addresses": addresses, "layout": layout}}})
    with pytest.raises(errors.JournalDamaged, match=f"{key} "):
        Verified(host).entries()


def test_a_generation_of_format_0_is_by_key_now(host):
    layouts = {"before": {GPU: {"enabled": False, "instances": []}}, "after": {GPU: MIG}}
    put(host, "history/000001.json", {"generation": 1, "who": "a", "techniques": {GPU: "mig"}, **layouts})
    assert History(host).all() == [
        {"generation": 1, "who": "a", "before": {f"mig:{GPU}": layouts["before"][GPU]}, "after": {f"mig:{GPU}": MIG},
         "addresses": {f"mig:{GPU}": [GPU]}, "times": []}
    ]  # fmt: skip


@pytest.mark.parametrize(("techniques", "why"), [({}, f"by what GPU {GPU} was sliced"), ({OTHER: "mig"}, "by what GPU"),
                                                 (3, "another form"), (None, "another form"), ({GPU: [1]}, "form")])  # fmt: skip
def test_a_generation_of_format_0_that_does_not_tell_its_technologies_is_damaged(host, techniques, why):
    put(host, "history/000001.json", {"before": {GPU: MIG}, "techniques": techniques})
    with pytest.raises(errors.JournalDamaged, match=why):
        History(host).generation(1)


def test_the_list_of_gpus_that_wait_and_the_count_of_replays_are_brought_up(host):
    put(host, "reboot.json", {GPU: {"boot_id": host.boot_id(), "why": "MIG mode", "reboots": 0}})
    assert RebootLedger(host).waiting(GPU) and not RebootLedger(host).waiting(OTHER)
    last = {"time": 5.0, "boot_id": "b", "result": True, "comment": "well"}
    put(host, "boot.json", {"tried": {GPU: {"digest": "0f", "times": [1.0]}}, "last": last})
    assert Attempts(host).last() == last and not Attempts(host).counts([KEY])


def test_the_notes_on_partition_modes_of_format_0_still_hold(host):
    put(host, "partition.json", {"boot_id": host.boot_id(), "requested": {GPU: "NPS4"}, "unloaded": True, "kept": {OTHER: "CPX"}})
    notes = Notes(host)
    assert notes.requested(GPU) == "NPS4" and notes.unloaded and notes.kept == {OTHER: "CPX"}
    notes.loaded(keep_requests=True)
    assert json.loads(place(host, "partition.json").read_text())["format"] == 1
