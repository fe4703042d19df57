"""Pictures show the pixels and weights of the plans."""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixwell import (
    IMAGENET,
    BatchPolicy,
    Constant,
    CutMix,
    FineGrained,
    FMix,
    GuidedMix,
    Linear,
    MixUp,
    NoMix,
    OneOf,
    PuzzleMix,
    ResizeMix,
    Roll,
    SmoothMix,
    Sometimes,
    Switch,
    models,
    names,
)
from mixwell.features.attention import AttentionHook
from mixwell.report import gallery, samples, show
from mixwell.report.picture import MIN_COLUMN, SOURCES, coloured
from mixwell.train.errors import RunError
from test_picture import as_bytes, place

SIZE = 40
DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three noisy images in two classes."""
    noise = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def drawn(folder: Path, policy: str, *more: str) -> tuple[np.ndarray, str]:
    """Draw a policy on the folder; return the picture and what it says of itself."""
    out = folder.parent / "deep" / "grid.png"
    show.main([policy, "--images", str(folder), "--size", str(SIZE), "--out", str(out), *more])
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB")), image.info["Description"]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("policy", "law"),
    [(CutMix(), float), (FMix(alpha=0.2), float), (MixUp(), float), (ResizeMix(), lambda lam: math.sqrt(1 - lam))],
    ids=["cutmix", "fmix", "mixup", "resizemix"],
)
def test_pixels_and_weights(folder: Path, policy: BatchPolicy, law: Callable[[float], float], ratio: float) -> None:
    """Mixed image, clean images, bar and description agree with the plan."""
    image, description = drawn(folder, repr(policy), "--ratios", str(ratio), "--seed", "3", "--count", "1")
    clean = samples.from_folder(folder, 2, SIZE, seed=3)
    fixed = replace(policy, alpha=Constant(law(ratio)), pairing=Roll())
    plan = fixed.draw(clean.pixels, clean.labels, generator=torch.Generator().manual_seed(3))
    mixed = plan.apply(clean.pixels)
    for pixels in (mixed[0], *clean.pixels):
        place(image, as_bytes(pixels))
    y, x = place(image, as_bytes(mixed[0]))
    drawn_bar = image[y + SIZE + 10, x : x + MIN_COLUMN]
    for k, weight in enumerate(plan.weights[0].tolist()):
        colour = [int(SOURCES[k][i : i + 2], 16) for i in (1, 3, 5)]
        assert (drawn_bar == colour).all(-1).sum() == pytest.approx(weight * MIN_COLUMN, abs=1)
        assert f"{clean.names[clean.labels[plan.sources[0, k]]]} {weight:.2f}" in description
    assert f"lam {ratio:.2f}:" in description
    share = plan.share((SIZE, SIZE))[0, 0] > 0.999
    pure = np.where(share[..., None].numpy(), [0x00, 0x72, 0xB2], [0xE6, 0x9F, 0x00]).astype(np.uint8)
    if plan.share((SIZE, SIZE)).frac().any():  # a blend has no pure colours
        assert isinstance(policy, MixUp)
    else:
        place(image, pure)


def test_label_policies_beside_the_area(folder: Path) -> None:
    """Share, evidence and weights are those of the plan; a constant map gives the area, a transformer its attention."""
    name = "timm/vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2)"
    labels = ["ActivationShare()", "SaliencyShare(SpectralResidual())", "AttentionShare(area=0.0)", "PixelShare()"]
    more = ("--network", name, "--ratios", "0.3", "--count", "1", "--size", "32", "--label", *labels)
    image, description = drawn(folder, "CutMix", *more)
    clean = samples.from_folder(folder, 2, 32)
    plan = samples.plans_at_ratios(CutMix(), clean, [0.3], 0)[0]
    (sample,) = samples.of_plan(plan, clean, [0])
    place(image, as_bytes(sample.mixed))
    assert f"by area: {sample}" in description and f"PixelShare(): {sample}" in description
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = models.build(name, 1000).eval()
        pixels = IMAGENET.normalize(clean.pixels)
        with (hook := AttentionHook(model)):
            model(plan.apply(pixels))
        attention = hook.take(pixels)
    patch = plan.share((32, 32))[0, 0].view(4, 8, 4, 8).mean((1, 3))
    weight = float((patch * attention[0]).sum() / attention[0].sum())
    assert f"AttentionShare(area=0.0): {clean.names[clean.labels[0]]} {weight:.2f}" in description
    share = plan.share((32, 32))[0]
    lit = attention[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
    place(image, as_bytes(coloured(share) * (lit / lit.max()).sqrt()))


@pytest.mark.parametrize(
    ("policy", "more", "words"),
    [
        ("CutMix", ("--label", "ActivationShare()"), "reads a network: name one with --network"),
        ("CutMix", ("--label", "CutMix()"), "expected a label policy"),
        ("CutMix", ("--label", "AttentionShare()", "--network", "mini_resnet"), "no attention"),
        ("CutMix", ("--label", "PixelShare()", "--network", "nothing"), "neither a run directory"),
    ],
)
def test_label_policies_that_cannot_be_drawn(folder: Path, policy: str, more: tuple[str, ...], words: str) -> None:
    with pytest.raises(RunError, match=words):
        drawn(folder, policy, *more)


def test_only_the_ratio_changes() -> None:
    """All columns share their other draws, so that a box grows in its place."""
    images = samples.photographs(32)
    columns = samples.at_ratios(CutMix(box="inside"), images, [0.9, 0.5, 0.1], seed=0, count=1)
    own = [sample.share[1] > 0.5 for (sample,) in columns]
    assert [bool((own[k] & ~own[k + 1]).any()) for k in range(2)] == [False, False] or own[0].sum() < own[1].sum()
    assert [round(sample.lam, 2) for (sample,) in columns] == [0.9, 0.5, 0.1]


def test_policy_without_a_ratio_is_drawn_anew() -> None:
    """Where the law decides nothing the columns are different draws, and say the ratio they got."""
    images = samples.photographs(32)
    columns = samples.at_ratios(CutMix(minmax=(0.2, 0.8)), images, [0.1, 0.5, 0.9], seed=0, count=2)
    assert len({sample.lam for column in columns for sample in column}) == 3
    assert all(sample.names[0] != sample.names[1] for column in columns for sample in column)
    widths = samples.at_ratios(SmoothMix(), images, [0.3, 0.7], seed=0, count=1)  # its law is not one of ratios
    assert [column[0].lam for column in widths] == [
        samples.mix(SmoothMix(pairing=Roll()), images, k)[0].lam for k in (0, 1)
    ]
    fitted = samples.at_ratios(SmoothMix(fit=True), images, [0.3, 0.7], seed=0, count=1)
    assert [column[0].weights[0] for column in fitted] == pytest.approx([0.3, 0.7], abs=0.01)
    puzzles = samples.at_ratios(PuzzleMix(blocks=7, saliency=FineGrained()), samples.photographs(28), [0.3], 0, 1)
    assert puzzles[0][0].lam == pytest.approx(0.3)
    assert [sample.lam for (sample, _) in samples.at_ratios(NoMix(), images, [0.1, 0.9], 0, 2)] == [1.0, 1.0]


def test_choices_get_a_block_each(folder: Path) -> None:
    """Every member of a choice is drawn, with how often it comes."""
    choice = OneOf([MixUp(alpha=0.2), Sometimes(CutMix(), p=0.5)], weights=[1, 3])
    assert samples.members(choice) == [(MixUp(alpha=0.2), 0.25), (CutMix(), 0.375), (NoMix(), 0.375)]
    one, _ = drawn(folder, "MixUp", "--ratios", "0.5", "--count", "1")
    three, told = drawn(folder, repr(choice), "--ratios", "0.5", "--count", "1")
    assert three.shape[0] > 2 * one.shape[0]
    assert told.startswith(repr(choice))


def test_images_of_different_classes_first(folder: Path) -> None:
    """A tree names its classes; a flat folder's images are their own."""
    assert sorted(samples.from_folder(folder, 2, 8).names) == ["cat", "dog"]
    assert samples.from_folder(folder, 9, 8).labels.bincount().tolist() == [2, 1]
    assert sorted(samples.from_folder(folder / "cat", 9, 8).names) == ["1", "2"]


