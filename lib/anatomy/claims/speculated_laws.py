"""What speculation of the small models writes: a recorded round, tokens by draft, experts that are read, and its law.

Nothing here depends on the clock: it is counted in the real loop, with seeds, and kept since it takes a while.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chisquare

from anatomy.claims.speculated import FOUR, ROOM, TARGETS, Target, drafter, once
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
from anatomy.model import Config, Weights, forward, unstack
from anatomy.model.routing_statistics import chosen_experts
from anatomy.train import recipes
from anatomy.train.data import tokens
from anatomy.train.data.sources import VOCABULARY

CODE = "speculated_laws"
ALL = "all_experts"  # the dispatch that compiles fastest; what is counted does not depend on it
JUDGE = "experts_16_0"  # a target, and drafts: one as large and as good, and one that it taught
DRAFTS = ("the text", "draft", "experts_1_0", "experts_16_1", "distilled_16")
ROWS, BEGUN = 32, 32  # texts of each domain, and tokens of each that are given
DRAWN, CALLS = 4096, 8  # sequences at once, and how often
TEXT, SEED, ROUNDS = "And the LORD said unto Moses", 3, 6  # of the recording


def small(name: str) -> Target:
    """A trained model as it is, for no longer texts than the others."""
    made = recipes.trained(name, progress=False)
    return Target(made.config.replace(context=ROOM), unstack(made.weights), ALL)


@cache
def recording() -> list[dict[str, Any]]:
    """Rounds of the book's target and draft on one text (`decode.record`)."""

    def make() -> list[dict[str, Any]]:
        made = recipes.trained("target", progress=False)
        with jax.enable_x64(False):
            draft, sampling = drafter(chain(FOUR), "draft"), make_sampling(seed=SEED)
            return record(made.config, made.weights, begun(), draft, ROUNDS, sampling, dispatch=ALL)

    digests = [recipes.digest(name) for name in ("target", "draft")]
    return once(f"recording {digests} {TEXT} {SEED} {ROUNDS} {FOUR}", make, CODE)


def begun() -> list[int]:
    """Tokens of the text that the recording goes on from."""
    bpe = tokens.tokenizer(VOCABULARY)
    return [bpe.end, *map(int, bpe.encode(TEXT))]


def texts() -> dict[str, list[list[int]]]:
    """Beginnings of held-out texts of each domain."""
    bpe = tokens.tokenizer(VOCABULARY)
    return {
        name: np.asarray(tokens.packed(bpe, name, "held_out", ROOM))[:ROWS, :BEGUN].tolist() for name in tokens.EPOCHS
    }


class Aligned(NamedTuple):
    """A draft beside a target, on what the target wrote."""

    alignment: float
    tokens: float  # of a round of four
    share: float  # of proposed tokens that were accepted


@cache
def aligned() -> dict[str, dict[str, Aligned]]:
    """Drafts from poor to good, by name and domain: alignment place by place, and tokens of the real loop."""
    question = f"aligned {DRAFTS} {ROWS} {BEGUN} {[recipes.digest(name) for name in (JUDGE, *DRAFTS[1:])]}"
    told = once(question, _aligned, CODE)
    return {draft: {domain: Aligned(*each) for domain, each in of.items()} for draft, of in told.items()}


def _aligned() -> dict[str, dict[str, list[float]]]:
    with jax.enable_x64(False):
        judge, given, found = small(JUDGE), texts(), {}
        prompts = [text for each in given.values() for text in each]
        sampling = make_sampling(len(prompts), seed=list(range(len(prompts))))
        for name in DRAFTS:
            draft: Drafter = PromptLookup(VOCABULARY, chain(FOUR)) if name == DRAFTS[0] else drafter(chain(FOUR), name)
            made = speculate(judge.config, judge.weights, prompts, ROOM - BEGUN, draft, sampling, dispatch=ALL)
            rows = np.array([[*prompt, *made.of(i)] for i, prompt in enumerate(prompts)])
            overlap = made.accepted / np.maximum(made.drafted, 1)
            if name != DRAFTS[0]:
                p, q = (law(small(one), rows) for one in (JUDGE, name))
                overlap = np.minimum(p, q).sum(-1)[:, BEGUN - 1 : -1].mean(1)
            found[name] = {}
            for number, domain in enumerate(given):
                some = slice(number * ROWS, (number + 1) * ROWS)
                a_round = (made.count[some] - 1).sum() / made.steps[some].sum()
                share = made.accepted[some].sum() / made.drafted[some].sum()
                found[name][domain] = [float(overlap[some].mean()), float(a_round), float(share)]
        return found


