"""What is found on a GPU, by vendor and driver, and what of it refuses a change."""

import pathlib
import re

import pytest

from gpuslice.drivers.sessions import Sessions
from gpuslice.engine import Engine
from gpuslice.health import board
from gpuslice.health.finding import SEVERITY
from gpuslice.inventory import discovery
from gpuslice.sim.host import SimulatedHost

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
GPU = "0000:1b:00.0"
T4 = {"model": "t4", "address": GPU}
A100 = {"model": "a100-40gb", "address": GPU}
MI210 = {"vendor": "amd", "device": "740f", "address": GPU}
MI300X = {"vendor": "amd", "device": "74a1", "address": GPU}
FLEX = {"vendor": "intel", "device": "56c0", "address": GPU}
KINDS = (T4, A100, MI210, MI300X, FLEX)


def engine(host):
    """An engine on a simulated host."""
    return Engine({"simulate": host.description_path, "state_dir": host.state_dir})


def asked(host):
    """Findings on the GPUs of a host."""
    return [finding for gpu in discovery.discover(host) for finding in board.Reading(host, Sessions(host), gpu).findings()]


def codes(host):
    """Their codes."""
    return [finding.code for finding in asked(host)]


@pytest.fixture
def one(simulated):
    """``one(MI210, files={...})`` is a host with this GPU, and these files in its PCI directory."""
    return lambda gpu, files=None, **keys: simulated("dgx-h100", gpus=[{**gpu, "sysfs": files or {}, **keys}])


# -- what can't be sliced ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ({**T4, "health": {"ecc_uncorrected": 3}}, "3 uncorrected ECC errors since the driver was loaded"),
        ({**T4, "health": {"page_retirement_pending": True}}, "memory pages wait for a reboot to be taken out of use"),
        ({**MI210, "sysfs": {"ras/umc_err_count": "ue: 2\nce: 0"}}, "2 uncorrected errors in umc since the driver was loaded"),
    ],
    ids=["T4 with ECC errors", "T4 with pages", "MI210 with RAS errors"],
)
def test_a_gpu_that_can_not_be_sliced_has_a_health_all_the_same(simulated, gpu, words):
    host = simulated("dgx-h100", gpus=[gpu])
    with engine(host) as here:
        assert not {"mig", "partition", "sriov", "vgpu"}.intersection(here.gpus[0].capabilities)
        assert here.health() == here.health(GPU) == {GPU: [words]}
        [found] = here.findings()
    assert (found["gpu"], found["words"]) == (GPU, words) and found["todo"].endswith(".")


def test_a_well_gpu_has_no_findings_whatever_it_is(simulated):
    gpus = [{**gpu, "address": f"0000:{bus}:00.0"} for bus, gpu in zip("c1 c2 c3 c4 c5".split(), KINDS, strict=True)]
    with engine(simulated("dgx-h100", gpus=gpus)) as here:
        assert here.findings() == [] and here.health() == {gpu["address"]: [] for gpu in gpus}


# -- NVIDIA --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("health", "code", "words"),
    [
        ({"row_remap_pending": True}, "nvidia-row-remap-pending", "a memory row remapping waits for a GPU reset"),
        ({"row_remap_failed": True}, "nvidia-row-remap-failed", "a memory row could not be remapped: the board must be replaced"),
        ({"recovery_action": "gpu_reset"}, "nvidia-recovery-action-reset", "the driver asks for a GPU reset"),
        ({"recovery_action": "node_reboot"}, "nvidia-recovery-action-reboot", "the driver asks for a reboot"),
        ({"recovery_action": "drain_p2p"}, "nvidia-recovery-action-drain-p2p", "the driver asks to drain peer-to-peer traffic"),
        (
            {"recovery_action": "drain_and_reset"},
            "nvidia-recovery-action-drain-and-reset",
            "the driver asks to drain and reset the GPU",
        ),
    ],
)
def test_what_nvml_tells_refuses_a_change(one, health, code, words):
    host = one(A100, health=health)
    [found] = asked(host)
    assert (found.code, found.severity, found.sentence) == (code, "critical", words)
    with engine(host) as here:
        assert here.health() == {GPU: [words]}
        [(gpu, why)] = here.plan(mig()).blocked
    assert gpu == GPU and f"the GPU is not healthy: {words}." in why


