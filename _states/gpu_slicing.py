"""
States that bring a whole host to its pillar.

.. code-block:: yaml

    gpu slices:
      gpu_slicing.converged
"""

import os

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_slicing"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_slicing needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def discovered(name, **kwargs):
    """
    The pillar is valid and this host has the GPUs that it names. Nothing is ever changed.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_slicing.discovered gpus
    """

    def look():
        return {"result": True, "changes": {}, "comment": "\n".join(__salt__["gpu_slicing.targets"]())}

    return front.state(name, kwargs, CommandExecutionError, look)


def converged(name, **kwargs):
    """
    Every GPU that the pillar reaches is sliced as it says. What is right is kept, what is in use is not touched unless the
    pillar says ``apply_strategy: force``, and a change that fails is undone. What waits until idle or for a window of
    maintenance, with ``when``, fails nothing: the comment and a warning say what, for whom and until when.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_slicing.converged gpus test=True
    """
    front.expect(__context__)
    testing = front.testing(__opts__)
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_slicing.apply"], test=testing, brief=True)


def validated(name, **kwargs):
    """
    The hardware is what the pillar says. Nothing is ever changed. What ``gpu_slicing.converged`` of the same run has read after
    its last step counts, where nothing of this engine changed a GPU since; else the hardware is read here.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_slicing.validated gpus
    """

    def look():
        found = front.left(__context__, __pillar__) or __salt__["gpu_slicing.apply"](test=True, brief=True)
        if front.testing(__opts__) and (found["changes"] or "result" not in found):
            front.postpone(__context__)
            return {"result": None, "changes": {}, "comment": "Will be compared with the pillar after the change."}
        return {"result": found.get("result", False), "changes": {}, "comment": found["comment"]}

    return front.state(name, kwargs, CommandExecutionError, look)


def exported(name, form="pillar", **kwargs):
    """
    A YAML file describes what this host has now, as ``gpu_slicing.export`` does; every PCI address in it is quoted.

    name
        Path of the file.

    form
        ``pillar`` (default) or ``mig-parted``.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_slicing.exported /etc/gpu-slicing/now.yaml
    """
    if strangers := front.strangers(kwargs):
        return front.failed(name, strangers)
    if not os.path.isabs(name):
        return front.failed(name, f"{name} is no absolute path: nothing was written. Write one that begins with '/'.")
    try:
        found = __salt__["gpu_slicing.export"](form, text=True)
    except CommandExecutionError as err:
        return front.failed(name, err)
    return __states__["file.managed"](name, contents=found, makedirs=True)


def cleaned(name, force=False, **kwargs):
    """
    This host is given up: each GPU is as it was first found, and no file or unit of ours is left; see ``gpu_slicing.clean``.

    name
        Any text.

    force
        End processes that use what has to go, and forget GPUs that are no longer there.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_slicing.cleaned gpus test=True
    """
    testing = front.testing(__opts__)
    return front.state(
        name, kwargs, CommandExecutionError, __salt__["gpu_slicing.clean"], test=testing, force=force, brief=True
    )
