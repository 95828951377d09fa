"""What lines of the kernel's log tell, in all their forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.host.kernel_log import Line
from gpuslice.watch import lines

GPU = "0000:1b:00.0"


def told(*texts):
    return lines.events([Line(number, number, text) for number, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("NVRM: Xid (PCI:0000:1b:00): 13, pid=1234, name=python3, Graphics SM Warp Exception", ("xid-13", None, None, 1234)),
        ("NVRM: Xid (PCI:0000:1b:00): 13, pid='<unknown>', name=<unknown>, Graphics Exception", ("xid-13", None, None, None)),
        ("NVRM: Xid (PCI:0000:1b:00): 63, Row Remapper: New row marked for remapping", ("xid-63", None, None, None)),
        ("NVRM: Xid (PCI:0000:1b:00 GPU-I:05): 94, pid=7, name=x, Contained", ("xid-94", 5, None, 7)),
        ("NVRM: Xid (PCI:0000:1b:00 GPU-I:05 GPU-CI:00): 94, pid=7, name=x, Contained", ("xid-94", 5, 0, 7)),
        ("NVRM: Xid (PCI:0000:1b:00 GPU-I:13 GPU-CI:07): 31, pid=7, name=a, (b): 79, c, Fault", ("xid-31", 13, 7, 7)),
        ("NVRM: Xid (0000:1b:00): 14, 0000000b 00000000", ("xid-14", None, None, None)),
        ("NVRM: Xid (PCI:00000000:1B:00): 79, pid=1, GPU has fallen off the bus.", ("xid-79", None, None, 1)),
        ("NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus.", ("xid-79", None, None, None)),
        ("NVRM: Xid (PCI:0000:1b:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6)", ("xid-149", None, None, None)),
        ("NVRM: Xid (PCI:0000:1b:00): 95, pid=3, name=x, Uncontained: LTC. RST: Yes, D-RST: No", ("xid-95", None, None, 3)),
    ],
)
def test_an_xid_in_each_of_its_forms(text, wanted):
    [event] = told(text)
    assert event.gpu == GPU and (event.code, event.gi, event.ci, event.pid) == wanted


def test_a_gpu_that_answers_no_more_is_told_of_in_several_lines_or_in_one():
    several = ["NVRM: The NVIDIA GPU 0000:18:00.0", "NVRM: (PCI ID: 10de:2330) installed in this system has",
               "NVRM: fallen off the bus and is not responding to commands."]  # fmt: skip
    assert [(one.gpu, one.code) for one in told(*several)] == [("0000:18:00.0", "xid-79")]
    assert [(one.gpu, one.code) for one in told(r"\x0a".join(several))] == [("0000:18:00.0", "xid-79")]
    # Of nobody knows whom.
    assert told(several[2]) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("0x0 (None) to 0x1 (GPU Reset Required)", "nvidia-recovery-action-reset"),
        ("0x0 (None) to 0x2 (Node Reboot Required)", "nvidia-recovery-action-reboot"),
        ("0x0 (None) to 0x3 (Drain P2P)", "nvidia-recovery-action-drain-p2p"),
        ("0x1 (GPU Reset Required) to 0x4 (Drain and Reset)", "nvidia-recovery-action-drain-and-reset"),
        ("0x0 (None) to 0x5 (Recover IMEX Domain)", "nvidia-recovery-action-recover-imex"),
        ("0x0 (None) to 0x9 (Something New)", "nvidia-recovery-action-other"),
        ("0x1 (GPU Reset Required) to 0x0 (None)", lines.ALL_CLEAR),
    ],
)
def test_what_the_driver_asks_for_and_that_it_asks_for_nothing(change, code):
    [event] = told(f"NVRM: Xid (PCI:0000:1b:00): 154, GPU recovery action changed from {change}")
    assert (event.gpu, event.code) == (GPU, code)


@pytest.mark.parametrize(
    ("text", "gpu", "code"),
    [
        ("nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted", "", "nvswitch"),
        ("nvidia-nvswitch3: SXid (PCI:0000:c5:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", "", "nvswitch-fatal"),
        ("amdgpu 0000:c3:00.0: amdgpu: 2 uncorrectable hardware errors detected in umc block",
         "0000:c3:00.0", "amd-uncorrectable-ras"),
        ("amdgpu 0000:c3:00.0: amdgpu: {7} socket: 0, die: 1, 3 new uncorrectable hardware errors detected in gfx block",
         "0000:c3:00.0", "amd-uncorrectable-ras"),
        ("amdgpu 0000:c3:00.0: amdgpu: GPU reset(2) succeeded!", "0000:c3:00.0", lines.RESET),
        ("xe 0000:0c:00.0: [drm] device wedged, needs recovery", "0000:0c:00.0", "drm-wedged"),
        ("amdgpu 0000:0c:00.0: [drm] device wedged, but recovered through reset", "0000:0c:00.0", "drm-hung"),
        ("xe 0000:0c:00.0: [drm] *ERROR* CRITICAL: Xe has declared device 0000:0c:00.0 as wedged.",
         "0000:0c:00.0", "drm-wedged"),
        ("xe 0000:0c:00.0: [drm] *ERROR* [Hardware Error]: HEC FW Bist FATAL reported, bit[1] is set",
         "0000:0c:00.0", "intel-firmware"),
        ("xe 0000:0c:00.0: [drm] *ERROR* [Hardware Error]: TILE0 reported GT FATAL, bit[0] is set",
         "0000:0c:00.0", "intel-hardware"),
    ],
)  # fmt: skip
def test_what_others_than_nvidias_gpus_tell(text, gpu, code):
    assert [(one.gpu, one.code) for one in told(text)] == [(gpu, code)]


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: GPU at PCI:0000:00:05: GPU-8f6b9c3e-1111-2222-3333-444455556666",
        "NVRM: GPU Board Serial Number: 1234567890",
        "NVRM: Xid (PCI:0000:1b:00): ",
        "NVRM: Xid (PCI:0000:1b:00): words, pid=1",
        "NVRM: Xid (PCI:0000:1b:00): 99999999999, pid=1",
        "my program prints NVRM: Xid (PCI:0000:1b:00): 79, pid=1",
        "amdgpu 0000:c3:00.0: amdgpu: no uncorrectable hardware errors detected in umc block",
        "amdgpu 0000:c3:00.0: amdgpu: 0 uncorrectable hardware errors detected in umc block",
        "amdgpu 0000:c3:00.0: amdgpu: {7} socket: 0, die: 1, 3 uncorrectable hardware errors detected in total in gfx block",
        "xe 0000:0c:00.0: [drm] *ERROR* [Hardware Error]: TILE0 reported GT CORRECTABLE, bit[0] is set",
        "mce: [Hardware Error]: Machine check events logged",
        "",
    ],
)
def test_what_tells_nothing(text):
    assert told(text) == []


def test_a_burst_is_told_in_its_order():
    found = told("NVRM: Xid (PCI:0000:1b:00): 48, x", "NVRM: Xid (PCI:0000:1b:00): 63, y", "NVRM: Xid (PCI:0000:43:00): 48, z")
    assert [(one.gpu, one.xid) for one in found] == [(GPU, 48), (GPU, 63), ("0000:43:00.0", 48)]


BEGINNINGS = ["NVRM: Xid (", "NVRM: Xid (PCI:0000:1b:00", "nvidia-nvswitch0: SXid (PCI:", "amdgpu 0000:c3:00.0: ", "xe ", ""]


@given(st.text(), st.sampled_from(BEGINNINGS))
def test_no_line_breaks_it(text, beginning):
    told(beginning + text)
