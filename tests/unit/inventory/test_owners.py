"""
Who else sets the GPUs of a host: each known owner by what it leaves on a node, written as its own sources and manifests have it,
and what looks like one and is none.
"""

import re
import time

import pytest
import yaml

from gpuslice.catalog.owners import BY_NAME
from gpuslice.inventory import discovery
from gpuslice.inventory import grain
from gpuslice.inventory import owners
from tests.support import pages

SYSTEM = "/etc/systemd/system"
WANTS = "/etc/systemd/system/multi-user.target.wants"
PODS = "/var/log/pods"
H100 = "0000:1b:00.0"
#: Kind of host -> one of its GPUs.
NVIDIA, AMD, INTEL, VGPU, MDEV = "dgx-h100", "mi300x-8", "arc-pro-b60", "vgpu-host-vfio", "vgpu-host-mdev"


def pod(name, container):
    """What the kubelet has of a pod of its node."""
    return {f"{PODS}/{name}_5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77/{container}/0.log": ""}


def unit(name, text, folder=WANTS):
    """A unit that is enabled: its file, under the name of the link."""
    return {f"{folder}/{name}": text}


def process(pid, name, *arguments, **environment):
    """What the kernel tells of a process."""
    base = f"/proc/{pid}"
    variables = "".join(f"{key}={value}\0" for key, value in environment.items())
    return {f"{base}/comm": name[:15], f"{base}/cmdline": "\0".join([name, *arguments, ""]), f"{base}/environ": variables}


def found(simulated, example, files, running=False, **more):
    """Name -> owner of a host with these files."""
    host = simulated(example, files=files, **more)
    return {owner.name: owner for owner in owners.found(host, discovery.discover(host), running)}


def service(command, comment=""):
    return f"{comment}\n[Unit]\nDescription=Set up\n[Service]\nType=oneshot\nExecStart={command}\n"


#: What is on a node -> host, files, who that is, how it was seen.
KNOWN = {
    "mig-parted's unit": (NVIDIA, unit("nvidia-mig-manager.service", service("/bin/bash /etc/nvidia-mig-manager/service.sh")),
                          "mig-manager", "nvidia-mig-manager.service is enabled"),
    "the operator's mig-manager": (NVIDIA, pod("gpu-operator_nvidia-mig-manager-x4k2p", "nvidia-mig-manager"), "mig-manager",
                                   "pod nvidia-mig-manager-x4k2p of namespace gpu-operator is on this node"),
    "the DRA driver's socket": (NVIDIA, {"/var/lib/kubelet/plugins_registry/gpu.nvidia.com-reg.sock": ""}, "nvidia-dra",
                                "/var/lib/kubelet/plugins_registry/gpu.nvidia.com-reg.sock"),
    "the DRA driver's pod": (NVIDIA, pod("dra_dra-driver-nvidia-gpu-kubelet-plugin-bbt6p", "gpus"), "nvidia-dra",
                             "pod dra-driver-nvidia-gpu-kubelet-plugin-bbt6p of namespace dra is on this node"),
    "AMD's DRA driver": (AMD, {"/var/lib/kubelet/plugins_registry/gpu.amd.com-reg.sock": ""}, "amd-dra",
                         "/var/lib/kubelet/plugins_registry/gpu.amd.com-reg.sock"),
    "Intel's DRA driver": (INTEL, {"/var/lib/kubelet/plugins_registry/gpu.intel.com-reg.sock": ""}, "intel-dra",
                           "/var/lib/kubelet/plugins_registry/gpu.intel.com-reg.sock"),
    "HAMi": (NVIDIA, pod("kube-system_hami-device-plugin-7z2xk", "device-plugin"), "hami",
             "pod hami-device-plugin-7z2xk of namespace kube-system is on this node"),
    "DAS": (NVIDIA, pod("das-operator_das-daemonset-q8qqv", "das"), "das",
            "pod das-daemonset-q8qqv of namespace das-operator is on this node"),
    "the plugin's MPS": (NVIDIA, pod("nvdp_nvdp-nvidia-device-plugin-mps-control-daemon-2fz7v", "ctr"), "mps-control-daemon",
                         "pod nvdp-nvidia-device-plugin-mps-control-daemon-2fz7v of namespace nvdp is on this node"),
    "the vGPU device manager": (VGPU, pod("gpu-operator_nvidia-vgpu-device-manager-5gn2d", "m"), "vgpu-device-manager",
                                "pod nvidia-vgpu-device-manager-5gn2d of namespace gpu-operator is on this node"),
    "the VFIO manager": (NVIDIA, pod("gpu-operator_nvidia-vfio-manager-9wlxq", "m"), "vfio-manager",
                         "pod nvidia-vfio-manager-9wlxq of namespace gpu-operator is on this node"),
    "Harvester": (VGPU, pod("harvester-system_harvester-pcidevices-controller-hk5vd", "agent"), "harvester",
                  "pod harvester-pcidevices-controller-hk5vd of namespace harvester-system is on this node"),
    "KubeVirt": (VGPU, pod("kubevirt_virt-handler-tt4jx", "virt-handler"), "kubevirt",
                 "pod virt-handler-tt4jx of namespace kubevirt is on this node"),
    "AMD's DCM": (AMD, pod("kube-amd-gpu_test-amdgpu-device-config-manager-lk5wz", "c"), "device-config-manager",
                  "pod test-amdgpu-device-config-manager-lk5wz of namespace kube-amd-gpu is on this node"),
    "Intel's unit": (INTEL, unit("gfx-virtual-func.service", service("/var/vm/scripts/configvfs.sh -e")), "gfx-virtual-func",
                     "gfx-virtual-func.service is enabled"),
    "Proxmox": (VGPU, unit("pve-nvidia-sriov@ALL.service", service("/usr/lib/nvidia/sriov-manage -e %i")), "pve-nvidia-sriov",
                "pve-nvidia-sriov@ALL.service is enabled"),
}  # fmt: skip


