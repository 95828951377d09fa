"""
What is told of a change while it goes on: a line for a log before each step, and events with fields for programs. What can't be
told is dropped, and said once: whoever listens must not fail the change that he is told of.

``docs/events.md`` says what is in each event.
"""

import logging
import time

from gpuslice import secret
from gpuslice.change.context import ALL
from gpuslice.model import HOST
from gpuslice.printable import printable

log = logging.getLogger(__name__)

#: An event is read by people too, and a bus has a limit: characters of a text, entries of a list or mapping.
_LONG, _MANY = 1000, 500


class Telling:
    """What is told of the changes of one request; :param options: :class:`gpuslice.rules.Options`."""

    def __init__(self, options):
        self._options = options
        self._common, self._begun, self._failed = {}, 0.0, False

    def line(self, line):
        """Tell a line of progress, to the log and to whoever asked for it."""
        log.info("GPU slicing: %s", line)
        self._try(self._options.progress, lambda: [line])

    def event(self, kind, fields):
        """Tell an event: begin, step, end or failed; ``fields`` is a function without arguments that returns them."""
        self._try(self._options.events, lambda: [kind, plain({**self._common, **fields()})])

    def begin(self, generation, summary, plan):
        """
        A change is written down, and its first step is about to be done.

        :param generation: the number that it gets in the history, if that can be written; None for one that does not get there.
        """
        self._begun = time.monotonic()
        self._common = {"generation": generation, "who": self._options.who, "jid": self._options.jid}
        self.event("begin", lambda: {
            "summary": summary,
            "gpus": list(dict.fromkeys(address for part in plan.changing for address in part.addresses)),
            "steps": len(plan.steps),
            "seconds": round(plan.seconds, 2),
            "estimate": plan.estimate,
        })  # fmt: skip

    def end(self, result, outcome, change=None):
        """
        A change is over, one way or the other.

        :param result: :class:`.context.Result`; :param outcome: as the history tells it.
        :param change: :class:`.context.Change`, None where all that was done is an undo.
        """
        self.event("end" if result.ok else "failed", lambda: {
            "generation": result.generation or self._common.get("generation"),
            "result": outcome,
            "seconds": round(time.monotonic() - self._begun, 2),
            "changed": list(result.changes),
            "reboot": list(result.reboot),
            **({} if result.ok else _what_failed(result, change)),
        })  # fmt: skip

    def _try(self, listener, arguments):
        if listener is None:
            return
        try:
            listener(*arguments())
        except Exception:
            if not self._failed:
                log.warning("progress could not be told", exc_info=True)
            self._failed = True


def _what_failed(result, change):
    if change is None:
        return {"errors": {HOST: " ".join(result.errors)}, "undone": [], "left": []}
    entry = change.entry

    def covered(keys):
        return list(dict.fromkeys(address for key in keys for address in entry.covered(key) if address != HOST))

    affected, left = covered(change.affected()), covered(change.left)
    return {
        "errors": _errors(result, change),
        "undone": [address for address in affected if address not in left],
        "left": left,
    }


def _errors(result, change):
    """PCI address -> why it failed or was left as it is; what is not of one GPU under ``host``."""
    found = dict[str, list[str]]()
    for address, why in result.plan.blocked:
        found.setdefault(address, []).append(why)
    for key, err in change.failed.items():
        where = err.gpu or (HOST if key == ALL else change.entry.covered(key)[0])
        found.setdefault(where, []).append(str(err))
    told = {sentence for sentences in found.values() for sentence in sentences}
    if rest := [sentence for sentence in result.errors if sentence not in told]:
        found.setdefault(HOST, []).extend(rest)
    return {where: " ".join(sentences) for where, sentences in found.items()}


def plain(value):
    """The same as JSON and msgpack can have it, without what looks like a token, and of a length that a bus takes."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {plain(str(name)): plain(each) for name, each in list(value.items())[:_MANY]}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value[:_MANY]]
    text = secret.redacted(printable(str(value)))
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."
