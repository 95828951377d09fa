"""
The words of MIG: the three forms in which a layout is written, and the one form that the engine works with.
"""

import re

from gpuslice import errors
from gpuslice.policy import fields
from gpuslice.policy.notes import Notes
from gpuslice.policy.section import Section
from gpuslice.shape import LINE
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import truth
from gpuslice.shape import whole
from gpuslice.techniques.mig import profile_names
from gpuslice.values import describe
from gpuslice.values import refuse_odd

#: More instances than this of one profile is a slip of the finger on any GPU there is.
MOST = 64
#: Longer than any profile name with all that may stand around it.
_LONGEST = 64


def entries(profiles, gpu_instance_count=1, path="profiles"):
    """
    The normalised list of a layout that is written in any form the pillar takes.

    :param profiles: list of names, each with an optional ``@start``; or a mapping of name to count; or one name.
    :param gpu_instance_count: how many of each name of the list form.
    :param path: what the list is called in messages.
    :return: ``[(canonical name without a pin, start or None, count)]`` in the order of first mention; equal ones are joined.
        Raises :class:`errors.PolicyError` with every mistake.
    """
    refuse_odd(profiles, path)
    notes = Notes()
    written = check(profiles, path, notes)
    if type(gpu_instance_count) is not int or not 1 <= gpu_instance_count <= MOST:
        notes.wrong("gpu_instance_count", f"is {describe(gpu_instance_count)}; a whole number from 1 to {MOST} is wanted.")
        gpu_instance_count = 1
    made = expand(written, gpu_instance_count, path, notes)
    if notes.mistakes:
        raise errors.PolicyError("The list of profiles is wrong: " + " ".join(notes.mistakes), mistakes=notes.mistakes)
    return made


def check(value, path, notes):
    """
    Check a layout as written.

    :return: ``[(canonical name, start or None, count or None)]``; no count means that gpu_instance_count applies.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        found = [_mapped(name, count, f"{path}:{name}", notes) for name, count in value.items()]
    elif isinstance(value, list | tuple):
        found = [_listed(name, f"{path}:{place}", notes) for place, name in enumerate(value)]
    else:
        notes.wrong(
            path, f"is {describe(value)}; a list like ['1g.10gb', '2g.20gb'] or a mapping like {{'1g.10gb': 4}} is wanted."
        )
        return []
    _check_pins(found, path, notes)
    return [each for each in found if each]


def _name(text, path, notes):
    if isinstance(text, str) and len(text) > _LONGEST:
        notes.wrong(path, f"is {describe(text)}, which is too long for a profile name.")
        return None
    try:
        return profile_names.parse(text)
    except ValueError as err:
        notes.wrong(path, str(err) if str(err).endswith("?") else f"{err}.")
        return None


def _listed(text, path, notes):
    if isinstance(text, dict):
        notes.wrong(path, f"is {describe(text)}; write either a list of names or one mapping of name to count.")
        return None
    name = _name(text, path, notes)
    return name and (str(name.canonical), name.start, None)


def _mapped(text, count, path, notes):
    name = _name(text, path, notes)
    if name and name.start is not None:
        notes.wrong(path, f"has a pin; pins go with the list form: ['{name}'].")
        return None
    if type(count) is not int:
        hint = " Write the number without quotes." if isinstance(count, str) and re.fullmatch("[0-9]+", count) else ""
        notes.wrong(path, f"has the count {describe(count)}; a whole number from 1 to {MOST} is wanted.{hint}")
        return None
    if not 1 <= count <= MOST:
        notes.wrong(path, f"has the count {count}; it goes from 1 to {MOST}. Leave the profile out to have none of it.")
        return None
    return name and (str(name.canonical), None, count)


def _check_pins(found, path, notes):
    """Two GPU instances can't begin at the same memory slice; compute instances of one GPU instance can share its pin."""
    taken: dict[int, tuple] = {}
    for place, each in enumerate(found):
        if not each or each[1] is None:
            continue
        name, start, _ = each
        parsed = profile_names.parse(name)
        before, first = taken.setdefault(start, (parsed, place))
        if place != first and (parsed.whole or before.whole or parsed.gpu_instance != before.gpu_instance):
            notes.wrong(f"{path}:{place}", f"pins {name} to memory slice {start}, which {path}:{first} ({before}) takes already.")


