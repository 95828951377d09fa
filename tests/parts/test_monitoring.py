"""
Prometheus and node_exporter themselves: the rules and the dashboard of examples/monitoring over a text file of metrics.
"""

import os
import re
import subprocess
import time
from functools import partial

import pytest
import yaml

from gpuslice.engine import Engine
from gpuslice.metrics import writer
from tests.conftest import ROOT
from tests.parts import monitoring
from tests.support import hosts
from tests.support import invented_metrics
from tests.support import needs
from tests.support import pillars
from tests.support import promql

pytestmark = [pytest.mark.slow, needs.programs(monitoring.PROMETHEUS, monitoring.EXPORTER, monitoring.TOOL)]

FILE = "gpuslice.prom"
FIRST, GONE = "0000:43:00.0-3g.40gb-0", "0000:43:00.0-2g.20gb-1"
#: Of two GPU instances and of two boards, as DCGM's exporter and CEEMS tell them.
UUID = "GPU-00000001-0000-0000-0000-000000000000"
NEIGHBOURS = f"""
DCGM_FI_DEV_FB_USED{{gpu="1",UUID="{UUID}",GPU_I_PROFILE="3g.40gb",GPU_I_ID="1"}} 512
DCGM_FI_PROF_SM_ACTIVE{{gpu="1",UUID="{UUID}",GPU_I_PROFILE="3g.40gb",GPU_I_ID="1"}} 0.25
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="1",UUID="{UUID}",GPU_I_PROFILE="3g.40gb",GPU_I_ID="1"}} 0.5
DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="{UUID}",GPU_I_PROFILE="3g.40gb",GPU_I_ID="1"}} 333
DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="{UUID}",GPU_I_PROFILE="2g.20gb",GPU_I_ID="3"}} 333
ceems_compute_unit_gpu_index_flag{{manager="slurm",uuid="41",gpuuuid="{UUID}",gpuiid="1"}} 0.5
ceems_compute_unit_gpu_index_flag{{manager="slurm",uuid="42",gpuuuid="{UUID}",gpuiid="3"}} 1
"""


