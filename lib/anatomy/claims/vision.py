"""Checks of vision: bytes of its tokens and who has to carry them, what it adds to the model, and what came of it."""

import dataclasses
from functools import cache

import numpy as np

from anatomy.claims.architecture import printed
from anatomy.claims.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger import Claim, check
from anatomy.claims.parallelism import machine
from anatomy.claims.record import record
from anatomy.claims.training_cost import article_run, peak
from anatomy.cost.run import training_days, training_flop
from anatomy.cost.vision import Traffic, Tuning, added, appetite, blocks_like, traffic, tuning_flop
from anatomy.specs import Architecture, CrossAttention, architecture, catalogue
from anatomy.specs.units import readable
from anatomy.train import image_loader
from anatomy.train.data.corpus import KING_JAMES, documents

# What the article leaves open is taken from Flamingo's largest model and the usual encoder of the time.
ENCODER = dataclasses.replace(catalogue.encoder("vit_h_14"), side=float(image_loader.SIDE))
RESAMPLER = catalogue.resampler("flamingo_resampler")
EVERY = catalogue.entry("vision", "flamingo_80b")["every"]
PETABYTE_MONTH = 23_000.0  # dollars for storage of a petabyte and month: assumed, 2.3 cents a gigabyte
LOW = 0.01  # a share of a cost that nobody would work much to save
CAPTION = 32.0  # tokens of text for an image, where the further tokens are patches


def model() -> Architecture:
    """The book's shape of GPT-4, as it trains."""
    return architecture("gpt4")


def blocks(every: float = EVERY, of: Architecture | None = None) -> CrossAttention:
    """Cross-attention blocks between the layers of GPT-4, at Flamingo's spacing or another."""
    return blocks_like(of or model(), every, RESAMPLER.d_model)


def raw() -> float:
    """Bytes of a vision token, as pixels: a patch of 14 x 14 in three colours of 8 bits."""
    return float(ENCODER.patch_bytes)


def text() -> float:
    """Bytes of a text token."""
    return record("bytes_per_text_token")["value"]


def speed() -> float:
    """Tokens a second of the article's training run: its chips at its utilisation over its FLOP for a token."""
    each = printed("train.flops") / printed("data.tokens")
    return float(appetite(each, printed("train.gpus"), peak(), printed("train.mfu")))


def encoder_speed(chips: float = 1.0) -> float:
    """Patches a second that chips take when the encoder trains alone, at the article's utilisation."""
    each = 3 * ENCODER.flop_per_image / ENCODER.patches
    return float(appetite(each, chips, peak(), printed("train.mfu")))


def load(bytes_per_token: float, tokens_per_second: float | None = None) -> Traffic:
    """Input of the article's cluster at the speed of its run, or another."""
    return traffic(speed() if tokens_per_second is None else tokens_per_second, bytes_per_token, machine())


def storage_dollars(bytes_per_token: float | None = None, months: float = 3.0) -> float:
    """Dollars to keep all vision tokens, as pixels or smaller, for a quarter, about as long as the run."""
    each = raw() if bytes_per_token is None else bytes_per_token
    return printed("vis.2T") * each / 1e15 * PETABYTE_MONTH * months


@cache
def compressed() -> dict[str, dict[str, float]]:
    """Bytes of a patch of 14 x 14 pixels, of each photograph in each format, at the usual quality."""
    return {
        name: {
            kind: image_loader.bytes_per_patch(image, image_loader.encode(image, kind), int(ENCODER.patch))
            for kind in image_loader.FORMATS
        }
        for name, image in image_loader.photographs().items()
    }


def mean_bytes(kind: str) -> float:
    """Bytes of a patch in a format, mean of both photographs."""
    return float(np.mean([sizes[kind] for sizes in compressed().values()]))


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
    return tuning_flop(model(), ENCODER, RESAMPLER, blocks(), through, images, printed("data.ctx_8k"), frozen)


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


def strain(reading: str, bytes_per_token: float) -> float:
    """The larger share that input takes in a reading: of a chip's network, or for a quarter's storage of the rent."""
    flop = readings()[reading]
    rate = appetite(flop / printed("vis.2T"), printed("train.gpus"), peak(), printed("train.mfu"))
    rent = min(tuning_dollars(chunks, flop) for chunks in (1.0, 8.0))
    return max(float(load(bytes_per_token, rate).share), storage_dollars(bytes_per_token) / rent)


@check("vis.least")
def least(claim: Claim) -> Finding:
    """OpenAI's own figures, beside the best of others."""
    told = record("gpt4_vision_benchmarks")
    ahead = [name for name, value in told["gpt4"].items() if value > told["best_other"][name]]
    return uncheckable(
        claim,
        f"A judgement. On OpenAI's own figures of March 2023 GPT-4 is ahead of the best published model in "
        f"{len(ahead)} of {len(told['gpt4'])} benchmarks of images, without having been trained for them: "
        f"{', '.join(ahead)}.",
        beside=(float(len(ahead)), f"of {len(told['gpt4'])} benchmarks"),
        sources=(told["source"],),
    )


