"""Checks of the serving cluster: what 128 chips hold, and which of its statements fit together."""

import jax.numpy as jnp

from anatomy.claims.article.serving import CONTEXT, OVER_NODES, SERVING, as_billions, machine, model, room, served
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.cost.efficiency import derate, overheads
from anatomy.cost.routing.expert_load import tokens_per_expert
from anatomy.cost.serving.memory import held_weights, memory, sequence_cache
from anatomy.cost.serving.steps import stage_transfer, tensor_communication
from anatomy.specs import architecture, chip
from anatomy.specs.units import readable


@check("g4i.4k")
def four_thousand(claim: Claim) -> Finding:
    """Both readings against the memory of 40 GB chips and against the price."""
    batch = printed("g4i.4k")
    rooms = {width: room(model(), SERVING.replace(weight_bytes=width)) for width in (2.0, 1.0)}
    whole, each = (served(n, context=CONTEXT / 2) for n in (batch, batch * float(SERVING.pipeline)))
    prices = [float(made.dollars_per_million(1.0)) / 1e3 for made in (whole, each)]
    asked = [printed("cost.a100") / price for price in prices]
    return compare(
        claim,
        rooms[1.0],
        "Over the whole cluster, 4,000 sequences of 8k need int8 weights on 40 GB chips: there is room for "
        f"{rooms[1.0]:,.0f}, and for {rooms[2.0]:,.0f} with FP16, with one KV head and the cache split by sequences. "
        f"In every micro-batch, {batch * 16:,.0f} sequences have no room at that length. In FP16 with caches half full "
        f"the first reading meets the article's price at ${asked[0]:.2f} for a chip-hour, the second at "
        f"${asked[1]:.2f}. So 4k over the cluster fits the rest.",
        at_least=True,
        condition="sequences are counted over the whole cluster, in int8 or shorter than 8k",
        evidence=Evidence.COST_MODEL,
        assumes=["one key/value head", "cache split by sequences"],
        sources=["pope2023efficiently"],
    )


@check("g4i.500")
def five_hundred(claim: Claim) -> Finding:
    """Tokens of an expert under both readings of 4k."""
    batch, experts, k = printed("g4i.4k"), printed("arch.n_experts"), printed("arch.top_k")
    value = float(tokens_per_expert(tokens=batch, experts=experts, top_k=k))
    return compare(
        claim,
        value,
        f"4,000 tokens with two choices among sixteen give {value:.0f} to each, if they pass a layer together. If the "
        f"4k are all that 16 stages have in flight, a layer sees {batch / 16:.0f} at a time and an expert "
        f"{value / 16:.0f}.",
        condition="4,000 tokens pass a layer at once",
    )


@check("g4i.usage")
def usage(claim: Claim) -> Finding:
    """Users that a batch of 4k stands for."""
    made = served(printed("g4i.4k"), context=CONTEXT / 2)
    rate = 1 / float(made.seconds)
    return uncheckable(
        claim,
        f"How much is very large is a matter of taste. 4,000 sequences at once, at {rate:.1f} tokens a second each, "
        f"are {readable(float(made.tokens_per_second) * 86_400)} tokens a day for one cluster, "
        f"{float(made.tokens_per_second) * 86_400 / 500 / 1e6:.1f} million answers of 500 tokens.",
        beside=(float(made.tokens_per_second), "tokens/s"),
    )


@check("g4i.128")
def chips(claim: Claim) -> Finding:
    """Does it fit with the layout?"""
    return compare(
        claim,
        float(SERVING.chips),
        "8-way tensor and 16-way pipeline parallelism make 128. That the claims agree is all that can be said: OpenAI "
        "has published nothing.",
        condition="the layout is 8 x 16",
    )


@check("g4i.sites")
def sites(claim: Claim) -> Finding:
    """Nothing to compute it from."""
    return uncheckable(claim, "Where OpenAI's machines stood and how many there were is not on record.")


