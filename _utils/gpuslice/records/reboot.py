"""
Which GPUs wait for a reboot: kept on disk, so that a reset which was refused is not tried again in every run of one boot.
"""

from gpuslice.records import shapes
from gpuslice.records.store import Record

_FORMAT = 1


class RebootLedger:
    """The GPUs whose mode change comes into force only at a reboot."""

    def __init__(self, host):
        self._host = host
        # The first versions had the entries themselves in the file.
        upgrades = {0: lambda found: {"gpus": found}}
        self._file = Record(host, "reboot.json", "the list of GPUs that wait for a reboot", _FORMAT, shapes.waiting, upgrades)

    def waiting(self, gpu):
        """Whether a reset of this GPU was refused in this boot."""
        return gpu in self._entries() and self._entries()[gpu]["boot_id"] == self._host.boot_id()

    def reasons(self):
        """PCI address -> why it waits, of the GPUs that wait in this boot."""
        boot = self._host.boot_id()
        return {gpu: entry.get("why", "") for gpu, entry in self._entries().items() if entry["boot_id"] == boot}

    def rebooted_in_vain(self, gpu):
        """Whether this GPU waits although the host was rebooted for it already: another reboot will not help."""
        return self._entries().get(gpu, {}).get("reboots", 0) > 0

    def add(self, gpu, why):
        """Note that this GPU waits, and tell the system so by its own marker. Raises OSError."""
        old, boot = self._entries().get(gpu), self._host.boot_id()
        reboots = (old["reboots"] + (old["boot_id"] != boot)) if old else 0
        entries = {**self._entries(), gpu: {"boot_id": boot, "why": why, "reboots": reboots}}
        self._file.write({"gpus": entries})
        self._host.mark_reboot_required()

    def remove(self, gpus):
        """These GPUs are as they should be. Raises OSError."""
        entries = self._entries()
        left = {gpu: entry for gpu, entry in entries.items() if gpu not in gpus}
        if left != entries:
            self._file.write({"gpus": left})

    def _entries(self):
        try:
            return self._file.read()["gpus"]
        except (OSError, ValueError):
            # Without the ledger a refused reset is tried once more, which is harmless.
            return {}
