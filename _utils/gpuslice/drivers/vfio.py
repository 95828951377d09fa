"""
How one PCI function, a whole GPU or a virtual function, is moved between a driver of the host and one of VFIO.

The way there is ``driver_override``, ``unbind`` and ``drivers_probe``, which concern this one function; ``new_id`` is never
written, as it captures every function with that id. An override also lets the kernel bind a virtual function whose PF has
``sriov_drivers_autoprobe`` off (``pci_device_can_probe`` of Linux 5.3 on). What a function was bound to is kept in a file below
/run, which a reboot empties as it does the override.
"""

import errno

from gpuslice import errors
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import modules
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.drivers.pci import iommu_is_on
from gpuslice.printable import printable

DRIVER = "vfio-pci"
#: Noted for a function that no driver had, and for one that is given back to whatever driver the kernel chooses.
NONE, ANY = "none", "any"
_DRIVERS = "/sys/bus/pci/drivers"
_PROBE = "/sys/bus/pci/drivers_probe"
_ORIGINS = "/run/gpu-slicing/passthrough"
_BRIDGE = "0x06"
#: Holds a function without ever touching it, so VFIO allows it in a group.
_STUB = "pci-stub"
_IOMMU_HINT = (
    "Switch VT-d or AMD-Vi on in the firmware and boot with 'intel_iommu=on' (Intel processors) or 'amd_iommu=on' (AMD), "
    "best together with 'iommu=pt'."
)
_MEANINGS = {
    errno.ENODEV: (
        errors.DriverError,
        "the driver does not take this function, or lost it meanwhile",
        "See 'dmesg', and the driver's 'driver_override' in sysfs.",
    ),
    errno.EBUSY: (errors.InUse, errors.IN_USE, "Stop its users and run again."),
}


# -- what is ---------------------------------------------------------------------------------------------------------
def driver(host, address):
    """The driver that has a function, "" for none."""
    return host.readlink(f"{DEVICES}/{address}/driver")


def override(host, address, bound):
    """
    Its ``driver_override``, "" for none.

    :param bound: the driver that has it: one that is letting the function go no longer shows, and while it does not end, this
        file waits for it.
    """
    path = f"{DEVICES}/{address}/driver_override"
    found = printable((kernel.text(host, path) if bound else bounded.text(host, address, path)) or "")
    return "" if found == "(null)" else found


def origin(host, address):
    """What was noted of the driver before, "" for nothing."""
    return kernel.text(host, origin_file(address)) or ""


def origin_file(address):
    """Where that is noted."""
    return f"{_ORIGINS}/{address}"


def left_notes(host):
    """Where something is noted of functions that are gone: nobody binds these any more, so that nobody forgets it."""
    return [origin_file(name) for name in host.listdir(_ORIGINS) if not host.exists(f"{DEVICES}/{name}")]


def is_loaded(host, name):
    """Whether the kernel has a driver."""
    return host.exists(f"{_DRIVERS}/{name}")


def group(host, address):
    """The IOMMU group of a function: ``number``, "" for none, and ``members`` as PCI address -> driver ("" for none)."""
    number = device_nodes.group(host, address)
    members = host.listdir(f"/sys/kernel/iommu_groups/{number}/devices") if number else []
    return {"number": number, "members": {member: driver(host, member) for member in members}}


def why_no_group(host):
    """(Why a function has no IOMMU group, whether the host's configuration is to blame)."""
    if iommu_is_on(host):
        return "the kernel has put this function into no IOMMU group. See what 'dmesg' says of the IOMMU.", False
    return f"the IOMMU of this host is off. {_IOMMU_HINT} Then reboot.", True


def refuse_without_group(host, address):
    """Raise errors.Unsupported for a function that no virtual machine could be given."""
    if not iommu_is_on(host) or not device_nodes.group(host, address):
        raise errors.Unsupported(f"Passthrough can't be had: {why_no_group(host)[0]}", address)


