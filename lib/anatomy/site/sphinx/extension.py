"""The Sphinx extension of the book: what it takes to read, rerun and cite it.

- pages whose cells, library code or data have changed are executed first, several at a time;
- styles and scripts that travel in executed cells are put in as they are now;
- every page carries citation data, and a box where `{cite-chapter}` stands;
- executed notebooks to download, `claims.json`, and citation files lie in the built site;
- MathJax is served from the site; launch buttons appear once CITATION.cff names a repository.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from pybtex.database import Entry, Person, parse_file
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as PlainStyle
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from anatomy import __version__
from anatomy.claims.ledger.html import refreshed
from anatomy.site.sphinx import citation, execution, notebooks

MATHJAX = "mathjax/tex-mml-chtml.js"
MATHJAX_FONTS = "mathjax/output/chtml/fonts/woff-v2"
NEVER_USED = ("thebe",)  # scripts that the theme loads on every page and this book never calls


def library_digest(root: Path) -> str:
    """A hash of all files of the library, which travels with the notebooks and stands in the reference."""
    digest = hashlib.sha256()
    files = (path for path in (root / "lib").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def configure(app: Sphinx, config: Config) -> None:
    """Fill in what follows from the library and from CITATION.cff."""
    root = Path(app.srcdir)
    config.nb_execution_cache_path = str(execution.cache_path(root))
    config.anatomy_library = library_digest(root)
    config.anatomy_citation = (root / "CITATION.cff").read_text("utf-8")
    config.mathjax_path = MATHJAX
    config.html_css_files = [*config.html_css_files, "anatomy.css"]
    book = citation.read_book(root / "CITATION.cff")
    if book.url:
        config.html_baseurl = book.url
    if book.repository:
        config.html_theme_options |= {
            "repository_url": book.repository,
            "repository_branch": "main",
            "use_repository_button": True,
            "use_issues_button": True,
            "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
        }


def execute_pages(app: Sphinx, config: Config) -> None:
    """Execute what has changed: of all pages, or of the one that is built alone."""
    root, alone = Path(app.srcdir), Path(config.root_doc).name
    known = execution.pages(root)
    if names := list(known) if alone == "index" else [name for name in known if name == alone]:
        execution.execute(root, names)


def chapter_of(env: BuildEnvironment, name: str) -> citation.Chapter | None:
    """The chapter that a document is; None for the first page, which stands for the whole book."""
    slug = name.rpartition("/")[2]
    return None if slug == "index" else citation.Chapter(title=env.titles[name].astext(), slug=slug)


def book_of(env: BuildEnvironment) -> citation.Book:
    """The book, from CITATION.cff."""
    return citation.read_book(Path(env.srcdir) / "CITATION.cff")


def executed_path(app: Sphinx, name: str) -> Path:
    """Where myst-nb leaves the executed notebook of a document, if it is one."""
    return Path(app.outdir).parent / "jupyter_execute" / f"{name}.ipynb"


def executed_notebook(app: Sphinx, name: str) -> nbformat.NotebookNode:
    """The executed notebook of a document; where its cells came from the cache, myst-nb leaves it without outputs."""
    notebook = nbformat.read(executed_path(app, name), 4)
    with suppress(KeyError):
        notebook = get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(notebook)[1]
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if html := output.get("data", {}).get("text/html"):
                output.data["text/html"] = refreshed(html)
    return notebook


def executed(app: Any) -> list[str]:
    """Documents that are notebooks with at least one cell that ran."""
    return sorted(name for name in app.env.nb_metadata if app.env.nb_metadata[name].get("exec_data"))


def complete_page(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Citation data in the head, the notebook among the downloads, and no script that nobody calls."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if not any(word in f"{script.filename}{script.attributes}".lower() for word in NEVER_USED)
    ]
    if doctree is None:
        return
    context["body"] = refreshed(context["body"])
    context["metatags"] = context.get("metatags", "") + citation.head(book_of(app.env), chapter_of(app.env, name))
    if name in executed(app):
        context["ipynb_source"] = f"{name}.ipynb"


class CiteChapter(SphinxDirective):
    """`{cite-chapter}`: how to cite this chapter, or on the first page the book.

    The box needs the chapter's title, so it is made when the page is resolved.
    """

    def run(self) -> list[nodes.Node]:
        """Leave a place for the box."""
        self.env.note_dependency(str(Path(self.env.srcdir) / "CITATION.cff"))
        return [citation_place(name=self.env.docname)]


class CiteBook(CiteChapter):
    """`{cite-book}`: how to cite the book."""

    def run(self) -> list[nodes.Node]:
        """Leave a place for the box."""
        super().run()
        return [citation_place(name="index")]


class ExecutionTable(SphinxDirective):
    """`{execution-table}`: the notebooks, their cells and a digest of their outputs.

    No times: they would make each build different. `make bench` measures them.
    """

    def run(self) -> list[nodes.Node]:
        """Leave a place for the table, which needs all documents."""
        self.env.metadata[self.env.docname]["execution-table"] = True
        return [execution_place()]


class citation_place(nodes.General, nodes.Element):
    """Where a citation box will stand."""


class execution_place(nodes.General, nodes.Element):
    """Where the execution table will stand."""


def fill_places(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Put citation boxes and the execution table where their places are."""
    for place in list(doctree.findall(citation_place)):
        box = citation.citation_box(book_of(app.env), chapter_of(app.env, place["name"]))
        place.replace_self(nodes.raw("", box, format="html"))
    for place in list(doctree.findall(execution_place)):
        place.replace_self(execution_table(app, name))


