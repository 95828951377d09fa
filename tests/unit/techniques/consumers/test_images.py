"""What images say of the CUDA that they need."""

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.techniques.consumers import images


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, ""),
        ({"CUDA_VERSION": "12.4.1"}, "cuda>=12.0"),
        ({"CUDA_VERSION": "latest"}, ""),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4 brand=tesla", "CUDA_VERSION": "13.0"}, "cuda>=12.4 brand=tesla"),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4", "NVIDIA_DISABLE_REQUIRE": "true"}, ""),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4", "NVIDIA_DISABLE_REQUIRE": "0"}, "cuda>=12.4"),
    ],
)
def test_what_an_image_needs(variables, wanted):
    assert images.needs(variables) == wanted


@pytest.mark.parametrize(
    ("wanted", "cuda", "driver", "runs"),
    [
        ("", "", "", True),
        ("cuda>=12.4", "12.4", "550.54", True),
        ("cuda>=12.4", "12.10", "550.54", True),
        ("cuda>=12.4", "12.2", "535.183", False),
        ("cuda>=12.4 driver>=535,driver<536", "12.2", "535.183", True),
        ("cuda>=12.4 driver>=535,driver<536", "12.3", "545.29", False),
        ("cuda>=12.4 brand=tesla,driver>=470,driver<471", "11.4", "470.57", True),
        ("cuda>=12", "12.0", "", True),
        ("cuda>=99", "", "", True),
        ("brand!=grid,cuda>12.4", "12.4", "550", False),
    ],
)
def test_whether_a_driver_runs_it(wanted, cuda, driver, runs):
    assert images.runs(wanted, cuda, driver) is runs


def test_an_image_of_a_described_host(simulated):
    host = simulated("a30-pair", tools=["podman"], images={"a": {"CUDA_VERSION": "12.4", "PATH": "/bin"}, "b": {}})
    assert images.environment(host, "a") == {"CUDA_VERSION": "12.4", "PATH": "/bin"}
    assert images.environment(host, "b") == {} and images.environment(host, "c") is None


def test_without_podman_nothing_is_known_of_images(simulated):
    with pytest.raises(errors.ToolMissing):
        images.environment(simulated("a30-pair"), "a")


@pytest.mark.parametrize("answer", ["", "{}", "[]", "[1]", '[{"Config": null}]', '[{"Config": {"Env": [1]}}]'])
def test_an_answer_that_is_none_is_a_sentence(tmp_path, monkeypatch, answer):
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(errors.ToolFailed, match="Run it by hand"):
        images.environment(RealHost(), "a")
