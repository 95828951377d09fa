"""
Walk a pillar along its table: types, ranges, words and unknown keys, every mistake with its path.
"""

import ipaddress
import re

from gpuslice import addresses
from gpuslice import errors
from gpuslice import secret
from gpuslice.policy import fields
from gpuslice.policy.notes import did_you_mean
from gpuslice.printable import printable
from gpuslice.values import describe

#: Returned for a value that is wrong, so that its key counts as not written.
WRONG = object()

#: Longest host name, and one of its parts (RFC 1123).
_LONGEST = 253
_LABEL = re.compile(r"(?!-)[0-9A-Za-z-]{1,63}(?<!-)")

_TRUTH_WORDS = ("true", "false", "yes", "no", "on", "off")
_INDEX_KEYS = ("index", "idx", "minor", "gpu", "id", "device")
#: Kinds that deal with a token themselves.
_TELL_TOKENS = ("secret", "server")
_MISPLACED = "looks like a licence token, which is shown nowhere; its place is vgpu:client_token."
_PATTERNS = "In a pillar only model and name of a match take * and ?."
_NO_INDEX = "a GPU's index is not accepted, because indices move when a card is added, removed or lost. Use pci or uuid."


def check(field, value, path, notes):
    """
    Check a value of the pillar.

    :param field: :class:`gpuslice.policy.fields.Field` that describes it.
    :param path: its pillar path, parts joined with ``:``.
    :param notes: where mistakes and warnings go.
    :return: the value in its normal form, with only the keys that were written; :data:`WRONG` when it is not usable.
    """
    if value is None:
        notes.wrong(path, "has no value; give it one or leave the key out.")
        return WRONG
    if field.kind not in _TELL_TOKENS and isinstance(value, str) and secret.is_like(value):
        # What is taken for a name is shown in plans, and kept in files that others can read.
        notes.wrong(path, _MISPLACED)
        return WRONG
    return _CHECKS[field.kind](field, value, path, notes)


def _check_map(field, value, path, notes):
    if not isinstance(value, dict):
        notes.wrong(path, f"is {describe(value)}; a mapping with the keys {', '.join(field.fields)} is wanted.")
        return WRONG
    made = {}
    for key, each in value.items():
        if key not in field.fields:
            notes.wrong(f"{path}:{key}", f"is not a known key.{did_you_mean(key, field.fields)}")
            continue
        checked = check(field.fields[key], each, f"{path}:{key}", notes)
        if checked is not WRONG:
            made[key] = checked
    return made


def _check_match(field, value, path, notes):
    if addresses.is_index(value):
        notes.wrong(path, f"is {describe(value)}: {_NO_INDEX}")
        return WRONG
    if not isinstance(value, dict):
        return _check_map(field, value, path, notes)
    if not value:
        notes.wrong(path, f"is empty and would match every GPU. Give one or more of {', '.join(field.fields)}.")
        return WRONG
    indices = [key for key, each in value.items() if key in _INDEX_KEYS and addresses.is_index(each)]
    for key in indices:
        notes.wrong(f"{path}:{key}", f"is not a known key: {_NO_INDEX}")
    made = _check_map(field, {key: each for key, each in value.items() if key not in indices}, path, notes)
    # A match that lost a key to a mistake would match more than was meant.
    return made if len(made) == len(value) else WRONG


def _check_list(field, value, path, notes):
    if not isinstance(value, list | tuple):
        notes.wrong(path, f"is {describe(value)}; a list is wanted.")
        return WRONG
    made = []
    for place, each in enumerate(value):
        checked = check(field.item, each, f"{path}:{place}", notes)
        if checked is WRONG:
            continue
        # A number says how much, so that two can be the same.
        if checked in made and field.kind == "list" and field.item.kind != "int":
            notes.wrong(f"{path}:{place}", f"names {checked} a second time.")
            continue
        made.append(checked)
    return made


def _check_numbered(field, value, path, notes):
    """A mapping by numbers from 1; YAML makes ints of them, JSON texts: both become texts."""
    if not isinstance(value, dict):
        notes.wrong(path, f"is {describe(value)}; a mapping by numbers from 1 is wanted.")
        return WRONG
    made = {}
    for key, each in value.items():
        number = int(key) if type(key) is int or (isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key)) else 0
        if number < 1 or str(number) in made:
            why = "is given twice." if number else "is no number of a virtual function; they count from 1."
            notes.wrong(f"{path}:{key}", why)
            continue
        checked = check(field.item, each, f"{path}:{key}", notes)
        if checked is not WRONG:
            made[str(number)] = checked
    return made


