"""
Consumers by hand: who gets which slice. A change goes through plan, journal and verification like a highstate's, and restarts
exactly the units whose slice is another one.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice.techniques.consumers import asks
from gpuslice.techniques.consumers import auditing
from gpuslice.techniques.consumers import views

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_consumer"
__func_alias__ = {"list_": "list"}


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_consumer needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__))


@_checked
def offers():
    """
    Every slice that can be given to a consumer now, the smallest first: nothing on which others stand, and the whole GPU where
    nothing cuts it.

    Returns a list of dicts: ``name``, ``gpu``, ``kind``, ``profile``, ``memory_mib``, ``compute`` (share of the GPU's),
    ``consumer`` (who has it, "" for nobody), ``cdi`` (its CDI name, "" where none is written), ``isolation`` (``enforced`` by the
    hardware, or ``advisory``).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.offers
    """
    with _engine() as engine:
        return views.offers(engine.host, engine.handed(asks.NAME))


@_checked
def list_():
    """
    Who has what, and what limits it: enforced, and by whom, or advisory.

    Returns a dict by consumer: ``kind``, ``slices``, ``cdi`` (the name that containers use), ``unit``, ``user``, ``limits``, and
    ``missing`` (slices on record that are not there) where there are any.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.list
    """
    with _engine() as engine:
        return views.listed(engine.host, engine.handed(asks.NAME))


@_checked
def reached():
    """
    Whether every consumer has its slices, and the CDI names of these lead to what is there, by record and files: no GPU is read.
    Nothing is changed.

    Returns a dict with ``result`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.reached
    """
    with _engine() as engine:
        noted = engine.noted(asks.NAME)
        problems = auditing.unreached(engine.host, noted)
        return {"result": not problems, "comment": "\n".join(problems) or auditing.summary(noted)}


@_checked
def environment(consumer):
    """
    The variables that a program of a consumer needs, such as ``CUDA_VISIBLE_DEVICES``.

    consumer
        The consumer.

    Returns a dict.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.environment trainer
    """
    with _engine() as engine:
        return views.environment(engine.host, engine.handed(asks.NAME), consumer)


@_checked
def serve(
    consumer, kind=None, slice=None, unit=None, image=None, user=None, weight=None, resource_limits=None, quadlet=None, test=False
):  # fmt: skip
    """
    Give a consumer a slice, until a highstate whose pillar has consumers says otherwise. Those that there are keep theirs.

    consumer
        The consumer: letters, digits, ``_``, ``.`` and ``-``.

    kind, slice, unit, image, user, weight, resource_limits, quadlet
        As in the pillar, ``containers_gpu_container_integration:consumers``.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.serve trainer kind=service unit=trainer.service slice=3g.40gb test=True
    """
    given = asks.written(
        consumer, kind=kind, slice=slice, unit=unit, image=image, user=user, weight=weight, resource_limits=resource_limits,
        quadlet=quadlet,
    )  # fmt: skip
    with _engine() as engine:
        wish = asks.serve(engine.settled(asks.NAME, given))
        return front.run(engine, engine.handing(asks.NAME, {}, wish), test, __pillar__)


@_checked
def dismiss(consumer, missing=False, test=False):
    """
    Take a consumer's slice away: its files go, its container ends, and a service that runs starts anew without it.

    consumer
        The consumer.

    missing
        True: it need not be there (False).

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.dismiss trainer
    """
    with _engine() as engine:
        return front.run(engine, engine.handing(asks.NAME, {}, asks.dismiss(consumer, missing)), test, __pillar__)
