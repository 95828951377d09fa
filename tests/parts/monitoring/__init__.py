"""
Prometheus and node_exporter themselves, on the loopback and in a folder of a test, and what they answer.
"""

import contextlib
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from tests.support import needs

#: What each needs to run here: the programs of Debian's packages.
PROMETHEUS, EXPORTER, TOOL = "prometheus", "prometheus-node-exporter", "promtool"
#: Seconds that a daemon may take to answer, and to end.
PATIENCE = 20


def free_port():
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(log, *command):
    """A daemon, which is ended at the end; what it says is in the file ``log``."""
    with open(log, "wb") as told, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def eventually(read, good=bool, seconds=PATIENCE):
    """What ``read()`` returns, as soon as ``good`` of that is true; fails with the last when it takes too long."""
    ends = time.monotonic() + seconds
    while True:
        found = read()
        if good(found):
            return found
        assert time.monotonic() < ends, f"not within {seconds} s: {found!r:.2000}"
        time.sleep(0.2)


def fetched(url):
    """The body that a URL has; "" while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except (ConnectionError, urllib.error.URLError):
        return ""


class Server:
    """Prometheus that answers at a URL."""

    def __init__(self, url):
        self.url = url

    def get(self, path, **asked):
        """The data that the HTTP interface answers, which is a failure where it answers an error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as err:
            raise AssertionError(f"{asked}: {err.read().decode()}") from err

    def query(self, expression, **asked):
        """What an expression is now: a list of (labels, value)."""
        return [(one["metric"], float(one["value"][1])) for one in self.get("query", query=expression, **asked)["result"]]

    def query_range(self, expression, begin, end, step):
        """What an expression was: a list of (labels, list of (time, value))."""
        found = self.get("query_range", query=expression, start=begin, end=end, step=step)["result"]
        return [(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in found]


@contextlib.contextmanager
def exporter(place, folder):
    """node_exporter that reads the metrics in a folder, and nothing else; its address."""
    address = f"127.0.0.1:{free_port()}"
    options = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}"]
    with running(place / "exporter.txt", needs.path(EXPORTER), *options, f"--web.listen-address={address}"):
        eventually(lambda: fetched(f"http://{address}/metrics"))
        yield address


@contextlib.contextmanager
def prometheus(place, targets=(), rules=(), every="1s", data=None):
    """
    Prometheus, as a :class:`Server`.

    :param place: a folder for its files. :param targets: addresses that it reads; :param every: how often.
    :param rules: files of rules; :param data: the folder of its samples.
    """
    data = data or place / "data"
    scrape = [{"job_name": "node", "static_configs": [{"targets": list(targets)}]}] if targets else []
    settings = {"global": {"scrape_interval": every, "evaluation_interval": every}, "rule_files": [str(path) for path in rules]}
    config = pathlib.Path(place) / "prometheus.yml"
    config.write_text(yaml.safe_dump({**settings, "scrape_configs": scrape}), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={data}", "--storage.tsdb.retention.time=100y"]
    with running(place / "prometheus.txt", needs.path(PROMETHEUS), *options, f"--web.listen-address={address}"):
        eventually(lambda: "Ready" in fetched(f"http://{address}/-/ready"))
        yield Server(f"http://{address}")
