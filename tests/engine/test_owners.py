"""What comes of an owner beside us: refused where it would change something of his, agreed, by hand, interrupted, converged."""

import pytest

from gpuslice import cleaning
from gpuslice import errors
from gpuslice import front
from gpuslice import policy
from gpuslice import qualify
from gpuslice import reports
from gpuslice.engine import Engine
from gpuslice.techniques.mig import asks
from gpuslice.techniques.toolbox import Toolbox
from tests.support import hosts
from tests.support import pillars
from tests.support.crash import in_child
from tests.support.watched import Watched

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
PAIR = [{"model": "h100-80gb", "address": address, "mig": "enabled"} for address in (GPU, OTHER)]
LINK = "/etc/systemd/system/multi-user.target.wants/nvidia-mig-manager.service"
MIG_MANAGER = {LINK: "[Unit]\n"}
DYNAMIC = {
    "/proc/4711/comm": "gpu-kubelet-plu", "/proc/4711/cmdline": "gpu-kubelet-plugin\0",
    "/proc/4711/environ": "FEATURE_GATES=DynamicMIG=true,\0",
}  # fmt: skip
LAYOUT, LESS = {"1g.10gb": 3}, {"1g.10gb": 2}
SEEN = "mig-manager (NVIDIA's mig-manager: nvidia-mig-manager.service is enabled)"


def sharing(*names, devices=()):
    """A pillar that agrees with these."""
    return pillars.mig(LAYOUT, slicing={"share_with": list(names)}, devices=devices)


@pytest.fixture
def beside(simulated):
    """``beside(files)`` is a host of two H100 with these files of an owner."""
    return lambda files, **more: simulated("dgx-h100", gpus=PAIR, processes=[], files=files, **more)


def test_nothing_is_changed_beside_an_owner(beside):
    host = beside(MIG_MANAGER)
    result = hosts.apply(host, pillars.mig(LAYOUT))
    assert not result.ok and result.generation is None and not hosts.listed(host)
    assert result.errors == [
        f"GPU {address}: A change of MIG is wanted, and {SEEN} sets that too. Run 'systemctl disable --now "
        "nvidia-mig-manager.service'. Where both are to set it, write containers_gpu_slicing:share_with: [mig-manager]."
        for address in (GPU, OTHER)
    ]
    # Of what is told as an error nothing is told as a warning.
    assert result.warnings == []


def test_test_mode_names_the_owner(beside):
    host = beside(MIG_MANAGER)
    with Engine(hosts.config(host)) as engine:
        plan = engine.plan(pillars.mig(LAYOUT))
    assert plan.empty and len(plan.blocked) == 2
    assert f"Left as it is: 2 x GPU ({GPU}, 43): A change of MIG is wanted, and {SEEN} sets that too." in plan.text()
    assert front.planned(plan)["result"] is False


def test_beside_one_with_whom_the_pillar_agrees_it_is_changed(beside):
    host = beside(MIG_MANAGER)
    result = hosts.apply(host, sharing("mig-manager"))
    assert result.ok and result.warnings == [] and len(hosts.listed(host)) == 6


def test_a_rule_agrees_for_its_gpu_alone(beside):
    host = beside(MIG_MANAGER)
    rule = {"match": {"pci": GPU}, "share_with": ["mig-manager"]}
    result = hosts.apply(host, pillars.mig(LAYOUT, devices=[rule]))
    assert len(result.errors) == 1 and result.errors[0].startswith(f"GPU {OTHER}: ")
    assert {part["gpu"] for part in hosts.listed(host)} == {GPU}
    # A rule that names nobody takes back what the host says.
    host = beside(MIG_MANAGER)
    result = hosts.apply(host, sharing("mig-manager", devices=[{"match": {"pci": GPU}, "share_with": []}]))
    assert len(result.errors) == 1 and result.errors[0].startswith(f"GPU {GPU}: ")


def test_a_rule_by_uuid_agrees_too(simulated):
    gpus = [{**gpu, "uuid": f"GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a7{place}"} for place, gpu in enumerate(PAIR)]
    host = simulated("dgx-h100", gpus=gpus, processes=[], files=MIG_MANAGER)
    rule = {"match": {"uuid": gpus[1]["uuid"]}, "share_with": ["mig-manager"]}
    result = hosts.apply(host, pillars.mig(LAYOUT, devices=[rule]))
    assert [line.split(": ")[0] for line in result.errors] == [f"GPU {GPU}"]
    with Engine(hosts.config(host)) as engine:
        wanted = engine.wanted("mig", OTHER, *asks.layout(["1g.10gb"]))
        agreed = engine.reconciler(permissions=pillars.mig(LAYOUT, devices=[rule])).plan(wanted)
    assert not agreed.blocked and agreed.changing