UNREADY = "nvidia-fabric-not-ready"


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("none", None), ("completed", None), ("in_progress", UNREADY), ("not_started", UNREADY), ("failed", UNREADY),
        ("unhealthy", "nvidia-fabric-degraded"), ("limited", "nvidia-fabric-degraded"),
    ],
)  # fmt: skip
def test_how_it_stands_in_the_fabric(one, word, code):
    assert [each.code for each in asked(one(A100, health={"fabric": word}))] == ([code] if code else [])
    # With MIG it is in none, and that is no fault.
    assert {each.severity for each in asked(one(A100, health={"fabric": word}, mig="enabled"))} == {"info"}


@pytest.mark.parametrize(("level", "found"), [("r535", []), ("r545", [UNREADY]), ("r550", [UNREADY])])
def test_the_fabric_of_older_drivers(simulated, level, found):
    host = simulated("dgx-h100", nvml_level=level, gpus=[{**A100, "health": {"fabric": "in_progress"}}])
    assert [each.code for each in asked(host)] == found


def test_an_error_that_the_driver_has_dealt_with_is_told_and_refuses_nothing(one):
    """Rows that are remapped for it, and what the driver asks for, are findings of their own."""
    host = one(A100, health={"ecc_uncorrected": 1})
    words = "1 uncorrected ECC errors since the driver was loaded"
    [found] = asked(host)
    assert (found.code, found.severity, found.sentence) == ("nvidia-uncorrectable-ecc", "warning", words)
    with engine(host) as here:
        assert here.health() == {GPU: [words]} and here.plan(mig()).blocked == ()
        assert here.apply(mig()).ok


