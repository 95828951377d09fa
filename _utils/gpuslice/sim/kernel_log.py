"""
The log of the simulated kernel: a ring of records that begins anew at each boot.
"""

import time

from gpuslice.sim import devices

#: Records that the ring has: the oldest ones make room.
RING = 400
#: First driver branch that tells of recovery actions.
_TELLS_ACTIONS = 570
#: What the driver calls its recovery actions in the log.
_ACTIONS = {
    "none": "None", "gpu_reset": "GPU Reset Required", "node_reboot": "Node Reboot Required", "drain_p2p": "Drain P2P",
    "drain_and_reset": "Drain and Reset", "recover_imex": "Recover IMEX Domain", "bus_reset": "Bus Reset",
    "system_reboot": "System Reboot", "unheard_of": "Unknown",
}  # fmt: skip


def say(state, text):
    """Add a record, of the time that it is on this machine."""
    log = state.setdefault("kernel_log", {"next": 0, "records": []})
    log["records"] = [*log["records"], [log["next"], time.monotonic() + state.get("passed", 0), text]][-RING:]
    log["next"] += 1


def records(state):
    """The records as ``/dev/kmsg`` gives them."""
    for number, seconds, text in state.get("kernel_log", {"records": []})["records"]:
        yield f"4,{number},{int(seconds * 1e6)},-;".encode() + text.encode().replace(b"\n", rb"\x0a") + b"\n"


def clear(state):
    """The machine boots: numbers begin anew."""
    state.pop("kernel_log", None)


def set_recovery_action(state, address, action):
    """What the driver asks for from now on: it says so in its log, where its branch does."""
    health = state["gpus"][address]["health"]
    before, health["recovery_action"] = health["recovery_action"], action
    if before == action or state["host"]["nvml_level"] < _TELLS_ACTIONS:
        return
    codes = devices.RECOVERY_ACTIONS
    change = f"0x{codes[before]:x} ({_ACTIONS[before]}) to 0x{codes[action]:x} ({_ACTIONS[action]})"
    say(state, f"NVRM: Xid (PCI:{address.rpartition('.')[0]}): 154, GPU recovery action changed from {change}")
