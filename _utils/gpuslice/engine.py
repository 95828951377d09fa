"""
The engine as the loader files call it: from a pillar or an argument, over a host, to plain data.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from functools import partial
from typing import NamedTuple

from gpuslice import addresses
from gpuslice import arguments
from gpuslice import errors
from gpuslice import job
from gpuslice import kinds
from gpuslice import policy as policies
from gpuslice.host.base import ENERGY
from gpuslice.host.base import OWED
from gpuslice.host.base import QUARANTINE
from gpuslice.host.open import open_host
from gpuslice.inventory import discovery
from gpuslice.inventory import machine
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.model import with_taken
from gpuslice.policy.fields import INTEGRATION
from gpuslice.records import interrupted
from gpuslice.records.history import History
from gpuslice.records.reboot import RebootLedger
from gpuslice.rules import Options
from gpuslice.techniques.base import Why
from gpuslice.techniques.toolbox import Toolbox

log = logging.getLogger(__name__)

_NO_REBOOT = "No reboot is scheduled now: it waits for the maintenance window, and for a run within that."
#: What of the usual time the driver has for counters that are read beside a change.
_HURRY = 1 / 6


class Reading(NamedTuple):
    """
    What one look at a GPU tells.

    :ivar slices: all of them, those that are taken too. :ivar states: technology -> what it observed.
    :ivar made_by: name of a slice -> technology that makes it. :ivar errors: technology -> why it can't be read.
    """

    slices: tuple
    states: dict
    made_by: dict
    errors: dict


class Doing(NamedTuple):
    """Who asks: function and user, or the process; and Salt's job id, "" for none."""

    who: str
    jid: str


