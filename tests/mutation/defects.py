"""
Where a small defect can be put into a source file, and what the file is then.

Left out is what no test should hold on to: documentation, types, log lines, and the words of messages.
"""

import ast
import hashlib
import re
from dataclasses import dataclass

#: What a comparison is turned into: its opposite, and its neighbour for those that have a boundary.
_COMPARISONS = {
    ast.Eq: ("!=",), ast.NotEq: ("==",), ast.Lt: ("<=", ">="), ast.LtE: ("<", ">"), ast.Gt: (">=", "<="), ast.GtE: (">", "<"),
    ast.Is: ("is not",), ast.IsNot: ("is",), ast.In: ("not in",), ast.NotIn: ("in",),
}  # fmt: skip
_OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "*", ast.BitAnd: "|"}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "reversed": "list"}
_METHODS = {"startswith": "endswith", "endswith": "startswith", "setdefault": "get", "intersection": "union", "add": "discard"}
#: A number above is a limit of time or size, of which one more or less is nothing that anybody sees.
_COUNTED = 99
#: Calls whose arguments are words for a reader.
_LOGS = ("log", "logger", "logging")


@dataclass(frozen=True)
class Defect:
    """
    One defect.

    :ivar path: of the file, relative to the repository. :ivar line: its first line.
    :ivar start: and :ivar end: the bytes that are replaced. :ivar new: what by.
    :ivar kind: what was done, in a few words. :ivar was: and :ivar becomes: the lines that change.
    :ivar statement: key of the statement, see :func:`statements`. :ivar key: names the defect as long as its line stays.
    """

    path: str
    line: int
    start: int
    end: int
    new: bytes
    kind: str
    was: str
    becomes: str
    statement: str
    key: str

    def apply(self, source):
        """The source, as bytes, with the defect in it."""
        return source[: self.start] + self.new + source[self.end :]

    def __str__(self):
        minus, plus = (self.was.splitlines() or [""]), (self.becomes.splitlines() or [""])
        told = [f"    - {line}" for line in minus] + [f"    + {line}" for line in plus]
        return "\n".join([f"{self.key}  {self.path}:{self.line}  {self.kind}", *told])


