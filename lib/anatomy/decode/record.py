"""One speculation, round by round, as plain data: what was proposed, accepted, rejected, and drawn instead.

The rounds are those of `speculative.take_round` itself, whose numbers are written down; nothing is computed twice.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anatomy.decode import accepting
from anatomy.decode import cache as caches
from anatomy.decode.accepting import Rule
from anatomy.decode.drafts import Drafter
from anatomy.decode.generate import check_prompt
from anatomy.decode.sampling import Sampling, sampling
from anatomy.decode.speculative import At, Round, check_vocabulary, started, take_round
from anatomy.decode.step import sender
from anatomy.model import Config, Weights, apart
from anatomy.specs.base import check_arguments


def record(
    config: Config,
    weights: Weights,
    prompt: Sequence[int],
    drafter: Drafter,
    rounds: int,
    how: Sampling | None = None,
    *,
    rule: Rule = accepting.exact,
    top: int = 5,
    send: str | None = None,
) -> list[dict[str, Any]]:
    """Speculate on one text, and write down every round.

    Args:
        config: of the target.
        weights: of the target.
        prompt: tokens, at least two: the last is the newest, which the first round begins with.
        drafter: who drafts.
        rounds: how many.
        how: settings of one sequence, without an axis; by default at temperature 1.
        rule: what is accepted.
        top: tokens that are shown of a distribution, the likeliest first.
        send: name of the dispatch; by default the fastest.

    Returns:
        Of each round, with tokens as ids and of JSON's types throughout:

        - `known`: how many tokens are known before it.
        - `newest`: the last of them.
        - `drafted`: list of nodes: `node`, `parent`, `depth`, `token`, `p` and `q` of the token, `accept` the chance
          that it is accepted once it is its turn, `at` the uniform number that it is compared with, `fate`: "accepted",
          "rejected", or "not reached", and `target` and `draft`, the likeliest tokens of both distributions as
          [token, probability].
        - `last`: the token that the target drew: `token`, `kind` ("resampled" in place of a rejected one, or "bonus"
          after a draft that was wholly accepted or had no more), `probability` and `from`, the likeliest tokens of what
          it was drawn from, and `target`, those of p before anything was taken off.
        - `tokens`: what the round added.

    Raises:
        TypeError, ValueError: an argument is not allowed; the message names it.
    """
    check_arguments("record", caches.COUNT, rounds=rounds, top=top)
    rounds, top = int(rounds), int(top)
    check_vocabulary("record", config, drafter)
    check_prompt("record.prompt", prompt, config.vocabulary)
    tree, size = drafter.tree, len(prompt)
    room = size + rounds * (tree.height + 1) + tree.drafted
    if size < 2 or size + rounds * (tree.height + 1) > config.context:
        allowed = f"at least 2, and with all rounds at most {config.context}"
        raise ValueError(
            f"record.prompt has {size} tokens, {rounds} rounds make {tree.height + 1} each; allowed: {allowed}"
        )
    how = jax.tree.map(lambda a: jnp.asarray(a)[None], sampling() if how is None else how)
    weights = apart(weights)
    history = np.zeros((1, room), np.int32)
    history[0, :size] = prompt
    send_all, send_few = sender(send, "prefill", size), sender(send, "decode", tree.drafted + 1)
    at = started(config, weights, drafter, history, np.array([size], np.int32), send_all)

    @jax.jit
    def step(weights: Weights, drafter: Drafter, at: At) -> tuple[Round, At]:
        wanted, going = jnp.full(1, tree.height, jnp.int32), jnp.ones(1, bool)
        return take_round(config, weights, drafter, rule, send_few, at, wanted, going, how)

    made = []
    for _ in range(rounds):
        newest = int(at.history[0, at.known[0] - 1])
        one, following = step(weights, drafter, at)
        made.append({"known": int(at.known[0]), "newest": newest} | written_down(drafter, jax.device_get(one), top))
        at = following
    return made


def written_down(drafter: Drafter, one: Round, top: int) -> dict[str, Any]:
    """A round of the first row."""
    tree = drafter.tree
    drafted = jax.tree.map(lambda a: a[0], one.drafted)
    p, path, accepted = one.p[0], one.walk.path[0].tolist(), int(one.walk.accepted[0])
    way = path[: accepted + 1]
    nodes = []
    for node in range(1, tree.drafted + 1):
        token, parent = int(drafted.token[node - 1]), tree.parents[node - 1]
        if not drafted.there[node - 1]:
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
                "at": float(one.at[0, node - 1]),
                "fate": "accepted" if node in way else "rejected" if tried else "not reached",
                "target": likeliest(p[parent], top),
                "draft": likeliest(drafted.q[node - 1], top),
            }
        )
    rejected = any(node["fate"] == "rejected" and node["parent"] == way[-1] for node in nodes)
    left = one.left[0] / one.left[0].sum()
    last = int(one.tokens[0, accepted])
    return {
        "drafted": nodes,
        "last": {
            "token": last,
            "kind": "resampled" if rejected else "bonus",
            "probability": float(left[last]),
            "from": likeliest(left, top),
            "target": likeliest(p[way[-1]], top),
        },
        "tokens": one.tokens[0, : accepted + 1].tolist(),
    }


def likeliest(law: np.ndarray, top: int) -> list[list[float]]:
    """Tokens with the largest probabilities, those of probability 0 left out."""
    order = np.argsort(-law, kind="stable")[:top]
    return [[int(token), float(law[token])] for token in order if law[token] > 0]
