"""
What all tests share: where things are, simulated hosts, and the housekeeping of pytest-salt-factories.
"""

import copy
import os
import pathlib
import shutil
import tempfile

import pytest
import yaml
from hypothesis import settings

from tests.support import needs

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Salt's own way to run from a checkout: "-m <repo>" would take the folder of SLS files, states/, for the state modules.
LOADER_DIRS = {
    "module_dirs": [str(ROOT / "_modules")],
    "states_dirs": [str(ROOT / "_states")],
    "grains_dirs": [str(ROOT / "_grains")],
    "beacons_dirs": [str(ROOT / "_beacons")],
    "utils_dirs": [str(ROOT / "_utils")],
}

# Two busy cores stretch any single example, so a deadline would only ever report the machine. In CI a failure must come again
# when somebody looks at it.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
# Files that tests put into a state directory by hand are refused where a user's own umask lets his group write them.
os.umask(0o022)


@pytest.fixture(scope="session")
def salt_factories_config():
    """Where pytest-salt-factories puts its machines. The path is short, because unix sockets live below it."""
    root = tempfile.mkdtemp(prefix="gs-", dir="/tmp")
    yield {"code_dir": str(ROOT), "root_dir": root, "start_timeout": 60, "slow_stop": False}
    shutil.rmtree(root, ignore_errors=True)


def _left_out(config):
    """Why tests of this run were not run, one reason for each."""
    reports = config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    return [report.longrepr[2].removeprefix("Skipped: ") for report in reports]


def pytest_sessionfinish(session, exitstatus):
    """In CI, a test that was left out for want of a package is a failure."""
    if exitstatus == pytest.ExitCode.OK and needs.breaks_ci(_left_out(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    """Say what was not run, and which package brings it, below everything else."""
    yield
    reasons = _left_out(config)
    if not reasons:
        return
    terminalreporter.section("not run")
    for line in needs.not_run(reasons):
        terminalreporter.line(line)
    if missing := needs.breaks_ci(reasons):
        terminalreporter.line(f"This run fails: CI is set, and {needs.KNOWN_MISSING} does not name {' '.join(missing)}.")


def pytest_unconfigure(config):
    """Close Salt's start-up log handler, or dozens of logging errors follow the summary."""
    import salt._logging

    salt._logging.shutdown_temp_handler()


def merged(base, changes):
    """A deep copy of ``base`` with ``changes`` laid over it: dictionaries are merged, everything else is replaced."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def described(directory, name, changes):
    """
    The description of a simulated host, as a file.

    :param directory: where a changed copy goes.
    :param name: one of ``examples/hosts``, without its ending, or a path.
    :param changes: laid over the example, see :func:`merged`; with none, the example itself is returned.
    """
    source = pathlib.Path(name) if os.sep in str(name) else ROOT / "examples" / "hosts" / f"{name}.yaml"
    if not changes:
        return source
    description = merged(yaml.safe_load(source.read_text(encoding="utf-8")), changes)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{source.stem}.yaml"
    # safe_dump quotes what would come back as another type, PCI addresses among them.
    target.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    return target


@pytest.fixture(scope="session")
def repo():
    """The root of the checkout, as a Path."""
    return ROOT


@pytest.fixture(scope="session")
def delivered(tmp_path_factory):
    """
    A directory that holds what Salt's file server delivers, and nothing else, as links into the checkout.

    Salt walks every file root completely for each call, and a checkout that is worked in has virtual environments inside: with
    them, each state call of a test costs half a second more.
    """
    root = tmp_path_factory.mktemp("root")
    for entry in sorted(ROOT.iterdir()):
        if entry.is_dir() and (entry.name.startswith("_") or entry.name == "states") and entry.name != "__pycache__":
            (root / entry.name).symlink_to(entry)
    return root


@pytest.fixture(scope="session")
def loader_dirs():
    """Minion options that make Salt load the checkout without a synchronisation."""
    return copy.deepcopy(LOADER_DIRS)


@pytest.fixture(scope="session")
def example_host():
    """``example_host("dgx-h100")`` is the path of ``examples/hosts/dgx-h100.yaml``."""

    def path(name):
        found = described("", name, {})
        assert found.is_file(), f"there is no example host {name}"
        return found

    return path


@pytest.fixture(scope="session")
def host_description():
    """``host_description(directory, "dgx-h100", {"privileged": False})``: see :func:`described`."""
    return described


@pytest.fixture
def simulated(tmp_path):
    """
    ``simulated("dgx-h100", latency={"create_gi": 1})`` is a :class:`gpuslice.sim.host.SimulatedHost` with a state directory of
    its own. Keywords are laid over the description: dictionaries are merged, everything else is replaced.
    """
    count = 0

    def make(host, /, **changes):
        from gpuslice.sim.host import SimulatedHost

        nonlocal count
        count += 1
        place = tmp_path / f"host{count}"
        description = described(place, host, changes)
        return SimulatedHost(str(description), str(place / "state"))

    return make


@pytest.fixture(scope="module")
def prepared_hosts():
    """What :func:`prepared_once` has made for a module."""
    return {}


@pytest.fixture
def prepared_once(prepared_hosts, tmp_path_factory, tmp_path):
    """
    ``prepared_once(key, prepare, "dgx-h100", gpus=[...])`` is (host, what ``prepare(host)`` gave): made once a module for each
    key, and copied for each test. For what is tried at each of many steps of one change.
    """

    def make(key, prepare, host, /, **changes):
        from gpuslice.sim.host import SimulatedHost

        if key not in prepared_hosts:
            place = tmp_path_factory.mktemp("prepared")
            description = described(place, host, changes)
            made = prepare(SimulatedHost(str(description), str(place / "state")))
            prepared_hosts[key] = (str(description), place / "state", made)
        description, state, made = prepared_hosts[key]
        own = tempfile.mkdtemp(dir=tmp_path)
        shutil.copytree(state, own, dirs_exist_ok=True)
        return SimulatedHost(description, own), copy.deepcopy(made)

    return make
