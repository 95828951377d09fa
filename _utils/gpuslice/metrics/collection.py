"""
What was gathered so far: samples by the name of their metric, and what could not be read.
"""

import logging
import re
import traceback
from collections import Counter

from gpuslice import errors
from gpuslice import secret
from gpuslice.metrics.names import NAMES
from gpuslice.metrics.names import PREFIX
from gpuslice.outputs.prometheus import Family
from gpuslice.outputs.prometheus import Sample

log = logging.getLogger(__name__)

#: Class of an error -> why something could not be read, in the words that sensors have for it; else the class itself.
_REASONS = {
    errors.DriverMissing: "no-driver",
    errors.PermissionDenied: "no-permission",
    errors.DeviceNotFound: "gone",
    errors.Unhealthy: "not-answering",
}
_UNEXPECTED = "unexpected"


class Collection:
    """Metrics that are being gathered."""

    def __init__(self):
        self._samples = {name: [] for name in NAMES}
        self._unreadable = Counter()

    def add(self, name, labels, value):
        """Add a series of the metric of that name, without our prefix; None adds nothing."""
        if value is not None:
            self._samples[name].append(Sample(labels, value))

    def missed(self, what, reason, count=1):
        """Count what could not be read; both are short words."""
        self._unreadable[what, reason] += count

    def missed_all(self, pairs):
        """Count each (what, reason)."""
        for what, reason in pairs:
            self.missed(what, reason)

    def failed(self, what, err):
        """Count a source that failed by an error of ours."""
        log.info("metrics of %s can't be read: %s", what, err)
        self.missed(what, reason(err))

    def tried(self, what, source, *args, **more):
        """
        Ask a source, so that one which fails leaves the others as they are.

        :return: what it returns, None where it fails: that is counted, and what nobody foresaw is told in the log.
        """
        try:
            return source(*args, **more)
        except (errors.GpuSliceError, OSError) as err:
            self.failed(what, err)
        except Exception as err:
            # Ours to mend: one line for whoever reads the journal, all of it for whoever asks for more.
            log.error("metrics of %s failed unexpectedly: %s", what, secret.redacted(f"{type(err).__name__}: {err}"))
            log.debug("%s", secret.redacted(traceback.format_exc()))
            self.missed(what, _UNEXPECTED)
        return None

    def families(self):
        """All of it as a list of :class:`gpuslice.outputs.prometheus.Family`."""
        for (what, why), count in self._unreadable.items():
            self._samples["unreadable"].append(Sample({"what": what, "reason": why}, count))
        found = [Family(PREFIX + name, NAMES[name][1], NAMES[name][0], tuple(each)) for name, each in self._samples.items()]
        self._samples["unreadable"] = []
        return found


def reason(err):
    """Why something could not be read, as a short word for a label."""
    if isinstance(err, OSError):
        return "no-permission" if isinstance(err, PermissionError) else "unreadable"
    for kind, word in _REASONS.items():
        if isinstance(err, kind):
            return word
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(err).__name__).lower()
