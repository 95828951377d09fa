"""
Templates of what is text for daemons: the shipped ones, and those of a site in their place.

They are Python literals, since only ``.py`` reaches a minion. Jinja2 is a part of Salt, and loaded only to render: a host
without consumers pays nothing for it.
"""

import traceback
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from gpuslice import errors
from gpuslice.outputs import gpu_names
from gpuslice.outputs import mps_templates
from gpuslice.outputs import unit_text
from gpuslice.outputs.unit_text import Setting

#: What limits a unit, in each of the templates. Values: memory, cpu ("" for none).
_LIMITS = """\
{% if memory %}
MemoryMax={{ memory }}
{% endif %}
{% if cpu %}
CPUQuota={{ cpu }}
{% endif %}
"""

#: Drop-in of a service. Values: consumer, boot (unit that brings slices back), devices, environment and mounts (lists of lines
#: that are quoted already), units (of systemd, with which it starts anew), private (the unit had private devices), groups,
#: memory, cpu ("" for none).
SERVICE = """\
# Written by Salt for the GPU consumer {{ consumer }}; changes to this file are overwritten.
[Unit]
{# No Wants=: the boot unit is wanted by the target. Started from here, it would put back what a change is just replacing. #}
After={{ boot }}
{% for unit in units %}
# Its folder of sockets is made anew with it.
PartOf={{ unit }}
After={{ unit }}
{% endfor %}

[Service]
# Exactly these nodes, whatever other files gave before.
DevicePolicy=closed
DeviceAllow=
{% for device in devices %}
DeviceAllow={{ device }}
{% endfor %}
# Private devices have no GPU among them.
PrivateDevices=no
{% if private %}
# What private devices also meant, and may stay.
CapabilityBoundingSet=~CAP_MKNOD CAP_SYS_RAWIO
SystemCallFilter=~@raw-io
{% endif %}
{% for variable in environment %}
Environment={{ variable }}
{% endfor %}
{% for mount in mounts %}
{{ mount }}
{% endfor %}
{% if groups %}
SupplementaryGroups={{ groups }}
{% endif %}
""" + _LIMITS  # fmt: skip

#: Drop-in of a login user's slice unit. Values: consumer, boot, devices, standard (nodes that a login needs), memory, cpu.
USER = """\
# Written by Salt for the GPU consumer {{ consumer }}; changes to this file are overwritten.
[Unit]
After={{ boot }}

[Slice]
# Exactly these nodes, for all that the user runs, after what a login needs.
DevicePolicy=closed
DeviceAllow=
{% for device in standard %}
DeviceAllow={{ device }}
{% endfor %}
{% for device in devices %}
DeviceAllow={{ device }}
{% endfor %}
""" + _LIMITS  # fmt: skip

#: A Quadlet unit. Values: consumer, boot ("" for rootless Podman), image, container (name), device (CDI name), least (lines of
#: least privilege and groups), memory, cpu, wanted_by, further (section -> lines, of the pillar).
QUADLET = """\
# Written by Salt for the GPU consumer {{ consumer }}; changes to this file are overwritten.
[Unit]
Description=GPU consumer {{ consumer }}
{% if boot %}
After={{ boot }}
{% endif %}
{% for line in further.Unit %}
{{ line }}
{% endfor %}

[Container]
Image={{ image }}
ContainerName={{ container }}
AddDevice={{ device }}
{% for line in least %}
{{ line }}
{% endfor %}
{% for line in further.Container %}
{{ line }}
{% endfor %}

[Service]
# Images for GPUs are large, and the first start pulls them.
TimeoutStartSec=900
""" + _LIMITS + """\
{% for line in further.Service %}
{{ line }}
{% endfor %}

[Install]
{% if wanted_by %}
WantedBy={{ wanted_by }}
{% endif %}
{% for line in further.Install %}
{{ line }}
{% endfor %}
"""  # fmt: skip

#: Drop-in of a Quadlet unit of somebody else. Values: consumer, boot, device, groups (lines, with that of a security profile),
#: memory, cpu, further.
QUADLET_DROPIN = """\
# Written by Salt for the GPU consumer {{ consumer }}; changes to this file are overwritten.
[Unit]
{% if boot %}
After={{ boot }}
{% endif %}
{% for line in further.Unit %}
{{ line }}
{% endfor %}

[Container]
# The slice in place of the devices that the unit names; others belong under 'quadlet' of the consumer.
AddDevice=
AddDevice={{ device }}
{% for line in groups %}
{{ line }}
{% endfor %}
{% for line in further.Container %}
{{ line }}
{% endfor %}

[Service]
""" + _LIMITS + """\
{% for line in further.Service %}
{{ line }}
{% endfor %}
"""  # fmt: skip

