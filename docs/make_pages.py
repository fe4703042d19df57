"""Write a page for every policy and method, from docstring, picture and costs, and the gallery. Run by ``make pages``.

``benchmarks/costs.py`` measures the costs and writes them to ``docs/policies/costs.json``; this script reads that file.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

from docstrings import markdown, read, table
from method_pictures import NO_PICTURE, PICTURES
from page_costs import Costs

import mixwell
from mixwell import BatchPolicy, CutMix, random_mix, switch_mix, until
from mixwell.report import samples
from mixwell.report.gallery import RATIOS, columns, drawable, in_words, parts, without_model
from mixwell.report.picture import framed, png, row
from mixwell.report.samples import Sample

DOCS = Path(__file__).parent
FOLDERS = {"policies": ("policy", "shorthand"), "methods": ("method",)}  # the kinds that have pages in each folder
FOLDER_OF = {name: folder for folder, kinds in FOLDERS.items() for kind in kinds for name in mixwell.names(kind)}
# What the functions that build a policy of others return, and a call that does so.
SHORTHANDS: dict[str, tuple[str, BatchPolicy]] = {
    "random_mix": ("random_mix()", random_mix()),
    "switch_mix": ("switch_mix()", switch_mix()),
    "until": ("until(CutMix(), 0.9)", until(CutMix(), 0.9)),
}
# Explanations of single pictures.
REMARKS = {
    "CoMixup": "The picture has a group of two images and one sweep. By default a group has up to 20 images, and "
    "most mixed images show two to four of them.",
    "MergeMix": "The map is as coarse as the patches of a transformer: 16 x 16.",
    "PuzzleMix": "The picture has a smaller `transport_eps` than the default, because image contrast is spread over "
    "the whole image; with the default no cell would move. Some parts of the roof and of the petals "
    "are moved.",
    "SaliencyMix": "With the spectral residual the box lies inside the flower; with the default saliency it lies at "
    "the flower's upper edge.",
    "SmoothMix": "With `fit=True` the width of the mask follows the drawn ratio. By default the width is drawn, and "
    "the ratio follows from the width and from the position of the centre.",
    "SnapMix": "The label weights of an image need not sum to one. A bar with a grey end has weights that sum to less "
    "than one; where they sum to more, the bar is full.",
}
# Pages that say more than a docstring.
FURTHER = {
    "SUMix": "[SUMix](../sumix.md) explains the formulas and compares them with the released code.",
    **dict.fromkeys(
        ("AdAutoMix", "AutoMix", "SAMix", "SAMixPretrained"),
        "[AutoMix](../automix.md) explains the training step and compares it with the released code.",
    ),
}
SIDE, SEED = 112, 2
LARGEST = 60_000  # size limit of a picture (bytes)
POLICIES = """\
# Policies

One page per policy: what it does, a picture, its settings, its cost, its source, and the differences from the authors'
code. `make pages` writes the pages from the docstrings, and the costs from [costs.json](costs.json).
"""
METHODS = """\
# Methods

A method is a training step around a classifier: it mixes, runs the model, and returns the loss. One page per method:
what it does, its settings, its cost, its source, and the differences from the authors' code. `make pages` writes the
pages from the docstrings. [Your own loop](../your-own-loop.md) shows how to call a method.
"""
GALLERY = """\
# Gallery

Every policy and method on the same two photographs, the first of them as the anchor. From top in each picture: which
image each pixel comes from (the anchor is blue), the mixed image, and the label weights. Each title leads to the page
with settings, cost and source. `mixwell show POLICY --images FOLDER` draws a policy on your own images, and
`mixwell show all` draws all of them in one picture.

