"""
What the record of energy makes of what the boards of a simulated host draw.
"""

from gpuslice.energy import meter
from gpuslice.energy import report
from gpuslice.engine import Engine
from tests.support.hosts import config

H100 = {"model": "h100-80gb", "address": "0000:1b:00.0", "mig": "enabled", "draw": {"idle": 70, "active": 700}}
A100 = {"model": "a100-40gb", "address": "0000:1c:00.0", "mig": "enabled", "draw": {"idle": 50, "active": 400}}


def measured(host, **given):
    """PCI address -> why a board could not be read, by a look of a process of its own."""
    with Engine(config(host)) as engine:
        return {gpu: told["unreadable"] for gpu, told in report.looked(meter.look(engine, **given)).items()}


def sentences(host, **given):
    """PCI address -> what a look says that it did."""
    with Engine(config(host)) as engine:
        return {gpu: told["sentence"] for gpu, told in report.looked(meter.look(engine, **given)).items()}


def charges(host, gpu=None, since=None):
    """The report."""
    with Engine(config(host)) as engine:
        return report.made(engine, gpu, since)


def figures(found, gpu):
    """(name of a slice, method) -> (active, idle) in whole millijoules, of the slices of a GPU."""
    rows = [row for row in found["slices"] if row["gpu"] == gpu]
    return {(row["slice"], row["method"]): (_whole(row["active_joules"]), _whole(row["idle_joules"])) for row in rows}


def is_whole(found, gpu):
    """Whether what is told of a board is all that it took, to the millijoule."""
    board = found["boards"][gpu]
    rows = [row for row in found["slices"] if row["gpu"] == gpu]
    assert len({(row["slice"], row["uuid"], row["method"]) for row in rows}) == len(rows)
    parts = sum(_whole(row["active_joules"]) + _whole(row["idle_joules"]) for row in rows)
    rest = _whole(board["unallocated_joules"]) + _whole(board["earlier_joules"])
    return _whole(board["joules"]) == parts + rest


def _whole(joules):
    return round(joules * 1000)
