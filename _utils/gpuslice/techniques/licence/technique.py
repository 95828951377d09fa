"""
The guest's side of NVIDIA vGPU: a vGPU in a virtual machine can do little until the daemon nvidia-gridd has a licence for it.

The daemon reads ``/etc/nvidia/gridd.conf`` and the client configuration tokens beside it (``ClientConfigToken/*.tok``) when it
starts. All vGPUs of a guest share these files: they belong to the host, so what is wanted of several has to be the same. Tokens
are secrets: plans, layouts and steps carry their digests (:mod:`gpuslice.secret`).

Settings that it takes (one of): the licence keys of the pillar's section ``vgpu``; ``{"clear": True}`` (or
``remove``): nothing of ours; ``{"layout": {...}}``: exactly this earlier layout.
"""

import os
import re
from dataclasses import replace
from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice import secret
from gpuslice.drivers import device_nodes
from gpuslice.drivers import gridd
from gpuslice.drivers import pci
from gpuslice.drivers import systemd
from gpuslice.inventory import discovery
from gpuslice.model import Slice
from gpuslice.numbers import whole
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.techniques.base import Leftover
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.licence import client_token
from gpuslice.techniques.licence.client_token import ClientToken

SERVICE = "nvidia-gridd"
CONFIGURATION = "/etc/nvidia/gridd.conf"
TEMPLATE = f"{CONFIGURATION}.template"
#: Present while the running daemon has not read what the files say. The daemon of the next boot has, and /run is empty then.
STALE = f"/run/gpu-slicing/{SERVICE}.restart"

_UNITS = tuple(f"{place}/systemd/system/{SERVICE}.service" for place in ("/etc", "/usr/lib", "/lib"))
_RUNS = ("active", "activating", "reloading")
#: How long the daemon may take to stop or start.
_SECONDS = 120
#: Words of the pillar -> FeatureType of gridd.conf.
FEATURES = {"vgpu": "1", "workstation": "2", "compute": "4"}
_FEATURE_WORDS = {number: word for word, number in FEATURES.items()}
#: FeatureType in the vendor's template: whether a vGPU gets a licence all the same depends on the release.
_NO_FEATURE = "0"
#: Keys of the pillar's section that a host decides on.
_OF_THE_HOST = ("profile", "profiles", "count", "scheduler")

_MAKERS = re.compile(r"^(?:NVIDIA\s+)?(?:GRID\s+)?")
_SIZE = re.compile(r"-([0-9]{1,9})[ABCQ]\d?(?:ME|NOME|MEALL|GFX)?\Z")
_SECTION = re.compile(
    r"^\s*vGPU Software Licensed Product\s*$\n\s*Product Name\s*:\s*(.*?)\s*$\n\s*License Status\s*:\s*(.*?)\s*$", re.MULTILINE
)


class GuestState(NamedTuple):
    """
    What the guest has now.

    :ivar text: of gridd.conf, None where there is none; :ivar template: text of a new one.
    :ivar token: digest of our token, "" for none; :ivar others: names of tokens that are not ours.
    :ivar installed: whether the daemon is; :ivar active: whether it runs; :ivar stale: whether it has to read its files again.
    """

    text: str | None
    template: str
    token: str
    others: tuple
    installed: bool
    active: bool
    stale: bool


class Goal(NamedTuple):
    """
    What is wanted.

    :ivar wanted: key of gridd.conf -> value, as :func:`gpuslice.drivers.gridd.rewritten` takes it.
    :ivar token: digest, "" for none; :ivar active: whether the daemon is to run.
    """

    wanted: dict
    token: str
    active: bool


