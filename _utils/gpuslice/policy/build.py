"""
From a checked pillar to a Policy: defaults, inheritance of the rules, and contradictions between keys.
"""

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice.policy import document
from gpuslice.policy.check import WRONG
from gpuslice.policy.check import check
from gpuslice.policy.fields import ADDRESS
from gpuslice.policy.fields import DISCOVERY
from gpuslice.policy.fields import INTEGRATION
from gpuslice.policy.fields import MANAGEMENT
from gpuslice.policy.fields import SLICING
from gpuslice.policy.fields import TEMPLATES
from gpuslice.policy.fields import Field
from gpuslice.policy.notes import Notes
from gpuslice.policy.notes import did_you_mean
from gpuslice.policy.notes import nearest
from gpuslice.policy.section import Written
from gpuslice.values import refuse_odd

_PREFIX = "containers_"

_ONE_AT_A_TIME = "a GPU has one technology at a time."
_CHOOSE = "Leave one of them out, or give each its GPUs by rules under devices."
_ONE_WAY = f"the slices of a GPU are shared in one way only, whatever profiles say. {_CHOOSE}"


class Rule(NamedTuple):
    """
    What holds for the GPUs that match.

    :ivar match: pci, uuid, model, vendor, name -> what it must be; empty in the host-wide rule, which matches every GPU.
    :ivar strategy: ``none``, ``auto`` or a technology, after inheritance.
    :ivar settings: technology -> its settings, after inheritance and as its section settles them: the pillar's own keys, where
        the section does not say otherwise.
    :ivar path: where it is written in the pillar.
    :ivar switched_off: technologies with ``enabled: false`` in writing, which strategy auto must not pick.
    :ivar silent: technology -> pillar path of the key that would say what is to be there and is not written.
    :ivar optional: whether a GPU that ``match`` names may be absent.
    :ivar beside: technologies of upper layers that share or tune what the strategy makes.
    :ivar share_with: names of those who may set the same GPUs.
    """

    match: dict
    strategy: str
    settings: dict
    path: str
    switched_off: tuple = ()
    silent: dict = {}
    optional: bool = False
    beside: tuple = ()
    share_with: tuple = ()

    @property
    def names_a_gpu(self):
        """Whether it names one GPU (pci, uuid, name) instead of describing a kind of GPU (model, vendor, a pattern)."""
        name = self.match.get("name", "*")
        return "pci" in self.match or "uuid" in self.match or not re.search(r"[*?]", name)


class Policy(NamedTuple):
    """
    A pillar that was read and found right.

    :ivar enabled: False means that nothing is done, whatever the rest says.
    :ivar method: ``auto`` or ``manual``; :ivar devices: addresses and UUIDs of ``manual``, in their normal form.
    :ivar vendor_detection: what finds the GPUs. :ivar auto_strategy: environment -> what strategy auto picks there.
    :ivar rules: the rules of single GPUs and models, in order. :ivar default: the rule of every other GPU.
    :ivar apply_strategy: ``auto``, ``force`` or ``skip``. :ivar on_failure: ``gpu`` or ``host``.
    :ivar reboot_required: whether a reboot may be scheduled.
    :ivar metrics: ``enabled``, ``textfile`` and ``interval_seconds``.
    :ivar health: as :func:`gpuslice.policy.health.health` makes it, {} where nothing is written.
    :ivar validation: :ivar health_check: :ivar boot: :ivar stop_units: :ivar unload_modules: as in the pillar.
    :ivar before: :ivar after: what is run before and after a change, as :func:`gpuslice.policy.hooks.hooks` makes it.
    :ivar when: ``now``, ``idle`` or ``window``; :ivar maintenance_window: as in the pillar, {} where none is written.
    :ivar integration: runtime, device_plugin, resource_limits.
    :ivar handed_out: technology of layer HAND_OUT -> its settings, where the pillar says who is handed what.
    :ivar warnings: ``path: sentence`` lines about what is allowed and probably not meant.
    :ivar digest: 16 hex digits that change exactly when the meaning of the policy does.
    """

    enabled: bool
    method: str
    devices: tuple
    vendor_detection: str
    auto_strategy: dict
    rules: tuple
    default: Rule
    apply_strategy: str
    on_failure: str
    reboot_required: bool
    validation: bool
    health_check: bool
    health: dict
    boot: bool
    metrics: dict
    stop_units: list
    unload_modules: list
    when: str
    maintenance_window: dict
    before: list
    after: list
    integration: dict
    handed_out: dict
    warnings: list
    digest: str

    @property
    def automatic(self):
        """Whether a rule leaves the choice of the technology to strategy auto."""
        return any(rule.strategy == "auto" for rule in (*self.rules, self.default))


