"""
Events on Salt's bus, sent by a thread of its own: a change neither waits for a bus that answers late nor fails with one that is
gone. What can't be sent is dropped, and the log says so once.
"""

import logging
import threading
from collections import deque

log = logging.getLogger(__name__)

#: Seconds that the end of a change waits for what is not sent yet; then the steps among it are dropped, and it waits three times
#: as long for the rest. A minion sends a hundred events in a second, but ``salt-call`` logs in at the master for each.
PATIENCE = 1.0
#: More that wait to be sent are not kept.
_MOST = 2000
#: After these nothing comes for a while.
_LAST = ("end", "failed", "quarantined", "released")


class Announcer:
    """
    Sends what :class:`gpuslice.rules.Options` calls ``events``. Called by one thread.

    :param send: function of (tag, fields) that sends one event; False says that it was not sent.
    :param tag: what stands before the kind of the event in its tag.
    """

    def __init__(self, send, tag, patience=PATIENCE):
        self._send, self._tag, self._patience = send, tag, patience
        self._unsent: deque[tuple[str, dict]] = deque()
        self._changed = threading.Condition()
        self._running = self._gone = False

    def __call__(self, kind, fields):
        """Send an event when the bus takes it; the last one of a change waits for those before it, for a bounded time."""
        with self._changed:
            if self._gone:
                return
            if len(self._unsent) < _MOST:
                self._unsent.append((kind, fields))
            if not self._running:
                # It ends with the process: a bus that never answers must not keep that from ending.
                threading.Thread(target=self._work, name="gpu slicing events", daemon=True).start()
                self._running = True
            self._changed.notify_all()
            if kind in _LAST:
                self._flush()

    def _flush(self):
        if self._drained(self._patience):
            return
        kept = [each for each in self._unsent if each[0] != "step"]
        log.info("%s events of steps were not sent: the event bus is slow", len(self._unsent) - len(kept))
        self._unsent = deque(kept)
        if not self._drained(3 * self._patience):
            self._give_up("it does not answer in time")

    def _drained(self, seconds):
        return self._changed.wait_for(lambda: self._gone or not self._running, seconds)

    def _give_up(self, why):
        if not self._gone:
            log.warning("events of this change are not sent: the event bus is not there (%s)", why)
        self._gone, self._running = True, False
        self._unsent.clear()
        self._changed.notify_all()

    def _work(self):
        """Send what is there; the thread ends when nothing is left, and the next event begins one anew."""
        while True:
            with self._changed:
                if self._gone or not self._unsent:
                    self._running = False
                    self._changed.notify_all()
                    return
                kind, fields = self._unsent.popleft()
            try:
                why = "it took nothing" if self._send(f"{self._tag}/{kind}", fields) is False else ""
            except Exception as err:
                why = f"{type(err).__name__}: {err}"
            if why:
                with self._changed:
                    self._give_up(why)
