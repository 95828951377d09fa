"""
The licence of vGPUs in a guest: what the files become, what is refused, and that no fault and no crash leaves anything between
old and new. The technique stands here with the reconciler and the policy as they are.
"""

import json
import logging
import os
import signal
import threading

import pytest

from gpuslice import errors
from gpuslice import policy
from gpuslice.change.reconcile import Reconciler
from gpuslice.drivers.sessions import Sessions
from gpuslice.health import board
from gpuslice.inventory import discovery
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.records.history import History
from gpuslice.records.journal import Journal
from gpuslice.rules import Options
from gpuslice.secret import digest
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.base import Work
from gpuslice.techniques.licence import client_token
from gpuslice.techniques.licence import technique as vgpu_guest
from gpuslice.techniques.toolbox import Toolbox
from tests.support import pillars
from tests.support.crash import in_child

ONE, TWO = "0000:06:00.0", "0000:07:00.0"
LICENCE = Key(HOST, "licence")
CONF = "/etc/nvidia/gridd.conf"
SERVICE = "nvidia-gridd.service"
TOKEN, OTHER = "eyJhbGciOi.first-token.AAAA", "eyJhbGciOi.second-token.BBBB"
FOREIGN = f"{client_token.FOLDER}/client_configuration_token_01-02-2025.tok"


class Request:
    """One request on a guest: a toolbox and a reconciler of its own, as each run has them."""

    def __init__(self, host, **options):
        self.host = host
        self.gpus = discovery.discover(host)
        self.tool = Toolbox(host)
        self.reconciler = Reconciler(host, self.tool, Options(**options))

    def targets(self, devices=(), **section):
        """Targets of a pillar; ``devices`` are its rules."""
        made = policy.parse(pillars.vgpu(devices, **section))
        return policy.targets(made, self.gpus, "virtual_guest", meant=lambda gpu, word: "licence")

    def settings(self, settings):
        """Targets that give every GPU these settings."""
        return [Target(gpu, LICENCE, settings) for gpu in self.gpus]


def apply(host, **section):
    request = Request(host)
    return request.reconciler.apply(request.targets(**section))


def settle(host, settings):
    request = Request(host)
    return request.reconciler.apply(request.settings(settings))


def rollback(host):
    """Undo the last generation, as users do."""
    before = History(host).all()[-1]["before"]
    request = Request(host)
    return request.reconciler.apply(request.settings(request.tool.get("licence").settings_of(before[str(LICENCE)])))


def plan(host, **section):
    request = Request(host)
    return request.reconciler.plan(request.targets(**section))


def again(host):
    """The same machine as another process opens it."""
    return SimulatedHost(host.description_path, host.state_dir)


def text(host, path):
    return host.read(path) if host.exists(path) else None


def licence_of(host):
    """(gridd.conf, our token, whether the daemon runs) of a machine whose daemon, if it runs, has read just these files."""
    state = host.state()
    files = {**state["host"]["files"], **state["written"]}
    read = {path: found for path, found in files.items() if path == CONF or path.endswith(".tok")}
    running = state.get("running")
    if running is not None and SERVICE in running:
        assert running[SERVICE] == read, "the daemon has not read the files that are there"
    return text(host, CONF), text(host, client_token.PATH), host.run(["systemctl", "is-active", "nvidia-gridd"]).stdout.strip()


def licence(host):
    request = Request(host)
    return request.tool.get("licence").status(request.gpus[0])


@pytest.fixture
def guest(simulated):
    """``guest(**changes)``: a virtual machine with two vGPUs."""

    def make(**changes):
        return simulated("vgpu-guest", **changes)

    return make


# -- what it comes to ----------------------------------------------------------------------------------------------------
def test_a_licence_server_comes_into_a_file_made_from_the_template(guest):
    host = guest()
    template = host.read(f"{CONF}.template")
    assert licence(host)["licensed"] is False
    result = apply(host, license_server="lic1.example.com", feature="compute")
    assert result.ok and result.changes[ONE]["new"] == result.changes[TWO]["new"]
    assert result.changes[ONE]["new"] == {
        "license_server": "lic1.example.com", "license_port": 7070, "feature": "compute", "service": "running",
    }  # fmt: skip
    made = host.read(CONF)
    assert made.startswith(template.replace("FeatureType=0", "# Kept by Salt (GPU slicing): FeatureType=0"))
    assert made.splitlines()[-3:] == ["ServerAddress=lic1.example.com", "ServerPort=7070", "FeatureType=4"]
    assert host.state()["modes"][CONF] == 0o644
    assert licence(host)["licensed"] is True
    licence_of(host)


