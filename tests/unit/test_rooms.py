"""
Who may know what: a module may import those of its own room, the nouns, and those of the rooms that stand beside it in the table.
An import inside a function counts too. What still breaks the table is listed one by one, so that it can only become less.
"""

import ast
import pathlib
import re

import pytest

from gpuslice import kinds

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ENGINE = ROOT / "_utils" / "gpuslice"
LOADER_FOLDERS = ("_modules", "_states", "_grains", "_beacons", "_runners")

#: Data and its words: anybody may know them, and they know only one another.
NOUNS = {
    "addresses", "costs", "errors", "folding", "kinds", "model", "moments", "numbers", "plan", "printable", "rules", "secret",
    "shape", "status_words", "values", "window",
}  # fmt: skip
#: Modules that are no package, and belong to one room.
FRONT = {
    "announcer", "arguments", "by_hand", "checkup", "engine", "exporting", "front", "job", "looks", "quarantine", "remarks",
    "reports", "sources", "statuses", "tables", "waits", "wishes",
}  # fmt: skip
#: Room -> rooms that it may import.
ROOMS = {
    "loader": {"front", "boot", "inventory", "host", "qualify", "cleaning", "energy", "metrics", "schedulers"},
    "front": {"policy", "techniques", "change", "records", "inventory", "host", "health", "watch", "energy"},
    "policy": {"catalog", "inventory"},
    # What all technologies have in common.
    "techniques": {"drivers", "host", "records", "outputs"},
    # One technology: its own row of the table allows it to know another.
    "techniques/*": {"techniques", "policy", "drivers", "records", "host", "inventory", "catalog", "outputs"},
    "change": {"techniques", "records", "inventory", "host", "health"},
    "records": {"host"},
    "boot": {"change", "records", "inventory", "host", "catalog", "drivers"},
    # Users of the engine, as loader files are: nobody below them knows them.
    "qualify": {"front", "change", "techniques", "records", "inventory", "host"},
    "cleaning": {"front", "policy", "boot", "records", "inventory", "host", "metrics"},
    "metrics": {"front", "drivers", "energy", "watch", "outputs", "records", "inventory", "host"},
    # It is handed the engine, and knows nothing of it.
    "energy": {"drivers", "records", "inventory", "host"},
    # Likewise.
    "schedulers": {"drivers", "outputs", "records", "host"},
    "inventory": {"drivers", "records", "host", "catalog"},
    "health": {"drivers", "host", "inventory"},
    # Health over time.
    "watch": {"health", "records", "drivers", "host", "catalog"},
    "drivers": {"host", "catalog", "outputs"},
    # Files as pure functions: of nouns and of one another.
    "outputs": set(),
    "host": set(),
    "catalog": set(),
    "sim": {"host", "catalog"},
    "nouns": set(),
}
#: (room, room that it may import) -> the only modules of that one: a technology settles its words and keeps a file of its own.
ONLY = {
    ("techniques/*", "policy"): {"policy.as_text", "policy.fields", "policy.notes", "policy.section"},
    ("techniques", "records"): {"records.quarantine", "records.store"},
    # Where what is written has a daemon's folders, which somebody has to ask.
    ("drivers", "outputs"): {"outputs.mps"},
    # What schedulers are told, and whose file that is.
    ("techniques", "outputs"): {"outputs.file", "outputs.offer"},
    ("techniques/*", "records"): {"records.labelled", "records.owed", "records.store", "records.quarantine"},
}
#: Nouns that some rooms have no use for: a driver knows no plan, and no technology that it serves.
NOT_FOR = {
    **dict.fromkeys(("drivers", "host", "catalog", "sim", "health", "outputs"), {"kinds", "plan", "rules"}),
    **dict.fromkeys(("policy", "inventory"), {"plan", "rules"}),
}
#: Modules that load others by a name that they put together, which no import tells: the engine itself, and those that choose
#: among the rooms of technologies and vendors.
BY_NAME = {"", "kinds", "catalog", "health.board"}
#: Drivers that are of no technology: a change stops units and unloads modules, whoever asked for that, and tells of virtual
#: machines that lose what they are defined with.
FOR_CHANGES = {"drivers.systemd", "drivers.modules", "drivers.libvirt"}
#: What is asked and shown by hand, in a technology's own words, which the loader files of that technology speak.
ASKS = re.compile(r"techniques\.\w+\.(asks|views|auditing|checking|smoke|shipping)")
#: The one place that knows whether a host is real.
DOORKEEPER = "host.open"

#: (module, what it imports) that break the table and have to go. Nothing may be added.
LEFT: set = set()


def module_name(path):
    """A module below the engine as ``policy.check``, the package itself as ""; a loader file as ``_modules.gpu``."""
    inside = path.relative_to(ENGINE) if path.is_relative_to(ENGINE) else path.relative_to(ROOT)
    parts = inside.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources():
    """Name -> path of every module of the engine and every loader file."""
    folders = [ENGINE, *(ROOT / folder for folder in LOADER_FOLDERS)]
    found = [path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts]
    return {module_name(path): path for path in sorted(found)}