def mig():
    """A pillar that wants a MIG layout."""
    return {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.20gb", "1g.5gb"]}}}


@pytest.mark.parametrize("health", [{}, {"row_remap_failed": True, "ecc_uncorrected": 2}], ids=["well", "sick"])
def test_what_can_not_be_read_while_instances_exist_is_neither_well_nor_ill(one, health):
    """NVML answers NOT_SUPPORTED for both then, which is not the same as no fault."""
    host = one(A100, mig="enabled", instances=["3g.20gb@0"], health=health)
    found = asked(host)
    assert [each.code for each in found] == ["nvidia-row-remap-unknown", "nvidia-ecc-unknown"]
    assert {each.severity for each in found} == {"info"}
    assert "can't be read while GPU instances exist" in found[0].words
    with engine(host) as here:
        assert here.health() == {GPU: []} and len(here.findings()) == 2
        assert here.apply(mig()).ok


def test_without_instances_rows_are_read_though_mig_is_on(one):
    host = one(A100, mig="enabled", health={"row_remap_pending": True})
    assert codes(host) == ["nvidia-row-remap-pending", "nvidia-ecc-unknown"]


def test_the_reset_that_a_pending_mode_owes_is_no_illness(simulated):
    host = simulated("dgx-h100", gpus=[{**A100, "health": {"recovery_action": "gpu_reset"}}], reset="tool")
    lib = host.nvml()
    lib.nvmlInit()
    lib.nvmlDeviceSetMigMode(lib.nvmlDeviceGetHandleByPciBusId(GPU), 1)
    lib.nvmlShutdown()
    assert codes(host) == []


def test_a_lost_gpu_says_what_it_said_and_what_to_do(one):
    host = one(A100, health={"lost": True})
    [found] = asked(host)
    assert (found.code, found.severity) == ("nvidia-gpu-lost", "critical") and "fallen off the bus" in found.words
    with engine(host) as here:
        [[sentence]] = here.health().values()
    assert sentence == f"{found.words} {found.todo}" and sentence.startswith(f"GPU {GPU}: ") and "power-cycle" in sentence


@pytest.mark.parametrize(
    ("fault", "code", "severity"),
    [
        ({"call": "nvmlInit", "error": "NVML_ERROR_LIB_RM_VERSION_MISMATCH"}, "nvidia-driver-mismatch", "warning"),
        ({"call": "nvmlInit", "error": "NVML_ERROR_UNKNOWN"}, "nvidia-not-asked", "warning"),
        ({"call": "nvmlDeviceGetRemappedRows", "error": "NVML_ERROR_UNKNOWN"}, "nvidia-health-unreadable", "critical"),
        ({"call": "nvmlDeviceGetRemappedRows", "error": "NVML_ERROR_GPU_IS_LOST"}, "nvidia-gpu-lost", "critical"),
        ({"call": "nvmlDeviceGetHandleByPciBusId", "error": "NVML_ERROR_NOT_FOUND"}, "nvidia-gpu-lost", "critical"),
    ],
)
def test_that_there_is_no_answer_is_a_finding(one, fault, code, severity):
    host = one(A100)
    host.add_fault({**fault, "times": 0})
    [found] = asked(host)
    assert (found.code, found.severity) == (code, severity)


def test_a_driver_that_hangs_is_found_out(simulated):
    host = simulated("dgx-h100", gpus=[A100], patience=0.002)
    host.add_fault({"call": "nvmlDeviceGetTotalEccErrors", "hang": 3})
    [found] = asked(host)
    assert (found.code, found.severity) == ("nvidia-driver-hangs", "critical")


# -- AMD -----------------------------------------------------------------------------------------------------------------
PAGES = "0x00000000 : 0x00001000 : R\n0x00000010 : 0x00001000 : P\n0x00000020 : 0x00001000 : F\n0x00000030 : 0x00001000 : R"


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"ras/gfx_err_count": "ue: 1\nce: 0", "ras/umc_err_count": "ue: 0\nce: 7"}, ["amd-uncorrectable-ras"]),
        ({"ras/umc_err_count": "Query currently inaccessible"}, ["amd-ras-unknown"]),
        ({"ras/umc_err_count": "ue: 0\nce: 1\nde: 4"}, []),
        ({"ras/gpu_vram_bad_pages": PAGES}, ["amd-bad-pages-pending", "amd-bad-pages-unreservable", "amd-bad-pages"]),
        ({"ras/gpu_vram_bad_pages": ""}, []),
    ],
)
def test_what_amdgpus_files_tell(one, files, wanted):
    assert codes(one(MI300X, files)) == wanted


def test_bad_pages_are_counted(one):
    *_, remark = asked(one(MI210, {"ras/gpu_vram_bad_pages": PAGES}))
    assert remark.words == "2 bad memory pages taken out of use"


class Reading(SimulatedHost):
    """A simulated host that notes which files are read."""

    def __init__(self, *args):
        self.seen = []
        super().__init__(*args)

    def read(self, path):
        self.seen.append(path)
        return super().read(path)


def test_a_counter_that_reading_clears_is_never_read(one):
    host = one(MI300X, {"xgmi_error": "0", "ras/umc_err_count": "ue: 0"})
    watched = Reading(host.description_path, host.state_dir)
    assert codes(watched) == []
    assert any("umc_err_count" in path for path in watched.seen) and not any("xgmi_error" in path for path in watched.seen)


# -- Intel, and any vendor -------------------------------------------------------------------------------------------------
def test_a_card_that_waits_for_its_firmware_is_ill(one):
    [found] = asked(one(FLEX, {"survivability_mode": "1"}))
    assert (found.code, found.severity) == ("intel-survivability-mode", "critical")


AER = "Undefined 0\nData Link Protocol {0}\nTOTAL_ERR_{1} {0}"


@pytest.mark.parametrize(
    ("gpu", "files", "wanted"),
    [
        (A100, {"aer_dev_fatal": AER.format(2, "FATAL"), "aer_dev_nonfatal": AER.format(0, "NONFATAL")}, ["pci-aer-fatal"]),
        (MI300X, {"aer_dev_nonfatal": AER.format(1, "NONFATAL")}, ["pci-aer-nonfatal"]),
        (T4, {"current_link_width": "8", "max_link_width": "16"}, ["pci-link-degraded"]),
        (T4, {"current_link_width": "16", "max_link_width": "16"}, []),
        (FLEX, {"current_link_width": "1", "max_link_width": "16"}, []),
        (MI300X, {"current_link_width": "63", "max_link_width": "63"}, ["pci-gone"]),
        (MI300X, {"current_link_width": "63", "max_link_width": "16", "power/runtime_status": "suspended"}, []),
    ],
)
def test_what_the_way_to_a_gpu_tells(one, gpu, files, wanted):
    assert codes(one(gpu, files)) == wanted


