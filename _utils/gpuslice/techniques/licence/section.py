"""
The licence on record. Its words in the pillar are those of vGPU, see :mod:`gpuslice.techniques.vgpu.section`.
"""

from gpuslice.policy.section import Section
from gpuslice.shape import LINE
from gpuslice.shape import WORD
from gpuslice.shape import anything
from gpuslice.shape import record
from gpuslice.shape import truth
from gpuslice.shape import whole


class Licence(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    def layout(self):
        """Our lines of gridd.conf, the digest of our token, and whether the daemon runs."""
        licence = {"server": LINE, "port": LINE, "feature": LINE, "token": LINE, "service": truth}
        return record({"license": record(licence)})

    def asked(self):
        """As a pillar or a function asks for it: keys of what is chosen on a host are there, and have no value."""
        host = {"profile": anything, "profiles": anything, "count": anything, "scheduler": anything}
        licence = {"license_server": LINE, "license_port": whole(0, 65535), "feature": WORD, "client_token": LINE}
        return record({}, {**licence, **host, "clear": truth, "remove": truth})


SECTION = Licence()
