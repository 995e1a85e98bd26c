"""The bubble and the activations in flight against schedules that are really laid out."""

import hypothesis.strategies as st
import pytest
from anatomy.cost.training.pipeline import bubble, bubble_fraction, in_flight
from hypothesis import given

stages = st.integers(1, 12)
batches = st.integers(1, 24)


def order_of(stage: int, p: int, m: int, gpipe: bool) -> list[tuple[str, int]]:
    """What a stage does, in order: forwards and backwards of micro-batches."""
    if gpipe:
        return [("F", i) for i in range(m)] + [("B", i) for i in range(m)]
    warm_up = min(p - stage - 1, m)
    order = [("F", i) for i in range(warm_up)]
    for i in range(m - warm_up):
        order += [("F", warm_up + i), ("B", i)]
    return order + [("B", i) for i in range(m - warm_up, m)]


def lay_out(p: int, m: int, gpipe: bool = False) -> tuple[float, int]:
    """Length of the schedule when a forward takes 1 and a backward 2, and the most activations of the first stage."""
    done: dict[tuple[str, int, int], float] = {}
    clock = [0.0] * p
    orders = [order_of(s, p, m, gpipe) for s in range(p)]
    held = most = 0
    while any(orders):
        for s, order in enumerate(orders):
            while order:
                kind, i = order[0]
                needs = ("F", s - 1, i) if kind == "F" else ("B", s + 1, i)
                if kind == "B" and s == p - 1:
                    needs = ("F", s, i)
                if needs not in done and not (kind == "F" and s == 0):
                    break
                clock[s] = max(clock[s], done.get(needs, 0.0)) + (1 if kind == "F" else 2)
                done[kind, s, i] = clock[s]
                order.pop(0)
                if s == 0:
                    held += 1 if kind == "F" else -1
                    most = max(most, held)
    return max(clock), most


@given(stages, batches, st.booleans())
def test_the_bubble_is_that_of_the_schedule(p, m, gpipe):
    length, _ = lay_out(p, m, gpipe)
    assert length == pytest.approx(3 * (m + bubble(stages=p)))
    assert bubble_fraction(stages=p, micro_batches=m) == pytest.approx(1 - 3 * m / length)


@given(stages, batches)
def test_activations_in_flight_are_those_of_the_schedule(p, m):
    assert float(in_flight(stages=p, micro_batches=m)) == lay_out(p, m)[1]
    assert float(in_flight(stages=p, micro_batches=m, gpipe=1.0)) == lay_out(p, m, gpipe=True)[1]


@given(stages, batches, st.integers(1, 8))
def test_chunks_shrink_the_bubble_and_cost_memory(p, m, v):
    assert bubble_fraction(stages=p, micro_batches=m, chunks=v) <= bubble_fraction(stages=p, micro_batches=m)
    assert float(in_flight(stages=p, micro_batches=m, chunks=v)) >= float(in_flight(stages=p, micro_batches=m)) * (
        1 - 1e-12
    )


def test_one_stage_never_waits():
    assert bubble(stages=1.0) == 0.0 and bubble_fraction(stages=1.0, micro_batches=7.0) == 0.0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: bubble(stages=4, chunks=0), "pipeline.chunks is 0; allowed: a number at least 1"),
        (lambda: bubble_fraction(stages=-15, micro_batches=3), "pipeline.stages is -15; allowed: a number at least 1"),
        (lambda: in_flight(stages=4, micro_batches=-2), "pipeline.micro_batches is -2; allowed: a number above 0"),
    ],
)
def test_absurd_input_is_an_error_that_names_it(call, words):
    with pytest.raises(ValueError, match=words):
        call()
