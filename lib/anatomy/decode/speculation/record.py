"""One speculation, step by step, as plain data: what was proposed, accepted, rejected, and drawn instead.

The steps are those of `draft_verify_step` itself, whose numbers are written down; nothing is computed twice.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anatomy.decode.forward import ServedModel
from anatomy.decode.generate import check_prompt
from anatomy.decode.sampling import AcceptanceRule, Sampling, check_tokens, exact, make_sampling
from anatomy.decode.speculation.drafts import Drafter, check_vocabulary
from anatomy.decode.speculation.step import Speculation, Step, draft_verify_step, start_speculation
from anatomy.model import Config, Weights
from anatomy.specs.base import COUNT, check_arguments


def record(
    config: Config,
    weights: Weights,
    prompt: Sequence[int],
    drafter: Drafter,
    steps: int,
    sampling: Sampling | None = None,
    *,
    rule: AcceptanceRule = exact,
    top: int = 5,
    dispatch: str | None = None,
) -> list[dict[str, Any]]:
    """Speculate on one text, and write down every step.

    Args:
        config: of the target.
        weights: of the target.
        prompt: tokens, at least two: the last is the newest, which the first step begins with.
        drafter: who drafts.
        steps: how many.
        sampling: settings of one sequence, without an axis; by default at temperature 1.
        rule: what is accepted.
        top: tokens that are shown of a distribution, the likeliest first.
        dispatch: its name; by default the fastest.

    Returns:
        Of each step, with tokens as ids and of JSON's types throughout:

        - `known`: how many tokens are known before it.
        - `newest`: the last of them.
        - `drafted`: list of nodes: `node`, `parent`, `depth`, `token`, `p` and `q` of the token, `accept` the chance
          that it is accepted once it is its turn, `at` the uniform number that it is compared with, `fate`: "accepted",
          "rejected", or "not reached", and `target` and `draft`, the likeliest tokens of both distributions as
          [token, probability].
        - `last`: the token that the target drew: `token`, `kind` ("resampled" in place of a rejected one, or "bonus"
          after a draft that was wholly accepted or had no more), `probability` and `from`, the likeliest tokens of what
          it was drawn from, and `target`, those of p before anything was taken off.
        - `tokens`: what the step added.

    Raises:
        TypeError, ValueError: an argument is not allowed; the message names it.
        FloatingPointError: logits of the target or of the draft are not finite.
    """
    check_arguments("record", COUNT, steps=steps, top=top)
    steps, top = int(steps), int(top)
    check_vocabulary("record", config, drafter)
    check_prompt("record.prompt", prompt, config.vocabulary)
    tree, size = drafter.tree, len(prompt)
    room = size + steps * (tree.height + 1) + tree.drafted
    if size < 2 or size + steps * (tree.height + 1) > config.context:
        allowed = f"at least 2, and with all steps at most {config.context}"
        raise ValueError(
            f"record.prompt has {size} tokens, {steps} steps make {tree.height + 1} each; allowed: {allowed}"
        )
    sampling = jax.tree.map(lambda a: jnp.asarray(a)[None], make_sampling() if sampling is None else sampling)
    history = np.zeros((1, room), np.int32)
    history[0, :size] = prompt
    speculation = Speculation(ServedModel(weights, config, dispatch), drafter, rule)
    state = start_speculation(speculation.target, drafter, history, np.array([size], np.int32))
    length, going, step, made = jnp.full(1, tree.height, jnp.int32), jnp.ones(1, bool), jax.jit(draft_verify_step), []
    for _ in range(steps):
        known, newest = int(state.known[0]), int(state.history[0, state.known[0] - 1])
        one, state = step(speculation, state, length, going, sampling)
        one = jax.device_get(one)
        check_tokens("record", one.tokens, one.count)
        made.append({"known": known, "newest": newest} | written_down(drafter, one, top))
    return made


def written_down(drafter: Drafter, one: Step, top: int) -> dict[str, Any]:
    """A step of the first row."""
    tree = drafter.tree
    drafted = jax.tree.map(lambda a: a[0], one.drafted)
    p, path, accepted = one.p[0], one.walk.path[0].tolist(), int(one.walk.accepted[0])
    way = path[: accepted + 1]
    nodes = []
    for node in range(1, tree.drafted + 1):
        token, parent = int(drafted.token[node - 1]), tree.parents[node - 1]
        if not drafted.mask[node - 1]:
            continue
        tried = parent in way and not any(
            child in way for child in tree.children[parent][: tree.rank[node]].tolist() if child
        )
        nodes.append(
            {
                "node": node,
                "parent": int(parent),
                "depth": int(tree.depth[node]),
                "token": token,
                "p": float(p[parent, token]),
                "q": float(drafted.q[node - 1, token]),
                "accept": float(one.accept[0, node - 1]),
                "at": float(one.u[0, node - 1]),
                "fate": "accepted" if node in way else "rejected" if tried else "not reached",
                "target": likeliest(p[parent], top),
                "draft": likeliest(drafted.q[node - 1], top),
            }
        )
    rejected = any(node["fate"] == "rejected" and node["parent"] == way[-1] for node in nodes)
    residual = one.residual[0] / one.residual[0].sum()
    last = int(one.tokens[0, accepted])
    return {
        "drafted": nodes,
        "last": {
            "token": last,
            "kind": "resampled" if rejected else "bonus",
            "probability": float(residual[last]),
            "from": likeliest(residual, top),
            "target": likeliest(p[way[-1]], top),
        },
        "tokens": one.tokens[0, : accepted + 1].tolist(),
    }


def likeliest(p: np.ndarray, top: int) -> list[list[float]]:
    """Tokens with the largest probabilities, those of probability 0 left out."""
    order = np.argsort(-p, kind="stable")[:top]
    return [[int(token), float(p[token])] for token in order if p[token] > 0]
