"""The pages of the policies say what the code says today."""

from __future__ import annotations

import doctest
import inspect
import json
import re
import runpy
from functools import partial
from pathlib import Path

import make_policies
import method_pictures
import pytest
import torch
from docstrings import complete, markdown, read
from PIL import Image

import mixwell as mw
from mixwell import models
from mixwell.train import samples

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "policies"
NAMES = (*mw.names("policy"), *mw.names("shorthand"), *make_policies.METHODS)
NEEDS = "run 'make docs'"


@pytest.fixture(scope="module")
def pages() -> make_policies.Pages:
    """Return what the pages are made of."""
    return make_policies.Pages()


def test_texts_are_current(pages: make_policies.Pages) -> None:
    """Nobody has to remember to run ``make docs``, and no page outlives its policy."""
    texts = pages.texts()
    assert {f"{name}.md" for name in NAMES} | {"README.md"} == set(texts) == {p.name for p in FOLDER.glob("*.md")}, (
        NEEDS
    )
    old = [name for name, text in texts.items() if (FOLDER / name).read_text(encoding="utf-8") != text]
    assert not old, f"behind the docstrings or the costs: {NEEDS}"


def test_pictures_are_current_and_small(pages: make_policies.Pages) -> None:
    """Every picture shows today's weights, costs its reader little, and is on its page."""
    told, found = pages.told(), {path.name: path for path in FOLDER.glob("*.png")}
    assert set(told) == set(found), NEEDS
    assert {name for name in NAMES if f"{name}.png" not in told} == {"LearnedMask", "AlignMix", "HiddenMix"}
    for name, path in found.items():
        with Image.open(path) as picture:
            assert picture.info["Description"] == told[name], f"{name}: {NEEDS}"
            assert picture.width > picture.height > make_policies.SIDE
        assert path.stat().st_size < make_policies.LARGEST
        assert f"]({name})" in path.with_suffix(".md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in found.values()) < 1_000_000


@pytest.mark.parametrize("name", ["README", *NAMES])
def test_links_lead_somewhere(name: str) -> None:
    """Every file that a page points at is there, and the index points at every page."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
    assert all((FOLDER / link).exists() for link in links)
    if name == "README":
        assert {f"{other}.md" for other in NAMES} <= links


@pytest.mark.parametrize("name", NAMES)
def test_page_is_complete(name: str) -> None:
    """A page explains every setting that the code has, and its example runs as it stands."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \| \S.* \| \S.* \|$", text, re.MULTILINE)
    assert sorted(explained) == sorted(inspect.signature(getattr(mw, name)).parameters)
    assert not re.search(r":\w+:`|(?<!`)``(?!`)|\| See `", text), "markup of a docstring is left"
    assert (FOLDER / f"{name}.png").exists() != ("\nNo picture: " in text), "a picture, or why there is none"
    if name not in ("NoMix", "OneOf", "Sometimes", "Switch", "until"):  # from no paper
        assert "## Source\n" in text and "authors' code\n" in text
    (example,) = re.findall(r"```pycon\n(.*?)```", text, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(example, {}, name, None, 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert test.examples
    assert doctest.DocTestRunner(verbose=False, optionflags=flags).run(test).failed == 0


def test_costs_count_right(tmp_path: Path) -> None:
    """Today's policies run the model as often as was counted, which is as often as they must."""
    whole = json.loads((FOLDER / "costs.json").read_text(encoding="utf-8"))
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
        again = "run 'python benchmarks/costs.py', then 'make docs'"
        assert (now[name]["forwards"], now[name]["backwards"]) == (cost["forwards"], cost["backwards"]), again
        assert len(cost["batches"]) == 2 and all(times["ms"] > 0 for times in cost["batches"]), name
    passes = {"AlignMix": 0, "AugMix": 2, "GridLoss": 0, "HiddenMix": 0, "PerturbedMixing": 1, "RegMixup": 1}
    for costs in (script["runs_of_methods"]("mini_resnet"), whole["methods"]):
        assert {name: (cost["forwards"], cost["backwards"]) for name, cost in costs.items()} == {
            name: (extra, extra) for name, extra in passes.items()
        }


def test_pictures_of_methods_show_what_the_network_sees() -> None:
    """Views are augmented images, RegMixup's batch is twice as large, noise stays within its bound."""
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
    """What a page writes in one word reads back as what it draws."""
    for name, (written, made) in make_policies.SHORTHANDS.items():
        assert mw.parse(written) == made and written.startswith(name)
    assert list(make_policies.SHORTHANDS) == mw.names("shorthand")


def test_docstrings_are_taken_apart() -> None:
    """Every part is found, in one line, and what stands elsewhere is put in."""

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
    assert said.settings["pairing"] == "Who is mixed with whom."
    assert said.settings["scope"].startswith("How often to draw: once per") and said.settings["scope"].endswith(
        " Here without effect."
    )
    assert markdown("a ``b`` :class:`~mixwell.C`", lambda name: f"[{name}]") == "a `b` [mixwell.C]"
    lines = [">>> import torch", ">>> from mixwell import CutMix", ">>> pair = [", "...     torch.tensor(1),"]
    lines += ["...     CutMix(),", "... ]", ">>> pair[0]", "tensor(1)", ""]
    assert complete(said.example) == "\n".join(lines)
