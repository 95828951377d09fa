"""
Limits of time for calls of this process that may never come back: a driver can wait inside the kernel, where nothing ends it.

Such a call is made in a thread that can be left behind. It keeps a file of the kernel or a library waiting and nothing else:
the run goes on without it, leaves that GPU alone until the call comes back, and can end, since the thread is a daemon. Only
where the thread waits without hearing signals does the process stay, as a zombie without files of its own (the lock is free);
what is known to wait so is asked by another process instead, see :mod:`gpuslice.drivers.bounded`.

Handing work to another thread costs some hundredths of a millisecond, so that a whole piece of work is handed over
(:meth:`Limits.within`), and each call in it has its own limit (:meth:`Limits.call`).
"""

import os
import queue
import threading
import time
from functools import partial

from gpuslice import errors
from gpuslice.host import waiting

#: Seconds for a call that only reads. A GPU that nobody uses may have to be started for it, which takes some seconds.
READ = 60.0
#: Seconds for a call that changes something; setting the MIG mode can reset the GPU, which takes up to half a minute.
CHANGE = 180.0
#: Seconds to begin a session with a library, for which the driver may have to start all GPUs, one after the other.
BEGIN = 180.0
#: Seconds between two looks at a call that has not come back.
_LOOK = 1.0
#: Seconds after which the next of several is begun though the one before it has not ended.
_NEXT = 0.25

ADVICE = (
    "Until it does, the GPU is left alone. End whatever uses it and see 'dmesg'; if it does not go on then, only a reboot of "
    "this host frees the GPU."
)


class Limits:
    """
    The limits of one run on one host, and what is known to hang there.

    :param scale: function that tells by how much every limit is multiplied, for simulated hosts.
    :param beside: limits of another run in this process: what hangs there is left alone here too.
    """

    def __init__(self, scale=lambda: 1.0, beside=None):
        self._scale, self._beside = scale, beside
        self._idle, self._pid = [], os.getpid()
        self._here = threading.local()
        # GPU, or the key of something else -> (error, worker whose call has not come back or None).
        self._hanging = {}

    def seconds(self, seconds):
        """A limit as it is on this host."""
        return seconds * self._scale()

    # -- what hangs ----------------------------------------------------------------------------------------------
    def refuse(self, gpu, key=None):
        """
        Raise errors.Unhealthy where an earlier call for this GPU (PCI address) has not come back.

        :param key: what it was remembered under where that is not the GPU.
        """
        if self._beside:
            self._beside.refuse(gpu, key)
        known, worker = self._hanging.get(gpu if key is None else key, (None, None))
        if known and (worker is None or worker.call):
            raise errors.Unhealthy(known.what, gpu, known.todo)

    def hangs(self, key, err, worker=None):
        """Remember why a GPU, or all that is asked under another key, is to be left alone: ``err``, which is returned."""
        self._hanging[key] = (err, worker)
        return err

    def left_behind(self):
        """Whether a call that was given up is still under way."""
        return any(worker and worker.call for _, worker in self._hanging.values())

    # -- work that can be left behind ----------------------------------------------------------------------------
    def within(self, work, *args, **kwargs):
        """
        Do a piece of work whose parts are calls with a limit, see :meth:`call`; work within work is the same piece.

        :return: what it returns; it raises what the work raises.
        :raises errors.Unhealthy: one of its calls has not come back in time; the work is left behind where it is.
        """
        if getattr(self._here, "worker", None):
            return work(*args, **kwargs)
        worker = self._worker()
        if worker is None:
            # No thread can be had: what has to be put back must be put back all the same.
            return work(*args, **kwargs)
        worker.tasks.put(partial(work, *args, **kwargs))
        answer, err = self._answer(worker)
        self._idle.append(worker)
        if err is not None:
            raise err
        return answer

    def call(self, seconds, gpu, doing, function, *args, key=None, **kwargs):
        """
        Make one call; outside of :meth:`within` it is a piece of work of its own.

        :param seconds: how long it may take; :param gpu: PCI address for the message; :param doing: completes "could not ...".
        :param key: of what can't be asked any more once it hangs, where that is not only the GPU.
        :raises errors.Unhealthy: as :meth:`within`, and at once when an earlier call for the GPU has not come back.
        """
        key = gpu if key is None else key
        self.refuse(gpu, key)
        return self.within(self._noted, (seconds, gpu, doing, key), function, args, kwargs)

    def side_by_side(self, work, each):
        """
        Do the same for each of several GPUs, so that a driver which answers for none of them is waited for once. One that answers
        is done with before the next begins; the next begins beside one that takes long.

        :param work: function of one of them, whose calls have a limit each.
        :return: functions without arguments, in the order of ``each``: one returns what the work for it returned, or raises what
            that raised.
        """
        pieces = [_Piece(partial(work, one)) for one in each]
        begun = [piece for piece in pieces[:-1] if piece.begin()]
        for piece in pieces:
            if piece not in begun:
                piece.do()
        for piece in begun:
            piece.join()
        return [piece.result for piece in pieces]

    def rest(self):
        """End the threads that wait for work; the next piece of work starts one again."""
        while self._idle:
            self._idle.pop().tasks.put(None)

    def _noted(self, about, function, args, kwargs):
        worker = getattr(self._here, "worker", None)
        if worker is None:
            return function(*args, **kwargs)
        outer, worker.call = worker.call, (time.monotonic(), *about)
        try:
            return function(*args, **kwargs)
        finally:
            worker.call = outer

    def _worker(self):
        """A thread that waits for work, None where none can be had."""
        if self._pid != os.getpid():
            # Threads are not copied by a fork.
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            pass
        worker = _Worker(self._here)
        try:
            worker.start()
        except RuntimeError:
            return None
        return worker

    def _answer(self, worker):
        """What the work came to, (answer, error)."""
        pause, told = self.seconds(_LOOK), False
        try:
            while True:
                try:
                    return worker.answers.get(timeout=pause)
                except queue.Empty:
                    told = self._look(worker) or told
        except BaseException:
            # It ends should it ever come back.
            worker.tasks.put(None)
            raise
        finally:
            if told:
                waiting.ends(worker)

    def _look(self, worker):
        """Whether others were told what the work waits for. Raises errors.Unhealthy when it has waited too long."""
        call = worker.call
        if call is None:
            return False
        since, seconds, gpu, doing, key = call
        if time.monotonic() - since < self.seconds(seconds):
            waiting.begins(worker, f"GPU {gpu}: {doing}" if gpu else doing, since)
            return True
        raise self.hangs(key, hanging(gpu, doing, seconds), worker)


