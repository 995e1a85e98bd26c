"""What rules of acceptance cost a task: answers of the tuned small model, by speculation, that are scored.

Nothing here depends on the clock: answers have seeds, and are cached since they take a while.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from anatomy.decode import (
    Drafter,
    DraftModel,
    Lenient,
    Sampling,
    ServedModel,
    Speculation,
    SpeculationState,
    Step,
    Threshold,
    chain,
    draft_verify_step,
    exact,
    generate,
    make_sampling,
    start_speculation,
)
from anatomy.decode.sampling import AcceptanceRule, check_tokens
from anatomy.measure.cache import cached
from anatomy.measure.draft_quality import ALL, trained_model
from anatomy.measure.speculation import FOUR, ROOM, Target
from anatomy.model import unstack
from anatomy.train import recipes
from anatomy.train.data import instructions, tokens
from anatomy.train.data.sources import VOCABULARY

RULES: dict[str, AcceptanceRule] = {
    "exact": exact,
    "lenience 1/2": Lenient(0.5),
    "lenience 1/10": Lenient(0.1),
    "lenience 1/100": Lenient(0.01),
    "lenience 1/1000": Lenient(0.001),
    "all accepted": Lenient(1e-30),
    "threshold 0.1": Threshold(0.1),
}
ASKED, AGAIN = 96, 10  # questions whether a snippet is prose or code, and how often each
ANSWER = 6  # tokens at most
TUNED = 0.4  # of the way from the target to the tuned target: weights of the draft whose answers are scored


def half_tuned() -> Target:
    """A model that answers worse: its weights lie between those before and after tuning."""
    before, after = (recipes.trained(name, progress=False) for name in ("target", "instructions"))
    weights = jax.tree.map(lambda a, b: (1 - TUNED) * a + TUNED * b, before.weights, after.weights)
    return Target(after.config.replace(context=ROOM), unstack(weights), ALL)


class Score(NamedTuple):
    """Answers under a rule."""

    accuracy: float  # share of the answers that are right
    loss: float  # of accuracy, against plain decoding
    standard_error: float  # of that loss: as it differs from question to question
    accepted_share: float | None  # share of the judged tokens; None where nothing is drafted
    same_as_greedy: float  # share of the answers that are those of plain greedy decoding


@cache
def scores() -> dict[str, Score]:
    """The tuned target's answers to held-out questions by rule, drawn or greedy; the draft is less tuned."""
    return {name: Score(*each) for name, each in cached(("target", "instructions"), measure_scores).items()}


def measure_scores() -> dict[str, list[float | None]]:
    """Answers of every rule, and how many of them are right."""
    bpe = tokens.tokenizer(VOCABULARY)
    asked = [pair for pair in instructions.pairs("held_out", ASKED) if pair.kind == instructions.SNIPPET_RULE]
    prompts = [instructions.prompt(bpe, pair.question).tolist() for pair in asked] * AGAIN
    seeds = list(range(len(prompts)))
    drawn, greedy = (make_sampling(len(prompts), temperature=heat, seed=seeds) for heat in (1.0, 0.0))
    with jax.enable_x64(False):
        model, poor = trained_model("instructions"), half_tuned()
        draft = DraftModel(poor.served, chain(FOUR))
        at = prefilled(model, draft, prompts)

        def plain(model: Target, sampling: Sampling) -> Answered:
            longest = max(map(len, prompts))
            given = prompts, ANSWER, sampling, [bpe.end]
            made = generate(model.config, model.weights, *given, chunk=longest, dispatch=ALL)
            return Answered([made.of(i) for i in seeds], 0, 0)

        def guessed(rule: AcceptanceRule, sampling: Sampling) -> Answered:
            return answer(model, draft, at, rule, sampling, bpe.end)

        made = {"plain, greedy": plain(model, greedy), "exact, greedy": guessed(exact, greedy)}
        made["plain"] = plain(model, drawn)
        made |= {name: guessed(rule, drawn) for name, rule in RULES.items()}
        made["the draft alone"] = plain(poor, drawn)
    right = {
        name: np.reshape(
            [instructions.is_right(asked[i % len(asked)], instructions.reply(bpe, answers.tokens[i])) for i in seeds],
            (AGAIN, -1),
        ).mean(0)
        for name, answers in made.items()
    }
    best, found = made["plain, greedy"].tokens, {}
    for name, answers in made.items():
        less = right["plain, greedy" if "greedy" in name else "plain"] - right[name]  # of each question
        same = [a == b for a, b in zip(answers.tokens, best, strict=True)]
        share = answers.accepted / answers.judged if answers.judged else None
        error = float(less.std(ddof=1) / np.sqrt(len(less)))
        found[name] = [float(right[name].mean()), float(less.mean()), error, share, float(np.mean(same))]
    return found


class Answered(NamedTuple):
    """Answers, and what became of their drafts."""

    tokens: list[list[int]]  # up to the end token, or so many
    accepted: int
    judged: int


def prefilled(model: Target, draft: Drafter, prompts: list[list[int]], most: int = ANSWER) -> SpeculationState:
    """Prompts of at least two tokens, after which the next step begins the answers."""
    known, ahead = np.array([len(prompt) for prompt in prompts], np.int32), 2 * draft.tree.drafted
    history = np.zeros((len(prompts), known.max() + most + ahead), np.int32)
    for row, prompt in zip(history, prompts, strict=True):
        row[: len(prompt)] = prompt
    return start_speculation(model.served, draft, history, known)


def answer(
    model: Target,
    draft: Drafter,
    at: SpeculationState,
    rule: AcceptanceRule,
    sampling: Sampling,
    end: int,
    most: int = ANSWER,
) -> Answered:
    """Answers in speculation steps alone: the first token, too, is drafted, which `speculate` leaves to the target.

    A short answer is decided by its first token.
    """
    number = Lenient(1.0) if rule is exact else rule  # one program for all lenience
    rules = type(number), dataclasses.astuple(number)  # type: ignore[call-overload]
    answers: list[list[int]] = [[] for _ in at.known]
    accepted = judged = 0
    while (going := np.array([len(said) < most and end not in said for said in answers])).any():
        one, at = _step(*rules, model.served, draft, at, going, sampling)
        check_tokens("answer", np.asarray(one.tokens), np.asarray(one.count))
        for said, made in zip(answers, np.asarray(one.tokens).tolist(), strict=True):
            said += [token for token in made if token >= 0]
        accepted += int(one.accepted.sum())
        judged += int(one.judged.sum())
    cut = [said[: said.index(end) + 1 if end in said else most] for said in answers]
    return Answered([said[:most] for said in cut], accepted, judged)


@partial(jax.jit, static_argnums=0)
def _step(
    kind: Callable[..., AcceptanceRule],
    numbers: tuple[float, ...],
    model: ServedModel,
    draft: Drafter,
    state: SpeculationState,
    going: Bool[np.ndarray, "B"],
    sampling: Sampling,
) -> tuple[Step, SpeculationState]:
    """One speculation step that drafts all it may."""
    length = jnp.full(len(going), draft.tree.height, jnp.int32)
    return draft_verify_step(Speculation(model, draft, kind(*numbers)), state, length, going, sampling)
