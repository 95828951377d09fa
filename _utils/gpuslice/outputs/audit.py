"""
What is wrong with the CDI files of a host, ours and those of others: runtimes tell all of it by the same words, "unresolvable CDI
devices".

Rules: the CDI library of the runtimes, tried with Podman 4.3.1 and 5.4.2. Only ``*.json`` and ``*.yaml`` directly in a folder are
read, hidden ones too; a name that stands in two files of one folder is nobody's, and what a later folder says goes before what an
earlier one says; a file that is broken, or newer than the runtime, has no names, and nothing is said of it.
"""

import itertools
import json
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from gpuslice.outputs import cdi
from gpuslice.outputs.device import Device

#: Where runtimes look: what is generated goes before what is static.
FOLDERS = ("/etc/cdi", cdi.FOLDER)
#: What makes our files right again.
AGAIN = "Run 'salt-call state.apply gpu_slicing'."
_MIG = re.compile(r"MIG-[0-9a-f-]{36}")

#: First Podman -> the highest cdiVersion that it reads, by the CDI library in it.
_PODMAN = {
    (4, 1): "0.4.0", (4, 3): "0.5.0", (4, 7): "0.6.0", (5, 1): "0.7.0", (5, 2): "0.8.0", (5, 5): "1.0.0", (6, 0): "1.1.0",
}  # fmt: skip


class _Spec(NamedTuple):
    """
    A file that runtimes read.

    :ivar edits: qualified name of each device -> its container edits, and those of the whole file.
    """

    path: str
    kind: str
    version: str
    edits: dict[str, tuple[Any, Any]]

    @property
    def folder(self) -> str:
        """Where it lies."""
        return self.path.rpartition("/")[0]


def podman_reads(version: str) -> str:
    """
    The highest cdiVersion that a Podman reads, "" for one that knows no CDI.

    :param version: as ``podman --version`` tells it, ``4.3.1``.
    """
    found = cdi.numbers(version)[:2]
    return max((reads for since, reads in _PODMAN.items() if since <= found), key=cdi.numbers, default="")


def problems(
    specs: Mapping[str, str],
    slices: Iterable[Device],
    consumers: Iterable[Device],
    wrong: Callable[[str], str],
    uuids: Iterable[str] | None = None,
    podman: str = "",
) -> list[str]:
    """
    What is wrong, as sentences; none where all is right.

    :param specs: path -> text of every file in :data:`FOLDERS`, whatever its ending.
    :param slices: what opens each slice that is there, by its name; :param consumers: the same for each consumer.
    :param wrong: why a path of the host (node, library, hook) can't be used, as words that follow its name, such as "is not
        there"; "" for one that can.
    :param uuids: of all MIG devices that are there, for the names of vendors; None where they are not known.
    :param podman: version of the Podman that is installed, "" for none.
    """
    read, found = _read(specs)
    found += _unread(specs)
    ours = {cdi.SLICE: list(slices), cdi.CONSUMER: list(consumers)}
    for kind, devices in ours.items():
        found += _own(kind, devices, read)
    for spec in read:
        found += _behind(spec, wrong)
    found += _foreign(read)
    found += _clashes(read)
    found += _stale(read, uuids)
    found += _too_new(read, podman)
    return found


def concerning(specs: Mapping[str, str], device: Device, wrong: Callable[[str], str], podman: str = "") -> list[str]:
    """
    The same for the name of one consumer alone.

    :param device: what opens his slices. The others are those of :func:`problems`.
    """
    name = cdi.qualified(cdi.CONSUMER, device.name)
    read, broken = _read(specs)
    his = [spec._replace(edits={name: spec.edits[name]}) for spec in read if name in spec.edits]
    ours = [sentence for sentence in broken if sentence.startswith(cdi.PLACES[cdi.CONSUMER])]
    found = ours or [*_own(cdi.CONSUMER, [device], his)]
    for spec in his:
        found += _behind(spec, wrong)
    return [*found, *_foreign(his), *_clashes(his), *_too_new(his, podman)]


# -- reading ---------------------------------------------------------------------------------------------------------------
def _is_read(path: str) -> bool:
    return path.rpartition("/")[0] in FOLDERS and path.endswith((".json", ".yaml"))


