"""
SELinux: which booleans let containers open nodes, and a module that does it in their place for the devices of slices alone.

Containers run as ``container_t``; the policy of container-selinux lets it open nothing of a GPU by itself. Its booleans open all
devices of a kind to all containers (container-selinux#306). They are told, and never set: that is for the administrator, and so
is loading the module: ``semodule -i gpu_slicing.pp``.

Types of nodes: the reference policy: ``xserver_misc_device_t`` for ``/dev/nvidia*``, ``dri_device_t`` for ``/dev/dri/*``,
``hsa_device_t`` for ``/dev/kfd`` (older ones know no such type), ``vfio_device_t``.
"""

from collections.abc import Iterable

NAME = "gpu_slicing"
#: "1" where what is not allowed is denied.
ENFORCE = "/sys/fs/selinux/enforce"
#: A file for each boolean, with its value now and the one that is pending.
BOOLEANS = "/sys/fs/selinux/booleans"
#: Where modules are kept; below it: the policy's name, ``active/modules/<priority>/<module>``.
STORE = "/var/lib/selinux"

#: Lets containers open every device that they are given.
_ALL = "container_use_devices"
#: Beginning of a node's path -> the type that it has, and the boolean that opens just that.
_KINDS = {
    "/dev/nvidia": ("xserver_misc_device_t", "container_use_xserver_devices"),
    "/dev/dri/": ("dri_device_t", "container_use_dri_devices"),
    "/dev/kfd": ("hsa_device_t", ""),
    "/dev/vfio/": ("vfio_device_t", ""),
}
_USE = "{ getattr open read write ioctl lock append map }"


def booleans(nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Beginning of the paths of nodes -> booleans of which one has to be on, for those kinds that these nodes are of."""
    nodes = list(nodes)
    found = {begin: own for begin, (_, own) in _KINDS.items() if any(node.startswith(begin) for node in nodes)}
    return {begin: (own, _ALL) if own else (_ALL,) for begin, own in found.items()}


def is_on(text: str) -> bool:
    """Whether a boolean is on now. :param text: of its file, such as ``1 1``."""
    return text.split()[:1] == ["1"]


def module(kinds: Iterable[str] = tuple(_KINDS)) -> str:
    """
    Source of a module that lets containers use the nodes of slices; ``checkmodule -M -m`` compiles it.

    Each kind is optional: a policy that does not know its type takes the module all the same, and the kind stays closed.

    :param kinds: beginnings of paths, of those that :func:`booleans` tells.
    """
    wanted = set(kinds)
    blocks = [_block(kind) for begin, (kind, _) in _KINDS.items() if begin in wanted]
    return f"module {NAME} 1.0;\n\nrequire {{\n    type container_t;\n    class chr_file {_USE};\n}}\n{''.join(blocks)}"


def _block(kind: str) -> str:
    return f"\noptional {{\n    require {{\n        type {kind};\n    }}\n    allow container_t {kind}:chr_file {_USE};\n}}\n"
