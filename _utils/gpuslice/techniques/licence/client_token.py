"""
The client configuration token of a guest with vGPUs: a file of ours among those that NVIDIA's licence daemon reads.

The token is a secret. Outside of this file it is a digest (:mod:`gpuslice.secret`), and its text is looked up where it is needed:
what the pillar said in this run, our file, and a copy of the token before it, which is there for whoever undoes a change.
"""

import logging

from gpuslice import errors
from gpuslice import secret

log = logging.getLogger(__name__)

FOLDER = "/etc/nvidia/ClientConfigToken"
_OURS = "client_configuration_token_gpu-slicing"
PATH = f"{FOLDER}/{_OURS}.tok"
#: The daemon reads files that end in .tok, so copies end otherwise; the digest in their names tells them apart.
_KEPT = ".previous"
#: How files end that are being written, see :meth:`gpuslice.host.base.Host.store_write`.
_TEMPORARY = ".new"
#: The vendor's guide to client licensing wants it so: all for the owner, and everybody may read it.
_MODE = 0o744
_KEPT_MODE = 0o600


def read(host, gpu, path):
    """
    Text of a file, None where there is none.

    :param gpu: for the message. :raises errors.StateDirUnusable: it is there and can't be read.
    """
    try:
        text = host.read(path)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise errors.StateDirUnusable(f"Could not read {path}: {err.strerror}.", gpu.address, "Run as root.") from err
    return f"{text}\n" if text else ""


def store(host, gpu, path, text, mode=0o644):
    """
    Write a file, or remove it where ``text`` is None.

    :param gpu: for the message. :raises errors.StateDirUnusable: it can't be done.
    """
    try:
        host.store_remove(path) if text is None else host.store_write(path, text, mode)
    except OSError as err:
        raise errors.StateDirUnusable(
            f"Could not {'remove' if text is None else 'write'} {path}: {err.strerror}.",
            gpu.address,
            "Run as root, free space or mend its permissions.",
        ) from err


class ClientToken:
    """The token of one guest."""

    def __init__(self, host):
        self._host = host
        self._known = {}

    def digest(self, gpu):
        """What is in our file, "" where there is none."""
        text = self._text(gpu, PATH)
        return secret.digest(text) if text else ""

    def _text(self, gpu, path):
        return (read(self._host, gpu, path) or "").strip()

    def others(self):
        """Names of tokens that are not ours."""
        names = self._host.listdir(FOLDER)
        return tuple(name for name in names if name.endswith(".tok") and f"{FOLDER}/{name}" != PATH)

    def learn(self, token):
        """Remember a :class:`gpuslice.secret.Secret` for the time when its digest is to be written."""
        self._known[str(token)] = token

    def has(self, gpu, digest):
        """Whether the text of this digest is known or in a file."""
        return self._secret(gpu, digest) is not None

    def _secret(self, gpu, digest):
        if digest not in self._known:
            for path in (PATH, *self._copies()):
                if text := self._text(gpu, path):
                    self.learn(secret.Secret(text))
        return self._known.get(digest)

    def kept(self):
        """Paths of all that is kept for an undo, or that a crash left."""
        return [*self._copies(), *self._half_written()]

    def _copies(self):
        names = self._host.listdir(FOLDER)
        return [f"{FOLDER}/{name}" for name in names if name.startswith(f"{_OURS}.") and name.endswith(_KEPT)]

    def _half_written(self):
        """What a crash left of a file of ours that was being written: a token in it is a secret too."""
        names = self._host.listdir(FOLDER)
        return [f"{FOLDER}/{name}" for name in names if name.startswith(f"{_OURS}.") and name.endswith(_TEMPORARY)]

    def write(self, gpu, digest):
        """
        Make our file the token with this digest, "" for none; the one before is kept.

        :raises errors.StateDirUnusable: a file can't be written, or the text is nowhere.
        """
        old = self._text(gpu, PATH)
        new = self._secret(gpu, digest) if digest else None
        if digest and new is None:
            raise errors.StateDirUnusable(f"The client token {digest} is in no file any more.", gpu.address, "Give it again.")
        copy = f"{FOLDER}/{_OURS}.{secret.digest(old).partition(':')[2]}{_KEPT}" if old else ""
        # A crash at any point must leave the old one in a file, and the new one too if it comes from a copy.
        if old:
            store(self._host, gpu, copy, old, _KEPT_MODE)
        store(self._host, gpu, PATH, new and new.reveal(), _MODE)
        self._forget(path for path in self.kept() if path != copy)

    def _forget(self, paths):
        """Remove copies that are older than the last change. One that stays is tried again with the next."""
        for path in paths:
            try:
                self._host.store_remove(path)
            except OSError as err:
                log.warning("the former client token in %s can't be removed: %s", path, err.strerror)