def _read(specs: Mapping[str, str]) -> tuple[list[_Spec], list[str]]:
    """The files that runtimes read, in the order of the folders, and what is broken."""
    read, broken = [], []
    for path in sorted(filter(_is_read, specs), key=lambda path: (FOLDERS.index(path.rpartition("/")[0]), path)):
        try:
            read.append(_spec(path, _parsed(specs[path])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            todo = AGAIN if path in cdi.PLACES.values() else "Mend or remove it: no runtime says a word of it."
            broken.append(f"{path} is no CDI file that can be read, so none of its names is there. {todo}")
        except ImportError:
            broken.append(f"{path} can't be looked at: it is no JSON, and this Python has no PyYAML.")
    return read, broken


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Here, since all that this project writes is JSON. Salt brings it.
        import yaml  # type: ignore[import-untyped]

        try:
            return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as err:
            raise ValueError("neither JSON nor YAML") from err


def _spec(path: str, data: Any) -> _Spec:
    kind, shared = _text(data["kind"]), data.get("containerEdits") or {}
    edits = {f"{kind}={_text(device['name'])}": (device.get("containerEdits") or {}, shared) for device in data["devices"]}
    for each in (shared, *(own for own, _ in edits.values())):
        # To fail here, and not where they are used.
        _paths(each)
    if not edits or len(edits) != len(data["devices"]):
        raise ValueError("no device, or one twice")
    return _Spec(path, kind, _text(data["cdiVersion"]), edits)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _nodes(edits: Mapping[str, Any]) -> dict[str, str]:
    """Path on the host -> permissions of each node."""
    return {node.get("hostPath") or node["path"]: node.get("permissions") or "rwm" for node in edits.get("deviceNodes") or ()}


def _paths(edits: Mapping[str, Any]) -> list[str]:
    """All that edits take of the host: nodes, what is mounted, hooks."""
    mounts = [_text(mount["hostPath"]) for mount in edits.get("mounts") or ()]
    return [*map(_text, _nodes(edits)), *mounts, *(_text(hook["path"]) for hook in edits.get("hooks") or ())]


# -- judging ---------------------------------------------------------------------------------------------------------------
def _unread(specs: Mapping[str, str]) -> Iterator[str]:
    for path in sorted(specs):
        folder, _, name = path.rpartition("/")
        if not _is_read(path):
            more = " Rename it to .yaml." if name.endswith(".yml") else " Remove it, or rename it to .json or .yaml."
            yield f"{path} is read by no runtime: only *.json and *.yaml directly in {' and '.join(FOLDERS)} are.{more}"
        elif name.startswith("."):
            yield (
                f"{path} is hidden, and runtimes read it all the same: where it is what a writer left behind, its names are "
                f"nobody's any more. Remove it when nobody writes in {folder}."
            )


def _own(kind: str, devices: list[Device], read: list[_Spec]) -> Iterator[str]:
    """Names that lack, names too many, and names that open something else than they should."""
    file = next((spec for spec in read if spec.path == cdi.PLACES[kind] and spec.kind == kind), None)
    there = file.edits if file else {}
    wanted = {cdi.qualified(kind, device.name): device for device in devices if cdi.opens(device)}
    for name in sorted(wanted.keys() - there.keys()):
        yield f"{name} has no entry in {cdi.PLACES[kind]}, so nobody can be given it. {AGAIN}"
    for name in sorted(there.keys() - wanted.keys()):
        yield f"{name} in {cdi.PLACES[kind]} is the name of nothing that is there any more. {AGAIN}"
    for name in sorted(there.keys() & wanted.keys()):
        own, shared = there[name]
        yield from _other_nodes(name, _nodes(own), _nodes(shared), wanted[name])


def _behind(spec: _Spec, wrong: Callable[[str], str]) -> Iterator[str]:
    """What names take of the host and can't be used."""
    users: dict[str, list[str]] = {}
    for name, (own, shared) in spec.edits.items():
        for path in dict.fromkeys([*_paths(own), *_paths(shared)]):
            users.setdefault(path, []).append(name)
    todo = AGAIN if spec.kind in cdi.PLACES else f"Have {spec.path} written anew."
    for path, names in users.items():
        if why := wrong(path):
            verb = "takes" if len(names) == 1 else "take"
            yield f"{_listed(names)} {verb} {path}, which {why}: no container that is given it starts. {todo}"


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _other_nodes(name: str, own: Mapping[str, str], shared: Mapping[str, str], device: Device) -> Iterator[str]:
    """Nodes with which a name opens something else than its slice. Control nodes of the driver's part are no part of a slice."""
    wanted = {node.path: node.permissions for node in device.nodes}
    missing = [path for path in wanted if path not in own and path not in shared]
    if missing:
        yield f"{name} does not open {', '.join(missing)}, which belongs to it. {AGAIN}"
    wider = [path for path, allowed in own.items() if path in wanted and set(allowed) > set(wanted[path])]
    if wider:
        yield f"{name} opens {', '.join(wider)} for more than is needed. {AGAIN}"


def _foreign(read: list[_Spec]) -> Iterator[str]:
    for spec in read:
        if spec.kind in cdi.PLACES and spec.path != cdi.PLACES[spec.kind]:
            yield f"{spec.path} is of the kind {spec.kind}, which is ours, and was not written by us. Remove it."


def _clashes(read: list[_Spec]) -> Iterator[str]:
    """Names that stand in several files: in one folder they are nobody's, of two folders the later one counts."""
    for spec, other in itertools.combinations(read, 2):
        names = sorted(spec.edits.keys() & other.edits.keys())
        if names and spec.folder == other.folder:
            yield f"{spec.path} and {other.path} both have {_listed(names)}, so nobody can be given it. Remove one of the files."
        elif names:
            yield f"{spec.path} and {other.path} both have {_listed(names)}, and the second counts. Remove the first if old."


def _stale(read: list[_Spec], uuids: Iterable[str] | None) -> Iterator[str]:
    if uuids is None:
        return
    there = set(uuids)
    for spec in read:
        # Names are either ours, which say where a slice is, or may be UUIDs.
        named = sorted(name for name in spec.edits if _MIG.fullmatch(name.partition("=")[2]))
        gone = [name for name in named if name.partition("=")[2] not in there]
        if gone:
            yield (
                f"{spec.path} has {_listed(gone)}, a MIG device that is gone. Have it written anew: "
                f"'salt-call gpu_cdi.refresh', or 'nvidia-ctk cdi generate --output={spec.path}'."
            )


def _too_new(read: list[_Spec], podman: str) -> Iterator[str]:
    reads = podman_reads(podman)
    if podman and not reads:
        yield f"Podman {podman} knows no CDI: 4.1 is the first that does."
        return
    for spec in read:
        if podman and cdi.numbers(spec.version) > cdi.numbers(reads):
            yield (
                f"{spec.path} is of version {spec.version}, and Podman {podman} reads {reads} at most: it sees none of its names."
            )
