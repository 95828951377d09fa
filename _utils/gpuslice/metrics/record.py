"""
Which file the metrics of this host are written to: one that is given up leaves none behind that nobody writes any more.
"""

from gpuslice import errors
from gpuslice.metrics.writer import refuse_path
from gpuslice.records.store import Record
from gpuslice.records.store import saying

FILE = "metrics.json"
_FORMAT = 1


def _checked(data):
    if set(data) != {"textfile"} or not isinstance(data["textfile"], str):
        raise ValueError("it names no file")
    try:
        refuse_path(data["textfile"])
    except errors.PolicyError as err:
        raise ValueError("it names no file of metrics") from err


class Exported:
    """The record of one host."""

    def __init__(self, host):
        self._host = host
        self._file = Record(host, FILE, "the record of the file of metrics", _FORMAT, _checked)

    def path(self):
        """The file, "" where none is written. One that is not believed names none: nothing would be removed for it."""
        try:
            return self._file.read()["textfile"]
        except (OSError, ValueError, errors.StateDirUnusable):
            return ""

    def note(self, path):
        """Metrics are written to this file; "" for none any more. Raises errors.StateDirUnusable."""
        with saying(self._host.state_dir, "note where metrics are written to"):
            if path:
                self._file.write({"textfile": path})
            else:
                self._file.remove()
