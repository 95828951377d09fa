"""
What the MIG profiles of a GPU model look like, whoever tells of them: the catalog, the driver or a described host.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CiProfile:
    """
    A compute instance profile inside one GPU instance profile.

    :ivar enum: the value to ask its info with; :ivar id: the id to create with.
    :ivar slices: compute slices it takes; :ivar starts: where in the GPU instance it may lie.
    """

    name: str
    enum: int
    id: int
    slices: int
    count: int
    starts: tuple


@dataclass(frozen=True)
class GiProfile:
    """
    A GPU instance profile of one GPU model.

    :ivar name: as users write it, ``1g.10gb+me``; :ivar slices: compute slices; :ivar size: memory slices it takes.
    :ivar starts: memory slices where it may begin; :ivar count: how many the GPU can have at most.
    :ivar attributes: ``("me",)``, ``("me.all",)``, ``("gfx",)``, ``("-me",)`` or ``()``.
    :ivar engines: copy, decode, encode, jpeg and optical flow engines, in this order.
    """

    name: str
    enum: int
    id: int
    slices: int
    size: int
    starts: tuple
    count: int
    memory_mib: int = 0
    attributes: tuple = ()
    sm: int = 0
    engines: tuple = (0, 0, 0, 0, 0)
    cis: tuple = ()


@dataclass(frozen=True)
class MigTable:
    """All MIG profiles of a GPU model. ``slots`` counts memory slices, ``compute`` compute slices."""

    slots: int
    compute: int
    profiles: tuple

    def profile(self, name):
        """The profile of that exact name, or None."""
        return next((p for p in self.profiles if p.name == name), None)

    def by_id(self, profile_id):
        """The profile that the driver calls by this id, or None."""
        return next((p for p in self.profiles if p.id == profile_id), None)
