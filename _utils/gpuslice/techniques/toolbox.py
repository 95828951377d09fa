"""
The techniques of one run.
"""

from gpuslice import errors
from gpuslice import kinds
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Host
from gpuslice.techniques.base import Technique


class Toolbox:
    """
    The techniques on one host, made when first asked for.

    :ivar sessions: :class:`gpuslice.drivers.sessions.Sessions` that all of them share.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.sessions = Sessions(host)
        self._made: dict[str, Technique] = {}

    def get(self, name: str) -> Technique:
        """The technique of that name. Raises errors.Unsupported for one that this version can't do."""
        kind = kinds.named(name)
        if not kind or not kind.cls:
            names = ", ".join(kind.name for kind in kinds.KNOWN)
            raise errors.Unsupported(f"This version has no technique '{name}'; it has {names}.")
        if name not in self._made:
            self._made[name] = kinds.technique(kind)(self._host, self.sessions)
        return self._made[name]

    def made(self) -> list[Technique]:
        """The techniques that were used so far."""
        return list(self._made.values())

    def release(self) -> None:
        """Close everything that holds a GPU open, and let each technique forget what it found."""
        self.sessions.release()
        for technique in self._made.values():
            technique.release()
        self._host.limits.rest()
