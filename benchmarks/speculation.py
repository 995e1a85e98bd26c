"""What speculation gains: beside plain decoding of the same model, beside transformers, and how exact it is.

Targets and drafts are trained models, so acceptance is real; the targets are enlarged by zeros, so the cost of a pass
is that of a large model. All that is compared takes turns, and of each turn the least disturbed counts.
"""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from anatomy.cost.speculation.trees import best_tree
from anatomy.decode import (
    Drafter,
    DraftModel,
    GeneratedBySpeculation,
    PromptLookup,
    ServedModel,
    Tree,
    chain,
    exact,
    generate,
    make_sampling,
    of_paths,
    speculate,
)
from anatomy.model import Config, Weights, unstack
from anatomy.model.enlarge import enlarge
from anatomy.model.mixtral import save
from anatomy.specs.base import register
from anatomy.train import recipes
from anatomy.train.data import tokens
from anatomy.train.data.sources import VOCABULARY
from jaxtyping import Array, Int
from support.enumeration import SETTINGS, TREES, error
from support.mixtral_peer import Unavailable, peer_python

from benchmarks import peers

PROMPT, LIMIT, ROUNDS = 32, 96, 3
PROMPTS = 4  # of each domain
DENSE = {"layers": 8, "d_model": 512, "heads": 8, "d_ff": 1536}  # 90 MB, larger than the caches of a processor
ROUTED = {"layers": 4, "d_model": 384, "heads": 6, "d_ff": 384}  # 16 experts: 119 MB
BATCHES = (1, 8, 16, 32)
RANKS = (0.85, 0.07, 0.03)  # share of drafts whose likeliest, second and third child is accepted, about


class Pair(NamedTuple):
    """A target and its draft."""

    config: Config
    weights: Weights  # unstacked
    draft: Config
    draft_weights: Weights  # unstacked

    def drafter(self, tree: Tree) -> DraftModel:
        return DraftModel(ServedModel(self.draft_weights, self.draft), tree)


class FirstTokens(PromptLookup):
    """Drafts the first tokens of the text whatever its end is, at no cost."""

    def _found(self, history: Int[Array, "B N"], known: Int[Array, "B"]) -> Int[Array, "B"]:
        return jnp.zeros_like(known)


register(FirstTokens)


def pair(target: str, draft: str, **sizes: int) -> Pair:
    """Trained models by their recipes, of which the first is enlarged."""
    one, other = recipes.trained(target), recipes.trained(draft)
    config, weights = enlarge(one.config, one.weights, **sizes)
    return Pair(config, unstack(weights), other.config.replace(context=config.context), unstack(other.weights))


