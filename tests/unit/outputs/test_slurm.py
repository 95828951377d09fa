"""What Slurm is told of slices: types, files, counts, and what is left out."""

from gpuslice.model import Slice
from gpuslice.outputs import slurm

A, B = "0000:1b:00.0", "0000:43:00.0"
H100, A100, MI300X = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "AMD Instinct MI300X"


def mig(number, profile="1g.10gb", gpu=A, minor=0, memory=9728):
    caps = [f"/dev/nvidia-caps/nvidia-cap{9 * number + more}" for more in (3, 4)]
    nodes = (f"/dev/nvidia{minor}", *caps)
    return Slice(gpu, "mig", profile, f"MIG-{number}", memory, 0.14, device_nodes=nodes, name=f"{gpu}-{profile}-{number}")


def whole(gpu=A, node="/dev/nvidia0", model=H100):
    return Slice(gpu, "gpu", model, "GPU-1", 81559, 1.0, device_nodes=(node,), name=gpu)


def shares(kind, count, of=A, node="/dev/nvidia0"):
    return [Slice(A, kind, "", f"GPU-1::{n}", device_nodes=(node,), name=f"{of}-{kind}-{n}", of=of) for n in range(1, count + 1)]


def made(slices, model=H100, held=None, autodetect=False):
    return slurm.sheet(slices, {A: model, B: model}, held or {}, autodetect)


def told(slices, **more):
    sheet = made(slices, **more)
    return slurm.lines(sheet, "n1"), slurm.value(sheet)


def test_a_mig_device_has_the_nodes_that_open_it_and_the_type_that_slurm_finds():
    lines, value = told([mig(1), mig(2)])
    assert lines == [
        "NodeName=n1 Name=gpu Type=nvidia_h100_80gb_hbm3_1g.10gb "
        "MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap12,/dev/nvidia-caps/nvidia-cap13",
        "NodeName=n1 Name=gpu Type=nvidia_h100_80gb_hbm3_1g.10gb "
        "MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap21,/dev/nvidia-caps/nvidia-cap22",
    ]
    assert value == "gpu:nvidia_h100_80gb_hbm3_1g.10gb:2"


def test_the_name_of_a_gpu_is_cut_at_its_first_dash_for_a_mig_device_and_not_for_the_whole():
    assert told([mig(1, "3g.20gb")], model=A100)[1] == "gpu:nvidia_a100_3g.20gb:1"
    assert told([whole()], model=A100) == (["NodeName=n1 Name=gpu Type=nvidia_a100-sxm4-40gb File=/dev/nvidia0"],
                                           "gpu:nvidia_a100-sxm4-40gb:1")  # fmt: skip


def test_whole_and_cut_gpus_stand_beside_each_other():
    lines, value = told([mig(1), mig(2, "3g.40gb"), whole(B, "/dev/nvidia1")])
    assert len(lines) == 3 and lines[-1].endswith("Type=nvidia_h100_80gb_hbm3 File=/dev/nvidia1")
    assert value == "gpu:nvidia_h100_80gb_hbm3_1g.10gb:1,gpu:nvidia_h100_80gb_hbm3_3g.40gb:1,gpu:nvidia_h100_80gb_hbm3:1"


def test_with_autodetect_slurm_finds_them_itself_and_names_them_by_gpu_instance():
    split = [mig(1, "1c.3g.40gb", memory=40448), mig(2, "1g.10gb+me"), whole(B, "/dev/nvidia1")]
    sheet = made(split, autodetect=True)
    assert slurm.lines(sheet, "n1", autodetect=True) == ["NodeName=n1 AutoDetect=nvml"]
    assert slurm.value(sheet).startswith("gpu:nvidia_h100_80gb_hbm3_3g.40gb:1,gpu:nvidia_h100_80gb_hbm3_1g.10gb:1,")
    by_hand = slurm.value(made(split))
    assert "hbm3_1c.3g.40gb:1" in by_hand and "hbm3_1g.10gb_me:1" in by_hand


def test_autodetect_is_nvml_alone_and_amd_is_written_beside_it():
    sheet = slurm.sheet([mig(1), whole(B, "/dev/dri/renderD129")], {A: H100, B: MI300X}, {}, True)
    assert slurm.lines(sheet, "n1", True) == [
        "NodeName=n1 AutoDetect=nvml", "NodeName=n1 Name=gpu Type=amd_instinct_mi300x File=/dev/dri/renderD129",
    ]  # fmt: skip


