"""
A second, independent NVML: ``nvml.c`` of this folder, compiled as ``libnvidia-ml.so.1``, and the machine around it.

It is written from NVML's documented behaviour and knows nothing of the project, so that the real path (the real Python
bindings, a real dynamic library, real processes) is tested against something that the engine's authors did not shape.
``nvml.c`` lists the environment variables that describe the machine.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")

A100 = "0000:07:00.0"
H100 = "0000:1b:00.0"

#: Model of nvml.c -> PCI device id and subsystem device id.
PCI_IDS = {"a100": ("20b0", "134f"), "h100": ("2330", "16c1")}

_FLAGS = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]

#: For a look at the machine that no setting of a test disturbs and no log shows.
_UNDISTURBED = {"FAKE_NVML_LOG": os.devnull, "FAKE_NVML_UNPRIVILEGED": "0", "FAKE_NVML_INIT": "0", "FAKE_NVML_FAIL": ""}

#: What every script of :meth:`Machine.nvml` begins with.
_PRELUDE = '''
import ctypes, json, sys
from ctypes import byref
import pynvml as n

out = {}

def code(function, *args):
    """The error code of a call, 0 when it succeeds."""
    try:
        function(*args)
    except n.NVMLError as err:
        return err.value
    return 0

def place(start, size):
    return byref(n.c_nvmlGpuInstancePlacement_t(start, size))

def ci_place(start, size):
    return byref(n.c_nvmlComputeInstancePlacement_t(start, size))

def gpu(address):
    return n.nvmlDeviceGetHandleByPciBusId(address)

def gpu_instances(device):
    found = []
    for profile in (19, 20, 15, 14, 9, 5, 0):
        array, count = (n.c_nvmlGpuInstance_t * 7)(), ctypes.c_uint()
        n.nvmlDeviceGetGpuInstances(device, profile, array, byref(count))
        found += array[:count.value]
    return found

def compute_instances(gi):
    found = []
    for profile in range(9):
        array, count = (n.c_nvmlComputeInstance_t * 7)(), ctypes.c_uint()
        if code(n.nvmlGpuInstanceGetComputeInstances, gi, profile, array, byref(count)) == 0:
            found += array[:count.value]
    return found

def layout(device):
    """Instances of a GPU: [profile id, start, size, GI id, [[CI profile id, start, UUID], ...]], by start."""
    found = []
    for gi in gpu_instances(device):
        info = n.nvmlGpuInstanceGetInfo(gi)
        cis = []
        for ci in compute_instances(gi):
            ci = n.nvmlComputeInstanceGetInfo(ci)
            cis.append([ci.profileId, ci.placement.start, n.nvmlDeviceGetUUID(ci.device)])
        found.append([info.profileId, info.placement.start, info.placement.size, info.id, sorted(cis)])
    return sorted(found, key=lambda item: item[1])
'''


def build(directory, old=False):
    """
    Compile the library and ``nvidia-smi``.

    :param directory: where to; it gets ``lib/libnvidia-ml.so.1`` and ``bin/nvidia-smi``.
    :param old: leave out what old drivers lack (versioned profile info, placement of compute instances, newer enums).
    :return: the directory as a :class:`Path`. Raises ``subprocess.CalledProcessError`` when the compiler fails.
    """
    directory = Path(directory)
    for name in ("lib", "bin"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    extra = ["-DFAKE_NVML_OLD"] if old else []
    library = ["-shared", "-fPIC", "-fvisibility=hidden", "-o", str(directory / "lib" / "libnvidia-ml.so.1")]
    program = ["-DFAKE_NVIDIA_SMI", "-o", str(directory / "bin" / "nvidia-smi")]
    for output in (library, program):
        subprocess.run(["gcc", *_FLAGS, *extra, *output, str(SOURCE), "-lpthread"], check=True)
    return directory


@dataclass
class Machine:
    """
    One described machine: a state file, a log of calls, and the environment that makes a process live on it.

    :ivar directory: a directory of its own.
    :ivar built: what :func:`build` returned; None for a machine without the vendor's library.
    :ivar gpus: ``[(model, PCI address), ...]`` with the models of :data:`PCI_IDS`.
    :ivar settings: environment variables (``FAKE_NVML_...``) added to every process.
    """

    directory: Path
    built: Path | None
    gpus: list = field(default_factory=lambda: [("a100", A100), ("h100", H100)])
    settings: dict = field(default_factory=dict)

    @property
    def log(self):
        """File with a line for each call."""
        return self.directory / "calls.log"

    def env(self, **settings):
        """The environment of a process on this machine; ``settings`` are added to those of the machine."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("FAKE_NVML_", "LD_"))}
        env["FAKE_NVML_STATE"] = str(self.directory / "machine")
        env["FAKE_NVML_GPUS"] = ",".join(f"{model}@{address}" for model, address in self.gpus)
        env["FAKE_NVML_LOG"] = str(self.log)
        if self.built:
            env["LD_LIBRARY_PATH"] = str(self.built / "lib")
            env["PATH"] = f"{self.built / 'bin'}{os.pathsep}{env['PATH']}"
        env.update(self.settings)
        env.update(settings)
        return env

    def start(self, script, **settings):
        """Start a Python process that runs ``script`` after the helpers of this module; see :meth:`nvml`."""
        text = f"{_PRELUDE}\n{script}\nprint(json.dumps(out))\n"
        return subprocess.Popen(
            [sys.executable, "-c", text],
            env=self.env(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def nvml(self, script, **settings):
        """
        Run Python lines in a process of their own with the real ``pynvml`` as ``n``.

        :param script: lines that fill the dict ``out``; they begin with ``n.nvmlInit()`` themselves.
        :return: that dict, after a trip through JSON. Raises ``AssertionError`` with the process' errors when it fails.
        """
        process = self.start(script, **settings)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        return json.loads(stdout)

    def layout(self, address):
        """Instances of a GPU, as ``[profile id, start, size, GI id, [[CI profile id, start, UUID], ...]]`` by start."""
        script = f"n.nvmlInit()\ndevice = gpu('{address}')\n"
        script += "out['it'] = layout(device) if n.nvmlDeviceGetMigMode(device)[0] else []"
        return self.nvml(script, **_UNDISTURBED)["it"]

    def mode(self, address):
        """``[current, pending]`` MIG mode of a GPU."""
        script = f"n.nvmlInit()\nout['it'] = n.nvmlDeviceGetMigMode(gpu('{address}'))"
        return self.nvml(script, **_UNDISTURBED)["it"]

    def calls(self, *functions):
        """
        Calls since :meth:`forget`, in order.

        :param functions: only these; all when none is given.
        :return: list of ``(function, subject, code)``.
        """
        if not self.log.exists():
            return []
        found = [line.split() for line in self.log.read_text(encoding="utf-8").splitlines()]
        found = [(function, subject, int(code)) for _, function, subject, code in found]
        return [call for call in found if not functions or call[0] in functions]

    def changes(self):
        """Calls that change the machine, whether they succeeded or not."""
        return [call for call in self.calls() if any(word in call[0] for word in ("Create", "Destroy", "SetMigMode", "reset"))]

    def forget(self):
        """Empty the log of calls."""
        self.log.write_text("", encoding="utf-8")

    def umockdev(self):
        """
        Describe the PCI side for ``umockdev-run -d``: the GPUs with NVIDIA's driver and a BMC's display controller.

        :return: path of the description.
        """
        parts = [_pci_device("0000:03:00.0", "1a03", "2000", "1a03", "2000", "030000", "ast")]
        for model, address in self.gpus:
            device, subsystem = PCI_IDS[model]
            parts.append(_pci_device(address, "10de", device, "10de", subsystem, "030200", "nvidia"))
        path = self.directory / "pci.umockdev"
        path.write_text("\n".join(parts), encoding="utf-8")
        return path


def _pci_device(address, vendor, device, subsystem_vendor, subsystem_device, pci_class, driver):
    return "\n".join(
        [
            f"P: /devices/pci0000:00/{address}",
            f"E: DRIVER={driver}",
            f"E: PCI_CLASS={pci_class.lstrip('0').upper()}",
            f"E: PCI_ID={vendor.upper()}:{device.upper()}",
            f"E: PCI_SUBSYS_ID={subsystem_vendor.upper()}:{subsystem_device.upper()}",
            f"E: PCI_SLOT_NAME={address}",
            "E: SUBSYSTEM=pci",
            f"A: vendor=0x{vendor}\\n",
            f"A: device=0x{device}\\n",
            f"A: subsystem_vendor=0x{subsystem_vendor}\\n",
            f"A: subsystem_device=0x{subsystem_device}\\n",
            f"A: class=0x{pci_class}\\n",
            "A: numa_node=0\\n",
            f"L: driver=../../../bus/pci/drivers/{driver}",
            "",
        ]
    )
