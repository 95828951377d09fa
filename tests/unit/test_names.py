"""
What GPUs are called: the driver's names in the catalog, the names that a pillar may use, and which GPU a UUID means.
"""

import pytest

from gpuslice import catalog
from gpuslice import errors
from gpuslice import policy
from gpuslice.boot import replay
from gpuslice.catalog import nvidia
from gpuslice.engine import Engine
from gpuslice.inventory import discovery
from gpuslice.model import Gpu
from gpuslice.model import Key
from gpuslice.records import verified
from tests.support import hosts
from tests.support.techniques import mig_targets

FIRST, SECOND, THIRD = "0000:41:00.0", "0000:a1:00.0", "0000:c1:00.0"
KEY = Key(FIRST, "mig")
UUID = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
#: What NVIDIA's driver (the list of released chips in its published sources) calls the boards of the catalog: PCI device id,
#: device halves of the subsystem id (0000 stands for any), name.
DRIVER = """
1e02 0000 NVIDIA TITAN RTX
1e30 129e Quadro RTX 8000
1eb0 0000 Quadro RTX 5000
1eb1 0000 Quadro RTX 4000
1eb8 12a2 Tesla T4
1fb0 12db,8a80 NVIDIA T1000
1fb0 1485 NVIDIA DGX Display
20b0 0000 NVIDIA A100-SXM4-40GB
20b0 1450 NVIDIA A100-PG509-200
20b2 1463,147f,1622,1623 NVIDIA A100-SXM4-80GB
20b2 1625 NVIDIA PG509-210
20b3 14a7,14a8 NVIDIA A100-SXM-64GB
20b5 1533,1642 NVIDIA A100 80GB PCIe
20b6 1492 NVIDIA PG506-232
20b7 1532,1804,1852 NVIDIA A30
20bd 17f4 NVIDIA A800-SXM4-40GB
20f1 145f NVIDIA A100-PCIE-40GB
20f3 179b,17a2 NVIDIA A800-SXM4-80GB
20f5 1799 NVIDIA A800 80GB PCIe
20f5 179a NVIDIA A800 80GB PCIe LC
20f6 180a NVIDIA A800 40GB Active
20fd 17f8 NVIDIA AX800
2204 0000 NVIDIA GeForce RTX 3090
2230 1459 NVIDIA RTX A6000
2231 147e NVIDIA RTX A5000
2232 163c NVIDIA RTX A4500
2233 165a NVIDIA RTX A5500
2235 145a NVIDIA A40
2236 1482 NVIDIA A10
2237 152f NVIDIA A10G
2238 1677 NVIDIA A10M
230e 20df NVIDIA H20 NVL16
2321 1839 NVIDIA H100 NVL
2322 17a4 NVIDIA H800 PCIe
2324 17a6,17a8 NVIDIA H800
2329 198b,198c NVIDIA H20
232c 2063 NVIDIA H20-3e
2330 16c0,16c1 NVIDIA H100 80GB HBM3
2331 1626 NVIDIA H100 PCIe
2335 18be,18bf NVIDIA H200
2336 16c2,16c7 NVIDIA H100 80GB HBM2e
2339 17fc NVIDIA H100
233a 183a NVIDIA H800 NVL
233b 1996 NVIDIA H200 NVL
2342 16eb,1805 NVIDIA GH200 120GB
2342 1809 NVIDIA GH200 480GB
2348 18d2 NVIDIA GH200 144G HBM3e
24b0 14ad NVIDIA RTX A4000
2531 151d NVIDIA RTX A2000
2571 1611 NVIDIA RTX A2000 12GB
25b6 14a9 NVIDIA A16
25b6 157e NVIDIA A2
2684 0000 NVIDIA GeForce RTX 4090
26b1 16a1 NVIDIA RTX 6000 Ada Generation
26b2 17fa NVIDIA RTX 5000 Ada Generation
26b3 1934 NVIDIA RTX 5880 Ada Generation
26b5 169d,17da NVIDIA L40
26b9 1851,18cf NVIDIA L40S
26ba 1957,1990 NVIDIA L20
27b0 16fa NVIDIA RTX 4000 SFF Ada Generation
27b1 180c NVIDIA RTX 4500 Ada Generation
27b2 181b NVIDIA RTX 4000 Ada Generation
27b6 1933 NVIDIA L2
27b8 16ca,16ee NVIDIA L4
2901 1999,199b,20da NVIDIA B200
2941 2046,20ca,20d5,21c9,21ca NVIDIA GB200
2b85 0000 NVIDIA GeForce RTX 5090
2bb1 204b NVIDIA RTX PRO 6000 Blackwell Workstation Edition
2bb3 204d NVIDIA RTX PRO 5000 Blackwell
2bb3 227a NVIDIA RTX PRO 5000 72GB Blackwell
2bb4 204c NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition
2bb5 204e,220b NVIDIA RTX PRO 6000 Blackwell Server Edition
2bb9 2091 NVIDIA RTX 6000D
2c31 2051 NVIDIA RTX PRO 4500 Blackwell
3182 20e6 NVIDIA B300 SXM6 AC
31c2 21f1 NVIDIA GB300
"""
ROWS = [row.split(" ", 2) for row in DRIVER.strip().splitlines()]
GH200 = {"vendor": "nvidia", "device": "2342", "address": FIRST, "subsystem_id": "10de:16eb"}


