"""
The ways in which a master gets this project, each as the README says it: the tarball as one file root, a git repository through
gitfs, and one tree for each environment. Every time a virgin minion comes to its slices by a highstate.
"""

import json
import os
import re
import shlex
import subprocess
import time

import pytest
import yaml

from release import tarball
from tests.fleet.conftest import Fleet
from tests.fleet.conftest import changed
from tests.fleet.conftest import failed
from tests.fleet.conftest import planned
from tests.support import needs
from tests.support import pages
from tests.support.releases import copied
from tests.support.releases import unpacked

pytestmark = pytest.mark.slow

README, FLEET = pages.page("README"), pages.page("fleet")
#: The top files of the README: for every host, and for those with GPUs.
TOPS = re.findall(r"^```yaml\n(base:\n.*?)^```$", README, flags=re.M | re.S)
TIME = 1_700_000_000
#: What the engine says of a GPU that is not there: by that sentence a test tells which tree answers.
DEV = "nothing that dev knows"
SENTENCE = "not among the GPUs of this host"


def blocks(text, begins):
    """The YAML blocks of a document that begin with this line, read."""
    return [yaml.safe_load(each) for each in pages.blocks(text, begins)]


def release(place, name, words=None):
    """An unpacked tarball, in a folder of its own time; ``words`` replace a sentence of its engine."""
    tree = copied(place / f"tree-{name}")
    if words:
        source = tree / "_utils" / "gpuslice" / "inventory" / "discovery.py"
        text = source.read_text(encoding="utf-8")
        assert text.count(SENTENCE) == 1
        source.write_text(text.replace(SENTENCE, words), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(TIME + len(os.listdir(place))))
        return unpacked(tarball.build(place / f"made-{name}", tree), place / f"made-{name}")


def told(fleet, minion_id):
    """What the engine of a minion says of a GPU that is not there."""
    return fleet.salt(minion_id, "gpu.device", "ffff:1f:1f.7")[minion_id]


# -- a master of its own -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def masters(salt_factories, host_description, tmp_path_factory):
    """``masters(name, **options)`` starts one more master and returns its :class:`Fleet`, without minions."""
    started, place = [], tmp_path_factory.mktemp("delivery")
    (place / "nothing").mkdir()

    def make(name, **options):
        master = salt_factories.salt_master_daemon(
            name,
            overrides={
                "interface": "127.0.0.1",
                "auto_accept": True,
                "open_mode": True,
                "worker_threads": 3,
                "pillar_roots": {"base": [str(place / name / "pillar")]},
                "fileserver_list_cache_time": 0,
                "pillar_cache": False,
                "log_level_logfile": "info",
                **options,
            },
        )
        fleet = Fleet(master, place / name, place / "nothing", host_description)
        fleet.set_pillar()
        master.start(start_timeout=60)
        started.append(fleet)
        return fleet

    yield make
    for fleet in started:
        for node in list(fleet.nodes.values()):
            fleet.remove(node)
        fleet.master.terminate()


