"""What docs/security.md, docs/operations.md and docs/usage.md say of rights, files, force and downgrades is so."""

import json
import os
import re
import stat

import pytest

from gpuslice.drivers import systemd
from gpuslice.host import holders
from gpuslice.records import history
from gpuslice.techniques.licence import client_token
from tests.conftest import ROOT
from tests.support import pages
from tests.support import pillars

SECURITY, OPERATIONS = pages.page("security"), pages.page("operations")
FORCE = pages.section("usage", "What `force` ends")


def test_a_minion_that_is_not_root_is_told_so(minion):
    on = minion("a30-pair", changes={"privileged": False}, pillar=pillars.mig(["1g.6gb"]))
    quoted = " ".join(line.removeprefix("> ") for line in SECURITY.splitlines() if line.startswith("> "))
    assert quoted in [state.comment for state in on.apply("gpu_slicing")]


def test_the_functions_that_are_named_as_reading_are_there_and_have_no_test_mode(minion):
    on = minion("dgx-h100")
    named = re.findall(r"^    (gpu|gpu_slicing)\.\((.+)\)$", SECURITY, re.M)
    assert [module for module, _ in named] == ["gpu", "gpu_slicing"]
    for module, names in named:
        known = on.call("sys.argspec", f"{module}.*")
        changing = {name for name, spec in known.items() if "test" in (spec["args"] or [])}
        reading = {f"{module}.{name}" for name in names.split("|")}
        assert reading <= set(known) - changing


def test_no_connection_is_opened_and_no_shell_is_started():
    sources = [path.read_text(encoding="utf-8") for folder in ("_utils", "_modules", "_states", "_grains")
               for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
    found = [re.findall(r"^\s*(?:import|from) (?:socket|ssl|http|urllib)\b|shell=True|os\.system|os\.popen", text, re.M)
             for text in sources]  # fmt: skip
    assert sum(found, []) == []


def test_files_have_the_modes_that_are_told(minion):
    on = minion("dgx-h100", pillar=pillars.mig(["3g.40gb"]))
    assert all(state.result for state in on.apply("gpu_slicing"))
    wanted = {"": 0o755, "lock": 0o600, "verified.json": 0o644, "history/000001.json": 0o644}
    assert {name: stat.S_IMODE(os.stat(on.state_dir / name).st_mode) for name in wanted} == wanted
    for mode in (client_token._MODE, client_token._KEPT_MODE):
        assert f"| {mode:04o}" in SECURITY


# -- force ---------------------------------------------------------------------------------------------------------------
def test_a_plan_with_force_is_the_one_that_is_shown(minion):
    on = minion("a30-pair", pillar=pillars.mig(["4g.24gb"], apply_strategy="force"))
    shown = [line[4:] for line in FORCE.splitlines() if line.startswith("      ")]
    text = on.call("gpu_slicing.plan")
    assert len(shown) == 4 and "\n".join(shown) in text


def test_the_times_of_force_are_those_that_are_told():
    asked, insisted = holders.PATIENCE
    assert f"SIGKILL if it is still there after {asked:g} s. If it is there {insisted:g} s later" in FORCE
    assert systemd.stop.__defaults__ == (60,) and "with 60 s for each" in FORCE


def test_a_process_that_stays_keeps_its_slice(minion):
    stays = {"pid": 4711, "command": "jupyter-lab", "gpu": "0000:41:00.0", "slice": "2g.12gb@0", "stubborn": True}
    on = minion("a30-pair", changes={"processes": [stays]}, pillar=pillars.mig(["4g.24gb"], apply_strategy="force"))
    before = on.call("gpu.slices", "0000:41:00.0")
    answer = on.call("gpu_slicing.apply")
    assert answer["result"] is False and "pid 4711 (jupyter-lab) did not end" in answer["comment"]
    assert on.call("gpu.slices", "0000:41:00.0") == before != []


# -- how much is kept, and a downgrade -----------------------------------------------------------------------------------
def test_what_is_kept_is_told(minion):
    on = minion("dgx-h100", pillar=pillars.mig({"1g.10gb": 7}))
    on.call("gpu_slicing.apply")
    size = (on.state_dir / "history" / "000001.json").stat().st_size
    assert f"the last {history.GENERATIONS} changes, less than 100 KiB each" in OPERATIONS and size < 100 * 1024


@pytest.fixture
def newer(minion):
    """A minion whose state directory a newer version has written: its layouts and its last change."""
    on = minion("dgx-h100", pillar=pillars.mig(["3g.40gb"]))
    assert on.call("gpu_slicing.apply")["result"] is True
    for name in ("verified.json", "history/000001.json"):
        path = on.state_dir / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "format": 99}), encoding="utf-8")
    return on


def test_the_long_way_of_a_downgrade(newer):
    on, kept = newer, newer.place / "kept"
    before = on.call("gpu.slices")
    # Step 2: each of the files that this version can't use is told.
    with pytest.raises(Exception, match="verified.json was written by a newer version"):
        on.call("gpu_boot.status")
    with pytest.raises(Exception, match="000001.json was written by a newer version"):
        on.call("gpu_slicing.rollback", 1)
    [told] = on.call("gpu_slicing.history")
    assert "000001.json was written by a newer version" in told["error"]
    # Steps 3 and 4.
    (kept / "history").mkdir(parents=True)
    for name in ("verified.json", "history/000001.json"):
        (on.state_dir / name).rename(kept / name)
    assert all(state.result for state in on.apply("gpu_slicing"))
    assert on.call("gpu.slices") == before != []
    assert json.loads((on.state_dir / "verified.json").read_text(encoding="utf-8"))["format"] == 2
    assert on.call("gpu_slicing.history") == []
