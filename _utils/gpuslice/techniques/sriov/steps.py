"""
The steps of a change of virtual functions, in the order that drivers take.
"""

from gpuslice.drivers.sriov_files import QUOTAS
from gpuslice.techniques.sriov import goal as sriov_goal
from gpuslice.techniques.sriov import shares


class Steps:
    """
    Steps for one GPU at a time.

    :param step: the technique's own function that makes one, :meth:`.technique.Sriov.step`.
    """

    def __init__(self, step):
        self._step = step

    def anew(self, gpu, state, goal):
        """VFs go, the files are written, VFs come: the only order that all drivers take."""
        steps = [self.count(gpu, state, 0)] if state.numvfs else []
        steps += self._division(gpu, state, goal)
        scheduling = [a for a in _attributes(state) if a.field not in QUOTAS and a.path in goal.values]
        # A driver that divides by itself sets or clears the turns of VFs when it makes and removes them, and some take a VF whose
        # turn was set for one that is provisioned already. Turns may be changed later: so they come after the VFs.
        dividing = goal.provisioning == "fair" or (state.files and not state.files.complete)
        late = [a for a in scheduling if 0 < a.owner <= goal.numvfs and dividing]
        early = [a for a in scheduling if a not in late]
        steps += [self._write(gpu, state, a, goal.values[a.path]) for a in early if self._has_to(state, goal, a)]
        steps += [self._write(gpu, state, a, a.default) for a in sriov_goal.leftover(state, goal)]
        steps += self.autoprobe(gpu, state, goal)
        steps += [self.count(gpu, state, goal.numvfs)] if goal.numvfs else []
        return steps + [self._write(gpu, state, a, goal.values[a.path]) for a in late]

    @staticmethod
    def _has_to(state, goal, attribute):
        """Removing VFs may have cleared what is there: only what nobody ever set needs no write."""
        wanted = goal.values[attribute.path]
        return wanted != attribute.default or attribute.path in state.values

    def _division(self, gpu, state, goal):
        """Steps that hand the division to the driver, or take it from it."""
        files = state.files
        if files is None:
            return []
        quotas = [a for a in files.attributes if a.field in QUOTAS]
        there = [a for a in quotas if a.path in state.values]
        own = goal.provisioning == "custom"
        switch = [] if not files.switch or state.values.get(files.switch) == int(not own) else [self._switch(gpu, files, not own)]
        if not own:
            divided = shares.provisioning(files, state.values, state.numvfs) != "fair"
            if files.restore and (there or goal.provisioning == "fair") and (divided or files.complete):
                return [self._restore(gpu, files)]
            # What the driver divided it takes back by itself when the VFs go; some drop what was written too.
            kept = divided and (files.complete or not state.numvfs)
            return [self._write(gpu, state, a, 0) for a in there if kept] + switch
        wanted = {a: goal.values.get(a.path, 0) for a in quotas}
        # What becomes less comes first, or the rest would not fit.
        order = sorted(wanted, key=lambda a: (wanted[a] >= state.values.get(a.path, 0), a.owner))
        return switch + [self._write(gpu, state, a, wanted[a]) for a in order if wanted[a] or a in there]

    def autoprobe(self, gpu, state, goal):
        """Whether the host's driver takes new VFs, where that is another than now."""
        if goal.autoprobe is None or sriov_goal.hosts_driver_takes(state.autoprobe) == bool(goal.autoprobe):
            return []
        words = "let the host's driver take new virtual functions" if goal.autoprobe else "leave new virtual functions unbound"
        return [
            self._step(
                gpu, "set_autoprobe", {"value": goal.autoprobe}, words, "sysfs_write", undo=f"write {state.autoprobe} again"
            )
        ]

    def writes(self, gpu, state, goal, differs):
        """The files of VFs that stay; ``differs`` is a function of an attribute that tells whether it has to be written."""
        return [
            self._write(gpu, state, a, goal.values[a.path])
            for a in _attributes(state)
            if a.path in goal.values and differs(a)
        ]

    def _write(self, gpu, state, attribute, value):
        old = state.values.get(attribute.path, attribute.default)
        who = f"vf{attribute.owner}" if attribute.owner else "all functions" if attribute.source else "the PF"
        words = f"set {attribute.field} of {who} to {shares.amount(attribute.field, value)} ({attribute.path})"
        args = {"path": attribute.path, "value": value}
        return self._step(gpu, "write_attribute", args, words, "sysfs_write", undo=f"set it to {old}")

    def _switch(self, gpu, files, on):
        words = "let the driver divide the GPU" if on else "stop the driver from dividing the GPU by itself"
        args = {"path": files.switch, "value": int(on)}
        return self._step(gpu, "write_attribute", args, words, "sysfs_write", undo=f"write {int(not on)} to {files.switch}")

    def _restore(self, gpu, files):
        words = "give the division of the GPU back to the driver"
        return self._step(gpu, "restore_division", {}, words, "sysfs_write", undo="writing the quotas again")

    def count(self, gpu, state, count):
        """The step that writes ``sriov_numvfs``."""
        words = f"create {count} virtual functions" if count else f"remove {state.numvfs} virtual functions"
        return self._step(
            gpu,
            "set_count",
            {"count": count},
            words,
            "sriov_numvfs",
            undo=f"{'remove them' if count else f'create {state.numvfs} virtual functions'}",
            disrupts=() if count else state.addresses,
            needs=() if count else ("idle",),
        )


def _attributes(state):
    return state.files.attributes if state.files else ()