def refuse_shared_group(host, address, going=()):
    """
    VFIO hands out whole groups: a member with a driver of the host would make the group unusable.

    :param going: members that go to VFIO in the same change. :raises errors.ResourceConflict:
    """
    found, others = group(host, address), []
    number = found["number"]
    for member, has in found["members"].items():
        is_bridge = (kernel.text(host, f"{DEVICES}/{member}/class") or "").startswith(_BRIDGE)
        if member not in (address, *going) and has and has not in (*VFIO_DRIVERS, _STUB) and not is_bridge:
            others.append(f"{member} ({has})")
    if others:
        raise errors.ResourceConflict(
            f"IOMMU group {number} is not clean: it also has {', '.join(others)}, and a virtual machine gets whole groups.",
            address,
            f"Unbind these functions or bind them to {DRIVER}, or move the board to a slot whose bridge separates it (ACS).",
        )


# -- what is done ----------------------------------------------------------------------------------------------------
def load(host, address, module):
    """Load the module of a VFIO driver. Raises errors.DriverMissing."""
    done = modules.load(host, module)
    # What is there counts, not what the program says of it.
    if not is_loaded(host, module):
        said = done.said or "modprobe said nothing, but the driver is not there"
        raise errors.DriverMissing(
            f"The kernel module {module} can't be loaded: {said}.", address, "Install the kernel's modules for VFIO."
        )


def note(host, address, name):
    """Note the driver that a function had; "" forgets it. Raises errors.StateDirUnusable."""
    path = origin_file(address)
    try:
        host.store_write(path, name + "\n") if name else host.store_remove(path)
    except OSError as err:
        raise errors.StateDirUnusable(
            f"The note of the GPU's own driver, {path}, can't be written: {err.strerror}.", address, "Run as root."
        ) from err


def reserve(host, address, name):
    """Write ``driver_override``; "" lets any driver take the function."""
    # A line break alone clears it; an empty write would not reach the kernel.
    doing = f"reserve the function for {name}" if name else "clear driver_override"
    path = f"{DEVICES}/{address}/driver_override"
    wanted = (name,) if name else ("", "(null)")
    bounded.write(host, address, path, name or "\n", doing, there=lambda: kernel.text(host, path) in wanted)


def unbind(host, address, name, held, what="the GPU"):
    """
    Unbind a function from its driver. Once begun it can't be stopped: a driver may wait for its users inside the kernel, some do
    for ever.

    :param held: function that looks for the processes which have it open. :param what: what the function is, for sentences.
    :raises errors.InUse: somebody has it open. :raises errors.Unhealthy: the driver does not let it go.
    """
    doing = f"unbind {what} from {name}"
    if users := held():
        raise device_nodes.in_use(address, doing, users)
    try:
        bounded.write(
            host, address, f"{DEVICES}/{address}/driver/unbind", address, doing,
            {**_MEANINGS, errno.ENOENT: _MEANINGS[errno.ENODEV]},
            there=lambda: not driver(host, address),
        )  # fmt: skip
    except errors.InUse as err:
        raise device_nodes.in_use(address, doing, held()) from err
    except errors.Unhealthy as err:
        raise errors.Unhealthy(f"{err.what}{_suspects(host, name, held)}", address, err.todo) from err


def _suspects(host, name, held):
    """Who may keep the driver waiting, as a sentence after another; "" when nobody is known."""
    found = [str(process) for process in held()]
    # What it has open, for a console say, no process shows.
    if name == "nvidia" and modules.is_there(host, "nvidia_drm"):
        found.append("perhaps the module nvidia_drm")
    return f" In use by {'; '.join(found)}." if found else ""


def bind(host, address, name, reserved, what="the GPU"):
    """
    Bind a function: through the override where there is one, as only that is sure to reach no other function; else by the
    driver's name.

    :param name: the driver; None for whichever the kernel chooses. :raises errors.DriverError, errors.DriverMissing:
    """
    path = _PROBE if reserved or name is None else f"{_DRIVERS}/{name}/bind"
    missing = (
        errors.DriverMissing,
        f"the driver {name} is not loaded",
        f"Load it with 'modprobe {name}', then run again.",
    )
    doing = f"bind {what} to {name or 'a driver'}"
    bounded.write(
        host, address, path, address, doing, {**_MEANINGS, errno.ENOENT: missing},
        there=lambda: bool(name) and driver(host, address) == name,
    )  # fmt: skip
    now = driver(host, address)
    # The probe answers success also when no driver took the function.
    if now == name or (name is None and now and now not in VFIO_DRIVERS):
        return
    raise errors.DriverError(
        f"Could not {doing}: the kernel accepted the request, but {f'{now} has it' if now else 'no driver took it'}.",
        address,
        "See 'dmesg' for the driver's own words.",
    )
