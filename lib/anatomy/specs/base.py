"""How a spec is made: a frozen dataclass, checked when built, whose numbers are pytree leaves.

Numbers are leaves so that `jax.vmap` runs over plans, `jax.grad` differentiates with respect to a
bandwidth and `jax.jit` compiles once for all values. Names are static.
"""

import dataclasses
from typing import Any, TypeVar, cast, dataclass_transform

import jax
import numpy as np
from jaxtyping import Array, Shaped

from anatomy.specs.units import readable

AnyArray = Array | np.ndarray
Scalar = float | Shaped[AnyArray, "..."]  # a Python number, or a traced or batched one

T = TypeVar("T")


def number(
    unit: str,
    *,
    low: float = 0.0,
    high: float = np.inf,
    above: float | None = None,
    whole: bool = False,
    default: Any = dataclasses.MISSING,
    doc: str = "",
) -> Any:
    """A field that holds a number.

    Args:
        unit: SI unit, or the thing that is counted.
        low: smallest value allowed.
        high: largest value allowed.
        above: where given, the value must be larger than this.
        whole: whether only whole numbers make sense.
        default: as in `dataclasses.field`.
        doc: what the number is.
    """
    limits = between(low, high, above=above, whole=whole, unit=unit)
    return dataclasses.field(default=default, metadata={"unit": unit, "doc": doc, "limits": limits})


def between(
    low: float = 0.0, high: float = np.inf, *, above: float | None = None, whole: bool = False, unit: str = ""
) -> dict[str, Any]:
    """What a number may be, and how that is said."""
    low_text = f"above {above:g}" if above is not None else f"at least {low:g}"
    allowed = f"a {'whole ' if whole else ''}number {low_text}"
    if np.isfinite(high):
        allowed += f" and at most {high:g}"
    allowed += f" ({unit})" if unit else ""
    return {"low": low, "high": high, "above": above, "whole": whole, "allowed": allowed}


ABOVE_ZERO, AT_LEAST_ZERO, AT_LEAST_ONE = between(above=0.0), between(), between(1.0)
SHARE = between(high=1.0, above=0.0)
UP_TO_ONE = between(high=1.0)
COUNT = between(1.0, whole=True)


def finite(limits: dict[str, Any]) -> dict[str, Any]:
    """The same limits, infinity left out."""
    return {**limits, "high": 1e300, "allowed": limits["allowed"].replace("number", "finite number", 1)}


FINITE = finite(ABOVE_ZERO)


def switch(*, default: bool, doc: str = "") -> Any:
    """A field that is on (1) or off (0); a number, so that a sweep can try both."""
    return number("0 or 1", high=1, whole=True, default=float(default), doc=doc)


def label(default: Any = dataclasses.MISSING, doc: str = "") -> Any:
    """A field that holds a name: static, not a leaf."""
    return dataclasses.field(default=default, metadata={"static": True, "doc": doc})


def check_number(owner: str, name: str, value: Any, limits: dict[str, Any]) -> None:
    """Refuse a value outside the limits of its field; traced values pass, they have none yet.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is outside what is allowed.
    """
    if isinstance(value, jax.core.Tracer):
        return
    kinds = "biuf" if limits["high"] == 1 else "iuf"  # true and false are for what is on or off
    if np.asarray(value).dtype.kind not in kinds:
        raise TypeError(f"{owner}.{name} is {value!r}; allowed: {limits['allowed']}")
    numbers = np.asarray(value, dtype=float)
    wrong = ~((numbers >= limits["low"]) & (numbers <= limits["high"]))
    if limits["above"] is not None:
        wrong |= ~(numbers > limits["above"])
    if limits["whole"]:
        wrong |= ~np.isfinite(numbers) | (numbers != np.floor(numbers))
    refuse_where(wrong, f"{owner}.{name}", numbers, limits["allowed"])


def check_arguments(owner: str, limits: dict[str, Any], **values: Any) -> None:
    """Refuse arguments of a function that are outside these limits; traced ones pass.

    Raises:
        TypeError, ValueError: as `check_number`.
    """
    for name, value in values.items():
        check_number(owner, name, value, limits)


