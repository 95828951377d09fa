"""
Slices as devices of virtual machines, and machines of libvirt that a change leaves without theirs: told before and after it.
"""

import pytest

from gpuslice import errors
from gpuslice import quarantine
from gpuslice.drivers import libvirt as files
from gpuslice.engine import Engine
from gpuslice.outputs import libvirt as outputs
from gpuslice.schedulers import libvirt
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed

FLEX, H100, A100, WHOLE = "0000:3c:00.0", "0000:41:00.0", "0000:3b:00.0", "0000:1b:00.0"
VFS = [f"0000:3c:00.{number}" for number in (1, 2, 3, 4)]
PLACE = files.PLACE


def hostdev(host, named, **more):
    with Engine(config(host)) as engine:
        return libvirt.hostdev(engine, named, **more)


def vfs(*functions, count=4, **more):
    """Virtual functions of the Flex, those of these numbers bound for virtual machines."""
    beside = {"vf_passthrough": {"enabled": True, "functions": list(functions)}} if functions else {}
    return pillars.for_all("sriov", {"vf_count": count}, slicing=beside, **more)


def domain(name, *devices):
    """What libvirt has of a domain in its file."""
    head = "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n"
    inside = f"  <name>{name}</name>\n  <devices>\n{''.join(devices)}  </devices>\n"
    return f"{head}<domain type='kvm'>\n{inside}</domain>\n"


def define(host, **domains):
    """Files of libvirt: name of a domain -> text. One of an earlier call goes with None."""
    with host.change() as state:
        for name, text in domains.items():
            state["written"][f"{PLACE}/{name}.xml"] = text


def vfio(host, address):
    return host.readlink(f"/sys/bus/pci/devices/{address}/driver")


# -- a slice as a device -----------------------------------------------------------------------------------------------------
def test_a_bound_function_is_given_as_it_is_and_another_is_taken_from_its_driver(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(2)).ok
    assert hostdev(host, VFS[1]) == (
        "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source>\n"
        "    <address domain='0x0000' bus='0x3c' slot='0x00' function='0x2'/>\n  </source>\n</hostdev>\n"
    )
    assert hostdev(host, f"{FLEX}-vm-2", alias="gpu0").splitlines()[4] == "  <alias name='ua-gpu0'/>"
    assert "managed='yes'" in hostdev(host, VFS[0]) and "managed='yes'" in hostdev(host, VFS[1], managed=True)
    with pytest.raises(errors.ResourceConflict, match=r"managed='no', and no driver has it.*gpu_passthrough.bind 0000:3c:00.1"):
        hostdev(host, VFS[0], managed=False)


def test_vgpus_are_functions_or_mediated_devices_that_their_driver_keeps(simulated):
    host = simulated("vgpu-host-vfio")
    assert apply(host, pillars.for_gpu(H100, "vgpu", {"profile": "H100XM-20C", "count": 2})).ok
    assert "managed='no'" in hostdev(host, "0000:41:00.4") and "function='0x4'" in hostdev(host, "0000:41:00.4")
    with pytest.raises(errors.PolicyError, match=r"0000:41:00.4 is a vGPU, which its own driver has to keep"):
        hostdev(host, "0000:41:00.4", managed=True)
    with pytest.raises(errors.DeviceNotFound, match=r"no slice 0000:41:00.6. Those .* are: 0000:41:00.4, 0000:41:00.5"):
        hostdev(host, "0000:41:00.6")
    host = simulated("vgpu-host-mdev")
    assert apply(host, pillars.for_gpu(A100, "vgpu", {"profile": "A100D-20C", "count": 1})).ok
    [made] = [part for part in listed(host) if part["kind"] == "vgpu"]
    told = hostdev(host, made["uuid"])
    assert told == hostdev(host, made["name"]) and "type='mdev' managed='no' model='vfio-pci'" in told
    assert f"<address uuid='{made['uuid']}'/>" in told
    with pytest.raises(errors.PolicyError, match="managed"):
        hostdev(host, made["uuid"], managed=True)