def test_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``show all`` draws every policy that needs neither file nor network, names the others, and stays small."""
    show.main(["all", "--out", str(tmp_path / "all.png")])
    assert (tmp_path / "all.png").stat().st_size < 1_000_000
    with Image.open(tmp_path / "all.png") as image:
        told = image.info["Description"]
        assert image.width < image.height < 2 * image.width, "a page that a screen can show as a whole"
    left_out = capsys.readouterr().err
    assert {name for name in names("policy") if f"\n{name}(" not in f"\n{told}"} == set(
        re.findall(r"^not drawn: (\w+):", left_out, re.MULTILINE)
    )
    assert "LearnedMask: LearnedMask needs the file" in left_out and "SuperMix: SuperMix needs a network" in left_out
    assert left_out.count("\n") == 2


def test_gallery_leaves_few_gaps() -> None:
    """Every entry is placed once, in the first row with room; only an entry that is too wide exceeds the width."""
    widths = [1, 3, 2, 9, 1, 12, 3, 3, 2]
    found = gallery.arranged(widths, across=9)
    assert sorted(place for shelf in found for place in shelf) == list(range(len(widths)))
    used = [sum(widths[k] for k in shelf) for shelf in found]
    assert used == [9, 9, 12, 6]


def test_contrast_stands_in_for_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy whose saliency needs a model is drawn with image contrast, and one line says so."""
    for policy, source in (
        ("SnapMix", "ClassActivation()"),
        ("OneOf((MixUp(), AttentiveMix()))", "Activation()"),
        ("SaliencyMix(saliency=InputGradient())", "InputGradient()"),
    ):
        _, told = drawn(folder, policy, "--ratios", "0.5", "--count", "1")
        said = capsys.readouterr().err
        assert said == f"Drawn without a model: image contrast, SpectralResidual(), replaces {source}.\n"
        assert "lam" in told
    drawn(folder, "SaliencyMix", "--ratios", "0.5", "--count", "1")
    assert capsys.readouterr().err == ""


