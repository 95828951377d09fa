"""
vGPU hosts that are shared with other tools, whose drivers tell less than usual, or whose functions are not all to be had. What is
wanted comes about, or a sentence says why not; what others made stays.
"""

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.sim.host import SimulatedHost
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.techniques import plan_one

VFIO, MDEV = "vgpu-host-vfio", "vgpu-host-mdev"
H100, A100, T4 = "0000:41:00.0", "0000:3b:00.0", "0000:86:00.0"
DEVICES = "/sys/bus/pci/devices"


@pytest.fixture
def box(simulated):
    """``box(example, **changes)``: the host."""

    def make(example, **changes):
        host = simulated(example, **changes)
        return host

    return make


def look(host, gpu):
    """The vGPUs of a GPU as the hardware has them."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        return tool.observe(one).vgpus


def in_use(host, vgpu, gpu):
    """Let a virtual machine have a vGPU."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        [part] = [part for part in tool.slices(one, tool.observe(one)) if part.identity == vgpu.identity]
    host.add_process({"pid": 4242, "command": "qemu-system-x86_64", "nodes": [part.device_nodes[0]]})


# -- other tools -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("gpu", "profile", "others"), [(T4, "T4-4Q", 2), (A100, "A100D-20C", 2)])
def test_an_undo_keeps_the_mediated_devices_that_another_tool_made_in_our_place(box, gpu, profile, others):
    host = box(MDEV)
    assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 1})).ok
    [mine] = look(host, gpu)
    # Just before our second write another tool takes what is left.
    foreign = [{"gpu": gpu, "action": "create_vgpu", "profile": profile}] * others
    host.add_fault({"call": "write", "nth": 2, "foreign": foreign})
    result = apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 4}))
    told = " ".join(result.errors)
    assert not result.ok and gpu in told and "another tool" in told, told
    left = look(host, gpu)
    assert mine in left and len(left) == 1 + others
    host.clear_faults()
    assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 4})).ok


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("example", "gpu", "profile"), [(VFIO, H100, "H100XM-20C"), (MDEV, A100, "A100D-20C")])
def test_what_another_tool_made_on_new_functions_keeps_them(box, example, gpu, profile, told):
    zero = {f"{DEVICES}/{gpu}/sriov_{name}": "0" for name in ("offset", "stride")}
    host = box(example, files={} if told else zero)
    # One of ours is made, then another tool takes the next function, and what is ours then is refused.
    foreign = [{"gpu": gpu, "action": "create_vgpu", "profile": profile}]
    host.add_fault({"call": "write", "nth": 2, "foreign": foreign})
    result = apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 3}))
    said = " ".join(result.errors)
    assert not result.ok and gpu in said and "made by another tool" in said, said
    left = look(host, gpu)
    assert [vgpu.at[-1] for vgpu in left][-1] == "5", left
    host.clear_faults()
    assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 3})).ok


class Overtaken(SimulatedHost):
    """A host on which another tool makes a vGPU of its own at the very moment that we do."""

    other = None

    def write(self, path, text):
        if self.other and path.endswith("/current_vgpu_type") and text != "0":
            other, self.other = self.other, None
            super().write(path, str(other))
            raise OSError(5, "Input/output error", path)
        super().write(path, text)


def test_what_came_at_the_very_moment_of_our_write_is_not_taken_for_ours(box):
    host = box(VFIO)
    overtaken = Overtaken(host.description_path, host.state_dir)
    with Engine(config(host)) as engine:
        engine.host, engine.tools = overtaken, type(engine.tools)(overtaken)
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        first, second = plan_one(tool, one, tool.observe(one), {"profile": "H100XM-40C", "count": 1}).steps
        tool.run(one, first)
        overtaken.other = tool.types(one)["H100XM-20C"].id
        with pytest.raises(errors.ForeignChange, match="already carries a vGPU, H100XM-20C") as told:
            tool.run(one, second)
    assert H100 in str(told.value)


