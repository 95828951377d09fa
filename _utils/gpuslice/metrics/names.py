"""
The names of our metrics: a table of name -> (kind, help). ``docs/metrics.md`` says how they are joined with those of others.
"""

from gpuslice.outputs.prometheus import COUNTER
from gpuslice.outputs.prometheus import GAUGE

#: What everything of ours begins with: no other exporter has these names, so that no series is told twice.
PREFIX = "gpuslice_"

NAMES = {
    "board_info": (GAUGE, "A GPU of this host, 1."),
    "slice_info": (GAUGE, "A slice of a GPU, 1; it has its profile, and on what it stands."),
    "board_memory_bytes": (GAUGE, "Memory of the board."),
    "board_memory_used_bytes": (GAUGE, "Memory of the board that is in use."),
    "board_utilization_ratio": (GAUGE, "How busy the board was, 0 to 1."),
    "board_temperature_celsius": (GAUGE, "Temperature of the board."),
    "board_power_watts": (GAUGE, "What the board draws."),
    "board_power_limit_watts": (GAUGE, "What the board may draw: the limit in force, else the one that was asked."),
    "board_energy_joules_total": (COUNTER, "What the board has drawn since its driver was loaded, by its own counter."),
    "board_unallocated_energy_joules_total": (COUNTER, "What of that no slice was given, since it was first looked at."),
    "slice_memory_bytes": (GAUGE, "Memory of the slice."),
    "slice_memory_used_bytes": (GAUGE, "Memory of the slice that is in use."),
    "slice_utilization_ratio": (GAUGE, "How busy the slice's own compute was since the last run, 0 to 1."),
    "slice_processes": (GAUGE, "Processes that compute on the slice."),
    "slice_compute_ratio": (GAUGE, "The slice's share of the compute of its board, 0 to 1."),
    "slice_energy_joules_total": (COUNTER, "The slice's part of what its board has drawn, by kind and method."),
    "board_health": (GAUGE, "1 for the status that the board has, 0 for the others."),
    "slice_health": (GAUGE, "1 for the status that the slice has, 0 for the others."),
    "board_health_action": (GAUGE, "What is to be done about the health of the board, 1."),
    "quarantined": (GAUGE, "A board or slice that nobody is given, 1."),
    "layout_generation": (GAUGE, "Number of the newest change on record, 0 for none."),
    "last_verified_change_timestamp_seconds": (GAUGE, "When a change was last read back and found as wanted."),
    "drift": (GAUGE, "1 where the board has another layout than the one that was verified last."),
    "free_placements": (GAUGE, "How many more of a profile fit beside what is there, taken alone."),
    "fragmentation_ratio": (GAUGE, "Share of what could fit that is lost because of where the slices lie, 0 to 1."),
    "consumer_bound": (GAUGE, "A consumer that was handed this slice, 1."),
    "unreadable": (GAUGE, "How many values could not be read in the last run, by what and why."),
    "last_run_timestamp_seconds": (GAUGE, "When these metrics were read."),
    "run_duration_seconds": (GAUGE, "How long it took to read them."),
}  # fmt: skip