def audio(group=5):
    """A whole GPU that has its audio function in its group."""
    gpu = {"model": "h100-80gb", "address": WHOLE, "iommu_group": group}
    sound = {"address": "0000:1b:00.1", "class": "0x040300", "vendor": "10de", "device": "22bc", "iommu_group": group}
    return {"gpus": [gpu], "processes": [], "iommu": True, "modules": {"vfio_pci": 0}, "other_pci": [sound]}


def give(host, bound=True):
    with Engine(config(host)) as engine:
        return engine.reconciler(force=False).apply(engine.wanted("passthrough", WHOLE, {"bound": bound}))


def test_a_whole_gpu_is_given_when_vfio_has_it_and_its_group_is_named(simulated):
    host = simulated("dgx-h100", **audio())
    with pytest.raises(errors.Unsupported, match=r"is a whole GPU that a driver of this host has. Give it away first"):
        hostdev(host, WHOLE)
    assert give(host).ok
    told = hostdev(host, WHOLE)
    assert told.startswith("<!-- IOMMU group 5 also has 0000:1b:00.1: group=True gives the domain that too. -->\n<hostdev")
    both = hostdev(host, WHOLE, group=True, alias="gpu")
    assert both.count("<hostdev") == 2 and "function='0x1'" in both and "ua-gpu'" in both and "ua-gpu-1'" in both


@pytest.mark.parametrize(
    ("example", "wanted", "kind", "said"),
    [
        ("dgx-h100", pillars.mig(["3g.40gb"]), "mig", "is a MIG device, which is for programs on this host.*strategy vgpu"),
        ("l4-pair", pillars.for_all("time-slicing", {"max_instance_count": 2}), "replica", "is a share in time of a GPU"),
        ("mi300x-8", pillars.for_all("partition", {"compute": "CPX"}), "partition", "is a compute partition, which is for"),
    ],
)
def test_what_is_no_device_is_refused_with_what_to_do(simulated, example, wanted, kind, said):
    host = simulated(example, processes=[])
    assert apply(host, wanted).ok
    part = next(each for each in listed(host) if each["kind"] == kind)
    with pytest.raises(errors.Unsupported, match=f"{part['name']} {said}"):
        hostdev(host, part["name"])
    with pytest.raises(errors.Unsupported, match=f"{part['gpu']} is a GPU that is cut into slices.*Name one of its slices"):
        hostdev(host, part["gpu"])


def test_a_vgpu_of_a_guest_is_nothing_to_give_on(simulated):
    host = simulated("vgpu-guest")
    part = next(each for each in listed(host) if each["kind"] == "vgpu")
    with pytest.raises(errors.Unsupported, match="is what this machine itself was given"):
        hostdev(host, part["name"])


def test_what_a_consumer_has_or_is_quarantined_is_only_its_own(simulated):
    host = simulated("flex170")
    handing = {"containers_gpu_container_integration": {"consumers": {"vm": {"slice": {"name": VFS[2]}}}}}
    assert apply(host, {**pillars.for_all("sriov", {"vf_count": 4, "autoprobe": True}), **handing}).ok
    with pytest.raises(errors.ResourceConflict, match=f"{VFS[2]} was to be given .* consumer vm has it.*say consumer=vm"):
        hostdev(host, VFS[2])
    with pytest.raises(errors.PolicyError, match="consumer other, and nobody has it"):
        hostdev(host, VFS[1], consumer="other")
    assert "function='0x3'" in hostdev(host, VFS[2], consumer="vm")
    with Engine(config(host)) as engine:
        quarantine.quarantined(engine, VFS[:3:2], "odd -- results")
    assert hostdev(host, VFS[2], consumer="vm").startswith(f"<!-- {VFS[2]} is quarantined: odd -. results. -->\n<hostdev")
    with pytest.raises(errors.ResourceConflict, match=f"is quarantined .* 'salt-call gpu_health.release {VFS[0]}'"):
        hostdev(host, VFS[0])


