"""
Who is to have what: from settings and slices to bindings, what opens them, and the files for it. Nothing is written here.
"""

import hashlib
import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import nvidia_ctk
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Host
from gpuslice.model import Slice
from gpuslice.model import with_taken
from gpuslice.outputs import cdi
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import merged
from gpuslice.outputs.file import File
from gpuslice.secret import Secret
from gpuslice.techniques.base import Work
from gpuslice.techniques.consumers import binding
from gpuslice.techniques.consumers.devices import Devices
from gpuslice.techniques.consumers.devices import closed
from gpuslice.techniques.consumers.files import Files
from gpuslice.techniques.consumers.files import Served
from gpuslice.techniques.consumers.files import consumer_of
from gpuslice.techniques.consumers.files import unit_of
from gpuslice.techniques.consumers.people import People
from gpuslice.techniques.consumers.programs import Programs
from gpuslice.techniques.consumers.register import NOTHING
from gpuslice.techniques.consumers.register import Noted

if TYPE_CHECKING:
    from gpuslice.techniques.consumers.quotas import Limit

_DISMISS = "It has a slice now that would go, or could not be told from another: 'salt-call gpu_consumer.dismiss <consumer>'."

#: What keeps one consumer from being served, whatever the others are.
_UNSERVED = (errors.PolicyError, errors.Unsupported, errors.ToolMissing, errors.ToolFailed)
_CLOSED = "Without a device node, since no driver of this host has them, so that nobody can be handed them: {}{}."
_HELD = "Quarantined, so that nobody else is handed them: {}{}; see 'salt-call gpu_health.quarantined'."
_ONE_FOR_ALL = "Let one of them have all slices: resource_limits:gpu_instances says how many."
#: How many former keys of units are kept for rollbacks, beside those of consumers: far more than there are generations.
_MOST = 500


class Goal(NamedTuple):
    """
    What is wanted.

    :ivar noted: what the record will say; :ivar files: the files by path; :ivar served: consumers that get something, by name.
    :ivar said: what has to be known of what containers get, a line each; "" for nothing.
    :ivar unserved: who can't be served although there is a slice, and why, as sentences.
    :ivar limits: of GPU memory. :ivar halting: consumers that are left without any slice, since what they had is quarantined.
    """

    noted: Noted
    files: dict[str, File] = {}
    served: dict[str, Served] = {}
    said: str = ""
    unserved: tuple[str, ...] = ()
    halting: tuple[str, ...] = ()
    limits: "tuple[Limit, ...]" = ()


def goal(
    host: Host, sessions: Sessions, works: Sequence[Work], noted: Noted, quarantined: Mapping[str, str] | None = None
) -> Goal:  # fmt: skip
    """
    What settings come to on the slices that there are, or are forecast.

    :param works: of all GPUs, with the same settings.
    :param quarantined: name of a slice or PCI address of a board -> what that means for whoever has it, as a word of
        :mod:`.binding`. :raises errors.PolicyError: not all can be served.
    """
    settings = works[0].settings
    asked = _asked_for(settings, noted)
    if not asked["cdi"]:
        return Goal(NOTHING._replace(quadlets=noted.quadlets))
    specs = {name: asked_of(each) for name, each in asked["consumers"].items()}
    unread = [work.gpu.address for work in works if not work.below.read]
    slices = with_taken(each for work in works for each in work.below.slices)
    found = devices_of(works)
    # Of those that are still to be made nobody knows whether a driver makes nodes of them.
    nobodys = closed(slices, {work.gpu.address for work in works if work.below.certain})
    as_noted = _as_noted(unread, noted)
    offers = binding.offers([*(each for each in slices if each.name not in nobodys), *as_noted])
    had = asked["consumers"] if "layout" in settings else noted.consumers
    having = {name: each.get("slices", []) for name, each in had.items()}
    barred = _barred([*slices, *as_noted], quarantined or {})
    bound = _bound(offers, specs, having, settings, nobodys, barred)
    halting = tuple(name for name in specs if not bound[name] and any(part in barred for part in having.get(name, ())))
    opening = _Opening(found, noted, unread)
    quadlets = _quadlets(specs, noted)
    served = {
        name: Served(consumer_of(name, spec, quadlets), opening.all_of(name, offers, bound[name], spec.get("vram_mib")))
        for name, spec in specs.items()
    }
    devices = {**opening.kept(), **{each.name: opening.of(each) for each in offers}}
    handed = {name: {**spec, "slices": bound[name]} for name, spec in specs.items()}
    # Who goes by what is on record has the templates of then: a boot has no file server to ask.
    strict = "layout" not in settings
    limits = _limits(host, sessions, works, noted, served, {
        name: [each for each in offers if each.name in bound[name]] for name in served
    })  # fmt: skip
    if limits and strict and not settings.get("kept"):
        _quotas().refuse_too_much(limits)
    made = _with_files(host, noted, settings.get("templates", noted.templates), handed, devices, served, strict, limits)
    made = made._replace(said="\n".join([*filter(None, [made.said]), *_held_up(offers, specs, bound, barred)]), halting=halting)
    gpus = {name: gpu for name, gpu in noted.gpus.items() if gpu in unread}
    gpus.update({each.name: each.gpu for each in offers})
    return made._replace(noted=made.noted._replace(gpus=gpus, quadlets=quadlets))


