"""
Single virtual functions for virtual machines: from the pillar and by hand, beside functions of containers, in use, failing, after
a boot.
"""

import pytest

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.cleaned import cleaned
from tests.support.cleaned import found
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import listed

FLEX, MI210 = "0000:3c:00.0", "0000:33:00.0"
ONE, TWO, THREE, FOUR = (f"0000:3c:00.{number}" for number in (1, 2, 3, 4))


def wanted(*functions, count=4, autoprobe=False, consumers=None, **management):
    """Virtual functions, some of them for virtual machines."""
    beside = {"vf_passthrough": {"enabled": True, "functions": list(functions)}}
    pillar = pillars.for_all("sriov", {"vf_count": count, "autoprobe": autoprobe}, slicing=beside, **management)
    return {**pillar, "containers_gpu_container_integration": {"consumers": consumers}} if consumers else pillar


def drivers(host, *addresses):
    """The driver of each virtual function."""
    return [host.readlink(f"/sys/bus/pci/devices/{address}/driver") for address in addresses]


def hold(host, address):
    """A virtual machine opens a function."""
    group = host.readlink(f"/sys/bus/pci/devices/{address}/iommu_group")
    host.add_process({"pid": 4711, "command": "qemu-kvm", "nodes": [f"/dev/vfio/{group}"]})


def by_hand(host, difference, force=False, of=FLEX):
    """What ``gpu_passthrough`` asks of functions: ``{"bind": [address]}``."""
    with Engine(config(host)) as engine:
        targets = engine.handed_on(engine.wanted("vf-passthrough", of, {}, difference))
        return engine.reconciler(force=force).apply(targets)


# -- in a pillar ------------------------------------------------------------------------------------------------------
def test_functions_are_made_and_bound_in_one_change(simulated):
    host = simulated("flex170")
    with Engine(config(host)) as engine:
        told = engine.plan(wanted(1, 3))
    assert [(part.key.technique, part.forecast) for part in told.parts] == [("sriov", False), ("vf-passthrough", True)]
    result = apply(host, wanted(1, 3))
    assert result.ok and drivers(host, ONE, TWO, THREE, FOUR) == ["vfio-pci", "", "vfio-pci", ""]
    assert result.changes[FLEX]["new"]["for_virtual_machines"] == {ONE: "vfio-pci", THREE: "vfio-pci"}
    assert apply(host, wanted(1, 3)).plan.empty
    assert apply(host, wanted(3, 4)).ok and drivers(host, ONE, TWO, THREE, FOUR) == ["", "", "vfio-pci", "vfio-pci"]
    assert apply(host, wanted()).ok and drivers(host, ONE, TWO, THREE, FOUR) == ["vfio-pci"] * 4


def test_a_host_that_is_given_up_keeps_no_note_of_functions_that_went(simulated):
    host = simulated("flex170")
    before = found(host)
    assert apply(host, wanted(1, 3)).ok and cleaned(host)["result"] and found(host) == before


