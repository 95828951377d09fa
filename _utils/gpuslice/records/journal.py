"""
The write-ahead record of a change, and the history of those that ended.

A change first writes what it is about to do and what was there before (``journal.json``), then a line before each step
(``journal.steps``). A crash leaves both behind; :func:`unfinished` finds them. What ended goes to ``history/``.
"""

import json
import os
import re
from dataclasses import dataclass
from dataclasses import field

from gpuslice import errors
from gpuslice.host.base import JOURNAL
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.records import shapes

#: How many generations the history keeps.
GENERATIONS = 50
#: Only names that we give: another one for the same number would be a generation that can't be opened.
_GENERATION_FILE = re.compile(r"([0-9]{6}|[1-9][0-9]{6,11})\.json")


@dataclass
class Entry:
    """
    A change that was begun.

    :ivar before: layout of each GPU before it; :ivar goal: settings wanted of each; both by PCI address.
    :ivar wishes: what was asked of the GPUs of which a difference to what was there was asked; ``goal`` is what it came to.
    :ivar techniques: technique of each GPU; :ivar pauses: [kind, name] of the units and modules that are stopped for it.
    :ivar groups: GPUs that can only change together: PCI address -> the name of its group.
    :ivar earlier: steps (plain data) that an interrupted attempt, which this change finishes, had begun.
    :ivar steps: steps of this attempt that were begun, as (GPU, number).
    """

    time: float
    who: str
    jid: str
    pid: int
    boot_id: str
    plan: dict
    before: dict
    goal: dict
    techniques: dict
    wishes: dict = field(default_factory=dict)
    pauses: list = field(default_factory=list)
    earlier: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    groups: dict = field(default_factory=dict)

    @property
    def key(self):
        """Tells the steps of this change from those of another that a crash left behind."""
        return f"{self.time}-{self.pid}"

    def begun(self):
        """(GPU, :class:`gpuslice.plan.Step`) of the steps that were begun, those of an interrupted attempt before it included."""
        planned = {made.gpu: made for made in Plan.from_dict(self.plan).gpus}
        earlier = [Step.from_dict(step) for step in self.earlier]
        return [(step.gpu, step) for step in earlier] + [(gpu, planned[gpu].steps[number - 1]) for gpu, number in self.steps]

    def generation(self, result, sentences, **more):
        """
        This change as the history tells it.

        :param result: how it ended, in a few words; :param sentences: its errors.
        :param more: what else there is to tell (``after``, ``reboot``), or to tell otherwise than it stands here.
        """
        return {
            "time": self.time,
            "who": self.who,
            "jid": self.jid,
            "result": result,
            "errors": sentences,
            "plan": self.plan,
            "before": self.before,
            "techniques": self.techniques,
            **more,
        }


def _entry(data):
    """The entry that :meth:`Journal.begin` wrote. Raises a ValueError that says what is wrong with anything else."""
    try:
        shapes.entry(data)
        entry = Entry(**data)
        Plan.from_dict(entry.plan)
        [Step.from_dict(step) for step in entry.earlier]
        return entry
    except ValueError as err:
        raise ValueError(f"it has another form than this version writes: {err}") from err
    except (TypeError, KeyError, AttributeError) as err:
        # Python's words may quote what stands there, and nobody knows what that is.
        raise ValueError("it has another form than this version writes") from err


class Journal:
    """
    The journal in a host's state directory. Raises errors.StateDirUnusable when it can't be written: a change that can't be
    recorded is not made.
    """

    def __init__(self, host):
        self._host = host
        self._head = os.path.join(host.state_dir, JOURNAL)
        self._steps = os.path.join(host.state_dir, "journal.steps")
        self._history = os.path.join(host.state_dir, "history")

    def unfinished(self):
        """The :class:`Entry` of a change that did not end, or None. Raises errors.JournalDamaged."""
        try:
            entry = _entry(self._host.store_load(self._head))
            entry.steps = self._begun(entry)
        except FileNotFoundError:
            return None
        except PermissionError as err:
            raise errors.StateDirUnusable(
                f"The journal {self._head} can't be read ({err.strerror}).", todo="Run as root."
            ) from err
        except (OSError, ValueError, TypeError) as err:
            raise errors.JournalDamaged(
                f"The journal of an unfinished change, {self._head}, can't be read ({err}), so what it did is not known.",
                todo="Compare the GPUs with what you want ('salt-call gpu.slices'), then remove that file and run again.",
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
                of, gpu, number = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                # The last line may be cut short by the crash: then its step was not begun, as the line comes first.
                break
            if of != entry.key:
                continue
            if not shapes.has_step(entry.plan, gpu, number):
                break
            found.append((gpu, number))
        return found

    def begin(self, entry, goes_on=False):
        """
        Write down a change before anything of it is done.

        :param goes_on: it takes the place of a record that is there, and tells all that this one told.
        """
        data = {**entry.__dict__, "steps": []}
        # A history that is not ours is found out before anything is changed, and not when the change is to be written there.
        self._numbers()
        with self._saying("begin a change"):
            # The old steps go last: a crash before leaves lines that are not of this change, and are told from its own.
            self._host.store_write(self._head, json.dumps(data))
            try:
                self._host.store_remove(self._steps)
            except Exception:
                # Of a change that is not made nothing may tell that it was interrupted.
                if not goes_on:
                    self._host.store_remove(self._head)
                raise

    def step(self, entry, gpu, number):
        """Write down a step before it is done."""
        with self._saying("record a step"):
            self._host.store_append(self._steps, json.dumps([entry.key, gpu, number]))
        entry.steps.append((gpu, number))

    def end(self):
        """The change is over, one way or the other."""
        with self._saying("end a change"):
            self._host.store_remove(self._head)
            self._host.store_remove(self._steps)

    def record(self, generation):
        """Add a finished change (plain data) to the history; returns its number."""
        number = self.upcoming()
        with self._saying("write the history"):
            self._host.store_write(self._file(number), json.dumps({"generation": number, **generation}, indent=1))
            for old in self._numbers()[:-GENERATIONS]:
                self._host.store_remove(self._file(old))
        return number

    def upcoming(self):
        """The number that the next generation gets."""
        return (self._numbers() or [0])[-1] + 1

    def history(self):
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
        try:
            found = self._host.store_load(self._file(number))
            shapes.generation(found)
            return {**found, "generation": int(number)}
        except FileNotFoundError as err:
            known = ", ".join(map(str, self._numbers())) or "none yet"
            raise errors.PolicyError(f"There is no generation {number} in the history.", todo=f"Generations: {known}.") from err
        except (OSError, ValueError) as err:
            raise errors.JournalDamaged(
                f"Generation {number} of the history can't be read ({err}).", todo="Choose another one."
            ) from err

    def _numbers(self):
        names = self._host.store_names(self._history)
        return sorted(int(found[1]) for name in names if (found := _GENERATION_FILE.fullmatch(name)))

    def _file(self, number):
        return os.path.join(self._history, f"{int(number):06d}.json")

    def _saying(self, doing):
        return _Saying(self._host.state_dir, doing)


class _Saying:
    """Turns an OSError of the state directory into a sentence."""

    def __init__(self, state_dir, doing):
        self._state_dir, self._doing = state_dir, doing

    def __enter__(self):
        return self

    def __exit__(self, kind, err, trace):
        if isinstance(err, OSError):
            raise errors.StateDirUnusable(
                f"Could not {self._doing} in the state directory {self._state_dir}: {err.strerror}.",
                todo="Free space or mend its permissions, then run again.",
            ) from err
