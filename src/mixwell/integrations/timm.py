"""``timm.data.Mixup`` and ``FastCollateMixup`` with the same arguments and draws, and with any policy of mixwell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.data import mixup as timm_mixup
from torch import Tensor
from torch.utils.data import default_collate

from mixwell.batch import Batch, MixedBatch, Pairs
from mixwell.normalization import Normalization
from mixwell.pairing import Reverse
from mixwell.plan import BlendPlan, BoxPlan, Plan, choose_per_sample
from mixwell.policy import BatchPolicy, Model, NoMix


class Mixup(timm_mixup.Mixup):
    """``timm.data.Mixup`` that also takes any policy of mixwell.

    The ratios and boxes are those of timm, drawn by timm from NumPy's global generator: after the same
    ``np.random.seed``, targets and blended images equal timm's up to rounding, and pasted images exactly. Three things
    differ: batches of odd size work (the middle image is mixed with itself), the caller's images are not overwritten,
    and uint8 images can be mixed.

    Args:
        mixup_alpha: Alpha of MixUp's Beta distribution; MixUp is active if it is positive.
        cutmix_alpha: Alpha of CutMix's Beta distribution; CutMix is active if it is positive.
        cutmix_minmax: Smallest and largest side of CutMix's box as shares of the image's, used instead of
            ``cutmix_alpha``.
        prob: Probability of mixing a batch, a pair or an image.
        switch_prob: Probability of CutMix where both are active.
        mode: Draw once per ``"batch"``, per ``"pair"`` of images that are mixed with each other, or per image,
            ``"elem"``.
        correct_lam: Compute CutMix's label weights from the pasted area.
        label_smoothing: Share of the labels' mass that is spread over all classes, in [0, 1).
        num_classes: Number of classes.
        multi_label: Labels are dense ``(B, num_classes)``, and smoothing moves every one of them towards 0.5.
        policy: Any policy, in place of MixUp and CutMix. The arguments from ``mixup_alpha`` to ``correct_lam`` are then
            ignored, and torch draws all numbers.
        model: The classifier, for policies that run it to find salient regions.
        normalization: How the images were normalized, for policies that compute in pixel values.

    Attributes:
        mixup_enabled: False switches mixing off, as timm's training script does for the last epochs.

    Raises:
        ValueError: The mode is unknown, ``cutmix_minmax`` does not hold two shares, or no kind of mixing is active.

    Example:
        >>> from mixwell import ResizeMix
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> mixed, targets = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=10)(images, labels)
        >>> targets.shape
        torch.Size([4, 10])
        >>> mixed, targets = Mixup(policy=ResizeMix(), num_classes=10)(images, labels)
    """

    modes = ("batch", "pair", "elem")
    always_boxes = False  # whether a batch with the ratio 1 draws a box too

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        multi_label: bool = False,
        *,
        policy: BatchPolicy | None = None,
        model: Model | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        if cutmix_minmax is not None and len(cutmix_minmax) != 2:
            raise ValueError(f"cutmix_minmax must hold two shares of the side, but got {cutmix_minmax}.")
        if mode not in self.modes:
            raise ValueError(f"mode must be one of {', '.join(self.modes)}, but got {mode!r}.")
        if policy is None and cutmix_minmax is None and not (mixup_alpha > 0 or cutmix_alpha > 0):
            raise ValueError("Nothing to mix: set mixup_alpha, cutmix_alpha, cutmix_minmax or policy.")
        super().__init__(
            mixup_alpha, cutmix_alpha, cutmix_minmax, prob, switch_prob, mode, correct_lam, label_smoothing, num_classes
        )
        self.multi_label = multi_label  # older versions of timm do not take it
        self.policy = policy
        self.model = model
        self.normalization = normalization

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            x: Images, shape ``(B, C, H, W)``, floating point or uint8.
            target: Class indices ``(B,)``, or dense labels ``(B, num_classes)``.

        Returns:
            Mixed images, and dense targets ``(B, num_classes)``, float32, for ``SoftTargetCrossEntropy``.

        Raises:
            ValueError: Labels do not fit the batch or ``num_classes``.
        """
        mixed = self.mix(x, target)
        return mixed.images, self.targets(mixed)

    def mix(self, x: Tensor, target: Tensor) -> MixedBatch:
        """Mix a batch and return it with the labels of all sources and their weights, for the losses of mixwell.

        Example:
            >>> from mixwell import cross_entropy
            >>> mixed = Mixup(num_classes=10).mix(torch.rand(4, 3, 8, 8), torch.arange(4))
            >>> cross_entropy(torch.zeros(4, 10), mixed, smoothing=0.1)
            tensor(2.3026)
        """
        if self.multi_label:
            if target.dim() != 2 or target.shape[1] != self.num_classes:
                expected = (len(x), self.num_classes)
                raise ValueError(f"multi_label=True needs dense labels {expected}, but got {tuple(target.shape)}.")
            target = target.float()
        if self.policy is not None:
            policy = self.policy if self.mixup_enabled else NoMix()
            return policy(x, target, model=self.model, normalization=self.normalization)
        plan = self._draw(Batch(x, target))
        return MixedBatch(plan.apply(x), plan.source_labels(target), plan.weights, plan)

    def targets(self, mixed: MixedBatch) -> Tensor:
        """Return the smoothed dense targets of a batch that :meth:`mix` returned, ``(B, num_classes)``."""
        return mixed.targets(self.num_classes, self.label_smoothing, 0.5 if self.multi_label else None)

    def _draw(self, batch: Batch) -> Plan:
        if self.mode == "batch":
            lam, cut = self._params_per_batch()
            cut = cut and (lam != 1 or self.always_boxes)
            box, weight = self._box(batch, lam) if cut else ((0, 0, 0, 0), lam)
            return _plan(batch, *map(np.array, ([lam], [weight], [cut], [box])))
        rows = len(batch) if self.mode == "elem" else len(batch) // 2
        lam, cut = self._params_per_elem(rows)
        weight, boxes = lam.copy(), np.zeros((rows, 4), dtype=np.int64)
        for row in np.flatnonzero(cut & (lam != 1)):
            boxes[row], weight[row] = self._box(batch, lam[row])
        draws = (lam, weight, cut, boxes)
        if self.mode != "elem":
            # The second row of a pair repeats the first one's draw. The middle row of an odd batch stays unmixed, and
            # with mode="half" all rows after the first half do.
            unmixed = len(batch) - rows - (rows if self.mode == "pair" else 0)
            still = (np.ones(unmixed), np.ones(unmixed), np.zeros(unmixed, dtype=bool), np.zeros((unmixed, 4), int))
            mirrored = [draw[::-1][: rows if self.mode == "pair" else 0] for draw in draws]
            draws = [np.concatenate(parts) for parts in zip(draws, still, mirrored, strict=True)]
        return _plan(batch, *draws)

    def _box(self, batch: Batch, lam: float) -> tuple[tuple[int, int, int, int], float]:
        """Draw a box as (top, bottom, left, right), and return it with the label weight of the anchor."""
        return timm_mixup.cutmix_bbox_and_lam(
            batch.images.shape, lam, ratio_minmax=self.cutmix_minmax, correct_lam=self.correct_lam
        )