def devices_of(works: Iterable[Work]) -> Devices:
    """What opens the slices of the GPUs of these works."""
    return Devices({work.gpu.address: work.gpu.vendor for work in works})


def _quadlets(specs: Mapping[str, Mapping], noted: Noted) -> dict[str, dict[str, Any]]:
    """What stands for the digests in settings, the newest last. Raises errors.PolicyError: that of one is not known any more."""
    found = dict(noted.quadlets)
    for name, spec in specs.items():
        given = spec["quadlet"]
        if isinstance(given, Secret):
            found[str(given)] = found.pop(given, None) or json.loads(given.reveal())
        elif given and given not in found:
            raise errors.PolicyError(
                f"Consumer {name} had further keys for its unit ('quadlet'), and they are not on record any more.",
                todo="Run 'salt-call state.apply gpu_slicing' with a pillar that has them.",
            )
        elif given:
            found[given] = found.pop(given)
    return dict(list(found.items())[-_MOST:])


def _asked_for(settings: Mapping[str, Any], noted: Noted) -> Mapping[str, Any]:
    if settings.get("kept"):
        return {"cdi": noted.cdi, "consumers": noted.consumers}
    asked = settings.get("layout", settings)
    # Who speaks of names alone says nothing of those who have some.
    return asked if "consumers" in asked else {**asked, "consumers": noted.consumers}


def asked_of(handed: Mapping[str, Any]) -> dict[str, Any]:
    """What a consumer asked for, without what he has."""
    return {key: value for key, value in handed.items() if key != "slices"}


def _barred(slices: Sequence[Slice], quarantined: Mapping[str, str]) -> dict[str, str]:
    """Name of a slice -> what its quarantine means for whoever has it; most hosts have none, and load nothing for it."""
    if not quarantined:
        return {}
    from gpuslice.records import quarantine

    return {name: quarantined[of] for name, of in quarantine.barred(slices, quarantined).items()}


def _held_up(
    offers: Sequence[Slice], specs: Mapping[str, Mapping], bound: Mapping[str, Sequence[str]], barred: Mapping[str, str]
) -> list[str]:  # fmt: skip
    """Sentences on consumers that stay on what is quarantined, or have less than they ask for since the rest is."""
    found, waiting = [], [each for each in offers if each.name in barred]
    for name in specs if barred else ():
        staying = [part for part in bound[name] if barred.get(part) == binding.KEEP]
        if staying:
            where = ", ".join(staying)
            found.append(f"Consumer {name} stays on {where}, which is quarantined, since nothing else that fits is free.")
        consumer = consumer_of(name, specs[name])
        fitting = [each.name for each in waiting if binding.fits(each, consumer.sought)]
        if len(bound[name]) < consumer.instances and fitting:
            found.append(
                f"Consumer {name} has {len(bound[name])} of {consumer.instances} slices, since what fits is quarantined: "
                f"{', '.join(fitting[:4])}{' ...' if len(fitting) > 4 else ''}."
            )
    return found