def test_a_name_that_is_none_is_refused(simulated):
    host = simulated("no-gpu")
    with pytest.raises(errors.DeviceNotFound, match=r"no slice 0000:99:00.0. This host has none for virtual machines"):
        hostdev(host, "0000:99:00.0")
    with pytest.raises(errors.PolicyError, match=r"alias is 'a b', which can be no name of a device"):
        hostdev(host, "0000:99:00.0", alias="a b")
    for odd in ("", "\x1b[2J", ["0000:03:00.1"], None, {}, -1):
        with pytest.raises((errors.PolicyError, errors.DeviceNotFound)):
            hostdev(host, odd)
    # What YAML makes of 0000:03:00.1 without quotes.
    with pytest.raises(errors.DeviceNotFound, match="no slice 0000:03:00.1"):
        hostdev(host, 180.1)


# -- who holds one -----------------------------------------------------------------------------------------------------------
def test_a_running_domain_is_named_as_holder(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1)).ok
    group = host.readlink(f"/sys/bus/pci/devices/{VFS[0]}/iommu_group")
    command = "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S"
    host.add_process({"pid": 4711, "command": command, "unit": "machine-qemu.scope", "nodes": [f"/dev/vfio/{group}"]})
    with Engine(config(host)) as engine:
        [held] = engine.holders(FLEX)
    assert held["domain"] == "web"
    result = apply(host, vfs(count=2))
    assert not result.ok and "unit machine-qemu.scope, domain web)" in result.errors[0]
    assert "A domain goes with 'virsh shutdown web'." in result.errors[0]


# -- machines that do not run ------------------------------------------------------------------------------------------------
def test_domains_that_would_not_start_are_named_before_and_after(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, 2, 3)).ok
    own, other = outputs.hostdev(VFS[2]), outputs.hostdev("0000:99:00.0")
    taken = outputs.hostdev(VFS[1], managed=True)
    define(host, web=domain("web", own, other), batch=domain("batch", taken), idle=domain("idle", other), plain=domain("plain"))
    with host.change() as state:
        state["written"][f"{PLACE}/autostart/web.xml"] = state["written"][f"{PLACE}/web.xml"]
    with Engine(config(host)) as engine:
        told = engine.plan(vfs(1)).notes
    assert told == (
        f"Domain batch ({PLACE}/batch.xml) is to be given {VFS[1]}, which this change gives back to the host: libvirt would take "
        "that away from the host again when it starts (managed='yes'). Give it another slice ('salt-call gpu_consumer.hostdev "
        "<slice>', then 'virsh edit batch').",
        f"Domain web ({PLACE}/web.xml) is to be given {VFS[2]}, which this change gives back to the host: it will not start as "
        "it is, and it is started with the host. Give it another slice ('salt-call gpu_consumer.hostdev <slice>', then 'virsh "
        "edit web').",
    )
    result = apply(host, vfs(1))
    assert result.ok and tuple(result.warnings) == told
    assert apply(host, vfs(1)).warnings == []


def test_functions_that_go_altogether_leave_both_and_those_that_come_again_none(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(count=4)).ok
    goes, stays = outputs.hostdev(VFS[3], managed=True), outputs.hostdev(VFS[1], managed=True)
    define(host, web=domain("web", goes), two=domain("two", stays))
    result = apply(host, vfs(count=2))
    assert result.ok
    [told] = result.warnings
    assert told.startswith(f"Domain web ({PLACE}/web.xml) is to be given {VFS[3]}, which goes with this change: it will not")
    assert apply(host, pillars.for_all("sriov", {"vf_count": 0})).ok


def test_bound_functions_that_are_made_anew_by_nobody_s_wish_for_them_are_told(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, count=4)).ok
    define(host, web=domain("web", outputs.hostdev(VFS[0])))
    [told] = apply(host, vfs(count=3)).warnings
    assert f"{VFS[0]}, which this change gives back to the host: it will not start" in told


@pytest.mark.parametrize(
    ("example", "gpu", "profile"), [("vgpu-host-vfio", H100, "H100XM-20C"), ("vgpu-host-mdev", A100, "A100D-20C")]
)
def test_a_vgpu_that_goes_is_told_by_address_or_uuid_and_one_that_stays_is_not(simulated, example, gpu, profile):
    host = simulated(example)
    assert apply(host, pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 2})).ok
    made = [part.get("address") or part["uuid"] for part in listed(host) if part["kind"] == "vgpu"]
    define(host, **{f"vm{n}": domain(f"vm{n}", outputs.hostdev(each)) for n, each in enumerate(made)})
    wanted = pillars.for_gpu(gpu, "vgpu", {"profile": profile, "count": 1})
    with Engine(config(host)) as engine:
        planned = engine.plan(wanted).notes
    result = apply(host, wanted)
    left = [part.get("address") or part["uuid"] for part in listed(host) if part["kind"] == "vgpu"]
    [gone] = set(made) - set(left)
    assert result.ok and tuple(result.warnings) == planned and len(planned) == 1
    assert f"is to be given {gone}, which goes with this change" in planned[0]


