"""``mixwell show``: what a policy does to images, as a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mixwell import BatchPolicy, parse
from mixwell.train import checkpoint, samples
from mixwell.train.errors import Parser, RunError
from mixwell.train.picture import FAINT, SOURCES, Canvas, fitting, font, labelled, png, tinted
from mixwell.train.samples import Images, Sample

GAP = 14  # between tiles (pixels)
NARROWEST = 132  # a column that still has room for a label (pixels)
ABOUT = """\
Draw what a policy does: the clean images, whose pixel is whose, the mixed image and its label, at several ratios.

  mixwell show "CutMix(alpha=1)"                        on two photographs that ship with scikit-learn
  mixwell show "FMix(soft=0.2)" --images DIR            on images of your own
  mixwell show all                                      a gallery of all policies"""


def sheet(policy: BatchPolicy, images: Images, ratios: Sequence[float], seed: int, count: int) -> tuple[Canvas, str]:
    """Draw a policy at several ratios; a choice of policies gets a block for each.

    Returns:
        The picture, and the same in words.
    """
    canvas, told = Canvas(), [repr(policy)]
    canvas.text(0, 0, repr(policy), 22, bold=True)
    canvas.text(
        0,
        34,
        "share: whose pixel it is, in the colours of the labels.  lam: the drawn share of the anchor.",
        14,
        colour=FAINT,
    )
    y, parts = 68, samples.members(policy)
    for part, chance in parts:
        if len(parts) > 1:
            canvas.text(0, y, f"{part!r}, drawn {100 * chance:.3g} % of the time", 17, bold=True)
            y += 32
        for row in zip(*samples.at_ratios(part, images, ratios, seed, count), strict=True):
            y += _block(canvas, y, row) + 2 * GAP
            told += [f"lam {sample.lam:.2f}: {sample}" for sample in row]
    return canvas, "\n".join(told)


def _block(canvas: Canvas, y: int, row: Sequence[Sample]) -> int:
    """Draw one pair of images: the clean ones on the left, a column for each ratio beside them."""
    side = row[0].mixed.shape[2]
    column, caption = max(side, NARROWEST), 22
    for k, (pixels, name) in enumerate(zip(row[0].sources, row[0].names, strict=True)):
        top = y + k * (side + caption + GAP // 2)
        canvas.box(0, top + 4, 10, 10, SOURCES[k % len(SOURCES)])
        role = "anchor" if k == 0 else "partner"
        canvas.text(15, top, fitting(f"{role}: {name}", column - 15, 14), 14)
        canvas.tile(0, top + caption, pixels)
    second = y + side + caption + GAP // 2
    height = 0
    for place, sample in enumerate(row):
        x = (column + GAP) * (place + 1) + GAP
        canvas.text(x, y, f"lam {sample.lam:.2f}", 14, bold=True)
        canvas.text(x + font(14, True).getlength("lam 0.00 "), y, " share", 14, colour=FAINT)
        canvas.tile(x, y + caption, tinted(sample.share))
        canvas.text(x, second, "mixed", 14, colour=FAINT)
        canvas.tile(x, second + caption, sample.mixed)
        below = second + caption + side + 8
        height = max(height, below - y + labelled(canvas, x, below, column, sample))
    return max(height, len(row[0].sources) * (side + caption + GAP // 2))


def gallery(
    policies: Sequence[BatchPolicy], images: Images, ratios: Sequence[float], seed: int, scale: int = 1
) -> tuple[Canvas, str]:
    """Draw many policies on one pair of images: share, mixed image and label at every ratio.

    Args:
        policies: What to draw, a row for each.
        images: Clean images; the first and the last are mixed, whatever a policy's pairing would choose.
        ratios: Shares of the anchor, a column for each.
        seed: Of everything random.
        scale: Side of the square that each pixel becomes.
    """
    canvas, told, y = Canvas(), [], 0
    side = images.pixels.shape[3] * scale
    images = Images(images.pixels[[0, -1]], images.labels[[0, -1]], images.names)
    for policy in policies:
        row = [found[0] for found in samples.at_ratios(policy, images, ratios, seed, 1)]
        if not told:
            y = _clean(canvas, row[0], scale)
        canvas.text(0, y, repr(policy), 16, bold=True)
        used = 0
        for place, sample in enumerate(row):
            x = place * (2 * side + 2 * GAP)
            canvas.tile(x, y + 26, tinted(sample.share), scale)
            canvas.tile(x + side + 4, y + 26, sample.mixed, scale)
            used = max(used, labelled(canvas, x, y + 26 + side + 6, 2 * side + 4, sample, 13))
        y += 26 + side + used + 2 * GAP
        told.append(f"{policy!r}: " + "; ".join(map(str, row)))
    return canvas, "\n".join(told)


def _clean(canvas: Canvas, sample: Sample, scale: int) -> int:
    """Draw the clean images of a sample side by side; return the height used."""
    side = sample.mixed.shape[2] * scale
    for k, (pixels, name) in enumerate(zip(sample.sources, sample.names, strict=True)):
        x = k * (side + 4)
        canvas.tile(x, 0, pixels, scale)
        canvas.bar(x, side + 6, side, 10, [float(k == other) for other in range(len(sample.names))])
        canvas.text(x, side + 21, fitting(f"{'partner' if k else 'anchor'}: {name}", side, 13), 13)
    return side + 60


def strip(row: Sequence[tuple[str, Sample]], width: int = 7) -> tuple[Canvas, str]:
    """Draw a line of pictures: the clean images of the first sample, then every mixed one with its name and label.

    Args:
        row: Mixed samples, with the name to write above each.
        width: Pictures after which a new line begins.
    """
    canvas, clean = Canvas(), row[0][1]
    side = clean.mixed.shape[2]
    column = max(side, NARROWEST)

    def corner(place: int) -> tuple[int, int]:
        return place % width * (column + GAP), place // width * (side + 110)

    for k, (pixels, name) in enumerate(zip(clean.sources, clean.names, strict=True)):
        x, y = corner(k)
        canvas.text(x, y, "partner" if k else "anchor", 15, colour=FAINT)
        canvas.tile(x, y + 26, pixels)
        canvas.bar(x, y + 26 + side + 7, side, 10, [float(k == other) for other in range(len(clean.names))])
        canvas.text(x, y + 26 + side + 24, fitting(name, column, 14), 14)
    for place, (title, sample) in enumerate(row, start=len(clean.names)):
        x, y = corner(place)
        canvas.text(x, y, fitting(title, column, 15, bold=True), 15, bold=True)
        canvas.tile(x, y + 26, sample.mixed)
        labelled(canvas, x, y + 26 + side + 7, column, sample)
    return canvas, "\n".join(f"{title}: {sample}" for title, sample in row)


def _policy(text: str) -> BatchPolicy:
    try:
        policy = parse(text)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None
    if not isinstance(policy, BatchPolicy):
        raise RunError(f"expected a mixing policy such as CutMix(alpha=0.2), or all, but got {text}")
    return policy


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected shares of the anchor between 0 and 1, but got {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but got {text!r}")
    return int(text)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixwell show", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", metavar="POLICY", help="a policy, such as 'CutMix(alpha=1)', or all")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of images [two sample photographs]")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), metavar="PNG", help="where to draw [grid.png]")
    parser.add_argument(
        "--ratios", type=_ratio, nargs="+", metavar="LAM", help="shares of the anchor [0.1 0.3 0.5 0.7 0.9]"
    )
    parser.add_argument("--size", type=_count, metavar="N", help="side of an image (pixels) [224; all: 112]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which images, and what is drawn [0]")
    parser.add_argument("--count", type=_count, default=2, metavar="N", help="pairs of images [2; all: 1]")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Draw what the arguments ask for, and say where it is.

    Raises:
        RunError: the policy, the images or the place to write are not usable; the sentence says what to do.
    """
    args = _arguments(argv)
    everything = args.policy == "all"
    size = args.size or (112 if everything else 224)
    policy = None if everything else _policy(args.policy)
    found = (
        samples.from_folder(args.images, args.count + 1, size, args.seed) if args.images else samples.photographs(size)
    )
    if policy is None:
        policies, left_out = samples.drawable(found)
        canvas, told = gallery(policies, found, args.ratios or (0.3, 0.5, 0.7), args.seed)
        for reason in left_out:
            print(f"left out {reason}", file=sys.stderr)
    else:
        canvas, told = sheet(policy, found, args.ratios or (0.1, 0.3, 0.5, 0.7, 0.9), args.seed, args.count)
    save(args.out, png(canvas.image(), told, limit=1_000_000 if policy is None else 0))
    print(f"{args.out}: {args.policy}")


def save(path: Path, content: bytes) -> None:
    """Write a file, with its folder where that is missing.

    Raises:
        RunError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
