"""
A real boot: systemd as process 1, in a container whose root is an overlay over this machine's, so that nothing here is changed.

The unit is written and enabled by ``salt-call gpu_boot.enable`` inside, on the real host that it sees there. Then the minion is
given a simulated host that has just lost its slices by a reboot, and systemd boots. A consumer copies the state of the simulated
GPUs when it starts, and that boot's own journal tells the order.
"""

import json
import os
import pathlib
import sys
from dataclasses import dataclass

import pytest
import yaml

from gpuslice.boot import unit
from gpuslice.engine import Engine
from gpuslice.records.attempts import Attempts
from tests.parts import containers
from tests.support import needs

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GPUS = ("0000:1b:00.0", "0000:43:00.0")
HOPPER = {"gpus": [{"model": "h100-80gb", "address": address} for address in GPUS], "processes": []}
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.40gb@4", "1g.10gb@0"]}}}
#: systemd's own numbers for its messages: a unit begins to start, it started, it failed.
STARTING, STARTED, FAILED = (
    "7d4958e842da4a758f6c1cdc7b36dcc5",
    "39f53479d3a045ac8e11786248231fbf",
    "be02cf6855d2428ba40df7e9d022f03d",
)
#: Its arguments are a command in the container before the boot, which sees this machine's own hardware.
SCRIPT = r"""
binds=$(cat "$place/binds")
contain $binds "$@"
cp "$root/etc/systemd/system/gpu-slicing.service" "$place/out/"
test -L "$root/etc/systemd/system/multi-user.target.wants/gpu-slicing.service"
cp "$place/conf/minion.simulated" "$place/conf/minion"
contain $binds -b systemd.unit=multi-user.target
"""
UNITS = {
    "multi-user.target.d/10-test.conf": "[Unit]\nWants=docker.service end.service\n",
    "docker.service": """
[Unit]
Description=A consumer of slices
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/cp {state} {out}/seen.json
""",
    "end.service": """
[Unit]
Description=Hand the journal out and end
After=docker.service gpu-slicing.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'journalctl --sync; journalctl -b -o json >{out}/journal.json'
ExecStopPost=/bin/systemctl --no-block exit 0
""",
}


@dataclass
class Booted:
    """What a boot left behind: ``journal`` (dicts, in order), ``seen`` (GPUs as the consumer saw them), ``host``, ``unit``."""

    journal: list
    seen: dict
    host: object
    unit: str
    console: str

    def moment(self, unit, message):
        """When systemd said this of the unit, in microseconds since the start; fails when it did not, or more than once."""
        found = [entry for entry in self.journal if entry.get("UNIT") == unit and entry.get("MESSAGE_ID") == message]
        assert len(found) == 1, f"{unit} {message}: {found}\n{self.console}"
        return int(found[0]["__MONOTONIC_TIMESTAMP"])

    def said(self, identifier):
        """All that a program said, as text."""
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal if entry.get("SYSLOG_IDENTIFIER") == identifier)


@pytest.fixture
def booted(tmp_path, host_description, loader_dirs):
    """``booted(faults)``: a boot after which the simulated host had these faults; a :class:`Booted`."""
    needs.require(containers.missing(containers.OWN))

    def run(faults=()):
        from gpuslice.sim.host import SimulatedHost

        description = host_description(tmp_path, "dgx-h100", HOPPER)
        state_dir = tmp_path / "state"
        config = {"simulate": str(description), "state_dir": str(state_dir)}
        with Engine(config) as engine:
            assert engine.apply(PILLAR).ok
        host = SimulatedHost(str(description), str(state_dir))
        host.reboot()
        for fault in faults:
            host.add_fault(fault)
        write_minion(tmp_path, config, loader_dirs)
        (tmp_path / "binds").write_text("\n".join(binds(tmp_path)), encoding="utf-8")
        seen = {"out": tmp_path / "out", "state": state_dir / "simulated" / "dgx-h100.json"}
        units = {f"/etc/systemd/system/{name}": text.format(**seen) for name, text in UNITS.items()}
        out = containers.contain(tmp_path, containers.OWN, units, SCRIPT, *enable(tmp_path))
        journal = [json.loads(line) for line in (out / "journal.json").read_text(encoding="utf-8").splitlines()]
        return Booted(
            journal,
            json.loads((out / "seen.json").read_text(encoding="utf-8"))["gpus"],
            host,
            (out / unit.UNIT).read_text(encoding="utf-8"),
            containers.console(tmp_path),
        )

    return run


def write_minion(place, config, loader_dirs):
    """The minion's configuration: first the machine as it is, for the unit; then the simulated host, for the boot."""
    options = {
        "id": "boots", "root_dir": str(place), "log_level": "error", "enable_gpu_grains": False, "enable_fqdns_grains": False,
        **loader_dirs,
    }  # fmt: skip
    real = {**options, "gpu_slicing": {"state_dir": config["state_dir"]}}
    (place / "conf").mkdir()
    (place / "conf" / "minion").write_text(yaml.safe_dump(real), encoding="utf-8")
    (place / "conf" / "minion.simulated").write_text(yaml.safe_dump({**options, "gpu_slicing": config}), encoding="utf-8")


def binds(place):
    """What the container sees of this machine beside the overlay: other file systems, and /tmp, are not part of that."""
    ours = {os.path.realpath(path) for path in (ROOT, sys.prefix, sys.base_prefix)} - {"/usr"}
    return [f"--bind={place}", *(f"--bind-ro={path}" for path in sorted(ours))]


def enable(place):
    """The command that writes and enables our unit."""
    program = pathlib.Path(sys.prefix).resolve() / "bin" / "salt-call"
    return [str(program), "--local", "--config-dir", str(place / "conf"), "--retcode-passthrough", "gpu_boot.enable"]


def profiles(gpu):
    """Names of the instances of a simulated GPU, in the order of their places."""
    names = {9: "3g.40gb", 19: "1g.10gb"}
    return [names[gi["profile"]] for gi in sorted(gpu["gis"].values(), key=lambda gi: gi["start"])]


def test_the_slices_are_back_before_the_first_consumer_starts(booted):
    found = booted()
    back = found.moment(unit.UNIT, STARTED)
    assert back < found.moment("docker.service", STARTING)
    assert {address: profiles(gpu) for address, gpu in found.seen.items()} == dict.fromkeys(GPUS, ["1g.10gb", "3g.40gb"])
    assert found.said("gpu-slicing").count("brought back") == len(GPUS)
    assert "ordering cycle" not in "".join(str(entry.get("MESSAGE")) for entry in found.journal)
    assert f"ExecStart={pathlib.Path(sys.prefix).resolve()}/bin/salt-call " in found.unit
    assert Attempts(found.host).last()["result"] is True


def test_a_replay_that_fails_is_a_failed_unit_and_keeps_nobody_from_starting(booted):
    found = booted([{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "times": 0, "error": "NVML_ERROR_UNKNOWN"}])
    assert found.moment(unit.UNIT, FAILED) < found.moment("docker.service", STARTING)
    assert all(gpu["gis"] == {} for gpu in found.seen.values())
    assert all(address in found.said("gpu-slicing") for address in GPUS)
    assert "Traceback" not in found.said("gpu-slicing")
    assert found.host.state()["reboot_scheduled"] == ""
