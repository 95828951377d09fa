"""
The pillar as one table: the validator walks it, and the JSON schema for editors is generated from it, so the two cannot disagree.
The words in it are those that users type; what is below the key of a technology, the technology itself knows.
"""

from functools import cache

from gpuslice import kinds
from gpuslice.policy.fields import DEVICE
from gpuslice.policy.fields import DISCOVERY
from gpuslice.policy.fields import INTEGRATION
from gpuslice.policy.fields import LAYOUT_NAME
from gpuslice.policy.fields import LAYOUT_NAMED
from gpuslice.policy.fields import MANAGEMENT
from gpuslice.policy.fields import MODULE
from gpuslice.policy.fields import PCI_ADDRESS
from gpuslice.policy.fields import PROM_FILE
from gpuslice.policy.fields import SLICING
from gpuslice.policy.fields import TEXTFILE
from gpuslice.policy.fields import UNIT
from gpuslice.policy.fields import VENDORS
from gpuslice.policy.fields import Field
from gpuslice.policy.fields import choice
from gpuslice.policy.fields import flag
from gpuslice.policy.fields import mapping
from gpuslice.policy.fields import number

STRATEGIES = ("none", "auto", *kinds.STRATEGIES)

_MATCH_FIELDS = {
    "pci": PCI_ADDRESS,
    "uuid": Field("uuid", "UUID of the GPU."),
    "model": Field("glob", "Product name with its vendor; * and ? stand for any text and any character."),
    "vendor": choice("Vendor of the GPU.", None, *VENDORS),
    "name": Field("glob", "Name that the system gives the device; * and ? as in model."),
    "device_id": Field("boards", "PCI ids of a board such as '10de:20b0', or a list of them."),
}


# Here, so that the many who never write of it do not load it.
def _window(value, path, notes):
    from gpuslice.policy import timing

    return timing.window_of(value, path, notes)


def _window_schema():
    from gpuslice.policy import timing

    return timing.schema()


def _hooks(value, path, notes):
    from gpuslice.policy import hooks

    return hooks.hooks(value, path, notes)


def _hooks_schema():
    from gpuslice.policy import hooks

    return hooks.schema()


def _health(value, path, notes):
    from gpuslice.policy import health

    return health.health(value, path, notes)


def _health_schema():
    from gpuslice.policy import health

    return health.schema()


def _owner(value, path, notes):
    from gpuslice.policy import sharing

    return sharing.owner(value, path, notes)


def _owner_schema():
    from gpuslice.policy import sharing

    return sharing.schema()


def _pick(environment, doc):
    """A choice of technology; its default is also the first that strategy auto falls back to there."""
    default = next(iter(kinds.fallbacks(environment)), "none")
    return choice(doc, default, "none", *kinds.STRATEGIES)


def section(strategy):
    """The words of the technology that a strategy means, as :class:`gpuslice.policy.section.Section`."""
    return kinds.section(kinds.called(strategy))


