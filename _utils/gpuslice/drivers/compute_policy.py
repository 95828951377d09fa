"""
How the programs on a whole NVIDIA GPU take turns: the time-slice step, which ``nvidia-smi compute-policy`` alone reads and sets
(NVML has no call for it), and the compute mode, for which NVML is asked.

Whether a GPU has steps is found by trying: its driver refuses them on some that have compute preemption (Tesla P4), and no table
tells which. The length of a step is not published.
"""

import re

from gpuslice import errors
from gpuslice.drivers.nvml import NOT_SUPPORTED

#: The steps, in the order of their numbers.
STEPS = ("default", "short", "medium", "long")
#: The compute modes by number (nvml.h); 0 lets several programs use the GPU.
MODES = ("default", "exclusive thread", "prohibited", "exclusive process")

_LIST = ["nvidia-smi", "compute-policy", "-l"]
_ROW = re.compile(r"^\|\s*(\d+)\s+Timeslice\s+(\w+)\s*\|", re.MULTILINE | re.IGNORECASE)


class ComputePolicy:
    """Compute policies of the GPUs of one host, of which one list is read for all: the program takes as long as a run of ours."""

    def __init__(self, host, sessions):
        self._host, self._sessions = host, sessions
        self._listed, self._times = None, 0

    def forget(self):
        """Read the list anew when it is needed next."""
        self._listed, self._times = None, self._times + 1

    def step(self, gpu):
        """
        Number of the time-slice step of a GPU.

        :raises errors.ToolMissing, errors.ToolHangs: there is no nvidia-smi, or it does not end.
        :raises errors.DriverMissing: its driver is not there. :raises errors.DriverError: it tells no step.
        """
        times, listed = self._times, self._listed or self._list(gpu)
        if times == self._times:
            # GPUs are changed side by side: a list that was begun before another one was set tells of that what it was.
            self._listed = listed
        found = listed.get(self._sessions.nvml.index(gpu.address))
        if found is None:
            raise errors.DriverError(
                f"'{' '.join(_LIST)}' tells no time slice of this GPU.", gpu.address, "Time slices need driver 455 or newer."
            )
        return found

    def _list(self, gpu):
        done = self._run(gpu, "read", _LIST)
        if done.failure:
            kind = errors.DriverMissing if "communicate with the NVIDIA driver" in done.said else errors.DriverError
            raise kind(f"Could not read the time slice: {done.failure.rstrip('.')}.", gpu.address, "See 'dmesg | grep NVRM'.")
        return {int(index): step for index, word in _ROW.findall(done.stdout) if (step := _number(word)) is not None}

    def set_step(self, gpu, step):
        """
        Set the time-slice step of a GPU.

        :raises errors.Unsupported: the driver refuses; the sentence names the model and quotes the driver.
        :raises errors.DriverError: it failed. :raises errors.ToolMissing: as of :meth:`step`.
        """
        name = self._sessions.nvml.uuid(gpu.address)
        done = self._run(gpu, "set", ["nvidia-smi", "compute-policy", "-i", name, f"--set-timeslice={step}"])
        self.forget()
        if "Insufficient Permissions" in done.said:
            raise errors.PermissionDenied("Could not set the time slice: it needs root.", gpu.address, "Run the minion as root.")
        if "not supported" in done.said.lower():
            raise errors.Unsupported(
                f"{gpu.model} takes no time slice: its driver answered '{done.failure or done.said}'.",
                gpu.address,
                "Not every GPU has time slices, and what has them is found by trying only: take another strategy for this one.",
            )
        if done.failure or "Failed to set" in done.said:
            raise errors.DriverError(
                f"Could not set the time slice {STEPS[step]}: {(done.failure or done.said).rstrip('.')}.",
                gpu.address,
                "See 'dmesg | grep NVRM'. Not every GPU has time slices: where it stays so, take another strategy for this one.",
            )

    def _run(self, gpu, doing, argv):
        try:
            return self._host.run(argv)
        except errors.ToolMissing as err:
            raise errors.ToolMissing(
                f"Could not {doing} the time slice: {argv[0]} is not installed, and nothing else can.",
                gpu.address,
                "Install it with NVIDIA's driver (in many distributions nvidia-utils), or take another strategy for this GPU.",
            ) from err

    def mode(self, gpu):
        """
        Number of the compute mode; None in MIG mode, where only the MIG devices have one.

        :raises errors.DriverError: it is none that is known here.
        """
        nvml = self._sessions.nvml
        found = nvml.call(
            "nvmlDeviceGetComputeMode", nvml.handle(gpu.address), gpu=gpu.address, doing="read the compute mode",
            quiet=(NOT_SUPPORTED,),
        )  # fmt: skip
        if found is not None and found not in range(len(MODES)):
            raise errors.DriverError(
                f"The driver tells compute mode {found}, which is not known here.", gpu.address,
                f"Set one of those that are: 'nvidia-smi -i {gpu.address} -c DEFAULT'.",
            )  # fmt: skip
        return found

    def set_mode(self, gpu, mode):
        """Set the compute mode."""
        nvml = self._sessions.nvml
        doing = f"set the compute mode {MODES[mode]}"
        nvml.call("nvmlDeviceSetComputeMode", nvml.handle(gpu.address), mode, gpu=gpu.address, doing=doing)


def _number(word):
    """The step that a word or number of the list means, None for one that nobody knows."""
    if word.isdigit():
        return int(word) if int(word) < len(STEPS) else None
    return STEPS.index(word.lower()) if word.lower() in STEPS else None
