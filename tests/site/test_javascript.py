"""The printed JavaScript under node, against JAX in double precision."""

import hypothesis.strategies as st
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.site.interactive.javascript import SUPPORTED, javascript
from hypothesis import given, settings
from jax import lax
from support.nodejs import needs_node, run_javascript


@jax.custom_jvp
def twice(a):
    return 2 * a


twice.defjvp(lambda primals, tangents: (twice(*primals), 2 * tangents[0]))


@jax.custom_vjp
def thrice(a):
    return 3 * a


thrice.defvjp(lambda a: (thrice(a), None), lambda _, g: (3 * g,))

# One function of two numbers for each primitive.
CASES = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "rem": lax.rem,
    "neg": lambda a, b: -a + -b,
    "abs": lambda a, b: abs(a),
    "sign": lambda a, b: jnp.sign(a),
    "max": jnp.maximum,
    "min": jnp.minimum,
    "clamp": lambda a, b: lax.clamp(-1.5, a, 7.0),
    "floor": lambda a, b: jnp.floor(a),
    "ceil": lambda a, b: jnp.ceil(a),
    "square": lambda a, b: jnp.square(a),
    "sqrt": lambda a, b: jnp.sqrt(a),
    "rsqrt": lambda a, b: lax.rsqrt(a),
    "cbrt": lambda a, b: jnp.cbrt(a),
    "pow": lambda a, b: jnp.power(a, b),
    "exp": lambda a, b: jnp.exp(a),
    "exp2": lambda a, b: jnp.exp2(a),
    "expm1": lambda a, b: jnp.expm1(a),
    "log": lambda a, b: jnp.log(a),
    "log1p": lambda a, b: jnp.log1p(a),
    "sin": lambda a, b: jnp.sin(a),
    "cos": lambda a, b: jnp.cos(a),
    "sinh": lambda a, b: lax.sinh(a),
    "cosh": lambda a, b: lax.cosh(a),
    "tanh": lambda a, b: jnp.tanh(a),
    "logistic": lambda a, b: jax.nn.sigmoid(a),
    "eq": lambda a, b: jnp.floor(a) == jnp.floor(b),
    "ne": lambda a, b: jnp.floor(a) != jnp.floor(b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: (a > 0) & (b > 0),
    "or": lambda a, b: (a > 0) | (b > 0),
    "xor": lambda a, b: (a > 0) ^ (b > 0),
    "not": lambda a, b: ~(a > 0),
    "is_finite": lambda a, b: jnp.isfinite(a / b),
    "select_n": lambda a, b: jnp.where(a > b, a, b - 1),
    "round": lambda a, b: jnp.round(a),
    "round_away": lambda a, b: lax.round(a, lax.RoundingMethod.AWAY_FROM_ZERO),
    "integer_pow": lambda a, b: a**3,
    "integer_pow_7": lambda a, b: a**7,
    "integer_pow_-2": lambda a, b: a**-2,
    "convert_element_type": lambda a, b: (a > b) * 2.5,
    "convert_to_bool": lambda a, b: jnp.floor(a).astype(bool),
    "convert_to_int": lambda a, b: a.astype(int),
    "convert_from_int": lambda a, b: a.astype(int) / 4,
    "copy": lambda a, b: jnp.array(a, copy=True),
    "stop_gradient": lambda a, b: lax.stop_gradient(a),
    "reshape": lambda a, b: jnp.reshape(jnp.reshape(a, (1, 1)), ()),
    "squeeze": lambda a, b: jnp.squeeze(jnp.expand_dims(a, 0), 0),
    "broadcast_in_dim": lambda a, b: jnp.squeeze(jnp.broadcast_to(a, (1,)), 0),
    "remat2": lambda a, b: jax.checkpoint(lambda c: c * b)(a),
    "custom_jvp_call": lambda a, b: twice(a),
    "custom_vjp_call": lambda a, b: thrice(a),
    "jit": lambda a, b: jax.jit(lambda c: c + 1)(a),
    "constants": lambda a, b: a * 1e-300 + 0.1 + jnp.float32(0.3).astype(float) - 2.0**70,
    "infinity": lambda a, b: jnp.where(a > 0, jnp.inf, jnp.where(b > 0, -jnp.inf, jnp.nan)),
}
# What is made of them, with gradients; here terms cancel.
COMPOSED = {
    "gradient": lambda a, b: jax.grad(lambda c: jnp.tanh(c * b) / (1 + c**2) + jnp.where(c > b, c, b))(a),
    "gradient_twice_used": lambda a, b: jax.grad(lambda c: c * c * b + c * jnp.sin(c))(a),
    "gradient_of_custom": lambda a, b: jax.grad(lambda c: twice(c) * thrice(c))(a),
    "gradient_of_pow": lambda a, b: jax.grad(lambda c: jnp.abs(b) ** (c / 10))(a),
    "second_gradient": lambda a, b: jax.grad(jax.grad(lambda c: jnp.exp(-c * c / 9) * b))(a),
    "elasticity": lambda a, b: jax.jvp(lambda c: jnp.log(1 + jnp.exp(c / 9) + b * b), (a,), (1.0,))[1],
    "mod": lambda a, b: a % b,
    "floor_divide": lambda a, b: a // b,
    "whole_divide": lambda a, b: a.astype(int) // (b.astype(int) % 7 - 3),
    "hypot": jnp.hypot,
    "logaddexp": jnp.logaddexp,
    "softplus": lambda a, b: jax.nn.softplus(a),
    "gelu": lambda a, b: jax.nn.gelu(a),
    "clip": lambda a, b: jnp.clip(a, 0, 1),
    "log10": lambda a, b: jnp.log10(jnp.abs(b)),
    "python_constant": lambda a, b: 3,
}
SPECIAL = [0.5, -0.5, 1.5, 2.5, -2.5, 0.0, 1.0, -1.0, 0.49999999999999994, 120.0, 1e-9, -700.0]


