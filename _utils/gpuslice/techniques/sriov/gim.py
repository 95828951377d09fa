"""
Virtual functions of AMD GPUs: the host driver gim makes them when it is loaded, as many as its option ``vf_num`` says, and never
otherwise. ``sriov_numvfs`` is of no use here: neither gim nor amdgpu answers it.

The option is kept in a file of our own below /etc/modprobe.d, which is a part of the layout. gim counts GPUs in PCI order and
takes one number for each, so the file names all of them; a GPU that was never asked for has the number that it has now.
"""

import re
import threading

from gpuslice import errors
from gpuslice.catalog import amd
from gpuslice.drivers import kernel
from gpuslice.drivers import modules
from gpuslice.drivers import pci
from gpuslice.drivers.pci import DEVICES
from gpuslice.host import limits
from gpuslice.inventory import discovery
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import refuse_if_held

MODULE = "gim"
OPTIONS = "/etc/modprobe.d/gpu-slicing-gim.conf"
#: Where gim keeps options of its own.
_OWN_CONFIG = "/etc/gim_config"
_HEAD = "# Written by GPU slicing. Virtual functions of each GPU that was asked for; the option lists all GPUs in PCI order."
_LINE = re.compile(r"^# ([0-9a-f:.]+) ([0-9]{1,9})$", re.MULTILINE)
_OPTION = re.compile(r"^\s*options\s+gim\s.*\bvf_num=", re.MULTILINE)
#: Seconds that the driver may take to start all GPUs, or to let them go.
_LOADING = 120
#: The argument of functions by hand that lets it be reloaded.
_ARGUMENT = "reload_driver"


def serves(gpu):
    """Whether gim makes VFs of this model; True for one that is not in the catalog: then the driver has the last word."""
    model = amd.MODELS.get(gpu.catalog_key)
    return model is None or model["sriov_host_driver"] == MODULE


def as_wanted(state, settings):
    """Whether a GPU has what is asked of it already, so that it needs no reload and waits for no other one."""
    count = settings.get("vf_count", 0)
    asked = settings.get("layout") or {"numvfs": count, "option": count or None}
    there = (asked["numvfs"], asked.get("option")) == (state.numvfs, state.option)
    return there and bool(state.driver or not state.numvfs)