def test_a_vgpu_that_became_another_one_meanwhile_is_not_removed(box):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-40C", "count": 1})).ok
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        [step] = plan_one(tool, one, tool.observe(one), {"layout": {**tool.layout(tool.observe(one)), "vgpus": []}}).steps
        other = tool.types(one)["H100XM-20C"].id
        path = f"{DEVICES}/{step.args['at']}/nvidia/current_vgpu_type"
        host.write(path, "0")
        host.write(path, str(other))
        with pytest.raises(errors.ForeignChange, match="carries H100XM-20C now") as told:
            tool.run(one, step)
    assert H100 in str(told.value)
    assert [vgpu.type for vgpu in look(host, H100)] == ["H100XM-20C"]


@pytest.mark.parametrize(("example", "gpu", "profile"), [(VFIO, H100, "H100XM-40C"), (MDEV, T4, "T4-8Q")])
def test_a_virtual_machine_that_starts_between_plan_and_removal_is_named(box, example, gpu, profile):
    host = box(example)
    assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 1})).ok
    [vgpu] = look(host, gpu)
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        [step] = plan_one(tool, one, tool.observe(one), {"layout": {**tool.layout(tool.observe(one)), "vgpus": []}}).steps
        in_use(host, vgpu, gpu)
        with pytest.raises(errors.ResourceConflict, match="pid 4242") as told:
            tool.run(one, step)
    assert gpu in str(told.value) and look(host, gpu) == (vgpu,)


def test_the_device_of_its_own_that_newer_kernels_give_a_mediated_device_counts_too(box):
    host = box(MDEV)
    assert apply(host, pillars.for_gpu(T4, "vgpu", {"profile": "T4-8Q", "count": 1})).ok
    [vgpu] = look(host, T4)

    class Newer(SimulatedHost):
        def listdir(self, path):
            return ["vfio7"] if path == f"/sys/bus/mdev/devices/{vgpu.uuid}/vfio-dev" else super().listdir(path)

    with Engine(config(host)) as engine:
        newer = Newer(host.description_path, host.state_dir)
        engine.host, engine.tools = newer, type(engine.tools)(newer)
        [(one, tool)], _ = engine.techniques("vgpu", T4)
        newer.add_process({"pid": 4242, "command": "qemu-system-x86_64", "nodes": ["/dev/vfio/devices/vfio7"]})
        [part] = tool.slices(one, tool.observe(one))
        assert part.device_nodes[-1] == "/dev/vfio/devices/vfio7" and part.in_use_by[0]["pid"] == 4242
        with pytest.raises(errors.ResourceConflict, match="pid 4242"):
            plan_one(tool, one, tool.observe(one), {"remove": True})


def test_passthrough_of_a_gpu_with_vgpus_is_refused_and_names_them(box):
    for example, gpu, profile in ((VFIO, H100, "H100XM-40C"), (MDEV, A100, "A100D-40C"), (MDEV, T4, "T4-8Q")):
        host = box(example)
        assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 2})).ok
        before = look(host, gpu)
        result = apply(host, pillars.for_gpu(gpu, "passthrough"))
        told = " ".join(result.errors)
        assert not result.ok and all(vgpu.identity in told for vgpu in before) and "2 vGPUs" in told, told
        assert look(host, gpu) == before


# -- MIG instances behind mediated devices ---------------------------------------------------------------------------
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("used", [True, False])
def test_a_mediated_device_that_stays_keeps_its_instance_or_is_made_anew_on_another(box, place, used):
    host = box(MDEV)
    assert apply(host, pillars.for_gpu(A100, "vgpu", {"profiles": {"A100D-1-10C": 3}})).ok
    vgpu = look(host, A100)[place]
    if used:
        in_use(host, vgpu, A100)
    wanted = pillars.for_gpu(A100, "vgpu", {"profiles": {"A100D-1-10C": 1, "A100D-3-40C": 1}})
    result = apply(host, wanted)
    assert result.ok, result.errors
    after = look(host, A100)
    assert sorted(one.type for one in after) == ["A100D-1-10C", "A100D-3-40C"]
    if used:
        [still] = [one for one in after if one.type == "A100D-1-10C"]
        assert (still.at, still.uuid) == (vgpu.at, vgpu.uuid)
        assert not any("make" in step.words and vgpu.uuid in step.words for step in result.plan.parts[0].steps)
    assert apply(host, wanted).plan.empty


