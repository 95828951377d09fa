"""
What came of trying a GPU: as data, and as a text for people. Nothing of it tells which machine it was: no serial number, no UUID,
no name of the host, and no PCI address.
"""

import json
import os
import platform
import re
import time

import gpuslice
from gpuslice import kinds

FORMAT = 1
_NOT = "not tried"
_UUID = re.compile(r"(?:[A-Z]+-)?\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b(?:/\d+/\d+)?")
_PCI = re.compile(r"\b(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]\b")
#: Who uses something, as messages tell it: programs and units have names that people chose.
_PROCESS = re.compile(r"pid \d+ \([^)]*\)")


def of_gpu(host, gpu):
    """What the report says of the GPU and the machine."""
    return {
        "format": FORMAT,
        "engine": gpuslice.__version__,
        "simulated": host.simulated,
        "date": time.strftime("%Y-%m-%d", time.gmtime(host.now())),
        "kernel": _read(host, "/proc/sys/kernel/osrelease"),
        "python": platform.python_version(),
        "gpu": {
            "model": gpu.model,
            "catalog": gpu.catalog_key,
            "vendor": gpu.vendor,
            "device_id": gpu.device_id,
            "subsystem_id": gpu.subsystem_id,
            "memory_mib": gpu.memory_mib,
            "driver": gpu.driver,
            "driver_version": _read(host, f"/sys/module/{gpu.driver}/version") if gpu.driver else "",
        },
    }


def _read(host, path):
    try:
        return host.read(path).strip()
    except OSError:
        return ""


def anonymous(data, address, state_dir):
    """The same data without what tells which machine it is of."""
    if isinstance(data, dict):
        return {name: anonymous(value, address, state_dir) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [anonymous(value, address, state_dir) for value in data]
    return _hidden(data, address, state_dir) if isinstance(data, str) else data


def _hidden(text, address, state_dir):
    for own, instead in ((address, "<GPU>"), (state_dir, "<state directory>")):
        text = text.replace(own, instead)
    name = os.uname().nodename
    for own in {name, name.partition(".")[0]} - {"", "localhost"}:
        text = re.sub(rf"(?<![\w.-]){re.escape(own)}(?![\w-])", "<host>", text)
    return _PROCESS.sub("a process", _PCI.sub("<PCI address>", _UUID.sub("<UUID>", text)))


def as_json(data):
    """The report as a file has it."""
    return json.dumps(data, indent=1) + "\n"


def as_text(data):
    """The report as people read it."""
    gpu = data["gpu"]
    version = f" {gpu['driver_version']}" if gpu["driver_version"] else ""
    what, kernel = " (simulated)" if data["simulated"] else "", data["kernel"] or "unknown"
    lines = [
        f"{gpu['model']}, device {gpu['device_id']}, subsystem {gpu['subsystem_id'] or 'unknown'}{what}",
        f"driver {gpu['driver'] or 'none'}{version}, Linux {kernel}, engine {data['engine']}, {data['date']}",
    ]
    for each in data["technologies"]:
        lines += ["", *_technology(each)]
    return "\n".join([*lines, "", f"{data['seconds']:.1f} s in all"])


def _technology(found):
    word = kinds.known(found["technology"]).label
    if found["why_not"]:
        return [f"{word}: not tried: {found['why_not']}"]
    unlike = differing(found)
    lines = [f"{word}: {counted(found)}", f"  before: {found['before']}"]
    lines.append(f"  catalog: {len(found['facts'])} facts compared, {len(unlike)} differ")
    lines += [f"    {each['what']}: the catalog has {each['catalog']}, the driver {each['found']}" for each in unlike]
    lines += [line for each in found["trials"] if each["result"] != _NOT for line in _trial(each)]
    lines += _not_tried(found["trials"])
    lines += _missing(found["trials"])
    lines += [_half(name, found[name]) for name in ("stopped", "killed", "refused") if name in found]
    lines += [f"  ended early: {found['ended']}"] if found["ended"] else []
    return [*lines, f"  put back: {found['put_back'] or 'yes, read again and as before'}"]


def differing(found):
    """The facts of a technology in which catalog and driver differ."""
    return [each for each in found["facts"] if each["catalog"] != each["found"]]


def counted(found):
    """The trials of a technology in a few words."""
    results = [each["result"] for each in found["trials"]]
    return ", ".join(f"{results.count(word)} {word}" for word in dict.fromkeys(results)) or "nothing was tried"


def _not_tried(trials):
    """What was not tried, in a line for each reason."""
    by_reason = {}
    for each in trials:
        if each["result"] == _NOT:
            by_reason.setdefault(each["why"], []).append(each["what"])
    return [f"  {', '.join(names)}: not tried: {why}" for why, names in by_reason.items()]


def _missing(trials):
    """Device nodes that nobody had made: slices are there all the same, and some nodes are only made for their users."""
    nodes = list(dict.fromkeys(node for each in trials for node in each.get("missing_nodes", ())))
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return [f"  device nodes that nobody had made: {', '.join(nodes[:3])}{more}"] if nodes else []


def _trial(found):
    took = f"made in {found['seconds']:.2f} s, taken away in {found['back_seconds']:.2f} s" if found["result"] == "ok" else ""
    told = "; ".join(filter(None, [found["result"], took, found["why"]]))
    return [f"  {found['what']}: {told}", *(f"    {each}" for each in found["differences"])]


_HALF = {"stopped": "stopped half way (SIGTERM)", "killed": "killed half way (SIGKILL)", "refused": "refused by the driver"}


def _half(name, found):
    if found["result"] != "ok":
        return f"  {_HALF[name]}: {found['result']}: {found['why']}"
    said = f": {found['said']}" if found.get("said") else ""
    at = f"before '{found['at']}' of '{found['what']}'"
    return f"  {_HALF[name]}: ok, undone; {at}, over after {found['seconds']:.2f} s{said}"
