"""The plan of the house: which room may know which, and what must not stand in any file."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anatomy
import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "lib" / "anatomy"
# From the top of the house down; rooms on one floor do not know each other.
FLOORS = (
    ("site",),
    ("claims", "validate"),
    ("measure",),
    ("train", "decode"),
    ("cost", "model"),
    ("specs",),
    ("memo",),
)
FLOOR = {room: floor for floor, rooms in enumerate(reversed(FLOORS)) for room in rooms}
MODULES = sorted(LIBRARY.rglob("*.py"))
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that a module imports, inside functions too; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (start + alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            # The name may be put together; what it begins with tells the room.
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else node.args[:1]
            yield parts[0].value if isinstance(parts[0], ast.Constant) else "unknown"


def rooms_of(path: Path) -> set[str]:
    """Rooms that a module imports from; names that hang in the hall, as `__version__`, are in no room."""
    names = (name.split(".") for name in imported(ast.parse(path.read_text("utf-8"))))
    return {name[1] for name in names if name[0] == "anatomy" and len(name) > 1 and not name[1].startswith("__")}


def test_every_import_is_seen():
    text = """
import anatomy.cost.training.run as run
from anatomy import specs
def f():
    from anatomy.site.tables import table
    import_module(f"anatomy.claims.{name}")
from . import near
"""
    assert list(imported(ast.parse(text))) == [
        "anatomy.cost.training.run",
        "anatomy.specs",
        ".near",
        "anatomy.site.tables.table",
        "anatomy.claims.",
    ]


@every_module
def test_rooms_know_only_rooms_below(path):
    others = rooms_of(path)
    if path.parent == LIBRARY:
        # The hall is entered before any room; the commands lead into one.
        assert others == ({"validate"} if path.name == "__main__.py" else set())
        return
    own = path.relative_to(LIBRARY).parts[0]
    assert others - {own} <= set(FLOOR)
    assert all(FLOOR[other] < FLOOR[own] for other in others - {own}), others


def test_the_house_has_the_rooms_of_its_plan():
    rooms = {path.relative_to(LIBRARY).parts[0] for path in MODULES if path.parent != LIBRARY}
    assert {"specs", "cost", "claims", "site"} <= rooms <= set(FLOOR)
    assert {"specs"} <= rooms_of(LIBRARY / "cost" / "training" / "run.py")  # the tests above look at something


@every_module
def test_imports_are_absolute_and_known(path):
    names = list(imported(ast.parse(path.read_text("utf-8"))))
    assert not [name for name in names if name.startswith((".", "unknown"))]


@every_module
def test_no_module_is_longer_than_an_evening(path):
    assert len(path.read_text("utf-8").splitlines()) <= 500


def test_the_library_is_the_one_of_this_checkout():
    assert Path(anatomy.__file__).resolve() == (LIBRARY / "__init__.py").resolve()


@pytest.mark.parametrize("room", ["specs", "cost", "claims"])
def test_the_theory_needs_no_book(room):
    # Who computes with the library needs neither the site's tools nor a notebook.
    heavy = ("sphinx", "IPython", "matplotlib", "myst_nb", "jupyter_book", "docutils", "scipy.optimize")
    code = (
        f"import sys, anatomy.{room}; print(*sorted(set({heavy!r}) & set(sys.modules)), 'anatomy.site' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False"], done.stdout + done.stderr


def docstrings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def works_in(text: str) -> set[str]:
    """Words that look like keys of a bibliography: a name, a year, a word; not the keys of the book itself."""
    return set(re.findall(r"\b(?!anatomy)[a-z]+(?:19|20)\d\d[a-z]\w*\b", text))


@every_module
def test_works_named_in_docstrings_are_in_the_bibliography(path, references):
    named = {work for text in docstrings(ast.parse(path.read_text("utf-8"))) for work in works_in(text)}
    assert named <= references


def test_works_are_named_in_docstrings():
    text = "\n".join(path.read_text("utf-8") for path in MODULES)
    assert len(works_in(text)) > 10 and "kaplan2020scaling" in works_in(text)


# What no file may hold: addresses of package registries, and paths of the machine it was written on.

# Put together here, so that this file does not hold them either.
HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("proxy", "golang", "org"),
    )
]
PATHS = [f"/{name}/" for name in ("work", "root", "tmp", "home")]
# The path of an address or of a variable is no path of a machine: something stands before it.
FORBIDDEN = re.compile("|".join(map(re.escape, HOSTS)) + r"|(?<![\w.~}-])(?:" + "|".join(PATHS) + ")")
SKIPPED = {".git", ".venv", "_build", "build", "node_modules", "__pycache__", ".hypothesis", ".ipynb_checkpoints"}


def text_files() -> Iterator[tuple[Path, str]]:
    """Every text file of the checkout that is not built, downloaded or cached."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in SKIPPED and not name.endswith(("_cache", ".egg-info"))]
        for path in (Path(folder, name) for name in files):
            data = path.read_bytes()
            if b"\0" not in data:
                yield path, data.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "text, bad",
    [
        (f"https://{HOSTS[0]}/simple", True),
        (f"index: files.{HOSTS[1]}", True),
        (f"see {PATHS[0]}main", True),
        (f'open("{PATHS[2]}x")', True),
        (f"file://{PATHS[3]}me", True),
        (f"https://example.org{PATHS[3]}page", False),
        (f"$(CURDIR){PATHS[0]}", True),
        (f"${{HERE}}{PATHS[2]}x", False),
        ("homework/temporary", False),
    ],
)
def test_what_is_forbidden_is_recognised(text, bad):
    assert bool(FORBIDDEN.search(text)) is bad


def test_no_file_names_a_registry_or_a_path_of_a_machine():
    seen, found = set(), []
    for path, text in text_files():
        seen.add(path.relative_to(ROOT).as_posix())
        for number, line in enumerate(text.splitlines(), 1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert found == []
    assert {"pyproject.toml", "requirements.lock", "lib/anatomy/__init__.py", "tests/test_rooms.py"} <= seen
