"""How the book and its chapters are cited, in every format from one source, `CITATION.cff`.

In all functions `chapter` None stands for the book as a whole. An address appears in a citation only
once `CITATION.cff` has a `url`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any, TextIO

import yaml
from pybtex.database import BibliographyData, Entry, Person
from pybtex.database.output.bibtex import Writer

KEY = "anatomy"  # citation keys begin with it
PAGES = "book"  # folder of the chapters' pages below the site's address
LANGUAGE = "en"
SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"

# pybtex takes a field for LaTeX and escapes the rest (& % # _). Braces are spelt out because BibTeX counts
# them even where a backslash stands before.
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\textbraceleft{}",
        "}": r"\textbraceright{}",
        "$": r"\$",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
    }
)


@dataclass(frozen=True)
class Book:
    """What `CITATION.cff` says of the book; `license` holds the SPDX names that stand for its text."""

    title: str
    authors: tuple[str, ...]
    version: str
    released: date
    license: tuple[str, ...] = ()
    url: str | None = None
    repository: str | None = None


@dataclass(frozen=True)
class Chapter:
    """A chapter; its slug is the name of its page and of its citation files."""

    title: str
    slug: str

    def __post_init__(self) -> None:
        """Refuse a slug that would need escaping in a key, a file name or an address."""
        if not re.fullmatch(SLUG, self.slug):
            raise ValueError(f"Chapter.slug is {self.slug!r}; allowed: lower-case words joined by hyphens")
        if not self.title.strip():
            raise ValueError(f"Chapter.title is {self.title!r}; allowed: text")


def read_book(path: str | Path) -> Book:
    """The book, from its `CITATION.cff`.

    Raises:
        ValueError: a field is missing or holds something else than it should.
    """
    path = Path(path)
    try:
        # BaseLoader leaves every value as written: version 0.10 stays 0.10, a wrong date can be named.
        cff = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(cff, dict):
        raise ValueError(f"{path} is {cff!r}; allowed: the fields of the Citation File Format")

    def field(name: str, fits: Callable[[Any], bool], allowed: str, *, required: bool = True) -> Any:
        value: Any = cff
        for step in name.split("/"):
            value = value.get(step) if isinstance(value, dict) else None
        if fits(value) or (value is None and not required):
            return value
        stands = "missing" if value is None else repr(value)
        raise ValueError(f"{path}: {name} is {stands}; allowed: {allowed}")

    authors = field("authors", _are_organisations, "a list of organisations, each with a `name`")
    web = "an address that begins with https:// or http://"
    names = "an SPDX name or a list of them"
    # At the top stand the licences of code and text, at the preferred citation that of the text.
    licence = field("preferred-citation/license", _are_texts, names, required=False)
    licence = licence or field("license", _are_texts, names, required=False) or ()
    return Book(
        title=_one_line(field("title", _is_text, "text")),
        authors=tuple(_one_line(author["name"]) for author in authors),
        version=field("version", _is_text, "text such as 0.1.0"),
        released=date.fromisoformat(field("date-released", _is_date, "a date such as 2026-11-24")),
        license=(licence,) if isinstance(licence, str) else tuple(licence),
        url=field("url", _is_address, web, required=False),
        repository=field("repository-code", _is_address, web, required=False),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def _are_organisations(value: Any) -> bool:
    entities = isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
    return entities and all(_is_text(entry.get("name")) for entry in value)


def _is_date(value: Any) -> bool:
    if not _is_text(value) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_address(value: Any) -> bool:
    return _is_text(value) and re.fullmatch(r"https?://[^\s{}]+", value) is not None


def _one_line(value: str) -> str:
    return " ".join(value.split())


def key(book: Book, chapter: Chapter | None = None) -> str:
    """The citation key, such as `anatomy2026architecture`."""
    return f"{KEY}{book.released.year}{chapter.slug if chapter else ''}"


def address(book: Book, chapter: Chapter | None = None) -> str | None:
    """Where the page lies on the web, or None as long as the book has no `url`."""
    if book.url is None or chapter is None:
        return book.url
    return f"{book.url.rstrip('/')}/{PAGES}/{chapter.slug}.html"


def text(book: Book, chapter: Chapter | None = None) -> str:
    """The citation as a reader would write it."""
    place = address(book, chapter)
    return _sentence(book, chapter) + (f" {place}" if place else "")


def _sentence(book: Book, chapter: Chapter | None) -> str:
    *others, last = book.authors
    authors = f"{', '.join(others)} and {last}" if others else last
    part = ""
    if chapter:
        stop = "" if chapter.title.endswith((".", "?", "!")) else "."
        part = f"{chapter.title}{stop} In "
    return f"{authors} ({book.released.year}). {part}{book.title} (version {book.version}, {book.released})."


class _Writer(Writer):
    """pybtex's writer, with braces around every value and addresses as they are (they are verbatim)."""

    def quote(self, s: str) -> str:
        self.check_braces(s)
        return f"{{{s}}}"

    def _write_field(self, stream: TextIO, type: str, value: str) -> None:
        if type == "url":
            stream.write(f",\n    {type} = {self.quote(value)}")
        else:
            super()._write_field(stream, type, value)