def test_a_second_run_does_nothing_and_tells_the_licence(guest):
    host = guest()
    assert apply(host, license_server="10.0.0.7", license_port=7071, client_token=TOKEN).ok
    before = host.state()
    for same in (host, again(host)):
        result = apply(same, license_server="10.0.0.7", license_port=7071, client_token=TOKEN)
        assert result.plan.empty and not result.changes
        assert "Licensed (Expiry" in result.plan.text()
    assert host.state()["written"] == before["written"] and host.state()["running"] == before["running"]


def test_a_token_is_written_for_the_daemon_and_the_one_before_is_kept_for_root(guest):
    host = guest()
    assert apply(host, client_token=f"{TOKEN}\n").ok
    assert (host.read(client_token.PATH), host.state()["modes"][client_token.PATH]) == (TOKEN, 0o744)
    assert text(host, CONF) is None
    assert apply(host, client_token=OTHER).ok
    names = host.listdir(client_token.FOLDER)
    kept = next(f"{client_token.FOLDER}/{name}" for name in names if not name.endswith(".tok"))
    assert len(names) == 2
    assert (host.read(kept), host.state()["modes"][kept]) == (TOKEN, 0o600)
    assert host.read(client_token.PATH) == OTHER
    licence_of(host)


def test_a_token_that_a_crash_left_half_written_goes_with_the_next_change(guest):
    host = guest()
    left = f"{client_token.PATH}.4242.new"
    host.store_write(left, TOKEN[:20])
    assert apply(host, client_token=OTHER).ok
    assert not host.exists(left) and host.read(client_token.PATH) == OTHER


def test_everything_of_ours_goes_when_it_is_cleared_and_comes_back_when_that_is_undone(guest):
    host = guest()
    before = licence_of(host)
    assert apply(host, license_server="lic1", client_token=TOKEN).ok
    licensed = licence_of(host)
    assert settle(host, {"clear": True}).ok
    assert licence_of(host) == before and settle(host, {"remove": True}).plan.empty
    assert rollback(again(host)).ok
    assert licence_of(host) == licensed
    assert rollback(again(host)).ok
    assert licence_of(host) == before


def test_a_change_of_token_can_be_undone_back_and_forth_without_the_pillar(guest):
    host = guest()
    assert apply(host, client_token=TOKEN).ok and apply(host, client_token=OTHER).ok
    for expected in (TOKEN, OTHER, TOKEN):
        assert rollback(again(host)).ok
        assert licence_of(host)[1] == expected


def test_a_token_that_is_kept_nowhere_is_asked_for(guest):
    host = guest()
    assert apply(host, client_token=TOKEN).ok and apply(host, client_token=OTHER).ok and apply(host, client_token="third").ok
    layout = History(host).all()[0]["after"][str(LICENCE)]
    with pytest.raises(errors.PolicyError) as caught:
        settle(host, {"layout": layout})
    assert digest(TOKEN) in str(caught.value) and "vgpu:client_token" in str(caught.value) and TOKEN not in str(caught.value)
    assert licence_of(host)[1] == "third"


def test_lines_and_tokens_of_others_stay(guest):
    mine = "# mine\nServerAddress=old\nFeatureType=2\nEnableUI=FALSE"
    host = guest(files={CONF: mine, FOREIGN: "theirs"})
    assert apply(host, license_server="lic1", client_token=TOKEN).ok
    assert "EnableUI=FALSE" in host.read(CONF).splitlines() and host.read(FOREIGN) == "theirs"
    assert os.path.basename(FOREIGN) in plan(host, license_server="lic1", client_token=TOKEN).text()
    assert licence(host)["other_tokens"] == [os.path.basename(FOREIGN)]
    # A pillar that no longer names the server leaves the one that was there before.
    assert apply(host, client_token=TOKEN).ok and host.read(CONF) == mine
    assert settle(host, {"clear": True}).ok
    assert licence_of(host)[:2] == (mine, None) and host.read(FOREIGN) == "theirs"


