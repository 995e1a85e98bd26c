"""What speculation of the small models writes: a recording, tokens by draft, active experts, and its distribution.

Nothing here depends on the clock: it is counted in the real loop, with seeds, and cached since it takes a while.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chisquare

from anatomy.decode import (
    Drafter,
    Lenient,
    PromptLookup,
    chain,
    exact,
    make_sampling,
    record,
    speculate,
)
from anatomy.decode.sampling import AcceptanceRule, acceptance
from anatomy.measure.cache import cached
from anatomy.measure.speculation import FOUR, ROOM, TARGETS, Target, drafter
from anatomy.model import Config, Weights, forward, unstack
from anatomy.model.routing_statistics import chosen_experts
from anatomy.train import recipes
from anatomy.train.data import tokens
from anatomy.train.data.sources import VOCABULARY

ALL = "all_experts"  # the dispatch that compiles fastest; what is counted does not depend on it
JUDGE = "experts_16_0"  # a target, and drafts: one as large and as good, and one that it taught
DRAFTS = ("the text", "draft", "experts_1_0", "experts_16_1", "distilled_16")
ROWS, BEGUN = 32, 32  # texts of each domain, and tokens of each that are given
DRAWN, CALLS = 4096, 8  # sequences at once, and how often
RULES: dict[str, AcceptanceRule] = {"exact": exact, "lenience 1/2": Lenient(0.5)}
TEXT, SEED, ROUNDS = "And the LORD said unto Moses", 3, 6  # of the recording


def trained_model(name: str) -> Target:
    """A trained model as it is, for no longer texts than the others."""
    made = recipes.trained(name, progress=False)
    return Target(made.config.replace(context=ROOM), unstack(made.weights), ALL)


def measure_recording() -> list[dict[str, Any]]:
    """Speculation steps of the book's target and draft on one text (`decode.record`)."""
    made = recipes.trained("target", progress=False)
    with jax.enable_x64(False):
        draft, sampling = drafter(chain(FOUR), "draft"), make_sampling(seed=SEED)
        return record(made.config, made.weights, prompt_tokens(), draft, ROUNDS, sampling, dispatch=ALL)


@cache
def recording() -> list[dict[str, Any]]:
    """What `measure_recording` found, once."""
    return cached(("target", "draft"), measure_recording)


def prompt_tokens() -> list[int]:
    """Tokens of the text that the recording goes on from."""
    bpe = tokens.tokenizer(VOCABULARY)
    return [bpe.end, *map(int, bpe.encode(TEXT))]


def prompts_by_domain() -> dict[str, list[list[int]]]:
    """Beginnings of held-out texts of each domain."""
    bpe = tokens.tokenizer(VOCABULARY)
    return {
        name: np.asarray(tokens.packed(bpe, name, "held_out", ROOM))[:ROWS, :BEGUN].tolist() for name in tokens.EPOCHS
    }


class DraftQuality(NamedTuple):
    """A draft beside a target, on what the target wrote."""

    acceptance_rate: float  # expected, place by place, from both distributions
    tokens_per_step: float  # of a draft of four
    accepted_share: float  # of proposed tokens that were accepted


@cache
def by_draft() -> dict[str, dict[str, DraftQuality]]:
    """Drafts from poor to good, by name and domain: the acceptance rate place by place, and tokens of the real loop."""
    result = cached((JUDGE, *DRAFTS[1:]), measure_by_draft)
    return {draft: {domain: DraftQuality(*each) for domain, each in of.items()} for draft, of in result.items()}


def measure_by_draft() -> dict[str, dict[str, list[float]]]:
    """Speculation with each of `DRAFTS` on the beginnings of held-out texts."""
    with jax.enable_x64(False):
        judge, given, found = trained_model(JUDGE), prompts_by_domain(), {}
        prompts = [text for each in given.values() for text in each]
        sampling = make_sampling(len(prompts), seed=list(range(len(prompts))))
        for name in DRAFTS:
            draft: Drafter = PromptLookup(VOCABULARY, chain(FOUR)) if name == DRAFTS[0] else drafter(chain(FOUR), name)
            made = speculate(judge.config, judge.weights, prompts, ROOM - BEGUN, draft, sampling, dispatch=ALL)
            rows = np.array([[*prompt, *made.of(i)] for i, prompt in enumerate(prompts)])
            overlap = made.accepted / np.maximum(made.drafted, 1)
            if name != DRAFTS[0]:
                p, q = (distribution(trained_model(one), rows) for one in (JUDGE, name))
                overlap = np.minimum(p, q).sum(-1)[:, BEGUN - 1 : -1].mean(1)
            found[name] = {}
            for number, domain in enumerate(given):
                some = slice(number * ROWS, (number + 1) * ROWS)
                a_round = (made.count[some] - 1).sum() / made.steps[some].sum()
                share = made.accepted[some].sum() / made.drafted[some].sum()
                found[name][domain] = [float(overlap[some].mean()), float(a_round), float(share)]
        return found


