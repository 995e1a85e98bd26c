"""Architectures: what a transformer is made of, how many parameters, FLOP and cache bytes that gives.

Symbols, here and in the chapters: L layers, d = d_model, h query heads of width d_h, h_kv key/value
heads, f = d_ff, g = mlp_matrices (2, or 3 with a gate), E experts of which k serve a token, V vocabulary.
Counts are plain arithmetic: Python numbers give exact Python numbers, traced ones stay traced.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from anatomy.specs.base import Scalar, label, number, refuse_where, shown, spec, switch


@spec
class Attention:
    """Multi-head (h_kv = h), grouped-query (1 < h_kv < h) or multi-query (h_kv = 1) attention.

    Source: vaswani2017attention, shazeer2019mqa, ainslie2023gqa.
    """

    heads: Scalar = number("heads", low=1, whole=True, doc="h, query heads")
    kv_heads: Scalar = number("heads", low=1, whole=True, doc="h_kv, key and value heads")
    head_dim: Scalar = number("values", low=1, whole=True, doc="d_h, width of a head")

    def check(self) -> None:
        """Refuse heads that the key/value heads do not divide.

        Raises:
            ValueError: kv_heads does not divide heads.
        """
        wrong = np.mod(self.heads, self.kv_heads) != 0
        refuse_where(wrong, "Attention.kv_heads", self.kv_heads, f"a divisor of heads ({shown(self.heads)})")

    @property
    def width(self) -> Scalar:
        """Width of all value heads together: what the output projection reads."""
        return self.heads * self.head_dim

    def weights(self, d_model: Scalar) -> Scalar:
        """Matrix parameters of a layer: queries and output 2 d h d_h, keys and values 2 d h_kv d_h."""
        return 2 * d_model * self.head_dim * (self.heads + self.kv_heads)

    def copied_weights(self, d_model: Scalar, ways: Scalar) -> Scalar:
        """What a chip holds of a layer above its share, where tensor ways are more than key and value heads.

        The heads are then copied: 2 d d_h (1 - h_kv / t). Their work need not be: each way may take a part of the
        tokens.
        """
        return 2 * d_model * self.head_dim * jnp.maximum(1 - self.kv_heads / ways, 0.0)

    def biases(self, d_model: Scalar) -> Scalar:
        """Bias parameters of a layer, where linear layers have them."""
        return self.head_dim * (self.heads + 2 * self.kv_heads) + d_model

    def score_flop(self) -> Scalar:
        """FLOP of a layer for one token and one attended token: scores 2 h d_h, values 2 h d_h."""
        return 4 * self.heads * self.head_dim

    @property
    def cache_ways(self) -> Scalar:
        """Ways in which heads can split the cache: h_kv."""
        return self.kv_heads

    def cached_values(self) -> Scalar:
        """Values that a layer keeps per token: keys and values, 2 h_kv d_h."""
        return 2 * self.kv_heads * self.head_dim


@spec
class LatentAttention:
    """Multi-head latent attention: keys and values are rebuilt from one cached vector.

    Source: deepseek2024v2, section 2.1.
    """

    heads: Scalar = number("heads", low=1, whole=True, doc="h")
    head_dim: Scalar = number("values", low=1, whole=True, doc="query and key width without position")
    rope_dim: Scalar = number("values", low=0, whole=True, doc="query and key width that carries position")
    v_dim: Scalar = number("values", low=1, whole=True, doc="width of a value head")
    q_rank: Scalar = number("values", low=1, whole=True, doc="width that queries are compressed to")
    kv_rank: Scalar = number("values", low=1, whole=True, doc="width that keys and values are compressed to")

    @property
    def width(self) -> Scalar:
        """Width of all value heads together: what the output projection reads."""
        return self.heads * self.v_dim

    def weights(self, d_model: Scalar) -> Scalar:
        """Matrix parameters of a layer, with the scales of the two norms inside."""
        queries = self.q_rank * (d_model + self.heads * (self.head_dim + self.rope_dim))
        keys_values = d_model * (self.kv_rank + self.rope_dim)
        keys_values = keys_values + self.kv_rank * self.heads * (self.head_dim + self.v_dim)
        output = d_model * self.heads * self.v_dim
        return queries + keys_values + output + self.q_rank + self.kv_rank

    def copied_weights(self, d_model: Scalar, ways: Scalar) -> Scalar:
        """What a chip holds above its share: the compression to the cached vector, which all heads read."""
        return d_model * (self.kv_rank + self.rope_dim) * (1 - 1 / ways)

    def biases(self, d_model: Scalar) -> Scalar:
        """The published models have none."""
        return 0.0 * d_model

    def score_flop(self) -> Scalar:
        """FLOP of a layer for one token and one attended token, with keys and values rebuilt."""
        return 2 * self.heads * (self.head_dim + self.rope_dim + self.v_dim)

    @property
    def cache_ways(self) -> Scalar:
        """Ways in which heads can split the cache: none, for all read the same vector."""
        return 1.0

    def cached_values(self) -> Scalar:
        """Values that a layer keeps per token: the compressed vector and the positional key."""
        return self.kv_rank + self.rope_dim


@spec
class Parameters:
    """Parameters by part; the parts add up to `total`."""

    sums: ClassVar = ("total", "active")

    embedding: Scalar = number("parameters", doc="token table, and position table where learned")
    attention: Scalar = number("parameters", doc="projections of all layers")
    dense_mlp: Scalar = number("parameters", doc="MLPs that every token passes, shared experts included")
    experts: Scalar = number("parameters", doc="routed experts, all of them")
    router: Scalar = number("parameters", doc="gates that choose the experts")
    norms: Scalar = number("parameters", doc="scales and shifts of the norms")
    unembedding: Scalar = number("parameters", doc="output matrix; 0 where tied to the embedding")
    active_share: Scalar = number("1", high=1, doc="k / E, the share of the routed experts a token uses")

    @property
    def total(self) -> Scalar:
        """Everything that must be stored."""
        return self.always + self.experts

    @property
    def always(self) -> Scalar:
        """What every token uses."""
        return self.embedding + self.attention + self.dense_mlp + self.router + self.norms + self.unembedding

    @property
    def active(self) -> Scalar:
        """What one token uses: everything but the experts it was not sent to."""
        return self.always + self.active_share * self.experts


@spec
class TokenFlop:
    """FLOP of one token by part; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    attention: Scalar = number("FLOP", doc="projections")
    scores: Scalar = number("FLOP", doc="scores against the attended tokens, and the sum of their values")
    mlp: Scalar = number("FLOP", doc="dense MLPs and the chosen experts")
    router: Scalar = number("FLOP", doc="gates")
    unembedding: Scalar = number("FLOP", doc="logits")

    @property
    def total(self) -> Scalar:
        """All of it."""
        return self.attention + self.scores + self.mlp + self.router + self.unembedding

    @property
    def without_scores(self) -> Scalar:
        """What does not grow with the context: 2 FLOP per parameter that is multiplied."""
        return self.total - self.scores


