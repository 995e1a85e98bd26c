"""Counts of parameters, FLOP and cache: against published models, real arrays and a compiled program."""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.specs import Architecture, Attention, architecture, catalogue
from hypothesis import given, settings
from random_architectures import architectures, attentions, latent_attentions

ROWS = catalogue.table("architectures")
KINDS = {"heads": attentions(), "latent": latent_attentions()}
either = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: architectures(KINDS[kind]))


def counts(made: Architecture, attended: float) -> tuple:
    """Everything that is counted, with the sums."""
    parts, flop = made.parameters, made.flop_per_token(attended)
    both = made.flop_per_token(attended, backward=True)
    cache = made.cache_bytes_per_token(2.0)
    return parts, parts.total, parts.active, flop, flop.total, flop.without_scores, both.total, cache


compiled = jax.jit(counts)
batched = jax.jit(jax.vmap(counts))


def same(left, right) -> None:
    leaves = jax.tree.leaves(left), jax.tree.leaves(right)
    np.testing.assert_allclose(np.array(leaves[0], float), np.array(leaves[1], float), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data(), attended=st.floats(0, 1e5))
def test_plain_jit_and_vmap_agree(kind, data, attended):
    drawn = data.draw(st.lists(architectures(KINDS[kind]), min_size=2, max_size=2))
    plain = [counts(made, attended) for made in drawn]
    for made, expected in zip(drawn, plain, strict=True):
        same(compiled(made, attended), expected)
    batch = batched(jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn), jnp.full(2, attended))
    for i, expected in enumerate(plain):
        same(jax.tree.map(lambda leaf, i=i: leaf[i], batch), expected)


@pytest.mark.parametrize("field", ["layers", "d_model", "d_ff", "heads", "kv_heads", "head_dim", "experts", "top_k"])
def test_gradients_are_slopes(field):
    mixtral = architecture("mixtral_8x7b")
    start = float(getattr(mixtral, field, None) or getattr(mixtral.attention, field, None))

    @jax.jit
    def sizes(x):
        made = mixtral.replace(**{field: x})
        flop = made.flop_per_token(4096.0, backward=True).total
        return jnp.stack([made.parameters.total, made.parameters.active, flop, made.cache_bytes_per_token()])

    step = 1e-3 * start  # every count is a line or a parabola in every field, so no step is too long
    slopes = (sizes(start + step) - sizes(start - step)) / (2 * step)
    assert np.isclose(jax.jacfwd(sizes)(start), slopes, rtol=1e-5, atol=1e-6 * sizes(start) / start).all()
    assert np.any(np.asarray(slopes) > 0)


# Published counts.


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if "published_parameters" in row])
def test_published_parameters(key):
    assert architecture(key).parameters.total == pytest.approx(ROWS[key]["published_parameters"], rel=0.01)


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if "published_active" in row])
def test_published_active_parameters(key):
    parts = architecture(key).parameters
    # The weight file of DeepSeek-V3 seems to leave the input embedding out (the note in the catalogue).
    left_out = parts.embedding if key == "deepseek_v3" else 0.0
    assert parts.active - left_out == pytest.approx(ROWS[key]["published_active"], rel=0.01)


@pytest.mark.parametrize("key", ["llama2_7b", "llama2_13b", "llama2_70b", "llama31_405b", "mixtral_8x7b"])
def test_counts_of_released_weights_are_exact(key):
    assert architecture(key).parameters.total == ROWS[key]["published_parameters"]


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if "published_flop" in row])
def test_published_training_flop(key):
    row = ROWS[key]
    flop = 6 * architecture(key).parameters.active * row["published_tokens"]
    # Attention scores and each maker's own way of counting: a few per cent, Gopher the most.
    assert flop == pytest.approx(row["published_flop"], rel=0.15)


# A second count: the arrays of a transformer, written down from its definition.


