"""
The tarball for a Salt master: one folder that is a file root as it lies, with the SLS files beside the folders of the loader.

    python release/tarball.py [folder]

It has what a master serves and what its users read, and nothing else. The same tree gives the same bytes: names are sorted, every
file is root's, and all have one time. That is the time of the commit and not a constant: a master takes a file of the same time
for unchanged, and would go on serving the older one under its name. SOURCE_DATE_EPOCH sets another time.
"""

import gzip
import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: What lies elsewhere than in the checkout: with this, one file root is enough.
MOVED = {"states/gpu_slicing": "gpu_slicing"}
#: Folder -> endings of what is taken from it. Those of the loader, which begin with "_", are found by :func:`folders`.
FOLDERS = {
    "states/gpu_slicing": (".sls", ".jinja"),
    "docs": (".md", ".json", ".svg"),
    # All but the tour, which is one of the checkout.
    "examples": (".conf", ".json", ".sls", ".yaml", ".yml"),
}
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pillar.example")


class Unfit(Exception):
    """No tarball can be made of this tree; the message says why, and what to do."""


def version(root=ROOT):
    """The version, from the file that pyproject.toml names for it."""
    place = re.search(r'^\[tool\.hatch\.version\]\npath = "(.+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    return re.search(r'^__version__ = "(.+)"$', (root / place[1]).read_text(encoding="utf-8"), re.M)[1]


def folders(root=ROOT):
    """:data:`FOLDERS` with those of the loader: every one at the top that begins with one underscore."""
    loaders = [path.name for path in root.iterdir() if path.is_dir() and re.match("_[a-z]", path.name)]
    return {**dict.fromkeys(sorted(loaders), (".py",)), **FOLDERS}


def contents(root=ROOT):
    """Name in the tarball, below its one folder -> the file, sorted by name."""
    found = {name: root / name for name in FILES}
    for folder, endings in folders(root).items():
        for path in (root / folder).rglob("*"):
            if path.suffix in endings and path.is_file():
                found[f"{MOVED.get(folder, folder)}/{path.relative_to(root / folder).as_posix()}"] = path
    return dict(sorted(found.items()))


def time_of(root=ROOT):
    """
    The time that all files get, in seconds since 1970.

    :raises Unfit: nothing tells it: the tree is not what was committed, and SOURCE_DATE_EPOCH is not set.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    try:
        if _git(root, "status", "--porcelain", "--", *FILES, *folders(root)):
            raise Unfit("This tree has changes that are not committed. Commit them, or set SOURCE_DATE_EPOCH.")
        return int(_git(root, "log", "-1", "--format=%ct"))
    except (OSError, subprocess.CalledProcessError) as err:
        raise Unfit("git does not tell the time of the commit. Run this in a clone, or set SOURCE_DATE_EPOCH.") from err


def _git(root, *args):
    return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def build(target, root=ROOT):
    """Write the tarball into the folder ``target``; returns its path. Raises :class:`Unfit`."""
    name, when = f"gpu-slicing-{version(root)}", time_of(root)
    target = pathlib.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    made = target / f"{name}.tar.gz"
    files = contents(root)
    parents = {parent.as_posix() for each in files for parent in pathlib.PurePosixPath(name, each).parents} - {"."}
    # The packer too would note a name and a time.
    with open(made, "wb") as raw, gzip.GzipFile("", "wb", mtime=when, fileobj=raw) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for folder in sorted(parents):
                archive.addfile(_entry(folder, when, tarfile.DIRTYPE, 0o755))
            for each, path in files.items():
                entry, data = _entry(f"{name}/{each}", when, tarfile.REGTYPE, 0o644), path.read_bytes()
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return made


def _entry(name, when, kind, mode):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, when
    entry.uname = entry.gname = "root"
    return entry


def main(argv):
    """Make the tarball and say where it is; returns the exit status."""
    try:
        print(build(argv[1] if len(argv) > 1 else ROOT / "dist"))
    except Unfit as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
