"""
Who else sets what this engine sets: other tools, units and boot scripts that slice the GPUs of a host, by what they leave.

Files and folders only: no program is run and no device opened. A look costs a few listings and the files of what systemd starts,
so that the grain and every run take one. What only processes tell is looked for where something is to change: there is a process
for everything, and a host may have many thousands.
"""

import fnmatch
import json
import re
from functools import cached_property
from typing import NamedTuple

from gpuslice import kinds
from gpuslice.catalog import owners as known
from gpuslice.inventory.enabled import Units
from gpuslice.printable import printable
from gpuslice.secret import redacted

# Expressions are texts here: each run loads this module, and few meet a text for which one has to be made.
_ADDRESS = r"(?<![0-9a-fA-F:.])(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7](?![0-9a-fA-F])"
_DEVICES = "/sys/bus/pci/devices"
#: Units of our own begin so.
_OURS = ("gpu-slicing", "gpuslicing")
#: Where the programs of packages are: those that somebody wrote for this host lie elsewhere.
_OF_PACKAGES = ("/usr/bin/", "/usr/sbin/", "/usr/lib", "/bin/", "/sbin/", "/lib", "/dev/", "/sys/", "/proc/", "/run/")
_PATH = r"(?<![\w.$}])/[\w.+@-]+(?:/[\w.+@-]+)+"
#: No script is longer, in bytes; of one file no more are read.
_LONGEST, _MOST = 65536, 8
#: Characters of a line that are looked at: the expressions take the longer for each the more there are.
_WIDEST = 2048
#: A comment behind a command, which has no quotes that could be those of the command.
_REMARK = r"(?<=\s)#[^\n'\"`]*$"
#: What a unit only tells.
_TOLD = ("Description", "Documentation")
#: The name that the kernel keeps of a program, at most.
_COMM = 15
_GATE = r"(?i)\bDynamicMIG=(true|false)\b"
_MANAGED = r"(?i)\b(ansible|salt|saltstack|puppet|chef|cloud-init)\b"


class Owner(NamedTuple):
    """
    Somebody else who sets what is sliced.

    :ivar name: as users type it: that of a tool, of a unit, or the path of a file; :ivar label: who that is.
    :ivar sets: technologies, by the names of :mod:`gpuslice.kinds`; :ivar vendors: of whose GPUs.
    :ivar gpus: PCI addresses of those that it is about, None for all. :ivar seen: how it was seen, as clauses.
    :ivar todo: how it is stopped, as an imperative; :ivar never: as of :class:`gpuslice.catalog.owners.Row`.
    :ivar unsure: what can't be told of it, as a sentence; "" for nothing.
    """

    name: str
    label: str
    sets: tuple[str, ...]
    vendors: tuple[str, ...]
    gpus: tuple[str, ...] | None
    seen: tuple[str, ...]
    todo: str
    never: str = ""
    unsure: str = ""

    def owns(self, technique, gpu):
        """Whether it sets a technology (its name) of a GPU, as :class:`gpuslice.model.Gpu`."""
        return technique in self.sets and gpu.vendor in self.vendors and (self.gpus is None or gpu.address in self.gpus)

    @property
    def words(self):
        """Who it is and how it was seen, as words."""
        return f"{self.name} ({self.label}: {'; '.join(self.seen)})"


def found(host, gpus, running=False):
    """
    Everybody else on a host who sets what is sliced.

    :param host: :class:`gpuslice.host.base.Host`; :param gpus: its GPUs, as :class:`gpuslice.model.Gpu`.
    :param running: look at its processes too. :return: list of :class:`Owner`; none for a host without GPUs.
    """
    return _Look(host, gpus, running).owners() if gpus else []


def beside(owners, wanted, agreed):
    """
    A sentence for each owner that sets something which is wanted here too, and of whom nobody has said that they agree.

    :param owners: as of :func:`found`; :param wanted: (technology, GPU) pairs; :param agreed: PCI address -> names.
    """
    told = []
    for owner in owners:
        shared = [(name, gpu) for name, gpu in wanted if owner.owns(name, gpu)]
        open_ones = [gpu.address for _, gpu in shared if owner.never or owner.name not in agreed.get(gpu.address, ())]
        if open_ones:
            where = ", ".join(dict.fromkeys(open_ones))
            told.append(f"{owner.words} sets the slices of {where} as well: what one of the two sets the other undoes. "
                        f"{_capital(owner.todo)}.{_more(owner)}")  # fmt: skip
    return told


