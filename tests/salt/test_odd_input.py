"""
Whatever is typed: every function of every execution module and state, through Salt's own loaders, with arguments drawn from a
pool of odd values. Each answer is an ordinary one or a refusal in one sentence; nothing changes unless the answer says so.

The pool is drawn from with a fixed seed, so that a failure comes again; its message names the call.
"""

import ast
import inspect
import json
import random

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError

from gpuslice import values
from gpuslice.printable import printable
from tests.conftest import ROOT
from tests.salt.conftest import Minion
from tests.support.odd_values import POOL

#: How many calls of each function; the slow run makes the many that a release is held to.
CALLS, MANY = 40, 500

#: The host on which the functions of a module find a GPU for them, and its address.
HOSTS = {
    "gpu": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_boot": ("dgx-a100-40gb", "0000:07:00.0"),
    # Their states are about consumers, and no GPU is named.
    "gpu_cdi": ("dgx-h100", "trainer"),
    "gpu_consumer": ("dgx-h100", "trainer"),
    "gpu_energy": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_health": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_kubernetes": ("l4-pair", ""),
    "gpu_level_zero": ("max1550", ""),
    "gpu_metrics": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_mig": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_mps": ("l40s-pair", ""),
    "gpu_nomad": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_partition": ("mi300x-8", ""),
    "gpu_passthrough": ("flex170", ""),
    "gpu_power": ("dgx-h100", ""),
    "gpu_slurm": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_time_slicing": ("l4-pair", ""),
    "gpu_slicing": ("dgx-a100-40gb", "0000:07:00.0"),
    "gpu_sriov": ("flex170", ""),
    "gpu_vgpu": ("vgpu-host-vfio", ""),
    "gpu_vgpu.set_license": ("vgpu-guest", ""),
    "gpu_vgpu.clear_license": ("vgpu-guest", ""),
    "gpu_vgpu.licensed": ("vgpu-guest", ""),
}
TWO = [
    {"model": "a100-40gb", "address": address, "mig": "enabled", "instances": ["2g.10gb@4"]}
    for address in ("0000:07:00.0", "0000:0f:00.0")
]
#: What makes sense for the arguments that are not odd in a call.
SENSIBLE = {
    "instance": "2g.10gb@4", "profiles": ["1g.5gb"], "profile": "1g.5gb", "count": 2, "enabled": True, "compute": "CPX",
    "function": "0000:41:00.4", "wait": 0, "feature": "vgpu", "consumer": "trainer", "which": "mps",
    "slice": "0000:1b:00.0", "every": 60, "since": "24h", "path": "/etc/slurm/gres.conf",
    "kubeconfig": "/etc/kubernetes/gpu-slicing.kubeconfig",
    "folder": "/no/folder", "source": {"version": "v1", "mig-configs": {"a": [{"devices": "all", "mig-enabled": False}]}},
}  # fmt: skip
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.20gb"]}}}


class Machine:
    """A minion on one host, with the functions that the loaders make of the checkout."""

    def __init__(self, on, address):
        self.on, self.address = on, address
        self.functions = on._loaders.modules
        self.states = salt.loader.states(on.opts, self.functions, {}, {})
        self._files = self._read()

    def _read(self):
        return {path: path.read_bytes() for path in sorted(self.on.state_dir.rglob("*")) if path.is_file()}

    @staticmethod
    def _told(files):
        """What of the files is the machine, or a record that outlives the call."""
        # A look that finds a host as wanted notes that, one at its health or at counters what it finds, a replay how it ended,
        # and whoever holds the lock its name.
        notes = ("lock", "verified.json", "boot.json", "health.json", "health.lock", "energy.json", "energy.lock")
        found = {path.name: content for path, content in files.items() if path.name not in notes}
        for name, content in found.items():
            if name.startswith("sim"):
                found[name] = {key: value for key, value in json.loads(content).items() if key not in ("serial", "faults", "now")}
        return found

    def changed(self):
        """Whether a call changed anything; if so, everything is put back."""
        now = self._read()
        if now == self._files or self._told(now) == self._told(self._files):
            return False
        for path in now.keys() - self._files.keys():
            path.unlink()
        for path, content in self._files.items():
            path.write_bytes(content)
        return True


