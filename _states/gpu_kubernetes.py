"""
States for Kubernetes on a node whose GPUs are sliced.

.. code-block:: yaml

    /etc/kubernetes/nvidia-device-plugin.yaml:
      gpu_kubernetes.plugin_config:
        - vendor: nvidia
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