@pytest.mark.parametrize("known", KNOWN)
def test_an_owner_is_seen_by_what_it_leaves_on_a_node(simulated, known):
    example, files, name, seen = KNOWN[known]
    there = found(simulated, example, files)
    assert list(there) == [name]
    assert there[name].seen == (seen,) and there[name].gpus is None and there[name].todo


def test_every_row_is_told_of_here():
    of_files = {"mdevctl", "driverctl", "dra-dynamic-mig"}
    assert {name for _, _, name, _ in KNOWN.values()} | of_files == set(BY_NAME)


def test_a_unit_that_is_neither_enabled_nor_runs_is_no_owner(simulated):
    name = "nvidia-mig-manager.service"
    text = service("/bin/true")
    assert not found(simulated, NVIDIA, {f"/usr/lib/systemd/system/{name}": text})
    runs = found(simulated, NVIDIA, {f"/sys/fs/cgroup/system.slice/{name}/cgroup.procs": "4711"})
    assert runs["mig-manager"].seen == (f"{name} runs",)
    described = found(simulated, NVIDIA, {}, units=[name])
    assert described["mig-manager"].seen == (f"{name} is enabled",)


def test_a_unit_of_one_gpu_owns_that_one(simulated):
    host = simulated(VGPU)
    first, second = (gpu.address for gpu in discovery.discover(host))
    there = found(simulated, VGPU, unit(f"pve-nvidia-sriov@{first}.service", ""))
    assert there["pve-nvidia-sriov"].gpus == (first,)
    both = {**unit(f"pve-nvidia-sriov@{first}.service", ""), **unit(f"pve-nvidia-sriov@{second}.service", "")}
    assert found(simulated, VGPU, both)["pve-nvidia-sriov"].gpus == (first, second)


def test_the_dra_driver_without_gpus_is_no_owner(simulated):
    assert not found(simulated, NVIDIA, pod("dra_dra-driver-nvidia-gpu-kubelet-plugin-bbt6p", "compute-domains"))
    assert not found(simulated, NVIDIA, {"/var/lib/kubelet/plugins_registry/compute-domain.nvidia.com-reg.sock": ""})


