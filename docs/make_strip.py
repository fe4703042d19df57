"""Draw the README's strip: two photographs that ship with scikit-learn, and what each policy makes of them."""

from __future__ import annotations

from pathlib import Path

from mixwell import Policy
from mixwell.train import samples
from mixwell.train.gallery import drawable, strip
from mixwell.train.picture import png

STRIP = Path(__file__).with_name("strip.png")
SIDE, RATIO, SEED = 128, 0.6, 8
LARGEST = 300_000  # what a page may cost its reader (bytes)


def drawn() -> bytes:
    """Return the strip as PNG, with a picture of every policy that is not made of others."""
    images = samples.photographs(SIDE)
    policies = [policy for policy in drawable(images)[0] if isinstance(policy, Policy)]
    row = [(type(policy).__name__, samples.at_ratios(policy, images, [RATIO], SEED, 1)[0][0]) for policy in policies]
    canvas, words = strip(row)
    return png(canvas.image(margin=12), words, limit=LARGEST)


if __name__ == "__main__":
    STRIP.write_bytes(drawn())
