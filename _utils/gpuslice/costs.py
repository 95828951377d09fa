"""
What an operation takes, in seconds, for the estimate that a plan prints. Measured by others, so each names its source; the
machine at hand may differ by a factor of a few.
"""

#: operation -> (seconds, where the figure comes from)
COSTS = {
    "create_gi": (0.11, "A30, sample output of a public MIG tool: GI and CI together 0.13 to 0.16 s"),
    "create_ci": (0.05, "A30, as above"),
    "destroy_ci": (0.03, "A30, sample output of a public MIG tool: CI and GI together 0.10 to 0.11 s"),
    "destroy_gi": (0.07, "A30, as above; a busy GPU takes about 1 s"),
    "set_mode_with_reset": (4.5, "A100 80GB SXM, public log: 4 to 5 s a GPU"),
    "set_mode": (1.0, "no public figure; Hopper and later switch without a reset"),
    "end_process": (1.0, "our own patience is 10 s, most programs need less than one"),
    "reset": (8.0, "no public figure for a reset that works; refusals return after 5 to 8 s"),
}


def seconds(operation):
    """Estimated seconds of an operation."""
    return COSTS[operation][0]
