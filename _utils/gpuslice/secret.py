"""
A text that must not be shown, such as the token of a licence server: as a value that keeps itself to itself, and as something
that is known by its looks wherever it was pasted by mistake.
"""

import re

_DIGEST = re.compile(r"sha256:[0-9a-f]{12}")
#: What a token is made of (RFC 7515 and relatives), without the slash, which is in every path.
_WORD = re.compile(r"[0-9A-Za-z_=+.-]{10,}")
#: How a JSON web token begins: base64 of '{"'.
_JWT = "eyJ"
_RUN = re.compile(r"[0-9A-Za-z+]{16,}")
_FEW = 3


def digest(text):
    """How a secret is called wherever it may be seen: ``sha256:`` and the first 12 hex digits of it."""
    # Here, since loading it costs more than all the rest of most runs that look, and few have a secret.
    import hashlib

    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def is_digest(text):
    """Whether a text is what :func:`digest` returns."""
    return _DIGEST.fullmatch(text) is not None


def is_like(text):
    """
    Whether something in a text looks like a token: a JSON web token, or a long word of digits, small and capital letters all
    mixed up. Names, units, UUIDs and addresses do not.
    """
    return any(_is_token(word) for word in _WORD.findall(text))


def redacted(text):
    """The text with its digest in the place of each word that looks like a token."""
    return _WORD.sub(lambda found: digest(found[0]) if _is_token(found[0]) else found[0], text)


def _is_token(word):
    if _JWT in word[:-_FEW]:
        return True
    kinds = (str.isdigit, str.islower, str.isupper)
    return any(all(sum(map(kind, run)) >= _FEW for kind in kinds) for run in _RUN.findall(word))


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
