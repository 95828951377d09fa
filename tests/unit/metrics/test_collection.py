"""What is gathered: samples, what could not be read, and the status of health."""

import pytest

from gpuslice import errors
from gpuslice.metrics import gather
from gpuslice.metrics.collection import Collection
from gpuslice.metrics.collection import reason
from gpuslice.metrics.names import NAMES
from gpuslice.metrics.names import PREFIX
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.outputs import prometheus
from tests.support.metrics import parsed
from tests.support.metrics import unreadable

GPU = Gpu("0000:1b:00.0", "nvidia", "2330", model="NVIDIA H100", uuid="GPU-1")
PART = Slice(GPU.address, "mig", "1c.3g.40gb", "MIG-1", name=f"{GPU.address}-3g.40gb-4-0", instance=(5, 0))


class Reading:
    """One look at a board that has a slice."""

    slices, states, errors, made_by = (PART,), {}, {}, {PART.name: "mig"}


def series_of(found):
    return parsed(prometheus.text(found.families()))


def fail(err):
    raise err


@pytest.mark.parametrize(
    ("err", "word"),
    [
        (errors.DriverMissing("x"), "no-driver"),
        (errors.PermissionDenied("x"), "no-permission"),
        (errors.Unhealthy("x"), "not-answering"),
        (errors.DeviceNotFound("x"), "gone"),
        (errors.Unsupported("x"), "unsupported"),
        (errors.ToolHangs("x"), "tool-hangs"),
        (errors.JournalDamaged("x"), "journal-damaged"),
        (PermissionError(13, "x"), "no-permission"),
        (FileNotFoundError(2, "x"), "unreadable"),
    ],
)
def test_why_something_can_not_be_read_is_a_short_word(err, word):
    assert reason(err) == word
    found = Collection()
    assert found.tried("it", fail, err) is None
    assert unreadable(series_of(found)) == {("it", word): 1}


def test_what_nobody_foresaw_is_counted_and_told_in_one_line(caplog):
    found = Collection()
    found.tried("it", fail, RuntimeError("odd"))
    found.tried("it", fail, RuntimeError("odd"))
    assert unreadable(series_of(found)) == {("it", "unexpected"): 2}
    assert "RuntimeError: odd" in caplog.text and "Traceback" not in caplog.text


def test_who_asks_the_process_to_end_is_heard():
    with pytest.raises(errors.Interrupted):
        Collection().tried("it", fail, errors.Interrupted(15, "it ends"))


def test_nothing_is_no_sample():
    found = Collection()
    found.add("drift", {}, None)
    assert series_of(found) == {}


def test_every_name_has_a_unit_that_is_a_base_unit_and_a_sentence():
    for name, (kind, about) in NAMES.items():
        assert name.endswith("_total") == (kind == prometheus.COUNTER), name
        assert not any(unit in name for unit in ("_mib", "_mb", "_milli", "_percent", "_kwh")), name
        assert about.endswith(".") and not about[0].islower(), (PREFIX + name, about)


def test_a_compute_instance_is_joined_by_its_gpu_instance():
    board = gather.Board(GPU, Reading, {PART.name: "web"})
    known = board.labels_of(PART)
    assert (known["GPU_I_ID"], known["GPU_I_PROFILE"], known["consumer"]) == ("5", "3g.40gb", "web")


@pytest.mark.parametrize("status", ["ok", "degraded", "failed", "lost"])
def test_a_status_is_four_series_of_which_one_is_1(status):
    found = Collection()
    said = {"status": status, "action": "reset"}
    gather.tell_health(found, {GPU.address: {**said, "slices": {PART.name: said}}}, [gather.Board(GPU, Reading, {})])
    series = series_of(found)
    for name in ("board_health", "slice_health"):
        assert {labels["status"]: value for labels, value in series[name]} == {
            each: int(each == status) for each in ("ok", "degraded", "failed", "lost")
        }
    assert [labels["action"] for labels, _ in series["board_health_action"]] == ["reset"]


def test_a_status_that_nobody_knows_is_none():
    found, said = Collection(), {GPU.address: {"status": "odd"}}
    gather.tell_health(found, said, [gather.Board(GPU, Reading, {})])
    assert unreadable(series_of(found)) == {("health", "unknown"): 1}


def test_a_board_that_fell_off_the_bus_is_told_by_its_address():
    found, said = Collection(), {"0000:43:00.0": {"status": "lost", "action": "reboot", "slices": {}}}
    gather.tell_health(found, said, [gather.Board(GPU, Reading, {})])
    [lost] = [labels for labels, value in series_of(found)["board_health"] if value]
    assert (lost["pci_bus_id"], lost["pci_bus_id_long"], lost["status"]) == ("0000:43:00.0", "00000000:43:00.0", "lost")


def test_where_nothing_has_to_be_done_no_action_is_told():
    found = Collection()
    said = {GPU.address: {"status": "ok", "action": "none", "slices": {}}}
    gather.tell_health(found, said, [gather.Board(GPU, Reading, {})])
    assert "board_health_action" not in series_of(found)
