"""
A small fleet on this machine: a real master and real minions on 127.0.0.1, each on a simulated host of its own.

The master serves a COPY of the loader folders and SLS files, so that a test can upgrade them under running minions.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from dataclasses import field
from http.server import BaseHTTPRequestHandler
from http.server import HTTPServer

import pytest
import yaml

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent.parent / "examples" / "master"
#: What each node's pillar says; the pillar's top file picks it by the grain ``gpu_host`` of the minion configuration.
PILLARS = {
    "dgx-h100": {
        "containers_gpu_discovery": {"method": "auto"},
        "containers_gpu_slicing": {
            "enabled": True,
            "strategy": "mig",
            "mig": {"enabled": True, "profiles": {"3g.40gb": 1, "1g.10gb": 2}},
        },
        "containers_gpu_state_management": {"apply_strategy": "auto", "validation": True, "health_check": True},
    },
    "mixed": {
        "containers_gpu_discovery": {"method": "auto"},
        "containers_gpu_slicing": {
            "enabled": True,
            "strategy": "auto",
            "mig": {"enabled": True, "profiles": {"3g.40gb": 1, "1g.10gb": 2}},
            "devices": [{"match": {"model": "NVIDIA H100*"}, "mig": {"profiles": {"7g.80gb": 1}}}],
        },
        "containers_gpu_state_management": {"apply_strategy": "auto", "validation": True, "health_check": True},
    },
}
# The second entry needs our own grain, which a minion gets by its first highstate: test_fleet.py shows when it starts to match.
STATE_TOP = """
base:
  '*':
    - gpu_slicing
  'gpu:count:[1-9]*':
    - match: grain
    - after_first_run
"""
AFTER_FIRST_RUN = """
targeted by our own grain:
  test.nop: []
"""


@dataclass(frozen=True)
class Answer:
    """What a ``salt`` command gave. ``data`` maps the id of a minion to its return."""

    retcode: int
    data: dict
    stdout: str
    stderr: str

    def __getitem__(self, minion_id):
        assert minion_id in self.data, f"{minion_id} did not answer: {self.stdout} {self.stderr}"
        return self.data[minion_id]


def _objects(text):
    """
    All JSON objects in ``text``, merged: each minion's answer is one, with text between. (``--static`` would make one of them,
    but then the command forgets the minions' return codes.)
    """
    merged = {}
    decoder = json.JSONDecoder()
    position = 0
    while (position := text.find("{", position)) >= 0:
        try:
            found, end = decoder.raw_decode(text, position)
        except ValueError:
            position += 1
            continue
        merged.update(found)
        position = end
    return merged


def changed(states):
    """Ids of the states that report changes, of one minion's return of a state run."""
    assert isinstance(states, dict), states
    return sorted(state.get("__id__", key) for key, state in states.items() if state["changes"])


def failed(states):
    """Comments of the states that failed, of one minion's return of a state run."""
    assert isinstance(states, dict), states
    return [f"{state.get('__id__', key)}: {state['comment']}" for key, state in states.items() if state["result"] is False]


def planned(states):
    """Ids of the states that would change something, of one minion's return of a state run in test mode."""
    assert isinstance(states, dict), states
    return sorted(state.get("__id__", key) for key, state in states.items() if state["result"] is None)


