"""
Podman on a simulated machine, as far as anything here asks it, and the services that Quadlet's generator makes of its units.

The generator runs when systemd reads its units anew: it makes ``NAME.service`` of ``NAME.container``. Which keys there are is for
tests with the real one. A container with a CDI name that leads nowhere does not start.
"""

import json

from gpuslice.host.base import Completed

#: Where root's units lie; those of rootless users are read by their own managers.
_FOLDER = "/etc/containers/systemd/"
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


def podman(host, arguments):
    """``podman --version``."""
    if arguments != ["--version"]:
        return Completed(125, "", f"Error: unrecognized command `podman {' '.join(arguments)}`\n")
    return Completed(0, f"podman version {_version(host.state())}\n")


def reload_units(state):
    """What ``systemctl daemon-reload`` finds, and goes by until the next one; inside a change."""
    files = {**state["host"]["files"], **state["written"]}
    state["loaded"] = {path: text for path, text in files.items() if path.startswith(_UNIT_FOLDERS)}
    before = set(generated(state))
    state["generated"] = sorted(
        f"{path[len(_FOLDER):-len(_SUFFIX)]}.service" for path, text in _units(state).items() if "[Container]" in text
    )
    # What ended of a unit that is not there any more comes back with nothing.
    gone = before.difference(state["generated"])
    state["stopped"] = [process for process in state["stopped"] if process["unit"] not in gone]


def generated(state):
    """The services that the generator made when units were read last."""
    return state.get("generated", ())


def loaded(state, unit):
    """Files of a unit as they were when systemd read them last, and what stands behind the CDI names in them now."""
    source = f"{_FOLDER}{unit.removesuffix('.service')}{_SUFFIX}"
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


def _units(state):
    """The container units of root, from the description and as they were written since."""
    files = {**state["host"]["files"], **state["written"]}
    return {path: text for path, text in files.items() if _is_unit(path)}


def _is_unit(path):
    return path.startswith(_FOLDER) and path.endswith(_SUFFIX) and "/" not in path[len(_FOLDER) :]
