"""
What is missing for a consumer to use its slices: one list of sentences, each with what to do next.

All is read, and nothing is set. What concerns one kind of consumer only is asked of that alone: subordinate ids of rootless
Podman, the files of a unit, the image of a container.
"""

import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import systemd
from gpuslice.drivers import vendor_cdi
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Host
from gpuslice.outputs import audit
from gpuslice.outputs import cdi
from gpuslice.outputs.audit import AGAIN
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.techniques.base import Work
from gpuslice.techniques.consumers import auditing
from gpuslice.techniques.consumers import binding
from gpuslice.techniques.consumers import images
from gpuslice.techniques.consumers import security
from gpuslice.techniques.consumers import views
from gpuslice.techniques.consumers.files import Files
from gpuslice.techniques.consumers.files import Served
from gpuslice.techniques.consumers.files import consumer_of
from gpuslice.techniques.consumers.files import unit_of
from gpuslice.techniques.consumers.people import PASSWD
from gpuslice.techniques.consumers.people import RANGE
from gpuslice.techniques.consumers.people import People
from gpuslice.techniques.consumers.people import Person
from gpuslice.techniques.consumers.programs import Programs
from gpuslice.techniques.consumers.register import Noted
from gpuslice.techniques.consumers.section import USER
from gpuslice.values import describe

_CRUN = ("/usr/bin/crun", "/usr/local/bin/crun")
_NEWUIDMAP = ("/usr/bin/newuidmap", "/usr/local/bin/newuidmap")
_LINGER = "/var/lib/systemd/linger"


class Case(NamedTuple):
    """
    A consumer that is looked at.

    :ivar noted: the record. :ivar device: what opens its slices that are there; :ivar gone: names of those that are not.
    :ivar unit: the settings of its service in force, as section-key-value; () for other kinds.
    :ivar works: of all GPUs. :ivar held: names of its slices that are quarantined, or of those that would fit it.
    :ivar person: who opens the nodes, None for root and for whoever it may be. :ivar rootless: whether by rootless Podman.
    """

    host: Host
    sessions: Sessions
    noted: Noted
    consumer: Consumer
    device: Device
    gone: list[str]
    unit: tuple
    person: Person | None
    rootless: bool
    held: tuple[str, ...] = ()
    works: Sequence[Work] = ()


#: A check: the sentences of what is missing, None where it does not concern the consumer.
Check = Callable[[Case], "list[str] | None"]


def check(
    host: Host, works: Sequence[Work], sessions: Sessions, name: str, user: str = "", quarantined: Iterable[str] = ()
) -> dict:  # fmt: skip
    """
    What is missing for a consumer.

    :param works: of all GPUs; :param name: of the consumer. :param user: who is to use it, in place of its own user.
    :param quarantined: names of slices and PCI addresses of boards.
    :return: ``result`` (whether nothing is missing), ``missing`` (sentences), ``fine`` (what was looked at and is right).
    :raises errors.PolicyError: there is no such consumer.
    """
    consumer = consumer_of(name, views.named(works, name))
    if user and not (isinstance(user, str) and re.fullmatch(USER, user)):
        raise errors.PolicyError(f"user is {describe(user)}, which is no name of a user.", todo="Nothing was done.")
    unit = security.settings_of(host, consumer.unit) if consumer.kind == "service" else ()
    who = user or consumer.user or security.last(unit, "User")
    groups = security.last(unit, "SupplementaryGroups").split()
    person = People(host).named(who, groups) if who else None
    rootless = bool(who) and consumer.kind in ("container", "device") and not (person and person.uid == 0)
    device, gone = views.device_and_gone(works, name)
    held = _held(works, consumer, quarantined)
    case = Case(host, sessions, works[0].state, consumer, device, gone, unit, person, rootless, held, works)
    missing, fine = [], []
    if who and not person:
        missing.append(f"{who} is no user in {PASSWD}, so what he may open can't be told. Make that user, or correct the name.")
    for word, look in _CHECKS.items():
        found = _looked(look, case)
        missing += found or []
        fine += [word] if found == [] else []
    return {"result": not missing, "missing": missing, "fine": fine}


def _looked(look: Check, case: Case) -> list[str] | None:
    try:
        return look(case)
    except errors.GpuSliceError as err:
        return [str(err)]


def _slices(case: Case) -> list[str]:
    if case.gone:
        return [f"{', '.join(case.gone)} is on record for it, and not there any more. {AGAIN}"]
    return [] if case.device.nodes else [f"Consumer {case.consumer.name} has no slice with device nodes now. {AGAIN}"]


