"""Everything there is, each once, with the settings that change what it does: a new policy adds its lines here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from mixwell import (
    BatchPolicy,
    Beta,
    Constant,
    CutMix,
    Derangement,
    FineGrained,
    FMix,
    Folded,
    Given,
    InputGradient,
    LabelPolicy,
    Method,
    Mixing,
    MixUp,
    NoMix,
    OneOf,
    Pairing,
    Permutation,
    PixelShare,
    Ratio,
    ResizeMix,
    Reverse,
    Roll,
    Saliency,
    SaliencyMix,
    SemanticShare,
    Sometimes,
    SpectralResidual,
    SUMix,
    Uniform,
)

POLICIES: list[BatchPolicy] = [
    NoMix(),
    MixUp(),
    MixUp(alpha=0.2, scope="sample"),
    MixUp(alpha=Folded(Beta(0.8)), pairing=Reverse(), scope="pair"),
    CutMix(),
    CutMix(alpha=0.2, scope="sample", odd="exact"),
    CutMix(pairing=Reverse(), scope="pair", box="inside"),
    CutMix(scope="sample", box="inside", aspect=(0.3, 3.0)),
    CutMix(scope="sample", aspect=(0.5, 2.0), odd="exact"),
    CutMix(minmax=(0.2, 0.8)),
    CutMix(minmax=(0.0, 1.0), scope="sample"),
    CutMix(correct_lam=False, scope="sample"),
    FMix(),
    FMix(scope="sample", soft=0.2),
    FMix(scope="sample", decay=1.5, alpha=0.2),
    FMix(spectrum="published", reformulated=True),
    FMix(spectrum="published", scope="sample", soft=0.5),
    ResizeMix(),
    ResizeMix(scope="sample", box="clip"),
    ResizeMix(scope="sample", interpolation="bilinear"),
    ResizeMix(scope="sample", interpolation="area", alpha=Beta(1.0)),
    ResizeMix(box="clip", interpolation="bilinear"),
    SaliencyMix(),
    SaliencyMix(scope="batch", levels=255, saliency=FineGrained(channels="bgr", wrap=True)),
    SaliencyMix(box="inside", draw_centre=True, saliency=SpectralResidual()),
    SaliencyMix(saliency=InputGradient(), draw_centre=True, alpha=0.2),
    OneOf([MixUp(), CutMix(alpha=0.2), NoMix()], weights=[1, 2, 1]),
    OneOf([MixUp(alpha=0.2), CutMix(), FMix(soft=0.1)], scope="sample"),
    OneOf([CutMix(), FMix(), NoMix()], scope="sample", pairing=Derangement()),
    OneOf([ResizeMix(), MixUp(), SaliencyMix()], scope="sample"),
    Sometimes(CutMix(scope="sample")),
    Sometimes(MixUp(scope="sample"), p=0.3, scope="sample"),
    Sometimes(OneOf([ResizeMix(), CutMix()], scope="sample"), p=0.8, scope="sample"),
]

SALIENCIES: list[Saliency] = [
    SpectralResidual(),
    SpectralResidual(max_size=5),
    FineGrained(),
    FineGrained(mean=0.5, std=0.25),
    FineGrained(channels="bgr", wrap=True, max_size=None),
    InputGradient(),
]

PAIRINGS: list[Pairing] = [
    Permutation(),
    Derangement(),
    Roll(),
    Roll(-2),
    Reverse(),
    Given([2, 2, 0, 4, 4]),
]

RATIOS: list[Ratio] = [
    Beta(),
    Beta(0.2),
    Beta(0.05),
    Beta(8.0),
    Beta(2.0, beta=1.0),
    Uniform(),
    Uniform(0.1, 0.8),
    Constant(0.3),
    Folded(Beta(0.4)),
    Folded(Uniform(0.2, 0.9)),
]

LABELS: list[LabelPolicy] = [
    PixelShare(),
    SemanticShare(),
    SemanticShare(similarity="released", kappa=0.5),
    SemanticShare(similarity="agreement", kappa=0.5),
]

CLASSES = 7
METHODS: list[Callable[[nn.Module, BatchPolicy], Method]] = [
    partial(Mixing, num_classes=CLASSES),
    partial(Mixing, num_classes=CLASSES, label=SemanticShare()),
    partial(SUMix, num_classes=CLASSES),
    partial(SUMix, num_classes=CLASSES, is_norm=False, similarity="agreement", form="exp", smoothing=0.1),
    partial(SUMix, num_classes=CLASSES, clean_grad=True, clean_ce=0.5, clean_statistics=True),
    partial(SUMix, num_classes=CLASSES, reference_compat=True),
]
