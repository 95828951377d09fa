"""
What is asked of Prometheus in our examples: expressions of the dashboard and of rules, and the names in them.
"""

import json
import re

import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "monitoring"
DASHBOARD = FOLDER / "dashboard.json"
RULES = ("alerts.yml", "joins.yml")
#: What Grafana puts into expressions.
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$host": ".*", "$board": ".*", "$slice": ".*"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_KEYWORDS = {"and", "or", "unless", "offset", "bool"}
#: "by (a, b)", "on (a)"; what stands between the brackets is labels.
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = r"(?<![\w.$])[a-zA-Z_:][\w:]*"
#: In texts for people: {{ $labels.a }} of an alert, {{a}} of a legend.
_TOLD = re.compile(r"\$labels\.(\w+)|\{\{(\w+)\}\}")


def dashboard():
    """The dashboard as it is read."""
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def filled(expression, **chosen):
    """An expression of the dashboard as Prometheus gets it."""
    for name, value in {**VARIABLES, **chosen}.items():
        expression = expression.replace(name, value)
    return expression


def panels():
    """Title of each panel that asks something -> its expressions, and those of annotations and variables, as they stand there."""
    read = dashboard()
    asking = [panel for panel in read["panels"] if panel["type"] != "row"]
    found = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in asking}
    found |= {one["name"]: [one["expr"]] for one in read["annotations"]["list"]}
    asked = [one["definition"] for one in read["templating"]["list"] if one["type"] == "query"]
    return {**found, "variables": [re.fullmatch(r"label_values\((.*), \w+\)", one)[1] for one in asked]}


def rules(name):
    """The rules of a file of :data:`RULES`."""
    return [rule for group in yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def series(expression):
    """Names of the series that an expression reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", _GROUPING.sub(" ", _STRING.sub('""', expression)))
    # Of a function and an aggregation a bracket follows, now that those of groupings are gone.
    return {name for name, call in re.findall(rf"({_NAME})\s*(\(?)", bare) if not call and name not in _KEYWORDS}


def labels(expression):
    """Names of the labels by which an expression chooses, groups, and joins, without those that it makes."""
    bare = _STRING.sub('""', expression)
    chosen = {name for part in re.findall(r"\{([^}]*)\}", bare) for name in re.findall(r"(\w+)\s*[=!]", part)}
    grouped = {name.strip() for part in _GROUPING.findall(bare) for name in part.split(",") if name.strip()}
    read = set(re.findall(r'label_replace\([^"]*?"\w+", "[^"]*", "(\w+)"', expression))
    return chosen | grouped | read


def labels_shown(text):
    """Names of the labels that a text for people shows."""
    return {name for pair in _TOLD.findall(text) for name in pair if name}