def _held(works: Sequence[Work], consumer: Consumer, quarantined: Iterable[str]) -> tuple[str, ...]:
    """What is quarantined of the slices of a consumer; where it has too few, of those that would fit it."""
    barred, own = views.barred_of(works, quarantined), views.named(works, consumer.name)["slices"]
    fitting = [
        each.name for work in works for each in work.below.slices if each.name in barred and binding.fits(each, consumer.sought)
    ]  # fmt: skip
    return tuple(name for name in fitting if name in own or len(own) < consumer.instances)


def _quarantine(case: Case) -> list[str] | None:
    if not case.held:
        return None
    own = [name for name in case.held if name in case.noted.of(case.consumer.name)["slices"]]
    todo = "See 'salt-call gpu_health.quarantined' for why; 'salt-call gpu_health.release <name>' hands it out again."
    if own:
        return [f"{', '.join(own)} is quarantined, and {case.consumer.name} stays on it, since nothing else fits. {todo}"]
    return [f"{', '.join(case.held)} would fit it, and is quarantined. {todo}"]


def _nodes(case: Case) -> list[str] | None:
    wrong = {node.path: device_nodes.wrong(case.host, node.path) for node in case.device.nodes}
    return [f"{path} {why}. {AGAIN[:-1]}, which makes it." for path, why in wrong.items() if why] if wrong else None


def _memory(case: Case) -> list[str] | None:
    """Whether its limit of GPU memory is in force, and who enforces it."""
    if not case.consumer.vram_mib:
        return None
    from gpuslice.drivers import quota
    from gpuslice.techniques.consumers import quotas

    names, people = case.noted.of(case.consumer.name)["slices"], People(case.host)
    slices = [each for work in case.works for each in work.below.slices if each.name in names]
    gpus = {work.gpu.address: work.gpu for work in case.works}
    limits = quotas.wanted(
        case.host, case.sessions, gpus, [(case.consumer, slices)], lambda consumer: people.uid(consumer.user), case.noted.files
    )  # fmt: skip
    gone = [f"{each.unit} is to be limited to {each.limit} MiB of {each.gpu.address}, and what is in force is "
            f"{quotas.words(each.now)}. {AGAIN}" for each in quotas.missing(case.host, limits)]  # fmt: skip
    return gone + quotas.told(each for each in limits if each.by.name == quota.NONE)


# -- users -----------------------------------------------------------------------------------------------------------------
def _permissions(case: Case) -> list[str] | None:
    if not case.person or not case.device.nodes:
        return None
    people, by_owner = People(case.host), {}
    for path, owner in people.shut(case.person, case.device.nodes):
        by_owner.setdefault(owner, []).append(path)
    return [_shut(people, case, owner, paths) for owner, paths in by_owner.items()]


def _shut(people: People, case: Case, owner: tuple[int, int, int], paths: list[str]) -> str:
    uid, gid, mode = owner
    name, group = case.person.name, people.group(gid)
    whose = f"{', '.join(paths)} {'is' if len(paths) == 1 else 'are'} of {people.owner(uid)}:{group} with mode {mode:04o}"
    if mode >> 3 & 6 and gid and case.unit:
        todo = f"Give {case.consumer.unit} 'SupplementaryGroups={group}'."
    elif mode >> 3 & 6 and gid:
        todo = f"Run 'usermod -aG {group} {name}', and have him log in anew."
    elif paths[0].startswith("/dev/nvidia"):
        todo = "Set NVreg_DeviceFileMode and NVreg_DeviceFileGID of the module nvidia, or its node by chmod."
    else:
        todo = "Set its group and mode by a rule of udev."
    return f"{whose}, so {name} can't open {'it' if len(paths) == 1 else 'them'}. {todo}"


def _subordinate(case: Case) -> list[str] | None:
    """What rootless Podman maps the ids of a container to."""
    if not case.rootless or not case.person:
        return None
    people, found = People(case.host), []
    if not any(map(case.host.exists, _NEWUIDMAP)):
        found.append("The program newuidmap is not installed, without which rootless Podman has one id only. Install uidmap.")
    for path, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        count = people.subordinate(case.person, path)
        if count < RANGE:
            have = f"only {count} ids" if count else "no range"
            found.append(
                f"{case.person.name} has {have} in {path}, and images want {RANGE}. "
                f"Run 'usermod {option} {people.free(path)} {case.person.name}', then 'podman system migrate' as that user."
            )
    return found