def arrays(made: Architecture) -> dict[str, tuple[float, ...]]:
    """Shape of every array of the model, by name; written without a look at the library's sums."""
    d, a = made.d_model, made.attention
    shapes = {"embedding/tokens": (made.vocabulary, d), "embedding/positions": (made.learned_positions, d)}

    def linear(name: str, rows: float, columns: float) -> None:
        shapes[f"{name}/matrix"] = (rows, columns)
        if made.biases:
            shapes[f"{name}/bias"] = (columns,)

    def mlp(name: str, width: float) -> None:
        linear(f"{name}/up", d, width)
        if made.mlp_matrices == 3:
            linear(f"{name}/gate", d, width)
        linear(f"{name}/down", width, d)

    def norm(name: str) -> None:
        shapes[f"{name}/scale"] = (d,)
        if made.norm_biases:
            shapes[f"{name}/shift"] = (d,)

    for i in range(int(made.layers)):
        if isinstance(a, Attention):
            for name, heads in {"query": a.heads, "key": a.kv_heads, "value": a.kv_heads}.items():
                linear(f"attention/{i}/{name}", d, heads * a.head_dim)
            linear(f"attention/{i}/output", a.heads * a.head_dim, d)
        else:
            linear(f"attention/{i}/query down", d, a.q_rank)
            linear(f"attention/{i}/query up", a.q_rank, a.heads * (a.head_dim + a.rope_dim))
            linear(f"attention/{i}/key value down", d, a.kv_rank)
            linear(f"attention/{i}/key position", d, a.rope_dim)
            linear(f"attention/{i}/key up", a.kv_rank, a.heads * a.head_dim)
            linear(f"attention/{i}/value up", a.kv_rank, a.heads * a.v_dim)
            linear(f"attention/{i}/output", a.heads * a.v_dim, d)
            shapes |= {f"attention/{i}/query norm": (a.q_rank,), f"attention/{i}/latent norm": (a.kv_rank,)}
        if made.relative_positions:
            shapes[f"attention/{i}/relative"] = (d, a.heads * a.head_dim)
        if i < made.dense_layers:
            mlp(f"dense_mlp/{i}", made.dense_d_ff)
        elif made.experts == 1:
            mlp(f"dense_mlp/{i}", made.d_ff)
        else:
            shapes[f"router/{i}"] = (d, made.experts)
            for e in range(int(made.experts)):
                mlp(f"experts/{i}/{e}", made.d_ff)
        if i >= made.dense_layers:
            for e in range(int(made.shared_experts)):
                mlp(f"dense_mlp/{i}/shared {e}", made.d_ff)
        for n in range(int(made.norms_per_layer)):
            norm(f"norms/{i}/{n}")
    norm("norms/last")
    if not made.tied_embeddings:
        shapes["unembedding/matrix"] = (d, made.vocabulary)
    return shapes


small = architectures(attentions(largest=8), largest=24) | architectures(latent_attentions(largest=8), largest=24)


@settings(max_examples=60)
@given(small)
def test_parameters_are_the_sizes_of_real_arrays(made):
    made = made.replace(experts=min(made.experts, 8.0), top_k=min(made.top_k, made.experts, 8.0))
    built = {name: np.empty([int(n) for n in shape], np.int8) for name, shape in arrays(made).items()}

    def size(*starts: str) -> int:
        return sum(array.size for name, array in built.items() if name.startswith(starts))

    parts = made.parameters
    for part in ("embedding", "attention", "dense_mlp", "experts", "router", "norms", "unembedding"):
        assert getattr(parts, part) == size(f"{part}/"), part
    assert parts.total == size("")
    # A token passes k experts of each layer; all experts are alike, so any k will do.
    unused = sum(
        size(f"experts/{i}/{e}/") for i in range(int(made.layers)) for e in range(int(made.top_k), int(made.experts))
    )
    assert parts.active == pytest.approx(size("") - unused, rel=1e-14)


def test_the_second_count_tells_a_matrix_missing():
    # The oracle is worth something only if it is not blind: drop one gate and the counts part.
    made = architecture("gpt2_xl").replace(layers=2.0, mlp_matrices=3.0)
    complete = arrays(made)
    gates = {name: shape for name, shape in complete.items() if "/gate/" in name}
    assert len(gates) == 4
    missing = sum(math.prod(shape) for name, shape in complete.items() if name not in gates)
    assert missing == made.parameters.total - 2 * (1600 * 6400 + 6400)


# FLOP: against what XLA counts in a compiled program.


