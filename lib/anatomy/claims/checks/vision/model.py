"""Checks of what vision adds to the model and to its training."""

import dataclasses
from functools import cache

from anatomy.claims.article.training import article_run, peak
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Finding, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.training.run import training_days, training_flop
from anatomy.cost.vision import Tuning, added, blocks_like, tuning_flop
from anatomy.specs import Architecture, CrossAttention, architecture, catalogue
from anatomy.specs.units import readable
from anatomy.train import image_loader

# What the article leaves open is taken from Flamingo's largest model and the usual encoder of the time.
ENCODER = dataclasses.replace(catalogue.encoder("vit_h_14"), side=float(image_loader.SIDE))
RESAMPLER = catalogue.resampler("flamingo_resampler")
EVERY = catalogue.entry("vision", "flamingo_80b")["every"]
CAPTION = 32.0  # tokens of text for an image, where the further tokens are patches


def model() -> Architecture:
    """The book's shape of GPT-4, as it trains."""
    return architecture("gpt4")


def blocks(every: float = EVERY, of: Architecture | None = None) -> CrossAttention:
    """Cross-attention blocks between the layers of GPT-4, at Flamingo's spacing or another."""
    return blocks_like(of or model(), every=every, d_image=RESAMPLER.d_model)


def tuning_dollars(chunks: float = 1.0, flop: float | None = None) -> float:
    """Dollars for the further training by the cost model: the article's plan and price, and failures.

    Args:
        chunks: of the pipeline.
        flop: of the training; by default of the reading that is dearest, in which all tokens pass GPT-4.
    """
    whole = next(iter(readings().values())) if flop is None else flop
    return float(article_run(chunks, tokens=printed("vis.2T")).rented * whole / tuning().language)


def tuning(text: float | None = None, frozen: float = 0.0) -> Tuning:
    """FLOP of the further training: two trillion tokens of GPT-4, or fewer, and an image for each 256 of the former."""
    tokens = printed("vis.2T")
    images = tokens / ENCODER.patches
    through = tokens if text is None else text
    return tuning_flop(
        model(),
        ENCODER,
        RESAMPLER,
        blocks(),
        tokens=through,
        images=images,
        attended=printed("data.ctx_8k"),
        frozen=frozen,
    )


@cache
def readings() -> dict[str, float]:
    """FLOP of the further training by what its two trillion tokens may be, the dearest first."""
    captions = printed("vis.2T") / ENCODER.patches * CAPTION
    return {
        "tokens of GPT-4, nothing frozen": float(tuning().total),
        "tokens of GPT-4, it and the encoder frozen": float(tuning(frozen=1.0).total),
        f"patches, {CAPTION:.0f} tokens of text an image": float(tuning(captions).total),
        "patches, encoder alone": float(tuning(0.0).images),
    }


@check("vis.encoder")
def encoder(claim: Claim) -> Finding:
    """Nothing on record; what the price list gives away."""
    billed = record("image_tokens")
    size = float(billed["side"]) ** 2 * ENCODER.channels
    patches = round((billed["side"] / ENCODER.patch) ** 2, -2)  # no whole number of them
    return uncheckable(
        claim,
        "OpenAI withholds the architecture. All that its price list gives away is that an image of 512 pixels counts "
        f"as {billed['low']} or {billed['low'] + billed['tile']} tokens, where it has about {patches:,.0f} patches of "
        "14 pixels: something pools them. That fits a resampler, and other designs as well.",
        beside=(size / billed["low"], "bytes/token"),
        sources=(record("technical_report")["source"], billed["source"]),
    )


@check("vis.flamingo")
def flamingo(claim: Claim) -> Finding:
    """What a Flamingo of that size would look like."""
    row = catalogue.entry("vision", "flamingo_80b")
    return uncheckable(
        claim,
        f"Not on record. Flamingo of 80 billion has a block after every {row['every']}th layer and "
        f"{RESAMPLER.latents:.0f} latents for an image; with GPT-4's 120 layers that makes "
        f"{float(blocks().blocks):.0f} blocks.",
        beside=(float(blocks().blocks), "blocks"),
        sources=(row["source"], record("technical_report")["source"]),
    )


@check("vis.adds")
def adds(claim: Claim) -> Finding:
    """Parameters that Flamingo's recipe would add, and others'."""
    total = printed("arch.total_params")
    few, many = (float(added(model(), ENCODER, RESAMPLER, blocks(every)).total) for every in (EVERY, 4.0))
    return uncheckable(
        claim,
        "Not on record, but any design of this kind adds some. With a ViT-H/14, Flamingo's resampler and its blocks "
        f"after every {EVERY}th layer it is {readable(few, 'parameters')}, after every fourth, as in Llama 3, "
        f"{readable(many, 'parameters')}: {few / total:.1%} or {many / total:.1%} of the stored parameters, and "
        f"{few / printed('arch.active_params'):.0%} or {many / printed('arch.active_params'):.0%} of those that a "
        "token uses.",
        beside=(few, "parameters"),
        assumes=("the book's shape of GPT-4", "blocks with an MLP of four times the width"),
        sources=("alayrac2022flamingo", "dubey2024llama3", "dosovitskiy2021vit"),
    )


@check("vis.2T")
def tokens(claim: Claim) -> Finding:
    """FLOP, days and dollars of them; and images, if they are patches."""
    flop = training_flop(parameters=printed("arch.active_params"), tokens=claim.value)
    share = flop / printed("train.flops")
    days = float(training_days(flop=flop, chips=printed("train.gpus"), peak=peak(), utilisation=printed("train.mfu")))
    dollars = [tuning_dollars(chunks) for chunks in (1.0, 8.0)]
    images = claim.value / ENCODER.patches
    return uncheckable(
        claim,
        f"Not on record. If they all pass GPT-4 they take {readable(flop, 'FLOP')}, {share:.0%} of the first training, "
        f"{days:.0f} days of its chips, and by the cost model {readable(dollars[1], 'dollars')} to "
        f"{readable(dollars[0], 'dollars')} at $1. If they are patches, they are {images / 1e9:.1f} billion images of "
        f"{ENCODER.patches:.0f}; Llama 3.2 saw {record('llama32_vision')['pairs'] / 1e9:.0f} billion.",
        beside=(dollars[0], "dollars"),
        assumes=("25,000 A100 at $1 an hour", "nothing is frozen"),
        sources=("kaplan2020scaling", record("llama32_vision")["source"]),
    )


@check("vis.poor_fit")
def poor_fit(claim: Claim) -> Finding:
    """What there is to fit: the same matrix products."""
    flop = tuning()
    return uncheckable(
        claim,
        "A prediction without a measure. What vision adds here is matrix products like all the rest: "
        f"{float(flop.blocks / flop.total):.0%} of the FLOP in cross-attention blocks, "
        f"{float(flop.images / flop.total):.1%} in encoder and resampler.",
        beside=(float((flop.blocks + flop.images) / flop.total), "share"),
    )
