"""
Kubernetes on a node whose GPUs are sliced: what its device plugins are told, and labels of the node. No cluster is asked.
"""

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.host.base import HEALTH
from gpuslice.outputs import kubernetes as plugins
from gpuslice.outputs import kubernetes_labels
from gpuslice.outputs import plugin_schema
from gpuslice.records.history import History
from gpuslice.schedulers import files
from gpuslice.schedulers import offer
from gpuslice.status_words import STATUSES
from gpuslice.values import describe

VENDORS = ("nvidia", "amd", "intel")
#: The first line of each file, by which ours is known.
MARK = "# What a device plugin is told of this node, written by gpu_kubernetes: what is changed by hand is lost."
#: The health of a node at which nobody has looked yet.
UNKNOWN = "unknown"
_CLOSED = "it has no slices, and nobody can use it as a whole"
_KIND = files.Kind(
    "a device plugin's configuration", ".yaml", MARK, "what the device plugin is told", "the device plugin",
    "Name another path, or move that file away.",
)  # fmt: skip


def plugin_config(engine, vendor=None, rename=True):
    """
    What the device plugins are told.

    :param vendor: the only one that is asked for; None for all whose GPUs are here. :param rename: as of
        :func:`gpuslice.outputs.kubernetes.nvidia`.
    :return: dict by vendor of dicts ``arguments``, ``file``, ``resources``, ``why``, ``notes``.
    :raises errors.PolicyError: there is no such vendor; errors.Unsupported: a plugin can't be told what is here;
        errors.Unhealthy: a GPU can't be read.
    """
    return {name: plugin.as_dict() for name, plugin in _plugins(engine, vendor, rename).items()}


def text(engine, vendor=None, rename=True):
    """
    The configuration of one plugin, and its remarks for comments.

    :return: data of the file, or of a mapping ``args`` for a plugin that has none; list of sentences.
    :raises errors.PolicyError: it is not told whose; and as :func:`plugin_config`.
    """
    found = _plugins(engine, vendor, rename)
    if len(found) != 1:
        here = ", ".join(found) or "none"
        raise errors.PolicyError(
            f"A text is of one vendor's plugin, and this host has GPUs of: {here}.",
            todo="Give 'vendor', one of them." if found else "Nothing was written.",
        )
    [plugin] = found.values()
    data = plugin.file if plugin.file is not None else {"args": list(plugin.arguments)}
    told = ", ".join(f"{name}: {number}" for name, number in plugin.resources.items()) or "nothing"
    return data, [MARK.removeprefix("# "), f"Resources: {told}.", f"Why so: {plugin.why}.", *plugin.notes]


def write(engine, path, as_yaml, vendor=None, rename=True, test=False):
    """
    A file has what :func:`text` tells.

    :param as_yaml: makes a text of data and remarks. :return, :raises: as of :func:`gpuslice.schedulers.files.write`, and
        errors.PolicyError: it is no path for such a file.
    """
    files.refuse_path(engine.host, path, _KIND)
    return files.write(engine.host, path, as_yaml(*text(engine, vendor, rename)), _KIND, test)


def _plugins(engine, vendor, rename):
    if vendor is not None and vendor not in VENDORS:
        raise errors.PolicyError(f"vendor is {describe(vendor)}.", todo=f"Give one of {', '.join(VENDORS)}.")
    wanted = [vendor] if vendor else [name for name in VENDORS if any(gpu.vendor == name for gpu in engine.gpus)]
    if not wanted:
        return {}
    has = offer.read(engine, "What this node has for Kubernetes")
    make = {"nvidia": lambda node: plugins.nvidia(node, rename), "amd": plugins.amd, "intel": plugins.intel}
    return {name: make[name](_node(engine, name, has)) for name in wanted}


def _node(engine, vendor, has):
    gpus = {gpu.address: gpu for gpu in engine.gpus if gpu.vendor == vendor}
    mine = tuple(_with_nodes(engine, part) for part in (*has.every, *has.whole) if part.gpu in gpus)
    whole = {part.gpu for part in has.whole}
    closed = [gpu for gpu in has.bare if gpu.address in gpus and gpu.address not in whole and gpu.driver]
    empty = [gpu.address for gpu in closed if _is_in_mig_mode(engine, gpu)]
    held = {gpu.address: _CLOSED for gpu in closed if gpu.address not in empty} | dict(has.held)
    names = {part.name for part in mine} | set(gpus)
    return plugins.Node(mine, gpus, tuple(empty), {name: why for name, why in held.items() if name in names})


def _with_nodes(engine, part):
    """A virtual function with the device nodes that a driver of this host has made for it."""
    if part.kind != "vf":
        return part
    return part._replace(device_nodes=tuple(device_nodes.render(engine.host, part.identity)))


def _is_in_mig_mode(engine, gpu):
    """Of a GPU that has no slices."""
    tools = [tool for tool in engine.techniques_of(gpu, telling=True) if tool.name == "mig"]
    return any(not tool.leaves_whole(gpu, tool.layout(tool.observe(gpu))) for tool in tools)


def labels(engine, config=None):
    """
    The labels of this node.

    :param config: as of :func:`gpuslice.outputs.kubernetes_labels.labels`, and raises so.
    :raises: as of :func:`plugin_config`, and what reading the records raises.
    """
    has = offer.read(engine, "What this node has for Kubernetes")
    generation = History(engine.host).upcoming() - 1
    return kubernetes_labels.labels(has.given, _health(engine), generation, len(engine.quarantined()), config)


def _health(engine):
    """The worst word of the last look at the GPUs, a lost one's too. No look is taken here."""
    if HEALTH not in engine.host.store_names(engine.host.state_dir):
        return UNKNOWN
    words = [each["status"] for each in engine.last_look().statuses.values()]
    return max(words, key=STATUSES.index, default=UNKNOWN)


def check_config(config):
    """
    Whether NVIDIA's plugin will do what a configuration says.

    :param config: as YAML has it. :return: dict ``result``, ``mistakes``, ``warnings``, of which the latter are sentences.
    """
    mistakes, warnings = plugin_schema.check(config)
    return {"result": not mistakes, "mistakes": mistakes, "warnings": warnings}
