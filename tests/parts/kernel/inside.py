"""
What runs in the virtual machine: the engine, through its RealHost, on the files of the kernel. Each case answers with plain data;
``tests/parts/test_kernel_vm.py`` says what it must be. The only argument is the file that the answers go to, a line each.
"""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.host.real import RealHost
from gpuslice.inventory import grain

MI300X, FLEX, H100 = "0010:00:00.0", "0010:00:04.0", "0010:00:08.0"
XCP = "compute_partition_config"
STATE, CONF = "/run/state", pathlib.Path("/run/conf")
CONFIG = {"state_dir": STATE}
CODE = pathlib.Path(__file__).resolve().parent.parent
DEVICES = pathlib.Path("/sys/bus/pci/devices")


# -- looking --------------------------------------------------------------------------------------------------------------
def read(address, name):
    return (DEVICES / address / name).read_text().strip()


def driver(address):
    link = DEVICES / address / "driver"
    return os.path.basename(os.readlink(link)) if link.exists() else ""


def vfs(address=FLEX):
    """Number and addresses of the virtual functions, as the files say."""
    links = sorted((DEVICES / address).glob("virtfn*"), key=lambda link: int(link.name[6:]))
    return [int(read(address, "sriov_numvfs")), [os.path.basename(os.readlink(link)) for link in links]]


def profile(owner, name):
    """A file of the directory that xe has for a function of the Flex 170."""
    return read(FLEX, f"sriov_admin/{owner}/profile/{name}")


def modes():
    return [read(MI300X, "current_compute_partition"), read(MI300X, "current_memory_partition")]


def overrides():
    return {address: read(address, "driver_override") for address in (MI300X, FLEX, H100)}


# -- doing ----------------------------------------------------------------------------------------------------------------
def pillar(address, strategy, section=None, **management):
    """A pillar that is about one GPU."""
    return {
        "containers_gpu_discovery": {"method": "manual", "devices": [address]},
        "containers_gpu_slicing": {"enabled": True, "strategy": strategy, **({strategy: section} if section else {})},
        "containers_gpu_state_management": management,
    }


def told(result):
    return {
        "ok": result.ok, "steps": [step.words for step in result.plan.steps], "errors": result.errors,
        "changed": bool(result.changes), "warnings": result.warnings,
    }  # fmt: skip


def attempt(work):
    """What ``work(engine)`` comes to: a result, or the class and the sentence of a refusal."""
    try:
        with Engine(CONFIG) as engine:
            return told(work(engine))
    except errors.GpuSliceError as err:
        return {"ok": False, "steps": [], "errors": [str(err)], "kind": type(err).__name__}


def apply(*args, **kwargs):
    return attempt(lambda engine: engine.apply(pillar(*args, **kwargs)))


def sriov(count, **section):
    """Virtual functions of the Flex 170, for the host's own driver unless the section says otherwise."""
    found = apply(FLEX, "sriov", {"vf_count": count, "profile": "fair", "autoprobe": True, **section})
    return {**found, "vfs": vfs()}


def next_enabling_fails_with(number):
    """See ``xe.c``: once, and with EINTR it ends the process that asked and the one that :func:`that_is_the_engine` named."""
    pathlib.Path("/sys/module/xe/parameters/fail").write_text(str(number))


def that_is_the_engine():
    """This process is the one that has the kernel asked: another one does it, so that a hanging kernel does not hang the run."""
    pathlib.Path("/sys/module/xe/parameters/engine").write_text(str(os.getpid()))


def partition(reload=False, **section):
    found = apply(MI300X, "partition", section, **({"unload_modules": ["amdgpu"]} if reload else {}))
    return {**found, "modes": modes()}


def give(address, bound):
    """Passthrough by hand."""
    return attempt(lambda engine: engine.reconciler().apply(engine.wanted("passthrough", address, {"bound": bound})))


def passed(address, bound):
    return {**give(address, bound), "driver": driver(address), "override": read(address, "driver_override")}


class Held:
    """A process that has a device node open; ``pid`` is its number."""

    def __init__(self, node):
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec 3<>"$1" && echo ready && read -r line', "holder", node],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdout.readline() == "ready\n", node

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate("\n")


def vfio_node(address):
    """The node that a virtual machine opens for a function that vfio-pci has; it is made a moment after the binding."""
    node = f"/dev/vfio/{os.path.basename(os.readlink(DEVICES / address / 'iommu_group'))}"
    for _ in range(50):
        if os.path.exists(node):
            break
        time.sleep(0.1)
    return node


def give_to_vfio(address):
    """Bind a function to vfio-pci by hand, as managers of virtual machines do."""
    subprocess.run(["modprobe", "vfio-pci"], check=True)
    if driver(address):
        (DEVICES / address / "driver" / "unbind").write_text(address)
    (DEVICES / address / "driver_override").write_text("vfio-pci")
    pathlib.Path("/sys/bus/pci/drivers_probe").write_text(address)
    return driver(address)