def test_an_instance_that_nobody_tells_is_not_taken_from_a_virtual_machine(box):
    host = box(MDEV)
    assert apply(host, pillars.for_gpu(A100, "vgpu", {"profiles": {"A100D-1-10C": 3}})).ok
    before = look(host, A100)
    in_use(host, before[0], A100)
    host.add_fault({"call": "nvmlVgpuInstanceGetMdevUUID", "error": "NVML_ERROR_NOT_SUPPORTED", "times": 0})
    result = apply(host, pillars.for_gpu(A100, "vgpu", {"profiles": {"A100D-1-10C": 1, "A100D-3-40C": 1}}))
    told = " ".join(result.errors)
    assert not result.ok and "pid 4242" in told and before[0].uuid in told, told
    host.clear_faults()
    assert [vgpu[:3] for vgpu in look(host, A100)] == [vgpu[:3] for vgpu in before]


def test_a_rollback_to_other_placements_makes_anew_what_stands_on_them(box):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profiles": {"H100XM-1-10C": 1}})).ok
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        state = tool.observe(one)
        moved = tool.layout(state)
        moved["mig"] = {**moved["mig"], "instances": [["1g.10gb", 0, [["1g.10gb", 0]]]]}
        assert state.mig.instances[0].start != 0
        steps = plan_one(tool, one, state, tool.settings_of(moved)).steps
        for step in steps:
            tool.run(one, step)
        assert tool.layout(tool.observe(one)) == moved


def test_an_instance_that_a_container_works_on_is_not_given_to_a_vgpu(box):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profiles": {"H100XM-3-40C": 1}})).ok
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("mig", H100)
        layout = tool.layout(tool.observe(one))
        layout["instances"].append(["2g.20gb", 0, [["2g.20gb", 0]]])
        for step in plan_one(tool, one, tool.observe(one), {"layout": layout}).steps:
            tool.run(one, step)
        node = next(part.device_nodes[-1] for part in tool.slices(one, tool.observe(one)) if part.profile == "2g.20gb")
    host.add_process({"pid": 78, "command": "python", "nodes": [node]})
    before = look(host, H100)
    wanted = {"profiles": {"H100XM-2-20C": 1, "H100XM-3-40C": 1}}
    result = apply(host, pillars.for_gpu(H100, "vgpu", wanted))
    told = " ".join(result.errors)
    assert not result.ok and "2g.20gb at 0" in told and "pid 78" in told and H100 in told, told
    assert not result.plan.changing and look(host, H100) == before
    host.remove_process(78)
    assert apply(host, pillars.for_gpu(H100, "vgpu", wanted)).ok


# -- drivers that tell less ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", ["NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "DEPRECATED", "ARGUMENT_VERSION_MISMATCH"])
def test_a_driver_without_modes_of_the_scheduler_makes_vgpus_all_the_same(box, code):
    host = box(VFIO)
    for name in ("nvmlDeviceGetVgpuSchedulerState", "nvmlDeviceGetVgpuHeterogeneousMode"):
        host.add_fault({"call": name, "error": f"NVML_ERROR_{code}", "times": 0})
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-40C"})).ok
    assert len(look(host, H100)) == 2
    with pytest.raises(errors.Unsupported, match="Leave it out") as told:
        apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-40C", "scheduler": "equal-share"}))
    assert H100 in str(told.value)


