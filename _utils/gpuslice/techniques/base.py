"""
What techniques have in common that work through the kernel's files and hold nothing open: their steps, and ending processes.
"""

from gpuslice import errors
from gpuslice.costs import seconds
from gpuslice.drivers import device_nodes
from gpuslice.plan import PREPARE
from gpuslice.plan import Step

STOP_OR_FORCE = (
    "Stop these, name their units in containers_gpu_state_management:stop_units, "
    "or set containers_gpu_state_management:apply_strategy to force (by hand: force=True)."
)


class FileTechnique:
    """
    A technique whose state is a named tuple of plain data. ``run`` calls the method ``_run_<action>`` with the step's arguments.
    """

    name = ""

    def __init__(self, host, sessions):
        self._host, self._sessions = host, sessions

    def layout(self, state):
        """The state as plain data."""
        return state._asdict()

    def settings_of(self, layout, begun=None):
        """Settings that ask for exactly this layout."""
        return {"layout": dict(layout)}

    def release(self):
        """Nothing is held open."""

    def run(self, gpu, step):
        """Carry out one step of a plan. Raises an error of gpuslice.errors; the step then did not happen."""
        getattr(self, f"_run_{step.action}")(gpu, **step.args)

    def _step(self, gpu, action, args, words, cost, phase, undo="", needs=()):
        return Step(gpu.address, self.name, action, args, words, undo, (), needs, seconds(cost), phase)

    def _end_processes(self, gpu, stops):
        for process in stops.processes:
            args = {"pid": process.pid, "command": process.command}
            yield self._step(gpu, "end_process", args, f"end {process}", "end_process", PREPARE)

    def _run_end_process(self, gpu, pid, command):
        device_nodes.end_process(self._host, gpu.address, pid, command)


def refuse_if_held(gpu, doing, held, rules, stops):
    """
    Let the holders be stopped where the rules allow it, else name them.

    :param held: processes; :param stops: :class:`gpuslice.techniques.Stops`, which takes note of what has to stop.
    :raises errors.ResourceConflict: somebody holds what has to be free.
    """
    if held and not rules.force and not rules.may_stop_all(held):
        raise errors.ResourceConflict(
            f"Could not {doing}: in use by {'; '.join(map(str, held))}.",
            gpu,
            STOP_OR_FORCE,
            holders=[process.as_dict() for process in held],
        )
    stops.add(held, rules)
