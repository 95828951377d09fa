"""
Kubernetes, in the pillar.
"""

from gpuslice.policy.fields import VENDORS
from gpuslice.policy.fields import Field
from gpuslice.policy.fields import flag
from gpuslice.policy.fields import mapping
from gpuslice.policy.section import Telling
from gpuslice.shape import either
from gpuslice.shape import record
from gpuslice.shape import text
from gpuslice.shape import truth

FILE = "/etc/kubernetes/nvidia-device-plugin.yaml"
_PATH = r"/([^/\x00-\x1f\x7f-\x9f]+/)+[^/\x00-\x1f\x7f-\x9f]*\.yaml"
_TOLD = record({"path": text(_PATH), "vendor": text("|".join(VENDORS)), "rename": truth})


class Kubernetes(Telling):
    """Its words."""

    TOLD = staticmethod(either(record({}), _TOLD))
    DECISIVE = ("kubernetes",)
    FIELD = mapping(
        "",
        kubernetes=mapping(
            "What the device plugin of the vendor under device_plugin is told of this node.",
            enabled=flag("true: its file follows the slices; false: it is removed, if it is ours."),
            path=Field(
                "pattern", "Where it is written to: a file of its own, whose name ends in .yaml.", FILE, pattern=f"^{_PATH}$",
                example=f"an absolute path such as {FILE}",
            ),
            rename=flag("NVIDIA: have shares called nvidia.com/gpu.shared, so that nobody gets one who asked for a GPU.", True),
        ),
    )  # fmt: skip

    def handed_out(self, filled, written, notes):
        """``told``: what is on record of it, {} for nothing."""
        said = filled["kubernetes"]
        if not said["enabled"]:
            return self.NOTHING
        return {"told": {"path": said["path"], "vendor": filled["device_plugin"], "rename": said["rename"]}}


SECTION = Kubernetes()
