"""Slices for virtual machines of libvirt, by Salt: their XML, and warnings of a highstate."""

import pytest
from salt.exceptions import CommandExecutionError

from gpuslice.outputs import libvirt
from tests.support import pillars

FLEX, ONE, TWO = "0000:3c:00.0", "0000:3c:00.1", "0000:3c:00.2"


def wanted(*functions):
    beside = {"vf_passthrough": {"enabled": True, "functions": list(functions)}}
    return pillars.for_all("sriov", {"vf_count": 2}, slicing=beside)


def test_a_function_is_told_as_xml_and_a_machine_that_loses_it_is_warned_of(minion):
    text = f"<domain type='kvm'><name>web</name><devices>{libvirt.hostdev(TWO)}</devices></domain>"
    on = minion("flex170", changes={"files": {"/etc/libvirt/qemu/web.xml": text}}, pillar=wanted(1, 2))
    assert [state.result for state in on.apply("gpu_slicing")] == [True] * 3
    assert on.call("gpu_consumer.hostdev", TWO, alias="gpu0") == libvirt.hostdev(TWO, alias="ua-gpu0")
    # What YAML makes of 0000:03:00.1, which is no function of this host.
    for wrong in ((180.1,), (ONE, None, "yes"), ("0000:3c:00.9",), (ONE, "nobody")):
        with pytest.raises(CommandExecutionError):
            on.call("gpu_consumer.hostdev", *wrong)
    on.set_pillar(wanted(1))
    told = f"Domain web (/etc/libvirt/qemu/web.xml) is to be given {TWO}, which this change gives back to the host: it will not"
    assert told in on.apply("gpu_slicing", test=True)[1].comment
    done = on.apply("gpu_slicing")[1]
    assert done.result is True and told in " ".join(done.full_return["warnings"])
    assert "warnings" not in on.apply("gpu_slicing")[1].full_return
