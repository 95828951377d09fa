"""
The lock of a host, for tests that want it while somebody else has it.
"""

import pytest

from gpuslice import errors
from gpuslice.records import lock


def refused_lock(state_dir, **options):
    """What one is told who wants the lock and doesn't get it; he waits for no time."""
    with pytest.raises(errors.LockHeld) as caught:
        with lock.held(str(state_dir), "me", patience=0, **options):
            pytest.fail("the lock was given twice")
    return str(caught.value)
