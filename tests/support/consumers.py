"""
Simulated hosts whose slices are handed to consumers: made, asked for in pillars, and checked from the top to the slices.
"""

import functools
import itertools
import json
import pathlib
import shutil
import signal

import yaml

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.host.base import of_user
from gpuslice.host.base import parted
from gpuslice.sim import units
from gpuslice.sim import user_managers
from gpuslice.sim.host import SimulatedHost
from tests.conftest import ROOT
from tests.support import stages
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
SLICE, CONSUMER = "/run/cdi/gpu-slicing-slice.json", "/run/cdi/gpu-slicing-consumer.json"
PASSWD = "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n"
UIDS = {"root": 0, "ada": 1000}
TOOLS = ["lspci", "nvidia-smi", "systemctl", "modprobe", "podman"]
#: One consumer of each kind.
EACH = {
    "web": {"kind": "container", "image": "localhost/web:1", "slice": "1g.10gb"},
    "trainer": {"kind": "service", "unit": "trainer.service", "slice": "1g.10gb", "resource_limits": {"memory_gb": 32}},
    "ada": {"kind": "user", "user": "ada", "slice": "1g.10gb"},
    "dev": {"slice": "1g.10gb"},
}
WEB, TRAINER = "gpu-slicing-web.service", "trainer.service"
WEB_FILE = "/etc/containers/systemd/gpu-slicing-web.container"
TRAINER_FILE = f"/etc/systemd/system/{TRAINER}.d/50-gpu-slicing.conf"


def boards(count):
    """The first ``count`` GPUs of a DGX H100, as they are described."""
    return yaml.safe_load((ROOT / "examples" / "hosts" / "dgx-h100.yaml").read_text(encoding="utf-8"))["gpus"][:count]


def machine(simulated, count=2, **more):
    """A DGX H100 with the first ``count`` of its GPUs, with Podman, two services and a login user."""
    plain = {"tools": TOOLS, "units": [TRAINER, "infer.service"], "files": {"/etc/passwd": PASSWD}}
    return simulated("dgx-h100", **{"gpus": boards(count), **plain, **more})


def pillar(consumers=None, profiles=("1g.10gb",) * 7, rules=(), cdi=None, **management):
    """MIG profiles on every GPU (none if empty), ``rules`` as (address, profiles) for some, and consumers."""
    slicing = {"enabled": True, "strategy": "mig", "mig": {"profiles": list(profiles)}} if profiles else {"enabled": True}
    if rules:
        slicing["devices"] = [{"match": {"pci": gpu}, "mig": {"profiles": list(own)}} for gpu, own in rules]
    handing = {} if consumers is None else {"consumers": consumers}
    handing |= {} if cdi is None else {"cdi": {"enabled": cdi}}
    found = {"containers_gpu_slicing": slicing, "containers_gpu_state_management": management}
    return {**found, "containers_gpu_container_integration": handing} if handing else found


def planned(host, wanted):
    """The plan of a pillar."""
    with Engine(config(host)) as engine:
        return engine.plan(wanted)


def names(host, path):
    """CDI name -> edits, of one of our files; {} where it is not there."""
    if not host.exists(path):
        return {}
    return {each["name"]: each["containerEdits"] for each in json.loads(host.read(path))["devices"]}


def variable(edits, name="CUDA_VISIBLE_DEVICES"):
    """The value of a variable that edits set; "" for none."""
    return dict(line.split("=", 1) for line in edits.get("env", ())).get(name, "")


def on_record(host):
    """The record of consumers; {} where there is none."""
    path = pathlib.Path(host.state_dir) / "consumers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def bindings(host):
    """Consumer -> names of his slices, as they are on record."""
    return {name: each["slices"] for name, each in on_record(host).get("consumers", {}).items()}


def start_counts(host):
    """Unit -> how often it was started."""
    return dict(host.state().get("starts", {}))


def copier(folder):
    """``copy(host)``: another host that is as this one is now. :param folder: for all that it makes."""
    count = itertools.count(1)

    def copy(host):
        place = shutil.copytree(host.state_dir, folder / f"copy{next(count)}")
        return SimulatedHost(host.description_path, str(place))

    return copy


def kills(original, copy, after, before, calls, when):
    """
    Kill a change at each of its calls, and let the next run finish it, or undo it.

    :param original: a host as ``before`` has it; :param copy: :func:`copier`; :param when: before or after the call.
    :return: what was wrong with it, a tuple each.
    """
    trial, old, found = copy(original), summary(original), []
    tried = points(trial, after, calls)
    new = summary(trial)
    for call, number in tried:
        host = copy(original)
        host.add_fault({"call": call, "nth": number, "kill": when})
        assert in_child(functools.partial(apply, host, after)) == signal.SIGKILL
        host.clear_faults()
        other, ended = copy(host), closed(host)
        if told := why(host, after) or astray(host):
            found.append((call, number, "was not finished", told))
        assert summary(host) == new
        # One that was at its end is not undone: another change goes on from it, and moves nobody back.
        if told := why(other, before) or astray(other):
            found.append((call, number, "was not undone", told))
        assert ended or summary(other) == old
    return found


