"""
From targets to a plan: what is wanted is settled against what is there, and each technique says what has to be done, layer by
layer from the silicon up.
"""

from dataclasses import replace
from functools import cached_property

from gpuslice import errors
from gpuslice import folding
from gpuslice import kinds
from gpuslice.change.standing import Standing
from gpuslice.host.base import OWED
from gpuslice.model import Key
from gpuslice.plan import Plan
from gpuslice.plan import same
from gpuslice.records import interrupted
from gpuslice.records import lock
from gpuslice.techniques.base import Work

#: Mistakes of the one who asked: nothing is changed anywhere when one of them is met.
_MISTAKES = (errors.PolicyError, errors.ProfileMismatch, errors.Unsupported)
#: Conditions of one GPU: it is left alone and reported, the others go on. A GPU that was named and is not there is found out
#: before; here it is one that the bus still shows and its driver has lost. A foreign change comes while the GPU is read.
_BLOCKED = (
    errors.ResourceConflict, errors.Unhealthy, errors.ModeChangePending, errors.DeviceNotFound, errors.ForeignChange,
    errors.Owned,
)  # fmt: skip


class _Found:
    """
    What planning has come to: parts, and (target, error) of what could not be planned.

    :ivar states: (technique, PCI address) -> its state, read once also where others stand on it.
    :ivar units: of those who are handed slices, which may be stopped for it; :ivar paused: those that are stopped already.
    :ivar belows: PCI address -> what those above layer TUNE stand on, found out once for all of them.
    """

    def __init__(self, parts=(), units=(), paused=()):
        self.parts, self.errors, self.states = list(parts), [], {}
        self.belows = {}
        self.units, self.paused = tuple(units), tuple(paused)

    def state(self, technique, gpu):
        """What a technique has observed of a GPU. Raises what its ``observe`` does."""
        key = (technique.name, gpu.address)
        if key not in self.states:
            self.states[key] = technique.observe(gpu)
        return self.states[key]

    def on(self, address):
        """The parts that cover a GPU."""
        return [part for part in self.parts if address in part.addresses]

    def failed_on(self, address):
        """Whether something of this GPU could not be planned."""
        return any(target.gpu.address == address for target, _ in self.errors)


