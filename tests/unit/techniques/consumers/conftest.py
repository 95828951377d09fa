"""What tests of consumers share."""

import pytest

from tests.support import hosts
from tests.support import served as wanted


@pytest.fixture
def served(simulated):
    """``served(files, consumers, sliced, **changes)``: a host on which consumers have slices, see :mod:`tests.support.served`."""

    def make(files=None, consumers=None, sliced=None, **changes):
        made = wanted.host(simulated, files, **changes)
        assert hosts.apply(made, wanted.pillar(consumers, sliced)).errors == []
        return made

    return make
