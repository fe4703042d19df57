"""``mixwell report``: one page about several runs, which needs nothing outside itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import mixwell
from mixwell import BatchPolicy
from mixwell.train import data, masks, page, samples, table
from mixwell.train.curves import chart
from mixwell.train.errors import Parser, RunError
from mixwell.train.picture import pillow, png, tinted
from mixwell.train.runs import Group, Run, groups, read_all
from mixwell.train.samples import Images, Sample
from mixwell.train.show import save

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
LARGEST = 112  # side of a picture on the page (pixels)


def html(runs: Sequence[Run]) -> str:
    """Return the report on some runs as one self-contained page."""
    found = groups(runs)
    return page.page(
        "mixwell report",
        [
            "<h1>mixwell report</h1>",
            f'<p class="faint">{_counted(len(runs), "run")} in {_counted(len(found), "group")}, '
            f"mixwell {mixwell.__version__}</p>",
            _results(found),
            *(_curves(recipe, found) for recipe in dict.fromkeys(group.recipe for group in found)),
            *_samples(found),
            *_masks(found),
            _runs(runs),
            _environments(runs),
        ],
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _results(found: Sequence[Group]) -> str:
    remarks = "".join(f"<li>{escape(remark)}</li>\n" for remark in table.remarks(found))
    return page.section(
        "Results",
        '<p class="faint">Top-1 accuracy on the validation images: mean ± standard deviation over the seeds.</p>',
        page.table(table.cells(found), words=2),
        f'<ul class="remarks">\n{remarks}</ul>' if remarks else "",
    )


def _curves(recipe: str, found: Sequence[Group]) -> str:
    own = [group for group in found if group.recipe == recipe]
    return page.section(
        f"Training on {recipe}",
        '<div class="charts">',
        chart(own, "train_loss", "training loss (nats)"),
        chart(own, "val_top1", "validation top-1 (%)", zoom=True),
        "</div>",
        '<p class="faint">Thick: mean over the seeds. Thin: each run. Training losses of different methods measure '
        "different things, mixed labels among them; compare the accuracies, whose axis begins at the lowest one of the "
        "second half of training.</p>",
    )


def _samples(found: Sequence[Group]) -> list[str]:
    """Return a section with a strip for every policy that was trained with."""
    strips, done = [], set()
    for group in found:
        policy = _policy(group.policy)
        if policy is None or (group.recipe, group.policy) in done:
            continue
        done.add((group.recipe, group.policy))
        images, where = _images(group.runs[0])
        for part, _ in samples.members(policy):
            try:
                row = diagonal(part, images, RATIOS)
            except RunError as error:
                strips.append(f"<h3><code>{escape(repr(part))}</code></h3>\n<p>No pictures: {escape(str(error))}</p>")
            else:
                strips.append(f"<h3><code>{escape(repr(part))}</code> on {escape(where)}</h3>\n{_strip(row)}")
    told = (
        "Above, the two clean images, and whose pixel is whose; below, the mixed one, and how much of each label it "
        "carries by its pixels. Drawn at even ratios; training draws them by the policy's law."
    )
    return [page.section("Mixed samples", f'<p class="faint">{told}</p>', *strips)] if strips else []


def _masks(found: Sequence[Group]) -> list[str]:
    """Return a section with what the mix block of each group's first run has learned, where there is one."""
    pictures = [(group, path) for group in found if (path := masks.newest(group.runs[0].path))]
    figures = [
        f"<h3>{escape(group.name)}, seed {group.runs[0].config.seed}, {escape(path.stem.replace('_', ' '))}</h3>\n"
        + page.image(path.read_bytes(), f"masks that {group.name} has learned", "max-width: 100%")
        for group, path in pictures
    ]
    return [page.section("Learned masks", *figures)] if figures else []


def _policy(text: str) -> BatchPolicy | None:
    """Return the policy of a group, or None for plain training or one that only its author knows."""
    if text.lower() in ("none", ""):
        return None
    try:
        policy = mixwell.parse(text)
    except (TypeError, ValueError):
        return None
    return policy if isinstance(policy, BatchPolicy) else None


