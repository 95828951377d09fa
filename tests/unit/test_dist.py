"""The tarball for a master: what is in it, that it is the same each time, and that whoever reads it finds what he is led to."""

import pathlib
import re
import subprocess
import tarfile

import pytest

import gpuslice
from release import tarball
from tests.conftest import ROOT
from tests.support import needs
from tests.support.releases import copied
from tests.support.releases import unpacked

TIME = 1_700_000_000


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """The time of a commit, whatever the tree that is tested has not committed."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(TIME))


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names of the files in the tarball, below its one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(TIME))
        made = tarball.build(tmp_path_factory.mktemp("dist"))
    assert made.name == f"gpu-slicing-{gpuslice.__version__}.tar.gz"
    with tarfile.open(made) as archive:
        members = archive.getmembers()
    found = {pathlib.PurePosixPath(each.name).parts[0] for each in members}
    assert found == {f"gpu-slicing-{gpuslice.__version__}"}
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members} == {(TIME, 0, 0, "root", "root")}
    assert {(each.isdir(), each.mode) for each in members} == {(True, 0o755), (False, 0o644)}
    [top] = found
    return {each.name.removeprefix(f"{top}/") for each in members if each.isfile()}


def files(folder):
    """Files below a folder of the checkout."""
    found = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_loader_file_and_every_sls_is_in_it(names):
    loaders = [path.name for path in ROOT.glob("_*") if path.is_dir() and path.name != "__pycache__"]
    assert {"_beacons", "_grains", "_modules", "_states", "_utils"} <= set(loaders)
    assert {name for name in names if name.startswith("_")} == {name for loader in loaders for name in files(loader)}
    stages = {name.removeprefix("states/") for name in files("states")}
    assert {name for name in names if name.startswith("gpu_slicing/")} == stages


def test_nothing_else_is_in_it(names):
    assert {name for name in names if name.startswith("docs/")} == files("docs")
    assert {name for name in names if name.startswith("examples/")} == files("examples") - {"examples/demo.py"}
    assert {name for name in names if "/" not in name} == {
        "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pillar.example",
    }  # fmt: skip
    assert {name.split("/")[0] for name in names if "/" in name and name[0] != "_"} == {"docs", "examples", "gpu_slicing"}
    assert [name for name in names if re.search(r"(^|/)(\.|tests?/|test_|__pycache__|states/)|\.pyc$", name)] == []


def test_the_same_tree_gives_the_same_bytes_and_another_time_others(tmp_path, monkeypatch):
    tree = copied(tmp_path / "tree")
    first = tarball.build(tmp_path / "a", tree).read_bytes()
    for path in tree.rglob("*.md"):
        path.touch()
    (tree / "_utils" / "gpuslice" / "__pycache__").mkdir()
    (tree / "_utils" / "gpuslice" / "__pycache__" / "x.pyc").touch()
    assert tarball.build(tmp_path / "b", tree).read_bytes() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(TIME + 1))
    assert tarball.build(tmp_path / "c", tree).read_bytes() != first


@needs.programs("git")
def test_the_time_is_that_of_the_commit_and_there_is_none_for_what_is_not_committed(tmp_path, monkeypatch, capsys):
    tree = copied(tmp_path / "tree")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(tarball.Unfit, match="in a clone, or set SOURCE_DATE_EPOCH"):
        tarball.build(tmp_path / "a", tree)
    stamp = {"GIT_COMMITTER_DATE": f"{TIME} +0000", "GIT_CONFIG_GLOBAL": "/dev/null"}
    for name, value in stamp.items():
        monkeypatch.setenv(name, value)
    identity = ("-c", "user.name=x", "-c", "user.email=x@x.example")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "x")):
        subprocess.run(["git", "-C", str(tree), *command], check=True, timeout=60)
    assert tarball.time_of(tree) == TIME
    (tree / "_modules" / "scratch.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(tarball.Unfit, match="not committed"):
        tarball.build(tmp_path / "a", tree)
    assert not list((tmp_path / "a").glob("*.gz"))


# -- for whoever reads it ------------------------------------------------------------------------------------------------
def anchors(text):
    """The anchors that headings of a document have."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(root):
    """Links of the documents below ``root`` that lead to no file, or to no heading of one."""
    wrong = []
    for document in sorted(root.rglob("*.md")):
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = (document.parent / place) if place else document
            if not target.is_file() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
                wrong.append(f"{document.relative_to(root)}: {link}")
    return wrong


def test_every_link_leads_to_what_is_in_the_tarball(tmp_path):
    root = unpacked(tarball.build(tmp_path), tmp_path)
    assert broken_links(root) == []
    (root / "docs" / "x.md").write_text("# A\n\n[a](#a) [b](#b) [c](usage.md#x) [d](../tests/x.py) [e](usage.md)\n")
    assert broken_links(root) == [f"docs/x.md: {link}" for link in ("#b", "usage.md#x", "../tests/x.py")]
