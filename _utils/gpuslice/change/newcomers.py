"""
Users of a GPU that nobody knew of when its change was planned: who came since then is found before anything of theirs ends, and
who is in the way when the driver says "in use" is named.
"""

import os

from gpuslice import errors
from gpuslice.rules import PLAIN
from gpuslice.techniques.base import unseen


class Lookout:
    """
    Looks once more, immediately before the first step of a GPU that ends a process, and before the first that ends anything else.

    :param technique, gpu, made: the :class:`gpuslice.plan.Part` of a GPU and its technique.
    :param entry: the change in the journal, whose plan tells which processes end and which units are stopped; None for an undo,
        which ends nobody. :param rules: of the change, for what is advised.
    """

    def __init__(self, host, technique, gpu, made, entry=None, rules=PLAIN):
        self._host, self._technique, self._gpu, self._made = host, technique, gpu, made
        self._ended, self._stopped = _accounted_for(entry) if entry else ({}, set())
        self._looked, self._rules = set(), rules

    def before(self, number):
        """
        Call before the step of that number, counted from 1.

        :raises errors.ResourceConflict: somebody uses what a step would end, whom neither the plan ends nor a stopped unit has.
            Also with apply_strategy force: what it ends was shown in the plan, and this process was not.
        """
        step = self._made.steps[number - 1]
        kind = "process" if step.effect == "process" else "rest"
        if kind in self._looked or not (kind == "process" or step.disrupts or "idle" in step.needs):
            return
        self._looked.add(kind)
        rest = self._made.steps[number - 1 :]
        # Somebody is taken for a user who stays only at the last look: a monitor has a GPU open for a moment.
        for _ in self._host.tries():
            if not (found := self._newcomers(rest)):
                return
        raise errors.ResourceConflict(
            f"In use by {'; '.join(map(str, found))}, which came after the change was planned.",
            self._gpu.address,
            f"Run again to have it in the plan. One that is started again whenever it ends: {self._rules.stopping_units()}.",
            [process.as_dict() for process in found],
        )

    def _newcomers(self, steps):
        return [
            process
            for process in users(self._technique, self._gpu, steps)
            if not self._is_ended(process.pid) and process.unit not in self._stopped
        ]

    def _is_ended(self, pid):
        """
        Whether the plan ends the process of this number. Of one that has ended the driver may still know the number, and nobody
        its command; one with another command by now is not the one that was shown, so that its step leaves it alone.
        """
        if pid not in self._ended:
            return False
        now = self._host.process(pid)
        return now is None or now.command == self._ended[pid]


def _accounted_for(entry):
    """
    ({pid: command} that a plan ends, {units} that it stops), of all its GPUs: who holds one may be in the way of another.
    """
    parts = entry.plan["parts"]
    ends = [step["args"] for part in parts for step in part["steps"] if step["effect"] == "process"]
    ended = {args["pid"]: args["command"] for args in ends}
    return ended, {name for part in parts for name in part["stops"]}


def users(technique, gpu, steps):
    """The processes that use now what these steps end, in the order of their numbers; not this one, which lets go by itself."""
    found = {process.pid: process for process in technique.in_the_way(gpu, steps)}
    return [found[pid] for pid in sorted(found) if pid != os.getpid()]


def carry_out(host, technique, gpu, step):
    """Carry out one step. What the driver refuses as it is in use is told with the names of the users, found at that moment."""
    try:
        technique.run(gpu, step)
    except errors.InUse as err:
        raise _named(err, host, technique, gpu, step) from err


def _named(err, host, technique, gpu, step):
    """The same error with the users' names, or with what to look for where none can be seen."""
    if err.holders:
        return err
    try:
        held = users(technique, gpu, [step]) or [one for one in technique.holders(gpu) if one.pid != os.getpid()]
    except errors.GpuSliceError:
        # What the driver answered to the step is to be told all the same.
        return err
    names = f"in use by {'; '.join(map(str, held)) or unseen(host, gpu)}"
    # Where nothing stands for the users, being in use is one of several reasons that the kernel's answer may have.
    what = err.what.replace(err.users, names) if err.users else f"{err.what} It is {names}." if held else err.what
    return errors.InUse(what, gpu.address, err.todo, [process.as_dict() for process in held])
