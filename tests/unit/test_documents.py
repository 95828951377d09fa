"""The documents for whoever works on the code: what they name is there, and what is there is named."""

import ast
import importlib
import inspect
import re

import pytest
import yaml

from gpuslice import errors
from gpuslice import kinds
from gpuslice import plan
from gpuslice.host.real import RealHost
from gpuslice.model import Slice
from gpuslice.policy.section import Section
from gpuslice.records.verified import Verified
from gpuslice.techniques import ledger
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Work
from tests.conftest import ROOT

ENGINE = ROOT / "_utils" / "gpuslice"
ADDING = ROOT / "docs" / "adding-a-technology.md"
OPERATIONS = ROOT / "docs" / "operations.md"
LAYERS = ("SHAPE", "SHARE", "TUNE", "HAND_OUT", "TELL")


def read(path):
    return path.read_text(encoding="utf-8")


def words(text):
    """What stands between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def first_columns(text):
    """Words between backticks in the first column of every table."""
    return words("\n".join(re.split(r"(?<!\\)\|", line)[1] for line in text.splitlines() if line.startswith("|")))


def public(cls):
    """Public names that a class gives to those that stand on it."""
    return {name for name in vars(cls) if not name.startswith("_")}


# -- adding a technology -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", [Technique, Section])
def test_every_method_of_the_contract_is_explained(cls):
    assert sorted((public(cls) | set(inspect.get_annotations(cls))) - first_columns(read(ADDING))) == []


def test_every_field_of_a_row_is_explained():
    assert [name for name in kinds.Kind._fields if name not in first_columns(read(ADDING))] == []


def test_every_field_of_a_slice_is_explained():
    slices = read(ADDING).split("### Slices")[1].split("\n## ")[0]
    assert first_columns(slices) == set(Slice._fields)


def test_every_table_names_only_what_is_there():
    contract = {*public(Technique), *inspect.get_annotations(Technique), *public(Section)}
    known = {*kinds.Kind._fields, *Slice._fields, *contract, *LAYERS}
    explained = {word for word in first_columns(read(ADDING)) if word.isidentifier()}
    assert sorted(explained - known) == []


def test_every_layer_phase_and_effect_is_named():
    named = words(read(ADDING))
    assert [getattr(kinds, name) for name in LAYERS] == [0, 1, 2, 3, 4]
    assert sorted({*LAYERS, "PREPARE", "RESET", "CARVE", *plan.EFFECTS} - named) == []


def test_what_a_work_has_is_explained():
    planning = read(ADDING).split("### Planning")[1].split("### Doing")[0]
    # The two that every reader of this page knows by then.
    assert [name for name in Work._fields if name not in words(planning) | {"target", "state"}] == []


def test_every_place_that_the_documents_name_is_there():
    for document in (ADDING, ROOT / "CONTRIBUTING.md"):
        places = {word for word in words(read(document)) if re.fullmatch(r"[\w.-]+(/[\w.-]*)+", word)}
        # A module is also named without its ending.
        tried = {each: [ROOT / each, ENGINE / each, ENGINE / f"{each}.py"] for each in sorted(places)}
        assert [each for each, paths in tried.items() if not any(path.exists() for path in paths)] == [], document.name


def test_every_kind_is_in_the_table_of_technologies():
    table = read(ROOT / "docs" / "support.md").split("## Technologies")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    for kind in kinds.KINDS:
        mine = [row for row in rows if f"`{kind.word}`" in row[2]]
        assert mine, kind.name
        if kind.word != kind.name:
            assert [row for row in mine if kind.name in row[1]], kind.name


# -- the state directory -------------------------------------------------------------------------------------------------
def records():
    """(name below the state directory, format) of every :class:`gpuslice.records.store.Record`, and of each ledger."""
    found = set()
    for path in sorted(ENGINE.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.Call)]
        for call in (call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("Record", "Ledger")):
            module = importlib.import_module(".".join(path.relative_to(ROOT / "_utils").with_suffix("").parts))
            name = _value(call.args[1], module)
            number = ledger.FORMAT if call.func.id == "Ledger" else _value(call.args[3], module)
            # One that is handed the name of its file is found where that is told; a generation's is put together.
            if name or path.stem == "history":
                found.add((name or "history/NNNNNN.json", number))
    return found


def _value(node, module):
    """What an argument is; None for a local variable."""
    return node.value if isinstance(node, ast.Constant) else getattr(module, node.id, None)


def other_files():
    """What is put together with the path of the state directory elsewhere."""
    source = "\n".join(read(path) for path in sorted(ENGINE.rglob("*.py")))
    return set(re.findall(r"join\((?:str\()?(?:self\.)?(?:_?host\.)?state_dir\)?, \"([^\"]+)\"", source))


def tables():
    """The rows of the tables of files in the document, by heading."""
    found = {}
    for part in read(OPERATIONS).split("\n## ")[1:]:
        lines = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
        found[part.splitlines()[0]] = [[cell.strip() for cell in line] for line in lines]
    return found


def test_every_file_is_told_with_its_format():
    told = {(row[0].strip("`"), int(row[1])) for row in tables()["Files"] if row[1].isdigit()}
    assert records() == told and len(told) > 5


def test_files_without_a_format_are_told_too():
    told = {row[0].strip("`/") for row in tables()["Files"]}
    assert {"lock", "journal.steps"} <= other_files()
    assert sorted(other_files() - told - {"history"}) == []


def test_of_every_file_it_is_told_what_is_lost_with_it():
    found = tables()
    assert [row[0] for row in found["What can be deleted"]] == [row[0] for row in found["Files"] if not row[0].startswith("`/")]


def test_the_refusal_of_a_newer_file_is_told_as_it_is(tmp_path):
    place = tmp_path / "verified.json"
    place.write_text('{"format": 3}', encoding="utf-8")
    with pytest.raises(errors.NewerFormat) as caught:
        Verified(RealHost(str(tmp_path))).entries()
    quoted = " ".join(line.removeprefix("> ") for line in read(OPERATIONS).splitlines() if line.startswith("> "))
    assert str(caught.value).replace(str(tmp_path), "/var/lib/gpu-slicing") == quoted


# -- usage ---------------------------------------------------------------------------------------------------------------
def offered(folder):
    """Functions of the loader files in a folder, as their users call them."""
    for path in sorted((ROOT / folder).glob("*.py")):
        for node in ast.parse(read(path)).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{path.stem}.{node.name.rstrip('_')}"


@pytest.mark.parametrize("folder", ["_modules", "_states"])
def test_every_function_and_state_is_in_the_tables_of_usage(folder):
    _, functions, states = re.split("^## (?:Execution functions|States)$", read(ROOT / "docs" / "usage.md"), flags=re.M)
    named = {word.partition(" ")[0] for word in first_columns(functions if folder == "_modules" else states)}
    assert sorted(set(offered(folder)) - named) == []


# -- how to work on it ---------------------------------------------------------------------------------------------------
def test_pre_commit_runs_what_make_lint_runs():
    [repository] = yaml.safe_load(read(ROOT / ".pre-commit-config.yaml"))["repos"]
    [hook] = repository["hooks"]
    assert repository["repo"] == "local" and (hook["entry"], hook["language"]) == ("make lint", "system")
    assert hook["always_run"] and not hook["pass_filenames"]


def test_every_document_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(([\w./-]+\.md)", read(ROOT / "README.md")))
    documents = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} | {"CONTRIBUTING.md", "CHANGELOG.md"}
    assert sorted(documents - linked) == []


def test_every_simulated_host_of_the_examples_is_named():
    listed = read(ROOT / "docs" / "hosts.md").split("\n## ")[0]
    assert sorted({path.stem for path in (ROOT / "examples" / "hosts").glob("*.yaml")} - words(listed)) == []
