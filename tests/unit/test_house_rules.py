"""
The rules of the house that a machine can check. A rule is a function that returns what breaks it, as sentences; each is also
tried on something that breaks it, so that a rule which can't fail is noticed.
"""

import ast
import io
import pathlib
import re
import shlex
import tokenize

import pytest
import yaml

from gpuslice import arguments
from gpuslice import kinds
from gpuslice.policy.section import Section

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ENGINE = ROOT / "_utils" / "gpuslice"
LOADER_FOLDERS = ("_modules", "_states", "_grains", "_beacons", "_runners")
# These know Gpu, Slice, Step and Plan, and nothing of who made the silicon, nor what it is sliced by.
CORE = (
    "policy", "plan", "rules", "change", "records", "engine", "front", "job", "boot/replay", "techniques/base",
    "techniques/toolbox", "qualify", "cleaning",
)  # fmt: skip
VENDOR_WORDS = {
    "amd", "arc", "cuda", "geforce", "hopper", "ampere", "instinct", "intel", "nvidia", "nvml", "pynvml", "radeon", "rocm", "xe",
}  # fmt: skip
# Words of the pillar itself, which the policy must be able to check.
PILLAR_WORDS = {"nvidia", "amd", "intel", "nvidia-smi", "rocm-smi", "intel-gpu-tools"}
# Names that mean nothing else: Python has a partition of its own.
TECHNOLOGY_WORDS = {kind.name for kind in kinds.KINDS if kind.name.isalpha()} - {"partition", "consumers"}
# File -> technologies that it may name, and why.
NAMED = {
    # UUIDs of MIG devices where one of a GPU is wanted; where a token belongs that stands in the wrong place.
    "policy/check.py": {"mig", "licence", "vgpu"},
    "policy/fields.py": {"mig"},
    # Whose function takes labels that stay in a cluster.
    "cleaning/story.py": {"kubernetes"},
    # What an older format had as one technology.
    "records/journal.py": {"vgpu", "licence"},
}
PCI_ADDRESS = re.compile(r"^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$")


def python_files(folder):
    """Every Python source below a folder, sorted."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def loader_files():
    """Every file that Salt's loader executes."""
    return [path for folder in LOADER_FOLDERS for path in python_files(ROOT / folder)]


def core_files():
    """The sources of the core, each a module or a package."""
    found = []
    for name in CORE:
        found += [ENGINE / f"{name}.py"] if (ENGINE / f"{name}.py").exists() else python_files(ENGINE / name)
    return found


def shown(path):
    """A path as the reader of a failure wants it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def parsed(source):
    """The syntax tree of a path or of a text."""
    return ast.parse(source.read_text(encoding="utf-8") if isinstance(source, pathlib.Path) else source)


def public_definitions(tree):
    """Top-level public functions and classes, and the public methods of those classes, as (name, node)."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_"):
                    yield f"{node.name}.{item.name}", item


def without_cli_example(tree):
    """Public functions of an execution module that don't show how they are called."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return [node.name for node in functions if "CLI Example:" not in (ast.get_docstring(node) or "")]


def host_methods():
    """Methods of the interface Host: documented there, once, for every host that implements them."""
    found = public_definitions(parsed(ENGINE / "host" / "base.py"))
    return {node.name for name, node in found if name.startswith("Host.") and ast.get_docstring(node)}


def without_docstring(tree):
    """Public names of the engine that say nothing about themselves."""
    documented = host_methods()
    silent = []
    for name, node in public_definitions(tree):
        if name.split(".")[0].endswith("Host") and node.name in documented:
            continue
        if not ast.get_docstring(node):
            silent.append(name)
    return silent


def imported(tree):
    """Top-level names of the packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def unguarded_engine_imports(tree):
    """
    What is wrong with a loader file's way to the engine: nothing of it may be imported before
    ``gpuslice = gpuslice.current()``, and none inside a function, where a fresh minion can't find it.
    """
    wrong = []
    top = set(tree.body)
    guarded = False
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node) == "gpuslice = gpuslice.current()":
            guarded = True
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gpuslice" and not guarded:
            wrong.append(f"line {node.lineno} imports from the engine before current() was asked")
    for node in ast.walk(tree):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if is_import and node not in top and any(name.split(".")[0] == "gpuslice" for name in names):
            wrong.append(f"line {node.lineno} imports the engine inside a block: on a fresh minion that fails")
    if "gpuslice" in imported(tree) and not guarded:
        wrong.append("never asks current() for the delivered engine")
    return wrong


