"""
Files of the state directory that are damaged in many ways: whatever is read back is checked like any other input, so each is a
sentence or does no harm, and nothing that a file says is stopped, started or written without having the right form.
"""

import copy
import json
import pathlib
import random
import shutil
import signal

import pytest
import yaml

from gpuslice import boot
from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.journal import Journal
from gpuslice.sim.host import SimulatedHost
from gpuslice.verified import Verified
from tests.functional import crash

GPU = "0000:1b:00.0"
JUNK = [None, True, -1, 0, 7, 1.5, float("nan"), 10**30, "", "x", "--help", "../../x", "\x1b[2J", [], [[]], ["x"], {}, {"x": 1}]
USES = {
    "plan": lambda engine, wanted: engine.plan(wanted).text(),
    "apply": lambda engine, wanted: engine.apply(wanted),
    "history": lambda engine, wanted: engine.history(),
    "undo the last": lambda engine, wanted: engine.reconciler().plan(engine.rollback_targets()),
    "roll back": lambda engine, wanted: engine.reconciler().plan(engine.rollback_targets(1)),
    "status": lambda engine, wanted: boot.status(engine),
    "replay": lambda engine, wanted: boot.replay(engine, wait=0),
    "forget": lambda engine, wanted: boot.forget(engine, GPU),
}


def pillar(profiles):
    return {
        "containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": profiles}},
        "containers_gpu_state_management": {"stop_units": ["dcgm.service"]},
    }


WANTED = pillar(["3g.40gb", "1g.10gb"])
OTHER = pillar(["2g.20gb"])


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, host_description):
    """A host with a history, a record, a count, a ledger, and a change that was killed: (configuration, copy of its state)."""
    place = tmp_path_factory.mktemp("interrupted")
    description = host_description(place, "dgx-h100", {"gpus": [{"model": "h100-80gb", "address": GPU}], "processes": []})
    host = SimulatedHost(str(description), str(place / "state"))
    config = {"simulate": host.description_path, "state_dir": host.state_dir}
    for wanted in (WANTED, OTHER):
        with Engine(config) as engine:
            assert engine.apply(wanted).ok
    boot.Attempts(host).begin(Verified(host).entries())
    boot.Attempts(host).ended(True, "as it was")
    host.store_write(f"{host.state_dir}/reboot.json", json.dumps({GPU: {"boot_id": "b", "why": "w", "reboots": 0}}))
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "after"})
    assert crash.apply_in_child(config, WANTED) == signal.SIGKILL
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
FILES += ["history/000001.json", "history/000002.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_sentence_or_no_harm(interrupted, name):
    drive(interrupted, name, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_damaged_in_three_hundred_ways_is_a_sentence_or_no_harm(interrupted, name):
    drive(interrupted, name, 300)


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
    layout = {"files": {name: "x"}, "ccs": {}, "engines": {}, "vram": {}}
    Verified(host).note({GPU: {"technique": "level-zero", "layout": layout, "awaits": None, "rules": {}}})
    with pytest.raises(errors.JournalDamaged, match="files is a text of another form"):
        Verified(host).entries()


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
    config = {"simulate": host.description_path, "state_dir": host.state_dir}
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
