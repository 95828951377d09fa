"""
What tests share that run the stages of a highstate on a simulated host.
"""

import copy


def machine(host):
    """Everything of the simulated hardware that a change could touch."""
    state = copy.deepcopy(host.state())
    return {key: value for key, value in state.items() if key not in ("faults", "serial", "written")}


def stages(minion, wanted, test=False):
    """Run the stages; returns (all went well, comments, changes of all)."""
    states = list(minion.apply("gpu_slicing", pillar=wanted, test=test))
    assert not isinstance(states[0], str), states
    changes = {}
    for state in states:
        changes.update(state.changes)
    return all(state.result is not False for state in states), "\n".join(state.comment for state in states), changes


def refused(minion, wanted, *words):
    """The stages fail with these words, and nothing is changed."""
    before = machine(minion.host)
    well, comment, changes = stages(minion, wanted)
    assert not well and not changes, comment
    assert "Traceback" not in comment
    for word in words:
        assert word in comment, comment
    assert machine(minion.host) == before
    return comment
