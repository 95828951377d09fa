"""What device plugins of Kubernetes are told of slices, and what they can't be told."""

import pytest

from gpuslice import errors
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.outputs import kubernetes
from gpuslice.outputs import plugin_schema

A, B = "0000:1b:00.0", "0000:43:00.0"
H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"


def mig(number, profile="1g.10gb", gpu=A):
    return Slice(gpu, "mig", profile, f"MIG-{gpu}-{number}", name=f"{gpu}-{profile.replace('+', '.')}-{number}")


def whole(gpu=A):
    return Slice(gpu, "gpu", H100, f"GPU-{gpu}", compute=1.0, name=gpu)


def shares(kind, count, gpu=A, of=None, **more):
    of = of or gpu
    return [Slice(gpu, kind, "", f"x::{n}", name=f"{of}-{kind}-{n}", of=of, **more) for n in range(1, count + 1)]


def node(slices, vendor="nvidia", driver="nvidia", device="2330", models=None, **more):
    gpus = {gpu: Gpu(gpu, vendor, device, model=(models or {}).get(gpu, H100), driver=driver) for gpu in (A, B)}
    return kubernetes.Node(tuple(slices), gpus, **more)


def nvidia(slices, rename=True, **more):
    made = kubernetes.nvidia(node(slices, **more), rename)
    # Whatever is told stands the check that files of others are put to.
    assert plugin_schema.check(made.file) == ([], [])
    return made


def refused(slices, words, make=kubernetes.nvidia, **more):
    with pytest.raises(errors.Unsupported, match=words) as told:
        make(node(slices, **more))
    assert told.value.todo


# -- NVIDIA: MIG -----------------------------------------------------------------------------------------------------------
def test_without_mig_the_plugin_counts_gpus():
    made = nvidia([whole(A), whole(B)])
    assert made.file == {"version": "v1", "flags": {"migStrategy": "none"}} and made.resources == {"nvidia.com/gpu": 2}
    assert made.why == "no GPU is in MIG mode" and not made.notes


def test_mig_devices_that_are_all_alike_are_gpus_to_pods():
    made = nvidia([mig(n, gpu=gpu) for gpu in (A, B) for n in range(7)])
    assert made.file["flags"] == {"migStrategy": "single"} and made.resources == {"nvidia.com/gpu": 14}
    assert made.why == "every GPU is cut into MIG devices 1g.10gb and nothing else"


@pytest.mark.parametrize(
    ("slices", "more", "why"),
    [
        ([mig(0), mig(1, "1g.10gb+me")], {}, "MIG devices differ: 1g.10gb, 1g.10gb+me"),
        ([mig(0), whole(B)], {}, f"MIG mode is off here, and on elsewhere: {B}"),
        ([mig(0)], {"empty": (B,)}, f"MIG mode is on without a MIG device, at which 'single' ends the plugin: {B}"),
        ([], {"empty": (A, B)}, f"MIG mode is on without a MIG device, at which 'single' ends the plugin: {A}, {B}"),
        ([mig(0), mig(0, gpu=B)], {"models": {A: H100, B: L4}}, f"MIG devices 1g.10gb are of different models: {H100}, {L4}"),
    ],
)
def test_whatever_ends_the_plugin_with_single_makes_it_mixed(slices, more, why):
    made = nvidia(slices, **more)
    assert made.file["flags"]["migStrategy"] == "mixed" and made.why == why


def test_a_resource_is_named_as_the_plugin_names_it():
    made = nvidia([mig(0), mig(1, "1g.10gb+me"), mig(0, gpu=B), whole("0000:99:00.0")._replace(gpu=B)])
    assert made.resources == {"nvidia.com/gpu": 1, "nvidia.com/mig-1g.10gb": 2, "nvidia.com/mig-1g.10gb.me": 1}


def test_compute_instances_are_refused_where_the_plugin_would_end():
    part = mig(0, "1c.3g.40gb")
    refused([part, mig(4, "3g.40gb")], "no resource for compute instances.*1c.3g.40gb-0")
    assert nvidia([part, mig(1, "1c.3g.40gb")]).file["flags"]["migStrategy"] == "single"


# -- NVIDIA: sharing -------------------------------------------------------------------------------------------------------
def test_shares_of_whole_gpus_are_replicas_with_a_name_of_their_own():
    made = nvidia([*shares("replica", 4), *shares("replica", 4, B)])
    assert made.file["sharing"] == {
        "timeSlicing": {
            "renameByDefault": True, "failRequestsGreaterThanOne": True, "resources": [{"name": "nvidia.com/gpu", "replicas": 4}],
        }
    }  # fmt: skip
    assert made.resources == {"nvidia.com/gpu.shared": 8}
    kept = nvidia(shares("replica", 4), rename=False)
    assert kept.resources == {"nvidia.com/gpu": 4} and kept.file["sharing"]["timeSlicing"]["renameByDefault"] is False


def test_mps_says_where_its_daemons_are_and_whose_they_are():
    made = nvidia(shares("mps", 3))
    assert made.file["flags"]["mpsRoot"] == "/run/nvidia/mps" and list(made.file["sharing"]) == ["mps"]
    assert "not by those of this host" in made.notes[0]


def test_a_single_share_is_none():
    assert "sharing" not in nvidia(shares("replica", 1)).file and nvidia(shares("mps", 1)).resources == {"nvidia.com/gpu": 1}


