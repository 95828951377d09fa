"""
Which GPUs the chosen tool sees (``containers_gpu_discovery: vendor_detection``). Each tool's output is read by one function.

udev and lspci see every GPU; a vendor's tool sees that vendor's GPUs only.
"""

import json
import re
import shlex

from gpuslice import addresses
from gpuslice import errors

#: PCI classes of GPUs: VGA controller, 3D controller, display controller, processing accelerator.
GPU_CLASSES = ("0300", "0302", "0380", "1200")

#: PCI vendor ids of GPUs. The display of a server's management controller is of another vendor.
GPU_VENDORS = ("10de", "1002", "8086")

_SYSFS = "/sys/bus/pci/devices"
_BRACKET = re.compile(r"\[([0-9a-f]{4})\]\Z")


def detect(host, method="udev"):
    """
    PCI addresses of the GPUs that a tool sees.

    :param method: ``udev``, ``lspci``, ``nvidia-smi``, ``rocm-smi`` or ``intel-gpu-tools``.
    :return: sorted list of addresses, ``0000:07:00.0``.
    :raises errors.ToolMissing: the tool is not installed. :raises errors.ToolFailed: it failed or printed what it should not.
    :raises errors.PolicyError: there is no such method.
    """
    reader = _READERS.get(method)
    if reader is None:
        raise errors.PolicyError(
            f"vendor_detection {method!r} is unknown.", todo=f"Use one of {', '.join(_READERS)}."
        )
    return sorted(set(reader(host)))


def _udev(host):
    """From udev; from sysfs where udev can't answer."""
    devices = host.udev_pci()
    if devices is None:
        names = [name for name in host.listdir(_SYSFS) if _is_gpu(*_sysfs_ids(host, name))]
    else:
        names = [device["SYSNAME"] for device in devices if _is_gpu(*udev_ids(device))]
    # A virtual function is a part of the GPU that its physical function is.
    return [name for name in names if not host.exists(f"{_SYSFS}/{name}/physfn")]


def udev_ids(properties):
    """(class, vendor id) of a device, four hex digits each, from its udev properties."""
    return properties.get("PCI_CLASS", "").rjust(6, "0")[:4].lower(), properties.get("PCI_ID", "").partition(":")[0].lower()


def _sysfs_ids(host, name):
    """(class, vendor id) of a device from sysfs, ("", "") for one that vanished."""
    try:
        return host.read(f"{_SYSFS}/{name}/class")[2:6].lower(), host.read(f"{_SYSFS}/{name}/vendor")[2:6].lower()
    except OSError:
        return "", ""


def _is_gpu(device_class, vendor_id):
    return device_class in GPU_CLASSES and vendor_id in GPU_VENDORS


def _lspci(host):
    """``lspci -Dnnmm``: address, then quoted fields that end in the id in brackets: class, vendor, device."""
    found = []
    for line in _run(host, ["lspci", "-Dnnmm"]).splitlines():
        if not line.strip():
            continue
        try:
            fields = shlex.split(line)
            ids = [_BRACKET.search(field).group(1) for field in fields[1:3]]
        except (ValueError, AttributeError) as err:
            raise _unreadable(["lspci", "-Dnnmm"], line) from err
        if len(ids) == 2 and _is_gpu(*ids):
            found.append(_address(fields[0], ["lspci", "-Dnnmm"]))
    return found


def _nvidia_smi(host):
    """``nvidia-smi``: one bus id a line, with a domain of eight digits."""
    argv = ["nvidia-smi", "--query-gpu=pci.bus_id", "--format=csv,noheader"]
    done = _start(host, argv)
    # It says so on the standard output and exits with 6: not a failure but an answer.
    if "No devices were found" in done.stdout + done.stderr:
        return []
    text = _checked(argv, done)
    return [_address(line, argv) for line in text.splitlines() if line.strip()]


def _rocm_smi(host):
    """``rocm-smi``; ``amd-smi`` where it is not installed, as its successor comes without it."""
    argv = ["rocm-smi", "--showbus", "--json"]
    try:
        text = _run(host, argv, missing="")
    except errors.ToolMissing:
        return _amd_smi(host)
    # With no GPU it prints a warning in place of a document.
    if "No JSON data to report" in text or not text.strip():
        return []
    cards = _document(argv, text)
    if not isinstance(cards, dict):
        return []
    buses = [card.get("PCI Bus") for name, card in cards.items() if name.startswith("card") and isinstance(card, dict)]
    return [_whole_gpu(host, _address(bus, argv)) for bus in buses]


