"""
Detection by tools. The tools are small programs in a folder on PATH that print what the real ones print, so that starting
them, their exit status and their absence are real.
"""

import os
import shlex

import pytest

from gpuslice import errors
from gpuslice.inventory import detection
from gpuslice.inventory import discovery
from tests.unit.inventory.test_inventory import A100
from tests.unit.inventory.test_inventory import BMC
from tests.unit.inventory.test_inventory import FLEX
from tests.unit.inventory.test_inventory import MI300X
from tests.unit.inventory.test_inventory import TreeHost

LSPCI = r"""
0000:00:00.0 "Host bridge [0600]" "Intel Corporation [8086]" "Device [09a2]" -r04 -p00 "Intel Corporation [8086]" "Device [0000]"
0000:03:00.0 "VGA compatible controller [0300]" "ASPEED Technology, Inc. [1a03]" "ASPEED Graphics Family [2000]" -r41 -p00 "" ""
0000:07:00.0 "3D controller [0302]" "NVIDIA Corporation [10de]" "GA100 [A100 SXM4 40GB] [20b0]" -ra1 -p00 "NVIDIA Corporation [10de]" "Device [134f]"
0000:3c:00.0 "Display controller [0380]" "Intel Corporation [8086]" "Data Center GPU Flex 170 [56c0]" -r08 "" ""
0000:81:00.0 "Processing accelerators [1200]" "Advanced Micro Devices, Inc. [AMD/ATI] [1002]" "Aqua \"Vanjaram\" [Instinct MI300X] [74a1]" "" ""
0000:82:00.0 "Audio device [0403]" "NVIDIA Corporation [10de]" "Device [10f0]" -ra1 -p00 "" ""
"""  # noqa: E501 - as the program prints it

ROCM_SMI = '{"card0": {"PCI Bus": "0000:81:00.0"}, "card1": {"PCI Bus": "0000:C1:00.0"}, "system": {"Driver version": "6.7.0"}}'

AMD_SMI = """[
    {"gpu": 0, "bdf": "0000:81:00.0", "uuid": "abff74a1-0000-1000-80d1-3c23a9580558", "node_id": 1, "partition_id": 0},
    {"gpu": 1, "bdf": "0000:81:00.1", "uuid": "abff74a1-0000-1000-80d1-3c23a9580558", "node_id": 2, "partition_id": 1}
]"""

XPU_SMI = """{
    "device_list": [
        {
            "device_function_type": "physical",
            "device_id": 0,
            "device_name": "Intel(R) Data Center GPU Flex 170",
            "device_type": "GPU",
            "drm_device": "/dev/dri/card1",
            "pci_bdf_address": "0000:3c:00.0",
            "pci_device_id": "0x56c0",
            "uuid": "01000000-0000-004d-0000-000856c08086",
            "vendor_name": "Intel(R) Corporation"
        },
        {"device_function_type": "virtual", "device_id": 1, "device_type": "GPU", "pci_bdf_address": "0000:3c:00.1"}
    ]
}"""

INTEL_GPU_TOP = """card1                    Intel Meteorlake (Gen12)          pci:vendor=8086,device=7D55,card=0
└─renderD128

card0                    Intel Dg2 (Gen12)                 pci:vendor=8086,device=56C0,card=0
└─renderD129
"""

INTEL_GPU_TOP_SPLIT = """card0                    8086:56a0
pci:vendor=8086,device=56A0,card=0
└─renderD128
"""

