"""What a function, or a page that calls some, depends on: found in the source, never listed by hand.

The static import closure begins with some definitions and follows every name in them: to other definitions of the
same module, and through imports to those of other modules of this library. It ends with the definitions reached, the
package data that they read, and the versions of the other libraries that they import. Its digest changes with what
that code does and what that data holds: comments, docstrings and layout are left out.

What is not reached by a name is not seen. So modules that are imported by a computed name are reached whole, where
the beginning of the name is written out; and so are modules whose full name stands in a string, as in a command.
"""

import ast
import dataclasses
import fnmatch
import functools
import hashlib
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

Node = tuple[str, str]  # full name of a module, and of what it defines at its top level
WHOLE, EFFECTS = "*", "<effects>"  # in place of a name: all of a module; the statements that only have effects
ASSETS = (".css", ".js", ".html")  # how things look: put into pages when these are built, not when they are executed
DATA = (".toml", ".csv", ".tsv", ".json")


@dataclasses.dataclass(frozen=True)
class Closure:
    """What some code depends on.

    Attributes:
        code: what each definition reached does, by module and name.
        data: a hash of what each file of package data holds, by its path in the library.
        libraries: version of each distribution that is imported.
    """

    code: dict[Node, str]
    data: dict[str, str]
    libraries: dict[str, str]

    @property
    def modules(self) -> frozenset[str]:
        """Modules of this library that are reached."""
        return frozenset(module for module, _ in self.code)

    def digest(self) -> str:
        """SHA-256 of all of it, and of the Python that runs it."""
        parts = sorted((*key, text) for key, text in self.code.items())
        everything = [parts, sorted(self.data.items()), sorted(self.libraries.items()), sys.version_info[:2]]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Module:
    """One module, taken apart.

    Attributes:
        name: in full.
        package: whether it is the `__init__` of one.
        definitions: statements at the top level that bind each name.
        imports: what each imported name stands for: a module, and a name in it or "".
        effects: statements at the top level that are run for what they do.
        packages: those whose data files it opens.
    """

    name: str
    package: bool
    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str]]
    effects: list[ast.stmt]
    packages: tuple[str, ...]