def top_file(folder, text=None):
    """The folder of a site's own SLS files, with a top file: the one that the README names first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.sls").write_text(text or TOPS[0], encoding="utf-8")
    return str(folder)


def sliced(fleet, minion_id):
    """How many MIG devices the minion tells of."""
    return len([piece for piece in fleet.salt(minion_id, "gpu.slices")[minion_id] if piece["kind"] == "mig"])


def becomes_sliced_by_a_highstate(fleet, minion_id):
    """A virgin minion has its slices after one highstate, and the next changes nothing."""
    fleet.add(minion_id, "dgx-h100")
    first = fleet.salt(minion_id, "state.apply")[minion_id]
    assert failed(first) == [] and changed(first) == ["gpu_slicing_slicing"]
    assert sliced(fleet, minion_id) == 8 * 3
    second = fleet.salt(minion_id, "state.apply")[minion_id]
    assert failed(second) == changed(second) == []


# -- the tarball ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def served(masters, tmp_path_factory):
    """(:class:`Fleet`, the folder of its file roots): the tarball as the README puts it up, another as the environment dev."""
    place = tmp_path_factory.mktemp("srv")
    [alone] = [block for block in blocks(README, "# /etc/salt/master.d/gpu-slicing.conf") if "file_roots" in block]
    [options] = blocks(FLEET, "# /etc/salt/master.d/gpu-slicing.conf")
    assert alone["file_roots"]["base"] == options["file_roots"]["base"]
    roots = {env: [each.replace("/srv", str(place)) for each in paths] for env, paths in options["file_roots"].items()}
    top_file(place / "salt")
    (place / "salt-dev").mkdir()
    (place / "gpu-slicing").symlink_to(release(place, "base"))
    (place / "gpu-slicing-dev").symlink_to(release(place, "dev", DEV))
    own = place / "salt" / "_modules" / "of_the_site.py"
    own.parent.mkdir()
    own.write_text("def seen():\n    return True\n", encoding="utf-8")
    return masters("tarball", file_roots=roots), place


def test_the_tarball_is_one_file_root_and_is_upgraded_and_put_back_by_a_link(served):
    fleet, place = served
    becomes_sliced_by_a_highstate(fleet, "one")
    assert SENTENCE in told(fleet, "one")
    link, first = place / "gpu-slicing", (place / "gpu-slicing").resolve()
    second = release(place, "second", "is nowhere in the second version")
    for tree, words in ((second, "is nowhere in the second version"), (first, SENTENCE)):
        link.unlink()
        link.symlink_to(tree)
        assert "utils.gpuslice.inventory.discovery" in fleet.salt("one", "saltutil.sync_all")["one"]["utils"]
        assert words in told(fleet, "one")
        assert fleet.salt("one", "gpu_slicing.check")["one"]["result"] is True
    assert len(TOPS) == 2
    top_file(place / "salt", TOPS[1])
    assert fleet.salt("one", "state.show_top")["one"] == {"base": ["gpu_slicing"]}


def test_one_top_file_gives_some_minions_another_environment(served):
    fleet, place = served
    [top] = re.findall(r"^```yaml\n# /srv/salt/top.sls\n(.*?)^```$", FLEET, flags=re.M | re.S)
    top_file(place / "salt", top)
    becomes_sliced_by_a_highstate(fleet, "gpu7")
    assert DEV in told(fleet, "gpu7")
    assert failed(fleet.salt("one", "state.apply")["one"]) == []
    assert SENTENCE in told(fleet, "one")

    # SLS files of an environment, without its modules; then its modules, and nothing else.
    assert failed(fleet.salt("one", "state.apply", "gpu_slicing", "saltenv=dev")["one"]) == []
    assert SENTENCE in told(fleet, "one") and fleet.salt("one", "of_the_site.seen")["one"] is True
    fleet.salt("one", "saltutil.sync_all", "saltenv=dev")
    assert DEV in told(fleet, "one") and "not available" in fleet.salt("one", "of_the_site.seen")["one"]
    assert failed(fleet.salt("one", "state.apply")["one"]) == []
    assert SENTENCE in told(fleet, "one") and fleet.salt("one", "of_the_site.seen")["one"] is True


@pytest.fixture
def two(served):
    """``one`` and ``gpu7`` with the modules and the pillar of base, whatever of the tests before was run."""
    fleet, place = served
    top_file(place / "salt")
    fleet.set_pillar()
    for name in ("one", "gpu7"):
        if name not in fleet.nodes:
            fleet.add(name, "dgx-h100")
    assert set(fleet.salt("*", "saltutil.sync_all").data) == {"one", "gpu7"}
    return fleet


def test_many_hosts_are_changed_by_the_commands_of_the_page(two):
    fleet = two
    section = pages.section("fleet", "Change many hosts")
    commands = [shlex.split(line) for line in section.splitlines() if line.startswith("    salt ")]
    assert len(commands) == 4
    fleet.set_pillar(dgx_h100=pillar_of(["3g.40gb"]))
    fleet.salt("*", "saltutil.refresh_pillar", "wait=True")
    counts = [(0, *(sliced(fleet, each) for each in ("one", "gpu7")))]
    for _, *words in commands:
        target = words.index("gpu:capabilities:mig")
        rest = [word for word in words[target + 1 :] if word.startswith("-") or word[0].isdigit()]
        function = [word for word in words[target + 1 :] if word not in rest]
        answer = fleet.salt(words[target], *function, options=(*words[:target], *rest))
        counts.append((answer.retcode, *(sliced(fleet, each) for each in ("one", "gpu7"))))
    before, tested, one, *rest = counts
    assert 8 not in before and tested == before
    assert one in ((0, 8, before[2]), (0, before[1], 8)) and rest == 2 * [(0, 8, 8)]


def test_schedules_tell_of_drift(two, tmp_path):
    fleet, lines = two, tmp_path / "gpu-drift.json"
    check, stages = (each["schedule"]["gpu_drift"] for each in blocks(FLEET, "# in the pillar") if "schedule" in each)
    for job in (check, stages):
        assert job.pop("minutes") and job.pop("splay")
        job["seconds"] = 2
    stages["return_kwargs"]["filename"] = str(lines)
    fleet.set_pillar(dgx_h100={**pillar_of(["1g.10gb"]), "schedule": {"check": check, "stages": stages}})
    fleet.salt("one", "saltutil.refresh_pillar", "wait=True")
    ask, ends = fleet.master.salt_run_cli(), time.monotonic() + 90
    try:
        # The first may go by the pillar of before, which the minion's functions have until they are loaded anew.
        while not (told := [each for each in checks(ask) if each["return"]["result"] is False]) or not drifted(lines):
            assert time.monotonic() < ends, "no answer of the schedules tells of drift"
            time.sleep(0.5)
    finally:
        fleet.set_pillar()
        fleet.salt("one", "saltutil.refresh_pillar", "wait=True")
    assert (told[0]["success"], told[0]["retcode"]) == (True, 0)


def checks(ask):
    """The answers of the scheduled checks that came to the master."""
    jobs = ask.run("jobs.list_jobs", "search_function=gpu_slicing.check").data
    found = (ask.run("jobs.print_job", job).data[job]["Result"] for job in jobs or ())
    return [answer for results in found for answer in results.values()]


def drifted(lines):
    """Whether a scheduled run of the stages has written that it would change something."""
    found = [json.loads(line) for line in written(lines)]
    stages = ["gpu_slicing_slicing", "gpu_slicing_validation"]
    return any(each["fun"] == "state.apply" and planned(each["return"]) == stages for each in found)


def written(path):
    """The whole lines of a file that another process writes; none where it is not there yet."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def test_the_mine_is_filled_and_read_by_others(two):
    fleet = two
    [mine] = [each for each in blocks(FLEET, "# in the pillar") if "mine_functions" in each]
    fleet.set_pillar(dgx_h100={**pillar_of(["3g.40gb"]), **mine})
    fleet.salt("*", "saltutil.refresh_pillar", "wait=True")
    fleet.salt("*", "mine.update")
    summaries = fleet.salt("one", "mine.get", "gpu*", "gpu_slicing.summary")["one"]
    assert summaries == {"gpu7": fleet.salt("gpu7", "gpu_slicing.summary")["gpu7"]}
    slices = fleet.salt("one", "mine.get", "gpu*", "gpu_slices")["one"]
    assert slices == {"gpu7": fleet.salt("gpu7", "gpu.slices")["gpu7"]}


