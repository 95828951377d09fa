"""
Debian's Slurm: ``slurmd -G`` prints what it reads of a ``gres.conf``, and a controller and a daemon on loopback are drained, told
of slices, find too few of them, and are resumed. Device nodes stand in a folder of the test; no GPU is there.
"""

import glob
import os
import pathlib
import re
import socket
import stat
import subprocess
import time

import pytest
from jinja2 import Environment

from gpuslice.drivers import slurm as control
from gpuslice.engine import Engine
from gpuslice.host.base import Completed
from gpuslice.outputs import slurm as files
from gpuslice.schedulers import slurm
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.conftest import ROOT
from tests.support import hosts
from tests.support import needs
from tests.support import pillars

pytestmark = pytest.mark.slow

GPU = "0000:1b:00.0"
CONF = "/etc/slurm/gres.conf"
SECONDS = 60
SETTINGS = """
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
GresTypes={types}
NodeName=n1 NodeHostname={name} NodeAddr=127.0.0.1 CPUs=1 Gres={gres}
PartitionName=p Nodes=n1 Default=YES State=UP
"""


@pytest.fixture
def place(tmp_path):
    """A folder for Slurm; its daemons need root, as the device nodes do."""
    needs.require(needs.lacking("slurmd", "slurmctld", "scontrol"))
    if os.geteuid():
        pytest.skip("needs root for device nodes")
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    return tmp_path


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def set_up(place, gres, types, ports=(6817, 6818)):
    name = socket.gethostname().partition(".")[0]
    said = {"name": name, "controller": ports[0], "daemon": ports[1], "place": place, "gres": gres, "types": ",".join(types)}
    (place / "slurm.conf").write_text(SETTINGS.format(**said), encoding="utf-8")


def write(place, text):
    """The file as we write it, with device nodes of the test in the place of the machine's."""
    for node in re.findall(r"/dev/[\w/-]+", text):
        path = place / node.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (place / "gres.conf").write_text(text.replace("/dev/", f"{place}/dev/"), encoding="utf-8")


