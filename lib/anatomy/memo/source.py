"""Python source taken apart: what a module defines, imports and runs, and what a statement mentions."""

import ast
import dataclasses
import functools
from collections.abc import Iterator

DATA = (".toml", ".csv", ".tsv", ".json")  # data files of a package; how things look is none of them
Import = tuple[str, str]  # a module, and a name in it or ""


@dataclasses.dataclass(frozen=True)
class Module:
    """One module, taken apart.

    Attributes:
        name: in full.
        package: whether it is the `__init__` of one.
        definitions: statements at the top level that bind each name.
        imports: what each imported name stands for.
        effects: statements at the top level that are run for what they do.
        packages: those whose data files it opens.
    """

    name: str
    package: bool
    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, Import]
    effects: list[ast.stmt]
    packages: tuple[str, ...]

    @functools.cached_property
    def _known(self) -> dict[str | None, tuple[str, "list[Mentions]"]]:
        return {}

    def does(self, name: str | None) -> "tuple[str, list[Mentions]]":
        """What a name stands for, or with None what the effects do: as text, and what each statement mentions."""
        if name not in self._known:
            statements = self.effects if name is None else self.definitions.get(name, [])
            self._known[name] = "".join(map(ast.dump, statements)), [mentions(each, self) for each in statements]
        return self._known[name]


@dataclasses.dataclass(frozen=True)
class Mentions:
    """What a statement mentions.

    Attributes:
        names: dotted names, as their parts.
        imports: what is imported inside it.
        strings: whole strings, but for packages whose data files are opened.
        files: names of data files, with a star for what is put in when it runs.
        prefixes: how names of modules begin that are put together when it runs.
    """

    names: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    imports: dict[str, Import] = dataclasses.field(default_factory=dict)
    strings: set[str] = dataclasses.field(default_factory=set)
    files: set[str] = dataclasses.field(default_factory=set)
    prefixes: set[str] = dataclasses.field(default_factory=set)


@functools.cache
def taken_apart(name: str, source: str, package: bool = False) -> Module:
    """A module from its source, without docstrings.

    Raises:
        SyntaxError: the source is no Python.
    """
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, Import] = {}
    effects: list[ast.stmt] = []
    tree = without_docstrings(ast.parse(source))
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports |= imported(statement, name, package)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and (names := list(bound(statement))):
            for each in names:
                definitions.setdefault(each, []).append(statement)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue  # never run
        elif not isinstance(statement, ast.Pass):
            effects.append(statement)
            for node in ast.walk(statement):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    imports |= imported(node, name, package)
            for each in bound(statement):
                definitions.setdefault(each, []).append(statement)
    opened = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "files")
    packages = [text for call in opened for text in map(written, call.args[:1]) if text]
    return Module(name, package, definitions, imports, effects, tuple(packages))


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The same code without strings that stand alone; a body that was nothing else passes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [s for s in node.body if not _is_docstring(s)] or [ast.Pass()]
    return tree


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and bool(written(statement.value))


def bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement binds at the top level."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def imported(statement: ast.Import | ast.ImportFrom, module: str, package: bool) -> dict[str, Import]:
    """What each name that an import binds stands for."""
    if isinstance(statement, ast.Import):
        names = ((alias.asname, alias.name, alias.name.split(".")[0]) for alias in statement.names)
        return {short or first: (full if short else first, "") for short, full, first in names}
    start = statement.module or ""
    if statement.level:
        parents = module.split(".")[: len(module.split(".")) - statement.level + package]
        start = ".".join([*parents, *([start] if start else [])])
    return {alias.asname or alias.name: (start, alias.name) for alias in statement.names}


def mentions(statement: ast.stmt, module: Module) -> Mentions:
    """What a statement of a module mentions, looked through once."""
    found = Mentions()
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if chain := dotted(node):
            found.names.add(chain)
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.strings.add(node.value)
            note_file(node.value, found.files)
        elif isinstance(node, ast.JoinedStr):
            note_file("".join(written(part) or "*" for part in node.values), found.files)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.imports.update(imported(node, module.name, module.package))
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
            first = node.args[0]
            start = first.values[0] if isinstance(first, ast.JoinedStr) and first.values else first
            found.prefixes.update(filter(None, [written(start)]))
        elif isinstance(node, ast.Call) and called(node) == "files":
            todo.append(node.func)  # the package is opened, not run
            continue
        todo.extend(ast.iter_child_nodes(node))
    return found


def note_file(text: str, files: set[str]) -> None:
    """Add the name of a data file, without its folder, where the text is one."""
    if text.endswith(DATA) and "\n" not in text:
        files.add(text.rpartition("/")[2])


def dotted(node: ast.AST) -> tuple[str, ...]:
    """The parts of a name, dotted or not; of anything else none."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def called(call: ast.Call) -> str:
    """Name of what is called, without what stands before it."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def written(node: ast.AST) -> str:
    """A string that is written out; of anything else nothing."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
