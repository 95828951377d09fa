"""
Podman on a simulated machine, as far as anything here asks it, and the services that Quadlet's generator makes of its units.

The generator runs when systemd reads its units anew: it makes ``NAME.service`` of ``NAME.container``. Which keys there are is for
tests with the real one. A container with a CDI name that leads nowhere does not start.
"""

import itertools
import json
import re

from gpuslice.host.base import Completed
from gpuslice.host.base import of_user
from gpuslice.host.base import parted
from gpuslice.sim import confined

#: Where root's units lie, and those of rootless users, which their own managers read.
_FOLDER = "/etc/containers/systemd/"
_OF_USER = re.compile(rf"{_FOLDER}users/([0-9]+)/")
_SUFFIX = ".container"
#: Folders of unit files and their drop-ins, which systemd and its generators read when they are told to.
_UNIT_FOLDERS = ("/etc/systemd/system/", _FOLDER)
_CDI = "/run/cdi/"
NOTHING = Completed(0)


def show(tree, state):
    """The program, as a file that changes with its version."""
    if "podman" in state["host"]["tools"]:
        tree.file("/usr/bin/podman", f"podman {_version(state)}")


def _version(state):
    return state["host"].get("podman", "5.4.2")


def podman(host, arguments, user=""):
    """``podman --version``, ``podman image inspect REFERENCE`` and ``podman run`` of root, or of a user's rootless one."""
    known = host.state()["host"].get("images", {})
    if arguments == ["--version"]:
        return Completed(0, f"podman version {_version(host.state())}\n")
    if arguments[:2] == ["image", "inspect"] and len(arguments) == 3:
        if arguments[2] not in known:
            return Completed(125, "[]\n", f"Error: {arguments[2]}: image not known\n")
        environment = [f"{name}={value}" for name, value in known[arguments[2]].items()]
        return Completed(0, json.dumps([{"Id": "0" * 64, "Config": {"Env": environment}}]) + "\n")
    if arguments[:1] == ["run"]:
        return _run(host, arguments[1:], known, user)
    return Completed(125, "", f"Error: unrecognized command `podman {' '.join(arguments)}`\n")


def runuser(host, arguments):
    """``runuser -u USER -- env VARIABLE=VALUE... podman ...``."""
    command = arguments[3:]
    if arguments[:1] != ["-u"] or arguments[2:3] != ["--"] or "podman" not in command:
        return Completed(1, "", "runuser: the simulated host does not know these arguments\n")
    if confined.user(host, arguments[1]) is None:
        return Completed(1, "", f"runuser: user {arguments[1]} does not exist or the user entry does not contain all the required"
                         " fields\n")  # fmt: skip
    return podman(host, command[command.index("podman") + 1 :], arguments[1])


def _run(host, arguments, known, user):
    """Options are written ``--option`` or ``--option=value``; then the image and its command."""
    options = list(itertools.takewhile(lambda word: word.startswith("-"), arguments))
    image, *command = [*arguments[len(options) :], ""]
    if image not in known:
        return Completed(125, "", f"Error: initializing source docker://{image}: reading manifest: manifest unknown\n")
    names = [word.partition("=")[2] for word in options if word.startswith("--device=")]
    nodes, unresolved = confined.resolved(host, names)
    if unresolved:
        return Completed(126, "", f"Error: setting up CDI devices: unresolvable CDI devices {', '.join(unresolved)}\n")
    if gone := [node for node in nodes if not host.exists(node)]:
        return Completed(126, "", f"Error: stat {gone[0]}: no such file or directory\n")
    return confined.opening(host, command[:-1], confined.Walls(filter=None if user else nodes, shown=set(nodes), user=user,
                            kept="--group-add=keep-groups" in options))  # fmt: skip


def reload_units(state, uid=None):
    """
    What ``systemctl daemon-reload`` finds, and goes by until the next one; inside a change.

    :param uid: of the user whose manager reads its units; None for the system's own.
    """
    files, known = {**state["host"]["files"], **state["written"]}, state.get("loaded", state["host"]["files"])
    others = {path: text for path, text in known.items() if path.startswith(_UNIT_FOLDERS) and _reader(path) != uid}
    own = {path: text for path, text in files.items() if path.startswith(_UNIT_FOLDERS) and _reader(path) == uid}
    state["loaded"] = {**others, **own}
    before, folder = set(generated(state)), _folder(uid)
    made = [
        f"{path[len(folder) : -len(_SUFFIX)]}.service"
        for path, text in own.items()
        if _is_unit(path, folder) and "[Container]" in text
    ]
    kept = [unit for unit in before if parted(unit)[1] != uid]
    state["generated"] = sorted([*kept, *(of_user(unit, uid) for unit in made)])
    # What ended of a unit that is not there any more comes back with nothing.
    gone = before.difference(state["generated"])
    state["stopped"] = [process for process in state["stopped"] if process["unit"] not in gone]


def generated(state):
    """The services that the generator made when units were read last, of the system and of users."""
    return state.get("generated", ())


def loaded(state, unit):
    """Files of a unit as they were when systemd read them last, and what stands behind the CDI names in them now."""
    name, uid = parted(unit)
    source = f"{_folder(uid)}{name.removesuffix('.service')}{_SUFFIX}"
    places = (source, f"{source}.d/", f"/etc/systemd/system/{unit}", f"/etc/systemd/system/{unit}.d/")
    known = state.get("loaded", state["host"]["files"])
    found = {path: text for path, text in known.items() if path.startswith(places[1::2]) or path in places}
    return {**found, **{name: _edits(state, name) for text in found.values() for name in _named(text)}}


def unresolvable(state, unit):
    """CDI names of a unit that lead nowhere."""
    return [name for name, edits in loaded(state, unit).items() if not edits]


def _named(text):
    """The CDI names in a unit's text; an empty one drops those before it."""
    names = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "AddDevice":
            names = [*names, value] if value else []
    return [name for name in names if not name.startswith("/")]


def _edits(state, name):
    """What a CDI name opens, as text; "" where no file of the machine has it."""
    kind, _, device = name.partition("=")
    for path, text in {**state["host"]["files"], **state["written"]}.items():
        if path.startswith(_CDI) and path.endswith(".json"):
            spec = json.loads(text)
            found = [each["containerEdits"] for each in spec["devices"] if (spec["kind"], each["name"]) == (kind, device)]
            if found:
                return json.dumps(found[0], sort_keys=True)
    return ""


def _folder(uid):
    return _FOLDER if uid is None else f"{_FOLDER}users/{uid}/"


def _reader(path):
    """The user whose manager reads a file, None for the system's own."""
    found = _OF_USER.match(path)
    return int(found[1]) if found else None


def _is_unit(path, folder):
    return path.startswith(folder) and path.endswith(_SUFFIX) and "/" not in path[len(folder) :]
