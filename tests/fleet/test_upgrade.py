"""
An upgrade through the file server, under running minions: a minion keeps a package that it imported for ever, so the engine must
notice by itself that newer files were delivered.
"""

import re

import pytest

from tests.fleet.conftest import eventually

pytestmark = pytest.mark.slow

# Loader files written as ours are, which answer with what they find in the engine. They don't change in the upgrade: what changes
# in their answers comes from the engine alone.
HEAD = """
import gpuslice

gpuslice = gpuslice.current()

from gpuslice import errors


def _seen():
    return {"version": gpuslice.__version__, "error": str(errors.GpuSliceError("probe"))}
"""
PROBES = {
    "_modules/upgrade_probe.py": HEAD + "\n\ndef seen():\n    return _seen()\n",
    "_states/upgrade_probe.py": HEAD
    + "\n\ndef seen(name):\n    return {'name': name, 'result': True, 'changes': {}, 'comment': str(_seen())}\n",
    "_grains/upgrade_probe.py": HEAD + "\n\ndef upgrade_probe():\n    return {'upgrade_probe': _seen()}\n",
}

# What becomes of the first line of errors.GpuSliceError.__str__.
NEW_TEXT = """\
    def __str__(self):
        return "new code: " + self._text()

    def _text(self):"""


def edit(path, pattern, replacement):
    """Replace one place in a file of the served tree; it must be there once."""
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{pattern} is there {count} times in {path.name}"
    path.write_text(text, encoding="utf-8")


def synchronised(fleet):
    """Deliver the served tree to the minion, and what it delivered."""
    answer = fleet.salt("dgx", "saltutil.sync_all")
    assert isinstance(answer["dgx"], dict), answer.stdout
    return answer["dgx"]


def seen(fleet):
    """What modules, states and grains of the running minion find in the engine."""
    state = fleet.salt("dgx", "state.single", "upgrade_probe.seen", "x")["dgx"]
    return {
        "modules": str(fleet.salt("dgx", "upgrade_probe.seen")["dgx"]),
        "states": next(iter(state.values()))["comment"],
        "grains": str(fleet.salt("dgx", "grains.get", "upgrade_probe")["dgx"]),
    }


@pytest.fixture
def served(fleet):
    """The served tree with the probes in it, delivered; put back as it was afterwards."""
    for name, text in PROBES.items():
        (fleet.root / name).write_text(text, encoding="utf-8")
    synchronised(fleet)
    try:
        yield fleet
    finally:
        fleet.restore()
        synchronised(fleet)


def test_a_running_minion_answers_with_the_new_engine_everywhere(served):
    old = eventually(lambda: seen(served), lambda found: all("probe" in text for text in found.values()))
    # The real files too, so that they have imported the old engine.
    device = served.salt("dgx", "gpu.devices")["dgx"][0]
    model = device["model"]
    assert model in served.salt("dgx", "grains.get", "gpu:models")["dgx"]

    engine = served.root / "_utils" / "gpuslice"
    edit(engine / "__init__.py", r"^__version__ = .*$", '__version__ = "99.0.0"')
    edit(engine / "errors.py", r"^    def __str__\(self\):$", NEW_TEXT)
    for name in synchronised(served)["utils"]:
        assert name.startswith("utils.gpuslice"), name
    new = eventually(lambda: seen(served), lambda found: all("99.0.0" in text for text in found.values()))

    for kind in ("modules", "states", "grains"):
        assert "99.0.0" not in old[kind]
        assert "99.0.0" in new[kind], f"{kind} still run the old engine"
        assert "new code: probe" in new[kind], f"{kind} still run the old parts of the engine"
    # And what users call: the wording of an error is the engine's.
    answer = served.salt("dgx", "gpu.device", "ffff:1f:1f.7")["dgx"]
    assert "new code: " in answer
    assert "Traceback" not in answer


def test_the_grain_of_a_running_minion_follows_the_new_catalog(served):
    devices = served.salt("dgx", "gpu.devices")["dgx"]
    assert isinstance(devices, list), devices
    model = devices[0]["model"]
    catalog = served.root / "_utils" / "gpuslice" / "catalog" / "nvidia.py"
    text = catalog.read_text(encoding="utf-8")
    product = model.removeprefix("NVIDIA ")
    assert product in text
    catalog.write_text(text.replace(product, product + " Renamed"), encoding="utf-8")
    synchronised(served)
    renamed = f"{model} Renamed"
    models = eventually(lambda: served.salt("dgx", "grains.get", "gpu:models")["dgx"], lambda found: renamed in found)
    assert models == [renamed]
    assert served.salt("dgx", "gpu.devices")["dgx"][0]["model"] == renamed


def test_loader_files_refuse_an_engine_of_another_interface_in_a_sentence(served):
    edit(served.root / "_utils" / "gpuslice" / "__init__.py", r"^API = .*$", "API = 99")
    synchronised(served)
    execution = served.salt("dgx", "gpu.devices")
    state = served.salt("dgx", "state.apply", "gpu_slicing")
    for answer in (execution, state):
        assert "99" in str(answer["dgx"]), "the sentence says which interface was found"
        assert "gpuslice" in str(answer["dgx"]), "and of what"
        assert "Traceback" not in answer.stdout + answer.stderr

    served.restore()
    synchronised(served)
    assert isinstance(served.salt("dgx", "gpu.devices")["dgx"], list)