def docstring_lines(tree):
    """Lines that docstrings cover."""
    covered = set()
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text = node.body[0]
            covered |= set(range(text.lineno, text.end_lineno + 1))
    return covered


def vendor_names(source, allowed=frozenset()):
    """Vendor words in identifiers and in strings of a source text, docstrings and comments aside."""
    return [f"line {line}: '{word}' in {text[:60]}" for line, word, text in named(source, VENDOR_WORDS, allowed)]


def named(source, wanted, allowed=frozenset()):
    """(line, word, where it stands) of words in identifiers and strings; strings that are ``allowed`` as a whole don't count."""
    skipped = docstring_lines(parsed(source))
    found = []
    types = {tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1), getattr(tokenize, "TSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in types or token.start[0] in skipped:
            continue
        if token.type == tokenize.STRING and token.string.strip("\"'") in allowed:
            continue
        words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", token.string).lower())
        found += [(token.start[0], word, token.string.strip()) for word in sorted(set(words) & wanted)]
    return found


def unquoted_addresses(text):
    """Lines of a YAML text where a PCI address stands without quotes, so that it may arrive as a number."""
    wrong = []
    for node in yaml.compose_all(text):
        pending = [node] if node else []
        while pending:
            item = pending.pop()
            if isinstance(item, yaml.ScalarNode):
                if item.style is None and PCI_ADDRESS.match(item.value):
                    wrong.append(f"line {item.start_mark.line + 1}: {item.value}")
            elif isinstance(item, yaml.MappingNode):
                pending += [part for pair in item.value for part in pair]
            else:
                pending += item.value
    return sorted(wrong)


def broken(files, rule):
    """Apply a rule that takes a syntax tree to files; everything that breaks it, one line each."""
    return [f"{shown(path)}: {problem}" for path in files for problem in rule(parsed(path))]


# -- the tree ------------------------------------------------------------------------------------------------------------
def test_every_execution_function_has_a_cli_example():
    assert broken(python_files(ROOT / "_modules"), without_cli_example) == []


def test_every_loader_file_reaches_the_engine_through_current():
    assert broken(loader_files(), unguarded_engine_imports) == []


def test_beacons_reach_the_engine_only_through_salt():
    assert [shown(path) for path in python_files(ROOT / "_beacons") if "gpuslice" in imported(parsed(path))] == []


def test_no_loader_file_carries_the_name_of_the_engine():
    assert [shown(path) for path in loader_files() if path.stem == "gpuslice"] == []


def test_the_engine_imports_no_salt():
    assert [shown(path) for path in python_files(ROOT / "_utils") if "salt" in imported(parsed(path))] == []


def test_the_engine_is_python_source_only_because_nothing_else_reaches_a_minion():
    others = [path for path in (ROOT / "_utils").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [shown(path) for path in others if path.suffix != ".py"] == []


def test_every_package_of_the_engine_has_an_init():
    folders = {path.parent for path in python_files(ENGINE)}
    assert sorted(shown(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_every_public_name_of_the_engine_has_a_docstring():
    assert broken(python_files(ENGINE), without_docstring) == []


def test_the_engine_prints_nothing():
    def prints(tree):
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        return [f"print in line {call.lineno}" for call in calls if ast.unparse(call.func) == "print"]

    assert broken(python_files(ENGINE) + loader_files(), prints) == []


def test_logging_calls_format_late():
    def eager(tree):
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        logs = [call for call in calls if ast.unparse(call.func.value) in ("log", "LOG", "logger", "_log")]
        return [f"f-string in line {call.lineno}" for call in logs if any(isinstance(arg, ast.JoinedStr) for arg in call.args)]

    assert broken(python_files(ENGINE) + loader_files(), eager) == []


def test_the_core_names_no_vendor():
    wrong = []
    for path in core_files():
        allowed = PILLAR_WORDS if path.is_relative_to(ENGINE / "policy") or path.stem == "policy" else frozenset()
        wrong += [f"{shown(path)}: {problem}" for problem in vendor_names(path.read_text(encoding="utf-8"), allowed)]
    assert core_files()
    assert wrong == []


def test_the_core_names_no_technology_but_where_it_is_known_why():
    found = {
        path.relative_to(ENGINE).as_posix(): {word for _, word, _ in named(path.read_text(encoding="utf-8"), TECHNOLOGY_WORDS)}
        for path in core_files()
    }
    assert {path: words for path, words in found.items() if words} == NAMED


def test_every_pci_address_in_an_example_is_quoted():
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    files += [path for path in [ROOT / "pillar.example"] if path.exists()]
    assert [f"{shown(path)}: {line}" for path in files for line in unquoted_addresses(path.read_text(encoding="utf-8"))] == []


def test_the_repository_speaks_of_no_machine_of_ours():
    # Written in two pieces, so that this file doesn't find itself.
    private = re.compile("/" + "work/|/" + "root/")
    ours = ("states", "tests", "examples", "docs", "benchmarks", "saltext", "release")
    files = [path for folder in ("_utils", *LOADER_FOLDERS, *ours)
             for path in (ROOT / folder).rglob("*") if path.is_file()]  # fmt: skip
    # In a worktree of git, .git is a file that names the place of the repository.
    files += [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    readable = sorted(path for path in files if path.suffix not in (".pyc", ".png", ".svg"))
    assert [shown(path) for path in readable if private.search(path.read_text(encoding="utf-8", errors="ignore"))] == []


# -- the rules themselves --------------------------------------------------------------------------------------------------
def test_rule_cli_example_sees_a_function_without_one():
    source = "def good():\n    '''x\n\n    CLI Example:\n    '''\ndef bad():\n    '''x'''\ndef _own():\n    pass\n"
    assert without_cli_example(parsed(source)) == ["bad"]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import gpuslice\ngpuslice = gpuslice.current()\nfrom gpuslice import plan\n", 0),
        ("import gpuslice\nfrom gpuslice import plan\ngpuslice = gpuslice.current()\n", 1),
        ("import gpuslice\n", 1),
        ("from gpuslice import plan\n", 2),
        ("import gpuslice\ngpuslice = gpuslice.current()\ndef f():\n    from gpuslice import plan\n", 1),
        ("import os\n", 0),
    ],
)
def test_rule_current_sees_each_way_around_it(source, count):
    assert len(unguarded_engine_imports(parsed(source))) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("'''About nvidia.'''\n# and amd\nx = 1\n", 0),
        ("def nvidia_plan():\n    '''intel'''\n", 1),
        ("x = f'the NVIDIA driver of {1}'\n", 1),
        ("class AmdPlan:\n    pass\n", 1),
        ("x = 'nvidia'\n", 0),
        ("x = 'march, camden, intelligent'\n", 0),
    ],
)
def test_rule_vendor_reads_code_and_strings_but_no_docstring(source, count):
    assert len(vendor_names(source, PILLAR_WORDS)) == count


def test_rule_docstring_sees_functions_classes_and_methods():
    source = "def f():\n    pass\nclass XHost:\n    '''x'''\n    def m(self):\n        pass\n    def read(self):\n        pass\n"
    assert without_docstring(parsed(source)) == ["f", "XHost.m"]


def test_rule_quotes_sees_keys_items_and_values():
    text = "a: 0000:41:00.0\nb: ['0000:c1:00.0', 0000:c1:00.0]\n0000:07:00.0: {x: \"0000:07:00.0\"}\n"
    assert unquoted_addresses(text) == ["line 1: 0000:41:00.0", "line 2: 0000:c1:00.0", "line 3: 0000:07:00.0"]


def state_names_that_are_no_text(text):
    """Names in examples of ``state.single`` that Salt refuses: it reads an address of digits as a number, and wants a text."""
    commands = [shlex.split(line) for line in text.splitlines() if "salt-call state.single " in line]
    names = [command[command.index("state.single") + 2] for command in commands]
    return [name for name in names if not isinstance(yaml.safe_load(name), str)]


def test_examples_of_state_single_name_a_text():
    for path in (*python_files(ROOT / "_states"), ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        assert not state_names_that_are_no_text(path.read_text(encoding="utf-8")), shown(path)
    assert state_names_that_are_no_text("salt-call state.single gpu_mig.mode '0000:41:00.0' enabled=False") == ["0000:41:00.0"]


def test_of_every_technique_it_is_known_what_a_layout_on_record_looks_like():
    assert kinds.DOABLE
    assert [kind.name for kind in kinds.DOABLE if type(kinds.section(kind)).layout is Section.layout] == []


def unchecked_arguments(tree):
    """Public functions of an execution module whose arguments are not checked, and arguments of which no kind is known."""
    wrong = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        names = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
        if "_checked" not in {ast.unparse(each).removesuffix("_all") for each in node.decorator_list}:
            wrong.append(f"{node.name} is not decorated with front.checked")
        wrong += [f"{node.name}: gpuslice.arguments knows no kind of {name}" for name in names if not arguments.known(name)]
    return wrong


def test_every_argument_of_an_execution_function_is_checked_by_its_name():
    assert broken(python_files(ROOT / "_modules"), unchecked_arguments) == []


def test_rule_arguments_sees_a_missing_check_and_an_unknown_name():
    source = "@_checked\ndef good(gpu, test=False):\n    pass\ndef bad(gpu):\n    pass\n@_checked\ndef odd(sesam):\n    pass\n"
    assert len(unchecked_arguments(parsed(source))) == 2


def helpers(tree):
    """(name, parameters without defaults) of each function of a file that is no test and no fixture."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_") and not node.decorator_list:
            names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            yield node.name, tuple(names[: len(names) - len(node.args.defaults)])


def copied(paths, shared):
    """Helpers of these files that have the name and the parameters of a shared one."""
    found = [(path, helper) for path in paths for helper in helpers(parsed(path))]
    return [f"{shown(path)}: {name}" for path, (name, names) in found if names and (name, names) in shared]


def test_tests_copy_no_helper_that_they_share():
    support = python_files(ROOT / "tests" / "support")
    # What runs in the virtual machine has only the engine beside it.
    alone = [ROOT / "tests" / "parts" / part / "inside.py" for part in ("kernel", "dmem")]
    others = [path for path in python_files(ROOT / "tests") if path not in support and path not in alone]
    assert copied(others, {helper for path in support for helper in helpers(parsed(path))}) == []


def test_rule_copies_sees_the_same_name_with_the_same_parameters(tmp_path):
    source = "def config(host): ...\ndef apply(host, wanted, more=1): ...\ndef test_it(host): ...\n@fixture\ndef one(host): ...\n"
    assert list(helpers(parsed(source))) == [("config", ("host",)), ("apply", ("host", "wanted"))]
    (tmp_path / "x.py").write_text(source, encoding="utf-8")
    assert copied([tmp_path / "x.py"], {("apply", ("host", "wanted")), ("config", ("place",))}) == [f"{tmp_path}/x.py: apply"]
