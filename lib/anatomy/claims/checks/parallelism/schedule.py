"""Checks of the pipeline's schedule: how long its stages wait, and in which order they work."""

import numpy as np
from jaxtyping import Int

from anatomy.claims.article.training import ARTICLE, MODEL_ASSUMED, SEQUENCES, STAGES, counted, run
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, decide
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import ends, printed
from anatomy.cost.training.pipeline import bubble_fraction
from anatomy.specs import Plan
from anatomy.train import mesh as meshes


def timeline(stages: int, micro_batches: int, gpipe: bool = False) -> Int[np.ndarray, "2 stages ticks"]:
    """What each stage of the small model's compiled step does at each tick, and with which micro-batch.

    It is the table that the compiled program looks up itself. 0 waits, 1 is a forward pass, 2 a backward pass; all
    take one tick.

    Args:
        stages: p.
        micro_batches: m.
        gpipe: all forward passes first; else 1F1B.
    """
    way = meshes.ways(Plan(pipeline=stages, gpipe=gpipe))
    stage, tick = np.indices((stages, meshes.ticks(way, micro_batches)))
    return np.stack([np.asarray(a) for a in meshes.timetable(way, micro_batches, stage, tick)])


def idle_ticks(stages: int, micro_batches: int, gpipe: bool = False) -> float:
    """Share of the ticks in which a stage of the small model waits, counted; each waits equally often."""
    return float(np.mean(timeline(stages, micro_batches, gpipe)[0] == 0))


@check("par.bubble")
def bubble(claim: Claim) -> Finding:
    """The bubble with and without interleaving, and which of the two fits the article's utilisation."""
    plain, woven = run(), run(ARTICLE.replace(chunks=printed("arch.layers") / STAGES))
    shares = [float(step.bubble / step.seconds) for step in (plain, woven)]
    both = [counted(step) for step in (plain, woven)]
    low, _ = ends("train.mfu")
    error = claim.verdict["mfu_error"]
    each = round(float(ARTICLE.micro_batches(SEQUENCES)))
    orders = [idle_ticks(int(STAGES), each, gpipe) for gpipe in (False, True)]
    return decide(
        claim,
        shares[1] > claim.verdict["least_left"] * shares[0],
        f"How to avoid it was published in 2021: with {printed('arch.layers') / STAGES:.0f} interleaved chunks a stage "
        f"the bubble falls from {shares[0]:.0%} of the step to {shares[1]:.0%}. Another order alone does not do it: in "
        f"the small model's step on 15 stages with {each} micro-batches a stage waits in {orders[0]:.0%} of the ticks "
        f"under 1F1B and in {orders[1]:.0%} under GPipe. The article's own 32 to 36 % do not tell whether that was "
        f"done. Counted as the article counts, without attention scores, a step reaches {both[0]:.1%} plain and "
        f"{both[1]:.1%} interleaved. Without failures either may be meant, for the model misses PaLM's utilisation by "
        f"{error * 100:.0f} points and others' by more; with failures the interleaved one comes nearer.",
        value=shares[0],
        unit="share",
        in_part=both[0] > low - error,
        evidence=Evidence.COST_MODEL,
        assumes=[*MODEL_ASSUMED, SMALL],
        sources=["narayanan2021megatron", "lamypoirier2023breadth"],
    )


@check("par.bubble_fig")
def bubble_fig(claim: Claim) -> Finding:
    """The bubble of the chart's schedule, and at the article's size."""
    each = round(float(ARTICLE.micro_batches(SEQUENCES)))
    chart, here, long = idle_ticks(4, 4, gpipe=True), idle_ticks(int(STAGES), each), idle_ticks(int(STAGES), 10 * each)
    said = float(bubble_fraction(stages=STAGES, micro_batches=float(each)))
    return decide(
        claim,
        min(chart, here) > claim.verdict["least_idle"],
        f"Four devices with four micro-batches wait in {chart:.0%} of the ticks, as in the chart. The small model's "
        f"step on 15 stages, with the {each} micro-batches that the article's batch gives a replica, waits in "
        f"{here:.1%}, counted tick by tick; the formula says {said:.1%}. It is not the depth alone: with ten times the "
        f"micro-batches it would be {long:.0%}.",
        value=here,
        unit="share",
        condition="one chunk a stage and 60 million tokens a step",
        evidence=Evidence.SMALL_MODEL,
        assumes=["forward and backward passes take all stages as long", SMALL, "it shows the order, not the time"],
        sources=["huang2019gpipe", "narayanan2021megatron"],
    )
