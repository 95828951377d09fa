"""
The last verified layout of each GPU: what a boot has to bring back.

One file, ``verified.json`` in the state directory, with an entry for each GPU that a change (or a look that found nothing to
change) has shown to be as wanted. The core writes it before a change is closed in the journal, so that a crash leaves either the
journal, which the next run deals with, or an entry that is true.
"""

import json
import os

from gpuslice import errors
from gpuslice.records import shapes

FILE = "verified.json"
_FORMAT = 1
#: What may be done for a change, kept with the layout: a boot has no pillar to ask.
PLAIN_RULES = {"stop_units": [], "unload_modules": [], "health_check": True}


class Verified:
    """The entries of one host. ``path`` is their file."""

    def __init__(self, host):
        self._host = host
        self.path = os.path.join(host.state_dir, FILE)

    def entries(self):
        """
        PCI address -> entry: ``technique``, ``model``, ``layout``, ``time`` (seconds since the epoch), ``generation`` (None for a
        host that was found as wanted), ``awaits`` (settings that a reboot was to bring into force, else None) and ``rules``.

        :raises errors.JournalDamaged: the file can't be used; :raises errors.StateDirUnusable: it can't be read.
        """
        try:
            found = self._host.store_load(self.path)["gpus"]
            shapes.verified(found)
            return {address: _complete(entry) for address, entry in found.items()}
        except FileNotFoundError:
            return {}
        except PermissionError as err:
            raise errors.StateDirUnusable(
                f"The record of verified layouts, {self.path}, can't be read ({err.strerror}).", todo="Run as root."
            ) from err
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            raise errors.JournalDamaged(
                f"The record of verified layouts, {self.path}, can't be used ({err}), so a boot can bring nothing back.",
                todo="Run 'salt-call state.apply gpu_slicing': it writes the record anew.",
            ) from err

    def note(self, new):
        """
        Put entries in the place of those of the same GPUs; nothing is written when they say the same already.

        :param new: PCI address -> dict with ``technique``, ``layout`` and the other keys of an entry.
        :raises OSError: the file can't be written.
        """
        try:
            old = self.entries()
        except errors.JournalDamaged:
            # What can't be read helps no boot; what is known now does.
            old = {}
        if changed := _changed(old, new):
            self._write({**old, **changed})

    def differs(self, new):
        """Whether :meth:`note` would write anything. Raises errors.StateDirUnusable."""
        try:
            return bool(_changed(self.entries(), new))
        except errors.JournalDamaged:
            return bool(new)

    def forget(self, address):
        """Remove the entry of a GPU; it need not be there. Raises OSError."""
        old = self.entries()
        if address in old:
            self._write({key: entry for key, entry in old.items() if key != address})

    def _write(self, entries):
        data = {"format": _FORMAT, "gpus": dict(sorted(entries.items()))}
        self._host.store_write(self.path, json.dumps(data, indent=1) + "\n")


def entry(technique, layout, when, generation=None, model="", awaits=None, rules=None):
    """
    An entry of :class:`Verified`.

    :param layout: the technique's layout as it was read; :param when: seconds since the epoch.
    :param awaits: settings that were accepted and come into force at a reboot only.
    :param rules: ``stop_units``, ``unload_modules`` and ``health_check`` of the change.
    """
    return {
        "technique": technique,
        "model": model,
        "layout": layout,
        "time": when,
        "generation": generation,
        "awaits": awaits,
        "rules": rules or PLAIN_RULES,
    }


def _complete(found):
    """An entry from the file with what an older version left out."""
    return {**entry(found["technique"], found["layout"], 0), **found, "rules": {**PLAIN_RULES, **found.get("rules", {})}}


def _changed(old, new):
    return {address: found for address, found in new.items() if _meaning(found) != _meaning(old.get(address))}


def _meaning(found):
    """What makes two entries differ: not when they were written."""
    if found is None:
        return None
    return json.loads(json.dumps({key: found[key] for key in ("technique", "layout", "awaits", "rules")}))