@check("g4i.tp8pp16")
def layout(claim: Claim) -> Finding:
    """Chips of the layout, and what other layouts of as many would do."""
    groups = SERVING.replace(pipeline=8.0, first_stage_share=1.0, micro_batches=8.0, data=2.0, expert=2.0)
    one, other = served(2048.0), served(1024.0, plan=groups)
    return compare(
        claim,
        float(SERVING.tensor * SERVING.pipeline),
        "8 x 16 = 128. With 2,048 sequences of 8k, all that FP16 leaves room for, the cost model has "
        f"{float(one.seconds) * 1e3:.0f} ms a token. Two groups of 8 x 8 that share the experts would need "
        f"{float(other.seconds) * 1e3:.0f} ms for as many: half the stages, half the experts to read in each, and an "
        "all-to-all between nodes.",
        condition="the cluster has 128 chips",
        evidence=Evidence.COST_MODEL,
    )


@check("g4i.130B")
def node_parameters(claim: Claim) -> Finding:
    """1.8 trillion over 16, over 15, and what the fullest node really holds."""
    total = printed("arch.total_params")
    value = total / 15
    fullest = float(held_weights(model(), SERVING) * SERVING.tensor)
    return compare(
        claim,
        value,
        f"1.8 trillion over 16 nodes are {as_billions(total / 16)}, over 15 {as_billions(value)}. A node with eight of "
        f"120 layers and a token table holds {as_billions(fullest)} of the article's model, counted whole. 130 fits "
        f"neither; it is {printed('g4i.130B') / value - 1:.0%} above the larger.",
        condition="fifteen nodes hold the layers",
        sources=["patel2023gpt4"],
    )


@check("g4i.30GB")
def sixteen_bits(claim: Claim) -> Finding:
    """Bytes of weights on the fullest chip in FP16."""
    value = 2 * float(held_weights(model(), SERVING))
    even = 2 * printed("arch.total_params") / SERVING.chips
    return compare(
        claim,
        value,
        f"1.8 trillion parameters over 128 chips are {readable(even, 'B')} each in FP16. With eight layers on each of "
        f"fifteen nodes the fullest chip holds {readable(value, 'B')}, copies of the KV head and a part of a token "
        "table included: just above 30 GB, not below.",
        condition="about 30 GB, not less",
    )


@check("g4i.15GB")
def eight_bits(claim: Claim) -> Finding:
    """Bytes of weights on the fullest chip in 8 bits."""
    value = float(held_weights(model(), SERVING))
    even = printed("arch.total_params") / SERVING.chips
    return compare(
        claim,
        value,
        f"Half of the figure for FP16: {readable(value, 'B')} on the fullest chip, {readable(even, 'B')} on average. "
        "The A100 has no FP8; int8 it has.",
        condition="about 15 GB, not less; and int8",
    )


@check("g4i.fits40")
def fits(claim: Claim) -> Finding:
    """What is left for the cache on 40 GB, with one KV head and with as many as query heads."""
    left = float(chip("a100_sxm_40gb").memory - memory(model(), SERVING, batch=0.0, context=CONTEXT).total)
    one, many = room(model(), SERVING), room(architecture("gpt4"), SERVING.replace(cache_by_sequence=0.0))
    share = float(sequence_cache(model(), SERVING, context=CONTEXT))
    return decide(
        claim,
        one > claim.verdict["least_sequences"],
        f"FP16 weights leave {readable(left, 'B')} of 40. With one KV head a sequence of 8k takes "
        f"{readable(share, 'B')} on a chip, so {one:,.0f} fit into the cluster; with as many KV heads as query heads "
        f"{many:.0f}. It fits because of multi-query attention.",
        value=one,
        unit="sequences",
        condition="one key/value head, and the cache split by sequences",
        evidence=Evidence.COST_MODEL,
        sources=["shazeer2019mqa", "pope2023efficiently"],
    )