def test_a_token_of_somebody_else_is_a_licence_too(guest):
    host = guest(files={FOREIGN: "theirs"})
    assert licence(host)["licensed"] is True
    request = Request(host)
    result = request.reconciler.apply(request.settings({}))
    assert result.ok and result.plan.empty


def test_a_configuration_that_says_so_already_is_not_touched(guest):
    host = guest(files={CONF: "ServerAddress=lic1\nFeatureType=1"})
    assert apply(host, license_server="lic1", feature="vgpu").plan.empty
    assert CONF not in host.state()["written"]


def test_feature_0_of_the_template_is_told_until_the_vgpu_has_a_licence(guest):
    host = guest(files={CONF: "FeatureType=0"})
    assert "FeatureType=0" in plan(host, license_server="lic1").text()
    assert "set vgpu:feature to vgpu" in plan(host, license_server="lic1").text()
    assert "set vgpu:feature" not in plan(host, license_server="lic1", feature="vgpu").text()
    assert apply(host, license_server="lic1").ok
    assert "set vgpu:feature" not in plan(host, license_server="lic1").text()


def test_a_daemon_that_does_not_run_is_started_and_stopped_again_when_that_is_undone(guest):
    host = guest()
    host.run(["systemctl", "stop", SERVICE])
    assert licence(host)["service"] == "not running"
    result = apply(host, license_server="lic1")
    assert result.ok and any(step.words == "start nvidia-gridd" for step in result.plan.steps)
    assert licence_of(host)[2] == "active"
    host.run(["systemctl", "stop", SERVICE])
    assert apply(host, license_server="lic1").changes[ONE]["old"]["service"] == "not running"
    assert rollback(host).ok and licence_of(host)[2] == "inactive"


class Listening(SimulatedHost):
    """A simulated host with a list of the programs that were run on it."""

    def run(self, argv, timeout=60):
        self.__dict__.setdefault("ran", []).append(" ".join(argv))
        return super().run(argv, timeout)


def test_the_daemon_is_restarted_once_for_all_vgpus(guest):
    host = guest()
    host = Listening(host.description_path, host.state_dir)
    result = apply(host, license_server="lic1", client_token=TOKEN)
    assert result.ok and list(result.changes) == [ONE, TWO]
    assert [line for line in host.ran if "restart" in line] == ["systemctl restart nvidia-gridd"]
    licence_of(host)


def test_one_vgpu_of_two_may_be_named(guest):
    host = guest()
    rule = {"match": {"pci": TWO}, "strategy": "none"}
    request = Request(host)
    result = request.reconciler.apply(request.targets([rule], license_server="lic1"))
    assert result.ok and list(result.changes) == [ONE]
    licence_of(host)


def test_what_consumers_are_given(guest):
    host = guest(processes=[{"pid": 77, "command": "python3", "gpu": ONE}])
    request = Request(host)
    tool, gpu = request.tool.get("licence"), request.gpus[0]
    (part,) = tool.slices(gpu, tool.observe(gpu))
    assert (part.kind, part.profile, part.identity, part.memory_mib) == ("vgpu", "H100XM-10C", gpu.uuid, 10240)
    assert "/dev/nvidia0" in part.device_nodes
    assert [holder["pid"] for holder in part.in_use_by] == [77]
    assert board.Reading(host, Sessions(host), gpu).findings() == [] and "H100XM-10C" in tool.drawing(gpu, tool.observe(gpu))


@pytest.mark.parametrize(
    ("name", "profile", "memory"),
    [("NVIDIA A100X-1-5CME", "A100X-1-5CME", 5120), ("GRID T4-2B4", "T4-2B4", 2048), ("NVIDIA GRID M10-0B", "M10-0B", 512)],
)
def test_the_name_of_a_type_tells_its_memory(guest, name, profile, memory):
    gpus = [{"model": "h100-80gb", "address": ONE, "name": name, "vgpu_guest": True}]
    request = Request(guest(gpus=gpus))
    tool = request.tool.get("licence")
    (part,) = tool.slices(request.gpus[0], tool.observe(request.gpus[0]))
    assert (part.profile, part.memory_mib) == (profile, memory)


