"""
Hosts that the whole suite shares: each is made once, and copied for who changes it.
"""

import itertools

import pytest

from tests.contract import house
from tests.contract import pairs


@pytest.fixture(scope="session")
def untouched(tmp_path_factory):
    """``untouched(host, few)``: an example host as it is described. Not to be changed."""
    made = {}

    def get(host, few=False):
        if (host, few) not in made:
            found = made[host, few] = pairs.place(tmp_path_factory.mktemp(host), host, few)
            assert found.host.state()
        return made[host, few]

    return get


@pytest.fixture(scope="session")
def sliced(tmp_path_factory, untouched):
    """``sliced(pair, few)``: a host after its wish was applied. Not to be changed."""
    made = {}

    def get(pair, few=False):
        if (pair, few) not in made:
            found = pairs.copied(untouched(pair[0], few), tmp_path_factory.mktemp("sliced") / "state")
            result = house.apply(found, pairs.pillar(pair, few))
            assert result.ok and not result.plan.empty, result.errors
            made[pair, few] = found
        return made[pair, few]

    return get


@pytest.fixture
def copy(tmp_path):
    """``copy(place)``: a host of the test's own that is as another one is now."""
    numbers = itertools.count()
    return lambda place: pairs.copied(place, tmp_path / f"copy{next(numbers)}")
