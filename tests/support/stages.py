"""
What tests share that run the stages of a highstate on a simulated host.
"""

import copy

#: What changes a machine.
MUTATING = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstance",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceDestroy",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    "nvmlComputeInstanceDestroy",
    "end_process",
    "run",
    "write",
)
NEVER = 10**9


def counters(calls=MUTATING):
    """Faults that never come true, and count how often each of these calls is made."""
    return [{"call": call, "nth": NEVER, "lie": True} for call in calls]


def counted(host):
    """Call -> how often it was made, of those that :func:`counters` counts on this host."""
    return {fault["call"]: fault["seen"] for fault in host.state()["faults"] if fault["nth"] == NEVER and fault["seen"]}


def points(host, calls, work):
    """(call, number) of each of these calls that ``work()`` makes on this host."""
    for fault in counters(calls):
        host.add_fault(fault)
    work()
    found = counted(host)
    host.clear_faults()
    return [(call, number) for call in calls for number in range(1, found.get(call, 0) + 1)]


def machine(host):
    """Everything of the simulated hardware that a change could touch: modes, instances with their UUIDs, files, processes."""
    state = copy.deepcopy(host.state())
    return {key: value for key, value in state.items() if key not in ("faults", "serial", "meters")}


def stages(minion, wanted, test=False):
    """Run the stages; returns (all went well, comments, changes of all)."""
    states = list(minion.apply("gpu_slicing", pillar=wanted, test=test))
    assert not isinstance(states[0], str), states
    changes = {}
    for state in states:
        changes.update(state.changes)
    return all(state.result is not False for state in states), "\n".join(state.comment for state in states), changes


def refused(minion, wanted, *words):
    """Run the stages; they fail with these words and change nothing. Returns the comment of the first that failed."""
    before = machine(minion.host)
    ran = list(minion.apply("gpu_slicing", pillar=wanted))
    assert not isinstance(ran[0], str), ran
    comment = next(stage.comment for stage in ran if stage.result is False)
    assert "Traceback" not in comment and "gpuslice." not in comment
    for word in words:
        assert word in comment, comment
    assert all(stage.changes == {} for stage in ran)
    assert ran[-1].result is False
    assert machine(minion.host) == before
    assert counted(minion.host) == {}
    return comment
