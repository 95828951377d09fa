"""
The MIG instances on which vGPUs stand: which are behind which, which are needed, and which stand without a vGPU.
"""

import math

from gpuslice import errors
from gpuslice.model import slice_name
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.mig.devices import device_words


class Instances:
    """
    The GPU instances behind the vGPUs of one host.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`; :param types: function of a GPU that returns its
        :class:`.types.VgpuTypes`.
    """

    def __init__(self, mig, types):
        self._mig, self._types = mig, types

    def most(self, gpu, found):
        """How many vGPUs of a type a GPU can have. A driver may count those that share a MIG instance as one."""
        if found.gi_profile is None or found.most is None or not self._mig.supports(gpu):
            return found.most
        profile = self._mig.table(gpu).by_id(found.gi_profile)
        each = self._types(gpu).per_instance(found, profile) if profile else 1
        return found.most if each == 1 else max(found.most, each * profile.count)

    def settings_for(self, gpu, state, counts, stay):
        """
        Settings for MIG: the instances behind vGPUs that stay, where they are, and as many more as those to come need. vGPUs of
        different types share none: the driver puts only those of one size together.
        """
        if state.mig is None:
            raise errors.Unsupported(f"{counts[0][0].name} needs MIG, which {gpu.model} does not have.", gpu.address)
        table = self._mig.table(gpu)
        behind = [vgpu.gi for vgpu in stay]
        pinned = [gi for gi in state.mig.instances if gi.id in behind]
        there = {gi.id for gi in pinned}
        missing = {}
        for found, count in counts:
            profile = table.by_id(found.gi_profile)
            if profile is None:
                raise errors.Unsupported(
                    f"vGPU type {found.name} needs a MIG instance of a profile that the driver does not tell.",
                    gpu.address,
                    "Ask for a type without a MIG instance, or take a newer driver.",
                )
            placed = [vgpu.gi for vgpu in stay if vgpu.type == found.name and vgpu.gi in there]
            each = self._types(gpu).per_instance(found, profile)
            # What is free on the instances that stay is filled first.
            left = max(0, count - len(set(placed)) * each)
            missing[profile.name] = missing.get(profile.name, 0) + math.ceil(left / each)
        return {
            "layout": {
                "enabled": True,
                "instances": [
                    *([gi.profile, gi.start, [[ci.name, ci.start] for ci in gi.cis]] for gi in pinned),
                    *([name, None, [[name, None]]] for name, count in missing.items() for _ in range(count)),
                ],
            }
        }

    def standing(self, gpu, state, keep, steps):
        """Those of these vGPUs that keep their GPU instance. The others are made anew, as are those of which that is not sure."""
        ended = {step.args["gi"] for step in steps if step.action.startswith("destroy")}
        return tuple(vgpu for vgpu in keep if ended.isdisjoint(self._behind(gpu, state, vgpu))) if ended else keep

    def _behind(self, gpu, state, vgpu):
        """Ids of the GPU instances of which one is behind a vGPU."""
        if vgpu.gi is not None:
            return [vgpu.gi]
        behind_others = {other.gi for other in state.vgpus}
        return [number for number in self._fitting(gpu, state, vgpu) if number not in behind_others]

    def _fitting(self, gpu, state, vgpu):
        """Ids of the GPU instances that have the profile of a vGPU."""
        profile = self.profile(gpu, self._types(gpu).get(vgpu.type))
        return [gi.id for gi in state.mig.instances if not profile or gi.profile == profile.name]

    def profile(self, gpu, found):
        """The MIG profile of which a vGPU type has an instance to itself; None for no type or one without."""
        return self._mig.table(gpu).by_id(found.gi_profile) if found and found.gi_profile is not None else None

    def refuse_if_taken(self, gpu, state, goal, keep, steps, rules, stops):
        """A GPU instance that is there already may carry a vGPU to come, unless somebody else works on it."""
        if state.mig is None or not state.mig.instances or len(goal.vgpus) == len(keep):
            return
        ended = {step.args["gi"] for step in steps if step.action == "destroy_gi"}
        behind = {vgpu.gi for vgpu in keep}
        free = {gi.id: gi for gi in state.mig.instances if gi.id not in ended | behind}
        for (number, _), held in (self._mig.users.of_instances(gpu) if free else {}).items():
            if number in free:
                doing = f"give GPU instance {free[number].profile} at {free[number].start} to a vGPU"
                refuse_if_held(gpu.address, doing, held, rules, stops)

    def bare_devices(self, gpu, state, goal, keep, steps):
        """
        Words for MIG devices that stay, go and come, as far as no vGPU stands on them: with a vGPU it is the vGPU that counts.
        """
        ended = {(step.args["gi"], step.args["ci"]) for step in steps if step.action == "destroy_ci"}
        under = set(self._under(gpu, state).values())
        there = [(gi, ci) for gi in state.mig.instances if gi.id not in under for ci in gi.cis] if state.mig else []
        words = {(gi.id, ci.id): device_words(gi.profile, gi.start, ci.name, ci.start) for gi, ci in there}
        come = [step.args for step in steps if step.action == "create_ci"]
        for vgpu in (vgpu for vgpu in goal.vgpus if come and vgpu not in keep):
            profile = self.profile(gpu, self._types(gpu).get(vgpu.type))
            mine = next((args for args in come if profile and args["profile"] == profile.name), None)
            come = [args for args in come if args is not mine]
        return (
            [told for ids, told in words.items() if ids not in ended],
            [told for ids, told in words.items() if ids in ended],
            [device_words(args["profile"], args["start"], args["ci"], args["ci_start"]) for args in come],
        )

    def below(self, gpu, state):
        """
        vGPU -> name of the GPU instance behind it. Where the driver does not tell, it is the first that it may be, and one that
        others have only where none is left: types may share one.
        """
        places = {gi.id: slice_name(gpu.address, gi.profile, gi.start) for gi in state.mig.instances} if state.mig else {}
        return {vgpu: places[number] for vgpu, number in self._under(gpu, state).items() if number in places}

    def only_one(self, gpu, found, layout):
        """
        Name of the GPU instance on which a vGPU of a type has to stand in a layout of MIG, as there is no other of its profile.

        :param found: the type, None for an unknown one; :param layout: None without MIG. :return: "" for none or several.
        """
        profile = self.profile(gpu, found)
        starts = [start for name, start, _ in layout["instances"] if name == profile.name] if profile and layout else []
        return slice_name(gpu.address, profile.name, starts[0]) if len(starts) == 1 else ""

    def _under(self, gpu, state):
        """vGPU -> id of the GPU instance behind it, see :meth:`below`."""
        found = {}
        for vgpu in state.vgpus if state.mig else ():
            free = [number for number in self._behind(gpu, state, vgpu) if number == vgpu.gi or number not in found.values()]
            if may_be := free or self._fitting(gpu, state, vgpu):
                found[vgpu] = min(may_be, key=list(found.values()).count)
        return found