def _check_named(field, value, path, notes):
    """A mapping by names that somebody chose."""
    if not isinstance(value, dict):
        notes.wrong(path, f"is {describe(value)}; a mapping by names is wanted.")
        return WRONG
    made = {}
    for name, each in value.items():
        if not isinstance(name, str) or secret.is_like(name) or not re.fullmatch(field.pattern, name):
            notes.wrong(f"{path}:{describe(name)}", f"is no name for it; {field.example} is wanted.")
            continue
        checked = check(field.item, each, f"{path}:{name}", notes)
        if checked is not WRONG:
            made[name] = checked
    return made


def _check_boards(_, value, path, notes):
    """PCI ids of boards, one or a list of them."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    wrong = [each for each in listed if not (isinstance(each, str) and re.fullmatch(fields.BOARD, each))]
    if wrong or not listed:
        shown = describe(wrong[0]) if wrong else "empty"
        notes.wrong(path, f"is {shown}; PCI ids as 'lspci -nn' shows them are wanted, such as '10de:20b0', or a list of these.")
        return WRONG
    return list(dict.fromkeys(each.lower() for each in listed))


def _check_rules(field, value, path, notes):
    """Rules keep their place in the pillar under ``path``, because later messages name it."""
    if not isinstance(value, list | tuple):
        notes.wrong(path, f"is {describe(value)}; a list of rules, each with a match, is wanted.")
        return WRONG
    made = []
    for place, each in enumerate(value):
        here = f"{path}:{place}"
        rule = check(field.item, each, here, notes)
        if rule is WRONG:
            continue
        if "match" not in each:
            notes.wrong(here, f"has no match. Say which GPUs it is for with {', '.join(field.item.fields['match'].fields)}.")
        if "match" in rule:
            made.append({**rule, "path": here})
    return made


def _check_bool(_, value, path, notes):
    if isinstance(value, bool):
        return value
    hint = " Write it without quotes." if isinstance(value, str) and value.lower() in _TRUTH_WORDS else ""
    notes.wrong(path, f"is {describe(value)}; true or false is wanted.{hint}")
    return WRONG


def _check_int(field, value, path, notes):
    # True is an int to Python, and a count of true would be taken for 1.
    if type(value) is not int:
        hint = " Write it without quotes." if isinstance(value, str) and re.fullmatch("-?[0-9]+", value) else ""
        notes.wrong(path, f"is {describe(value)}; a whole number from {field.low} to {field.high} is wanted.{hint}")
        return WRONG
    if not field.low <= value <= field.high:
        notes.wrong(path, f"is {value}; it goes from {field.low} to {field.high}.")
        return WRONG
    return value


def _check_text(_, value, path, notes):
    if not isinstance(value, str):
        notes.wrong(path, f"is {describe(value)}; a text is wanted. Put it in quotes.")
        return WRONG
    if value != printable(value) and "\n" not in value:
        notes.wrong(path, f"is {describe(value)}, which has a character in it that can't be printed.")
        return WRONG
    if value != value.strip() or "\n" in value:
        notes.wrong(path, "begins or ends with white space, or has a line break in it; write it without.")
        return WRONG
    return value


def _check_secret(_, value, path, notes):
    """A text that is never shown, also not to say what is wrong with it."""
    if not isinstance(value, str):
        notes.wrong(path, "is no text; put it in quotes. What it is now is not shown here.")
        return WRONG
    if isinstance(value, secret.Secret):
        return value
    text = value.strip()
    if not re.search(fields.TOKEN, text):
        notes.wrong(path, "has white space or a character in it that no token has; give it in one line. It is not shown here.")
        return WRONG
    if secret.is_digest(text):
        notes.wrong(path, f"is {text}, which is how a token is called in messages; give the token itself.")
        return WRONG
    return secret.Secret(text) if text else ""


def _check_server(field, value, path, notes):
    checked = _check_text(field, value, path, notes)
    if checked in ("", WRONG):
        return checked
    if _is_server(checked) and not secret.is_like(checked):
        return checked
    # A text of this length may be a token in the wrong place, and a message would show it.
    quoted = describe(checked) if len(checked) <= _LONGEST else f"a text of {len(checked)} characters"
    notes.wrong(path, f"is {quoted}; a host name such as 'license.example.com' or an IP address is wanted, without a port.")
    return WRONG


def _is_server(text):
    """Whether it is an IPv4 or IPv6 address, or a host name of RFC 1123."""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        labels = text.split(".")
    # Only numbers between the dots: an address with a slip in it, since no top-level domain is a number.
    return len(text) <= _LONGEST and not labels[-1].isdigit() and all(_LABEL.fullmatch(label) for label in labels)


def _check_counts(field, value, path, notes):
    if not isinstance(value, dict):
        notes.wrong(path, f"is {describe(value)}; a mapping of name to count is wanted.")
        return WRONG
    made = {}
    for name, count in value.items():
        where = f"{path}:{name}"
        if not isinstance(name, str) or not name.strip():
            notes.wrong(where, f"is {describe(name)}; a name is wanted. Put it in quotes.")
            continue
        if secret.is_like(name):
            notes.wrong(where, _MISPLACED)
            continue
        checked = _check_int(field, count, where, notes)
        if checked is not WRONG:
            made[name.strip()] = checked
    return made


def _check_match_text(field, value, path, notes):
    checked = _check_text(field, value, path, notes)
    if checked == "":
        notes.wrong(path, "is empty and would match nothing; give a name, where * stands for any text.")
        return WRONG
    return checked


def _check_choice(field, value, path, notes):
    if isinstance(value, str) and value in field.choices:
        return value
    notes.wrong(path, f"is {describe(value)}, which is not a valid value.{did_you_mean(value, field.choices)}")
    return WRONG


def _check_mode(field, value, path, notes):
    """A word in any case, as functions by hand take it; true and false where it is on or off: YAML makes these of some words."""
    if isinstance(value, bool) and fields.ON in field.choices:
        return fields.ON if value else fields.OFF
    known = {choice.lower(): choice for choice in field.choices}
    return _check_choice(field, known.get(value.lower(), value) if isinstance(value, str) else value, path, notes)


def _check_pattern(field, value, path, notes):
    # The whole text: "$" alone lets a line break stand behind it. And a number of thousands of digits is no tile.
    if isinstance(value, str) and len(value) <= _LONGEST and re.fullmatch(field.pattern, value):
        return value
    notes.wrong(path, f"is {describe(value)}; {field.example} is wanted.")
    return WRONG


def _check_uuid(_, value, path, notes):
    if isinstance(value, str) and value.upper().startswith("MIG-"):
        notes.wrong(path, f"is {describe(value)}, which is a MIG device; the UUID of the whole GPU is wanted.")
        return WRONG
    if isinstance(value, str) and addresses.is_uuid(value):
        return value.strip()
    notes.wrong(path, f"is {describe(value)}; the UUID of a GPU is wanted, such as 'GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77'.")
    return WRONG


def _check_address(field, value, path, notes):
    if value == "" and field.default == "":
        return value
    if addresses.is_index(value):
        notes.wrong(path, f"is {describe(value)}: {_NO_INDEX}")
        return WRONG
    if isinstance(value, str) and re.search(r"[*?\[]", value):
        notes.wrong(path, f"is {describe(value)}, which is a pattern; the address of one GPU is wanted. {_PATTERNS}")
        return WRONG
    try:
        address, warning = addresses.normalize(value)
    except errors.PolicyError as err:
        notes.wrong(path, str(err))
        return WRONG
    if warning:
        notes.warn(path, warning)
    return address


def _check_device(field, value, path, notes):
    looks_like_uuid = isinstance(value, str) and (value.upper().startswith(("MIG-", "GPU-")) or addresses.is_uuid(value))
    return (_check_uuid if looks_like_uuid else _check_address)(field, value, path, notes)


_CHECKS = {
    "map": _check_map,
    "options": _check_map,
    "match": _check_match,
    "list": _check_list,
    "numbered": _check_numbered,
    "named": _check_named,
    "rules": _check_rules,
    "boards": _check_boards,
    "own": lambda field, value, path, notes: field.check(value, path, notes),
    "bool": _check_bool,
    "int": _check_int,
    "counts": _check_counts,
    "text": _check_text,
    "secret": _check_secret,
    "server": _check_server,
    "glob": _check_match_text,
    "choice": _check_choice,
    "mode": _check_mode,
    "pattern": _check_pattern,
    "uuid": _check_uuid,
    "address": _check_address,
    "device": _check_device,
}