def promtool(*arguments):
    done = subprocess.run(
        [monitoring.TOOL, *map(str, arguments)], cwd=promql.FOLDER, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_right_and_every_alert_is_told_when_it_should_be():
    assert "FAILED" not in promtool("check", "rules", *promql.RULES)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_every_expression_of_the_dashboard_can_be_parsed(tmp_path):
    asked = [promql.filled(expr) for exprs in promql.panels().values() for expr in exprs]
    rules = [{"record": f"asked_{number}", "expr": expr} for number, expr in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"SUCCESS: {len(asked)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def of_host(number, labels, value):
    return {"series": labels.replace("HOST", f"host{number}"), "values": f"{value}x2"}


def test_the_joins_of_the_document_hold_on_a_fleet_whose_boards_have_the_same_addresses(tmp_path):
    """What stands indented in docs/metrics.md, of two hosts that differ in nothing but their names and UUIDs."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").partition("## Join with other")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    [*joins, asked] = [re.sub(r" {3,}#.*", "", block) for block in blocks]
    queries = [*joins, *asked.strip().splitlines()]
    place = 'slice="0000:1b:00.0-1g.10gb-0",parent_uuid="GPU-HOST",pci_bus_id="0000:1b:00.0",pci_bus_id_long="00000000:1B:00.0"'
    mig = f'{place},GPU_I_ID="7",technique="mig",consumer="",instance="HOST:9100"'
    series = [
        of_host(number, labels, value)
        for number, idle in ((1, 0), (2, 3))
        for labels, value in (
            (f"gpuslice_slice_info{{{mig},of=\"\"}}", "1+0"),
            (f"gpuslice_slice_processes{{{mig}}}", f"{idle}+0"),
            (f"gpuslice_board_info{{{place},model=\"H100\",numa_node=\"0\",instance=\"HOST:9100\"}}", "1+0"),
            ('DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{UUID="GPU-HOST",GPU_I_ID="7",instance="HOST:9400"}', "0.5+0"),
            ('DCGM_FI_DEV_GPU_TEMP{pci_bus_id="00000000:1B:00.0",hostname="HOST",instance="HOST:9400"}', "40+0"),
        )
    ]
    wanted = {"DCGM_FI_PROF": 2, "DCGM_FI_DEV": 2, "gpuslice_slice_processes": 1}
    rules = [{"record": f"asked_{number}", "expr": expr} for number, expr in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}), encoding="utf-8")
    begun = [(f"asked_{number}", expr.strip()) for number, expr in enumerate(queries)]
    counts = {name: count for name, expr in begun for begins, count in wanted.items() if expr.startswith(begins)}
    assert len(counts) == len(wanted)
    checks = [
        {"expr": f"count({name})", "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": count}]}
        for name, count in counts.items()
    ]
    test = {"rule_files": ["rules.yml"], "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test), encoding="utf-8")
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yml")


# -- over a text file ----------------------------------------------------------------------------------------------------
class Host:
    """A host with its text file."""

    def __init__(self, folder):
        self.folder = folder
        self.metrics = invented_metrics.Metrics(invented_metrics.SMALL, int(time.time()), every=1, ill=(0, invented_metrics.HOUR))
        self.write()

    def write(self, without=(), text=None):
        """The next look, in the way of the writer."""
        new = self.folder / f"{FILE}.new"
        new.write_text(self.metrics.text(without) if text is None else text, encoding="utf-8")
        new.rename(self.folder / FILE)
        self.metrics.passed = int(time.time()) - self.metrics.begin


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textfile")
    (folder / "others.prom").write_text(NEIGHBOURS, encoding="utf-8")
    return Host(folder)


@pytest.fixture(scope="module")
def server(host, tmp_path_factory):
    place = tmp_path_factory.mktemp("prometheus")
    rules = [promql.FOLDER / name for name in promql.RULES]
    with monitoring.exporter(place, host.folder) as address, monitoring.prometheus(place, [address], rules) as started:
        # For a rate there have to be two looks, and for what is made of it some more of Prometheus.
        drawn = f'gpuslice:slice_power_watts{{slice="{GONE}"}} > 0'
        monitoring.eventually(lambda: host.write() or started.query(drawn))
        yield started


def test_every_rule_can_be_evaluated(host, server):
    def read():
        return [rule for group in server.get("rules")["groups"] for rule in group["rules"]]

    names = {rule.get("alert") or rule["record"] for name in promql.RULES for rule in promql.rules(name)}
    found = monitoring.eventually(read, lambda rules: all(rule["health"] != "unknown" for rule in rules))
    assert {rule["name"] for rule in found} == names
    assert [(rule["name"], rule["lastError"]) for rule in found if rule["health"] != "ok"] == []


@pytest.mark.parametrize("title", promql.panels())
def test_every_panel_shows_what_there_is(host, server, title):
    for expression in promql.panels()[title]:
        chosen = {"$host": "127.0.0.1:.*", "$board": "0000:(1b|61):00.0", "$slice": "0000:.*", "$__range": "1m", "[2m]": "[30s]"}
        asked = promql.filled(expression, **chosen)
        if title == "Changes of the layout":
            # Nothing was changed here: what is left is whether it can be asked.
            assert server.query(asked) == []
        else:
            monitoring.eventually(partial(server.query, asked))


def test_what_others_measure_is_told_by_slice(host, server):
    def one(name, **labels):
        chosen = ",".join(f'{key}="{value}"' for key, value in labels.items())
        [(found, value)] = monitoring.eventually(lambda: server.query(f"{name}{{{chosen}}}"))
        return found, value

    assert one("gpuslice:slice_dcgm_memory_used_bytes", slice=FIRST)[1] == 512 * 2**20
    known, value = one("gpuslice:slice_dcgm_sm_active_ratio")
    assert (known["slice"], known["consumer"], known["pci_bus_id"], value) == (FIRST, "infer-1", "0000:43:00.0", 0.25)
    assert one("gpuslice:slice_dcgm_engine_active_ratio", slice=FIRST)[1] == 0.5
    assert one("gpuslice:board_dcgm_power_watts")[1] == 333
    one("gpuslice:unit_power_watts", uuid="41")
    [expression] = [rule["expr"] for rule in promql.rules("joins.yml") if rule["record"] == "gpuslice:unit_power_watts"]
    now = time.time()
    units = {known["uuid"]: value for known, value in server.query(expression, time=now)}
    slices = {known["slice"]: value for known, value in server.query("gpuslice:slice_power_watts", time=now)}
    assert units == pytest.approx({"41": slices[FIRST] / 2, "42": slices[GONE]}) and units["41"] > 0


def test_series_of_a_slice_end_with_the_next_file(host, server):
    mine = f'{{__name__=~"gpuslice_.*",slice="{GONE}"}}'
    assert len(server.query(mine)) >= 10
    host.write(without=[GONE])
    monitoring.eventually(lambda: server.query(mine), lambda found: not found)
    assert server.query(f'gpuslice_slice_info{{slice="{FIRST}"}}')
    host.write()
    assert monitoring.eventually(lambda: server.query(mine))


def _pending(server, name):
    return [one for one in server.get("alerts")["alerts"] if one["labels"]["alertname"] == name]


def test_a_writer_that_stands_still_is_noticed(host, server):
    assert _pending(server, "GpuMetricsFileStale") == _pending(server, "GpuMetricsStale") == []
    begun = time.time() - 400
    os.utime(host.folder / FILE, (begun, begun))
    [alert] = monitoring.eventually(lambda: _pending(server, "GpuMetricsFileStale"))
    assert alert["labels"]["file"].endswith(FILE)
    text = host.metrics.text()
    old = re.sub(r"^(gpuslice_last_run_timestamp_seconds\{\}) \S+$", rf"\1 {begun}", text, flags=re.M)
    assert old != text
    host.write(text=old)
    assert monitoring.eventually(lambda: _pending(server, "GpuMetricsStale"))
    host.write()
    monitoring.eventually(lambda: _pending(server, "GpuMetricsStale"), lambda found: not found)


def test_a_file_that_is_refused_or_gone_is_noticed(host, server):
    host.write(text=host.metrics.text() + "gpuslice_odd{ 1\n")
    [alert] = monitoring.eventually(lambda: _pending(server, "GpuMetricsRefused"))
    assert alert["state"] == "pending" and "job" in alert["labels"]
    assert monitoring.eventually(lambda: _pending(server, "GpuMetricsGone"))
    host.write()
    monitoring.eventually(lambda: server.query("node_textfile_scrape_error"), lambda found: found[0][1] == 0)
    monitoring.eventually(lambda: _pending(server, "GpuMetricsGone"), lambda found: not found)


# -- the writer itself ---------------------------------------------------------------------------------------------------
def _written(dgx, folder):
    with Engine(hosts.config(dgx)) as engine:
        writer.write(engine, str(folder / FILE), 15)


def test_all_slices_of_a_dgx_are_told_and_those_that_go_are_told_no_more(simulated, tmp_path):
    textfile = tmp_path / "textfile"
    textfile.mkdir()
    draw, power = {"idle": 110, "active": 690}, {"default": 700, "least": 200}
    boards = [{"model": "h100-80gb", "address": one, "draw": draw, "power": power} for one in invented_metrics.DGX]
    dgx = simulated("dgx-h100", processes=[], gpus=boards)
    assert hosts.apply(dgx, pillars.mig({"1g.10gb": 7})).ok
    _written(dgx, textfile)
    dgx.let_pass(15)
    _written(dgx, textfile)
    rules = [promql.FOLDER / name for name in promql.RULES]
    with monitoring.exporter(tmp_path, textfile) as address, monitoring.prometheus(tmp_path, [address], rules) as server:
        monitoring.eventually(lambda: server.query("count(gpuslice_slice_info) == 56"))
        found = server.query('{__name__=~"gpuslice_.*"}')
        target = {"__name__", "instance", "job"}
        for known, _ in found:
            assert set(known) - target <= set(invented_metrics.SERIES[known["__name__"]]), known
        assert len(found) < 1000
        evaluated = monitoring.eventually(lambda: [one for group in server.get("rules")["groups"] for one in group["rules"]],
                                          lambda rules: all(rule["health"] != "unknown" for rule in rules))  # fmt: skip
        assert {rule["health"] for rule in evaluated} == {"ok"}
        assert hosts.apply(dgx, pillars.mig({"3g.40gb": 2})).ok
        _written(dgx, textfile)
        monitoring.eventually(lambda: server.query("count(gpuslice_slice_info) == 16"))
        assert not server.query('{__name__=~"gpuslice_.*",GPU_I_PROFILE="1g.10gb"}')
