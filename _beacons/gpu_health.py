"""
An event on the master's bus when the status of a GPU or of one of its slices changes:
``salt/beacon/<minion>/gpu_health/<name>``.

It reads files of the kernel and its log, opens no device and asks no library: it keeps no GPU busy, and costs milliseconds. What
only a library tells is found by whoever asks that, such as the timer of ``gpu_metrics`` or ``gpu_health.status``, and told by the
next pass.

.. code-block:: yaml

    beacons:
      gpu_health:
        - interval: 30
        - disable_during_state_run: True
"""

import logging

log = logging.getLogger(__name__)
__virtualname__ = "gpu_health"
#: Keys of Salt's own, and those that it puts into each configuration.
_KNOWN = ("interval", "disable_during_state_run", "enabled", "beacon_module", "_beacon_name")
_TOLD = "gpu_health.told"


def __virtual__():
    return __virtualname__


def validate(config):
    """
    Whether a configuration is one: (bool, sentence).

    config
        A list of mappings, or a mapping.
    """
    if not isinstance(config, list | dict):
        return False, f"The configuration of the beacon gpu_health is {type(config).__name__}, and a list is wanted."
    given = [config] if isinstance(config, dict) else config
    if not all(isinstance(each, dict) for each in given):
        return False, "The configuration of the beacon gpu_health must be a list of mappings, such as '- interval: 30'."
    if strange := sorted({str(key) for each in given for key in each} - set(_KNOWN)):
        return False, f"The beacon gpu_health does not know {', '.join(strange)}; it knows {', '.join(_KNOWN[:3])}."
    return True, "The configuration of the beacon gpu_health is valid."


def beacon(config):
    """
    The changes since the last pass, as ``gpu_health.news`` returns them. Whatever goes wrong is told in the log, once, and never
    raised into the minion.

    config
        Of the beacon.
    """
    try:
        found = __salt__["gpu_health.news"]()
    except Exception as err:
        if __context__.get(_TOLD) != str(err):
            log.warning("the health of the GPUs can't be told: %s", err)
        __context__[_TOLD] = str(err)
        return []
    __context__.pop(_TOLD, None)
    return found
