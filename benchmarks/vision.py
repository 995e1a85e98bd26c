"""What loading images costs: tokens a second that one core decodes, scales and splits into patches."""

from collections.abc import Iterator
from typing import Any

from anatomy.claims import vision as article
from anatomy.claims.architecture import printed
from anatomy.train import image_loader


def loading() -> dict[str, Any]:
    """Speed of the loader on JPEG files, its parts, other formats, and the chips of GPT-4's training that it feeds."""
    speeds = {kind: image_loader.speed(kind)._asdict() for kind in image_loader.FORMATS}
    value = speeds["JPEG"]["all"]
    chip = article.speed() / printed("train.gpus")  # tokens a second
    return {
        "value": value,
        "unit": "tokens/s",
        "each": speeds,
        "chips_fed": value / chip,
        "cores_for_an_encoder_chip": article.encoder_speed() / value,
    }


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """The loader."""
    yield "image_loader", loading()
