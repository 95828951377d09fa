"""
The history: one file for each change that ended, the last ones of which are kept. Generation 0 is how everything was first found:
it is kept beside them by :mod:`gpuslice.records.first`.
"""

import os
import re

from gpuslice import errors
from gpuslice.records import shapes
from gpuslice.records.journal import former_key
from gpuslice.records.store import Record
from gpuslice.records.store import saying

#: Its directory below the state directory.
FOLDER = "history"
#: What the history has as ``who`` of a boot that brought slices back.
REPLAY = "gpu_boot.replay"
#: How many generations the history keeps.
GENERATIONS = 50
_FORMAT = 2
#: How the history calls the undoing of a change that did not end.
UNDID = "undid an interrupted change"
#: Only names that we give: another one for the same number would be a generation that can't be opened.
GENERATION_FILE = re.compile(r"([0-9]{6}|[1-9][0-9]{6,11})\.json")


class History:
    """The generations of one host, as plain data: layouts are keyed by the text of a :class:`gpuslice.model.Key`."""

    def __init__(self, host):
        self._host = host
        self._folder = os.path.join(host.state_dir, FOLDER)

    def check(self):
        """Raises errors.StateDirUnusable for a history that is not ours: found out before anything is changed."""
        self._numbers()

    def record(self, generation):
        """Add a finished change to the history; returns its number."""
        number = self.upcoming()
        with saying(self._host.state_dir, "write the history"):
            self.file(number).write({"generation": number, **generation})
            for old in self._numbers()[:-GENERATIONS]:
                self.file(old).remove()
        return number

    def upcoming(self):
        """The number that the next generation gets."""
        return (self._numbers() or [0])[-1] + 1

    def newest(self):
        """:meth:`mark` of the newest generation, (0, None) for none."""
        return self.mark(self.upcoming() - 1)

    def mark(self, number):
        """(Number, time) of a generation, which tell it from one of that number in a history that was begun anew."""
        try:
            return number, self.generation(number).get("time") if number else None
        except errors.GpuSliceError:
            # One that can't be read is of no other history either.
            return number, None

    def all(self):
        """The generations kept, oldest first. A file that can't be read or trusted is told as one with an ``error``."""
        found = []
        for number in self._numbers():
            try:
                found.append(self.generation(number))
            except (errors.JournalDamaged, errors.StateDirUnusable) as err:
                found.append({"generation": number, "error": str(err)})
        return found

    def generation(self, number):
        """One generation. Raises errors.PolicyError when there is none of this number, errors.JournalDamaged."""
        found = self.file(number).read_if_there(
            lambda err: errors.JournalDamaged(
                f"Generation {number} of the history can't be read ({err}).", todo="Choose another one."
            )
        )
        if found is None:
            known = ", ".join(map(str, self._numbers())) or "none yet"
            raise errors.PolicyError(f"There is no generation {number} in the history.", todo=f"Generations: {known}.")
        return {**{key: value for key, value in found.items() if key != "format"}, "generation": int(number)}

    def newest_first(self):
        """The generations kept that can be read, the newest first, each read when it is asked for."""
        try:
            numbers = self._numbers()
        except (errors.GpuSliceError, OSError):
            # It is not ours to believe; whoever is about to change something is told so.
            return
        for number in reversed(numbers):
            try:
                found = self.generation(number)
            except (errors.GpuSliceError, OSError):
                # One that is damaged, or another version's, tells nothing.
                continue
            yield found

    def _numbers(self):
        names = self._host.store_names(self._folder)
        return sorted(int(found[1]) for name in names if (found := GENERATION_FILE.fullmatch(name)) and int(found[1]))

    def file(self, number):
        """The :class:`gpuslice.records.store.Record` of a generation, whether there is one or not."""
        name = os.path.join(FOLDER, f"{int(number):06d}.json")
        return Record(self._host, name, "a generation of the history", _FORMAT, shapes.generation, _UPGRADES)


def _with_keys(found):
    """Format 0 had layouts by PCI address, and beside them the technology of each."""
    techniques, addresses, keyed = dict(found.get("techniques", {})), {}, {}
    for which in (name for name in ("before", "after") if name in found):
        keyed[which] = {}
        for address, layout in found[which].items():
            if address not in techniques:
                raise ValueError(f"it does not say by what GPU {address} was sliced")
            key = former_key(address, techniques[address], layout)
            keyed[which][key] = layout
            addresses[key] = list(dict.fromkeys([*addresses.get(key, ()), address]))
    covered = {"addresses": addresses} if addresses else {}
    return {**{name: value for name, value in found.items() if name != "techniques"}, **keyed, **covered}


def _with_times(found):
    """Format 1 did not tell how long each step took."""
    return {"times": [], **found}


_UPGRADES = {0: _with_keys, 1: _with_times}
