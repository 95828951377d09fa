"""
Programs that a simulated machine has, as far as anything here asks them.
"""

import json

from gpuslice import errors
from gpuslice.host.base import Completed
from gpuslice.host.base import of_user
from gpuslice.host.base import parted
from gpuslice.sim import cgroups
from gpuslice.sim import compute_policy
from gpuslice.sim import confined
from gpuslice.sim import containers
from gpuslice.sim import hardware
from gpuslice.sim import kubectl
from gpuslice.sim import mps
from gpuslice.sim import nomad
from gpuslice.sim import pci
from gpuslice.sim import slurm
from gpuslice.sim import sysfs
from gpuslice.sim import toolkit
from gpuslice.sim import units
from gpuslice.sim import user_managers
from gpuslice.sim import vgpu_rules
from gpuslice.sim.mistakes import normal_address

NOTHING = Completed(0)

_CLASS_NAMES = {
    "0108": "Non-Volatile memory controller", "0200": "Ethernet controller", "0207": "Infiniband controller",
    "0300": "VGA compatible controller", "0302": "3D controller", "0380": "Display controller", "0604": "PCI bridge",
    "0680": "Bridge", "1200": "Processing accelerators",
}  # fmt: skip
_VENDOR_NAMES = {
    "10de": "NVIDIA Corporation", "1002": "Advanced Micro Devices, Inc. [AMD/ATI]", "8086": "Intel Corporation",
    "1a03": "ASPEED Technology, Inc.", "15b3": "Mellanox Technologies", "102b": "Matrox Electronics Systems Ltd.",
}  # fmt: skip


def run(host, argv, given="", environment=None):
    """
    Run a program.

    :param host: the :class:`gpuslice.sim.host.SimulatedHost`.
    :param argv: program and arguments; :param given: its standard input; :param environment: variables of its own.
    :return: :class:`gpuslice.host.base.Completed`. Raises :class:`errors.ToolMissing` for programs that are not installed.
    """
    if (known := host.state()["host"].get("programs", {}).get(argv[0])) is not None:
        with host.change() as state:
            state.setdefault("ran", []).append({"argv": list(argv), "environment": dict(environment or {})})
        return Completed(known["exit"], known["says"])
    program = argv[0].rpartition("/")[2]
    brings = _BROUGHT.get(program, program)
    if (brings and brings not in host.state()["host"]["tools"]) or program not in _PROGRAMS:
        raise missing(argv[0])
    if program == mps.CONTROL:
        return mps.control(host, argv[1:], given, environment or {})
    if program == "kubectl":
        return kubectl.kubectl(host, argv[1:], given)
    return _PROGRAMS[program](host, argv[1:])


def missing(program):
    """The error for a program that is not installed."""
    return errors.ToolMissing(f"The program {program} is not installed.", todo="Install it or choose another way.")


def _no_option(program, arguments):
    return Completed(1, "", f"{program}: the simulated host does not know the arguments {' '.join(arguments) or '(none)'}\n")


# -- lspci -----------------------------------------------------------------------------------------------------------
def _lspci(host, arguments):
    if arguments != ["-Dnnmm"]:
        return _no_option("lspci", arguments)
    lines = [_lspci_line(function) for function in pci.functions(host.state())]
    return Completed(0, "".join(line + "\n" for line in lines))


def _lspci_line(function):
    vendor, device = function["vendor"], function["device"]
    code = function["class"].removeprefix("0x")
    vendor_name = function.get("vendor_name") or _VENDOR_NAMES.get(vendor, "Vendor")
    name = function["name"] or "Device"
    for word in ("NVIDIA ", "AMD ", "Intel "):
        name = name.removeprefix(word)
    revision = "" if function["revision"] == "00" else f" -r{function['revision']}"
    subsystem = '"" ""'
    if function["subsystem_id"]:
        sub_vendor, _, sub_device = function["subsystem_id"].partition(":")
        subsystem = f'"{_VENDOR_NAMES.get(sub_vendor, "Vendor")} [{sub_vendor}]" "Device [{sub_device}]"'
    class_name = _CLASS_NAMES.get(code[:4], "Class")
    return (
        f'{function["address"]} "{class_name} [{code[:4]}]" "{vendor_name} [{vendor}]" "{name} [{device}]"'
        f"{revision} -p{code[4:]} {subsystem}"
    )