@cache
def top():
    """
    Top-level key of the pillar -> its :class:`gpuslice.policy.fields.Field`.

    Made when first asked for: the sections of the technologies are built of this package's fields, so they are loaded after it.
    """
    sections = {key: section(strategy).FIELD for strategy, key in kinds.SECTIONS.items()}
    handed = {name: each for kind in kinds.HANDING_OUT for name, each in kinds.section(kind).FIELD.fields.items()}
    # How a GPU is sliced, wherever that is said.
    how = {"strategy": choice("As containers_gpu_slicing:strategy.", "none", *STRATEGIES), **sections}
    named = Field("pattern", "Name of one of the layouts.", "", pattern=f"^({LAYOUT_NAME})?$", example=LAYOUT_NAMED)
    share_with = Field(
        "list", "Other tools that may set the same GPUs as this pillar.", [],
        item=Field("own", check=_owner, schema=_owner_schema),
    )  # fmt: skip
    rule = Field(
        "map",
        "Settings of the GPUs that match; what is not written is as for the whole host.",
        fields={
            "match": Field("match", "Which GPUs: all the keys given must fit.", fields=_MATCH_FIELDS),
            "layout": named._replace(doc="Name of the layout that stands in the place of what holds for the host."),
            "share_with": share_with._replace(doc="As containers_gpu_slicing:share_with."),
            "optional": flag("true: what match names by pci, uuid or device_id may be absent; the others are sliced."),
            **how,
        },
    )
    return {
        DISCOVERY: mapping(
            "Which GPUs of the host are looked at.",
            method=choice("auto: every GPU; manual: only those in devices.", "auto", "auto", "manual"),
            devices=Field("list", "PCI addresses or UUIDs; each must exist.", [], item=DEVICE),
            vendor_detection=choice("What finds the GPUs.", "udev", "udev", "lspci", "nvidia-smi", "rocm-smi", "intel-gpu-tools"),
        ),
        SLICING: mapping(
            "How the GPUs are sliced.",
            enabled=flag("false: nothing is done, whatever else is written."),
            strategy=choice("Technology for every GPU of the host.", "none", *STRATEGIES),
            auto_strategy=mapping(
                "What strategy auto picks in each environment.",
                bare_metal=_pick("bare_metal", "On a host without virtual machines."),
                virtual_host=_pick("virtual_host", "On a host that runs virtual machines."),
                virtual_guest=_pick("virtual_guest", "In a virtual machine."),
                container=_pick("container", "In a container: its host has the GPUs and slices them."),
            ),
            **sections,
            layouts=Field(
                "named", "Layouts by name, for layout here and in rules.", {}, pattern=LAYOUT_NAME, example=LAYOUT_NAMED,
                item=Field("map", "How a GPU is sliced; what is not written is at its default.", fields=how),
            ),
            layout=named,
            share_with=share_with,
            devices=Field("rules", "Settings of single GPUs or models; the first that matches wins.", [], item=rule),
        ),
        INTEGRATION: mapping(
            "What containers get.",
            runtime=choice("OCI runtime.", "crun", "crun", "runc"),
            device_plugin=choice("Whose device plugin is told of this node.", VENDORS[0], *VENDORS),
            resource_limits=mapping(
                "Limits of one container.",
                memory_gb=number("Memory in GB.", 8, 1, 65536),
                compute_units=number("Compute units.", 4, 1, 65536),
                gpu_instances=number("Slices of GPUs.", 1, 1, 1024),
            ),
            **handed,
        ),
        MANAGEMENT: mapping(
            "How a change is carried out.",
            apply_strategy=choice(
                "auto: change only what is idle; force: also what is in use; skip: change nothing.",
                "auto", "auto", "force", "skip",
            ),
            on_failure=choice(
                "gpu: a step that fails puts back its GPU; host: every GPU of the change.", "gpu", "gpu", "host"
            ),
            reboot_required=flag("true: a reboot may be scheduled when a change needs one; false: it is only reported."),
            validation=flag("Read the hardware again after a change and compare.", True),
            health_check=flag("Refuse to slice an unhealthy GPU, and check it again after.", True),
            health=Field(
                "own", "How the health of GPUs is judged, and what becomes of those that failed.", {},
                check=_health, schema=_health_schema,
            ),
            boot=flag("true: a systemd unit brings the last verified layout back at each boot, before the consumers start."),
            metrics=mapping(
                "What there is of GPUs and slices, in a file for Prometheus.",
                enabled=flag("true: a systemd timer writes the file, without Salt."),
                textfile=Field(
                    "pattern", "Where it is written to: a .prom file in the folder that node_exporter reads.", TEXTFILE,
                    pattern=PROM_FILE, example=TEXTFILE,
                ),
                interval_seconds=number("Seconds from one time to the next.", 15, 5, 3600),
            ),
            stop_units=Field("list", "Systemd units that may be stopped for a change; they are started again.", [], item=UNIT),
            unload_modules=Field(
                "list", "Kernel modules that may be unloaded for a reset; they are loaded again.", [], item=MODULE
            ),
            when=choice(
                "now: at once; idle: what is in use waits for its users; window: what disrupts waits for maintenance_window.",
                "now", "now", "idle", "window",
            ),
            maintenance_window=Field(
                "own", "When disruption is allowed, for when: window.", {}, check=_window, schema=_window_schema
            ),
            before=Field(
                "own", "Commands and Salt functions that run before a change, and stop it where one fails.", [],
                check=_hooks, schema=_hooks_schema,
            ),
            after=Field(
                "own", "Commands and Salt functions that run after a change, whatever came of it.", [],
                check=_hooks, schema=_hooks_schema,
            ),
        ),
    }  # fmt: skip
