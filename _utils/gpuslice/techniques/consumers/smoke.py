"""
The smoke test of a consumer: something starts as he does, opens each device node of his slices and each one of the others, and
what comes of it is held against what should.

A service is tried by a transient unit with the device filter, user and profile of the unit in force; a login user by one in his
slice unit; a container by one of his image and unit file; whoever has a CDI name alone by a container of an image that is named.
What is opened is closed at once, and nothing of his own is started or stopped.
"""

import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.host.base import Host
from gpuslice.outputs import cdi
from gpuslice.outputs import quadlet
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node
from gpuslice.outputs.quadlet_keys import KEYS
from gpuslice.techniques.base import Work
from gpuslice.techniques.consumers import security
from gpuslice.techniques.consumers import views
from gpuslice.techniques.consumers.files import QUADLET_FOLDERS
from gpuslice.techniques.consumers.files import Files
from gpuslice.techniques.consumers.files import Served
from gpuslice.techniques.consumers.files import consumer_of
from gpuslice.techniques.consumers.people import People
from gpuslice.techniques.consumers.programs import Programs
from gpuslice.values import describe

#: Seconds: an image may have to be fetched, and a driver to wake.
PATIENCE = 300

#: For each node after the word ``look``: what opening it for reading, and for both, comes to; nothing where it opens. Any POSIX
#: shell does it. To open for writing would make a file where there is none.
_LOOK = """\
shift
for node in "$@"; do
    for how in r rw; do
        said="No such file or directory"
        if [ -e "$node" ] && [ $how = r ]; then said=$( (exec 3<"$node") 2>&1 ); fi
        if [ -e "$node" ] && [ $how = rw ]; then said=$( (exec 3<>"$node") 2>&1 ); fi
        echo "$node $how ${said##*: }"
    done
done
"""
#: Who refuses a node; any other answer comes from its driver, so that it was opened.
_REFUSED = {
    "No such file or directory": "it is not there",
    "Operation not permitted": "the device filter denies it",
    "Permission denied": "its owner and mode, or a security profile, deny it",
}
#: What of a service's unit says which nodes it opens: a value, and lists that grow.
_LAST = ("DevicePolicy", "PrivateDevices", "User", "Group", "Slice", "AppArmorProfile", "SELinuxContext")
_LISTS = ("DeviceAllow", "SupplementaryGroups", "CapabilityBoundingSet", "InaccessiblePaths", "TemporaryFileSystem")
#: The same of a container's unit.
_CONTAINER = (
    "AddDevice", "AddCapability", "AppArmor", "DropCapability", "GroupAdd", "SecurityLabelDisable", "SecurityLabelType", "User",
    "UserNS",
)  # fmt: skip
#: What Podman says where it has no image and can't fetch one.
_NO_IMAGE = re.compile(r"initializing source|manifest unknown|image not known|short-name .* did not resolve", re.IGNORECASE)


class Seen(NamedTuple):
    """
    What came of it.

    :ivar opened: nodes that it opened; :ivar refused: those that it could not; :ivar wrong: what should be otherwise, sentences.
    """

    opened: list[str]
    refused: list[str]
    wrong: list[str]


def smoke_test(host: Host, works: Sequence[Work], name: str, image: str = "") -> dict[str, Any]:
    """
    Try what a consumer opens.

    :param works: of all GPUs; :param name: of the consumer. :param image: a container image with a shell, in place of his own.
    :return: ``result``, ``opened``, ``refused`` (nodes), ``wrong`` (sentences); and ``unsupported``, why it can't be tried, where
        that is so: ``result`` is False then.
    :raises errors.PolicyError: there is no such consumer, or that is no image. errors.ToolHangs: it did not end.
    """
    consumer, (device, _) = consumer_of(name, views.named(works, name)), views.device_and_gone(works, name)
    others, _ = views.devices_now(works)
    try:
        seen = run(host, consumer, device, others, image)
    except (errors.Unsupported, errors.ToolMissing) as err:
        return {"result": False, "opened": [], "refused": [], "wrong": [], "unsupported": str(err)}
    return {"result": not seen.wrong, **seen._asdict()}


def run(host: Host, consumer: Consumer, device: Device, others: Iterable[Device], image: str = "") -> Seen:
    """
    The same for one consumer.

    :param device: what opens his slices; :param others: what opens each slice of the host.
    :raises errors.Unsupported: it can't be tried; it says why. errors.ToolMissing, errors.ToolHangs.
    """
    if not device.nodes:
        raise errors.Unsupported(f"Consumer {consumer.name} has no slice with device nodes, so there is nothing to open.")
    own = {node.path: node for node in device.nodes}
    foreign = {node.path: node for each in others for node in each.nodes if node.path not in own}
    argv = _argv(host, consumer, device, image)
    done = host.run([*argv, "look", *own, *foreign], timeout=PATIENCE)
    answers = dict(_read(done.stdout))
    if done.failure or not answers:
        why = done.failure or "it printed nothing"
        if _NO_IMAGE.search(why):
            raise errors.Unsupported(f"The image of consumer {consumer.name} can't be had, so nothing of it can start: {why}")
        return Seen([], [], [f"What was to open the nodes did not run: {why}."])
    return judged(own.values(), foreign.values(), answers)


def _read(stdout: str) -> Iterator[tuple[tuple[str, str], str]]:
    for line in stdout.splitlines():
        node, how, *said = line.split(" ", 2)
        yield (node, how), said[0].strip() if said else ""