GATES = {
    "on": ({"FEATURE_GATES": "TimeSlicingSettings=false,DynamicMIG=true,"}, (), "dra-dynamic-mig"),
    "off": ({"FEATURE_GATES": "DynamicMIG=false,"}, (), "nvidia-dra"),
    "by an argument": ({"NODE_NAME": "n1"}, ("--feature-gates=DynamicMIG=true",), "dra-dynamic-mig"),
    "not named": ({"NODE_NAME": "n1"}, (), "nvidia-dra"),
}


@pytest.mark.parametrize("gate", GATES)
def test_dynamic_mig_is_told_by_the_process(simulated, gate):
    environment, arguments, name = GATES[gate]
    files = process(4711, "gpu-kubelet-plugin", "-v", "4", *arguments, **environment)
    [owner] = found(simulated, NVIDIA, files, running=True).values()
    assert owner.name == name and "process 4711 (gpu-kubelet-plugin" in owner.seen[0] and not owner.unsure
    assert bool(owner.never) == (name == "dra-dynamic-mig")
    assert not found(simulated, NVIDIA, files)


def test_where_no_process_tells_the_gate_that_is_said(simulated):
    socket = {"/var/lib/kubelet/plugins_registry/gpu.nvidia.com-reg.sock": ""}
    closed = {**socket, **process(4711, "gpu-kubelet-plugin")}
    for files, running in ((socket, False), (socket, True), (closed, True)):
        unsure = found(simulated, NVIDIA, files, running)["nvidia-dra"].unsure
        assert unsure == "Whether its DynamicMIG is on can't be told here; it would tear down MIG devices that it did not make."


def test_a_running_program_is_looked_for_where_something_is_to_change(simulated):
    files = process(812, "nvidia-mig-manager", NODE_NAME="n1")
    assert found(simulated, NVIDIA, files, running=True)["mig-manager"].seen == ("process 812 (nvidia-mig-manager)",)
    assert not found(simulated, NVIDIA, process(812, "nvidia-smi"), running=True)


# -- definitions of devices ------------------------------------------------------------------------------------------------
UUID = "14c489aa-632a-43a2-b862-8db65b7bf069"


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ('{"mdev_type": "nvidia-558", "start": "auto", "attrs": []}', True), ('{"start": "manual"}', False), ("{", False),
        ("[1]", False), ("", False), ("[" * 100000, False),
    ],
)  # fmt: skip
def test_a_definition_of_mdevctl_is_of_its_parents_gpu(simulated, text, starts):
    host = simulated(MDEV)
    first = discovery.discover(host)[0].address
    there = found(simulated, MDEV, {f"/etc/mdevctl.d/{first}/{UUID}": text, "/etc/mdevctl.d/scripts.d/callouts/x.sh": ""})
    assert ("mdevctl" in there) == starts
    if starts:
        assert there["mdevctl"].gpus == (first,)
        assert there["mdevctl"].seen == (f"/etc/mdevctl.d/{first}/{UUID} starts at each boot",)


def test_a_parent_may_be_a_function_that_is_not_there_yet(simulated):
    first = discovery.discover(simulated(VGPU))[0]
    function = f"{first.address[:8]}01.4"
    definition = {f"/etc/mdevctl.d/{function}/{UUID}": '{"start": "auto"}'}
    assert found(simulated, VGPU, definition)["mdevctl"].gpus == (first.address,)
    # On the bus of no GPU, such as one of a network card.
    assert not found(simulated, VGPU, {f"/etc/mdevctl.d/0000:f0:01.4/{UUID}": '{"start": "auto"}'})


def test_an_override_of_driverctl_is_of_its_gpu(simulated):
    files = {f"/etc/driverctl.d/pci-{H100}": "vfio-pci\n", "/etc/driverctl.d/pci-0000:00:1f.6": "vfio-pci\n"}
    there = found(simulated, NVIDIA, files)
    assert there["driverctl"].gpus == (H100,) and "binds vfio-pci" in there["driverctl"].seen[0]
    assert there["driverctl"].sets == ("passthrough", "vf-passthrough")


