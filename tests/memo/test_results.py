"""Results that are kept: computed once, computed again when they are damaged or what they rest on changes."""

import json

import pytest
from anatomy import memo
from anatomy.memo import results

CALLS = []


def double(number):
    CALLS.append(number)
    return {"twice": 2 * number, "both": (number, number)}


@pytest.fixture
def kept(monkeypatch, tmp_path):
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    monkeypatch.setattr(results, "code_digest", lambda function, cut=(): "one")
    CALLS.clear()
    return tmp_path


def test_a_result_is_computed_once_and_is_what_json_holds(kept):
    assert memo.remembered(double, 3) == memo.remembered(double, 3) == {"twice": 6, "both": [3, 3]}
    assert CALLS == [3]
    assert len(list(kept.rglob("*.json"))) == 1


def test_other_arguments_code_or_inputs_are_other_results(kept, monkeypatch):
    memo.remembered(double, 3)
    memo.remembered(double, 4)
    memo.remembered(double, 3, also="another model")
    monkeypatch.setattr(results, "code_digest", lambda function, cut=(): "two")
    memo.remembered(double, 3)
    assert CALLS == [3, 4, 3, 3]


def test_a_damaged_file_is_computed_again(kept):
    memo.remembered(double, 3)
    (file,) = kept.rglob("*.json")
    file.write_bytes(file.read_bytes()[:-3])
    assert memo.remembered(double, 3)["twice"] == 6
    assert CALLS == [3, 3] and json.loads(file.read_text())["twice"] == 6


def test_what_is_not_kept_is_an_error(kept):
    with pytest.raises(ZeroDivisionError):
        memo.read_or_compute(kept / "x.json", lambda: 1 / 0)
    with pytest.raises(TypeError):
        memo.read_or_compute(kept / "x.json", object)
    assert list(kept.iterdir()) == []


def test_files_are_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "file"
    memo.write_atomically(file, b"old")
    with pytest.raises(TypeError):
        memo.write_atomically(file, "text")
    assert file.read_bytes() == b"old" and list(file.parent.iterdir()) == [file]
    memo.write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
