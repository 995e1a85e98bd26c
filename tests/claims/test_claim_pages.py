"""Claims on a page: addresses, links, what is escaped, and what a reader reads."""

import dataclasses
import importlib
import re
from collections import Counter

import pytest
from anatomy.claims import SECTIONS, Finding, Verdict, as_records, claims, finding, ledger, listing, show, summary
from anatomy.claims.ledger.show import TONES
from bs4 import BeautifulSoup

ARTICLE, REGISTRY, SHOW = (
    importlib.import_module(f"anatomy.claims.{name}") for name in ("record.article", "ledger.registry", "ledger.show")
)
CLAIMS = claims()
SOME = "cb.used"  # any claim will do


def soup(page) -> BeautifulSoup:
    return BeautifulSoup(page.html, "lxml")


@pytest.fixture(scope="module")
def page() -> BeautifulSoup:
    return soup(ledger())


def test_every_claim_has_one_address(page):
    ids = Counter(element["id"] for element in page.find_all(id=True))
    assert ids == Counter(list(CLAIMS))
    boxes = page.select(".anatomy-claim")
    assert [box["id"] for box in boxes] == list(CLAIMS)
    # The page links to itself, so that the address of a claim can be copied.
    assert [box.select_one(".head a")["href"] for box in boxes] == [f"#{key}" for key in CLAIMS]


def test_boxes_say_what_was_found(page):
    for box in page.select(".anatomy-claim"):
        claim, found = CLAIMS[box["id"]], finding(box["id"])
        text = " ".join(box.get_text(" ").split())
        assert f"{claim.claim}." in text
        assert " ".join(found.says.split()) in text
        assert box.select_one(".verdict").get_text().lower().startswith(found.verdict)
        assert (box["data-section"], box["data-verdict"]) == (claim.section, found.verdict)
        assert box["data-tone"] == TONES[found.verdict]
        assert f"Evidence: {found.evidence}." in text
        assert claim.verdict.reason in text
        for name, term in claim.verdict.terms.items():
            shown = term if isinstance(term, (str, tuple)) else f"{term:,.9g}"
            for each in shown if isinstance(shown, tuple) else (shown,):
                assert re.search(rf"{name.replace('_', ' ')} [^;]*{re.escape(each)}", text), (claim.id, name)
        assert [a["href"] for a in box.select(".rest a")] == [f"references.html#{key}" for key in found.sources]
        assert ("Article:" in text) == (claim.value is not None)
        assert ("Recomputed:" in text) == (found.value is not None)


def test_an_open_claim_says_so(monkeypatch):
    monkeypatch.setattr(REGISTRY, "check_of", lambda key: None)
    found = REGISTRY.finding.__wrapped__(SOME)  # what is kept was found with the check
    monkeypatch.setattr(SHOW, "finding", lambda _: found)
    box = soup(show(SOME))
    assert box.select_one(".verdict").get_text() == "Not checked yet"
    assert "This section has not been worked through yet." in box.get_text()


def test_the_ledger_follows_the_sections(page):
    parts = page.select(".anatomy-section")
    assert [part.h2.get_text() for part in parts] == list(SECTIONS.values())
    for part, section in zip(parts, SECTIONS, strict=True):
        assert {box["data-section"] for box in part.select(".anatomy-claim")} == {section}


def test_filters_offer_what_there_is_and_hide_without_a_script(page):
    form = page.select_one("form.anatomy-filters")
    assert form.has_attr("hidden")  # the script shows it: without one it would do nothing
    section, verdict = form.select("select")
    assert [option["value"] for option in section.select("option")] == ["", *SECTIONS]
    present = {finding(key).verdict for key in CLAIMS}
    assert {option["value"] for option in verdict.select("option")} == {"", *present}
    assert all(control.find_parent("label") for control in form.select("select, input"))


@pytest.mark.parametrize("make", [ledger, lambda: show("arch.layers"), lambda: listing("dataset")])
def test_pages_ask_nothing_of_other_servers(make):
    page = soup(make())
    addresses = [element.get(name) for element in page.find_all(True) for name in ("src", "href") if element.get(name)]
    assert addresses
    assert all(re.match(r"(#|claims\.html#|references\.html#)[\w.-]+$", address) for address in addresses)


def test_boxes_in_a_chapter_link_to_the_ledger():
    page = show("arch.active_flops", "data.tokens")
    boxes = soup(page).select(".anatomy-claim")
    assert [box.select_one(".head a")["href"] for box in boxes] == [
        "claims.html#arch.active_flops",
        "claims.html#data.tokens",
    ]
    assert not soup(page).find_all(id=True)  # the address is the ledger's, and must be one
    assert boxes[0].select_one(".verdict").get_text() == "Unit error (a factor of 1,000)"
    assert [b.get_text() for b in boxes[0].select(".numbers b")] == ["560 TFLOP/token", "560 GFLOP/token"]
    assert repr(page).splitlines()[0].startswith("arch.active_flops: unit error. ")
    assert page._repr_html_() == page.html


