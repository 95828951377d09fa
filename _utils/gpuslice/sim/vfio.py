"""
Drivers that are unbound and bound on a simulated machine: ``driver_override``, ``unbind``, ``bind``, ``drivers_probe``, and
vfio-pci with the device nodes of IOMMU groups.

A function goes back to the driver that its description gave it. A probe that no driver wants answers success, as the kernel's.
"""

import errno
import re

from gpuslice.sim import hardware
from gpuslice.sim import kernel
from gpuslice.sim import pci

DRIVER, MODULE = "vfio-pci", "vfio_pci"

_OF_DRIVER = re.compile(r"/sys/bus/pci/drivers/([^/]+)/(bind|unbind)")
_USUAL = {"10de": "nvidia", "1002": "amdgpu", "8086": "xe"}


def show(tree, state):
    """The driver's directory and the nodes of what it has."""
    functions = pci.functions(state)
    if not _loaded(state, DRIVER):
        return
    tree.dir(f"/sys/bus/pci/drivers/{DRIVER}")
    number = 0
    for function in functions:
        if function["driver"] != DRIVER or not state["host"]["iommu"]:
            continue
        base = f"{kernel.DEVICES}/{function['address']}"
        tree.file("/dev/vfio/vfio", "")
        tree.node(f"/dev/vfio/{pci.group_of(functions, function['address'])}")
        tree.dir(f"{base}/vfio-dev/vfio{number}")
        tree.node(f"/dev/vfio/devices/vfio{number}")
        number += 1


def write(state, path, text, look):
    """Unbinding and binding; says whether the file was one of these. Raises OSError as the kernel does."""
    address, name = kernel.device_file(path)
    if name == "driver/unbind" and _place(state, address):
        if text != address or not _place(state, address)["driver"]:
            raise kernel.error(errno.ENODEV, path)
        _unbind(state, address, path)
        return True
    found = _OF_DRIVER.fullmatch(path)
    if found and (_place(state, text) or not _loaded(state, found[1])):
        _driver_file(state, *found.groups(), text, path)
        return True
    if path == "/sys/bus/pci/drivers_probe" and _place(state, text):
        _probe(state, text)
        return True
    return False


def modprobe(state, module, loading):
    """vfio_pci lets go of its functions when it is removed, unless a virtual machine holds one."""
    if module != MODULE or loading:
        return
    for function in pci.functions(state):
        if function["driver"] == DRIVER and _place(state, function["address"]):
            _unbind(state, function["address"], module)


def reboot(state):
    """After a boot every function has the driver that it always gets."""
    for address in [*state["gpus"], *(device["address"] for device in state["host"]["other_pci"])]:
        place = _place(state, address)
        place["driver"] = place.get("own_driver", place["driver"])


class _Function:
    """A virtual function as a place where its driver is kept, beside those of the other functions of its GPU."""

    def __init__(self, state, owner, address):
        self._state, self._owner, self._address = state, owner, address

    def __getitem__(self, key):
        assert key == "driver"
        return pci.function_driver(self._state, self._owner, self._address)

    def __setitem__(self, key, value):
        self._state["gpus"][self._owner].setdefault("vf_drivers", {})[self._address] = value

    def usual(self):
        """The driver that takes it where the PF lets drivers take virtual functions: without, only an override does."""
        gpu = self._state["gpus"][self._owner]
        return gpu["about"]["vf_driver"] if gpu["autoprobe"] else ""

    def setdefault(self, key, value):
        """That it keeps none of its own: it goes with the PF's number."""


def _place(state, address):
    """Where the driver of a function is kept, None for one that is not there; NVIDIA's vGPU manager keeps its own."""
    if address in state["gpus"]:
        return state["gpus"][address]["about"]
    owner = pci.owner_of(state, address)
    if owner is not None:
        return None if state["gpus"][owner]["about"].get("vgpu") else _Function(state, owner, address)
    return next((device for device in state["host"]["other_pci"] if device["address"] == address), None)


def _loaded(state, driver):
    if driver == "nvidia":
        return state["host"]["driver"]["loaded"]
    if driver == DRIVER and MODULE in state["modules"]:
        return True
    known = [gpu["about"] for gpu in state["gpus"].values()] + state["host"]["other_pci"]
    # A driver that had something when the machine began is loaded.
    return any(driver in (place["driver"], place.get("own_driver")) for place in known)


def _override(state, address):
    found = state["written"].get(f"{kernel.DEVICES}/{address}/driver_override", "(null)")
    return "" if found == "(null)" else found


def _unbind(state, address, path):
    place = _place(state, address)
    if place["driver"] == DRIVER and _group_is_open(state, address):
        # The kernel waits here until the virtual machine lets go, for ever perhaps, which ETIMEDOUT stands for.
        raise kernel.error(errno.ETIMEDOUT, path)
    if place["driver"] == "nvidia" and address in state["gpus"] and hardware.taken(state, address):
        # So does this driver.
        raise kernel.error(errno.ETIMEDOUT, path)
    place.setdefault("own_driver", place["driver"])
    place["driver"] = ""
    gpu = state["gpus"].get(address)
    if gpu:
        gpu["gis"] = {}
        pci.forget_functions(state, address)
        gpu["epoch"] += 1


def _group_is_open(state, address):
    node = f"/dev/vfio/{pci.group_of(pci.functions(state), address)}"
    return any(node in process["nodes"] for process in state["processes"])


def _driver_file(state, driver, action, address, path):
    if not _loaded(state, driver):
        raise kernel.error(errno.ENOENT, path)
    place = _place(state, address)
    if action == "unbind":
        if place["driver"] != driver:
            raise kernel.error(errno.ENODEV, path)
        _unbind(state, address, path)
        return
    if place["driver"]:
        raise kernel.error(errno.EBUSY, path)
    if not _wants(state, driver, address):
        raise kernel.error(errno.ENODEV, path)
    if driver == DRIVER and not state["host"]["iommu"]:
        raise kernel.error(errno.EINVAL, path)
    _take(place, driver)


def _wants(state, driver, address):
    """Whether a driver matches a function: by the override where there is one, else by its ids."""
    override = _override(state, address)
    return override == driver if override else _usual(state, address) == driver


def _usual(state, address):
    place = _place(state, address)
    if isinstance(place, _Function):
        return place.usual()
    return place.get("own_driver") or _USUAL.get(place["vendor"], "")


def _probe(state, address):
    place = _place(state, address)
    driver = _override(state, address) or _usual(state, address)
    takes = _loaded(state, driver) and (driver != DRIVER or state["host"]["iommu"])
    if not place["driver"] and takes:
        _take(place, driver)


def _take(place, driver):
    # A function that had no driver has none after a boot either.
    place.setdefault("own_driver", place["driver"])
    place["driver"] = driver
