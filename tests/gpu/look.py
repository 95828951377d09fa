"""
What can be read of the GPUs of this very machine, compared with the catalog and with the simulation of the same model: ``make
test-gpu``. It changes nothing. NVIDIA's library is asked with functions that read, and the state directory is a temporary one.

Its file is not named as tests are, so that a run of the others does not collect it. With GPU_SLICING_SIMULATE, the path of a
described machine, that is looked at in the place of the real one.
"""

import os
import pathlib
import re

import pytest

from gpuslice import catalog
from gpuslice import errors
from gpuslice import kinds
from gpuslice.drivers.telemetry import Telemetry
from gpuslice.engine import Engine
from gpuslice.inventory import discovery
from gpuslice.inventory import grain
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.plan import same
from tests.conftest import ROOT

SIMULATED = os.environ.get("GPU_SLICING_SIMULATE", "")
#: Functions of NVIDIA's library that change nothing, by what stands in their names.
READS = re.compile(r"nvml(?:Init|Shutdown|System|GpmSample|GpmQuery|\w*(?:Get|Count))")


def settings(place):
    """The minion's ``gpu_slicing`` for the machine that is looked at, with its records below ``place``."""
    place.chmod(0o755)
    return {"state_dir": str(place), **({"simulate": SIMULATED} if SIMULATED else {})}


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """The engine on this machine; it is let go of at the end."""
    with Engine(settings(tmp_path_factory.mktemp("state"))) as made:
        if not made.gpus:
            pytest.skip("this machine has no GPU")
        yield made


def each_gpu(engine):
    """(GPU, technique, state) for all that cuts the silicon of this machine's GPUs, in the mode in which they are."""
    found = [(gpu, tool) for gpu in engine.gpus for tool in engine.techniques_of(gpu)]
    for gpu, tool in found:
        if kinds.named(tool.name).layer != kinds.SHAPE:
            continue
        try:
            yield gpu, tool, tool.observe(gpu)
        except errors.Unsupported:
            # A board that hides it, say: it can be read all the same that it does.
            continue


@pytest.fixture(scope="session")
def before(engine):
    """All that is there before anything is looked at."""
    return looked_at(engine)


def looked_at(engine):
    return [engine.devices(), engine.slices(taken=True), engine.maps()]


@pytest.fixture(scope="session")
def simulation(engine, tmp_path_factory):
    """Product of a GPU of this machine -> (engine, GPU) of a described machine that has one under the same driver."""
    wanted, found, opened = {product(gpu) for gpu in engine.gpus}, {}, []
    for path in sorted((ROOT / "examples" / "hosts").glob("*.yaml")):
        place = tmp_path_factory.mktemp(path.stem)
        place.chmod(0o755)
        made = Engine({"simulate": str(path), "state_dir": str(place)})
        opened.append(made)
        for gpu in made.gpus:
            # Another example may leave out what this one shows of the same product.
            known = found.get(product(gpu))
            if product(gpu) in wanted and (known is None or len(trials_of(made, gpu)) > len(trials_of(*known))):
                found[product(gpu)] = made, gpu
    yield found
    for made in opened:
        made.tools.release()


def product(gpu):
    return gpu.vendor, gpu.device_id, gpu.subsystem_id, gpu.driver


def test_the_grain_tells_every_gpu(engine, before):
    told = grain.facts(engine.host)
    assert "errors" not in told
    assert told["count"] == len(engine.gpus) and told["addresses"] == [gpu.address for gpu in engine.gpus]
    assert [one["driver"] for one in told["devices"]] == [gpu.driver for gpu in engine.gpus]


def test_every_model_is_in_the_catalog(engine):
    vendors = {vendor: number for number, (vendor, _) in catalog.VENDORS.items()}
    unknown = [gpu for gpu in engine.gpus if not catalog.lookup(vendors[gpu.vendor], gpu.device_id, gpu.subsystem_id)]
    assert [f"{gpu.model} ({gpu.device_id}, {gpu.subsystem_id})" for gpu in unknown] == []


def test_what_a_gpu_has_can_be_read(engine):
    for gpu in engine.gpus:
        for tool in engine.techniques_of(gpu):
            try:
                assert tool.words(tool.layout(tool.observe(gpu)))
            except errors.Unsupported as err:
                assert gpu.address in str(err)


