"""
MIG profile names: their grammar, and how a name that a user wrote is found in the table of a GPU.

A name is ``[<C>c.]<G>g.<GB>gb[+attribute[,attribute]|-me][@start]``. ``3g.40gb`` is a GPU instance of three compute slices,
``1c.3g.40gb`` a compute instance of one slice inside such an instance, and ``@4`` pins the GPU instance to the memory slice
where it begins. Nothing here touches hardware.

A driver update can rename profiles (GB200: ``1g.24gb`` and ``1g.23gb``). A name therefore means compute slices, attributes and a
share of the memory, and is found by these where the driver does not have it literally.
"""

import math
import re
from dataclasses import dataclass
from dataclasses import replace
from functools import lru_cache

from gpuslice import errors

#: What may follow ``+``; the only attribute that can be taken away is ``-me``.
ATTRIBUTES = ("gfx", "me", "me.all")
#: The grammar as a regular expression that JSON Schema's dialect understands too. "MIG " is how some tools print a name.
PATTERN = (
    r"^(?:[Mm][Ii][Gg] )?(?:([1-9][0-9]*)[Cc]\.)?([1-9][0-9]*)[Gg]\.(0|[1-9][0-9]*)[Gg][Bb]"
    r"(?:\+([A-Za-z.]+(?:,[A-Za-z.]+)*)|(-[Mm][Ee]))?(?:@(0|[1-9][0-9]*))?$"
)
_NAME = re.compile(PATTERN)
#: How much the memory that a driver counts a board with differs from one version to the next (GB200: 186 and 189 GB).
_COUNTED = 0.025


@dataclass(frozen=True)
class ProfileName:
    """
    The parts of a profile name.

    :ivar ci_slices: compute slices of a compute instance (the ``1c.`` part), None where the name has no such part.
    :ivar slices: compute slices of the GPU instance. :ivar gb: its nominal memory in GB, as in the name.
    :ivar attributes: sorted, from ``gfx``, ``me``, ``me.all``; or ``("-me",)``.
    :ivar start: memory slice where the GPU instance is pinned, None when it may lie anywhere.
    """

    ci_slices: int | None
    slices: int
    gb: int
    attributes: tuple = ()
    start: int | None = None

    def __str__(self):
        part = "" if self.ci_slices is None else f"{self.ci_slices}c."
        pin = "" if self.start is None else f"@{self.start}"
        return f"{part}{self.slices}g.{self.gb}gb{self._suffix()}{pin}"

    def _suffix(self):
        if not self.attributes:
            return ""
        return "-me" if self.attributes == ("-me",) else "+" + ",".join(self.attributes)

    @property
    def whole(self):
        """Whether it names a GPU instance as a whole: it has no ``c.`` part, or one that fills the instance."""
        return self.ci_slices is None or self.ci_slices == self.slices

    @property
    def gpu_instance(self):
        """The name of its GPU instance: without the ``c.`` part and without a pin."""
        return replace(self, ci_slices=None, start=None)

    @property
    def canonical(self):
        """The shortest spelling of the same thing, without a pin: ``3c.3g.40gb`` is ``3g.40gb``."""
        return replace(self, ci_slices=None if self.whole else self.ci_slices, start=None)


def parse(text):
    """
    Take a profile name apart.

    :param text: the name, in upper or lower case, with or without a leading ``MIG``.
    :return: :class:`ProfileName`. Raises ValueError with a sentence that says what is wrong.
    """
    if not isinstance(text, str):
        raise ValueError(f"a profile is a text like '3g.40gb', not {text!r}")
    return _parse(text)


@lru_cache(maxsize=1024)
def _parse(text):
    found = _NAME.match(text.strip())
    if not found:
        raise ValueError(f"'{text}' is not a profile name; write it like '1g.10gb', '1g.10gb+me', '1c.3g.40gb' or '3g.40gb@4'")
    ci_slices, slices, gb, plus, minus, start = found.groups()
    if ci_slices and int(ci_slices) > int(slices):
        raise ValueError(f"'{text}' asks for a compute instance of {ci_slices} slices in a GPU instance that has {slices}")
    attributes = ("-me",) if minus else _attributes(text, plus)
    return ProfileName(_number(ci_slices), int(slices), int(gb), attributes, _number(start))


def _number(text):
    return None if text is None else int(text)


def _attributes(text, plus):
    words = plus.lower().split(",") if plus else []
    for word in words:
        if word not in ATTRIBUTES:
            near = _near(word, ATTRIBUTES)
            hint = f"; did you mean '+{near[0]}'?" if near else f"; there are +{', +'.join(ATTRIBUTES)} and -me"
            raise ValueError(f"'{text}' has the unknown attribute '{word}'{hint}")
    if len(set(words)) != len(words):
        raise ValueError(f"'{text}' names an attribute twice")
    return tuple(sorted(words))


