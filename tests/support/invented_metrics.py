"""
Metrics of a host of which nothing is real, as the writer of metrics writes them: every series, over some hours.

Load goes up and down, a GPU is cut anew, one drifts for a while, one is degraded. Equal times give equal texts.
"""

import math
from functools import partial
from typing import NamedTuple

#: Labels of what is told of boards and slices.
BOARD = ("pci_bus_id", "pci_bus_id_long", "parent_uuid", "vendor", "model")
SLICE = ("slice", "uuid", "parent_uuid", "pci_bus_id", "pci_bus_id_long", "GPU_I_ID", "GPU_I_PROFILE", "technique", "consumer")
STATUSES = ("ok", "degraded", "failed", "lost")
#: Series -> its labels.
SERIES = {
    "gpuslice_board_info": (*BOARD, "driver", "numa_node"),
    "gpuslice_slice_info": (*SLICE, "profile", "of"),
    **{f"gpuslice_board_{what}": BOARD for what in (
        "memory_bytes", "memory_used_bytes", "utilization_ratio", "temperature_celsius", "power_watts", "power_limit_watts",
        "energy_joules_total", "unallocated_energy_joules_total",
    )},
    **{f"gpuslice_slice_{what}": SLICE for what in (
        "memory_bytes", "memory_used_bytes", "utilization_ratio", "processes", "compute_ratio",
    )},
    "gpuslice_slice_energy_joules_total": (*SLICE, "kind", "method"),
    "gpuslice_board_health": (*BOARD, "status"),
    "gpuslice_slice_health": (*SLICE, "status"),
    "gpuslice_board_health_action": (*BOARD, "action"),
    "gpuslice_quarantined": ("name", "scope"),
    "gpuslice_layout_generation": (),
    "gpuslice_drift": BOARD,
    "gpuslice_last_verified_change_timestamp_seconds": (),
    "gpuslice_free_placements": (*BOARD, "profile"),
    "gpuslice_fragmentation_ratio": BOARD,
    "gpuslice_consumer_bound": SLICE,
    "gpuslice_unreadable": ("what", "reason"),
    "gpuslice_last_run_timestamp_seconds": (),
    "gpuslice_run_duration_seconds": (),
}  # fmt: skip
GIB, MINUTE, HOUR, DAY = 2**30, 60, 3600, 86400


class Profile(NamedTuple):
    """A GPU instance profile of a board with 80 GB."""

    sevenths: int
    memory: int
    #: The id of the first instance of it.
    first: int


PROFILES = {
    "1g.10gb": Profile(1, 10, 7), "2g.20gb": Profile(2, 20, 3), "3g.40gb": Profile(3, 40, 1), "7g.80gb": Profile(7, 80, 0),
}  # fmt: skip
IDLE_WATTS, FULL_WATTS = 110, 690
CONSUMERS = ("train", "infer-1", "infer-2", "", "notebook", "infer-3", "")


class Cut(NamedTuple):
    """Which profiles a board has from a time on, in seconds since the beginning."""

    since: int
    profiles: tuple[str, ...]