def test_each_profile_may_have_a_number_of_its_own():
    big = mig(4, "3g.40gb")
    made = nvidia([mig(0), big._replace(taken=True), *shares("replica", 3, of=big.name)])
    assert made.file["sharing"]["timeSlicing"]["resources"] == [{"name": "nvidia.com/mig-3g.40gb", "replicas": 3}]
    assert made.resources == {"nvidia.com/mig-1g.10gb": 1, "nvidia.com/mig-3g.40gb.shared": 3}


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ([*shares("replica", 4), *shares("replica", 2, B)], f"for all of nvidia.com/gpu.*2 on {B}; 4 on {A}"),
        ([*shares("replica", 4), whole(B)], f"1 on {B}; 4 on {A}"),
        ([*shares("replica", 4), *shares("mps", 4, B)], "one kind of sharing for a node"),
        ([*shares("mps", 4), mig(0, gpu=B)], f"MPS is on {A}, and MIG on {B}"),
        ([mig(0), *shares("mps", 2, of=mig(0).name)], "does not share by MPS on a node that has MIG devices"),
    ],
)
def test_what_one_file_can_t_say_is_refused(slices, words):
    refused(slices, words)


def test_mps_beside_an_empty_gpu_in_mig_mode_is_refused():
    refused(shares("mps", 2), "and MIG on a GPU in MIG mode", empty=(B,))


def test_what_nobody_is_to_have_is_told_since_nothing_keeps_it_from_pods():
    made = nvidia([mig(0), mig(1)], held={mig(0).name: "quarantined: odd results"})
    barred = f"{mig(0).name} (quarantined: odd results)"
    assert made.notes == (f"No setting of the plugin keeps these from pods: {barred}. Cordon the node, or free them.",)
    assert made.resources == {"nvidia.com/gpu": 2}


def test_weights_and_vgpus_are_told():
    told = nvidia([*shares("replica", 2, weight=2), Slice(B, "vgpu", "nvidia-1", "u", name=f"{B}-nvidia-1-0")]).notes
    assert told == (
        f"Shares of {A} have weights, which the file can't say.",
        f"The plugin does not know vGPUs, and takes their GPUs for free: {B}. Keep it away.",
    )


def test_in_a_virtual_machine_a_vgpu_is_a_gpu():
    made = nvidia([Slice(A, "vgpu", "GRID A100-2-10C", "u", name=A)])
    assert made.resources == {"nvidia.com/gpu": 1} and not made.notes


# -- AMD, Intel ------------------------------------------------------------------------------------------------------------
def partitions(modes, count, gpu=A):
    return [Slice(gpu, "partition", modes, f"{gpu}/{n}", name=f"{gpu}-{n}") for n in range(count)]


def amd(slices, **more):
    return kubernetes.amd(node(slices, "amd", "amdgpu", "74a1", **more))


def test_amd_names_resources_by_modes_where_they_differ():
    made = amd([*partitions("CPX/NPS4", 8), *partitions("SPX/NPS1", 1, B)])
    assert made.arguments == ("-resource_naming_strategy=mixed",) and made.file is None
    assert made.resources == {"amd.com/cpx_nps4": 8, "amd.com/spx_nps1": 1} and "cpx_nps4, spx_nps1" in made.why
    alike = amd([*partitions("CPX/NPS1", 8), *partitions("CPX/NPS1", 8, B)])
    assert alike.arguments == ("-resource_naming_strategy=single",) and alike.resources == {"amd.com/gpu": 16}
    assert amd([whole(A)]).resources == {"amd.com/gpu": 1} and amd([]).resources == {}


def test_amd_is_told_what_gets_no_resource():
    third = "0000:99:00.0"
    function = Slice(A, "vf", "vf1", "x", name="x")
    told = amd([*partitions("CPX/NPS4", 8), *partitions("SPX/NPS1", 1, B), whole(third), function]).notes
    assert told == (
        f"GPUs without partition modes get no resource beside such as have them: {third}.",
        f"Pods do not get what is for virtual machines, on {A}.",
    )


def intel(slices, driver="xe", **more):
    return kubernetes.intel(node(slices, "intel", driver, "56c0", **more))


def function(number, nodes=("/dev/dri/renderD129",)):
    return Slice(A, "vf", f"vf{number}", f"0000:1b:00.{number}", device_nodes=nodes, name=f"0000:1b:00.{number}")


def test_intel_gives_out_functions_of_a_gpu_that_has_any():
    made = intel([function(1), function(2), function(3, ()), whole(B)])
    assert made.resources == {"gpu.intel.com/xe": 3} and made.arguments == ("-shared-dev-num=1",)
    assert made.notes == ("No driver of this host serves these virtual functions, so that pods get none of them: 0000:1b:00.3.",)
    assert intel([whole()], driver="i915").resources == {"gpu.intel.com/i915": 1}


def test_intel_has_one_number_of_shares():
    made = intel([*shares("replica", 3), *shares("replica", 3, B)])
    assert made.arguments == ("-shared-dev-num=3",) and made.resources == {"gpu.intel.com/xe": 6}
    assert made.why == "3 share each GPU"
    refused([*shares("replica", 3), whole(B)], f"3 on {A}, 1 on {B}", kubernetes.intel, vendor="intel", driver="xe")


def test_intel_is_denied_a_model_of_which_nothing_is_free():
    made = intel([whole(A), whole(B)], held={A: "quarantined: hot", B: "consumer web has it"})
    assert made.arguments == ("-shared-dev-num=1", "-deny-ids=0x56c0")
    [note] = made.notes
    assert "goes by model" in note and made.resources == {}
    one = intel([whole(A), whole(B)], held={A: "quarantined: hot"})
    assert one.arguments == ("-shared-dev-num=1",) and f"{A} (quarantined: hot)" in one.notes[0]


def test_a_plugin_is_plain_data():
    assert intel([whole()]).as_dict() == {
        "arguments": ["-shared-dev-num=1"], "file": None, "resources": {"gpu.intel.com/xe": 1},
        "why": "each container gets a GPU or a virtual function of its own", "notes": [],
    }  # fmt: skip
