"""
Files of the kernel whose answer may never come, with a limit of time.

A driver that is asked to let a function go may wait for its users inside the kernel, where no signal reaches it: NVIDIA's does,
and so does VFIO. A thread that waits there keeps its whole process from ending, and a process that is waited for keeps the one
that waits. So a program of its own starts a second one that writes, and tells when that takes too long. What was asked for stays
with the kernel, which may carry it out later: the error says so, and nothing is asked of the same function again meanwhile.

While it waits it holds the lock of the function, which others then wait for that only read (``driver_override``, and
``sriov_numvfs`` since Linux 5.15): drivers/pci/pci-sysfs.c and drivers/pci/iov.c of Linux.
"""

import errno
import fcntl
import logging
import os
import sys
import time

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.host import limits
from gpuslice.host import waiting

log = logging.getLogger(__name__)

#: Seconds for a driver to let a function go or to take it. No public figure; a GPU that is shut down or started needs some.
PATIENCE = 60.0
#: Seconds for a driver to divide a GPU anew, which resets it.
DIVIDING = limits.CHANGE
#: Seconds for a file to be read that only waits where something hangs.
_LOOK = 10.0
#: Seconds for an earlier request to the same function to come back.
_TURN = 2.0
#: Where a file tells whether a request is under way, for each function.
LOCKS = "/run/gpu-slicing/writing"

#: ``<path> <text> <lock> <seconds> <turn>``; without a text it reads. Says ``done`` and what was read, ``errno <number>``,
#: ``hangs <pid>``, or ``turn <pid>`` when an earlier one is still at it. The process that asks the kernel holds the lock as
#: long as it lives, and nothing that anybody waits for.
_PROGRAM = """
import fcntl, os, select, sys, time
path, text, lock, seconds, turn = sys.argv[1:]
told, tell = os.pipe()
writer = os.fork()
if not writer:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    answer, held = "", -1
    try:
        try:
            os.makedirs(os.path.dirname(lock), mode=0o755, exist_ok=True)
            held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            pass
        end = time.monotonic() + float(turn)
        while held >= 0:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(held, 0)
                os.pwrite(held, str(os.getpid()).encode(), 0)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    answer = "turn " + (os.pread(held, 20, 0).decode() or "0")
                    break
                time.sleep(0.05)
        if not answer:
            os.write(tell, b".")
            if text:
                os.write(os.open(path, os.O_WRONLY), text.encode())
                answer = "done"
            else:
                answer = "done " + os.read(os.open(path, os.O_RDONLY), 4096).decode()
    except OSError as err:
        answer = "errno %d" % (err.errno or 5)
    finally:
        os.write(tell, answer.encode())
        os._exit(0)
os.close(tell)
answer = os.read(told, 1).decode()
if answer == ".":
    ready = select.select([told], [], [], float(seconds))[0]
    answer = os.read(told, 4999).decode() if ready else "hangs %d" % writer
else:
    answer += os.read(told, 4999).decode()
print(answer)
"""


class _Hangs(Exception):
    """The kernel does not answer; its argument says who waits in it, in words."""


def write(host, gpu, path, value, doing, meanings=None, seconds=PATIENCE, locks=LOCKS, there=None):
    """
    As :func:`gpuslice.drivers.kernel.write`, for what a driver may take long for or never do; costs some ten milliseconds.

    :param gpu: PCI address of the function that is written to; only one write to it is under way at any time.
    :param doing: completes "could not ..."; :param seconds: how long the kernel may take.
    :param locks: directory for a file that tells whether an earlier write is still under way.
    :param there: function that tells whether the hardware is as asked: it is believed rather than an errno.
    :raises errors.Unhealthy: it takes longer; the request stays with the kernel. Others as ``kernel.write``.
    """
    key = object()
    waiting.begins(key, f"GPU {gpu}: {doing}", time.monotonic())
    try:
        _ask(host, gpu, doing, path, f"{value}", seconds, locks)
    except _Hangs as err:
        raise limits.hanging(gpu, doing, seconds, "the kernel", err) from err
    except OSError as err:
        found = kernel.failure(err, gpu, doing, meanings)
        # Of what another tool made instead it has been said so.
        if there is None or isinstance(found, errors.ForeignChange) or not there():
            raise found from err
        log.warning("%s It was done all the same.", found.what)
    finally:
        waiting.ends(key)


def text(host, gpu, path, seconds=_LOOK, locks=LOCKS):
    """
    As :func:`gpuslice.drivers.kernel.text`, but gives up after some time; it takes some hundredths of a second more.

    :raises errors.Unhealthy: it takes longer: somebody asked the driver for something that it does not do.
    """
    try:
        return _ask(host, gpu, f"read {path}", path, "", seconds, locks).strip()
    except _Hangs as err:
        raise _untold(gpu, path, err) from err
    except OSError:
        return None


def refuse_if_waiting(host, gpu, locks=LOCKS):
    """
    Raise errors.Unhealthy where the GPU hangs, in this run or since an earlier one wrote to it: whoever only reads a file of it
    may wait as well, and for ever.
    """
    host.limits.refuse(gpu)
    if host.simulated:
        return
    try:
        held = os.open(f"{locks}/{gpu}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _wait_for(held, gpu)
    finally:
        os.close(held)


def _wait_for(held, gpu):
    """A writer whose run was killed ends in a moment where nothing hangs."""
    end = time.monotonic() + _TURN
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError as err:
            if time.monotonic() >= end:
                waiting = os.pread(held, 20, 0).decode(errors="replace") or "0"
                raise _untold(gpu, "what the GPU is like", f"process {waiting} still waits in it") from err
        time.sleep(0.05)


def _untold(gpu, what, why):
    return errors.Unhealthy(
        f"The kernel does not tell {what}: somebody has asked for something that its driver does not end ({why}).",
        gpu,
        limits.ADVICE,
    )


def _ask(host, gpu, doing, path, text, seconds, locks):
    """Write in another process, or read where there is no text; returns what was read. Raises OSError as the kernel answers."""
    if host.simulated or not sys.executable:
        return _in_thread(host, gpu, doing, path, text, seconds)
    argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, path, text, f"{locks}/{gpu}", f"{seconds}", f"{_TURN}"]
    try:
        done = host.run(argv, timeout=seconds + 2 * _TURN + 10)
    except errors.ToolFailed as err:
        raise _Hangs("nor has the program that asked it") from err
    word, _, number = done.stdout.strip().partition(" ")
    if word == "hangs":
        raise _Hangs(f"process {number} waits in it")
    if word == "turn":
        raise _Hangs(f"process {number} still waits in it, from an earlier attempt")
    if word == "errno":
        raise OSError(int(number), os.strerror(int(number)), path)
    if word != "done":
        raise OSError(errno.EIO, f"the program that asks failed, {' '.join(done.stderr.split())[-200:]}", path)
    return number


def _in_thread(host, gpu, doing, path, text, seconds):
    """Nothing waits where no signal is heard in a simulated kernel, which also answers ETIMEDOUT for what would."""
    try:
        return host.limits.call(seconds, gpu, doing, *((host.write, path, text) if text else (host.read, path)))
    except TimeoutError as err:
        if not host.simulated:
            raise
        raise _Hangs("the driver waits for its users") from err