_SEVEN = ("1g.10gb",) * 7
#: PCI address -> how the board was cut, from time to time.
SMALL = {
    "0000:1b:00.0": [Cut(0, _SEVEN)],
    "0000:43:00.0": [Cut(0, ("3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"))],
    "0000:52:00.0": [Cut(0, ("3g.40gb", "3g.40gb")), Cut(90 * MINUTE, ("2g.20gb", "2g.20gb", "2g.20gb"))],
    "0000:61:00.0": [Cut(0, ("7g.80gb",))],
}
#: As many slices as a DGX can have.
DGX = {f"0000:{bus}:00.0": [Cut(0, _SEVEN)] for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df")}
#: The boards to which something happens, by their place; when that is, in seconds since the beginning.
CAPPED, ILL, DRIFTING, QUARANTINED = 1, 3, 1, 0
CAPS, DRIFTS, HANGS = (HOUR, DAY), (100 * MINUTE, 125 * MINUTE), (67 * MINUTE, 117 * MINUTE)


class Metrics:
    """
    :param boards: such as :data:`SMALL`. :param begin: when the first text is from, in seconds since 1970.
    :param every: seconds from one text to the next. :param ill: from when to when a board is degraded.
    """

    def __init__(self, boards, begin, every=15, ill=(40 * MINUTE, 133 * MINUTE)):
        self.boards, self.begin, self.every, self.ill, self.passed = boards, begin, every, ill, 0
        self._joules = {}
        self._told = {}

    def texts(self, seconds):
        """(time, text) for each look within so many seconds."""
        while self.passed <= seconds:
            yield self.begin + self.passed, self.text()
            self.passed += self.every

    def text(self, without=()):
        """The text of now, without these slices."""
        self._told = {name: [] for name in SERIES}
        for number, address in enumerate(self.boards):
            self._board(number, address, without)
        self._host()
        lines = []
        for name, samples in self._told.items():
            lines += [f"# HELP {name} {name}", f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"]
            lines += [f"{name}{{{_labels(SERIES[name], known)}}} {value}" for known, value in samples]
        return "".join(f"{line}\n" for line in lines)

    def _tell(self, known, name, value, /, **more):
        self._told[f"gpuslice_{name}"].append(({**known, **more}, value))

    def _within(self, span):
        return span[0] <= self.passed < span[1]

    def _host(self):
        tell = partial(self._tell, {})
        changes = sorted({cut.since for cuts in self.boards.values() for cut in cuts if cut.since <= self.passed})
        tell("layout_generation", 3 + len(changes))
        tell("last_verified_change_timestamp_seconds", self.begin + (changes[-1] or -DAY))
        tell("last_run_timestamp_seconds", self.begin + self.passed)
        tell("run_duration_seconds", round(0.21 + 0.03 * math.sin(self.passed / 700), 3))
        tell("unreadable", 1, what="utilization", reason="unsupported")
        if self._within(HANGS):
            tell("unreadable", 2, what="energy", reason="hangs")

    def _board(self, number, address, without):
        place = {"pci_bus_id": address, "pci_bus_id_long": f"0000{address}".upper()}
        place["parent_uuid"] = f"GPU-{number:08}-0000-0000-0000-000000000000"
        cut = [cut for cut in self.boards[address] if cut.since <= self.passed][-1]
        slices = [self._slice(place, number, position, cut) for position in range(len(cut.profiles))]
        load = sum(one["profile"].sevenths * one["load"] for one in slices) / 7
        cap = 500 if number == CAPPED and self._within(CAPS) else 700
        drawn = min(cap - IDLE_WATTS, (FULL_WATTS - IDLE_WATTS) * load)
        for one in slices:
            share = one["profile"].sevenths / 7
            one["watts"] = {"active": drawn * share * one["load"] / load if load else 0, "idle": IDLE_WATTS * share}
            if one["labels"]["slice"] not in without:
                self._of_slice(number, **one)
        spare = 7 - sum(one["profile"].sevenths for one in slices)
        tell = partial(self._tell, {**place, "vendor": "nvidia", "model": "NVIDIA H100 80GB HBM3"})
        tell("board_info", 1, driver="nvidia", numa_node=str(number // 2))
        tell("board_memory_bytes", 80 * GIB)
        tell("board_memory_used_bytes", int(sum(one["profile"].memory * one["fill"] for one in slices) * GIB))
        tell("board_utilization_ratio", round(load, 3))
        tell("board_temperature_celsius", round(31 + (IDLE_WATTS + drawn) / 18))
        tell("board_power_watts", round(IDLE_WATTS + drawn, 1))
        tell("board_power_limit_watts", cap)
        tell("board_energy_joules_total", self._counted(address, IDLE_WATTS + drawn))
        tell("board_unallocated_energy_joules_total", self._counted((address, "spare"), IDLE_WATTS * spare / 7))
        tell("drift", int(number == DRIFTING and self._within(DRIFTS)))
        for name, profile in PROFILES.items():
            tell("free_placements", spare // profile.sevenths, profile=name)
        tell("fragmentation_ratio", round(spare / 7, 2))
        self._health(tell, "board", number)
        if self._is_ill(number):
            tell("board_health_action", 1, action="reset")

    def _slice(self, place, number, position, cut):
        """What is the same for all series of a slice, and how busy it is."""
        name = cut.profiles[position]
        same = cut.profiles[:position].count(name)
        consumer, phase = CONSUMERS[(number + position) % len(CONSUMERS)], 1.7 * number + 0.9 * position
        slow, quick = math.sin(self.passed / (800 + 130 * position) + phase), math.sin(self.passed / 61 + 5 * phase)
        load = min(1.0, max(0.0, 0.5 + 0.5 * slow + 0.08 * quick)) if consumer else 0.0
        labels = {
            **place, "slice": f"{place['pci_bus_id']}-{name}-{position}", "GPU_I_ID": str(PROFILES[name].first + same),
            "uuid": f"MIG-{number:04}{position:04}-0000-0000-0000-{cut.since:012}", "GPU_I_PROFILE": name, "technique": "mig",
            "consumer": consumer,
        }  # fmt: skip
        fill = 0.35 + 0.4 * load + 0.1 * math.sin(phase) if consumer else 0.01
        return {"labels": labels, "profile": PROFILES[name], "load": load, "fill": fill}

    def _of_slice(self, number, labels, profile, load, fill, watts):
        tell = partial(self._tell, labels)
        tell("slice_info", 1, profile=labels["GPU_I_PROFILE"], of="")
        tell("slice_memory_bytes", profile.memory * GIB)
        tell("slice_memory_used_bytes", int(profile.memory * GIB * fill))
        tell("slice_utilization_ratio", round(load, 3))
        tell("slice_processes", int(load > 0) * (1 + number % 2))
        tell("slice_compute_ratio", round(profile.sevenths / 7, 4))
        for kind, drawn in watts.items():
            tell("slice_energy_joules_total", self._counted((labels["uuid"], kind), drawn), kind=kind, method="activity")
        self._health(tell, "slice", number)
        if labels["consumer"]:
            tell("consumer_bound", 1)
        elif number == QUARANTINED:
            tell("quarantined", 1, name=labels["slice"], scope="slice")

    def _is_ill(self, number):
        return number == ILL and self._within(self.ill)

    def _health(self, tell, what, number):
        for status in STATUSES:
            tell(f"{what}_health", int(status == ("degraded" if self._is_ill(number) else "ok")), status=status)

    def _counted(self, key, watts):
        self._joules[key] = self._joules.get(key, 0) + watts * self.every
        return round(self._joules[key], 3)


def _labels(names, known):
    return ",".join(f'{name}="{known.get(name, "")}"' for name in names)
