"""Checks of the training run: do FLOP, chips, days and utilisation fit, and what lowers the utilisation."""

from anatomy.claims.article.training import (
    ARTICLE,
    NODES,
    RESTART,
    WRITE,
    article_dollars,
    article_failures,
    article_goodput,
    article_run,
    chunked,
    counted,
    counted_run,
    machine,
    peak,
    run,
)
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import ends, printed
from anatomy.claims.record.public import record
from anatomy.cost.efficiency import derate, efficiency
from anatomy.cost.training.reliability import mean_time_between_failures
from anatomy.cost.training.run import training_days, training_flop, utilisation
from anatomy.cost.training.step import gradient_reduction
from anatomy.specs import architecture, chip, cluster
from anatomy.specs.units import DAY, readable


@check("train.flops")
def flops(claim: Claim) -> Finding:
    """Six FLOP for each active parameter and token; what attention scores add."""
    value = training_flop(parameters=printed("arch.active_params"), tokens=printed("data.tokens"))
    made = run()
    scores = float(made.model_flop / made.tokens) * printed("data.tokens") / value - 1
    low, high = record("epoch_gpt4")["flop_interval"]
    return compare(
        claim,
        value,
        f"6 x 280 billion x 13 trillion = {readable(value, 'FLOP')}. Attention scores at 8k, which the formula leaves "
        f"out, and token tables add up to {scores:.0%}. Epoch's 90 % interval, {low / 1e25:.2f} to {high / 1e25:.1f} "
        "times 1e25, is wide and rests on the same article.",
        condition="280 billion active parameters and 13 trillion tokens are right",
        sources=["kaplan2020scaling", "epoch2025models"],
    )


@check("train.gpus")
def gpus(claim: Claim) -> Finding:
    """Chips that the FLOP, the days and the utilisation ask for."""
    days, share = printed("train.days"), printed("train.mfu")
    value = printed("train.flops") / (peak() * share * days * DAY)
    return compare(
        claim,
        value,
        f"2.15e25 FLOP in {days:.0f} days at {share:.0%} of 312 TFLOP/s need {value:,.0f} chips. 25,000 is also 3,125 "
        f"boxes of eight, of which the layout 8 x 15 x 208 uses {ARTICLE.chips:,.0f} chips.",
        condition="the FLOP, the days and the utilisation are right",
    )


@check("train.days")
def days(claim: Claim) -> Finding:
    """Days by the identity, at both ends of the utilisation, and by the cost model."""
    flop, chips = printed("train.flops"), printed("train.gpus")
    value = training_days(flop=flop, chips=chips, peak=peak(), utilisation=printed("train.mfu"))
    most, least = (training_days(flop=flop, chips=chips, peak=peak(), utilisation=share) for share in ends("train.mfu"))
    plain, woven = (float(article_run(v).days) for v in (1.0, 8.0))
    return compare(
        claim,
        value,
        f"At 34 % of peak the run takes {value:.0f} days, at 36 and 32 % {least:.0f} and {most:.0f}: the two ranges "
        f"are the same statement. The cost model, with failures, gives {plain:.0f} days for the article's layout and "
        f"{woven:.0f} with an interleaved pipeline.",
        condition="the FLOP, the chips and the utilisation are right",
        sources=["narayanan2021megatron"],
    )


@check("train.mfu")
def mfu(claim: Claim) -> Finding:
    """Utilisation by the identity, and by the cost model."""
    flop, chips = printed("train.flops"), printed("train.gpus")
    value = utilisation(flop=flop, chips=chips, peak=peak(), days=printed("train.days"))
    plain, woven = (counted(run(chunked(v))) for v in (1.0, 8.0))
    lasting = [counted_run(v) for v in (1.0, 8.0)]
    return compare(
        claim,
        value,
        f"Over 95 days the FLOP and chips give {value:.1%}. Independently, and counted in the same way, the cost model "
        f"has {plain:.1%} for a step of the article's layout and {woven:.1%} with interleaving; failures leave "
        f"{lasting[0]:.1%} and {lasting[1]:.1%}. For a whole run the printed range asks for a better schedule than the "
        "article's, or for few failures.",
        condition="the FLOP, the chips and the days are right",
        sources=["chowdhery2023palm", "narayanan2021megatron"],
    )


@check("train.failures")
def failures(claim: Claim) -> Finding:
    """What failures cost at a rate that was counted."""
    lost = 1 - article_goodput()
    hours = float(mean_time_between_failures(article_failures(), nodes=NODES)) / 3600
    others = [1 - article_goodput(key) for key in ("llama3", "opt_175b")]
    return decide(
        claim,
        lost > claim.verdict["least_loss"],
        f"At the failure rate of Meta's A100 cluster, 3,125 nodes run {hours:.1f} hours between failures, and "
        f"{lost:.0%} of the time is lost to checkpoints, repeated work and restarts; at the rate of Llama 3.1 "
        f"{others[0]:.0%}, of OPT {others[1]:.0%}. That is a part of the gap to peak, not most of it.",
        value=lost,
        unit="share",
        condition=f"{WRITE:.0f} s to write a checkpoint and {RESTART:.0f} s to restart, which fit Llama 3.1's 90 %",
        evidence=Evidence.COST_MODEL,
        sources=["kokolis2025reliability", "dubey2024llama3", "zhang2022opt", "daly2006checkpoint"],
    )


