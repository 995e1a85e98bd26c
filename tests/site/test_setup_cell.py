"""The first cell of a downloaded notebook, which brings the library: in an empty folder, and in odd ones."""

import subprocess
import sys

import pytest
from anatomy import __version__
from anatomy.site.sphinx.notebooks import SETUP


def run(folder):
    """The cell in a fresh process, where the library is installed."""
    cell = f'WHEEL = ""\n{SETUP.format(name="anatomy.whl", version=__version__)}\nprint(anatomy.__version__)'
    return subprocess.run([sys.executable, "-c", cell], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folders", [(), ("anatomy",)])
def test_the_library_is_found(tmp_path, folders):
    for name in folders:
        (tmp_path / name).mkdir()
    done = run(tmp_path)
    assert done.stdout.strip() == __version__, done.stderr


def test_a_package_of_the_same_name_beside_the_notebook_is_named(tmp_path):
    (tmp_path / "anatomy").mkdir()
    (tmp_path / "anatomy" / "__init__.py").touch()
    done = run(tmp_path)
    assert done.returncode != 0 and "hides the library anatomy; rename it" in done.stderr
