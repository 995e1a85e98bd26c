"""Speculation of small trained models on the clock of this machine: dense and routed, by draft length, batch and form.

Speculation steps are those of `decode.draft_verify_step`, each a compiled call; a plain step is a pass over one token
and a draw. Both are timed in one process and cached. Speed depends on shapes and acceptance on values: so trained
models are enlarged by zeros (`model.enlarge`), and both are real.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anatomy.cost.speculation.step import active_experts_of_blocks
from anatomy.cost.speculation.trees import best_tree
from anatomy.decode import (
    Drafter,
    DraftModel,
    PromptLookup,
    Sampling,
    ServedModel,
    Speculation,
    SpeculationState,
    StagedDraft,
    Tree,
    chain,
    draft_verify_step,
    extend,
    logits,
    make_sampling,
    of_paths,
    sample,
    wide,
)
from anatomy.measure.cache import cached
from anatomy.model import Config, Weights, empty_cache, unstack
from anatomy.model.enlarge import enlarge
from anatomy.train import recipes
from anatomy.train.data import tokens
from anatomy.train.data.sources import VOCABULARY

ROOM = 128  # tokens of a sequence; then it begins again
TARGETS = {  # recipes of a target and of the draft that it taught, sizes the target is enlarged to, and the dispatch
    "dense": ("experts_1_0", "distilled_1", {"d_model": 512, "d_ff": 6144}, "all_experts"),  # the one is read anyway
    "16 experts": ("experts_16_0", "distilled_16", {"d_model": 384, "d_ff": 2048}, None),
}
LENGTHS, LONG_AT = (1, 2, 4, 8), (1, 16)  # draft lengths, and the batches at which all of them are measured
FOUR, BATCHES = 4, (1, 8, 16, 32, 64)  # the length that is measured at every batch
PASSES = 48  # of each measurement
RANKS = (0.55, 0.12, 0.06, 0.04)  # that the first, second, ... guess is right: what trees are chosen by


class Target(NamedTuple):
    """A trained model at the size of a larger one."""

    config: Config
    weights: Weights
    dispatch: str | None

    @property
    def served(self) -> ServedModel:
        """As decoding takes it."""
        return ServedModel(self.weights, self.config, self.dispatch)

    @property
    def bytes(self) -> int:
        """Of its weights."""
        return sum(a.nbytes for a in jax.tree.leaves(self.weights))

    def read(self, experts: float) -> float:
        """Bytes that a pass reads in which so many experts of each layer are active."""
        each = 3 * self.config.d_model * self.config.d_ff * 4 * self.config.layers
        embedding = self.weights.embedding.nbytes  # of which a few rows are read
        return self.bytes - embedding - (self.config.experts - experts) * each

    def flop(self) -> float:
        """Of a token: two for each weight that it meets."""
        return self.read(self.config.top_k) / 2


@cache
def target(name: str) -> Target:
    """One of `TARGETS`."""
    recipe, _, sizes, dispatch = TARGETS[name]
    made = recipes.trained(recipe, progress=False)
    with jax.enable_x64(False):
        config, weights = enlarge(made.config.replace(context=ROOM), made.weights, **sizes)
        return Target(config, unstack(weights), dispatch)


def drafter(tree: Tree, recipe: str) -> DraftModel:
    """A trained model as a draft; of one expert or few tokens, so all experts are read."""
    made = recipes.trained(recipe, progress=False)
    return DraftModel(ServedModel(made.weights, made.config, "all_experts"), tree)


def first_tokens(batch: int) -> np.ndarray:
    """First words of held-out texts, of prose and code in turns, each of which a sequence goes on from."""
    bpe = tokens.tokenizer(VOCABULARY)
    texts = [tokens.packed(bpe, name, "held_out", ROOM)[:, 0] for name in tokens.EPOCHS]
    return np.stack([text[: min(map(len, texts))] for text in texts], 1).reshape(-1)[:batch].astype(np.int32)


def start(model: Target, draft: Drafter, batch: int) -> SpeculationState:
    """Sequences of one token each."""
    history = jnp.zeros((batch, ROOM), jnp.int32).at[:, 0].set(first_tokens(batch))
    cache = empty_cache(model.config, batch, room=ROOM)
    return SpeculationState(cache, draft.empty(batch, ROOM), history, jnp.ones(batch, jnp.int32))


class Program(NamedTuple):
    """A compiled pass, and how it is run again and again."""

    call: Callable[..., Any]
    begin: Callable[[], Any]
    batch: int
    most: int  # tokens that a pass may add or look ahead


def plain_step(model: Target, batch: int) -> Program:
    """A step of plain decoding: reads the newest token of each sequence, draws the next."""

    def step(model: ServedModel, state: Any, sampling: Sampling) -> Any:
        cache, token = state
        x, cache = extend(model, cache, token, jnp.ones(batch, jnp.int32))
        made = sample(logits(model, x[:, 0]), sampling, cache.length)
        return {"count": jnp.ones(batch, jnp.int32)}, (cache, made[:, None])

    def begin() -> Any:
        return empty_cache(model.config, batch, room=ROOM), jnp.asarray(first_tokens(batch))[:, None]

    made = jax.jit(step, donate_argnums=1).lower(model.served, begin(), make_sampling(batch)).compile()
    return Program(partial(made, model.served), begin, batch, 1)


def speculation_step(model: Target, draft: Drafter, batch: int) -> Program:
    """A speculation step, which drafts so much of a chain as is wanted, or a whole tree."""
    tree, both = draft.tree, Speculation(model.served, draft)

    def step(both: Speculation, state: SpeculationState, sampling: Sampling, wanted: Any) -> Any:
        length, going = jnp.full(batch, wanted), jnp.ones(batch, bool)
        one, state = draft_verify_step(both, state, length, going, sampling)
        return {"count": one.count, "accepted": one.accepted, "judged": one.judged}, state

    begin = partial(start, model, draft, batch)
    example = both, begin(), make_sampling(batch), np.int32(tree.height)
    made = jax.jit(step, donate_argnums=1).lower(*example).compile()

    def call(state: SpeculationState, sampling: Sampling, wanted: int = tree.height) -> Any:
        return made(both, state, sampling, np.int32(wanted))

    return Program(call, begin, batch, tree.drafted + 1)


def time_passes(program: Program, passes: int = PASSES, **how: int) -> dict[str, list[Any]]:
    """Seconds of each pass, and what it says of each sequence, which begin again when there is no more room."""
    found: dict[str, list[Any]] = {"seconds": []}
    room, seed, at = 0, 0, None
    for number in range(passes + 2):
        if room < 2 * program.most:
            at, room, seed = program.begin(), ROOM, seed + program.batch
            settings = make_sampling(program.batch, seed=list(range(seed, seed + program.batch)))
        before = time.perf_counter()
        said, at = jax.block_until_ready(program.call(at, settings, **how))
        after = time.perf_counter()
        room -= int(said["count"].max())
        if number >= 2:  # the first passes warm up
            found["seconds"].append(after - before)
            for name, each in said.items():
                found.setdefault(name, []).append(np.asarray(each).tolist())
    return found


def tree_of_eight() -> Tree:
    """The best eight nodes for `RANKS`."""
    return of_paths(best_tree(RANKS, 8))


def forms(recipe: str) -> dict[str, Drafter]:
    """Drafts of other forms than one chain by the model of this recipe."""
    four = drafter(chain(4), recipe)
    return {
        "four guesses at one place": drafter(wide((4,)), recipe),
        "the best tree of eight": drafter(tree_of_eight(), recipe),
        "staged: a draft with the text as its draft": StagedDraft(
            four.model, PromptLookup(VOCABULARY, chain(2)), four.tree
        ),
        "the text as draft": PromptLookup(VOCABULARY, chain(4)),
    }


def lengths_at(batch: int) -> tuple[int, ...]:
    """Draft lengths that are measured at a batch."""
    return LENGTHS if batch in LONG_AT else (FOUR,)


@cache
def all_passes() -> dict[str, dict[str, dict[str, Any]]]:
    """Passes of all targets by name, measured once on this machine: "plain 16", "4 tokens at 16", or a form."""
    return {name: cached(TARGETS[name][:2], measure_passes, name) for name in TARGETS}


def measure_passes(name: str) -> dict[str, dict[str, Any]]:
    """Compile all programs, two at a time, and time one after the other."""
    with jax.enable_x64(False):
        model, draft = target(name), TARGETS[name][1]
        wanted: dict[str, Callable[[], Program]] = {}
        for batch in BATCHES:
            wanted[f"plain {batch}"] = partial(plain_step, model, batch)
            for length in lengths_at(batch):
                wanted[f"{length} tokens at {batch}"] = partial(
                    speculation_step, model, drafter(chain(length), draft), batch
                )
        if name == "dense":
            wanted |= {form: partial(speculation_step, model, other, 1) for form, other in forms(draft).items()}
        with ThreadPoolExecutor(2) as pool:
            programs = dict(zip(wanted, pool.map(_in_single_precision, wanted.values()), strict=True))
        found = {}
        for key, program in programs.items():
            more = program.batch == 1
            found[key] = time_passes(program, PASSES * (5 if more else 1))
            if "tokens at" in key:  # the draft's first step and the target's pass, without the rest of the draft
                found[key]["idle"] = time_passes(program, PASSES // 2, wanted=0)["seconds"]
        return found


def _in_single_precision(make: Callable[[], Program]) -> Program:
    """In a thread of its own, which has its own setting."""
    with jax.enable_x64(False):
        return make()


class Gain(NamedTuple):
    """What speculation gained at one length and batch, and what that is made of."""

    tokens: float  # of a speculation step
    draft_cost: float  # a step of the draft, in plain steps
    verify_cost: float  # the target's pass over the draft and one more, in plain steps
    speed_up: float  # measured


def median_seconds(found: Mapping[str, Any]) -> float:
    """Of a pass: the median."""
    return float(np.median(found["seconds"]))


def acceptance_rate(name: str) -> float:
    """Share of the judged tokens that were accepted, in all chains of a target."""
    chains = [found for key, found in all_passes()[name].items() if "tokens at" in key]
    accepted, judged = (sum(np.sum(found[what]) for found in chains) for what in ("accepted", "judged"))
    return float(accepted / judged)


def tokens_per_step(name: str, length: int) -> float:
    """Of a step with a chain of this length, over all batches: what is accepted does not depend on the batch."""
    chains = [found for key, found in all_passes()[name].items() if key.startswith(f"{length} tokens")]
    counts = [np.ravel(found["count"]) for found in chains]
    return float(np.concatenate(counts).mean())


def draft_seconds(batch: int) -> float:
    """Of a step of the draft: what speculation takes more that drafts all it can, for each token after the first.

    By the dense target, which reads the same for one token and for many; both drafts have one shape.
    """
    longest = max(lengths_at(batch))
    found = all_passes()["dense"][f"{longest} tokens at {batch}"]
    return max(median_seconds(found) - float(np.median(found["idle"])), 0) / (longest - 1)


def gain(name: str, length: int, batch: int) -> Gain:
    """What was measured at one length and batch."""
    found = all_passes()[name]
    one, step = found[f"{length} tokens at {batch}"], median_seconds(found[f"plain {batch}"])
    draft, made = draft_seconds(batch) / step, tokens_per_step(name, length)
    return Gain(made, draft, median_seconds(one) / step - length * draft, made * step / median_seconds(one))


class Machine(NamedTuple):
    """A machine of two numbers, which passes of the dense target show: here reading and arithmetic add up.

    A processor that does both at once takes the longer of the two (williams2009roofline); this one computes with what
    it has just read.
    """

    bandwidth: float  # bytes/s
    rate: float  # FLOP/s

    def pass_of(self, name: str, batch: int, block: int) -> float:
        """Seconds of a pass over so many tokens of each sequence."""
        model = target(name)
        experts = float(
            active_experts_of_blocks(
                blocks=batch, block_tokens=block, experts=model.config.experts, top_k=model.config.top_k
            )
        )
        return model.read(experts) / self.bandwidth + batch * block * model.flop() / self.rate

    def balance(self, name: str) -> float:
        """Tokens at which arithmetic takes as long as reading all weights."""
        model = target(name)
        return model.read(model.config.experts) / self.bandwidth / (model.flop() / self.rate)


@cache
def machine() -> Machine:
    """By two passes of the dense target: its plain step for one, and its largest."""
    found, model, batch = all_passes()["dense"], target("dense"), max(BATCHES)
    one, step = (median_seconds(found[f"plain {n}"]) for n in (1, batch))
    most = gain("dense", FOUR, batch).verify_cost * step
    token = (most - one) / (batch * (FOUR + 1) - 1)  # seconds of arithmetic
    return Machine(model.read(1.0) / (one - token), model.flop() / token)


def predicted_verify_cost(name: str, length: int, batch: int) -> float:
    """Time of a block over that of a plain step, by the machine of two numbers."""
    here = machine()
    return here.pass_of(name, batch, length + 1) / here.pass_of(name, batch, 1)


def inter_token_times(found: Mapping[str, Any]) -> np.ndarray:
    """Seconds between tokens of one sequence: the first of a pass waits for it, the others come with it."""
    both = zip(found["seconds"], found["count"], strict=True)
    return np.concatenate([[wait, *[0.0] * (count[0] - 1)] for wait, count in both])