@check("vis.no_commercial")
def no_commercial(claim: Claim) -> Finding:
    """What was on offer by then."""
    card = record("gpt4v_card")
    return uncheckable(
        claim,
        "It depends on what counts as commercial. OpenAI's card says that GPT-4 with vision was in the hands of early "
        f"users since {card['early_access']}; it was offered to all paying users in autumn 2023, after the article.",
        sources=(card["source"],),
    )


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
    flop = training_flop(printed("arch.active_params"), claim.value)
    share = flop / printed("train.flops")
    days = float(training_days(flop, printed("train.gpus"), peak(), printed("train.mfu")))
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


@check("vis.scratch")
def scratch(claim: Claim) -> Finding:
    """What OpenAI says of the order."""
    card = record("gpt4v_card")
    return uncheckable(
        claim,
        "What OpenAI wanted is not on record. Its card says that GPT-4 with vision was trained as GPT-4 was, on "
        f"{' and '.join(card['training'])} data, and says nothing of an order.",
        sources=(card["source"],),
    )


@check("vis.gpt5")
def gpt5(claim: Claim) -> Finding:
    """Not told either."""
    return uncheckable(
        claim,
        "OpenAI has not said how GPT-5 was trained. GPT-4o of May 2024 was, it says, one model trained end to end on "
        "text, images and sound.",
        sources=(record("gpt4o")["source"],),
    )


@check("vis.gpt5_gen")
def gpt5_generates(claim: Claim) -> Finding:
    """What models of OpenAI's put out."""
    five, omni = record("gpt5"), record("gpt4o")
    wanted = {"image", "audio"}
    return decide(
        claim,
        wanted <= set(five["outputs"]),
        f"GPT-5 takes {' and '.join(five['inputs'])} and gives out {' and '.join(five['outputs'])}, as OpenAI's "
        "catalogue says; images and sound come from models beside it. The one that puts out "
        f"{', '.join(omni['outputs'][:-1])} and {omni['outputs'][-1]} was GPT-4o, a year before it.",
        in_part=bool(wanted & set(five["outputs"])),
        evidence=Evidence.PUBLIC_RECORD,
        sources=[five["source"], omni["source"]],
    )


@check("vis.agents")
def agents(claim: Claim) -> Finding:
    """A purpose is not computed; what it was best at is on record."""
    told = record("gpt4_vision_benchmarks")
    lead = {name: value - told["best_other"][name] for name, value in told["gpt4"].items()}
    first, second, third = sorted(lead, key=lead.get, reverse=True)[:3]
    return uncheckable(
        claim,
        f"What it was meant for is not on record. It would serve: GPT-4's lead over others was largest in {first} "
        f"({lead[first]:+.0f} points), {second} ({lead[second]:+.0f}) and {third} ({lead[third]:+.0f}): "
        "they ask for text in diagrams, charts and graphics.",
        beside=(lead[first], "points ahead"),
        sources=(told["source"],),
    )


@check("vis.data")
def data(claim: Claim) -> Finding:
    """What a rendered page carries for each vision token."""
    image, shown = drawn_page()
    each = shown / (image.shape[0] * image.shape[1] / ENCODER.patch**2)
    return uncheckable(
        claim,
        "OpenAI withholds its data. The means existed: Whisper was published in 2022, and whoever renders text has "
        f"its transcript for nothing. A page of {image.shape[1]} x {image.shape[0]} pixels in small print holds "
        f"{shown:,} bytes of text, {each:.1f} for each vision token, {each / text():.0%} of what a text token does.",
        beside=(each, "bytes of text/token"),
        sources=("radford2023whisper", record("technical_report")["source"]),
    )


@cache
def drawn_page() -> tuple[np.ndarray, int]:
    """A page of the small model's prose in small print, and the bytes of text on it."""
    return image_loader.page(" ".join(chapter.text for chapter in documents(KING_JAMES, "train")[:3]))


@check("vis.150x")
def times(claim: Claim) -> Finding:
    """Bytes of a patch of pixels over bytes of a text token; and what files have."""
    value = raw() / text()
    return compare(
        claim,
        value,
        f"{raw():.0f} bytes over {text():.0f} are {value:.0f} times as much. It counts pixels as they come out of a "
        f"decoder. As files of the usual quality, two photographs have {mean_bytes('JPEG'):.0f} bytes for a patch in "
        f"JPEG and {mean_bytes('WebP'):.0f} in WebP: {mean_bytes('JPEG') / text():.0f} and "
        f"{mean_bytes('WebP') / text():.0f} times a text token.",
        condition="pixels are loaded uncompressed, and a token is one patch of 14 x 14",
        sources=["dosovitskiy2021vit", record("bytes_per_text_token")["source"]],
    )