def parse(pillar):
    """
    Read the pillar.

    :param pillar: the whole pillar, or just the four keys; every other top-level key is left to others, unless it looks like a
        misspelt one of the four.
    :return: :class:`Policy`. Raises :class:`errors.PolicyError` with every mistake at once in ``mistakes``.
    """
    notes = Notes()
    written = _top(pillar, notes)
    slicing = written[SLICING]
    layouts = _layouts(slicing, notes)
    host = _host(slicing, layouts, notes)
    rules = [_rule(each, _base(each, each["path"], layouts, notes) or host, notes) for each in slicing.get("devices", [])]
    templates = written[INTEGRATION].get(TEMPLATES) or {}
    default, *rules = (_templated(rule, templates) for rule in _sharing(slicing, host.rule, rules))
    _check_shadowed(rules, notes)
    discovery = _filled(document.top()[DISCOVERY], written[DISCOVERY])
    _check_discovery(discovery, rules, notes)
    handed = _handed_out(written[INTEGRATION], notes)
    around = _around(written, handed, notes)
    _check_timing(written[MANAGEMENT], notes)
    if notes.mistakes:
        number = len(notes.mistakes)
        raise errors.PolicyError(
            f"The pillar has {'a mistake' if number == 1 else f'{number} mistakes'}:\n- " + "\n- ".join(notes.mistakes),
            mistakes=notes.mistakes,
        )
    return _policy(discovery, _filled(document.top()[SLICING], slicing), written, default, tuple(rules), handed, around, notes)


def _policy(discovery, slicing, written, host, rules, handed, around, notes):
    integration = _filled(document.top()[INTEGRATION], written[INTEGRATION])
    management = _filled(document.top()[MANAGEMENT], written[MANAGEMENT])
    before, after = around
    # Jobs go before anything of the site's own, and come back when all of that is over.
    management |= {"before": [*before, *management["before"]], "after": [*management["after"], *after]}
    made = {
        "enabled": slicing["enabled"],
        "method": discovery["method"],
        "devices": tuple(discovery["devices"]),
        "vendor_detection": discovery["vendor_detection"],
        "auto_strategy": slicing["auto_strategy"],
        "rules": rules,
        "default": host,
        **management,
        "integration": {name: integration[name] for name in ("runtime", "device_plugin", "resource_limits")},
        "handed_out": handed,
    }
    text = json.dumps(made, sort_keys=True)
    return Policy(**made, warnings=notes.warnings, digest=hashlib.sha256(text.encode()).hexdigest()[:16])


def _sharing(slicing, host, rules):
    """The rules, the host-wide one first, with those who may set the same GPUs: where one says nothing, those of the host."""
    said = slicing.get("share_with", [])
    own = [each.get("share_with", said) for each in slicing.get("devices", [])]
    return [rule._replace(share_with=tuple(names)) for rule, names in zip((host, *rules), (said, *own), strict=True)]


def _templated(rule, templates):
    """A rule with the templates of the site among the settings of those who write files by them."""
    settings = dict(rule.settings)
    for word in kinds.STRATEGIES:
        if names := document.section(word).TEMPLATES:
            settings[word] = {**settings[word], TEMPLATES: {name: templates[name] for name in names if name in templates}}
    return rule._replace(settings=settings)


def _check_timing(written, notes):
    if written.get("when", "now") == "now" and not written.get("maintenance_window"):
        return
    # Here, so that the many who never write of it do not load it.
    from gpuslice.policy import timing

    timing.judge(_filled(document.top()[MANAGEMENT], written), notes)


def _handed_out(written, notes):
    """Technology -> settings, of those that hand out and of which the pillar says something."""
    filled, found = _filled(document.top()[INTEGRATION], written), {}
    for kind in kinds.HANDING_OUT:
        section = kinds.section(kind)
        if any(key in written for key in section.DECISIVE):
            found[kind.name] = section.handed_out(filled, written, notes)
            continue
        others = {TEMPLATES} if set(written.get(TEMPLATES) or ()).isdisjoint(section.TEMPLATES) else set()
        for key in (section.FIELD.fields.keys() & written.keys()) - others:
            notes.warn(f"{INTEGRATION}:{key}", f"has no effect: nothing is handed out without {' or '.join(section.DECISIVE)}.")
    return found


