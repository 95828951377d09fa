"""Services of a simulated machine, and the licence daemon among them, which knows what it read when it started."""

import pytest

from gpuslice import errors
from gpuslice.sim.host import SimulatedHost

UNIT = "nvidia-gridd.service"
CONF, TOKEN = "/etc/nvidia/gridd.conf", "/etc/nvidia/ClientConfigToken/x.tok"


@pytest.fixture
def host(simulated):
    return simulated("vgpu-guest")


def systemctl(host, *arguments):
    done = host.run(["systemctl", *arguments])
    return done.returncode, done.stdout.strip() or done.stderr.strip()


def licensed(host):
    """Whether nvidia-smi says of every GPU that it has a licence."""
    told = host.run(["nvidia-smi", "-q"]).stdout
    lines = [line.partition(": ")[2] for line in told.splitlines() if "License Status" in line]
    assert len(lines) == 2 and len(set(lines)) == 1
    assert lines[0] == "Unlicensed (Restricted)" or lines[0].startswith("Licensed (Expiry: ")
    return lines[0].startswith("Licensed")


def test_a_unit_is_installed_and_runs_until_it_is_stopped(host):
    assert host.exists(f"/usr/lib/systemd/system/{UNIT}")
    for name in ("nvidia-gridd", UNIT):
        assert systemctl(host, "is-active", name) == (0, "active")
    assert systemctl(host, "stop", "nvidia-gridd") == (0, "")
    assert systemctl(host, "is-active", UNIT) == (3, "inactive")
    assert systemctl(host, "restart", UNIT) == (0, "") and systemctl(host, "is-active", UNIT) == (0, "active")
    assert systemctl(host, "stop", UNIT) == (0, "") and systemctl(host, "start", UNIT) == (0, "")
    assert systemctl(host, "is-active", UNIT) == (0, "active")


def test_a_unit_that_is_not_installed(host):
    assert systemctl(host, "is-active", "other") == (3, "inactive")
    assert systemctl(host, "restart", "other") == (5, "Failed to restart other.service: Unit other.service not found.")


def test_a_unit_of_processes_is_active_while_they_run(simulated):
    host = simulated("a30-pair")
    assert systemctl(host, "is-active", "notebook.service") == (0, "active")
    systemctl(host, "stop", "notebook.service")
    assert systemctl(host, "is-active", "notebook.service") == (3, "inactive")


def test_without_root_no_unit_is_restarted(simulated):
    host = simulated("vgpu-guest", privileged=False)
    code, told = systemctl(host, "restart", UNIT)
    assert code and "Access denied" in told


@pytest.mark.parametrize(("path", "text"), [(CONF, "FeatureType=1\nServerAddress=lic\n"), (TOKEN, "x")])
def test_the_daemon_reads_its_files_when_it_starts_and_only_then(host, path, text):
    assert not licensed(host)
    host.store_write(path, text)
    assert not licensed(host)
    systemctl(host, "restart", UNIT)
    assert licensed(host)
    host.store_remove(path)
    assert licensed(host)
    systemctl(host, "stop", UNIT)
    assert not licensed(host)
    host.reboot()
    assert systemctl(host, "is-active", UNIT) == (0, "active") and not licensed(host)
    host.store_write(path, text)
    host.reboot()
    assert licensed(host)


@pytest.mark.parametrize(("path", "text"), [(CONF, "#ServerAddress=lic\n"), (CONF, "ServerAddress=\n"), (f"{TOKEN}.old", "x")])
def test_what_names_no_licence(host, path, text):
    host.store_write(path, text)
    systemctl(host, "restart", UNIT)
    assert not licensed(host)


def test_nvidia_smi_tells_one_gpu_when_it_is_asked_for_one_and_other_gpus_have_no_licence(host, simulated):
    told = host.run(["nvidia-smi", "-q", "-i", "0000:07:00.0"]).stdout
    assert "GPU 00000000:07:00.0" in told and "00000000:06:00.0" not in told
    assert "License Status                    : N/A" in simulated("mixed").run(["nvidia-smi", "-q"]).stdout


def test_a_wrong_unit_in_a_description_is_named(tmp_path):
    path = tmp_path / "box.yaml"
    path.write_text("units: [nvidia-gridd, 5, a.service]\n", encoding="utf-8")
    with pytest.raises(errors.PolicyError) as caught:
        SimulatedHost(path, tmp_path / "state")
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == ["units[0]", "units[1]"]