def prompts(count: int) -> list[list[int]]:
    """Beginnings of held-out texts, prose and code in turns."""
    rows = [tokens.packed(tokens.tokenizer(VOCABULARY), domain, "held_out", 256) for domain in tokens.EPOCHS]
    return [rows[i % len(rows)][i // len(rows), :PROMPT].tolist() for i in range(count)]


def megabytes(weights: Weights) -> float:
    return sum(a.nbytes for a in jax.tree.leaves(weights)) / 1e6


def in_turns(
    programs: dict[Any, Callable[[Any], Any]], cases: Sequence[Any]
) -> tuple[dict[Any, float], dict[Any, list]]:
    """Seconds of each program for all cases together, the best of its turns for each case; and what was made."""
    best = {name: np.full(len(cases), np.inf) for name in programs}
    made = {name: [program(case) for case in cases] for name, program in programs.items()}  # compiles
    for _, (index, case), (name, program) in itertools.product(range(ROUNDS), enumerate(cases), programs.items()):
        start = time.perf_counter()
        program(case)
        best[name][index] = min(best[name][index], time.perf_counter() - start)
    return {name: float(seconds.sum()) for name, seconds in best.items()}, made


def plainly(two: Pair, batch: int, **how: float) -> Callable[[list], Any]:
    """Continue a batch by our fastest plain decoding."""
    settings = make_sampling(batch, **how, seed=np.arange(batch))
    return lambda some: generate(two.config, two.weights, some, LIMIT, settings)


def by_drafts(two: Pair, batch: int, drafter: Drafter, **how: float) -> Callable[[list], GeneratedBySpeculation]:
    """Continue a batch by exact speculation."""
    settings = make_sampling(batch, **how, seed=np.arange(batch))
    return lambda some: speculate(two.config, two.weights, some, LIMIT, drafter, settings)


def per_step(made: Sequence[GeneratedBySpeculation]) -> float:
    return sum((m.count - 1).sum() for m in made) / sum(m.steps.sum() for m in made)


def beside_plain(two: Pair, batch: int, drafters: dict[str, Drafter], **how: float) -> dict[str, Any]:
    """The best of some drafts at a batch, and what limits it.

    `block` is a draft-verify step in steps of plain decoding, with all that it does but the draft itself.
    """
    cases = [prompts(PROMPTS * 2)[i : i + batch] for i in range(0, PROMPTS * 2, batch)]
    cases = cases if batch <= PROMPTS * 2 else [prompts(batch)]
    programs = {"plain": plainly(two, batch, **how)}
    programs |= {name: by_drafts(two, batch, drafter, **how) for name, drafter in drafters.items()}
    seconds, made = in_turns(programs, cases)
    best = min(drafters, key=seconds.get)
    free = by_drafts(two, batch, FirstTokens(VOCABULARY, chain(drafters[best].tree.drafted)), **how)
    turns, rounds = in_turns({"free": free, "plain": programs["plain"]}, cases[:1])
    block = turns["free"] / rounds["free"][0].steps.max() / (turns["plain"] / LIMIT)
    count = LIMIT * batch * len(cases)
    tokens = per_step(made[best])
    return {
        "value": seconds["plain"] / seconds[best],
        "unit": "times the tokens/s",
        "ours": count / seconds[best],
        "peer": count / seconds["plain"],
        "batch": batch,
        "draft": best,
        "tokens_per_step": float(tokens),
        "block": float(block),
        "limit_if_drafts_were_free": float(tokens / block),
        "megabytes": megabytes(two.weights),
        "all": {name: seconds["plain"] / seconds[name] for name in drafters},
    }


def dense() -> Pair:
    """The small dense model enlarged to 90 MB, and a draft that it taught."""
    return pair("experts_1_0", "distilled_1", **DENSE)


def dense_at_one(two: Pair) -> dict[str, Any]:
    """Batch 1 at temperature 1; beside it, greedily."""
    lengths = {f"{n} tokens": two.drafter(chain(n)) for n in (4, 6)}
    tree = {"a tree of 8": two.drafter(of_paths(best_tree(RANKS, 8)))}
    result = beside_plain(two, 1, lengths | tree)
    text = {"the text, 8 tokens": PromptLookup(VOCABULARY, chain(8))}
    greedy = beside_plain(two, 1, {"4 tokens": lengths["4 tokens"]} | text, temperature=0.0)
    return result | {"greedy": greedy["value"], "greedy_draft": greedy["draft"], "greedy_all": greedy["all"]}


def experts_at_best() -> dict[str, Any]:
    """16 experts, two of them used, and a draft that they taught, at several batches; the best of them."""
    two = pair("experts_16_0", "distilled_16", **ROUTED)
    drafts = {f"{n} tokens": two.drafter(chain(n)) for n in (3, 5)}
    results = [beside_plain(two, batch, drafts) for batch in BATCHES]
    for result in results:
        print(f"  batch {result['batch']:>2} {result['value']:.2f}", flush=True)
    best = max(results, key=lambda result: result["value"])
    by_batch = {str(r["batch"]): {"value": r["value"], "block": r["block"]} for r in results}
    return best | {"by_batch": by_batch}


@contextlib.contextmanager
def transformers(two: Pair) -> Iterator[Callable[..., Any]]:
    """Their Mixtral with the weights of both: a function that asks.

    Raises:
        Unavailable: torch or transformers cannot be installed.
    """
    python = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        save(two.config, two.weights, f"{folder}/target")
        save(two.draft, two.draft_weights, f"{folder}/draft")
        with peers.conversation(python, "mixtral_assist.py") as ask:
            ask(target=f"{folder}/target", draft=f"{folder}/draft", threads=os.cpu_count() or 1)
            yield ask


def beside_transformers(two: Pair) -> dict[str, Any]:
    """The same pair, the same prompts, batch 1, temperature 1; both with the best of a few drafts."""
    ours = {f"{n} tokens": by_drafts(two, 1, two.drafter(chain(n))) for n in (4, 6)}
    drafts = {f"{n} tokens": (n, "constant", 0.0) for n in (4, 6)} | {"as they choose": (20, "constant", 0.4)}
    with transformers(two) as ask:

        def theirs(draft: tuple | None, temperature: float = 1.0) -> Callable[[list], dict]:
            return lambda some: ask(prompt=some[0], limit=LIMIT, temperature=temperature, seed=0, draft=draft)

        programs = {("ours", n): p for n, p in ours.items()}
        programs |= {("peer", name): theirs(draft) for name, draft in drafts.items()}
        programs |= {("plain", "peer"): theirs(None)}
        cases = [[prompt] for prompt in prompts(PROMPTS)]
        seconds, _ = in_turns(programs, cases)
        greedy = [theirs(drafts["4 tokens"], 0.0)(case)["tokens"] for case in cases]
    mine = [by_drafts(two, 1, two.drafter(chain(4)), temperature=0.0)(case).of(0) for case in cases]
    best = {who: min((s, name) for (w, name), s in seconds.items() if w == who) for who in ("ours", "peer", "plain")}
    count = LIMIT * len(cases)
    return {
        "value": best["peer"][0] / best["ours"][0],
        "unit": "times the tokens/s",
        "ours": count / best["ours"][0],
        "peer": count / best["peer"][0],
        "ours_draft": best["ours"][1],
        "peer_draft": best["peer"][1],
        "peer_vs_its_plain": best["plain"][0] / best["peer"][0],
        "same_greedy_tokens": float(np.mean(np.array(mine) == np.array(greedy))),
    }


def law_error() -> dict[str, Any]:
    """Largest difference between probabilities of the law of speculation and of the target, over all that can be."""
    with jax.enable_x64(True):
        cases = list(itertools.product(TREES, SETTINGS))
        worst = max(error(tree, vocabulary, how, exact) for (tree, vocabulary), how in cases)
    return {"value": float(worst), "unit": "of a probability, largest error", "cases": len(cases)}


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Exactness, then speed."""
    yield "speculation_law_error", law_error()
    with jax.enable_x64(False):
        two = dense()
        yield "speculation_dense_1", dense_at_one(two)
        try:
            yield "speculation_vs_transformers", beside_transformers(two)
        except Unavailable as problem:
            print(f"without transformers: {problem}")
        yield "speculation_experts_best", experts_at_best()
