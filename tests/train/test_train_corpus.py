"""Corpora as they are installed, and all that is refused when they are not."""

import ast
import dataclasses
import re

import pytest
from anatomy.train.data.corpus import (
    CORPORA,
    HELD_OUT_EVERY,
    KING_JAMES,
    NETWORKX,
    SPLITS,
    Corpus,
    CorpusError,
    all_documents,
    digest,
    documents,
    installed_files,
    is_source,
    modules,
    split_of,
)

FILES = {"tiny/a.py": b"a = 1\n", "tiny/b.py": b"b = 'two'\n", "tiny/tests/test_a.py": b"assert a\n"}
TINY = Corpus(
    domain="code",
    title="a tiny package",
    distribution="tiny-corpus-for-tests",
    version="1.0",
    licence="none",
    sha256=digest({name: FILES[name] for name in ("tiny/a.py", "tiny/b.py")}),
    belongs=is_source,
    parse=modules,
)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay out a distribution as an installer does."""
    monkeypatch.syspath_prepend(tmp_path)

    def lay_out(version: str = "1.0", files: dict[str, bytes] = FILES, record: bool = True):
        info = tmp_path / "tiny_corpus_for_tests-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {TINY.distribution}\nVersion: {version}\n")
        if record:
            (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
        for name, data in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return tmp_path

    return lay_out


def test_files_of_a_distribution_are_read(install):
    install()
    assert installed_files(TINY) == {name: FILES[name] for name in ("tiny/a.py", "tiny/b.py")}


def test_the_order_of_the_record_does_not_matter(install):
    install(files=dict(reversed(FILES.items())))
    assert list(installed_files(TINY)) == ["tiny/a.py", "tiny/b.py"]


def test_a_missing_distribution_says_what_to_install():
    with pytest.raises(CorpusError, match=r"'code' is not installed; install tiny-corpus-for-tests==1\.0"):
        installed_files(TINY)


def test_another_version_is_refused(install):
    install(version="1.1")
    with pytest.raises(CorpusError, match=r"is 1\.1; allowed: 1\.0.*install tiny-corpus-for-tests==1\.0"):
        installed_files(TINY)


def test_any_changed_byte_is_refused(install):
    root = install()
    for name in ("tiny/a.py", "tiny/b.py"):
        for place in range(len(FILES[name])):
            changed = bytearray(FILES[name])
            changed[place] ^= 1
            (root / name).write_bytes(changed)
            with pytest.raises(CorpusError, match=rf"SHA-256 .* allowed: {TINY.sha256}; install .*fresh copy"):
                installed_files(TINY)
        (root / name).write_bytes(FILES[name])
    (root / "tiny/tests/test_a.py").write_bytes(b"assert not a\n")  # no part of the corpus
    assert installed_files(TINY)


def test_bytes_that_moved_between_files_are_refused(install):
    install(files={"tiny/a.py": b"a = 1\nb", "tiny/b.py": b" = 'two'\n"})
    with pytest.raises(CorpusError, match="SHA-256"):
        installed_files(TINY)


@pytest.mark.parametrize(
    "files", [FILES | {"tiny/c.py": b""}, {"tiny/a.py": FILES["tiny/a.py"]}, {}], ids=["more", "fewer", "none"]
)
def test_more_or_fewer_files_are_refused(install, files):
    install(files=files)
    with pytest.raises(CorpusError, match="SHA-256"):
        installed_files(TINY)


def test_a_distribution_without_a_list_of_files_is_refused(install):
    install(record=False)
    with pytest.raises(CorpusError, match="SHA-256"):
        installed_files(TINY)


def test_a_file_that_is_gone_is_named(install):
    (install() / "tiny/b.py").unlink()
    # Where the backport of importlib.metadata is loaded too, files that are gone are not listed.
    with pytest.raises(CorpusError, match=r"(cannot be read .*b\.py|SHA-256).*; install tiny-corpus-for-tests==1\.0"):
        installed_files(TINY)


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=list(CORPORA))
def test_a_real_corpus_under_another_hash_is_refused(corpus):
    with pytest.raises(CorpusError, match="SHA-256"):
        all_documents(dataclasses.replace(corpus, sha256="0" * 64))


def test_chapters_of_the_bible():
    chapters = {document.name: document.text for document in all_documents(KING_JAMES)}
    assert len(chapters) == 1189 and len({name.rsplit(" ", 1)[0] for name in chapters}) == 66
    title, *verses = chapters["Genesis 1"].splitlines()
    assert title == "Genesis 1" and len(verses) == 31
    assert verses[0] == "In the beginning God created the heaven and the earth."
    assert chapters["John 11"].splitlines()[35] == "Jesus wept."
    assert len(chapters["Psalms 119"].splitlines()) == 1 + 176
    assert chapters["3 John 1"].splitlines()[-1].endswith("Greet the friends by name.")  # of 14 verses, not 15
    assert not any(re.search(r"[^\n -~]", text) for text in chapters.values())


def test_modules_are_python_and_no_tests():
    found = all_documents(NETWORKX)
    assert all(isinstance(ast.parse(text), ast.Module) for _, text in found)
    assert "networkx/classes/graph.py" in {name for name, _ in found}
    assert not any("/tests/" in name or "conftest" in name for name, _ in found)
    assert sum(len(text.encode()) for _, text in found) == pytest.approx(3.9e6, rel=0.01)


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=list(CORPORA))
def test_parts_make_up_the_corpus(corpus):
    parts = {split: set(documents(corpus, split)) for split in SPLITS}
    assert parts["train"].isdisjoint(parts["held_out"])
    assert parts["train"] | parts["held_out"] == set(all_documents(corpus))
    size = {split: sum(len(text.encode()) for _, text in part) for split, part in parts.items()}
    assert 0.5 < size["held_out"] * HELD_OUT_EVERY / sum(size.values()) < 1.5


def test_a_document_stays_in_its_part():
    # Were this rule to change, what a published model was trained on would be measured as held out.
    assert [split_of(name) for name in ("Genesis 1", "Genesis 4", "networkx/algorithms/euler.py")] == [
        "train",
        "held_out",
        "held_out",
    ]
    share = sum(split_of(f"document {i}") == "held_out" for i in range(20_000)) / 20_000
    assert share == pytest.approx(1 / HELD_OUT_EVERY, abs=0.005)  # three standard deviations


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="split is 'test'; allowed: train, held_out"):
        documents(KING_JAMES, "test")
