"""
AppArmor: a profile for containers that get slices, and whether the profile of somebody else lets a unit open nodes.

The profile is the one that Podman gives to containers (``containers-default-*``, by the template of its library
containers/common), and closes beside that what changes the slicing of a GPU, whoever opened a node by mistake: the capabilities
of MIG's configuration and monitor, and the files of drivers. It is shipped, and loaded only when that is asked for.

Syntax: apparmor.d(5). Compiled by the real parser in ``tests/parts/test_security_modules.py``.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping

#: The name of the profile, and of its file in :data:`FOLDER`.
NAME = "gpu-slicing"
FOLDER = "/etc/apparmor.d"
#: What the kernel has loaded: lines ``NAME (MODE)``.
LOADED = "/sys/kernel/security/apparmor/profiles"

PROFILE = """\
# Written by Salt: a profile for containers that get slices of GPUs.
#include <tunables/global>

profile gpu-slicing flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,

  # The runtime and systemd end what runs in a container.
  signal (receive) peer=unconfined,
  signal (receive) peer={/usr/bin/,/usr/sbin/,}{runc,crun,podman},
  signal (send, receive) peer=gpu-slicing,
  ptrace (trace, read, tracedby, readby) peer=gpu-slicing,

  deny mount,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/kernel/debug/** rwklx,

  # What cuts GPUs anew: capabilities 1 and 2 are MIG's configuration and monitor.
  deny /dev/nvidia-caps/nvidia-cap[12] rw,
  deny /dev/nvidia-nvswitchctl rw,
  deny /dev/nvidia-vgpu* rw,
  deny @{PROC}/driver/nvidia/** w,
}
"""

#: How the path of a rule begins.
_PATHS = ("/", "@", "{")
_RULE = re.compile(r"(?P<deny>deny )?(?:audit |owner |allow |priority=-?\d+ )*(?:file )?(?P<first>\S+)(?: (?P<second>[^,]+))?,")
_INCLUDE = re.compile(r"#?include (?:if exists )?<([^>]+)>")


def has(loaded: str, name: str) -> bool:
    """Whether a profile is loaded. :param loaded: the text of :data:`LOADED`."""
    return any(line.rpartition(" (")[0] == name for line in loaded.splitlines())


def enforced(loaded: str, name: str) -> bool:
    """Whether it is loaded and denies what it does not allow."""
    return f"{name} (enforce)" in loaded.splitlines()


def closed(texts: Mapping[str, str], name: str, nodes: Iterable[tuple[str, str]]) -> list[str] | None:
    """
    Those of these nodes that a profile does not let open, as far as its text tells.

    :param texts: path -> text of files in :data:`FOLDER`, those in folders below too. :param nodes: (path, permissions).
    :return: None where no file has a profile of that name, or one that can't be read so: then nothing is known.
    """
    body = next(filter(None, (_body(text, name) for text in texts.values())), None)
    if body is None:
        return None
    rules = list(_rules(body, texts, set()))
    return [path for path, how in nodes if not _opens(rules, path, how)]


def _body(text: str, name: str) -> str | None:
    begin = re.search(rf"^[ \t]*profile[ \t]+\"?{re.escape(name)}\"?(?:[ \t][^\n]*)?\{{[ \t]*$", text, re.MULTILINE)
    begin = begin or re.search(rf"^[ \t]*\"?{re.escape(name)}\"?(?:[ \t][^\n]*)?\{{[ \t]*$", text, re.MULTILINE)
    end = re.compile(r"^\}", re.MULTILINE).search(text, begin.end()) if begin else None
    return text[begin.end() : end.start()] if begin and end else None


def _rules(body: str, texts: Mapping[str, str], seen: set[str]) -> Iterable[tuple[bool, str, str]]:
    """(whether it denies, path with wildcards, permissions) of each rule on files, those that are included too."""
    for line in body.splitlines():
        line = " ".join(line.split())
        if included := _INCLUDE.match(line):
            path = f"{FOLDER}/{included[1]}"
            inside = [each for each in texts if each == path or each.startswith(f"{path}/")]
            for each in sorted(set(inside) - seen):
                yield from _rules(texts[each], texts, seen | {each})
        elif line == "file,":
            yield False, "/**", "rwmklix"
        elif rule := _RULE.match(line):
            first, second = rule["first"].strip('"'), (rule["second"] or "").strip('"')
            path, how = (first, second) if first.startswith(_PATHS) else (second, first)
            if path.startswith(_PATHS):
                yield bool(rule["deny"]), path, how


def _opens(rules: list[tuple[bool, str, str]], path: str, how: str) -> bool:
    found = [(deny, allowed) for deny, glob, allowed in rules if re.fullmatch(_pattern(glob), path)]
    given = {sign for deny, allowed in found if not deny for sign in allowed}
    taken = {sign for deny, allowed in found if deny for sign in allowed}
    return set(how) <= given - taken


#: A wildcard of AppArmor -> the same as a regular expression: ``*`` stops at a slash, ``**`` does not.
_WILD = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
#: A variable that is not known here stands for no node.
_VARIABLES = {"@{PROC}": "/proc", "@{sys}": "/sys", "@{run}": "/run"}


def _pattern(glob: str) -> str:
    return "".join(map(_part, re.findall(r"\*\*|\[[^]]*\]|@\{\w+\}|.", glob)))


def _part(part: str) -> str:
    if part.startswith("@{"):
        return _VARIABLES.get(part, "(?!)")
    return _WILD.get(part) or (part if part.startswith("[") else re.escape(part))