class _Worker(threading.Thread):
    """
    A thread that does one piece of work after the other.

    :ivar call: the call that it is at: since when, seconds that it may take, GPU, what it is for, key of what hangs with it.
    """

    def __init__(self, here):
        super().__init__(name="gpu-slicing", daemon=True)
        self.tasks, self.answers = queue.SimpleQueue(), queue.SimpleQueue()
        self.call = None
        self._here = here

    def run(self):
        """Until it is given None for work."""
        self._here.worker = self
        while (work := self.tasks.get()) is not None:
            try:
                answer = (work(), None)
            except BaseException as err:  # it belongs to the one who waits for the work
                answer = (None, err)
            self.answers.put(answer)
            work = answer = None


class _Piece(threading.Thread):
    """One of several pieces of work that are done side by side, see :meth:`Limits.side_by_side`."""

    def __init__(self, work):
        super().__init__(name="gpu-slicing", daemon=True)
        self._work, self._answer, self._error = work, None, None

    def begin(self):
        """Begin it, and give it a moment to end. Returns whether that could be done."""
        try:
            self.start()
        except RuntimeError:
            # No thread can be had: one after the other it works as well.
            return False
        self.join(_NEXT)
        return True

    def run(self):
        """Do it in its own thread."""
        try:
            self.do()
        except BaseException as err:
            self._error = err

    def do(self):
        """Do it in this thread: what ends the process goes on to whoever runs it."""
        try:
            self._answer = self._work()
        except Exception as err:  # it belongs to the one who asks for the result
            self._error = err

    def result(self):
        """What it came to."""
        if self._error is not None:
            raise self._error
        return self._answer


def hanging(gpu, doing, seconds, who="the driver", why=""):
    """The error for a call that has not come back; parameters as of :meth:`Limits.call`, ``why`` a few words more."""
    return errors.Unhealthy(
        f"Could not {doing}: {who} has not answered within {seconds:g} s, and what it was asked for can't be taken back"
        f"{f' ({why})' if why else ''}.",
        gpu,
        ADVICE,
    )
