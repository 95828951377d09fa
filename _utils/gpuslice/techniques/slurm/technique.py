"""
Slurm's ``gres.conf`` of a host, by what it has and who has it.
"""

import re
from typing import final

from gpuslice.drivers.slurm import node_name
from gpuslice.outputs import slurm
from gpuslice.records.store import Record
from gpuslice.techniques.telling import NUMBER
from gpuslice.techniques.telling import Telling

FILE = "slurm.json"


@final
class Slurm(Telling):
    """What Slurm is told of one host."""

    name = "slurm"
    whom = "Slurm"
    reread = "when it is told to ('salt-call gpu_slurm.reconfigure')"

    def kind(self, settings):
        """A ``gres.conf``."""
        return slurm.kind(self._node(settings))

    def record(self, check):
        """What it is told by."""
        return Record(self._host, FILE, "the record of what Slurm is told", NUMBER, check)

    def about(self, settings):
        """What the node has for Slurm."""
        return slurm.about(self._node(settings))

    def text(self, has, gpus, settings, forecast):
        """The lines of this node."""
        node, autodetect = self._node(settings), settings["autodetect"]
        return slurm.text(slurm.of(has, gpus, node, autodetect, forecast), node, autodetect)

    def note(self, old, new):
        """What ``slurm.conf`` has to say, where the counts change."""
        had, has = _gres(old), _gres(new)
        if not old or not new or slurm.counts(had) == slurm.counts(has):
            return ""
        return (
            f"slurm.conf has to say Gres={has or '(nothing)'} (it was {had or '(nothing)'}): Slurm takes another count only by a "
            "restart of slurmctld."
        )

    def _node(self, settings):
        return node_name(self._host, settings.get("node") or None)


def _gres(lines):
    """The ``Gres=`` that a file of ours names."""
    return next((found[1] for line in lines if (found := re.fullmatch(rf"{re.escape(slurm.WANTED)}\S+ Gres=(.*)", line))), "")
