"""What ``docs/layouts.md`` shows is what comes out."""

import re

import yaml

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "layouts.md").read_text(encoding="utf-8")


def block(heading, number=0):
    """A YAML block of a section."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[number]


def printed(command):
    """What stands below a command, without the indentation of the document and the name of the minion."""
    below = TEXT.split(f"    $ salt-call {command}\n    local:\n")[1]
    lines = re.match(r"(?:        .*\n)+", below).group()
    return re.sub(r"^        ", "", lines, flags=re.MULTILINE)


def test_the_export_is_as_shown(minion):
    assert minion("mixed").call("gpu_slicing.export", text=True) == printed("gpu_slicing.export text=True")


def test_the_import_is_as_shown(minion):
    made = minion("dgx-a100-40gb").call("gpu_slicing.import_mig_parted", block("From mig-parted"), config="balanced", text=True)
    assert made == printed("gpu_slicing.import_mig_parted /srv/mig.yaml config=balanced text=True")


def test_the_pillar_is_valid_and_the_mistake_is_as_shown(minion):
    pillar, on = block("By name"), minion("mixed")
    assert on.call("gpu_slicing.validate", yaml.safe_load(pillar))["result"] is True
    slipped = yaml.safe_load(pillar.replace("layout: training", "layout: trainning", 1))
    [found] = on.call("gpu_slicing.validate", slipped)["mistakes"]
    assert "Did you mean 'training'?" in found and found in TEXT
