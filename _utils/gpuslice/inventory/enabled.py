"""
The units that systemd starts by itself on a host, and what they say: by its folders alone, with no program.

Source: systemd.unit(5). A link in ``<unit>.wants`` tells a name, and the file of that name is looked for in the folders of
:data:`PLACES` one after the other, that of a template after it; a link to ``/dev/null`` or an empty file masks it. Drop-ins
follow by their names, and an empty ``ExecStart=`` takes back those before it.
"""

from gpuslice.catalog.owners import WANTS

PLACES = (*WANTS, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
#: Our own drop-ins are called so; they set no GPU.
_OURS = "gpu-slicing"
_WANTING = (".wants", ".requires", ".upholds")
#: What starts another unit: ending -> the word by which it names it, where that isn't its own name.
_STARTERS = {".timer": "Unit=", ".path": "Unit=", ".socket": "Service="}


class Units:
    """
    The enabled units of a host.

    :param read: path -> the text of a file that is no longer than a script, "" for any other.
    :ivar files: unit -> its file, of those that are enabled.
    """

    def __init__(self, host, read):
        self._host, self._read = host, read
        # Nearly every unit of a host is a package's: what an administrator has of his own is known by two listings.
        self._own = {place: frozenset(host.listdir(place)) for place in WANTS}
        self.files = {}
        for place, names in self._own.items():
            for folder in sorted(name for name in names if name.endswith(_WANTING)):
                for unit in host.listdir(f"{place}/{folder}"):
                    if unit not in self.files and (path := self.file_of(unit, f"{place}/{folder}/{unit}")):
                        self.files[unit] = path

    def file_of(self, unit, link=""):
        """The file of a unit, "" for one that is masked or nowhere; :param link: by which it is enabled."""
        own = (f"{place}/{name}" for name in _names(unit) for place, names in self._own.items() if name in names)
        if path := next(own, ""):
            # A link that leads nowhere is left of a package that was removed.
            return "" if self._is_mask(path) or not self._host.exists(path) else path
        if link and self._host.exists(link):
            return link
        paths = (f"{place}/{name}" for name in _names(unit) for place in PLACES[len(WANTS) :])
        return next((path for path in paths if self._host.exists(path)), "")

    def _is_mask(self, path):
        return self._host.readlink(path) == "null" or self._host.stamp(path).startswith("0-")

    def started_by(self, unit):
        """The unit that an enabled unit starts: itself, or that of a timer, of a path or of a socket."""
        stem, dot, ending = unit.rpartition(".")
        word = _STARTERS.get(dot + ending)
        if word is None:
            return unit
        named = [line.partition("=")[2].strip() for line in self._read(self.files[unit]).splitlines() if line.startswith(word)]
        return named[-1] if named and named[-1] else f"{stem}.service"

    def text(self, unit, path):
        """What a unit says, with its drop-ins; :param path: its file."""
        found = [self._read(path)]
        for name in reversed(_names(unit)):
            for place, names in self._own.items():
                folder = f"{name}.d"
                inside = self._host.listdir(f"{place}/{folder}") if folder in names else ()
                theirs = [each for each in inside if each.endswith(".conf") and _OURS not in each]
                found += [self._read(f"{place}/{folder}/{each}") for each in theirs]
        return "\n".join(found)


def _names(unit):
    """The names under which the file of a unit may lie: its own, and for an instance that of its template."""
    stem, at, rest = unit.partition("@")
    return (unit, f"{stem}@.{rest.rpartition('.')[2]}") if at else (unit,)
