"""
Some hours of a simulated host with four H100, as the writer of metrics tells them: the slices are at work, a cap is set, one is
destroyed by somebody else and comes back, a GPU is cut anew, one is not cut at all.
"""

import math

from gpuslice.engine import Engine
from gpuslice.metrics import writer
from gpuslice.sim import foreign
from gpuslice.sim.host import SimulatedHost
from tests.conftest import described
from tests.support import hosts
from tests.support import pillars

MINUTE = 60
#: Seconds from one file to the next.
STEP = MINUTE
ADDRESSES = SMALL, MIXED, RECUT, WHOLE = ("0000:1b:00.0", "0000:43:00.0", "0000:52:00.0", "0000:61:00.0")
#: Board -> its slices by profile and place.
CUTS = {
    SMALL: [f"1g.10gb@{place}" for place in range(7)], MIXED: ["3g.40gb@4", "2g.20gb@0", "1g.10gb@2"],
    RECUT: ["3g.40gb@0", "3g.40gb@4"],
}  # fmt: skip
ANEW = {**CUTS, RECUT: ["2g.20gb@0", "2g.20gb@2", "1g.10gb@4"]}
#: Name -> profile; the first slice of a profile that is free is a consumer's.
CONSUMERS = {"train": "3g.40gb", "infer-1": "1g.10gb", "infer-2": "1g.10gb", "infer-3": "2g.20gb", "notebook": "1g.10gb"}
#: In which minute something happens. Before the first one nothing works, so that it is learnt what the boards draw then.
BEGUN, CAPPED, LOST, CUT_ANEW, BACK = 8, 60, 80, 95, 105
DESTROYED = {"action": "destroy_gi", "profile": "1g.10gb", "start": 2, "gpu": MIXED}
#: From which minute on the driver says what of a board: its key in the health of a described one, and the value.
ILL = {
    35: (MIXED, "recovery_action", "gpu_reset"), 44: (MIXED, "recovery_action", "none"),
    112: (WHOLE, "row_remap_pending", True), 126: (RECUT, "recovery_action", "drain_p2p"),
}  # fmt: skip
#: On these nothing works.
QUIET = {(SMALL, "1g.10gb@3"), (SMALL, "1g.10gb@6")}
#: Who works where, with so much memory in MiB.
PROGRAMS = [
    *((SMALL, f"1g.10gb@{place}", 2100 + 1130 * place) for place in (0, 1, 2, 4, 5)),
    (MIXED, "3g.40gb@4", 31200), (MIXED, "2g.20gb@0", 8100), (WHOLE, None, 52000),
]  # fmt: skip


def host(place):
    """The host, with its slices, in a folder."""
    power = {"power": {"default": 700, "least": 200}, "draw": {"idle": 110, "active": 690}}
    gpus = [
        {"model": "h100-80gb", "address": address, "mig": "disabled" if address == WHOLE else "enabled", **power}
        for address in ADDRESSES
    ]
    description = described(place, "dgx-h100", {"gpus": gpus, "processes": []})
    made = SimulatedHost(str(description), str(place / "state"))
    asked(made, CUTS)
    return made


def asked(made, cuts, caps=None):
    """Bring the host to these cuts, and boards to these caps in watts."""
    caps = {**dict.fromkeys(cuts, "default"), **(caps or {})}
    rules = [
        pillars.rule(address, strategy="mig", mig={"profiles": wanted}, power={"limit_watts": caps[address]})
        for address, wanted in cuts.items()
    ]
    consumers = {name: {"kind": "device", "slice": profile} for name, profile in CONSUMERS.items()}
    slicing = pillars.for_all("none", devices=rules)
    result = hosts.apply(made, {**slicing, "containers_gpu_container_integration": {"consumers": consumers}})
    assert result.ok, result


def texts(made, folder, minutes):
    """(time, text) for each run of the writer."""
    path, begin = folder / "gpuslice.prom", made.now()
    for minute in range(minutes + 1):
        _happens(made, minute)
        for number, address in enumerate(ADDRESSES):
            made.set_load(address, _loads(address, minute, number))
        with Engine(hosts.config(made)) as engine:
            writer.write(engine, str(path), STEP)
        yield made.now(), path.read_text(encoding="utf-8")
        made.let_pass(begin + (minute + 1) * STEP - made.now())


def _happens(made, minute):
    if minute == BEGUN:
        for number, (address, name, memory) in enumerate(PROGRAMS):
            program = {"pid": 4000 + number, "command": "python", "gpu": address, "memory_mib": memory}
            made.add_process({**program, "slice": name} if name else program)
    if minute in ILL:
        address, key, value = ILL[minute]
        with made.change() as state:
            state["gpus"][address]["health"][key] = value
    if minute == CAPPED:
        asked(made, CUTS, {MIXED: 450})
    if minute == LOST:
        with made.change() as state:
            foreign.act(state, DESTROYED)
    if minute == CUT_ANEW:
        asked(made, {**ANEW, MIXED: CUTS[MIXED][:2]}, {MIXED: 450})
    if minute == BACK:
        asked(made, ANEW, {MIXED: 450})


def _loads(address, minute, number):
    """How busy the slices of a board are."""
    if minute < BEGUN:
        return {}
    if address == WHOLE:
        return {"whole": _load(minute, number, 3)}
    slices = (ANEW if minute >= CUT_ANEW else CUTS)[address]
    if address == MIXED and LOST <= minute < BACK:
        slices = slices[:2]
    return {name: _load(minute, number, place) for place, name in enumerate(slices) if (address, name) not in QUIET}


def _load(minute, number, place):
    """Slow waves with small ones upon them."""
    slow = math.sin(minute / (14 + 2.2 * place) + 1.7 * number + 0.9 * place)
    return round(min(1.0, max(0.0, 0.5 + 0.5 * slow + 0.04 * math.sin(minute / 1.3 + 5 * place))), 3)