class Library:
    """The source of a package below one directory; the tests look at copies."""

    def __init__(self, root: Path) -> None:
        """Of the directory that holds the package's `__init__.py`."""
        self.root, self.name = root, root.name
        self._modules: dict[str, Module | None] = {}
        self._hashes: dict[Path, str] = {}
        self._data = sorted(path for path in root.rglob("*") if path.suffix in DATA)

    def module(self, name: str) -> Module | None:
        """A module of this library, or None where there is none of this name."""
        if name not in self._modules:
            base = self.root.joinpath(*name.split(".")[1:]) if name.split(".")[0] == self.name else None
            files = (base / "__init__.py", base.with_suffix(".py")) if base else ()
            file = next((file for file in files if file.is_file()), None)
            source = file and file.read_text("utf-8")
            self._modules[name] = taken_apart(name, source, file.name == "__init__.py") if file else None
        return self._modules[name]

    def below(self, prefix: str) -> list[str]:
        """Modules whose full name begins so."""
        files = self.root.rglob("*.py")
        names = (".".join((self.name, *file.relative_to(self.root).with_suffix("").parts)) for file in files)
        return sorted(n for n in (name.removesuffix(".__init__") for name in names) if n.startswith(prefix))

    def data(self, pattern: str, packages: Iterable[str]) -> list[Path]:
        """Data files whose name matches, in these packages or below, or anywhere where none is named."""
        roots = [self.root.joinpath(*package.split(".")[1:]) for package in packages] or [self.root]
        matching = (file for file in self._data if fnmatch.fnmatchcase(file.name, pattern))
        return [file for file in matching if any(file.is_relative_to(root) for root in roots)]

    def contents(self, file: Path) -> str:
        """A hash of what a data file holds; for TOML without comments and layout."""
        if file not in self._hashes:
            data = file.read_bytes()
            if file.suffix == ".toml":
                data = json.dumps(tomllib.loads(data.decode()), sort_keys=True, default=str).encode()
            self._hashes[file] = hashlib.sha256(data).hexdigest()
        return self._hashes[file]

    def closure(self, roots: Iterable[Node], page: Module | None = None, cut: Iterable[Node] = ()) -> Closure:
        """All that these definitions depend on.

        Args:
            roots: definitions to begin with.
            page: code outside the library that calls it, all of which counts.
            cut: definitions that count, and are not followed.

        Raises:
            KeyError: the library has no such definition.
        """
        if missing := [root for root in roots if not self._exists(root)]:
            raise KeyError(f"closure of {missing[0]}; allowed: what a module of {self.name} defines at its top level")
        cut, todo, code, data, libraries = frozenset(cut), list(roots), {}, {}, set()
        if page:
            todo.append((page.name, WHOLE))
        while todo:
            node = todo.pop()
            if node in code:
                continue
            module = page if page and node[0] == page.name else self.module(node[0])
            if module is None:
                libraries.add(node[0].split(".")[0])
                continue
            statements = self._statements(module, node[1])
            code[node] = "\n".join(map(ast.dump, statements))
            if node in cut:
                continue
            if node[1] in module.imports:
                code[node] += ".".join(module.imports[node[1]])
                todo.extend(self._target(*module.imports[node[1]]))
            elif module.effects and node[1] != EFFECTS:
                todo.append((module.name, EFFECTS))
            if node[1] == WHOLE and module is not page:  # what it re-exports may be looked up in it
                todo.extend(target for name in module.imports for target in self._target(*module.imports[name]))
            for statement in statements:
                todo.extend(self._reached(module, statement))
                for pattern in file_patterns(statement):
                    for file in self.data(pattern, module.packages):
                        data[file.relative_to(self.root).as_posix()] = self.contents(file)
        return Closure(code, data, versions(libraries))

    def _exists(self, node: Node) -> bool:
        module = self.module(node[0])
        return module is not None and (node[1] in (*module.definitions, *module.imports, WHOLE))

    def _statements(self, module: Module, name: str) -> list[ast.stmt]:
        if name == WHOLE:
            unique = {id(s): s for several in module.definitions.values() for s in several}
            return [*unique.values(), *module.effects]
        return module.effects if name == EFFECTS else module.definitions.get(name, [])

    def _reached(self, module: Module, statement: ast.stmt) -> Iterator[Node]:
        """What a statement names: of its own module, of others, and of modules named in strings."""
        local = local_imports(statement, module)
        for node, chain in named(statement):
            if chain:
                yield from self._resolved(module, local, chain)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node.value.startswith(f"{self.name}.") and not opens_data(statement, node):
                    yield from ((node.value, WHOLE) for _ in range(self.module(node.value) is not None))
            elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
                yield from ((name, WHOLE) for name in self.below(written_start(node.args[0])))

    def _resolved(self, module: Module, local: dict[str, tuple[str, str]], chain: list[str]) -> Iterator[Node]:
        """What a dotted name stands for."""
        name, *rest = chain
        if name in local:
            yield from self._target(*local[name], rest)
        elif name in module.imports:
            # A module by its name is not reached whole where only some of what it defines is used.
            target = module.imports[name]
            yield from self._target(*target, rest)
            if not self._is_module(*target):
                yield (module.name, name)
        elif name in module.definitions:
            yield (module.name, name)

    def _is_module(self, module: str, name: str) -> bool:
        return self.module(f"{module}.{name}" if name else module) is not None

    def _target(self, module: str, name: str, rest: Iterable[str] = ()) -> Iterator[Node]:
        """Definitions that an import and what is looked up in it lead to."""
        if name and self.module(f"{module}.{name}") and not self._defines(module, name):
            module, name = f"{module}.{name}", ""
        if name:
            yield (module, name)
            return
        rest = list(rest)
        while rest and self.module(f"{module}.{rest[0]}") and not self._defines(module, rest[0]):
            module = f"{module}.{rest.pop(0)}"
        known = self.module(module)
        if known is None or not rest:
            yield (module, WHOLE)
        elif self._defines(module, rest[0]):
            if rest[0] in known.imports and len(rest) > 1:
                yield from self._target(*known.imports[rest[0]], rest[1:])
            yield (module, rest[0])

    def _defines(self, module: str, name: str) -> bool:
        """Whether a name of a package is bound in it; a submodule of the same name is then hidden."""
        known = self.module(module)
        if known is None or (known.imports.get(name) == (module, name) and self.module(f"{module}.{name}")):
            return False
        return name in known.definitions or name in known.imports


