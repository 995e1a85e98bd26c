"""The frontier of serving plans on several clusters, and where the article's layout lies on each, as columns."""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from anatomy.claims.article.serving import SERVING, machine, model
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.memory import memory
from anatomy.cost.serving.search import SEARCHED, every_plan, search
from anatomy.cost.serving.steps import decode
from anatomy.specs import Scalar, Serving, chip, cluster, node

BEST, ARTICLE = "Best plans", "8 x 16, as in the article"
BATCHES = np.unique(np.round(2 ** np.arange(0, 14.25, 0.5)))  # sequences of a replica, to try
BATCHES_OF_THE_ARTICLE = 2.0 ** np.arange(4, 16)
COLUMNS = ("seconds", "chip_seconds", "memory", *SEARCHED)
Columns = Mapping[str, np.ndarray]


def fronts(
    keys: Sequence[str], chips: Sequence[float], weight_bytes: Sequence[float], contexts: Sequence[float]
) -> dict[tuple[float, ...], dict[str, Columns]]:
    """For each chip, number of chips, precision and context: the plans that no other beats, and the article's layout.

    Args:
        keys: of chips.
        chips: most that a deployment may have; whole nodes.
        weight_bytes: of a weight.
        contexts: tokens of each sequence in the cache.

    Returns:
        By index of the chip, chips, bytes and tokens: columns of both series, of plans that fit. The article's layout
        has 128 chips, whatever others may have, and grows in its batch.
    """
    found, widths = {}, np.asarray(weight_bytes, float)
    for (index, key), context in itertools.product(enumerate(keys), contexts):
        largest = cluster(key, max(chips) / node(key).chips)
        plans = every_plan(model(), largest, batch=BATCHES)
        count = len(plans["tensor"])
        plans = {name: np.tile(column, len(widths)) for name, column in plans.items()}
        plans["weight_bytes"] = np.repeat(widths, count)  # one program for all precisions
        result = search(model(), largest, overheads(key), context=context, like=Serving(), plans=plans)
        for width, most in itertools.product(weight_bytes, chips):
            allowed = (result.plans["weight_bytes"] == width) & (result.chips <= most)
            rows = result._replace(fits=result.fits & allowed).frontier()
            best = {name: column[rows] for name, column in (result._asdict() | result.plans).items() if name in COLUMNS}
            found[float(index), most, width, context] = {
                BEST: best,
                ARTICLE: layout_of_the_article(key, width, context),
            }
    return found


def layout_of_the_article(key: str, weight_bytes: float, context: float) -> Columns:
    """The article's layout on its 128 chips of a kind, for batches that fit."""
    plan, there = SERVING.replace(weight_bytes=weight_bytes), machine(key)

    def outcome(batch: Scalar) -> dict[str, Scalar]:
        made = decode(model(), plan, there, overheads(key), batch=batch, context=context)
        held = memory(model(), plan, batch=batch, context=context).total
        numbers = {"seconds": made.seconds, "chip_seconds": made.chips * made.seconds / made.tokens, "memory": held}
        return numbers | {name: jnp.asarray(getattr(plan, name), float) for name in SEARCHED if name != "batch"}

    with jax.enable_x64(True):
        columns = {name: np.asarray(column) for name, column in jax.vmap(outcome)(BATCHES_OF_THE_ARTICLE).items()}
    columns["batch"] = BATCHES_OF_THE_ARTICLE
    fits = columns["memory"] <= chip(key).memory
    return {name: columns[name][fits] for name in COLUMNS}


def serving_plan(
    seconds: Scalar,
    chip_seconds: Scalar,
    memory: Scalar,
    tensor: Scalar,
    rows: Scalar,
    gathered: Scalar,
    pipeline: Scalar,
    first_stage_share: Scalar,
    expert: Scalar,
    micro_batches: Scalar,
    cache_by_sequence: Scalar,
    batch: Scalar,
    price: Scalar,
) -> dict[str, Scalar]:
    """What a plan of a front stands for, at so many dollars for an hour of a chip; shares experts over e replicas."""
    return {
        "ms": 1e3 * seconds,
        "dollars": 1e6 * chip_seconds * price / 3600,
        "per_user": 1 / seconds,
        "per_chip": 1 / chip_seconds,
        "chips": tensor * pipeline * expert,
        "tensor": tensor,
        "rows": rows,
        "gathered": gathered > 0,
        "pipeline": pipeline,
        "first_stage_share": first_stage_share < 1,
        "expert": expert,
        "users": batch * expert,
        "micro_batches": micro_batches,
        "by_sequence": cache_by_sequence > 0,
        "memory": memory,
    }
