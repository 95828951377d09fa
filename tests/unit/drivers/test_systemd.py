"""Units of systemd, as systemctl answers for them."""

import pytest

from gpuslice import errors
from gpuslice.drivers import systemd
from gpuslice.host.base import of_user
from gpuslice.host.base import parted
from gpuslice.host.holders import parse_cgroup
from gpuslice.sim import units

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


# -- managers of users -------------------------------------------------------------------------------------------------
JOB, FILE = of_user("job.service", 1000), "/etc/containers/systemd/users/1000/job.container"
LINGERS = {
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n",
    "/var/lib/systemd/linger/ada": "", FILE: "[Container]\nImage=localhost/job:1\n",
}  # fmt: skip


@pytest.fixture
def lingering(simulated):
    return simulated("dgx-h100", files=LINGERS)


def runs(host, unit):
    return unit in units.running(host.state())


def test_a_unit_of_a_user_is_told_from_one_of_the_system():
    assert JOB == "job.service of uid 1000" and parted(JOB) == ("job.service", 1000)
    assert parted("job.service") == ("job.service", None)
    # As the holders of a GPU are named.
    cgroup = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/job.service"
    assert parse_cgroup(cgroup)[0] == JOB


def test_a_users_manager_is_told_by_the_user_himself(lingering):
    assert systemd.restart(lingering, JOB).returncode == systemd.NOT_LOADED
    systemd.reload_units(lingering, 1000)
    for change, running in (
        (systemd.restart_if_active, False), (systemd.start, True), (systemd.restart, True), (systemd.stop, False),
    ):  # fmt: skip
        assert change(lingering, JOB).failure == "" and runs(lingering, JOB) is running
    assert systemd.restart(lingering, JOB, waits=False).failure == "" and runs(lingering, JOB)
    assert systemd.restart(lingering, "job.service").returncode == systemd.NOT_LOADED


def test_a_manager_that_does_not_run_is_told_nothing(lingering):
    assert systemd.has_manager(lingering, 1000) and not systemd.has_manager(lingering, 1001)
    systemd.reload_units(lingering, 1001)
    assert systemd.stop(lingering, "user@1000.service").failure == ""
    assert not systemd.has_manager(lingering, 1000)
    systemd.reload_units(lingering, 1000)
    assert "Failed to connect to bus" in systemd.start(lingering, JOB).failure


def test_whether_a_manager_runs_is_not_guessed(lingering):
    lingering.add_fault({"call": "run", "late": "EIO"})
    with pytest.raises(errors.ToolFailed, match="does not say whether user@1000.service runs: .*Mend that and run again"):
        systemd.has_manager(lingering, 1000)


def test_a_manager_that_can_not_read_its_units_is_named(lingering):
    lingering.add_fault({"call": "run", "nth": 2, "late": "EIO"})
    with pytest.raises(errors.ToolFailed, match="'systemctl daemon-reload' in the manager of uid 1000 failed: "):
        systemd.reload_units(lingering, 1000)


def test_without_root_nobody_else_is_told(simulated):
    host = simulated("dgx-h100", files=LINGERS, privileged=False)
    assert "Operation not permitted" in systemd.start(host, JOB).failure
