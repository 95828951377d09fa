"""
A tree of files: what the kernel shows of a simulated machine, as plain texts, links and directories.
"""

import errno
import os

from gpuslice.sim import kernel

#: Device nodes that are numbered, and the major of their driver.
_MAJORS = {
    "/dev/dri/card": 226,
    "/dev/dri/renderD": 226,
    "/dev/nvidia": 195,
    "/dev/nvidia-caps/nvidia-cap": 235,
    "/dev/vfio/": 243,
    "/dev/vfio/devices/vfio": 244,
}
#: The kernel's class of nodes whose number is told in sysfs.
_CLASSES = (("/dev/dri/", "drm"), ("/dev/kfd", "kfd"), ("/dev/vfio/devices/", "vfio-dev"), ("/dev/vfio/", "vfio"))


def device_number(node):
    """``major:minor`` of a device node by its name, "" for one that has no number here."""
    name = node.rstrip("0123456789")
    if name in _MAJORS and name != node:
        return f"{_MAJORS[name]}:{node[len(name) :]}"
    return "241:0" if node == "/dev/kfd" else ""


class Tree:
    """
    The files of a machine in one state, empty at first.

    :ivar state: the state that they show.
    """

    def __init__(self, state):
        self.state = state
        self._files = {}
        self._links = {}
        self._dirs = {"/": set()}
        self._write_only = set()

    # -- building ------------------------------------------------------------------------------------------------
    def dir(self, path):
        """Add a directory, and those above it."""
        if path in self._dirs:
            return
        self._dirs[path] = set()
        parent, _, name = path.rpartition("/")
        self.dir(parent or "/")
        self._dirs[parent or "/"].add(name)

    def file(self, path, text, write_only=False):
        """
        Add a file; reading one that is ``write_only`` fails.

        :param text: its text, or bytes. What takes long to make or changes by itself is a function that makes it.
        """
        self._files[path] = text
        if write_only:
            self._write_only.add(path)
        parent, _, name = path.rpartition("/")
        self.dir(parent)
        self._dirs[parent].add(name)

    def node(self, path):
        """Add a device node, and the file that tells its number."""
        self.file(path, "")
        number = device_number(path)
        kind = next((name for prefix, name in _CLASSES if path.startswith(prefix)), "")
        if number and kind:
            self.file(f"/sys/class/{kind}/{path.rpartition('/')[2]}/dev", number)

    def link(self, path, target):
        """Add a symbolic link to an absolute path."""
        self._links[path] = target
        parent, _, name = path.rpartition("/")
        self.dir(parent)
        self._dirs[parent].add(name)

    # -- reading -------------------------------------------------------------------------------------------------
    def real(self, path):
        """The path with the symbolic links inside it followed; the last component is left as it is."""
        path = os.path.normpath(path)
        if path in self._files or path in self._dirs or path in self._links:
            return path
        parts = path.split("/")
        for count in range(2, len(parts)):
            target = self._links.get("/".join(parts[:count]))
            if target:
                return self.real(target + "/" + "/".join(parts[count:]))
        return path

    def read(self, path):
        """Text of a file. Raises OSError."""
        found = self.content(path)
        return (found if isinstance(found, str) else found.decode(errors="replace")).rstrip("\n")

    def content(self, path):
        """What is in a file, a text or bytes. Raises OSError."""
        real = self.real(path)
        if real in self._write_only:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        text = self._files.get(real)
        if text is not None:
            return text() if callable(text) else text
        if real in self._dirs or real in self._links:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def listdir(self, path):
        """Sorted names in a directory, [] when it is not there."""
        real = self.real(path)
        real = self._links.get(real, real)
        return sorted(self._dirs.get(real, ()))

    def exists(self, path):
        """Whether the path is there."""
        real = self.real(path)
        return real in self._files or real in self._dirs or real in self._links

    def readlink(self, path):
        """Last component of a link's target, "" when it is no link."""
        real = self.real(path)
        parent, _, name = real.rpartition("/")
        if parent == kernel.DEVICES and real in self._dirs:
            return name
        return os.path.basename(self._links.get(real, ""))