@spec
class Architecture:
    """A decoder-only transformer, dense or a mixture of experts."""

    name: str = label(default="")
    layers: Scalar = number("layers", low=1, whole=True, doc="L")
    d_model: Scalar = number("values", low=1, whole=True, doc="d, width of the residual stream")
    attention: Attention | LatentAttention
    d_ff: Scalar = number("values", low=1, whole=True, doc="f, inner width of one MLP or expert")
    mlp_matrices: Scalar = number("matrices", low=2, high=3, whole=True, default=2.0, doc="g, 3 with a gate")
    experts: Scalar = number("experts", low=1, whole=True, default=1.0, doc="E routed experts; 1 is dense")
    top_k: Scalar = number("experts", low=1, whole=True, default=1.0, doc="k experts for each token")
    shared_experts: Scalar = number(
        "experts", whole=True, default=0.0, doc="experts that serve every token, beside the routed ones"
    )
    dense_layers: Scalar = number("layers", whole=True, default=0.0, doc="layers with one dense MLP instead")
    dense_d_ff: Scalar = number("values", whole=True, default=0.0, doc="inner width of those MLPs")
    vocabulary: Scalar = number("tokens", low=0, whole=True, doc="V; 0 leaves the tables out")
    tied_embeddings: Scalar = switch(default=False, doc="logits use the embedding table")
    learned_positions: Scalar = number("positions", whole=True, default=0.0, doc="rows of a position table")
    relative_positions: Scalar = switch(
        default=False, doc="one more d x h d_h projection a layer, of relative positions"
    )
    norms_per_layer: Scalar = number("norms", whole=True, default=2.0, doc="norms of a layer")
    norm_biases: Scalar = switch(default=False, doc="norms shift as well as scale")
    biases: Scalar = switch(default=False, doc="linear layers add a bias")
    context: Scalar = number("tokens", low=1, whole=True, doc="longest sequence it was trained on")

    def check(self) -> None:
        """Refuse what no single field shows.

        Raises:
            ValueError: more experts for a token than there are, more dense layers than layers, or dense
                layers without a width.
        """
        for small, large in (("top_k", "experts"), ("dense_layers", "layers")):
            value, limit = getattr(self, small), getattr(self, large)
            wrong = np.greater(value, limit)
            refuse_where(wrong, f"Architecture.{small}", value, f"at most {large} ({shown(limit)})")
        empty = np.logical_and(np.greater(self.dense_layers, 0), np.equal(self.dense_d_ff, 0))
        refuse_where(empty, "Architecture.dense_d_ff", self.dense_d_ff, "above 0 where there are dense_layers")

    def replace(self, **changes: Any) -> "Architecture":
        """A copy with some fields changed; a field of the attention is named as such, `kv_heads=1`."""
        inner = {f.name for f in dataclasses.fields(self.attention)}
        attention = {name: changes.pop(name) for name in list(changes) if name in inner}
        if attention:
            changes["attention"] = dataclasses.replace(self.attention, **attention)
        return dataclasses.replace(self, **changes)

    @property
    def is_routed(self) -> Scalar:
        """1 where tokens are routed, 0 for a dense model; a dense model has no router."""
        return (self.experts > 1) * 1.0

    @property
    def expert_layers(self) -> Scalar:
        """Layers whose MLP is the one of `d_ff`: all but the leading dense ones."""
        return self.layers - self.dense_layers

    @property
    def expert_parameters(self) -> Scalar:
        """Parameters of one expert over all its layers: g d f (L - L_dense), and biases."""
        return self.expert_layers * self._mlp(self.d_ff)

    @property
    def attention_weights(self) -> Scalar:
        """Matrix parameters of attention in one layer, with the projection of relative positions."""
        positions = self.relative_positions * self.d_model * self.attention.heads * self.attention.head_dim
        return self.attention.weights(self.d_model) + positions

    @property
    def parameters(self) -> Parameters:
        """Parameters by part.

        A layer has d (2 h d_h + 2 h_kv d_h) for attention and g d f for each expert; the tables have
        V d each. Norms, biases and routers are counted too: they are small, not nothing.

        Source: hoffmann2022chinchilla, appendix F, for the counting; jiang2024mixtral for the experts.
        """
        attention = self.attention_weights + self.biases * self.attention.biases(self.d_model)
        routed = self.experts * self.is_routed * self.expert_parameters
        always = (1 - self.is_routed + self.shared_experts) * self.expert_parameters
        norms = self.layers * self.norms_per_layer + 1  # one more before the logits
        return Parameters(
            embedding=self.d_model * (self.vocabulary + self.learned_positions),
            attention=self.layers * attention,
            dense_mlp=always + self.dense_layers * self._mlp(self.dense_d_ff),
            experts=routed,
            router=self.is_routed * self.expert_layers * self.d_model * self.experts,
            norms=norms * self.d_model * (1 + self.norm_biases),
            unembedding=(1 - self.tied_embeddings) * self.d_model * self.vocabulary,
            active_share=self.top_k / self.experts,
        )

    def flop_per_token(self, attended: Scalar = 0.0, backward: bool = False) -> TokenFlop:
        """FLOP of one token: forward, or forward and backward, which is three times that.

        A matrix of n parameters costs 2 n FLOP a token; attention adds 4 h d_h FLOP a layer for each
        attended token. Looking up an embedding and the norms are left out.

        Args:
            attended: tokens that this one attends to, itself included: its position when decoding,
                (s + 1) / 2 on average over a causal sequence of s, or s where a kernel computes the
                full square and masks it (the convention of narayanan2021megatron).
            backward: whether the backward pass is added (twice the forward one).

        Source: kaplan2020scaling, section 2.1; narayanan2021megatron, appendix.
        """
        passes = 3.0 if backward else 1.0
        parts = self.parameters
        chosen = self.is_routed * self.top_k + (1 - self.is_routed) + self.shared_experts
        mlp = self.mlp_matrices * self.d_model * self.d_ff * chosen * self.expert_layers
        mlp = mlp + self.mlp_matrices * self.d_model * self.dense_d_ff * self.dense_layers
        return TokenFlop(
            attention=passes * 2 * self.layers * self.attention_weights,
            scores=passes * self.layers * self.attention.score_flop() * attended,
            mlp=passes * 2 * mlp,
            router=passes * 2 * parts.router,
            unembedding=passes * 2 * self.d_model * self.vocabulary,
        )

    def cache_bytes_per_token(self, bytes_per_value: Scalar = 2.0) -> Scalar:
        """Bytes of key/value cache that one token of one sequence needs: 2 L h_kv d_h values.

        Source: pope2023efficiently, section 3.3; deepseek2024v2 for latent attention.
        """
        return self.layers * self.attention.cached_values() * bytes_per_value

    def _mlp(self, width: Scalar) -> Scalar:
        """Parameters of one MLP of this inner width in one layer."""
        inner = self.mlp_matrices - 1  # matrices that lead to the inner width
        return self.mlp_matrices * self.d_model * width + self.biases * (inner * width + self.d_model)
