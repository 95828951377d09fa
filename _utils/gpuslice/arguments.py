"""
What users may hand to a function: one table for all of them, by the argument's name. The same name means the same everywhere, and
anything else is refused with a sentence before a host is looked at.

What stands in the pillar as well (``profiles``, ``vfs``, ``scheduling``, ...) is only looked at here as far as any value can be
handled at all; its meaning is judged as the pillar's is.
"""

from collections.abc import Mapping
from datetime import date
from functools import partial

from gpuslice import addresses
from gpuslice import errors
from gpuslice.policy.fields import OFF
from gpuslice.policy.fields import ON
from gpuslice.printable import printable
from gpuslice.secret import redacted
from gpuslice.values import SHOWN
from gpuslice.values import describe
from gpuslice.values import refusal
from gpuslice.values import refuse_odd
from gpuslice.values import whole


# -- kinds -----------------------------------------------------------------------------------------------------------
def truth(name, value):
    """Something is permitted or not: True or False. Any text counts as true to Python, "false" as well, and 0 as false."""
    if not isinstance(value, bool):
        shown = repr(redacted(value)[:SHOWN]) if isinstance(value, str) else describe(value)
        raise refusal(name, f"is {shown}; True or False is wanted, which YAML writes as true or false")


def switched(name, value):
    """On or off: True or False, or the words that the pillar has for them."""
    if not isinstance(value, str) or value.lower() not in (ON, OFF):
        truth(name, value)


def is_on(value):
    """What :func:`switched` let pass, as a bool."""
    return value.lower() == ON if isinstance(value, str) else value


def seconds(name, value, high=600):
    """A time in seconds, which may have a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
        raise refusal(name, f"must be a number of seconds from 0 to {high}, and is {describe(value)}")


def past(name, value):
    """A moment in the past: how long ago, or a time."""
    moment_of(value, None, name)


def moment_of(value, now, name="since"):
    """
    The moment that :func:`past` let pass, in seconds since the epoch.

    :param now: likewise; None only checks. :raises errors.PolicyError: it is none, or still to come.
    """
    # Here, so that those who name no moment do not load it.
    from gpuslice import moments

    try:
        # YAML makes a date of a time that nobody quoted.
        text = value.isoformat() if isinstance(value, date) else value
        found = moments.meant(text, 0 if now is None else now)
    except (ValueError, TypeError, AttributeError) as err:
        raise refusal(name, f"is {describe(value)}; how long ago is wanted, such as 24h or 7d, or a time in ISO 8601") from err
    if now is not None and found > now:
        raise refusal(name, f"is {moments.iso(found)}, which is still to come: it is {moments.iso(now)} now")
    return found


def text(name, value):
    """A name: a text that is not empty and can be printed."""
    if not isinstance(value, str):
        raise refusal(name, f"is {describe(value)}; a text is wanted")
    if not value.strip() or len(value) > 4096 or printable(value) != value:
        raise refusal(name, f"is {describe(value)}, which is no name")
    # A name is shown wherever it is told of.
    if redacted(value) != value:
        raise refusal(name, "looks like a token, which is shown nowhere")


def text_or_none(name, value):
    """A name, or an empty text where that says something too."""
    if value != "":
        text(name, value)


def sentence(name, value):
    """A sentence, or nothing: a text of one line that can be printed."""
    if not isinstance(value, str) or len(value) > 1000 or printable(value) != value:
        raise refusal(name, f"is {describe(value)}; a sentence of up to 1000 characters is wanted")
    if redacted(value) != value:
        raise refusal(name, "has something that looks like a token, and is shown to everybody who looks; leave that out")


def address(name, value):
    """A PCI address, the number that YAML makes of one without quotes, or a UUID."""
    if not addresses.is_uuid(value):
        if isinstance(value, str) and (len(value) > SHOWN or printable(value) != value):
            raise refusal(name, f"is {describe(value)}, which is neither a PCI address nor a UUID")
        addresses.normalize(value)


def gpus(name, value):
    """Which GPUs are meant: an address or UUID, ``all``, a pattern, the name of a slice, or a list of these."""
    if isinstance(value, list | tuple):
        if not value:
            raise errors.PolicyError("No GPU is named: give a PCI address, a list of them, or all.", todo="Nothing was done.")
        for each in value:
            gpus(name, each)
        return
    # An index is told what it stands for, which takes a host.
    if addresses.is_index(value):
        return
    if not isinstance(value, str):
        address(name, value)
        return
    if len(value) > SHOWN or printable(value) != value:
        raise refusal(name, f"is {describe(value)}, which is no name of a GPU")
    if value != "all" and not addresses.is_pattern(value) and not addresses.is_place(value):
        address(name, value)


def one_of(name, value, words):
    """One of these words."""
    if not isinstance(value, str) or value not in words:
        raise refusal(name, f"is {describe(value)}; one of these is wanted: {', '.join(words[:-1])} or {words[-1]}")


def mapping(name, value):
    """A mapping, such as a pillar. Salt's own is a mapping without being a dict."""
    if not isinstance(value, Mapping):
        raise refusal(name, f"is {describe(value)}; a mapping with the containers_gpu_* keys is wanted")


