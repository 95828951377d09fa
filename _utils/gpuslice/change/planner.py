"""
From targets to a plan: what is wanted is settled against what is there, and each technique says what has to be done.
"""

from dataclasses import replace

from gpuslice import errors
from gpuslice.plan import Plan
from gpuslice.plan import same
from gpuslice.records import interrupted
from gpuslice.records import lock

#: Mistakes of the one who asked: nothing is changed anywhere when one of them is met.
_MISTAKES = (errors.PolicyError, errors.ProfileMismatch, errors.Unsupported)
#: Conditions of one GPU: it is left alone and reported, the others go on. A GPU that was named and is not there is found out
#: before; here it is one that the bus still shows and its driver has lost. A foreign change comes while the GPU is read.
_BLOCKED = (errors.ResourceConflict, errors.Unhealthy, errors.ModeChangePending, errors.DeviceNotFound, errors.ForeignChange)



class Planner:
    """
    The plans of one request on one host.

    :param options: :class:`gpuslice.change.reconcile.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    :param ledger: :class:`gpuslice.records.reboot.RebootLedger`.
    """

    def __init__(self, host, toolbox, options, journal, ledger):
        self._host, self._tools, self._options = host, toolbox, options
        self._journal, self._ledger = journal, ledger

    def plan(self, targets):
        """
        The plan for these targets. Raises an error that names every mistake; GPUs that are in use or ill are reported in
        ``Plan.blocked``.
        """
        targets = list(targets)
        made = self.planned(targets)
        return replace(made, notes=(*self._told_before(targets, made), *made.notes))

    def planned(self, targets):
        """:meth:`plan` without what is told of other changes."""
        plans, blocked, mistakes, broken = [], [], [], []
        if _differ(targets):
            targets = self.settled(targets, self._journal.unfinished())
        self._begin(targets)
        for target in targets:
            if target.technique is None:
                continue
            try:
                plans.append(self._plan_one(target))
            except _MISTAKES as err:
                mistakes.append(err)
            except _BLOCKED as err:
                blocked.append((target.gpu.address, str(err)))
            except errors.DriverError as err:
                # It may be one GPU that its driver can't read any more. Where it is all of them, it is the host.
                broken.append(err)
                blocked.append((target.gpu.address, str(err) if err.gpu else f"GPU {target.gpu.address}: {err}"))
        if mistakes:
            raise _together(mistakes)
        if broken and not plans and len(broken) == len(blocked):
            raise broken[0]
        untouched = tuple(f"{t.gpu.address} {t.gpu.model}: left alone, {t.reason}" for t in targets if t.technique is None)
        # Where nobody named the technology, the plan says how it was chosen.
        chosen = tuple(f"{t.gpu.address} {t.gpu.model}: {t.reason}" for t in targets if getattr(t, "automatic", False))
        return Plan(tuple(plans), untouched, tuple(blocked), chosen)

    def _told_before(self, targets, plan):
        """Sentences on a change that did not end, and on what this request does about it before anything else."""
        entry = self._journal.unfinished()
        if entry is None:
            return ()
        if lock.is_held(self._host.state_dir):
            return ("Another change is going on on this host at this moment: what is planned here may change with it.",)
        told = f"{interrupted.words(entry)} on {', '.join(entry.before)}"
        if not self.deals_with_interrupted(targets):
            return (f"{told}; it is left as it is. {interrupted.WHAT_TO_DO}",)
        if self.can_finish(targets, entry, plan):
            return (f"{told}; this run finishes it.",)
        reached = {t.gpu.address for t in targets if t.technique}
        others = [gpu for gpu in entry.before if gpu not in reached]
        more = f", also on {', '.join(others)}, which are not reached else" if others else ""
        return (f"{told}; this run undoes it first{more}. What follows is planned on what is there now.",)

    def deals_with_interrupted(self, targets):
        """Whether a request deals with an interrupted change: one that may change nothing (strategy none or skip) does not."""
        return self._options.strategy != "skip" and any(t.technique for t in targets)

    def plan_each(self, targets):
        """
        PCI address -> the plan of each of these targets, or the error that says why there is none. One that can't be planned does
        not keep the others from it, as it does in :meth:`plan`.
        """
        self._begin(targets)
        found = {}
        for target in targets:
            try:
                found[target.gpu.address] = self._plan_one(target)
            except errors.GpuSliceError as err:
                found[target.gpu.address] = err
        return found

    def settled(self, targets, entry=None):
        """
        The targets with what they come to now: a wish may be a difference to what is there (one instance more), which says what
        is wanted only under the lock, when nobody else changes the host.

        :param entry: an interrupted change: if it asked for the same, what that came to holds, or one wish would be met twice.
        """
        finishing = entry if entry and _asks_for_all(targets, entry) else None
        return [self._settle(target, finishing) if "difference" in target.settings else target for target in targets]

    def _settle(self, target, finishing):
        address, wish = target.gpu.address, target.settings["difference"]
        if finishing and address in finishing.wishes:
            return target._replace(settings=finishing.goal[address])
        technique = self._tools.get(target.technique)
        return target._replace(settings=technique.settle(target.gpu, technique.observe(target.gpu), wish))

    def _begin(self, targets):
        """Let techniques know that a new plan is made, and those whose GPUs can't change one by one what is wanted of all."""
        for tool in self._tools.made():
            # Who uses what is asked anew for each plan: while this run waited for the lock, others came.
            if forget := getattr(tool, "forget_users", None):
                forget()
        for name in dict.fromkeys(t.technique for t in targets if t.technique):
            if gather := getattr(self._tools.get(name), "gather", None):
                gather([(t.gpu, t.settings) for t in targets if t.technique == name])

    def _plan_one(self, target):
        technique = self._tools.get(target.technique)
        state = technique.observe(target.gpu)
        rules = self._options.rules(self._ledger.waiting(target.gpu.address))
        made = technique.plan(target.gpu, state, target.settings, rules)
        _refuse_silence(target, made)
        if made.steps and self._options.health_check:
            self._refuse_ill(target.gpu, made)
        return made

    def _refuse_ill(self, gpu, made):
        # Here, so that a run without a change does not load it.
        from gpuslice.health import board

        reasons = board.refusing(self._host, self._tools.sessions, gpu)
        for address in made.covers:
            there = board.refusing(self._host, self._tools.sessions, replace(gpu, address=address))
            reasons += [f"GPU {address}, which would change with it, has {reason}" for reason in there]
        if reasons:
            raise errors.Unhealthy(
                f"A change is wanted, but the GPU is not healthy: {'; '.join(reasons)}.",
                gpu.address,
                "Mend that first, or set containers_gpu_state_management:health_check to false.",
            )

    def refuse_mistakes(self, targets, entry):
        """
        A request that can't be meant changes nothing, the GPUs of an earlier change included. Other errors may be of that change:
        what a GPU can do looks otherwise half way, such as without its driver.
        """
        try:
            found = self.plan_each([t for t in self.settled(targets, entry) if t.technique]).values()
        except errors.GpuSliceError as err:
            # A difference may be one that can't be meant, which is found out when it is settled.
            found = [err]
        if mistakes := [err for err in found if isinstance(err, errors.PolicyError | errors.ProfileMismatch)]:
            left = f"{interrupted.words(entry)}, and is left as it is. {interrupted.WHAT_TO_DO}"
            raise errors.with_more(_together(mistakes), left)

    def can_finish(self, targets, entry, plan=None):
        """Whether a request wants all that an interrupted change wanted, and nothing stands in its way."""
        if not _asks_for_all(targets, entry):
            return False
        try:
            plan = plan or self.planned(targets)
        except errors.GpuSliceError:
            return False
        if any(gpu in entry.before for gpu, _ in plan.blocked):
            return False
        # Who asked for a difference never meant to end what came since.
        meant = {made.gpu: made.destroys for made in Plan.from_dict(entry.plan).gpus}
        return all(set(made.destroys) <= set(meant.get(made.gpu, ())) for made in plan.gpus if made.gpu in entry.wishes)


