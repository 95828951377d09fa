"""
Which GPUs wait for a reboot: kept on disk, so that a reset which was refused is not tried again in every run of one boot.
"""

import json
import os


class RebootLedger:
    """The GPUs whose mode change comes into force only at a reboot."""

    def __init__(self, host):
        self._host = host
        self._path = os.path.join(host.state_dir, "reboot.json")

    def waiting(self, gpu):
        """Whether a reset of this GPU was refused in this boot."""
        return gpu in self._entries() and self._entries()[gpu]["boot_id"] == self._host.boot_id()

    def after_reboot(self, gpu):
        """Whether this GPU still waits although the host was rebooted since: another reboot will not help."""
        return gpu in self._entries() and self._entries()[gpu]["boot_id"] != self._host.boot_id()

    def add(self, gpu, why):
        """Note that this GPU waits, and tell the system so by its own marker. Raises OSError."""
        entries = {**self._entries(), gpu: {"boot_id": self._host.boot_id(), "why": why}}
        self._host.store_write(self._path, json.dumps(entries))
        self._host.mark_reboot_required()

    def remove(self, gpus):
        """These GPUs are as they should be. Raises OSError."""
        entries = self._entries()
        left = {gpu: entry for gpu, entry in entries.items() if gpu not in gpus}
        if left != entries:
            self._host.store_write(self._path, json.dumps(left))

    def _entries(self):
        try:
            with open(self._path, encoding="utf-8") as handle:
                return json.load(handle)
        except (OSError, ValueError):
            # Without the ledger a refused reset is tried once more, which is harmless.
            return {}
