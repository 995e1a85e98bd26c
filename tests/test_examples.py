"""The examples of the README and of the API reference run as they stand, and print something."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
API = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", (ROOT / "book" / "api.rst").read_text("utf-8"))


def test_there_are_examples():
    assert README and API


@pytest.mark.parametrize(
    "code", [*README, *API], ids=[f"README {i}" for i, _ in enumerate(README)] + ["API"] * len(API)
)
def test_an_example_runs(code, capsys):
    exec(compile(textwrap.dedent(code), "example", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()
