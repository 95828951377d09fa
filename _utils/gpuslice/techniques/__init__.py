"""
The technologies, a package each, with their words in ``section.py`` and this class in ``technique.py``; a row in
:mod:`gpuslice.kinds` leads to both. A technique is a class with this shape, made with the host and the
:class:`gpuslice.drivers.sessions.Sessions` of the run::

    name                                            'mig'
    supports(gpu) -> bool                           from what the hardware says
    needs_driver(layout) -> bool                    optional: whether the GPU must have a driver to be brought to a layout
    why_not(gpu) -> (sentence, bool)                optional: why a GPU is not supported, and whether that is the host's fault
    gather([(gpu, settings)])                       optional: what is wanted of all GPUs, told before each is planned, for a
                                                    technique whose GPUs can't change one by one
    settle(gpu, state, difference) -> settings      optional: what a difference to what is there (one instance more) comes to,
                                                    asked under the lock: settings ``{"difference": ...}`` are never planned
    observe(gpu) -> state                           what is there now
    layout(state) -> dict                           the state as plain data: what journal, history and changes carry
    words(layout) -> str                            a layout in a few words
    shown(layout) -> dict                           a layout as users see it in changes
    pillar(gpu, layout) -> dict or None             strategy and settings that describe it, None when it slices nothing
    settings_of(layout, begun) -> dict              settings that ask for exactly this layout (undo, rollback)
    translated(gpu, layout) -> dict                 optional: an earlier layout in the words that the driver has for it now
    plan(gpu, state, settings, rules) -> GpuPlan
    run(gpu, step)                                  carry out one step
    holders(gpu) -> [Process]                       who holds it open
    in_the_way(gpu, steps) -> [Process]             who uses, at this moment, what any of these steps ends
    forget_users()                                  optional: ask anew who uses what, for a technique that keeps the answer
    slices(gpu, state) -> [Slice]                   what consumers can be given
    release()                                       forget what was found; what holds a GPU open is closed
"""

from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice.drivers.device_nodes import refuse_spared
from gpuslice.drivers.sessions import Sessions


class Rules(NamedTuple):
    """
    What a change may do.

    :ivar force: end also what is in use; :ivar awaits_reboot: this boot's reset was refused before, do not try again.
    :ivar stop_units: systemd units that may be stopped for the change, and are started again after it.
    :ivar unload_modules: kernel modules that may be unloaded for a reset, and are loaded again after it.
    """

    force: bool = False
    awaits_reboot: bool = False
    stop_units: tuple = ()
    unload_modules: tuple = ()

    def may_stop_all(self, processes):
        """Whether each of these processes belongs to a unit that may be stopped."""
        return all(process.unit in self.stop_units for process in processes)


PLAIN = Rules()


class Stops:
    """
    What has to stop for a change of one GPU: units (started again later), modules (loaded again), and bare processes (ended).

    :param gpu: PCI address.
    """

    def __init__(self, host, gpu):
        self._host, self._gpu = host, gpu
        self.units, self.modules, self.processes = set(), set(), []

    def add(self, processes, rules):
        """
        These hold what has to go.

        :raises errors.ResourceConflict: stopping one of them would end this very run, or the system.
        """
        for process in processes:
            if process.unit in rules.stop_units:
                self._refuse_own_unit(process)
                self.units.add(process.unit)
            elif process not in self.processes:
                refuse_spared(self._host, self._gpu, process.pid, str(process))
                self.processes.append(process)

    def _refuse_own_unit(self, process):
        if process.unit in self._host.own_units():
            raise errors.ResourceConflict(
                f"In use by {process}, and this run is in the unit {process.unit} itself, so it would end with it.",
                self._gpu,
                "End that use, or run Salt outside of that unit.",
                [process.as_dict()],
            )


class Toolbox:
    """
    The techniques on one host, made when first asked for.

    :ivar sessions: :class:`gpuslice.drivers.sessions.Sessions` that all of them share.
    """

    def __init__(self, host):
        self._host = host
        self.sessions = Sessions(host)
        self._made = {}

    def get(self, name):
        """The technique of that name. Raises errors.Unsupported for one that this version can't do."""
        kind = kinds.named(name)
        if not kind or not kind.cls:
            names = ", ".join(kind.name for kind in kinds.DOABLE)
            raise errors.Unsupported(f"This version has no technique '{name}'; it has {names}.")
        if name not in self._made:
            self._made[name] = kinds.technique(kind)(self._host, self.sessions)
        return self._made[name]

    def made(self):
        """The techniques that were used so far."""
        return list(self._made.values())

    def release(self):
        """Close everything that holds a GPU open, and let each technique forget what it found."""
        self.sessions.release()
        for technique in self._made.values():
            technique.release()
        self._host.limits.rest()