INTEL_GPU_TOP_ADDRESSES = """card0    Intel Alderlake_n (Gen12)    pci:0000:00:02.0
└─renderD128
card1    Intel Dg2 (Gen12)    sys:/sys/devices/pci0000:3a/0000:3a:00.0/0000:3c:00.0/drm/card1
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Install a program that prints something: ``tools("name", text, status=0)``. PATH holds nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(name, out="", status=0, err=""):
        path = folder / name
        path.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(out)}\nprintf %s {shlex.quote(err)} >&2\nexit {status}\n")
        path.chmod(0o755)

    return install


@pytest.fixture
def host(tmp_path):
    """A machine without anything."""
    return TreeHost(tmp_path / "root")


def test_lspci_tells_gpus_by_class_and_vendor(host, tools):
    tools("lspci", LSPCI)
    assert detection.detect(host, "lspci") == ["0000:07:00.0", "0000:3c:00.0", "0000:81:00.0"]


def test_udev_filters_by_class_and_vendor(tmp_path):
    host = TreeHost(tmp_path, [
        {"SYSNAME": "0000:07:00.0", "PCI_CLASS": "30200", "PCI_ID": "10DE:20B0"},
        {"SYSNAME": "0000:03:00.0", "PCI_CLASS": "30000", "PCI_ID": "1A03:2000"},
        {"SYSNAME": "0000:81:00.0", "PCI_CLASS": "120000", "PCI_ID": "1002:74A1"},
    ])  # fmt: skip
    assert detection.detect(host) == ["0000:07:00.0", "0000:81:00.0"]


def test_without_udev_sysfs_answers(host):
    host.device("0000:07:00.0", A100, vfs=2, total=16)
    host.device("0000:03:00.0", BMC)
    host.put("/sys/bus/pci/devices/0000:09:00.0/irq", "0")
    assert detection.detect(host) == ["0000:07:00.0"]


def test_nvidia_smi_prints_domains_of_eight_digits(host, tools):
    tools("nvidia-smi", "00000000:07:00.0\n00000000:C7:00.0\n00010000:01:00.0\n")
    assert detection.detect(host, "nvidia-smi") == ["0000:07:00.0", "0000:c7:00.0", "10000:01:00.0"]


def test_nvidia_smi_without_gpu_is_an_answer(host, tools):
    tools("nvidia-smi", "No devices were found\n", status=6)
    assert detection.detect(host, "nvidia-smi") == []


@pytest.mark.parametrize(
    ("out", "status"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that it is running.\n", 9),
        ("Unable to determine the device handle for GPU 0000:07:00.0: GPU is lost.  Reboot the system to recover this GPU\n", 15),
    ],
)
def test_a_failing_nvidia_smi_is_shown_in_its_own_words(host, tools, out, status):
    tools("nvidia-smi", out, status=status)
    with pytest.raises(errors.ToolFailed) as caught:
        detection.detect(host, "nvidia-smi")
    assert out.strip() in str(caught.value) and f"status {status}" in str(caught.value) and "udev" in str(caught.value)


def test_rocm_smi(host, tools):
    host.device("0000:81:00.0", MI300X)
    tools("rocm-smi", "\nWARNING: AMD GPU device(s) is/are in a low-power state.\n" + ROCM_SMI)
    assert detection.detect(host, "rocm-smi") == ["0000:81:00.0", "0000:c1:00.0"]


@pytest.mark.parametrize("out", ["WARNING: No JSON data to report\n", "", "[]"])
def test_rocm_smi_without_gpu_is_an_answer(host, tools, out):
    tools("rocm-smi", out)
    assert detection.detect(host, "rocm-smi") == []


@pytest.mark.parametrize("out", [AMD_SMI, f'{{"gpu_data": {AMD_SMI}}}'])
def test_amd_smi_steps_in_and_its_partitions_are_one_gpu(host, tools, out):
    host.device("0000:81:00.0", MI300X)
    tools("amd-smi", out)
    assert detection.detect(host, "rocm-smi") == ["0000:81:00.0"]


def test_xpu_smi_tells_physical_functions(host, tools):
    tools("xpu-smi", XPU_SMI)
    assert detection.detect(host, "intel-gpu-tools") == ["0000:3c:00.0"]


def test_xpu_smi_without_gpu_is_an_answer(host, tools):
    tools("xpu-smi", '{"error": "No device discovered", "errno": 1}', status=1)
    assert detection.detect(host, "intel-gpu-tools") == []


def test_an_error_of_xpu_smi_is_shown_in_its_own_words(host, tools):
    tools("xpu-smi", '{"error": "Level Zero Initialization Error", "errno": 2}')
    with pytest.raises(errors.ToolFailed, match="Level Zero Initialization Error"):
        detection.detect(host, "intel-gpu-tools")


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (INTEL_GPU_TOP, ["0000:00:02.0", "0000:3c:00.0"]),
        (INTEL_GPU_TOP_SPLIT, ["0000:3c:00.0"]),
        (INTEL_GPU_TOP_ADDRESSES, ["0000:00:02.0", "0000:3c:00.0"]),
        ("", []),
    ],
)
def test_intel_gpu_top_steps_in_and_the_kernel_knows_its_nodes(host, tools, out, found):
    # The number behind "card=" counts among cards of one id; the node in front is what the kernel knows.
    host.link("/sys/class/drm/card0/device", "../../../0000:3c:00.0")
    host.link("/sys/class/drm/card1/device", "../../../0000:00:02.0")
    tools("intel_gpu_top", out)
    assert detection.detect(host, "intel-gpu-tools") == found


@pytest.mark.parametrize(
    ("method", "words"),
    [("lspci", "lspci"), ("nvidia-smi", "nvidia-smi"), ("rocm-smi", "rocm-smi"), ("intel-gpu-tools", "intel_gpu_top")],
)
def test_a_missing_tool_is_named_with_what_to_choose_instead(host, tools, method, words):
    with pytest.raises(errors.ToolMissing) as caught:
        detection.detect(host, method)
    assert words in str(caught.value) and "vendor_detection: udev" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "tool"),
    [("lspci", "lspci"), ("nvidia-smi", "nvidia-smi"), ("rocm-smi", "rocm-smi"), ("rocm-smi", "amd-smi"),
     ("intel-gpu-tools", "xpu-smi"), ("intel-gpu-tools", "intel_gpu_top")],
)  # fmt: skip
@pytest.mark.parametrize(
    "out",
    ["card0 pci:rubbish \"", '{"card0": {}, "device_list": [{}]}', "[1]", '{"device_list": [1]}', '{"card0": {"PCI Bus": "x"}}'],
)
def test_rubbish_never_leaves_as_a_traceback(host, tools, method, tool, out):
    tools(tool, out)
    try:
        found = detection.detect(host, method)
    except errors.ToolFailed as err:
        assert tool in str(err) and "udev" in str(err)
    else:
        assert found == []


def test_a_tool_that_is_not_executable_is_a_failure_with_a_sentence(host, tools, tmp_path):
    tools("lspci", LSPCI)
    os.chmod(tmp_path / "bin" / "lspci", 0o644)
    with pytest.raises(errors.GpuSliceError, match="lspci"):
        detection.detect(host, "lspci")


def test_an_unknown_method_is_a_mistake_of_the_policy(host):
    with pytest.raises(errors.PolicyError, match="nvidia-smi"):
        detection.detect(host, "hwinfo")


def test_discovery_keeps_what_the_tool_confirms_and_reports_the_rest(host, tools):
    host.device("0000:07:00.0", A100, driver="nvidia")
    host.device("0000:08:00.0", A100, driver="nvidia")
    host.device("0000:3c:00.0", FLEX, vfs=1, total=31)
    tools("nvidia-smi", "00000000:07:00.0\n00000000:99:00.0\n00000000:3C:00.1\n")
    gpus, problems = discovery.discover_with_errors(host, "nvidia-smi")
    assert [gpu.address for gpu in gpus] == ["0000:07:00.0"]
    assert [problem.split(": ")[0] for problem in problems] == ["GPU 0000:08:00.0", "GPU 0000:3c:00.0", "GPU 0000:99:00.0"]
    assert discovery.confirmed(host, discovery.discover(host), "nvidia-smi") == gpus
    assert len(discovery.confirmed(host, discovery.discover(host), "udev")) == 3
