"""Speculative decoding of a batch that stays together: the whole loop one program.

Axes as in `step`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.forward import ServedModel, logits
from anatomy.decode.generate import CHUNK, Generated, checked_inputs, prefill
from anatomy.decode.sampling import AcceptanceRule, Sampling, check_tokens, exact, sample
from anatomy.decode.speculation.adaptive import AdaptiveLength, check_adaptive
from anatomy.decode.speculation.drafts import Drafter, State, check_vocabulary
from anatomy.decode.speculation.step import Speculation, SpeculationState, append_tokens, draft_verify_step
from anatomy.model import Config, Weights, empty_cache
from anatomy.specs.base import between, check_arguments


class GeneratedBySpeculation(NamedTuple):
    """What was generated, and how."""

    tokens: Int[np.ndarray, "B A"]  # -1 where a sequence had ended
    count: Int[np.ndarray, "B"]  # tokens of each, its end token included
    ended: Bool[np.ndarray, "B"]  # whether it ended with an end token rather than at the limit
    steps: Int[np.ndarray, "B"]  # draft-verify steps: passes of the target
    drafted: Int[np.ndarray, "B"]  # tokens proposed
    accepted: Int[np.ndarray, "B"]  # of them

    of = Generated.of

    @property
    def tokens_per_step(self) -> float:
        """Mean over the batch; the token that reading the prompt gives is no step's."""
        return float((self.count - 1).sum() / max(self.steps.sum(), 1))