# -- nvidia-smi ------------------------------------------------------------------------------------------------------
def _nvidia_smi(host, arguments):
    state = host.state()
    driver = state["host"]["driver"]
    if driver["library"] == "missing":
        return Completed(12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\n")
    if not driver["loaded"]:
        return Completed(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")
    if driver["library_version"] != driver["version"]:
        return Completed(18, "Failed to initialize NVML: Driver/library version mismatch\n")
    options, rest = _split_options(arguments)
    addresses, unknown = _chosen(state, options.get("-i"))
    if unknown:
        return Completed(6, f"No devices were found: {unknown}\n")
    if rest in (["--gpu-reset"], ["-r"]):
        return _gpu_reset(host, addresses)
    if rest[:1] == ["compute-policy"]:
        return compute_policy.run(host, rest[1:], options, addresses, _nvidia_addresses(state))
    if rest in (["-L"], ["--list-gpus"]):
        return _list_gpus(state, addresses)
    if rest in (["-q"], ["--query"]):
        return _report(state, addresses)
    if "--query-gpu" in options and not rest:
        return _query(state, addresses, options)
    return _no_option("nvidia-smi", arguments)


def _split_options(arguments):
    """({option: value}, what is left) of nvidia-smi's arguments."""
    options, rest = {}, []
    pending = iter(arguments)
    for argument in pending:
        if argument in ("-i", "--id"):
            options["-i"] = next(pending, "")
        elif argument.startswith("--") and "=" in argument:
            key, _, value = argument.partition("=")
            options["-i" if key == "--id" else key] = value
        else:
            rest.append(argument)
    return options, rest


def _nvidia_addresses(state):
    return [a for a, g in state["gpus"].items() if g["about"]["vendor"] == "10de" and g["about"]["driver"] == "nvidia"]


def _chosen(state, wanted):
    """(addresses, first unknown word) of a list of indices, addresses or UUIDs; all GPUs without one."""
    known = _nvidia_addresses(state)
    if wanted is None:
        return known, ""
    found = []
    for word in wanted.split(","):
        word = word.strip()
        address = normal_address(word)
        match = next((a for a in known if a == address or state["gpus"][a]["about"]["uuid"] == word), None)
        if match is None and word.isdigit() and int(word) < len(known):
            match = known[int(word)]
        if match is None:
            return [], word
        found.append(match)
    return found, ""


def _bus_id(address):
    domain, _, rest = address.partition(":")
    return f"{domain:0>8}:{rest}".upper()


def _gpu_reset(host, addresses):
    if not host.state()["host"]["privileged"]:
        return Completed(4, "", "Unable to reset this GPU. Insufficient Permissions\n")
    host.take("reset")
    refused, reset = [], []
    with host.change() as state:
        # One GPU that refuses stops the reset of all that were named, as the tool does.
        for address in addresses:
            gpu = state["gpus"][address]
            if gpu["about"]["reset"] == "never" or gpu["about"]["vgpu_guest"]:
                refused.append(f"  GPU {_bus_id(address)}: Not Supported\n")
            elif gpu["health"]["lost"]:
                refused.append(f"  GPU {_bus_id(address)}: GPU is lost\n")
            elif host.attached() or hardware.taken(state, address) or "nvidia_drm" in state["modules"]:
                refused.append(f"  GPU {_bus_id(address)}: In use by another client\n")
        if not refused:
            for address in addresses:
                hardware.reset(state, address)
                reset.append(f"GPU {_bus_id(address)} was successfully reset.\n")
    if refused:
        return Completed(255, "The following GPUs could not be reset:\n" + "".join(refused))
    return Completed(0, "".join(reset) + "All done.\n")


def _list_gpus(state, addresses):
    lines = []
    everyone = _nvidia_addresses(state)
    for address in addresses:
        gpu = state["gpus"][address]
        if gpu["health"]["lost"]:
            lines.append(f"Unable to determine the device handle for gpu {address}: GPU is lost.")
            continue
        lines.append(f"GPU {everyone.index(address)}: {gpu['about']['name']} (UUID: {gpu['about']['uuid']})")
        for index, gi_id, ci_id in hardware.mig_devices(gpu):
            gi = gpu["gis"][str(gi_id)]
            ci = gi["cis"][str(ci_id)]
            name = hardware.ci_profile_by_id(gpu, gi, ci["profile"]).name
            lines.append(f"  MIG {name:<14} Device {index:>2}: (UUID: {ci['uuid']})")
    return Completed(0, "".join(line + "\n" for line in lines))


def _report(state, addresses):
    """The part of ``nvidia-smi -q`` that somebody here reads."""
    lines = ["", "==============NVSMI LOG==============", "", _row("Driver Version", state["host"]["driver"]["version"])]
    lines += [_row("Attached GPUs", len(_nvidia_addresses(state)))]
    for address in addresses:
        gpu = state["gpus"][address]
        product, status = units.licence(state, gpu) or ("N/A", "N/A")
        lines += [f"GPU {_bus_id(address)}", _row("    Product Name", gpu["about"]["name"])]
        lines += [_row("    GPU UUID", gpu["about"]["uuid"]), "    vGPU Software Licensed Product"]
        lines += [_row("        Product Name", product), _row("        License Status", status)]
    return Completed(0, "".join(line + "\n" for line in lines))


def _row(name, value):
    return f"{name:<42}: {value}"


def _mig_word(gpu, key):
    return "[N/A]" if hardware.mig_table(gpu) is None else ("Disabled", "Enabled")[gpu[key]]


_FIELDS = {
    "index": lambda state, address: str(_nvidia_addresses(state).index(address)),
    "uuid": lambda state, address: state["gpus"][address]["about"]["uuid"],
    "gpu_uuid": lambda state, address: state["gpus"][address]["about"]["uuid"],
    "name": lambda state, address: state["gpus"][address]["about"]["name"],
    "gpu_name": lambda state, address: state["gpus"][address]["about"]["name"],
    "pci.bus_id": lambda state, address: _bus_id(address),
    "gpu_bus_id": lambda state, address: _bus_id(address),
    "pci.device_id": lambda state, address: "0x" + _ids(state, address).upper(),
    "pci.sub_device_id": lambda state, address: "0x" + _subsystem(state, address).upper(),
    "driver_version": lambda state, address: state["host"]["driver"]["version"],
    "memory.total": lambda state, address: f"{state['gpus'][address]['about']['memory_mib']} MiB",
    "mig.mode.current": lambda state, address: _mig_word(state["gpus"][address], "mode"),
    "mig.mode.pending": lambda state, address: _mig_word(state["gpus"][address], "pending"),
    "compute_cap": lambda state, address: state["gpus"][address]["about"]["compute_capability"],
    "persistence_mode": lambda state, address: "Enabled",
    "compute_mode": lambda state, address: compute_policy.MODES[compute_policy.now(state["gpus"][address])["mode"]],
}


def _ids(state, address):
    about = state["gpus"][address]["about"]
    return about["device"] + about["vendor"]


def _subsystem(state, address):
    vendor, _, device = (state["gpus"][address]["about"]["subsystem_id"] or "0000:0000").partition(":")
    return device + vendor


def _query(state, addresses, options):
    fields = [field.strip() for field in options["--query-gpu"].split(",")]
    wrong = next((field for field in fields if field not in _FIELDS), None)
    if wrong is not None:
        return Completed(2, f'Field "{wrong}" is not a valid field to query.\n')
    form = options.get("--format", "csv").split(",")
    lines = [] if "noheader" in form else [", ".join(fields)]
    for address in addresses:
        if state["gpus"][address]["health"]["lost"]:
            return Completed(15, f"Unable to determine the device handle for GPU {_bus_id(address)}: GPU is lost.\n")
        values = [_FIELDS[field](state, address) for field in fields]
        lines.append(", ".join(v.removesuffix(" MiB") if "nounits" in form else v for v in values))
    return Completed(0, "".join(line + "\n" for line in lines))


# -- sriov-manage ----------------------------------------------------------------------------------------------------
def _sriov_manage(host, arguments):
    """``sriov-manage -e|-d ADDRESS|ALL`` of NVIDIA's vGPU manager: all virtual functions of a GPU, or none."""
    if len(arguments) != 2 or arguments[0] not in ("-e", "-d"):
        return Completed(1, "Usage: sriov-manage <-e|-d> <ssss:bb:dd.f|ALL>\n")
    state, enabled = host.state(), arguments[0] == "-e"
    if not state["host"]["privileged"]:
        return Completed(1, "sriov-manage must be run as root.\n")
    able = [a for a, gpu in vgpu_rules.managed(state) if gpu["about"]["sriov_totalvfs"]]
    address = normal_address(arguments[1])
    if arguments[1].upper() != "ALL" and address not in able:
        return Completed(1, f"{arguments[1]} is no GPU with virtual functions of the vGPU manager.\n")
    host.take("sriov_manage")
    told = [_switch_vfs(host, one, enabled) for one in able if arguments[1].upper() == "ALL" or one == address]
    return Completed(int(any(failed for failed, _ in told)), "".join(text for _, text in told))


def _switch_vfs(host, address, enabled):
    """(whether it failed, text) of one GPU. Nothing is done, and nothing can fail, where the VFs are as they should be."""
    word = "Enabling" if enabled else "Disabling"
    with host.change() as state:
        gpu = state["gpus"][address]
        number = gpu["about"]["sriov_totalvfs"] if enabled else 0
        if gpu["numvfs"] == number:
            return False, f"{word} VFs on {address}: nothing to do\n"
        problem = vgpu_rules.no_lock(address) if host.attached() else vgpu_rules.set_vfs(state, address, number)
    return bool(problem), f"{word} VFs on {address}\n" + (f"{problem}\n" if problem else "")


# -- the other vendors -----------------------------------------------------------------------------------------------
def _gpus_of(state, vendor):
    return [(a, g["about"]) for a, g in state["gpus"].items() if g["about"]["vendor"] == vendor]


def _rocm_smi(host, arguments):
    if not {"--showbus", "--showproductname", "--json"} >= set(arguments) or "--json" not in arguments:
        return _no_option("rocm-smi", arguments)
    cards = {}
    for number, (address, about) in enumerate(_gpus_of(host.state(), "1002")):
        card = cards[f"card{number}"] = {}
        if "--showbus" in arguments:
            card["PCI Bus"] = address.upper()
        if "--showproductname" in arguments:
            card["Card Series"] = about["name"]
            card["Card Model"] = f"0x{about['device']}"
            card["Card Vendor"] = _VENDOR_NAMES["1002"]
    return Completed(0, json.dumps(cards) + "\n")


def _amd_smi(host, arguments):
    if arguments != ["list", "--json"]:
        return _no_option("amd-smi", arguments)
    rows = [
        {"gpu": number, "bdf": address, "uuid": about["uuid"].removeprefix("GPU-")}
        for number, (address, about) in enumerate(_gpus_of(host.state(), "1002"))
    ]
    return Completed(0, json.dumps(rows) + "\n")


def _xpu_smi(host, arguments):
    if arguments != ["discovery", "-j"]:
        return _no_option("xpu-smi", arguments)
    rows = [
        {
            "device_function_type": "physical",
            "device_id": number,
            "device_name": about["name"],
            "device_type": "GPU",
            "pci_bdf_address": address,
            "pci_device_id": f"0x{about['device']}",
            "uuid": about["uuid"].removeprefix("GPU-"),
            "vendor_name": "Intel(R) Corporation",
        }
        for number, (address, about) in enumerate(_gpus_of(host.state(), "8086"))
    ]
    return Completed(0, json.dumps({"device_list": rows}) + "\n")


# -- units and modules -----------------------------------------------------------------------------------------------
def _systemctl(host, arguments):
    """``systemctl stop|start UNIT``: the unit's processes go, and come back as they were. ``start`` may have ``--no-block``."""
    if len(arguments) > 1 and arguments[0] in ("start", "restart", "try-restart") and "--no-block" in arguments:
        arguments = [word for word in arguments if word != "--no-block"]
    elif arguments[:1] in (["start"], ["restart"]) and _is_after_us(host, arguments[-1]):
        # Its start waits for ours to end, and we would wait for it.
        raise TimeoutError
    if arguments == ["daemon-reload"]:
        return _reload_units(host)
    if len(arguments) == 2 and arguments[0] == "cat":
        found = units.text(host.state(), units.full_name(arguments[1]))
        return Completed(1, "", f"No files found for {arguments[1]}.\n") if found is None else Completed(0, found)
    if len(arguments) == 2 and arguments[0] in ("enable", "disable"):
        return _enable(host, *arguments)
    if len(arguments) == 2 and arguments[0] == "is-active":
        return _is_active(host.state(), units.full_name(arguments[1]))
    if len(arguments) == 2 and arguments[0] in ("start", "stop", "restart", "try-restart"):
        unit = units.full_name(arguments[1])
        if arguments[0] in ("start", "stop") and (uid := user_managers.uid_of(unit)) is not None:
            return user_managers.switch(host, arguments[0], uid)
        if unit.endswith(".slice") and arguments[0] in ("start", "stop") and cgroups.plays(host.state()):
            return _switch_slice(host, arguments[0], unit)
        if mps.installed(host.state(), unit):
            return mps.switch(host, arguments[0], unit)
        if units.installed(host.state(), unit) or units.active(host.state(), unit):
            return _switch_unit(host, arguments[0], unit)
        if arguments[0] == "restart":
            return Completed(5, "", f"Failed to restart {unit}: Unit {unit} not found.\n")
        if arguments[0] == "try-restart":
            # One that is not there does not run either.
            return NOTHING
    if len(arguments) != 2 or arguments[0] not in ("stop", "start"):
        return _no_option("systemctl", arguments)
    verb, unit = arguments
    source, target = ("processes", "stopped") if verb == "stop" else ("stopped", "processes")
    with host.change() as state:
        if not any(process["unit"] == unit for process in (*state[source], *state[target])):
            return Completed(5, "", f"Failed to {verb} {unit}: Unit {unit} not loaded.\n")
        _move(state, unit, source, target)
    return NOTHING


def _switch_slice(host, verb, unit):
    """``systemctl start|stop`` of a slice, which needs no file."""
    with host.change() as state:
        if not state["host"]["privileged"]:
            return Completed(4, "", f"Failed to {verb} {unit}: Access denied\n")
        if unit in state.get("broken_slices", ()):
            return Completed(1, "", f"Job for {unit} failed.\n")
        (cgroups.start if verb == "start" else cgroups.stop)(state, unit)
        source, target = ("stopped", "processes") if verb == "start" else ("processes", "stopped")
        _move(state, unit, source, target)
    return NOTHING


def _is_after_us(host, unit):
    return units.full_name(unit) in host.state().get("ordered_after_us", ())


def _is_active(state, unit):
    running = any(process["unit"] == unit for process in state["processes"])
    uid = user_managers.uid_of(unit)
    found = running or units.active(state, unit) if uid is None else user_managers.runs(state, uid)
    return Completed(0, "active\n") if found else Completed(3, "inactive\n")


def _setpriv(host, arguments):
    """``setpriv ... systemctl --user VERB [--no-block] [UNIT]``: what a user says to his manager."""
    found = user_managers.asked(arguments)
    if not found:
        return _no_option("setpriv", arguments)
    uid, (verb, *rest) = found
    if not host.state()["host"]["privileged"]:
        return Completed(127, "", "setpriv: setresuid failed: Operation not permitted\n")
    if not user_managers.runs(host.state(), uid):
        return Completed(1, "", "Failed to connect to bus: No such file or directory\n")
    if [verb, *rest] == ["daemon-reload"]:
        return _reload_units(host, uid)
    names = [word for word in rest if word != "--no-block"]
    if verb not in ("start", "stop", "restart", "try-restart") or len(names) != 1:
        return _no_option("systemctl --user", [verb, *rest])
    unit = of_user(units.full_name(names[0]), uid)
    if not units.installed(host.state(), unit) and not units.active(host.state(), unit):
        return Completed(5, "", f"Failed to {verb} {names[0]}: Unit {names[0]} not {'loaded' if verb == 'stop' else 'found'}.\n")
    return _switch_unit(host, verb, unit)


def _switch_unit(host, verb, unit):
    """``systemctl start|stop|restart|try-restart`` of a unit that the description names, or that a generator made."""
    name, _ = parted(unit)
    with host.change() as state:
        if not state["host"]["privileged"]:
            return Completed(4, "", f"Failed to {verb} {name}: Access denied\n")
        if verb != "stop" and not units.installed(state, unit):
            # It runs, and systemd knows no file of it any more.
            return Completed(5, "", f"Failed to {verb} {name}: Unit {name} not found.\n")
        if verb == "stop":
            units.stop(state, unit)
            _move(state, unit, "processes", "stopped")
        elif containers.unresolvable(state, unit) and (verb != "try-restart" or units.active(state, unit)):
            units.stop(state, unit)
            return Completed(1, "", f"Job for {name} failed because the control process exited with error code.\n")
        elif verb == "try-restart":
            if units.active(state, unit):
                units.start(state, unit)
        elif verb == "restart" or not units.active(state, unit):
            units.start(state, unit)
            _move(state, unit, "stopped", "processes")
            if unit == toolkit.REFRESH and not toolkit.refresh(state):
                # It has no process that would stay: what it leaves is the file, or the failure.
                units.stop(state, unit)
                return Completed(1, "", f"Job for {unit} failed because the control process exited with error code.\n")
    return NOTHING


def _move(state, unit, source, target):
    """The processes of a unit go, or come back as they were."""
    moved = [process for process in state[source] if process["unit"] == unit]
    state[source] = [process for process in state[source] if process["unit"] != unit]
    state[target] += moved


def _reload_units(host, uid=None):
    with host.change() as state:
        if not state["host"]["privileged"]:
            return Completed(4, "", "Failed to reload daemon: Access denied\n")
        containers.reload_units(state, uid)
    return NOTHING


def _enable(host, verb, unit):
    """``systemctl enable|disable UNIT`` of a unit file that was written to the machine."""
    place = "/etc/systemd/system"
    if not host.exists(f"{place}/{unit}"):
        return Completed(1, "", f"Failed to {verb} unit: Unit file {unit} does not exist.\n")
    with host.change() as state:
        if not state["host"]["privileged"]:
            return Completed(1, "", f"Failed to {verb} unit: Access denied\n")
        for line in state["written"].get(f"{place}/{unit}", "").splitlines():
            if line.startswith("WantedBy="):
                link = f"{place}/{line.partition('=')[2]}.wants/{unit}"
                state["written"].pop(link, None)
                if verb == "enable":
                    state["written"][link] = ""
    return NOTHING


def _modprobe(host, arguments):
    """``modprobe MODULE`` and ``modprobe -r MODULE``."""
    loading = len(arguments) == 1
    if not loading and (len(arguments) != 2 or arguments[0] != "-r"):
        return _no_option("modprobe", arguments)
    # As modprobe does it: both spellings are the same module, and the kernel lists the one with underscores.
    name = arguments[-1].replace("-", "_")
    with host.change() as state:
        if not loading and state["modules"].get(name):
            return Completed(1, "", f"modprobe: FATAL: Module {name} is in use.\n")
        try:
            for extension in sysfs.EXTENSIONS:
                extension.modprobe(state, name, loading)
        except OSError as err:
            return Completed(1, "", f"modprobe: ERROR: could not {'insert' if loading else 'remove'} '{name}': {err.strerror}\n")
        if loading:
            state["modules"].setdefault(name, 0)
        else:
            state["modules"].pop(name, None)
    return NOTHING


#: Programs that come with another one, or are everywhere.
_BROUGHT = {"systemd-run": "systemctl", "runuser": "", "setpriv": ""}
_PROGRAMS = {
    "lspci": _lspci, "nvidia-smi": _nvidia_smi, "rocm-smi": _rocm_smi, "amd-smi": _amd_smi, "xpu-smi": _xpu_smi,
    "systemctl": _systemctl, "setpriv": _setpriv, "modprobe": _modprobe, "sriov-manage": _sriov_manage,
    "podman": containers.podman, "runuser": containers.runuser, "systemd-run": confined.systemd_run,
    "apparmor_parser": confined.apparmor_parser, "scontrol": slurm.scontrol, "kubectl": kubectl.kubectl,
    "nomad": lambda host, arguments: nomad.nomad(host, arguments, units.running),
    "nvidia-ctk": toolkit.nvidia_ctk, "nvidia-modprobe": toolkit.nvidia_modprobe,
    mps.CONTROL: mps.control,
}  # fmt: skip
