"""
The systemd unit of an MPS daemon: its text as a pure function of what it is to do, and back. Templates make the texts; what a
unit was made of stands in it, so that a look renders nothing.

It lies in /run: a boot makes MIG devices anew, with other UUIDs, so that a unit that came back by itself would serve a device
that is gone. The replay of the boot writes and starts it when what it stands on is there.
"""

import hashlib
import json
from typing import NamedTuple

from gpuslice.drivers import device_nodes
from gpuslice.drivers import mps
from gpuslice.outputs import mps_templates
from gpuslice.outputs.mps import SERVER
from gpuslice.outputs.mps import VARIABLE
from gpuslice.outputs.mps import namespace
from gpuslice.outputs.mps import pipe_directory
from gpuslice.outputs.mps import runtime_directory
from gpuslice.outputs.mps import unit

_FOLDER = "/run/systemd/system"
#: Beside the folders of the sockets, which systemd removes with the daemons.
_SETTINGS = "/run/gpu-slicing/mps-settings"
#: Where units of an administrator or a package lie, which would be taken instead of ours.
_OTHERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
#: How our files begin. Above what a template makes, a unit has the digests of what follows and of the settings, and what it was
#: made of.
MINE = "# Written by Salt (GPU slicing)"
_FIRST, _MARK = f"{MINE}; changes to this file are overwritten.", "# Spec: "


class Spec(NamedTuple):
    """
    What the daemon of a slice is to do.

    :ivar name: of the slice; :ivar device: its UUID; :ivar nodes: device nodes that it opens.
    :ivar threads: percent of the multiprocessors of each client; :ivar pinned_mib: MiB of memory of each, None for no limit.
    :ivar exclusive: whether no other program may compute on the GPU: whole GPUs only.
    :ivar control: path of nvidia-cuda-mps-control; :ivar smi: of nvidia-smi, which sets the compute mode.
    :ivar shares: in protocol v3 (percent, MiB or None) of each client; () in v2, which has the same for all.
    :ivar template: what :func:`template_of` has.
    """

    name: str
    device: str
    nodes: tuple[str, ...]
    threads: float
    pinned_mib: int | None
    exclusive: bool
    control: str
    smi: str
    shares: tuple[tuple[float, int | None], ...] = ()
    template: str = ""


def path(name):
    """Where its file lies."""
    return f"{_FOLDER}/{unit(name)}"


def settings_path(name):
    """Where the settings of a daemon of protocol v3 lie."""
    return f"{_SETTINGS}/{unit(name).removesuffix('.service')}.toml"


def elsewhere(name):
    """Where a file of somebody else's under the same name would be taken instead."""
    return [f"{folder}/{unit(name)}" for folder in _OTHERS]


def read(text, settings_text=""):
    """
    The :class:`Spec` of a text; None for one that is not ours, or was changed.

    :param settings_text: of the settings of a daemon of protocol v3, which are checked with it.
    """
    mine, _, rest = text.partition("\n")
    marks, _, rest = rest.partition("\n")
    try:
        spec = made(json.loads(rest.partition("\n")[0].removeprefix(_MARK)))
    except (ValueError, TypeError, KeyError):
        return None
    unchanged = (mine, marks) == (_FIRST, _digests(rest, settings_text if spec.shares else ""))
    return spec if unchanged else None


def made(found):
    """The :class:`Spec` of its fields as JSON has them. Raises TypeError, KeyError, ValueError for others."""
    shares = tuple((percent, mib) for percent, mib in found.get("shares", ()))
    return Spec(**{**found, "nodes": tuple(found["nodes"]), "shares": shares})


def template_of(overrides, is_v3):
    """
    What tells one template from another: who changes it, we or the site, gets units anew.

    :param overrides: those of the site; :param is_v3: whether the daemon has settings of its own.
    """
    names = ("mps", "mps_settings") if is_v3 else ("mps",)
    return digest("\n".join(overrides.get(name, mps_templates.SHIPPED[name]) for name in names))


def written(spec, overrides=None):
    """
    The text of the unit.

    :param overrides: templates of the site, see :func:`gpuslice.outputs.templates.render`.
    :raises errors.PolicyError: one of these is wrong, opens more, or holds the daemon to less.
    """
    from gpuslice.outputs import templates
    from gpuslice.outputs import unit_text

    values = _values(spec)
    text = templates.render("mps", values, overrides)
    if "mps" in (overrides or {}):
        shipped = unit_text.settings(templates.render("mps", values))
        templates.refuse_weaker(
            "mps", "Service", mps_templates.KEPT, unit_text.settings(text), shipped, mps_templates.ONCE
        )
    text = f"{_MARK}{json.dumps(spec._asdict())}\n{text}"
    return f"{_FIRST}\n{_digests(text, settings(spec, overrides))}\n{text}"