def faults(original, copy, after, calls, effect):
    """
    Let a change fail at each of its calls, and let the next run make it.

    :param original: a host as it is before; :param copy: :func:`copier`. :param effect: whether the call fails at once
        (``error``), or when all of it is done (``late``). :return: what was wrong with it, a tuple each.
    """
    trial, old, found = copy(original), summary(original), []
    tried = points(trial, after, calls)
    new = summary(trial)
    for call, number in tried:
        host = copy(original)
        host.add_fault({"call": call, "nth": number, effect: "EIO"})
        told = why(host, after)
        host.clear_faults()
        there, ended = summary(host), closed(host)
        # What could not be written down as begun or ended is ended by the next run.
        wrong = call == "run" if not ended else astray(host) or (there == new and call == "run")
        if wrong or there not in (old, new):
            found.append((call, number, told, astray(host)))
        if told := why(host, after) or astray(host):
            found.append((call, number, "not made by the next run", told))
        assert summary(host) == new
    return found


def summary(host):
    """What a host has, without what every creation gives anew."""
    slices, files, had, running = all_of(host)
    return slices, sorted(files), had, sorted(running)


def points(host, wanted, calls):
    """(call, number) of each of these calls that a change of the host makes; it is made."""

    def work():
        assert apply(host, wanted).ok and astray(host) == []

    return stages.points(host, calls, work)


def why(host, wanted):
    """Why a pillar was not reached, as sentences."""
    try:
        return apply(host, wanted).errors
    except errors.GpuSliceError as err:
        return [str(err)]


def running_with(host):
    """Unit -> what it was started with."""
    return units.running(host.state())


def all_of(host):
    """All that a change of any layer could touch and that is compared: slices by name, files, who has what, what runs."""
    with Engine(config(host)) as engine:
        slices = sorted(each["name"] for each in engine.slices())
    files = {path: text for path, text in host.state()["written"].items() if "/run/reboot" not in path}
    return slices, files, bindings(host), running_with(host)


def astray(host):
    """What does not lead to what there is, as sentences: names and variables in files, records, what units run with."""
    found, record = [], on_record(host)
    with Engine(config(host)) as engine:
        slices = {each["name"]: each for each in engine.slices()}
    told, served = names(host, SLICE), names(host, CONSUMER)
    if record.get("cdi"):
        found += [f"{name} is handed out under no name" for name in slices.keys() - told.keys()]
    for name, edits in told.items():
        nodes = [node["path"] for node in edits.get("deviceNodes", ())]
        if name in slices and not set(slices[name]["device_nodes"]) <= set(nodes):
            found.append(f"{name} leads to {nodes}, it has {slices[name]['device_nodes']}")
        if name in slices and slices[name]["uuid"].startswith("MIG-") and variable(edits) != slices[name]["uuid"]:
            found.append(f"{name} leads to {variable(edits)}, it is {slices[name]['uuid']}")
        if name not in slices and "g." in name:
            found.append(f"{name} is handed out and not there")
    for name, each in record.get("consumers", {}).items():
        wanted = [slices[part]["uuid"] for part in each["slices"] if part in slices]
        if len(wanted) == len(each["slices"]) and wanted and variable(served.get(name, {})) != ",".join(wanted):
            found.append(f"consumer {name} leads to {variable(served.get(name, {}))}, and has {wanted}")
    found += [f"consumer {name} is handed out and not on record" for name in served.keys() - record.get("consumers", {}).keys()]
    found += [f"{path} is on record and not there" for path in record.get("files", {}) if not host.exists(path)]
    ours = [path for path, text in host.state()["written"].items() if "Written by Salt for the GPU consumer" in text]
    listed = {path.replace("/var/run/", "/run/") for path in record.get("files", {})}
    found += [f"{path} is ours and not on record" for path in ours if path not in listed]
    return found + _units_wrong(host, record) + ([] if closed(host) else ["a change is on record as begun"])


def _units_wrong(host, record):
    found, state = [], host.state()
    for unit, read in running_with(host).items():
        now = units._files(state, unit, state["written"])
        files = {path: state["written"].get(path, state["host"]["files"].get(path)) for path in read if path.startswith("/etc/")}
        if now != read:
            found.append(f"{unit} runs with something else than what there is")
        if any(read[path] != text for path, text in files.items()):
            found.append(f"{unit} runs with a file that is another one by now")
        name, uid = parted(unit)
        whose = record.get("consumers", {}).get(name.removeprefix("gpu-slicing-").removesuffix(".service"))
        if name.startswith("gpu-slicing-") and (whose is None or bool(whose["user"]) != (uid is not None)):
            found.append(f"{unit} runs and is nobody's")
    for name, each in record.get("consumers", {}).items():
        uid = UIDS[each["user"]] if each["user"] else None
        managed = uid is None or user_managers.runs(state, uid)
        if each["kind"] == "container" and not each["unit"] and managed and each["slices"]:
            if of_user(f"gpu-slicing-{name}.service", uid) not in running_with(host):
                found.append(f"the container of {name} does not run")
    return found
