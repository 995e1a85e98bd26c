"""Prints a JAX function of scalars as plain JavaScript, so that the page runs the formulas of the library.

The function is traced in double precision, which is what a JavaScript number is, and every equation of
its jaxpr becomes one line. What has no exact counterpart is an error: a calculator that cannot be
printed must stop the build, not show something else than the library.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# {0}, {1}, ... are names of earlier lines or numbers, never expressions: no brackets are needed.
TEMPLATES = {
    "add": "{0} + {1}",
    "add_any": "{0} + {1}",  # how a gradient sums what flows back
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "rem": "{0} % {1}",
    "neg": "-{0}",
    "abs": "Math.abs({0})",
    "sign": "Math.sign({0})",
    "max": "Math.max({0}, {1})",
    "min": "Math.min({0}, {1})",
    "clamp": "Math.min(Math.max({1}, {0}), {2})",
    "floor": "Math.floor({0})",
    "ceil": "Math.ceil({0})",
    "square": "{0} * {0}",
    "sqrt": "Math.sqrt({0})",
    "rsqrt": "1 / Math.sqrt({0})",
    "cbrt": "Math.cbrt({0})",
    "pow": "{0} === 1 ? 1 : Math.pow({0}, {1})",  # JavaScript alone holds that 1 ** Infinity is no number
    "exp": "Math.exp({0})",
    "exp2": "Math.pow(2, {0})",
    "expm1": "Math.expm1({0})",
    "log": "Math.log({0})",
    "log1p": "Math.log1p({0})",
    "sin": "Math.sin({0})",
    "cos": "Math.cos({0})",
    "sinh": "Math.sinh({0})",
    "cosh": "Math.cosh({0})",
    "tanh": "Math.tanh({0})",
    "logistic": "1 / (1 + Math.exp(-{0}))",
}
# These may yield true or false.
LOGICAL = {
    "eq": "{0} === {1}",
    "ne": "{0} !== {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "and": "{0} && {1}",
    "or": "{0} || {1}",
    "xor": "{0} !== {1}",
    "not": "!{0}",
    "is_finite": "Number.isFinite({0})",
    "select_n": "{0} ? {2} : {1}",
}
WHOLE = {  # on whole numbers JAX has its own idea of these
    "div": "{1} === 0 ? -1 : Math.trunc({0} / {1})",
    "rem": "{1} === 0 ? {0} : {0} % {1}",
}
ROUNDED = {  # by lax.RoundingMethod: halves away from zero, or to the even neighbour
    0: "Math.sign({0}) * Math.round(Math.abs({0}))",
    1: "Math.round({0}) - {0} === 0.5 && Math.round({0}) % 2 !== 0 ? Math.round({0}) - 1 : Math.round({0})",
}
SAME = {"copy", "stop_gradient", "reshape", "squeeze", "broadcast_in_dim"}
INLINED = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"}
SUPPORTED = sorted({*TEMPLATES, *LOGICAL, *SAME, *INLINED, "convert_element_type", "integer_pow", "round"})

# By expression: its name, what it reads, and why it cannot be printed, should it be needed.
Lines = dict[str, tuple[str, list[str], NotImplementedError | None]]


def javascript(function: Callable[..., dict[str, Any]], names: Sequence[str]) -> str:
    """The JavaScript of a function of keyword scalars that returns a dict of scalars.

    Whole numbers are exact up to 2^53, as numbers are in JavaScript.

    Args:
        function: pure; may call `jax.grad`.
        names: its inputs, all in double precision.

    Returns:
        An arrow function from an object of inputs by name to an object of outputs by name.

    Raises:
        NotImplementedError: the function uses something that has no exact counterpart.
        TypeError: the function does not return a dict of scalars.
    """
    owner = getattr(function, "__name__", repr(function))
    outputs: list[str] = []

    def positional(*values: Any) -> list[Any]:
        result = function(**dict(zip(names, values, strict=True)))
        if not isinstance(result, dict):
            raise TypeError(f"{owner} returns a {type(result).__name__}; allowed: a dict of scalars by name")
        for name, value in result.items():
            if not isinstance(name, str) or np.shape(value) != ():
                raise TypeError(f"{owner} returns {name!r}: {value!r}; allowed: a scalar for each name")
        outputs.extend(result)
        return list(result.values())

    with jax.enable_x64(True):
        scalar = jax.ShapeDtypeStruct((), np.float64)
        traced = jax.make_jaxpr(positional)(*(scalar for _ in names))
        lines: Lines = {}
        results = _print(traced.jaxpr, traced.consts, [f"x.{name}" for name in names], lines, owner)
    return _assemble(lines, dict(zip(outputs, results, strict=True)))


def _print(jaxpr: Jaxpr, consts: Sequence[Any], inputs: list[str], lines: Lines, owner: str) -> list[str]:
    """Append the lines of a jaxpr and of those it calls; returns what its outputs are called."""
    known = dict(zip(jaxpr.constvars, map(number, consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> str:
        return number(atom.val) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if equation.primitive.name in INLINED:
            inner = next(equation.params[key] for key in ("jaxpr", "call_jaxpr") if key in equation.params)
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            results = _print(closed.jaxpr, closed.consts, operands, lines, owner)
        else:
            problem = None
            try:
                expression = _expression(equation, operands, owner)
            except NotImplementedError as error:
                expression, problem = f"unsupported {len(lines)}", error
            if expression not in operands:
                # An expression that is already there needs no second line: the function is pure.
                expression = lines.setdefault(expression, (f"#{len(lines)}#", operands, problem))[0]
            results = [expression] * len(equation.outvars)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _assemble(lines: Lines, results: dict[str, str]) -> str:
    """The source, without the lines that no result needs.

    Raises:
        NotImplementedError: a line is needed that cannot be printed.
    """
    needed = set(results.values())
    for name, operands, _ in reversed(lines.values()):
        if name in needed:
            needed.update(operands)
    kept = {expression: line for expression, line in lines.items() if line[0] in needed}
    for _, _, problem in kept.values():
        if problem is not None:
            raise problem
    final = {line[0]: f"v{i}" for i, line in enumerate(kept.values())}

    def rename(text: str) -> str:
        return re.sub(r"#\d+#", lambda match: final[match[0]], text)

    body = [f"  const {final[line[0]]} = {rename(expression)};" for expression, line in kept.items()]
    pairs = ", ".join(f"{_key(name)}: {rename(value)}" for name, value in results.items())
    return "\n".join(["(x) => {", *body, f"  return {{{pairs}}};", "}"])


def _expression(equation: Any, operands: list[str], owner: str) -> str:
    """One equation as an expression of its operands."""
    name, params = equation.primitive.name, equation.params
    result = equation.outvars[0].aval
    source = equation.invars[0].aval if equation.invars else result
    if name not in SUPPORTED:
        raise NotImplementedError(
            f"{owner} uses the JAX primitive {name!r}, which has no exact JavaScript here; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    logical = result.dtype.kind == "b"
    if result.size != 1 or result.dtype not in (np.float64, np.int64, np.bool_):
        raise NotImplementedError(
            f"{owner}: the JAX primitive {name!r} yields {result.str_short()}; supported: scalars of "
            f"float64, int64 and bool (a float32 constant becomes double with float(...))"
        )
    if logical and not (name in LOGICAL or name in SAME or name == "convert_element_type"):
        raise NotImplementedError(
            f"{owner}: the JAX primitive {name!r} yields a bool; supported for bool: {', '.join(LOGICAL)}"
        )
    if name in ("and", "or", "xor", "not") and not logical:
        raise NotImplementedError(f"{owner}: the JAX primitive {name!r} works on bits; supported: on bools")
    if name == "select_n" and (len(operands) != 3 or source.dtype.kind != "b"):
        raise NotImplementedError(f"{owner}: 'select_n' chooses by an integer; supported: by a bool")
    if name in SAME:
        return operands[0]
    if name == "convert_element_type":
        return _convert(source.dtype, result.dtype, operands[0])
    if name == "integer_pow":
        power = params["y"]
        template = " * ".join(["{0}"] * power) if power in (1, 2, 3) else f"Math.pow({{0}}, {power})"
    elif name == "round":
        template = ROUNDED[int(params["rounding_method"])]
    elif name in WHOLE and result.dtype == np.int64:
        template = WHOLE[name]
    else:
        template = {**TEMPLATES, **LOGICAL}[name]
    return template.format(*operands)


def _convert(source: Any, result: Any, operand: str) -> str:
    """Between numbers, whole numbers, and true or false."""
    if source == result or (source, result) == (np.float32, np.float64):  # a constant, printed as it is
        return operand
    if result.kind == "b":
        return f"{operand} !== 0"
    if source.kind == "b":
        return f"Number({operand})"
    if result == np.int64:
        return f"Math.trunc({operand}) || 0"  # no number becomes 0, as in XLA
    return f"{operand} + 0"  # whole numbers know no -0


def number(value: Any) -> str:
    """A constant, so that JavaScript reads exactly the same double."""
    value = np.asarray(value)
    if value.size != 1:
        raise NotImplementedError(f"an array constant of shape {value.shape}; supported: scalars")
    if value.dtype.kind == "b":
        return "true" if value.item() else "false"
    if np.issubdtype(value.dtype, np.integer) and abs(int(value.item())) > 2**53:
        raise NotImplementedError(f"the whole number {value.item()}; supported: up to 2^53")
    value = float(value.item())
    if math.isnan(value):
        return "NaN"
    text = "Infinity" if math.isinf(value) else repr(abs(value)).removesuffix(".0")
    return f"(-{text})" if math.copysign(1, value) < 0 else text


def _key(name: str) -> str:
    """A name as the key of an object."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