def test_policies_made_of_others_are_drawn_part_by_part() -> None:
    """Schedules are drawn as they go, choices by what they choose, and what no ratio changes only once."""
    images = samples.photographs(32)

    def drawn_as(policy: BatchPolicy) -> dict[str, float]:
        row = gallery.columns(policy, images, [0.2, 0.5, 0.8], seed=0)
        return {words: round(sample.weights[0], 1) for words, sample in row}

    assert drawn_as(Switch({0.0: MixUp(), 0.5: NoMix()})) == {"progress 0: MixUp()": 0.5, "progress 0.5: NoMix()": 1.0}
    stages = (("MixUp()", 0), ("MixUp(alpha=2.0)", 0.5), ("MixUp(alpha=3.0)", 1))
    ramp = drawn_as(MixUp(alpha=Linear(1.0, 3.0)))
    assert list(ramp) == [f"progress {progress}: {policy}" for policy, progress in stages]
    assert list(drawn_as(Sometimes(MixUp(), p=0.2))) == ["20 % of the time: MixUp()", "80 % of the time: NoMix()"]
    assert drawn_as(MixUp()) == {"lam 0.20": 0.2, "lam 0.50": 0.5, "lam 0.80": 0.8}
    assert len(drawn_as(GuidedMix())) == 1


def test_strip_of_the_readme_is_current() -> None:
    """The README's strip shows today's policies with today's weights."""
    script = runpy.run_path(str(DOCS / "make_strip.py"))
    drawn_now = script["drawn"]()
    assert (DOCS / "strip.png").stat().st_size < script["LARGEST"]
    with Image.open(DOCS / "strip.png") as kept, Image.open(BytesIO(drawn_now)) as now:
        assert kept.info["Description"] == now.info["Description"], "docs/strip.png is old: python docs/make_strip.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CutMax"], "did you mean CutMix"),
        (["CutMix(alpha=-1)"], "must be a positive finite number"),
        (["Roll()"], "expected a mixing policy"),
        (["SUMix"], "expected a mixing policy"),
        (["PuzzleMix(blocks=300)"], "300 blocks per side"),
        (["GuidedMix(sigma=0)"], "sigma must be"),
        (["MixUp", "--out", "grid.jpg"], r"ends in .png, but got grid.jpg"),
        (["MixUp", "--ratios", "2"], "between 0 and 1, but got 2 "),
        (["MixUp", "--ratios", "nan"], "between 0 and 1, but got nan "),
        (["MixUp", "--ratios", "half"], "argument --ratios: invalid float value: 'half'"),
        (["MixUp", "--size", "0"], "at least 1, but got 0 "),
        (["MixUp", "--size", "999999999"], "at most 4096, but got 999999999 "),
        (["MixUp", "--seed", "9" * 30], "expected a whole number between 0 and 9223372036854775807, but got '99999"),
        (["MixUp", "--seed", "1" * 5000], "expected a whole number between 0 and 9223372036854775807, but got '11111"),
        (["all", "--count", "-1"], "at least 1, but got -1 "),
        (["MixUp", "--images", "{tmp}/none"], "no folder"),
        (["MixUp", "--images", "{tmp}"], "no images in"),
        (["MixUp", "--images", "{tmp}/broken"], r"cannot read the image .*broken.(cut|text).png"),
        (["MixUp", "--images", "{tmp}/one"], "1 images in"),
        (["MixUp", "--size", "16", "--out", "{tmp}/file.txt/grid.png"], "cannot write"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    """Mistakes in arguments and images are reported in one sentence."""
    for name in ("broken", "one"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").write_text("no folder")
    Image.new("RGB", (64, 64)).save(tmp_path / "one" / "image.png")
    whole = (tmp_path / "one" / "image.png").read_bytes()
    (tmp_path / "broken" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "broken" / "text.png").write_text("no image")
    if arguments[-1] == "{tmp}":
        (tmp_path / "one" / "image.png").unlink()
        for path in (tmp_path / "broken").iterdir():
            path.unlink()
    with pytest.raises(RunError, match=message) as error:
        show.main([word.replace("{tmp}", str(tmp_path)) for word in arguments])
    assert "\n" not in str(error.value)