def _values(spec):
    environment = {
        "CUDA_VISIBLE_DEVICES": spec.device,
        VARIABLE: pipe_directory(spec.name),
        "CUDA_MPS_LOG_DIRECTORY": pipe_directory(spec.name),
    }
    nodes = (*spec.nodes, *device_nodes.COMMON["nvidia"])
    return {
        "slice": spec.name,
        "unit": unit(spec.name),
        "folder": runtime_directory(spec.name),
        "environment": [f"{name}={value}" for name, value in environment.items()],
        "before": f"+{spec.smi} -i {spec.device} -c EXCLUSIVE_PROCESS" if spec.exclusive else "",
        "start": f"{spec.control} -f -m -p 3 -a {settings_path(spec.name)}" if spec.shares else f"{spec.control} -f",
        "ready": f"/bin/sh -ec '{_ready(spec)}'",
        "stop": f"{spec.control} -q" if spec.shares else f"/bin/sh -c 'echo quit -t 5 | {spec.control}'",
        "after": f"-+{spec.smi} -i {spec.device} -c DEFAULT" if spec.exclusive else "",
        "devices": [f"{node} {'r' if 'nvidia-caps' in node else 'rw'}" for node in nodes],
    }


def settings(spec, overrides=None):
    """
    The TOML text that a daemon of protocol v3 reads when it starts, "" in v2, which is told by commands.

    :param overrides: as of :func:`written`. :raises errors.PolicyError: one of these is wrong, or leaves a limit out.
    """
    if not spec.shares:
        return ""
    from gpuslice.outputs import templates

    server = f"servers.{SERVER}"
    clients = [
        {"table": f"{server}.namespaces.{namespace(number)}", "limits": _limit_lines(*each)}
        for number, each in enumerate(spec.shares, 1)
    ]
    values = {"server": server, "limits": _limit_lines(spec.threads, spec.pinned_mib), "clients": clients}
    text = templates.render("mps_settings", values, overrides)
    if "mps_settings" in (overrides or {}):
        _refuse_looser(text, templates.render("mps_settings", values))
    return f"{_FIRST}\n{text}"


def _limit_lines(percent, mib):
    return [f'active_thread_percentage = "{percent:.0f}"', *([f'pinned_memory_limit = "{mib}M"'] if mib else [])]


def _refuse_looser(text, shipped):
    """Raise errors.PolicyError for settings of a site without a line of the shipped ones. The daemon is asked once it runs."""
    from gpuslice.outputs.templates import weaker

    have = set(_lines_of_tables(text))
    for table, line in _lines_of_tables(shipped):
        if (table, line) not in have:
            where = f" in [{table}]" if table else ""
            raise weaker("mps_settings", f"leaves out {line}{where}", "Take it from the shipped template")


def _lines_of_tables(text):
    """(table, line) of a TOML text, without comments."""
    table = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            table = line.strip("[]").strip()
        elif line and not line.startswith("#"):
            yield table, line


def _digests(text, settings_text):
    """The line that tells whether somebody changed one of the two."""
    return f"# Digests: {digest(text)} {digest(settings_text)}"


def digest(text):
    """Tells one text from another: 16 hex digits."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def _ready(spec):
    """Words for a shell: wait until the daemon answers, set its limits and read them back. For systemd a dollar is two."""
    if spec.shares:
        return _ready_namespaces(spec)
    sets = [(mps.set_threads(spec.threads), mps.GET_THREADS, mps.told_threads(spec.threads))]
    if spec.pinned_mib is not None:
        sets.append((mps.set_pinned(spec.pinned_mib), mps.GET_PINNED, mps.told_pinned(spec.pinned_mib)))
    lines = [
        f'ask() {{ echo "$$1" | {spec.control}; }}',
        f'n=0; until got=$$(ask {mps.GET_THREADS}) && test -n "$$got"; do n=$$((n+1)); test $$n -lt 200; sleep 0.1; done',
        *(f'ask "{do}"; test "$$(ask "{get}")" = {told}' for do, get, told in sets),
    ]
    return "; ".join(lines)


def _ready_namespaces(spec):
    """The same in protocol v3, where the limits stand in its settings."""
    lines = [
        f"got() {{ {spec.control} namespace get $$1 {SERVER} $$2 | tr -cd 0-9A-Z.; }}",
        f'n=0; until test -n "$$(got {namespace(1)} active-thread-percentage)"',
        "do n=$$((n+1)); test $$n -lt 200; sleep 0.1; done",
    ]
    for number, (percent, mib) in enumerate(spec.shares, 1):
        found = [("active-thread-percentage", mps.told_share(percent))]
        found += [("pinned-memory-limit", mps.told_memory(mib))] if mib else []
        lines += [f'case "$$(got {namespace(number)} {what})" in {"|".join(told)}) ;; *) exit 1;; esac' for what, told in found]
    return "; ".join(lines)
