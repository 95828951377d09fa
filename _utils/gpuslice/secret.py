"""
A text that must not be shown, such as the token of a licence server.
"""

import hashlib
import re

_DIGEST = re.compile(r"sha256:[0-9a-f]{12}")


def digest(text):
    """How a secret is called wherever it may be seen: ``sha256:`` and the first 12 hex digits of it."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def is_digest(text):
    """Whether a text is what :func:`digest` returns."""
    return _DIGEST.fullmatch(text) is not None


class Secret(str):
    """
    A text that only :meth:`reveal` gives away.

    As a string it *is* its digest: whatever prints, formats, joins, compares, logs or serialises it (``json`` and ``msgpack``
    look into a string past every method of its class) meets nothing else. So it may stand in settings that are written to the
    journal and compared with what comes back from there. Two are equal when their texts are; a copy by ``pickle`` is the digest.

    :param text: what is to be kept; of another secret, the same.
    """

    __slots__ = ("_text",)

    def __new__(cls, text):
        text = text.reveal() if isinstance(text, Secret) else text
        made = super().__new__(cls, digest(text))
        made._text = text
        return made

    def reveal(self):
        """The text itself."""
        return self._text

    def __repr__(self):
        return str(self)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return (str, (str(self),))
