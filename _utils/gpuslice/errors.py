"""
One class for each failure that a user can act on.

A message is a sentence (or a few) that names the GPU by PCI address, what was wanted, what is, and what to do next. It is
shown to users as it stands, so it never carries a traceback, an internal name or a secret.
"""

from gpuslice import secret
from gpuslice.printable import printable_lines


def _shown(text):
    return secret.redacted(printable_lines(text))


class GpuSliceError(Exception):
    """
    Base of all errors of the engine.

    :param what: what was wanted and what is, as a sentence.
    :param gpu: PCI address of the GPU concerned, or "" for the host.
    :param todo: what the user can do next, as a sentence.
    """

    def __init__(self, what, gpu="", todo=""):
        # A message may carry what a user chose and no door looked at, such as a name in a file, or a secret in the wrong place.
        self.what = _shown(what)
        self.gpu = gpu
        self.todo = _shown(todo)
        super().__init__(str(self))

    def __str__(self):
        place = f"GPU {self.gpu}: " if self.gpu and f"GPU {self.gpu}" not in self.what else ""
        return " ".join(part for part in (place + self.what, self.todo) if part)

    def __reduce__(self):
        return (type(self), (self.what, self.gpu, self.todo))


class PolicyError(GpuSliceError):
    """The pillar (or an argument) is wrong. ``mistakes`` lists every one of them as 'path: what is wrong'."""

    def __init__(self, what, gpu="", todo="", mistakes=()):
        self.mistakes = [_shown(line) for line in mistakes]
        super().__init__(what, gpu, todo)

    def __reduce__(self):
        return (type(self), (self.what, self.gpu, self.todo, tuple(self.mistakes)))


def of_arguments(err, section):
    """
    A :class:`PolicyError` of arguments that were checked as the pillar's: they are called by their own names.

    :param section: pillar path below which they were put.
    """
    told = [line.removeprefix(f"{section}:") for line in err.mistakes or [str(err)]]
    return PolicyError(" ".join(told), mistakes=told)


class DeviceNotFound(GpuSliceError):
    """A GPU was named that this host does not have."""


class Unsupported(GpuSliceError):
    """The hardware, its driver or this environment can't do it; the message says why."""


class ProfileMismatch(GpuSliceError):
    """A profile that this GPU does not have, or more of them than fit."""


class ResourceConflict(GpuSliceError):
    """Something in use would have to go. ``holders`` lists who holds it."""

    def __init__(self, what, gpu="", todo="", holders=()):
        self.holders = list(holders)
        super().__init__(what, gpu, todo)

    def __reduce__(self):
        return (type(self), (self.what, self.gpu, self.todo, tuple(self.holders)))


#: What drivers and the kernel say where they name nobody.
IN_USE = "it is in use"


class InUse(ResourceConflict):
    """
    Driver or kernel answered a step with "in use".

    ``users`` are the words of the message that stand for the users, whose names may take their place; "" where there are none.
    """

    def __init__(self, what, gpu="", todo="", holders=(), users=""):
        self.users = users
        super().__init__(what, gpu, todo, holders)

    def __reduce__(self):
        return (type(self), (self.what, self.gpu, self.todo, tuple(self.holders), self.users))


class ModeChangePending(GpuSliceError):
    """A mode change needs a reset or a reboot that was not possible or not allowed."""


class ValidationFailed(GpuSliceError):
    """The hardware was read again after a change and is not what was wanted."""


class Unhealthy(GpuSliceError):
    """A GPU is lost, owes a reset, or has hardware errors: it is not sliced in this condition."""


class Deferred(GpuSliceError):
    """A change is wanted, and it is not yet the time for it: it waits for the window of maintenance."""


class ForeignChange(GpuSliceError):
    """Somebody else changed the GPU between the plan and its execution."""


class Owned(GpuSliceError):
    """Somebody else on the host sets what would change, and nobody has said that they agree."""


class HookFailed(GpuSliceError):
    """What a site has run before a change failed, so that the change was not begun."""


class StepFailed(GpuSliceError):
    """A step of a plan failed."""


class RollbackFailed(GpuSliceError):
    """A step failed, and undoing what was done failed too; the message says exactly what is left."""


class LockHeld(GpuSliceError):
    """Another change is going on on this host; the message names who does it."""


class JournalDamaged(GpuSliceError):
    """The record of an unfinished change can't be read."""


class StateDirUnusable(GpuSliceError):
    """The state directory can't be written (permissions, full disk)."""


class NewerFormat(StateDirUnusable):
    """A file of the state directory was written by a newer version of the engine."""


class Several(GpuSliceError):
    """
    GPUs of a group can't be planned. Never shown as it is: who plans takes it apart.

    :ivar errors: (PCI address, error) of each.
    """

    def __init__(self, errors):
        self.errors = list(errors)
        super().__init__(" ".join(str(err) for _, err in self.errors))

    def __reduce__(self):
        return (type(self), (self.errors,))


class ToolMissing(GpuSliceError):
    """A program that was asked for is not installed."""


class ToolFailed(GpuSliceError):
    """A program was run and failed, or printed what it should not."""


class ToolHangs(ToolFailed):
    """A program was run and has not ended in time; it was killed, or waits where it can't be."""


class DriverError(GpuSliceError):
    """The vendor's driver or library refused a call."""


class DriverMissing(DriverError):
    """No driver is loaded for the GPU, or its user library is not installed."""


class DriverMismatch(DriverError):
    """The loaded kernel driver and the user library have different versions."""


class PermissionDenied(DriverError):
    """The call needs root."""


class RebootNeeded(ModeChangePending):
    """A mode change was accepted, but this host can't reset the GPU: it comes into force at the next reboot."""


class Interrupted(SystemExit):
    """
    A signal asked the process to end. What was going on was ended whole first; the process ends now, with the exit status that
    shells give this signal. No error of the engine: nothing may go on because somebody caught it.

    :ivar number: the signal; :ivar what: what was done, as sentences.
    """

    def __init__(self, number, what):
        self.number, self.what = number, what
        super().__init__(128 + number)


def could_not(kind, doing, why, gpu, todo):
    """The error of a class that a table of answers has for something that could not be done."""
    more = {"users": why} if kind is InUse and why == IN_USE else {}
    return kind(f"Could not {doing}: {why}.", gpu, todo, **more)


def with_more(err, sentence):
    """The same error with another sentence at the end of what to do; for what happened before it that must not be lost."""
    kind, (what, gpu, todo, *more) = err.__reduce__()
    return kind(what, gpu, f"{todo} {sentence}".strip(), *more)
