"""The built site: strict, the same bytes twice, no dead link, nothing from outside, readable on a phone."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bibtexparser
import pytest
from anatomy import __version__, claims
from anatomy.claims.article.frontier import serving_plan
from anatomy.site.interactive.calculator import quantity
from bs4 import BeautifulSoup
from support.browser import chromium, needs_chromium, served
from support.calculators import CHAPTERS, largest_error, of_chapter, on_page
from support.nodejs import needs_node, run_javascript

pytestmark = pytest.mark.slow

CHAPTERS_SO_FAR = [
    "index", "replicability", "architecture", "dataset", "parallelism", "training-cost", "moe-tradeoffs",
    "inference-tradeoffs", "inference-infrastructure", "inference-cost",
    "multi-query-attention", "continuous-batching", "speculative-decoding", "vision",
]  # fmt: skip
SLUGS = [*CHAPTERS_SO_FAR, "small-model", "claims", "validation", "reproducibility", "api", "how-to-cite", "references"]


def pages(html: Path) -> list[Path]:
    """All pages with content of ours."""
    return sorted((html / "book").glob("*.html"))


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text("utf-8"), "lxml")


def test_every_slug_has_a_page(site):
    assert {page.stem for page in pages(site.html)} >= set(SLUGS)


def test_two_clean_builds_give_the_same_bytes(sites):
    first, second = (
        {path.relative_to(site.html): path.read_bytes() for path in site.html.rglob("*") if path.is_file()}
        for site in sites
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []


def test_no_internal_link_is_dead(site):
    ours = [*site.html.glob("*.html"), *pages(site.html)]
    ids = {page: {tag["id"] for tag in soup(page).find_all(id=True)} for page in ours}
    dead = []
    for page in ids:
        for tag in soup(page).find_all(["a", "img", "link", "script", "source"]):
            target = tag.get("href") or tag.get("src")
            if not target or urlsplit(target).scheme or target.startswith("//"):
                continue
            parts = urlsplit(target)
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            if not path.exists() or (
                parts.fragment and path in ids and unquote(parts.fragment) not in ids[path] | {""}
            ):
                dead.append(f"{page.name}: {target}")
    assert dead == []


def test_no_id_stands_twice_on_a_page(site):
    for page in pages(site.html):
        found = [tag["id"] for tag in soup(page).article.find_all(id=True)]  # the theme repeats its own
        assert sorted(found) == sorted(set(found)), page.name


def test_every_figure_has_text_for_those_who_cannot_see_it(site):
    figures = 0
    for page in pages(site.html):
        for image in soup(page).select("article img"):
            figures += 1
            assert len(image.get("alt", "")) > 40, f"{page.name}: {image.get('src')}"
            assert image["src"].endswith(".svg")
            assert image.find_parent("figure").find("figcaption"), page.name
    assert figures >= 8


def test_figures_follow_the_dark_mode(site):
    drawn = list((site.html / "_images").glob("*.svg"))
    assert drawn
    for figure in drawn:
        assert "prefers-color-scheme: dark" in figure.read_text("utf-8")


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(site, width):
    """No request leaves the site, the console is silent, and nothing scrolls sideways."""
    problems = []
    with served(site.html) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((address, "data:")) else problems.append(r.url))
        page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        for found in pages(site.html):
            page.goto(f"{address}/book/{found.name}", wait_until="networkidle")
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            problems += [f"{found.name} is {wide} px too wide"] if wide > 0 else []
    assert problems == []


@needs_chromium
def test_the_ledger_filters_and_finds_a_claim_by_its_address(site):
    with served(site.html) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}/book/claims.html#arch.active_flops")
        shown = "document.querySelectorAll('.anatomy-claim:not([hidden])').length"
        assert page.evaluate(shown) == len(claims.claims())
        assert page.evaluate("document.querySelector(':target').id") == "arch.active_flops"
        page.select_option("select[name=verdict]", "unit error")
        units = [key for key in claims.claims() if claims.finding(key).verdict is claims.Verdict.UNIT_ERROR]
        assert page.evaluate(shown) == len(units)
        page.select_option("select[name=section]", "dataset")
        assert page.evaluate(shown) == sum(claims.get(key).section == "dataset" for key in units)


@needs_chromium
def test_a_calculator_answers_the_keyboard(site):
    with served(site.html) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.goto(f"{address}/book/architecture.html")
        box = page.locator(".anatomy-calculator").first
        slider = box.locator("input[type=range]").first
        output = box.locator("[data-output=total]")
        before = output.text_content()
        slider.focus()
        slider.press("ArrowRight")
        assert output.text_content() != before
        from anatomy import specs

        expected = specs.architecture("gpt4").replace(layers=121.0).parameters.total
        assert output.text_content() == quantity(expected, "parameters")


def test_calculators_read_without_javascript(site):
    for page in pages(site.html):
        boxes = soup(page).select(".anatomy-calculator")
        for box, specification in zip(boxes, on_page(page.read_text("utf-8")), strict=True):
            for output in specification["outputs"]:
                shown = box.select_one(f'[data-output="{output["name"]}"]').text
                assert shown == quantity(output["start"], output["unit"], output["digits"])


@needs_node
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_calculators_agree_with_jax(site, chapter):
    recorded = of_chapter(chapter)
    written = on_page((site.html / "book" / f"{chapter.stem}.html").read_text("utf-8"))
    assert len(recorded) == len(written) > 0
    for calculator, specification in zip(recorded, written, strict=True):
        assert largest_error(specification["function"], calculator) < 1e-11


def test_the_frontier_of_serving_travels_light_and_reads_without_javascript(site):
    (box,) = soup(site.html / "book" / "inference-infrastructure.html").select(".anatomy-frontier")
    assert len(str(box).encode()) < 100_000
    rows = box.select(".without-script tbody tr")
    assert len(rows) >= 8 and all(cell.text for row in rows for cell in row.select("td"))


@needs_node
def test_the_frontier_of_serving_agrees_with_jax(site):
    page = soup(site.html / "book" / "inference-infrastructure.html")
    specification = json.loads(page.select_one(".anatomy-frontier-spec").string)
    points = [row for key in specification["sets"].values() for series in key for row in series]
    inputs = [dict(zip(specification["columns"], row, strict=True), price=2.5) for row in points]
    found = run_javascript(specification["function"], inputs)
    for given, result in zip(inputs[::9], found[::9], strict=True):
        assert result == pytest.approx({k: float(v) for k, v in serving_plan(**given).items()}, rel=1e-12)


@needs_chromium
def test_the_frontier_of_serving_answers_keys_and_fills_its_place(site):
    with served(site.html) as address, chromium() as browser:
        for width in (390, 1280):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(f"{address}/book/inference-infrastructure.html")
            box = page.locator(".anatomy-frontier")
            walk, cost = box.locator("[data-walk]"), box.locator("[data-output=dollars]")
            first = float(cost.text_content().lstrip("$"))
            walk.focus()
            walk.press("ArrowRight")
            assert float(cost.text_content().lstrip("$")) < first  # slower, and cheaper
            ticks = box.locator("svg text[text-anchor=middle]")
            assert ticks.count() >= 2
            # The theme makes tables blocks; here a row reaches from end to end.
            row, place = (box.locator(f".results{part}").first.bounding_box() for part in (" tr", ""))
            assert row["width"] == pytest.approx(place["width"], abs=1)


@needs_chromium
def test_a_speculation_can_be_stepped_through_on_its_page(site):
    (box,) = soup(site.html / "book" / "speculative-decoding.html").select(".anatomy-stepper")
    assert len(str(box).encode()) < 100_000
    fates = {row.select("td")[-1].text for row in box.select(".without-script tbody tr")}
    assert {"accepted", "rejected", "drawn from the residual distribution"} <= fates
    with served(site.html) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.goto(f"{address}/book/speculative-decoding.html")
        box = page.locator(".anatomy-stepper")
        walk = box.locator("[data-walk]")
        steps, kept = int(walk.get_attribute("max")), 0
        for _ in range(steps):
            walk.press("ArrowRight")
            kept += box.locator(".token.resampled, .token.bonus").count()
        assert walk.input_value() == str(steps) and kept >= 2
        assert box.locator(".distributions .bar").count() >= 4
        row, place = (box.locator(f".distributions{part}").first.bounding_box() for part in (" tr", ""))
        assert row["width"] == pytest.approx(place["width"], abs=1)


def test_architecture_and_dataset_have_calculators(site):
    for slug in ("architecture", "dataset"):
        assert on_page((site.html / "book" / f"{slug}.html").read_text("utf-8"))


def test_claims_json_is_the_ledger_with_the_version(site):
    records = json.loads((site.html / "claims.json").read_text("utf-8"))
    assert [record["id"] for record in records] == list(claims.claims())
    needed = ["id", "section", "claim", "verdict", "value", "unit", "article_value", "assumes", "evidence", "chapter"]
    for record in records:
        assert set(needed) <= record.keys()
        assert record["version"] == __version__
        assert record["verdict"] == claims.finding(record["id"]).verdict
    ids = {tag["id"] for tag in soup(site.html / "book" / "claims.html").select(".anatomy-claim")}
    assert ids == set(claims.claims())


@pytest.mark.parametrize("slug", SLUGS)
def test_every_page_can_be_cited(site, slug):
    page = soup(site.html / "book" / f"{slug}.html")
    names = {tag["name"]: tag["content"] for tag in page.find_all("meta", attrs={"name": re.compile("^citation_")})}
    data = json.loads(page.find("script", type="application/ld+json").string)
    entry = bibtexparser.loads((site.html / "book" / "cite" / f"{slug}.bib").read_text("utf-8")).entries[0]
    item = json.loads((site.html / "book" / "cite" / f"{slug}.json").read_text("utf-8"))[0]
    title = page.h1.find(string=True) if slug != "index" else None
    if title:
        assert names["citation_title"] == data["name"] == item["title"] == title
        assert names["citation_book_title"] == item["container-title"] == data["isPartOf"]["name"]
        assert entry["ENTRYTYPE"] == "incollection"
    assert names["citation_author"] == "The Anatomy of GPT-4 contributors"


def test_chapters_show_their_citation(site):
    for slug in ("index", "replicability", "architecture", "dataset", "claims", "how-to-cite"):
        assert soup(site.html / "book" / f"{slug}.html").select(".citation-box"), slug


def test_no_launch_button_without_a_repository(site):
    for page in pages(site.html):
        assert not soup(page).select(".btn-launch-button, .dropdown-launch-buttons, [title*=Launch]"), page.name