@check("vis.io_low")
def io_low(claim: Claim) -> Finding:
    """Share of the network that raw pixels would take, at the speed of GPT-4 and of its encoder alone."""
    seen, alone = load(raw()), load(raw(), encoder_speed(printed("train.gpus")))
    read = load(text())
    return decide(
        claim,
        float(seen.share) < LOW,
        f"At the speed of the article's run, {speed() / 1e6:.2f} million tokens a second, text is "
        f"{readable(float(read.cluster), 'B/s')} for all 25,000 chips and raw pixels are "
        f"{readable(float(seen.cluster), 'B/s')}: {readable(float(seen.chip), 'B/s')} a chip, of which its "
        f"network could carry {readable(float(f'{1 / float(seen.share):.2g}'))} times as much. The original says "
        "this of text only; it is true of both. Where the encoder trains alone it "
        f"is {readable(float(alone.chip), 'B/s')} a chip, {float(alone.share):.2%} of the network.",
        value=float(seen.share),
        unit="share",
        condition="each token passes all of GPT-4; what counts is the network, not the work of decoding files",
        evidence=Evidence.COST_MODEL,
        assumes=["25,000 A100 with 200 Gb/s each", "34 % of peak"],
    )


@check("vis.600_4")
def six_hundred(claim: Claim) -> Finding:
    """A patch of 14 x 14 pixels in three colours."""
    others = {size: size**2 * ENCODER.channels for size in (16.0, 32.0)}
    billed = record("image_tokens")
    per_billed = billed["side"] ** 2 * ENCODER.channels / (billed["low"] + billed["tile"])
    return compare(
        claim,
        raw(),
        f"14 x 14 pixels of three bytes are {raw():.0f}. Patches of 16 pixels have {others[16.0]:.0f}, of 32 "
        f"{others[32.0]:,.0f}; a token that OpenAI bills for stands for {per_billed:,.0f}. Text has about "
        f"{text():.0f} bytes a token, as OpenAI says of its tokenisers.",
        condition="a vision token is a patch of 14 x 14 pixels, 8 bits a colour, uncompressed",
        sources=["dosovitskiy2021vit", billed["source"], record("bytes_per_text_token")["source"]],
    )


@check("vis.compress")
def compress(claim: Claim) -> Finding:
    """Would raw pixels strain anything in any reading, and would files of the usual format?"""
    pixels, files = ({name: strain(name, size) for name in readings()} for size in (raw(), mean_bytes("JPEG")))
    saved = raw() / mean_bytes("JPEG")
    strained = [name for name, share in pixels.items() if share > LOW]
    left = [name for name, share in files.items() if share > LOW]
    shares = ", ".join(f"{share:.1%} ({name})" for name, share in pixels.items())
    kept = readable(storage_dollars(mean_bytes("JPEG")), "dollars")
    remains = ", ".join(f"{files[name]:.0%} ({name})" for name in left)
    return decide(
        claim,
        bool(left),
        "The original says that such work is under way, not that it is needed. Raw pixels of 2 trillion tokens are "
        f"{readable(printed('vis.2T') * raw(), 'B')}; to keep them for a quarter takes "
        f"{readable(storage_dollars(), 'dollars')}. Of the rent for their training that is {shares}: above {LOW:.0%} "
        f"in {len(strained)} of {len(pixels)} readings. JPEG, which has existed since 1992, makes "
        f"photographs {saved:.0f} times smaller. To keep those takes {kept}; above {LOW:.0%} is then "
        f"{remains or 'none'}.",
        value=saved,
        unit="times",
        condition=f"the two trillion are {' or '.join(left)}" if len(left) < len(files) else "",
        evidence=Evidence.COST_MODEL,
        assumes=[
            "storage at 2.3 cents a gigabyte and month, a list price that we assume",
            "images kept at the size at which they are read",
            "two photographs of scikit-learn, quality 75",
        ],
    )


@check("vis.hw")
def hardware(claim: Claim) -> Finding:
    """What a chip has to take in."""
    chip, bandwidth = float(load(raw(), encoder_speed(printed("train.gpus"))).chip), float(machine().inside.bandwidth)
    return uncheckable(
        claim,
        f"What is vital to vendors is theirs to say. Even where an encoder trains alone, a chip takes in "
        f"{readable(chip, 'B/s')} of pixels; its network carries {bandwidth / chip:,.0f} times that. What does "
        "grow is work on the host: files have to be decoded.",
        beside=(chip, "B/s"),
    )


@check("vis.every_mm")
def every_model(claim: Claim) -> Finding:
    """What came."""
    return uncheckable(
        claim,
        "A prediction, and for images a good one: the large families that followed, Gemini, Claude 3, GPT-4o and "
        "Llama 4, read images. Sound is less common.",
        sources=("gemini2023", "anthropic2024claude3", record("gpt4o")["source"], "meta2025llama4"),
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


@check("vis.evolve")
def evolve(claim: Claim) -> Finding:
    """What came."""
    return uncheckable(
        claim,
        "A prediction. Input did move beyond text; what reads it is still a dense transformer or a mixture of experts "
        "in most models that were published since.",
        sources=(record("gpt4o")["source"], record("chameleon")["source"], "meta2025llama4"),
    )


@check("meta.source")
def source(claim: Claim) -> Finding:
    """The address under which the original stands."""
    told = record("article")
    return decide(
        claim,
        told["address"] in claim.claim,
        f"The original stands at {told['address']}, by {' and '.join(told['authors'])} of {told['publisher']}. Most of "
        "it is for subscribers only.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[told["source"]],
    )
