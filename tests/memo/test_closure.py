"""The static import closure: what is reached counts, what only looks different does not."""

import functools
import textwrap

import pytest
from anatomy import memo
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training.step import training_step
from anatomy.memo.closure import Library
from anatomy.memo.source import taken_apart
from anatomy.train import loop

FILES = {
    "__init__.py": "",
    "top.py": """
        from pkg import low
        from pkg.low import helper as assist
        from pkg.data import read

        def answer():
            "Says it."
            return low.inner.deep() + assist()

        def other():
            return read("rows")

        def dynamic(name):
            import importlib
            return importlib.import_module(f"pkg.plugins.{name}")

        def command():
            return ["python", "-m", "pkg.plugins.one"]
    """,
    "low/__init__.py": """
        from pkg.low.inner import deep, unused
        def helper():
            return LIMIT
        LIMIT = 3  # of something
        def never():
            return 1
    """,
    "low/inner.py": """
        import numpy as np
        def deep():
            return np.float64(2.0)
        def unused():
            return 0
        REGISTRY = {}
        REGISTRY["deep"] = deep
    """,
    "data/__init__.py": """
        from importlib.resources import files
        def read(name):
            return (files("pkg.data") / f"{name}.toml").read_text()
    """,
    "data/rows.toml": "a = 1  # one\n",
    "rows.toml": "elsewhere = 1\n",
    "look.css": "p { color: red }",
    "plugins/__init__.py": "",
    "plugins/one.py": "def run():\n    return 1\n",
    "plugins/two.py": "def run():\n    return 2\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
    return tmp_path / "pkg"


def closure(package, name, **options):
    module = "pkg.low.inner" if name == "deep" else "pkg.top"
    return Library(package).closure([(module, name)], **options)


def edited(package, file, old, new):
    path = package / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_names_are_followed_through_imports(package):
    found = closure(package, "answer")
    assert found.modules == {"pkg.top", "pkg.low", "pkg.low.inner"}
    assert {("pkg.low.inner", "deep"), ("pkg.low", "helper"), ("pkg.low", "LIMIT")} <= set(found.code)
    assert ("pkg.low", "never") not in found.code and found.data == {}
    assert set(found.libraries) == {"numpy"}


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("top.py", '"Says it."', '"Says the same in other words."'),
        ("low/__init__.py", "# of something", "# of everything"),
        ("low/__init__.py", "return 1", "return 2"),  # a function that is not reached
        ("top.py", 'read("rows")', 'read("lines")'),
        ("data/rows.toml", "a = 1", "a = 2"),
        ("look.css", "red", "blue"),
        ("low/inner.py", "return np.float64(2.0)", "\n    # why\n    return np.float64( 2.0 )"),
    ],
)
def test_what_does_not_matter_changes_nothing(package, file, old, new):
    before = closure(package, "answer").digest()
    edited(package, file, old, new)
    assert closure(package, "answer").digest() == before


@pytest.mark.parametrize(
    "root, file, old, new",
    [
        ("answer", "top.py", "+ assist()", "- assist()"),
        ("answer", "low/__init__.py", "LIMIT = 3", "LIMIT = 4"),
        ("answer", "low/inner.py", "2.0", "2.5"),
        ("answer", "low/inner.py", 'REGISTRY["deep"] = deep', 'REGISTRY["deep"] = None'),  # runs on import
        ("answer", "top.py", "low import helper as", "low import never as"),
        ("deep", "low/inner.py", "import numpy as np", "import math as np"),
        ("other", "data/rows.toml", "a = 1", "a = 2"),
        ("dynamic", "plugins/two.py", "return 2", "return 3"),
        ("command", "plugins/one.py", "return 1", "return 3"),
    ],
)
def test_what_matters_changes_the_digest(package, root, file, old, new):
    before = closure(package, root).digest()
    edited(package, file, old, new)
    assert closure(package, root).digest() != before


def test_data_are_those_of_the_package_that_is_opened(package):
    found = closure(package, "other")
    assert set(found.data) == {"data/rows.toml"}
    before = found.digest()
    edited(package, "data/rows.toml", "# one", "# the first")
    edited(package, "rows.toml", "= 1", "= 2")
    assert closure(package, "other").digest() == before


def test_a_cut_is_not_followed(package):
    assert ("pkg.plugins.one", "*") in closure(package, "dynamic").code
    found = closure(package, "dynamic", cut=[("pkg.top", "dynamic")])
    assert set(found.code) == {("pkg.top", "dynamic")}


def test_code_outside_counts_as_a_whole(package):
    page = taken_apart("page", "from pkg import low\nx = low.never()\n1 + 1\n")
    found = Library(package).closure([], page=page)
    assert {("page", "*"), ("pkg.low", "never")} <= set(found.code)
    assert ("pkg.low.inner", "deep") not in found.code


def test_unknown_definitions_are_refused(package):
    with pytest.raises(KeyError, match="top level"):
        closure(package, "nothing")
    with pytest.raises(ValueError, match="give it a name"):
        memo.closure(lambda: 1)
    with pytest.raises(ValueError, match=r"functools\.partial"):
        memo.code_digest(test_unknown_definitions_are_refused)


def test_the_closure_of_this_library():
    found = memo.closure(training_step)
    assert "anatomy.cost.collectives" in found.modules
    assert not {m for m in found.modules if m.startswith(("anatomy.site", "anatomy.train", "anatomy.decode"))}
    assert "jax" in found.libraries and "jaxlib" in found.libraries
    assert "specs/catalogues/efficiency.toml" in memo.closure(efficiency).data


def test_a_partial_depends_on_all_its_functions():
    both = memo.closure(functools.partial(training_step, loop.losses))
    assert {"anatomy.cost.training.step", "anatomy.train.loop.objective"} <= both.modules
    assert memo.code_digest(training_step) != memo.code_digest(training_step, loop.losses)
