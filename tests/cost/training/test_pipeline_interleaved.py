"""Bubble and activations in flight of the interleaved schedule, laid out tick by tick in Megatron's order."""

import hypothesis.strategies as st
import pytest
from anatomy.cost.training.pipeline import bubble, bubble_fraction, in_flight
from hypothesis import given

FORWARD, BACKWARD = 1, 2  # ticks of one chunk
Task = tuple[str, int, int]  # "F" or "B", micro-batch, chunk of the stage


def interleaved(p: int, m: int, rank: int, v: int) -> list[Task]:
    """Groups of p micro-batches pass chunk by chunk; the warm-up is 2 (p - 1 - rank) + (v - 1) p chunks.

    Source: narayanan2021megatron, figure 4, and `forward_backward_pipelining_with_interleaving` of its code.
    """
    order = [(group + i, chunk) for group in range(0, m, p) for chunk in range(v) for i in range(p)]
    forwards: list[Task] = [("F", i, chunk) for i, chunk in order]
    backwards: list[Task] = [("B", i, v - 1 - chunk) for i, chunk in order]
    warm_up = min(2 * (p - 1 - rank) + (v - 1) * p, len(forwards))
    pairs = zip(forwards[warm_up:], backwards, strict=False)
    return forwards[:warm_up] + [task for pair in pairs for task in pair] + backwards[len(forwards) - warm_up :]


def lay_out(p: int, m: int, v: int) -> tuple[int, list[int]]:
    """Ticks until all is done, and the most chunks of activations that each stage held at once.

    Chunk c of stage r is layer group c p + r of the model: a forward waits for the group before it, a
    backward for the group after it, both for the stage to be free. Sending takes no time.
    """
    last = p * v - 1
    done: dict[tuple[str, int, int], int] = {}
    clock, held, peak = [0] * p, [0] * p, [0] * p
    todo = [interleaved(p, m, rank, v)[::-1] for rank in range(p)]
    while any(todo):
        moved = False
        for r in range(p):
            while todo[r]:
                kind, i, chunk = todo[r][-1]
                place = chunk * p + r
                if kind == "F":
                    needs = [("F", i, place - 1)] if place > 0 else []
                else:
                    needs = [("F", i, place)] + ([("B", i, place + 1)] if place < last else [])
                if any(need not in done for need in needs):
                    break
                start = max([clock[r], *(done[need] for need in needs)])
                clock[r] = done[kind, i, place] = start + (FORWARD if kind == "F" else BACKWARD)
                held[r] += 1 if kind == "F" else -1
                peak[r] = max(peak[r], held[r])
                todo[r].pop()
                moved = True
        assert moved, "the order is a deadlock"
    assert held == [0] * p and len(done) == 2 * m * p * v
    return max(clock), peak


@given(st.integers(1, 8), st.integers(1, 4), st.integers(2, 4))
def test_formulas_are_the_schedule(p, group, v):
    m = group * p  # Megatron demands a multiple
    ticks, peak = lay_out(p, m, v)
    of_a_micro_batch = v * (FORWARD + BACKWARD)
    assert bubble(stages=p, chunks=v) * of_a_micro_batch == pytest.approx(ticks - m * of_a_micro_batch, abs=1e-9)
    assert bubble_fraction(stages=p, micro_batches=m, chunks=v) == pytest.approx(
        1 - m * of_a_micro_batch / ticks, abs=1e-12
    )
    # A stage has v chunks: what it holds, in whole stages, is a v-th. The first one holds most.
    assert max(peak) == peak[0]
    assert float(in_flight(stages=p, micro_batches=m, chunks=v)) == pytest.approx(peak[0] / v, rel=1e-12)


def test_one_chunk_is_one_f_one_b_and_not_the_long_warm_up():
    """In this order one chunk is as fast and holds 2 p - 1 where 1F1B holds p; the formula means 1F1B."""
    ticks, peak = lay_out(4, 8, 1)
    assert ticks == 3 * (8 + bubble(stages=4))
    assert (peak[0], float(in_flight(stages=4, micro_batches=8))) == (7, 4)


def test_the_papers_figures():
    # narayanan2021megatron, figure 4: 4 stages, 8 micro-batches; 3 of 11 parts idle, with 2 chunks 3 of 19.
    assert bubble_fraction(stages=4, micro_batches=8) == pytest.approx(3 / 11)
    assert bubble_fraction(stages=4, micro_batches=8, chunks=2) == pytest.approx(3 / 19)
    # huang2019gpipe, section 2.3: negligible where m >= 4 p, here less than a fifth.
    assert all(bubble_fraction(stages=p, micro_batches=4 * p) < 0.2 for p in range(1, 100))
    # korthikanti2023reducing, section 4.2.3: 1 + (p - 1) / (p v) times as much; its 530B model has p = 35, v = 3.
    assert float(in_flight(stages=35, micro_batches=280, chunks=3)) / float(
        in_flight(stages=35, micro_batches=280)
    ) == pytest.approx(1 + 34 / 105)


counts = st.integers(1, 200)


@given(counts, counts, counts, counts)
def test_more_micro_batches_and_chunks_shrink_the_bubble_and_more_stages_do_not(p, m, v, more):
    now = bubble_fraction(stages=p, micro_batches=m, chunks=v)
    assert 0 <= now < 1 and (now == 0) == (p == 1)
    assert bubble_fraction(stages=p + more, micro_batches=m, chunks=v) > now
    if p > 1:
        assert bubble_fraction(stages=p, micro_batches=m + more, chunks=v) < now
        assert bubble_fraction(stages=p, micro_batches=m, chunks=v + more) < now
        assert bubble(stages=p, chunks=v + more) < bubble(stages=p, chunks=v)