def as_in_pillar(name, value):
    """A setting that the pillar has as well, whose meaning is judged with the pillar's table."""


def secret(name, value):
    """A text that no message shows."""
    if not isinstance(value, str):
        raise refusal(name, "is no text; put it in quotes. What it is now is not shown here")


#: The forms of an export.
FORMS = ("pillar", "mig-parted")
#: What may become of an interrupted change.
WAYS = ("undo", "finish")
_KINDS = {
    "active_thread_percentage": as_in_pillar,
    "alias": text,
    "autoprobe": truth,
    "ccs_mode": as_in_pillar,
    "client_token": secret,
    "anew": truth,
    "autodetect": truth,
    "brief": truth,
    "compute": as_in_pillar,
    "config": text,
    "compute_instances": partial(whole, low=1, high=8),
    "confirm": truth,
    "consumer": text,
    "context": text,
    "count": as_in_pillar,
    "data": truth,
    "dcm_profile": text,
    "deadline": partial(whole, low=1, high=604800),
    "delete_emptydir_data": truth,
    "enabled": switched,
    "engines": as_in_pillar,
    "every": partial(whole, low=1, high=86400),
    "exclusive": as_in_pillar,
    "feature": as_in_pillar,
    "folder": text,
    "force": truth,
    "form": partial(one_of, words=FORMS),
    "full": truth,
    "function": address,
    "generation": partial(whole, low=0),
    "gpu": gpus,
    "gpu_instances": partial(whole, low=1, high=64),
    "group": truth,
    "hierarchy": as_in_pillar,
    "how": partial(one_of, words=WAYS),
    "image": as_in_pillar,
    "instance": text,
    "interval_seconds": as_in_pillar,
    "kind": as_in_pillar,
    "kubeconfig": text,
    "labels": truth,
    "license_port": as_in_pillar,
    "license_server": as_in_pillar,
    "limit_watts": as_in_pillar,
    "managed": truth,
    "max_instance_count": as_in_pillar,
    "memory": as_in_pillar,
    "minutes": partial(whole, low=1, high=1440),
    "missing": truth,
    "namespace": text,
    "node": text_or_none,
    "partitions": as_in_pillar,
    "path": text,
    "pending": truth,
    "percent": as_in_pillar,
    "period": text,
    "pinned_memory_mib": as_in_pillar,
    "pillar": mapping,
    "plugin": text,
    "pod_selector": text,
    "profile": text,
    "profiles": as_in_pillar,
    "protocol": as_in_pillar,
    "quadlet": as_in_pillar,
    "reload": truth,
    "reload_driver": truth,
    "rename": truth,
    "require": truth,
    "reread": truth,
    "resource_limits": as_in_pillar,
    "scheduler": as_in_pillar,
    "scheduling": as_in_pillar,
    "security_profile": as_in_pillar,
    "share_policy": as_in_pillar,
    "since": past,
    "slice": as_in_pillar,
    "slice_duration": as_in_pillar,
    "source": as_in_pillar,
    "start": partial(whole, high=63),
    "system": truth,
    "table": truth,
    "taken": truth,
    "text": truth,
    "test": truth,
    "textfile": as_in_pillar,
    "unit": as_in_pillar,
    "user": as_in_pillar,
    "vendor": text,
    "vfs": as_in_pillar,
    "vgpu": text,
    "vram_max_mib": as_in_pillar,
    "vram_slice": as_in_pillar,
    "wait": seconds,
    "within": partial(seconds, high=3600),
    "weight": as_in_pillar,
    "weights": as_in_pillar,
    "which": text,
    "why": sentence,
}


def check(**given):
    """
    Check arguments by their names. Raises errors.PolicyError, a sentence that names the argument.

    :param given: what was given. One that was left out is not among them, or is None where that means so.
    """
    for name, value in given.items():
        # The minion's pillar has keys of others, of which nothing is known: the policy looks at its own.
        if name not in ("client_token", "pillar"):
            refuse_odd(value, name)
        _KINDS[name](name, value)


def known(name):
    """Whether there is a kind for an argument of this name."""
    return name in _KINDS
