"""What a training reads: rows by number, and what may go with them."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Data(Protocol):
    """Rows in an order that is fixed: training may start anywhere in it.

    Three more methods are optional, each from `start` and `count` as `rows`, and each may return None:

    - `padding_mask`: which input tokens are real; padding takes part in nothing;
    - `loss_mask`: which of the tokens that are predicted the loss counts, as numbers 0 and 1;
    - `distributions`: what is learned of each next token in place of the token.
    """

    def rows(self, start: int, count: int) -> tuple[Int[np.ndarray, "count length+1"], Int[np.ndarray, "count"]]:
        """Tokens of rows from `start` on, and the domain that each came from."""
        ...


class Batch(NamedTuple):
    """Rows of a step, and what goes with them; None where all tokens count alike.

    The first `length` tokens of a row are input, the last `length` are predicted.
    """

    rows: Int[Array, "B length+1"]
    padding_mask: Bool[Array, "B length"] | None = None  # of the input: true where a token is real
    loss_mask: Float[Array, "B length"] | None = None  # of what is predicted
    distributions: Float[Array, "B length V"] | None = None  # of each next token, by a teacher


def batch_of(data: Data, start: int, count: int) -> Batch:
    """Rows of some data from `start` on, with all that the data says of them."""
    return Batch(data.rows(start, count)[0], *(optional(data, name, start, count) for name in Batch._fields[1:]))


def optional(data: Data, name: str, start: int, count: int) -> Any:
    """What data says of rows by a method that it may lack; None where it says nothing, or that all tokens are real."""
    found = getattr(data, name)(start, count) if hasattr(data, name) else None
    # Without a mask the program is the one of rows that are full, so these keep their bits.
    return None if name == "padding_mask" and found is not None and np.all(found) else found
