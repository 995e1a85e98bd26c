"""Claims on a page: a box for each in a chapter, and the ledger with all of them.

HTML is made when the object is made: an error inside `_repr_html_` would be swallowed by IPython.
"""

import re
from collections import Counter
from collections.abc import Iterable
from html import escape
from math import log

from anatomy.claims.ledger.claim import Claim, Terms
from anatomy.claims.ledger.finding import Finding, Verdict
from anatomy.claims.ledger.html import Html, embedded
from anatomy.claims.ledger.registry import finding
from anatomy.claims.record.article import SECTIONS, claims, get
from anatomy.specs.units import readable

TONES = {
    Verdict.HOLDS: "good",
    Verdict.CONFIRMED: "good",
    Verdict.CONDITIONAL: "fair",
    Verdict.PARTLY: "fair",
    Verdict.OFF: "bad",
    Verdict.CONTRADICTION: "bad",
    Verdict.UNIT_ERROR: "bad",
    Verdict.LOST: "bad",
    Verdict.REFUTED: "bad",
    Verdict.OPINION: "open",
    Verdict.NO_EVIDENCE: "open",
    Verdict.NOT_YET: "open",
}


NAMES = {
    "deepseek": "DeepSeek",
    "openai": "OpenAI",
    "nvidia": "NVIDIA",
    "aws": "AWS",
    "bigscience": "BigScience",
    "mosaicml": "MosaicML",
    "bytedance": "ByteDance",
    "mlperf": "MLPerf",
    "torchvision": "TorchVision",
    "lamypoirier": "Lamy-Poirier",
    "laurencon": "Laurençon",
    "pihl": "Pungas",
}


def show(*ids: str) -> Html:
    """Boxes for these claims: what the article says, what is found, and the link to the ledger.

    Raises:
        KeyError: there is no such claim.
    """
    chosen = [get(key) for key in ids]
    boxes = "".join(_box(claim, link=True) for claim in chosen)
    text = "\n".join(f"{claim.id}: {finding(claim.id).verdict}. {claim.claim}." for claim in chosen)
    return Html(f'{_style()}<div class="anatomy-claims">{boxes}</div>', text)


def listing(section: str) -> Html:
    """The claims of a section in short: what is claimed, printed and recomputed, and the verdict.

    Raises:
        KeyError: there is no such section.
    """
    if section not in SECTIONS:
        raise KeyError(f"section {section!r}; allowed: {', '.join(SECTIONS)}")
    chosen = [claim for claim in claims().values() if claim.section == section]
    rows = []
    for claim in chosen:
        found = finding(claim.id)
        recomputed = "" if found.value is None else _number(found.value, found.unit)
        rows.append(
            f'<tr data-tone="{TONES[found.verdict]}"><td data-label="Claim"><a href="claims.html#{escape(claim.id)}">'
            f'{escape(claim.claim)}</a></td><td data-label="Article">{escape(_printed(claim))}</td>'
            f'<td data-label="Recomputed">{escape(recomputed)}</td>'
            f'<td class="verdict" data-label="Verdict">{escape(_verdict(found))}</td></tr>'
        )
    head = "<tr><th>Claim</th><th>Article</th><th>Recomputed</th><th>Verdict</th></tr>"
    html = f'<table class="anatomy-listing table"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
    return Html(_style() + html, "\n".join(f"{c.id}: {finding(c.id).verdict}" for c in chosen))


def ledger() -> Html:
    """All claims by section, with filters by section, verdict and words.

    Every claim is an element whose id is the claim's: its permanent address on the page.
    """
    parts = []
    for section, title in SECTIONS.items():
        boxes = "".join(_box(claim, link=False) for claim in claims().values() if claim.section == section)
        parts.append(
            f'<section class="anatomy-section"><h2>{escape(title)}</h2>'
            f'<div class="anatomy-claims">{boxes}</div></section>'
        )
    present = [v for v in Verdict if any(finding(key).verdict is v for key in claims())]
    filters = (
        '<form class="anatomy-filters" hidden onsubmit="return false">'
        + _select("section", "Section", SECTIONS.items())
        + _select("verdict", "Verdict", ((v, str(v).capitalize()) for v in present))
        + '<label>Words <input type="search" name="words" autocomplete="off"></label>'
        + '<output aria-live="polite"></output></form>'
    )
    body = f'<div class="anatomy-ledger">{filters}{"".join(parts)}{embedded("claims/ledger/ledger.js")}</div>'
    return Html(_style() + body, f"{len(claims())} claims")


def summary() -> dict[str, dict[Verdict, int]]:
    """How many claims of each section have each verdict."""
    return {
        section: Counter(finding(c.id).verdict for c in claims().values() if c.section == section)
        for section in SECTIONS
    }


