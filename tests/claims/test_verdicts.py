"""Every verdict can come out otherwise: it turns on what is declared beside the claim, and never on our wording.

What checks take from the trained small model is given here, so that no training is needed.
"""

import ast
import copy
import dataclasses
import importlib
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from math import log

import jax
import numpy as np
import pytest
from anatomy.claims import Finding, claims
from anatomy.claims.ledger.claim import Terms
from anatomy.claims.ledger.registry import check_of
from anatomy.claims.record import article, public
from anatomy.train import recipes, sweeps

CLAIMS = claims()
CHECKS = {key: check_of(key) for key in CLAIMS}
# The others are opinions, or lack public evidence, whatever is computed around them.
DECIDED = [key for key, check in CHECKS.items() if {"decide", "compare"} & set(check.__code__.co_names)]
TERMS = [(key, name) for key in DECIDED for name in CLAIMS[key].verdict.terms]
experts = importlib.import_module("anatomy.claims.checks.inference_infrastructure.experts")


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    """Losses, loads and choices of the small model, as trainings of it might give."""

    def held_out(name):
        kind, *numbers = name.split("_")
        return 4.0 - 0.04 * log(int(numbers[0]), 4) if kind == "experts" else 4.1

    def load(name):
        many = int(name.split("_")[1]) if name.startswith("experts") else 16
        uneven = np.linspace(1.25, 0.75, many) / many
        return np.broadcast_to(uneven, (3, 2, many))

    monkeypatch.setattr(sweeps, "held_out", held_out)
    monkeypatch.setattr(sweeps, "final_load", load)
    monkeypatch.setattr(sweeps, "final_dropped", lambda name: 0.01)
    monkeypatch.setattr(sweeps, "on_tuning_rows", held_out)
    monkeypatch.setattr(recipes, "held_out", lambda name: {"prose": 4.2, "code": 3.8})
    monkeypatch.setattr(experts, "told_by", lambda name: {"token": [2.0], "domain": [0.5]})


@pytest.fixture
def settle(monkeypatch):
    """The finding of a claim with other terms, or anything else of it, changed wherever the claim is read."""

    def settled(key: str, terms: dict | None = None, **changes) -> Finding:
        verdict = CLAIMS[key].verdict
        changed = dataclasses.replace(
            CLAIMS[key], verdict=dataclasses.replace(verdict, terms={**verdict.terms, **(terms or {})}), **changes
        )
        monkeypatch.setattr(article, "claims", lambda: CLAIMS | {key: changed})
        with jax.enable_x64(True):
            return CHECKS[key](changed)

    return settled


def others(term, names) -> tuple:
    """A threshold on either side of whatever is computed, or other names, of which the public record has some."""
    if isinstance(term, (int, float)):
        return (term / 1e6, 1e6 * (term or 1))
    single = [name for name in names if isinstance(name, str)]
    several = [tuple(name) for name in names if isinstance(name, list)]
    return ("", "another name", *single) if isinstance(term, str) else (("another name",), *several)


def numbers(claim) -> tuple:
    """The number that the article prints, and others in its place."""
    return (None,) if claim.value is None else tuple(times * claim.value for times in (1, 1.5, 1e3, 1e-3))


def other_facts(entry: dict) -> Iterator[dict]:
    """An entry of the public record in which one fact is another."""
    for name, fact in entry.items():
        if isinstance(fact, bool):
            changed = [not fact]
        elif isinstance(fact, (int, float)):
            changed = [1e-3 * fact, 1e3 * fact]
        elif isinstance(fact, list) and all(isinstance(each, (int, float)) for each in fact):
            changed = [[1e-3 * each for each in fact], [1e3 * each for each in fact]]
        elif isinstance(fact, dict) and all(isinstance(each, (int, float)) for each in fact.values()):
            changed = [{key: 1e3 * each for key, each in fact.items()}]
        else:
            continue
        yield from (entry | {name: each} for each in changed)


class Noted(dict):
    """Entries of the public record that note which of them are read."""

    read: set[str]

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def seen() -> dict[str, tuple[Finding, dict[str, dict]]]:
    return {}


@pytest.fixture
def as_it_is(settle, seen, monkeypatch):
    """The finding of a claim as it is, and the entries of the public record that its check reads; found once."""

    def look(key: str) -> tuple[Finding, dict[str, dict]]:
        if key not in seen:
            noted = Noted(public.entries())
            noted.read = set()
            with monkeypatch.context() as patch:
                patch.setattr(public, "entries", lambda: noted)
                found = settle(key)
            seen[key] = found, {name: dict.__getitem__(noted, name) for name in sorted(noted.read)}
        return seen[key]

    return look


