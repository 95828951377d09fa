"""Whole GPUs for virtual machines: what is planned, what is refused and in which words, and what the simulated kernel does."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.plan import RESET
from gpuslice.plan import Plan
from gpuslice.rules import Rules
from gpuslice.techniques.passthrough.technique import Passthrough
from gpuslice.techniques.passthrough.technique import PassthroughState
from tests.support import hosts
from tests.support.techniques import plan_one

H100, MI300X, FLEX = "0000:1b:00.0", "0000:3d:00.0", "0000:8a:00.0"
NIC = "0000:18:00.0"
DEVICES = "/sys/bus/pci/devices"
DRIVERS = ["", "nvidia", "amdgpu", "xe", "vfio-pci", "xe-vfio-pci"]


@pytest.fixture
def bench(simulated):
    """``bench(**changes)``: (host, minion configuration) of a machine with GPUs of three vendors."""

    def make(**changes):
        host = simulated("mixed-vendors", **changes)
        return host, hosts.config(host)

    return make


def change(config, address, force=None, **settings):
    """Apply settings to one GPU."""
    with Engine(config) as engine:
        return engine.reconciler(force=force).apply(engine.wanted("passthrough", address, settings))


def planned(config, address, rules=None, **settings):
    """The plan for one GPU, made by the technique itself."""
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("passthrough", address)
        return plan_one(tool, gpu, tool.observe(gpu), settings, rules or Rules())


def driver(host, address):
    return host.readlink(f"{DEVICES}/{address}/driver")


def with_nic_in_the_group(host, bound_to="ixgbe"):
    """Changes of the description that put the network card into the group of the H100."""
    state = host.state()
    gpus = [{"model": "h100-80gb", "device": "2330", "address": H100, "iommu_group": 40}]
    other = [
        {"address": NIC, "class": "020000", "vendor": "8086", "device": "1563", "driver": bound_to, "iommu_group": 40},
        {"address": "0000:1a:00.0", "class": "060400", "device": "1234", "driver": "pcieport", "iommu_group": 40},
    ]
    assert state["host"]["iommu"]
    return {"gpus": gpus, "other_pci": other}


# -- planning ------------------------------------------------------------------------------------------------------------
def test_drivers_are_moved_in_the_phase_without_a_vendor_session(bench):
    _, config = bench()
    made = planned(config, H100)
    assert [step.action for step in made.steps] == ["load", "note", "override", "unbind", "bind"]
    assert [step.action for step in made.steps if step.phase == RESET] == ["unbind", "bind"]
    assert all(step.undo for step in made.steps)
    assert made.creates == ("the whole GPU as /dev/vfio/2",)


def test_a_loaded_module_is_not_loaded_again(bench):
    _, config = bench(modules={"vfio_pci": 0})
    assert "load" not in [step.action for step in planned(config, H100).steps]


STATES = st.builds(
    PassthroughState,
    st.sampled_from(DRIVERS),
    st.sampled_from(["", "vfio-pci"]),
    st.sampled_from(["", "nvidia", "none", "any"]),
)


@given(STATES, st.sampled_from([{}, {"bound": False}]))
def test_carrying_out_the_goal_leaves_nothing_to_do(state, settings):
    from gpuslice.techniques.passthrough.technique import _goal

    goal = _goal(state, settings)
    reached = goal._replace(driver="nvidia") if goal.driver is None else goal
    again = _goal(reached, settings)
    assert again == reached
    assert _goal(state, {"layout": Passthrough(None, None).layout(reached)}) == reached


# -- there and back ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("address", "own"), [(H100, "nvidia"), (MI300X, "amdgpu"), (FLEX, "xe"), ("0000:9a:00.0", "i915")])
def test_a_gpu_goes_to_vfio_and_back_to_its_own_driver(bench, address, own):
    host, config = bench()
    before = {a: driver(host, a) for a in host.state()["gpus"]}
    result = change(config, address)
    assert result.ok and result.changes[address]["new"]["driver"] == "vfio-pci"
    assert {a: driver(host, a) for a in before} == {**before, address: "vfio-pci"}
    with Engine(config) as engine:
        found = engine.gpu(address)
        (part,) = [part for part in engine.slices(address) if part["kind"] == "passthrough"]
    group = host.readlink(f"{DEVICES}/{address}/iommu_group")
    assert found.driver == "vfio-pci" and found.model
    assert f"/dev/vfio/{group}" in part["device_nodes"] and all(host.exists(node) for node in part["device_nodes"])
    assert change(config, address).plan.empty

    result = change(config, address, bound=False)
    assert result.ok and result.changes[address]["new"] == {"driver": own}
    assert {a: driver(host, a) for a in before} == before
    assert host.read(f"{DEVICES}/{address}/driver_override") == "(null)"
    assert host.listdir("/run/gpu-slicing/passthrough") == []
    assert change(config, address, bound=False).plan.empty


def test_a_gpu_without_a_driver_gets_none_back(bench):
    host, config = bench()
    host.write(f"{DEVICES}/{FLEX}/driver/unbind", FLEX)
    assert change(config, FLEX).ok and driver(host, FLEX) == "vfio-pci"
    assert change(config, FLEX, bound=False).ok and driver(host, FLEX) == ""


def test_a_gpu_bound_by_hand_goes_back_to_what_the_kernel_chooses(bench):
    host, config = bench(modules={"vfio_pci": 0})
    for path, text in (("driver_override", "vfio-pci"), ("driver/unbind", MI300X)):
        host.write(f"{DEVICES}/{MI300X}/{path}", text)
    host.write("/sys/bus/pci/drivers_probe", MI300X)
    assert change(config, MI300X).plan.empty
    assert change(config, MI300X, bound=False).ok and driver(host, MI300X) == "amdgpu"


def test_a_gpu_bound_by_its_ids_at_boot_cannot_be_given_back_and_stays(bench):
    host, config = bench(gpus=[{"vendor": "amd", "device": "74a1", "address": MI300X, "driver": "vfio-pci"}])
    result = change(config, MI300X, bound=False)
    assert not result.ok and "vfio-pci has it" in result.errors[0]
    assert driver(host, MI300X) == "vfio-pci"


def test_everything_is_as_at_boot_after_a_boot(bench):
    host, config = bench()
    assert change(config, H100).ok
    host.reboot()
    assert driver(host, H100) == "nvidia"
    assert change(config, H100).ok
    assert change(config, H100, bound=False).ok and driver(host, H100) == "nvidia"


def test_a_rollback_gives_the_gpu_back(bench):
    host, config = bench()
    assert change(config, H100).ok
    with Engine(config) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert driver(host, H100) == "nvidia"


# -- refused -------------------------------------------------------------------------------------------------------------
def refused(host, config, address, *words, **settings):
    """Assert that a change is refused with these words and that the machine is as before."""
    before = host.state()["gpus"], host.state()["written"]
    try:
        result = change(config, address, **settings)
        said = " ".join(result.errors)
        assert not result.ok
    except errors.GpuSliceError as err:
        said = str(err)
    assert address in said
    for word in words:
        assert word in said
    assert (host.state()["gpus"], host.state()["written"]) == before
    return said


def test_a_shared_group_is_refused_with_the_names_of_its_members(bench):
    host, _ = bench()
    host, config = bench(**with_nic_in_the_group(host))
    said = refused(host, config, H100, "IOMMU group 40 is not clean", f"{NIC} (ixgbe)", "ACS")
    assert "0000:1a:00.0" not in said


@pytest.mark.parametrize("other", ["", "vfio-pci", "pci-stub"])
def test_a_group_is_clean_when_the_others_have_vfio_or_no_driver(bench, other):
    host, _ = bench()
    host, config = bench(**with_nic_in_the_group(host, other))
    assert change(config, H100).ok and driver(host, H100) == "vfio-pci"


@pytest.mark.parametrize(
    "pillar", [{"strategy": "passthrough"}, {"devices": [{"match": {"pci": H100}, "strategy": "passthrough"}]}]
)
def test_without_an_iommu_the_kernel_parameter_is_named(bench, pillar):
    host, config = bench(iommu=False)
    refused(host, config, H100, "IOMMU of this host is off", "intel_iommu=on", "amd_iommu=on", "Then reboot. See 'salt-call")
    with Engine(config) as engine, pytest.raises(errors.Unsupported, match="intel_iommu=on"):
        engine.plan({"containers_gpu_slicing": {"enabled": True, **pillar}})


@pytest.mark.parametrize(
    ("address", "node"), [(H100, "/dev/nvidia0"), (MI300X, "/dev/dri/renderD130"), (FLEX, "/dev/dri/renderD131")]
)
def test_holders_are_named_and_ended_only_when_forced(bench, address, node):
    holder = {"pid": 77, "command": "train.py", "container": "web", "nodes": [node]}
    host, config = bench(processes=[holder])
    refused(host, config, address, "pid 77 (train.py, container web)", "Stop these. That their units")
    assert change(config, address, force=True).ok
    assert host.processes() == [] and driver(host, address) == "vfio-pci"


def test_a_unit_that_may_be_stopped_is_stopped_and_started_again(bench):
    host, config = bench(processes=[{"pid": 9, "command": "dcgm", "unit": "dcgm.service", "nodes": ["/dev/nvidia0"]}])
    pillar = {
        "containers_gpu_slicing": {"enabled": True, "devices": [{"match": {"pci": H100}, "strategy": "passthrough"}]},
        "containers_gpu_state_management": {"stop_units": ["dcgm.service"]},
    }
    with Engine(config) as engine:
        result = engine.apply(pillar)
    assert result.ok and result.plan.stops == ["dcgm.service"]
    assert [process.pid for process in host.processes()] == [9]


def test_a_virtual_machine_that_has_the_gpu_keeps_it(bench):
    host, config = bench()
    assert change(config, H100).ok
    host.add_process({"pid": 5, "command": "qemu-system-x86_64", "unit": "vm7.scope", "nodes": ["/dev/vfio/2"]})
    refused(host, config, H100, "pid 5 (qemu-system-x86_64, unit vm7.scope)", bound=False)
    with Engine(config) as engine:
        assert engine.slices(H100)[0]["in_use_by"][0]["pid"] == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sriov_totalvfs": 8}, "2 virtual functions enabled"),
        ({"mig": "enabled", "instances": ["3g.40gb@0"]}, "1 GPU instance (MIG)"),
    ],
)
def test_slices_that_would_be_lost_stop_it_also_when_forced(bench, changes, words):
    host, config = bench(gpus=[{"model": "h100-80gb", "device": "2330", "address": H100, **changes}])
    if "sriov_totalvfs" in changes:
        host.write(f"{DEVICES}/{H100}/sriov_numvfs", "2")
    for force in (False, True):
        refused(host, config, H100, words, "would be lost", force=force)


def test_modes_that_would_be_lost_are_named(bench):
    host, config = bench()
    host.write(f"{DEVICES}/{MI300X}/current_compute_partition", "CPX")
    refused(host, config, MI300X, "compute partition mode CPX")
    host.write(f"{DEVICES}/{FLEX}/tile0/gt0/ccs_mode", "2")
    refused(host, config, FLEX, "CCS mode 2")
    backport = "0000:9a:00.0"
    host.write(f"{DEVICES}/{backport}/drm/card4/gt/gt1/ccs_mode", "4")
    refused(host, config, backport, "CCS mode 4")


def test_mediated_devices_that_would_be_lost_are_named(bench):
    device = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    host, config = bench(files={f"{DEVICES}/{H100}/{device}/mdev_type/name": "NVIDIA H100-4C"})
    refused(host, config, H100, "1 mediated device (vGPU)", "would be lost")


# -- a driver that does not let go ---------------------------------------------------------------------------------------
def test_who_opens_the_gpu_between_plan_and_unbinding_is_named_and_nothing_is_asked_of_the_driver(bench):
    host, config = bench(modules={"vfio_pci": 0})
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("passthrough", H100)
        step = next(s for s in plan_one(tool, gpu, tool.observe(gpu), {}).steps if s.action == "unbind")
        host.add_process({"pid": 6, "command": "nvtop", "nodes": ["/dev/nvidia0"]})
        with pytest.raises(errors.ResourceConflict, match=r"in use by pid 6 \(nvtop\)") as caught:
            tool.run(gpu, step)
    assert caught.value.holders[0]["pid"] == 6 and driver(host, H100) == "nvidia"


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("bound", [True, False])
def test_a_write_that_does_not_come_back_is_told_and_undone(bench, nth, bound):
    host, config = bench()
    if not bound:
        assert change(config, H100).ok
    before = driver(host, H100)
    host.add_fault({"call": "write", "nth": nth, "error": "ETIMEDOUT"})
    result = change(config, H100, bound=bound)
    assert not result.ok and H100 in result.errors[0] and "has not answered within 60 s" in result.errors[0]
    assert "reboot" in result.errors[0] and "undone" in " ".join(result.errors)
    assert driver(host, H100) == before
    assert change(config, H100, bound=bound).ok


def test_a_driver_that_hangs_for_good_blocks_no_other_gpu(bench):
    host, config = bench(files={"/sys/module/nvidia_drm/refcnt": "1"})
    host.add_fault({"call": "write", "gpu": H100, "nth": 2, "times": 0, "error": "ETIMEDOUT"})
    result = change(config, H100)
    told = " ".join(result.errors)
    assert not result.ok and "perhaps the module nvidia_drm" in told
    assert f"GPU {H100} could not be put back to bound to nvidia" in told
    # Nothing is left in the journal that a run for another GPU would have to undo first.
    assert change(config, MI300X).ok and driver(host, MI300X) == "vfio-pci"
    host.clear_faults()
    assert change(config, H100).ok and change(config, H100, bound=False).ok
    assert driver(host, H100) == "nvidia" and host.read(f"{DEVICES}/{H100}/driver_override") == "(null)"


def test_without_the_module_the_words_of_modprobe_are_told(bench):
    host, config = bench(tools=["lspci"])
    refused(host, config, H100, "modprobe is not installed")


def test_a_probe_that_no_driver_answers_is_told_and_undone(bench):
    host, config = bench(modules={"vfio_pci": 0})
    host.add_fault({"call": "write", "nth": 3, "lie": True})
    result = change(config, H100)
    assert not result.ok and "no driver took it" in result.errors[0]
    assert driver(host, H100) == "nvidia" and host.read(f"{DEVICES}/{H100}/driver_override") == "(null)"


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("bound", [True, False])
def test_a_write_that_fails_undoes_the_change(bench, nth, bound):
    host, config = bench()
    if not bound:
        assert change(config, H100).ok
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    before = host.state()["gpus"][H100]["about"]["driver"]
    result = change(config, H100, bound=bound)
    assert not result.ok and "undone" in " ".join(result.errors)
    assert driver(host, H100) == before
    override = host.read(f"{DEVICES}/{H100}/driver_override")
    assert override == ("(null)" if bound else "vfio-pci")
    assert change(config, H100, bound=bound).ok


@pytest.mark.parametrize(
    ("name", "kind"), [("EACCES", errors.PermissionDenied), ("ENODEV", errors.DriverError), ("EROFS", errors.PermissionDenied)]
)
def test_an_errno_is_told_as_a_sentence(bench, name, kind):
    host, config = bench(modules={"vfio_pci": 0})
    with Engine(config) as engine:
        [(gpu, tool)], _ = engine.techniques("passthrough", H100)
        step = next(s for s in plan_one(tool, gpu, tool.observe(gpu), {}).steps if s.action == "unbind")
        host.add_fault({"call": "write", "error": name})
        with pytest.raises(kind, match="Could not unbind the GPU from nvidia"):
            tool.run(gpu, step)


# -- the others ----------------------------------------------------------------------------------------------------------
def test_mig_says_where_the_gpu_is_instead_of_failing(bench):
    _, config = bench()
    assert change(config, H100).ok
    pillar = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.10gb"]}}}
    with Engine(config) as engine:
        made = engine.plan(pillar)
        assert engine.health(H100) == {H100: []}
        assert engine.export()["containers_gpu_slicing"]["devices"][0]["strategy"] == "passthrough"
    ((address, why),) = made.blocked
    assert address == H100 and "gpu_passthrough.release" in why


def test_the_sessions_of_other_techniques_are_closed_before_a_driver_is_unbound(bench):
    second = "0000:2b:00.0"
    gpus = [{"model": "h100-80gb", "device": "2330", "address": address} for address in (H100, second)]
    host, config = bench(gpus=gpus)
    pillar = {
        "containers_gpu_slicing": {
            "enabled": True,
            "devices": [
                {"match": {"pci": H100}, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 2}}},
                {"match": {"pci": second}, "strategy": "passthrough"},
            ],
        }
    }
    with Engine(config) as engine:
        result = engine.apply(pillar)
    assert result.ok, result.errors
    assert driver(host, second) == "vfio-pci" and driver(host, H100) == "nvidia"
    with Engine(config) as engine:
        assert sorted(part["kind"] for part in engine.slices()) == ["mig", "mig", "passthrough"]


# -- the simulated kernel ------------------------------------------------------------------------------------------------
def errno_of(host, path, text):
    with pytest.raises(OSError) as caught:
        host.write(path, text)
    return caught.value.errno


def test_the_kernel_answers_as_it_does(bench):
    host, _ = bench(modules={"vfio_pci": 0})
    assert errno_of(host, "/sys/bus/pci/drivers/vfio-pci/bind", H100) == errno.EBUSY
    assert errno_of(host, "/sys/bus/pci/drivers/no-such/bind", H100) == errno.ENOENT
    assert errno_of(host, "/sys/bus/pci/drivers/amdgpu/unbind", H100) == errno.ENODEV
    host.write(f"{DEVICES}/{NIC}/driver/unbind", NIC)
    assert errno_of(host, "/sys/bus/pci/drivers/vfio-pci/bind", NIC) == errno.ENODEV
    assert errno_of(host, f"{DEVICES}/{NIC}/driver/unbind", NIC) in (errno.ENOENT, errno.ENODEV)
    host.write(f"{DEVICES}/{NIC}/driver_override", "vfio-pci")
    host.write("/sys/bus/pci/drivers_probe", NIC)
    assert driver(host, NIC) == "vfio-pci" and host.exists("/dev/vfio/1")
    assert errno_of(host, "/sys/bus/pci/drivers_probe", "0000:ff:00.0") == errno.EINVAL


def test_a_probe_for_a_driver_that_is_not_loaded_changes_nothing(bench):
    host, _ = bench()
    host.write(f"{DEVICES}/{FLEX}/driver_override", "vfio-pci")
    host.write(f"{DEVICES}/{FLEX}/driver/unbind", FLEX)
    host.write("/sys/bus/pci/drivers_probe", FLEX)
    assert driver(host, FLEX) == "" and not host.exists("/dev/vfio/vfio")


def test_states_are_plain_data(bench):
    _, config = bench()
    made = planned(config, H100)
    assert Plan.from_dict(Plan((made,)).as_dict()) == Plan((made,))
