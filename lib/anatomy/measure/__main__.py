"""Measure what is missing, one after the other: `python -m anatomy.measure`, as `make book` does.

Clocks are read here with nothing beside them; the pages that show what they said are executed afterwards.
"""

import sys
import time

from anatomy.measure import answer_quality, draft_quality, serving, speculation
from anatomy.train import image_loader

MEASUREMENTS = {
    "the image loader": image_loader.measured_speed,
    "decode steps by variant of attention": serving.decode_steps,
    "the engine that serves": serving.results,
    "speculation steps": speculation.all_passes,
    "a speculation recorded": draft_quality.recording,
    "drafts from poor to good": draft_quality.by_draft,
    "draws of the loop": draft_quality.exactness,
    "answers by acceptance rule": answer_quality.scores,
}


def main() -> None:
    """Measure what is missing, and say how far it is."""
    for number, (name, measure) in enumerate(MEASUREMENTS.items(), 1):
        began = time.monotonic()
        print(f"measuring {number} of {len(MEASUREMENTS)}: {name}", file=sys.stderr, flush=True)
        measure()
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