@pytest.mark.parametrize(("device", "subsystems", "name"), ROWS)
def test_a_board_is_called_as_the_driver_calls_it(device, subsystems, name):
    for subsystem in subsystems.split(","):
        found = catalog.lookup("10de", device, f"10de:{subsystem}")
        assert found["model"] in (name, f"NVIDIA {name}")
        gpu = Gpu(FIRST, "nvidia", device, f"10de:{subsystem}", found["model"], found["model"], found["key"])
        assert name in catalog.names(gpu)


def test_the_boards_without_a_row_are_those_that_the_list_leaves_out():
    listed = {device for device, *_ in ROWS}
    left = {device for model in nvidia.MODELS.values() for device in model["device_ids"]} - listed
    # Older than the published driver, boards for single customers, and an integrated GPU.
    known = {"1e38", "20b1", "20b8", "20b9", "2337", "2338", "233d", "2345", "26b8", "2b00"}
    assert {device for device in left if device >= "1e02"} == known


def test_an_integrated_gpu_on_the_pci_bus_is_known_to_have_mig_and_no_memory_of_its_own(simulated):
    board = {"vendor": "nvidia", "device": "2b00", "address": FIRST, "class": "0x030000"}
    host = simulated("dgx-h100", gpus=[board], processes=[])
    [thor] = gpus(host)
    assert (thor.model, thor.memory_mib, "mig" in thor.capabilities) == ("NVIDIA Thor", None, True)
    assert nvidia.mig_table("thor") is None


def matches(gpu, model):
    rule = {"match": {"model": model}, "strategy": "mps"}
    pillar = {"containers_gpu_slicing": {"enabled": True, "strategy": "none", "devices": [rule]}}
    return policy.targets(policy.parse(pillar), [gpu], "bare_metal")[0].technique == "mps"


def gpus(host):
    return discovery.discover(host)


def test_a_rule_fits_a_model_under_each_of_its_names(simulated):
    host = simulated("dgx-h100", gpus=[GH200, {**GH200, "address": SECOND, "subsystem_id": "10de:1809"}], processes=[])
    small, big = gpus(host)
    assert (small.model, big.model) == ("NVIDIA GH200 120GB", "NVIDIA GH200 480GB")
    for name in ("NVIDIA GH200 120GB", "NVIDIA GH200 96GB", "nvidia gh200*"):
        assert matches(small, name)
    assert matches(big, "NVIDIA GH200 480GB") and matches(big, "NVIDIA GH200 96GB")
    assert not matches(big, "NVIDIA GH200 120GB") and not matches(small, "NVIDIA GH200 480GB")


def test_a_rule_fits_the_name_that_the_system_has(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": FIRST, "name": "NVIDIA H100 of somebody"}], processes=[])
    assert matches(gpus(host)[0], "NVIDIA H100 of somebody") and matches(gpus(host)[0], "NVIDIA H100 80GB HBM3")


def test_a_boot_knows_a_board_that_was_recorded_under_a_former_name(simulated):
    host = simulated("dgx-h100", gpus=[{**GH200, "mig": "enabled"}], processes=[])
    config = hosts.config(host)
    pillar = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["3g.48gb"]}}}
    with Engine(config) as engine:
        assert engine.apply(pillar).ok
    record = verified.Verified(host)
    for model, well in (("NVIDIA GH200 96GB", True), ("NVIDIA GH200 480GB", False)):
        # A record that says nothing new is not written, so the rules differ too.
        rules = {**verified.PLAIN_RULES, "stop_units": [f"{model.split()[-1]}.service"]}
        record.note({KEY: {**record.entries()[KEY], "model": model, "rules": rules}})
        host.reboot()
        with Engine(config) as engine:
            answer = replay.replay(engine, wait=0)
        assert answer["result"] is well, answer


