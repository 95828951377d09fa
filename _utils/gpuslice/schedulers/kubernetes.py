"""
Kubernetes on a node whose GPUs are sliced: what its device plugins are told, and labels of the node. No cluster is asked.
"""

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import scheduler_files as files
from gpuslice.host.base import HEALTH
from gpuslice.outputs import kubernetes as plugins
from gpuslice.outputs import kubernetes_labels
from gpuslice.outputs import plugin_schema
from gpuslice.records.history import History
from gpuslice.schedulers import around
from gpuslice.schedulers import offer
from gpuslice.schedulers import told
from gpuslice.status_words import STATUSES
from gpuslice.values import describe

NAME = "kubernetes"
VENDORS = ("nvidia", "amd", "intel")
#: The health of a node at which nobody has looked yet.
UNKNOWN = "unknown"


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
    return plugins.contents(plugin)


def write(engine, path, as_yaml, vendor=None, rename=True, test=False):
    """
    A file has what :func:`text` tells.

    :param as_yaml: makes a text of data and remarks. :return, :raises: as of :func:`gpuslice.schedulers.told.write`, and
        errors.PolicyError: it is no path for such a file.
    """
    files.refuse_path(engine.host, path, plugins.FILE)
    return told.write(engine, NAME, path, as_yaml(*text(engine, vendor, rename)), plugins.FILE, test)


def _plugins(engine, vendor, rename):
    if vendor is not None and vendor not in VENDORS:
        raise errors.PolicyError(f"vendor is {describe(vendor)}.", todo=f"Give one of {', '.join(VENDORS)}.")
    wanted = [vendor] if vendor else [name for name in VENDORS if any(gpu.vendor == name for gpu in engine.gpus)]
    if not wanted:
        return {}
    has = offer.read(engine, "What this node has for Kubernetes")
    has = has._replace(every=tuple(device_nodes.with_render(engine.host, part) for part in has.every))
    gpus = {gpu.address: gpu for gpu in engine.gpus}
    return {name: plugins.plugin(has, gpus, name, rename) for name in wanted}


def labels(engine, config=None, dcm_profile=None):
    """
    The labels of this node.

    :param config, dcm_profile: as of :func:`gpuslice.outputs.kubernetes_labels.labels`, and raises so.
    :raises: as of :func:`plugin_config`, and what reading the records raises.
    """
    has = offer.read(engine, "What this node has for Kubernetes")
    # What runs after a change does so before that has its generation.
    generation = History(engine.host).upcoming() - (not around.has_no_generation(engine.host))
    return kubernetes_labels.labels(has.offered, _health(engine), generation, len(engine.quarantined()), config, dcm_profile)


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
