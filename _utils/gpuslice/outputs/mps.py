"""
How the programs of a consumer reach the MPS daemon of their slice: the folder of its sockets, which names it.
"""

from gpuslice.model import Slice

_FOLDER = "gpu-slicing/mps"
#: The environment variable that tells a client, and the daemon itself, which folder that is.
VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
#: Those by which a client gets less than its daemon gives. Nobody makes it keep them.
THREADS, PINNED = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
#: What protocol v3 calls the server of a daemon of ours, which has one.
SERVER = "shares"


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


def environment(name: str, threads: float | None = None, pinned_mib: int | None = None) -> tuple[tuple[str, str], ...]:
    """
    What a client of protocol v2 needs in its environment, as (name, value) pairs.

    :param name: as of :func:`pipe_directory`. :param threads: percent of the multiprocessors, where that is less than the daemon
        gives by itself; :param pinned_mib: MiB of memory, likewise. A client can only lower what it gets (NVIDIA, MPS manual).

    It has no CUDA_VISIBLE_DEVICES: the daemon sees one device only, which its clients have as number 0.
    """
    limits = (THREADS, f"{threads:.1f}" if threads else ""), (PINNED, f"0={pinned_mib}M" if pinned_mib else "")
    return ((VARIABLE, pipe_directory(name)), *(each for each in limits if each[1]))


def pins(environment: tuple[tuple[str, str], ...]) -> bool:
    """
    Whether a client can be given less memory by its environment: one of a daemon of protocol v2. In v3 its namespace says it.

    :param environment: of the client; that of who is no client says no.
    """
    folder = dict(environment).get(VARIABLE, "")
    return bool(folder) and f"/{SERVER}/" not in folder


def lowers(each: Slice, mebibytes: int) -> bool:
    """Whether the client of a slice can be given so much and no more: it can only lower what its daemon gives it."""
    return pins(each.environment) and (each.memory_mib is None or mebibytes < each.memory_mib)


def pinning(environment: tuple[tuple[str, str], ...], mebibytes: int) -> tuple[tuple[str, str], ...]:
    """The environment of a client that is to have no more than so many MiB of its daemon's one device."""
    return (*(each for each in environment if each[0] != PINNED), (PINNED, f"0={mebibytes}M"))


def namespace(number: int) -> str:
    """What protocol v3 calls the part of its server that is for one client, which has limits of its own."""
    return f"client_{number}"


def namespace_environment(name: str, number: int) -> tuple[tuple[str, str], ...]:
    """What a client of protocol v3 needs: the folder of its namespace, by which the daemon knows what it gets."""
    return ((VARIABLE, f"{pipe_directory(name)}/{SERVER}/{namespace(number)}"),)


def folders(environment: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """
    The folders of the host that a client in a container needs.

    :param environment: of the client. Daemon and clients exchange what they share by /dev/shm: without the host's, the first call
        of CUDA hangs or ends with error 805 (NVIDIA/nvidia-container-toolkit#714).
    """
    return (dict(environment)[VARIABLE], "/dev/shm")
