"""
A replay on a disk that refuses one write, whichever it is; what a replay says of GPUs that are as they were already; a journal
that is not for this user.
"""

import errno

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.host.real import RealHost
from gpuslice.records.journal import Journal
from tests.support import pillars
from tests.support.hosts import config
from tests.unit.boot.test_boot import H100
from tests.unit.boot.test_boot import HOPPER
from tests.unit.boot.test_boot import LAYOUT
from tests.unit.boot.test_boot import apply
from tests.unit.boot.test_boot import layouts
from tests.unit.boot.test_boot import replay

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


def rebooted(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    before = layouts(host)
    host.reboot()
    return host, before


def test_a_gpu_that_an_earlier_replay_brought_back_is_told_as_there_already(simulated):
    host, before = rebooted(simulated)
    host.add_fault({"call": CREATE, "gpu": H100[1], "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    assert replay(host)["result"] is False
    host.clear_faults()
    answer = replay(host)
    told = {address: next(line for line in answer["comment"].splitlines() if address in line) for address in H100}
    assert answer["result"] is True and layouts(host) == before
    assert told[H100[0]].endswith("there already.") and told[H100[1]].endswith("brought back.")
    assert set(answer["changes"]) == {H100[1]}


def test_any_write_that_fails_leaves_what_was_or_brings_all_back_and_is_told(simulated):
    """Up to the write that is beyond the last one: each is tried."""
    outcomes = []
    for number in range(1, 40):
        host, before = rebooted(simulated)
        bare = layouts(host)
        host.add_fault({"call": "store_write", "nth": number, "error": "ENOSPC"})
        try:
            answer = replay(host)
        except errors.StateDirUnusable as err:
            answer = {"result": False, "comment": str(err)}
        after = layouts(host)
        assert all(after[address] in (bare[address], before[address]) for address in after)
        with Engine(config(host)) as engine:
            assert Journal(engine.host).unfinished() is None
        told = " ".join([answer["comment"], *answer.get("warnings", [])])
        if host.state()["faults"][0]["seen"] < number:
            assert answer["result"] is True and after == before
            break
        outcomes.append((answer["result"], after == before))
        assert "No space left" in told, (number, answer)
    else:
        pytest.fail("a replay does not end writing")
    # The first one is before anything is done, and the last only notes that all is well.
    assert outcomes[0] == (False, False) and outcomes[-1] == (True, True)


class Closed(RealHost):
    """A host on which another user's run meets the state directory of root."""

    def store_load(self, path):
        raise PermissionError(errno.EACCES, "Permission denied", path)


def test_a_journal_that_this_user_may_not_read_is_no_damaged_one(tmp_path):
    """A damaged one is set aside by hand; for this one it takes root and nothing else."""
    with pytest.raises(errors.StateDirUnusable, match=r"can't be read \(Permission denied\)\. Run as root"):
        Journal(Closed(str(tmp_path))).unfinished()
