"""Trying again what passes in a moment."""

import pytest

from gpuslice.sim.host import SimulatedHost


class Waiting(SimulatedHost):
    """A simulated host that notes for how long somebody waits, and does not."""

    def sleep(self, seconds):
        self.waited = [*getattr(self, "waited", ()), seconds]


@pytest.fixture
def host(tmp_path):
    path = tmp_path / "host.yaml"
    path.write_text("gpus: []\n", encoding="utf-8")
    return Waiting(path, tmp_path / "state")


def test_there_is_one_try_more_than_pauses_and_the_last_one_is_told(host):
    assert list(host.tries((0.1, 0.5))) == [False, False, True]
    assert host.waited == [0.1, 0.5]


def test_whoever_succeeds_waits_no_more(host):
    for number, last in enumerate(host.tries((0.1, 0.5, 2))):
        assert not last
        if number == 1:
            break
    assert host.waited == [0.1]


def test_without_pauses_there_is_one_try(host):
    assert list(host.tries(())) == [True]


def test_usual_pauses_are_short(host):
    tries = list(host.tries())
    assert (len(tries), sum(host.waited) < 2) == (4, True)
