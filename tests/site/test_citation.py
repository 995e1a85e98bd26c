"""Citations read back by the programs that will read them: BibTeX, CSL, JSON-LD, HTML."""

import json
import re
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path

import bibtexparser
import hypothesis.strategies as st
import pybtex.database
import pytest
import yaml
from anatomy.site.sphinx import citation
from anatomy.site.sphinx.citation import Book, Chapter
from bibtexparser.bparser import BibTexParser
from bibtexparser.customization import convert_to_unicode
from bs4 import BeautifulSoup
from citeproc import Citation, CitationItem, CitationStylesBibliography, CitationStylesStyle, formatter
from citeproc.source.json import CiteProcJSON
from hypothesis import example, given, settings

ROOT = Path(__file__).parents[2]
CFF = ROOT / "CITATION.cff"
BOOK = citation.read_book(CFF)
ONLINE = replace(BOOK, url="https://example.org/a_b~c/", repository="https://example.org/code")
CHAPTER = Chapter("Training cost", "training-cost")
PAGE = "https://example.org/a_b~c/book/training-cost.html"
NASTY = 'A & B_c: 100% of $5 #1, "GPT-4" <b>café</b>\'s'

books = pytest.mark.parametrize("book", [BOOK, ONLINE], ids=["offline", "online"])
chapters = pytest.mark.parametrize("chapter", [CHAPTER, None], ids=["chapter", "whole"])


