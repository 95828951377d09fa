"""
How the programs of a consumer reach the MPS daemon of their slice: the folder of its sockets, which names it.
"""

from gpuslice.outputs.device import Mount

_FOLDER = "gpu-slicing/mps"
#: The environment variable that tells a client, and the daemon itself, which folder that is.
VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"


#: How the units of the daemons are called; what the row of the technology says too.
_UNITS = "gpu-slicing-mps-"


def unit(name: str) -> str:
    """The unit of a daemon; :param name: as of :func:`runtime_directory`."""
    return f"{_UNITS}{name.replace(':', '-')}.service"


def runtime_directory(name: str) -> str:
    """
    The folder below /run, as systemd's ``RuntimeDirectory=`` takes it.

    :param name: of the slice that the daemon shares: the PCI address of a whole GPU, or a MIG device. Its colons become dashes:
        they part a folder from a link there, and the halves of a mount in the arguments of container runtimes.
    """
    return f"{_FOLDER}/{name.replace(':', '-')}"


def pipe_directory(name: str) -> str:
    """
    The folder of the sockets of a daemon.

    :param name: as of :func:`runtime_directory`; of a slice of kind mps that is ``of``.
    """
    return f"/run/{runtime_directory(name)}"


def environment(name: str) -> tuple[tuple[str, str], ...]:
    """
    What a client needs in its environment, as (name, value) pairs; :param name: as of :func:`pipe_directory`.

    It has no CUDA_VISIBLE_DEVICES: the daemon sees one device only, which its clients have as number 0.
    """
    return ((VARIABLE, pipe_directory(name)),)


def mounts(name: str) -> tuple[Mount, ...]:
    """
    What a client in a container needs of the host, as a tuple of :class:`gpuslice.outputs.device.Mount`.

    :param name: as of :func:`pipe_directory`. Daemon and clients exchange what they share by /dev/shm: without the host's, the
        first call of CUDA hangs or ends with error 805 (NVIDIA/nvidia-container-toolkit#714).
    """
    folder = pipe_directory(name)
    return (Mount(folder, folder), Mount("/dev/shm", "/dev/shm"))
