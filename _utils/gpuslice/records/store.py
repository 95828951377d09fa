"""
One JSON file of ours in the state directory: read, checked, brought up from an older format, written, removed.

Every file tells its format by a number, and each version of the engine knows one number for it: what is older is brought up when
it is read, what is newer is refused, since it may say what this version would take for something else.
"""

import json
import os
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.host.base import Host

#: The key that tells the format. A file without it is of format 0.
FORMAT = "format"
#: What a site wrote for units of consumers, and has run after a change, may have secrets. A record with nothing of that can be
#: read by everybody.
_PRIVATE = re.compile(r'"(?:quadlet|templates)": \{(?!\})|"after_hooks": \[(?!\])')
_ANOTHER_FORM = "it has another form than this version writes"


def reason(err: Exception) -> object:
    """Why a file can't be used, for a sentence that names the file itself."""
    return getattr(err, "strerror", None) or err


@contextmanager
def saying(state_dir: str, doing: str) -> Iterator[None]:
    """
    Turns an OSError of the state directory into a sentence.

    :param doing: completes "could not ...". :raises errors.StateDirUnusable: instead of it.
    """
    try:
        yield
    except OSError as err:
        raise errors.StateDirUnusable(
            f"Could not {doing} in the state directory {state_dir}: {err.strerror}.",
            todo="Free space or mend its permissions, then run again.",
        ) from err


class OlderFormat(ValueError):
    """A format that nobody brings up."""


class Record:
    """
    One such file.

    :param name: of the file below the state directory; :param what: what it is, for messages: "the journal".
    :param number: the format that this version writes.
    :param check: function of the data that raises a ValueError which says what is wrong with it.
    :param upgrades: format -> function of data in this format that returns it in the next one.
    :param compact: without line breaks, which takes a tenth of the time to write.
    :param private: nobody else can read it.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        what: str,
        number: int,
        check: Callable[[dict], object],
        upgrades: Mapping[int, Callable[[dict], dict]] | None = None,
        compact: bool = False,
        private: bool = False,
    ) -> None:
        self._host, self._what, self._number, self._check = host, what, number, check
        self._upgrades = upgrades or {}
        self._indent = None if compact else 1
        self._mode = 0o600 if private else 0o644
        self.path = os.path.join(host.state_dir, name)

    def read(self) -> dict:
        """
        What the file says, in the format of this version.

        :raises FileNotFoundError: there is none. :raises OSError: it can't be read.
        :raises ValueError: it is damaged, or not of this form; :raises OlderFormat: it is of one that is not brought up.
        :raises errors.NewerFormat: a newer version wrote it.
        """
        found = self._host.store_load(self.path)
        if not isinstance(found, dict):
            raise ValueError("it is no mapping")
        found = self._upgraded(found)
        self._check({key: value for key, value in found.items() if key != FORMAT})
        return found

    def read_if_there(self, unusable: Callable[[Exception], errors.GpuSliceError]) -> dict | None:
        """
        As :meth:`read`, None where there is no such file.

        :param unusable: function of why the file can't be used, as :meth:`read` raised it, that returns the error to be raised.
        :raises errors.NewerFormat: a newer version wrote it.
        """
        try:
            return self.read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            raise unusable(err) from err

    def _upgraded(self, found: dict) -> dict:
        number = found.get(FORMAT, 0)
        if type(number) is not int or number < 0:
            raise ValueError("its format is no number")
        if number > self._number:
            raise errors.NewerFormat(
                f"{self.path} was written by a newer version: {self._what} has format {number}, and this version knows "
                f"{self._number}.",
                todo="Install that version again. Before a downgrade run 'salt-call gpu_slicing.recover' with it and move the "
                "state directory away; see docs/operations.md.",
            )
        while number < self._number:
            if number not in self._upgrades:
                raise OlderFormat(f"it has format {number} and another form than this version writes")
            try:
                found = self._upgrades[number](found)
            except (TypeError, KeyError, AttributeError) as err:
                # An older format is checked by nothing but this; Python's words may quote what stands there.
                raise ValueError(_ANOTHER_FORM) from err
            number += 1
        return found

    def write(self, data: dict) -> None:
        """
        Replace the file, on the disk before this returns. It is ours alone to read where it has text of a site's units.

        :raises OSError: it can't be written; :raises errors.StateDirUnusable: another user has a hand in the state directory.
        """
        text = json.dumps({FORMAT: self._number, **data}, indent=self._indent) + "\n"
        self._host.store_write(self.path, text, 0o600 if _PRIVATE.search(text) else self._mode)

    def keep(self, data: dict | None, unwritable: Callable[[OSError], errors.GpuSliceError]) -> None:
        """
        Write what must not be lost, as :meth:`write`; None removes the file.

        :param unwritable: function of why that can't be done, that returns the error to be raised.
        :raises errors.StateDirUnusable: another user has a hand in the state directory.
        """
        try:
            if data is None:
                self.remove()
            else:
                self.write(data)
        except OSError as err:
            raise unwritable(err) from err

    def remove(self) -> None:
        """Remove the file, on the disk before this returns; it need not be there. Raises OSError, errors.StateDirUnusable."""
        self._host.store_remove(self.path)
