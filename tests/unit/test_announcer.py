"""Events that are sent by a thread of their own: in order, in a bounded time, or not at all."""

import logging
import threading

import pytest

from gpuslice import front
from gpuslice.announcer import Announcer

TAG = "gpu_slicing/a/change"


def told(announcer, steps=3, last="end"):
    announcer("begin", {"n": 0})
    for number in range(steps):
        announcer("step", {"n": number})
    announcer(last, {"n": 9})


@pytest.mark.parametrize("last", ["end", "failed"])
def test_what_is_told_is_sent_in_order_before_the_change_is_over(last):
    sent = []
    told(Announcer(lambda tag, fields: sent.append((tag, fields["n"])), TAG), last=last)
    assert sent == [(f"{TAG}/begin", 0), *((f"{TAG}/step", number) for number in range(3)), (f"{TAG}/{last}", 9)]
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu slicing events" and not thread.daemon]


@pytest.mark.parametrize("broken", [lambda *_: False, lambda *_: 1 / 0])
def test_a_bus_that_is_gone_is_asked_once_and_told_of_once(broken, caplog):
    asked = []
    announcer = Announcer(lambda *event: asked.append(event) or broken(), TAG)
    with caplog.at_level(logging.WARNING):
        told(announcer)
        told(announcer)
    assert len(asked) == 1 and len(caplog.records) == 1 and "not there" in caplog.text


def test_a_bus_that_never_answers_holds_nobody(caplog):
    answers = threading.Event()
    announcer = Announcer(lambda *_: answers.wait(30), TAG, patience=0.02)
    with caplog.at_level(logging.INFO):
        told(announcer)
        told(announcer)
    answers.set()
    assert "3 events of steps were not sent" in caplog.text and "in time" in caplog.text


def test_a_slow_bus_gets_how_it_ended_and_not_each_step():
    first, sent = threading.Event(), []

    def slow(tag, _fields):
        first.wait(30)
        sent.append(tag.rpartition("/")[2])

    announcer = Announcer(slow, TAG, patience=0.1)
    threading.Timer(0.15, first.set).start()
    told(announcer, steps=50)
    assert sent == ["begin", "end"]


def test_a_run_without_a_master_has_no_bus():
    assert front.announcer({"file_client": "local", "id": "a"}, {}) is None


def test_a_minion_sends_by_salts_own_function():
    sent = []
    tell = front.announcer({"id": "a"}, {"event.send": lambda tag, fields: sent.append((tag, fields))})
    tell("begin", {"n": 1})
    tell("end", {"n": 2})
    assert sent == [("gpu_slicing/a/change/begin", {"n": 1}), ("gpu_slicing/a/change/end", {"n": 2})]
