"""The pages of policies and methods are current."""

from __future__ import annotations

import doctest
import inspect
import json
import re
import runpy
from functools import partial
from pathlib import Path

import make_pages
import method_pictures
import pytest
import torch
from docstrings import complete, markdown, read
from PIL import Image

import mixwell as mw
from mixwell import models
from mixwell.report import samples

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NAMES = tuple(make_pages.FOLDER_OF)
UNDRAWN = {"LearnedMask", "SuperMix", *method_pictures.NO_PICTURE}
NEEDS = "run 'make pages'"


@pytest.fixture(scope="module")
def pages() -> make_pages.Pages:
    """Return texts and pictures of the pages."""
    return make_pages.Pages()


def test_texts_are_current(pages: make_pages.Pages) -> None:
    """Every page agrees with its docstring, and there are no pages of classes that no longer exist."""
    texts = pages.texts()
    found = {f"{folder}/{path.name}" for folder in make_pages.FOLDERS for path in (DOCS / folder).glob("*.md")}
    assert set(texts) == found | {"gallery.md"} and len(texts) == len(NAMES) + len(make_pages.FOLDERS) + 1, NEEDS
    old = [name for name, text in texts.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not old, f"not current: {NEEDS}"


def test_pictures_are_current_and_small(pages: make_pages.Pages) -> None:
    """Every picture shows current weights, is small, and is on its page and in the gallery."""
    words, gallery = pages.descriptions(), (DOCS / "gallery.md").read_text(encoding="utf-8")
    found = {f"{folder}/{path.name}": path for folder in make_pages.FOLDERS for path in (DOCS / folder).glob("*.png")}
    assert set(words) == set(found), NEEDS
    assert {name for name, folder in make_pages.FOLDER_OF.items() if f"{folder}/{name}.png" not in words} == UNDRAWN
    for name, path in found.items():
        with Image.open(path) as picture:
            assert picture.info["Description"] == words[name], f"{name}: {NEEDS}"
            assert min(picture.size) > make_pages.SIDE
        assert path.stat().st_size < make_pages.LARGEST
        assert f"]({path.name})" in path.with_suffix(".md").read_text(encoding="utf-8")
        assert f"]({name})" in gallery
    assert sum(path.stat().st_size for path in found.values()) < 1_000_000


@pytest.mark.parametrize("folder", make_pages.FOLDERS)
def test_links_lead_somewhere(folder: str) -> None:
    """Every file that a page refers to exists, and the index refers to every page."""
    for path in (DOCS / folder).glob("*.md"):
        links = set(re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")))
        assert all((path.parent / link).exists() for link in links), path.name
        if path.name == "README.md":
            assert {f"{name}.md" for name, other in make_pages.FOLDER_OF.items() if other == folder} <= links


@pytest.mark.parametrize("name", NAMES)
def test_page_is_complete(name: str) -> None:
    """A page explains every setting of the class, and its example runs unchanged."""
    path = DOCS / make_pages.FOLDER_OF[name] / f"{name}.md"
    text = path.read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \| \S.* \| \S.* \|$", text, re.MULTILINE)
    assert sorted(explained) == sorted(inspect.signature(getattr(mw, name)).parameters)
    assert not re.search(r":\w+:`|(?<!`)``(?!`)|\| See `", text), "markup of a docstring is left"
    assert path.with_suffix(".png").exists() != ("\nNo picture: " in text), "a picture, or the reason for none"
    if name not in ("Mixing", "NoMix", "OneOf", "Sometimes", "Switch", "until"):  # without a paper
        assert "## Source\n" in text
    assert ("authors' code\n" in text) == bool(read(getattr(mw, name)).note and read(getattr(mw, name)).source)
    (example,) = re.findall(r"```pycon\n(.*?)```", text, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(example, {}, name, None, 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert test.examples
    assert doctest.DocTestRunner(verbose=False, optionflags=flags).run(test).failed == 0


def test_costs_count_right(tmp_path: Path) -> None:
    """Policies and methods run the model as often as the pages state."""
    whole = json.loads((DOCS / "policies" / "costs.json").read_text(encoding="utf-8"))
    kept = whole["policies"]
    script = runpy.run_path(str(ROOT / "benchmarks" / "costs.py"))
    model = models.build("mini_resnet", 10)
    now = script["runs_of"](script["policies"](model, "mini_resnet", 32, tmp_path), model)
    once = {"AttentiveMix": (1, 0), "LearnedMask": (1, 0), "PuzzleMix": (1, 1), "SnapMix": (1, 0)}
    never = dict.fromkeys(("CutMix", "GuidedMix", "MixUp", "OneOf", "SaliencyMix"), (0, 0))
    for costs in (now, kept):
        runs = {name: (cost["forwards"], cost["backwards"]) for name, cost in costs.items()}
        assert runs | once | never == runs
    for name, cost in kept.items():
        again = "run 'python benchmarks/costs.py', then 'make pages'"
        assert (now[name]["forwards"], now[name]["backwards"]) == (cost["forwards"], cost["backwards"]), again
        assert len(cost["batches"]) == 2 and all(times["ms"] > 0 for times in cost["batches"]), name
    passes = {"AlignMix": 0, "AugMix": 2, "GridLoss": 0, "HiddenMix": 0, "PerturbedMixing": 1, "RegMixup": 1}
    extra = {name: (number, number) for name, number in passes.items()} | {
        "RegionLoss": (2, 0)
    }  # clean images, saliency
    for costs in (script["runs_of_methods"]("mini_resnet", ()), whole["methods"]):
        assert {name: (cost["forwards"], cost["backwards"]) for name, cost in costs.items()} == extra


def test_pictures_of_methods_show_what_the_network_sees() -> None:
    """Views are augmented images, RegMixup's batch is twice as large, noise is within its bound."""
    images = samples.photographs(32)
    before = torch.get_rng_state()
    views = method_pictures.shown(mw.AugMix, images)
    assert torch.equal(views[:2], images.pixels) and not torch.equal(views[2:4], views[4:])
    twice = method_pictures.shown(mw.RegMixup, images)
    assert len(twice) == 4 and torch.equal(twice[:2], images.pixels)
    policy = mw.CutMix(pairing=mw.Roll())
    seen = method_pictures.shown(partial(mw.GridLoss, policy=policy, num_classes=2), images)
    assert torch.equal(seen[0], method_pictures.drawn_by(policy, images)[0].mixed)
    noisy = method_pictures.shown(partial(mw.PerturbedMixing, policy=mw.NoMix(), p=1.0), images)
    assert 0 < (noisy - images.pixels).abs().max() * 255 < 10.01
    assert torch.equal(torch.get_rng_state(), before)


def test_examples_of_functions_are_what_the_pages_say() -> None:
    """The call that a page shows gives the policy that it draws."""
    for name, (written, made) in make_pages.SHORTHANDS.items():
        assert mw.parse(written) == made and written.startswith(name)
    assert list(make_pages.SHORTHANDS) == mw.names("shorthand")


def test_docstrings_are_taken_apart() -> None:
    """Every part is found, in one line, and references to other classes are resolved."""

    class Halves(mw.Policy):
        """Take one half of each.

        Twice: see
        :class:`CutMix`.

        Args:
            alpha: Law of ``lam``,
                over two lines.
            pairing: See :class:`Policy`.
            scope: See :class:`Policy`; here without effect.

        Note: none.

        Source: nobody,
        nowhere.

        Example:
            >>> from mixwell import CutMix
            >>> pair = [
            ...     torch.tensor(1),
            ...     CutMix(),
            ... ]
            >>> pair[0]
            tensor(1)
        """

    said = read(Halves)
    assert said.idea == ("Take one half of each.", "Twice: see :class:`CutMix`.")
    assert (said.note, said.source) == ("None.", "nobody, nowhere.")
    assert said.settings["alpha"] == "Law of ``lam``, over two lines."
    assert said.settings["pairing"] == "How partners are chosen."
    assert said.settings["scope"].startswith("How often to draw: once per") and said.settings["scope"].endswith(
        " Here without effect."
    )
    assert markdown("a ``b`` :class:`~mixwell.C`", lambda name: f"[{name}]") == "a `b` [mixwell.C]"
    lines = [">>> import torch", ">>> from mixwell import CutMix", ">>> pair = [", "...     torch.tensor(1),"]
    lines += ["...     CutMix(),", "... ]", ">>> pair[0]", "tensor(1)", ""]
    assert complete(said.example) == "\n".join(lines)