# -- units, rules and scripts of somebody ----------------------------------------------------------------------------------
B60 = "0000:03:00.0"
#: What stands in a file of somebody -> host, files, its name, what it sets, its GPUs.
TEXTS = {
    "a mode by a unit": (NVIDIA, unit("gpus.service", service("/usr/bin/nvidia-smi -i 0 -mig 1")), "gpus.service", {"mig"}, None),
    "instances by a unit": (NVIDIA, unit("gpus.service", service("/bin/sh -c 'nvidia-smi mig -cgi 9,9 -C'")), "gpus.service",
                            {"mig"}, None),
    "a script of a unit": (
        NVIDIA,
        {**unit("gpus.service", service("/bin/bash /usr/local/sbin/cut.sh")), "/usr/local/sbin/cut.sh": "nvidia-smi mig -dci\n"},
        "gpus.service", {"mig"}, None,
    ),
    "one GPU of several": (NVIDIA, unit("one.service", service(f"/usr/bin/nvidia-smi -i {H100} -mig 1")), "one.service",
                           {"mig"}, (H100,)),
    "another tool's": (NVIDIA, unit("p.service", service("/opt/bin/nvidia-mig-parted apply -f /etc/x.yaml -c all")), "p.service",
                       {"mig"}, None),
    "a timer": (
        NVIDIA,
        {"/etc/systemd/system/timers.target.wants/cap.timer": "[Timer]\n",
         "/etc/systemd/system/cap.service": service("/usr/bin/nvidia-smi -pl 300")},
        "cap.service", {"power"}, None,
    ),
    "a service and its timer": (
        NVIDIA,
        {**unit("cap.timer", "[Timer]\n"), **unit("cap.service", service("/usr/bin/nvidia-smi -pl 9")),
         "/etc/systemd/system/cap.service": service("/usr/bin/nvidia-smi -pl 9")},
        "cap.service", {"power"}, None,
    ),
    "a udev rule": (
        INTEL, {"/etc/udev/rules.d/70-vfs.rules": 'ACTION=="add", SUBSYSTEM=="pci", DRIVER=="xe", ATTR{sriov_numvfs}="4"\n'},
        "/etc/udev/rules.d/70-vfs.rules", {"sriov", "vf-passthrough", "vgpu"}, None,
    ),
    "tmpfiles": (INTEL, {"/etc/tmpfiles.d/vfs.conf": f"w /sys/bus/pci/devices/{B60}/sriov_numvfs - - - - 4\n"},
                 "/etc/tmpfiles.d/vfs.conf", {"sriov", "vf-passthrough", "vgpu"}, (B60,)),
    "sysfs.conf": (INTEL, {"/etc/sysfs.conf": f"bus/pci/devices/{B60}/sriov_numvfs = 4\n"}, "/etc/sysfs.conf",
                   {"sriov", "vf-passthrough", "vgpu"}, (B60,)),
    "rc.local": (AMD, {"/etc/rc.local": "#!/bin/sh\nfor f in /sys/class/drm/card*/device; do\n"
                       "  echo CPX > $f/current_compute_partition\ndone\n"}, "/etc/rc.local", {"partition"}, None),
    "cron": (AMD, {"/etc/cron.d/gpus": "@reboot root rocm-smi --setcomputepartition CPX\n"}, "/etc/cron.d/gpus", {"partition"},
             None),
    "vGPUs": (VGPU, unit("v.service", service("/usr/lib/nvidia/sriov-manage -e ALL")), "v.service", {"vgpu"}, None),
    "a file that takes the place of a package's": (
        NVIDIA,
        {**unit("gpus.service", service("/bin/true")), f"{SYSTEM}/gpus.service": service("/usr/bin/nvidia-smi -mig 1")},
        "gpus.service", {"mig"}, None,
    ),
    "a drop-in": (
        NVIDIA,
        {**unit("gpus.service", service("/bin/true")), f"{SYSTEM}/gpus.service.d/a.conf": "ExecStart=nvidia-smi -mig 1\n"},
        "gpus.service", {"mig"}, None,
    ),
    "an instance of a template": (
        NVIDIA,
        {**unit("cut@0.service", service("/bin/true")), f"{SYSTEM}/cut@.service": service("/usr/bin/nvidia-smi -i %i -mig 1")},
        "cut@0.service", {"mig"}, None,
    ),
    "a timer of another name": (
        NVIDIA,
        {**unit("nightly.timer", "[Timer]\nUnit=cap.service\n"), f"{SYSTEM}/cap.service": service("/usr/bin/nvidia-smi -pl 300")},
        "cap.service", {"power"}, None,
    ),
    "a path": (
        NVIDIA, {**unit("cap.path", "[Path]\n"), f"{SYSTEM}/cap.service": service("/usr/bin/nvidia-smi -pl 300")},
        "cap.service", {"power"}, None,
    ),
    "a comment that ends in a backslash": (
        NVIDIA, unit("g.service", "[Service]\n# by hand \\\nExecStart=/usr/bin/nvidia-smi -mig 1\n"), "g.service", {"mig"}, None,
    ),
    "the address of another device beside it": (
        NVIDIA, {"/etc/rc.local": "setpci -s 0000:99:00.0 68.w=5936\nnvidia-smi -mig 1\n"}, "/etc/rc.local", {"mig"}, None,
    ),
    "given away": (NVIDIA, {"/etc/rc.local": f"echo vfio-pci > /sys/bus/pci/devices/{H100}/driver_override\n"}, "/etc/rc.local",
                   {"passthrough", "vf-passthrough"}, (H100,)),
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_sets_gpus_at_each_boot_is_an_owner(simulated, text):
    example, files, name, sets, gpus = TEXTS[text]
    there = found(simulated, example, files)
    assert list(there) == [name]
    assert set(there[name].sets) == sets and there[name].gpus == gpus and len(there[name].seen) == 1


#: What is none.
NO_OWNERS = {
    "reads": unit("gpus.service", service("/bin/sh -c 'nvidia-smi mig -lgi; nvidia-smi -q -d MIG; nvidia-smi -L'")),
    "a comment": unit("gpus.service", service("/bin/true", "# once: nvidia-smi -mig 1\n; nvidia-smi mig -dgi")),
    "a number that is read": {"/etc/rc.local": f"cat /sys/bus/pci/devices/{H100}/sriov_numvfs\n"},
    "a question of udev": {"/etc/udev/rules.d/70-x.rules": 'DRIVER=="nvidia", ATTR{sriov_numvfs}=="0", SYMLINK+="x"\n'},
    "a network card's functions": {
        "/etc/udev/rules.d/70-n.rules": 'SUBSYSTEM=="net", ENV{ID_NET_DRIVER}=="mlx5_core", ATTR{device/sriov_numvfs}="8"\n',
        "/etc/rc.local": "echo 8 > /sys/class/net/eth0/device/sriov_numvfs # not of a GPU\n",
    },
    "another device by its address": {"/etc/tmpfiles.d/n.conf": "w /sys/bus/pci/devices/0000:99:00.0/sriov_numvfs - - - - 8\n"},
    "a look for files": {"/etc/rc.local": "file /sys/class/drm/card0/device/sriov_numvfs\n"},
    "nobody knows what": {"/etc/rc.local": 'echo 8 > "$1/sriov_numvfs"\n'},
    "not enabled": {"/etc/systemd/system/gpus.service": service("/usr/bin/nvidia-smi -mig 1")},
    "ours": unit("gpu-slicing.service", service("/usr/bin/nvidia-smi -mig 1")),
    "a script that is too long": {
        **unit("g.service", service("/opt/x")), "/opt/x": "nvidia-smi -mig 1\n" + "x" * 70000,
    },
    "a package's program": {**unit("g.service", service("/usr/bin/x")), "/usr/bin/x": "nvidia-smi -mig 1\n"},
    "masked by an empty file": {**unit("g.service", service("/usr/bin/nvidia-smi -mig 1")), f"{SYSTEM}/g.service": ""},
    "a command that a drop-in takes back": {
        **unit("g.service", service("/usr/bin/nvidia-smi -mig 1")),
        f"{SYSTEM}/g.service.d/a.conf": "[Service]\nExecStart=\nExecStart=/bin/true\n",
    },
    "a description": unit("g.service", "[Unit]\nDescription=Waits for nvidia-smi -mig 1\n[Service]\nExecStart=/bin/true\n"),
    "a comment behind a command": {"/etc/rc.local": "modprobe nvidia # before nvidia-smi -mig 1\n"},
    "another GPU by its address": {"/etc/rc.local": "nvidia-smi -i 0000:99:00.0 -mig 1\n"},
    "a pod of another name": pod("default_my-nvidia-device-plugin-x4k2p", "nvidia-mig-manager"),
    "a folder of no pod": {f"{PODS}/nvidia-mig-manager-x4k2p": ""},
}  # fmt: skip


@pytest.mark.parametrize("text", NO_OWNERS)
def test_what_only_looks_like_an_owner_is_none(simulated, text):
    assert found(simulated, NVIDIA, NO_OWNERS[text], running=True) == {}


#: What runs on an ordinary host with GPUs: unit -> its command.
ORDINARY = {
    "nvidia-persistenced": "/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose",
    "nvidia-dcgm": "/usr/bin/nv-hostengine -n --service-account nvidia-dcgm",
    "nvidia-fabricmanager": "/usr/bin/nvidia-fabricmanager-start.sh --mode start --fm-config-file "
                            "/usr/share/nvidia/nvswitch/fabricmanager.cfg",
    "nvidia-powerd": "/usr/bin/nvidia-powerd", "nvidia-suspend": '/usr/bin/nvidia-sleep.sh "suspend"',
    "nvidia-cdi-refresh": "/usr/bin/nvidia-ctk cdi generate", "gdm": "/usr/sbin/gdm3", "slurmd": "/opt/slurm/sbin/slurmd -D -s",
    "docker": "/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock", "gpu-manager": "/usr/bin/gpu-manager",
    "persist": "/usr/bin/nvidia-smi -pm 1", "clocks": "/usr/bin/nvidia-smi -i 0 -ac 1593,1410",
    "salt-minion": "/opt/saltstack/salt/salt-minion", "gpu-slicing": "/usr/bin/python3 -m gpuslice.boot",
    "node-exporter": "/bin/sh -c 'nvidia-smi --query-gpu=mig.mode.current,power.limit --format=csv > /run/metrics/gpu.prom'",
}  # fmt: skip
RULES = """\
# Enable runtime PM for NVIDIA VGA/3D controller devices on driver bind
ACTION=="add|bind", SUBSYSTEM=="pci", ATTR{vendor}=="0x10de", TEST=="power/control", ATTR{power/control}="auto"
ACTION=="add", SUBSYSTEM=="pci", ATTR{vendor}=="0x10de", ATTR{class}=="0x040300", ATTR{remove}="1"
KERNEL=="nvidia", RUN+="/usr/bin/bash -c '/usr/bin/mknod -Z -m 666 /dev/nvidiactl c 195 255'"
"""


def test_an_ordinary_host_has_no_owners(simulated):
    files = {"/etc/udev/rules.d/80-nvidia-pm.rules": RULES, "/opt/saltstack/salt/salt-minion": "#!/usr/bin/python3\n"}
    for number, (name, command) in enumerate(ORDINARY.items()):
        files |= unit(f"{name}.service", service(command))
        files |= process(5000 + number, command.split()[0].rpartition("/")[2])
    files["/etc/systemd/system/docker.service.d/override.conf"] = (
        "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --add-runtime=nvidia=/usr/bin/nvidia-container-runtime\n"
    )
    # A highstate that is about to cut GPUs tells of it in its arguments.
    files |= process(6001, "salt-call", "state.apply", "pillar={cmd: nvidia-smi -mig 1}")
    for example in (NVIDIA, "mixed-vendors"):
        assert found(simulated, example, files, running=True) == {}


@pytest.mark.parametrize("tool", ["Ansible", "Salt"])
def test_who_manages_a_file_is_told(simulated, tool):
    files = unit("g.service", service("/usr/bin/nvidia-smi -mig 1", f"# {tool} managed: do not edit"))
    assert found(simulated, NVIDIA, files)["g.service"].seen == (f"it sets GPUs at each boot (it says that {tool} manages it)",)


def test_a_program_of_somebody_who_is_not_root_is_no_owner(simulated):
    """Anybody may call his program as he likes, and would keep everybody from every change."""
    files = {**process(4711, "virt-handler"), **process(4712, "gpu-kubelet-plugin", FEATURE_GATES="DynamicMIG=true")}
    users = {"/proc/4711": "1000:1000:555", "/proc/4712": "1000:1000:555"}
    assert set(found(simulated, VGPU, files, running=True)) == {"kubevirt", "dra-dynamic-mig"}
    assert found(simulated, VGPU, files, running=True, owners=users) == {}


@pytest.mark.parametrize("text", ["nvidia-smi mig ", "mdevctl ", "amd-smi set partition ", ">sriov_numvf"])
def test_a_line_of_any_length_is_looked_at_in_no_time(simulated, text):
    host = simulated("mixed-vendors", files={"/etc/rc.local": (text * 8000)[:60000] + " sriov_numvfs"})
    gpus, began = discovery.discover(host), time.process_time()
    owners.found(host, gpus)
    assert time.process_time() - began < 1


def test_the_name_of_a_unit_is_shown_and_not_obeyed(simulated):
    [owner] = found(simulated, NVIDIA, unit("g\x1b[2J.service", service("/usr/bin/nvidia-smi -mig 1"))).values()
    assert "\x1b" not in owner.words + owner.todo


def test_only_gpus_of_the_vendor_are_somebodys(simulated):
    host = simulated("mixed-vendors", files=unit("nvidia-mig-manager.service", ""))
    gpus = discovery.discover(host)
    [owner] = owners.found(host, gpus)
    assert {gpu.vendor for gpu in gpus if owner.owns("mig", gpu)} == {"nvidia"} and len({gpu.vendor for gpu in gpus}) == 3
    assert not any(owner.owns("power", gpu) for gpu in gpus)


def test_folders_that_can_not_be_read_have_nobody(simulated):
    host = simulated(NVIDIA, files=unit("g.service", service("/opt/x")))

    class Closed(type(host)):
        def listdir(self, path):
            return [] if path.startswith(("/etc", "/var", "/proc")) else super().listdir(path)

        def read(self, path):
            if path.startswith(("/etc", "/opt")):
                raise PermissionError(13, "Permission denied", path)
            return super().read(path)

    gpus = discovery.discover(host)
    host.__class__ = Closed
    assert owners.found(host, gpus, running=True) == []


def test_the_grain_names_them_by_files_alone(simulated):
    files = {**unit("nvidia-mig-manager.service", ""), **process(4711, "gpu-kubelet-plugin", FEATURE_GATES="DynamicMIG=true")}
    assert grain.facts(simulated(NVIDIA, files=files))["owners"] == ["mig-manager"]
    assert grain.facts(simulated(NVIDIA))["owners"] == []
    assert grain.facts(simulated("no-gpu", files=files))["owners"] == []


def test_the_page_describes_owners_as_they_are_seen(simulated):
    [block] = pages.blocks(pages.section("owners", "On a simulated host"))
    there = found(simulated, NVIDIA, running=True, **yaml.safe_load(block))
    assert list(there) == ["mig-manager", "dra-dynamic-mig", "hami"]


def test_the_page_has_a_row_for_each():
    first = re.findall(r"^\| (`.*?) \|", pages.section("owners", "Who is known"), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", "".join(first))) == set(BY_NAME)
