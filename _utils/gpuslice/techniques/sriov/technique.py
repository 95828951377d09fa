"""
SR-IOV: virtual functions (VFs) of a GPU, by the PCI core's files and those of the driver.

The PCI core's part is here. What each VF gets is written to files that :mod:`gpuslice.drivers.xe_sriov` and
:mod:`gpuslice.drivers.i915_sriov` know; a host driver that makes its VFs while it is loaded is
:mod:`gpuslice.techniques.sriov.gim`'s. What of it needs no host is in :mod:`gpuslice.techniques.sriov.goal`.

Settings that it takes (one of): the keys of the pillar's section; ``{"vf_count": 0}``: none, and every file as
the driver has it at boot; ``{"layout": {...}}``: exactly this earlier layout. ``reload: True`` besides lets a driver be reloaded,
``remove: True`` besides is content with what a driver makes by itself.
"""

from typing import final

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import i915_sriov
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers import sriov_files
from gpuslice.drivers import xe_sriov
from gpuslice.drivers.pci import DEVICES
from gpuslice.model import Slice
from gpuslice.numbers import many
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.sriov import checks
from gpuslice.techniques.sriov import gim
from gpuslice.techniques.sriov import goal as sriov_goal
from gpuslice.techniques.sriov import reasons
from gpuslice.techniques.sriov import shares
from gpuslice.techniques.sriov.steps import Steps

#: How long VFs that come late are waited for, in seconds between looks.
_PATIENCE = (0.1, 0.2, 0.4, 0.8, 1.6)
#: Seconds that each VF may take to come, its driver included where that is bound at once.
_EACH = 5
_DEFAULTS = {"vf_count": 0, "profile": "auto", "autoprobe": False, "scheduling": {}, "vfs": {}, "pf_device": "", "vf_devices": []}