def _near(text, words, least=0.6):
    """The one of these words that is most like a text, in a list; [] for none."""
    # Here, so that a run without a mistake does not load it.
    from difflib import get_close_matches

    return get_close_matches(text, words, 1, least)


def resolve(name, table, aliases, gpu=""):
    """
    Find a profile name in the table of a GPU.

    :param name: profile name as the user wrote it; a pin is ignored here.
    :param table: :class:`gpuslice.catalog.mig.MigTable` of the GPU.
    :param aliases: ``{name that another driver version gives: name in the catalog}``; the table may have either.
    :param gpu: PCI address, for the message.
    :return: ``(GiProfile, CiProfile or None)``; None where the name means the whole GPU instance. Raises
        :class:`errors.ProfileMismatch` for a name that this GPU does not have or that is no profile name at all.
    """
    try:
        wanted = parse(name)
    except ValueError as err:
        raise errors.ProfileMismatch(_sentence(err), gpu, _offer(table)) from err
    instance = _gpu_instance(wanted.gpu_instance, table, aliases)
    if instance is None:
        near = _nearest(wanted, table)
        hint = f" The nearest one is {near}." if near else ""
        raise errors.ProfileMismatch(f"The profile {wanted.gpu_instance} does not exist on this GPU.", gpu, _offer(table) + hint)
    if wanted.whole:
        return instance, None
    return instance, _compute_instance(wanted, instance, gpu)


def _gpu_instance(wanted, table, aliases):
    """The profile that is meant by a name: of this driver, of another version that the catalog knows, or of any other."""
    named = {_parsed(profile.name): profile for profile in table.profiles}
    if wanted in named:
        return named[wanted]
    for other, ours in (aliases or {}).items():
        pair = (parse(other), parse(ours))
        if wanted in pair:
            found = named.get(pair[0]) or named.get(pair[1])
            if found:
                return found
    return _same_share(wanted, table)


def _parsed(name):
    """The name of a GPU instance taken apart, None for a compute instance's and for a driver's name of a form of its own."""
    try:
        found = parse(name)
    except ValueError:
        return None
    return found.gpu_instance if found.ci_slices is None else None


def _same_share(wanted, table):
    """
    The profile that has the compute slices and the attributes of a name, and the share of the memory that its GB are: drivers
    count the memory of a board a little differently from version to version, and their names follow.
    """
    whole = next((_parsed(profile.name) for profile in table.profiles if profile.size == table.slots), None)
    if whole is None:
        return None
    fitting = []
    for profile in table.profiles:
        name = _parsed(profile.name)
        if name is None or (name.slices, name.attributes) != (wanted.slices, wanted.attributes):
            continue
        share = whole.gb * profile.size / table.slots
        if _rounded(share * (1 - _COUNTED)) <= wanted.gb <= _rounded(share * (1 + _COUNTED)):
            fitting.append((abs(name.gb - wanted.gb), profile.enum, profile))
    return min(fitting)[2] if fitting else None


def _rounded(gigabytes):
    return math.floor(gigabytes + 0.5)


def renamed(instances, table, aliases):
    """
    The instances of an earlier layout under the names that a driver gives them now.

    :param instances: ``[[profile, start, [[compute instance, start]]]]``; :param aliases: as of :func:`resolve`.
    :param table: :class:`gpuslice.catalog.mig.MigTable` of the GPU.
    :return: the same with the table's names. What the GPU does not have keeps its name, so that an error can tell it.
    """
    return [_renamed(instance, table, aliases) for instance in instances]


def _renamed(instance, table, aliases):
    name, start, cis = instance
    wanted = _parsed(name)
    found = _gpu_instance(wanted, table, aliases) if wanted else None
    if found is None:
        return [name, start, cis]
    return [found.name, start, [[_ci_name(ci, found), ci_start] for ci, ci_start in cis]]


def _ci_name(name, instance):
    try:
        wanted = parse(name)
    except ValueError:
        # One of those that recent drivers have beside the plain ones.
        return name
    if wanted.whole:
        return instance.name
    found = plain_ci(instance, wanted.ci_slices)
    return found.name if found else name


def plain_ci(instance, slices):
    """
    The compute instance profile of so many slices, None for none. Drivers list some sizes twice (a variant with a higher enum);
    the plain one is what every driver can create.
    """
    return min((ci for ci in instance.cis if ci.slices == slices), key=lambda ci: ci.enum, default=None)


def _compute_instance(wanted, instance, gpu):
    if found := plain_ci(instance, wanted.ci_slices):
        return found
    sizes = ", ".join(ci.name for ci in sorted(instance.cis, key=lambda ci: ci.slices))
    raise errors.ProfileMismatch(
        f"The GPU instance profile {instance.name} has no compute instance of {wanted.ci_slices} slices.",
        gpu,
        f"It has {sizes or 'only the one that fills it'}.",
    )