def visible(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One-line titles without space at either end."""
    return st.text(alphabet, min_size=1, max_size=40).map(lambda t: " ".join(t.split())).filter(bool)


# bibtexparser reads more ligatures than LaTeX has (,, and := and {'}): signs stand apart, behind a letter.
ordinary = visible(st.sampled_from("abcXYZ 0189 &%_$#\"'<>/;:,.?!@=+()[]*éüñçøßÅ–“”’…αЖ日")).filter(
    lambda t: t[0].isalnum() and not re.search(r"([^\w\s]|_){2}", t)
)
any_text = visible(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "))


def parse(bib: str) -> dict[str, str]:
    """The only entry, as bibtexparser understands it."""
    parser = BibTexParser(common_strings=True)
    parser.customization = convert_to_unicode
    (entry,) = bibtexparser.loads(bib, parser).entries
    # Of the signs that LaTeX escapes, bibtexparser 1 leaves only the dollar as it stands.
    return {name: value.replace(r"\$", "$") for name, value in entry.items()}


def unlatex(field: str) -> str:
    """The text that LaTeX would set."""
    signs = {"backslash": "\\", "braceleft": "{", "braceright": "}", "asciicircum": "^", "asciitilde": "~"}
    field = field[1:-1] if field.startswith("{") else field
    return re.sub(r"\\(?:text(\w+)\{\}|(\W|_))", lambda m: signs[m[1]] if m[1] else m[2], field)


def rendered(book: Book, chapter: Chapter | None) -> str:
    """The bibliography entry that citeproc makes of the CSL file."""
    (_, csl) = citation.files(book, chapter).values()
    style = CitationStylesStyle("harvard-cite-them-right", validate=False)
    bibliography = CitationStylesBibliography(style, CiteProcJSON(json.loads(csl)), formatter.plain)
    bibliography.register(Citation([CitationItem(citation.key(book, chapter))]))
    (entry,) = bibliography.bibliography()
    return str(entry)


def test_text():
    assert citation.text(BOOK, CHAPTER) == (
        "The Anatomy of GPT-4 contributors (2026). Training cost. In The Anatomy of GPT-4: an executable "
        "audit of the 2023 leak (version 0.1.0, 2026-11-24)."
    )
    assert citation.text(ONLINE, CHAPTER) == f"{citation.text(BOOK, CHAPTER)} {PAGE}"
    assert "what if? In" in citation.text(BOOK, Chapter("And what if?", "what-if"))
    assert citation.text(replace(BOOK, authors=("A", "B", "C"))).startswith("A, B and C (2026). The Anatomy")


def test_bibtex_of_a_chapter():
    bib = citation.bibtex(ONLINE, CHAPTER)
    assert "author = {{The Anatomy of GPT-4 contributors}}" in bib
    assert parse(bib) == {
        "ENTRYTYPE": "incollection",
        "ID": "anatomy2026training-cost",
        "title": CHAPTER.title,
        "booktitle": BOOK.title,
        "author": "The Anatomy of GPT-4 contributors",
        "year": "2026",
        "note": "Version 0.1.0, chapter training-cost",
        "url": PAGE,
    }


def test_bibtex_of_the_book():
    entry = parse(citation.bibtex(BOOK))
    assert (entry["ENTRYTYPE"], entry["ID"], entry["title"]) == ("book", "anatomy2026", BOOK.title)
    assert not entry.keys() & {"booktitle", "url"}


def test_bibtex_keeps_every_author_whole():
    authors = ("Smith, Wesson and Sons", "von der Bank & Co.")
    entry = pybtex.database.parse_string(citation.bibtex(replace(BOOK, authors=authors)), "bibtex").entries
    (persons,) = (entry.persons["author"] for entry in entry.values())
    assert [unlatex(str(person)) for person in persons] == list(authors)
    assert [person.last_names for person in persons] == [[str(person)] for person in persons]


def test_bibtex_protects_capitals_only_where_there_are_any():
    assert "title = {Training cost}" in citation.bibtex(BOOK, CHAPTER)
    assert "title = {{The size of GPT-4}}" in citation.bibtex(BOOK, Chapter("The size of GPT-4", "size"))


@settings(deadline=None)  # the first call loads tables
@given(ordinary, ordinary, ordinary)
@example(NASTY, NASTY, NASTY)
def test_bibtex_survives_ordinary_titles(title, book_title, author):
    book = replace(BOOK, title=book_title, authors=(author,))
    entry = parse(citation.bibtex(book, Chapter(title, "x")))
    assert (entry["title"], entry["booktitle"], entry["author"]) == (title, book_title, author)


@settings(deadline=None)  # the first call loads tables
@given(any_text, any_text)
@example("}{", "\\")
@example(r"\alpha{", r"^~$\%$")
def test_bibtex_survives_any_title(title, author):
    bib = citation.bibtex(replace(BOOK, authors=(author,)), Chapter(title, "x"))
    (entry,) = pybtex.database.parse_string(bib, "bibtex").entries.values()
    assert unlatex(entry.fields["title"]) == title
    assert unlatex(str(entry.persons["author"][0])) == author


@books
@chapters
def test_csl_renders(book, chapter):
    entry = rendered(book, chapter)
    assert (chapter or book).title in entry
    assert book.title in entry
    assert "The Anatomy of GPT-4 contributors (2026)" in entry
    assert ((citation.address(book, chapter) or "http") in entry) == (book is ONLINE)


def test_csl_renders_special_characters():
    book = replace(BOOK, authors=("Smith & Sons_% of Łódź",))
    entry = rendered(book, Chapter("A & B_c: 100% of $5 #1 <i>café</i>", "x"))
    assert "A & B_c: 100% of $5 #1 <i>café</i>" in entry
    assert "Smith & Sons_% of Łódź" in entry


def test_csl_item():
    (item,) = citation.csl_json(BOOK, CHAPTER)
    assert item == {
        "id": "anatomy2026training-cost",
        "type": "chapter",
        "title": "Training cost",
        "container-title": BOOK.title,
        "author": [{"literal": "The Anatomy of GPT-4 contributors"}],
        "issued": {"date-parts": [[2026, 11, 24]]},
        "version": "0.1.0",
        "language": "en",
    }
    (whole,) = citation.csl_json(ONLINE)
    assert (whole["type"], whole["title"], whole["URL"]) == ("book", BOOK.title, ONLINE.url)
    assert "container-title" not in whole


def test_json_ld():
    data = citation.json_ld(BOOK, CHAPTER)
    assert data["@context"] == "https://schema.org"
    assert data["@type"] == ["Chapter", "ScholarlyArticle"]
    assert data["name"] == data["headline"] == "Training cost"
    assert data["author"] == [{"@type": "Organization", "name": "The Anatomy of GPT-4 contributors"}]
    assert data["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert (data["datePublished"], data["version"], data["inLanguage"]) == ("2026-11-24", "0.1.0", "en")
    assert (data["isPartOf"]["@type"], data["isPartOf"]["name"]) == ("Book", BOOK.title)
    assert "url" not in data and "url" not in data["isPartOf"]
    online = citation.json_ld(ONLINE, CHAPTER)
    assert (online["url"], online["isPartOf"]["url"]) == (PAGE, ONLINE.url)
    whole = citation.json_ld(ONLINE)
    assert (whole["@type"], whole["name"], whole["url"]) == ("Book", BOOK.title, ONLINE.url)
    assert whole["isBasedOn"]["codeRepository"] == ONLINE.repository


def test_json_ld_names_every_licence():
    data = citation.json_ld(replace(BOOK, license=("MIT", "CC-BY-SA-3.0")))
    assert data["license"] == [
        "https://spdx.org/licenses/MIT.html",
        "https://creativecommons.org/licenses/by-sa/3.0/",
    ]
    assert "license" not in citation.json_ld(replace(BOOK, license=()))


def test_highwire():
    tags = citation.highwire(BOOK, CHAPTER)
    assert tags == [
        ("citation_title", "Training cost"),
        ("citation_book_title", BOOK.title),
        ("citation_inbook_title", BOOK.title),
        ("citation_author", "The Anatomy of GPT-4 contributors"),
        ("citation_publication_date", "2026/11/24"),
        ("citation_language", "en"),
    ]
    assert citation.highwire(ONLINE, CHAPTER) == [
        *tags,
        ("citation_public_url", PAGE),
        ("citation_fulltext_html_url", PAGE),
    ]


def test_highwire_of_the_book_is_no_journal_article():
    tags = dict(citation.highwire(ONLINE))
    assert (tags["citation_title"], tags["dc.type"]) == (BOOK.title, "book")
    assert tags["citation_public_url"] == ONLINE.url
    assert not tags.keys() & {"citation_book_title", "citation_inbook_title", "citation_journal_title"}


@settings(deadline=None)  # the first call loads tables
@given(any_text, any_text)
@example(NASTY, NASTY)
@example("</script><script>alert(1)</script>", "<!-- \"><img src=x onerror='x'>")
def test_html_survives_any_title(title, author):
    book, chapter = replace(ONLINE, authors=(author,)), Chapter(title, "x")
    head = BeautifulSoup(citation.head(book, chapter), "html.parser")
    assert [(tag["name"], tag["content"]) for tag in head("meta")] == citation.highwire(book, chapter)
    (script,) = head("script")
    assert json.loads(script.string) == citation.json_ld(book, chapter)
    box = BeautifulSoup(citation.citation_box(book, chapter), "html.parser")
    assert box.find("p").get_text() == citation.text(book, chapter)
    assert box.find("pre").get_text() == citation.bibtex(book, chapter)
    assert {tag.name for tag in box.find_all(True)} == {"div", "p", "a", "details", "summary", "pre"}
    (_, csl) = citation.files(book, chapter).values()
    assert json.loads(csl)[0]["title"] == title


@books
@chapters
def test_box_links_to_the_files(book, chapter):
    box = BeautifulSoup(citation.citation_box(book, chapter), "html.parser")
    links = [link["href"] for link in box("a")]
    downloads = [f"cite/{name}" for name in citation.files(book, chapter)]
    assert links == ([citation.address(book, chapter)] if book.url else []) + downloads
    stem = chapter.slug if chapter else "index"
    assert downloads == [f"cite/{stem}.bib", f"cite/{stem}.json"]
    assert citation.citation_box(book, chapter) == citation.citation_box(book, chapter)


@pytest.mark.parametrize("slug", ["", "Training", "a b", "a_b", "-a", "a-", "../a", "a/b", "a\n", "é"])
def test_slug_must_fit_a_file_name(slug):
    with pytest.raises(ValueError, match=r"Chapter\.slug is .*; allowed: lower-case words"):
        Chapter("A", slug)


def test_chapter_needs_a_title():
    with pytest.raises(ValueError, match=r"Chapter\.title is ' '; allowed: text"):
        Chapter(" ", "a")


@pytest.fixture
def read(tmp_path):
    """Reads our `CITATION.cff` with some fields changed, or dropped where None."""

    def change(**fields):
        cff = yaml.load(CFF.read_text("utf-8"), Loader=yaml.BaseLoader)
        cff |= {name.replace("_", "-"): value for name, value in fields.items()}
        path = tmp_path / "CITATION.cff"
        path.write_text(yaml.safe_dump({k: v for k, v in cff.items() if v is not None}), "utf-8")
        return citation.read_book(path)

    return change


@pytest.mark.parametrize("field", ["title", "authors", "version", "date-released"])
def test_missing_field_is_named(read, field):
    with pytest.raises(ValueError, match=rf"CITATION\.cff: {field} is missing; allowed: .+"):
        read(**{field: None})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "  "),
        ("title", ["a", "b"]),
        ("authors", []),
        ("authors", "The contributors"),
        ("authors", ["The contributors"]),
        ("authors", [{"name": "A"}, {"family-names": "B", "given-names": "C"}]),
        ("version", ""),
        ("date-released", "24 November 2026"),
        ("date-released", "2026-02-30"),
        ("date-released", "2026-11"),
        ("license", [""]),
        ("url", "example.org"),
        ("url", "https://example.org/a b"),
        ("repository-code", "git@example.org:a/b.git"),
    ],
)
def test_wrong_field_is_named_with_what_stands_there(read, field, value):
    changes = {"preferred-citation": None} if field == "license" else {}
    with pytest.raises(ValueError) as error:
        read(**changes, **{field: value})
    assert f"CITATION.cff: {field} is {value!r}; allowed: " in str(error.value)


@pytest.mark.parametrize("content", ["", "just text", "- a list", "a: [unclosed"])
def test_file_that_is_no_cff(tmp_path, content):
    path = tmp_path / "CITATION.cff"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"CITATION\.cff is "):
        citation.read_book(path)


def test_values_are_read_as_written(tmp_path):
    path = tmp_path / "CITATION.cff"
    path.write_text(
        "title: >-\n  A\n  title\nauthors: [{name: Us}]\nversion: 0.10\ndate-released: 2026-11-24\n"
        "license: MIT\nurl: https://example.org\nrepository-code: https://example.org/code\n"
    )
    assert citation.read_book(path) == Book(
        title="A title",
        authors=("Us",),
        version="0.10",
        released=date(2026, 11, 24),
        license=("MIT",),
        url="https://example.org",
        repository="https://example.org/code",
    )


def test_optional_fields_may_be_missing(read):
    book = read(license=None, preferred_citation=None, url=None, repository_code=None)
    assert (book.license, book.url, book.repository) == ((), None, None)
    for chapter in (CHAPTER, None):
        formats = citation.text(book, chapter), citation.citation_box(book, chapter)
        assert not any("http" in made or "None" in made for made in formats)


def test_cff_has_what_the_format_requires():
    cff = yaml.safe_load(CFF.read_text("utf-8"))
    assert cff["cff-version"] == "1.2.0"
    assert all(cff[field] for field in ("message", "title", "authors", "abstract", "keywords"))
    assert cff["type"] in {"software", "dataset"}
    assert cff["license"] == ["MIT", "CC-BY-4.0"]
    assert cff["preferred-citation"]["type"] == "book"


def test_cff_says_the_same_twice():
    cff = yaml.safe_load(CFF.read_text("utf-8"))
    preferred = cff["preferred-citation"]
    # No YAML anchors: GitHub's reader refuses them.
    for field in ("title", "authors", "version", "date-released", "url", "repository-code"):
        assert preferred.get(field) == cff.get(field)
    assert preferred["year"] == BOOK.released.year
    assert preferred["license"] in cff["license"]


def test_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert BOOK.version == project["version"]
    assert project["authors"] == [{"name": author} for author in BOOK.authors]
