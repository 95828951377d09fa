"""
What all functions of the simulated NVML share: they are counted, want nvmlInit, and meet the faults of the description.
"""

import functools

from gpuslice.sim import hardware

UNINITIALIZED = 1
FUNCTION_NOT_FOUND = 13


def function(since=0, latency="", before_init=False, lie=None):
    """
    Mark a method as one of NVML's functions: it is counted, wants nvmlInit, and meets the faults of the description.

    :param since: first driver branch that has it.
    :param latency: the operation whose latency it takes.
    :param before_init: whether it works without nvmlInit.
    :param lie: what it answers when it lies; None makes a handle of the kind that it would have made.
    """

    def decorate(body):
        name = body.__name__

        @functools.wraps(body)
        def call(self, *args, **kwargs):
            with self._lock:
                self.calls[name] += 1
            state = self._host.state()
            if not before_init and not self._users:
                raise self._error(UNINITIALIZED)
            if since > state["host"]["nvml_level"]:
                raise self._error(FUNCTION_NOT_FOUND)
            try:
                if state["faults"]:
                    return self._with_faults(name, body, args, kwargs, lie, latency)
                if latency:
                    self._host.take(latency)
                return body(self, *args, **kwargs)
            except hardware.Refused as refused:
                raise self._error(refused.code) from None

        return call

    return decorate
