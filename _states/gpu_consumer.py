"""
States for consumers of slices, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    trainer:
      gpu_consumer.served:
        - kind: service
        - unit: trainer.service
        - slice: 3g.40gb
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_consumer"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_consumer needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def served(
    name, kind=None, slice=None, unit=None, image=None, user=None, weight=None, resource_limits=None, quadlet=None,
    security_profile=None, **kwargs
):  # fmt: skip
    """
    A consumer has the slice that it asks for, and what opens it.

    name
        The consumer.

    kind, slice, unit, image, user, weight, resource_limits, quadlet, security_profile
        As in the pillar, ``containers_gpu_container_integration:consumers``.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_consumer.served trainer kind=device slice=3g.40gb
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_consumer.serve"],
        name,
        kind=kind,
        slice=slice,
        unit=unit,
        image=image,
        user=user,
        weight=weight,
        resource_limits=resource_limits,
        quadlet=quadlet,
        security_profile=security_profile,
        test=front.testing(__opts__),
    )


def absent(name, **kwargs):
    """
    Nobody of that name has a slice.

    name
        The consumer.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_consumer.absent trainer
    """
    return front.state(
        name, kwargs, CommandExecutionError, __salt__["gpu_consumer.dismiss"], name, missing=True, test=front.testing(__opts__)
    )


def reached(name, **kwargs):
    """
    Every consumer on record has its slices, and the CDI names of this host lead to what is there. Nothing is ever changed.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_consumer.reached gpus
    """

    def look():
        found, to_come = __salt__["gpu_consumer.reached"](), front.postponed(__context__)
        if front.testing(__opts__) and (to_come or not found["result"]):
            # A change may mend it, or hand out something else, and a test makes none.
            found = {"result": None, "comment": "Will be looked at after the change."}
        return {"changes": {}, **found}

    return front.state(name, kwargs, CommandExecutionError, look)