@pytest.fixture
def verdict(settle):
    """The verdict with other terms or another number; None where such are refused."""

    def found(key: str, terms: dict, **changes):
        try:
            return settle(key, terms, **changes).verdict
        except ValueError:
            return None

    return found


def names_in(entries: dict[str, dict]) -> list:
    """Names, and lists of names, of some entries."""
    facts = [fact for entry in entries.values() for fact in entry.values()]
    return [
        fact
        for fact in facts
        if isinstance(fact, str) or (isinstance(fact, list) and all(isinstance(each, str) for each in fact))
    ]


@pytest.mark.parametrize("key", DECIDED)
def test_another_input_gives_another_verdict(key, settle, verdict, as_it_is, monkeypatch):
    """A threshold, tolerance or name that is declared, the printed number, or a fact of the public record."""
    claim, (found, facts) = CLAIMS[key], as_it_is(key)
    before = found.verdict
    for name, term in claim.verdict.terms.items():
        if any(verdict(key, {name: other}) not in (before, None) for other in others(term, names_in(facts))):
            return
    if any(verdict(key, {}, value=value) not in (before, None) for value in numbers(claim)[1:]):
        return
    entries = copy.deepcopy(public.entries())
    for entry in facts:
        for changed in other_facts(entries[entry]):
            monkeypatch.setattr(public, "entries", lambda entry=entry, changed=changed: entries | {entry: changed})
            if settle(key).verdict is not before:
                return
    pytest.fail(f"whatever changes, the verdict is {before}")


@pytest.mark.parametrize("key, name", TERMS)
def test_every_term_that_is_declared_can_turn_the_verdict(key, name, verdict, as_it_is):
    """At some setting of the others, which a term for holding in part needs; so none is declared in vain."""
    claim, names = CLAIMS[key], names_in(as_it_is(key)[1])
    states_of = {each: (term, *others(term, names)) for each, term in claim.verdict.terms.items()}
    states = states_of.pop(name)
    for value, *setting in itertools.product(numbers(claim), *states_of.values()):
        terms = dict(zip(states_of, setting, strict=True))
        if len({verdict(key, terms | {name: state}, value=value) for state in states} - {None}) > 1:
            return
    pytest.fail(f"whatever {name} is, the verdict is the same")


@pytest.mark.parametrize("key", CLAIMS)
def test_other_words_for_a_claim_change_nothing(key, settle, as_it_is):
    assert settle(key, claim="What is said in other words", note="A note", original="") == as_it_is(key)[0]


def test_only_what_is_decided_declares_what_it_turns_on():
    assert {key for key, claim in CLAIMS.items() if claim.verdict.terms} <= set(DECIDED)
    assert len(DECIDED) > 130 and len(TERMS) > 130
    for key in DECIDED:
        reason = CLAIMS[key].verdict.reason
        assert not CLAIMS[key].verdict.terms or (reason.endswith(".") and len(reason) > 10), key


def literals(node: ast.AST) -> Iterator[object]:
    """Numbers and names that stand in an expression, but for places in a list and arguments of what is computed."""
    if isinstance(node, ast.Constant) and not isinstance(node.value, bool):
        yield node.value
    elif isinstance(node, ast.Subscript):
        yield from literals(node.value)
    elif isinstance(node, ast.Call):
        yield from literals(node.func)
        for argument in node.args:
            if not isinstance(argument, ast.Constant):
                yield from literals(argument)
    else:
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


@pytest.mark.parametrize("key", DECIDED)
def test_no_threshold_or_name_stands_in_the_code_of_a_check(key):
    for call in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(CHECKS[key])))):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("decide", "compare"):
            conditions = [word.value for word in call.keywords if word.arg == "in_part"]
            if call.func.id == "decide":
                conditions.append(call.args[1])
            assert not [literal for each in conditions for literal in literals(each)]
            assert not [word.arg for word in call.keywords if word.arg == "tolerance"]


def test_literals_are_seen():
    assert list(literals(ast.parse("a[0] > 0.5 * f(2.0, b) and 'x' in names"))) == [0.5, "x"]


def test_a_term_that_is_not_declared_says_where_to():
    with pytest.raises(KeyError, match=r"claim test\.one\.verdict has no 'tolerance'; declared: share.*claims\.toml"):
        Terms.of("test.one", {"share": 0.5, "reason": "So it is."})["tolerance"]


@pytest.mark.parametrize(
    "table, message",
    [
        ({"share": 0.5}, r"claim test\.one\.verdict\.reason is ''; allowed: a sentence"),
        ({"share": True, "reason": "So."}, r"claim test\.one\.verdict\.share is True; allowed: a number, a name"),
        ({"names": [], "reason": "So."}, r"claim test\.one\.verdict\.names is \[\]; allowed"),
    ],
)
def test_what_is_declared_badly_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Terms.of("test.one", table)
