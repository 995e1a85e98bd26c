"""Numbers for the prose: what a cell computes is pasted into sentences with the role `glue:text`."""

from typing import Any

import numpy as np


def glue(**values: Any) -> None:
    """Keep values under their names; arrays and JAX scalars become plain numbers, which print plainly.

    Without myst-nb, in a notebook away from the book, there is no prose to paste into, and nothing happens.

    Raises:
        ValueError: a value is an array of several numbers.
    """
    try:
        from myst_nb import glue as keep
    except ImportError:
        return
    for name, value in values.items():
        if not isinstance(value, str):
            if np.size(value) != 1:
                raise ValueError(f"glued {name} has {np.size(value)} values; allowed: one number or text")
            value = np.asarray(value).item()
        keep(name, value, display=False)
