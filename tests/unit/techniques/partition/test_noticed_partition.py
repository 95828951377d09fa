"""
Hives that only the compute driver tells of.
"""

import errno
import os

import pytest

from gpuslice.drivers.sessions import Sessions
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.partition.technique import Partition
from tests.unit.techniques.partition.test_partition import FILES
from tests.unit.techniques.partition.test_partition import GPU

HIVES = {"0000:05:00.0": "1", "0000:26:00.0": "2", "0000:46:00.0": "1", "0000:65:00.0": "0"}


class OlderKernel(SimulatedHost):
    """A kernel whose amdgpu has no file for the hive of a GPU."""

    def read(self, path):
        if path.endswith("xgmi_hive_id"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return super().read(path)

    def exists(self, path):
        return not path.endswith("xgmi_hive_id") and super().exists(path)


@pytest.mark.parametrize("kind", [SimulatedHost, OlderKernel])
def test_a_hive_is_known_from_the_compute_driver_where_no_file_tells_it(simulated, kind):
    boards = [
        {**GPU, "address": address, "sysfs": {**FILES, **({"xgmi_hive_info/xgmi_hive_id": hive} if hive != "0" else {})}}
        for address, hive in HIVES.items()
    ]
    host = simulated("mi300x-8", gpus=boards)
    other = kind(host.description_path, host.state_dir)
    tool = Partition(other, Sessions(other))
    mates = {address: tool.hive(address) for address in HIVES}
    assert mates["0000:05:00.0"] == mates["0000:46:00.0"] == ["0000:05:00.0", "0000:46:00.0"]
    assert mates["0000:26:00.0"] == ["0000:26:00.0"] and mates["0000:65:00.0"] == ["0000:65:00.0"]