def refusal(owners, technique, gpu, agreed, key):
    """
    Why something of a GPU is not changed: (what, what to do), two sentences; None where nobody minds.

    :param owners: as of :func:`found`; :param technique: name of the technology; :param gpu: :class:`gpuslice.model.Gpu`.
    :param agreed: names of those who agree about it; :param key: how that is said, as words.
    """
    mine = [owner for owner in owners if owner.owns(technique, gpu) and (owner.never or owner.name not in agreed)]
    if not mine:
        return None
    what = "; ".join(f"{owner.words} {owner.never or 'sets that too'}" for owner in mine)
    todo = " ".join(f"{_capital(owner.todo)}.{_more(owner)}" for owner in mine)
    if names := [owner.name for owner in mine if not owner.never]:
        todo += f" Where both are to set it, {key} [{', '.join(names)}]."
    return f"A change of {kinds.known(technique).label} is wanted, and {what}.", todo


def doubts(owners, technique, gpu):
    """What can't be told of those who set something of a GPU too, as sentences; parameters as of :func:`refusal`."""
    return [f"{owner.words}: {owner.unsure}" for owner in owners if owner.unsure and owner.owns(technique, gpu)]


def _more(owner):
    return f" {owner.unsure}" if owner.unsure else ""


def _capital(words):
    return words[:1].upper() + words[1:]


