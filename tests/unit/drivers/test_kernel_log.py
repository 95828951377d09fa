"""What is new in the kernel's log since the last look."""

import pytest

from gpuslice.drivers.kernel_log import Cursor
from gpuslice.drivers.kernel_log import since
from gpuslice.sim import kernel_log
from gpuslice.sim.host import SimulatedHost

LINE = "NVRM: Xid (PCI:0000:07:00): 63, line {}"


@pytest.fixture
def host(tmp_path):
    path = tmp_path / "box.yaml"
    path.write_text('gpus: [{model: a100-40gb, address: "0000:07:00.0"}]\n')
    return SimulatedHost(path, tmp_path / "state")


def say(host, *numbers):
    for number in numbers:
        host.say(LINE.format(number))


def texts(news):
    return [line.text for line in news.lines]


def test_the_first_look_sees_all_that_is_left_and_the_next_one_what_is_new(host):
    say(host, 1, 2)
    first = since(host, None)
    assert texts(first) == [LINE.format(1), LINE.format(2)] and not first.lost
    say(host, 3)
    second = since(host, first.cursor)
    assert texts(second) == [LINE.format(3)] and not second.lost
    assert texts(since(host, second.cursor)) == []


def test_numbers_begin_anew_with_a_boot(host):
    say(host, *range(5))
    cursor = since(host, None).cursor
    host.reboot()
    say(host, 9)
    news = since(host, cursor)
    assert texts(news) == [LINE.format(9)] and not news.lost and news.cursor.boot == host.boot_id() != cursor.boot


def test_a_log_that_was_overwritten_between_two_looks_is_told(host):
    say(host, 0)
    cursor = since(host, None).cursor
    say(host, *range(1, kernel_log.RING + 1))
    assert not since(host, cursor).lost
    say(host, 0)
    news = since(host, cursor)
    assert news.lost and len(news.lines) == kernel_log.RING
    # Nothing is known of what was there before the first look, and nothing is said of it.
    assert not since(host, None).lost


def test_a_log_that_began_anew_without_a_boot_is_read_from_its_beginning(host):
    say(host, 0)
    assert texts(since(host, Cursor(host.boot_id(), 5000))) == [LINE.format(0)]


def test_a_log_that_can_not_be_read_is_told_and_the_cursor_stays(host):
    say(host, 0)
    cursor = since(host, None).cursor
    host.add_fault({"call": "kernel_log", "error": "EPERM"})
    news = since(host, cursor)
    assert news == ((), cursor, False, news.unread) and news.unread == "Operation not permitted"
