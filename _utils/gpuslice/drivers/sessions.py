"""
The vendors' libraries that are open on one host. A session is a client of every GPU it sees, and costs a second or more on a host
where nothing else keeps the driver awake: so there is one for all, and one place that closes it.
"""

import logging
from functools import cached_property
from typing import Any

from gpuslice.host.base import Host

log = logging.getLogger(__name__)


class Sessions:
    """The vendor sessions of one run on a host, each made when first asked for."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @cached_property
    def nvml(self) -> Any:
        """The :class:`gpuslice.drivers.nvml_mig.MigNvml` that all share; its session begins with the first call."""
        # Here, so that a host without such a GPU does not load it.
        from gpuslice.drivers.nvml_mig import MigNvml

        # Of two threads that ask first at once both get the same, of which one session begins.
        return self.__dict__.setdefault("nvml", MigNvml(self._host))

    def release(self) -> None:
        """Close what is open. What can't be closed is told in the log: nothing else is kept from going on."""
        if "nvml" not in self.__dict__:
            return
        try:
            self.nvml.close()
        except Exception:
            log.warning("the NVML session could not be closed", exc_info=True)
