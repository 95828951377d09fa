"""
Where a change can go wrong: its calls that change anything, as one run of it makes them.
"""

import threading
from typing import NamedTuple

from tests.contract import house
from tests.contract import pairs

#: Calls beside those of NVML that change something, as :mod:`gpuslice.sim.faults` names them.
_CHANGING = ("write", "run", "store_write", "store_append", "store_remove", "end_process")
_NVML_READS = ("nvmlInit", "nvmlShutdown", "nvmlSystem", "Get", "Count")
#: Actions of the engine itself, beside those of steps: it keeps records of a change, and writes a line before each step.
RECORDS, LINE = "records", "line"


class Point(NamedTuple):
    """The ``nth`` call of this name, for this GPU ("" counts those for every GPU), made by a step of this action."""

    call: str
    gpu: str
    nth: int
    action: str

    def fault(self, **effect):
        """The fault that hits this call."""
        return {"call": self.call, "nth": self.nth, **({"gpu": self.gpu} if self.gpu else {}), **effect}

    @property
    def error(self):
        """An error that such a call can have."""
        return "NVML_ERROR_UNKNOWN" if self.call.startswith("nvml") else "EIO"


class _Listener:
    """
    Notes the calls of a change.

    :param steps: text of a key -> its steps.
    """

    def __init__(self, steps):
        self._steps, self._now, self._last = steps, {}, ""
        # GPUs are changed side by side.
        self._counts, self._one = {}, threading.Lock()
        self.points = []

    def step(self, key, number):
        """A step is begun."""
        step = self._steps[key][number - 1]
        with self._one:
            self._now[step.gpu] = self._last = step.action

    def call(self, call, gpu, purpose):
        """A call is made."""
        with self._one:
            # A fault that names no GPU counts the calls for all of them.
            for counted in dict.fromkeys([(call, gpu), (call, "")]):
                self._counts[counted] = self._counts.get(counted, 0) + 1
            if purpose != "look" and _changes(call):
                self.points.append(Point(call, gpu, self._counts[call, gpu], self._action(call, gpu, purpose)))

    def _action(self, call, gpu, purpose):
        if call == "store_append":
            return LINE
        return RECORDS if purpose == "records" else self._now.get(gpu, self._last)


def _changes(call):
    return call in _CHANGING or (call.startswith("nvml") and not any(word in call for word in _NVML_READS))


def of(place, change):
    """
    The points of a change that are tried, on a host that this changes.

    Not every one: for each kind of call that each action makes, the first and the last of the whole change. What is between
    them, such as the fortieth of fifty instances that are made alike, differs in its number only.
    """
    with house.opened(place) as now:
        plan = change.plan(now)
    listener = _Listener({str(made.key): made.steps for made in plan.parts})
    result = house.listen(place, change, listener)
    assert result.ok, result.errors
    ends = {}
    for point in listener.points:
        ends.setdefault((point.action, point.call), []).append(point)
    found = list(dict.fromkeys(point for all_alike in ends.values() for point in (all_alike[0], all_alike[-1])))
    assert {point.action for point in found} >= {RECORDS, LINE} and len(found) > 4
    return found


def wish(pair):
    """The pillar of a pair with few slices, where a failure puts back every GPU."""
    return pairs.pillar(pair, few=True, on_failure="host")
