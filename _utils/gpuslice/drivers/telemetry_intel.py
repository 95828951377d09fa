"""
Readings of Intel's boards under xe and i915: files of hwmon, cgroup's account of device memory, and what the clients of the
driver tell of themselves.

Facts: ``Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon`` and ``sysfs-driver-intel-i915-hwmon`` of Linux (``energy1`` is
the card, ``energy2`` the package; power is told by neither, it is what energy grows by);
``Documentation/gpu/drm-usage-stats.rst`` and ``drivers/gpu/drm/xe/xe_drm_client.c`` (cycles of an engine class beside the
cycles that passed), ``kernel/cgroup/dmem.c``. A virtual function has none of hwmon; its clients are its own where a driver of
this host has it.
"""

import math

from gpuslice.drivers import dmem
from gpuslice.drivers import readings
from gpuslice.drivers import telemetry_files as files
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.drivers.readings import Asked
from gpuslice.drivers.readings import Board
from gpuslice.drivers.readings import Use
from gpuslice.host import limits

_MILLI = 1000
_NANO = 1_000_000_000
_ENERGY = ("energy1_input", "energy2_input")
_PACKAGE = ("temp2_input",)
#: Of what is in the card's own memory.
_RESIDENT = ("resident-vram", "resident-local")
_BUSY = ("cycles-", "engine-")


class IntelTelemetry:
    """The readings of one host."""

    def __init__(self, host):
        self._host = host

    def board(self, gpu):
        """:class:`.readings.Board` of a GPU (:class:`gpuslice.model.Gpu`). Raises errors.Unhealthy: it does not answer."""
        return self._within(gpu, self._board, gpu)

    def uses(self, gpu, parts, before):
        """As :meth:`gpuslice.drivers.telemetry.Telemetry.uses`. Raises :class:`.readings.Untold` and errors.Unhealthy."""
        functions = {part.name: part.device for part in parts if part.kind == "vf"}
        functions.update({part.name: gpu.address for part in parts if part.name == gpu.address and part.kind == "gpu"})
        clients = self._within(gpu, self._clients, {each for each in functions.values() if not self._why_not(each)})
        now = self._look(clients)
        earlier = before if before.get("boot") == now["boot"] and _good(before) else None
        return {part.name: self._use(gpu, part, functions.get(part.name), clients, (earlier, now)) for part in parts}, now

    # -- the board -----------------------------------------------------------------------------------------------
    def _within(self, gpu, work, *args):
        return self._host.limits.call(limits.READ, gpu.address, "read what the board does", work, *args)

    def _board(self, gpu):
        host, asked = self._host, Asked()
        place = files.hwmon(host, gpu.address, "xe") or files.hwmon(host, gpu.address, "i915")
        energy = asked.number("energy", lambda: files.first(host, place, _ENERGY) // _MILLI)
        asked.lacks("power", readings.UNSUPPORTED)
        temperature = asked.number(
            "temperature", lambda: round(files.first(host, place, _PACKAGE) / _MILLI), readings.LEAST_CELSIUS,
            readings.MOST_CELSIUS,
        )  # fmt: skip
        total, used = dmem.used(host, gpu.address)
        total, used = (asked.number("memory", lambda n=n: n) for n in (total, used))
        asked.lacks("utilization", readings.UNSUPPORTED)
        return Board(energy, None, temperature, *asked.memory(total, used), None, asked.unreadable)

    # -- slices --------------------------------------------------------------------------------------------------
    def _why_not(self, function):
        """Why the clients of a function are not asked for, "" where they may be."""
        driver = self._host.readlink(f"{DEVICES}/{function}/driver")
        if driver in VFIO_DRIVERS:
            return readings.GIVEN_AWAY
        if not driver:
            return readings.NO_DRIVER
        return readings.ASLEEP if files.sleeps(self._host, function) else ""

    def _clients(self, functions):
        try:
            return self._host.gpu_clients(functions) if functions else []
        except OSError as err:
            raise files.untold(err) from err

    def _look(self, clients):
        """What the next look compares with, as JSON data."""
        told = {}
        for client in clients:
            kept = {key: number for key, number in client.numbers.items() if key.startswith((*_BUSY, "total-cycles-"))}
            told.setdefault(client.function, {})[str(client.id)] = kept
        return {"boot": self._host.boot_id(), "at": self._host.monotonic(), "clients": told}

    def _use(self, gpu, part, function, clients, looks):
        if why := readings.not_its_own(part):
            return readings.no_use(why)
        if function is None:
            return readings.no_use(readings.UNSUPPORTED)
        if why := self._why_not(function):
            return readings.no_use(why)
        asked, mine = Asked(), [client for client in clients if client.function == function]
        total, used = dmem.used(self._host, function)
        if used is None:
            resident = [number for each in mine for key, number in each.numbers.items() if key.startswith(_RESIDENT)]
            used = asked.number("memory", lambda: sum(resident) if resident or not mine else None)
        total, used = asked.memory(total, used)
        busy = busy_between(asked, function, *looks)
        return Use(total, used, busy, len({pid for each in mine for pid in each.pids}), asked.unreadable)


def busy_between(asked, function, before, now):
    """
    How busy the engine class of a function was that had most to do between two looks, 0 to 1; None for what ``asked`` then says.

    :param before: :param now: what :meth:`IntelTelemetry.uses` returned, None where there is none.
    """
    if before is None or now["at"] <= before["at"]:
        return asked.lacks("utilization", readings.NOT_SAMPLED_YET)
    earlier, later = before["clients"].get(function, {}), now["clients"].get(function, {})
    if not later:
        return 0.0
    seconds = now["at"] - before["at"]
    classes = {key for numbers in later.values() for key in numbers if key.startswith(_BUSY) and "capacity" not in key}
    shares = [_share(key, earlier, later, seconds) for key in classes]
    if not classes:
        return asked.lacks("utilization", readings.UNSUPPORTED)
    if None in shares:
        return asked.lacks("utilization", readings.NOT_SAMPLED_YET)
    return min(max(shares), 1.0)


def _share(key, earlier, later, seconds):
    """How busy the engines of one class were, None where that can't be told yet."""
    done = sum(max(0, numbers.get(key, 0) - earlier.get(each, {}).get(key, 0)) for each, numbers in later.items())
    kind, _, name = key.partition("-")
    capacity = max((numbers.get(f"engine-capacity-{name}", 1) for numbers in later.values()), default=1) or 1
    if kind == "engine":
        return done / (seconds * _NANO * capacity)
    total = f"total-cycles-{name}"
    both = [each for each, numbers in later.items() if total in numbers and total in earlier.get(each, {})]
    passed = [later[each][total] - earlier[each][total] for each in both]
    return done / (max(passed) * capacity) if passed and max(passed) > 0 else None


def _good(before):
    """Whether what was handed in is what a look returned."""
    at, functions = before.get("at"), before.get("clients")
    if type(at) not in (int, float) or not math.isfinite(at) or not isinstance(functions, dict):
        return False
    if not all(isinstance(clients, dict) for clients in functions.values()):
        return False
    told = [numbers for clients in functions.values() for numbers in clients.values()]
    return all(isinstance(numbers, dict) and all(type(number) is int for number in numbers.values()) for numbers in told)