def law(made: Target, rows: np.ndarray) -> np.ndarray:
    """Distribution of the token after each token of each row."""
    return np.asarray(_law(made.config, made.weights, rows))


@jax.jit(static_argnums=0)
def _law(config: Config, weights: Weights, rows: Any) -> Any:
    return jax.nn.softmax(forward(config, weights, rows).logits)


def experts_read(batches: Sequence[int], blocks: Sequence[int]) -> np.ndarray:
    """Experts of a layer that blocks of consecutive tokens of so many texts read, counted; a row for each batch."""
    bpe, made = tokens.tokenizer(VOCABULARY), small(TARGETS["16 experts"][0])
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


class Drawn(NamedTuple):
    """Real draws of the first token that speculation decides, against the target's law."""

    distance: float  # total variation
    by_chance: float  # that so many draws from the law itself have, expected
    chance: float  # that a chi-square as large comes by chance


@cache
def lossless() -> dict[str, Drawn]:
    """Draws of the jitted loop, exact and with lenience 1/2."""
    rules: dict[str, AcceptanceRule] = {"exact": exact, "lenience 1/2": Lenient(0.5)}
    models = [recipes.digest(name) for name in (JUDGE, "draft")]
    question = f"lossless {list(rules)} {models} {DRAWN} {CALLS}"
    told = once(question, lambda: {name: _drawn(rule) for name, rule in rules.items()}, CODE)
    return {name: Drawn(*each) for name, each in told.items()}


def _drawn(rule: AcceptanceRule) -> list[float]:
    """Two tokens after the mark that begins a text: the first is the prompt's, the second the loop's."""
    bpe = tokens.tokenizer(VOCABULARY)
    with jax.enable_x64(False):
        judge, draft, count = small(JUDGE), drafter(chain(1), "draft"), np.zeros(VOCABULARY)
        for call in range(CALLS):
            sampling = make_sampling(DRAWN, seed=list(range(call * DRAWN, (call + 1) * DRAWN)))
            prompts = [[bpe.end]] * DRAWN
            made = speculate(judge.config, judge.weights, prompts, 3, draft, sampling, rule=rule, chunk=4, dispatch=ALL)
            count += np.bincount(made.tokens[:, 1], minlength=VOCABULARY)
        pairs = np.stack([np.full(VOCABULARY, bpe.end), np.arange(VOCABULARY)], 1)
        after = law(judge, pairs).astype(float)  # of each first token: its own law, and that of the second
    first, second = after[0, 0] / after[0, 0].sum(), after[:, 1] / after[:, 1].sum(1, keepdims=True)
    return against(count, first @ second)


def against(count: np.ndarray, p: Sequence[float] | np.ndarray) -> list[float]:
    """Total variation of counts from a law, that of draws from the law itself, and the chance of the chi-square.

    Tokens of fewer than five expected draws are counted as one.
    """
    p, total = np.asarray(p), count.sum()
    far = float(acceptance.total_variation(jnp.asarray(count / total), jnp.asarray(p)))
    by_chance = float(np.sqrt(p * (1 - p) / (2 * np.pi * total)).sum())  # half of the mean of |normal|
    often = p * total >= 5
    seen, told = (np.append(x[often], x[~often].sum()) for x in (count, p * total))
    if told[-1] == 0:  # the rest never comes
        likely = 0.0 if seen[-1] else float(chisquare(seen[:-1], told[:-1]).pvalue)
    else:
        likely = float(chisquare(seen, told).pvalue)
    return [far, by_chance, likely]
