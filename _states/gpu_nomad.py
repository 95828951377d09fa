"""
States for Nomad on a node whose GPUs are sliced.

.. code-block:: yaml

    /etc/nomad.d/gpu.hcl:
      gpu_nomad.plugin_config:
        - require:
          - gpu_slicing: gpu slices

    nomad:
      service.running:
        - watch:
          - gpu_nomad: /etc/nomad.d/gpu.hcl
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_nomad"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_nomad needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def plugin_config(name, plugin="nomad-device-nvidia", period="1m", **kwargs):
    """
    A file says which GPUs and MIG devices Nomad must not give; see ``gpu_nomad.plugin_config``.

    name
        Path of the file: absolute, and ends in ``.hcl``.

    plugin
        Name of the plugin's block: that of its file in ``plugin_dir``.

    period
        How often it looks for devices.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_nomad.plugin_config /etc/nomad.d/gpu.hcl test=True
    """
    given = {"path": name, "plugin": plugin, "period": period, "test": front.testing(__opts__)}
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_nomad.write"], **given)
