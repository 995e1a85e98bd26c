"""Images as they come to a training: encoded files, decoded, cut to a square and split into patches; and how fast.

The images are two photographs that ship with scikit-learn, china.jpg and flower.jpg (CC BY 2.0, by danielbuechele
and vultilion on Flickr), and a page of text that is drawn here. Pillow and scikit-learn are needed only when these
functions are called.
"""

import io
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from anatomy.memo import remembered
from anatomy.specs.base import between, check_arguments

SIDE, PATCH = 224, 14  # of an image as a vision transformer takes it, and of its patches, in pixels
FORMATS = {"PNG": {}, "JPEG": {"quality": 75}, "WebP": {"quality": 75, "method": 4}}
Image = UInt8[np.ndarray, "height width 3"]


def photographs() -> dict[str, Image]:
    """The two photographs of scikit-learn, 640 x 427 pixels, by name."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    names = (name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".jpg") for name in found.filenames)
    return {name: np.asarray(image) for name, image in zip(names, found.images, strict=True)}


def page(text: str, width: int = 640, height: int = 427, size: int = 12) -> tuple[Image, int]:
    """A page of text in black on white, and how many bytes of the text there was room for.

    Args:
        text: of which as much is drawn as fits.
        width: of the page in pixels.
        height: likewise.
        size: of the letters in pixels.
    """
    from PIL import Image as pillow
    from PIL import ImageDraw, ImageFont

    made = pillow.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(size)
    words, shown, step = iter(text.split()), [], round(1.3 * size)
    word = next(words, None)
    for top in range(size // 2, height - step, step):
        line = ""
        while word is not None and draw.textlength(f"{line} {word}".strip(), font) <= width - size:
            line, word = f"{line} {word}".strip(), next(words, None)
        draw.text((size // 2, top), line, "black", font)
        shown.append(line)
    return np.asarray(made), len(" ".join(shown).strip().encode())


def encode(image: Image, kind: str, **options: object) -> bytes:
    """An image as a file of that format: PNG, JPEG or WebP.

    Raises:
        ValueError: there is no such format.
    """
    from PIL import Image as pillow

    if kind not in FORMATS:
        raise ValueError(f"encode.kind is {kind!r}; allowed: {', '.join(FORMATS)}")
    out = io.BytesIO()
    pillow.fromarray(image).save(out, kind, **(FORMATS[kind] | options))
    return out.getvalue()


def decode(data: bytes) -> Image:
    """The pixels of a file."""
    from PIL import Image as pillow

    return np.asarray(pillow.open(io.BytesIO(data)).convert("RGB"))


def fit(image: Image, side: int = SIDE) -> Image:
    """The middle square of an image, scaled to that side."""
    from PIL import Image as pillow

    height, width = image.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = pillow.fromarray(image[top : top + least, left : left + least])
    return np.asarray(square.resize((side, side), pillow.Resampling.BILINEAR))


def patches(image: Image, patch: int = PATCH) -> UInt8[np.ndarray, "patches values"]:
    """The patches of an image row by row, each as a row of its values; what is left at the edges is cut off.

    Raises:
        ValueError: the image is smaller than a patch.
    """
    rows, columns = (size // patch for size in image.shape[:2])
    if not rows * columns:
        raise ValueError(f"patches.image has {image.shape[0]} x {image.shape[1]} pixels; allowed: at least {patch}")
    cut = image[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(rows * columns, patch * patch * 3)


def bytes_per_patch(image: Image, data: bytes, patch: int = PATCH) -> float:
    """Bytes of a file for each patch of its image, parts of patches counted as parts."""
    return len(data) * patch**2 / (image.shape[0] * image.shape[1])


def components(learned: Image, image: Image, count: int, patch: int = PATCH) -> tuple[Image, Image]:
    """An image of which each patch is kept as so many bytes, by principal components of another's patches.

    Each byte is a place on one of the components, in equal steps over the range that the image has there. The
    components serve for any image, and the two ends of each range for all patches: neither is counted.

    Args:
        learned: image that the components come from.
        image: that is kept.
        count: bytes of a patch, and components.
        patch: side of a patch.

    Returns:
        The image as it comes back, and as it was; what is left at the edges is cut off.

    Raises:
        ValueError: an image is smaller than a patch, or there are not so many components.
    """
    from sklearn.decomposition import PCA

    most = min(patch * patch * 3, (learned.shape[0] // patch) * (learned.shape[1] // patch))
    check_arguments("components", between(1, most, whole=True), count=count)
    fitted = PCA(count, svd_solver="covariance_eigh").fit(patches(learned, patch))
    places = fitted.transform(patches(image, patch))
    low, step = places.min(0), np.maximum(np.ptp(places, axis=0) / 255, 1e-9)
    stored = np.round((places - low) / step).astype(np.uint8)
    back = np.clip(np.round(fitted.inverse_transform(stored * step + low)), 0, 255).astype(np.uint8)
    rows, columns = (size // patch for size in image.shape[:2])
    cut = back.reshape(rows, columns, patch, patch, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(rows * patch, columns * patch, 3), image[: rows * patch, : columns * patch]


def psnr(image: Image, other: Image) -> float:
    """Peak signal-to-noise ratio of two images in decibels; infinite where they are equal."""
    error: Float[np.ndarray, ""] = np.mean((image.astype(float) - other.astype(float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


class Speed(NamedTuple):
    """Vision tokens a second that one core gets through each part of loading, and through all of it."""

    decode: float
    fit: float
    patches: float
    all: float


def speed(kind: str = "JPEG", rounds: int = 30) -> Speed:
    """How fast this machine loads the two photographs from files in memory, on one core.

    A photograph is decoded, its middle square scaled to 224 x 224 pixels, and split into 256 patches as 32-bit
    numbers from 0 to 1. Of each part the median over all rounds counts.
    """
    seconds: dict[str, list[float]] = {"decode": [], "fit": [], "patches": []}

    def timed(part: str, work: Callable[..., np.ndarray], *given: object) -> np.ndarray:
        start = time.perf_counter()
        made = work(*given)
        seconds[part].append(time.perf_counter() - start)
        return made

    files = [encode(image, kind) for image in photographs().values()]
    for _ in range(rounds):
        for data in files:
            square = timed("fit", fit, timed("decode", decode, data))
            made = timed("patches", lambda image: patches(image).astype(np.float32) / 255, square)
    parts = {part: statistics.median(times) for part, times in seconds.items()}
    return Speed(*(len(made) / value for value in (*parts.values(), sum(parts.values()))))


def measured_speed(kind: str = "JPEG") -> Speed:
    """`speed`, measured once on a machine and kept in the cache, so that pages built again say the same."""
    return Speed(*remembered(speed, kind))
