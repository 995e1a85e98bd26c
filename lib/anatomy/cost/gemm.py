"""Matrix products (GEMMs) of a layer and their seconds, the same for training and serving."""

from anatomy.cost.efficiency import Efficiency
from anatomy.specs import Architecture, Scalar


def gemm_seconds(*, rows: Scalar, columns: Scalar, inner: Scalar, peak: Scalar, efficiency: Efficiency) -> Scalar:
    """Seconds of one (rows x inner) by (inner x columns) product.

    A side of x values wastes part of a tile and of a wave of tiles, about half_size / x of the whole:

        time = 2 m n k (1 + half_size (1/m + 1/n + 1/k)) / (peak share)

    It is written without fractions, so that an empty product takes no more than its waste.
    """
    waste = efficiency.half_size * (rows * columns + columns * inner + rows * inner)
    return 2 * (rows * columns * inner + waste) / (peak * efficiency.matmul)


def layer_gemm_seconds(
    model: Architecture,
    *,
    tokens: Scalar,
    rows: Scalar,
    columns: Scalar,
    router_ways: Scalar,
    experts: Scalar,
    expert_tokens: Scalar,
    peak: Scalar,
    efficiency: Efficiency,
) -> Scalar:
    """Seconds of the matrix products of an average layer, forward, on one chip.

    Attention has two products, into the heads and out of them; an MLP g, of which the g - 1 inner ones are one wider
    product. Each expert works on the tokens that are sent to it, so a chip does as many small products as it has
    active experts.

    Args:
        model: with its widths.
        tokens: that pass.
        rows: tensor ways that split d_model.
        columns: tensor ways that split heads and d_ff.
        router_ways: chips that share the product of the router.
        experts: of a layer that a chip computes.
        expert_tokens: of each of them.
        peak: of the chip, FLOP/s.
        efficiency: of its generation.
    """
    d, out = model.d_model / rows, model.attention.width
    into = model.attention_weights / model.d_model - out

    def mlp(tokens: Scalar, width: Scalar) -> Scalar:
        inner = gemm_seconds(
            rows=tokens, columns=(model.mlp_matrices - 1) * width / columns, inner=d, peak=peak, efficiency=efficiency
        )
        return inner + gemm_seconds(rows=tokens, columns=d, inner=width / columns, peak=peak, efficiency=efficiency)

    attention = gemm_seconds(rows=tokens, columns=into / columns, inner=d, peak=peak, efficiency=efficiency)
    attention = attention + gemm_seconds(rows=tokens, columns=d, inner=out / columns, peak=peak, efficiency=efficiency)
    routed = model.is_routed
    chosen = routed * experts * mlp(expert_tokens, model.d_ff)
    always = (1 - routed + model.shared_experts) * mlp(tokens, model.d_ff)
    router = (
        routed
        * gemm_seconds(rows=tokens, columns=model.experts, inner=model.d_model, peak=peak, efficiency=efficiency)
        / router_ways
    )
    dense = mlp(tokens, model.dense_d_ff)
    return attention + (model.expert_layers * (chosen + always + router) + model.dense_layers * dense) / model.layers
