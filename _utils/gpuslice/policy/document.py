"""
The pillar's schema as one table: the validator walks it, and the JSON schema for editors is generated from it, so the two
cannot disagree. The words in it are those that users type.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gpuslice.techniques.mig import profile_names

#: Spelling of a time span, such as ``100ms``.
DURATION = r"^[0-9]+(\.[0-9]+)?(us|ms|s)$"
#: A PCI address as users may write it; the address functions accept more, and correct it.
ADDRESS = r"^([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$"
#: Roughly a GPU's UUID: for editors, the validator knows better.
UUID = r"^(?!MIG-)(GPU-)?[0-9a-fA-F]{8}(-[0-9a-fA-F]+)+$"
#: Roughly a host name or an address: for editors, the validator knows better.
SERVER = r"^[0-9A-Za-z.:-]*$"
#: The characters that a token may have.
TOKEN = r"^[\x21-\x7e]*\s*$"
#: A device, or a tile of it, as Level Zero's affinity mask names them.
TILE = r"^[0-9]+(\.[0-9]+)?$"


class Field(NamedTuple):
    """
    One key of the pillar.

    :ivar kind: map, options (a map of which only what is written counts), match, list, numbered (a mapping by numbers from 1),
        rules, profiles, counts (a mapping of names to counts), bool, int, text, secret (a text that no message shows), server (a
        host name or address), glob, choice, pattern, uuid, address, device.
    :ivar doc: one sentence for users. :ivar default: value when the key is not written.
    :ivar choices: the allowed words of a choice. :ivar low: :ivar high: range of an int or of counts, both inclusive.
    :ivar pattern: regular expression of a text. :ivar example: shown when the text does not match it.
    :ivar item: what the elements of a list or numbered mapping are. :ivar fields: the keys of a map.
    """

    kind: str
    doc: str = ""
    default: object = None
    choices: tuple = ()
    low: int = 0
    high: int = 0
    pattern: str = ""
    example: str = ""
    item: "Field | None" = None
    fields: Mapping = MappingProxyType({})


#: Strategy -> the key of its settings; passthrough has none.
SECTIONS = {
    "mig": "mig",
    "time-slicing": "time_slicing",
    "mps": "mps",
    "sriov": "sriov",
    "vgpu": "vgpu",
    "partition": "partition",
    "level-zero": "level_zero",
}
TECHNIQUES = (*SECTIONS, "passthrough")
#: How a technology is called in sentences such as "this GPU has no ...".
LABELS = {
    "mig": "MIG",
    "time-slicing": "time-slicing",
    "mps": "MPS",
    "sriov": "SR-IOV",
    "vgpu": "vGPU",
    "partition": "partition modes",
    "level-zero": "Level Zero",
    "passthrough": "passthrough",
}
#: What vgpu can't do without: on a host one of the first, in a virtual machine one of the others.
VGPU_TYPE_KEYS = ("profile", "profiles")
VGPU_LICENCE_KEYS = ("license_server", "client_token")
VGPU_KEYS = (*VGPU_TYPE_KEYS, *VGPU_LICENCE_KEYS)
#: Keys of which one says what is to be there. Where none is written, no default of the technology ends what is there already.
DECISIVE = {
    "mig": ("profiles", "mode"),
    "sriov": ("vf_count",),
    "vgpu": VGPU_TYPE_KEYS,
    "partition": ("compute",),
    "level-zero": ("partitions",),
}
STRATEGIES = ("none", "auto", *TECHNIQUES)
ENVIRONMENTS = ("bare_metal", "virtual_host", "virtual_guest", "container")
VENDORS = ("nvidia", "amd", "intel")

_ADDRESS = Field("address", "PCI address of a GPU, in quotes: YAML takes some unquoted ones for numbers.")
_DEVICE = Field("device", "PCI address in quotes, or UUID of a GPU.")
_UNIT = Field("pattern", "Systemd unit.", pattern=r"^(?!-)[A-Za-z0-9:_.@\\-]+\.[a-z]+$", example="a unit like dcgm.service")
_MODULE = Field("pattern", "Kernel module.", pattern=r"^(?!-)[A-Za-z0-9_-]+$", example="a module name like vfio_pci")


def _map(doc, **fields):
    return Field("map", doc, {name: each.default for name, each in fields.items()}, fields=fields)


def _flag(doc, default=False):
    return Field("bool", doc, default)


def _number(doc, default, low, high):
    return Field("int", doc, default, low=low, high=high)


def _choice(doc, default, *choices):
    return Field("choice", doc, default, choices=choices)


#: Engine classes and their scheduling properties, as the kernel names them.
ENGINE_CLASSES = ("rcs", "bcs", "vcs", "vecs", "ccs")
_ENGINE = Field(
    "options",
    "Scheduling properties of one engine class.",
    {},
    fields={
        "timeslice_duration_us": _number("Turn of one of equal contexts, in microseconds; 0: as at boot.", None, 0, 10**9),
        "preempt_timeout_us": _number("Grace before a context is forced off, in microseconds; 0: as at boot.", None, 0, 10**9),
        "job_timeout_ms": _number("When a job counts as hung, in milliseconds; 0: as at boot.", None, 0, 10**9),
    },
)


#: What one virtual function may have of its own, and what all have in common.
_TURN = {
    "exec_quantum_ms": _number("How long it may run before others get a turn, in milliseconds; 0 is no limit.", None, 0, 100000),
    "preempt_timeout_us": _number("Grace before it is forced off, in microseconds; 0 is no limit.", None, 0, 100000000),
}
_SCHEDULING = Field(
    "options",
    "Turns of all virtual functions; what is not written is as the profile has it.",
    {},
    fields={
        **_TURN,
        "priority": _choice("normal keeps the turn of an idle function, low gives it away.", None, "low", "normal"),
    },
)
_VF = Field(
    "options",
    "What one virtual function gets.",
    {},
    fields={
        "vram_mib": _number("Memory of the card, in MiB.", None, 1, 16777216),
        "ggtt_mib": _number("Graphics address space, in MiB.", None, 1, 65536),
        "contexts": _number("Contexts of the scheduler.", None, 1, 65535),
        "doorbells": _number("Doorbells of the scheduler.", None, 1, 1024),
        **_TURN,
    },
)


def _section(doc, **fields):
    return _map(doc, enabled=_flag("Switches the technology on where strategy is none."), **fields)


SECTION_FIELDS = {
    "mig": _section(
        "Multi-Instance GPU: hardware slices with their own memory.",
        mode=_choice("disabled: no instances, and MIG mode is switched off.", "enabled", "enabled", "disabled"),
        profiles=Field("profiles", "A list of names, each with an optional @start, or a mapping of name to count.", []),
        gpu_instance_count=_number("How many of each profile of the list form.", 1, 1, 64),
        compute_instance_count=_number("Compute instances in each GPU instance that is not named with a 'c.' part.", 1, 1, 8),
    ),
    "time_slicing": _section(
        "Several consumers take turns on a GPU; their memory is not isolated.",
        max_instance_count=_number("How many consumers may share the GPU.", 8, 1, 64),
        slice_duration=Field(
            "pattern", "How long a turn lasts.", "100ms", pattern=DURATION, example="a duration like 100ms or 1s"
        ),
        share_policy=_choice("How the turns are divided.", "equal", "equal"),
    ),
    "mps": _section(
        "Multi-Process Service: consumers run side by side in one context.",
        max_instance_count=_number("How many consumers may share the GPU.", 8, 1, 60),
        share_policy=_choice("How compute and memory are divided.", "equal", "equal"),
    ),
    "sriov": _section(
        "Virtual functions of the GPU.",
        vf_count=_number("Virtual functions to create; 0 removes them.", 4, 0, 256),
        pf_device=Field("address", "PCI address of the physical function; empty means the GPU itself.", ""),
        vf_devices=Field("list", "PCI addresses of the virtual functions that may be used; empty means all.", [], item=_ADDRESS),
        profile=_choice(
            "How the GPU is divided: auto (the vendor's preset where there is one, else fair), fair (the driver's equal shares), "
            "or a scheduling policy of the vendor's presets.",
            "auto", "auto", "fair", "Flexible_30fps", "Fixed_30fps", "BurstableQoS",
        ),
        autoprobe=_flag("true: the host's driver takes new virtual functions; false: they stay free for virtual machines."),
        scheduling=_SCHEDULING,
        vfs=Field("numbered", "What single virtual functions get, by their numbers from 1.", {}, item=_VF),
    ),
    "vgpu": _section(
        "Virtual GPUs for virtual machines, and their licence in a virtual machine.",
        profile=Field("text", "Name of the vGPU type that each GPU of a host is divided into.", ""),
        count=_number("How many vGPUs of profile each GPU gets; 0: as many as fit.", 0, 0, 64),
        profiles=Field(
            "counts", "vGPU types and how many of each, for GPUs that carry several; instead of profile.", {}, low=1, high=64
        ),
        scheduler=_choice(
            "How vGPUs take turns on a GPU; empty leaves it as it is.", "", "", "best-effort", "equal-share", "fixed-share"
        ),
        license_server=Field("server", "Host name or address of the licence server, in a virtual machine.", ""),
        license_port=_number("Port of the licence server.", 7070, 1, 65535),
        feature=_choice(
            "What is licensed in a virtual machine; auto leaves it to the driver.",
            "auto", "auto", "vgpu", "workstation", "compute",
        ),
        client_token=Field("secret", "Text of the client configuration token, in a virtual machine.", ""),
    ),
    "partition": _section(
        "Compute and memory partition modes.",
        compute=_choice("Compute partition mode.", "SPX", "SPX", "DPX", "TPX", "QPX", "CPX"),
        memory=_choice("Memory partition mode.", "NPS1", "NPS1", "NPS2", "NPS4", "NPS8"),
    ),
    "level_zero": _section(
        "Visibility of devices and tiles through Level Zero's environment.",
        partitions=Field(
            "list",
            "Devices or tiles of each partition.",
            [],
            item=Field(
                "pattern", "A device or a tile, in quotes.", pattern=TILE, example="a device or tile in quotes, like '0.1',"
            ),
        ),
        hierarchy=_choice(
            "How programs see a card with tiles: one device with parts, or each tile as a device.",
            "COMPOSITE", "COMPOSITE", "FLAT", "COMBINED",
        ),
        ccs_mode=_number("Compute engines that the compute slices are divided among; 0 leaves it as it is.", 0, 0, 64),
        engines=Field(
            "options", "Scheduling properties of each engine class; what is not written is left as it is.", {},
            fields={name: _ENGINE for name in ENGINE_CLASSES},
        ),
        vram_max_mib=_number("Most memory of each GPU that vram_slice may have, in MiB; 0 is no limit.", 0, 0, 16777216),
        vram_slice=Field(
            "pattern", "Systemd slice unit whose services and containers get the limit.", "",
            pattern=r"^([A-Za-z0-9:_.\\-]+\.slice)?$", example="a slice unit like gpu.slice",
        ),
    ),
}

MATCH_FIELDS = {
    "pci": _ADDRESS,
    "uuid": Field("uuid", "UUID of the GPU."),
    "model": Field("glob", "Product name with its vendor; * and ? stand for any text and any character."),
    "vendor": _choice("Vendor of the GPU.", None, *VENDORS),
    "name": Field("glob", "Name that the system gives the device; * and ? as in model."),
}

_RULE = Field(
    "map",
    "Settings of the GPUs that match; what is not written is as for the whole host.",
    fields={
        "match": Field("match", "Which GPUs: all the keys given must fit.", fields=MATCH_FIELDS),
        "strategy": _choice("As containers_gpu_slicing:strategy.", "none", *STRATEGIES),
        "optional": _flag("true: the GPU that match names by pci or uuid may be absent; the others are sliced all the same."),
        **SECTION_FIELDS,
    },
)

TOP = {
    "containers_gpu_discovery": _map(
        "Which GPUs of the host are looked at.",
        method=_choice("auto: every GPU; manual: only those in devices.", "auto", "auto", "manual"),
        devices=Field("list", "PCI addresses or UUIDs; each must exist.", [], item=_DEVICE),
        vendor_detection=_choice("What finds the GPUs.", "udev", "udev", "lspci", "nvidia-smi", "rocm-smi", "intel-gpu-tools"),
    ),
    "containers_gpu_slicing": _map(
        "How the GPUs are sliced.",
        enabled=_flag("false: nothing is done, whatever else is written."),
        strategy=_choice("Technology for every GPU of the host.", "none", *STRATEGIES),
        auto_strategy=_map(
            "What strategy auto picks in each environment.",
            bare_metal=_choice("On a host without virtual machines.", "mig", "none", *TECHNIQUES),
            virtual_host=_choice("On a host that runs virtual machines.", "sriov", "none", *TECHNIQUES),
            virtual_guest=_choice("In a virtual machine.", "time-slicing", "none", *TECHNIQUES),
            container=_choice("In a container: its host has the GPUs and slices them.", "none", "none", *TECHNIQUES),
        ),
        **SECTION_FIELDS,
        devices=Field("rules", "Settings of single GPUs or models; the first that matches wins.", [], item=_RULE),
    ),
    "containers_gpu_container_integration": _map(
        "What containers get.",
        runtime=_choice("OCI runtime.", "crun", "crun", "runc"),
        device_plugin=_choice("Whose devices the container configuration describes.", VENDORS[0], *VENDORS),
        resource_limits=_map(
            "Limits of one container.",
            memory_gb=_number("Memory in GB.", 8, 1, 65536),
            compute_units=_number("Compute units.", 4, 1, 65536),
            gpu_instances=_number("Slices of GPUs.", 1, 1, 1024),
        ),
    ),
    "containers_gpu_state_management": _map(
        "How a change is carried out.",
        apply_strategy=_choice(
            "auto: change only what is idle; force: also what is in use; skip: change nothing.", "auto", "auto", "force", "skip"
        ),
        on_failure=_choice(
            "gpu: a step that fails puts back its GPU; host: every GPU of the change.", "gpu", "gpu", "host"
        ),
        reboot_required=_flag("true: a reboot may be scheduled when a change needs one; false: it is only reported."),
        validation=_flag("Read the hardware again after a change and compare.", True),
        health_check=_flag("Refuse to slice an unhealthy GPU, and check it again after.", True),
        boot=_flag("true: a systemd unit brings the last verified layout back at each boot, before the consumers start."),
        stop_units=Field("list", "Systemd units that may be stopped for a change; they are started again.", [], item=_UNIT),
        unload_modules=Field("list", "Kernel modules that may be unloaded for a reset; they are loaded again.", [], item=_MODULE),
    ),
}


def json_schema():
    """
    The pillar's schema in JSON Schema's terms (draft 2020-12), for editors and for tests of pillar files.

    :return: a dict that can be printed as JSON. It says no more than the table can: contradictions between keys and what a host
        has are found by :func:`gpuslice.policy.parse` and :func:`gpuslice.policy.targets`.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "GPU slicing pillar",
        "description": "The four pillar keys of GPU slicing. Other pillar keys are allowed beside them.",
        "type": "object",
        "properties": {name: _json(each) for name, each in TOP.items()},
        # A key that looks like one of ours but is none is a spelling mistake.
        "propertyNames": {"if": {"pattern": "^containers?_gpu"}, "then": {"enum": list(TOP)}},
    }


