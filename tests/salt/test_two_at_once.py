"""
Two processes that change one host at once, for every function that changes something: with the real loaders, a real lock, and
both having planned before either one changes anything. What comes of it is what comes of one after the other: whatever answered
True is there afterwards.
"""

import ast
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback
from contextlib import nullcontext
from typing import NamedTuple

import pytest
from salt.exceptions import CommandExecutionError

from gpuslice.records import lock
from tests.support import crash
from tests.support import pillars

MODULES = pathlib.Path(__file__).parents[2] / "_modules"
GPU, OTHER = "0000:07:00.0", "0000:0f:00.0"
H100 = {"model": "h100-80gb", "address": GPU, "mig": "enabled"}
A100 = {"model": "a100-40gb", "address": GPU, "reset": "tool"}
DGX = ("dgx-h100", {"gpus": [{**H100, "instances": ["3g.40gb@4", "1g.10gb@0", "1g.10gb@1"]}]})
CONFINED = (DGX[0], {**DGX[1], "tools": ["apparmor_parser", "nvidia-smi", "systemctl"]})
PAIR = ("dgx-h100", {"gpus": [H100, {**H100, "address": OTHER}]})
SPLIT = {"profile": "3g.40gb", "start": 4, "cis": [["1c.3g.40gb", 0], ["1c.3g.40gb", 1], ["1c.3g.40gb", 2]]}
SPREAD = (DGX[0], {"gpus": [{**H100, "instances": ["1g.10gb@1", "1g.10gb@5"]}]})
SPLITS = (DGX[0], {"gpus": [{**H100, "instances": [SPLIT]}]})
HALVES = (DGX[0], {"gpus": [{**H100, "instances": [{**SPLIT, "cis": SPLIT["cis"][:1]}]}]})
VFIO, MDEV, GUEST = ("vgpu-host-vfio", {}), ("vgpu-host-mdev", {}), ("vgpu-guest", {})
VGPUS, TURING, LICENSED = "0000:41:00.0", "0000:86:00.0", ("0000:06:00.0", "0000:07:00.0")
MI300X, MIXED, ARC = ("mi300x-8", {}), ("mixed-vendors", {}), ("arc-pro-b60", {})
FIRST_AMD, SECOND_AMD = "0000:05:00.0", "0000:26:00.0"
B60, FLEX = "0000:03:00.0", "0000:8a:00.0"
L4, SHARED, SHARED_TOO = ("l4-pair", {}), "0000:41:00.0", "0000:a1:00.0"
SLURM = (DGX[0], {**DGX[1], "tools": ["nvidia-smi", "systemctl", "scontrol"], "slurm": {}, "patience": 0.01})
NOMAD = (DGX[0], {**DGX[1], "tools": ["nvidia-smi", "systemctl", "nomad"], "nomad": {}, "patience": 0.01})
CONFIG = "/etc/kubernetes/gpu-slicing.kubeconfig"
KUBERNETES = (DGX[0], {**DGX[1], "tools": ["nvidia-smi", "systemctl", "kubectl"], "files": {CONFIG: "x"}, "kubernetes": {}})
IN_USE = "0000:41:00.0"
L40S = ("l40s-pair", {})
PASSED, PASSED_TOO = "0000:1b:00.0", "0000:3d:00.0"


class Case(NamedTuple):
    """
    Two calls of one function.

    :ivar machine: example host and what is laid over it; :ivar first, second: arguments of the calls, keywords last as a dict.
    :ivar before: calls that come first; :ivar both: whether both are to answer True.
    """

    function: str
    machine: tuple
    first: tuple
    second: tuple
    before: tuple = ()
    both: bool = True


