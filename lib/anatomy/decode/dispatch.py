"""Which dispatch serves: the only place where that is chosen.

Only exact ones may. The answer for a sequence then depends on its own tokens alone: at equal shapes bit for bit where
each choice is computed on its own (`one_by_one`) or all are (`all_experts`); within rounding by the others, for a
product of two rows may be added up in another order than that of one.
"""

from anatomy.model.moe import DISPATCHES, EXACT, Dispatch, in_tiles, one_by_one

FEW = 2  # tokens of a pass, up to which tiles are no faster


def select_dispatch(name: str | None, tokens: int) -> Dispatch:
    """The dispatch of this name, or the fastest for a pass over so many tokens: `one_by_one`, or `in_tiles`.

    Raises:
        ValueError: it may drop tokens, or there is none of this name.
    """
    if name is None:
        return one_by_one if tokens <= FEW else in_tiles
    if name not in EXACT:
        raise ValueError(f"dispatch is {name!r}; allowed: {', '.join(sorted(EXACT))}, which drop no token; or None")
    return DISPATCHES[name]
