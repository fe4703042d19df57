"""Write a page for every policy, from its docstring, the gallery and the measured costs. Run by ``make docs``.

``benchmarks/costs.py`` measures; this only repeats what it wrote to ``docs/policies/costs.json``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docstrings import cell, complete, markdown, read
from method_pictures import NO_PICTURE, PICTURES

import mixwell
from mixwell import BatchPolicy, CutMix, random_mix, switch_mix, until
from mixwell.report import samples
from mixwell.report.gallery import RATIOS, columns, drawable, in_words, parts, without_model
from mixwell.report.picture import framed, png, row
from mixwell.report.samples import Sample

FOLDER = Path(__file__).with_name("policies")
METHODS = tuple(sorted({*PICTURES, *NO_PICTURE}))  # where the model is entered
# What the functions that make a policy of others return, and how that is written.
SHORTHANDS: dict[str, tuple[str, BatchPolicy]] = {
    "random_mix": ("random_mix()", random_mix()),
    "switch_mix": ("switch_mix()", switch_mix()),
    "until": ("until(CutMix(), 0.9)", until(CutMix(), 0.9)),
}
# What there is to see beyond what is true of every picture.
REMARKS = {
    "PuzzleMix": "Contrast is spread all over the pictures, so that distance costs less here than by "
    "default: otherwise no cell would move. Bits of the roof and of the petals lie where they are not in their "
    "photograph.",
    "SaliencyMix": "The spectral residual peaks inside the flower; the default's peak is the flower's upper edge.",
    "SmoothMix": "With `fit=True` the width follows the ratio that is asked for; by default the width is drawn, and "
    "the ratio follows from it and from where the point lies.",
    "SnapMix": "The weights need not sum to one: a bar whose end is grey carries less than one label, and one whose "
    "numbers sum to more is drawn to the whole width.",
}
SIDE, SEED = 112, 2
LARGEST = 60_000  # of a picture (bytes)
INDEX = """\
# Policies