MADE = (("gpu_mig.apply_layout", (GPU, ["1g.10gb"])), ("gpu_mig.apply_layout", (GPU, ["1g.10gb", "2g.20gb"])))
SERVED = (("gpu_consumer.serve", ("web",)), ("gpu_consumer.serve", ("batch",)))
HELD = [f"{GPU}-1g.10gb-0", f"{GPU}-1g.10gb-1"]
CASES = {
    "two instances": Case("gpu_mig.create", DGX, (GPU, "2g.20gb"), (GPU, "1g.10gb", 2), both=False),
    "two equal instances": Case("gpu_mig.create", PAIR, (GPU, "3g.40gb"), (GPU, "3g.40gb")),
    "two instances go": Case("gpu_mig.destroy", DGX, (GPU, "1g.10gb@0"), (GPU, "3g.40gb@4")),
    "one instance goes twice": Case("gpu_mig.destroy", DGX, (GPU, "1g.10gb@0"), (GPU, "1g.10gb@0"), both=False),
    "all and one go": Case("gpu_mig.destroy", DGX, (GPU, "all"), (GPU, "3g.40gb@4"), both=False),
    "one fragmented GPU": Case("gpu_mig.defrag", SPREAD, (GPU, "3g.40gb"), (GPU, "3g.40gb")),
    "one compute instance more, twice": Case("gpu_mig.create_ci", HALVES, (GPU, "3g.40gb@4", "1c"), (GPU, "3g.40gb@4", "1c")),
    "one compute instance goes twice": Case(
        "gpu_mig.destroy_ci", SPLITS, (GPU, f"{GPU}-3g.40gb-4-1c-0"), (GPU, f"{GPU}-3g.40gb-4-1c-0"), both=False
    ),
    "two layouts": Case("gpu_mig.apply_layout", DGX, (GPU, ["7g.80gb"]), (GPU, ["1g.10gb", "2g.20gb"])),
    "one layout twice": Case("gpu_mig.apply_layout", DGX, (GPU, ["7g.80gb"]), (GPU, ["7g.80gb"])),
    "layouts of two GPUs": Case("gpu_mig.apply_layout", PAIR, (GPU, ["7g.80gb"]), (OTHER, ["2g.20gb"])),
    "MIG on and off": Case("gpu_mig.set_mode", DGX, (GPU, False), (GPU, True)),
    "MIG off twice": Case("gpu_mig.set_mode", DGX, (GPU, False), (GPU, False)),
    "a pending reset twice": Case("gpu.reset", ("dgx-a100-40gb", {"gpus": [A100]}), (GPU,), (GPU,), both=False),
    "two pillars": Case("gpu_slicing.apply", DGX, (pillars.mig(["7g.80gb"]),), (pillars.mig(["1g.10gb", "4g.40gb"]),)),
    "one pillar twice": Case("gpu_slicing.apply", DGX, (pillars.mig(["7g.80gb"]),), (pillars.mig(["7g.80gb"]),)),
    "two generations": Case("gpu_slicing.rollback", PAIR, (1,), (2,), before=MADE),
    # What waits is that of the minion's own pillar: tests/salt/test_waiting.py.
    "nothing waits, tried twice": Case("gpu_slicing.resume", PAIR, (), ()),
    "nothing waits, forgotten twice": Case("gpu_slicing.forget_waiting", PAIR, (), ()),
    "a host given up": Case("gpu_slicing.clean", PAIR, (), (), before=(*MADE, ("gpu_boot.enable", ()))),
    "generation 0 twice": Case("gpu_slicing.rollback", PAIR, (0,), (0,), before=MADE),
    "an interrupted change undone": Case("gpu_slicing.recover", PAIR, (), (), before=(("kill", (GPU, "3g.40gb")),)),
    # Of two that could be tried the second is refused while the first is: tests/engine/test_qualify.py.
    "a GPU in use is tried twice": Case(
        "gpu_slicing.qualify", ("a30-pair", {}), (IN_USE, {"confirm": True}), (IN_USE, {"confirm": True}), both=False
    ),
    "replays": Case("gpu_boot.replay", DGX, ({"wait": 0},), ({"wait": 0},), before=(*MADE, ("lose", (GPU,)))),
    "two records": Case(
        "gpu_boot.forget", PAIR, (GPU,), (OTHER,), before=(MADE[0], ("gpu_mig.apply_layout", (OTHER, ["1g.10gb"])))
    ),
    "one record twice": Case("gpu_boot.forget", PAIR, (GPU,), (GPU,), before=MADE[:1], both=False),
    "the boot unit, enabled": Case("gpu_boot.enable", PAIR, (), ()),
    "the boot unit, disabled": Case("gpu_boot.disable", PAIR, (), (), before=(("gpu_boot.enable", ()),)),
    "a node of Slurm is drained": Case("gpu_slurm.drain", SLURM, (), ()),
    "and taken back": Case("gpu_slurm.resume", SLURM, (), (), before=(("gpu_slurm.drain", ()),)),
    "a node of Nomad is drained": Case("gpu_nomad.drain", NOMAD, (), ()),
    "and taken back into use": Case("gpu_nomad.resume", NOMAD, (), (), before=(("gpu_nomad.drain", ()),)),
    "what Nomad is told": Case("gpu_nomad.write", NOMAD, ("/etc/nomad.d/gpu.hcl",), ("/etc/nomad.d/gpu.hcl",)),
    "a node of Kubernetes is drained": Case("gpu_kubernetes.drain", KUBERNETES, (CONFIG,), (CONFIG,)),
    "and uncordoned": Case(
        "gpu_kubernetes.resume", KUBERNETES, (CONFIG,), (CONFIG,), before=(("gpu_kubernetes.drain", (CONFIG,)),)
    ),
    "it is labelled": Case("gpu_kubernetes.apply_labels", KUBERNETES, (CONFIG,), (CONFIG,)),
    "its labels go": Case(
        "gpu_kubernetes.remove_labels", KUBERNETES, (CONFIG,), (CONFIG,), before=(("gpu_kubernetes.apply_labels", (CONFIG,)),)
    ),
    "what Kubernetes is told": Case("gpu_kubernetes.write", PAIR, ("/etc/kubernetes/gpu.yaml",), ("/etc/kubernetes/gpu.yaml",)),
    "what Slurm is told": Case("gpu_slurm.write", SLURM, ("/etc/slurm/gres.conf",), ("/etc/slurm/gres.conf",)),
    "metrics, written": Case("gpu_metrics.enable", PAIR, (), ()),
    "metrics, written no more": Case("gpu_metrics.disable", PAIR, (), (), before=(("gpu_metrics.enable", ()),)),
    "two vGPUs": Case(
        "gpu_vgpu.set_type",
        VFIO,
        (VGPUS, "0000:41:00.6", "H100XM-20C"),
        (VGPUS, "0000:41:00.7", "H100XM-20C"),
        before=(("gpu_vgpu.set_vgpus", (VGPUS, "H100XM-20C", 2)),),
    ),
    "one more on the GPU itself, twice": Case(
        "gpu_vgpu.set_type", MDEV, (TURING, TURING, "T4-4Q"), (TURING, TURING, "T4-4Q"), before=()
    ),
    "two vGPUs go": Case(
        "gpu_vgpu.remove",
        VFIO,
        (VGPUS, "0000:41:00.4"),
        (VGPUS, "0000:41:00.5"),
        before=(("gpu_vgpu.set_vgpus", (VGPUS, "H100XM-20C", 3)),),
    ),
    "one vGPU goes twice": Case(
        "gpu_vgpu.remove",
        VFIO,
        (VGPUS, "0000:41:00.4"),
        (VGPUS, "0000:41:00.4"),
        before=(("gpu_vgpu.set_vgpus", (VGPUS, "H100XM-20C", 3)),),
        both=False,
    ),
    "all vGPUs": Case("gpu_vgpu.set_vgpus", VFIO, (VGPUS, "H100XM-20C", 2), (VGPUS, "H100XM-40C")),
    "two licences": Case(
        "gpu_vgpu.set_license",
        GUEST,
        (LICENSED[0], {"license_server": "one.example.com"}),
        (LICENSED[1], {"license_server": "two.example.com", "license_port": 7071}),
    ),
    "a licence taken back twice": Case(
        "gpu_vgpu.clear_license",
        GUEST,
        (LICENSED[0],),
        (LICENSED[1],),
        before=(("gpu_vgpu.set_license", (LICENSED[0], {"license_server": "one.example.com"})),),
    ),
    "modes of one GPU": Case("gpu_partition.set_mode", MI300X, (FIRST_AMD, "CPX"), (FIRST_AMD, "DPX")),
    "modes of two GPUs": Case("gpu_partition.set_mode", MI300X, (FIRST_AMD, "CPX"), (SECOND_AMD, "DPX")),
    "compute and memory mode": Case(
        "gpu_partition.set_mode", MI300X, (FIRST_AMD, "CPX"), ("all", {"memory": "NPS4", "reload": True})
    ),
    "pieces taken back": Case(
        "gpu_partition.reset", MI300X, (FIRST_AMD,), (FIRST_AMD,), before=(("gpu_partition.set_mode", (FIRST_AMD, "CPX")),)
    ),
    "numbers of functions": Case("gpu_sriov.set_vfs", ARC, (B60, 2, {"autoprobe": True}), (B60, 4, {"autoprobe": True})),
    "functions of which one has a quota": Case(
        "gpu_sriov.set_vfs",
        ARC,
        (B60, 2, {"autoprobe": True, "vfs": {"1": {"vram_mib": 4096}}}),
        (B60, 2, {"autoprobe": True, "vfs": {"2": {"vram_mib": 8192}}}),
    ),
    "functions go twice": Case(
        "gpu_sriov.remove_vfs", ARC, (B60,), (B60,), before=(("gpu_sriov.set_vfs", (B60, 2, {"autoprobe": True})),)
    ),
    "settings of Level Zero": Case("gpu_level_zero.configure", MIXED, (FLEX, {"ccs_mode": 2}), (FLEX, {"partitions": ["0"]})),
    "two properties of engines": Case(
        "gpu_level_zero.configure",
        MIXED,
        (FLEX, {"engines": {"ccs": {"timeslice_duration_us": 2000}}}),
        (FLEX, {"engines": {"ccs": {"job_timeout_ms": 3000}}}),
    ),
    "Level Zero cleared": Case(
        "gpu_level_zero.clear",
        MIXED,
        (FLEX,),
        (FLEX,),
        before=(("gpu_level_zero.configure", (FLEX, {"ccs_mode": 2, "partitions": ["0"]})),),
    ),
    "two GPUs shared in time": Case(
        "gpu_time_slicing.configure", L4, (SHARED, {"max_instance_count": 2}), (SHARED_TOO, {"max_instance_count": 3})
    ),
    "one GPU shared in two ways": Case(
        "gpu_time_slicing.configure",
        L4,
        (SHARED, {"max_instance_count": 2, "slice_duration": "500us"}),
        (SHARED, {"max_instance_count": 3, "slice_duration": "50ms"}),
    ),
    "a GPU shared no more, twice": Case(
        "gpu_time_slicing.remove", L4, (SHARED,), (SHARED,), before=(("gpu_time_slicing.configure", (SHARED,)),)
    ),
    "two boards capped": Case("gpu_power.configure", L40S, (SHARED, {"limit_watts": 200}), (SHARED_TOO, {"limit_watts": 250})),
    "a board capped twice": Case("gpu_power.configure", L40S, (SHARED, {"limit_watts": 200}), (SHARED, {"limit_watts": 250})),
    "a cap lifted twice": Case(
        "gpu_power.remove", L40S, (SHARED,), (SHARED,), before=(("gpu_power.configure", (SHARED, {"limit_watts": 200})),)
    ),
    "one GPU forgotten twice": Case("gpu_health.forget", DGX, (GPU,), (GPU,), before=SERVED),
    "two slices quarantined": Case("gpu_health.quarantine", DGX, (f"{GPU}-1g.10gb-0",), (f"{GPU}-1g.10gb-1",), before=SERVED),
    "one slice quarantined twice": Case("gpu_health.quarantine", DGX, (f"{GPU}-1g.10gb-0",), (GPU,), before=SERVED),
    "two slices released": Case(
        "gpu_health.release", DGX, (HELD[0],), (HELD[1],), before=(*SERVED, ("gpu_health.quarantine", (HELD,)))
    ),
    "health judged twice": Case("gpu_health.healthy", DGX, (), (), before=SERVED),
    "two consumers": Case("gpu_consumer.serve", DGX, ("web", {"slice": "3g.40gb"}), ("batch", {"slice": "1g.10gb"})),
    "one slice for two consumers": Case(
        "gpu_consumer.serve", DGX, ("web", {"slice": "3g.40gb"}), ("batch", {"slice": "3g.40gb"}), both=False
    ),
    "one consumer in two ways": Case("gpu_consumer.serve", DGX, ("web", {"slice": "3g.40gb"}), ("web", {"slice": "1g.10gb"})),
    "a consumer goes twice": Case("gpu_consumer.dismiss", DGX, ("web",), ("web",), before=SERVED[:1], both=False),
    "two consumers go": Case("gpu_consumer.dismiss", DGX, ("web",), ("batch",), before=SERVED),
    "names written anew twice": Case("gpu_cdi.refresh", DGX, (), (), before=(*SERVED, ("wipe", ()))),
    "two GPUs shared by MPS": Case(
        "gpu_mps.configure", L4, (SHARED, {"max_instance_count": 2}), (SHARED_TOO, {"max_instance_count": 3})
    ),
    "one GPU shared by MPS in two ways": Case(
        "gpu_mps.configure", L4, (SHARED, {"max_instance_count": 2}), (SHARED, {"pinned_memory_mib": 512, "exclusive": False})
    ),
    "a GPU shared by MPS no more, twice": Case(
        "gpu_mps.remove", L4, (SHARED,), (SHARED,), before=(("gpu_mps.configure", (SHARED,)),)
    ),
    "a profile loaded twice": Case("gpu_consumer.load_apparmor", CONFINED, (), ()),
    "two GPUs for virtual machines": Case("gpu_passthrough.bind", MIXED, (PASSED,), (PASSED_TOO,)),
    "one GPU for virtual machines": Case("gpu_passthrough.bind", MIXED, (PASSED,), (PASSED,)),
    "two GPUs taken back": Case(
        "gpu_passthrough.release",
        MIXED,
        (PASSED,),
        (PASSED_TOO,),
        before=(("gpu_passthrough.bind", (PASSED,)), ("gpu_passthrough.bind", (PASSED_TOO,))),
    ),
}


