"""
When a change may be made: what waits for its users, or for the window of maintenance, and why. Loaded only where the pillar lets
changes wait.
"""

from gpuslice import errors

#: Effect of a step -> what it does to those who use the GPU, as words before it. What is made beside them disrupts nobody.
_DISRUPTING = {
    "mode": "changes a mode of", "reset": "resets", "driver": "loads anew the driver of", "process": "ends processes on",
}  # fmt: skip
_TOGETHER = "It can only change together with others."
#: Settings of who hands out slices: those who have some keep them, and their names lead to what is there.
KEPT = {"kept": True}


class Timing:
    """
    When the changes of one request may be made.

    :param options: :class:`gpuslice.rules.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    """

    def __init__(self, host, options, journal):
        self._host, self._options, self._journal = host, options, journal

    @property
    def is_open(self):
        """Whether what disrupts may be begun now."""
        return self._options.when != "window" or self._options.window.is_open(self._host.now())

    def refuse(self, parts):
        """
        Put off parts that can only change together, where one of them disrupts and the window is closed.

        A change that was begun goes on to its end: what is in the journal is not put off, whether it is being carried out or was
        interrupted.

        :raises errors.Several: each GPU says itself what it waits for.
        """
        found = {part.key: words for part in parts if (words := _disruption(part))}
        if not found or self.is_open or self._begun(parts):
            return
        failed = []
        for part in parts:
            what = f"A change is wanted that {found[part.key]}." if part.key in found else _TOGETHER
            failed += [(address, errors.Deferred(what, address)) for address in part.addresses]
        raise errors.Several(failed)

    def _begun(self, parts):
        entry = self._journal.unfinished()
        return entry is not None and any(address in entry.gpus for part in parts for address in part.addresses)

    def waiting(self, target, err):
        """(PCI address or what hands out, what it waits for, sentence) where an error only says "not yet"; None for any other."""
        in_use = isinstance(err, errors.ResourceConflict) and err.holders and not target.key.hands_out
        if not in_use and not isinstance(err, errors.Deferred):
            return None
        where = target.technique if target.key.hands_out else target.gpu.address
        told = errors.Deferred(err.what, "" if target.key.hands_out else target.gpu.address)
        return where, self._options.when, f"{str(told).rstrip('.')}. {self._until()}"

    def met_now(self, targets, found):
        """
        The targets that can be met now. Where something waits, what is to be handed out may not be there yet, or would disrupt
        those who have it: they keep what they have until then.

        :param found: (target, error) of what can't be planned. :return: (targets, what waits of these as of :meth:`waiting`).
        """
        handing = {target.key: err for target, err in found if target.key.hands_out}
        if not handing or not any(self.waiting(target, err) for target, err in found):
            return targets, []
        kept = [target._replace(settings=KEPT, wish=None) if target.key in handing else target for target in targets]
        why = "Who has slices keeps them until then."
        told = [(key.technique, self._options.when, f"{err.what} {why} {self._until()}") for key, err in handing.items()]
        return kept, told

    def _until(self):
        if self._options.when == "idle":
            return "It is changed when nobody uses that any more."
        window, now = self._options.window, self._host.now()
        if window.is_open(now):
            closes = window.closes_at(now)
            end = f", which closes {window.words(closes)}" if closes else ""
            return f"It is changed when nobody uses that any more, within the maintenance window{end}."
        opens = window.next_opening(now)
        return f"It waits for the maintenance window, which opens {window.words(opens)}." if opens else "The window never opens."


def _disruption(part):
    """What a part does to those who use its GPU, as words after "that"; "" where it disrupts nobody."""
    ends = part.destroys or [name for step in part.steps for name in step.disrupts if part.hands_out]
    words = [f"ends {', '.join(ends)}"] if ends and not part.hands_out else []
    words += [f"stops or restarts {', '.join(dict.fromkeys(ends))}"] if ends and part.hands_out else []
    words += [f"{_DISRUPTING[effect]} the GPU" for effect in dict.fromkeys(s.effect for s in part.steps) if effect in _DISRUPTING]
    words += [f"stops {', '.join((*part.stops, *part.unloads))}"] if part.stops or part.unloads else []
    idle = any(step.disrupts or "idle" in step.needs for step in part.steps)
    return ", ".join(words) or ("needs the GPU to be idle" if idle else "")
