"""
Slurm, in the pillar.
"""

from gpuslice.policy.fields import Field
from gpuslice.policy.fields import flag
from gpuslice.policy.fields import mapping
from gpuslice.policy.fields import number
from gpuslice.policy.section import Telling
from gpuslice.shape import either
from gpuslice.shape import record
from gpuslice.shape import text
from gpuslice.shape import truth

CONF = "/etc/slurm/gres.conf"
_PATH = r"/([^/\x00-\x1f\x7f-\x9f]+/)+[^/\x00-\x1f\x7f-\x9f]*\.conf"
_NODE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,253}"
_TOLD = record({"path": text(_PATH), "node": text(rf"({_NODE})?"), "autodetect": truth})
#: Seconds that draining may take beside those in which jobs end, and all that resuming does.
_MORE, _RESUMING, _VALID = 60, 180, 30


class Slurm(Telling):
    """Its words."""

    TOLD = staticmethod(either(record({}), _TOLD))
    DECISIVE = ("slurm",)
    FIELD = mapping(
        "",
        slurm=mapping(
            "What Slurm is told of this node.",
            enabled=flag("true: gres.conf follows the slices; false: it is removed, if it is ours."),
            path=Field(
                "pattern", "Where it is written to: a file of its own, whose name ends in .conf.", CONF, pattern=f"^{_PATH}$",
                example=f"an absolute path such as {CONF}",
            ),
            node=Field(
                "pattern", "NodeName of this host in slurm.conf; the host's name where it is empty.", "",
                pattern=f"^({_NODE})?$", example="a NodeName such as n1",
            ),
            autodetect=flag("Have Slurm find NVIDIA's GPUs and MIG devices itself (AutoDetect=nvml)."),
            drain=flag("true: the node is drained before a change that makes or ends slices, and resumed after it.", True),
            within=number("Seconds in which its jobs have to end, or the change is not begun.", 3000, 0, 3600 - _MORE),
        ),
    )  # fmt: skip

    def handed_out(self, filled, written, notes):
        """``told``: what is on record of it, {} for nothing; ``quiet``: whether who drains it has it read the file."""
        said = filled["slurm"]
        if not said["enabled"]:
            return self.NOTHING
        return {"told": {name: said[name] for name in ("path", "node", "autodetect")}, "quiet": said["drain"]}

    def around(self, filled, written):
        """Draining and resuming."""
        said = filled["slurm"]
        if not (said["enabled"] and said["drain"]):
            return [], []
        # By name always: what is on record may be another's before the change, and is this one's after it.
        drain = {"why": "GPUs are sliced anew", "within": said["within"], "node": said["node"]}
        resume = {"within": _VALID, "reread": True, "node": said["node"]}
        return [self.hook("gpu_slurm.drain", drain, said["within"] + _MORE)], [self.hook("gpu_slurm.resume", resume, _RESUMING)]


SECTION = Slurm()
