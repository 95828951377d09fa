"""The file by which a scheduler is told of a node, on the machine that this runs on: what else may stand in its place."""

import os

import pytest

from gpuslice import errors
from gpuslice.drivers import scheduler_files
from gpuslice.host.real import RealHost
from gpuslice.outputs import slurm

KIND = slurm.kind("n1")
TEXT = f"{slurm.MARK}\n# n1 has nothing for Slurm.\n"


@pytest.fixture
def host(tmp_path):
    return RealHost(str(tmp_path / "state"))


def link(path):
    path.symlink_to(path.with_name("theirs"))
    path.with_name("theirs").write_text(TEXT, encoding="utf-8")


def everybodys(path):
    path.write_text(TEXT, encoding="utf-8")
    path.chmod(0o666)


def huge(path):
    with path.open("wb") as handle:
        handle.truncate(2**26)


THERE = {
    "a link to a file of ours": (link, errors.ForeignChange, r"what node n1 has, and is a symbolic link\. Look"),
    "a link that leads nowhere": (lambda path: path.symlink_to("nowhere"), errors.ForeignChange, "is a symbolic link"),
    "a file that everybody writes": (everybodys, errors.ForeignChange, r"written by other users \(its mode is 0666\)\. Look"),
    "a folder": (os.mkdir, errors.PermissionDenied, "and can't be read: "),
    "a pipe": (os.mkfifo, errors.PermissionDenied, "and can't be read: it is no regular file"),
    "more than any file has": (huge, errors.PermissionDenied, "and can't be read: File too large"),
    "somebody's": (lambda path: path.write_bytes(b"\xff\x00"), errors.ForeignChange, "is a file of somebody else"),
}


@pytest.mark.parametrize("what", THERE)
def test_what_is_none_of_ours_is_told_and_left(host, tmp_path, what):
    make, kind, said = THERE[what]
    path = tmp_path / "gres.conf"
    make(path)
    before = os.lstat(path)
    with pytest.raises(kind, match=said) as caught:
        scheduler_files.write(host, str(path), TEXT, KIND)
    assert "state_dir" not in str(caught.value) and os.lstat(path) == before


@pytest.mark.parametrize("path", ["/proc/gres.conf", "/sys/a/gres.conf", "/dev/gres.conf", f"/etc/{'a' * 250}.conf",
                                  f"/etc{'/abcdefg' * 511}.conf"])  # fmt: skip
def test_a_path_that_can_t_be_made_is_found_before_anything_is(host, path):
    with pytest.raises(errors.PolicyError, match="can't be made: it is "):
        scheduler_files.refuse_path(host, path, KIND)
