"""
What NVIDIA's Xid errors mean, and what is to be done about each.

Source: NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors); names of 166 and later are those of the open kernel modules
(``nverror.h``). Where tools disagree on a number (13, 31, 43, 62, 94, 109), a site can say otherwise in its pillar.
"""

from typing import NamedTuple

#: What an Xid does to the status of what it is told of, as the pillar has it too: it is no news at all; it is counted, and only
#: many of them mean anything; the programs that were hit have to be started anew; it is worth a look; something comes into force
#: with the next reset; the GPU has to be reset; the host has to be booted; the GPU is gone.
TREATMENTS = ("ignore", "count", "restart_program", "look", "reset_when_idle", "reset", "reboot", "lost")


class Xid(NamedTuple):
    """
    :ivar meaning: in a few words; :ivar treatment: one of :data:`TREATMENTS`.
    :ivar certain: whether it stands although the driver, which tells what it asks for, asks for nothing.
    """

    meaning: str
    treatment: str
    certain: bool = False


def _same(meaning, treatment, *numbers):
    return dict.fromkeys(numbers, Xid(meaning, treatment))


XIDS = {
    **_same("the GPU has stopped to work for a program", "count", 8, 43),
    **_same("a program sent corrupt commands", "count", 11, 25, 32, 69, 80),
    13: Xid("exception in the graphics engine, most often of a program", "count"),
    31: Xid("a program used memory that is not its own", "count"),
    **_same("complaint of the driver's firmware", "ignore", 37, 38, 66, 67),
    **_same("fault of a copy engine", "count", 39, 40, 41, *range(70, 73), *range(75, 78), 85, *range(126, 136)),
    **_same("fault of a video, JPEG or optical flow engine", "count", 60, 68, 82, 83, 84, 86, 88, 89, *range(96, 106), 139, 142),
    **_same("follows another error", "ignore", 44, 45),
    **_same("a microcontroller of the GPU has stopped", "reset", 46, 62),
    169: Xid("the microcontroller for security has stopped", "reset"),
    48: Xid("memory error that could not be corrected", "reset"),
    54: Xid("auxiliary power is missing", "look", True),
    63: Xid("a memory row is to be remapped at the next reset", "reset_when_idle", True),
    64: Xid("that a memory row is to be remapped could not be recorded", "reset", True),
    74: Xid("NVLink error", "look"),
    78: Xid("a vGPU could not be started", "look"),
    79: Xid("the GPU has fallen off the bus", "lost", True),
    **_same("many corrected errors, or wear of the board's own memory", "ignore", 92, 93),
    94: Xid("contained memory error: the programs that met it end", "restart_program", True),
    95: Xid("memory error that was not contained", "reset"),
    109: Xid("time limit of a context switch", "reset"),
    110: Xid("security fault", "reset"),
    **_same("the GPU's system processor does not answer", "reset", 119, 120),
    **_same("for information", "ignore", 106, 107, 121, 137, 141, 151, 152, 153, 157, 159, 160, 161, 162, 163, 164, 165),
    **_same("a link could not be trained", "reset", 136, 155),
    140: Xid("memory error that was not recovered from", "reset"),
    **_same("the GPU could not be started, or its time limit is over", "reset", 143, 158),
    **_same("NVLink error of the fifth generation", "look", *range(144, 151)),
    154: Xid("what the driver asks for has changed", "ignore"),
    156: Xid("a part of the GPU was taken out of use", "reset"),
    **_same("secure NVLink", "look", 166, 170),
    **_same("fatal PCIe error, or less memory than before", "look", 167, 168),
    **_same("where a memory error was", "ignore", 171, 172),
    **_same("error of a link or of the memory subsystem", "look", 173, 175, 176),
}

#: Of a number that stands nowhere.
UNKNOWN = Xid("this version does not know this number", "look")