#: One of each kind; the others take long together.
QUICK = (
    "two equal instances",
    "one instance goes twice",
    "MIG off twice",
    "a pending reset twice",
    "two records",
    "one record twice",
    "one more on the GPU itself, twice",
    "two vGPUs go",
    "one slice for two consumers",
    "two properties of engines",
)


# -- calling ---------------------------------------------------------------------------------------------------------------
def call(box, function, arguments):
    """The ``result`` of a call, None for one that was refused, and its words."""
    named = arguments[-1] if arguments and isinstance(arguments[-1], dict) and function != "gpu_slicing.apply" else {}
    try:
        answer = box.call(function, *(arguments[:-1] if named else arguments), **named)
    except CommandExecutionError as err:
        return None, str(err)
    return answer["result"], answer["comment"]


def prepare(box, case):
    """The host as it is when the two come: new, and then what comes before."""
    shutil.rmtree(box.state_dir, ignore_errors=True)
    if case.function == "gpu.reset":
        with box.host.change() as state:
            state["gpus"][GPU]["pending"] = True
    for function, arguments in case.before:
        if function == "lose":
            with box.host.change() as state:
                state["gpus"][GPU]["gis"] = {}
            continue
        if function == "wipe":
            with box.host.change() as state:
                assert state["written"]
                state["written"] = {}
            continue
        if function == "kill":
            box.host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"})
            assert crash.in_child(lambda arguments=arguments: call(box, "gpu_mig.create", arguments)) == signal.SIGKILL
            continue
        result, words = call(box, function, arguments)
        assert result, words


