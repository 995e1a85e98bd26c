"""A model that learns another's distribution: the gradient against the closed form, and the recipes of drafts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from anatomy.model import Config, forward, init
from anatomy.train import loop, recipes
from anatomy.train.data.distillation import Distilled
from anatomy.train.loop import Training

CONFIG = Config(
    vocabulary=16, context=8, layers=1, d_model=8, heads=2, kv_heads=1, head_dim=4, d_ff=8, experts=1, top_k=1
)
TRAINING = Training(
    steps=40, batch=4, learning_rate=2e-2, warm_up=2, decay=0.0, balance=0.0, z=0.0, dispatch="all_experts"
)


class Rows:
    """Random tokens, the same for each number of a row."""

    def rows(self, start, count):
        drawn = [np.random.default_rng(row).integers(0, 16, 9) for row in range(start, start + count)]
        return np.stack(drawn), np.zeros(count, int)


@pytest.fixture(scope="module")
def teacher():
    weights = init(CONFIG, jax.random.key(7))
    return dataclasses.replace(weights, embedding=4 * weights.embedding)  # so that it has opinions


def test_distributions_are_the_teacher_s_and_rows_the_data_s(teacher):
    data = Distilled(Rows(), CONFIG, teacher)
    rows, _ = data.rows(3, 2)
    np.testing.assert_array_equal(rows, Rows().rows(3, 2)[0])
    found = np.asarray(data.distributions(3, 2))
    expected = jax.nn.softmax(forward(CONFIG, teacher, rows[:, :-1]).logits)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_loss_of_a_distribution_that_is_certain_is_that_of_the_token():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    tokens = jnp.array([[0, 1, 2], [3, 4, 0]])
    for mask in (None, jnp.array([[1.0, 0, 1], [0, 1, 1]])):
        one, other = (loop.cross_entropy(logits, t, mask) for t in (tokens, jax.nn.one_hot(tokens, 5)))
        assert float(one) == pytest.approx(float(other), rel=1e-6)


def test_distillation_has_no_gradient_at_the_teacher_and_comes_to_it(teacher):
    data = Distilled(Rows(), CONFIG, teacher)
    at_teacher, _ = loop.accumulate(CONFIG, TRAINING, teacher, data, 0, 4)
    away = init(CONFIG, jax.random.key(1))
    elsewhere, _ = loop.accumulate(CONFIG, TRAINING, away, data, 0, 4)
    assert float(optax.tree.norm(at_teacher)) < 1e-5 < 1e-2 < float(optax.tree.norm(elsewhere))

    def distance(weights):
        p, q = (jax.nn.softmax(forward(CONFIG, w, data.rows(1000, 8)[0][:, :-1]).logits) for w in (teacher, weights))
        return float(jnp.abs(p - q).sum(-1).mean() / 2)

    made = loop.train(CONFIG, TRAINING, data, start=away, progress=False)
    assert distance(made.weights) < 0.7 * distance(away)
    entropy = float(-(p := data.distributions(0, 160)).ravel() @ jnp.log(p).ravel() / (160 * 8))
    assert made.history["loss"][-1] > entropy - 0.2  # nats; no distribution does better than the teacher's own


def test_what_the_data_masks_the_teacher_leaves_out_too(teacher):
    """Its distributions of real tokens do not depend on what padding holds."""
    real = np.arange(8) < np.array([3, 8, 5])[:, None]

    class Padded(Rows):
        padding = 0

        def rows(self, start, count):
            rows, labels = super().rows(start, count)
            rows[:, 1:][~real] = self.padding
            return rows, labels

        def padding_mask(self, start, count):
            return real

    class OtherPadding(Padded):
        padding = 9

    one, other = (Distilled(data, CONFIG, teacher) for data in (Padded(), OtherPadding()))
    for data in (one, other):
        np.testing.assert_array_equal(loop.batch_of(data, 0, 3).padding_mask, real)
        assert data.loss_mask(0, 3) is None
    found = [np.asarray(data.distributions(0, 3)) for data in (one, other)]
    before = real & np.roll(real, -1, axis=1)  # these and the next are real
    np.testing.assert_array_equal(found[0][before], found[1][before])


def test_a_distilled_recipe_depends_on_its_teacher(monkeypatch):
    name = "distilled_16"
    before, other = recipes.digest(name), recipes.digest("distilled_1")
    changed = recipes.sweep("16 experts, seed 0.", recipes.with_experts(16), seed=0, balance=0.03)
    monkeypatch.setitem(recipes.TEXT, "experts_16_0", changed)
    assert recipes.digest(name) != before and recipes.digest("distilled_1") == other