@pytest.fixture(scope="module")
def machine_of(tmp_path_factory, checkout_options, host_description):
    """``machine_of("gpu_mig.create")``: the :class:`Machine` for a function."""
    made = {}

    def make(function):
        name, address = HOSTS.get(function) or HOSTS[function.split(".")[0]]
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            description = host_description(place, name, {"gpus": TWO} if name == "dgx-a100-40gb" else {})
            on = Minion(place, description, PILLAR, checkout_options)
            made[name] = Machine(on, address or sorted(on.call("gpu.capabilities"))[0])
        return made[name]

    return make


def drawn(function, address, rng):
    """Arguments for one call: most sensible, one odd, sometimes several; and the same for the message of a failure."""
    signature = inspect.signature(function)
    sensible = {**SENSIBLE, "gpu": address}
    # Salt itself sees to it that the name of a state is a text, and one of them is the path of a file to be written.
    names = [name for name in signature.parameters if name not in ("name", "kwargs")]
    given = {name: sensible[name] for name in names if signature.parameters[name].default is inspect.Parameter.empty}
    given |= {"name": address} if "name" in signature.parameters else {}
    if "test" in names and rng.random() < 0.7:
        given["test"] = True
    told = dict(given)
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 1, 2, 3)))):
        place = rng.randrange(len(POOL))
        # The value itself may be too large, or too deep, to be printed.
        given[name], told[name] = POOL[place], f"POOL[{place}], {values.describe(POOL[place])}"
    return given, told


def assert_sentence(text, what):
    assert text.strip() and "Traceback" not in text and "engine failed" not in text, f"{what}: {text[:2000]}"
    assert all(printable(line) == line for line in text.splitlines()), f"{what}: {text[:2000]!r}"


def call(machine, function, given, what):
    """Call a function; assert what holds for every call."""
    try:
        answer = function(**given)
    except CommandExecutionError as err:
        assert_sentence(str(err), what)
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("comment"), str):
        assert_sentence(answer["comment"] or "nothing", what)
    if machine.changed():
        assert isinstance(answer, dict) and answer.get("changes"), f"{what} changed the host and says {answer!r}"
        assert given.get("test") is not True, what


@pytest.mark.parametrize("value", [value for value in POOL if isinstance(value, str)], ids=ascii)
def test_a_state_may_have_any_name(machine_of, value):
    machine = machine_of("gpu_mig.layout")
    call(machine, machine.states["gpu_mig.layout"], {"name": value, "profiles": []}, f"a state of the name {value!r:.100}")


def functions(folder):
    """Names of all public functions in a folder of loader files, as users call them."""
    found = []
    for path in sorted((ROOT / folder).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        found += [f"{path.stem}.{name.removesuffix('_')}" for name in names]
    return found


def many_calls(machine, functions, name, count):
    rng = random.Random(name)
    takes_nothing = not set(inspect.signature(functions[name]).parameters) - {"name", "kwargs"}
    for number in range(1 if takes_nothing else count):
        given, told = drawn(functions[name], machine.address, rng)
        call(machine, functions[name], given, f"call {number} of {name}, {told}")


@pytest.mark.parametrize("name", functions("_modules"))
def test_an_execution_function_refuses_what_is_odd_in_a_sentence(machine_of, name):
    machine = machine_of(name)
    many_calls(machine, machine.functions, name, CALLS)


@pytest.mark.parametrize("name", functions("_states"))
def test_a_state_refuses_what_is_odd_in_a_sentence(machine_of, name):
    machine = machine_of(name)
    many_calls(machine, machine.states, name, CALLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", functions("_modules"))
def test_an_execution_function_refuses_five_hundred_odd_calls(machine_of, name):
    machine = machine_of(name)
    many_calls(machine, machine.functions, name, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("name", functions("_states"))
def test_a_state_refuses_five_hundred_odd_calls(machine_of, name):
    machine = machine_of(name)
    many_calls(machine, machine.states, name, MANY)
