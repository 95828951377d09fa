"""
salt-ssh: the engine travels in Salt's thin package, to an sshd of our own on 127.0.0.1, and slices a simulated host there.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from tests.support import needs

pytestmark = [
    pytest.mark.slow,
    needs.programs("ssh", "scp", "ssh-keygen", "ssh-keyscan", "sshd", "python3"),
    pytest.mark.skipif(os.geteuid() != 0, reason="sshd lets root in only where it runs as root"),
]

PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"3g.40gb": 2}}}}
# A wrapper script of a Python version manager, first on root's path, is not what a thin package can be run with.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def free_port():
    """A port of 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with keys for a server and a user."""
    root = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True, timeout=30)
    return root


@pytest.fixture(scope="module")
def port(place):
    """The port of an sshd that lets the user in by the key; it ends with the tests."""
    number = free_port()
    config = {
        "Port": number,
        "ListenAddress": "127.0.0.1",
        "HostKey": place / "host",
        "AuthorizedKeysFile": place / "user.pub",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "Subsystem": "sftp internal-sftp",
    }
    (place / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in config.items()), encoding="utf-8")
    # The directory that sshd gives up its rights in: distributions make it when the service starts.
    pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = subprocess.Popen([needs.path("sshd"), "-D", "-f", str(place / "sshd_config"), "-E", str(place / "sshd.log")])
    try:
        _learn_host_key(place, number)
        yield number
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=10)


def _learn_host_key(place, number):
    for _ in range(50):
        keys = subprocess.run(["ssh-keyscan", "-p", str(number), "127.0.0.1"], capture_output=True, text=True, timeout=30)
        if keys.stdout:
            (place / "known_hosts").write_text(keys.stdout, encoding="utf-8")
            return
        time.sleep(0.1)
    pytest.fail(f"sshd does not answer: {(place / 'sshd.log').read_text(encoding='utf-8')}")


def _configure(place, delivered, port, description):
    (place / "pillar").mkdir()
    (place / "pillar" / "top.sls").write_text("base:\n  '*': [gpu]\n", encoding="utf-8")
    (place / "pillar" / "gpu.sls").write_text(yaml.safe_dump(PILLAR), encoding="utf-8")
    master = {
        "root_dir": str(place / "root"),
        "file_roots": {"base": [str(delivered), str(delivered / "states")]},
        "pillar_roots": {"base": [str(place / "pillar")]},
        "thin_extra_mods": "gpuslice,pynvml",
        "log_level": "error",
    }
    node = {
        "host": "127.0.0.1",
        "port": port,
        "user": "root",
        "priv": str(place / "user"),
        "set_path": SYSTEM_PATH,
        "thin_dir": str(place / "thin"),
        "ssh_options": [f"UserKnownHostsFile={place / 'known_hosts'}"],
        "minion_opts": {"gpu_slicing": {"simulate": str(description), "state_dir": str(place / "state")}},
    }
    config = place / "conf"
    config.mkdir()
    (config / "master").write_text(yaml.safe_dump(master), encoding="utf-8")
    (config / "roster").write_text(yaml.safe_dump({"node": node}), encoding="utf-8")


@pytest.fixture(scope="module")
def salt_ssh(place, port, delivered, repo, example_host):
    """``salt_ssh("gpu.map")`` runs the real salt-ssh and returns what the node answered."""
    usable = subprocess.run(
        ["python3", "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, env={"PATH": SYSTEM_PATH}
    )
    if usable.returncode or tuple(map(int, usable.stdout.split())) < (3, 10):
        pytest.skip(needs.said({"python3": "3.10 or newer"}))
    _configure(place, delivered, port, example_host("dgx-h100"))
    program = pathlib.Path(sys.executable).parent / "salt-ssh"
    # Where salt-ssh finds the engine that it takes along: an installed wheel would do as well.
    environment = {**os.environ, "PYTHONPATH": str(repo / "_utils")}

    def call(*args):
        command = [str(program), "-c", str(place / "conf"), "--out", "json", "--static", "node", *args]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180)
        found = re.search(r"^\{.*^\}", done.stdout, re.MULTILINE | re.DOTALL)
        assert found, done.stdout + done.stderr
        return json.loads(found.group())["node"]

    return call


def results(states):
    """Function -> result of each state of a run."""
    assert isinstance(states, dict) and all("__id__" in state for state in states.values()), states
    return {key.split("_|-")[0] + "." + key.rsplit("_|-")[-1]: state["result"] for key, state in states.items()}


def test_a_host_without_a_minion_is_sliced(salt_ssh):
    assert salt_ssh("grains.get", "gpu:count") == 8
    assert salt_ssh("gpu.slices") == []

    tested = results(salt_ssh("state.apply", "gpu_slicing", "test=True"))
    assert tested["gpu_slicing.converged"] is None
    assert salt_ssh("gpu.slices") == []

    applied = results(salt_ssh("state.apply", "gpu_slicing"))
    assert set(applied) == {"gpu_slicing.discovered", "gpu_slicing.converged", "gpu_slicing.validated"}
    assert all(applied.values())
    slices = salt_ssh("gpu.slices")
    assert [part["profile"] for part in slices] == ["3g.40gb"] * 16

    again = salt_ssh("state.apply", "gpu_slicing")
    assert not any(state["changes"] for state in again.values())
    assert salt_ssh("gpu.slices") == slices
