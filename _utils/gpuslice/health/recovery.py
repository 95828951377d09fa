"""
What an NVIDIA driver asks to be done with a GPU, by the numbers of its field 230 and of its log (NVML's header,
``nvmlDeviceGpuRecoveryAction_t``; the last two have no more than a name there).
"""

from typing import NamedTuple

#: How a GPU is reset.
RESET = "Reset it when it is idle ('nvidia-smi --gpu-reset -i <address>') or reboot."
_REBOOT = "Drain the host and reboot it."


class Recovery(NamedTuple):
    """:ivar code: of the finding; :ivar words: what the driver asks for; :ivar todo: how that is done, as a sentence."""

    code: str
    words: str
    todo: str


#: Action -> what it is; 0 is none.
ACTIONS = {
    1: Recovery("nvidia-recovery-action-reset", "the driver asks for a GPU reset", RESET),
    2: Recovery("nvidia-recovery-action-reboot", "the driver asks for a reboot", _REBOOT),
    3: Recovery(
        "nvidia-recovery-action-drain-p2p",
        "the driver asks to drain peer-to-peer traffic",
        "End what uses it together with other GPUs, then reset it.",
    ),
    4: Recovery(
        "nvidia-recovery-action-drain-and-reset",
        "the driver asks to drain and reset the GPU",
        "End what runs on it, then reset it ('nvidia-smi --gpu-reset -i <address>').",
    ),
    5: Recovery(
        "nvidia-recovery-action-recover-imex",
        "the driver asks for an IMEX recovery",
        "Recover the IMEX domain; the cause may be another host of it.",
    ),
    6: Recovery("nvidia-recovery-action-bus-reset", "the driver asks for a reset of its bus", _REBOOT),
    7: Recovery("nvidia-recovery-action-system-reboot", "the driver asks for a reboot of the system", _REBOOT),
}


def of(action: int) -> Recovery:
    """What a number means."""
    other = Recovery("nvidia-recovery-action-other", f"the driver asks for recovery action {action}", "See NVML's documentation.")
    return ACTIONS.get(action, other)


def code_of(action: int) -> str:
    """The code of the finding of a number."""
    return of(action).code
