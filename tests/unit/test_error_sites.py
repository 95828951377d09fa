"""
The class of each error where it is raised. ``error_sites.txt`` beside this file has a line for each place, read and judged: does
it stop a request as a mistake, leave one GPU alone, or say that a host can't be changed now? A place whose class becomes another
one is noticed here even where no other test gets to it; what the classes bring about is tested in
``tests/engine/test_error_classes.py``.

Places that are new or worded anew are not in the list until somebody judges them: ``python -m tests.unit.test_error_sites``
prints the list as it would be.
"""

import ast
import pathlib

ENGINE = pathlib.Path(__file__).resolve().parent.parent.parent / "_utils" / "gpuslice"
LIST = pathlib.Path(__file__).with_name("error_sites.txt")
#: Longest beginning of a message that is kept; it tells the places of one function apart.
HEAD = 60


def sites(tree):
    """(function, beginning of the message) -> names of the classes, of every place that makes an error or has one in a table."""
    found = {}
    _walk(tree, "", found)
    return found


def _walk(node, place, found):
    for child in ast.iter_child_nodes(node):
        inside = f"{place}.{child.name}".lstrip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else place
        if isinstance(child, ast.Call) and (name := _class(child.func)):
            _add(found, place, name, child.args[:1])
        elif isinstance(child, ast.Tuple) and child.elts and (name := _class(child.elts[0])) and not _class(child.elts[-1]):
            _add(found, place, name, child.elts[1:2])
        _walk(child, inside, found)


def _class(node):
    named = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "errors" and node.attr[0].isupper()
    return node.attr if named else ""


def _add(found, place, name, message):
    head = ast.unparse(message[0]).replace("\n", " ")[:HEAD] if message else ""
    found.setdefault((place, head), []).append(name)


def everywhere():
    """Lines of the list as the source has them."""
    lines = []
    for path in sorted(ENGINE.rglob("*.py")):
        file = str(path.relative_to(ENGINE))
        if not file.startswith("sim/") and file != "errors.py":
            made = sites(ast.parse(path.read_text(encoding="utf-8")))
            lines += [(file, place, head, " ".join(names)) for (place, head), names in made.items()]
    return lines


def listed():
    """(file, function, beginning of the message) -> classes, as they were judged."""
    rows = [line.split("\t") for line in LIST.read_text(encoding="utf-8").splitlines()]
    return {(file, place, head): names for names, file, place, head in rows}


def test_every_error_has_the_class_that_it_was_judged_to_have():
    known = listed()
    wrong = [
        f"{file}, {place}: {head}... is {names} now and was {known[file, place, head]}"
        for file, place, head, names in everywhere()
        if known.get((file, place, head), names) != names
    ]
    assert wrong == []


def test_the_list_is_of_this_source():
    there = {(file, place, head) for file, place, head, _ in everywhere()}
    assert len(listed().keys() & there) > 0.7 * len(there)


def test_a_class_that_becomes_another_one_is_seen():
    source = "def f():\n    raise errors.{}('no room')\nTABLE = {{1: (errors.{}, 'in use', 'wait')}}\n"
    source += "try:\n    f()\nexcept (errors.A, errors.B):\n    pass\n"
    for one, other in (("Unhealthy", "InUse"), ("Unsupported", "DriverError")):
        assert sites(ast.parse(source.format(one, other))) == {("f", "'no room'"): [one], ("", "'in use'"): [other]}


if __name__ == "__main__":
    for file, place, head, names in everywhere():
        print(names, file, place, head, sep="\t")