def _around(written, handed, notes):
    """(before, after): what those of layer TELL have run around a change. What the pillar has run itself comes on top of it."""
    filled, before, after = _filled(document.top()[INTEGRATION], written[INTEGRATION]) if handed else {}, [], []
    for kind in kinds.HANDING_OUT:
        if kind.name in handed:
            first, last = kinds.section(kind).around(filled, written[INTEGRATION])
            before, after = [*before, *first], [*last, *after]
    ours = {hook["function"]: hook["around"] for hook in (*before, *after)}
    for key in ("before", "after") if ours else ():
        for place, hook in enumerate(written[MANAGEMENT].get(key, ())):
            if hook.get("function") in ours:
                path = f"{MANAGEMENT}:{key}:{place}"
                same = f"{INTEGRATION}:{ours[hook['function']]}:drain"
                notes.warn(path, f"runs besides {same}, which does the same; leave one out.")
    return before, after


def _top(pillar, notes):
    # Salt's __pillar__ is a mapping without being a dict.
    if not isinstance(pillar, Mapping):
        text = "The pillar is not a mapping."
        raise errors.PolicyError(text, mistakes=[text])
    for key, value in pillar.items():
        if near := _meant(key, value):
            notes.wrong(key, f"is not a known key. Did you mean '{near}'?")
    found = {}
    for key, each in document.top().items():
        value = check(each, _possible(pillar[key], key), key, notes) if key in pillar else {}
        found[key] = {} if value is WRONG else value
    return found


def _meant(key, value):
    """The one of our keys that another key of the pillar was meant to be, "" for a key of somebody else."""
    if not isinstance(key, str) or key in document.top():
        return ""
    if near := nearest(key, document.top(), 0.85):
        return near
    # Without its first word the name may be another's, unless what stands below it is ours.
    shortened = nearest(key, [name.removeprefix(_PREFIX) for name in document.top()], 0.9)
    ours = document.top()[_PREFIX + shortened].fields if shortened else ()
    return _PREFIX + shortened if isinstance(value, Mapping) and any(name in ours for name in value) else ""


def _possible(value, path):
    """A value that can be looked into to its end. Raises errors.PolicyError for one that is no setting at all."""
    try:
        refuse_odd(value, path)
    except errors.PolicyError as err:
        raise errors.PolicyError(str(err), mistakes=[str(err)]) from err
    return value


def _filled(each, written):
    """What was written, over the defaults of a map."""
    made = {}
    for name, sub in each.fields.items():
        if sub.kind == "map":
            made[name] = _filled(sub, written.get(name, {}))
        else:
            made[name] = copy.deepcopy(written.get(name, sub.default))
    return made


# -- strategy ------------------------------------------------------------------------------------------------------


def _switched(scope, value):
    """The technologies with ``enabled: <value>`` in writing."""
    return [name for name, key in kinds.SECTIONS.items() if _is_on(name, scope.get(key, {})) is value]


def _is_on(word, written):
    """What ``enabled`` of a section says, None for nothing. Of what goes with all, a key that says what is wanted says it too."""
    if "enabled" in written or not kinds.goes_with_all(word):
        return written.get("enabled")
    return True if any(key in written for key in document.section(word).DECISIVE) else None


def _strategy(scope, path, inherited, notes):
    """
    The strategy of a scope: what it says; else the technology that it switches on; else the inherited one.

    Notes every ``enabled`` that contradicts it.
    """
    said = scope.get("strategy")
    switched_on = _switched(scope, True)
    if said in kinds.STRATEGIES:
        for other in (each for each in switched_on if each != said and not kinds.may_stand_on(each, said)):
            notes.wrong(_enabled(path, other), f"is true, but {path}:strategy is {said}; {_ONE_AT_A_TIME} {_CHOOSE}")
        chosen = said
    else:
        # What stands on another one is no strategy of its own; where auto is to choose, nobody knows what it would stand on.
        cutting = [each for each in switched_on if not kinds.goes_with_all(each)]
        alone = [each for each in cutting if said == "auto" or not _stands(each, switched_on)]
        for other in alone[1:]:
            notes.wrong(_enabled(path, other), f"is true, but so is {_enabled(path, alone[0])}; {_ONE_AT_A_TIME} {_CHOOSE}")
        chosen = said if said == "auto" or not alone else alone[0]
        chosen = chosen or inherited
    if chosen in _switched(scope, False):
        notes.wrong(
            _enabled(path, chosen),
            f"is false, but the strategy is {chosen}. Remove one of the two; 'strategy: none' leaves GPUs alone.",
        )
    return chosen


