"""
Virtual functions: what is exported, what a plan counts and which units it names, told through the front.
"""

import pytest

from tests.salt.test_sriov import B60
from tests.salt.test_sriov import MI210
from tests.salt.test_sriov import board


@pytest.mark.parametrize("autoprobe", [True, False])
def test_who_gets_the_functions_is_exported(minion, autoprobe):
    one = minion("arc-pro-b60")
    assert one.call("gpu_sriov.set_vfs", B60, 2, profile="fair", autoprobe=autoprobe)["result"]
    [rule] = one.call("gpu_slicing.export")["containers_gpu_slicing"]["devices"]
    assert rule["sriov"]["vf_count"] == 2 and rule["sriov"].get("autoprobe", False) is autoprobe


def test_a_reload_of_gim_counts_all_functions_as_new_and_stops_the_unit_that_has_one(minion, repo):
    gpus = board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8, vf_driver="vfio-pci")
    one = minion("mi210-gim", changes={"gpus": gpus})
    one.set_pillar({"containers_gpu_state_management": {"unload_modules": ["gim"], "stop_units": ["machine-qemu.scope"]}})
    node = f"/dev/vfio/{one.call('gpu_sriov.vfs', MI210)['vfs'][0]['iommu_group']}"
    one.host.add_process({"pid": 4711, "command": "qemu-system-x86_64", "unit": "machine-qemu.scope", "nodes": [node]})
    planned = one.call("gpu_sriov.set_vfs", MI210, 2, test=True)["comment"]
    assert "keeps 0, destroys 1, creates 2" in planned
    assert "unit machine-qemu.scope is stopped for it and started again afterwards" in planned
    assert one.call("gpu_sriov.set_vfs", MI210, 2)["result"]
    assert "Nothing to do" in one.call("gpu_sriov.set_vfs", MI210, 2, test=True)["comment"]
