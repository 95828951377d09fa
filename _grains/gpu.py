"""
The grain ``gpu``: which GPUs a minion has and how they can be sliced.

It reads sysfs, udev and the catalog; it opens no device node and uses no vendor library, so it costs milliseconds and keeps
no device busy.

.. code-block:: bash

    salt-call grains.item gpu
    salt -G 'gpu:capabilities:mig' test.ping
    salt -G 'gpu:models:NVIDIA H100*' test.ping
"""

import logging
import traceback

import gpuslice

gpuslice = gpuslice.current()

# After current(), which may have imported the package anew.
from gpuslice import secret as _secret  # noqa: E402
from gpuslice.host import open as _host  # noqa: E402
from gpuslice.inventory import grain as _grain  # noqa: E402

_log = logging.getLogger(__name__)

_API = 1

_NOTHING = {
    "count": 0,
    "vendors": [],
    "models": [],
    "addresses": [],
    "capabilities": [],
    "virtualization": "bare_metal",
    "iommu": False,
    "reboot_required": False,
    "interrupted": False,
    "devices": [],
    "owners": [],
    "vram_quota": [],
}


def gpu():
    """
    GPUs of this minion under the one key ``gpu``.

    Lists, because a PCI address holds colons and so can't be a key that is targeted. What goes wrong is told in ``errors``
    and never stops the other grains.
    """
    if gpuslice.API != _API:
        sentence = (
            f"The grain gpu needs the engine's interface {_API}, but the engine that is installed has {gpuslice.API}. "
            "Run 'saltutil.sync_all', or remove the other copy of the package gpuslice."
        )
        return {"gpu": {**_NOTHING, "errors": [sentence]}}
    try:
        return {"gpu": _grain.facts(_host.open_host(__opts__.get("gpu_slicing")))}
    except Exception as err:
        _log.debug("The grain gpu failed: %s", _secret.redacted(traceback.format_exc()))
        why = _secret.redacted(str(err)) or type(err).__name__
        return {"gpu": {**_NOTHING, "errors": [f"The GPUs of this minion could not be read: {why}"]}}
