"""Write a page for every policy, from its docstring, the gallery and the measured costs. Run by ``make docs``.

``benchmarks/costs.py`` measures; this only repeats what it wrote to ``docs/policies/costs.json``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docstrings import cell, complete, markdown, read

import mixwell
from mixwell.train import samples
from mixwell.train.gallery import RATIOS, banner, columns, drawable, in_words
from mixwell.train.picture import png

FOLDER = Path(__file__).with_name("policies")
METHODS = ("AlignMix", "AugMix", "GridLoss", "HiddenMix", "PerturbedMixing", "RegMixup")  # where the model is entered
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
        left_out: Why the others are not.
    """

    def __init__(self) -> None:
        self.costs: dict[str, Any] = json.loads((FOLDER / "costs.json").read_text(encoding="utf-8"))
        images = samples.photographs(SIDE)
        made, left_out = drawable(images)
        self.left_out = dict(reason.split(": ", 1) for reason in left_out)
        self.pictures = {type(policy).__name__: (policy, columns(policy, images, RATIOS, SEED)) for policy in made}
        self.names = (*mixwell.names("policy"), *METHODS)

    def texts(self) -> dict[str, str]:
        """Return the text of every page by its file's name."""
        return {"README.md": self.index(), **{f"{name}.md": self.page(name) for name in self.names}}

    def drawn(self) -> dict[str, bytes]:
        """Return every picture as PNG by its file's name."""
        found = {}
        for name, (policy, row) in self.pictures.items():
            canvas, told = banner(policy, row)
            found[f"{name}.png"] = png(canvas.image(margin=12), told, limit=1)
        return found

    def told(self) -> dict[str, str]:
        """Return what every picture shows, in words, by its file's name."""
        return {f"{name}.png": in_words(policy, row) for name, (policy, row) in self.pictures.items()}

    def page(self, name: str) -> str:
        """Return the page of a policy or method."""
        said = read(getattr(mixwell, name))
        blocks = [f"# {name}", *map(self._words, said.idea), *self._picture(name)]
        blocks += ["## Settings", self._settings(name, said.settings) if said.settings else "None."]
        blocks += ["## Cost", *(self._method_cost(name) if name in METHODS else self._cost(name))]
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
            rows.append([self._link(name), self._words(read(getattr(mixwell, name)).idea[0]), *found])
        methods = [[self._link(name), self._words(read(getattr(mixwell, name)).idea[0])] for name in METHODS]
        return "\n".join(
            [
                INDEX,
                _table(head, rows),
                self._measured("Milliseconds per batch, the saliency pass included."),
                "\n## Methods that mix inside the model, or ask it for more\n",
                _table(["method", "what it does"], methods),
            ]
        )

    def _picture(self, name: str) -> Iterator[str]:
        if name in self.pictures:
            policy, row = self.pictures[name]
            yield f"![{'; '.join(f'{words}: {sample}' for words, sample in row)}]({name}.png)"
            shown = f"`{policy!r}`: whose pixel it is, the mixed image, and how much of each label it carries."
            borrowed = hasattr(policy, "saliency") and policy != mixwell.parse(name)
            yield shown + " The picture has no model, so the images' contrast is the saliency." * borrowed
        elif name in self.left_out:
            yield f"No picture: {self.left_out[name]}"

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

    def _method_cost(self, name: str) -> Iterator[str]:
        cost, batch = self.costs["methods"][name], self.costs["batches"][0]
        yield f"Extra passes of the model, in batches: {cost['forwards']:g} forward, {cost['backwards']:g} backward."
        yield self._measured(
            f"A step forward and backward takes {cost['ms']:g} ms, a plain one {cost['plain_ms']:g} ms, on "
            f"{_size(batch['shape'])} with {batch['model']}."
        )

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
