"""The timer that writes metrics: set up, moved, found old, taken away, and gone when a host is given up."""

import pathlib

import pytest

from gpuslice import cleaning
from gpuslice import errors
from gpuslice import metrics
from gpuslice.engine import Engine
from gpuslice.metrics import export
from gpuslice.metrics import unit
from tests.support import pillars
from tests.support.cleaned import records
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.metrics import parsed

SERVICE, TIMER = (unit.path_of(name) for name in export.UNITS)


def pillar(path, interval=15):
    return {"containers_gpu_state_management": {"metrics": {"textfile": str(path), "interval_seconds": interval}}}


def enable(host, path, interval=15, test=False):
    with Engine(config(host)) as engine:
        return metrics.enable(engine, config(host), pillar(path, interval), test=test)


def disable(host, test=False):
    with Engine(config(host)) as engine:
        return metrics.disable(engine, test)


def status(host):
    with Engine(config(host)) as engine:
        return metrics.status(engine)


@pytest.fixture
def host(simulated):
    return simulated("l4-pair")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "textfile" / "gpuslice.prom"


@pytest.fixture
def exported(host, path):
    """A host whose metrics are written."""
    assert enable(host, path)["result"]
    return host


# -- set up ----------------------------------------------------------------------------------------------------------------
def test_a_test_says_what_would_be_done_and_does_nothing(host, path):
    answer = enable(host, path, test=True)
    assert answer["changes"] == {
        unit.TIMER: {"old": "absent", "new": "enabled, current, active"}, str(path): {"old": "absent", "new": "written"}
    }  # fmt: skip
    assert "result" not in answer and not path.parent.exists() and host.state()["written"] == {} and records(host) == []


def test_it_is_set_up_once(host, path):
    tested = enable(host, path, test=True)
    answer = enable(host, path)
    assert answer["result"] and answer["changes"] == tested["changes"]
    assert len(parsed(path.read_text(encoding="utf-8"))["board_info"]) == 2
    assert {SERVICE, TIMER, unit.WANTED} == set(host.state()["written"])
    before = host.state()["starts"], path.read_bytes()
    assert enable(host, path) == {
        "result": True, "changes": {}, "comment": f"Metrics are written to {path} every 15 s."
    }  # fmt: skip
    assert (host.state()["starts"], path.read_bytes()) == before
    assert enable(host, path, test=True)["changes"] == {}


def test_what_is_written_is_told(exported, path):
    found = status(exported)
    assert found["enabled"] and found["active"] and found["textfile"] == str(path)
    assert found["written"] and 0 <= found["age_seconds"] < 60
    assert all(each["present"] for each in found["units"].values())


def test_where_nothing_is_written_that_is_told(host):
    found = status(host)
    assert not found["enabled"] and not found["active"] and found["textfile"] is found["written"] is found["age_seconds"] is None


def test_another_interval_is_set_and_counts_from_now(exported, path):
    started = exported.state()["starts"][unit.TIMER]
    answer = enable(exported, path, 30)
    assert answer["changes"] == {unit.TIMER: {"old": "enabled, outdated, active", "new": "enabled, current, active"}}
    assert "OnUnitActiveSec=30\n" in exported.state()["written"][TIMER]
    assert exported.state()["starts"][unit.TIMER] == started + 1


def test_a_file_that_moves_leaves_none_behind(exported, path, tmp_path):
    other = tmp_path / "other" / "gpu.prom"
    answer = enable(exported, other)
    assert answer["result"] and answer["changes"][str(path)] == {"old": "written", "new": "absent"}
    assert other.is_file() and not path.exists() and status(exported)["textfile"] == str(other)


def test_a_file_that_grows_old_though_the_timer_runs_is_a_failure_with_a_place_to_look(exported, path):
    exported.let_pass(61)
    with pytest.raises(errors.ValidationFailed, match=r"was written 6\d s ago.*journalctl -u gpu-slicing-metrics.service"):
        enable(exported, path)


def test_a_file_that_is_gone_though_the_timer_runs_is_a_failure_too(exported, path):
    path.unlink()
    with pytest.raises(errors.ValidationFailed, match="is not there, or can't be read"):
        enable(exported, path)


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_from_before_a_boot_is_given_the_time_of_a_first_run(exported, path, kept):
    if not kept:
        path.unlink()
    off = exported.monotonic() + 86400
    exported.let_pass(-exported.monotonic() + 20)
    exported.set_clock(off)
    assert enable(exported, path)["result"]
    exported.let_pass(61)
    with pytest.raises(errors.ValidationFailed, match=r"was written \d+ s ago" if kept else "is not there"):
        enable(exported, path)


@pytest.mark.parametrize(
    ("at", "told"), [("4e9", "is of a time to come, 2096-"), ("1e30", "can't be read"), ("9e99", "can't be read")]
)
def test_a_file_that_a_wrong_clock_dated_is_no_fresh_one(exported, path, at, told):
    path.write_text(f"gpuslice_last_run_timestamp_seconds {at}\n", encoding="utf-8")
    with pytest.raises(errors.ValidationFailed, match=told):
        enable(exported, path)
    assert (status(exported)["written"] is None) == ("read" in told)