def _lingering(case: Case) -> list[str] | None:
    """Whether the user's manager, and so his container, runs without a login."""
    if not case.rootless or case.consumer.kind != "container" or not case.person:
        return None
    if case.host.exists(f"{_LINGER}/{case.person.name}"):
        return []
    return [f"{case.person.name}'s units run only while he is logged in. Run 'loginctl enable-linger {case.person.name}'."]


def _groups_kept(case: Case) -> list[str] | None:
    """Only crun keeps the groups of a user in his container, and they may be what opens a node."""
    if not case.rootless or not case.person or not case.device.nodes:
        return None
    by_group = [path for path, _ in People(case.host).shut(case.person, case.device.nodes, kept=False)]
    written = case.consumer.kind == "container"
    if not by_group and not written:
        return None
    if any(map(case.host.exists, _CRUN)):
        return []
    why = f"{', '.join(by_group)} opens by a group" if by_group else "its unit keeps the groups of its user"
    return [f"The program crun is not installed, and {why}, which no other runtime can keep. Install crun."]


# -- files -----------------------------------------------------------------------------------------------------------------
def _names(case: Case) -> list[str] | None:
    """Its CDI name, for those who are given one."""
    if case.consumer.kind not in ("container", "device") or not case.device.nodes:
        return None
    specs, podman = vendor_cdi.specs(case.host, audit.FOLDERS), auditing.podman(case.host, case.noted)
    return audit.concerning(specs, case.device, lambda path: device_nodes.wrong(case.host, path), podman)


def _files(case: Case) -> list[str] | None:
    """What was written for it, beside CDI, and whether the installed Podman or the unit takes it."""
    if case.consumer.kind == "device" or not case.device.nodes:
        return None
    wanted = Files(case.host, Programs(case.host, {}), case.noted.templates).of(Served(case.consumer, case.device))
    return [f"{each.path} {why}. {AGAIN}" for each in wanted if (why := _differs(case.host, each.path, each.text))]


def _differs(host: Host, path: str, text: str) -> str:
    found = kernel.text(host, path)
    if found is None:
        return "is not there"
    return "" if found.rstrip("\n") == text.rstrip("\n") else "is not as it should be"


def _service(case: Case) -> list[str] | None:
    """Whether systemd has the unit that Quadlet makes of its file."""
    unit = unit_of(case.consumer)
    if case.consumer.kind != "container" or not unit:
        return None
    done = systemd.files(case.host, unit)
    if not done.failure:
        return []
    return [f"systemd knows no {unit}: Quadlet has not made it. See '/usr/libexec/podman/quadlet -dryrun' for what it says."]


def _image(case: Case) -> list[str] | None:
    """Whether the image is there, and the driver new enough for it. Storage of users is not looked into."""
    image = case.consumer.image
    if case.consumer.kind != "container" or not image or case.rootless:
        return None
    variables = images.environment(case.host, image)
    if variables is None:
        return [f"The image {image} is not on this host, so its first start has to pull it. Run 'podman pull {image}'."]
    wanted = images.needs(variables) if cdi.needs_common([case.device]) else ""
    if not wanted:
        return []
    cuda, driver = case.sessions.nvml.cuda(), kernel.text(case.host, "/sys/module/nvidia/version") or ""
    if images.runs(wanted, cuda, driver):
        return []
    return [
        f"The image {image} needs {_shortened(wanted)}, and the driver {driver} has CUDA {cuda or 'of an unknown version'}. "
        "Take an older image, or update the driver."
    ]


def _shortened(wanted: str) -> str:
    first, *others = wanted.split()
    return re.sub(r"(>=|<=|!=|=|>|<)", r" \1 ", first) + (" (or an older driver of some boards)" if others else "")


def _selinux(case: Case) -> list[str] | None:
    return security.selinux(case.host, case.consumer, _paths(case))


def _apparmor(case: Case) -> list[str] | None:
    return security.apparmor(case.host, case.consumer, case.unit, case.device)


def _paths(case: Case) -> Iterable[str]:
    return [node.path for node in case.device.nodes]


_CHECKS: dict[str, Check] = {
    "slices": _slices,
    "quarantine": _quarantine,
    "device nodes": _nodes,
    "memory limit": _memory,
    "permissions": _permissions,
    "subordinate ids": _subordinate,
    "lingering": _lingering,
    "crun": _groups_kept,
    "CDI": _names,
    "files": _files,
    "unit": _service,
    "image": _image,
    "SELinux": _selinux,
    "AppArmor": _apparmor,
}