@pytest.mark.parametrize(
    ("section", "exported"),
    [
        ({"license_server": "lic1"}, {"license_server": "lic1"}),
        (
            {"license_server": "::1", "license_port": 7071, "feature": "workstation"},
            {"license_server": "::1", "license_port": 7071, "feature": "workstation"},
        ),
        ({"license_server": "lic1", "client_token": TOKEN}, None),
        ({"client_token": TOKEN}, None),
    ],
)
def test_what_is_exported_changes_nothing_and_no_token_is_told(guest, section, exported):
    host = guest(files={f"{CONF}.template": ""})
    assert apply(host, **section).ok
    request = Request(host)
    tool, gpu = request.tool.get("licence"), request.gpus[0]
    found = tool.pillar(gpu, tool.layout(tool.observe(gpu)))
    assert found == (exported and {"strategy": "vgpu", "vgpu": exported})
    if exported:
        assert apply(host, **exported).plan.empty


def test_a_guest_where_nothing_is_set_exports_nothing(guest):
    request = Request(guest())
    tool, gpu = request.tool.get("licence"), request.gpus[0]
    layout = tool.layout(tool.observe(gpu))
    assert tool.pillar(gpu, layout) is None and tool.words(layout) == "no licence, nvidia-gridd runs"


@pytest.mark.parametrize("fault", [{"error": "EIO"}, {"lie": True}])
def test_a_licence_that_can_not_be_asked_for_is_told_and_fails_nothing(guest, fault):
    host = guest()
    assert apply(host, license_server="lic1").ok
    host.add_fault({"call": "run", "nth": 2, **fault})
    status = licence(host)
    assert (status["licensed"], status["license"]) == (None, "")
    without = guest(tools=["lspci", "systemctl"])
    assert apply(without, license_server="lic1").ok
    assert "nvidia-smi tells nothing of a licence" in plan(without, license_server="lic1").text()


# -- what is refused -----------------------------------------------------------------------------------------------------
def refused(host, kind, *words, act=apply, **section):
    """Assert that something is refused in these words and changes nothing."""
    before = host.state()["written"], host.state().get("running")
    with pytest.raises(kind) as caught:
        act(host, **section)
    told = str(caught.value)
    for word in words:
        assert word in told
    assert TOKEN not in told
    assert (host.state()["written"], host.state().get("running")) == before


def test_a_type_is_the_hosts_affair(guest):
    for section in ({"profile": "H100XM-10C"}, {"profiles": {"H100XM-10C": 2}}):
        words = [ONE, "is a vGPU in a guest; its type is its host's affair", f"vgpu:{next(iter(section))}"]
        refused(guest(), errors.PolicyError, *words, license_server="lic1", **section)


def test_a_type_that_is_named_for_one_of_two_vgpus_is_refused_too(guest):
    rule = pillars.rule(TWO, vgpu={"license_server": "", "profile": "H100XM-10C"})

    def act(host, **section):
        request = Request(host)
        return request.reconciler.apply(request.targets([rule], **section))

    refused(guest(), errors.Unsupported, TWO, "is a vGPU in a guest", "vgpu:profile", act=act, license_server="lic1")


def test_all_vgpus_of_a_guest_are_one_part(guest):
    request = Request(guest())
    targets = request.targets(license_server="lic1")
    tool = request.tool.get("licence")
    works = [Work(target, tool.observe(target.gpu), peers=tuple(targets)) for target in targets]
    assert tool.together(works) == [works] and tool.together([]) == []
    [part] = tool.plan(works)
    assert (part.key, part.addresses) == (LICENCE, (ONE, TWO)) and {step.gpu for step in part.steps} == {ONE}
    assert request.reconciler.plan(targets).parts == (part,)


def test_a_licence_has_to_be_named(guest):
    host = guest()
    request = Request(host)
    with pytest.raises(errors.GpuSliceError) as caught:
        request.reconciler.plan(request.settings({"license_port": 7070, "feature": "auto"})[:1])
    assert isinstance(caught.value, errors.Unsupported)
    assert "vGPU types are chosen on the host" in str(caught.value) and ONE in str(caught.value)


def test_a_guest_without_the_daemon_is_told_what_to_install(guest):
    host = guest(units=[])
    refused(host, errors.PolicyError, ONE, "nvidia-gridd is not installed", "-grid.run", license_server="lic1")
    assert settle(host, {"clear": True}).plan.empty