class Planner:
    """
    The plans of one request on one host.

    :param options: :class:`gpuslice.rules.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    :param ledger: :class:`gpuslice.records.reboot.RebootLedger`.
    """

    def __init__(self, host, toolbox, options, journal, ledger):
        self._host, self._tools, self._options = host, toolbox, options
        self._journal, self._ledger = journal, ledger
        self._standing = Standing(host, toolbox)
        #: How long steps take on this host, as far as a plan has asked for it: the history is read for it once in a request.
        self._known = {}
        #: The GPUs of a plan, and who else sets what is sliced of them, None where nobody has looked.
        self._gpus, self._owners = (), None
        #: What can't be told of owners beside whom something is changed, as sentences.
        self._doubts = []

    @cached_property
    def _timing(self):
        """What lets changes wait; None where nothing does, so that it is not even loaded."""
        if self._options.when == "now":
            return None
        from gpuslice.change.timing import Timing

        return Timing(self._host, self._options, self._journal)

    @property
    def may_disrupt(self):
        """Whether what disrupts may be begun now: there is no window of maintenance, or it is open."""
        return not self._timing or self._timing.is_open

    def plan(self, targets):
        """
        The plan for these targets. Raises an error that names every mistake; GPUs that are in use or ill are reported in
        ``Plan.blocked``.
        """
        targets = list(targets)
        made = self.planned(targets)
        told = (*self._told_before(targets, made), *made.notes, *self._machines_told(made, targets))
        return replace(made, notes=told)

    def losses(self, plan, targets):
        """What virtual machines lose by a plan, as :class:`gpuslice.change.machines.Loss`; [] where it takes none of theirs."""
        if not any(kinds.known(part.key.technique).for_machines for part in plan.changing):
            return []
        # Here, so that a change that takes nothing of virtual machines does not load it.
        from gpuslice.change import machines

        gpus = {target.gpu.address: target.gpu for target in targets}
        return machines.losses(self._tools, plan.changing, self.standing_on(plan, targets), gpus)

    def _machines_told(self, plan, targets):
        """A sentence for each virtual machine that would not start any more as it is defined."""
        lost = self.losses(plan, targets)
        if not lost:
            return []
        from gpuslice.change import machines

        return machines.warnings(self._host, lost)

    def planned(self, targets):
        """:meth:`plan` without what is told of other changes."""
        return self.met(targets)[0]

    def met(self, targets):
        """(:meth:`planned`, the targets that it is of): where something waits, those who are handed slices keep theirs."""
        if any(target.wish for target in targets):
            targets = self.settled(targets, self._journal.unfinished())
        found, waiting = self._found(targets), []
        if self._timing:
            targets, waiting = self._timing.met_now(targets, found.errors)
            found = self._found(targets) if waiting else found
        blocked, mistakes, broken, held = [], [], [], []
        for target, err in found.errors:
            if (holders := getattr(err, "holders", ())) and not target.key.hands_out:
                held.append((target.gpu.address, holders))
            if self._timing and (waits := self._timing.waiting(target, err)):
                waiting.append(waits)
                continue
            if isinstance(err, _MISTAKES) or target.key.hands_out:
                # Slices that can't be handed out are not made: their users would be left with nothing.
                mistakes.append(err)
                continue
            if isinstance(err, errors.DriverError):
                # It may be one GPU that its driver can't read any more. Where it is all of them, it is the host.
                broken.append(err)
            elif not isinstance(err, _BLOCKED):
                raise err
            address = target.gpu.address
            blocked.append((address, str(err) if err.gpu else f"GPU {address}: {err}"))
        if mistakes:
            raise _together(mistakes)
        if broken and not found.parts and len(broken) == len(blocked):
            raise broken[0]
        untouched = tuple(f"{t.gpu.address} {t.gpu.model}: left alone, {t.reason}" for t in targets if t.technique is None)
        # Where nobody named the technology, the plan says how it was chosen.
        chosen = tuple(f"{t.gpu.address} {t.gpu.model}: {t.reason}" for t in targets if t.automatic)
        # A GPU is left as it is as a whole: nothing is changed below what can't be changed.
        left = {address for address, *_ in (*blocked, *waiting)}
        parts = tuple(part for part in found.parts if not (part.steps and part.addresses == (part.gpu,) and part.gpu in left))
        waits = tuple(dict.fromkeys(waiting))
        notes = (*chosen, *dict.fromkeys(self._doubts))
        plan = Plan(parts, untouched, tuple(dict.fromkeys(blocked)), notes, waiting=waits)
        return self._with_hooks(replace(plan, freeable=self._freeable(held))), targets

    def _freeable(self, held):
        """
        Those of these GPUs in use whose users may go by what is run before: who waits until idle asks nobody to go, and a drain
        ends nothing but jobs.
        """
        if not held or not self._options.before or self._options.when == "idle" or not self.may_disrupt:
            return ()
        # Here, so that a run in whose way nobody is does not load it.
        from gpuslice.change import hooks

        return tuple(dict.fromkeys(gpu for gpu, holders in held if hooks.may_free(self._options.before, holders)))

    def _with_hooks(self, plan):
        """The plan with words for what the site has run around it, and with its time."""
        if (plan.empty and not plan.freeable) or not (self._options.before or self._options.after):
            return self.estimated(plan)
        # Here, so that a run without any does not load it.
        from gpuslice.change import hooks

        before, after = (hooks.words(hooks.applying(each, plan)) for each in (self._options.before, self._options.after))
        return self.estimated(replace(plan, before=before, after=after))

    def estimated(self, plan):
        """The plan with what this host knows of the time that its steps take."""
        if plan.empty:
            return plan
        # Here, so that a run without a change does not load it, nor reads the history.
        from gpuslice.change import learned

        return learned.estimated(self._host, plan, self._known)

    def works(self, targets):
        """These targets of one technology with what is there now, as its ``plan`` takes them. Raises what reading raises."""
        found = _Found()
        return [self._work(self._tools.get(target.technique), target, tuple(targets), found) for target in targets]

    def each(self, targets):
        """
        Key -> the part of each of these targets, or the error that says why there is none. One that can't be planned does not
        keep the others from it, as it does in :meth:`plan`.
        """
        found = self._found(targets)
        return {**{part.key: part for part in found.parts}, **{target.key: err for target, err in found.errors}}

    # -- layer by layer ------------------------------------------------------------------------------------------
    def _found(self, targets):
        for tool in self._tools.made():
            # Who uses what is asked anew for each plan: while this run waited for the lock, others came.
            tool.forget_users()
        self._gpus, self._owners = tuple({target.gpu.address: target.gpu for target in targets}.values()), None
        self._doubts = []
        wanted = [target for target in targets if target.technique]
        found = _Found(units=self._units(wanted))
        for layer in sorted({kinds.known(target.technique).layer for target in wanted}):
            self.layer(wanted, layer, found)
        order = {address: place for place, address in reversed(list(enumerate(t.gpu.address for t in wanted)))}
        found.parts.sort(key=lambda part: (part.layer, order[part.gpu]))
        return found

    def _units(self, targets):
        """Units of those who are handed slices in a request: whoever has one that goes may be stopped for it."""
        handing = {target.key: target for target in targets if target.key.hands_out}
        units = []
        for key, target in handing.items():
            try:
                units += self._tools.get(key.technique).units(target.settings)
            except errors.GpuSliceError:
                # It can't be read: its own plan says so, and those of the GPUs are none the worse.
                continue
        return units

    def layer(self, targets, layer, found):
        """
        Plan one layer.

        :param found: what was found out of the layers below, which is filled up.
        """
        of_layer = [target for target in targets if kinds.known(target.technique).layer == layer]
        for name in dict.fromkeys(target.technique for target in of_layer):
            mine = tuple(target for target in of_layer if target.technique == name)
            technique, works = self._tools.get(name), []
            for target in mine:
                if found.failed_on(target.gpu.address) and not target.key.hands_out:
                    # What it stands on can't be planned, which is told already.
                    continue
                try:
                    work = self._work(technique, target, mine, found)
                    if waits := _waiting_below(work, found):
                        found.parts.append(self._waiting(technique, work, waits))
                    else:
                        works.append(work)
                except errors.GpuSliceError as err:
                    found.errors.append((target, err))
            for group in technique.together(works):
                self._plan_group(technique, group, found)

    @staticmethod
    def _waiting(technique, work, below):
        """The part of what can't be begun before a reboot brings what it stands on into force."""
        layout, word = technique.layout(work.state), kinds.known(below.key.technique).word
        return technique.unchanged(work.gpu, layout, waits=below.waits, note=f"waits for a reboot, as {word} below it does")

    def again(self, targets, layer, below=(), paused=()):
        """
        Plan a layer for certain, when those below it were carried out.

        :param below: the parts of the layers below, as they were carried out; none for what is there.
        :param paused: units that are stopped and started again later, beside those that the parts name.
        :return: (parts, errors by key).
        """
        found = _Found([replace(part, steps=()) for part in below], self._units(targets), paused)
        self.layer(targets, layer, found)
        return [part for part in found.parts if part.layer == layer], {target.key: err for target, err in found.errors}

    def after(self, key, targets, below):
        """
        The part of a key after its change: with steps where something is not as wanted. Raises what a plan raises.

        :param targets: all of the change; :param below: the parts of the layers below it, which were carried out.
        """
        technique, found = self._tools.get(key.technique), _Found([replace(part, steps=()) for part in below])
        peers = tuple(target for target in targets if target.technique == key.technique)
        works = [self._work(technique, target, peers, found) for target in peers if target.key == key]
        # Whoever uses a slice by now is in nobody's way: nothing is ended.
        [part] = technique.plan([work._replace(rules=work.rules._replace(force=True, awaits_reboot=False)) for work in works])
        return part

    def _work(self, technique, target, peers, found):
        state = found.state(technique, target.gpu)
        rules = self._options.rules(self._ledger.waiting(target.gpu.address))
        stopped = tuple(dict.fromkeys((*found.paused, *(unit for part in found.parts for unit in part.stops))))
        rules = rules._replace(stop_units=(*rules.stop_units, *found.units), paused=stopped)
        return Work(target, state, rules, self._standing.below(target, found), peers)

    def _plan_group(self, technique, group, found):
        try:
            uncertain = {work.gpu.address for work in group if not work.below.certain}
            parts = [
                replace(part, forecast=True) if uncertain.intersection(part.addresses) else part
                for part in technique.plan(group)
            ]  # fmt: skip
            parts = [self._letting_go(technique, part, group, found) for part in parts]
            self._check_all(parts, group)
            if self._timing:
                self._timing.refuse(parts)
        except errors.Several as err:
            by_gpu, first = dict(err.errors), err.errors[0][1]
            found.errors += [(work.target, by_gpu.get(work.gpu.address) or _held_up(work.gpu, first)) for work in group]
        except errors.GpuSliceError as err:
            found.errors += [(work.target, err) for work in group]
        else:
            found.parts += parts

    def _letting_go(self, technique, part, group, found):
        """The part, which also stops units of ours that serve slices which it ends: those let go before anything of them goes."""
        upper = [kind for kind in kinds.DOABLE if kind.units and part.key.technique in kind.over] if part.steps else []
        names = self._host.store_names(self._host.state_dir) if upper else ()
        units = set(part.stops)
        for kind in (kind for kind in upper if kind.noted in names):
            gpu = next(work.gpu for work in group if work.gpu.address == part.gpu)
            kept = {each.name for each in technique.expected(gpu, part.after)}
            going = [each.name for each in technique.slices(gpu, found.state(technique, gpu)) if each.name not in kept]
            try:
                tool = self._tools.get(kind.name)
                units.update(tool.units_of(gpu, tool.observe(gpu), going))
            except errors.GpuSliceError:
                # What can't be read is told where it is asked for, and keeps nothing else from being changed.
                continue
        return replace(part, stops=tuple(sorted(units)))

    def _check_all(self, parts, group):
        """Whether these parts may be begun. Raises errors.Several: each GPU that keeps the group from it says why itself."""
        failed = []
        for part in parts:
            try:
                self._check(part, group)
            except errors.GpuSliceError as err:
                failed += [(address, err) for address in part.addresses]
        if failed:
            raise errors.Several(failed)

    def _check(self, part, group):
        """Whether a part may be begun. Raises errors.PolicyError, errors.Unhealthy."""
        for work in group:
            if work.gpu.address in part.addresses:
                _refuse_silence(work.target, part)
        if part.hands_out:
            # It changes no GPU, and an ill one must not keep the slices of the others from their users.
            return
        if part.steps:
            self._refuse_owned(part, [work.gpu for work in group])
        if part.steps and self._options.health_check and (reasons := self.health(part, {w.gpu.address: w.gpu for w in group})):
            raise errors.Unhealthy(
                f"A change is wanted, but the GPU is not healthy: {'; '.join(reasons)}.",
                part.gpu,
                f"Mend that first{self._unchecked()}.",
            )

    def _refuse_owned(self, part, gpus):
        """Raise errors.Owned where somebody else sets what a part changes, and nobody has said that they agree."""
        # Here, so that a run without a change does not load it.
        from gpuslice.inventory import owners

        if self._owners is None:
            self._owners = owners.found(self._host, self._gpus or gpus, running=True)
        for gpu in (gpu for gpu in gpus if self._owners and gpu.address in part.addresses):
            agreed, key = self._options.agreed.get(gpu.address, ()), self._options.rules().sharing()
            if refusal := owners.refusal(self._owners, part.key.technique, gpu, agreed, key):
                raise errors.Owned(refusal[0], gpu.address, refusal[1])
            self._doubts += owners.doubts(self._owners, part.key.technique, gpu)

    def _unchecked(self):
        """How an ill GPU is changed all the same, which nobody can say by hand."""
        return "" if self._options.by_hand else ", or set containers_gpu_state_management:health_check to false"

    def health(self, part, gpus):
        """
        Why what a part changes should not be changed now, as sentences.

        :param gpus: PCI address -> GPU, of those that it covers.
        """
        # Here, so that a run without a change does not load it.
        from gpuslice.health import board

        reasons = [each for address in part.addresses for each in board.refusing(self._host, self._tools.sessions, gpus[address])]
        for address in part.concerns:
            if address not in part.addresses:
                found = board.refusing(self._host, self._tools.sessions, replace(gpus[part.gpu], address=address))
                reasons += [f"GPU {address}, which would change with it, has {reason}" for reason in found]
        return reasons

    def standing_on(self, plan, targets):
        """
        Key -> layout of what stands on what a plan changes, and is nobody's wish in it. It is not changed,
        but what is below may take from it (a reset ends its settings), which an undo has to bring back.
        """
        gpus, planned = {target.gpu.address: target.gpu for target in targets}, {part.key for part in plan.parts}
        standing = [
            (gpus[part.gpu], kind) for part in plan.changing for kind in kinds.DOABLE
            if kind.layer != kinds.SHAPE and _may_end(part, kind) and Key.of_gpu(kind.name, part.gpu) not in planned
        ]  # fmt: skip
        names = self._host.store_names(self._host.state_dir) if standing else ()
        found = {}
        for gpu, kind in standing:
            if (kind.noted and kind.noted not in names) or not kind.may_concern(gpu):
                continue
            technique = self._tools.get(kind.name)
            try:
                state = technique.observe(gpu)
                if technique.drawing(gpu, state):
                    found[Key.of_gpu(kind.name, gpu.address)] = technique.layout(state)
            except errors.GpuSliceError:
                # Nobody asked for it, so that it keeps nothing from being changed.
                continue
        return found

    # -- wishes --------------------------------------------------------------------------------------------------
    def settled(self, targets, entry=None):
        """
        The targets with what they come to now: a wish may be a difference to what is there (one instance more), which says what
        is wanted only under the lock, when nobody else changes the host.

        :param entry: an interrupted change: if it asked for the same, what that came to holds, or one wish would be met twice.
        """
        finishing = entry if entry and _asks_for_all(targets, entry) else None
        return [self._settle(target, finishing) if target.wish else target for target in targets]

    def _settle(self, target, finishing):
        if finishing and target.key in finishing.wishes:
            return target._replace(settings=finishing.goal[target.key], wish=None)
        technique = self._tools.get(target.technique)
        settings = technique.settle(target.gpu, technique.observe(target.gpu), target.wish)
        return target._replace(settings=settings, wish=None)

    # -- an interrupted change -----------------------------------------------------------------------------------
    def _told_before(self, targets, plan):
        """Sentences on a change that did not end, and on what this request does about it before anything else."""
        entry = self._journal.unfinished()
        if entry is None:
            return self._owed(targets)
        if lock.is_held(self._host.state_dir):
            return ("Another change is going on on this host at this moment: what is planned here may change with it.",)
        described = f"{interrupted.describe(entry)} on {', '.join(entry.gpus)}"
        if not self.deals_with_interrupted(targets):
            return (f"{described}; it is left as it is. {interrupted.WHAT_TO_DO}",)
        if self.can_finish(targets, entry, plan):
            return (f"{described}; this run finishes it.",)
        reached = {t.gpu.address for t in targets if t.technique}
        others = [gpu for gpu in entry.gpus if gpu not in reached]
        more = f", also on {', '.join(others)}, which are not reached else" if others else ""
        return (f"{described}; this run undoes it first{more}. What follows is planned on what is there now.",)

    def _owed(self, targets):
        """A sentence where something that failed after an earlier change is called again by this run."""
        if self._options.by_hand or not self._host.has_record(OWED) or not self.deals_with_interrupted(targets):
            return ()
        has = any("around" in hook for hook in self._options.after)
        then = "this run calls it again" if has else "this pillar has it no more"
        return (f"{OWED} tells of what failed after an earlier change, such as giving the node back; {then}.",)

    def deals_with_interrupted(self, targets):
        """Whether a request deals with an interrupted change: one that may change nothing (strategy none or skip) does not."""
        return self._options.strategy != "skip" and any(t.technique for t in targets)

    def refuse_mistakes(self, targets, entry):
        """
        A request that can't be meant changes nothing, the GPUs of an earlier change included. Other errors may be of that change:
        what a GPU can do looks otherwise half way, such as without its driver.
        """
        try:
            found = self.each(self.settled(targets, entry)).values()
        except errors.GpuSliceError as err:
            # A difference may be one that can't be meant, which is found out when it is settled.
            found = [err]
        if mistakes := [err for err in found if isinstance(err, errors.PolicyError | errors.ProfileMismatch)]:
            left = f"{interrupted.describe(entry)}, and is left as it is. {interrupted.WHAT_TO_DO}"
            raise errors.with_more(_together(mistakes), left)

    def can_finish(self, targets, entry, plan=None):
        """Whether a request wants all that an interrupted change wanted, and nothing stands in its way."""
        if not _asks_for_all(targets, entry):
            return False
        try:
            plan = plan or self.planned(targets)
        except errors.GpuSliceError:
            return False
        if any(gpu in entry.gpus for gpu, *_ in (*plan.blocked, *plan.waiting)):
            return False
        # Who asked for a difference never meant to end what came since.
        meant = {part.key: part.destroys for part in Plan.from_dict(entry.plan).parts}
        return all(set(part.destroys) <= set(meant.get(part.key, ())) for part in plan.parts if part.key in entry.wishes)


