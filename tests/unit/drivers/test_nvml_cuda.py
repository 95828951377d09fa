"""The newest CUDA that a driver runs, as NVML tells it."""

import pytest

from gpuslice import errors
from gpuslice.drivers.nvml import Nvml


@pytest.mark.parametrize(
    ("version", "cuda"), [("470.57.02", "11.4"), ("550.54", "12.4"), ("580.95.05", "13.0"), ("615.10", "13.4")]
)
def test_the_cuda_of_a_driver(simulated, version, cuda):
    nvml = Nvml(simulated("l4-pair", driver={"version": version}))
    assert nvml.cuda() == cuda
    nvml.close()


def test_without_a_driver_it_is_an_error_that_says_so(simulated):
    with pytest.raises(errors.DriverMissing):
        Nvml(simulated("l4-pair", driver={"loaded": False})).cuda()


def test_a_driver_that_does_not_tell(simulated):
    nvml = Nvml(simulated("l4-pair", faults=[{"call": "nvmlSystemGetCudaDriverVersion_v2", "error": "NVML_ERROR_NOT_SUPPORTED"}]))
    assert nvml.cuda() == ""
    nvml.close()