def imports(tree, names):
    """(line, module) of every import of the engine in a syntax tree, wherever it stands; ``names`` are all modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in wanted:
            if name.split(".")[0] == "gpuslice":
                yield node.lineno, _module(name.removeprefix("gpuslice").lstrip("."), names)


def _module(name, names):
    """The module that a dotted name is, or is in."""
    while name not in names:
        name = name.rpartition(".")[0]
    return name


def graph():
    """Module -> [(line, module that it imports)]."""
    paths = sources()
    return {name: list(imports(ast.parse(path.read_text(encoding="utf-8")), paths)) for name, path in paths.items()}


def room(module):
    """The room of a module, "" for the package itself, None for a module that nobody gave one."""
    parts = module.split(".")
    if parts[0] in LOADER_FOLDERS:
        return "loader"
    if parts[0] == "techniques" and len(parts) > 1 and (ENGINE / "techniques" / parts[1]).is_dir():
        return "/".join(parts[:2])
    if parts[0] in NOUNS:
        return "nouns"
    if parts[0] in FRONT:
        return "front"
    return parts[0] if parts[0] in ROOMS or not parts[0] else None


def may_import(module, other):
    """Whether the table allows it."""
    mine, theirs = room(module), room(other)
    if theirs == "nouns":
        return other not in NOT_FOR.get(mine, ())
    if theirs in ("", mine):
        return True
    if theirs == "sim":
        return module == DOORKEEPER
    if mine == "change" and other in FOR_CHANGES:
        return True
    if mine == "loader" and ASKS.fullmatch(other):
        return True
    if not mine.startswith("techniques/"):
        return theirs in ROOMS[mine] and other in ONLY.get((mine, theirs), {other})
    if theirs in below(mine):
        return True
    return theirs in ROOMS["techniques/*"] and other in ONLY.get(("techniques/*", theirs), {other})


def below(technique):
    """Rooms of the technologies that this one may stand on, by its rows in the table of kinds."""
    rows = [kind for kind in kinds.KINDS if f"techniques/{kind.package}" == technique]
    return {f"techniques/{kinds.named(name).package}" for kind in rows for name in kind.over}


def breaking():
    """(module, imported) -> line of every import that the table does not allow."""
    found = {(name, other): line for name, targets in graph().items() for line, other in targets if not may_import(name, other)}
    return dict(sorted(found.items()))


def circles(edges):
    """Groups of modules that import one another in a circle. ``edges``: module -> modules that it imports."""
    reached = {name: _reach(name, edges) for name in edges}
    found = {frozenset(o for o in reached[name] if name in reached.get(o, ())) for name in edges if name in reached[name]}
    return sorted(sorted(group) for group in found)


def _reach(start, edges):
    seen, left = set(), list(edges[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += edges.get(name, ())
    return seen


def test_every_module_has_a_room():
    assert [name for name in sources() if room(name) is None] == []


def test_no_room_knows_what_it_should_not():
    found = {pair: line for pair, line in breaking().items() if pair not in LEFT}
    assert [f"{name} line {line} imports {other}" for (name, other), line in found.items()] == []


def test_what_is_left_to_mend_is_still_there():
    """What was mended goes from the list, so that it does not come back."""
    assert sorted(LEFT - breaking().keys()) == []


def test_modules_are_loaded_by_name_only_where_it_is_known():
    found = {name for name, path in sources().items() if re.search(r"import_module|__import__", path.read_text(encoding="utf-8"))}
    assert found == BY_NAME


def test_no_modules_import_one_another_in_a_circle():
    assert circles({name: {other for _, other in targets} for name, targets in graph().items()}) == []


# -- the rule itself -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("module", "other", "allowed"),
    [
        ("policy.build", "policy.check", True),
        ("policy.build", "errors", True),
        ("policy.build", "techniques.mig.section", False),
        ("techniques.mig.technique", "policy.fields", True),
        ("techniques.mig.technique", "policy.build", False),
        ("techniques.partition.notes", "records.store", True),
        ("techniques.partition.notes", "records.journal", False),
        ("techniques.telling", "outputs.offer", True),
        ("techniques.telling", "outputs.slurm", False),
        ("techniques.telling", "records.journal", False),
        ("techniques.vgpu.technique", "techniques.mig.technique", True),
        ("techniques.mig.technique", "techniques.vgpu.technique", False),
        ("techniques.partition.technique", "change.planner", False),
        ("drivers.nvml", "host.bounded", True),
        ("drivers.nvml", "plan", False),
        ("drivers.dmem", "outputs.unit_names", False),
        ("health.board", "plan", False),
        ("change.runner", "drivers.systemd", True),
        ("change.runner", "drivers.nvml", False),
        ("host.open", "sim.host", True),
        ("host.base", "sim.host", False),
        ("model", "policy.fields", False),
        ("engine", "techniques.mig.section", False),
        ("cleaning.story", "front", True),
        ("front", "cleaning.story", False),
        ("front", "qualify.putting_back", False),
        ("_modules.gpu", "front", True),
        ("_modules.gpu", "drivers.nvml", False),
    ],
)
def test_the_table_is_read_as_it_is_meant(module, other, allowed):
    assert may_import(module, other) is allowed


def test_an_import_is_seen_wherever_it_stands():
    source = "import gpuslice\nfrom gpuslice import a\ndef f():\n    from gpuslice.b.c import d\n    import gpuslice.b, os\n"
    assert list(imports(ast.parse(source), {"", "a", "b", "b.c"})) == [(1, ""), (2, "a"), (4, "b.c"), (5, "b")]


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
