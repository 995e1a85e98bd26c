"""What a function, or a page that calls some, depends on: found in the source, never listed by hand.

The static import closure begins with some definitions and follows every name in them: to other definitions of the
same module, and through imports to those of other modules of this library. It ends with the definitions reached, the
package data that they read, and the versions of the other libraries that they import. Its digest changes with what
that code does and what that data holds: comments, docstrings and layout are left out.

What is not reached by a name is not seen. So modules that are imported by a computed name are reached whole, where
the beginning of the name is written out; and so are modules whose full name stands in a string, as in a command.
"""

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

from anatomy.memo.source import DATA, Import, Module, taken_apart

Node = tuple[str, str]  # full name of a module, and of what it defines at its top level
WHOLE, EFFECTS = "*", "<effects>"  # in place of a name: all of a module; the statements that only have effects


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
class Definition:
    """What a definition does, what it reaches, and the data files that it reads."""

    text: str
    reached: tuple[Node, ...]
    files: tuple[Path, ...]


class Library:
    """The source of a package below one directory; the tests look at copies."""

    def __init__(self, root: Path) -> None:
        """Of the directory that holds the package's `__init__.py`."""
        self.root, self.name = root, root.name
        self._modules: dict[str, Module | None] = {}
        self._definitions: dict[Node, Definition] = {}
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
        if missing := [root for root in roots if not self.defines(root)]:
            raise KeyError(f"closure of {missing[0]}; allowed: what a module of {self.name} defines at its top level")
        cut, todo, code, libraries = frozenset(cut), list(roots), {}, set()
        data: dict[str, str] = {}
        if page:
            todo.append((page.name, WHOLE))
        while todo:
            node = todo.pop()
            if node in code:
                continue
            if page and node[0] == page.name:
                each = self._look_up(page, node[1])
            elif self.module(node[0]):
                each = self._definition(node)
            else:
                libraries.add(node[0].split(".")[0])
                continue
            code[node] = each.text
            if node not in cut:
                todo.extend(each.reached)
                data |= {file.relative_to(self.root).as_posix(): self.contents(file) for file in each.files}
        return Closure(code, data, versions(libraries))

    def _definition(self, node: Node) -> Definition:
        """What a definition of this library does and reaches."""
        if node not in self._definitions:
            module = self.module(node[0])
            assert module is not None, f"{node[0]} is no module"  # the closure leaves libraries aside
            self._definitions[node] = self._look_up(module, node[1])
        return self._definitions[node]

    def _look_up(self, module: Module, name: str) -> Definition:
        """What a name of a module is, and what it reaches."""
        reached: list[Node] = [(module.name, EFFECTS)] if module.effects and name != EFFECTS else []
        if name == WHOLE:
            reached.extend((module.name, each) for each in module.definitions)
            if module.name.split(".")[0] == self.name:  # what it re-exports may be looked up in it
                reached.extend(target for each in module.imports.values() for target in self._target(*each))
            return Definition("", tuple(reached), ())
        text, mentioned = module.does(None if name == EFFECTS else name)
        if name in module.imports:
            text += ".".join(module.imports[name])
            reached.extend(self._target(*module.imports[name]))
        files: set[Path] = set()
        for said in mentioned:
            for chain in said.names:
                reached.extend(self._resolved(module, said.imports, *chain))
            reached.extend((each, WHOLE) for each in said.strings if "." in each and self.module(each))
            reached.extend((each, WHOLE) for prefix in said.prefixes for each in self.below(prefix))
            files.update(file for pattern in said.files for file in self.data(pattern, module.packages))
        return Definition(text, tuple(dict.fromkeys(reached)), tuple(files))

    def defines(self, node: Node) -> bool:
        """Whether a module of this library binds this name at its top level."""
        module = self.module(node[0])
        return module is not None and (node[1] in (*module.definitions, *module.imports, WHOLE))

    def _resolved(self, module: Module, local: dict[str, Import], name: str, *rest: str) -> Iterator[Node]:
        """What a dotted name stands for."""
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
    node = (getattr(function, "__module__", None) or "", getattr(function, "__qualname__", "").split(".")[0])
    if not this_library().defines(node):
        raise ValueError(
            f"closure of {function!r}; allowed: a function at the top level of a module of {this_library().name}, "
            "or functools.partial of one; give it a name there"
        )
    yield node


def closure(*functions: Callable[..., object], cut: Iterable[Node] = ()) -> Closure:
    """The static import closure of functions and classes of this library.

    Raises:
        ValueError: one is not defined at the top level of a module of this library.
    """
    return this_library().closure([node for function in functions for node in node_of(function)], cut=cut)


@functools.cache
def code_digest(*functions: Callable[..., object], cut: tuple[Callable[..., object], ...] = ()) -> str:
    """SHA-256 of what the closure of these functions does, the data it reads and the libraries it imports.

    Args:
        functions: to begin with.
        cut: functions that are not followed.

    Raises:
        ValueError: one is not defined at the top level of a module of this library.
    """
    return closure(*functions, cut=[node for function in cut for node in node_of(function)]).digest()