def _bound(offers, specs, had, settings, nobodys, barred):
    consumers = [consumer_of(name, spec) for name, spec in specs.items()]
    if settings.get("undo"):
        # Who had less than he asks for, since the rest was quarantined, is to have no more than that.
        consumers = [each._replace(instances=min(each.instances, len(had.get(each.name, ())))) for each in consumers]
    try:
        # Whoever goes back to an earlier layout is served as far as there is something.
        return binding.bound(offers, consumers, had, "layout" not in settings, barred)
    except errors.PolicyError as err:
        hints = [_CLOSED.format(", ".join(nobodys[:3]), " ..." if len(nobodys) > 3 else "")] if nobodys else []
        if held := [each.name for each in offers if each.name in barred]:
            hints.append(_HELD.format(", ".join(held[:3]), " ..." if len(held) > 3 else ""))
        hints += [_DISMISS] if "consumers" not in settings else []
        if hints:
            raise errors.with_more(err, " ".join(hints)) from err
        raise


def _as_noted(unread: Sequence[str], noted: Noted) -> list[Slice]:
    """The slices of GPUs that can't be read, as they were handed out: whoever has one keeps it, and nobody else gets it."""
    found = []
    for name, each in noted.consumers.items():
        for part in each["slices"]:
            if (gpu := noted.gpus.get(part, "")) in unread:
                wants = noted.consumers[name]["wants"]
                found.append(Slice(gpu, wants.get("kind", ""), wants.get("profile", ""), "", wants.get("memory_mib"), name=part))
    return found


class _Opening:
    """What opens slices: as they are now, or as they were where their GPU can't be read."""

    def __init__(self, found: Devices, noted: Noted, unread: Sequence[str]) -> None:
        self._found, self._noted, self._unread = found, noted, unread

    def of(self, each: Slice) -> Device:
        if each.gpu in self._unread:
            return self._noted.devices.get(each.name, Device(each.name))
        return self._found.of(each)

    def kept(self) -> dict[str, Device]:
        """What was handed out of GPUs that can't be read, whoever has it."""
        return {name: each for name, each in self._noted.devices.items() if self._noted.gpus.get(name) in self._unread}

    def all_of(self, consumer: str, offers: Sequence[Slice], names: Sequence[str], vram_mib: int | None) -> Device:
        slices = [each for each in offers if each.name in names]
        if any(each.gpu in self._unread for each in slices):
            return merged(consumer, map(self.of, slices))
        return self._found.of_consumer(consumer, slices, vram_mib)


def _quotas() -> Any:
    """What limits memory of GPUs; few hosts have such limits, and no other loads it."""
    from gpuslice.techniques.consumers import quotas

    return quotas


def _limits(
    host: Host, sessions: Sessions, works: Sequence[Work], noted: Noted, served: Mapping[str, Served],
    slices: Mapping[str, Sequence[Slice]],
) -> "tuple[Limit, ...]":  # fmt: skip
    having = [
        (each.consumer, slices[name]) for name, each in served.items() if each.consumer.vram_mib and slices[name]
    ]  # fmt: skip
    if not having:
        return ()
    people = People(host)
    gpus = {work.gpu.address: work.gpu for work in works}
    return tuple(_quotas().wanted(host, sessions, gpus, having, lambda consumer: people.uid(consumer.user), noted.files))