def expand(written, gpu_instance_count, path, notes):
    """
    Put the counts in.

    :param written: what :func:`check` returned.
    :return: ``[(canonical name, start or None, count)]``, equal ones joined.
    """
    joined: dict[tuple, int] = {}
    for name, start, count in written:
        if start is not None and gpu_instance_count > 1 and profile_names.parse(name).whole:
            notes.wrong(
                path,
                f"pins {name} to memory slice {start}, but gpu_instance_count asks for {gpu_instance_count} of each profile."
                " Repeat the names instead, each with its own pin.",
            )
            continue
        key = (name, start)
        joined[key] = joined.get(key, 0) + (gpu_instance_count if count is None else count)
    return [(name, start, count) for (name, start), count in joined.items()]


def _json_profiles():
    return {
        "oneOf": [
            {"type": "string", "pattern": profile_names.PATTERN},
            {"type": "array", "items": {"type": "string", "pattern": profile_names.PATTERN}},
            {
                "type": "object",
                "propertyNames": {"pattern": profile_names.PATTERN.replace("(?:@(0|[1-9][0-9]*))?", "")},
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": MOST},
            },
        ]
    }


class Mig(Section):
    """
    See :class:`gpuslice.policy.section.Section`. Settled: ``entries`` (``[(profile, start or None, count)]``) and
    ``compute_instances``; or ``enabled`` False.
    """

    FIELD = fields.section(
        "Multi-Instance GPU: hardware slices with their own memory.",
        mode=fields.mode("disabled: no instances, and MIG mode is switched off.", "enabled", "enabled", "disabled"),
        profiles=fields.Field(
            "own",
            "A name, a list of names, each with an optional @start, or a mapping of name to count.",
            [],
            check=check,
            schema=_json_profiles,
        ),
        gpu_instance_count=fields.number("How many of each profile of the list form.", 1, 1, MOST),
        compute_instance_count=fields.number(
            "Compute instances in each GPU instance that is not named with a 'c.' part.", 1, 1, 8
        ),
    )
    DECISIVE = ("profiles", "mode")

    def settle(self, filled, written, notes):
        """The list with its counts. Where MIG is the strategy, a list must be written, or that there is to be none."""
        own = "profiles" in written.own
        where = f"{written.path if own else written.host_path}:mig:profiles"
        listed = expand(filled["profiles"], filled["gpu_instance_count"], where, notes)
        if filled["mode"] == "disabled":
            if listed and written.chosen:
                notes.wrong(
                    f"{written.path}:mig:mode", "is disabled, but profiles are given; write 'profiles: []' or drop it."
                )
            return {"enabled": False}
        if written.chosen and not own and "profiles" not in written.host:
            note = notes.wrong if written.enabled else notes.warn
            note(
                f"{written.path}:mig:profiles",
                "is not given, and without any profile every idle instance would go. Name the profiles; write 'profiles: []' for "
                "a GPU without instances, or 'mode: disabled' to switch MIG off.",
            )
        return {"entries": listed, "compute_instances": filled["compute_instance_count"]}

    def missing(self, settings, environment):
        """Profiles: nobody asked for MIG by name, so that an empty list is no wish to remove what exists."""
        return "" if settings.get("entries") else "no profiles are given"

    def says_more(self, settings):
        """Whether profiles are given."""
        return bool(settings.get("entries"))

    def layout(self):
        """Its mode, and GPU instances with their compute instances."""
        start = maybe(whole(0, 255))
        instances = listing(row(LINE, start, listing(row(LINE, start))))
        return record({"enabled": truth, "instances": instances}, {"pending": truth})

    def asked(self):
        """The mode can wait for a reboot, and instances with it."""
        entries = listing(row(LINE, maybe(whole(0, 255)), whole(1, MOST)))
        return either(
            record({"enabled": truth}), record({"entries": entries, "compute_instances": whole(1, 64)}, {"enabled": truth})
        )

    def beside(self):
        """What is told with the plan."""
        return {**super().beside(), "note": LINE}

    def steps(self):
        """Where a GPU instance was made."""
        return {"create_gi": {"start": whole(0, 255)}}


SECTION = Mig()