def printed(place):
    """(name, type, count, files) of each gres that slurmd prints."""
    command = [needs.path("slurmd"), "-G", "-N", "n1", "-f", str(place / "slurm.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    said = done.stdout + done.stderr
    assert "error" not in said, said
    found = re.findall(r"Gres Name=(\w+)(?: Type=(\S+))? Count=(\d+) .*?File=(\S+)", said)
    return sorted((name, kind, int(count), files.replace(f"{place}/", "/")) for name, kind, count, files in found)


def read(place, host):
    """What slurmd reads of what we write for a host, and what we meant."""
    with Engine(hosts.config(host)) as engine:
        sheet = slurm.offered(engine, "n1")
    set_up(place, files.value(sheet), files.types(sheet))
    write(place, files.text(sheet, "n1"))
    return printed(place), sheet


def as_lines(sheet):
    return sorted((each.name, each.type, each.number, ",".join(each.files)) for each in sheet.gres)


def test_slurmd_reads_mig_devices_and_whole_gpus(place, simulated):
    host = simulated("dgx-h100", processes=[])
    assert hosts.apply(host, pillars.rules(pillars.mig_rule(GPU, ["3g.40gb", *["1g.10gb"] * 4]))).ok
    found, sheet = read(place, host)
    assert found == as_lines(sheet) and len(found) == 12
    assert ("gpu", "nvidia_h100_80gb_hbm3_1g.10gb") in {row[:2] for row in found} and sum(row[2] for row in found) == 12


def test_slurmd_reads_what_a_master_writes_of_nodes_and_ends_where_one_is_named_twice(place, simulated):
    """``examples/master/slurm_gpu_nodes.conf`` beside a ``slurm.conf`` that includes it."""
    with Engine(hosts.config(simulated("a30-pair", processes=[]))) as engine:
        sheet = slurm.offered(engine, "n1")
    set_up(place, "", ["gpu"])
    conf = place / "slurm.conf"
    kept = [line for line in conf.read_text(encoding="utf-8").splitlines() if not line.startswith(("NodeName=", "GresTypes="))]
    conf.write_text("\n".join([*kept[:-1], "Include gpu-nodes.conf", *kept[-1:], ""]), encoding="utf-8")
    template = (ROOT / "examples" / "master" / "slurm_gpu_nodes.conf").read_text(encoding="utf-8")
    told = {"gpu1": {"node": "n1", "gres": files.value(sheet), "types": files.types(sheet)}}
    words = f"NodeHostname={socket.gethostname().partition('.')[0]} NodeAddr=127.0.0.1 CPUs=1"
    made = Environment(extensions=["jinja2.ext.do"]).from_string(template).render(nodes={"gpu1": words}, told=told)
    (place / "gpu-nodes.conf").write_text(f"{made}\n", encoding="utf-8")
    write(place, files.text(sheet, "n1"))
    assert printed(place) == as_lines(sheet)
    conf.write_text(conf.read_text(encoding="utf-8") + "NodeName=n1 CPUs=1\n", encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        printed(place)
    assert "Duplicated NodeHostName n1" in refused.value.stderr


@pytest.mark.parametrize(("machine", "wanted", "count"), [
    ("a30-pair", None, 4),
    ("mi300x-8", pillars.partition("CPX", "NPS1"), 64),
    ("mixed-vendors", None, 4),
])  # fmt: skip
def test_slurmd_reads_those_of_every_vendor(place, simulated, machine, wanted, count):
    host = simulated(machine, processes=[])
    if wanted:
        assert hosts.apply(host, wanted).ok
    found, sheet = read(place, host)
    assert found == as_lines(sheet) and len(found) == count


@pytest.mark.parametrize(("machine", "pillar", "name"), [("l4-pair", "time_slicing", "shard"), ("l40s-pair", "mps", "mps")])
def test_slurmd_reads_those_who_share_a_gpu(place, simulated, machine, pillar, name):
    host = simulated(machine, processes=[])
    assert hosts.apply(host, pillars.example(pillar)).ok
    found, sheet = read(place, host)
    shared = {row[3]: row[2] for row in found if row[0] == name and row[2]}
    assert shared and shared == {",".join(each.files): each.number for each in sheet.gres if each.name == name}
    assert sum(row[2] for row in found if row[0] == "gpu") == sum(each.number for each in sheet.gres if each.name == "gpu")


def test_why_shares_are_left_out_beside_mig_devices(place):
    """Slurm parts the files of a MIG device where the node has shards: three GPUs of one."""
    line = "NodeName=n1 Name=gpu Type=a MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap1,/dev/nvidia-caps/nvidia-cap2\n"
    shard = "NodeName=n1 Name=gpu Type=b File=/dev/nvidia1\nNodeName=n1 Name=shard Count=2 File=/dev/nvidia1\n"
    set_up(place, "gpu:a:1,gpu:b:1,shard:2", ["gpu", "shard"])
    write(place, line + shard)
    assert len([row for row in printed(place) if row[:2] == ("gpu", "a")]) in (1, 3)


# -- a controller and a daemon ---------------------------------------------------------------------------------------------
class Node(SimulatedHost):
    """A simulated machine whose scontrol is the real one, which asks the daemons of the test."""

    place: pathlib.Path
    asked: list

    def run(self, argv, *args, **rest):
        if argv[0] != control.PROGRAM:
            return super().run(argv, *args, **rest)
        if argv[1] != "show":
            self.asked.append(argv[3] if argv[1] == "update" else argv[1])
        if argv[1:] == ["reconfigure"]:
            write(self.place, self.state()["written"][CONF])
        environment = {**os.environ, "SLURM_CONF": str(self.place / "slurm.conf")}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def daemons(place):
    """``start("slurmctld")`` starts a daemon and ``end("slurmctld")`` ends it; all end with the test."""
    if not glob.glob("/usr/lib/*/slurm*/auth_none.so"):
        needs.require(needs.said({"slurm-wlm-basic-plugins": "auth_none.so"}))
    running = {}

    def start(name, *more):
        log = (place / f"{name}.out").open("ab")
        command = [needs.path(name), "-D", "-f", str(place / "slurm.conf"), *more]
        running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()

    def end(name):
        running[name].terminate()
        try:
            running.pop(name).wait(20)
        except subprocess.TimeoutExpired:
            running[name].kill()

    yield start, end
    for name in list(running):
        end(name)


def awaited(host, is_so):
    """The node once it is as wanted."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            found = control.node(host, "n1")
        except Exception:
            found = None
        if (found and is_so(found)) or time.monotonic() > end:
            assert found and is_so(found), found
            return found
        time.sleep(0.5)


def on_pillar(made, host, wanted):
    """Bring a host to a pillar; its hooks ask the real controller."""
    own = {"gpu_slurm.drain": slurm.drain, "gpu_slurm.resume": slurm.resume}

    def opened():
        engine = Engine(hosts.config(made))
        engine.host, engine.tools = host, Toolbox(host)
        return engine

    def call(name, args, kwargs):
        with opened() as engine:
            return {"result": None, **own[name](engine, *args, **kwargs)}

    with opened() as engine:
        engine.call = call
        return engine.apply(wanted)


def test_a_real_controller_drains_finds_too_few_and_is_resumed(place, simulated, daemons):
    start, end = daemons
    made = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU}], processes=[])
    assert hosts.apply(made, pillars.rules(pillars.mig_rule(GPU, ["1g.10gb"] * 3))).ok
    host = Node(made.description_path, made.state_dir)
    host.place, host.asked, ports = place, [], (free_port(), free_port())

    def on(function, *args, **more):
        with Engine(hosts.config(made)) as engine:
            engine.host, engine.tools = host, Toolbox(host)
            return function(engine, *args, node="n1", **more)

    before = on(slurm.gres)
    set_up(place, before["gres"], before["types"], ports)
    on(slurm.write, CONF)
    write(place, host.state()["written"][CONF])
    start("slurmctld")
    start("slurmd", "-N", "n1")
    awaited(host, lambda node: node.states == ("IDLE",))

    # By the pillar: drained, cut, told, read anew, and not resumed, since slurm.conf says more.
    wanted = pillars.rules(pillars.mig_rule(GPU, ["3g.40gb"]))
    wanted["containers_gpu_container_integration"] = {"slurm": {"enabled": True, "node": "n1", "within": 20}}
    result = on_pillar(made, host, wanted)
    assert not result.ok and len(result.errors) == 1 and "gpu_slurm.resume, which is to run after the change" in result.errors[0]
    assert [part.key.technique for part in result.plan.changing] == ["mig", "slurm"]
    assert host.asked == ["State=DRAIN", "reconfigure"]
    # The daemon tells the controller only after that.
    found = awaited(host, lambda node: node.is_invalid)
    assert found.reason.startswith("gpu-slicing: GPUs are sliced anew (") and found.takes_none
    refused = on(slurm.resume)
    assert refused["result"] is False and "it has Gres=gpu:nvidia_h100_80gb_hbm3_3g.40gb:1: write that" in refused["comment"]

    set_up(place, on(slurm.gres)["gres"], ["gpu"], ports)
    end("slurmctld")
    start("slurmctld")
    end("slurmd")
    start("slurmd", "-N", "n1")
    awaited(host, lambda node: not node.is_invalid and "nvidia_h100_80gb_hbm3_3g.40gb:1" in node.gres and node.is_drained)
    assert on(slurm.resume, within=20)["result"]
    awaited(host, lambda node: node.states == ("IDLE",))

    # The same count, made of other slices: all of it goes through.
    host.asked.clear()
    slots = wanted["containers_gpu_slicing"]["devices"][0]["mig"]
    slots["profiles"] = ["3g.40gb@0"]
    assert (result := on_pillar(made, host, wanted)).ok, result.errors
    assert host.asked == ["State=DRAIN", "reconfigure", "State=RESUME"]
    awaited(host, lambda node: node.states == ("IDLE",))

    def update(*words):
        subprocess.run([needs.path("scontrol"), "update", "NodeName=n1", *words], check=True,
                       env={**os.environ, "SLURM_CONF": str(place / "slurm.conf")}, timeout=SECONDS)  # fmt: skip

    # Its RESUME would bring up what somebody has set down.
    update("State=DOWN", "Reason=broken fan")
    assert on(slurm.drain)["result"] and on(slurm.is_drained)
    assert on(slurm.resume)["result"]
    found = awaited(host, lambda node: node.is_down and not node.takes_none)
    assert found.reason == "broken fan"
    update("State=RESUME")
    awaited(host, lambda node: node.states == ("IDLE",))

    update("State=DRAIN", "Reason=disk")
    assert "drained already (disk [" in on(slurm.drain)["comment"]
    assert "somebody else wants: disk [" in on(slurm.resume)["comment"] and on(slurm.is_drained)
    end("slurmctld")
    with pytest.raises(Exception, match="Unable to contact slurm controller"):
        on(slurm.resume)