def test_two_vgpus_of_a_guest_can_not_have_different_licences(guest):
    rule = {"match": {"pci": TWO}, "vgpu": {"license_server": "lic2"}}
    words = [ONE, TWO, "lic1:7070", "lic2:7070", "share one licence configuration"]

    def act(host, **section):
        request = Request(host)
        return request.reconciler.apply(request.targets([rule], **section))

    refused(guest(), errors.PolicyError, *words, act=act, license_server="lic1")
    rule["vgpu"] = {"client_token": OTHER}
    refused(guest(), errors.PolicyError, ONE, TWO, digest(TOKEN), digest(OTHER), act=act, client_token=TOKEN)
    # For a boot, which goes on with the others, it is a failure of what they have in common.
    request = Request(guest())
    found = request.reconciler.plan_each(request.targets([rule], client_token=TOKEN))
    assert {key: type(err) for key, err in found.items()} == {LICENCE: errors.PolicyError}


def test_a_folder_of_tokens_elsewhere_is_respected(guest):
    host = guest(files={CONF: "ClientConfigTokenPath=/srv/tokens"})
    refused(host, errors.PolicyError, ONE, "/srv/tokens", "ClientConfigTokenPath", client_token=TOKEN)
    assert apply(host, license_server="lic1").ok
    usual = guest(files={CONF: f"ClientConfigTokenPath={client_token.FOLDER}/"})
    assert apply(usual, client_token=TOKEN).ok


def test_without_root_nothing_is_changed(guest):
    host = guest(privileged=False)
    result = apply(host, license_server="lic1", client_token=TOKEN)
    # Both begin at once, and neither goes on once the other has failed.
    assert not result.ok and "Run as root" in result.errors[0] and any(gpu in result.errors[0] for gpu in (ONE, TWO))
    assert licence_of(host) == (None, None, "active")


# -- faults at every write -----------------------------------------------------------------------------------------------
OLD = {"license_server": "lic1", "client_token": TOKEN}
NEW = {"license_server": "lic2", "license_port": 7071, "client_token": OTHER, "feature": "vgpu"}
GONE = {"clear": True}


@pytest.fixture
def prepared(guest):
    """A guest with the old licence; and what it and the new one look like."""
    host = guest()
    assert apply(host, **OLD).ok
    old = licence_of(host)
    assert apply(host, **NEW).ok
    new = licence_of(host)
    assert apply(host, **OLD).ok and licence_of(host) == old
    return host, old, new


def change(host, wanted):
    return settle(host, wanted) if wanted is GONE else apply(host, **wanted)


@pytest.mark.parametrize("call", ["store_write", "store_remove", "store_append", "run"])
def test_a_fault_at_any_call_leaves_the_old_or_the_new(prepared, call):
    host, old, new = prepared
    met, told = set(), ""
    for nth in range(1, 40):
        host.add_fault({"call": call, "nth": nth, "error": "ENOSPC"})
        try:
            result = apply(again(host), **NEW)
            met.add(result.ok)
            told += "\n".join(result.errors)
        except errors.GpuSliceError as err:
            met.add(False)
            told += str(err)
        spent = host.state()["faults"][0]["seen"] >= nth
        host.clear_faults()
        assert licence_of(host) in (old, new)
        assert apply(again(host), **NEW).ok and licence_of(host) == new
        assert apply(again(host), **OLD).ok and licence_of(host) == old
        if not spent:
            break
    assert not spent and False in met and "Traceback" not in told
    assert TOKEN not in told and OTHER not in told
    if call == "run":
        assert "restart nvidia-gridd, so that it reads its files) failed" in told and "has been undone" in told