def check_types(owner: str, **values: tuple[Any, ...]) -> None:
    """Refuse arguments that are of another kind than they should be, as those that were swapped.

    Args:
        owner: the function.
        values: of each argument its value and its type; or its value, whether it is right, and what is allowed.

    Raises:
        TypeError: one is wrong; the message has the argument, what was given, what is allowed and what to do.
    """
    for name, (value, right, *allowed) in values.items():
        if not (isinstance(value, right) if isinstance(right, type) else right):
            said = allowed[0] if allowed else f"a {right.__name__}"
            order = ", ".join(values)
            raise TypeError(
                f"{owner}.{name} is a {type(value).__name__}; allowed: {said}; arguments come in the order {order}, "
                "or give them by name"
            )


def refuse_where(wrong: Any, name: str, value: Any, allowed: str) -> None:
    """Refuse a value, or the first of a batch, where something is wrong with it.

    Raises:
        ValueError: something is wrong; the message has the field, the value and what is allowed.
    """
    if np.any(wrong):
        first = np.broadcast_to(value, np.shape(wrong))[np.asarray(wrong)].flat[0]
        raise ValueError(f"{name} is {first:g}; allowed: {allowed}")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(number, switch, label))
def spec(cls: type[T]) -> type[T]:
    """Make a class a spec: frozen, keyword-only, checked, and registered as a pytree.

    A method `check` may be defined for what concerns several fields at once. Properties named in a class
    variable `sums` are printed after the fields.
    """
    extra = getattr(cls, "check", None)

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            if limits := field.metadata.get("limits"):
                value = getattr(self, field.name)
                check_number(cls.__name__, field.name, value, limits)
                if isinstance(value, (int, np.integer)):  # as ints they would overflow under jit, in 32 bits
                    object.__setattr__(self, field.name, float(value))
            elif not field.metadata and not isinstance(getattr(self, field.name), cast(type, field.type)):
                owner, given = f"{cls.__name__}.{field.name}", getattr(self, field.name)
                raise TypeError(f"{owner} is {given!r}; allowed: {field.type}")
        if extra is not None and is_concrete(self):
            extra(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    cls.__str__ = describe  # type: ignore[assignment]
    cls._repr_pretty_ = lambda self, printer, cycle: printer.text(str(self))  # type: ignore[attr-defined]
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    register(made)
    return made


def register(cls: type) -> None:
    """Make a dataclass a pytree; what jax rebuilds is not checked: a gradient may well be negative."""
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    leaves = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("static")]

    def flatten(tree: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(tree, name) for name in leaves], tuple(getattr(tree, name) for name in static)

    def flatten_with_keys(tree: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children, names = flatten(tree)
        return [(jax.tree_util.GetAttrKey(n), child) for n, child in zip(leaves, children, strict=True)], names

    def unflatten(names: tuple[Any, ...], children: Any) -> Any:
        tree: Any = object.__new__(cls)
        for name, value in (*zip(static, names, strict=True), *zip(leaves, children, strict=True)):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def is_concrete(tree: Any) -> bool:
    """Whether every leaf has a value, so that a check may compare values."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def describe(tree: Any, indent: str = "") -> str:
    """A spec as text: one line a number, with its unit and what it is; sums at the end."""
    title = " ".join(filter(None, [type(tree).__name__, getattr(tree, "name", "")]))
    lines = [indent + title]
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        if "limits" in field.metadata:
            text = shown(value, field.metadata["unit"])
            lines.append(f"{indent}  {field.name:<18} {text:<26} {field.metadata['doc']}".rstrip())
        elif dataclasses.is_dataclass(value):
            title, *inner = describe(value, indent + "  ").splitlines()
            lines += [f"{indent}  {field.name}: {title.strip()}", *inner]
    for name in getattr(tree, "sums", ()):
        unit = next(field.metadata["unit"] for field in dataclasses.fields(tree))
        lines.append(f"{indent}  {name:<18} {shown(getattr(tree, name), unit)}")
    return "\n".join(lines)


def shown(value: Any, unit: str = "") -> str:
    """A number with its unit; of a batch, or of a number that is only traced, the type."""
    unit = "" if unit in ("1", "0 or 1") else unit
    if np.ndim(value) or isinstance(value, (jax.core.Tracer, jax.ShapeDtypeStruct)):
        return f"{value.dtype}{list(value.shape)} {unit}".strip()
    return readable(value, unit)
