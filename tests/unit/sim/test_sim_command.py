"""What can be made to happen on a simulated host from a shell."""

import json
import re
import shlex

import pytest

from gpuslice.sim import __main__ as command
from gpuslice.sim.host import SimulatedHost
from tests.conftest import ROOT

A100, MI300X = "0000:07:00.0", "0000:05:00.0"
DESCRIBED = f"""\
gpus:
  - {{model: a100-40gb, address: "{A100}", mig: enabled, instances: ["3g.20gb@0"], draw: {{idle: 50, active: 400}}}}
  - {{vendor: amd, device: "74a1", address: "{MI300X}", sysfs: {{ras/umc_err_count: "ue: 0"}}}}
"""


@pytest.fixture
def minion(tmp_path):
    """Folder of a minion configuration on a simulated host, and that host."""
    (tmp_path / "box.yaml").write_text(DESCRIBED)
    ours = {"simulate": str(tmp_path / "box.yaml"), "state_dir": str(tmp_path / "state")}
    (tmp_path / "minion").write_text(json.dumps({"id": "box", "gpu_slicing": ours}))
    return str(tmp_path), SimulatedHost(ours["simulate"], ours["state_dir"])


def log(host):
    return [line.text for line in host.kernel_log().lines]


def test_an_xid_is_written_as_the_driver_writes_it(minion):
    folder, host = minion
    assert command.main([folder, "xid", A100, "94", "3g.20gb@0"]) == 0
    assert command.main([folder, "xid", A100.upper(), "79"]) == 0
    [gi] = host.state()["gpus"][A100]["gis"]
    first, second = log(host)
    assert first.startswith(f"NVRM: Xid (PCI:0000:07:00 GPU-I:{int(gi):02d} GPU-CI:00): 94, pid=")
    assert second.startswith("NVRM: Xid (PCI:0000:07:00): 79, pid=")


def test_health_is_that_of_the_description(minion):
    folder, host = minion
    assert command.main([folder, "health", A100, "recovery_action", "gpu_reset"]) == 0
    assert command.main([folder, "health", A100, "ecc_uncorrected", "2"]) == 0
    assert command.main([folder, "health", A100, "lost", "true"]) == 0
    health = host.state()["gpus"][A100]["health"]
    assert (health["recovery_action"], health["ecc_uncorrected"], health["lost"]) == ("gpu_reset", 2, True)


def test_files_load_time_lines_and_a_boot(minion):
    folder, host = minion
    path, boot, time = f"/sys/bus/pci/devices/{MI300X}/ras/umc_err_count", host.boot_id(), host.monotonic()
    assert command.main([folder, "file", MI300X, "ras/umc_err_count", "ue: 3"]) == 0
    assert host.read(path).strip() == "ue: 3"
    assert command.main([folder, "load", A100, "3g.20gb@0=0.5"]) == 0
    assert host.state()["gpus"][A100]["load"] == {"3g.20gb@0": 0.5}
    assert command.main([folder, "pass", "60"]) == 0
    assert host.monotonic() - time >= 60
    assert command.main([folder, "log", "amdgpu 0000:05:00.0: something"]) == 0
    assert log(host) == ["amdgpu 0000:05:00.0: something"]
    assert command.main([folder, "reboot"]) == 0
    assert host.boot_id() != boot and log(host) == []


def test_a_program_of_the_host_says_what_it_says_there(minion, capsys):
    folder, _ = minion
    assert command.main([folder, "run", "nvidia-smi", "--gpu-reset", "-i", A100]) == 0
    assert "successfully reset" in capsys.readouterr().out
    assert command.main([folder, "run", "no-such-program"]) == 1
    assert "no-such-program is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "CONFIG and WHAT are needed"),
        (["explode"], "'explode' is none of log, xid"),
        (["log"], "log has 0 arguments"),
        (["reboot", "now"], "reboot has 1 argument."),
        (["xid", A100, "x"], "'x' is no whole number"),
        (["xid", A100, "94", "1g.5gb@0"], "no GPU instance '1g.5gb@0': 3g.20gb@0"),
        (["xid", "0000:99:00.0", "94"], "'0000:99:00.0' is no GPU of this host"),
        (["xid", MI300X, "94"], "is no NVIDIA GPU"),
        (["health", A100, "recovery_action", "gpu_rest"], "did you mean 'gpu_reset'"),
        (["health", A100, "mood", "{"], "health.mood: unknown key"),
        (["file", MI300X, "nothing", "1"], "has no file 'nothing' that can be written"),
        (["load", A100, "0.5"], "not of the form SLICE=BUSY"),
        (["pass", "-1"], "'-1' is no whole number"),
    ],
)
def test_what_can_not_happen_is_a_sentence(minion, capsys, given, why):
    folder, host = minion
    before = host.state()
    assert command.main([folder, *given]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1 and "Traceback" not in said
    assert {**host.state(), "faults": []} == {**before, "faults": []}


def test_a_folder_that_names_no_simulated_host(tmp_path, capsys):
    assert command.main([str(tmp_path), "reboot"]) == 2
    for text in ("{", "id: x", "gpu_slicing: {state_dir: /x}"):
        (tmp_path / "minion").write_text(text)
        assert command.main([str(tmp_path), "reboot"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert ["can't be read" in line for line in said] == [True, True, False, False]
    assert all("names no simulated host" in line for line in said[2:])


PAGE = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"`((?:xid|health|file|load|pass|run) [^`]+|reboot)`", PAGE))
def test_what_the_page_shows_happens(minion, tmp_path, line):
    folder, _ = minion
    h100 = '{model: h100-80gb, address: "0000:1b:00.0", mig: enabled, instances: ["1g.10gb@0", "1g.10gb@1"]}'
    (tmp_path / "box.yaml").write_text(f"name: page\n{DESCRIBED}  - {h100}\n")
    assert command.main([folder, *shlex.split(line)]) == 0


def test_help_names_all_that_can_happen(capsys):
    assert command.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {what} " in told or f"\n  {what}\n" in told for what in command._ACTS)
