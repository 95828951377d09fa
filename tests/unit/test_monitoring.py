"""
The dashboard and the rules in examples/monitoring ask only for what is written, and name only commands that there are.
"""

import re

import pytest
import yaml

from gpuslice.metrics import names
from gpuslice.status_words import STATUSES
from tests.support import invented_metrics
from tests.support import promql
from tests.unit.test_documents import offered

#: What others write: Prometheus itself, node_exporter, DCGM's exporter, CEEMS.
OTHERS = {
    "up": (),
    "node_textfile_mtime_seconds": ("file",),
    "node_textfile_scrape_error": (),
    "DCGM_FI_PROF_SM_ACTIVE": ("UUID", "GPU_I_ID"),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("UUID", "GPU_I_ID"),
    "DCGM_FI_DEV_FB_USED": ("UUID", "GPU_I_ID"),
    "DCGM_FI_DEV_POWER_USAGE": ("UUID", "GPU_I_ID"),
    "ceems_compute_unit_gpu_index_flag": ("gpuuuid", "gpuiid"),
}
#: What Prometheus gives every series.
TARGET = {"job", "instance"}
RECORDED = {rule["record"]: rule["expr"] for rule in promql.rules("joins.yml")}
EXPRESSIONS = [
    *((title, expr) for title, exprs in promql.panels().items() for expr in exprs),
    *((rule["alert"], rule["expr"]) for rule in promql.rules("alerts.yml")),
    *RECORDED.items(),
]
SALT = re.compile(r"salt '\{\{ .*? \}\}' (\S+)")


def known(expression):
    """The labels that the series of an expression can have."""
    found = set(TARGET)
    for name in promql.series(expression):
        found |= known(RECORDED[name]) if name in RECORDED else set({**invented_metrics.SERIES, **OTHERS}[name])
    return found


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_only_what_is_written_is_asked_for(where, expression):
    names = promql.series(expression)
    assert names and names <= {*invented_metrics.SERIES, *OTHERS, *RECORDED}, where
    assert promql.labels(expression) <= known(expression), where


def test_what_is_invented_has_the_names_that_are_written():
    assert set(invented_metrics.SERIES) == {names.PREFIX + name for name in names.NAMES}
    assert invented_metrics.STATUSES == STATUSES


def test_the_names_in_an_expression_are_found():
    expression = 'sum by (a) (rate(x_total{b=~"c{d}",e!="f"}[5m])) / on (g) group_left (h) max(y offset 1h) or vector(0) * 2e3'
    assert promql.series(expression) == {"x_total", "y"}
    assert promql.labels(expression) == {"a", "b", "e", "g", "h"}
    assert promql.labels('label_replace(x, "new", "$1", "old", "(.+)")') == {"old"}
    assert promql.labels_shown("{{ $labels.a }} {{b}} {{ .c }}") == {"a", "b"}


def test_everything_that_is_written_is_shown_or_watched():
    asked = {name for _, expression in EXPRESSIONS for name in promql.series(expression)}
    # The first can be had of the energies of slices, the second of the boards' profiles.
    left = {"gpuslice_board_energy_joules_total", "gpuslice_slice_compute_ratio"}
    assert set(invented_metrics.SERIES) - asked - left == set()


@pytest.mark.parametrize("rule", promql.rules("alerts.yml"), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "next_step"}
    assert "$labels.instance" in rule["annotations"]["summary"]
    assert promql.labels_shown(" ".join(rule["annotations"].values())) <= known(rule["expr"])
    assert SALT.match(rule["annotations"]["next_step"])[1] in {*offered("_modules"), "state.apply", "cmd.run"}


def test_of_each_alert_it_is_tried_when_it_is_told_and_when_not():
    tests = yaml.safe_load((promql.FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    tried = [(one["alertname"], bool(one.get("exp_alerts"))) for test in tests for one in test["alert_rule_test"]]
    assert set(tried) == {(rule["alert"], told) for rule in promql.rules("alerts.yml") for told in (True, False)}


# -- the dashboard -------------------------------------------------------------------------------------------------------
def test_panels_lie_beside_each_other():
    taken = set()
    for panel in promql.dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_takes_the_data_source_that_is_chosen():
    read = promql.dashboard()
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert [one["name"] for one in read["templating"]["list"]] == ["datasource", "host", "board", "slice"]
    asking = [panel for panel in read["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in asking if any(one["datasource"] != chosen for one in (panel, *panel["targets"]))] == []
    assert len({panel["id"] for panel in read["panels"]}) == len(read["panels"])
    assert len({panel["title"] for panel in asking}) == len(asking)


def test_legends_and_columns_name_labels_that_there_are():
    for panel in promql.dashboard()["panels"]:
        for target in panel.get("targets", ()):
            assert promql.labels_shown(target["legendFormat"]) <= known(promql.filled(target["expr"])), panel["title"]
        for change in panel.get("transformations", ()):
            named = {name for name in change["options"].get("renameByName", ()) if not name.startswith("Value")}
            assert named <= {label for target in panel["targets"] for label in known(target["expr"])}, panel["title"]