@check("train.bubble_cost")
def bubble_cost(claim: Claim) -> Finding:
    """Share of a step that the pipeline waits."""
    plain, woven = (float(made.bubble / made.seconds) for made in (run(), run(chunked(8.0))))
    return decide(
        claim,
        plain > claim.verdict["least_share"],
        f"With 15 stages and 35 sequences a replica, stages wait {plain:.0%} of a step: the largest single loss. Eight "
        f"chunks a stage would bring it to {woven:.0%}.",
        value=plain,
        unit="share",
        condition="8 x 15 x 208 chips, one sequence a micro-batch, no interleaving",
        evidence=Evidence.COST_MODEL,
        sources=["narayanan2021megatron"],
    )


@check("train.waste")
def waste(claim: Claim) -> Finding:
    """The rent of the time that failures take."""
    lost = 1 - article_goodput()
    value = lost * article_dollars()
    return uncheckable(
        claim,
        f"Whether that is extreme is for the payer to say. {lost:.0%} of the rent is {readable(value, 'dollars')}, at "
        "the failure rate of Meta's A100 cluster.",
        value=value,
        unit="dollars",
        assumes=(f"{WRITE:.0f} s to write a checkpoint and {RESTART:.0f} s to restart", "25,000 chips, 95 days, $1"),
        sources=("kokolis2025reliability",),
    )


@check("train.allreduce")
def allreduce(claim: Claim) -> Finding:
    """All-reduces of tensor parallelism and between replicas, beside the other losses."""
    made = run()
    between, inside, wait = (float(x / made.seconds) for x in (made.gradient_reduction, made.tensor, made.bubble))
    net = derate(machine(), efficiency("a100_sxm_40gb"))
    few, all_of_them = (
        float(gradient_reduction(architecture("gpt4"), ARTICLE.replace(data=d), net=net, micro_batches=1.0))
        for d in (8.0, ARTICLE.data)
    )
    return decide(
        claim,
        between + inside > claim.verdict["least_of_bubble"] * wait,
        f"The exchange between replicas takes {between:.1%} of a step if nothing hides it, the all-reduces inside the "
        f"nodes {inside:.1%}; together less than half of the bubble's {wait:.0%}. It is a reason, but hardly because "
        f"of so many chips: in a ring, 208 replicas need {all_of_them / few - 1:.0%} more time than 8.",
        value=between + inside,
        unit="share",
        in_part=between + inside > claim.verdict["least_share_in_part"],
        evidence=Evidence.COST_MODEL,
        assumes=["200 Gb/s a chip", "no overlap with compute"],
        sources=["narayanan2021megatron", "patarasuk2009ring"],
    )


@check("chart.bw")
def bandwidth_chart(claim: Claim) -> Finding:
    """Is the chart about training? What its caption assumes, against one published system."""
    made = run()
    bound = float(made.memory_bound / made.seconds)
    palm = record("palm_decode")
    reads = palm["parameters"] * palm["bytes_per_parameter"] / (palm["chips"] * float(chip("tpu_v4").memory_bandwidth))
    overhead = palm["seconds"] / palm["tokens"] / reads - 1
    return decide(
        claim,
        bound > claim.verdict["least_bound"],
        f"The retelling puts a chart of inference under training, where work bound by memory is {bound:.1%} of a step, "
        "and turns one assumption, that overheads together equal the reads of the parameters, into a list of causes. "
        f"Its remark that real overhead is larger is fair: PaLM's published decoding takes {overhead:.1f} times the "
        "reads on top.",
        value=overhead,
        unit="times",
        evidence=Evidence.COST_MODEL,
        assumes=[f"PaLM at batch {palm['batch']}, int8, on {palm['chips']} TPU v4"],
        sources=["patel2023brickwall", palm["source"]],
    )


@check("train.intra_net")
def intra_net(claim: Claim) -> Finding:
    """The network of a published A100 box."""
    box = cluster("a100_sxm_40gb", 1)
    value = float(box.inside.bandwidth * box.node.chips) * 8
    return compare(
        claim,
        value,
        f"A box of eight A100 with a 200 Gb/s adapter for each chip has {readable(value, 'bit/s')}, with half of them "
        f"{readable(value / 2, 'bit/s')}: just the two figures. Which boxes OpenAI had is not on record.",
        condition="the figures are for a box of eight chips, and the boxes are those that were sold",
        sources=["narayanan2021megatron"],
    )


@check("train.inter_net")
def inter_net(claim: Claim) -> Finding:
    """What a network of a quarter of the speed between the parts would cost."""
    part = 128.0  # nodes: fewer than the 208 over which the replicas of a stage are spread
    even, uneven = run(), run(on=machine(segment_nodes=part, between=0.25))
    extra = float(uneven.seconds / even.seconds) - 1
    return uncheckable(
        claim,
        f"Not on record. If parts of {part:.0f} nodes were joined at a quarter of the speed, 400 in place of 1,600 "
        f"Gb/s a node, a step would take {extra:.1%} longer, if gradients are summed inside the parts first. Were each "
        "part to hold whole stages, little but activations would cross.",
        beside=(extra, "share"),
        assumes=("gradients are summed part by part", "no overlap with compute"),
        sources=("narayanan2021megatron",),
    )
