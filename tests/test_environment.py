"""One environment, written down four times: what is asked for, what is locked, for conda, and for citing."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import anatomy
import jax
import pytest
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
# A pin with its continuation lines: everything up to the next line that begins with a name.
BLOCKS = re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", LOCK, re.MULTILINE)
PINS = [Requirement(block.splitlines()[0].rstrip("\\ ")) for block in BLOCKS]


def conda_pins() -> list[Requirement]:
    (pip,) = [item["pip"] for item in CONDA["dependencies"] if isinstance(item, dict)]
    return [Requirement(line) for line in pip]


def wanted() -> list[Requirement]:
    """Direct dependencies, of all extras; the project's own extras name no package."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def version(pin: Requirement) -> Version:
    (only,) = pin.specifier
    assert only.operator == "=="
    return Version(only.version)


def test_the_lock_is_read_whole():
    assert len(PINS) > 100
    # Nothing but pins, their hashes and comments: no line is overlooked by the tests below.
    rest = re.sub(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", "", LOCK, flags=re.MULTILINE)
    assert all(line.startswith("#") for line in rest.splitlines() if line)
    assert all(pin.url is None and len(pin.specifier) == 1 for pin in PINS)


def test_conda_installs_the_very_pins_of_the_lock():
    assert sorted(map(str, conda_pins())) == sorted(map(str, PINS))


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_what_is_asked_for_is_locked(requirement):
    pins = [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert pins
    assert all(requirement.specifier.contains(version(pin)) for pin in pins)


def test_every_pin_has_hashes_and_no_address():
    for block, pin in zip(BLOCKS, PINS, strict=True):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), pin.name
    assert "://" not in LOCK and "://" not in (ROOT / "environment.yml").read_text("utf-8")
    assert not re.search(r"^\s*(-i|-f|-e|--(?!hash=))", LOCK, re.MULTILINE)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_no_package_is_pinned_twice_on_one_machine(python, system):
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system,
        "os_name": "nt" if system == "win32" else "posix",
    }
    active = [
        pin.name for pin in PINS if (pin.marker or Marker("os_name != ''")).evaluate(default_environment() | machine)
    ]
    assert len(active) == len(set(active)) > 100
    direct = {canonicalize_name(requirement.name) for requirement in wanted()}
    assert direct <= set(map(canonicalize_name, active))


def test_conda_brings_a_python_that_the_project_takes():
    (python,) = [item for item in CONDA["dependencies"] if str(item).startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.partition("=")[2].strip("="))
    assert "pip" in CONDA["dependencies"]
    assert CONDA["name"] == PROJECT["name"]


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    versions = [citation["version"], citation["preferred-citation"]["version"], PROJECT["version"]]
    assert versions == [anatomy.__version__] * 3


def test_what_runs_the_tests_is_what_is_locked():
    # Else a green run says nothing about the environment that a reader gets.
    from importlib.metadata import version as installed

    for pin in PINS:
        if pin.name in ("jax", "jaxlib", "jupyter-book", "sphinx", "hypothesis", "pytest"):
            assert Version(installed(pin.name)) == version(pin), pin.name


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_what_make_sets_for_jax_exists_and_benchmarks_compile_anew(tmp_path):
    asked = "show bench:\n\t@env\n"
    text = re.sub(r"^bench: \$.*\n\t.*\n", asked, (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    (tmp_path / "Makefile").write_text(text, "utf-8")
    told = {}
    for target in ("show", "bench"):
        said = subprocess.check_output(["make", target], cwd=tmp_path, text=True)
        told[target] = dict(re.findall(r"^(JAX_\w+)=(.*)$", said, re.MULTILINE))
    assert "JAX_COMPILATION_CACHE_DIR" in told["show"]
    assert {name.lower() for name in told["bench"]} <= set(jax.config.values)
    assert told["bench"]["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert "JAX_ENABLE_COMPILATION_CACHE" not in told["show"]
