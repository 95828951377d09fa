"""
A kube-apiserver and etcd on the loopback, with ports and a folder of their own, ended by their processes. There are no
controllers and no kubelet.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import time

from tests.support import needs

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 60
#: Who asks, by the name of the kubeconfig: user and groups.
USERS = {"admin": "system:masters", "slicer": "", "reader": "", "kubelet": "system:nodes"}
_CONFIG = """apiVersion: v1
kind: Config
current-context: test
clusters:
- name: test
  cluster: {{server: "https://127.0.0.1:{port}", insecure-skip-tls-verify: true}}
users:
- name: test
  user: {{token: {token}}}
contexts:
- name: test
  context: {{cluster: test, user: test}}
"""


def programs():
    """The folder with kube-apiserver and etcd; None where they were not made."""
    done = subprocess.run([str(ROOT / "tests/parts/kube/fetch")], capture_output=True, text=True, timeout=SECONDS, check=False)
    return pathlib.Path(done.stdout.strip()) if done.returncode == 0 else None


def lacking():
    """Why the API server can't run here, "" where it can."""
    if why := needs.lacking("kubectl", "openssl"):
        return why
    return "" if programs() else needs.said({"kube-apiserver": "built by: make kube-apiserver"})


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def user(name):
    """A user's name in the cluster."""
    return "system:node:n1" if name == "kubelet" else name


class Cluster:
    """:param place: an empty folder."""

    def __init__(self, place):
        self.place, self._programs, self.running = place, programs(), {}
        self.port, self._store, self._peers = free_port(), free_port(), free_port()
        tokens = [f'{name}-word,{user(name)},{name},"{groups}"\n' for name, groups in USERS.items()]
        (place / "tokens.csv").write_text("".join(tokens))
        for name in [*USERS, "stranger"]:
            self.kubeconfig(name).write_text(_CONFIG.format(port=self.port, token=f"{name}-word"))
            self.kubeconfig(name).chmod(0o600)
        make = [needs.path("openssl"), "genrsa", "-out", str(place / "sa.key"), "2048"]
        subprocess.run(make, capture_output=True, timeout=SECONDS, check=True)

    def kubeconfig(self, name):
        return self.place / f"{name}.kubeconfig"

    def start(self):
        """Start both, and wait until the server is ready."""
        if "etcd" not in self.running:
            store, peers = f"http://127.0.0.1:{self._store}", f"http://127.0.0.1:{self._peers}"
            self._run(
                "etcd", "--data-dir", str(self.place / "etcd"), "--listen-client-urls", store, "--advertise-client-urls", store,
                "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
                "--unsafe-no-fsync",
            )  # fmt: skip
        key = str(self.place / "sa.key")
        self._run("kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{self._store}", "--secure-port", str(self.port),
                  "--bind-address", "127.0.0.1", "--cert-dir", str(self.place / "certs"), "--service-account-key-file", key,
                  "--service-account-signing-key-file", key, "--service-account-issuer", "https://k.local",
                  "--token-auth-file", str(self.place / "tokens.csv"), "--authorization-mode", "Node,RBAC",
                  "--service-cluster-ip-range", "10.96.0.0/16", "--enable-admission-plugins", "NodeRestriction",
                  "--disable-admission-plugins", "ServiceAccount,TaintNodesByCondition")  # fmt: skip
        end = time.monotonic() + SECONDS
        while self.kubectl("get", "--raw", "/readyz", check=False).returncode:
            said = (self.place / "kube-apiserver.log").read_text()[-2000:]
            assert time.monotonic() < end and self.running["kube-apiserver"].poll() is None, said
            time.sleep(0.3)

    def end(self, *names):
        """End these by their processes, all without a name."""
        for name in names or list(self.running):
            process = self.running.pop(name)
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubectl(self, *arguments, given="", who="admin", check=True):
        """What kubectl answers somebody."""
        command = [needs.path("kubectl"), f"--kubeconfig={self.kubeconfig(who)}", f"--cache-dir={self.place}/cache", *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS, check=check)

    def create(self, **made):
        """Create an object; a status, which needs a request of its own, is put on it."""
        made = json.loads(self.kubectl("create", "-o", "json", "-f", "-", given=json.dumps(made)).stdout) | (
            {"status": made["status"]} if "status" in made else {}
        )
        if "status" in made:
            self.put_status(made)
        return made

    def put_status(self, made):
        """Put the status of an object."""
        about = made["metadata"]
        group = f"apis/{made['apiVersion']}" if "/" in made["apiVersion"] else f"api/{made['apiVersion']}"
        inside = f"/namespaces/{about['namespace']}" if "namespace" in about else ""
        plural = {"PodDisruptionBudget": "poddisruptionbudgets"}.get(made["kind"], made["kind"].lower() + "s")
        self.kubectl("replace", "--raw", f"/{group}{inside}/{plural}/{about['name']}/status", "-f", "-", given=json.dumps(made))

    def _run(self, name, *arguments):
        # It ends also where the tests are killed.
        command = [needs.path("setpriv"), "--pdeathsig", "KILL", str(self._programs / name), *arguments]
        environment = {**os.environ, "HOME": str(self.place)}
        with (self.place / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place, env=environment
            )


@contextlib.contextmanager
def cluster(place):
    """A cluster that runs."""
    made = Cluster(place)
    try:
        made.start()
        yield made
    finally:
        made.end()
