"""Services of a simulated machine, and the licence daemon among them, which knows what it read when it started."""

import pytest

from gpuslice import errors
from gpuslice.sim import units
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


CONTAINER = "/etc/containers/systemd/web.container"
DROP_IN = "/etc/systemd/system/nvidia-gridd.service.d/x.conf"
SPEC = '{"kind": "gpu-slicing/consumer", "devices": [{"name": "web", "containerEdits": {"env": ["A=%s"]}}]}'


def test_a_unit_goes_by_the_files_that_systemd_read_last(host):
    host.store_write(DROP_IN.replace(UNIT, "other.service"), "[Service]\n")
    host.store_write(CONTAINER, "[Container]\nImage=x\n")
    assert systemctl(host, "start", "web")[0] == 5
    assert systemctl(host, "daemon-reload") == (0, "") and systemctl(host, "start", "web") == (0, "")
    host.store_write(CONTAINER, "[Container]\nImage=y\n")
    systemctl(host, "restart", "web")
    assert units.running(host.state())["web.service"] == {CONTAINER: "[Container]\nImage=x\n"}
    host.store_remove(CONTAINER)
    systemctl(host, "daemon-reload")
    assert systemctl(host, "restart", "web")[0] == 5 and systemctl(host, "is-active", "web") == (0, "active")
    assert systemctl(host, "stop", "web") == (0, "") and systemctl(host, "stop", "web")[0] == 5


def test_a_container_runs_with_what_its_cdi_name_led_to_when_it_started(host):
    host.store_write(CONTAINER, "[Container]\nImage=x\nAddDevice=\nAddDevice=gpu-slicing/consumer=web\nAddDevice=/dev/kvm\n")
    systemctl(host, "daemon-reload")
    assert systemctl(host, "restart", "web")[0] == 1 and systemctl(host, "is-active", "web") == (3, "inactive")
    host.store_write("/var/run/cdi/x.json", SPEC % 1)
    assert systemctl(host, "restart", "web") == (0, "")
    host.store_write("/var/run/cdi/x.json", SPEC % 2)
    assert "A=1" in units.running(host.state())["web.service"]["gpu-slicing/consumer=web"]
    host.reboot()
    assert systemctl(host, "is-active", "web") == (3, "inactive") and systemctl(host, "is-active", UNIT) == (0, "active")


def test_a_program_changes_with_its_version(simulated):
    one, other = (simulated("no-gpu", tools=["podman"], podman=version) for version in ("5.4.2", "4.4.0"))
    assert one.stamp("/usr/bin/podman") and one.stamp("/usr/bin/podman") != other.stamp("/usr/bin/podman")