@final
class Licence(Technique):
    """The licence of the vGPUs of one guest."""

    name = "licence"
    effects = {"write_token": "file", "write_license": "file", "restart_service": "unit", "stop_service": "unit"}
    joint = True

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._token = ClientToken(host)

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu):
        """Whether it is a vGPU in a guest."""
        return super().supports(gpu) and gpu.vendor == "nvidia" and discovery.is_vgpu_name(gpu.name)

    def why_not(self, gpu):
        """Why a GPU needs no licence."""
        return Why("it is no vGPU in a guest; licences are set in the guests that have the vGPUs")

    def observe(self, gpu):
        """Read the files and ask for the daemon. Raises errors.StateDirUnusable, errors.ResourceConflict, errors.ToolFailed."""
        self._host.limits.refuse(gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        return GuestState(
            client_token.read(self._host, gpu, CONFIGURATION),
            client_token.read(self._host, gpu, TEMPLATE) or "",
            self._token.digest(gpu),
            self._token.others(),
            any(self._host.exists(path) for path in _UNITS),
            self._runs(),
            self._host.exists(STALE),
        )

    def layout(self, state):
        """The state as plain data, with the digest of the token."""
        return _layout(state.text, state.token, state.active)

    def words(self, layout):
        """A layout in a few words."""
        found = layout["license"]
        settings = _describe(found["server"], found["port"], found["feature"], found["token"])
        return f"{settings}, {SERVICE} {'runs' if found['service'] else 'does not run'}"

    def shown(self, layout):
        """A layout as users see it in changes."""
        found = layout["license"]
        port = found["port"] if found["server"] else ""
        shown = {
            "license_server": found["server"],
            "license_port": port if whole(port) is None else whole(port),
            "feature": _FEATURE_WORDS.get(found["feature"], found["feature"]),
            "client_token": found["token"],
            "service": "running" if found["service"] else "not running",
        }
        return {key: value for key, value in shown.items() if value}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout; None where nothing is set, or a token is, which nobody is told."""
        found = layout["license"]
        if found["token"] or not found["server"]:
            return None
        section = {"license_server": found["server"]}
        if found["port"] != gridd.DEFAULT_PORT and (port := whole(found["port"])) is not None:
            section["license_port"] = port
        if found["feature"] in _FEATURE_WORDS:
            section["feature"] = _FEATURE_WORDS[found["feature"]]
        return {"strategy": "vgpu", "vgpu": section}

    def holders(self, gpu):
        """The processes that hold the vGPU open."""
        held = device_nodes.holding(self._host, device_nodes.of(self._host, gpu.address))
        return [process for process in held if process.pid != os.getpid()]

    # -- planning ------------------------------------------------------------------------------------------------
    def leftovers(self):
        """The token before the last one, which is a secret."""
        return [Leftover(path) for path in self._token.kept()]

    def settle(self, gpu, state, wish):
        """Raises errors.Unsupported: a guest makes no vGPUs."""
        raise errors.Unsupported("This is a vGPU in a guest; vGPUs are made on its host.", gpu.address)

    def together(self, works):
        """All vGPUs of a guest: they share one licence."""
        return [works] if works else []

    def plan(self, works):
        """
        :raises errors.Unsupported: a guest can't do it, or has no licence daemon.
        :raises errors.Several: the vGPUs of the guest are to have different licences.
        """
        _refuse_difference(works)
        first = works[0]
        gpu, state = first.gpu, first.state
        # They come to the same, but what can't be meant of one of them is refused wherever it stands.
        goal = self.each(works, lambda work: self._goal(work.gpu, work.state, work.settings, work.rules))[0]
        text = gridd.rewritten(state.text, state.template, goal.wanted)
        changes = [
            *([self._token_step(gpu, state.token, goal.token)] if goal.token != state.token else []),
            *([self._conf_step(gpu, state, goal, text)] if text != state.text else []),
        ]
        steps = (*changes, *self._service_steps(gpu, state, goal, bool(changes)))
        before, after = self.layout(state), _layout(text, goal.token, goal.active)
        part = self.part(
            gpu, before, after, steps,
            keeps=tuple(f"vGPU {_type(work.gpu)}" for work in works),
            note=self._note(gpu, state, (after if steps else before)["license"], bool(steps)),
        )  # fmt: skip
        return [replace(part, addresses=tuple(work.gpu.address for work in works))]

    def _goal(self, gpu, state, settings, rules):
        if "layout" in settings:
            found = settings["layout"]["license"]
            wanted = dict(zip(gridd.KEYS, (found["server"], found["port"], found["feature"]), strict=True))
            goal = Goal(wanted, found["token"], found["service"])
        elif settings.get("clear") or settings.get("remove"):
            return Goal({}, "", state.active)
        else:
            goal = self._of_section(gpu, state, settings, rules)
        self._check_token(gpu, state, goal, rules)
        if goal.active and not state.installed:
            raise errors.Unsupported(
                f"A licence is wanted, and the licence daemon {SERVICE} is not installed.",
                gpu.address,
                "Install NVIDIA's vGPU driver for guests (NVIDIA-Linux-x86_64-<version>-grid.run, or package nvidia-linux-grid) "
                "of the release that the host has.",
            )
        return goal

    def _of_section(self, gpu, state, settings, rules):
        ours = [key for key in _OF_THE_HOST if settings.get(key)]
        if ours:
            raise errors.Unsupported(
                f"{gpu.model} is a vGPU in a guest; its type is its host's affair.",
                gpu.address,
                f"Leave {', '.join(rules.key('vgpu', key) for key in ours)} out: they are of hosts.",
            )
        server, port, feature, token = _asked(settings)
        # A token that somebody else put there is a licence too; then only the daemon is ours to look after.
        if not (server or token or feature or state.others):
            raise errors.Unsupported(
                f"vGPU types are chosen on the host, and no licence is named for {gpu.model}.",
                gpu.address,
                f"Name {rules.key('vgpu', 'license_server')} or {rules.key('vgpu', 'client_token')} for this guest.",
            )
        if isinstance(settings.get("client_token"), secret.Secret):
            self._token.learn(settings["client_token"])
        return Goal({gridd.SERVER: server, gridd.PORT: port, gridd.FEATURE: feature}, token, True)

    def _check_token(self, gpu, state, goal, rules):
        if not goal.token or goal.token == state.token:
            return
        place = gridd.values(state.text if state.text is not None else state.template)[gridd.TOKEN_PATH]
        if place and place.rstrip("/") != client_token.FOLDER:
            raise errors.Unsupported(
                f"A client token is wanted, and {CONFIGURATION} makes {SERVICE} look for tokens in {place}.",
                gpu.address,
                f"Remove the line {gridd.TOKEN_PATH}, or put the token there yourself and leave "
                f"{rules.key('vgpu', 'client_token')} out.",
            )
        if not self._token.has(gpu, goal.token):
            raise errors.Unsupported(
                f"The client token {goal.token} is wanted, and this guest has no copy of it: only one former token is kept.",
                gpu.address,
                f"Give it as {rules.key('vgpu', 'client_token')}.",
            )

    def _token_step(self, gpu, old, new):
        path = client_token.PATH
        words = f"write the client token {new} to {path}" if new else f"remove the client token {old} ({path})"
        undo = f"write {old} again, of which a copy is kept" if old else "remove it"
        return self.step(gpu, "write_token", {"token": new}, words, "file_write", PREPARE, undo)

    def _conf_step(self, gpu, state, goal, text):
        args = {name: goal.wanted.get(key, "") for name, key in zip(("server", "port", "feature"), gridd.KEYS, strict=True)}
        if text is None:
            words = f"remove {CONFIGURATION}, which was made for lines of ours"
        else:
            told = gridd.values(text)
            lines = ", ".join(f"{key}={told[key]}" for key in gridd.KEYS if goal.wanted.get(key))
            words = f"set {lines} in {CONFIGURATION}" if lines else f"take our lines out of {CONFIGURATION}"
        undo = "take the lines out again" if state.text is not None else "remove the file again"
        return self.step(gpu, "write_license", args, words, "file_write", PREPARE, undo)

    def _service_steps(self, gpu, state, goal, changed):
        if goal.active and (changed or state.stale or not state.active):
            words = f"restart {SERVICE}, so that it reads its files" if state.active else f"start {SERVICE}"
            return [self.step(gpu, "restart_service", {}, words, "restart_unit", CARVE, "restart it with the former files")]
        if state.active and not goal.active:
            return [self.step(gpu, "stop_service", {}, f"stop {SERVICE}", "restart_unit", CARVE, "start it again")]
        return []

    def _note(self, gpu, state, after, changes):
        licence = {} if changes else self._licence(gpu)
        parts = [] if changes else [f"already as wanted; {licence['words']}"]
        if after["token"] and state.others:
            others = ", ".join(state.others)
            parts.append(f"{client_token.FOLDER} also has {others}, which is left alone and may be taken instead")
        if after["feature"] == _NO_FEATURE and not licence.get("licensed"):
            parts.append(f"{CONFIGURATION} has FeatureType=0, no licence: if the vGPU gets none, set vgpu:feature to vgpu")
        return f"{'. '.join(parts)}." if parts else ""

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_write_token(self, gpu, token):
        """
        Put the token with this digest in the place of ours, or remove ours; the one before is kept.

        :param token: digest, "" for none. :raises errors.StateDirUnusable: a file can't be written.
        """
        if self._token.digest(gpu) != token:
            self._note_stale(gpu)
            self._token.write(gpu, token)

    def _note_stale(self, gpu):
        """Before a file changes: a crash right after it must not leave a daemon that nobody restarts."""
        client_token.store(self._host, gpu, STALE, f"{SERVICE} has not read its changed files yet.\n")

    def _run_write_license(self, gpu, server, port, feature):
        """
        Set our lines in gridd.conf, or take them out.

        :param server: :param port: :param feature: values, "" where no line of ours is wanted.
        :raises errors.StateDirUnusable: the file can't be written.
        """
        old = client_token.read(self._host, gpu, CONFIGURATION)
        template = client_token.read(self._host, gpu, TEMPLATE) or ""
        new = gridd.rewritten(old, template, dict(zip(gridd.KEYS, (server, port, feature), strict=True)))
        if new != old:
            self._note_stale(gpu)
            client_token.store(self._host, gpu, CONFIGURATION, new)

    def _run_restart_service(self, gpu):
        """Restart the daemon, unless that was done for another vGPU already. Raises errors.ToolFailed, errors.ToolMissing."""
        if self._runs() and not self._host.exists(STALE):
            return
        self._switch(gpu, "restart", systemd.restart)
        found = systemd.active_state(self._host, SERVICE)
        if found not in _RUNS:
            raise self._failed(gpu, f"{SERVICE} was restarted and does not run: systemd says it is {found or 'not known'}.")
        client_token.store(self._host, gpu, STALE, None)

    def _run_stop_service(self, gpu):
        """Stop the daemon. Raises errors.ToolFailed, errors.ToolMissing."""
        if self._runs():
            self._switch(gpu, "stop", systemd.stop)
        client_token.store(self._host, gpu, STALE, None)

    def _runs(self):
        return systemd.active_state(self._host, SERVICE) in _RUNS

    def _switch(self, gpu, doing, switch):
        if why := switch(self._host, SERVICE, _SECONDS).failure:
            raise self._failed(gpu, f"Could not {doing} {SERVICE}: {why}")

    @staticmethod
    def _failed(gpu, what):
        return errors.ToolFailed(what, gpu.address, f"See 'journalctl -u {SERVICE}'.")

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The vGPU itself, which is all that a guest has to give."""
        nodes = tuple(device_nodes.of(self._host, gpu.address))
        holders = tuple(process.as_dict() for process in self.holders(gpu))
        identity = gpu.uuid or gpu.address
        return [Slice(gpu.address, "vgpu", _type(gpu), identity, _memory(gpu), None, "", nodes, holders, gpu.address)]

    def drawing(self, gpu, state):
        """The type and what is set, in a few words."""
        return f"vGPU {_type(gpu)}; {self.words(self.layout(state))}"

    def status(self, gpu):
        """
        What users see of one vGPU, as a dict.

        :return: ``type``, what is set (as in changes), ``other_tokens``, ``restart_due`` and what ``nvidia-smi -q`` tells:
            ``licensed`` (None where it tells nothing), ``license`` and ``product``. Raises as :meth:`observe`.
        """
        state = self.observe(gpu)
        licence = self._licence(gpu)
        return {
            "type": _type(gpu),
            **self.shown(self.layout(state)),
            "other_tokens": list(state.others),
            "restart_due": state.stale and state.active,
            "licensed": licence["licensed"],
            "license": licence["status"],
            "product": licence["product"],
        }

    def creatable(self, gpu):
        """Raises errors.Unsupported: a guest chooses no types."""
        raise errors.Unsupported("This is a vGPU in a guest; its type was chosen on its host.", gpu.address)

    def _licence(self, gpu):
        """``licensed``, ``status``, ``product`` and ``words`` of the driver's licence, without ever failing."""
        try:
            done = self._host.run(["nvidia-smi", "-q", "-i", gpu.address])
            found = None if done.returncode else _SECTION.search(done.stdout)
        except errors.GpuSliceError:
            found = None
        if not found:
            return {"licensed": None, "status": "", "product": "", "words": "nvidia-smi tells nothing of a licence"}
        product, status = found.groups()
        return {
            "licensed": status.startswith("Licensed"),
            "status": status,
            "product": product,
            "words": f"licence of {product}: {status}",
        }


def _refuse_difference(works):
    """Raise errors.Several where what is wanted of one vGPU of the guest differs from what is wanted of another."""
    asked = [(work.gpu, said) for work in works if (said := _asked(work.settings)) is not None]
    found = []
    for gpu, said in asked:
        if other := next(((one, its) for one, its in asked if its != said), None):
            err = errors.PolicyError(
                f"{_describe(*said)} is wanted of it, and {_describe(*other[1])} of {other[0].address}: all vGPUs of a guest "
                "share one licence configuration.",
                gpu.address,
                "Ask for the same of both.",
            )
            found.append((gpu.address, err))
    if found:
        raise errors.Several(found)


def _layout(text, token, active):
    told = gridd.values(text)
    server, port, feature = (told[key] for key in gridd.KEYS)
    return {"license": {"server": server, "port": port, "feature": feature, "token": str(token), "service": bool(active)}}


def _asked(settings):
    """(server, port, FeatureType, digest of the token) that settings ask for, None where they are no licence."""
    if "layout" in settings:
        found = settings["layout"]["license"]
        return found["server"], found["port"], found["feature"], found["token"]
    if settings.get("clear") or settings.get("remove"):
        return "", "", "", ""
    if any(settings.get(key) for key in _OF_THE_HOST):
        return None
    server, token = settings.get("license_server") or "", settings.get("client_token") or ""
    if token and not isinstance(token, secret.Secret) and not secret.is_digest(token):
        # Whatever is in settings is written to the journal.
        token = secret.Secret(token)
    port = str(settings.get("license_port") or gridd.DEFAULT_PORT) if server else ""
    return server, port, FEATURES.get(settings.get("feature"), ""), str(token)


def _describe(server, port, feature, token):
    """Licence settings in words."""
    parts = [f"licence server {server}:{port}"] if server else []
    parts += [f"feature {_FEATURE_WORDS.get(feature, feature)}"] if feature else []
    parts += [f"client token {token}"] if token else []
    return ", ".join(parts) or "no licence"


def _type(gpu):
    """Name of the vGPU type as users write it."""
    return _MAKERS.sub("", gpu.name)


def _memory(gpu):
    """MiB of framebuffer that the name of the type tells; 0 GB in it is half a GB. None where it tells none."""
    found = _SIZE.search(gpu.name)
    return None if not found else int(found[1]) * 1024 or 512