One page for each: the idea, a picture, the settings, what it costs, where it comes from, and what differs from the
authors' code. `make docs` writes them from the docstrings, and the costs from [costs.json](costs.json).
"""


class Pages:
    """What the pages are made of.

    Attributes:
        costs: What ``benchmarks/costs.py`` wrote.
        pictures: What is drawn of each policy that can be, with its columns.
        methods: What is drawn of the methods that can be, and the same in words.
        left_out: Why the others are not.
    """

    def __init__(self) -> None:
        self.costs: dict[str, Any] = json.loads((FOLDER / "costs.json").read_text(encoding="utf-8"))
        images = samples.photographs(SIDE)
        made, left_out = drawable(images)
        self.left_out = dict(reason.split(": ", 1) for reason in left_out)
        shown = {type(policy).__name__: policy for policy in made} | {
            key: made for key, (_, made) in SHORTHANDS.items()
        }
        self.pictures = {name: (policy, columns(policy, images, RATIOS, SEED)) for name, policy in shown.items()}
        self.methods = {name: draw(images) for name, (draw, _) in PICTURES.items()}
        self.names = (*mixwell.names("policy"), *mixwell.names("shorthand"), *METHODS)

    def texts(self) -> dict[str, str]:
        """Return the text of every page by its file's name."""
        return {"README.md": self.index(), **{f"{name}.md": self.page(name) for name in self.names}}

    def drawn(self) -> dict[str, bytes]:
        """Return every picture as PNG by its file's name."""
        found = self.methods | {
            name: (
                row([(caption.replace(": ", "\n", 1), sample) for caption, sample in drawn]),
                in_words(policy, drawn),
            )
            for name, (policy, drawn) in self.pictures.items()
        }
        return {f"{name}.png": png(framed(image, 12), words, limit=1) for name, (image, words) in found.items()}

    def told(self) -> dict[str, str]:
        """Return what every picture shows, in words, by its file's name."""
        found = {name: in_words(policy, row) for name, (policy, row) in self.pictures.items()}
        found |= {name: words for name, (_, words) in self.methods.items()}
        return {f"{name}.png": words for name, words in found.items()}

    def page(self, name: str) -> str:
        """Return the page of a policy, of a function that makes one, or of a method."""
        said = read(getattr(mixwell, name))
        blocks = [f"# {name}", *map(self._words, said.idea), *self._picture(name)]
        blocks += ["## Settings", self._settings(name, said.settings) if said.settings else "None."]
        cost = self._method_cost if name in METHODS else self._shorthand_cost if name in SHORTHANDS else self._cost
        blocks += ["## Cost", *cost(name)]
        if said.source:
            blocks += ["## Source", self._words(said.source)]
        if said.note:
            title = "Notes, and differences from the authors' code" if said.source else "Notes"
            blocks += [f"## {title}", self._words(said.note)]
        blocks += ["## Example", f"```pycon\n{complete(said.example)}```", "[All policies](README.md)"]
        return "\n\n".join(blocks) + "\n"

    def index(self) -> str:
        """Return the page that lists all others."""
        sizes = [_size(batch["shape"]) for batch in self.costs["batches"]]
        head = ["policy", "what it does", "extra forwards", "backwards", *(f"ms, {size}" for size in sizes)]
        rows = []
        for name in mixwell.names("policy"):
            cost = self.costs["policies"].get(name)
            found = (
                [f"{cost['forwards']:g}", f"{cost['backwards']:g}", *(f"{each['ms']:g}" for each in cost["batches"])]
                if cost
                else ["not measured", *[""] * (1 + len(sizes))]
            )
            rows.append([self._link(name), self._first(name), *found])
        shorthands = [
            [self._link(name), self._first(name), f"`{written}` is `{made!r}`"]
            for name, (written, made) in SHORTHANDS.items()
        ]
        return "\n".join(
            [
                INDEX,
                _table(head, rows),
                self._measured("Milliseconds per batch, the saliency pass included."),
                "\n## Functions that make one of these in a word\n",
                _table(["function", "what it does", "for example"], shorthands),
                "They cost what the policies cost that they choose from.",
                "\n## Methods that mix inside the model, or ask it for more\n",
                self._methods(sizes),
                self._measured("Milliseconds of a step, forward and backward, those of a plain step in brackets."),
                "",
            ]
        )

    def _methods(self, sizes: list[str]) -> str:
        head = ["method", "what it does", "extra forwards", "backwards", *(f"ms, {size}" for size in sizes)]
        rows = []
        for name in METHODS:
            cost = self.costs["methods"][name]
            times = [f"{each['ms']:g} ({each['plain_ms']:g})" for each in cost["batches"]]
            times += ["not measured"] * (len(sizes) - len(times))
            rows.append(
                [self._link(name), self._first(name), f"{cost['forwards']:g}", f"{cost['backwards']:g}", *times]
            )
        return _table(head, rows)

    def _first(self, name: str) -> str:
        return self._words(read(getattr(mixwell, name)).idea[0])

    def _picture(self, name: str) -> Iterator[str]:
        if name in self.pictures:
            policy, row = self.pictures[name]
            yield f"![{'; '.join(f'{words}: {sample}' for words, sample in row)}]({name}.png)"
            written = f"`{SHORTHANDS[name][0]}`, which is `{policy!r}`" if name in SHORTHANDS else f"`{policy!r}`"
            yield f"{written}: whose pixel it is, the mixed image, and how much of each label it carries."
            yield from filter(None, [" ".join(_remarks(name, policy, row))])
        elif name in self.methods:
            yield f"![{self.methods[name][1]}]({name}.png)"
            yield PICTURES[name][1]
        else:
            yield NO_PICTURE[name] if name in NO_PICTURE else f"No picture: {self.left_out[name]}"

    def _settings(self, name: str, meanings: dict[str, str]) -> str:
        given = inspect.signature(getattr(mixwell, name)).parameters
        rows = [[f"`{key}`", _default(given[key]), self._words(text)] for key, text in meanings.items()]
        return _table(["setting", "default", "meaning"], rows).rstrip()

    def _cost(self, name: str) -> Iterator[str]:
        cost = self.costs["policies"].get(name)
        if cost is None:
            yield "Not measured."
            return
        given = "given_ms" in cost["batches"][0]
        whose = " (or of the network that it asks instead)" * (cost["forwards"] > 0)
        yield f"Extra passes of the model{whose}: {cost['forwards']:g} forward, {cost['backwards']:g} backward."
        mixing = ["mixing with its saliency", "mixing alone"] if given else ["mixing"]
        head = ["batch, float32", *mixing, "plain copy"]
        rows = [
            [
                _size(batch["shape"]) + (f", {batch['model']}" if cost["forwards"] else ""),
                *(f"{times[key]:g} ms" for key in ("ms", "given_ms")[: 1 + given]),
                f"{batch['copy_ms']:g} ms",
            ]
            for batch, times in zip(self.costs["batches"], cost["batches"], strict=True)
        ]
        yield _table(head, rows).rstrip()
        yield self._measured(f"`{cost['policy']}`, per batch, into a reused buffer.")

    def _shorthand_cost(self, name: str) -> Iterator[str]:
        found = [
            f"{self._link(type(part).__name__)} ({words.split(': ')[0]})" for part, words in parts(SHORTHANDS[name][1])
        ]
        yield f"That of the policies in the picture: {', '.join(found)}."

    def _method_cost(self, name: str) -> Iterator[str]:
        cost = self.costs["methods"][name]
        yield f"Extra passes of the model, in batches: {cost['forwards']:g} forward, {cost['backwards']:g} backward."
        rows = []
        for place, batch in enumerate(self.costs["batches"]):
            times = cost["batches"][place : place + 1]
            told = [f"{each[key]:g} ms" for each in times for key in ("ms", "plain_ms")] or ["not measured", ""]
            rows.append([f"{_size(batch['shape'])}, {batch['model']}", *told])
        yield _table(["batch, float32", "a step forward and backward", "a plain one"], rows).rstrip()
        yield self._measured("Per batch.")

    def _measured(self, words: str) -> str:
        about = self.costs["machine"]
        return (
            f"{words} {about['clock'].capitalize()} with torch {about['torch']} on {about['threads']} thread"
            f"{'s' * (about['threads'] > 1)} of {about['cpu']} at a system load of {about['load']:g}, {about['date']}: "
            f"`{about['command']}`."
        )

    def _words(self, text: str) -> str:
        return markdown(text, self._link)

    def _link(self, name: str) -> str:
        return f"[`{name}`]({name}.md)" if name in self.names else f"`{name}`"


def _remarks(name: str, policy: BatchPolicy, row: Sequence[tuple[str, Sample]]) -> Iterator[str]:
    """Say what a reader needs to know to understand a picture."""
    if any(words.startswith("lam") and abs(sample.lam - sample.weights[0]) > 0.005 for words, sample in row):
        yield (
            "`lam` is the share of the anchor that was drawn; the bar is what its label weighs, which follows what "
            "the mixed image really shows."
        )
    if name in REMARKS:
        yield REMARKS[name]
    if hasattr(policy, "saliency") and without_model(default := mixwell.parse(name)) != default:
        yield "The picture has no model, so the images' contrast is the saliency."


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "needed"
    return f"`{getattr(parameter.default, '__name__', repr(parameter.default))}`"


def _size(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def main() -> None:
    """Write all pages and pictures, and remove those of policies that are no more."""
    pages = Pages()
    texts, pictures = pages.texts(), pages.drawn()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for name, content in pictures.items():
        (FOLDER / name).write_bytes(content)
    for path in FOLDER.iterdir():
        if re.fullmatch(r".*\.(md|png)", path.name) and path.name not in {*texts, *pictures}:
            path.unlink()


if __name__ == "__main__":
    main()