def test_the_driver_says_what_the_catalog_says(engine):
    facts = [(gpu, fact) for gpu, tool, state in each_gpu(engine) for fact in tool.facts(gpu, state)]
    unlike = [(gpu.model, *fact) for gpu, fact in facts if not same(fact.catalog, fact.found) and not of_another_age(fact)]
    assert unlike == []


def of_another_age(fact):
    """Whether the driver only lacks modes that the model can have: firmware of another age has others."""
    return fact.what.endswith(" modes") and set(fact.found) < set(fact.catalog)


def test_slices_are_as_their_layout_says(engine):
    for gpu, tool, state in each_gpu(engine):
        there, wanted = tool.slices(gpu, state), tool.expected(gpu, tool.layout(state))
        assert sorted(part.name for part in there) == sorted(part.name for part in wanted) or not wanted, gpu.address
        known = {part.name: (part.profile, part.placement, part.compute) for part in wanted}
        assert [p.name for p in there if p.name in known and (p.profile, p.placement, p.compute) != known[p.name]] == []
        assert len({part.identity for part in there}) == len(there)


def test_all_that_could_be_tried_can_be_planned(engine):
    """Each profile in each place, and so on: the planner takes what this driver tells."""
    refused = {}
    for gpu, tool, state in each_gpu(engine):
        trials = tool.trials(gpu, state)
        for trial in trials.each if trials else ():
            if trial.why_not or discovery.is_given_away(gpu):
                continue
            plan = engine.reconciler().plan([Target(gpu, Key.of_gpu(tool.name, gpu.address), trial.settings)])
            # What is in use, or ill, is no matter of the planner.
            if plan.blocked and not engine.slices(gpu.address) and not engine.holders(gpu.address):
                refused[gpu.address, trial.words] = plan.blocked
    assert refused == {}


def test_health_can_be_told(engine):
    unreadable = [each for each in engine.findings() if each["code"].endswith(("-unreadable", "-gone", "-hangs", "-not-asked"))]
    assert unreadable == []


def test_what_boards_and_slices_do_can_be_read(engine):
    telemetry, wrong = Telemetry(engine.host, engine.tools.sessions), []
    there = engine.parts(taken=True)
    parts = {gpu.address: [part for part in there if part.gpu == gpu.address] for gpu in engine.gpus}
    first = {gpu.address: telemetry.board(gpu) for gpu in engine.gpus}
    for gpu in engine.gpus:
        telemetry.begin(gpu, parts[gpu.address])
    telemetry.settle()
    for gpu in engine.gpus:
        board, (uses, _) = telemetry.board(gpu), telemetry.uses(gpu, parts[gpu.address])
        told = [(name, *why) for name, one in [(gpu.address, board), *uses.items()] for why in one.unreadable]
        wrong += [each for each in told if each[-1] in ("untrue", "failed", "not-answering")]
        assert board.energy_mj is None or board.energy_mj >= first[gpu.address].energy_mj
        assert sorted(uses) == sorted(part.name for part in parts[gpu.address])
    assert wrong == []


def test_the_simulation_of_a_model_is_like_it(engine, simulation):
    for gpu in engine.gpus:
        made, twin = simulation.get(product(gpu), (None, None))
        if made is None:
            continue
        assert (gpu.model, gpu.memory_mib, gpu.catalog_key) == (twin.model, twin.memory_mib, twin.catalog_key)
        # What this machine can be asked for is a part of that: its settings, or its firmware, may keep the rest from it.
        assert trials_of(engine, gpu) <= trials_of(made, twin)


def trials_of(engine, gpu):
    """What could be tried on a GPU: that is what its driver tells of profiles, places, modes and numbers."""
    told = [(tool.name, tool.trials(gpu, state)) for one, tool, state in each_gpu(engine) if one.address == gpu.address]
    return {(name, trial.words) for name, trials in told if trials for trial in trials.each}


def test_nothing_was_changed(engine, before):
    """The last one."""
    engine.tools.release()
    assert looked_at(engine) == before
    assert not pathlib.Path(engine.host.state_dir, "history").exists()
    assert [name for name in engine.tools.sessions.nvml.calls if not READS.match(name)] == []