def _stands(word, others):
    return any(kinds.may_stand_on(word, other) for other in others)


def _beside(scope, chosen, inherited=()):
    """The technologies that a scope has stand on its strategy: those it switches on, and those inherited with the strategy."""
    on, off = _switched(scope, True), _switched(scope, False)
    return tuple(
        word for word in kinds.STRATEGIES
        if _goes_with(word, chosen) and (word in on or (word in inherited and word not in off))
    )  # fmt: skip


def _goes_with(word, chosen):
    return kinds.may_stand_on(word, chosen) if chosen in kinds.STRATEGIES else kinds.goes_with_all(word)


def _one_way(path, beside, notes):
    """Note technologies of one layer that are to stand on the same slices."""
    for place, word in enumerate(beside):
        for other in beside[:place]:
            if kinds.layer_of(word) == kinds.layer_of(other):
                notes.wrong(_enabled(path, word), f"is true, but so is {_enabled(path, other)}; {_ONE_WAY}")


def _enabled(path, technique):
    return f"{path}:{kinds.SECTIONS[technique]}:enabled"


class _Base(NamedTuple):
    """
    What holds where a rule says nothing: the words for the whole host, or a layout.

    :ivar scope: its sections as written, and whether GPUs are sliced at all; :ivar path: where they are written.
    :ivar rule: what they come to, for every GPU.
    """

    scope: dict
    path: str
    rule: Rule


def _host(slicing, layouts, notes):
    """What holds for the whole host, of which what it leaves out is as the layout that it names has it."""
    base = _base(slicing, SLICING, layouts, notes)
    if base is None:
        strategy = _strategy(slicing, SLICING, "none", notes)
        off, beside = tuple(_switched(slicing, False)), _beside(slicing, strategy)
        _one_way(SLICING, beside, notes)
        alone = _Base(slicing, SLICING, Rule({}, "none", {}, SLICING))
        return alone._replace(rule=_made_rule({}, strategy, alone, {}, SLICING, off, beside, notes))
    rule = _over(base, slicing, {}, SLICING, notes)
    if not _says_how(slicing):
        return base._replace(rule=rule)
    return _Base(_over_sections(base.scope, slicing), SLICING, rule)


def _layouts(slicing, notes):
    """
    Name -> :class:`_Base` of each layout. All are looked at; what is only odd about one counts where somebody names it, since
    many hosts may share a file of layouts.
    """
    found = {}
    named = {each.get("layout", "") for each in (slicing, *slicing.get("devices", []))}
    # What goes with every strategy is not of how a GPU is sliced, and holds for the host beside any layout.
    always = {key: slicing[key] for word, key in kinds.SECTIONS.items() if kinds.goes_with_all(word) and key in slicing}
    scope = {**always, "enabled": slicing.get("enabled", False)}
    nothing = _Base(scope, SLICING, Rule({}, "none", {}, SLICING, beside=_beside(always, "none")))
    for name, written in slicing.get("layouts", {}).items():
        path = f"{SLICING}:layouts:{name}"
        if not ("strategy" in written or _switched(written, True) or notes.mistaken(path)):
            notes.wrong(path, "has no strategy; give it one of them, or switch a technology on.")
        noted = Notes()
        found[name] = _Base(_over_sections(nothing.scope, written), path, _over(nothing, written, {}, path, noted))
        notes.take(noted, name in named)
    return found


def _over_sections(scope, written):
    """A scope with the words of another one over its own, key by key; whether GPUs are sliced at all the host says alone."""
    both = {key: {**scope.get(key, {}), **written.get(key, {})} for key in kinds.SECTIONS.values()}
    return {**both, "enabled": scope.get("enabled", False)}


def _base(written, path, layouts, notes):
    """The layout that a scope names; None where it names none, or one that is not there."""
    name = written.get("layout", "")
    if not name or name in layouts:
        return layouts.get(name)
    if layouts:
        why = f"is {name}, which is none of {SLICING}:layouts.{did_you_mean(name, layouts)}"
        notes.wrong(f"{path}:layout", why)
    elif not notes.mistaken(f"{SLICING}:layouts"):
        notes.wrong(f"{path}:layout", f"is {name}, and {SLICING}:layouts has no layouts. Write it there.")
    return None


def _rule(written, base, notes):
    path = written["path"]
    rule = _over(base, written, written["match"], path, notes)
    optional, named = written.get("optional", False), bool({"pci", "uuid", "device_id"} & rule.match.keys())
    if optional and not named:
        notes.warn(f"{path}:optional", "has no effect: only a GPU that match names by pci or uuid has to be there.")
    return rule._replace(optional=optional and named)


