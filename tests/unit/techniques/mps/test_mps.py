"""MPS: what a unit says, what is planned, started, read back and undone, and what is refused."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.outputs import mps as outputs
from gpuslice.policy import fields
from gpuslice.rules import Options
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.mps import clients
from gpuslice.techniques.mps import unit
from gpuslice.techniques.toolbox import Toolbox
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed

ONE, OTHER = "0000:41:00.0", "0000:a1:00.0"
SPEC = unit.Spec(ONE, "GPU-1", ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12"), 12.5, 3072, True, "/usr/bin/m", "/usr/bin/smi")


def wanted(**settings):
    return pillars.for_all("mps", settings)


def plan(host, pillar):
    with Engine(config(host)) as engine:
        return engine.plan(pillar)


def by_hand(host, gpu, settings, technique="mps", **options):
    with Engine(config(host)) as engine:
        reconciler = engine.reconciler()
        for name, value in options.items():
            setattr(reconciler._options, name, value)
        return reconciler.apply(engine.wanted(technique, gpu, settings))


def daemons(host):
    """Name of the folder -> what the daemon there has."""
    return {folder.rpartition("/")[2]: one for folder, one in host.state().get("mps", {}).items()}


def mode(host, address=ONE):
    found = host.state()["gpus"][address].get("compute", {"mode": 0})
    return found["mode"]


def record(host):
    path = pathlib.Path(host.state_dir) / "mps.json"
    return json.loads(path.read_text(encoding="utf-8"))["gpus"] if path.exists() else {}


# -- the unit ---------------------------------------------------------------------------------------------------------
@given(
    strategies.sampled_from([ONE, f"{ONE}-1g.10gb.me-6", f"{ONE}-7g.80gb-0-1c.7g.80gb-6"]), strategies.integers(1, 60),
    strategies.none() | strategies.integers(1, 300000), strategies.booleans(),
)  # fmt: skip
def test_a_unit_is_read_as_it_was_written(name, count, pinned, exclusive):
    spec = SPEC._replace(name=name, threads=clients.threads(1, count, 2), pinned_mib=pinned, exclusive=exclusive)
    assert unit.read(unit.written(spec)) == spec


@pytest.mark.parametrize(
    "change", [("12.5", "50.0"), ("NoNewPrivileges=yes", ""), ("# Spec: {", "# Spec: "), ('"threads"', '"t"'), ("[", "")]
)
def test_a_unit_that_somebody_changed_is_not_ours(change):
    assert unit.read(unit.written(SPEC).replace(change[0], change[1], 1)) is None


def test_a_unit_opens_the_nodes_of_its_slice_only():
    lines = unit.written(SPEC).splitlines()
    assert [line for line in lines if line.startswith("DeviceAllow=")] == [
        "DeviceAllow=/dev/nvidia0 rw", "DeviceAllow=/dev/nvidia-caps/nvidia-cap12 r", "DeviceAllow=/dev/nvidiactl rw",
        "DeviceAllow=/dev/nvidia-uvm rw",
    ]  # fmt: skip
    assert "DevicePolicy=closed" in lines and "NoNewPrivileges=yes" in lines and "ProtectSystem=strict" in lines


def test_the_sockets_of_any_slice_have_a_path_that_is_short_enough():
    longest = f"00000000:ff:1f.7-{'7g.180gb.me.all'}-0-{'1c.7g.180gb.me'}-6"
    assert len(outputs.pipe_directory(longest)) + len("/control_privileged") < 107
    assert ":" not in outputs.pipe_directory(longest) and ":" not in unit.unit(longest)


def test_a_client_has_the_folder_in_its_environment_and_its_folders():
    folder = "/run/gpu-slicing/mps/0000-41-00.0-1g.6gb-2"
    assert outputs.environment(f"{ONE}-1g.6gb-2") == (("CUDA_MPS_PIPE_DIRECTORY", folder),)
    assert outputs.folders(outputs.environment(f"{ONE}-1g.6gb-2")) == (folder, "/dev/shm")


@given(strategies.integers(1, 60))
def test_all_equal_parts_together_are_no_more_than_the_whole(count):
    assert 0 < clients.threads(1, count, 2) * count <= 100.0001 and round(clients.threads(1, count, 2), 1) == clients.threads(
        1, count, 2
    )


# -- whole GPUs -------------------------------------------------------------------------------------------------------
def test_a_gpu_is_kept_for_its_daemon_and_let_go_in_the_end(simulated):
    host = simulated("l40s-pair")
    assert by_hand(host, ONE, {"max_instance_count": 3}).ok
    assert daemons(host)["0000-41-00.0"]["threads"] == 33.3 and daemons(host)["0000-41-00.0"]["pinned"] == 16384
    assert (mode(host), mode(host, OTHER)) == (3, 0) and list(record(host)) == [ONE]
    first = listed(host)[0]
    assert (first["name"], first["of"], first["kind"]) == (f"{ONE}-mps-1", ONE, "mps")
    assert (first["compute"], first["memory_mib"], first["device_nodes"]) == (0.333, 16384, ["/dev/nvidia0"])
    assert by_hand(host, ONE, {"max_instance_count": 3}).plan.empty
    assert by_hand(host, ONE, {"clear": True}).ok
    assert daemons(host) == {} and mode(host) == 0 and record(host) == {} and listed(host) == []
    assert not [path for path in host.state()["written"] if "gpu-slicing-mps" in path]


def test_others_may_compute_beside_it_where_that_is_asked_for(simulated):
    host = simulated("l40s-pair")
    assert by_hand(host, ONE, {"exclusive": False}).ok and mode(host) == 0
    assert by_hand(host, ONE, {"exclusive": True}).ok and mode(host) == 3
    # Somebody sets it meanwhile: it is set again without touching the daemon.
    with host.change() as state:
        state["gpus"][ONE]["compute"]["mode"] = 0
    made = by_hand(host, ONE, {"exclusive": True})
    assert made.ok and [step.words for step in made.plan.steps] == ["set compute mode exclusive process"] and mode(host) == 3


class Counting(SimulatedHost):
    """A simulated host that counts the programs that are run."""

    runs = 0

    def run(self, argv, timeout=60, given="", environment=None):
        self.runs += 1
        return super().run(argv, timeout, given, environment)


def test_a_run_that_finds_all_as_wanted_starts_no_program(simulated):
    host = simulated("l40s-pair")
    assert apply(host, wanted()).ok
    with Engine(config(host)) as engine:
        engine.host = counting = Counting(host.description_path, host.state_dir)
        engine.tools = Toolbox(counting)
        assert engine.apply(wanted()).plan.empty and len(engine.slices()) == 16
    assert counting.runs == 0


def test_a_daemon_that_is_gone_is_started_and_a_changed_unit_written_anew(simulated):
    host = simulated("l40s-pair")
    assert by_hand(host, ONE, {}).ok
    host.remove_process(daemons(host)["0000-41-00.0"]["pid"])
    made = by_hand(host, ONE, {})
    assert made.ok and [step.action for step in made.plan.steps] == ["start"]
    with host.change() as state:
        state["written"][unit.path(ONE)] += "MemoryMax=1\n"
    made = by_hand(host, ONE, {})
    assert made.ok and [step.action for step in made.plan.steps] == ["stop", "write", "start"]
    assert by_hand(host, ONE, {}).plan.empty


def test_a_daemon_with_clients_is_not_ended_unless_that_is_allowed(simulated):
    host = simulated("l40s-pair")
    assert by_hand(host, ONE, {}).ok
    host.add_process({"pid": 4711, "command": "train.py", "gpu": ONE, "unit": "train.service"})
    for settings in ({"clear": True}, {"max_instance_count": 2}):
        refused = by_hand(host, ONE, settings)
        assert not refused.ok and len(daemons(host)) == 1
        assert f"Could not end the MPS daemon of {ONE}: in use by pid 4711 (train.py, unit train.service)." in refused.errors[0]
    assert by_hand(host, ONE, {}).plan.empty
    made = by_hand(host, ONE, {"max_instance_count": 2}, stop_units=("train.service",))
    assert made.ok and daemons(host)["0000-41-00.0"]["threads"] == 50.0
    assert [process["pid"] for process in host.state()["processes"] if process["unit"] == "train.service"] == [4711]
    assert by_hand(host, ONE, {"clear": True}, strategy="force").ok and daemons(host) == {}


def test_a_daemon_that_does_not_answer_is_not_ended_blindly(simulated):
    host = simulated("l40s-pair")
    assert by_hand(host, ONE, {}).ok
    host.add_fault({"call": "run", "times": 0, "error": "EIO"})
    refused = by_hand(host, ONE, {"clear": True})
    assert "can't be told: 'nvidia-cuda-mps-control' failed: Input/output error." in refused.errors[0]
    assert "('systemctl stop gpu-slicing-mps-0000-41-00.0.service')" in refused.errors[0]


# -- refusals ---------------------------------------------------------------------------------------------------------
def test_what_another_one_has_set_up_is_left_alone(simulated):
    host = simulated("l40s-pair")
    with host.change() as state:
        state["gpus"][ONE]["compute"] = {"epoch": state["gpus"][ONE]["epoch"], "step": 0, "mode": 3}
    refused = by_hand(host, ONE, {})
    assert "Its compute mode is exclusive process, which somebody else has set" in refused.errors[0]
    assert f"'nvidia-smi -i {ONE} -c DEFAULT'" in refused.errors[0]


@pytest.mark.parametrize("usual", [True, False])
def test_a_daemon_of_somebody_else_is_named(simulated, usual):
    files = {"/tmp/nvidia-mps/nvidia-cuda-mps-control.pid": "4711"} if usual else {}
    host = simulated("l40s-pair", files=files)
    nodes = [] if usual else ["/dev/nvidia0"]
    host.add_process({"pid": 4711, "command": "/usr/bin/nvidia-cuda-mps-control -d", "nodes": nodes})
    refused = by_hand(host, ONE, {})
    told = "An MPS daemon of somebody else's serves it already: pid 4711 (/usr/bin/nvidia-cuda-mps-control -d)."
    assert told in refused.errors[0]
    host.remove_process(4711)
    assert by_hand(host, ONE, {}).ok


def test_who_computes_there_keeps_a_gpu_from_being_kept_for_a_daemon(simulated):
    host = simulated("l40s-pair")
    host.add_process({"pid": 4711, "command": "train.py", "gpu": ONE})
    assert "Could not keep the GPU for an MPS daemon: in use by pid 4711 (train.py)" in by_hand(host, ONE, {}).errors[0]
    assert daemons(host) == {} and mode(host) == 0
    assert by_hand(host, ONE, {"exclusive": False}).ok


@pytest.mark.parametrize(
    ("place", "text"), [(f"/etc/systemd/system/{unit.unit(ONE)}", "[Unit]\n"), (unit.path(ONE), "[Unit]\nDescription=mine\n")]
)
def test_a_unit_of_somebody_else_under_our_name_is_left_alone(simulated, place, text):
    host = simulated("l40s-pair")
    with host.change() as state:
        state["written"][place] = text
    refused = by_hand(host, ONE, {})
    assert f"MPS of {ONE} needs a unit {unit.unit(ONE)}, and {place} is somebody else's." in refused.errors[0]
    assert host.state()["written"][place] == text


@pytest.mark.parametrize(
    ("tools", "program"), [(["lspci", "nvidia-smi", "systemctl"], "nvidia-cuda-mps-control"),
                           (["lspci", "nvidia-cuda-mps-control", "systemctl"], "nvidia-smi")],
)  # fmt: skip
def test_a_program_that_is_not_installed_is_named(simulated, tools, program):
    host = simulated("l40s-pair", tools=tools)
    with pytest.raises(errors.ToolMissing, match=f"MPS of {ONE} needs the program {program}, which is not installed. Install it"):
        by_hand(host, ONE, {})
    assert record(host) == {}


@pytest.mark.parametrize("call", ["mps-set", "mps-start"])
def test_a_daemon_that_refuses_or_dies_leaves_everything_as_it_was(simulated, call):
    host = simulated("l40s-pair")
    host.add_fault({"call": call, "times": 0, "lie": True})
    refused = by_hand(host, ONE, {})
    said = {"mps-set": "could not be started: Job for", "mps-start": "was started, and its daemon is gone"}[call]
    assert said in refused.errors[0] and "journalctl -u gpu-slicing-mps-0000-41-00.0.service" in refused.errors[0]
    assert daemons(host) == {} and mode(host) == 0 and record(host) == {} and listed(host) == []
    host.clear_faults()
    assert by_hand(host, ONE, {}).ok


def test_a_gpu_in_mig_mode_without_devices_has_nothing_to_share(simulated):
    host = simulated("dgx-a100-40gb")
    with Engine(config(host)) as engine:
        address = engine.gpus[0].address
    with pytest.raises(errors.Unsupported, match="it is in MIG mode and has no MIG device"):
        by_hand(host, address, {})


def test_a_host_of_vgpus_has_no_mps(simulated):
    host = simulated("vgpu-host-vfio")
    with Engine(config(host)) as engine, pytest.raises(errors.Unsupported, match="MPS runs in its virtual machines"):
        engine.wanted("mps", engine.gpus[0].address, {})


def test_a_damaged_record_is_a_sentence(simulated):
    host = simulated("l40s-pair")
    (pathlib.Path(host.state_dir) / "mps.json").write_text('{"format": 1, "gpus": {"x": 1}}', encoding="utf-8")
    with pytest.raises(errors.StateDirUnusable, match="record of shared slices, .*mps.json, can't be used"):
        by_hand(host, ONE, {})


def test_a_board_older_than_volta_has_no_limits_to_give(simulated):
    board = {"vendor": "nvidia", "device": "1bb3", "address": ONE, "uuid": "GPU-0b7a3c52-4e0b-4f1d-9d34-1c1f8f0c6a11"}
    with pytest.raises(errors.Unsupported, match=r"MPS limits no client on .*P4, which is older than Volta .*capability 6\.1"):
        by_hand(simulated("l40s-pair", gpus=[board]), ONE, {})


def test_a_gpu_that_can_not_be_given_away_gets_its_daemon_back(simulated):
    host = simulated("mixed-vendors")
    with Engine(config(host)) as engine:
        address = next(gpu.address for gpu in engine.gpus if gpu.vendor == "nvidia")
    assert by_hand(host, address, {"max_instance_count": 2}).ok
    server = {"pid": 4712, "command": "/usr/sbin/nvidia-cuda-mps-server", "unit": unit.unit(address), "nodes": ["/dev/nvidia0"]}
    host.add_process(server)
    before = [{**one, "pid": 0} for one in daemons(host).values()]
    host.add_fault({"call": "write", "nth": 2, "error": "EIO"})
    result = by_hand(host, address, {"bind": True}, "passthrough")
    assert not result.ok and f"unit {unit.unit(address)} is stopped for it\n" in result.plan.text()
    assert [{**one, "pid": 0} for one in daemons(host).values()] == before


# -- MIG --------------------------------------------------------------------------------------------------------------
MIG = f"{ONE}-2g.12gb-0"


def test_a_pillar_for_whole_gpus_is_not_meant_for_mig_devices(simulated):
    with pytest.raises(errors.PolicyError) as caught:
        plan(simulated("a30-pair"), wanted())
    assert "write 'strategy: mig' with their profiles, and 'mps: {enabled: true}' beside it" in str(caught.value)


def shared_mig(simulated):
    """A host on which a MIG device is shared, and its server holds the device."""
    host = simulated("a30-pair", processes=[])
    assert by_hand(host, ONE, {"max_instance_count": 2, "profiles": ["2g.12gb"]}).ok
    assert list(daemons(host)) == ["0000-41-00.0-2g.12gb-0"] and mode(host) == 0
    [part] = {part["device_nodes"][-1] for part in listed(host) if part["of"] == MIG}
    server = {"pid": 4712, "command": "/usr/sbin/nvidia-cuda-mps-server", "unit": unit.unit(MIG), "nodes": [part]}
    host.add_process({**server, "type": "graphics"})
    return host


def test_an_idle_daemon_of_ours_is_nobodys_use_and_stops_before_its_device_goes(simulated):
    host = shared_mig(simulated)
    result = by_hand(host, ONE, {"enabled": True, "entries": [("1g.6gb", None, 4)]}, "mig")
    assert result.ok and f"unit {unit.unit(MIG)} is stopped for it\n" in result.plan.text()
    assert daemons(host) == {} and result.warnings == []
    assert not any(part["kind"] == "mps" for part in listed(host))


def test_a_daemon_without_a_server_is_stopped_first_too(simulated):
    host = simulated("a30-pair", processes=[])
    assert by_hand(host, ONE, {"max_instance_count": 2}).ok and len(daemons(host)) == 3
    made = by_hand(host, ONE, {"enabled": True, "entries": [("2g.12gb", 0, 1), ("2g.12gb", None, 1)]}, "mig")
    assert made.ok and list(daemons(host)) == ["0000-41-00.0-2g.12gb-0"]
    [part] = made.plan.parts
    assert part.stops == (unit.unit(f"{ONE}-1g.6gb-2"), unit.unit(f"{ONE}-1g.6gb-3"))
    again = by_hand(host, ONE, {"max_instance_count": 2})
    assert again.ok and sorted(daemons(host)) == ["0000-41-00.0-2g.12gb-0", "0000-41-00.0-2g.12gb-2"]


def test_what_a_failed_change_below_stopped_runs_again(simulated):
    host = shared_mig(simulated)
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"})
    result = by_hand(host, ONE, {"enabled": True, "entries": [("1g.6gb", None, 4)]}, "mig")
    assert not result.ok and list(daemons(host)) == ["0000-41-00.0-2g.12gb-0"]
    [device] = {part["uuid"].split("::")[0] for part in listed(host) if part["of"] == MIG}
    assert daemons(host)["0000-41-00.0-2g.12gb-0"]["device"] == device
    assert by_hand(host, ONE, {"max_instance_count": 2, "profiles": ["2g.12gb"]}).plan.empty


def test_clients_of_a_daemon_keep_its_device(simulated):
    host = shared_mig(simulated)
    host.add_process({"pid": 4713, "command": "train.py", "gpu": ONE, "slice": "2g.12gb@0"})
    result = by_hand(host, ONE, {"enabled": True, "entries": [("1g.6gb", None, 4)]}, "mig")
    assert not result.ok and "in use by" in result.errors[0] and "pid 4713 (train.py)" in result.errors[0]
    assert len(daemons(host)) == 1


def test_the_words_of_the_pillar_are_the_arguments_of_the_function():
    from gpuslice.techniques.mps.section import SECTION

    names = set(SECTION.defaults()) - {"share_policy"}
    source = (pathlib.Path(__file__).parents[4] / "_modules" / "gpu_mps.py").read_text(encoding="utf-8")
    assert all(f'"{name}": {name}' in source for name in names)
    assert isinstance(SECTION.FIELD, fields.Field) and Options().strategy == "auto"