def test_with_dynamic_mig_nobody_agrees(beside):
    host = beside({**DYNAMIC, **MIG_MANAGER})
    result = hosts.apply(host, sharing("mig-manager", "nvidia-dra"))
    assert not result.ok and not hosts.listed(host)
    assert "tears down MIG devices that it did not make, so that nothing can be shared with it." in result.errors[0]
    assert "Switch the feature gate DynamicMIG of the DRA driver off on this node" in result.errors[0]
    assert "share_with" not in result.errors[0]
    with pytest.raises(errors.PolicyError) as caught:
        policy.parse(sharing("dra-dynamic-mig"))
    assert "tears down MIG devices that it did not make" in str(caught.value)


def test_a_gpu_of_another_vendor_is_nobodys(simulated):
    host = simulated("mixed-vendors", files=MIG_MANAGER)
    with Engine(hosts.config(host)) as engine:
        [amd] = [gpu.address for gpu in engine.gpus if gpu.vendor == "amd"]
    result = hosts.apply(host, pillars.for_gpu(amd, "partition", {"compute": "CPX"}))
    assert result.errors == [] and result.generation == 1


def test_another_technology_of_the_same_gpu_is_not_his(simulated):
    host = simulated("l40s-pair", files=MIG_MANAGER)
    result = hosts.apply(host, pillars.for_all("none", slicing={"power": {"percent": 80}}))
    assert result.ok and result.generation == 1 and result.warnings == []


def test_a_converged_host_warns_and_goes_on(beside):
    host = beside({})
    assert hosts.apply(host, pillars.mig(LAYOUT)).ok
    host.store_write(LINK, "[Unit]\n")
    for _ in range(2):
        with Engine(hosts.config(host)) as engine:
            engine.host = watched = Watched(host.description_path, host.state_dir)
            engine.tools = Toolbox(watched)
            result = engine.apply(pillars.mig(LAYOUT))
        assert result.ok and result.plan.empty and result.generation is None
        assert result.warnings == [
            f"{SEEN} sets the slices of {GPU}, {OTHER} as well: what one of the two sets the other undoes. "
            "Run 'systemctl disable --now nvidia-mig-manager.service'."
        ]
        # Nothing was started, and no process looked at.
        looked = [*watched.seen, *watched.listed]
        assert watched.ran == [] and not any(path.startswith("/proc/") and path[6:7].isdigit() for path in looked)
    assert hosts.apply(host, sharing("mig-manager")).warnings == []
    assert not hosts.apply(host, pillars.mig(LESS)).ok and len(hosts.listed(host)) == 6


def test_by_hand_the_pillar_agrees(beside):
    host = beside(MIG_MANAGER)
    for permissions, made in ((None, 0), (pillars.mig(LAYOUT), 0), (sharing("mig-manager"), 1)):
        with Engine(hosts.config(host)) as engine:
            answer = front.run(engine, engine.wanted("mig", GPU, *asks.one_more("1g.10gb")), False, permissions, force=False)
        assert answer["result"] is bool(made) and len(hosts.listed(host)) == made
        if not made:
            assert "only a pillar can say so (containers_gpu_slicing:share_with): [mig-manager]." in answer["comment"]


def test_what_came_since_keeps_a_change_from_being_finished_and_not_from_being_undone(beside):
    host = beside({})
    assert hosts.apply(host, pillars.mig(LESS)).ok
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "after"})
    in_child(lambda: hosts.apply(host, pillars.mig(LAYOUT)))
    assert not hosts.closed(host)
    host.clear_faults()
    host.store_write(LINK, "[Unit]\n")
    result = hosts.apply(host, pillars.mig(LAYOUT))
    assert not result.ok and hosts.closed(host)
    assert len(hosts.listed(host)) == 4 and SEEN in result.errors[0]


def test_a_rollback_beside_an_owner_is_refused_too(beside):
    host = beside({})
    assert hosts.apply(host, pillars.mig(LESS)).ok and hosts.apply(host, pillars.mig(LAYOUT)).ok
    host.store_write(LINK, "[Unit]\n")
    for permissions, count in ((None, 6), (sharing("mig-manager"), 4)):
        with Engine(hosts.config(host)) as engine:
            front.run(engine, engine.rollback_targets(), False, permissions)
        assert len(hosts.listed(host)) == count


