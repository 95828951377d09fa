"""Files of libvirt that are none, as a real folder has them."""

import os

from gpuslice.drivers import libvirt
from gpuslice.host.real import RealHost

DOMAIN = """<domain><name>web</name><devices><hostdev type='pci' managed='yes'><source>
<address domain='0x0000' bus='0x3c' slot='0x00' function='0x1'/></source></hostdev></devices></domain>"""


class Rooted(RealHost):
    """The machine whose root is a folder."""

    def __init__(self, root):
        super().__init__()
        self._root = str(root)

    def read_bytes(self, path):
        return super().read_bytes(f"{self._root}{path}")

    def listdir(self, path):
        return super().listdir(f"{self._root}{path}")

    def exists(self, path):
        return super().exists(f"{self._root}{path}")

    def stamp(self, path):
        return super().stamp(f"{self._root}{path}")


def test_what_is_no_file_is_named_and_waited_for_by_nobody(tmp_path):
    place = tmp_path / libvirt.PLACE.lstrip("/")
    place.mkdir(parents=True)
    os.mkfifo(place / "pipe.xml")
    (place / "folder.xml").mkdir()
    (place / "nowhere.xml").symlink_to("gone")
    (place / "loop.xml").symlink_to("loop.xml")
    (place / "web.xml").write_text(DOMAIN)
    there = libvirt.defined(Rooted(tmp_path))
    assert [domain.name for domain in there.domains] == ["web"]
    assert {path.rpartition("/")[2]: why for path, why in there.unread.items()} == {
        "folder.xml": "it is no file", "pipe.xml": "it is no file", "nowhere.xml": "No such file or directory",
        "loop.xml": "Too many levels of symbolic links",
    }  # fmt: skip