@pytest.mark.parametrize("odd", ["-1", "-99999999999999999999", "99999999999999999999", "x16", ""])
def test_a_number_that_is_none_of_anything_is_not_kept(one, odd):
    host = one(A100, {"current_link_width": odd, "aer_dev_fatal": AER.format(odd, "FATAL")})
    for _ in range(2):
        with engine(host) as here:
            assert here.statuses()[GPU]["status"] == "ok"
        host.let_pass(60)


def test_traces_on_the_bus_are_told_and_refuse_nothing(one):
    host = one(A100, {"aer_dev_fatal": AER.format(2, "FATAL"), "current_link_width": "8", "max_link_width": "16"})
    with engine(host) as here:
        assert here.health() == {GPU: ["2 fatal PCIe errors since the device was found"]}
        assert here.apply(mig()).ok


# -- given away ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gpu", [A100, {**MI300X, "sysfs": {"ras/umc_err_count": "ue: 1"}}], ids=["nvidia", "amd"])
def test_under_a_vfio_driver_nobody_of_the_vendor_is_asked(simulated, gpu):
    host = simulated("dgx-h100", gpus=[{**gpu, "driver": "vfio-pci"}])
    host.add_fault({"call": "nvmlInit", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    assert codes(host) == []
    assert host.nvml().calls["nvmlInit"] == 0


def test_that_nvml_can_not_be_asked_keeps_nobody_from_handing_a_gpu_over(simulated):
    host = simulated("dgx-h100", gpus=[A100], iommu=True, modules={"vfio_pci": 0})
    host.add_fault({"call": "nvmlInit", "error": "NVML_ERROR_LIBRARY_NOT_FOUND", "times": 0})
    with engine(host) as here:
        result = here.apply({"containers_gpu_slicing": {"enabled": True, "strategy": "passthrough"}})
    assert result.ok and host.readlink(f"/sys/bus/pci/devices/{GPU}/driver") == "vfio-pci"


# -- when it is asked ------------------------------------------------------------------------------------------------------
HEALTH = {"nvmlDeviceGetRemappedRows", "nvmlDeviceGetTotalEccErrors"}


def test_where_nothing_has_to_change_nobody_asks(one):
    host = one(A100)
    with engine(host) as here:
        assert here.apply(mig()).ok
        assert HEALTH <= set(here.host.nvml().calls)
    with engine(host) as here:
        assert here.apply(mig()).plan.empty
        assert not HEALTH.intersection(here.host.nvml().calls)


def test_a_gpu_that_falls_ill_in_a_change_is_told(one):
    host = one(A100)

    def falls_ill(_line):
        with host.change() as state:
            state["gpus"][GPU]["health"]["recovery_action"] = "node_reboot"

    with Engine({"simulate": host.description_path, "state_dir": host.state_dir}, progress=falls_ill) as here:
        assert here.apply(mig()).errors == [f"GPU {GPU} is not healthy after the change: the driver asks for a reboot."]


# -- the table that users read ---------------------------------------------------------------------------------------------
def test_the_documentation_has_every_code_with_its_severity():
    text = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z0-9-]+)` \| (info|warning|critical) \|", text, re.MULTILINE)) == SEVERITY
    assert list(SEVERITY) == sorted(SEVERITY)


def test_every_code_is_found_by_somebody():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "_utils/gpuslice/health").glob("*.py")
                      if path.stem != "finding")  # fmt: skip
    written = sources.replace('f"pci-aer-{kind}"', '"pci-aer-fatal" "pci-aer-nonfatal"')
    assert [code for code in SEVERITY if f'"{code}"' not in written] == []
