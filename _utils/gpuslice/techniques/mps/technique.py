"""
MPS: several consumers run side by side on a whole GPU, or on each of its MIG devices, each with a limit of compute and memory.

What there is: a daemon for each slice that is shared, as a systemd unit of ours, the compute mode of a whole GPU that keeps other
programs away from it, and our own record of how many consumers each may have. The limits hold for each client process, as the
daemon enforces them; how many consumers there are is for those to keep who hand slices out.

Settings that it takes: those of the pillar, of which what is left out has the default; or ``{"clear": True}``: nothing shared; or
``{"layout": {...}}``: exactly this.
"""

from functools import cached_property
from typing import Any
from typing import final

from gpuslice import errors
from gpuslice import kinds
from gpuslice.drivers import device_nodes
from gpuslice.drivers import mps
from gpuslice.drivers import pci
from gpuslice.drivers.compute_policy import MODES
from gpuslice.drivers.compute_policy import ComputePolicy
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.model import Process
from gpuslice.outputs import mps as outputs
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.techniques import shares
from gpuslice.techniques.base import Stops
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.base import refuse_if_held
from gpuslice.techniques.mps import clients
from gpuslice.techniques.mps import unit
from gpuslice.techniques.mps.daemons import Daemons
from gpuslice.techniques.mps.ledger import NOTHING
from gpuslice.techniques.mps.ledger import ledger
from gpuslice.techniques.mps.section import PROTOCOLS
from gpuslice.techniques.mps.section import SECTION
from gpuslice.techniques.whole import whole_gpu

_DEFAULT, _EXCLUSIVE = 0, 3
#: The compute capability of Volta.
_VOLTA = (7, 0)
_WEIGHTS = (
    f"the daemon enforces the share of the heaviest, and less for the others is in their environment: to enforce weights takes "
    f"protocol v3 (driver {mps.V3}); "
)
_ADVICE = "limits hold for each client process; give consumers a user that is not uid 0 of the host, which could end the daemon"


class Sharing:
    """
    What a GPU has now. The compute mode is read only when it is needed.

    :ivar daemons: name of a slice -> what :mod:`gpuslice.techniques.mps.clients` has, and ``runs``: whether its daemon does, with
        these limits.
    :ivar profiles: those that are shared, [] for all; :ivar exclusive: whether a whole GPU is kept for its daemon.
    :ivar templates: name -> text, those of the site by which the daemons' files were made.
    :ivar specs: name of a slice -> its unit, None for none. :ivar of_whole: whether it is the whole GPU that is shared.
    """

    def __init__(self, noted, daemons, specs, of_whole, read):
        self.profiles, self.exclusive, self.templates = noted["profiles"], noted["exclusive"], noted["templates"]
        self.daemons, self.specs, self.of_whole, self._read = daemons, specs, of_whole, read

    @cached_property
    def mode(self):
        """Number of the compute mode, None in MIG mode."""
        return self._read()