def test_a_partition_of_amd_is_its_render_node_and_the_common_one_is_left_open():
    nodes = [("/dev/kfd", f"/dev/dri/renderD{number}") for number in (128, 129)]
    parts = [Slice(A, "partition", "CPX/NPS4", f"{A}/{n}", 24576, 0.125, device_nodes=nodes[n], name=f"{A}-{n}") for n in (0, 1)]
    lines, value = told(parts, model=MI300X)
    assert lines[1] == "NodeName=n1 Name=gpu Type=amd_instinct_mi300x_cpx_nps4 File=/dev/dri/renderD129"
    assert value == "gpu:amd_instinct_mi300x_cpx_nps4:2"


def test_those_who_share_a_gpu_are_counted():
    assert told(shares("replica", 4)) == (
        ["NodeName=n1 Name=gpu Type=nvidia_h100_80gb_hbm3 File=/dev/nvidia0", "NodeName=n1 Name=shard Count=4 File=/dev/nvidia0"],
        "gpu:nvidia_h100_80gb_hbm3:1,shard:4",
    )
    sheet = made(shares("mps", 3))
    assert slurm.value(sheet).endswith(",mps:3") and slurm.types(sheet) == ["gpu", "mps"]


def test_shares_beside_mig_devices_are_left_out_since_slurm_would_count_each_file():
    sheet = made([mig(1, gpu=B, minor=1), *shares("replica", 2)])
    assert slurm.types(sheet) == ["gpu"] and set(sheet.left) == {f"{A}-replica-1", f"{A}-replica-2"}
    assert "Slurm counts each file of a MIG device as a GPU" in sheet.left[f"{A}-replica-1"]


def test_of_a_gpu_that_somebody_else_shares_slurm_gets_nothing():
    """Slurm wants the GPU itself beside its shares, and would give it to one job as a whole."""
    sheet = made(shares("replica", 3), held={f"{A}-replica-2": "consumer web has it"})
    assert not sheet.gres and set(sheet.left) == {f"{A}-replica-{number}" for number in (1, 2, 3)}
    assert "which Slurm would give to a job as a whole" in sheet.left[f"{A}-replica-1"]


def test_what_is_held_back_is_a_comment_and_counts_for_nothing():
    sheet = made([mig(1), mig(2)], held={f"{A}-1g.10gb-1": "quarantined: odd results \\"})
    text = slurm.text(sheet, "n1")
    assert slurm.value(sheet) == "gpu:nvidia_h100_80gb_hbm3_1g.10gb:1"
    assert text.splitlines()[:3] == [
        slurm.MARK, "# slurm.conf: NodeName=n1 Gres=gpu:nvidia_h100_80gb_hbm3_1g.10gb:1",
        f"# Left out: {A}-1g.10gb-1: quarantined: odd results /",
    ]  # fmt: skip
    assert "nvidia-cap12" not in text and "nvidia-cap21" in text


def test_what_no_program_opens_is_left_out():
    function = Slice(A, "vf", "vf1", "0000:1b:00.4", device_nodes=("/dev/vfio/9",), name="0000:1b:00.4")
    environment = Slice(A, "environment", "tile", "x", name=f"{A}-tile-0")
    sheet = made([function, environment])
    assert not sheet.gres and sheet.left == {
        "0000:1b:00.4": "it is for virtual machines", f"{A}-tile-0": "it has no device node of its own",
    }  # fmt: skip
    assert slurm.text(sheet, "n1").splitlines()[1] == "# n1 has nothing for Slurm." and slurm.value(sheet) == ""


def test_a_hostile_name_makes_no_second_field():
    assert told([whole()], model="NVIDIA X (a:b),c Count=9\n")[1] == "gpu:nvidia_x_a_b_c_count_9:1"


def test_counts_are_read_of_what_slurm_prints():
    assert slurm.counts("gpu:a:1,gpu:b:2(S:0,1),shard:4(S:0),gpu") == {"gpu": 4, "shard": 4}
    assert slurm.counts("") == slurm.counts("(null)") == slurm.counts("gpu:a:9999999999999,:") == {}
