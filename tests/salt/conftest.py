"""
Real loaders and the real state compiler in this process (``minion``), and the real ``salt-call`` in another (``salt_call``).
Both work on a simulated host.
"""

import copy
import json
import os
import pathlib
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import salt.config
import yaml
from salt.loader.lazy import LazyLoader
from saltfactories.utils.functional import Loaders


class _Loaders(Loaders):
    """
    The loaders without their first synchronisation: the checkout is loaded by ``*_dirs``, and each synchronisation spins for a
    second on an event bus that a minion without a daemon doesn't have. Without it there is nothing to load twice.
    """

    _ready = False

    @property
    def modules(self):
        if self._ready:
            return super().modules
        return SimpleNamespace(saltutil=SimpleNamespace(sync_all=dict))

    def reload_all(self):
        if self._ready:
            super().reload_all()

    def __init__(self, opts):
        super().__init__(opts)
        self._ready = True
        self.reload_all()


@pytest.fixture(scope="session", autouse=True)
def walked_once():
    """
    Folders of modules that hold the same files are walked once: a state run makes some thirty loaders, each of which looks at
    all of Salt's own modules, and that took a third of the time of a test.
    """
    walk, found = LazyLoader._refresh_file_mapping, {}

    def remembered(self):
        names = tuple((folder, *(os.listdir(folder) if os.path.isdir(folder) else ())) for folder in self.module_dirs)
        key = (names, frozenset(self.disabled), tuple(self.static_modules))
        if key not in found:
            walk(self)
            found[key] = (dict(self.file_mapping), dict(self.suffix_map), list(self.suffix_order))
        self.file_mapping, self.suffix_map, self.suffix_order = (copy.copy(each) for each in found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LazyLoader, "_refresh_file_mapping", remembered)
        yield


def _write_pillar(directory, pillar):
    """Pillar files that give ``pillar`` to every minion."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "top.sls").write_text("base:\n  '*': [host]\n", encoding="utf-8")
    (directory / "host.sls").write_text("#!json\n" + json.dumps(pillar or {}), encoding="utf-8")


def _options(place, description, pillar, overrides):
    """What stands in the minion's configuration file."""
    _write_pillar(place / "pillar", pillar)
    return {
        "id": "functional",
        "root_dir": str(place),
        "file_client": "local",
        "pillar_roots": {"base": [str(place / "pillar")]},
        # A state run would otherwise copy the checkout into the cache and load it a second time.
        "autoload_dynamic_modules": False,
        "enable_gpu_grains": False,
        "enable_fqdns_grains": False,
        "gpu_slicing": {"simulate": str(description), "state_dir": str(place / "state")},
        **overrides,
    }


class Minion:
    """
    A minion without a daemon, on a simulated host.

    :ivar host: the simulated host, a :class:`gpuslice.sim.host.SimulatedHost` onto the same state as the minion's own.
    :ivar opts: the minion's configuration; :ivar place: the directory of everything that is its own.
    """

    def __init__(self, place, description, pillar, overrides):
        self.place = place
        self.description = description
        self.state_dir = place / "state"
        opts = salt.config.minion_config(None, minion_id="functional")
        opts.update(_options(place, description, pillar, overrides))
        for name in ("cachedir", "pki_dir", "sock_dir", "extension_modules", "log_file"):
            opts[name] = str(place / name)
        opts["conf_file"] = str(place / "minion")
        self.opts = opts
        self._loaders = _Loaders(opts)

    @property
    def host(self):
        """The simulated host as it is now: opened anew, because the minion's calls change the state that it lasts in."""
        from gpuslice.sim.host import SimulatedHost

        return SimulatedHost(str(self.description), str(self.state_dir))

    @property
    def grains(self):
        """All grains of the minion."""
        return self._loaders.grains

    def has(self, function):
        """Whether an execution function exists."""
        return function in self._loaders.modules

    def call(self, function, *args, **kwargs):
        """Call an execution function, as ``gpu.devices``, and return what it returns."""
        return self._loaders.modules[function](*args, **kwargs)

    def state(self, function, name="gpu", **kwargs):
        """Run one state function through ``state.single``; returns a StateResult: result, changes, comment."""
        return self._loaders.states[function](name=name, **kwargs)

    def apply(self, sls, pillar=None, test=False):
        """Run an SLS through the state compiler; returns a MultiStateResult, a sequence of StateResult."""
        return self._loaders.modules.state.apply(sls, pillar=pillar or {}, test=test)

    def show(self, sls, pillar=None):
        """The low chunks that an SLS compiles to, as a list of dicts; a list of str says what is wrong with it."""
        return self._loaders.modules.state.show_low_sls(sls, pillar=pillar or {})

    def set_pillar(self, pillar):
        """Replace the minion's pillar."""
        _write_pillar(self.place / "pillar", pillar)
        self.reload()

    def reload(self):
        """Begin anew as a restarted minion would: nothing cached, grains and pillar fresh; the host stays as it is."""
        self._loaders.reload_all()


