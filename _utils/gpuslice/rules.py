"""
What a change may do, and how whoever asks for it lets it do more: a pillar by its keys, somebody by hand by arguments.
"""

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import NamedTuple

from gpuslice import kinds
from gpuslice.model import Key
from gpuslice.model import Process

_MANAGEMENT = "containers_gpu_state_management"
_SHARE_WITH = "containers_gpu_slicing:share_with"
_STOP_UNITS, _UNLOAD, _STRATEGY = (f"{_MANAGEMENT}:{key}" for key in ("stop_units", "unload_modules", "apply_strategy"))


class Rules(NamedTuple):
    """
    What a change of one GPU may do.

    :ivar force: end also what is in use; :ivar awaits_reboot: this boot's reset was refused before, do not try again.
    :ivar stop_units: systemd units that may be stopped for the change, and are started again after it.
    :ivar unload_modules: kernel modules that may be unloaded for a reset, and are loaded again after it.
    :ivar paused: units that the layers below stop, or have stopped, for this change: they are started when it is over.
    :ivar awaits_units: False only queues the start of a unit: it may be ordered after the one who starts it.
    :ivar by_hand: whether a function by hand asks, and no pillar; :ivar takes_force: whether that function has ``force``.
    """

    force: bool = False
    awaits_reboot: bool = False
    stop_units: tuple[str, ...] = ()
    unload_modules: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    awaits_units: bool = True
    by_hand: bool = False
    takes_force: bool = False

    # -- how to let it do more, for the ends of messages -----------------------------------------------------------
    def stop_or_force(self) -> str:
        """What to do about processes that hold what has to go: a sentence."""
        if not self.by_hand:
            return f"Stop these, name their units in {_STOP_UNITS}, or {self.force_it()}."
        return f"Stop these{f', or {self.force_it()}, which ends them' if self.takes_force else ''}. {self.stopping_units()}."

    def force_it(self) -> str:
        """How what is in use is ended: words after "or"."""
        if not self.by_hand:
            return f"set {_STRATEGY} to force"
        return "say force=True" if self.takes_force else "end what is in the way"

    def stopping_units(self) -> str:
        """How units are stopped and started again for a change: words."""
        if self.by_hand:
            return f"That their units are stopped and started again only a pillar can permit ({_STOP_UNITS})"
        return f"name its unit in {_STOP_UNITS}"

    def allow_reload(self, module: str, argument: str) -> str:
        """
        How a driver may be reloaded: words that begin a sentence.

        :param argument: that of the functions by hand which permits it; those without ``force`` have none.
        """
        if not self.by_hand:
            return f"Add {module} to {_UNLOAD}"
        return f"Say {argument}=True" if self.takes_force else f"Only a pillar can permit that ({_UNLOAD})"

    def sharing(self) -> str:
        """How it is said that somebody else may set the same: words before the names."""
        return f"only a pillar can say so ({_SHARE_WITH}):" if self.by_hand else f"write {_SHARE_WITH}:"

    def key(self, section: str, name: str) -> str:
        """What a setting is called: the pillar's key below its section, by hand the argument of the same name."""
        return name if self.by_hand else f"{section}:{name}"

    def setting(self, section: str, name: str, value: object) -> str:
        """How something is set: words such as "set sriov:autoprobe to true", by hand "say autoprobe=True"."""
        return f"say {name}={value}" if self.by_hand else f"set {section}:{name} to {str(value).lower()}"

    # -- what it may do --------------------------------------------------------------------------------------------
    def may_stop_all(self, processes: Iterable[Process]) -> bool:
        """Whether each of these processes belongs to a unit that may be stopped."""
        return all(self.may_stop(process.unit) for process in processes)

    def may_stop(self, unit: str) -> bool:
        """Whether a unit may be stopped: it is allowed, or one of our own, which its technology starts again."""
        return unit in self.stop_units or kinds.is_ours(unit)


PLAIN = Rules()


@dataclass
class Options:
    """
    How to carry out a request.

    :ivar strategy: auto (only what is idle), force (also what is in use), skip (report, change nothing).
    :ivar stop_units: systemd units that may be stopped for a change; :ivar unload_modules: kernel modules, for a reset.
    :ivar agreed: PCI address -> names of those who may set the same GPU.
    :ivar on_failure: gpu (a failed step puts back its GPU and those of its group), host (every GPU of the change).
    :ivar passing: what is made goes again at once (a trial): no generation, and nothing that a boot would bring back.
    :ivar by_hand: :ivar takes_force: as of :class:`Rules`.
    :ivar when: now, idle (what is in use waits for its users), window (what disrupts waits for ``window``, a
        :class:`gpuslice.window.Window`).
    :ivar before: what the site has run before a change, and :ivar after: after it, as ``policy/hooks`` makes it;
    :ivar call: calls a function of Salt by its name, arguments, and arguments by name; None where nobody can.
    :ivar who: who asks, for lock, journal and history; :ivar jid: Salt's job id; :ivar progress: called with a line a step.
    :ivar measure: called with ``before`` and ``after`` at the bounds of a change, for what is counted by slice.
    :ivar events: called with (kind, fields) when a change begins, a step is done, and when it ends; see ``change/telling``.
    """

    strategy: str = "auto"
    on_failure: str = "gpu"
    validation: bool = True
    health_check: bool = True
    passing: bool = False
    who: str = "gpuslice"
    jid: str = ""
    progress: Callable[[str], object] | None = None
    events: Callable[[str, dict], object] | None = None
    measure: Callable[[str], object] | None = None
    when: str = "now"
    # Not by its class: a run without one does not load it.
    window: Any = None
    before: Iterable[dict] = ()
    after: Iterable[dict] = ()
    call: Callable[[str, list, dict], object] | None = None

    stop_units: tuple[str, ...] = ()
    unload_modules: tuple[str, ...] = ()
    agreed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: False only queues the start of units that were stopped: they may be ordered after the one who starts them.
    awaits_units: bool = True
    by_hand: bool = False
    takes_force: bool = False
    #: Key -> rules to note with its verified layout, where these are not the ones of this change: a boot keeps them.
    rules_noted: dict[Key, dict] = field(default_factory=dict)

    def rules(self, awaits_reboot: bool = False) -> Rules:
        """What a technique may do."""
        return Rules(
            self.strategy == "force", awaits_reboot, tuple(self.stop_units), tuple(self.unload_modules),
            awaits_units=self.awaits_units, by_hand=self.by_hand, takes_force=self.takes_force,
        )  # fmt: skip
