"""
Metrics of simulated hosts, read back by the reference parser of Prometheus' own client.
"""

from prometheus_client.parser import text_string_to_metric_families

from gpuslice.engine import Engine
from gpuslice.metrics.gather import gather
from gpuslice.outputs import prometheus
from tests.support.hosts import config

#: What tells one board or slice from another; the others say what it is.
PLACES = ("slice", "pci_bus_id", "profile", "consumer", "kind", "method", "status", "what", "reason", "scope", "action")


def parsed(text):
    """Name without our prefix -> list of (labels, value)."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.timestamp is None and sample.name.startswith("gpuslice_")
            found.setdefault(sample.name.removeprefix("gpuslice_"), []).append((sample.labels, sample.value))
    return found


def gathered(host, every=None):
    """The metrics of a host, as :func:`parsed` has them."""
    with Engine(config(host)) as engine:
        return parsed(prometheus.text(gather(engine, every)))


def values(found, name, label):
    """Value of a label -> value of the series, of a metric whose series differ in that."""
    series = {labels[label]: value for labels, value in found.get(name, ())}
    assert len(series) == len(found.get(name, ())), f"{name} has several series by {label}"
    return series


def unreadable(found):
    """(what, reason) -> count."""
    return {(labels["what"], labels["reason"]): value for labels, value in found.get("unreadable", ())}