def _over(base, written, match, path, notes):
    """A rule: its own words, which stand over those of its base."""
    if "layout" in written and not _says_how(written):
        # What is wrong or odd about the layout is told of the layout.
        return base.rule._replace(match=match, path=path)
    strategy = _strategy(written, path, base.rule.strategy, notes)
    off = {name for name in base.rule.switched_off if name not in _switched(written, True)} | set(_switched(written, False))
    sections = [key for word, key in kinds.SECTIONS.items() if key in written and not kinds.goes_with_all(word)]
    if strategy == "none" and sections:
        notes.warn(path, f"has settings for {', '.join(sections)}, but its strategy is none, so they have no effect.")
    inherited = [word for word in base.rule.beside if strategy == base.rule.strategy or kinds.goes_with_all(word)]
    beside = _beside(written, strategy, inherited)
    if beside != base.rule.beside:
        _one_way(path, beside, notes)
    return _made_rule(match, strategy, base, written, path, tuple(sorted(off)), beside, notes)


def _says_how(written):
    """Whether a scope has words of its own on how GPUs are sliced."""
    return "strategy" in written or any(key in written for key in kinds.SECTIONS.values())


def _made_rule(match, strategy, base, written, path, off, beside, notes):
    settings, silent, scopes = {}, {}, {}
    for word in kinds.STRATEGIES:
        key, words = kinds.SECTIONS.get(word, ""), document.section(word)
        host, own = base.scope.get(key, {}), written.get(key, {})
        enabled = base.scope.get("enabled", False)
        scopes[word] = Written(host, own, base.path, path, word == strategy, enabled, word in beside)
        settings[word] = words.settle(_filled_section(words.FIELD, {**host, **own}), scopes[word], notes)
        if words.DECISIVE and not any(each in host or each in own for each in words.DECISIVE):
            silent[word] = f"{path}:{key}:{words.DECISIVE[0]}"
    for word in (strategy, *beside):
        if word in kinds.STRATEGIES:
            document.section(word).judge(settings[word], scopes[word], notes)
    return Rule(match, strategy, settings, path, off, silent, beside=beside)


def _filled_section(each, written):
    """What was written of a technology's settings, over their defaults; that it is switched on is no setting."""
    filled = _filled(each, written) if each else {}
    filled.pop("enabled", None)
    return filled


def section(technique, written):
    """
    Settings of a technology from arguments instead of a pillar, checked in the same way.

    :param technique: its word in the pillar; :param written: keys of its section.
    :return: only what was written. Raises :class:`errors.PolicyError` with every mistake; its paths begin at the section.
    """
    notes, key = Notes(), kinds.SECTIONS[technique]
    fields = {name: each for name, each in document.section(technique).FIELD.fields.items() if name != "enabled"}
    made = check(Field("map", fields=fields), _possible(written, key), key, notes)
    if notes.mistakes:
        raise errors.PolicyError(" ".join(notes.mistakes), mistakes=notes.mistakes)
    document.section(technique).check_asked(made)
    return made


# -- rules and discovery -------------------------------------------------------------------------------------------


def _check_shadowed(rules, notes):
    """A rule after one that matches at least the same GPUs can never win."""
    for place, rule in enumerate(rules):
        for earlier in rules[:place]:
            if all(key in rule.match and _within(rule.match[key], value) for key, value in earlier.match.items()):
                notes.wrong(
                    f"{rule.path}:match", f"can never win: {earlier.path} comes first and matches every GPU that it does."
                )
                break


def _within(wanted, more):
    """Whether a key of a match lets in nothing but what another one does: a text, or each of a list."""
    one, other = ({each.lower() for each in (value if isinstance(value, list) else [value])} for value in (wanted, more))
    return one <= other


def _check_discovery(discovery, rules, notes):
    devices, path = discovery["devices"], f"{DISCOVERY}:devices"
    if discovery["method"] == "auto":
        if devices:
            notes.wrong(path, "names GPUs, but the method is auto, which takes all. Set method to manual, or remove devices.")
        return
    if not devices:
        notes.warn(path, "is empty and the method is manual, so no GPU is touched.")
    if any(not re.fullmatch(ADDRESS, each) for each in devices):
        return
    for rule in rules:
        if rule.match.get("pci") and rule.match["pci"] not in devices:
            notes.warn(f"{rule.path}:match:pci", f"is not among {path}, so the rule has no effect.")
