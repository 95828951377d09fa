"""
Data that a user points to in the place of writing it down: a file of the minion, one of Salt's file server, or its text.
"""

import os
from collections.abc import Mapping
from typing import Any

from gpuslice import errors
from gpuslice.values import describe
from gpuslice.values import refuse_odd

#: Longest file that is read, in bytes: a hundred times what any such file has.
_LONGEST = 2**20
_FORMS = "Give a path that begins with '/', a URL such as salt://mig.yaml, the text itself, or a mapping."


def read(source: Any, salt: Mapping, load: Any, unreadable: type[Exception]) -> Any:
    """
    The data behind a source.

    :param source: a mapping, the path of a file, a URL of Salt's file server (``salt://...``), or a YAML text.
    :param salt: ``__salt__`` of the loader file. :param load: reads a YAML text, and raises ``unreadable``.
    :return: what it holds; of a ConfigMap of Kubernetes what its one file holds. Raises errors.PolicyError.
    """
    found = source if isinstance(source, Mapping) else _loaded(_text(source, salt), load, unreadable)
    if isinstance(found, Mapping) and found.get("kind") == "ConfigMap":
        found = _loaded(_file_of(found), load, unreadable)
    refuse_odd(found, "source")
    return found


def _loaded(text: str, load: Any, unreadable: type[Exception]) -> Any:
    try:
        return load(text)
    except unreadable as err:
        words = " ".join(str(err).split())
        raise errors.PolicyError(f"What is given can't be read as YAML: {words}", todo="Correct it; nothing was done.") from err


def _text(source: Any, salt: Mapping) -> str:
    if not isinstance(source, str):
        raise errors.PolicyError(f"source is {describe(source)}.", todo=_FORMS)
    if source.startswith("salt://"):
        text = salt["cp.get_file_str"](source)
        if not isinstance(text, str):
            raise errors.PolicyError(f"The file server has no {source}.", todo="Put it there, or correct its name.")
        return text
    if source.startswith("/") and "\n" not in source:
        return _file(source)
    if "\n" not in source and ":" not in source:
        raise errors.PolicyError(f"source is {describe(source)}.", todo=_FORMS)
    return source


def _file(path: str) -> str:
    try:
        # A device or a pipe might never end.
        if not os.path.isfile(path):
            raise errors.PolicyError(f"This minion has no file {path}.", todo=_FORMS)
        if os.path.getsize(path) > _LONGEST:
            raise errors.PolicyError(f"{path} has more than {_LONGEST} bytes, as no such file has.", todo=_FORMS)
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as err:
        raise errors.PolicyError(f"{path} can't be read: {err}.", todo=_FORMS) from err


def _file_of(config_map: Mapping) -> str:
    files = config_map.get("data")
    texts = {name: each for name, each in files.items() if isinstance(each, str)} if isinstance(files, Mapping) else {}
    if len(texts) != 1 and "config.yaml" not in texts:
        why = f"The ConfigMap has {len(texts)} files in its data, so it can't be told which is meant."
        raise errors.PolicyError(why, todo="Give the one file alone.")
    return texts.get("config.yaml") or next(iter(texts.values()))
