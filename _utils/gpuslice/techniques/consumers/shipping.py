"""
Files for SELinux and AppArmor that are shipped: written where an administrator wants them, and loaded only when asked for.
"""

import os

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.host.base import Host
from gpuslice.outputs import apparmor
from gpuslice.outputs import selinux

_READ_ME = """\
Security profiles for containers that get slices of GPUs. Nothing here is in force before it is loaded.

AppArmor: 'salt-call gpu_consumer.load_apparmor', or copy {apparmor} to {folder} and run
  apparmor_parser -r {folder}/{apparmor}
Then give consumers of kind container 'security_profile: {apparmor}'.

SELinux: in place of the booleans container_use_xserver_devices and container_use_devices, which open devices to all containers
alike, this module opens the nodes of slices to them (a container gets only those that it is given):
  checkmodule -M -m -o {selinux}.mod {selinux}.te
  semodule_package -o {selinux}.pp -m {selinux}.mod
  semodule -i {selinux}.pp
"""


def security_files(host: Host, folder: str) -> list[str]:
    """
    Write the profile, the module's source and how they are loaded into a folder that is there, and return the paths.

    :raises errors.PolicyError: no folder by its absolute path. errors.ToolFailed: it can't be written.
    """
    folder = os.path.normpath(folder)
    above, name = os.path.split(folder)
    if not os.path.isabs(folder) or name not in host.store_names(above):
        raise errors.PolicyError(
            f"folder is {folder}, and the absolute path of a folder that is there is wanted.", todo="Make it first."
        )
    told = _READ_ME.format(apparmor=apparmor.NAME, folder=apparmor.FOLDER, selinux=selinux.NAME)
    files = {apparmor.NAME: apparmor.PROFILE, f"{selinux.NAME}.te": selinux.module(), "README": told}
    for name, text in files.items():
        _write(host, os.path.join(folder, name), text)
    return [os.path.join(folder, name) for name in files]


def load_apparmor(host: Host, test: bool = False) -> dict:
    """
    Write the profile to its place and load it.

    :param test: say only what would be done.
    :return: ``result``, ``changes`` and ``comment``, as functions that change something do.
    :raises errors.ToolMissing: no apparmor_parser. errors.ToolFailed: it refuses the profile, and what was there is back.
    """
    path = f"{apparmor.FOLDER}/{apparmor.NAME}"
    before = kernel.text(host, path)
    loaded = apparmor.has(kernel.text(host, apparmor.LOADED) or "", apparmor.NAME)
    if loaded and before is not None and before.rstrip("\n") == apparmor.PROFILE.rstrip("\n"):
        return {"result": True, "changes": {}, "comment": f"The profile {apparmor.NAME} is loaded already."}
    changes = {apparmor.NAME: "the profile is written and loaded"}
    if test:
        return {"changes": changes, "comment": f"{path} would be written and loaded."}
    # Before anything is written, for a host without it.
    host.run(["apparmor_parser", "--version"])
    _write(host, path, apparmor.PROFILE)
    try:
        if why := host.run(["apparmor_parser", "-r", path]).failure:
            raise errors.ToolFailed(f"The profile {apparmor.NAME} could not be loaded: {why}.", todo="Nothing was kept of it.")
    except errors.GpuSliceError:
        host.store_remove(path) if before is None else _write(host, path, f"{before}\n")
        raise
    return {"result": True, "changes": changes, "comment": f"{path} was written and loaded."}


def loaded(host: Host) -> list[tuple[str, str]]:
    """(path, how to remove it) of what of these lies in its place: whether others run under it is for an administrator to say."""
    path, found = f"{apparmor.FOLDER}/{apparmor.NAME}", []
    if kernel.text(host, path) is not None:
        found.append((path, f"'apparmor_parser -R {path}', then remove it"))
    if module := selinux_module(host):
        found.append((module, f"'semodule -r {selinux.NAME}'"))
    return found


def selinux_module(host: Host) -> str:
    """Where the module is kept that was loaded, "" where none was."""
    folders = (f"{selinux.STORE}/{store}/active/modules" for store in host.listdir(selinux.STORE))
    found = (f"{folder}/{priority}/{selinux.NAME}" for folder in folders for priority in host.listdir(folder))
    return next((path for path in found if selinux.NAME in host.listdir(os.path.dirname(path))), "")


def _write(host: Host, path: str, text: str) -> None:
    try:
        host.store_write(path, text)
    except OSError as err:
        raise errors.ToolFailed(f"{path} can't be written: {err.strerror}.", todo="Mend its folder, or run as root.") from err


def template(name: str) -> str:
    """The text of a template as it is shipped; :param name: of it. Raises errors.PolicyError."""
    # Here, so that nothing else loads what renders.
    from gpuslice.outputs import templates

    return templates.shipped(name)
