"""
What is known of the programs and units of a host that consumers go with: asked once, and again only when they change, so that a
host on which all is as wanted starts no program.
"""

import hashlib
import re
from collections.abc import Mapping

from gpuslice import errors
from gpuslice.drivers import systemd
from gpuslice.host.base import Host

PODMAN = "/usr/bin/podman"


class Programs:
    """
    Answers of one run.

    :param noted: name -> [what changes with it, answer...], as they were noted last.
    :ivar found: the same for what was asked for in this run. :ivar effective: unit -> all its files, where it was looked at.
    """

    def __init__(self, host: Host, noted: Mapping[str, list[str]]) -> None:
        self._host, self._noted = host, noted
        self.found: dict[str, list[str]] = {}
        self.effective: dict[str, str] = {}

    def podman(self) -> tuple[int, int, int]:
        """The version of the installed Podman. Raises errors.ToolMissing, errors.ToolFailed."""
        answer = self._answer("podman", self._host.stamp(PODMAN), self._ask_podman)
        major, minor, patch = (int(part) for part in answer.split("."))
        return major, minor, patch

    def has_private_devices(self, unit: str) -> bool:
        """Whether a service has private devices by itself. Raises errors.PolicyError: there is no such unit."""
        return self._answer(unit, self._stamp_of(unit), lambda: self._ask_unit(unit)).startswith("private")

    def runs_as_root(self, unit: str) -> bool:
        """Whether a service runs as root, of which :meth:`has_private_devices` was told."""
        return self.found.get(unit, ["", ""])[1].endswith("root")

    def _stamp_of(self, unit):
        """What changes with any file of a unit but ours, "" where none is found."""
        from gpuslice.outputs import service
        from gpuslice.outputs import unit_names

        own = _names_of(unit)
        ours = [f"{service.UNITS}/{unit}.d/{name}" for name in (service.DROP_IN, unit_names.MEMORY_DROP_IN)]
        files = [f"{place}/{name}" for place in _UNIT_PLACES for name in own]
        for folder in (f"{place}/{name}.d" for place in _UNIT_PLACES for name in (*own, *_families_of(unit))):
            files += [path for name in self._host.listdir(folder) if (path := f"{folder}/{name}") not in ours]
        found = [f"{path} {stamp}" for path in files if (stamp := self._host.stamp(path))]
        return hashlib.sha256("\n".join(found).encode()).hexdigest()[:32] if found else ""

    def _answer(self, name, stamp, ask):
        known = self._noted.get(name, ())
        answer = known[1] if len(known) == 2 and known[0] == stamp and stamp else ask()
        self.found[name] = [stamp, answer]
        return answer

    def _ask_podman(self):
        try:
            done = self._host.run(["podman", "--version"])
        except errors.ToolMissing as err:
            raise errors.ToolMissing(
                "A container is to be handed a slice, and Podman is not installed.",
                todo="Install Podman (4.4 or newer for Quadlet), or use kind device and give its CDI name to another runtime.",
            ) from err
        found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
        if done.failure or not found:
            why = done.failure or f"it says {done.said!r}"
            raise errors.ToolFailed(f"'podman --version' tells no version: {why}.", todo="Mend Podman, then run again.")
        return f"{found[1]}.{found[2]}.{found[3] or 0}"

    def _ask_unit(self, unit):
        from gpuslice.outputs import conflicts
        from gpuslice.outputs import service

        try:
            done = systemd.files(self._host, unit)
        except errors.ToolMissing:
            return ""
        if done.failure:
            raise errors.PolicyError(
                f"The unit {unit} is to be handed a slice, and systemd knows no such unit ({done.said}).",
                todo="Install what brings it, or correct 'unit' of its consumer.",
            )
        self.effective[unit] = done.stdout
        ours = f"{service.UNITS}/{unit}.d/{service.DROP_IN}"
        user = "root" if conflicts.runs_as_root(done.stdout) else "other"
        return f"{'private' if conflicts.has_private_devices(done.stdout, ours) else 'plain'} {user}"


#: Where systemd looks for units and their drop-ins: systemd.unit(5), table "Load path when running in system mode".
_UNIT_PLACES = (
    "/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
    "/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
)  # fmt: skip


def _names_of(unit):
    """The names of a unit's own files: an instance has that of its template too."""
    name, at, _ = unit.rpartition("@")
    return [unit, f"{name}@.service"] if at else [unit]


def _families_of(unit):
    """Names whose drop-ins are those of all units of a kind, or of all that begin alike: ``service``, ``a-.service``."""
    words = unit.removesuffix(".service").split("-")
    return ["service", *(f"{'-'.join(words[:count])}-.service" for count in range(1, len(words)))]
