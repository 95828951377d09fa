"""The kernel's log, as its device gives it."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.host import kernel_log
from gpuslice.host.real import RealHost


def of(*records):
    return kernel_log.of_records(record.encode() for record in records)


def test_only_what_may_tell_of_a_gpu_has_a_text_and_all_is_counted():
    log = of("6,10,1500000,-;usb 1-1: new device\n SUBSYSTEM=usb\n", "3,11,2500000,-;NVRM: Xid (PCI:0000:1b:00): 79, x\n KEY=v\n")
    assert log == (10, 11, (kernel_log.Line(11, 2.5, "NVRM: Xid (PCI:0000:1b:00): 79, x"),))


def test_what_a_program_wrote_into_it_is_not_the_kernels_word():
    """A record of a program has a facility in its priority: 8 and more."""
    assert of("11,5,1,-;NVRM: Xid (PCI:0000:1b:00): 79, x\n") == (5, 5, ())


@pytest.mark.parametrize("record", ["", "no semicolon", "4;x", "a,b,c;NVRM: x", "4,5,x,-;NVRM: Xid", ";;;", "4,-5,6,-;NVRM"])
def test_a_record_of_another_form_is_left_out(record):
    assert of(record).lines == ()


@given(st.lists(st.binary()))
def test_no_record_breaks_it(records):
    kernel_log.of_records(records)


def test_it_is_not_waited_for_and_one_that_was_overwritten_is_skipped(monkeypatch, tmp_path):
    """The kernel's own device can't be made to overrun here: a pipe stands for it, whose reads fail as its do."""
    real, reads = os.read, [errno.EPIPE]

    def read(handle, size):
        if reads:
            raise OSError(reads.pop(), "overrun")
        return real(handle, size)

    path = tmp_path / "kmsg"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, b"4,7,1000000,-;NVRM: Xid (PCI:0000:1b:00): 63, x\n")
    monkeypatch.setattr(os, "read", read)
    log = kernel_log.read(str(path))
    os.close(writer)
    assert (log.first, [line.number for line in log.lines]) == (7, [7]) and reads == []


def test_the_log_of_this_machine_can_be_read_or_its_absence_is_an_error():
    try:
        log = RealHost("/nowhere").kernel_log()
    except OSError as err:
        assert err.errno in (errno.ENOENT, errno.EPERM, errno.EACCES)
        return
    assert -1 <= log.first <= log.last


def test_numbers_that_no_kernel_has_are_left_out():
    long = b"9" * 5000
    odd = [b"4,%s,1,-;NVRM: x" % long, b"4,5,%s,-;NVRM: x" % long, b"4,-1,2,-;NVRM: x", b"4,\xb2,2,-;NVRM: x", b";;;", b""]
    assert kernel_log.of_records(odd) == kernel_log.NOTHING