def bibtex(book: Book, chapter: Chapter | None = None) -> str:
    """The BibTeX entry: `@incollection` for a chapter, `@book` for the whole."""
    note = f"Version {book.version}"
    if chapter:
        kind, fields = "incollection", [("title", _title(chapter.title)), ("booktitle", _title(book.title))]
        note += f", chapter {chapter.slug}"
    else:
        kind, fields = "book", [("title", _title(book.title))]
    fields += [("year", str(book.released.year)), ("note", note.translate(LATEX))]
    if place := address(book, chapter):
        fields.append(("url", place))
    # Braced, or BibTeX would take an organisation's last word for a family name.
    authors = [Person(last=f"{{{author.translate(LATEX)}}}") for author in book.authors]
    entry = Entry(kind, fields, {"author": authors})
    return _Writer(encoding="utf-8").to_string(BibliographyData({key(book, chapter): entry}))


def _title(title: str) -> str:
    """The title as a LaTeX field; braced where a style that lowers capitals would spoil it (GPT-4)."""
    field = title.translate(LATEX)
    return f"{{{field}}}" if title[1:] != title[1:].lower() else field


def csl_json(book: Book, chapter: Chapter | None = None) -> list[dict[str, Any]]:
    """The citation as CSL JSON, which Zotero, pandoc and citeproc read."""
    item: dict[str, Any] = {"id": key(book, chapter), "type": "chapter" if chapter else "book"}
    if chapter:
        item |= {"title": chapter.title, "container-title": book.title}
    else:
        item |= {"title": book.title}
    item |= {
        "author": [{"literal": author} for author in book.authors],
        "issued": {"date-parts": [[book.released.year, book.released.month, book.released.day]]},
        "version": book.version,
        "language": LANGUAGE,
    }
    if place := address(book, chapter):
        item["URL"] = place
    return [item]


def json_ld(book: Book, chapter: Chapter | None = None) -> dict[str, Any]:
    """The page's schema.org description, which search engines read."""
    licences = [_licence_address(name) for name in book.license]
    common: dict[str, Any] = {
        "author": [{"@type": "Organization", "name": author} for author in book.authors],
        "datePublished": book.released.isoformat(),
        "version": book.version,
        "inLanguage": LANGUAGE,
    }
    if licences:
        common["license"] = licences[0] if len(licences) == 1 else licences
    whole = {"@type": "Book", "name": book.title, **common}
    if book.url:
        whole["url"] = book.url
    if book.repository:
        whole["isBasedOn"] = {"@type": "SoftwareSourceCode", "codeRepository": book.repository}
    if chapter is None:
        return {"@context": "https://schema.org", **whole}
    part = {
        "@context": "https://schema.org",
        "@type": ["Chapter", "ScholarlyArticle"],
        "name": chapter.title,
        "headline": chapter.title,
        **common,
        "isPartOf": whole,
    }
    if place := address(book, chapter):
        part["url"] = place
    return part


def _licence_address(name: str) -> str:
    """Where a licence can be read: Creative Commons' own page, SPDX's for every other."""
    if commons := re.fullmatch(r"CC-(BY[A-Z-]*)-(\d\.\d)", name):
        return f"https://creativecommons.org/licenses/{commons[1].lower()}/{commons[2]}/"
    return f"https://spdx.org/licenses/{name}.html"


def highwire(book: Book, chapter: Chapter | None = None) -> list[tuple[str, str]]:
    """The `<meta>` tags, name and content, that Google Scholar and Zotero read.

    Without `citation_book_title` Zotero takes a chapter for a journal article, and without a Dublin Core
    type the book.
    """
    if chapter:
        titles = [
            ("citation_title", chapter.title),
            ("citation_book_title", book.title),
            ("citation_inbook_title", book.title),
        ]
    else:
        titles = [("citation_title", book.title), ("dc.type", "book")]
    place = address(book, chapter)
    return [
        *titles,
        *(("citation_author", author) for author in book.authors),
        ("citation_publication_date", book.released.strftime("%Y/%m/%d")),
        ("citation_language", LANGUAGE),
        *((name, place) for name in ("citation_public_url", "citation_fulltext_html_url") if place),
    ]


def head(book: Book, chapter: Chapter | None = None) -> str:
    """HTML for the page's `<head>`: the Highwire tags and the JSON-LD."""
    tags = [f'<meta name="{name}" content="{escape(content)}">' for name, content in highwire(book, chapter)]
    # A script ends at the first "</script", wherever it stands: no "<" may stay as it is.
    data = json.dumps(json_ld(book, chapter), ensure_ascii=False).replace("<", "\\u003c")
    return "\n".join([*tags, f'<script type="application/ld+json">{data}</script>', ""])


def files(book: Book, chapter: Chapter | None = None) -> dict[str, str]:
    """The files to download, name and content; they lie in `cite/` beside the pages.

    Those of the whole book are `index.bib` and `index.json`.
    """
    stem = chapter.slug if chapter else "index"
    data = json.dumps(csl_json(book, chapter), ensure_ascii=False, indent=2)
    return {f"{stem}.bib": bibtex(book, chapter), f"{stem}.json": f"{data}\n"}


def citation_box(book: Book, chapter: Chapter | None = None) -> str:
    """HTML of the box at a chapter's end: the citation, its BibTeX, and the files to download."""
    place = address(book, chapter)
    link = f' <a href="{escape(place)}">{escape(place)}</a>' if place else ""
    bib, csl = files(book, chapter)
    # "highlight" is what sphinx-copybutton looks for.
    return f"""\
<div class="citation-box">
<p class="citation-text">{escape(_sentence(book, chapter))}{link}</p>
<details>
<summary>BibTeX</summary>
<div class="highlight notranslate"><pre>{escape(bibtex(book, chapter))}</pre></div>
</details>
<p class="citation-files">Download:
<a href="cite/{bib}" download>BibTeX</a>,
<a href="cite/{csl}" download>CSL JSON</a></p>
</div>
"""
