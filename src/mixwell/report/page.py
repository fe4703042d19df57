"""``mixwell report``: one self-contained HTML page about several runs."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from torch import Tensor

import mixwell
from mixwell.report import masks, measures, picture, samples, table
from mixwell.report.curves import training
from mixwell.report.evidence import Seen, on_mixed
from mixwell.report.gallery import columns, drawable, gallery, parts, without_model
from mixwell.report.picture import Column
from mixwell.report.plots import csv_text
from mixwell.report.samples import Images
from mixwell.train import data
from mixwell.train.errors import Parser, RunError
from mixwell.train.files import save
from mixwell.train.network import load
from mixwell.train.paths import expand
from mixwell.train.runs import Group, Run, groups, read_all

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("mixwell.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
SEEN = 3  # mixed images in which evidence is shown
LARGEST, GALLERY_SIDE = 112, 96  # side of an image on the page and in the gallery (pixels)


def html(runs: Sequence[Run]) -> str:
    """Return the report on some runs as one self-contained page; the layout is in ``report.html``."""
    found = groups(runs)
    environments: dict[str, list[Run]] = {}
    for run in runs:
        environments.setdefault(json.dumps(run.summary.environment if run.summary else {}), []).append(run)
    return rendered(
        "report.html", training=training, description=picture.description, measured_on=table.measured_on,
        measured=table.measured, newest=masks.newest, lines=_lines, csv=_csv,
        version=mixwell.__version__, largest=LARGEST, runs=runs, groups=found,
        table=table.cells(found), differences=table.differences(found), published=table.published_cells(found),
        measures=measures.cells(found), suites=measures.plots(found), remarks=table.remarks(found),
        strips=list(strips(found)), seen=list(seen(found)),
        environments=[(json.loads(facts), members) for facts, members in environments.items()],
    )  # fmt: skip


def rendered(template: str, **names: Any) -> str:
    """Return a page from a template of this folder."""
    return TEMPLATES.get_template(template).render(png=png, coloured=picture.coloured, **names)


def png(content: Tensor | Path) -> str:
    """Return an image or a PNG file as a data URI."""
    raw = content.read_bytes() if isinstance(content, Path) else picture.png(picture.tile(content))
    return f"data:image/png;base64,{base64.b64encode(raw).decode()}"


def encoded(text: str) -> bytes:
    r"""Return the bytes of a text; names of runs and files that are not UTF-8 are escaped.

    Example:
        >>> encoded("run \udcff")
        b'run \\udcff'
    """
    return text.encode(errors="backslashreplace")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as a data URI."""
    return f"data:text/csv;base64,{base64.b64encode(encoded(csv_text(rows))).decode()}"


def _lines(words: str) -> list[list[str]]:
    """Return a text alternative as a table, a row for each line."""
    return [["picture"], *([line] for line in words.splitlines())]


def _policy(text: str) -> mixwell.BatchPolicy | None:
    """Return the policy of a run; None for plain training, and for a policy that is defined elsewhere."""
    try:
        found = mixwell.parse(text)
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, mixwell.BatchPolicy) else None


def strips(found: Sequence[Group]) -> Iterator[tuple[str, str, list[Column] | str]]:
    """Yield each part of each policy once: its name, the source of its images, and samples or the reason for none."""
    first: dict[tuple[str, str], Run] = {}
    for group in found:
        first.setdefault((group.recipe, group.policy), group.runs[0])
    for (_, name), run in first.items():
        policy = _policy(name)
        if policy is None:
            continue
        several = parts(policy)
        images, source = _images(run, 6)
        for part, when in several:
            try:
                yield when if len(several) > 1 else repr(part), source, columns(part, images, RATIOS, seed=0)
            except RunError as error:
                yield repr(part), source, str(error)


def seen(found: Sequence[Group]) -> Iterator[tuple[Group, Run, list[Seen]]]:
    """Yield each group, its first finished run, and the evidence that its model sees in mixed images.

    All models see the same images, mixed by the first policy among the groups that needs no model.
    """
    policies = [policy for group in found if (policy := _policy(group.policy))]
    policy = next((policy for policy in policies if without_model(policy) is policy), mixwell.CutMix())
    for group in found:
        run = next((run for run in group.finished if (run.path / "model.safetensors").is_file()), None)
        if run is None or run.measure != "top1":
            continue
        try:
            network = load(run.path)
            images, source = _images(run, SEEN + 1)
            if source == run.config.dataset:  # the classes of other pictures are unknown to the model
                yield group, run, on_mixed(network, images, policy, SEEN)
        except RunError:  # the report says what a run has, and not what it lacks
            continue


def _images(run: Run, count: int) -> tuple[Images, str]:
    """Return training images of a run and their source, or photographs if its data are not available."""
    try:
        found = data.load(run.config)
    except RunError:
        return samples.photographs(LARGEST), "two photographs (the data of the run are not available)"
    return samples.from_split(found.train, found.classes, count, LARGEST), run.config.dataset


def write(folder: Path, runs: Sequence[Run], command: str) -> list[Path]:
    """Write the results of some runs as ``table.md``, ``strip.png`` (a gallery on their data) and ``report.html``."""
    found, (images, _) = groups(runs), _images(runs[0], 2)
    drawn = gallery(drawable(images)[0], images, RATIOS, seed=0, side=GALLERY_SIDE)
    remarks = "".join(f"* {remark}\n" for remark in table.remarks(found))
    contents = {
        "table.md": encoded(f"{table.markdown(found)}\n{remarks}\nMade by `{command}`.\n"),
        "strip.png": picture.png(*drawn),
        "report.html": encoded(html(runs)),
    }
    for name, content in contents.items():
        save(folder / name, content)
    return [folder / name for name in contents]


def main(argv: Sequence[str]) -> None:
    """Write the report that the arguments ask for, and print its table.

    Raises:
        RunError: a run directory is missing or damaged, or the page cannot be written.
    """
    about = "Write one self-contained HTML page about some runs, and print the table of results."
    parser = Parser("mixwell report", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=expand, nargs="+", metavar="RUN", help="run directory, or a folder of them")
    parser.add_argument("--out", type=expand, default=Path("report.html"), metavar="HTML", help="output [report.html]")
    args = parser.parse_args(argv)
    runs = read_all(args.runs)
    save(args.out, encoded(html(runs)))
    table.show(groups(runs))
    print(f"report: {args.out}")