def bodies(node):
    """The lists of statements of a node, without its documentation."""
    for field in ("body", "orelse", "finalbody"):
        found = getattr(node, field, None)
        if isinstance(found, list):
            yield found
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def is_text(statement):
    """Whether a statement is nothing but a text: documentation."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def statements(tree, path, source):
    """
    Every statement of a file with a key that stays the same when lines are put in above it: path, name of the function, text
    of its first line, and which of several such it is.

    :return: ``[(statement, key)]``; statements of classes and modules have a function "".
    """
    lines, found, seen = source.decode().splitlines(), [], {}

    def walk(node, names, function):
        for body in bodies(node):
            for statement in body:
                if is_text(statement):
                    continue
                text = f"{path}:{function}:{lines[statement.lineno - 1].strip()}"
                seen[text] = seen.get(text, 0) + 1
                found.append((statement, f"{text}:{seen[text]}"))
                inner, where = names, function
                if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    inner = [*names, statement.name]
                    where = ".".join(inner) if not isinstance(statement, ast.ClassDef) else ""
                walk(statement, inner, where)

    walk(tree, [], "")
    return found


class _Finder(ast.NodeVisitor):
    """Collects the defects of one file."""

    def __init__(self, path, source, errors):
        self.path, self.source, self.errors = path, source, errors
        self.tree = ast.parse(source)
        self.keys = {id(statement): key for statement, key in statements(self.tree, path, source)}
        self.offsets = [0]
        for line in source.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))
        self.statement, self.in_message, self.found, self.names = "", 0, [], {}

    # -- places and texts ----------------------------------------------------------------------------------------------------
    def span(self, node):
        """Where a node begins and ends, in bytes."""
        return self.offsets[node.lineno - 1] + node.col_offset, self.offsets[node.end_lineno - 1] + node.end_col_offset

    def text(self, node):
        start, end = self.span(node)
        return self.source[start:end]

    def put(self, kind, start, end, new):
        """Note a defect that replaces these bytes."""
        first = self.source.rfind(b"\n", 0, start) + 1
        last = self.source.find(b"\n", end)
        was = self.source[first:last].decode()
        becomes = (self.source[first:start] + new + self.source[end:last]).decode()
        shown = ["\n".join(line.strip() for line in text.splitlines() if line.strip()) for text in (was, becomes)]
        name = "\0".join([self.statement, kind, *shown])
        self.names[name] = self.names.get(name, 0) + 1
        key = hashlib.sha1(f"{name}\0{self.names[name]}".encode()).hexdigest()[:8]
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Defect(self.path, line, start, end, new, kind, *shown, self.statement, key))

    def replace(self, kind, node, new):
        self.put(kind, *self.span(node), new)

    # -- statements ------------------------------------------------------------------------------------------------------------
    def visit(self, node):
        if not isinstance(node, ast.stmt):
            return super().visit(node)
        if is_text(node):
            return None
        before, self.statement = self.statement, self.keys.get(id(node), self.statement)
        super().visit(node)
        self.statement = before
        return None

    def drop(self, node):
        self.replace(f"drop this {type(node).__name__.lower()}", node, b"pass")

    def negate(self, test):
        self.replace("negate the condition", test, b"not (" + self.text(test) + b")")

    def visit_FunctionDef(self, node):
        # Types and documentation are left; defaults count as the first statement of the function.
        body = next((part for part in node.body if not is_text(part)), None)
        before = self.statement
        if body is not None:
            self.statement = self.keys[id(body)]
        for default in (*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)):
            self.visit(default)
        self.statement = before
        for part in node.body:
            self.visit(part)

    def visit_Import(self, node):
        """Nothing of an import is changed."""

    visit_ImportFrom = visit_Import

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call) and _is_log(node.value):
            return
        if isinstance(node.value, ast.Call):
            self.drop(node)
        self.generic_visit(node)

    def visit_Assign(self, node):
        # A name that is never set ends in a NameError, which says nothing of the tests.
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.drop(node)
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.drop(node)
        self.generic_visit(node)

    def visit_Delete(self, node):
        self.drop(node)

    def visit_Raise(self, node):
        self.drop(node)
        self.in_message += 1
        self.generic_visit(node)
        self.in_message -= 1

    def visit_Return(self, node):
        if node.value is None:
            self.drop(node)
        else:
            if not isinstance(node.value, ast.Constant) or node.value.value is not None:
                self.replace("return nothing", node, b"return None")
            self.generic_visit(node)

    def visit_Continue(self, node):
        self.drop(node)

    visit_Break = visit_Continue

    def visit_If(self, node):
        self.negate(node.test)
        self.generic_visit(node)

    visit_IfExp = visit_If

    def visit_While(self, node):
        if not isinstance(node.test, ast.Constant):
            self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node):
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_With(self, node):
        if all(item.optional_vars is None for item in node.items):
            start, end = self.span(node)[0], self.span(node.items[-1].context_expr)[1]
            self.put("drop what is entered", start, end, b"if True")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node):
        first, last = node.body[0], node.body[-1]
        if not (len(node.body) == 1 and isinstance(first, ast.Raise) and first.exc is None):
            self.put("handle it no longer", self.span(first)[0], self.span(last)[1], b"raise")
        self.generic_visit(node)

    # -- expressions -----------------------------------------------------------------------------------------------------------
    def visit_JoinedStr(self, node):
        """Words for a reader."""

    def visit_Compare(self, node):
        sides = [node.left, *node.comparators]
        for number, operator in enumerate(node.ops):
            for new in _COMPARISONS.get(type(operator), ()):
                start, end = self.span(sides[number])[1], self.span(sides[number + 1])[0]
                gap = self.source[start:end]
                if gap.strip(b" ()\n") not in (b"==", b"!=", b"<", b"<=", b">", b">=", b"is", b"is not", b"in", b"not in"):
                    continue
                bare = gap.strip(b" ()\n")
                self.put(f"{bare.decode()} becomes {new}", start, end, gap.replace(bare, new.encode(), 1))
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        old, new = (b"and", b"or") if isinstance(node.op, ast.And) else (b"or", b"and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            start, end = self.span(left)[1], self.span(right)[0]
            place = start + re.search(rb"\b" + old + rb"\b", self.source[start:end]).start()
            self.put(f"{old.decode()} becomes {new.decode()}", place, place + len(old), new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.Not):
            self.replace("drop not", node, b"(" + self.text(node.operand) + b")")
        self.generic_visit(node)

    def visit_BinOp(self, node):
        new = _OPERATORS.get(type(node.op))
        if new and not (isinstance(node.left, ast.JoinedStr) or isinstance(node.right, ast.JoinedStr) or self.in_message):
            start, end = self.span(node.left)[1], self.span(node.right)[0]
            gap = self.source[start:end]
            old = gap.strip(b" ()\n")
            if len(old) in (1, 2):
                self.put(f"{old.decode()} becomes {new}", start, end, gap.replace(old, new.encode(), 1))
        self.generic_visit(node)

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            self.replace(f"{value} becomes {not value}", node, str(not value).encode())
        elif self.text(node).startswith(b"0o"):
            self.replace("permissions for all", node, oct(value | 0o066).encode())
        elif isinstance(value, int) and value <= _COUNTED and not self.in_message:
            self.replace("one more", node, str(value + 1).encode())
            if value:
                self.replace("one less", node, str(value - 1).encode())

    def _items(self, node):
        """Defects of a collection: one item less, where at least one stays."""
        parts = node.elts
        if len(parts) < 2 or self.in_message or isinstance(getattr(node, "ctx", None), ast.Store):
            return
        if all(isinstance(part, ast.Constant) for part in parts) or isinstance(node, ast.List | ast.Set):
            for number, part in enumerate(parts):
                if number == 0 and len(parts) == 2:
                    self.put("one item less", self.span(part)[0], self.span(parts[1])[1], self.text(parts[1]) + b",")
                elif number + 1 < len(parts):
                    self.put("one item less", self.span(part)[0], self.span(parts[number + 1])[0], b"")
                else:
                    self.put("one item less", self.span(parts[number - 1])[1], self.span(part)[1], b",")

    def visit_Tuple(self, node):
        self._items(node)
        self.generic_visit(node)

    visit_List = visit_Set = visit_Tuple

    def visit_Subscript(self, node):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) and not self.in_message:
            self.replace("another key", node.slice, repr(node.slice.value + "_").encode())
        self.generic_visit(node)

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id == "errors" and node.attr in self.errors:
            others = sorted(self.errors - {node.attr})
            chosen = int(hashlib.sha1(f"{self.statement}{node.attr}".encode()).hexdigest(), 16) % len(others)
            self.replace("another class of error", node, f"errors.{others[chosen]}".encode())
        self.generic_visit(node)

    def visit_Call(self, node):
        if _is_log(node):
            return
        error = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "errors"
        self.visit(node.func)
        self.in_message += error
        if isinstance(node.func, ast.Name) and node.func.id in _NAMES and not self.in_message:
            self.replace(f"{node.func.id} becomes {_NAMES[node.func.id]}", node.func, _NAMES[node.func.id].encode())
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS and not self.in_message:
            end = self.span(node.func)[1]
            new = _METHODS[node.func.attr]
            self.put(f"{node.func.attr} becomes {new}", end - len(node.func.attr), end, new.encode())
        before = None
        for before in node.args:
            self.visit(before)
        for keyword in node.keywords:
            if keyword.arg and before is not None and not self.in_message:
                self.put("one argument less", self.span(before)[1], self.span(keyword.value)[1], b"")
            self.visit(keyword.value)
            before = keyword.value
        self.in_message -= error

    def visit_Dict(self, node):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and not isinstance(key, ast.Constant):
                self.visit(key)
            self.visit(value)


def _is_log(call):
    """Whether a call writes a log line."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id.lower().strip("_") in _LOGS


def error_classes(source):
    """Names of the classes of errors that take the same arguments: what, gpu, todo."""
    tree = ast.parse(source)
    return {
        node.name for node in tree.body
        if isinstance(node, ast.ClassDef) and not any(isinstance(part, ast.FunctionDef) for part in node.body)
    }  # fmt: skip


def find(path, source, errors=frozenset()):
    """
    All defects that can be put into a file.

    :param path: relative to the repository. :param source: its bytes. :param errors: see :func:`error_classes`.
    :return: a list of :class:`Defect`, in the order of the file; see :func:`compiles`.
    """
    finder = _Finder(path, source, errors)
    finder.visit(finder.tree)
    return [defect for defect in finder.found if defect.was != defect.becomes]


def compiles(source):
    """Whether a source with a defect in it is Python still, as a few are not."""
    try:
        compile(source, "defect", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True