@final
class Sriov(Technique):
    """SR-IOV on one host."""

    name = "sriov"
    effects = {"set_count": "slice", "write_option": "file", "load_driver": "driver"}
    # Those of gim, whose option and whose reload are for all its GPUs.
    joint = True

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._files = {}
        self._gim = gim.Gim(host, self)
        self._steps = Steps(self.step)

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu):
        """
        Whether the GPU can have VFs that somebody can be given as they are. NVIDIA's carry vGPUs and nothing else, and some of
        AMD's boards show the capability though no host driver makes VFs of them.
        """
        return super().supports(gpu) and gpu.vendor != "nvidia" and (gpu.vendor != "amd" or gim.serves(gpu))

    def why_not(self, gpu):
        """Why a GPU has no VFs to give."""
        if gpu.vendor == "nvidia":
            return Why("its VFs are of use with NVIDIA vGPU only: use strategy vgpu, whose driver makes them.")
        if gpu.vendor == "amd":
            return Why(f"{reasons.why_not_amd(gpu)}.")
        if self._host.exists(f"{DEVICES}/{gpu.address}/sriov_totalvfs"):
            todo = checks.mend_total(self._host, gpu)
            return Why(f"the driver {gpu.driver or '(none)'} offers no VFs: sriov_totalvfs is 0. {todo}", mendable=True)
        return Why(f"{reasons.why_not_intel(gpu)}.")

    def observe(self, gpu):
        """Read the VFs and the files. Raises errors.DeviceNotFound, errors.Unsupported, errors.Unhealthy: the kernel hangs."""
        bounded.refuse_if_waiting(self._host, gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        base = f"{DEVICES}/{gpu.address}"
        pci.refuse_if_gone(self._host, gpu.address)
        if not self._host.exists(f"{base}/sriov_totalvfs"):
            raise errors.Unsupported(f"{gpu.model} has no virtual functions.", gpu.address, self._sentence(gpu))
        driver, total = self._host.readlink(f"{base}/driver"), self._count(gpu, "sriov_totalvfs")
        addresses, files = pci.there(self._host, gpu.address), self._files_of(gpu, total)
        return sriov_goal.SriovState(
            driver,
            total,
            # To read the number waits, for ever perhaps, while a driver is letting the GPU go; its link is gone by then.
            self._count(gpu, "sriov_numvfs") if driver else len(addresses),
            kernel.number(self._host, f"{base}/sriov_drivers_autoprobe"),
            addresses,
            files,
            sriov_files.read(self._host, files) if files else {},
            self._gim.option(gpu) if gpu.vendor == "amd" else None,
        )

    def _count(self, gpu, name):
        """A number of the PCI core. One that can't be read is no zero: the VFs would be taken for gone."""
        found = kernel.number(self._host, f"{DEVICES}/{gpu.address}/{name}", pci.MOST)
        if found is None:
            raise errors.DriverError(f"{name} can't be read.", gpu.address, "See 'dmesg' for what happened to the GPU.")
        return found

    def _sentence(self, gpu):
        why = self.why_not(gpu).words
        return f"{why[:1].upper()}{why[1:]}{'' if why.endswith('.') else '.'}"

    def _files_of(self, gpu, total):
        """The driver's files, found once in a run: there are hundreds on some GPUs. None where there are none."""
        driver = self._host.readlink(f"{DEVICES}/{gpu.address}/driver")
        key = (gpu.address, driver)
        if key in self._files:
            return self._files[key]
        found = None
        if driver == "xe":
            found = xe_sriov.find(self._host, gpu, total)
        elif driver == "i915":
            found = i915_sriov.find(self._host, gpu, total)
        self._files[key] = found
        return found

    def layout(self, state):
        """The state as plain data: every file that a step may write is in it."""
        if state.driver == "gim" or state.option is not None:
            return {"driver": state.driver, "numvfs": state.numvfs, "option": state.option}
        found = {"driver": state.driver, "numvfs": state.numvfs, "autoprobe": state.autoprobe, "values": state.values}
        if state.files:
            found["files"] = state.files.layout
            found["provisioning"] = shares.provisioning(state.files, state.values, state.numvfs)
        return found

    def words(self, layout):
        """A layout in a few words."""
        number = layout["numvfs"]
        count = many(number, "virtual function")
        parts = shares.describe(layout.get("values", {}))
        return "; ".join([count, *(f"{who}: {what}" for who, what in parts.items())])

    def shown(self, layout):
        """A layout as users see it in changes."""
        found = {"vfs": layout["numvfs"]}
        if "option" in layout:
            return {**found, "driver": layout["driver"] or "none", "vf_num": layout["option"]}
        found["autoprobe"] = sriov_goal.hosts_driver_takes(layout["autoprobe"])
        if "provisioning" in layout:
            found["provisioning"] = {"fair": "by the driver", "custom": "by quotas"}.get(layout["provisioning"], "equal")
        return {**found, **shares.describe(layout["values"])}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None for a GPU without VFs, or with those that a module makes unasked."""
        if not layout["numvfs"] or layout.get("option", layout["numvfs"]) is None:
            return None
        section = {"vf_count": layout["numvfs"]}
        files = self._files.get((gpu.address, layout["driver"]))
        if "autoprobe" in layout:
            section.update(profile="fair", autoprobe=sriov_goal.hosts_driver_takes(layout["autoprobe"]))
        if files:
            section.update(sriov_goal.exported(files, layout))
        return {"strategy": "sriov", "sriov": section}

    def pinned(self, layout):
        """It has no VFs, where the kernel's files make them."""
        return None if layout["numvfs"] or "option" in layout else {"strategy": "sriov", "sriov": {"vf_count": 0}}

    def settings_of(self, layout, begun=None):
        """Settings that ask for exactly this layout; what a change reloaded may be reloaded to undo it."""
        may = any(step.args.get("reload") for step in begun or ())
        return {"layout": dict(layout), **({"reload": True} if may else {})}

    def holders(self, gpu):
        """The processes that hold VFs of this GPU open."""
        return self.held(pci.there(self._host, gpu.address))

    def in_the_way(self, gpu, steps):
        """The processes that use, at this moment, what any of these steps ends."""
        if any(step.action == "unload_driver" for step in steps):
            return self.held(self._gim.all_virtual())
        removes = any(step.action == "set_count" and not step.args["count"] for step in steps)
        return self.holders(gpu) if removes else []

    def held(self, functions):
        """The processes that hold any of these functions open, by VFIO or by a driver of the host."""
        nodes = [node for address in functions for node in _nodes(self._host, address)]
        return device_nodes.holding(self._host, nodes) if nodes else []

    def release(self):
        """Forget what was found: a driver may be another one by the next look."""
        self._files.clear()

    # -- planning ------------------------------------------------------------------------------------------------
    def together(self, works):
        """Those of gim together that change: it is loaded for all of them."""
        joint = [work for work in works if _waits_for_gim(work)]
        return [*([joint] if joint else []), *([work] for work in works if work not in joint)]

    def plan(self, works):
        """
        :raises errors.Unsupported: driver, kernel or GPU can't. :raises errors.ResourceConflict: a VF that would go is in use.
        :raises errors.ProfileMismatch: too many VFs, or more than there is for them.
        """
        return self.each(works, self._plan_gpu)

    def _plan_gpu(self, work):
        gpu, state, settings, rules = work.gpu, work.state, work.settings, work.rules
        if gpu.vendor == "nvidia":
            raise errors.Unsupported(f"{gpu.model} can't have VFs by themselves.", gpu.address, self._sentence(gpu))
        if "layout" not in settings:
            settings = {**_DEFAULTS, **settings}
            if settings["pf_device"] not in ("", gpu.address):
                return self._elsewhere(work, settings["pf_device"])
            peers = {peer.gpu.address: (peer.gpu, peer.settings) for peer in work.peers}
            checks.refuse_numbers(self._host, gpu, state, settings, peers, rules)
        if gpu.vendor == "amd":
            return self._gim.plan(gpu, state, settings, rules)
        goal = self._goal(gpu, state, settings)
        if goal.numvfs:
            checks.refuse_driver(self._host, gpu, state)
        if goal.numvfs and "layout" not in settings:
            checks.refuse_host(self._host, gpu, state, goal, rules)
        return self._planned(gpu, state, goal, rules)

    def _elsewhere(self, work, wanted):
        """The pillar has the VFs of one PF in mind, and this is another GPU."""
        gpu, base = work.gpu, f"{DEVICES}/{wanted}"
        if not self._host.exists(base):
            # A slip in the pillar, not a GPU that is lost.
            raise errors.PolicyError(f"sriov:pf_device names {wanted}, which this host does not have.", todo="Correct it.")
        if self._host.exists(f"{base}/physfn"):
            physical = self._host.readlink(f"{base}/physfn")
            raise errors.PolicyError(
                f"sriov:pf_device names {wanted}, which is a virtual function of {physical}.", todo=f"Name {physical} instead."
            )
        others = [peer.gpu.address for peer in work.peers]
        if others and wanted not in others:
            raise errors.PolicyError(
                f"sriov:pf_device names {wanted}, of which strategy sriov is not wanted, so no virtual function would be made.",
                gpu.address,
                f"Name one of {', '.join(others)}, or write the settings in a rule that matches {wanted}.",
            )
        note = f"left as it is: sriov:pf_device is {wanted}"
        return self.unchanged(gpu, self.layout(work.state), note=note, wanted=False)

    def _goal(self, gpu, state, settings):
        if "layout" in settings:
            return sriov_goal.earlier(state, settings["layout"])
        if not settings["vf_count"]:
            values = {a.path: a.default for a in state.files.attributes if a.path in state.values} if state.files else {}
            return sriov_goal.Goal(0, sriov_goal.AUTOPROBE, "off", values)
        found = shares.wish(gpu, state.files, settings, self._usable(gpu, state))
        values = shares.values_of(state.files, found, settings["vf_count"]) if state.files else {}
        kind = "custom" if found.quotas else "fair"
        return sriov_goal.Goal(settings["vf_count"], int(settings["autoprobe"]), kind, values, found.note)

    def _usable(self, gpu, state):
        """Bytes of memory that VFs can share, None when it is unknown."""
        if state.files and state.files.switch and not state.numvfs:
            told = i915_sriov.usable(self._host, state.files)
            taken = sum(v for path, v in state.values.items() if path.endswith("lmem_quota"))
            if told is not None:
                return told + taken
        return gpu.memory_mib * 2**20 - intel.XE_FAIR["vram_spare"] if gpu.memory_mib else None

    def _planned(self, gpu, state, goal, rules):
        anew = sriov_goal.must_be_made_anew(state, goal)
        stops = Stops(self._host, gpu.address)
        if anew and state.numvfs:
            doing = f"{'remove' if not goal.numvfs else 'make anew'} its {state.numvfs} virtual functions"
            refuse_if_held(gpu.address, doing, self.held(state.addresses), rules, stops)
        steps = [*self.ending(gpu, stops)]
        if anew:
            steps += self._steps.anew(gpu, state, goal)
        else:
            steps += self._steps.autoprobe(gpu, state, goal)
            steps += self._steps.writes(gpu, state, goal, lambda a: not sriov_goal.close(state, goal, a))
        now = self.layout(state)
        after = {**now, "numvfs": goal.numvfs, "autoprobe": goal.autoprobe, "values": sriov_goal.after(state, goal, anew)}
        if "provisioning" in after:
            after["provisioning"] = "fair" if goal.provisioning == "off" else goal.provisioning
        going = tuple(f"vf{n}" for n in range(1, state.numvfs + 1)) if anew else ()
        return self.part(
            gpu, now, after, steps, stops,
            keeps=tuple(f"vf{n}" for n in range(1, state.numvfs + 1) if not anew),
            destroys=going,
            creates=tuple(f"vf{n}" for n in range(1, goal.numvfs + 1)) if anew else (),
            note=self._note(state, goal, going) if steps else sriov_goal.doubt(gpu, state, goal),
        )  # fmt: skip

    def _note(self, state, goal, going):
        drivers = {vf: self._host.readlink(f"{DEVICES}/{vf}/driver") for vf in state.addresses if going}
        bound = [vf for vf, driver in drivers.items() if driver in pci.VFIO_DRIVERS]
        lost = f"{', '.join(bound)}: bound for virtual machines, as the new ones have to be again" if bound else ""
        return "; ".join(filter(None, (goal.note, lost)))

    # -- consumers -----------------------------------------------------------------------------------------------
    def slices(self, gpu, state):
        """The VFs as slices, with who uses them."""
        return [
            _function(gpu, one["number"], one["address"])._replace(
                memory_mib=one["vram_mib"],
                device_nodes=tuple(one["device_nodes"]),
                in_use_by=tuple(one["in_use_by"]),
            )
            for one in self.functions(gpu, state)
        ]

    def expected(self, gpu, layout):
        """The VFs that a layout has, [] where the device does not tell their addresses; what each may use is not told."""
        count, found = layout["numvfs"], pci.there(self._host, gpu.address)
        if len(found) != count:
            found = pci.possible(self._host, gpu.address, count)
        return [_function(gpu, number, address) for number, address in enumerate(found, 1)]

    def functions(self, gpu, state):
        """The VFs as dicts: number, address, driver, iommu_group, what each may use, device_nodes, in_use_by."""
        provisioned = shares.shares(state.files, state.values, state.numvfs) if state.files else {}
        processes = self._host.processes() if state.addresses else []
        found = []
        for number, address in enumerate(state.addresses, 1):
            told = dict(provisioned.get(number, {}))
            vram = told.pop("vram", None)
            nodes = _nodes(self._host, address)
            found.append(
                {
                    "number": number,
                    "address": address,
                    "driver": self._host.readlink(f"{DEVICES}/{address}/driver"),
                    "iommu_group": device_nodes.group(self._host, address),
                    "vram_mib": vram // 2**20 if vram else None,
                    **told,
                    "device_nodes": nodes,
                    "in_use_by": [process.as_dict() for process in device_nodes.holding(self._host, nodes, processes)],
                }
            )
        return found

    def report(self, gpu, state):
        """The PF and its VFs as one dict, for users."""
        found = {"gpu": gpu.address, "driver": state.driver, "total": state.total}
        found["autoprobe"] = sriov_goal.hosts_driver_takes(state.autoprobe)
        found["files"] = state.files.layout if state.files else ""
        found["provisioning"] = self.layout(state).get("provisioning", "")
        return {**found, "vfs": self.functions(gpu, state)}

    def drawing(self, gpu, state):
        """The VFs as a line of text."""
        return f"{state.numvfs} of {state.total} virtual functions"

    # -- trying it out -------------------------------------------------------------------------------------------
    def trials(self, gpu, state):
        """One virtual function, two, and so on by doubling, and as many as there can be."""
        from gpuslice.techniques.sriov import trying

        return trying.trials(gpu, state)

    def facts(self, gpu, state):
        """How many virtual functions the catalog and the kernel say that there can be."""
        from gpuslice.techniques.sriov import trying

        return trying.facts(gpu, state)

    # -- doing ---------------------------------------------------------------------------------------------------
    def carry_out(self, gpu, step):
        """Carry out a step of a change of virtual functions."""
        owner = self._gim if step.action in self._gim.actions else self
        getattr(owner, f"_run_{step.action}")(gpu, **step.args)

    def _run_set_autoprobe(self, gpu, value):
        """Write ``sriov_drivers_autoprobe``."""
        path = f"{DEVICES}/{gpu.address}/sriov_drivers_autoprobe"
        kernel.write(self._host, gpu.address, path, value, f"write {value} to sriov_drivers_autoprobe")

    def _run_write_attribute(self, gpu, path, value):
        """Write one of the driver's files."""
        files = self._present(gpu)
        kernel.write(self._host, gpu.address, f"{files.root}/{path}", value, f"write {value} to {path}", sriov_files.MEANINGS)

    def _run_restore_division(self, gpu):
        """Let the driver divide the GPU again."""
        files = self._present(gpu)
        doing = "give the division back to the driver"
        bounded.write(self._host, gpu.address, files.restore, 1, doing, sriov_files.MEANINGS, seconds=bounded.DIVIDING)

    def _present(self, gpu):
        files = self._files_of(gpu, self._count(gpu, "sriov_totalvfs"))
        if files is None:
            raise errors.Unsupported("The driver's provisioning files are gone.", gpu.address, shares.WHICH_KERNELS)
        return files

    def _run_set_count(self, gpu, count):
        """Write ``sriov_numvfs``, then look whether that many VFs are there."""
        doing = f"create {count} virtual functions" if count else "remove the virtual functions"
        path = f"{DEVICES}/{gpu.address}/sriov_numvfs"
        bounded.write(
            self._host,
            gpu.address,
            path,
            count,
            doing,
            reasons.answers(gpu),
            seconds=bounded.DIVIDING + _EACH * count,
            there=lambda: self._counted(gpu) == (count, count),
        )
        self.wait_for(gpu, count)

    def wait_for(self, gpu, count):
        """
        Wait for VFs that come late.

        :raises errors.DriverError: after some seconds there are not as many as there should be.
        """
        for _ in self._host.tries(_PATIENCE):
            told, there = self._counted(gpu)
            if told == there == count:
                return
        raise errors.DriverError(
            f"{count} virtual functions were asked for, the kernel says {told} and {there} are there.",
            gpu.address,
            "See 'dmesg': too little MMIO space or too few bus numbers are the usual reasons.",
        )

    def _counted(self, gpu):
        told = kernel.number(self._host, f"{DEVICES}/{gpu.address}/sriov_numvfs", pci.MOST)
        return told, len(pci.there(self._host, gpu.address))


def _function(gpu, number, address):
    """A VF as a slice: who knows its address knows where it is."""
    return Slice(gpu.address, "vf", f"vf{number}", address, name=address)


def _nodes(host, address):
    """What a consumer of a VF opens: VFIO's node where a virtual machine is to have it, else the render node."""
    driver = host.readlink(f"{DEVICES}/{address}/driver")
    if driver in pci.VFIO_DRIVERS:
        return device_nodes.vfio(host, address)
    return device_nodes.drm(host, address)


def _waits_for_gim(work):
    """Whether what is asked of a GPU comes with an option or a reload of gim, which are for all its GPUs."""
    elsewhere = work.settings.get("pf_device", "") not in ("", work.gpu.address)
    return work.gpu.vendor == "amd" and not elsewhere and not gim.as_wanted(work.state, work.settings)
