"""Bad input gets one clear sentence: what was expected, what came, what to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mixwell as mw
from cases import fixed_classifier
from catalogue import CLASSES, POLICIES
from mixwell import BoxPlan, Pairs, Plan, Policy

IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.arange(4)
PLAN = mw.CutMix().draw(IMAGES, LABELS)
MIXED = mw.MixUp(pairing=mw.Roll())(IMAGES, LABELS)


class ThreeWay(Policy):
    """Pastes two images into a third."""

    def plan(self, pairs: Pairs) -> BoxPlan:
        """See :meth:`Policy.plan`."""
        partner = torch.stack((pairs.partner, pairs.partner.roll(1)), 1)
        boxes = torch.tensor([[[0, 4, 0, 4], [4, 8, 4, 8]]])
        return BoxPlan(Pairs(partner, pairs.lam, pairs.size), boxes)


def refused(do: Callable[[], Any], kind: type[Exception], *words: str) -> None:
    """Check the type and the words of an error, and that it is one line that a person can read."""
    with pytest.raises(kind) as error:
        do()
    message = str(error.value)
    assert type(error.value) is kind
    for word in words:
        assert word in message, message
    assert "\n" not in message and 20 < len(message) < 1000, message


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize(
    ("images", "labels", "kind", "words"),
    [
        (IMAGES, LABELS[:3], ValueError, ["one entry per image", "3", "4 images"]),
        (IMAGES, LABELS.to(torch.complex64), TypeError, ["real numbers", "torch.complex64", "class indices (B,)"]),
        (IMAGES, torch.eye(len(LABELS)).to(torch.complex128), TypeError, ["real numbers", "torch.complex128"]),
        (IMAGES, LABELS.float(), TypeError, ["int64", "torch.float32", "labels[:, None]"]),
        (IMAGES, LABELS.int(), TypeError, ["int64", "torch.int32", "labels.long()"]),
        (IMAGES, LABELS[:, None], TypeError, ["torch.int64", "labels.squeeze(1)"]),
        (IMAGES, LABELS.bool(), TypeError, ["int64", "torch.bool"]),
        (IMAGES, torch.zeros(4, 7, dtype=torch.int64), TypeError, ["dense labels", "floating point", "labels.float()"]),
        (IMAGES, torch.zeros(4, 2, 7), ValueError, ["(B,)", "(B, N)", "(4, 2, 7)"]),
        (IMAGES, torch.tensor(3), ValueError, ["(B,)", "()"]),
        (IMAGES, [0, 1, 2, 3], TypeError, ["labels", "tensor", "list", "use torch.tensor(labels)"]),
        (IMAGES, tuple(LABELS), TypeError, ["tensor", "tuple", "use torch.stack(labels)"]),
        (IMAGES, ["ant", "bee", "ant", "bee"], TypeError, ["list", "number the classes", "names.index(label)"]),
        (IMAGES, np.array(["ant", "bee"] * 2), TypeError, ["ndarray", "number the classes"]),
        (IMAGES, np.array(1), TypeError, ["ndarray", "use torch.tensor(labels)"]),
        (IMAGES[0], LABELS, ValueError, ["(B, C, H, W)", "(3, 8, 8)"]),
        (IMAGES[None], LABELS, ValueError, ["(B, C, H, W)", "(1, 4, 3, 8, 8)", "AnyShape(policy, dims=2)"]),
        (IMAGES[:, :, 0], LABELS, ValueError, ["(4, 3, 8)", "images[:, None]", "AnyShape(policy, dims=1)"]),
        (torch.rand(4, 32, 40, 3), LABELS, ValueError, ["(B, H, W, C)", "images.permute(0, 3, 1, 2)"]),
        (torch.zeros(4, 32, 32, 1).byte(), LABELS, ValueError, ["(B, H, W, C)", "(4, 32, 32, 1)"]),
        (IMAGES[:0], LABELS[:0], ValueError, ["empty", "(0, 3, 8, 8)"]),
        (IMAGES[..., :0], LABELS, ValueError, ["empty", "(4, 3, 8, 0)"]),
        (IMAGES.long(), LABELS, TypeError, ["floating point or uint8", "torch.int64", "apply_segmentation"]),
        (IMAGES > 0, LABELS, TypeError, ["floating point or uint8", "torch.bool"]),
        (IMAGES.numpy(), LABELS, TypeError, ["images", "tensor", "ndarray"]),
    ],
)
def test_bad_batch(policy: mw.BatchPolicy, images: Any, labels: Any, kind: type[Exception], words: list[str]) -> None:
    """Every policy looks at its batch before it does anything."""
    refused(lambda: policy(images, labels), kind, *words)
    refused(lambda: policy.draw(images, labels), kind, *words)


@pytest.mark.parametrize("shape", [(4, 8), (3, 8, 8), (4, 1, 8, 8)])
def test_bad_saliency(shape: tuple[int, ...]) -> None:
    """Maps have one row per image and no channels, from wherever they come."""
    maps = torch.rand(shape)
    refused(lambda: mw.SaliencyMix()(IMAGES, LABELS, saliency=maps), ValueError, "(4, h, w)", str(shape))
    policy = mw.SaliencyMix(saliency=lambda model, images, labels: maps)
    refused(lambda: policy(IMAGES, LABELS), ValueError, "(4, h, w)", str(shape))
    assert mw.MixUp()(IMAGES, LABELS, saliency=torch.rand(4, 2, 2)).images.shape == IMAGES.shape


def test_nothing_to_look_at() -> None:
    """Policies that need maps, and sources that need a model, say so."""
    needy = mw.SaliencyMix(saliency=None)
    refused(lambda: needy(IMAGES, LABELS), ValueError, "saliency", "(B, h, w)", "FineGrained()")
    gradient = mw.SaliencyMix(saliency=mw.InputGradient())
    refused(lambda: gradient(IMAGES, LABELS), ValueError, "model=", "saliency=")
    bytes_ = (IMAGES * 255).byte()
    refused(lambda: gradient(bytes_, LABELS, model=fixed_classifier()), ValueError, "floating-point", "torch.uint8")
    refused(lambda: Pairs(LABELS, torch.ones(1), (8, 8)).rand(1), ValueError, "without a batch")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mw.MixUp(alpha=0), ["alpha", "positive", "0"]),
        (lambda: mw.CutMix(alpha=-1.0), ["alpha", "positive", "-1.0"]),
        (lambda: mw.MixUp(alpha=float("nan")), ["alpha", "positive", "nan"]),
        (lambda: mw.FMix(alpha=-0.5, reformulated=True), ["positive", "-0.5"]),
        (lambda: mw.Beta(1.0, beta=0.0), ["beta", "positive", "0.0"]),
        (lambda: mw.Beta(1e-320), ["alpha", "1e-300 to 1e+300", "1e-320"]),
        (lambda: mw.Beta(1.0, beta=1e308), ["beta", "1e-300 to 1e+300", "1e+308"]),
        (lambda: mw.Uniform(0.8, 0.2), ["low", "high", "0.8", "0.2"]),
        (lambda: mw.Uniform(0.1, 1.2), ["1.2"]),
        (lambda: mw.Constant(1.5), ["[0, 1]", "1.5"]),
        (lambda: mw.MixUp(scope="image"), ["scope", "batch, sample, pair", "image"]),
        (lambda: mw.CutMix(scope="pair"), ["Reverse()", "Permutation()"]),
        (lambda: mw.CutMix(box="middle"), ["clip, inside", "middle"]),
        (lambda: mw.CutMix(odd="even"), ["floor", "exact", "even"]),
        (lambda: mw.CutMix(minmax=(0.8, 0.2)), ["minmax", "(0.8, 0.2)"]),
        (lambda: mw.CutMix(minmax=(0.2, 1.5)), ["every entry of minmax", "[0, 1]", "1.5"]),
        (lambda: mw.SaliencyMix(temperature=0.5), ["temperature", "draw_centre=True"]),
        (lambda: mw.CutMix(aspect=(0.0, 2.0)), ["aspect", "positive", "0.0"]),
        (lambda: mw.CutMix(aspect=(2.0, 1.0)), ["aspect", "order"]),
        (lambda: mw.ResizeMix(box="middle"), ["inside, clip", "middle"]),
        (lambda: mw.ResizeMix(interpolation="bicubic"), ["nearest, bilinear, area", "bicubic"]),
        (lambda: mw.FMix(spectrum="pink"), ["isotropic, published", "pink"]),
        (lambda: mw.FMix(soft=0.6), ["soft", "0.5", "0.6"]),
        (lambda: mw.FMix(alpha=mw.Beta(1.0), reformulated=True), ["number", "Beta()"]),
        (lambda: mw.SaliencyMix(levels=0), ["levels", "0"]),
        (lambda: mw.SaliencyMix(box="middle"), ["clip, inside", "middle"]),
        (lambda: mw.OneOf([]), ["policies", "[]"]),
        (lambda: mw.OneOf([mw.MixUp()], weights=[1, 2]), ["one weight per policy", "[1, 2]", "1 policies"]),
        (lambda: mw.OneOf([mw.MixUp(), mw.CutMix()], weights=[1, -1]), ["every entry of weights", "at least 0", "-1"]),
        (lambda: mw.OneOf([mw.MixUp(), mw.CutMix()], weights=[0, 0]), ["not all zero"]),
        (lambda: mw.OneOf([mw.MixUp()], scope="pair"), ["Reverse()", "pair"]),
        (lambda: mw.Sometimes(mw.CutMix(), p=1.5), ["p must lie in [0, 1]", "1.5"]),
        (lambda: mw.Sometimes(mw.CutMix(), p=float("nan")), ["p must lie in [0, 1]", "nan"]),
        (lambda: mw.Sometimes(mw.CutMix(), scope="pair"), ["Reverse()", "pair"]),
    ],
)
def test_bad_setting(make: Callable[[], Any], words: list[str]) -> None:
    """Settings are checked where they are written."""
    refused(make, ValueError, *words)


def test_bad_pairing() -> None:
    """Given partners fit the batch."""
    short, wrong = mw.MixUp(pairing=mw.Given([1, 0])), mw.MixUp(pairing=mw.Given([1, 0, 2, 4]))
    refused(lambda: short(IMAGES, LABELS), ValueError, "2 partners", "4 images")
    refused(lambda: wrong(IMAGES, LABELS), ValueError, "between 0 and 3", "4")


def test_plan_of_another_batch() -> None:
    """A plan says which batch it was drawn for."""
    for apply in (PLAN.apply, PLAN.apply_segmentation):
        refused(lambda apply=apply: apply(IMAGES[:3]), ValueError, "4 images", "3")
    refused(lambda: PLAN.apply(IMAGES[0]), ValueError, "(B, C, H, W)", "(3, 8, 8)")
    refused(lambda: PLAN.apply(IMAGES.long()), TypeError, "floating point or uint8", "apply_segmentation")


@pytest.mark.parametrize(
    ("out", "word"),
    [
        (torch.empty(3, 3, 8, 8), "(3, 3, 8, 8)"),
        (torch.empty(4, 3, 8, 9), "(4, 3, 8, 9)"),
        (torch.empty(4, 3, 8, 8, dtype=torch.float64), "torch.float64"),
        (torch.empty(4, 3, 8, 8, device="meta"), "meta"),
    ],
)
def test_bad_buffer(out: torch.Tensor, word: str) -> None:
    """A buffer is like the images."""
    refused(lambda: PLAN.apply(IMAGES, out), ValueError, "out", "(4, 3, 8, 8)", word)
    refused(lambda: mw.MixUp()(IMAGES, LABELS, out=out), ValueError, "out", word)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 2, 8, 8), (3, 1, 8, 8), (4, 1, 9, 8)])
def test_bad_mask(shape: tuple[int, ...]) -> None:
    """A mask is one map per image or one for all, at most as fine as the images."""
    pairs = Pairs(LABELS.flip(0), torch.rand(4), (8, 8))
    refused(lambda: mw.MaskPlan(pairs, torch.rand(shape)), ValueError, "(4, 1, h, w)", "8 x 8", str(shape))
    moves = torch.zeros(4, 2, 9, dtype=torch.int64)
    plan = mw.PatchPlan(pairs, torch.rand(4, 1, 3, 3), moves)
    refused(lambda: plan.apply(IMAGES), ValueError, "3 x 3 cells", "(8, 8)")


def test_bad_plan_state() -> None:
    """Only what was saved is read as a plan."""
    saved = PLAN.state_dict()
    for state in ({}, {"kind": "BoxPlan"}, saved | {"kind": "Method"}, saved | {"more": 1}):
        refused(lambda state=state: Plan.from_state_dict(state), ValueError, "saved plan", "BoxPlan")


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: MIXED.targets(3), ["between 0 and 2", "0 to 3", "num_classes"]),
        (lambda: mw.cross_entropy(torch.zeros(4, 3), MIXED), ["between 0 and 2", "0 to 3"]),
        (lambda: mw.binary_cross_entropy(torch.zeros(4, 3), MIXED), ["between 0 and 2", "0 to 3"]),
        (lambda: mw.MixUp()(IMAGES, LABELS - 1).targets(4), ["between 0 and 3", "-1 to 2"]),
        (lambda: mw.MixUp()(IMAGES, torch.rand(4, 5)).targets(6), ["5 classes", "6"]),
        (lambda: mw.cross_entropy(torch.zeros(4, 6), mw.MixUp()(IMAGES, torch.rand(4, 5))), ["5 classes", "6"]),
        (lambda: mw.cross_entropy(torch.zeros(3, 5), MIXED), ["(4, N)", "(3, 5)"]),
        (lambda: mw.cross_entropy(torch.zeros(4, 5, 2), MIXED), ["(4, N)", "(4, 5, 2)"]),
        (lambda: mw.cross_entropy(torch.zeros(4, 5), MIXED, reduction="average"), ["mean, sum or none", "average"]),
        (lambda: mw.binary_cross_entropy(torch.zeros(4, 5), MIXED, classes="max"), ["mean or sum", "max"]),
    ],
)
def test_bad_labels_for_a_loss(use: Callable[[], Any], words: list[str]) -> None:
    """Labels and logits fit each other."""
    refused(use, ValueError, *words)


def test_plain_labels_for_a_loss_or_a_plan() -> None:
    """Losses take what a policy returns, a plan as many labels as it has rows."""
    refused(lambda: mw.cross_entropy(torch.zeros(4, 5), LABELS), TypeError, "that a policy returns", "Tensor")  # type: ignore[arg-type]
    refused(lambda: PLAN.source_labels(LABELS[:3]), ValueError, "for 4 images", "3 labels")


def test_two_source_method_over_three_sources() -> None:
    """What compares an anchor with one partner says so when there are two; what does not goes on."""
    policy = ThreeWay()
    mixed = policy(IMAGES, LABELS)
    assert mixed.weights.shape == (4, 3) and mixed.labels.shape == (4, 3)
    torch.testing.assert_close(mixed.targets(4).sum(1), torch.ones(4))
    assert bool(mw.Mixing(fixed_classifier(), policy)(IMAGES, LABELS)["loss"].isfinite())
    for method in (mw.SUMix, mw.Mixing):
        settings = {"label": mw.SemanticShare()} if method is mw.Mixing else {"num_classes": CLASSES}
        step = method(fixed_classifier(), policy, **settings)
        refused(lambda step=step: step(IMAGES, LABELS), ValueError, "3 sources", "two-source policy")
    either = mw.OneOf([policy, mw.MixUp()], scope="sample")
    refused(lambda: either(IMAGES, LABELS), ValueError, "per sample", "two", "3")
    assert mw.OneOf([policy, mw.MixUp()])(IMAGES, LABELS).images.shape == IMAGES.shape


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Cutmix", ["Unknown name 'Cutmix'", "did you mean CutMix?"]),
        ("CuttMix(alpha=0.2)", ["did you mean CutMix?"]),
        ("SaliencyMix(saliency=FineGrain())", ["did you mean FineGrained?"]),
        ("CutMix(alfa=0.2)", ["CutMix has no setting 'alfa'", "did you mean alpha?"]),
        ("CutMix(alpha=0)", ["positive"]),
        ("CutMix(0.2)", ["CutMix"]),
        ("Qwertz", ["Unknown name", "names(kind)"]),
        ("x" * 1000, ["Unknown name 'xxx", "..."]),
        ("", ["CutMix(alpha=0.2)"]),
        ("CutMix(alpha=", ["CutMix(alpha=0.2)"]),
        ("CutMix(alpha=0.2); MixUp()", ["CutMix(alpha=0.2)"]),
    ],
)
def test_bad_text(text: str, words: list[str]) -> None:
    """Text that names no object gets the nearest right name."""
    refused(lambda: mw.parse(text), ValueError, *words)


HOSTILE = [
    "__import__('os').system('true')",
    "CutMix.__class__",
    "CutMix().__class__.__bases__[0].__subclasses__()",
    "CutMix(alpha=().__class__.__bases__)",
    "CutMix(alpha=open('x'))",
    "CutMix(alpha=eval('1'))",
    "CutMix(alpha=(lambda: 1)())",
    "CutMix(alpha=[x for x in (1,)][0])",
    "CutMix(alpha={x: x for x in (1,)})",
    "CutMix(alpha=f'{1}')",
    "CutMix(alpha=(y := 0.2))",
    "CutMix(alpha=0.2 if True else 1)",
    "CutMix(alpha=2 ** 9999999)",
    "CutMix(alpha=9 * (9,))",
    "CutMix(alpha='a' * 10 ** 9)",
    "CutMix(**{'alpha': 0.2})",
    "CutMix(*[0.2])",
    "OneOf([*MixUp()])",
    "(CutMix)(alpha=0.2)()",
    "Policy()",
    "Value()",
    "nn.Module()",
    "globals()",
    "lambda: 0",
    "exec",
    "CutMix(saliency=print)",
    "OneOf([MixUp(), print('x')])",
    "MixUp(alpha=Constant(await x))",
    "(" * 5000 + ")" * 5000,
    "OneOf([" * 300 + "MixUp()" + "])" * 300,
    "MixUp(alpha=" + "-" * 100_000 + "1)",
    "Folded(" * 2000 + "Beta()" + ")" * 2000,
    "MixUp(alpha=1" + "0" * 5000 + ")",
    "Mix\0Up()",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:40].encode("ascii", "backslashreplace").decode())
def test_hostile_text(text: str) -> None:
    """Text is never run: whatever is no constructor with literals is refused, in no time."""
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"Expected|Unknown|has no setting|cannot be made") as error:
        mw.parse(text)
    assert time.perf_counter() - start < 2
    assert len(str(error.value)) < 2000


def test_unknown_kind() -> None:
    """There are only so many kinds of names."""
    refused(lambda: mw.names("colour"), ValueError, "policy", "colour")