# -- cases, in this order ---------------------------------------------------------------------------------------------------
def case_inventory():
    with Engine(CONFIG) as engine:
        return {"devices": engine.devices(), "facts": grain.facts(engine.host), "health": engine.health()}


def case_rules():
    """The errno of each write, by RealHost: what the simulated hosts and other stand-ins are to agree with."""
    host, found = RealHost(STATE), []
    writes = [(FLEX, text) for text in ("x", "-1", "32", "3", "3", "5", "0", "5", "0")]
    for address, text in [*writes, (MI300X, "1"), (H100, "1")]:
        try:
            host.write(f"{DEVICES}/{address}/sriov_numvfs", text)
            found.append([address, text, ""])
        except OSError as err:
            found.append([address, text, errno.errorcode[err.errno]])
    return found


def case_passthrough():
    found = {"before": overrides(), "first": passed(H100, True), "again": passed(H100, True)}
    with Engine(CONFIG) as engine:
        found["slices"] = engine.slices(H100)
        found["techniques"] = [tool.name for tool in engine.techniques_of(engine.gpu(H100))]
    with Held(vfio_node(H100)) as holder:
        found["held"] = {**passed(H100, False), "pid": holder.pid}
    found["back"], found["back again"] = passed(H100, False), passed(H100, False)
    return {**found, "after": overrides()}


def case_passthrough_by_pillar():
    """A GPU with partition files, then what it no longer can do, and a rollback."""
    found = {"first": apply(MI300X, "passthrough"), "driver": driver(MI300X)}
    found["partition"] = apply(MI300X, "partition", {"compute": "CPX"})
    found["back"] = attempt(lambda engine: engine.reconciler().apply(engine.rollback_targets()))
    return {**found, "modes": modes(), "after": driver(MI300X)}


def case_passthrough_of_pf():
    """Refused while it has virtual functions; with none it goes, and then has no virtual functions."""
    sriov(2)
    found = {"with": passed(FLEX, True)}
    sriov(0)
    return {**found, "without": passed(FLEX, True), "sriov": sriov(2), "back": passed(FLEX, False)}


def case_sriov():
    found = {"first": sriov(4), "again": sriov(4), "drivers": [driver(address) for address in vfs()[1]]}
    found["shares"] = [profile(owner, "vram_quota") for owner in ("vf1", "vf4", "vf5")]
    return {**found, "more": sriov(31), "too many": sriov(32), "none": sriov(0), "none again": sriov(0)}


def case_sriov_quotas():
    """Memory and turns of single functions, by the driver's files."""
    own = {1: {"vram_mib": 4096, "exec_quantum_ms": 20}, 2: {"vram_mib": 2048}}
    found = {"made": sriov(2, vfs=own), "again": sriov(2, vfs=own)}
    found["files"] = [[profile(owner, "vram_quota"), profile(owner, "exec_quantum_ms")] for owner in ("vf1", "vf2")]
    with Engine(CONFIG) as engine:
        found["slices"] = engine.slices(FLEX)
    found["too much"] = sriov(2, vfs={1: {"vram_mib": 12000}, 2: {"vram_mib": 12000}})
    return {**found, "none": sriov(0), "left": profile("vf1", "vram_quota")}


def case_sriov_preset():
    """The vendor's preset of this model."""
    found = {"made": sriov(4, profile="auto"), "again": sriov(4, profile="auto")}
    found["turns"] = [profile(owner, "exec_quantum_ms") for owner in ("pf", "vf1", "vf4", "vf5")]
    return {**found, "none": sriov(0), "left": [profile(owner, "exec_quantum_ms") for owner in ("pf", "vf1", "vf4")]}


def case_sriov_failure():
    """The driver answers ENOSPC once, in the middle of 3 -> 5."""
    sriov(3)
    before = profile("vf3", "vram_quota")
    next_enabling_fails_with(errno.ENOSPC)
    found = {"failed": sriov(5), "shares": [before, profile("vf3", "vram_quota")]}
    return {**found, "after": sriov(5), "none": sriov(0)}


def case_sriov_killed():
    """``kill -9`` in the middle of 3 -> 5: the old functions are gone, the new ones not yet there."""
    sriov(3)
    next_enabling_fails_with(errno.EINTR)
    child = os.fork()
    if child == 0:
        that_is_the_engine()
        sriov(5)
        os._exit(0)
    found = {"signal": os.waitpid(child, 0)[1] & 0x7F, "left": vfs()}
    return {**found, "after": sriov(5), "again": sriov(5), "none": sriov(0)}


