"""
The second delivery: the wheel, built from this tree and loaded by a real ``salt-call`` in a clean environment.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
import yaml

from release import tarball
from tests.support.releases import unpacked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(repo, tmp_path_factory):
    """The path of a wheel, built as ``make wheel`` does."""
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(repo)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = list(target.glob("*.whl"))
    assert len(built) == 1, built
    return built[0]


@pytest.fixture(scope="module")
def clean_python(wheel, tmp_path_factory):
    """
    The interpreter of a virtual environment that has Salt and the wheel, and not the checkout. Salt comes by a path file from
    the environment that runs the tests, which is the same Salt and saves its installation.
    """
    import gpuslice

    root = tmp_path_factory.mktemp("clean") / "venv"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(root)
    site = root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "salt-of-the-tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    python = root / "bin" / "python"
    done = subprocess.run(
        [str(python), "-c", "import gpuslice; print(gpuslice.__file__, gpuslice.__version__)"],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
        cwd="/",
    )
    place, version = done.stdout.split()
    assert place.startswith(str(site)), "the checkout is importable, so the test would prove nothing"
    assert version == gpuslice.__version__
    return python


def _environment():
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture
def call(clean_python, repo, tmp_path):
    """Run the real ``salt-call`` of the clean environment on a simulated host; returns the CompletedProcess."""

    def run(*args):
        config = tmp_path / "conf"
        config.mkdir(exist_ok=True)
        options = {
            "id": "wheel",
            "root_dir": str(tmp_path / "root"),
            "file_client": "local",
            "enable_gpu_grains": False,
            "enable_fqdns_grains": False,
            "gpu_slicing": {
                "simulate": str(repo / "examples" / "hosts" / "dgx-h100.yaml"),
                "state_dir": str(tmp_path / "state"),
            },
        }
        (config / "minion").write_text(yaml.safe_dump(options), encoding="utf-8")
        start = "import sys; from salt.scripts import salt_call; sys.exit(salt_call())"
        argv = [str(clean_python), "-c", start, "--local", "-c", str(config), "--log-level", "error", *args]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=_environment(), cwd="/")

    return run


def test_a_highstate_with_the_sls_files_of_the_tarball(call, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    site = tmp_path / "srv" / "salt"
    shutil.copytree(unpacked(tarball.build(tmp_path), tmp_path) / "gpu_slicing", site / "gpu_slicing")
    (site / "top.sls").write_text("base:\n  '*':\n    - gpu_slicing\n", encoding="utf-8")
    wanted = {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.40gb"]}}
    pillar = json.dumps({"containers_gpu_slicing": wanted})
    done = call("--out", "json", f"--file-root={site}", "state.apply", f"pillar={pillar}")
    states = json.loads(done.stdout)["local"]
    assert done.returncode == 0 and all(state["result"] for state in states.values()), states
    assert [state["__id__"] for state in states.values() if state["changes"]] == ["gpu_slicing_slicing"]
    assert len(json.loads(call("--out", "json", "gpu.slices").stdout)["local"]) == 8


def test_files_lie_where_salt_looks_for_them(wheel, repo):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"saltext/gpu_slicing/__init__.py"}
    for folder, place in (
        ("_utils/gpuslice", "gpuslice"),
        ("_modules", "saltext/gpu_slicing/modules"),
        ("_states", "saltext/gpu_slicing/states"),
        ("_grains", "saltext/gpu_slicing/grains"),
        ("_beacons", "saltext/gpu_slicing/beacons"),
    ):
        sources = [path for path in (repo / folder).rglob("*.py") if "__pycache__" not in path.parts]
        expected |= {f"{place}/{path.relative_to(repo / folder)}" for path in sources}
    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == expected


def test_metadata_names_the_version_of_the_engine_the_entry_point_and_no_hard_dependency(wheel):
    import gpuslice

    archive = zipfile.ZipFile(wheel)
    info = f"saltext_gpu_slicing-{gpuslice.__version__}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert required == []
    assert "Requires-Python: >=3.10" in metadata
    assert "[salt.loader]" in entry_points
    assert "saltext.gpu_slicing = saltext.gpu_slicing" in entry_points
    assert any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in archive.namelist())


def test_salt_lists_the_extension(call):
    import gpuslice

    done = call("--versions-report")
    assert done.returncode == 0, done.stderr
    extensions = done.stdout.partition("Salt Extensions:")[2]
    assert f"saltext-gpu-slicing: {gpuslice.__version__}" in extensions.replace("saltext.gpu-slicing", "saltext-gpu-slicing")


def test_execution_module_answers_on_a_simulated_host(call):
    done = call("--out", "json", "gpu.devices")
    assert done.returncode == 0, done.stderr
    devices = json.loads(done.stdout)["local"]
    assert {device["vendor"] for device in devices} == {"nvidia"}
    assert len({device["address"] for device in devices}) == len(devices) > 0


def test_grain_and_state_module_are_loaded(call):
    grain = json.loads(call("--out", "json", "grains.get", "gpu").stdout)["local"]
    states = json.loads(call("--out", "json", "sys.list_state_functions", "gpu_slicing").stdout)["local"]
    assert grain["count"] > 0
    assert "gpu_slicing.converged" in states