def test_owners_are_shown_with_evidence(beside):
    host = beside({**MIG_MANAGER, "/etc/rc.local": f"nvidia-smi -i {GPU} -pl 300\n"})
    with Engine(hosts.config(host)) as engine:
        rule = {"match": {"pci": OTHER}, "share_with": []}
        found = reports.owners(engine, sharing("mig-manager", "/etc/rc.local", devices=[rule]))
    assert [each["owner"] for each in found] == ["mig-manager", "/etc/rc.local"]
    assert found[0]["gpus"] == [GPU, OTHER] and found[0]["agreed"] == [GPU] and found[0]["sets"] == ["mig"]
    assert found[1]["gpus"] == found[1]["agreed"] == [GPU] and found[1]["seen"] == ["it sets GPUs at each boot"]
    table = reports.table_of_owners(found).splitlines()
    assert table[0].split() == ["owner", "sets", "GPUs", "agreed", "seen"] and table[3].split()[:5] == [
        "/etc/rc.local", "power", GPU, "yes", "it",
    ]  # fmt: skip
    assert reports.table_of_owners([]) == "Nobody else is known to set the GPUs of this host."


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mig-manger", "Did you mean 'mig-manager'?"),
        ("nvidia-mig-manager.service", "is nvidia-mig-manager.service, a unit of mig-manager: write mig-manager."),
        ("", "which is nobody that is known here"),
        (7, "is the number 7, which is nobody that is known here"),
        (["hami"], "which is nobody that is known here"),
        ("/etc/\nrc.local", "which is nobody that is known here"),
    ],
)
def test_a_name_that_nobody_has_is_a_mistake(name, told):
    with pytest.raises(errors.PolicyError) as caught:
        policy.parse(sharing(name))
    assert "containers_gpu_slicing:share_with:0: " in str(caught.value) and told in str(caught.value)


def test_units_and_files_of_others_are_named_as_they_are_shown():
    names = ("gpu-setup.service", "/etc/udev/rules.d/70-vfs.rules", "hami")
    assert policy.parse(sharing(*names)).default.share_with == names
    with pytest.raises(errors.PolicyError, match="a second time"):
        policy.parse(sharing("hami", "hami"))


SOCKET = "/var/lib/kubelet/plugins_registry/gpu.nvidia.com-reg.sock"
STATIC = {**DYNAMIC, "/proc/4711/environ": "FEATURE_GATES=DynamicMIG=false,\0"}


@pytest.mark.parametrize("files", [{SOCKET: ""}, {SOCKET: "", **STATIC}], ids=["not told", "told to be off"])
def test_the_dra_driver_is_agreed_with_as_a_static_one(beside, files):
    host = beside(files)
    assert not hosts.apply(host, pillars.mig(LAYOUT)).ok
    with Engine(hosts.config(host)) as engine:
        text = engine.plan(sharing("nvidia-dra")).text()
    assert ("Whether its DynamicMIG is on can't be told here" in text) == (len(files) == 1)
    result = hosts.apply(host, sharing("nvidia-dra"))
    assert result.ok and result.warnings == [] and len(hosts.listed(host)) == 6


def test_gpus_that_change_together_are_refused_together(simulated):
    pods = "/var/log/pods/kube-amd-gpu_device-config-manager-x4k2p_5d5ba0d6/c/0.log"
    host = simulated("mi300x-8", files={pods: ""})
    result = hosts.apply(host, pillars.partition(memory="NPS4", unload_modules=["amdgpu"]))
    assert len(result.errors) == 8 and result.generation is None
    assert all("A change of partition modes is wanted, and device-config-manager" in line for line in result.errors)


def test_what_hands_out_goes_on_where_the_slices_are_somebody_elses(beside):
    host = beside({})
    assert hosts.apply(host, pillars.mig(LAYOUT)).ok
    host.store_write(LINK, "[Unit]\n")
    wanted = {**pillars.mig(LAYOUT), "containers_gpu_container_integration": {"consumers": {"web": {"slice": "1g.10gb"}}}}
    result = hosts.apply(host, wanted)
    assert result.ok and "consumers" in result.changes


def test_a_host_that_is_given_up_beside_an_owner_says_what_stays(beside):
    host = beside({})
    assert hosts.apply(host, pillars.mig(LAYOUT)).ok
    host.store_write(LINK, "[Unit]\n")
    with Engine(hosts.config(host)) as engine:
        answer = cleaning.clean(engine, {}, False, False, False, lambda: None)
    assert answer["result"] is False and SEEN in answer["comment"] and len(hosts.listed(host)) == 6
    with Engine(hosts.config(host)) as engine:
        answer = cleaning.clean(engine, sharing("mig-manager"), False, False, False, lambda: None)
    assert answer["result"] is True and not hosts.listed(host)


def test_a_gpu_of_somebody_else_is_not_tried(beside):
    host = beside(MIG_MANAGER)
    with Engine(hosts.config(host)) as engine:
        with pytest.raises(errors.Owned, match="mig-manager"):
            qualify.planned(engine, GPU, pillars.mig(LAYOUT), 30)
        assert "would be tried" in qualify.planned(engine, GPU, sharing("mig-manager"), 30)["comment"]