def _with_files(host, noted, templates, handed, devices, served, strict, limits=()) -> Goal:
    programs = Programs(host, noted.programs)
    writer, unserved = Files(host, programs, templates), []
    own: dict[str, list[File]] = {}
    for name, each in served.items():
        try:
            own[name] = writer.of(each)
        except _UNSERVED as err:
            if strict:
                raise
            # His unit, user or Podman went meanwhile: that keeps nobody else from what he had.
            served[name] = each._replace(device=Device(name))
            own[name] = _closed(writer, served[name])
            handed[name] = {**handed[name], "slices": []}
            unserved.append(f"Consumer {name} is not served: {err}")
    limiting: list[File] = []
    if limits:
        limits = tuple(each for each in limits if handed[each.consumer.name]["slices"])
        dropped, limiting = _quotas().files(limits, unit_of)
        for name, files_of_limit in dropped.items():
            own[name] = [*own[name], *files_of_limit]
    _refuse_shared_files(own)
    _refuse_shared_units([each.consumer for each in served.values()])
    openable = {name: each for name, each in devices.items() if each.nodes}
    driver, said = _driver(host, noted, openable)
    common = cdi.Common(driver["edits"], driver["version"]) if driver else cdi.NONE
    specs = cdi.files(openable.values(), [each.device for each in served.values() if each.device.nodes], common)
    # What only says how much is no reason to start anybody anew.
    files = {each.path: each for each in (*specs, *limiting, *(one for found in own.values() for one in found))}
    # Containers keep the libraries that they began with, and with a new driver these are others.
    release = driver.get("key", "").partition(" ")[0]
    digests = {
        name: digest(each.device.digest, *_told(own[name]), *([release] if each.consumer.kind == "container" else []))
        for name, each in served.items()
    }
    texts = {path: digest(each.text) for path, each in files.items()}
    made = Noted(True, handed, openable, digests, texts, programs=programs.found, driver=driver, templates=templates)
    of_limits = _quotas().told(limits) if limits else []
    return Goal(made, files, served, "\n".join(filter(None, [said, *unserved, *of_limits])), tuple(unserved), limits=limits)


def _closed(writer: Files, served: Served) -> list[File]:
    """What keeps who is not served from the slices of others, as far as it can be had: [] where his unit or user is gone."""
    try:
        return writer.of(served)
    except _UNSERVED:
        return []


def _told(files: Sequence[File]) -> list[str]:
    """Where and what: who gets another unit has a file of the same text elsewhere."""
    return [part for path, text, _ in files for part in (path, text)]


def _refuse_shared_files(own: Mapping[str, Sequence[File]]) -> None:
    """Raise errors.PolicyError for two consumers that are one unit or one user: the files of one would be those of the other."""
    owners: dict[str, tuple[str, str]] = {}
    for name, files in own.items():
        for each in files:
            first, text = owners.setdefault(each.path, (name, each.text))
            if text != each.text:
                raise errors.PolicyError(
                    f"Consumers {first} and {name} both come to {each.path}: a unit or user can be one consumer only.",
                    todo=_ONE_FOR_ALL,
                )


def _refuse_shared_units(consumers: Sequence[Consumer]) -> None:
    """Raise errors.PolicyError for a unit that is one consumer's as a service, and another one's as a container of Quadlet."""
    owners: dict[str, str] = {}
    for each in consumers:
        if unit := unit_of(each):
            first = owners.setdefault(unit, each.name)
            if first != each.name:
                raise errors.PolicyError(
                    f"Consumers {first} and {each.name} both run as {unit}: a unit can be one consumer only.",
                    todo=_ONE_FOR_ALL,
                )


def _driver(host, noted: Noted, devices: Mapping[str, Device]) -> tuple[dict[str, Any], str]:
    """What containers need of NVIDIA's driver, {} where none of its devices is handed out, and what has to be said of it."""
    if not cdi.needs_common(devices.values()):
        return {}, ""
    kept = nvidia_ctk.Part(**noted.driver) if noted.driver else None
    found = nvidia_ctk.part(host, kept)
    return {"key": found.key, "edits": found.edits, "version": found.version}, found.said


def digest(*texts: str) -> str:
    """Tells texts from others."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
