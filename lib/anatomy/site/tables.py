"""Tables of computed rows, as HTML that notebooks and pages show."""

from collections.abc import Iterable, Sequence
from html import escape

from anatomy.claims.ledger.html import Html


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Html:
    """A table; cells are text already formatted, or HTML; those that begin with a digit or sign are set right.

    Args:
        header: names of the columns, with their units.
        rows: cells, as many as the header has.
        caption: what to see in it.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    lines: list[list[object]] = [list(row) for row in rows]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"table row {line} has {len(line)} cells; allowed: {len(header)}")
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    html = f'<table class="table">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Html(html, "\n".join("\t".join(map(str, line)) for line in (header, *lines)))


def _cell(cell: object) -> str:
    """A cell; numbers stand at the right, so that their digits line up."""
    if isinstance(cell, Html):
        return f'<td class="text">{cell.html}</td>'
    text = str(cell)
    numeric = text.lstrip("+-−$")[:1].isdigit()
    return f'<td class="{"number" if numeric else "text"}">{escape(text)}</td>'
