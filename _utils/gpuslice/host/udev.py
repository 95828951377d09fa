"""
GPUs as udev knows them, through the optional package pyudev. Only :class:`gpuslice.host.real.RealHost` uses this module.
"""

import os

#: PCI classes of GPUs: VGA controller, 3D controller, display controller, processing accelerator.
_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")

_SYSFS = "/sys/bus/pci/devices"


def pci_devices():
    """
    Display controllers and processing accelerators on the PCI bus, without virtual functions whose physical function is here.

    :return: list of dicts, each the udev properties of a device plus ``SYSNAME`` (its PCI address). None where udev can't
        answer: pyudev or libudev is missing, or libudev does not see a device that the kernel lists, as it is in containers
        and wherever /sys is not a genuine sysfs.
    """
    # The class is asked of sysfs first: matching in libudev reads every PCI device of a big server, and a host without
    # any GPU need not load it at all.
    names = [name for name in _listed() if _is_wanted(f"{_SYSFS}/{name}")]
    if not names:
        return []
    try:
        import pyudev

        context = pyudev.Context()
        devices = [_properties(pyudev, context, name) for name in names]
    except (ImportError, OSError):
        return None
    return None if None in devices else devices


def _listed():
    """Addresses of all PCI devices, sorted."""
    try:
        return sorted(os.listdir(_SYSFS))
    except OSError:
        return []


def _is_wanted(path):
    """Whether a device has a class of GPUs and is no virtual function. One that vanished meanwhile has none."""
    try:
        with open(f"{path}/class", encoding="ascii") as handle:
            return handle.read(6) in _CLASSES and not os.path.exists(f"{path}/physfn")
    except OSError:
        return False


def _properties(pyudev, context, name):
    """The udev properties of a device as a plain dict, None when libudev does not see it."""
    if not os.path.exists(f"{_SYSFS}/{name}/driver"):
        # libudev reads uevent, which waits, perhaps for ever, while a driver is letting the device go; its link is gone then.
        return _of_sysfs(name)
    try:
        device = pyudev.Devices.from_path(context, f"{_SYSFS}/{name}")
    except pyudev.DeviceNotFoundError:
        return None
    return {**{key: str(value) for key, value in device.properties.items()}, "SYSNAME": device.sys_name}


def _of_sysfs(name):
    """What udev would say of a device without its database: address, class and ids."""
    texts = {}
    for file in ("class", "vendor", "device"):
        with open(f"{_SYSFS}/{name}/{file}", encoding="ascii") as handle:
            texts[file] = handle.read().strip().removeprefix("0x").upper()
    return {
        "SYSNAME": name,
        "PCI_SLOT_NAME": name,
        "PCI_CLASS": texts["class"].lstrip("0"),
        "PCI_ID": f"{texts['vendor']}:{texts['device']}",
    }
