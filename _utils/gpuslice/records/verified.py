"""
The last verified layouts: what a boot has to bring back.

One file, ``verified.json`` in the state directory, with an entry for each :class:`gpuslice.model.Key` that a change (or a look
that found nothing to change) has shown to be as wanted. It is written before a change is closed in the journal, so that a crash
leaves either the journal, which the next run deals with, or an entry that is true.
"""

import json

from gpuslice import errors
from gpuslice import kinds
from gpuslice.records import shapes
from gpuslice.records.journal import by_key
from gpuslice.records.journal import by_text
from gpuslice.records.journal import former_key
from gpuslice.records.store import Record

FILE = "verified.json"
_FORMAT = 2
#: What may be done for a change, kept with the layout: a boot has no pillar to ask.
PLAIN_RULES = {"stop_units": [], "unload_modules": [], "health_check": True, "share_with": []}


class Verified:
    """The entries of one host. ``path`` is their file."""

    def __init__(self, host):
        self._file = Record(host, FILE, "the record of verified layouts", _FORMAT, shapes.verified, {1: _with_keys})
        self.path = self._file.path

    def entries(self):
        """
        Key -> entry: ``addresses`` (of the GPUs that it covers), ``model``, ``layout``, ``time`` (seconds since the epoch),
        ``generation`` (None for what was found as wanted), ``awaits`` (settings that a reboot was to bring into force, else None)
        and ``rules``.

        :raises errors.JournalDamaged: the file can't be used; :raises errors.StateDirUnusable: it can't be read.
        """
        found = self._file.read_if_there(self._unusable)
        return {key: _complete(entry) for key, entry in by_key(found["layouts"]).items()} if found else {}

    def _unusable(self, err):
        if isinstance(err, PermissionError):
            return errors.StateDirUnusable(
                f"The record of verified layouts, {self.path}, can't be read ({err.strerror}).", todo="Run as root."
            )
        return errors.JournalDamaged(
            f"The record of verified layouts, {self.path}, can't be used ({err}), so a boot can bring nothing back.",
            todo="Run 'salt-call state.apply gpu_slicing': it writes the record anew.",
        )

    def note(self, new):
        """
        Put entries in the place of those of the same keys, and of those of technologies that their GPUs can't have beside them:
        a boot would bring back both. Nothing is written when they say the same already.

        :param new: key -> dict as :func:`entry` returns it.
        :raises OSError: the file can't be written.
        """
        try:
            old = self.entries()
        except errors.JournalDamaged:
            # What can't be read helps no boot; what is known now does.
            old = {}
        changed, standing = _changed(old, new), _standing(old, new)
        if changed or len(standing) < len(old):
            self._write({**standing, **changed})

    def differs(self, new):
        """Whether :meth:`note` would write anything. Raises errors.StateDirUnusable."""
        try:
            old = self.entries()
            return bool(_changed(old, new)) or len(_standing(old, new)) < len(old)
        except errors.JournalDamaged:
            return bool(new)

    def forget(self, address):
        """Take a GPU out of all entries, and remove those that cover no other. Raises OSError."""
        old = self.entries()
        kept = {key: [one for one in entry["addresses"] if one != address] for key, entry in old.items()}
        left = {key: {**entry, "addresses": kept[key]} for key, entry in old.items() if kept[key]}
        if left != old:
            self._write(left)

    def _write(self, entries):
        self._file.write({"layouts": by_text(dict(sorted(entries.items())))})


def _with_keys(found):
    """Format 1 had entries by PCI address, which told their technology."""
    kept = ("model", "layout", "time", "generation", "awaits", "rules")
    layouts = {}
    for address, entry in found["gpus"].items():
        key = former_key(address, entry["technique"], entry["layout"])
        covered = [*layouts.get(key, {}).get("addresses", ()), address]
        layouts[key] = {"addresses": covered, **{name: entry[name] for name in kept if name in entry}}
    return {"layouts": layouts}


def entry(addresses, layout, when, generation=None, model="", awaits=None, rules=None):
    """
    An entry of :class:`Verified`.

    :param addresses: PCI addresses of the GPUs that it covers; :param layout: the technique's layout as it was read.
    :param when: seconds since the epoch.
    :param awaits: settings that were accepted and come into force at a reboot only.
    :param rules: ``stop_units``, ``unload_modules``, ``health_check`` and ``share_with`` of the change.
    """
    return {
        "addresses": list(addresses),
        "model": model,
        "layout": layout,
        "time": when,
        "generation": generation,
        "awaits": awaits,
        "rules": rules or PLAIN_RULES,
    }


def _complete(found):
    """An entry from the file with what an older version left out."""
    return {**entry(found["addresses"], found["layout"], 0), **found, "rules": {**PLAIN_RULES, **found.get("rules", {})}}


def _standing(old, new):
    """The old entries that may stand beside the new ones."""
    by_subject = {}
    for key in new:
        by_subject.setdefault(key.subject, []).append(key.technique)
    return {
        key: found for key, found in old.items()
        if key in new or all(kinds.go_together(key.technique, name) for name in by_subject.get(key.subject, ()))
    }  # fmt: skip


def _changed(old, new):
    return {key: found for key, found in new.items() if _meaning(found) != _meaning(old.get(key))}


def _meaning(found):
    """What makes two entries differ: not when they were written."""
    if found is None:
        return None
    return json.loads(json.dumps({key: found[key] for key in ("addresses", "layout", "awaits", "rules")}))