def execution_table(app: Any, name: str) -> nodes.table:
    """Rows of the execution table."""
    rows = [("Page", "Cells", "Outcome", "SHA-256 of the outputs")]
    for doc in executed(app):
        notebook = executed_notebook(app, doc)
        outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
        digest = hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()
        outcome = "succeeded" if app.env.nb_metadata[doc]["exec_data"]["succeeded"] else "failed"
        rows.append((doc, str(len(outputs)), outcome, digest[:16]))
    table, group = nodes.table(classes=["execution-table"]), nodes.tgroup(cols=4)
    table += group
    group += [nodes.colspec(colwidth=width) for width in (30, 10, 15, 45)]
    for part, lines in ((nodes.thead(), rows[:1]), (nodes.tbody(), rows[1:])):
        group += part
        for line in lines:
            row = nodes.row()
            for text in line:
                paragraph = nodes.paragraph("", text)
                if text in app.env.titles:
                    target = app.builder.get_relative_uri(name, text)
                    paragraph = nodes.paragraph()
                    paragraph += nodes.reference("", app.env.titles[text].astext(), refuri=target)
                row += nodes.entry("", paragraph)
            part += row
    return table


def pages_that_list_others(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The execution table is written anew whenever anything was."""
    return [name for name, data in env.metadata.items() if "execution-table" in data]


def finish(app: Sphinx, failure: Exception | None) -> None:
    """Write what lies beside the pages."""
    if failure is not None or app.builder.format != "html" or app.config.root_doc != "book/index":
        return
    out, root, book = Path(app.outdir), Path(app.srcdir), book_of(app.env)
    made = library_products(root, out.parent / "library" / app.config.anatomy_library)
    shutil.copy(made / "claims.json", out / "claims.json")
    copy_mathjax(out / "_static")
    cite = out / "book" / "cite"
    cite.mkdir(parents=True, exist_ok=True)
    for name in app.env.found_docs:
        for file, content in citation.files(book, chapter_of(app.env, name)).items():
            (cite / file).write_text(content, "utf-8")
    wheel = next(made.glob("*.whl"))
    labels = bibliography_labels(root / "book" / "references.bib")
    for name in executed(app):
        notebook = executed_notebook(app, name)
        made_of = notebooks.portable(notebook, page_of(app, book, name, labels), wheel)
        target = out / "_sources" / f"{name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(made_of, target)


def library_products(root: Path, folder: Path) -> Path:
    """The wheel and the ledger as data; made once for each state of the library."""
    if not (folder / "claims.json").exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        notebooks.build_wheel(root, folder)
        from anatomy.claims import as_records  # imports jax: not for builds that need no numbers

        records = as_records(version=__version__)
        (folder / "claims.json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return folder


def copy_mathjax(static: Path) -> None:
    """The part of MathJax that pages load: one script and its fonts."""
    spec = find_spec("sphinx-mathjax-offline")
    assert spec is not None and spec.origin is not None, "sphinx-mathjax-offline is not installed"
    source = Path(spec.origin).parent / "static"
    (static / MATHJAX).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / MATHJAX, static / MATHJAX)
    shutil.copytree(source / MATHJAX_FONTS, static / MATHJAX_FONTS, dirs_exist_ok=True)


@cache
def bibliography_labels(path: Path) -> dict[str, str]:
    """ "Narayanan et al., 2021" for every entry of the bibliography."""
    return {key: _label(key, item) for key, item in parse_file(str(path)).entries.items()}


def _label(key: str, item: Entry) -> str:
    """Author and year of an entry."""
    return f"{_who(item.persons.get('author', []), key)}, {item.fields.get('year', 'n.d.')}"


def _who(people: list[Person], key: str) -> str:
    """One author, two, or the first and the others."""
    names = [" ".join(p.prelast_names + p.last_names).replace("{", "").replace("}", "") for p in people]
    if len(names) > 2:
        return f"{names[0]} et al."
    return " and ".join(names) or key


def page_of(app: Sphinx, book: citation.Book, name: str, labels: dict[str, str]) -> notebooks.Page:
    """What the text of a document refers to outside itself."""
    env = app.env
    numbers = {
        label: ".".join(map(str, number))
        for kinds in env.toc_fignumbers.values()
        for figures in kinds.values()
        for label, number in figures.items()
    }
    ids = {target: label for label, (_, target) in env.domaindata["std"]["anonlabels"].items()}
    numbers |= {ids[target]: number for target, number in numbers.items() if target in ids}
    math = env.domaindata["math"]["objects"]
    numbers |= {label: str(number) for label, (_, number) in math.items()}
    titles = {doc.rpartition("/")[2]: title.astext() for doc, title in env.titles.items()}
    titles |= {Path(env.doc2path(doc)).name: title.astext() for doc, title in env.titles.items()}
    titles |= {label: title for label, (_, _, title) in env.domaindata["std"]["labels"].items()}
    return notebooks.Page(
        name=name,
        citation=citation.text(book, chapter_of(env, name)),
        labels=labels,
        numbers=numbers,
        titles=titles,
        values=glued(app, name),
    )


def glued(app: Sphinx, name: str) -> dict[str, str]:
    """Values that the cells of a document glued, as text; myst-nb keeps them beside the notebook."""
    path = executed_path(app, name).with_suffix(".glue.json")
    data = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {key: str(item["data"].get("text/plain", "")) for key, item in data.items()}


def document_spec(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """List the numbers of a spec with their units, and link sources to the bibliography."""
    if what == "class" and dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            if limits := field.metadata.get("limits"):
                lines.append(f":param {field.name}: {field.metadata['doc']}. {limits['allowed'].capitalize()}.")
    known = bibliography_labels(Path(app.srcdir) / "book" / "references.bib")
    for index, line in enumerate(lines):
        lines[index] = re.sub(
            r"(?<![`\w])[a-z]+\d{4}\w+", lambda m: f":cite:t:`{m[0]}`" if m[0] in known else m[0], line
        )


def escape_shapes(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The star of a shape like "*B" begins no emphasis in the types that napoleon adds to attributes."""
    lines[:] = [line.replace("*", r"\*") if line.startswith(":vartype") else line for line in lines]


def hide_spec_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """The signature of a spec would repeat its list of numbers."""
    is_spec = what == "class" and dataclasses.is_dataclass(thing)
    return ("", None) if is_spec and any("limits" in f.metadata for f in dataclasses.fields(thing)) else None


def unique_labels(entries: list[Entry]) -> list[str]:
    """Author and year of each entry, with a letter where they are those of another one too."""
    labels = [_label(entry.key, entry) for entry in entries]
    return [
        label + (ascii_lowercase[labels[:index].count(label)] if labels.count(label) > 1 else "")
        for index, label in enumerate(labels)
    ]


class NamedStyle(PlainStyle):
    """The bibliography with the labels that the text uses: author and year."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As the plain style, which would number its entries."""
        super().__init__(*arguments, **options)
        self.format_labels = unique_labels


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    register_plugin("pybtex.style.formatting", "named", NamedStyle)
    app.add_config_value("anatomy_library", "", "env")  # a change makes Sphinx read all pages again
    app.add_config_value("anatomy_citation", "", "env")
    app.add_node(citation_place)
    app.add_node(execution_place)
    app.add_directive("cite-chapter", CiteChapter)
    app.add_directive("cite-book", CiteBook)
    app.add_directive("execution-table", ExecutionTable)
    app.connect("config-inited", configure, priority=100)
    app.connect("config-inited", execute_pages, priority=950)  # once the table of contents has named its root
    app.connect("autodoc-process-docstring", document_spec)
    app.connect("autodoc-process-docstring", escape_shapes, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", hide_spec_signature)
    app.connect("env-updated", pages_that_list_others)
    app.connect("doctree-resolved", fill_places)
    app.connect("html-page-context", complete_page, priority=500)
    app.connect("build-finished", finish)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