SHIPPED = {"service": SERVICE, "user": USER, "quadlet": QUADLET, "quadlet_dropin": QUADLET_DROPIN, **mps_templates.SHIPPED}


def shipped(name: str) -> str:
    """The text of a template of :data:`SHIPPED`. Raises errors.PolicyError: there is none of that name."""
    if name not in SHIPPED:
        raise errors.PolicyError(f"There is no template '{name}'.", todo=f"The templates are: {', '.join(SHIPPED)}.")
    return SHIPPED[name]


def render(name: str, values: Mapping[str, Any], overrides: Mapping[str, str] | None = None) -> str:
    """
    What a template makes of values: a unit file, which it is checked to be, or a configuration.

    :param name: of :data:`SHIPPED`, where what a template is given stands beside each.
    :param values: these. :param overrides: name -> text of a template that a site has in its place.
    :raises errors.PolicyError: no such template, or it does not render, or makes no unit file; with the line.
    """
    for other in overrides or {}:
        shipped(other)
    text = _rendered(name, (overrides or {}).get(name, SHIPPED[name]), values)
    if name in mps_templates.NO_UNITS:
        return text
    try:
        unit_text.settings(text)
    except unit_text.Malformed as err:
        line = text.split("\n")[err.line - 1].strip()
        raise _wrong(name, f"makes no unit file, in line {err.line} of what it renders ({line!r}): {err.why}") from err
    return text


def _rendered(name: str, source: str, values: Mapping[str, Any]) -> str:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    # A template makes text of what it is given: of the inside of the minion it needs nothing.
    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    try:
        code = environment.from_string(source)
        return code.render(values)
    except jinja2.TemplateSyntaxError as err:
        raise _wrong(name, f"is no template, in line {err.lineno}: {err.message}") from err
    except Exception as err:  # whatever an expression of a site comes to
        raise _wrong(name, f"does not render, in line {_line(err)}: {type(err).__name__}: {err}") from err


def _line(err: Exception) -> int | str:
    """The line of a template in which an error was raised; Jinja2 puts it into the traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(err.__traceback__) if frame.filename == "<template>"]
    return lines[-1] if lines and lines[-1] else "?"


def refuse_weaker(
    name: str,
    section: str,
    keys: Iterable[str],
    found: list[Setting],
    shipped: list[Setting],
    once: Iterable[str] = (),
) -> None:
    """
    A site's template may say more than the shipped one, and opens neither less nor more.

    :param section: that confines; :param keys: of which every value that the shipped template has must be there.
    :param once: those that must have what the shipped one has and nothing else.
    :param found: what the site's makes of some values; :param shipped: what the shipped one makes of them.
    :raises errors.PolicyError: it does not.
    """
    for key in keys:
        have = unit_text.values(found, section, key)
        for value in unit_text.values(shipped, section, key):
            if value not in have:
                raise weaker(name, f"leaves out {key}={value} in [{section}]", "Take it from the shipped template")
    for key in once:
        have, [own] = unit_text.values(found, section, key), unit_text.values(shipped, section, key)
        if have != [own]:
            there = ", ".join(f"{key}={value}" for value in have) or f"no {key}="
            what = f"has {there} in [{section}], and not {key}={own} alone"
            raise weaker(name, what, "Take it from the shipped template")
    known = unit_text.values(shipped, section, "DeviceAllow")
    for value in unit_text.values(found, section, "DeviceAllow"):
        if value not in known and gpu_names.is_gpu_device(value.split()[0]):
            raise weaker(name, f"has DeviceAllow={value}, which opens more than the slice", "Leave it out")
    for each in found:
        if (each.section, each.key) == (section, "PrivateDevices") and unit_text.is_true(each.value):
            raise weaker(name, f"has PrivateDevices={each.value}, which takes the nodes of all GPUs away", "Leave it out")


def weaker(name: str, what: str, todo: str) -> errors.PolicyError:
    """The error for a template of a site that does :param what:, with what to do about it."""
    return errors.PolicyError(f"The template '{name}' {what}.", todo=f"{todo}.")


def _wrong(name: str, why: str) -> errors.PolicyError:
    return errors.PolicyError(
        f"The template '{name}' {why.rstrip('.')}.",
        todo=f"Mend it, or leave '{name}' out of 'templates' in the pillar: then the shipped one is used.",
    )
