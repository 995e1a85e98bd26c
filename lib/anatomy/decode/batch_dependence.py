"""Why only exact dispatches serve: with one that drops, an answer depends on who else is in the batch.

Not for serving: `generate` and the engine refuse what this shows.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.decode.sampling import check_tokens, make_sampling, sample
from anatomy.model import Config, Weights, empty_cache, forward
from anatomy.model.moe import Dispatch
from anatomy.specs.base import COUNT, check_arguments


def together(
    config: Config, weights: Weights, prompts: Int[np.ndarray, "B S"], limit: int, dispatch: Dispatch
) -> tuple[Int[Array, "B A"], Float[Array, "A"]]:
    """Greedy answers to prompts of one length that are answered together.

    Args:
        config: of the model.
        weights: stacked or unstacked.
        prompts: tokens; where places are short, rows further up have them first.
        limit: A, tokens of each answer.
        dispatch: any; of those that drop, choices that find no place count for nothing.

    Returns:
        The answers, and the share of choices that were dropped in each pass.

    Raises:
        FloatingPointError: logits are not finite.
        ValueError: the limit is below 1 or not whole, or prompt and answer are longer than the context.
    """
    check_arguments("together", COUNT, limit=limit)
    if (most := np.shape(prompts)[1] + limit) > config.context:
        raise ValueError(f"together.prompts and limit need {most} tokens; allowed: at most {config.context}")
    answers, dropped = _together(config, limit, dispatch, weights, jnp.asarray(prompts, jnp.int32))
    check_tokens("together", np.asarray(answers), np.full(len(prompts), limit))
    return answers, dropped


@partial(jax.jit, static_argnums=(0, 1, 2))
def _together(
    config: Config, limit: int, dispatch: Dispatch, weights: Weights, prompts: Int[Array, "B S"]
) -> tuple[Int[Array, "B A"], Float[Array, "A"]]:
    """The whole loop, one program."""
    greedy = make_sampling(len(prompts), temperature=0.0)

    def read(tokens: Array, cache: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        made = forward(config, weights, tokens, cache, dispatch)
        token = sample(made.logits[:, -1], greedy, made.cache.length)
        return (token, made.cache), (token, made.dropped)

    start, first = read(prompts, empty_cache(config, len(prompts), room=prompts.shape[1] + limit))
    _, rest = jax.lax.scan(lambda carry, _: read(carry[0][:, None], carry[1]), start, length=limit - 1)
    answers, dropped = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)
    return answers.T, dropped
