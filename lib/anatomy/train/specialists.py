"""What experts are specialists of: how much the first choice of a token tells about the token.

Symbols: I mutual information in bits, E experts, L layers.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Int
from scipy.special import xlogy

from anatomy.model.routing_statistics import chosen_experts
from anatomy.specs.base import between, check_arguments
from anatomy.train import recipes
from anatomy.train.data import tokens
from anatomy.train.data.sources import VOCABULARY
from anatomy.train.loop import Trained

ROWS = 32  # of held-out text of each domain
STRETCH = 32  # tokens of a row that count as one place


def information(labels: Int[np.ndarray, "n"], chosen: Int[np.ndarray, "n"]) -> float:
    """I(label; chosen) in bits, of the counts as they are: sum of p(l, c) log2(p(l, c) / (p(l) p(c))).

    Args:
        labels: of each token, from 0 on.
        chosen: its expert, from 0 on.

    Raises:
        ValueError: there are no tokens, or not as many labels as choices.
    """
    if not len(labels) == len(chosen) > 0:
        raise ValueError(f"labels and chosen are {len(labels)} and {len(chosen)}; allowed: as many of each, at least 1")
    joint = np.zeros((np.max(labels) + 1, np.max(chosen) + 1))
    np.add.at(joint, (labels, chosen), 1 / len(labels))
    single = [-xlogy(share, share).sum() for share in (joint.sum(1), joint.sum(0))]
    return float((sum(single) + xlogy(joint, joint).sum()) / np.log(2))


def told(labels: Int[np.ndarray, "n"], chosen: Int[np.ndarray, "n"], shuffles: int = 20, seed: int = 0) -> float:
    """Bits that the choice of a token tells about its label, less what chance alone would show in so few tokens.

    Chance is the mean over labels that were shuffled; where the choice tells nothing the result is near 0, of either
    sign.

    Raises:
        TypeError, ValueError: as `information`, or a number is impossible.
    """
    check_arguments("told", between(1, whole=True), shuffles=shuffles)
    check_arguments("told", between(whole=True), seed=seed)
    random = np.random.default_rng(seed)
    chance = [information(random.permutation(labels), chosen) for _ in range(shuffles)]
    return information(labels, chosen) - float(np.mean(chance))


def told_by(name: str) -> Mapping[str, list[float]]:
    """Bits that the first choice of a token tells about it in each layer of a recipe's model, on unseen text.

    About its domain, itself, the token before it, and its place in the row in stretches of 32. The first token of a
    row, which has none before it, is left out. Kept beside the model.

    Raises:
        ValueError: there is no such recipe.
    """
    return recipes.measured(name, first_choices_tell)


def first_choices_tell(model: Trained) -> Mapping[str, list[float]]:
    """What `told_by` measures."""
    config, bpe = model.config, tokens.tokenizer(VOCABULARY)
    each = [tokens.packed(bpe, domain, "held_out", config.context)[:ROWS, :-1] for domain in tokens.EPOCHS]
    rows = np.concatenate(each)
    with jax.enable_x64(False):
        chosen, _ = chosen_experts(config, model.weights, rows)
        first = np.asarray(chosen)[:, :, 1:, 0].reshape(config.layers, -1)
    number = np.repeat(np.arange(len(each)), [len(some) for some in each])
    shape = rows[:, 1:].shape
    labels = {
        "domain": np.broadcast_to(number[:, None], shape),
        "token": rows[:, 1:],
        "token before": rows[:, :-1],
        "place in the row": np.broadcast_to(np.arange(1, config.context) // STRETCH, shape),
    }
    return {what: [told(label.reshape(-1), layer) for layer in first] for what, label in labels.items()}
