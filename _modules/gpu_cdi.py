"""
The CDI names of slices and consumers: whether they lead to what is there, and writing them anew.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice.techniques.consumers import asks
from gpuslice.techniques.consumers import auditing

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_cdi"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_cdi needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def audit():
    """
    What is wrong with the CDI files of this host, those of others too: names whose nodes are not there, slices without a name,
    names that two files have, files that no runtime reads, or not the installed Podman.

    Returns a dict: ``result`` (whether all is right) and ``problems``, a list of sentences.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_cdi.audit
    """
    with _engine() as engine:
        found = auditing.problems(engine.host, engine.handed(asks.NAME))
        return {"result": not found, "problems": found}


@_checked
def refresh(test=False):
    """
    Write the names of slices and consumers anew where they are not as they should be. Those who have something keep it.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_cdi.refresh
    """
    with _engine() as engine:
        return front.run(engine, [], test, __pillar__)