def _may_end(part, kind):
    """
    Whether a part can end what a technology has of its GPU: that stands on it, is set on the board, or is run by units that the
    part stops.
    """
    if kind.goes_with_all and part.layer < kind.layer:
        # What is given away can't be set, whether that is done or undone.
        return not kinds.known(part.key.technique).gives_away
    return part.key.technique in kind.over or any(kind.units and name.startswith(kind.units) for name in part.stops)


def _waiting_below(work, found):
    """The part that a work stands on and that waits for a reboot, None for none. What is there meanwhile can be handed out."""
    if work.target.key.hands_out:
        return None
    names = kinds.known(work.target.technique).over
    mine = [part for part in found.on(work.gpu.address) if part.key.technique in names and part.layer < _layer(work)]
    return next((part for part in mine if part.waits), None)


def _layer(work):
    return kinds.known(work.target.technique).layer


def _asks_for_all(targets, entry):
    """Whether these targets ask for all that an interrupted change wanted."""
    wanted = {target.key: target for target in targets if target.key}
    return all(key in wanted and _asks_for(wanted[key], entry, key) for key in entry.goal)


def _asks_for(target, entry, key):
    """Whether a target asks for what an interrupted change wanted, in the words of then or in what they came to."""
    if target.wish:
        return key in entry.wishes and same(target.wish, entry.wishes[key])
    return same(target.settings, entry.goal[key])


def _refuse_silence(target, part):
    """What is there already must not go because of a default: whoever wants that says so."""
    if target.silent and part.destroys:
        raise errors.PolicyError(
            f"{target.silent} is not given, and its default would end what is there: {', '.join(part.destroys)}.",
            target.gpu.address,
            "Write what is wanted, also where it is the default.",
        )


def _held_up(gpu, err):
    """The error for a GPU that could be changed, if those that can only change with it could."""
    what = f"It can only change together with others. {err}"
    return errors.ResourceConflict(what, gpu.address, holders=getattr(err, "holders", ()))


def _together(mistakes):
    """One error for all mistakes; the only one as it is."""
    mistakes = list({str(err): err for err in mistakes}.values())
    if len(mistakes) == 1:
        return mistakes[0]
    lines = [line for err in mistakes for line in (getattr(err, "mistakes", None) or [str(err)])]
    told = folding.sentences(dict.fromkeys(lines))
    return errors.PolicyError("\n".join(["Nothing was changed:", *(f"- {line}" for line in told)]), mistakes=lines)
