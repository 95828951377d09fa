"""
Signals that would end this process in the middle of a change.

The first one only asks: the running step ends, the change is undone (or closed, where only that is left), and the process ends
then, with the exit status of that signal. The second one ends it at once, as ``kill -9`` would; the next run repairs.
"""

import os
import signal
import threading
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds within which further signals count as the first one: whoever stops a service sends some to the process and to its
#: group, and the parent passes its own on.
_SAME = 1.0


class Signals:
    """
    A context in which the first signal is only taken note of.

    Handlers belong to the main thread; in any other there is nothing to catch, since signals never arrive there.

    :ivar number: the signal that arrived, None as long as none did.
    """

    def __init__(self):
        self.number = None
        self._arrived_at = 0.0
        self._former = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            # Whoever ignores a signal (nohup) goes on ignoring it; None stands for a handler that was not made in Python.
            former = {number: signal.getsignal(number) for number in SIGNALS}
            self._former = {number: known for number, known in former.items() if known not in (signal.SIG_IGN, None)}
            for number in self._former:
                signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_):
        for number, known in self._former.items():
            signal.signal(number, known)

    @property
    def words(self):
        """The signal that arrived, for people; "" for none."""
        return signal.Signals(self.number).name if self.number else ""

    def _arrived(self, number, _frame):
        if self.number is None:
            self.number, self._arrived_at = number, time.monotonic()
        elif time.monotonic() - self._arrived_at > _SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
