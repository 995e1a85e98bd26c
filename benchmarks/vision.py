"""What loading images costs, in tokens a second of one core; and what the model that sees reads, beside baselines."""

from collections.abc import Iterator
from typing import Any

from anatomy.claims.checks.vision.loading import encoder_speed, speed
from anatomy.claims.record import printed
from anatomy.train import image_loader
from anatomy.train.vision import reading
from anatomy.train.vision import recipes as seers


def loading() -> dict[str, Any]:
    """Speed of the loader on JPEG files, its parts, other formats, and the chips of GPT-4's training that it feeds."""
    speeds = {kind: image_loader.speed(kind)._asdict() for kind in image_loader.FORMATS}
    value = speeds["JPEG"]["all"]
    chip = speed() / printed("train.gpus")  # tokens a second
    return {
        "value": value,
        "unit": "tokens/s",
        "each": speeds,
        "chips_fed": value / chip,
        "cores_for_an_encoder_chip": encoder_speed() / value,
    }


def accuracy(found: dict[str, Any]) -> dict[str, Any]:
    """Share of held-out digits that are read right, with baselines and the model from scratch beside it."""
    return {
        "value": found["vision"]["digits"],
        "unit": "of the digits",
        "rows": found["vision"]["rows"],
        "text_only": found["text_only"]["digits"],
        "linear": found["linear"]["digits"],
        "linear_cut": found["linear_cut"],
        "scratch": found["vision_scratch"],
        "text": found["vision"]["text"],
        "text_alone": found["text_alone"]["text"],
        "tokens": found["tokens"],
    }


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """The loader; then the model that sees, which is trained where it is missing."""
    yield "image_loader", loading()
    found = reading.results()
    yield "vision_accuracy", accuracy(found)
    seconds = {name: seers.seconds(name) for name in seers.RECIPES}
    yield "vision_training", {"value": sum(seconds.values()), "unit": "seconds", **seconds}
