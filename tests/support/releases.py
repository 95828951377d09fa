"""The tarball of ``make dist``, made and unpacked for tests."""

import shutil
import tarfile

from release import tarball
from tests.conftest import ROOT


def copied(target):
    """What a tarball is made of, as a tree of its own that a test can edit; returns it."""
    for path in [*tarball.contents().values(), ROOT / "pyproject.toml"]:
        place = target / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return target


def unpacked(made, folder):
    """Unpack a tarball as ``tar -xzf`` does; returns its one folder."""
    with tarfile.open(made) as archive:
        archive.extractall(folder, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
        return folder / archive.getnames()[0]