class FastCollateMixup(Mixup, timm_mixup.FastCollateMixup):
    """``timm.data.FastCollateMixup`` that also takes any policy: mixes uint8 images while a loader collates them.

    It takes the arguments of :class:`Mixup`. With ``mode="half"`` a batch is half as large as the samples that it was
    collated from: those of the first half, mixed with those of the second. Policies that run a model are better used
    through :class:`Mixup`, after the loader.

    Example:
        >>> rows = [(torch.zeros(3, 8, 8, dtype=torch.uint8), 0), (torch.ones(3, 8, 8, dtype=torch.uint8), 1)]
        >>> images, targets = FastCollateMixup(num_classes=2)(rows)
        >>> images.dtype, targets.shape
        (torch.uint8, torch.Size([2, 2]))
    """

    modes = ("batch", "pair", "elem", "half")
    always_boxes = True

    def __call__(  # type: ignore[override]  # as timm does
        self, batch: Sequence[tuple[Any, Any]], _: object = None
    ) -> tuple[Tensor, Tensor]:
        """Collate and mix samples.

        Args:
            batch: Pairs of an image, a uint8 array or tensor ``(C, H, W)``, and a label.

        Returns:
            Mixed images, uint8, and dense targets, float32.
        """
        images, labels = default_collate(list(batch))
        mixed = self.mix(images, labels)
        rows = len(images) // 2 if self.mode == "half" else len(images)
        return mixed.images[:rows], self.targets(mixed)[:rows]


def _plan(batch: Batch, lam: np.ndarray, weight: np.ndarray, cut: np.ndarray, boxes: np.ndarray) -> Plan:
    """Return the plan of these draws: ratios, label weights, and the rows whose boxes are pasted instead of blended."""
    ratio, weight_of_anchor = (torch.from_numpy(each.astype(np.float32)).to(batch.device) for each in (lam, weight))
    pairs = Pairs(Reverse()(batch), ratio, batch.size)
    if not cut.any():
        return BlendPlan(pairs)
    pasted = BoxPlan(pairs, torch.from_numpy(boxes).to(batch.device), weight=weight_of_anchor)
    if cut.all():
        return pasted
    return choose_per_sample((BlendPlan(pairs), pasted), torch.from_numpy(cut).long().to(batch.device))