class _Look:
    """One look at a host. ``_enabled``: unit -> its file, of what systemd starts by itself."""

    def __init__(self, host, gpus, running):
        self._host, self._gpus = host, gpus
        self._units = Units(host, self._short)
        self._enabled = self._units.files
        self._pods = self._listed(known.PODS)
        self._registered = host.listdir(known.REGISTERED)
        self._running = self._programs() if running else None

    def owners(self):
        made = [owner for row in known.ROWS if (owner := self._of_row(row))]
        # A service may be enabled and have a timer too.
        return list({owner.name: owner for owner in (*made, *self._of_texts())}.values())

    # -- tools that are known by name --------------------------------------------------------------------------------
    def _of_row(self, row):
        if row.name == known.DYNAMIC_MIG:
            return self._dynamic(row)
        if row.name == known.DRA and any(on for _, on in self._gates):
            # It is told as the one that nobody can agree with.
            return None
        gpus, seen, todo = None, [], row.todo
        if row.name in (known.MDEVCTL, known.DRIVERCTL):
            gpus, seen = (self._definitions if row.name == known.MDEVCTL else self._overrides)()
        if units := list(self._units_of(row)):
            seen += [words for _, words in units]
            gpus = self._instances([unit for unit, _ in units])
            stopping = f"run 'systemctl disable --now {' '.join(unit for unit, _ in units)}'"
            todo = f"{stopping}, and {todo}" if todo and self._pods_of(row) else stopping
        seen += [*self._pods_of(row), *self._sockets_of(row), *self._processes_of(row)]
        if not seen or gpus == ():
            return None
        unsure = ""
        if row.name == known.DRA and not self._gates:
            unsure = "Whether its DynamicMIG is on can't be told here; it would tear down MIG devices that it did not make."
        seen = tuple(dict.fromkeys(map(printable, seen)))
        return Owner(row.name, row.label, row.sets, row.vendors, gpus, seen, todo, row.never, unsure)

    def _units_of(self, row):
        """(unit, how it was seen) of units that are enabled or run."""
        for name in row.units:
            mine = [unit for unit in self._enabled if unit == name or (name.endswith("@") and unit.startswith(name))]
            yield from ((unit, f"{unit} is enabled") for unit in mine)
            if not mine and not name.endswith("@") and any(self._host.exists(f"{group}/{name}") for group in known.GROUPS):
                yield name, f"{name} runs"

    def _instances(self, units):
        """The GPUs that the instances of units name, None where one of them is for all."""
        named = [self._named(unit.partition("@")[2]) for unit in units]
        return None if None in named else tuple(address for each in named for address in each)

    def _pods_of(self, row):
        found = []
        for folder in self._pods:
            pod, _, _ = folder.rpartition("_")
            inside = f"{known.PODS}/{folder}/{row.container}"
            if any(fnmatch.fnmatchcase(pod, each) for each in row.pods) and (not row.container or self._host.exists(inside)):
                space, _, name = pod.partition("_")
                found.append(f"pod {name} of namespace {space} is on this node")
        return found

    def _sockets_of(self, row):
        for name in self._registered:
            if row.registered and name.startswith(row.registered) and name.endswith("reg.sock"):
                yield f"{known.REGISTERED}/{name}"

    # -- processes ---------------------------------------------------------------------------------------------------
    def _programs(self):
        """Name of a program that rows tell of -> numbers of its processes."""
        short = {name[:_COMM]: name for row in known.ROWS for name in row.programs}
        seen = {}
        for pid in self._host.listdir("/proc"):
            if pid.isdecimal() and (name := short.get(self._text(f"/proc/{pid}/comm").strip())) and self._is_roots(pid):
                seen.setdefault(name, []).append(pid)
        return seen

    def _is_roots(self, pid):
        """Whether a process is root's: nobody else sets a GPU, and anybody may call a program of his what he likes."""
        try:
            return self._host.owner(f"/proc/{pid}")[0] == 0
        except OSError:
            return False

    def _processes_of(self, row):
        for name in row.programs if self._running else ():
            for pid in self._running.get(name, ()):
                yield f"process {pid} ({name})"

    @cached_property
    def _gates(self):
        """(process, whether its DynamicMIG is on) of each process of the DRA driver that tells its arguments."""
        told = []
        for name in known.BY_NAME[known.DRA].programs if self._running else ():
            for pid in self._running.get(name, ()):
                texts = [self._text(f"/proc/{pid}/cmdline"), self._text(f"/proc/{pid}/environ")]
                if not texts[1]:
                    # The chart sets the gates by the environment, which only root may read.
                    continue
                last = [each.lower() for text in texts for each in re.findall(_GATE, text)]
                told.append((pid, "true" in last))
        return told

    def _dynamic(self, row):
        seen = tuple(f"process {pid} (gpu-kubelet-plugin with DynamicMIG=true)" for pid, on in self._gates if on)
        return Owner(row.name, row.label, row.sets, row.vendors, None, seen, row.todo, row.never) if seen else None

    # -- definitions of devices --------------------------------------------------------------------------------------
    def _definitions(self):
        """(GPUs, how it was seen) of the mediated devices that are defined to start by themselves."""
        gpus, seen = [], []
        for parent in self._host.listdir(known.DEFINITIONS):
            mine = self._named(parent)
            for uuid in self._host.listdir(f"{known.DEFINITIONS}/{parent}") if mine else ():
                path = f"{known.DEFINITIONS}/{parent}/{uuid}"
                if self._starts(path):
                    gpus += mine
                    seen.append(f"{path} starts at each boot")
        return tuple(dict.fromkeys(gpus)), seen

    def _starts(self, path):
        try:
            told = json.loads(self._short(path))
        except (ValueError, RecursionError):
            return False
        return isinstance(told, dict) and told.get("start") == "auto"

    def _overrides(self):
        gpus, seen = [], []
        for name in self._host.listdir(known.OVERRIDES):
            mine = self._named(name.removeprefix("pci-")) if name.startswith("pci-") else None
            if mine and (driver := self._short(f"{known.OVERRIDES}/{name}").strip()):
                gpus += mine
                seen.append(f"{known.OVERRIDES}/{name} binds {printable(driver)[:40]}")
        return tuple(dict.fromkeys(gpus)), seen

    # -- units, rules and scripts ------------------------------------------------------------------------------------
    def _of_texts(self):
        by_name, looked = {unit for row in known.ROWS for unit in row.units}, set()
        for enabled in self._enabled:
            unit = self._units.started_by(enabled)
            if unit in looked or unit.startswith(_OURS) or unit in by_name or unit.partition("@")[0] + "@" in by_name:
                continue
            looked.add(unit)
            path = self._enabled.get(unit) or self._units.file_of(unit)
            if path and unit.endswith(".service") and (owner := self._of_file(self._units.text(unit, path), unit)):
                yield owner._replace(label="a unit of this host", todo=f"run 'systemctl disable --now {owner.name}'")
        for path in self._acted_on():
            if owner := self._of_file(self._short(path), path):
                yield owner

    def _acted_on(self):
        for folder, end in known.FOLDERS:
            yield from (f"{folder}/{name}" for name in self._host.listdir(folder) if name.endswith(end))
        yield from known.FILES

    def _of_file(self, raw, name):
        """The owner that the text of a file makes, or that of a script which it calls; None for none."""
        text = _without_comments(raw)
        if name.endswith(".service"):
            text = _in_force(text)
        if owner := self._of_text(text, name):
            return owner._replace(seen=(f"it sets GPUs at each boot{_managed(raw)}",))
        for script in _scripts(text):
            theirs = self._short(script)
            if owner := self._of_text(_without_comments(theirs), name):
                return owner._replace(seen=(f"it calls {script}, which sets GPUs{_managed(raw) or _managed(theirs)}",))
        return None

    def _of_text(self, text, name):
        for word in known.WRITTEN:
            if word in text:
                break
        else:
            return None
        sets, vendors, lines = [], [], []
        for each in known.WRITINGS:
            # A look at words is cheap, and most files have none of them: no expression is made for these.
            if any(word in text for word in each.words) and (told := re.search(each.pattern, text, re.MULTILINE)):
                whose = self._whose(text) if each.of_any else each.vendors
                sets += each.sets if whose else ()
                vendors += whose
                lines.append(text[text.rfind("\n", 0, told.start()) + 1 :].partition("\n")[0])
        if not sets:
            return None
        if (gpus := self._named(text)) == ():
            # Devices of another kind that are named elsewhere in it say nothing of what this is about.
            if self._named("\n".join(lines)) == ():
                return None
            gpus = None
        kept = [vendor for vendor in known.ALL if vendor in vendors]
        shown, todo = redacted(printable(name)), f"take that out of {redacted(printable(name))}"
        return Owner(shown, "a file of this host", tuple(dict.fromkeys(sets)), tuple(kept), gpus, (), todo)

    def _whose(self, text):
        """Vendors whose GPUs a text means that writes to devices of any kind; none where it means others."""
        named = self._named(text)
        if named is not None:
            return tuple({gpu.vendor for gpu in self._gpus if gpu.address in named})
        if re.search(known.OTHERS, text):
            return ()
        return next((vendors for words, vendors in known.WORDS if re.search(words, text, re.IGNORECASE)), ())

    # -- what all have in common -------------------------------------------------------------------------------------
    def _named(self, text):
        """PCI addresses of the GPUs that a text names, by their own addresses or those of functions; None where it names none."""
        named = [each.lower() for each in re.findall(_ADDRESS, text)]
        if not named:
            return None
        full = [f"{int(each[:-8] or '0', 16):04x}:{each[-7:]}" for each in named]
        return tuple(gpu.address for gpu in self._gpus if any(self._is_of(gpu, address) for address in full))

    def _is_of(self, gpu, address):
        """Whether an address is a GPU's, or a function's that it has or can have: those are on its bus, and not there yet."""
        if address == gpu.address or address in gpu.virtual_functions.get("addresses", ()):
            return True
        able = gpu.virtual_functions.get("total") and address[:7] == gpu.address[:7]
        return bool(able) and not self._host.exists(f"{_DEVICES}/{address}")

    def _listed(self, path):
        return [name for name in self._host.listdir(path) if "_" in name]

    def _short(self, path):
        """The text of a file, "" for one that is no script's length or none at all: what is no file may keep its reader."""
        size = self._host.stamp(path).partition("-")[0] if path else ""
        return self._text(path) if size.isdecimal() and 0 < int(size) <= _LONGEST else ""

    def _text(self, path):
        try:
            return self._host.read(path)
        except OSError:
            return ""


