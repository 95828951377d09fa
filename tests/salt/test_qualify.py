"""
``gpu_slicing.qualify`` as it is typed.
"""

import json
import os
import pathlib

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import pages

MI300X = "0000:05:00.0"


def test_it_says_first_what_it_would_do(minion):
    """In the words of the documentation."""
    box = minion("mi300x-8")
    for asked in ({}, {"confirm": True, "test": True}):
        answer = box.call("gpu_slicing.qualify", MI300X, **asked)
        assert answer["changes"] == {} and "result" not in answer
        assert answer["comment"].splitlines() == pages.printed("gpu_slicing.qualify \"'0000:05:00.0'\"")
    assert not (box.state_dir / "qualify").exists()


def test_it_tries_the_gpu_and_leaves_a_report(minion):
    box = minion("mi300x-8")
    answer = box.call("gpu_slicing.qualify", MI300X, confirm=True)
    assert answer["result"] is True
    assert answer["changes"] == {"report": {"old": "", "new": answer["report"]}}
    report = json.loads(pathlib.Path(answer["report"]).read_text(encoding="utf-8"))
    assert report["format"] == 1 and report["simulated"] is True and report["gpu"]["catalog"] == "mi300x"
    assert os.path.dirname(answer["report"]) == str(box.state_dir / "qualify")
    assert "partition modes: 3 ok, 3 not tried" in answer["comment"]
    assert box.call("gpu_slicing.history") == []


def test_it_refuses_in_a_sentence(minion):
    with pytest.raises(CommandExecutionError) as caught:
        minion("a30-pair").call("gpu_slicing.qualify", "0000:41:00.0", confirm=True)
    assert str(caught.value) == (
        "GPU 0000:41:00.0: It is in use by pid 4711 (jupyter-lab). Name a GPU that can be spared. "
        "What may be stopped for it is named in containers_gpu_state_management:stop_units."
    )
