"""The article's training run: its model, plan and chips as inputs of the cost model, and what that says of them."""

import jax

from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training.reliability import Failures, best_interval, goodput, published_failures
from anatomy.cost.training.run import Prices, Run, rented_dollars, training_flop, training_run
from anatomy.cost.training.step import Step, training_step
from anatomy.specs import Architecture, Cluster, Plan, Recompute, architecture, chip, cluster

SEQUENCE = printed("data.ctx_8k")
SEQUENCES = printed("data.batch_60M") / SEQUENCE
WAYS, STAGES = printed("par.tp8"), printed("par.pp15")
REPLICAS = printed("train.gpus") // (WAYS * STAGES)
# The article's plan; what it leaves open is as in the largest runs published by then (narayanan2021megatron,
# korthikanti2023reducing), with attention that keeps its scores on the chip.
ARTICLE = Plan(
    tensor=WAYS, pipeline=STAGES, data=REPLICAS, micro_batch=1.0, zero=printed("par.zero1"),
    recompute=float(Recompute.FULL), sequence_parallel=1.0, fused_attention=1.0,
)  # fmt: skip
MACHINES = {"a100_sxm_40gb": 3_125.0, "a100_sxm_80gb": 3_125.0, "h100_sxm": 1_024.0}  # nodes of eight
MODEL_ASSUMED = ("the book's shape of GPT-4", "60 million tokens a step", "exchange between replicas is not hidden")
NODES = 3_125  # of eight, for 25,000 chips
# Seconds that a checkpoint stalls the run, and that a restart takes. Nobody publishes them; these two give
# the 90 % that Llama 3.1 reports, at the failures it counted.
WRITE, RESTART = 30.0, 300.0


def machine(key: str = "a100_sxm_40gb", segment_nodes: float | None = None, between: float = 1.0) -> Cluster:
    """25,000 A100 or 8,192 H100, on one network or in segments."""
    return cluster(key, MACHINES[key], segment_nodes, between)


def run(plan: Plan = ARTICLE, on: Cluster | None = None, model: Architecture | None = None) -> Step:
    """One step of GPT-4 on A100, in double precision, with the article's batch."""
    with jax.enable_x64(True):
        model = architecture("gpt4") if model is None else model
        on = machine() if on is None else on
        return training_step(
            model, plan, on, batch=SEQUENCES, sequence_length=SEQUENCE, efficiency=efficiency("a100_sxm_40gb")
        )


def counted(step: Step) -> float:
    """Utilisation of a step as the article counts it: six FLOP a parameter and token, no attention scores."""
    return float(
        training_flop(parameters=printed("arch.active_params"), tokens=step.tokens) / (step.seconds * step.peak)
    )


def peak(key: str = "a100_sxm_40gb") -> float:
    """16-bit peak of a chip, FLOP/s."""
    return float(chip(key).flops_16bit)


def article_failures(key: str = "rsc1") -> Failures:
    """Failures at a published rate, with the checkpoint and restart that fit Llama 3.1."""
    return published_failures(key, write=WRITE, restart=RESTART)


def article_goodput(key: str = "rsc1", nodes: float = NODES) -> float:
    """Share of the wall time that advances a run on so many nodes, checkpointed at the best interval."""
    failures = article_failures(key)
    return float(goodput(failures, nodes=nodes, interval=best_interval(failures, nodes=nodes)))


def chunked(chunks: float) -> Plan:
    """The article's plan with that many chunks of layers a stage: 1 as in the article, 8 interleaved."""
    return ARTICLE.replace(chunks=chunks)


def article_run(
    chunks: float = 1.0, purchase: float = 0.0, energy: float = 0.0, tokens: float | None = None, **ramp: float
) -> Run:
    """The article's run by the cost model, with failures, at its price and with Epoch's power for a chip.

    Args:
        chunks: of layers a stage.
        purchase: dollars for a chip, if it is bought.
        energy: dollars a kWh, likewise.
        tokens: of the run; by default the article's.
        ramp: of the batch, as `training_run` takes it; by default there is none.
    """
    epoch, fabric = record("epoch_gpt4"), machine()
    watts = epoch["watts"] / epoch["chips"]
    prices = Prices(rent=printed("train.price_a100"), purchase=purchase, watts=watts, energy=energy)
    return training_run(
        architecture("gpt4"),
        chunked(chunks),
        fabric,
        batch=SEQUENCES,
        sequence_length=SEQUENCE,
        efficiency=efficiency("a100_sxm_40gb"),
        tokens=printed("data.tokens") if tokens is None else tokens,
        failures=article_failures(),
        prices=prices,
        **ramp,
    )


def counted_run(chunks: float) -> float:
    """Utilisation over the whole run as the article counts it, failures included."""
    return counted(run(chunked(chunks))) * article_goodput()


def article_dollars() -> float:
    """Rent of the run: the article's chips, the middle of its days, its price."""
    return rented_dollars(
        chips=printed("train.gpus"), days=printed("train.days"), dollars_per_hour=printed("train.price_a100")
    )
