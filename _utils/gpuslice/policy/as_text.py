"""
Plain data as the text of a YAML file in which every PCI address is quoted: YAML takes some for numbers and others not, and
whoever corrects one by hand should not have to know which.
"""

import json
import re

from gpuslice.policy.export import is_plain

#: What stands without quotes: a word, unless YAML takes it for something else.
_WORD = re.compile(r"[a-z]([a-z_-]*[a-z])?\Z")
_TAKEN = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")
#: How long a line may become that has more than one value in it.
_WIDTH = 110


def as_yaml(data, remarks=()):
    """
    A mapping as a YAML text.

    :param data: of mappings, lists, texts, whole numbers and truth values. :param remarks: sentences for comments at the top.
    """
    lines = [f"# {''.join(char if is_plain(char) or char in _HARMLESS else '?' for char in each)}" for each in remarks]
    return "\n".join([*lines, *(_block(data, "") if data else ["{}"])]) + "\n"


#: Beside what is plain: characters of our own sentences that begin nothing in any template language.
_HARMLESS = "'\"?!*"


def _block(data, indent):
    """The lines of a mapping or list that is not empty."""
    if isinstance(data, dict):
        return [line for key, value in data.items() for line in _entry(f"{indent}{_flow(key)}:", value, f"{indent}  ")]
    return [line for value in data for line in _element(value, indent)]


def _entry(head, value, indent):
    if _fits(value, head):
        return [f"{head} {_flow(value)}"]
    return [head, *_block(value, indent)]


def _element(value, indent):
    if _fits(value, indent):
        return [f"{indent}- {_flow(value)}"]
    first, *rest = _block(value, f"{indent}  ")
    return [f"{indent}- {first.lstrip()}", *rest]


def _fits(value, head):
    """Whether a value goes into the line that begins so. What has something in it that has something in it is put in lines."""
    if not isinstance(value, dict | list | tuple) or not value:
        return True
    inner = list(value.values()) if isinstance(value, dict) else list(value)
    flat = not any(isinstance(each, dict | list | tuple) and each for each in inner)
    return flat and len(head) + len(_flow(value)) < _WIDTH


def _flow(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text):
    """As it is, or in double quotes, with everything but ASCII in escapes that YAML knows."""
    if _WORD.match(text) and text not in _TAKEN:
        return text
    made = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", made)