class Gim:
    """
    The part of SR-IOV that is gim's.

    :param technique: the :class:`gpuslice.techniques.sriov.technique.Sriov` that it belongs to.
    """

    actions = ("write_option", "unload_driver", "load_driver")

    def __init__(self, host, technique):
        self._host = host
        self._technique = technique
        # All GPUs share the file, and each is planned and changed in a thread of its own.
        self._writing = threading.Lock()

    def option(self, gpu):
        """The number of VFs that our file has for a GPU, None where it has none."""
        return self._entries().get(gpu.address)

    def _entries(self):
        return {address: int(number) for address, number in _LINE.findall(kernel.text(self._host, OPTIONS) or "")}

    def _functions(self):
        """Addresses of the GPUs that gim drives, or would if it were loaded, in PCI order."""
        if self._loaded():
            found = [name for name in self._host.listdir(f"/sys/bus/pci/drivers/{MODULE}") if ":" in name]
            return sorted(found)
        gpus = discovery.discover(self._host)
        return [g.address for g in gpus if g.vendor == "amd" and g.virtual_functions["total"] and g.driver in ("", MODULE)]

    def _loaded(self):
        return MODULE in modules.loaded(self._host)

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, gpu, state, settings, rules):
        """As :meth:`gpuslice.techniques.sriov.technique.Sriov.plan`, for a GPU that is gim's."""
        wanted, option = self._goal(gpu, state, settings)
        may = bool(settings.get("reload")) or MODULE in rules.unload_modules
        reloads = wanted != state.numvfs or bool(wanted and not state.driver)
        if reloads and state.option == option and rules.awaits_reboot and not may:
            return self._waiting(gpu, state, wanted)
        stops = Stops(self._host, gpu.address)
        # Where a reload follows it is written in any case, so that undoing finds it among the steps of each GPU.
        steps = [self._write(gpu, state, option, wanted, may)] if state.option != option or (reloads and may) else []
        if reloads:
            steps += self._reload(gpu, state, wanted, may, rules, stops)
        driver = state.driver if not reloads else MODULE if wanted else ""
        notes = filter(None, (_preview(gpu, wanted), _unasked(rules) if reloads and not may else ""))
        return self._technique.part(
            gpu, self._technique.layout(state), {"driver": driver, "numvfs": wanted, "option": option},
            [*self._technique.ending(gpu, stops), *steps], stops,
            keeps=tuple(f"vf{n}" for n in range(1, state.numvfs + 1) if not reloads),
            destroys=tuple(f"vf{n}" for n in range(1, state.numvfs + 1) if reloads),
            creates=tuple(f"vf{n}" for n in range(1, wanted + 1) if reloads),
            note="; ".join(notes) if steps else "",
            # Its option and its reload are for all GPUs of the driver.
            group=MODULE if steps else "",
        )  # fmt: skip

    def _goal(self, gpu, state, settings):
        """(number of VFs, number in our file or None)."""
        if "layout" in settings:
            return self._earlier(gpu, state, settings["layout"])
        count = settings["vf_count"]
        if not count and state.driver != MODULE:
            # Only our option is left of what a gim made that is not there now.
            return state.numvfs, None
        self._check_driver(gpu, state)
        if settings["scheduling"] or settings["vfs"] or settings["autoprobe"] or settings["profile"] not in ("auto", "fair"):
            raise errors.Unsupported(
                "The driver gim gives every virtual function the same and leaves it unbound; it has no profile, scheduling, vfs "
                "or autoprobe settings.",
                gpu.address,
                "Leave them out of the pillar.",
            )
        if not count:
            return self._none(gpu, state, settings)
        self._check_count(gpu, count)
        if (count, count) != (state.numvfs, state.option):
            # gim may have written the number into its own file itself: only who wants another one is told of it.
            self._check_others(gpu)
            pci.refuse_without_iommu(self._host, gpu.address)
        return count, count

    def _earlier(self, gpu, state, layout):
        """What an earlier layout asks for. Raises errors.Unsupported for one of a time when another driver had the GPU."""
        same = (layout["driver"], layout["numvfs"]) == (state.driver, state.numvfs)
        if same or ("option" in layout and state.driver in ("", MODULE)):
            return layout["numvfs"], layout.get("option")
        raise errors.Unsupported(
            f"The GPU is to have {layout['numvfs']} virtual functions under {layout['driver'] or 'no driver'}, and has "
            f"{state.numvfs} under {state.driver or 'no driver'}.",
            gpu.address,
            "Only those of gim can be made again.",
        )

    @staticmethod
    def _none(gpu, state, settings):
        """Asked for no VFs. Whoever only removes what we made gets what the driver makes without our option."""
        if not settings.get("remove"):
            raise errors.Unsupported(
                f"The driver gim always makes at least one virtual function; {state.numvfs} of {gpu.model} are there now.",
                gpu.address,
                "To have none, remove gim and give the GPU back to amdgpu.",
            )
        return amd.GIM_VF_NUM[2], None

    def _check_driver(self, gpu, state):
        if state.driver == MODULE or (not state.driver and state.option is not None):
            return
        raise errors.Unsupported(
            f"Virtual functions of {gpu.model} are made by the host driver gim, and the GPU has {state.driver or 'no driver'}.",
            gpu.address,
            "Install gim, boot with modprobe.blacklist=amdgpu and the IOMMU on, and load it; partition modes of amdgpu and gim "
            "exclude each other.",
        )

    @staticmethod
    def _check_count(gpu, count):
        model = amd.MODELS.get(gpu.catalog_key, {})
        low, high, _ = amd.GIM_VF_NUM
        limit = model.get("max_vfs") or high
        if not low <= count <= min(limit, high):
            raise errors.ProfileMismatch(
                f"{count} virtual functions are wanted, and gim makes {low} to {min(limit, high)} of {gpu.model}.", gpu.address
            )
        if model.get("xcc") and model["xcc"] % count:
            raise errors.ProfileMismatch(
                f"{count} virtual functions are wanted, which does not divide the {model['xcc']} compute dies (XCC) of "
                f"{gpu.model}: gim would refuse to load.",
                gpu.address,
                f"Ask for one of {', '.join(str(n) for n in range(1, limit + 1) if model['xcc'] % n == 0)}.",
            )

    def _check_others(self, gpu):
        """Another place that sets the option would fight ours."""
        files = modules.option_files(self._host)
        found = [path for path in files if path != OPTIONS and _OPTION.search(kernel.text(self._host, path) or "")]
        if re.search(r"^\s*vf_num\b", kernel.text(self._host, _OWN_CONFIG) or "", re.MULTILINE):
            raise errors.Unsupported(
                f"{_OWN_CONFIG} sets vf_num of gim already.",
                gpu.address,
                f"Move that file away: gim writes its numbers only where it is there, and ours are in {OPTIONS}.",
            )
        if re.search(rf"\b{MODULE}\.vf_num=", kernel.text(self._host, "/proc/cmdline") or ""):
            found.append("the kernel's command line")
        if found:
            raise errors.Unsupported(
                f"{found[0]} sets vf_num of gim already.",
                gpu.address,
                f"Remove it there: the option is kept in {OPTIONS} only.",
            )

    def _reload(self, gpu, state, wanted, may, rules, stops):
        step = self._technique.step
        if may and state.driver == MODULE:
            self._refuse_users(gpu, wanted, rules, stops)
        args = {"count": wanted, "allowed": may, "how": rules.allow_reload(MODULE, _ARGUMENT)}
        load = step(gpu, "load_driver", args, f"load {MODULE}", "load_module", RESET, undo=f"unload {MODULE}")
        affected = [vf for address in self._functions() for vf in self._virtual(address)]
        words = f"unload {MODULE}, which removes the virtual functions of all its GPUs"
        unload = step(
            gpu,
            "unload_driver",
            args,
            words,
            "unload_gim",
            RESET,
            undo=f"load {MODULE}",
            disrupts=affected,
            needs=("idle", "driver"),
        )
        return [unload, load] if wanted else [unload]

    def _virtual(self, address):
        base = f"{DEVICES}/{address}"
        return [self._host.readlink(f"{base}/{n}") for n in self._host.listdir(base) if n.startswith("virtfn")]

    def all_virtual(self):
        """Addresses of the virtual functions of all GPUs of the driver: a reload takes them together."""
        return [vf for address in self._functions() for vf in self._virtual(address)]

    def _refuse_users(self, gpu, wanted, rules, stops):
        """A reload takes the VFs of every GPU: none may be a virtual machine's."""
        functions = self.all_virtual()
        doing = f"reload {MODULE} for {wanted} virtual functions, which removes those of all its GPUs"
        refuse_if_held(gpu.address, doing, self._technique.held(functions), rules, stops)
        bound = [vf for vf in functions if self._host.readlink(f"{DEVICES}/{vf}/driver") in pci.VFIO_DRIVERS]
        if bound and not rules.force and not stops.units:
            raise errors.ResourceConflict(
                f"Could not {doing}: {', '.join(bound)} {'is' if len(bound) == 1 else 'are'} bound for virtual machines.",
                gpu.address,
                f"Shut the guests down and unbind these, or {rules.force_it()}.",
            )

    def _write(self, gpu, state, option, count, may):
        words = f"write vf_num={option} to {OPTIONS}" if option is not None else f"take the GPU out of {OPTIONS}"
        undo = "take it out again" if state.option is None else f"write {state.option} again"
        return self._technique.step(
            gpu, "write_option", {"number": option, "count": count, "reload": may}, words, "file_write", PREPARE, undo=undo
        )

    def _waiting(self, gpu, state, wanted):
        note = f"the GPU has {state.numvfs} virtual functions and gets {wanted} at the next reboot: {MODULE} may not be reloaded"
        return self._technique.unchanged(gpu, self._technique.layout(state), waits="reboot", note=note)

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_write_option(self, gpu, number, count, reload):
        """
        Write our file, or remove it with its last GPU.

        :param number: for this GPU, None to take it out; :param count: what it is to have without.
        :param reload: whether the change may reload gim; it is here for whoever undoes the change.
        :raises errors.StateDirUnusable: it can't be written.
        """
        with self._writing:
            entries = self._entries()
            entries.pop(gpu.address, None)
            if number is not None:
                entries[gpu.address] = number
            try:
                self._store(entries, {gpu.address: count})
            except OSError as err:
                raise errors.StateDirUnusable(
                    f"Could not write {OPTIONS}: {err.strerror}.",
                    gpu.address,
                    "Free space or mend its permissions, then run again.",
                ) from err

    def _store(self, entries, wanted):
        if not entries:
            self._host.store_remove(OPTIONS)
            return
        order = sorted({*self._functions(), *entries})
        numbers = [entries.get(address) or wanted.get(address) or self._current(address) for address in order]
        lines = [_HEAD, *(f"# {address} {number}" for address, number in sorted(entries.items()))]
        self._host.store_write(OPTIONS, "\n".join([*lines, f"options {MODULE} vf_num={','.join(map(str, numbers))}"]) + "\n")

    def _current(self, address):
        return kernel.number(self._host, f"{DEVICES}/{address}/sriov_numvfs") or amd.GIM_VF_NUM[2]

    def _in_force(self, gpu, count):
        base = f"{DEVICES}/{gpu.address}"
        return self._host.readlink(f"{base}/driver") == MODULE and kernel.number(self._host, f"{base}/sriov_numvfs") == count

    def _run_unload_driver(self, gpu, count, allowed, how=""):
        """Unload gim, unless a reload for another GPU of this change did it already. Raises errors.RebootNeeded."""
        if self._in_force(gpu, count) or not self._loaded():
            return
        self._allow(gpu, count, allowed, how)
        self._modprobe(gpu, modules.unload, f"unload {MODULE}", False)

    def _run_load_driver(self, gpu, count, allowed, how=""):
        """Load gim and see whether it made the VFs. Raises errors.RebootNeeded, errors.DriverError."""
        if self._in_force(gpu, count):
            return
        self._allow(gpu, count, allowed, how)
        self._modprobe(gpu, modules.load, f"load {MODULE}", True)
        self._technique.wait_for(gpu, count)

    @staticmethod
    def _allow(gpu, count, allowed, how):
        """:param how: how it may be reloaded; "" in what an earlier version has planned."""
        if not allowed:
            what = f"The GPU gets {count} virtual functions when {MODULE} is loaded the next time."
            raise errors.RebootNeeded(what, gpu.address, f"{how} to have it reloaded, or reboot." if how else "Reboot.")

    def _modprobe(self, gpu, change, doing, loaded):
        try:
            done = change(self._host, MODULE, _LOADING)
        except errors.ToolHangs as err:
            # It makes the VFs of all GPUs; which of these it is at, nobody knows.
            raise self._host.limits.hangs(gpu.address, limits.hanging(gpu.address, doing, _LOADING, "modprobe")) from err
        # What is there counts, not what the program says of it.
        if done.returncode and self._loaded() != loaded:
            held = "; ".join(map(str, self._technique.held(self.all_virtual())))
            in_use = f" In use by {held}." if held else ""
            raise errors.DriverError(
                f"Could not {doing}: {done.said}{in_use}", gpu.address, "Shut down the guests, and see 'dmesg'."
            )


def _unasked(rules):
    """That a change comes at a reboot, and how it would not have to wait for that."""
    how = rules.allow_reload(MODULE, _ARGUMENT)
    return f"{MODULE} may not be reloaded, so that this comes at a reboot. {how} to have it now"


def _preview(gpu, count):
    """A sentence where the number needs firmware that is not the usual one, or modes that go with it, or is on no list."""
    listed = amd.MODELS.get(gpu.catalog_key, {}).get("vf_profiles", ())
    if listed and count not in [number for number, *_ in listed]:
        numbers = ", ".join(str(number) for number, *_ in listed)
        return f"the driver takes {count} virtual functions of {gpu.model}, but its release notes name {numbers} only"
    for number, compute, memory, preview in amd.MODELS.get(gpu.catalog_key, {}).get("vf_profiles", ()):
        if number == count and compute:
            modes = f"{count} virtual functions go with the modes {compute}/{memory} of gim"
            return f"{modes} and need the vendor's preview firmware" if preview else modes
    return ""
