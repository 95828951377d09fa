"""Units of systemd, as systemctl answers for them."""

import pytest

from gpuslice import errors
from gpuslice.drivers import systemd

DAEMON = "nvidia-gridd.service"


def test_a_unit_is_stopped_started_and_restarted(simulated):
    guest = simulated("vgpu-guest")
    assert systemd.active_state(guest, DAEMON) == "active"
    assert systemd.stop(guest, DAEMON).failure == ""
    assert systemd.active_state(guest, DAEMON) == "inactive"
    for start in (systemd.start, systemd.restart):
        assert start(guest, DAEMON).failure == ""
        assert systemd.active_state(guest, DAEMON) == "active"


def test_what_systemctl_says_against_a_unit_is_told(simulated):
    assert "nothing.service not found" in systemd.restart(simulated("vgpu-guest"), "nothing.service").failure


def test_a_unit_that_is_not_there_has_ended(simulated):
    guest = simulated("vgpu-guest")
    assert systemd.stop(guest, "nothing.service").returncode == systemd.NOT_LOADED
    assert systemd.end(guest, "nothing.service").failure == ""
    assert systemd.end(guest, DAEMON).failure == "" and systemd.active_state(guest, DAEMON) == "inactive"


def test_a_unit_that_waits_for_us_is_only_queued(simulated):
    guest = simulated("vgpu-guest")
    systemd.stop(guest, DAEMON)
    with guest.change() as state:
        state["ordered_after_us"] = [DAEMON]
    with pytest.raises(errors.ToolHangs):
        systemd.start(guest, DAEMON)
    assert systemd.start(guest, DAEMON, waits=False).failure == ""


def test_a_unit_that_is_not_there_can_not_be_enabled(simulated):
    host = simulated("dgx-h100")
    for change, verb in ((systemd.enable, "enable"), (systemd.disable, "disable")):
        with pytest.raises(errors.ToolFailed, match=f"'systemctl {verb} none.service' failed: .* does not exist"):
            change(host, "none.service")


def test_nobody_reads_units_anew_where_systemd_does_not_run(simulated):
    host = simulated("dgx-h100", tools=[])
    systemd.reload_units(host)
    assert systemd.active_state(host, DAEMON) == ""
    for ask in (systemd.start, systemd.stop, systemd.restart, systemd.enable, systemd.disable):
        with pytest.raises(errors.ToolMissing):
            ask(host, DAEMON)
