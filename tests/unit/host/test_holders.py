"""Processes that hold GPU device nodes open, on a made tree and on a real process."""

import os
import subprocess
import sys

import pytest

from gpuslice.host import holders

ID = "3f9a5c" + "0123456789abcdef" * 3 + "0123456789"
UID = "pod2a1d7b5e_9c3f_4a55_8b0e_111122223333"


def make_process(root, pid, cmdline="python\0train.py\0", cgroup="0::/\n", targets=(), comm="python"):
    """A process as /proc shows it."""
    base = root / str(pid)
    (base / "fd").mkdir(parents=True)
    (base / "cmdline").write_text(cmdline)
    (base / "comm").write_text(comm + "\n")
    (base / "cgroup").write_text(cgroup)
    for number, target in enumerate(targets):
        os.symlink(target, base / "fd" / str(number))
    return base


def test_only_processes_with_gpu_nodes_are_told_in_the_order_of_their_pids(tmp_path):
    make_process(tmp_path, 200, targets=["/dev/null", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia0"])
    make_process(tmp_path, 30, targets=["/dev/dri/renderD128", "socket:[1]"], cmdline="Xorg\0:0\0")
    make_process(tmp_path, 4, targets=["/dev/null", "/tmp/dev/nvidia0", "/dev/nvidia-caps", "/dev/input/event0"])
    (tmp_path / "self").mkdir()
    found = holders.scan_proc(str(tmp_path))
    assert [(one.pid, one.command, one.nodes) for one in found] == [
        (30, "Xorg :0", ("/dev/dri/renderD128",)),
        (200, "python train.py", ("/dev/nvidia0", "/dev/nvidiactl")),
    ]


@pytest.mark.parametrize(
    "node",
    ["nvidia0", "nvidia-uvm", "nvidia-modeset", "nvidia-caps/nvidia-cap12", "dri/card1", "kfd", "vfio/12", "vfio/devices/vfio0"],
)
def test_every_kind_of_node_counts(tmp_path, node):
    make_process(tmp_path, 7, targets=[f"/dev/{node}"])
    assert [one.nodes for one in holders.scan_proc(str(tmp_path))] == [(f"/dev/{node}",)]


def test_a_node_removed_by_a_driver_reload_is_still_held(tmp_path):
    make_process(tmp_path, 7, targets=["/dev/nvidia0 (deleted)"])
    assert holders.scan_proc(str(tmp_path))[0].nodes == ("/dev/nvidia0",)


@pytest.mark.parametrize(
    ("cgroup", "unit", "container"),
    [
        ("0::/system.slice/nvidia-persistenced.service\n", "nvidia-persistenced.service", ""),
        (f"0::/system.slice/docker-{ID}.scope\n", "", ID[:12]),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", "", ID[:12]),
        (f"0::/system.slice/llm.service/libpod-payload-{ID}\n", "llm.service", ID[:12]),
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{UID}.slice/cri-containerd-{ID}.scope\n", "", ID[:12]),
        (f"0::/kubepods.slice/kubepods-{UID}.slice/crio-{ID}.scope\n", "", ID[:12]),
        (f"0::/kubepods/burstable/{UID}/{ID}\n", "", ID[:12]),
        (f"12:devices:/docker/{ID}\n11:cpuset:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n", "", ID[:12]),
        ("12:devices:/system.slice\n1:name=systemd:/system.slice/dcgm.service\n0::/\n", "dcgm.service", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service\n", "jupyter.service of uid 1000", ""),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope", ""),
        ("0::/system.slice/system-gpu.slice/my\\x2dgpu.service\n", "my\\x2dgpu.service", ""),
        ("0::/lxc.payload.web1/system.slice/app.service\n", "app.service of container web1", "web1"),
        # What only a manager below the system's own has is called as what it is.
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gpu.slice/gpu@7.service\n",
            "gpu@7.service of uid 1000",
            "",
        ),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "init.scope of uid 1000", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service/b.service\n", "a.service of uid 1000", ""),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container\n",
            "user@1000.service",
            ID[:12],
        ),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/app.slice/llm.service/libpod-payload-{ID}\n",
            "llm.service of uid 1000",
            ID[:12],
        ),
        (f"0::/system.slice/docker-{ID}.scope/system.slice/nginx.service\n", f"nginx.service of container {ID[:12]}", ID[:12]),
        (f"0::/system.slice/docker-{ID}.scope/init.scope\n", f"init.scope of container {ID[:12]}", ID[:12]),
        (
            f"0::/docker/{ID}/user.slice/user-0.slice/user@0.service/x.service\n",
            f"user@0.service of container {ID[:12]}",
            ID[:12],
        ),
        ("5:devices:/lxc/web1/system.slice/app.service\n", "app.service of container web1", "web1"),
        ("0::/lxc.payload/web1/system.slice/app.service\n", "app.service of container web1", "web1"),
        ("0::/machine.slice/systemd-nspawn@web.service/payload/system.slice/app.service\n", "systemd-nspawn@web.service", ""),
        ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator\n", "machine-qemu\\x2d1\\x2dvm.scope", ""),
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", "slurmstepd.scope", ""),
        ("0::/system.slice/mnt-data.mount\n", "mnt-data.mount", ""),
        ("0::/system.slice/_cpu.service\n", "cpu.service", ""),
        ("0::/../../system.slice/dcgm.service\n", "dcgm.service", ""),
        ("0::/\n", "", ""),
        ("", "", ""),
        ("rubbish\n", "", ""),
    ],
)
def test_unit_and_container_of_a_cgroup(cgroup, unit, container):
    assert holders.parse_cgroup(cgroup) == (unit, container)


