"""A function at a million points, on all cores."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from anatomy.cost.explore.checks import Function, Names, Numbers, check_parameters, expect

# Rows of one call of the compiled program: few enough for intermediate results to stay in the caches. A Python
# thread a core, each with a program that keeps to its core, uses the cores better than XLA's own threads do,
# above all where another process needs one too.
CHUNK = 16_384


def sweep(
    function: Function,
    grid: Numbers | None = None,
    *,
    points: Numbers | None = None,
    keep: Names | None = None,
    chunk: int = CHUNK,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """A function of scalars, evaluated at every point of a grid or of a list.

    Args:
        function: from numbers, by name, to a pytree of numbers: a number, a dict, a spec such as a `Step`.
        grid: for each parameter its values; rows are the cartesian product, the last name varies fastest.
        points: in place of a grid, for each parameter a column; rows are what stands side by side.
        keep: outputs to return, by path; properties are outputs too: `["mfu", "memory.total"]`. Those left
            out are not computed. By default all numbers of the result, with the sums of specs.
        chunk: rows computed at once by one thread; the last chunk reaches back into the one before, so that one
            program does all.
        progress: whether a bar is shown, on standard error, when it takes longer than a second.

    Returns:
        Columns of equal length by name: the parameters, then the outputs, by their path in the result
        (`memory.total`); the single output of a function that returns a number is `value`. Columns that were
        given as points come back as they are, read-only, and are not copied.

    Raises:
        TypeError: the function lacks a parameter of that name, or needs others; values are no numbers.
        ValueError: values are empty or not one-dimensional, columns differ in length, or an output is unknown, not
            a single number, or named like a parameter.
    """
    expect((grid is None) != (points is None), "sweep takes either a grid or points")
    given = {name: _axis(name, values) for name, values in (grid or points or {}).items()}
    check_parameters(function, given)
    sizes = {name: len(axis) for name, axis in given.items()}
    if points is None:
        strides = [math.prod([*sizes.values()][i + 1 :]) for i in range(len(sizes))]
        wide = np.meshgrid(*given.values(), indexing="ij", copy=False)
        inputs = {name: axis.flatten() for name, axis in zip(given, wide, strict=True)}
    else:
        expect(len(set(sizes.values())) == 1, f"points have columns of lengths {sizes}; allowed: equal lengths")
        strides, inputs = [1] * len(sizes), {name: _read_only(axis) for name, axis in given.items()}
    return inputs | evaluate(function, given, strides, keep, chunk, progress, taken=list(given))


def _read_only(column: np.ndarray) -> np.ndarray:
    """The same numbers, which cannot be changed from here."""
    view = column.view()
    view.flags.writeable = False
    return view


def _axis(name: str, values: Any) -> np.ndarray:
    """The values of a parameter, checked."""
    axis = np.asarray(values)
    if axis.dtype.kind not in "biuf":
        raise TypeError(f"{name} has values of type {axis.dtype}; allowed: numbers")
    expect(axis.ndim == 1 and axis.size, f"{name} has shape {axis.shape}; allowed: one dimension, not empty")
    return axis


def evaluate(
    function: Function,
    axes: Numbers,
    strides: Sequence[int],
    keep: Names | None,
    chunk: int,
    progress: bool,
    taken: Names,
) -> dict[str, np.ndarray]:
    """Outputs at each row, of which parameter i has the value axis_i[row // stride_i mod length of axis_i].

    Outputs must not be named like what is `taken`.
    """
    expect(chunk >= 1, f"chunk is {chunk}; allowed: at least 1")
    rows = strides[0] * len(next(iter(axes.values())))
    chunk = min(chunk, rows)
    whole = np.int32 if rows + chunk < 2**31 else np.int64  # divisions by constants, fast in 32 bits

    whole_columns = [name for name, axis in axes.items() if len(axis) == rows]  # handed over part by part
    names: list[str] = []  # JAX sorts the keys of a dict; columns come in the order of the result

    def outputs_of(numbers: Numbers) -> Numbers:
        result = function(**numbers)
        outputs = dict(_outputs(result)) if keep is None else {name: _pick(result, name) for name in keep}
        names[:] = outputs
        for name, value in outputs.items():
            expect(jnp.ndim(value) == 0, f"output {name} has shape {jnp.shape(value)}; allowed: single numbers")
            expect(name not in taken, f"output {name} is named like a parameter; rename that, or keep other outputs")
        return outputs

    def batch(start: Any, values: Numbers, parts: Numbers) -> Numbers:
        row = start + jnp.arange(chunk, dtype=whole)
        places = {name: row // whole(stride) for name, stride in zip(axes, strides, strict=True)}
        gathered = {name: value[places[name] % whole(len(value))] for name, value in values.items()}
        return jax.vmap(outputs_of)({**gathered, **parts})

    def parts(start: int) -> Numbers:
        return {name: np.asarray(axes[name][start : start + chunk], float) for name in whole_columns}

    with jax.enable_x64(True):
        options = {"xla_cpu_multi_thread_eigen": False} if jax.default_backend() == "cpu" else None
        values = {name: jnp.asarray(axis, float) for name, axis in axes.items() if name not in whole_columns}
        program = jax.jit(batch, compiler_options=options).lower(whole(0), values, parts(0)).compile()
        columns = {name: np.empty(rows, program.out_info[name].dtype) for name in names}

    def fill(start: int) -> int:
        with jax.enable_x64(True):  # the setting is a thread's own
            outputs = program(whole(start), values, parts(start))
        for name, output in outputs.items():
            columns[name][start : start + chunk] = output
        return chunk

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with tqdm(total=rows, unit=" rows", unit_scale=True, delay=1.0, disable=not progress) as bar:
            for done in pool.map(fill, (min(start, rows - chunk) for start in range(0, rows, chunk))):
                bar.update(min(done, rows - bar.n))
    finally:
        pool.shutdown(cancel_futures=True)
    return columns


def _children(tree: Any) -> dict[str, Any] | None:
    """What a node of a result holds by name, the sums of specs included; nothing where it is a leaf."""
    if dataclasses.is_dataclass(tree):
        names = [field.name for field in dataclasses.fields(tree) if not field.metadata.get("static")]
        return {name: getattr(tree, name) for name in (*names, *getattr(tree, "sums", ()))}
    if isinstance(tree, Mapping):
        return {str(key): child for key, child in tree.items()}
    if hasattr(tree, "_asdict"):
        return tree._asdict()
    return {str(i): child for i, child in enumerate(tree)} if isinstance(tree, (tuple, list)) else None


def _outputs(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a result, by its path."""
    children = _children(tree)
    if children is None:
        yield path or "value", tree
    for name, child in (children or {}).items():
        if child is not None:
            yield from _outputs(child, f"{path}.{name}" if path else name)


def _pick(tree: Any, path: str) -> Any:
    """The part of a result at a path, along fields, properties, keys and places."""
    node, known = {"value": tree} if _children(tree) is None else tree, ", ".join(dict(_outputs(tree)))
    for name in path.split("."):
        children = _children(node) or {}
        found = name in children or (dataclasses.is_dataclass(node) and hasattr(node, name))
        expect(found, f"output {path!r} is unknown; allowed: {known}, and properties of specs")
        node = children[name] if name in children else getattr(node, name)
    return node