The photographs ship with scikit-learn: `china.jpg` by
[danielbuechele](https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/) and `flower.jpg` by
[vultilion](https://www.flickr.com/photos/vultilion/6056698931/sizes/z/in/photostream/), both under
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/). Here they are cropped, scaled and mixed.
"""


class Pages:
    """Texts and pictures of all pages.

    Attributes:
        costs: The measured costs.
        pictures: The policies that can be drawn, with the columns of their pictures.
        methods: The pictures of methods, with their text alternatives.
        reasons: Why the other policies are not drawn.
    """

    def __init__(self) -> None:
        self.costs = Costs()
        images = samples.photographs(SIDE)
        made, reasons = drawable(images)
        self.reasons = dict(reason.split(": ", 1) for reason in reasons)
        shown = {type(policy).__name__: policy for policy in made} | {
            key: made for key, (_, made) in SHORTHANDS.items()
        }
        self.pictures = {name: (policy, columns(policy, images, RATIOS, SEED)) for name, policy in shown.items()}
        self.methods = {name: draw(images) for name, (draw, _) in PICTURES.items()}

    def texts(self) -> dict[str, str]:
        """Return the text of every page by its path below ``docs``."""
        indices = {"policies/README.md": self.index_of_policies(), "methods/README.md": self.index_of_methods()}
        pages = {f"{folder}/{name}.md": self.page(name) for name, folder in FOLDER_OF.items()}
        return indices | pages | {"gallery.md": self.gallery()}

    def drawn(self) -> dict[str, bytes]:
        """Return every picture as PNG by its path below ``docs``."""
        found = self.methods | {
            name: (
                row([(caption.replace(": ", "\n", 1), sample) for caption, sample in drawn]),
                in_words(policy, drawn),
            )
            for name, (policy, drawn) in self.pictures.items()
        }
        return {_picture(name): png(framed(image, 12), words, limit=1) for name, (image, words) in found.items()}

    def descriptions(self) -> dict[str, str]:
        """Return the text alternative of every picture by its path below ``docs``."""
        found = {name: in_words(policy, row) for name, (policy, row) in self.pictures.items()}
        found |= {name: words for name, (_, words) in self.methods.items()}
        return {_picture(name): words for name, words in found.items()}

    def page(self, name: str) -> str:
        """Return the page of a policy, of a function that returns one, or of a method."""
        doc, here = read(getattr(mixwell, name)), FOLDER_OF[name]
        blocks = [f"# {name}", *(_words(paragraph, here) for paragraph in doc.idea)]
        blocks += filter(None, [FURTHER.get(name)])
        blocks += [*self._picture(name), "## Settings", _settings(name, doc.settings) if doc.settings else "None."]
        blocks += ["## Cost", *self._cost(name)]
        if doc.source:
            blocks += ["## Source", _words(doc.source, here)]
        if doc.note:
            title = "Notes, and differences from the authors' code" if doc.source else "Notes"
            blocks += [f"## {title}", _words(doc.note, here)]
        blocks += ["## Example", f"```pycon\n{doc.complete_example}```", f"[All {here}](README.md)"]
        return "\n\n".join(blocks) + "\n"

    def index_of_policies(self) -> str:
        """Return the page that lists the policies."""
        head = ["policy", "what it does", *self.costs.titles]
        rows = [[_link(name, "policies"), _first(name), *self.costs.cells(name)] for name in mixwell.names("policy")]
        shorthands = [
            [_link(name, "policies"), _first(name), f"`{written}` is `{made!r}`"]
            for name, (written, made) in SHORTHANDS.items()
        ]
        return "\n".join(
            [
                POLICIES,
                table(head, rows),
                self.costs.measured("Time per batch in milliseconds, saliency included."),
                "\n## Functions that return a combination of policies\n",
                table(["function", "what it does", "for example"], shorthands),
                "They cost as much as the policies that they choose from.\n",
            ]
        )

    def index_of_methods(self) -> str:
        """Return the page that lists the methods."""
        head = ["method", "what it does", *self.costs.titles]
        known = [name for name in mixwell.names("method") if name in self.costs.methods]
        rows = [[_link(name, "methods"), _first(name), *self.costs.cells(name)] for name in known]
        others = [
            [_link(name, "methods"), _first(name), next(iter(self._cost(name)))]
            for name in mixwell.names("method")
            if name not in known
        ]
        return "\n".join(
            [
                METHODS,
                table(["method", "what it does", "cost"], others),
                table(head, rows),
                self.costs.measured(
                    "Time of forward and backward pass per batch in milliseconds; in brackets, without mixing."
                ),
                "",
            ]
        )

    def gallery(self) -> str:
        """Return the page that shows all pictures."""
        blocks = [GALLERY.rstrip()]
        for title, drawn in (("Policies", self.pictures), ("Methods", self.methods)):
            blocks.append(f"## {title}")
            for name in drawn:
                path = _picture(name)
                blocks.append(f"### [{name}]({path.removesuffix('.png')}.md)")
                blocks.append(f"{_words(read(getattr(mixwell, name)).idea[0], '.')}")
                blocks.append(f"![{self.descriptions()[path].splitlines()[0]}]({path})")
        return "\n\n".join(blocks) + "\n"

    def _picture(self, name: str) -> Iterator[str]:
        if name in self.pictures:
            policy, row = self.pictures[name]
            yield f"![{'; '.join(f'{words}: {sample}' for words, sample in row)}]({name}.png)"
            written = f"`{SHORTHANDS[name][0]}`, which is `{policy!r}`" if name in SHORTHANDS else f"`{policy!r}`"
            yield f"{written}. From top: which image each pixel comes from, the mixed image, the label weights."
            yield from filter(None, [" ".join(_remarks(name, policy, row))])
        elif name in self.methods:
            yield f"![{self.methods[name][1]}]({name}.png)"
            yield PICTURES[name][1]
        else:
            yield NO_PICTURE[name] if name in NO_PICTURE else f"No picture: {self.reasons[name]}"

    def _cost(self, name: str) -> Iterator[str]:
        if name in SHORTHANDS:
            used = [
                f"{_link(type(part).__name__, 'policies')} ({words.split(': ')[0]})"
                for part, words in parts(SHORTHANDS[name][1])
            ]
            return iter([f"The cost of the policies in the picture: {', '.join(used)}."])
        return self.costs.of_method(name) if FOLDER_OF[name] == "methods" else self.costs.of_policy(name)


def _picture(name: str) -> str:
    return f"{FOLDER_OF[name]}/{name}.png"


def _words(text: str, here: str) -> str:
    return markdown(text, lambda name: _link(name, here))


def _link(name: str, here: str) -> str:
    """Return the name of a class as a link to its page, if it has one, from a page in a folder."""
    there = FOLDER_OF.get(name)
    if there is None:
        return f"`{name}`"
    up = {there: "", ".": f"{there}/"}.get(here, f"../{there}/")
    return f"[`{name}`]({up}{name}.md)"


def _first(name: str) -> str:
    return _words(read(getattr(mixwell, name)).idea[0], FOLDER_OF[name])


def _settings(name: str, meanings: dict[str, str]) -> str:
    given = inspect.signature(getattr(mixwell, name)).parameters
    rows = [[f"`{key}`", _default(given[key]), _words(text, FOLDER_OF[name])] for key, text in meanings.items()]
    return table(["setting", "default", "meaning"], rows).rstrip()


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty or repr(parameter.default) == "<factory>":
        return "required"
    return f"`{getattr(parameter.default, '__name__', repr(parameter.default))}`"


def _remarks(name: str, policy: BatchPolicy, row: Sequence[tuple[str, Sample]]) -> Iterator[str]:
    """Yield the sentences that explain a picture."""
    if any(words.startswith("lam") and abs(sample.lam - sample.weights[0]) > 0.005 for words, sample in row):
        yield "`lam` is the drawn share of the anchor; the bar shows the label weights that the policy computes."
    if name in REMARKS:
        yield REMARKS[name]
    if hasattr(policy, "saliency") and without_model(default := mixwell.parse(name)) != default:
        yield "The picture is drawn without a model, so that image contrast is the saliency."


def main() -> None:
    """Write all pages and pictures, and remove those of policies and methods that no longer exist."""
    pages = Pages()
    texts, pictures = pages.texts(), pages.drawn()
    for folder in FOLDERS:
        (DOCS / folder).mkdir(exist_ok=True)
        for path in (DOCS / folder).iterdir():
            if path.suffix in (".md", ".png"):
                path.unlink()
    for name, text in texts.items():
        (DOCS / name).write_text(text, encoding="utf-8")
    for name, content in pictures.items():
        (DOCS / name).write_bytes(content)


if __name__ == "__main__":
    main()
