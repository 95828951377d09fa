"""
What runs in the virtual machine: the engine, on the kernel's dmem and systemd. Each case goes on from the one before, and answers
with plain data; ``tests/parts/test_dmem_vm.py`` says what it must be. The only argument is the file that the answers go to.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.host.real import RealHost
from gpuslice.inventory import grain

CARD = "0000:00:05.0"
CONFIG, CONF = {"state_dir": "/run/state"}, pathlib.Path("/run/conf")
CODE = pathlib.Path(__file__).resolve().parent.parent
GROUPS = pathlib.Path("/sys/fs/cgroup")
SLICE, OTHERS = "gpuslicing-trainer.slice", "other.slice"
SETTER = "gpuslicing-trainer.service"


def pillar(mebibytes=None):
    """A pillar that hands the card to a service, with a limit or without."""
    limits = {"resource_limits": {"vram_mib": mebibytes}} if mebibytes else {}
    trainer = {"kind": "service", "unit": "trainer.service", "slice": {"gpu": CARD}, **limits}
    return {
        "containers_gpu_slicing": {"enabled": True, "strategy": "none"},
        "containers_gpu_container_integration": {"consumers": {"trainer": trainer}},
    }


def apply(mebibytes=None):
    try:
        with Engine(CONFIG) as engine:
            result = engine.apply(pillar(mebibytes))
    except errors.GpuSliceError as err:
        return {"ok": False, "errors": [str(err)]}
    steps = [step.words for step in result.plan.steps]
    return {"ok": result.ok, "steps": steps, "plan": str(result.plan), "errors": result.errors}


def systemctl(*words):
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


def group(unit):
    parent = f"{unit.partition('-')[0]}.slice" if "-" in unit else ""
    return GROUPS / parent / unit


def rows(unit, name):
    """A file of dmem, by region; None where there is no such group."""
    path = group(unit) / f"dmem.{name}"
    return dict(line.split() for line in path.read_text().splitlines()) if path.exists() else None


def figures():
    return {unit: {name: rows(unit, name) for name in ("max", "current")} for unit in (SLICE, OTHERS)}


def wants(unit):
    """Start a service anew that asks for 160 MiB, and wait for what it gets."""
    told = pathlib.Path(f"/run/{unit}.json")
    told.unlink(missing_ok=True)
    said = systemctl("restart", f"{unit}.service")
    end = time.monotonic() + 60
    while not told.exists() and time.monotonic() < end:
        time.sleep(0.1)
    if not told.exists():
        return {"untold": said + systemctl("status", f"{unit}.service", SETTER)}
    return json.loads(told.read_text())


def salt(*words):
    """The real salt-call; what it answers, and what it said."""
    if not CONF.exists():
        folders = {"module": "_modules", "states": "_states", "grains": "_grains", "utils": "_utils"}
        options = {"id": "vm", "root_dir": "/run/salt", "file_client": "local", "log_level": "error", "gpu_slicing": CONFIG,
                   "enable_gpu_grains": False, "enable_fqdns_grains": False,
                   **{f"{kind}_dirs": [str(CODE / folder)] for kind, folder in folders.items()}}  # fmt: skip
        CONF.mkdir()
        (CONF / "minion").write_text(json.dumps(options))
    command = [os.path.join(sys.prefix, "bin", "salt-call"), "--local", "--config-dir", str(CONF), "--out", "json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def case_there():
    facts = grain.facts(RealHost(CONFIG["state_dir"]))
    release = os.uname().release
    systemd = systemctl("--version").split("\n", maxsplit=1)[0]
    return {
        "kernel": release, "systemd": systemd, "capacity": (GROUPS / "dmem.capacity").read_text().split(),
        "switched on": (GROUPS / "cgroup.subtree_control").read_text().split(),
        "grain": [facts["vram_quota"], facts["devices"][0]["vram_quota"]],
    }  # fmt: skip


def case_limited():
    """From the pillar to a refused allocation, beside one that is not limited."""
    applied = apply(64)
    found = {"applied": applied, "before": rows(SLICE, "max"), "trainer": wants("trainer"), "other": wants("other")}
    return {**found, "figures": figures(), "again": apply(64)}


def case_survives():
    """What systemd does to its units leaves the limit."""
    systemctl("daemon-reload")
    systemctl("daemon-reexec")
    systemctl("set-property", "--runtime", SLICE, "TasksMax=100")
    return {"max": rows(SLICE, "max"), "again": apply(64)["steps"]}


def case_another():
    """Another number alone starts nobody anew."""
    before = systemctl("show", "-P", "MainPID", "trainer.service")
    applied = apply(96)
    return {
        "applied": applied, "same": before == systemctl("show", "-P", "MainPID", "trainer.service"), "max": rows(SLICE, "max"),
        "trainer": wants("trainer"),
    }  # fmt: skip


def case_slice_stopped():
    systemctl("stop", SLICE)
    found = {"group": group(SLICE).exists(), "setter": systemctl("is-active", SETTER)}
    return {**found, "trainer": wants("trainer"), "max": rows(SLICE, "max")}


def case_driver_reloaded():
    """The slice lives on, and its limit is gone."""
    systemctl("stop", "trainer.service", "other.service")
    said = [subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stderr
            for words in (["busybox", "rmmod", "amdgpu"], ["busybox", "insmod", str(CODE / "amdgpu.ko")])]  # fmt: skip
    found = {"said": said, "max": rows(SLICE, "max"), "setter": systemctl("is-active", SETTER)}
    found["check"] = salt("gpu_consumer.check", "trainer")
    return {**found, "applied": apply(96), "again": rows(SLICE, "max"), "trainer": wants("trainer")}


def case_lifted():
    applied = apply()
    return {"applied": applied, "group": group(SLICE).exists(), "trainer": wants("trainer"), "again": apply()["steps"]}


def main(path):
    """Run every case, also after one that failed, and write a line for each."""
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
