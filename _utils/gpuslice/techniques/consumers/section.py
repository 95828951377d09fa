"""
The words of consumers, in the pillar's section on containers.
"""

import json
import re
from collections.abc import Mapping

from gpuslice import kinds
from gpuslice.outputs.consumer import KINDS
from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.secret import Secret
from gpuslice.shape import LINE
from gpuslice.shape import anything
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.shape import whole
from gpuslice.values import describe

#: What CDI, units and files can have as a name.
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
USER = r"(?:[a-z_][a-z0-9_-]{0,31})?"
_PROFILE = r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?"
_PATH = fields.INTEGRATION
_WANTS = ("profile", "kind", "gpu", "memory_mib", "name")


def _checked_slice(value, path, notes):
    """A profile, or a mapping of what the slice must have."""
    if isinstance(value, str) and value.strip() == value and value:
        return {"profile": value}
    if not isinstance(value, Mapping):
        wanted = f"a profile in quotes, or a mapping with {', '.join(_WANTS)}"
        notes.wrong(path, f"is {describe(value)}; {wanted} is wanted.")
        return {}
    made = {}
    for key, each in value.items():
        where = f"{path}:{key}"
        if key not in _WANTS:
            notes.wrong(where, f"is not a known key. Valid: {', '.join(_WANTS)}.")
        elif key == "memory_mib" and (type(each) is not int or not 1 <= each <= 2**24):
            notes.wrong(where, f"is {describe(each)}; a whole number of MiB from 1 to {2**24} is wanted.")
        elif key != "memory_mib" and not (isinstance(each, str) and re.fullmatch(r"[^\x00-\x1f\x7f]{1,128}", each)):
            notes.wrong(where, f"is {describe(each)}; a text in quotes is wanted.")
        else:
            made[key] = each
    return made


def _slice_schema():
    text_of = {"type": "string", "minLength": 1}
    wants = {name: text_of for name in _WANTS if name != "memory_mib"}
    return {
        "anyOf": [
            text_of,
            {
                "type": "object",
                "properties": {**wants, "memory_mib": {"type": "integer", "minimum": 1}},
                "additionalProperties": False,
            },
        ]
    }


def _checked_quadlet(value, path, notes):
    """Section -> key -> value or list of values; which keys there are, the installed Podman decides."""
    if not isinstance(value, Mapping):
        notes.wrong(path, f"is {describe(value)}; a mapping of sections such as Container is wanted.")
        return {}
    made: dict[str, dict] = {}
    for section, keys in value.items():
        if not isinstance(section, str) or not isinstance(keys, Mapping):
            notes.wrong(f"{path}:{section}", f"is {describe(keys)}; a mapping of keys is wanted.")
            continue
        made[section] = {}
        for key, each in keys.items():
            values = list(each) if isinstance(each, list | tuple) else [each]
            if all(isinstance(one, str | int) for one in values) and isinstance(key, str):
                words = [str(one).lower() if isinstance(one, bool) else str(one) for one in values]
                made[section][key] = words if isinstance(each, list | tuple) else words[0]
            else:
                notes.wrong(f"{path}:{section}:{key}", f"is {describe(each)}; a text or a list of texts is wanted.")
    return made


def _checked_template(value, path, notes):
    """A URL of Salt's file server, or the text of a template."""
    if isinstance(value, str) and (value.startswith("salt://") or "[" in value):
        return value
    notes.wrong(path, f"is {describe(value)}; a URL such as salt://gpu/train.container.jinja is wanted.")
    return ""


def _template(doc):
    return fields.Field("own", doc, None, check=_checked_template, schema=lambda: {"type": "string", "minLength": 1})