@pytest.mark.parametrize("section", SECTIONS)
def test_listings_hold_the_claims_of_their_section(section):
    rows = soup(listing(section)).select("tbody tr")
    mine = [claim for claim in CLAIMS.values() if claim.section == section]
    assert [row.a["href"] for row in rows] == [f"claims.html#{claim.id}" for claim in mine]
    assert [row.a.get_text() for row in rows] == [claim.claim for claim in mine]
    for row, claim in zip(rows, mine, strict=True):
        printed, recomputed, verdict = (cell.get_text() for cell in row.select("td")[1:])
        assert (printed == "") == (claim.value is None)
        assert (recomputed == "") == (finding(claim.id).value is None)
        assert verdict.lower().startswith(finding(claim.id).verdict)


def test_each_number_keeps_its_own_unit():
    (box,) = soup(show("data.batch_60M")).select(".anatomy-claim")
    assert [b.get_text() for b in box.select(".numbers b")] == ["60 million tokens", "216,667 steps"]


def test_a_range_shows_both_ends():
    (box,) = soup(show("train.days")).select(".anatomy-claim")
    assert box.select_one(".numbers b").get_text() == "90 days to 100 days"


NASTY = 'less < more & "quoted" <script>alert(1)</script>'


@pytest.mark.parametrize("make", [ledger, lambda: show(SOME), lambda: listing(CLAIMS[SOME].section)])
def test_words_cannot_become_markup(make, monkeypatch):
    key = SOME
    claim = dataclasses.replace(CLAIMS[key], claim=NASTY, note=NASTY, original=NASTY, unit=f"<b>{NASTY}", value=5)
    found = Finding(verdict=Verdict.OFF, says=NASTY, value=2.0, unit="<i>", assumes=(NASTY,), off_by=0.4)
    for module in (ARTICLE, SHOW):
        monkeypatch.setattr(module, "claims", lambda: CLAIMS | {key: claim})
    monkeypatch.setattr(SHOW, "finding", lambda wanted: found if wanted == key else finding(wanted))
    html = make().html
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html and "<b>less" not in html and "<i>" not in html
    assert NASTY in soup(make()).get_text()


@pytest.mark.parametrize(
    "verdict, off_by, contradicts, text",
    [
        (Verdict.OFF, 2.5, None, "Off by a factor of 2.5"),
        (Verdict.OFF, None, None, "Off"),
        (Verdict.UNIT_ERROR, 1.02e-3, None, "Unit error (a factor of 1,000)"),
        (Verdict.UNIT_ERROR, 1000.0, None, "Unit error (a factor of 1,000)"),
        (Verdict.UNIT_ERROR, 1e6, None, "Unit error (a factor of 1,000,000)"),
        (Verdict.CONTRADICTION, 2.0, "train.days", "Contradicts another claim (train.days)"),
        (Verdict.HOLDS, 1.0, None, "Holds"),
    ],
)
def test_verdicts_say_by_how_much(verdict, off_by, contradicts, text, monkeypatch):
    found = Finding(verdict=verdict, says="So it is.", off_by=off_by, contradicts=contradicts)
    monkeypatch.setattr(SHOW, "finding", lambda key: found)
    assert soup(show("arch.layers")).select_one(".verdict").get_text() == text


def test_a_slip_of_a_million_is_a_million(monkeypatch):
    found = Finding(verdict=Verdict.UNIT_ERROR, says="So it is.", off_by=1.03e6)
    monkeypatch.setattr(SHOW, "finding", lambda key: found)
    assert "(a factor of 1,000,000)" in show("arch.layers").html


def test_unknown_names_say_what_there_is():
    with pytest.raises(KeyError, match=r"claim 'arch\.layer'; nearest: arch\.layers"):
        show("arch.layers", "arch.layer")
    with pytest.raises(KeyError, match=r"section 'data'; allowed: intro, replicability, architecture, dataset"):
        listing("data")


def test_the_summary_counts_every_claim_once():
    counted = summary()
    assert list(counted) == list(SECTIONS)
    assert sum(sum(counts.values()) for counts in counted.values()) == len(CLAIMS)
    for section, counts in counted.items():
        for verdict, number in counts.items():
            of_it = [r for r in as_records() if (r["section"], r["verdict"]) == (section, str(verdict))]
            assert number == len(of_it)


def test_every_verdict_has_a_tone():
    assert set(TONES) == set(Verdict)


def test_readers_see_names_and_no_keys_of_the_bibliography():
    for claim in CLAIMS.values():
        assert not re.search(r"\b[a-z]{3,}(19|20)\d\d[a-z]+", f"{claim.claim} {claim.original} {claim.note}"), claim.id
    # A key may be of another spelling than the name.
    assert SHOW.cite("pihl2023latency").text == "Pungas 2023" and SHOW.cite("openai2023gpt4").text == "OpenAI 2023"
