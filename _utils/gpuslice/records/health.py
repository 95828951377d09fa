"""
What is known of the health of a host's GPUs from earlier looks, ``health.json`` in the state directory: how far the kernel's log
was read, what was found and not dealt with yet, counters and readings to compare with, and which slices there were when.
"""

import os
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.host.base import HEALTH
from gpuslice.records import lock
from gpuslice.records.store import Record
from gpuslice.records.store import saying
from gpuslice.shape import ADDRESS
from gpuslice.shape import ADDRESS_PATTERN
from gpuslice.shape import anything
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import moment
from gpuslice.shape import parts
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.shape import whole

_FORMAT = 1
_LOCK = "health.lock"
#: Layouts of a GPU that are remembered, to tell whom an older line of the log means.
_LAYOUTS = 6

_TEXT, _COUNT = text(), whole(0, 2**64)
_CONDITION = parts(
    {
        "gpu": text(rf"(?:{ADDRESS_PATTERN})?"),
        # Of an Xid the number stands in it.
        "code": text(r"xid-[0-9]{1,6}|(?!xid-)[a-z][a-z0-9-]{1,63}"),
        **dict.fromkeys(("slice", "words", "todo", "boot", "uuid"), _TEXT),
        **dict.fromkeys(("gi", "ci", "pid"), maybe(_COUNT)),
        **dict.fromkeys(("count", "looks", "clean"), _COUNT),
        **dict.fromkeys(("since", "last"), moment),
        **dict.fromkeys(("cured", "softened"), truth),
        "bursts": listing(moment),
    },
    needed=("gpu", "code"),
)
_LAYOUT = record({"boot": _TEXT, "seconds": moment, "slices": table(_TEXT, listing(_COUNT))})
_SHAPE = record(
    {
        "cursor": maybe(row(_TEXT, whole(-1, 2**63))),
        "lost": maybe(moment),
        "last": maybe(row(_TEXT, moment)),
        "conditions": listing(_CONDITION),
        "counters": table(ADDRESS, record({"boot": _TEXT, "counts": table(_TEXT, _COUNT)})),
        "rows": table(ADDRESS, record({"time": moment, "rows": listing(_COUNT)})),
        "layouts": table(ADDRESS, listing(_LAYOUT)),
        "resets": listing(row(ADDRESS, _TEXT, moment)),
        "announced": table(_TEXT, anything),
        "settings": parts({"xids": table(text(r"[0-9]{1,6}"), _TEXT), "clean_looks": whole(1, 1000)}),
    },
    {"library": maybe(row(_TEXT, moment)), "began": maybe(moment)},
)


def _check(data):
    _SHAPE(data, "it")


class HealthRecord:
    """The record of one host."""

    def __init__(self, host):
        self._host = host
        self._file = Record(host, HEALTH, "the record of health", _FORMAT, _check, compact=True)
        self.path = self._file.path

    def read(self):
        """
        What is known, with every key. A record that can't be used is told of, and begun anew by the next look.

        :raises errors.NewerFormat: a newer version wrote it.
        """
        try:
            return {**_nothing(), **self._file.read()}
        except FileNotFoundError:
            return _nothing()
        except (OSError, ValueError) as err:
            return {**_nothing(), "damaged": getattr(err, "strerror", None) or str(err)}

    def write(self, data):
        """Keep this. Raises errors.StateDirUnusable."""
        self._file.keep(
            {key: value for key, value in data.items() if key not in ("damaged", "format")},
            lambda err: errors.StateDirUnusable(
                f"The health of the GPUs could not be noted in {self.path}: {err.strerror}.",
                todo="Free space or mend its permissions; until then each look begins anew.",
            ),
        )

    @contextmanager
    def held(self, patience=2.0):
        """The record to oneself; yields whether it was got. Raises errors.StateDirUnusable."""
        with saying(self._host.state_dir, "lock the record of health"):
            handle = lock.briefly(os.path.join(self._host.state_dir, _LOCK), patience)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                os.close(handle)

    @contextmanager
    def _changed(self):
        """What is known, which is kept as it is changed."""
        data = self.read()
        yield data
        self.write(data)

    def note_change(self, resets, slices):
        """
        Note what a change of ours did, for looks that come later; without a record there is nothing to note.

        :param resets: PCI addresses of GPUs that were reset. :param slices: PCI address -> name -> (GPU instance, compute
            instance) of its slices after the change, () for one without. :raises errors.StateDirUnusable: it can't be written.
        """
        with self.held(), self._changed() as data:
            seconds, boot = self._host.monotonic(), self._host.boot_id()
            data["resets"] = [*data["resets"], *([gpu, boot, seconds] for gpu in resets)][-64:]
            for gpu, named in slices.items():
                add_layout(data, gpu, named, boot, seconds)

    def forget(self, gpus, gone):
        """
        Forget what was found wrong with these GPUs.

        :param gpus: PCI addresses; :param gone: those of them of which nothing is to be known any more.
        :raises errors.LockHeld: somebody looks at them; :raises errors.StateDirUnusable: the record can't be written.
        """
        with self.held() as got:
            if not got:
                raise errors.LockHeld(
                    f"Somebody looks at the health of GPU {', '.join(gpus)} now, so that it can't be forgotten.",
                    todo="Run again; where a driver does not answer, a look takes minutes.",
                )
            with self._changed() as data:
                data["conditions"] = [each for each in data["conditions"] if each["gpu"] not in gpus]
                for key in ("counters", "rows", "layouts"):
                    data[key] = {gpu: each for gpu, each in data[key].items() if gpu not in gone}

    def note_rows(self, rows):
        """
        Note what was read of remapped memory rows.

        :param rows: PCI address -> (corrected, uncorrected, pending, failed). :raises errors.StateDirUnusable: that can't be.
        """
        if not rows:
            return
        with self.held(), self._changed() as data:
            now = self._host.now()
            data["rows"] = {**data["rows"], **{gpu: {"time": now, "rows": list(each)} for gpu, each in rows.items()}}


def add_layout(data, gpu, named, boot, seconds):
    """Add the slices of a GPU as they are now, if they are not as before; parameters as of :meth:`HealthRecord.note_change`."""
    layouts = data["layouts"].get(gpu, [])
    now = {name: list(ids) for name, ids in named.items()}
    if layouts and layouts[-1]["boot"] == boot and layouts[-1]["slices"] == now:
        return
    data["layouts"][gpu] = [*layouts, {"boot": boot, "seconds": seconds, "slices": now}][-_LAYOUTS:]


def _nothing():
    return {
        "began": None, "cursor": None, "lost": None, "last": None, "library": None, "conditions": [], "counters": {},
        "rows": {}, "layouts": {}, "resets": [], "announced": {}, "settings": {},
    }  # fmt: skip