def _amd_smi(host):
    """``amd-smi list``: a list of GPUs, wrapped in ``gpu_data`` by newer versions."""
    argv = ["amd-smi", "list", "--json"]
    text = _run(host, argv, missing="rocm-smi (and amd-smi, its successor)")
    rows = _document(argv, text) if text.strip() else []
    if isinstance(rows, dict):
        rows = rows.get("gpu_data", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _unreadable(argv, text)
    return [_whole_gpu(host, _address(row.get("bdf"), argv)) for row in rows]


def _whole_gpu(host, address):
    """The GPU of a partition: AMD's tools print partitions as PCI functions that are not on the bus."""
    if host.exists(f"{_SYSFS}/{address}"):
        return address
    return address[:-1] + "0"


def _intel(host):
    """``xpu-smi``; ``intel_gpu_top`` where it is not installed."""
    argv = ["xpu-smi", "discovery", "-j"]
    try:
        done = _start(host, argv, missing="")
    except errors.ToolMissing:
        return _intel_gpu_top(host)
    if "No device discovered" in done.stdout + done.stderr:
        return []
    text = _checked(argv, done)
    document = _document(argv, text)
    if not isinstance(document, dict) or not isinstance(document.get("device_list"), list):
        words = document.get("error") if isinstance(document, dict) else ""
        raise _unreadable(argv, words or text)
    rows = document["device_list"]
    if not all(isinstance(row, dict) for row in rows):
        raise _unreadable(argv, text)
    physical = [row for row in rows if row.get("device_function_type", "physical") == "physical"]
    return [_address(row.get("pci_bdf_address"), argv) for row in physical]


def _intel_gpu_top(host):
    """
    ``intel_gpu_top -L``: a card's node and how to select it, in lines of their own where they are long. Only the newer
    forms hold the PCI address; otherwise the kernel knows which device the node belongs to. (``card=0`` counts among cards of
    one id and is not the number of the node.)
    """
    argv = ["intel_gpu_top", "-L"]
    text = _run(host, argv, missing="xpu-smi (and intel_gpu_top)")
    found = []
    node = ""
    for line in text.splitlines():
        node = (re.match(r"card\d+\b", line) or [node])[0]
        place = re.search(r"\b(?:pci|sys):\S+", line)
        if not place:
            continue
        known = re.findall(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", place[0], re.IGNORECASE)
        address = known[-1] if known else host.readlink(f"/sys/class/drm/{node}/device")
        found.append(_address(address, argv))
    return found


def _start(host, argv, missing=None):
    """Run a tool. :param missing: what to call it when it is not installed."""
    try:
        return host.run(argv)
    except errors.ToolMissing as err:
        raise errors.ToolMissing(
            f"vendor_detection needs the program {missing or argv[0]}, which is not installed.",
            todo="Install it, or choose 'vendor_detection: udev' in containers_gpu_discovery, which needs no program.",
        ) from err
    except OSError as err:
        raise errors.ToolFailed(
            f"'{' '.join(argv)}' can't be started: {err.strerror or err}.",
            todo="Correct that, or choose 'vendor_detection: udev' in containers_gpu_discovery.",
        ) from err


def _checked(argv, done):
    """The standard output of a run that succeeded."""
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip())[:500]
        raise errors.ToolFailed(
            f"'{' '.join(argv)}' failed with exit status {done.returncode}: {words or 'it printed nothing'}.",
            todo="Correct that, or choose 'vendor_detection: udev' in containers_gpu_discovery.",
        )
    return done.stdout


def _run(host, argv, missing=None):
    """Standard output of a tool that must succeed."""
    return _checked(argv, _start(host, argv, missing))


def _document(argv, text):
    """The JSON document in a tool's output; tools print warnings before it."""
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    for start in sorted(starts):
        try:
            return json.JSONDecoder().raw_decode(text, start)[0]
        except ValueError:
            continue
    raise _unreadable(argv, text)


def _address(value, argv):
    """A PCI address out of a tool's output."""
    try:
        return addresses.normalize(value.strip() if isinstance(value, str) else "")[0]
    except errors.PolicyError as err:
        raise _unreadable(argv, value) from err


def _unreadable(argv, words):
    return errors.ToolFailed(
        f"'{' '.join(argv)}' printed what can't be read as a list of GPUs: {str(words).strip()[:500]!r}.",
        todo="Choose 'vendor_detection: udev' in containers_gpu_discovery.",
    )


_READERS = {
    "udev": _udev,
    "lspci": _lspci,
    "nvidia-smi": _nvidia_smi,
    "rocm-smi": _rocm_smi,
    "intel-gpu-tools": _intel,
}
