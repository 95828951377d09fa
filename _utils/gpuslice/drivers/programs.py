"""
Programs of schedulers that are asked for an answer: what it means where none comes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gpuslice import errors
from gpuslice.host.base import Completed
from gpuslice.host.base import Host


class Program(NamedTuple):
    """
    A program that is asked.

    :ivar name: as it is called; :ivar install: how it is had, as a sentence; :ivar look: what to do where it does not end, as
        words that "then run again" follows.
    """

    name: str
    install: str
    look: str


def ask(host: Host, program: Program, arguments: Sequence[str], wanted: str, seconds: float, given: str = "") -> Completed:
    """
    What a program answers, whether it succeeds or not. Its words are not the host's: these have the whole command line.

    :param wanted: what it is asked, as words that "was asked" goes before; :param seconds: that it may take.
    :param given: its standard input. :raises errors.ToolMissing: it is not installed; errors.ToolHangs: it did not end;
        errors.ToolFailed: it can't be started.
    """
    try:
        return host.run([program.name, *arguments], timeout=seconds, given=given)
    except errors.ToolMissing as err:
        raise errors.ToolMissing(f"{program.name} was to be asked {wanted}, and is not installed.", todo=program.install) from err
    except errors.ToolHangs as err:
        raise errors.ToolHangs(
            f"{program.name} was asked {wanted}, and did not end within {seconds:g} s.", todo=f"{program.look}, then run again."
        ) from err
    except errors.ToolFailed as err:
        why = getattr(err.__cause__, "strerror", None)
        raise errors.ToolFailed(
            f"{program.name} was asked {wanted}, and could not be started{f': {why}' if why else ''}.",
            todo="Mend that, then run again.",
        ) from err