def outcome(box):
    """What the host has and remembers, without what tells when and in which order it was made."""
    live = [{key: value for key, value in device.items() if key != "uuid"} for device in box.call("gpu.devices")]
    status = box.call("gpu_boot.status")
    noted = {gpu: (entry["technique"], entry["layout"], entry["state"]) for gpu, entry in status["gpus"].items()}
    written = box.call("gpu_metrics.status")
    metrics = [written[key] for key in ("units", "enabled", "active", "textfile")]
    handed = [box.call("gpu_consumer.list"), box.call("gpu_cdi.audit")]
    state = box.host.state()
    kept = [state["written"].get(path) for path in ("/etc/slurm/gres.conf", "/etc/kubernetes/gpu.yaml", "/etc/nomad.d/gpu.hcl")]
    cluster = state.get("kubernetes", {})
    node = [state.get("slurm", {}).get("state"), state.get("nomad", {}).get("eligible"), *kept]
    node += [cluster.get("labels"), cluster.get("cordoned")]
    return json.loads(json.dumps([live, noted, status["unit"], metrics, handed, node], sort_keys=True))


def one_after_the_other(box, case, order):
    """(results in the order of the case, outcome) when the calls come one after the other."""
    prepare(box, case)
    calls, results = (case.first, case.second), [None, None]
    for number in order:
        results[number] = call(box, case.function, calls[number])[0]
    return results, outcome(box)