def all_cases(a, b):
    return {name: case(a, b) for name, case in CASES.items()}


def composed(a, b):
    return {name: case(a, b) for name, case in COMPOSED.items()}


def evaluate(function, rows):
    with jax.enable_x64(True):
        compiled = jax.jit(function)
        found = [compiled(**{name: np.float64(value) for name, value in row.items()}) for row in rows]
        return [{name: np.asarray(value).item() for name, value in row.items()} for row in found]


def assert_same(function, rows, rtol=1e-12, atol=1e-290):
    """Equal up to the last digits; where terms cancel, what is left of them has an absolute error."""
    wanted = evaluate(function, rows)
    found = run_javascript(javascript(function, list(rows[0])), rows)
    for row, want, have in zip(rows, wanted, found, strict=True):
        assert have.keys() == want.keys()
        for name in want:
            assert isinstance(have[name], bool) == isinstance(want[name], bool), name
            np.testing.assert_allclose(have[name], want[name], rtol, atol, err_msg=f"{name} at {row}")


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from primitives(inner)


def test_every_supported_primitive_has_a_case():
    with jax.enable_x64(True):
        used = set(primitives(jax.make_jaxpr(composed)(1.0, 2.0).jaxpr))
        used |= set(primitives(jax.make_jaxpr(all_cases)(1.0, 2.0).jaxpr))
    # These are names of "jit" in other versions of JAX.
    assert set(SUPPORTED) == used | {"pjit", "closed_call"}


@needs_node
def test_primitives_at_special_values():
    rows = [{"a": a, "b": b} for a in SPECIAL for b in SPECIAL if b]
    assert_same(all_cases, rows)
    assert_same(composed, rows, atol=1e-12)


numbers = st.floats(-60, 60, allow_subnormal=False) | st.integers(-60, 60).map(float)
pairs = st.lists(st.tuples(numbers, numbers.filter(lambda b: abs(b) > 1e-3)), min_size=1, max_size=50)


@needs_node
@settings(max_examples=15, deadline=None)
@given(pairs)
def test_primitives_at_random_values(pairs):
    assert_same(all_cases, [{"a": a, "b": b} for a, b in pairs])


@needs_node
@settings(max_examples=15, deadline=None)
@given(pairs)
def test_compositions_and_gradients_at_random_values(pairs):
    assert_same(composed, [{"a": a, "b": b} for a, b in pairs], rtol=1e-10, atol=1e-10)


@needs_node
@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=50))
def test_constants_survive(values):
    names = [f"c{i}" for i in range(len(values))]
    source = javascript(lambda: dict(zip(names, values, strict=True)), [])
    found = run_javascript(source, [{}])[0]
    np.testing.assert_array_equal([found[name] for name in names], values)


@needs_node
def test_a_cost_model_of_the_library():
    from anatomy.specs.architecture import Architecture, Attention

    def size(layers, d_model, experts, top_k):
        attention = Attention(heads=96, kv_heads=1, head_dim=128)
        model = Architecture(
            layers=layers, d_model=d_model, attention=attention, d_ff=4 * d_model, experts=experts,
            top_k=top_k, vocabulary=100_256, context=8192, biases=True, norm_biases=True,
        )  # fmt: skip
        parts = model.parameters
        flop = model.flop_per_token(attended=4096.0).total
        return {
            "total": parts.total,
            "active": parts.active,
            "share": parts.active / parts.total,
            "flop": flop,
        }

    rng = np.random.default_rng(4)
    names = ["layers", "d_model", "experts", "top_k"]
    rows = [dict(zip(names, map(float, rng.integers(1, 200, 4)), strict=True)) for _ in range(100)]
    assert_same(size, rows, rtol=1e-13)


def test_output_names_that_are_no_identifiers():
    source = javascript(lambda a: {"share of peak": a, "b": 2 * a}, ["a"])
    assert source == '(x) => {\n  const v0 = 2 * x.a;\n  return {"share of peak": x.a, b: v0};\n}'


def test_same_source_each_time_and_no_dead_or_repeated_lines():
    def wasteful(a, b):
        jnp.sort(jnp.stack([a, b]))  # not needed, so it does not matter that it cannot be printed
        return {"once": a * b + 1, "again": a * b + 1}

    source = javascript(wasteful, ["a", "b"])
    assert source == javascript(wasteful, ["a", "b"])
    assert source.count("const") == 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a: {"out": lax.erf_inv(a)}, "'erf_inv'"),
        (lambda a: {"out": lax.fori_loop(0, 3, lambda i, c: c * c, a)}, "scan"),
        (lambda a: {"out": jnp.broadcast_to(a, (3,)).sum()}, r"float64\[3\]"),
        (lambda a: {"out": jnp.float32(a) * 2}, "float32"),
        (lambda a: {"out": a.astype(int) & 1}, "works on bits"),
    ],
)
def test_what_cannot_be_printed_is_an_error(function, message):
    with pytest.raises(NotImplementedError, match=f"<lambda>.*{message}.*supported"):
        javascript(function, ["a"])


def test_unsupported_primitives_name_the_supported_ones():
    with pytest.raises(NotImplementedError, match="round, rsqrt, select_n"):
        javascript(lambda a: {"out": lax.erf_inv(a)}, ["a"])


@pytest.mark.parametrize("result", [3.0, [1.0], {"out": np.zeros(2)}, {1: 2.0}])
def test_what_a_function_must_return(result):
    with pytest.raises(TypeError, match=r"allowed: a (dict of scalars|scalar for each name)"):
        javascript(lambda a: result, ["a"])