@check("g4i.no_split")
def no_split(claim: Claim) -> Finding:
    """Traffic of both ways to lay 128 chips: stages, or experts over nodes."""
    net = derate(machine(), overheads("a100_sxm_40gb").efficiency)
    apart = served(2048.0 / float(OVER_NODES.data), plan=OVER_NODES)
    together = served(2048.0)
    tokens, constants = jnp.asarray(128.0), overheads("a100_sxm_40gb")
    hop = stage_transfer(model(), SERVING, tokens=tokens, net=net, cluster=machine(), constants=constants)
    hand = float(hop) * float(SERVING.pipeline)
    of_layer = tensor_communication(model(), SERVING, tokens=tokens, net=net)
    inside = float(of_layer.seconds) * printed("arch.layers")
    return decide(
        claim,
        float(apart.seconds / together.seconds) > claim.verdict["least_ratio"],
        f"With 2,048 sequences in FP16 on 128 A100, stages hand on activations for {hand * 1e3:.1f} ms of a token's "
        f"{float(together.seconds) * 1e3:.0f}. With four stages and the experts of each layer on "
        f"{float(OVER_NODES.expert):.0f} nodes, which fits 40 GB too, all-to-alls take {float(apart.expert) * 1e3:.0f} "
        f"ms, beside {inside * 1e3:.0f} ms of tensor parallelism, yet the time per token is "
        f"{float(apart.seconds) * 1e3:.0f} ms, for the nodes of a stage read their part of the experts at the same "
        "time. The traffic is dearer, as claimed, and buys more than it costs; later systems split experts over many "
        "nodes. No cache need be recomputed: tokens travel, and caches stay.",
        value=float(apart.expert) * 1e3,
        unit="ms",
        in_part=float(apart.expert) / hand > claim.verdict["least_ratio"],
        evidence=Evidence.COST_MODEL,
        assumes=["balanced experts", "200 Gb/s a chip"],
        sources=["lepikhin2021gshard", "deepseek2024v3"],
    )


@check("g4i.kv_routing")
def kv_routing(claim: Claim) -> Finding:
    """An opinion about the future, and what came."""
    return uncheckable(
        claim,
        "An opinion about models to come. Those that came since, such as DeepSeek-V3 with 256 routed experts, keep "
        "each sequence's cache where its attention runs and send tokens to experts and back.",
        sources=("deepseek2024v3",),
    )


@check("g4i.120_15")
def fifteen(claim: Claim) -> Finding:
    """Divisors, and the sixteenth node."""
    layers = printed("arch.layers")
    held = float(SERVING.stage_layers(model()))
    return compare(
        claim,
        layers / held,
        f"120 = 15 x {held:.0f}. With the 16 stages that the article also claims, 120 layers divide only if one node "
        "has none: then 15 nodes have eight each and the sixteenth is the head node, and both statements are true.",
        condition="the head node holds no layer",
    )


@check("g4i.head")
def head(claim: Claim) -> Finding:
    """What a head node without layers costs, beside sixteen equal stages."""
    without = float(served(4096.0, context=CONTEXT / 2).tokens_per_second)
    even = float(served(4096.0, context=CONTEXT / 2, plan=SERVING.replace(first_stage_share=1.0)).tokens_per_second)
    table = model().vocabulary * model().d_model
    return decide(
        claim,
        without >= claim.verdict["least_rate"] * even,
        "Eight layers is the most that a stage has in either case, for 120 over 16 is 7.5: sixteen stages have eight "
        "or seven, and one with seven can make the logits. An empty head node changes the rate by "
        f"{without / even - 1:+.1%}: it costs nothing and has room for tables, sampling and whatever else. The tables "
        f"alone, {readable(2 * table, 'B')}, would not ask for it.",
        value=without / even,
        unit="times",
        evidence=Evidence.COST_MODEL,
    )


@check("g4i.spec_head")
def spec_head(claim: Claim) -> Finding:
    """Room for a draft model on the head node."""
    free = 8 * chip("a100_sxm_40gb").memory
    return uncheckable(
        claim,
        f"It would fit: an empty node of eight chips has {readable(float(free), 'B')}, room for a draft model of "
        f"{as_billions(0.5 * float(free) / 2)} parameters in FP16 with as much again for its cache. That it was used "
        "so is not on record.",
        sources=("leviathan2023fast",),
    )
