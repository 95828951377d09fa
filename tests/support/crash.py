"""
What tests share that kill a process in the middle of its work.
"""

import os
import sys

from tests.support.hosts import apply


def in_child(work):
    """Do ``work()`` in a process of its own, which a fault may kill; returns the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            sys.stdout.flush()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def apply_in_child(host, wanted):
    """:func:`~tests.support.hosts.apply` in a process of its own; returns what :func:`in_child` does."""
    return in_child(lambda: apply(host, wanted))