def _json(each):
    made = _SHAPES[each.kind](each)
    if each.doc:
        made["description"] = each.doc
    if each.default is not None and each.kind not in ("map", "options", "numbered"):
        made["default"] = each.default
    return made


def _json_map(each):
    properties = {name: _json(sub) for name, sub in each.fields.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _json_rules(each):
    rule = _json(each.item)
    rule["required"] = ["match"]
    return {"type": "array", "items": rule}


def _json_profiles(_):
    return {
        "oneOf": [
            {"type": "array", "items": {"type": "string", "pattern": profile_names.PATTERN}},
            {
                "type": "object",
                "propertyNames": {"pattern": profile_names.PATTERN.replace("(?:@(0|[1-9][0-9]*))?", "")},
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 64},
            },
        ]
    }


def _json_text(pattern):
    return {"type": "string", "pattern": pattern} if pattern else {"type": "string"}


_SHAPES = {
    "map": _json_map,
    "options": _json_map,
    "match": lambda each: {**_json_map(each), "minProperties": 1},
    "list": lambda each: {"type": "array", "items": _json(each.item)},
    "numbered": lambda each: {
        "type": "object",
        "propertyNames": {"pattern": "^[1-9][0-9]*$"},
        "additionalProperties": _json(each.item),
    },
    "rules": _json_rules,
    "profiles": _json_profiles,
    "counts": lambda each: {
        "type": "object",
        "propertyNames": {"minLength": 1},
        "additionalProperties": {"type": "integer", "minimum": each.low, "maximum": each.high},
    },
    "uuid": lambda each: _json_text(UUID),
    "glob": lambda each: {"type": "string", "minLength": 1},
    "bool": lambda each: {"type": "boolean"},
    "int": lambda each: {"type": "integer", "minimum": each.low, "maximum": each.high},
    "text": lambda each: _json_text(""),
    "secret": lambda each: {**_json_text(TOKEN), "writeOnly": True},
    "server": lambda each: _json_text(SERVER),
    "choice": lambda each: {"enum": list(each.choices)},
    "pattern": lambda each: _json_text(each.pattern),
    "address": lambda each: _json_text(f"^$|{ADDRESS}" if each.default == "" else ADDRESS),
    "device": lambda each: {"anyOf": [_json_text(ADDRESS), _json_text(UUID)]},
}
