"""
The timer of metrics under a real systemd, as process 1 in a container whose root is an overlay over this machine's: confined as
its unit says, it reads a simulated host and writes its file again and again.
"""

import os
import pathlib
import sys

import pytest

from gpuslice.energy.record import Energy
from gpuslice.engine import Engine
from gpuslice.metrics import unit
from gpuslice.sim.host import SimulatedHost
from tests.parts import containers
from tests.support import needs
from tests.support import pillars
from tests.support.metrics import parsed

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GPUS = [{"model": "h100-80gb", "address": address} for address in ("0000:1b:00.0", "0000:43:00.0")]
SCRIPT = """
contain $(cat "$place/binds") -b systemd.unit=test.target
"""
#: A writer is started every second, and looked at twice.
UNITS = {
    "test.target": f"[Unit]\nRequires=basic.target\nAfter=basic.target\nWants={unit.TIMER} end.service\n",
    "end.service": """
[Unit]
After={timer}
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for n in $(seq 60); do test -s "{file}" && break; sleep 0.5; done; cp "{file}" {out}/first; sleep 6'
ExecStart=/bin/sh -c 'cp "{file}" {out}/second; ls -a "{folder}" >{out}/names; systemctl show {service} >{out}/service'
ExecStart=/bin/sh -c 'journalctl --sync; journalctl -b -o cat -u {service} -t gpu-slicing-metrics >{out}/journal'
ExecStopPost=/bin/systemctl --no-block exit 0
""",
}


def binds(place):
    """What the container sees of this machine beside the overlay."""
    ours = {os.path.realpath(path) for path in (ROOT, sys.prefix, sys.base_prefix)} - {"/usr"}
    return [f"--bind={place}", *(f"--bind-ro={path}" for path in sorted(ours))]


def test_a_confined_service_writes_the_file_again_and_again(tmp_path, host_description):
    needs.require(containers.missing(containers.OWN))
    description, state_dir = host_description(tmp_path, "dgx-h100", {"gpus": GPUS, "processes": []}), tmp_path / "state"
    with Engine({"simulate": str(description), "state_dir": str(state_dir)}) as engine:
        assert engine.apply(pillars.mig({"1g.10gb": 7})).ok
    folder = tmp_path / "text files"
    folder.mkdir()
    file = folder / "gpuslice.prom"
    (tmp_path / "binds").write_text("\n".join(binds(tmp_path)), encoding="utf-8")
    said = {"file": file, "folder": folder, "out": tmp_path / "out", "timer": unit.TIMER, "service": unit.SERVICE}
    units = {name: text.format(**said) for name, text in UNITS.items()}
    units |= unit.texts(str(file), 1, str(state_dir), str(description))
    out = containers.contain(tmp_path, containers.OWN, {unit.path_of(name): text for name, text in units.items()}, SCRIPT)
    first, second = (parsed((out / name).read_text(encoding="utf-8")) for name in ("first", "second"))
    assert len(first["slice_info"]) == len(second["slice_info"]) == 14
    assert second["last_run_timestamp_seconds"][0][1] > first["last_run_timestamp_seconds"][0][1]
    shown = dict(line.split("=", 1) for line in (out / "service").read_text(encoding="utf-8").splitlines() if "=" in line)
    assert shown["Result"] == "success" and shown["ProtectSystem"] == "strict" and shown["PrivateNetwork"] == "yes"
    assert [name for name in (out / "names").read_text().split() if name.endswith(".prom")] == ["gpuslice.prom"]
    journal = (out / "journal").read_text(encoding="utf-8")
    assert "Traceback" not in journal and "could not" not in journal, journal
    # The state directory can be written: energy is counted.
    assert Energy(SimulatedHost(str(description), str(state_dir))).read()["boards"]