def case_sriov_held():
    """A function that the host's driver has, and one that a virtual machine has."""
    sriov(3)
    node = "/dev/dri/" + next(name for name in os.listdir(DEVICES / vfs()[1][1] / "drm") if name.startswith("renderD"))
    with Held(node) as holder:
        found = {"by host": {**sriov(5), "pid": holder.pid, "node": node}}
    sriov(0)
    found["free"] = sriov(2, autoprobe=False)
    found["unbound"] = [driver(address) for address in vfs()[1]]
    found["bound"] = give_to_vfio(vfs()[1][0])
    with Held(vfio_node(vfs()[1][0])) as holder:
        found["by guest"] = {**sriov(4, autoprobe=False), "pid": holder.pid}
        with Engine(CONFIG) as engine:
            found["slices"] = engine.slices(FLEX)
    return {**found, "released": sriov(4, autoprobe=False), "none": sriov(0)}


def case_sriov_elsewhere():
    """GPUs whose drivers make no virtual functions."""
    return {"amd": apply(MI300X, "sriov", {"vf_count": 1}), "nvidia": apply(H100, "sriov", {"vf_count": 1}), "vfs": vfs(MI300X)}


def case_reload():
    """The driver is loaded anew, as at a boot: the functions are gone, and the replay brings them back."""
    sriov(3)
    subprocess.run(["modprobe", "-r", "xe"], check=True)
    found = {"gone": [driver(FLEX), vfs()[0]], "without": sriov(2)}
    subprocess.run(["modprobe", "xe"], check=True)
    with Engine(CONFIG) as engine:
        found["replayed"] = replay.replay(engine, wait=0)
    return {**found, "after": vfs(), "none": sriov(0)}


def case_partition():
    found = {"first": partition(compute="CPX", memory="NPS1"), "again": partition(compute="CPX", memory="NPS1")}
    with Engine(CONFIG) as engine:
        found["slices"] = engine.slices(MI300X)
    found["impossible"] = partition(compute="TPX")
    with Held("/dev/dri/renderD128") as holder:
        found["held"] = {**partition(compute="SPX"), "pid": holder.pid}
    return {**found, "back": partition(compute="SPX", memory="NPS1")}


def case_partition_memory():
    """The memory mode needs the driver to be reloaded, by the real modprobe."""
    found = {"forbidden": partition(compute="QPX", memory="NPS4")}
    with Held("/dev/dri/renderD128") as holder:
        found["held"] = {**partition(compute="QPX", memory="NPS4", reload=True), "pid": holder.pid}
    found["changed"] = partition(compute="QPX", memory="NPS4", reload=True)
    found["listed"] = [read(MI300X, name) for name in ("available_compute_partition", f"{XCP}/supported_xcp_configs")]
    with Engine(CONFIG) as engine:
        [(one, tool)], _ = engine.techniques("partition", MI300X)
        found["available"] = tool.available(one)
    found["again"] = partition(compute="QPX", memory="NPS4", reload=True)
    return {**found, "back": partition(compute="SPX", memory="NPS1", reload=True)}


def case_removed():
    """A GPU falls off the bus after it was found, and comes back by a rescan."""

    def work(engine):
        targets = engine.wanted("passthrough", H100, {"bound": True})
        (DEVICES / H100 / "remove").write_text("1")
        return engine.reconciler().apply(targets)

    found = {"during": attempt(work), "after": give(H100, True)}
    pathlib.Path("/sys/bus/pci/rescan").write_text("1")
    return {**found, "back": driver(H100)}


def case_salt():
    """The real salt-call, once. YAML takes this address for a number, which it is turned back from."""
    write_minion()
    command = [os.path.join(sys.prefix, "bin", "salt-call"), "--local", "--config-dir", str(CONF), "--out", "json"]
    command += ["gpu_sriov.set_vfs", FLEX, "2", "profile=fair", "autoprobe=True"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return {"out": done.stdout, "err": done.stderr, "code": done.returncode, "vfs": vfs()}


def write_minion():
    """The minion's configuration. JSON is YAML."""
    folders = {"module": "_modules", "states": "_states", "grains": "_grains", "utils": "_utils"}
    options = {"id": "vm", "root_dir": "/run/salt", "file_client": "local", "log_level": "warning", "gpu_slicing": CONFIG,
               "enable_gpu_grains": False, "enable_fqdns_grains": False,
               **{f"{kind}_dirs": [str(CODE / folder)] for kind, folder in folders.items()}}  # fmt: skip
    CONF.mkdir()
    (CONF / "minion").write_text(json.dumps(options))


def main(path):
    """Run every case, also after one that failed, and write a line for each."""
    subprocess.run(["modprobe", "-a", "fake_gpus", "amdgpu", "xe", "nvidia"], check=True)
    os.makedirs(STATE)
    os.chdir(STATE)
    with open(path, "w", encoding="utf-8") as answers:
        for name in [name for name in globals() if name.startswith("case_")]:
            begun = time.monotonic()
            try:
                answer = globals()[name]()
            except Exception:
                answer = {"traceback": traceback.format_exc()}
            print(name, f"{time.monotonic() - begun:.1f} s", flush=True)
            print(json.dumps([name.removeprefix("case_"), answer]), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