def test_a_driver_that_does_not_tell_how_many_fit_wants_a_number(box):
    host = box(VFIO)
    host.add_fault({"call": "nvmlVgpuTypeGetMaxInstances", "error": "NVML_ERROR_NOT_SUPPORTED", "times": 0})
    with pytest.raises(errors.Unsupported, match="vgpu:count") as told:
        apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-20C"}))
    assert H100 in str(told.value) and look(host, H100) == ()
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-20C", "count": 3})).ok
    assert len(look(host, H100)) == 3


def test_a_driver_that_does_not_tell_what_backs_a_type_does_not_switch_mig_off(box):
    host = box(VFIO)
    host.add_fault({"call": "nvmlVgpuTypeGetGpuInstanceProfileId", "error": "NVML_ERROR_FUNCTION_NOT_FOUND", "times": 0})
    with pytest.raises(errors.Unsupported, match="H100XM-3-40C needs a MIG instance") as told:
        apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-3-40C"}))
    assert H100 in str(told.value)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-40C"})).ok


def test_a_driver_without_any_types_is_told(box):
    host = box(VFIO)
    host.add_fault({"call": "nvmlDeviceGetSupportedVgpus", "error": "NVML_ERROR_NOT_SUPPORTED", "times": 0})
    with pytest.raises(errors.Unsupported, match="tells of no vGPU types") as told:
        apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-40C"}))
    assert H100 in str(told.value)


class Nameless(SimulatedHost):
    """A host whose driver tells no name for one type of vGPU, neither by NVML nor by its file."""

    number = 0

    def nvml(self):
        real, number = super().nvml(), self.number

        class Nvml:
            def __getattr__(self, name):
                return getattr(real, name)

            def nvmlDeviceGetSupportedVgpus(self, handle):
                return [kind for kind in real.nvmlDeviceGetSupportedVgpus(handle) if kind != number]

            def nvmlVgpuTypeGetName(self, kind):
                return real.nvmlVgpuTypeGetName(0 if kind == number else kind)

        return Nvml()

    def read(self, path):
        return super().read("/nothing" if path.endswith(f"/nvidia-{self.number}/name") else path)


@pytest.mark.parametrize(("example", "gpu", "profile"), [(VFIO, H100, "H100XM-40C"), (MDEV, T4, "T4-8Q")])
def test_a_type_that_the_driver_has_no_name_for_goes_and_comes_back(box, example, gpu, profile):
    host = box(example)
    assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 1})).ok
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        number = tool.types(one)[profile].id
    with Engine(config(host)) as engine:
        odd = Nameless(host.description_path, host.state_dir)
        odd.number = number
        engine.host, engine.tools = odd, type(engine.tools)(odd)
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        before = tool.layout(tool.observe(one))
        assert [name for name, _, _ in before["vgpus"]] == [f"type {number}"]
        with pytest.raises(errors.PolicyError, match=f"type {number}, for which the driver has no name") as told:
            tool.pillar(one, before)
        assert gpu in str(told.value)
        steps = plan_one(tool, one, tool.observe(one), {"layout": {**before, "vgpus": []}}).steps
        for step in steps:
            tool.run(one, step)
        assert tool.observe(one).vgpus == ()
        for step in plan_one(tool, one, tool.observe(one), tool.settings_of(before)).steps:
            tool.run(one, step)
        assert tool.layout(tool.observe(one)) == before
    assert [vgpu.type for vgpu in look(host, gpu)] == [profile]


# -- functions -------------------------------------------------------------------------------------------------------
def test_a_board_that_carries_vgpus_itself_may_have_functions_on_paper(box):
    base = f"{DEVICES}/{T4}"
    host = box(MDEV, files={f"{base}/sriov_totalvfs": "16", f"{base}/sriov_numvfs": "0"})
    result = apply(host, pillars.for_gpu(T4, "vgpu", {"profile": "T4-4Q"}))
    assert result.ok, result.errors
    assert [vgpu.type for vgpu in look(host, T4)] == ["T4-4Q"] * 4
    assert apply(host, pillars.for_gpu(T4, "vgpu", {"profile": "T4-4Q"})).plan.empty


