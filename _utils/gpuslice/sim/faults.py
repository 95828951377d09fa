"""
Faults: what goes wrong on a simulated host, and when.

A fault says which calls it concerns and what it does. ``nth`` and ``times`` count over all processes, and a fault that was
consumed stays consumed, also after it killed the process: the counter is saved before the effect.

=========  =========================================================================================================
call       name of the function or operation: an NVML function, ``run``, ``write``, ``read_bytes``, ``gpu_clients``,
           ``store_write``, ``store_append``, ``store_remove``, ``kernel_log``, ``end_process``
gpu        only calls that concern this GPU (PCI address)
nth        the first matching call that it hits, counted from 1 (1)
times      how many calls it hits from there on; 0: all of them (1)
=========  =========================================================================================================

Effects, of which one fault may have several:

=========  =========================================================================================================
foreign    list of ``{gpu, action, profile, start, enabled}``: another tool changes a GPU at this moment; the actions are
           create_gi (with a compute instance), destroy_gi, set_mode and create_vgpu (``profile`` is the name of the type; on
           the first free virtual function)
lost       true: the GPU of the call (or ``gpu``) falls off the bus: GPU_IS_LOST from this call on
kill       ``before`` or ``after``: this process gets SIGKILL before the call does anything, or when it is done
error      the call fails: ``NVML_ERROR_UNKNOWN`` and its kin for NVML, ``ENOSPC``, ``EIO``, ... for files and programs
returns    an NVML error name that the call returns instead of raising, as nvmlDeviceSetMigMode does
late       as error, but once the work is done: the call, or the program by its exit status, says no, the hardware says yes
hang       seconds for which the call waits in the driver before it does its work: it does it also when its caller has given up,
           but for a program, which is killed
elsewhere  a memory slice where the driver makes an instance, not where it was asked to (NVML's create functions with a
           placement), or what it takes a write for, such as the number of another vGPU type
signal     ``SIGINT``, ``SIGTERM`` or ``SIGHUP``: this process gets that signal before the call does anything; the call goes on
unexpected true: the call raises something that nobody documents (RuntimeError)
lie        true: the call answers that it succeeded and does nothing
=========  =========================================================================================================
"""

import errno

from gpuslice.sim.mistakes import normal_address

KEYS = (
    "call", "gpu", "nth", "times", "match",
    "error", "returns", "kill", "lost", "lie", "foreign", "late", "hang", "elsewhere", "signal", "unexpected",
)  # fmt: skip
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
ACTIONS = ("create_gi", "destroy_gi", "set_mode", "create_vgpu")
_MATCH = ("call", "gpu", "nth", "times")
_EFFECTS = ("error", "returns", "kill", "lost", "lie", "foreign", "late", "hang", "elsewhere", "signal", "unexpected")

#: NVML's error codes by name, so that a description can be checked without pynvml.
NVML_CODES = {
    "NVML_ERROR_UNINITIALIZED": 1,
    "NVML_ERROR_INVALID_ARGUMENT": 2,
    "NVML_ERROR_NOT_SUPPORTED": 3,
    "NVML_ERROR_NO_PERMISSION": 4,
    "NVML_ERROR_NOT_FOUND": 6,
    "NVML_ERROR_INSUFFICIENT_SIZE": 7,
    "NVML_ERROR_DRIVER_NOT_LOADED": 9,
    "NVML_ERROR_TIMEOUT": 10,
    "NVML_ERROR_IRQ_ISSUE": 11,
    "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
    "NVML_ERROR_FUNCTION_NOT_FOUND": 13,
    "NVML_ERROR_CORRUPTED_INFOROM": 14,
    "NVML_ERROR_GPU_IS_LOST": 15,
    "NVML_ERROR_RESET_REQUIRED": 16,
    "NVML_ERROR_OPERATING_SYSTEM": 17,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": 18,
    "NVML_ERROR_IN_USE": 19,
    "NVML_ERROR_MEMORY": 20,
    "NVML_ERROR_NO_DATA": 21,
    "NVML_ERROR_INSUFFICIENT_RESOURCES": 23,
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": 25,
    "NVML_ERROR_DEPRECATED": 26,
    "NVML_ERROR_NOT_READY": 27,
    "NVML_ERROR_GPU_NOT_FOUND": 28,
    "NVML_ERROR_INVALID_STATE": 29,
    "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED": 30,
    "NVML_ERROR_UNKNOWN": 999,
}
_ERRNOS = {name: number for number, name in errno.errorcode.items()}


