"""What the chips of a model that serves send each other in a layer, and what goes from stage to stage.

Groups of chips exchange level by level: inside a node over its link, between nodes over the network, where each chip
of a node sends its part through its own port. Rings pass messages on, all-to-alls send them directly and at once.

Symbols: t tensor ways, of which X split d_model and Y = t / X heads and d_ff; e expert ways; n tokens; k experts of a
token.

Source: thakur2005collectives for the levels; pope2023efficiently, section 3 and appendix A, for what is sent.
"""

from typing import NamedTuple

import jax.numpy as jnp

from anatomy.specs import Architecture, Cluster, Link, Scalar, Serving


class Communication(NamedTuple):
    """What a layer sends: seconds for the bytes, collectives, and messages one after the other."""

    seconds: Scalar
    collectives: Scalar
    hops: Scalar  # inside a node
    network_hops: Scalar


class ChipGroup(NamedTuple):
    """Chips that exchange: so many of them share a node, and there are so many nodes."""

    chips: Scalar
    near: Scalar
    far: Scalar
    link: Link
    network: Link

    def gather(self, held: Scalar) -> Scalar:
        """Seconds of an all-gather or a reduce-scatter of so many bytes in all; what crosses the network is split."""
        near = (self.near - 1) / self.near * held / (self.link.bandwidth * self.link.share(self.near))
        return near + (self.far - 1) / self.chips * held / self.network.bandwidth

    @property
    def reach(self) -> Scalar:
        """Messages in a row of an all-to-all inside a node: along a torus; over a switch one, for all go at once."""
        return jnp.where(jnp.asarray(self.link.axes) > 0, self.link.hops(self.near), (self.near > 1) * 1.0)

    def all_to_all(self, held: Scalar) -> Scalar:
        """Seconds until each chip has sent its bytes in equal parts to all."""
        near = (self.near - 1) / self.chips * held / (self.link.bandwidth * self.link.share(self.near))
        return near + (self.chips - self.near) / self.chips * held / self.network.bandwidth


def chip_group(net: Cluster, *, chips: Scalar, apart: Scalar = 1.0) -> ChipGroup:
    """So many chips of a cluster, the next always so many places on."""
    near = jnp.clip(net.node.chips / apart, 1.0, chips)
    return ChipGroup(chips, near, chips / near, net.node.link, net.slowest_link(chips * apart))


def mlp_width(model: Architecture) -> Scalar:
    """Inner width that a token passes in an average layer, over its experts."""
    chosen = model.top_k * model.is_routed + (1 - model.is_routed) + model.shared_experts
    return (model.expert_layers * model.d_ff * chosen + model.dense_layers * model.dense_d_ff) / model.layers


def tensor_communication(
    model: Architecture, plan: Serving, *, tokens: Scalar, net: Cluster, layer_weight_bytes: Scalar = 0.0
) -> Communication:
    """What a layer sends among its tensor ways.

    Activations are gathered over Y before attention and MLP, and their sums scattered after; over X the sums of what
    goes into heads and MLP are scattered, and what comes out is gathered. With X = 1 only the first is left: the two
    all-reduces of Megatron. Layers that run attention and MLP side by side need one exchange for both; they have
    one norm. A cache split by sequences takes two all-to-alls more. Gathered weights replace all this.

    Args:
        model: that serves.
        plan: how it is laid out.
        tokens: tokens.
        net: the cluster, with the bandwidths that are reached.
        layer_weight_bytes: bytes of a layer's weights, for plans that gather them.

    Source: pope2023efficiently, section 3.2 and appendix A; shoeybi2019megatron for X = 1.
    """
    t, x, y = plan.tensor, plan.rows, plan.columns
    columns, rows, ways = chip_group(net, chips=y), chip_group(net, chips=x, apart=y), chip_group(net, chips=t)
    gathered, by_sequence = jnp.asarray(plan.gathered) > 0, jnp.asarray(plan.cache_by_sequence)
    blocks = jnp.minimum(model.norms_per_layer, 2.0)
    attention = 2 * model.attention.width + model.attention.cached_values()
    size = plan.activation_bytes * tokens

    stream = columns.gather(2 * blocks * size * model.d_model / x)
    inner = rows.gather(size * (attention + model.mlp_matrices * mlp_width(model)) / y)
    heads = by_sequence * ways.all_to_all(size * attention / t)
    hops = 2 * blocks * (columns.link.hops(columns.near) + rows.link.hops(rows.near))
    hops = hops + 2 * by_sequence * ways.reach
    network_hops = 2 * blocks * (columns.far + rows.far - 2) + 2 * by_sequence * (ways.far > 1)
    count = jnp.where(t > 1, blocks * (1 + (x > 1)) + 2 * by_sequence, 0.0)
    return Communication(
        seconds=jnp.where(gathered, ways.gather(layer_weight_bytes), stream + inner + heads),
        collectives=jnp.where(gathered, 1.0, count),
        hops=jnp.where(gathered, ways.link.hops(ways.near), hops),
        network_hops=jnp.where(gathered, ways.far - 1, network_hops),
    )


def expert_communication(model: Architecture, plan: Serving, *, tokens: Scalar, net: Cluster) -> Communication:
    """What a layer sends to experts elsewhere and back: two all-to-alls of each token's k copies.

    Source: lepikhin2021gshard.
    """
    ways = chip_group(net, chips=plan.expert, apart=plan.tensor)
    size = plan.activation_bytes * tokens * model.top_k * model.d_model / plan.tensor
    twice = 2 * model.is_routed * (plan.expert > 1) * model.expert_layers / model.layers
    return Communication(twice * ways.all_to_all(size), twice, twice * ways.reach, twice * (ways.far > 1))
