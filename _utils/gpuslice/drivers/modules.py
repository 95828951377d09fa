"""
Modules of the kernel: which are there, what uses them, their options, and how ``modprobe`` loads and unloads them.
"""

from gpuslice.drivers import kernel

_LOADED = "/proc/modules"
#: Where modprobe reads options.
_OPTION_FOLDERS = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")


def loaded(host):
    """Names of the modules that are loaded, as a set."""
    return {line.split()[0] for line in (kernel.text(host, _LOADED) or "").splitlines() if line.strip()}


def is_there(host, module):
    """Whether the kernel has a module, loaded or built in."""
    return host.exists(f"/sys/module/{module}")


def users(host, module):
    """(number of users of a module, names of the modules among them); (0, []) when it is not loaded."""
    return kernel.number(host, f"/sys/module/{module}/refcnt") or 0, host.listdir(f"/sys/module/{module}/holders")


def parameters(host, module):
    """Names of the options that a loaded module has, as far as it shows them."""
    return host.listdir(f"/sys/module/{module}/parameters")


def parameter(host, module, name):
    """The number that an option of a loaded module has, None where it shows none. Raises errors.DriverError for no number."""
    return kernel.number(host, f"/sys/module/{module}/parameters/{name}")


def option_files(host):
    """Paths of the files from which modprobe takes the options of modules."""
    return [f"{folder}/{name}" for folder in _OPTION_FOLDERS for name in host.listdir(folder) if name.endswith(".conf")]


def load(host, module, timeout=60):
    """
    Load a module with what it needs.

    :param timeout: in seconds.
    :return: :class:`gpuslice.host.base.Completed`. What is there afterwards counts, not what the program says of it.
    :raises errors.ToolMissing, errors.ToolHangs, errors.ToolFailed: modprobe could not be run.
    """
    return host.run(["modprobe", module], timeout=timeout)


def unload(host, module, timeout=60):
    """Unload a module and what only it needed. Parameters, return and errors as of :func:`load`."""
    return host.run(["modprobe", "-r", module], timeout=timeout)