def test_a_timer_that_was_stopped_is_started_again(exported, path):
    exported.run(["systemctl", "stop", unit.TIMER])
    exported.let_pass(3600)
    answer = enable(exported, path)
    assert answer["changes"] == {unit.TIMER: {"old": "enabled, current, stopped", "new": "enabled, current, active"}}
    assert status(exported)["age_seconds"] < 60


def test_the_timer_starts_with_the_next_boot(exported):
    exported.reboot()
    assert status(exported)["active"]


def test_units_that_somebody_changed_are_written_anew(exported, path):
    with exported.change() as state:
        state["written"][SERVICE] += "Environment=X=1\n"
    assert enable(exported, path)["changes"] == {
        unit.TIMER: {"old": "enabled, outdated, active", "new": "enabled, current, active"}
    }  # fmt: skip
    assert "X=1" not in exported.state()["written"][SERVICE]


# -- what fails ------------------------------------------------------------------------------------------------------------
def test_a_place_that_can_not_be_written_sets_nothing_up(host, path):
    path.mkdir(parents=True)
    with pytest.raises(errors.StateDirUnusable, match="could not be written"):
        enable(host, path)
    assert host.state()["written"] == {} and records(host) == []


def test_a_host_without_systemd_is_told_what_to_do_instead(simulated, path):
    host = simulated("l4-pair", tools=["lspci"])
    with pytest.raises(errors.ToolMissing, match=r"no systemctl.*python -m gpuslice.metrics"):
        enable(host, path)


@pytest.mark.parametrize(
    ("call", "nth"), [("store_write", 2), ("store_write", 3), ("store_write", 4), ("run", 1), ("run", 2), ("run", 3)]
)
def test_what_fails_on_the_way_is_told_and_another_try_ends_it(host, path, call, nth):
    host.add_fault({"call": call, "nth": nth, "error": "EIO"})
    with pytest.raises(errors.GpuSliceError) as caught:
        enable(host, path)
    assert "Traceback" not in str(caught.value)
    assert enable(host, path)["result"] and enable(host, path)["changes"] == {}


@pytest.mark.parametrize(
    "written", ["{", '{"format": 1, "textfile": "/etc/passwd"}', '{"format": 1}', '{"format": 9, "textfile": "/x.prom"}']
)
def test_a_record_that_is_damaged_removes_no_file(exported, path, written):
    pathlib.Path(exported.state_dir, "metrics.json").write_text(written, encoding="utf-8")
    assert disable(exported)["result"]
    assert path.exists() and not exported.state()["written"]


@pytest.mark.parametrize("said", [{"textfile": "/x/y.txt"}, {"interval_seconds": 1}, {"textfile": 7}, {"odd": 1}])
def test_a_wrong_pillar_is_refused(host, said):
    with Engine(config(host)) as engine, pytest.raises(errors.PolicyError):
        metrics.enable(engine, config(host), {"containers_gpu_state_management": {"metrics": said}})
    assert host.state()["written"] == {}


def test_what_is_given_by_hand_needs_no_pillar_that_is_right(host, path):
    with Engine(config(host)) as engine:
        assert metrics.enable(engine, config(host), {"containers_gpu_slicing": 7}, str(path), 20)["result"]
        with pytest.raises(errors.PolicyError, match="containers_gpu_slicing"):
            metrics.enable(engine, config(host), {"containers_gpu_slicing": 7}, str(path))


def test_an_argument_that_is_wrong_is_called_by_its_own_name(host, path):
    with Engine(config(host)) as engine:
        for given, name in (((str(path), 3), "interval_seconds"), (("/x/y.txt", None), "textfile")):
            with pytest.raises(errors.PolicyError) as caught:
                metrics.enable(engine, config(host), {}, *given)
            assert str(caught.value).startswith(f"{name}: is ") and "pillar" not in str(caught.value)
    assert host.state()["written"] == {}


# -- taken away ------------------------------------------------------------------------------------------------------------
def test_it_is_taken_away_once(exported, path):
    tested = disable(exported, test=True)
    assert path.exists() and "result" not in tested
    answer = disable(exported)
    assert answer["result"] and answer["changes"] == tested["changes"] == {
        name: {"old": "present", "new": "absent"} for name in (*export.UNITS, str(path))
    }  # fmt: skip
    assert not path.exists() and exported.state()["written"] == {} and records(exported) == []
    assert disable(exported)["changes"] == {}


def test_a_host_that_is_given_up_writes_no_metrics_any_more(simulated, path):
    host = simulated("dgx-h100", processes=[])
    assert apply(host, pillars.mig(["1g.10gb"])).ok and enable(host, path)["result"]
    with Engine(config(host)) as engine:
        tested = cleaning.clean(engine, {}, test=True)
    assert {*export.UNITS, str(path)} <= set(tested["changes"]) and path.exists()
    with Engine(config(host)) as engine:
        answer = cleaning.clean(engine, {})
    assert answer["result"] and {*export.UNITS, str(path)} <= set(answer["changes"]), answer
    assert not path.exists() and records(host) == []
    assert not [name for name in host.state()["written"] if "metrics" in name]


def test_a_host_whose_gpus_nobody_changed_gives_its_metrics_up_too(exported, path):
    with Engine(config(exported)) as engine:
        assert cleaning.clean(engine, {})["result"]
    assert not path.exists() and records(exported) == [] and exported.state()["written"] == {}