def pillar_of(profiles):
    """A pillar that wants these profiles on every GPU."""
    return {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": profiles}}}


def test_two_top_files_need_minions_that_say_which_one_counts(served, two):
    fleet, place = served
    top_file(place / "salt")
    top_file(place / "salt-dev", "dev:\n  '*':\n    - gpu_slicing\n")
    assert "Detected conflicting IDs" in str(fleet.salt("one", "state.apply")["one"])
    fleet.add("pinned", "dgx-h100", saltenv="dev")
    assert failed(fleet.salt("pinned", "state.apply")["pinned"]) == []
    assert DEV in told(fleet, "pinned") and sliced(fleet, "pinned") == 8 * 3


# -- git -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def repository(tmp_path):
    """The address of a bare repository that has this tree in its branch main."""
    tree, bare = copied(tmp_path / "tree"), tmp_path / "gpu-slicing.git"
    commands = (
        ("init", "-q", "-b", "main", "."),
        ("add", "."),
        ("-c", "user.name=x", "-c", "user.email=x@x.example", "commit", "-q", "-m", "x"),
        ("clone", "-q", "--bare", ".", str(bare)),
    )
    for command in commands:
        subprocess.run(["git", *command], cwd=tree, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}, check=True, timeout=60)
    return f"file://{bare}"


@needs.programs("git")
def test_gitfs_has_the_repository_twice(masters, repository, tmp_path):
    [options] = [block for block in blocks(README, "# /etc/salt/master.d/gpu-slicing.conf") if "gitfs_remotes" in block]
    first, second = ([*each.values()][0] for each in options["gitfs_remotes"])
    remotes = [{repository: first}, {repository: second}]
    # Of two top files only that of base counts, so that nothing of dev, which has no such SLS file, is asked for.
    roots = {"base": [top_file(tmp_path / "salt")], "dev": [top_file(tmp_path / "dev", "dev:\n  '*':\n    - gpu_slicing\n")]}
    settings = {**options, "gitfs_remotes": remotes, "state_top_saltenv": "base"}
    fleet = masters("git", file_roots=roots, **settings)
    becomes_sliced_by_a_highstate(fleet, "one")
