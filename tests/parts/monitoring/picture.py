"""
The picture of the dashboard in the documents: Prometheus itself is asked what the panels ask, over what the writer of metrics
wrote of a simulated host, and the answers are drawn here. Grafana draws them otherwise; this is no picture of it.

    PYTHONPATH=_utils python -m tests.parts.monitoring.picture [file]
"""

import pathlib
import subprocess
import sys
import tempfile

from tests.conftest import ROOT
from tests.parts import monitoring
from tests.parts.monitoring import drawing
from tests.parts.monitoring import story
from tests.support import promql

PLACE = ROOT / "docs" / "pictures" / "dashboard.svg"
MINUTES, SHOWN = 150, 135
TARGET = 'job="node",instance="gpu7:9100"'


def main(place=PLACE):
    """Draw it into a file."""
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder)
        end = written(made)
        command = [monitoring.TOOL, "tsdb", "create-blocks-from", "openmetrics", made / "metrics.txt", made / "data"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
        with monitoring.prometheus(made, data=made / "data") as server:
            picture = drawing.picture(promql.dashboard(), Answers(server, end))
    place = pathlib.Path(place)
    place.parent.mkdir(exist_ok=True)
    place.write_text(picture, encoding="utf-8")
    print(f"{place}: {len(picture) // 1024} KiB")


def written(folder):
    """All files of the host as one with times, which is what Prometheus takes in. Returns the time of the last one."""
    host = story.host(folder)
    with open(folder / "metrics.txt", "w", encoding="utf-8") as file:
        for at, text in story.texts(host, folder, MINUTES):
            file.writelines(f"{_placed(line)} {at:.3f}\n" for line in text.splitlines() if not line.startswith("#"))
        file.write("# EOF\n")
    return int(at) + 5


def _placed(line):
    """A sample with the labels that Prometheus gives it."""
    series, value = line.rsplit(" ", 1)
    known = f"{series.removesuffix('}')}," if series.endswith("}") else f"{series}{{"
    return f"{known}{TARGET}}} {value}"


class Answers:
    """What Prometheus says of the expressions of a panel."""

    def __init__(self, server, end):
        self._server, self.begin, self.end = server, end - SHOWN * story.MINUTE, end

    def now(self, expression):
        """(labels, value) at the end."""
        return self._server.query(self._filled(expression), time=self.end)

    def over_time(self, expression):
        """(labels, list of (time, value))."""
        return self._server.query_range(self._filled(expression), self.begin, self.end, story.STEP)

    def _filled(self, expression):
        return promql.filled(expression, **{"$__range": f"{self.end - self.begin}s"})


if __name__ == "__main__":
    main(*sys.argv[1:])
