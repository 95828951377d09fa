"""
A master and its minions: the first highstate, each node by its own pillar, two changes at once, and a batch with a failing node.
"""

import fcntl
import time
from collections import Counter

import pytest

from tests.fleet.conftest import PILLARS
from tests.fleet.conftest import changed
from tests.fleet.conftest import failed
from tests.fleet.conftest import planned

pytestmark = pytest.mark.slow

OTHER_PROFILES = {"2g.20gb": 2, "1g.10gb": 3}
CREATE_FAILS = {"faults": [{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "times": 0, "error": "NVML_ERROR_UNKNOWN"}]}


def mig_profiles(fleet, minion_id):
    """What the minion says is on each of its GPUs: ``{address: {profile: count}}``, GPUs without MIG devices left out."""
    found = {}
    for piece in fleet.salt(minion_id, "gpu.slices")[minion_id]:
        if piece["kind"] == "mig":
            found.setdefault(piece["gpu"], Counter())[piece["profile"]] += 1
    return found


def addresses(fleet, minion_id):
    """PCI addresses of the minion's GPUs."""
    return [device["address"] for device in fleet.salt(minion_id, "gpu.devices")[minion_id]]


def wanted(fleet, minion_id, profiles):
    """What :func:`mig_profiles` gives when every GPU carries these profiles."""
    return {address: Counter(profiles) for address in addresses(fleet, minion_id)}


def with_profiles(profiles):
    """The pillar of the node dgx with other profiles."""
    pillar = PILLARS["dgx-h100"]
    slicing = pillar["containers_gpu_slicing"]
    return {**pillar, "containers_gpu_slicing": {**slicing, "mig": {**slicing["mig"], "profiles": profiles}}}


@pytest.fixture
def converged(fleet):
    """The fleet with both minions at their pillars, whatever the test before left."""
    if not fleet.settled:
        fleet.set_pillar()
        answer = fleet.salt("dgx,mixed", "state.apply", options=("-L",))
        assert failed(answer["dgx"]) == []
        assert failed(answer["mixed"]) == []
        fleet.settled = True
    return fleet


@pytest.fixture
def own_pillar(fleet):
    """Whatever pillar a test sets, the next one finds the usual one."""
    yield fleet.set_pillar
    fleet.set_pillar()


def test_first_highstate_of_a_virgin_minion_does_everything(fleet, new_node):
    """
    What the first highstate can and can't do: it synchronises the loader files by itself, and its SLS see the new grain; but the
    top file was matched before that, so an SLS that is targeted by our own grain comes with the second highstate. Target the
    first run by minion id or by a grain from the minion configuration.
    """
    new_node("virgin", "dgx-h100")
    before = fleet.salt("virgin", "gpu.devices")["virgin"]
    first = fleet.salt("virgin", "state.apply")["virgin"]
    assert "not available" in before
    assert failed(first) == []
    assert changed(first) != []
    assert mig_profiles(fleet, "virgin") == wanted(fleet, "virgin", {"3g.40gb": 1, "1g.10gb": 2})
    assert "targeted by our own grain" not in {state["__id__"] for state in first.values()}

    second = fleet.salt("virgin", "state.apply")["virgin"]
    assert failed(second) == []
    assert changed(second) == []
    assert "targeted by our own grain" in {state["__id__"] for state in second.values()}


def test_each_node_follows_the_pillar_that_its_grain_picks(converged):
    assert mig_profiles(converged, "dgx") == wanted(converged, "dgx", {"3g.40gb": 1, "1g.10gb": 2})
    valid = {"result": True, "mistakes": []}
    assert converged.salt("dgx,mixed", "gpu_slicing.validate", options=("-L",)).data == {"dgx": valid, "mixed": valid}
    models = converged.salt("dgx,mixed", "grains.get", "gpu:models", options=("-L",))
    assert len(set(models["dgx"])) == 1
    assert len(set(models["mixed"])) == 3
    # The A100 keeps what it had and gets what is missing, the T4 has no MIG, the H100 has a rule of its own.
    assert list(mig_profiles(converged, "mixed").values()) == [Counter({"1g.10gb": 2, "3g.40gb": 1}), Counter({"7g.80gb": 1})]


def test_our_grain_targets_minions(converged):
    answer = converged.salt("gpu:capabilities:mig", "test.ping", options=("-G",))
    assert answer["dgx"] is True


def test_second_highstate_changes_nothing(converged):
    before = mig_profiles(converged, "dgx")
    answer = converged.salt("dgx,mixed", "state.apply", options=("-L",))
    assert changed(answer["dgx"]) == []
    assert changed(answer["mixed"]) == []
    assert mig_profiles(converged, "dgx") == before


def test_test_mode_tells_the_change_and_touches_nothing(converged, own_pillar):
    before = converged.salt("dgx", "gpu.slices")["dgx"]
    own_pillar(dgx_h100=with_profiles(OTHER_PROFILES))
    answer = converged.salt("dgx", "state.apply", "test=True")["dgx"]
    assert planned(answer) != []
    assert failed(answer) == []
    assert converged.salt("dgx", "gpu.slices")["dgx"] == before


def _lock_is_held(path):
    """Whether another process holds the host's lock."""
    try:
        with open(path, encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def test_two_changes_at_once_the_second_is_refused_by_name_and_nothing_breaks(fleet, new_node):
    # Each GPU takes its three instances one after the other, so the first change lasts longer than the second one's patience.
    node = new_node("busy", "dgx-h100", changes={"latency": {"create_gi": 3}})
    fleet.salt("busy", "saltutil.sync_all")
    first = fleet.start("busy", "gpu_slicing.apply")
    deadline = time.monotonic() + 60
    while not _lock_is_held(node.state_dir / "lock"):
        assert time.monotonic() < deadline and first.poll() is None, "the first change never took the lock"
        time.sleep(0.05)
    refused = fleet.salt("busy", "gpu_slicing.apply")
    done = fleet.finish(first)

    assert refused.retcode != 0
    assert "Another change" in str(refused["busy"])
    assert "pid" in str(refused["busy"])
    assert "Traceback" not in str(refused["busy"])
    assert done.retcode == 0, done.stdout
    assert mig_profiles(fleet, "busy") == wanted(fleet, "busy", {"3g.40gb": 1, "1g.10gb": 2})


def test_batch_with_a_failing_node_leaves_the_other_one_right(converged, own_pillar, new_node):
    new_node("broken", "dgx-h100", changes=CREATE_FAILS, gpu_host="dgx-h100")
    own_pillar(dgx_h100=with_profiles(OTHER_PROFILES))
    answer = converged.salt("broken,dgx", "state.apply", options=("-L", "-b", "1"))

    assert answer.retcode != 0
    assert failed(answer["broken"]) != []
    assert "Traceback" not in answer.stdout
    assert mig_profiles(converged, "broken") == {}
    assert failed(answer["dgx"]) == []
    assert mig_profiles(converged, "dgx") == wanted(converged, "dgx", OTHER_PROFILES)

    # Again, with an end at the first failure: nobody can know which node is first, but the good one is never half done.
    again = converged.salt("broken,dgx", "state.apply", options=("-L", "-b", "1", "--failhard"))
    assert again.retcode != 0
    assert failed(again["broken"]) != []
    assert mig_profiles(converged, "dgx") == wanted(converged, "dgx", OTHER_PROFILES)
