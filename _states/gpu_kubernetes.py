"""
States for Kubernetes on a node whose GPUs are sliced.

.. code-block:: yaml

    /etc/kubernetes/nvidia-device-plugin.yaml:
      gpu_kubernetes.plugin_config:
        - vendor: nvidia
        - require:
          - gpu_slicing: gpu slices

    labels of this node:
      gpu_kubernetes.labelled:
        - kubeconfig: /etc/kubernetes/gpu-slicing.kubeconfig
        - require:
          - gpu_slicing: gpu slices
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_kubernetes"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_kubernetes needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def plugin_config(name, vendor=None, rename=True, **kwargs):
    """
    A file says what a device plugin is told of this node; see ``gpu_kubernetes.plugin_config``. What is to follow each change
    stands in the pillar (``containers_gpu_container_integration:kubernetes``); a file that it keeps is refused where this would
    say otherwise.

    name
        Path of the file: absolute, and ends in ``.yaml``.

    vendor
        ``nvidia``, ``amd`` or ``intel``; needed where there are GPUs of several.

    rename
        NVIDIA: have shares called ``nvidia.com/gpu.shared``.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_kubernetes.plugin_config /etc/kubernetes/nvidia-device-plugin.yaml test=True
    """
    given = {"path": name, "vendor": vendor, "rename": rename, "test": front.testing(__opts__)}
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_kubernetes.write"], **given)


def labelled(name, kubeconfig, node=None, context=None, config=None, dcm_profile=None, force=False, **kwargs):
    """
    The node has our labels in its cluster; see ``gpu_kubernetes.apply_labels``.

    name
        Any text.

    kubeconfig
        Absolute path of the file that says where the API server is and who asks. Only root may write it.

    node
        Its name in Kubernetes; the host's name where it is not given.

    context
        One of the kubeconfig; its current one where it is not given.

    config
        Key of a file in the ConfigMap of NVIDIA's device plugin.

    dcm_profile
        Key of a profile in the ConfigMap of AMD's Device Config Manager.

    force
        Take a label that another field manager has set to another value.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_kubernetes.labelled labels kubeconfig=/etc/kubernetes/gpu-slicing.kubeconfig test=True
    """
    given = {
        "kubeconfig": kubeconfig, "node": node, "context": context, "config": config, "dcm_profile": dcm_profile, "force": force,
        "test": front.testing(__opts__),
    }  # fmt: skip
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_kubernetes.apply_labels"], **given)
