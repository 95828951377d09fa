"""What tests of records share."""

import pytest


@pytest.fixture
def place(tmp_path):
    """A state directory that is not there yet."""
    return tmp_path / "state"
