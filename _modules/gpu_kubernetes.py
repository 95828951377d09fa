"""
Kubernetes on a node whose GPUs are sliced: what the vendors' device plugins are told of it, and labels of the node, see
docs/kubernetes.md. No cluster is asked. With ``containers_gpu_container_integration:kubernetes`` of the pillar the file is a part
of each change.
"""

import gpuslice

gpuslice = gpuslice.current()
import salt.utils.yaml
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice import sources
from gpuslice.schedulers import kubernetes

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_kubernetes"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_kubernetes needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, salt=__salt__)


@_checked
def plugin_config(vendor=None, rename=True, text=False):
    """
    What the device plugins are told, by what this node has now: NVIDIA's by a configuration file (version v1), AMD's and Intel's
    by arguments.

    vendor
        ``nvidia``, ``amd`` or ``intel``. Without it all whose GPUs are here.

    rename
        NVIDIA: have shares called ``nvidia.com/gpu.shared``, so that nobody gets one who asked for a GPU.

    text
        The text of one vendor's file; of AMD and Intel a list ``args`` for the container.

    Returns a dict by vendor of dicts with ``arguments``, ``file`` (None where there is none), ``resources`` (name -> how many the
    node is going to have), ``why`` and ``notes``, sentences on what the plugin can't be told.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.plugin_config
        salt-call --local gpu_kubernetes.plugin_config vendor=nvidia text=True
    """
    with _engine() as engine:
        if text:
            return front.as_yaml(*kubernetes.text(engine, vendor, rename))
        return kubernetes.plugin_config(engine, vendor, rename)


@_checked
def write(path, vendor=None, rename=True, test=False):
    """
    Write what :func:`plugin_config` tells as a file, once. A file of somebody else is refused, and one that the pillar keeps and
    that says otherwise.

    path
        Absolute, and ends in ``.yaml``.

    vendor
        As of :func:`plugin_config`; needed where there are GPUs of several.

    rename
        As of :func:`plugin_config`.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_kubernetes.write /etc/kubernetes/nvidia-device-plugin.yaml test=True
    """
    with _engine() as engine:
        return kubernetes.write(engine, path, front.as_yaml, vendor, rename, test)


@_checked
def labels(config=None):
    """
    Labels of this node that tell how its GPUs are sliced, as data: ``gpu-slicing/strategy``, ``layout``, ``generation``,
    ``health``, ``quarantined``, and how many there are of each profile.

    config
        Key of a file in the ConfigMap of NVIDIA's device plugin, for its label ``nvidia.com/device-plugin.config``. Without it
        that label is left to others.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.labels
        salt gpu7 gpu_kubernetes.labels config=mig-mixed
    """
    with _engine() as engine:
        return kubernetes.labels(engine, config)


@_checked
def check_config(source):
    """
    Whether NVIDIA's device plugin will do what a configuration file for it says. The plugin passes over misspelt keys in silence.

    source
        Path of a file of the minion, a URL of Salt's file server (``salt://...``), the text of the file, or a mapping; of a
        ConfigMap the one file that it has.

    Returns a dict: ``result``, ``mistakes`` and ``warnings`` (what has no effect), sentences that begin with the path of a key.

    CLI Example:

    .. code-block:: bash

        salt-call --local gpu_kubernetes.check_config /etc/kubernetes/nvidia-device-plugin.yaml
        salt-call gpu_kubernetes.check_config salt://k8s/device-plugin.yaml
    """
    with _engine():
        return kubernetes.check_config(sources.read(source, __salt__, salt.utils.yaml.safe_load, salt.utils.yaml.YAMLError))
