"""
The words of a technology, for those that treat all alike: policy, JSON schema and records ask a section, and know none by name.

``section.py`` in the package of each technology has its own as ``SECTION``; :func:`gpuslice.kinds.section` finds it. Nothing that
reads or changes hardware belongs there, since a pillar is also checked where there is none.
"""

from typing import Any
from typing import ClassVar
from typing import NamedTuple

from gpuslice.policy.fields import Field
from gpuslice.policy.notes import Notes
from gpuslice.shape import LINE
from gpuslice.shape import Shape
from gpuslice.shape import anything
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import truth


class Written(NamedTuple):
    """
    What stands in the pillar about one technology, where a rule comes to its settings.

    :ivar host: keys of its section for the whole host, as written; :ivar own: those of the rule, {} in the host-wide one.
    :ivar host_path: :ivar path: pillar paths of the two, without the key of the section.
    :ivar chosen: whether the technology is the strategy of the rule; :ivar beside: whether it stands on what that makes.
    :ivar enabled: whether GPUs are sliced at all.
    """

    host: dict
    own: dict
    host_path: str
    path: str
    chosen: bool
    enabled: bool
    beside: bool = False


class Section:
    """The words of one technology. What it has nothing special of stays as it is here."""

    #: Its settings in the pillar, a :class:`gpuslice.policy.fields.Field`; None for one without any.
    FIELD: ClassVar[Field | None] = None
    #: Keys of which one says what is to be there. Where none is written, no default of the technology ends what is there already.
    DECISIVE: ClassVar[tuple[str, ...]] = ()
    #: Settings under which there is nothing of it, where nobody but us makes any; None where a GPU may have been found with some.
    NOTHING: ClassVar[dict | None] = None
    #: Settings under which what our record of a GPU tells goes, for where nothing tells any more how it was found.
    FORGOTTEN: ClassVar[dict | None] = None

    #: Names of the site's templates (``templates`` in the section on containers) by which the technology writes its files. Where
    #: it has any, its settings have ``templates``: name -> text, of those that the pillar has.
    TEMPLATES: ClassVar[tuple[str, ...]] = ()

    # -- in the pillar -------------------------------------------------------------------------------------------
    def settle(self, filled: dict, written: Written, notes: Notes) -> dict:
        """
        The settings that the pillar's words come to, as the technique takes them.

        :param filled: every key of the section but ``enabled``: the rule's, else the host's, else its default.
        :param written: :class:`Written`. :param notes: where mistakes and warnings go (:class:`gpuslice.policy.notes.Notes`).
        """
        return filled

    def judge(self, settings: dict, written: Written, notes: Notes) -> None:
        """Note what is wrong or odd about settled settings that are in effect: it is the strategy, or stands beside it."""

    def check_asked(self, settings: dict) -> None:
        """Raise errors.PolicyError for settings asked for by hand, of which only what was given is there, that can't be meant."""

    def missing(self, settings: dict, environment: str) -> str:
        """What strategy auto can't pick the technology without, as words that end "because ..."; "" when nothing is."""
        return ""

    def says_more(self, settings: dict) -> bool:
        """Whether the pillar says more than defaults, so that to pick the technology in the place of another means something."""
        defaults: dict[str, Any] = {name: each.default for name, each in self.FIELD.fields.items()} if self.FIELD else {}
        return any(value != defaults.get(name, value) for name, value in settings.items())

    def handed_out(self, filled: dict, written: dict, notes: Notes) -> dict:
        """
        The settings of a technology that hands out slices: its keys stand in the pillar's section on containers.

        :param filled: every key of that section; :param written: those that are written, its own among them.
        :param notes: as of :meth:`settle`.
        """
        return {}

    def around(self, filled: dict, written: dict) -> tuple[list[dict], list[dict]]:
        """
        What is run before and after a change that makes or ends slices or changes what the technology tells, as
        :func:`gpuslice.policy.hooks.hooks` makes it, with ``around``: the technology.

        :param filled: as of :meth:`handed_out`, and :param written: likewise.
        """
        return [], []

    def receivers(self, settings: dict) -> list[str]:
        """Names of those who are to be handed something by these settings."""
        return []

    # -- on record: shapes of plain data (gpuslice.shape), made when a record is read -----------------------------
    def layout(self) -> Shape:
        """The shape of a layout of its technique."""
        return anything

    def asked(self) -> Shape | None:
        """The shape of settings that can wait for a reboot, as a pillar or a function asks for them; None for none of these."""
        return None

    def beside(self) -> dict[str, Shape]:
        """Shapes of what settings that ask for an earlier layout can have beside it."""
        return {"reload": truth, "undo": truth, "created": listing(anything)}

    def settings(self) -> Shape:
        """The shape of settings that wait for a reboot; a layout is asked for by settings too."""
        earlier = record({"layout": self.layout()}, self.beside())
        asked = self.asked()
        return either(asked, earlier) if asked else earlier

    def steps(self) -> dict[str, dict[str, Shape]]:
        """Action -> shapes of the arguments of its steps from which an undo learns what was made."""
        return {}


class Telling(Section):
    """
    What those of layer TELL have in common.

    :cvar TOLD: shape of what is told by: settings of the pillar as they are on record, {} for nothing.
    """

    TOLD: ClassVar[Shape] = staticmethod(anything)
    NOTHING = {"told": {}}

    def receivers(self, settings: dict) -> list[str]:
        """The file, or that there is none."""
        return [settings["told"]["path"] or "labels"] if settings.get("told") else []

    def hook(self, function: str, kwargs: dict, timeout: int, **more: Any) -> dict:
        """
        One for :meth:`around`.

        :param timeout: seconds; :param more: ``light``: it runs where what is told in a file stays, and something else of the
            technology changes.
        """
        return {"function": function, "args": [], "kwargs": kwargs, "timeout": timeout, "around": self.DECISIVE[0], **more}

    def layout(self) -> Shape:
        """By what is told, and in which lines."""
        return record({"told": self.TOLD, "lines": listing(LINE)})

    def asked(self) -> Shape:
        """Settings of a pillar, or to go on as before."""
        return record({}, {"told": self.TOLD, "kept": truth, "quiet": truth, "why": table(LINE, LINE)})

    def beside(self) -> dict[str, Shape]:
        """In an undo somebody else has the file read."""
        return {**super().beside(), "quiet": truth}
