"""
The steps from the MIG instances that there are to those that are wanted.
"""


def shape_steps(mig, gpu, state, change, phase):
    """
    Steps that destroy and create instances.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`; :param state: :class:`gpuslice.techniques.mig.technique.MigState`.
    :param change: :class:`.placement.Change`; :param phase: of the steps, see :class:`gpuslice.plan.Step`.
    """
    devices = mig.nvml.mig_devices(gpu.address) if state.instances else {}
    by_start = {gi.start: gi for gi in state.instances}
    steps = []
    for instance in change.destroy:
        gi = by_start[instance.start]
        steps += [_destroy_ci(mig, gpu, gi, ci, devices, phase) for ci in gi.cis]
        steps.append(
            mig.step(
                gpu,
                "destroy_gi",
                {"gi": gi.id},
                f"destroy GPU instance {gi.profile} at {gi.start}",
                "destroy_gi",
                phase,
                undo=f"create GPU instance {gi.profile} at {gi.start}",
                needs=("idle",),
            )
        )
    for start, name, ci_start in change.destroy_cis:
        gi = by_start[start]
        steps += [_destroy_ci(mig, gpu, gi, ci, devices, phase) for ci in gi.cis if (ci.name, ci.start) == (name, ci_start)]
    for placed in change.create:
        steps.append(
            mig.step(
                gpu,
                "create_gi",
                {"profile": placed.profile, "start": placed.start},
                f"create GPU instance {placed.profile} at {placed.start}",
                "create_gi",
                phase,
                undo=f"destroy GPU instance {placed.profile} at {placed.start}",
            )
        )
        steps += [_create_ci(mig, gpu, placed.profile, placed.start, name, ci_start, phase) for name, ci_start in placed.cis]
    profiles = {placed.start: placed.profile for _, placed in change.keep}
    steps += [
        _create_ci(mig, gpu, profiles[start], start, name, ci_start, phase) for start, name, ci_start in change.create_cis
    ]
    return steps


def _destroy_ci(mig, gpu, gi, ci, devices, phase):
    uuid = devices.get((gi.id, ci.id), (None, ""))[1]
    return mig.step(
        gpu,
        "destroy_ci",
        {"gi": gi.id, "ci": ci.id},
        f"destroy compute instance {ci.name} of {gi.profile} at {gi.start}{f' ({uuid})' if uuid else ''}",
        "destroy_ci",
        phase,
        undo=f"create compute instance {ci.name} again, with a new UUID",
        disrupts=(uuid,) if uuid else (),
        needs=("idle",),
    )


def _create_ci(mig, gpu, profile, start, name, ci_start, phase):
    return mig.step(
        gpu,
        "create_ci",
        {"profile": profile, "start": start, "ci": name, "ci_start": ci_start},
        f"create compute instance {name} in {profile} at {start}",
        "create_ci",
        phase,
        undo=f"destroy compute instance {name}",
    )
