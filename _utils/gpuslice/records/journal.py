"""
The write-ahead record of a change.

A change first writes what it is about to do and what was there before (``journal.json``), then a line before each step
(``journal.steps``). A crash leaves both behind; :meth:`Journal.unfinished` finds them. What ended goes to the history.
"""

import json
import os
from dataclasses import dataclass
from dataclasses import field

from gpuslice import errors
from gpuslice.host.base import JOURNAL
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.records import shapes
from gpuslice.records.store import OlderFormat
from gpuslice.records.store import Record
from gpuslice.records.store import saying

_FORMAT = 2
#: The steps of format 1 do not say where their estimate is known from.
_UPGRADES = {1: dict}
#: Fields of an entry that are keyed by :class:`gpuslice.model.Key`, which JSON has as text.
_BY_KEY = ("before", "goal", "wishes", "addresses", "groups")


@dataclass
class Entry:
    """
    A change that was begun. What is keyed is keyed by :class:`gpuslice.model.Key`.

    :ivar before: layout of each subject before it; :ivar goal: settings wanted of each.
    :ivar wishes: what was asked where a difference to what was there was asked; ``goal`` is what it came to.
    :ivar addresses: PCI addresses of the GPUs that each covers; :ivar pauses: [kind, name] of the units and modules that are
        stopped for it.
    :ivar groups: what can only change together: key -> the name of its group.
    :ivar earlier: (key, step as plain data) of those that an interrupted attempt, or an earlier layer of this one, had begun.
    :ivar steps: steps of the plan that were begun, as (key, number).
    :ivar after_hooks: what is run when it is over, whoever ends it, as :attr:`gpuslice.rules.Options.after`.
    """

    time: float
    who: str
    jid: str
    pid: int
    boot_id: str
    plan: dict
    before: dict
    goal: dict
    wishes: dict = field(default_factory=dict)
    addresses: dict = field(default_factory=dict)
    pauses: list = field(default_factory=list)
    earlier: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    groups: dict = field(default_factory=dict)
    after_hooks: list = field(default_factory=list)

    @property
    def token(self):
        """Tells the steps of this change from those of another that a crash left behind."""
        return f"{self.time}-{self.pid}"

    @property
    def gpus(self):
        """PCI addresses of all GPUs that it is about."""
        return list(dict.fromkeys(address for key in (*self.before, *self.goal) for address in self.covered(key)))

    def covered(self, key):
        """PCI addresses of the GPUs that a key is about."""
        return self.addresses.get(key) or [key.subject]

    def begun(self):
        """(key, :class:`gpuslice.plan.Step`) of the steps that were begun, those of an interrupted attempt before it included."""
        planned = {part.key: part for part in Plan.from_dict(self.plan).parts}
        earlier = [(key, Step.from_dict(step)) for key, step in self.earlier]
        return earlier + [(key, planned[key].steps[number - 1]) for key, number in self.steps]

    def generation(self, result, sentences, **more):
        """
        This change as the history tells it.

        :param result: how it ended, in a few words; :param sentences: its errors.
        :param more: what else there is to tell (``after``, ``reboot``), or to tell otherwise than it stands here.
        """
        record = {
            "time": self.time,
            "who": self.who,
            "jid": self.jid,
            "result": result,
            "errors": sentences,
            "plan": self.plan,
            "before": self.before,
            "addresses": self.addresses,
            **more,
        }
        return {name: by_text(value) if name in ("before", "after", "addresses") else value for name, value in record.items()}


def by_text(keyed):
    """The same mapping with keys that JSON can have."""
    return {str(key): value for key, value in keyed.items()}


def by_key(texted):
    """The same mapping as :func:`by_text` got. Raises ValueError."""
    return {Key.of(text): value for text, value in texted.items()}


def former_key(address, technique, layout):
    """The text of the key of a layout that an older format had by PCI address, beside its technology."""
    if technique == "vgpu" and "license" in layout:
        # What all vGPUs of a guest have in common was told of each of them.
        return str(Key(HOST, "licence"))
    return str(Key(address, technique))


