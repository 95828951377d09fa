"""What ``docs/layouts.md`` shows is what comes out."""

import yaml

from tests.support import pages


def test_the_export_is_as_shown(minion):
    assert minion("mixed").call("gpu_slicing.export", text=True).splitlines() == pages.printed("gpu_slicing.export text=True")


def test_the_import_is_as_shown(minion):
    [written] = pages.blocks(pages.section("layouts", "From mig-parted"))
    made = minion("dgx-a100-40gb").call("gpu_slicing.import_mig_parted", written, config="balanced", text=True)
    assert made.splitlines() == pages.printed("gpu_slicing.import_mig_parted /srv/mig.yaml config=balanced text=True")


def test_the_pillar_is_valid_and_the_mistake_is_as_shown(minion):
    text = pages.section("layouts", "By name")
    pillar, on = pages.blocks(text)[0], minion("mixed")
    assert on.call("gpu_slicing.validate", yaml.safe_load(pillar))["result"] is True
    slipped = yaml.safe_load(pillar.replace("layout: training", "layout: trainning", 1))
    [found] = on.call("gpu_slicing.validate", slipped)["mistakes"]
    assert "Did you mean 'training'?" in found and found in text