class Taken(SimulatedHost):
    """A host on which another program has taken some functions from the vGPU manager."""

    taken = ()

    def exists(self, path):
        return not any(path.startswith(f"{DEVICES}/{function}/nvidia") for function in self.taken) and super().exists(path)


@pytest.mark.parametrize("count", [1, 0, 3])
def test_functions_that_another_program_has_are_passed_over(box, count):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-10C", "count": 1})).ok
    [first] = look(host, H100)
    with Engine(config(host)) as engine:
        taken = Taken(host.description_path, host.state_dir)
        engine.host, engine.tools = taken, type(engine.tools)(taken)
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        everything = [f"0000:41:{n // 8:02x}.{n % 8}" for n in range(4, 20)]
        taken.taken = [function for function in everything[:12] if function != first.at]
        steps = plan_one(tool, one, tool.observe(one), {"profile": "H100XM-10C", "count": count}).steps
        for step in steps:
            tool.run(one, step)
        # Four functions are left besides the one that has a vGPU already.
        assert len(tool.observe(one).vgpus) == (count or 5)
        assert not {vgpu.at for vgpu in tool.observe(one).vgpus} & set(taken.taken)
        assert plan_one(tool, one, tool.observe(one), {"profile": "H100XM-10C", "count": count}).steps == ()
        taken.taken = everything[:1]
        assert tool.observe(one).total == 16


class Written(SimulatedHost):
    """A host whose driver writes its files in another way."""

    files = {}
    broken = ""

    def read(self, path):
        if self.broken and path.endswith(self.broken):
            raise OSError(5, "Input/output error", path)
        told = super().read(path)
        return next((change(told) for name, change in self.files.items() if path.endswith(name)), told)


@pytest.mark.parametrize(
    "files",
    [
        {"creatable_vgpu_types": lambda told: "\n".join(told.splitlines()[1:])},
        {"creatable_vgpu_types": lambda told: "\n".join(f"   {line.zfill(30)}  " for line in told.splitlines()[1:])},
        {"creatable_vgpu_types": lambda told: told.replace("NVIDIA ", "GRID ")},
        {"creatable_vgpu_types": lambda told: told.replace("NVIDIA ", "NVIDIA GRID ")},
        {"current_vgpu_type": lambda told: told.zfill(8)},
        {"gpu_instance_id": lambda told: "-1"},
    ],
)
def test_the_driver_may_write_its_files_with_other_paddings_and_names(box, files):
    host = box(VFIO)
    with Engine(config(host)) as engine:
        odd = Written(host.description_path, host.state_dir)
        odd.files = files
        engine.host, engine.tools = odd, type(engine.tools)(odd)
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        for step in plan_one(tool, one, tool.observe(one), {"profile": "H100XM-20C", "count": 2}).steps:
            tool.run(one, step)
        assert [vgpu.type for vgpu in tool.observe(one).vgpus] == ["H100XM-20C"] * 2
        assert plan_one(tool, one, tool.observe(one), {"profile": "H100XM-20C", "count": 2}).steps == ()


def test_a_function_that_can_not_be_read_is_not_taken_for_a_free_one(box):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-20C", "count": 2})).ok
    with Engine(config(host)) as engine:
        odd = Written(host.description_path, host.state_dir)
        odd.broken = "0000:41:00.4/nvidia/current_vgpu_type"
        engine.host, engine.tools = odd, type(engine.tools)(odd)
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        with pytest.raises(errors.DriverError, match=r"which vGPU 0000:41:00\.4 carries") as told:
            tool.observe(one)
    assert H100 in str(told.value)


