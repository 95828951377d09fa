"""
What SELinux and AppArmor of a host say to a consumer's device nodes. Both are read, and neither is set.
"""

from collections.abc import Iterable
from collections.abc import Sequence

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.drivers import systemd
from gpuslice.host.base import Host
from gpuslice.outputs import apparmor as profiles
from gpuslice.outputs import conflicts
from gpuslice.outputs import selinux as policy
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.unit_text import Setting
from gpuslice.techniques.consumers import shipping

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_HELP = "'salt-call gpu_consumer.security_files <folder>'"


def settings_of(host: Host, unit: str) -> tuple[Setting, ...]:
    """What all files of a unit set, in their order; none for one that is not there, or without systemd."""
    try:
        done = systemd.files(host, unit)
    except errors.ToolMissing:
        return ()
    return () if done.failure else tuple(each for part in conflicts.fragments(done.stdout) for each in part.settings)


def last(settings: Sequence[Setting], key: str) -> str:
    """What a key of [Service] has in the end, "" for nothing."""
    return next((each.value for each in reversed(settings) if (each.section, each.key) == ("Service", key)), "")


def selinux(host: Host, consumer: Consumer, nodes: Iterable[str]) -> list[str] | None:
    """What keeps a container from nodes, as sentences; None where SELinux denies nothing, or what runs is no container."""
    if consumer.kind not in ("container", "device") or kernel.text(host, policy.ENFORCE) != "1":
        return None
    unlabelled = str(consumer.quadlet.get("Container", {}).get("SecurityLabelDisable", "")).lower() in ("true", "yes", "1", "on")
    if unlabelled or shipping.selinux_module(host):
        return []
    found = []
    for begin, names in policy.booleans(nodes).items():
        if any(policy.is_on(kernel.text(host, f"{policy.BOOLEANS}/{name}") or "") for name in names):
            continue
        known = [name for name in names if host.exists(f"{policy.BOOLEANS}/{name}")]
        way = f"'setsebool -P {known[0]} 1' opens them to all containers; or load" if known else "Load"
        found.append(
            f"SELinux is enforcing, and lets no container open {begin.rstrip('/')}*: {' and '.join(names)} "
            f"{'are' if len(names) > 1 else 'is'} off or not known. {way} the module that {_HELP} writes."
        )
    return found


def apparmor(host: Host, consumer: Consumer, unit: Sequence[Setting], device: Device) -> list[str] | None:
    """What the profile of a unit or container keeps it from, as sentences; None where it has none, or AppArmor is off."""
    name = last(unit, "AppArmorProfile").removeprefix("-") or consumer.security_profile
    if not name or name == "unconfined" or (kernel.text(host, _APPARMOR) or "")[:1] != "Y":
        return None
    loaded = kernel.text(host, profiles.LOADED) or ""
    if not profiles.has(loaded, name):
        todo = "Run 'salt-call gpu_consumer.load_apparmor'." if name == profiles.NAME else "Load it by apparmor_parser."
        return [f"It is to run under the AppArmor profile {name}, which is not loaded. {todo}"]
    if not profiles.enforced(loaded, name):
        return []
    closed = profiles.closed(_texts(host, profiles.FOLDER), name, [(node.path, node.permissions) for node in device.nodes])
    if not closed:
        return []
    return [
        f"It runs under the AppArmor profile {name}, whose text does not let it open {', '.join(closed)}. "
        f"Add these to {profiles.FOLDER}/local or to the profile, with 'rw', and load it anew."
    ]


def _texts(host: Host, folder: str, deep: int = 2) -> dict[str, str]:
    """Path -> text of the files in a folder and those below."""
    found = {}
    for path in [f"{folder}/{name}" for name in host.listdir(folder)]:
        try:
            found[path] = host.read(path)
        except IsADirectoryError:
            found.update(_texts(host, path, deep - 1) if deep else {})
        except OSError:
            continue
    return found
