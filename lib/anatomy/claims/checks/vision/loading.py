"""Checks of the bytes of vision tokens, and of who has to carry them."""

from functools import cache

import numpy as np

from anatomy.claims.article.training import machine, peak
from anatomy.claims.checks.vision.model import ENCODER, readings, tuning_dollars
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.vision import Traffic, data_rate, storage_traffic
from anatomy.specs.units import readable
from anatomy.train import image_loader
from anatomy.train.data.corpus import KING_JAMES, documents

PETABYTE_MONTH = 23_000.0  # dollars for storage of a petabyte and month: assumed, 2.3 cents a gigabyte


def raw() -> float:
    """Bytes of a vision token, as pixels: a patch of 14 x 14 in three colours of 8 bits."""
    return float(ENCODER.patch_bytes)


def text() -> float:
    """Bytes of a text token."""
    return record("bytes_per_text_token")["value"]


def speed() -> float:
    """Tokens a second of the article's training run: its chips at its utilisation over its FLOP for a token."""
    each = printed("train.flops") / printed("data.tokens")
    return float(
        data_rate(flop_per_token=each, chips=printed("train.gpus"), peak=peak(), utilisation=printed("train.mfu"))
    )


def encoder_speed(chips: float = 1.0) -> float:
    """Patches a second that chips take when the encoder trains alone, at the article's utilisation."""
    each = 3 * ENCODER.flop_per_image / ENCODER.patches
    return float(data_rate(flop_per_token=each, chips=chips, peak=peak(), utilisation=printed("train.mfu")))


def load(bytes_per_token: float, tokens_per_second: float | None = None) -> Traffic:
    """Input of the article's cluster at the speed of its run, or another."""
    return storage_traffic(
        tokens_per_second=speed() if tokens_per_second is None else tokens_per_second,
        bytes_per_token=bytes_per_token,
        cluster=machine(),
    )


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


def strain(reading: str, bytes_per_token: float) -> float:
    """The larger share that input takes in a reading: of a chip's network, or for a quarter's storage of the rent."""
    flop = readings()[reading]
    rate = data_rate(
        flop_per_token=flop / printed("vis.2T"),
        chips=printed("train.gpus"),
        peak=peak(),
        utilisation=printed("train.mfu"),
    )
    rent = min(tuning_dollars(chunks, flop) for chunks in (1.0, 8.0))
    return max(float(load(bytes_per_token, rate).share), storage_dollars(bytes_per_token) / rent)


@check("vis.data")
def data(claim: Claim) -> Finding:
    """What a rendered page carries for each vision token."""
    image, shown = drawn_page()
    each = shown / (image.shape[0] * image.shape[1] / ENCODER.patch**2)
    return uncheckable(
        claim,
        "OpenAI withholds its data. The means existed: Whisper was published in 2022, and whoever renders text has its "
        f"transcript for nothing. A page of {image.shape[1]} x {image.shape[0]} pixels in small print holds {shown:,} "
        f"bytes of text, {each:.1f} for each vision token, {each / text():.0%} of what a text token does.",
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
        float(seen.share) < claim.verdict["most_share"],
        f"At the speed of the article's run, {speed() / 1e6:.2f} million tokens a second, text is "
        f"{readable(float(read.cluster), 'B/s')} for all 25,000 chips and raw pixels are "
        f"{readable(float(seen.cluster), 'B/s')}: {readable(float(seen.chip), 'B/s')} a chip, of which its network "
        f"could carry {readable(float(f'{1 / float(seen.share):.2g}'))} times as much. The original says this of text "
        f"only; it is true of both. Where the encoder trains alone it is {readable(float(alone.chip), 'B/s')} a chip, "
        f"{float(alone.share):.2%} of the network.",
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
        f"{others[32.0]:,.0f}; a token that OpenAI bills for stands for {per_billed:,.0f}. Text has about {text():.0f} "
        "bytes a token, as OpenAI says of its tokenisers.",
        condition="a vision token is a patch of 14 x 14 pixels, 8 bits a colour, uncompressed",
        sources=["dosovitskiy2021vit", billed["source"], record("bytes_per_text_token")["source"]],
    )


@check("vis.compress")
def compress(claim: Claim) -> Finding:
    """Would raw pixels strain anything in any reading, and would files of the usual format?"""
    pixels, files = ({name: strain(name, size) for name in readings()} for size in (raw(), mean_bytes("JPEG")))
    saved = raw() / mean_bytes("JPEG")
    least = claim.verdict["least_share"]
    strained = [name for name, share in pixels.items() if share > least]
    left = [name for name, share in files.items() if share > least]
    shares = ", ".join(f"{share:.1%} ({name})" for name, share in pixels.items())
    kept = readable(storage_dollars(mean_bytes("JPEG")), "dollars")
    remains = ", ".join(f"{files[name]:.0%} ({name})" for name in left)
    return decide(
        claim,
        bool(left),
        "The original says that such work is under way, not that it is needed. Raw pixels of 2 trillion tokens are "
        f"{readable(printed('vis.2T') * raw(), 'B')}; to keep them for a quarter takes "
        f"{readable(storage_dollars(), 'dollars')}. Of the rent for their training that is {shares}: above {least:.0%} "
        f"in {len(strained)} of {len(pixels)} readings. JPEG, which has existed since 1992, makes photographs "
        f"{saved:.0f} times smaller. To keep those takes {kept}; above {least:.0%} is then {remains or 'none'}.",
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
        "What is vital to vendors is theirs to say. Even where an encoder trains alone, a chip takes in "
        f"{readable(chip, 'B/s')} of pixels; its network carries {bandwidth / chip:,.0f} times that. What does grow is "
        "work on the host: files have to be decoded.",
        beside=(chip, "B/s"),
    )