#: Writes: the journal, note, copy, token, note, gridd.conf. Removals: old lines of the journal, the copy before, the note.
#: Programs: three looks at each vGPU, then whether the daemon runs, its restart, and whether it runs.
RESTART = 8
POINTS = [
    *(("store_write", nth) for nth in range(1, 7)),
    *(("store_remove", nth) for nth in range(1, 4)),
    *(("run", nth) for nth in range(RESTART - 1, RESTART + 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
@pytest.mark.parametrize("wanted", [NEW, GONE], ids=["new", "cleared"])
def test_kill_is_finished_by_the_next_run(prepared, call, nth, when, wanted):
    host, old, new = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    ended = in_child(lambda: change(again(host), wanted))
    host.clear_faults()
    # A licence that goes takes fewer writes than a new one, of which the last are then not met.
    assert ended == signal.SIGKILL or wanted is GONE
    assert change(again(host), wanted).ok
    assert licence_of(host) == (new if wanted is NEW else (None, None, "active"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
@pytest.mark.parametrize("wanted", [NEW, GONE], ids=["new", "cleared"])
def test_kill_is_undone_by_a_run_that_wants_something_else(prepared, call, nth, when, wanted):
    host, old, new = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    ended = in_child(lambda: change(again(host), wanted))
    host.clear_faults()
    assert ended == signal.SIGKILL or wanted is GONE
    # What is wanted now names no token: the old one can only come from a file.
    interrupted = Journal(host).unfinished() is not None
    result = apply(again(host), license_server="lic1", feature="compute")
    assert result.ok and (not interrupted or "undone" in " ".join(result.warnings))
    if interrupted:
        assert rollback(again(host)).ok and licence_of(host) == old


@pytest.mark.slow
@pytest.mark.parametrize("nth", range(1, 7))
def test_a_restart_that_fails_after_a_kill_goes_back_to_where_the_first_attempt_began(prepared, nth):
    host, old, new = prepared
    host.add_fault({"call": "store_write", "nth": nth, "kill": "before"})
    assert in_child(lambda: apply(again(host), **NEW)) == signal.SIGKILL
    host.add_fault({"call": "run", "nth": RESTART, "error": "EIO"})
    result = apply(again(host), **NEW)
    assert not result.ok and "undone" in result.errors[-1]
    assert licence_of(host) == old
    assert apply(again(host), **NEW).ok and licence_of(host) == new


# -- the token is told nowhere -------------------------------------------------------------------------------------------
def state_files(host):
    """All that the engine has written, as text."""
    found = []
    for folder, folders, names in os.walk(host.state_dir):
        folders[:] = [name for name in folders if name != "simulated"]
        for name in names:
            with open(os.path.join(folder, name), encoding="utf-8") as handle:
                found.append(handle.read())
    return "\n".join(found)


def test_a_token_appears_nowhere_but_in_its_file(guest, caplog):
    host = guest()
    told = []
    with caplog.at_level(logging.DEBUG):
        for token in (TOKEN, OTHER):
            request = Request(host, progress=told.append)
            targets = request.targets(client_token=token, license_server="lic1")
            told += [str(targets), repr(targets), request.reconciler.plan(targets).text()]
            result = request.reconciler.apply(targets)
            assert result.ok
            told += [json.dumps(result.plan.as_dict()), json.dumps(result.changes), str(result), str(licence(host))]
        told += [str(Request(host).tool.get("licence").slices(gpu, None)) for gpu in request.gpus]
        host.add_fault({"call": "store_write", "nth": 4, "error": "ENOSPC"})
        failed = apply(host, client_token=TOKEN)
        assert not failed.ok
        told += [str(failed), *failed.errors]
        host.clear_faults()
        host.add_fault({"call": "store_write", "nth": 4, "kill": "after"})
        assert in_child(lambda: apply(again(host), client_token=TOKEN)) == signal.SIGKILL
        host.clear_faults()
        journal = state_files(host)
        assert digest(TOKEN) in journal and Journal(host).unfinished() is not None
        told += [str(apply(again(host), license_server="lic2").warnings), repr(rollback(host))]
    everything = "\n".join([*told, journal, state_files(host), caplog.text])
    assert digest(TOKEN) in everything and digest(OTHER) in everything
    for token in (TOKEN, OTHER):
        assert token not in everything and token.split(".")[1] not in everything
    assert vgpu_guest.SERVICE in everything


def test_the_files_are_written_by_one_thread_at_a_time(guest):
    host = guest()
    request = Request(host)
    tool = request.tool.get("licence")
    threads = [
        threading.Thread(target=tool._run_write_license, args=(gpu, f"lic{number}", "7070", ""))
        for number, gpu in enumerate(request.gpus * 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert host.read(CONF).count("ServerAddress=lic") == 1