def test_the_command_of_a_process_without_arguments_is_its_name_in_brackets(tmp_path):
    make_process(tmp_path, 9, cmdline="", comm="nv_queue", targets=["/dev/nvidia0"])
    assert holders.scan_proc(str(tmp_path))[0].command == "[nv_queue]"


def test_a_long_command_is_cut(tmp_path):
    make_process(tmp_path, 9, cmdline="x" * 500, targets=["/dev/nvidia0"])
    command = holders.scan_proc(str(tmp_path))[0].command
    assert len(command) == 200 and command.endswith("...")


def test_what_vanished_is_left_out(tmp_path):
    make_process(tmp_path, 5, targets=["/dev/nvidia0"])
    (tmp_path / "6").mkdir()
    base = make_process(tmp_path, 7, targets=["/dev/nvidia1"])
    for name in ("cgroup", "cmdline", "comm"):
        (base / name).unlink()
    # A process that ended after its descriptors were read has a pid, and nothing else is known of it.
    assert [(one.pid, one.command) for one in holders.scan_proc(str(tmp_path))] == [(5, "python train.py"), (7, "")]
    assert holders.scan_proc(str(tmp_path / "none")) == []


def test_a_real_process_is_found_while_it_runs(tmp_path):
    node = tmp_path / "dev" / "nvidia0"
    node.parent.mkdir()
    node.touch()
    program = "import sys; held = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", program, str(node)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().strip() == b"ready"
        found = [one for one in holders.scan_proc(dev=str(node.parent)) if one.pid == child.pid]
        child.stdin.close()
    assert [one.nodes for one in found] == [(str(node),)]
    assert found[0].command.startswith(sys.executable)  # the path at its end may be cut: see above
    assert child.pid not in [one.pid for one in holders.scan_proc(dev=str(node.parent))]


@pytest.mark.parametrize(
    ("command", "domain"),
    [
        ("/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S", "web"),
        ("/usr/libexec/qemu-kvm -name web,process=x", "web"),
        ("kvm -m 1 --name vm-7", "vm-7"),
        ("qemu-system-aarch64 -name debug-threads=on,guest=a,,b", "a,b"),
        ("qemu-system-x86_64 -m 1", ""),
        ("qemu-system-x86_64 -name", ""),
        ("qemu-system-x86_64 -name guest=", ""),
        ("qemu-img -name guest=web", ""),
        ("python3 -name guest=web", ""),
        ("", ""),
    ],
)
def test_a_virtual_machine_is_called_as_its_domain(tmp_path, command, domain):
    assert holders.domain_of(command.split()) == domain
    make_process(tmp_path, 9, cmdline=command.replace(" ", "\0") + "\0", targets=["/dev/vfio/7"])
    [found] = holders.scan_proc(str(tmp_path))
    assert found.domain == domain == found.as_dict().get("domain", "")
    assert str(found).endswith(f", domain {domain})" if domain else ")") and ("domain" in str(found)) == bool(domain)


def test_the_name_of_a_domain_moves_no_cursor_and_has_an_end(tmp_path):
    command = f"qemu-kvm\0-accel\0{'x' * 300}\0-name\0guest=\x1b[2J{'y' * 300}\0"
    make_process(tmp_path, 9, cmdline=command, targets=["/dev/vfio/7"])
    [found] = holders.scan_proc(str(tmp_path))
    assert found.domain.startswith("\\x1b[2Jyyy") and len(found.domain) == 255