_LIMITS = fields.Field(
    "options", "Limits of this consumer.",
    fields={
        "memory_gb": fields.number("Memory in GB.", None, 1, 65536),
        "compute_units": fields.number("CPU cores.", None, 1, 65536),
        "gpu_instances": fields.number("How many slices.", None, 1, 1024),
        "vram_mib": fields.number("Memory in MiB that all its programs may have of each GPU.", None, 1, 2**24),
        "overcommit": fields.flag("true: vram_mib may come on top of what the other consumers of a GPU have.", None),
    },
)  # fmt: skip
_CONSUMER = fields.mapping(
    "Someone who gets slices.",
    kind=fields.choice(
        "container: Podman runs it; service: a unit that exists; user: a login user; device: only a CDI name.", "device", *KINDS
    ),
    slice=fields.Field(
        "own", "A profile, or what the slice must have: profile, kind, gpu, memory_mib, name; the smallest that has all.", None,
        check=_checked_slice, schema=_slice_schema,
    ),
    unit=fields.Field("text", "Of kind service: the unit. Of kind container: a Quadlet unit that exists and is adopted.", ""),
    image=fields.Field("text", "Of kind container: the image.", ""),
    user=fields.Field(
        "pattern", "Of kind user: the login. Of kind container: whose rootless Podman; empty for root's.", "", pattern=USER,
        example="the name of a user of this host",
    ),
    weight=fields.number("Share where consumers share one GPU.", 1, 1, 100),
    resource_limits=_LIMITS,
    security_profile=fields.Field(
        "pattern", "Of kind container: its AppArmor profile, such as gpu-slicing; empty for Podman's own.", "",
        pattern=_PROFILE, example="the name of an AppArmor profile, such as gpu-slicing",
    ),
    quadlet=fields.Field(
        "own", "Of kind container: further keys of its Quadlet unit, by section.", None, check=_checked_quadlet,
        schema=lambda: {"type": "object"},
    ),
)  # fmt: skip
#: A consumer as the technique takes it, and as it is noted.
_SPEC = {
    "kind": text("|".join(KINDS)),
    "wants": table(text("|".join(_WANTS)), anything),
    "instances": whole(1, 1024),
    "unit": LINE, "user": text(USER), "image": LINE,
    "weight": whole(1, 100),
    "memory_gb": maybe(whole(1, 65536)),
    "compute_units": maybe(whole(1, 65536)),
    "quadlet": text("(?:sha256:[0-9a-f]{12})?"),
}  # fmt: skip
#: Only where it is written.
_MORE = {
    "security_profile": text(_PROFILE), "runtime": text("runc"), "vram_mib": whole(1, 2**24), "overcommit": truth,
}  # fmt: skip
TEMPLATES = table(text("[a-z_]+"), text())
#: Keys of Quadlet units, which may have secrets in them, by what a consumer's ``quadlet`` has in their place.
QUADLETS = table(text("sha256:[0-9a-f]{12}"), table(LINE, table(LINE, anything)))
NAMES = listing(text(r"[A-Za-z0-9_.:-]+"))
SPECS = table(text(NAME), record(_SPEC, _MORE))
HANDED = table(text(NAME), record({**_SPEC, "slices": NAMES}, _MORE))