# -- a rule that matches nothing -----------------------------------------------------------------------------------------
def rules(*matches):
    listed = [{"match": match, "strategy": "none"} for match in matches]
    return {"containers_gpu_slicing": {"enabled": True, "strategy": "none", "devices": listed}}


def test_a_rule_that_matches_no_gpu_is_told_and_one_that_does_is_not(simulated):
    host = simulated("mixed")
    wanted = rules({"model": "NVIDIA A100*"}, {"model": "NVIDIA H100 NVLink"}, {"vendor": "amd"}, {"vendor": "nvidia"})
    with Engine(hosts.config(host)) as engine:
        plan, result = engine.plan(wanted), engine.apply(wanted)
    told = [line for line in plan.text().splitlines() if line.startswith("Warning: ")]
    path = "containers_gpu_slicing:devices"
    assert [line.split(" matches")[0] for line in told] == [f"Warning: {path}:1", f"Warning: {path}:2"]
    assert all("matches no GPU of this host, which has NVIDIA" in line for line in told)
    assert result.ok and told == [line for line in result.plan.text().splitlines() if line.startswith("Warning: ")]


def test_a_host_without_gpus_and_a_uuid_that_nobody_told_are_no_reason_to_warn():
    blind = Gpu(FIRST, "nvidia", "2330", model="NVIDIA H100 80GB HBM3")
    parsed = policy.parse(rules({"uuid": UUID}, {"model": "*A100*"}))
    assert policy.unmatched(parsed, []) == []
    assert len(policy.unmatched(parsed, [blind])) == 1
    assert policy.unmatched(policy.parse({}), [blind]) == []


# -- two GPUs with one UUID -------------------------------------------------------------------------------------------------
@pytest.fixture
def twins(simulated):
    """Two H100 that say they are the same one, and a third: (host, its configuration)."""
    boards = [{"model": "h100-80gb", "address": address, "uuid": UUID} for address in (FIRST, SECOND)]
    host = simulated("dgx-h100", gpus=[*boards, {"model": "h100-80gb", "address": THIRD}], processes=[])
    return host, hosts.config(host)


def test_a_uuid_of_two_gpus_names_neither(twins):
    host, config = twins
    before = host.state()["gpus"]
    by_match = rules({"uuid": UUID})
    by_hand = {**rules(), "containers_gpu_discovery": {"method": "manual", "devices": [UUID]}}
    with Engine(config) as engine:
        layout = lambda uuid: mig_targets(engine, "layout", uuid, ["3g.40gb"])  # noqa: E731
        for ask in (engine.gpu, lambda uuid: engine.techniques("mig", uuid), layout):
            with pytest.raises(errors.PolicyError, match=f"the UUID of {FIRST} and {SECOND}. Name the GPU by its PCI address"):
                ask(UUID)
        paths = ("containers_gpu_slicing:devices:0:match:uuid", "containers_gpu_discovery:devices")
        for wanted, path in zip((by_match, by_hand), paths, strict=True):
            for ask in (engine.plan, engine.apply):
                with pytest.raises(errors.PolicyError, match=f"{path} names {UUID}, which is the UUID of {FIRST} and {SECOND}"):
                    ask(wanted)
        assert engine.gpu(FIRST).uuid == engine.gpu(SECOND).uuid == UUID
        third = engine.gpu(THIRD).uuid
        assert engine.gpu(third).address == THIRD
    assert host.state()["gpus"] == before


def test_a_uuid_of_two_gpus_with_an_address_beside_it_means_one(twins):
    _, config = twins
    rule = {"match": {"uuid": UUID, "pci": SECOND}, "strategy": "mig", "mig": {"profiles": ["7g.80gb"]}}
    with Engine(config) as engine:
        plan = engine.plan({"containers_gpu_slicing": {"enabled": True, "strategy": "none", "devices": [rule]}})
    assert [made.gpu for made in plan.changing] == [SECOND]


def test_a_uuid_that_the_kernel_does_not_tell_is_asked_of_the_library_and_still_means_two(twins):
    host, config = twins
    with host.change() as state:
        for address in (FIRST, SECOND):
            state["written"][f"/proc/driver/nvidia/gpus/{address}/information"] = "Model: NVIDIA H100\n"
    with Engine(config) as engine, pytest.raises(errors.PolicyError, match=f"{FIRST} and {SECOND}"):
        engine.gpu(UUID)
