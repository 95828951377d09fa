"""
The engine as the loader files call it: from a pillar or an argument, over a host, to plain data.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from functools import partial

from gpuslice import addresses
from gpuslice import errors
from gpuslice import job
from gpuslice import kinds
from gpuslice import policy as policies
from gpuslice import remarks
from gpuslice import wishes
from gpuslice.host.base import ENERGY
from gpuslice.host.base import OWED
from gpuslice.host.base import QUARANTINE
from gpuslice.host.open import open_host
from gpuslice.inventory import discovery
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.records import interrupted
from gpuslice.records.reboot import RebootLedger
from gpuslice.rules import Options
from gpuslice.techniques.toolbox import Toolbox

log = logging.getLogger(__name__)

_NO_REBOOT = "No reboot is scheduled now: it waits for the maintenance window, and for a run within that."
#: What of the usual time the driver has for counters that are read beside a change.
_HURRY = 1 / 6


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

    # -- what is loaded by those who ask for it --------------------------------------------------------------------
    @cached_property
    def _looks(self):
        """What there is now: a run that goes by its pillar does not load it."""
        from gpuslice import looks

        return looks

    @cached_property
    def _by_hand(self):
        """What is asked for by hand: likewise."""
        from gpuslice import by_hand

        return by_hand

    @cached_property
    def _checkup(self):
        """What is wrong with the GPUs: likewise."""
        from gpuslice import checkup

        return checkup

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

    def seen(self, tool, gpu):
        """The state that people are shown of a technology of a GPU: without what stood on slices that are gone."""
        return tool.standing(gpu, tool.observe(gpu), partial(self._below, tool, gpu))

    def _below(self, tool, gpu):
        lower = [found for name in kinds.named(tool.name).over if (found := self.tools.get(name)).supports(gpu)]
        return [part for each in lower for part in each.slices(gpu, each.observe(gpu))]

    def quarantined(self):
        """Name of a slice or PCI address of a board -> its :class:`gpuslice.records.quarantine.Entry`, of what is quarantined."""
        if not self.host.has_record(QUARANTINE):
            return {}
        # Few hosts have any, and no other loads what reads it.
        from gpuslice.records import quarantine

        return quarantine.in_force(self.host)

    def told_uuids(self, gpus):
        """The same GPUs with their UUIDs, as far as somebody tells these: a host without a driver can be looked at too."""
        return [told() for told in self.host.limits.side_by_side(self._told_uuid, gpus)]

    def _told_uuid(self, gpu):
        try:
            return discovery.with_uuids([gpu], self.tools.sessions)[0]
        except errors.GpuSliceError as err:
            log.info("%s", err)
            return gpu

    def asked(self, gpu):
        """The GPUs that a user means; all GPUs of the host where none is named."""
        return self.gpus if gpu is None else self.chosen(gpu).gpus

    def interrupted_among(self, wanted):
        """PCI address -> what to know of an interrupted change, for those of these addresses that it concerns."""
        sentences = interrupted.by_gpu(self.host)
        return {address: sentences.get(address) or sentences[""] for address in wanted if address in sentences or "" in sentences}

    def interrupted(self):
        """Sentences on a change that was interrupted on this host, one for all its GPUs; [] when there is none."""
        told = interrupted.by_gpu(self.host)
        return list(dict.fromkeys(told.values()))

    # -- what there is now --------------------------------------------------------------------------------------
    def devices(self, gpus=None):
        """See :func:`gpuslice.looks.devices`."""
        return self._looks.devices(self, gpus)

    def slices(self, gpu=None, taken=False):
        """See :func:`gpuslice.looks.slices`."""
        return self._looks.slices(self, gpu, taken)

    def parts(self, gpu=None, taken=False, untold=None):
        """See :func:`gpuslice.looks.parts`."""
        return self._looks.parts(self, gpu, taken, untold)

    def reading(self, gpu):
        """See :func:`gpuslice.looks.reading`."""
        return self._looks.reading(self, gpu)

    def is_whole(self, gpu):
        """See :func:`gpuslice.looks.is_whole`."""
        return self._looks.is_whole(self, gpu)

    def closed_by(self, gpu):
        """See :func:`gpuslice.looks.closed_by`."""
        return self._looks.closed_by(self, gpu)

    def unsliced(self, sliced, gpu=None):
        """See :func:`gpuslice.looks.unsliced`."""
        return self._looks.unsliced(self, sliced, gpu)

    def maps(self, gpu=None):
        """See :func:`gpuslice.looks.maps`."""
        return self._looks.maps(self, gpu)

    def abilities(self):
        """See :func:`gpuslice.looks.abilities`."""
        return self._looks.abilities(self)

    def headroom(self, word, gpu=None):
        """See :func:`gpuslice.looks.headroom`."""
        return self._looks.headroom(self, word, gpu)

    def stood_on(self, gpu=None):
        """See :func:`gpuslice.looks.stood_on`."""
        return self._looks.stood_on(self, gpu)

    def given(self):
        """See :func:`gpuslice.looks.given`."""
        return self._looks.given(self)

    @property
    def owes(self):
        """Whether what failed after a change, such as giving the node back to its scheduler, is still to be called again."""
        return self.host.has_record(OWED)

    def holders(self, gpu):
        """See :func:`gpuslice.looks.holders`."""
        return self._looks.holders(self, gpu)

    def health(self, gpu=None, pending=True):
        """See :func:`gpuslice.checkup.health`."""
        return self._checkup.health(self, gpu, pending)

    def findings(self, gpu=None):
        """See :func:`gpuslice.checkup.findings`."""
        return self._checkup.findings(self, gpu)

    def watch(self, settings=None, quick=False, keep=None):
        """See :func:`gpuslice.checkup.watch`."""
        return self._checkup.watch(self, settings, quick, keep)

    def last_look(self):
        """What the last look found, as :meth:`watch` has it; nothing is asked."""
        from gpuslice.watch.look import known

        return known(self.host, list(self.gpus))

    def statuses(self, gpu=None, settings=None):
        """See :func:`gpuslice.checkup.statuses`."""
        return self._checkup.statuses(self, gpu, settings)

    # -- the pillar ----------------------------------------------------------------------------------------------
    def policy(self, pillar):
        """The policy of a pillar. Raises errors.PolicyError with every mistake."""
        # Salt hands over a proxy of the pillar, which is a mapping but not a dict.
        return policies.parse(dict(pillar) if isinstance(pillar, Mapping) else pillar)

    def targets(self, policy):
        """See :func:`gpuslice.wishes.targets`."""
        return wishes.targets(self, policy)

    def handed_on(self, targets):
        """See :func:`gpuslice.wishes.handed_on`."""
        return wishes.handed_on(self, targets)

    def meant(self, gpu, word):
        """Name of the technology that a word of the pillar means for a GPU: the first that can do it, of those that share it."""
        possible = kinds.all_called(word)
        if len(possible) < 2:
            return kinds.called(word).name
        return next((kind.name for kind in possible if self.tools.get(kind.name).supports(gpu)), possible[0].name)

    def doing(self):
        """Who asks for this request, as :class:`gpuslice.job.Doing`."""
        return job.doing(self._cachedir)

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
        options.call, options.measure = self.call, self._measure
        wishes.settle(self, options, policy, force, permissions)
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
        plan = remarks.told(self, self.reconciler(policy).plan(targets), pillar, policy, targets)
        return replace(plan, notes=(*plan.notes, *remarks.beside(self, policy, targets, plan)))

    def _left_by(self, policy):
        """The interrupted change that a run with this policy undoes, though its own wish can't be met; None for none."""
        return None if policy.apply_strategy == "skip" else interrupted.found(self.host)

    def apply(self, pillar):
        """Bring the host to its pillar. Returns :class:`gpuslice.change.context.Result`."""
        policy = self.policy(pillar)
        reconciler = self.reconciler(policy)
        try:
            targets = self.targets(policy)
        except errors.DeviceNotFound as err:
            raise self._with_recovery(err, policy, reconciler) from err
        result = reconciler.apply(targets)
        result.plan = told = remarks.told(self, result.plan, pillar, policy, targets)
        result.found = result.found and replace(
            result.found, notes=told.notes, remarks=told.remarks, unmanaged=told.unmanaged
        )  # fmt: skip
        self.forget_gone(result)
        result.warnings += remarks.beside(self, policy, targets, result.plan)
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

    # -- by hand -------------------------------------------------------------------------------------------------
    def techniques(self, word, gpu):
        """See :func:`gpuslice.by_hand.techniques`."""
        return self._by_hand.techniques(self, word, gpu)

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
        """See :func:`gpuslice.by_hand.settled`."""
        return self._by_hand.settled(self, technique, written)

    def handing(self, technique, settings, wish=None):
        """Targets of a technology that hands out, for functions that work by hand; see :meth:`wanted`."""
        return [Target(gpu, Key.of_gpu(technique, gpu.address), settings, wish=wish) for gpu in self.gpus]

    def wanted(self, word, gpu, settings, wish=None):
        """See :func:`gpuslice.by_hand.wanted`."""
        return self._by_hand.wanted(self, word, gpu, settings, wish)

    def wanted_as(self, word, gpu, written, **more):
        """See :func:`gpuslice.by_hand.wanted_as`."""
        return self._by_hand.wanted_as(self, word, gpu, written, **more)

    # -- history -------------------------------------------------------------------------------------------------
    def history(self):
        """The generations kept on this host, oldest first, and at the end a change that was interrupted."""
        # Here, so that those who do not look back do not load it.
        from gpuslice.records.history import History

        entry = interrupted.found(self.host)
        return History(self.host).all() + ([entry.generation("interrupted", [interrupted.WHAT_TO_DO])] if entry else [])

    def recovery_targets(self):
        """See :func:`gpuslice.by_hand.recovery_targets`."""
        return self._by_hand.recovery_targets(self)

    def rollback_targets(self, generation=None):
        """See :func:`gpuslice.by_hand.rollback_targets`."""
        return self._by_hand.rollback_targets(self, generation)

    def export(self, form="pillar"):
        """See :func:`gpuslice.exporting.export`."""
        # Here as in imported, so that a run that exports nothing does not load it.
        from gpuslice import exporting

        return exporting.export(self, form)

    def imported(self, form, written, name=""):
        """See :func:`gpuslice.exporting.imported`."""
        from gpuslice import exporting

        return exporting.imported(self, form, written, name)
