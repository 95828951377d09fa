"""
Verifying a change: what was done is read again and planned anew.
"""

from gpuslice import errors
from gpuslice.change.context import caught
from gpuslice.plan import same


class Verifier:
    """
    Verifies changes on one host.

    :param options: :class:`gpuslice.rules.Options`; :param planner: :class:`gpuslice.change.planner.Planner`.
    """

    def __init__(self, toolbox, options, planner):
        self._tools, self._options, self._planner = toolbox, options, planner

    def layer(self, change, parts, halt):
        """
        Read again what a layer changed, but for what failed or waits for a reboot, and plan anew: a part with steps is a
        difference, and that a failure.
        """
        changed = [part for part in parts if part.key not in change.unmet and part.key not in change.affected()]
        below = [part for part in change.plan.parts if part.layer < parts[0].layer] if parts else []
        for part in changed:
            err, left = self._verify_one(part, change.targets, below)
            if not err:
                change.verified[part.key], change.found[part.key] = left.before, left
            elif self._options.validation:
                change.failed[part.key] = err
                halt.failed(part.key)
            else:
                change.result.verified = False
                change.result.warnings.append(str(err))

    def _verify_one(self, part, targets, below):
        """(error or None, the part without steps that a reading came to)."""
        technique = self._tools.get(part.key.technique)
        try:
            left = self._planner.after(part.key, targets, below)
        except Exception as err:
            return caught(err, part.gpu), None
        if not left.steps:
            return None, left
        found, wanted = technique.words(left.before), technique.words(left.after)
        # What is around a layout, such as a limit, its words do not tell.
        told = f"wanted is {wanted}" if found != wanted else f"and still to be done is: {left.steps[0].words}"
        wrong = errors.ValidationFailed(
            f"After the change the GPU was read again and is not as wanted: it has {found}, {told}.",
            part.gpu,
            "See 'dmesg' for the driver's own words.",
        )
        return wrong, None

    def health(self, parts, gpus):
        """Sentences on GPUs that are not healthy after the change; what only hands out has changed none."""
        if not self._options.health_check:
            return []
        found = []
        for part in (each for each in parts if not each.hands_out):
            try:
                reasons = self._planner.health(part, gpus)
            except Exception as err:
                reasons = [str(caught(err, part.gpu)).rstrip(".")]
            found += [f"GPU {part.gpu} is not healthy after the change: {reason}." for reason in reasons]
        return list(dict.fromkeys(found))

    def changed_since(self, change, after):
        """Sentences on what somebody else changed after it was verified; that does not count as verified any more."""
        found = []
        for key, layout in list(change.verified.items()):
            if key in after and not same(after[key], layout):
                del change.verified[key]
                words = self._tools.get(key.technique).words
                now = after[key]["error"] if "error" in after[key] else f"it has {words(after[key])}"
                what = f"It was verified to have {words(layout)}, and when it was read again a moment later {now}."
                todo = "Find out which tool manages it besides Salt, then run again."
                found.append(str(errors.ForeignChange(what, change.entry.covered(key)[0], todo)))
        return found