# -- cost ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("example", "gpu", "settings", "most"),
    [
        (VFIO, H100, {"profile": "H100XM-10C"}, 9),
        (VFIO, H100, {"profiles": {"H100XM-40C": 1, "H100XM-20C": 2}}, 13),
        (MDEV, A100, {"profile": "A100D-10C"}, 9),
        (MDEV, T4, {"profile": "T4-8Q"}, 8),
    ],
)
def test_a_gpu_that_is_right_costs_a_handful_of_nvml_calls(box, example, gpu, settings, most):
    host = box(example)
    assert apply(host, pillars.for_gpu(gpu, "vgpu", settings)).ok
    with Engine(config(host)) as engine:
        assert engine.apply(pillars.for_gpu(gpu, "vgpu", settings)).plan.empty
        calls = engine.host.nvml().calls
        assert 0 < sum(calls.values()) <= most, calls


# -- MIG by hand on a host with vGPUs --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("example", "gpu", "settings", "profile"),
    [
        (VFIO, H100, {"profiles": {"H100XM-1-10C": 2}}, "7g.80gb"),
        (VFIO, H100, {"profile": "H100XM-40C"}, "7g.80gb"),
        (MDEV, A100, {"profiles": {"A100D-1-10C": 2}}, "7g.80gb"),
    ],
)
def test_mig_on_a_gpu_with_vgpus_is_refused_and_names_them(box, example, gpu, settings, profile):
    host = box(example)
    assert apply(host, pillars.for_gpu(gpu, "vgpu", settings)).ok
    before = look(host, gpu)
    wanted = pillars.for_gpu(gpu, "mig")
    wanted["containers_gpu_slicing"]["devices"][0]["mig"] = {"profiles": [profile]}
    result = apply(host, wanted)
    told = " ".join(result.errors)
    assert not result.ok and not result.plan.changing
    assert gpu in told and "gpu_vgpu.remove" in told and all(vgpu.identity in told for vgpu in before), told
    assert look(host, gpu) == before


def test_mig_is_not_switched_off_under_virtual_functions(box):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profiles": {"H100XM-1-10C": 1}})).ok
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        state = tool.observe(one)
        for step in plan_one(tool, one, state, {"layout": {**tool.layout(state), "vgpus": []}}).steps:
            tool.run(one, step)
        [(one, tool)], _ = engine.techniques("mig", H100)
        with pytest.raises(errors.ResourceConflict, match="virtual functions") as told:
            plan_one(tool, one, tool.observe(one), {"enabled": False})
    assert H100 in str(told.value)


def test_vgpus_with_mig_instances_are_exported_as_vgpus(box):
    host = box(VFIO)
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profiles": {"H100XM-1-10C": 2}})).ok
    with Engine(config(host)) as engine:
        exported = engine.export()
        assert engine.apply(exported).plan.empty
    [rule] = [rule for rule in exported["containers_gpu_slicing"]["devices"] if rule["match"]["pci"] == H100]
    assert (rule["strategy"], rule["vgpu"]) == ("vgpu", {"profile": "H100XM-1-10C", "count": 2})


class Older(SimulatedHost):
    """A host with a binding of NVML that is older than the modes of the vGPU scheduler."""

    def nvml(self):
        real = super().nvml()

        class Nvml:
            def __getattr__(self, name):
                if "Heterogeneous" in name or "Scheduler" in name:
                    raise AttributeError(name)
                return getattr(real, name)

        return Nvml()


def test_an_older_binding_of_nvml_is_taken_for_an_older_driver(box):
    host = box(VFIO)
    older = Older(host.description_path, host.state_dir)
    with Engine(config(host)) as engine:
        engine.host, engine.tools = older, type(engine.tools)(older)
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        for step in plan_one(tool, one, tool.observe(one), {"profile": "H100XM-40C", "count": 1}).steps:
            tool.run(one, step)
        assert len(tool.observe(one).vgpus) == 1
        with pytest.raises(errors.Unsupported, match="Leave it out"):
            plan_one(tool, one, tool.observe(one), {"profile": "H100XM-40C", "scheduler": "equal-share"})