def _without_comments(text):
    # A comment does not go on where its line ends in a backslash, neither systemd's nor a shell's.
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", ";"))]
    joined = re.sub(_REMARK, "", "\n".join(lines), flags=re.MULTILINE).replace("\\\n", " ")
    return "\n".join(line.strip()[:_WIDEST] for line in joined.splitlines())


def _in_force(text):
    """What a unit does of what it and its drop-ins say: an empty value takes back those before it, a description does nothing."""
    kept = []
    for line in text.splitlines():
        word, given, value = line.partition("=")
        if given and not value.strip():
            kept = [each for each in kept if each.partition("=")[0].strip() != word.strip()]
        elif word.strip() not in _TOLD:
            kept.append(line)
    return "\n".join(kept)


def _scripts(text):
    """Paths of the scripts that a unit, a rule or a script calls, of those which no package brings."""
    lines = [line for line in text.splitlines() if "/" in line]
    if any(line.startswith("Exec") for line in lines):
        # What else a unit names are files of settings, and places.
        lines = [line for line in lines if line.startswith("Exec")]
    named = dict.fromkeys(path for line in lines for path in re.findall(_PATH, line))
    return [path for path in named if not path.startswith(_OF_PACKAGES)][:_MOST]


def _managed(text):
    """Who writes a file, as it says itself in a comment; "" where it says nothing."""
    comments = " ".join(line for line in text.splitlines()[:10] if line.lstrip().startswith(("#", ";")))
    told = re.search(_MANAGED, comments)
    return f" (it says that {told[1]} manages it)" if told else ""
