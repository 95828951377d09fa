"""The units that write metrics: their texts mean what was asked for, and systemd takes them as they are."""

import os
import subprocess
import sys

import pytest

import gpuslice
from gpuslice import errors
from gpuslice.metrics import unit
from gpuslice.outputs import unit_text
from tests.support import needs

PLAIN = "/var/lib/prometheus/node-exporter/gpuslice.prom"
ODD = '/srv/a b/100%n "x" $HOME/gpu.prom'


def texts(path=PLAIN, interval=15, **more):
    return unit.texts(path, interval, "/var/lib/gpu-slicing", **more)


def value(text, section, key):
    return unit_text.values(unit_text.settings(text), section, key)


def test_the_service_runs_the_package_that_wrote_it_with_this_python():
    text = texts()[unit.SERVICE]
    [command] = value(text, "Service", "ExecStart")
    assert unit_text.words(command) == [
        sys.executable, "-m", "gpuslice.metrics", "--textfile", PLAIN, "--interval", "15", "--state-dir", "/var/lib/gpu-slicing",
    ]  # fmt: skip
    [place] = value(text, "Service", "Environment")
    assert place == f"PYTHONPATH={os.path.dirname(os.path.dirname(gpuslice.__file__))}"


def test_what_would_close_the_devices_of_gpus_or_the_log_is_not_asked_for():
    keys = {each.key for each in unit_text.settings(texts()[unit.SERVICE])}
    assert not keys & {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow", "ProtectKernelLogs", "PrivateTmp"}
    assert {"ProtectSystem", "NoNewPrivileges", "CapabilityBoundingSet", "PrivateNetwork"} <= keys


def test_the_kernel_opens_its_log_where_only_administrators_of_the_log_may_read_it():
    [held] = value(texts()[unit.SERVICE], "Service", "CapabilityBoundingSet")
    assert "CAP_SYSLOG" in held.split()


def test_an_odd_path_stays_what_it_is():
    text = texts(ODD)[unit.SERVICE]
    [command] = value(text, "Service", "ExecStart")
    assert unit_text.words(command.replace("%%", "%").replace("$$", "$"))[4] == ODD
    [folders] = value(text, "Service", "ReadWritePaths")
    assert unit_text.words(folders.replace("%%", "%"))[0] == f"-{os.path.dirname(ODD)}"


@pytest.mark.parametrize("path", ["/srv/x\ny.prom", "/srv/\x1b.prom"])
def test_a_path_that_no_unit_can_hold_is_refused(path):
    with pytest.raises(errors.PolicyError, match="no unit file can hold"):
        texts(path)


def test_the_timer_is_as_often_as_it_is_asked_for():
    text = texts(interval=30)[unit.TIMER]
    assert value(text, "Timer", "OnUnitActiveSec") == ["30"] and value(text, "Timer", "AccuracySec") == ["1"]
    assert value(text, "Install", "WantedBy") == ["timers.target"] and value(text, "Timer", "Unit") == [unit.SERVICE]


def test_a_simulated_host_is_written_by_its_description():
    [command] = value(texts(simulate="/srv/host.yaml")[unit.SERVICE], "Service", "ExecStart")
    assert unit_text.words(command)[-2:] == ["--simulate", "/srv/host.yaml"]


@needs.programs("systemd-analyze")
@pytest.mark.parametrize("path", ["/var/lib/x.prom", ODD])
def test_systemd_takes_the_units_as_they_are(tmp_path, path):
    written = []
    for name, text in texts(path).items():
        written.append(tmp_path / name)
        written[-1].write_text(text, encoding="utf-8")
    command = [needs.path("systemd-analyze"), "verify", *map(str, written)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # It also tells of units of the machine that it runs on.
    assert [line for line in done.stderr.splitlines() if "gpu-slicing-metrics" in line] == []
