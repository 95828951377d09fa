"""
The words in which the health of GPUs and slices is told, from the record to metrics and events. ``docs/health.md`` says what
they mean.
"""

OK, DEGRADED, FAILED, LOST = "ok", "degraded", "failed", "lost"
#: From the best to the worst.
STATUSES = (OK, DEGRADED, FAILED, LOST)
#: Those with which a thing must not be relied upon.
FAILING = (FAILED, LOST)
#: What has to be done, from the least to the most.
ACTIONS = ("none", "restart_program", "reset", "reboot", "drain", "replace")
#: What a status or an action concerns.
SLICE, BOARD, ALL_GPUS = "slice", "board", "host"
