"""The examples of docs/fleet.md that need no master: they are run as they stand there."""

import os

import pytest
import yaml

from tests.support import pages
from tests.support import pillars

PILLAR, OTHER = pillars.mig(["3g.40gb", "1g.10gb"]), pillars.mig(["1g.10gb"])
FAULTS = [{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "times": 0, "error": "NVML_ERROR_UNKNOWN"}]


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """Units that the program ``systemctl`` was asked to restart, one call a line; it does nothing else."""
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$*" >> {calls}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return lambda: calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def test_a_service_starts_anew_when_slices_changed_and_only_then(minion, checkout_options, systemctl, tmp_path):
    [text] = pages.blocks(pages.section("fleet", "Restart when slices changed"), "# /srv/salt/trainer.sls")
    site = tmp_path / "site"
    site.mkdir()
    (site / "trainer.sls").write_text(text, encoding="utf-8")
    roots = {"base": [str(site), *checkout_options["file_roots"]["base"]]}
    on = minion("dgx-h100", file_roots=roots)
    assert [state.result for state in on.apply("trainer", pillar=PILLAR, test=True)] == [True, None, None, None]
    assert systemctl() == []
    assert all(state.result for state in on.apply("trainer", pillar=PILLAR))
    assert systemctl() == ["try-restart trainer.service"]
    assert all(state.result for state in on.apply("trainer", pillar=PILLAR))
    assert systemctl() == ["try-restart trainer.service"]
    assert all(state.result for state in on.apply("trainer", pillar=OTHER))
    assert systemctl() == 2 * ["try-restart trainer.service"]

    broken = minion("dgx-h100", file_roots=roots, changes={"faults": FAULTS})
    assert [state.result for state in broken.apply("trainer", pillar=PILLAR)] == [True, False, False, False]
    assert systemctl() == 2 * ["try-restart trainer.service"]


def test_the_mine_has_what_its_example_asks_for(minion):
    [text] = pages.blocks(pages.section("fleet", "The mine"), "# in the pillar")
    on = minion("a30-pair", pillar={**yaml.safe_load(text)})
    on.call("mine.update")
    assert on.call("mine.get", "*", "gpu_slicing.summary") == {"functional": on.call("gpu_slicing.summary")}
    assert on.call("mine.get", "*", "gpu_mig.headroom") == {"functional": on.call("gpu_mig.headroom")}
    [slices] = on.call("mine.get", "*", "gpu_slices").values()
    assert slices == on.call("gpu.slices") and len(slices) == 3


def test_what_the_schedules_call_tells_drift(minion):
    written = pages.blocks(pages.section("fleet", "Notice drift"), "# in the pillar")
    check, highstate = (yaml.safe_load(text)["schedule"]["gpu_drift"] for text in written)
    on = minion("dgx-h100", pillar=PILLAR)
    assert check["function"] == "gpu_slicing.check" and on.call(check["function"], **check["kwargs"])["result"] is False
    assert all(state.result for state in on.apply("gpu_slicing"))
    assert on.call(check["function"], **check["kwargs"])["result"] is True
    on.set_pillar(OTHER)
    found = on.call(check["function"], **check["kwargs"])
    assert found["result"] is False and found["changes"]
    assert highstate["function"] == "state.apply"
    [sls], again = highstate["args"], highstate["kwargs"]
    assert None in [state.result for state in on.apply(sls, **again)]
