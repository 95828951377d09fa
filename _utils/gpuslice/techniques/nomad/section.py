"""
Nomad, in the pillar.
"""

from gpuslice.policy.fields import Field
from gpuslice.policy.fields import flag
from gpuslice.policy.fields import mapping
from gpuslice.policy.fields import number
from gpuslice.policy.section import Telling
from gpuslice.shape import either
from gpuslice.shape import record
from gpuslice.shape import text

FILE = "/etc/nomad.d/gpu.hcl"
_PATH = r"/([^/\x00-\x1f\x7f-\x9f]+/)+[^/\x00-\x1f\x7f-\x9f]*\.hcl"
_PLUGIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}"
_PERIOD = r"(?=.*[1-9])([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h))+"
_UNIT = r"[A-Za-z0-9:_.@-]{1,200}\.service"
_TOLD = record({"path": text(_PATH), "plugin": text(_PLUGIN), "period": text(_PERIOD)})
#: Seconds that draining may take beside those in which jobs end, all that taking back does, and in which the plugin has to tell
#: what is there.
_MORE, _RESUMING, _FOUND = 180, 240, 120


class Nomad(Telling):
    """Its words."""

    TOLD = staticmethod(either(record({}), _TOLD))
    DECISIVE = ("nomad",)
    FIELD = mapping(
        "",
        nomad=mapping(
            "What Nomad's device plugin for NVIDIA must not give of this node.",
            enabled=flag("true: the file follows the slices; false: it is removed, if it is ours."),
            path=Field(
                "pattern", "Where it is written to: a file of its own, whose name ends in .hcl.", FILE, pattern=f"^{_PATH}$",
                example=f"an absolute path such as {FILE}",
            ),
            plugin=Field("pattern", "Name of the plugin: that of its file in plugin_dir.", "nomad-device-nvidia",
                         pattern=f"^{_PLUGIN}$", example="a name such as nomad-device-nvidia"),
            period=Field("pattern", "How often the plugin looks for devices.", "1m", pattern=f"^{_PERIOD}$",
                         example="a time such as 30s or 1m"),
            unit=Field("pattern", "The agent's service, which is started anew to read the file; empty: it is not.",
                       "nomad.service", pattern=f"^({_UNIT})?$", example="a service such as nomad.service"),
            drain=flag("true: the node is drained before a change that makes or ends slices, and taken back after it.", True),
            within=number("Seconds in which its jobs have to end, or the change is not begun.", 3000, 0, 3600 - _MORE),
            deadline=number("Seconds after which Nomad ends jobs by force; 0: never.", 0, 0, 86400),
            system=flag("true: system jobs are ended too.", True),
        ),
    )  # fmt: skip

    def handed_out(self, filled, written, notes):
        """``told``: what is on record of it, {} for nothing; ``quiet``: whether who takes the node back starts the agent anew."""
        said = filled["nomad"]
        if not said["enabled"]:
            return self.NOTHING
        return {"told": {name: said[name] for name in ("path", "plugin", "period")}, "quiet": bool(said["unit"])}

    def around(self, filled, written):
        """Draining and taking back."""
        said = filled["nomad"]
        if not (said["enabled"] and (said["drain"] or said["unit"])):
            return [], []
        drain = {"why": "GPUs are sliced anew", "within": said["within"], "system": said["system"]}
        drain |= {"deadline": said["deadline"]} if said["deadline"] else {}
        resume = {"within": _FOUND, "reread": True, **({"unit": said["unit"]} if said["unit"] else {})}
        before = [self.hook("gpu_nomad.drain", drain, said["within"] + _MORE)] if said["drain"] else []
        return before, [self.hook("gpu_nomad.resume", resume, _RESUMING)]


SECTION = Nomad()