class Engine:
    """
    One request on one host.

    :param config: ``gpu_slicing`` of the minion configuration; :param cachedir: the minion's, to name the Salt job.
    :param progress: called with a line before each step of a change; :param events: as of :class:`gpuslice.rules.Options`.
    """

    #: Calls a function of Salt, as :attr:`gpuslice.rules.Options.call`; whoever can sets it.
    call = None
    #: Called with what becomes of the health of GPUs: kind and fields, see ``docs/events.md``; whoever can sets it.
    health_events = None

    def __init__(self, config=None, cachedir="", progress=None, events=None):
        if config and not isinstance(config, Mapping):
            raise errors.PolicyError(
                f"gpu_slicing in the minion configuration is {config!r}, which is no mapping.",
                todo="Write its keys simulate and state_dir below it, or leave it out.",
            )
        self.host = open_host(config)
        self._config, self._cachedir = config, cachedir
        self._progress, self._events = progress, events
        self.tools = Toolbox(self.host)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tools.release()

    # -- the host ------------------------------------------------------------------------------------------------
    @cached_property
    def gpus(self):
        """The GPUs of the host, by PCI address."""
        return discovery.discover(self.host)

    def gpu(self, name):
        """The GPU of that PCI address (in any form) or UUID. Raises errors.DeviceNotFound."""
        if addresses.is_uuid(name):
            self.gpus = discovery.with_uuids(self.gpus, self.tools.sessions)
        found, warnings = discovery.select(self.gpus, "manual", [name])
        for warning in warnings:
            log.warning("%s", warning)
        return found[0]

    def chosen(self, named):
        """
        The GPUs that a user means, as :class:`gpuslice.inventory.naming.Chosen`.

        :raises errors.DeviceNotFound, errors.PolicyError: as :func:`gpuslice.inventory.naming.chosen`.
        """
        # Here and in ids, so that a run without a name does not load it.
        from gpuslice.inventory import naming

        each = named if isinstance(named, list | tuple) else [named]
        if any(addresses.is_index(one) for one in each):
            raise errors.PolicyError(
                f"{named} is the index of a GPU, and indices move when a card is added, removed or lost.",
                todo="Name it by its PCI address or its UUID:\n" + naming.ids_told(self.ids()),
            )
        if any(addresses.is_uuid(one) for one in each):
            self.gpus = discovery.with_uuids(self.gpus, self.tools.sessions)
        found = naming.chosen(self.gpus, named, partial(self.slices, taken=True))
        for warning in found.warnings:
            log.warning("%s", warning)
        return found

    def functions_among(self, named):
        """What a user names: (names of GPUs, GPU -> its virtual functions), see :func:`gpuslice.inventory.naming.functions`."""
        from gpuslice.inventory import naming

        return naming.functions(self.gpus, named)

    def ids(self):
        """Every GPU by all that it is called: see :func:`gpuslice.inventory.naming.ids`."""
        from gpuslice.inventory import naming

        self.gpus = self.told_uuids(self.gpus)
        return naming.ids(self.gpus, self.tools.sessions)

    def techniques_of(self, gpu, telling=False):
        """
        The techniques of this version that this GPU can do now: while a VFIO driver has it, only what hands it out.

        :param telling: only those of which there may be anything to tell. The others are not even loaded.
        """
        given_away = discovery.is_given_away(gpu)
        found = [kind for kind in kinds.concerning(gpu) if kind.gives_away or not given_away]
        if telling and any(kind.noted for kind in found):
            noted = self.host.store_names(self.host.state_dir)
            found = [kind for kind in found if not kind.noted or kind.noted in noted]
        return [tool for tool in (self.tools.get(kind.name) for kind in found) if tool.supports(gpu)]

    def devices(self, gpus=None):
        """
        GPUs as in the grain, with UUID and live state of each technique (or why it can't be read).

        :param gpus: the only ones that are looked at, None for all.
        """
        # Here, so that a run that lists no devices does not load it.
        from gpuslice.inventory import grain

        gpus, found = self.gpus if gpus is None else gpus, []
        for gpu, facts in zip(gpus, grain.facts_of(gpus), strict=True):
            live = {kinds.named(tool.name).word: self._live(tool, gpu) for tool in self.techniques_of(gpu)}
            found.append({**facts, "uuid": gpu.uuid, "live": live})
        return found

    def _live(self, tool, gpu):
        try:
            return tool.layout(self.seen(tool, gpu))
        except errors.GpuSliceError as err:
            return str(err)

    def seen(self, tool, gpu):
        """The state that people are shown of a technology of a GPU: without what stood on slices that are gone."""
        return tool.standing(gpu, tool.observe(gpu), partial(self._below, tool, gpu))

    def _below(self, tool, gpu):
        lower = [found for name in kinds.named(tool.name).over if (found := self.tools.get(name)).supports(gpu)]
        return [part for each in lower for part in each.slices(gpu, each.observe(gpu))]

    def slices(self, gpu=None, taken=False):
        """What consumers can be given, as dicts, ``quarantined`` among them where that is so; parameters as of :meth:`parts`."""
        parts = self.parts(gpu, taken)
        held = self.barred(parts)
        return [{**part.as_dict(), **({"quarantined": True} if part.name in held else {})} for part in parts]

    def quarantined(self):
        """Name of a slice or PCI address of a board -> its :class:`gpuslice.records.quarantine.Entry`, of what is quarantined."""
        if not self.host.has_record(QUARANTINE):
            return {}
        # Few hosts have any, and no other loads what reads it.
        from gpuslice.records import quarantine

        return quarantine.in_force(self.host)

    def barred(self, parts):
        """
        Name of a slice -> what is quarantined that it is or stands on, of these :class:`gpuslice.model.Slice`. Where the record
        can't be read the log says so: whoever only looks is told all the rest.
        """
        try:
            names = self.quarantined()
        except errors.GpuSliceError as err:
            log.warning("%s", err)
            return {}
        if not names:
            return {}
        from gpuslice.records import quarantine

        return quarantine.barred(parts, names)

    def parts(self, gpu=None, taken=False, untold=None):
        """
        What consumers can be given, as :class:`gpuslice.model.Slice`. A GPU that can't be read is told in the log and has none.

        :param taken: also the slices on which others stand. :param untold: a set that gets the addresses of GPUs of which not all
            could be read.
        """
        found, warned = [], set()
        gpus = self.asked(gpu)
        readings = self.host.limits.side_by_side(partial(self.reading, strict=gpu is not None), gpus)
        for one, read in zip(gpus, readings, strict=True):
            reading = read()
            for err in reading.errors.values():
                if str(err) not in warned:
                    log.warning("%s", err)
                warned.add(str(err))
            if reading.errors and untold is not None:
                untold.add(one.address)
            found += [part for part in reading.slices if taken or not part.taken]
        return found

    def reading(self, gpu, strict=False):
        """
        What one look at a GPU tells, as :class:`Reading`.

        :param gpu: :class:`gpuslice.model.Gpu`; :param strict: raise what can't be read before any slice was found.
        """
        slices, states, by_name, unread, failed = [], {}, {}, set(), {}
        # Python's sort keeps the order within a layer.
        tools = self.techniques_of(gpu, telling=True)
        for tool in sorted(tools, key=lambda tool: kinds.named(tool.name).layer == kinds.SHARE):
            try:
                below = [part for name in kinds.named(tool.name).over for part in by_name.get(name, ())]
                state = tool.observe(gpu)
                by_name[tool.name] = tool.slices_on(gpu, state, below)
                slices += by_name[tool.name]
                states[tool.name] = state
            except errors.GpuSliceError as err:
                if strict and not slices:
                    raise
                failed[tool.name] = err
                # What stands on these can't be told, so that none of them is anybody's to give.
                unread.update(kinds.named(tool.name).over)
        held = {part.name for name in unread for part in by_name.get(name, ())}
        slices = [part._replace(taken=True) if part.name in held else part for part in with_taken(slices)]
        made_by = {part.name: name for name, parts in by_name.items() for part in parts}
        return Reading(tuple(slices), states, made_by, failed)

    def is_whole(self, gpu):
        """Whether programs can use a GPU that has no slices as a whole. Raises as its techniques do where it can't be read."""
        return self.closed_by(gpu) is None

    def closed_by(self, gpu):
        """
        The technology whose mode keeps programs from using a GPU that has no slices as a whole, "" for another reason; None where
        they can. Raises as its techniques do where it can't be read.
        """
        if not gpu.driver or discovery.is_given_away(gpu) or gpu.virtual_functions.get("enabled"):
            return ""
        tools = self.techniques_of(gpu, telling=True)
        return next((tool.name for tool in tools if not tool.leaves_whole(gpu, tool.layout(tool.observe(gpu)))), None)

    def unsliced(self, slices, gpu=None):
        """
        The GPUs that have no slice, with their UUIDs.

        :param slices: as of :meth:`slices`; :param gpu: the only one that is looked at, None for all.
        """
        sliced = {part["gpu"] for part in slices}
        return self.told_uuids([one for one in self.asked(gpu) if one.address not in sliced])

    def told_uuids(self, gpus):
        """The same GPUs with their UUIDs, as far as somebody tells these: a host without a driver can be looked at too."""
        return [told() for told in self.host.limits.side_by_side(self._told_uuid, gpus)]

    def _told_uuid(self, gpu):
        try:
            return discovery.with_uuids([gpu], self.tools.sessions)[0]
        except errors.GpuSliceError as err:
            log.info("%s", err)
            return gpu

    def maps(self, gpu=None):
        """PCI address -> the GPU's slots as a line of text, from the silicon up."""
        found = {}
        for one in self.asked(gpu):
            for tool in sorted(self.techniques_of(one, telling=True), key=lambda tool: kinds.named(tool.name).layer):
                try:
                    drawing = tool.drawing(one, self.seen(tool, one))
                except errors.GpuSliceError as err:
                    drawing = str(err)
                if drawing:
                    found[one.address] = "; ".join(filter(None, (found.get(one.address), drawing)))
        for address, sentence in self.interrupted_among(found).items():
            found[address] += f"\n{sentence}"
        return found

    def health(self, gpu=None, pending=True):
        """See :func:`gpuslice.checkup.health`."""
        # Here as below, so that a run without a change does not load it.
        from gpuslice import checkup

        return checkup.health(self, gpu, pending)

    def findings(self, gpu=None):
        """See :func:`gpuslice.checkup.findings`."""
        from gpuslice import checkup

        return checkup.findings(self, gpu)

    def watch(self, settings=None, quick=False, keep=None):
        """See :func:`gpuslice.checkup.watch`."""
        from gpuslice import checkup

        return checkup.watch(self, settings, quick, keep)

    def last_look(self):
        """What the last look found, as :meth:`watch` has it; nothing is asked."""
        from gpuslice.watch.look import known

        return known(self.host, list(self.gpus))

    def statuses(self, gpu=None, settings=None):
        """See :func:`gpuslice.checkup.statuses`."""
        from gpuslice import checkup

        return checkup.statuses(self, gpu, settings)

    def asked(self, gpu):
        """The GPUs that a user means; all GPUs of the host where none is named."""
        return self.gpus if gpu is None else self.chosen(gpu).gpus

    def interrupted_among(self, wanted):
        """PCI address -> what to know of an interrupted change, for those of these addresses that it concerns."""
        sentences = interrupted.by_gpu(self.host)
        return {address: sentences.get(address) or sentences[""] for address in wanted if address in sentences or "" in sentences}

    def abilities(self):
        """PCI address -> ``technologies`` that a GPU can do, and ``headroom`` by those that count it, or why it can't be told."""
        stood_on, found = self.stood_on(), {}
        for gpu in self.gpus:
            told = {kinds.known(tool.name).word: _headroom(tool, gpu, stood_on) for tool in self.techniques_of(gpu, telling=True)}
            headroom = {word: each for word, each in told.items() if each}
            found[gpu.address] = {"technologies": list(gpu.capabilities), **({"headroom": headroom} if headroom else {})}
        return found

    def headroom(self, word, gpu=None):
        """PCI address -> what could still be made by a technology; of a GPU that can't be read only the log tells."""
        stood_on, found = self.stood_on(), {}
        for one in self.asked(gpu):
            tool = self.tools.get(self._meant(one, word))
            told = _headroom(tool, one, stood_on) if tool in self.techniques_of(one) else {}
            if isinstance(told, str):
                log.warning("%s", told)
            elif told:
                found[one.address] = told
        return found

    def stood_on(self, gpu=None):
        """
        Names of the slices that are not to be made anew elsewhere, as far as only records tell: something stands on them, or they
        were handed out by their names.

        :param gpu: GPUs whose slices are looked at, as users name them; None for all.
        """
        found = {part for tool in self._handing() for part in tool.owners(tool.layout(tool.observe(None)), by_name=True)}
        names = self.host.store_names(self.host.state_dir)
        if any(kind.noted in names for kind in kinds.DOABLE if kind.noted and kind.over):
            found.update(part["of"] for part in self.slices(gpu, taken=True) if part["of"])
        return sorted(found)

    def owners(self):
        """Name of a slice -> who was handed it."""
        return {part: name for tool in self._handing() for part, name in tool.owners(tool.layout(tool.observe(None))).items()}

    def _handing(self):
        """The techniques that have handed out anything."""
        names = self.host.store_names(self.host.state_dir)
        return [self.tools.get(kind.name) for kind in kinds.HANDING_OUT if kind.noted in names and kind.layer == kinds.HAND_OUT]

    def interrupted(self):
        """Sentences on a change that was interrupted on this host, one for all its GPUs; [] when there is none."""
        told = interrupted.by_gpu(self.host)
        return list(dict.fromkeys(told.values()))

    @property
    def owes(self):
        """Whether what failed after a change, such as giving the node back to its scheduler, is still to be called again."""
        return self.host.has_record(OWED)

    def holders(self, gpu):
        """Who holds this GPU open: processes as dicts."""
        one = self.gpu(gpu)
        found = {p.pid: p for tool in self.techniques_of(one) for p in tool.holders(one)}
        return [found[pid].as_dict() for pid in sorted(found)]

    # -- the pillar ----------------------------------------------------------------------------------------------
    def policy(self, pillar):
        """The policy of a pillar. Raises errors.PolicyError with every mistake."""
        # Salt hands over a proxy of the pillar, which is a mapping but not a dict.
        return policies.parse(dict(pillar) if isinstance(pillar, Mapping) else pillar)

    def targets(self, policy):
        """A target for each GPU that the policy names. Raises errors.PolicyError, DeviceNotFound, Unsupported."""
        if not policy.enabled:
            return []
        return [*self._sliced(policy), *self._handed(policy.handed_out)]

    def _sliced(self, policy):
        """A target for each GPU, and for what stands beside its strategy."""
        if policy.warnings:
            log.warning("%s", " ".join(policy.warnings))
        if _names_uuids(policy):
            self.gpus = discovery.with_uuids(self.gpus, self.tools.sessions)
        gpus = self.gpus
        # Only strategy auto asks for it, and finding out reads more of the machine than all the rest.
        environment = machine.environment(self.host, gpus) if policy.automatic else ""
        if policy.vendor_detection != "udev":
            gpus, differences = discovery.confirmed_with_errors(self.host, gpus, policy.vendor_detection)
            for difference in differences:
                log.warning("%s", difference)
        gpus = [self._as_supported(gpu) for gpu in gpus]
        return policies.targets(policy, gpus, environment, kinds.AVAILABLE, self._why_not, self._meant)

    def _handed(self, asked):
        """
        Targets of those who hand out slices: what is asked for; where nothing is, those on record go on.

        :param asked: technology -> settings.
        """
        found = []
        for kind in kinds.HANDING_OUT:
            if kind.name not in asked and not self.host.has_record(kind.noted):
                continue
            settings = asked.get(kind.name, {"kept": True})
            if not self.gpus and (receivers := kinds.section(kind).receivers(settings)):
                raise errors.PolicyError(
                    f"{', '.join(receivers)}: slices are to be handed out, and this host has no GPU.",
                    todo="Look for its GPUs with lspci, or leave that out of its pillar.",
                )
            path = INTEGRATION if kind.name in asked else ""
            found += [Target(gpu, Key.of_gpu(kind.name, gpu.address), settings, path, kind.label) for gpu in self.gpus]
        return found

    def handed_on(self, targets):
        """These targets by hand, and those that keep what was handed out true: names lead to what is there then."""
        asked = {target.technique for target in targets}
        missing = [target for target in self._handed({}) if target.technique not in asked]
        return [*targets, *missing]

    def _as_supported(self, gpu):
        """The GPU without capabilities whose technique can't use them: the VFs of some serve another technology only."""
        asked = [kind for kind in kinds.DOABLE if kind.last_word and kind.fits(gpu)]
        able = {kind.needs for kind in asked if kind.may_concern(gpu) and self.tools.get(kind.name).supports(gpu)}
        refused = {kind.needs for kind in asked} - able
        return replace(gpu, capabilities=tuple(name for name in gpu.capabilities if name not in refused)) if refused else gpu

    def _why_not(self, gpu, word):
        """Why a GPU can't do what a word of the pillar means, as far as it is known."""
        return self.tools.get(kinds.called(word).name).why_not(gpu) if word in kinds.AVAILABLE else Why()

    def _meant(self, gpu, word):
        """Name of the technology that a word of the pillar means for a GPU: the first that can do it, of those that share it."""
        possible = kinds.all_called(word)
        if len(possible) < 2:
            return kinds.called(word).name
        return next((kind.name for kind in possible if self.tools.get(kind.name).supports(gpu)), possible[0].name)

    def doing(self):
        """Who asks for this request, as :class:`Doing`."""
        found = job.of_process(self._cachedir)
        who = " by ".join(part for part in (found["fun"], found["user"]) if part) or f"process {os.getpid()}"
        return Doing(who, found["jid"])

    def reconciler(self, policy=None, force=None, permissions=None, passing=False):
        """
        A reconciler for a policy's apply strategy and checks, or for a request by hand.

        :param permissions: a pillar of which only the units and modules that may be stopped count, for a request by hand.
        :param passing: as of :class:`gpuslice.rules.Options`.
        """
        # Here, so that those who only look do not load it.
        from gpuslice.change.reconcile import Reconciler

        doing = self.doing()
        options = Options(who=doing.who, jid=doing.jid, progress=self._progress, events=self._events, passing=passing)
        options.by_hand, options.takes_force = policy is None, force is not None
        options.call, options.measure = self.call, self._measure
        if policy is not None:
            options.strategy, options.on_failure = policy.apply_strategy, policy.on_failure
            options.validation, options.health_check = policy.validation, policy.health_check
            self._take_time(policy, options)
            options.before, options.after = policy.before, policy.after
        for allowed in filter(None, (policy, self._permissions(permissions))):
            options.stop_units, options.unload_modules = allowed.stop_units, allowed.unload_modules
            options.agreed = self.agreed(allowed)
        if force is not None:
            options.strategy = "force" if force else "auto"
        return Reconciler(self.host, self.tools, options)

    def _measure(self, when):
        """What energy each slice took is counted on this host: take a look ``before`` or ``after`` a change."""
        if self.host.has_record(ENERGY):
            # Here, so that those who count nothing do not load it.
            from gpuslice.energy import meter

            # By another engine, so that no session stays open.
            with Engine(self._config) as own:
                own.host.limits = self._hurried
                meter.look(own, change=when)

    @cached_property
    def _hurried(self):
        """
        Limits of looks at counters beside a change. What hangs over a counter is not to count as hanging to the change; what hung
        in the change, or over an earlier look, is not asked.
        """
        from gpuslice.host.limits import Limits

        return Limits(lambda: self.host.patience() * _HURRY, beside=self.host.limits)

    @staticmethod
    def _take_time(policy, options):
        """Let a change wait as the policy says; one that is never made waits for nothing."""
        if policy.when == "now" or policy.apply_strategy == "skip":
            return
        # Here, so that those who never wait do not load it.
        from gpuslice import window

        options.when = policy.when
        options.window = window.of(policy.maintenance_window) if policy.when == "window" else None

    def agreed(self, policy):
        """PCI address -> names of those who may set the same GPU, as a policy has it; {} where it names nobody."""
        if not any(rule.share_with for rule in (policy.default, *policy.rules)):
            return {}
        gpus = self.told_uuids(self.gpus) if _names_uuids(policy) else self.gpus
        return policies.agreed(policy, gpus)

    def _permissions(self, pillar):
        """The policy of a pillar; None where there is none, or it is wrong: what is asked for by hand must not depend on it."""
        if not pillar:
            return None
        try:
            return self.policy(pillar)
        except errors.PolicyError as err:
            log.warning("the pillar is wrong, so that it permits nothing to be stopped: %s", err)
            return None

    def plan(self, pillar):
        """The plan that a pillar leads to on this host."""
        policy = self.policy(pillar)
        try:
            targets = self.targets(policy)
        except errors.DeviceNotFound as err:
            if entry := self._left_by(policy):
                where = ", ".join(entry.gpus)
                sentence = f"{interrupted.describe(entry)} on {where}; a run with this pillar undoes it, and nothing else."
                raise errors.with_more(err, sentence) from err
            raise
        plan = self._remarked(self.reconciler(policy).plan(targets), pillar, policy, targets)
        return replace(plan, notes=(*plan.notes, *self._beside(policy, targets, plan)))

    def _left_by(self, policy):
        """The interrupted change that a run with this policy undoes, though its own wish can't be met; None for none."""
        return None if policy.apply_strategy == "skip" else interrupted.found(self.host)

    def remarks(self, policy):
        """What is odd about a policy on this host and no mistake, as sentences. No device is opened for it."""
        if not policy.enabled:
            return policies.switched_off(policy)
        odd = [*policies.unmatched(policy, self.gpus), *policies.forgotten(policy)]
        return [f"Warning: {line}" for line in odd] + policies.absent(policy, self.gpus)

    def _remarked(self, plan, pillar, policy, targets):
        # What is switched off is told as what is not managed.
        remarks = tuple(self.remarks(policy)) if policy.enabled else ()
        unmanaged = policies.unmanaged(policy, pillar, self.gpus, targets)
        return replace(plan, notes=(*plan.notes, *self._left_alone(targets)), remarks=remarks, unmanaged=unmanaged)

    def _left_alone(self, targets):
        """A sentence for each GPU of which something is on record that only its record tells, and of which nobody spoke."""
        asked = {target.key for target in targets}
        noting = [
            (gpu, kind) for gpu in self.gpus for kind in kinds.concerning(gpu)
            if kind.noted and Key.of_gpu(kind.name, gpu.address) not in asked
        ]  # fmt: skip
        names = self.host.store_names(self.host.state_dir) if noting else ()
        return [line for gpu, kind in noting if kind.noted in names and (line := self._on_record(gpu, kind))]

    def _on_record(self, gpu, kind):
        tool = self.tools.get(kind.name)
        if discovery.is_given_away(gpu) or not tool.supports(gpu):
            return ""
        try:
            told = tool.drawing(gpu, tool.observe(gpu))
        except errors.GpuSliceError as err:
            return str(err)
        if not told:
            return ""
        return (
            f"{gpu.address}: {kind.label} is on record ({told}), which the pillar does not ask for, so that it stays as it is. "
            f"'salt-call gpu_{kind.package}.remove {gpu.address}' ends it."
        )

    def apply(self, pillar):
        """Bring the host to its pillar. Returns :class:`gpuslice.change.context.Result`."""
        policy = self.policy(pillar)
        reconciler = self.reconciler(policy)
        try:
            targets = self.targets(policy)
        except errors.DeviceNotFound as err:
            raise self._with_recovery(err, policy, reconciler) from err
        result = reconciler.apply(targets)
        result.plan = told = self._remarked(result.plan, pillar, policy, targets)
        result.found = result.found and replace(
            result.found, notes=told.notes, remarks=told.remarks, unmanaged=told.unmanaged
        )  # fmt: skip
        self.forget_gone(result)
        result.warnings += self._beside(policy, targets, result.plan)
        if result.reboot and policy.reboot_required:
            result.warnings.append(self._reboot(result.reboot) if reconciler.may_disrupt else _NO_REBOOT)
        return result

    def forget_gone(self, result):
        """
        The quarantine of a slice ends with the slice: those that a change ended are struck off, and its warnings say so.

        :param result: :class:`gpuslice.change.context.Result` of the change.
        """
        if result.generation is None or not self.host.has_record(QUARANTINE):
            return
        from gpuslice.records import quarantine

        doing, there = self.doing(), partial(self.parts, taken=True)
        result.warnings += quarantine.forget_gone(self.host, result.changes, there, doing.who, doing.jid)

    def _with_recovery(self, err, policy, reconciler):
        """
        The error for a pillar that names a GPU which is gone. Where a change was interrupted, that GPU may have gone meanwhile:
        the others are not kept between two layouts for it.
        """
        if self._left_by(policy) is None:
            return err
        return errors.with_more(err, f"Before that: {' '.join(reconciler.recover(self.gpus).warnings)}")

    def _reboot(self, waiting):
        """Schedule the reboot that the policy allows, unless one was made for these GPUs already. Returns what was done."""
        ledger = RebootLedger(self.host)
        vain = [gpu for gpu in waiting if ledger.rebooted_in_vain(gpu)]
        if vain:
            return f"No reboot is scheduled: {', '.join(vain)} waited for one before, and the host was rebooted in vain."
        try:
            self.host.schedule_reboot("GPU slicing: a mode change comes into force at a reboot")
        except errors.GpuSliceError as err:
            # The change is made and told of: that it is not in force yet is in the result already.
            return str(err)
        return "The host reboots in a minute, as containers_gpu_state_management:reboot_required allows."

    def _beside(self, policy, targets, plan):
        """A sentence for each owner who sets what is wanted here and stays as it is: of what would change the plan tells."""
        blocked = {address for address, _ in plan.blocked}
        wanted = [(each.technique, each.gpu) for each in targets if each.technique and each.gpu.address not in blocked]
        if not wanted:
            return []
        # Here, so that those who only look do not load it.
        from gpuslice.inventory import owners

        return owners.beside(owners.found(self.host, self.gpus), wanted, self.agreed(policy))

    def others(self):
        """Who else sets what is sliced on this host, as :class:`gpuslice.inventory.owners.Owner`; its processes are looked at."""
        from gpuslice.inventory import owners

        return owners.found(self.host, self.gpus, running=True)

    # -- by hand -------------------------------------------------------------------------------------------------
    def techniques(self, word, gpu):
        """
        (GPU, technique) of each GPU that a user means, and whether exactly one was named. Of those that are chosen by kind only
        the ones that can do it are meant.

        :raises errors.Unsupported: none of them can do it, or one that was named.
        """
        found = self.chosen(gpu)
        able = [one for one in found.gpus if self.tools.get(self._meant(one, word)).supports(one)] if found.by_kind else []
        return [self._technique(word, one) for one in able or found.gpus], found.is_one

    def _technique(self, word, one):
        tool = self.tools.get(self._meant(one, word))
        if not tool.supports(one):
            why = tool.why_not(one).words
            raise errors.Unsupported(
                f"{one.model} can't do {word}{f': {why}' if why else ''}".rstrip(".") + ".",
                one.address,
                "See 'salt-call gpu.capabilities' for what it can do.",
            )
        return one, tool

    def handed(self, technique):
        """
        What is there now for a technology that hands out.

        :return: :class:`gpuslice.techniques.base.Work` of each GPU.
        """
        return self.reconciler().works(self.handing(technique, {"kept": True}))

    def noted(self, technique):
        """What is on record of a technology that hands out."""
        return self.tools.get(technique).observe(None)

    def settled(self, technique, written):
        """
        Settings of a technology that hands out, for functions that work by hand.

        :param written: keys of the pillar's section on containers. Raises errors.PolicyError with every mistake.
        """
        try:
            return self.policy({INTEGRATION: written}).handed_out[technique]
        except errors.PolicyError as err:
            raise errors.of_arguments(err, INTEGRATION) from err

    def handing(self, technique, settings, wish=None):
        """Targets of a technology that hands out, for functions that work by hand; see :meth:`wanted`."""
        return [Target(gpu, Key.of_gpu(technique, gpu.address), settings, wish=wish) for gpu in self.gpus]

    def wanted(self, word, gpu, settings, wish=None):
        """
        Targets of any technology, of all GPUs that a user means, for functions that work by hand. Raises as :meth:`techniques`.

        :param word: what the pillar calls it; :param wish: a difference to what is there instead of settings, see
            :meth:`gpuslice.techniques.base.Technique.settle`.
        """
        found, _ = self.techniques(word, gpu)
        return [Target(one, Key.of_gpu(tool.name, one.address), settings, wish=wish) for one, tool in found]

    def wanted_as(self, word, gpu, written, **more):
        """
        Targets as :meth:`wanted` that set what is given (None leaves it), checked as the pillar's section of that technology.

        :param written: keys of the section; :param more: settings beside those. Raises errors.PolicyError: a value is wrong.
        """
        given = {key: value for key, value in written.items() if value is not None}
        from gpuslice.policy import build

        return self.wanted(word, gpu, {**more, **build.section(word, given)})

    # -- history -------------------------------------------------------------------------------------------------
    def history(self):
        """The generations kept on this host, oldest first, and at the end a change that was interrupted."""
        entry = interrupted.found(self.host)
        return History(self.host).all() + ([entry.generation("interrupted", [interrupted.WHAT_TO_DO])] if entry else [])

    def recovery_targets(self):
        """
        Targets that finish the interrupted change of this host, [] when there is none.

        :raises errors.DeviceNotFound: a GPU of it is gone.
        """
        # Here, so that a run without a change does not load it.
        from gpuslice.change import earlier

        return earlier.finishing(self.host, interrupted.found(self.host), self.gpus)

    def rollback_targets(self, generation=None):
        """
        Targets that bring back an earlier layout.

        :param generation: number of the generation whose outcome to bring back; None undoes the last one that changed anything
            (one that failed and was put back did not, and a boot brings back what there was).
        :raises errors.PolicyError: there is no such generation; :raises errors.DeviceNotFound: a GPU of it is gone.
        """
        if generation is not None:
            arguments.check(generation=generation)
        from gpuslice.change import earlier

        return earlier.targets(earlier.wanted(self.host, generation), self.tools, self.gpus)

    def export(self, form="pillar"):
        """See :func:`gpuslice.exporting.export`."""
        # Here as in imported, so that a run that exports nothing does not load it.
        from gpuslice import exporting

        return exporting.export(self, form)

    def imported(self, form, written, name=""):
        """See :func:`gpuslice.exporting.imported`."""
        from gpuslice import exporting

        return exporting.imported(self, form, written, name)


def _headroom(tool, gpu, stood_on):
    """What a technology could still make of a GPU; a sentence where it can't be told."""
    try:
        return tool.headroom(gpu, stood_on)
    except errors.GpuSliceError as err:
        return str(err)


def _names_uuids(policy):
    named = [*policy.devices, *(rule.match.get("uuid") for rule in policy.rules)]
    return any(name and addresses.is_uuid(name) for name in named)