def _sentence(err):
    text = str(err)
    return text[:1].upper() + text[1:] + ("" if text.endswith("?") else ".")


def _offer(table):
    names = ", ".join(profile.name for profile in table.profiles)
    return f"It has {names}." if names else "It has no MIG profiles."


def _nearest(wanted, table):
    """The table's name with the same number of slices and the closest memory, else the most similar text; "" for none."""
    same = [name for name in map(_parsed, (p.name for p in table.profiles)) if name and name.slices == wanted.slices]
    if same:
        return str(min(same, key=lambda name: (name.attributes != wanted.attributes, abs(name.gb - wanted.gb))))
    near = _near(str(wanted.gpu_instance), [profile.name for profile in table.profiles], 0)
    return near[0] if near else ""


def wishes(entries, table, aliases, compute_instances=1, gpu=""):
    """
    Say which GPU instances, with which compute instances in each, a list of profiles asks for.

    A name without a ``c.`` part is a GPU instance with ``compute_instances`` equal compute instances. Names with a ``c.`` part
    are compute instances: they are packed into as few GPU instances of their profile as possible, the largest first; those
    with the same pin share one GPU instance.

    :param entries: ``[(profile name without a pin, start or None, count)]``, as :func:`.section.entries` returns.
    :param table: :class:`gpuslice.catalog.mig.MigTable` of the GPU.
    :param aliases: as of :func:`resolve`.
    :param compute_instances: compute instances in each GPU instance that is asked for as a whole; 1 is the one that fills it.
    :param gpu: PCI address, for messages.
    :return: list of :class:`gpuslice.techniques.mig.placement.Wish` with the table's names.
    :raises errors.ProfileMismatch: there is no such profile.
    """
    # Imported here because the grammar above serves users of this module that never plan anything.
    from gpuslice.techniques.mig.placement import Wish

    found, parts = [], {}
    for name, start, count in entries:
        instance, ci = resolve(name, table, aliases, gpu)
        if ci is None:
            found += [Wish(instance.name, start, _equal_parts(instance, compute_instances, gpu))] * count
        else:
            parts.setdefault(instance.name, []).extend([(ci, start)] * count)
    for instance_name, wanted in parts.items():
        instance = table.profile(instance_name)
        found += [Wish(instance_name, start, _ci_tuple(cis)) for start, cis in _pack(instance, wanted, gpu)]
    return found


def _ci_tuple(cis):
    return tuple((ci.name, None) for ci in cis)


def _equal_parts(instance, number, gpu):
    """The ``cis`` of a wish for ``number`` equal compute instances: the largest profile of which so many fit."""
    if number == 1:
        return ()
    fitting = [ci for ci in instance.cis if ci.count >= number]
    if not fitting:
        most = max((ci.count for ci in instance.cis), default=1)
        raise errors.ProfileMismatch(
            f"{number} compute instances were wanted in each GPU instance {instance.name}, which holds {most} at most.",
            gpu,
            f"Set compute_instance_count to {most} or less, or choose a larger profile.",
        )
    best = min(fitting, key=lambda ci: (-ci.slices, ci.enum))
    return ((best.name, None),) * number


def _pack(instance, wanted, gpu):
    """First fit decreasing: ``[(start or None, [CiProfile])]``, pinned GPU instances first, then those that lie anywhere."""
    bins = []
    for ci, start in sorted(wanted, key=lambda item: (item[1] is None, item[1] or 0, -item[0].slices)):
        home = next((b for b in bins if start in (None, b[0]) and _fits(instance, [*b[1], ci])), None)
        if home:
            home[1].append(ci)
            continue
        if start is not None and any(b[0] == start for b in bins):
            raise errors.ProfileMismatch(
                f"The compute instances pinned to {instance.name}@{start} do not fit into one GPU instance: it has"
                f" {instance.slices} compute slices.",
                gpu,
                "Pin some of them elsewhere, or ask for fewer.",
            )
        bins.append((start, [ci]))
    return bins


def _fits(instance, cis):
    """Whether these compute instances can lie in one GPU instance side by side: exact, by trying every legal start."""
    if sum(ci.slices for ci in cis) > instance.slices:
        return False
    if any(cis.count(ci) > ci.count for ci in cis):
        return False
    return _seat(sorted(cis, key=lambda ci: -ci.slices), 0)


def _seat(cis, taken):
    if not cis:
        return True
    for start in cis[0].starts:
        mask = ((1 << cis[0].slices) - 1) << start
        if not taken & mask and _seat(cis[1:], taken | mask):
            return True
    return False
