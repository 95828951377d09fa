"""
The daemons of one host: what files tell of them, and how one is written, started, stopped and removed.

A run that finds all as wanted starts no program: the text of a unit tells its limits, since it does not become active before it
has read them back, and the daemon's own file tells its process, which has to be alive in that unit. The daemon itself is asked
after a start, and by ``gpu_mps.status``.
"""

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.drivers import mps
from gpuslice.drivers import systemd
from gpuslice.outputs.mps import SERVER
from gpuslice.outputs.mps import pipe_directory
from gpuslice.techniques.mps import unit

#: Seconds that a unit may take to stop: its clients get five of them.
_STOPS = 30


class Daemons:
    """The MPS daemons on one host, each by the name of the slice that it shares."""

    def __init__(self, host):
        self._host = host

    def spec(self, name):
        """The :class:`gpuslice.techniques.mps.unit.Spec` of the unit that is there, None for none, or one that was changed."""
        text = kernel.text(self._host, unit.path(name))
        # Its settings lie there in protocol v3 only.
        return unit.read(text, kernel.text(self._host, unit.settings_path(name)) or "") if text else None

    def is_there(self, name):
        """Whether a unit or its settings are written, whatever they say."""
        return self._host.exists(unit.path(name)) or self._host.exists(unit.settings_path(name))

    def process(self, name):
        """The daemon's process, None where it does not run in its unit."""
        pid = mps.daemon_pid(self._host, pipe_directory(name))
        found = None if pid is None else self._host.process(pid)
        return found if found and found.unit == unit.unit(name) and mps.serves(found) else None

    def refuse_foreign(self, gpu, name):
        """Raise errors.ResourceConflict for a unit file of somebody else's under our name."""
        text = kernel.text(self._host, unit.path(name)) or ""
        place = next((path for path in unit.elsewhere(name) if self._host.exists(path)), "")
        if text and unit.MINE not in text:
            place = unit.path(name)
        if place:
            raise errors.ResourceConflict(
                f"MPS of {name} needs a unit {unit.unit(name)}, and {place} is somebody else's.", gpu.address,
                "Remove that file, or give it another name, then run again.",
            )  # fmt: skip

    def write(self, gpu, spec, templates):
        """
        Write the unit.

        :param templates: name -> text, those of the site. Raises errors.PermissionDenied, errors.ToolFailed, errors.ToolMissing.
        """
        self.refuse_foreign(gpu, spec.name)
        self._file(gpu, spec.name, lambda: self._write(spec, templates))

    def _write(self, spec, templates):
        # The unit comes last: one without its settings counts as changed, and settings without such a unit would stay for ever.
        if spec.shares:
            self._host.store_write(unit.settings_path(spec.name), unit.settings(spec, templates))
        else:
            self._remove_settings(spec.name)
        self._host.store_write(unit.path(spec.name), unit.written(spec, templates))

    def remove(self, gpu, name):
        """Remove the unit; it need not be there. Raises as :meth:`write`."""
        self._file(gpu, name, lambda: self._remove(name))

    def _remove(self, name):
        self._host.store_remove(unit.path(name))
        self._remove_settings(name)

    def _remove_settings(self, name):
        if self._host.exists(unit.settings_path(name)):
            self._host.store_remove(unit.settings_path(name))

    def _file(self, gpu, name, work):
        try:
            work()
        except OSError as err:
            raise errors.PermissionDenied(
                f"{unit.path(name)} could not be changed: {err.strerror}.", gpu.address, "Run as root."
            ) from err
        systemd.reload_units(self._host)

    def start(self, gpu, name):
        """
        Start a daemon whose unit is written, and see that its limits are in force.

        :raises errors.ToolFailed: its unit does not start, or ends again. :raises errors.ValidationFailed: it refused a limit.
        """
        spec = self.spec(name)
        if spec is None:
            what = f"{unit.path(name)} is not as it was written."
            raise errors.ForeignChange(what, gpu.address, "Find out who else writes it, then run again.")
        done = systemd.restart(self._host, unit.unit(name))
        if done.failure:
            raise self._failed(gpu, name, f"could not be started: {done.failure.rstrip('.')}")
        if self.process(name) is None:
            raise self._failed(gpu, name, "was started, and its daemon is gone")
        if spec.shares:
            mps.Namespaces(self._host, name, gpu.address).check_shares(spec.shares)
            return
        mps.Control(self._host, name, gpu.address).check(spec.threads, spec.pinned_mib)

    def stop(self, gpu, name):
        """Stop a daemon; it need not run. Raises errors.ToolFailed, errors.ToolMissing."""
        if self._host.exists(unit.path(name)) and (why := systemd.stop(self._host, unit.unit(name), _STOPS).failure):
            raise self._failed(gpu, name, f"could not be stopped: {why.rstrip('.')}")

    @staticmethod
    def _failed(gpu, name, what):
        return errors.ToolFailed(
            f"The unit {unit.unit(name)} {what}.", gpu.address, f"See 'journalctl -u {unit.unit(name)}', then run again."
        )

    def clients(self, gpu, name):
        """
        The processes that are clients of a daemon now, as :class:`gpuslice.model.Process`; none of one that does not run.

        :raises errors.ResourceConflict: it does not tell whether it has any.
        """
        if self.process(name) is None:
            return []
        try:
            numbers = self._control(gpu, name).clients()
        except (errors.ToolFailed, errors.ToolHangs, errors.ToolMissing) as err:
            raise errors.ResourceConflict(
                f"Whether the MPS daemon of {name} has clients can't be told: {err.what}", gpu.address,
                f"If nobody needs it any more, end it by hand ('systemctl stop {unit.unit(name)}'), then run again.",
            ) from err  # fmt: skip
        found = [self._host.process(pid) for pid in numbers]
        return [process for process in found if process]

    def _control(self, gpu, name):
        """How the daemon that runs is asked. A unit that was changed meanwhile tells no protocol: the daemon's folder does."""
        is_v3 = self._host.exists(f"{pipe_directory(name)}/{SERVER}")
        return (mps.Namespaces if is_v3 else mps.Control)(self._host, name, gpu.address)

    def told(self, gpu, name):
        """
        What the daemon itself tells, as a dict ``active_thread_percentage``, ``pinned_memory`` and ``clients`` (pids). In
        protocol v3 the first two are dicts, by the names of its namespaces.
        """
        control = self._control(gpu, name)
        threads, pinned = control.limits()
        return {"active_thread_percentage": threads, "pinned_memory": pinned, "clients": control.clients()}