def _written(entry):
    """An entry as JSON can have it; its steps are in the other file."""
    data = {**entry.__dict__, "steps": [], "earlier": [[str(key), step] for key, step in entry.earlier]}
    return {name: by_text(value) if name in _BY_KEY else value for name, value in data.items()}


def _entry(data):
    """The entry that :func:`_written` made ``data`` of. Raises a ValueError that says what is wrong with anything else."""
    try:
        known = {name: by_key(data.get(name, {})) for name in _BY_KEY}
        earlier = [(Key.of(key), step) for key, step in data.get("earlier", ())]
        entry = Entry(**{**{name: value for name, value in data.items() if name != "format"}, **known, "earlier": earlier})
        # It is gone through as a whole here, where what is wrong with it can still be told.
        entry.begun()
        return entry
    except (TypeError, KeyError, AttributeError) as err:
        # Python's words may quote what stands there, and nobody knows what that is.
        raise ValueError("it has another form than this version writes") from err


def _checked(data):
    try:
        shapes.entry(data)
    except ValueError as err:
        raise ValueError(f"it has another form than this version writes: {err}") from err


class Journal:
    """
    The journal in a host's state directory. Raises errors.StateDirUnusable when it can't be written: a change that can't be
    recorded is not made.
    """

    def __init__(self, host):
        self._host = host
        self._head = Record(host, JOURNAL, "the journal of an unfinished change", _FORMAT, _checked, _UPGRADES, compact=True)
        self._steps = os.path.join(host.state_dir, "journal.steps")

    def unfinished(self):
        """The :class:`Entry` of a change that did not end, or None. Raises errors.JournalDamaged, errors.StateDirUnusable."""
        path = self._head.path
        try:
            entry = _entry(self._head.read())
            entry.steps = self._begun(entry)
        except FileNotFoundError:
            return None
        except PermissionError as err:
            raise errors.StateDirUnusable(f"The journal {path} can't be read ({err.strerror}).", todo="Run as root.") from err
        except (OSError, ValueError, TypeError) as err:
            todo = "Compare the GPUs with what you want ('salt-call gpu.slices'), then remove that file and run again."
            if isinstance(err, OlderFormat):
                todo = f"If an older version began it, install that and run 'salt-call gpu_slicing.recover' with it. Else: {todo}"
            raise errors.JournalDamaged(
                f"The journal of an unfinished change, {path}, can't be read ({err}), so what it did is not known.", todo=todo
            ) from err
        return entry

    def _begun(self, entry):
        """The steps that were begun, up to a line that tells of none. Raises OSError."""
        try:
            lines = self._host.store_read(self._steps, undecodable="replace").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                of, text, number = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                # The last line may be cut short by the crash: then its step was not begun, as the line comes first.
                break
            if of != entry.token:
                continue
            if not shapes.has_step(entry.plan, text, number):
                break
            found.append((Key.of(text), number))
        return found

    def begin(self, entry, goes_on=False):
        """
        Write down a change before anything of it is done.

        :param goes_on: it takes the place of a record that is there, and tells all that this one told.
        """
        with saying(self._host.state_dir, "begin a change"):
            # The old steps go last: a crash before leaves lines that are not of this change, and are told from its own.
            self._head.write(_written(entry))
            try:
                self._host.store_remove(self._steps)
            except Exception:
                # Of a change that is not made nothing may tell that it was interrupted.
                if not goes_on:
                    self._head.remove()
                raise

    def step(self, entry, key, number):
        """Write down a step before it is done."""
        with saying(self._host.state_dir, "record a step"):
            self._host.store_append(self._steps, json.dumps([entry.token, str(key), number]))
        entry.steps.append((key, number))

    def end(self):
        """The change is over, one way or the other."""
        with saying(self._host.state_dir, "end a change"):
            self._head.remove()
            self._host.store_remove(self._steps)
