"""Picture of the mixed images whose labels are most wrong, with the weights that each label policy gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from mixwell.report.picture import GAP, GREY, MIN_COLUMN, bar, below, beside, framed, png, text, tile

SIDE, PER_POLICY, WIDE = 144, 2, 420


def worst_cases(images: Tensor, names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the images on which the first label policy is furthest from the visible fraction of the objects.

    Args:
        images: The unmixed images, uint8, shape ``(N, 3, S, S)``.
        names: Their names.
        records: What :func:`mixwell.train.label_errors.measure` returns.

    Returns:
        A PNG file, with a description in words.
    """
    notes = (
        "Anchor, partner and mixed image; beside them the weight of the anchor's label (blue) by each label policy.",
        "visible: the anchor's share of what is visible of both objects, each measured in fractions of its size.",
    )
    title = text("Labels that are furthest from what is visible", 22, bold=True)
    parts, words = [below(title, *(text(note, colour=GREY) for note in notes))], []
    for policy in dict.fromkeys(record["policy"] for record in records):
        mine = [record for record in records if record["policy"] == policy]
        difference = (mine[0]["weights"] - mine[0]["fraction"]).abs().nan_to_num(-1)
        parts.append(text(policy, 17, bold=True))
        for row in difference.argsort(descending=True)[:PER_POLICY].tolist():
            anchor, partner = mine[0]["sources"][row].tolist()
            sources = beside(*[_captioned(images[k], str(names[k])) for k in (anchor, partner)])
            visible = float(mine[0]["fraction"][row])
            weights = {"visible": visible} | {record["label"]: float(record["weights"][row]) for record in mine}
            lines = [_line(name, weight) for name, weight in weights.items()]
            parts.append(beside(sources, _captioned(mine[0]["mixed"][row], "mixed"), below(*lines, gap=3)))
            words.append(f"{policy}: {', '.join(f'{name} {weight:.2f}' for name, weight in weights.items())}")
    return png(framed(below(*parts, gap=GAP)), "\n".join(words))


def _captioned(pixels: Tensor, name: str) -> Image.Image:
    shown = tile(pixels.float() / 255, SIDE)
    return below(text(name.rpartition("/")[2], 12, colour=GREY, width=max(SIDE, MIN_COLUMN)), shown)


def _line(name: str, weight: float) -> Image.Image:
    number = text(f"{weight:.2f}", 13, bold=True, width=36)
    bold = name == "visible"
    return beside(bar([weight, 1 - weight], 120), number, text(name, 13, bold=bold, width=WIDE), gap=6)