def _box(claim: Claim, *, link: bool) -> str:
    """One claim with its finding."""
    found = finding(claim.id)
    address = f'<a href="claims.html#{escape(claim.id)}"><code>{escape(claim.id)}</code></a>'
    own = f'<a href="#{escape(claim.id)}"><code>{escape(claim.id)}</code></a>'
    identity = "" if link else f' id="{escape(claim.id)}"'
    lines = [
        f'<div class="head"><span class="verdict">{escape(_verdict(found))}</span>{address if link else own}</div>',
        f"<p><strong>{escape(claim.claim)}.</strong></p>",
        _numbers(claim, found),
        f"<p>{escape(found.says)}</p>",
        f'<p class="rest">{_rest(claim, found)}</p>',
    ]
    return (
        f'<div class="anatomy-claim"{identity} data-tone="{TONES[found.verdict]}" '
        f'data-section="{claim.section}" data-verdict="{escape(found.verdict)}">{"".join(lines)}</div>'
    )


def _verdict(found: Finding) -> str:
    """The verdict, with by how much and which other claim where that belongs to it."""
    text = str(found.verdict).capitalize()
    if found.verdict is Verdict.OFF and found.off_by:
        text += f" by a factor of {found.off_by:.3g}"
    if found.verdict is Verdict.UNIT_ERROR and found.off_by:
        text += f" (a factor of {1000 ** abs(round(log(found.off_by, 1000))):,})"
    if found.contradicts:
        text += f" ({found.contradicts})"
    return text


def _numbers(claim: Claim, found: Finding) -> str:
    """The printed number beside the recomputed one."""
    cells = []
    if claim.value is not None:
        cells.append(("Article", _printed(claim)))
    if found.value is not None:
        cells.append(("Recomputed", _number(found.value, found.unit)))
    if found.beside is not None:
        cells.append(("Computed beside it", _number(*found.beside)))
    spans = "".join(f"<span>{name}: <b>{escape(value)}</b></span>" for name, value in cells)
    return f'<div class="numbers">{spans}</div>' if spans else ""


def cite(key: str) -> Html:
    """A link to an entry of the bibliography, named after its author and year: "Shilov 2023"."""
    author, year = re.match(r"([a-z]+)(\d{4})", key).groups()  # type: ignore[union-attr]
    name = f"{NAMES.get(author, author.capitalize())} {year}"
    return Html(f'<a href="references.html#{escape(key)}" title="{escape(key)}">{escape(name)}</a>', name)


def _number(value: float, unit: str) -> str:
    """A number with its unit; a share in per cent."""
    return readable(value, "%" if unit == "share" else unit)


def _printed(claim: Claim) -> str:
    """The number as the article prints it, a range with both ends."""
    numbers = claim.range or (() if claim.value is None else (claim.value,))
    return " to ".join(readable(number, claim.unit) for number in numbers)


def _rest(claim: Claim, found: Finding) -> str:
    """Evidence, what the verdict turns on, assumptions, sources and what was lost in translation."""
    parts = [f"Evidence: {escape(found.evidence)}."]
    if claim.verdict.terms:
        parts.append(f"The verdict turns on: {escape(_terms(claim.verdict))}. {escape(claim.verdict.reason)}")
    if found.assumes:
        parts.append(f"Assumes: {escape('; '.join(found.assumes))}.")
    if found.sources:
        links = (cite(key).html for key in found.sources)
        parts.append(f"Sources: {', '.join(links)}.")
    if claim.original:
        parts.append(f"The English original: {escape(claim.original[0].lower() + claim.original[1:])}")
    if claim.note:
        parts.append(escape(claim.note))
    return " ".join(parts)


def _terms(verdict: Terms) -> str:
    """What a verdict turns on, in words: "least share 0.9; firms Google, Meta"."""
    shown = {
        name: ", ".join(term) if isinstance(term, tuple) else term if isinstance(term, str) else f"{term:,.9g}"
        for name, term in verdict.terms.items()
    }
    return "; ".join(f"{name.replace('_', ' ')} {term}" for name, term in shown.items())


def _select(name: str, title: str, options: Iterable[tuple[str, str]]) -> str:
    """A labelled choice that begins with everything."""
    choices = "".join(f'<option value="{escape(key)}">{escape(text)}</option>' for key, text in options)
    return f'<label>{title} <select name="{name}"><option value="">All</option>{choices}</select></label>'


def _style() -> str:
    """The style sheet of boxes and ledger; it travels with them into notebooks."""
    return embedded("claims/ledger/ledger.css")