def judged(own: Iterable[Node], foreign: Iterable[Node], answers: dict[tuple[str, str], str]) -> Seen:
    """
    What answers come to.

    :param own: nodes that should open as far as their permissions say; :param foreign: nodes that should not open at all.
    :param answers: (path, "r" or "rw") -> what opening it came to, "" where it opened.
    """
    opened, refused, wrong = [], [], []
    for node in own:
        said = answers.get((node.path, node.permissions), "nothing was said of it")
        if said not in _REFUSED and (node.path, node.permissions) in answers:
            opened.append(node.path)
            continue
        refused.append(node.path)
        wrong.append(f"{node.path} belongs to its slice and can't be opened ({node.permissions}): {_REFUSED.get(said, said)}.")
    for node in foreign:
        if all(answers.get((node.path, how)) in _REFUSED for how in ("r", "rw")):
            refused.append(node.path)
            continue
        opened.append(node.path)
        wrong.append(f"{node.path} is of another slice, and can be opened. Run 'salt-call gpu_consumer.check' for this consumer.")
    return Seen(opened, refused, wrong)


# -- what is started -------------------------------------------------------------------------------------------------------
def _argv(host: Host, consumer: Consumer, device: Device, image: str) -> list[str]:
    if consumer.kind == "service":
        return _unit(_of_service(host, consumer))
    if consumer.kind == "user":
        uid = Files(host, Programs(host, {}), {}).uid(consumer)
        return _unit([("Slice", f"user-{uid}.slice"), ("User", consumer.user)])
    return _container(host, consumer, image)


def _unit(properties: Iterable[tuple[str, str]]) -> list[str]:
    asked = [word for key, value in properties for word in ("-p", f"{key}={value}")]
    return ["systemd-run", "--wait", "--pipe", "--quiet", "--collect", "--setenv=LC_ALL=C", *asked, "/bin/sh", "-c", _LOOK, "sh"]


def _of_service(host: Host, consumer: Consumer) -> Iterator[tuple[str, str]]:
    """Properties of its unit in force, our drop-in among its files."""
    settings = list(security.settings_of(host, consumer.unit))
    if not settings:
        raise errors.Unsupported(f"systemd knows no {consumer.unit}, so there is nothing to try.")
    for key in _LAST:
        if value := security.last(settings, key):
            yield key, value
    for key in _LISTS:
        for value in unit_text.values(settings, "Service", key):
            yield key, value


def _container(host: Host, consumer: Consumer, image: str) -> list[str]:
    settings = list(_container_settings(host, consumer))
    chosen = image or consumer.image or next((each.value for each in reversed(settings) if each.key == "Image"), "")
    if not chosen or str(chosen).endswith((".image", ".build")):
        raise errors.Unsupported(
            f"Consumer {consumer.name} has no image of its own that could be started.", todo="Name one with a shell: 'image='."
        )
    if not isinstance(chosen, str) or not quadlet.IMAGE.fullmatch(chosen):
        # Podman would take one that begins with "-" for an option.
        raise errors.PolicyError(f"image is {describe(chosen)}, which is no reference of an image.", todo="Nothing was started.")
    options = list(_options(settings)) or [f"--device={cdi.qualified(cdi.CONSUMER, consumer.name)}"]
    least = ["--rm", "--network=none", "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--env=LC_ALL=C"]
    podman = ["podman", "run", *least, *options, "--entrypoint=/bin/sh", chosen, "-c", _LOOK, "sh"]
    return [*_as_user(host, consumer), *podman] if consumer.user else podman


def _as_user(host: Host, consumer: Consumer) -> list[str]:
    person = People(host).named(consumer.user)
    if person is None:
        raise errors.Unsupported(f"This host has no user {consumer.user}, whose Podman is to be tried.", todo="Make that user.")
    variables = [f"HOME={person.home}", f"XDG_RUNTIME_DIR=/run/user/{person.uid}"]
    return ["runuser", "-u", person.name, "--", "env", *variables]


def _container_settings(host: Host, consumer: Consumer) -> Iterator[unit_text.Setting]:
    """What the unit of a container and its drop-in say, as they lie on the host; what an adopted one names itself is replaced."""
    if consumer.kind != "container":
        return
    # Their paths do not depend on what it opens.
    written = [each.path for each in Files(host, Programs(host, {}), {}).of(Served(consumer, Device("", (Node("/dev/null"),))))]
    theirs = [f"{folder}/{consumer.unit}" for folder in QUADLET_FOLDERS if consumer.unit]
    for path in (*theirs, *(path for path in written if "/systemd/system/" not in path)):
        try:
            found = unit_text.settings(kernel.text(host, path) or "")
        except unit_text.Malformed:
            continue
        yield from (each for each in found if each.section == "Container")


def _options(settings: list[unit_text.Setting]) -> Iterator[str]:
    """Options of Podman that say the same as the unit's keys, as far as they decide which nodes open."""
    for key in _CONTAINER:
        for value in unit_text.values(settings, "Container", key):
            option = KEYS[key].option
            yield option if option.endswith("disable") else f"{option}{value}"
    for words in map(unit_text.words, unit_text.values(settings, "Container", "PodmanArgs")):
        yield from (word for word in words if word.startswith(("--group-add=", "--security-opt=", "--device=")))