@final
class Mps(Technique):
    """MPS on one host."""

    name = "mps"
    effects = {"note": "file", "write": "file", "remove": "file", "start": "unit", "stop": "unit"}

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._ledger, self._policy, self._daemons = ledger(host), ComputePolicy(host, sessions), Daemons(host)

    # -- facts ---------------------------------------------------------------------------------------------------
    def why_not(self, gpu):
        """Why a GPU can't."""
        if gpu.vendor == "nvidia":
            return Why("under NVIDIA's vGPU manager no program of the host computes on it; MPS runs in its virtual machines")
        return Why("MPS is NVIDIA's")

    def observe(self, gpu):
        """Read the record and the files of the daemons. Raises errors.StateDirUnusable, errors.ResourceConflict."""
        self._host.limits.refuse(gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        noted = self._ledger.read(gpu)
        specs = {name: self._daemons.spec(name) for name in noted["daemons"]}
        daemons = {
            name: {**wanted, "runs": _has(specs[name], wanted) and self._daemons.process(name) is not None}
            for name, wanted in noted["daemons"].items()
        }
        return Sharing(noted, daemons, specs, gpu.address in daemons, lambda: self._policy.mode(gpu))

    def standing(self, gpu, state, below):
        """Without the daemons of slices that are gone."""
        if not state.daemons:
            return state
        daemons, profiles = shares.standing(gpu, state.daemons, state.profiles, below(), lambda: self._is_whole(gpu, state))
        specs = {name: state.specs[name] for name in daemons}
        own = {"profiles": profiles, "exclusive": state.exclusive, "templates": state.templates}
        noted = own if daemons else NOTHING
        return Sharing(noted, daemons, specs, gpu.address in daemons, lambda: state.mode)

    @staticmethod
    def _is_whole(gpu, state):
        return not gpu.virtual_functions.get("enabled") and state.mode is not None

    def layout(self, state):
        """The state as plain data; the compute mode counts only where the whole GPU is shared."""
        mode = state.mode if state.of_whole else None
        return _layout(state.daemons, state.profiles, state.exclusive, mode, state.templates)

    def words(self, layout):
        """A layout in a few words."""
        daemons = layout["daemons"]
        if not daemons:
            return "nothing shared"
        told = ", ".join(f"{name} by {_limits(one)}" for name, one in sorted(daemons.items()))
        if len(daemons) > 3:
            told = f"{len(daemons)} slices by up to {max(one['clients'] for one in daemons.values())} each"
        return f"shared by MPS: {told}"

    def shown(self, layout):
        """A layout as users see it in changes."""
        if not layout["daemons"]:
            return {"mps": {}}
        mode = {} if layout["mode"] is None else {"compute_mode": MODES[layout["mode"]]}
        own = layout["templates"]
        templates = {"templates": {name: f"of the site ({unit.digest(own[name])})" for name in sorted(own)}} if own else {}
        return {"mps": {name: _shown(one) for name, one in sorted(layout["daemons"].items())}, **mode, **templates}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None where nothing is shared."""
        daemons = list(layout["daemons"].values())
        if not daemons:
            return None
        most = max(daemons, key=lambda one: one["clients"])
        weighted: dict[str, Any] = {"share_policy": "weighted", "weights": list(most["weights"])}
        made = weighted if most["weights"] else self._equal(gpu, daemons, most)
        if most["protocol"] != self._automatic(most["weights"]):
            made["protocol"] = f"v{most['protocol']}"
        if layout["mode"] is not None and not layout["exclusive"]:
            made["exclusive"] = False
        if layout["profiles"]:
            made["profiles"] = list(layout["profiles"])
        return {"strategy": "mps", "mps": made}

    @staticmethod
    def _equal(gpu, daemons, most):
        """What a pillar says of clients that all get the same; :param most: the daemon that has the most."""
        count = most["clients"]
        made = {"max_instance_count": count}
        percents, limits = ({one[key] for one in daemons} for key in ("threads", "pinned_mib"))
        if percents != {clients.threads(1, count, most["protocol"])} and len(percents) == 1:
            made["active_thread_percentage"] = int(percents.pop())
        if len(limits) == 1 and None not in limits and limits != {clients.memory(gpu.memory_mib, 1, count)}:
            made["pinned_memory_mib"] = limits.pop()
        return made

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, works):
        """
        :raises errors.PolicyError: only whole GPUs are wanted to be shared, and this one has MIG devices; more clients than the
            driver allows; by hand, profiles of which there is none.
        :raises errors.Unsupported: there is nothing to be shared. :raises errors.ResourceConflict: in use, or somebody else's.
        :raises errors.ToolMissing: a program is not installed.
        """
        return self.each(works, self._part)

    def _part(self, work):
        gpu, state = work.gpu, work.state
        before = self.layout(state)
        try:
            goal, parts = self._goal(work)
            stops = Stops(self._host, gpu.address)
            steps = tuple(self._steps(work, before, goal, parts, stops))
        except (errors.Unsupported, errors.ResourceConflict, errors.ToolMissing) as err:
            if not work.target.automatic:
                raise
            # Strategy auto never fails: nobody has asked for it here.
            return self.unchanged(gpu, before, note=f"left alone: {err.what}", wanted=False)
        old, new = _names(before), _names(goal)
        return self.part(
            gpu, before, goal, (*self.ending(gpu, stops), *steps) if steps else (), stops,
            keeps=tuple(f"MPS client {name}" for name in new if name in old),
            destroys=tuple(f"MPS client {name}" for name in old if name not in new),
            creates=tuple(f"MPS client {name}" for name in new if name not in old),
            note=self._note(work, goal, steps),
        )  # fmt: skip

    def _goal(self, work):
        """(the wanted layout, name -> slice of those that are there to be shared)."""
        gpu, settings, below = work.gpu, work.settings, work.below
        if "layout" in settings:
            layout = settings["layout"]
            parts = self._there(gpu, layout["daemons"])
            earlier = {name: self._doable(one) for name, one in layout["daemons"].items()}
            daemons = {name: {**one, "runs": one["runs"] and name in parts} for name, one in earlier.items()}
            return {**layout, "daemons": daemons}, parts
        if settings.get("clear"):
            return _layout(), {}
        shares.refuse_other(self._host, gpu, self.name)
        settings = {**SECTION.defaults(), **settings}
        if settings["weights"]:
            settings["max_instance_count"] = len(settings["weights"])
        self._refuse_many(gpu, settings["max_instance_count"])
        settings["protocol"] = self._protocol(gpu, settings)
        # By hand nobody asks the file server: what is on record stays.
        templates = settings.get("templates", work.state.templates)
        if below.slices or below.asked:
            shares.refuse_alone(work, "mps")
            found = shares.chosen(work, settings["profiles"])
            daemons = {part.name: self._daemon(part, settings) for part in found}
            profiles = settings["profiles"] if daemons else []
            return _layout(daemons, profiles, templates=templates), {part.name: part for part in found}
        shares.refuse_functions(gpu)
        if work.state.mode is None:
            raise shares.no_device(gpu)
        shares.refuse_profiles(work, settings["profiles"])
        whole = whole_gpu(self._host, gpu)
        exclusive = settings["exclusive"]
        mode = _EXCLUSIVE if exclusive else _DEFAULT
        return _layout({gpu.address: self._daemon(whole, settings)}, [], exclusive, mode, templates), {gpu.address: whole}

    def _daemon(self, part, settings):
        weights, protocol = settings["weights"], settings["protocol"]
        heaviest, total = max(weights, default=1), sum(weights) or settings["max_instance_count"]
        return {
            "clients": settings["max_instance_count"],
            "threads": float(settings["active_thread_percentage"] or clients.threads(heaviest, total, protocol)),
            "pinned_mib": settings["pinned_memory_mib"] or clients.memory(part.memory_mib, heaviest, total),
            "weights": list(weights),
            "protocol": protocol,
            "runs": True,
        }

    def _automatic(self, weights):
        """The number of the protocol where none is asked for: v2, which all drivers have, gives all clients the same."""
        return 3 if len(set(weights)) > 1 and mps.driver(self._host) >= mps.V3 else 2

    def _protocol(self, gpu, settings):
        asked = PROTOCOLS[settings["protocol"]] or self._automatic(settings["weights"])
        if asked == 3 and mps.driver(self._host) < mps.V3:
            raise errors.PolicyError(
                f"MPS is to have protocol v3, which came with driver {mps.V3}, and the driver here is "
                f"{mps.driver(self._host) or 'not told'}.",
                gpu.address,
                "Write 'protocol: auto', or install a newer driver.",
            )
        return asked

    def _doable(self, one):
        """A daemon of an earlier layout: by the older protocol, where the driver of now has no other."""
        if one["protocol"] == 2 or mps.driver(self._host) >= mps.V3:
            return one
        weights = one["weights"]
        threads = clients.threads(max(weights), sum(weights), 2) if weights else one["threads"]
        return {**one, "protocol": 2, "threads": threads}

    def _refuse_many(self, gpu, count):
        if count > (most := mps.most_clients(self._host)):
            raise errors.PolicyError(
                f"{count} consumers are to share the GPU by MPS, and this driver allows {most} clients.", gpu.address,
                f"Give max_instance_count of at most {most}.",
            )  # fmt: skip

    def _there(self, gpu, names):
        """name -> slice, of those of these names that can be shared now."""
        if gpu.address in names:
            return {gpu.address: whole_gpu(self._host, gpu)} if self._policy.mode(gpu) is not None else {}
        return {part.name: part for part in self._mig(gpu) if part.name in names} if names else {}

    def _mig(self, gpu):
        # Only an undo and a boot have to look: a request is handed what is below.
        from gpuslice.techniques.mig.technique import Mig

        tool = Mig(self._host, self._sessions)
        return tool.slices(gpu, tool.observe(gpu)) if tool.supports(gpu) else []

    def _steps(self, work, before, goal, parts, stops):
        """What leads from one to the other: the record has a daemon before there is any of it, and until all of it is gone."""
        gpu, state = work.gpu, work.state
        between = {**goal, "daemons": {**before["daemons"], **goal["daemons"]}} if goal["daemons"] else before
        yield from self._noting(gpu, before, between, PREPARE)
        specs = {name: self._spec(gpu, parts[name], one, goal) for name, one in goal["daemons"].items() if name in parts}
        again = {name for name in goal["daemons"] if self._is_new(work, name, goal, specs)}
        for name in state.daemons:
            if name not in goal["daemons"] or name in again or not goal["daemons"][name]["runs"]:
                yield from self._ending_one(work, name, name not in goal["daemons"], stops)
        for name in sorted(again):
            yield from self._starting(work, name, specs[name], goal["templates"], stops)
        if goal["mode"] is not None and not again and state.mode != goal["mode"]:
            words = f"set compute mode {MODES[goal['mode']]}"
            undo = f"compute mode {MODES[state.mode]} again"
            yield self.step(gpu, "mode", {"mode": goal["mode"]}, words, "sysfs_write", CARVE, undo)
        yield from self._noting(gpu, between, goal, CARVE)

    def _is_new(self, work, name, goal, specs):
        """Whether a daemon has to be started, or started anew."""
        if name not in specs or not goal["daemons"][name]["runs"]:
            return False
        now = work.state.specs.get(name)
        if not work.state.daemons.get(name, {}).get("runs") or now is None:
            return True
        if not work.below.certain:
            # What only exists when the slice is made is not known yet.
            return name in work.below.going or now._replace(device="", nodes=()) != specs[name]._replace(device="", nodes=())
        return now != specs[name]

    def _spec(self, gpu, part, one, goal):
        exclusive = goal["exclusive"] and part.name == gpu.address
        control, smi = mps.program(self._host), mps.program(self._host, "nvidia-smi") if exclusive else ""
        limits = one["threads"], one["pinned_mib"]
        templates = unit.template_of(goal["templates"], one["protocol"] == 3)
        return unit.Spec(part.name, part.identity, part.device_nodes, *limits, exclusive, control, smi, _shares(one), templates)

    def _ending_one(self, work, name, for_good, stops):
        gpu = work.gpu
        # Also one whose daemon has just died: systemd may be about to start it again.
        if self._daemons.process(name) is not None or (for_good and self._daemons.is_there(name)):
            refuse_if_held(gpu.address, f"end the MPS daemon of {name}", self._daemons.clients(gpu, name), work.rules, stops)
            words = f"stop the MPS daemon of {name}"
            yield self.step(gpu, "stop", {"name": name}, words, "restart_unit", PREPARE, "start it again", disrupts=(name,))
        if for_good and self._daemons.is_there(name):
            words = f"remove the unit {unit.unit(name)}"
            yield self.step(gpu, "remove", {"name": name}, words, "file_write", PREPARE, "write it again")

    def _starting(self, work, name, spec, templates, stops):
        gpu = work.gpu
        self._refuse_foreign(work, name)
        self._refuse_old(gpu)
        if spec.exclusive and name not in work.state.daemons:
            # Who computes there already keeps the daemon's own programs out.
            refuse_if_held(gpu.address, "keep the GPU for an MPS daemon", self._computing(gpu), work.rules, stops)
        for program, needed in ((spec.control, mps.CONTROL), (spec.smi or not spec.exclusive, "nvidia-smi")):
            if not program:
                raise errors.ToolMissing(
                    f"MPS of {name} needs the program {needed}, which is not installed.", gpu.address,
                    "Install it with NVIDIA's driver (Debian: nvidia-cuda-mps, nvidia-smi).",
                )  # fmt: skip
        if work.state.specs.get(name) != spec:
            plain = {**spec._asdict(), "nodes": list(spec.nodes), "shares": [list(each) for each in spec.shares]}
            words = f"write the unit {unit.unit(name)}"
            if templates:
                # One that makes nothing which could be taken is told before anything is changed.
                unit.written(spec, templates)
                words = f"{words} by {_templates_words(templates)}"
            args = {"spec": plain, "templates": dict(templates)}
            needs = ("idle",) if spec.exclusive and name not in work.state.daemons else ()
            yield self.step(gpu, "write", args, words, "file_write", CARVE, "put the former one back", needs=needs)
        words = f"start the MPS daemon of {name}, with {_promised(spec)}, and read these back"
        yield self.step(gpu, "start", {"name": name}, words, "restart_unit", CARVE, "stop it")

    def _refuse_old(self, gpu):
        """Before Volta a daemon has no limits for its clients (NVIDIA, MPS manual). Where the driver tells nothing, it may."""
        nvml = self._sessions.nvml
        found = nvml.call(
            "nvmlDeviceGetCudaComputeCapability", nvml.handle(gpu.address), gpu=gpu.address, doing="read the compute capability",
            quiet=(NOT_SUPPORTED,),
        )  # fmt: skip
        if found is not None and tuple(found) < _VOLTA:
            raise errors.Unsupported(
                f"MPS limits no client on {gpu.model}, which is older than Volta (compute capability {found[0]}.{found[1]}).",
                gpu.address,
                "Take another strategy for this GPU, such as time-slicing.",
            )

    def _computing(self, gpu):
        """The processes that compute on the whole GPU now."""
        nvml = self._sessions.nvml
        found = [(pid, self._host.process(pid)) for pid in nvml.pids(nvml.handle(gpu.address), gpu.address)]
        return [process or Process(pid, "a process that can't be seen from here") for pid, process in found]

    def _refuse_foreign(self, work, name):
        """What another one has made there is not taken over."""
        gpu, state = work.gpu, work.state
        self._daemons.refuse_foreign(gpu, name)
        ours = unit.unit(name)
        servers = [one for one in self.holders(gpu) if mps.serves(one) and not kinds.is_ours(one.unit)]
        pid = mps.daemon_pid(self._host, mps.USUAL)
        usual = None if pid is None else self._host.process(pid)
        if usual and mps.serves(usual) and not kinds.is_ours(usual.unit) and usual not in servers:
            servers.append(usual)
        if servers:
            raise errors.ResourceConflict(
                f"An MPS daemon of somebody else's serves it already: {'; '.join(map(str, servers))}.", gpu.address,
                "End that first ('echo quit | nvidia-cuda-mps-control').", holders=[one.as_dict() for one in servers],
            )  # fmt: skip
        if name != gpu.address or name in state.daemons:
            return
        if state.mode != _DEFAULT:
            raise errors.ResourceConflict(
                f"Its compute mode is {MODES[state.mode]}, which somebody else has set, and {ours} would put it back to default.",
                gpu.address,
                f"Set it to default first: 'nvidia-smi -i {gpu.address} -c DEFAULT'.",
            )

    def _noting(self, gpu, before, goal, phase):
        new = _noted(goal)
        if _noted(before) == new:
            return
        told = ", ".join(f"{name} among {one['clients']}" for name, one in sorted(goal["daemons"].items()))
        words = f"note that these are shared by MPS: {told}" if told else "forget that anything of the GPU is shared by MPS"
        yield self.step(gpu, "note", new, words, "file_write", phase, "put the former note back")

    def _note(self, work, goal, steps):
        if not goal["daemons"]:
            return "" if work.settings.keys() & {"layout", "clear"} else shares.nothing(work, work.settings.get("profiles"))
        fewer = "" if work.gpu.address in goal["daemons"] else "a MIG device has fewer clients than a whole GPU; "
        by_environment = any(one["protocol"] == 2 and len(set(one["weights"])) > 1 for one in goal["daemons"].values())
        return f"{'' if steps else 'already as wanted; '}{fewer}{_WEIGHTS if by_environment else ''}{_ADVICE}."

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_note(self, gpu, **noted):
        self._ledger.write(gpu, noted)

    def _run_write(self, gpu, spec, templates):
        self._daemons.write(gpu, unit.made(spec), templates)

    def _run_start(self, gpu, name):
        self._daemons.start(gpu, name)

    def _run_stop(self, gpu, name):
        self._daemons.stop(gpu, name)

    def _run_remove(self, gpu, name):
        self._daemons.remove(gpu, name)

    def _run_mode(self, gpu, mode):
        self._policy.set_mode(gpu, mode)

    # -- consumers -----------------------------------------------------------------------------------------------
    def holders(self, gpu):
        """The processes that hold the GPU open."""
        return device_nodes.holding(self._host, device_nodes.of(self._host, gpu.address))

    def in_the_way(self, gpu, steps):
        """The clients of the daemons that are stopped, and who computes on a GPU that is to be kept for one."""
        found = [one for step in steps if step.action == "stop" for one in self._daemons.clients(gpu, step.args["name"])]
        kept = any(step.action == "write" and step.args["spec"]["exclusive"] and "idle" in step.needs for step in steps)
        return found + (self._computing(gpu) if kept else [])

    def slices(self, gpu, state):
        """The clients of the whole GPU."""
        return self.slices_on(gpu, state, [])

    def slices_on(self, gpu, state, below):
        """The clients of the MIG devices; of the whole GPU where it can be used as one."""
        return self._shares(gpu, self.standing(gpu, state, lambda: below).daemons, below)

    def expected_on(self, gpu, layout, below):
        """The clients that there will be."""
        return self._shares(gpu, layout["daemons"], below)

    def _shares(self, gpu, daemons, below):
        parts = below or ([whole_gpu(self._host, gpu)] if daemons else [])
        return [one for part in parts if part.name in daemons for one in _clients(part, daemons[part.name])]

    def units_of(self, gpu, state, names):
        """The units of the daemons of these slices, of those that run."""
        return [unit.unit(name) for name in names if state.daemons.get(name, {}).get("runs")]

    def drawing(self, gpu, state):
        """How many share what."""
        return ", ".join(f"{name} by {_limits(one)}" for name, one in sorted(state.daemons.items()))

    def status(self, gpu, state):
        """What users see of a GPU: as in changes, and under ``daemons`` what each that runs tells itself."""
        running = [name for name, one in state.daemons.items() if one["runs"]]
        return {**self.shown(self.layout(state)), "daemons": {name: self._daemons.told(gpu, name) for name in sorted(running)}}


def _has(spec, wanted):
    """Whether a unit has the limits that are noted."""
    limits = wanted["threads"], wanted["pinned_mib"], _shares(wanted)
    return spec is not None and (spec.threads, spec.pinned_mib, spec.shares) == limits


def _shares(one):
    """What the unit of a daemon says of each client: nothing in protocol v2, which has the same for all."""
    return tuple(clients.limits(one)) if one["protocol"] == 3 else ()


def _promised(spec):
    """What a daemon is to give its clients, in words."""
    first, *others = dict.fromkeys(spec.shares or ((spec.threads, spec.pinned_mib),))
    told = [clients.share_words(first, " of the multiprocessors"), *(clients.share_words(each) for each in others)]
    return f"{'; '.join(told)} for {'its clients' if others else 'each client'}"


def _templates_words(templates):
    return f"the site's template{'s' if len(templates) > 1 else ''} {' and '.join(sorted(templates))}"


def _layout(daemons=(), profiles=(), exclusive=False, mode=None, templates=()):
    return {
        "daemons": dict(daemons), "profiles": list(profiles), "exclusive": bool(daemons) and exclusive, "mode": mode,
        "templates": dict(templates) if daemons else {},
    }  # fmt: skip


def _noted(layout):
    """What of a layout is written down."""
    daemons = {name: {key: one[key] for key in clients.KEYS} for name, one in layout["daemons"].items()}
    return {"daemons": daemons, **{key: layout[key] for key in ("profiles", "exclusive", "templates")}}


def _limits(one):
    return f"{one['clients']} with {clients.words(one)}{'' if one['runs'] else ', not running'}"


def _shown(one):
    percents, limits = zip(*clients.limits(one), strict=True)
    return {
        "clients": one["clients"],
        "active_thread_percentage": one["threads"] if len(set(percents)) == 1 else list(percents),
        "pinned_memory_mib": one["pinned_mib"] if len(set(limits)) == 1 else list(limits),
        "protocol": f"v{one['protocol']}",
        "daemon": "running" if one["runs"] else "not running",
    }


def _names(layout):
    return shares.names({name: one["clients"] for name, one in layout["daemons"].items()}, "mps")


def _clients(part, one):
    """The clients of a slice: for each the same device nodes, what it gets at most, and by what it reaches the daemon."""
    weights = one["weights"] or [None] * one["clients"]
    parts = shares.parts_of(part, "mps", one["clients"], None, None)
    each = zip(parts, clients.limits(one), clients.environment(part.name, one), weights, strict=True)
    return [
        share._replace(
            compute=None if part.compute is None else round(part.compute * percent / 100, 3),
            memory_mib=mib or part.memory_mib,
            environment=environment,
            weight=weight,
            folders=outputs.folders(environment),
            units=(unit.unit(part.name),),
        )
        for share, (percent, mib), environment, weight in each
    ]