def speculate(
    config: Config,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    limit: int,
    drafter: Drafter,
    sampling: Sampling | None = None,
    end: Sequence[int] = (),
    *,
    rule: AcceptanceRule = exact,
    adaptive: AdaptiveLength | None = None,
    length: int | None = None,
    chunk: int = CHUNK,
    dispatch: str | None = None,
) -> GeneratedBySpeculation:
    """Continue prompts as `generate` does, by speculation: with the exact rule, from the same distribution.

    Args:
        config: of the target.
        weights: of the target, stacked or unstacked; unstacked they are not copied.
        prompts: tokens of each, at least one.
        limit: tokens to add at most.
        drafter: who drafts.
        sampling: settings, one for each prompt; by default greedy. The draft draws by the same.
        end: tokens that end a sequence.
        rule: what is accepted.
        adaptive: how the length of a chain follows acceptance; by default it does not.
        length: tokens of a chain to draft, where that is fixed: 0, which drafts nothing in passes of the same shape, to
            those of the drafter's tree; by default all.
        chunk: tokens of a prompt that are read at once.
        dispatch: its name; by default the fastest of each pass.

    Raises:
        TypeError, ValueError: an argument is not allowed, or prompt and limit together are longer than the context; the
            message names it.
        FloatingPointError: logits of the target or of the draft are not finite.
    """
    tree = drafter.tree
    check_vocabulary("speculate", config, drafter)
    length = tree.drafted if length is None else length
    check_arguments("speculate", between(high=tree.drafted, whole=True), length=length)
    check_adaptive("speculate", adaptive, drafter)
    inputs = checked_inputs("speculate", config, prompts, limit, sampling, end, chunk)
    room = -(-(inputs.most + tree.drafted) // inputs.chunk) * inputs.chunk
    history = np.zeros((len(prompts), room), np.int32)
    history[:, : inputs.tokens.shape[1]] = inputs.tokens
    cache, draft = empty_cache(config, len(prompts), room=room), drafter.empty(len(prompts), room)
    state = SpeculationState(cache, draft, jnp.asarray(history), inputs.length)
    speculation = Speculation(ServedModel(weights, config, dispatch), drafter, rule)
    fixed = LoopSettings(inputs.limit, inputs.chunk, adaptive)
    made = _speculate(fixed, state, speculation, inputs.tokens, inputs.sampling, inputs.end, np.int32(length))
    made = GeneratedBySpeculation(*jax.tree.map(np.asarray, made[:6]))
    check_tokens("speculate", made.tokens, made.count)
    return made


class LoopSettings(NamedTuple):
    """What is fixed when the loop is compiled, beside its models and rule."""

    limit: int
    chunk: int
    adaptive: AdaptiveLength | None


class LoopState(NamedTuple):
    """What the loop carries."""

    state: SpeculationState
    going: Bool[Array, "B"]
    made: Int[Array, "B A"]
    count: Int[Array, "B"]
    steps: Int[Array, "B"]
    drafted: Int[Array, "B"]
    accepted: Int[Array, "B"]
    counts: Float[Array, "B 2"]  # as `AdaptiveLength` counts


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _speculate(
    fixed: LoopSettings,
    state: SpeculationState,
    speculation: Speculation,
    tokens: Int[Array, "B S"],
    sampling: Sampling,
    end: Int[Array, "e"],
    length: Int[Array, ""],
) -> tuple[Any, ...]:
    """Read the prompts, then step after step; what was given away is given back, to be written in place."""
    model, drafter, chunk = speculation.target, speculation.drafter, fixed.chunk
    batch, tree, size = len(tokens), drafter.tree, state.known
    last, target = prefill(model, state.target, tokens, size, chunk)

    def read(index: Array, draft: State) -> State:
        some = jax.lax.dynamic_slice_in_dim(tokens, index * chunk, chunk, axis=1)
        return drafter.read(draft, some, jnp.clip(size - index * chunk, 0, chunk), None)

    draft = jax.lax.fori_loop(0, tokens.shape[1] // chunk, read, state.draft)
    first = sample(logits(model, last), sampling, size)[:, None]
    one = jnp.ones(batch, jnp.int32)
    made = jnp.full((batch, fixed.limit), -1, jnp.int32).at[:, :1].set(first)
    going = ~_stops(first, end)[:, 0] & (fixed.limit > 1)
    state = SpeculationState(target, draft, append_tokens(state.history, size, first, one), size + 1)

    def more(loop: LoopState) -> LoopState:
        missing = fixed.limit - loop.count
        wanted = jnp.broadcast_to(length, (batch,))
        if fixed.adaptive is not None:
            wanted = fixed.adaptive.length(loop.counts, tree.drafted)
        if tree.is_chain:
            wanted = jnp.minimum(wanted, missing - 1)  # one comes of itself
        step, state = draft_verify_step(speculation, loop.state, wanted, loop.going, sampling)
        stops = _stops(step.tokens, end) & (jnp.arange(tree.height + 1) < step.count[:, None])
        until = jnp.where(stops.any(1), 1 + jnp.argmax(stops, axis=1).astype(jnp.int32), step.count)
        added = jnp.minimum(jnp.minimum(step.count, until), missing)
        going = loop.going & (added < missing) & ~stops.any(1)
        drafted = jnp.where(loop.going, step.drafted.mask.sum(1, dtype=jnp.int32), 0)
        counts = loop.counts if fixed.adaptive is None else fixed.adaptive.observe(loop.counts, step)
        return LoopState(
            state, going, append_tokens(loop.made, loop.count, step.tokens, added), loop.count + added,
            loop.steps + loop.going, loop.drafted + drafted, loop.accepted + step.accepted, counts,
        )  # fmt: skip

    nothing = jnp.zeros(batch, jnp.int32)
    start = LoopState(state, going, made, one, nothing, nothing, nothing, AdaptiveLength.prior(batch))
    loop = jax.lax.while_loop(lambda loop: loop.going.any(), more, start)
    ended = jnp.isin(jnp.take_along_axis(loop.made, loop.count[:, None] - 1, axis=1)[:, 0], end)
    return loop.made, loop.count, ended, loop.steps, loop.drafted, loop.accepted, loop.state


def _stops(tokens: Int[Array, "B A"], end: Int[Array, "e"]) -> Bool[Array, "B A"]:
    """Whether a sequence goes no further: at an end token, or one that could not be drawn."""
    return jnp.isin(tokens, end) | (tokens < 0)
