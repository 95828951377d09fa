"""
What is wrong with a description: values looked at one by one, and every mistake noted with the place where it stands.
"""

import re

#: A PCI address as people write it; the domain has eight digits where NVIDIA's tools show it.
ADDRESS = re.compile(r"(?:[0-9a-f]{4}|[0-9a-f]{8}):[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
NUMBER = (int, float)


def normal_address(text):
    """A PCI address in the kernel's form (four-digit domain, lower case); the text itself when it is none."""
    text = str(text).strip().lower()
    if not ADDRESS.fullmatch(text):
        return text
    domain, _, rest = text.partition(":")
    return f"{domain[-4:] if len(domain) == 8 and domain.startswith('0000') else domain}:{rest}"


class Mistakes(list):
    """Collects what is wrong with a description, as 'path: what is wrong'."""

    def note(self, path, what):
        """Remember that ``what`` is wrong at ``path``."""
        self.append(f"{path}: {what}")

    def mapping(self, value, path, known):
        """``value`` if it is a mapping with known keys only; {} with mistakes noted otherwise."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.note(path or "(top)", "must be a mapping")
            return {}
        for key in value:
            if key not in known:
                self.note(f"{path}.{key}".lstrip("."), "unknown key" + nearest(key, known))
        return value

    def listing(self, value, path):
        """``value`` if it is a list; [] with a mistake noted otherwise."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.note(path, "must be a list")
            return []
        return value

    def take(self, mapping, path, key, kind, default, choices=()):
        """The entry ``key`` if it has that type (and is one of the choices); ``default`` where it is absent or wrong."""
        value = mapping.get(key)
        if value is None:
            return default
        where = f"{path}.{key}".lstrip(".")
        wrong_number = isinstance(value, bool) and kind is not bool
        if not isinstance(value, kind) or wrong_number:
            hint = " (write it in quotes)" if kind is str and isinstance(value, NUMBER) else ""
            self.note(where, f"{value!r} is not {_kind_words(kind)}{hint}")
            return default
        if choices and value not in choices:
            self.note(where, f"{value!r} is none of {', '.join(str(c) for c in choices)}{nearest(value, choices)}")
            return default
        return value


def _kind_words(kind):
    if kind == NUMBER:
        return "a number"
    return {str: "a text", int: "a whole number", bool: "true or false"}[kind]


def nearest(word, known):
    """``, did you mean 'x'?`` for a word that resembles a known one, "" for others."""
    import difflib

    found = difflib.get_close_matches(str(word), [str(k) for k in known], 1)
    return f", did you mean '{found[0]}'?" if found else ""