def _images(run: Run) -> tuple[Images, str]:
    """Return some training images of a run and where they come from; photographs where its data are not here."""
    try:
        found = data.load(run.config)
    except RunError:
        return samples.photographs(LARGEST), "two photographs (the data of the run are not here)"
    return samples.from_split(found.train, found.classes, len(RATIOS) + 1, LARGEST), run.config.dataset


def diagonal(policy: BatchPolicy, images: Images, ratios: Sequence[float]) -> list[Sample]:
    """Mix at several ratios, another pair of images at each."""
    found = samples.at_ratios(policy, images, ratios, seed=0, count=len(images.labels))
    return [row[place % len(row)] for place, row in enumerate(found)]


def _strip(row: Sequence[Sample]) -> str:
    figures = "\n".join(_figure(sample) for sample in row)
    small = row[0].mixed.shape[2] < LARGEST
    return f'<div class="strip{" pixels" * small}">\n{figures}\n</div>'


def _figure(sample: Sample) -> str:
    colours = [f"var(--source-{k % 5 + 1})" for k in range(len(sample.names))]
    clean = "".join(
        page.image(png(pillow(pixels)), name, f"border-color: {colour}")
        for pixels, name, colour in zip(sample.sources, sample.names, colours, strict=True)
    )
    clean += page.image(png(pillow(tinted(sample.share))), "whose pixel it is", "border-color: transparent")
    whole, weighed = max(1.0, sum(sample.weights)), list(zip(sample.names, sample.weights, colours, strict=True))
    bar = "".join(
        f'<i style="width: {100 * weight / whole:.2f}%; background: {colour}"></i>' for _, weight, colour in weighed
    )
    label = "".join(
        f'<div class="label" style="--own: {colour}"><span title="{name}">{name}</span><b>{weight:.2f}</b></div>'
        for name, weight, colour in ((escape(name), weight, colour) for name, weight, colour in weighed)
    )
    mixed = page.image(png(pillow(sample.mixed)), f"mixed image: {sample}")
    parts = f'<div class="clean">{clean}</div>{mixed}<div class="bar">{bar}</div><figcaption>{label}</figcaption>'
    return f'<figure class="sample">{parts}</figure>'


def _runs(runs: Sequence[Run]) -> str:
    rows = [["run", "seed", "epochs", "last (%)", "median (%)", "best (%)", "time (s)"]]
    for run in runs:
        epochs = f"{len(run.metrics)}" + ("" if run.finished else f" of {run.config.epochs}")
        accuracies = [f"{value:.2f}" for value in (run.last, run.median, run.best)]
        rows.append([str(run.path), str(run.config.seed), epochs, *accuracies, f"{run.seconds:.1f}"])
    commands = "\n".join(escape(run.command) for run in runs)
    return page.section("Runs", page.table(rows, words=1), "<h3>Commands</h3>", f"<pre>{commands}</pre>")


def _environments(runs: Sequence[Run]) -> str:
    """Return the facts about the machine, once for all runs that share them."""
    places: dict[str, list[str]] = {}
    for run in runs:
        places.setdefault(json.dumps(run.summary.environment if run.summary else {}), []).append(str(run.path))
    parts = []
    for facts, paths in places.items():
        known = {name: str(value) for name, value in json.loads(facts).items() if value is not None}
        whose = "" if len(places) == 1 else f"<h3>{escape(', '.join(paths))}</h3>"
        rows = [["fact", "value"], *map(list, known.items())]
        parts.append(
            whose + (page.table(rows, words=2) if known else "<p>Not written down: the run is unfinished.</p>")
        )
    return page.section("Environment", *parts)


def main(argv: Sequence[str]) -> None:
    """Write the report that the arguments ask for, and print its table.

    Raises:
        RunError: a run directory is missing or damaged, or the page cannot be written.
    """
    about = "Write one self-contained HTML page about some runs, and print its table of results."
    parser = Parser("mixwell report", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory, or a folder of them")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="HTML", help="where to write [report.html]"
    )
    args = parser.parse_args(argv)
    runs = read_all(args.runs)
    save(args.out, html(runs).encode())
    table.show(groups(runs))
    print(f"report: {args.out}")