class Consumers(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    DECISIVE = ("cdi", "consumers")
    TEMPLATES = ("service", "user", "quadlet", "quadlet_dropin")
    NOTHING = {"cdi": False, "consumers": {}}
    FIELD = fields.mapping(
        "Who gets which slices.",
        cdi=fields.mapping(
            "CDI names for every slice and every consumer.",
            enabled=fields.flag("false: nothing of ours is written, and what was written is removed.", True),
        ),
        smoke_test=fields.flag(
            "true: each consumer that gets another slice is tried after the change; one that opens more or less undoes it.", False
        ),
        consumers=fields.Field(
            "named", "Consumers by name.", {}, item=_CONSUMER, pattern=NAME,
            example="up to 63 letters, digits, '_', '.' and '-', with a letter or digit at both ends",
        ),
        templates=fields.Field(
            "options", "Templates of the site in the place of ours (Jinja2): URLs of Salt's file server.",
            fields={
                "service": _template("Drop-in of a service."),
                "user": _template("Drop-in of a login user's slice unit."),
                "quadlet": _template("Quadlet unit of a container."),
                "quadlet_dropin": _template("Drop-in of a Quadlet unit that exists."),
                "mps": _template("Unit of an MPS daemon."),
                "mps_settings": _template("Settings (TOML) of an MPS daemon of protocol v3."),
            },
        ),
    )  # fmt: skip

    def handed_out(self, filled, written, notes):
        """
        ``cdi``: whether names are written; ``consumers``: name -> what the technique takes, where they are written at all;
        ``templates``: those of the site; ``smoke_test``, where that is asked.
        """
        enabled = filled["cdi"]["enabled"]
        limits = filled["resource_limits"]
        made = {name: settled(each, limits, filled["runtime"]) for name, each in filled["consumers"].items()}
        for name, spec in made.items():
            for what, why in mistakes(spec):
                notes.wrong(f"{_PATH}:consumers:{name}:{what}", why)
            if spec["kind"] == "container" and (why := clash(name)):
                notes.wrong(f"{_PATH}:consumers:{name}", why)
        if made and not enabled:
            notes.wrong(f"{_PATH}:cdi:enabled", "is false, and there are consumers. Remove one of the two.")
        texts = filled[fields.TEMPLATES] or {}
        settings = {"cdi": enabled, "templates": {name: texts[name] for name in self.TEMPLATES if name in texts}}
        settings |= {"smoke_test": True} if filled["smoke_test"] else {}
        return {**settings, "consumers": made} if "consumers" in written else settings

    def receivers(self, settings):
        """The consumers."""
        return list(settings.get("consumers", ()))

    def layout(self):
        """Who has what."""
        return record({"cdi": truth, "consumers": HANDED})

    def asked(self):
        """Settings of a pillar, or to go on as before."""
        shapes = {"cdi": truth, "consumers": SPECS, "kept": truth, "templates": TEMPLATES, "smoke_test": truth}
        shapes |= {"quarantined": table(LINE, text("keep|stop"))}
        return record({}, shapes)


def settled(written, limits, runtime="crun"):
    """
    A consumer as the technique takes it.

    :param written: its keys in the pillar; :param limits: the host's ``resource_limits``, which hold for its containers.
    :param runtime: the OCI runtime that the host's Podman has.
    """
    kind = written.get("kind", "device")
    own = {**(limits if kind == "container" else {}), **written.get("resource_limits", {})}
    return {
        "kind": kind,
        "wants": dict(written.get("slice", {})),
        "instances": own.get("gpu_instances", 1),
        "unit": written.get("unit", ""),
        "user": written.get("user", ""),
        "image": written.get("image", ""),
        "weight": written.get("weight", 1),
        "memory_gb": own.get("memory_gb"),
        "compute_units": own.get("compute_units"),
        # Journal, history and plans have its digest alone.
        "quadlet": Secret(json.dumps(written["quadlet"])) if written.get("quadlet") else "",
        **({"runtime": runtime} if kind == "container" and runtime != "crun" else {}),
        **({"vram_mib": own["vram_mib"]} if own.get("vram_mib") else {}),
        **({"overcommit": True} if own.get("overcommit") else {}),
        **({"security_profile": profile} if (profile := written.get("security_profile")) else {}),
    }


def mistakes(spec):
    """(key, what is wrong) of a settled consumer, as words that follow its path."""
    kind = spec["kind"]
    if kind == "service" and not spec["unit"]:
        yield "unit", "is missing: it says which service gets the slice, such as trainer.service."
    if kind == "user" and not spec["user"]:
        yield "user", "is missing: it says which login user gets the slice."
    if kind == "container" and not (spec["image"] or spec["unit"]):
        yield "image", "is missing: it says what to run, unless unit names a Quadlet unit that exists."
    if kind == "container" and spec["image"] and spec["unit"]:
        yield "unit", "names a Quadlet unit that exists, so that its image is its own. Remove image or unit."
    for key, of in _ONLY_OF.items():
        if spec.get(key) and kind not in of:
            yield key, f"has no meaning for kind {kind}, only for {' and '.join(of)}."
    if spec.get("overcommit") and not spec.get("vram_mib"):
        yield "resource_limits", "has overcommit and no vram_mib, which it is about."
    if spec.get("vram_mib") and kind == "container" and spec["user"]:
        yield "resource_limits", (
            "has vram_mib, which can't hold for rootless containers alone, whose groups are their user's: "
            "use a consumer of kind user."
        )
    if kind == "device" and (spec["memory_gb"] or spec["compute_units"] or spec.get("vram_mib")):
        yield "resource_limits", "has no effect on kind device: nothing of ours runs with it."


_ONLY_OF = {
    "unit": ("service", "container"), "user": ("user", "container"), "image": ("container",), "quadlet": ("container",),
    "security_profile": ("container",),
}  # fmt: skip


def clash(name):
    """What is wrong with the name of a container, "" for nothing: its unit must not be called as those of a technology."""
    if kinds.is_ours(f"gpu-slicing-{name}.service"):
        return f"is no name for a container: gpu-slicing-{name}.service is called as other units of ours are; choose another."
    return ""


SECTION = Consumers()