def distribution(made: Target, rows: np.ndarray) -> np.ndarray:
    """Distribution of the token after each token of each row."""
    return np.asarray(_distribution(made.config, made.weights, rows))


@jax.jit(static_argnums=0)
def _distribution(config: Config, weights: Weights, rows: Any) -> Any:
    return jax.nn.softmax(forward(config, weights, rows).logits)


def experts_read(batches: Sequence[int], blocks: Sequence[int]) -> np.ndarray:
    """Experts of a layer that blocks of consecutive tokens of so many texts read, counted; a row for each batch."""
    bpe, made = tokens.tokenizer(VOCABULARY), trained_model(TARGETS["16 experts"][0])
    texts = [np.asarray(tokens.packed(bpe, name, "held_out", ROOM))[:64, :ROOM] for name in tokens.EPOCHS]
    with jax.enable_x64(False):
        chosen = np.asarray(chosen_experts(made.config, made.weights, np.stack(texts, 1).reshape(-1, ROOM))[0])
    return np.array([[read_at_once(chosen, made.config.experts, n, m) for m in blocks] for n in batches])


def read_at_once(chosen: np.ndarray, experts: int, batch: int, block: int) -> float:
    """Different experts of a layer among the choices [L, R, S, k] of `block` tokens of `batch` rows, mean over all."""
    layers, count, length, _ = chosen.shape
    hit = (chosen[..., None] == np.arange(experts)).any(3)
    hit = hit[:, : count // batch * batch, : length // block * block]
    hit = hit.reshape(layers, count // batch, batch, length // block, block, experts)
    return float(hit.any((2, 4)).sum(-1).mean())


class Draws(NamedTuple):
    """Real draws of the first token that speculation decides, against the target's distribution."""

    distance: float  # total variation
    by_chance: float  # that so many draws from the distribution itself have, expected
    chance: float  # that a chi-square as large comes by chance


@cache
def exactness() -> dict[str, Draws]:
    """Draws of the jitted loop, exact and with lenience 1/2."""
    return {name: Draws(*each) for name, each in cached((JUDGE, "draft"), measure_exactness).items()}


def measure_exactness() -> dict[str, list[float]]:
    """Draws of the jitted loop by each of `RULES`, against the target's distribution."""
    return {name: drawn_by(rule) for name, rule in RULES.items()}


def drawn_by(rule: AcceptanceRule) -> list[float]:
    """Two tokens after the mark that begins a text: the first is the prompt's, the second the loop's."""
    bpe = tokens.tokenizer(VOCABULARY)
    with jax.enable_x64(False):
        judge, draft, count = trained_model(JUDGE), drafter(chain(1), "draft"), np.zeros(VOCABULARY)
        for call in range(CALLS):
            sampling = make_sampling(DRAWN, seed=list(range(call * DRAWN, (call + 1) * DRAWN)))
            prompts = [[bpe.end]] * DRAWN
            made = speculate(judge.config, judge.weights, prompts, 3, draft, sampling, rule=rule, chunk=4, dispatch=ALL)
            count += np.bincount(made.tokens[:, 1], minlength=VOCABULARY)
        pairs = np.stack([np.full(VOCABULARY, bpe.end), np.arange(VOCABULARY)], 1)
        after = distribution(judge, pairs).astype(
            float
        )  # of each first token: its own distribution, and that of the second
    first, second = after[0, 0] / after[0, 0].sum(), after[:, 1] / after[:, 1].sum(1, keepdims=True)
    return compare_draws(count, first @ second)


def compare_draws(count: np.ndarray, p: Sequence[float] | np.ndarray) -> list[float]:
    """Total variation of counts from a distribution, that of draws from it, and the chance of the chi-square.

    Tokens of fewer than five expected draws are counted as one.
    """
    p, total = np.asarray(p), count.sum()
    far = float(acceptance.total_variation(jnp.asarray(count / total), jnp.asarray(p)))
    by_chance = float(np.sqrt(p * (1 - p) / (2 * np.pi * total)).sum())  # half of the mean of |normal|
    often = p * total >= 5
    seen, expected = (np.append(x[often], x[~often].sum()) for x in (count, p * total))
    if expected[-1] == 0:  # the rest never comes
        likely = 0.0 if seen[-1] else float(chisquare(seen[:-1], expected[:-1]).pvalue)
    else:
        likely = float(chisquare(seen, expected).pvalue)
    return [far, by_chance, likely]