def at_once(box, case):
    """
    (answers, outcome) when both come at once. The lock is ours until both have planned and wait for it, or have ended without it.
    """
    prepare(box, case)
    (wait, go), children = os.pipe(), []
    # A child that was made while we hold the lock would hold it too.
    for arguments in (case.first, case.second):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _answer(box, case.function, arguments, wait, tell)
        os.close(tell)
        children.append((child, told))
    # An interrupted change is none while somebody holds the lock: who holds it may be at work on it.
    with nullcontext() if case.function == "gpu_slicing.recover" else lock.held(str(box.state_dir), "this test"):
        os.write(go, b"..")
        ended = {child: None for child, _ in children}
        end = time.monotonic() + 120
        while any(status is None and not waits(child, box) for child, status in ended.items()):
            assert time.monotonic() < end, "a call neither ended nor came to the lock"
            time.sleep(0.01)
            ended = {child: _ended(child) if status is None else status for child, status in ended.items()}
    answers = []
    for child, told in children:
        with os.fdopen(told) as pipe:
            answers.append(json.loads(pipe.read()))
        status = os.waitpid(child, 0)[1] if ended[child] is None else ended[child]
        assert status == 0, answers
    os.close(wait)
    os.close(go)
    return answers, outcome(box)


def _answer(box, function, arguments, wait, tell):
    try:
        os.read(wait, 1)
        os.write(tell, json.dumps(call(box, function, arguments)).encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def _ended(child):
    found, status = os.waitpid(child, os.WNOHANG)
    return status if found else None


def waits(child, box):
    """Whether a process has the lock's file open, as one has that waits for it."""
    place = pathlib.Path("/proc") / str(child) / "fd"
    try:
        return any(os.readlink(place / name) == str(box.state_dir / "lock") for name in os.listdir(place))
    except OSError:
        return False


def answered(answers):
    return [result for result, _ in answers]


# -- the tests -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_two_at_once_are_as_one_after_the_other(minion, name):
    case = CASES[name]
    box = minion(case.machine[0], changes=case.machine[1])
    orders = [(0, 1)] if case.first == case.second else [(0, 1), (1, 0)]
    allowed = [one_after_the_other(box, case, order) for order in orders]
    if case.first == case.second:
        # Which of two equal ones comes first can't be told.
        allowed += [(results[::-1], came) for results, came in allowed]
    answers, came = at_once(box, case)
    assert (answered(answers), came) in allowed, answers
    assert answered(answers) == [True, True] or not case.both, answers
    assert not any("engine failed" in words or "Traceback" in words for _, words in answers)


def test_of_two_who_undo_the_last_change_the_second_is_told_that_it_is_another_one_now(minion):
    box = minion(PAIR[0], changes=PAIR[1])
    case = Case("gpu_slicing.rollback", PAIR, (), (), before=MADE)
    answers, came = at_once(box, case)
    assert sorted(map(str, answered(answers))) == ["None", "True"]
    [told] = [words for result, words in answers if not result]
    assert "Another run made generation 3 meanwhile" in told and "gpu_slicing.history" in told
    assert came == one_after_the_other(box, Case("gpu_slicing.rollback", PAIR, (1,), (1,), before=MADE), (0, 1))[1]


def test_of_two_who_finish_an_interrupted_change_the_second_repeats_nothing(minion):
    box = minion(PAIR[0], changes=PAIR[1])
    case = Case("gpu_slicing.recover", PAIR, ("finish",), ("finish",), before=(("kill", (GPU, "3g.40gb")),))
    answers, came = at_once(box, case)
    assert True in answered(answers) and came == one_after_the_other(box, case, (0, 1))[1]
    assert all(result or "Another run made generation 1 meanwhile" in words for result, words in answers)


def test_every_function_that_changes_something_is_among_them():
    changing = set()
    for path in MODULES.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and "test" in [a.arg for a in node.args.args]:
                changing.add(f"{path.stem}.{node.name}")
    assert changing == {case.function for case in CASES.values()}