def parse(raw, path, known, mistakes):
    """
    Check one fault.

    :param known: the PCI addresses of the host's GPUs.
    :param mistakes: a :class:`gpuslice.sim.mistakes.Mistakes` that collects what is wrong.
    :return: the fault with every key, and its counter ``seen`` at 0.
    """
    raw = dict(mistakes.mapping(raw, path, KEYS))
    raw.update(mistakes.mapping(raw.pop("match", None), f"{path}.match", _MATCH))
    call = mistakes.take(raw, path, "call", str, "")
    if not call:
        mistakes.note(f"{path}.call", "is missing")
    if not any(raw.get(effect) not in (None, False, "", []) for effect in _EFFECTS):
        mistakes.note(path, f"has no effect; give one of {', '.join(_EFFECTS)}")
    fault = {
        "call": call,
        "gpu": _gpu(raw, path, known, mistakes),
        "nth": mistakes.take(raw, path, "nth", int, 1),
        "times": mistakes.take(raw, path, "times", int, 1),
        "error": mistakes.take(raw, path, "error", str, ""),
        "returns": mistakes.take(raw, path, "returns", str, "", tuple(NVML_CODES)),
        "kill": mistakes.take(raw, path, "kill", str, "", ("before", "after")),
        "lost": mistakes.take(raw, path, "lost", bool, False),
        "lie": mistakes.take(raw, path, "lie", bool, False),
        "late": mistakes.take(raw, path, "late", str, ""),
        "hang": mistakes.take(raw, path, "hang", (int, float), 0),
        "elsewhere": mistakes.take(raw, path, "elsewhere", int, None),
        "signal": mistakes.take(raw, path, "signal", str, "", SIGNALS),
        "unexpected": mistakes.take(raw, path, "unexpected", bool, False),
        "foreign": [
            _foreign(entry, f"{path}.foreign[{n}]", known, mistakes)
            for n, entry in enumerate(mistakes.listing(raw.get("foreign"), f"{path}.foreign"))
        ],
        "seen": 0,
    }
    if fault["elsewhere"] is not None and call != "write" and not call.endswith("WithPlacement"):
        mistakes.note(f"{path}.elsewhere", "is for write and for NVML functions with a placement")
    names = NVML_CODES if call.startswith("nvml") else _ERRNOS
    for key in ("error", "late"):
        if fault[key] and fault[key] not in names:
            what = "an NVML error such as NVML_ERROR_UNKNOWN" if names is NVML_CODES else "an errno such as ENOSPC"
            mistakes.note(f"{path}.{key}", f"{fault[key]!r} is not {what}")
    return fault


def _gpu(raw, path, known, mistakes):
    if raw.get("gpu") is None:
        return ""
    address = normal_address(raw["gpu"])
    if address not in known:
        mistakes.note(f"{path}.gpu", f"{raw['gpu']!r} is no GPU of this host")
    return address


def _foreign(raw, path, known, mistakes):
    raw = mistakes.mapping(raw, path, ("gpu", "action", "profile", "start", "enabled"))
    if raw.get("action") is None:
        mistakes.note(f"{path}.action", "is missing")
    return {
        "gpu": _gpu(raw, path, known, mistakes),
        "action": mistakes.take(raw, path, "action", str, "", ACTIONS),
        "profile": mistakes.take(raw, path, "profile", str, ""),
        "start": mistakes.take(raw, path, "start", int, None),
        "enabled": mistakes.take(raw, path, "enabled", bool, True),
    }


def errno_of(name):
    """The number of an errno name."""
    return _ERRNOS[name]


def concerns(fault, call, gpu):
    """Whether a call is one that the fault counts."""
    return fault["call"] == call and (not fault["gpu"] or fault["gpu"] == gpu)


def spent(fault):
    """Whether a fault can't hit any more."""
    return bool(fault["times"]) and fault["seen"] >= fault["nth"] + fault["times"] - 1


def count(state, call, gpu):
    """
    Count a call, and say what hits it.

    :param state: the machine's state, inside a change.
    :return: the faults that hit this very call, in the order of the list.
    """
    hits = []
    for fault in state["faults"]:
        if not concerns(fault, call, gpu) or spent(fault):
            continue
        fault["seen"] += 1
        if fault["seen"] >= fault["nth"]:
            hits.append(fault)
    return hits