def eventually(read, good=bool, seconds=30):
    """Read until the value is good, for what a minion or the master does after its answer; the last value read."""
    deadline = time.monotonic() + seconds
    while not good(value := read()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


@dataclass
class Node:
    """
    A minion and its simulated host.

    :ivar description: the file that describes the host; :ivar state_dir: where the host's state and our journal lie.
    """

    id: str
    description: pathlib.Path
    state_dir: pathlib.Path
    daemon: object = field(default=None, repr=False)

    @property
    def host(self):
        """The simulated host as it is now, a :class:`gpuslice.sim.host.SimulatedHost`."""
        from gpuslice.sim.host import SimulatedHost

        return SimulatedHost(str(self.description), str(self.state_dir))


class Fleet:
    """
    :ivar root: the copy of the tree that the master serves; :ivar pillar: the directory of its pillar.
    :ivar nodes: the minions by id.
    """

    def __init__(self, master, place, source, describe):
        self.master = master
        self.place = place
        self.root = place / "root"
        self.pillar = place / "pillar"
        self.nodes = {}
        #: Whether the two lasting minions are known to be at their pillars, so that a test need not bring them there.
        self.settled = False
        # A copy, so that every test of a run meets the same tree.
        self._source = place / "original"
        for entry in sorted(source.iterdir()):
            shutil.copytree(entry, self._source / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        self._describe = describe

    # -- the master's side --------------------------------------------------------------------------------------------
    def restore(self):
        """Serve the tree as it is in the checkout, whatever a test did to the copy."""
        for entry in sorted(self.root.iterdir()):
            shutil.rmtree(entry)
        for entry in sorted(self._source.iterdir()):
            shutil.copytree(entry, self.root / entry.name)
        (self.root / "states" / "top.sls").write_text(STATE_TOP, encoding="utf-8")
        (self.root / "states" / "after_first_run.sls").write_text(AFTER_FIRST_RUN, encoding="utf-8")

    def set_pillar(self, **by_host):
        """Replace the pillar of all nodes whose grain ``gpu_host`` is the keyword (with _ for -); others keep theirs."""
        self.settled = False
        self.pillar.mkdir(parents=True, exist_ok=True)
        pillars = {**PILLARS, **{name.replace("_", "-"): pillar for name, pillar in by_host.items()}}
        top = {f"gpu_host:{name}": [{"match": "grain"}, f"host-{name}"] for name in pillars}
        (self.pillar / "top.sls").write_text(yaml.safe_dump({"base": top}), encoding="utf-8")
        for name, pillar in pillars.items():
            (self.pillar / f"host-{name}.sls").write_text("#!json\n" + json.dumps(pillar), encoding="utf-8")

    def start(self, target, function, *args, options=()):
        """Start a ``salt`` command and return its Popen; :meth:`finish` waits for it."""
        program = pathlib.Path(sys.executable).parent / "salt"
        fixed = ["-c", str(pathlib.Path(self.master.config_file).parent), "--out", "json", "--no-color", "-t", "60"]
        argv = [str(program), *fixed, *options, target, function, *(str(arg) for arg in args)]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, cwd="/")

    @staticmethod
    def finish(process, timeout=180):
        """Wait for a started command; returns an :class:`Answer`."""
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Answer(process.returncode, _objects(stdout), stdout, stderr)

    def salt(self, target, function, *args, options=(), timeout=180):
        """Run ``salt <options> <target> <function> <args>``; returns an :class:`Answer`."""
        return self.finish(self.start(target, function, *args, options=options), timeout)

    # -- the minions' side --------------------------------------------------------------------------------------------
    def add(self, minion_id, host, changes=None, gpu_host=None, **options):
        """
        Start a minion that has never seen the master.

        :param host: example host that it runs on; :param changes: laid over the description.
        :param gpu_host: the grain that picks its pillar, the name of the host when not given.
        :param options: more minion configuration. Returns a :class:`Node`.
        """
        place = self.place / minion_id
        node = Node(minion_id, self._describe(place, host, changes or {}), place / "state")
        node.daemon = self.master.salt_minion_daemon(
            minion_id,
            overrides={
                # The factory's own 0.05 makes a pass of the minion, and so every interval of a beacon, something else.
                "loop_interval": 1,
                "enable_gpu_grains": False,
                "enable_fqdns_grains": False,
                "log_level_logfile": "info",
                "grains": {"gpu_host": gpu_host or host},
                "gpu_slicing": {"simulate": str(node.description), "state_dir": str(node.state_dir)},
                **options,
            },
        )
        node.daemon.start(start_timeout=60)
        self.nodes[minion_id] = node
        return node

    def remove(self, node):
        """Stop a minion and forget its key."""
        node.daemon.terminate()
        self.nodes.pop(node.id, None)
        key = pathlib.Path(self.master.config["pki_dir"]) / "minions" / node.id
        key.unlink(missing_ok=True)


class _Hook(BaseHTTPRequestHandler):
    """A webhook that keeps what it is told, in ``told`` of its server."""

    def do_POST(self):
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """It says nothing."""


@pytest.fixture(scope="session")
def hook():
    """The running webhook that the reaction of the examples tells of changes that failed; ``told`` is what it got."""
    with HTTPServer(("127.0.0.1", 0), _Hook) as server:
        server.told = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _listening(place, hook):
    """The options of ``examples/master`` for what becomes of events, with paths and an address of ours."""
    options = yaml.safe_load((EXAMPLES / "gpu-slicing-events.conf").read_text(encoding="utf-8"))
    options["rawfile_json.filename"] = str(place / "events.json")
    options["reactor"] = [
        {tag: [str(EXAMPLES / pathlib.Path(sls).name) for sls in files] for tag, files in entry.items()}
        for entry in options["reactor"]
    ]  # fmt: skip
    return {**options, "gpu_slicing_webhook": f"http://127.0.0.1:{hook.server_port}/"}


@pytest.fixture(scope="session")
def fleet(salt_factories, delivered, host_description, tmp_path_factory, hook):
    """The running :class:`Fleet` with the minions ``dgx`` (dgx-h100) and ``mixed`` (mixed), one for the whole test run."""
    place = tmp_path_factory.mktemp("fleet")
    root = place / "root"
    root.mkdir()
    master = salt_factories.salt_master_daemon(
        "master",
        overrides={
            "interface": "127.0.0.1",
            "auto_accept": True,
            "open_mode": True,
            "worker_threads": 3,
            "file_roots": {"base": [str(root), str(root / "states")]},
            "pillar_roots": {"base": [str(place / "pillar")]},
            # A test edits the tree and asks at once.
            "fileserver_list_cache_time": 0,
            "pillar_cache": False,
            "log_level_logfile": "info",
            **_listening(place, hook),
        },
    )
    fleet = Fleet(master, place, delivered, host_description)
    fleet.restore()
    fleet.set_pillar()
    with master.started(start_timeout=60):
        try:
            fleet.add("dgx", "dgx-h100")
            fleet.add("mixed", "mixed")
            yield fleet
        finally:
            for node in list(fleet.nodes.values()):
                fleet.remove(node)


@pytest.fixture
def new_node(fleet):
    """``new_node("virgin", "dgx-h100", changes={...})`` starts one more minion for one test; see :meth:`Fleet.add`."""
    made = []

    def make(minion_id, host, **kwargs):
        made.append(fleet.add(minion_id, host, **kwargs))
        return made[-1]

    yield make
    for node in made:
        fleet.remove(node)
