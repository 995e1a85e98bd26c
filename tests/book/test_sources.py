"""Sources of the pages, read without being built."""

import ast
from pathlib import Path

import jupytext
import pytest
from support.checkout import ROOT

PAGES = sorted(path for path in (ROOT / "book").glob("*.md") if "```{code-cell}" in path.read_text("utf-8"))
# Calls whose value is to be seen.
SHOWN = {
    "table",
    "Html",
    "calculator",
    "claims.show",
    "claims.listing",
    "claims.ledger",
}


def lost(code: str) -> list[int]:
    """Lines of a cell with a value that is made to be seen and is not: a cell shows its last expression alone."""
    body = ast.parse(code).body
    return [
        statement.lineno
        for statement in body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func) in SHOWN
        and (statement is not body[-1] or code.rstrip().endswith(";"))
    ]


def test_a_lost_table_is_found():
    assert lost("table(a)\nx = 1") == [1] and lost("x = 1\ntable(a);") == [2]
    assert lost("x = 1\ntable(a)") == [] and lost("x = table(a)\nx.html") == [] and lost("glue(a=1)\nglue(b=1)") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_table_that_a_cell_makes_is_shown(page: Path):
    cells = [cell for cell in jupytext.read(page).cells if cell.cell_type == "code"]
    assert cells
    assert {number: found for number, cell in enumerate(cells) if (found := lost(cell.source))} == {}
