"""Draw the README's strip: two photographs that ship with scikit-learn, and what each policy makes of them."""

from __future__ import annotations

from pathlib import Path

from mixwell import Policy
from mixwell.report import samples
from mixwell.report.gallery import drawable
from mixwell.report.picture import GAP, GREY, MIN_COLUMN, SOURCES, bar, below, beside, framed, label, png, text, tile

STRIP = Path(__file__).with_name("strip.png")
SIDE, RATIO, SEED = 128, 0.6, 8
ACROSS = 7  # pictures in a line
LARGEST = 300_000  # size limit of the picture (bytes)


def drawn() -> bytes:
    """Return the strip as PNG: the clean images, then one mixed image of every policy that is not made of others."""
    images = samples.photographs(SIDE)
    policies = [policy for policy in drawable(images)[0] if isinstance(policy, Policy)]
    mixed = {type(each).__name__: samples.at_ratios(each, images, [RATIO], SEED, 1)[0][0] for each in policies}
    clean, columns = next(iter(mixed.values())), []
    for k, (pixels, name) in enumerate(zip(clean.sources, clean.names, strict=True)):
        weights = [float(k == other) for other in range(len(SOURCES))]
        role = text("partner" if k else "anchor", 15, colour=GREY, width=MIN_COLUMN)
        columns.append(below(role, tile(pixels), bar(weights, SIDE), text(name), gap=5))
    for name, sample in mixed.items():
        title = text(name, 15, bold=True, width=MIN_COLUMN)
        columns.append(below(title, tile(sample.mixed), label(sample, MIN_COLUMN), gap=5))
    lines = [beside(*columns[start : start + ACROSS]) for start in range(0, len(columns), ACROSS)]
    words = "\n".join(f"{name}: {sample}" for name, sample in mixed.items())
    return png(framed(below(*lines, gap=GAP), 12), words, limit=LARGEST)


if __name__ == "__main__":
    STRIP.write_bytes(drawn())
