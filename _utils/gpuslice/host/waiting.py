"""
What this process waits for, so that others who wait for it can be told: a call that does not come back, a program that does
not end.
"""

import threading

_guard = threading.RLock()
#: Key -> (since when, of time.monotonic(), what for).
_waits: dict = {}
_listener = None


def begins(key, words, since):
    """
    Something is waited for.

    :param key: for :func:`ends`; :param words: such as "GPU 0000:07:00.0: create ..."; :param since: of time.monotonic().
    """
    with _guard:
        _waits[key] = (since, words)
        _tell()


def ends(key):
    """What :func:`begins` told is over. It need not have been told."""
    with _guard:
        if _waits.pop(key, None):
            _tell()


def listen(listener):
    """
    Tell what is waited for longest, now and whenever that changes: (since when, what for), None for nothing.

    :param listener: called with it; None to tell nobody any more.
    """
    global _listener
    with _guard:
        _listener = listener
        _tell()


def _tell():
    if _listener:
        _listener(min(_waits.values()) if _waits else None)