def test_a_gpu_that_goes_back_to_its_driver_is_told(simulated):
    host = simulated("dgx-h100", **audio())
    assert give(host).ok
    define(host, web=domain("web", outputs.hostdev(WHOLE)))
    result = give(host, bound=False)
    assert result.ok and f"{WHOLE}, which this change gives back to the host" in result.warnings[0]


def test_a_change_that_is_put_back_warns_of_nothing(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, 2)).ok
    define(host, web=domain("web", outputs.hostdev(VFS[1])))
    before = vfio(host, VFS[1])
    host.add_fault({"call": "write", "nth": 2, "error": "EIO", "times": 1})
    result = apply(host, vfs(1))
    assert not result.ok and vfio(host, VFS[1]) == before
    assert not [line for line in result.warnings if "Domain" in line]


def test_damaged_files_are_named_and_passed_over(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, 2)).ok
    bomb = '<!DOCTYPE domain [<!ENTITY a "aaaa">]><domain><name>&a;</name><devices><hostdev/></devices></domain>'
    own = outputs.hostdev(VFS[1])
    define(
        host, cut=domain("cut", own)[:-20], bomb=bomb, list="<list><hostdev/></list>", large="<hostdev" + " " * 2**20,
        binary="\x00\x01<hostdev", web=domain("web", own), odd=domain("odd", "<hostdev type='pci'><source/></hostdev>"),
        usb=domain("usb", "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>"),
        bad=domain("bad", own.replace("0x3c", "zebra")),
        wrapped=f"<domstatus>{domain('wrapped', own).partition('-->')[2]}</domstatus>",
    )  # fmt: skip
    told = apply(host, vfs(1)).warnings
    assert [line.split(" ")[1] for line in told if line.startswith("Domain")] == ["web", "wrapped"]
    unread = [line.split(" ")[0].rpartition("/")[2] for line in told if "can't be read" in line]
    assert unread == ["binary.xml", "bomb.xml", "cut.xml", "large.xml", "list.xml"]
    assert any("it declares a document type, as no file of libvirt's does" in line for line in told)


def test_a_folder_of_which_nothing_can_be_listed_is_named(simulated):
    host = simulated("flex170", files={PLACE: "no folder"})
    assert apply(host, vfs(1, 2)).ok
    [told] = apply(host, vfs(1)).warnings
    assert told.startswith(f"{PLACE} can't be read (nothing can be listed in it), so that nobody knows whether its domain")


def test_of_thousands_of_domains_ten_are_named_and_the_rest_counted(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, 2)).ok
    text = domain("{}", outputs.hostdev(VFS[1]))
    define(host, **{f"vm{n:04}": text.replace("{}", f"vm{n:04}") for n in range(1000)},
           **{f"plain{n:04}": domain(f"plain{n:04}") for n in range(1000)})  # fmt: skip
    told = apply(host, vfs(1)).warnings
    assert len(told) == 11 and told[-1] == "The same is so of 990 further domains of libvirt."


def test_a_file_that_can_t_be_opened_is_named(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, 2)).ok
    define(host, web=domain("web", outputs.hostdev(VFS[1])))
    host.add_fault({"call": "read_bytes", "error": "EACCES", "times": 0})
    [told] = apply(host, vfs(1)).warnings
    assert told.startswith(f"{PLACE}/web.xml can't be read (Permission denied)")


def test_a_converged_run_and_a_change_that_takes_nothing_of_machines_read_no_domain(simulated):
    host = simulated("flex170")
    assert apply(host, vfs(1, 2)).ok
    define(host, web="<hostdev")
    assert apply(host, vfs(1, 2)).warnings == [] and apply(host, vfs(1, 2, 3)).warnings == []