def forward(weights: dict[str, jax.Array], x: jax.Array, made: Architecture) -> jax.Array:
    """The matrix products of a dense decoder, without norms, softmax and activations."""
    a = made.attention
    h_kv, group, width = int(a.kv_heads), int(a.heads // a.kv_heads), int(a.head_dim)
    for i in range(int(made.layers)):
        q = (x @ weights[f"{i}q"]).reshape(-1, h_kv, group, width)
        k = (x @ weights[f"{i}k"]).reshape(-1, h_kv, width)
        v = (x @ weights[f"{i}v"]).reshape(-1, h_kv, width)
        scores = jnp.einsum("skgw,tkw->kgst", q, k)  # the full square, as a kernel that masks computes it
        mixed = jnp.einsum("kgst,tkw->skgw", scores, v).reshape(x.shape[0], -1)
        x = mixed @ weights[f"{i}o"] @ weights[f"{i}up"] @ weights[f"{i}down"]
    return x @ weights["logits"]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward and backward"])
def test_flop_are_what_xla_counts(backward):
    length, layers, d, f, vocabulary = 96, 2, 64, 192, 160
    a = Attention(heads=8.0, kv_heads=2.0, head_dim=16.0)
    made = Architecture(
        layers=float(layers), d_model=float(d), attention=a, d_ff=float(f), vocabulary=float(vocabulary), context=96.0
    )
    shapes = {"logits": (d, vocabulary)}
    for i in range(layers):
        shapes |= {f"{i}q": (d, 128), f"{i}k": (d, 32), f"{i}v": (d, 32), f"{i}o": (128, d)}
        shapes |= {f"{i}up": (d, f), f"{i}down": (f, d)}
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    x = jax.ShapeDtypeStruct((length, d), jnp.float32)

    def loss(weights, x):
        return jnp.sum(jnp.sin(forward(weights, x, made)))

    program = jax.grad(loss, argnums=(0, 1)) if backward else lambda weights, x: forward(weights, x, made)
    counted = jax.jit(program).lower(weights, x).compile().cost_analysis()["flops"]
    flop = made.flop_per_token(attended=length, backward=backward)
    assert counted / length == pytest.approx(flop.total, rel=0.02)
    # The scores are a part that matters here, else the test would not see them.
    assert flop.scores > 0.2 * flop.total


# What must hold whatever the shape.


@given(either, st.floats(0, 1e5))
def test_parts_add_up(made, attended):
    parts = made.parameters
    assert parts.total == pytest.approx(
        parts.embedding
        + parts.attention
        + parts.dense_mlp
        + parts.experts
        + parts.router
        + parts.norms
        + parts.unembedding,
        rel=1e-14,
    )
    flop = made.flop_per_token(attended)
    assert flop.total == pytest.approx(
        flop.attention + flop.scores + flop.mlp + flop.router + flop.unembedding, rel=1e-14
    )
    assert flop.without_scores == pytest.approx(made.flop_per_token(0.0).total, rel=1e-9)


@given(either)
def test_active_is_part_of_the_total(made):
    parts = made.parameters
    if made.top_k == made.experts:
        assert parts.active == parts.total
    elif made.dense_layers < made.layers:
        assert parts.active < parts.total
    dense = made.replace(experts=1.0, top_k=1.0).parameters
    assert dense.active == dense.total and dense.experts == dense.router == 0


@given(either, st.floats(0, 1e5))
def test_backward_costs_twice_the_forward(made, attended):
    once, thrice = made.flop_per_token(attended), made.flop_per_token(attended, backward=True)
    for one, three in zip(jax.tree.leaves(once), jax.tree.leaves(thrice), strict=True):
        assert three == pytest.approx(3 * one, rel=1e-14)


@given(either, st.floats(1, 1e5), st.floats(2, 10))
def test_scores_grow_with_what_is_attended(made, attended, factor):
    near, far = made.flop_per_token(attended), made.flop_per_token(factor * attended)
    assert near.scores > 0
    assert far.scores == pytest.approx(factor * near.scores, rel=1e-12)
    assert (far.attention, far.mlp, far.router, far.unembedding) == (
        near.attention,
        near.mlp,
        near.router,
        near.unembedding,
    )


@given(architectures(attentions()))
def test_a_matrix_costs_two_flop_a_parameter(made):
    # Without tables, norms, biases and positions a model is matrices only, and 2 N is the whole of it.
    bare = made.replace(vocabulary=0.0, learned_positions=0.0, biases=0.0)
    parts = bare.parameters
    matrices = parts.active - parts.norms
    assert bare.flop_per_token().total == pytest.approx(2 * matrices, rel=1e-12)


@given(architectures(attentions()), st.floats(0.5, 4))
def test_fewer_key_value_heads_shrink_the_cache(made, width):
    heads, kv_heads = made.attention.heads, made.attention.kv_heads
    full, one = (made.replace(kv_heads=n).cache_bytes_per_token(width) for n in (heads, 1.0))
    assert full / made.cache_bytes_per_token(width) == pytest.approx(heads / kv_heads, rel=1e-12)
    assert full / one == pytest.approx(heads, rel=1e-12)


def test_cache_of_known_models():
    # Llama 2 70B: 80 layers, 8 of 64 heads of 128; DeepSeek-V3: a latent of 512 and a key of 64.
    assert architecture("llama2_70b").cache_bytes_per_token(2.0) == 2 * 80 * 8 * 128 * 2
    assert architecture("deepseek_v3").cache_bytes_per_token(1.0) == (512 + 64) * 61
    multi_query = architecture("gpt4_mqa")
    assert multi_query.replace(kv_heads=120.0).cache_bytes_per_token() == 120 * multi_query.cache_bytes_per_token()


def test_latent_attention_scores_with_position_and_without():
    # Rebuilt, a head of DeepSeek-V3 compares 128 + 64 values and sums 128: two FLOP each, for 128 heads.
    flop = architecture("deepseek_v3").flop_per_token(attended=1000.0)
    assert flop.scores == 1000 * 61 * 128 * 2 * (128 + 64 + 128)


def test_replace_reaches_into_the_attention():
    gpt4 = architecture("gpt4")
    changed = gpt4.replace(kv_heads=4.0, layers=60.0)
    assert (changed.attention.kv_heads, changed.attention.heads, changed.layers) == (4, 112, 60)
    assert (gpt4.attention.kv_heads, gpt4.layers) == (112, 120)


@pytest.mark.parametrize("attended", [-1.0, float("nan"), "many"])
def test_a_wrong_number_of_attended_tokens_is_told_by_its_own_name(attended):
    with pytest.raises((TypeError, ValueError), match=r"flop_per_token.attended is .*; allowed: a number at least 0"):
        architecture("gpt4").flop_per_token(attended)