def test_what_is_exported_is_what_there_is(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    with Engine(config(host)) as engine:
        exported = engine.export()
        [rule] = exported["containers_gpu_slicing"]["devices"]
        assert rule["vf_passthrough"] == {"enabled": True, "functions": [2]}
        assert engine.plan(exported).empty


def test_functions_that_are_made_anew_are_bound_again(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(1)).ok
    assert apply(host, wanted(1, count=6)).ok and drivers(host, ONE, TWO) == ["vfio-pci", ""]


@pytest.mark.parametrize(
    ("functions", "words"),
    [((5,), "Virtual machines are to get vf5, and the GPU has 4 virtual functions."), ((1, 9, 7), "vf7, vf9")],
)
def test_a_number_that_there_is_not_is_refused(simulated, functions, words):
    host = simulated("flex170")
    assert apply(host, wanted(1)).ok
    with pytest.raises(errors.ProfileMismatch, match=words), Engine(config(host)) as engine:
        engine.plan(wanted(*functions))


def test_a_rule_for_a_function_is_told_whose_it_is(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    with pytest.raises(errors.DeviceNotFound, match=f"{ONE} is a virtual function of {FLEX}: .* in a rule for that GPU"):
        apply(host, pillars.for_gpu(ONE, "passthrough"))


def test_a_boot_makes_and_binds_them_again(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    host.reboot()
    assert drivers(host, TWO) == [""]
    with Engine(config(host)) as engine:
        assert replay.replay(engine)["result"]
    assert drivers(host, ONE, TWO) == ["", "vfio-pci"]


def test_a_boot_does_not_bind_what_went_with_its_function(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    for count in (0, 4):
        with Engine(config(host)) as engine:
            assert engine.reconciler().apply(engine.wanted("sriov", FLEX, {"vf_count": count})).ok
    assert drivers(host, ONE, TWO) == ["", ""]
    host.reboot()
    with Engine(config(host)) as engine:
        answer = replay.replay(engine)
    assert answer["result"] and "none for virtual machines" in answer["comment"]
    assert drivers(host, ONE, TWO) == ["", ""] and len(listed(host)) == 4


# -- by hand ----------------------------------------------------------------------------------------------------------
def test_one_more_and_one_less_leave_the_others(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(1)).ok
    assert by_hand(host, {"bind": [THREE]}).ok and drivers(host, ONE, TWO, THREE) == ["vfio-pci", "", "vfio-pci"]
    assert by_hand(host, {"release": [ONE]}).ok and drivers(host, ONE, TWO, THREE) == ["", "", "vfio-pci"]
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert drivers(host, ONE, TWO, THREE) == ["vfio-pci", "", "vfio-pci"]


def test_a_function_goes_back_to_the_driver_that_it_had(simulated):
    host = simulated("flex170")
    assert apply(host, pillars.for_all("sriov", {"vf_count": 4, "autoprobe": True})).ok
    assert by_hand(host, {"bind": [TWO]}).ok and drivers(host, ONE, TWO) == ["i915", "vfio-pci"]
    assert by_hand(host, {"release": [TWO]}).ok and drivers(host, ONE, TWO) == ["i915", "i915"]
    assert host.read(f"/sys/bus/pci/devices/{TWO}/driver_override") == "(null)"


def test_functions_of_gim_are_bound_too(simulated):
    host = simulated("mi210-gim")
    function = "0000:33:02.0"
    assert by_hand(host, {"bind": [function]}, of=MI210).ok and drivers(host, function) == ["vfio-pci"]
    assert by_hand(host, {"release": [function]}, of=MI210).ok and drivers(host, function) == [""]


def test_what_is_no_function_is_refused_with_those_that_are(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(1)).ok
    with pytest.raises(errors.DeviceNotFound, match=f"0000:3c:01.7 is no virtual function.*It has {ONE}, {TWO}"):
        by_hand(host, {"bind": ["0000:3c:01.7"]})


def test_functions_of_nvidia_are_given_by_their_type(simulated):
    host = simulated("vgpu-host-vfio")
    with Engine(config(host)) as engine:
        address = engine.gpus[0].address
        with pytest.raises(errors.Unsupported, match="gives them to virtual machines by the type of their vGPU"):
            engine.wanted("vf-passthrough", address, {}, {"bind": ["0000:41:00.4"]})


# -- who has them -----------------------------------------------------------------------------------------------------
def test_a_bound_function_is_told_as_such_and_nobody_elses(simulated):
    host = simulated("flex170")
    consumers = {"one": {"slice": {"kind": "vf"}}, "other": {"slice": {"name": FOUR}}}
    assert apply(host, wanted(1, 2, autoprobe=True, consumers=consumers)).ok
    found = {part["name"]: part for part in listed(host)}
    assert set(found) == {THREE, FOUR, f"{FLEX}-vm-1", f"{FLEX}-vm-2"}
    told = found[f"{FLEX}-vm-1"]
    assert (told["kind"], told["profile"], told["of"], told["memory_mib"]) == ("vf-passthrough", "vfio-pci", ONE, 4000)
    with pytest.raises(errors.PolicyError, match="Consumer one wants name 0000:3c:00.1, and there is no such slice"):
        apply(host, wanted(1, autoprobe=True, consumers={"one": {"slice": {"name": ONE}}}))


def test_functions_stay_while_a_virtual_machine_has_one(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    hold(host, TWO)
    for less in (wanted(2, count=2), pillars.for_all("sriov", {"vf_count": 0})):
        result = apply(host, less)
        assert not result.ok and "in use by pid 4711 (qemu-kvm)" in result.errors[0]
    result = by_hand(host, {"release": [TWO]})
    assert not result.ok and f"Could not move {TWO} from vfio-pci to no driver: in use by pid 4711 (qemu-kvm)" in result.errors[0]
    assert by_hand(host, {"bind": [THREE]}).ok and drivers(host, TWO, THREE) == ["vfio-pci", "vfio-pci"]
    assert by_hand(host, {"release": [TWO]}, force=True).ok and drivers(host, TWO) == [""]


def test_without_an_iommu_no_virtual_machine_can_have_one(simulated):
    host = simulated("flex170", iommu=False)
    assert apply(host, pillars.for_all("sriov", {"vf_count": 4, "autoprobe": True})).ok
    with pytest.raises(errors.Unsupported, match="IOMMU of this host is off"):
        by_hand(host, {"bind": [TWO]})
    assert drivers(host, TWO) == ["i915"]


# -- failing ----------------------------------------------------------------------------------------------------------
def failing(host, pillar, action, technique, last=False):
    """What comes of a change in which a step fails."""
    with Engine(config(host)) as engine:
        plan = engine.plan(pillar)
    steps = [step for part in plan.changing for step in part.steps if step.action not in ("note", "load")]
    places = [place for place, step in enumerate(steps, 1) if (step.action, step.technique) == (action, technique)]
    host.add_fault({"call": "write", "nth": places[-1 if last else 0], "error": "EIO"})
    return apply(host, pillar)


def test_functions_that_can_not_be_bound_are_not_made(simulated):
    host = simulated("flex170")
    result = failing(host, wanted(1, 3), "bind", "vf-passthrough")
    assert not result.ok and f"bind {ONE} to vfio-pci" in result.errors[0]
    gpu = host.state()["gpus"][FLEX]
    assert not gpu["numvfs"] and "vf_drivers" not in gpu and closed(host)


def test_what_was_bound_is_bound_again_where_making_functions_anew_fails(simulated):
    """Also where that change says nothing of it."""
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    result = failing(host, pillars.for_all("sriov", {"vf_count": 6}), "set_count", "sriov", last=True)
    assert not result.ok and closed(host), result.errors
    assert drivers(host, ONE, TWO, THREE) == ["", "vfio-pci", ""]


def test_a_write_that_does_nothing_is_found_out(simulated):
    host = simulated("flex170")
    assert apply(host, wanted(2)).ok
    host.add_fault({"call": "write", "nth": 2, "lie": True})
    result = by_hand(host, {"bind": [THREE]})
    assert not result.ok and "the kernel accepted the request, but no driver took it" in result.errors[0]
    assert drivers(host, TWO, THREE) == ["vfio-pci", ""] and closed(host)