@pytest.fixture(scope="session")
def checkout_options(delivered, loader_dirs):
    """Minion options that make the checkout a file root (in both ways that users may choose) and load it without a copy."""
    return {"file_roots": {"base": [str(delivered), str(delivered / "states")]}, **loader_dirs}


@pytest.fixture
def minion(tmp_path, checkout_options, host_description):
    """
    ``minion("dgx-h100", pillar={...}, changes={...}, **minion_options)`` is a :class:`Minion`. ``changes`` are laid over the
    description of the host, ``minion_options`` over the configuration of the minion.
    """
    count = 0

    def make(host="dgx-h100", pillar=None, changes=None, **overrides):
        nonlocal count
        count += 1
        place = tmp_path / f"m{count}"
        place.mkdir()
        return Minion(place, host_description(place, host, changes or {}), pillar, {**checkout_options, **overrides})

    return make


@dataclass(frozen=True)
class CallResult:
    """What one ``salt-call`` left behind. ``data`` is its JSON without the word "local", None where it printed none."""

    retcode: int
    data: object
    stdout: str
    stderr: str


class SaltCall:
    """The real ``salt-call --local`` with a configuration directory of its own, on a simulated host."""

    def __init__(self, place, description, pillar, overrides):
        self.place = place
        self.description = description
        self.state_dir = place / "state"
        self.config = place / "conf"
        self.config.mkdir(parents=True)
        options = _options(place, description, pillar, {"id": "salt-call", "log_level": "error", **overrides})
        (self.config / "minion").write_text(yaml.safe_dump(options), encoding="utf-8")

    @property
    def host(self):
        """The simulated host as it is now."""
        from gpuslice.sim.host import SimulatedHost

        return SimulatedHost(str(self.description), str(self.state_dir))

    def argv(self, *args):
        """The command line of a call."""
        program = pathlib.Path(sys.executable).parent / "salt-call"
        fixed = ["--local", "--config-dir", str(self.config), "--out", "json", "--retcode-passthrough", "--no-color"]
        return [str(program), *fixed, *(str(arg) for arg in args)]

    @staticmethod
    def _environment():
        # What the test run added to the path must not help the program to find the engine.
        return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def start(self, *args):
        """Start a call in a process group of its own and return its Popen; :meth:`kill` ends it as a power cut would."""
        return subprocess.Popen(
            self.argv(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(),
            cwd="/",
            start_new_session=True,
        )

    @staticmethod
    def kill(process):
        """``kill -9`` of everything that a started call has running."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()

    def finish(self, process, timeout=120):
        """Wait for a started call; returns a :class:`CallResult`."""
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill(process)
            raise
        return CallResult(process.returncode, _parsed(stdout), stdout, stderr)

    def __call__(self, *args, timeout=120):
        """Run a call to its end: ``salt_call("gpu_slicing.apply", "test=True")``; returns a :class:`CallResult`."""
        return self.finish(self.start(*args), timeout)


def _parsed(stdout):
    """The data in the output of ``--out json``, which may have lines of text before it."""
    for line_start in (index for index, char in enumerate(stdout) if char == "{" and (index == 0 or stdout[index - 1] == "\n")):
        try:
            data = json.loads(stdout[line_start:])
        except ValueError:
            continue
        return data.get("local", data)
    return None


@pytest.fixture
def salt_call(tmp_path, checkout_options, host_description):
    """
    ``salt_call("dgx-h100", pillar={...}, changes={...}, **minion_options)`` is a :class:`SaltCall`: call it with a function and
    its arguments, or :meth:`~SaltCall.start` it and kill it half way.
    """
    made = []

    def make(host="dgx-h100", pillar=None, changes=None, **overrides):
        place = tmp_path / f"c{len(made) + 1}"
        place.mkdir()
        made.append(SaltCall(place, host_description(place, host, changes or {}), pillar, {**checkout_options, **overrides}))
        return made[-1]

    return make