def taken_apart(name: str, source: str, package: bool = False) -> Module:
    """A module from its source.

    Raises:
        SyntaxError: the source is no Python.
    """
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    effects: list[ast.stmt] = []
    tree = without_docstrings(ast.parse(source))
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports |= imported(statement, name, package)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and (
            names := [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        ):
            for each in names:
                definitions.setdefault(each, []).append(statement)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue  # never run
        elif not isinstance(statement, ast.Pass):
            effects.append(statement)
            for node in ast.walk(statement):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    imports |= imported(node, name, package)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    definitions.setdefault(node.id, []).append(statement)
                elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    definitions.setdefault(node.name, []).append(statement)
    opened = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "files" and node.args)
    packages = [call.args[0].value for call in opened if isinstance(call.args[0], ast.Constant)]
    return Module(name, package, definitions, imports, effects, tuple(packages))


def imported(statement: ast.Import | ast.ImportFrom, module: str, package: bool) -> dict[str, tuple[str, str]]:
    """What each name that an import binds stands for."""
    if isinstance(statement, ast.Import):
        return {
            alias.asname or alias.name.split(".")[0]: (alias.name if alias.asname else alias.name.split(".")[0], "")
            for alias in statement.names
        }
    start = statement.module or ""
    if statement.level:
        parents = module.split(".")[: len(module.split(".")) - statement.level + package]
        start = ".".join([*parents, *([start] if start else [])])
    return {alias.asname or alias.name: (start, alias.name) for alias in statement.names}


def local_imports(statement: ast.stmt, module: Module) -> dict[str, tuple[str, str]]:
    """What is imported inside a definition."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(statement):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= imported(node, module.name, module.package)
    return found


def named(statement: ast.stmt) -> Iterator[tuple[ast.AST, list[str]]]:
    """All nodes of a statement, with the parts of those that are names; a dotted name is one node."""
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        chain = dotted(node)
        yield node, chain
        todo.extend(() if chain else ast.iter_child_nodes(node))


def dotted(node: ast.AST) -> list[str]:
    """The parts of a name, dotted or not; of anything else none."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def called(call: ast.Call) -> str:
    """Name of what is called, without what stands before it."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def opens_data(statement: ast.stmt, constant: ast.Constant) -> bool:
    """Whether a string is a package whose data files are opened, not code that is run."""
    calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call) and called(node) == "files")
    return any(constant in call.args for call in calls)


def written_start(name: ast.expr) -> str:
    """How the name of a module that is put together begins, as far as it is written out; else nothing matches."""
    first = name.values[0] if isinstance(name, ast.JoinedStr) and name.values else name
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "\0"


def file_patterns(statement: ast.stmt) -> Iterator[str]:
    """Names of data files in a statement, with a star for what is put in when it runs."""
    for node in ast.walk(statement):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
        else:
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if text.endswith(DATA) and "\n" not in text:
            yield text.rpartition("/")[2]


def is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is a string and nothing else."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The same code without strings that stand alone; a body that was nothing else passes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [s for s in node.body if not is_docstring(s)] or [ast.Pass()]
    return tree


@functools.cache
def distributions() -> dict[str, list[str]]:
    """Distributions that hold each importable name."""
    return dict(packages_distributions())


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Version of each installed distribution that some modules come from; those of Python itself have none."""
    found = {}
    for module in modules:
        for name in distributions().get(module, ()):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    # XLA compiles what JAX traces.
    return found | ({"jaxlib": version("jaxlib")} if "jax" in found else {})


@functools.cache
def this_library() -> Library:
    """The library that this module belongs to, as it lay on disk when it was first asked for."""
    return Library(Path(__file__).parents[1])


def node_of(function: Callable[..., object]) -> Iterator[Node]:
    """The definition of a function or class; of a partial also those of the functions among its arguments.

    Raises:
        ValueError: it is not defined at the top level of a module of this library.
    """
    if isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            if callable(part):
                yield from node_of(part)
        return
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "").split(".")[0]
    if this_library().module(module or "") is None or not this_library()._exists((module, name)):
        raise ValueError(
            f"closure of {function!r}; allowed: a function at the top level of a module of {this_library().name}, "
            "or functools.partial of one; give it a name there"
        )
    yield (module, name)


def closure(*functions: Callable[..., object], cut: Iterable[Node] = ()) -> Closure:
    """The static import closure of functions and classes of this library.

    Raises:
        ValueError: one is not defined at the top level of a module of this library.
    """
    return this_library().closure([node for function in functions for node in node_of(function)], cut=cut)


@functools.cache
def code_digest(*functions: Callable[..., object]) -> str:
    """SHA-256 of what the closure of these functions does, the data it reads and the libraries it imports.

    Raises:
        ValueError: one is not defined at the top level of a module of this library.
    """
    return closure(*functions).digest()
