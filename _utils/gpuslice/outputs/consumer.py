"""
Who gets slices.
"""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

#: container: a Podman container, as a Quadlet unit; service: an existing systemd unit, by a drop-in; user: all that a login user
#: runs, by a drop-in of his slice unit; device: a CDI name, for whoever uses it.
KINDS = ("container", "service", "user", "device")


class Consumer(NamedTuple):
    """
    Someone who gets slices, by name.

    :ivar name: of the consumer, which CDI and units can have; :ivar kind: one of :data:`KINDS`.
    :ivar wants: what a slice must have to be given to him: profile, kind, gpu, memory_mib, name.
    :ivar instances: how many slices he gets.
    :ivar unit: of kind service: the unit; of kind container: an existing unit (``train.container``) that is adopted, "" to
        write one. :ivar user: of kind user: the login user; of kind container: whose rootless Podman, "" for root's.
    :ivar image: of kind container. :ivar weight: his share where consumers share one GPU.
    :ivar memory_gb: limit of RAM, None for none; :ivar compute_units: limit of CPU cores, None for none.
    :ivar quadlet: of kind container: section -> key -> value or list of values, further keys of the unit.
    :ivar runtime: of kind container: the OCI runtime that Podman has on this host.
    :ivar vram_mib: limit of the memory of each GPU of which he has something, None for none; :ivar overcommit: whether it may
        come on top of what the others of a GPU have, past the memory of that.
    :ivar security_profile: of kind container: the AppArmor profile under which it runs, "" for the runtime's own.
    """

    name: str
    kind: str = "device"
    wants: Mapping[str, Any] = {}
    instances: int = 1
    unit: str = ""
    user: str = ""
    image: str = ""
    weight: int = 1
    memory_gb: int | None = None
    compute_units: int | None = None
    vram_mib: int | None = None
    overcommit: bool = False
    quadlet: Mapping[str, Mapping[str, Any]] = {}
    security_profile: str = ""
    runtime: str = "crun"

    @property
    def sought(self) -> Mapping[str, Any]:
        """What a slice must have to be his: a weight counts where slices are divided by weight."""
        return self.wants if self.weight == 1 else {**self.wants, "weight": self.weight}