def _differ(targets):
    """Whether any of these wishes is a difference to what is there."""
    return any("difference" in target.settings for target in targets)


def _asks_for_all(targets, entry):
    """Whether these targets ask for all that an interrupted change wanted."""
    wanted = {t.gpu.address: t.settings for t in targets if t.technique}
    return all(gpu in wanted and _asks_for(wanted[gpu], entry, gpu) for gpu in entry.goal)


def _asks_for(settings, entry, gpu):
    """Whether settings ask for what an interrupted change wanted of a GPU, in the words of then or in what they came to."""
    difference = {"difference": entry.wishes[gpu]} if gpu in entry.wishes else None
    return same(settings, entry.goal[gpu]) or (difference is not None and same(settings, difference))


def _refuse_silence(target, made):
    """What is there already must not go because of a default: whoever wants that says so."""
    silent = getattr(target, "silent", "")
    if silent and made.destroys:
        raise errors.PolicyError(
            f"{silent} is not given, and its default would end what is there: {', '.join(made.destroys)}.",
            made.gpu,
            "Write what is wanted, also where it is the default.",
        )


def _together(mistakes):
    """One error for all mistakes; the only one as it is."""
    if len(mistakes) == 1:
        return mistakes[0]
    lines = [line for err in mistakes for line in (getattr(err, "mistakes", None) or [str(err)])]
    return errors.PolicyError("Nothing was changed:\n" + "\n".join(f"- {line}" for line in dict.fromkeys(lines)), mistakes=lines)
