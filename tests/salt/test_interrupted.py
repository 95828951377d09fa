"""
A change that did not end, through Salt's loaders: everybody who looks sees it, and it can be dealt with by hand.
"""

import signal

import pytest
from salt.exceptions import CommandExecutionError

from tests.engine.test_interrupted import KILL
from tests.engine.test_interrupted import SAYS
from tests.engine.test_interrupted import gpus_of
from tests.support import pillars
from tests.support.a100 import AFTER
from tests.support.a100 import FIRST
from tests.support.a100 import NEW
from tests.support.a100 import OLD
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import shapes


@pytest.fixture
def half_minion(minion):
    """A minion on whose host a change was killed half way, with one GPU between two layouts."""
    made = minion("dgx-a100-40gb", changes={"gpus": TRIO, "faults": [KILL]})
    assert in_child(lambda: apply(made.host, pillars.mig(AFTER))) == signal.SIGKILL
    made.host.clear_faults()
    return made


def test_every_reader_tells_of_it(half_minion):
    gpu = half_minion
    assert all(any(SAYS in line and "gpu_slicing.recover" in line for line in lines) for lines in gpu.call("gpu.health").values())
    assert any(SAYS in line for line in gpu.call("gpu.health", SECOND)[SECOND])
    assert all(SAYS in drawing for drawing in gpu.call("gpu.map").values())
    assert SAYS in gpu.call("gpu.table").splitlines()[-1]
    entry = gpu.call("gpu_slicing.history")[-1]
    assert entry["result"] == "interrupted" and "generation" not in entry and "gpu_slicing.recover" in entry["errors"][0]
    assert any(SAYS in line for line in gpu.call("gpu_boot.status")["warnings"])
    assert SAYS in gpu.call("gpu_slicing.plan")
    gpu.reload()
    assert gpu.grains["gpu"]["interrupted"] is True


def test_once_it_is_dealt_with_nobody_tells_of_it(half_minion):
    gpu = half_minion
    assert gpu.call("gpu_slicing.recover")["result"] is True
    assert not any(SAYS in " ".join(lines) for lines in gpu.call("gpu.health").values())
    assert not any(SAYS in drawing for drawing in gpu.call("gpu.map").values())
    assert SAYS not in gpu.call("gpu.table") and not any(SAYS in line for line in gpu.call("gpu_boot.status")["warnings"])
    gpu.reload()
    assert gpu.grains["gpu"]["interrupted"] is False


def test_recover_undoes_it(half_minion):
    gpu = half_minion
    before = gpus_of(gpu.host)
    shown = gpu.call("gpu_slicing.recover", test=True)
    assert "result" not in shown and gpus_of(gpu.host) == before and SAYS in shown["comment"]
    done = gpu.call("gpu_slicing.recover")
    assert done["result"] is True and done["changes"].keys() == shown["changes"].keys(), done
    assert shapes(gpu.host) == dict.fromkeys((FIRST, SECOND, THIRD), OLD) and closed(gpu.host)
    assert gpu.call("gpu_slicing.history")[-1]["result"] == "undid an interrupted change"
    assert gpu.call("gpu_slicing.recover")["comment"] == "No change was interrupted on this host."


def test_recover_finishes_it(half_minion):
    gpu = half_minion
    before = gpus_of(gpu.host)
    shown = gpu.call("gpu_slicing.recover", "finish", test=True)
    assert "result" not in shown and gpus_of(gpu.host) == before and "this run finishes it" in shown["comment"]
    done = gpu.call("gpu_slicing.recover", "finish")
    assert done["result"] is True, done
    assert shapes(gpu.host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW) and closed(gpu.host)


@pytest.mark.parametrize("how", ["redo", "", None, 1, True])
def test_recover_knows_two_words(half_minion, how):
    with pytest.raises(CommandExecutionError, match="undo"):
        half_minion.call("gpu_slicing.recover", how)
    assert not closed(half_minion.host)
